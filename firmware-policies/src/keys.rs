//! KEYDIR: the private keys of a domain's authors, one Ed25519 PKCS#8 PEM file each, `<role>-<n>.pem`.
//!
//! Whoever holds root and targets decides whom the domain trusts: keep them off the machines that serve. A file that
//! others can read or change is refused, so that a leaked key is noticed before it signs again.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use touchstone_cose::key::{SigningKey, VerifyingKey};
use tough::schema::RoleType;
use tough::schema::key::{Ed25519Key, Ed25519Scheme, Key};
use zeroize::Zeroizing;

use crate::error::{PolicyCode, PolicyError};

/// Most keys of one role.
pub const MAX_KEYS_PER_ROLE: usize = 32;
/// Largest key file; a PKCS#8 Ed25519 key in PEM is about 170 bytes.
pub const MAX_KEY_FILE_LEN: u64 = 4096;
const EXPOSED: u32 = 0o077;

/// What a key may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyRole {
    /// The root of trust of the domain: names all other keys.
    Root,
    /// The list of everything policy consists of.
    Targets,
    /// Which versions belong together.
    Snapshot,
    /// That this is the newest version.
    Timestamp,
    /// Reference values.
    Reference,
}

impl KeyRole {
    /// Every role.
    pub const ALL: [KeyRole; 5] = [
        KeyRole::Root,
        KeyRole::Targets,
        KeyRole::Snapshot,
        KeyRole::Timestamp,
        KeyRole::Reference,
    ];

    /// Its name, as in file names.
    pub const fn as_str(self) -> &'static str {
        match self {
            KeyRole::Root => "root",
            KeyRole::Targets => "targets",
            KeyRole::Snapshot => "snapshot",
            KeyRole::Timestamp => "timestamp",
            KeyRole::Reference => "reference",
        }
    }

    /// The TUF role of this name; reference keys sign CoRIMs, no TUF metadata.
    pub const fn tuf(self) -> Option<RoleType> {
        match self {
            KeyRole::Root => Some(RoleType::Root),
            KeyRole::Targets => Some(RoleType::Targets),
            KeyRole::Snapshot => Some(RoleType::Snapshot),
            KeyRole::Timestamp => Some(RoleType::Timestamp),
            KeyRole::Reference => None,
        }
    }
}

impl fmt::Display for KeyRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One private key and the name of its file without `.pem`.
#[derive(Debug)]
pub struct RoleKey {
    /// For example `reference-1`.
    pub name: String,
    /// The key; its `Debug` shows the key id only.
    pub key: SigningKey,
}

impl RoleKey {
    /// The public key as TUF metadata names it.
    pub fn tuf_key(&self) -> Key {
        let public = match self.key.verifying_key() {
            VerifyingKey::Ed25519(bytes) => bytes.to_vec(),
            // A `SigningKey` is an Ed25519 key; no other kind can come here.
            VerifyingKey::P256 { .. } | VerifyingKey::P384 { .. } => Vec::new(),
        };
        Key::Ed25519 {
            keyval: Ed25519Key {
                public: public.into(),
                _extra: HashMap::new(),
            },
            scheme: Ed25519Scheme::Ed25519,
            _extra: HashMap::new(),
        }
    }
}

/// A folder of private keys.
#[derive(Debug, Clone)]
pub struct KeyDir {
    path: PathBuf,
}

