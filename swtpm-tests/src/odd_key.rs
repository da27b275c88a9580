//! Session keys as no agent makes them, made by a real TPM and certified by its real attestation key.
#![expect(
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::str::FromStr as _;

use touchstone_cose::key::VerifyingKey;
use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder};
use tss_esapi::handles::{PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Data, Digest, EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, Public, PublicBuilder,
    PublicEccParametersBuilder, SignatureScheme, SymmetricDefinitionObject,
};
use tss_esapi::traits::Marshall as _;
use tss_esapi::utils::TpmsContext;
use tss_esapi::{Context, TctiNameConf};

use crate::machine::key_of;

/// What is wrong with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// Nothing: to see that what is refused is refused for its oddity.
    None,
    /// It can be moved to another TPM.
    NotFixed,
    /// The empty password uses it in any state of the machine.
    UserWithAuth,
    /// Its policy is another one.
    OtherPolicy,
}

/// A signing key in a TPM.
pub struct OddKey {
    context: Context,
    saved: TpmsContext,
    public: Vec<u8>,
}

impl OddKey {
    /// Makes a key under the NULL hierarchy, as an agent does but for its oddity.
    ///
    /// # Panics
    /// When the TPM does not make it.
    #[must_use]
    pub fn make(tcti: &str, oddity: Oddity, policy: [u8; 32]) -> Self {
        let tcti = TctiNameConf::from_str(tcti).expect("a TCTI");
        let mut context = Context::new(tcti).expect("a TPM");
        context.set_sessions((Some(AuthSession::Password), None, None));
        let parent = context
            .create_primary(Hierarchy::Null, storage(), None, None, None, None)
            .expect("a parent")
            .key_handle;
        let fixed = oddity != Oddity::NotFixed;
        let attributes = ObjectAttributesBuilder::new()
            .with_fixed_tpm(fixed)
            .with_fixed_parent(fixed)
            .with_sensitive_data_origin(true)
            .with_sign_encrypt(true)
            .with_user_with_auth(oddity == Oddity::UserWithAuth)
            .build()
            .expect("attributes");
        let policy = if oddity == Oddity::OtherPolicy {
            [0xA5; 32]
        } else {
            policy
        };
        let template = ecc(
            attributes,
            Digest::try_from(policy.as_slice()).expect("a digest"),
            PublicEccParametersBuilder::new()
                .with_symmetric(SymmetricDefinitionObject::Null)
                .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
                .with_is_signing_key(true),
        );
        let made = context.create(parent, template, None, None, None, None).expect("a key");
        let public = made.out_public.marshall().expect("TPMT_PUBLIC");
        let key = context.load(parent, made.out_private, made.out_public).expect("loaded");
        let saved = context.context_save(key.into()).expect("saved");
        context.flush_context(key.into()).expect("flushed");
        context.flush_context(parent.into()).expect("flushed");
        Self { context, saved, public }
    }

    /// Its public area, TPMT_PUBLIC.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> VerifyingKey {
        key_of(&self.public)
    }

    /// TPMS_ATTEST and TPMT_SIGNATURE: the persistent attestation key at `ak` certifies it over `qualifying`.
    ///
    /// # Panics
    /// When the TPM does not.
    pub fn certify(&mut self, ak: u32, qualifying: &[u8; 32]) -> (Vec<u8>, Vec<u8>) {
        let context = &mut self.context;
        let handle = TpmHandle::Persistent(PersistentTpmHandle::new(ak).expect("a handle"));
        let signer = context
            .execute_without_session(|context| context.tr_from_tpm_public(handle))
            .expect("a key");
        let key = context.context_load(self.saved.clone()).expect("loaded");
        let qualifying = Data::try_from(qualifying.as_slice()).expect("short");
        let sessions = (Some(AuthSession::Password), Some(AuthSession::Password), None);
        let (attest, signature) = context
            .execute_with_sessions(sessions, |context| {
                context.certify(key, signer.into(), qualifying, SignatureScheme::Null)
            })
            .expect("a certification");
        context.flush_context(key).expect("flushed");
        (
            attest.marshall().expect("TPMS_ATTEST"),
            signature.marshall().expect("TPMT_SIGNATURE"),
        )
    }
}

fn storage() -> Public {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()
        .expect("attributes");
    ecc(
        attributes,
        Digest::default(),
        PublicEccParametersBuilder::new()
            .with_symmetric(SymmetricDefinitionObject::AES_128_CFB)
            .with_ecc_scheme(EccScheme::Null)
            .with_is_decryption_key(true)
            .with_restricted(true),
    )
}

fn ecc(attributes: ObjectAttributes, policy: Digest, parameters: PublicEccParametersBuilder) -> Public {
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy)
        .with_ecc_parameters(
            parameters
                .with_curve(EccCurve::NistP256)
                .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
                .build()
                .expect("parameters"),
        )
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
        .expect("a template")
}
