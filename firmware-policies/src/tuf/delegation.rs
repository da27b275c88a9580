//! What the targets role may delegate: to each sovereign region its own folder, under the region's own keys.
//!
//! `tough` checks signatures, versions and that a role signs within its paths. The rules here are ours and narrower, so
//! that they hold whatever a path pattern matches in this or that implementation: a role `region-<id>` signs targets
//! below `regions/<id>/` and nothing else, nobody else signs there, and it delegates no further.
//! Source: TUF 1.0.34, 4.5 (delegations), 5.6.7; `docs/protocol.md`, policy.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use tough::schema::key::Key;
use tough::schema::{DelegatedRole, Delegations, PathSet, Role, Root, Signed, Snapshot, Targets};

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::{REGION_ROLE, is_region_name};

/// Most regions with keys of their own.
pub const MAX_REGION_ROLES: usize = 256;
/// Most keys of one region's role.
pub const MAX_REGION_KEYS: usize = 32;

/// A region whose targets are signed by keys of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRegion {
    /// Version of its role.
    pub version: u64,
    /// SHA-256 of the signed part of its role (canonical JSON), which names every target's digest.
    pub digest: [u8; 32],
    /// When its role expires, Unix seconds: from then on nothing of the region is granted.
    pub expires: i64,
    /// How many of its keys must sign.
    pub threshold: u64,
    /// The ids of its keys, hexadecimal, sorted.
    pub keys: Vec<String>,
}

/// The name of a region's role.
#[must_use]
pub fn role_name(region: &str) -> String {
    format!("{REGION_ROLE}{region}")
}

/// The folder of a region's targets, with the slash at its end.
#[must_use]
pub fn region_folder(region: &str) -> String {
    format!("regions/{region}/")
}

/// Checks every delegation and what is signed under it. Returns the regions that have keys of their own.
///
/// # Errors
/// [`PolicyError`] with a problem for every rule that is broken.
pub(crate) fn regions(targets: &Targets, snapshot: &Snapshot) -> Result<BTreeMap<String, SignedRegion>, PolicyError> {
    let mut regions = BTreeMap::new();
    let Some(delegations) = &targets.delegations else {
        return Ok(regions);
    };
    let mut check = Check {
        claim: format!(
            "{}.targets.json (targets, version {})",
            targets.version, targets.version
        ),
        problems: Vec::new(),
    };
    if delegations.roles.len() > MAX_REGION_ROLES {
        let (expected, found) = (
            format!("at most {MAX_REGION_ROLES} delegations"),
            delegations.roles.len(),
        );
        return Err(PolicyError::new(
            PolicyCode::TargetsTooMany,
            check.claim,
            expected,
            found,
        ));
    }
    let (mut seen, mut missing) = (BTreeSet::new(), Vec::new());
    for role in &delegations.roles {
        let Some(region) = role.name.strip_prefix(REGION_ROLE).filter(|name| is_region_name(name)) else {
            check.problem(
                PolicyCode::DelegationUnknown,
                "roles named region-<name> only",
                &role.name,
            );
            continue;
        };
        if !seen.insert(region) {
            check.problem(PolicyCode::DelegationRefused, "one delegation a region", &role.name);
            continue;
        }
        check.delegation(role, region, delegations);
        let Some(signed) = &role.targets else {
            // Where one is missing `tough` reads none of them; only the one that is missing is to be named.
            let file = format!("{}.json", role.name);
            missing.push(!snapshot.meta.contains_key(&file));
            if missing.last() == Some(&true) {
                check.problem(PolicyCode::MetadataMissing, format!("{file} in the snapshot"), "none");
            }
            continue;
        };
        regions.insert(region.to_owned(), check.role(role, region, signed)?);
    }
    for name in targets.targets.keys().map(|name| name.raw()) {
        let region = name.strip_prefix("regions/").and_then(|rest| rest.split_once('/'));
        if let Some((region, _)) = region.filter(|(region, _)| regions.contains_key(*region)) {
            let expected = format!("signed by {} alone", role_name(region));
            let claim = format!("{name} ({})", check.claim);
            check.problems.push(Problem::new(
                PolicyCode::TargetOfRegion,
                claim,
                expected,
                "listed by targets",
            ));
        }
    }
    if !missing.is_empty() && check.problems.is_empty() {
        check.problem(PolicyCode::MetadataMissing, "every region's role read", "a gap");
    }
    PolicyError::unless_empty(check.problems)?;
    Ok(regions)
}

/// No key may count twice in a role of the root: two ids of one key would make a threshold of two signatures one.
///
/// # Errors
/// [`PolicyError`] with `policy-key-repeated` for every role in which one does.
pub(crate) fn root_keys_differ(root: &Root) -> Result<(), PolicyError> {
    let repeated = root.roles.iter().filter(|(_, role)| {
        let keys = role.keyids.iter().filter_map(|id| root.keys.get(id));
        !differ(keys) || role.keyids.iter().collect::<BTreeSet<_>>().len() != role.keyids.len()
    });
    let problem = |role: &dyn std::fmt::Display| {
        let claim = format!("{}.root.json (root, version {})", root.version, root.version);
        let expected = format!("keys of {role} that differ");
        Problem::new(PolicyCode::KeyRepeated, claim, expected, "one key under two ids")
    };
    PolicyError::unless_empty(repeated.map(|(role, _)| problem(role)).collect())
}

