//! The session signing key: what an authorization is bound to (`cnf`).
//!
//! It hangs under a primary key of the NULL hierarchy, whose seed changes at each TPM reset, so it cannot outlive this
//! boot; and its only authorization is PolicyPCR over the boot registers, so it cannot be used in another state than
//! it was made in. It leaves the TPM only encrypted by the TPM for itself.

use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder};
use tss_esapi::constants::SessionType;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::handles::{KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Digest, EccPoint, EccScheme, HashScheme, HashcheckTicket, KeyDerivationFunctionScheme, PcrSelectionList, Public,
    PublicBuilder, PublicEccParametersBuilder, Signature, SignatureScheme, SymmetricDefinition,
    SymmetricDefinitionObject,
};
use tss_esapi::traits::Marshall as _;
use tss_esapi::tss2_esys::TPMT_TK_HASHCHECK;

use super::ek::EndorsementKey;
use super::error::{TpmError, failed, kind};
use super::selection::{Selection, to_tpm};
use super::{Place, Tpm};

/// The width of a P-256 coordinate or scalar, in bytes.
pub(super) const P256_WIDTH: usize = 32;

/// A signing key that lives in the TPM for this boot, usable only while its PCRs are as they were.
#[derive(Debug, Clone)]
pub struct SessionKey {
    place: Place,
    ek: Place,
    public: Vec<u8>,
    name: Vec<u8>,
    point: [u8; 2 * P256_WIDTH],
    registers: PcrSelectionList,
}

impl SessionKey {
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
    /// Makes a P-256 ECDSA-SHA256 signing key whose use is bound to the present values of `registers`.
    ///
    /// Attributes: fixedTPM, fixedParent, sensitiveDataOrigin, sign, and nothing else. In particular userWithAuth is
    /// clear (only the policy authorizes) and adminWithPolicy is clear (with it set TPM2_Certify fails with 0x124).
    /// Its sessions are salted to `ek`.
    ///
    /// # Errors
    /// [`TpmError::SelectionInvalid`], or what the TPM refuses.
    pub fn create_session_key(&mut self, ek: &EndorsementKey, registers: &Selection) -> Result<SessionKey, TpmError> {
        let registers = to_tpm(registers)?;
        let ek = ek.place().clone();
        let (place, public, name, point) = self.operation(|tpm| {
            let template = signing_template(tpm.pcr_policy(&registers)?)?;
            tpm.with_key(&ek, |tpm, salt| {
                tpm.with_null_primary(|tpm, parent| tpm.make(salt, parent, template))
            })
        })?;
        Ok(SessionKey {
            place,
            ek,
            public,
            name,
            point,
            registers,
        })
    }

    /// Signs a SHA-256 digest with a session key: r then s, 32 bytes each, big-endian.
    ///
    /// # Errors
    /// [`TpmError::PolicyCheckFailed`] when one of its registers has changed, [`TpmError::KeyLost`] after a TPM reset.
    pub fn session_sign(&mut self, key: &SessionKey, digest: &[u8; 32]) -> Result<[u8; 64], TpmError> {
        let digest = Digest::try_from(digest.as_slice()).map_err(failed("digest"))?;
        let signature = self.operation(|tpm| {
            tpm.with_key(&key.ek, |tpm, salt| {
                tpm.with_key(&key.place, |tpm, signer| {
                    tpm.with_session(salt, SessionType::Policy, |tpm, session| {
                        tpm.policy_pcr(session, &key.registers)?;
                        tpm.ctx
                            .execute_with_session(Some(session), |ctx| {
                                ctx.sign(signer, digest, SignatureScheme::Null, no_ticket()?)
                            })
                            .map_err(|e| match kind(&e) {
                                Some(Kind::PolicyFail | Kind::PcrChanged) => TpmError::PolicyCheckFailed,
                                _ => failed("TPM2_Sign")(e),
                            })
                    })
                })
            })
        })?;
        match signature {
            Signature::EcDsa(signature) => {
                let (r, s) = (signature.signature_r().value(), signature.signature_s().value());
                joined(r, s).ok_or(TpmError::KeyUnsuitable("its signature does not fit P-256"))
            }
            _ => Err(TpmError::KeyUnsuitable("it does not sign with ECDSA")),
        }
    }

