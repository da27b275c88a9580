//! TDX guests and Azure's confidential VMs offline, through the real command: genuine evidence, each with the verdict it was
//! published with.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

use crate::azure;
use crate::guest_domain;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use azure::Parts;
use guest_domain::{Domain, done, text, touchstone};
use serde_json::{Value, json};
use touchstone_vectors::genuine;

/// Intel's root, as the policy lists it.
const ROOT: &str = "anchors/tdx/44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3.der";

fn codes(verdict: &Value) -> Vec<String> {
    let reasons = verdict["reasons"].as_array().unwrap();
    let mut codes: Vec<String> = reasons
        .iter()
        .map(|reason| reason["code"].as_str().unwrap().to_owned())
        .collect();
    codes.dedup();
    codes
}

/// The report data of a quote, which come last in a body of TDX 1.0.
fn report_data(quote: &Path) -> String {
    let bytes = std::fs::read(quote).unwrap();
    let start = if bytes[0] == 4 { 48 } else { 54 };
    hex::encode(&bytes[start + 520..start + 584])
}

struct Row {
    collateral: Option<PathBuf>,
    at: String,
    outcome: String,
}

/// The rows of the table by quote.
fn cases(dir: &Path) -> BTreeMap<PathBuf, Vec<Row>> {
    let table = std::fs::read_to_string(dir.join("CASES.tsv")).unwrap();
    let root = dir.parent().unwrap();
    let mut rows: BTreeMap<PathBuf, Vec<Row>> = BTreeMap::new();
    for line in table.lines().skip(1).filter(|line| !line.is_empty()) {
        let columns: Vec<&str> = line.split('\t').collect();
        let given = |column: &str| (column != "-").then(|| column.to_owned());
        rows.entry(root.join(columns[0])).or_default().push(Row {
            collateral: given(columns[1]).map(|path| root.join(path)),
            at: given(columns[2]).unwrap_or_else(|| "2026-11-21T00:00:00Z".into()),
            outcome: columns[5].to_owned(),
        });
    }
    rows
}

/// The machine is listed and its state is the reference's, so that only what the row says can speak against it.
#[test]
fn every_genuine_quote_has_the_verdict_of_its_row() {
    let Some(dir) = genuine("tdx") else { return };
    let mut judged = 0;
    for (quote, rows) in cases(&dir) {
        let domain = Domain::new(&[]);
        let pack = |row: &Row| {
            let mut files = vec![("--tdx-quote", quote.as_path())];
            files.extend(row.collateral.as_deref().map(|path| ("--tdx-collateral", path)));
            domain.pack(&files)
        };
        domain.golden(&pack(&rows[0])).publish();
        for row in &rows {
            let what = format!("{} with {:?} at {}", quote.display(), row.collateral, row.at);
            let (code, verdict) = domain.verify(&pack(row), &report_data(&quote), &row.at);
            let wanted: &[&str] = match row.outcome.as_str() {
                good if good.starts_with("OK status=\"UpToDate\"") => &[],
                old if old.starts_with("OK status=") => &["tdx-tcb-status"],
                "ERR No matching TCB level found" => &["tdx-tcb-level-unknown"],
                none if none.starts_with("no collateral here") => &["tdx-collateral-missing", "tdx-debug-enabled"],
                _ => &["tdx-collateral-expired"],
            };
            assert_eq!(codes(&verdict), wanted, "{what}: {verdict:#}");
            assert_eq!(code, i32::from(!wanted.is_empty()), "{what}");
            judged += 1;
        }
    }
    assert_eq!(judged, 25);
}

