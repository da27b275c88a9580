//! Objects that the right key has signed but whose contents are not of this profile: read strictly all the same.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod common;

use common::*;
use touchstone_authorization::{
    SignedError, TrustFrame, TrustHead, UntrustedAuthorization, UntrustedProof, proof::PROOF_TYPE,
    token::AUTHORIZATION_TYPE, trust_head::TRUST_HEAD_TYPE,
};
use touchstone_cose::cbor::{Limits, Value, decode, encode};
use touchstone_cose::cwt;
use touchstone_cose::key::{Signer, VerifyingKey};
use touchstone_cose::sign1::{Protected, sign};

/// What is changed in the claims, by name.
type Row = (&'static str, fn(&mut Value));

const PRIVATE: i64 = -65537;

/// The claims within a COSE_Sign1.
fn claims(object: &[u8]) -> Value {
    let Value::Tag(18, object) = decode(object, Limits::TOKEN).unwrap() else {
        panic!("no COSE_Sign1")
    };
    decode(object.as_array().unwrap()[2].as_bytes().unwrap(), Limits::TOKEN).unwrap()
}

fn signed(claims: &Value, typ: &str, signer: &dyn Signer) -> Vec<u8> {
    sign(signer, &Protected::typ(typ), &encode(claims), &[]).unwrap()
}

fn entry(map: &mut Value, key: i64) -> &mut Value {
    let Value::Map(entries) = map else { panic!("not a map") };
    if !entries.iter().any(|(found, _)| *found == Value::int(key)) {
        entries.push((Value::int(key), Value::Null));
    }
    &mut entries
        .iter_mut()
        .find(|(found, _)| *found == Value::int(key))
        .unwrap()
        .1
}

fn remove(map: &mut Value, key: i64) {
    let Value::Map(entries) = map else { panic!("not a map") };
    entries.retain(|(found, _)| *found != Value::int(key));
}

fn private(claims: &mut Value, key: i64) -> &mut Value {
    entry(entry(claims, PRIVATE), key)
}

fn numbers(values: &[u64]) -> Value {
    Value::array(values.iter().map(|value| Value::Unsigned(*value)))
}

fn p384() -> VerifyingKey {
    // The base point of P-384 (FIPS 186, D.1.2.4) is a valid public key.
    let x = "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7";
    let y = "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f";
    VerifyingKey::p384(
        hex::decode(x).unwrap().try_into().unwrap(),
        hex::decode(y).unwrap().try_into().unwrap(),
    )
    .unwrap()
}

#[test]
#[rustfmt::skip]
fn authorizations() {
    let good = claims(&authorization().encode_signed(&issuer()).unwrap()[2..]);
    let read = |claims: &Value| {
        let bytes = cwt::wrap(&signed(claims, AUTHORIZATION_TYPE, &issuer()));
        UntrustedAuthorization::parse(&bytes).and_then(|a| a.verify(&ring(&[&issuer()]), NOW_MS))
    };
    assert_eq!(read(&good).unwrap().contents(), &authorization());
    let rows: &[Row] = &[
        ("issuer with a newline", |c| *entry(c, 1) = Value::text("demo.example\n")),
        ("subject with a wildcard", |c| *entry(c, 2) = Value::text("*")),
        ("subject with two slashes", |c| *entry(c, 2) = Value::text("a/b/c")),
        ("subject that is a path", |c| *entry(c, 2) = Value::text("eu-1/..")),
        ("subject of two lines", |c| *entry(c, 2) = Value::text("a\nb")),
        ("subject one too long", |c| *entry(c, 2) = Value::text("a".repeat(129))),
        ("audience with a wildcard", |c| *entry(c, 3) = Value::text("*")),
        ("several audiences", |c| *entry(c, 3) = Value::array([Value::text(DOMAIN), Value::text("other")])),
        ("no audience means any", |c| *entry(c, 3) = Value::text("")),
        ("expiry as text", |c| *entry(c, 4) = Value::text("2000000000")),
        ("expiry before 1970", |c| *entry(c, 4) = Value::int(-1)),
        ("expiry at its beginning", |c| *entry(c, 4) = Value::Unsigned(NOW_S - 10)),
        ("cti too short", |c| *entry(c, 7) = Value::bytes([1; 15])),
        ("P-384 confirmation key", |c| *entry(entry(c, 8), 1) = p384().to_cose_key(true)),
        ("confirmation key with its private half", |c| *entry(entry(entry(c, 8), 1), -4) = Value::bytes([1; 32])),
        ("confirmation key off the curve", |c| *entry(entry(entry(c, 8), 1), -2) = Value::bytes([0xff; 32])),
        ("two confirmations", |c| *entry(entry(c, 8), 3) = Value::bytes([1; 8])),
        ("wildcard scope", |c| *entry(c, 9) = Value::text("execute:*")),
        ("wildcard among scopes", |c| *entry(c, 9) = Value::text("execute:workloads *:*")),
        ("no scope means any", |c| *entry(c, 9) = Value::text("")),
        ("scopes as an array", |c| *entry(c, 9) = Value::array([Value::text("execute:workloads")])),
        ("an unknown claim", |c| *entry(c, 38) = Value::text("x")),
        ("an unknown private claim", |c| *private(c, 9) = Value::Null),
        ("negative policy version", |c| *private(c, 0) = Value::int(-1)),
        ("parent too short", |c| *private(c, 2) = Value::bytes([1; 15])),
        ("parent null", |c| *private(c, 2) = Value::Null),
        ("statement too long", |c| *private(c, 3) = Value::bytes([1; 33])),
        ("status of two numbers", |c| *private(c, 4) = numbers(&[3, 2])),
        ("status list number too large", |c| *private(c, 4) = numbers(&[1 << 16, 2, 1])),
        ("generation too large", |c| *private(c, 4) = numbers(&[3, 1 << 32, 1])),
        ("index too large", |c| *private(c, 4) = numbers(&[3, 2, 1 << 32])),
        ("unknown key kind", |c| *private(c, 5) = Value::Unsigned(3)),
    ];
    for (attack, change) in rows {
        let mut claims = good.clone();
        change(&mut claims);
        assert!(matches!(read(&claims), Err(SignedError::Malformed(_))), "{attack}");
    }
    for key in (1..=9).chain([PRIVATE]) {
        let mut claims = good.clone();
        remove(&mut claims, key);
        assert!(matches!(read(&claims), Err(SignedError::Malformed(_))), "without claim {key}");
    }
    for key in [0, 1, 3, 4, 5] {
        let mut claims = good.clone();
        remove(entry(&mut claims, PRIVATE), key);
        assert!(matches!(read(&claims), Err(SignedError::Malformed(_))), "without private claim {key}");
    }
}

#[test]
#[rustfmt::skip]
fn proofs() {
    let holder = HolderKey::new(7);
    let good = claims(&proof().encode_signed(&holder).unwrap());
    let read = |claims: &Value| {
        UntrustedProof::parse(&signed(claims, PROOF_TYPE, &holder)).and_then(|p| p.verify(&holder.verifying_key()))
    };
    assert_eq!(read(&good).unwrap().claims(), &proof());
    let rows: &[Row] = &[
        ("for every enforcer", |c| *entry(c, 3) = Value::text("*")),
        ("for several enforcers", |c| *entry(c, 3) = Value::array([Value::text(ENFORCER), Value::text("other")])),
        ("iat before 1970", |c| *entry(c, 6) = Value::int(-1)),
        ("cti too short", |c| *entry(c, 7) = Value::bytes([1; 15])),
        ("an unknown claim", |c| *entry(c, 1) = Value::text(DOMAIN)),
        ("an unknown private claim", |c| *private(c, 5) = Value::Null),
        ("ath too short", |c| *private(c, 0) = Value::bytes([1; 31])),
        ("any action", |c| *private(c, 1) = Value::array([Value::text("*"), Value::text("workloads")])),
        ("any resource", |c| *private(c, 1) = Value::array([Value::text("execute"), Value::text("*")])),
        ("an action alone", |c| *private(c, 1) = Value::array([Value::text("execute")])),
        ("two resources", |c| *private(c, 1) = Value::array(["execute", "a", "b"].map(Value::text))),
        ("no req at all", |c| remove(entry(c, PRIVATE), 2)),
        ("req too short", |c| *private(c, 2) = Value::bytes([1; 31])),
        ("req false", |c| *private(c, 2) = Value::Bool(false)),
        ("challenge and exporter", |c| *private(c, 4) = Value::bytes([1; 32])),
        ("challenge null", |c| *private(c, 3) = Value::Null),
        ("challenge too short", |c| *private(c, 3) = Value::bytes([1; 15])),
        ("challenge too long", |c| *private(c, 3) = Value::bytes([1; 65])),
        ("exporter too short", |c| {
            remove(entry(c, PRIVATE), 3);
            *private(c, 4) = Value::bytes([1; 31]);
        }),
    ];
    for (attack, change) in rows {
        let mut claims = good.clone();
        change(&mut claims);
        assert!(matches!(read(&claims), Err(SignedError::Malformed(_))), "{attack}");
    }
}

#[test]
#[rustfmt::skip]
fn heads() {
    let good = claims(&head(&lists(&[])).encode_signed(&trust_key()).unwrap());
    let read = |claims: &Value| TrustHead::verify(&signed(claims, TRUST_HEAD_TYPE, &trust_key()), &ring(&[&trust_key()]), NOW_MS);
    assert_eq!(read(&good).unwrap(), head(&lists(&[])));
    let list = |number: u64, entries: u64| Value::array([Value::Unsigned(number), Value::Unsigned(entries), Value::bytes([0; 32])]);
    let rows: &[(&str, i64, Value)] = &[
        ("generation too large", 0, Value::Unsigned(1 << 32)),
        ("epoch as text", 1, Value::text("1")),
        ("policy digest too short", 4, Value::bytes([0; 31])),
        ("lists out of order", 6, Value::array([list(2, 4), list(1, 4)])),
        ("a list twice", 6, Value::array([list(1, 4), list(1, 4)])),
        ("an empty list", 6, Value::array([list(1, 0)])),
        ("a list that is too long", 6, Value::array([list(1, (1 << 20) + 1)])),
        ("a list number too large", 6, Value::array([list(1 << 16, 4)])),
        ("a list without its digest", 6, Value::array([numbers(&[1, 4])])),
        ("too many lists", 6, Value::array((0..17).map(|number| list(number, 4)))),
        ("an unknown private claim", 11, Value::Null),
    ];
    for (attack, key, value) in rows {
        let mut claims = good.clone();
        *private(&mut claims, *key) = value.clone();
        assert!(matches!(read(&claims), Err(SignedError::Malformed(_))), "{attack}");
    }
    for key in 0..=10 {
        let mut claims = good.clone();
        remove(entry(&mut claims, PRIVATE), key);
        assert!(matches!(read(&claims), Err(SignedError::Malformed(_))), "without private claim {key}");
    }
    let mut extra = good.clone();
    *entry(&mut extra, 4) = Value::Unsigned(0);
    assert!(matches!(read(&extra), Err(SignedError::Malformed(_))), "an unknown claim");
}

/// A header that this profile does not have changes what an object means to others: it is refused, though signed.
#[test]
fn headers() {
    let with = |change: fn(&mut Protected)| {
        let mut protected = Protected::typ(AUTHORIZATION_TYPE);
        change(&mut protected);
        let claims = encode(&claims(&authorization().encode_signed(&issuer()).unwrap()[2..]));
        let bytes = cwt::wrap(&sign(&issuer(), &protected, &claims, &[]).unwrap());
        UntrustedAuthorization::parse(&bytes).and_then(|a| a.verify(&ring(&[&issuer()]), NOW_MS))
    };
    assert!(with(|_| {}).is_ok());
    assert!(matches!(
        with(|p| p.content_type = Some("text/plain".into())),
        Err(SignedError::Malformed(_))
    ));
    assert!(matches!(
        with(|p| p.extra.push((15, Value::map([])))),
        Err(SignedError::Malformed(_))
    ));
    assert!(matches!(with(|p| p.typ = None), Err(SignedError::Type { .. })));
    assert!(matches!(
        with(|p| p.typ = Some(PROOF_TYPE.into())),
        Err(SignedError::Type { .. })
    ));
    // External data is empty in every standard object.
    let claims = encode(&claims(&authorization().encode_signed(&issuer()).unwrap()[2..]));
    let bytes = cwt::wrap(&sign(&issuer(), &Protected::typ(AUTHORIZATION_TYPE), &claims, b"aad").unwrap());
    let read = UntrustedAuthorization::parse(&bytes).and_then(|a| a.verify(&ring(&[&issuer()]), NOW_MS));
    assert!(matches!(read, Err(SignedError::Signature { .. })));
}

#[test]
#[rustfmt::skip]
fn frames() {
    let page = |list: u64, page: u64| Value::array([Value::Unsigned(list), Value::Unsigned(page), Value::bytes([1])]);
    let list = |number: u64| Value::array([Value::Unsigned(number), Value::bytes([1])]);
    let delta = |pages: Vec<Value>| Value::array([Value::Unsigned(2), Value::Unsigned(7), Value::Array(pages)]);
    let full = |lists: Vec<Value>| Value::array([Value::Unsigned(1), Value::Array(lists)]);
    let read = |body: &Value| TrustFrame::parse(&encode(&Value::map([(0, Value::bytes([1])), (1, body.clone())])));
    for good in [numbers(&[0]), full(vec![list(0), list(1)]), full(vec![]), delta(vec![page(0, 1), page(0, 2), page(1, 0)]), delta(vec![])] {
        let bytes = encode(&Value::map([(0, Value::bytes([1])), (1, good.clone())]));
        assert_eq!(read(&good).unwrap().encode(), bytes);
    }
    for (attack, body) in [
        ("no body", Value::array([])),
        ("unknown body", numbers(&[3])),
        ("heartbeat with more", numbers(&[0, 1])),
        ("body that is no array", Value::Null),
        ("lists out of order", full(vec![list(1), list(0)])),
        ("a list twice", full(vec![list(1), list(1)])),
        ("too many lists", full((0..17).map(list).collect())),
        ("a list number too large", full(vec![list(1 << 16)])),
        ("a list without bytes", full(vec![numbers(&[1])])),
        ("whole lists with more", Value::array([Value::Unsigned(1), Value::array([]), Value::Null])),
        ("pages out of order", delta(vec![page(0, 2), page(0, 1)])),
        ("pages of lists out of order", delta(vec![page(1, 0), page(0, 1)])),
        ("a page twice", delta(vec![page(0, 1), page(0, 1)])),
        ("a page number too large", delta(vec![page(0, 1 << 16)])),
        ("a page of a list number too large", delta(vec![page(1 << 16, 0)])),
        ("too many pages", delta((0..1_025).map(|n| page(0, n)).collect())),
        ("a page without bytes", delta(vec![numbers(&[0, 1])])),
        ("a delta without its base", Value::array([Value::Unsigned(2), Value::array([])])),
    ] {
        assert!(matches!(read(&body), Err(SignedError::Malformed(_))), "{attack}");
    }
    let extra = Value::map([(0, Value::bytes([1])), (1, numbers(&[0])), (2, Value::Null)]);
    assert!(matches!(TrustFrame::parse(&encode(&extra)), Err(SignedError::Malformed(_))), "an unknown key");
}
