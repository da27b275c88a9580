//! What is left out, masked or allowed to be newer, and every way to be taken for it that must fail.

use super::*;

const BANK: HashAlg = HashAlg::Sha256;
const GLOBAL: [u8; 16] = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";
const DATABASE: [u8; 16] = *b"\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f";
const SHIM: [u8; 16] = *b"\x50\xab\x5d\x60\x46\xe0\x00\x43\xab\xb6\x3d\xd8\x10\xdd\x8b\x23";

/// An event with the digest of `hashed`.
struct Made {
    pcr: u32,
    event_type: EventType,
    data: Vec<u8>,
    digest: Vec<u8>,
}

impl Made {
    fn new(pcr: u32, event_type: EventType, data: &[u8], hashed: &[u8]) -> Self {
        Self {
            pcr,
            event_type,
            data: data.to_vec(),
            digest: BANK.digest([hashed]).as_ref().to_vec(),
        }
    }

    fn whole(pcr: u32, event_type: EventType, data: &[u8]) -> Self {
        Self::new(pcr, event_type, data, data)
    }

    fn measured(&self) -> Measured<'_> {
        Measured {
            pcr: self.pcr,
            event_type: self.event_type,
            digest: &self.digest,
            data: &self.data,
        }
    }

    fn token(&self) -> Token<'_> {
        token(BANK, &self.measured())
    }

    fn is_fixed(&self) -> bool {
        self.token() == Token::Fixed(&self.digest)
    }
}

fn variable(guid: &[u8; 16], name: &str, value: &[u8]) -> Vec<u8> {
    let mut data = guid.to_vec();
    data.extend((name.len() as u64).to_le_bytes());
    data.extend((value.len() as u64).to_le_bytes());
    data.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
    data.extend(value);
    data
}

/// EFI_LOAD_OPTION with a file path and optional data.
fn load_option(description: &str, optional: &[u8]) -> Vec<u8> {
    let mut paths = vec![4, 4, 10, 0];
    paths.extend("\\a\0".encode_utf16().flat_map(u16::to_le_bytes));
    paths.extend([0x7F, 0xFF, 4, 0]);
    let mut value = vec![1, 0, 0, 0];
    value.extend((paths.len() as u16).to_le_bytes());
    value.extend(description.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
    value.extend(paths);
    value.extend(optional);
    value
}

/// UEFI_GPT_DATA with one entry, its header's checksum right.
fn partition_table() -> Vec<u8> {
    let mut header = b"EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00".to_vec();
    header.resize(92, 7);
    header[84..88].copy_from_slice(&128u32.to_le_bytes());
    header[16..20].fill(0);
    let mut crc = u32::MAX;
    for byte in &header {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            };
        }
    }
    header[16..20].copy_from_slice(&(!crc).to_le_bytes());
    header.extend(1u64.to_le_bytes());
    header.extend([9; 128]);
    header
}

/// One EFI_SIGNATURE_LIST of 32-byte entries.
fn signature_list(entries: &[u8]) -> Vec<u8> {
    let mut list = vec![0x26; 16];
    list.extend((28 + 48 * entries.len() as u32).to_le_bytes());
    list.extend(0u32.to_le_bytes());
    list.extend(48u32.to_le_bytes());
    for entry in entries {
        list.extend([0xEE; 16]);
        list.extend([*entry; 32]);
    }
    list
}

fn dbx(entries: &[u8]) -> Made {
    Made::whole(
        7,
        EventType::EFI_VARIABLE_DRIVER_CONFIG,
        &variable(&DATABASE, "dbx", &signature_list(entries)),
    )
}

fn sbat(text: &str) -> Made {
    Made::whole(
        7,
        EventType::EFI_VARIABLE_AUTHORITY,
        &variable(&SHIM, "SbatLevel", text.as_bytes()),
    )
}

fn grub(text: &str) -> Made {
    let data = format!("grub_cmd: {text}\0");
    Made::new(8, EventType::IPL, data.as_bytes(), text.as_bytes())
}

