//! References of the recorded boots, in words, and what lies between them.

use super::*;
use crate::author::reference_add;
use crate::testing::{NOW, TestRepo, boot_evidence};
use crate::{publish, withdraw};

fn entry(boot: &str) -> ReferenceEntry {
    let test = TestRepo::new();
    reference_add(&test.repo, &boot_evidence(boot), Some(boot), None, None).unwrap();
    references(&test.repo, NOW).unwrap().remove(0)
}

fn between(old: &str, new: &str) -> ReferenceDiff {
    ReferenceDiff::of(&entry(old).values, &entry(new).values)
}

fn of(diff: &ReferenceDiff, aspect: Aspect) -> &AspectDiff {
    diff.aspects.iter().find(|diff| diff.aspect == aspect).unwrap()
}

fn event(pcr: u8, description: &str, digest: u8) -> touchstone_verifier::corim::ReferenceEvent {
    touchstone_verifier::corim::ReferenceEvent {
        pcr,
        event_type: touchstone_verifier::eventlog::EventType::IPL,
        digest: vec![digest; 32],
        description: description.to_owned(),
        data: None,
    }
}

fn machine(
    name: &str,
    events: Vec<touchstone_verifier::corim::ReferenceEvent>,
    files: &[(&str, u8)],
) -> MachineReference {
    use touchstone_verifier::corim::{BankValues, FileDigest};
    use touchstone_verifier::tpm::HashAlg;
    MachineReference {
        name: name.to_owned(),
        banks: [(
            HashAlg::Sha256,
            BankValues {
                registers: Default::default(),
                events,
            },
        )]
        .into(),
        files: files
            .iter()
            .map(|(path, digest)| FileDigest {
                algorithm: HashAlg::Sha256,
                digest: vec![*digest; 32],
                path: (*path).to_owned(),
            })
            .collect(),
        ..MachineReference::default()
    }
}

#[test]
fn a_recorded_boot_is_told_in_words() {
    let story = ReferenceStory::of(&entry("good"));
    assert_eq!((story.standing, &story.signer), (Standing::Staged, &None));
    assert_eq!(story.secure_boot, Some(true));
    let names: Vec<&str> = story
        .secure_boot_keys
        .iter()
        .filter_map(|key| key.what.split(' ').next())
        .collect();
    assert_eq!(names, ["PK", "KEK", "db", "dbx"]);
    assert_eq!(
        story.command_line.as_deref(),
        Some("/vmlinuz console=ttyS0 ima_policy=tcb rootfstype=ramfs rdinit=/init panic=-1 quiet loglevel=4")
    );
    assert!(
        story
            .boot_chain
            .first()
            .is_some_and(|image| image.what.contains("BOOTX64.EFI")),
        "{story:?}"
    );
    assert_eq!(story.kernel.len(), 2, "kernel and initrd: {:?}", story.kernel);
    assert_eq!(story.banks[0].bank, "sha256");
}

#[test]
fn a_changed_command_line_is_told_word_by_word() {
    let diff = between("good", "cmdline-changed");
    assert!(!diff.same);
    let line = of(&diff, Aspect::CommandLine);
    assert_eq!(line.change, Change::Changed);
    assert_eq!(line.words.as_deref(), Some("added module.sig_enforce=0 init=/bin/sh"));
    for aspect in [
        Aspect::Kernel,
        Aspect::Initrd,
        Aspect::BootLoader,
        Aspect::SecureBoot,
        Aspect::Firmware,
    ] {
        assert_eq!(of(&diff, aspect).change, Change::Unchanged, "{aspect:?}");
    }
    assert_eq!(of(&diff, Aspect::BootLoaderConfiguration).change, Change::Changed);
    assert!(diff.registers.is_empty());
}

#[test]
fn another_boot_path_changes_what_it_changes() {
    let diff = between("good", "uki");
    assert_eq!(of(&diff, Aspect::SecureBoot).change, Change::Changed);
    let keys: Vec<_> = of(&diff, Aspect::SecureBoot)
        .events
        .iter()
        .filter_map(|event| event.old.as_deref())
        .collect();
    assert!(keys.iter().any(|old| old.starts_with("PK")), "{keys:?}");
    assert_eq!(of(&diff, Aspect::MachineOwnerKeys).change, Change::Removed);
    assert_eq!(of(&diff, Aspect::UnifiedKernelImage).change, Change::Added);
}

#[test]
fn a_reference_differs_in_nothing_from_itself() {
    for boot in ["good", "uki"] {
        let diff = between(boot, boot);
        assert!(
            diff.same && diff.aspects.iter().all(|diff| diff.events.is_empty()),
            "{diff:?}"
        );
    }
}

