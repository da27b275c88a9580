//! The one way from signed bytes to a quote or a certification that may be believed.
//!
//! Source: protocol.md 2 and 4; TCG TPM 2.0 Library Part 3, 18.2 (TPM2_Certify) and 18.4 (TPM2_Quote).

use thiserror::Error;

use super::algorithm::HashAlg;
use super::attest::{Attest, AttestError, CertifyInfo, QuoteInfo};
use super::checks::CheckedAk;
use super::code::TpmCode;
use super::public::{Public, Scheme, SigningScheme};
use super::selection::SelectionError;
use super::signature::{Signature, SignatureError};
use crate::x509::key::SubjectKey;

/// Why a quote or certification is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AttestationError {
    /// Its signature.
    #[error("{0}")]
    Signature(#[from] SignatureError),
    /// What was signed.
    #[error("{0}")]
    Attest(#[from] AttestError),
}

impl AttestationError {
    /// The stable code.
    pub const fn code(&self) -> TpmCode {
        match self {
            AttestationError::Signature(e) => e.code(),
            AttestationError::Attest(e) => e.code(),
        }
    }

    /// What was expected and what was found.
    pub fn details(&self) -> (String, String) {
        match self {
            AttestationError::Signature(e) => e.details(),
            AttestationError::Attest(e) => e.details(),
        }
    }
}

/// The key that attestations are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationKey {
    key: SubjectKey,
    scheme: Option<SigningScheme>,
}

impl From<&CheckedAk<'_>> for AttestationKey {
    /// The key with its own scheme: a signature of any other is refused.
    fn from(ak: &CheckedAk<'_>) -> Self {
        Self {
            key: ak.public().subject_key(),
            scheme: Some(ak.scheme()),
        }
    }
}

impl AttestationKey {
    /// A key that came without TPM attributes (PEM): any scheme that fits it is accepted, and *nothing* says that it is
    /// restricted. Only a signed inventory that lists this very key makes it an attestation key (protocol.md 2).
    pub fn without_attributes(key: SubjectKey) -> Self {
        Self { key, scheme: None }
    }

    /// The public key.
    pub fn key(&self) -> &SubjectKey {
        &self.key
    }

    /// Checks `signature` (TPMT_SIGNATURE) over `message`.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        self.verified_scheme(message, signature).map(|_| ())
    }

    fn verified_scheme(&self, message: &[u8], signature: &[u8]) -> Result<SigningScheme, SignatureError> {
        let signature = Signature::parse(signature)?;
        let found = signature.scheme();
        match self.scheme {
            Some(expected) if expected != found => Err(SignatureError::Scheme {
                expected: expected.to_string(),
                found,
            }),
            _ => signature.verify(&self.key, message).map(|()| found),
        }
    }

    /// Checks the signature over `message` (TPMS_ATTEST), then reads the quote from those very bytes.
    ///
    /// # Errors
    /// [`AttestationError`]: signature first, then magic, type and contents.
    pub fn verify_quote<'a>(&self, message: &'a [u8], signature: &[u8]) -> Result<VerifiedQuote<'a>, AttestationError> {
        let scheme = self.verified_scheme(message, signature)?;
        let attest = Attest::parse(message)?;
        let quote = attest.quote()?.clone();
        Ok(VerifiedQuote { attest, quote, scheme })
    }

    /// Checks the signature over `message` (TPMS_ATTEST), then reads the certification from those very bytes.
    ///
    /// # Errors
    /// [`AttestationError`]: signature first, then magic, type and contents.
    pub fn verify_certify<'a>(
        &self,
        message: &'a [u8],
        signature: &[u8],
    ) -> Result<VerifiedCertify<'a>, AttestationError> {
        self.verify(message, signature)?;
        let attest = Attest::parse(message)?;
        let certify = *attest.certify()?;
        Ok(VerifiedCertify { attest, certify })
    }
}

/// A quote whose signature has been checked; only [`AttestationKey::verify_quote`] makes one.
///
/// ```compile_fail,E0616
/// use touchstone_verifier::tpm::VerifiedQuote;
/// use touchstone_verifier::tpm::attest::QuoteInfo;
///
/// fn forged<'a>(signed: &mut VerifiedQuote<'a>, other: QuoteInfo<'a>) {
///     signed.quote = other;
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedQuote<'a> {
    attest: Attest<'a>,
    quote: QuoteInfo<'a>,
    scheme: SigningScheme,
}

