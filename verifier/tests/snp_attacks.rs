//! What an attacker does to SEV-SNP evidence, one attack a row, against a simulated platform whose root is trusted.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::simulated_snp;

use proptest::prelude::*;
use simulated_snp::{NOW, Platform, TCB, VekShape};
use touchstone_verifier::appraisal::ClaimValue;
use touchstone_verifier::reason::Reason;
use touchstone_verifier::snp::claims::{SETS, claims};
use touchstone_verifier::snp::{
    KnownVek, PackedFloor, Product, RawField, Report, SnpPolicy, SnpReference, Tcb, VekError, VerifiedReport,
    VerifiedVek, check, check_provider, check_report_data,
};
use touchstone_verifier::x509::{Certificate, CertificateStore, CrlRule};

const DATA: [u8; 64] = [0xDA; 64];

/// Codes of everything that speaks against `report`, in order.
fn codes(platform: &Platform, report: &[u8], policy: &SnpPolicy) -> Vec<&'static str> {
    let report = match Report::parse(report) {
        Ok(report) => report,
        Err(_) => return vec!["unreadable"],
    };
    let vek = VerifiedVek::verify(&platform.vek, &[], &platform.store(), NOW, CrlRule::WhenPresent).unwrap();
    let reasons: Vec<Reason> = match VerifiedReport::verify(report, &vek) {
        Ok(verified) => [
            check_report_data(&verified, &DATA).into_iter().collect(),
            check(&verified, policy).reasons,
            check_provider(&verified, policy).into_iter().collect(),
        ]
        .concat(),
        Err(reasons) => reasons,
    };
    reasons.iter().map(|reason| reason.code.as_str()).collect()
}

