//! Keys: their names, their forms, and what does not pass for one.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use crate::common;

use common::Ecdsa;
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_cose::key::{Algorithm, KeyError, Signer, SigningKey, VerifyingKey};

fn fixed<const N: usize>(hex: &str) -> [u8; N] {
    hex::decode(hex).expect("hex").try_into().expect("length")
}

/// The key of RFC 9679 section 6.
fn rfc_9679_key() -> VerifyingKey {
    VerifyingKey::p256(
        fixed("65eda5a12577c2bae829437fe338701a10aaa375e1bb5b5de108de439c08551d"),
        fixed("1e52ed75701163f7f9e40ddf9f341b3dc9ba860af7e0ca7ca7e9eecd0084d19c"),
    )
    .expect("on the curve")
}

/// The first test key of RFC 8032 section 7.1.
fn rfc_8032_key() -> SigningKey {
    SigningKey::from_seed(fixed(
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
    ))
}

#[test]
fn the_thumbprint_is_the_one_of_rfc_9679() {
    let key = rfc_9679_key();
    let expected = "496bd8afadf307e5b08c64b0421bf9dc01528a344a43bda88fadd1669da253ec";
    assert_eq!(hex::encode(key.thumbprint()), expected);
    assert_eq!(hex::encode(key.kid()), &expected[..16]);
}

#[test]
fn a_compressed_key_has_the_thumbprint_of_the_uncompressed_one() {
    for key in [
        rfc_9679_key(),
        Ecdsa::p256().verifying_key(),
        Ecdsa::p384().verifying_key(),
    ] {
        let compressed = key.to_cose_key(true);
        assert!(matches!(compressed.get(-3), Some(Value::Bool(_))));
        let read = VerifyingKey::from_cose_key(&compressed).expect("a key");
        assert_eq!(read, key);
        assert_eq!(read.thumbprint(), key.thumbprint());
        // The other sign is the other point.
        let odd = compressed.get(-3).and_then(Value::as_bool).expect("bool");
        let other = with(&compressed, -3, Value::Bool(!odd));
        assert_ne!(VerifyingKey::from_cose_key(&other).expect("its mirror image"), key);
    }
}

#[test]
fn keys_survive_cose_and_spki_and_only_their_own() {
    for key in [
        rfc_9679_key(),
        rfc_8032_key().verifying_key(),
        Ecdsa::p384().verifying_key(),
    ] {
        let encoded = cbor::encode(&key.to_cose_key(false));
        let decoded = cbor::decode(&encoded, Limits::TOKEN).expect("deterministic");
        assert_eq!(VerifyingKey::from_cose_key(&decoded), Ok(key.clone()));
        let spki = key.to_spki_der();
        assert_eq!(VerifyingKey::from_spki_der(&spki), Ok(key));
        for end in 0..spki.len() {
            assert!(VerifyingKey::from_spki_der(&spki[..end]).is_err());
        }
        assert!(VerifyingKey::from_spki_der(&[spki.as_slice(), &[0]].concat()).is_err());
    }
}

