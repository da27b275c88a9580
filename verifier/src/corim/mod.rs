//! Reference values: CoRIM (draft-ietf-rats-corim-11), signed, in our TPM register profile.
//!
//! Only [`UntrustedCorim::verify`] makes a [`VerifiedCorim`]: an unsigned reference value cannot be represented where
//! one is used. Values are read from the payload that was signed, never from a copy.
//!
//! The profile: one reference triple a machine state; environment class vendor `touchstone`, model the reference's
//! name; per bank one measurement `pcr/<bank>` with the registers as integrity-registers, one measurement
//! `event/<bank>/<register>/<sequence>` an event, with its digest, as name type and description, and as raw value the
//! data where the comparison needs them; and one measurement `file/<sequence>` a file, with its digest and, as name,
//! its path. Confidential VMs have a profile each, which adds their own measurements: see [`snp`] and [`tdx`]. Files of the first days have one bank a triple and no data: they are read alike.

pub mod amd;
mod endorses;
mod error;
pub mod gpu;
mod model;
mod read;
pub mod snp;
pub mod tdx;
#[cfg(test)]
mod tests;
pub mod vendor;
mod write;

use ::corim::ValidationError;
use ::corim::cbor::DecodeLimits;
use ::corim::types::corim::ProfileChoice;
use ::corim::types::triples::TriplesMap;
use ::corim::validate::{ValidatedCorim, decode_and_validate_full_at_with_limits};
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_cose::cwt::{self, CwtError, claim};
use touchstone_cose::key::{KeyError, Signer, VerifyingKey};
use touchstone_cose::sign1::{self, CoseError, Protected, ThirdParty, label};

pub use endorses::Endorses;
pub use error::CorimError;
pub use model::{BankValues, FileDigest, MachineReference, ReferenceEvent};

use crate::ima::FileSet;
use crate::reason::sanitise;
use crate::reference::Reference;
use crate::tpm::HashAlg;

/// URI of our TPM register profile.
pub const PROFILE: &str = "tag:touchstone.dev,2026:corim/tpm-pcr/1";
/// Every profile of ours.
pub const PROFILES: [&str; 4] = [PROFILE, snp::PROFILE, tdx::PROFILE, gpu::PROFILE];
/// Content type of the payload (draft-ietf-rats-corim-11, 4.2.1).
pub const CONTENT_TYPE: &str = "application/rim+cbor";
/// Longest signed CoRIM, in bytes.
pub const MAX_CORIM: usize = 48 << 20;
/// Most references in one CoRIM.
pub const MAX_REFERENCES: usize = 64;
/// Most events of one bank of a reference.
pub const MAX_REFERENCE_EVENTS: usize = 4096;
/// Most files of one reference.
pub const MAX_REFERENCE_FILES: usize = 200_000;
/// Longest data of a reference's event, in bytes: a `dbx` of today has 25 KB.
pub const MAX_EVENT_REFERENCE_DATA: usize = 256 << 10;
/// Longest path of a reference's file, in bytes (PATH_MAX of Linux).
pub const MAX_FILE_PATH: usize = 4096;
/// Longest name of a reference or a signer, in bytes.
pub const MAX_NAME: usize = 128;

/// First bytes of a CoRIM without a signature: tag 501.
const UNSIGNED: [u8; 3] = [0xD9, 0x01, 0xF5];
/// What the COSE envelope may cost: a handful of items around one long byte string.
const ENVELOPE: Limits = Limits {
    max_bytes: MAX_CORIM,
    max_depth: 8,
    max_items: 64,
};
/// What the payload's outer map may cost.
const PAYLOAD: Limits = Limits {
    max_bytes: MAX_CORIM,
    max_depth: 16,
    max_items: 1 << 12,
};
/// How deep the payload with its embedded tags may be.
const MAX_DEPTH: usize = 24;
/// How many values the payload with its embedded tags may have: a file takes twelve.
const MAX_VALUES: usize = 1 << 22;
/// How many entries one array or map of the payload may have: all files and events of one reference.
const MAX_COLLECTION_ITEMS: usize = 1 << 18;
/// Environment class vendor of every reference of this profile.
const VENDOR: &str = "touchstone";
/// rim-validity must have an end; this one, the last second of the year 9999, stands for none.
const NO_END: i64 = 253_402_300_799;

