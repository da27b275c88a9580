//! TPMS_ATTEST: what a TPM signs when it quotes registers or certifies a key.
//!
//! Source: TCG TPM 2.0 Library Part 2, 10.12; standards.md C.11.1.

use thiserror::Error;

use super::code::TpmCode;
use super::public::{MAX_NAME_LEN, Name};
use super::reader::{ReadError, Reader};
use super::selection::{PcrSelection, SelectionError};

/// `TPM_GENERATED_VALUE`: nothing a restricted key signs from outside may start with it.
pub const TPM_GENERATED: u32 = 0xFF54_4347;
/// `TPM_ST_ATTEST_QUOTE`.
pub const ST_ATTEST_QUOTE: u16 = 0x8018;
/// `TPM_ST_ATTEST_CERTIFY`.
pub const ST_ATTEST_CERTIFY: u16 = 0x8017;
/// Longest qualifyingData: TPM2B_DATA holds a TPMT_HA.
pub const MAX_EXTRA_DATA_LEN: usize = 2 + 64;
/// Longest digest.
const MAX_DIGEST_LEN: usize = 64;
/// Longest TPMS_ATTEST read.
pub const MAX_ATTEST_LEN: usize = 1024;

/// Why bytes are not the attestation they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AttestError {
    /// The bytes are not a TPMS_ATTEST.
    #[error("TPMS_ATTEST: {0}")]
    Read(#[from] ReadError),
    /// Not made by a TPM.
    #[error("TPMS_ATTEST magic: expected {TPM_GENERATED:#010x}, found {found:#010x}")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// An attestation of another type.
    #[error("TPMS_ATTEST type: expected {expected}, found {name} ({found:#06x})")]
    Type {
        /// What is accepted here.
        expected: &'static str,
        /// The TCG name of what was found.
        name: &'static str,
        /// The TPM_ST found.
        found: u16,
    },
    /// The selection in a quote.
    #[error("{0}")]
    Selection(#[from] SelectionError),
}

impl AttestError {
    /// The stable code.
    pub const fn code(&self) -> TpmCode {
        match self {
            AttestError::Read(_) => TpmCode::StructureMalformed,
            AttestError::Magic { .. } => TpmCode::AttestMagic,
            AttestError::Type { .. } => TpmCode::AttestType,
            AttestError::Selection(e) => e.code(),
        }
    }

    /// What was expected and what was found.
    pub fn details(&self) -> (String, String) {
        match self {
            AttestError::Read(e) => e.details(),
            AttestError::Magic { found } => (format!("{TPM_GENERATED:#010x}"), format!("{found:#010x}")),
            AttestError::Type { expected, name, found } => ((*expected).into(), format!("{name} ({found:#06x})")),
            AttestError::Selection(e) => e.details(),
        }
    }
}

/// TPMS_CLOCK_INFO: the TPM's clock and its reset counters.
///
/// For keys outside the endorsement and platform hierarchies the counters are obfuscated, by the same amount each time:
/// for one key they can still be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClockInfo {
    /// Milliseconds for which the TPM has been powered.
    pub clock: u64,
    /// TPM resets since `TPM2_Clear`.
    pub reset_count: u32,
    /// Resumes and restarts since the last reset.
    pub restart_count: u32,
    /// Whether no higher clock value can have been reported before.
    pub safe: bool,
}

/// A parsed attestation, borrowed from the bytes it was parsed from.
///
/// *Not yet trustworthy*: [`verify_quote`](super::attestation::AttestationKey::verify_quote) and
/// [`verify_certify`](super::attestation::AttestationKey::verify_certify) parse one only after the signature has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest<'a> {
    /// Qualified Name of the signing key.
    pub qualified_signer: &'a [u8],
    /// qualifyingData: the nonce or binder digest that the caller gave.
    pub extra_data: &'a [u8],
    /// Clock and counters.
    pub clock: ClockInfo,
    /// Vendor's firmware version.
    pub firmware_version: u64,
    /// What is attested.
    pub attested: Attested<'a>,
}

/// The attested part, by type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attested<'a> {
    /// TPMS_QUOTE_INFO.
    Quote(QuoteInfo<'a>),
    /// TPMS_CERTIFY_INFO.
    Certify(CertifyInfo<'a>),
}

/// TPMS_QUOTE_INFO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteInfo<'a> {
    /// The registers that were quoted.
    pub selection: PcrSelection,
    /// Digest of their values, with the signing scheme's hash.
    pub pcr_digest: &'a [u8],
}

/// TPMS_CERTIFY_INFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertifyInfo<'a> {
    /// Name of the certified key.
    pub name: &'a [u8],
    /// Its qualified Name.
    pub qualified_name: &'a [u8],
}

