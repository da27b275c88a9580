//! COSE_Encrypt: what opens, and everything that does not.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use proptest::prelude::*;
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_cose::code::Code;
use touchstone_cose::encrypt::{EncryptError, MAX_CONTENT, Sealed, SoftwareReceiveKey, encrypt};
use touchstone_cose::key::SigningKey;

const TYP: &str = "application/touchstone-key+cose";
const SENDER: [u8; 8] = *b"sender-1";
const STATEMENT: [u8; 32] = [0x55; 32];
const LIMITS: Limits = Limits {
    max_bytes: 1 << 20,
    max_depth: 16,
    max_items: 4096,
};

fn key(n: u8) -> SoftwareReceiveKey {
    SoftwareReceiveKey::from_scalar(&[n; 32]).unwrap()
}

fn object() -> Vec<u8> {
    encrypt(key(1).public(), SENDER, TYP, b"secret", &STATEMENT).unwrap()
}

fn open(object: &[u8]) -> Result<Vec<u8>, EncryptError> {
    let content = Sealed::parse(object)?.open(&key(1), SENDER, TYP, &STATEMENT)?;
    Ok(content.to_vec())
}

/// The object whose parts `change` has changed, encoded again.
fn changed(change: impl FnOnce(&mut Vec<Value>)) -> Vec<u8> {
    let Value::Tag(tag, inner) = cbor::decode(&object(), LIMITS).unwrap() else {
        unreachable!()
    };
    let Value::Array(mut parts) = *inner else {
        unreachable!()
    };
    change(&mut parts);
    cbor::encode(&Value::tag(tag, Value::Array(parts)))
}

/// As [`changed`], the parts of the one recipient.
fn other_recipient(change: impl FnOnce(&mut Vec<Value>)) -> Vec<u8> {
    changed(|parts| {
        let Value::Array(recipients) = &mut parts[3] else {
            unreachable!()
        };
        let Value::Array(recipient) = &mut recipients[0] else {
            unreachable!()
        };
        change(recipient);
    })
}

/// Replaces the entry `label` of a map, or adds it.
fn set(map: &mut Value, label: i64, value: Value) {
    let Value::Map(entries) = map else { unreachable!() };
    entries.retain(|(key, _)| *key != Value::int(label));
    entries.push((Value::int(label), value));
}

/// As [`set`], of a header that is protected.
fn set_protected(header: &mut Value, label: i64, value: Value) {
    let mut map = cbor::decode(header.as_bytes().unwrap(), LIMITS).unwrap();
    set(&mut map, label, value);
    *header = Value::bytes(cbor::encode(&map));
}

fn flip(value: &mut Value, at: usize) {
    let Value::Bytes(bytes) = value else { unreachable!() };
    bytes[at] ^= 1;
}

#[test]
fn what_was_encrypted_opens() {
    assert_eq!(open(&object()).unwrap(), b"secret");
    assert_ne!(object(), object(), "every object has keys of its own");
    let largest = vec![7; MAX_CONTENT];
    let object = encrypt(key(1).public(), SENDER, TYP, &largest, &STATEMENT).unwrap();
    assert_eq!(open(&object).unwrap(), largest);
}

#[test]
fn the_content_is_not_in_the_object() {
    assert!(!object().windows(6).any(|window| window == b"secret"));
}

/// Made by our code with fixed keys, opened by an independent implementation (Python's `cryptography` and a CBOR library
/// of another maker) when it was recorded.
#[test]
fn golden() {
    let golden = hex::decode(include_str!("../src/encrypt/golden.hex").trim()).unwrap();
    let content = Sealed::parse(&golden)
        .unwrap()
        .open(&key(0x11), SENDER, TYP, &STATEMENT)
        .unwrap();
    assert_eq!(*content, b"secret");
}

/// Made by an independent implementation for our profile.
#[test]
fn of_another_maker() {
    let object = hex::decode(include_str!("encrypt_foreign.hex").trim()).unwrap();
    let content = Sealed::parse(&object)
        .unwrap()
        .open(&key(0x11), SENDER, TYP, &STATEMENT)
        .unwrap();
    assert_eq!(*content, b"made elsewhere");
}

