//! One golden boot, and machines that differ from it in one thing each: what is the machine's own is accepted, what is
//! another software is refused, each with the code of the event that differs.
//!
//! Genuine logs are changed event by event, the registers computed anew and quoted by a key of the test's own: so nothing
//! but the difference itself can be the reason.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::log::{Machine, RawEvent, RawLog};
use common::{BOOT, Boot, codes, selection};
use touchstone_verifier::appraisal::{Appraisal, ClaimValue, Tier};
use touchstone_verifier::corim::MachineReference;
use touchstone_verifier::eventlog::{EventLog, EventType};
use touchstone_verifier::policy::EventLogRule;
use touchstone_verifier::tpm::{HashAlg, PcrSelection};

const UUIDS: [&str; 2] = [
    "0f0e0d0c-0b0a-4908-8706-050403020100",
    "11111111-2222-4333-8444-555555555555",
];

/// The good boot; its GRUB also looks for a file system by UUID.
fn golden() -> RawLog {
    let mut log = RawLog::of(&Boot::load("good"));
    let at = log.position(8, b"set timeout");
    log.events.insert(
        at,
        grub(&format!("search --no-floppy --fs-uuid --set=root {}", UUIDS[0])),
    );
    assert_eq!(log.retype("rootfstype=ramfs", &format!("root=UUID={}", UUIDS[0])), 2);
    log
}

fn grub(text: &str) -> RawEvent {
    RawEvent::new(
        8,
        EventType::IPL,
        format!("grub_cmd: {text}\0").as_bytes(),
        text.as_bytes(),
    )
}

fn driver(data: &[u8]) -> RawEvent {
    RawEvent::new(2, EventType::EFI_BOOT_SERVICES_DRIVER, data, b"the driver's code")
}

/// A golden log and `change` to it, judged against a reference made of the golden log.
fn judged(change: impl FnOnce(&mut RawLog)) -> (Appraisal, bool) {
    let golden = golden();
    let mut changed = golden.clone();
    change(&mut changed);
    let required = selection(&BOOT);
    let differs = golden.values(&required) != changed.values(&required);
    let machine = Machine::new(&changed, &required, &[golden.reference("golden", &required)]);
    (machine.appraise(), differs)
}

/// The value of the variable that an event holds.
fn value_of(event: &RawEvent) -> Vec<u8> {
    let name = u64::from_le_bytes(event.data[16..24].try_into().unwrap()) as usize;
    event.data[32 + 2 * name..].to_vec()
}

fn set_value(event: &mut RawEvent, value: &[u8]) {
    let name = u64::from_le_bytes(event.data[16..24].try_into().unwrap()) as usize;
    event.data.truncate(32 + 2 * name);
    event.data[24..32].copy_from_slice(&(value.len() as u64).to_le_bytes());
    event.data.extend(value);
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            }
        })
    })
}

/// Another disk: its GUID and its first partition's.
fn other_disk(log: &mut RawLog) {
    let event = log.event(5, b"EFI PART");
    event.data[56..72].copy_from_slice(b"another disk's..");
    event.data[116..132].copy_from_slice(b"other partition.");
    event.data[16..20].fill(0);
    let crc = crc32(&event.data[..92]);
    event.data[16..20].copy_from_slice(&crc.to_le_bytes());
    let data = event.data.clone();
    event.measure(&data);
}

fn other_boot_order(log: &mut RawLog) {
    let event = log.event(1, &utf16("BootOrder"));
    let mut value = value_of(event);
    value.rotate_left(2);
    set_value(event, &value);
    event.measure(&value);
    let (first, second) = (log.position(1, &utf16("Boot0000")), log.position(1, &utf16("Boot0001")));
    log.events.swap(first, second);
}

/// A boot entry for another network card: the address is in its device path.
fn other_mac(log: &mut RawLog) {
    let at = log.position(1, &utf16("Boot0000"));
    let mut event = log.events[at].clone();
    let mut mac = vec![3, 11, 37, 0];
    mac.extend([0x52, 0x54, 0, 1, 2, 3]);
    mac.resize(37, 0);
    mac.extend([0x7F, 0xFF, 4, 0]);
    let mut value = vec![1, 0, 0, 0];
    value.extend((mac.len() as u16).to_le_bytes());
    value.extend(utf16("UEFI PXE\0"));
    value.extend(mac);
    set_value(&mut event, &value);
    event.measure(&value);
    log.events.insert(at, event);
}

