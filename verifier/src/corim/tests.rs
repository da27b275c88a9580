use touchstone_cose::key::SigningKey;

use super::*;
use crate::eventlog::EventType;
use crate::reason::AppraisalCode;
use crate::reference::{Found, QuotedRegister, ReferenceSet};

const NOW: i64 = 1_800_000_000;

fn reference(name: &str, value: u8) -> MachineReference {
    MachineReference {
        name: name.into(),
        banks: [(HashAlg::Sha256, values(value))].into(),
        ..MachineReference::default()
    }
}

fn values(value: u8) -> BankValues {
    BankValues {
        registers: [(0, vec![1; 32]), (8, vec![value; 32])].into(),
        events: vec![
            event(0, EventType::S_CRTM_VERSION, 1, "firmware version 1"),
            event(8, EventType::IPL, 2, "grub: linux /vmlinuz"),
            event(8, EventType(0x1234_5678), 3, ""),
        ],
    }
}

fn file(path: &str, digest: u8) -> FileDigest {
    FileDigest {
        algorithm: HashAlg::Sha256,
        digest: vec![digest; 32],
        path: path.into(),
    }
}

fn event(pcr: u8, event_type: EventType, digest: u8, description: &str) -> ReferenceEvent {
    ReferenceEvent {
        pcr,
        event_type,
        digest: vec![digest; 32],
        description: description.into(),
        data: None,
    }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

fn signer(name: &str, seed: u8) -> TrustedSigner {
    TrustedSigner {
        name: name.into(),
        key: key(seed).verifying_key(),
        not_after: None,
    }
}

fn signed(reference: &MachineReference) -> Vec<u8> {
    sign_corim(&reference.to_corim_unsigned().unwrap(), &key(1), "author", None).unwrap()
}

fn verify(bytes: &[u8]) -> Result<VerifiedCorim, CorimError> {
    UntrustedCorim::new(bytes).verify(&[signer("author", 1)], NOW)
}

#[test]
fn a_reference_survives_the_journey() {
    for (not_before, not_after) in [
        (None, None),
        (Some(NOW), None),
        (None, Some(NOW)),
        (Some(NOW - 9), Some(NOW + 9)),
    ] {
        let reference = MachineReference {
            not_before,
            not_after,
            ..reference("good", 7)
        };
        let verified = verify(&signed(&reference)).unwrap();
        assert_eq!(verified.references(), [reference]);
        assert_eq!(verified.signer(), "author");
    }
    assert_eq!(
        signed(&reference("good", 7)),
        signed(&reference("good", 7)),
        "deterministic"
    );
}

#[test]
fn what_is_not_signed_by_a_listed_signer_and_in_force_is_refused() {
    let good = reference("good", 7);
    let unsigned = good.to_corim_unsigned().unwrap();
    let sign = |seed, name: &str, not_after| sign_corim(&unsigned, &key(seed), name, not_after).unwrap();
    let expired = MachineReference {
        not_after: Some(NOW - 1),
        ..good.clone()
    };
    let early = MachineReference {
        not_before: Some(NOW + 1),
        ..good.clone()
    };
    let mut altered = signed(&good);
    let position = altered.len() - 100;
    altered[position] ^= 1;
    let mut weak = signed(&good);
    // Algorithm -19 (Ed25519) becomes -9 (ESP256): still the same key.
    let at = weak.windows(2).position(|pair| pair == [0x01, 0x32]).unwrap();
    weak[at + 1] = 0x28;
    let foreign = String::from_utf8_lossy(PROFILE.as_bytes()).replace("tpm-pcr", "xxx-pcr");
    let mut other_profile = unsigned.clone();
    let at = other_profile
        .windows(PROFILE.len())
        .position(|window| window == PROFILE.as_bytes())
        .unwrap();
    other_profile[at..at + PROFILE.len()].copy_from_slice(foreign.as_bytes());
    let other_profile = sign_corim(&other_profile, &key(1), "author", None).unwrap();
    let wrong_type = sign1::sign(
        &key(1),
        &Protected {
            typ: None,
            content_type: Some("application/cbor".into()),
            extra: vec![(label::CWT_CLAIMS, Value::map([(claim::ISS, Value::text("author"))]))],
        },
        &unsigned,
        &[],
    )
    .unwrap();
    for (attack, bytes, code) in [
        ("unsigned", unsigned.clone(), AppraisalCode::ReferenceUnsigned),
        (
            "signed by a stranger",
            sign(2, "author", None),
            AppraisalCode::ReferenceSignerUnknown,
        ),
        (
            "signed in another's name",
            sign(1, "someone", None),
            AppraisalCode::ReferenceSignerUnknown,
        ),
        (
            "signature expired",
            sign(1, "author", Some(NOW - 1)),
            AppraisalCode::ReferenceExpired,
        ),
        ("contents expired", signed(&expired), AppraisalCode::ReferenceExpired),
        ("not valid yet", signed(&early), AppraisalCode::ReferenceNotYetValid),
        ("altered", altered, AppraisalCode::ReferenceSignatureInvalid),
        ("another algorithm", weak, AppraisalCode::ReferenceAlgorithmWrong),
        ("another profile", other_profile, AppraisalCode::ReferenceProfileUnknown),
        ("another content type", wrong_type, AppraisalCode::ReferenceUnreadable),
        ("no CBOR", b"hello".to_vec(), AppraisalCode::ReferenceUnreadable),
        ("too large", vec![0; MAX_CORIM + 1], AppraisalCode::ReferenceUnreadable),
    ] {
        assert_eq!(verify(&bytes).map_err(|error| error.code()), Err(code), "{attack}");
    }
    // The last second still counts, and a signer's own end is the end of what it signed.
    assert_eq!(verify(&sign(1, "author", Some(NOW))).unwrap().not_after(), NOW);
    let ending = TrustedSigner {
        not_after: Some(NOW + 5),
        ..signer("author", 1)
    };
    let bytes = signed(&good);
    let verified = UntrustedCorim::new(&bytes)
        .verify(std::slice::from_ref(&ending), NOW)
        .unwrap();
    assert_eq!(verified.not_after(), NOW + 5);
    let error = UntrustedCorim::new(&bytes).verify(&[ending], NOW + 6).unwrap_err();
    assert_eq!(error.code(), AppraisalCode::ReferenceSignerExpired);
    assert_eq!(
        UntrustedCorim::new(&bytes).verify(&[], NOW).unwrap_err().code(),
        AppraisalCode::ReferenceSignerUnknown
    );
}

#[test]
fn a_reference_that_cannot_be_read_back_is_not_made() {
    let with = |bank, values| MachineReference {
        banks: [(bank, values)].into(),
        ..reference("good", 7)
    };
    let named = |name: &str| MachineReference {
        name: name.into(),
        ..reference("good", 7)
    };
    let sha256 = |values| with(HashAlg::Sha256, values);
    let registers = |pcr, len| BankValues {
        registers: [(pcr, vec![0; len])].into(),
        ..BankValues::default()
    };
    let events = |events| BankValues {
        events,
        ..BankValues::default()
    };
    let files = |files| MachineReference {
        files,
        ..reference("good", 7)
    };
    for (what, wrong) in [
        ("SHA-1", with(HashAlg::Sha1, registers(0, 20))),
        ("no name", named("")),
        ("a newline in the name", named("a\nb")),
        (
            "nothing",
            MachineReference {
                banks: Default::default(),
                ..named("good")
            },
        ),
        ("a bank without anything", sha256(BankValues::default())),
        ("register 24", sha256(registers(24, 32))),
        ("a short value", sha256(registers(0, 31))),
        ("another bank's value", sha256(registers(0, 48))),
        (
            "too many events",
            sha256(events(vec![event(0, EventType::IPL, 0, ""); 4097])),
        ),
        (
            "too long data",
            sha256(events(vec![ReferenceEvent {
                data: Some(vec![0; MAX_EVENT_REFERENCE_DATA + 1]),
                ..event(0, EventType::IPL, 0, "")
            }])),
        ),
        ("too many files", files(vec![file("/a", 1); MAX_REFERENCE_FILES + 1])),
        ("a file without a path", files(vec![file("", 1)])),
        ("a path too long", files(vec![file(&"a".repeat(MAX_FILE_PATH + 1), 1)])),
        (
            "a file by SHA-1",
            files(vec![FileDigest {
                algorithm: HashAlg::Sha1,
                digest: vec![1; 20],
                path: "/a".into(),
            }]),
        ),
        (
            "a file with a short digest",
            files(vec![FileDigest {
                digest: vec![1; 31],
                ..file("/a", 1)
            }]),
        ),
    ] {
        assert!(wrong.to_corim_unsigned().is_err(), "{what}");
    }
}

#[test]
fn banks_data_and_files_survive_the_journey() {
    let mut whole = reference("good", 7);
    whole.banks.get_mut(&HashAlg::Sha256).unwrap().events[1].data = Some(b"grub_cmd: linux /vmlinuz\0".to_vec());
    whole.banks.insert(
        HashAlg::Sha384,
        BankValues {
            registers: [(0, vec![3; 48])].into(),
            events: vec![ReferenceEvent {
                digest: vec![9; 48],
                data: Some(Vec::new()),
                ..event(0, EventType::IPL, 0, "x")
            }],
        },
    );
    // Two registers' events may alternate, as they do in a log.
    let alternating = [0, 8, 0].map(|pcr| ReferenceEvent {
        digest: vec![4; 64],
        ..event(pcr, EventType::IPL, 0, "")
    });
    whole.banks.insert(
        HashAlg::Sha512,
        BankValues {
            events: alternating.to_vec(),
            ..BankValues::default()
        },
    );
    whole.files = vec![
        file("/usr/bin/b", 1),
        FileDigest {
            algorithm: HashAlg::Sha512,
            digest: vec![2; 64],
            path: "/usr/bin/a".into(),
        },
        file("/usr/bin/b", 1),
    ];
    assert_eq!(verify(&signed(&whole)).unwrap().references(), [whole.clone()]);
    let files_only = MachineReference {
        banks: Default::default(),
        ..whole
    };
    assert_eq!(verify(&signed(&files_only)).unwrap().references(), [files_only]);
}

#[test]
fn references_are_found_whole_or_the_nearest_is_named() {
    let set = |references: &[MachineReference]| {
        ReferenceSet::new(references.iter().map(|r| verify(&signed(r)).unwrap()).collect())
    };
    let (a, b) = (reference("a", 7), reference("b", 8));
    let ending = MachineReference {
        not_after: Some(NOW + 5),
        ..reference("c", 9)
    };
    let mut other_firmware = reference("d", 10);
    other_firmware
        .banks
        .get_mut(&HashAlg::Sha256)
        .unwrap()
        .registers
        .insert(0, vec![2; 32]);
    let all = set(&[b.clone(), a.clone(), other_firmware.clone(), ending.clone()]);
    let (one, seven, eight, nine, other) = ([1; 32], [7; 32], [8; 32], [9; 32], [5; 32]);
    let quoted = |bank, registers: &[(u8, &[u8])], now| {
        let register = |&(pcr, value)| QuotedRegister {
            bank,
            pcr,
            value,
            identity: None,
        };
        all.find(&registers.iter().map(register).collect::<Vec<_>>(), now)
    };
    let find = |first: &[u8], second: &[u8], now| match quoted(HashAlg::Sha256, &[(0, first), (8, second)], now) {
        Found::Match(found) => format!("match {}", found.values.name),
        Found::OutOfForce(found) => format!("out of force {}", found.values.name),
        Found::Deselected(found) => format!("deselected {}", found.values.name),
        Found::Nearest(found) => format!("nearest {}", found.values.name),
        Found::Nothing => "nothing".into(),
    };
    assert_eq!(find(&one, &seven, NOW), "match a");
    assert_eq!(find(&one, &eight, NOW), "match b");
    assert_eq!(find(&one, &nine, NOW), "match c");
    assert_eq!(find(&one, &nine, NOW + 6), "out of force c");
    // Each value is in some reference, but no reference has both.
    assert_eq!(find(&[2; 32], &seven, NOW), "nearest a");
    assert_eq!(find(&other, &eight, NOW), "nearest b");
    assert_eq!(find(&other, &other, NOW), "nearest a");
    assert_eq!(quoted(HashAlg::Sha384, &[(0, &one)], NOW), Found::Nothing);
    // A register the reference does not state is no match.
    assert!(matches!(
        quoted(HashAlg::Sha256, &[(0, &one), (9, &one)], NOW),
        Found::Nearest(_)
    ));
    assert_eq!(
        all.digest(),
        set(&[ending, other_firmware, a, b.clone()]).digest(),
        "order does not matter"
    );
    assert_ne!(all.digest(), set(&[b]).digest());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

    #[test]
    fn no_altered_corim_is_verified(position in proptest::prelude::any::<proptest::sample::Index>(), bit in 0u8..8) {
        let mut bytes = signed(&reference("good", 7));
        let position = position.index(bytes.len());
        bytes[position] ^= 1 << bit;
        proptest::prop_assert!(verify(&bytes).is_err(), "byte {}", position);
    }
}
