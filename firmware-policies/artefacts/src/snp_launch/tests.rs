//! Digests of made-up and of Debian's firmware, as the `sev-snp-measure` tool computes them, and images that lie.

use proptest::prelude::*;

use super::id_block::{IdBlock, Signers, verify};
use super::*;

/// Debian's `ovmf` 2022.11-6+deb12u2: the image with SEV metadata, and its SHA-256.
const DEBIAN: (&str, &str) = (
    "/usr/share/ovmf/OVMF.fd",
    "7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773",
);
/// Offset of the metadata in the made-up image.
const META: usize = 0x2000;
/// Sections of an image for SEV with kernel hashes: address, length, type.
const SECTIONS: [(u32, u32, u32); 7] = [
    (0x80_0000, 0x9000, 1),
    (0x80_A000, 0x3000, 1),
    (0x80_D000, 0x1000, 2),
    (0x80_E000, 0x1000, 3),
    (0x80_F000, 0x1000, 4),
    (0x81_0000, 0x1000, 0x10),
    (0x81_1000, 0xF000, 1),
];

/// Changes the made-up image in memory before it is put together.
struct Shape {
    sections: Vec<(u32, u32, u32)>,
    hash_table: u32,
    reset: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            sections: SECTIONS.to_vec(),
            hash_table: 0x81_0C00,
            reset: 0x80_B004,
        }
    }
}

fn image(shape: &Shape) -> Vec<u8> {
    let mut image: Vec<u8> = (0..3 * PAGE).map(|i| (i % 251) as u8).collect();
    let mut meta = b"ASEV".to_vec();
    let count = shape.sections.len() as u32;
    for number in [16 + 12 * count, 1, count] {
        meta.extend(number.to_le_bytes());
    }
    for (address, len, kind) in &shape.sections {
        for number in [address, len, kind] {
            meta.extend(number.to_le_bytes());
        }
    }
    image[META..META + meta.len()].copy_from_slice(&meta);
    let mut table = Vec::new();
    let mut entry = |guid: [u8; 16], data: &[u32]| {
        data.iter().for_each(|number| table.extend(number.to_le_bytes()));
        table.extend((18 + 4 * data.len() as u16).to_le_bytes());
        table.extend(guid);
    };
    let from_end = (image.len() - META) as u32;
    entry(
        hashes::guid(0xDC88_6566, 0x984A, 0x4798, 0xA75E_5585_A7BF_67CC),
        &[from_end],
    );
    entry(
        hashes::guid(0x7255_371F, 0x3A3B, 0x4B04, 0x927B_1DA6_EFA8_D454),
        &[shape.hash_table, 0x400],
    );
    entry(
        hashes::guid(0x00F7_71DE, 0x1A7E, 0x4FCB, 0x890E_68C7_7E2F_B44E),
        &[shape.reset],
    );
    table.extend((table.len() as u16 + 18).to_le_bytes());
    table.extend(hashes::guid(0x96B5_82DE, 0x1FB2, 0x45F7, 0xBAEA_A366_C55A_082D));
    let end = image.len() - 32;
    image[end - table.len()..end].copy_from_slice(&table);
    image
}

fn launch<'a>(ovmf: &'a [u8], kernel: Option<Kernel<'a>>, vcpus: u32, vcpu_type: &str, features: u64) -> Launch<'a> {
    Launch {
        ovmf,
        kernel,
        vcpus,
        vcpu_type: VcpuType::parse(vcpu_type).unwrap(),
        guest_features: features,
    }
}

fn digest(launch: &Launch<'_>) -> String {
    hex::encode(launch_digest(launch).unwrap())
}

