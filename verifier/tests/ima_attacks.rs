//! The IMA list of recorded boots, and what was done to it: each attack with the reason it is refused for.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::common;

use std::sync::Arc;

use common::{BOOT, Boot, Offline, codes, references};
use proptest::prelude::*;
use touchstone_evidence::collection::Label;
use touchstone_evidence::pcr_values;
use touchstone_verifier::appraisal::{Appraisal, ClaimValue, Tier};
use touchstone_verifier::corim::MachineReference;
use touchstone_verifier::ima::{
    ImaError, ImaList, ImaMode, ImaPolicy, ImaPrefix, ImaRules, PathRule, Violations, canonical, from_ascii,
    reference_files, replay,
};
use touchstone_verifier::tpm::HashAlg;

/// The golden machine with the files of its own list.
fn golden(boot: &Boot) -> MachineReference {
    let list = boot.file("ima.bin");
    MachineReference {
        files: reference_files(ImaList::parse(&list).unwrap().entries()),
        ..boot.reference("golden")
    }
}

/// A recorded boot with its list, against the golden one with its files.
fn offline(name: &str) -> Offline {
    let (boot, good) = (Boot::load(name), Boot::load("good"));
    let list = boot.file("ima.bin");
    let mut offline = Offline::new(&boot, "quote-all-rsa", "rsa", &good).with(Label::ImaLog, list);
    offline.references = references(&[golden(&good)]);
    offline
}

fn rules(exclude: &[&str], violations: Violations) -> ImaPolicy {
    ImaPolicy {
        mode: ImaMode::ByReference,
        rules: Arc::new(ImaRules {
            exclude: exclude.iter().map(|rule| PathRule::parse(rule).unwrap()).collect(),
            violations,
            ..ImaRules::default()
        }),
    }
}

fn text(appraisal: &Appraisal, claim: &str) -> String {
    match appraisal.claims.get(claim) {
        Some(ClaimValue::Text(text)) => text.clone(),
        other => format!("{other:?}"),
    }
}

#[test]
fn the_golden_boot_is_accepted_with_its_list() {
    let appraisal = offline("good").appraise();
    assert_eq!(
        (appraisal.status, codes(&appraisal)),
        (Tier::Affirming, vec![]),
        "{:?}",
        appraisal.reasons
    );
    assert_eq!(text(&appraisal, "ima"), "judged");
    assert_eq!(text(&appraisal, "ima_boot_aggregate"), "matches");
    assert_eq!(text(&appraisal, "kexec"), "excluded by IMA");
    assert!(appraisal.leniencies.is_empty(), "{:?}", appraisal.leniencies);
}

#[test]
fn an_unknown_program_is_refused_by_name_and_by_nothing_else() {
    let appraisal = offline("ima-unknown-exec").appraise();
    assert_eq!(codes(&appraisal), ["ima-file-unknown"], "{:?}", appraisal.reasons);
    let reason = &appraisal.reasons[0];
    assert_eq!(reason.claim, "IMA entry 16");
    assert!(
        reason.found.starts_with("/opt/unknown-tool, sha256 58c4afe3"),
        "{}",
        reason.found
    );
    assert!(reason.found.ends_with("not in the golden run"), "{}", reason.found);
    assert!(reason.expected.contains("golden"), "{}", reason.expected);
    assert_eq!(text(&appraisal, "kexec"), "not excluded");
}

#[test]
fn the_same_path_with_other_contents_is_a_changed_file() {
    let mut offline = offline("good");
    let mut reference = golden(&Boot::load("good"));
    let file = reference
        .files
        .iter_mut()
        .find(|file| file.path == "/bin/busybox")
        .unwrap();
    file.digest = vec![9; 32];
    offline.references = references(&[reference]);
    let appraisal = offline.appraise();
    assert_eq!(codes(&appraisal), ["ima-file-unknown"]);
    let reason = &appraisal.reasons[0];
    assert!(reason.found.ends_with("changed file"), "{}", reason.found);
    assert!(reason.expected.contains(&"09".repeat(32)), "{}", reason.expected);
}

