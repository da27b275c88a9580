//! What a proposal changes, in words for the people who sign it and in JSON for their scripts.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sha2::{Digest, Sha256};
use touchstone_cose::cbor::{self, Value};

use super::next::{Base, Next};
use super::roles::{RoleSigners, authority, of_root};
use crate::error::PolicyError;
use crate::keys::KeyRole;
use crate::layout::TargetKind;
use crate::show::Change;
use crate::tuf::expiry::time;

/// A proposal that was checked whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Review {
    /// The domain.
    pub domain: String,
    /// SHA-256, hexadecimal, over deterministic CBOR ["touchstone-policy-proposal/1", domain, [[role, version, SHA-256 of
    /// what is signed] …]], sorted by role: what signers compare with each other.
    pub digest: String,
    /// Version of the snapshot it follows; 0 for the first version.
    pub follows: u64,
    /// The roles it changes.
    pub roles: Vec<RoleReview>,
    /// The targets it changes.
    pub targets: Vec<TargetReview>,
    /// The keys it changes.
    pub keys: Vec<KeysReview>,
}

/// A changed role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RoleReview {
    /// `targets`, `region-eu-1`, `root`.
    pub role: String,
    /// Its next version.
    pub version: u64,
    /// When it ends, RFC 3339.
    pub expires: String,
    /// How many of its keys must sign.
    pub threshold: u64,
    /// How many keys it has.
    pub keys: usize,
}

/// A changed target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetReview {
    /// Its name.
    pub target: String,
    /// Whose list it stands in.
    pub authority: String,
    /// How it changes.
    pub change: Change,
    /// Its length in the new version, bytes.
    pub length: u64,
    /// Its SHA-256 in the new version, hexadecimal; empty where it is withdrawn.
    pub sha256: String,
}

/// A role whose keys or threshold change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeysReview {
    /// The role.
    pub role: String,
    /// Threshold before; 0 where the role is new.
    pub threshold_before: u64,
    /// Threshold after; 0 where the role is gone.
    pub threshold_after: u64,
    /// Ids of the keys that come.
    pub added: Vec<String>,
    /// Ids of the keys that go.
    pub removed: Vec<String>,
}

impl Review {
    pub(super) fn of(base: &Base, next: &Next) -> Result<Self, PolicyError> {
        let domain = next.contents.settings.domain.clone();
        let mut signed = Vec::new();
        let mut roles = Vec::new();
        for (role, body) in super::draft::by_role(next) {
            let signers = next.signers(&role)?;
            signed.push(Value::array([
                Value::text(role.to_string()),
                Value::Unsigned(body.version()),
                Value::bytes(Sha256::digest(body.canonical()?).as_slice()),
            ]));
            roles.push(RoleReview {
                role: role.to_string(),
                version: body.version(),
                expires: time(body.expires()),
                threshold: signers.threshold,
                keys: signers.keys.len(),
            });
        }
        let form = Value::array([
            Value::text("touchstone-policy-proposal/1"),
            Value::text(domain.as_str()),
            Value::array(signed),
        ]);
        Ok(Self {
            digest: hex::encode(Sha256::digest(cbor::encode(&form))),
            domain,
            follows: base.versions().snapshot,
            roles,
            targets: targets(base, next)?,
            keys: keys(base, next)?,
        })
    }
}

fn targets(base: &Base, next: &Next) -> Result<Vec<TargetReview>, PolicyError> {
    let none = crate::layout::Files::new();
    let before = base.published.as_ref().map_or(&none, |p| &p.files);
    let regions = base.regions()?;
    let kinds: BTreeSet<&TargetKind> = before.keys().chain(next.files.keys()).collect();
    let mut changed = Vec::new();
    for kind in kinds {
        let (old, new) = (before.get(kind), next.files.get(kind));
        let owner = authority(kind, &next.regions);
        let moved = old.is_some() && authority(kind, &regions) != owner;
        let change = match (old, new) {
            (None, _) => Change::New,
            (Some(_), None) => Change::Withdrawn,
            (Some(old), Some(new)) if old != new => Change::Changed,
            (Some(_), Some(_)) if moved => Change::Moved,
            _ => continue,
        };
        changed.push(TargetReview {
            target: kind.name(),
            authority: owner.to_string(),
            change,
            length: new.map_or(0, |bytes| bytes.len() as u64),
            sha256: new.map_or_else(String::new, |bytes| hex::encode(Sha256::digest(bytes))),
        });
    }
    Ok(changed)
}

fn keys(base: &Base, next: &Next) -> Result<Vec<KeysReview>, PolicyError> {
    let all = |root, regions: BTreeMap<String, RoleSigners>| {
        let mut roles = of_root(root)?;
        roles.extend(regions.into_iter().map(|(id, signers)| (KeyRole::Region(id), signers)));
        Ok::<_, PolicyError>(roles)
    };
    let before = all(&base.root.signed, base.regions()?)?;
    let after = all(&next.root, next.regions.clone())?;
    let roles: BTreeSet<&KeyRole> = before.keys().chain(after.keys()).collect();
    let changed = roles.into_iter().filter(|role| before.get(*role) != after.get(*role));
    let ids = |signers: Option<&RoleSigners>| -> BTreeSet<String> {
        signers.map(|s| s.keys.keys().cloned().collect()).unwrap_or_default()
    };
    let review = changed.map(|role| {
        let (old, new) = (before.get(role), after.get(role));
        let (was, is) = (ids(old), ids(new));
        KeysReview {
            role: role.to_string(),
            threshold_before: old.map_or(0, |s| s.threshold),
            threshold_after: new.map_or(0, |s| s.threshold),
            added: is.difference(&was).cloned().collect(),
            removed: was.difference(&is).cloned().collect(),
        }
    });
    Ok(review.collect())
}
