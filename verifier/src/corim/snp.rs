//! The SEV-SNP profile: what a guest was launched from, as CoMID measurements.
//!
//! Measurement keys: `snp/measurement` (digest), `snp/product` (name), `snp/policy` (masked raw value, 8 bytes little-endian
//! as in the report), `snp/guest-svn` (min-svn), `snp/vmpl` (integer), `snp/family-id`, `snp/image-id`, `snp/host-data`
//! (raw values), `snp/endorses` (name; not there is `none`), `snp/id-key`, `snp/author-key` (digests), and security versions component by component as min-svn:
//! `tcb/<component>` for REPORTED_TCB, `current-tcb/…`, `committed-tcb/…`, `launch-tcb/…`, with the components `fmc`, `bl`,
//! `tee`, `snp`, `ucode`. One packed number, as AMD's draft profile has it, would be compared as a number, in which
//! microcode outweighs everything else.

use ::corim::types::measurement::{
    Digest, DigestAlg, IntRangeChoice, MeasurementMap, MeasurementValuesMap, RawValueChoice, SvnChoice,
};

use super::write::measurement;
use super::{CorimError, Endorses, named_information_id};
use crate::snp::{Component, GuestPolicyBits, Product, SnpReference, Tcb, TcbFloors};
use crate::tpm::HashAlg;

/// URI of this profile. A reference with it may state a TPM's registers, events and files besides.
pub const PROFILE: &str = "tag:touchstone.dev,2026:corim/sev-snp/1";
/// What measurement keys look like.
const KEYS: &str = "snp/<field>, or tcb/, current-tcb/, committed-tcb/ or launch-tcb/ and a component";

/// What writing and reading check alike.
pub(super) fn check(reference: &SnpReference) -> Result<(), CorimError> {
    let wrong = |expected, found: &str| Err(CorimError::malformed(expected, found));
    let floors = reference.floors.named();
    let mut stated = floors.iter().filter_map(|(_, _, floor)| *floor).peekable();
    match reference.product {
        None if stated.peek().is_some() => wrong("a product with security versions", "none"),
        Some(product) if stated.any(|tcb| tcb.fmc.is_some() != (product == Product::Turin)) => {
            wrong("an FMC version on Turin, and only there", product.as_str())
        }
        _ => Ok(()),
    }
}

/// The measurements of a reference.
pub(super) fn write(reference: &SnpReference) -> Result<Vec<MeasurementMap>, CorimError> {
    // What only AMD's draft profile can say stays in the file that says it.
    if !reference.raw.is_empty() || !reference.packed.is_empty() {
        return Err(CorimError::malformed(
            "fields of this profile",
            "fields of AMD's draft profile",
        ));
    }
    let sha384 = named_information_id(HashAlg::Sha384).ok_or(CorimError::WeakBank { bank: HashAlg::Sha384 })?;
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
    let least = |key: String, version: u64| measurement(key, |map| map.svn = Some(SvnChoice::MinValue(version)));
    let mut all = vec![digest("snp/measurement", &reference.measurement)];
    all.extend(write_endorses("snp/endorses", reference.endorses));
    if let Some(product) = reference.product {
        all.push(measurement("snp/product".into(), |map| {
            map.name = Some(product.as_str().to_owned());
        }));
    }
    if let Some(GuestPolicyBits { value, mask }) = reference.policy {
        all.push(measurement("snp/policy".into(), |map| {
            map.raw_value = Some(RawValueChoice::Masked {
                value: value.to_le_bytes().to_vec(),
                mask: mask.to_le_bytes().to_vec(),
            });
        }));
    }
    all.extend(reference.guest_svn.map(|svn| least("snp/guest-svn".into(), svn.into())));
    if let Some(vmpl) = reference.vmpl {
        all.push(measurement("snp/vmpl".into(), |map| {
            map.int_range = Some(IntRangeChoice::Int(vmpl.into()));
        }));
    }
    let raws: [(&str, Option<&[u8]>); 3] = [
        ("snp/family-id", reference.family_id.as_ref().map(<[u8; 16]>::as_slice)),
        ("snp/image-id", reference.image_id.as_ref().map(<[u8; 16]>::as_slice)),
        ("snp/host-data", reference.host_data.as_ref().map(<[u8; 32]>::as_slice)),
    ];
    all.extend(raws.into_iter().filter_map(|(key, value)| Some(raw(key, value?))));
    let digests = [
        ("snp/id-key", &reference.id_key_digest),
        ("snp/author-key", &reference.author_key_digest),
    ];
    all.extend(
        digests
            .into_iter()
            .filter_map(|(key, value)| Some(digest(key, value.as_ref()?))),
    );
    for (name, _, floor) in reference.floors.named() {
        let Some(tcb) = floor else { continue };
        for component in Component::ALL {
            if let Some(version) = tcb.get(component) {
                all.push(least(format!("{name}/{}", component.as_str()), version.into()));
            }
        }
    }
    Ok(all)
}

