//! Revocation lists: one attack or rule a row.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::pki;

use pki::{EK_SERIAL, INTERMEDIATE_SERIAL, Maker, NOW};
use proptest::prelude::*;
use rcgen::{CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope, date_time_ymd};
use touchstone_verifier::anchors::{Purpose, TrustAnchors};
use touchstone_verifier::x509::{ChainRules, Crl, CrlError, CrlRule, Expiry, verify_ek_certificate};

/// 2026-12-31T00:00:00Z, the nextUpdate of the lists made here.
const NEXT_UPDATE: i64 = 1_798_675_200;

fn anchors(maker: &Maker, crls: &[Vec<u8>]) -> Result<TrustAnchors, CrlError> {
    let anchors = TrustAnchors::new([(Purpose::Ek, maker.root.as_der())]).unwrap();
    let intermediates = [(Purpose::Ek, maker.intermediate.as_der())];
    let anchors = anchors.with_intermediates(intermediates).unwrap();
    crls.iter().try_fold(anchors, |anchors, crl| anchors.with_crl(crl))
}

fn judge(maker: &Maker, crls: &[Vec<u8>], rule: CrlRule, now: i64) -> Result<(i64, bool), &'static str> {
    let rules = ChainRules {
        expiry: Expiry::Deny,
        crl: rule,
    };
    let anchors = anchors(maker, crls).unwrap();
    let result = verify_ek_certificate(&maker.ek(|_| {}), &[], anchors.store(Purpose::Ek), now, rules);
    result
        .map(|v| (v.chain().not_after, v.chain().revocation_checked))
        .map_err(|e| e.code().as_str())
}

#[test]
fn lists_row_by_row() {
    use CrlRule::{Required, WhenPresent};
    let maker = Maker::new();
    let clean = maker.crl(false, &[1, 2, 3], |_| {});
    let root_clean = maker.crl(true, &[], |_| {});
    let revoked = maker.crl(false, &[5, EK_SERIAL], |_| {});
    let older_revoked = maker.crl(false, &[EK_SERIAL], |p| p.this_update = date_time_ymd(2025, 1, 1));
    let stale = maker.crl(false, &[], |p| p.next_update = date_time_ymd(2026, 5, 31));
    let future = maker.crl(false, &[], |p| p.this_update = date_time_ymd(2026, 7, 1));
    let ca_revoked = maker.crl(true, &[INTERMEDIATE_SERIAL], |_| {});
    let same_serial_of_root = maker.crl(true, &[EK_SERIAL], |_| {});
    type Row<'a> = (&'a str, Vec<&'a Vec<u8>>, CrlRule, Result<bool, &'a str>);
    let rows: Vec<Row<'_>> = vec![
        ("no list, when present", vec![], WhenPresent, Ok(false)),
        ("no list, required", vec![], Required, Err("certificate-crl-missing")),
        ("a clean list", vec![&clean], Required, Ok(true)),
        (
            "the root's list alone",
            vec![&root_clean],
            Required,
            Err("certificate-crl-missing"),
        ),
        ("both", vec![&clean, &root_clean], Required, Ok(true)),
        ("revoked", vec![&revoked], WhenPresent, Err("ek-certificate-revoked")),
        (
            "revoked, required",
            vec![&revoked],
            Required,
            Err("ek-certificate-revoked"),
        ),
        (
            "the intermediate is revoked",
            vec![&clean, &ca_revoked],
            WhenPresent,
            Err("ek-certificate-revoked"),
        ),
        (
            "another CA's list names the serial number",
            vec![&same_serial_of_root],
            WhenPresent,
            Ok(false),
        ),
        (
            "the list has ended",
            vec![&stale],
            WhenPresent,
            Err("certificate-crl-not-current"),
        ),
        (
            "the list has ended, required",
            vec![&stale],
            Required,
            Err("certificate-crl-not-current"),
        ),
        (
            "the list has not begun",
            vec![&future],
            WhenPresent,
            Err("certificate-crl-not-current"),
        ),
        (
            "the newest list counts",
            vec![&older_revoked, &clean],
            WhenPresent,
            Ok(true),
        ),
        (
            "the newest list counts, revoked",
            vec![&clean, &revoked, &stale],
            WhenPresent,
            Err("ek-certificate-revoked"),
        ),
    ];
    for (rule, crls, setting, expected) in rows {
        let crls: Vec<Vec<u8>> = crls.into_iter().cloned().collect();
        // Of lists of one date the order must not matter where one revokes.
        if rule == "the newest list counts, revoked" {
            let newer = maker.crl(false, &[EK_SERIAL], |p| p.this_update = date_time_ymd(2026, 3, 1));
            let result = judge(&maker, &[clean.clone(), newer], setting, NOW);
            assert_eq!(result.map(|(_, checked)| checked), expected, "{rule}");
            continue;
        }
        let result = judge(&maker, &crls, setting, NOW);
        assert_eq!(result.map(|(_, checked)| checked), expected, "{rule}");
    }
}

