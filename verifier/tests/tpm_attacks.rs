//! One row an attack, on quotes, selections and signatures. Forged structures are signed by a key in software, so that nothing but
//! the check under test can refuse them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::support;

use proptest::prelude::*;
use support::{AK_ATTRIBUTES, Attestation, SoftKey, boot_file, digest, lookup, selection, sized, values};
use touchstone_verifier::tpm::attest::{Attest, signed_bytes};
use touchstone_verifier::tpm::reader::{ReadError, Reader};
use touchstone_verifier::tpm::selection::SelectionError;
use touchstone_verifier::tpm::signature::{Signature, SignatureError};
use touchstone_verifier::tpm::{AttestationKey, HashAlg, PcrSelection, Public, TpmCode};

const BOOT_REGISTERS: &str = "sha256:0,1,2,3,4,5,6,7";

/// Codes of whatever a live check of this forged attestation says; empty if it passes.
fn judge(ak: &SoftKey, attestation: &Attestation, asked: &PcrSelection) -> Vec<&'static str> {
    let public = Public::parse(&ak.public(AK_ATTRIBUTES, &[], true)).unwrap();
    let key = AttestationKey::from(&public.check_ak().unwrap());
    let message = attestation.bytes();
    let signature = ak.sign(&message);
    match key.verify_quote(&message, &signature) {
        Err(e) => vec![e.code().as_str()],
        Ok(quote) => {
            let selection = &quote.info().selection;
            let mut codes = Vec::new();
            codes.extend(selection.must_equal(asked).err().map(|e| e.code().as_str()));
            codes.extend(selection.must_be_boot_registers().err().map(|e| e.code().as_str()));
            codes.extend(quote.check_values(lookup(&values())).err().map(|e| e.code().as_str()));
            codes
        }
    }
}

#[test]
fn forged_quotes_are_refused() {
    let ak = SoftKey::generate();
    let asked = selection(BOOT_REGISTERS);
    let honest = || Attestation::quote(&asked.to_tpml(), &digest(&asked));
    let quoted = |text: &str| {
        let selection = selection(text);
        Attestation::quote(&selection.to_tpml(), &digest(&selection))
    };
    let tpml = |entries: &[&[u8]]| [&(entries.len() as u32).to_be_bytes(), entries.concat().as_slice()].concat();
    let rows: [(&str, Attestation, &[&str]); 21] = [
        ("honest", honest(), &[]),
        (
            "wrong magic",
            Attestation {
                magic: 0xFF54_4348,
                ..honest()
            },
            &["tpm-attest-magic"],
        ),
        ("no magic", Attestation { magic: 0, ..honest() }, &["tpm-attest-magic"]),
        (
            "certify instead of quote",
            Attestation::certify(&[0; 34]),
            &["tpm-attest-type"],
        ),
        (
            "time instead of quote",
            Attestation {
                kind: 0x8019,
                ..honest()
            },
            &["tpm-attest-type"],
        ),
        (
            "creation instead of quote",
            Attestation {
                kind: 0x801A,
                ..honest()
            },
            &["tpm-attest-type"],
        ),
        (
            "NV instead of quote",
            Attestation {
                kind: 0x8014,
                ..honest()
            },
            &["tpm-attest-type"],
        ),
        (
            "NV digest instead of quote",
            Attestation {
                kind: 0x801C,
                ..honest()
            },
            &["tpm-attest-type"],
        ),
        (
            "session audit instead of quote",
            Attestation {
                kind: 0x8016,
                ..honest()
            },
            &["tpm-attest-type"],
        ),
        (
            "command audit instead of quote",
            Attestation {
                kind: 0x8015,
                ..honest()
            },
            &["tpm-attest-type"],
        ),
        (
            "quote type, certify contents",
            Attestation {
                kind: 0x8018,
                ..Attestation::certify(&[0; 34])
            },
            &["pcr-selection-malformed"],
        ),
        (
            "other registers",
            quoted("sha256:0,1,2,3,4,5,6,8"),
            &["pcr-selection-mismatch"],
        ),
        ("fewer registers", quoted("sha256:0,1,2,3"), &["pcr-selection-mismatch"]),
        (
            "more registers",
            quoted("sha256:0,1,2,3,4,5,6,7,8"),
            &["pcr-selection-mismatch"],
        ),
        (
            "no registers",
            Attestation::quote(&tpml(&[]), &[0; 32]),
            &["pcr-selection-mismatch", "pcr-digest-mismatch"],
        ),
        (
            "other bank",
            quoted("sha1:0,1,2,3,4,5,6,7"),
            &["pcr-selection-mismatch"],
        ),
        (
            "another bank besides",
            quoted("sha256:0,1,2,3,4,5,6,7+sha1:0"),
            &["pcr-selection-mismatch"],
        ),
        (
            "resettable register in place",
            quoted("sha256:0,1,2,3,4,5,6,16"),
            &["pcr-selection-mismatch", "pcr-register-resettable"],
        ),
        (
            "one bank twice",
            Attestation::quote(&tpml(&[&[0, 0x0B, 3, 0x0F, 0, 0], &[0, 0x0B, 3, 0xF0, 0, 0]]), &[0; 32]),
            &["pcr-selection-malformed"],
        ),
        (
            "unknown bank",
            Attestation::quote(&tpml(&[&[0, 0x12, 3, 0xFF, 0, 0]]), &[0; 32]),
            &["tpm-hash-unsupported"],
        ),
        (
            "digest of other values",
            Attestation::quote(&asked.to_tpml(), &[9; 32]),
            &["pcr-digest-mismatch"],
        ),
    ];
    for (attack, attestation, expected) in rows {
        assert_eq!(judge(&ak, &attestation, &asked), expected, "{attack}");
    }
}

