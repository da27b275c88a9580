//! Reading a COSE_Encrypt of our profile, and opening it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::kdf::{self, WrappingKey};
use super::{
    A256GCM, Agreement, ECDH_ES_A256KW, EncryptError, IV_LEN, LIMITS, Point, Secret, TAG, TAG_LEN, WRAPPED_LEN,
    enc_structure, label,
};
use crate::cbor::{self, Limits, MapReader, ShapeError, Value};
use crate::key::{KID_LEN, KeyError, VerifyingKey};
use crate::sign1::label as common;

/// Longest typ we read.
const MAX_TYP: usize = 128;

/// A COSE_Encrypt taken apart and found to be of our profile; nothing is opened yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    protected: Vec<u8>,
    typ: String,
    iv: [u8; IV_LEN],
    ciphertext: Vec<u8>,
    recipient_protected: Vec<u8>,
    sender: [u8; KID_LEN],
    recipient: [u8; KID_LEN],
    ephemeral: Point,
    wrapped: [u8; WRAPPED_LEN],
}

impl Sealed {
    /// Reads an object: deterministic CBOR, tag 96, one recipient, exactly the headers of the profile, the ephemeral key
    /// a point of P-256 (an invalid point would let its maker learn bits of the receive key).
    ///
    /// # Errors
    /// See [`EncryptError`].
    pub fn parse(input: &[u8]) -> Result<Sealed, EncryptError> {
        const CONTEXT: &str = "COSE_Encrypt";
        let inner = match cbor::decode(input, LIMITS)? {
            Value::Tag(TAG, inner) => *inner,
            other => return Err(EncryptError::NotEncrypt { found: other.kind() }),
        };
        let (protected, unprotected, ciphertext, recipients) = match four(inner, CONTEXT)? {
            [Value::Bytes(p), u @ Value::Map(_), Value::Bytes(c), Value::Array(r)] => (p, u, c, r),
            other => {
                return Err(ShapeError::whole(CONTEXT, "[bytes, map, bytes, array]", &Value::array(other)).into());
            }
        };
        if ciphertext.len() < TAG_LEN {
            let found = format!("{} bytes", ciphertext.len());
            return Err(ShapeError::member(CONTEXT, "ciphertext", format!("at least {TAG_LEN} bytes"), found).into());
        }
        let mut header = header(&protected, "content header")?;
        algorithm(&mut header, A256GCM)?;
        let typ = header.text(common::TYP, MAX_TYP)?;
        header.finish()?;
        let mut unprotected = MapReader::new(unprotected, "content's unprotected header")?;
        let iv = unprotected.fixed(label::IV)?;
        unprotected.finish()?;

        let recipient = match <[Value; 1]>::try_from(recipients) {
            Ok([recipient]) => recipient,
            Err(recipients) => {
                return Err(EncryptError::Recipients {
                    found: recipients.len(),
                });
            }
        };
        let recipient = Recipient::read(recipient)?;
        Ok(Sealed {
            protected,
            typ,
            iv,
            ciphertext,
            recipient_protected: recipient.protected,
            sender: recipient.sender,
            recipient: recipient.kid,
            ephemeral: recipient.ephemeral,
            wrapped: recipient.wrapped,
        })
    }

    /// The id of the key that it says it was made by.
    pub fn sender(&self) -> [u8; KID_LEN] {
        self.sender
    }

    /// The id of the receive key that it says it is for.
    pub fn recipient(&self) -> [u8; KID_LEN] {
        self.recipient
    }

