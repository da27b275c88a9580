//! Receipts: one signature for a batch, and a leaf that is proven only if the signed root is the recomputed one.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use crate::common;

use common::{Ecdsa, ed25519};
use coset::{CoseSign1, TaggedCborSerializable};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_cose::code::Code;
use touchstone_cose::key::{Signer, SigningKey};
use touchstone_cose::receipt::{self, Proof, Receipt, ReceiptError, TREE_SIZE};
use touchstone_cose::sign1::{Unverified, label};

const ORIGIN: &str = "broker.example/log/1";

/// The root of a tree of two: enough arithmetic for the framing.
fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new()
        .chain_update([1])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

fn recompute(leaf: &[u8; 32], proof: &Proof) -> Option<[u8; 32]> {
    match (proof.tree_size, proof.leaf_index, proof.path.as_slice()) {
        (2, 0, [right]) => Some(node(leaf, right)),
        (2, 1, [left]) => Some(node(left, leaf)),
        _ => None,
    }
}

const LEAVES: [[u8; 32]; 2] = [[7; 32], [8; 32]];

fn receipts(signer: &dyn Signer) -> [Vec<u8>; 2] {
    let root = node(&LEAVES[0], &LEAVES[1]);
    let signed = receipt::sign_root(signer, ORIGIN, 2, &root, 1000).expect("signs");
    [
        signed.encode(0, &[LEAVES[1]]).expect("a proof"),
        signed.encode(1, &[LEAVES[0]]).expect("a proof"),
    ]
}

#[test]
fn one_signature_serves_the_batch() {
    let (ed, p256) = (ed25519(1), Ecdsa::p256());
    for (signer, key) in [(&ed as &dyn Signer, ed.verifying_key()), (&p256, p256.verifying_key())] {
        let receipts = receipts(signer);
        let signatures = receipts.each_ref().map(|r| r[r.len() - 64..].to_vec());
        assert_eq!(signatures[0], signatures[1]);
        for (index, (bytes, leaf)) in receipts.iter().zip(LEAVES).enumerate() {
            let verified = receipt::verify(bytes, &key, ORIGIN, &leaf, recompute).expect("proves");
            assert_eq!((verified.origin.as_str(), verified.iat), (ORIGIN, 1000));
            assert_eq!((verified.tree_size, verified.leaf_index), (2, index as u64));
            assert_eq!(verified.root, node(&LEAVES[0], &LEAVES[1]));
        }
    }
}

#[test]
fn another_implementation_reads_and_verifies_it() {
    let key = ed25519(1);
    let [bytes, _] = receipts(&key);
    let theirs = CoseSign1::from_tagged_slice(&bytes).expect("reads");
    assert_eq!(theirs.payload, None);
    let root = node(&LEAVES[0], &LEAVES[1]);
    let check = |s: &[u8], d: &[u8]| key.verifying_key().verify(d, s);
    theirs.verify_detached_signature(&root, b"", check).expect("verifies");
}

#[test]
fn a_proof_of_something_else_is_refused() {
    let key = ed25519(1);
    let [first, second] = receipts(&key);
    let verify = |bytes: &[u8], origin: &str, leaf: &[u8; 32]| {
        let verified = receipt::verify(bytes, &key.verifying_key(), origin, leaf, recompute);
        verified.map(|_| ()).map_err(|e| e.code())
    };
    assert_eq!(verify(&first, ORIGIN, &LEAVES[0]), Ok(()));
    assert_eq!(
        verify(&first, ORIGIN, &LEAVES[1]),
        Err(Code::SignatureInvalid),
        "another leaf"
    );
    assert_eq!(
        verify(&second, ORIGIN, &LEAVES[0]),
        Err(Code::SignatureInvalid),
        "another leaf's receipt"
    );
    assert_eq!(
        verify(&first, "other.example/log/1", &LEAVES[0]),
        Err(Code::ShapeMismatch),
        "another log"
    );
    let other = receipt::verify(&first, &ed25519(2).verifying_key(), ORIGIN, &LEAVES[0], recompute);
    assert_eq!(other.map_err(|e| e.code()), Err(Code::CoseKidMismatch));
    let impossible = receipt::verify(&first, &key.verifying_key(), ORIGIN, &LEAVES[0], |_, _| None);
    assert_eq!(impossible.map_err(|e| e.code()), Err(Code::ReceiptInvalid));
}