impl KeyDir {
    /// The folder at `path`. Nothing is read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes the folder (mode 0700) and `<role>-1.pem` (mode 0600) for every role that has no key yet. Keys that are
    /// there stay. Returns the names of the keys made.
    ///
    /// # Errors
    /// [`PolicyError`] with `policy-io`, or as [`KeyDir::keys`] for keys that are there.
    pub fn complete(&self) -> Result<Vec<String>, PolicyError> {
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path);
        made.map_err(|e| PolicyError::io(&self.path, "a folder to make", &e))?;
        let mut names = Vec::new();
        for role in KeyRole::ALL {
            if self.find(role)?.is_empty() {
                names.push(self.generate(role)?);
            }
        }
        Ok(names)
    }

    /// Every key of a role, by number.
    ///
    /// # Errors
    /// [`PolicyError`]: `policy-key-missing`, `policy-key-file-exposed`, `policy-key-file-invalid`, `policy-io`.
    pub fn keys(&self, role: KeyRole) -> Result<Vec<RoleKey>, PolicyError> {
        let keys = self.find(role)?;
        if keys.is_empty() {
            let claim = self.path.join(format!("{role}-1.pem"));
            return Err(PolicyError::new(
                PolicyCode::KeyMissing,
                claim.display(),
                "a key",
                "no file",
            ));
        }
        Ok(keys)
    }

    fn find(&self, role: KeyRole) -> Result<Vec<RoleKey>, PolicyError> {
        let entries = std::fs::read_dir(&self.path).map_err(|e| PolicyError::io(&self.path, "a key folder", &e))?;
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| PolicyError::io(&self.path, "a key folder", &e))?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|n| {
                let digits = n.strip_prefix(role.as_str())?.strip_prefix('-')?.strip_suffix(".pem")?;
                digits.parse::<u32>().ok().filter(|n| n.to_string() == digits)
            });
            if let Some(number) = number {
                files.push((number, entry.path()));
            }
        }
        if files.len() > MAX_KEYS_PER_ROLE {
            let expected = format!("at most {MAX_KEYS_PER_ROLE} keys of role {role}");
            return Err(PolicyError::new(
                PolicyCode::KeyFileInvalid,
                self.path.display(),
                expected,
                files.len(),
            ));
        }
        files.sort();
        files
            .into_iter()
            .map(|(number, path)| read_key(&path, format!("{role}-{number}")))
            .collect()
    }

    fn generate(&self, role: KeyRole) -> Result<String, PolicyError> {
        let name = format!("{role}-1");
        let path = self.path.join(format!("{name}.pem"));
        let mut seed = Zeroizing::new([0u8; 32]);
        let failed = |found: String| PolicyError::new(PolicyCode::Io, path.display(), "a key to write", found);
        getrandom::fill(seed.as_mut()).map_err(|e| failed(e.to_string()))?;
        let pem = SigningKey::from_seed(*seed)
            .to_pkcs8_pem()
            .map_err(|e| failed(e.to_string()))?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| failed(e.to_string()))?;
        file.write_all(pem.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|e| failed(e.to_string()))?;
        Ok(name)
    }
}

fn read_key(path: &Path, name: String) -> Result<RoleKey, PolicyError> {
    use std::io::Read;
    let io = |e: std::io::Error| PolicyError::io(path, "a key file", &e);
    let invalid = |found: String| PolicyError::new(PolicyCode::KeyFileInvalid, path.display(), "an Ed25519 key", found);
    let file = std::fs::File::open(path).map_err(io)?;
    // The mode of the file that is read, not of one that was there a moment before.
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() || meta.len() > MAX_KEY_FILE_LEN {
        return Err(invalid(format!("no file of at most {MAX_KEY_FILE_LEN} bytes")));
    }
    if meta.mode() & EXPOSED != 0 {
        let found = format!("mode {:04o}", meta.mode() & 0o7777);
        return Err(PolicyError::new(
            PolicyCode::KeyFileExposed,
            path.display(),
            "mode 0600",
            found,
        ));
    }
    let mut pem = Zeroizing::new(String::new());
    file.take(MAX_KEY_FILE_LEN).read_to_string(&mut pem).map_err(io)?;
    let key = SigningKey::from_pkcs8_pem(&pem).map_err(|e| invalid(e.to_string()))?;
    Ok(RoleKey { name, key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_made_once_private_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyDir::new(dir.path().join("keys"));
        let made = keys.complete().unwrap();
        assert_eq!(
            made,
            ["root-1", "targets-1", "snapshot-1", "timestamp-1", "reference-1"]
        );
        assert_eq!(keys.complete().unwrap(), [""; 0]);
        let mut publics = Vec::new();
        for role in KeyRole::ALL {
            let path = keys.path.join(format!("{role}-1.pem"));
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            publics.push(keys.keys(role).unwrap()[0].key.verifying_key());
        }
        publics.sort();
        publics.dedup();
        assert_eq!(publics.len(), KeyRole::ALL.len());
    }

    #[test]
    fn key_files_that_others_can_read_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyDir::new(dir.path());
        keys.complete().unwrap();
        let path = dir.path().join("targets-1.pem");
        for mode in [0o640, 0o604, 0o644, 0o620, 0o666, 0o601] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(
                keys.keys(KeyRole::Targets).unwrap_err().code(),
                PolicyCode::KeyFileExposed,
                "{mode:o}"
            );
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert!(keys.keys(KeyRole::Targets).is_ok());
    }

    #[test]
    fn missing_and_foreign_key_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyDir::new(dir.path());
        assert_eq!(keys.keys(KeyRole::Root).unwrap_err().code(), PolicyCode::KeyMissing);
        for (name, text) in [("root-1.pem", "no key"), ("root-2.pem", "")] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(keys.keys(KeyRole::Root).unwrap_err().code(), PolicyCode::KeyFileInvalid);
            std::fs::remove_file(path).unwrap();
        }
        std::fs::create_dir(dir.path().join("root-1.pem")).unwrap();
        assert_eq!(keys.keys(KeyRole::Root).unwrap_err().code(), PolicyCode::KeyFileInvalid);
    }
}
