//! The private half of a receive key: whatever can make a shared secret with an ephemeral public key.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use zeroize::Zeroizing;

use crate::key::{KID_LEN, KeyError, VerifyingKey};

/// First byte of an uncompressed point (SEC 1 section 2.3.3).
const UNCOMPRESSED: u8 = 0x04;

/// Length of a shared secret: the x coordinate of a P-256 point, of fixed width (RFC 9053 section 6.3.1).
pub const SECRET_LEN: usize = 32;

/// A point of P-256, affine coordinates, big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The x coordinate.
    pub x: [u8; 32],
    /// The y coordinate.
    pub y: [u8; 32],
}

impl Point {
    /// The uncompressed encoding of SEC 1.
    pub fn sec1(&self) -> [u8; 65] {
        let mut out = [UNCOMPRESSED; 65];
        for (to, from) in out.iter_mut().skip(1).zip(self.x.iter().chain(&self.y)) {
            *to = *from;
        }
        out
    }
}

/// Why there is no shared secret. Nothing of the key is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the receive key could not agree on a secret: {0}")]
pub struct AgreementError(pub String);

/// A private P-256 key that agrees on secrets for us: in memory, or in a TPM (TPM2_ECDH_ZGen).
pub trait Agreement {
    /// The id of the public half: see [`VerifyingKey::kid`].
    fn kid(&self) -> [u8; KID_LEN];

    /// The x coordinate of this key times `ephemeral`, a point that is on the curve.
    ///
    /// # Errors
    /// The device refused or failed.
    fn agree(&self, ephemeral: &Point) -> Result<Zeroizing<[u8; SECRET_LEN]>, AgreementError>;
}

/// A receive key in memory: for confidential VMs, whose memory is encrypted. Wiped when dropped.
pub struct SoftwareReceiveKey {
    key: PrivateKey,
    public: VerifyingKey,
}

impl SoftwareReceiveKey {
    /// A new key.
    ///
    /// # Errors
    /// The library could not make one.
    pub fn generate() -> Result<SoftwareReceiveKey, KeyError> {
        let key = PrivateKey::generate(&ECDH_P256).map_err(|_| KeyError::NotOnCurve { curve: "P-256" })?;
        Self::new(key)
    }

    /// The key with this private scalar, big-endian.
    ///
    /// # Errors
    /// Zero, or not below the order of the group.
    pub fn from_scalar(scalar: &[u8; 32]) -> Result<SoftwareReceiveKey, KeyError> {
        let key =
            PrivateKey::from_private_key(&ECDH_P256, scalar).map_err(|_| KeyError::NotOnCurve { curve: "P-256" })?;
        Self::new(key)
    }

    /// The public half.
    pub fn public(&self) -> &VerifyingKey {
        &self.public
    }

    pub(super) fn new(key: PrivateKey) -> Result<SoftwareReceiveKey, KeyError> {
        let refused = KeyError::NotOnCurve { curve: "P-256" };
        let point = key.compute_public_key().map_err(|_| refused.clone())?;
        let (x, y) = point
            .as_ref()
            .strip_prefix(&[UNCOMPRESSED])
            .and_then(|point| point.split_at_checked(32))
            .ok_or_else(|| refused.clone())?;
        let x = x.try_into().map_err(|_| refused.clone())?;
        let y = y.try_into().map_err(|_| refused)?;
        let public = VerifyingKey::p256(x, y)?;
        Ok(SoftwareReceiveKey { key, public })
    }
}

impl std::fmt::Debug for SoftwareReceiveKey {
    /// Shows the public half only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoftwareReceiveKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl Agreement for SoftwareReceiveKey {
    fn kid(&self) -> [u8; KID_LEN] {
        self.public.kid()
    }

    fn agree(&self, ephemeral: &Point) -> Result<Zeroizing<[u8; SECRET_LEN]>, AgreementError> {
        let peer = UnparsedPublicKey::new(&ECDH_P256, ephemeral.sec1());
        let failed = || AgreementError("the ephemeral key is not a point of P-256".to_owned());
        agree(&self.key, peer, failed(), |secret| {
            <[u8; SECRET_LEN]>::try_from(secret)
                .map(Zeroizing::new)
                .map_err(|_| failed())
        })
    }
}
