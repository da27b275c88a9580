//! How `tough` reads a repository's files, from a folder or a web server: only regular files, only below the repository,
//! never more than a limit.
//!
//! `tough` asks by URL; ours are `file:///metadata/…` and `file:///targets/…`, so that no path of the machine ever goes
//! through URL encoding. The length of targets.json comes from the snapshot, which an attacker may have signed: the
//! limit here holds whatever was signed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tough::{Bytes, Transport, TransportError, TransportErrorKind, TransportStream};
use url::Url;

use crate::error::{PolicyCode, PolicyError};
use crate::layout::{self, REGION_ROLE, TargetKind};
use crate::transport::bounded::{MAX_METADATA_LEN, MAX_ROLE_LEN, MAX_ROOT_UPDATES, read_bounded};
use crate::transport::http::{HttpError, HttpFiles};
use crate::transport::source::{Location, Source};

/// Where the metadata lies, as `tough` is told.
pub const METADATA_URL: &str = "file:///metadata/";
/// Where the targets lie, as `tough` is told.
pub const TARGETS_URL: &str = "file:///targets/";

/// Where the files of one repository are read, for one load.
#[derive(Debug, Clone)]
enum Place {
    Folder(PathBuf),
    Http(HttpFiles),
}

/// Metadata files by name, in the order in which they were asked for.
type MetadataRead = Vec<(String, Vec<u8>)>;

/// The files of one repository, for one load.
#[derive(Debug, Clone)]
pub(crate) struct RepositoryFiles {
    place: Place,
    /// A folder whose targets are taken where they are the ones that are asked for, by their digest.
    kept: Option<PathBuf>,
    read: Arc<Mutex<MetadataRead>>,
}

impl RepositoryFiles {
    /// The files at `source`. Targets that `kept`, a folder laid out like a repository, holds are not fetched again.
    ///
    /// # Errors
    /// [`PolicyError`]: `policy-io` where there is no such folder, `policy-source-invalid`.
    pub fn open(source: &Source, kept: Option<&Path>) -> Result<Self, PolicyError> {
        let place = match source.location() {
            Location::Folder(folder) if folder.is_dir() => Place::Folder(folder.clone()),
            Location::Folder(folder) => {
                let found = "no such folder";
                return Err(PolicyError::new(
                    PolicyCode::Io,
                    folder.display(),
                    "a policy repository",
                    found,
                ));
            }
            Location::Url(url) => Place::Http(HttpFiles::new(url, source.tls(), source.limits())?),
        };
        Ok(Self {
            place,
            kept: kept.map(Path::to_owned),
            read: Arc::default(),
        })
    }

    /// The file at `path` below the repository, at most `limit` bytes. What is metadata is remembered.
    pub async fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, ReadError> {
        if let Some(bytes) = self.kept.as_deref().and_then(|kept| kept_target(kept, path, limit)) {
            return Ok(bytes);
        }
        let read = match &self.place {
            Place::Folder(folder) => read_bounded(&folder.join(path), limit).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => ReadError::Missing,
                std::io::ErrorKind::FileTooLarge => ReadError::TooLarge(e.to_string()),
                _ => ReadError::Io(e.to_string()),
            }),
            Place::Http(files) => files.get(path, limit).await.map_err(ReadError::from),
        };
        if let Some(file) = path.strip_prefix(METADATA_PREFIX) {
            // A file that cannot be read was asked for last all the same.
            let bytes = read.as_ref().map_or_else(|_| Vec::new(), Clone::clone);
            let mut kept = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push((file.to_owned(), bytes));
        }
        read
    }

    /// The metadata files that were asked for, in that order, empty where there was none.
    pub fn metadata(&self) -> MetadataRead {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The metadata file that was asked for last, as refusals name it.
    pub fn last(&self) -> String {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let last = read.last().map(|(file, bytes)| describe(file, bytes));
        last.unwrap_or_else(|| "metadata".into())
    }
}

impl Source {
    /// The published `timestamp.json`, nothing of it verified: it is another one after every publication, so that who has
    /// seen it need not load the rest.
    ///
    /// # Errors
    /// [`PolicyError`]: [`PolicyError::is_io`] where it cannot be read, `policy-not-published` where there is none.
    pub async fn timestamp(&self) -> Result<Vec<u8>, PolicyError> {
        let files = RepositoryFiles::open(self, None)?;
        let read = files.get("metadata/timestamp.json", MAX_ROLE_LEN).await;
        read.map_err(|e| {
            let code = match e {
                ReadError::Missing => PolicyCode::NotPublished,
                _ => e.code(),
            };
            PolicyError::new(code, "timestamp.json", format!("a file at {}", self.location()), e)
        })
    }

