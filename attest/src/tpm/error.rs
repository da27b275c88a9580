//! What can go wrong between us and a TPM, with the C library's codes turned into ours at the boundary.

use tss_esapi::constants::response_code::{Tss2ResponseCode, Tss2ResponseCodeKind as Kind};

touchstone_cose::reason_codes! {
    /// Why the TPM of this machine could not be used.
    pub enum TpmCode {
        TctiInvalid = "tpm-tcti-invalid": "The TCTI string is not understood. Use device:/dev/tpmrm0 or swtpm:host=127.0.0.1,port=N.",
        Unreachable = "tpm-unreachable": "The TPM does not answer. Check the device or port, and that this user may open it.",
        AnswerAltered = "tpm-answer-altered": "An answer of the TPM was changed on its way. Somebody may be tapping the bus between CPU and TPM.",
        NoEndorsementKey = "tpm-no-endorsement-key": "The TPM can make none of the endorsement keys asked for. Check that the endorsement hierarchy is enabled.",
        CertificateMalformed = "tpm-ek-certificate-malformed": "The NV index of the endorsement key certificate does not hold a DER certificate. The TPM needs to be provisioned again.",
        KeyMismatch = "tpm-key-mismatch": "The key at a handle is not the one it should be. It was replaced, or something between us and the TPM lies.",
        KeyUnsuitable = "tpm-key-unsuitable": "The key has not the attributes or the algorithm its job needs. Make a new one.",
        BlobRejected = "tpm-ak-blob-rejected": "The stored attestation key does not belong to this TPM. It is made anew and enrolled again.",
        KeyLost = "tpm-key-lost": "The key died with a TPM reset or clear. A new one is made.",
        PolicyCheckFailed = "tpm-policy-check-failed": "A PCR the key is bound to has changed since it was made: the key is unusable until the machine is rebooted into the state it was made in.",
        CredentialRejected = "tpm-credential-rejected": "The TPM could not open the credential: it was made for another endorsement key or another attestation key.",
        AuthorizationRequired = "tpm-authorization-required": "The TPM asks for a hierarchy password that this agent does not have.",
        LockedOut = "tpm-locked-out": "The TPM is in dictionary-attack lockout. Wait for it to recover or reset the lockout.",
        OutOfSlots = "tpm-out-of-slots": "The TPM has no free object or session slot. Use the kernel's resource manager /dev/tpmrm0, or restart the TPM.",
        SelectionInvalid = "tpm-pcr-selection-invalid": "The PCR selection names an unknown bank, a PCR above 23, or nothing at all.",
        BankAbsent = "tpm-pcr-bank-absent": "The TPM has not allocated a PCR bank that is asked for. Allocate it in the firmware's settings.",
        Refused = "tpm-command-refused": "The TPM refused a command. The response name says why.",
        Library = "tpm-library-failed": "The TSS library failed. See the message.",
    }
}

