//! Opening a repository with `tough`: metadata, signatures, versions and digests; each failure with its own code.
//!
//! Expiry is no part of this: see [`expiry`](crate::expiry). Source: TUF 1.0.34, 5.

pub mod delegation;
pub(crate) mod expiry;
pub mod floors;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::path::Path;

use sha2::{Digest, Sha256};
use touchstone_cose::cbor::{self, Value};
use tough::schema::{Role, RoleType, Root, Signed};
use tough::{IntoVec, Repository, TargetName, TransportError, TransportErrorKind};
use url::Url;

use crate::error::{PolicyCode, PolicyError};
use crate::layout::METADATA;
use crate::transport::bounded::MAX_ROLE_LEN;
use crate::transport::files::{METADATA_URL, ReadError, RepositoryFiles, TARGETS_URL};
use crate::transport::source::Source;
use crate::tuf::delegation::SignedRegion;
use crate::tuf::floors::{KeysSince, RoleVersions};

/// What the digest of a whole policy begins with, so that it is never taken for another one.
const DIGEST_LABEL: &str = "touchstone-policy/1";

/// A repository whose metadata is signed and fits together; whether it has expired is not judged yet.
pub(crate) struct Opened {
    pub repository: Repository,
    /// The file that trust began with.
    pub root: Vec<u8>,
    pub root_digest: [u8; 32],
    pub root_pinned: bool,
    pub versions: RoleVersions,
    /// Of the signed part of the targets.
    pub targets_digest: [u8; 32],
    /// Of everything that is in force: see [`policy_digest`].
    pub digest: [u8; 32],
    /// The regions with keys of their own.
    pub regions: BTreeMap<String, SignedRegion>,
    /// What was read to get here.
    pub files: RepositoryFiles,
}

/// Opens the repository at `source`, from the root given or from its own first root. Targets that are in `kept`, a
/// folder laid out like a repository, are not fetched again.
pub(crate) async fn open(source: &Source, kept: Option<&Path>, pinned: Option<&[u8]>) -> Result<Opened, PolicyError> {
    let files = RepositoryFiles::open(source, kept)?;
    let root = match pinned {
        Some(bytes) => {
            must_be_in(bytes, &files).await?;
            bytes.to_vec()
        }
        None => first_root(&files).await?,
    };
    let url = |text: &str| Url::parse(text).map_err(|e| PolicyError::new(PolicyCode::Io, text, "a URL", e));
    let loading = expiry::loader(&root, url(METADATA_URL)?, url(TARGETS_URL)?)
        .transport(files.clone())
        .load()
        .await;
    let repository = match loading {
        Ok(repository) => repository,
        Err(e) => return Err(metadata_error(&e, &files, source, pinned.is_some())),
    };
    let regions = delegation::regions(&repository.targets().signed, &repository.snapshot().signed)?;
    delegation::root_keys_differ(&repository.root().signed)?;
    delegation::one_role_a_key(&repository.root().signed, &repository.targets().signed)?;
    let read = files.metadata();
    let followed = |file: &str| {
        read.iter()
            .rev()
            .find(|(name, _)| name == file)
            .map(|(_, bytes)| bytes.as_slice())
    };
    let versions = versions(&repository, &regions, &root, followed);
    // The digest of what was signed: signatures may be merged in any order, the policy is the same.
    let signed = repository.targets().signed.canonical_form();
    let signed = signed.map_err(|e| PolicyError::new(PolicyCode::MetadataUnreadable, "targets", "JSON", e))?;
    let targets_digest = Sha256::digest(&signed).into();
    Ok(Opened {
        root_digest: Sha256::digest(&root).into(),
        root_pinned: pinned.is_some(),
        targets_digest,
        digest: policy_digest(targets_digest, &regions),
        versions,
        regions,
        repository,
        root,
        files,
    })
}

/// The versions of all roles of a repository that was loaded from the root `begun`. `followed` gives the roots after that
/// one, by the name of their file, as they were read.
pub(crate) fn versions<'a>(
    repository: &Repository,
    regions: &BTreeMap<String, SignedRegion>,
    begun: &'a [u8],
    followed: impl Fn(&str) -> Option<&'a [u8]>,
) -> RoleVersions {
    let newest = &repository.root().signed;
    let read = |bytes: &[u8]| {
        serde_json::from_slice::<Signed<Root>>(bytes)
            .ok()
            .map(|root| root.signed)
    };
    let first = read(begun);
    let begin = first.as_ref().map_or(newest.version, |root| root.version).get();
    let between = (begin.saturating_add(1)..newest.version.get()).rev();
    // A root that cannot be read again tells of no rotation: the floors stay.
    let before = between.map_while(|version| followed(&format!("{version}.root.json")).and_then(read));
    let before = before.chain(first.filter(|root| root.version < newest.version));
    RoleVersions {
        root: newest.version.get(),
        targets: repository.targets().signed.version.get(),
        snapshot: repository.snapshot().signed.version.get(),
        timestamp: repository.timestamp().signed.version.get(),
        regions: regions
            .iter()
            .map(|(name, region)| (name.clone(), region.version))
            .collect(),
        keys_since: KeysSince::of(newest, before),
    }
}