/// A receipt put together from parts, signed for the tree of two.
fn forge(key: &SigningKey, header: &[(i64, Value)], vdp: Value, payload: Value) -> Vec<u8> {
    let protected = cbor::encode(&Value::map(header.iter().cloned()));
    let message = cbor::encode(&Value::array([
        Value::text("Signature1"),
        Value::bytes(protected.as_slice()),
        Value::bytes([]),
        Value::bytes(node(&LEAVES[0], &LEAVES[1])),
    ]));
    let signature = Value::bytes(key.sign(&message).expect("signs"));
    cbor::encode(&Value::tag(
        18,
        Value::array([Value::bytes(protected), vdp, payload, signature]),
    ))
}

#[test]
fn hostile_receipts_with_a_good_signature() {
    let key = ed25519(1);
    let claims = || Value::map([(1, Value::text(ORIGIN)), (6, Value::int(1000))]);
    let header = || {
        vec![
            (label::ALG, Value::int(-19)),
            (label::KID, Value::from(key.kid())),
            (label::CWT_CLAIMS, claims()),
            (label::VDS, Value::int(1)),
            (TREE_SIZE, Value::int(2)),
        ]
    };
    let without = |l: i64| header().into_iter().filter(|(k, _)| *k != l).collect::<Vec<_>>();
    let with = |l: i64, v: Value| [without(l), vec![(l, v)]].concat();
    let proof = |size: i64, index: i64, path: Vec<Value>| {
        Value::bytes(cbor::encode(&Value::array([
            Value::int(size),
            Value::int(index),
            Value::array(path),
        ])))
    };
    let vdp = |proofs: Value| Value::map([(label::VDP, Value::map([(-1, proofs)]))]);
    let right = || Value::bytes(LEAVES[1]);
    let good = || vdp(Value::array([proof(2, 0, vec![right()])]));
    let check = |bytes: &[u8]| {
        let verified = receipt::verify(bytes, &key.verifying_key(), ORIGIN, &LEAVES[0], recompute);
        verified.map(|_| ()).map_err(|e| e.code())
    };
    let of = |header: &[(i64, Value)]| forge(&key, header, good(), Value::Null);
    let proven = |proofs: Value| forge(&key, &header(), vdp(proofs), Value::Null);
    assert_eq!(check(&of(&header())), Ok(()), "the unchanged receipt is good");
    let bare = Value::array([Value::int(2), Value::int(0), Value::array([right()])]);
    let rows = [
        ("no claims", of(&without(label::CWT_CLAIMS)), Code::ShapeMismatch),
        (
            "no origin",
            of(&with(label::CWT_CLAIMS, Value::map([(6, Value::int(1000))]))),
            Code::ShapeMismatch,
        ),
        (
            "no time",
            of(&with(label::CWT_CLAIMS, Value::map([(1, Value::text(ORIGIN))]))),
            Code::ShapeMismatch,
        ),
        (
            "an unknown claim",
            of(&with(
                label::CWT_CLAIMS,
                Value::map([(1, Value::text(ORIGIN)), (2, Value::Null), (6, Value::int(1000))]),
            )),
            Code::ShapeMismatch,
        ),
        ("no tree size", of(&without(TREE_SIZE)), Code::ShapeMismatch),
        ("no tree kind", of(&without(label::VDS)), Code::ShapeMismatch),
        (
            "another tree kind",
            of(&with(label::VDS, Value::int(2))),
            Code::ShapeMismatch,
        ),
        (
            "another tree size than the proof's",
            of(&with(TREE_SIZE, Value::int(3))),
            Code::ReceiptInvalid,
        ),
        ("an unknown header", of(&with(99, Value::Null)), Code::ShapeMismatch),
        (
            "a type: some other object of this key",
            of(&with(label::TYP, Value::text("application/x"))),
            Code::CoseTypeMismatch,
        ),
        (
            "payload inside",
            forge(&key, &header(), good(), Value::bytes(node(&LEAVES[0], &LEAVES[1]))),
            Code::CoseMalformed,
        ),
        (
            "no proof",
            forge(&key, &header(), Value::Map(vec![]), Value::Null),
            Code::ShapeMismatch,
        ),
        (
            "a further unprotected header",
            forge(
                &key,
                &header(),
                Value::map([(394, Value::Null), (396, Value::Null)]),
                Value::Null,
            ),
            Code::CoseHeaderRefused,
        ),
        ("no inclusion proof", proven(Value::array([])), Code::ShapeMismatch),
        (
            "two inclusion proofs",
            proven(Value::array([proof(2, 0, vec![right()]), proof(2, 0, vec![right()])])),
            Code::ShapeMismatch,
        ),
        (
            "a bare proof, not wrapped",
            proven(Value::array([bare])),
            Code::ShapeMismatch,
        ),
        (
            "a consistency proof beside",
            forge(
                &key,
                &header(),
                Value::map([(
                    label::VDP,
                    Value::map([(-1, Value::array([proof(2, 0, vec![right()])])), (-2, Value::array([]))]),
                )]),
                Value::Null,
            ),
            Code::ShapeMismatch,
        ),
        (
            "empty path",
            proven(Value::array([proof(2, 0, vec![])])),
            Code::ReceiptInvalid,
        ),
        (
            "path of 64",
            proven(Value::array([proof(2, 0, (0..64).map(|_| right()).collect())])),
            Code::ReceiptInvalid,
        ),
        (
            "hash of 31 bytes",
            proven(Value::array([proof(2, 0, vec![Value::bytes([0; 31])])])),
            Code::ShapeMismatch,
        ),
        (
            "leaf outside the tree",
            proven(Value::array([proof(2, 2, vec![right()])])),
            Code::ReceiptInvalid,
        ),
        (
            "negative leaf",
            proven(Value::array([proof(2, -1, vec![right()])])),
            Code::ShapeMismatch,
        ),
        (
            "the other side",
            proven(Value::array([proof(2, 1, vec![right()])])),
            Code::SignatureInvalid,
        ),
        (
            "proof with a byte behind",
            proven(Value::array([Value::bytes(
                [proof(2, 0, vec![right()]).as_bytes().expect("bytes"), &[0]].concat(),
            )])),
            Code::CborTrailing,
        ),
    ];
    for (name, bytes, code) in rows {
        assert_eq!(check(&bytes), Err(code), "{name}");
    }
}