/// No key may stand in two roles, of the root and of the regions together: the timestamp key of a machine that is always
/// on would sign for the whole, or one region's key for another region.
///
/// # Errors
/// [`PolicyError`] with `policy-key-repeated` for every role that has another one's key.
pub(crate) fn one_role_a_key(root: &Root, targets: &Targets) -> Result<(), PolicyError> {
    let of_root = root
        .roles
        .iter()
        .map(|(role, keys)| (role.to_string(), &keys.keyids, &root.keys));
    let mut roles: Vec<_> = of_root.collect();
    for delegations in targets.delegations.iter() {
        let of_regions = delegations.roles.iter();
        roles.extend(of_regions.map(|role| (role.name.clone(), &role.keyids, &delegations.keys)));
    }
    roles.sort_by(|a, b| a.0.cmp(&b.0));
    let (mut owners, mut problems) = (BTreeMap::new(), Vec::new());
    for (role, ids, keys) in &roles {
        for key in ids.iter().filter_map(|id| keys.get(id)) {
            let owner = *owners.entry(material(key)).or_insert(role);
            if owner != role {
                let claim = format!(
                    "{}.root.json and {}.targets.json (root, version {}; targets, version {})",
                    root.version, targets.version, root.version, targets.version
                );
                let expected = format!("keys of {role} that are no other role's");
                let found = format!("one of {owner}");
                problems.push(Problem::new(PolicyCode::KeyRepeated, claim, expected, found));
            }
        }
    }
    PolicyError::unless_empty(problems)
}

struct Check {
    claim: String,
    problems: Vec<Problem>,
}

impl Check {
    fn problem(&mut self, code: PolicyCode, expected: impl std::fmt::Display, found: impl std::fmt::Display) {
        self.problems.push(Problem::new(code, &self.claim, expected, found));
    }

    /// The delegation itself: whose folder, whose keys.
    fn delegation(&mut self, role: &DelegatedRole, region: &str, delegations: &Delegations) {
        let folder = region_folder(region);
        let within = |paths: &PathSet| match paths {
            PathSet::Paths(paths) if !paths.is_empty() => paths.iter().all(|path| path.value().starts_with(&folder)),
            PathSet::Paths(_) | PathSet::PathHashPrefixes(_) => false,
        };
        if !within(&role.paths) {
            let expected = format!("paths of {} below {folder}", role.name);
            let found = match &role.paths {
                PathSet::Paths(paths) => format!("{:?}", paths.iter().map(|p| p.value()).collect::<Vec<_>>()),
                PathSet::PathHashPrefixes(_) => "prefixes of digests".to_owned(),
            };
            self.problem(PolicyCode::DelegationRefused, expected, found);
        }
        if !role.terminating {
            let expected = format!("a terminating delegation to {}", role.name);
            self.problem(PolicyCode::DelegationRefused, expected, "one that is not");
        }
        if role.keyids.len() > MAX_REGION_KEYS {
            let expected = format!("at most {MAX_REGION_KEYS} keys of {}", role.name);
            self.problem(PolicyCode::DelegationRefused, expected, role.keyids.len());
        }
        let distinct: BTreeSet<_> = role.keyids.iter().collect();
        let keys = role.keyids.iter().filter_map(|id| delegations.keys.get(id));
        if distinct.len() != role.keyids.len() || !differ(keys) {
            let expected = format!("keys of {} that differ", role.name);
            self.problem(PolicyCode::KeyRepeated, expected, "one key under two ids");
        }
    }

    /// What the region signed.
    fn role(
        &mut self,
        role: &DelegatedRole,
        region: &str,
        signed: &Signed<Targets>,
    ) -> Result<SignedRegion, PolicyError> {
        let (own, folder) = (&signed.signed, region_folder(region));
        let claim = format!(
            "{}.{}.json ({}, version {})",
            own.version, role.name, role.name, own.version
        );
        if let Some(further) = own.delegations.as_ref().and_then(|d| d.roles.first()) {
            let problem = Problem::new(
                PolicyCode::DelegationUnknown,
                &claim,
                "no further delegation",
                &further.name,
            );
            self.problems.push(problem);
        }
        for name in own
            .targets
            .keys()
            .map(|name| name.raw())
            .filter(|name| !name.starts_with(&folder))
        {
            let expected = format!("targets below {folder}");
            self.problems
                .push(Problem::new(PolicyCode::RegionOutside, &claim, expected, name));
        }
        let form = own.canonical_form();
        let form = form.map_err(|e| PolicyError::new(PolicyCode::MetadataUnreadable, &claim, "JSON", e))?;
        let mut keys: Vec<String> = role.keyids.iter().map(|id| hex::encode(&**id)).collect();
        keys.sort();
        Ok(SignedRegion {
            version: own.version.get(),
            digest: Sha256::digest(&form).into(),
            expires: own.expires.as_second(),
            threshold: role.threshold.get(),
            keys,
        })
    }
}

/// Whether no two of these are the same key; fields that no signature check looks at do not make them differ.
fn differ<'a>(keys: impl Iterator<Item = &'a Key>) -> bool {
    let mut seen = BTreeSet::new();
    keys.map(material).all(|material| seen.insert(material))
}

fn material(key: &Key) -> Vec<u8> {
    match key {
        Key::Ed25519 { keyval, .. } => keyval.public.to_vec(),
        Key::Rsa { keyval, .. } => keyval.public.to_vec(),
        Key::Ecdsa { keyval, .. } | Key::EcdsaOld { keyval, .. } => keyval.public.to_vec(),
    }
}
