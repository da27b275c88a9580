//! Recorded boots, and a key in software that speaks like a TPM's: for quotes no TPM would sign.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use touchstone_verifier::tpm::{HashAlg, PcrSelection};

/// The boots recorded with a real firmware and swtpm.
pub const BOOTS: [&str; 4] = ["good", "cmdline-changed", "ima-unknown-exec", "uki"];

/// A file of `swtpm-tests/boots`.
pub fn boot_file(path: &str) -> Vec<u8> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../swtpm-tests/boots")).join(path);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A DER certificate from a PEM file of `swtpm-tests/boots`.
pub fn boot_pem(path: &str) -> Vec<u8> {
    pem::parse(boot_file(path)).unwrap().into_contents()
}

/// Register values by bank and number.
pub type Values = BTreeMap<(HashAlg, u8), Vec<u8>>;

/// The register values in `pcrs.txt` of a boot.
pub fn boot_values(boot: &str) -> Values {
    let text = String::from_utf8(boot_file(&format!("{boot}/pcrs.txt"))).unwrap();
    let mut values = Values::new();
    for line in text.lines() {
        let [bank, index, value] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        values.insert(
            (HashAlg::from_name(bank).unwrap(), index.parse().unwrap()),
            hex::decode(value).unwrap(),
        );
    }
    values
}

/// Made-up values of all registers of two banks.
pub fn values() -> Values {
    let registers = (0..24u8).flat_map(|i| [((HashAlg::Sha256, i), vec![i; 32]), ((HashAlg::Sha1, i), vec![i; 20])]);
    registers.collect()
}

/// The digest of these values in a quote with a SHA-256 scheme.
pub fn digest(selection: &PcrSelection) -> Vec<u8> {
    selection
        .pcr_digest(HashAlg::Sha256, lookup(&values()))
        .unwrap()
        .as_ref()
        .to_vec()
}

/// How the verifier looks a value up.
pub fn lookup<'v>(values: &'v Values) -> impl Fn(HashAlg, u8) -> Option<&'v [u8]> + 'v {
    |bank, register| values.get(&(bank, register)).map(Vec::as_slice)
}

/// A selection written as tpm2-tools write it: `sha256:0,1,2`.
pub fn selection(text: &str) -> PcrSelection {
    let banks = text.trim().split('+').map(|bank| {
        let (name, registers) = bank.split_once(':').unwrap();
        let registers = registers
            .split(',')
            .filter(|r| !r.is_empty())
            .map(|r| r.parse::<u8>().unwrap());
        (HashAlg::from_name(name).unwrap(), registers.collect::<Vec<_>>())
    });
    PcrSelection::new(banks).unwrap()
}

pub fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// fixedTPM, fixedParent, sensitiveDataOrigin, restricted, sign.
pub const AK_ATTRIBUTES: u32 = 0x0005_0032;
/// fixedTPM, fixedParent, sensitiveDataOrigin, sign.
pub const SIGNING_KEY_ATTRIBUTES: u32 = 0x0004_0032;
/// fixedTPM, fixedParent, sensitiveDataOrigin, decrypt.
pub const RECEIVE_KEY_ATTRIBUTES: u32 = 0x0002_0032;

/// A P-256 key outside any TPM.
pub struct SoftKey(EcdsaKeyPair);

impl SoftKey {
    pub fn generate() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    /// A TPMT_PUBLIC that claims `attributes` and `policy` for this key; scheme ECDSA-SHA256 or none.
    pub fn public(&self, attributes: u32, policy: &[u8], scheme: bool) -> Vec<u8> {
        let mut out = vec![0x00, 0x23, 0x00, 0x0B];
        out.extend(attributes.to_be_bytes());
        out.extend(sized(policy));
        out.extend([0x00, 0x10]);
        out.extend(if scheme {
            &[0x00, 0x18, 0x00, 0x0B][..]
        } else {
            &[0x00, 0x10]
        });
        out.extend([0x00, 0x03, 0x00, 0x10]);
        let point = self.0.public_key().as_ref();
        out.extend(sized(&point[1..33]));
        out.extend(sized(&point[33..]));
        out
    }

    /// A TPMT_SIGNATURE, ECDSA with SHA-256.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let fixed = self.0.sign(&SystemRandom::new(), message).unwrap();
        let (r, s) = fixed.as_ref().split_at(32);
        [&[0x00, 0x18, 0x00, 0x0B][..], &sized(r), &sized(s)].concat()
    }
}

/// The fields of a TPMS_ATTEST, each of which a test may bend.
pub struct Attestation {
    pub magic: u32,
    pub kind: u16,
    pub extra_data: Vec<u8>,
    /// The attested part as bytes.
    pub attested: Vec<u8>,
}

impl Attestation {
    pub fn quote(tpml: &[u8], digest: &[u8]) -> Self {
        let attested = [tpml, &sized(digest)].concat();
        Self {
            magic: 0xFF54_4347,
            kind: 0x8018,
            extra_data: vec![7; 32],
            attested,
        }
    }

    pub fn certify(name: &[u8]) -> Self {
        let attested = [sized(name), sized(&[0x22; 34])].concat();
        Self {
            magic: 0xFF54_4347,
            kind: 0x8017,
            extra_data: vec![7; 32],
            attested,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_be_bytes().to_vec();
        out.extend(self.kind.to_be_bytes());
        out.extend(sized(&[0x11; 34]));
        out.extend(sized(&self.extra_data));
        out.extend(1234u64.to_be_bytes());
        out.extend(5u32.to_be_bytes());
        out.extend(6u32.to_be_bytes());
        out.push(1);
        out.extend(0x2019_1023_0016_3636u64.to_be_bytes());
        out.extend(&self.attested);
        out
    }
}