fn failed_boot_entry(log: &mut RawLog) {
    let at = log.position(4, b"Calling EFI Application");
    let call = log.events[at].clone();
    let back = RawEvent::whole(
        4,
        EventType::EFI_ACTION,
        b"Returning from EFI Application from Boot Option",
    );
    log.events.splice(at..at, [call, back]);
}

fn other_file_system(log: &mut RawLog) {
    assert_eq!(log.retype(UUIDS[0], UUIDS[1]), 3);
}

/// The dbx with the entries of `change`; a whole event's digest.
fn dbx(log: &mut RawLog, change: impl FnOnce(&mut Vec<u8>)) {
    let event = log.event(7, &utf16("dbx"));
    let mut value = value_of(event);
    change(&mut value);
    set_value(event, &value);
    let data = event.data.clone();
    event.measure(&data);
}

/// One more list with one entry.
fn newer_dbx(log: &mut RawLog) {
    dbx(log, |value| {
        let mut list = value[..16].to_vec();
        list.extend([76, 0, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0]);
        list.extend([0xAA; 48]);
        value.extend(list);
    });
}

fn sbat(log: &mut RawLog, date: &str) {
    let event = log.event(7, b"sbat,1,");
    let text = String::from_utf8(event.data.split_off(event.data.len() - 32)).unwrap();
    event.data.extend(text.replace("2025021800", date).into_bytes());
    let data = event.data.clone();
    event.measure(&data);
}

#[test]
fn the_same_software_on_another_machine_is_accepted() {
    type Change = fn(&mut RawLog);
    let rows: [(&str, Change); 8] = [
        ("another disk", other_disk),
        ("another boot order", other_boot_order),
        ("another network card", other_mac),
        ("a boot entry that failed first", failed_boot_entry),
        ("another file system", other_file_system),
        ("a newer dbx", newer_dbx),
        ("a newer SBAT level", |log| sbat(log, "2099010100")),
        ("all of it", |log| {
            other_disk(log);
            other_boot_order(log);
            other_mac(log);
            failed_boot_entry(log);
            other_file_system(log);
            newer_dbx(log);
            sbat(log, "2099010100");
        }),
    ];
    for (what, change) in rows {
        let (appraisal, differs) = judged(change);
        assert!(differs, "{what}: the registers differ");
        assert_eq!(appraisal.reasons, [], "{what}");
        assert_eq!(appraisal.status, Tier::Affirming, "{what}");
        assert_eq!(appraisal.reference.as_deref(), Some("golden"), "{what}");
    }
}

/// Another digest, which no data tell.
fn replaced(event: &mut RawEvent) {
    event.measure(b"another content");
}

