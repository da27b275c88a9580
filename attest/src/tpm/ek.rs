//! The endorsement key: the identity its maker put a certificate on.
//!
//! Templates and NV indices: TCG EK Credential Profile for TPM Family 2.0, sections 2.2.1.4 (low range) and 2.2.1.5
//! (high range), as the verifier has them.

use touchstone_verifier::tpm::EkTemplate;
use tss_esapi::constants::SessionType;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::handles::{AuthHandle, KeyHandle};
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{Digest, Nonce, Public};
use tss_esapi::traits::{Marshall as _, UnMarshall as _};

use super::ek_certificate::certifies;
use super::error::{TpmError, failed, kind};
use super::{Place, Tpm};

/// The kinds of endorsement key this agent can use, in order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EkKind {
    /// RSA 2048, template L-1.
    Rsa2048,
    /// ECC NIST P-256, template L-2.
    EccP256,
    /// ECC NIST P-384, template H-3.
    EccP384,
    /// RSA 2048, template H-1.
    HighRsa2048,
    /// ECC NIST P-256, template H-2.
    HighEccP256,
    /// ECC NIST P-521, template H-4.
    EccP521,
    /// RSA 3072, template H-6.
    Rsa3072,
    /// RSA 4096, template H-7.
    Rsa4096,
}

impl EkKind {
    /// The kinds that TPMs are expected to make, the preferred one first: one of them is made where no certificate says
    /// which key the TPM is known by.
    pub const COMMON: [Self; 3] = [Self::Rsa2048, Self::EccP256, Self::EccP384];
    /// Every kind, the preferred one first.
    pub const ALL: [Self; 8] = [
        Self::Rsa2048,
        Self::EccP256,
        Self::EccP384,
        Self::HighRsa2048,
        Self::HighEccP256,
        Self::EccP521,
        Self::Rsa3072,
        Self::Rsa4096,
    ];

    /// The NV index of its certificate.
    #[must_use]
    pub fn certificate_index(self) -> u32 {
        self.tcg_template().certificate_index()
    }

    fn tcg_template(self) -> EkTemplate {
        match self {
            Self::Rsa2048 => EkTemplate::L1Rsa2048,
            Self::EccP256 => EkTemplate::L2P256,
            Self::EccP384 => EkTemplate::H3P384,
            Self::HighRsa2048 => EkTemplate::H1Rsa2048,
            Self::HighEccP256 => EkTemplate::H2P256,
            Self::EccP521 => EkTemplate::H4P521,
            Self::Rsa3072 => EkTemplate::H6Rsa3072,
            Self::Rsa4096 => EkTemplate::H7Rsa4096,
        }
    }

    /// Where firmware or operating systems keep it, if they do.
    fn persistent_handles(self) -> &'static [u32] {
        match self {
            Self::Rsa2048 => &[0x8101_0001],
            Self::EccP256 => &[0x8101_0002, 0x8101_000A],
            Self::EccP384 => &[0x8101_0016],
            Self::HighRsa2048 => &[0x8101_0012],
            Self::HighEccP256 => &[0x8101_0014],
            Self::EccP521 => &[0x8101_0018],
            Self::Rsa3072 => &[0x8101_001C],
            Self::Rsa4096 => &[0x8101_001E],
        }
    }

    /// The template to make it from: the one the verifier knows it by.
    fn template(self) -> Result<Public, TpmError> {
        Public::unmarshall(&self.tcg_template().creation_template()).map_err(failed("EK template"))
    }

    /// Whether its users are authorized by policy only (PolicySecret of the endorsement hierarchy).
    fn policy_only(self) -> bool {
        // High-range templates have userWithAuth set and an empty secret.
        self.tcg_template().is_low_range()
    }
}

/// An endorsement key of the TPM.
#[derive(Debug, Clone)]
pub struct EndorsementKey {
    kind: EkKind,
    place: Place,
    public: Vec<u8>,
    name: Vec<u8>,
    certificate: Option<Vec<u8>>,
    chain: Option<Vec<u8>>,
}

impl EndorsementKey {
    /// Which template it was made from.
    #[must_use]
    pub fn kind(&self) -> EkKind {
        self.kind
    }

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

