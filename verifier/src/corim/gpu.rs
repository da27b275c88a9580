//! The GPU profile: states of GPUs and NVSwitches, as CoMID measurements.
//!
//! Measurement keys, with the number of the state: `gpu/<n>/chip` (name), `gpu/<n>/driver` (name; none for a switch),
//! `gpu/<n>/vbios` (name), `gpu/<n>/mode` (name: `spt`, `mpt`, `ppcie`, `unstated`) and `gpu/<n>/measurements` (integrity
//! registers by number of the measurement block, each with the SHA-384 digests it may have; and as raw value the numbers
//! of the blocks about which nothing is stated, a byte each, ascending).

use std::collections::{BTreeMap, BTreeSet};

use ::corim::types::measurement::{
    Digest, DigestAlg, IntegrityRegisterId, IntegrityRegisters, MeasurementMap, MeasurementValuesMap, RawValueChoice,
};

use super::write::measurement;
use super::{CorimError, named_information_id};
use crate::gpu::{GpuReference, Mode, Product, Version};
use crate::tpm::HashAlg;

/// URI of this profile. A reference with it may state registers, events, files and a guest besides.
pub const PROFILE: &str = "tag:touchstone.dev,2026:corim/nvidia-gpu/1";
/// Most states of one reference.
pub const MAX_STATES: usize = 16;
/// Most digests that one block may have.
pub const MAX_ALTERNATIVES: usize = 16;
/// What measurement keys look like.
const KEYS: &str = "gpu/<number>/chip, driver, vbios, mode or measurements";

/// What writing and reading check alike.
pub(super) fn check(states: &[GpuReference]) -> Result<(), CorimError> {
    let wrong = |expected, found: &dyn std::fmt::Display| Err(CorimError::malformed(expected, found));
    if states.len() > MAX_STATES {
        return wrong("at most 16 states of GPUs", &states.len());
    }
    for state in states {
        if state.measurements.is_empty() {
            return wrong("at least one measurement a GPU", &state.describe());
        }
        let odd = |(index, digests): &(&u8, &BTreeSet<_>)| {
            digests.is_empty() || digests.len() > MAX_ALTERNATIVES || state.unstated.contains(index)
        };
        if let Some((index, _)) = state.measurements.iter().find(odd) {
            return wrong("1 to 16 digests of a block, or nothing stated of it", index);
        }
    }
    let different: BTreeSet<&GpuReference> = states.iter().collect();
    if different.len() != states.len() {
        return wrong("each state of a GPU once", &"one twice");
    }
    Ok(())
}

/// The measurements of the states.
pub(super) fn write(states: &[GpuReference]) -> Result<Vec<MeasurementMap>, CorimError> {
    let sha384 = named_information_id(HashAlg::Sha384).ok_or(CorimError::WeakBank { bank: HashAlg::Sha384 })?;
    let mut all = Vec::new();
    for (number, state) in states.iter().enumerate() {
        let texts = [
            ("chip", Some(state.product.as_str())),
            ("driver", state.driver.as_ref().map(Version::as_str)),
            ("vbios", Some(state.vbios.as_str())),
            ("mode", Some(state.mode.as_str())),
        ];
        for (field, text) in texts {
            let Some(text) = text else { continue };
            all.push(measurement(format!("gpu/{number:02}/{field}"), |map| {
                map.name = Some(text.to_owned());
            }));
        }
        let registers = state.measurements.iter().map(|(index, digests)| {
            let digests = digests.iter().map(|digest| Digest::new(sha384, digest.to_vec()));
            (IntegrityRegisterId::Uint(u64::from(*index)), digests.collect())
        });
        all.push(measurement(format!("gpu/{number:02}/measurements"), |map| {
            map.integrity_registers = Some(IntegrityRegisters(registers.collect()));
            let unstated: Vec<u8> = state.unstated.iter().copied().collect();
            map.raw_value = (!unstated.is_empty()).then_some(RawValueChoice::Bytes(unstated));
        }));
    }
    Ok(all)
}

/// Whether a measurement key is of this profile.
pub(super) fn is_key(key: &str) -> bool {
    key.starts_with("gpu/")
}

/// States being read: every key at most once.
#[derive(Debug, Default)]
pub(super) struct Draft(BTreeMap<usize, State>);