#[test]
fn a_reference_of_files_only_counts_for_every_machine_while_it_is_in_force() {
    let unknown = Boot::load("ima-unknown-exec").file("ima.bin");
    let mut files = reference_files(ImaList::parse(&unknown).unwrap().entries());
    files.retain(|file| file.path == "/opt/unknown-tool");
    assert_eq!(files.len(), 1);
    let tools = |not_after| MachineReference {
        name: "tools".into(),
        files: files.clone(),
        not_after,
        ..MachineReference::default()
    };
    let mut offline = offline("ima-unknown-exec");
    offline.references = references(&[golden(&Boot::load("good")), tools(Some(common::NOW + 50))]);
    let appraisal = offline.appraise();
    assert_eq!(codes(&appraisal), [] as [&str; 0], "{:?}", appraisal.reasons);
    assert_eq!(
        appraisal.expires,
        common::NOW + 50,
        "the result ends with what it rests on"
    );
    offline.now = common::NOW + 51;
    assert_eq!(codes(&offline.appraise()), ["ima-file-unknown"]);
}

#[test]
fn where_a_list_must_be_shown_and_what_vouches_for_it() {
    let good = Boot::load("good");
    let required = ImaPolicy {
        mode: ImaMode::Required,
        ..ImaPolicy::default()
    };
    let off = ImaPolicy {
        mode: ImaMode::Off,
        ..ImaPolicy::default()
    };
    // Name, quote, list, reference with files, policy, codes.
    let by_reference = ImaPolicy::default();
    type Row<'a> = (&'a str, &'a str, bool, bool, &'a ImaPolicy, &'a [&'a str]);
    let rows: [Row<'_>; 9] = [
        ("all there", "quote-all-rsa", true, true, &by_reference, &[]),
        (
            "no list",
            "quote-all-rsa",
            false,
            true,
            &by_reference,
            &["ima-log-missing"],
        ),
        (
            "no list, register not quoted",
            "quote-rsa",
            false,
            true,
            &by_reference,
            &["ima-log-missing"],
        ),
        (
            "a list alone",
            "quote-rsa",
            true,
            true,
            &by_reference,
            &["ima-register-not-quoted"],
        ),
        (
            "a list alone, not needed",
            "quote-rsa",
            true,
            false,
            &by_reference,
            &["ima-register-not-quoted"],
        ),
        ("not needed", "quote-all-rsa", false, false, &by_reference, &[]),
        (
            "required",
            "quote-all-rsa",
            false,
            false,
            &required,
            &["ima-log-missing"],
        ),
        (
            "required by a policy that lists nothing",
            "quote-all-rsa",
            true,
            false,
            &required,
            &["ima-file-unknown"],
        ),
        ("off", "quote-rsa", true, true, &off, &[]),
    ];
    for (row, quote, list, files, policy, expected) in rows {
        let mut offline = Offline::new(&good, quote, "rsa", &good);
        if list {
            offline = offline.with(Label::ImaLog, good.file("ima.bin"));
        }
        offline.policy.ima = policy.clone();
        if quote == "quote-rsa" {
            // That quote has no more than the registers of the shipped settings.
            offline.policy.required_registers = common::selection(&[0, 2, 3, 4, 7, 8, 9, 11, 14]);
        }
        if files {
            offline.references = references(&[golden(&good)]);
        }
        let appraisal = offline.appraise();
        let mut found = codes(&appraisal);
        found.dedup();
        assert_eq!(found, expected, "{row}: {:?}", appraisal.reasons);
    }
    let mut offline = offline("good");
    offline.policy.ima = off;
    assert!(offline.appraise().leniencies.contains(&"ima: off".to_owned()));
}

