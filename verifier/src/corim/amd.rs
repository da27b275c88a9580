//! AMD's draft profile for SEV-SNP, accepted on import: reference triples whose measurement keys are numbers.
//!
//! Source: draft of the AMD SEV-SNP CoRIM profile (2025), as the field writes it: numbers of the report are big-endian in
//! raw values, security versions one 64-bit number. The draft compares that number as it stands, in which microcode
//! outweighs everything below it; here it is taken apart as the product line of the report lays it out, and compared
//! component by component. Everything that a file states is compared or the file is refused: half a reference would be a
//! lenient one. Keys of AMD that a file brings along are not looked at: trust anchors are the domain's to list.
//!
//! Defects of the field that are refused: an object identifier with its DER header inside tag 111; the instance under
//! key 2; HOST_DATA, which has 32 bytes, as a SHA-384 digest.

use ::corim::types::common::{ClassIdChoice, InstanceIdChoice, MeasuredElement};
use ::corim::types::environment::EnvironmentMap;
use ::corim::types::measurement::{
    Digest, DigestAlg, FlagsMap, IntRangeChoice, MeasurementMap, MeasurementValuesMap, RawValueChoice, SvnChoice,
};
use ::corim::types::triples::TriplesMap;
use ::corim::validate::ValidatedCorim;

use super::{CorimError, MAX_REFERENCES, MachineReference, named_information_id};
use crate::snp::reference::MEASUREMENT_LEN;
use crate::snp::{GuestPolicy, GuestPolicyBits, PackedFloor, RawField, RawValue, SnpReference};
use crate::tpm::HashAlg;

/// URIs of the profile: the draft's, and what files in the field say.
pub const PROFILES: [&str; 2] = [
    "tag:amd.com,2025:snp-corim-profile",
    "tag:amd.com,2024:snp-corim-profile",
];
/// Class of a guest known by its chip: 1.3.6.1.4.1.3704.3.1, as BER value bytes.
const BY_CHIP: [u8; 9] = [0x2B, 0x06, 0x01, 0x04, 0x01, 0x9C, 0x78, 0x03, 0x01];
/// Length of a chip's id in a report, in bytes.
const CHIP_ID: usize = 64;
/// version-scheme of firmware versions: semver.
const SEMVER: i64 = 16_384;
/// version-scheme of the report's version: decimal.
const DECIMAL: i64 = 4;

/// Reads every reference of a decoded file.
pub(super) fn read(decoded: ValidatedCorim) -> Result<Vec<MachineReference>, CorimError> {
    if !decoded.cotls.is_empty() || !decoded.coswids.is_empty() || decoded.coswid_opaque_count != 0 {
        return Err(CorimError::malformed("CoMID tags only", "another kind of tag"));
    }
    if decoded.corim.dependent_rims.is_some() {
        return Err(CorimError::malformed("all values in one file", "dependent-rims"));
    }
    let (not_before, end) = super::validity(&decoded);
    let mut references: Vec<MachineReference> = Vec::new();
    for comid in decoded.comids {
        if comid.linked_tags.is_some() {
            return Err(CorimError::malformed("tags that stand alone", "linked-tags"));
        }
        let triples = TriplesMap {
            attest_key_triples: None,
            ..comid.triples
        };
        super::reference_triples_only(&triples)?;
        for triple in triples.reference_triples.into_iter().flatten() {
            if references.len() == MAX_REFERENCES {
                return Err(CorimError::malformed("at most 64 references", "more"));
            }
            let snp = read_triple(triple.environment(), &triple.1)?;
            let digest = hex::encode(snp.measurement);
            let reference = MachineReference {
                // Several of one measurement differ in what else they state; the place tells them apart.
                name: format!("snp-{}-{}", digest.get(..16).unwrap_or_default(), references.len() + 1),
                snp: Some(snp),
                not_before,
                not_after: Some(end).filter(|end| *end != i64::MAX),
                ..MachineReference::default()
            };
            reference.check()?;
            references.push(reference);
        }
    }
    if references.is_empty() {
        return Err(CorimError::malformed("at least one reference", "none"));
    }
    Ok(references)
}

