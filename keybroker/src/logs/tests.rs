//! What of a node's logs it need not send again, and what happens to a tail that does not belong.

use std::collections::BTreeMap;

use touchstone_store::{Batch, RedbStore};
use touchstone_verifier::tpm::HashAlg;

use super::*;
use crate::node::tests::record;

pub(crate) fn seen() -> SeenLogs {
    SeenLogs {
        boot: [1; BOOT_ID_LEN],
        firmware: Some(SeenLog {
            digest: [2; 32],
            bytes: 5_000,
        }),
        ima: Some(SeenLog {
            digest: [3; 32],
            bytes: 300,
        }),
    }
}

fn asked(registers: &[u8]) -> PcrSelection {
    PcrSelection::new([(HashAlg::Sha256, registers.to_vec())]).unwrap()
}

#[test]
fn what_was_seen_comes_back_as_written() {
    let nothing = SeenLogs {
        firmware: None,
        ima: None,
        ..seen()
    };
    for seen in [seen(), nothing] {
        assert_eq!(SeenLogs::read(&seen.value()), Ok(Some(seen)));
    }
    assert_eq!(SeenLogs::read(&Value::Null), Ok(None));
    let log = |bytes: u64| Value::array([Value::bytes([2; 32]), Value::Unsigned(bytes)]);
    let boot = || Value::bytes([1; BOOT_ID_LEN]);
    for (name, value) in [
        ("two parts", Value::array([boot(), Value::Null])),
        (
            "a boot of 15 bytes",
            Value::array([Value::bytes([1; 15]), Value::Null, Value::Null]),
        ),
        ("a log of no bytes", Value::array([boot(), log(0), Value::Null])),
        (
            "a digest alone",
            Value::array([boot(), Value::array([Value::bytes([2; 32])]), Value::Null]),
        ),
        ("a number", Value::Unsigned(1)),
    ] {
        assert!(SeenLogs::read(&value).is_err(), "{name}");
    }
}

#[test]
fn nothing_is_known_of_another_boot_or_a_withdrawn_node() {
    let whole = LogBytes::from([(Label::FirmwareEventLog, 5_000), (Label::ImaLog, 300)]);
    let firmware = LogBytes::from([(Label::FirmwareEventLog, 5_000)]);
    let (good, mut withdrawn, mut unseen) = (record("a"), record("a"), record("a"));
    withdrawn.withdrawn = true;
    unseen.logs = None;
    for (name, record, boot, registers, expected) in [
        ("the same boot", &good, Some([1; 16]), &[0, 10][..], Some(&whole)),
        ("without IMA's register", &good, Some([1; 16]), &[0], Some(&firmware)),
        ("another boot", &good, Some([9; 16]), &[0, 10], None),
        ("a boot nobody names", &good, None, &[0, 10], None),
        ("withdrawn", &withdrawn, Some([1; 16]), &[0, 10], None),
        ("nothing seen", &unseen, Some([1; 16]), &[0, 10], None),
    ] {
        let offered = offered(record, boot, &asked(registers));
        assert_eq!(offered.map(|seen| seen.known()).as_ref(), expected, "{name}");
    }
}

/// A TPMS_ATTEST of a quote with these counters; nothing of it is verified here.
fn quote(resets: u32, restarts: u32) -> Vec<u8> {
    let mut out = vec![0xFF, 0x54, 0x43, 0x47, 0x80, 0x18, 0, 0, 0, 0];
    out.extend(8u64.to_be_bytes());
    out.extend(resets.to_be_bytes());
    out.extend(restarts.to_be_bytes());
    out.push(1);
    out.extend(7u64.to_be_bytes());
    out.extend([0, 0, 0, 0, 0, 0]);
    out
}

