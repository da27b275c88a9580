//! Endorsement keys: the TCG templates, and the public area that follows from a certificate.
//!
//! Source: TCG EK Credential Profile 2.5, annex B; standards.md C.11.2.

use thiserror::Error;

use super::algorithm::{ALG_AES, ALG_CFB, ALG_ECC, ALG_NULL, ALG_RSA, Curve, HashAlg, hex_bytes};
use super::attributes::ObjectAttributes;
use super::code::TpmCode;
use super::public::{DEFAULT_RSA_EXPONENT, KeyParameters, Name, Public, Scheme, Symmetric};
use crate::x509::key::SubjectKey;

/// `TPM_RH_ENDORSEMENT`, the parent of every primary key in the endorsement hierarchy.
pub const RH_ENDORSEMENT: u32 = 0x4000_000B;
/// PolicyA: PolicySecret(TPM_RH_ENDORSEMENT) with SHA-256.
pub const POLICY_A_SHA256: [u8; 32] = hex_bytes(b"837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa");
/// PolicyB with SHA-384: the alternatives of a high-range key.
pub const POLICY_B_SHA384: [u8; 48] =
    hex_bytes(b"b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12");

/// A TCG template that an endorsement key was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EkTemplate {
    /// L-1: RSA-2048, SHA-256, AES-128; certificate at NV 0x01C00002.
    L1Rsa2048,
    /// L-2: P-256, SHA-256, AES-128; certificate at NV 0x01C0000A.
    L2P256,
    /// H-3: P-384, SHA-384, AES-256; certificate at NV 0x01C00016.
    H3P384,
}

/// What a template fixes.
struct Fixed {
    name_alg: HashAlg,
    attributes: ObjectAttributes,
    auth_policy: &'static [u8],
    aes_bits: u16,
}

impl EkTemplate {
    /// Every template supported.
    pub const ALL: [EkTemplate; 3] = [EkTemplate::L1Rsa2048, EkTemplate::L2P256, EkTemplate::H3P384];

    /// The TCG's name.
    pub const fn name(self) -> &'static str {
        match self {
            EkTemplate::L1Rsa2048 => "L-1 RSA-2048",
            EkTemplate::L2P256 => "L-2 P-256",
            EkTemplate::H3P384 => "H-3 P-384",
        }
    }

    const fn fixed(self) -> Fixed {
        const LOW: ObjectAttributes = ObjectAttributes::FIXED_TPM
            .with(ObjectAttributes::FIXED_PARENT)
            .with(ObjectAttributes::SENSITIVE_DATA_ORIGIN)
            .with(ObjectAttributes::ADMIN_WITH_POLICY)
            .with(ObjectAttributes::RESTRICTED)
            .with(ObjectAttributes::DECRYPT);
        match self {
            EkTemplate::L1Rsa2048 | EkTemplate::L2P256 => Fixed {
                name_alg: HashAlg::Sha256,
                attributes: LOW,
                auth_policy: &POLICY_A_SHA256,
                aes_bits: 128,
            },
            EkTemplate::H3P384 => Fixed {
                name_alg: HashAlg::Sha384,
                attributes: LOW.with(ObjectAttributes::USER_WITH_AUTH),
                auth_policy: &POLICY_B_SHA384,
                aes_bits: 256,
            },
        }
    }

    fn for_key(key: &SubjectKey) -> Option<Self> {
        match key {
            SubjectKey::Rsa { modulus, exponent } => {
                let is_2048 = modulus.len() == 256 && modulus.first().is_some_and(|b| b & 0x80 != 0);
                (is_2048 && *exponent == u64::from(DEFAULT_RSA_EXPONENT)).then_some(EkTemplate::L1Rsa2048)
            }
            SubjectKey::Ec { curve: Curve::P256, .. } => Some(EkTemplate::L2P256),
            SubjectKey::Ec { curve: Curve::P384, .. } => Some(EkTemplate::H3P384),
            SubjectKey::Ec { curve: Curve::P521, .. } => None,
        }
    }
}

