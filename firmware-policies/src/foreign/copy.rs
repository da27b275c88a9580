//! The signed files of a repository that a follower needs, as one thing that can be sent, pushed or carried.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{self, Limits, Value};
use tough::schema::{Signed, Snapshot, Targets, Timestamp};
use tough::{Transport, TransportErrorKind};
use url::Url;

use crate::layout::{self, KEYSET, SETTINGS, TargetKind};
use crate::transport::files::{METADATA_URL, RepositoryFiles, TARGETS_URL};
use crate::transport::source::Source;

/// Largest copy, in bytes.
pub const MAX_COPY_BYTES: usize = 7 << 20;
/// Most files in a copy.
pub const MAX_COPY_FILES: usize = 2_048;
/// Most root rotations in one copy.
const MAX_ROOTS: u64 = 256;
/// Longest name of a file in a copy.
const MAX_FILE_NAME: usize = 300;

const LIMITS: Limits = Limits {
    max_bytes: MAX_COPY_BYTES + 64 * MAX_COPY_FILES,
    max_depth: 4,
    max_items: 4 * MAX_COPY_FILES,
};

/// Why there is no copy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyError {
    /// A file that must be there could not be read.
    Unreachable {
        /// Its name.
        file: String,
        /// Why.
        cause: String,
    },
    /// A file is not what its name says.
    Malformed {
        /// Its name.
        file: String,
        /// What is wrong.
        cause: String,
    },
    /// Over [`MAX_COPY_BYTES`] or [`MAX_COPY_FILES`].
    TooLarge,
}

impl std::fmt::Display for CopyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable { file, cause } => write!(f, "{file}: {cause}"),
            Self::Malformed { file, cause } => write!(f, "{file} cannot be read: {cause}"),
            Self::TooLarge => write!(f, "more than {MAX_COPY_BYTES} bytes or {MAX_COPY_FILES} files"),
        }
    }
}

impl std::error::Error for CopyError {}

/// The files, by name: `metadata/…` and `targets/…`. Nothing in it is believed before
/// [`load_foreign`](super::load_foreign) has verified it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepositoryCopy {
    files: BTreeMap<String, Vec<u8>>,
}

impl RepositoryCopy {
    /// The bytes of a file.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// The timestamp: it changes with every publication.
    #[must_use]
    pub fn timestamp(&self) -> Option<&[u8]> {
        self.file(TIMESTAMP)
    }

    /// Names and bytes, in order.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// Reads the timestamp alone, to see whether anything was published.
    ///
    /// # Errors
    /// [`CopyError`]
    pub async fn read_timestamp(source: &Source) -> Result<Vec<u8>, CopyError> {
        let files = open(source)?;
        Reading::new(&files)
            .fetch(TIMESTAMP, METADATA_URL, "timestamp.json")
            .await
    }

    /// Copies what is published at `source`, with every root after version `root_version`.
    ///
    /// # Errors
    /// [`CopyError`]
    pub async fn read(source: &Source, root_version: u64) -> Result<Self, CopyError> {
        let files = open(source)?;
        let mut reading = Reading::new(&files);
        reading.roots(root_version).await?;
        let timestamp = reading.take(TIMESTAMP, METADATA_URL, "timestamp.json").await?;
        let timestamp: Signed<Timestamp> = parse(TIMESTAMP, &timestamp)?;
        let version = timestamp.signed.meta.get("snapshot.json").map(|meta| meta.version);
        let version = version.ok_or_else(|| malformed(TIMESTAMP, "it names no snapshot"))?;
        let snapshot = reading.metadata(&format!("{version}.snapshot.json")).await?;
        let snapshot: Signed<Snapshot> = parse("snapshot.json", &snapshot)?;
        let mut listed: Vec<_> = snapshot.signed.meta.iter().collect();
        listed.sort_by_key(|(name, _)| name.as_str());
        let mut wanted = Vec::new();
        for (name, meta) in listed {
            let bytes = reading.metadata(&format!("{}.{name}", meta.version)).await?;
            if name == "targets.json" {
                let targets: Signed<Targets> = parse(name, &bytes)?;
                let listed = targets.signed.targets.iter();
                wanted.extend(listed.filter_map(|(target, entry)| {
                    let needed = match TargetKind::of(target.raw())? {
                        TargetKind::Federation(_) | TargetKind::FederationRoot(_) => true,
                        kind => [SETTINGS, KEYSET].contains(&kind.name().as_str()),
                    };
                    needed.then(|| (target.raw().to_owned(), hex::encode(&*entry.hashes.sha256)))
                }));
            }
        }
        for (target, digest) in wanted {
            // Ours lie under digests before the last component; the transport is asked as `tough` asks.
            let name = format!("{}/{}", layout::TARGETS, layout::digest_name(&target, &digest));
            reading.take(&name, TARGETS_URL, &format!("{digest}.{target}")).await?;
        }
        Ok(Self { files: reading.files })
    }

