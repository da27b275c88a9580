//! Publishing: sign what is staged, and make it the version that everyone loads, at once or not at all.
//!
//! Every file of the new version has a name of its own (a version number or a digest), so that nothing of the old
//! version is touched; `timestamp.json`, which names the rest, is replaced last, by a rename. Stopped at any instant,
//! the repository is the old version or the new one. Source: TUF 1.0.34, 6.2 (consistent snapshots).

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};
use touchstone_verifier::corim::{UntrustedCorim, sign_corim};
use tough::TargetName;
use tough::schema::{Hashes, Metafile, Role, Snapshot, Target, Targets, Timestamp};

use crate::contents::{Contents, Files};
use crate::error::{PolicyCode, PolicyError};
use crate::floors::RoleVersions;
use crate::keys::{KeyDir, KeyRole, RoleKey};
use crate::keyset_file::Keyset;
use crate::layout::{METADATA, TargetKind, target_path};
use crate::repository::{Repository, first_root, overlay, write_file};
use crate::settings::Settings;
use crate::signing::{SPEC_VERSION, TARGETS_LIFE, expires_at, next, renewed, signed_by};

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishedVersion {
    /// The domain.
    pub domain: String,
    /// The versions of all roles.
    pub versions: RoleVersions,
    /// How many targets.
    pub targets: usize,
    /// References that were signed now.
    pub references_signed: Vec<String>,
    /// Targets that are not part of the policy any more.
    pub withdrawn: Vec<String>,
    /// When the first role expires, RFC 3339: publish again before.
    pub expires: String,
    /// What the author should know.
    pub notes: Vec<String>,
}

/// Signs the staged files over the published ones and makes them the next version. `now` is Unix seconds.
///
/// # Errors
/// [`PolicyError`], and then nothing has changed: `policy-publish-busy`, key errors, and everything that
/// [`load`](crate::load::load) would refuse.
pub fn publish(repo: &Path, keys_dir: &Path, now: i64) -> Result<PublishedVersion, PolicyError> {
    let repository = Repository::open(repo)?;
    let publication = Publication::prepare(&repository, &KeyDir::new(keys_dir), now)?;
    publication.write(publication.writes.len())?;
    Ok(publication.report)
}

/// A file of the new version.
#[derive(Debug)]
pub(crate) struct FileWrite {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// A version that is signed and checked, and not yet written.
#[derive(Debug)]
pub(crate) struct Publication {
    /// In this order; the last one makes the version valid.
    pub writes: Vec<FileWrite>,
    pub report: PublishedVersion,
}

impl Publication {
    /// Writes the first `steps` files. Only all of them are a publish; fewer are what a crash leaves.
    pub fn write(&self, steps: usize) -> Result<(), PolicyError> {
        let mut writes = self.writes.iter().take(steps);
        writes.try_for_each(|write| write_file(&write.path, &write.bytes))
    }