#[test]
fn what_belongs_to_the_machine_is_left_out() {
    let order = variable(&GLOBAL, "BootOrder", &[1, 0, 2, 0]);
    let option = load_option("disk", &[]);
    let entry = variable(&GLOBAL, "Boot001F", &option);
    for (what, event) in [
        (
            "boot order, by value",
            Made::new(1, EventType::EFI_VARIABLE_BOOT, &order, &[1, 0, 2, 0]),
        ),
        (
            "boot order, whole",
            Made::whole(1, EventType::EFI_VARIABLE_BOOT2, &order),
        ),
        (
            "boot entry, by value",
            Made::new(1, EventType::EFI_VARIABLE_BOOT, &entry, &option),
        ),
        (
            "boot entry, whole",
            Made::whole(1, EventType::EFI_VARIABLE_BOOT2, &entry),
        ),
        (
            "partition table",
            Made::whole(5, EventType::EFI_GPT_EVENT, &partition_table()),
        ),
        (
            "partition table, second form",
            Made::whole(5, EventType::EFI_GPT_EVENT2, &partition_table()),
        ),
        (
            "call of a boot entry",
            Made::whole(4, EventType::EFI_ACTION, b"Calling EFI Application from Boot Option"),
        ),
        (
            "return of a boot entry",
            Made::whole(
                4,
                EventType::EFI_ACTION,
                b"Returning from EFI Application from Boot Option",
            ),
        ),
    ] {
        assert_eq!(event.token(), Token::Machine, "{what}");
        // The same with any other digest, in any other register, or under any other type, is compared as it is.
        let other_digest = Made {
            digest: vec![0; 32],
            ..Made::whole(event.pcr, event.event_type, &event.data)
        };
        assert!(other_digest.is_fixed(), "{what}, not covered");
        for pcr in (0..24).filter(|pcr| *pcr != event.pcr) {
            let moved = Made {
                pcr,
                digest: event.digest.clone(),
                data: event.data.clone(),
                ..event
            };
            assert!(moved.is_fixed(), "{what}, in register {pcr}");
        }
        let relabelled = Made {
            event_type: EventType::EFI_PLATFORM_FIRMWARE_BLOB,
            digest: event.digest.clone(),
            data: event.data.clone(),
            ..event
        };
        assert!(relabelled.is_fixed(), "{what}, another type");
        for len in 0..event.data.len() {
            let short = Made {
                data: event.data[..len].to_vec(),
                digest: event.digest.clone(),
                ..event
            };
            assert!(short.is_fixed(), "{what}, cut at {len}");
            let rehashed = Made::whole(event.pcr, event.event_type, &event.data[..len]);
            assert!(rehashed.is_fixed(), "{what}, cut at {len}, hashed anew");
        }
        let mut longer = event.data.clone();
        longer.push(0);
        assert!(
            Made::whole(event.pcr, event.event_type, &longer).is_fixed(),
            "{what}, with a byte more"
        );
    }
}

