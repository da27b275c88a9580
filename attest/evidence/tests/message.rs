//! The messages: golden bytes, round trips, and everything that is none of them.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use proptest::prelude::*;
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_cose::code::Code;
use touchstone_evidence::label::Label;
use touchstone_evidence::message::{
    Answer, Challenge, Hello, Identity, LogBytes, MAX_CERTIFICATE, MAX_HELLO, MAX_REASONS, MessageError, PROTOCOL,
    Submission, WireReason,
};

fn full() -> Identity {
    Identity::Full {
        ek_certificate: Some(vec![9]),
        ek_public: vec![8],
        ak_public: vec![7],
    }
}

fn cvm() -> Identity {
    Identity::Cvm {
        platform: "snp:".into(),
        guests: vec!["h:".into()],
    }
}

fn hello(identity: Identity) -> Hello {
    Hello {
        protocol: PROTOCOL.into(),
        identity,
        session_key: vec![1],
        receive_key: None,
        kinds: vec!["tpm".into()],
        boot: None,
    }
}

fn logs() -> LogBytes {
    LogBytes::from([(Label::ImaLog, 300), (Label::FirmwareEventLog, 9)])
}

fn challenge() -> Challenge {
    Challenge {
        session_id: [1; 16],
        nonce: [2; 32],
        selection: vec![(0x0b, vec![0, 7])],
        credential: Some((vec![3], vec![4])),
        known: logs(),
        session_key_registers: vec![(0x0b, vec![7])],
        broker_time_ms: 5,
        session_key_known: false,
    }
}

fn submission(activation: Option<[u8; 32]>) -> Submission {
    Submission {
        session_id: [7; 16],
        collection: vec![1, 2],
        activation,
        offsets: LogBytes::new(),
    }
}

fn answer(authorization: Option<Vec<u8>>) -> Answer {
    let reason = |code: &str| WireReason {
        code: code.into(),
        claim: "b".into(),
        expected: "c".into(),
        found: "d".into(),
    };
    Answer {
        allowed: authorization.is_some(),
        reasons: if authorization.is_some() {
            vec![]
        } else {
            vec![reason("a"), reason("z")]
        },
        ear: vec![1],
        statement: vec![2],
        receipt: vec![3],
        authorization,
        trust_state: vec![4],
        next_attestation_ms: 5,
        received_at_ms: 6,
    }
}

#[test]
fn golden_bytes() {
    let protocol = hex::encode(PROTOCOL);
    let known = format!(
        "82 8272{}09 8267{}19012c",
        hex::encode("firmware/event-log"),
        hex::encode("ima/log")
    );
    let this_boot = Hello {
        boot: Some([0xb0; 16]),
        ..hello(Identity::Known { ak_name: vec![6] })
    };
    let tail = Submission {
        offsets: logs(),
        ..submission(None)
    };
    let rows = [
        (
            hello(full()).encode(),
            format!(
                "a6 006c{protocol} 01a3004109014108024107 024101 03f6 048163{} 05f6",
                hex::encode("tpm")
            ),
        ),
        (
            hello(Identity::Known { ak_name: vec![6] }).encode(),
            format!(
                "a6 006c{protocol} 01a1034106 024101 03f6 048163{} 05f6",
                hex::encode("tpm")
            ),
        ),
        (
            hello(cvm()).encode(),
            format!(
                "a6 006c{protocol} 01a2046473 6e703a 058162683a 024101 03f6 048163{} 05f6",
                hex::encode("tpm")
            ),
        ),
        (
            this_boot.encode(),
            format!(
                "a6 006c{protocol} 01a1034106 024101 03f6 048163{} 0550{}",
                hex::encode("tpm"),
                "b0".repeat(16)
            ),
        ),
        (
            challenge().encode(),
            format!(
                "a8 0050{} 015820{} 0281820b820007 038241034104 04{known} 0581820b8107 0605 07f4",
                "01".repeat(16),
                "02".repeat(32)
            ),
        ),
        (
            submission(None).encode(),
            format!("a4 0050{} 01420102 02f6 0380", "07".repeat(16)),
        ),
        (
            tail.encode(),
            format!("a4 0050{} 01420102 02f6 03{known}", "07".repeat(16)),
        ),
        (
            answer(Some(vec![9])).encode(),
            "a9 0065616c6c6f77 0180 024101 034102 044103 054109 064104 0705 0806".to_owned(),
        ),
        (
            answer(None).encode(),
            "a9 006464656e79 0182846161616261636164 84617a616261636164 024101 034102 044103 05f6 064104 0705 0806"
                .to_owned(),
        ),
    ];
    for (bytes, expected) in rows {
        assert_eq!(hex::encode(bytes), expected.replace(' ', ""));
    }
}

