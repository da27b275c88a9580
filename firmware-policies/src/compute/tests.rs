use touchstone_artefacts::pe::Image;
use touchstone_verifier::corim::BankValues;

use super::*;
use crate::author::evidence::CheckedEvidence;
use crate::testing::{NOW, TestRepo, boot_evidence, boot_file, boot_records, pack};

mod replaced;
mod unified;

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

fn golden() -> Option<Base> {
    Some(Base::Evidence(boot_evidence("good")))
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

fn sha256(reference: &MachineReference) -> &BankValues {
    &reference.banks[&HashAlg::Sha256]
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

fn grub_cfg(boot: &str) -> NamedFile {
    named("grub.cfg", boot_file(boot, "grub.cfg"))
}

/// What the recorded boot quoted and logged.
fn quoted(boot: &str) -> BankValues {
    let mut banks = CheckedEvidence::read(&boot_evidence(boot)).unwrap().banks;
    banks.remove(&HashAlg::Sha256).unwrap()
}

fn uki_boot(uki: NamedFile) -> Option<Boot> {
    Some(Boot::Uki(UkiBoot {
        loaders: Vec::new(),
        uki,
        secure_boot: true,
    }))
}
