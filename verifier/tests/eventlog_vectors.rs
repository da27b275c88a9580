//! Genuine firmware logs of other projects, beside the checkout: what replays, what is refused.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;

use touchstone_verifier::eventlog::{DataCheck, EventLog, LogError, PrefixError, SeparatorDigests};
use touchstone_verifier::tpm::HashAlg;

/// Logs in the SHA-1 form, which this version refuses.
const SHA1_ONLY: &[&str] = &[
    "debian-10.bin",
    "ebs_event_missing_eventlog.bin",
    "guard-binary_bios_measurements_27.bin",
    "guard-tpm12_windows_lenovo_x1carbonv3.bin",
    "guard-windows_event_log.bin",
    "hirs-TpmLogSHA1.bin",
    "ita-measurements12.bin",
    "tpm2-tools-event-uefi-sha1-log.bin",
];

/// Bank, register, value: what an independent replay gave.
type Expected = BTreeMap<String, BTreeMap<String, String>>;

/// Declared banks that some of the log's events leave out: such a bank cannot be replayed.
const INCOMPLETE: &[(&str, HashAlg)] = &[
    ("ibmtss-dell1.log", HashAlg::Sha1),
    ("tpm2-tools-event-uefiaction.bin", HashAlg::Sha384),
    ("tpm2-tools-event-uefiaction.bin", HashAlg::Sha512),
    ("tpm2-tools-event-uefivar.bin", HashAlg::Sha384),
    ("tpm2-tools-event-uefivar.bin", HashAlg::Sha512),
];

#[test]
fn genuine_logs_replay_as_others_replay_them() {
    let Some(folder) = touchstone_vectors::genuine("tpm-eventlogs") else {
        return;
    };
    let mut judged = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !(name.ends_with(".bin") || name.ends_with(".log")) {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let parsed = EventLog::parse(&bytes);
        judged += 1;
        if SHA1_ONLY.contains(&name.as_str()) {
            assert_eq!(parsed.unwrap_err(), LogError::Sha1Only, "{name}");
            continue;
        }
        let log = parsed.unwrap_or_else(|error| panic!("{name}: {error}"));
        for (bank, registers) in expected(&folder, &name) {
            let bank = HashAlg::from_name(&bank).unwrap();
            if INCOMPLETE.contains(&(name.as_str(), bank)) {
                assert!(log.replay(bank).is_err(), "{name} {bank}");
                continue;
            }
            let replay = log
                .replay(bank)
                .unwrap_or_else(|error| panic!("{name} {bank}: {error}"));
            let registers: Vec<(u32, Vec<u8>)> = registers
                .iter()
                .map(|(pcr, value)| (pcr.parse().unwrap(), hex::decode(value).unwrap()))
                .collect();
            for (pcr, value) in &registers {
                assert_eq!(replay.register(*pcr).unwrap(), value, "{name} {bank} register {pcr}");
            }
            let quoted: Vec<(u32, &[u8])> = registers.iter().map(|(pcr, value)| (*pcr, value.as_slice())).collect();
            assert_eq!(log.match_prefix(bank, &quoted).unwrap().ignored, 0, "{name}");
            let separators = SeparatorDigests::new(bank);
            for event in log.events().iter().filter(|event| event.digest(bank).is_some()) {
                assert_ne!(
                    event.check_data(bank),
                    DataCheck::Mismatch,
                    "{name} event {}",
                    event.index
                );
                assert!(!separators.is_smuggled(event, bank), "{name} event {}", event.index);
                assert!(
                    !event.describe().contains('\u{FFFD}'),
                    "{name} event {}: {}",
                    event.index,
                    event.describe()
                );
            }
        }
    }
    assert!(judged >= 25, "only {judged} logs found");
}

#[test]
fn genuine_logs_cut_anywhere_never_panic() {
    let Some(folder) = touchstone_vectors::genuine("tpm-eventlogs") else {
        return;
    };
    let bytes = std::fs::read(folder.join("ibmtss-dell1.log")).unwrap();
    for len in (0..bytes.len()).step_by(7) {
        if let Ok(log) = EventLog::parse(&bytes[..len]) {
            assert!(log.padding() < 9, "{len}");
        }
    }
}

/// Quoted registers of machines in the field, with the logs that came along; one pair is known not to fit.
#[test]
fn genuine_evidence_fits_its_log_or_is_told_apart() {
    let Some(folder) = touchstone_vectors::genuine("tpm-evidence") else {
        return;
    };
    for (name, differing) in [
        ("linux-multibank", vec![]),
        ("linux-x1-good", vec![]),
        ("linux-x1-pcr0-mismatch-a", vec![0]),
        ("windows-server-r340", vec![]),
    ] {
        let evidence: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
        let bytes = std::fs::read(folder.join(format!("{name}.eventlog.bin"))).unwrap();
        let log = EventLog::parse(&bytes).unwrap();
        let replay = log.replay(HashAlg::Sha256).unwrap();
        let quoted: Vec<(u32, Vec<u8>)> = evidence["pcrs"]["sha256"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(pcr, value)| (pcr.parse().unwrap(), hex::decode(value.as_str().unwrap()).unwrap()))
            .filter(|(pcr, _)| replay.is_extended(*pcr))
            .collect();
        let quoted: Vec<(u32, &[u8])> = quoted.iter().map(|(pcr, value)| (*pcr, value.as_slice())).collect();
        let found = match log.match_prefix(HashAlg::Sha256, &quoted) {
            Ok(_) => vec![],
            Err(PrefixError::Diverged { registers }) => registers.into_iter().map(|(pcr, _)| pcr).collect(),
            Err(other) => panic!("{name}: {other}"),
        };
        assert_eq!(found, differing, "{name}");
    }
}

fn expected(folder: &Path, name: &str) -> Expected {
    serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.pcrs.json"))).unwrap()).unwrap()
}
