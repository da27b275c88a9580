//! The key-encryption key: it wraps the data key of every sealed secret.
//!
//! Where it comes from is the operator's choice ([`super::config::KekConfig`]): a passphrase file ([`super::passphrase`]),
//! an AES key in a PKCS#11 token that never leaves it ([`super::token`]), or random bytes sealed to the broker's own TPM
//! (a [`Vault`]). What is needed to have it again is one row of the store, [`KekRecord`]; the row alone gives nothing.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{self, Limits, MapReader, Value};
use zeroize::Zeroizing;

use super::Secret;
use super::config::KekConfig;
use super::passphrase::{self, Stretching};
use super::token::Token;
use crate::session::random;

/// Length of data keys and of key-encryption keys in memory, in bytes.
pub const KEY_BYTES: usize = 32;

/// Bytes of the id by which a sealed secret names the key that wraps its data key.
pub const KEK_ID_LEN: usize = 8;

/// Largest row of [`KekRecord`], and of what a vault seals, in bytes.
const MAX_RECORD_BYTES: usize = 8 * 1024;

const LIMITS: Limits = Limits {
    max_bytes: MAX_RECORD_BYTES,
    max_depth: 3,
    max_items: 32,
};

/// Why a key-encryption key is not had, or did not do its work. Nothing of a key is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KekError {
    /// The passphrase file.
    #[error("the passphrase file: {0}")]
    PassphraseFile(#[from] crate::key_files::KeyFileError),
    /// A passphrase that a machine finds in no time.
    #[error("the passphrase has {found} characters, at least {least} are wanted")]
    PassphraseShort {
        /// The least.
        least: usize,
        /// What there is.
        found: usize,
    },
    /// Another passphrase, token or TPM state than the one the store was sealed under.
    #[error("the store was sealed under another key-encryption key: expected {expected}, found {found}")]
    Other {
        /// Kind or id in the store.
        expected: String,
        /// Kind or id configured.
        found: String,
    },
    /// The row that says how to have the key again.
    #[error("the stored record of the key-encryption key cannot be read: {0}")]
    Record(String),
    /// The TPM, or the token.
    #[error("{0}")]
    Device(String),
    /// The configuration asks for a TPM, and this program has no way to one.
    #[error("no TPM can be used by this build: choose another keys.kek")]
    NoVault,
    /// The library could not encrypt, or there is no randomness.
    #[error("cannot {0}")]
    Failed(&'static str),
    /// The wrapped key does not open.
    #[error("a wrapped data key does not open: it was changed, or belongs to another row")]
    Open,
}

/// Wraps data keys. `context` is authenticated: a wrapped key opens only in the row it was made for.
pub trait KeyEncryption: Send + Sync {
    /// By what a sealed secret names this key. Public.
    fn id(&self) -> [u8; KEK_ID_LEN];

    /// Wraps a data key.
    ///
    /// # Errors
    /// The device or library failed.
    fn wrap(&self, data_key: &[u8; KEY_BYTES], context: &[u8]) -> Result<Vec<u8>, KekError>;

    /// Unwraps a data key.
    ///
    /// # Errors
    /// [`KekError::Open`], or the device failed.
    fn unwrap(&self, wrapped: &[u8], context: &[u8]) -> Result<Zeroizing<[u8; KEY_BYTES]>, KekError>;
}

/// Something that keeps a few bytes so that only this machine, in the state it is in, can have them again: its TPM.
pub trait Vault: Send + Sync {
    /// Seals `secret`.
    ///
    /// # Errors
    /// In words, without the secret.
    fn seal(&self, secret: &[u8]) -> Result<Vec<u8>, String>;

    /// Opens what [`Vault::seal`] made.
    ///
    /// # Errors
    /// In words: most often, that the machine is in another state.
    fn unseal(&self, sealed: &[u8]) -> Result<Secret, String>;
}

/// A key-encryption key in memory.
pub struct MemoryKek {
    key: Zeroizing<[u8; KEY_BYTES]>,
    id: [u8; KEK_ID_LEN],
}

impl MemoryKek {
    /// The key with these bytes.
    #[must_use]
    pub fn new(key: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        let digest = Sha256::new()
            .chain_update(b"touchstone-kek-id/1")
            .chain_update(key.as_slice())
            .finalize();
        let mut id = [0; KEK_ID_LEN];
        id.iter_mut().zip(digest.iter()).for_each(|(to, from)| *to = *from);
        Self { key, id }
    }
}

impl KeyEncryption for MemoryKek {
    fn id(&self) -> [u8; KEK_ID_LEN] {
        self.id
    }

    fn wrap(&self, data_key: &[u8; KEY_BYTES], context: &[u8]) -> Result<Vec<u8>, KekError> {
        seal(&self.key, data_key, context).map_err(|()| KekError::Failed("wrap a data key"))
    }

    fn unwrap(&self, wrapped: &[u8], context: &[u8]) -> Result<Zeroizing<[u8; KEY_BYTES]>, KekError> {
        let opened = open(&self.key, wrapped, context).ok_or(KekError::Open)?;
        let key = <[u8; KEY_BYTES]>::try_from(opened.as_slice()).map_err(|_| KekError::Open)?;
        Ok(Zeroizing::new(key))
    }
}

/// A256GCM: nonce, ciphertext, tag.
pub(super) fn seal(key: &[u8; KEY_BYTES], plain: &[u8], context: &[u8]) -> Result<Vec<u8>, ()> {
    let nonce: [u8; NONCE_LEN] = random().map_err(|_| ())?;
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| ())?;
    // Room for the tag from the start: a vector that grows would leave a copy of the secret behind.
    let mut body = Zeroizing::new(Vec::with_capacity(plain.len() + AES_256_GCM.tag_len()));
    body.extend_from_slice(plain);
    LessSafeKey::new(key)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut *body)
        .map_err(|_| ())?;
    Ok([nonce.as_slice(), body.as_slice()].concat())
}

