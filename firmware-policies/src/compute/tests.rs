use touchstone_artefacts::pe::Image;
use touchstone_verifier::corim::BankValues;

use super::*;
use crate::evidence::CheckedEvidence;
use crate::testing::{NOW, TestRepo, boot_evidence, boot_file, boot_records, pack};

const MAGIC: &[u8] = b"#### LoaderInfo: systemd-stub 252.39 ####";

fn named(name: &str, bytes: impl Into<Vec<u8>>) -> NamedFile {
    NamedFile {
        name: name.into(),
        bytes: bytes.into(),
    }
}

/// A small PE32+ image with these sections.
fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let put =
        |out: &mut Vec<u8>, at: usize, value: usize| out[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    let headers = (328 + 40 * sections.len()).next_multiple_of(512);
    let mut out = vec![0; headers];
    out[..2].copy_from_slice(b"MZ");
    out[0x3C] = 64;
    out[64..68].copy_from_slice(b"PE\0\0");
    out[70] = sections.len() as u8;
    out[84] = 240;
    out[88..90].copy_from_slice(&0x020B_u16.to_le_bytes());
    put(&mut out, 148, headers);
    put(&mut out, 196, 16);
    for (index, (name, content)) in sections.iter().enumerate() {
        let (at, offset) = (328 + 40 * index, out.len());
        out[at..at + name.len()].copy_from_slice(name.as_bytes());
        put(&mut out, at + 8, content.len());
        put(&mut out, at + 16, content.len());
        put(&mut out, at + 20, offset);
        out.extend_from_slice(content);
    }
    out
}

fn uki(version: &str, cmdline: &str) -> NamedFile {
    let kernel = pe(&[(".text", version.as_bytes())]);
    let bytes = pe(&[
        (".linux", &kernel),
        (".osrel", format!("NAME=Test\nVERSION_ID={version}\n").as_bytes()),
        (".cmdline", cmdline.as_bytes()),
        (".initrd", b"an initrd"),
        (".sdmagic", MAGIC),
    ]);
    named(&format!("{version}.efi"), bytes)
}

#[test]
fn the_record_of_an_image_has_its_measured_sections_in_order() {
    use touchstone_evidence::uki_sections::{Section, decode};
    let image = uki("6.1", "quiet");
    let kernel = pe(&[(".text", b"6.1")]);
    let expected = [
        Section::of(".linux", &kernel),
        Section::of(".osrel", b"NAME=Test\nVERSION_ID=6.1\n"),
        Section::of(".cmdline", b"quiet"),
        Section::of(".initrd", b"an initrd"),
    ];
    assert_eq!(
        decode(&uki_sections(&image.bytes).unwrap()).as_deref(),
        Ok(&expected[..])
    );
    assert!(uki_sections(&kernel).is_err(), "a kernel is no unified image");
    let other_stub = pe(&[(".linux", &kernel), (".sdmagic", b"#### LoaderInfo: another 1 ####")]);
    assert!(
        uki_sections(&other_stub).is_err(),
        "what another stub measures is not known"
    );
}

fn uki_boot(uki: NamedFile) -> Option<Boot> {
    Some(Boot::Uki(UkiBoot {
        loaders: Vec::new(),
        uki,
        secure_boot: true,
    }))
}

fn golden() -> Option<Base> {
    Some(Base::Evidence(boot_evidence("good")))
}

fn grub_cfg(boot: &str) -> NamedFile {
    named("grub.cfg", boot_file(boot, "grub.cfg"))
}

/// Stages, publishes and reads back.
fn computed(test: &TestRepo, name: &str, compute: &Compute) -> MachineReference {
    reference_compute(&test.repo, name, compute).unwrap();
    test.publish(NOW).unwrap();
    let references = test.load(NOW).unwrap().references;
    let mut references = references.references().iter();
    references
        .find(|reference| reference.values.name == name)
        .unwrap()
        .values
        .clone()
}

