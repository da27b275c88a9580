//! Our TPM register profile: references to CoMID measurements and back.

use std::collections::BTreeMap;

use ::corim::builder::{ComidBuilder, CorimBuilder};
use ::corim::types::common::{MeasuredElement, TagIdChoice};
use ::corim::types::corim::{CorimId, ProfileChoice};
use ::corim::types::environment::EnvironmentMap;
use ::corim::types::measurement::{
    Digest, DigestAlg, IntegrityRegisterId, IntegrityRegisters, MeasurementMap, MeasurementValuesMap,
};
use ::corim::types::triples::ReferenceTriple;
use ::corim::validate::ValidatedCorim;

use super::{CorimError, MAX_NAME, MAX_REFERENCE_EVENTS, MAX_REFERENCES, PROFILE};
use crate::eventlog::{EventType, MAX_DESCRIPTION, REGISTERS};
use crate::tpm::HashAlg;

/// Environment class vendor of every reference of this profile.
const VENDOR: &str = "touchstone";
/// rim-validity must have an end; this one, the last second of the year 9999, stands for none.
const NO_END: i64 = 253_402_300_799;
/// Longest measurement name: an event type and a description.
const MAX_MEASUREMENT_NAME: usize = MAX_DESCRIPTION + 64;

/// One event of a reference: what was measured, in which order, and in words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReferenceEvent {
    /// The register.
    pub pcr: u8,
    /// Its type, for people and for choosing a reason's code.
    pub event_type: EventType,
    /// The digest in the reference's bank.
    pub digest: Vec<u8>,
    /// In words; commentary.
    pub description: String,
}

/// Reference values of one machine state in one bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmReference {
    /// Its name.
    pub name: String,
    /// The bank; never SHA-1.
    pub bank: HashAlg,
    /// Register values.
    pub registers: BTreeMap<u8, Vec<u8>>,
    /// The events that led to them, in the order of the log (where a log was there).
    pub events: Vec<ReferenceEvent>,
    /// First second of validity, Unix seconds.
    pub not_before: Option<i64>,
    /// Last second of validity, Unix seconds.
    pub not_after: Option<i64>,
}

impl TpmReference {
    /// The events of one register, in order.
    pub fn events_of(&self, pcr: u8) -> impl Iterator<Item = &ReferenceEvent> {
        self.events.iter().filter(move |event| event.pcr == pcr)
    }

    /// The unsigned CoRIM (tag 501), deterministic. It counts for nothing before [`sign_corim`](super::sign_corim).
    ///
    /// # Errors
    /// [`CorimError::WeakBank`] for SHA-1; [`CorimError::Malformed`] for a name, digest or number over its limit.
    pub fn to_corim_unsigned(&self) -> Result<Vec<u8>, CorimError> {
        let alg = named_information_id(self.bank).ok_or(CorimError::WeakBank { bank: self.bank })?;
        self.check()?;
        let registers = self.registers.iter().map(|(pcr, value)| {
            (
                IntegrityRegisterId::Uint(u64::from(*pcr)),
                vec![Digest::new(alg, value.clone())],
            )
        });
        let mut measurements = vec![measurement(format!("pcr/{}", self.bank), |values| {
            values.integrity_registers = Some(IntegrityRegisters(registers.collect()));
        })];
        let mut next: BTreeMap<u8, usize> = BTreeMap::new();
        for event in &self.events {
            let sequence = next.entry(event.pcr).or_default();
            let key = format!("event/{}/{:02}/{:03}", self.bank, event.pcr, sequence);
            *sequence += 1;
            measurements.push(measurement(key, |values| {
                values.digests = Some(vec![Digest::new(alg, event.digest.clone())]);
                values.name = Some(format!("{} {}", event.event_type, event.description));
            }));
        }
        let failed = |error: &dyn std::fmt::Display| CorimError::malformed("values a CoRIM can hold", error);
        let environment = EnvironmentMap::for_class(VENDOR, self.name.as_str());
        let comid = ComidBuilder::new(TagIdChoice::Text(format!("{VENDOR}/{}/{}", self.name, self.bank)))
            .add_reference_triple(ReferenceTriple::new(environment, measurements))
            .build()
            .map_err(|error| failed(&error))?;
        let mut corim = CorimBuilder::new(CorimId::Text(format!("{VENDOR}/{}", self.name)))
            .set_profile(ProfileChoice::Uri(PROFILE.into()))
            .add_comid_tag(comid)
            .map_err(|error| failed(&error))?;
        if self.not_before.is_some() || self.not_after.is_some() {
            let end = self.not_after.unwrap_or(NO_END);
            corim = corim
                .set_validity(self.not_before, end)
                .map_err(|error| failed(&error))?;
        }
        corim.build_bytes().map_err(|error| failed(&error))
    }