#[test]
fn digests_are_those_of_the_reference_tool() {
    let image = image(&Shape::default());
    let with = |initrd, command_line| {
        Some(Kernel {
            image: b"kernel",
            initrd,
            command_line,
        })
    };
    let boot = with(Some(&b"initrd"[..]), "console=ttyS0 root=/dev/vda1");
    for (launch, expected) in [
        (
            launch(&image, None, 1, "EPYC-v4", 1),
            "d042fb211e9bf7d0e020f4f6a37a928a98d03e4795df33c2f194fdbf02f1768b73df5e1de7dbae2bf1bdbc1d29fd5697",
        ),
        (
            launch(&image, None, 4, "EPYC-Milan", 0x21),
            "6c5912bcdc59a58acf48101c65d065849c94c0c717237eca5a73a95d2b9376f2711e89da4785eefa40a73acb638d37c6",
        ),
        (
            launch(&image, boot, 2, "EPYC-Genoa", 1),
            "a967bcb080e6c8d73e148c1d79fafecb35547c593abad124e1771697407ccc214d043b741dea7e8d0fff30cb68c33c7f",
        ),
        (
            launch(&image, with(None, ""), 1, "EPYC-Turin", 1),
            "08aeb3949ae0e603e24e58edaf0ae7f9ba05b6eea6babfd349574f969c4570117d00b79aaf191b60022eb94cbba4b370",
        ),
        (
            launch(&image, with(None, ""), 1, "EPYC-Rome", 1),
            "17423d882316966192552bd93da33b42da1248a300f02c8ffd87d17a21f8ea824e339619cc37dea949ee8d730d68d574",
        ),
    ] {
        assert_eq!(digest(&launch), expected);
    }
}

#[test]
fn digests_of_debians_firmware_are_those_of_the_reference_tool() {
    let (path, sha256) = DEBIAN;
    let image = std::fs::read(path).unwrap_or_default();
    let found = hex::encode(HashAlg::Sha256.digest([image.as_slice()]));
    if found != sha256 {
        return touchstone_vectors::skip(&format!("{path} is not that of ovmf 2022.11-6+deb12u2"));
    }
    assert_eq!(
        digest(&launch(&image, None, 2, "EPYC-Milan", 1)),
        "a175292a4a09fcfb760c5bd80c93ed667dbaafce6247d0f21fc06638658b3ebf2804d3019e2abed05cb6a9efe0a7464e"
    );
    assert_eq!(
        digest(&launch(&image, None, 1, "EPYC-v4", 0x21)),
        "c32245cb607f82791b60757bf0b344d9030e5b5a107342e69c09e668ff28aca5af9ca1dc41ce74f5a4e81aeaeb5e7b54"
    );
    // Nothing in it binds a kernel: none may be named.
    let kernel = Some(Kernel {
        image: b"kernel",
        initrd: None,
        command_line: "",
    });
    let refused = launch_digest(&launch(&image, kernel, 1, "EPYC", 1));
    assert!(
        matches!(refused, Err(ArtefactError::NotComputable { .. })),
        "{refused:?}"
    );
}

#[test]
fn everything_a_guest_starts_from_changes_the_digest() {
    let image = image(&Shape::default());
    let kernel = |image, initrd, command_line| {
        Some(Kernel {
            image,
            initrd,
            command_line,
        })
    };
    let mut other = image.clone();
    other[0] ^= 1;
    let digests = [
        digest(&launch(&image, kernel(b"k", Some(b"i"), "c"), 2, "EPYC", 1)),
        digest(&launch(&image, kernel(b"K", Some(b"i"), "c"), 2, "EPYC", 1)),
        digest(&launch(&image, kernel(b"k", Some(b"I"), "c"), 2, "EPYC", 1)),
        digest(&launch(&image, kernel(b"k", None, "c"), 2, "EPYC", 1)),
        digest(&launch(&image, kernel(b"k", Some(b"i"), "c "), 2, "EPYC", 1)),
        digest(&launch(&image, kernel(b"k", Some(b"i"), "c"), 3, "EPYC", 1)),
        digest(&launch(&image, kernel(b"k", Some(b"i"), "c"), 2, "EPYC-Milan", 1)),
        digest(&launch(&image, kernel(b"k", Some(b"i"), "c"), 2, "EPYC", 0x21)),
        digest(&launch(&image, None, 2, "EPYC", 1)),
        digest(&launch(&other, kernel(b"k", Some(b"i"), "c"), 2, "EPYC", 1)),
    ];
    let different: std::collections::BTreeSet<&String> = digests.iter().collect();
    assert_eq!(different.len(), digests.len());
}