/// Whether a measurement key is of this profile.
pub(super) fn is_key(key: &str) -> bool {
    let floors = TcbFloors::default().named();
    let Some((first, _)) = key.split_once('/') else {
        return false;
    };
    first == "snp" || floors.iter().any(|(name, ..)| *name == first)
}

/// A reference being read: every key at most once.
#[derive(Debug, Default)]
pub(super) struct Draft {
    measurement: Option<[u8; 48]>,
    reference: Option<SnpReference>,
    seen: std::collections::BTreeSet<String>,
    versions: [[Option<u8>; 5]; 4],
}

impl Draft {
    /// Takes one measurement.
    pub(super) fn read(&mut self, key: &str, mut map: MeasurementValuesMap) -> Result<(), CorimError> {
        let unknown = || CorimError::malformed(KEYS, key);
        if !self.seen.insert(key.to_owned()) {
            return Err(CorimError::malformed("each measurement once", key));
        }
        let (family, field) = key.split_once('/').ok_or_else(unknown)?;
        if family != "snp" {
            let version = least(&mut map, key)?;
            let version = u8::try_from(version).map_err(|_| CorimError::malformed("a version of 0 to 255", key))?;
            let floors = TcbFloors::default().named();
            let row = floors
                .iter()
                .position(|(name, ..)| *name == family)
                .ok_or_else(unknown)?;
            let column = Component::ALL.iter().position(|component| component.as_str() == field);
            let cell = column.and_then(|column| self.versions.get_mut(row)?.get_mut(column));
            *cell.ok_or_else(unknown)? = Some(version);
            return finished(&map, key);
        }
        let reference = self
            .reference
            .get_or_insert_with(|| SnpReference::of_measurement([0; 48]));
        match field {
            "measurement" => self.measurement = Some(digest(&mut map, key)?),
            "product" => {
                let name = map.name.take().unwrap_or_default();
                let product = Product::parse(&name);
                reference.product = Some(product.ok_or_else(|| CorimError::malformed("a known product", &name))?);
            }
            "endorses" => reference.endorses = read_endorses(&mut map, key)?,
            "policy" => {
                let wrong = || CorimError::malformed("a masked raw value of 8 bytes", key);
                let Some(RawValueChoice::Masked { value, mask }) = map.raw_value.take() else {
                    return Err(wrong());
                };
                let number = |bytes: Vec<u8>| bytes.try_into().map(u64::from_le_bytes).map_err(|_| wrong());
                reference.policy = Some(GuestPolicyBits {
                    value: number(value)?,
                    mask: number(mask)?,
                });
            }
            "guest-svn" => {
                let svn = least(&mut map, key)?;
                reference.guest_svn =
                    Some(u32::try_from(svn).map_err(|_| CorimError::malformed("a version of 32 bits", key))?);
            }
            "vmpl" => {
                let wrong = || CorimError::malformed("a privilege level of 0 to 3", key);
                let Some(IntRangeChoice::Int(vmpl)) = map.int_range.take() else {
                    return Err(wrong());
                };
                let vmpl = u32::try_from(vmpl).ok().filter(|vmpl| *vmpl <= 3);
                reference.vmpl = Some(vmpl.ok_or_else(wrong)?);
            }
            "family-id" => reference.family_id = Some(raw(&mut map, key)?),
            "image-id" => reference.image_id = Some(raw(&mut map, key)?),
            "host-data" => reference.host_data = Some(raw(&mut map, key)?),
            "id-key" => reference.id_key_digest = Some(digest(&mut map, key)?),
            "author-key" => reference.author_key_digest = Some(digest(&mut map, key)?),
            _ => return Err(unknown()),
        }
        finished(&map, key)
    }