/// The record that `position` is in, rewritten.
fn altered(list: &[u8], position: usize, alter: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let parsed = ImaList::parse(list).unwrap();
    let start = position.checked_sub(1).map_or(0, |before| parsed.entries()[before].end);
    let end = parsed.entries()[position].end;
    let mut record = list[start..end].to_vec();
    alter(&mut record);
    [&list[..start], &record, &list[end..]].concat()
}

#[test]
fn a_list_that_was_altered_is_refused_for_what_was_altered() {
    let good = Boot::load("good").file("ima.bin");
    let entries = ImaList::parse(&good).unwrap().entries().len();
    let cut = |from: usize, to: usize| {
        let parsed = ImaList::parse(&good).unwrap();
        let at = |position: usize| position.checked_sub(1).map_or(0, |before| parsed.entries()[before].end);
        [&good[..at(from)], &good[at(to)..]].concat()
    };
    let rows: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("an entry left out", cut(4, 5), &["ima-log-does-not-replay"]),
        ("the first entry left out", cut(0, 1), &["ima-log-does-not-replay"]),
        ("cut short", cut(entries - 1, entries), &["ima-log-does-not-replay"]),
        ("empty", Vec::new(), &["ima-log-does-not-replay"]),
        ("an entry twice", [good.clone(), cut(1, entries)].concat(), &[]),
        (
            "other entries after the quoted state",
            [good.clone(), good.clone()].concat(),
            &[],
        ),
        (
            "another file digest",
            altered(&good, 3, |record| record[52] ^= 1),
            &["ima-entry-mismatch", "ima-log-does-not-replay"],
        ),
        (
            "another template digest",
            altered(&good, 3, |record| record[4] ^= 1),
            &["ima-entry-mismatch"],
        ),
        (
            "an entry called a violation",
            altered(&good, 3, |record| record[4..24].fill(0)),
            &["ima-log-does-not-replay"],
        ),
        (
            "another register",
            altered(&good, 3, |record| record[0] = 11),
            &["ima-log-unreadable"],
        ),
        (
            "another template",
            altered(&good, 3, |record| record[28..35].copy_from_slice(b"ima-sog")),
            &["ima-log-unreadable"],
        ),
        (
            "an endless name",
            altered(&good, 3, |record| record[24..28].fill(0xFF)),
            &["ima-log-unreadable"],
        ),
        ("no list", b"10 nothing".to_vec(), &["ima-log-does-not-replay"]),
    ];
    for (row, list, expected) in rows {
        let appraisal = offline("good").with(Label::ImaLog, list).appraise();
        assert_eq!(codes(&appraisal), expected, "{row}: {:?}", appraisal.reasons);
    }
}

/// A boot with this list: register 10 moved on with it (values and quote are not those of the TPM, so that the quote no
/// longer covers them; only the list's own codes are looked at).
fn list_codes(list: &[u8], policy: ImaPolicy) -> (Vec<&'static str>, Appraisal) {
    use common::node::Session;
    let good = Boot::load("good");
    let mut session = Session::first(&Boot::load("good"), &Boot::load("good"));
    let registers: Vec<u8> = BOOT.iter().copied().chain([10]).collect();
    session.asked = common::selection(&registers);
    session.quoted = common::selection(&registers);
    let value = touchstone_register(list, HashAlg::Sha256);
    session.values.insert((HashAlg::Sha256.tpm_id(), 10), value);
    session.references = references(&[golden(&good)]);
    session.ima_log = Some(list.to_vec());
    session.policy.ima = policy;
    let appraisal = session.appraise();
    (codes(&appraisal), appraisal)
}

fn touchstone_register(list: &[u8], bank: HashAlg) -> Vec<u8> {
    let mut value = touchstone_verifier::eventlog::RegisterValue::initial(bank, 10, 0);
    for entry in ImaList::parse(list).unwrap().entries() {
        match entry.is_violation() {
            true => value.extend(bank, &vec![0xFF; bank.digest_len()]),
            false => value.extend(bank, entry.hash(bank).as_ref()),
        }
    }
    value.as_bytes().to_vec()
}

