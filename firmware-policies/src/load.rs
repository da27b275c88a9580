//! The whole repository, verified: what the broker, the verifier and the tools decide with.
//!
//! Nothing is skipped: a target that is not known, not as signed, or not readable refuses the repository.

pub(crate) mod contents;
pub(crate) mod read;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use touchstone_verifier::anchors::TrustAnchors;
use touchstone_verifier::inventory::Inventory;
use touchstone_verifier::reference::ReferenceSet;
use touchstone_verifier::x509::SubjectKey;

use crate::cedar::Cedar;
use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::Files;
use crate::layout::{METADATA, TargetKind};
use crate::load::contents::{Contents, MAX_TARGETS, MAX_TOTAL_LEN};
use crate::region::{Additions, View};
use crate::settings::Settings;
use crate::targets::detectors_file::Detectors;
use crate::targets::enforcers_file::Enforcers;
use crate::targets::federation_file::Federation;
use crate::targets::keyset_file::Keyset;
use crate::targets::network_file::Network;
use crate::targets::operators_file::Operators;
use crate::targets::tenants_file::Tenants;
use crate::transport::bounded::{MAX_ROLE_LEN, read_bounded};
use crate::transport::files::RepositoryFiles;
use crate::transport::source::Source;
use crate::tuf::delegation::SignedRegion;
use crate::tuf::expiry::{self, RoleEnd};
use crate::tuf::floors::{RoleVersions, check_time};
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
    /// The time, Unix seconds, by which what is loaded was signed, for who judges the past by what is published now:
    /// snapshot and timestamp end no later than the settings say after it. Without it, and at the earliest, `now`.
    pub made_by: Option<i64>,
}

/// A policy, whole and verified.
#[derive(Debug, Clone)]
pub struct PolicySet {
    /// The domain's name.
    pub domain: String,
    /// The policy version: that of the snapshot role, which rises with every change of any role's targets.
    pub version: u64,
    /// What is in force, all of it: SHA-256 over deterministic CBOR `["touchstone-policy/1", global digest, [[region,
    /// region's digest] …]]`.
    pub digest: [u8; 32],
    /// What the whole has signed: SHA-256 of the signed part of the targets metadata (canonical JSON), which names the
    /// digest of every target that no region signs.
    pub global_digest: [u8; 32],
    /// The regions that sign for themselves, with what they signed.
    pub regions: BTreeMap<String, SignedRegion>,
    /// SHA-256 of the root file that trust began with.
    pub root_digest: [u8; 32],
    /// Whether that root was given by the caller.
    pub root_pinned: bool,
    /// Versions of all roles: the floors for the next load.
    pub versions: RoleVersions,
    /// `settings.toml`.
    pub settings: Settings,
    /// Trust anchors.
    pub anchors: Arc<TrustAnchors>,
    /// Signed reference values; their validity is judged at each appraisal.
    pub references: Arc<ReferenceSet>,
    /// Keys whose signatures on measured files count.
    pub ima_keys: Vec<SubjectKey>,
    /// Nodes.
    pub inventory: Inventory,
    /// The broker's keys.
    pub keyset: Keyset,
    /// The Cedar policies, compiled.
    pub cedar: Cedar,
    /// Who shares this domain.
    pub tenants: Tenants,
    /// Who commands; without any, commands need no signature.
    pub operators: Operators,
    /// Who reports security events.
    pub detectors: Detectors,
    /// Whose acknowledgements and reports of use count.
    pub enforcers: Enforcers,
    /// What workloads reach, by the scope that they run under.
    pub network: Network,
    /// The domains this one is federated with.
    pub federation: Federation,
    /// What each region may add, by region.
    pub additions: BTreeMap<String, Additions>,
    /// What nodes are judged by in each region that says anything of its own. See [`PolicySet::demands`].
    pub views: BTreeMap<String, Arc<View>>,
    /// When the first role of the whole expires, Unix seconds. The policy is not valid at that second any more.
    pub expires: i64,
    /// The end of each role of the whole.
    pub ends: Vec<RoleEnd>,
}

impl PolicySet {
    /// Judges every role of the whole at `now`, Unix seconds.
    ///
    /// # Errors
    /// [`PolicyError`] with `policy-<role>-expired` for each role that has ended: then nothing is granted.
    pub fn check_live(&self, now: i64) -> Result<(), PolicyError> {
        expiry::check(&self.ends, now)
    }

    /// Judges the role of a region that signs for itself; of another one there is nothing to judge.
    ///
    /// # Errors
    /// [`PolicyError`] with `policy-region-expired`: then nothing is granted to the region's nodes. Others go on.
    pub fn check_region_live(&self, region: &str, now: i64) -> Result<(), PolicyError> {
        let signed = self.regions.get(region);
        signed.map_or(Ok(()), |signed| expiry::check_region(region, signed, now))
    }

    /// The region's digest, where it signs for itself.
    pub fn region_digest(&self, region: &str) -> Option<[u8; 32]> {
        self.regions.get(region).map(|signed| signed.digest)
    }
}

/// A policy, and the very files it was made from.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The policy, whole and verified.
    pub policy: PolicySet,
    /// The metadata files that were read, by name.
    pub(crate) metadata: Vec<(String, Vec<u8>)>,
    /// Every target.
    pub(crate) files: Files,
}

/// Loads and verifies a repository, a folder or what a server has, at `now`, Unix seconds.
///
/// # Errors
/// [`PolicyError`] naming every problem; [`PolicyError::is_io`] tells a failing disk or network from a bad repository.
pub async fn load(source: impl Into<Source>, options: LoadOptions, now: i64) -> Result<PolicySet, PolicyError> {
    let source = source.into();
    fetch(&source, None, options, now).await.map(|fetched| fetched.policy)
}