#[test]
fn other_software_is_refused_with_the_code_of_its_event() {
    type Change = fn(&mut RawLog);
    let rows: [(&str, Change, u8, &[&str]); 22] = [
        (
            "another kernel, as loaded",
            |log| {
                let last = log.events.iter().rposition(|event| event.pcr == 4).unwrap();
                replaced(&mut log.events[last]);
            },
            4,
            &["boot-application-mismatch"],
        ),
        (
            "another kernel, as read",
            |log| replaced(log.event(9, b"/vmlinuz")),
            9,
            &["boot-file-mismatch"],
        ),
        (
            "another initrd",
            |log| replaced(log.event(9, b"/initrd.img")),
            9,
            &["boot-file-mismatch"],
        ),
        (
            "another command line",
            |log| {
                assert_eq!(log.retype("quiet", "quiet init=/bin/sh"), 2);
            },
            8,
            &["grub-command-mismatch", "kernel-command-line-mismatch"],
        ),
        (
            "another boot loader",
            |log| replaced(log.event(4, &utf16("grubx64"))),
            4,
            &["boot-application-mismatch"],
        ),
        (
            "another shim",
            |log| replaced(log.event(4, &utf16("BOOT"))),
            4,
            &["boot-application-mismatch"],
        ),
        (
            "another GRUB configuration",
            |log| replaced(log.event(9, b"grub.cfg")),
            9,
            &["boot-file-mismatch"],
        ),
        (
            "another GRUB command",
            |log| {
                assert_eq!(log.retype("set timeout=0", "set timeout=9"), 1);
            },
            8,
            &["grub-command-mismatch"],
        ),
        (
            "one GRUB command more",
            |log| {
                let at = log.position(8, b"grub_cmd: boot");
                log.events.insert(at, grub("insmod evil"));
            },
            8,
            &["grub-command-mismatch"],
        ),
        (
            "another firmware volume",
            |log| replaced(&mut log.events[1]),
            0,
            &["firmware-code-mismatch"],
        ),
        (
            "a firmware volume more",
            |log| {
                let more = log.events[1].clone();
                log.events.insert(1, more);
            },
            0,
            &["firmware-code-mismatch"],
        ),
        (
            "an option ROM",
            |log| log.events.insert(3, driver(b"")),
            2,
            &["option-rom-mismatch"],
        ),
        (
            "Secure Boot off",
            |log| {
                let event = log.event(7, &utf16("SecureBoot"));
                set_value(event, &[0]);
                let data = event.data.clone();
                event.measure(&data);
            },
            7,
            &["secure-boot-mismatch"],
        ),
        (
            "another db",
            |log| {
                let at = (0..log.events.len())
                    .find(|at| {
                        let event = &log.events[*at];
                        event.pcr == 7 && event.data[16] == 2 && event.data[32..36] == *b"d\0b\0"
                    })
                    .unwrap();
                let event = &mut log.events[at];
                *event.data.last_mut().unwrap() ^= 1;
                let data = event.data.clone();
                event.measure(&data);
            },
            7,
            &["secure-boot-mismatch"],
        ),
        (
            "an older dbx",
            |log| dbx(log, |value| value.clear()),
            7,
            &["secure-boot-mismatch"],
        ),
        (
            "another dbx of the same length",
            |log| dbx(log, |value| *value.last_mut().unwrap() ^= 1),
            7,
            &["secure-boot-mismatch"],
        ),
        (
            "an older SBAT level",
            |log| sbat(log, "2021030218"),
            7,
            &["secure-boot-mismatch"],
        ),
        (
            "another authority for shim",
            |log| {
                let at = log
                    .events
                    .iter()
                    .position(|event| event.pcr == 7 && event.event_type == EventType::EFI_VARIABLE_AUTHORITY.0)
                    .unwrap();
                let event = &mut log.events[at];
                *event.data.last_mut().unwrap() ^= 1;
                let data = event.data.clone();
                event.measure(&data);
            },
            7,
            &["secure-boot-mismatch"],
        ),
        (
            "other owner's keys",
            |log| replaced(log.event(14, b"MokListX")),
            14,
            &["mok-mismatch"],
        ),
        (
            "a boot entry with a command line",
            |log| {
                let event = log.event(1, &utf16("Boot0001"));
                let mut value = value_of(event);
                value.extend(utf16("init=/bin/sh"));
                set_value(event, &value);
                event.measure(&value);
            },
            1,
            &["firmware-config-mismatch"],
        ),
        (
            "a setting of the firmware",
            |log| {
                log.events
                    .insert(3, RawEvent::whole(1, EventType::PLATFORM_CONFIG_FLAGS, &[1]));
            },
            1,
            &["firmware-config-mismatch"],
        ),
        (
            "a boot without a partition table",
            |log| {
                let at = log.position(5, b"EFI PART");
                log.events[at] = RawEvent::whole(5, EventType::EFI_ACTION, b"Booting to CD");
            },
            5,
            &["boot-configuration-mismatch"],
        ),
    ];
    for (what, change, pcr, expected) in rows {
        let (appraisal, _) = judged(change);
        assert_eq!(codes(&appraisal), expected, "{what}: {:?}", appraisal.reasons);
        assert_eq!(appraisal.status, Tier::Contraindicated, "{what}");
        assert_eq!(appraisal.reference, None, "{what}");
        for reason in &appraisal.reasons {
            assert_eq!(reason.claim, format!("PCR {pcr} (sha256)"), "{what}");
            let hint = reason.hint.as_ref().unwrap();
            assert_eq!(
                (hint.register, hint.nearest.as_deref()),
                (Some(pcr), Some("golden")),
                "{what}"
            );
            assert!(
                hint.command.as_ref().unwrap().starts_with("touchstone reference add"),
                "{what}"
            );
            let told = reason
                .found
                .strip_prefix("event ")
                .and_then(|found| found.split(':').next()?.parse().ok());
            assert_eq!(hint.event, told, "{what}");
        }
    }
}

