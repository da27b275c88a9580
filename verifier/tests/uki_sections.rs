//! The sections of a unified kernel image beside the evidence: held to the register 11 of a recorded boot of such an
//! image, and to logs changed in one thing each.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::log::{Machine, RawEvent, RawLog};
use common::node::Session;
use common::{BOOT, Boot, codes, selection};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::uki_sections::{Content, Section, encode};
use touchstone_verifier::appraisal::{Appraisal, ClaimValue, Tier};
use touchstone_verifier::eventlog::EventType;
use touchstone_verifier::policy::EventLogRule;
use touchstone_verifier::tpm::HashAlg;

const MISMATCH: &str = "uki-sections-mismatch";
const COMMAND_LINE: &str = "console=ttyS0 ima_policy=tcb rootfstype=ramfs rdinit=/init panic=-1 quiet loglevel=4";

/// The sections of the recorded boot: command line and os-release as they were put into the image, kernel and initrd by
/// their recorded digests.
fn sections(boot: &Boot) -> Vec<Section> {
    let readme = String::from_utf8(boot.file("README.json")).unwrap();
    let digests = |what: &str| {
        let of_file = readme.split_once(&format!("\"{what}\": {{")).unwrap().1;
        let sha256 = of_file.split_once("\"sha256\": \"").unwrap().1;
        Content::Digests {
            sha256: hex::decode(&sha256[..64]).unwrap().try_into().unwrap(),
            // Not judged: only the SHA-256 bank was recorded.
            sha384: [0; 48],
            sha512: [0; 64],
        }
    };
    let large = |name: &str, what: &str| Section {
        name: name.into(),
        content: digests(what),
    };
    vec![
        large(".linux", "kernel"),
        Section::of(".osrel", &boot.file("uki.osrel")),
        Section::of(".cmdline", &boot.file("uki.cmdline")),
        large(".initrd", "initrd"),
    ]
}

/// A machine that booted as `log` says and its reference, with this record beside the quote.
fn judged(log: &RawLog, record: Option<Vec<u8>>, change: impl FnOnce(&mut Machine)) -> Appraisal {
    let required = selection(&BOOT);
    let mut machine = Machine::new(log, &required, &[log.reference("uki", &required)]);
    change(&mut machine);
    let (mut collection, inventory) = machine.packed();
    if let Some(record) = record {
        collection.insert(Label::UkiSections, record).unwrap();
    }
    machine.appraise_packed(&collection, &inventory, &common::anchors())
}

fn uki_claims(appraisal: &Appraisal) -> Vec<(&str, &str)> {
    let claims = appraisal.claims.iter().filter(|(name, _)| name.starts_with("uki_"));
    claims
        .map(|(name, value)| match value {
            ClaimValue::Text(text) => (name.as_str(), text.as_str()),
            other => panic!("{name}: {other:?}"),
        })
        .collect()
}

#[test]
fn the_image_that_was_measured_is_explained() {
    let boot = Boot::load("uki");
    let mut record = sections(&boot);
    let log = RawLog::of(&boot);
    let appraisal = judged(&log, Some(encode(&record)), |_| {});
    assert_eq!((codes(&appraisal), appraisal.status), (vec![], Tier::Affirming));
    assert_eq!(
        uki_claims(&appraisal),
        [("uki_command_line", COMMAND_LINE), ("uki_os", "mbtest")]
    );

    // A newer stub measures the kernel's release too; user space goes on with its phases.
    record.push(Section::of(".uname", b"6.12.43-amd64\n"));
    let mut newer = log.clone();
    let at = newer.events.iter().rposition(|event| event.pcr == 11).unwrap() + 1;
    let measured = |bytes: &[u8]| RawEvent::new(11, EventType::IPL, b".\0u\0n\0a\0m\0e\0\0\0", bytes);
    newer
        .events
        .splice(at..at, [measured(b".uname\0"), measured(b"6.12.43-amd64\n")]);
    let appraisal = judged(&newer, Some(encode(&record)), |machine| {
        let value = machine.values.get_mut(&(HashAlg::Sha256.tpm_id(), 11)).unwrap();
        let word = HashAlg::Sha256.digest([b"enter-initrd".as_slice()]);
        *value = HashAlg::Sha256
            .digest([value.as_slice(), word.as_ref()])
            .as_ref()
            .to_vec();
    });
    assert_eq!(codes(&appraisal), [""; 0]);
    assert_eq!(uki_claims(&appraisal)[2], ("uki_uname", "6.12.43-amd64"));
    assert_eq!(appraisal.claims["boot_phase"], ClaimValue::Text("enter-initrd".into()));
}

#[test]
fn without_the_record_nothing_is_claimed() {
    let appraisal = judged(&RawLog::of(&Boot::load("uki")), None, |_| {});
    assert_eq!((codes(&appraisal), uki_claims(&appraisal)), (vec![], vec![]));
}

/// Changes the sections that travel.
type Falsify = fn(&mut Vec<Section>);