    /// The root file with this SHA-256, where there is one: how a root that is pinned by its digest gets its bytes.
    ///
    /// # Errors
    /// [`PolicyError`] where a root cannot be read.
    pub async fn root(&self, sha256: &[u8; 32]) -> Result<Option<Vec<u8>>, PolicyError> {
        let files = RepositoryFiles::open(self, None)?;
        for version in 1..=MAX_ROOT_UPDATES {
            let file = format!("{version}.root.json");
            match files.get(&format!("metadata/{file}"), MAX_ROLE_LEN).await {
                Ok(bytes) if <[u8; 32]>::from(Sha256::digest(&bytes)) == *sha256 => return Ok(Some(bytes)),
                Ok(_) => {}
                Err(ReadError::Missing) => return Ok(None),
                Err(e) => return Err(PolicyError::new(e.code(), file, "a root to read", e)),
            }
        }
        Ok(None)
    }
}

const METADATA_PREFIX: &str = "metadata/";
const TARGETS_PREFIX: &str = "targets/";

/// Why a file was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// There is none.
    Missing,
    /// Larger than any honest one.
    TooLarge(String),
    /// The file system.
    Io(String),
    /// The server is too slow.
    Slow(String),
    /// The server cannot be reached, or answers with something else.
    Unreachable(String),
}

impl ReadError {
    /// The code of a file that could not be read for this, whatever it is.
    pub const fn code(&self) -> PolicyCode {
        match self {
            Self::Missing | Self::Io(_) => PolicyCode::Io,
            Self::TooLarge(_) => PolicyCode::MetadataTooLarge,
            Self::Slow(_) => PolicyCode::SourceSlow,
            Self::Unreachable(_) => PolicyCode::SourceUnreachable,
        }
    }
}

impl From<HttpError> for ReadError {
    fn from(error: HttpError) -> Self {
        let found = error.to_string();
        match error {
            HttpError::Missing => Self::Missing,
            HttpError::TooLarge { .. } => Self::TooLarge(found),
            HttpError::TooSlow { .. } => Self::Slow(found),
            HttpError::Unreachable { .. } => Self::Unreachable(found),
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("none"),
            Self::TooLarge(found) | Self::Io(found) | Self::Slow(found) | Self::Unreachable(found) => {
                f.write_str(found)
            }
        }
    }
}

impl std::error::Error for ReadError {}

/// A metadata file as refusals name it: file, role and version. The version in `timestamp.json` is the one it says.
fn describe(file: &str, bytes: &[u8]) -> String {
    let Some(name) = file.strip_suffix(".json") else {
        return file.to_owned();
    };
    if let Some((version, role)) = name.split_once('.') {
        return format!("{file} ({role}, version {version})");
    }
    let said = serde_json::from_slice::<serde_json::Value>(bytes).ok();
    let version = said
        .as_ref()
        .and_then(|value| value.get("signed")?.get("version")?.as_u64());
    match version {
        Some(version) => format!("{file} ({name}, version {version})"),
        None => format!("{file} ({name})"),
    }
}

/// A target that is kept and is the one whose digest is in the path.
fn kept_target(kept: &Path, path: &str, limit: u64) -> Option<Vec<u8>> {
    let name = path.strip_prefix(TARGETS_PREFIX)?;
    let (digest, _) = name.rsplit('/').next()?.split_once('.')?;
    let bytes = read_bounded(&kept.join(path), limit).ok()?;
    (hex::encode(Sha256::digest(&bytes)) == digest).then_some(bytes)
}

/// The file a URL names, relative to the repository, and the limit for it; nothing for a path that leaves it.
fn locate(url: &Url) -> Option<(String, u64)> {
    let path = url.path().strip_prefix('/')?;
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && !part.bytes().all(|b| b == b'.')
    };
    if url.scheme() != "file" || !path.split('/').all(plain) {
        return None;
    }
    match path.split_once('/')? {
        (layout::METADATA, file) if !file.contains('/') => Some((path.to_owned(), metadata_limit(file))),
        (layout::TARGETS, name) => {
            // `tough` puts the digest before the whole name; TUF (1.0.34, 5.7.3) before the last component, which
            // is what other clients look for and what keeps a folder of nodes one folder.
            let (digest, rest) = name
                .split_once('.')
                .filter(|(d, _)| d.len() == 64 && !d.contains('/'))?;
            let limit = TargetKind::of(rest)?.max_len();
            Some((format!("{TARGETS_PREFIX}{}", layout::digest_name(rest, digest)), limit))
        }
        _ => None,
    }
}