impl CertifyInfo<'_> {
    /// Whether the certified key is the one with this Name.
    pub fn names(&self, name: &Name) -> bool {
        self.name == name.as_bytes()
    }
}

impl<'a> Attest<'a> {
    /// Reads a TPMS_ATTEST of type QUOTE or CERTIFY that fills `bytes` exactly.
    ///
    /// # Errors
    /// [`AttestError`]; any other type is refused by its name.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, AttestError> {
        if bytes.len() > MAX_ATTEST_LEN {
            let (limit, found) = (MAX_ATTEST_LEN, bytes.len());
            return Err(ReadError::OverLimit {
                field: "TPMS_ATTEST",
                offset: 0,
                limit,
                found,
            }
            .into());
        }
        let mut r = Reader::new(bytes);
        let found = r.u32("magic")?;
        if found != TPM_GENERATED {
            return Err(AttestError::Magic { found });
        }
        let kind = r.u16("type")?;
        if !matches!(kind, ST_ATTEST_QUOTE | ST_ATTEST_CERTIFY) {
            return Err(AttestError::Type {
                expected: "QUOTE or CERTIFY",
                name: type_name(kind),
                found: kind,
            });
        }
        let qualified_signer = r.sized("qualifiedSigner", MAX_NAME_LEN)?;
        let extra_data = r.sized("extraData", MAX_EXTRA_DATA_LEN)?;
        let clock = ClockInfo {
            clock: r.u64("clock")?,
            reset_count: r.u32("resetCount")?,
            restart_count: r.u32("restartCount")?,
            safe: r.yes_no("safe")?,
        };
        let firmware_version = r.u64("firmwareVersion")?;
        let attested = if kind == ST_ATTEST_QUOTE {
            let selection = PcrSelection::read(&mut r)?;
            Attested::Quote(QuoteInfo {
                selection,
                pcr_digest: r.sized("pcrDigest", MAX_DIGEST_LEN)?,
            })
        } else {
            let name = r.sized("name", MAX_NAME_LEN)?;
            Attested::Certify(CertifyInfo {
                name,
                qualified_name: r.sized("qualifiedName", MAX_NAME_LEN)?,
            })
        };
        r.finish("TPMS_ATTEST")?;
        Ok(Self {
            qualified_signer,
            extra_data,
            clock,
            firmware_version,
            attested,
        })
    }

    /// The quote, if it is one.
    ///
    /// # Errors
    /// [`AttestError::Type`].
    pub fn quote(&self) -> Result<&QuoteInfo<'a>, AttestError> {
        match &self.attested {
            Attested::Quote(quote) => Ok(quote),
            Attested::Certify(_) => Err(wrong_type("QUOTE", ST_ATTEST_CERTIFY)),
        }
    }

    /// The certification, if it is one.
    ///
    /// # Errors
    /// [`AttestError::Type`].
    pub fn certify(&self) -> Result<&CertifyInfo<'a>, AttestError> {
        match &self.attested {
            Attested::Certify(certify) => Ok(certify),
            Attested::Quote(_) => Err(wrong_type("CERTIFY", ST_ATTEST_QUOTE)),
        }
    }
}

/// The signed bytes in what tools write: a bare TPMS_ATTEST, or the contents of a TPM2B_ATTEST whose length fits exactly.
///
/// # Errors
/// [`AttestError::Magic`] if it is neither, [`AttestError::Read`] if the length does not fit.
pub fn signed_bytes(bytes: &[u8]) -> Result<&[u8], AttestError> {
    let magic = TPM_GENERATED.to_be_bytes();
    if bytes.starts_with(&magic) {
        return Ok(bytes);
    }
    if !bytes.get(2..).is_some_and(|inner| inner.starts_with(&magic)) {
        return Err(AttestError::Magic {
            found: Reader::new(bytes).u32("magic")?,
        });
    }
    let mut r = Reader::new(bytes);
    let inner = r.sized("TPM2B_ATTEST", MAX_ATTEST_LEN)?;
    r.finish("TPM2B_ATTEST")?;
    Ok(inner)
}

fn wrong_type(expected: &'static str, found: u16) -> AttestError {
    AttestError::Type {
        expected,
        name: type_name(found),
        found,
    }
}

const fn type_name(st: u16) -> &'static str {
    match st {
        0x8014 => "NV",
        0x8015 => "COMMAND_AUDIT",
        0x8016 => "SESSION_AUDIT",
        ST_ATTEST_CERTIFY => "CERTIFY",
        ST_ATTEST_QUOTE => "QUOTE",
        0x8019 => "TIME",
        0x801A => "CREATION",
        0x801C => "NV_DIGEST",
        _ => "unknown",
    }
}