/// Someone whose signature on reference values counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedSigner {
    /// Its name: the issuer the CoRIM must name.
    pub name: String,
    /// Its key.
    pub key: VerifyingKey,
    /// Last second at which its signatures count, Unix seconds.
    pub not_after: Option<i64>,
}

/// Received bytes that claim to be reference values.
#[derive(Debug, Clone)]
pub struct UntrustedCorim<'a>(&'a [u8]);

impl<'a> UntrustedCorim<'a> {
    /// Takes the bytes; nothing is read yet.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Checks signature, signer, profile and validity at `now` (Unix seconds), and reads the references from what was
    /// signed.
    ///
    /// # Errors
    /// [`CorimError`]; the contents are looked at only after the signature.
    pub fn verify(&self, signers: &[TrustedSigner], now: i64) -> Result<VerifiedCorim, CorimError> {
        let bytes = self.0;
        if bytes.len() > MAX_CORIM {
            return Err(CorimError::TooLarge {
                limit: MAX_CORIM,
                found: bytes.len(),
            });
        }
        if bytes.starts_with(&UNSIGNED) {
            return Err(CorimError::Unsigned);
        }
        let envelope = ThirdParty::parse(bytes, ENVELOPE).map_err(|error| match error {
            CoseError::Algorithm { .. } => CorimError::Algorithm(error),
            other => CorimError::Envelope(other),
        })?;
        let signer = find_signer(&envelope, signers)?;
        if let Some(not_after) = signer.not_after.filter(|not_after| *not_after < now) {
            return Err(CorimError::SignerExpired {
                signer: signer.name.clone(),
                not_after,
                now,
            });
        }
        let verified = envelope
            .verify_third_party(&signer.key, CONTENT_TYPE, &[])
            .map_err(|error| signature_error(error, &signer.name))?;
        let claims = SignatureClaims::read(verified.protected(label::CWT_CLAIMS))?;
        if claims.issuer != signer.name {
            return Err(CorimError::SignerUnknown {
                found: sanitise(&claims.issuer, MAX_NAME),
            });
        }
        check_window(claims.nbf, claims.exp, now)?;
        let (references, validity) = read_payload(verified.payload(), now)?;
        let not_before = claims.nbf.max(validity.0);
        // exp is the first second that no longer counts (RFC 8392), the other two are the last that does.
        let not_after = claims.exp.map_or(i64::MAX, |exp| exp.saturating_sub(1));
        let not_after = not_after.min(validity.1).min(signer.not_after.unwrap_or(i64::MAX));
        let digest = HashAlg::Sha256.digest([bytes]).as_ref().try_into().unwrap_or_default();
        Ok(VerifiedCorim {
            references,
            signer: signer.name.clone(),
            not_before,
            not_after,
            digest,
        })
    }
}

/// Reference values whose signature was found good. Only [`UntrustedCorim::verify`] makes one.
///
/// No reference value counts without a signature: nobody else can make one, or change one.
///
/// ```compile_fail,E0451
/// use touchstone_verifier::corim::VerifiedCorim;
///
/// fn forged(signed: VerifiedCorim) -> VerifiedCorim {
///     VerifiedCorim { references: Vec::new(), ..signed }
/// }
/// ```
/// ```compile_fail,E0616
/// use touchstone_verifier::corim::VerifiedCorim;
///
/// fn widened(signed: &mut VerifiedCorim) {
///     signed.references.clear();
/// }
/// ```
/// ```compile_fail,E0616
/// use touchstone_verifier::corim::VerifiedCorim;
///
/// fn prolonged(signed: &mut VerifiedCorim) {
///     signed.not_after = i64::MAX;
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCorim {
    references: Vec<MachineReference>,
    signer: String,
    not_before: Option<i64>,
    not_after: i64,
    digest: [u8; 32],
}