#[test]
fn a_difference_is_told_at_its_event() {
    let found = |change: fn(&mut RawLog)| {
        let (appraisal, _) = judged(change);
        let reason = &appraisal.reasons[0];
        format!("expected {}, found {}", reason.expected, reason.found)
    };
    // Neither the file system's UUID nor the boot order, which differ as well, are told.
    let line = found(|log| {
        other_file_system(log);
        assert_eq!(log.retype("set timeout=0", "set timeout=9"), 1);
    });
    assert_eq!(
        line,
        "expected grub: set timeout=0, found event 37: grub: set timeout=9"
    );
    let line = found(|log| {
        let at = log.position(8, b"grub_cmd: boot");
        log.events.insert(at, grub("insmod evil"));
    });
    assert_eq!(line, "expected no further event, found event 45: grub: insmod evil");
    let line = found(|log| dbx(log, |value| value.clear()));
    assert_eq!(
        line,
        "expected dbx (76 bytes) or newer, found event 8: dbx with 0 entries, 1 of the reference's 1 are missing"
    );
}

#[test]
fn relabelled_events_are_compared_by_their_digest() {
    let gpt = golden().event(5, b"EFI PART").data.clone();
    let order = golden().event(1, &utf16("BootOrder")).data.clone();
    type Change = Box<dyn FnOnce(&mut RawLog)>;
    let rows: Vec<(&str, Change, &[&str])> = vec![
        (
            "code measured as a partition table",
            Box::new(move |log: &mut RawLog| {
                let mut event = RawEvent::whole(5, EventType::EFI_GPT_EVENT, &gpt);
                event.measure(b"code");
                let at = log.position(5, b"EFI PART");
                log.events.insert(at, event);
            }),
            &["event-digest-mismatch", "boot-configuration-mismatch"],
        ),
        (
            "code measured as a boot order",
            Box::new(move |log: &mut RawLog| {
                let mut event = RawEvent::whole(1, EventType::EFI_VARIABLE_BOOT, &order);
                event.measure(b"code");
                let at = log.position(1, &utf16("Boot0000"));
                log.events.insert(at, event);
            }),
            &["event-digest-mismatch", "firmware-config-mismatch"],
        ),
        (
            "a kernel image measured as an action of the boot manager",
            Box::new(|log| {
                let last = log.events.iter().rposition(|event| event.pcr == 4).unwrap();
                log.events[last].measure(b"another kernel");
                log.events[last].event_type = EventType::EFI_ACTION.0;
                log.events[last].data = b"Calling EFI Application from Boot Option".to_vec();
            }),
            &["event-digest-mismatch", "boot-application-mismatch"],
        ),
        (
            "an image in another register's clothes",
            Box::new(|log| {
                let last = log.events.iter().rposition(|event| event.pcr == 4).unwrap();
                log.events
                    .insert(last, RawEvent::whole(4, EventType::EFI_VARIABLE_BOOT, b"no variable"));
            }),
            &["boot-application-mismatch"],
        ),
        (
            "a command without its prefix",
            Box::new(|log| {
                let event = log.event(8, b"grub_cmd: boot");
                event.data = b"boot\0".to_vec();
            }),
            &[],
        ),
    ];
    for (attack, change, expected) in rows {
        let (appraisal, _) = judged(change);
        assert_eq!(codes(&appraisal), expected, "{attack}: {:?}", appraisal.reasons);
    }
}