#[test]
fn processors_have_the_signatures_of_their_type() {
    for (name, signature) in [
        ("EPYC", 0x0080_0F12),
        ("EPYC-v4", 0x0080_0F12),
        ("EPYC-IBPB", 0x0080_0F12),
        ("EPYC-Rome", 0x0083_0F10),
        ("EPYC-Milan-v2", 0x00A0_0F11),
        ("EPYC-Genoa", 0x00A1_0F10),
        ("EPYC-Turin-v1", 0x00B0_0F00),
    ] {
        assert_eq!(VcpuType::parse(name).unwrap().signature(), signature, "{name}");
    }
    for unknown in [
        "",
        "epyc",
        "EPYC-v0",
        "EPYC-v6",
        "EPYC-Milan-v",
        "EPYC-Milan-v02",
        "EPYC-Naples",
        "host",
    ] {
        assert!(VcpuType::parse(unknown).is_err(), "{unknown}");
    }
}

#[test]
fn launches_that_can_not_be_are_refused() {
    let image = image(&Shape::default());
    for (what, vcpus, features) in [
        ("no processor", 0, 1),
        ("too many processors", MAX_VCPUS + 1, 1),
        ("no SNP", 1, 0x20),
    ] {
        assert!(
            launch_digest(&launch(&image, None, vcpus, "EPYC", features)).is_err(),
            "{what}"
        );
    }
    let shape = |change: fn(&mut Shape)| {
        let mut shape = Shape::default();
        change(&mut shape);
        self::image(&shape)
    };
    let kernel = Some(Kernel {
        image: b"k",
        initrd: None,
        command_line: "",
    });
    let rows: [(&str, Vec<u8>); 9] = [
        ("no address for further processors", shape(|shape| shape.reset = 0)),
        ("a section of an unknown type", shape(|shape| shape.sections[4].2 = 5)),
        (
            "a section of an unknown type behind 256",
            shape(|shape| shape.sections[4].2 = 0x104),
        ),
        ("half a page", shape(|shape| shape.sections[0].1 = 0x800)),
        ("no page", shape(|shape| shape.sections[0].1 = 0)),
        (
            "a page that begins within another",
            shape(|shape| shape.sections[0].0 = 0x80_0800),
        ),
        ("two pages of secrets", shape(|shape| shape.sections[2].1 = 0x2000)),
        (
            "more memory than is read",
            shape(|shape| shape.sections[0].1 = 0xFFFF_F000),
        ),
        ("hashes outside their page", shape(|shape| shape.hash_table = 0x81_0FF0)),
    ];
    for (what, image) in rows {
        assert!(launch_digest(&launch(&image, kernel, 2, "EPYC", 1)).is_err(), "{what}");
    }
    // What is not needed need not be there.
    let no_reset = shape(|shape| shape.reset = 0);
    assert!(launch_digest(&launch(&no_reset, kernel, 1, "EPYC", 1)).is_ok());
}

