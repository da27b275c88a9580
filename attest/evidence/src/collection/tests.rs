//! The envelope against everything that is none.

use super::*;

fn sample() -> Collection {
    let mut collection = Collection::bound();
    collection.insert(Label::TpmQuote, vec![1, 2, 3]).expect("new");
    collection.insert(Label::TpmAkPublic, vec![4]).expect("new");
    collection.insert(Label::FirmwareEventLog, vec![5; 300]).expect("new");
    collection
}

#[test]
fn round_trip() {
    assert_eq!(Collection::decode(&sample().encode()), Ok(sample()));
}

#[test]
fn the_manifest_covers_what_nothing_else_does() {
    let digest = |change: fn(&mut Collection)| {
        let mut collection = sample();
        change(&mut collection);
        collection.manifest_digest().expect("unique labels")
    };
    let base = digest(|_| {});
    let set = |label, bytes: &[u8]| {
        let mut collection = sample();
        collection.records.insert(label, bytes.to_vec());
        collection.manifest_digest().expect("unique labels")
    };
    assert_eq!(set(Label::TpmQuote, b"other"), base, "a quote signs the binder itself");
    assert_eq!(
        set(Label::FirmwareEventLog, b"other"),
        base,
        "a quoted register covers the log"
    );
    assert_ne!(set(Label::TpmAkPublic, b"other"), base, "nothing else covers the key");
    assert_ne!(set(Label::TpmEkPublic, b"added"), base, "a record cannot be added");
    assert_ne!(
        digest(|c| drop(c.records.remove(&Label::FirmwareEventLog))),
        base,
        "nor taken away"
    );
}

#[test]
fn hostile_envelopes() {
    let text = Value::text;
    let good = |label: Label| Value::array([text(label.media_type()), Value::bytes([1]), Value::Unsigned(4)]);
    let with = |entries: Vec<(Value, Value)>| cbor::encode(&Value::Map(entries));
    let profile = || (text(TYPE_KEY), text(BOUND_PROFILE));
    let with_map = || Value::Map(vec![profile()]);
    let pem = with(vec![
        (text(TYPE_KEY), text(UNBOUND_PROFILE)),
        (text("tpm/ak-pem"), good(Label::TpmAkPem)),
    ]);
    assert!(
        Collection::decode(&pem).is_ok(),
        "a key as PEM in unbound evidence is fine"
    );
    let rows: Vec<(&str, Vec<u8>, EnvelopeCode)> = vec![
        ("empty", vec![], EnvelopeCode::Unreadable),
        ("an array", cbor::encode(&Value::array([])), EnvelopeCode::Profile),
        (
            "no profile",
            with(vec![(text("tpm/quote"), good(Label::TpmQuote))]),
            EnvelopeCode::Profile,
        ),
        (
            "another profile",
            with(vec![(text(TYPE_KEY), text("tag:example,2026:x"))]),
            EnvelopeCode::Profile,
        ),
        (
            "an unknown record",
            with(vec![profile(), (text("tpm/quotes"), good(Label::TpmQuote))]),
            EnvelopeCode::Unknown,
        ),
        (
            "an integer label",
            with(vec![profile(), (Value::Unsigned(1), good(Label::TpmQuote))]),
            EnvelopeCode::Unknown,
        ),
        (
            "another media type",
            with(vec![profile(), (text("tpm/quote"), good(Label::TpmAkPublic))]),
            EnvelopeCode::Record,
        ),
        (
            "another indicator",
            with(vec![
                profile(),
                (
                    text("tpm/quote"),
                    Value::array([
                        text(Label::TpmQuote.media_type()),
                        Value::bytes([1]),
                        Value::Unsigned(8),
                    ]),
                ),
            ]),
            EnvelopeCode::Record,
        ),
        (
            "an empty record",
            with(vec![
                profile(),
                (
                    text("tpm/quote"),
                    Value::array([text(Label::TpmQuote.media_type()), Value::bytes([]), Value::Unsigned(4)]),
                ),
            ]),
            EnvelopeCode::Record,
        ),
        (
            "a record without indicator",
            with(vec![
                profile(),
                (
                    text("tpm/quote"),
                    Value::array([text(Label::TpmQuote.media_type()), Value::bytes([1])]),
                ),
            ]),
            EnvelopeCode::Record,
        ),
        (
            "a key as PEM in bound evidence",
            with(vec![profile(), (text("tpm/ak-pem"), good(Label::TpmAkPem))]),
            EnvelopeCode::Record,
        ),
        (
            "two forms of the attestation key",
            with(vec![
                (text(TYPE_KEY), text(UNBOUND_PROFILE)),
                (text("tpm/ak-pem"), good(Label::TpmAkPem)),
                (text("tpm/ak-public"), good(Label::TpmAkPublic)),
            ]),
            EnvelopeCode::Record,
        ),
        (
            "33 records",
            with(
                (0..33)
                    .map(|n| (Value::text(format!("r/{n}")), Value::Null))
                    .chain([profile()])
                    .collect(),
            ),
            EnvelopeCode::TooMany,
        ),
        (
            "a record twice",
            with(vec![
                profile(),
                (text("tpm/quote"), good(Label::TpmQuote)),
                (text("tpm/quote"), good(Label::TpmQuote)),
            ]),
            EnvelopeCode::Unreadable,
        ),
        (
            "a byte behind",
            [with(vec![profile()]), vec![0]].concat(),
            EnvelopeCode::Unreadable,
        ),
        (
            "a collection in a record",
            with(vec![profile(), (text("tpm/quote"), Value::array([with_map()]))]),
            EnvelopeCode::Unreadable,
        ),
        (
            "text for bytes",
            with(vec![profile(), (text("tpm/quote"), text("x"))]),
            EnvelopeCode::Record,
        ),
    ];
    for (name, bytes, code) in rows {
        assert_eq!(
            Collection::decode(&bytes).map_err(|error| error.code()),
            Err(code),
            "{name}"
        );
    }
}