#[test]
fn another_image_is_refused() {
    let rows: [(&str, Falsify); 10] = [
        ("another command line", |s| {
            s[2] = Section::of(".cmdline", b"console=ttyS0 init=/bin/sh");
        }),
        ("the command line with a NUL", |s| {
            s[2] = Section::of(".cmdline", format!("{COMMAND_LINE}\0").as_bytes());
        }),
        ("another os-release", |s| s[1] = Section::of(".osrel", b"ID=debian\n")),
        ("another kernel", |s| s[0] = Section::of(".linux", &[1; 9000])),
        ("the first section missing", |s| drop(s.remove(0))),
        ("the last section missing", |s| drop(s.pop())),
        ("a section in the middle missing", |s| drop(s.remove(2))),
        ("another order", |s| s.swap(1, 2)),
        ("a section too many", |s| s.push(Section::of(".uname", b"6.1.0"))),
        ("contents under each other's names", |s| {
            let content = s[1].content.clone();
            s[1].content = std::mem::replace(&mut s[2].content, content);
        }),
    ];
    let boot = Boot::load("uki");
    let log = RawLog::of(&boot);
    for (what, falsify) in rows {
        let mut record = sections(&boot);
        falsify(&mut record);
        let appraisal = judged(&log, Some(encode(&record)), |_| {});
        assert_eq!(codes(&appraisal), [MISMATCH], "{what}");
        assert_eq!(uki_claims(&appraisal), [], "{what}");
        let hint = appraisal.reasons[0].hint.as_ref().unwrap();
        assert_eq!((hint.register, &hint.command), (Some(11), &None), "{what}");
    }
}

#[test]
fn the_event_that_differs_is_named() {
    let boot = Boot::load("uki");
    let mut record = sections(&boot);
    record[2] = Section::of(".cmdline", b"quiet");
    let log = RawLog::of(&boot);
    let appraisal = judged(&log, Some(encode(&record)), |_| {});
    let reason = &appraisal.reasons[0];
    let number = |nth: usize| {
        let mut of_register_11 = (0..log.events.len()).filter(|at| log.events[*at].pcr == 11);
        of_register_11.nth(nth).unwrap() + 1
    };
    let event = number(5);
    assert_eq!(reason.hint.as_ref().unwrap().event, Some(event));
    assert_eq!(reason.claim, format!("event {event}, PCR 11 (sha256)"));
    assert!(
        reason.expected.ends_with("of the content of section .cmdline"),
        "{}",
        reason.expected
    );
    assert!(reason.found.starts_with("92769a164185d4cf"), "{}", reason.found);

    let mut record = sections(&boot);
    record.pop();
    let appraisal = judged(&log, Some(encode(&record)), |_| {});
    let reason = &appraisal.reasons[0];
    assert_eq!(reason.expected, "no further section");
    assert_eq!(reason.hint.as_ref().unwrap().event, Some(number(6)));
}

#[test]
fn without_what_vouches_for_it_the_right_image_is_refused_as_well() {
    let boot = Boot::load("uki");
    let log = RawLog::of(&boot);
    let record = || Some(encode(&sections(&boot)));
    let no_log = judged(&log, record(), |machine| {
        machine.log = None;
        machine.policy.event_log = EventLogRule::RegistersSuffice;
    });
    assert_eq!(codes(&no_log), [MISMATCH], "no log, although registers suffice");
    assert_eq!(uki_claims(&no_log), []);

    // Register 11 of the log is another than the quoted one.
    let replayed = judged(&log, record(), |machine| {
        machine.values.get_mut(&(HashAlg::Sha256.tpm_id(), 11)).unwrap()[0] ^= 1;
    });
    assert!(codes(&replayed).contains(&MISMATCH), "{:?}", codes(&replayed));
    assert!(codes(&replayed).contains(&"log-does-not-replay"));
    assert_eq!(uki_claims(&replayed), []);

    // Register 11 is not quoted: the log may say of it what it likes.
    let without_11: Vec<u8> = BOOT.into_iter().filter(|pcr| *pcr != 11).collect();
    let required = selection(&without_11);
    let machine = Machine::new(&log, &required, &[log.reference("uki", &required)]);
    assert_eq!(codes(&machine.appraise()), [""; 0]);
    let (mut collection, inventory) = machine.packed();
    collection.insert(Label::UkiSections, record().unwrap()).unwrap();
    let unquoted = machine.appraise_packed(&collection, &inventory, &common::anchors());
    assert_eq!(codes(&unquoted), [MISMATCH], "register 11 is not in the quote");
    assert_eq!(uki_claims(&unquoted), []);

    let unreadable = judged(&log, Some(vec![0x80]), |_| {});
    assert_eq!(codes(&unreadable), [MISMATCH], "a record that cannot be read");
}