/// The digest depends on the order of banks: a selection in another order is another selection.
#[test]
fn order_of_banks_must_be_as_asked() {
    let ak = SoftKey::generate();
    let (asked, other) = (selection("sha1:0,1+sha256:0,1"), selection("sha256:0,1+sha1:0,1"));
    assert_ne!(digest(&asked), digest(&other));
    let same = Attestation::quote(&asked.to_tpml(), &digest(&asked));
    assert_eq!(judge(&ak, &same, &asked), [""; 0]);
    let swapped = Attestation::quote(&other.to_tpml(), &digest(&other));
    assert_eq!(judge(&ak, &swapped, &asked), ["pcr-selection-mismatch"]);
    assert!(!asked.eq(&other) && asked.covers(&other) && other.covers(&asked));
}

#[test]
fn an_empty_question_is_never_answered() {
    let empty = PcrSelection::default();
    assert!(empty.must_equal(&empty).is_err());
    assert!(selection(BOOT_REGISTERS).must_cover(&empty).is_err());
    assert!(selection("sha256:").must_equal(&selection("sha256:")).is_err());
}

#[test]
fn offline_a_quote_may_hold_more() {
    let quoted = selection("sha1:0+sha256:0,1,2,3,7,10");
    assert_eq!(quoted.must_cover(&selection("sha256:0,7")), Ok(()));
    for required in ["sha256:0,4", "sha384:0", "sha1:0,1"] {
        assert_eq!(
            quoted.must_cover(&selection(required)).unwrap_err().code(),
            TpmCode::SelectionMissing,
            "{required}"
        );
    }
}

/// standards.md F 14: the digest in a quote is made with the hash of the signing scheme, not that of the bank.
#[test]
fn pcr_digest_uses_the_hash_of_the_scheme() {
    let ak = SoftKey::generate();
    let asked = selection("sha1:0,1,2,3");
    let by_bank = asked.pcr_digest(HashAlg::Sha1, lookup(&values())).unwrap();
    let by_scheme = asked.pcr_digest(HashAlg::Sha256, lookup(&values())).unwrap();
    assert_eq!(
        judge(&ak, &Attestation::quote(&asked.to_tpml(), by_scheme.as_ref()), &asked),
        [""; 0]
    );
    let attestation = Attestation::quote(&asked.to_tpml(), by_bank.as_ref());
    assert_eq!(judge(&ak, &attestation, &asked), ["pcr-digest-mismatch"]);
}

