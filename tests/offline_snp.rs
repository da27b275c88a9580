//! Confidential VMs offline, through the real command: genuine SEV-SNP reports, each pair and time with the verdict of its
//! row in the table that came with them.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

use crate::guest_domain;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use guest_domain::{Domain, done, text};
use serde_json::Value;
use touchstone_vectors::genuine;

fn pack(domain: &Domain, report: &Path, certificates: &[&Path]) -> PathBuf {
    let mut files = vec![("--snp-report", report)];
    files.extend(certificates.iter().map(|certificate| ("--snp-cert", *certificate)));
    domain.pack(&files)
}

fn codes(verdict: &Value) -> Vec<&str> {
    let reasons = verdict["reasons"].as_array().unwrap();
    reasons.iter().map(|reason| reason["code"].as_str().unwrap()).collect()
}

fn report_data(report: &Path) -> String {
    hex::encode(&std::fs::read(report).unwrap()[0x50..0x90])
}

struct Row {
    vek: PathBuf,
    at: String,
    accepted: bool,
    why: String,
}

/// The rows of the table by report.
fn cases(dir: &Path) -> BTreeMap<PathBuf, Vec<Row>> {
    let table = std::fs::read_to_string(dir.join("CASES.tsv")).unwrap();
    let root = dir.parent().unwrap();
    let mut rows: BTreeMap<PathBuf, Vec<Row>> = BTreeMap::new();
    for line in table.lines().skip(1).filter(|line| !line.is_empty()) {
        let columns: Vec<&str> = line.split('\t').collect();
        rows.entry(root.join(columns[0])).or_default().push(Row {
            vek: root.join(columns[1]),
            at: columns[2].to_owned(),
            accepted: columns[11] == "ACCEPT",
            why: columns[12].to_owned(),
        });
    }
    rows
}

/// The code that a word of the table's reason must be told by.
fn code_of(word: &str) -> &'static [&'static str] {
    match word {
        "signature" => &["snp-signature-invalid"],
        "hwid" => &["snp-chip-mismatch"],
        "tcb" => &["snp-tcb-mismatch", "snp-product-mismatch"],
        "validity" => &["certificate-not-yet-valid", "certificate-expired"],
        "chain" => &["certificate-issuer-unknown", "certificate-signature-invalid"],
        other => panic!("{other}"),
    }
}

/// The machine is listed and its state is the reference's, so that only what the row says can speak against it.
#[test]
fn every_genuine_pair_has_the_verdict_of_its_row() {
    let Some(dir) = genuine("snp") else { return };
    let mut judged = 0;
    for (report, rows) in cases(&dir) {
        let domain = Domain::new(&["snp.alias_check=ignored"]);
        let golden = rows.iter().find(|row| row.accepted);
        if let Some(golden) = golden {
            let evidence = pack(&domain, &report, &[&golden.vek]);
            domain.golden(&evidence);
        }
        domain.publish();
        for row in &rows {
            let what = format!("{} {} at {}", report.display(), row.vek.display(), row.at);
            let evidence = pack(&domain, &report, &[&row.vek]);
            let (code, verdict) = domain.verify(&evidence, &report_data(&report), &row.at);
            assert_eq!(code == 0, row.accepted, "{what}: {verdict}");
            assert_eq!(code, i32::from(!row.accepted), "{what}");
            let found = codes(&verdict);
            if row.accepted {
                assert_eq!(verdict["verdict"], "affirming");
                assert_eq!(
                    (&verdict["node"], &verdict["reference"]),
                    (&"guest-1".into(), &"golden".into())
                );
                continue;
            }
            // Where the certificate is not to be believed, nothing that it says is compared.
            let words: Vec<&str> = row.why.split(',').collect();
            let first = ["chain", "validity"].into_iter().find(|word| words.contains(word));
            for word in first.map_or(words, |word| vec![word]) {
                let told = code_of(word).iter().any(|code| found.contains(code));
                assert!(told, "{what}: {word} is not told by {found:?}");
            }
            judged += 1;
        }
    }
    assert!(judged >= 16, "{judged} rows that deny");
}