/// Why a TPM operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TpmError {
    /// The TCTI string is not understood.
    #[error("TCTI string `{given}`: {problem}")]
    TctiInvalid {
        /// The string as given.
        given: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Nothing answers at the other end of the TCTI.
    #[error("no TPM answers at `{tcti}`")]
    Unreachable {
        /// The TCTI string.
        tcti: String,
    },
    /// The connection broke while a command was under way.
    #[error("{command}: the TPM stopped answering")]
    NoAnswer {
        /// The command.
        command: &'static str,
    },
    /// The answer's authentication code is wrong: it was changed between the TPM and us.
    #[error("{command}: the answer was changed between the TPM and this agent")]
    AnswerAltered {
        /// The command.
        command: &'static str,
    },
    /// None of the endorsement keys asked for can be made.
    #[error("the TPM can make no endorsement key of the kinds {tried:?}")]
    NoEndorsementKey {
        /// The kinds that were tried.
        tried: Vec<super::EkKind>,
    },
    /// An EK certificate index holds something that is no DER certificate.
    #[error("NV index {index:#010x} holds no DER certificate: {problem}")]
    CertificateMalformed {
        /// The NV index.
        index: u32,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The key at a handle has another Name than before.
    #[error("the key at {handle:#010x} is {found}, expected {expected}")]
    KeyMismatch {
        /// The TPM handle.
        handle: u32,
        /// The expected Name, hex.
        expected: String,
        /// The found Name, hex.
        found: String,
    },
    /// A key cannot do the job it is wanted for.
    #[error("the key is unsuitable: {0}")]
    KeyUnsuitable(&'static str),
    /// The stored attestation key is not of this TPM or not readable.
    #[error("the stored attestation key cannot be loaded: {0}")]
    BlobRejected(&'static str),
    /// The key does not exist any more: the TPM was reset or cleared.
    #[error("the key died with a TPM reset")]
    KeyLost,
    /// A PCR of the key's policy has another value than when the key was made.
    #[error("a PCR the key is bound to has changed")]
    PolicyCheckFailed,
    /// TPM2_ActivateCredential failed the integrity check.
    #[error("the credential is not for this endorsement key and attestation key")]
    CredentialRejected,
    /// A hierarchy has a password.
    #[error("{command}: the TPM asks for a password")]
    AuthorizationRequired {
        /// The command.
        command: &'static str,
    },
    /// Dictionary-attack lockout.
    #[error("{command}: the TPM is locked out")]
    LockedOut {
        /// The command.
        command: &'static str,
    },
    /// No free slot.
    #[error("{command}: the TPM is out of slots")]
    OutOfSlots {
        /// The command.
        command: &'static str,
    },
    /// The selection cannot be expressed.
    #[error("PCR selection: {0}")]
    SelectionInvalid(&'static str),
    /// The TPM has no such bank.
    #[error("the TPM has no PCR bank for algorithm {algorithm:#06x}")]
    BankAbsent {
        /// The TPM_ALG_ID.
        algorithm: u16,
    },
    /// Another refusal by the TPM.
    #[error("{command}: the TPM answered {response}")]
    Refused {
        /// The command.
        command: &'static str,
        /// The response code's name.
        response: String,
    },
    /// The library failed, not the TPM.
    #[error("{command}: {problem}")]
    Library {
        /// The command.
        command: &'static str,
        /// What the library said.
        problem: String,
    },
}

impl TpmError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> TpmCode {
        match self {
            Self::TctiInvalid { .. } => TpmCode::TctiInvalid,
            Self::Unreachable { .. } | Self::NoAnswer { .. } => TpmCode::Unreachable,
            Self::AnswerAltered { .. } => TpmCode::AnswerAltered,
            Self::NoEndorsementKey { .. } => TpmCode::NoEndorsementKey,
            Self::CertificateMalformed { .. } => TpmCode::CertificateMalformed,
            Self::KeyMismatch { .. } => TpmCode::KeyMismatch,
            Self::KeyUnsuitable(_) => TpmCode::KeyUnsuitable,
            Self::BlobRejected(_) => TpmCode::BlobRejected,
            Self::KeyLost => TpmCode::KeyLost,
            Self::PolicyCheckFailed => TpmCode::PolicyCheckFailed,
            Self::CredentialRejected => TpmCode::CredentialRejected,
            Self::AuthorizationRequired { .. } => TpmCode::AuthorizationRequired,
            Self::LockedOut { .. } => TpmCode::LockedOut,
            Self::OutOfSlots { .. } => TpmCode::OutOfSlots,
            Self::SelectionInvalid(_) => TpmCode::SelectionInvalid,
            Self::BankAbsent { .. } => TpmCode::BankAbsent,
            Self::Refused { .. } => TpmCode::Refused,
            Self::Library { .. } => TpmCode::Library,
        }
    }
}

/// The layer of the TSS that a response code is from: bits 16 to 23 (TSS 2.0 Overview and Common Structures, 3.3).
const TCTI_LAYER: u32 = 0x0A;
/// TSS2_ESYS_RC_RSP_AUTH_FAILED: the HMAC over a response did not verify.
const RSP_AUTH_FAILED: u32 = 0x0007_001B;
/// Layers that pass on what the TPM itself (or the resource manager in its name) said.
const TPM_LAYERS: [u32; 3] = [0x00, 0x0B, 0x0C];

/// The response code's kind, if the TPM spoke and not the library: the library's own codes reuse the same low bits.
pub(super) fn kind(error: &tss_esapi::Error) -> Option<Kind> {
    match error {
        tss_esapi::Error::Tss2Error(code) if layer(*code).is_none_or(|layer| TPM_LAYERS.contains(&layer)) => {
            code.kind()
        }
        _ => None,
    }
}

fn layer(code: Tss2ResponseCode) -> Option<u32> {
    number(code).map(|number| number >> 16 & 0xFF)
}

/// The number of a response code. The library hides it and shows it only in its own words.
fn number(code: Tss2ResponseCode) -> Option<u32> {
    let words = std::error::Error::source(&code)?.to_string();
    let (_, number) = words.rsplit_once("0x")?;
    u32::from_str_radix(number, 16).ok()
}

/// Turns a library error of `command` into ours. Callers that know more about a code map it before.
pub(super) fn failed(command: &'static str) -> impl Fn(tss_esapi::Error) -> TpmError {
    move |error| match kind(&error) {
        Some(Kind::ObjectMemory | Kind::SessionMemory | Kind::Memory | Kind::ObjectHandles | Kind::SessionHandles) => {
            TpmError::OutOfSlots { command }
        }
        Some(Kind::Lockout) => TpmError::LockedOut { command },
        Some(Kind::AuthFail | Kind::BadAuth | Kind::AuthMissing | Kind::AuthUnavailable) => {
            TpmError::AuthorizationRequired { command }
        }
        Some(kind) => TpmError::Refused {
            command,
            response: format!("{kind:?}"),
        },
        None => match error {
            tss_esapi::Error::Tss2Error(code) if layer(code) == Some(TCTI_LAYER) => TpmError::NoAnswer { command },
            tss_esapi::Error::Tss2Error(code) if number(code) == Some(RSP_AUTH_FAILED) => {
                TpmError::AnswerAltered { command }
            }
            other => TpmError::Library {
                command,
                problem: other.to_string(),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_librarys_own_codes_are_not_taken_for_the_tpms() {
        for (number, layer_is, says) in [
            (0x0000_0902, 0x00, Some(Kind::ObjectMemory)),
            (0x0000_099D, 0x00, Some(Kind::PolicyFail)),
            (0x000B_0902, 0x0B, Some(Kind::ObjectMemory)),
            (0x000A_000A, TCTI_LAYER, None),
            (0x0007_0001, 0x07, None),
        ] {
            let code = Tss2ResponseCode::from(number);
            assert_eq!(layer(code), Some(layer_is), "{number:#x}");
            assert_eq!(kind(&tss_esapi::Error::Tss2Error(code)), says, "{number:#x}");
        }
        let broken = failed("TPM2_Quote")(tss_esapi::Error::Tss2Error(Tss2ResponseCode::from(0x000A_000A)));
        assert_eq!(broken, TpmError::NoAnswer { command: "TPM2_Quote" });
        let altered = failed("TPM2_Quote")(tss_esapi::Error::Tss2Error(Tss2ResponseCode::from(RSP_AUTH_FAILED)));
        assert_eq!(altered, TpmError::AnswerAltered { command: "TPM2_Quote" });
    }
}
