//! The TDX profile: what a guest was launched from and what it measured, as CoMID measurements.
//!
//! Measurement keys: `tdx/mrtd` and, where the reference names a module, `tdx/mr-seam` (digests); `tdx/endorses` (name; not there is `none`); `tdx/config-id`,
//! `tdx/owner`, `tdx/owner-config` (raw values); `tdx/attributes`, `tdx/xfam` (raw values, 8 bytes little-endian as in the
//! quote); `tdx/tee-tcb/<component>` with the components `00` to `15` of TEE_TCB_SVN, each a min-svn; `tdx/rtmr` with the
//! run-time measurement registers as integrity registers 0 to 3; and one measurement `tdx/event/<register>/<sequence>` an
//! event, as in the profile of TPM registers.

use std::collections::BTreeSet;

use ::corim::types::measurement::{
    Digest, IntegrityRegisterId, IntegrityRegisters, MeasurementMap, MeasurementValuesMap, RawValueChoice, SvnChoice,
};

use super::read::{event_of, only_digest};
use super::snp::{digest, finished, least, raw, read_endorses, write_endorses};
use super::write::{event_measurements, measurement};
use super::{BankValues, CorimError, Endorses, MAX_EVENT_REFERENCE_DATA, MAX_REFERENCE_EVENTS, named_information_id};
use crate::eventlog::MAX_DESCRIPTION;
use crate::tdx::{RTMRS, TdxReference};
use crate::tpm::HashAlg;

/// URI of this profile. A reference with it may state a TPM's registers, events and files besides.
pub const PROFILE: &str = "tag:touchstone.dev,2026:corim/tdx/1";
const BANK: HashAlg = HashAlg::Sha384;
/// What measurement keys look like.
const KEYS: &str = "tdx/<field>, tdx/tee-tcb/<component>, tdx/rtmr or tdx/event/<register>/<sequence>";

/// What writing and reading check alike.
pub(super) fn check(reference: &TdxReference) -> Result<(), CorimError> {
    let wrong = |expected, found: &dyn std::fmt::Display| Err(CorimError::malformed(expected, found));
    let BankValues { registers, events } = &reference.rtmrs;
    let odd = |(rtmr, value): &(&u8, &Vec<u8>)| **rtmr >= RTMRS || value.len() != BANK.digest_len();
    if registers.is_empty() || registers.iter().any(|entry| odd(&entry)) {
        return wrong("run-time measurement registers 0 to 3 of 48 bytes", &registers.len());
    }
    if events.len() > MAX_REFERENCE_EVENTS {
        return wrong("at most 4096 events", &events.len());
    }
    let odd = events.iter().find(|event| {
        event.pcr >= RTMRS
            || event.digest.len() != BANK.digest_len()
            || event.description.len() > MAX_DESCRIPTION
            || event
                .data
                .as_ref()
                .is_some_and(|data| data.len() > MAX_EVENT_REFERENCE_DATA)
    });
    match odd {
        Some(event) => wrong("events of registers 0 to 3 with SHA-384 digests", &event.pcr),
        None => Ok(()),
    }
}

/// The measurements of a reference.
pub(super) fn write(reference: &TdxReference) -> Result<Vec<MeasurementMap>, CorimError> {
    let sha384 = named_information_id(BANK).ok_or(CorimError::WeakBank { bank: BANK })?;
    let digest = |key: &str, value: &[u8]| {
        measurement(key.to_owned(), |map| {
            map.digests = Some(vec![Digest::new(sha384, value.to_vec())]);
        })
    };
    let raw = |key: &str, value: &[u8]| {
        measurement(key.to_owned(), |map| {
            map.raw_value = Some(RawValueChoice::Bytes(value.to_vec()));
        })
    };
    let mut all = vec![digest("tdx/mrtd", &reference.mrtd)];
    all.extend(reference.mr_seam.iter().map(|value| digest("tdx/mr-seam", value)));
    all.extend(write_endorses("tdx/endorses", reference.endorses));
    all.push(raw("tdx/config-id", &reference.mr_config_id));
    all.push(raw("tdx/owner", &reference.mr_owner));
    all.push(raw("tdx/owner-config", &reference.mr_owner_config));
    all.push(raw("tdx/attributes", &reference.attributes.to_le_bytes()));
    all.push(raw("tdx/xfam", &reference.xfam.to_le_bytes()));
    for (component, version) in reference.least_tee_tcb_svn.iter().enumerate() {
        all.push(measurement(format!("tdx/tee-tcb/{component:02}"), |map| {
            map.svn = Some(SvnChoice::MinValue(u64::from(*version)));
        }));
    }
    let registers = reference.rtmrs.registers.iter().map(|(rtmr, value)| {
        let digests = vec![Digest::new(sha384, value.clone())];
        (IntegrityRegisterId::Uint(u64::from(*rtmr)), digests)
    });
    all.push(measurement("tdx/rtmr".into(), |map| {
        map.integrity_registers = Some(IntegrityRegisters(registers.collect()));
    }));
    event_measurements("tdx/event", BANK, &reference.rtmrs.events, &mut all)?;
    Ok(all)
}