/// A record with the right template digest, or a violation.
fn record(template: &str, fields: &[&[u8]], violation: bool) -> Vec<u8> {
    let put = |value: &[u8]| [&(value.len() as u32).to_le_bytes()[..], value].concat();
    let data: Vec<u8> = fields.iter().flat_map(|field| put(field)).collect();
    let digest = match violation {
        true => vec![0; 20],
        false => HashAlg::Sha1.digest([data.as_slice()]).as_ref().to_vec(),
    };
    [
        &10u32.to_le_bytes()[..],
        &digest,
        &put(template.as_bytes()),
        &put(&data),
    ]
    .concat()
}

fn d_ng(digest: &[u8]) -> Vec<u8> {
    [&b"sha256:\0"[..], digest].concat()
}

fn good_and(records: &[Vec<u8>]) -> Vec<u8> {
    [Boot::load("good").file("ima.bin"), records.concat()].concat()
}

#[test]
fn what_ran_is_judged_by_kind() {
    let busybox = hex::decode("3d9f2889d6782537624a4e1a10e68a2ddd53e0ee8bac02676f27308f42ec6bf6").unwrap();
    let known = d_ng(&busybox);
    let unknown = d_ng(&[5; 32]);
    let buffer = |text: &[u8]| d_ng(HashAlg::Sha256.digest([text]).as_ref());
    let violation = record("ima-sig", &[&d_ng(&[0; 32]), b"/var/log/a\0", b""], true);
    let strict = || ImaPolicy::default();
    let rows: Vec<(&str, Vec<u8>, ImaPolicy, &[&str])> = vec![
        (
            "a known file elsewhere",
            record("ima-ng", &[&known, b"/x\0"], false),
            strict(),
            &[],
        ),
        (
            "an unknown file",
            record("ima-ng", &[&unknown, b"/x\0"], false),
            strict(),
            &["ima-file-unknown"],
        ),
        (
            "a known file under a name with a newline",
            record("ima-ng", &[&known, b"/bin/sh\n10 0\0"], false),
            strict(),
            &["ima-path-unsafe"],
        ),
        (
            "a known file under a name with a NUL",
            record("ima-ng", &[&known, b"/bin/sh\0/x\0"], false),
            strict(),
            &["ima-path-unsafe"],
        ),
        (
            "an unknown file under a name that colours the terminal, in an excluded folder",
            record("ima-ng", &[&unknown, b"/tmp/\x1b[31mx\0"], false),
            rules(&["/tmp/**"], Violations::Refuse),
            &["ima-path-unsafe"],
        ),
        (
            "an excluded file",
            record("ima-ng", &[&unknown, b"/tmp/x\0"], false),
            rules(&["/tmp/**"], Violations::Refuse),
            &[],
        ),
        (
            "a listed digest behind the name, where an attribute could stand",
            record(
                "n-ng|d-ng",
                &[b"/tmp/x\0", &[&b"sha256:\0"[..], &busybox[..]].concat()],
                false,
            ),
            rules(&["/tmp/**"], Violations::Refuse),
            &["ima-file-unknown"],
        ),
        ("a violation", violation.clone(), strict(), &["ima-violation"]),
        (
            "a violation under a path that is excluded: nothing vouches for the path",
            violation.clone(),
            rules(&["/var/log/*"], Violations::Refuse),
            &["ima-violation"],
        ),
        (
            "an allowed violation",
            violation.clone(),
            rules(&[], Violations::Allow),
            &[],
        ),
        (
            "a SHA-1 digest",
            record(
                "ima-ng",
                &[&[&b"sha1:\0"[..], &busybox[..20]].concat(), b"/bin/busybox\0"],
                false,
            ),
            strict(),
            &["ima-file-unknown"],
        ),
        (
            "a key",
            record("ima-buf", &[&buffer(b"key"), b".ima\0", b"key"], false),
            strict(),
            &["ima-file-unknown"],
        ),
        (
            "a buffer that is not what was hashed",
            record("ima-buf", &[&known, b".ima\0", b"key"], false),
            strict(),
            &["ima-entry-mismatch"],
        ),
        (
            "another kernel's command line",
            record(
                "ima-buf",
                &[&buffer(b"root=/dev/sdb"), b"kexec-cmdline\0", b"root=/dev/sdb"],
                false,
            ),
            strict(),
            &["ima-kexec"],
        ),
        (
            "another kernel's command line is not excluded by a path",
            record("ima-buf", &[&buffer(b"x"), b"kexec-cmdline\0", b"x"], false),
            rules(&["/kexec-cmdline/**"], Violations::Allow),
            &["ima-kexec"],
        ),
        (
            "a second boot aggregate",
            record("ima-ng", &[&known, b"boot_aggregate\0"], false),
            strict(),
            &["ima-kexec"],
        ),
        (
            "an entry without a digest",
            record("n-ng", &[b"/x\0"], false),
            strict(),
            &["ima-file-unknown"],
        ),
    ];
    for (row, added, policy, expected) in rows {
        let (found, appraisal) = list_codes(&good_and(&[added]), policy);
        assert_eq!(found, expected, "{row}: {:?}", appraisal.reasons);
        let shown = appraisal
            .reasons
            .iter()
            .all(|reason| !reason.to_string().contains(['\x1b', '\n', '\0']));
        assert!(shown, "{row}: raw control characters in a reason");
        assert_eq!(
            appraisal.ima.is_some(),
            expected.is_empty(),
            "{row}: kept only where accepted"
        );
    }
}

