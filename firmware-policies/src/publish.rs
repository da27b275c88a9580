//! Publishing: merge the signatures, make snapshot and timestamp, and make it the version that everyone loads, at once or
//! not at all. See [`commit`](crate::commit) for how it is written.

pub(crate) mod commit;
pub mod timestamp;

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};
use tough::schema::{Hashes, Metafile, Role, Snapshot, Timestamp};

use crate::ceremony::signing::{SPEC_VERSION, ends_soon, expires_at, signed_by};
use crate::ceremony::{self, Base, Draft, LAST_HONEST_VERSION, Next, RoleBody, Scope, Signatures};
use crate::error::{PolicyCode, PolicyError};
use crate::keys::{KeyDir, KeyRole};
use crate::layout::{METADATA, target_path};
use crate::publish::commit::{Commit, FileWrite, Placing};
use crate::repository::Repository;
use crate::tuf::floors::RoleVersions;

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishedVersion {
    /// The domain.
    pub domain: String,
    /// The versions of all roles.
    pub versions: RoleVersions,
    /// How many targets.
    pub targets: usize,
    /// The roles that were signed, with the names of the keys that did.
    pub signed: Vec<(String, Vec<String>)>,
    /// References that were signed now.
    pub references_signed: Vec<String>,
    /// Targets that are not part of the policy any more.
    pub withdrawn: Vec<String>,
    /// When the first role expires, RFC 3339: publish again before.
    pub expires: String,
    /// What the author should know.
    pub notes: Vec<String>,
}

/// What is published, and with whose signatures.
#[derive(Debug, Clone, Default)]
pub struct PublishOptions {
    /// A proposal; without one, what is staged within [`PublishOptions::scope`].
    pub proposal: Option<PathBuf>,
    /// Signature files over that proposal. Keys of the folder sign as well.
    pub signatures: Vec<PathBuf>,
    /// What is published of what is staged; a proposal says it itself.
    pub scope: Scope,
}

/// Signs the staged files over the published ones with the keys of one folder and makes them the next version. `now` is
/// Unix seconds.
///
/// # Errors
/// [`PolicyError`], and then nothing has changed: `policy-publish-busy`, key errors, `policy-threshold-not-met`, and
/// everything that [`load`](crate::load::load) would refuse.
pub fn publish(repo: &Path, keys_dir: &Path, now: i64) -> Result<PublishedVersion, PolicyError> {
    publish_with(repo, &KeyDir::new(keys_dir), &PublishOptions::default(), now)
}

/// [`publish`], with signatures that were made elsewhere.
///
/// # Errors
/// As [`publish`], and what merging signatures refuses: `policy-proposal-stale`, `policy-signature-other-proposal`,
/// `policy-signature-key-unknown`, `policy-signature-invalid`.
pub fn publish_with(
    repo: &Path,
    keys: &KeyDir,
    options: &PublishOptions,
    now: i64,
) -> Result<PublishedVersion, PolicyError> {
    let repository = Repository::open(repo)?;
    let publication = Publication::prepare(&repository, keys, options, now)?;
    publication.commit.run(repo, now)?;
    ceremony::forget(repo, publication.root_changed, publication.targets_changed);
    Ok(publication.report)
}

/// A version that is signed and checked, and not yet written.
#[derive(Debug)]
pub(crate) struct Publication {
    pub commit: Commit,
    pub report: PublishedVersion,
    root_changed: bool,
    targets_changed: bool,
}

