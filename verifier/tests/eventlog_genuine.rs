//! Genuine firmware logs of other projects, beside the checkout: every one is read, replays as an independent replay did,
//! and keeps its promises when it is cut or handed over in another form.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use touchstone_verifier::eventlog::{DataCheck, EventLog, Format, PrefixError, SeparatorDigests};
use touchstone_verifier::tpm::HashAlg;

/// Bank, register, value: what an independent replay gave.
type Expected = BTreeMap<String, BTreeMap<String, String>>;

/// Logs in the SHA-1 form.
const SHA1: &[&str] = &[
    "debian-10.bin",
    "ebs_event_missing_eventlog.bin",
    "guard-binary_bios_measurements_27.bin",
    "guard-tpm12_windows_lenovo_x1carbonv3.bin",
    "guard-windows_event_log.bin",
    "hirs-TpmLogSHA1.bin",
    "ita-measurements12.bin",
    "tpm2-tools-event-uefi-sha1-log.bin",
];

/// Declared banks that some of the log's events leave out: such a bank cannot be replayed.
const INCOMPLETE: &[(&str, HashAlg)] = &[
    ("ibmtss-dell1.log", HashAlg::Sha1),
    ("tpm2-tools-event-uefiaction.bin", HashAlg::Sha384),
    ("tpm2-tools-event-uefiaction.bin", HashAlg::Sha512),
    ("tpm2-tools-event-uefivar.bin", HashAlg::Sha384),
    ("tpm2-tools-event-uefivar.bin", HashAlg::Sha512),
];

/// The logs of a folder, by file name.
fn logs(folder: &str) -> Option<(PathBuf, BTreeMap<String, Vec<u8>>)> {
    let folder = touchstone_vectors::genuine(folder)?;
    let logs = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let is_log = name.ends_with("eventlog.bin") || name.ends_with(".ccel.bin") || name.ends_with(".log");
            is_log || (folder.ends_with("tpm-eventlogs") && name.ends_with(".bin"))
        })
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(&path).unwrap())
        })
        .collect();
    Some((folder, logs))
}

fn expected(folder: &Path, name: &str, extension: &str) -> Expected {
    serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.{extension}"))).unwrap()).unwrap()
}

/// Every register has the expected value, all at once, and every event whose digest must cover its data does.
fn assert_replays(name: &str, log: &EventLog<'_>, bank: HashAlg, registers: &BTreeMap<String, String>) {
    let replay = log
        .replay(bank)
        .unwrap_or_else(|error| panic!("{name} {bank}: {error}"));
    let registers: Vec<(u32, Vec<u8>)> = registers
        .iter()
        .map(|(pcr, value)| (pcr.parse().unwrap(), hex::decode(value).unwrap()))
        .collect();
    for (pcr, value) in &registers {
        assert_eq!(replay.register(*pcr).unwrap(), value, "{name} {bank} register {pcr}");
        assert!(replay.is_extended(*pcr), "{name} {bank} register {pcr}");
    }
    let extended = (0..24).filter(|pcr| replay.is_extended(*pcr)).count();
    assert_eq!(
        extended,
        registers.len(),
        "{name} {bank}: registers that nobody expects"
    );
    let quoted: Vec<(u32, &[u8])> = registers.iter().map(|(pcr, value)| (*pcr, value.as_slice())).collect();
    assert_eq!(log.match_prefix(bank, &quoted).unwrap().ignored, 0, "{name}");
    let separators = SeparatorDigests::new(bank);
    for event in log.events().iter().filter(|event| event.digest(bank).is_some()) {
        let index = event.index;
        assert_ne!(event.check_data(bank), DataCheck::Mismatch, "{name} event {index}");
        assert!(!separators.is_smuggled(event, bank), "{name} event {index}");
        let words = event.describe();
        assert!(
            !words.contains('\u{FFFD}') && !words.is_empty(),
            "{name} event {index}: {words}"
        );
    }
}