/// The recorded quote holds register 11 as well, but this policy does not require it, so the log's events of that
/// register are held to nothing: one that tells the record's story is not believed over the quoted value.
#[test]
fn a_log_that_no_quoted_register_holds_proves_nothing() {
    let boot = Boot::load("uki");
    let genuine = RawLog::of(&boot);
    let mut record = sections(&boot);
    record[2] = Section::of(".cmdline", b"quiet");
    let mut lying = genuine.clone();
    let at = lying.position(11, b".\0c\0m\0d\0l\0i\0n\0e\0") + 1;
    lying.events[at].measure(b"quiet");

    let all = selection(&BOOT);
    let without_11: Vec<u8> = BOOT.into_iter().filter(|pcr| *pcr != 11).collect();
    let required = selection(&without_11);
    let machine = Machine::new(&genuine, &all, &[genuine.reference("uki", &required)]);
    let (mut collection, inventory) = Machine {
        log: Some(lying.encode()),
        ..machine
    }
    .packed();
    collection.insert(Label::UkiSections, encode(&record)).unwrap();
    let mut judge = Machine::new(&genuine, &required, &[genuine.reference("uki", &required)]);
    judge.policy.required_registers = required;
    let appraisal = judge.appraise_packed(&collection, &inventory, &common::anchors());
    assert_eq!(codes(&appraisal), [MISMATCH]);
    assert_eq!(uki_claims(&appraisal), []);
}

#[test]
fn every_judged_bank_is_held_to_the_sections() {
    let boot = Boot::load("uki");
    let small = [Section::of(".linux", b"a kernel"), Section::of(".cmdline", b"quiet")];
    let mut log = RawLog::of(&boot);
    let first = log.events.iter().position(|event| event.pcr == 11).unwrap();
    log.events.retain(|event| event.pcr != 11);
    let measured = |bytes: &[u8]| RawEvent::new(11, EventType::IPL, b"section", bytes);
    let events = [&b".linux\0"[..], b"a kernel", b".cmdline\0", b"quiet"].map(measured);
    log.events.splice(first..first, events);
    let log = log.with_bank(HashAlg::Sha384);
    let both = touchstone_verifier::tpm::PcrSelection::new([
        (HashAlg::Sha256, BOOT.to_vec()),
        (HashAlg::Sha384, BOOT.to_vec()),
    ])
    .unwrap();
    let judge = |log: &RawLog| {
        let machine = Machine::new(log, &both, &[log.reference("uki", &both)]);
        let (mut collection, inventory) = machine.packed();
        collection.insert(Label::UkiSections, encode(&small)).unwrap();
        machine.appraise_packed(&collection, &inventory, &common::anchors())
    };
    // What the helper fills the new bank with is not what a TPM would: set the four events right.
    let mut right = log.clone();
    let contents = [&b".linux\0"[..], b"a kernel", b".cmdline\0", b"quiet"];
    for (event, bytes) in right.events.iter_mut().filter(|event| event.pcr == 11).zip(contents) {
        event.measure(bytes);
    }
    let appraisal = judge(&right);
    assert_eq!(codes(&appraisal), [""; 0]);
    assert_eq!(uki_claims(&appraisal), [("uki_command_line", "quiet")]);
    for bank in [HashAlg::Sha256, HashAlg::Sha384] {
        let mut other = right.clone();
        let last = other.events.iter().rposition(|event| event.pcr == 11).unwrap();
        let digests = &mut other.events[last].digests;
        let (_, digest) = digests.iter_mut().find(|(own, _)| *own == bank).unwrap();
        *digest = bank.digest([b"debug".as_slice()]).as_ref().to_vec();
        let appraisal = judge(&other);
        assert_eq!(codes(&appraisal), [MISMATCH], "{bank}");
        assert!(appraisal.reasons[0].claim.contains(&bank.to_string()), "{bank}");
    }
}

#[test]
fn a_session_treats_the_record_the_same() {
    let boot = Boot::load("uki");
    let mut session = Session::first(&boot, &boot);
    session.uki_sections = Some(encode(&sections(&boot)));
    let appraisal = session.appraise();
    assert_eq!((codes(&appraisal), appraisal.status), (vec![], Tier::Affirming));
    assert_eq!(uki_claims(&appraisal)[0], ("uki_command_line", COMMAND_LINE));

    // On the way nobody can put in another record, take it out, or add one: the manifest has its digest.
    let mut other = sections(&boot);
    other.pop();
    let changed = with_record(&session.collection(), Some(encode(&other)));
    assert!(codes(&session.appraise_collection(&changed)).contains(&"binder-mismatch"));
    let removed = with_record(&changed, None);
    let appraisal = session.appraise_collection(&removed);
    assert!(codes(&appraisal).contains(&"binder-mismatch"));
    assert!(!appraisal.authentic);

    // The node's own wrong record is an authentic failure.
    session.uki_sections = Some(encode(&other));
    let appraisal = session.appraise();
    assert_eq!(codes(&appraisal), [MISMATCH]);
    assert!(appraisal.authentic && appraisal.enrol.is_none());
}

/// The same evidence with this record, or without one.
fn with_record(evidence: &Collection, record: Option<Vec<u8>>) -> Collection {
    let mut out = Collection::bound();
    for (label, bytes) in evidence.records().filter(|(label, _)| *label != Label::UkiSections) {
        out.insert(label, bytes.to_vec()).unwrap();
    }
    if let Some(record) = record {
        out.insert(Label::UkiSections, record).unwrap();
    }
    out
}
