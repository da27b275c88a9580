//! Makers of small artefacts, and the recorded boots to compare with.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, of which each file uses some"
)]

use std::path::{Path, PathBuf};

use touchstone_artefacts::event::ComputedEvent;
use touchstone_verifier::eventlog::EventLog;
use touchstone_verifier::tpm::HashAlg;

pub const BANKS: [HashAlg; 2] = [HashAlg::Sha1, HashAlg::Sha256];

/// A PE32+ image whose sections lie one after the other, with `tail` behind them and `certificates` at the end.
pub fn pe(sections: &[(&str, &[u8])], tail: &[u8], certificates: &[u8]) -> Vec<u8> {
    let headers = (64 + 4 + 20 + 240 + 40 * sections.len()).next_multiple_of(512);
    let mut out = vec![0; headers];
    out[..2].copy_from_slice(b"MZ");
    out[0x3C] = 64;
    out[64..68].copy_from_slice(b"PE\0\0");
    put16(&mut out, 68, 0x8664);
    put16(&mut out, 70, sections.len() as u16);
    put16(&mut out, 84, 240);
    let optional = 88;
    put16(&mut out, optional, 0x020B);
    put32(&mut out, optional + 60, headers);
    put32(&mut out, optional + 64, 0xC0FF_EE00);
    put32(&mut out, optional + 108, 16);
    let mut address = 0x1000;
    for (index, (name, content)) in sections.iter().enumerate() {
        let at = optional + 240 + 40 * index;
        out[at..at + name.len()].copy_from_slice(name.as_bytes());
        let raw = content.len().next_multiple_of(16);
        let offset = out.len();
        for (field, value) in [(8, content.len()), (12, address), (16, raw), (20, offset)] {
            put32(&mut out, at + field, value);
        }
        out.extend_from_slice(content);
        out.resize(offset + raw, 0);
        address += raw.next_multiple_of(4096);
    }
    out.extend_from_slice(tail);
    if !certificates.is_empty() {
        let offset = out.len();
        put32(&mut out, optional + 112 + 32, offset);
        put32(&mut out, optional + 112 + 36, certificates.len());
        out.extend_from_slice(certificates);
    }
    out
}

pub fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub fn put32(bytes: &mut [u8], at: usize, value: usize) {
    bytes[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
}

/// A cpio archive in the newc form: name, mode, links, inode, content.
pub fn cpio(entries: &[(&str, u32, u32, u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, mode, links, inode, content) in entries.iter().chain([&("TRAILER!!!", 0, 1, 0, &b""[..])]) {
        let numbers = [
            *inode,
            *mode,
            0,
            0,
            *links,
            0,
            content.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        out.extend(b"070701");
        out.extend(numbers.iter().flat_map(|number| format!("{number:08x}").into_bytes()));
        out.extend(name.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(*content);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// A regular file of a cpio archive.
pub fn file<'a>(name: &'a str, content: &'a [u8]) -> (&'a str, u32, u32, u32, &'a [u8]) {
    (name, 0o100_755, 1, 1, content)
}

/// A package with this member of files.
pub fn deb(name: &str, data: &[u8]) -> Vec<u8> {
    ar(&[("debian-binary", b"2.0\n"), ("control.tar", b"odd"), (name, data)])
}

pub fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, content) in members {
        out.extend(
            format!(
                "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                0,
                0,
                0,
                100_644,
                content.len()
            )
            .bytes(),
        );
        out.extend(*content);
        out.resize(out.len().next_multiple_of(2), b'\n');
    }
    out
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A file of a recorded boot.
pub fn recorded(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../swtpm-tests/boots")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The events of one register of a recorded boot: digests of both banks and data.
pub fn logged(boot: &str, pcr: u8) -> Vec<([Vec<u8>; 2], Vec<u8>)> {
    let log = recorded(&format!("{boot}/eventlog.bin"));
    let log = EventLog::parse(&log).unwrap();
    let events = log
        .events()
        .iter()
        .filter(|event| event.is_extended() && event.pcr == u32::from(pcr));
    events
        .map(|event| {
            (
                BANKS.map(|bank| event.digest(bank).unwrap().to_vec()),
                event.data.to_vec(),
            )
        })
        .collect()
}

/// The same of computed events.
pub fn computed(events: &[ComputedEvent], pcr: u8) -> Vec<([Vec<u8>; 2], Vec<u8>)> {
    let events = events.iter().filter(|event| event.pcr == pcr);
    events
        .map(|event| {
            (
                BANKS.map(|bank| event.digest(bank).unwrap().to_vec()),
                event.data.clone(),
            )
        })
        .collect()
}

/// A file of a Debian package that a recorded boot was made from, if it lies here with that very content: installed, or
/// unpacked into the folder that `TOUCHSTONE_ARTEFACTS` names.
pub fn packaged(path: &str, sha256: &str) -> Option<Vec<u8>> {
    let unpacked = std::env::var_os("TOUCHSTONE_ARTEFACTS").map(PathBuf::from);
    let places = [Some(PathBuf::from("/")), unpacked];
    for place in places.into_iter().flatten() {
        if let Ok(bytes) = std::fs::read(place.join(path)) {
            let digest = HashAlg::Sha256.digest([bytes.as_slice()]);
            if hex::encode(digest) == sha256 {
                return Some(bytes);
            }
        }
    }
    touchstone_vectors::skip(&format!(
        "/{path} of the recorded boots' packages is not installed in that version"
    ));
    None
}

pub fn shim() -> Option<Vec<u8>> {
    let digest = "0fc347af103ec1dfac6e3f184c0a5241a2ce756a0932b359c404d39c45423806";
    packaged("usr/lib/shim/shimx64.efi.signed", digest)
}

pub fn grub() -> Option<Vec<u8>> {
    let digest = "78313ff24688c8b2e1d4f4e1eff13236b2bd29b0f76ba749fd7fff4d305a1d94";
    packaged("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", digest)
}

pub fn kernel() -> Option<Vec<u8>> {
    let digest = "51349501a3d1ff83836437d2b365fd2d57f2feb8642d315e5181dec23d4c3275";
    packaged("boot/vmlinuz-6.1.0-56-cloud-amd64", digest)
}
