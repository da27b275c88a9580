//! Making a COSE_Encrypt of our profile.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::kdf::{self, WrappingKey};
use super::{
    A256GCM, Agreement as _, ECDH_ES_A256KW, EncryptError, IV_LEN, KEY_LEN, MAX_CONTENT, Point, SoftwareReceiveKey,
    TAG, TAG_LEN, enc_structure, label,
};
use crate::cbor::{self, Value};
use crate::key::{KID_LEN, KeyError, VerifyingKey};
use crate::sign1::label as common;

/// Encrypts `content` to the receive key `to`. `sender` is the id of the key that signs around it; `typ` says what kind of
/// object it is; `external_aad` must be given again to open it.
///
/// # Errors
/// `to` is not a P-256 key, the content is too large, or the library failed.
pub fn encrypt(
    to: &VerifyingKey,
    sender: [u8; KID_LEN],
    typ: &str,
    content: &[u8],
    external_aad: &[u8],
) -> Result<Vec<u8>, EncryptError> {
    let ephemeral = PrivateKey::generate(&ECDH_P256).map_err(|_| EncryptError::Failed("make an ephemeral key"))?;
    let mut content_key = Zeroizing::new([0; KEY_LEN]);
    let mut iv = [0; IV_LEN];
    rand::fill(content_key.as_mut_slice())
        .and_then(|()| rand::fill(&mut iv))
        .map_err(|_| EncryptError::Failed("draw random bytes"))?;
    let fresh = Fresh {
        ephemeral: SoftwareReceiveKey::new(ephemeral)?,
        content_key,
        iv,
    };
    fresh.seal(to, sender, typ, content, external_aad)
}

/// What is drawn anew for every object.
struct Fresh {
    ephemeral: SoftwareReceiveKey,
    content_key: Zeroizing<[u8; KEY_LEN]>,
    iv: [u8; IV_LEN],
}

impl Fresh {
    fn seal(
        self,
        to: &VerifyingKey,
        sender: [u8; KID_LEN],
        typ: &str,
        content: &[u8],
        external_aad: &[u8],
    ) -> Result<Vec<u8>, EncryptError> {
        if content.len() > MAX_CONTENT {
            return Err(EncryptError::TooLarge { found: content.len() });
        }
        let VerifyingKey::P256 { x, y } = to else {
            return Err(EncryptError::Key(KeyError::Unsupported {
                what: "receive key",
                found: format!("{:?}", to.algorithm()),
            }));
        };
        let recipient = to.kid();
        let recipient_protected = cbor::encode(&Value::map([
            (common::ALG, Value::int(ECDH_ES_A256KW)),
            (label::PARTY_U_IDENTITY, Value::from(sender)),
            (label::PARTY_V_IDENTITY, Value::from(recipient)),
        ]));
        let secret = self.ephemeral.agree(&Point { x: *x, y: *y })?;
        let context = kdf::context(Some(&sender), Some(&recipient), &recipient_protected);
        let wrapped = WrappingKey::derive(&secret, &context)?.wrap(&self.content_key)?;

        let protected = cbor::encode(&Value::map([
            (common::ALG, Value::int(A256GCM)),
            (common::TYP, Value::text(typ)),
        ]));
        let failed = |_| EncryptError::Failed("encrypt the content");
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, self.content_key.as_slice()).map_err(failed)?);
        let mut ciphertext = Vec::with_capacity(content.len() + TAG_LEN);
        ciphertext.extend_from_slice(content);
        let aad = Aad::from(enc_structure(&protected, external_aad));
        let sealed = key.seal_in_place_append_tag(Nonce::assume_unique_for_key(self.iv), aad, &mut ciphertext);
        if sealed.is_err() {
            // What is in the buffer may still be the content.
            drop(Zeroizing::new(ciphertext));
            return Err(EncryptError::Failed("encrypt the content"));
        }
        let recipient = Value::array([
            Value::bytes(recipient_protected),
            Value::map([
                (common::KID, Value::from(recipient)),
                (label::EPHEMERAL_KEY, self.ephemeral.public().to_cose_key(false)),
            ]),
            Value::from(wrapped),
        ]);
        Ok(cbor::encode(&Value::tag(
            TAG,
            Value::array([
                Value::bytes(protected),
                Value::map([(label::IV, Value::from(self.iv))]),
                Value::Bytes(ciphertext),
                Value::array([recipient]),
            ]),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the object with fixed keys looks like: checked once with an independent implementation (see
    /// `tests/encrypt.rs`), and held here byte for byte.
    #[test]
    fn golden() {
        let to = SoftwareReceiveKey::from_scalar(&[0x11; 32]).unwrap();
        let fresh = Fresh {
            ephemeral: SoftwareReceiveKey::from_scalar(&[0x22; 32]).unwrap(),
            content_key: Zeroizing::new([0x33; 32]),
            iv: [0x44; 12],
        };
        let object = fresh
            .seal(
                to.public(),
                *b"sender-1",
                "application/touchstone-key+cose",
                b"secret",
                &[0x55; 32],
            )
            .unwrap();
        assert_eq!(hex::encode(object), include_str!("golden.hex").trim());
    }
}
