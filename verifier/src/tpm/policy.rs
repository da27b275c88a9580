//! PolicyPCR: the authorization policy that binds a key to register values.
//!
//! Source: TCG TPM 2.0 Library Part 3, 23.7 (TPM2_PolicyPCR). Only SHA-256 policies are made or accepted.

use super::algorithm::HashAlg;
use super::selection::{PcrSelection, SelectionError};

/// `TPM_CC_PolicyPCR`.
pub const CC_POLICY_PCR: u32 = 0x0000_017F;
/// The digest an empty SHA-256 policy starts from.
pub const EMPTY_POLICY: [u8; 32] = [0; 32];

/// The SHA-256 authPolicy of a key whose only policy command is PolicyPCR over `selection`, for the values that `value`
/// gives: `H(0³² ‖ TPM_CC_PolicyPCR ‖ TPML_PCR_SELECTION ‖ H(values))`.
///
/// The selection enters as [`PcrSelection::to_tpml`] writes it (bitmaps of three bytes), which is what TSS writes too.
///
/// # Errors
/// [`SelectionError::Value`] if a value is missing or has another length than its bank's digests.
pub fn policy_pcr<'v>(
    selection: &PcrSelection,
    value: impl Fn(HashAlg, u8) -> Option<&'v [u8]>,
) -> Result<[u8; 32], SelectionError> {
    let values = selection.pcr_digest(HashAlg::Sha256, value)?;
    let tpml = selection.to_tpml();
    let digest = HashAlg::Sha256.digest([
        &EMPTY_POLICY,
        CC_POLICY_PCR.to_be_bytes().as_slice(),
        &tpml,
        values.as_ref(),
    ]);
    let mut policy = EMPTY_POLICY;
    policy.copy_from_slice(digest.as_ref());
    Ok(policy)
}
