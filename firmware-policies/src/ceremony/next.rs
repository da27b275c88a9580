//! The version that is published, and the one that would follow it: checked whole, by authors, signers and publishers
//! alike, before anything is signed or written.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;

use sha2::{Digest, Sha256};
use tough::schema::{Delegations, Metafile, Role, RoleType, Root, Signed, Targets};

use super::body::RoleBody;
use super::continues::continues;
use super::roles::{
    Listed, RoleSigners, authority, build_root, build_targets, named, of_delegations, of_root, one_role_each,
    targets_of,
};
use crate::error::{PolicyCode, PolicyError};
use crate::keys::KeyRole;
use crate::layout::Files;
use crate::layout::TargetKind;
use crate::load::contents::{Contents, MAX_TARGETS, MAX_TOTAL_LEN};
use crate::repository::{Published, first_root, published_from};
use crate::tuf::delegation::role_name;
use crate::tuf::expiry::time;
use crate::tuf::floors::{RoleVersions, takes_out};

/// Longest life of a role that is proposed, seconds: a year and some weeks.
pub const MAX_ROLE_LIFE: i64 = 400 * 86_400;
/// The last version that a role of an honest domain can have: one a second would take 34,000 years.
pub const LAST_HONEST_VERSION: u64 = 1 << 40;

/// Gives the bytes of a target by its kind and digest.
pub(crate) type Fetch<'a> = &'a dyn Fn(&TargetKind, &[u8; 32]) -> Result<Vec<u8>, PolicyError>;

/// What is published.
pub(crate) struct Base {
    /// The newest root.
    pub root: Signed<Root>,
    /// The version; none before the first.
    pub published: Option<Published>,
}

impl Base {
    /// Reads what is published at `path`, from the root given or from its own first. Expired or not: authors must be
    /// able to renew it.
    pub fn open(path: &Path, pinned: Option<&[u8]>) -> Result<Self, PolicyError> {
        let published = published_from(path, pinned)?;
        let root = match &published {
            Some(published) => published.opened.repository.root().clone(),
            None => first_root(path)?,
        };
        if published.is_none()
            && let Some(pinned) = pinned
            && crate::tuf::parse_root(pinned).ok().as_ref() != Some(&root)
        {
            return Err(PolicyError::new(
                PolicyCode::RootMismatch,
                "1.root.json",
                "the root that was given",
                "another one",
            ));
        }
        Ok(Self { root, published })
    }

    /// The versions of all roles.
    pub fn versions(&self) -> RoleVersions {
        self.published.as_ref().map_or_else(
            || RoleVersions {
                root: self.root.signed.version.get(),
                ..RoleVersions::default()
            },
            |p| p.opened.versions.clone(),
        )
    }

    /// The whole's list of targets.
    pub fn targets(&self) -> Option<&Targets> {
        self.published.as_ref().map(|p| &p.opened.repository.targets().signed)
    }

    /// A region's list of targets, with its signatures.
    pub fn region(&self, id: &str) -> Option<&Signed<Targets>> {
        let name = role_name(id);
        let roles = &self.targets()?.delegations.as_ref()?.roles;
        roles.iter().find(|role| role.name == name)?.targets.as_ref()
    }

    /// The regions that sign for themselves.
    pub fn regions(&self) -> Result<BTreeMap<String, RoleSigners>, PolicyError> {
        of_delegations(self.targets().and_then(|t| t.delegations.as_ref()))
    }

    /// What the snapshot names: every list of targets that was ever published (TUF 1.0.34, 5.5.5).
    pub fn snapshot_meta(&self) -> std::collections::HashMap<String, Metafile> {
        let snapshot = self.published.as_ref().map(|p| p.opened.repository.snapshot());
        snapshot.map(|s| s.signed.meta.clone()).unwrap_or_default()
    }

    /// The version of a role that comes next. A region's goes on from the last it ever had.
    pub fn next_version(&self, role: &KeyRole) -> Result<NonZeroU64, PolicyError> {
        let last = match role {
            KeyRole::Root => self.root.signed.version.get(),
            KeyRole::Snapshot => self.versions().snapshot,
            KeyRole::Timestamp => self.versions().timestamp,
            _ => self
                .snapshot_meta()
                .get(&format!("{role}.json"))
                .map_or(0, |meta| meta.version.get()),
        };
        crate::ceremony::signing::next(last)
    }

    /// The version of a role under the root that comes next: that after the last one, unless the last one is beyond what any
    /// publisher gets to and this root takes keys of the role out. Then a thief made it, and the role begins anew after
    /// `honest`, the last version that is known to be the domain's own. See [`floors`](crate::floors).
    pub fn next_version_under(&self, role: &KeyRole, next: &Root, honest: u64) -> Result<NonZeroU64, PolicyError> {
        let (last, role_type) = match role {
            KeyRole::Snapshot => (self.versions().snapshot, RoleType::Snapshot),
            KeyRole::Timestamp => (self.versions().timestamp, RoleType::Timestamp),
            _ => return self.next_version(role),
        };
        if last > LAST_HONEST_VERSION && takes_out(next, &self.root.signed, role_type) {
            return crate::ceremony::signing::next(honest.min(LAST_HONEST_VERSION));
        }
        self.next_version(role)
    }

