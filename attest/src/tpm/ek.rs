//! The endorsement key: the identity its maker put a certificate on.
//!
//! Templates and NV indices: TCG EK Credential Profile for TPM Family 2.0, sections 2.2.1.4 (low range: RSA 2048,
//! ECC P-256) and 2.2.1.5 (high range: ECC P-384).

use tss_esapi::abstraction::{AsymmetricAlgorithmSelection, DefaultKey, ek};
use tss_esapi::constants::PropertyTag;
use tss_esapi::constants::SessionType;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::handles::{AuthHandle, KeyHandle, NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::{Hierarchy, NvAuth};
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{Digest, Nonce, Public};
use tss_esapi::traits::Marshall as _;

use super::error::{TpmError, failed, kind};
use super::{Place, Tpm};

/// The longest EK certificate that is read, in bytes. Those seen are 0.8-2 KiB.
pub const MAX_EK_CERTIFICATE: usize = 8192;
/// How much of an NV index is read in one go where the TPM does not say (every TPM can do this much).
const NV_CHUNK: usize = 512;

/// The kinds of endorsement key this agent can use, in order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EkKind {
    /// RSA 2048, template L-1.
    Rsa2048,
    /// ECC NIST P-256, template L-2.
    EccP256,
    /// ECC NIST P-384, template H-3.
    EccP384,
}

impl EkKind {
    /// Every kind, the preferred one first.
    pub const ALL: [Self; 3] = [Self::Rsa2048, Self::EccP256, Self::EccP384];

    /// The NV index of its certificate.
    #[must_use]
    pub fn certificate_index(self) -> u32 {
        match self {
            Self::Rsa2048 => 0x01C0_0002,
            Self::EccP256 => 0x01C0_000A,
            Self::EccP384 => 0x01C0_0016,
        }
    }

    /// Where firmware or operating systems keep it, if they do.
    fn persistent_handles(self) -> &'static [u32] {
        match self {
            Self::Rsa2048 => &[0x8101_0001],
            Self::EccP256 => &[0x8101_0002, 0x8101_000A],
            Self::EccP384 => &[0x8101_0016],
        }
    }

    fn template(self) -> Result<Public, TpmError> {
        let algorithm = match self {
            Self::Rsa2048 => AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048),
            Self::EccP256 => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256),
            Self::EccP384 => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP384),
        };
        ek::create_ek_public_from_default_template_2(algorithm, DefaultKey).map_err(failed("EK template"))
    }

    /// Whether its users are authorized by policy only (PolicySecret of the endorsement hierarchy).
    fn policy_only(self) -> bool {
        // High-range templates have userWithAuth set and an empty secret.
        self != Self::EccP384
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
            if self.ek_certificate(kind)?.is_some() {
                let key = self.endorsement_key(kind)?;
                if key.certificate.is_some() {
                    return Ok(key);
                }
            }
        }
        for kind in EkKind::ALL {
            match self.endorsement_key(kind) {
                Err(TpmError::NoEndorsementKey { .. }) => {}
                other => return other,
            }
        }
        Err(TpmError::NoEndorsementKey {
            tried: EkKind::ALL.to_vec(),
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
        let certificate = self.ek_certificate(kind)?.filter(|certificate| {
            let ours = certifies(certificate, &public);
            if !ours {
                tracing::warn!(
                    ?kind,
                    "the EK certificate in the TPM names another key than the EK: not used"
                );
            }
            ours
        });
        Ok(EndorsementKey {
            kind,
            place,
            public: public_area,
            name,
            certificate,
        })
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

    /// The DER certificate of the endorsement key of `kind`, as the maker wrote it to NV memory, padding cut off.
    ///
    /// # Errors
    /// [`TpmError::CertificateMalformed`] when the index holds something else.
    pub fn ek_certificate(&mut self, kind: EkKind) -> Result<Option<Vec<u8>>, TpmError> {
        let index = kind.certificate_index();
        let Some(mut bytes) = self.operation(|tpm| tpm.nv_read_all(index))? else {
            return Ok(None);
        };
        let malformed = |problem| TpmError::CertificateMalformed { index, problem };
        let length = der_sequence_length(&bytes).ok_or_else(|| malformed("it does not begin with a DER sequence"))?;
        if length > bytes.len() {
            return Err(malformed("it is cut short"));
        }
        bytes.truncate(length);
        Ok(Some(bytes))
    }

    /// The whole contents of an NV index; `None` when it does not exist or was never written.
    fn nv_read_all(&mut self, index: u32) -> Result<Option<Vec<u8>>, TpmError> {
        if !self.exists(index)? {
            return Ok(None);
        }
        let handle = NvIndexTpmHandle::new(index).map_err(failed("NV index"))?;
        let object = self.ctx.tr_from_tpm_public(TpmHandle::NvIndex(handle));
        let mut object = object.map_err(failed("TPM2_NV_ReadPublic"))?;
        let read = self.nv_read_open(index, NvIndexHandle::from(object));
        let closed = self.ctx.tr_close(&mut object).map_err(failed("Esys_TR_Close"));
        let read = read?;
        closed?;
        Ok(read)
    }

    fn nv_read_open(&mut self, index: u32, nv: NvIndexHandle) -> Result<Option<Vec<u8>>, TpmError> {
        let (public, _) = self.ctx.nv_read_public(nv).map_err(failed("TPM2_NV_ReadPublic"))?;
        let size = public.data_size();
        if !public.attributes().written() {
            return Ok(None);
        }
        if size > MAX_EK_CERTIFICATE {
            return Err(TpmError::CertificateMalformed {
                index,
                problem: "it is longer than 8192 bytes",
            });
        }
        // By the index itself where that is allowed: the owner hierarchy may have a password.
        let auth = if public.attributes().auth_read() {
            NvAuth::NvIndex(nv)
        } else {
            NvAuth::Owner
        };
        let chunk = self
            .ctx
            .get_tpm_property(PropertyTag::NvBufferMax)
            .map_err(failed("TPM2_GetCapability"))?;
        let chunk = chunk
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=NV_CHUNK).contains(n));
        let chunk = chunk.unwrap_or(NV_CHUNK);
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            let (Ok(offset), Ok(wanted)) = (u16::try_from(bytes.len()), u16::try_from(chunk.min(size - bytes.len())))
            else {
                break;
            };
            let part = self
                .ctx
                .execute_with_session(Some(AuthSession::Password), |ctx| ctx.nv_read(auth, nv, wanted, offset))
                .map_err(failed("TPM2_NV_Read"))?;
            if part.value().is_empty() {
                return Err(TpmError::CertificateMalformed {
                    index,
                    problem: "the TPM stopped answering midway",
                });
            }
            bytes.extend_from_slice(part.value());
        }
        Ok(Some(bytes))
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