#[test]
fn readers_that_are_not_meant() {
    let sealed = Sealed::parse(&object()).unwrap();
    let other_key = sealed.open(&key(2), SENDER, TYP, &STATEMENT).unwrap_err();
    assert_eq!(other_key.code(), Code::CoseKidMismatch);
    let other_sender = sealed.open(&key(1), *b"sender-2", TYP, &STATEMENT).unwrap_err();
    assert_eq!(other_sender.code(), Code::CoseKidMismatch);
    let other_type = sealed.open(&key(1), SENDER, "application/cwt", &STATEMENT).unwrap_err();
    assert_eq!(other_type.code(), Code::CoseTypeMismatch);
    let other_statement = sealed.open(&key(1), SENDER, TYP, &[0x56; 32]).unwrap_err();
    assert_eq!(other_statement, EncryptError::Open { what: "content" });
}

/// Each attack with the code it is refused with.
#[test]
fn attacks() {
    let ephemeral = || key(9).public().to_cose_key(false);
    let off_the_curve = || {
        let mut point = ephemeral();
        set(&mut point, -3, Value::bytes([1; 32]));
        point
    };
    let p384 = Value::map([
        (1, Value::int(2)),
        (-1, Value::int(2)),
        (-2, Value::bytes([1; 48])),
        (-3, Value::bytes([1; 48])),
    ]);
    let rows: Vec<(&str, Vec<u8>, Code)> = vec![
        (
            "ciphertext changed",
            changed(|p| flip(&mut p[2], 0)),
            Code::DecryptionFailed,
        ),
        ("tag changed", changed(|p| flip(&mut p[2], 21)), Code::DecryptionFailed),
        (
            "ciphertext cut to less than its tag",
            changed(|p| p[2] = Value::bytes([0; 15])),
            Code::ShapeMismatch,
        ),
        (
            "detached ciphertext",
            changed(|p| p[2] = Value::Null),
            Code::ShapeMismatch,
        ),
        (
            "nonce changed",
            changed(|p| set(&mut p[1], 5, Value::bytes([0; 12]))),
            Code::DecryptionFailed,
        ),
        (
            "nonce of another length",
            changed(|p| set(&mut p[1], 5, Value::bytes([0; 13]))),
            Code::ShapeMismatch,
        ),
        (
            "partial nonce",
            changed(|p| set(&mut p[1], 6, Value::bytes([0; 4]))),
            Code::ShapeMismatch,
        ),
        (
            "weaker content algorithm",
            changed(|p| set_protected(&mut p[0], 1, Value::int(1))),
            Code::CoseAlgorithmMismatch,
        ),
        (
            "no content algorithm",
            changed(|p| p[0] = Value::bytes(cbor::encode(&Value::map([(16, Value::text(TYP))])))),
            Code::ShapeMismatch,
        ),
        (
            "empty protected header",
            changed(|p| p[0] = Value::bytes([])),
            Code::CborTruncated,
        ),
        (
            "another type",
            changed(|p| set_protected(&mut p[0], 16, Value::text("application/cwt"))),
            Code::CoseTypeMismatch,
        ),
        (
            "critical header",
            changed(|p| set_protected(&mut p[0], 2, Value::array([Value::int(7)]))),
            Code::ShapeMismatch,
        ),
        (
            "unknown protected header",
            changed(|p| set_protected(&mut p[0], 99, Value::Null)),
            Code::ShapeMismatch,
        ),
        (
            "algorithm in both buckets",
            changed(|p| set(&mut p[1], 1, Value::int(3))),
            Code::ShapeMismatch,
        ),
        (
            "no recipient",
            changed(|p| p[3] = Value::array([])),
            Code::CoseEncryptMalformed,
        ),
        (
            "two recipients",
            changed(|p| {
                p[3] = Value::array([p[3].as_array().unwrap()[0].clone(), p[3].as_array().unwrap()[0].clone()])
            }),
            Code::CoseEncryptMalformed,
        ),
        ("a part too many", changed(|p| p.push(Value::Null)), Code::ShapeMismatch),
        (
            "direct agreement",
            other_recipient(|r| set_protected(&mut r[0], 1, Value::int(-25))),
            Code::CoseAlgorithmMismatch,
        ),
        (
            "static-static agreement",
            other_recipient(|r| set_protected(&mut r[0], 1, Value::int(-34))),
            Code::CoseAlgorithmMismatch,
        ),
        (
            "another sender in the header",
            other_recipient(|r| set_protected(&mut r[0], -21, Value::bytes(*b"sender-2"))),
            Code::CoseKidMismatch,
        ),
        (
            "another recipient in the header",
            other_recipient(|r| set_protected(&mut r[0], -24, Value::bytes(key(2).public().kid()))),
            Code::CoseKidMismatch,
        ),
        (
            "a party nonce",
            other_recipient(|r| set_protected(&mut r[0], -22, Value::bytes([1; 16]))),
            Code::ShapeMismatch,
        ),
        (
            "a salt",
            other_recipient(|r| set(&mut r[1], -20, Value::bytes([1; 16]))),
            Code::ShapeMismatch,
        ),
        (
            "another key id",
            other_recipient(|r| set(&mut r[1], 4, Value::bytes(key(2).public().kid()))),
            Code::CoseKidMismatch,
        ),
        (
            "another ephemeral key",
            other_recipient(|r| set(&mut r[1], -1, ephemeral())),
            Code::DecryptionFailed,
        ),
        (
            "ephemeral point off the curve",
            other_recipient(|r| set(&mut r[1], -1, off_the_curve())),
            Code::KeyInvalid,
        ),
        (
            "ephemeral key of another curve",
            other_recipient(|r| set(&mut r[1], -1, p384)),
            Code::KeyInvalid,
        ),
        (
            "ephemeral Ed25519 key",
            other_recipient(|r| {
                set(
                    &mut r[1],
                    -1,
                    SigningKey::from_seed([1; 32]).verifying_key().to_cose_key(false),
                )
            }),
            Code::KeyUnsupported,
        ),
        (
            "wrapped key changed",
            other_recipient(|r| flip(&mut r[2], 3)),
            Code::DecryptionFailed,
        ),
        (
            "wrapped key cut",
            other_recipient(|r| r[2] = Value::bytes([0; 24])),
            Code::ShapeMismatch,
        ),
        (
            "a nested recipient",
            other_recipient(|r| r.push(Value::array([]))),
            Code::ShapeMismatch,
        ),
        (
            "COSE_Encrypt0",
            cbor::encode(&Value::tag(16, Value::Null)),
            Code::CoseEncryptMalformed,
        ),
        ("no tag", cbor::encode(&Value::array([])), Code::CoseEncryptMalformed),
        ("bytes after it", [object(), vec![0]].concat(), Code::CborTrailing),
        ("too large", vec![0; MAX_CONTENT + 1025], Code::CborLimit),
    ];
    for (name, object, code) in rows {
        let refusal = open(&object).expect_err(name);
        assert_eq!(refusal.code(), code, "{name}: {refusal}");
    }
}