#[test]
fn versions_are_told_where_paths_have_them() {
    let kernel = |version: &str, digest| event(9, &format!("file /boot/vmlinuz-{version}"), digest);
    let old = machine(
        "old",
        vec![kernel("6.1.0-44-amd64", 1)],
        &[("/bin/a", 1), ("/bin/b", 1), ("/bin/c", 1)],
    );
    let new = machine(
        "new",
        vec![kernel("6.1.0-45-amd64", 2)],
        &[("/bin/a", 1), ("/bin/b", 2), ("/bin/d", 1), ("/bin/e", 1)],
    );
    let diff = ReferenceDiff::of(&old, &new);
    let kernel = of(&diff, Aspect::Kernel);
    assert_eq!(kernel.words.as_deref(), Some("6.1.0-44 -> 6.1.0-45"));
    assert_eq!(
        kernel.events.len(),
        1,
        "one change, not one gone and one come: {kernel:?}"
    );
    let files = &diff.files;
    assert_eq!(
        (files.added.as_slice(), files.removed.as_slice()),
        (
            &["/bin/d".to_owned(), "/bin/e".to_owned()][..],
            &["/bin/c".to_owned()][..]
        )
    );
    assert_eq!(
        (files.changed.as_slice(), files.unchanged),
        (&["/bin/b".to_owned()][..], 1)
    );
}

#[test]
fn what_came_and_went_in_between_is_told_alone() {
    let old = machine(
        "old",
        vec![event(8, "grub: a", 1), event(8, "grub: b", 2), event(8, "grub: d", 4)],
        &[],
    );
    let new = machine(
        "new",
        vec![
            event(8, "grub: a", 1),
            event(8, "grub: c", 3),
            event(8, "grub: b", 2),
            event(8, "grub: d", 4),
        ],
        &[],
    );
    let diff = ReferenceDiff::of(&old, &new);
    let events = &of(&diff, Aspect::BootLoaderConfiguration).events;
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0].old, events[0].new.as_deref()), (&None, Some("grub: c")));
}

#[test]
fn order_matters() {
    let (a, b) = (event(8, "grub: a", 1), event(8, "grub: b", 2));
    let diff = ReferenceDiff::of(
        &machine("old", vec![a.clone(), b.clone()], &[]),
        &machine("new", vec![b, a], &[]),
    );
    assert_eq!(of(&diff, Aspect::BootLoaderConfiguration).change, Change::Changed);
    assert!(!diff.same);
}

#[test]
fn more_events_than_are_compared_are_still_told() {
    let events = |from: u8| {
        (0..MAX_COMPARED + 2)
            .map(|n| event(8, &format!("grub: {n}"), from + (n % 2) as u8))
            .collect::<Vec<_>>()
    };
    let diff = ReferenceDiff::of(&machine("old", events(1), &[]), &machine("new", events(3), &[]));
    assert_eq!(
        of(&diff, Aspect::BootLoaderConfiguration).events.len(),
        MAX_COMPARED + 2
    );
}

#[test]
fn a_register_without_events_that_differs_is_named() {
    use touchstone_verifier::tpm::HashAlg;
    let mut old = machine("old", Vec::new(), &[]);
    let mut new = machine("new", Vec::new(), &[]);
    old.banks.get_mut(&HashAlg::Sha256).unwrap().registers = [(4, vec![1; 32]), (7, vec![1; 32])].into();
    new.banks.get_mut(&HashAlg::Sha256).unwrap().registers = [(4, vec![2; 32]), (7, vec![1; 32])].into();
    let diff = ReferenceDiff::of(&old, &new);
    assert_eq!((diff.registers.as_slice(), diff.same), (&[4][..], false));
}

#[test]
fn published_staged_and_withdrawn_references_are_told_apart() {
    let test = TestRepo::published();
    let standing = |name: &str| {
        let entries = references(&test.repo, NOW).unwrap();
        entries
            .iter()
            .filter(|entry| entry.values.name == name)
            .map(|entry| entry.standing)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        standing("golden"),
        [Standing::Published],
        "what is staged and published alike is shown once"
    );
    reference_add(&test.repo, &boot_evidence("uki"), Some("next"), None, None).unwrap();
    assert_eq!(standing("next"), [Standing::Staged]);
    withdraw(&test.repo, "references/golden.corim").unwrap();
    assert_eq!(standing("golden"), [Standing::Withdrawn]);
    publish(&test.repo, &test.keys, NOW).unwrap();
    assert_eq!(
        (standing("golden"), standing("next")),
        (vec![], vec![Standing::Published])
    );
    let entries = references(&test.repo, NOW).unwrap();
    assert_eq!(
        find(&entries, "next", false).unwrap().signer.as_deref(),
        Some("reference-1")
    );
    assert_eq!(
        find(&entries, "golden", false).unwrap_err().code(),
        PolicyCode::TargetMissing
    );
}

#[test]
fn a_forged_published_reference_is_not_shown() {
    let test = TestRepo::published();
    let files = published(&test.repo).unwrap().unwrap().files;
    let (kind, mut bytes) = files
        .into_iter()
        .find(|(kind, _)| matches!(kind, TargetKind::Reference(_)))
        .unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let signers = signers(&published(&test.repo).unwrap().unwrap().files, &Files::new()).unwrap();
    let error = read(&kind, &bytes, Standing::Published, &signers, NOW).unwrap_err();
    assert_eq!(error.code(), PolicyCode::ReferenceRefused);
}