/// SHA-256 over deterministic CBOR `["touchstone-policy/1", targets digest, [[region, region digest] …]]`, regions in the
/// order of their names: one digest of everything that is in force, whoever signed it.
pub(crate) fn policy_digest(targets: [u8; 32], regions: &BTreeMap<String, SignedRegion>) -> [u8; 32] {
    let regions = regions
        .iter()
        .map(|(name, region)| Value::array([Value::text(name.as_str()), Value::bytes(region.digest)]));
    let value = Value::array([Value::text(DIGEST_LABEL), Value::bytes(targets), Value::array(regions)]);
    Sha256::digest(cbor::encode(&value)).into()
}

/// Reads one target; `tough` compares length and digest with what was signed. `signed_by` is the list it is on.
pub(crate) async fn read_target(
    repository: &Repository,
    name: &TargetName,
    signed_by: &str,
) -> Result<Vec<u8>, PolicyError> {
    let claim = format!("{} ({signed_by})", name.raw());
    let error = |e: tough::error::Error| match &e {
        tough::error::Error::Transport { source, .. } => {
            let (code, expected, found) = match failure(source) {
                Failure::Missing => (PolicyCode::TargetMissing, "a file", "none".into()),
                Failure::TooLarge(found) => (PolicyCode::TargetTooLarge, "a smaller file", found),
                Failure::Mismatch(found) => (PolicyCode::TargetMismatch, "the signed length and digest", found),
                Failure::Slow(found) => (PolicyCode::SourceSlow, "the whole file", found),
                Failure::Unreachable(found) => (PolicyCode::SourceUnreachable, "the file", found),
                Failure::Other(found) => (PolicyCode::Io, "a target to read", found),
            };
            PolicyError::new(code, &claim, expected, found)
        }
        _ => PolicyError::new(PolicyCode::TargetMissing, &claim, "a target to read", &e),
    };
    match repository.read_target(name).await.map_err(error)? {
        Some(stream) => stream.into_vec().await.map_err(error),
        None => Err(PolicyError::new(
            PolicyCode::TargetMissing,
            claim,
            "a listed target",
            "none",
        )),
    }
}

/// Runs a future of this crate to its end on a thread of its own, so that it may be called from anywhere.
pub(crate) fn block_on<T: Send>(future: impl Future<Output = Result<T, PolicyError>> + Send) -> Result<T, PolicyError> {
    let failed = |found: String| PolicyError::new(PolicyCode::Io, "policy repository", "a thread to read with", found);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("policy-load".into())
            .spawn_scoped(scope, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.map_err(|e| failed(e.to_string()))?.block_on(future)
            });
        let thread = thread.map_err(|e| failed(e.to_string()))?;
        thread.join().map_err(|_| failed("it ended early".into()))?
    })
}

/// The newest root file of a repository, followed from its first; for authors, who hold the keys.
pub(crate) fn parse_root(bytes: &[u8]) -> Result<Signed<Root>, String> {
    let root: Signed<Root> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    root.signed.verify_role(&root).map_err(|e| e.to_string())?;
    Ok(root)
}

/// The root before `next`, if this is it: signed by its own keys, of the version before, and `next` signed by them too.
pub(crate) fn root_before(bytes: &[u8], next: &Signed<Root>) -> Option<Signed<Root>> {
    let root = parse_root(bytes).ok()?;
    let follows = root.signed.version.checked_add(1) == Some(next.signed.version);
    (follows && root.signed.verify_role(next).is_ok()).then_some(root)
}

async fn first_root(files: &RepositoryFiles) -> Result<Vec<u8>, PolicyError> {
    let claim = "1.root.json (root, version 1)";
    let read = files.get("metadata/1.root.json", MAX_ROLE_LEN).await;
    read.map_err(|e| {
        let code = match e {
            ReadError::Missing => PolicyCode::RootMissing,
            _ => e.code(),
        };
        PolicyError::new(code, claim, "the first root", e)
    })
}

/// The repository's root of the same version, where it has one, must be the pinned one.
async fn must_be_in(pinned: &[u8], files: &RepositoryFiles) -> Result<(), PolicyError> {
    let root =
        parse_root(pinned).map_err(|e| PolicyError::new(PolicyCode::RootInvalid, "the given root", "a root", e))?;
    let version = root.signed.version;
    let file = format!("{version}.root.json");
    let Ok(bytes) = files.get(&format!("metadata/{file}"), MAX_ROLE_LEN).await else {
        return Ok(());
    };
    match serde_json::from_slice::<Signed<Root>>(&bytes) {
        Ok(own) if own.signed == root.signed => Ok(()),
        _ => {
            let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
            let expected = format!("the pinned root, {}", digest(pinned));
            Err(PolicyError::new(
                PolicyCode::RootMismatch,
                format!("{file} (root, version {version})"),
                expected,
                digest(&bytes),
            ))
        }
    }
}

enum Failure {
    Missing,
    TooLarge(String),
    Mismatch(String),
    Slow(String),
    Unreachable(String),
    Other(String),
}