fn read_triple(environment: &EnvironmentMap, measurements: &[MeasurementMap]) -> Result<SnpReference, CorimError> {
    let mut draft = SnpReference::of_measurement([0; MEASUREMENT_LEN]);
    let mut seen = Vec::new();
    let mut measured = false;
    for measurement in measurements {
        if measurement.authorized_by.is_some() {
            return Err(CorimError::malformed("no authorized-by", "one"));
        }
        let key = match &measurement.mkey {
            Some(MeasuredElement::Uint(key)) => Some(*key),
            None => None,
            Some(_) => return Err(CorimError::malformed("a measurement key that is a number", "another")),
        };
        if seen.contains(&key) {
            return Err(CorimError::malformed("each field once", Name(key)));
        }
        seen.push(key);
        measured |= key == Some(641);
        read_measurement(key, measurement.mval.clone(), &mut draft)?;
    }
    if !measured {
        return Err(CorimError::malformed("a MEASUREMENT (641)", "none"));
    }
    read_environment(environment, &mut draft)?;
    Ok(draft)
}

/// A class by chip, and as instance a chip or the measurement that the triple states anyway.
fn read_environment(environment: &EnvironmentMap, draft: &mut SnpReference) -> Result<(), CorimError> {
    let wrong =
        |found: &str| CorimError::malformed("the class of SEV-SNP guests by chip (1.3.6.1.4.1.3704.3.1)", found);
    let class = environment.class.as_ref().ok_or_else(|| wrong("none"))?;
    match &class.class_id {
        Some(ClassIdChoice::Oid(oid)) if *oid == BY_CHIP => {}
        Some(ClassIdChoice::Oid(oid)) if oid.starts_with(&[0x06, 0x09]) => {
            return Err(wrong("an object identifier with its DER header"));
        }
        _ => return Err(wrong("another class")),
    }
    let words = [&class.vendor, &class.model];
    if words.iter().any(|word| word.is_some()) || class.layer.is_some() || class.index.is_some() {
        return Err(wrong("a class with more than its id"));
    }
    if environment.group.is_some() {
        return Err(wrong("a group"));
    }
    match &environment.instance {
        None => Ok(()),
        Some(InstanceIdChoice::Bytes(id)) if *id == draft.measurement => Ok(()),
        Some(InstanceIdChoice::Bytes(id)) if id.len() == CHIP_ID => {
            draft.raw.push(exact(RawField::ChipId, id.clone()));
            Ok(())
        }
        Some(_) => Err(wrong("an instance that is neither a chip nor the measurement")),
    }
}

/// A measurement key in words.
struct Name(Option<u64>);

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(key) => write!(f, "measurement key {key}"),
            None => f.write_str("a measurement without key"),
        }
    }
}

fn exact(field: RawField, value: Vec<u8>) -> RawValue {
    RawValue {
        field,
        mask: vec![0xFF; value.len()],
        value,
    }
}