/// Whether a measurement key is of this profile.
pub(super) fn is_key(key: &str) -> bool {
    key.starts_with("tdx/")
}

/// A reference being read: every key at most once, and every field there.
#[derive(Debug, Default)]
pub(super) struct Draft {
    seen: BTreeSet<String>,
    mrtd: Option<[u8; 48]>,
    mr_seam: Option<[u8; 48]>,
    endorses: Endorses,
    fields: [Option<[u8; 48]>; 3],
    words: [Option<u64>; 2],
    tee_tcb: [Option<u8>; 16],
    rtmrs: BankValues,
    next: [usize; RTMRS as usize],
}

impl Draft {
    /// Takes one measurement.
    pub(super) fn read(&mut self, key: &str, mut map: MeasurementValuesMap) -> Result<(), CorimError> {
        let unknown = || CorimError::malformed(KEYS, key);
        if !self.seen.insert(key.to_owned()) {
            return Err(CorimError::malformed("each measurement once", key));
        }
        let field = key.strip_prefix("tdx/").ok_or_else(unknown)?;
        let [config_id, owner, owner_config] = &mut self.fields;
        let [attributes, xfam] = &mut self.words;
        match field {
            "mrtd" => self.mrtd = Some(digest(&mut map, key)?),
            "mr-seam" => self.mr_seam = Some(digest(&mut map, key)?),
            "endorses" => self.endorses = read_endorses(&mut map, key)?,
            "config-id" => *config_id = Some(raw(&mut map, key)?),
            "owner" => *owner = Some(raw(&mut map, key)?),
            "owner-config" => *owner_config = Some(raw(&mut map, key)?),
            "attributes" => *attributes = Some(u64::from_le_bytes(raw(&mut map, key)?)),
            "xfam" => *xfam = Some(u64::from_le_bytes(raw(&mut map, key)?)),
            "rtmr" => self.read_registers(key, &mut map)?,
            _ => match field.split_once('/') {
                Some(("tee-tcb", component)) => {
                    let version = u8::try_from(least(&mut map, key)?);
                    let version = version.map_err(|_| CorimError::malformed("a version of 0 to 255", key))?;
                    let component: usize = two_digits(component).ok_or_else(unknown)?;
                    *self.tee_tcb.get_mut(component).ok_or_else(unknown)? = Some(version);
                }
                Some(("event", rest)) => {
                    let (rtmr, sequence) = rest.split_once('/').ok_or_else(unknown)?;
                    let rtmr = two_digits(rtmr).ok_or_else(unknown)?;
                    let sequence: usize = sequence.parse().map_err(|_| unknown())?;
                    let expected = self.next.get_mut(rtmr).ok_or_else(unknown)?;
                    if sequence != *expected || self.rtmrs.events.len() >= MAX_REFERENCE_EVENTS {
                        return Err(CorimError::malformed("events numbered in order", key));
                    }
                    *expected += 1;
                    let pcr = u8::try_from(rtmr).map_err(|_| unknown())?;
                    self.rtmrs.events.push(event_of(BANK, pcr, key, &mut map)?);
                }
                _ => return Err(unknown()),
            },
        }
        finished(&map, key)
    }

    fn read_registers(&mut self, key: &str, map: &mut MeasurementValuesMap) -> Result<(), CorimError> {
        let wrong = || CorimError::malformed("integrity registers 0 to 3 with one SHA-384 digest", key);
        for (id, digests) in map.integrity_registers.take().ok_or_else(wrong)?.0 {
            let IntegrityRegisterId::Uint(rtmr) = id else {
                return Err(wrong());
            };
            let (alg, value) = only_digest(digests).ok_or_else(wrong)?;
            let rtmr = u8::try_from(rtmr).ok().filter(|rtmr| *rtmr < RTMRS && alg == BANK);
            self.rtmrs.registers.insert(rtmr.ok_or_else(wrong)?, value);
        }
        Ok(())
    }

