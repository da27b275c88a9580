//! CoRIMs of vendors: signed in their own way, kept as they are, and used only where they say register values.
//!
//! Source: draft-ietf-rats-corim-11, 4 (signature, corim-meta), 5.1.4 (measurements). A vendor's signature counts where
//! the domain's policy lists the vendor's key; what it says counts where there is no profile (or ours) and every
//! measurement is a register of a TPM: `integrity-registers` 0 to 23, or digests under a register's number as
//! measurement key; or where it has AMD's draft profile for SEV-SNP guests ([`amd`]). A profile changes what measurements
//! mean, so an unknown one is refused whole; so is everything else that is not understood to the last item.

use std::collections::BTreeMap;

use ::corim::types::common::MeasuredElement;
use ::corim::types::corim::ProfileChoice;
use ::corim::types::environment::EnvironmentMap;
use ::corim::types::measurement::{Digest, DigestAlg, IntegrityRegisterId, MeasurementMap, MeasurementValuesMap};
use ::corim::validate::ValidatedCorim;
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_cose::cwt::claim;
use touchstone_cose::key::VerifyingKey;
use touchstone_cose::sign1::{CoseError, ThirdParty, label};

use super::{
    BankValues, CONTENT_TYPE, CorimError, ENVELOPE, MAX_NAME, MAX_REFERENCES, MachineReference, PROFILES, UNSIGNED,
    UntrustedCorim, VerifiedCorim, amd, check_window, decode, named_information_id, read_payload,
};
use crate::eventlog::REGISTERS;
use crate::reason::sanitise;
use crate::tpm::HashAlg;

/// Longest CoRIM of a vendor, in bytes: every firmware of a product line has its values in less.
pub const MAX_VENDOR_CORIM: usize = 4 << 20;
/// Content type of older tools (drafts before -09), accepted in vendors' files only.
const OLD_CONTENT_TYPE: &str = "application/corim-unsigned+cbor";
/// Header of the signature's own metadata (corim-meta).
const CORIM_META: i64 = 8;
/// Tags of a CoRIM, of a CoMID in it, and of a time (RFC 8949, 3.4.2).
const TAG_CORIM: u64 = 501;
const TAG_COMID: u64 = 506;
const TAG_TIME: u64 = 1;
/// What reading a vendor's file once more, for double keys, may cost.
const CONTENTS: Limits = Limits {
    max_bytes: MAX_VENDOR_CORIM,
    max_depth: 24,
    max_items: 1 << 18,
};
/// What every measurement must be.
const MEASUREMENTS: &str =
    "values of TPM registers (integrity-registers 0 to 23, or digests under a register's number)";

/// A vendor whose CoRIMs count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VendorSigner {
    /// Its name in this domain: the authority its values have.
    pub name: String,
    /// What it calls itself in its signatures.
    pub issuer: String,
    /// Its key.
    pub key: VerifyingKey,
    /// Last second at which its signatures count, Unix seconds.
    pub not_after: Option<i64>,
}

/// What the signature says about itself, in CWT claims or corim-meta.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Meta {
    issuer: String,
    not_before: Option<i64>,
    not_after: Option<i64>,
}