impl Publication {
    pub fn prepare(
        repository: &Repository,
        keys: &KeyDir,
        options: &PublishOptions,
        now: i64,
    ) -> Result<Self, PolicyError> {
        let repo = repository.path();
        let base = Base::open(repo, None)?;
        let mut notes = Vec::new();
        let (draft, signatures) = match &options.proposal {
            Some(folder) => {
                let draft = Draft::proposed(&base, ceremony::read_proposal(folder, &base, now)?);
                (draft, &options.signatures)
            }
            None if !options.signatures.is_empty() => {
                let expected = "the proposal that the signatures are over";
                return Err(PolicyError::new(
                    PolicyCode::SignatureOther,
                    "signatures",
                    expected,
                    "none",
                ));
            }
            None => {
                let draft = at_once(repository, &base, keys, &options.scope, now, &mut notes)?;
                (draft, &options.signatures)
            }
        };
        let Draft {
            next,
            references_signed,
            withdrawn,
        } = draft;
        notes.extend(next.notes.iter().cloned());
        let merged = merge(&base, &next, keys, signatures)?;
        let mut files = TargetFiles::of(repo, &next);
        let mut metas = base.snapshot_meta();
        let mut signed = Vec::new();
        for body in &next.bodies {
            let bytes = merged.finish(&base, &next, body)?;
            if let RoleBody::Root(root) = body {
                notes.push(format!("the root is new: version {}", root.version));
            } else {
                let version = base.next_version(&body.role())?;
                let meta = Metafile {
                    version,
                    ..metafile(&bytes)
                };
                metas.insert(format!("{}.json", body.role()), meta);
            }
            let role = body.role();
            let mut names: Vec<String> = merged.of(&role).map(|(_, (name, _))| name.clone()).collect();
            names.sort();
            signed.push((role.to_string(), names));
            files.metadata.push((body.file(), bytes));
        }
        let timers = &next.contents.settings.timers;
        let snapshot = Snapshot {
            meta: metas,
            ..Snapshot::new(
                SPEC_VERSION.into(),
                base.next_version_under(&KeyRole::Snapshot, &next.root, last_snapshot(repo))?,
                expires_at(now, seconds(timers.snapshot_life_ms))?,
            )
        };
        let (snapshot_file, snapshot_version) = (snapshot.filename(true), snapshot.version);
        let snapshot = signed_by(snapshot, &next.signers(&KeyRole::Snapshot)?, keys, &KeyRole::Snapshot)?;
        let mut timestamp = Timestamp::new(
            SPEC_VERSION.into(),
            base.next_version_under(&KeyRole::Timestamp, &next.root, 0)?,
            expires_at(now, seconds(timers.timestamp_life_ms))?,
        );
        let meta = Metafile {
            version: snapshot_version,
            ..metafile(&snapshot)
        };
        timestamp.meta.insert("snapshot.json".into(), meta);
        let (timestamp_version, expires) = (timestamp.version, timestamp.expires);
        let timestamp = signed_by(
            timestamp,
            &next.signers(&KeyRole::Timestamp)?,
            keys,
            &KeyRole::Timestamp,
        )?;
        files.metadata.push((snapshot_file, snapshot));
        let versions = RoleVersions {
            root: next.root.version.get(),
            targets: next.targets.version.get(),
            snapshot: snapshot_version.get(),
            timestamp: timestamp_version.get(),
            regions: next.region_versions(&base),
            keys_since: base.versions().keys_since.followed(&base.root.signed, &next.root),
        };
        let before = base.versions();
        for (role, now, before) in [
            (KeyRole::Snapshot, versions.snapshot, before.snapshot),
            (KeyRole::Timestamp, versions.timestamp, before.timestamp),
        ] {
            if now < before {
                notes.push(format!(
                    "the {role} begins anew at version {now}: version {before} was a thief's"
                ));
            }
        }
        let changes = |role: &KeyRole| next.bodies.iter().any(|body| body.role() == *role);
        Ok(Publication {
            root_changed: changes(&KeyRole::Root),
            targets_changed: changes(&KeyRole::Targets),
            commit: Commit {
                targets: files.targets,
                metadata: files.metadata,
                timestamp,
                placing: match &base.published {
                    None => Placing::FolderIfPossible,
                    Some(_) if changes(&KeyRole::Root) => Placing::Folder,
                    Some(_) => Placing::Files,
                },
                floors: base.published.as_ref().map(|p| p.opened.versions.clone()),
            },
            report: PublishedVersion {
                domain: next.contents.settings.domain.clone(),
                versions,
                targets: next.files.len(),
                signed,
                references_signed,
                withdrawn,
                expires: next.root.expires.min(expires).to_string(),
                notes,
            },
        })
    }
}

