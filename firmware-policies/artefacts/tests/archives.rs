//! Initrds and packages: digests of their files, limits, and hostile bytes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::common;

use common::{ar, cpio, deb, file, gzip, packaged};
use proptest::prelude::*;
use touchstone_artefacts::cpio::initrd_files;
use touchstone_artefacts::deb::deb_files;
use touchstone_artefacts::files::FileList;
use touchstone_artefacts::fuzz;
use touchstone_artefacts::{ArtefactError, inflate};
use touchstone_verifier::tpm::HashAlg;

const SHA256: HashAlg = HashAlg::Sha256;

fn digest(content: &[u8]) -> String {
    hex::encode(SHA256.digest([content]))
}

fn shown(files: &FileList) -> Vec<(String, String)> {
    files
        .files()
        .map(|(path, digest)| (path.to_owned(), hex::encode(digest)))
        .collect()
}

fn list(entries: &[(&str, &[u8])]) -> Vec<(String, String)> {
    entries
        .iter()
        .map(|(path, content)| ((*path).to_owned(), digest(content)))
        .collect()
}

/// What `xz` and `zstd` made of a cpio archive with the file `hello` ("hi\n"): as the tools write it.
const XZ: &str = "fd377a585a0000016922de360200210116000000742fe5a3e000f3003a5d00180ddd04639d11db419d1a18fb33d2ec260b1129f14009d67679252c8242c488b6229c2bbb2b5f29cb440a83d654fb27d751c4bafd1573801400000000d8e18d49000152f401000000d9ec1b873e300d8b020000000001595a";
const ZSTD: &str = "28b52ffd24f4550200d40230373037303130383165643030303033363068656c6c6f0068690a00316230545241494c4552212121000000000c0020c3a00c80000880f5eee12090214002a869a90300a50d600457c8f7a2";

#[test]
fn initrds_of_every_form_are_read() {
    let expected = list(&[("/hello", b"hi\n")]);
    let plain = cpio(&[file("hello", b"hi\n")]);
    let mut padded = plain.clone();
    padded.extend([0; 512]);
    let (xz, zstd) = (hex::decode(XZ).unwrap(), hex::decode(ZSTD).unwrap());
    for (what, bytes) in [
        ("plain", plain.clone()),
        ("padded", padded),
        ("gzip", gzip(&plain)),
        ("xz", xz.clone()),
        ("zstd", zstd.clone()),
    ] {
        assert_eq!(shown(&initrd_files(&bytes, SHA256).unwrap()), expected, "{what}");
    }
    // Microcode first, as distributions do; then compressed archives one after the other, the last one wins.
    let mut chain = cpio(&[
        ("kernel", 0o040_755, 2, 7, b""),
        file("kernel/x86/microcode/x.bin", b"ucode"),
    ]);
    chain.extend([0; 8]);
    for part in [
        gzip(&cpio(&[file("./hello", b"old"), file("bin/a", b"a")])),
        xz,
        zstd,
        gzip(&cpio(&[file("/z", b"z")])),
    ] {
        chain.extend(part);
        chain.extend([0; 4]);
    }
    let expected = list(&[
        ("/bin/a", b"a"),
        ("/hello", b"hi\n"),
        ("/kernel/x86/microcode/x.bin", b"ucode"),
        ("/z", b"z"),
    ]);
    assert_eq!(shown(&initrd_files(&chain, SHA256).unwrap()), expected);
    let sha512 = initrd_files(&plain, HashAlg::Sha512).unwrap();
    assert_eq!(
        sha512.files().next().unwrap().1,
        HashAlg::Sha512.digest([&b"hi\n"[..]]).as_ref()
    );
}