#[test]
fn missing_or_misshapen_values_are_refused() {
    let asked = selection("sha256:0,1");
    let mut values = values();
    values.insert((HashAlg::Sha256, 1), vec![0; 20]);
    assert_eq!(
        asked.pcr_digest(HashAlg::Sha256, lookup(&values)).unwrap_err().code(),
        TpmCode::ValueMissing
    );
    values.remove(&(HashAlg::Sha256, 1));
    assert_eq!(
        asked.pcr_digest(HashAlg::Sha256, lookup(&values)).unwrap_err().code(),
        TpmCode::ValueMissing
    );
}

#[test]
fn signatures_of_another_shape_are_refused() {
    let ak = SoftKey::generate();
    let public = Public::parse(&ak.public(AK_ATTRIBUTES, &[], true)).unwrap();
    let key = AttestationKey::from(&public.check_ak().unwrap());
    let good = ak.sign(b"message");
    let (r, s) = (good[6..38].to_vec(), good[40..72].to_vec());
    let ecdsa = |hash: u8, r: &[u8], s: &[u8]| [&[0x00, 0x18, 0x00, hash][..], &sized(r), &sized(s)].concat();
    let order = touchstone_verifier::tpm::Curve::P256.order();
    let padded = |n: &[u8]| [&[0; 34][..], n].concat();
    let rows: [(&str, Vec<u8>, Option<&str>); 14] = [
        ("honest", good.clone(), None),
        ("zero-padded", ecdsa(0x0B, &padded(&r), &padded(&s)), None),
        (
            "SHA-384 instead of the key's SHA-256",
            ecdsa(0x0C, &r, &s),
            Some("tpm-signature-scheme"),
        ),
        (
            "SHA-1 instead of the key's SHA-256",
            ecdsa(0x04, &r, &s),
            Some("tpm-signature-scheme"),
        ),
        ("unknown hash", ecdsa(0x12, &r, &s), Some("tpm-hash-unsupported")),
        ("r zero", ecdsa(0x0B, &[0; 32], &s), Some("tpm-signature-invalid")),
        ("s zero", ecdsa(0x0B, &r, &[]), Some("tpm-signature-invalid")),
        ("r is the order", ecdsa(0x0B, order, &s), Some("tpm-signature-invalid")),
        (
            "s above the order",
            ecdsa(0x0B, &r, &[0xFF; 32]),
            Some("tpm-signature-invalid"),
        ),
        (
            "r wider than the field",
            ecdsa(0x0B, &[1; 33], &s),
            Some("tpm-signature-invalid"),
        ),
        (
            "r wider than any field",
            ecdsa(0x0B, &[0; 67], &s),
            Some("tpm-structure-malformed"),
        ),
        ("r and s swapped", ecdsa(0x0B, &s, &r), Some("tpm-signature-invalid")),
        (
            "RSASSA",
            [&[0, 0x14, 0, 0x0B][..], &sized(&[1; 256])].concat(),
            Some("tpm-signature-scheme"),
        ),
        (
            "ECDAA",
            [&[0, 0x1A, 0, 0x0B][..], &sized(&r), &sized(&s)].concat(),
            Some("tpm-signature-scheme"),
        ),
    ];
    for (attack, signature, expected) in rows {
        let found = key.verify(b"message", &signature).err().map(|e| e.code().as_str());
        assert_eq!(found, expected, "{attack}");
    }
    // Out of range is found before anything is computed with it, and named.
    for (component, r, s) in [
        ("r", order, s.as_slice()),
        ("s", r.as_slice(), order),
        ("s", r.as_slice(), &[0; 32]),
    ] {
        let signature = ecdsa(0x0B, r, s);
        let error = Signature::parse(&signature)
            .unwrap()
            .to_fixed_width(key.key())
            .unwrap_err();
        assert_eq!(
            error,
            SignatureError::OutOfRange {
                component,
                curve: "P-256"
            }
        );
    }
    // r and s may come shorter than the field: fixed width again, same verdict.
    let short = loop {
        let signature = ak.sign(b"message");
        if signature[6] == 0 {
            break signature;
        }
    };
    let trimmed = ecdsa(0x0B, &short[7..38], &short[40..72]);
    assert_eq!(key.verify(b"message", &trimmed), Ok(()));
    let fixed = Signature::parse(&trimmed).unwrap().to_fixed_width(key.key()).unwrap();
    assert_eq!(fixed, [&short[6..38], &short[40..72]].concat());
}