/// Opens what [`seal`] made.
pub(super) fn open(key: &[u8; KEY_BYTES], sealed: &[u8], context: &[u8]) -> Option<Secret> {
    let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let key = UnboundKey::new(&AES_256_GCM, key).ok()?;
    let mut body = Zeroizing::new(body.to_vec());
    let length = LessSafeKey::new(key)
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(context),
            body.as_mut_slice(),
        )
        .ok()?
        .len();
    body.truncate(length);
    Some(body)
}

/// How to have a key-encryption key again: a row of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KekRecord {
    /// From a passphrase.
    Passphrase {
        /// How it is stretched.
        stretching: Stretching,
        /// Id of the key that comes out.
        id: [u8; KEK_ID_LEN],
    },
    /// An AES key in a token.
    Token {
        /// Its label.
        label: String,
        /// Id derived from token and label.
        id: [u8; KEK_ID_LEN],
    },
    /// Sealed to this machine's TPM.
    Sealed {
        /// What the TPM made.
        blob: Vec<u8>,
        /// Id of the key in it.
        id: [u8; KEK_ID_LEN],
    },
}

impl KekRecord {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Passphrase { .. } => "passphrase_file",
            Self::Token { .. } => "pkcs11_key",
            Self::Sealed { .. } => "tpm",
        }
    }

    /// The row's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, more, id) = match self {
            Self::Passphrase { stretching, id } => (0, stretching.value(), id),
            Self::Token { label, id } => (1, Value::text(label.as_str()), id),
            Self::Sealed { blob, id } => (2, Value::bytes(blob.as_slice()), id),
        };
        cbor::encode(&Value::map([
            (0, Value::Unsigned(kind)),
            (1, more),
            (2, Value::bytes(*id)),
        ]))
    }

    /// Reads a row.
    ///
    /// # Errors
    /// [`KekError::Record`]
    pub fn decode(bytes: &[u8]) -> Result<Self, KekError> {
        let wrong = |e: &dyn std::fmt::Display| KekError::Record(e.to_string());
        let value = cbor::decode(bytes, LIMITS).map_err(|e| wrong(&e))?;
        let mut reader = MapReader::new(value, "key-encryption key").map_err(|e| wrong(&e))?;
        let kind = reader.u64(0).map_err(|e| wrong(&e))?;
        let more = reader.required(1).map_err(|e| wrong(&e))?;
        let id = reader.fixed(2).map_err(|e| wrong(&e))?;
        reader.finish().map_err(|e| wrong(&e))?;
        match (kind, more) {
            (0, more) => Ok(Self::Passphrase {
                stretching: Stretching::read(&more)?,
                id,
            }),
            (1, Value::Text(label)) => Ok(Self::Token { label, id }),
            (2, Value::Bytes(blob)) => Ok(Self::Sealed { blob, id }),
            (kind, _) => Err(KekError::Record(format!("kind {kind}"))),
        }
    }
}