#[test]
fn no_relabelled_event_is_left_out() {
    let image = b"\x00\x10\x00\x00 image load event";
    let entry = |name: &str, value: &[u8]| variable(&GLOBAL, name, value);
    let boot = EventType::EFI_VARIABLE_BOOT;
    let option = load_option("disk", &[]);
    let mut no_end = load_option("disk", &[]);
    no_end.truncate(no_end.len() - 4);
    let mut long_paths = load_option("disk", &[]);
    long_paths[4] += 1;
    let mut table = partition_table();
    table[40] ^= 1;
    let mut count = partition_table();
    count[92] = 2;
    let mut tiny = partition_table();
    tiny.truncate(100);
    tiny[92] = 0;
    for (attack, event) in [
        ("a kernel image as a boot variable", Made::whole(1, boot, image)),
        (
            "a firmware blob as a boot entry",
            Made::whole(1, boot, &entry("Boot0001", image)),
        ),
        (
            "a boot entry that is no EFI_LOAD_OPTION",
            Made::new(1, boot, &entry("Boot0001", b"quiet"), b"quiet"),
        ),
        (
            "paths without an end",
            Made::new(1, boot, &entry("Boot0001", &no_end), &no_end),
        ),
        (
            "paths longer than stated",
            Made::new(1, boot, &entry("Boot0001", &long_paths), &long_paths),
        ),
        (
            "a boot entry with a command line",
            Made::new(
                1,
                boot,
                &entry("Boot0001", &load_option("linux", b"i\0n\0i\0t\0")),
                &load_option("linux", b"i\0n\0i\0t\0"),
            ),
        ),
        (
            "a driver entry",
            Made::new(1, boot, &entry("Driver0001", &option), &option),
        ),
        (
            "a boot entry with a lower-case number",
            Made::new(1, boot, &entry("Boot001f", &option), &option),
        ),
        (
            "a boot entry with five digits",
            Made::new(1, boot, &entry("Boot00011", &option), &option),
        ),
        (
            "another vendor's boot entry",
            Made::new(1, boot, &variable(&SHIM, "Boot0001", &option), &option),
        ),
        (
            "the SecureBoot variable as a boot variable",
            Made::whole(1, boot, &entry("SecureBoot", &[0])),
        ),
        (
            "a boot order of half a number",
            Made::new(1, boot, &entry("BootOrder", &[1]), &[1]),
        ),
        ("an empty boot order", Made::new(1, boot, &entry("BootOrder", &[]), &[])),
        (
            "a separator as a boot order",
            Made::new(1, boot, &entry("BootOrder", &[0; 4]), &[0; 4]),
        ),
        (
            "a partition table with a wrong checksum",
            Made::whole(5, EventType::EFI_GPT_EVENT, &table),
        ),
        (
            "a partition table with a wrong count",
            Made::whole(5, EventType::EFI_GPT_EVENT, &count),
        ),
        (
            "a text as a partition table",
            Made::whole(5, EventType::EFI_GPT_EVENT, b"Exit Boot Services Invocation"),
        ),
        (
            "another action",
            Made::whole(4, EventType::EFI_ACTION, b"Entering ROM Based Setup"),
        ),
        ("an image as an action", Made::whole(4, EventType::EFI_ACTION, image)),
        (
            "an action with a NUL",
            Made::whole(4, EventType::EFI_ACTION, b"Calling EFI Application from Boot Option\0"),
        ),
    ] {
        assert!(event.is_fixed(), "{attack}: {:?}", event.token());
    }
    // A partition table without entries is one: it hides nothing, since its checksum covers all there is.
    assert_eq!(Made::whole(5, EventType::EFI_GPT_EVENT, &tiny).token(), Token::Machine);
}

#[test]
fn only_the_first_boot_order_is_left_out() {
    let made = |value: &[u8]| {
        Made::new(
            1,
            EventType::EFI_VARIABLE_BOOT,
            &variable(&GLOBAL, "BootOrder", value),
            value,
        )
    };
    let (first, second) = (made(&[1, 0]), made(&[0xEF, 0xBE]));
    let tokens = tokens(BANK, [first.measured(), second.measured()]);
    assert_eq!(tokens, [Token::Machine, Token::Fixed(&second.digest)]);
}

