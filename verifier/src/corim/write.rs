//! References to CoMID measurements.

use std::collections::BTreeMap;

use ::corim::builder::{ComidBuilder, CorimBuilder};
use ::corim::types::common::{MeasuredElement, TagIdChoice};
use ::corim::types::corim::{CorimId, ProfileChoice};
use ::corim::types::environment::EnvironmentMap;
use ::corim::types::measurement::{
    Digest, IntegrityRegisterId, IntegrityRegisters, MeasurementMap, MeasurementValuesMap, RawValueChoice,
};
use ::corim::types::triples::ReferenceTriple;

use super::{
    BankValues, CorimError, FileDigest, MachineReference, NO_END, ReferenceEvent, VENDOR, named_information_id,
};
use crate::tpm::HashAlg;

impl MachineReference {
    /// The unsigned CoRIM (tag 501), deterministic. It counts for nothing before [`sign_corim`](super::sign_corim).
    ///
    /// # Errors
    /// [`CorimError::WeakBank`] for SHA-1; [`CorimError::Malformed`] for a name, digest or number over its limit.
    pub fn to_corim_unsigned(&self) -> Result<Vec<u8>, CorimError> {
        self.check()?;
        let mut measurements = Vec::new();
        for (bank, values) in &self.banks {
            bank_measurements(*bank, values, &mut measurements)?;
        }
        for (sequence, file) in self.files.iter().enumerate() {
            measurements.push(file_measurement(sequence, file)?);
        }
        if let Some(snp) = &self.snp {
            measurements.extend(super::snp::write(snp)?);
        }
        if let Some(tdx) = &self.tdx {
            measurements.extend(super::tdx::write(tdx)?);
        }
        measurements.extend(super::gpu::write(&self.gpus)?);
        let failed = |error: &dyn std::fmt::Display| CorimError::malformed("values a CoRIM can hold", error);
        let environment = EnvironmentMap::for_class(VENDOR, self.name.as_str());
        let comid = ComidBuilder::new(TagIdChoice::Text(format!("{VENDOR}/{}", self.name)))
            .add_reference_triple(ReferenceTriple::new(environment, measurements))
            .build()
            .map_err(|error| failed(&error))?;
        let mut corim = CorimBuilder::new(CorimId::Text(format!("{VENDOR}/{}", self.name)))
            .set_profile(ProfileChoice::Uri(self.profile().into()))
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
}

/// `pcr/<bank>` with every register that has a value, then `event/<bank>/<register>/<sequence>` an event.
fn bank_measurements(
    bank: HashAlg,
    values: &BankValues,
    measurements: &mut Vec<MeasurementMap>,
) -> Result<(), CorimError> {
    let alg = named_information_id(bank).ok_or(CorimError::WeakBank { bank })?;
    if !values.registers.is_empty() {
        let registers = values.registers.iter().map(|(pcr, value)| {
            (
                IntegrityRegisterId::Uint(u64::from(*pcr)),
                vec![Digest::new(alg, value.clone())],
            )
        });
        measurements.push(measurement(format!("pcr/{bank}"), |map| {
            map.integrity_registers = Some(IntegrityRegisters(registers.collect()));
        }));
    }
    event_measurements(&format!("event/{bank}"), bank, &values.events, measurements)
}

/// `<prefix>/<register>/<sequence>` an event.
pub(super) fn event_measurements(
    prefix: &str,
    bank: HashAlg,
    events: &[ReferenceEvent],
    measurements: &mut Vec<MeasurementMap>,
) -> Result<(), CorimError> {
    let alg = named_information_id(bank).ok_or(CorimError::WeakBank { bank })?;
    let mut next: BTreeMap<u8, usize> = BTreeMap::new();
    for event in events {
        let sequence = next.entry(event.pcr).or_default();
        let key = format!("{prefix}/{:02}/{:03}", event.pcr, sequence);
        *sequence += 1;
        measurements.push(measurement(key, |map| {
            map.digests = Some(vec![Digest::new(alg, event.digest.clone())]);
            map.raw_value = event.data.clone().map(RawValueChoice::Bytes);
            map.name = Some(format!("{} {}", event.event_type, event.description));
        }));
    }
    Ok(())
}

/// `file/<sequence>`.
fn file_measurement(sequence: usize, file: &FileDigest) -> Result<MeasurementMap, CorimError> {
    let alg = named_information_id(file.algorithm).ok_or(CorimError::WeakBank { bank: file.algorithm })?;
    Ok(measurement(format!("file/{sequence:06}"), |map| {
        map.digests = Some(vec![Digest::new(alg, file.digest.clone())]);
        map.name = Some(file.path.clone());
    }))
}

pub(super) fn measurement(key: String, fill: impl FnOnce(&mut MeasurementValuesMap)) -> MeasurementMap {
    let mut values = MeasurementValuesMap::new();
    fill(&mut values);
    MeasurementMap {
        mkey: Some(MeasuredElement::Text(key)),
        mval: values,
        authorized_by: None,
    }
}
