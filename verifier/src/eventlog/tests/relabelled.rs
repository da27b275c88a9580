//! Claims of a boot, and liars who change what no digest covers: types, labels, descriptions.

use super::*;

const SHA256: u16 = 0x000B;

/// A log of SHA-256 events: register, type, what is hashed, data.
fn log(events: &[(u32, EventType, &[u8], &[u8])]) -> Vec<u8> {
    let mut log = LogBuilder::sha256();
    for (pcr, event_type, hashed, data) in events {
        let digest = HashAlg::Sha256.digest([*hashed]);
        log = log.event(*pcr, *event_type, &[(SHA256, digest.as_ref())], data);
    }
    log.0
}

fn claims(events: &[(u32, EventType, &[u8], &[u8])]) -> BootClaims {
    claims_of(&log(events), Vouched::WHOLE_LOG)
}

fn claims_of(bytes: &[u8], vouched: Vouched) -> BootClaims {
    let log = EventLog::parse(bytes).unwrap();
    BootStory::tell(&log, HashAlg::Sha256, vouched).claims()
}

fn variable(guid: &guid::Guid, name: &str, value: &[u8]) -> Vec<u8> {
    let mut data = guid.to_vec();
    data.extend((name.len() as u64).to_le_bytes());
    data.extend((value.len() as u64).to_le_bytes());
    data.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
    data.extend(value);
    data
}

#[test]
fn a_recorded_boot_proves_its_claims() {
    let bytes = log_of(&boots()[0]);
    let claims = claims_of(&bytes, Vouched::WHOLE_LOG);
    assert_eq!((claims.secure_boot, claims.setup_mode), (Some(true), Some(false)));
    let count = |set: &Option<std::collections::BTreeSet<[u8; 32]>>| set.as_ref().map(|set| set.len());
    assert_eq!(
        (
            count(&claims.pk),
            count(&claims.kek),
            count(&claims.db),
            claims.dbx_entries
        ),
        (Some(1), Some(2), Some(2), Some(1))
    );
    assert_eq!(count(&claims.authorities), Some(2));
    assert_eq!(claims.boot_images.as_ref().map(|images| images.len()), Some(3));
    assert_eq!(
        claims.sbat_level.as_deref(),
        Some("sbat,1,2025021800\\u{a}shim,4\\u{a}grub,5\\u{a}")
    );
    assert!(
        claims
            .kernel_command_line
            .unwrap()
            .starts_with("/vmlinuz console=ttyS0 ")
    );
    assert_eq!(claims.complete, Some(true));
    // A unified kernel image's command line is a section: known by its digest only.
    let uki = claims_of(&log_of(&boots()[3]), Vouched::WHOLE_LOG);
    assert_eq!((uki.secure_boot, uki.kernel_command_line), (Some(true), None));
    assert_eq!((uki.complete, uki.boot_images.unwrap().len()), (Some(true), 1));
}

#[test]
fn what_no_quote_vouches_for_is_no_claim() {
    let bytes = log_of(&boots()[0]);
    let without = |pcr: u32| {
        claims_of(
            &bytes,
            Vouched {
                registers: !(1 << pcr),
                ..Vouched::WHOLE_LOG
            },
        )
    };
    let whole = claims_of(&bytes, Vouched::WHOLE_LOG);
    let seven = without(7);
    assert_eq!(
        (
            seven.secure_boot,
            seven.setup_mode,
            seven.pk,
            seven.dbx_entries,
            seven.authorities,
            seven.sbat_level
        ),
        (None, None, None, None, None, None)
    );
    assert_eq!(seven.kernel_command_line, whole.kernel_command_line);
    assert_eq!(without(8).kernel_command_line, None);
    assert_eq!(without(4).boot_images, None);
    assert_eq!(without(5).complete, None);
    // Up to the boot loader only: no kernel, and not the whole boot.
    let early = claims_of(
        &bytes,
        Vouched {
            events: 30,
            ..Vouched::WHOLE_LOG
        },
    );
    assert_eq!((early.secure_boot, early.kernel_command_line), (Some(true), None));
    let none = claims_of(
        &bytes,
        Vouched {
            events: 0,
            ..Vouched::WHOLE_LOG
        },
    );
    let nothing = BootClaims {
        complete: Some(false),
        ..BootClaims::default()
    };
    assert_eq!(none, nothing);
}

