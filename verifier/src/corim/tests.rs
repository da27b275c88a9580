use touchstone_cose::key::SigningKey;

use super::*;
use crate::eventlog::EventType;
use crate::reason::AppraisalCode;
use crate::reference::{Found, ReferenceSet};

const NOW: i64 = 1_800_000_000;

fn reference(name: &str, value: u8) -> TpmReference {
    TpmReference {
        name: name.into(),
        bank: HashAlg::Sha256,
        registers: [(0, vec![1; 32]), (8, vec![value; 32])].into(),
        events: vec![
            event(0, EventType::S_CRTM_VERSION, 1, "firmware version 1"),
            event(8, EventType::IPL, 2, "grub: linux /vmlinuz"),
            event(8, EventType(0x1234_5678), 3, ""),
        ],
        not_before: None,
        not_after: None,
    }
}

fn event(pcr: u8, event_type: EventType, digest: u8, description: &str) -> ReferenceEvent {
    ReferenceEvent {
        pcr,
        event_type,
        digest: vec![digest; 32],
        description: description.into(),
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

fn signed(reference: &TpmReference) -> Vec<u8> {
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
        let reference = TpmReference {
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
    let expired = TpmReference {
        not_after: Some(NOW - 1),
        ..good.clone()
    };
    let early = TpmReference {
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
    let good = reference("good", 7);
    for (what, wrong) in [
        (
            "SHA-1",
            TpmReference {
                bank: HashAlg::Sha1,
                ..good.clone()
            },
        ),
        (
            "no name",
            TpmReference {
                name: String::new(),
                ..good.clone()
            },
        ),
        (
            "a newline in the name",
            TpmReference {
                name: "a\nb".into(),
                ..good.clone()
            },
        ),
        (
            "no register",
            TpmReference {
                registers: Default::default(),
                ..good.clone()
            },
        ),
        (
            "register 24",
            TpmReference {
                registers: [(24, vec![0; 32])].into(),
                ..good.clone()
            },
        ),
        (
            "a short value",
            TpmReference {
                registers: [(0, vec![0; 31])].into(),
                ..good.clone()
            },
        ),
        (
            "too many events",
            TpmReference {
                events: vec![event(0, EventType::IPL, 0, ""); 4097],
                ..good.clone()
            },
        ),
    ] {
        assert!(wrong.to_corim_unsigned().is_err(), "{what}");
    }
}

#[test]
fn references_are_found_whole_or_the_nearest_is_named() {
    let set = |references: &[TpmReference]| {
        ReferenceSet::new(references.iter().map(|r| verify(&signed(r)).unwrap()).collect())
    };
    let (a, b) = (reference("a", 7), reference("b", 8));
    let ending = TpmReference {
        not_after: Some(NOW + 5),
        ..reference("c", 9)
    };
    let other_firmware = TpmReference {
        registers: [(0, vec![2; 32]), (8, vec![10; 32])].into(),
        ..reference("d", 10)
    };
    let all = set(&[b.clone(), a.clone(), other_firmware.clone(), ending.clone()]);
    let (one, seven, eight, nine, other) = ([1; 32], [7; 32], [8; 32], [9; 32], [5; 32]);
    let find = |first: &[u8], second: &[u8], now| match all.find(HashAlg::Sha256, &[(0, first), (8, second)], now) {
        Found::Match(found) => format!("match {}", found.values.name),
        Found::OutOfForce(found) => format!("out of force {}", found.values.name),
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
    assert_eq!(all.find(HashAlg::Sha384, &[(0, &one)], NOW), Found::Nothing);
    // A register the reference does not state is no match.
    assert!(matches!(
        all.find(HashAlg::Sha256, &[(0, &one), (9, &one)], NOW),
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