impl UntrustedCorim<'_> {
    /// Checks a vendor's signature, profile and validity at `now` (Unix seconds), and reads the registers from what was
    /// signed.
    ///
    /// # Errors
    /// [`CorimError`]; the contents are looked at only after the signature.
    pub fn verify_vendor(&self, signers: &[VendorSigner], now: i64) -> Result<VerifiedCorim, CorimError> {
        let claimed = self.claimed_issuer();
        let named = |signer: &&VendorSigner| claimed.as_deref() == Some(signer.issuer.as_str());
        let unknown = || CorimError::SignerUnknown {
            found: claimed
                .clone()
                .map_or_else(|| "nobody".into(), |issuer| sanitise(&issuer, MAX_NAME)),
        };
        // Several keys of one vendor: the signature tells which, and one of them must be it.
        let mut result = Err(unknown());
        for signer in signers.iter().filter(named) {
            result = self.verify_by(signer, now);
            if !matches!(
                result,
                Err(CorimError::SignatureInvalid { .. } | CorimError::Algorithm(_))
            ) {
                break;
            }
        }
        if result.is_err() && self.0.starts_with(&UNSIGNED) {
            return Err(CorimError::Unsigned);
        }
        result
    }

    /// Who the signature says has made it. A claim, until [`verify_vendor`](Self::verify_vendor) has checked it.
    pub fn claimed_issuer(&self) -> Option<String> {
        let header = header(self.0)?;
        Meta::read(header.get(label::CWT_CLAIMS), header.get(CORIM_META))
            .ok()
            .map(|meta| meta.issuer)
    }

    fn verify_by(&self, signer: &VendorSigner, now: i64) -> Result<VerifiedCorim, CorimError> {
        let bytes = self.0;
        if bytes.len() > MAX_VENDOR_CORIM {
            return Err(CorimError::TooLarge {
                limit: MAX_VENDOR_CORIM,
                found: bytes.len(),
            });
        }
        let envelope = ThirdParty::parse(bytes, ENVELOPE).map_err(|error| match error {
            CoseError::Algorithm { .. } => CorimError::Algorithm(error),
            other => CorimError::Envelope(other),
        })?;
        // Which of the two content types it is, is looked at here and checked again with the signature.
        let old = header(bytes)
            .is_some_and(|header| header.get(label::CONTENT_TYPE).and_then(Value::as_text) == Some(OLD_CONTENT_TYPE));
        let content_type = if old { OLD_CONTENT_TYPE } else { CONTENT_TYPE };
        let verified = envelope
            .verify_third_party(&signer.key, content_type, &[])
            .map_err(|error| super::signature_error(error, &signer.name))?;
        if let Some(not_after) = signer.not_after.filter(|not_after| *not_after < now) {
            return Err(CorimError::SignerExpired {
                signer: signer.name.clone(),
                not_after,
                now,
            });
        }
        let meta = Meta::read(verified.protected(label::CWT_CLAIMS), verified.protected(CORIM_META))?;
        if meta.issuer != signer.issuer {
            return Err(CorimError::SignerUnknown {
                found: sanitise(&meta.issuer, MAX_NAME),
            });
        }
        check_window(meta.not_before, meta.not_after.map(|last| last.saturating_add(1)), now)?;
        let (references, validity) = contents(verified.payload(), now)?;
        let ends = [meta.not_after, Some(validity.1), signer.not_after];
        let digest = HashAlg::Sha256.digest([bytes]).as_ref().try_into().unwrap_or_default();
        Ok(VerifiedCorim {
            references,
            signer: signer.name.clone(),
            not_before: meta.not_before.max(validity.0),
            not_after: ends.into_iter().flatten().min().unwrap_or(i64::MAX),
            digest,
        })
    }
}

/// The protected header, unchecked.
fn header(bytes: &[u8]) -> Option<Value> {
    let envelope = cbor::decode_lenient_order(bytes, ENVELOPE).ok()?;
    let Value::Tag(_, envelope) = envelope else { return None };
    let header = envelope.as_array()?.first()?.as_bytes()?;
    cbor::decode_lenient_order(header, ENVELOPE).ok()
}

impl Meta {
    /// From whichever is there; where both are, they must say the same (draft-ietf-rats-corim-11, 4.2.3).
    fn read(claims: Option<&Value>, meta: Option<&Value>) -> Result<Self, CorimError> {
        let claims = claims.map(Self::from_claims).transpose()?;
        let meta = meta.map(Self::from_corim_meta).transpose()?;
        match (claims, meta) {
            (Some(claims), Some(meta)) if claims != meta => {
                let expected = "CWT claims and corim-meta that say the same";
                Err(CorimError::malformed(expected, "two makers or validities"))
            }
            (Some(found), _) | (None, Some(found)) => Ok(found),
            (None, None) => Err(CorimError::malformed("a signature that names its maker", "none")),
        }
    }

