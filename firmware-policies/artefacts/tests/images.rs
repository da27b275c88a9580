//! PE images and unified kernel images: digests against recorded boots, and hostile bytes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::common;

use common::{BANKS, computed, grub, kernel, logged, pe, put32, recorded, shim};
use proptest::prelude::*;
use touchstone_artefacts::boot::{self, Loaded};
use touchstone_artefacts::fuzz;
use touchstone_artefacts::pe::{Image, is_linux, shim_version};
use touchstone_artefacts::uki::Uki;
use touchstone_verifier::tpm::HashAlg;

const MAGIC: &[u8] = b"#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####\0";

/// Register 4 of the boot `good`, from the packages it was made from: SHA-1 and SHA-256 equal the log's.
#[test]
fn signed_images_have_the_digests_that_firmware_measured() {
    let applications: Vec<_> = logged("good", 4)
        .into_iter()
        .skip(2)
        .map(|(digests, _)| digests)
        .collect();
    assert_eq!(applications.len(), 4);
    assert_eq!(applications[2], applications[3], "the kernel is measured twice");
    for (what, file, digests) in [
        ("shim", shim(), &applications[0]),
        ("GRUB", grub(), &applications[1]),
        ("kernel", kernel(), &applications[2]),
    ] {
        let Some(file) = file else { continue };
        let image = Image::parse(&file).unwrap();
        assert!(image.is_signed(), "{what}");
        assert_eq!(BANKS.map(|bank| image.authenticode(bank)), *digests, "{what}");
        assert_eq!(shim_version(&image), (what == "shim").then_some((16, 1)));
        assert_eq!(is_linux(&file), what == "kernel");
    }
}

/// The digest is over the parts the format names, in order, and over nothing else.
#[test]
fn the_digest_covers_all_but_checksum_and_certificates() {
    let sections: &[(&str, &[u8])] = &[(".text", &[1; 100]), (".data", &[2; 33])];
    let plain = pe(sections, b"tail of odd length", b"");
    let signed = pe(sections, b"tail of odd length", b"certificates");
    let (plain_image, signed_image) = (Image::parse(&plain).unwrap(), Image::parse(&signed).unwrap());
    let own = |bytes: &[u8]| {
        // Header without checksum (152..156) and certificate table entry (232..240), then the rest of the file.
        let end = plain.len();
        HashAlg::Sha384
            .digest([&bytes[..152], &bytes[156..232], &bytes[240..end]])
            .as_ref()
            .to_vec()
    };
    assert_eq!(plain_image.authenticode(HashAlg::Sha384), own(&plain));
    assert_eq!(signed_image.authenticode(HashAlg::Sha384), own(&plain));
    for (at, changes) in [
        (152, false),
        (155, false),
        (140, true),
        (156, true),
        (plain.len() - 1, true),
        (600, true),
    ] {
        let mut altered = signed.clone();
        altered[at] ^= 1;
        let altered = Image::parse(&altered).unwrap().authenticode(HashAlg::Sha384);
        assert_eq!(altered != own(&plain), changes, "byte {at}");
    }
    let mut resigned = signed.clone();
    *resigned.last_mut().unwrap() ^= 1;
    assert_eq!(
        Image::parse(&resigned).unwrap().authenticode(HashAlg::Sha384),
        own(&plain)
    );
}

#[test]
fn images_that_firmware_and_verifier_could_read_differently_are_refused() {
    let good = pe(&[(".text", &[1; 64]), (".data", &[2; 64])], b"", b"certs!!!");
    let (table, security) = (88 + 240, 88 + 112 + 32);
    let end = good.len();
    for (attack, at, value) in [
        ("a section over the next", table + 16, 65),
        ("a section over the header", table + 20, 256),
        ("a section beyond the file", table + 40 + 20, end),
        ("a section into the certificates", table + 40 + 16, 72),
        ("a length that overflows", table + 16, 0xFFFF_FFFF),
        ("an offset that overflows", table + 20, 0xFFFF_FFFF),
        ("headers beyond the file", 88 + 60, end + 1),
        ("headers that end before the section table", 88 + 60, 300),
        ("certificates in the middle", security, 512),
        ("certificates that end too early", security + 4, 7),
        ("certificates over the headers", security + 4, end),
        ("a signature elsewhere", 0x3C, end),
        ("an unknown optional header", 88, 0x0107),
        ("97 sections", 70, 97),
    ] {
        let mut bytes = good.clone();
        let width = if at == 70 || at == 88 { 2 } else { 4 };
        bytes[at..at + width].copy_from_slice(&(value as u32).to_le_bytes()[..width]);
        assert!(Image::parse(&bytes).is_err(), "{attack}");
    }
    assert!(Image::parse(&good).is_ok() && Image::is_image(&good) && !Image::is_image(b"MZ"));
    let twice = pe(&[(".linux", b"one"), (".linux", b"two"), (".sdmagic", MAGIC)], b"", b"");
    assert!(Image::parse(&twice).unwrap().section(".linux").is_err());
    assert!(Uki::parse(&twice).is_err(), "two kernels in one image");
}