#[test]
fn genuine_logs_replay_as_others_replay_them() {
    let Some((folder, logs)) = logs("tpm-eventlogs") else {
        return;
    };
    assert!(logs.len() >= 25, "only {} logs found", logs.len());
    for (name, bytes) in &logs {
        let log = EventLog::parse(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let format = if SHA1.contains(&name.as_str()) {
            Format::Sha1
        } else {
            Format::CryptoAgile
        };
        assert_eq!(log.format(), format, "{name}");
        let banks = expected(&folder, name, "pcrs.json");
        assert!(format != Format::Sha1 || banks.keys().eq(["sha1"]), "{name}");
        for (bank, registers) in banks {
            let bank = HashAlg::from_name(&bank).unwrap();
            if INCOMPLETE.contains(&(name.as_str(), bank)) {
                assert!(log.replay(bank).is_err(), "{name} {bank}");
            } else {
                assert_replays(name, &log, bank, &registers);
            }
        }
    }
}

/// The same code reads confidential VMs' logs; their registers are RTMRs, which start with zeros.
#[test]
fn genuine_logs_of_confidential_vms_replay_to_their_rtmrs() {
    let Some((folder, logs)) = logs("ccel") else { return };
    assert!(logs.len() >= 2, "only {} logs found", logs.len());
    for (name, bytes) in &logs {
        for log in [EventLog::parse(bytes), EventLog::parse_ccel(bytes)] {
            let log = log.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(log.format(), Format::ConfidentialComputing, "{name}");
            let expected = expected(&folder, name, "mrs.json");
            let registers = &expected["sha384"];
            assert_replays(name, &log, HashAlg::Sha384, registers);
            let replay = log.replay(HashAlg::Sha384).unwrap();
            assert_eq!(replay.rtmr(0).map(hex::encode).as_ref(), registers.get("1"), "{name}");
            assert_eq!(replay.rtmr(3), Some(&[0; 48][..]), "{name}: RTMR3 was never extended");
            // The launch measurement and registers that do not exist never match a log.
            for register in [0, 5, 24] {
                assert_eq!(replay.register(register), None, "{name} {register}");
                let quoted = log.match_prefix(HashAlg::Sha384, &[(register, &[1; 48])]);
                assert!(matches!(quoted, Err(PrefixError::Diverged { .. })), "{name} {register}");
            }
        }
    }
}

/// The quote that came with the log has the same RTMRs (TDX quote v4: 48-byte header, RTMR0 at 328 of the body).
#[test]
fn a_genuine_td_quote_has_the_rtmrs_of_its_log() {
    let (Some((_, logs)), Some(quote)) = (logs("ccel"), touchstone_vectors::genuine("tdx/tdx_v4_gce_cos113.bin"))
    else {
        return;
    };
    let quote = std::fs::read(quote).unwrap();
    let log = EventLog::parse_ccel(&logs["gce_cos113.ccel.bin"]).unwrap();
    let replay = log.replay(HashAlg::Sha384).unwrap();
    for index in 0..4 {
        let at = 48 + 328 + 48 * index as usize;
        assert_eq!(replay.rtmr(index), Some(&quote[at..at + 48]), "RTMR{index}");
    }
}

/// Cut at any byte, a log is an error or a shorter log, and one that lost an event never replays to the full values.
#[test]
fn genuine_logs_cut_at_every_byte() {
    for folder in ["tpm-eventlogs", "tpm-evidence", "ccel"] {
        let Some((_, logs)) = logs(folder) else { return };
        for (name, bytes) in &logs {
            let whole = EventLog::parse(bytes).unwrap();
            let bank = HashAlg::ALL.into_iter().rev().find(|bank| whole.replay(*bank).is_ok());
            let full = whole.replay(bank.unwrap()).unwrap();
            let extended = |log: &EventLog<'_>| log.events().iter().filter(|event| event.is_extended()).count();
            let all = extended(&whole);
            let events_end = bytes.len() - whole.padding();
            for len in 0..events_end {
                let Ok(log) = EventLog::parse(&bytes[..len]) else {
                    continue;
                };
                assert_eq!(log.events(), &whole.events()[..log.events().len()], "{name} {len}");
                // What is left of the event that was cut looks like filling, or there is nothing left.
                assert!(log.padding() < 64, "{name} {len}");
                if extended(&log) < all {
                    assert_ne!(log.replay(bank.unwrap()).unwrap(), full, "{name} {len}");
                }
            }
        }
    }
}

/// Quoted registers of machines in the field, with the logs that came along; one pair is known not to fit.
#[test]
fn genuine_evidence_fits_its_log_or_is_told_apart() {
    let Some((folder, logs)) = logs("tpm-evidence") else {
        return;
    };
    for (name, banks, differing) in [
        ("linux-x1-good", &["sha256"][..], &[][..]),
        ("linux-x1-pcr0-mismatch-a", &["sha256"], &[0]),
        ("linux-multibank", &["sha1", "sha256"], &[]),
        ("windows-server-r340", &["sha256"], &[]),
    ] {
        let evidence: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
        let log = EventLog::parse(&logs[&format!("{name}.eventlog.bin")]).unwrap();
        for bank_name in banks {
            let bank = HashAlg::from_name(bank_name).unwrap();
            let replay = log.replay(bank).unwrap();
            let quoted: Vec<(u32, Vec<u8>)> = evidence["pcrs"][bank_name]
                .as_object()
                .unwrap()
                .iter()
                .map(|(pcr, value)| (pcr.parse().unwrap(), hex::decode(value.as_str().unwrap()).unwrap()))
                .filter(|(pcr, _)| replay.is_extended(*pcr))
                .collect();
            assert!(quoted.len() >= 8, "{name} {bank}");
            let quoted: Vec<(u32, &[u8])> = quoted.iter().map(|(pcr, value)| (*pcr, value.as_slice())).collect();
            let found = match log.match_prefix(bank, &quoted) {
                Ok(_) => vec![],
                Err(PrefixError::Diverged { registers }) => registers.into_iter().map(|(pcr, _)| pcr).collect(),
                Err(other) => panic!("{name}: {other}"),
            };
            assert_eq!(found, differing, "{name} {bank}");
        }
    }
    // GCE's quote covers all 24 registers in three banks.
    let log = EventLog::parse(&logs["gce-cos-85-nonce9009.eventlog.bin"]).unwrap();
    for bank in [HashAlg::Sha1, HashAlg::Sha256, HashAlg::Sha384] {
        let Some(values) = touchstone_vectors::genuine(&format!("tpm-quotes/gce-cos-85-nonce9009.{bank}.pcrs.json"))
        else {
            return;
        };
        let values: Expected = serde_json::from_slice(&std::fs::read(values).unwrap()).unwrap();
        let replay = log.replay(bank).unwrap();
        for (pcr, value) in &values[bank.name()] {
            let pcr = pcr.parse().unwrap();
            if replay.is_extended(pcr) {
                assert_eq!(hex::encode(replay.register(pcr).unwrap()), *value, "{bank} {pcr}");
            }
        }
    }
}
