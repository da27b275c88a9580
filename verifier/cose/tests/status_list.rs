//! Status lists: the draft's own bytes, and everything that must not be read as "valid".

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use crate::common;

use common::{Ecdsa, ed25519};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use proptest::prelude::*;
use std::io::Write;
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_cose::code::Code;
use touchstone_cose::cwt::claim;
use touchstone_cose::key::VerifyingKey;
use touchstone_cose::sign1::{self, Protected, ThirdParty};
use touchstone_cose::status_list::{MAX_BYTES, MAX_ENTRIES, Status, StatusList, StatusListError, StatusListToken, TYP};

type Claims = Vec<(i64, Value)>;

const SUBJECT: &str = "https://broker.example/v1/status/1";

fn token() -> StatusListToken {
    let mut list = StatusList::new(4096).expect("small");
    list.set(7, Status::Invalid).expect("inside");
    list.set(4095, Status::Suspended).expect("inside");
    StatusListToken {
        subject: SUBJECT.into(),
        issued_at: 1000,
        expires: 1060,
        ttl: 15,
        list,
    }
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("writes");
    encoder.finish().expect("finishes")
}

/// draft-ietf-oauth-status-list, section 4.1: twelve entries of two bits, deflated by its authors.
#[test]
fn the_two_bit_example_of_the_draft() {
    let list = StatusList::from_zlib(&hex::decode("78da3be9f2130003df0207").expect("hex")).expect("reads");
    assert_eq!(list.as_bytes(), [0xc9, 0x44, 0xf9]);
    let expected = [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3];
    for (index, status) in expected.into_iter().enumerate() {
        assert_eq!(list.get(index as u64).map(|s| s as u8), Ok(status), "entry {index}");
    }
    assert_eq!(
        list.get(12),
        Err(StatusListError::OutOfRange { index: 12, entries: 12 })
    );
    assert_eq!(StatusList::from_zlib(&list.to_zlib()), Ok(list));
}

/// The status list token of the draft's section 5.2, made and signed by its authors: ES256, and of another width.
#[test]
fn the_token_of_the_draft_verifies_and_holds_the_list_of_its_one_bit_example() {
    let bytes = hex::decode(concat!(
        "d2845820a2012610781a6170706c69636174696f6e2f7374617475736c6973742b637774a1044231325850a502782168747470733a2f",
        "2f6578616d706c652e636f6d2f7374617475736c697374732f31061a648c5bea041a8898dfea19fffe19a8c019fffda2646269747301",
        "636c73744a78dadbb918000217015d584093fa4d01032b18c35e2fe1101b77fd6cc9440022caa4694450c4e4e9feab4e99d1fa6d9772",
        "ce2bf3a12e0323ded7c982c5e101a5e67f0cbc1e2b6f57ce99c279",
    ))
    .expect("hex");
    let fixed = |hex: &str| <[u8; 32]>::try_from(hex::decode(hex).expect("hex")).expect("32 bytes");
    let x = fixed("2371d69bfd03b3574f308f885a67f8981987f9869e0156cf56eeef076ec2c57a");
    let y = fixed("e8dfdde44963f5bb3586d815de890928875b1c4a6481398096e60a25e9b39f53");
    let key = VerifyingKey::p256(x, y).expect("on the curve");
    let parsed = ThirdParty::parse(&bytes, Limits::TOKEN).expect("well formed");
    assert_eq!(parsed.kid(), Some(&b"12"[..]));
    let verified = parsed.verify_third_party_typ(&key, TYP, b"").expect("verifies");
    let claims = cbor::decode_lenient_order(verified.payload(), Limits::TOKEN).expect("reads");
    let list = claims.get(claim::STATUS_LIST).and_then(Value::as_map).expect("a list");
    let lst = list
        .iter()
        .find(|(k, _)| k.as_text() == Some("lst"))
        .and_then(|(_, v)| v.as_bytes())
        .expect("bytes");
    assert_eq!(
        StatusList::from_zlib(lst).map(|l| l.as_bytes().to_vec()),
        Ok(vec![0xb9, 0xa3])
    );
    // Not of our profile: legacy algorithm, key id unprotected.
    assert!(StatusListToken::verify(&bytes, &key, "https://example.com/statuslists/1", 0, 0).is_err());
}

#[test]
fn a_token_says_what_was_signed() {
    let key = ed25519(1);
    let bytes = token().sign(&key).expect("signs");
    assert_eq!(bytes.first(), Some(&0xd2), "tag 18, never 61");
    assert_eq!(StatusListToken::kid(&bytes), Ok(key.verifying_key().kid()));
    let read = StatusListToken::verify(&bytes, &key.verifying_key(), SUBJECT, 1030, 0).expect("verifies");
    assert_eq!(read, token());
    assert_eq!(read.list.get(7), Ok(Status::Invalid));
    assert_eq!(read.list.get(6), Ok(Status::Valid));
    assert_eq!(read.list.get(4095), Ok(Status::Suspended));
    assert_eq!(
        read.list.get(4096),
        Err(StatusListError::OutOfRange {
            index: 4096,
            entries: 4096
        })
    );
    assert_eq!(
        read.list.get(u64::MAX).map_err(|e| e.code()),
        Err(Code::StatusIndexOutOfRange)
    );
}

