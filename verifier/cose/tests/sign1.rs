//! COSE_Sign1: one strict profile, checked against another implementation and against every way around it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use common::{Ecdsa, ed25519};
use coset::{CborSerializable, CoseSign1, CoseSign1Builder, HeaderBuilder, TaggedCborSerializable, iana};
use proptest::prelude::*;
use touchstone_cose::cbor::{self, CborError, Limits, Value};
use touchstone_cose::code::Code;
use touchstone_cose::key::{Algorithm, KeyError, SignError, Signer, SigningKey, VerifyingKey};
use touchstone_cose::sign1::{self, CoseError, Protected, ThirdParty, Unverified, label};

const TYP: &str = "application/example+cwt";

fn signed(signer: &dyn Signer) -> Vec<u8> {
    sign1::sign(signer, &Protected::typ(TYP), b"payload", b"").expect("signs")
}

/// A COSE_Sign1 put together from parts, whatever they are, signed by `key` over the usual structure.
fn forge(key: &SigningKey, protected: &[u8], unprotected: Value, payload: Value) -> Vec<u8> {
    let message = cbor::encode(&Value::array([
        Value::text("Signature1"),
        Value::bytes(protected),
        Value::bytes([]),
        Value::bytes(payload.as_bytes().unwrap_or_default()),
    ]));
    let signature = Value::bytes(key.sign(&message).expect("signs"));
    cbor::encode(&Value::tag(
        18,
        Value::array([Value::bytes(protected), unprotected, payload, signature]),
    ))
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
fn we_read_and_verify_what_another_implementation_signs() {
    let key = ed25519(1);
    let header = HeaderBuilder::new()
        .algorithm(iana::Algorithm::EdDSA)
        .content_type("text/plain".into())
        .build();
    let theirs = CoseSign1Builder::new()
        .protected(header)
        .unprotected(HeaderBuilder::new().key_id(b"any".to_vec()).build())
        .payload(b"payload".to_vec())
        .create_signature(b"aad", |data| key.sign(data).expect("signs"))
        .build();
    let bytes = theirs.clone().to_tagged_vec().expect("encodes");
    let parse = || ThirdParty::parse(&bytes, Limits::TOKEN).expect("well formed");
    assert_eq!(parse().kid(), Some(&b"any"[..]));
    assert_eq!(parse().algorithm(), Algorithm::EdDsa);
    let verified = parse()
        .verify_third_party(&key.verifying_key(), "text/plain", b"aad")
        .expect("verifies");
    assert_eq!(verified.payload(), b"payload");
    let other = parse().verify_third_party(&key.verifying_key(), "text/html", b"aad");
    assert_eq!(other.map_err(|e| e.code()), Err(Code::CoseTypeMismatch));
    let other = parse().verify_third_party(&ed25519(2).verifying_key(), "text/plain", b"aad");
    assert_eq!(other.map_err(|e| e.code()), Err(Code::SignatureInvalid));
    let other = parse().verify_third_party(&Ecdsa::p256().verifying_key(), "text/plain", b"aad");
    assert_eq!(other.map_err(|e| e.code()), Err(Code::CoseAlgorithmMismatch));
    // The same object is none of our profile.
    assert!(Unverified::parse(&bytes, Limits::TOKEN).is_err());
    assert!(
        ThirdParty::parse(&theirs.to_vec().expect("encodes"), Limits::TOKEN).is_err(),
        "without its tag"
    );
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

#[test]
fn third_parties_may_not_mark_headers_critical_nor_say_things_twice() {
    let key = ed25519(1);
    let protected = |more: &[(i64, Value)]| cbor::encode(&Value::map([&[(1, Value::int(-8))], more].concat()));
    let crit = || Value::array([Value::int(99)]);
    let parse = |protected: &[u8], unprotected: Value, payload: Value| {
        let parsed = ThirdParty::parse(&forge(&key, protected, unprotected, payload), Limits::TOKEN);
        parsed.map(|_| ()).map_err(|e| e.code())
    };
    let (none, payload) = (|| Value::Map(vec![]), || Value::bytes([]));
    assert_eq!(parse(&protected(&[]), none(), payload()), Ok(()));
    let rows = [
        (
            "crit protected",
            protected(&[(2, crit())]),
            none(),
            payload(),
            Code::CoseHeaderRefused,
        ),
        (
            "crit unprotected",
            protected(&[]),
            Value::map([(2, crit())]),
            payload(),
            Code::CoseHeaderRefused,
        ),
        (
            "alg in both buckets",
            protected(&[]),
            Value::map([(1, Value::int(-7))]),
            payload(),
            Code::CoseHeaderRefused,
        ),
        (
            "17 unprotected headers",
            protected(&[]),
            Value::map((100..117).map(|l| (l, Value::Null))),
            payload(),
            Code::CoseHeaderRefused,
        ),
        (
            "a label twice",
            vec![0xa2, 1, 0x27, 1, 0x27],
            none(),
            payload(),
            Code::CborDuplicateKey,
        ),
        (
            "alg nobody knows",
            cbor::encode(&Value::map([(1, Value::int(-39))])),
            none(),
            payload(),
            Code::CoseAlgorithmMismatch,
        ),
        (
            "no alg",
            cbor::encode(&Value::map([(3, Value::text("t"))])),
            none(),
            payload(),
            Code::CoseAlgorithmMismatch,
        ),
        (
            "payload detached",
            protected(&[]),
            none(),
            Value::Null,
            Code::CoseMalformed,
        ),
    ];
    for (name, protected, unprotected, payload, code) in rows {
        assert_eq!(parse(&protected, unprotected, payload), Err(code), "{name}");
    }
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

#[test]
fn certificate_chains_of_third_parties_are_read_and_bounded() {
    let key = ed25519(1);
    let chain = |value: Value| {
        let protected = cbor::encode(&Value::map([(1, Value::int(-8)), (label::X5CHAIN, value)]));
        let bytes = forge(&key, &protected, Value::Map(vec![]), Value::bytes([]));
        let parsed = ThirdParty::parse(&bytes, Limits::TOKEN).expect("well formed");
        parsed.x5chain().map(|c| c.len()).map_err(|e| e.code())
    };
    let certificate = || Value::bytes([0x30]);
    assert_eq!(chain(certificate()), Ok(1));
    assert_eq!(chain(Value::array([certificate(), certificate()])), Ok(2));
    assert_eq!(
        chain(Value::array((0..9).map(|_| certificate()))),
        Err(Code::ShapeMismatch)
    );
    assert_eq!(chain(Value::array([])), Err(Code::ShapeMismatch));
    assert_eq!(
        chain(Value::array([certificate(), Value::Null])),
        Err(Code::ShapeMismatch)
    );
    assert_eq!(chain(Value::text("x")), Err(Code::ShapeMismatch));
}

/// Examples of the COSE working group: other makers, other implementations.
#[test]
fn genuine_third_party_objects() {
    let Some(folder) = touchstone_vectors::genuine("cose/examples") else {
        return;
    };
    let read = |name: &str| {
        let text = std::fs::read_to_string(folder.join(name)).expect("readable");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        hex::decode(json["output"]["cbor"].as_str().expect("cbor")).expect("hex")
    };
    let fixed = |hex: &str| <[u8; 32]>::try_from(hex::decode(hex).expect("hex")).expect("32 bytes");
    let p256 = VerifyingKey::p256(
        fixed("bac5b11cad8f99f9c72b05cf4b9e26d244dc189f745228255a219a86d6a09eff"),
        fixed("20138bf82dc1b6d562be0fa54ab7804a3a64b6d72ccfed6b6fb6ed28bbfc117e"),
    )
    .expect("on the curve");
    let ed = VerifyingKey::ed25519(fixed(
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    ));
    let ed = ed.expect("on the curve");
    let verify = |name: &str, key: &VerifyingKey| {
        let parsed = ThirdParty::parse(&read(name), Limits::TOKEN)?;
        // These objects have no content type in text; what is checked here is the signature.
        match parsed.verify_third_party(key, "text/plain", b"") {
            Err(CoseError::ContentTypeMismatch { .. }) => Ok(()),
            Err(e) => Err(e),
            Ok(_) => Ok(()),
        }
    };
    assert_eq!(verify("ecdsa-examples/ecdsa-sig-01.json", &p256), Ok(()));
    assert_eq!(verify("eddsa-examples/eddsa-sig-01.json", &ed), Ok(()));
    let rows = [
        ("sign1-tests/sign-fail-01.json", Code::CoseMalformed),
        ("sign1-tests/sign-fail-03.json", Code::CoseAlgorithmMismatch),
        // alg only in the unprotected bucket: RFC 9052 allows it, we do not.
        ("sign1-tests/sign-pass-01.json", Code::CoseMalformed),
        ("sign1-tests/sign-pass-03.json", Code::CoseMalformed),
        // ES512 over P-521: no curve of ours.
        ("ecdsa-examples/ecdsa-sig-03.json", Code::CoseAlgorithmMismatch),
    ];
    for (name, code) in rows {
        assert_eq!(verify(name, &p256).map_err(|e| e.code()), Err(code), "{name}");
    }
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
