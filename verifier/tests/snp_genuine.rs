//! Genuine SEV-SNP reports and certificates, each pair and time with the verdict of its CASES.tsv row.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::collections::BTreeSet;
use std::path::Path;

use touchstone_vectors::genuine;
use touchstone_verifier::appraisal::ClaimValue;
use touchstone_verifier::reason::{Code, Reason};
use touchstone_verifier::snp::claims::{SETS, claims};
use touchstone_verifier::snp::{
    AliasCheck, Product, Report, SnpCode, SnpPolicy, VekError, VerifiedReport, VerifiedVek, check, check_report_data,
};
use touchstone_verifier::x509::{Certificate, CertificateStore, CrlRule};

/// 2026-11-21T00:00:00Z and 2020-01-01T00:00:00Z, the times of the table.
const TIMES: [(&str, i64); 2] = [
    ("2026-11-21T00:00:00Z", 1_795_219_200),
    ("2020-01-01T00:00:00Z", 1_577_836_800),
];

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn anchors(dir: &Path) -> CertificateStore {
    let mut certificates = Vec::new();
    for product in ["milan", "genoa", "turin"] {
        for (kind, anchor) in [("ark", true), ("ask", false), ("asvk", false)] {
            let der = read(&dir.join(format!("ca/{product}_{kind}.der")));
            certificates.push((Certificate::from_der(&der).unwrap(), anchor));
        }
    }
    CertificateStore::new(certificates)
}

/// What the checks of one pair say, in the words of the table.
fn outcome(report: &[u8], vek: &[u8], store: &CertificateStore, now: i64) -> BTreeSet<&'static str> {
    let report = Report::parse(report).unwrap();
    let report_data: [u8; 64] = report.report_data().try_into().unwrap();
    let vek = match VerifiedVek::verify(vek, &[], store, now, CrlRule::WhenPresent) {
        Ok(vek) => vek,
        Err(VekError::Chain(error)) => {
            let validity = matches!(
                error.code().as_str(),
                "certificate-not-yet-valid" | "certificate-expired"
            );
            return BTreeSet::from([if validity { "validity" } else { "chain" }]);
        }
        Err(other) => panic!("{other}"),
    };
    let words = |reasons: &[Reason]| {
        reasons
            .iter()
            .map(|reason| match reason.code {
                Code::Snp(SnpCode::SignatureInvalid) => "signature",
                Code::Snp(SnpCode::TcbMismatch | SnpCode::ProductMismatch) => "tcb",
                Code::Snp(SnpCode::ChipMismatch) => "hwid",
                Code::Snp(SnpCode::Debug) => "debug",
                Code::Snp(SnpCode::Vmpl) => "vmpl",
                other => panic!("{other}"),
            })
            .collect()
    };
    let verified = match VerifiedReport::verify(report, &vek) {
        Ok(verified) => verified,
        Err(reasons) => return words(&reasons),
    };
    let policy = SnpPolicy {
        alias_check: AliasCheck::Ignored,
        ..SnpPolicy::default()
    };
    assert_eq!(check_report_data(&verified, &report_data), None);
    words(&check(&verified, &policy).reasons)
}

#[test]
fn every_genuine_pair_has_the_verdict_of_its_row() {
    let Some(dir) = genuine("snp") else { return };
    let store = anchors(&dir);
    let table = String::from_utf8(read(&dir.join("CASES.tsv"))).unwrap();
    let mut rows = 0;
    for row in table.lines().skip(1).filter(|row| !row.is_empty()) {
        let columns: Vec<&str> = row.split('\t').collect();
        let (report, vek, time) = (columns[0], columns[1], columns[2]);
        let now = TIMES.iter().find(|(name, _)| *name == time).unwrap().1;
        let parent = dir.parent().unwrap();
        let found = outcome(&read(&parent.join(report)), &read(&parent.join(vek)), &store, now);
        let (verdict, why) = (columns[11], columns[12]);
        assert_eq!(
            found.is_empty(),
            verdict == "ACCEPT",
            "{report} {vek} {time}: {found:?}"
        );
        if verdict == "DENY" {
            let wanted: BTreeSet<&str> = why.split(',').collect();
            // Where the certificate itself is not to be believed, nothing that it says is compared.
            let expected = ["chain", "validity"].into_iter().find(|word| wanted.contains(word));
            let expected = expected.map_or(wanted, |word| BTreeSet::from([word]));
            assert_eq!(found, expected, "{report} {vek} {time}");
        }
        rows += 1;
    }
    assert!(rows >= 29, "{rows} rows");
}