#[test]
fn what_was_overlooked_is_named_and_counted() {
    let added = [
        record("ima-ng", &[&d_ng(&[5; 32]), b"/tmp/x\0"], false),
        record("ima-ng", &[&d_ng(&[6; 32]), b"/tmp/y\0"], false),
        record("ima-sig", &[&d_ng(&[0; 32]), b"/var/log/a\0", b""], true),
    ];
    let policy = rules(&["/never/used", "/tmp/**"], Violations::Allow);
    let (found, appraisal) = list_codes(&good_and(&added), policy);
    assert_eq!(found, [] as [&str; 0], "{:?}", appraisal.reasons);
    let excluded = ClaimValue::Set(["/tmp/**: 2".to_owned()].into());
    assert_eq!(appraisal.claims.get("ima_excluded"), Some(&excluded));
    assert_eq!(appraisal.claims.get("ima_violations"), Some(&ClaimValue::Int(1)));
    assert_eq!(
        appraisal.leniencies,
        ["ima: exclude /tmp/**", "ima: violations allowed"]
    );
}

#[test]
fn the_references_command_line_may_be_handed_on() {
    let line = String::from_utf8(Boot::load("good").file("cmdline.txt")).unwrap();
    let arguments = line.trim_end().split_once(' ').unwrap().1;
    let digest = d_ng(HashAlg::Sha256.digest([arguments.as_bytes()]).as_ref());
    let added = record("ima-buf", &[&digest, b"kexec-cmdline\0", arguments.as_bytes()], false);
    let (found, appraisal) = list_codes(&good_and(&[added]), ImaPolicy::default());
    assert_eq!(found, [] as [&str; 0], "{:?}", appraisal.reasons);
    assert_eq!(text(&appraisal, "kexec"), "judged by IMA");
}

#[test]
fn a_list_of_another_boot_is_refused_by_its_first_entry() {
    let good = Boot::load("good").file("ima.bin");
    let first = ImaList::parse(&good).unwrap().entries()[0].end;
    let other = |digest: &[u8]| {
        let record = record("ima-sig", &[&d_ng(digest), b"boot_aggregate\0", b""], false);
        [record.as_slice(), &good[first..]].concat()
    };
    for (row, list) in [
        ("another boot's", other(&[1; 32])),
        ("no TPM", other(&[0; 32])),
        ("no boot aggregate", good[first..].to_vec()),
    ] {
        let (found, appraisal) = list_codes(&list, ImaPolicy::default());
        assert_eq!(found, ["ima-boot-aggregate-mismatch"], "{row}: {:?}", appraisal.reasons);
    }
}

