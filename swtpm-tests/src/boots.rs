//! The recorded boots in `swtpm-tests/boots`: real boots of a virtual machine, recorded whole (see its README).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use touchstone_attest::software_tpm::{Measurement, STATE_FILE};

use crate::measurements;

/// TPM_ALG_SHA1.
pub const SHA1: u16 = 0x0004;
/// TPM_ALG_SHA256.
pub const SHA256: u16 = 0x000B;

/// The key algorithm of a recorded key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// RSA 2048: EK at 0x81010001, AK at 0x8101000a.
    Rsa,
    /// ECC: EK P-384 at 0x81010016, AK P-256 at 0x8101000b.
    Ecc,
}

impl KeyForm {
    /// The persistent handle of the recorded attestation key.
    #[must_use]
    pub fn ak_handle(self) -> u32 {
        match self {
            Self::Rsa => 0x8101_000A,
            Self::Ecc => 0x8101_000B,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::Ecc => "ecc",
        }
    }
}

/// Which recorded quote: signed by which key, over which registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuoteOf {
    /// Registers 0-9, 11, 14: those that do not move at run time.
    Boot(KeyForm),
    /// All of 0-14, the IMA register too.
    All(KeyForm),
}

/// A recorded quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedQuote {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// The PCR values file of tpm2-tools.
    pub pcrs_file: Vec<u8>,
    /// The nonce it answers.
    pub nonce: Vec<u8>,
    /// The selection as tpm2-tools writes it, for example `sha256:0,1,2`.
    pub selection: String,
}

/// One recorded boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    name: &'static str,
}

impl Boot {
    /// Secure Boot on, shim, GRUB, signed Debian kernel. The reference everything else is compared with.
    pub const GOOD: Self = Self { name: "good" };
    /// The same machine with another kernel command line: PCRs 8 and 9 differ.
    pub const CMDLINE_CHANGED: Self = Self {
        name: "cmdline-changed",
    };
    /// Boot registers as in `good`, but an unknown program ran: PCR 10 differs.
    pub const IMA_UNKNOWN_EXEC: Self = Self {
        name: "ima-unknown-exec",
    };
    /// A unified kernel image under its own Secure Boot key: another path, no shim, no GRUB.
    pub const UKI: Self = Self { name: "uki" };
    /// All of them.
    pub const ALL: [Self; 4] = [Self::GOOD, Self::CMDLINE_CHANGED, Self::IMA_UNKNOWN_EXEC, Self::UKI];