/// What is staged, to be signed by the keys of one folder. A root that ends soon is renewed where enough of its keys are
/// in it; without them it goes on until its end.
fn at_once(
    repository: &Repository,
    base: &Base,
    keys: &KeyDir,
    scope: &Scope,
    now: i64,
    notes: &mut Vec<String>,
) -> Result<Draft, PolicyError> {
    let draft = |renew| ceremony::draft(repository, base, Some(keys), scope, renew, now);
    let root = &base.root.signed;
    if !ends_soon(root, now) || matches!(scope, Scope::Region(_)) {
        return draft(false);
    }
    let renewed = draft(true)?;
    let enough = renewed
        .next
        .bodies
        .iter()
        .find(|body| matches!(body, RoleBody::Root(_)))
        .map(|body| {
            let mut own = Signatures::default();
            own.add_local(base, &renewed.next, body, keys)?;
            own.finish(base, &renewed.next, body)
        });
    match enough {
        Some(Err(_)) if root.expires.as_second() > now => {
            notes.push(format!(
                "the root ends at {}: renew it with policy root renew",
                root.expires
            ));
            draft(false)
        }
        Some(Err(_)) => {
            let found = format!("an end at {}, and too few root keys to renew it", root.expires);
            let expected = format!("an end after {}", crate::tuf::expiry::time(now));
            Err(PolicyError::new(PolicyCode::RootExpired, "root", expected, found))
        }
        _ => Ok(renewed),
    }
}

fn merge(base: &Base, next: &Next, keys: &KeyDir, files: &[PathBuf]) -> Result<Signatures, PolicyError> {
    let mut merged = Signatures::default();
    merged.add_files(files, base, next)?;
    for body in &next.bodies {
        merged.add_local(base, next, body, keys)?;
    }
    Ok(merged)
}

struct TargetFiles {
    targets: Vec<FileWrite>,
    metadata: Vec<(String, Vec<u8>)>,
}

impl TargetFiles {
    /// Targets are named by their digest: one that is there whole need not be written again.
    fn of(repo: &Path, next: &Next) -> Self {
        let mut targets = Vec::new();
        for (kind, bytes) in &next.files {
            let path = target_path(repo, &kind.name(), &Sha256::digest(bytes));
            let is_there =
                crate::transport::bounded::read_bounded(&path, bytes.len() as u64).is_ok_and(|found| found == *bytes);
            if !is_there {
                targets.push(FileWrite {
                    path,
                    bytes: bytes.clone(),
                });
            }
        }
        Self {
            targets,
            metadata: Vec::new(),
        }
    }
}

/// The last snapshot that lies in the repository and that its owners can have made; a thief's lies above.
fn last_snapshot(repo: &Path) -> u64 {
    let names = std::fs::read_dir(repo.join(METADATA)).into_iter().flatten().flatten();
    let versions = names.filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.strip_suffix(".snapshot.json")?.parse().ok()
    });
    versions
        .filter(|version| *version <= LAST_HONEST_VERSION)
        .max()
        .unwrap_or(0)
}

fn seconds(ms: u64) -> i64 {
    i64::try_from(ms / 1000).unwrap_or(i64::MAX).max(1)
}

/// Length and digest of a metadata file, as version 1.
pub(crate) fn metafile(bytes: &[u8]) -> Metafile {
    Metafile {
        length: Some(bytes.len() as u64),
        hashes: Some(Hashes {
            sha256: Sha256::digest(bytes).to_vec().into(),
            _extra: HashMap::new(),
        }),
        version: NonZeroU64::MIN,
        _extra: HashMap::new(),
    }
}

#[cfg(test)]
mod tests;
