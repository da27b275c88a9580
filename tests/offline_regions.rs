//! Offline, a machine is judged as in the region of the node that it is: a floor that a region's own keys sign refuses there
//! what the whole affirms elsewhere. A genuine SEV-SNP report, through the real command.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

use crate::forge;
use crate::guest_domain;

use forge::Forge;
use guest_domain::{Domain, text, touchstone};
use serde_json::Value;
use touchstone_vectors::genuine;

/// 2026-11-21T00:00:00Z
const NOW: i64 = 1_795_219_200;
const AT: &str = "2026-11-21T00:00:00Z";
const POLICY: &[u8] = b"@id(\"all\")\npermit (principal, action, resource);\n";

#[test]
fn a_floor_of_one_region_holds_for_its_machines_alone() {
    let Some(dir) = genuine("snp") else { return };
    let (report, vek) = (dir.join("milan_v3_a.report.bin"), dir.join("milan_v3_a.vcek.der"));
    let nonce = hex::encode(&std::fs::read(&report).unwrap()[0x50..0x90]);
    let high = "{ bl = 255, tee = 0, snp = 0, ucode = 0 }";
    let floors = format!("[snp]\nfloors = {{ milan = {high} }}\n");
    let other = format!("[snp]\nfloors = {{ genoa = {high} }}\n");
    let chips = format!("[snp]\nallowed_chips = [\"{}\"]\n", "ab".repeat(64));
    let anchors = format!("[select]\nanchors = [\"{}\"]\n", "ab".repeat(32));
    let mut wrong = Vec::new();
    for (region, file, contents, expected) in [
        // The machine is in eu-1.
        (
            "eu-1",
            "settings.toml",
            floors.as_str(),
            &["snp-tcb-below-floor"; 3][..],
        ),
        ("us-1", "settings.toml", &floors, &[]),
        ("eu-1", "settings.toml", &other, &[]),
        (
            "eu-1",
            "settings.toml",
            "[roots]\nrequired = \"tpm+tee\"\n",
            &["root-missing"],
        ),
        ("us-1", "settings.toml", "[roots]\nrequired = \"tpm+tee\"\n", &[]),
        ("eu-1", "settings.toml", &chips, &["snp-chip-unlisted"]),
        (
            "eu-1",
            "settings.toml",
            "[select]\nreferences = [\"other\"]\n",
            &["reference-missing"],
        ),
        ("eu-1", "settings.toml", "[select]\nreferences = [\"golden\"]\n", &[]),
        (
            "eu-1",
            "settings.toml",
            "[select]\nsigners = [\"nobody\"]\n",
            &["reference-missing"],
        ),
        ("eu-1", "settings.toml", &anchors, &["certificate-issuer-unknown"]),
    ] {
        let what = format!("{region}: {contents}");
        let domain = Domain::new(&[]);
        let evidence = domain.pack(&[("--snp-report", &report), ("--snp-cert", &vek)]);
        domain.golden(&evidence).publish();
        let mut forge = Forge::open(&domain.repo(), &domain.keys());
        forge.delegate(region, 3, 2, NOW);
        if region == "eu-1" {
            forge.hand_over(region, "regions/eu-1/policy.cedar");
        } else {
            forge.put_in(region, &format!("regions/{region}/policy.cedar"), POLICY);
        }
        forge.put_in(region, &format!("regions/{region}/{file}"), contents.as_bytes());
        forge.publish(NOW);
        let (code, verdict) = domain.verify(&evidence, &nonce, AT);
        let reasons = verdict["reasons"].as_array().unwrap().iter();
        let codes: Vec<&str> = reasons.map(|reason| reason["code"].as_str().unwrap()).collect();
        if codes != expected || code != i32::from(!expected.is_empty()) {
            wrong.push(format!("{what}: {code} {codes:?}, expected {expected:?}"));
        }
        assert_eq!(
            verdict["node"],
            Value::from("guest-1"),
            "{what}: whose it is, is known all the same"
        );
    }
}

#[test]
fn a_region_that_lowers_a_floor_is_refused_with_file_key_and_rule() {
    let domain = Domain::new(&["snp.floors.milan={ bl = 4, tee = 0, snp = 24, ucode = 0 }"]);
    domain.publish();
    let mut forge = Forge::open(&domain.repo(), &domain.keys());
    forge.delegate("eu-1", 3, 2, NOW);
    let lower = b"[snp]\nfloors = { milan = { bl = 4, tee = 0, snp = 23, ucode = 0 } }\n";
    forge.put_in("eu-1", "regions/eu-1/settings.toml", lower);
    forge.publish(NOW);
    let report = domain.file("evidence", b"none");
    let output = touchstone(&[
        "verify",
        text(&report),
        "--policy",
        text(&domain.repo()),
        "--nonce",
        "00",
        "--at",
        AT,
    ]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let shown = touchstone(&["policy", "show", text(&domain.repo()), "--at", AT]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned() + &String::from_utf8_lossy(&shown.stderr);
    let all = format!("{told}\n{shown}");
    for words in [
        "policy-region-widens",
        "regions/eu-1/settings.toml: snp.floors.milan.snp",
        "24",
        "23",
    ] {
        assert!(all.contains(words), "{words}: {all}");
    }
}
