//! The CBOR gate: one encoding a value, and a refusal with its place for everything else.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use proptest::prelude::*;
use touchstone_cose::cbor::{self, CborError, Limits, MapReader, Value};
use touchstone_cose::code::Code;

const SMALL: Limits = Limits {
    max_bytes: 1024,
    max_depth: 4,
    max_items: 32,
};

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).expect("hex")
}

#[test]
fn the_examples_of_rfc_8949_appendix_a_decode_and_encode_back() {
    let text = Value::text;
    let rows = [
        ("00", Value::Unsigned(0)),
        ("17", Value::Unsigned(23)),
        ("1818", Value::Unsigned(24)),
        ("1903e8", Value::Unsigned(1000)),
        ("1a000f4240", Value::Unsigned(1_000_000)),
        ("1b000000e8d4a51000", Value::Unsigned(1_000_000_000_000)),
        ("1bffffffffffffffff", Value::Unsigned(u64::MAX)),
        ("3bffffffffffffffff", Value::Negative(u64::MAX)),
        ("20", Value::int(-1)),
        ("3863", Value::int(-100)),
        ("3903e7", Value::int(-1000)),
        ("f4", Value::Bool(false)),
        ("f5", Value::Bool(true)),
        ("f6", Value::Null),
        ("40", Value::bytes([])),
        ("4401020304", Value::bytes([1, 2, 3, 4])),
        ("60", text("")),
        ("6449455446", text("IETF")),
        ("62225c", text("\"\\")),
        ("62c3bc", text("\u{fc}")),
        ("64f0908591", text("\u{10151}")),
        ("c11a514b67b0", Value::tag(1, Value::Unsigned(1_363_896_240))),
        ("d818456449455446", Value::tag(24, Value::bytes(*b"dIETF"))),
        ("80", Value::array([])),
        ("83010203", Value::array([1, 2, 3].map(Value::int))),
        ("a0", Value::Map(vec![])),
        ("a201020304", Value::map([(1, Value::int(2)), (3, Value::int(4))])),
        (
            "826161a161626163",
            Value::array([text("a"), Value::text_map([("b", text("c"))])]),
        ),
    ];
    for (hex, value) in rows {
        assert_eq!(cbor::decode(&bytes(hex), SMALL), Ok(value.clone()), "{hex}");
        assert_eq!(hex::encode(cbor::encode(&value)), hex);
        assert_eq!(cbor::gate(&bytes(hex), SMALL), Ok(()), "{hex}");
    }
}

