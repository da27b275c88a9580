//! How `tough` reads a repository's files: only regular files, only below the repository, never more than a limit.
//!
//! `tough` asks by URL; ours are `file:///metadata/…` and `file:///targets/…`, so that no path of the machine ever goes
//! through URL encoding. The length of targets.json comes from the snapshot, which an attacker may have signed: the
//! limit here holds whatever was signed.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use tough::{Bytes, Transport, TransportError, TransportErrorKind, TransportStream};
use url::Url;

use crate::layout;

/// Largest metadata file: a hundred thousand targets are about 20 MB.
pub const MAX_METADATA_LEN: u64 = 32 << 20;
/// Largest target file read, whatever was signed for it.
pub const MAX_TARGET_FILE_LEN: u64 = 48 << 20;
/// Where the metadata lies, as `tough` is told.
pub const METADATA_URL: &str = "file:///metadata/";
/// Where the targets lie, as `tough` is told.
pub const TARGETS_URL: &str = "file:///targets/";

/// A file that is larger than any honest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge {
    pub limit: u64,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {} bytes", self.limit)
    }
}

impl std::error::Error for TooLarge {}

/// Reads at most `limit` bytes of a regular file.
///
/// # Errors
/// [`std::io::Error`]; of kind `FileTooLarge` where the file is larger, `InvalidInput` where it is no regular file.
pub fn read_bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    // Opening a pipe would wait for a writer for ever, so the kind is looked at before.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let file = std::fs::File::open(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            TooLarge { limit },
        ));
    }
    Ok(bytes)
}

/// The files of one repository.
#[derive(Debug, Clone)]
pub(crate) struct RepositoryFiles {
    repo: PathBuf,
}

impl RepositoryFiles {
    pub fn new(repo: &Path) -> Self {
        Self { repo: repo.to_owned() }
    }

    /// The file a URL names and the limit for it; nothing for a path that leaves the repository.
    fn locate(&self, url: &Url) -> Option<(PathBuf, u64)> {
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
            (layout::METADATA, file) => Some((self.repo.join(layout::METADATA).join(file), MAX_METADATA_LEN)),
            (layout::TARGETS, name) => {
                // `tough` puts the digest before the whole name; TUF (1.0.34, 5.7.3) before the last component, which
                // is what other clients look for and what keeps a folder of nodes one folder.
                let name = match name.split_once('.') {
                    Some((digest, rest)) if digest.len() == 64 && !digest.contains('/') => {
                        layout::digest_name(rest, digest)
                    }
                    _ => name.to_owned(),
                };
                Some((self.repo.join(layout::TARGETS).join(name), MAX_TARGET_FILE_LEN))
            }
            _ => None,
        }
    }
}

#[tough::async_trait]
impl Transport for RepositoryFiles {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let Some((path, limit)) = self.locate(&url) else {
            return Err(TransportError::new_with_cause(
                TransportErrorKind::Other,
                url,
                "outside the repository",
            ));
        };
        match read_bounded(&path, limit) {
            Ok(bytes) => Ok(Box::pin(futures_util::stream::iter([Ok(Bytes::from(bytes))]))),
            Err(e) => {
                let kind = match e.kind() {
                    std::io::ErrorKind::NotFound => TransportErrorKind::FileNotFound,
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

    fn locate(url: &str) -> Option<PathBuf> {
        RepositoryFiles::new(Path::new("/r"))
            .locate(&Url::parse(url).unwrap())
            .map(|(path, _)| path)
    }

    #[test]
    fn only_files_of_the_repository_are_found() {
        let digest = "ab".repeat(32);
        assert_eq!(
            locate("file:///metadata/7.root.json"),
            Some("/r/metadata/7.root.json".into())
        );
        assert_eq!(
            locate(&format!("file:///targets/{digest}.nodes/a.b.json")),
            Some(format!("/r/targets/nodes/{digest}.a.b.json").into())
        );
        assert_eq!(
            locate(&format!("file:///targets/{digest}.policy.cedar")),
            Some(format!("/r/targets/{digest}.policy.cedar").into())
        );
        for outside in [
            "file:///staged/settings.toml",
            "file:///metadata/%2e%2e/x",
            "file:///targets/a%2Fb",
            "file:///metadata//x",
            "file:///metadata/.../x",
            "file:///metadata",
            "https://example.org/metadata/x",
        ] {
            assert_eq!(locate(outside), None, "{outside}");
        }
    }

    #[test]
    fn what_is_no_file_or_too_large_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            read_bounded(dir.path(), 9).unwrap_err().kind(),
            std::io::ErrorKind::InvalidInput
        );
        let file = dir.path().join("f");
        std::fs::write(&file, [0; 10]).unwrap();
        assert_eq!(read_bounded(&file, 10).unwrap().len(), 10);
        assert_eq!(
            read_bounded(&file, 9).unwrap_err().kind(),
            std::io::ErrorKind::FileTooLarge
        );
        assert_eq!(
            read_bounded(Path::new("/dev/zero"), 9).unwrap_err().kind(),
            std::io::ErrorKind::InvalidInput
        );
    }
}
