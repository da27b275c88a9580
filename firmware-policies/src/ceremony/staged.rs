//! What is staged about keys: `REPO/changes/root.json` (the next root) and `REPO/changes/regions.json` (who signs for
//! which region). They say what is wanted as a whole, are read by nothing but the next proposal or publish, and are gone
//! once it is published.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use touchstone_cose::key::VerifyingKey;

use super::next::Base;
use super::roles::{RoleSigners, build_root, named, of_root, one_role_each};
use crate::ceremony::signing::{ROOT_LIFE, expires_at};
use crate::error::{PolicyCode, PolicyError};
use crate::keys::KeyRole;
use crate::layout::is_region_name;
use crate::repository::{Repository, write_file};
use crate::transport::bounded::read_bounded;
use crate::tuf::delegation::MAX_REGION_ROLES;

/// Folder of what is staged about keys.
pub const CHANGES: &str = "changes";
const ROOT: &str = "root.json";
const REGIONS: &str = "regions.json";
/// Largest of these files.
pub const MAX_CHANGES_LEN: u64 = 4 << 20;

/// One change of the next root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootChange {
    /// The role gets this key too.
    Add(KeyRole, VerifyingKey),
    /// The role loses the key with this TUF key id (hexadecimal, or its beginning).
    Remove(KeyRole, String),
    /// So many of the role's keys must sign.
    Threshold(KeyRole, u64),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootFile {
    /// The root's version that this follows.
    after: u64,
    roles: BTreeMap<String, RoleSigners>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegionsFile {
    regions: BTreeMap<String, RoleSigners>,
}

/// Stages changes of the root; none renews it with the same keys. Returns the roles as they will be.
///
/// # Errors
/// [`PolicyError`]: `policy-root-change`, `policy-key-duplicate`, and what reading the repository refuses.
pub fn change_root(repo: &Path, changes: &[RootChange]) -> Result<BTreeMap<KeyRole, RoleSigners>, PolicyError> {
    let repository = Repository::open(repo)?;
    let base = Base::open(repo, None)?;
    let mut roles = wanted_roles(repository.path(), &base)?.map_or_else(|| of_root(&base.root.signed), Ok)?;
    for change in changes {
        let (RootChange::Add(role, _) | RootChange::Remove(role, _) | RootChange::Threshold(role, _)) = change;
        let signers = roles.get_mut(role).ok_or_else(|| {
            let expected = "root, targets, snapshot or timestamp";
            PolicyError::new(PolicyCode::RootChange, role, expected, "another role")
        })?;
        match change {
            RootChange::Add(_, key) => *signers = with(signers, role, key)?,
            RootChange::Remove(_, id) => {
                let id = find(signers, role, id)?;
                signers.keys.remove(&id);
            }
            RootChange::Threshold(_, threshold) => signers.threshold = *threshold,
        }
    }
    for (role, signers) in &roles {
        signers.check(&role.to_string())?;
    }
    // Refuses keys that serve two roles; the time does not matter.
    build_root(base.next_version(&KeyRole::Root)?, expires_at(0, ROOT_LIFE)?, &roles)?;
    let file = RootFile {
        after: base.root.signed.version.get(),
        roles: roles
            .iter()
            .map(|(role, signers)| (role.to_string(), signers.clone()))
            .collect(),
    };
    write(repo, ROOT, &file)?;
    Ok(roles)
}

/// The signers of the root's roles, as the next version will have them.
///
/// # Errors
/// As [`change_root`].
pub fn root_roles(repo: &Path) -> Result<BTreeMap<KeyRole, RoleSigners>, PolicyError> {
    let base = Base::open(repo, None)?;
    wanted_roles(repo, &base)?.map_or_else(|| of_root(&base.root.signed), Ok)
}

fn with(signers: &RoleSigners, role: &KeyRole, key: &VerifyingKey) -> Result<RoleSigners, PolicyError> {
    let keys = signers.keys.values().chain([key]).cloned();
    // The threshold is judged when all changes are made.
    let made = RoleSigners::new(&role.to_string(), 1, keys)?;
    Ok(RoleSigners {
        threshold: signers.threshold,
        ..made
    })
}

fn find(signers: &RoleSigners, role: &KeyRole, id: &str) -> Result<String, PolicyError> {
    let mut found = signers
        .keys
        .keys()
        .filter(|known| !id.is_empty() && known.starts_with(id));
    match (found.next(), found.next()) {
        (Some(known), None) => Ok(known.clone()),
        (None, _) => {
            let expected = format!("the id of a key of {role}");
            Err(PolicyError::new(PolicyCode::RootChange, role, expected, id))
        }
        (Some(_), Some(_)) => Err(PolicyError::new(
            PolicyCode::RootChange,
            role,
            "the id of one key",
            format!("{id}, with which several begin"),
        )),
    }
}

/// The roles of the next root, where a change is staged.
pub(super) fn wanted_roles(repo: &Path, base: &Base) -> Result<Option<BTreeMap<KeyRole, RoleSigners>>, PolicyError> {
    let Some(file) = read::<RootFile>(repo, ROOT)? else {
        return Ok(None);
    };
    let now = base.root.signed.version.get();
    if file.after != now {
        // What a publish left that was stopped before it could clean up is done already.
        let done = file.after.checked_add(1) == Some(now) && parsed(&file)? == of_root(&base.root.signed)?;
        if done {
            return Ok(None);
        }
        let (expected, found) = (
            format!("a change of root version {now}"),
            format!("of version {}", file.after),
        );
        return Err(PolicyError::new(
            PolicyCode::ProposalStale,
            path(repo, ROOT).display(),
            expected,
            found,
        ));
    }
    parsed(&file).map(Some)
}

fn parsed(file: &RootFile) -> Result<BTreeMap<KeyRole, RoleSigners>, PolicyError> {
    let role = |(name, signers): (&String, &RoleSigners)| {
        let role = KeyRole::parse(name).filter(|r| KeyRole::DOMAIN.contains(r) && r.tuf().is_some());
        role.map(|role| (role, signers.clone()))
            .ok_or_else(|| PolicyError::new(PolicyCode::RootChange, name, "a role of the root", "another"))
    };
    file.roles.iter().map(role).collect()
}

/// Stages that a region signs for itself, with these keys. Where it does already, they are its keys from then on.
///
/// # Errors
/// [`PolicyError`]: `policy-delegation-refused`, `policy-key-duplicate`, `policy-root-change` for a threshold that its
/// keys cannot meet.
pub fn region_add(repo: &Path, id: &str, threshold: u64, keys: &[VerifyingKey]) -> Result<RoleSigners, PolicyError> {
    if !is_region_name(id) {
        let expected = "a-z, 0-9, dot and hyphen, at most 63, and no role's name";
        return Err(PolicyError::new(PolicyCode::DelegationRefused, "region", expected, id));
    }
    let _repository = Repository::open(repo)?;
    let base = Base::open(repo, None)?;
    let role = KeyRole::Region(id.to_owned());
    let signers = RoleSigners::new(&role.to_string(), threshold, keys.iter().cloned())?;
    let mut regions = wanted_regions(repo, &base)?;
    regions.insert(id.to_owned(), signers.clone());
    one_role_each(named(&of_root(&base.root.signed)?, &regions))?;
    if regions.len() > MAX_REGION_ROLES {
        let expected = format!("at most {MAX_REGION_ROLES} regions");
        return Err(PolicyError::new(
            PolicyCode::DelegationRefused,
            "regions",
            expected,
            regions.len(),
        ));
    }
    write(repo, REGIONS, &RegionsFile { regions })?;
    Ok(signers)
}

/// Stages that a region does not sign for itself any more. What it has published stays, and the whole signs it from then
/// on: a region's policy only ever narrows, so dropping it with the keys would widen.
///
/// # Errors
/// [`PolicyError`] with `policy-delegation-refused` where it does not sign for itself.
pub fn region_remove(repo: &Path, id: &str) -> Result<(), PolicyError> {
    let _repository = Repository::open(repo)?;
    let base = Base::open(repo, None)?;
    let mut regions = wanted_regions(repo, &base)?;
    if regions.remove(id).is_none() {
        let expected = "a region that signs for itself";
        return Err(PolicyError::new(
            PolicyCode::DelegationRefused,
            id,
            expected,
            "none of this name",
        ));
    }
    write(repo, REGIONS, &RegionsFile { regions })
}

/// The regions that sign for themselves, as the next version will have them.
///
/// # Errors
/// [`PolicyError`] where the repository, or what is staged, cannot be read.
pub fn delegations(repo: &Path) -> Result<BTreeMap<String, RoleSigners>, PolicyError> {
    wanted_regions(repo, &Base::open(repo, None)?)
}

pub(super) fn wanted_regions(repo: &Path, base: &Base) -> Result<BTreeMap<String, RoleSigners>, PolicyError> {
    match read::<RegionsFile>(repo, REGIONS)? {
        Some(file) => {
            if let Some(id) = file.regions.keys().find(|id| !is_region_name(id)) {
                let claim = path(repo, REGIONS);
                return Err(PolicyError::new(
                    PolicyCode::DelegationRefused,
                    claim.display(),
                    "a region's name",
                    id,
                ));
            }
            Ok(file.regions)
        }
        None => base.regions(),
    }
}

/// Discards what is staged about keys. Returns whether there was anything.
///
/// # Errors
/// [`PolicyError`]: `policy-io`, `policy-publish-busy`.
pub fn drop_changes(repo: &Path) -> Result<bool, PolicyError> {
    let _repository = Repository::open(repo)?;
    let mut found = false;
    for file in [ROOT, REGIONS] {
        let path = path(repo, file);
        match std::fs::remove_file(&path) {
            Ok(()) => found = true,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(PolicyError::io(&path, "a staged change to discard", &e)),
        }
    }
    Ok(found)
}

/// After a publish: what was staged about these roles is done. Best effort, because it is published whether or not, and
/// what stays says what is the case already.
pub(crate) fn forget(repo: &Path, root: bool, regions: bool) {
    for (done, file) in [(root, ROOT), (regions, REGIONS)] {
        if done {
            drop(std::fs::remove_file(path(repo, file)));
        }
    }
}

fn path(repo: &Path, file: &str) -> PathBuf {
    repo.join(CHANGES).join(file)
}

fn read<T: serde::de::DeserializeOwned>(repo: &Path, file: &str) -> Result<Option<T>, PolicyError> {
    let path = path(repo, file);
    let bytes = match read_bounded(&path, MAX_CHANGES_LEN) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(PolicyError::io(&path, "a staged change", &e)),
    };
    let code = if file == ROOT {
        PolicyCode::RootChange
    } else {
        PolicyCode::DelegationRefused
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed
        .map(Some)
        .map_err(|e| PolicyError::new(code, path.display(), "a staged change", e))
}

fn write<T: Serialize>(repo: &Path, file: &str, value: &T) -> Result<(), PolicyError> {
    let path = path(repo, file);
    let mut bytes =
        serde_json::to_vec_pretty(value).map_err(|e| PolicyError::new(PolicyCode::Io, path.display(), "JSON", e))?;
    bytes.push(b'\n');
    write_file(&path, &bytes)
}
