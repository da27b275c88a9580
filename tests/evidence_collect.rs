//! `touchstone evidence collect` in a confidential VM: a simulated guest, the real command.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};

use touchstone_evidence::collection::{Collection, Label, Profile};
use touchstone_simulated_platform::{EmulatedTsm, Guest, Line, field};

fn collect(tsm: &Path, output: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .args(["evidence", "collect", "--tee", "configfs", "--tee-path"])
        .arg(tsm)
        .arg("-o")
        .arg(output)
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn a_guests_report_is_collected_with_its_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let tsm = EmulatedTsm::start(&folder.path().join("tsm"), Guest::new(Line::Genoa, 0xC1).unwrap()).unwrap();
    let output = folder.path().join("guest.evidence");
    let nonce = "ab".repeat(32);
    let done = collect(tsm.path(), &output, &["--nonce", &nonce]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let evidence = Collection::decode(&std::fs::read(&output).unwrap()).unwrap();
    assert_eq!(evidence.profile(), Profile::Unbound);
    let report = evidence.get(Label::SnpReport).unwrap();
    let data = &report[field::REPORT_DATA..][..64];
    assert_eq!(data, [[0xAB; 32], [0; 32]].concat(), "the rest is zero");
    let vek = tsm.change(|guest| guest.platform.vek.clone());
    assert!(evidence.get(Label::SnpCertificates).unwrap().starts_with(&vek));
    assert_eq!(evidence.get(Label::TpmQuote), None);
}

#[test]
fn certificates_come_from_a_file_where_the_host_gives_none() {
    let folder = tempfile::tempdir().unwrap();
    let tsm = EmulatedTsm::start(&folder.path().join("tsm"), Guest::new(Line::Turin, 0xC1).unwrap()).unwrap();
    tsm.change(|guest| guest.gives_certificates = false);
    let output = folder.path().join("guest.evidence");
    let bare = collect(tsm.path(), &output, &["--nonce", "ab"]);
    assert_eq!(bare.status.code(), Some(2));
    let told = String::from_utf8_lossy(&bare.stderr).into_owned();
    assert!(
        told.contains("VCEK certificate") && told.contains("name a file"),
        "{told}"
    );
    assert!(!output.exists());

    let kept = folder.path().join("platform");
    tsm.change(|guest| guest.platform.write(&kept)).unwrap();
    let file = kept.join("vek.pem").display().to_string();
    let done = collect(tsm.path(), &output, &["--nonce", "ab", "--tee-certificates", &file]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn what_cannot_be_collected_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (nowhere, output) = (folder.path().join("none"), folder.path().join("x"));
    let long = "ab".repeat(65);
    for (name, nonce, words) in [
        ("no interface", "ab", "this is no confidential VM"),
        ("no nonce", "", "expected 1 to 64 bytes"),
        ("a nonce too long", long.as_str(), "expected 1 to 64 bytes, found 65"),
        ("no hexadecimal", "xy", "--nonce"),
    ] {
        let refused = collect(&nowhere, &output, &["--nonce", nonce]);
        assert_eq!(refused.status.code(), Some(2), "{name}");
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(told.contains(words), "{name}: {told}");
    }
}

#[test]
fn an_interface_that_nobody_names_is_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let tsm = EmulatedTsm::start(&folder.path().join("tsm"), Guest::new(Line::Genoa, 0xC1).unwrap()).unwrap();
    let output = folder.path().join("guest.evidence");
    let collect = |tee: &[&str], path: &Path| {
        Command::new(env!("CARGO_BIN_EXE_touchstone"))
            .args(["evidence", "collect", "--nonce", "ab", "--tee-path"])
            .arg(path)
            .arg("-o")
            .arg(&output)
            .args(tee)
            .output()
            .unwrap()
    };
    for tee in [&["--tee"][..], &["--tee", "auto"]] {
        let done = collect(tee, tsm.path());
        assert!(
            done.status.success(),
            "{tee:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        let evidence = Collection::decode(&std::fs::read(&output).unwrap()).unwrap();
        assert!(evidence.get(Label::SnpReport).is_some(), "{tee:?}");
        std::fs::remove_file(&output).unwrap();
    }
    if Path::new("/dev/sev-guest").exists() {
        return;
    }
    let nowhere = folder.path().join("nowhere");
    let none = collect(&["--tee"], &nowhere);
    assert_eq!(none.status.code(), Some(2));
    let told = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(told.contains("nowhere nor /dev/sev-guest"), "{told}");
    assert!(!output.exists());
}