/// What the key-encryption key comes from, beside the configuration.
#[derive(Clone, Copy)]
pub struct Devices<'a> {
    /// The token, where one is configured.
    pub token: Option<&'a std::sync::Arc<Token>>,
    /// The way to this machine's TPM, where there is one.
    pub vault: Option<&'a dyn Vault>,
}

/// The configured key-encryption key: made new where nothing is recorded, had again where something is. Gives the record
/// to write where it is new.
///
/// # Errors
/// [`KekError`]; [`KekError::Other`] where it is not the one that the store was sealed under.
pub fn obtain(
    config: &KekConfig,
    recorded: Option<&KekRecord>,
    devices: Devices<'_>,
) -> Result<(Box<dyn KeyEncryption>, Option<KekRecord>), KekError> {
    let (kek, made): (Box<dyn KeyEncryption>, KekRecord) = match (config, recorded) {
        (KekConfig::PassphraseFile(path), None) => {
            let stretching = Stretching::fresh()?;
            let kek = passphrase::derive(path, &stretching)?;
            let id = kek.id();
            (Box::new(kek), KekRecord::Passphrase { stretching, id })
        }
        (KekConfig::PassphraseFile(path), Some(KekRecord::Passphrase { stretching, .. })) => {
            let kek = passphrase::derive(path, stretching)?;
            let (id, stretching) = (kek.id(), stretching.clone());
            (Box::new(kek), KekRecord::Passphrase { stretching, id })
        }
        (KekConfig::Pkcs11Key(label), None | Some(KekRecord::Token { .. })) => {
            let token = devices
                .token
                .ok_or_else(|| KekError::Device("keys.pkcs11 is not configured".into()))?;
            let kek = token.key_encryption(label)?;
            let (id, label) = (kek.id(), label.clone());
            (Box::new(kek), KekRecord::Token { label, id })
        }
        (KekConfig::Tpm(_), None) => {
            let vault = devices.vault.ok_or(KekError::NoVault)?;
            let key = Zeroizing::new(random().map_err(|_| KekError::Failed("draw random bytes"))?);
            let blob = vault.seal(key.as_slice()).map_err(KekError::Device)?;
            let kek = MemoryKek::new(key);
            let id = kek.id();
            (Box::new(kek), KekRecord::Sealed { blob, id })
        }
        (KekConfig::Tpm(_), Some(KekRecord::Sealed { blob, .. })) => {
            let vault = devices.vault.ok_or(KekError::NoVault)?;
            let key = vault.unseal(blob).map_err(KekError::Device)?;
            let key = <[u8; KEY_BYTES]>::try_from(key.as_slice())
                .map_err(|_| KekError::Record("the sealed key has another length".into()))?;
            let kek = MemoryKek::new(Zeroizing::new(key));
            let (id, blob) = (kek.id(), blob.clone());
            (Box::new(kek), KekRecord::Sealed { blob, id })
        }
        (config, Some(recorded)) => {
            return Err(KekError::Other {
                expected: recorded.kind().into(),
                found: config.kind().into(),
            });
        }
    };
    match recorded {
        None => Ok((kek, Some(made))),
        Some(recorded) if recorded.id() == made.id() => Ok((kek, None)),
        Some(recorded) => Err(KekError::Other {
            expected: hex::encode(recorded.id()),
            found: hex::encode(made.id()),
        }),
    }
}

