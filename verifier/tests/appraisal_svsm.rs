//! Whole appraisals of a virtual TPM that a secure VM service module vouches for: a simulated SEV-SNP platform around a
//! recorded TPM.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::common;
use crate::simulated_snp;

use aws_lc_rs::digest::{SHA512, digest};
use common::{Boot, Offline, codes, references};
use simulated_snp::{Platform as Simulated, VekShape};
use touchstone_evidence::collection::Label;
use touchstone_verifier::anchors::{Purpose, TrustAnchors};
use touchstone_verifier::appraisal::{ClaimValue, Tier};
use touchstone_verifier::corim::{Endorses, MachineReference};
use touchstone_verifier::inventory::{CvmIdentity, Inventory, Node, Platform};
use touchstone_verifier::snp::SnpReference;
use touchstone_verifier::svsm::VTPM;
use touchstone_verifier::tpm::Public;

fn ek(boot: &Boot, key: &str) -> Vec<u8> {
    let public = Public::from_tpm2b_or_tpmt(&boot.file(&format!("ek-{key}.pub"))).unwrap();
    public.as_bytes().to_vec()
}

/// SHA-512(nonce ‖ manifest), the nonce with zeros behind it.
fn report_data(nonce: &[u8], manifest: &[u8]) -> [u8; 64] {
    let mut padded = [0; 64];
    padded[..nonce.len()].copy_from_slice(nonce);
    digest(&SHA512, &[&padded[..], manifest].concat())
        .as_ref()
        .try_into()
        .unwrap()
}

/// A recorded boot's quote with a report over `manifest`, and an inventory that lists only the platform.
fn offline(platform: &Simulated, boot: &Boot, manifest: &[u8], change: impl Fn(&mut [u8])) -> Offline {
    let mut offline = Offline::new(boot, "quote-ecc", "ecc", boot);
    let data = report_data(&offline.nonce, manifest);
    let report = platform.report(|bytes| {
        bytes[0x50..0x90].copy_from_slice(&data);
        change(bytes);
    });
    let golden = MachineReference {
        name: "svsm".into(),
        snp: Some(SnpReference {
            endorses: Endorses::Svsm,
            ..SnpReference::of_measurement([0x3E; 48])
        }),
        ..MachineReference::default()
    };
    offline.references = references(&[boot.reference("golden"), golden]);
    let recorded = ["swtpm-localca-rootca-cert.pem", "issuercert.pem"].map(|name| {
        let pem = std::fs::read(common::boots().join("ca").join(name)).unwrap();
        (Purpose::Ek, pem::parse(pem).unwrap().contents().to_vec())
    });
    let amd = (Purpose::Snp, platform.root.clone());
    offline.anchors = TrustAnchors::new(recorded.into_iter().chain([amd])).unwrap();
    let mut node = boot.node("node-1");
    node.platforms = listed().platforms;
    offline.inventory = Inventory::new(vec![node]);
    offline
        .with(Label::SnpReport, report)
        .with(
            Label::SnpCertificates,
            [platform.vek.clone(), platform.intermediate.clone()].concat(),
        )
        .with(Label::SvsmManifest, manifest.to_vec())
}

fn listed() -> Node {
    Node {
        name: "guest-1".into(),
        region: "north".into(),
        platforms: vec![CvmIdentity {
            platform: Platform::SnpChip(vec![0xC1; 64]),
            guest: None,
        }],
        authority: "domain".into(),
        ..Node::default()
    }
}

#[test]
fn a_tpm_that_the_module_vouches_for_is_one_machine_with_its_report() {
    let (platform, boot) = (Simulated::new(&VekShape::default()), Boot::load("good"));
    let manifest = ek(&boot, "ecc");
    let appraisal = offline(&platform, &boot, &manifest, |_| {}).appraise();
    assert_eq!(codes(&appraisal), [""; 0], "{:#?}", appraisal.reasons);
    assert_eq!(appraisal.status, Tier::Affirming);
    let roots = ["snp", "tpm"].map(str::to_owned);
    assert_eq!(appraisal.claims.get("roots"), Some(&ClaimValue::Set(roots.into())));
    assert_eq!(
        appraisal.claims.get("tcb_freshness"),
        Some(&ClaimValue::Text("session".into()))
    );
}

