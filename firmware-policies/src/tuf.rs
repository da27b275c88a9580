//! Opening a repository with `tough`: metadata, signatures, versions and digests; each failure with its own code.
//!
//! Expiry is no part of this: see [`expiry`](crate::expiry). Source: TUF 1.0.34, 5.

use std::error::Error as _;
use std::future::Future;
use std::path::Path;

use sha2::{Digest, Sha256};
use tough::schema::{Role, RoleType, Root, Signed};
use tough::{IntoVec, Repository, TargetName, TransportError, TransportErrorKind};
use url::Url;

use crate::error::{PolicyCode, PolicyError};
use crate::expiry::{self, MAX_ROLE_LEN};
use crate::files::{METADATA_URL, RepositoryFiles, TARGETS_URL, read_bounded};
use crate::floors::RoleVersions;
use crate::layout::METADATA;

/// A repository whose metadata is signed and fits together; whether it has expired is not judged yet.
pub(crate) struct Opened {
    pub repository: Repository,
    pub root_digest: [u8; 32],
    pub root_pinned: bool,
    pub versions: RoleVersions,
    pub targets_digest: [u8; 32],
}

/// Opens `repo`, from the root given or from its own first root.
pub(crate) async fn open(repo: &Path, pinned: Option<&[u8]>) -> Result<Opened, PolicyError> {
    if !repo.is_dir() {
        let found = "no such folder";
        return Err(PolicyError::new(
            PolicyCode::Io,
            repo.display(),
            "a policy repository",
            found,
        ));
    }
    let metadata = repo.join(METADATA);
    let root = match pinned {
        Some(bytes) => {
            must_be_in(bytes, &metadata)?;
            bytes.to_vec()
        }
        None => first_root(&metadata)?,
    };
    let url = |text: &str| Url::parse(text).map_err(|e| PolicyError::new(PolicyCode::Io, text, "a URL", e));
    let repository = expiry::loader(&root, url(METADATA_URL)?, url(TARGETS_URL)?)
        .transport(RepositoryFiles::new(repo))
        .load()
        .await
        .map_err(|e| metadata_error(&e, &metadata, pinned.is_some()))?;
    let version = |v: std::num::NonZeroU64| v.get();
    let versions = RoleVersions {
        root: version(repository.root().signed.version),
        targets: version(repository.targets().signed.version),
        snapshot: version(repository.snapshot().signed.version),
        timestamp: version(repository.timestamp().signed.version),
    };
    // The digest of what was signed: signatures may be merged in any order, the policy is the same.
    let signed = repository.targets().signed.canonical_form();
    let signed = signed.map_err(|e| PolicyError::new(PolicyCode::MetadataUnreadable, "targets", "JSON", e))?;
    Ok(Opened {
        root_digest: Sha256::digest(&root).into(),
        root_pinned: pinned.is_some(),
        targets_digest: Sha256::digest(&signed).into(),
        versions,
        repository,
    })
}

/// Reads one target; `tough` compares length and digest with what was signed.
pub(crate) async fn read_target(repository: &Repository, name: &TargetName) -> Result<Vec<u8>, PolicyError> {
    let claim = name.raw();
    let error = |e: tough::error::Error| match &e {
        tough::error::Error::Transport { source, .. } => match failure(source) {
            Failure::Missing => PolicyError::new(PolicyCode::TargetMissing, claim, "a file", "none"),
            Failure::TooLarge(found) => PolicyError::new(PolicyCode::TargetTooLarge, claim, "a smaller file", found),
            Failure::Mismatch(found) => {
                PolicyError::new(PolicyCode::TargetMismatch, claim, "the signed length and digest", found)
            }
            Failure::Other(found) => PolicyError::new(PolicyCode::Io, claim, "a target to read", found),
        },
        _ => PolicyError::new(PolicyCode::TargetMissing, claim, "a target to read", &e),
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
                let runtime = tokio::runtime::Builder::new_current_thread().build();
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

fn first_root(metadata: &Path) -> Result<Vec<u8>, PolicyError> {
    let path = metadata.join("1.root.json");
    read_bounded(&path, MAX_ROLE_LEN).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => PolicyError::new(
            PolicyCode::RootMissing,
            "1.root.json (root, version 1)",
            "a file",
            "none",
        ),
        std::io::ErrorKind::FileTooLarge => PolicyError::new(
            PolicyCode::MetadataTooLarge,
            "1.root.json (root, version 1)",
            "a smaller file",
            e,
        ),
        _ => PolicyError::io(&path, "the first root", &e),
    })
}

