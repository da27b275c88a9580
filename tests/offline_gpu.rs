//! GPUs offline, through the real command: genuine reports of H100 GPUs and an LS10 switch, packed, listed, made references
//! and judged.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use touchstone_vectors::genuine;

use crate::dated;

/// The day for which the verdicts hold.
const DAY: &str = "2026-11-21T00:00:00Z";
/// The challenge of three of the reports, and that of the fourth.
const CHALLENGE: &str = "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb";
/// NVIDIA's root, as `policy init` lists it.
const NVIDIA_ROOT: &str = "anchors/gpu/102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48.der";
const OTHER: &str = "27a328247bf7935c993341cf587be6f05986ccce4fe7ba2c54100bd616a58f66";

fn touchstone(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .args(arguments)
        .output()
        .expect("the command runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().expect("an exit code");
    (code, text(&output.stdout), text(&output.stderr))
}

fn done(arguments: &[&str]) -> String {
    let (code, out, error) = touchstone(arguments);
    assert_eq!(code, 0, "touchstone {}: {out}{error}", arguments.join(" "));
    out
}

/// A domain with the settings and anchors of `policy init`.
struct Domain {
    folder: tempfile::TempDir,
    vectors: PathBuf,
}

impl Domain {
    fn new(vectors: &Path) -> Self {
        let domain = Self {
            folder: tempfile::tempdir().expect("a folder"),
            vectors: vectors.to_owned(),
        };
        let keys = domain.path("keys");
        let repo = domain.path("repo");
        dated::init(Path::new(&repo), "test.example", Path::new(&keys));
        domain
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn pack(&self, names: &[&str]) -> String {
        let file = |name: &&str, end: &str| self.vectors.join(format!("{name}.{end}")).to_str().unwrap().to_owned();
        let reports: Vec<String> = names.iter().map(|name| file(name, "report.hex")).collect();
        let chains: Vec<String> = names.iter().map(|name| file(name, "chain.pem")).collect();
        let out = self.path("packed.evidence");
        let mut arguments = vec!["evidence", "pack", "--gpu-report"];
        arguments.extend(reports.iter().map(String::as_str));
        arguments.push("--gpu-certs");
        arguments.extend(chains.iter().map(String::as_str));
        arguments.extend(["-o", &out]);
        done(&arguments);
        out
    }

    fn golden(&self, evidence: &str) -> &Self {
        let repo = self.path("repo");
        done(&["reference", "add", &repo, "--evidence", evidence, "--name", "golden"]);
        done(&[
            "policy", "node", "add", &repo, "gpu-1", "--region", "eu-1", "--from", evidence,
        ]);
        self
    }

    fn publish(&self) -> &Self {
        dated::publish(Path::new(&self.path("repo")), Path::new(&self.path("keys")));
        self
    }

    fn verify(&self, evidence: &str, nonce: &str, at: &str) -> (i32, Value) {
        let repo = self.path("repo");
        let arguments = [
            "verify", evidence, "--policy", &repo, "--nonce", nonce, "--at", at, "--json",
        ];
        let (code, out, error) = touchstone(&arguments);
        (code, serde_json::from_str(&out).unwrap_or_else(|_| panic!("{error}")))
    }
}

fn codes(verdict: &Value) -> Vec<&str> {
    let reasons = verdict["reasons"].as_array().unwrap();
    reasons.iter().map(|reason| reason["code"].as_str().unwrap()).collect()
}

/// Each pair alone. `hopper_expired` is accepted too: no certificate of its chain ends before the year 9999; what had
/// expired is the certificate of the maker's driver RIM, which is no part of it.
#[test]
fn every_genuine_pair_is_affirmed_in_its_state_at_its_time_for_its_challenge() {
    let Some(vectors) = genuine("nvidia") else { return };
    for (name, challenge) in [
        ("hopper_a", OTHER),
        ("hopper_trustee", CHALLENGE),
        ("hopper_expired", CHALLENGE),
        ("switch_ls10", CHALLENGE),
    ] {
        let domain = Domain::new(&vectors);
        let evidence = domain.pack(&[name]);
        domain.golden(&evidence).publish();
        let (code, verdict) = domain.verify(&evidence, challenge, DAY);
        assert_eq!((code, codes(&verdict)), (0, vec![]), "{name}: {verdict}");
        assert_eq!(
            // Nobody speaks for the machine that it sits in.
            (&verdict["verdict"], &verdict["node"]),
            (&"affirming".into(), &Value::Null)
        );
        for (what, nonce, at, expected) in [
            (
                "before the authorities",
                challenge,
                "2022-01-11T00:00:00Z",
                "certificate-not-yet-valid",
            ),
            (
                "another challenge",
                if challenge == OTHER { CHALLENGE } else { OTHER },
                DAY,
                "gpu-nonce-mismatch",
            ),
            (
                "a longer challenge",
                &format!("{challenge}00"),
                DAY,
                "gpu-nonce-mismatch",
            ),
        ] {
            let (code, verdict) = domain.verify(&evidence, nonce, at);
            assert_eq!((code, codes(&verdict)), (1, vec![expected]), "{name}, {what}");
        }
    }
}

/// What NVIDIA's SDK serialises has its chain in it: an H100 in protected PCIe mode.
#[test]
fn evidence_as_the_makers_sdk_writes_it_is_affirmed() {
    let Some(vectors) = genuine("nvidia") else { return };
    let domain = Domain::new(&vectors);
    let (file, evidence) = (vectors.join("hopper_evidence.json"), domain.path("packed.evidence"));
    done(&[
        "evidence",
        "pack",
        "--gpu-report",
        file.to_str().unwrap(),
        "-o",
        &evidence,
    ]);
    domain.golden(&evidence).publish();
    let nonce = "e97b23a1718095a0e9e35edca810768c70a6a5a389b705e753b197912bc11576";
    let (code, verdict) = domain.verify(&evidence, nonce, DAY);
    assert_eq!((code, codes(&verdict)), (0, vec![]), "{verdict}");
    assert_eq!(domain.verify(&evidence, CHALLENGE, DAY).0, 1);
}

#[test]
fn what_the_domain_lacks_is_named() {
    let Some(vectors) = genuine("nvidia") else { return };
    let domain = Domain::new(&vectors);
    domain.publish();
    let evidence = domain.pack(&["hopper_trustee"]);
    let (code, verdict) = domain.verify(&evidence, CHALLENGE, DAY);
    assert_eq!(
        (code, codes(&verdict)),
        (1, vec!["gpu-reference-missing", "node-unknown"])
    );
    // A reference of another state, and a listed device.
    let other = domain.pack(&["hopper_expired"]);
    domain.golden(&other).publish();
    let evidence = domain.pack(&["hopper_trustee"]);
    let (_, verdict) = domain.verify(&evidence, CHALLENGE, DAY);
    assert!(codes(&verdict).contains(&"gpu-reference-mismatch"), "{verdict}");
    assert!(codes(&verdict).contains(&"gpu-measurement-mismatch"), "{verdict}");
    // NVIDIA's root taken out: nothing vouches for the device any more.
    done(&["policy", "trust", "remove", &domain.path("repo"), NVIDIA_ROOT]);
    domain.publish();
    let evidence = domain.pack(&["hopper_expired"]);
    let (code, verdict) = domain.verify(&evidence, CHALLENGE, DAY);
    assert_eq!(code, 1);
    assert!(codes(&verdict).contains(&"certificate-issuer-unknown"), "{verdict}");
}

#[test]
fn several_devices_are_judged_together_and_shown() {
    let Some(vectors) = genuine("nvidia") else { return };
    let domain = Domain::new(&vectors);
    let evidence = domain.pack(&["hopper_trustee", "hopper_expired", "switch_ls10"]);
    domain.golden(&evidence).publish();
    let (code, verdict) = domain.verify(&evidence, CHALLENGE, DAY);
    assert_eq!((code, codes(&verdict)), (0, vec![]), "{verdict}");
    let told = done(&["evidence", "show", &evidence]);
    for line in [
        "1: GH100, driver 550.90.07, VBIOS 96.00.9F.00.01, device 41431d480fe5e87274",
        "3: LS_10, VBIOS 96.10.55.00.01, device 50203eb31ad9ed0008",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    let reference = done(&["reference", "show", &domain.path("repo"), "golden"]);
    assert!(reference.contains("GH100, driver 570.124.03"), "{reference}");
    // Chains in another order are another device's: nothing is packed that could not be told apart, and it is refused.
    let swapped = domain.path("swapped.evidence");
    let file = |name: &str| vectors.join(name).to_str().unwrap().to_owned();
    done(&[
        "evidence",
        "pack",
        "--gpu-report",
        &file("hopper_trustee.report.hex"),
        "--gpu-certs",
        &file("hopper_a.chain.pem"),
        "-o",
        &swapped,
    ]);
    let (code, verdict) = domain.verify(&swapped, CHALLENGE, DAY);
    assert_eq!(
        (code, codes(&verdict)),
        (1, vec!["gpu-signature-invalid", "gpu-fwid-mismatch"])
    );
    let arguments = [
        "evidence",
        "pack",
        "--gpu-report",
        &file("hopper_a.report.hex"),
        "-o",
        &swapped,
    ];
    assert_ne!(touchstone(&arguments).0, 0, "a report without its chain");
    // A RIM file of the maker's is not taken for a reference.
    let signer = domain.path("signer.pem");
    std::fs::write(&signer, "none").unwrap();
    let rim = file("rim/NV_GPU_DRIVER_GH100_550.144.03.xml");
    let repo = domain.path("repo");
    let import = ["reference", "import", &repo, &rim, "--signer", &signer, "--name", "rim"];
    let (code, out, error) = touchstone(&import);
    assert_ne!(code, 0);
    assert!(format!("{out}{error}").contains("XML-DSig"), "{out}{error}");
}