#[test]
fn the_end_of_a_list_ends_the_result() {
    let maker = Maker::new();
    let clean = [maker.crl(false, &[], |_| {})];
    assert_eq!(
        judge(&maker, &clean, CrlRule::WhenPresent, NOW),
        Ok((NEXT_UPDATE, true))
    );
    assert!(judge(&maker, &clean, CrlRule::WhenPresent, NEXT_UPDATE).is_ok());
    let after = judge(&maker, &clean, CrlRule::WhenPresent, NEXT_UPDATE + 1);
    assert_eq!(after, Err("certificate-crl-not-current"));
    let (not_after, _) = judge(&maker, &[], CrlRule::WhenPresent, NOW).unwrap();
    assert!(not_after > NEXT_UPDATE);
}

#[test]
fn lists_of_others_are_not_taken() {
    let (maker, other) = (Maker::new(), Maker::new());
    let forged = other.crl(false, &[], |_| {});
    let error = anchors(&maker, std::slice::from_ref(&forged)).unwrap_err();
    assert!(
        matches!(error, CrlError::IssuerUnknown { .. } | CrlError::Signature { .. }),
        "{error}"
    );
    let mut altered = maker.crl(false, &[EK_SERIAL], |_| {});
    let at = altered.windows(3).position(|w| w == [0xA1, 0xB2, 0xC3]).unwrap();
    altered[at] = 0xA0;
    assert!(matches!(anchors(&maker, &[altered]), Err(CrlError::Signature { .. })));
    assert!(anchors(&maker, &[b"no list".to_vec()]).is_err());
}

#[test]
fn incomplete_lists_are_refused_by_name() {
    let maker = Maker::new();
    let partial = maker.crl(false, &[], |p| {
        p.issuing_distribution_point = Some(CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint {
                uris: vec!["http://example.com/crl".into()],
            },
            scope: Some(CrlScope::UserCertsOnly),
        });
    });
    let error = Crl::from_der(&partial).unwrap_err();
    assert!(error.to_string().contains("a partial list"), "{error}");
    // The same bytes with the extension's number made deltaCRLIndicator's (2.5.29.27): refused before any signature.
    let mut delta = partial;
    let at = delta
        .windows(5)
        .position(|w| w == [0x06, 0x03, 0x55, 0x1D, 28])
        .unwrap();
    delta[at + 4] = 27;
    assert!(Crl::from_der(&delta).unwrap_err().to_string().contains("a delta list"));
    delta[at + 4] = 99;
    assert!(matches!(Crl::from_der(&delta), Err(CrlError::Extension { .. })));
}

proptest! {
    #[test]
    fn hostile_bytes_make_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..300, with in any::<u8>()) {
        drop(Crl::from_der(&bytes));
        let mut changed = sample().to_vec();
        let at = at % changed.len();
        changed[at] = with;
        drop(Crl::from_der(&changed));
    }
}

fn sample() -> &'static [u8] {
    static SAMPLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    SAMPLE.get_or_init(|| Maker::new().crl(false, &[1, 2, EK_SERIAL], |_| {}))
}

#[test]
fn cut_lists_are_refused() {
    let list = sample();
    assert!(Crl::from_der(list).is_ok());
    for cut in 0..list.len() {
        assert!(Crl::from_der(&list[..cut]).is_err(), "{cut}");
    }
}