    /// Who signs a role of the published root.
    pub fn signers(&self, role: &KeyRole) -> Result<RoleSigners, PolicyError> {
        let missing = || PolicyError::new(PolicyCode::KeyNotInRoot, role, "keys of this role", "none");
        of_root(&self.root.signed)?.remove(role).ok_or_else(missing)
    }

    /// The files that are published.
    pub fn files(&self) -> Files {
        self.published.as_ref().map(|p| p.files.clone()).unwrap_or_default()
    }
}

/// The version that would follow.
#[derive(Debug)]
pub(crate) struct Next {
    /// The root it is signed under.
    pub root: Root,
    /// Every changed role, unsigned.
    pub bodies: Vec<RoleBody>,
    /// The whole's list of targets.
    pub targets: Targets,
    /// Who signs for which region.
    pub regions: BTreeMap<String, RoleSigners>,
    /// Every file.
    pub files: Files,
    /// What they say.
    pub contents: Contents,
    /// What an author should know of them.
    pub notes: Vec<String>,
}

impl Next {
    /// Puts `bodies` over `base` and checks everything that loading will check, but signatures. `fetch` gives the bytes
    /// of a target that `base` does not have.
    pub fn check(base: &Base, bodies: Vec<RoleBody>, fetch: Fetch<'_>, now: i64) -> Result<Self, PolicyError> {
        for (i, body) in bodies.iter().enumerate() {
            follows(base, body, now)?;
            if bodies.iter().skip(i + 1).any(|other| other.role() == body.role()) {
                let claim = body.claim();
                return Err(PolicyError::new(
                    PolicyCode::ProposalUnreadable,
                    claim,
                    "each role once",
                    "twice",
                ));
            }
        }
        let mut root = base.root.signed.clone();
        let mut targets = base.targets().cloned();
        let mut lists: BTreeMap<String, Targets> = BTreeMap::new();
        for body in &bodies {
            match body {
                RoleBody::Root(new) => root = new.clone(),
                RoleBody::Targets(new) => targets = Some(new.clone()),
                RoleBody::Region(id, new) => drop(lists.insert(id.clone(), new.clone())),
            }
        }
        let targets = targets.ok_or_else(|| {
            PolicyError::new(
                PolicyCode::NotPublished,
                "targets",
                "the whole's list in the first version",
                "none",
            )
        })?;
        let regions = of_delegations(targets.delegations.as_ref())?;
        if let Some(id) = lists.keys().find(|id| !regions.contains_key(*id)) {
            let claim = role_name(id);
            let expected = "a region that the whole lets sign for itself";
            return Err(PolicyError::new(
                PolicyCode::DelegationRefused,
                claim,
                expected,
                "no such region",
            ));
        }
        one_role_each(named(&of_root(&root)?, &regions))?;
        let mut listed = targets_of(&targets)?;
        of_its_own(&KeyRole::Targets, listed.keys(), &regions)?;
        for id in regions.keys() {
            let role = KeyRole::Region(id.clone());
            let list = lists.get(id).or_else(|| base.region(id).map(|signed| &signed.signed));
            let list = list.ok_or_else(|| {
                let expected = "a list of the region, signed by its keys";
                PolicyError::new(PolicyCode::DelegationRefused, &role, expected, "none")
            })?;
            let own = targets_of(list)?;
            of_its_own(&role, own.keys(), &regions)?;
            listed.extend(own);
        }
        let files = read(base, &listed, fetch)?;
        let contents = Contents::read(&files, now)?;
        let notes = continues(base.published.as_ref().map(|p| &p.files), &contents)?;
        Ok(Self {
            notes,
            root,
            bodies,
            targets,
            regions,
            files,
            contents,
        })
    }

    /// The version of each region's list.
    pub fn region_versions(&self, base: &Base) -> BTreeMap<String, u64> {
        let version = |id: &String| {
            let role = KeyRole::Region(id.clone());
            let new = self
                .bodies
                .iter()
                .find(|body| body.role() == role)
                .map(RoleBody::version);
            let version = new.or_else(|| base.region(id).map(|signed| signed.signed.version.get()));
            Some((id.clone(), version?))
        };
        self.regions.keys().filter_map(version).collect()
    }

    /// Who signs a role of this version.
    pub fn signers(&self, role: &KeyRole) -> Result<RoleSigners, PolicyError> {
        let missing = || PolicyError::new(PolicyCode::KeyNotInRoot, role, "keys of this role", "none");
        match role {
            KeyRole::Region(id) => self.regions.get(id).cloned().ok_or_else(missing),
            role => of_root(&self.root)?.remove(role).ok_or_else(missing),
        }
    }
}