impl KekRecord {
    const fn id(&self) -> [u8; KEK_ID_LEN] {
        match self {
            Self::Passphrase { id, .. } | Self::Token { id, .. } | Self::Sealed { id, .. } => *id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::config::TpmKek;

    fn kek(n: u8) -> MemoryKek {
        MemoryKek::new(Zeroizing::new([n; 32]))
    }

    /// A vault that is open or shut, and keeps nothing secret: what is under test is what is done with one.
    struct Toy(bool);

    impl Vault for Toy {
        fn seal(&self, secret: &[u8]) -> Result<Vec<u8>, String> {
            Ok(secret.iter().map(|byte| byte ^ 0xff).collect())
        }
        fn unseal(&self, sealed: &[u8]) -> Result<Secret, String> {
            let open = sealed.iter().map(|byte| byte ^ 0xff).collect();
            if self.0 {
                Ok(Zeroizing::new(open))
            } else {
                Err("another state".into())
            }
        }
    }

    fn with(vault: &Toy) -> Devices<'_> {
        Devices {
            token: None,
            vault: Some(vault),
        }
    }

    #[test]
    fn a_wrapped_key_opens_under_its_own_key_and_in_its_own_row_only() {
        let wrapped = kek(1).wrap(&[9; 32], b"row 1").unwrap();
        assert_eq!(*kek(1).unwrap(&wrapped, b"row 1").unwrap(), [9; 32]);
        assert_eq!(kek(1).unwrap(&wrapped, b"row 2"), Err(KekError::Open));
        assert_eq!(kek(2).unwrap(&wrapped, b"row 1"), Err(KekError::Open));
        for at in 0..wrapped.len() {
            let mut other = wrapped.clone();
            other[at] ^= 1;
            assert_eq!(kek(1).unwrap(&other, b"row 1"), Err(KekError::Open), "byte {at}");
        }
        assert_ne!(kek(1).id(), kek(2).id());
    }

    #[test]
    fn a_sealed_key_is_had_again_in_the_right_state_only() {
        let config = KekConfig::Tpm(TpmKek::default());
        let (first, record) = obtain(&config, None, with(&Toy(true))).unwrap();
        let record = KekRecord::decode(&record.unwrap().encode()).unwrap();
        let (again, nothing_new) = obtain(&config, Some(&record), with(&Toy(true))).unwrap();
        assert_eq!((again.id(), nothing_new), (first.id(), None));
        let refused = obtain(&config, Some(&record), with(&Toy(false))).err();
        assert_eq!(refused, Some(KekError::Device("another state".into())));
        let no_tpm = Devices {
            token: None,
            vault: None,
        };
        assert_eq!(obtain(&config, Some(&record), no_tpm).err(), Some(KekError::NoVault));
    }

    #[test]
    fn another_kind_or_another_key_is_told_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passphrase");
        crate::key_files::write_new(&file, b"correct horse battery staple\n").unwrap();
        let config = KekConfig::PassphraseFile(file.clone());
        let (_, record) = obtain(&config, None, with(&Toy(true))).unwrap();
        let record = KekRecord::decode(&record.unwrap().encode()).unwrap();
        assert!(obtain(&config, Some(&record), with(&Toy(true))).is_ok());

        let other = KekConfig::Tpm(TpmKek::default());
        assert!(matches!(
            obtain(&other, Some(&record), with(&Toy(true))).err(),
            Some(KekError::Other { .. })
        ));
        std::fs::remove_file(&file).unwrap();
        crate::key_files::write_new(&file, b"correct horse battery stable\n").unwrap();
        assert!(matches!(
            obtain(&config, Some(&record), with(&Toy(true))).err(),
            Some(KekError::Other { .. })
        ));
        std::fs::remove_file(&file).unwrap();
        crate::key_files::write_new(&file, b"short\n").unwrap();
        assert!(matches!(
            obtain(&config, None, with(&Toy(true))).err(),
            Some(KekError::PassphraseShort { .. })
        ));
    }
}