/// The real boot: `linux /evil`. The text `/good` was measured too (as a command that did nothing).
#[test]
fn no_relabelling_makes_another_command_line() {
    let ipl = EventType::IPL;
    let honest: [(u32, EventType, &[u8], &[u8]); 3] = [
        (8, ipl, b"/good", b"grub_cmd: /good\0"),
        (8, ipl, b"linux /evil", b"grub_cmd: linux /evil\0"),
        (8, ipl, b"/evil", b"kernel_cmdline: /evil\0"),
    ];
    assert_eq!(claims(&honest).kernel_command_line.as_deref(), Some("/evil"));
    type Row = (u32, EventType, &'static [u8], &'static [u8]);
    let good: Row = (8, ipl, b"/good", b"kernel_cmdline: /good\0");
    let evil: Row = (8, ipl, b"/evil", b"grub_cmd: /evil\0");
    for (what, rows) in [
        (
            "labels exchanged",
            vec![good, (8, ipl, b"linux /evil", b"grub_cmd: linux /evil\0"), evil],
        ),
        (
            "the command under another type",
            vec![good, (8, EventType::COMPACT_HASH, b"linux /evil", b"linux /evil"), evil],
        ),
        (
            "the command under another text",
            vec![good, (8, EventType::POST_CODE, b"linux /evil", b"innocent"), evil],
        ),
        (
            "the command as a file",
            vec![good, (8, ipl, b"linux /evil", b"/boot/grub/font\0"), evil],
        ),
        ("no command", vec![good, evil]),
        (
            "two lines",
            vec![
                good,
                (8, ipl, b"linux /good", b"grub_cmd: linux /good\0"),
                (8, ipl, b"/evil", b"kernel_cmdline: /evil\0"),
            ],
        ),
        (
            "a line of its own in register 12 that nothing covers",
            vec![
                good,
                (8, ipl, b"linux /good", b"grub_cmd: linux /good\0"),
                (12, ipl, b"init=/bin/sh", b"Credentials initrd\0"),
            ],
        ),
    ] {
        assert_eq!(claims(&rows).kernel_command_line, None, "{what}");
    }
}

#[test]
fn no_relabelling_turns_secure_boot_on() {
    let config = EventType::EFI_VARIABLE_DRIVER_CONFIG;
    let on = variable(&guid::GLOBAL_VARIABLE, "SecureBoot", &[1]);
    let off = variable(&guid::GLOBAL_VARIABLE, "SecureBoot", &[0]);
    let foreign = variable(&[7; 16], "SecureBoot", &[1]);
    let separator = (7, EventType::SEPARATOR, &[0u8; 4][..], &[0u8; 4][..]);
    let honest: [(u32, EventType, &[u8], &[u8]); 2] = [(7, config, &on, &on), separator];
    assert_eq!(claims(&honest).secure_boot, Some(true));
    for (what, rows) in [
        ("off", vec![(7, config, &off[..], &off[..]), separator]),
        ("after the separator", vec![separator, (7, config, &on, &on)]),
        (
            "after a separator that is called something else",
            vec![
                (7, EventType::POST_CODE, &[0u8; 4], b"innocent"),
                (7, config, &on, &on),
                separator,
            ],
        ),
        ("no separator", vec![(7, config, &on, &on)]),
        ("another register", vec![(6, config, &on, &on), separator]),
        ("another name space", vec![(7, config, &foreign, &foreign), separator]),
        (
            "off, then on",
            vec![(7, config, &off, &off), (7, config, &on, &on), separator],
        ),
        (
            "off under another type, then on",
            vec![
                (7, EventType::NONHOST_INFO, &off, &off),
                (7, config, &on, &on),
                separator,
            ],
        ),
        (
            "off under another text, then on",
            vec![
                (7, EventType::POST_CODE, &off, b"innocent"),
                (7, config, &on, &on),
                separator,
            ],
        ),
        ("a lie", vec![(7, config, &off, &on), separator]),
        ("no value", vec![(7, config, b"", &on[..on.len() - 1]), separator]),
    ] {
        assert_ne!(claims(&rows).secure_boot, Some(true), "{what}");
    }
}