    /// As an array, in order of names.
    #[must_use]
    pub fn value(&self) -> Value {
        let entries = self.files.iter();
        Value::Array(
            entries
                .map(|(name, bytes)| Value::Array(vec![Value::text(name.as_str()), Value::bytes(bytes.as_slice())]))
                .collect(),
        )
    }

    /// Deterministic CBOR: [[name, bytes] …] by rising name.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(&self.value())
    }

    /// SHA-256 of [`Self::encode`].
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.encode()).into()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`CopyError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, CopyError> {
        let value = cbor::decode(bytes, LIMITS).map_err(|e| malformed("copy", &e.to_string()))?;
        Self::from_value(value)
    }

    /// Reads what [`Self::value`] gave.
    ///
    /// # Errors
    /// [`CopyError`]
    pub fn from_value(value: Value) -> Result<Self, CopyError> {
        let shape = || malformed("copy", "it is not [[name, bytes] …] by rising name");
        let Value::Array(items) = value else {
            return Err(shape());
        };
        if items.len() > MAX_COPY_FILES {
            return Err(CopyError::TooLarge);
        }
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for item in items {
            let Value::Array(pair) = item else { return Err(shape()) };
            let Ok([Value::Text(name), Value::Bytes(bytes)]) = <[Value; 2]>::try_from(pair) else {
                return Err(shape());
            };
            if !is_file_name(&name) || files.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(shape());
            }
            files.insert(name, bytes);
        }
        Ok(Self { files })
    }
}

fn open(source: &Source) -> Result<RepositoryFiles, CopyError> {
    RepositoryFiles::open(source, None).map_err(|e| CopyError::Unreachable {
        file: "repository".into(),
        cause: e.to_string(),
    })
}

const TIMESTAMP: &str = "metadata/timestamp.json";

/// Whether a file of a copy may have this name: below `metadata` or `targets`, of plain segments.
fn is_file_name(name: &str) -> bool {
    let plain = |segment: &str| {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        segment.bytes().all(good) && !segment.bytes().all(|b| b == b'.')
    };
    name.len() <= MAX_FILE_NAME
        && (name.starts_with("metadata/") || name.starts_with("targets/"))
        && name.split('/').all(plain)
}

fn parse<T: serde::de::DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, CopyError> {
    serde_json::from_slice(bytes).map_err(|e| malformed(file, &e.to_string()))
}

fn malformed(file: &str, cause: &str) -> CopyError {
    CopyError::Malformed {
        file: file.to_owned(),
        cause: cause.chars().take(200).collect(),
    }
}

/// What was read so far.
struct Reading<'a> {
    source: &'a dyn Transport,
    files: BTreeMap<String, Vec<u8>>,
    bytes: usize,
}

impl<'a> Reading<'a> {
    const fn new(source: &'a dyn Transport) -> Self {
        Self {
            source,
            files: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Every root after that version, until there is none.
    async fn roots(&mut self, after: u64) -> Result<(), CopyError> {
        for version in after.saturating_add(1)..=after.saturating_add(MAX_ROOTS) {
            match self.metadata(&format!("{version}.root.json")).await {
                Ok(_) => {}
                Err(CopyError::Unreachable { cause, .. }) if cause == NOT_FOUND => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn metadata(&mut self, file: &str) -> Result<Vec<u8>, CopyError> {
        self.take(&format!("metadata/{file}"), METADATA_URL, file).await
    }

    async fn take(&mut self, name: &str, base: &str, file: &str) -> Result<Vec<u8>, CopyError> {
        if !is_file_name(name) {
            return Err(malformed("repository", "it names a file that none may be called"));
        }
        let bytes = self.fetch(name, base, file).await?;
        self.bytes = self.bytes.saturating_add(bytes.len());
        self.files.insert(name.to_owned(), bytes.clone());
        if self.files.len() > MAX_COPY_FILES {
            return Err(CopyError::TooLarge);
        }
        Ok(bytes)
    }

    async fn fetch(&self, name: &str, base: &str, file: &str) -> Result<Vec<u8>, CopyError> {
        let unreachable = |cause: String| CopyError::Unreachable {
            file: name.to_owned(),
            cause,
        };
        let failed = |error: &tough::TransportError| match error.kind() {
            TransportErrorKind::FileNotFound => unreachable(NOT_FOUND.into()),
            _ => unreachable(super::words(error)),
        };
        let url = Url::parse(base).and_then(|base| base.join(file));
        let url = url.map_err(|e| unreachable(e.to_string()))?;
        let mut stream = self.source.fetch(url).await.map_err(|e| failed(&e))?;
        let mut bytes = Vec::new();
        while let Some(part) = stream.next().await {
            bytes.extend_from_slice(&part.map_err(|e| failed(&e))?);
            if self.bytes.saturating_add(bytes.len()) > MAX_COPY_BYTES {
                return Err(CopyError::TooLarge);
            }
        }
        Ok(bytes)
    }
}

const NOT_FOUND: &str = "no such file";