    pub fn prepare(repository: &Repository, keys: &KeyDir, now: i64) -> Result<Self, PolicyError> {
        let repo = repository.path();
        let published = repository.published()?;
        let last = published
            .as_ref()
            .map(|p| p.opened.versions.clone())
            .unwrap_or_default();
        let root = match &published {
            Some(p) => p.opened.repository.root().clone(),
            None => first_root(repo)?,
        };
        let mut files = published.map(|p| p.files).unwrap_or_default();
        let previous = previous(&files);
        let withdrawn = overlay(&mut files, repository.staged()?);
        let references_signed = sign_references(&mut files, keys, now)?;
        let contents = Contents::read(&files, now)?;
        let mut notes = continues(previous.as_ref(), &contents)?;
        let (root, new_root) = renewed(root, keys, now)?;
        let mut writes = Vec::new();
        let metadata = repo.join(METADATA);
        if let Some(bytes) = new_root {
            writes.push(FileWrite {
                path: metadata.join(root.signed.filename(true)),
                bytes,
            });
            notes.push(format!("the root is renewed: version {}", root.signed.version));
        }
        let timers = &contents.settings.timers;
        let seconds = |ms: u64| i64::try_from(ms / 1000).unwrap_or(i64::MAX).max(1);
        let targets = Targets {
            targets: target_list(&files)?,
            delegations: None,
            ..Targets::new(SPEC_VERSION.into(), next(last.targets)?, expires_at(now, TARGETS_LIFE)?)
        };
        let versions = RoleVersions {
            root: root.signed.version.get(),
            targets: targets.version.get(),
            snapshot: next(last.snapshot)?.get(),
            timestamp: next(last.timestamp)?.get(),
            regions: last.regions.clone(),
        };
        for (kind, bytes) in &files {
            let path = target_path(repo, &kind.name(), &Sha256::digest(bytes));
            if !is_there(&path, bytes) {
                writes.push(FileWrite {
                    path,
                    bytes: bytes.clone(),
                });
            }
        }
        let mut role = |role: KeyRole, file: String, bytes: Result<Vec<u8>, PolicyError>| {
            let bytes = bytes.map_err(|e| with_role(e, role))?;
            let meta = metafile(&bytes);
            writes.push(FileWrite {
                path: metadata.join(file),
                bytes,
            });
            Ok::<_, PolicyError>(meta)
        };
        let file = targets.filename(true);
        let version = targets.version;
        let meta = role(
            KeyRole::Targets,
            file,
            signed_by(&root, targets, keys, KeyRole::Targets),
        )?;
        let mut snapshot = Snapshot::new(
            SPEC_VERSION.into(),
            next(last.snapshot)?,
            expires_at(now, seconds(timers.snapshot_life_ms))?,
        );
        snapshot
            .meta
            .insert("targets.json".into(), Metafile { version, ..meta });
        let (file, version) = (snapshot.filename(true), snapshot.version);
        let meta = role(
            KeyRole::Snapshot,
            file,
            signed_by(&root, snapshot, keys, KeyRole::Snapshot),
        )?;
        let expires = expires_at(now, seconds(timers.timestamp_life_ms))?;
        let mut timestamp = Timestamp::new(SPEC_VERSION.into(), next(last.timestamp)?, expires);
        timestamp
            .meta
            .insert("snapshot.json".into(), Metafile { version, ..meta });
        let file = timestamp.filename(true);
        role(
            KeyRole::Timestamp,
            file,
            signed_by(&root, timestamp, keys, KeyRole::Timestamp),
        )?;
        let expires = root.signed.expires.min(expires);
        Ok(Publication {
            writes,
            report: PublishedVersion {
                domain: contents.settings.domain,
                versions,
                targets: files.len(),
                references_signed,
                withdrawn,
                expires: expires.to_string(),
                notes,
            },
        })
    }
}

/// Signs every staged CoRIM that is unsigned, with the first reference key, and names it after its key file.
fn sign_references(files: &mut Files, keys: &KeyDir, now: i64) -> Result<Vec<String>, PolicyError> {
    let mut signed = Vec::new();
    let mut signer = None;
    for (kind, bytes) in files.iter_mut() {
        let TargetKind::Reference(name) = kind else { continue };
        // Only the verifier says what unsigned is; what is signed, by whomever, is judged with everything else.
        if !matches!(
            UntrustedCorim::new(bytes).verify(&[], now),
            Err(touchstone_verifier::corim::CorimError::Unsigned)
        ) {
            continue;
        }
        let key = match &signer {
            Some(key) => key,
            None => signer.insert(first(keys.keys(KeyRole::Reference)?)?),
        };
        *bytes = sign_corim(bytes, &key.key, &key.name, None)
            .map_err(|e| PolicyError::new(PolicyCode::ReferenceRefused, kind.name(), "reference values to sign", e))?;
        signed.push(name.clone());
    }
    Ok(signed)
}

fn first(keys: Vec<RoleKey>) -> Result<RoleKey, PolicyError> {
    let missing = || PolicyError::new(PolicyCode::KeyMissing, "reference-1.pem", "a key", "none");
    keys.into_iter().next().ok_or_else(missing)
}

/// What the published version says about what must not go back.
struct Previous {
    domain: String,
    generation: u64,
    keyset: u64,
}

/// Nothing before the first publish, or where the published settings cannot be read by this program any more.
fn previous(files: &Files) -> Option<Previous> {
    let settings = Settings::parse(files.get(&TargetKind::Settings)?).ok()?;
    let keyset = files
        .get(&TargetKind::Keyset)
        .and_then(|bytes| Keyset::parse(bytes).ok());
    let keyset = keyset.map_or(0, |k| k.version);
    Some(Previous {
        domain: settings.domain,
        generation: settings.generation,
        keyset,
    })
}

/// A new version keeps its domain, and neither its generation nor its keyset goes back.
fn continues(previous: Option<&Previous>, contents: &Contents) -> Result<Vec<String>, PolicyError> {
    let mut notes = Vec::new();
    if contents.keyset.keys.is_empty() {
        notes.push("no keyset yet: a broker's signatures count only after broker init and another publish".into());
    }
    let Some(previous) = previous else { return Ok(notes) };
    let (settings, keyset) = (&contents.settings, contents.keyset.version);
    if settings.domain != previous.domain {
        let expected = format!("domain {}", previous.domain);
        return Err(PolicyError::new(
            PolicyCode::SettingsName,
            "settings.toml: domain",
            expected,
            &settings.domain,
        ));
    }
    if settings.generation < previous.generation {
        let expected = format!("{} or later", previous.generation);
        let claim = "settings.toml: generation";
        return Err(PolicyError::new(
            PolicyCode::SettingsGeneration,
            claim,
            expected,
            settings.generation,
        ));
    }
    if keyset < previous.keyset {
        let expected = format!("version {} or later", previous.keyset);
        return Err(PolicyError::new(
            PolicyCode::KeysetOlder,
            "keyset.json",
            expected,
            keyset,
        ));
    }
    Ok(notes)
}

fn target_list(files: &Files) -> Result<HashMap<TargetName, Target>, PolicyError> {
    let target = |(kind, bytes): (&TargetKind, &Vec<u8>)| {
        let name = TargetName::new(kind.name());
        let name = name.map_err(|e| PolicyError::new(PolicyCode::TargetUnknown, kind.name(), "a target's name", e))?;
        let target = Target {
            length: bytes.len() as u64,
            hashes: hashes(bytes),
            custom: HashMap::new(),
            _extra: HashMap::new(),
        };
        Ok((name, target))
    };
    files.iter().map(target).collect()
}

fn hashes(bytes: &[u8]) -> Hashes {
    Hashes {
        sha256: Sha256::digest(bytes).to_vec().into(),
        _extra: HashMap::new(),
    }
}

pub(crate) fn metafile(bytes: &[u8]) -> Metafile {
    Metafile {
        length: Some(bytes.len() as u64),
        hashes: Some(hashes(bytes)),
        version: NonZeroU64::MIN,
        _extra: HashMap::new(),
    }
}

/// Targets are named by their digest: one that is there whole need not be written again.
fn is_there(path: &Path, bytes: &[u8]) -> bool {
    crate::files::read_bounded(path, bytes.len() as u64).is_ok_and(|found| found == bytes)
}

fn with_role(error: PolicyError, role: KeyRole) -> PolicyError {
    match error.code() {
        PolicyCode::Io => PolicyError::new(PolicyCode::Io, role, "keys to sign with", error),
        _ => error,
    }
}

#[cfg(test)]
mod tests;
