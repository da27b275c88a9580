//! KEYDIR: the keys of a domain's authors, `<role>-<n>.pem` or `<role>-<n>.pkcs11`, with their public halves beside them.
//!
//! ```text
//! targets-1.pem      Ed25519, PKCS#8 PEM; plain, or encrypted (PBES2, RFC 8018) for keys that are carried about
//! targets-2.pkcs11   where a key of a PKCS#11 token is found: see [`token`]
//! targets-1.pub      the public key (SubjectPublicKeyInfo, PEM): what is handed to those who list it
//! ```
//! Whoever holds root and targets decides whom the domain trusts: keep them off the machines that serve. A file that
//! others can read or change is refused, so that a leaked key is noticed before it signs again.

mod passphrase;
mod pem_file;
mod private_file;
pub mod public;
pub mod token;

use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use touchstone_cose::key::{Signer, SigningKey, VerifyingKey};
use tough::schema::key::Key;
use tough::schema::{RoleType, Signature};

use crate::error::{PolicyCode, PolicyError};
use crate::layout::{REGION_ROLE, is_region_name};

pub use passphrase::{MIN_PASSPHRASE_LEN, Passphrase};
pub use private_file::MAX_KEY_FILE_LEN;

/// Most keys of one role.
pub const MAX_KEYS_PER_ROLE: usize = 32;

/// What a key may sign.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyRole {
    /// The root of trust of the domain: names all other keys.
    Root,
    /// The list of everything global policy consists of, and which regions sign for themselves.
    Targets,
    /// Which versions belong together.
    Snapshot,
    /// That this is the newest version.
    Timestamp,
    /// Reference values.
    Reference,
    /// The list of everything below `regions/<id>/`: the role `region-<id>`.
    Region(String),
}

impl KeyRole {
    /// The roles that every domain has.
    pub const DOMAIN: [KeyRole; 5] = [
        KeyRole::Root,
        KeyRole::Targets,
        KeyRole::Snapshot,
        KeyRole::Timestamp,
        KeyRole::Reference,
    ];

    /// The role of this name, as in file names: `targets`, `region-eu-1`.
    pub fn parse(name: &str) -> Option<Self> {
        match name.strip_prefix(REGION_ROLE) {
            Some(id) if is_region_name(id) => Some(KeyRole::Region(id.to_owned())),
            Some(_) => None,
            None => Self::DOMAIN.into_iter().find(|role| role.to_string() == name),
        }
    }

    /// The TUF role of this name; reference keys sign CoRIMs, no TUF metadata.
    pub const fn tuf(&self) -> Option<RoleType> {
        match self {
            KeyRole::Root => Some(RoleType::Root),
            KeyRole::Targets => Some(RoleType::Targets),
            KeyRole::Snapshot => Some(RoleType::Snapshot),
            KeyRole::Timestamp => Some(RoleType::Timestamp),
            KeyRole::Region(_) => Some(RoleType::DelegatedTargets),
            KeyRole::Reference => None,
        }
    }

    /// Whether its keys belong on a machine that is not online: everything but what is signed at each publish.
    pub const fn is_offline(&self) -> bool {
        matches!(self, KeyRole::Root | KeyRole::Targets | KeyRole::Region(_))
    }
}

impl fmt::Display for KeyRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyRole::Root => f.write_str("root"),
            KeyRole::Targets => f.write_str("targets"),
            KeyRole::Snapshot => f.write_str("snapshot"),
            KeyRole::Timestamp => f.write_str("timestamp"),
            KeyRole::Reference => f.write_str("reference"),
            KeyRole::Region(id) => write!(f, "{REGION_ROLE}{id}"),
        }
    }
}

/// One private key, in memory or in a token, and the name of its file without its ending.
pub struct RoleKey {
    /// For example `reference-1`.
    pub name: String,
    signer: Box<dyn Signer>,
    public: VerifyingKey,
}

impl fmt::Debug for RoleKey {
    /// Shows the public key only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoleKey")
            .field("name", &self.name)
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl RoleKey {
    /// A key in memory.
    pub fn software(name: impl Into<String>, key: SigningKey) -> Self {
        Self {
            name: name.into(),
            public: key.verifying_key(),
            signer: Box::new(key),
        }
    }

    /// The public key.
    pub const fn verifying_key(&self) -> &VerifyingKey {
        &self.public
    }

    /// What signs.
    pub fn signer(&self) -> &dyn Signer {
        self.signer.as_ref()
    }

    /// The public key as TUF metadata names it.
    ///
    /// # Errors
    /// [`PolicyError`] with `policy-key-file-invalid` for a kind of key that TUF has no scheme for.
    pub fn tuf_key(&self) -> Result<Key, PolicyError> {
        public::to_tuf(&self.public)
    }

    /// Its TUF key id, hexadecimal.
    ///
    /// # Errors
    /// As [`RoleKey::tuf_key`].
    pub fn key_id(&self) -> Result<String, PolicyError> {
        public::key_id(&self.public).map(hex::encode)
    }

    /// Signs canonical JSON as TUF has it.
    ///
    /// # Errors
    /// [`PolicyError`] with `policy-key-token` where the token refuses.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Signature, PolicyError> {
        let failed = |found: String| PolicyError::new(PolicyCode::KeyToken, &self.name, "a signature", found);
        let raw = self.signer.sign(message).map_err(|e| failed(e.to_string()))?;
        // A device that signs wrongly must be noticed here, not by everyone who loads.
        self.public.verify(message, &raw).map_err(|e| failed(e.to_string()))?;
        Ok(Signature {
            keyid: public::key_id(&self.public)?.into(),
            sig: public::tuf_signature(&self.public, &raw).into(),
        })
    }
}

