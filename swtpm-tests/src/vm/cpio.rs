//! Archives in the format of an initramfs (Linux, Documentation/driver-api/early-userspace/buffer-format.rst: "newc").
//!
//! The same contents give the same bytes: entries are sorted by name, and times, owners and devices are all zero.
//! An initramfs is measured, so two builds that differ in a timestamp would be two different machines.
#![expect(
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::collections::BTreeMap;
use std::path::Path;

use super::files;

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

#[derive(Debug)]
struct Entry {
    mode: u32,
    device: (u32, u32),
    contents: Vec<u8>,
}

/// An archive that is being put together. Parent folders come by themselves.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A regular file; `path` is absolute, `mode` its permissions.
    pub fn file(&mut self, path: &str, mode: u32, contents: Vec<u8>) {
        self.insert(path, REGULAR | mode, (0, 0), contents);
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.insert(path, LINK | 0o777, (0, 0), target.into());
    }

    /// An empty folder.
    pub fn folder(&mut self, path: &str) {
        self.insert(path, DIRECTORY | 0o755, (0, 0), Vec::new());
    }

    /// A folder of this machine with everything in it, as `to`; regular files only, readable by all.
    ///
    /// # Panics
    /// When something cannot be read.
    pub fn add_folder(&mut self, from: &Path, to: &str) {
        for name in files::names(from) {
            let (path, to) = (from.join(&name), format!("{to}/{name}"));
            if path.is_dir() {
                self.folder(&to);
                self.add_folder(&path, &to);
            } else {
                self.file(&to, 0o644, files::read(&path));
            }
        }
    }

    /// A character device: the kernel opens `/dev/console` before init could mount anything.
    pub fn character_device(&mut self, path: &str, device: (u32, u32)) {
        self.insert(path, CHARACTER_DEVICE | 0o600, device, Vec::new());
    }

    fn insert(&mut self, path: &str, mode: u32, device: (u32, u32), contents: Vec<u8>) {
        let name = path.trim_start_matches('/');
        for (end, _) in name.match_indices('/') {
            let (parent, _) = name.split_at(end);
            self.entries.entry(parent.into()).or_insert(Entry {
                mode: DIRECTORY | 0o755,
                device: (0, 0),
                contents: Vec::new(),
            });
        }
        let entry = Entry { mode, device, contents };
        self.entries.insert(name.into(), entry);
    }

    /// Path (absolute) and contents of every regular file.
    pub fn files(&self) -> impl Iterator<Item = (String, &[u8])> {
        let regular = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.mode & 0o170_000 == REGULAR);
        regular.map(|(name, entry)| (format!("/{name}"), entry.contents.as_slice()))
    }

    /// The archive's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, (name, entry)) in (1..).zip(&self.entries) {
            append(&mut bytes, number, name, entry);
        }
        let trailer = Entry {
            mode: 0,
            device: (0, 0),
            contents: Vec::new(),
        };
        append(&mut bytes, 0, TRAILER, &trailer);
        bytes
    }
}

fn append(bytes: &mut Vec<u8>, inode: u32, name: &str, entry: &Entry) {
    let size = u32::try_from(entry.contents.len()).expect("a file below 4 GiB");
    let name_size = u32::try_from(name.len() + 1).expect("a short name");
    let fields = [
        inode,
        entry.mode,
        0, // owner
        0, // group
        1, // links
        0, // time of modification
        size,
        0, // device it lies on: major,
        0, // minor
        entry.device.0,
        entry.device.1,
        name_size,
        0, // checksum: unused in this format
    ];
    bytes.extend_from_slice(MAGIC.as_bytes());
    for field in fields {
        bytes.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    pad(bytes);
    bytes.extend_from_slice(&entry.contents);
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_filling_does_not_change_the_archive() {
        let (mut one, mut other) = (Archive::new(), Archive::new());
        one.file("/bin/tool", 0o755, vec![1, 2, 3]);
        one.link("/init", "bin/tool");
        other.link("/init", "bin/tool");
        other.file("/bin/tool", 0o755, vec![1, 2, 3]);
        assert_eq!(one.encode(), other.encode());
        let names: Vec<_> = one.entries.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["bin", "bin/tool", "init"],
            "a folder comes before what lies in it"
        );
    }

    #[test]
    fn an_entry_has_its_length_and_its_padding() {
        let mut archive = Archive::new();
        archive.file("/a", 0o644, vec![7; 5]);
        let bytes = archive.encode();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.starts_with("07070100000001000081A4"), "{text}");
        // Header and name are 112 bytes, the contents five, padded to eight.
        assert_eq!(bytes[112..120], [7, 7, 7, 7, 7, 0, 0, 0]);
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(
            archive.files().collect::<Vec<_>>(),
            [("/a".to_owned(), [7; 5].as_slice())]
        );
    }
}
