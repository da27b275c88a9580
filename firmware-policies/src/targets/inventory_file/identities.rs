//! By what hardware an entry names its machine: keys, devices, confidential VMs and GPUs, each list bounded.

use touchstone_verifier::inventory::CvmIdentity;
use touchstone_verifier::x509::HardwareModuleName;
use touchstone_verifier::x509::cloud_ak::GceInstance;
use touchstone_verifier::x509::iak_certificate::DeviceId;

use crate::error::{PolicyCode, Problem};

/// Most keys of one kind of a node.
pub const MAX_IDENTITIES: usize = 32;
/// Longest serial number of a device, in bytes.
pub const MAX_SERIAL_LEN: usize = 128;
/// Length of a TPM Name with SHA-256, SHA-384 and SHA-512 (TPM 2.0 Library Part 1, 16).
pub(super) const NAME_LENGTHS: [usize; 3] = [34, 50, 66];

/// A device identity as it is written.
pub fn device_text(device: &DeviceId) -> String {
    match device {
        DeviceId::Key(digest) => format!("key:{}", hex::encode(digest)),
        DeviceId::Serial(serial) => format!("serial:{serial}"),
        DeviceId::Hardware(name) => format!("hardware:{}:{}", name.hardware_type, hex::encode(&name.serial)),
        DeviceId::Gce(GceInstance { project, instance }) => format!("gce:{project}/{instance}"),
    }
}

/// Digests and Names, in hexadecimal, each of one of these lengths in bytes.
pub(super) fn identities(
    texts: &[String],
    lengths: &[usize],
    claim: &str,
    problems: &mut Vec<Problem>,
) -> Vec<Vec<u8>> {
    if texts.len() > MAX_IDENTITIES {
        let expected = format!("at most {MAX_IDENTITIES}");
        problems.push(Problem::new(PolicyCode::TargetsTooMany, claim, expected, texts.len()));
        return Vec::new();
    }
    let mut found = Vec::with_capacity(texts.len());
    for text in texts {
        match hex::decode(text) {
            // A TPM Name begins with the algorithm of its digest, so upper and lower case are one identity.
            Ok(bytes) if lengths.contains(&bytes.len()) => found.push(bytes),
            _ => {
                let expected = format!("{lengths:?} bytes in hexadecimal");
                problems.push(Problem::new(PolicyCode::NodeUnreadable, claim, expected, text));
            }
        }
    }
    found
}

pub(super) fn devices(texts: &[String], claim: &str, problems: &mut Vec<Problem>) -> Vec<DeviceId> {
    if texts.len() > MAX_IDENTITIES {
        let expected = format!("at most {MAX_IDENTITIES}");
        problems.push(Problem::new(PolicyCode::TargetsTooMany, claim, expected, texts.len()));
        return Vec::new();
    }
    let mut found = Vec::with_capacity(texts.len());
    for text in texts {
        match device(text) {
            Some(device) => found.push(device),
            None => {
                let expected = "key:, serial:, hardware: or gce: and an identity";
                problems.push(Problem::new(PolicyCode::NodeUnreadable, claim, expected, text));
            }
        }
    }
    found
}

pub(super) fn platforms(texts: &[String], claim: &str, problems: &mut Vec<Problem>) -> Vec<CvmIdentity> {
    listed(texts, claim, problems, |text| {
        text.parse::<CvmIdentity>().map_err(|error| error.expected)
    })
}

pub(super) fn gpus(texts: &[String], claim: &str, problems: &mut Vec<Problem>) -> Vec<String> {
    listed(texts, claim, problems, |text| {
        let serial = hex::decode(text)
            .ok()
            .filter(|serial| (1..=MAX_SERIAL_LEN).contains(&serial.len()));
        serial.map(hex::encode).ok_or("a serial number in hexadecimal")
    })
}

/// Reads each text of a list of bounded length.
fn listed<T>(
    texts: &[String],
    claim: &str,
    problems: &mut Vec<Problem>,
    read: impl Fn(&str) -> Result<T, &'static str>,
) -> Vec<T> {
    if texts.len() > MAX_IDENTITIES {
        let expected = format!("at most {MAX_IDENTITIES}");
        problems.push(Problem::new(PolicyCode::TargetsTooMany, claim, expected, texts.len()));
        return Vec::new();
    }
    let mut found = Vec::with_capacity(texts.len());
    for text in texts {
        match read(text) {
            Ok(value) => found.push(value),
            Err(expected) => problems.push(Problem::new(PolicyCode::NodeUnreadable, claim, expected, text)),
        }
    }
    found
}

pub(super) fn device(text: &str) -> Option<DeviceId> {
    match text.split_once(':')? {
        ("key", digits) => {
            let mut digest = [0; 32];
            hex::decode_to_slice(digits, &mut digest).ok()?;
            Some(DeviceId::Key(digest))
        }
        ("serial", serial) => (1..=MAX_SERIAL_LEN)
            .contains(&serial.len())
            .then(|| DeviceId::Serial(serial.to_owned())),
        ("hardware", rest) => {
            let (hardware_type, serial) = rest.split_once(':')?;
            let dotted = !hardware_type.is_empty() && hardware_type.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            let serial = hex::decode(serial)
                .ok()
                .filter(|s| (1..=MAX_SERIAL_LEN).contains(&s.len()))?;
            dotted.then(|| {
                DeviceId::Hardware(HardwareModuleName {
                    hardware_type: hardware_type.to_owned(),
                    serial,
                })
            })
        }
        ("gce", rest) => {
            let (project, instance) = rest.split_once('/')?;
            // One spelling a number, or one instance could be two entries.
            let number = |text: &str| text.parse::<u64>().ok().filter(|number| number.to_string() == text);
            Some(DeviceId::Gce(GceInstance {
                project: number(project)?,
                instance: number(instance)?,
            }))
        }
        _ => None,
    }
}
