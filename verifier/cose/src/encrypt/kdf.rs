//! From a shared secret to the key that wraps the content key (RFC 9053 sections 5.1, 5.2 and 6.4).

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use zeroize::Zeroizing;

use super::{A256KW, EncryptError, KEY_LEN, WRAPPED_LEN};
use crate::cbor::{self, Value};

/// The key that wraps a content key.
pub(super) struct WrappingKey(Zeroizing<[u8; KEY_LEN]>);

/// COSE_KDF_Context (RFC 9053 section 5.2): what the derived key is for, between whom, under which recipient header.
pub(super) fn context(party_u: Option<&[u8]>, party_v: Option<&[u8]>, recipient_protected: &[u8]) -> Vec<u8> {
    let party =
        |identity: Option<&[u8]>| Value::array([identity.map_or(Value::Null, Value::bytes), Value::Null, Value::Null]);
    cbor::encode(&Value::array([
        Value::int(A256KW),
        party(party_u),
        party(party_v),
        Value::array([Value::Unsigned(KEY_LEN as u64 * 8), Value::bytes(recipient_protected)]),
    ]))
}

impl WrappingKey {
    /// HKDF with SHA-256, no salt, over the shared secret and `context`.
    pub(super) fn derive(secret: &[u8; 32], context: &[u8]) -> Result<WrappingKey, EncryptError> {
        struct Bits256;
        impl KeyType for Bits256 {
            fn len(&self) -> usize {
                KEY_LEN
            }
        }
        let failed = |_| EncryptError::Failed("derive the wrapping key");
        let mut key = Zeroizing::new([0; KEY_LEN]);
        Salt::none(HKDF_SHA256)
            .extract(secret)
            .expand(&[context], Bits256)
            .map_err(failed)?
            .fill(key.as_mut_slice())
            .map_err(failed)?;
        Ok(WrappingKey(key))
    }

    /// Wraps a content key (RFC 3394).
    pub(super) fn wrap(&self, content_key: &[u8; KEY_LEN]) -> Result<[u8; WRAPPED_LEN], EncryptError> {
        let failed = |_| EncryptError::Failed("wrap the content key");
        let mut out = [0; WRAPPED_LEN];
        let kek = AesKek::new(&AES_256, self.0.as_slice()).map_err(failed)?;
        kek.wrap(content_key, &mut out).map_err(failed)?;
        Ok(out)
    }

    /// Unwraps a content key.
    pub(super) fn unwrap(&self, wrapped: &[u8; WRAPPED_LEN]) -> Result<Zeroizing<[u8; KEY_LEN]>, EncryptError> {
        let refused = |_| EncryptError::Open { what: "content key" };
        // The library asks for room for the integrity block too.
        let mut out = Zeroizing::new([0; WRAPPED_LEN]);
        let kek = AesKek::new(&AES_256, self.0.as_slice()).map_err(refused)?;
        let key = kek.unwrap(wrapped, out.as_mut_slice()).map_err(refused)?;
        let key = <[u8; KEY_LEN]>::try_from(&*key).map_err(|_| EncryptError::Open { what: "content key" })?;
        Ok(Zeroizing::new(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encrypt::{Agreement as _, Point, SoftwareReceiveKey};

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        hex::decode(hex).unwrap().try_into().unwrap()
    }

    /// The working group's published example `ecdh-wrap-examples/p256-wrap-256-01`: context, shared secret, wrapping key
    /// and the 128-bit content key that it wraps.
    #[test]
    fn the_working_groups_example() {
        let receive = SoftwareReceiveKey::from_scalar(&bytes(
            "aff907c99f9ad3aae6c4cdf21122bce2bd68b5283e6907154ad911840fa208cf",
        ))
        .unwrap();
        let ephemeral = Point {
            x: bytes("3fc1141f492fdb3b33122be61b31bafd860798db190e07831fb7a2e42713f4ca"),
            y: bytes("fc09d3def88ea52953b51f48955bfac1ac79b4286f0673519a4a71fc18b62869"),
        };
        let secret = receive.agree(&ephemeral).unwrap();
        assert_eq!(
            hex::encode(secret.as_slice()),
            "8bed545f07a7f39bd7179403c94e7d9862d0a5630217c289b8b4d953490d6d9e"
        );
        let context = context(None, None, &bytes::<4>("a101381e"));
        assert_eq!(hex::encode(&context), "842483f6f6f683f6f6f68219010044a101381e");
        let key = WrappingKey::derive(&secret, &context).unwrap();
        assert_eq!(
            hex::encode(key.0.as_slice()),
            "185e6208b1e0abee41fcd0890318ffe5320b5fb2d66b4976f7a51a9493e5b502"
        );
        let kek = AesKek::new(&AES_256, key.0.as_slice()).unwrap();
        let mut out = [0; 24];
        let wrapped: [u8; 24] = bytes("e00e25b58aeadde5a475f1d69d2a2c199e5c1f231c5b164a");
        let content_key = kek.unwrap(&wrapped, &mut out).unwrap();
        assert_eq!(hex::encode(&*content_key), "b2353161740aacf1f7163647984b522a");
    }
}