#[derive(Debug, Default)]
struct State {
    product: Option<Product>,
    driver: Option<Version>,
    vbios: Option<Version>,
    mode: Option<Mode>,
    measurements: Option<BTreeMap<u8, BTreeSet<[u8; 48]>>>,
    unstated: BTreeSet<u8>,
}

impl Draft {
    /// Takes one measurement.
    pub(super) fn read(&mut self, key: &str, mut map: MeasurementValuesMap) -> Result<(), CorimError> {
        let unknown = || CorimError::malformed(KEYS, key);
        let mut parts = key.splitn(3, '/').skip(1);
        let (Some(number), Some(field)) = (parts.next(), parts.next()) else {
            return Err(unknown());
        };
        let position = number.parse::<usize>().ok().filter(|position| *position < MAX_STATES);
        let position = position.filter(|position| number == format!("{position:02}"));
        let state = self.0.entry(position.ok_or_else(unknown)?).or_default();
        let wrong = || CorimError::malformed("each field of a GPU once, as its profile has it", key);
        if field == "measurements" {
            let registers = map.integrity_registers.take().ok_or_else(wrong)?;
            let read = registers.0.into_iter().map(|(id, digests)| read_block(id, digests));
            let read = read.collect::<Option<BTreeMap<_, _>>>().ok_or_else(wrong)?;
            state.unstated = match map.raw_value.take() {
                None => BTreeSet::new(),
                Some(RawValueChoice::Bytes(indices)) if indices.is_sorted_by(|a, b| a < b) => {
                    indices.into_iter().collect()
                }
                Some(_) => return Err(wrong()),
            };
            once(&mut state.measurements, Some(read)).ok_or_else(wrong)?;
        } else {
            let text = map.name.take().ok_or_else(wrong)?;
            let taken = match field {
                "chip" => once(&mut state.product, Product::parse(&text)),
                "driver" => once(&mut state.driver, Version::driver(&text)),
                "vbios" => once(&mut state.vbios, Version::vbios(&text)),
                "mode" => once(&mut state.mode, Mode::parse(&text)),
                _ => return Err(unknown()),
            };
            taken.ok_or_else(wrong)?;
        }
        if map != MeasurementValuesMap::new() {
            return Err(wrong());
        }
        Ok(())
    }

    /// The states, in the order of their numbers, which leave none out.
    pub(super) fn finish(self) -> Result<Vec<GpuReference>, CorimError> {
        let mut states = Vec::with_capacity(self.0.len());
        for (expected, (number, state)) in self.0.into_iter().enumerate() {
            let incomplete =
                || CorimError::malformed("chip, VBIOS, mode and measurements of each GPU, numbered", number);
            if number != expected {
                return Err(incomplete());
            }
            states.push(GpuReference {
                product: state.product.ok_or_else(incomplete)?,
                driver: state.driver,
                vbios: state.vbios.ok_or_else(incomplete)?,
                mode: state.mode.ok_or_else(incomplete)?,
                measurements: state.measurements.ok_or_else(incomplete)?,
                unstated: state.unstated,
            });
        }
        Ok(states)
    }
}

/// Fills `slot`, which must be empty, with a value that must be there.
fn once<T>(slot: &mut Option<T>, value: Option<T>) -> Option<()> {
    let first = slot.is_none();
    *slot = Some(value?);
    first.then_some(())
}

