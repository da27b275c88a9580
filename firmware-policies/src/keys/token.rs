//! Keys in a PKCS#11 token (v2.40 and later): an HSM, a smart card, or SoftHSM. The private key never leaves it.
//!
//! `<role>-<n>.pkcs11` says where, in TOML; paths are relative to that file:
//! ```toml
//! module = "/usr/lib/softhsm/libsofthsm2.so"   # the maker's library
//! token = "authors"                            # label of the token
//! key = "targets-1"                            # label of the key pair (CKA_LABEL)
//! pin_file = "pin"                             # the user's PIN, mode 0600
//! ```
//! Ed25519 (CKM_EDDSA) and P-256 (CKM_ECDSA over SHA-256) keys sign. Nobody but the owner may change the file: it names
//! a library that is loaded.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use touchstone_cose::key::{Algorithm, KID_LEN, SignError, Signer, VerifyingKey};

use super::private_file::read_private;
use crate::error::{PolicyCode, PolicyError};
use crate::transport::bounded::read_bounded;

/// Largest `.pkcs11` file.
pub const MAX_TOKEN_FILE_LEN: u64 = 4096;
const OTHERS_WRITE: u32 = 0o022;

/// What a `.pkcs11` file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFile {
    module: PathBuf,
    token: String,
    key: String,
    pin_file: PathBuf,
}

/// A private key in a token.
pub struct TokenKey {
    session: Mutex<Session>,
    handle: ObjectHandle,
    public: VerifyingKey,
}

/// Opens the key that a `.pkcs11` file names.
///
/// # Errors
/// [`PolicyError`]: `policy-key-file-invalid` for the file, `policy-key-file-exposed` where others may change it or read
/// the PIN, `policy-key-token` in the module's words, never with the PIN.
pub(super) fn open(path: &Path) -> Result<(TokenKey, VerifyingKey), PolicyError> {
    let file = read(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let pin = read_private(&folder.join(&file.pin_file))?;
    let pin = AuthPin::from(pin.trim_end_matches(['\r', '\n']).to_owned());
    let refused = |found: String| {
        let expected = format!("key {:?} of token {:?}", file.key, file.token);
        PolicyError::new(PolicyCode::KeyToken, path.display(), expected, found)
    };
    let module = load(&folder.join(&file.module)).map_err(refused)?;
    let session = login(&module, &file.token, &pin).map_err(refused)?;
    let handle = one(&session, ObjectClass::PRIVATE_KEY, &file.key).map_err(refused)?;
    kept(&session, handle).map_err(refused)?;
    let public = one(&session, ObjectClass::PUBLIC_KEY, &file.key).map_err(refused)?;
    let public = public_key(&session, public).map_err(refused)?;
    let key = TokenKey {
        session: Mutex::new(session),
        handle,
        public: public.clone(),
    };
    Ok((key, public))
}

fn read(path: &Path) -> Result<TokenFile, PolicyError> {
    let io = |e: std::io::Error| PolicyError::io(path, "a token file", &e);
    let mode = std::fs::metadata(path).map_err(io)?.mode();
    if mode & OTHERS_WRITE != 0 {
        let found = format!("mode {:04o}", mode & 0o7777);
        return Err(PolicyError::new(
            PolicyCode::KeyFileExposed,
            path.display(),
            "a file that only its owner can change",
            found,
        ));
    }
    let invalid = |found: String| {
        let expected = "module, token, key and pin_file in TOML";
        PolicyError::new(PolicyCode::KeyFileInvalid, path.display(), expected, found)
    };
    let bytes = read_bounded(path, MAX_TOKEN_FILE_LEN).map_err(io)?;
    let text = String::from_utf8(bytes).map_err(|e| invalid(e.to_string()))?;
    toml::from_str(&text).map_err(|e| invalid(e.to_string()))
}

/// Loads a module and initialises it; a module that this process uses already is used again.
fn load(path: &Path) -> Result<Pkcs11, String> {
    let named = |e: Error| format!("{}: {e}", path.display());
    let module = Pkcs11::new(path).map_err(named)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(module),
        Err(error) => Err(named(error)),
    }
}

fn login(module: &Pkcs11, token: &str, pin: &AuthPin) -> Result<Session, String> {
    let session = module
        .open_ro_session(slot(module, token)?)
        .map_err(|e| e.to_string())?;
    match session.login(UserType::User, Some(pin)) {
        // Another session of this process is logged in: that counts for all.
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
        Err(error) => Err(error.to_string()),
    }
}

/// The slot of the one token with this label.
fn slot(module: &Pkcs11, label: &str) -> Result<Slot, String> {
    let slots = module.get_slots_with_initialized_token().map_err(|e| e.to_string())?;
    let named = |slot: &Slot| {
        module
            .get_token_info(*slot)
            .is_ok_and(|info| info.label().trim_end() == label)
    };
    let found: Vec<Slot> = slots.into_iter().filter(named).collect();
    match found.as_slice() {
        [slot] => Ok(*slot),
        found => Err(format!("{} tokens of this label", found.len())),
    }
}