/// The most bytes of a metadata file: lists of targets are long, everything else is short.
pub(crate) fn metadata_limit(file: &str) -> u64 {
    let role = file.strip_suffix(".json").and_then(|name| name.split_once('.'));
    match role {
        Some((_, role)) if role == "targets" || role.starts_with(REGION_ROLE) => MAX_METADATA_LEN,
        _ => MAX_ROLE_LEN,
    }
}

#[tough::async_trait]
impl Transport for RepositoryFiles {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let Some((path, limit)) = locate(&url) else {
            return Err(TransportError::new_with_cause(
                TransportErrorKind::Other,
                url,
                "outside the repository",
            ));
        };
        match self.get(&path, limit).await {
            Ok(bytes) => Ok(Box::pin(futures_util::stream::iter([Ok(Bytes::from(bytes))]))),
            Err(e) => {
                let kind = match e {
                    ReadError::Missing => TransportErrorKind::FileNotFound,
                    _ => TransportErrorKind::Other,
                };
                // The error is a stream item: where `tough` looks for a newer root it takes an error of the fetch
                // itself for "there is none", and a root that cannot be read must not be taken for that.
                let error = TransportError::new_with_cause(kind, url, e);
                Ok(Box::pin(futures_util::stream::iter([Err(error)])))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(url: &str) -> Option<String> {
        locate(&Url::parse(url).unwrap()).map(|(path, _)| path)
    }

    #[test]
    fn only_files_of_the_repository_are_found() {
        let digest = "ab".repeat(32);
        assert_eq!(
            path("file:///metadata/7.root.json"),
            Some("metadata/7.root.json".into())
        );
        assert_eq!(
            path(&format!("file:///targets/{digest}.nodes/a.b.json")),
            Some(format!("targets/nodes/{digest}.a.b.json"))
        );
        assert_eq!(
            path(&format!("file:///targets/{digest}.policy.cedar")),
            Some(format!("targets/{digest}.policy.cedar"))
        );
        for outside in [
            "file:///staged/settings.toml",
            "file:///metadata/%2e%2e/x",
            "file:///targets/a%2Fb",
            "file:///metadata//x",
            "file:///metadata/.../x",
            "file:///metadata",
            "file:///metadata/x/y",
            "file:///targets/settings.toml",
            "https://example.org/metadata/x",
        ] {
            assert_eq!(path(outside), None, "{outside}");
        }
    }

    #[test]
    fn only_lists_of_targets_may_be_long() {
        for long in ["7.targets.json", "7.region-eu-1.json"] {
            assert_eq!(metadata_limit(long), MAX_METADATA_LEN, "{long}");
        }
        for short in ["timestamp.json", "7.root.json", "7.snapshot.json", "targets.json", "x"] {
            assert_eq!(metadata_limit(short), MAX_ROLE_LEN, "{short}");
        }
    }

    #[test]
    fn a_metadata_file_is_named_with_role_and_version() {
        let said = br#"{"signed": {"version": 9}}"#;
        assert_eq!(
            describe("timestamp.json", said),
            "timestamp.json (timestamp, version 9)"
        );
        assert_eq!(describe("timestamp.json", b"{"), "timestamp.json (timestamp)");
        assert_eq!(
            describe("7.region-eu.1.json", b""),
            "7.region-eu.1.json (region-eu.1, version 7)"
        );
    }

    #[test]
    fn a_kept_target_is_taken_for_its_digest_alone() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = b"permit";
        let path = format!("targets/{}.policy.cedar", hex::encode(Sha256::digest(bytes)));
        std::fs::create_dir(dir.path().join("targets")).unwrap();
        std::fs::write(dir.path().join(&path), bytes).unwrap();
        assert_eq!(kept_target(dir.path(), &path, 6), Some(bytes.to_vec()));
        assert_eq!(kept_target(dir.path(), &path, 5), None, "too large");
        std::fs::write(dir.path().join(&path), b"forbid").unwrap();
        assert_eq!(kept_target(dir.path(), &path, 6), None, "another file under this name");
        std::fs::write(dir.path().join("timestamp.json"), bytes).unwrap();
        assert_eq!(kept_target(dir.path(), "timestamp.json", 6), None, "no target");
    }
}