    /// The limits and lengths that reading checks as well.
    fn check(&self) -> Result<(), CorimError> {
        let wrong = |expected, found: &dyn std::fmt::Display| Err(CorimError::malformed(expected, found));
        if self.name.is_empty() || self.name.len() > MAX_NAME || self.name.chars().any(char::is_control) {
            return wrong(
                "a reference name of 1 to 128 bytes without control characters",
                &self.name,
            );
        }
        if self.registers.is_empty() {
            return wrong("at least one register", &"none");
        }
        if let Some((pcr, value)) = self
            .registers
            .iter()
            .find(|(pcr, value)| u32::from(**pcr) >= REGISTERS || value.len() != self.bank.digest_len())
        {
            return wrong(
                "registers 0 to 23 of the bank's length",
                &format!("register {pcr} of {} bytes", value.len()),
            );
        }
        if self.events.len() > MAX_REFERENCE_EVENTS {
            return wrong("at most 4096 events", &self.events.len());
        }
        if self.events.iter().any(|event| {
            u32::from(event.pcr) >= REGISTERS
                || event.digest.len() != self.bank.digest_len()
                || event.description.len() > MAX_DESCRIPTION
        }) {
            return wrong(
                "events of registers 0 to 23 with the bank's digests and short descriptions",
                &"another",
            );
        }
        Ok(())
    }
}

/// Algorithm number in the IANA Named Information registry, which CoRIM digests use.
const fn named_information_id(bank: HashAlg) -> Option<i64> {
    match bank {
        HashAlg::Sha256 => Some(1),
        HashAlg::Sha384 => Some(7),
        HashAlg::Sha512 => Some(8),
        HashAlg::Sha1 => None,
    }
}

fn measurement(key: String, fill: impl FnOnce(&mut MeasurementValuesMap)) -> MeasurementMap {
    let mut values = MeasurementValuesMap::new();
    fill(&mut values);
    MeasurementMap {
        mkey: Some(MeasuredElement::Text(key)),
        mval: values,
        authorized_by: None,
    }
}

/// Reads every reference of a decoded CoRIM. What the profile does not know is refused, never skipped: half a reference
/// would be a lenient one.
pub(super) fn read(
    decoded: &ValidatedCorim,
    not_before: Option<i64>,
    not_after: Option<i64>,
) -> Result<Vec<TpmReference>, CorimError> {
    if !decoded.cotls.is_empty() || !decoded.coswids.is_empty() || decoded.coswid_opaque_count != 0 {
        return Err(CorimError::malformed("CoMID tags only", "another kind of tag"));
    }
    let mut references: BTreeMap<(String, HashAlg), TpmReference> = BTreeMap::new();
    for comid in &decoded.comids {
        let triples = &comid.triples;
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
        for triple in triples.reference_triples.iter().flatten() {
            let name = reference_name(triple.environment())?;
            let mut states: BTreeMap<HashAlg, Draft> = BTreeMap::new();
            for measurement in triple.measurements() {
                read_measurement(measurement, &name, &mut states)?;
            }
            for (bank, Draft { mut state, .. }) in states {
                (state.not_before, state.not_after) = (not_before, not_after.filter(|end| *end != NO_END));
                state.check()?;
                if references.insert((name.clone(), bank), state).is_some() {
                    return Err(CorimError::malformed("each reference once a bank", &name));
                }
            }
        }
    }
    if references.is_empty() || references.len() > MAX_REFERENCES {
        return Err(CorimError::malformed("1 to 64 references", references.len()));
    }
    Ok(references.into_values().collect())
}