#[test]
fn a_guest_with_its_log_is_shown_referenced_and_judged() {
    let (Some(tdx), Some(ccel)) = (genuine("tdx"), genuine("ccel")) else {
        return;
    };
    let quote = tdx.join("tdx_v4_gce_cos113.bin");
    let collateral = tdx.join("collateral/00806f050000_2025-10.json");
    let log = ccel.join("gce_cos113.ccel.bin");
    let at = "2025-10-31T14:17:11Z";
    let nonce = hex::encode(std::fs::read(ccel.join("gce_cos113.nonce.bin")).unwrap());
    let domain = Domain::new(&[]);
    let files = [
        ("--tdx-quote", quote.as_path()),
        ("--tdx-collateral", &collateral),
        ("--ccel", &log),
    ];
    let evidence = domain.pack(&files);
    domain.golden(&evidence).publish();
    let (code, verdict) = domain.verify(&evidence, &nonce, at);
    assert_eq!((code, codes(&verdict)), (0, Vec::new()), "{verdict:#}");
    assert_eq!(
        (&verdict["node"], &verdict["reference"]),
        (&json!("guest-1"), &json!("golden"))
    );
    // Values without the log, as much as the log.
    let bare = domain.pack(&files[..2]);
    assert_eq!(domain.verify(&bare, &nonce, at).0, 0);
    // Another machine's log.
    let other = domain.pack(&[files[0], files[1], ("--ccel", &ccel.join("ovmf.ccel.bin"))]);
    assert_eq!(codes(&domain.verify(&other, &nonce, at).1), ["log-does-not-replay"]);
    // Another nonce, another machine.
    let bare = domain.pack(&files[..2]);
    assert_eq!(
        codes(&domain.verify(&bare, &"11".repeat(64), at).1),
        ["tdx-report-data-mismatch"]
    );
    let stranger = tdx.join("tdx_v4_gce_00806f05_uptodate.bin");
    let evidence = domain.pack(&[("--tdx-quote", stranger.as_path()), files[1]]);
    let (code, verdict) = domain.verify(&evidence, &report_data(&stranger), at);
    assert_eq!(code, 1);
    for wanted in ["tdx-measurement-mismatch", "tdx-rtmr-mismatch", "node-unknown"] {
        assert!(
            codes(&verdict).iter().any(|code| code == wanted),
            "{wanted}: {verdict:#}"
        );
    }
    // In words.
    let evidence = domain.pack(&files);
    let shown = done(&["evidence", "show", text(&evidence)]);
    for words in [
        "dae67181d3d6",
        "RTMR2",
        "PPID 8ebf889447fd60ab1913348582eb509e",
        "events lead to the registers",
    ] {
        assert!(shown.contains(words), "{words}:\n{shown}");
    }
    let reference = done(&["reference", "show", text(&domain.repo()), "golden"]);
    assert!(
        reference.contains("TDX MRTD") && reference.contains("dae67181d3d6"),
        "{reference}"
    );
    // Intel's root is an anchor like any other: without it nothing counts, whatever the library has built in.
    assert_eq!(domain.verify(&evidence, &nonce, at).0, 0);
    done(&["policy", "trust", "remove", text(&domain.repo()), ROOT]);
    domain.publish();
    let (code, verdict) = domain.verify(&evidence, &nonce, at);
    assert_eq!(
        (code, codes(&verdict)),
        (1, vec!["certificate-issuer-unknown".to_owned()])
    );
}

#[test]
fn settings_of_tdx_are_set_and_named() {
    let Some(dir) = genuine("tdx") else { return };
    let quote = dir.join("tdx_v4_gce_00806f05_outofdate.bin");
    let collateral = dir.join("collateral/00806f050000_2025-10.json");
    let at = "2025-10-31T14:17:11Z";
    for (setting, wanted, leniency) in [
        (
            "tdx.tcb_status=[\"UpToDate\", \"OutOfDate\"]",
            &[][..],
            Some("tdx-tcb-status: OutOfDate"),
        ),
        (
            "tdx.min_tcb_evaluation_number=18",
            &["tdx-tcb-status", "tdx-tcb-evaluation-old"],
            None,
        ),
        (
            "tdx.denied_platforms=[\"85d50af2ad61799ebce974b7b0978b46\"]",
            &["tdx-tcb-status", "tdx-platform-denied"],
            Some("tdx-min-tcb-evaluation-number: 0"),
        ),
    ] {
        let domain = Domain::new(&[setting]);
        let evidence = domain.pack(&[("--tdx-quote", quote.as_path()), ("--tdx-collateral", &collateral)]);
        domain.golden(&evidence).publish();
        let (_, verdict) = domain.verify(&evidence, &report_data(&quote), at);
        assert_eq!(codes(&verdict), wanted, "{setting}");
        let leniencies = verdict["leniencies"].as_array().unwrap();
        assert_eq!(leniencies.first().and_then(Value::as_str), leniency, "{setting}");
    }
}