/// Every target stands in the list of the one authority that its name gives it.
fn of_its_own<'a>(
    role: &KeyRole,
    kinds: impl Iterator<Item = &'a TargetKind>,
    regions: &BTreeMap<String, RoleSigners>,
) -> Result<(), PolicyError> {
    for kind in kinds {
        let owner = authority(kind, regions);
        if owner != *role {
            let (expected, found) = (format!("in the list of {owner}"), format!("in the list of {role}"));
            return Err(PolicyError::new(
                PolicyCode::DelegationRefused,
                kind.name(),
                expected,
                found,
            ));
        }
    }
    Ok(())
}

/// A role that is proposed has the version that comes next, an end that is near enough, and says nothing but what a role
/// of ours says.
fn follows(base: &Base, body: &RoleBody, now: i64) -> Result<(), PolicyError> {
    let claim = body.claim();
    let next = base.next_version(&body.role())?;
    if body.version() != next.get() {
        let (expected, found) = (format!("version {next}"), format!("version {}", body.version()));
        return Err(PolicyError::new(PolicyCode::ProposalStale, claim, expected, found));
    }
    let end = body.expires();
    if end <= now || end > now.saturating_add(MAX_ROLE_LIFE) {
        let expected = format!("an end within {} days after {}", MAX_ROLE_LIFE / 86_400, time(now));
        return Err(PolicyError::new(
            PolicyCode::ProposalUnreadable,
            claim,
            expected,
            time(end),
        ));
    }
    if plain(body)?.canonical()? != body.canonical()? {
        let expected = "what a role of this version says, and nothing beyond it";
        return Err(PolicyError::new(
            PolicyCode::ProposalUnreadable,
            claim,
            expected,
            "more",
        ));
    }
    Ok(())
}

/// The role made anew of what it says, and of nothing beyond that.
pub(super) fn plain(body: &RoleBody) -> Result<RoleBody, PolicyError> {
    Ok(match body {
        RoleBody::Root(root) => RoleBody::Root(build_root(root.version, root.expires, &of_root(root)?)?),
        RoleBody::Targets(list) => {
            let regions = of_delegations(list.delegations.as_ref())?;
            RoleBody::Targets(build_targets(
                list.version,
                list.expires,
                &targets_of(list)?,
                Some(&regions),
            )?)
        }
        RoleBody::Region(id, list) => {
            let plain = build_targets(list.version, list.expires, &targets_of(list)?, None)?;
            RoleBody::Region(id.clone(), plain)
        }
    })
}

fn read(base: &Base, listed: &Listed, fetch: Fetch<'_>) -> Result<Files, PolicyError> {
    let total = listed
        .values()
        .fold(0u64, |sum, (length, _)| sum.saturating_add(*length));
    if listed.len() > MAX_TARGETS || total > MAX_TOTAL_LEN {
        let expected = format!("at most {MAX_TARGETS} targets and {MAX_TOTAL_LEN} bytes");
        let found = format!("{} targets, {total} bytes", listed.len());
        return Err(PolicyError::new(PolicyCode::TargetsTooMany, "targets", expected, found));
    }
    let published = base.published.as_ref().map(|p| &p.files);
    let mut files = Files::new();
    let mut problems = Vec::new();
    for (kind, (length, sha256)) in listed {
        let own = published.and_then(|files| files.get(kind));
        let own = own.filter(|bytes| Sha256::digest(bytes).as_slice() == sha256).cloned();
        let bytes = match own.map_or_else(|| fetch(kind, sha256), Ok) {
            Ok(bytes) => bytes,
            Err(e) => {
                problems.extend(e.into_problems());
                continue;
            }
        };
        let found: [u8; 32] = Sha256::digest(&bytes).into();
        if found != *sha256 || bytes.len() as u64 != *length {
            problems.push(crate::error::Problem::new(
                PolicyCode::TargetMismatch,
                kind.name(),
                format!("{length} bytes, sha256:{}", hex::encode(sha256)),
                format!("{} bytes, sha256:{}", bytes.len(), hex::encode(found)),
            ));
            continue;
        }
        files.insert(kind.clone(), bytes);
    }
    PolicyError::unless_empty(problems)?;
    Ok(files)
}

/// Whether a published list is signed well enough for these delegations: where a region's keys change, it is signed anew.
pub(super) fn still_signed(list: &Signed<Targets>, id: &str, delegations: Option<&Delegations>) -> bool {
    delegations.is_some_and(|d| d.verify_role(list, &role_name(id)).is_ok())
}

/// Whether the published list of the whole is signed well enough under this root.
pub(super) fn signed_under<R: Role + Clone>(signed: &Signed<R>, root: &Root) -> bool {
    root.verify_role(signed).is_ok()
}