/// The settings that policy init writes, and what each row of this table must be told without a leniency.
#[test]
fn what_the_default_settings_refuse_is_named() {
    let Some(dir) = genuine("snp") else { return };
    let at = "2026-11-21T00:00:00Z";
    let pair = |name: &str| {
        (
            dir.join(format!("{name}.report.bin")),
            dir.join(format!("{name}.vcek.der")),
        )
    };
    for (name, settings, expected, leniency) in [
        ("milan_v3_a", &[][..], &[][..], None),
        ("milan_v2_physical", &[], &["snp-alias-check"], None),
        (
            "milan_v2_physical",
            &["snp.alias_check=when-reported"],
            &[],
            Some("snp-alias-check: when-reported"),
        ),
        ("milan_v3_a", &["roots.required=tpm"], &["root-missing"], None),
        ("milan_v3_a", &["roots.required=tpm+tee"], &["root-missing"], None),
        ("milan_v3_a", &["roots.required=tee"], &[], None),
        (
            "milan_v3_a",
            &["snp.products=[\"turin\"]"],
            &["snp-product-refused"],
            None,
        ),
        ("milan_v3_a", &["snp.mitigations=[0]"], &["snp-platform-setting"], None),
        ("milan_v3_a", &["tpm.crl=required"], &["certificate-crl-missing"], None),
        (
            "milan_v3_a",
            &["snp.guest_policy_required=[\"single-socket\"]"],
            &["snp-guest-policy"],
            None,
        ),
        (
            "milan_v3_a",
            &["snp.floors.milan={ bl = 255, tee = 0, snp = 0, ucode = 0 }"],
            &["snp-tcb-below-floor", "snp-tcb-below-floor", "snp-tcb-below-floor"],
            None,
        ),
    ] {
        let domain = Domain::new(settings);
        let (report, vek) = pair(name);
        let evidence = pack(&domain, &report, &[&vek]);
        domain.golden(&evidence).publish();
        let (code, verdict) = domain.verify(&evidence, &report_data(&report), at);
        assert_eq!(codes(&verdict), expected, "{name} {settings:?}");
        assert_eq!(code, i32::from(!expected.is_empty()));
        let leniencies = verdict["leniencies"].as_array().unwrap();
        assert_eq!(
            leniencies.first().and_then(Value::as_str),
            leniency,
            "{name} {settings:?}"
        );
    }
}

#[test]
fn another_nonce_another_guest_and_a_root_that_was_taken_out_are_refused() {
    let Some(dir) = genuine("snp") else { return };
    let at = "2026-11-21T00:00:00Z";
    let (report, vek) = (
        dir.join("milan_v3_oak_release.report.bin"),
        dir.join("milan_v3_oak_release.vcek.der"),
    );
    let (other, other_vek) = (dir.join("genoa_v3_a.report.bin"), dir.join("genoa_v3_a.vcek.der"));
    let domain = Domain::new(&[]);
    let evidence = pack(&domain, &report, &[&vek]);
    domain.golden(&evidence).publish();
    let nonce = report_data(&report);
    assert_eq!(domain.verify(&evidence, &nonce, at).0, 0);
    let (code, verdict) = domain.verify(&evidence, &"00".repeat(64), at);
    assert_eq!((code, codes(&verdict)), (1, vec!["snp-report-data-mismatch"]));
    // A nonce that is shorter is one with zeros behind it, and nothing else.
    let short = nonce.trim_end_matches("00");
    assert_eq!(domain.verify(&evidence, short, at).0, 0);
    let (code, verdict) = domain.verify(&evidence, &short[..short.len() - 2], at);
    assert_eq!((code, codes(&verdict)), (1, vec!["snp-report-data-mismatch"]));
    // A machine that nobody listed, in a state that nobody signed.
    let stranger = pack(&domain, &other, &[&other_vek]);
    let (code, verdict) = domain.verify(&stranger, &report_data(&other), at);
    let found = codes(&verdict);
    assert_eq!(code, 1);
    assert!(
        ["snp-measurement-mismatch", "node-unknown"]
            .iter()
            .all(|code| found.contains(code)),
        "{found:?}"
    );
    // No certificate, and the certificate alone without the report.
    let bare = pack(&domain, &report, &[]);
    assert_eq!(codes(&domain.verify(&bare, &nonce, at).1), ["snp-vek-missing"]);
    // AMD's root of that line is an anchor like any other.
    let ark = "anchors/snp/69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd.der";
    let evidence = pack(
        &domain,
        &report,
        &[&vek, &dir.join("ca/milan_ask.der"), &dir.join("ca/milan_ark.der")],
    );
    assert_eq!(domain.verify(&evidence, &nonce, at).0, 0);
    done(&["policy", "trust", "remove", text(&domain.repo()), ark]);
    domain.publish();
    let (code, verdict) = domain.verify(&evidence, &nonce, at);
    assert_eq!(
        (code, codes(&verdict)),
        (1, vec!["certificate-issuer-unknown"]),
        "the evidence brings its own root"
    );
}