#[test]
fn round_trips() {
    let bare = Identity::Full {
        ek_certificate: None,
        ek_public: vec![8],
        ak_public: vec![7],
    };
    for identity in [full(), bare, cvm(), Identity::Known { ak_name: vec![6] }] {
        for boot in [None, Some([1; 16])] {
            let hello = Hello {
                boot,
                ..hello(identity.clone())
            };
            assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        }
    }
    let plain = Challenge {
        credential: None,
        selection: vec![(0x0c, vec![23]), (0x0b, vec![0])],
        session_key_registers: vec![],
        known: LogBytes::new(),
        ..challenge()
    };
    for challenge in [challenge(), plain] {
        assert_eq!(Challenge::decode(&challenge.encode()), Ok(challenge));
    }
    for activation in [None, Some([1; 32])] {
        for offsets in [LogBytes::new(), logs()] {
            let submission = Submission {
                offsets,
                ..submission(activation)
            };
            assert_eq!(Submission::decode(&submission.encode()), Ok(submission));
        }
    }
    for authorization in [None, Some(vec![1])] {
        assert_eq!(
            Answer::decode(&answer(authorization.clone()).encode()),
            Ok(answer(authorization))
        );
    }
}

/// `message` with the value under `key` replaced, or taken away.
fn with(message: &[u8], key: i64, value: Option<Value>) -> Vec<u8> {
    let Ok(Value::Map(mut entries)) = cbor::decode(message, Limits::MESSAGE) else {
        panic!("a map")
    };
    entries.retain(|(k, _)| *k != Value::int(key));
    entries.extend(value.map(|v| (Value::int(key), v)));
    cbor::encode(&Value::Map(entries))
}

fn code<T>(decoded: Result<T, MessageError>) -> Option<Code> {
    decoded.err().map(|e| e.code())
}

#[test]
fn hostile_hellos() {
    let base = hello(full()).encode();
    let identity = |entries: Vec<(i64, Value)>| Some(Value::map(entries));
    let one = || Value::bytes([1]);
    let long = |n: usize| Value::bytes(vec![0; n]);
    let rows = [
        ("another protocol", 0, Some(Value::text("touchstone/2"))),
        ("protocol with more behind it", 0, Some(Value::text("touchstone/11"))),
        ("no protocol", 0, None),
        ("no identity", 1, None),
        ("an empty identity", 1, identity(vec![])),
        (
            "name and keys at once",
            1,
            identity(vec![(0, one()), (1, one()), (2, one()), (3, one())]),
        ),
        ("no attestation key", 1, identity(vec![(0, Value::Null), (1, one())])),
        (
            "an unknown part of the identity",
            1,
            identity(vec![(3, one()), (4, one())]),
        ),
        ("an empty name", 1, identity(vec![(3, Value::bytes([]))])),
        ("a name too long", 1, identity(vec![(3, long(67))])),
        (
            "a certificate too long",
            1,
            identity(vec![(0, long(MAX_CERTIFICATE + 1)), (1, one()), (2, one())]),
        ),
        (
            "a key too long",
            1,
            identity(vec![(0, Value::Null), (1, long(1025)), (2, one())]),
        ),
        (
            "a confidential VM and a name at once",
            1,
            identity(vec![(3, one()), (4, Value::text("snp:")), (5, Value::array([]))]),
        ),
        (
            "a confidential VM and keys at once",
            1,
            identity(vec![(1, one()), (4, Value::text("snp:")), (5, Value::array([]))]),
        ),
        ("a platform without guests", 1, identity(vec![(4, Value::text("snp:"))])),
        (
            "an empty platform",
            1,
            identity(vec![(4, Value::text("")), (5, Value::array([]))]),
        ),
        (
            "a platform too long",
            1,
            identity(vec![(4, Value::text("s".repeat(161))), (5, Value::array([]))]),
        ),
        (
            "five guests",
            1,
            identity(vec![
                (4, Value::text("snp:")),
                (5, Value::array((0..5).map(|_| Value::text("h:")))),
            ]),
        ),
        ("no session key", 2, None),
        ("session key null", 2, Some(Value::Null)),
        ("session key too long", 2, Some(long(257))),
        ("receive key absent, not null", 3, None),
        ("receive key as text", 3, Some(Value::text("k"))),
        ("no kind", 4, Some(Value::array([]))),
        ("nine kinds", 4, Some(Value::array((0..9).map(|_| Value::text("tpm"))))),
        ("an empty kind", 4, Some(Value::array([Value::text("")]))),
        ("a kind as a number", 4, Some(Value::array([Value::int(1)]))),
        ("boot id absent, not null", 5, None),
        ("a boot id of 15 bytes", 5, Some(Value::bytes([0; 15]))),
        ("a boot id as text", 5, Some(Value::text("0123456789abcdef"))),
        ("an unknown key", 6, Some(Value::Null)),
    ];
    for (name, key, value) in rows {
        assert_eq!(
            code(Hello::decode(&with(&base, key, value))),
            Some(Code::ShapeMismatch),
            "{name}"
        );
    }
    assert_eq!(
        code(Hello::decode(&vec![0; MAX_HELLO + 1])),
        Some(Code::CborLimit),
        "oversized"
    );
}