#[test]
fn the_wrong_subject_time_and_key_are_refused() {
    let key = ed25519(1);
    let bytes = token().sign(&key).expect("signs");
    let verify = |subject, now, skew| {
        let read = StatusListToken::verify(&bytes, &key.verifying_key(), subject, now, skew);
        read.map(|_| ()).map_err(|e| e.code())
    };
    assert_eq!(verify(SUBJECT, 1000, 0), Ok(()));
    assert_eq!(
        verify("https://broker.example/v1/status/2", 1030, 0),
        Err(Code::StatusListMismatch)
    );
    assert_eq!(verify(SUBJECT, 999, 0), Err(Code::TokenNotYetValid));
    assert_eq!(verify(SUBJECT, 999, 1), Ok(()));
    assert_eq!(verify(SUBJECT, 1059, 0), Ok(()));
    assert_eq!(verify(SUBJECT, 1060, 0), Err(Code::TokenExpired));
    let other = StatusListToken::verify(&bytes, &ed25519(2).verifying_key(), SUBJECT, 1030, 0);
    assert_eq!(other.map_err(|e| e.code()), Err(Code::CoseKidMismatch));
    let other = StatusListToken::verify(&bytes, &Ecdsa::p256().verifying_key(), SUBJECT, 1030, 0);
    assert_eq!(other.map_err(|e| e.code()), Err(Code::CoseAlgorithmMismatch));
    let tagged = [&[0xd8, 0x3d], bytes.as_slice()].concat();
    let tagged = StatusListToken::verify(&tagged, &key.verifying_key(), SUBJECT, 1030, 0);
    assert_eq!(tagged.map_err(|e| e.code()), Err(Code::CoseMalformed), "tag 61");
}

#[test]
fn hostile_tokens_with_a_good_signature() {
    let key = ed25519(1);
    let good = zlib(&[0; 16]);
    let list = |bits: Value, lst: Value| Value::text_map([("bits", bits), ("lst", lst)]);
    let claims = |change: &dyn Fn(&mut Claims)| {
        let mut claims = vec![
            (claim::SUB, Value::text(SUBJECT)),
            (claim::EXP, Value::int(1060)),
            (claim::IAT, Value::int(1000)),
            (claim::TTL, Value::int(15)),
            (claim::STATUS_LIST, list(Value::int(2), Value::bytes(good.clone()))),
        ];
        change(&mut claims);
        Value::map(claims)
    };
    let without = |key: i64| claims(&|c| c.retain(|(k, _)| *k != key));
    let with = |key: i64, value: Value| {
        claims(&|c| {
            c.retain(|(k, _)| *k != key);
            c.push((key, value.clone()));
        })
    };
    let lst = |bytes: Vec<u8>| with(claim::STATUS_LIST, list(Value::int(2), Value::bytes(bytes)));
    let check = |claims: &Value, typ: &str| {
        let bytes = sign1::sign(&key, &Protected::typ(typ), &cbor::encode(claims), b"").expect("signs");
        let read = StatusListToken::verify(&bytes, &key.verifying_key(), SUBJECT, 1030, 0);
        read.map(|_| ()).map_err(|e| e.code())
    };
    assert_eq!(check(&claims(&|_| {}), TYP), Ok(()), "the unchanged token is good");
    assert_eq!(
        check(&claims(&|_| {}), "application/statuslist+jwt"),
        Err(Code::CoseTypeMismatch)
    );
    let extra = Value::Map(vec![
        (Value::text("bits"), Value::int(2)),
        (Value::text("lst"), Value::bytes(good.clone())),
        (Value::text("aggregation_uri"), Value::text("https://elsewhere.example")),
    ]);
    let integer_keys = Value::map([(1, Value::int(2)), (2, Value::bytes(good.clone()))]);
    let bomb = zlib(&vec![0; MAX_BYTES + 1]);
    assert!(bomb.len() < 1024);
    let rows = [
        ("no subject", without(claim::SUB), Code::ShapeMismatch),
        ("no expiry", without(claim::EXP), Code::ShapeMismatch),
        ("no issue time", without(claim::IAT), Code::ShapeMismatch),
        ("no ttl", without(claim::TTL), Code::ShapeMismatch),
        ("ttl of 0", with(claim::TTL, Value::int(0)), Code::ShapeMismatch),
        ("ttl negative", with(claim::TTL, Value::int(-1)), Code::ShapeMismatch),
        ("no list", without(claim::STATUS_LIST), Code::ShapeMismatch),
        ("an unknown claim", with(99, Value::Null), Code::ShapeMismatch),
        (
            "an unknown member of the list",
            with(claim::STATUS_LIST, extra),
            Code::ShapeMismatch,
        ),
        (
            "integer keys in the list",
            with(claim::STATUS_LIST, integer_keys),
            Code::ShapeMismatch,
        ),
        (
            "one bit",
            with(claim::STATUS_LIST, list(Value::int(1), Value::bytes(good.clone()))),
            Code::StatusListInvalid,
        ),
        (
            "eight bits",
            with(claim::STATUS_LIST, list(Value::int(8), Value::bytes(good.clone()))),
            Code::StatusListInvalid,
        ),
        (
            "bits as text",
            with(claim::STATUS_LIST, list(Value::text("2"), Value::bytes(good.clone()))),
            Code::ShapeMismatch,
        ),
        (
            "list as text",
            with(claim::STATUS_LIST, list(Value::int(2), Value::text("x"))),
            Code::ShapeMismatch,
        ),
        ("one byte over the cap", lst(bomb), Code::StatusListInvalid),
        ("no stream", lst(vec![]), Code::StatusListInvalid),
        ("raw deflate", lst(good[2..].to_vec()), Code::StatusListInvalid),
        (
            "stream cut",
            lst(good[..good.len() - 5].to_vec()),
            Code::StatusListInvalid,
        ),
        (
            "checksum cut",
            lst(good[..good.len() - 1].to_vec()),
            Code::StatusListInvalid,
        ),
        (
            "checksum wrong",
            lst({
                let mut b = good.clone();
                *b.last_mut().expect("byte") ^= 1;
                b
            }),
            Code::StatusListInvalid,
        ),
        (
            "a byte behind the stream",
            lst([good.as_slice(), &[0]].concat()),
            Code::StatusListInvalid,
        ),
        (
            "two streams",
            lst([good.as_slice(), &good].concat()),
            Code::StatusListInvalid,
        ),
        ("random bytes", lst(vec![0xa5; 40]), Code::StatusListInvalid),
    ];
    for (name, claims, code) in rows {
        assert_eq!(check(&claims, TYP), Err(code), "{name}");
    }
}

