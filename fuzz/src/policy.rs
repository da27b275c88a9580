//! What authors, regions, signers, importers and other domains send of policy.

use touchstone_policies::fuzz;

#[path = "../../keybroker/src/federation/bundle.rs"]
pub mod bundle;

use bundle::Bundle;

/// Settings, lists, what regions say, tests, targets' names.
pub fn files(data: &[u8]) {
    fuzz::files(data);
}

/// A region's Cedar policies.
pub fn cedar(data: &[u8]) {
    fuzz::policy(data);
}

/// Inventories and batches of machines.
pub fn machines(data: &[u8]) {
    fuzz::machines(data);
}

/// Roles and signature files of proposals.
pub fn proposal(data: &[u8]) {
    fuzz::proposal(data);
}

/// Another domain's repository, alone and in a bundle.
pub fn copy(data: &[u8]) {
    fuzz::copy(data);
    if let Ok(bundle) = Bundle::decode(data) {
        assert_eq!(bundle.encode(), data);
    }
}