/// The default policy asks for the alias check: a report of version 2 can not show it.
#[test]
fn the_default_policy_wants_the_alias_check_shown() {
    let Some(dir) = genuine("snp") else { return };
    let store = anchors(&dir);
    for (name, refused, when_reported) in [
        ("milan_v2_physical", true, false),
        ("milan_v3_a", false, false),
        ("turin_v5_oak", false, false),
    ] {
        let (bytes, vek) = (
            read(&dir.join(format!("{name}.report.bin"))),
            read(&dir.join(format!("{name}.vcek.der"))),
        );
        let report = Report::parse(&bytes).unwrap();
        let vek = VerifiedVek::verify(&vek, &[], &store, TIMES[0].1, CrlRule::WhenPresent).unwrap();
        let verified = VerifiedReport::verify(report, &vek).unwrap();
        let strict = check(&verified, &SnpPolicy::default());
        let codes: Vec<Code> = strict.reasons.iter().map(|reason| reason.code).collect();
        assert_eq!(codes == [Code::Snp(SnpCode::AliasCheck)], refused, "{name}: {codes:?}");
        assert!(strict.leniencies.is_empty());
        let policy = SnpPolicy {
            alias_check: AliasCheck::WhenReported,
            ..SnpPolicy::default()
        };
        let lenient = check(&verified, &policy);
        assert_eq!(!lenient.reasons.is_empty(), when_reported, "{name}");
        assert_eq!(!lenient.leniencies.is_empty(), refused, "{name}: the leniency is named");
    }
}

/// The one genuine report with mitigations: AMD's bits 0, 1 and 3, at launch and now. No genuine guest has a migration agent.
#[test]
fn genuine_reports_say_which_mitigations_are_in_place() {
    let Some(dir) = genuine("snp") else { return };
    let store = anchors(&dir);
    let set = |bits: &[&str]| Some(ClaimValue::Set(bits.iter().map(|bit| (*bit).to_owned()).collect()));
    for (name, expected) in [
        ("milan_v3_a", None),
        ("turin_v5_oak", set(&[])),
        ("genoa_v5_modelA0", set(&["0", "1", "3"])),
    ] {
        let (bytes, vek) = (
            read(&dir.join(format!("{name}.report.bin"))),
            read(&dir.join(format!("{name}.vcek.der"))),
        );
        let vek = VerifiedVek::verify(&vek, &[], &store, TIMES[0].1, CrlRule::WhenPresent).unwrap();
        let verified = VerifiedReport::verify(Report::parse(&bytes).unwrap(), &vek).unwrap();
        let told = claims(&verified);
        for claim in SETS {
            assert_eq!(told.get(claim).cloned(), expected, "{name}: {claim}");
        }
        assert_eq!(told.get("snp_report_id_ma"), None, "{name}");
    }
}

/// The genuine floors: each component one above what is reported is refused by that component's name.
#[test]
fn a_floor_one_above_any_component_refuses_by_its_name() {
    let Some(dir) = genuine("snp") else { return };
    let store = anchors(&dir);
    for name in ["milan_v3_a", "genoa_v3_a", "turin_v5_oak"] {
        let (bytes, vek) = (
            read(&dir.join(format!("{name}.report.bin"))),
            read(&dir.join(format!("{name}.vcek.der"))),
        );
        let report = Report::parse(&bytes).unwrap();
        let vek = VerifiedVek::verify(&vek, &[], &store, TIMES[0].1, CrlRule::WhenPresent).unwrap();
        let verified = VerifiedReport::verify(report, &vek).unwrap();
        let golden = verified.reported_tcb();
        let judge = |floor| {
            let policy = SnpPolicy {
                floors: [(verified.product(), floor)].into(),
                ..SnpPolicy::default()
            };
            check(&verified, &policy).reasons
        };
        assert_eq!(judge(golden), [], "{name}");
        let mut higher = vec![("bl", golden), ("tee", golden), ("snp", golden), ("ucode", golden)];
        higher[0].1.boot_loader += 1;
        higher[1].1.tee += 1;
        higher[2].1.snp += 1;
        higher[3].1.microcode += 1;
        // Everything else may be lower: a sum or a packed number would let it pass.
        for (component, floor) in &mut higher {
            for (other, version) in [
                ("bl", &mut floor.boot_loader),
                ("tee", &mut floor.tee),
                ("snp", &mut floor.snp),
                ("ucode", &mut floor.microcode),
            ] {
                if other != *component {
                    *version = 0;
                }
            }
            let reasons = judge(*floor);
            assert_eq!(reasons.len(), 3, "{name} {component}: reported, committed and launch");
            assert!(reasons.iter().all(|reason| {
                reason.code == Code::Snp(SnpCode::TcbBelowFloor) && reason.claim.ends_with(*component)
            }));
        }
        assert_eq!(verified.product() == Product::Turin, golden.fmc.is_some());
    }
}
