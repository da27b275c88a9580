//! The ID block and its authentication: which launch digest, policy and version a guest's owner signed (AMD 56860, 8.18,
//! tables 73 to 75); little-endian. Firmware puts digests of the keys into each report.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use super::{DIGEST_LEN, LaunchDigest, sha384};
use crate::bytes::{array_at, u32_at};
use crate::error::ArtefactError;

/// Length of an ID block, in bytes.
pub const ID_BLOCK_LEN: usize = 96;
/// Length of the authentication, in bytes.
pub const ID_AUTH_LEN: usize = 4096;

/// Version of the ID block's format.
const VERSION: u32 = 1;
/// Algorithm: ECDSA P-384 with SHA-384.
const P384_SHA384: u32 = 1;
/// Curve: P-384.
const P384: u32 = 2;
/// Offsets in the authentication.
const ID_BLOCK_SIG: usize = 0x40;
const ID_KEY: usize = 0x240;
const ID_KEY_SIG: usize = 0x680;
const AUTHOR_KEY: usize = 0x880;
/// Length of a key, in bytes: curve 4, x 72, y 72, reserved.
const KEY_LEN: usize = 0x404;
/// Length of a signature, in bytes: r 72, s 72, reserved.
const SIGNATURE_LEN: usize = 0x200;
/// Length of a number of P-384, and of the field that holds it, in bytes.
const NUMBER: usize = 48;
const FIELD: usize = 72;

/// What the owner of a guest signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdBlock {
    /// The launch digest: with another one the guest does not start.
    pub launch_digest: LaunchDigest,
    /// FAMILY_ID of the reports.
    pub family_id: [u8; 16],
    /// IMAGE_ID of the reports.
    pub image_id: [u8; 16],
    /// GUEST_SVN of the reports.
    pub guest_svn: u32,
    /// POLICY of the reports.
    pub policy: u64,
    bytes: [u8; ID_BLOCK_LEN],
}

impl IdBlock {
    /// Reads an ID block of exactly [`ID_BLOCK_LEN`] bytes.
    ///
    /// # Errors
    /// [`ArtefactError::Malformed`] for another length or version.
    pub fn parse(bytes: &[u8]) -> Result<Self, ArtefactError> {
        let wrong = |expected: &str, found: String| ArtefactError::malformed("ID block", expected, found);
        let bytes: [u8; ID_BLOCK_LEN] = bytes
            .try_into()
            .map_err(|_| wrong("96 bytes", format!("{} bytes", bytes.len())))?;
        let version = u32_at(&bytes, 80).unwrap_or_default();
        if version != VERSION {
            return Err(wrong("version 1", format!("version {version}")));
        }
        Ok(Self {
            launch_digest: array_at(&bytes, 0).unwrap_or([0; DIGEST_LEN]),
            family_id: array_at(&bytes, 48).unwrap_or_default(),
            image_id: array_at(&bytes, 64).unwrap_or_default(),
            guest_svn: u32_at(&bytes, 84).unwrap_or_default(),
            policy: array_at(&bytes, 88).map(u64::from_le_bytes).unwrap_or_default(),
            bytes,
        })
    }
}

/// Who signed an ID block: what firmware puts into the reports of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signers {
    /// ID_KEY_DIGEST: SHA-384 of the key that signed the block.
    pub id_key_digest: LaunchDigest,
    /// AUTHOR_KEY_DIGEST: SHA-384 of the key that signed the ID key, where there is one.
    pub author_key_digest: Option<LaunchDigest>,
}

/// Checks the authentication (exactly [`ID_AUTH_LEN`] bytes) of an ID block, as firmware does at launch.
///
/// # Errors
/// [`ArtefactError::Malformed`] for another length, algorithm or curve, and for signatures that do not verify.
pub fn verify(block: &IdBlock, auth: &[u8]) -> Result<Signers, ArtefactError> {
    let wrong = |expected: &str, found: String| ArtefactError::malformed("ID authentication", expected, found);
    if auth.len() != ID_AUTH_LEN {
        return Err(wrong("4096 bytes", format!("{} bytes", auth.len())));
    }
    let (id, author) = (u32_at(auth, 0), u32_at(auth, 4));
    if id != Some(P384_SHA384) || !matches!(author, Some(0 | P384_SHA384)) {
        return Err(wrong("ECDSA P-384 with SHA-384", format!("{id:?} and {author:?}")));
    }
    let id_key = auth.get(ID_KEY..ID_KEY + KEY_LEN).unwrap_or_default();
    check(id_key, &block.bytes, auth.get(ID_BLOCK_SIG..)).ok_or_else(|| {
        wrong(
            "a signature of the ID key over the ID block",
            "another, or another kind of key".into(),
        )
    })?;
    let author_key = auth.get(AUTHOR_KEY..AUTHOR_KEY + KEY_LEN).unwrap_or_default();
    let author_key_digest = match author_key.iter().all(|byte| *byte == 0) {
        true => None,
        false => {
            check(author_key, id_key, auth.get(ID_KEY_SIG..)).ok_or_else(|| {
                wrong(
                    "a signature of the author key over the ID key",
                    "another, or another kind of key".into(),
                )
            })?;
            Some(sha384(&[author_key]))
        }
    };
    Ok(Signers {
        id_key_digest: sha384(&[id_key]),
        author_key_digest,
    })
}

/// Whether the key of this structure made the signature that `at` begins with.
fn check(key: &[u8], message: &[u8], at: Option<&[u8]>) -> Option<()> {
    if u32_at(key, 0)? != P384 || key.get(4 + 2 * FIELD..)?.iter().any(|byte| *byte != 0) {
        return None;
    }
    let signature = at?.get(..SIGNATURE_LEN)?;
    if signature.get(2 * FIELD..)?.iter().any(|byte| *byte != 0) {
        return None;
    }
    let point = [&[0x04][..], &number(key, 4)?, &number(key, 4 + FIELD)?].concat();
    let fixed = [number(signature, 0)?, number(signature, FIELD)?].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point);
    key.verify(message, &fixed).ok()
}

/// The number in the field at `at`, big-endian.
fn number(bytes: &[u8], at: usize) -> Option<Vec<u8>> {
    let (number, rest) = bytes.get(at..at + FIELD)?.split_at_checked(NUMBER)?;
    rest.iter()
        .all(|byte| *byte == 0)
        .then(|| number.iter().rev().copied().collect())
}