#[test]
fn what_is_not_encrypted() {
    let signing = SigningKey::from_seed([1; 32]).verifying_key();
    let other_curve = encrypt(&signing, SENDER, TYP, b"", &STATEMENT).unwrap_err();
    assert_eq!(other_curve.code(), Code::KeyUnsupported);
    let too_large = encrypt(key(1).public(), SENDER, TYP, &vec![0; MAX_CONTENT + 1], &STATEMENT);
    assert_eq!(
        too_large.unwrap_err(),
        EncryptError::TooLarge { found: MAX_CONTENT + 1 }
    );
}

#[test]
fn truncated_at_every_byte() {
    let object = object();
    for end in 0..object.len() {
        assert!(Sealed::parse(&object[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn no_changed_bit_goes_unnoticed() {
    let object = object();
    for at in 0..object.len() {
        let mut other = object.clone();
        other[at] ^= 0x10;
        assert!(open(&other).is_err(), "byte {at}");
    }
}

proptest! {
    #[test]
    fn any_content_comes_back(content: Vec<u8>, aad: Vec<u8>, sender: [u8; 8]) {
        let object = encrypt(key(1).public(), sender, TYP, &content, &aad).unwrap();
        let opened = Sealed::parse(&object).unwrap().open(&key(1), sender, TYP, &aad).unwrap();
        prop_assert_eq!(&*opened, &content);
    }

    #[test]
    fn hostile_bytes_never_panic(bytes: Vec<u8>) {
        prop_assert!(Sealed::parse(&bytes).is_err());
    }
}