#[test]
fn hostile_bytes_are_refused_where_the_trouble_starts() {
    let truncated = |offset, expected, found| CborError::Truncated {
        offset,
        expected,
        found,
    };
    let rows = [
        ("nothing at all", "", truncated(0, 1, 0)),
        ("argument cut off", "19ff", truncated(0, 2, 1)),
        (
            "integer in one byte too many",
            "1817",
            CborError::NotShortest { offset: 0, value: 23 },
        ),
        (
            "integer in two bytes for one",
            "1900ff",
            CborError::NotShortest { offset: 0, value: 255 },
        ),
        (
            "integer in four bytes for two",
            "1a0000ffff",
            CborError::NotShortest {
                offset: 0,
                value: 65535,
            },
        ),
        (
            "integer in eight bytes for four",
            "1b00000000ffffffff",
            CborError::NotShortest {
                offset: 0,
                value: 0xffff_ffff,
            },
        ),
        (
            "negative not shortest",
            "3800",
            CborError::NotShortest { offset: 0, value: 0 },
        ),
        (
            "byte string length not shortest",
            "580141",
            CborError::NotShortest { offset: 0, value: 1 },
        ),
        (
            "text length not shortest",
            "780161",
            CborError::NotShortest { offset: 0, value: 1 },
        ),
        (
            "array length not shortest",
            "980100",
            CborError::NotShortest { offset: 0, value: 1 },
        ),
        (
            "map length not shortest",
            "b8010000",
            CborError::NotShortest { offset: 0, value: 1 },
        ),
        (
            "tag not shortest",
            "d80100",
            CborError::NotShortest { offset: 0, value: 1 },
        ),
        ("indefinite bytes", "5f4100ff", CborError::Indefinite { offset: 0 }),
        ("indefinite text", "7f6161ff", CborError::Indefinite { offset: 0 }),
        ("indefinite array", "9f00ff", CborError::Indefinite { offset: 0 }),
        ("indefinite map", "bf0000ff", CborError::Indefinite { offset: 0 }),
        ("break inside an array", "81ff", CborError::Indefinite { offset: 1 }),
        ("indefinite integer", "1f", CborError::Indefinite { offset: 0 }),
        ("indefinite tag", "df00", CborError::Indefinite { offset: 0 }),
        ("reserved 28", "1c", CborError::Reserved { offset: 0, found: 0x1c }),
        (
            "reserved 30 in major type 7",
            "fe",
            CborError::Reserved { offset: 0, found: 0xfe },
        ),
        ("keys out of order", "a203000100", CborError::KeyOrder { offset: 3 }),
        ("longer key first", "a2190100000100", CborError::KeyOrder { offset: 5 }),
        (
            "text key before integer key",
            "a2616100010000",
            CborError::KeyOrder { offset: 4 },
        ),
        ("key twice", "a201000100", CborError::DuplicateKey { offset: 3 }),
        ("key twice, deep", "81a201000100", CborError::DuplicateKey { offset: 4 }),
        ("half float", "f93c00", CborError::Float { offset: 0 }),
        ("single float", "fa47c35000", CborError::Float { offset: 0 }),
        ("double float", "fb3ff199999999999a", CborError::Float { offset: 0 }),
        ("undefined", "f7", CborError::Simple { offset: 0, value: 23 }),
        ("simple 16", "f0", CborError::Simple { offset: 0, value: 16 }),
        ("simple 255", "f8ff", CborError::Simple { offset: 0, value: 255 }),
        ("false in two bytes", "f814", CborError::Simple { offset: 0, value: 20 }),
        ("text that is not UTF-8", "61ff", CborError::Utf8 { offset: 0 }),
        ("surrogate in text", "63eda080", CborError::Utf8 { offset: 0 }),
        ("overlong UTF-8", "62c080", CborError::Utf8 { offset: 0 }),
        ("a second item", "0000", CborError::Trailing { offset: 1, extra: 1 }),
        (
            "bytes longer than the input",
            "5affffffff00",
            truncated(0, 0xffff_ffff, 1),
        ),
        ("bytes of 2^64 - 1", "5bffffffffffffffff", truncated(0, u64::MAX, 0)),
        ("array of 2^64 - 1", "9bffffffffffffffff", truncated(0, u64::MAX, 0)),
        (
            "map whose doubled length overflows",
            "bbffffffffffffffff",
            truncated(0, u64::MAX, 0),
        ),
        ("map of 2^63", "bb8000000000000000", truncated(0, u64::MAX, 0)),
        ("tag without an item", "c1", truncated(0, 1, 0)),
        (
            "five arrays deep",
            "8181818180",
            CborError::TooDeep { limit: 4, offset: 4 },
        ),
        (
            "five tags deep",
            "c1c1c1c1c100",
            CborError::TooDeep { limit: 4, offset: 4 },
        ),
        (
            "five maps deep in values",
            "a100a100a100a100a0",
            CborError::TooDeep { limit: 4, offset: 8 },
        ),
    ];
    for (name, hex, expected) in rows {
        assert_eq!(cbor::decode(&bytes(hex), SMALL), Err(expected), "{name}");
        assert_eq!(cbor::gate(&bytes(hex), SMALL), Err(expected), "{name}");
    }
}

