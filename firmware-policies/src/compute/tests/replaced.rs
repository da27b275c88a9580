//! Files that take the place of what a recorded boot measured.

use super::*;

/// The changed configuration in place of the golden one gives exactly what the machine with that configuration quoted.
#[test]
fn a_replaced_configuration_gives_what_the_machine_that_boots_it_quoted() {
    let test = TestRepo::published();
    for (name, base) in [
        ("over-evidence", golden()),
        ("over-reference", Some(Base::Reference("golden".into()))),
    ] {
        let reference = computed(
            &test,
            name,
            &Compute {
                base,
                replacements: vec![Replacement::File {
                    old: grub_cfg("good"),
                    new: grub_cfg("cmdline-changed"),
                }],
                ..Compute::default()
            },
        );
        let changed = quoted("cmdline-changed");
        assert_eq!(sha256(&reference).registers, changed.registers, "{name}");
        let digests = |values: &BankValues, pcr| values.events_of(pcr).map(|e| e.digest.clone()).collect::<Vec<_>>();
        for pcr in [4, 7, 8, 9] {
            assert_eq!(
                digests(sha256(&reference), pcr),
                digests(&changed, pcr),
                "{name}: register {pcr}"
            );
        }
    }
}

#[test]
fn replaced_text_gives_the_changed_commands() {
    let test = TestRepo::published();
    let reference = computed(
        &test,
        "text",
        &Compute {
            base: golden_with_data(&test),
            replacements: vec![Replacement::Text {
                old: "loglevel=4".into(),
                new: "loglevel=4 module.sig_enforce=0 init=/bin/sh".into(),
            }],
            ..Compute::default()
        },
    );
    let changed = quoted("cmdline-changed");
    let good = quoted("good");
    assert_eq!(sha256(&reference).registers[&8], changed.registers[&8]);
    assert_eq!(
        sha256(&reference).registers[&9],
        good.registers[&9],
        "grub.cfg itself was not replaced"
    );
}

#[test]
fn files_are_listed_and_replaced() {
    let test = TestRepo::published();
    let mut files = FileList::new(HashAlg::Sha256);
    files.add(b"/usr/bin/tool", b"tool 1").unwrap();
    files.add(b"/usr/bin/other", b"other").unwrap();
    let only = computed(
        &test,
        "files",
        &Compute {
            files: Some(files.clone()),
            ..Compute::default()
        },
    );
    assert!(only.banks.is_empty());
    assert_eq!(only.files.len(), 2);
    let with_base = Compute {
        base: golden(),
        files: Some(files),
        replacements: vec![Replacement::File {
            old: grub_cfg("good"),
            new: grub_cfg("good"),
        }],
        ..Compute::default()
    };
    computed(&test, "whole", &with_base);
    let replaced = computed(
        &test,
        "whole-2",
        &Compute {
            base: Some(Base::Reference("whole".into())),
            replacements: vec![Replacement::File {
                old: named("tool", *b"tool 1"),
                new: named("tool", *b"tool 2"),
            }],
            ..Compute::default()
        },
    );
    let digests: Vec<_> = replaced
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.digest.clone()))
        .collect();
    let digest = |content: &[u8]| HashAlg::Sha256.digest([content]).as_ref().to_vec();
    assert!(digests.contains(&("/usr/bin/tool", digest(b"tool 2"))));
    assert!(digests.contains(&("/usr/bin/other", digest(b"other"))));
    assert_eq!(digests.len(), 2);
    assert_eq!(sha256(&replaced).registers.len(), 12);
}