#[test]
fn hostile_challenges_and_submissions() {
    let base = challenge().encode();
    let selection = |banks: &[(i64, &[i64])]| {
        Some(Value::array(banks.iter().map(|(bank, registers)| {
            Value::array([
                Value::int(*bank),
                Value::array(registers.iter().map(|r| Value::int(*r))),
            ])
        })))
    };
    let rows = [
        ("session of 15 bytes", 0, Some(Value::bytes([0; 15]))),
        ("nonce of 31 bytes", 1, Some(Value::bytes([0; 31]))),
        ("no nonce", 1, None),
        ("a bank nobody knows", 2, selection(&[(0x10, &[0])])),
        ("a bank twice", 2, selection(&[(0x0b, &[0]), (0x0b, &[1])])),
        ("a bank without registers", 2, selection(&[(0x0b, &[])])),
        ("registers out of order", 2, selection(&[(0x0b, &[7, 0])])),
        ("a register twice", 2, selection(&[(0x0b, &[7, 7])])),
        ("register 24", 2, selection(&[(0x0b, &[24])])),
        ("register -1", 2, selection(&[(0x0b, &[-1])])),
        ("registers for the key out of order", 5, selection(&[(0x0b, &[7, 0])])),
        ("half a credential", 3, Some(Value::array([Value::bytes([1])]))),
        (
            "an empty half",
            3,
            Some(Value::array([Value::bytes([1]), Value::bytes([])])),
        ),
        (
            "a half too long",
            3,
            Some(Value::array([Value::bytes([1]), Value::bytes([0; 1025])])),
        ),
        ("known logs absent", 4, None),
        ("a length alone", 4, Some(Value::int(1))),
        ("time as text", 6, Some(Value::text("now"))),
        ("known as a number", 7, Some(Value::int(1))),
        ("an unknown key", 8, Some(Value::Null)),
    ];
    for (name, key, value) in rows {
        assert_eq!(
            code(Challenge::decode(&with(&base, key, value))),
            Some(Code::ShapeMismatch),
            "{name}"
        );
    }
    for (name, value) in hostile_logs() {
        let known = with(&base, 4, Some(value.clone()));
        assert_eq!(code(Challenge::decode(&known)), Some(Code::ShapeMismatch), "{name}");
        let offsets = with(&submission(None).encode(), 3, Some(value));
        assert_eq!(code(Submission::decode(&offsets)), Some(Code::ShapeMismatch), "{name}");
    }
    let base = submission(Some([1; 32])).encode();
    let rows = [
        ("session of 17 bytes", 0, Some(Value::bytes([0; 17]))),
        ("an empty collection", 1, Some(Value::bytes([]))),
        ("no collection", 1, None),
        ("activation of 31 bytes", 2, Some(Value::bytes([0; 31]))),
        ("activation absent, not null", 2, None),
        ("offsets absent", 3, None),
        ("offsets null", 3, Some(Value::Null)),
        ("an unknown key", 4, Some(Value::Null)),
    ];
    for (name, key, value) in rows {
        assert_eq!(
            code(Submission::decode(&with(&base, key, value))),
            Some(Code::ShapeMismatch),
            "{name}"
        );
    }
}