fn reference_name(environment: &EnvironmentMap) -> Result<String, CorimError> {
    let model = environment
        .class
        .as_ref()
        .and_then(|class| class.model.clone())
        .unwrap_or_default();
    if *environment != EnvironmentMap::for_class(VENDOR, model.as_str()) {
        return Err(CorimError::malformed(
            "an environment of class vendor touchstone and a model only",
            &model,
        ));
    }
    Ok(model)
}

/// A reference being read, and the number the next event of each register must have.
struct Draft {
    state: TpmReference,
    next: BTreeMap<u8, usize>,
}

fn read_measurement(
    measurement: &MeasurementMap,
    name: &str,
    states: &mut BTreeMap<HashAlg, Draft>,
) -> Result<(), CorimError> {
    let Some(MeasuredElement::Text(key)) = &measurement.mkey else {
        return Err(CorimError::malformed("a text measurement key", "another"));
    };
    let unknown = || CorimError::malformed("pcr/<bank> or event/<bank>/<register>/<sequence>", key);
    if measurement.authorized_by.is_some() {
        return Err(CorimError::malformed("no authorized-by", key));
    }
    let mut parts = key.split('/');
    let (kind, bank) = (
        parts.next().unwrap_or_default(),
        parts.next().and_then(HashAlg::from_name),
    );
    let bank = bank.filter(|bank| !bank.is_weak()).ok_or_else(unknown)?;
    let Draft { state, next } = states.entry(bank).or_insert_with(|| Draft {
        state: TpmReference {
            name: name.to_owned(),
            bank,
            registers: BTreeMap::new(),
            events: Vec::new(),
            not_before: None,
            not_after: None,
        },
        next: BTreeMap::new(),
    });
    let rest: Vec<&str> = parts.collect();
    let mut values = measurement.mval.clone();
    match (kind, rest.as_slice()) {
        ("pcr", []) => {
            let registers = values.integrity_registers.take().ok_or_else(unknown)?;
            if values != MeasurementValuesMap::new() || !state.registers.is_empty() {
                return Err(CorimError::malformed("integrity registers only, once a bank", key));
            }
            for (id, digests) in registers.0 {
                let IntegrityRegisterId::Uint(pcr) = id else {
                    return Err(unknown());
                };
                let pcr = u8::try_from(pcr).map_err(|_| unknown())?;
                state
                    .registers
                    .insert(pcr, only_digest(&digests, bank).ok_or_else(unknown)?);
            }
        }
        ("event", [register, sequence]) => {
            let pcr: u8 = register.parse().map_err(|_| unknown())?;
            let (digests, text) = (values.digests.take(), values.name.take());
            let (Some(digests), Some(text)) = (digests, text) else {
                return Err(unknown());
            };
            if values != MeasurementValuesMap::new() || text.len() > MAX_MEASUREMENT_NAME {
                return Err(CorimError::malformed("a digest and a name of an event", key));
            }
            // Order within a register is the order of the events: the sequence must say so.
            let expected = next.entry(pcr).or_default();
            if state.events.len() >= MAX_REFERENCE_EVENTS || sequence.parse() != Ok(*expected) {
                return Err(CorimError::malformed("events numbered in order", key));
            }
            *expected += 1;
            let (event_type, description) = text.split_once(' ').unwrap_or((&text, ""));
            state.events.push(ReferenceEvent {
                pcr,
                event_type: read_event_type(event_type).ok_or_else(unknown)?,
                digest: only_digest(&digests, bank).ok_or_else(unknown)?,
                description: description.to_owned(),
            });
        }
        _ => return Err(unknown()),
    }
    Ok(())
}

/// `EV_IPL`, or `EV_0x…` for a type without a name.
fn read_event_type(text: &str) -> Option<EventType> {
    EventType::from_name(text).or_else(|| u32::from_str_radix(text.strip_prefix("EV_0x")?, 16).ok().map(EventType))
}

/// The one digest of a list, of the bank's own algorithm: two would be a choice.
fn only_digest(digests: &[Digest], bank: HashAlg) -> Option<Vec<u8>> {
    match digests {
        [digest] if digest.alg() == &DigestAlg::Int(named_information_id(bank)?) => Some(digest.value().to_vec()),
        _ => None,
    }
}
