//! Objects that the right key has signed but whose contents are not of this profile: read strictly all the same.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::*;
use touchstone_authorization::{
    Ack, Block, Command, CommandAction, NamedError, NamedKeys, Outcome, SignedError, SignedKind, TargetKind,
    TrustFrame, TrustHead, UntrustedAuthorization, UntrustedChain, UntrustedProof, Use, ack::MAX_STOPPED,
    proof::PROOF_TYPE, token::AUTHORIZATION_TYPE, trust_head::TRUST_HEAD_TYPE,
};
use touchstone_cose::cbor::{Limits, Value, decode, encode};
use touchstone_cose::cwt;
use touchstone_cose::key::{Signer, VerifyingKey};
use touchstone_cose::sign1::{Protected, sign};

/// What is changed in the claims, by name.
type Row = (&'static str, fn(&mut Value));

/// The same, and what then speaks against them.
type Judged = (&'static str, fn(&mut Value), &'static str);

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

fn right(depth: u64, offline: Value) -> Value {
    Value::array([Value::Unsigned(depth), offline])
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
        ("an unknown private claim", |c| *private(c, 10) = Value::Null),
        ("a workload without its node", |c| *entry(c, 2) = Value::text("agent@")),
        ("a workload of a workload", |c| *entry(c, 2) = Value::text("tool@agent@node-1")),
        ("a label with a wildcard", |c| *entry(c, 2) = Value::text("*@node-1")),
        ("a depth of nothing, written out", |c| *private(c, 6) = Value::Unsigned(0)),
        ("deeper than any lineage", |c| *private(c, 6) = Value::Unsigned(17)),
        ("a depth of 2^64 - 1", |c| *private(c, 6) = Value::Unsigned(u64::MAX)),
        ("a negative depth", |c| *private(c, 6) = Value::int(-1)),
        ("ancestors and no parent", |c| *private(c, 6) = Value::Unsigned(1)),
        ("a right to delegate to no depth", |c| *private(c, 7) = right(0, Value::Bool(true))),
        ("a right to delegate deeper than any lineage", |c| *private(c, 7) = right(17, Value::Bool(true))),
        ("a right to delegate to 256, which is 0 in a byte", |c| *private(c, 7) = right(256, Value::Bool(true))),
        ("a right to delegate off-line as a number", |c| *private(c, 7) = right(1, Value::Unsigned(1))),
        ("half a right to delegate", |c| *private(c, 7) = numbers(&[1])),
        ("a right to delegate null", |c| *private(c, 7) = Value::Null),
        ("a region with a wildcard", |c| *private(c, 8) = Value::text("*")),
        ("an empty region", |c| *private(c, 8) = Value::text("")),
        ("a region null", |c| *private(c, 8) = Value::Null),
        ("several regions", |c| *private(c, 8) = Value::array([Value::text("eu-1")])),
        ("a region in capitals", |c| *private(c, 8) = Value::text("EU-1")),
        ("a region one too long", |c| *private(c, 8) = Value::text("a".repeat(65))),
        ("a purpose of two lines", |c| *private(c, 9) = Value::text("a\nb")),
        ("an empty purpose", |c| *private(c, 9) = Value::text("")),
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
        ("an unknown private claim", 12, Value::Null),
        ("no revoked ids, written out", 11, Value::array([Value::Unsigned(0), Value::bytes([0; 32])])),
        ("more revoked ids than there may be", 11, Value::array([Value::Unsigned(1_025), Value::bytes([0; 32])])),
        ("2^16 + 1 revoked ids, which is one in two bytes", 11, Value::array([Value::Unsigned(65_537), Value::bytes([0; 32])])),
        ("revoked ids with a short digest", 11, Value::array([Value::Unsigned(1), Value::bytes([0; 31])])),
        ("revoked ids without a digest", 11, Value::array([Value::Unsigned(1)])),
        ("revoked ids null", 11, Value::Null),
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
    let and = |body: Value, more: Value| Value::array(body.as_array().unwrap().iter().cloned().chain([more]));
    let ids = |count: u16| (0..count).flat_map(|n| [[0; 14].as_slice(), &n.to_be_bytes()].concat()).collect::<Vec<u8>>();
    for good in [
        numbers(&[0]),
        full(vec![list(0), list(1)]),
        full(vec![]),
        and(full(vec![]), Value::Bytes(ids(1_024))),
        delta(vec![page(0, 1), page(0, 2), page(1, 0)]),
        delta(vec![]),
        and(delta(vec![]), Value::bytes([])),
        and(delta(vec![page(0, 1)]), Value::bytes([1; 16])),
    ] {
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
        ("no revoked ids, written out", and(full(vec![list(0)]), Value::bytes([]))),
        ("revoked ids out of order", and(full(vec![]), Value::bytes([[2; 16], [1; 16]].concat()))),
        ("a revoked id twice", and(delta(vec![]), Value::bytes([1; 32]))),
        ("a piece of a revoked id", and(delta(vec![]), Value::bytes([1; 17]))),
        ("more revoked ids than there may be", and(delta(vec![]), Value::Bytes(ids(1_025)))),
        ("revoked ids as an array", and(full(vec![]), Value::array([Value::bytes([1; 16])]))),
        ("revoked ids and more", and(and(full(vec![]), Value::bytes([1; 16])), Value::bytes([1; 16]))),
        ("a heartbeat with revoked ids", and(numbers(&[0]), Value::bytes([1; 16]))),
    ] {
        assert!(matches!(read(&body), Err(SignedError::Malformed(_))), "{attack}");
    }
    let extra = Value::map([(0, Value::bytes([1])), (1, numbers(&[0])), (2, Value::Null)]);
    assert!(matches!(TrustFrame::parse(&encode(&extra)), Err(SignedError::Malformed(_))), "an unknown key");
}

/// Blocks, each behind an authorization that lets it be added.
#[test]
#[rustfmt::skip]
fn blocks() {
    use common::links::{ROOT, delegable, join, link};
    let root = delegable().encode_signed(&issuer()).unwrap();
    let good = claims(&Block { before: sha256(&root), ..link(1).block }.encode_signed(&HolderKey::new(ROOT)).unwrap());
    let read = |claims: &Value| {
        let block = signed(claims, SignedKind::Block.typ(), &HolderKey::new(ROOT));
        UntrustedChain::parse(&join(&[root.clone(), block])).and_then(|chain| chain.verify(&ring(&[&issuer()]), NOW_MS))
    };
    assert_eq!(read(&good).unwrap().blocks(), [Block { before: sha256(&root), ..link(1).block }]);
    let rows: &[Row] = &[
        ("expiry as text", |c| *entry(c, 4) = Value::text("2000000000")),
        ("ends where it begins", |c| *entry(c, 4) = Value::Unsigned(NOW_S - 9)),
        ("cti too short", |c| *entry(c, 7) = Value::bytes([1; 15])),
        ("P-384 confirmation key", |c| *entry(entry(c, 8), 1) = p384().to_cose_key(true)),
        ("confirmation key with its private half", |c| *entry(entry(entry(c, 8), 1), -4) = Value::bytes([1; 32])),
        ("confirmation key off the curve", |c| *entry(entry(entry(c, 8), 1), -2) = Value::bytes([0xff; 32])),
        ("a wildcard scope smuggled in", |c| *entry(c, 9) = Value::text("execute:*")),
        ("a wildcard resource below one that is held", |c| *entry(c, 9) = Value::text("execute:workloads/*")),
        ("a wildcard among scopes", |c| *entry(c, 9) = Value::text("execute:workloads *:*")),
        ("a percent-encoded wildcard", |c| *entry(c, 9) = Value::text("execute:%2a")),
        ("no scope means any", |c| *entry(c, 9) = Value::text("")),
        ("no scope means all of the parent's", |c| remove(c, 9)),
        ("seventeen scopes", |c| *entry(c, 9) = Value::text((0..17).map(|n| format!("execute:n{n}")).collect::<Vec<_>>().join(" "))),
        ("an unknown claim", |c| *entry(c, 3) = Value::text(DOMAIN)),
        ("an unknown private claim", |c| *private(c, 5) = Value::Null),
        ("no label", |c| remove(entry(c, PRIVATE), 1)),
        ("an empty label", |c| *private(c, 1) = Value::text("")),
        ("a label that is another subject", |c| *private(c, 1) = Value::text("agent@node-2")),
        ("a label that looks like two links", |c| *private(c, 1) = Value::text("a:b")),
        ("a label that is a path", |c| *private(c, 1) = Value::text("../a")),
        ("a label of two lines", |c| *private(c, 1) = Value::text("a\nb")),
        ("a label one too long", |c| *private(c, 1) = Value::text("a".repeat(33))),
        ("a depth of nothing, written out", |c| *private(c, 2) = Value::Unsigned(0)),
        ("a depth of 256, which is 0 in a byte", |c| *private(c, 2) = Value::Unsigned(256)),
        ("a depth bomb of 2^64 - 1", |c| *private(c, 2) = Value::Unsigned(u64::MAX)),
        ("a negative depth", |c| *private(c, 2) = Value::int(-1)),
        ("a region with a wildcard", |c| *private(c, 3) = Value::text("*")),
        ("a region null", |c| *private(c, 3) = Value::Null),
        ("a purpose with a space", |c| *private(c, 4) = Value::text("a b")),
        ("a digest one short", |c| *private(c, 0) = Value::bytes([0; 31])),
        ("no digest: fits any chain", |c| remove(entry(c, PRIVATE), 0)),
    ];
    for (attack, change) in rows {
        let mut claims = good.clone();
        change(&mut claims);
        let code = read(&claims).err().map(|error| error.code().as_str());
        assert_eq!(code, Some("delegation-malformed"), "{attack}");
    }
    for key in [4, 5, 7, 8, PRIVATE] {
        let mut claims = good.clone();
        remove(&mut claims, key);
        assert_eq!(read(&claims).unwrap_err().code().as_str(), "delegation-malformed", "without claim {key}");
    }
}

fn enforcer_key() -> touchstone_cose::key::SigningKey {
    touchstone_cose::key::SigningKey::from_seed([3; 32])
}

/// An enforcer, and an operator with a P-256 key.
fn named() -> NamedKeys {
    let operator = HolderKey::new(60).verifying_key();
    let another = touchstone_cose::key::SigningKey::from_seed([4; 32]).verifying_key();
    NamedKeys::new([
        (ENFORCER.to_owned(), enforcer_key().verifying_key()),
        ("alice".to_owned(), operator),
        ("guard:node-9".to_owned(), another),
    ])
    .unwrap()
}

fn ack() -> Ack {
    Ack {
        domain: DOMAIN.into(),
        enforcer: ENFORCER.into(),
        generation: 2,
        epoch: 4_712,
        enforced_at_ms: NOW_MS + 3,
        refused: 2,
    }
}

fn usage() -> Use {
    Use {
        domain: DOMAIN.into(),
        enforcer: ENFORCER.into(),
        id: [0x1d; 16],
        chain_digest: sha256(b"a chain"),
        chain: Some(b"a chain".to_vec()),
        scope: scope("execute:workloads"),
        at_ms: NOW_MS,
        outcome: Outcome::Allowed,
    }
}

fn command() -> Command {
    Command {
        domain: DOMAIN.into(),
        operator: "alice".into(),
        id: [0x1d; 16],
        not_after: NOW_S + 60,
        action: CommandAction::Revoke,
        target: TargetKind::Node,
        target_id: "node-1".into(),
        set: [0x5e; 32],
        revision: 17,
        reason: "its disk was found on a market".into(),
    }
}

/// The reason an object is refused for, of whatever kind.
fn refused<T>(kind: SignedKind, result: Result<T, NamedError>) -> &'static str {
    result.err().map_or("accepted", |error| error.code(kind).as_str())
}