#[test]
fn only_a_log_may_be_empty() {
    for label in Label::ALL.iter().copied().filter(|label| *label != Label::TpmAkPem) {
        let mut collection = Collection::bound();
        collection.insert(label, Vec::new()).unwrap();
        let read = Collection::decode(&collection.encode());
        assert_eq!(read.is_ok(), label.is_log(), "{label:?}");
    }
}

#[test]
fn each_record_has_its_own_limit() {
    let holding = |label: Label, length: usize| {
        let mut collection = Collection::bound();
        collection.insert(label, vec![0; length]).unwrap();
        Collection::decode(&collection.encode()).map_err(|error| error.code())
    };
    for label in Label::ALL.iter().copied().filter(|label| *label != Label::TpmAkPem) {
        assert!(holding(label, label.max_bytes()).is_ok(), "{label:?} at its limit");
        assert_eq!(
            holding(label, label.max_bytes() + 1),
            Err(EnvelopeCode::Record),
            "{label:?} over its limit"
        );
    }
    assert_eq!(holding(Label::ImaLog, MAX_BYTES), Err(EnvelopeCode::Unreadable));
}

#[test]
fn a_log_in_parts_has_the_manifest_of_the_whole() {
    let mut part = Collection::bound();
    part.insert(Label::TpmAkPublic, vec![1]).unwrap();
    part.insert(Label::ImaLog, vec![3]).unwrap();
    let mut whole = part.clone();
    whole.put_log(Label::ImaLog, vec![1, 2, 3]).unwrap();
    assert_eq!(whole.get(Label::ImaLog), Some(&[1, 2, 3][..]));
    assert_eq!(part.manifest_digest(), whole.manifest_digest());
    whole.put_log(Label::FirmwareEventLog, vec![4]).unwrap();
    assert_ne!(
        part.manifest_digest(),
        whole.manifest_digest(),
        "that there is a log is part of the manifest"
    );
    for label in Label::ALL.iter().copied().filter(|label| !label.is_log()) {
        assert_eq!(
            part.put_log(label, vec![1]).map_err(|error| error.code()),
            Err(EnvelopeCode::Record),
            "{label:?} in parts"
        );
    }
}

proptest::proptest! {
    #[test]
    fn what_is_accepted_has_one_encoding(cut in 0usize..400, flip in 0u8..=255) {
        let mut bytes = sample().encode();
        let at = cut % bytes.len();
        bytes[at] ^= flip;
        if let Ok(collection) = Collection::decode(&bytes) {
            proptest::prop_assert_eq!(collection.encode(), bytes);
        }
    }
}