fn read_measurement(
    key: Option<u64>,
    mut map: MeasurementValuesMap,
    draft: &mut SnpReference,
) -> Result<(), CorimError> {
    let wrong = |expected: &'static str| CorimError::malformed(expected, Name(key));
    match key {
        None => {
            // is-debug is bit 19 of POLICY.
            let flags = map.flags.take();
            let debug = flags.as_ref().and_then(|flags| flags.is_debug);
            let debug = debug.filter(|debug| flags == Some(only_debug(*debug)));
            let debug = debug.ok_or_else(|| wrong("the flag is-debug alone"))?;
            let bit = 1 << 19;
            let (value, mask) = draft.policy.map_or((0, 0), |bits| (bits.value, bits.mask));
            if mask & bit != 0 && (value & bit != 0) != debug {
                return Err(wrong("a flag that agrees with POLICY"));
            }
            draft.policy = Some(GuestPolicyBits {
                value: value & !bit | if debug { bit } else { 0 },
                mask: mask | bit,
            });
        }
        Some(0) => {
            let version = map.version.take();
            let version =
                version.filter(|version| version.version_scheme.as_ref().is_none_or(|scheme| *scheme == DECIMAL));
            let number = version.and_then(|version| version.version.parse::<u32>().ok());
            let number = number.ok_or_else(|| wrong("a decimal version"))?;
            draft.raw.push(exact(RawField::Version, number.to_le_bytes().to_vec()));
        }
        Some(1) => match map.svn.take() {
            Some(SvnChoice::MinValue(svn)) => {
                draft.guest_svn = Some(u32::try_from(svn).map_err(|_| wrong("a version of 32 bits"))?);
            }
            Some(SvnChoice::ExactValue(svn)) => {
                let svn = u32::try_from(svn).map_err(|_| wrong("a version of 32 bits"))?;
                draft.raw.push(exact(RawField::GuestSvn, svn.to_le_bytes().to_vec()));
            }
            _ => return Err(wrong("an svn or min-svn")),
        },
        Some(2) => {
            let (value, mask) = number(&mut map).ok_or_else(|| wrong("a raw value of 8 bytes"))?;
            let must = GuestPolicy(value | !mask & 1 << 17);
            if !must.is_well_formed() {
                return Err(wrong("a launch policy, big-endian, with its fixed bits"));
            }
            let before = draft.policy.unwrap_or(GuestPolicyBits { value: 0, mask: 0 });
            if (before.value ^ value) & before.mask & mask != 0 {
                return Err(wrong("a launch policy that agrees with is-debug"));
            }
            draft.policy = Some(GuestPolicyBits {
                value: value & mask | before.value & before.mask,
                mask: mask | before.mask,
            });
        }
        Some(3) => draft.family_id = Some(raw(&mut map).ok_or_else(|| wrong("a raw value of 16 bytes"))?),
        Some(4) => draft.image_id = Some(raw(&mut map).ok_or_else(|| wrong("a raw value of 16 bytes"))?),
        Some(5) => {
            let vmpl = match (map.int_range.take(), map.raw_value.take()) {
                (Some(IntRangeChoice::Int(vmpl)), None) => u32::try_from(vmpl).ok(),
                (None, Some(RawValueChoice::Bytes(bytes))) => bytes.try_into().ok().map(u32::from_be_bytes),
                _ => None,
            };
            draft.vmpl = Some(
                vmpl.filter(|vmpl| *vmpl <= 3)
                    .ok_or_else(|| wrong("a privilege level of 0 to 3"))?,
            );
        }
        Some(7) => {
            let (value, mask) = number(&mut map).ok_or_else(|| wrong("a raw value of 8 bytes"))?;
            draft.raw.push(RawValue {
                field: RawField::PlatformInfo,
                value: value.to_le_bytes().to_vec(),
                mask: mask.to_le_bytes().to_vec(),
            });
        }
        Some(641) => draft.measurement = digest(&mut map).ok_or_else(|| wrong("one SHA-384 digest"))?,
        Some(642) => draft.host_data = Some(raw(&mut map).ok_or_else(|| wrong("a raw value of 32 bytes"))?),
        Some(643) => draft.id_key_digest = Some(digest(&mut map).ok_or_else(|| wrong("one SHA-384 digest"))?),
        Some(644) => draft.author_key_digest = Some(digest(&mut map).ok_or_else(|| wrong("one SHA-384 digest"))?),
        Some(key @ (640 | 645 | 646 | 3328)) => {
            let field = match key {
                640 => RawField::ReportData,
                645 => RawField::ReportId,
                646 => RawField::ReportIdMa,
                _ => RawField::ChipId,
            };
            let (_, _, len) = field.place();
            let raw = match map.raw_value.take() {
                Some(RawValueChoice::Bytes(value)) => exact(field, value),
                Some(RawValueChoice::Masked { value, mask }) => RawValue { field, value, mask },
                _ => return Err(wrong("a raw value")),
            };
            if raw.value.len() != len || raw.mask.len() != len {
                return Err(wrong("a raw value of its field's length"));
            }
            draft.raw.push(raw);
        }
        Some(key @ (6 | 647 | 3329 | 3968)) => {
            let field = match key {
                6 => RawField::CurrentTcb,
                647 => RawField::ReportedTcb,
                3329 => RawField::CommittedTcb,
                _ => RawField::LaunchTcb,
            };
            match map.svn.take() {
                Some(SvnChoice::MinValue(least)) => draft.packed.push(PackedFloor { field, least }),
                Some(SvnChoice::ExactValue(value)) => draft.raw.push(exact(field, value.to_le_bytes().to_vec())),
                _ => return Err(wrong("an svn or min-svn")),
            }
        }
        Some(key @ 648..=650) => {
            let field = match key {
                648 => RawField::CpuidFamily,
                649 => RawField::CpuidModel,
                _ => RawField::CpuidStepping,
            };
            let value = match map.int_range.take() {
                Some(IntRangeChoice::Int(value)) => u8::try_from(value).ok(),
                _ => None,
            };
            let value = value.ok_or_else(|| wrong("a number of 0 to 255"))?;
            draft.raw.push(exact(field, vec![value]));
        }
        Some(key @ (3330 | 3936)) => {
            let field = if key == 3330 {
                RawField::CurrentVersion
            } else {
                RawField::CommittedVersion
            };
            let version = map.version.take();
            let version =
                version.filter(|version| version.version_scheme.as_ref().is_none_or(|scheme| *scheme == SEMVER));
            let parts: Option<Vec<u8>> =
                version.and_then(|version| version.version.split('.').map(|part| part.parse().ok()).collect());
            let Some([major, minor, build]) = parts.as_deref() else {
                return Err(wrong("a firmware version of three numbers"));
            };
            draft.raw.push(exact(field, vec![*build, *minor, *major]));
        }
        Some(_) => return Err(wrong("a field that is known")),
    }
    if map != MeasurementValuesMap::new() {
        return Err(wrong("one value a field"));
    }
    Ok(())
}