#[test]
fn a_receipt_is_no_object_of_another_kind() {
    let key = ed25519(1);
    let [bytes, _] = receipts(&key);
    let parsed = Unverified::parse_with_unprotected(&bytes, Limits::TOKEN, &[label::VDP]).expect("well formed");
    let root = node(&LEAVES[0], &LEAVES[1]).to_vec();
    let other = parsed.verify_detached(&key.verifying_key(), "application/x", b"", root);
    assert_eq!(other.map_err(|e| e.code()), Err(Code::CoseTypeMismatch));
}

#[test]
fn trees_without_a_proof_get_no_receipt() {
    let key = ed25519(1);
    let signed = |size| receipt::sign_root(&key, ORIGIN, size, &[0; 32], 0).expect("signs");
    let refused = |size, index, path: &[[u8; 32]]| signed(size).encode(index, path).map_err(|e| e.code());
    assert_eq!(refused(1, 0, &[]), Err(Code::ReceiptInvalid));
    assert_eq!(refused(0, 0, &[[0; 32]]), Err(Code::ReceiptInvalid));
    assert_eq!(refused(2, 2, &[[0; 32]]), Err(Code::ReceiptInvalid));
    assert_eq!(refused(2, 0, &[[0; 32]; 64]), Err(Code::ReceiptInvalid));
    let longest = signed(u64::MAX).encode(u64::MAX - 1, &[[0; 32]; 63]).expect("fits");
    assert!(longest.len() < receipt::LIMITS.max_bytes);
    assert!(Receipt::parse(&longest).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_changed_byte_proves_anything(at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let key = ed25519(1);
        let [mut bytes, _] = receipts(&key);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(receipt::verify(&bytes, &key.verifying_key(), ORIGIN, &LEAVES[0], recompute).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let refused: Result<_, ReceiptError> = Receipt::parse(&bytes);
        prop_assert!(refused.is_err());
    }
}
