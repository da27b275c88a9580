//! Objects that others define and sign: more freedom in form, none in meaning.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use crate::common;

use common::{Ecdsa, ed25519, forge};
use coset::{CborSerializable, CoseSign1Builder, HeaderBuilder, TaggedCborSerializable, iana};
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_cose::code::Code;
use touchstone_cose::key::{Algorithm, Signer, VerifyingKey};
use touchstone_cose::sign1::{CoseError, ThirdParty, Unverified, label};

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