#[test]
fn masks_hide_identifiers_of_file_systems_and_nothing_else() {
    const U1: &str = "12345678-9abc-def0-1234-56789ABCDEF0";
    const U2: &str = "00000000-1111-2222-3333-444444444444";
    let hash = "ab".repeat(32);
    let same = |a: &str, b: &str| grub(a).token() == grub(b).token();
    for pattern in [
        "linux /vmlinuz root=UUID={} ro quiet",
        "linux /vmlinuz root=PARTUUID={}",
        "search --no-floppy --fs-uuid --set=root {}",
        "search.fs_uuid {} root hd0,gpt2",
        "linux /vmlinuz rd.luks.uuid=luks-{}",
        "linux /vmlinuz root=/dev/disk/by-uuid/{}",
        "[ {} = x ]",
        "{}",
    ] {
        assert!(
            same(&pattern.replace("{}", U1), &pattern.replace("{}", U2)),
            "{pattern}"
        );
        assert!(
            !same(&pattern.replace("{}", U1), &pattern.replace("{}", "x")),
            "{pattern}"
        );
    }
    for pattern in [
        "search --no-floppy --fs-uuid --set=root {}",
        "search.fs_uuid {} root hd0,gpt1",
        "linux /vmlinuz root=UUID={}",
    ] {
        assert!(
            same(&pattern.replace("{}", "12AB-34cd"), &pattern.replace("{}", "0000-FFFF")),
            "{pattern}"
        );
    }
    for (what, a, b) in [
        (
            "a verity root hash",
            format!("linux /v roothash={hash}"),
            format!("linux /v roothash={}", "cd".repeat(32)),
        ),
        (
            "a short hash",
            "linux /v roothash=12345678".into(),
            "linux /v roothash=87654321".into(),
        ),
        (
            "a UUID that goes on",
            format!("linux /v x={U1}0"),
            format!("linux /v x={U2}0"),
        ),
        (
            "a UUID that goes on with a hyphen",
            format!("linux /v x={U1}-1"),
            format!("linux /v x={U2}-1"),
        ),
        (
            "a UUID inside a word",
            format!("linux /v xa{U1}"),
            format!("linux /v xa{U2}"),
        ),
        (
            "a serial number that names no file system",
            "linux /v x=1234-5678".into(),
            "linux /v x=8765-4321".into(),
        ),
        (
            "a serial number in another command",
            "set x=--fs-uuid 1234-5678".into(),
            "set x=--fs-uuid 8765-4321".into(),
        ),
        (
            "a serial number before the option",
            "search 1234-5678 --fs-uuid x".into(),
            "search 8765-4321 --fs-uuid x".into(),
        ),
        ("a file", format!("linux /v{U1} a"), format!("linux /w{U1} a")),
        (
            "init",
            format!("linux /v init=/a root=UUID={U1}"),
            format!("linux /v init=/b root=UUID={U1}"),
        ),
        (
            "a mask written out",
            format!("linux root=UUID={U1}"),
            "linux root=UUID=\0uuid\0".into(),
        ),
    ] {
        assert!(!same(&a, &b), "{what}");
    }
}

#[test]
fn text_that_the_digest_does_not_cover_is_not_compared() {
    let honest = grub("linux /vmlinuz quiet");
    for (attack, data) in [
        ("another text", &b"grub_cmd: linux /vmlinuz loud\0"[..]),
        ("another prefix", b"grub_xyz: linux /vmlinuz quiet\0"),
        ("no prefix", b"linux /vmlinuz quiet\0"),
        ("two NULs", b"grub_cmd: linux /vmlinuz quiet\0\0"),
        ("nothing", b""),
    ] {
        let event = Made {
            data: data.to_vec(),
            digest: honest.digest.clone(),
            ..honest
        };
        assert!(event.is_fixed(), "{attack}");
    }
    // Which kind of text it is the digest does not say, so it makes no difference.
    let data = b"kernel_cmdline: linux /vmlinuz quiet\0";
    let event = Made {
        data: data.to_vec(),
        digest: honest.digest.clone(),
        ..honest
    };
    assert_eq!(event.token(), honest.token());
}