#[test]
fn attacks_row_by_row() {
    let (platform, boot) = (Simulated::new(&VekShape::default()), Boot::load("good"));
    let (own, other) = (ek(&boot, "ecc"), ek(&Boot::load("uki"), "ecc"));
    assert_ne!(own, other);
    type Change = fn(Offline, &[u8]) -> Offline;
    let unlisted: Change = |mut o, _| {
        // The entry lists the platform only: nothing but the report can make the TPM this machine's.
        o.inventory = Inventory::new(vec![listed()]);
        o
    };
    type Row<'r> = (&'r str, &'r [u8], fn(&mut [u8]), Change, &'r str);
    let rows: &[Row<'_>] = &[
        ("VMPL 1", &own, |b| b[0x30] = 1, |o, _| o, "svsm-vmpl"),
        (
            "VMPL 1, though the policy lets guests",
            &own,
            |b| b[0x30] = 1,
            |mut o, _| {
                o.policy.snp.max_vmpl = 3;
                o
            },
            "svsm-vmpl",
        ),
        (
            "the manifest swapped",
            &own,
            |_| {},
            |o, other| o.with(Label::SvsmManifest, other.to_vec()),
            "snp-report-data-mismatch",
        ),
        (
            "another TPM vouched for",
            &other,
            |_| {},
            |o, _| o,
            "roots-not-together",
        ),
        (
            "another TPM vouched for, nobody listed",
            &other,
            |_| {},
            unlisted,
            "roots-not-together",
        ),
        (
            "another nonce",
            &own,
            |_| {},
            |mut o, _| {
                o.nonce[0] ^= 1;
                o
            },
            "snp-report-data-mismatch",
        ),
        (
            "no manifest: the hash is no nonce",
            &own,
            |_| {},
            |o, _| o.without(Label::SvsmManifest),
            "snp-report-data-mismatch",
        ),
        (
            "a manifest and no report",
            &own,
            |_| {},
            |o, _| o.without(Label::SnpReport),
            "record-missing",
        ),
        (
            "a manifest that is none",
            b"manifest",
            |_| {},
            |o, _| o,
            "svsm-manifest-malformed",
        ),
        (
            "a debugged guest",
            &own,
            |b| b[0x0A] |= 1 << 3,
            |o, _| o,
            "snp-debug-enabled",
        ),
        (
            "another measurement",
            &own,
            |b| b[0x90] ^= 1,
            |o, _| o,
            "snp-measurement-mismatch",
        ),
    ];
    for (attack, manifest, change, then, wanted) in rows {
        let appraisal = then(offline(&platform, &boot, manifest, change), &other).appraise();
        let found = codes(&appraisal);
        assert!(found.contains(wanted), "{attack}: {found:?}");
        assert_eq!(appraisal.status, Tier::Contraindicated, "{attack}");
    }
    // The manifest of all services, with the same key in it.
    let mut services = touchstone_verifier::svsm::SERVICES.to_vec();
    for word in [48 + own.len() as u32, 1] {
        services.extend(word.to_le_bytes());
    }
    services.extend(VTPM);
    for word in [48, own.len() as u32] {
        services.extend(word.to_le_bytes());
    }
    services.extend(&own);
    let appraisal = offline(&platform, &boot, &services, |_| {}).appraise();
    assert_eq!(codes(&appraisal), [""; 0], "{:#?}", appraisal.reasons);
}

/// A module's report says what the module was launched from, and nothing of the system above it.
#[test]
fn a_report_that_vouches_for_a_tpm_counts_only_with_its_quote() {
    let (platform, boot) = (Simulated::new(&VekShape::default()), Boot::load("good"));
    let manifest = ek(&boot, "ecc");
    let mut alone = offline(&platform, &boot, &manifest, |_| {});
    for label in [
        Label::TpmQuote,
        Label::TpmQuoteSignature,
        Label::TpmAkPublic,
        Label::TpmPcrValues,
        Label::FirmwareEventLog,
        Label::TpmEkCertificate,
    ] {
        alone = alone.without(label);
    }
    alone.inventory = Inventory::new(vec![listed()]);
    let appraisal = alone.appraise();
    assert_eq!(
        codes(&appraisal),
        ["endorsed-quote-missing"],
        "{:#?}",
        appraisal.reasons
    );
    assert!(appraisal.roots.is_empty() && appraisal.authentic_roots.is_empty() && appraisal.enrol.is_none());
    // A quote of another time is none either.
    let mut stale = offline(&platform, &boot, &manifest, |_| {});
    let data = report_data(&[7; 20], &manifest);
    stale.collection = common::replace(
        &stale.collection,
        Label::SnpReport,
        Some(platform.report(|bytes| bytes[0x50..0x90].copy_from_slice(&data))),
    );
    stale.nonce = vec![7; 20];
    let found = stale.appraise();
    assert_eq!(codes(&found), ["nonce-mismatch", "endorsed-quote-missing"]);
}

/// A guest may ask for a report over any key: only a module's reference lets one vouch for a TPM, and a module's reference
/// lets no guest in that shows no TPM.
#[test]
fn a_reference_says_what_its_report_may_vouch_for() {
    let (platform, boot) = (Simulated::new(&VekShape::default()), Boot::load("good"));
    let manifest = ek(&boot, "ecc");
    let golden = |endorses| MachineReference {
        name: "guest".into(),
        snp: Some(SnpReference {
            endorses,
            ..SnpReference::of_measurement([0x3E; 48])
        }),
        ..MachineReference::default()
    };
    for (endorses, wanted) in [
        (Endorses::Svsm, &[][..]),
        (Endorses::None, &["reference-purpose"]),
        (Endorses::AzureVtpm, &["reference-purpose"]),
    ] {
        let mut offline = offline(&platform, &boot, &manifest, |_| {});
        offline.references = references(&[boot.reference("golden"), golden(endorses)]);
        assert_eq!(codes(&offline.appraise()), wanted, "{endorses}");
        // The guest above the module, with a report of its own and no TPM of anybody's.
        let nonce = offline.nonce.clone();
        offline = offline.without(Label::SvsmManifest).with(
            Label::SnpReport,
            platform.report(|bytes| {
                bytes[0x50..0x90].fill(0);
                bytes[0x50..0x50 + nonce.len()].copy_from_slice(&nonce);
            }),
        );
        let wanted: &[&str] = match endorses {
            Endorses::None => &[],
            _ => &["reference-purpose"],
        };
        assert_eq!(codes(&offline.appraise()), wanted, "{endorses}, plain");
    }
}