type Row = (&'static str, fn(&mut [u8]), &'static [&'static str]);

#[test]
fn a_report_that_says_what_it_should_not_is_refused_for_that() {
    let platform = Platform::new(&VekShape::default());
    let mut policy = SnpPolicy::default();
    policy
        .floors
        .insert(Product::Milan, Tcb::parse(TCB, Product::Milan).unwrap());
    policy.allow_smt = true;
    let rows: &[Row] = &[
        ("nothing changed", |_| {}, &[]),
        (
            "another challenge's report data",
            |b| b[0x50] ^= 1,
            &["snp-report-data-mismatch"],
        ),
        ("debugging", |b| b[0x0A] |= 1 << 3, &["snp-debug-enabled"]),
        ("a migration agent", |b| b[0x0A] |= 1 << 2, &["snp-migration-agent"]),
        ("VMPL 1", |b| b[0x30] = 1, &["snp-vmpl"]),
        ("VMPL 2^24", |b| b[0x33] = 1, &["snp-vmpl"]),
        ("no alias check", |b| b[0x40] = 0x05, &["snp-alias-check"]),
        (
            "version 2 with the alias bit set by the host",
            |b| {
                b[0] = 2;
                b[0x188..0x18B].fill(0);
            },
            &["snp-alias-check"],
        ),
        (
            "an older boot loader was committed, newer microcode",
            |b| {
                b[0x1E0] = 3;
                b[0x1E7] = 255;
            },
            &["snp-tcb-below-floor"],
        ),
        (
            "launched on an older SNP firmware",
            |b| b[0x1F6] = 23,
            &["snp-tcb-below-floor"],
        ),
        ("another chip", |b| b[0x1A0] ^= 1, &["snp-chip-mismatch"]),
        (
            "other reported versions than the key's",
            |b| b[0x180] = 3,
            &["snp-tcb-mismatch"],
        ),
        (
            "reported versions in Turin's layout",
            |b| b[0x183] = 4,
            &["snp-tcb-mismatch"],
        ),
        (
            "a processor of another line",
            |b| b[0x188] = 0x1A,
            &["snp-product-mismatch"],
        ),
        ("an unknown processor", |b| b[0x189] = 0x70, &["snp-product-mismatch"]),
        (
            "said to be signed by a VLEK",
            |b| b[0x48] = 1 << 2,
            &["snp-signing-key-mismatch"],
        ),
        (
            "said to be signed by nobody",
            |b| b[0x48] = 7 << 2,
            &["snp-signing-key-mismatch"],
        ),
        ("a reserved signing key", |b| b[0x48] = 3 << 2, &["unreadable"]),
        ("version 1", |b| b[0] = 1, &["unreadable"]),
        ("version 6", |b| b[0] = 6, &["unreadable"]),
        ("another signature algorithm", |b| b[0x34] = 2, &["unreadable"]),
        ("bit 17 of the policy clear", |b| b[0x0A] = 1, &["unreadable"]),
        ("a reserved policy bit", |b| b[0x0F] = 0x80, &["unreadable"]),
        ("a reserved flag", |b| b[0x48] = 1 << 5, &["unreadable"]),
        ("a reserved byte", |b| b[0x4C] = 1, &["unreadable"]),
        (
            "a reserved byte behind the processor",
            |b| b[0x18B] = 1,
            &["unreadable"],
        ),
        ("mitigations in version 3", |b| b[0x1F8] = 1, &["unreadable"]),
        (
            "a reserved byte before the signature",
            |b| b[0x29F] = 1,
            &["unreadable"],
        ),
    ];
    for (attack, change, expected) in rows {
        assert_eq!(
            codes(&platform, &platform.report(*change), &policy),
            *expected,
            "{attack}"
        );
    }
}

#[test]
fn a_report_altered_after_signing_is_refused() {
    let platform = Platform::new(&VekShape::default());
    let good = platform.report(|_| {});
    for offset in (0..0x2A0).chain(0x2A0..0x2A0 + 48).chain(0x2E8..0x2E8 + 48) {
        let mut altered = good.clone();
        altered[offset] ^= 0x40;
        assert_ne!(
            codes(&platform, &altered, &SnpPolicy::default()),
            [""; 0],
            "offset {offset:#x}"
        );
    }
    // Bits that are reserved and not looked at elsewhere are signed all the same.
    let mut altered = good.clone();
    altered[0x40] |= 1 << 6;
    assert_eq!(
        codes(&platform, &altered, &SnpPolicy::default()),
        ["snp-signature-invalid"]
    );
    for (attack, change) in [
        ("r of zero", (|b| b[0x2A0..0x2D0].fill(0)) as fn(&mut [u8])),
        ("s of zero", |b| b[0x2E8..0x318].fill(0)),
        ("r above the order", |b| b[0x2A0..0x2D0].fill(0xFF)),
        ("r longer than 48 bytes", |b| b[0x2D0] = 1),
        ("s longer than 48 bytes", |b| b[0x318] = 1),
    ] {
        let mut altered = good.clone();
        change(&mut altered);
        assert_eq!(
            codes(&platform, &altered, &SnpPolicy::default()),
            ["snp-signature-invalid"],
            "{attack}"
        );
    }
    for len in [0, 1, 0x29F, 0x49F] {
        assert_eq!(codes(&platform, &good[..len], &SnpPolicy::default()), ["unreadable"]);
    }
    assert_eq!(
        codes(&platform, &[&good[..], &[0]].concat(), &SnpPolicy::default()),
        ["unreadable"]
    );
}

#[test]
fn lists_of_chips_and_products_are_kept_to() {
    let platform = Platform::new(&VekShape::default());
    let good = platform.report(|_| {});
    let masked = platform.report(|b| b[0x1A0..0x1E0].fill(0));
    let chip = vec![0xC1; 64];
    let policy = SnpPolicy::default();
    let listed = SnpPolicy {
        allowed_chips: Some([chip.clone()].into()),
        ..policy.clone()
    };
    let unlisted = SnpPolicy {
        allowed_chips: Some([vec![9; 64]].into()),
        ..policy.clone()
    };
    let none = SnpPolicy {
        allowed_chips: Some([].into()),
        ..policy.clone()
    };
    let denied = SnpPolicy {
        denied_chips: [chip].into(),
        ..policy.clone()
    };
    let hidden = SnpPolicy {
        allow_masked_chips: true,
        ..listed.clone()
    };
    let turin = SnpPolicy {
        products: [Product::Turin].into(),
        ..policy.clone()
    };
    let quiet = SnpPolicy {
        allow_smt: false,
        ..policy.clone()
    };
    let mitigated = SnpPolicy {
        mitigations: 0b11,
        ..policy.clone()
    };
    for (what, report, policy, expected) in [
        ("listed", &good, &listed, &[][..]),
        ("not listed", &good, &unlisted, &["snp-chip-unlisted"]),
        ("an empty list is nobody", &good, &none, &["snp-chip-unlisted"]),
        ("masked", &masked, &policy, &["snp-chip-masked"]),
        ("masked, and that is allowed", &masked, &hidden, &[]),
        (
            "masked under a list without its key's chip",
            &masked,
            &unlisted,
            &["snp-chip-masked", "snp-chip-unlisted"],
        ),
        (
            "masked, but its key's chip is denied",
            &masked,
            &denied,
            &["snp-chip-denied", "snp-chip-masked"],
        ),
        ("denied", &good, &denied, &["snp-chip-denied"]),
        ("another product line", &good, &turin, &["snp-product-refused"]),
        ("multithreading", &good, &quiet, &["snp-platform-setting"]),
        ("no mitigation vectors", &good, &mitigated, &["snp-platform-setting"]),
    ] {
        assert_eq!(codes(&platform, report, policy), expected, "{what}");
    }
    let v5 = |launch: u8, current: u8| {
        platform.report(move |b| {
            b[0] = 5;
            b[0x1F8] = launch;
            b[0x200] = current;
        })
    };
    assert_eq!(codes(&platform, &v5(3, 7), &mitigated), [""; 0]);
    assert_eq!(codes(&platform, &v5(1, 7), &mitigated), ["snp-platform-setting"]);
    assert_eq!(codes(&platform, &v5(3, 2), &mitigated), ["snp-platform-setting"]);
}

#[test]
fn a_providers_key_counts_only_where_the_provider_is_named() {
    let shape = VekShape {
        issuer: "SEV-VLEK-Milan",
        chip: None,
        provider: Some("CN=cc-eu-west-1.amazonaws.com"),
        ..VekShape::default()
    };
    let platform = Platform::new(&shape);
    let report = platform.report(|b| b[0x48] = 1 << 2);
    let named = SnpPolicy {
        providers: ["CN=cc-eu-west-1.amazonaws.com".to_owned()].into(),
        ..SnpPolicy::default()
    };
    assert_eq!(codes(&platform, &report, &named), [""; 0]);
    assert_eq!(
        codes(&platform, &report, &SnpPolicy::default()),
        ["snp-provider-refused"]
    );
    let as_chip = platform.report(|_| {});
    assert_eq!(codes(&platform, &as_chip, &named), ["snp-signing-key-mismatch"]);
    // A provider's key never names a chip, so no list of chips is satisfied by it.
    let listed = SnpPolicy {
        allowed_chips: Some([vec![0xC1; 64]].into()),
        ..named
    };
    assert_eq!(codes(&platform, &report, &listed), ["snp-chip-unlisted"]);
}

/// AMD 57230 calls the chip's id an OCTET STRING. Certificates have its bare bytes, or it in DER.
#[test]
fn a_chip_id_in_der_is_the_same_chip() {
    let wrapped = |chip: &[u8]| VekShape {
        chip: Some([&[0x04, 64][..], chip].concat()),
        ..VekShape::default()
    };
    let platform = Platform::new(&wrapped(&[0xC1; 64]));
    let report = platform.report(|_| {});
    assert_eq!(codes(&platform, &report, &SnpPolicy::default()), [""; 0]);
    let listed = SnpPolicy {
        denied_chips: [vec![0xC1; 64]].into(),
        ..SnpPolicy::default()
    };
    assert_eq!(codes(&platform, &report, &listed), ["snp-chip-denied"]);
    let other = Platform::new(&wrapped(&[0xC2; 64]));
    let report = other.report(|_| {});
    assert_eq!(codes(&other, &report, &SnpPolicy::default()), ["snp-chip-mismatch"]);
}

#[test]
fn a_certificate_that_lacks_or_bends_what_amd_writes_is_refused() {
    let base = VekShape::default();
    let without = |index: u64| VekShape {
        versions: base.versions.iter().copied().filter(|(i, _)| *i != index).collect(),
        ..base.clone()
    };
    let fmc = VekShape {
        versions: [base.versions.clone(), vec![(9, 1)]].concat(),
        ..base.clone()
    };
    let reserved = VekShape {
        versions: base
            .versions
            .iter()
            .map(|(i, v)| (*i, if *i == 4 { 1 } else { *v }))
            .collect(),
        ..base.clone()
    };
    let rows: Vec<(&str, VekShape, &str)> = vec![
        ("no boot loader version", without(1), "extension"),
        ("no microcode version", without(8), "extension"),
        ("an FMC version on Milan", fmc, "extension"),
        ("a reserved version", reserved, "extension"),
        (
            "an unknown extension in the arc",
            VekShape {
                extra: vec![(7, vec![2, 1, 1])],
                ..base.clone()
            },
            "extension",
        ),
        (
            "no chip and no provider",
            VekShape {
                chip: None,
                ..base.clone()
            },
            "extension",
        ),
        (
            "chip and provider",
            VekShape {
                provider: Some("x"),
                ..base.clone()
            },
            "extension",
        ),
        (
            "a chip id of eight bytes on Milan",
            VekShape {
                chip: Some(vec![0xC1; 8]),
                ..base.clone()
            },
            "extension",
        ),
        (
            "a chip id in DER that says another length",
            VekShape {
                chip: Some([vec![0x04, 63], vec![0xC1; 64]].concat()),
                ..base.clone()
            },
            "extension",
        ),
        (
            "an unknown product",
            VekShape {
                product: "Venice",
                ..base.clone()
            },
            "extension",
        ),
        (
            "the authority of another product",
            VekShape {
                issuer: "SEV-Genoa",
                ..base.clone()
            },
            "issuer",
        ),
        (
            "the authority of providers' keys",
            VekShape {
                issuer: "SEV-VLEK-Milan",
                ..base.clone()
            },
            "issuer",
        ),
        (
            "an authority whose name only contains it",
            VekShape {
                issuer: "SEV-Milan-2",
                ..base.clone()
            },
            "issuer",
        ),
        (
            "expired",
            VekShape {
                expires: 2024,
                ..base.clone()
            },
            "chain",
        ),
    ];
    for (what, shape, expected) in rows {
        let platform = Platform::new(&shape);
        let found = match VerifiedVek::verify(&platform.vek, &[], &platform.store(), NOW, CrlRule::WhenPresent) {
            Err(VekError::Extension { .. }) => "extension",
            Err(VekError::Issuer { .. }) => "issuer",
            Err(VekError::Chain(_)) => "chain",
            other => panic!("{what}: {other:?}"),
        };
        assert_eq!(found, expected, "{what}");
    }
}

/// A whole chain of the attacker's own making, with every name right, leads to no anchor.
#[test]
fn a_self_made_chain_leads_nowhere() {
    let (ours, theirs) = (Platform::new(&VekShape::default()), Platform::new(&VekShape::default()));
    let offered =
        [&theirs.intermediate, &theirs.root].map(|der| touchstone_verifier::x509::Certificate::from_der(der).unwrap());
    let refused = VerifiedVek::verify(&theirs.vek, &offered, &ours.store(), NOW, CrlRule::WhenPresent);
    assert!(matches!(refused, Err(VekError::Chain(_))), "{refused:?}");
    let vek = VerifiedVek::verify(&ours.vek, &[], &ours.store(), NOW, CrlRule::WhenPresent).unwrap();
    let forged = theirs.report(|_| {});
    let reasons = VerifiedReport::verify(Report::parse(&forged).unwrap(), &vek).unwrap_err();
    assert_eq!(reasons[0].code.as_str(), "snp-signature-invalid");
}

proptest! {
    #[test]
    fn hostile_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
        let _ = Report::parse(&bytes).map(|report| report.signature().is_ok());
    }

    #[test]
    fn hostile_words_in_a_report_are_read_without_a_panic(offset in 0usize..0x4A0, value: u8) {
        let mut bytes = vec![0; 0x4A0];
        bytes[0] = 3;
        bytes[0x0A] = 3;
        bytes[0x34] = 1;
        bytes[offset] = value;
        let _ = Report::parse(&bytes).map(|report| report.signature().is_ok());
    }
}

/// A key that was verified before stands for verifying anew only where that would give the same answer.
#[test]
fn a_known_key_counts_only_under_the_same_anchors_certificates_and_time() {
    let platform = Platform::new(&VekShape::default());
    let (store, rule) = (platform.store(), CrlRule::WhenPresent);
    let vek = VerifiedVek::verify(&platform.vek, &[], &store, NOW, rule).unwrap();
    let end = vek.not_after();
    let known = KnownVek::new(vek, b"record", &store, rule, NOW);
    let get =
        |record: &[u8], vlek, store: &CertificateStore, rule, now| known.get(record, vlek, store, rule, now).is_some();
    assert!(get(b"record", false, &store, rule, NOW));
    assert!(get(b"record", false, &store, rule, end));
    let other = Platform::new(&VekShape::default()).store();
    let mut more = platform.store();
    more.add(Certificate::from_der(&platform.root).unwrap(), true);
    for (what, answer) in [
        ("other certificates", get(b"recorD", false, &store, rule, NOW)),
        ("a provider's key is asked for", get(b"record", true, &store, rule, NOW)),
        (
            "another root of the same name",
            get(b"record", false, &other, rule, NOW),
        ),
        ("something was added", get(b"record", false, &more, rule, NOW)),
        ("a stricter rule", get(b"record", false, &store, CrlRule::Required, NOW)),
        ("before it was verified", get(b"record", false, &store, rule, NOW - 1)),
        ("after its end", get(b"record", false, &store, rule, end + 1)),
    ] {
        assert!(!answer, "{what}");
    }
}

/// AMD's draft profile writes security versions as one number. Compared as a number, a platform with newer microcode and
/// an older boot loader would pass.
#[test]
fn a_packed_floor_is_taken_apart_by_the_reports_product() {
    let platform = Platform::new(&VekShape::default());
    let packed = u64::from_le_bytes(TCB);
    let judge = |launch: [u8; 8], field, least| {
        let bytes = platform.report(|b| b[0x1F0..0x1F8].copy_from_slice(&launch));
        let report = Report::parse(&bytes).unwrap();
        let vek = VerifiedVek::verify(&platform.vek, &[], &platform.store(), NOW, CrlRule::WhenPresent).unwrap();
        let verified = VerifiedReport::verify(report, &vek).unwrap();
        let reference = SnpReference {
            packed: vec![PackedFloor { field, least }],
            ..SnpReference::of_measurement([0x3E; 48])
        };
        let reasons = reference.mismatches(&verified);
        reasons.iter().map(|reason| reason.claim.clone()).collect::<Vec<_>>()
    };
    let launch = RawField::LaunchTcb;
    assert_eq!(judge(TCB, launch, packed), [""; 0]);
    let older = [3, 0, 0, 0, 0, 0, 24, 255];
    assert!(u64::from_le_bytes(older) > packed, "the number is above the floor");
    assert_eq!(judge(older, launch, packed), ["LAUNCH_TCB bl"]);
    // A number of another product line's layout says nothing of this one, and what is no version is never enough.
    assert_eq!(
        judge(TCB, launch, u64::from_le_bytes([1, 1, 1, 4, 0, 0, 0, 75])),
        ["LAUNCH_TCB"]
    );
    assert_eq!(judge(TCB, RawField::ChipId, 0), ["CHIP_ID"]);
}

/// What a policy is told of a report: the migration agent's id where there is one, and each mitigation by its bit.
#[test]
fn the_migration_agent_and_every_mitigation_are_claims_of_their_own() {
    let platform = Platform::new(&VekShape::default());
    let vek = VerifiedVek::verify(&platform.vek, &[], &platform.store(), NOW, CrlRule::WhenPresent).unwrap();
    let told = |report: &[u8]| {
        let verified = VerifiedReport::verify(Report::parse(report).unwrap(), &vek).unwrap();
        claims(&verified)
    };
    let set = |bits: &[&str]| Some(ClaimValue::Set(bits.iter().map(|bit| (*bit).to_owned()).collect()));
    let text = |text: &str| Some(ClaimValue::Text(text.to_owned()));
    let [at_launch, now] = SETS;

    let alone = told(&platform.report(|b| b[0x160..0x180].fill(0xff)));
    assert_eq!(alone.get("snp_report_id_ma"), None, "no migration agent");
    assert_eq!(
        (alone.get(at_launch), alone.get(now)),
        (None, None),
        "none before version 5"
    );
    for (what, change) in [("the first byte", 0x160), ("the last byte", 0x17f)] {
        let moved = told(&platform.report(|b| {
            b[0x160..0x180].fill(0xff);
            b[change] = 0xa5;
        }));
        let mut expected = [0xff; 32];
        expected[change - 0x160] = 0xa5;
        let found = moved.get("snp_report_id_ma").cloned();
        assert_eq!(found, text(&hex::encode(expected)), "{what}");
    }

    let mitigated = told(&platform.report(|b| {
        b[0] = 5;
        b[0x1F8] = 0b101;
        b[0x207] = 0x80;
    }));
    assert_eq!(mitigated.get(at_launch).cloned(), set(&["0", "2"]));
    assert_eq!(mitigated.get(now).cloned(), set(&["63"]));
    assert_eq!(
        mitigated.get("snp_mitigations_launch").cloned(),
        text("0x5"),
        "the same as a text"
    );
    let bare = told(&platform.report(|b| b[0] = 5));
    assert_eq!(
        bare.get(now).cloned(),
        set(&[]),
        "none in place is not the same as not said"
    );
}
