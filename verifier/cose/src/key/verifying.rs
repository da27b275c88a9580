//! Public keys: their names, their SubjectPublicKeyInfo form, and what verifies under them.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{self, EcdsaVerificationAlgorithm, ParsedPublicKey, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use super::{Algorithm, KID_LEN, KeyError};
use crate::cbor;

/// A public key that we accept signatures from. What the constructors return is on its curve; a value made by hand
/// is checked again whenever it is used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VerifyingKey {
    /// Ed25519 (RFC 8032).
    Ed25519([u8; 32]),
    /// ECDSA over P-256, affine coordinates, big-endian.
    P256 {
        /// The x coordinate.
        x: [u8; 32],
        /// The y coordinate.
        y: [u8; 32],
    },
    /// ECDSA over P-384, affine coordinates, big-endian.
    P384 {
        /// The x coordinate.
        x: [u8; 48],
        /// The y coordinate.
        y: [u8; 48],
    },
}

/// The DER in front of the key itself in a SubjectPublicKeyInfo (RFC 5480, RFC 8410): algorithm, named curve and the
/// head of the bit string are constant for each curve. For the NIST curves the 0x04 of an uncompressed point ends it.
const SPKI_ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const SPKI_P256: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
const SPKI_P384: [u8; 24] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x22, 0x03, 0x62, 0x00, 0x04,
];

/// Uncompressed SEC 1 points.
const SEC1_UNCOMPRESSED: u8 = 0x04;