#[test]
fn ed25519_signs_as_in_rfc_8032() {
    let key = rfc_8032_key();
    let public = fixed("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    assert_eq!(key.verifying_key(), VerifyingKey::Ed25519(public));
    let signature = key.sign(b"").expect("signs");
    assert_eq!(
        hex::encode(&signature),
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    );
    assert_eq!(key.verifying_key().verify(b"", &signature), Ok(()));
}

#[test]
fn a_changed_message_or_signature_does_not_verify() {
    let ed25519 = rfc_8032_key();
    let (p256, p384) = (Ecdsa::p256(), Ecdsa::p384());
    let signers: [(&dyn Signer, VerifyingKey); 3] = [
        (&ed25519, ed25519.verifying_key()),
        (&p256, p256.verifying_key()),
        (&p384, p384.verifying_key()),
    ];
    for (signer, key) in signers {
        let refused = Err(KeyError::BadSignature {
            algorithm: key.algorithm(),
        });
        let signature = signer.sign(b"message").expect("signs");
        assert_eq!(signature.len(), key.algorithm().signature_len());
        assert_eq!(key.verify(b"message", &signature), Ok(()));
        assert_eq!(key.verify(b"massage", &signature), refused);
        assert_eq!(key.verify(b"message", &[]), refused);
        assert_eq!(key.verify(b"message", &[signature.as_slice(), &[0]].concat()), refused);
        for at in 0..signature.len() {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            assert_eq!(key.verify(b"message", &changed), refused, "byte {at}");
        }
        let null = vec![0; signature.len()];
        assert_eq!(key.verify(b"message", &null), refused, "a signature of zeros");
    }
}

#[test]
fn an_ed25519_signature_with_s_plus_order_does_not_verify() {
    // RFC 8032 section 5.1.7: S must be below the group order, otherwise one signature has many forms.
    let order: [u8; 32] = fixed("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let key = rfc_8032_key();
    let mut signature = key.sign(b"message").expect("signs");
    let mut carry = 0_u16;
    for (s, l) in signature[32..].iter_mut().zip(order) {
        carry += u16::from(*s) + u16::from(l);
        *s = carry as u8;
        carry >>= 8;
    }
    assert!(key.verifying_key().verify(b"message", &signature).is_err());
}

#[test]
fn legacy_identifiers_are_good_for_third_parties_only_and_with_their_curve_only() {
    let (ed25519, p256) = (rfc_8032_key(), Ecdsa::p256());
    let signature = ed25519.sign(b"m").expect("signs");
    let key = ed25519.verifying_key();
    assert_eq!(key.verify_third_party(Algorithm::EdDsa, b"m", &signature), Ok(()));
    assert_eq!(key.verify_third_party(Algorithm::Ed25519, b"m", &signature), Ok(()));
    let mismatch = KeyError::AlgorithmMismatch {
        expected: -19,
        found: -7,
    };
    assert_eq!(
        key.verify_third_party(Algorithm::Es256, b"m", &signature),
        Err(mismatch)
    );
    let signature = p256.sign(b"m").expect("signs");
    assert_eq!(
        p256.verifying_key()
            .verify_third_party(Algorithm::Es256, b"m", &signature),
        Ok(())
    );
    assert!(
        p256.verifying_key()
            .verify_third_party(Algorithm::Es384, b"m", &signature)
            .is_err()
    );
    for id in [-7, -8, -9, -19, -35, -51] {
        assert_eq!(Algorithm::from_id(id).map(Algorithm::id), Some(id));
    }
    for id in [0, 1, -10, -36, -52, -53, -257] {
        assert_eq!(Algorithm::from_id(id), None);
    }
}

#[test]
fn private_keys_come_back_from_their_file_and_show_nothing() {
    let key = rfc_8032_key();
    let pem = key.to_pkcs8_pem().expect("encodes");
    // RFC 8410 section 10.3: a version 1 file of an Ed25519 key is 48 bytes of DER, 64 characters of base64.
    assert!(
        pem.starts_with("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1h"),
        "{}",
        pem.len()
    );
    let read = SigningKey::from_pkcs8_pem(&pem).expect("reads");
    assert_eq!(read.verifying_key(), key.verifying_key());
    assert!(!format!("{key:?}").contains("9d"), "{key:?}");
    for bad in [
        "",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        &pem.replace("MC4", "MC5"),
    ] {
        assert_eq!(
            SigningKey::from_pkcs8_pem(bad).map(|_| ()),
            Err(KeyError::PrivateKeyFile)
        );
    }
}

/// The example of RFC 8410 section 10.3, as other tools write it.
#[test]
fn the_private_key_of_rfc_8410_reads() {
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    let key = SigningKey::from_pkcs8_pem(pem).expect("reads");
    let spki = key.verifying_key().to_spki_der();
    assert_eq!(
        hex::encode(spki),
        "302a300506032b657003210019bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"
    );
}

fn with(key: &Value, label: i64, value: Value) -> Value {
    let Value::Map(entries) = key else { panic!("a map") };
    let mut entries = entries.clone();
    entries.retain(|(k, _)| *k != Value::int(label));
    entries.push((Value::int(label), value));
    Value::Map(entries)
}

fn without(key: &Value, label: i64) -> Value {
    let Value::Map(entries) = key else { panic!("a map") };
    Value::Map(
        entries
            .iter()
            .filter(|(k, _)| *k != Value::int(label))
            .cloned()
            .collect(),
    )
}

#[test]
fn hostile_cose_keys_are_refused() {
    let ec2 = rfc_9679_key().to_cose_key(false);
    let okp = rfc_8032_key().verifying_key().to_cose_key(false);
    let x = ec2.get(-2).cloned().expect("x");
    let rows = [
        ("not a map", Value::Null),
        ("no kty", without(&ec2, 1)),
        ("no crv", without(&ec2, -1)),
        ("no x", without(&ec2, -2)),
        ("no y", without(&ec2, -3)),
        ("kty OKP with an EC2 curve", with(&ec2, 1, Value::int(1))),
        ("kty symmetric", with(&ec2, 1, Value::int(4))),
        ("kty as text", with(&ec2, 1, Value::text("EC2"))),
        ("curve P-384 with coordinates of P-256", with(&ec2, -1, Value::int(2))),
        ("curve P-521", with(&ec2, -1, Value::int(3))),
        ("curve secp256k1", with(&ec2, -1, Value::int(8))),
        ("curve X25519", with(&okp, -1, Value::int(4))),
        ("a point off the curve", with(&ec2, -3, x.clone())),
        (
            "the point (0, 0)",
            with(&with(&ec2, -2, Value::bytes([0; 32])), -3, Value::bytes([0; 32])),
        ),
        (
            "x over the field's prime",
            with(&with(&ec2, -2, Value::bytes([0xff; 32])), -3, Value::Bool(true)),
        ),
        // x = 1 has no point on P-256: 1 - 3 + b is no square.
        (
            "x without a point",
            with(
                &with(
                    &ec2,
                    -2,
                    Value::bytes({
                        let mut x = [0; 32];
                        x[31] = 1;
                        x
                    }),
                ),
                -3,
                Value::Bool(true),
            ),
        ),
        ("x of 31 bytes", with(&ec2, -2, Value::bytes([1; 31]))),
        ("x of 33 bytes", with(&ec2, -2, Value::bytes([1; 33]))),
        ("y as an integer", with(&ec2, -3, Value::int(1))),
        ("alg of another curve", with(&ec2, 3, Value::int(-51))),
        ("alg legacy", with(&ec2, 3, Value::int(-7))),
        ("alg as text", with(&ec2, 3, Value::text("ESP256"))),
        ("a private part", with(&ec2, -4, Value::bytes([1; 32]))),
        ("a key id", with(&ec2, 2, Value::bytes([1]))),
        ("key operations", with(&ec2, 4, Value::array([Value::int(2)]))),
        ("y on an OKP key", with(&okp, -3, x)),
        (
            "Ed25519 of small order: the identity",
            with(
                &okp,
                -2,
                Value::bytes({
                    let mut x = [0; 32];
                    x[0] = 1;
                    x
                }),
            ),
        ),
        ("Ed25519 of small order: zero", with(&okp, -2, Value::bytes([0; 32]))),
        (
            "Ed25519 off the curve",
            with(
                &okp,
                -2,
                Value::bytes({
                    let mut x = [0; 32];
                    x[0] = 2;
                    x
                }),
            ),
        ),
    ];
    for (name, key) in rows {
        assert!(VerifyingKey::from_cose_key(&key).is_err(), "{name}");
    }
    assert_eq!(
        VerifyingKey::from_cose_key(&with(&ec2, 3, Value::int(-9))),
        Ok(rfc_9679_key())
    );
}