#[test]
fn a_thousand_unknown_files_are_told_in_a_bounded_number_of_reasons() {
    let added: Vec<Vec<u8>> = (0..1000u32)
        .map(|n| {
            record(
                "ima-ng",
                &[&d_ng(&[n.to_be_bytes(); 8].concat()), format!("/x/{n}\0").as_bytes()],
                false,
            )
        })
        .collect();
    let (_, appraisal) = list_codes(&good_and(&added), ImaPolicy::default());
    assert_eq!(appraisal.reasons.len(), 33);
    assert!(
        appraisal.reasons.iter().any(|reason| reason.found.contains("968 more")),
        "{:?}",
        appraisal.reasons
    );
}

#[test]
fn a_text_list_that_was_altered_is_refused_by_line() {
    let text = String::from_utf8(Boot::load("good").file("ima.txt")).unwrap();
    let binary = Boot::load("good").file("ima.bin");
    let trimmed: String = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    assert_eq!(
        from_ascii(trimmed.as_bytes()).unwrap(),
        binary,
        "an editor dropped the spaces at the ends"
    );
    let rows = [
        (
            "another path",
            text.replace("/init", "/inix"),
            "line 2: the digest is not that of the fields",
        ),
        (
            "a path with a newline",
            text.replace("/init", "/in\nit"),
            "line 2: the digest is not that of the fields",
        ),
        (
            "another template",
            text.replace("ima-sig", "ima-zig"),
            "entry 1: unknown template ima-zig",
        ),
        ("no line", format!("{text}nothing\n"), "found nothing"),
    ];
    for (row, text, expected) in rows {
        let error = from_ascii(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{row}: {error}");
    }
}

/// The list, binary and text, as kernels give it for one bank: other template digests, and all else the same.
fn of_bank(list: &[u8], text: &str, bank: HashAlg) -> (Vec<u8>, String) {
    let parsed = ImaList::parse(list).unwrap();
    let (mut binary, mut lines, mut start) = (Vec::new(), String::new(), 0);
    for (entry, line) in parsed.entries().iter().zip(text.lines()) {
        let digest = match entry.is_violation() {
            true => vec![0; bank.digest_len()],
            false => entry.hash(bank).as_ref().to_vec(),
        };
        let record = &list[start..entry.end];
        binary.extend([&record[..4], &digest, &record[24..]].concat());
        let of_sha1 = hex::encode(entry.template_digest);
        lines.push_str(&line.replacen(&of_sha1, &hex::encode(digest), 1));
        lines.push('\n');
        start = entry.end;
    }
    (binary, lines)
}

#[test]
fn a_list_of_any_bank_becomes_the_one_that_travels() {
    let boot = Boot::load("ima-unknown-exec");
    let (list, text) = (boot.file("ima.bin"), String::from_utf8(boot.file("ima.txt")).unwrap());
    // A file that was written while it was measured: zeros in every bank.
    let violation = [
        &[10, 0, 0, 0][..],
        &[0; 20],
        &record("ima-ng", &[&d_ng(&[0; 32]), b"/w\0"], false)[24..],
    ]
    .concat();
    let with_violation = [list.as_slice(), &violation].concat();
    let line = format!("10 {} ima-ng sha256:{} /w\n", "0".repeat(40), "0".repeat(64));
    let with_line = format!("{text}{line}");
    assert_eq!(canonical(list.clone()).unwrap(), list);
    for bank in [HashAlg::Sha256, HashAlg::Sha384, HashAlg::Sha512] {
        let (binary, lines) = of_bank(&with_violation, &with_line, bank);
        assert_eq!(canonical(binary.clone()).unwrap(), with_violation, "{bank}");
        assert_eq!(from_ascii(lines.as_bytes()).unwrap(), with_violation, "{bank}, text");
        // A record cut short is no entry.
        assert_eq!(
            canonical(binary[..binary.len() - 1].to_vec()).unwrap(),
            list,
            "{bank}, cut"
        );
        // Every byte of the first and of the last template digest counts, and so does every byte of the data.
        let last = ImaList::parse(&list).unwrap().entries().len();
        let at = of_bank(&list, &text, bank).0.len();
        let start = at - (list.len() - ImaList::parse(&list).unwrap().entries()[last - 2].end) + 20 - bank.digest_len();
        for byte in (4..4 + bank.digest_len())
            .chain(start + 4..start + 4 + bank.digest_len())
            .chain([at - 1])
        {
            let mut altered = binary.clone();
            altered[byte] ^= 1;
            assert!(
                matches!(canonical(altered), Err(ImaError::EntryDigest { .. })),
                "{bank}, byte {byte}"
            );
        }
        let altered = lines.replacen("/init", "/inix", 1);
        assert_eq!(
            from_ascii(altered.as_bytes()),
            Err(ImaError::LineDigest { line: 2 }),
            "{bank}, text"
        );
        // Lines of two banks are no list.
        let mixed = format!("{text}{}", lines.lines().next().unwrap());
        assert!(
            matches!(from_ascii(mixed.as_bytes()), Err(ImaError::Line { .. })),
            "{bank}, mixed"
        );
    }
    // Zeros are a violation's digest in the list's own bank only: nothing else is confirmed by none.
    let short = text.replacen(
        &hex::encode(ImaList::parse(&list).unwrap().entries()[0].template_digest),
        "00",
        1,
    );
    assert!(matches!(
        from_ascii(short.as_bytes()),
        Err(ImaError::Line { line: 1, .. })
    ));
}

#[test]
fn what_a_list_may_hold_is_bounded() {
    let long = vec![0; touchstone_verifier::ima::MAX_LIST + 1];
    assert!(matches!(ImaList::parse(&long), Err(ImaError::TooLarge { .. })));
    let path = [vec![b'/'; 4097], vec![0]].concat();
    let record = record("ima-ng", &[&d_ng(&[1; 32]), &path], false);
    assert!(matches!(
        ImaList::parse(&record),
        Err(ImaError::FieldTooLong { field: "name", .. })
    ));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = ImaList::parse(&bytes);
        let _ = from_ascii(&bytes);
        let _ = canonical(bytes.clone());
        let _ = replay(&ImaPrefix::default(), &bytes, &[(HashAlg::Sha256, &[1; 32])]);
    }

    #[test]
    fn a_genuine_list_with_one_byte_changed_is_never_accepted_as_it_was(position in 0usize..6588, with in 1u8..) {
        let boot = Boot::load("good");
        let mut list = boot.file("ima.bin");
        prop_assume!(position < list.len());
        list[position] ^= with;
        let quoted = boot.registers[&(HashAlg::Sha256, 10)].as_slice();
        // pcrs.txt may be older than the list's end: then the change may lie in what is ignored.
        let whole = replay(&ImaPrefix::default(), &boot.file("ima.bin"), &[(HashAlg::Sha256, quoted)]).unwrap().bytes;
        let replayed = replay(&ImaPrefix::default(), &list, &[(HashAlg::Sha256, quoted)]);
        prop_assert!(replayed.is_err() || position as u64 >= whole, "{position}");
    }
}

#[test]
fn a_quote_with_values_of_another_register_is_no_quote_of_the_list() {
    let good = Boot::load("good");
    let mut values = good.quoted_values("quote-all-rsa");
    values.insert((HashAlg::Sha256.tpm_id(), 10), vec![1; 32]);
    let appraisal = offline("good")
        .with(Label::TpmPcrValues, pcr_values::encode(&values))
        .appraise();
    assert!(!appraisal.reasons.is_empty());
    assert_eq!(text(&appraisal, "ima"), "refused");
}