    /// Its name, which is that of its folder.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The path of one of its files.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        boots().join(self.name).join(file)
    }

    /// The firmware event log, as the kernel showed it.
    #[must_use]
    pub fn event_log(&self) -> Vec<u8> {
        read(&self.path("eventlog.bin"))
    }

    /// The IMA list, as the kernel showed it. Read after the quotes, so it may be longer than what was quoted.
    #[must_use]
    pub fn ima_list(&self) -> Vec<u8> {
        read(&self.path("ima.bin"))
    }

    /// What the firmware and boot loaders measured, in order, in the banks of the log.
    #[must_use]
    #[expect(
        clippy::panic,
        reason = "test support: a recorded boot that cannot be read fails the test"
    )]
    pub fn firmware_measurements(&self) -> Vec<Measurement> {
        measurements::firmware(&self.event_log())
            .unwrap_or_else(|| panic!("{} is no crypto-agile event log", self.path("eventlog.bin").display()))
    }

    /// What IMA measured, in order, in the SHA-1 and SHA-256 banks.
    #[must_use]
    #[expect(
        clippy::panic,
        reason = "test support: a recorded boot that cannot be read fails the test"
    )]
    pub fn ima_measurements(&self) -> Vec<Measurement> {
        measurements::ima(&self.ima_list())
            .unwrap_or_else(|| panic!("{} is no IMA list", self.path("ima.bin").display()))
    }

    /// The PCR values recorded after the boot: (TPM_ALG_ID, index) to value.
    #[must_use]
    pub fn pcrs(&self) -> BTreeMap<(u16, u8), Vec<u8>> {
        text(&self.path("pcrs.txt"))
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let bank = match words.next()? {
                    "sha1" => SHA1,
                    "sha256" => SHA256,
                    _ => return None,
                };
                Some(((bank, words.next()?.parse().ok()?), hex::decode(words.next()?).ok()?))
            })
            .collect()
    }

    /// The endorsement key certificate, DER.
    #[must_use]
    pub fn ek_certificate(&self, form: KeyForm) -> Vec<u8> {
        read(&self.path(&format!("ek-{}-cert.der", form.word())))
    }

    /// The endorsement key's public area, TPMT_PUBLIC.
    #[must_use]
    pub fn ek_public(&self, form: KeyForm) -> Vec<u8> {
        self.tpm2b(&format!("ek-{}.pub", form.word()))
    }

    /// The attestation key's public area, TPMT_PUBLIC.
    #[must_use]
    pub fn ak_public(&self, form: KeyForm) -> Vec<u8> {
        self.tpm2b(&format!("ak-{}.pub", form.word()))
    }

    /// The attestation key's Name.
    #[must_use]
    pub fn ak_name(&self, form: KeyForm) -> Vec<u8> {
        read(&self.path(&format!("ak-{}.name", form.word())))
    }

    /// The attestation key as PEM (SubjectPublicKeyInfo).
    #[must_use]
    pub fn ak_pem(&self, form: KeyForm) -> String {
        text(&self.path(&format!("ak-{}.pem", form.word())))
    }

    /// A recorded quote.
    #[must_use]
    #[expect(
        clippy::panic,
        reason = "test support: a recorded boot that cannot be read fails the test"
    )]
    pub fn quote(&self, which: QuoteOf) -> RecordedQuote {
        let folder = match which {
            QuoteOf::Boot(form) => format!("quote-{}", form.word()),
            QuoteOf::All(form) => format!("quote-all-{}", form.word()),
        };
        let file = |name: &str| self.path(&folder).join(name);
        RecordedQuote {
            attest: read(&file("quote.msg")),
            signature: read(&file("quote.sig")),
            pcrs_file: read(&file("quote.pcrs")),
            nonce: hex::decode(text(&file("nonce.hex")).trim()).unwrap_or_else(|e| panic!("nonce of {folder}: {e}")),
            selection: text(&file("selection.txt")).trim().to_owned(),
        }
    }

    /// The saved state of its TPM.
    #[must_use]
    pub fn tpm_state(&self) -> PathBuf {
        self.path("tpm-state").join(STATE_FILE)
    }

    /// The contents of a file that holds one TPM2B structure.
    #[expect(
        clippy::panic,
        reason = "test support: a recorded boot that cannot be read fails the test"
    )]
    fn tpm2b(&self, file: &str) -> Vec<u8> {
        let bytes = read(&self.path(file));
        match bytes.split_first_chunk::<2>() {
            Some((size, rest)) if usize::from(u16::from_be_bytes(*size)) == rest.len() => rest.to_vec(),
            _ => panic!("{file} of {} is no TPM2B", self.name),
        }
    }
}

/// The CA that certified the recorded endorsement keys, PEM: the root first, then the issuer.
#[must_use]
pub fn ca() -> [String; 2] {
    ["swtpm-localca-rootca-cert.pem", "issuercert.pem"].map(|file| text(&boots().join("ca").join(file)))
}

/// The folder of the recorded boots.
#[must_use]
pub fn boots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("boots")
}

#[expect(
    clippy::panic,
    reason = "test support: a committed file that is not there fails the test"
)]
fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[expect(
    clippy::panic,
    reason = "test support: a committed file that is not text fails the test"
)]
fn text(path: &Path) -> String {
    String::from_utf8(read(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