#[test]
fn a_state_is_whole_and_generations_stand_side_by_side() {
    let required = selection(&BOOT);
    let old = golden();
    let mut new = old.clone();
    replaced(new.event(9, b"/vmlinuz"));
    assert_eq!(new.retype("quiet", "quiet audit=1"), 2);
    let all = [old.reference("old", &required), new.reference("new", &required)];
    let judge = |log: &RawLog| Machine::new(log, &required, &all).appraise();
    for (name, log) in [("old", &old), ("new", &new)] {
        let mut elsewhere = log.clone();
        other_disk(&mut elsewhere);
        other_file_system(&mut elsewhere);
        assert_eq!(judge(&elsewhere).reference.as_deref(), Some(name));
    }
    // The new kernel with the old command line is in no reference, though each register is in one.
    let mut mixed = old.clone();
    replaced(mixed.event(9, b"/vmlinuz"));
    assert_eq!(judge(&mixed).status, Tier::Contraindicated);
}

#[test]
fn every_bank_of_the_policy_must_match_the_same_reference() {
    let both = PcrSelection::new([(HashAlg::Sha256, BOOT), (HashAlg::Sha384, BOOT)]).unwrap();
    let log = golden().with_bank(HashAlg::Sha384);
    let whole = log.reference("whole", &both);
    let mut elsewhere = log.clone();
    for event in &mut elsewhere.events {
        if event.pcr == 8 && event.data.starts_with(b"grub_cmd: search") {
            let text = format!("search --no-floppy --fs-uuid --set=root {}", UUIDS[1]);
            event.data = format!("grub_cmd: {text}\0").into_bytes();
            event.measure(text.as_bytes());
        }
    }
    let appraisal = Machine::new(&elsewhere, &both, std::slice::from_ref(&whole)).appraise();
    assert_eq!(
        (codes(&appraisal), appraisal.reference.as_deref()),
        (vec![], Some("whole"))
    );
    // The same content in one bank, another in the other: no machine measures so.
    let mut split = log.clone();
    let (_, digest) = &mut split.event(9, b"/initrd.img").digests[2];
    *digest = HashAlg::Sha384.digest([&b"another"[..]]).as_ref().to_vec();
    let appraisal = Machine::new(&split, &both, std::slice::from_ref(&whole)).appraise();
    assert_eq!(codes(&appraisal), ["boot-file-mismatch"]);
    assert_eq!(appraisal.reasons[0].claim, "PCR 9 (sha384)");
    // Two references that have one bank each are not one that has both.
    let mut halves = [whole.clone(), whole.clone()];
    halves[0].banks.remove(&HashAlg::Sha384);
    halves[1].banks.remove(&HashAlg::Sha256);
    halves[1].name = "other half".into();
    let appraisal = Machine::new(&log, &both, &halves).appraise();
    assert_eq!(appraisal.status, Tier::Contraindicated);
    assert!(codes(&appraisal).iter().all(|code| *code == "reference-incomplete"));
    let sha256 = PcrSelection::new([(HashAlg::Sha256, BOOT)]).unwrap();
    let appraisal = Machine::new(&log, &both, &[log.reference("one", &sha256)]).appraise();
    assert_eq!(codes(&appraisal), ["reference-missing"]);
    assert_eq!(appraisal.reasons[0].claim, "registers (sha384)");
}

#[test]
fn a_log_with_only_some_banks_proves_only_those() {
    let (sha256, both) = (
        selection(&BOOT),
        PcrSelection::new([(HashAlg::Sha256, BOOT), (HashAlg::Sha384, BOOT)]).unwrap(),
    );
    let log = golden().with_bank(HashAlg::Sha384);
    let reference = log.reference("whole", &both);
    let mut machine = Machine::new(&log, &both, std::slice::from_ref(&reference));
    machine.log = Some(log.clone().only_bank(HashAlg::Sha256).encode());
    assert_eq!(codes(&machine.appraise()), ["log-does-not-replay"]);
    let mut machine = Machine::new(&log, &sha256, &[reference]);
    machine.log = Some(log.only_bank(HashAlg::Sha384).encode());
    assert_eq!(codes(&machine.appraise()), ["log-does-not-replay"]);
}