impl VerifyingKey {
    /// The Ed25519 key `bytes`.
    ///
    /// # Errors
    /// Not a point of the curve, or one of small order (under which signatures that anybody can make verify).
    pub fn ed25519(bytes: [u8; 32]) -> Result<VerifyingKey, KeyError> {
        let refused = KeyError::NotOnCurve { curve: "Ed25519" };
        match ed25519_dalek::VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(VerifyingKey::Ed25519(bytes)),
            _ => Err(refused),
        }
    }

    /// The P-256 key with these coordinates.
    ///
    /// # Errors
    /// Not a point of the curve.
    pub fn p256(x: [u8; 32], y: [u8; 32]) -> Result<VerifyingKey, KeyError> {
        let key = VerifyingKey::P256 { x, y };
        key.parse_ecdsa(&signature::ECDSA_P256_SHA256_FIXED, &sec1(&x, &y), "P-256")?;
        Ok(key)
    }

    /// The P-384 key with these coordinates.
    ///
    /// # Errors
    /// Not a point of the curve.
    pub fn p384(x: [u8; 48], y: [u8; 48]) -> Result<VerifyingKey, KeyError> {
        let key = VerifyingKey::P384 { x, y };
        key.parse_ecdsa(&signature::ECDSA_P384_SHA384_FIXED, &sec1(&x, &y), "P-384")?;
        Ok(key)
    }

    /// The P-256 key with this x coordinate whose y is odd if `y_is_odd`.
    ///
    /// # Errors
    /// No point of the curve has this x coordinate.
    pub fn p256_compressed(x: [u8; 32], y_is_odd: bool) -> Result<VerifyingKey, KeyError> {
        let y = decompress(&signature::ECDSA_P256_SHA256_FIXED, &x, y_is_odd, "P-256")?;
        Ok(VerifyingKey::P256 { x, y })
    }

    /// The P-384 key with this x coordinate whose y is odd if `y_is_odd`.
    ///
    /// # Errors
    /// No point of the curve has this x coordinate.
    pub fn p384_compressed(x: [u8; 48], y_is_odd: bool) -> Result<VerifyingKey, KeyError> {
        let y = decompress(&signature::ECDSA_P384_SHA384_FIXED, &x, y_is_odd, "P-384")?;
        Ok(VerifyingKey::P384 { x, y })
    }

    /// The key in a DER SubjectPublicKeyInfo (RFC 5480, RFC 8410), exactly as [`VerifyingKey::to_spki_der`] writes it.
    ///
    /// # Errors
    /// Another algorithm, curve or point form, or no point of the curve.
    pub fn from_spki_der(der: &[u8]) -> Result<VerifyingKey, KeyError> {
        let unsupported = || KeyError::Unsupported {
            what: "SubjectPublicKeyInfo",
            found: format!("of {} bytes", der.len()),
        };
        if let Some(key) = der.strip_prefix(&SPKI_ED25519) {
            Self::ed25519(key.try_into().map_err(|_| unsupported())?)
        } else if let Some((x, y)) = der.strip_prefix(&SPKI_P256).and_then(|p| p.split_at_checked(32)) {
            Self::p256(
                x.try_into().map_err(|_| unsupported())?,
                y.try_into().map_err(|_| unsupported())?,
            )
        } else if let Some((x, y)) = der.strip_prefix(&SPKI_P384).and_then(|p| p.split_at_checked(48)) {
            Self::p384(
                x.try_into().map_err(|_| unsupported())?,
                y.try_into().map_err(|_| unsupported())?,
            )
        } else {
            Err(unsupported())
        }
    }

    /// The key as a DER SubjectPublicKeyInfo, the point uncompressed.
    pub fn to_spki_der(&self) -> Vec<u8> {
        match self {
            VerifyingKey::Ed25519(key) => [SPKI_ED25519.as_slice(), key].concat(),
            VerifyingKey::P256 { x, y } => [SPKI_P256.as_slice(), x, y].concat(),
            VerifyingKey::P384 { x, y } => [SPKI_P384.as_slice(), x, y].concat(),
        }
    }

    /// The one algorithm that this key signs with.
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            VerifyingKey::Ed25519(_) => Algorithm::Ed25519,
            VerifyingKey::P256 { .. } => Algorithm::Esp256,
            VerifyingKey::P384 { .. } => Algorithm::Esp384,
        }
    }

    /// The RFC 9679 thumbprint: SHA-256 over the deterministic COSE_Key of the required members alone, y uncompressed.
    pub fn thumbprint(&self) -> [u8; 32] {
        Sha256::digest(cbor::encode(&self.to_cose_key(false))).into()
    }

    /// The key id: the first eight bytes of the thumbprint (`protocol.md` 6).
    pub fn kid(&self) -> [u8; KID_LEN] {
        let [a, b, c, d, e, f, g, h, ..] = self.thumbprint();
        [a, b, c, d, e, f, g, h]
    }

    /// Verifies `signature` over `message`. Ed25519 strictly (no small-order points, canonical encodings); ECDSA as
    /// fixed-width r || s.
    ///
    /// # Errors
    /// [`KeyError::BadSignature`], or [`KeyError::NotOnCurve`] for a key made by hand that is none.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        let valid = match self {
            VerifyingKey::Ed25519(key) => {
                let key = ed25519_dalek::VerifyingKey::from_bytes(key);
                let key = key.map_err(|_| KeyError::NotOnCurve { curve: "Ed25519" })?;
                let signature = ed25519_dalek::Signature::from_slice(signature);
                signature.is_ok_and(|s| key.verify_strict(message, &s).is_ok())
            }
            VerifyingKey::P256 { x, y } => {
                let key = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, sec1(x, y));
                key.verify(message, signature).is_ok()
            }
            VerifyingKey::P384 { x, y } => {
                let key = UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, sec1(x, y));
                key.verify(message, signature).is_ok()
            }
        };
        if valid {
            Ok(())
        } else {
            Err(KeyError::BadSignature {
                algorithm: self.algorithm(),
            })
        }
    }

    /// Verifies the signature of an object that we did not define, under the algorithm its header names: also the
    /// legacy identifiers, each with its customary curve only.
    ///
    /// # Errors
    /// The algorithm is not one of this key, or as [`VerifyingKey::verify`].
    pub fn verify_third_party(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        if algorithm.fully_specified() != self.algorithm() {
            return Err(KeyError::AlgorithmMismatch {
                expected: self.algorithm().id(),
                found: algorithm.id(),
            });
        }
        self.verify(message, signature)
    }

    fn parse_ecdsa(
        &self,
        algorithm: &'static EcdsaVerificationAlgorithm,
        point: &[u8],
        curve: &'static str,
    ) -> Result<ParsedPublicKey, KeyError> {
        ParsedPublicKey::new(algorithm, point).map_err(|_| KeyError::NotOnCurve { curve })
    }
}

/// An uncompressed SEC 1 point.
fn sec1(x: &[u8], y: &[u8]) -> Vec<u8> {
    [&[SEC1_UNCOMPRESSED], x, y].concat()
}

/// The y coordinate that belongs to `x`: aws-lc solves the curve equation and checks the point; the uncompressed point
/// stands at the end of the SubjectPublicKeyInfo it writes.
fn decompress<const N: usize>(
    algorithm: &'static EcdsaVerificationAlgorithm,
    x: &[u8; N],
    y_is_odd: bool,
    curve: &'static str,
) -> Result<[u8; N], KeyError> {
    let refused = KeyError::NotOnCurve { curve };
    let compressed = [&[0x02 | u8::from(y_is_odd)], x.as_slice()].concat();
    let parsed = ParsedPublicKey::new(algorithm, compressed).map_err(|_| refused.clone())?;
    let spki = parsed.as_der().map_err(|_| refused.clone())?;
    let (rest, y) = spki.as_ref().split_last_chunk::<N>().ok_or_else(|| refused.clone())?;
    let uncompressed = [&[SEC1_UNCOMPRESSED], x.as_slice()].concat();
    if !rest.ends_with(&uncompressed) || y.last().is_none_or(|b| (b & 1 == 1) != y_is_odd) {
        return Err(refused);
    }
    Ok(*y)
}