fn hostile_logs() -> Vec<(&'static str, Value)> {
    let entry = |label: &str, bytes: Value| Value::array([Value::text(label), bytes]);
    let (firmware, ima) = (Label::FirmwareEventLog.as_str(), Label::ImaLog.as_str());
    vec![
        ("no array", Value::Null),
        ("an entry that is no pair", Value::array([Value::text(ima)])),
        (
            "three parts",
            Value::array([Value::array([Value::text(ima), Value::int(1), Value::int(1)])]),
        ),
        (
            "a record that is no log",
            Value::array([entry("tpm/pcr-values", Value::int(1))]),
        ),
        ("a log nobody knows", Value::array([entry("ima/other", Value::int(1))])),
        ("a length of 0", Value::array([entry(ima, Value::int(0))])),
        ("a negative length", Value::array([entry(ima, Value::int(-1))])),
        ("a length as text", Value::array([entry(ima, Value::text("1"))])),
        (
            "a log twice",
            Value::array([entry(ima, Value::int(1)), entry(ima, Value::int(2))]),
        ),
        (
            "out of order",
            Value::array([entry(ima, Value::int(1)), entry(firmware, Value::int(1))]),
        ),
    ]
}

#[test]
fn hostile_answers() {
    let denied = answer(None).encode();
    let reason = || Value::array(["a", "b", "c", "d"].map(Value::text));
    let rows = [
        ("a third verdict", 0, Some(Value::text("maybe"))),
        ("verdict as a boolean", 0, Some(Value::Bool(true))),
        ("allowed without an authorization", 0, Some(Value::text("allow"))),
        ("denied with an authorization", 5, Some(Value::bytes([1]))),
        (
            "too many reasons",
            1,
            Some(Value::array((0..=MAX_REASONS).map(|_| reason()))),
        ),
        (
            "a reason of three texts",
            1,
            Some(Value::array([Value::array(["a", "b", "c"].map(Value::text))])),
        ),
        (
            "a reason too long",
            1,
            Some(Value::array([Value::array(
                ["a", "b", "c", &"d".repeat(1025)].map(Value::text),
            )])),
        ),
        ("no result", 2, None),
        ("an empty statement", 3, Some(Value::bytes([]))),
        ("a statement too long", 3, Some(Value::bytes(vec![0; 65_536]))),
        ("no receipt", 4, Some(Value::Null)),
        ("no trust state", 6, None),
        ("negative time", 8, Some(Value::int(-1))),
        ("an unknown key", 9, Some(Value::Null)),
    ];
    for (name, key, value) in rows {
        assert_eq!(
            code(Answer::decode(&with(&denied, key, value))),
            Some(Code::ShapeMismatch),
            "{name}"
        );
    }
    let most = Answer {
        reasons: vec![answer(None).reasons[0].clone(); MAX_REASONS],
        ..answer(None)
    };
    assert_eq!(Answer::decode(&most.encode()), Ok(most), "as many reasons as allowed");
}

#[test]
fn truncated_anywhere_is_refused() {
    let messages = [
        challenge().encode(),
        answer(None).encode(),
        hello(full()).encode(),
        submission(Some([1; 32])).encode(),
    ];
    for whole in messages {
        for length in 0..whole.len() {
            let cut = &whole[..length];
            assert!(Hello::decode(cut).is_err() && Challenge::decode(cut).is_err());
            assert!(Submission::decode(cut).is_err() && Answer::decode(cut).is_err());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(0u8.., 0..200)) {
        let _ = (Hello::decode(&bytes), Challenge::decode(&bytes), Submission::decode(&bytes), Answer::decode(&bytes));
    }

    #[test]
    fn what_is_accepted_has_one_encoding(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let change = |mut bytes: Vec<u8>| {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            bytes
        };
        let bytes = change(hello(full()).encode());
        if let Ok(message) = Hello::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
        let bytes = change(challenge().encode());
        if let Ok(message) = Challenge::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
        let bytes = change(submission(Some([1; 32])).encode());
        if let Ok(message) = Submission::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
        let bytes = change(answer(None).encode());
        if let Ok(message) = Answer::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }
}
