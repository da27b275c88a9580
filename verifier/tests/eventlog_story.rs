//! Boots told as a story: Secure Boot's state and keys in genuine logs, and the recorded boots in words, exactly.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::path::Path;

use touchstone_verifier::eventlog::{BootStory, EventLog, Missing, Standing, Vouched, certificate_name};
use touchstone_verifier::tpm::HashAlg;

/// A log, Secure Boot's state, certificates and other entries of each database, and whether ExitBootServices was measured,
/// as an independent reader found them.
const EXPECTED: &[(&str, Option<bool>, &str, bool)] = &[
    (
        "tpm-eventlogs/arch-linux-workstation.bin",
        None,
        "PK:1+0 KEK:2+0 db:3+9 dbx:0+77",
        false,
    ),
    (
        "tpm-eventlogs/cos-101-amd-sev.bin",
        Some(true),
        "PK:1+0 KEK:1+0 db:1+0 dbx:4+0",
        true,
    ),
    (
        "tpm-eventlogs/crypto_agile_eventlog.bin",
        None,
        "PK:1+0 KEK:1+0 db:3+0 dbx:0+77",
        false,
    ),
    (
        "tpm-eventlogs/debian-10.bin",
        Some(true),
        "PK:1+0 KEK:1+0 db:2+0 dbx:3+183",
        false,
    ),
    (
        "tpm-eventlogs/ebs_event_missing_eventlog.bin",
        Some(false),
        "PK:1+0 KEK:2+0 db:4+0 dbx:0+14",
        false,
    ),
    ("tpm-eventlogs/guard-binary_bios_measurements_27.bin", None, "", false),
    (
        "tpm-eventlogs/guard-tpm12_windows_lenovo_x1carbonv3.bin",
        Some(true),
        "PK:1+0 KEK:2+0 db:4+1 dbx:0+78",
        false,
    ),
    (
        "tpm-eventlogs/guard-windows_event_log.bin",
        Some(true),
        "PK:1+0 KEK:2+0 db:3+0 dbx:1+77",
        false,
    ),
    (
        "tpm-eventlogs/hirs-TpmLog.bin",
        Some(false),
        "PK:0+0 KEK:0+0 db:0+0 dbx:0+0",
        false,
    ),
    (
        "tpm-eventlogs/hirs-TpmLogSHA1.bin",
        Some(true),
        "PK:1+0 KEK:2+0 db:3+0 dbx:1+77",
        false,
    ),
    (
        "tpm-eventlogs/ibmtss-amd635.log",
        Some(true),
        "PK:1+0 KEK:3+0 db:7+0 dbx:0+1",
        true,
    ),
    (
        "tpm-eventlogs/ibmtss-dell1.log",
        Some(true),
        "PK:1+0 KEK:2+0 db:4+0 dbx:1+83",
        true,
    ),
    (
        "tpm-eventlogs/ibmtss-hp1.log",
        Some(true),
        "PK:1+0 KEK:2+0 db:3+0 dbx:0+83",
        false,
    ),
    (
        "tpm-eventlogs/ita-measurements12.bin",
        Some(false),
        "PK:1+0 KEK:1+0 db:4+0 dbx:0+422",
        false,
    ),
    (
        "tpm-eventlogs/keylime-secureboot.bin",
        Some(true),
        "PK:1+0 KEK:3+0 db:4+0 dbx:0+371",
        true,
    ),
    (
        "tpm-eventlogs/rhel8-uefi.bin",
        Some(true),
        "PK:1+0 KEK:1+0 db:2+0 dbx:3+183",
        true,
    ),
    (
        "tpm-eventlogs/sb_cert_eventlog.bin",
        Some(true),
        "PK:1+0 KEK:1+0 db:4+0 dbx:0+77",
        false,
    ),
    (
        "tpm-eventlogs/tpm2-tools-event-bootorder.bin",
        Some(false),
        "PK:0+0 KEK:0+0 db:0+0 dbx:0+0",
        true,
    ),
    (
        "tpm-eventlogs/tpm2-tools-event-moklisttrusted.bin",
        Some(true),
        "PK:1+0 KEK:2+0 db:2+0 dbx:0+1",
        true,
    ),
    (
        "tpm-eventlogs/tpm2-tools-event-sd-boot-fedora37.bin",
        None,
        "PK:0+0 KEK:0+0 db:0+0 dbx:0+0",
        true,
    ),
    (
        "tpm-eventlogs/tpm2-tools-event-uefi-sha1-log.bin",
        None,
        "PK:0+0 KEK:1+0 db:2+0 dbx:0+78",
        false,
    ),
    ("tpm-eventlogs/tpm2-tools-event-uefiaction.bin", None, "", false),
    ("tpm-eventlogs/tpm2-tools-event-uefiservices.bin", None, "", false),
    ("tpm-eventlogs/tpm2-tools-event-uefivar.bin", Some(true), "", false),
    ("tpm-eventlogs/tpm2-tools-event.bin", None, "", false),
    (
        "tpm-eventlogs/ubuntu-2104-no-dbx.bin",
        Some(false),
        "PK:1+0 KEK:1+0 db:2+0 dbx:0+0",
        true,
    ),
    (
        "tpm-evidence/gce-cos-85-nonce9009.eventlog.bin",
        Some(true),
        "PK:1+0 KEK:1+0 db:1+0 dbx:4+0",
        true,
    ),
    (
        "tpm-evidence/linux-multibank.eventlog.bin",
        Some(false),
        "PK:1+0 KEK:2+0 db:4+0 dbx:0+83",
        false,
    ),
    (
        "tpm-evidence/linux-x1-good.eventlog.bin",
        Some(true),
        "PK:1+0 KEK:2+0 db:3+0 dbx:0+77",
        true,
    ),
    (
        "tpm-evidence/linux-x1-pcr0-mismatch-a.eventlog.bin",
        Some(true),
        "PK:1+0 KEK:2+0 db:3+0 dbx:0+77",
        true,
    ),
    (
        "tpm-evidence/windows-server-r340.eventlog.bin",
        Some(true),
        "PK:1+0 KEK:1+0 db:4+0 dbx:0+268",
        true,
    ),
];