    /// The reference, where there was a measurement of this profile.
    pub(super) fn finish(self) -> Result<Option<TdxReference>, CorimError> {
        if self.seen.is_empty() {
            return Ok(None);
        }
        let missing = |what| CorimError::malformed("every field of a TDX guest", what);
        let [config_id, owner, owner_config] = self.fields;
        let [attributes, xfam] = self.words;
        let mut least_tee_tcb_svn = [0; 16];
        for (least, version) in least_tee_tcb_svn.iter_mut().zip(self.tee_tcb) {
            *least = version.ok_or_else(|| missing("tdx/tee-tcb"))?;
        }
        Ok(Some(TdxReference {
            mrtd: self.mrtd.ok_or_else(|| missing("tdx/mrtd"))?,
            mr_seam: self.mr_seam,
            endorses: self.endorses,
            mr_config_id: config_id.ok_or_else(|| missing("tdx/config-id"))?,
            mr_owner: owner.ok_or_else(|| missing("tdx/owner"))?,
            mr_owner_config: owner_config.ok_or_else(|| missing("tdx/owner-config"))?,
            attributes: attributes.ok_or_else(|| missing("tdx/attributes"))?,
            xfam: xfam.ok_or_else(|| missing("tdx/xfam"))?,
            least_tee_tcb_svn,
            rtmrs: self.rtmrs,
        }))
    }
}

/// Exactly two decimal digits: one spelling for each number.
fn two_digits(text: &str) -> Option<usize> {
    match *text.as_bytes() {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(usize::from(a - b'0') * 10 + usize::from(b - b'0')),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ::corim::types::common::MeasuredElement;

    use super::*;
    use crate::corim::ReferenceEvent;
    use crate::eventlog::EventType;

    fn reference() -> TdxReference {
        let event = |pcr, digest| ReferenceEvent {
            pcr,
            event_type: EventType::IPL,
            digest: vec![digest; 48],
            description: "grub_cmd".into(),
            data: (digest == 2).then(|| b"data".to_vec()),
        };
        TdxReference {
            mrtd: [1; 48],
            mr_seam: Some([2; 48]),
            mr_config_id: [3; 48],
            mr_owner: [4; 48],
            mr_owner_config: [5; 48],
            attributes: 1 << 28,
            xfam: 0x6_02E7,
            least_tee_tcb_svn: [7; 16],
            endorses: Endorses::AzureVtpm,
            rtmrs: BankValues {
                registers: (0..4).map(|rtmr| (rtmr, vec![rtmr; 48])).collect(),
                events: vec![event(0, 1), event(2, 2), event(2, 3)],
            },
        }
    }

    fn read(measurements: &[MeasurementMap]) -> Result<Option<TdxReference>, CorimError> {
        let mut draft = Draft::default();
        for measurement in measurements {
            let Some(MeasuredElement::Text(key)) = &measurement.mkey else {
                return Err(CorimError::malformed("a text key", "another"));
            };
            assert!(is_key(key));
            draft.read(key, measurement.mval.clone())?;
        }
        let read = draft.finish()?;
        read.iter().try_for_each(check)?;
        Ok(read)
    }

    #[test]
    fn a_reference_is_read_as_it_was_written_and_only_whole() {
        let good = write(&reference()).unwrap();
        assert_eq!(read(&good).unwrap(), Some(reference()));
        assert_eq!(read(&[]).unwrap(), None);
        for (left_out, measurement) in good.iter().enumerate() {
            let mut without = good.clone();
            without.remove(left_out);
            let Some(MeasuredElement::Text(key)) = &measurement.mkey else {
                unreachable!()
            };
            match key.as_str() {
                // The module need not be named, and what is last may be the last.
                "tdx/mr-seam" => assert_eq!(read(&without).unwrap().unwrap().mr_seam, None),
                // What older files do not say is that it vouches for nothing.
                "tdx/endorses" => assert_eq!(read(&without).unwrap().unwrap().endorses, Endorses::None),
                "tdx/event/00/000" | "tdx/event/02/001" => assert!(read(&without).is_ok(), "{key}"),
                _ => assert!(read(&without).is_err(), "without {key}"),
            }
            let mut twice = good.clone();
            twice.push(measurement.clone());
            assert!(read(&twice).is_err(), "{key} twice");
        }
        for alien in [
            "tdx/other",
            "tdx/tee-tcb/16",
            "tdx/tee-tcb/0",
            "tdx/event/04/000",
            "tdx/event/00/002",
        ] {
            let mut more = good.clone();
            let mut last = good.last().cloned().unwrap();
            last.mkey = Some(MeasuredElement::Text(alien.into()));
            more.push(last);
            assert!(read(&more).is_err(), "{alien}");
        }
        let mut odd = reference();
        odd.rtmrs.registers.insert(4, vec![0; 48]);
        assert!(check(&odd).is_err());
        odd.rtmrs.registers = [(0, vec![0; 32])].into();
        assert!(check(&odd).is_err());
    }
}
