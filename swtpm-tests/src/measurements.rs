//! Digests out of recorded logs, to be extended into a software TPM.
//!
//! A second reading of the formats, on purpose apart from the verifier's: what these digests give in a real TPM is
//! what the verifier's replay is tested against.

use sha2::{Digest as _, Sha256};
use touchstone_attest::software_tpm::Measurement;
use touchstone_verifier::tpm::HashAlg;

use crate::boots::{SHA1, SHA256};

const EV_NO_ACTION: u32 = 3;

/// Takes little-endian integers and runs of bytes off the front of a log.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn sized(&mut self) -> Option<&'b [u8]> {
        let count = usize::try_from(self.u32()?).ok()?;
        self.take(count)
    }
}

/// The measurements of a crypto-agile firmware event log (TCG PC Client Platform Firmware Profile 1.05, 10.2.2).
/// `None` when it is malformed.
#[must_use]
pub fn firmware(log: &[u8]) -> Option<Vec<Measurement>> {
    let mut log = Reader(log);
    // The first event is in the old format: PCR, type, SHA-1 digest, then the specification ID event.
    log.take(4 + 4 + 20)?;
    let mut id = Reader(log.sized()?);
    id.take(16)?.starts_with(b"Spec ID Event03").then_some(())?;
    id.take(8)?;
    let mut sizes = Vec::new();
    for _ in 0..id.u32()? {
        sizes.push((id.u16()?, usize::from(id.u16()?)));
    }
    let mut measurements = Vec::new();
    while !log.0.is_empty() {
        let (pcr, event_type) = (u8::try_from(log.u32()?).ok()?, log.u32()?);
        let mut digests = Vec::new();
        for _ in 0..log.u32()? {
            let algorithm = log.u16()?;
            let (_, size) = sizes.iter().find(|(known, _)| *known == algorithm)?;
            digests.push((algorithm, log.take(*size)?.to_vec()));
        }
        log.sized()?;
        if event_type != EV_NO_ACTION {
            measurements.push((pcr, digests));
        }
    }
    Some(measurements)
}

/// An entry of an IMA list, binary form, template `ima-ng`: register, SHA-1 of the template data, the template's name, its
/// data (`d-ng`, `n-ng`), each with its length, little-endian.
#[must_use]
pub fn ima_entry(path: &str, contents: &[u8]) -> Vec<u8> {
    let sized = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        [&length.to_le_bytes()[..], bytes].concat()
    };
    let digest = [b"sha256:\0", Sha256::digest(contents).as_slice()].concat();
    let data = [sized(&digest), sized(&[path.as_bytes(), b"\0"].concat())].concat();
    let mut entry = 10u32.to_le_bytes().to_vec();
    entry.extend_from_slice(HashAlg::Sha1.digest([data.as_slice()]).as_ref());
    entry.extend(sized(b"ima-ng"));
    entry.extend(sized(&data));
    entry
}

/// Path and SHA-256 digest of each file of an IMA list whose entries begin with `d-ng` and `n-ng`; the boot aggregate is
/// none. `None` when it is malformed.
#[must_use]
pub fn ima_files(list: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut list = Reader(list);
    let mut files = Vec::new();
    while !list.0.is_empty() {
        list.take(4 + 20)?;
        list.sized()?;
        let mut data = Reader(list.sized()?);
        let (digest, path) = (data.sized()?, data.sized()?);
        let digest = digest.strip_prefix(b"sha256:\0")?.to_vec();
        let path = String::from_utf8(path.strip_suffix(b"\0")?.to_vec()).ok()?;
        if path != "boot_aggregate" {
            files.push((path, digest));
        }
    }
    Some(files)
}

/// How many bytes the first `count` entries of an IMA list have; all of them where it has fewer.
#[must_use]
pub fn ima_length(list: &[u8], count: usize) -> usize {
    let mut rest = Reader(list);
    for _ in 0..count {
        let entry = rest.take(4 + 20).and_then(|_| rest.sized()).and_then(|_| rest.sized());
        if entry.is_none() {
            break;
        }
    }
    list.len() - rest.0.len()
}

/// The measurements of an IMA list in `binary_runtime_measurements` form: PCR, SHA-1 of the template data, template
/// name, template data. `None` when it is malformed.
///
/// The list has SHA-1 digests only; the SHA-256 bank got SHA-256 of the template data. A violation is written as a
/// zero digest and extended as all ones (Linux, security/integrity/ima/ima_queue.c).
#[must_use]
pub fn ima(list: &[u8]) -> Option<Vec<Measurement>> {
    let mut list = Reader(list);
    let mut measurements = Vec::new();
    while !list.0.is_empty() {
        let pcr = u8::try_from(list.u32()?).ok()?;
        let sha1 = list.take(20)?.to_vec();
        let _template = list.sized()?;
        let data = list.sized()?;
        let digests = if sha1.iter().all(|byte| *byte == 0) {
            vec![(SHA1, vec![0xFF; 20]), (SHA256, vec![0xFF; 32])]
        } else {
            vec![(SHA1, sha1), (SHA256, Sha256::digest(data).to_vec())]
        };
        measurements.push((pcr, digests));
    }
    Some(measurements)
}
