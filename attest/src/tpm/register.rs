//! Extending a register, in every bank the TPM has.

use std::collections::BTreeMap;

use touchstone_verifier::tpm::HashAlg;
use tss_esapi::constants::{CapabilityType, SessionType};
use tss_esapi::handles::{PcrHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{CapabilityData, Digest, DigestValues, SymmetricDefinition};

use super::Tpm;
use super::ek::EndorsementKey;
use super::error::{TpmError, failed};
use super::selection::from_tpm;

impl Tpm {
    /// The banks that hold `register`, in the order of their TPM_ALG_ID. Banks of algorithms unknown here are left out: no
    /// policy can ask for them.
    ///
    /// # Errors
    /// [`TpmError::Refused`] when the TPM refuses.
    pub fn banks_of(&mut self, register: u8) -> Result<Vec<HashAlg>, TpmError> {
        self.operation(|tpm| {
            let data = tpm.ctx.get_capability(CapabilityType::AssignedPcr, 0, 1);
            let (data, _) = data.map_err(failed("TPM2_GetCapability"))?;
            let CapabilityData::AssignedPcr(banks) = data else {
                return Err(TpmError::Refused {
                    command: "TPM2_GetCapability",
                    response: "another capability".into(),
                });
            };
            let assigned = from_tpm(banks);
            let has = |bank: &HashAlg| {
                let of_bank = |(id, registers): &(u16, Vec<u8>)| *id == bank.tpm_id() && registers.contains(&register);
                assigned.iter().any(of_bank)
            };
            Ok(HashAlg::ALL.into_iter().filter(has).collect())
        })
    }

    /// The values of `register`, in every bank that is known here.
    ///
    /// # Errors
    /// [`TpmError::Refused`] when the TPM refuses.
    pub fn register(&mut self, register: u8) -> Result<BTreeMap<HashAlg, Vec<u8>>, TpmError> {
        let mut values = BTreeMap::new();
        for bank in self.banks_of(register)? {
            let read = self.pcr_values(&[(bank.tpm_id(), vec![register])])?;
            let value = read.into_iter().flat_map(|(_, values)| values).next();
            let (_, value) = value.ok_or(TpmError::BankAbsent {
                algorithm: bank.tpm_id(),
            })?;
            values.insert(bank, value);
        }
        Ok(values)
    }

    /// Extends `register` in every bank by what `digest` gives for it, all banks in one command. The answer is
    /// authenticated by a session salted to `ek`: whoever taps the bus cannot keep the command from the TPM and say that
    /// it was done.
    ///
    /// # Errors
    /// [`TpmError::BankAbsent`] where no bank has it, or for a digest of another length than its bank's; [`TpmError`].
    pub fn extend(
        &mut self,
        ek: &EndorsementKey,
        register: u8,
        digest: impl Fn(HashAlg) -> Vec<u8>,
    ) -> Result<(), TpmError> {
        let banks = self.banks_of(register)?;
        let handle = PcrHandle::try_from(u32::from(register)).map_err(failed("a register"))?;
        let mut values = DigestValues::new();
        let absent = |bank: &HashAlg| TpmError::BankAbsent {
            algorithm: bank.tpm_id(),
        };
        if banks.is_empty() {
            return Err(absent(&HashAlg::Sha256));
        }
        for bank in &banks {
            let digest = digest(*bank);
            if digest.len() != bank.digest_len() {
                return Err(absent(bank));
            }
            let algorithm = match bank {
                HashAlg::Sha1 => HashingAlgorithm::Sha1,
                HashAlg::Sha256 => HashingAlgorithm::Sha256,
                HashAlg::Sha384 => HashingAlgorithm::Sha384,
                HashAlg::Sha512 => HashingAlgorithm::Sha512,
            };
            let digest = Digest::try_from(digest.as_slice()).map_err(failed("a digest"))?;
            values.set(algorithm, digest);
        }
        self.operation(|tpm| {
            tpm.with_key(ek.place(), |tpm, salt| {
                let session = tpm
                    .ctx
                    .start_auth_session(
                        Some(salt),
                        None,
                        None,
                        SessionType::Hmac,
                        SymmetricDefinition::AES_128_CFB,
                        HashingAlgorithm::Sha256,
                    )
                    .map_err(failed("TPM2_StartAuthSession"))?
                    .ok_or(TpmError::Library {
                        command: "TPM2_StartAuthSession",
                        problem: "no session".into(),
                    })?;
                // No parameter encryption: the command has no parameter that could be encrypted.
                tpm.flushing(SessionHandle::from(session).into(), |tpm| {
                    tpm.ctx
                        .execute_with_session(Some(session), |ctx| ctx.pcr_extend(handle, values))
                        .map_err(failed("TPM2_PCR_Extend"))
                })
            })
        })
    }
}