/// Why a key is no endorsement key that can be used here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EkError {
    /// No template has such a key.
    #[error("endorsement key: expected RSA-2048, P-256 or P-384, found {found}")]
    Kind {
        /// The kind of key found.
        found: String,
    },
    /// The public area differs from the template of its kind.
    #[error("endorsement key: template {template} has {field} {expected}, found {found}")]
    Template {
        /// The template for this kind of key.
        template: &'static str,
        /// TCG name of the field.
        field: &'static str,
        /// What the template has.
        expected: String,
        /// What was found.
        found: String,
    },
    /// The key is not the one in the certificate.
    #[error("endorsement key: expected the certificate's key {expected}, found {found}")]
    Mismatch {
        /// SHA-256 of the certificate's SubjectPublicKeyInfo in its one form, hexadecimal.
        expected: String,
        /// SHA-256 of the presented key's.
        found: String,
    },
}

impl EkError {
    /// The stable code.
    pub const fn code(&self) -> TpmCode {
        match self {
            EkError::Kind { .. } | EkError::Template { .. } => TpmCode::EkTemplate,
            EkError::Mismatch { .. } => TpmCode::EkMismatch,
        }
    }

    /// What was expected and what was found.
    pub fn details(&self) -> (String, String) {
        match self {
            EkError::Kind { found } => ("RSA-2048, P-256 or P-384".into(), found.clone()),
            EkError::Template {
                template,
                field,
                expected,
                found,
            } => (format!("{template}: {field} {expected}"), found.clone()),
            EkError::Mismatch { expected, found } => (expected.clone(), found.clone()),
        }
    }
}

/// An endorsement key that follows a template exactly. Says nothing yet about whose it is: that is its certificate's
/// or the inventory's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedEk<'p> {
    public: &'p Public,
    template: EkTemplate,
}

impl<'p> CheckedEk<'p> {
    /// The public area.
    pub fn public(&self) -> &'p Public {
        self.public
    }

    /// Its template.
    pub fn template(&self) -> EkTemplate {
        self.template
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo: the inventory's EkId.
    pub fn id(&self) -> [u8; 32] {
        self.public.subject_key().spki_sha256()
    }

    /// Key bits of the AES-CFB that protects what is encrypted to it.
    pub fn symmetric_key_bits(&self) -> u16 {
        self.template.fixed().aes_bits
    }

    /// The key's qualified Name, as a primary key of the endorsement hierarchy.
    pub fn qualified_name(&self) -> Name {
        endorsement_primary_name(self.public)
    }

    /// Checks that this is the key in a certificate.
    ///
    /// # Errors
    /// [`EkError::Mismatch`].
    pub fn must_be(&self, certified: &SubjectKey) -> Result<(), EkError> {
        if self.public.subject_key() == *certified {
            return Ok(());
        }
        Err(EkError::Mismatch {
            expected: hex::encode(certified.spki_sha256()),
            found: hex::encode(self.id()),
        })
    }
}

/// Where an attestation key hangs, by the qualified Name that its own TPM signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AkParent {
    /// A child of the endorsement key given.
    EndorsementKey,
    /// A primary key of the endorsement hierarchy.
    EndorsementPrimary,
    /// Neither: firmwareVersion and the reset counters may be obfuscated.
    Unknown,
}

/// Where the attestation key hangs whose quote has `qualified_signer`.
///
/// For a genuine attestation key this says that clock and counters are not obfuscated. It ties no AK to an EK: the
/// claim is only as good as the key that signed it.
pub fn ak_parent(qualified_signer: &[u8], ak: &Public, ek: &CheckedEk<'_>) -> AkParent {
    if qualified_name(ek.qualified_name().as_bytes(), ak) == *qualified_signer {
        AkParent::EndorsementKey
    } else if endorsement_primary_name(ak) == *qualified_signer {
        AkParent::EndorsementPrimary
    } else {
        AkParent::Unknown
    }
}

