//! A proposal: a folder that a signer, who may be elsewhere and has nothing else but a root, can check whole.
//!
//! ```text
//! metadata/   the published metadata that it follows: every root, the lists, the snapshot and the timestamp
//! targets/    every target of the published and the proposed version, under its digest
//! proposed/   the changed roles, unsigned: 7.targets.json, 3.region-eu-1.json, 2.root.json
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Scope;
use super::body::RoleBody;
use super::draft::{Draft, draft};
use super::next::{Base, Next};
use super::review::Review;
use crate::error::{PolicyCode, PolicyError};
use crate::keys::{KeyDir, KeyRole};
use crate::layout::{METADATA, TARGETS, TargetKind, target_path};
use crate::repository::{Repository, write_file};
use crate::transport::bounded::{MAX_METADATA_LEN, read_bounded};
use crate::tuf::delegation::MAX_REGION_ROLES;

/// Folder of the unsigned roles.
pub const PROPOSED: &str = "proposed";

/// Most roles of a proposal: the root, the whole's list, and every region's.
pub const MAX_PROPOSED_ROLES: usize = MAX_REGION_ROLES + 2;

/// What [`propose`] wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proposed {
    /// The folder.
    pub folder: PathBuf,
    /// What it changes.
    pub review: Review,
    /// References that were signed now.
    pub references_signed: Vec<String>,
}

/// Writes what is staged within `scope` as a proposal to the new folder `out`. With `keys`, unsigned reference values are
/// signed by the reference key in it. Nothing of the repository changes. `now` is Unix seconds.
///
/// # Errors
/// [`PolicyError`]: `policy-io` where `out` is there already, and everything that publishing would refuse but
/// signatures.
pub fn propose(
    repo: &Path,
    keys: Option<&KeyDir>,
    scope: &Scope,
    out: &Path,
    now: i64,
) -> Result<Proposed, PolicyError> {
    let repository = Repository::open(repo)?;
    let base = Base::open(repo, None)?;
    let Draft {
        next,
        references_signed,
        ..
    } = draft(&repository, &base, keys, scope, false, now)?;
    let review = Review::of(&base, &next)?;
    // A folder of its own: what lies in an old one must not become part of this proposal.
    std::fs::create_dir(out).map_err(|e| PolicyError::io(out, "a new folder for the proposal", &e))?;
    let written = write(repo, &base, &next, out);
    if written.is_err() {
        drop(std::fs::remove_dir_all(out));
    }
    written?;
    Ok(Proposed {
        folder: out.to_owned(),
        review,
        references_signed,
    })
}

fn write(repo: &Path, base: &Base, next: &Next, out: &Path) -> Result<(), PolicyError> {
    for file in metadata_files(base) {
        let from = repo.join(METADATA).join(&file);
        let bytes = read_bounded(&from, MAX_METADATA_LEN).map_err(|e| PolicyError::io(&from, "metadata", &e))?;
        write_file(&out.join(METADATA).join(file), &bytes)?;
    }
    let published = base.published.as_ref().map(|p| &p.files);
    for (kind, bytes) in published.into_iter().flatten().chain(&next.files) {
        write_file(&target_path(out, &kind.name(), &Sha256::digest(bytes)), bytes)?;
    }
    for body in &next.bodies {
        write_file(&out.join(PROPOSED).join(body.file()), &body.to_json(Vec::new())?)?;
    }
    Ok(())
}

/// The files of the published version's metadata.
pub(crate) fn metadata_files(base: &Base) -> Vec<String> {
    let versions = base.versions();
    let mut files: Vec<String> = (1..=versions.root).map(|v| format!("{v}.root.json")).collect();
    if base.published.is_some() {
        files.push(format!("{}.targets.json", versions.targets));
        files.push(format!("{}.snapshot.json", versions.snapshot));
        files.push("timestamp.json".into());
        let meta = base.snapshot_meta();
        let regions = base
            .targets()
            .and_then(|t| t.delegations.as_ref())
            .into_iter()
            .flat_map(|d| &d.roles);
        files.extend(regions.filter_map(|role| {
            let version = meta.get(&format!("{}.json", role.name))?.version;
            Some(format!("{version}.{}.json", role.name))
        }));
    }
    files
}

/// Checks a proposal whole against `root`, the root metadata that this signer holds (any version), and says what it
/// changes. `now` is Unix seconds.
///
/// # Errors
/// [`PolicyError`]: `policy-root-mismatch` for another domain's, `policy-proposal-stale`, `policy-proposal-unreadable`,
/// and everything for which the version would not load.
pub fn review(folder: &Path, root: &[u8], now: i64) -> Result<Review, PolicyError> {
    let (base, next) = open(folder, root, now)?;
    Review::of(&base, &next)
}

/// Opens a proposal as its signer does: what it follows comes from the proposal itself, proved by the signer's root.
pub(super) fn open(folder: &Path, root: &[u8], now: i64) -> Result<(Base, Next), PolicyError> {
    let base = Base::open(folder, Some(root))?;
    let next = read(folder, &base, now)?;
    Ok((base, next))
}

/// Reads the proposed roles over `base`, which need not be the proposal's own.
pub(crate) fn read(folder: &Path, base: &Base, now: i64) -> Result<Next, PolicyError> {
    let proposed = folder.join(PROPOSED);
    let unreadable = |claim: &Path, expected: &str, found: String| {
        PolicyError::new(PolicyCode::ProposalUnreadable, claim.display(), expected, found)
    };
    let entries = std::fs::read_dir(&proposed)
        .map_err(|e| unreadable(&proposed, "a proposal's folder of unsigned roles", e.to_string()))?;
    let mut bodies: BTreeMap<KeyRole, RoleBody> = BTreeMap::new();
    for entry in entries {
        let path = entry
            .map_err(|e| PolicyError::io(&proposed, "a folder to read", &e))?
            .path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let role = name
            .strip_suffix(".json")
            .and_then(|n| n.split_once('.'))
            .and_then(|(_, role)| KeyRole::parse(role));
        let role = role.ok_or_else(|| unreadable(&path, "<version>.<role>.json", name.clone()))?;
        let bytes = read_bounded(&path, MAX_METADATA_LEN).map_err(|e| PolicyError::io(&path, "a proposed role", &e))?;
        let (body, signatures) =
            RoleBody::parse(&role, &bytes).map_err(|e| unreadable(&path, "an unsigned role", e))?;
        if !signatures.is_empty() || body.file() != name {
            let found = format!("{}, with {} signatures", body.file(), signatures.len());
            return Err(unreadable(&path, "this file, unsigned", found));
        }
        // A second one would be taken or not, as the folder happens to be read.
        if bodies.insert(role, body).is_some() {
            return Err(unreadable(&path, "each role once", "twice".into()));
        }
        if bodies.len() > MAX_PROPOSED_ROLES {
            return Err(unreadable(&proposed, "fewer roles", bodies.len().to_string()));
        }
    }
    if bodies.is_empty() {
        return Err(unreadable(&proposed, "at least one role", "none".into()));
    }
    let fetch = |kind: &TargetKind, sha256: &[u8; 32]| {
        let path = target_path(folder, &kind.name(), sha256);
        read_bounded(&path, kind.max_len()).map_err(|e| {
            let claim = format!("{} in {}", kind.name(), folder.join(TARGETS).display());
            let code = match e.kind() {
                std::io::ErrorKind::FileTooLarge => PolicyCode::TargetTooLarge,
                _ => PolicyCode::TargetMissing,
            };
            PolicyError::new(code, claim, "the proposed file", e)
        })
    };
    Next::check(base, bodies.into_values().collect(), &fetch, now)
}