impl VerifiedCorim {
    /// The references, in order of name.
    pub fn references(&self) -> &[MachineReference] {
        &self.references
    }

    /// Name of the signer.
    pub fn signer(&self) -> &str {
        &self.signer
    }

    /// The same, in the name of a part of the domain: its signer is called `<authority>/<signer>` from then on.
    #[must_use]
    pub fn under(mut self, authority: &str) -> Self {
        self.signer = format!("{authority}/{}", self.signer);
        self
    }

    /// First second of validity, if there is one.
    pub fn not_before(&self) -> Option<i64> {
        self.not_before
    }

    /// Last second of validity: the minimum over signature, contents and signer.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// SHA-256 of the signed file.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    pub(crate) fn into_references(self) -> impl Iterator<Item = Reference> {
        let Self {
            references,
            signer,
            not_before,
            not_after,
            ..
        } = self;
        references.into_iter().map(move |values| Reference {
            files: FileSet::shared(&values.files),
            values,
            authority: signer.clone(),
            not_before,
            not_after,
        })
    }
}

/// Signs an unsigned CoRIM (from [`MachineReference::to_corim_unsigned`]) in the name of `signer_name`.
///
/// `not_after` is the last second at which the signature counts, Unix seconds.
///
/// # Errors
/// [`CorimError::Sign`].
pub fn sign_corim(
    unsigned: &[u8],
    signer: &dyn Signer,
    signer_name: &str,
    not_after: Option<i64>,
) -> Result<Vec<u8>, CorimError> {
    let mut claims = vec![(claim::ISS, Value::text(signer_name))];
    claims.extend(not_after.map(|last| (claim::EXP, Value::int(last.saturating_add(1)))));
    let protected = Protected {
        typ: None,
        content_type: Some(CONTENT_TYPE.into()),
        extra: vec![(label::CWT_CLAIMS, Value::map(claims))],
    };
    Ok(sign1::sign(signer, &protected, unsigned, &[])?)
}

/// What a signature that does not hold under the key of `signer` is refused for.
fn signature_error(error: CoseError, signer: &str) -> CorimError {
    match error {
        CoseError::Key(KeyError::AlgorithmMismatch { .. }) | CoseError::AlgorithmMismatch { .. } => {
            CorimError::Algorithm(error)
        }
        CoseError::Key(_) => CorimError::SignatureInvalid { signer: signer.into() },
        other => CorimError::Envelope(other),
    }
}

/// The listed signer whose key the envelope names by key id or whole thumbprint.
fn find_signer<'s>(envelope: &ThirdParty, signers: &'s [TrustedSigner]) -> Result<&'s TrustedSigner, CorimError> {
    let Some(kid) = envelope.kid() else {
        return Err(CorimError::SignerUnknown {
            found: "a key without id".into(),
        });
    };
    signers
        .iter()
        .find(|signer| signer.key.kid() == kid || signer.key.thumbprint() == kid)
        .ok_or_else(|| CorimError::SignerUnknown {
            found: format!("key {}", hex::encode(kid.get(..32).unwrap_or(kid))),
        })
}

/// What the signature says about itself: CWT claims in the protected header (RFC 9597).
struct SignatureClaims {
    issuer: String,
    nbf: Option<i64>,
    exp: Option<i64>,
}

impl SignatureClaims {
    fn read(header: Option<&Value>) -> Result<Self, CorimError> {
        const EXPECTED: &str = "CWT claims with an issuer in the protected header";
        let malformed = |found: &str| CorimError::malformed(EXPECTED, found);
        let claims = header.ok_or_else(|| malformed("none"))?;
        if claims.as_map().is_none() {
            return Err(malformed(&claims.kind()));
        }
        let issuer = claims
            .get(claim::ISS)
            .and_then(Value::as_text)
            .ok_or_else(|| malformed("no issuer"))?;
        let time = |key| match claims.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_i64()
                .map(Some)
                .ok_or_else(|| malformed("a time that is no integer")),
        };
        Ok(Self {
            issuer: issuer.to_owned(),
            nbf: time(claim::NBF)?,
            exp: time(claim::EXP)?,
        })
    }
}

