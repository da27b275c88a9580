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
/// PolicyB with SHA-256: PolicyOR of PolicyA and the policy in the NV index of a high-range key.
pub const POLICY_B_SHA256: [u8; 32] = hex_bytes(b"ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0");
/// PolicyB with SHA-384.
pub const POLICY_B_SHA384: [u8; 48] =
    hex_bytes(b"b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12");
/// PolicyB with SHA-512.
pub const POLICY_B_SHA512: [u8; 64] = hex_bytes(
    b"b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a429c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea",
);

/// A TCG template that an endorsement key was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EkTemplate {
    /// L-1: RSA-2048, SHA-256, AES-128; certificate at NV 0x01C00002.
    L1Rsa2048,
    /// L-2: P-256, SHA-256, AES-128; certificate at NV 0x01C0000A.
    L2P256,
    /// H-1: RSA-2048, SHA-256, AES-128; certificate at NV 0x01C00012.
    H1Rsa2048,
    /// H-2: P-256, SHA-256, AES-128; certificate at NV 0x01C00014.
    H2P256,
    /// H-3: P-384, SHA-384, AES-256; certificate at NV 0x01C00016.
    H3P384,
    /// H-4: P-521, SHA-512, AES-256; certificate at NV 0x01C00018.
    H4P521,
    /// H-6: RSA-3072, SHA-384, AES-256; certificate at NV 0x01C0001C.
    H6Rsa3072,
    /// H-7: RSA-4096, SHA-384, AES-256; certificate at NV 0x01C0001E.
    H7Rsa4096,
}

/// What a template fixes.
struct Fixed {
    name_alg: HashAlg,
    attributes: ObjectAttributes,
    auth_policy: &'static [u8],
    aes_bits: u16,
}

impl EkTemplate {
    /// Every template supported. H-5 (SM2) is not: its algorithms are in no library used here.
    pub const ALL: [EkTemplate; 8] = [
        EkTemplate::L1Rsa2048,
        EkTemplate::L2P256,
        EkTemplate::H1Rsa2048,
        EkTemplate::H2P256,
        EkTemplate::H3P384,
        EkTemplate::H4P521,
        EkTemplate::H6Rsa3072,
        EkTemplate::H7Rsa4096,
    ];