/// The repository's root of the same version, where it has one, must be the pinned one.
fn must_be_in(pinned: &[u8], metadata: &Path) -> Result<(), PolicyError> {
    let root =
        parse_root(pinned).map_err(|e| PolicyError::new(PolicyCode::RootInvalid, "the given root", "a root", e))?;
    let file = format!("{}.root.json", root.signed.version);
    let Ok(bytes) = read_bounded(&metadata.join(&file), MAX_ROLE_LEN) else {
        return Ok(());
    };
    match serde_json::from_slice::<Signed<Root>>(&bytes) {
        Ok(own) if own.signed == root.signed => Ok(()),
        _ => {
            let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
            let expected = format!("the pinned root, {}", digest(pinned));
            Err(PolicyError::new(
                PolicyCode::RootMismatch,
                file,
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
    Other(String),
}

fn failure(error: &TransportError) -> Failure {
    if error.kind() == TransportErrorKind::FileNotFound {
        return Failure::Missing;
    }
    let Some(cause) = error.source() else {
        return Failure::Other(error.to_string());
    };
    if let Some(io) = cause.downcast_ref::<std::io::Error>() {
        return match io.kind() {
            std::io::ErrorKind::FileTooLarge => Failure::TooLarge(io.to_string()),
            _ => Failure::Other(io.to_string()),
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

/// What a failure of `tough` to load metadata means.
fn metadata_error(error: &tough::error::Error, metadata: &Path, pinned: bool) -> PolicyError {
    use tough::error::Error;
    match error {
        Error::VerifyTrustedMetadata { source, .. } => {
            signature_error(RoleType::Root, source, PolicyCode::SignatureInvalid)
        }
        Error::VerifyMetadata {
            role: RoleType::Root,
            source,
            ..
        } => {
            let code = if pinned {
                PolicyCode::RootMismatch
            } else {
                PolicyCode::SignatureInvalid
            };
            signature_error(RoleType::Root, source, code)
        }
        Error::VerifyMetadata { role, source, .. } => signature_error(*role, source, PolicyCode::SignatureInvalid),
        Error::ParseMetadata { role, source, .. } => {
            PolicyError::new(PolicyCode::MetadataUnreadable, role, "TUF metadata", source)
        }
        Error::VersionMismatch {
            role,
            fetched,
            expected,
            ..
        } => {
            let (expected, found) = (format!("version {expected}"), format!("version {fetched}"));
            PolicyError::new(PolicyCode::MetadataMismatch, role, expected, found)
        }
        Error::OlderMetadata {
            role,
            current_version,
            new_version,
            ..
        } => {
            let (expected, found) = (
                format!("a version after {current_version}"),
                format!("version {new_version}"),
            );
            PolicyError::new(PolicyCode::MetadataMismatch, role, expected, found)
        }
        Error::MaxUpdatesExceeded { max_root_updates, .. } => {
            let expected = format!("at most {max_root_updates} newer roots");
            PolicyError::new(PolicyCode::MetadataTooLarge, "root", expected, "more")
        }
        Error::Transport { url, source, .. } => {
            let file = url.path().rsplit('/').next().unwrap_or_default();
            match failure(source) {
                Failure::Missing if file == "timestamp.json" && !has_targets(metadata) => {
                    PolicyError::new(PolicyCode::NotPublished, file, "a published version", "none")
                }
                Failure::Missing => PolicyError::new(PolicyCode::MetadataMissing, file, "a file", "none"),
                Failure::TooLarge(found) => {
                    PolicyError::new(PolicyCode::MetadataTooLarge, file, "a smaller file", found)
                }
                Failure::Mismatch(found) => {
                    let expected = "the length and digest that the signed metadata names";
                    PolicyError::new(PolicyCode::MetadataMismatch, file, expected, found)
                }
                Failure::Other(found) => PolicyError::new(PolicyCode::Io, file, "a file to read", found),
            }
        }
        Error::DatastoreInit { .. }
        | Error::DatastoreCreate { .. }
        | Error::DatastoreOpen { .. }
        | Error::DatastoreRemove { .. } => {
            PolicyError::new(PolicyCode::Io, "temporary folder", "a place to work", error)
        }
        _ => PolicyError::new(PolicyCode::MetadataUnreadable, "metadata", "TUF metadata", error),
    }
}

fn signature_error(role: RoleType, error: &tough::schema::Error, code: PolicyCode) -> PolicyError {
    match error {
        tough::schema::Error::SignatureThreshold { threshold, valid, .. } => PolicyError::new(
            code,
            role,
            format!("valid signatures by {threshold} of its keys"),
            valid,
        ),
        _ => PolicyError::new(code, role, "valid signatures", error),
    }
}

/// Whether any version was ever published here.
fn has_targets(metadata: &Path) -> bool {
    std::fs::read_dir(metadata)
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
