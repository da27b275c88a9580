//! Who signs what: the keys and thresholds of the root's roles and of the regions, out of TUF metadata and into it.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use touchstone_cose::key::VerifyingKey;
use tough::TargetName;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::Key;
use tough::schema::{
    DelegatedRole, Delegations, Hashes, PathPattern, PathSet, RoleKeys, RoleType, Root, Target, Targets,
};

use crate::ceremony::signing::SPEC_VERSION;
use crate::error::{PolicyCode, PolicyError};
use crate::keys::{KeyRole, MAX_KEYS_PER_ROLE, public};
use crate::layout::Files;
use crate::layout::REGION_ROLE;
use crate::layout::{TargetKind, is_region_name};
use crate::tuf::delegation::{MAX_REGION_ROLES, region_folder, role_name};

/// What a list of targets names: length and SHA-256 of each.
pub(crate) type Listed = BTreeMap<TargetKind, (u64, [u8; 32])>;

type TufKeys = HashMap<Decoded<Hex>, Key>;

/// The keys of one role and how many of them must sign.
///
/// As JSON `{"threshold": 2, "keys": ["<SubjectPublicKeyInfo, hexadecimal>"]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SignersFile", into = "SignersFile")]
pub struct RoleSigners {
    /// How many must sign.
    pub threshold: u64,
    /// The keys, by TUF key id (hexadecimal).
    pub keys: BTreeMap<String, VerifyingKey>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignersFile {
    threshold: u64,
    keys: Vec<String>,
}

impl From<RoleSigners> for SignersFile {
    fn from(signers: RoleSigners) -> Self {
        let keys = signers.keys.values().map(|key| hex::encode(key.to_spki_der()));
        Self {
            threshold: signers.threshold,
            keys: keys.collect(),
        }
    }
}

impl TryFrom<SignersFile> for RoleSigners {
    type Error = String;

    fn try_from(file: SignersFile) -> Result<Self, String> {
        let keys = file.keys.iter().map(|text| {
            let der = hex::decode(text).map_err(|e| e.to_string())?;
            VerifyingKey::from_spki_der(&der).map_err(|e| e.to_string())
        });
        let keys = keys.collect::<Result<Vec<_>, String>>()?;
        RoleSigners::new("a role", file.threshold, keys).map_err(|e| e.to_string())
    }
}

impl RoleSigners {
    /// Keys for `role`, of which `threshold` must sign.
    ///
    /// # Errors
    /// [`PolicyError`]: `policy-key-duplicate`, `policy-root-change` where fewer keys are there than must sign, or more
    /// than a role may have.
    pub fn new(role: &str, threshold: u64, keys: impl IntoIterator<Item = VerifyingKey>) -> Result<Self, PolicyError> {
        let mut known = BTreeMap::new();
        for key in keys {
            let id = hex::encode(public::key_id(&key)?);
            if known.insert(id.clone(), key).is_some() {
                return Err(PolicyError::new(PolicyCode::KeyDuplicate, role, "each key once", id));
            }
        }
        let signers = Self { threshold, keys: known };
        signers.check(role)?;
        Ok(signers)
    }

    pub(super) fn check(&self, role: &str) -> Result<(), PolicyError> {
        let refused = |expected: String, found: String| PolicyError::new(PolicyCode::RootChange, role, expected, found);
        if self.keys.len() > MAX_KEYS_PER_ROLE {
            let expected = format!("at most {MAX_KEYS_PER_ROLE} keys");
            return Err(refused(expected, self.keys.len().to_string()));
        }
        if self.threshold == 0 || self.threshold > self.keys.len() as u64 {
            let expected = format!("a threshold of 1 to {}, the number of its keys", self.keys.len());
            return Err(refused(expected, self.threshold.to_string()));
        }
        Ok(())
    }

    fn threshold(&self) -> NonZeroU64 {
        NonZeroU64::new(self.threshold).unwrap_or(NonZeroU64::MAX)
    }