#[test]
fn an_image_cut_anywhere_is_refused_or_unsigned() {
    let whole = pe(&[(".text", &[1; 64]), (".data", &[2; 64])], b"", b"certs!!!");
    for end in 0..whole.len() {
        fuzz::image(&whole[..end]);
        assert!(Image::parse(&whole[..end]).is_err(), "cut at {end}");
    }
}

fn recorded_uki() -> Vec<u8> {
    let (osrel, cmdline) = (recorded("uki/uki.osrel"), recorded("uki/uki.cmdline"));
    // In another order than the canonical one, as objcopy leaves them.
    let inner = pe(&[(".text", b"kernel")], b"", b"");
    pe(
        &[
            (".sbat", b"sbat,1"),
            (".sdmagic", MAGIC),
            (".initrd", b"the initrd"),
            (".cmdline", &cmdline),
            (".osrel", &osrel),
            (".linux", &inner),
            (".uname", b"6.1.0"),
        ],
        b"",
        b"",
    )
}

/// All that does not depend on the recorded kernel and initrd equals the log, at its place.
#[test]
fn sections_are_measured_as_in_the_recorded_boot() {
    let bytes = recorded_uki();
    let uki = Uki::parse(&bytes).unwrap();
    let boot = boot::uki_events(&BANKS, &uki, "BOOTX64.EFI", true).unwrap();
    let (ours, theirs) = (computed(&boot.events, 11), logged("uki", 11));
    assert_eq!(ours.len(), theirs.len());
    for (index, (our, their)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(our.1, their.1, "data of event {index}");
        // 1 and 7 are the contents of kernel and initrd.
        assert_eq!(our.0 == their.0, ![1, 7].contains(&index), "digest of event {index}");
    }
    let (ours, theirs) = (computed(&boot.events, 9), logged("uki", 9));
    assert_eq!((ours.len(), boot.without_files), (2, None));
    assert_eq!(ours[0], theirs[0], "load options");
    assert_eq!(ours[1].1, theirs[1].1, "the initrd's tag");
    assert_eq!(
        computed(&boot.events, 4).len(),
        1,
        "Secure Boot on: the outer image only"
    );
    let off = boot::uki_events(&BANKS, &uki, "BOOTX64.EFI", false).unwrap();
    let inner = uki.kernel().unwrap().authenticode(HashAlg::Sha256);
    assert_eq!(
        computed(&off.events, 4)[1].0[1],
        inner,
        "Secure Boot off: the inner kernel too"
    );
    assert_eq!(
        uki.describe(),
        [
            "unified kernel image, systemd-stub 252",
            "system: Measured boot test 1",
            "command line: console=ttyS0 ima_policy=tcb rootfstype=ramfs rdinit=/init panic=-1 quiet loglevel=4"
        ]
    );
}

/// The recorded kernel's plain digest is what register 11 has, its Authenticode digest what register 4 has elsewhere.
#[test]
fn the_recorded_kernel_is_measured_as_a_section() {
    let Some(kernel) = kernel() else { return };
    let bytes = pe(&[(".linux", &kernel), (".sdmagic", MAGIC)], b"", b"");
    let uki = Uki::parse(&bytes).unwrap();
    let events = uki.section_events(&BANKS);
    assert_eq!(computed(&events, 11)[..], logged("uki", 11)[..2]);
    let image = &uki.kernel().unwrap();
    let inner = boot::image_event(&BANKS, Loaded { image, name: "" });
    assert_eq!(computed(&[inner], 4)[0].0, logged("good", 4)[4].0);
}