#[test]
fn revocation_lists_may_be_newer_and_never_older() {
    let identity = |event: &Made| register_identity(BANK, [event.measured()]).digest;
    let compare = |found: &Made, wanted: &Made| {
        let (found, wanted) = (
            register_identity(BANK, [found.measured()]),
            register_identity(BANK, [wanted.measured()]),
        );
        assert_eq!(found.digest, wanted.digest, "compared by content");
        found.no_older_than(&wanted)
    };
    assert_eq!(compare(&dbx(&[1, 2, 3]), &dbx(&[1, 2])), Ok(()));
    assert_eq!(compare(&dbx(&[2, 1]), &dbx(&[1, 2])), Ok(()));
    assert_eq!(
        compare(&dbx(&[1, 3]), &dbx(&[1, 2])),
        Err(FloorFault::DbxOlder {
            expected: 2,
            found: 2,
            missing: 1
        })
    );
    assert!(compare(&dbx(&[]), &dbx(&[1])).is_err());
    let (old, new) = (
        sbat("sbat,1,2024010900\nshim,4\n"),
        sbat("sbat,1,2025021800\nshim,4\ngrub,5\n"),
    );
    assert_eq!(compare(&new, &old), Ok(()));
    assert_eq!(
        compare(&old, &new),
        Err(FloorFault::SbatOlder {
            expected: 2025021800,
            found: 2024010900
        })
    );
    // A list is not a level, and neither is a fixed event.
    assert_ne!(identity(&dbx(&[1])), identity(&new));
    let mut odd = signature_list(&[1]);
    odd.pop();
    let mut odd_size = signature_list(&[1]);
    odd_size[24] = 16;
    let config = EventType::EFI_VARIABLE_DRIVER_CONFIG;
    for (attack, event) in [
        (
            "db as dbx",
            Made::whole(7, config, &variable(&DATABASE, "db", &signature_list(&[1]))),
        ),
        (
            "another vendor's dbx",
            Made::whole(7, config, &variable(&GLOBAL, "dbx", &signature_list(&[1]))),
        ),
        (
            "a dbx that is no list",
            Made::whole(7, config, &variable(&DATABASE, "dbx", &odd)),
        ),
        (
            "a dbx with empty entries",
            Made::whole(7, config, &variable(&DATABASE, "dbx", &odd_size)),
        ),
        (
            "a dbx the digest does not cover",
            Made {
                digest: vec![1; 32],
                ..dbx(&[1])
            },
        ),
        ("a dbx in register 1", Made { pcr: 1, ..dbx(&[1]) }),
        (
            "a dbx as an authority",
            Made {
                event_type: EventType::EFI_VARIABLE_AUTHORITY,
                ..dbx(&[1])
            },
        ),
        ("a level without a date", sbat("shim,4\n")),
        ("a level with a short date", sbat("sbat,1,2025\n")),
        ("a level with a sign", sbat("sbat,1,+202502180\n")),
        ("another generation of levels", sbat("sbat,2,2025021800\n")),
        (
            "a level the digest does not cover",
            Made {
                digest: vec![1; 32],
                ..sbat("sbat,1,2025021800\n")
            },
        ),
        (
            "a level as configuration",
            Made {
                event_type: config,
                ..sbat("sbat,1,2025021800\n")
            },
        ),
    ] {
        assert!(event.is_fixed(), "{attack}: {:?}", event.token());
    }
}

#[test]
fn order_and_number_of_events_are_identity() {
    let (a, b) = (grub("a"), grub("b"));
    let identity = |events: &[&Made]| register_identity(BANK, events.iter().map(|event| event.measured())).digest;
    let all = [
        identity(&[]),
        identity(&[&a]),
        identity(&[&b]),
        identity(&[&a, &b]),
        identity(&[&b, &a]),
        identity(&[&a, &a]),
        identity(&[&grub("ab")]),
    ];
    for (position, one) in all.iter().enumerate() {
        assert!(all[position + 1..].iter().all(|other| other != one), "{position}");
    }
}

proptest::proptest! {
    #[test]
    fn hostile_bytes_never_panic_and_never_are_left_out(
        pcr in 0u32..16,
        event_type in proptest::sample::select(vec![
            EventType::EFI_VARIABLE_BOOT,
            EventType::EFI_VARIABLE_DRIVER_CONFIG,
            EventType::EFI_VARIABLE_AUTHORITY,
            EventType::EFI_GPT_EVENT,
            EventType::EFI_ACTION,
            EventType::IPL,
        ]),
        data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
    ) {
        let event = Made::whole(pcr, event_type, &data);
        proptest::prop_assert!(!matches!(event.token(), Token::Machine | Token::NoOlder(_)));
    }

    #[test]
    fn masking_changes_nothing_without_hyphens(text in "[0-9a-f= /]{0,200}") {
        proptest::prop_assert_eq!(mask::file_system_ids(text.as_bytes()), text.as_bytes());
    }
}
