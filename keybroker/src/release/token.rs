//! A PKCS#11 token (v2.40 and later): an HSM, or SoftHSM. As a source it holds the secrets themselves as private data
//! objects; for the key-encryption key it has an AES key that never leaves it.
//!
//! One session, opened and logged in when it is first needed and again after an error: tokens are unplugged and restarted.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::aead::NONCE_LEN;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{self, Limits, Value};
use zeroize::{Zeroize as _, Zeroizing};

use super::Secret;
use super::config::TokenConfig;
use super::kek::{KEK_ID_LEN, KEY_BYTES, KekError, KeyEncryption};
use super::source::{KeySource, SourceError, check_length};
use crate::key_files::read_private;
use crate::session::random;

/// Length of the tag of AES-GCM, in bits.
const TAG_BITS: u64 = 128;

/// What our data objects are filed under (CKA_APPLICATION).
const APPLICATION: &str = "touchstone";

const LIMITS: Limits = Limits {
    max_bytes: super::MAX_SECRET_BYTES + 128,
    max_depth: 1,
    max_items: 4,
};

/// A token and the way into it.
pub struct Token {
    module: Pkcs11,
    slot: Slot,
    name: String,
    pin: AuthPin,
    session: Mutex<Option<Session>>,
}

impl Token {
    /// Loads the module, finds the token by its label, and logs in once to see that it can be done.
    ///
    /// # Errors
    /// [`KekError::Device`], in the module's words; never with the PIN.
    pub fn open(config: &TokenConfig) -> Result<Arc<Self>, KekError> {
        let module = load(&config.module).map_err(KekError::Device)?;
        let slot = find(&module, &config.token).map_err(KekError::Device)?;
        let text = read_private(&config.pin_file)?;
        let pin = AuthPin::from(text.trim_end_matches(['\r', '\n']).to_owned());
        let token = Self {
            module,
            slot,
            name: config.token.clone(),
            pin,
            session: Mutex::new(None),
        };
        token.with(|_| Ok(())).map_err(KekError::Device)?;
        Ok(Arc::new(token))
    }

    /// The AES key with this label as a key-encryption key.
    ///
    /// # Errors
    /// [`KekError::Device`] if there is not exactly one, or it can leave the token.
    pub fn key_encryption(self: &Arc<Self>, label: &str) -> Result<TokenKek, KekError> {
        self.with(|session| {
            let key = aes_key(session, label)?;
            session.get_attributes(key, &[AttributeType::Extractable])
        })
        .and_then(|attributes| match attributes.as_slice() {
            [Attribute::Extractable(false)] => Ok(()),
            _ => Err(format!(
                "key {label:?} could be taken out of the token: make one with CKA_EXTRACTABLE false"
            )),
        })
        .map_err(KekError::Device)?;
        let digest = Sha256::digest(cbor::encode(&Value::array([
            Value::text("touchstone-token-kek-id/1"),
            Value::text(self.name.as_str()),
            Value::text(label),
        ])));
        let mut id = [0; KEK_ID_LEN];
        id.iter_mut().zip(digest.iter()).for_each(|(to, from)| *to = *from);
        Ok(TokenKek {
            token: Arc::clone(self),
            label: label.to_owned(),
            id,
        })
    }

    /// Runs `f` with a logged-in session. After an error the session is given up, and once tried anew: the token may have
    /// been restarted.
    fn with<T>(&self, f: impl Fn(&Session) -> cryptoki::error::Result<T>) -> Result<T, String> {
        let mut held = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = held.as_ref() {
            match f(session) {
                Ok(done) => return Ok(done),
                Err(_) => *held = None,
            }
        }
        let session = self.login().map_err(|e| e.to_string())?;
        let done = f(&session).map_err(|e| e.to_string())?;
        *held = Some(session);
        Ok(done)
    }

    fn login(&self) -> cryptoki::error::Result<Session> {
        use cryptoki::error::{Error, RvError};
        let session = self.module.open_rw_session(self.slot)?;
        match session.login(UserType::User, Some(&self.pin)) {
            // Another session of this process is logged in: that counts for all.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(error) => Err(error),
        }
    }
}

/// Loads a module and initialises it; a module that this process uses already is used again.
fn load(path: &Path) -> Result<Pkcs11, String> {
    use cryptoki::error::{Error, RvError};
    let named = |e: Error| format!("{}: {e}", path.display());
    let module = Pkcs11::new(path).map_err(named)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(module),
        Err(error) => Err(named(error)),
    }
}

/// The slot of the one token with this label.
fn find(module: &Pkcs11, label: &str) -> Result<Slot, String> {
    let slots = module.get_slots_with_initialized_token().map_err(|e| e.to_string())?;
    let named = |slot: &Slot| {
        module
            .get_token_info(*slot)
            .is_ok_and(|info| info.label().trim_end() == label)
    };
    let found: Vec<Slot> = slots.into_iter().filter(named).collect();
    match found.as_slice() {
        [slot] => Ok(*slot),
        found => Err(format!(
            "{} tokens are labelled {label:?}, one is expected",
            found.len()
        )),
    }
}

/// The one AES key with this label.
fn aes_key(session: &Session, label: &str) -> cryptoki::error::Result<ObjectHandle> {
    one(
        session,
        &[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Label(label.as_bytes().to_vec()),
        ],
    )
}

