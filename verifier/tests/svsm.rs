//! Manifests of secure VM service modules, as they should be and as an attacker makes them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use aws_lc_rs::digest::{SHA512, digest};
use proptest::prelude::*;
use touchstone_verifier::svsm::{Manifest, SERVICES, SvsmError, VTPM};
use touchstone_verifier::tpm::Public;

/// The public area of an endorsement key by the default template, as a TPM gives it.
fn endorsement_key() -> Vec<u8> {
    let bytes = include_bytes!("../../swtpm-tests/boots/good/ek-rsa.pub");
    Public::from_tpm2b_or_tpmt(bytes).unwrap().as_bytes().to_vec()
}

/// A manifest of several services.
fn services(list: &[([u8; 16], &[u8])]) -> Vec<u8> {
    let mut offset = 24 + 24 * list.len();
    let total = offset + list.iter().map(|(_, data)| data.len()).sum::<usize>();
    let word = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let mut bytes = SERVICES.to_vec();
    bytes.extend(word(total));
    bytes.extend(word(list.len()));
    for (guid, data) in list {
        bytes.extend(guid);
        bytes.extend(word(offset));
        bytes.extend(word(data.len()));
        offset += data.len();
    }
    list.iter().for_each(|(_, data)| bytes.extend(*data));
    bytes
}

#[test]
fn the_guids_are_those_of_the_specification() {
    // 63849ebb-3d92-4670-a1ff-58f9c94b87bb and c476f1eb-0123-45a5-9641-b4e7dde5bfe3: the first three groups turned round.
    for (guid, text) in [
        (SERVICES, "63849ebb-3d92-4670-a1ff-58f9c94b87bb"),
        (VTPM, "c476f1eb-0123-45a5-9641-b4e7dde5bfe3"),
    ] {
        let mut bytes = hex::decode(text.replace('-', "")).unwrap();
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        assert_eq!(guid.as_slice(), bytes, "{text}");
    }
}

#[test]
fn both_forms_of_a_manifest_name_the_key() {
    let key = endorsement_key();
    let alone = Manifest::parse(&key).unwrap();
    assert_eq!(alone.endorsement_key().as_bytes(), key);
    let several = services(&[([7; 16], b"something"), (VTPM, &key)]);
    let manifest = Manifest::parse(&several).unwrap();
    assert_eq!(manifest.endorsement_key().as_bytes(), key);
    // The report covers the whole manifest that was asked for, and the nonce before it.
    let nonce = [3; 64];
    let expected = digest(&SHA512, &[&nonce[..], &several].concat());
    assert_eq!(manifest.report_data(&nonce).as_slice(), expected.as_ref());
    assert_ne!(manifest.report_data(&nonce), alone.report_data(&nonce));
    assert_ne!(manifest.report_data(&nonce), manifest.report_data(&[4; 64]));
}

#[test]
fn a_manifest_that_leaves_a_choice_is_refused() {
    let key = endorsement_key();
    let good = services(&[(VTPM, &key)]);
    let word = |at: usize, number: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    let restricted = include_bytes!("../../swtpm-tests/boots/good/ak-rsa.pub");
    let ak = Public::from_tpm2b_or_tpmt(restricted).unwrap();
    let rows: &[(&str, Vec<u8>)] = &[
        ("nothing", Vec::new()),
        ("no vTPM among the services", services(&[([7; 16], &key)])),
        ("two vTPMs", services(&[(VTPM, &key), (VTPM, &key)])),
        ("no service", services(&[])),
        ("a service that is no key", services(&[(VTPM, b"key")])),
        (
            "an attestation key in the endorsement key's place",
            ak.as_bytes().to_vec(),
        ),
        ("the same among services", services(&[(VTPM, ak.as_bytes())])),
        ("a longer length than there is", word(16, good.len() as u32 + 1)),
        ("a shorter length than there is", word(16, 24)),
        ("more services than there are", word(20, 2)),
        ("very many services", word(20, u32::MAX)),
        ("a service inside the list", word(40, 0)),
        ("a service past the end", word(40, good.len() as u32)),
        ("a length that wraps", word(44, u32::MAX)),
        ("something behind the key", [key.as_slice(), &[0]].concat()),
        ("far too much", vec![0; 17 << 10]),
    ];
    for (attack, bytes) in rows {
        assert!(Manifest::parse(bytes).is_err(), "{attack}");
    }
    assert_eq!(
        Manifest::parse(&services(&[(VTPM, &key), (VTPM, &key)])),
        Err(SvsmError::Services { found: 2 })
    );
    for len in 0..good.len() {
        assert!(Manifest::parse(&good[..len]).is_err(), "cut at {len}");
    }
}

proptest! {
    #[test]
    fn hostile_bytes_do_not_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), head in any::<bool>()) {
        if head {
            bytes.splice(0..0, SERVICES);
        }
        let _ = Manifest::parse(&bytes);
    }

    #[test]
    fn any_byte_of_a_manifest_counts(position in 0usize..1000, to in any::<u8>()) {
        let key = endorsement_key();
        let good = services(&[([7; 16], b"something"), (VTPM, &key)]);
        let mut altered = good.clone();
        let position = position % altered.len();
        altered[position] = to;
        if let Ok(manifest) = Manifest::parse(&altered) {
            let before = Manifest::parse(&good).unwrap();
            prop_assert_eq!(
                manifest.report_data(&[1; 64]) == before.report_data(&[1; 64]),
                altered == good
            );
        }
    }
}