/// SHA-1 signatures are read, so that the refusal can name them, and never verify, whatever the key says.
#[test]
fn sha1_signatures_never_verify() {
    let key = AttestationKey::without_attributes(
        Public::parse(&SoftKey::generate().public(AK_ATTRIBUTES, &[], true))
            .unwrap()
            .subject_key(),
    );
    let signature = [&[0, 0x18, 0, 0x04][..], &sized(&[1; 32]), &sized(&[1; 32])].concat();
    assert_eq!(key.verify(b"", &signature).unwrap_err().code(), TpmCode::HashWeak);
}

#[test]
fn oversized_everything_is_refused_at_once() {
    let huge = vec![0xFF; 1 << 20];
    assert!(Attest::parse(&huge).is_err());
    assert!(signed_bytes(&huge).is_err());
    assert!(Signature::parse(&huge).is_err());
    assert!(touchstone_verifier::x509::Certificate::from_der(&huge).is_err());
    let many_banks = [&u32::MAX.to_be_bytes()[..], &[0; 64]].concat();
    let error = PcrSelection::read(&mut Reader::new(&many_banks)).unwrap_err();
    assert!(
        matches!(error, SelectionError::Read(ReadError::OverLimit { .. })),
        "{error}"
    );
    for size in [0u8, 5, 255] {
        let bytes = [&[0, 0, 0, 1, 0, 0x0B, size][..], &[0; 255]].concat();
        assert!(
            PcrSelection::read(&mut Reader::new(&bytes)).is_err(),
            "sizeofSelect {size}"
        );
    }
}

/// A quote asked for over a challenge's selection is compared in the shape the wire has.
#[test]
fn wire_selections_are_strict() {
    let wire = vec![(0x000B, vec![0, 1, 7]), (0x0004, vec![])];
    let parsed = PcrSelection::from_wire(&wire).unwrap();
    assert_eq!(parsed.to_wire(), wire);
    for bad in [
        vec![(0x000B, vec![0]), (0x000B, vec![1])],
        vec![(0x000B, vec![0, 0])],
        vec![(0x000B, vec![32])],
    ] {
        assert_eq!(
            PcrSelection::from_wire(&bad).unwrap_err().code(),
            TpmCode::SelectionMalformed,
            "{bad:?}"
        );
    }
    let unknown = PcrSelection::from_wire(&[(0x0012, vec![0])]).unwrap_err();
    assert_eq!(unknown.code(), TpmCode::HashUnsupported);
}

