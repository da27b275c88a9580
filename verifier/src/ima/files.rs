//! The files of a reference, compiled once and shared: one look-up an entry, whatever the size.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::corim::FileDigest;
use crate::tpm::HashAlg;

/// Bytes of a digest that the index is by.
const KEY: usize = 8;

/// The files of one reference.
#[derive(Clone, Default)]
pub struct FileSet {
    /// Sorted by digest.
    files: Vec<FileDigest>,
    /// The first of the files whose digest begins with these bytes.
    by_digest: HashMap<[u8; KEY], u32>,
    /// Positions in `files`, sorted by path.
    by_path: Vec<u32>,
    digest: [u8; 32],
}

impl FileSet {
    /// Compiles the files. Their order has no influence.
    pub fn new(files: &[FileDigest]) -> Self {
        let mut files = files.to_vec();
        files.sort_by(|a, b| (&a.digest, a.algorithm, &a.path).cmp(&(&b.digest, b.algorithm, &b.path)));
        files.dedup();
        let mut by_digest = HashMap::with_capacity(files.len());
        let mut context = aws_lc_rs::digest::Context::new(HashAlg::Sha256.algorithm());
        context.update(b"touchstone-file-set/1\0");
        for (position, file) in (0u32..).zip(&files) {
            if let Some(key) = key_of(&file.digest) {
                by_digest.entry(key).or_insert(position);
            }
            context.update(&file.algorithm.tpm_id().to_be_bytes());
            context.update(&file.digest);
        }
        let mut by_path: Vec<u32> = (0u32..).zip(&files).map(|(position, _)| position).collect();
        let path = |position: &u32| files.get(*position as usize).map(|file| file.path.as_str());
        by_path.sort_by(|a, b| path(a).cmp(&path(b)));
        Self {
            digest: context.finish().as_ref().try_into().unwrap_or_default(),
            files,
            by_digest,
            by_path,
        }
    }

    /// The same to share. References without files share one empty set: there may be a million of them.
    pub fn shared(files: &[FileDigest]) -> Arc<Self> {
        static NONE: LazyLock<Arc<FileSet>> = LazyLock::new(Arc::default);
        if files.is_empty() {
            return Arc::clone(&NONE);
        }
        Arc::new(Self::new(files))
    }

    /// How many files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// SHA-256 over algorithms and digests: what the set accepts. Paths accept nothing, and are not in it.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Whether a file with this digest is in the set, wherever it lies.
    pub fn contains(&self, algorithm: HashAlg, digest: &[u8]) -> bool {
        let Some(first) = key_of(digest).and_then(|key| self.by_digest.get(&key)) else {
            return false;
        };
        let same_key = self.files.get(*first as usize..).unwrap_or_default();
        same_key
            .iter()
            .take_while(|file| key_of(&file.digest) == key_of(digest))
            .any(|file| file.algorithm == algorithm && file.digest == digest)
    }

    /// The first file of this path: what the reference has in its place.
    pub fn at_path(&self, path: &[u8]) -> Option<&FileDigest> {
        let file = |position: &u32| self.files.get(*position as usize);
        let first = self
            .by_path
            .partition_point(|position| file(position).is_some_and(|file| file.path.as_bytes() < path));
        self.by_path
            .get(first)
            .and_then(file)
            .filter(|file| file.path.as_bytes() == path)
    }
}

fn key_of(digest: &[u8]) -> Option<[u8; KEY]> {
    digest.first_chunk().copied()
}

impl PartialEq for FileSet {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files
    }
}

impl Eq for FileSet {}

impl std::fmt::Debug for FileSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} files", self.files.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, digest: [u8; 32]) -> FileDigest {
        FileDigest {
            algorithm: HashAlg::Sha256,
            digest: digest.to_vec(),
            path: path.to_owned(),
        }
    }

    #[test]
    fn a_set_holds_its_digests_and_no_other() {
        // The first bytes are the index's: two files share them.
        let mut near = [1; 32];
        near[31] = 2;
        let set = FileSet::new(&[
            file("/b", [1; 32]),
            file("/a", near),
            file("/b", [1; 32]),
            file("/c", [3; 32]),
        ]);
        assert_eq!(set.len(), 3);
        for (digest, held) in [([1; 32], true), (near, true), ([3; 32], true), ([4; 32], false)] {
            assert_eq!(set.contains(HashAlg::Sha256, &digest), held, "{digest:?}");
            assert!(!set.contains(HashAlg::Sha512, &digest), "another algorithm");
        }
        let mut nearer = near;
        nearer[30] = 9;
        assert!(!set.contains(HashAlg::Sha256, &nearer));
        assert!(!set.contains(HashAlg::Sha256, &near[..20]), "cut");
        assert!(!set.contains(HashAlg::Sha256, &[]), "empty");
        assert_eq!(set.at_path(b"/a").map(|file| file.digest.as_slice()), Some(&near[..]));
        assert_eq!(set.at_path(b"/"), None);
        assert_eq!(set.at_path(b"/d"), None);
    }

    #[test]
    fn the_name_of_a_set_is_what_it_accepts() {
        let set = |files: &[FileDigest]| FileSet::new(files).digest();
        let (a, b) = (file("/a", [1; 32]), file("/b", [2; 32]));
        assert_eq!(set(&[a.clone(), b.clone()]), set(&[b.clone(), a.clone()]), "order");
        let alone = set(std::slice::from_ref(&a));
        assert_ne!(alone, set(&[a, b]));
        assert_ne!(alone, set(&[]));
        assert_eq!(alone, set(&[file("/elsewhere", [1; 32])]), "a path accepts nothing");
    }
}
