//! COSE_Sign1: one strict profile, checked against another implementation and against every way around it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use crate::common;

use common::{Ecdsa, ed25519, forge};
use coset::{CoseSign1, TaggedCborSerializable};
use proptest::prelude::*;
use touchstone_cose::cbor::{self, CborError, Limits, Value};
use touchstone_cose::code::Code;
use touchstone_cose::key::{Algorithm, KeyError, SignError, Signer, SigningKey, VerifyingKey};
use touchstone_cose::sign1::{self, CoseError, Protected, ThirdParty, Unverified, label};

const TYP: &str = "application/example+cwt";

fn signed(signer: &dyn Signer) -> Vec<u8> {
    sign1::sign(signer, &Protected::typ(TYP), b"payload", b"").expect("signs")
}

fn header(key: &SigningKey, change: impl FnOnce(&mut Vec<(i64, Value)>)) -> Vec<u8> {
    let mut entries = vec![
        (label::ALG, Value::int(-19)),
        (label::KID, Value::from(key.kid())),
        (label::TYP, Value::text(TYP)),
    ];
    change(&mut entries);
    cbor::encode(&Value::map(entries))
}

fn refused(bytes: &[u8], key: &VerifyingKey) -> Option<CoseError> {
    Unverified::parse(bytes, Limits::TOKEN)
        .and_then(|u| u.verify(key, TYP, b""))
        .err()
}

#[test]
fn what_is_signed_verifies_under_all_three_algorithms() {
    let (ed, p256, p384) = (ed25519(1), Ecdsa::p256(), Ecdsa::p384());
    let signers: [(&dyn Signer, VerifyingKey); 3] = [
        (&ed, ed.verifying_key()),
        (&p256, p256.verifying_key()),
        (&p384, p384.verifying_key()),
    ];
    for (signer, key) in signers {
        let unverified = Unverified::parse(&signed(signer), Limits::TOKEN).expect("well formed");
        assert_eq!(unverified.kid(), key.kid());
        assert_eq!(unverified.typ(), Some(TYP));
        assert_eq!(unverified.algorithm(), key.algorithm());
        let verified = unverified.verify(&key, TYP, b"").expect("verifies");
        assert_eq!(verified.payload(), b"payload");
        assert_eq!(verified.kid(), key.kid());
    }
}

#[test]
fn the_bytes_are_those_of_the_format() {
    let key = ed25519(1);
    // {1: -19, 4: kid, 16: typ}: 38 bytes.
    let protected = format!("a3 0132 0448{} 1077{}", hex::encode(key.kid()), hex::encode(TYP));
    // 18([protected, {}, "payload", 64 bytes])
    let expected = format!("d2 84 5826{protected} a0 47{} 5840", hex::encode("payload")).replace(' ', "");
    let bytes = hex::encode(signed(&key));
    assert_eq!(bytes.get(..expected.len()), Some(expected.as_str()));
    assert_eq!(bytes.len(), expected.len() + 2 * 64);
}

#[test]
fn another_implementation_reads_and_verifies_what_we_sign() {
    let key = ed25519(1);
    let extra = vec![(label::CWT_CLAIMS, Value::map([(1, Value::text("me"))]))];
    let protected = Protected {
        typ: None,
        content_type: Some("text/plain".into()),
        extra,
    };
    let bytes = sign1::sign(&key, &protected, b"payload", b"aad").expect("signs");
    let theirs = CoseSign1::from_tagged_slice(&bytes).expect("reads");
    assert_eq!(theirs.payload.as_deref(), Some(&b"payload"[..]));
    assert_eq!(theirs.protected.header.key_id, key.kid());
    theirs
        .verify_signature(b"aad", |signature, data| key.verifying_key().verify(data, signature))
        .expect("verifies");
}

