//! The whole repository, verified: what the broker, the verifier and the tools decide with.
//!
//! Nothing is skipped: a target that is not known, not as signed, or not readable refuses the repository.

use std::path::Path;

use touchstone_verifier::anchors::TrustAnchors;
use touchstone_verifier::inventory::Inventory;
use touchstone_verifier::reference::ReferenceSet;
use touchstone_verifier::x509::SubjectKey;

use crate::cedar::Cedar;
use crate::contents::{Contents, Files, MAX_TARGETS, MAX_TOTAL_LEN};
use crate::error::{PolicyCode, PolicyError, Problem};
use crate::expiry;
use crate::floors::{RoleVersions, check_time};
use crate::keyset_file::Keyset;
use crate::layout::TargetKind;
use crate::settings::Settings;
use crate::tuf::{self, Opened};

/// What a repository is held against.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// A root metadata file, of any version, that is trusted; newer roots are followed from it. Without it the
    /// repository's own first root is taken and [`PolicySet::root_pinned`] is false.
    pub root: Option<Vec<u8>>,
    /// The versions accepted last; nothing older is accepted.
    pub floors: Option<RoleVersions>,
    /// The time, Unix seconds, at which a policy was accepted last; an earlier `now` is refused.
    pub last_time: Option<i64>,
}

/// A policy, whole and verified.
#[derive(Debug, Clone)]
pub struct PolicySet {
    /// The domain's name.
    pub domain: String,
    /// The policy version: that of the targets role.
    pub version: u64,
    /// SHA-256 of the signed part of the targets metadata (canonical JSON), which names every target's digest.
    pub digest: [u8; 32],
    /// SHA-256 of the root file that trust began with.
    pub root_digest: [u8; 32],
    /// Whether that root was given by the caller.
    pub root_pinned: bool,
    /// Versions of all roles: the floors for the next load.
    pub versions: RoleVersions,
    /// `settings.toml`.
    pub settings: Settings,
    /// Trust anchors.
    pub anchors: TrustAnchors,
    /// Signed reference values; their validity is judged at each appraisal.
    pub references: ReferenceSet,
    /// Keys whose signatures on measured files count.
    pub ima_keys: Vec<SubjectKey>,
    /// Nodes.
    pub inventory: Inventory,
    /// The broker's keys.
    pub keyset: Keyset,
    /// The Cedar policies, compiled.
    pub cedar: Cedar,
    /// When the first role expires, Unix seconds. The policy is not valid at that second any more.
    pub expires: i64,
}

/// Loads and verifies a repository at `now`, Unix seconds.
///
/// # Errors
/// [`PolicyError`] naming every problem; [`PolicyError::is_io`] tells a failing disk from a bad repository.
pub async fn load(repo: &Path, options: LoadOptions, now: i64) -> Result<PolicySet, PolicyError> {
    check_time(now, options.last_time)?;
    let opened = tuf::open(repo, options.root.as_deref()).await?;
    if let Some(floors) = options.floors {
        opened.versions.not_below(floors)?;
    }
    let expires = expiry::check(&opened.repository, now)?;
    let contents = Contents::read(&read_files(&opened).await?, now)?;
    Ok(PolicySet {
        domain: contents.settings.domain.clone(),
        version: opened.versions.targets,
        digest: opened.targets_digest,
        root_digest: opened.root_digest,
        root_pinned: opened.root_pinned,
        versions: opened.versions,
        settings: contents.settings,
        anchors: contents.anchors,
        references: contents.references,
        ima_keys: contents.ima_keys,
        inventory: contents.inventory,
        keyset: contents.keyset,
        cedar: contents.cedar,
        expires,
    })
}

/// [`load`] for callers without a runtime; may be called from within one too.
///
/// # Errors
/// As [`load`].
pub fn load_blocking(repo: &Path, options: LoadOptions, now: i64) -> Result<PolicySet, PolicyError> {
    tuf::block_on(load(repo, options, now))
}

/// Every target of the signed list, each as signed.
pub(crate) async fn read_files(opened: &Opened) -> Result<Files, PolicyError> {
    let targets = &opened.repository.targets().signed;
    if let Some(role) = targets.delegations.as_ref().and_then(|d| d.roles.first()) {
        let claim = format!("targets version {}", targets.version);
        return Err(PolicyError::new(
            PolicyCode::DelegationUnknown,
            claim,
            "no delegations",
            &role.name,
        ));
    }
    if targets.targets.len() > MAX_TARGETS {
        let expected = format!("at most {MAX_TARGETS}");
        return Err(PolicyError::new(
            PolicyCode::TargetsTooMany,
            "targets",
            expected,
            targets.targets.len(),
        ));
    }
    let mut problems = Vec::new();
    let mut names = Vec::with_capacity(targets.targets.len());
    let mut total = 0u64;
    for (name, target) in &targets.targets {
        match TargetKind::of(name.raw()) {
            Some(kind) if target.length > kind.max_len() => {
                let expected = format!("at most {} bytes", kind.max_len());
                problems.push(Problem::new(
                    PolicyCode::TargetTooLarge,
                    name.raw(),
                    expected,
                    target.length,
                ));
            }
            Some(kind) => {
                total = total.saturating_add(target.length);
                names.push((kind, name));
            }
            None => problems.push(Problem::new(
                PolicyCode::TargetUnknown,
                name.raw(),
                "a known target",
                name.raw(),
            )),
        }
    }
    if total > MAX_TOTAL_LEN {
        let expected = format!("at most {MAX_TOTAL_LEN} bytes");
        problems.push(Problem::new(PolicyCode::TargetTooLarge, "all targets", expected, total));
    }
    PolicyError::unless_empty(problems)?;
    let mut problems = Vec::new();
    let mut files = Files::new();
    for (kind, name) in names {
        match tuf::read_target(&opened.repository, name).await {
            Ok(bytes) => drop(files.insert(kind, bytes)),
            Err(e) => problems.extend(e.into_problems()),
        }
    }
    PolicyError::unless_empty(problems)?;
    Ok(files)
}

#[cfg(test)]
mod tests;
