//! The receive key: what released secrets are encrypted to.
//!
//! It is made as the session signing key is ([`super::session_key`]): under a NULL-hierarchy primary, so that it dies with
//! this boot, and with PolicyPCR over the boot registers as its only authorization. It can do one thing, agree on a
//! secret (TPM2_ECDH_ZGen, TPM 2.0 Library part 3, 14.5), and only while those registers are as they were.

use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder};
use tss_esapi::constants::SessionType;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{
    Digest, EccParameter, EccPoint, EccScheme, HashScheme, PcrSelectionList, Public, PublicEccParametersBuilder,
    SymmetricDefinitionObject,
};
use zeroize::Zeroizing;

use super::ek::EndorsementKey;
use super::error::{TpmError, failed, kind};
use super::selection::{Selection, to_tpm};
use super::session_key::{P256_WIDTH, ecc_template, joined};
use super::{Place, Tpm};

/// A key that agrees on secrets; it lives in the TPM for this boot, usable only while its PCRs are as they were.
#[derive(Debug, Clone)]
pub struct ReceiveKey {
    place: Place,
    ek: Place,
    public: Vec<u8>,
    name: Vec<u8>,
    point: [u8; 2 * P256_WIDTH],
    registers: PcrSelectionList,
}

impl ReceiveKey {
    /// Its public area, TPMT_PUBLIC.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Its Name: nameAlg and digest of the public area.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The public point, x then y, 32 bytes each, big-endian.
    #[must_use]
    pub fn point(&self) -> &[u8; 64] {
        &self.point
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

impl Tpm {
    /// Makes a P-256 key for ECDH whose use is bound to the present values of `registers`.
    ///
    /// Attributes: fixedTPM, fixedParent, sensitiveDataOrigin, decrypt, and nothing else (`docs/protocol.md`, section 2).
    ///
    /// # Errors
    /// [`TpmError::SelectionInvalid`], or what the TPM refuses.
    pub fn create_receive_key(&mut self, ek: &EndorsementKey, registers: &Selection) -> Result<ReceiveKey, TpmError> {
        let registers = to_tpm(registers)?;
        let ek = ek.place().clone();
        let (place, public, name, point) = self.operation(|tpm| {
            let template = receiving_template(tpm.pcr_policy(&registers)?)?;
            tpm.with_key(&ek, |tpm, salt| {
                tpm.with_null_primary(|tpm, parent| tpm.make(salt, parent, template))
            })
        })?;
        Ok(ReceiveKey {
            place,
            ek,
            public,
            name,
            point,
            registers,
        })
    }

    /// The x coordinate of this key times the point (`x`, `y`), of fixed width: TPM2_ECDH_ZGen under a PolicyPCR session
    /// that encrypts the answer on its way out of the TPM.
    ///
    /// # Errors
    /// [`TpmError::PolicyCheckFailed`] when one of its registers has changed, [`TpmError::KeyLost`] after a TPM reset.
    pub fn agree(
        &mut self,
        key: &ReceiveKey,
        x: &[u8; 32],
        y: &[u8; 32],
    ) -> Result<Zeroizing<[u8; P256_WIDTH]>, TpmError> {
        let parameter = |bytes: &[u8; 32]| EccParameter::try_from(bytes.as_slice()).map_err(failed("point"));
        let point = EccPoint::new(parameter(x)?, parameter(y)?);
        let shared = self.operation(|tpm| {
            tpm.with_key(&key.ek, |tpm, salt| {
                tpm.with_key(&key.place, |tpm, receiver| {
                    tpm.with_session(salt, SessionType::Policy, |tpm, session| {
                        tpm.policy_pcr(session, &key.registers)?;
                        tpm.ctx
                            .execute_with_session(Some(session), |ctx| ctx.ecdh_z_gen(receiver, point))
                            .map_err(|e| match kind(&e) {
                                Some(Kind::PolicyFail | Kind::PcrChanged) => TpmError::PolicyCheckFailed,
                                _ => failed("TPM2_ECDH_ZGen")(e),
                            })
                    })
                })
            })
        })?;
        let both = joined(shared.x().value(), shared.y().value()).map(Zeroizing::new);
        let both = both.ok_or(TpmError::KeyUnsuitable("the shared point does not fit P-256"))?;
        let mut secret = Zeroizing::new([0; P256_WIDTH]);
        secret.iter_mut().zip(both.iter()).for_each(|(to, from)| *to = *from);
        Ok(secret)
    }
}

fn receiving_attributes() -> Result<ObjectAttributes, TpmError> {
    ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_decrypt(true)
        .build()
        .map_err(failed("receive key template"))
}

fn receiving_template(policy: Digest) -> Result<Public, TpmError> {
    ecc_template(
        receiving_attributes()?,
        policy,
        PublicEccParametersBuilder::new()
            .with_symmetric(SymmetricDefinitionObject::Null)
            .with_ecc_scheme(EccScheme::EcDh(HashScheme::new(HashingAlgorithm::Sha256)))
            .with_is_decryption_key(true),
    )
}
