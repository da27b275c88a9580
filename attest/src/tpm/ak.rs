//! The attestation key: restricted, so that it signs only what the TPM itself made.

use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::structures::{
    EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, Private, Public, PublicBuilder,
    PublicEccParametersBuilder, PublicKeyRsa, PublicRsaParametersBuilder, RsaExponent, RsaScheme,
    SymmetricDefinitionObject,
};
use tss_esapi::traits::{Marshall as _, UnMarshall as _};

use super::ek::EndorsementKey;
use super::error::{TpmError, failed, kind};
use super::{Place, Tpm};

/// The first bytes of a stored attestation key, with the version of the form.
const BLOB_MAGIC: &[u8; 8] = b"TSAK\0\0\0\x01";

/// The signing algorithms an attestation key may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AkAlgorithm {
    /// ECDSA with SHA-256 on NIST P-256: small and fast. The default.
    #[default]
    EcdsaP256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, 2048 bits, for TPMs without ECC.
    RsassaRsa2048,
}

impl AkAlgorithm {
    fn template(self) -> Result<Public, TpmError> {
        let attributes = ObjectAttributesBuilder::new()
            .with_fixed_tpm(true)
            .with_fixed_parent(true)
            .with_sensitive_data_origin(true)
            .with_user_with_auth(true)
            .with_restricted(true)
            .with_sign_encrypt(true)
            .build()
            .map_err(failed("AK template"))?;
        let builder = PublicBuilder::new()
            .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
            .with_object_attributes(attributes);
        let sha256 = HashScheme::new(HashingAlgorithm::Sha256);
        match self {
            Self::EcdsaP256 => builder
                .with_public_algorithm(PublicAlgorithm::Ecc)
                .with_ecc_parameters(
                    PublicEccParametersBuilder::new()
                        .with_symmetric(SymmetricDefinitionObject::Null)
                        .with_ecc_scheme(EccScheme::EcDsa(sha256))
                        .with_curve(EccCurve::NistP256)
                        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
                        .with_is_signing_key(true)
                        .with_restricted(true)
                        .build()
                        .map_err(failed("AK template"))?,
                )
                .with_ecc_unique_identifier(EccPoint::default()),
            Self::RsassaRsa2048 => builder
                .with_public_algorithm(PublicAlgorithm::Rsa)
                .with_rsa_parameters(
                    PublicRsaParametersBuilder::new()
                        .with_symmetric(SymmetricDefinitionObject::Null)
                        .with_scheme(RsaScheme::RsaSsa(sha256))
                        .with_key_bits(RsaKeyBits::Rsa2048)
                        .with_exponent(RsaExponent::default())
                        .with_is_signing_key(true)
                        .with_restricted(true)
                        .build()
                        .map_err(failed("AK template"))?,
                )
                .with_rsa_unique_identifier(PublicKeyRsa::default()),
        }
        .build()
        .map_err(failed("AK template"))
    }
}

/// An attestation key as it is kept on disk: only the TPM it was made in can use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AkBlob {
    /// The Name of the endorsement key it hangs under.
    pub ek_name: Vec<u8>,
    /// Its public area, TPMT_PUBLIC.
    pub public: Vec<u8>,
    /// Its private area, the contents of a TPM2B_PRIVATE: encrypted by the TPM under the endorsement key.
    pub private: Vec<u8>,
}

impl AkBlob {
    /// The bytes for the state folder: a magic number, then the three parts as TPM2B (16-bit big-endian lengths).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = BLOB_MAGIC.to_vec();
        for part in [&self.ek_name, &self.public, &self.private] {
            // Parts come from TPM2B structures, so they are under 64 KiB.
            bytes.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`TpmError::BlobRejected`] on anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, TpmError> {
        fn part<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
            let (size, after) = rest.split_first_chunk::<2>()?;
            let (part, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*size)))?;
            *rest = after;
            Some(part)
        }
        let mut rest = bytes
            .strip_prefix(BLOB_MAGIC)
            .ok_or(TpmError::BlobRejected("not a stored attestation key"))?;
        let short = TpmError::BlobRejected("cut short");
        let ek_name = part(&mut rest).ok_or(short.clone())?.to_vec();
        let public = part(&mut rest).ok_or(short.clone())?.to_vec();
        let private = part(&mut rest).ok_or(short)?.to_vec();
        if !rest.is_empty() {
            return Err(TpmError::BlobRejected("bytes left over"));
        }
        Ok(Self {
            ek_name,
            public,
            private,
        })
    }
}

/// An attestation key ready for use.
#[derive(Debug, Clone)]
pub struct Ak {
    place: Place,
    ek: Place,
    public: Vec<u8>,
    name: Vec<u8>,
}

impl Ak {
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

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The endorsement key its sessions are salted to.
    pub(super) fn ek(&self) -> &Place {
        &self.ek
    }
}