#[test]
fn limits_hold_exactly() {
    let array = |n: usize| cbor::encode(&Value::array((0..n).map(|_| Value::Null)));
    assert!(cbor::decode(&array(31), SMALL).is_ok());
    let over = cbor::decode(&array(32), SMALL);
    assert_eq!(over, Err(CborError::TooManyItems { limit: 32, offset: 0 }));
    // A map entry is two items: 15 entries and the map itself are 31.
    let map = |n: i64| cbor::encode(&Value::map((0..n).map(|k| (k, Value::Null))));
    assert!(cbor::decode(&map(15), SMALL).is_ok());
    assert_eq!(
        cbor::decode(&map(16), SMALL),
        Err(CborError::TooManyItems { limit: 32, offset: 0 })
    );
    let string = |n: usize| cbor::encode(&Value::bytes(vec![0; n]));
    assert!(cbor::decode(&string(1021), SMALL).is_ok());
    let over = cbor::decode(&string(1022), SMALL);
    assert_eq!(
        over,
        Err(CborError::TooLarge {
            limit: 1024,
            found: 1025
        })
    );
    assert!(cbor::decode(&bytes("81818180"), SMALL).is_ok());
    assert_eq!(over.map_err(|e| e.code()), Err(Code::CborLimit));
}

#[test]
fn announced_items_count_before_they_are_there() {
    // Every array announces as much as the input could still hold: the sum is refused, not set aside.
    let limits = Limits {
        max_bytes: 1 << 20,
        max_depth: 64,
        max_items: 1000,
    };
    let mut nested = Vec::new();
    for _ in 0..4 {
        nested.extend_from_slice(&bytes("990190"));
    }
    nested.resize(100_000, 0);
    let refused = cbor::decode(&nested, limits);
    assert_eq!(refused, Err(CborError::TooManyItems { limit: 1000, offset: 6 }));
}

#[test]
fn map_keys_are_put_in_bytewise_order_of_their_encoding() {
    // The example of RFC 8949 section 4.2.1: 10, 100, -1, "z", "aa", [100], [-1], false.
    let keys = [
        Value::Bool(false),
        Value::array([Value::int(-1)]),
        Value::array([Value::int(100)]),
        Value::text("aa"),
        Value::text("z"),
        Value::int(-1),
        Value::int(100),
        Value::int(10),
    ];
    let encoded = cbor::encode(&Value::Map(keys.into_iter().map(|k| (k, Value::Null)).collect()));
    assert_eq!(
        hex::encode(&encoded),
        "a80af61864f620f6617af6626161f6811864f68120f6f4f6"
    );
    assert!(cbor::decode(&encoded, SMALL).is_ok());
}

#[test]
fn lenient_order_forgives_order_and_nothing_else() {
    let lenient = |hex| cbor::decode_lenient_order(&bytes(hex), SMALL);
    assert!(lenient("a203000100").is_ok());
    assert_eq!(lenient("a3030001000300"), Err(CborError::DuplicateKey { offset: 5 }));
    assert_eq!(
        lenient("a21803000100"),
        Err(CborError::NotShortest { offset: 1, value: 3 })
    );
    assert_eq!(lenient("bf0000ff"), Err(CborError::Indefinite { offset: 0 }));
}

#[test]
fn a_map_built_with_a_key_twice_cannot_be_read_back() {
    let twice = Value::map([(1, Value::Null), (2, Value::Null), (1, Value::Bool(true))]);
    let refused = cbor::decode(&cbor::encode(&twice), SMALL);
    assert_eq!(refused, Err(CborError::DuplicateKey { offset: 3 }));
}