const fn only_debug(debug: bool) -> FlagsMap {
    FlagsMap {
        is_configured: None,
        is_secure: None,
        is_recovery: None,
        is_debug: Some(debug),
        is_replay_protected: None,
        is_integrity_protected: None,
        is_runtime_meas: None,
        is_immutable: None,
        is_tcb: None,
        is_confidentiality_protected: None,
        is_runtime_updatable: None,
    }
}

/// A big-endian number of 64 bits, and which bits of it count.
fn number(map: &mut MeasurementValuesMap) -> Option<(u64, u64)> {
    let read = |bytes: Vec<u8>| bytes.try_into().ok().map(u64::from_be_bytes);
    match map.raw_value.take()? {
        RawValueChoice::Bytes(value) => Some((read(value)?, u64::MAX)),
        RawValueChoice::Masked { value, mask } => Some((read(value)?, read(mask)?)),
        _ => None,
    }
}

fn raw<const N: usize>(map: &mut MeasurementValuesMap) -> Option<[u8; N]> {
    match map.raw_value.take()? {
        RawValueChoice::Bytes(value) => value.try_into().ok(),
        // A mask over these would leave open who they are.
        _ => None,
    }
}

fn digest(map: &mut MeasurementValuesMap) -> Option<[u8; 48]> {
    let [Digest(DigestAlg::Int(alg), value)] = <[Digest; 1]>::try_from(map.digests.take()?).ok()? else {
        return None;
    };
    (named_information_id(HashAlg::Sha384) == Some(alg)).then(|| value.try_into().ok())?
}