impl Tpm {
    /// Makes an attestation key under the endorsement key, so in the endorsement hierarchy: in the owner hierarchy the
    /// TPM would obfuscate firmwareVersion and resetCount in what it signs.
    ///
    /// # Errors
    /// [`TpmError::AuthorizationRequired`] when the endorsement hierarchy has a password.
    pub fn create_ak(&mut self, ek: &EndorsementKey, algorithm: AkAlgorithm) -> Result<AkBlob, TpmError> {
        let template = algorithm.template()?;
        let made = self.operation(|tpm| {
            tpm.with_authorized_ek(ek, |tpm, parent, session| {
                tpm.ctx
                    .execute_with_session(Some(session), |ctx| {
                        ctx.create(parent, template, None, None, None, None)
                    })
                    .map_err(failed("TPM2_Create"))
            })
        })?;
        Ok(AkBlob {
            ek_name: ek.name().to_vec(),
            public: made.out_public.marshall().map_err(failed("TPMT_PUBLIC"))?,
            private: made.out_private.value().to_vec(),
        })
    }

    /// Loads a stored attestation key.
    ///
    /// # Errors
    /// [`TpmError::BlobRejected`] when it was made under another endorsement key or in another TPM, or the TPM was
    /// cleared since.
    pub fn load_ak(&mut self, ek: &EndorsementKey, blob: &AkBlob) -> Result<Ak, TpmError> {
        if blob.ek_name != ek.name() {
            return Err(TpmError::BlobRejected("made under another endorsement key"));
        }
        let public =
            Public::unmarshall(&blob.public).map_err(|_| TpmError::BlobRejected("its public area is malformed"))?;
        suitable(&public)?;
        let private = Private::try_from(blob.private.as_slice())
            .map_err(|_| TpmError::BlobRejected("its private area is too long"))?;
        self.operation(|tpm| {
            tpm.with_authorized_ek(ek, |tpm, parent, session| {
                let key = tpm
                    .ctx
                    .execute_with_session(Some(session), |ctx| ctx.load(parent, private, public))
                    .map_err(|e| match kind(&e) {
                        Some(Kind::Integrity | Kind::Size | Kind::Insufficient | Kind::Binding) => {
                            TpmError::BlobRejected("the TPM does not know it as its own")
                        }
                        _ => failed("TPM2_Load")(e),
                    })?;
                tpm.flushing(key.into(), |tpm| {
                    let name = tpm
                        .ctx
                        .tr_get_name(key.into())
                        .map_err(failed("Esys_TR_GetName"))?
                        .value()
                        .to_vec();
                    let place = tpm.save(key)?;
                    Ok(Ak {
                        place,
                        ek: ek.place().clone(),
                        public: blob.public.clone(),
                        name,
                    })
                })
            })
        })
    }

    /// A persistent attestation key, made by the platform's provisioning.
    ///
    /// # Errors
    /// [`TpmError::KeyLost`] when there is no key at this handle, [`TpmError::KeyUnsuitable`] when it is no restricted
    /// signing key that cannot leave the TPM.
    pub fn ak_at(&mut self, ek: &EndorsementKey, handle: u32) -> Result<Ak, TpmError> {
        let (_, name, public) = self
            .operation(|tpm| tpm.open_persistent(handle))?
            .ok_or(TpmError::KeyLost)?;
        suitable(&public)?;
        let place = Place::Persistent(handle, name.clone());
        let public = public.marshall().map_err(failed("TPMT_PUBLIC"))?;
        Ok(Ak {
            place,
            ek: ek.place().clone(),
            public,
            name,
        })
    }
}

/// What a verifier will ask of an attestation key anyway: better to see it here, where it can be made anew.
fn suitable(public: &Public) -> Result<(), TpmError> {
    let attributes = public.object_attributes();
    let must = attributes.fixed_tpm()
        && attributes.fixed_parent()
        && attributes.sensitive_data_origin()
        && attributes.restricted()
        && attributes.sign_encrypt();
    if must && !attributes.decrypt() {
        Ok(())
    } else {
        Err(TpmError::KeyUnsuitable(
            "an attestation key must be a restricted signing key fixed to its TPM",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_key_reads_back_and_nothing_else_does() {
        let blob = AkBlob {
            ek_name: vec![1; 34],
            public: vec![2; 88],
            private: vec![3; 120],
        };
        let bytes = blob.encode();
        assert_eq!(AkBlob::decode(&bytes), Ok(blob));
        for cut in 0..bytes.len() {
            assert!(
                matches!(AkBlob::decode(&bytes[..cut]), Err(TpmError::BlobRejected(_))),
                "cut at {cut}"
            );
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(AkBlob::decode(&longer), Err(TpmError::BlobRejected("bytes left over")));
        let mut newer = bytes;
        newer[7] = 2;
        assert_eq!(
            AkBlob::decode(&newer),
            Err(TpmError::BlobRejected("not a stored attestation key"))
        );
    }

    #[test]
    fn templates_are_restricted_signing_keys_fixed_to_the_tpm() {
        for algorithm in [AkAlgorithm::EcdsaP256, AkAlgorithm::RsassaRsa2048] {
            let template = algorithm.template().expect("a template");
            assert_eq!(suitable(&template), Ok(()));
            // fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign (part 2, 8.3.2).
            assert_eq!(template.object_attributes().0, 0x0005_0072);
        }
    }
}