/// What other tools write: the guest device's message, AMD's chain file, a host's certificate table.
#[test]
fn reports_and_certificates_are_taken_as_other_tools_write_them() {
    let Some(dir) = genuine("snp") else { return };
    let at = "2026-11-21T00:00:00Z";
    let (report, vek) = (dir.join("milan_v3_a.report.bin"), dir.join("milan_v3_a.vcek.der"));
    let domain = Domain::new(&[]);
    let plain = pack(&domain, &report, &[&vek]);
    domain.golden(&plain).publish();
    let bytes = std::fs::read(&report).unwrap();
    let der = std::fs::read(&vek).unwrap();
    let ask = std::fs::read(dir.join("ca/milan_ask.der")).unwrap();
    let ark = std::fs::read(dir.join("ca/milan_ark.der")).unwrap();
    let write = |name: &str, bytes: &[u8]| domain.file(name, bytes);
    let mut message = [0u32.to_le_bytes(), 1184u32.to_le_bytes()].concat();
    message.resize(32, 0);
    message.extend(&bytes);
    message.resize(4000, 0);
    let pem = |der: &[u8]| pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec()));
    let mut table = Vec::new();
    let parts = [
        ("63da758de6644564adc5f4b93be8accd", &der),
        ("4ab7b379bbac4fe4a02f05aef327c782", &ask),
    ];
    let mut offset = 24 * 3;
    for (guid, part) in parts {
        table.extend(hex::decode(guid).unwrap());
        table.extend((offset as u32).to_le_bytes());
        table.extend((part.len() as u32).to_le_bytes());
        offset += part.len();
    }
    table.resize(24 * 3, 0);
    table.extend(der.iter().chain(&ask));
    let chain = write("cert_chain", [pem(&ask), pem(&ark)].concat().as_bytes());
    for (what, report, certificates) in [
        (
            "the guest device's message",
            write("message", &message),
            vec![vek.clone()],
        ),
        (
            "PEM and AMD's chain file",
            report.clone(),
            vec![write("vcek.pem", pem(&der).as_bytes()), chain],
        ),
        ("a host's table", report.clone(), vec![write("auxblob", &table)]),
    ] {
        let certificates: Vec<&Path> = certificates.iter().map(PathBuf::as_path).collect();
        let evidence = pack(&domain, &report, &certificates);
        let (code, verdict) = domain.verify(&evidence, &report_data(&dir.join("milan_v3_a.report.bin")), at);
        assert_eq!(code, 0, "{what}: {verdict}");
    }
    let told = done(&["evidence", "show", text(&plain)]);
    for words in [
        "Confidential VM",
        "guest policy",
        "memory aliases",
        "VCEK of chip",
        "versions reported",
    ] {
        assert!(told.contains(words), "{words} in {told}");
    }
    let shown: Value = serde_json::from_str(&done(&["evidence", "show", text(&plain), "--json"])).unwrap();
    assert_eq!(shown["snp"]["signed_by_key_in_evidence"], true);
    let shown = done(&["reference", "show", text(&domain.repo()), "golden"]);
    assert!(
        shown.contains("SNP measurement") && shown.contains("REPORTED_TCB"),
        "{shown}"
    );
}
