//! CoMID measurements to references.

use std::collections::BTreeMap;

use ::corim::types::common::MeasuredElement;
use ::corim::types::environment::EnvironmentMap;
use ::corim::types::measurement::{
    Digest, DigestAlg, IntegrityRegisterId, MeasurementMap, MeasurementValuesMap, RawValueChoice,
};
use ::corim::validate::ValidatedCorim;

use super::{
    CorimError, FileDigest, MAX_REFERENCE_EVENTS, MAX_REFERENCE_FILES, MAX_REFERENCES, MachineReference, NO_END,
    ReferenceEvent, VENDOR, gpu, named_information_id, snp, tdx,
};
use crate::eventlog::{EventType, MAX_DESCRIPTION};
use crate::tpm::HashAlg;

/// Longest measurement name of an event: its type and its description.
const MAX_EVENT_NAME: usize = MAX_DESCRIPTION + 64;
/// What measurement keys look like.
const KEYS: &str =
    "pcr/<bank>, event/<bank>/<register>/<sequence>, file/<sequence>, or a key of the SEV-SNP or TDX profile";

/// Reads every reference of a decoded CoRIM. What the profile does not know is refused, never skipped: half a reference
/// would be a lenient one.
///
/// The banks of one reference may lie in several triples, each bank in one only.
pub(super) fn read(
    decoded: ValidatedCorim,
    profile: &str,
    not_before: Option<i64>,
    not_after: Option<i64>,
) -> Result<Vec<MachineReference>, CorimError> {
    if !decoded.cotls.is_empty() || !decoded.coswids.is_empty() || decoded.coswid_opaque_count != 0 {
        return Err(CorimError::malformed("CoMID tags only", "another kind of tag"));
    }
    let mut references: BTreeMap<String, MachineReference> = BTreeMap::new();
    for comid in decoded.comids {
        let triples = comid.triples;
        super::reference_triples_only(&triples)?;
        for triple in triples.reference_triples.into_iter().flatten() {
            let name = reference_name(triple.environment())?;
            let part = read_triple(&name, triple.1)?;
            merge(references.entry(name).or_default(), part)?;
        }
    }
    if references.is_empty() || references.len() > MAX_REFERENCES {
        return Err(CorimError::malformed("1 to 64 references", references.len()));
    }
    let mut read = Vec::with_capacity(references.len());
    for (name, mut reference) in references {
        reference.name = name;
        (reference.not_before, reference.not_after) = (not_before, not_after.filter(|end| *end != NO_END));
        reference.check()?;
        if reference.profile() != profile {
            return Err(CorimError::malformed("the profile of what it states", profile));
        }
        read.push(reference);
    }
    Ok(read)
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

/// Adds another triple's part of the same reference. Two that state the same bank, or two lists of files, would be a
/// choice.
fn merge(reference: &mut MachineReference, part: MachineReference) -> Result<(), CorimError> {
    let twice = || CorimError::malformed("each reference once a bank, its files once", &part.name);
    if part.banks.keys().any(|bank| reference.banks.contains_key(bank))
        || (!part.files.is_empty() && !reference.files.is_empty())
        || (part.snp.is_some() && reference.snp.is_some())
        || (part.tdx.is_some() && reference.tdx.is_some())
        || (!part.gpus.is_empty() && !reference.gpus.is_empty())
    {
        return Err(twice());
    }
    reference.banks.extend(part.banks);
    reference.files.extend(part.files);
    reference.snp = part.snp.or(reference.snp.take());
    reference.tdx = part.tdx.or(reference.tdx.take());
    reference.gpus.extend(part.gpus);
    Ok(())
}

fn read_triple(name: &str, measurements: Vec<MeasurementMap>) -> Result<MachineReference, CorimError> {
    let mut draft = Draft::default();
    draft.reference.name = name.to_owned();
    for measurement in measurements {
        draft.read(measurement)?;
    }
    draft.reference.snp = draft.snp.finish()?;
    draft.reference.tdx = draft.tdx.finish()?;
    draft.reference.gpus = draft.gpus.finish()?;
    Ok(draft.reference)
}

/// A reference being read, and the number the next event of each register must have.
#[derive(Default)]
struct Draft {
    reference: MachineReference,
    next: BTreeMap<(HashAlg, u8), usize>,
    snp: snp::Draft,
    tdx: tdx::Draft,
    gpus: gpu::Draft,
}

impl Draft {
    fn read(&mut self, measurement: MeasurementMap) -> Result<(), CorimError> {
        let Some(MeasuredElement::Text(key)) = measurement.mkey else {
            return Err(CorimError::malformed("a text measurement key", "another"));
        };
        if measurement.authorized_by.is_some() {
            return Err(CorimError::malformed("no authorized-by", key));
        }
        if snp::is_key(&key) {
            return self.snp.read(&key, measurement.mval);
        }
        if tdx::is_key(&key) {
            return self.tdx.read(&key, measurement.mval);
        }
        if gpu::is_key(&key) {
            return self.gpus.read(&key, measurement.mval);
        }
        let unknown = || CorimError::malformed(KEYS, &key);
        let bank = |name: &str| HashAlg::from_name(name).filter(|bank| !bank.is_weak());
        let mut parts = key.split('/');
        let parts = [(); 5].map(|()| parts.next());
        match parts {
            [Some("pcr"), Some(name), None, ..] => {
                let bank = bank(name).ok_or_else(unknown)?;
                self.read_registers(bank, &key, measurement.mval)
            }
            [Some("event"), Some(name), Some(register), Some(sequence), None] => {
                let bank = bank(name).ok_or_else(unknown)?;
                let pcr = register.parse().map_err(|_| unknown())?;
                let sequence = sequence.parse().map_err(|_| unknown())?;
                self.read_event(bank, pcr, sequence, &key, measurement.mval)
            }
            [Some("file"), Some(sequence), None, ..] => {
                let sequence = sequence.parse().map_err(|_| unknown())?;
                self.read_file(sequence, &key, measurement.mval)
            }
            _ => Err(unknown()),
        }
    }

    fn read_registers(&mut self, bank: HashAlg, key: &str, mut map: MeasurementValuesMap) -> Result<(), CorimError> {
        let wrong = || CorimError::malformed("integrity registers only, once a bank", key);
        let values = self.reference.banks.entry(bank).or_default();
        let registers = map.integrity_registers.take().ok_or_else(wrong)?;
        if map != MeasurementValuesMap::new() || !values.registers.is_empty() {
            return Err(wrong());
        }
        for (id, digests) in registers.0 {
            let IntegrityRegisterId::Uint(pcr) = id else {
                return Err(wrong());
            };
            let pcr = u8::try_from(pcr).map_err(|_| wrong())?;
            let (alg, value) = only_digest(digests).ok_or_else(wrong)?;
            if alg != bank {
                return Err(wrong());
            }
            values.registers.insert(pcr, value);
        }
        Ok(())
    }

    fn read_event(
        &mut self,
        bank: HashAlg,
        pcr: u8,
        sequence: usize,
        key: &str,
        mut map: MeasurementValuesMap,
    ) -> Result<(), CorimError> {
        let event = event_of(bank, pcr, key, &mut map)?;
        if map != MeasurementValuesMap::new() {
            return Err(CorimError::malformed("nothing but an event", key));
        }
        let values = self.reference.banks.entry(bank).or_default();
        // Order within a register is the order of the events: the sequence must say so.
        let expected = self.next.entry((bank, pcr)).or_default();
        if values.events.len() >= MAX_REFERENCE_EVENTS || sequence != *expected {
            return Err(CorimError::malformed("events numbered in order", key));
        }
        *expected += 1;
        values.events.push(event);
        Ok(())
    }

    fn read_file(&mut self, sequence: usize, key: &str, mut map: MeasurementValuesMap) -> Result<(), CorimError> {
        let wrong = || CorimError::malformed("a digest and a path of a file", key);
        let (Some(digests), Some(path)) = (map.digests.take(), map.name.take()) else {
            return Err(wrong());
        };
        if map != MeasurementValuesMap::new() {
            return Err(wrong());
        }
        let files = &mut self.reference.files;
        if files.len() >= MAX_REFERENCE_FILES || sequence != files.len() {
            return Err(CorimError::malformed("at most 200,000 files, numbered in order", key));
        }
        let (algorithm, digest) = only_digest(digests).ok_or_else(wrong)?;
        files.push(FileDigest {
            algorithm,
            digest,
            path,
        });
        Ok(())
    }
}

/// The event that a measurement states of this register: digest, name and, where kept, data.
pub(super) fn event_of(
    bank: HashAlg,
    pcr: u8,
    key: &str,
    map: &mut MeasurementValuesMap,
) -> Result<ReferenceEvent, CorimError> {
    let wrong = || CorimError::malformed("a digest, a name and at most the data of an event", key);
    let (digests, text, raw) = (map.digests.take(), map.name.take(), map.raw_value.take());
    let (Some(digests), Some(text)) = (digests, text) else {
        return Err(wrong());
    };
    let data = match raw {
        None => None,
        Some(RawValueChoice::Bytes(data)) => Some(data),
        Some(_) => return Err(wrong()),
    };
    if text.len() > MAX_EVENT_NAME {
        return Err(wrong());
    }
    let (event_type, description) = text.split_once(' ').unwrap_or((&text, ""));
    let (alg, digest) = only_digest(digests).ok_or_else(wrong)?;
    if alg != bank {
        return Err(wrong());
    }
    Ok(ReferenceEvent {
        pcr,
        event_type: read_event_type(event_type).ok_or_else(wrong)?,
        digest,
        description: description.to_owned(),
        data,
    })
}

/// `EV_IPL`, or `EV_0x…` for a type without a name.
fn read_event_type(text: &str) -> Option<EventType> {
    EventType::from_name(text).or_else(|| u32::from_str_radix(text.strip_prefix("EV_0x")?, 16).ok().map(EventType))
}

/// The one digest of a list, of an algorithm of this profile: two would be a choice.
pub(super) fn only_digest(digests: Vec<Digest>) -> Option<(HashAlg, Vec<u8>)> {
    let [Digest(DigestAlg::Int(alg), value)] = <[Digest; 1]>::try_from(digests).ok()? else {
        return None;
    };
    let algorithm = HashAlg::ALL
        .into_iter()
        .find(|known| named_information_id(*known) == Some(alg))?;
    (value.len() == algorithm.digest_len()).then_some((algorithm, value))
}