    /// The policy digest of PolicyPCR over the present values of `registers`, computed by the TPM (trial session).
    pub(super) fn pcr_policy(&mut self, registers: &PcrSelectionList) -> Result<Digest, TpmError> {
        let session = self
            .ctx
            .start_auth_session(
                None,
                None,
                None,
                SessionType::Trial,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
            .map_err(failed("TPM2_StartAuthSession"))?
            .ok_or(TpmError::Library {
                command: "TPM2_StartAuthSession",
                problem: "no session".into(),
            })?;
        self.flushing(SessionHandle::from(session).into(), |tpm| {
            tpm.policy_pcr(session, registers)?;
            let policy = PolicySession::try_from(session).map_err(failed("policy session"))?;
            tpm.ctx
                .policy_get_digest(policy)
                .map_err(failed("TPM2_PolicyGetDigest"))
        })
    }

    /// PolicyPCR with the present values, whatever they are: whether they are the right ones shows when the key is
    /// used.
    pub(super) fn policy_pcr(&mut self, session: AuthSession, registers: &PcrSelectionList) -> Result<(), TpmError> {
        let policy = PolicySession::try_from(session).map_err(failed("policy session"))?;
        self.ctx
            .policy_pcr(policy, Digest::default(), registers.clone())
            .map_err(failed("TPM2_PolicyPCR"))
    }

    /// Runs `f` under a storage primary of the NULL hierarchy, which lives only as long.
    pub(super) fn with_null_primary<T>(
        &mut self,
        f: impl FnOnce(&mut Self, KeyHandle) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let template = storage_template()?;
        let primary = self
            .ctx
            .execute_with_session(Some(AuthSession::Password), |ctx| {
                ctx.create_primary(Hierarchy::Null, template, None, None, None, None)
            })
            .map_err(failed("TPM2_CreatePrimary"))?
            .key_handle;
        self.flushing(primary.into(), |tpm| f(tpm, primary))
    }

    pub(super) fn make(&mut self, salt: KeyHandle, parent: KeyHandle, template: Public) -> Result<Made, TpmError> {
        self.with_session(salt, SessionType::Hmac, |tpm, session| {
            let made = tpm
                .ctx
                .execute_with_session(Some(session), |ctx| {
                    ctx.create(parent, template, None, None, None, None)
                })
                .map_err(failed("TPM2_Create"))?;
            let public = made.out_public;
            let point = match &public {
                Public::Ecc { unique, .. } => joined(unique.x().value(), unique.y().value()),
                _ => None,
            };
            let point = point.ok_or(TpmError::KeyUnsuitable("the TPM made something else than a P-256 key"))?;
            let area = public.marshall().map_err(failed("TPMT_PUBLIC"))?;
            let key = tpm
                .ctx
                .execute_with_session(Some(session), |ctx| ctx.load(parent, made.out_private, public))
                .map_err(failed("TPM2_Load"))?;
            tpm.flushing(key.into(), |tpm| {
                let name = tpm.ctx.tr_get_name(key.into()).map_err(failed("Esys_TR_GetName"))?;
                Ok((tpm.save(key)?, area, name.value().to_vec(), point))
            })
        })
    }
}

/// Where it is, TPMT_PUBLIC, Name, point.
pub(super) type Made = (Place, Vec<u8>, Vec<u8>, [u8; 2 * P256_WIDTH]);

/// Two big-endian numbers, each brought to 32 bytes: TPMs may leave out leading zeros.
pub(super) fn joined(first: &[u8], second: &[u8]) -> Option<[u8; 2 * P256_WIDTH]> {
    let mut both = [0u8; 2 * P256_WIDTH];
    for (number, place) in [first, second].into_iter().zip(both.chunks_exact_mut(P256_WIDTH)) {
        let start = P256_WIDTH.checked_sub(number.len())?;
        place.get_mut(start..)?.copy_from_slice(number);
    }
    Some(both)
}

/// "This digest was not made by the TPM": enough for an unrestricted key (part 3, 20.2).
fn no_ticket() -> tss_esapi::Result<HashcheckTicket> {
    HashcheckTicket::try_from(TPMT_TK_HASHCHECK {
        tag: TPM2_ST_HASHCHECK,
        hierarchy: TPM2_RH_NULL,
        digest: Default::default(),
    })
}

fn signing_attributes() -> Result<ObjectAttributes, TpmError> {
    ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_sign_encrypt(true)
        .build()
        .map_err(failed("session key template"))
}

fn signing_template(policy: Digest) -> Result<Public, TpmError> {
    ecc_template(
        signing_attributes()?,
        policy,
        PublicEccParametersBuilder::new()
            .with_symmetric(SymmetricDefinitionObject::Null)
            .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
            .with_is_signing_key(true),
    )
}

/// A storage key as in the TCG's SRK template for P-256, but with userWithAuth as its only way in.
pub(super) fn storage_template() -> Result<Public, TpmError> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()
        .map_err(failed("storage template"))?;
    ecc_template(
        attributes,
        Digest::default(),
        PublicEccParametersBuilder::new()
            .with_symmetric(SymmetricDefinitionObject::AES_128_CFB)
            .with_ecc_scheme(EccScheme::Null)
            .with_is_decryption_key(true)
            .with_restricted(true),
    )
}

pub(super) fn ecc_template(
    attributes: ObjectAttributes,
    policy: Digest,
    parameters: PublicEccParametersBuilder,
) -> Result<Public, TpmError> {
    let parameters = parameters
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .build()
        .map_err(failed("key template"))?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
        .map_err(failed("key template"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_numbers_keep_their_place() {
        let both = joined(&[1; 31], &[2; 32]).expect("both fit");
        assert_eq!(both[0], 0);
        assert_eq!(both[1..32], [1; 31]);
        assert_eq!(both[32..], [2; 32]);
        assert_eq!(joined(&[], &[]), Some([0; 64]));
        assert_eq!(joined(&[1; 33], &[2; 32]), None);
    }

    #[test]
    fn a_session_key_has_exactly_these_attributes() {
        let template = signing_template(Digest::try_from([9u8; 32].as_slice()).expect("a digest")).expect("a template");
        // fixedTPM, fixedParent, sensitiveDataOrigin, sign (part 2, 8.3.2): no userWithAuth, no adminWithPolicy.
        assert_eq!(template.object_attributes().0, 0x0004_0032);
    }
}