fn one(session: &Session, template: &[Attribute]) -> cryptoki::error::Result<ObjectHandle> {
    use cryptoki::context::Function;
    use cryptoki::error::{Error, RvError};
    match session.find_objects(template)?.as_slice() {
        [object] => Ok(*object),
        // None, or one cannot know which.
        _ => Err(Error::Pkcs11(RvError::ObjectHandleInvalid, Function::FindObjects)),
    }
}

/// An AES key in a token that wraps data keys (CKM_AES_GCM).
pub struct TokenKek {
    token: Arc<Token>,
    label: String,
    id: [u8; KEK_ID_LEN],
}

impl KeyEncryption for TokenKek {
    fn id(&self) -> [u8; KEK_ID_LEN] {
        self.id
    }

    fn wrap(&self, data_key: &[u8; KEY_BYTES], context: &[u8]) -> Result<Vec<u8>, KekError> {
        let nonce: [u8; NONCE_LEN] = random().map_err(|_| KekError::Failed("draw random bytes"))?;
        let sealed = self.token.with(|session| {
            let mut iv = nonce;
            let parameters = GcmParams::new(&mut iv, context, TAG_BITS.into())?;
            session.encrypt(&Mechanism::AesGcm(parameters), aes_key(session, &self.label)?, data_key)
        });
        let sealed = sealed.map_err(KekError::Device)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    fn unwrap(&self, wrapped: &[u8], context: &[u8]) -> Result<Zeroizing<[u8; KEY_BYTES]>, KekError> {
        let (nonce, sealed) = wrapped.split_first_chunk::<NONCE_LEN>().ok_or(KekError::Open)?;
        let opened = self.token.with(|session| {
            let mut iv = *nonce;
            let parameters = GcmParams::new(&mut iv, context, TAG_BITS.into())?;
            let key = aes_key(session, &self.label)?;
            session
                .decrypt(&Mechanism::AesGcm(parameters), key, sealed)
                .map(Zeroizing::new)
        });
        let opened = opened.map_err(KekError::Device)?;
        let key = <[u8; KEY_BYTES]>::try_from(opened.as_slice()).map_err(|_| KekError::Open)?;
        Ok(Zeroizing::new(key))
    }
}

/// Secrets held by the token: private data objects. What the row keeps is the object's label.
pub struct TokenSource {
    token: Arc<Token>,
}

impl TokenSource {
    /// The source on this token.
    #[must_use]
    pub fn new(token: Arc<Token>) -> Self {
        Self { token }
    }
}

impl KeySource for TokenSource {
    fn name(&self) -> &'static str {
        "pkcs11"
    }

    /// The object holds the secret with the digest of its context: a token does not authenticate what a row says.
    fn keep(&self, context: &[u8], secret: &[u8]) -> Result<Vec<u8>, SourceError> {
        check_length(secret)?;
        let id: [u8; 16] = random().map_err(|_| SourceError::Failed("draw random bytes"))?;
        let label = hex::encode(id).into_bytes();
        let mut parts = Value::array([Value::bytes(Sha256::digest(context).as_slice()), Value::bytes(secret)]);
        let value = Zeroizing::new(cbor::encode(&parts));
        if let Value::Array(parts) = &mut parts {
            for part in parts {
                if let Value::Bytes(bytes) = part {
                    bytes.zeroize();
                }
            }
        }
        self.token
            .with(|session| {
                let mut template = data(&label);
                template.push(Attribute::Value(value.to_vec()));
                template.push(Attribute::Modifiable(false));
                let made = session.create_object(&template).map(|_| ());
                for attribute in &mut template {
                    if let Attribute::Value(value) = attribute {
                        value.zeroize();
                    }
                }
                made
            })
            .map_err(SourceError::Token)?;
        Ok(label)
    }

    fn open(&self, context: &[u8], kept: &[u8]) -> Result<Secret, SourceError> {
        let attributes = self
            .token
            .with(|session| {
                let object = one(session, &data(kept))?;
                session.get_attributes(object, &[AttributeType::Value])
            })
            .map_err(SourceError::Token)?;
        let value = match attributes.into_iter().next() {
            Some(Attribute::Value(value)) => Zeroizing::new(value),
            _ => return Err(SourceError::Open),
        };
        let parts = cbor::decode(&value, LIMITS).map_err(|_| SourceError::Open)?;
        match parts {
            Value::Array(parts) => match <[Value; 2]>::try_from(parts) {
                Ok([Value::Bytes(digest), Value::Bytes(secret)]) => {
                    let secret = Zeroizing::new(secret);
                    let same = digest.as_slice() == Sha256::digest(context).as_slice();
                    if same { Ok(secret) } else { Err(SourceError::Open) }
                }
                _ => Err(SourceError::Open),
            },
            _ => Err(SourceError::Open),
        }
    }

    fn forget(&self, kept: &[u8]) {
        let forgotten = self.token.with(|session| {
            let object = one(session, &data(kept))?;
            session.destroy_object(object)
        });
        if let Err(detail) = forgotten {
            tracing::warn!(detail, "a spent secret could not be taken out of the token");
        }
    }
}

/// Our data object with this label.
fn data(label: &[u8]) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Application(APPLICATION.as_bytes().to_vec()),
        Attribute::Label(label.to_vec()),
    ]
}