#[test]
fn authorities_and_images_cannot_be_hidden() {
    let certificate = [&[9; 16][..], b"\x30\x82\x00\x01x"].concat();
    let one = variable(&guid::IMAGE_SECURITY_DATABASE, "db", &certificate);
    let two = variable(&guid::SHIM_LOCK, "MokList", &certificate[16..]);
    let separator = (7, EventType::SEPARATOR, &[0u8; 4][..], &[0u8; 4][..]);
    let authority = EventType::EFI_VARIABLE_AUTHORITY;
    let honest = claims(&[separator, (7, authority, &one, &one), (7, authority, &two, &two)]);
    assert!(honest.authorities.is_some());
    let renamed = claims(&[
        separator,
        (7, authority, &one, &one),
        (7, EventType::NONHOST_INFO, &two, &two),
    ]);
    assert_eq!(renamed.authorities, honest.authorities, "another type");
    let hidden = claims(&[
        separator,
        (7, authority, &one, &one),
        (7, EventType::POST_CODE, &two, b"innocent"),
    ]);
    assert_eq!(hidden.authorities, None, "another text");
    let separator = (4, EventType::SEPARATOR, &[0u8; 4][..], &[0u8; 4][..]);
    let image = EventType::EFI_BOOT_SERVICES_APPLICATION;
    let rows = |event_type| [separator, (4, image, b"a", b"path"), (4, event_type, b"b", b"path")];
    let honest = claims(&rows(image)).boot_images;
    assert_eq!(honest.as_ref().map(|images| images.len()), Some(2));
    for other in [
        EventType::POST_CODE,
        EventType::EFI_BOOT_SERVICES_DRIVER,
        EventType::IPL,
    ] {
        assert_eq!(claims(&rows(other)).boot_images, honest, "{other}");
    }
    assert_eq!(
        claims(&[separator]).boot_images,
        None,
        "nothing proves that there is none"
    );
}

#[test]
fn a_set_that_is_too_large_is_no_claim() {
    let digests: Vec<[u8; 2]> = (0..=MAX_CLAIM_SET as u16).map(u16::to_le_bytes).collect();
    let rows: Vec<(u32, EventType, &[u8], &[u8])> = digests
        .iter()
        .map(|digest| (4, EventType::EFI_BOOT_SERVICES_APPLICATION, &digest[..], &b"x"[..]))
        .collect();
    assert_eq!(claims(&rows).boot_images, None);
    assert_eq!(claims(&rows[1..]).boot_images.map(|set| set.len()), Some(MAX_CLAIM_SET));
}

#[test]
fn sections_are_pairs_of_name_and_contents() {
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let (linux, initrd) = (wide(".linux\0"), wide(".initrd\0"));
    let ipl = EventType::IPL;
    let bytes = log(&[
        (11, ipl, b".linux\0", &linux),
        (11, ipl, b"kernel", &linux),
        // A name that was not measured is no section.
        (11, ipl, b"?", &initrd),
        (11, ipl, b"enter-initrd", b"enter-initrd\0"),
        (11, ipl, b"?", b"leave-initrd\0"),
    ]);
    let parsed = EventLog::parse(&bytes).unwrap();
    let story = BootStory::tell(&parsed, HashAlg::Sha256, Vouched::WHOLE_LOG);
    assert_eq!(story.sections.len(), 1);
    assert_eq!(
        (story.sections[0].name.value.as_str(), story.sections[0].name.proven),
        (".linux", true)
    );
    assert_eq!(story.sections[0].contents.unwrap().event.index, 2);
    let phases: Vec<&str> = story.phases.iter().map(|phase| phase.value.as_str()).collect();
    assert_eq!(phases, ["enter-initrd"]);
}
