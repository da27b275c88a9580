//! Algorithm identifiers (TPM_ALG_ID, TPM_ECC_CURVE) that this verifier understands.
//!
//! Source: TCG TPM 2.0 Library Part 2, 6.3 and 6.4.

use std::fmt;

use aws_lc_rs::{digest, hmac};

/// `TPM_ALG_RSA`.
pub const ALG_RSA: u16 = 0x0001;
/// `TPM_ALG_AES`.
pub const ALG_AES: u16 = 0x0006;
/// `TPM_ALG_KEYEDHASH`.
pub const ALG_KEYEDHASH: u16 = 0x0008;
/// `TPM_ALG_NULL`.
pub const ALG_NULL: u16 = 0x0010;
/// `TPM_ALG_RSASSA`.
pub const ALG_RSASSA: u16 = 0x0014;
/// `TPM_ALG_RSAES`.
pub const ALG_RSAES: u16 = 0x0015;
/// `TPM_ALG_RSAPSS`.
pub const ALG_RSAPSS: u16 = 0x0016;
/// `TPM_ALG_OAEP`.
pub const ALG_OAEP: u16 = 0x0017;
/// `TPM_ALG_ECDSA`.
pub const ALG_ECDSA: u16 = 0x0018;
/// `TPM_ALG_ECDH`.
pub const ALG_ECDH: u16 = 0x0019;
/// `TPM_ALG_ECDAA`.
pub const ALG_ECDAA: u16 = 0x001A;
/// `TPM_ALG_ECC`.
pub const ALG_ECC: u16 = 0x0023;
/// `TPM_ALG_SYMCIPHER`.
pub const ALG_SYMCIPHER: u16 = 0x0025;
/// `TPM_ALG_CFB`, the only block mode a TPM storage key may use.
pub const ALG_CFB: u16 = 0x0043;

/// A hash algorithm of a PCR bank, a Name, a scheme or a policy.
///
/// SHA-1 can be read (old banks exist, and a refusal must be able to name it) but is [weak](HashAlg::is_weak).
/// Ordered by TPM_ALG_ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlg {
    /// SHA-1, TPM_ALG_ID 0x0004.
    Sha1,
    /// SHA-256, TPM_ALG_ID 0x000B.
    Sha256,
    /// SHA-384, TPM_ALG_ID 0x000C.
    Sha384,
    /// SHA-512, TPM_ALG_ID 0x000D.
    Sha512,
}

impl HashAlg {
    /// Every algorithm known here, in TPM_ALG_ID order.
    pub const ALL: [HashAlg; 4] = [HashAlg::Sha1, HashAlg::Sha256, HashAlg::Sha384, HashAlg::Sha512];

    /// The algorithm with this TPM_ALG_ID, if it is one of ours.
    pub const fn from_tpm(id: u16) -> Option<Self> {
        match id {
            0x0004 => Some(HashAlg::Sha1),
            0x000B => Some(HashAlg::Sha256),
            0x000C => Some(HashAlg::Sha384),
            0x000D => Some(HashAlg::Sha512),
            _ => None,
        }
    }

    /// The TPM_ALG_ID.
    pub const fn tpm_id(self) -> u16 {
        match self {
            HashAlg::Sha1 => 0x0004,
            HashAlg::Sha256 => 0x000B,
            HashAlg::Sha384 => 0x000C,
            HashAlg::Sha512 => 0x000D,
        }
    }

    /// Digest length in bytes.
    pub const fn digest_len(self) -> usize {
        match self {
            HashAlg::Sha1 => 20,
            HashAlg::Sha256 => 32,
            HashAlg::Sha384 => 48,
            HashAlg::Sha512 => 64,
        }
    }

    /// Whether collisions are practical, so that nothing may rest on it.
    pub const fn is_weak(self) -> bool {
        matches!(self, HashAlg::Sha1)
    }