#[test]
fn a_log_in_the_old_form_counts_as_none() {
    let required = selection(&BOOT);
    let log = golden();
    // TCG_PCR_EVENT: register, type, SHA-1 digest, data.
    let mut old = Vec::new();
    for event in &log.events {
        old.extend(event.pcr.to_le_bytes());
        old.extend(event.event_type.to_le_bytes());
        old.extend(&event.digests[0].1);
        old.extend((event.data.len() as u32).to_le_bytes());
        old.extend(&event.data);
    }
    let mut machine = Machine::new(&log, &required, &[log.reference("golden", &required)]);
    machine.log = Some(old.clone());
    assert_eq!(codes(&machine.appraise()), ["log-sha1-only"]);
    machine.policy.event_log = EventLogRule::RegistersSuffice;
    let appraisal = machine.appraise();
    assert_eq!(
        (codes(&appraisal), &appraisal.leniencies[..]),
        (vec![], &["event-log: registers-suffice".to_owned()][..])
    );
    // Without a log nothing tells the machine's own from the software's.
    let mut elsewhere = log.clone();
    other_disk(&mut elsewhere);
    machine.values = elsewhere.values(&required);
    assert_eq!(codes(&machine.appraise()), ["boot-configuration-mismatch"]);
    machine.log = None;
    assert_eq!(codes(&machine.appraise()), ["boot-configuration-mismatch"]);
}

#[test]
fn a_reference_without_data_matches_by_value_only() {
    let required = selection(&BOOT);
    let log = golden();
    let mut old = log.reference("old", &required);
    for event in &mut old.banks.get_mut(&HashAlg::Sha256).unwrap().events {
        event.data = None;
    }
    let judge = |log: &RawLog| Machine::new(log, &required, std::slice::from_ref(&old)).appraise();
    assert_eq!(codes(&judge(&log)), [""; 0]);
    let mut elsewhere = log.clone();
    other_disk(&mut elsewhere);
    assert_eq!(codes(&judge(&elsewhere)), ["boot-configuration-mismatch"]);
}

#[test]
fn nothing_follows_the_end_of_boot_services() {
    let invoked = |log: &RawLog| log.position(5, b"Exit Boot Services Invocation");
    let action = |text: &str| RawEvent::whole(5, EventType::EFI_ACTION, text.as_bytes());
    type Change = Box<dyn Fn(&mut RawLog)>;
    let rows: Vec<(&str, Change, bool)> = vec![
        ("a driver after it", Box::new(|log| log.events.push(driver(b""))), true),
        (
            "an image after it",
            Box::new(|log| {
                log.events
                    .push(RawEvent::new(4, EventType::EFI_BOOT_SERVICES_APPLICATION, b"", b"x"))
            }),
            true,
        ),
        (
            "between invocation and return",
            Box::new(move |log| {
                let at = invoked(log) + 1;
                log.events.insert(at, driver(b""));
            }),
            true,
        ),
        (
            "a second separator",
            Box::new(|log| log.events.push(RawEvent::whole(7, EventType::SEPARATOR, &[0; 4]))),
            true,
        ),
        (
            "a text of the boot loader",
            Box::new(|log| log.events.push(grub("boot"))),
            false,
        ),
        (
            "a failed try, an image, and another try",
            Box::new(move |log| {
                let at = invoked(log);
                let image = RawEvent::new(4, EventType::EFI_BOOT_SERVICES_APPLICATION, b"", b"x");
                let failed = action("Exit Boot Services Returned with Failure");
                log.events
                    .splice(at..at, [action("Exit Boot Services Invocation"), failed, image]);
            }),
            false,
        ),
    ];
    let required = selection(&BOOT);
    for (what, change, refused) in rows {
        let mut log = golden();
        change(&mut log);
        // The reference is of the very same registers: the order alone is what is wrong.
        let appraisal = Machine::new(&log, &required, &[log.reference("same", &required)]).appraise();
        let expected: &[&str] = if refused {
            &["event-after-exit-boot-services"]
        } else {
            &[]
        };
        assert_eq!(codes(&appraisal), expected, "{what}: {:?}", appraisal.reasons);
        assert!(
            appraisal
                .reasons
                .iter()
                .all(|reason| reason.hint.as_ref().unwrap().command.is_none()),
            "{what}"
        );
    }
}