#[test]
fn the_largest_list_goes_through_and_one_entry_more_does_not() {
    let mut list = StatusList::new(MAX_ENTRIES).expect("at the cap");
    assert_eq!(list.set(MAX_ENTRIES - 1, Status::Invalid), Ok(true));
    assert_eq!(list.set(MAX_ENTRIES - 1, Status::Invalid), Ok(false), "no change");
    assert_eq!(
        list.set(MAX_ENTRIES, Status::Invalid).map_err(|e| e.code()),
        Err(Code::StatusIndexOutOfRange)
    );
    assert_eq!(StatusList::from_zlib(&list.to_zlib()), Ok(list));
    let over = Err(StatusListError::TooLarge { limit: MAX_BYTES });
    assert_eq!(StatusList::new(MAX_ENTRIES + 1), over);
    assert_eq!(StatusList::new(u64::MAX), over);
    assert_eq!(StatusList::from_bytes(vec![0; MAX_BYTES + 1]), over);
}

#[test]
fn an_incompressible_list_fits_a_token() {
    let noise = (0..MAX_BYTES as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let list = StatusList::from_bytes(noise).expect("at the cap");
    let token = StatusListToken { list, ..token() };
    let key = ed25519(1);
    let bytes = token.sign(&key).expect("signs");
    assert_eq!(
        StatusListToken::verify(&bytes, &key.verifying_key(), SUBJECT, 1030, 0),
        Ok(token)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_list_remembers_the_last_status_of_each_entry(changes in proptest::collection::vec((0_u64..300, 0_u8..4), 0..60)) {
        let statuses = [Status::Valid, Status::Invalid, Status::Suspended, Status::Reserved];
        let mut list = StatusList::new(300).expect("small");
        let mut model = vec![Status::Valid; 300];
        for (index, status) in changes {
            list.set(index, statuses[usize::from(status)]).expect("inside");
            model[index as usize] = statuses[usize::from(status)];
        }
        let list = StatusList::from_zlib(&list.to_zlib()).expect("its own stream");
        for (index, status) in model.into_iter().enumerate() {
            prop_assert_eq!(list.get(index as u64), Ok(status));
        }
    }

    #[test]
    fn arbitrary_streams_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = StatusList::from_zlib(&bytes);
        let _ = StatusList::from_zlib(&[&[0x78, 0xda], bytes.as_slice()].concat());
    }
}