#[test]
fn attacks_on_an_object_of_ours() {
    let key = ed25519(1);
    let none = || Value::Map(vec![]);
    let payload = || Value::bytes(*b"payload");
    let plain = header(&key, |_| {});
    let with = |entries: &[(i64, Value)]| header(&key, |h| h.extend_from_slice(entries));
    let without = |l: i64| header(&key, |h| h.retain(|(k, _)| *k != l));
    let replaced = |l: i64, v: Value| {
        header(&key, |h| {
            h.retain(|(k, _)| *k != l);
            h.push((l, v));
        })
    };
    assert_eq!(
        refused(&forge(&key, &plain, none(), payload()), &key.verifying_key()),
        None,
        "the forge works"
    );

    let good = signed(&key);
    let retagged = |tag: &[u8]| [tag, &good[1..]].concat();
    let rows: Vec<(&str, Vec<u8>, Code)> = vec![
        ("nothing", vec![], Code::CborTruncated),
        ("no tag", good[1..].to_vec(), Code::CoseMalformed),
        ("tag of COSE_Mac0", retagged(&[0xd1]), Code::CoseMalformed),
        (
            "tag of CWT around it",
            [&[0xd8, 0x3d], good.as_slice()].concat(),
            Code::CoseMalformed,
        ),
        ("a byte behind it", [good.as_slice(), &[0]].concat(), Code::CborTrailing),
        (
            "three elements",
            cbor::encode(&Value::tag(18, Value::array([Value::bytes([0xa0]), none(), payload()]))),
            Code::ShapeMismatch,
        ),
        ("a map", cbor::encode(&Value::tag(18, none())), Code::ShapeMismatch),
        (
            "payload of text",
            forge(&key, &plain, none(), Value::text("payload")),
            Code::ShapeMismatch,
        ),
        (
            "payload detached",
            forge(&key, &plain, none(), Value::Null),
            Code::CoseMalformed,
        ),
        (
            "protected header empty",
            forge(&key, &[], none(), payload()),
            Code::CoseMalformed,
        ),
        (
            "protected header an empty map",
            forge(&key, &[0xa0], none(), payload()),
            Code::CoseMalformed,
        ),
        (
            "protected header no map",
            forge(&key, &[0x80], none(), payload()),
            Code::ShapeMismatch,
        ),
        (
            "protected header with a byte behind",
            forge(&key, &[plain.as_slice(), &[0]].concat(), none(), payload()),
            Code::CborTrailing,
        ),
        (
            "protected header with a label twice",
            forge(&key, &[0xa2, 0x01, 0x32, 0x01, 0x32], none(), payload()),
            Code::CborDuplicateKey,
        ),
        (
            "protected header out of order",
            forge(&key, &[0xa2, 0x04, 0x40, 0x01, 0x32], none(), payload()),
            Code::CborNotDeterministic,
        ),
        (
            "protected header indefinite",
            forge(&key, &[0xbf, 0x01, 0x32, 0xff], none(), payload()),
            Code::CborNotDeterministic,
        ),
        (
            "no algorithm",
            forge(&key, &without(label::ALG), none(), payload()),
            Code::ShapeMismatch,
        ),
        (
            "algorithm unprotected only",
            forge(
                &key,
                &without(label::ALG),
                Value::map([(1, Value::int(-19))]),
                payload(),
            ),
            Code::CoseHeaderRefused,
        ),
        (
            "algorithm in both buckets",
            forge(&key, &plain, Value::map([(1, Value::int(-7))]), payload()),
            Code::CoseHeaderRefused,
        ),
        (
            "legacy EdDSA",
            forge(&key, &replaced(label::ALG, Value::int(-8)), none(), payload()),
            Code::CoseAlgorithmMismatch,
        ),
        (
            "algorithm of another key type",
            forge(&key, &replaced(label::ALG, Value::int(-9)), none(), payload()),
            Code::CoseAlgorithmMismatch,
        ),
        (
            "algorithm HMAC",
            forge(&key, &replaced(label::ALG, Value::int(5)), none(), payload()),
            Code::CoseAlgorithmMismatch,
        ),
        (
            "algorithm as text",
            forge(&key, &replaced(label::ALG, Value::text("Ed25519")), none(), payload()),
            Code::CoseAlgorithmMismatch,
        ),
        (
            "no key id",
            forge(&key, &without(label::KID), none(), payload()),
            Code::ShapeMismatch,
        ),
        (
            "key id unprotected",
            forge(
                &key,
                &without(label::KID),
                Value::map([(4, Value::from(key.kid()))]),
                payload(),
            ),
            Code::CoseHeaderRefused,
        ),
        (
            "key id in both buckets",
            forge(&key, &plain, Value::map([(4, Value::from(key.kid()))]), payload()),
            Code::CoseHeaderRefused,
        ),
        (
            "key id of another key",
            forge(
                &key,
                &replaced(label::KID, Value::from(ed25519(2).kid())),
                none(),
                payload(),
            ),
            Code::CoseKidMismatch,
        ),
        (
            "whole thumbprint as key id",
            forge(
                &key,
                &replaced(label::KID, Value::from(key.verifying_key().thumbprint())),
                none(),
                payload(),
            ),
            Code::ShapeMismatch,
        ),
        (
            "no type",
            forge(&key, &without(label::TYP), none(), payload()),
            Code::CoseTypeMismatch,
        ),
        (
            "another type",
            forge(
                &key,
                &replaced(label::TYP, Value::text("application/exampl+cwt")),
                none(),
                payload(),
            ),
            Code::CoseTypeMismatch,
        ),
        (
            "type in capitals",
            forge(
                &key,
                &replaced(label::TYP, Value::text("application/Example+cwt")),
                none(),
                payload(),
            ),
            Code::CoseTypeMismatch,
        ),
        (
            "type as a number",
            forge(&key, &replaced(label::TYP, Value::int(263)), none(), payload()),
            Code::ShapeMismatch,
        ),
        (
            "critical headers",
            forge(
                &key,
                &with(&[(label::CRIT, Value::array([Value::int(4)]))]),
                none(),
                payload(),
            ),
            Code::CoseHeaderRefused,
        ),
        (
            "critical headers unprotected",
            forge(&key, &plain, Value::map([(2, Value::array([]))]), payload()),
            Code::CoseHeaderRefused,
        ),
        (
            "an unprotected header",
            forge(&key, &plain, Value::map([(99, Value::Null)]), payload()),
            Code::CoseHeaderRefused,
        ),
        (
            "an unprotected header with a text label",
            forge(&key, &plain, Value::text_map([("x", Value::Null)]), payload()),
            Code::CoseHeaderRefused,
        ),
        (
            "receipts nobody asked for",
            forge(&key, &plain, Value::map([(394, Value::array([]))]), payload()),
            Code::CoseHeaderRefused,
        ),
        (
            "signed by another key in this key's name",
            forge(&ed25519(2), &plain, none(), payload()),
            Code::SignatureInvalid,
        ),
        (
            "signature empty",
            cbor::encode(&Value::tag(
                18,
                Value::array([Value::bytes(plain.clone()), none(), payload(), Value::bytes([])]),
            )),
            Code::SignatureInvalid,
        ),
    ];
    for (name, bytes, code) in rows {
        assert_eq!(
            refused(&bytes, &key.verifying_key()).map(|e| e.code()),
            Some(code),
            "{name}"
        );
    }
}

