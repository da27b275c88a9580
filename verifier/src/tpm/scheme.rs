//! Schemes and symmetric algorithms in public areas and signatures.
//!
//! Source: TCG TPM 2.0 Library Part 2, 11.1.7 (TPMT_SYM_DEF_OBJECT), 11.2.1.5 (TPMT_SIG_SCHEME).

use std::fmt;

use super::algorithm::HashAlg;

/// A signing scheme (TPMT_SIG_SCHEME) with its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SigningScheme {
    /// RSASSA-PKCS1-v1_5.
    RsaSsa(HashAlg),
    /// RSASSA-PSS.
    RsaPss(HashAlg),
    /// ECDSA.
    Ecdsa(HashAlg),
}

impl SigningScheme {
    /// The hash of the scheme, also that of a quote's PCR digest.
    pub const fn hash(self) -> HashAlg {
        match self {
            SigningScheme::RsaSsa(h) | SigningScheme::RsaPss(h) | SigningScheme::Ecdsa(h) => h,
        }
    }
}

impl fmt::Display for SigningScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SigningScheme::RsaSsa(h) => write!(f, "rsassa-{h}"),
            SigningScheme::RsaPss(h) => write!(f, "rsapss-{h}"),
            SigningScheme::Ecdsa(h) => write!(f, "ecdsa-{h}"),
        }
    }
}

/// The scheme in a public area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// TPM_ALG_NULL: chosen at each use.
    Null,
    /// A signing scheme.
    Signing(SigningScheme),
    /// A scheme for decryption or key agreement, by its TPM_ALG_ID (RSAES, OAEP, ECDH).
    Decryption(u16),
    /// Another one, by its TPM_ALG_ID; accepted by no check here.
    Other(u16),
}

/// The symmetric algorithm of a storage key (TPMT_SYM_DEF_OBJECT).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Symmetric {
    /// TPM_ALG_NULL: not a storage key.
    Null,
    /// AES in CFB mode with this many key bits.
    AesCfb(u16),
    /// Another one, by TPM_ALG_ID, key bits and mode.
    Other(u16, u16, u16),
}
