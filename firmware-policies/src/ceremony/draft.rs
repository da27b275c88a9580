//! From what is staged to the roles that the next version changes.

use std::collections::BTreeMap;

use super::Scope;
use super::body::RoleBody;
use super::next::{Base, Next, signed_under, still_signed};
use super::roles::{build_root, build_targets, list_of, of_root, partition, targets_of};
use super::staged::{wanted_regions, wanted_roles};
use crate::ceremony::signing::{ROOT_LIFE, TARGETS_LIFE, expires_at};
use crate::error::{PolicyCode, PolicyError};
use crate::keys::{KeyDir, KeyRole, RoleKey};
use crate::layout::Files;
use crate::layout::{RegionTarget, TargetKind};
use crate::repository::{Repository, overlay};
use touchstone_verifier::corim::{UntrustedCorim, sign_corim};

/// The next version before it is signed.
#[derive(Debug)]
pub(crate) struct Draft {
    pub next: Next,
    /// References that were signed now.
    pub references_signed: Vec<String>,
    /// Targets that are not part of the policy any more.
    pub withdrawn: Vec<String>,
}

impl Draft {
    /// The version that a proposal makes: what it withdraws is what was published and is not listed any more.
    pub fn proposed(base: &Base, next: Next) -> Self {
        let published = base.published.iter().flat_map(|p| p.files.keys());
        let withdrawn = published
            .filter(|kind| !next.files.contains_key(*kind))
            .map(TargetKind::name);
        Self {
            withdrawn: withdrawn.collect(),
            references_signed: Vec::new(),
            next,
        }
    }
}

/// Makes the next version of what is staged within `scope`. Reference values that are unsigned are signed with the first
/// reference key of `keys`.
pub(crate) fn draft(
    repository: &Repository,
    base: &Base,
    keys: Option<&KeyDir>,
    scope: &Scope,
    renew_root: bool,
    now: i64,
) -> Result<Draft, PolicyError> {
    let repo = repository.path();
    let published = base.regions()?;
    let regions = match scope {
        Scope::Region(id) if !published.contains_key(id) => {
            let expected = "a region that signs for itself in the published version";
            return Err(PolicyError::new(
                PolicyCode::DelegationRefused,
                id,
                expected,
                "none of this name",
            ));
        }
        Scope::Region(_) => published,
        Scope::All | Scope::Global => wanted_regions(repo, base)?,
    };
    let mut staged = repository.staged()?;
    staged.retain(|kind, _| scope.takes(&super::roles::authority(kind, &regions)));
    let mut files = base.files();
    let withdrawn = overlay(&mut files, staged);
    let references_signed = sign_references(&mut files, keys, now)?;

    let mut bodies = Vec::new();
    let roles = match scope {
        Scope::Region(_) => None,
        Scope::All | Scope::Global => wanted_roles(repo, base)?,
    };
    let roles = match roles {
        None if renew_root => Some(of_root(&base.root.signed)?),
        roles => roles,
    };
    let mut root = base.root.signed.clone();
    if let Some(roles) = roles {
        root = build_root(base.next_version(&KeyRole::Root)?, expires_at(now, ROOT_LIFE)?, &roles)?;
        bodies.push(RoleBody::Root(root.clone()));
    }
    let lists = partition(&files, &regions);
    let list = |role: &KeyRole| list_of(lists.get(role).into_iter().flatten().copied());
    let expires = expires_at(now, TARGETS_LIFE)?;
    let mut delegations = base.targets().and_then(|t| t.delegations.clone());
    let must = base
        .published
        .as_ref()
        .is_some_and(|p| !signed_under(p.opened.repository.targets(), &root));
    if !matches!(scope, Scope::Region(_)) || must {
        let version = base.next_version(&KeyRole::Targets)?;
        let targets = build_targets(version, expires, &list(&KeyRole::Targets), Some(&regions))?;
        delegations = targets.delegations.clone();
        bodies.push(RoleBody::Targets(targets));
    }
    for id in regions.keys() {
        let role = KeyRole::Region(id.clone());
        let own = list(&role);
        let published = base.region(id);
        let same = match published {
            Some(signed) => targets_of(&signed.signed)? == own && still_signed(signed, id, delegations.as_ref()),
            None => false,
        };
        if same && *scope != Scope::Region(id.clone()) {
            continue;
        }
        let list = build_targets(base.next_version(&role)?, expires, &own, None)?;
        bodies.push(RoleBody::Region(id.clone(), list));
    }
    let fetch = |kind: &TargetKind, _: &[u8; 32]| {
        let missing = || PolicyError::new(PolicyCode::TargetMissing, kind.name(), "a staged file", "none");
        files.get(kind).cloned().ok_or_else(missing)
    };
    let next = Next::check(base, bodies, &fetch, now)?;
    Ok(Draft {
        next,
        references_signed,
        withdrawn,
    })
}

/// Signs every CoRIM that is unsigned, with the first reference key, and names it after its key file.
fn sign_references(files: &mut Files, keys: Option<&KeyDir>, now: i64) -> Result<Vec<String>, PolicyError> {
    let mut signed = Vec::new();
    let mut signer: Option<RoleKey> = None;
    for (kind, bytes) in files.iter_mut() {
        let name = match kind {
            TargetKind::Reference(name) => name.clone(),
            TargetKind::Region(region, RegionTarget::Reference(name)) => format!("{region}/{name}"),
            _ => continue,
        };
        // Only the verifier says what unsigned is; what is signed, by whomever, is judged with everything else.
        if !matches!(
            UntrustedCorim::new(bytes).verify(&[], now),
            Err(touchstone_verifier::corim::CorimError::Unsigned)
        ) {
            continue;
        }
        let key = match &signer {
            Some(key) => key,
            None => signer.insert(reference_key(keys)?),
        };
        *bytes = sign_corim(bytes, key.signer(), &key.name, None)
            .map_err(|e| PolicyError::new(PolicyCode::ReferenceRefused, kind.name(), "reference values to sign", e))?;
        signed.push(name);
    }
    Ok(signed)
}

fn reference_key(keys: Option<&KeyDir>) -> Result<RoleKey, PolicyError> {
    let missing = || {
        let expected = "a key to sign the staged reference values with";
        PolicyError::new(PolicyCode::KeyMissing, "reference-1.pem", expected, "none")
    };
    let keys = keys.ok_or_else(missing)?.keys(&KeyRole::Reference)?;
    keys.into_iter().next().ok_or_else(missing)
}

/// What each changed role says, by role.
pub(super) fn by_role(next: &Next) -> BTreeMap<KeyRole, &RoleBody> {
    next.bodies.iter().map(|body| (body.role(), body)).collect()
}