/// The strongest bank that every event has.
fn bank(log: &EventLog<'_>) -> HashAlg {
    let mut banks = HashAlg::ALL.into_iter().rev();
    banks.find(|bank| log.replay(*bank).is_ok()).unwrap()
}

fn tell<'a>(log: &EventLog<'a>) -> BootStory<'a> {
    BootStory::tell(log, bank(log), Vouched::WHOLE_LOG)
}

#[test]
fn secure_boot_of_genuine_logs_is_understood() {
    for (name, state, databases, exited) in EXPECTED {
        let Some(path) = touchstone_vectors::genuine(name) else {
            return;
        };
        let bytes = std::fs::read(path).unwrap();
        let log = EventLog::parse(&bytes).unwrap();
        let story = tell(&log);
        let enabled = story.secure_boot.enabled.as_ref();
        assert_eq!(enabled.map(|fact| fact.value), *state, "{name}");
        assert!(enabled.is_none_or(|fact| fact.proven), "{name}");
        assert_eq!(story.secure_boot.contradictions, [""; 0], "{name}");
        let found: Vec<String> = story
            .secure_boot
            .databases()
            .map(|(database, fact)| {
                assert!(fact.proven, "{name} {database}");
                let lists = fact.value.lists.as_ref().unwrap();
                for der in lists.certificates() {
                    let words = certificate_name(der);
                    // One maker put a certificate with an extension twice into its db: the story says that it cannot be read.
                    let odd = *name == "tpm-eventlogs/ibmtss-amd635.log" && words.contains("each extension once");
                    assert!(odd || !words.contains("cannot be read"), "{name} {database}: {words}");
                }
                let certificates = lists.certificates().count();
                format!("{database}:{certificates}+{}", lists.len() - certificates)
            })
            .collect();
        assert_eq!(found.join(" "), *databases, "{name}");
        assert_eq!(story.exit_boot_services.is_some(), *exited, "{name}");
        let missing = story.missing();
        assert_eq!(missing.contains(&Missing::ExitBootServices), !exited, "{name}");
        for authority in &story.authorities {
            let words = authority.value.words();
            assert!(authority.proven && !words.contains("cannot be read"), "{name}: {words}");
        }
        let claims = story.claims();
        assert!(claims.complete != Some(true) || missing.is_empty(), "{name}");
        if !exited {
            assert_eq!(claims.complete, Some(false), "{name}: an incomplete log is flagged");
        }
        for chapter in story.chapters() {
            assert!(!chapter.lines.is_empty(), "{name} {}", chapter.title);
        }
    }
}

/// What the log of a confidential VM proves of its boot.
#[test]
fn a_confidential_vm_is_told_by_the_same_code() {
    let Some(path) = touchstone_vectors::genuine("ccel/gce_cos113.ccel.bin") else {
        return;
    };
    let bytes = std::fs::read(path).unwrap();
    let log = EventLog::parse_ccel(&bytes).unwrap();
    let story = tell(&log);
    assert_eq!(
        story.secure_boot.enabled.as_ref().map(|fact| (fact.value, fact.proven)),
        Some((false, true))
    );
    assert!(story.commands.iter().all(|command| command.proven));
    assert_eq!(story.commands.len(), 14);
    assert_eq!(story.shim_lists.len(), 3);
    assert_eq!(story.files.len(), 2);
    assert!(story.exit_boot_services.unwrap().proven);
    assert_eq!(story.missing(), []);
}

/// `TOUCHSTONE_WRITE_GOLDEN=1` writes the files anew; the difference is for a person to read.
#[test]
fn recorded_boots_in_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["good", "cmdline-changed", "ima-unknown-exec", "uki"] {
        let bytes = std::fs::read(root.join(format!("../swtpm-tests/boots/{name}/eventlog.bin"))).unwrap();
        let log = EventLog::parse(&bytes).unwrap();
        let mut words = String::new();
        for chapter in BootStory::tell(&log, HashAlg::Sha256, Vouched::WHOLE_LOG).chapters() {
            words.push_str(chapter.title);
            words.push('\n');
            for line in chapter.lines {
                words.push_str(&format!("  {} {}\n", line.standing.mark(), line.text));
            }
        }
        let golden = root.join(format!("tests/golden/story-{name}.txt"));
        if std::env::var_os("TOUCHSTONE_WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
            std::fs::write(&golden, &words).unwrap();
        }
        assert_eq!(words, std::fs::read_to_string(&golden).unwrap(), "{name}");
    }
}

/// With nothing vouched for, no line is proven.
#[test]
fn without_a_quote_nothing_is_proven() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["good", "uki"] {
        let bytes = std::fs::read(root.join(format!("../swtpm-tests/boots/{name}/eventlog.bin"))).unwrap();
        let log = EventLog::parse(&bytes).unwrap();
        let nothing = Vouched {
            events: 0,
            registers: u32::MAX,
        };
        let story = BootStory::tell(&log, HashAlg::Sha256, nothing);
        for chapter in story.chapters() {
            for line in chapter.lines {
                assert_ne!(line.standing, Standing::Proven, "{}", line.text);
            }
        }
    }
}