/// The one object of this class and label: of two one could not know which is meant.
fn one(session: &Session, class: ObjectClass, label: &str) -> Result<ObjectHandle, String> {
    let template = [Attribute::Class(class), Attribute::Label(label.as_bytes().to_vec())];
    let found = session.find_objects(&template).map_err(|e| e.to_string())?;
    match found.as_slice() {
        [object] => Ok(*object),
        found => Err(format!("{} objects of class {class} and this label", found.len())),
    }
}

/// A key that can be taken out of its token is a file with extra steps.
fn kept(session: &Session, handle: ObjectHandle) -> Result<(), String> {
    let attributes = session.get_attributes(handle, &[AttributeType::Extractable]);
    match attributes.map_err(|e| e.to_string())?.as_slice() {
        [Attribute::Extractable(false)] => Ok(()),
        _ => Err("a key that can be taken out of the token: make one with CKA_EXTRACTABLE false".into()),
    }
}

/// CKA_EC_POINT is a DER OCTET STRING around the point (PKCS#11 2.40, 2.3.3); some modules leave the wrapping out.
fn public_key(session: &Session, handle: ObjectHandle) -> Result<VerifyingKey, String> {
    let wanted = [AttributeType::KeyType, AttributeType::EcPoint];
    let attributes = session.get_attributes(handle, &wanted).map_err(|e| e.to_string())?;
    let mut kind = None;
    let mut point = Vec::new();
    for attribute in attributes {
        match attribute {
            Attribute::KeyType(found) => kind = Some(found),
            Attribute::EcPoint(found) => point = found,
            _ => {}
        }
    }
    point_of(kind, &point).ok_or_else(|| "a key that is neither Ed25519 nor P-256".into())
}

fn point_of(kind: Option<KeyType>, point: &[u8]) -> Option<VerifyingKey> {
    let raw = match point {
        [0x04, length, rest @ ..] if usize::from(*length) == rest.len() => rest,
        raw => raw,
    };
    if kind == Some(KeyType::EC_EDWARDS) {
        return VerifyingKey::ed25519(raw.try_into().ok()?).ok();
    }
    let (form, coordinates) = raw.split_first()?;
    let (x, y) = coordinates.split_at_checked(32)?;
    (kind == Some(KeyType::EC) && *form == 0x04)
        .then(|| VerifyingKey::p256(x.try_into().ok()?, y.try_into().ok()?).ok())
        .flatten()
}

impl Signer for TokenKey {
    fn algorithm(&self) -> Algorithm {
        self.public.algorithm()
    }

    fn kid(&self) -> [u8; KID_LEN] {
        self.public.kid()
    }

    fn sign(&self, to_be_signed: &[u8]) -> Result<Vec<u8>, SignError> {
        let session = self.session.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let signed = match self.public {
            VerifyingKey::Ed25519(_) => {
                let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
                session.sign(&mechanism, self.handle, to_be_signed)
            }
            VerifyingKey::P256 { .. } | VerifyingKey::P384 { .. } => {
                session.sign(&Mechanism::Ecdsa, self.handle, &Sha256::digest(to_be_signed))
            }
        };
        signed.map_err(|e| SignError::Device(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_with_and_without_their_wrapping() {
        let key = touchstone_cose::key::SigningKey::from_seed([3; 32]).verifying_key();
        let VerifyingKey::Ed25519(bytes) = key else {
            panic!("an Ed25519 key")
        };
        let wrapped = [&[0x04, 32], bytes.as_slice()].concat();
        assert_eq!(point_of(Some(KeyType::EC_EDWARDS), &bytes), Some(key.clone()));
        assert_eq!(point_of(Some(KeyType::EC_EDWARDS), &wrapped), Some(key));
        assert_eq!(point_of(Some(KeyType::EC), &wrapped), None);
        assert_eq!(point_of(None, &bytes), None);
        for n in 0..wrapped.len() {
            assert_eq!(point_of(Some(KeyType::EC_EDWARDS), &wrapped[..n]), None, "{n}");
        }
    }

    #[test]
    fn a_token_file_is_strict_and_nobody_elses() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("targets-1.pkcs11");
        let good = "module = \"/m.so\"\ntoken = \"t\"\nkey = \"k\"\npin_file = \"pin\"\n";
        for (text, code) in [
            ("", PolicyCode::KeyFileInvalid),
            ("module = 1", PolicyCode::KeyFileInvalid),
            (&format!("{good}pin = \"1234\"\n"), PolicyCode::KeyFileInvalid),
            (good, PolicyCode::Io),
        ] {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
            assert_eq!(open(&file).err().map(|e| e.code()), Some(code), "{text}");
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o664)).unwrap();
        assert_eq!(open(&file).err().map(|e| e.code()), Some(PolicyCode::KeyFileExposed));
    }
}