impl<'a> VerifiedQuote<'a> {
    /// The whole attestation: signer, qualifying data, clock, firmware version.
    pub fn attest(&self) -> &Attest<'a> {
        &self.attest
    }

    /// Selection and digest.
    pub fn info(&self) -> &QuoteInfo<'a> {
        &self.quote
    }

    /// The scheme it was signed with.
    pub fn scheme(&self) -> SigningScheme {
        self.scheme
    }

    /// Checks that the values which `value` gives for the *signed* selection have the signed digest, computed with the
    /// hash of the signing scheme.
    ///
    /// # Errors
    /// [`PcrDigestError`].
    pub fn check_values<'v>(&self, value: impl Fn(HashAlg, u8) -> Option<&'v [u8]>) -> Result<(), PcrDigestError> {
        let found = self.quote.selection.pcr_digest(self.scheme.hash(), value)?;
        if found.as_ref() == self.quote.pcr_digest {
            return Ok(());
        }
        let (expected, found) = (hex::encode(self.quote.pcr_digest), hex::encode(found.as_ref()));
        Err(PcrDigestError::Mismatch { expected, found })
    }
}

/// A certification whose signature has been checked; only [`AttestationKey::verify_certify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCertify<'a> {
    attest: Attest<'a>,
    certify: CertifyInfo<'a>,
}

impl<'a> VerifiedCertify<'a> {
    /// The whole attestation: signer, qualifying data, clock, firmware version.
    pub fn attest(&self) -> &Attest<'a> {
        &self.attest
    }

    /// Name and qualified Name of the certified key.
    pub fn info(&self) -> &CertifyInfo<'a> {
        &self.certify
    }

    /// Checks that the certified key is the one in `public`, by the Name recomputed from its bytes.
    ///
    /// # Errors
    /// [`CertifyNameMismatch`].
    pub fn check_key(&self, public: &Public) -> Result<(), CertifyNameMismatch> {
        let name = public.name();
        if self.certify.names(&name) {
            return Ok(());
        }
        Err(CertifyNameMismatch {
            expected: hex::encode(name.as_bytes()),
            found: hex::encode(self.certify.name),
        })
    }
}

/// The certification names another key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("certified Name: expected {expected}, found {found}")]
pub struct CertifyNameMismatch {
    /// Name of the key presented, hexadecimal.
    pub expected: String,
    /// Name that the TPM certified, hexadecimal.
    pub found: String,
}

impl CertifyNameMismatch {
    /// The stable code.
    pub const fn code(&self) -> TpmCode {
        TpmCode::CertifyName
    }

    /// What was expected and what was found.
    pub fn details(&self) -> (String, String) {
        (self.expected.clone(), self.found.clone())
    }
}

/// Why register values do not belong to a quote.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PcrDigestError {
    /// A value is missing or has a wrong length.
    #[error("{0}")]
    Values(#[from] SelectionError),
    /// The values give another digest than the one signed.
    #[error("PCR digest: expected {expected}, found {found}")]
    Mismatch {
        /// The signed digest, hexadecimal.
        expected: String,
        /// The digest of the values, hexadecimal.
        found: String,
    },
}

impl PcrDigestError {
    /// The stable code.
    pub const fn code(&self) -> TpmCode {
        match self {
            PcrDigestError::Values(e) => e.code(),
            PcrDigestError::Mismatch { .. } => TpmCode::DigestMismatch,
        }
    }

    /// What was expected and what was found.
    pub fn details(&self) -> (String, String) {
        match self {
            PcrDigestError::Values(e) => e.details(),
            PcrDigestError::Mismatch { expected, found } => (expected.clone(), found.clone()),
        }
    }
}

/// Checks `signature` (TPMT_SIGNATURE) over `message` under the key in `public`, by the key's own scheme.
///
/// # Errors
/// [`SignatureError`]; [`SignatureError::Scheme`] if the signature is of another scheme or hash than the key's.
pub fn verify(public: &Public, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    let scheme = match public.scheme {
        Scheme::Signing(own) => Some(own),
        _ => None,
    };
    AttestationKey {
        key: public.subject_key(),
        scheme,
    }
    .verify(message, signature)
}