    fn from_claims(claims: &Value) -> Result<Self, CorimError> {
        let wrong = || CorimError::malformed("CWT claims with an issuer", claims.kind());
        let last = time(claims.get(claim::EXP), wrong)?.map(|end| end.saturating_sub(1));
        Ok(Self {
            issuer: claims
                .get(claim::ISS)
                .and_then(Value::as_text)
                .ok_or_else(wrong)?
                .to_owned(),
            not_before: time(claims.get(claim::NBF), wrong)?,
            not_after: last,
        })
    }

    fn from_corim_meta(meta: &Value) -> Result<Self, CorimError> {
        let wrong = || CorimError::malformed("corim-meta with a signer's name", "another");
        let bytes = meta.as_bytes().ok_or_else(wrong)?;
        let meta = cbor::decode_lenient_order(bytes, ENVELOPE).map_err(|_| wrong())?;
        let name = meta.get(0).and_then(|signer| signer.get(0)).and_then(Value::as_text);
        let validity = meta.get(1);
        Ok(Self {
            issuer: name.ok_or_else(wrong)?.to_owned(),
            not_before: time(validity.and_then(|validity| validity.get(0)), wrong)?,
            not_after: time(validity.and_then(|validity| validity.get(1)), wrong)?,
        })
    }
}

/// A time, tagged or not.
fn time(value: Option<&Value>, wrong: impl Fn() -> CorimError) -> Result<Option<i64>, CorimError> {
    match value {
        None => Ok(None),
        Some(Value::Tag(TAG_TIME, time)) => time.as_i64().map(Some).ok_or_else(wrong),
        Some(time) => time.as_i64().map(Some).ok_or_else(wrong),
    }
}

fn contents(payload: &[u8], now: i64) -> Result<(Vec<MachineReference>, super::Validity), CorimError> {
    one_reading_only(payload)?;
    let decoded = decode(payload, now)?;
    match &decoded.corim.profile {
        None => {
            let validity = super::validity(&decoded);
            Ok((read(decoded)?, validity))
        }
        Some(ProfileChoice::Uri(uri)) if PROFILES.contains(&uri.as_str()) => read_payload(payload, now),
        Some(ProfileChoice::Uri(uri)) if amd::PROFILES.contains(&uri.as_str()) => {
            let validity = super::validity(&decoded);
            Ok((amd::read(decoded)?, validity))
        }
        Some(ProfileChoice::Uri(uri)) => Err(CorimError::ProfileUnknown {
            found: sanitise(uri, MAX_NAME),
        }),
        Some(_) => Err(CorimError::ProfileUnknown {
            found: "an object identifier".into(),
        }),
    }
}

/// Vendors need not write maps in order, but no key may stand twice, in the CoRIM or in a tag inside it.
fn one_reading_only(payload: &[u8]) -> Result<(), CorimError> {
    let wrong = |error| CorimError::malformed("CBOR with one reading only", error);
    let corim = cbor::decode_lenient_order(payload, CONTENTS).map_err(wrong)?;
    let Value::Tag(TAG_CORIM, corim) = corim else {
        return Err(CorimError::malformed("an unsigned CoRIM (tag 501) inside", "another"));
    };
    for tag in corim.get(1).and_then(Value::as_array).unwrap_or_default() {
        if let Value::Tag(TAG_COMID, comid) = tag {
            let comid = comid
                .as_bytes()
                .ok_or_else(|| CorimError::malformed("a CoMID in bytes", "another"))?;
            cbor::decode_lenient_order(comid, CONTENTS).map_err(wrong)?;
        }
    }
    Ok(())
}