#[test]
#[rustfmt::skip]
fn acknowledgements() {
    let good = claims(&ack().encode_signed(&enforcer_key()).unwrap());
    let read = |claims: &Value| refused(SignedKind::Ack, Ack::verify(&signed(claims, SignedKind::Ack.typ(), &enforcer_key()), &named(), DOMAIN));
    assert_eq!(Ack::verify(&ack().encode_signed(&enforcer_key()).unwrap(), &named(), DOMAIN), Ok(ack()));
    let rows: &[Judged] = &[
        ("as it should be", |_| {}, "accepted"),
        ("in the name of another enforcer", |c| *entry(c, 1) = Value::text("guard:node-9"), "ack-name"),
        ("in the name of an operator", |c| *entry(c, 1) = Value::text("alice"), "ack-name"),
        ("of another domain's trust state", |c| *entry(c, 3) = Value::text("other.example"), "ack-domain"),
        ("in the name of everybody", |c| *entry(c, 1) = Value::text("*"), "ack-malformed"),
        ("for every domain", |c| *entry(c, 3) = Value::text("*"), "ack-malformed"),
        ("generation too large", |c| *private(c, 0) = Value::Unsigned(1 << 32), "ack-malformed"),
        ("a negative epoch", |c| *private(c, 1) = Value::int(-1), "ack-malformed"),
        ("no instant", |c| remove(entry(c, PRIVATE), 2), "ack-malformed"),
        ("as many stopped as any could", |c| *private(c, 3) = Value::Unsigned(MAX_STOPPED), "accepted"),
        ("one more", |c| *private(c, 3) = Value::Unsigned(MAX_STOPPED + 1), "ack-malformed"),
        ("as many as a number can say", |c| *private(c, 3) = Value::Unsigned(u64::MAX), "ack-malformed"),
        ("an unknown claim", |c| *entry(c, 4) = Value::Unsigned(1), "ack-malformed"),
        ("an unknown private claim", |c| *private(c, 4) = Value::Null, "ack-malformed"),
    ];
    for (attack, change, expected) in rows {
        let mut claims = good.clone();
        change(&mut claims);
        assert_eq!(read(&claims), *expected, "{attack}");
    }
    let bytes = ack().encode_signed(&enforcer_key()).unwrap();
    let mut altered = bytes.clone();
    *altered.last_mut().unwrap() ^= 1;
    for (attack, bytes, expected) in [
        ("altered", altered, "ack-signature"),
        ("by nobody that policy names", ack().encode_signed(&issuer()).unwrap(), "ack-key-unknown"),
        ("a command in its place", command().encode_signed(&HolderKey::new(60)).unwrap(), "ack-type"),
        ("a use in its place", usage().encode_signed(&enforcer_key()).unwrap(), "ack-type"),
        ("cut short", bytes[..bytes.len() - 1].to_vec(), "ack-malformed"),
        ("nothing", vec![], "ack-malformed"),
        ("a megabyte", vec![0xd2; 1 << 20], "ack-too-large"),
    ] {
        assert_eq!(refused(SignedKind::Ack, Ack::verify(&bytes, &named(), DOMAIN)), expected, "{attack}");
    }
}