/// The same with the files it was made from. Targets that are in `kept`, a folder laid out like a repository, are not
/// fetched again.
pub(crate) async fn fetch(
    source: &Source,
    kept: Option<&Path>,
    options: LoadOptions,
    now: i64,
) -> Result<Fetched, PolicyError> {
    check_time(now, options.last_time)?;
    let opened = tuf::open(source, kept, options.root.as_deref()).await?;
    if let Some(floors) = &options.floors {
        opened.versions.not_below(floors)?;
    }
    let ends = expiry::ends(&opened.repository);
    expiry::check(&ends, now)?;
    let files = read_files(&opened).await?;
    let contents = Contents::read(&files, now)?;
    let made_by = options.made_by.map_or(now, |made_by| made_by.max(now));
    expiry::check_lives(&ends, &contents.settings.timers, made_by)?;
    let policy = PolicySet {
        domain: contents.settings.domain.clone(),
        version: opened.versions.snapshot,
        digest: opened.digest,
        global_digest: opened.targets_digest,
        regions: opened.regions,
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
        tenants: contents.tenants,
        operators: contents.operators,
        detectors: contents.detectors,
        enforcers: contents.enforcers,
        network: contents.network,
        federation: contents.federation,
        additions: contents.additions,
        views: contents.views,
        expires: expiry::first(&ends),
        ends,
    };
    let mut metadata = opened.files.metadata();
    if let Some(kept) = kept {
        for (file, bytes) in roots_until_pinned(&opened.files, &opened.root, kept).await {
            metadata.retain(|(other, _)| *other != file);
            metadata.push((file, bytes));
        }
    }
    Ok(Fetched {
        policy,
        metadata,
        files,
    })
}

/// The root that trust began with, byte for byte, and those before it. These are for others, who may have pinned them;
/// here they count for nothing, but whoever serves them could make them up, and others would be given that for good. So
/// each is taken only where it is signed by its own keys and these signed the next.
async fn roots_until_pinned(files: &RepositoryFiles, pinned: &[u8], kept: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(mut next) = tuf::parse_root(pinned) else {
        return Vec::new();
    };
    let newest = next.signed.version.get();
    let mut found = vec![(format!("{newest}.root.json"), pinned.to_vec())];
    for version in (1..newest).rev() {
        let file = format!("{version}.root.json");
        let path = format!("{METADATA}/{file}");
        let verified = |bytes: Vec<u8>| tuf::root_before(&bytes, &next).map(|root| (root, bytes));
        let here = read_bounded(&kept.join(&path), MAX_ROLE_LEN).ok().and_then(verified);
        let before = match here {
            Some(before) => Some(before),
            None => files.get(&path, MAX_ROLE_LEN).await.ok().and_then(verified),
        };
        let Some((root, bytes)) = before else { break };
        found.push((file, bytes));
        next = root;
    }
    found
}

/// [`load`] for callers without a runtime; may be called from within one too.
///
/// # Errors
/// As [`load`].
pub fn load_blocking(source: impl Into<Source>, options: LoadOptions, now: i64) -> Result<PolicySet, PolicyError> {
    let source = source.into();
    tuf::block_on(async { fetch(&source, None, options, now).await.map(|fetched| fetched.policy) })
}

/// Every target of every signed list, each as signed.
pub(crate) async fn read_files(opened: &Opened) -> Result<Files, PolicyError> {
    let whole = &opened.repository.targets().signed;
    let mut lists = vec![(format!("targets, version {}", whole.version), whole)];
    for role in whole.delegations.iter().flat_map(|d| &d.roles) {
        if let Some(signed) = &role.targets {
            lists.push((
                format!("{}, version {}", role.name, signed.signed.version),
                &signed.signed,
            ));
        }
    }
    let count: usize = lists.iter().map(|(_, list)| list.targets.len()).sum();
    if count > MAX_TARGETS {
        let expected = format!("at most {MAX_TARGETS}");
        return Err(PolicyError::new(
            PolicyCode::TargetsTooMany,
            "all targets",
            expected,
            count,
        ));
    }
    let mut problems = Vec::new();
    let mut names = Vec::with_capacity(count);
    let mut total = 0u64;
    for (signed_by, list) in &lists {
        for (name, target) in &list.targets {
            let claim = || format!("{} ({signed_by})", name.raw());
            match TargetKind::of(name.raw()) {
                Some(kind) if target.length > kind.max_len() => {
                    let expected = format!("at most {} bytes", kind.max_len());
                    problems.push(Problem::new(
                        PolicyCode::TargetTooLarge,
                        claim(),
                        expected,
                        target.length,
                    ));
                }
                Some(kind) => {
                    total = total.saturating_add(target.length);
                    names.push((kind, name, signed_by));
                }
                None => {
                    let problem = Problem::new(PolicyCode::TargetUnknown, claim(), "a known target", name.raw());
                    problems.push(problem);
                }
            }
        }
    }
    if total > MAX_TOTAL_LEN {
        let expected = format!("at most {MAX_TOTAL_LEN} bytes");
        problems.push(Problem::new(PolicyCode::TargetTooLarge, "all targets", expected, total));
    }
    PolicyError::unless_empty(problems)?;
    let mut problems = Vec::new();
    let mut files = Files::new();
    for (kind, name, signed_by) in names {
        match tuf::read_target(&opened.repository, name, signed_by).await {
            Ok(bytes) => drop(files.insert(kind, bytes)),
            Err(e) => {
                let outside = e.is_io();
                problems.extend(e.into_problems());
                // A server that is gone or slow is so for every file: each would be waited for.
                if outside {
                    break;
                }
            }
        }
    }
    PolicyError::unless_empty(problems)?;
    Ok(files)
}

#[cfg(test)]
mod tests;