    /// The name tpm2-tools and our files use: `sha1`, `sha256`, `sha384`, `sha512`.
    pub const fn name(self) -> &'static str {
        match self {
            HashAlg::Sha1 => "sha1",
            HashAlg::Sha256 => "sha256",
            HashAlg::Sha384 => "sha384",
            HashAlg::Sha512 => "sha512",
        }
    }

    /// The algorithm with this [`name`](HashAlg::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|h| h.name() == name)
    }

    /// The implementation that computes it.
    pub fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            HashAlg::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            HashAlg::Sha256 => &digest::SHA256,
            HashAlg::Sha384 => &digest::SHA384,
            HashAlg::Sha512 => &digest::SHA512,
        }
    }

    /// The HMAC over this hash.
    pub(crate) fn hmac(self) -> hmac::Algorithm {
        match self {
            HashAlg::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            HashAlg::Sha256 => hmac::HMAC_SHA256,
            HashAlg::Sha384 => hmac::HMAC_SHA384,
            HashAlg::Sha512 => hmac::HMAC_SHA512,
        }
    }

    /// The digest of `parts`, one after the other.
    pub fn digest<'p>(self, parts: impl IntoIterator<Item = &'p [u8]>) -> digest::Digest {
        let mut context = digest::Context::new(self.algorithm());
        for part in parts {
            context.update(part);
        }
        context.finish()
    }
}

impl fmt::Display for HashAlg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An elliptic curve (TPM_ECC_CURVE) that can be read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Curve {
    /// NIST P-256, TPM_ECC_CURVE 0x0003.
    P256,
    /// NIST P-384, TPM_ECC_CURVE 0x0004.
    P384,
    /// NIST P-521, TPM_ECC_CURVE 0x0005.
    P521,
}

impl Curve {
    /// The curve with this TPM_ECC_CURVE, if it is one of ours.
    pub const fn from_tpm(id: u16) -> Option<Self> {
        match id {
            0x0003 => Some(Curve::P256),
            0x0004 => Some(Curve::P384),
            0x0005 => Some(Curve::P521),
            _ => None,
        }
    }

    /// The TPM_ECC_CURVE.
    pub const fn tpm_id(self) -> u16 {
        match self {
            Curve::P256 => 0x0003,
            Curve::P384 => 0x0004,
            Curve::P521 => 0x0005,
        }
    }

    /// Width of a coordinate, and of a scalar, in bytes.
    pub const fn field_len(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }

    /// The order of the base point, big-endian, [`field_len`](Curve::field_len) bytes (SEC 2, 2.4.2, 2.5.1, 2.6.1).
    pub const fn order(self) -> &'static [u8] {
        match self {
            Curve::P256 => &ORDER_P256,
            Curve::P384 => &ORDER_P384,
            Curve::P521 => &ORDER_P521,
        }
    }

    /// `P-256`, `P-384`, `P-521`.
    pub const fn name(self) -> &'static str {
        match self {
            Curve::P256 => "P-256",
            Curve::P384 => "P-384",
            Curve::P521 => "P-521",
        }
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const ORDER_P256: [u8; 32] = hex_bytes(b"ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
const ORDER_P384: [u8; 48] =
    hex_bytes(b"ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973");
const ORDER_P521: [u8; 66] = hex_bytes(
    b"01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa\
      51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
);

/// Decodes a hexadecimal constant while compiling; text of another length does not compile.
#[allow(clippy::indexing_slicing, clippy::panic)] // evaluated by the compiler only
pub(crate) const fn hex_bytes<const N: usize>(text: &[u8]) -> [u8; N] {
    const fn nibble(c: u8) -> u8 {
        match c {
            b'0'..=b'9' => c - b'0',
            b'a'..=b'f' => c - b'a' + 10,
            _ => panic!("not a lower-case hexadecimal digit"),
        }
    }
    assert!(text.len() == 2 * N, "the constant has another length");
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = nibble(text[2 * i]) << 4 | nibble(text[2 * i + 1]);
        i += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_go_there_and_back() {
        for hash in HashAlg::ALL {
            assert_eq!(HashAlg::from_tpm(hash.tpm_id()), Some(hash));
            assert_eq!(HashAlg::from_name(hash.name()), Some(hash));
            assert_eq!(hash.digest([]).as_ref().len(), hash.digest_len());
        }
        for curve in [Curve::P256, Curve::P384, Curve::P521] {
            assert_eq!(Curve::from_tpm(curve.tpm_id()), Some(curve));
            assert_eq!(curve.order().len(), curve.field_len());
        }
        assert_eq!(HashAlg::from_tpm(0x0012), None, "SM3 is not ours");
    }

    /// Named Information ids (1/7/8) and COSE ids are other registries: none may be mistaken for a TPM id.
    #[test]
    fn other_registries_are_not_tpm_ids() {
        for id in [1, 7, 8] {
            assert_eq!(HashAlg::from_tpm(id), None);
        }
    }
}
