//! Every integration test of this crate, in one program: linked once, each file a module of its own.

#[path = "../attest/enforcer/cage/support/able.rs"]
mod able;
#[path = "../verifier/tests/azure/mod.rs"]
mod azure;
mod cited;
#[path = "../attest/enforcer/tests/common/mod.rs"]
mod common;
mod containers;
mod dated;
mod deaf_reader;
mod evidence_collect;
mod federation;
#[path = "../firmware-policies/tests/forge/mod.rs"]
mod forge;
mod guest_domain;
mod json_output;
mod key_vault;
mod layers;
mod ledger_since;
mod lineage;
mod live_exec;
mod offline;
mod offline_gpu;
mod offline_regions;
mod offline_snp;
mod offline_tdx;
mod packaging;
mod policy_ceremonies;
mod policy_sets;
mod pure_sources;
mod reasons;
mod transcripts;
