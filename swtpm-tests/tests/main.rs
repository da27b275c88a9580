//! Every integration test of this crate, in one program: linked once, each file a module of its own.

mod azure_reports;
mod live_attacks;
mod live_attestation;
mod live_bootstrap;
mod live_cvm;
mod live_durability;
mod live_federation;
mod live_forgeries;
mod live_guard_policy;
mod live_incremental;
mod live_inventory;
mod live_policy_diff;
mod live_policy_served;
mod live_proxy;
mod live_release;
mod live_release_cvm;
mod live_replay;
mod live_revocation;
mod live_workloads;
mod make_credential;
#[path = "../../attest/enforcer/tests/common/nginx.rs"]
mod server;
mod tpm_access;
mod tpm_evidence;
mod tpm_faults;
mod vm_boot;
mod vm_bootstrap;