#[test]
fn phases_of_the_boot_follow_a_unified_kernel_image() {
    let required = selection(&BOOT);
    let log = RawLog::of(&Boot::load("uki"));
    let reference = log.reference("uki", &required);
    let judge = |words: &[&str], log: &RawLog, reference: &MachineReference| {
        let mut machine = Machine::new(log, &required, std::slice::from_ref(reference));
        let value = machine.values.get_mut(&(HashAlg::Sha256.tpm_id(), 11)).unwrap();
        for word in words {
            let word = HashAlg::Sha256.digest([word.as_bytes()]);
            *value = HashAlg::Sha256
                .digest([value.as_slice(), word.as_ref()])
                .as_ref()
                .to_vec();
        }
        machine.appraise()
    };
    let initrd = judge(&["enter-initrd"], &log, &reference);
    assert_eq!(
        (codes(&initrd), &initrd.claims["boot_phase"]),
        (vec![], &ClaimValue::Text("enter-initrd".into()))
    );
    let ready = judge(&["enter-initrd", "leave-initrd", "sysinit", "ready"], &log, &reference);
    assert_eq!(
        (codes(&ready), &ready.claims["boot_phase"]),
        (vec![], &ClaimValue::Text("ready".into()))
    );
    assert!(!judge(&[], &log, &reference).claims.contains_key("boot_phase"));
    for words in [
        &["evil"][..],
        &["ready"],
        &["enter-initrd", "evil"],
        &["leave-initrd", "enter-initrd"],
    ] {
        assert_eq!(
            codes(&judge(words, &log, &reference)),
            ["log-does-not-replay", "uki-section-mismatch"],
            "{words:?}"
        );
    }
    // Phases excuse nothing else in the register, and do not exist where no unified kernel image was measured.
    let mut other = log.clone();
    let last = other.events.iter().rposition(|event| event.pcr == 11).unwrap();
    replaced(&mut other.events[last]);
    assert_eq!(
        codes(&judge(&["enter-initrd"], &other, &reference)),
        ["uki-section-mismatch"]
    );
    let grub = golden();
    let without = grub.reference("grub", &required);
    assert_eq!(
        codes(&judge(&["enter-initrd"], &grub, &without)),
        ["log-does-not-replay", "uki-section-mismatch"]
    );
    // A reference computed from the image states events and no value.
    let mut computed = reference.clone();
    computed.banks.get_mut(&HashAlg::Sha256).unwrap().registers.remove(&11);
    assert_eq!(
        codes(&judge(&["enter-initrd", "leave-initrd"], &log, &computed)),
        [""; 0]
    );
    assert_eq!(
        codes(&judge(&["enter-initrd"], &other, &computed)),
        ["uki-section-mismatch"]
    );
}

#[test]
fn genuine_logs_end_their_boot_services_cleanly() {
    let mut judged = 0;
    let mut logs: Vec<(String, Vec<u8>)> = ["good", "cmdline-changed", "uki", "ima-unknown-exec"]
        .map(|boot| (boot.to_owned(), Boot::load(boot).log))
        .to_vec();
    if let Some(folder) = touchstone_vectors::genuine("tpm-eventlogs") {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.ends_with(".bin") || name.ends_with(".log") {
                logs.push((name, std::fs::read(path).unwrap()));
            }
        }
    }
    let required = selection(&[0, 2, 4, 7]);
    for (name, bytes) in logs {
        let Ok(log) = EventLog::parse(&bytes) else { continue };
        let Ok(replay) = log.replay(HashAlg::Sha256) else {
            continue;
        };
        let value = |pcr: u8| {
            (
                (HashAlg::Sha256.tpm_id(), pcr),
                replay.register(u32::from(pcr)).unwrap().to_vec(),
            )
        };
        let golden = RawLog::of(&Boot::load("good"));
        let mut machine = Machine::new(&golden, &required, &[]);
        machine.values = [0, 2, 4, 7].map(value).into();
        machine.log = Some(bytes.clone());
        let codes = codes(&machine.appraise()).join(" ");
        assert!(!codes.contains("event-after-exit"), "{name}: {codes}");
        judged += 1;
    }
    assert!(judged >= 4, "{judged}");
}
