//! This machine's TPM as a vault for the broker's key-encryption key.

use touchstone_keybroker::config::Config;
use touchstone_keybroker::release::config::KekConfig;
use touchstone_keybroker::release::kek::Vault;

use crate::output::Failure;

/// The vault that the configuration asks for, where it asks for one.
pub fn of(config: &Config) -> Result<Option<Box<dyn Vault>>, Failure> {
    match config.keys.as_ref().and_then(|keys| keys.kek.as_ref()) {
        Some(KekConfig::Tpm(tpm)) => open::vault(tpm),
        _ => Ok(None),
    }
}

#[cfg(not(feature = "tpm"))]
mod open {
    use super::*;

    /// The broker says that this build has no way to a TPM.
    pub(super) fn vault(_: &touchstone_keybroker::release::config::TpmKek) -> Result<Option<Box<dyn Vault>>, Failure> {
        Ok(None)
    }
}

#[cfg(feature = "tpm")]
mod open {
    use touchstone_attest::tpm::{EndorsementKey, SealedBlob, Tpm, TpmError};
    use touchstone_keybroker::release::Secret;
    use touchstone_keybroker::release::config::TpmKek;
    use touchstone_verifier::tpm::HashAlg;

    use super::*;

    struct TpmVault {
        tcti: String,
        registers: Vec<(u16, Vec<u8>)>,
    }

    /// Registers by the name of their bank, as the TPM knows them. Opened when it is used: a broker whose key is sealed
    /// talks to the TPM once, at its start.
    pub(super) fn vault(config: &TpmKek) -> Result<Option<Box<dyn Vault>>, Failure> {
        let mut registers = Vec::new();
        for (bank, indices) in &config.registers {
            let bank = match bank.as_str() {
                "sha256" => HashAlg::Sha256,
                "sha384" => HashAlg::Sha384,
                "sha512" => HashAlg::Sha512,
                _ => {
                    return Err(Failure::new(format!("keys.kek.tpm.registers: {bank:?} is no bank"))
                        .hint("sha256, sha384 or sha512"));
                }
            };
            registers.push((bank.tpm_id(), indices.clone()));
        }
        if registers.iter().all(|(_, indices)| indices.is_empty()) {
            return Err(Failure::new("keys.kek.tpm.registers names no register").hint("{ sha256 = [7] }"));
        }
        Ok(Some(Box::new(TpmVault {
            tcti: config.tcti.clone(),
            registers,
        })))
    }

    impl TpmVault {
        fn open(&self) -> Result<(Tpm, EndorsementKey), TpmError> {
            let mut tpm = Tpm::open(&self.tcti)?;
            let ek = tpm.best_endorsement_key()?;
            Ok((tpm, ek))
        }
    }

    fn words(error: TpmError) -> String {
        format!("{error} ({})", error.code())
    }

    impl Vault for TpmVault {
        fn seal(&self, secret: &[u8]) -> Result<Vec<u8>, String> {
            let (mut tpm, ek) = self.open().map_err(words)?;
            let sealed = tpm.seal(&ek, &self.registers, secret).map_err(words)?;
            Ok(sealed.encode())
        }

        fn unseal(&self, sealed: &[u8]) -> Result<Secret, String> {
            let blob = SealedBlob::decode(sealed).map_err(words)?;
            let (mut tpm, ek) = self.open().map_err(words)?;
            tpm.unseal(&ek, &blob).map_err(words)
        }
    }
}
