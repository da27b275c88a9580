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

#[cfg(test)]
mod tests {
    use super::*;

    /// Registers as extended from zero with a digest whose last byte is `last` (decimal digits, as tpm2_pcrextend read it).
    fn extended(bank: HashAlg, last: u8) -> Vec<u8> {
        let mut event = vec![0; bank.digest_len()];
        *event.last_mut().unwrap() = last;
        bank.digest([vec![0; bank.digest_len()].as_slice(), &event])
            .as_ref()
            .to_vec()
    }

    /// Computed by `tpm2_policypcr` 5.4 in a trial session on swtpm 0.7.1, after
    /// `tpm2_pcrextend 0:sha256=0…1 7:sha256=0…2 4:sha1=0…3`.
    #[test]
    fn equals_what_a_tpm_computes() {
        let (zero, pcr0, pcr7) = (vec![0; 32], extended(HashAlg::Sha256, 1), extended(HashAlg::Sha256, 2));
        let pcr4_sha1 = extended(HashAlg::Sha1, 3);
        assert_eq!(
            hex::encode(&pcr0),
            "90f4b39548df55ad6187a1d20d731ecee78c545b94afd16f42ef7592d99cd365"
        );
        let value = |bank, register| match (bank, register) {
            (HashAlg::Sha256, 0) => Some(pcr0.as_slice()),
            (HashAlg::Sha256, 7) => Some(pcr7.as_slice()),
            (HashAlg::Sha256, _) => Some(zero.as_slice()),
            (HashAlg::Sha1, 4) => Some(pcr4_sha1.as_slice()),
            _ => None,
        };
        let (sha1, sha256) = ((HashAlg::Sha1, vec![4]), (HashAlg::Sha256, vec![0, 7]));
        for (selection, expected) in [
            (
                vec![(HashAlg::Sha256, (0..=7).collect())],
                "c34741d3b01d5fe7b4c57008b2e94524bab80529ae7759f663b06d62fe5dc722",
            ),
            (
                vec![sha1.clone(), sha256.clone()],
                "2add074f6c2e344a60a96097d9418fb940e7342acbf504feb217a3437b14c99d",
            ),
            (
                vec![sha256, sha1],
                "1a3c5f33bca7b556064383eb8bb70d4bc904053e88b883fef1cea6dfa7b2cc69",
            ),
        ] {
            let selection = PcrSelection::new(selection).unwrap();
            assert_eq!(
                hex::encode(policy_pcr(&selection, value).unwrap()),
                expected,
                "{selection}"
            );
        }
    }
}