    /// The reference, where there was a measurement of this profile.
    pub(super) fn finish(self) -> Result<Option<SnpReference>, CorimError> {
        if self.seen.is_empty() {
            return Ok(None);
        }
        let wrong = |expected, found: &str| CorimError::malformed(expected, found);
        let measurement = self.measurement.ok_or_else(|| wrong("snp/measurement", "none"))?;
        let mut floors = self.versions.into_iter().map(|row| match row {
            [None, None, None, None, None] => Ok(None),
            [fmc, Some(boot_loader), Some(tee), Some(snp), Some(microcode)] => Ok(Some(Tcb {
                fmc,
                boot_loader,
                tee,
                snp,
                microcode,
            })),
            // A component that is not there would be one that may be anything.
            _ => Err(wrong("every component of a security version", "some")),
        });
        let mut next = || floors.next().unwrap_or(Ok(None));
        let (reported, current, committed, launch) = (next()?, next()?, next()?, next()?);
        Ok(Some(SnpReference {
            measurement,
            floors: TcbFloors {
                reported,
                committed,
                launch,
                current,
            },
            ..self
                .reference
                .unwrap_or_else(|| SnpReference::of_measurement(measurement))
        }))
    }
}

/// What a report may vouch for, where it is anything: files without it are older, or of a guest.
pub(super) fn write_endorses(key: &str, endorses: Endorses) -> Option<MeasurementMap> {
    (endorses != Endorses::None).then(|| {
        measurement(key.to_owned(), |map| {
            map.name = Some(endorses.as_str().to_owned());
        })
    })
}

pub(super) fn read_endorses(map: &mut MeasurementValuesMap, key: &str) -> Result<Endorses, CorimError> {
    let name = map.name.take().unwrap_or_default();
    // `none` has one spelling: no measurement.
    Endorses::parse(&name)
        .filter(|endorses| *endorses != Endorses::None)
        .ok_or_else(|| CorimError::malformed("svsm or azure-vtpm", format!("{key} {name}")))
}

pub(super) fn finished(map: &MeasurementValuesMap, key: &str) -> Result<(), CorimError> {
    if *map == MeasurementValuesMap::new() {
        Ok(())
    } else {
        Err(CorimError::malformed("one value a measurement", key))
    }
}

pub(super) fn least(map: &mut MeasurementValuesMap, key: &str) -> Result<u64, CorimError> {
    match map.svn.take() {
        Some(SvnChoice::MinValue(version)) => Ok(version),
        _ => Err(CorimError::malformed("a min-svn", key)),
    }
}

pub(super) fn raw<const N: usize>(map: &mut MeasurementValuesMap, key: &str) -> Result<[u8; N], CorimError> {
    match map.raw_value.take() {
        Some(RawValueChoice::Bytes(bytes)) => bytes.try_into().ok(),
        _ => None,
    }
    .ok_or_else(|| CorimError::malformed("a raw value of its field's length", key))
}

