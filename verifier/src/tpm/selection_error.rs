//! Why a PCR selection, or the values for it, were refused.

use thiserror::Error;

use super::algorithm::HashAlg;
use super::code::TpmCode;
use super::reader::ReadError;
use super::selection::{MAX_REGISTER, PcrSelection};

/// Why a selection, or the values for it, were refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// The bytes are not a TPML_PCR_SELECTION.
    #[error("PCR selection: {0}")]
    Read(#[from] ReadError),
    /// Registers of a bank of an algorithm that is not known here.
    #[error("PCR selection: registers of bank {found:#06x}, which is not known")]
    UnknownBank {
        /// The TPM_ALG_ID found.
        found: u16,
    },
    /// A bank that was named before.
    #[error("PCR selection: bank {bank} is named twice")]
    DuplicateBank {
        /// The bank.
        bank: HashAlg,
    },
    /// A register that no TPM has.
    #[error("PCR selection: register {found} does not exist, the highest is {MAX_REGISTER}")]
    UnknownRegister {
        /// The number found.
        found: u8,
    },
    /// A register named twice in a list of numbers.
    #[error("PCR selection: register {register} of bank {bank} is named twice")]
    DuplicateRegister {
        /// The bank.
        bank: HashAlg,
        /// The register.
        register: u8,
    },
    /// Not what was asked for.
    #[error("PCR selection: expected {expected}, found {found}")]
    Mismatch {
        /// What was asked for.
        expected: PcrSelection,
        /// What was quoted.
        found: PcrSelection,
    },
    /// Less than what is required.
    #[error("PCR selection: expected at least {expected}, found {found}")]
    Missing {
        /// What is required.
        expected: PcrSelection,
        /// What was quoted.
        found: PcrSelection,
    },
    /// A register that software can reset, where a boot register is required.
    #[error("PCR selection: register {register} of bank {bank} can be reset by software")]
    Resettable {
        /// The bank.
        bank: HashAlg,
        /// The register.
        register: u8,
    },
    /// No value was given for a selected register, or one of another length than the bank's.
    #[error("register {register} of bank {bank}: expected a value of {expected} bytes, found {found:?}")]
    Value {
        /// The bank.
        bank: HashAlg,
        /// The register.
        register: u8,
        /// Digest length of the bank.
        expected: usize,
        /// Length of the value, if there was one.
        found: Option<usize>,
    },
}

impl SelectionError {
    /// The stable code.
    pub const fn code(&self) -> TpmCode {
        match self {
            SelectionError::Read(_)
            | SelectionError::DuplicateBank { .. }
            | SelectionError::UnknownRegister { .. }
            | SelectionError::DuplicateRegister { .. } => TpmCode::SelectionMalformed,
            SelectionError::UnknownBank { .. } => TpmCode::HashUnsupported,
            SelectionError::Mismatch { .. } => TpmCode::SelectionMismatch,
            SelectionError::Missing { .. } => TpmCode::SelectionMissing,
            SelectionError::Resettable { .. } => TpmCode::RegisterResettable,
            SelectionError::Value { .. } => TpmCode::ValueMissing,
        }
    }

    /// What was expected and what was found.
    pub fn details(&self) -> (String, String) {
        match self {
            SelectionError::Read(e) => e.details(),
            SelectionError::UnknownBank { found } => (
                "a bank of SHA-1, SHA-256, SHA-384 or SHA-512".into(),
                format!("{found:#06x}"),
            ),
            SelectionError::DuplicateBank { bank } => ("each bank once".into(), format!("{bank} twice")),
            SelectionError::UnknownRegister { found } => (format!("registers 0 to {MAX_REGISTER}"), found.to_string()),
            SelectionError::DuplicateRegister { bank, register } => {
                ("each register once".into(), format!("{bank}:{register} twice"))
            }
            SelectionError::Mismatch { expected, found } => (expected.to_string(), found.to_string()),
            SelectionError::Missing { expected, found } => (format!("at least {expected}"), found.to_string()),
            SelectionError::Resettable { bank, register } => (
                "boot registers only".into(),
                format!("{bank}:{register}, which software can reset"),
            ),
            SelectionError::Value {
                bank,
                register,
                expected,
                found,
            } => (
                format!("a value of {expected} bytes for {bank}:{register}"),
                found.map_or_else(|| "none".into(), |len| format!("{len} bytes")),
            ),
        }
    }
}