impl Public {
    /// Recognises an endorsement key by its template.
    ///
    /// # Errors
    /// [`EkError`] with the first field that differs.
    pub fn check_ek(&self) -> Result<CheckedEk<'_>, EkError> {
        let template = EkTemplate::for_key(&self.subject_key()).ok_or_else(|| EkError::Kind {
            found: self.describe_key(),
        })?;
        let fixed = template.fixed();
        let must = |field, same: bool, expected: String, found: String| {
            let name = template.name();
            if same {
                Ok(())
            } else {
                Err(EkError::Template {
                    template: name,
                    field,
                    expected,
                    found,
                })
            }
        };
        let name_alg = self.name_alg == fixed.name_alg;
        must(
            "nameAlg",
            name_alg,
            fixed.name_alg.to_string(),
            self.name_alg.to_string(),
        )?;
        let attributes = self.attributes == fixed.attributes;
        must(
            "objectAttributes",
            attributes,
            fixed.attributes.to_string(),
            self.attributes.to_string(),
        )?;
        let policy = self.auth_policy == fixed.auth_policy;
        must(
            "authPolicy",
            policy,
            hex::encode(fixed.auth_policy),
            hex::encode(&self.auth_policy),
        )?;
        let wanted = Symmetric::AesCfb(fixed.aes_bits);
        must(
            "symmetric",
            self.symmetric == wanted,
            format!("{wanted:?}"),
            format!("{:?}", self.symmetric),
        )?;
        must(
            "scheme",
            self.scheme == Scheme::Null,
            "Null".into(),
            format!("{:?}", self.scheme),
        )?;
        let kdf = !matches!(self.parameters, KeyParameters::Ecc { has_kdf: true, .. });
        must("kdf", kdf, "Null".into(), "another".into())?;
        Ok(CheckedEk { public: self, template })
    }
}

/// The public area of the endorsement key in a certificate, by the low-range template of its kind.
///
/// An EK certificate alone thus gives everything that a credential needs.
///
/// # Errors
/// [`EkError::Kind`] for keys that no supported template has.
pub fn ek_public_from_key(key: &SubjectKey) -> Result<Public, EkError> {
    let unsupported = || EkError::Kind { found: key.describe() };
    let template = EkTemplate::for_key(key).ok_or_else(unsupported)?;
    let fixed = template.fixed();
    let mut raw = Vec::with_capacity(320);
    let object_type = if matches!(key, SubjectKey::Rsa { .. }) {
        ALG_RSA
    } else {
        ALG_ECC
    };
    raw.extend(object_type.to_be_bytes());
    raw.extend(fixed.name_alg.tpm_id().to_be_bytes());
    raw.extend(fixed.attributes.0.to_be_bytes());
    push_sized(&mut raw, fixed.auth_policy);
    for id in [ALG_AES, fixed.aes_bits, ALG_CFB, ALG_NULL] {
        raw.extend(id.to_be_bytes());
    }
    match key {
        SubjectKey::Rsa { modulus, .. } => {
            raw.extend(2048u16.to_be_bytes());
            raw.extend(0u32.to_be_bytes()); // the templates write 65537 as 0
            push_sized(&mut raw, modulus);
        }
        SubjectKey::Ec { curve, x, y } => {
            raw.extend(curve.tpm_id().to_be_bytes());
            raw.extend(ALG_NULL.to_be_bytes());
            push_sized(&mut raw, x);
            push_sized(&mut raw, y);
        }
    }
    Public::parse(&raw).map_err(|_| unsupported())
}

fn push_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// QualifiedName = nameAlg ‖ H(QualifiedName of the parent ‖ Name) (Part 1, 16.4).
fn qualified_name(parent: &[u8], public: &Public) -> Name {
    let name = public.name();
    Name::from_digest(
        public.name_alg,
        public.name_alg.digest([parent, name.as_bytes()]).as_ref(),
    )
}

fn endorsement_primary_name(public: &Public) -> Name {
    qualified_name(&RH_ENDORSEMENT.to_be_bytes(), public)
}