/// The one SHA-384 digest of a measurement.
pub(super) fn digest(map: &mut MeasurementValuesMap, key: &str) -> Result<[u8; 48], CorimError> {
    let wrong = || CorimError::malformed("one SHA-384 digest", key);
    let digests = map.digests.take().unwrap_or_default();
    let Ok([Digest(DigestAlg::Int(alg), value)]) = <[Digest; 1]>::try_from(digests) else {
        return Err(wrong());
    };
    if named_information_id(HashAlg::Sha384) != Some(alg) {
        return Err(wrong());
    }
    value.try_into().map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use touchstone_cose::key::SigningKey;

    use super::*;
    use crate::corim::{MachineReference, TrustedSigner, UntrustedCorim, sign_corim};

    const NOW: i64 = 1_800_000_000;

    fn whole() -> SnpReference {
        let tcb = |byte| {
            Some(Tcb {
                fmc: Some(byte),
                boot_loader: byte + 1,
                tee: byte + 2,
                snp: byte + 3,
                microcode: byte + 4,
            })
        };
        SnpReference {
            product: Some(Product::Turin),
            policy: Some(GuestPolicyBits {
                value: 0x3_0000,
                mask: u64::MAX,
            }),
            guest_svn: Some(7),
            vmpl: Some(0),
            floors: TcbFloors {
                reported: tcb(1),
                committed: tcb(11),
                launch: tcb(21),
                current: tcb(31),
            },
            family_id: Some([1; 16]),
            image_id: Some([2; 16]),
            host_data: Some([3; 32]),
            id_key_digest: Some([4; 48]),
            author_key_digest: Some([5; 48]),
            ..SnpReference::of_measurement([6; 48])
        }
    }

    fn journey(snp: SnpReference) -> Result<SnpReference, CorimError> {
        let reference = MachineReference {
            name: "golden".into(),
            snp: Some(snp),
            ..MachineReference::default()
        };
        let key = SigningKey::from_seed([3; 32]);
        let signed = sign_corim(&reference.to_corim_unsigned()?, &key, "author", None)?;
        let signer = TrustedSigner {
            name: "author".into(),
            key: key.verifying_key(),
            not_after: None,
        };
        let read = UntrustedCorim::new(&signed).verify(&[signer], NOW)?;
        Ok(read.references()[0].snp.clone().unwrap())
    }

    #[test]
    fn a_reference_comes_back_as_it_was() {
        let sparse = SnpReference::of_measurement([6; 48]);
        for snp in [whole(), sparse] {
            assert_eq!(journey(snp.clone()).unwrap(), snp);
        }
    }

    #[test]
    fn versions_that_nobody_could_compare_are_not_written() {
        let without_product = SnpReference {
            product: None,
            ..whole()
        };
        let of_another_line = SnpReference {
            product: Some(Product::Milan),
            ..whole()
        };
        for snp in [without_product, of_another_line] {
            assert!(matches!(journey(snp), Err(CorimError::Malformed { .. })));
        }
    }

    #[test]
    fn measurements_that_say_something_else_are_refused() {
        let all = write(&whole()).unwrap();
        let read = |change: &dyn Fn(&mut Vec<MeasurementMap>)| {
            let mut all = all.clone();
            change(&mut all);
            let mut draft = Draft::default();
            for measurement in all {
                let Some(::corim::types::common::MeasuredElement::Text(key)) = measurement.mkey else {
                    panic!("a text key");
                };
                draft.read(&key, measurement.mval)?;
            }
            draft.finish()
        };
        assert_eq!(read(&|_| {}).unwrap(), Some(whole()));
        let key = |measurement: &MeasurementMap| format!("{:?}", measurement.mkey);
        let at = |all: &[MeasurementMap], name: &str| {
            let name = format!("{name:?}");
            all.iter()
                .position(|measurement| key(measurement).contains(&name))
                .unwrap()
        };
        type Change<'c> = (&'c str, Box<dyn Fn(&mut Vec<MeasurementMap>) + 'c>);
        let rows: Vec<Change<'_>> = vec![
            ("no measurement", Box::new(|all| drop(all.remove(0)))),
            ("a field twice", Box::new(|all| all.push(all[0].clone()))),
            (
                "a component missing",
                Box::new(|all| drop(all.remove(at(all, "tcb/bl")))),
            ),
            (
                "an exact version, which a newer platform would not have",
                Box::new(|all| {
                    let at = at(all, "tcb/bl");
                    all[at].mval.svn = Some(SvnChoice::ExactValue(2));
                }),
            ),
            (
                "a version above 255",
                Box::new(|all| {
                    let at = at(all, "tcb/ucode");
                    all[at].mval.svn = Some(SvnChoice::MinValue(256));
                }),
            ),
            (
                "two values at once",
                Box::new(|all| all[0].mval.name = Some("more".into())),
            ),
            (
                "a launch policy without a mask",
                Box::new(|all| {
                    let at = at(all, "snp/policy");
                    all[at].mval.raw_value = Some(RawValueChoice::Bytes(vec![0; 8]));
                }),
            ),
            (
                "host data of 48 bytes",
                Box::new(|all| {
                    let at = at(all, "snp/host-data");
                    all[at].mval.raw_value = Some(RawValueChoice::Bytes(vec![3; 48]));
                }),
            ),
            (
                "an unknown product",
                Box::new(|all| {
                    let at = at(all, "snp/product");
                    all[at].mval.name = Some("venice".into());
                }),
            ),
        ];
        for (what, change) in rows {
            assert!(read(&*change).is_err(), "{what}");
        }
    }
}