fn code(compute: &Compute) -> PolicyCode {
    reference_compute(&TestRepo::published().repo, "new", compute)
        .unwrap_err()
        .code()
}

/// What the recorded boot quoted and logged.
fn quoted(boot: &str) -> BankValues {
    let mut banks = CheckedEvidence::read(&boot_evidence(boot)).unwrap().banks;
    banks.remove(&HashAlg::Sha256).unwrap()
}

fn sha256(reference: &MachineReference) -> &BankValues {
    &reference.banks[&HashAlg::Sha256]
}

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

/// The golden state with GRUB's texts kept, by way of a replacement that changes nothing.
fn golden_with_data(test: &TestRepo) -> Option<Base> {
    let same = Compute {
        base: golden(),
        replacements: vec![Replacement::File {
            old: grub_cfg("good"),
            new: grub_cfg("good"),
        }],
        ..Compute::default()
    };
    let reference = computed(test, "same", &same);
    let good = quoted("good");
    assert_eq!(sha256(&reference).registers, good.registers);
    Some(Base::Reference("same".into()))
}

#[test]
fn a_unified_image_alone_has_the_registers_that_follow_from_it() {
    let test = TestRepo::published();
    let compute = Compute {
        banks: vec![HashAlg::Sha256, HashAlg::Sha384],
        boot: uki_boot(uki("6.1", "quiet")),
        validity: (Some(NOW - 5), Some(NOW + 5)),
        ..Compute::default()
    };
    let report = reference_compute(&test.repo, "uki", &compute).unwrap();
    assert_eq!(
        (report.registers.as_slice(), report.events_only.as_slice()),
        (&[9, 11][..], &[4][..])
    );
    assert!(report.words.contains(&"command line: quiet".into()) && report.words.contains(&"system: Test 6.1".into()));
    let reference = computed(&test, "uki", &compute);
    assert_eq!(
        (reference.not_before, reference.not_after),
        (Some(NOW - 5), Some(NOW + 5))
    );
    assert_eq!(reference.banks.len(), 2);
    for (bank, values) in &reference.banks {
        // Eight events of four sections, name before content.
        let digests: Vec<_> = values.events_of(11).map(|event| event.digest.clone()).collect();
        assert_eq!(digests.len(), 8);
        assert_eq!(digests[0], bank.digest([&b".linux\0"[..]]).as_ref());
        assert_eq!(digests[5], bank.digest([&b"quiet"[..]]).as_ref());
        let mut value = vec![0; bank.digest_len()];
        for digest in &digests {
            value = bank.digest([value.as_slice(), digest]).as_ref().to_vec();
        }
        assert_eq!(values.registers[&11], value, "{bank}");
        let images: Vec<_> = values.events_of(4).map(|event| event.digest.clone()).collect();
        let image = uki("6.1", "quiet");
        let image = Image::parse(&image.bytes).unwrap().authenticode(*bank);
        assert_eq!(
            images,
            [bank.digest([&[0; 4][..]]).as_ref().to_vec(), image],
            "separator, image"
        );
    }
}