    /// The TCG's name.
    pub const fn name(self) -> &'static str {
        match self {
            EkTemplate::L1Rsa2048 => "L-1 RSA-2048",
            EkTemplate::L2P256 => "L-2 P-256",
            EkTemplate::H1Rsa2048 => "H-1 RSA-2048",
            EkTemplate::H2P256 => "H-2 P-256",
            EkTemplate::H3P384 => "H-3 P-384",
            EkTemplate::H4P521 => "H-4 P-521",
            EkTemplate::H6Rsa3072 => "H-6 RSA-3072",
            EkTemplate::H7Rsa4096 => "H-7 RSA-4096",
        }
    }

    /// The NV index of the certificate of a key made from it (EK Credential Profile 2.5, 2.2.1.4 and 2.2.1.5).
    pub const fn certificate_index(self) -> u32 {
        match self {
            EkTemplate::L1Rsa2048 => 0x01C0_0002,
            EkTemplate::L2P256 => 0x01C0_000A,
            EkTemplate::H1Rsa2048 => 0x01C0_0012,
            EkTemplate::H2P256 => 0x01C0_0014,
            EkTemplate::H3P384 => 0x01C0_0016,
            EkTemplate::H4P521 => 0x01C0_0018,
            EkTemplate::H6Rsa3072 => 0x01C0_001C,
            EkTemplate::H7Rsa4096 => 0x01C0_001E,
        }
    }

    /// Whether its keys are used by policy only; those of the high range have userWithAuth too.
    pub const fn is_low_range(self) -> bool {
        matches!(self, EkTemplate::L1Rsa2048 | EkTemplate::L2P256)
    }

    /// The TPMT_PUBLIC to make the key from: `unique` is zeros in the low range and empty in the high one (annex B).
    pub fn creation_template(self) -> Vec<u8> {
        let zeros = |len: usize| if self.is_low_range() { vec![0; len] } else { Vec::new() };
        match self.kind() {
            Kind::Rsa(bits) => self.public_area(Kind::Rsa(bits), &[&zeros(usize::from(bits) / 8)]),
            Kind::Ec(curve) => {
                let coordinate = zeros(curve.field_len());
                self.public_area(Kind::Ec(curve), &[&coordinate, &coordinate])
            }
        }
    }

    const fn kind(self) -> Kind {
        match self {
            EkTemplate::L1Rsa2048 | EkTemplate::H1Rsa2048 => Kind::Rsa(2048),
            EkTemplate::H6Rsa3072 => Kind::Rsa(3072),
            EkTemplate::H7Rsa4096 => Kind::Rsa(4096),
            EkTemplate::L2P256 | EkTemplate::H2P256 => Kind::Ec(Curve::P256),
            EkTemplate::H3P384 => Kind::Ec(Curve::P384),
            EkTemplate::H4P521 => Kind::Ec(Curve::P521),
        }
    }

    const fn fixed(self) -> Fixed {
        const LOW: ObjectAttributes = ObjectAttributes::FIXED_TPM
            .with(ObjectAttributes::FIXED_PARENT)
            .with(ObjectAttributes::SENSITIVE_DATA_ORIGIN)
            .with(ObjectAttributes::ADMIN_WITH_POLICY)
            .with(ObjectAttributes::RESTRICTED)
            .with(ObjectAttributes::DECRYPT);
        const HIGH: ObjectAttributes = LOW.with(ObjectAttributes::USER_WITH_AUTH);
        let (name_alg, attributes, auth_policy, aes_bits): (_, _, &'static [u8], _) = match self {
            EkTemplate::L1Rsa2048 | EkTemplate::L2P256 => (HashAlg::Sha256, LOW, &POLICY_A_SHA256, 128),
            EkTemplate::H1Rsa2048 | EkTemplate::H2P256 => (HashAlg::Sha256, HIGH, &POLICY_B_SHA256, 128),
            EkTemplate::H3P384 | EkTemplate::H6Rsa3072 | EkTemplate::H7Rsa4096 => {
                (HashAlg::Sha384, HIGH, &POLICY_B_SHA384, 256)
            }
            EkTemplate::H4P521 => (HashAlg::Sha512, HIGH, &POLICY_B_SHA512, 256),
        };
        Fixed {
            name_alg,
            attributes,
            auth_policy,
            aes_bits,
        }
    }

    /// The templates that have such a key, the low-range one first.
    fn for_key(key: &SubjectKey) -> impl Iterator<Item = Self> {
        let kind = match key {
            SubjectKey::Rsa { modulus, exponent } => {
                let whole = modulus.first().is_some_and(|b| b & 0x80 != 0);
                let bits = u16::try_from(modulus.len() * 8).ok();
                let usual = whole && *exponent == u64::from(DEFAULT_RSA_EXPONENT);
                bits.filter(|_| usual).map(Kind::Rsa)
            }
            SubjectKey::Ec { curve, .. } => Some(Kind::Ec(*curve)),
        };
        Self::ALL
            .into_iter()
            .filter(move |template| Some(template.kind()) == kind)
    }

    /// TPMT_PUBLIC of a key with this `unique`.
    fn public_area(self, kind: Kind, unique: &[&[u8]]) -> Vec<u8> {
        let fixed = self.fixed();
        let mut raw = Vec::with_capacity(640);
        let object_type = if matches!(kind, Kind::Rsa(_)) { ALG_RSA } else { ALG_ECC };
        raw.extend(object_type.to_be_bytes());
        raw.extend(fixed.name_alg.tpm_id().to_be_bytes());
        raw.extend(fixed.attributes.0.to_be_bytes());
        push_sized(&mut raw, fixed.auth_policy);
        for id in [ALG_AES, fixed.aes_bits, ALG_CFB, ALG_NULL] {
            raw.extend(id.to_be_bytes());
        }
        match kind {
            Kind::Rsa(bits) => {
                raw.extend(bits.to_be_bytes());
                raw.extend(0u32.to_be_bytes()); // the templates write 65537 as 0
            }
            Kind::Ec(curve) => {
                raw.extend(curve.tpm_id().to_be_bytes());
                raw.extend(ALG_NULL.to_be_bytes());
            }
        }
        unique.iter().for_each(|part| push_sized(&mut raw, part));
        raw
    }
}