#[test]
fn the_reader_wants_every_key_and_no_other() {
    let map = || Value::map([(1, Value::bytes([7; 4])), (2, Value::text("ab")), (-3, Value::int(-5))]);
    let reader = || MapReader::new(map(), "thing").expect("map");

    let mut all = reader();
    assert_eq!(all.fixed::<4>(1), Ok([7; 4]));
    assert_eq!(all.text(2, 2), Ok("ab".to_owned()));
    assert_eq!(all.i64(-3), Ok(-5));
    assert_eq!(all.optional(9), None);
    assert_eq!(all.finish(), Ok(()));

    let shown = |e: touchstone_cose::cbor::ShapeError| e.to_string();
    assert_eq!(
        reader().u64(9).map_err(shown),
        Err("thing: key 9: expected a value, found nothing".into())
    );
    assert_eq!(
        reader().u64(-3).map_err(shown),
        Err("thing: key -3: expected non-negative integer, found integer -5".into())
    );
    assert_eq!(
        reader().fixed::<5>(1).map_err(shown),
        Err("thing: key 1: expected 5 bytes, found 4 bytes".into())
    );
    assert_eq!(
        reader().text(2, 1).map_err(shown),
        Err("thing: key 2: expected text of at most 1 bytes, found text of 2 bytes".into())
    );
    assert_eq!(
        reader().finish().map_err(shown),
        Err("thing: key 1: expected no such key, found 4 bytes".into())
    );
    assert_eq!(reader().array(1).map_err(|e| e.code()), Err(Code::ShapeMismatch));
    assert_eq!(
        MapReader::new(Value::Null, "thing").map(|_| ()).map_err(shown),
        Err("thing: value: expected map, found null".into())
    );
}

/// Values whose maps have distinct keys, at most four deep.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<u64>().prop_map(Value::Unsigned),
        any::<u64>().prop_map(Value::Negative),
        any::<i64>().prop_map(Value::int),
        (0_u64..30).prop_map(Value::Unsigned),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        "\\PC{0,12}".prop_map(Value::Text),
        any::<bool>().prop_map(Value::Bool),
        Just(Value::Null),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            (any::<u64>(), inner.clone()).prop_map(|(t, v)| Value::tag(t, v)),
            proptest::collection::vec((inner.clone(), inner), 0..6).prop_map(|mut entries| {
                entries.sort_by_key(|(k, _)| cbor::encode(k));
                entries.dedup_by(|a, b| a.0 == b.0);
                Value::Map(entries)
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_decodes_to_the_same(value in value()) {
        let encoded = cbor::encode(&value);
        prop_assert_eq!(cbor::decode(&encoded, Limits::MESSAGE), Ok(value));
    }

    #[test]
    fn order_of_entries_does_not_matter(value in value()) {
        let mut shuffled = value.clone();
        if let Value::Map(entries) = &mut shuffled {
            entries.reverse();
        }
        prop_assert_eq!(cbor::encode(&shuffled), cbor::encode(&value));
    }

    #[test]
    fn whatever_is_accepted_encodes_to_the_same_bytes(input in proptest::collection::vec(any::<u8>(), 0..64)) {
        let decoded = cbor::decode(&input, SMALL);
        prop_assert_eq!(cbor::gate(&input, SMALL), decoded.clone().map(|_| ()));
        if let Ok(value) = decoded {
            prop_assert_eq!(cbor::encode(&value), input);
        }
    }

    #[test]
    fn one_changed_byte_is_refused_or_another_value(value in value(), at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let mut input = cbor::encode(&value);
        let at = at.index(input.len());
        input[at] ^= flip;
        let decoded = cbor::decode(&input, Limits::MESSAGE);
        prop_assert_eq!(cbor::gate(&input, Limits::MESSAGE), decoded.clone().map(|_| ()));
        if let Ok(other) = decoded {
            prop_assert_ne!(&other, &value);
            prop_assert_eq!(cbor::encode(&other), input);
        }
    }

    #[test]
    fn every_truncation_is_refused(value in value()) {
        let encoded = cbor::encode(&value);
        for end in 0..encoded.len() {
            prop_assert!(cbor::gate(&encoded[..end], Limits::MESSAGE).is_err());
        }
    }
}
