//! A few bytes sealed to this TPM in its present state: they come out again only in this TPM, and only while the chosen
//! registers are as they were (PolicyPCR).
//!
//! The sealed object hangs under the owner hierarchy's storage primary, which is derived anew from the hierarchy's seed:
//! what is kept outside survives restarts of machine and TPM, and dies with a TPM2_Clear.

use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder};
use tss_esapi::constants::SessionType;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Digest, KeyedHashScheme, Private, Public, PublicBuilder, PublicKeyedHashParameters, SensitiveData,
};
use tss_esapi::traits::{Marshall as _, UnMarshall as _};
use zeroize::Zeroizing;

use super::Tpm;
use super::ek::EndorsementKey;
use super::error::{TpmError, failed, kind};
use super::selection::{Selection, to_tpm};
use super::session_key::storage_template;

/// The first bytes of a sealed blob, with the version of the form.
const MAGIC: &[u8; 8] = b"TSSB\0\0\0\x01";

/// Most bytes that are sealed: what every TPM takes (TPM2 part 2, MAX_SYM_DATA).
pub const MAX_SEALED: usize = 128;

/// What was sealed, as it is kept outside: only the TPM it was sealed in can open it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBlob {
    /// The registers it is bound to.
    pub registers: Vec<(u16, Vec<u8>)>,
    public: Vec<u8>,
    private: Vec<u8>,
}

impl SealedBlob {
    /// The bytes to keep: magic number, banks (count, then algorithm and a 24-bit map each), public and private area.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(u8::try_from(self.registers.len()).unwrap_or(u8::MAX));
        for (bank, registers) in &self.registers {
            bytes.extend_from_slice(&bank.to_be_bytes());
            let map = registers.iter().fold(0u32, |map, register| {
                map | 1u32.checked_shl((*register).into()).unwrap_or(0)
            });
            bytes.extend_from_slice(&map.to_be_bytes());
        }
        for part in [&self.public, &self.private] {
            bytes.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// Reads what [`SealedBlob::encode`] wrote.
    ///
    /// # Errors
    /// [`TpmError::BlobRejected`]
    pub fn decode(bytes: &[u8]) -> Result<Self, TpmError> {
        fn take<'b, const N: usize>(rest: &mut &'b [u8]) -> Result<&'b [u8; N], TpmError> {
            let (head, after) = rest
                .split_first_chunk::<N>()
                .ok_or(TpmError::BlobRejected("cut short"))?;
            *rest = after;
            Ok(head)
        }
        fn part(rest: &mut &[u8]) -> Result<Vec<u8>, TpmError> {
            let length = usize::from(u16::from_be_bytes(*take(rest)?));
            let (part, after) = rest
                .split_at_checked(length)
                .ok_or(TpmError::BlobRejected("cut short"))?;
            *rest = after;
            Ok(part.to_vec())
        }
        let mut rest = bytes
            .strip_prefix(MAGIC)
            .ok_or(TpmError::BlobRejected("not a sealed blob"))?;
        let [banks] = *take::<1>(&mut rest)?;
        let mut registers = Vec::new();
        for _ in 0..banks {
            let bank = u16::from_be_bytes(*take(&mut rest)?);
            let map = u32::from_be_bytes(*take(&mut rest)?);
            registers.push((bank, (0..24).filter(|register| map & (1 << register) != 0).collect()));
        }
        let blob = Self {
            registers,
            public: part(&mut rest)?,
            private: part(&mut rest)?,
        };
        if rest.is_empty() {
            Ok(blob)
        } else {
            Err(TpmError::BlobRejected("bytes left over"))
        }
    }
}