fn read_block(id: IntegrityRegisterId, digests: Vec<Digest>) -> Option<(u8, BTreeSet<[u8; 48]>)> {
    let IntegrityRegisterId::Uint(index) = id else {
        return None;
    };
    let sha384 = named_information_id(HashAlg::Sha384)?;
    let count = digests.len();
    let read = digests.into_iter().map(|Digest(algorithm, value)| {
        let right = matches!(algorithm, DigestAlg::Int(found) if found == sha384);
        right.then(|| value.try_into().ok())?
    });
    let read: BTreeSet<[u8; 48]> = read.collect::<Option<_>>()?;
    (read.len() == count).then_some((u8::try_from(index).ok()?, read))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corim::MachineReference;

    fn state(byte: u8) -> GpuReference {
        GpuReference {
            product: Product::parse("GH100").unwrap(),
            driver: Version::driver("550.90.07"),
            vbios: Version::vbios("96.00.9F.00.01").unwrap(),
            mode: Mode::Unstated,
            measurements: (1..=8).map(|index| (index, BTreeSet::from([[byte; 48]]))).collect(),
            unstated: [9, 64].into(),
        }
    }

    /// What is written is read again, through the library's own encoding.
    fn round_trip(gpus: Vec<GpuReference>) -> Result<MachineReference, CorimError> {
        let reference = MachineReference {
            name: "gpu".into(),
            gpus,
            ..MachineReference::default()
        };
        let payload = reference.to_corim_unsigned()?;
        let (mut read, _) = crate::corim::read_payload(&payload, 0)?;
        assert_eq!(read, [reference]);
        Ok(read.remove(0))
    }

    #[test]
    fn states_come_back_as_they_were() {
        let mut alternatives = state(3);
        alternatives.measurements.insert(8, [[3; 48], [4; 48], [5; 48]].into());
        let switch = GpuReference {
            product: Product::parse("LS_10").unwrap(),
            driver: None,
            unstated: BTreeSet::new(),
            ..state(1)
        };
        let read = round_trip(vec![state(1), switch, alternatives]).unwrap();
        assert_eq!(read.profile(), PROFILE);
    }

    #[test]
    fn states_that_contradict_themselves_are_not_written() {
        let with = |change: fn(&mut GpuReference)| {
            let mut state = state(1);
            change(&mut state);
            round_trip(vec![state])
        };
        assert!(with(|state| state.measurements.clear()).is_err());
        let both = |state: &mut GpuReference| state.unstated = [8].into();
        assert!(with(both).is_err());
        assert!(with(|state| drop(state.measurements.insert(8, BTreeSet::new()))).is_err());
        let many = (0..17).map(|byte| [byte; 48]).collect::<BTreeSet<_>>();
        let mut crowded = state(1);
        crowded.measurements.insert(8, many);
        assert!(round_trip(vec![crowded]).is_err());
        assert!(round_trip(vec![state(1), state(1)]).is_err());
        assert!(round_trip((0..17).map(state).collect()).is_err());
    }

    /// A measurement key and its values.
    type Row = (&'static str, fn(&mut MeasurementValuesMap));

    #[test]
    fn measurements_of_another_form_are_refused() {
        let read = |rows: &[Row]| {
            let mut draft = Draft::default();
            for (key, fill) in rows {
                let mut map = MeasurementValuesMap::new();
                fill(&mut map);
                draft.read(key, map)?;
            }
            draft.finish()
        };
        let blocks = |map: &mut MeasurementValuesMap| {
            let digest = Digest::new(7, vec![1; 48]);
            map.integrity_registers = Some(IntegrityRegisters(
                [(IntegrityRegisterId::Uint(1), vec![digest])].into(),
            ));
        };
        let good: [Row; 4] = [
            ("gpu/00/chip", |map| map.name = Some("GH100".into())),
            ("gpu/00/vbios", |map| map.name = Some("96.00".into())),
            ("gpu/00/mode", |map| map.name = Some("spt".into())),
            ("gpu/00/measurements", blocks),
        ];
        assert_eq!(read(&good).unwrap().len(), 1);
        for missing in 0..good.len() {
            let mut rows = good.to_vec();
            rows.remove(missing);
            assert!(read(&rows).is_err(), "without {}", good[missing].0);
        }
        let bad: [Row; 12] = [
            ("gpu/00/chip", |map| map.name = Some("GH100".into())),
            ("gpu/00/serial", |map| map.name = Some("1".into())),
            ("gpu/0/driver", |map| map.name = Some("550".into())),
            ("gpu/02/chip", |map| map.name = Some("GH100".into())),
            ("gpu/16/chip", |map| map.name = Some("GH100".into())),
            ("gpu/00", |map| map.name = Some("GH100".into())),
            ("gpu/00/driver", |_| ()),
            ("gpu/00/driver", |map| map.name = Some("new".into())),
            ("gpu/00/driver/2", |map| map.name = Some("550".into())),
            ("gpu/00/driver", |map| {
                map.name = Some("550".into());
                map.serial_number = Some("1".into());
            }),
            ("gpu/00/measurements", blocks),
            ("gpu/01/measurements", |map| {
                let digest = Digest::new(1, vec![1; 32]);
                map.integrity_registers = Some(IntegrityRegisters(
                    [(IntegrityRegisterId::Uint(1), vec![digest])].into(),
                ));
            }),
        ];
        for row in bad {
            let mut rows = good.to_vec();
            rows.push(row);
            assert!(read(&rows).is_err(), "{}", row.0);
        }
    }
}