#[test]
fn the_wrong_key_type_and_external_data_do_not_verify() {
    let key = ed25519(1);
    let good = signed(&key);
    let parse = || Unverified::parse(&good, Limits::TOKEN).expect("well formed");
    assert_eq!(
        parse()
            .verify(&key.verifying_key(), "application/other", b"")
            .map_err(|e| e.code()),
        Err(Code::CoseTypeMismatch)
    );
    assert_eq!(
        parse().verify(&key.verifying_key(), TYP, b"aad").map_err(|e| e.code()),
        Err(Code::SignatureInvalid)
    );
    let wrong = CoseError::AlgorithmMismatch {
        expected: -9,
        found: -19,
    };
    assert_eq!(parse().verify(&Ecdsa::p256().verifying_key(), TYP, b""), Err(wrong));
    let too_large = Unverified::parse(
        &good,
        Limits {
            max_bytes: good.len() - 1,
            ..Limits::TOKEN
        },
    )
    .map(|_| ());
    assert_eq!(
        too_large,
        Err(CborError::TooLarge {
            limit: good.len() - 1,
            found: good.len()
        }
        .into())
    );
}

#[test]
fn a_detached_payload_is_signed_like_an_attached_one_and_never_mistaken_for_it() {
    let key = ed25519(1);
    let detached = sign1::sign_detached(&key, &Protected::typ(TYP), b"payload", b"").expect("signs");
    let parse = |bytes: &[u8]| Unverified::parse(bytes, Limits::TOKEN).expect("well formed");
    let verify = |bytes: &[u8], payload: &[u8]| {
        parse(bytes)
            .verify_detached(&key.verifying_key(), TYP, b"", payload.to_vec())
            .map(|v| v.into_payload())
    };
    assert_eq!(verify(&detached, b"payload"), Ok(b"payload".to_vec()));
    assert_eq!(
        verify(&detached, b"payloae").map_err(|e| e.code()),
        Err(Code::SignatureInvalid)
    );
    assert_eq!(
        verify(&signed(&key), b"payload"),
        Err(CoseError::Payload { expected: "a detached" })
    );
    let attached = parse(&detached).verify(&key.verifying_key(), TYP, b"");
    assert_eq!(
        attached,
        Err(CoseError::Payload {
            expected: "an attached"
        })
    );
}