fn failure(error: &TransportError) -> Failure {
    let Some(cause) = error.source() else {
        return match error.kind() {
            TransportErrorKind::FileNotFound => Failure::Missing,
            _ => Failure::Other(error.to_string()),
        };
    };
    if let Some(read) = cause.downcast_ref::<ReadError>() {
        let found = read.to_string();
        return match read {
            ReadError::Missing => Failure::Missing,
            ReadError::TooLarge(_) => Failure::TooLarge(found),
            ReadError::Io(_) => Failure::Other(found),
            ReadError::Slow(_) => Failure::Slow(found),
            ReadError::Unreachable(_) => Failure::Unreachable(found),
        };
    }
    match cause.downcast_ref::<tough::error::Error>() {
        Some(tough::error::Error::HashMismatch { calculated, .. }) => Failure::Mismatch(format!("sha256:{calculated}")),
        Some(tough::error::Error::MaxSizeExceeded { max_size, .. }) => {
            Failure::Mismatch(format!("more than the {max_size} bytes named for it"))
        }
        _ => Failure::Other(cause.to_string()),
    }
}

/// What a failure of `tough` to load metadata means. The file that was asked for last is the one it is about.
fn metadata_error(error: &tough::error::Error, files: &RepositoryFiles, source: &Source, pinned: bool) -> PolicyError {
    use tough::error::Error;
    let file = files.last();
    match error {
        Error::VerifyTrustedMetadata { source, .. } => {
            let claim = if pinned {
                "the given root"
            } else {
                "1.root.json (root, version 1)"
            };
            signature_error(claim, source, PolicyCode::SignatureInvalid)
        }
        Error::VerifyMetadata {
            role: RoleType::Root,
            source,
            ..
        } if pinned => signature_error(&file, source, PolicyCode::RootMismatch),
        Error::VerifyMetadata { source, .. } => signature_error(&file, source, PolicyCode::SignatureInvalid),
        Error::ParseMetadata { source, .. } => {
            PolicyError::new(PolicyCode::MetadataUnreadable, file, "TUF metadata", source)
        }
        Error::VersionMismatch { fetched, expected, .. } => {
            let (expected, found) = (format!("version {expected}"), format!("version {fetched}"));
            PolicyError::new(PolicyCode::MetadataMismatch, file, expected, found)
        }
        Error::OlderMetadata {
            current_version,
            new_version,
            ..
        } => {
            let (expected, found) = (
                format!("a version after {current_version}"),
                format!("version {new_version}"),
            );
            PolicyError::new(PolicyCode::MetadataMismatch, file, expected, found)
        }
        Error::MaxUpdatesExceeded { max_root_updates, .. } => {
            let expected = format!("at most {max_root_updates} newer roots");
            PolicyError::new(PolicyCode::MetadataTooLarge, file, expected, "more")
        }
        Error::InvalidPath { source, .. } => {
            let expected = "targets within the paths that are delegated";
            PolicyError::new(PolicyCode::RegionOutside, file, expected, source)
        }
        Error::Transport { source: cause, .. } => match failure(cause) {
            Failure::Missing if file.starts_with("timestamp.json") && !has_targets(source) => {
                PolicyError::new(PolicyCode::NotPublished, file, "a published version", "none")
            }
            Failure::Missing => PolicyError::new(PolicyCode::MetadataMissing, file, "a file", "none"),
            Failure::TooLarge(found) => PolicyError::new(PolicyCode::MetadataTooLarge, file, "a smaller file", found),
            Failure::Mismatch(found) => {
                let expected = "the length and digest that the signed metadata names";
                PolicyError::new(PolicyCode::MetadataMismatch, file, expected, found)
            }
            Failure::Slow(found) => PolicyError::new(PolicyCode::SourceSlow, file, "the whole file", found),
            Failure::Unreachable(found) => PolicyError::new(PolicyCode::SourceUnreachable, file, "the file", found),
            Failure::Other(found) => PolicyError::new(PolicyCode::Io, file, "a file to read", found),
        },
        Error::DatastoreInit { .. }
        | Error::DatastoreCreate { .. }
        | Error::DatastoreOpen { .. }
        | Error::DatastoreRemove { .. } => {
            PolicyError::new(PolicyCode::Io, "temporary folder", "a place to work", error)
        }
        _ => PolicyError::new(PolicyCode::MetadataUnreadable, file, "TUF metadata", error),
    }
}

fn signature_error(claim: &str, error: &tough::schema::Error, code: PolicyCode) -> PolicyError {
    match error {
        tough::schema::Error::SignatureThreshold { threshold, valid, .. } => PolicyError::new(
            code,
            claim,
            format!("valid signatures by {threshold} of its keys"),
            valid,
        ),
        _ => PolicyError::new(code, claim, "valid signatures", error),
    }
}

/// Whether any version was ever published here. Of a server nobody can tell.
fn has_targets(source: &Source) -> bool {
    let Some(folder) = source.location().folder() else {
        return true;
    };
    std::fs::read_dir(folder.join(METADATA))
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.ends_with(".targets.json") || name.ends_with(".snapshot.json"))
        })
}
