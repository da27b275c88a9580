//! The first message: who asks, with which keys, and what it can prove.

use touchstone_cose::cbor::{self, ShapeError, Value};

use super::{MessageError, PROTOCOL, bounded, bytes, open, optional_bytes};

const CONTEXT: &str = "hello";
const IDENTITY: &str = "hello.identity";

/// The largest hello.
pub const MAX_HELLO: usize = 16 << 10;
/// The longest EK certificate.
pub const MAX_CERTIFICATE: usize = 8 << 10;
/// The longest TPMT_PUBLIC.
pub const MAX_PUBLIC: usize = 1 << 10;
/// The longest TPM Name: algorithm and SHA-512.
pub const MAX_NAME: usize = 66;
/// The longest encoded COSE_Key.
pub const MAX_COSE_KEY: usize = 256;
/// The most values by which a confidential VM's report names its guest.
pub const MAX_GUESTS: usize = 4;
/// The longest text that names a platform or a guest.
pub const MAX_IDENTITY: usize = 160;
/// The most kinds of evidence.
pub const MAX_KINDS: usize = 8;

/// Bytes of a boot id.
pub const BOOT_ID_LEN: usize = 16;

const MAX_KIND: usize = 32;

/// Who says hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Everything a broker needs to know of a machine it may never have seen.
    Full {
        /// The endorsement key's certificate, DER.
        ek_certificate: Option<Vec<u8>>,
        /// The endorsement key, TPMT_PUBLIC.
        ek_public: Vec<u8>,
        /// The attestation key, TPMT_PUBLIC.
        ak_public: Vec<u8>,
    },
    /// A confidential VM without a TPM of its own. Claims, in the text form of the inventory: believed only when a report
    /// shows them.
    Cvm {
        /// The platform it runs on.
        platform: String,
        /// Every value by which its report names the guest.
        guests: Vec<String>,
    },
    /// A machine the broker has enrolled: the TPM Name of its attestation key.
    Known {
        /// `nameAlg ‖ digest`.
        ak_name: Vec<u8>,
    },
}

/// Attester → broker: who I say I am, and the key an authorization shall be bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: String,
    /// The claimed identity.
    pub identity: Identity,
    /// The signing session key: an encoded COSE_Key, point compressed.
    pub session_key: Vec<u8>,
    /// The receive key, likewise; part 3 of the plan fills it.
    pub receive_key: Option<Vec<u8>>,
    /// The kinds of evidence that can be given.
    pub kinds: Vec<String>,
    /// The kernel's id of this boot (Linux `random/boot_id`): a hint, without any authority, by which a broker tells
    /// whether the logs it has seen are this boot's. Without it every log is asked for whole.
    pub boot: Option<[u8; BOOT_ID_LEN]>,
}

impl Hello {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let optional = |bytes: &Option<Vec<u8>>| bytes.clone().map_or(Value::Null, Value::bytes);
        let identity = match &self.identity {
            Identity::Full {
                ek_certificate,
                ek_public,
                ak_public,
            } => Value::map([
                (0, optional(ek_certificate)),
                (1, Value::bytes(ek_public.clone())),
                (2, Value::bytes(ak_public.clone())),
            ]),
            Identity::Known { ak_name } => Value::map([(3, Value::bytes(ak_name.clone()))]),
            Identity::Cvm { platform, guests } => Value::map([
                (4, Value::text(platform.as_str())),
                (5, Value::array(guests.iter().map(|guest| Value::text(guest.as_str())))),
            ]),
        };
        cbor::encode(&Value::map([
            (0, Value::text(self.protocol.as_str())),
            (1, identity),
            (2, Value::bytes(self.session_key.clone())),
            (3, optional(&self.receive_key)),
            (
                4,
                Value::array(self.kinds.iter().map(|kind| Value::text(kind.as_str()))),
            ),
            (5, self.boot.map_or(Value::Null, Value::bytes)),
        ]))
    }

    /// Reads a hello.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        let mut reader = open(message, MAX_HELLO, CONTEXT)?;
        let protocol = reader.text(0, PROTOCOL.len())?;
        if protocol != PROTOCOL {
            return Err(ShapeError::member(CONTEXT, "key 0", PROTOCOL, "another protocol").into());
        }
        let mut claimed = reader.map(1, IDENTITY)?;
        let identity = match (claimed.optional(3), claimed.optional(4)) {
            (Some(name), None) => Identity::Known {
                ak_name: bounded(name, 3, IDENTITY, MAX_NAME)?,
            },
            (None, Some(platform)) => Identity::Cvm {
                platform: text(platform, "key 4")?,
                guests: guests(claimed.array(5)?)?,
            },
            (Some(_), Some(_)) => {
                return Err(ShapeError::member(IDENTITY, "key 4", "nothing beside key 3", "a value").into());
            }
            (None, None) => Identity::Full {
                ek_certificate: optional_bytes(&mut claimed, 0, IDENTITY, MAX_CERTIFICATE)?,
                ek_public: bytes(&mut claimed, 1, IDENTITY, MAX_PUBLIC)?,
                ak_public: bytes(&mut claimed, 2, IDENTITY, MAX_PUBLIC)?,
            },
        };
        claimed.finish()?;
        let session_key = bytes(&mut reader, 2, CONTEXT, MAX_COSE_KEY)?;
        let receive_key = optional_bytes(&mut reader, 3, CONTEXT, MAX_COSE_KEY)?;
        let kinds = kinds(reader.array(4)?)?;
        let boot = boot(&reader.required(5)?)?;
        reader.finish()?;
        Ok(Self {
            protocol,
            identity,
            session_key,
            receive_key,
            kinds,
            boot,
        })
    }
}

fn guests(items: Vec<Value>) -> Result<Vec<String>, ShapeError> {
    if items.len() > MAX_GUESTS {
        let (expected, found) = (format!("at most {MAX_GUESTS} texts"), format!("{} items", items.len()));
        return Err(ShapeError::member(IDENTITY, "key 5", expected, found));
    }
    items.into_iter().map(|item| text(item, "key 5")).collect()
}

fn text(value: Value, key: &'static str) -> Result<String, ShapeError> {
    match value {
        Value::Text(text) if (1..=MAX_IDENTITY).contains(&text.len()) => Ok(text),
        other => {
            let expected = format!("1 to {MAX_IDENTITY} bytes of text");
            Err(ShapeError::member(IDENTITY, key, expected, other.kind()))
        }
    }
}

fn boot(value: &Value) -> Result<Option<[u8; BOOT_ID_LEN]>, ShapeError> {
    if *value == Value::Null {
        return Ok(None);
    }
    let id = value.as_bytes().and_then(|bytes| bytes.try_into().ok());
    let refuse = || ShapeError::member(CONTEXT, "key 5", format!("{BOOT_ID_LEN} bytes or null"), value.kind());
    id.map(Some).ok_or_else(refuse)
}

fn kinds(items: Vec<Value>) -> Result<Vec<String>, ShapeError> {
    let refuse = |found: String| {
        let expected = format!("1 to {MAX_KINDS} texts of 1 to {MAX_KIND} bytes");
        ShapeError::member(CONTEXT, "key 4", expected, found)
    };
    if !(1..=MAX_KINDS).contains(&items.len()) {
        return Err(refuse(format!("{} items", items.len())));
    }
    let kinds = items.into_iter().map(|item| match item {
        Value::Text(kind) if (1..=MAX_KIND).contains(&kind.len()) => Ok(kind),
        other => Err(refuse(other.kind())),
    });
    kinds.collect()
}