    fn ids(&self, known: &mut TufKeys) -> Result<Vec<Decoded<Hex>>, PolicyError> {
        let mut ids = Vec::with_capacity(self.keys.len());
        for key in self.keys.values() {
            let id: Decoded<Hex> = public::key_id(key)?.into();
            known.insert(id.clone(), public::to_tuf(key)?);
            ids.push(id);
        }
        Ok(ids)
    }
}

/// The signers of the four roles of a root. Nothing for a root that says more than ours do.
pub(crate) fn of_root(root: &Root) -> Result<BTreeMap<KeyRole, RoleSigners>, PolicyError> {
    let mut roles = BTreeMap::new();
    for role in KeyRole::DOMAIN {
        let Some(tuf) = role.tuf() else { continue };
        let found = root
            .roles
            .get(&tuf)
            .ok_or_else(|| PolicyError::new(PolicyCode::RootInvalid, &role, "keys of this role", "none"))?;
        let signers = signers(
            &role.to_string(),
            found.threshold,
            &found.keyids,
            &root.keys,
            PolicyCode::RootInvalid,
        )?;
        roles.insert(role, signers);
    }
    Ok(roles)
}

/// The regions that sign for themselves. A delegation that is not exactly one of ours is refused: terminating, for the
/// region's own folder, under the region's own role name.
pub(crate) fn of_delegations(delegations: Option<&Delegations>) -> Result<BTreeMap<String, RoleSigners>, PolicyError> {
    let mut regions = BTreeMap::new();
    let Some(delegations) = delegations else {
        return Ok(regions);
    };
    let refused = |claim: &str, expected: String, found: String| {
        PolicyError::new(PolicyCode::DelegationRefused, claim, expected, found)
    };
    if delegations.roles.len() > MAX_REGION_ROLES {
        let expected = format!("at most {MAX_REGION_ROLES} regions");
        return Err(refused("targets", expected, delegations.roles.len().to_string()));
    }
    for role in &delegations.roles {
        let id = role.name.strip_prefix(REGION_ROLE).filter(|id| is_region_name(id));
        let id = id.ok_or_else(|| refused(&role.name, "a role region-<id>".into(), role.name.clone()))?;
        let own = region_paths(id);
        let paths = match &role.paths {
            PathSet::Paths(paths) => paths.iter().map(|p| p.value().to_owned()).collect(),
            PathSet::PathHashPrefixes(_) => vec!["path hash prefixes".to_owned()],
        };
        if paths != [own.clone()] || !role.terminating {
            let found = format!(
                "{}{}",
                paths.join(", "),
                if role.terminating { "" } else { ", not terminating" }
            );
            return Err(refused(&role.name, format!("{own}, terminating"), found));
        }
        let signers = signers(
            &role.name,
            role.threshold,
            &role.keyids,
            &delegations.keys,
            PolicyCode::DelegationRefused,
        )?;
        if regions.insert(id.to_owned(), signers).is_some() {
            return Err(refused(&role.name, "each region once".into(), "twice".into()));
        }
    }
    Ok(regions)
}

fn signers(
    role: &str,
    threshold: NonZeroU64,
    ids: &[Decoded<Hex>],
    keys: &TufKeys,
    code: PolicyCode,
) -> Result<RoleSigners, PolicyError> {
    let refused = |expected: &str, found: String| PolicyError::new(code, role, expected, found);
    let mut known = Vec::with_capacity(ids.len());
    for id in ids {
        let words = || hex::encode(id);
        let key = keys.get(id).ok_or_else(|| refused("a listed key", words()))?;
        known.push(public::from_tuf(key).ok_or_else(|| refused("an Ed25519 or P-256 key", words()))?);
    }
    RoleSigners::new(role, threshold.get(), known)
}

/// A root that says exactly this.
pub(crate) fn build_root(
    version: NonZeroU64,
    expires: jiff::Timestamp,
    roles: &BTreeMap<KeyRole, RoleSigners>,
) -> Result<Root, PolicyError> {
    let mut root = Root {
        spec_version: SPEC_VERSION.into(),
        consistent_snapshot: true,
        version,
        expires,
        keys: HashMap::new(),
        roles: HashMap::new(),
        _extra: HashMap::new(),
    };
    one_role_each(roles.iter().map(|(role, signers)| (role.clone(), signers)))?;
    for (role, signers) in roles {
        let Some(tuf) = role.tuf().filter(|tuf| *tuf != RoleType::DelegatedTargets) else {
            continue;
        };
        signers.check(&role.to_string())?;
        let keys = RoleKeys {
            keyids: signers.ids(&mut root.keys)?,
            threshold: signers.threshold(),
            _extra: HashMap::new(),
        };
        root.roles.insert(tuf, keys);
    }
    Ok(root)
}

/// One key serves one role: a key that signs two things is two losses when it is lost, and a region whose key is the
/// whole's is not the region's.
pub(super) fn one_role_each<'a>(roles: impl Iterator<Item = (KeyRole, &'a RoleSigners)>) -> Result<(), PolicyError> {
    let mut owners: BTreeMap<&String, KeyRole> = BTreeMap::new();
    for (role, signers) in roles {
        for id in signers.keys.keys() {
            if let Some(other) = owners.insert(id, role.clone()) {
                let expected = format!("a key of its own, not one of {other}");
                return Err(PolicyError::new(PolicyCode::KeyDuplicate, role, expected, id));
            }
        }
    }
    Ok(())
}