#[test]
fn hard_links_share_their_content_and_other_kinds_have_none() {
    let archive = cpio(&[
        ("a", 0o100_755, 3, 9, b""),
        ("b", 0o100_755, 3, 9, b""),
        ("c", 0o100_755, 3, 9, b"content"),
        ("empty", 0o100_644, 1, 10, b""),
        ("link", 0o120_777, 1, 11, b"a"),
        ("dev", 0o020_600, 1, 12, b""),
    ]);
    let expected = list(&[
        ("/a", b"content"),
        ("/b", b"content"),
        ("/c", b"content"),
        ("/empty", b""),
    ]);
    assert_eq!(shown(&initrd_files(&archive, SHA256).unwrap()), expected);
}

fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        out.append_data(&mut header, path, *content).unwrap();
    }
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Link);
    link.set_size(0);
    out.append_link(&mut link, "./usr/bin/also", entries[0].0).unwrap();
    out.into_inner().unwrap()
}

#[test]
fn packages_are_read() {
    let long = "x".repeat(150);
    let long_path = format!("./usr/share/{long}");
    let data = tar(&[("./usr/bin/tool", b"tool"), (&long_path, b"long")]);
    let also: &[u8] = b"tool";
    let long_name = format!("/usr/share/{long}");
    let expected = list(&[
        ("/usr/bin/also", also),
        ("/usr/bin/tool", b"tool"),
        (&long_name, b"long"),
    ]);
    assert_eq!(shown(&deb_files(&deb("data.tar", &data), SHA256).unwrap()), expected);
    assert_eq!(
        shown(&deb_files(&deb("data.tar.gz", &gzip(&data)), SHA256).unwrap()),
        expected
    );
    // The name of the member is decoration: what it begins with tells how it is compressed.
    assert_eq!(
        shown(&deb_files(&deb("data.tar.xz", &gzip(&data)), SHA256).unwrap()),
        expected
    );
    for (what, bytes) in [
        ("no archive", b"!<arch>".to_vec()),
        ("no first member", ar(&[("data.tar", &data)])),
        (
            "another format",
            ar(&[("debian-binary", b"3.0\n"), ("data.tar", &data)]),
        ),
        ("no data", ar(&[("debian-binary", b"2.0\n")])),
        (
            "data twice",
            ar(&[
                ("debian-binary", b"2.0\n"),
                ("data.tar", &data),
                ("data.tar.gz", &gzip(&data)),
            ]),
        ),
        ("another compression", deb("data.tar.bz2", b"BZh91AY")),
        ("too many members", ar(&vec![("debian-binary", &b"2.0\n"[..]); 17])),
        ("a path upwards", deb("data.tar", &evil())),
    ] {
        assert!(deb_files(&bytes, SHA256).is_err(), "{what}");
    }
}