/// Whether the certificate's subject key is `public`. Says nothing about who signed it: that is the verifier's.
fn certifies(certificate: &[u8], public: &Public) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return false;
    };
    let subject_key: &[u8] = &certificate.public_key().subject_public_key.data;
    match public {
        // RSAPublicKey ::= SEQUENCE { modulus, publicExponent }; also under RSAES-OAEP's identifier. The modulus alone
        // is 256 bytes that nobody else has.
        Public::Rsa { unique, .. } => {
            let modulus = unique.value();
            !modulus.is_empty() && subject_key.windows(modulus.len()).any(|part| part == modulus)
        }
        // The uncompressed point, SEC 1 2.3.3.
        Public::Ecc { unique, .. } => {
            let mut point = vec![4];
            point.extend_from_slice(unique.x().value());
            point.extend_from_slice(unique.y().value());
            subject_key == point
        }
        _ => false,
    }
}

/// The length in bytes of the DER SEQUENCE that `bytes` begins with, header included (X.690 8.1.3, definite lengths
/// of up to three octets: NV indices are at most 64 KiB).
fn der_sequence_length(bytes: &[u8]) -> Option<usize> {
    let octets = |n: usize| bytes.get(2..2 + n);
    let length = |octets: &[u8]| octets.iter().fold(0usize, |sum, octet| sum << 8 | usize::from(*octet));
    match bytes.first_chunk::<2>()? {
        [0x30, short @ 0..=0x7F] => Some(2 + usize::from(*short)),
        [0x30, long @ 0x81..=0x83] => {
            let count = usize::from(*long & 0x7F);
            Some(2 + count + length(octets(count)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_certificate_is_read_from_its_header() {
        for (bytes, length) in [
            (&[0x30, 0x03, 1, 2, 3, 0xFF, 0xFF][..], Some(5)),
            (&[0x30, 0x81, 0x80][..], Some(131)),
            (&[0x30, 0x82, 0x03, 0xF8][..], Some(1020)),
            (&[0x30, 0x83, 0x01, 0x00, 0x00][..], Some(65541)),
            (&[0x30, 0x80, 0, 0][..], None),
            (&[0x30, 0x84, 0, 0, 0, 1][..], None),
            (&[0x30, 0x82, 0x03][..], None),
            (&[0x31, 0x03, 1, 2, 3][..], None),
            (&[0x30][..], None),
            (&[][..], None),
            (&[0xFF; 64][..], None),
        ] {
            assert_eq!(der_sequence_length(bytes), length, "{bytes:02x?}");
        }
    }
}