/// TPMs list every bank they could have (TPM Library Part 2, 10.9.7): what selects nothing says nothing.
#[test]
fn a_bank_of_which_nothing_is_selected_may_be_of_any_algorithm() {
    let read = |entries: &[&[u8]]| {
        let tpml = [&(entries.len() as u32).to_be_bytes()[..], &entries.concat()].concat();
        PcrSelection::read(&mut Reader::new(&tpml))
    };
    let sha256: &[u8] = &[0, 0x0B, 3, 0xFF, 0, 0];
    let plain = read(&[sha256]).unwrap();
    let sm3: &[u8] = &[0, 0x12, 3, 0, 0, 0];
    let sha3: [&[u8]; 3] = [&[0, 0x27, 3, 0, 0, 0], &[0, 0x28, 3, 0, 0, 0], &[0, 0x29, 3, 0, 0, 0]];
    assert_eq!(read(&[sm3, sha256, sha3[0], sha3[1], sha3[2]]).as_ref(), Ok(&plain));
    // A known bank of which nothing is selected was asked for, or was not.
    assert_ne!(read(&[sha256, &[0, 0x0C, 3, 0, 0, 0]]).as_ref(), Ok(&plain));
    for (row, entries, code) in [
        (
            "a register of SM3",
            vec![sha256, &[0, 0x12, 3, 0, 0, 1]],
            TpmCode::HashUnsupported,
        ),
        (
            "a register of SHA3-256",
            vec![&[0, 0x27, 1, 0x80][..]],
            TpmCode::HashUnsupported,
        ),
        ("no bitmap", vec![sha256, &[0, 0x12, 0]], TpmCode::StructureMalformed),
        (
            "a bitmap too long",
            vec![sha256, &[0, 0x12, 5, 0, 0, 0, 0, 0]],
            TpmCode::StructureMalformed,
        ),
        (
            "a bitmap cut short",
            vec![sha256, &[0, 0x12, 3, 0]],
            TpmCode::StructureMalformed,
        ),
        ("seventeen banks", vec![sm3; 17], TpmCode::StructureMalformed),
    ] {
        let error = read(&entries).unwrap_err();
        let found = if matches!(error, SelectionError::Read(_)) {
            TpmCode::StructureMalformed
        } else {
            error.code()
        };
        assert_eq!(found, code, "{row}: {error}");
    }
    assert_eq!(read(&[sm3; 16]).map(|selection| selection.is_empty()), Ok(true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn parsers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Attest::parse(&bytes);
        let _ = signed_bytes(&bytes);
        let _ = Signature::parse(&bytes);
        let _ = Public::from_tpm2b_or_tpmt(&bytes);
        let _ = touchstone_verifier::x509::Certificate::from_der(&bytes);
    }

    #[test]
    fn bent_structures_never_panic(at in 0usize..1100, value: u8, cut in 0usize..1100) {
        for file in ["quote-rsa/quote.msg", "quote-ecc/quote.sig", "ak-rsa.pub", "ek-ecc.pub", "ek-ecc-cert.der"] {
            let mut bytes = boot_file(&format!("good/{file}"));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(cut.max(at));
            let _ = Attest::parse(&bytes);
            let _ = Signature::parse(&bytes);
            if let Ok(public) = Public::from_tpm2b_or_tpmt(&bytes) {
                let _ = (public.check_ak().is_ok(), public.check_ek().is_ok(), public.to_spki_der());
            }
            let _ = touchstone_verifier::x509::Certificate::from_der(&bytes);
        }
    }

    #[test]
    fn selections_survive_writing_and_reading(masks in proptest::collection::vec(any::<u32>(), 0..=4)) {
        let banks = HashAlg::ALL.into_iter().zip(&masks).map(|(bank, mask)| {
            (bank, (0..32u8).filter(|i| mask >> i & 1 == 1).collect::<Vec<_>>())
        });
        let selection = PcrSelection::new(banks).unwrap();
        let tpml = selection.to_tpml();
        let mut reader = Reader::new(&tpml);
        prop_assert_eq!(&PcrSelection::read(&mut reader).unwrap(), &selection);
        prop_assert_eq!(reader.finish("TPML"), Ok(()));
        prop_assert_eq!(&PcrSelection::from_wire(&selection.to_wire()).unwrap(), &selection);
        prop_assert!(selection.covers(&selection));
    }
}
