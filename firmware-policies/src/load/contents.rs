//! What all targets of a repository say together, each checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use touchstone_verifier::anchors::TrustAnchors;
use touchstone_verifier::inventory::Inventory;
use touchstone_verifier::reference::ReferenceSet;
use touchstone_verifier::x509::SubjectKey;
use touchstone_verifier::x509::certificate::CertificateError;

use crate::cedar::Cedar;
use crate::layout::{Files, TargetKind};
use crate::region::{Additions, View};
use crate::settings::Settings;
use crate::targets::detectors_file::Detectors;
use crate::targets::enforcers_file::Enforcers;
use crate::targets::federation_file::Federation;
use crate::targets::keyset_file::Keyset;
use crate::targets::network_file::Network;
use crate::targets::operators_file::Operators;
use crate::targets::tenants_file::Tenants;

/// Most targets in a repository.
pub const MAX_TARGETS: usize = 80_000;
/// Most bytes of all targets together.
pub const MAX_TOTAL_LEN: u64 = 512 << 20;
/// Most trust anchors.
pub const MAX_ANCHORS: usize = 4096;

/// What all targets say together.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    pub settings: Settings,
    pub anchors: Arc<TrustAnchors>,
    pub references: Arc<ReferenceSet>,
    pub inventory: Inventory,
    pub keyset: Keyset,
    pub cedar: Cedar,
    pub ima_keys: Vec<SubjectKey>,
    pub federation: Federation,
    /// What each region may add.
    pub additions: BTreeMap<String, Additions>,
    /// What the nodes of a region are judged by, for each region that says anything of its own.
    pub views: BTreeMap<String, Arc<View>>,
    pub tenants: Tenants,
    pub operators: Operators,
    pub detectors: Detectors,
    pub enforcers: Enforcers,
    pub network: Network,
}

/// Anchors and intermediates of a repository's files.
pub(crate) fn anchors_of(files: &Files) -> Result<TrustAnchors, CertificateError> {
    let anchors = files.iter().filter_map(|(kind, bytes)| match kind {
        TargetKind::Anchor(purpose, _) => Some((*purpose, bytes)),
        _ => None,
    });
    let intermediates = files.iter().filter_map(|(kind, bytes)| match kind {
        TargetKind::Intermediate(purpose, _) => Some((*purpose, bytes)),
        _ => None,
    });
    TrustAnchors::new(anchors)?.with_intermediates(intermediates)
}