/// Azure's evidence through the flags of `evidence pack`, with nothing but what the guest's tools write.
#[test]
fn azure_evidence_has_its_published_verdict() {
    let Some(azure) = genuine("azure") else { return };
    let vectors = azure.parent().unwrap();
    let lenient = [
        "tpm.event_log=registers-suffice",
        "tpm.required_registers={ sha256 = [0, 1, 2, 3, 4, 5, 6, 7] }",
        "tpm.session_key_registers={ sha256 = [0, 2, 4, 7] }",
        "snp.alias_check=ignored",
    ];
    let now = "2026-11-21T00:00:00Z";
    let snp = |name: &str| (Parts::from_json(&azure.join(name)), None, now);
    let yaml = Parts::from_yaml(&azure.join("azure-tdx-with-ak-intermediates-1780922561.yaml"));
    let collateral = vectors.join("tdx/collateral/90c06f000000_2026-06.json");
    for (parts, collateral, at) in [
        snp("snp-evidence-v0.json"),
        snp("snp-evidence-v1.json"),
        snp("snp-evidence-lunal-v1.json"),
        (yaml, Some(collateral), "2026-06-08T12:42:41Z"),
    ] {
        let domain = Domain::new(&lenient);
        let registers: BTreeMap<String, String> = (0..)
            .zip(&parts.registers)
            .map(|(pcr, value): (u8, _)| (pcr.to_string(), hex::encode(value)))
            .collect();
        let registers = json!({ "sha256": registers }).to_string();
        let (hcl, message, signature, registers) = (
            domain.file("hcl.bin", &parts.hcl),
            domain.file("quote.msg", &parts.quote),
            domain.file("quote.sig", &parts.signature),
            domain.file("registers.json", registers.as_bytes()),
        );
        let (vek, quote) = (
            domain.file("vcek.der", &parts.certificates.concat()),
            domain.file("td.quote", &parts.td_quote.clone().unwrap_or_default()),
        );
        let mut files = vec![
            ("--azure-hcl", hcl.as_path()),
            ("--tpm-quote", &message),
            ("--tpm-signature", &signature),
            ("--tpm-pcrs", &registers),
        ];
        match &collateral {
            None => files.push(("--snp-cert", &vek)),
            Some(collateral) => files.extend([("--tdx-quote", quote.as_path()), ("--tdx-collateral", collateral)]),
        }
        let evidence = domain.pack(&files);
        domain.golden(&evidence).publish();
        let nonce = hex::encode(parts.nonce());
        let (code, verdict) = domain.verify(&evidence, &nonce, at);
        assert_eq!((code, codes(&verdict)), (0, Vec::new()), "{verdict:#}");
        assert_eq!(verdict["node"], "guest-1");
        assert!(done(&["evidence", "show", text(&evidence)]).contains("names the TPM key"));
        // The key that the report names is the only one: another is refused when it is packed.
        let other = vectors.join("azure/kinvolk-akpub.pem");
        let mut arguments = vec!["evidence", "pack", "-o", "/dev/null", "--tpm-ak", text(&other)];
        files
            .iter()
            .for_each(|(flag, file)| arguments.extend([*flag, text(file)]));
        let output = touchstone(&arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(String::from_utf8_lossy(&output.stderr).contains("--tpm-ak"));
    }
}
