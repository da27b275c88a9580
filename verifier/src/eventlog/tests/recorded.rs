//! Recorded boots: they replay, their data fits, and a log cut anywhere is a shorter log or an error.

use std::collections::BTreeMap;

use super::*;

/// `pcrs.txt`: bank, register, value a line.
fn registers_of(boot: &Path) -> BTreeMap<(HashAlg, u32), Vec<u8>> {
    let text = std::fs::read_to_string(boot.join("pcrs.txt")).unwrap();
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let bank = HashAlg::from_name(words.next().unwrap()).unwrap();
            let pcr = words.next().unwrap().parse().unwrap();
            ((bank, pcr), hex::decode(words.next().unwrap()).unwrap())
        })
        .collect()
}

/// Registers the firmware and boot loader fill (10 is IMA's).
const BOOT: [u32; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14];

#[test]
fn recorded_boots_replay_to_their_registers_in_every_bank() {
    for boot in boots() {
        let bytes = log_of(&boot);
        let log = EventLog::parse(&bytes).unwrap();
        let registers = registers_of(&boot);
        for bank in [HashAlg::Sha1, HashAlg::Sha256] {
            let replay = log.replay(bank).unwrap();
            let quoted: Vec<(u32, &[u8])> = BOOT.map(|pcr| (pcr, registers[&(bank, pcr)].as_slice())).to_vec();
            for (pcr, value) in &quoted {
                assert_eq!(
                    replay.register(*pcr).unwrap(),
                    *value,
                    "{} {bank} {pcr}",
                    boot.display()
                );
            }
            let matched = log.match_prefix(bank, &quoted).unwrap();
            assert_eq!(
                matched,
                PrefixMatch {
                    events: log.events().len(),
                    ignored: 0
                }
            );
        }
        assert_eq!(
            log.replay(HashAlg::Sha384).unwrap_err(),
            ReplayError::BankAbsent { bank: HashAlg::Sha384 }
        );
    }
}

#[test]
fn digests_of_recorded_boots_cover_their_data_where_they_must() {
    for boot in boots() {
        let bytes = log_of(&boot);
        let log = EventLog::parse(&bytes).unwrap();
        for bank in [HashAlg::Sha1, HashAlg::Sha256] {
            let separators = SeparatorDigests::new(bank);
            for event in log.events() {
                assert_ne!(
                    event.check_data(bank),
                    DataCheck::Mismatch,
                    "{} event {}",
                    boot.display(),
                    event.index
                );
                assert!(!separators.is_smuggled(event, bank));
            }
        }
        let covered = log
            .events()
            .iter()
            .filter(|event| event.check_data(HashAlg::Sha256) == DataCheck::Covered)
            .count();
        assert!(covered >= 22, "{covered} events of {}", boot.display());
    }
}

#[test]
fn a_recorded_boot_in_words() {
    let bytes = log_of(&boots()[0]);
    let log = EventLog::parse(&bytes).unwrap();
    let words: Vec<String> = log
        .events()
        .iter()
        .map(|event| format!("{} {} {}", event.pcr, event.event_type, event.describe()))
        .collect();
    for expected in [
        "0 EV_EFI_PLATFORM_FIRMWARE_BLOB firmware volume at 0x820000, 917504 bytes",
        "7 EV_EFI_VARIABLE_DRIVER_CONFIG SecureBoot = on",
        "7 EV_EFI_VARIABLE_DRIVER_CONFIG PK (1005 bytes)",
        "7 EV_EFI_VARIABLE_AUTHORITY authority SbatLevel = sbat,1,2025021800\\u{a}shim,4\\u{a}grub,5\\u{a}",
        "1 EV_EFI_VARIABLE_BOOT BootOrder = 0001,0000,0002",
        "4 EV_EFI_BOOT_SERVICES_APPLICATION image \\EFI\\BOOT\\BOOTX64.EFI",
        "4 EV_EFI_BOOT_SERVICES_APPLICATION image of 14186432 bytes, loaded without a path",
        "5 EV_EFI_GPT_EVENT partition table of disk 6d656173-7572-6564-626f-6f7400000001, 1 partition",
        "5 EV_EFI_ACTION action \"Exit Boot Services Invocation\"",
        "8 EV_IPL grub: set timeout=0",
        "8 EV_IPL kernel command line \"/vmlinuz console=ttyS0 ima_policy=tcb rootfstype=ramfs rdinit=/init panic=-1 quiet loglevel=4\"",
        "9 EV_IPL file (hd0,gpt1)/EFI/debian/grub.cfg",
        "14 EV_IPL machine owner's key list MokList",
        "6 EV_SEPARATOR separator",
    ] {
        assert!(
            words.iter().any(|line| line == expected),
            "{expected} not in {words:#?}"
        );
    }
    let first = log
        .events()
        .iter()
        .find_map(|event| event.secure_boot_variable("SecureBoot"));
    assert_eq!(first, Some(&[1u8][..]));
    let uki = log_of(&boots()[3]);
    let log = EventLog::parse(&uki).unwrap();
    assert!(
        log.events()
            .iter()
            .any(|event| event.pcr == 9 && event.is_kernel_command_line())
    );
    assert!(
        log.events()
            .iter()
            .any(|event| event.pcr == 11 && event.describe() == "section .linux")
    );
}

/// Event boundaries are where a shorter log is a log; anywhere else the parser says where it ends.
#[test]
fn a_log_cut_at_every_byte_is_a_shorter_log_or_a_typed_error() {
    let bytes = log_of(&boots()[0]);
    let whole = EventLog::parse(&bytes).unwrap();
    let mut shorter = 0;
    for len in 0..bytes.len() {
        match EventLog::parse(&bytes[..len]) {
            Ok(log) => {
                assert_eq!(log.events(), &whole.events()[..log.events().len()], "{len}");
                // What is left of the event that was cut is filling, or nothing.
                assert!(log.padding() < 9, "{len}");
                shorter += usize::from(log.padding() == 0);
            }
            Err(LogError::Truncated { offset, needed, left }) => {
                assert!(offset + left == len && needed > left, "{len}")
            }
            Err(other) => panic!("{len}: {other}"),
        }
    }
    assert_eq!(shorter, whole.events().len());
}
