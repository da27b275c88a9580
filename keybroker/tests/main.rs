//! Every integration test of this crate, in one program: linked once, each file a module of its own.

mod acks;
mod bootstrap;
mod commands;
mod common;
mod containment;
mod drift;
mod ends;
mod events;
mod federation;
mod flow;
#[path = "../../firmware-policies/tests/forge/mod.rs"]
mod forge;
mod incremental;
mod keys;
mod lifts;
mod lineage;
mod lineage_attacks;
mod new_registers;
mod pkcs11;
mod policy_repository;
mod reconnect;
mod region_names;
mod regions;
mod release;
mod release_lineage;
mod site;
mod site_foreign;
mod standing;
mod taken_back;
mod tenants;
mod transport;
mod trust_state;
mod witness;
mod workloads;