/// A tar archive with the path `../x`, which its makers refuse to write.
fn evil() -> Vec<u8> {
    let mut out = tar(&[("aa/x", b"tool")]);
    out[..4].copy_from_slice(b"../x");
    let sum: u32 = out[..512]
        .iter()
        .enumerate()
        .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
        .sum();
    out[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out
}

/// A busybox of the recorded boots came from this package: the digest that IMA measured is in its list.
#[test]
fn a_genuine_package_has_the_digest_that_ima_measured() {
    let digest = "3d3fdbe91d4660c873e14b092c213fe81c1da6362daa236eb25d0171eb108744";
    let Some(package) = packaged("busybox-static.deb", digest) else {
        return;
    };
    let files = deb_files(&package, SHA256).unwrap();
    let busybox = "3d9f2889d6782537624a4e1a10e68a2ddd53e0ee8bac02676f27308f42ec6bf6";
    assert!(shown(&files).contains(&("/bin/busybox".into(), busybox.into())));
    let ima = String::from_utf8(common::recorded("good/ima.txt")).unwrap();
    assert!(ima.contains(&format!("sha256:{busybox} /bin/busybox")));
}

/// Kernel modules of the recorded initrd, from the kernel's own package.
#[test]
fn a_kernel_package_has_the_modules_that_ima_measured() {
    let digest = "e7d02b943971edcb8790e256c02cfab3bca6c3d37c1bf25392a57c71300615ee";
    let Some(package) = packaged("linux-image.deb", digest) else {
        return;
    };
    let files = deb_files(&package, SHA256).unwrap();
    let digests: std::collections::BTreeSet<String> = files.files().map(|(_, digest)| hex::encode(digest)).collect();
    let ima = String::from_utf8(common::recorded("good/ima.txt")).unwrap();
    let modules: Vec<_> = ima.lines().filter(|line| line.contains(".ko")).collect();
    assert!(modules.len() > 5);
    for line in modules {
        let digest = line.split("sha256:").nth(1).unwrap().split(' ').next().unwrap();
        assert!(digests.contains(digest), "{line}");
    }
}

#[test]
fn what_would_unpack_without_end_is_stopped() {
    // 64 MiB of zeros in 64 KiB of gzip, many times over: more than the limit, in a file of a few MiB.
    let zeros = gzip(&vec![0; 1 << 26]);
    let mut bomb = Vec::new();
    for _ in 0..=(inflate::MAX_UNPACKED >> 26) {
        bomb.extend(&zeros);
    }
    assert!(bomb.len() < 8 << 20);
    assert!(matches!(
        initrd_files(&bomb, SHA256),
        Err(ArtefactError::TooLarge { .. })
    ));
    // A header that claims 4 GiB costs nothing.
    let mut claim = cpio(&[file("x", b"y")]);
    claim[54..62].copy_from_slice(b"FFFFFFFF");
    assert!(matches!(
        initrd_files(&claim, SHA256),
        Err(ArtefactError::TooLarge { .. })
    ));
    claim[54..62].copy_from_slice(b"1FFFFFFF");
    assert!(matches!(
        initrd_files(&claim, SHA256),
        Err(ArtefactError::Malformed { .. })
    ));
    let many = cpio(&[]).repeat(65);
    assert!(matches!(
        initrd_files(&many, SHA256),
        Err(ArtefactError::TooLarge { .. })
    ));
}

#[test]
fn archives_that_are_wrong_are_refused() {
    let good = cpio(&[file("x", b"y")]);
    let mut checksum = gzip(&good);
    let end = checksum.len();
    checksum[end - 8] ^= 1;
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("zeros", vec![0; 64]),
        ("no trailer", good[..good.len() - 124].to_vec()),
        ("a wrong checksum", checksum),
        ("a cut gzip stream", gzip(&good)[..40].to_vec()),
        ("lz4", vec![0x02, 0x21, 0x4C, 0x18, 0, 0]),
        ("a path upwards", cpio(&[file("a/../../x", b"y")])),
        ("no name", cpio(&[file("", b"y")])),
        ("rubbish behind", [good.clone(), b"rubbish".to_vec()].concat()),
        ("the old form", b"070707000000".to_vec()),
    ] {
        assert!(initrd_files(&bytes, SHA256).is_err(), "{what}");
    }
    for end in 1..good.len() - 4 {
        assert!(initrd_files(&good[..end], SHA256).is_err(), "cut at {end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), magic in 0usize..6) {
        fuzz::archive(&bytes);
        let magics: [&[u8]; 6] = [b"070701", b"!<arch>\n", &[0x1F, 0x8B, 8], b"\xFD7zXZ\0", &[0x28, 0xB5, 0x2F, 0xFD], b""];
        fuzz::archive(&[magics[magic], &bytes].concat());
    }

    #[test]
    fn no_altered_archive_makes_the_parsers_panic(at in any::<prop::sample::Index>(), value in any::<u8>(), kind in 0usize..6) {
        let archive = cpio(&[file("x", b"y"), ("a", 0o100_755, 2, 9, b"")]);
        let mut bytes = match kind {
            0 => archive,
            1 => gzip(&archive),
            2 => hex::decode(XZ).unwrap(),
            3 => hex::decode(ZSTD).unwrap(),
            4 => deb("data.tar", &tar(&[("./x", b"y")])),
            _ => deb("data.tar.xz", &hex::decode(XZ).unwrap()),
        };
        let at = at.index(bytes.len());
        bytes[at] = value;
        fuzz::archive(&bytes);
        fuzz::archive(&bytes[..at]);
    }
}
