//! References of machines that ran programs: the registers of a boot, and the files of an IMA list.
#![expect(
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::collections::BTreeMap;
use std::path::Path;

use touchstone_verifier::corim::{BankValues, FileDigest, MachineReference};
use touchstone_verifier::tpm::HashAlg;

use crate::boots::{Boot, SHA256};
use crate::measurements;

/// Registers of a boot that a reference holds.
const REGISTERS: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14];

/// Stages a reference of `boot` with the files of `list`, unsigned as an author's command does.
///
/// # Panics
/// When the list cannot be read or nothing can be written.
pub fn stage(repo: &Path, name: &str, boot: &Boot, list: &[u8]) {
    let values = boot.pcrs();
    let registers = REGISTERS
        .iter()
        .filter_map(|pcr| Some((*pcr, values.get(&(SHA256, *pcr))?.clone())));
    let bank = BankValues {
        registers: registers.collect(),
        events: Vec::new(),
    };
    let files = measurements::ima_files(list).expect("an IMA list of SHA-256 digests");
    let files = files.into_iter().map(|(path, digest)| FileDigest {
        algorithm: HashAlg::Sha256,
        digest,
        path,
    });
    let reference = MachineReference {
        name: name.to_owned(),
        banks: BTreeMap::from([(HashAlg::Sha256, bank)]),
        files: files.collect(),
        snp: None,
        tdx: None,
        gpus: Vec::new(),
        not_before: None,
        not_after: None,
    };
    let unsigned = reference.to_corim_unsigned().expect("a CoRIM");
    let folder = repo.join("staged/references");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(format!("{name}.corim")), unsigned).expect("written");
}