#[test]
fn allowed_unprotected_headers_are_kept_apart_and_not_signed() {
    let key = ed25519(1);
    let receipts = Value::map([(label::RECEIPTS, Value::array([Value::bytes([1])]))]);
    let bytes = forge(&key, &header(&key, |_| {}), receipts, Value::bytes(*b"p"));
    let parsed = Unverified::parse_with_unprotected(&bytes, Limits::TOKEN, &[label::RECEIPTS]).expect("allowed");
    let verified = parsed.verify(&key.verifying_key(), TYP, b"").expect("verifies");
    assert!(verified.unprotected(label::RECEIPTS).is_some());
    assert!(verified.extra(label::RECEIPTS).is_none());
    let both = forge(
        &key,
        &header(&key, |h| h.push((label::RECEIPTS, Value::Null))),
        Value::map([(label::RECEIPTS, Value::Null)]),
        Value::bytes(*b"p"),
    );
    let both = Unverified::parse_with_unprotected(&both, Limits::TOKEN, &[label::RECEIPTS]).map(|_| ());
    assert_eq!(
        both,
        Err(CoseError::BothBuckets {
            found: "integer 394".into()
        })
    );
}

#[test]
fn the_signing_function_refuses_labels_it_sets_itself() {
    let key = ed25519(1);
    for l in [label::ALG, label::CRIT, label::CONTENT_TYPE, label::KID, label::TYP] {
        let protected = Protected {
            extra: vec![(l, Value::Null)],
            ..Protected::typ(TYP)
        };
        assert_eq!(sign1::sign(&key, &protected, b"", b""), Err(SignError::Label(l)));
    }
    let protected = Protected {
        extra: vec![(99, Value::Null), (99, Value::Null)],
        ..Protected::typ(TYP)
    };
    assert_eq!(sign1::sign(&key, &protected, b"", b""), Err(SignError::Label(99)));
}

#[test]
fn legacy_algorithms_are_refused_before_any_key_is_looked_up() {
    let key = ed25519(1);
    let legacy = header(&key, |h| h[0].1 = Value::int(-8));
    let parsed = Unverified::parse(
        &forge(&key, &legacy, Value::Map(vec![]), Value::bytes([])),
        Limits::TOKEN,
    );
    let found = "integer -8".to_owned();
    assert_eq!(parsed.map(|_| ()), Err(CoseError::Algorithm { found }));
}

/// A device that says one algorithm and makes signatures of another, or of a legacy one.
struct Broken(Algorithm, usize);

impl Signer for Broken {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
    fn kid(&self) -> [u8; 8] {
        [0; 8]
    }
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(vec![0; self.1])
    }
}

#[test]
fn a_device_cannot_make_us_emit_what_we_would_not_accept() {
    let sign = |algorithm, len| sign1::sign(&Broken(algorithm, len), &Protected::typ(TYP), b"", b"");
    // 71 bytes: ECDSA in DER, the usual mistake.
    assert_eq!(
        sign(Algorithm::Esp256, 71),
        Err(SignError::Length {
            expected: 64,
            found: 71
        })
    );
    assert_eq!(
        sign(Algorithm::Esp384, 64),
        Err(SignError::Length {
            expected: 96,
            found: 64
        })
    );
    assert_eq!(sign(Algorithm::Es256, 64), Err(SignError::Legacy(Algorithm::Es256)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Unverified::parse(&bytes, Limits::TOKEN).is_err());
        let tagged = [&[0xd2, 0x84], bytes.as_slice()].concat();
        let _ = (Unverified::parse(&tagged, Limits::TOKEN), ThirdParty::parse(&tagged, Limits::TOKEN));
    }

    #[test]
    fn no_changed_byte_verifies(at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let key = ed25519(1);
        let mut bytes = signed(&key);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(refused(&bytes, &key.verifying_key()).is_some());
    }
}

#[test]
fn errors_compare_and_read_well() {
    let error = CoseError::Key(KeyError::BadSignature {
        algorithm: Algorithm::Ed25519,
    });
    assert_eq!(error.to_string(), "the Ed25519 signature does not verify");
    let error = CoseError::TypeMismatch {
        expected: "a".into(),
        found: "b".into(),
    };
    assert_eq!(error.to_string(), "expected type a, found b");
}