    /// The DER certificate that names this very key, if the TPM holds one.
    #[must_use]
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// The intermediates the TPM keeps beside its certificate, DER one after the other, if it does.
    #[must_use]
    pub fn chain(&self) -> Option<&[u8]> {
        self.chain.as_deref()
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

impl Tpm {
    /// The endorsement key this machine is best known by: the first kind with a certificate, else the first kind the
    /// TPM can make.
    ///
    /// # Errors
    /// [`TpmError::NoEndorsementKey`] when it can make none.
    pub fn best_endorsement_key(&mut self) -> Result<EndorsementKey, TpmError> {
        for kind in EkKind::ALL {
            if self.readable_certificate(kind)?.is_some() {
                let key = self.endorsement_key(kind)?;
                if key.certificate.is_some() {
                    return Ok(key);
                }
            }
        }
        for kind in EkKind::COMMON {
            match self.endorsement_key(kind) {
                Err(TpmError::NoEndorsementKey { .. }) => {}
                other => return other,
            }
        }
        Err(TpmError::NoEndorsementKey {
            tried: EkKind::COMMON.to_vec(),
        })
    }

    /// The endorsement key of `kind`: the persistent one if there is one of the standard template, else made from the
    /// template (always the same key, but seconds of work for RSA on slow TPMs).
    ///
    /// # Errors
    /// [`TpmError::NoEndorsementKey`] when the TPM cannot make it, [`TpmError::AuthorizationRequired`] when the
    /// endorsement hierarchy has a password.
    pub fn endorsement_key(&mut self, kind: EkKind) -> Result<EndorsementKey, TpmError> {
        match self.operation(|tpm| tpm.find_endorsement_key(kind)) {
            // This is everybody's first operation. Slots that a killed user left full are freed by the next one.
            Err(TpmError::OutOfSlots { .. }) => self.operation(|tpm| tpm.find_endorsement_key(kind)),
            found => found,
        }
    }

    fn find_endorsement_key(&mut self, kind: EkKind) -> Result<EndorsementKey, TpmError> {
        let template = kind.template()?;
        let mut found = None;
        for &handle in kind.persistent_handles() {
            if let Some((_, name, public)) = self.open_persistent(handle)?
                && same_template(&public, &template)
            {
                found = Some((Place::Persistent(handle, name.clone()), name, public));
                break;
            }
        }
        let (place, name, public) = match found {
            Some(found) => found,
            None => self.make_endorsement_key(kind, template)?,
        };
        let public_area = public.marshall().map_err(failed("TPMT_PUBLIC"))?;
        let certificate = self.readable_certificate(kind)?.filter(|certificate| {
            let ours = certifies(certificate, &public);
            if !ours {
                tracing::warn!(
                    ?kind,
                    "the EK certificate in the TPM names another key than the EK: not used"
                );
            }
            ours
        });
        let chain = match &certificate {
            Some(_) => self.ek_chain()?,
            None => None,
        };
        Ok(EndorsementKey {
            chain,
            kind,
            place,
            public: public_area,
            name,
            certificate,
        })
    }

    /// The certificate, where the TPM holds one that is one. Rubbish in its place is said and passed over: the key may
    /// be known to the domain by itself.
    fn readable_certificate(&mut self, kind: EkKind) -> Result<Option<Vec<u8>>, TpmError> {
        match self.ek_certificate(kind) {
            Err(error @ TpmError::CertificateMalformed { .. }) => {
                tracing::warn!(%error, "going on without an EK certificate");
                Ok(None)
            }
            read => read,
        }
    }

    fn make_endorsement_key(
        &mut self,
        ek_kind: EkKind,
        template: Public,
    ) -> Result<(Place, Vec<u8>, Public), TpmError> {
        let made = self.ctx.execute_with_session(Some(AuthSession::Password), |ctx| {
            ctx.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
        });
        let made = made.map_err(|e| match kind(&e) {
            Some(Kind::Hierarchy | Kind::Value | Kind::Curve | Kind::KeySize | Kind::Hash | Kind::Symmetric) => {
                TpmError::NoEndorsementKey { tried: vec![ek_kind] }
            }
            _ => failed("TPM2_CreatePrimary")(e),
        })?;
        let public = made.out_public;
        self.flushing(made.key_handle.into(), |tpm| {
            let name = tpm
                .ctx
                .tr_get_name(made.key_handle.into())
                .map_err(failed("Esys_TR_GetName"))?;
            let place = tpm.save(made.key_handle)?;
            Ok((place, name.value().to_vec(), public))
        })
    }

    /// Runs `f` with the endorsement key loaded and a session that is salted to it and authorizes its use once.
    pub(super) fn with_authorized_ek<T>(
        &mut self,
        ek: &EndorsementKey,
        f: impl FnOnce(&mut Self, KeyHandle, AuthSession) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        self.with_key(&ek.place, |tpm, key| {
            let session_type = if ek.kind.policy_only() {
                SessionType::Policy
            } else {
                SessionType::Hmac
            };
            tpm.with_session(key, session_type, |tpm, session| {
                if ek.kind.policy_only() {
                    tpm.endorsement_secret(session)?;
                }
                f(tpm, key, session)
            })
        })
    }

    /// PolicySecret(TPM_RH_ENDORSEMENT): what the low-range templates ask for.
    fn endorsement_secret(&mut self, session: AuthSession) -> Result<(), TpmError> {
        let policy = PolicySession::try_from(session).map_err(failed("policy session"))?;
        self.ctx
            .execute_with_session(Some(AuthSession::Password), |ctx| {
                ctx.policy_secret(
                    policy,
                    AuthHandle::Endorsement,
                    Nonce::default(),
                    Digest::default(),
                    Nonce::default(),
                    None,
                )
            })
            .map(drop)
            .map_err(failed("TPM2_PolicySecret"))
    }
}

/// Whether a key's public area is that of the template but for the key itself.
fn same_template(key: &Public, template: &Public) -> bool {
    match (key, template) {
        (
            Public::Rsa {
                object_attributes,
                name_hashing_algorithm,
                auth_policy,
                parameters,
                ..
            },
            Public::Rsa {
                object_attributes: wanted_attributes,
                name_hashing_algorithm: wanted_hash,
                auth_policy: wanted_policy,
                parameters: wanted_parameters,
                ..
            },
        ) => {
            (object_attributes, name_hashing_algorithm, auth_policy, parameters)
                == (wanted_attributes, wanted_hash, wanted_policy, wanted_parameters)
        }
        (
            Public::Ecc {
                object_attributes,
                name_hashing_algorithm,
                auth_policy,
                parameters,
                ..
            },
            Public::Ecc {
                object_attributes: wanted_attributes,
                name_hashing_algorithm: wanted_hash,
                auth_policy: wanted_policy,
                parameters: wanted_parameters,
                ..
            },
        ) => {
            (object_attributes, name_hashing_algorithm, auth_policy, parameters)
                == (wanted_attributes, wanted_hash, wanted_policy, wanted_parameters)
        }
        _ => false,
    }
}