/// Kinds of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// RSA with this many bits.
    Rsa(u16),
    /// A curve.
    Ec(Curve),
}

/// Keys that templates have.
const KINDS: &str = "RSA-2048, RSA-3072, RSA-4096, P-256, P-384 or P-521";

/// Why a key is no endorsement key that can be used here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EkError {
    /// No template has such a key.
    #[error("endorsement key: expected {KINDS}, found {found}")]
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
            EkError::Kind { found } => (KINDS.into(), found.clone()),
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
    /// [`EkError`] with the first field that differs from the template of its kind: of the low range, where the kind has
    /// two and neither fits.
    pub fn check_ek(&self) -> Result<CheckedEk<'_>, EkError> {
        let mut refusal = EkError::Kind {
            found: self.describe_key(),
        };
        for (attempt, template) in EkTemplate::for_key(&self.subject_key()).enumerate() {
            match self.check_template(template) {
                Ok(()) => return Ok(CheckedEk { public: self, template }),
                Err(e) if attempt == 0 => refusal = e,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    fn check_template(&self, template: EkTemplate) -> Result<(), EkError> {
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
        must("kdf", kdf, "Null".into(), "another".into())
    }
}

/// The public area of the endorsement key in a certificate, by the template of its kind: of the low range, where there
/// are two.
///
/// An EK certificate alone thus gives everything that a credential needs.
///
/// # Errors
/// [`EkError::Kind`] for keys that no supported template has.
pub fn ek_public_from_key(key: &SubjectKey) -> Result<Public, EkError> {
    let unsupported = || EkError::Kind { found: key.describe() };
    let template = EkTemplate::for_key(key).next().ok_or_else(unsupported)?;
    let raw = match key {
        SubjectKey::Rsa { modulus, .. } => template.public_area(template.kind(), &[modulus]),
        SubjectKey::Ec { x, y, .. } => template.public_area(template.kind(), &[x, y]),
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_recognised_as_itself() {
        for template in EkTemplate::ALL {
            let kind = template.kind();
            let unique: Vec<Vec<u8>> = match kind {
                Kind::Rsa(bits) => vec![vec![0xFF; usize::from(bits) / 8]],
                Kind::Ec(curve) => vec![vec![0x01; curve.field_len()]; 2],
            };
            let parts: Vec<&[u8]> = unique.iter().map(Vec::as_slice).collect();
            let public = Public::parse(&template.public_area(kind, &parts)).unwrap();
            let checked = public.check_ek().unwrap();
            assert_eq!(checked.template(), template);
            assert_eq!(checked.symmetric_key_bits(), template.fixed().aes_bits);
            // A certificate alone stands for the low range where a kind has two.
            let from_key = ek_public_from_key(&public.subject_key()).unwrap();
            let first = EkTemplate::for_key(&public.subject_key()).next().unwrap();
            assert_eq!(from_key.check_ek().unwrap().template(), first);
        }
        let mut indices: Vec<u32> = EkTemplate::ALL.iter().map(|t| t.certificate_index()).collect();
        indices.sort_unstable();
        indices.dedup();
        assert_eq!(indices.len(), EkTemplate::ALL.len());
    }

    #[test]
    fn creation_templates_have_the_unique_field_of_their_range() {
        let low = EkTemplate::L2P256.creation_template();
        assert!(low.ends_with(&[[0, 32].as_slice(), &[0; 32], &[0, 32], &[0; 32]].concat()));
        let high = EkTemplate::H2P256.creation_template();
        assert!(high.ends_with(&[0x00, 0x03, 0x00, 0x10, 0, 0, 0, 0]));
    }
}