/// How a key is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptAs {
    /// A plain PKCS#8 file.
    Plain,
    /// An encrypted PKCS#8 file.
    Encrypted,
    /// In a PKCS#11 token.
    Token,
}

impl KeptAs {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            KeptAs::Plain => "file",
            KeptAs::Encrypted => "encrypted file",
            KeptAs::Token => "token",
        }
    }
}

/// A folder of keys, and how encrypted ones are opened.
#[derive(Debug, Clone)]
pub struct KeyDir {
    path: PathBuf,
    passphrase: Passphrase,
    encrypt: bool,
}

impl From<&Path> for KeyDir {
    fn from(path: &Path) -> Self {
        Self::new(path)
    }
}

impl KeyDir {
    /// The folder at `path`. Nothing is read yet, and encrypted keys stay closed.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            passphrase: Passphrase::None,
            encrypt: false,
        }
    }

    /// With what encrypted keys are opened.
    #[must_use]
    pub fn with_passphrase(mut self, passphrase: Passphrase) -> Self {
        self.passphrase = passphrase;
        self
    }

    /// New keys that need not be at hand whenever a version is published are encrypted, with the passphrase given.
    #[must_use]
    pub const fn encrypting(mut self) -> Self {
        self.encrypt = true;
        self
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder (mode 0700) and, for each role and count given, keys `<role>-1` to `<role>-<count>` (mode 0600)
    /// where none of that number is there, not even as a public key. Returns the names of the keys made.
    ///
    /// # Errors
    /// [`PolicyError`] with `policy-io`, `policy-key-passphrase`, or as [`KeyDir::keys`] for keys that are there.
    pub fn complete(&self, roles: &[(KeyRole, usize)]) -> Result<Vec<String>, PolicyError> {
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path);
        made.map_err(|e| PolicyError::io(&self.path, "a folder to make", &e))?;
        let mut names = Vec::new();
        for (role, count) in roles {
            let known = self.numbers(role)?;
            for number in (1..).take(*count).filter(|n| known.iter().all(|k| k.number != *n)) {
                names.push(self.make(role, number)?);
            }
        }
        Ok(names)
    }

    /// Makes `count` more keys of a role, with the next numbers. Returns their names.
    ///
    /// # Errors
    /// As [`KeyDir::complete`].
    pub fn add(&self, role: &KeyRole, count: usize) -> Result<Vec<String>, PolicyError> {
        self.complete(&[])?;
        let last = self.numbers(role)?.into_iter().map(|known| known.number).max();
        let first = last.map_or(1, |n| n.saturating_add(1));
        (first..).take(count).map(|number| self.make(role, number)).collect()
    }

    /// Every private key of a role, by number.
    ///
    /// # Errors
    /// [`PolicyError`]: `policy-key-missing`, `policy-key-file-exposed`, `policy-key-file-invalid`,
    /// `policy-key-passphrase`, `policy-key-token`, `policy-io`.
    pub fn keys(&self, role: &KeyRole) -> Result<Vec<RoleKey>, PolicyError> {
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

    /// Every private key of a role, by number; none where there is none, or no folder.
    ///
    /// # Errors
    /// As [`KeyDir::keys`], without `policy-key-missing`.
    pub fn find(&self, role: &KeyRole) -> Result<Vec<RoleKey>, PolicyError> {
        let mut keys: Vec<RoleKey> = Vec::new();
        for known in self.numbers(role)? {
            let name = format!("{role}-{}", known.number);
            let key = match (known.pem, known.token) {
                (true, true) => {
                    let found = format!("{name}.pem and {name}.pkcs11");
                    let claim = self.path.join(&name);
                    return Err(PolicyError::new(
                        PolicyCode::KeyFileInvalid,
                        claim.display(),
                        "one key of this number",
                        found,
                    ));
                }
                (true, false) => {
                    let file = self.path.join(format!("{name}.pem"));
                    RoleKey::software(name, pem_file::read(&file, &self.passphrase)?)
                }
                (false, true) => {
                    let file = self.path.join(format!("{name}.pkcs11"));
                    let (signer, public) = token::open(&file)?;
                    RoleKey {
                        name,
                        signer: Box::new(signer),
                        public,
                    }
                }
                (false, false) => continue,
            };
            if let Some(other) = keys.iter().find(|other| other.public == key.public) {
                let found = format!("{} is the same key", key.name);
                return Err(PolicyError::new(
                    PolicyCode::KeyDuplicate,
                    &other.name,
                    "each key once",
                    found,
                ));
            }
            keys.push(key);
        }
        Ok(keys)
    }

    /// The public key of every key of a role, private or not, by number, with its name.
    ///
    /// # Errors
    /// As [`KeyDir::find`]; `policy-key-file-invalid` for a public key that is not the private one's.
    pub fn public_keys(&self, role: &KeyRole) -> Result<Vec<(String, VerifyingKey)>, PolicyError> {
        let private = self.find(role)?;
        let mut keys = Vec::new();
        for known in self.numbers(role)? {
            let name = format!("{role}-{}", known.number);
            let file = self.path.join(format!("{name}.pub"));
            let own = private
                .iter()
                .find(|key| key.name == name)
                .map(|key| key.public.clone());
            let listed = if known.public { Some(public::read(&file)?) } else { None };
            match (own, listed) {
                (Some(own), Some(listed)) if own != listed => {
                    let expected = format!("the public key of {name}");
                    return Err(PolicyError::new(
                        PolicyCode::KeyFileInvalid,
                        file.display(),
                        expected,
                        "another one",
                    ));
                }
                (Some(key), _) | (None, Some(key)) => keys.push((name, key)),
                (None, None) => {}
            }
        }
        Ok(keys)
    }

    /// How each private key of the folder is kept: its name and where.
    ///
    /// # Errors
    /// [`PolicyError`] with `policy-io`, `policy-key-file-exposed` or `policy-key-file-invalid`.
    pub fn kept(&self, role: &KeyRole) -> Result<Vec<(String, KeptAs)>, PolicyError> {
        let mut kept = Vec::new();
        for known in self.numbers(role)? {
            let name = format!("{role}-{}", known.number);
            if known.token {
                kept.push((name, KeptAs::Token));
            } else if known.pem {
                let encrypted = pem_file::is_encrypted(&self.path.join(format!("{name}.pem")))?;
                kept.push((name, if encrypted { KeptAs::Encrypted } else { KeptAs::Plain }));
            }
        }
        Ok(kept)
    }

    /// Writes `<role>-<n>.pub` for every private key of a role that has none yet. Returns the files.
    ///
    /// # Errors
    /// As [`KeyDir::find`].
    pub fn write_public(&self, role: &KeyRole) -> Result<Vec<PathBuf>, PolicyError> {
        let mut files = Vec::new();
        for key in self.find(role)? {
            let file = self.path.join(format!("{}.pub", key.name));
            if !file.exists() {
                public::write(&file, &key.public)?;
            }
            files.push(file);
        }
        Ok(files)
    }

    /// Which numbers of a role's keys are there, and as what.
    fn numbers(&self, role: &KeyRole) -> Result<Vec<Known>, PolicyError> {
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(e) => return Err(PolicyError::io(&self.path, "a key folder", &e)),
        };
        let mut known: std::collections::BTreeMap<u32, Known> = std::collections::BTreeMap::new();
        let prefix = format!("{role}-");
        for entry in entries {
            let entry = entry.map_err(|e| PolicyError::io(&self.path, "a key folder", &e))?;
            let name = entry.file_name();
            let Some((digits, ending)) = name
                .to_str()
                .and_then(|n| n.strip_prefix(&prefix))
                .and_then(|rest| rest.rsplit_once('.'))
            else {
                continue;
            };
            let Some(number) = digits.parse::<u32>().ok().filter(|n| n.to_string() == digits) else {
                continue;
            };
            let (pem, token, public) = (ending == "pem", ending == "pkcs11", ending == "pub");
            if !(pem || token || public) {
                continue;
            }
            let entry = known.entry(number).or_insert(Known {
                number,
                ..Known::default()
            });
            entry.pem |= pem;
            entry.token |= token;
            entry.public |= public;
        }
        if known.len() > MAX_KEYS_PER_ROLE {
            let expected = format!("at most {MAX_KEYS_PER_ROLE} keys of role {role}");
            return Err(PolicyError::new(
                PolicyCode::KeyFileInvalid,
                self.path.display(),
                expected,
                known.len(),
            ));
        }
        Ok(known.into_values().collect())
    }

    fn make(&self, role: &KeyRole, number: u32) -> Result<String, PolicyError> {
        let name = format!("{role}-{number}");
        let public = match self.encrypt && !matches!(role, KeyRole::Snapshot | KeyRole::Timestamp) {
            true => pem_file::make(&self.path.join(format!("{name}.pem")), &name, &self.passphrase)?,
            false => pem_file::make(&self.path.join(format!("{name}.pem")), &name, &Passphrase::None)?,
        };
        public::write(&self.path.join(format!("{name}.pub")), &public)?;
        Ok(name)
    }
}

#[derive(Debug, Default)]
struct Known {
    number: u32,
    pem: bool,
    token: bool,
    public: bool,
}

#[cfg(test)]
mod tests;