/// The roles of a root and of the regions, each with its name.
pub(super) fn named<'a>(
    root: &'a BTreeMap<KeyRole, RoleSigners>,
    regions: &'a BTreeMap<String, RoleSigners>,
) -> impl Iterator<Item = (KeyRole, &'a RoleSigners)> {
    let root = root.iter().map(|(role, signers)| (role.clone(), signers));
    root.chain(
        regions
            .iter()
            .map(|(id, signers)| (KeyRole::Region(id.clone()), signers)),
    )
}

/// A list of targets that says exactly this: `files` without the regions' own, and who signs for the regions.
pub(crate) fn build_targets(
    version: NonZeroU64,
    expires: jiff::Timestamp,
    files: &Listed,
    regions: Option<&BTreeMap<String, RoleSigners>>,
) -> Result<Targets, PolicyError> {
    let mut targets = Targets::new(SPEC_VERSION.into(), version, expires);
    targets.delegations = regions.filter(|r| !r.is_empty()).map(build_delegations).transpose()?;
    for (kind, (length, sha256)) in files {
        let name = TargetName::new(kind.name());
        let name = name.map_err(|e| PolicyError::new(PolicyCode::TargetUnknown, kind.name(), "a target's name", e))?;
        let target = Target {
            length: *length,
            hashes: Hashes {
                sha256: sha256.to_vec().into(),
                _extra: HashMap::new(),
            },
            custom: HashMap::new(),
            _extra: HashMap::new(),
        };
        targets.targets.insert(name, target);
    }
    Ok(targets)
}

/// The paths of a region's role.
fn region_paths(id: &str) -> String {
    format!("{}**", region_folder(id))
}

fn build_delegations(regions: &BTreeMap<String, RoleSigners>) -> Result<Delegations, PolicyError> {
    let mut delegations = Delegations::new();
    for (id, signers) in regions {
        let name = role_name(id);
        signers.check(&name)?;
        let path = PathPattern::new(region_paths(id));
        let path = path.map_err(|e| PolicyError::new(PolicyCode::DelegationRefused, &name, "a path", e))?;
        delegations.roles.push(DelegatedRole {
            keyids: signers.ids(&mut delegations.keys)?,
            threshold: signers.threshold(),
            paths: PathSet::Paths(vec![path]),
            terminating: true,
            targets: None,
            name,
        });
    }
    Ok(delegations)
}

/// Whose list a target stands in.
pub(crate) fn authority(kind: &TargetKind, regions: &BTreeMap<String, RoleSigners>) -> KeyRole {
    match kind.region() {
        Some(id) if regions.contains_key(id) => KeyRole::Region(id.to_owned()),
        _ => KeyRole::Targets,
    }
}

/// What a list of targets says: length and digest of each.
pub(crate) fn targets_of(targets: &Targets) -> Result<Listed, PolicyError> {
    let mut list = BTreeMap::new();
    for (name, target) in &targets.targets {
        let unknown = || PolicyError::new(PolicyCode::TargetUnknown, name.raw(), "a known target", name.raw());
        let kind = TargetKind::of(name.raw()).ok_or_else(unknown)?;
        if target.length > kind.max_len() {
            let expected = format!("at most {} bytes", kind.max_len());
            return Err(PolicyError::new(
                PolicyCode::TargetTooLarge,
                name.raw(),
                expected,
                target.length,
            ));
        }
        let sha256: [u8; 32] = target.hashes.sha256.as_ref().try_into().map_err(|_| unknown())?;
        list.insert(kind, (target.length, sha256));
    }
    Ok(list)
}

/// Length and digest of each file.
pub(crate) fn list_of<'a>(files: impl Iterator<Item = (&'a TargetKind, &'a Vec<u8>)>) -> Listed {
    files
        .map(|(kind, bytes)| (kind.clone(), (bytes.len() as u64, Sha256::digest(bytes).into())))
        .collect()
}

/// The files of each list.
pub(crate) fn partition<'a>(
    files: &'a Files,
    regions: &BTreeMap<String, RoleSigners>,
) -> BTreeMap<KeyRole, Vec<(&'a TargetKind, &'a Vec<u8>)>> {
    let mut lists: BTreeMap<KeyRole, Vec<_>> = BTreeMap::from([(KeyRole::Targets, Vec::new())]);
    lists.extend(regions.keys().map(|id| (KeyRole::Region(id.clone()), Vec::new())));
    for (kind, bytes) in files {
        lists.entry(authority(kind, regions)).or_default().push((kind, bytes));
    }
    lists
}