fn check_window(nbf: Option<i64>, exp: Option<i64>, now: i64) -> Result<(), CorimError> {
    cwt::check_window(nbf, exp.unwrap_or(i64::MAX), now, 0).map_err(|error| match error {
        CwtError::NotYetValid { .. } => CorimError::NotYetValid,
        _ => CorimError::Expired,
    })
}

/// First and last second of the contents' validity.
type Validity = (Option<i64>, i64);

fn read_payload(payload: &[u8], now: i64) -> Result<(Vec<MachineReference>, Validity), CorimError> {
    cbor::gate(payload, PAYLOAD).map_err(|error| CorimError::malformed("deterministic CBOR", error))?;
    let decoded = decode(payload, now)?;
    let profile = match &decoded.corim.profile {
        Some(ProfileChoice::Uri(uri)) if PROFILES.contains(&uri.as_str()) => uri.clone(),
        Some(ProfileChoice::Uri(uri)) => {
            return Err(CorimError::ProfileUnknown {
                found: sanitise(uri, MAX_NAME),
            });
        }
        Some(_) => {
            return Err(CorimError::ProfileUnknown {
                found: "an object identifier".into(),
            });
        }
        None => return Err(CorimError::ProfileUnknown { found: "none".into() }),
    };
    let (not_before, not_after) = validity(&decoded);
    let stated_end = decoded.corim.rim_validity.as_ref().map(|_| not_after);
    let references = read::read(decoded, &profile, not_before, stated_end)?;
    Ok((references, (not_before, not_after)))
}

/// The payload's types, checked against the draft's own rules.
fn decode(payload: &[u8], now: i64) -> Result<ValidatedCorim, CorimError> {
    let mut limits = DecodeLimits::default();
    (limits.max_input_bytes, limits.max_depth) = (MAX_CORIM, MAX_DEPTH);
    (limits.max_values, limits.max_collection_items) = (MAX_VALUES, MAX_COLLECTION_ITEMS);
    decode_and_validate_full_at_with_limits(payload, now, &limits).map_err(|error| match error {
        ValidationError::Expired => CorimError::Expired,
        ValidationError::NotYetValid => CorimError::NotYetValid,
        other => CorimError::malformed("a CoRIM (draft-ietf-rats-corim-11)", other),
    })
}

/// First and last second of the contents' validity.
fn validity(decoded: &ValidatedCorim) -> Validity {
    let validity = decoded.corim.rim_validity.as_ref();
    let not_before = validity
        .and_then(|validity| validity.not_before)
        .map(|time| time.epoch_secs());
    (
        not_before,
        validity.map_or(i64::MAX, |validity| validity.not_after.epoch_secs()),
    )
}

/// Nothing but reference triples: another kind would say something that is not looked at.
fn reference_triples_only(triples: &TriplesMap) -> Result<(), CorimError> {
    let others = triples.endorsed_triples.is_some()
        || triples.identity_triples.is_some()
        || triples.attest_key_triples.is_some()
        || triples.dependency_triples.is_some()
        || triples.membership_triples.is_some()
        || triples.coswid_triples.is_some()
        || triples.conditional_endorsement_series.is_some()
        || triples.conditional_endorsement.is_some();
    if others {
        return Err(CorimError::malformed(
            "reference triples only",
            "another kind of triple",
        ));
    }
    Ok(())
}

/// Algorithm number in the IANA Named Information registry, which CoRIM digests use; none for SHA-1.
const fn named_information_id(algorithm: HashAlg) -> Option<i64> {
    match algorithm {
        HashAlg::Sha256 => Some(1),
        HashAlg::Sha384 => Some(7),
        HashAlg::Sha512 => Some(8),
        HashAlg::Sha1 => None,
    }
}