impl Tpm {
    /// Seals `secret` (at most [`MAX_SEALED`] bytes) to this TPM with the present values of `registers`. Sessions are
    /// salted to `ek`, so that the secret does not cross the bus in clear.
    ///
    /// # Errors
    /// [`TpmError::SelectionInvalid`], [`TpmError::AuthorizationRequired`] where the owner hierarchy has a password.
    pub fn seal(&mut self, ek: &EndorsementKey, registers: &Selection, secret: &[u8]) -> Result<SealedBlob, TpmError> {
        let selection = to_tpm(registers)?;
        let data = SensitiveData::try_from(secret).map_err(failed("sensitive data"))?;
        let made = self.operation(|tpm| {
            let template = sealing_template(tpm.pcr_policy(&selection)?)?;
            tpm.with_key(ek.place(), |tpm, salt| {
                tpm.with_owner_primary(|tpm, parent| {
                    tpm.with_session(salt, SessionType::Hmac, |tpm, session| {
                        tpm.ctx
                            .execute_with_session(Some(session), |ctx| {
                                ctx.create(parent, template, None, Some(data), None, None)
                            })
                            .map_err(failed("TPM2_Create"))
                    })
                })
            })
        })?;
        Ok(SealedBlob {
            registers: registers.to_vec(),
            public: made.out_public.marshall().map_err(failed("TPMT_PUBLIC"))?,
            private: made.out_private.value().to_vec(),
        })
    }

    /// Opens what was sealed.
    ///
    /// # Errors
    /// [`TpmError::PolicyCheckFailed`] when one of its registers has another value, [`TpmError::BlobRejected`] for what
    /// another TPM sealed, or this one before it was cleared.
    pub fn unseal(&mut self, ek: &EndorsementKey, blob: &SealedBlob) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let selection = to_tpm(&blob.registers)?;
        let public =
            Public::unmarshall(&blob.public).map_err(|_| TpmError::BlobRejected("its public area is malformed"))?;
        let private = Private::try_from(blob.private.as_slice())
            .map_err(|_| TpmError::BlobRejected("its private area is too long"))?;
        self.operation(|tpm| {
            tpm.with_key(ek.place(), |tpm, salt| {
                let object = tpm.with_owner_primary(|tpm, parent| {
                    tpm.with_session(salt, SessionType::Hmac, |tpm, session| {
                        tpm.ctx
                            .execute_with_session(Some(session), |ctx| ctx.load(parent, private, public))
                            .map_err(|e| match kind(&e) {
                                Some(Kind::Integrity | Kind::Size | Kind::Insufficient | Kind::Binding) => {
                                    TpmError::BlobRejected("the TPM does not know it as its own")
                                }
                                _ => failed("TPM2_Load")(e),
                            })
                    })
                })?;
                tpm.flushing(object.into(), |tpm| {
                    tpm.with_session(salt, SessionType::Policy, |tpm, session| {
                        tpm.policy_pcr(session, &selection)?;
                        tpm.ctx
                            .execute_with_session(Some(session), |ctx| ctx.unseal(object.into()))
                            .map(|data| Zeroizing::new(data.value().to_vec()))
                            .map_err(|e| match kind(&e) {
                                Some(Kind::PolicyFail | Kind::PcrChanged) => TpmError::PolicyCheckFailed,
                                _ => failed("TPM2_Unseal")(e),
                            })
                    })
                })
            })
        })
    }

    /// Runs `f` under the owner hierarchy's storage primary, which lives only as long.
    fn with_owner_primary<T>(
        &mut self,
        f: impl FnOnce(&mut Self, KeyHandle) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let template = storage_template()?;
        let primary = self
            .ctx
            .execute_with_session(Some(AuthSession::Password), |ctx| {
                ctx.create_primary(Hierarchy::Owner, template, None, None, None, None)
            })
            .map_err(failed("TPM2_CreatePrimary"))?
            .key_handle;
        self.flushing(primary.into(), |tpm| f(tpm, primary))
    }
}

fn sealing_template(policy: Digest) -> Result<Public, TpmError> {
    let attributes: ObjectAttributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_no_da(true)
        .build()
        .map_err(failed("sealing template"))?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
        .map_err(failed("sealing template"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_read_as_it_was_written() {
        let blob = SealedBlob {
            registers: vec![(0x0b, vec![0, 7, 23]), (0x0c, vec![4])],
            public: vec![1; 40],
            private: vec![2; 90],
        };
        let bytes = blob.encode();
        assert_eq!(SealedBlob::decode(&bytes).unwrap(), blob);
        for end in 0..bytes.len() {
            assert!(SealedBlob::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(SealedBlob::decode(&[bytes, vec![0]].concat()).is_err());
    }
}