#[test]
fn images_that_lie_about_their_table_are_refused() {
    let good = image(&Shape::default());
    let end = good.len() - 32;
    let rows: [(&str, usize, &[u8]); 8] = [
        ("another GUID at the end", end - 1, &[0]),
        ("a table longer than the image", end - 18, &[0xFF, 0xFF]),
        ("a table shorter than its last entry", end - 18, &[0x13, 0]),
        ("an entry longer than the table", end - 36, &[0xFF, 0]),
        ("an entry shorter than its head", end - 36, &[17, 0]),
        ("another signature", META, b"X"),
        ("another version", META + 8, &[2]),
        ("a section more than there is room", META + 12, &[8]),
    ];
    for (what, at, bytes) in rows {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(Ovmf::parse(&image).is_err(), "{what}");
    }
    assert!(Ovmf::parse(&good[1..]).is_err());
    assert!(Ovmf::parse(&[]).is_err());
    assert!(Ovmf::parse(&vec![0; ovmf::MAX_IMAGE + PAGE]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_change_is_read_or_refused(at in 0usize..3 * PAGE, value: u8, tail in 0usize..200, other: u8) {
        let mut image = image(&Shape::default());
        image[at] = value;
        let end = image.len() - 1 - tail;
        image[end] = other;
        if let Ok(ovmf) = Ovmf::parse(&image) {
            let pages: usize = ovmf.sections().iter().map(|section| section.pages).sum();
            prop_assert!(pages <= ovmf::MAX_SECTION_PAGES);
        }
    }
}

/// The ID block of the structures that AMD's tool made (`sev` crate, tests/id-block.rs).
fn amd_id_block() -> Vec<u8> {
    let digest = "a14d638341e5674628fe1e02fbedebe5e5ab4faf1dd72d8966068e615bb99efd13d214b35c231715b38e263dc6059745";
    let mut block = hex::decode(digest).unwrap();
    block.extend([0; 32]);
    block.extend(1u32.to_le_bytes());
    block.extend(0u32.to_le_bytes());
    block.extend(0x3_0000u64.to_le_bytes());
    block
}

#[test]
fn id_blocks_of_amds_tool_verify_and_nothing_else() {
    let Some(dir) = touchstone_vectors::genuine("snp/idblock") else {
        return;
    };
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let auth = read("test_auth_block.bin");
    let block = IdBlock::parse(&amd_id_block()).unwrap();
    let signers = verify(&block, &auth).unwrap();
    assert_eq!((block.policy, block.guest_svn), (0x3_0000, 0));
    let expected = Signers {
        id_key_digest: hex::decode(
            "59fb2c686dfa4fef49f38339aa775c90051c28d57383ddc3baf3b5eb4b1496df3b0dbbdcbae5fe27677a644820773fe2",
        )
        .unwrap()
        .try_into()
        .unwrap(),
        author_key_digest: Some(
            hex::decode(
                "eed81169fb0cb5e0ec34794f128fd4e0c4a46f67c65a1adfa81fcb24bcc088c272369b7ffc3eb2b6af6a4284a1b36c5f",
            )
            .unwrap()
            .try_into()
            .unwrap(),
        ),
    };
    assert_eq!(signers, expected);
    // The signatures by themselves are those in the block.
    assert_eq!(auth[0x40..0x240], read("test_id_sig.bin"));
    assert_eq!(auth[0x680..0x880], read("test_auth_sig.bin"));
    let changed = |at: usize| {
        let mut auth = auth.clone();
        auth[at] ^= 1;
        verify(&block, &auth).is_err()
    };
    for (what, at) in [
        ("algorithm", 0),
        ("signature over the block", 0x41),
        ("behind r", 0x40 + 50),
        ("behind s", 0x40 + 150),
        ("curve", 0x240),
        ("ID key", 0x250),
        ("behind the ID key", 0x640),
        ("signature over the ID key", 0x681),
        ("author key", 0x890),
    ] {
        assert!(changed(at), "{what}");
    }
    for at in [0, 47, 48, 64, 84, 88] {
        let mut bytes = amd_id_block();
        bytes[at] ^= 1;
        assert!(
            verify(&IdBlock::parse(&bytes).unwrap(), &auth).is_err(),
            "byte {at} of the block"
        );
    }
    let mut version = amd_id_block();
    version[80] = 2;
    assert!(IdBlock::parse(&version).is_err());
    // Without an author key there is no author; firmware does not ask for one then.
    let mut alone = auth;
    alone[0x680..].fill(0);
    assert_eq!(verify(&block, &alone).unwrap().author_key_digest, None);
}
