//! Azure's paravisor reports: genuine ones, and what an attacker makes of them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use touchstone_vectors::genuine;
use touchstone_verifier::hcl::{HardwareKind, HclError, HclReport};
use touchstone_verifier::snp::Report;
use touchstone_verifier::tpm::HashAlg;

const JSON: usize = 32 + 1184 + 20;

/// A report over this runtime data, with the hash in the place of SEV-SNP report data.
fn report(json: &str) -> Vec<u8> {
    let mut bytes = vec![0; JSON];
    bytes[..4].copy_from_slice(b"HCLA");
    let hash = HashAlg::Sha256.digest([json.as_bytes()]);
    bytes[32 + 0x50..32 + 0x50 + 32].copy_from_slice(hash.as_ref());
    for (index, word) in [json.len() + 20, 1, 2, 1, json.len()].into_iter().enumerate() {
        let at = 32 + 1184 + 4 * index;
        bytes[at..at + 4].copy_from_slice(&u32::try_from(word).unwrap().to_le_bytes());
    }
    bytes.extend_from_slice(json.as_bytes());
    bytes
}

fn key(kid: &str) -> String {
    let n = URL_SAFE_NO_PAD.encode([0xB5; 256]);
    format!(r#"{{"kid":"{kid}","key_ops":["sign"],"kty":"RSA","e":"AQAB","n":"{n}"}}"#)
}

fn data(bytes: &[u8]) -> [u8; 64] {
    bytes[32 + 0x50..32 + 0x90].try_into().unwrap()
}

#[test]
fn genuine_reports_name_the_key_their_hardware_signed() {
    let Some(dir) = genuine("azure") else { return };
    let bytes = std::fs::read(dir.join("hcl-report-snp.bin")).unwrap();
    let hcl = HclReport::parse(&bytes).unwrap();
    assert_eq!(hcl.kind(), HardwareKind::Snp);
    let hardware = Report::parse(hcl.hardware()).unwrap();
    assert!(hcl.is_bound_to(hardware.report_data().try_into().unwrap()));
    assert_eq!(hcl.configuration().unwrap().secure_boot, Some(true));
    let bytes = std::fs::read(dir.join("hcl-report-tdx.bin")).unwrap();
    let hcl = HclReport::parse(&bytes).unwrap();
    assert_eq!(
        (hcl.kind(), hcl.user_data().unwrap()),
        (HardwareKind::Tdx, &[0; 64][..])
    );
    assert!(hcl.is_bound_to(hcl.tdreport_data().unwrap().try_into().unwrap()));
}

#[test]
fn what_the_hardware_did_not_sign_counts_for_nothing() {
    let json = format!(r#"{{"keys":[{},{}]}}"#, key("HCLAkPub"), key("HCLEkPub"));
    let good = report(&json);
    assert!(HclReport::parse(&good).unwrap().is_bound_to(&data(&good)));
    // Any byte of the runtime data changed, and any byte behind the hash set.
    for offset in JSON..good.len() {
        let mut altered = good.clone();
        altered[offset] ^= 1;
        assert!(!HclReport::parse(&altered).is_ok_and(|hcl| hcl.is_bound_to(&data(&good))));
    }
    for at in 0..64 {
        let mut signed = data(&good);
        signed[at] ^= 1;
        assert!(
            !HclReport::parse(&good).unwrap().is_bound_to(&signed),
            "report data byte {at}"
        );
    }
}

#[test]
fn malformed_reports_are_refused_by_what_is_wrong() {
    let json = format!(r#"{{"keys":[{}]}}"#, key("HCLAkPub"));
    let good = report(&json);
    let at = |offset: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[offset] = value;
        bytes
    };
    let kinds = 32 + 1184;
    assert_eq!(HclReport::parse(&at(0, b'X')), Err(HclError::Magic));
    assert!(matches!(
        HclReport::parse(&at(kinds + 8, 3)),
        Err(HclError::Kind { found: 3, .. })
    ));
    for unknown in [0, 4, 255] {
        let refused = HclReport::parse(&at(kinds + 12, unknown)).map(drop);
        assert!(matches!(refused, Err(HclError::Kind { .. })), "hash type {unknown}");
    }
    assert!(matches!(
        HclReport::parse(&at(kinds + 19, 0xFF)),
        Err(HclError::Length { .. })
    ));
    for len in 0..good.len() {
        assert!(HclReport::parse(&good[..len]).is_err(), "cut to {len}");
    }
    let two = format!(r#"{{"keys":[{},{}]}}"#, key("HCLAkPub"), key("HCLAkPub"));
    for (attack, json) in [
        ("two attestation keys", two),
        ("none", format!(r#"{{"keys":[{}]}}"#, key("HCLEkPub"))),
        ("keys twice", format!(r#"{{"keys":[],"keys":[{}]}}"#, key("HCLAkPub"))),
        (
            "a kid twice",
            r#"{"keys":[{"kid":"x","kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":"AA"}]}"#.to_owned(),
        ),
        (
            "a short key",
            r#"{"keys":[{"kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":"tYVB"}]}"#.to_owned(),
        ),
        (
            "a symmetric key",
            r#"{"keys":[{"kid":"HCLAkPub","kty":"oct","k":"AA"}]}"#.to_owned(),
        ),
        ("no JSON", "keys".to_owned()),
        (
            "something behind it",
            format!(r#"{{"keys":[{}]}} {{}}"#, key("HCLAkPub")),
        ),
    ] {
        assert!(HclReport::parse(&report(&json)).is_err(), "{attack}");
    }
}

proptest! {
    #[test]
    fn hostile_bytes_are_read_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..2600)) {
        let _ = HclReport::parse(&bytes).map(|hcl| hcl.is_bound_to(&[0; 64]));
        if bytes.len() > 4 {
            bytes[..4].copy_from_slice(b"HCLA");
            let _ = HclReport::parse(&bytes).map(|hcl| hcl.is_bound_to(&[0; 64]));
        }
    }
}