    /// Opens it. Checks sender, recipient and type first, so that a device is asked only for what can be ours.
    ///
    /// # Errors
    /// One of them differs, the key could not agree, or the contents do not open.
    pub fn open(
        &self,
        key: &dyn Agreement,
        sender: [u8; KID_LEN],
        typ: &str,
        external_aad: &[u8],
    ) -> Result<Secret, EncryptError> {
        for (party, expected, found) in [
            ("sender", sender, self.sender),
            ("recipient", key.kid(), self.recipient),
        ] {
            if expected != found {
                return Err(EncryptError::Party { party, expected, found });
            }
        }
        if self.typ != typ {
            return Err(EncryptError::TypeMismatch {
                expected: typ.to_owned(),
                found: self.typ.clone(),
            });
        }
        let secret = key.agree(&self.ephemeral)?;
        let context = kdf::context(Some(&self.sender), Some(&self.recipient), &self.recipient_protected);
        let content_key = WrappingKey::derive(&secret, &context)?.unwrap(&self.wrapped)?;

        let refused = || EncryptError::Open { what: "content" };
        let key = UnboundKey::new(&AES_256_GCM, content_key.as_slice()).map_err(|_| refused())?;
        let aad = Aad::from(enc_structure(&self.protected, external_aad));
        let mut content = Zeroizing::new(self.ciphertext.clone());
        let length = LessSafeKey::new(key)
            .open_in_place(Nonce::assume_unique_for_key(self.iv), aad, content.as_mut_slice())
            .map_err(|_| refused())?
            .len();
        content.truncate(length);
        Ok(content)
    }
}

/// The one recipient, taken apart.
struct Recipient {
    protected: Vec<u8>,
    sender: [u8; KID_LEN],
    kid: [u8; KID_LEN],
    ephemeral: Point,
    wrapped: [u8; WRAPPED_LEN],
}

impl Recipient {
    fn read(value: Value) -> Result<Recipient, EncryptError> {
        const CONTEXT: &str = "COSE_recipient";
        let Value::Array(items) = value else {
            return Err(ShapeError::whole(CONTEXT, "[bytes, map, bytes]", &value).into());
        };
        let (protected, unprotected, wrapped) = match <[Value; 3]>::try_from(items) {
            Ok([Value::Bytes(p), u @ Value::Map(_), Value::Bytes(w)]) => (p, u, w),
            Ok(other) => {
                return Err(ShapeError::whole(CONTEXT, "[bytes, map, bytes]", &Value::array(other)).into());
            }
            Err(other) => return Err(ShapeError::whole(CONTEXT, "[bytes, map, bytes]", &Value::Array(other)).into()),
        };
        let wrapped = <[u8; WRAPPED_LEN]>::try_from(wrapped.as_slice()).map_err(|_| {
            let found = format!("{} bytes", wrapped.len());
            ShapeError::member(CONTEXT, "wrapped key", format!("{WRAPPED_LEN} bytes"), found)
        })?;
        let mut header = header(&protected, "recipient header")?;
        algorithm(&mut header, ECDH_ES_A256KW)?;
        let sender = header.fixed(label::PARTY_U_IDENTITY)?;
        let party_v: [u8; KID_LEN] = header.fixed(label::PARTY_V_IDENTITY)?;
        header.finish()?;
        let mut unprotected = MapReader::new(unprotected, "recipient's unprotected header")?;
        let kid = unprotected.fixed(common::KID)?;
        let ephemeral = VerifyingKey::from_cose_key(&unprotected.required(label::EPHEMERAL_KEY)?)?;
        unprotected.finish()?;
        if kid != party_v {
            return Err(EncryptError::Party {
                party: "recipient",
                expected: party_v,
                found: kid,
            });
        }
        let VerifyingKey::P256 { x, y } = ephemeral else {
            return Err(EncryptError::Key(KeyError::Unsupported {
                what: "ephemeral key",
                found: format!("{:?}", ephemeral.algorithm()),
            }));
        };
        Ok(Recipient {
            protected,
            sender,
            kid,
            ephemeral: Point { x, y },
            wrapped,
        })
    }
}

fn four(value: Value, context: &'static str) -> Result<[Value; 4], ShapeError> {
    const EXPECTED: &str = "[bytes, map, bytes, array]";
    let Value::Array(items) = value else {
        return Err(ShapeError::whole(context, EXPECTED, &value));
    };
    <[Value; 4]>::try_from(items).map_err(|items| ShapeError::whole(context, EXPECTED, &Value::Array(items)))
}

/// Starts reading a protected header. `finish` refuses every label that the profile does not have, critical ones included.
fn header(bytes: &[u8], context: &'static str) -> Result<MapReader, EncryptError> {
    Ok(MapReader::new(cbor::decode(bytes, Limits::TOKEN)?, context)?)
}

fn algorithm(header: &mut MapReader, expected: i64) -> Result<(), EncryptError> {
    match header.i64(common::ALG)? {
        found if found == expected => Ok(()),
        found => Err(EncryptError::Algorithm { expected, found }),
    }
}