/// Over a base, a path determines its registers whole; what it does not use is empty, the rest is the base's.
#[test]
fn a_unified_image_over_a_base_is_a_whole_state() {
    let test = TestRepo::published();
    let over = |name: &str, image| {
        let compute = Compute {
            base: golden(),
            boot: uki_boot(image),
            ..Compute::default()
        };
        computed(&test, name, &compute)
    };
    let one = over("uki-1", uki("6.1", "quiet"));
    let good = quoted("good");
    let values = sha256(&one);
    for pcr in [0, 1, 2, 3, 5, 6, 7, 14] {
        assert_eq!(
            values.registers[&pcr], good.registers[&pcr],
            "register {pcr} is the platform's"
        );
    }
    assert_eq!(values.registers[&8], vec![0; 32], "GRUB does not run");
    assert_eq!(values.events_of(8).count(), 0);
    assert_eq!(
        values.events_of(4).count(),
        3,
        "the boot attempt, the separator, the image"
    );
    assert_eq!((values.events_of(9).count(), values.events_of(11).count()), (2, 8));
    // One image replaced by the next is the same state as the next one computed from the start.
    let two = over("uki-2", uki("6.2", "quiet panic=1"));
    let replaced = computed(
        &test,
        "uki-2-replaced",
        &Compute {
            base: Some(Base::Reference("uki-1".into())),
            replacements: vec![Replacement::File {
                old: uki("6.1", "quiet"),
                new: uki("6.2", "quiet panic=1"),
            }],
            ..Compute::default()
        },
    );
    let digests = |reference: &MachineReference| {
        let mut events: Vec<_> = sha256(reference)
            .events
            .iter()
            .map(|e| (e.pcr, e.digest.clone()))
            .collect();
        events.sort_by_key(|(pcr, _)| *pcr);
        events
    };
    assert_eq!(sha256(&replaced).registers, sha256(&two).registers);
    assert_eq!(digests(&replaced), digests(&two));
    assert_ne!(digests(&replaced), digests(&one));
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

#[test]
fn what_does_not_follow_from_base_and_files_is_refused() {
    let file = |old: NamedFile, new: NamedFile| Compute {
        base: golden(),
        replacements: vec![Replacement::File { old, new }],
        ..Compute::default()
    };
    let mut no_log = boot_records("good");
    no_log.pop();
    let without_log = || Some(Base::Evidence(pack(no_log.clone())));
    for (what, expected, compute) in [
        ("nothing", PolicyCode::ArtefactRefused, Compute::default()),
        (
            "a base alone",
            PolicyCode::ArtefactRefused,
            Compute {
                base: golden(),
                ..Compute::default()
            },
        ),
        (
            "a replacement without a base",
            PolicyCode::ArtefactRefused,
            Compute {
                base: None,
                ..file(grub_cfg("good"), grub_cfg("good"))
            },
        ),
        (
            "a file the base does not have",
            PolicyCode::BaseUnsuitable,
            file(named("x", *b"unknown"), named("x", *b"new")),
        ),
        (
            "text the base does not have",
            PolicyCode::BaseUnsuitable,
            Compute {
                base: golden(),
                replacements: vec![Replacement::Text {
                    old: "nowhere".into(),
                    new: "x".into(),
                }],
                ..Compute::default()
            },
        ),
        (
            "an image for a file",
            PolicyCode::ArtefactRefused,
            file(grub_cfg("good"), uki("6.1", "quiet")),
        ),
        (
            "a base without a log",
            PolicyCode::BaseUnsuitable,
            Compute {
                base: without_log(),
                boot: uki_boot(uki("6.1", "quiet")),
                ..Compute::default()
            },
        ),
        (
            "a base that is not there",
            PolicyCode::BaseUnsuitable,
            Compute {
                base: Some(Base::Reference("none".into())),
                ..file(grub_cfg("good"), grub_cfg("good"))
            },
        ),
        (
            "boot path and replacement",
            PolicyCode::ArtefactRefused,
            Compute {
                boot: uki_boot(uki("6.1", "quiet")),
                ..file(grub_cfg("good"), grub_cfg("good"))
            },
        ),
        (
            "an image that is none",
            PolicyCode::ArtefactRefused,
            Compute {
                boot: uki_boot(named("x", *b"MZ")),
                ..Compute::default()
            },
        ),
        (
            "register 9 that cannot be known, over a base",
            PolicyCode::ArtefactRefused,
            Compute {
                base: golden(),
                boot: uki_boot(uki("6.1", "quiet\n")),
                ..Compute::default()
            },
        ),
        (
            "an end before the start",
            PolicyCode::ReferenceConflict,
            Compute {
                validity: (Some(5), Some(4)),
                ..file(grub_cfg("good"), grub_cfg("good"))
            },
        ),
        (
            "GRUB without a loader",
            PolicyCode::ArtefactRefused,
            Compute {
                boot: Some(Boot::Grub(GrubBoot {
                    loaders: Vec::new(),
                    kernel: uki("6.1", "quiet"),
                    initrds: Vec::new(),
                    config: grub_cfg("good"),
                    device: "hd0,gpt1".into(),
                    command_line: None,
                    kernel_measured: None,
                })),
                banks: vec![HashAlg::Sha256],
                ..Compute::default()
            },
        ),
    ] {
        assert_eq!(code(&compute), expected, "{what}");
    }
    let test = TestRepo::published();
    let compute = file(grub_cfg("good"), grub_cfg("cmdline-changed"));
    reference_compute(&test.repo, "new", &compute).unwrap();
    reference_compute(&test.repo, "new", &compute).unwrap();
    let other = file(grub_cfg("good"), grub_cfg("good"));
    assert_eq!(
        reference_compute(&test.repo, "new", &other).unwrap_err().code(),
        PolicyCode::ReferenceConflict
    );
    assert_eq!(
        reference_compute(&test.repo, "a b", &other).unwrap_err().code(),
        PolicyCode::SettingsName
    );
}

/// A whole GRUB path from the packages of the recorded boot, where they are installed: register 4 and 8 of the machine.
#[test]
fn the_recorded_path_computed_from_its_packages_is_the_recorded_state() {
    let installed = |path: &str| std::fs::read(path).ok();
    let unpacked = std::env::var("TOUCHSTONE_ARTEFACTS").unwrap_or_else(|_| "/".into());
    let files = [
        installed("/usr/lib/shim/shimx64.efi.signed"),
        installed("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"),
        installed(&format!("{unpacked}/boot/vmlinuz-6.1.0-56-cloud-amd64")),
    ];
    let recorded = [
        "0fc347af103ec1dfac6e3f184c0a5241a2ce756a0932b359c404d39c45423806",
        "78313ff24688c8b2e1d4f4e1eff13236b2bd29b0f76ba749fd7fff4d305a1d94",
        "51349501a3d1ff83836437d2b365fd2d57f2feb8642d315e5181dec23d4c3275",
    ];
    let same = |(file, digest): (&Option<Vec<u8>>, &str)| {
        file.as_ref()
            .is_some_and(|file| hex::encode(HashAlg::Sha256.digest([file.as_slice()])) == digest)
    };
    if !files.iter().zip(recorded).all(same) {
        touchstone_vectors::skip(
            "the packages of the recorded boots (shim, GRUB, kernel) are not installed in those versions",
        );
        return;
    }
    let [shim, grub, kernel] = files.map(Option::unwrap);
    let test = TestRepo::published();
    let boot = |config: &str| GrubBoot {
        loaders: vec![named("BOOTX64.EFI", shim.clone()), named("grubx64.efi", grub.clone())],
        kernel: named("vmlinuz", kernel.clone()),
        initrds: vec![named("initrd.img", *b"not the recorded one")],
        config: grub_cfg(config),
        device: "hd0,gpt1".into(),
        command_line: None,
        kernel_measured: None,
    };
    let compute = |boot| Compute {
        base: golden(),
        boot: Some(Boot::Grub(boot)),
        ..Compute::default()
    };
    let good = quoted("good");
    let changed = quoted("cmdline-changed");
    let reference = computed(&test, "from-packages", &compute(boot("cmdline-changed")));
    let mut registers = sha256(&reference).registers.clone();
    assert_ne!(
        registers.insert(9, changed.registers[&9].clone()),
        Some(changed.registers[&9].clone())
    );
    registers.remove(&11);
    let mut expected = changed.registers.clone();
    expected.remove(&11);
    assert_eq!(registers, expected, "all but the initrd's register");
    assert_eq!(registers[&4], good.registers[&4]);
    let other_line = GrubBoot {
        command_line: Some("quiet".into()),
        ..boot("good")
    };
    assert_eq!(code(&compute(other_line)), PolicyCode::ArtefactRefused);
}