#[test]
fn what_is_measured_depends_on_the_version_of_the_stub() {
    let measured = |version: &str, more: &[(&str, &[u8])]| {
        let magic = format!("#### LoaderInfo: systemd-stub {version} ####");
        let mut sections: Vec<(&str, &[u8])> = vec![
            (".pcrpkey", b"key"),
            (".pcrsig", b"signatures"),
            (".sbat", b"sbat"),
            (".uname", b"6.1"),
            (".ucode", b"u"),
            (".splash", b"s"),
            (".dtb", b"d"),
            (".initrd", b"i"),
            (".cmdline", b"c"),
            (".osrel", b"o"),
            (".linux", b"l"),
            (".sdmagic", magic.as_bytes()),
        ];
        sections.extend(more);
        let bytes = pe(&sections, b"", b"");
        Uki::parse(&bytes).map(|uki| uki.sections().iter().map(|(name, _)| *name).collect::<String>())
    };
    assert_eq!(
        measured("252.1", &[]).unwrap(),
        ".linux.osrel.cmdline.initrd.splash.dtb.pcrpkey"
    );
    assert_eq!(
        measured("253~rc1", &[]).unwrap(),
        ".linux.osrel.cmdline.initrd.splash.dtb.pcrpkey"
    );
    assert_eq!(
        measured("254", &[]).unwrap(),
        ".linux.osrel.cmdline.initrd.splash.dtb.uname.sbat.pcrpkey"
    );
    let all = ".linux.osrel.cmdline.initrd.ucode.splash.dtb.uname.sbat.pcrpkey";
    assert_eq!(measured("257.3", &[]).unwrap(), all);
    for version in ["251", "263", "", "x", "99999999999"] {
        assert!(measured(version, &[]).is_err(), "{version}");
    }
    for section in [".profile", ".dtbauto", ".hwids", ".efifw"] {
        assert!(
            measured("257", &[(section, b"x")]).is_err(),
            "{section} is chosen at boot"
        );
    }
}

#[test]
fn register_9_is_left_out_where_the_stub_changes_the_initrd() {
    let why = |version: &str, more: &[(&str, &[u8])]| {
        let magic = format!("#### LoaderInfo: systemd-stub {version} ####");
        let mut sections: Vec<(&str, &[u8])> =
            vec![(".linux", b"l"), (".initrd", b"i"), (".sdmagic", magic.as_bytes())];
        sections.extend(more);
        let bytes = pe(&sections, b"", b"");
        let boot = boot::uki_events(&BANKS, &Uki::parse(&bytes).unwrap(), "x", true).unwrap();
        assert_eq!(boot.without_files.is_some(), computed(&boot.events, 9).is_empty());
        boot.without_files
    };
    let cmdline: (&str, &[u8]) = (".cmdline", b"quiet");
    assert_eq!(why("252", &[cmdline]), None);
    for (what, version, sections) in [
        ("a newer stub", "257", vec![cmdline]),
        ("signatures", "252", vec![cmdline, (".pcrsig", b"x")]),
        ("a key", "252", vec![cmdline, (".pcrpkey", b"x")]),
        ("no command line", "252", vec![]),
        ("a newline at the end", "252", vec![(".cmdline", b"quiet\n")]),
        ("a NUL inside", "252", vec![(".cmdline", b"qu\0iet")]),
        ("not ASCII", "252", vec![(".cmdline", "quïet".as_bytes())]),
    ] {
        assert!(why(version, &sections).is_some(), "{what}");
    }
}

/// A section that claims more memory than it has data: what firmware zeroes is not guessed.
#[test]
fn a_section_longer_in_memory_than_in_the_file_is_refused() {
    let mut bytes = pe(&[(".linux", b"l"), (".sdmagic", MAGIC)], b"", b"");
    put32(&mut bytes, 88 + 240 + 8, 17);
    assert!(Uki::parse(&bytes).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzz::image(&bytes);
    }

    #[test]
    fn no_altered_image_makes_the_parsers_panic(at in 0usize..1400, value in any::<u32>(), cut in 0usize..4000) {
        let mut bytes = recorded_uki();
        if at + 4 <= bytes.len() {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes.truncate(cut.max(500));
        fuzz::image(&bytes);
    }

    /// Whatever is altered outside checksum and certificates alters the digest, or the image is refused.
    #[test]
    fn no_change_of_covered_bytes_keeps_the_digest(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let whole = pe(&[(".text", &[1; 64]), (".data", &[2; 80])], b"tail", b"certs!!!");
        let at = at.index(whole.len() - 8);
        prop_assume!(!(152..156).contains(&at) && !(232..240).contains(&at));
        let digest = Image::parse(&whole).unwrap().authenticode(HashAlg::Sha256);
        let mut altered = whole.clone();
        altered[at] ^= 1 << bit;
        if let Ok(image) = Image::parse(&altered) {
            prop_assert_ne!(image.authenticode(HashAlg::Sha256), digest, "byte {}", at);
        }
    }
}