fn read(decoded: ValidatedCorim) -> Result<Vec<MachineReference>, CorimError> {
    if !decoded.cotls.is_empty() || !decoded.coswids.is_empty() || decoded.coswid_opaque_count != 0 {
        return Err(CorimError::malformed("CoMID tags only", "another kind of tag"));
    }
    if decoded.corim.dependent_rims.is_some() {
        return Err(CorimError::malformed("all values in one file", "dependent-rims"));
    }
    let validity = super::validity(&decoded);
    let mut references: BTreeMap<String, MachineReference> = BTreeMap::new();
    for comid in decoded.comids {
        let triples = comid.triples;
        if comid.linked_tags.is_some() {
            return Err(CorimError::malformed("tags that stand alone", "linked-tags"));
        }
        super::reference_triples_only(&triples)?;
        for triple in triples.reference_triples.into_iter().flatten() {
            let name = class_name(triple.environment())?;
            let reference = references.entry(name).or_default();
            for measurement in triple.1 {
                read_measurement(measurement, reference)?;
            }
        }
    }
    if references.is_empty() || references.len() > MAX_REFERENCES {
        return Err(CorimError::malformed("1 to 64 references", references.len()));
    }
    let mut read = Vec::with_capacity(references.len());
    for (name, mut reference) in references {
        reference.name = name;
        reference.not_before = validity.0;
        reference.not_after = Some(validity.1).filter(|end| *end != i64::MAX);
        reference.check()?;
        read.push(reference);
    }
    Ok(read)
}

/// The name of a class of machines. What is meant for one machine or a group of them is no reference for all.
fn class_name(environment: &EnvironmentMap) -> Result<String, CorimError> {
    let wrong = || CorimError::malformed("an environment that is a class with vendor or model", "another");
    if environment.instance.is_some() || environment.group.is_some() {
        return Err(wrong());
    }
    let class = environment.class.as_ref().ok_or_else(wrong)?;
    let words = [class.vendor.as_deref(), class.model.as_deref()];
    let mut name = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
    if name.is_empty() {
        return Err(wrong());
    }
    if let Some(layer) = class.layer {
        name += &format!(" layer {layer}");
    }
    if let Some(index) = class.index {
        name += &format!(" index {index}");
    }
    Ok(sanitise(&name, MAX_NAME))
}

fn read_measurement(measurement: MeasurementMap, reference: &mut MachineReference) -> Result<(), CorimError> {
    let wrong = |found: &str| CorimError::malformed(MEASUREMENTS, found);
    if measurement.authorized_by.is_some() {
        return Err(wrong("authorized-by"));
    }
    let mut values = measurement.mval;
    values.name = None;
    let (registers, digests) = (values.integrity_registers.take(), values.digests.take());
    if values != MeasurementValuesMap::new() {
        return Err(wrong("another kind of value"));
    }
    match (measurement.mkey, registers, digests) {
        (None, Some(registers), None) => {
            for (id, digests) in registers.0 {
                let IntegrityRegisterId::Uint(register) = id else {
                    return Err(wrong("a register with a name"));
                };
                set(reference, register, &digests)?;
            }
            Ok(())
        }
        (Some(MeasuredElement::Uint(register)), None, Some(digests)) => set(reference, register, &digests),
        (Some(MeasuredElement::Uint(_)), _, _) => Err(wrong("a number with something else than digests")),
        (Some(_), _, _) => Err(wrong("a measurement key that is no register's number")),
        (None, _, _) => Err(wrong("digests of something without a number")),
    }
}

/// Puts a register's value, one an algorithm, into the banks.
fn set(reference: &mut MachineReference, register: u64, digests: &[Digest]) -> Result<(), CorimError> {
    let wrong = |found: &str| CorimError::malformed(MEASUREMENTS, found);
    let pcr = u8::try_from(register).ok().filter(|pcr| u32::from(*pcr) < REGISTERS);
    let pcr = pcr.ok_or_else(|| wrong("a register above 23"))?;
    if digests.is_empty() {
        return Err(wrong("a register without a value"));
    }
    for digest in digests {
        let known = HashAlg::ALL.into_iter().find(|algorithm| {
            let id = named_information_id(*algorithm).map(DigestAlg::Int);
            id.is_some_and(|id| *digest.alg() == id)
        });
        let bank = known.ok_or_else(|| wrong("a digest of an unknown algorithm"))?;
        let values: &mut BankValues = reference.banks.entry(bank).or_default();
        // A second value would be a choice.
        if values.registers.insert(pcr, digest.value().to_vec()).is_some() {
            return Err(wrong("a register that has a value already"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