#[test]
#[rustfmt::skip]
fn uses() {
    let good = claims(&usage().encode_signed(&enforcer_key()).unwrap());
    let read = |claims: &Value| refused(SignedKind::Use, Use::verify(&signed(claims, SignedKind::Use.typ(), &enforcer_key()), &named(), DOMAIN));
    assert_eq!(Use::verify(&usage().encode_signed(&enforcer_key()).unwrap(), &named(), DOMAIN), Ok(usage()));
    let known = Use { chain: None, outcome: Outcome::Stopped, ..usage() };
    assert_eq!(Use::verify(&known.encode_signed(&enforcer_key()).unwrap(), &named(), DOMAIN), Ok(known));
    let rows: &[Judged] = &[
        ("as it should be", |_| {}, "accepted"),
        ("in the name of another enforcer", |c| *entry(c, 1) = Value::text("guard:node-9"), "use-name"),
        ("for another domain", |c| *entry(c, 3) = Value::text("other.example"), "use-domain"),
        ("another chain than its digest", |c| *private(c, 4) = Value::bytes(*b"b chain"), "use-malformed"),
        ("another digest than its chain", |c| *private(c, 0) = Value::bytes([0; 32]), "use-malformed"),
        ("a chain longer than any", |c| *private(c, 4) = Value::Bytes(vec![0; 4_097]), "use-malformed"),
        ("a chain null", |c| *private(c, 4) = Value::Null, "use-malformed"),
        ("an id too short", |c| *entry(c, 7) = Value::bytes([1; 15]), "use-malformed"),
        ("no id: counts as often as it is sent", |c| remove(c, 7), "use-malformed"),
        ("any action", |c| *private(c, 1) = Value::array([Value::text("*"), Value::text("workloads")]), "use-malformed"),
        ("any resource", |c| *private(c, 1) = Value::array([Value::text("execute"), Value::text("*")]), "use-malformed"),
        ("an outcome without a meaning", |c| *private(c, 3) = Value::Unsigned(3), "use-malformed"),
        ("an unknown private claim", |c| *private(c, 5) = Value::Null, "use-malformed"),
    ];
    for (attack, change, expected) in rows {
        let mut claims = good.clone();
        change(&mut claims);
        assert_eq!(read(&claims), *expected, "{attack}");
    }
    for (attack, bytes, expected) in [
        ("by nobody that policy names", usage().encode_signed(&issuer()).unwrap(), "use-key-unknown"),
        ("an acknowledgement in its place", ack().encode_signed(&enforcer_key()).unwrap(), "use-type"),
        ("a megabyte", vec![0xd2; 1 << 20], "use-too-large"),
    ] {
        assert_eq!(refused(SignedKind::Use, Use::verify(&bytes, &named(), DOMAIN)), expected, "{attack}");
    }
    let altered = Use { chain_digest: [0; 32], ..usage() };
    assert!(altered.encode_signed(&enforcer_key()).is_err(), "what nobody would take is not signed");
}

