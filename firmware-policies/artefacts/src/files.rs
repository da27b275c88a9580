//! Digests of files: what IMA measures when one of them is run or read.

use std::collections::BTreeMap;

use touchstone_verifier::reason::sanitise;
use touchstone_verifier::tpm::HashAlg;

use crate::ArtefactError;

/// Most files of one list.
pub const MAX_FILES: usize = 200_000;
/// Longest path, in bytes (Linux: PATH_MAX).
pub const MAX_PATH: usize = 4096;
/// Longest file, in bytes.
pub const MAX_FILE: usize = 512 << 20;

/// Digests by absolute path. A path that comes again replaces what was there, as unpacking one archive over another does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileList {
    algorithm: HashAlg,
    files: BTreeMap<String, Vec<u8>>,
}

impl FileList {
    /// An empty list.
    pub fn new(algorithm: HashAlg) -> Self {
        Self {
            algorithm,
            files: BTreeMap::new(),
        }
    }

    /// The algorithm of every digest.
    pub fn algorithm(&self) -> HashAlg {
        self.algorithm
    }

    /// Path and digest of each file, by path.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&str, &[u8])> {
        self.files
            .iter()
            .map(|(path, digest)| (path.as_str(), digest.as_slice()))
    }

    /// Adds a file with this content.
    ///
    /// # Errors
    /// [`ArtefactError`]: a path that leaves the tree or is too long, too many files.
    pub fn add(&mut self, path: &[u8], content: &[u8]) -> Result<(), ArtefactError> {
        let digest = self.algorithm.digest([content]).as_ref().to_vec();
        self.add_digest(path, digest)
    }

    /// Adds another name of a file that is there.
    ///
    /// # Errors
    /// As [`add`](Self::add), and a target that is not there.
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), ArtefactError> {
        let target = absolute(target)?;
        let digest = self.files.get(&target).cloned();
        let digest = digest.ok_or_else(|| ArtefactError::malformed("hard link", "a file that came before", target))?;
        self.add_digest(path, digest)
    }

    /// Takes every file of another list.
    ///
    /// # Errors
    /// [`ArtefactError`]: another algorithm, too many files.
    pub fn extend(&mut self, other: FileList) -> Result<(), ArtefactError> {
        if other.algorithm != self.algorithm {
            return Err(ArtefactError::malformed("file list", self.algorithm, other.algorithm));
        }
        self.files.extend(other.files);
        self.check_count()
    }

    fn add_digest(&mut self, path: &[u8], digest: Vec<u8>) -> Result<(), ArtefactError> {
        self.files.insert(absolute(path)?, digest);
        self.check_count()
    }

    fn check_count(&self) -> Result<(), ArtefactError> {
        if self.files.len() > MAX_FILES {
            return Err(ArtefactError::TooLarge {
                what: "files",
                limit: MAX_FILES,
            });
        }
        Ok(())
    }
}

/// A path of an archive as an absolute one: `./usr/bin/x` is `/usr/bin/x`. Bytes that are no text are shown escaped: the
/// path is for people, the digest is what counts.
fn absolute(path: &[u8]) -> Result<String, ArtefactError> {
    if path.len() > MAX_PATH {
        return Err(ArtefactError::TooLarge {
            what: "path of a file",
            limit: MAX_PATH,
        });
    }
    let mut out = String::new();
    for part in String::from_utf8_lossy(path).split('/') {
        match part {
            "" | "." => (),
            ".." => return Err(ArtefactError::malformed("path of a file", "one inside the tree", "..")),
            part => {
                out.push('/');
                out.push_str(&sanitise(part, MAX_PATH));
            }
        }
    }
    if out.is_empty() {
        return Err(ArtefactError::malformed("path of a file", "a name", "none"));
    }
    Ok(out)
}