#[test]
fn a_tail_counts_only_behind_what_was_offered_in_the_same_boot() {
    let folder = tempfile::tempdir().unwrap();
    let store = RedbStore::open(&folder.path().join("store")).unwrap();
    let first = vec![7; 5_000];
    let mut batch = Batch::new();
    batch.put(crate::rows::PART.key(&[2; 32]).unwrap(), first.as_slice());
    let prefix = ImaPrefix {
        entries: 2,
        bytes: 300,
        ..ImaPrefix::default()
    };
    batch.put(crate::rows::PART.key(&[3; 32]).unwrap(), prefix.encode());
    store.commit(batch).unwrap();
    let good = record("a");
    let (mut withdrawn, mut moved, mut gone) = (record("a"), record("a"), record("a"));
    withdrawn.withdrawn = true;
    moved.logs.as_mut().unwrap().ima = None;
    let mut seen_gone = seen();
    seen_gone.firmware.as_mut().unwrap().digest = [9; 32];
    gone.logs = Some(seen_gone);
    let (mut lost, mut other) = (record("a"), record("a"));
    let (mut seen_lost, mut seen_other) = (seen(), seen());
    seen_lost.ima.as_mut().unwrap().digest = [9; 32];
    seen_other.ima.as_mut().unwrap().bytes = 301;
    (lost.logs, other.logs) = (Some(seen_lost), Some(seen_other));
    let list_other = [(Label::FirmwareEventLog, 5_000), (Label::ImaLog, 301)];
    let (resets, restarts) = (
        good.enrolled.tpm().unwrap().clock.reset_count,
        good.enrolled.tpm().unwrap().clock.restart_count,
    );

    let evidence = |quote: Vec<u8>, tail: &[u8]| {
        let mut evidence = Collection::bound();
        evidence.insert(Label::TpmQuote, quote).unwrap();
        if !tail.is_empty() {
            evidence.insert(Label::FirmwareEventLog, tail.to_vec()).unwrap();
        }
        evidence
    };
    let same = || quote(resets, restarts);
    let at = |offsets: &[(Label, u64)]| offsets.iter().copied().collect::<BTreeMap<_, _>>();
    let both = [(Label::FirmwareEventLog, 5_000), (Label::ImaLog, 300)];

    let (put, known) = whole(&store, Some(&good), Some(seen()), &at(&both), evidence(same(), &[8])).unwrap();
    assert_eq!(known.unwrap().prefix, prefix);
    assert_eq!(
        put.get(Label::FirmwareEventLog),
        Some(&[first.as_slice(), &[8]].concat()[..])
    );
    assert_eq!(put.get(Label::ImaLog), Some(&[][..]), "nothing new, and still a list");
    let (put, known) = whole(&store, Some(&good), Some(seen()), &at(&[]), evidence(same(), &[8])).unwrap();
    assert_eq!(known, None);
    assert_eq!(put.get(Label::FirmwareEventLog), Some(&[8][..]), "from the beginning");
    assert_eq!(put.get(Label::ImaLog), None);

    let (unreadable, again) = (RefusalCode::EvidenceUnreadable, RefusalCode::LogsIncomplete);
    for (name, record, offered, offsets, quote, code) in [
        (
            "another offset",
            &good,
            Some(seen()),
            at(&[(Label::ImaLog, 299)]),
            same(),
            unreadable,
        ),
        ("nothing offered", &good, None, at(&both), same(), unreadable),
        (
            "a reset since",
            &good,
            Some(seen()),
            at(&both),
            quote(resets + 1, restarts),
            again,
        ),
        (
            "a restart since",
            &good,
            Some(seen()),
            at(&both),
            quote(resets, restarts + 1),
            again,
        ),
        (
            "no quote that can be read",
            &good,
            Some(seen()),
            at(&both),
            vec![1],
            again,
        ),
        ("withdrawn since", &withdrawn, Some(seen()), at(&both), same(), again),
        ("changed since", &moved, Some(seen()), at(&both), same(), again),
        ("the list is gone", &lost, Some(seen_lost), at(&both), same(), again),
        (
            "the list's state is of another length",
            &other,
            Some(seen_other),
            at(&list_other),
            same(),
            again,
        ),
        ("the log is gone", &gone, Some(seen_gone), at(&both), same(), again),
    ] {
        let refused = whole(&store, Some(record), offered, &offsets, evidence(quote, &[8]));
        assert_eq!(refused.map_err(|refusal| refusal.code), Err(code), "{name}");
    }
    for offsets in [at(&[]), at(&both)] {
        let mut empty = evidence(same(), &[8]);
        empty.put_log(Label::ImaLog, Vec::new()).unwrap();
        let refused = whole(&store, Some(&good), Some(seen()), &offsets, empty);
        assert_eq!(refused.map_err(|refusal| refusal.code), Err(unreadable), "an empty log");
    }
    let long = vec![8; label::MAX_FIRMWARE_LOG - 4_999];
    let refused = whole(&store, Some(&good), Some(seen()), &at(&both), evidence(same(), &long));
    assert_eq!(
        refused.map_err(|refusal| refusal.code),
        Err(unreadable),
        "together too long"
    );
    let refused = whole(&store, None, Some(seen()), &at(&both), evidence(same(), &[8]));
    assert_eq!(refused.map_err(|refusal| refusal.code), Err(again), "no record");
}