#[test]
#[rustfmt::skip]
fn commands() {
    let operator = HolderKey::new(60);
    let good = claims(&command().encode_signed(&operator).unwrap());
    let at = |now_ms: u64, bytes: &[u8]| refused(SignedKind::Command, Command::verify(bytes, &named(), DOMAIN, (now_ms, SKEW_MS)));
    let read = |claims: &Value| at(NOW_MS, &signed(claims, SignedKind::Command.typ(), &operator));
    let bytes = command().encode_signed(&operator).unwrap();
    let read_back = Command::verify(&bytes, &named(), DOMAIN, (NOW_MS, SKEW_MS)).unwrap();
    assert_eq!((read_back.digest(), &read_back), (command().digest(), &command()));
    let rows: &[Judged] = &[
        ("as it should be", |_| {}, "accepted"),
        ("in the name of an enforcer", |c| *entry(c, 1) = Value::text(ENFORCER), "command-name"),
        ("in the name of another operator", |c| *entry(c, 1) = Value::text("bob"), "command-name"),
        ("for another domain", |c| *entry(c, 3) = Value::text("other.example"), "command-domain"),
        ("for ever", |c| *entry(c, 4) = Value::Unsigned(u64::MAX), "command-life"),
        ("for five minutes and a bit", |c| *entry(c, 4) = Value::Unsigned(NOW_S + 301), "command-life"),
        ("for five minutes", |c| *entry(c, 4) = Value::Unsigned(NOW_S + 300), "accepted"),
        ("over", |c| *entry(c, 4) = Value::Unsigned(NOW_S - 1), "command-over"),
        ("over since the beginning of time", |c| *entry(c, 4) = Value::Unsigned(0), "command-over"),
        ("no end", |c| remove(c, 4), "command-malformed"),
        ("an id too short", |c| *entry(c, 7) = Value::bytes([1; 15]), "command-malformed"),
        ("an unknown action", |c| *private(c, 0) = Value::text("sudo"), "command-malformed"),
        ("an action in capitals", |c| *private(c, 0) = Value::text("Revoke"), "command-malformed"),
        ("an unknown kind of target", |c| *private(c, 1) = Value::array([Value::text("moon"), Value::text("a")]), "command-malformed"),
        ("a target without an id", |c| *private(c, 1) = Value::array([Value::text("node")]), "command-malformed"),
        ("an empty target", |c| *private(c, 1) = Value::array([Value::text("node"), Value::text("")]), "command-malformed"),
        ("a target of two lines", |c| *private(c, 1) = Value::array([Value::text("node"), Value::text("a\nb")]), "command-malformed"),
        ("an endless target", |c| *private(c, 1) = Value::array([Value::text("node"), Value::text("a".repeat(257))]), "command-malformed"),
        ("a set one byte short", |c| *private(c, 2) = Value::bytes([0; 31]), "command-malformed"),
        ("no set: whatever is there", |c| remove(entry(c, PRIVATE), 2), "command-malformed"),
        ("no revision: whenever", |c| remove(entry(c, PRIVATE), 3), "command-malformed"),
        ("no reason", |c| *private(c, 4) = Value::text(""), "command-malformed"),
        ("a reason that drives a terminal", |c| *private(c, 4) = Value::text("\u{1b}[31m"), "command-malformed"),
        ("an endless reason", |c| *private(c, 4) = Value::text("a".repeat(513)), "command-malformed"),
        ("an unknown private claim", |c| *private(c, 5) = Value::Null, "command-malformed"),
    ];
    for (attack, change, expected) in rows {
        let mut claims = good.clone();
        change(&mut claims);
        assert_eq!(read(&claims), *expected, "{attack}");
    }
    let mut altered = bytes.clone();
    *altered.last_mut().unwrap() ^= 1;
    for (attack, now_ms, bytes, expected) in [
        ("the last millisecond, within the skew", NOW_MS + 60_499, bytes.clone(), "accepted"),
        ("a millisecond later", NOW_MS + 60_500, bytes.clone(), "command-over"),
        ("a clock at the end of time", u64::MAX, bytes.clone(), "command-over"),
        ("a clock at the beginning of time", 0, bytes.clone(), "command-life"),
        ("altered", NOW_MS, altered, "command-signature"),
        ("by nobody that policy names", NOW_MS, command().encode_signed(&issuer()).unwrap(), "command-key-unknown"),
        ("an acknowledgement in its place", NOW_MS, ack().encode_signed(&enforcer_key()).unwrap(), "command-type"),
        ("a megabyte", NOW_MS, vec![0xd2; 1 << 20], "command-too-large"),
    ] {
        assert_eq!(at(now_ms, &bytes), expected, "{attack}");
    }
}
