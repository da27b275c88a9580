//! The firmware identity in an attestation key's certificate: for which firmware the device made the key.
//!
//! Hopper and LS_10 have the TCG CompositeDeviceID of old (2.23.133.5.4.1: version, device identity key, firmware
//! identity); Blackwell has a DICE TcbInfo (2.23.133.5.4.1.1, TCG DICE Attestation Architecture 1.00, 6.1.1), whose first
//! firmware identity counts.

use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::report::DIGEST_LEN;

const COMPOSITE_DEVICE_ID: &str = "2.23.133.5.4.1";
const TCB_INFO: &str = "2.23.133.5.4.1.1";
/// Tag of `fwids` in a TcbInfo.
const FWIDS: u32 = 6;
/// DER of the object identifier of SHA-384, 2.16.840.1.101.3.4.2.2, without tag and length.
const SHA384: [u8; 9] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];

/// What a certificate says about the firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FirmwareIdentity {
    /// SHA-384 of the firmware.
    pub(super) fwid: [u8; DIGEST_LEN],
    /// SubjectPublicKeyInfo (DER) of the device identity key, where it is repeated.
    pub(super) device_key: Option<Vec<u8>>,
}

impl FirmwareIdentity {
    /// Reads the one extension of a certificate (DER) that has it. None where there is none, two, or one that can not be
    /// read.
    pub(super) fn read(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let mut found =
            certificate
                .extensions()
                .iter()
                .filter_map(|extension| match extension.oid.to_id_string().as_str() {
                    COMPOSITE_DEVICE_ID => Some(composite_device_id(extension.value)),
                    TCB_INFO => Some(tcb_info(extension.value)),
                    _ => None,
                });
        let first = found.next()?;
        found.next().is_none().then_some(first)?
    }
}

/// SEQUENCE { INTEGER 1, SubjectPublicKeyInfo, FWID }.
fn composite_device_id(value: &[u8]) -> Option<FirmwareIdentity> {
    let content = whole_sequence(value)?;
    let (after_version, version) = Any::from_der(content).ok()?;
    if version.tag() != Tag::Integer || version.data != [1] {
        return None;
    }
    let (after_key, _) = Any::from_der(after_version).ok()?;
    let key = after_version.get(..after_version.len() - after_key.len())?;
    Some(FirmwareIdentity {
        fwid: fwid(whole_sequence(after_key)?)?,
        device_key: Some(key.to_vec()),
    })
}

/// SEQUENCE of optional, tagged fields; `fwids` is [6] IMPLICIT SEQUENCE OF FWID.
fn tcb_info(value: &[u8]) -> Option<FirmwareIdentity> {
    let mut rest = whole_sequence(value)?;
    let (mut found, mut last) = (None, None);
    while !rest.is_empty() {
        let (next, field) = Any::from_der(rest).ok()?;
        let tag = field.tag().0;
        if last.is_some_and(|last| tag <= last) {
            return None;
        }
        if tag == FWIDS {
            let (_, first) = Any::from_der(field.data).ok()?;
            found = Some(fwid(first.data)?);
        }
        (rest, last) = (next, Some(tag));
    }
    Some(FirmwareIdentity {
        fwid: found?,
        device_key: None,
    })
}

/// The content of FWID ::= SEQUENCE { hashAlg OBJECT IDENTIFIER, digest OCTET STRING }, of SHA-384.
fn fwid(content: &[u8]) -> Option<[u8; DIGEST_LEN]> {
    let (rest, algorithm) = Any::from_der(content).ok()?;
    let ([], digest) = Any::from_der(rest).ok()? else {
        return None;
    };
    let right = algorithm.tag() == Tag::Oid && algorithm.data == SHA384 && digest.tag() == Tag::OctetString;
    right.then(|| digest.data.try_into().ok())?
}

/// The content of a SEQUENCE that fills `value` exactly.
fn whole_sequence(value: &[u8]) -> Option<&[u8]> {
    match Any::from_der(value).ok()? {
        ([], sequence) if sequence.tag() == Tag::Sequence => Some(sequence.data),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut out = vec![tag];
        match content.len() {
            len @ 0..0x80 => out.push(len as u8),
            len => out.extend([0x81, len as u8]),
        }
        out.extend(content);
        out
    }

    fn identity(byte: u8) -> Vec<u8> {
        element(0x30, &[&element(6, &[&SHA384]), &element(4, &[&[byte; 48]])])
    }

    #[test]
    fn both_forms_give_the_digest() {
        let key = element(0x30, &[&[5, 0]]);
        let composite = element(0x30, &[&[2, 1, 1], &key, &identity(7)]);
        let read = composite_device_id(&composite).unwrap();
        assert_eq!((read.fwid, read.device_key), ([7; 48], Some(key.clone())));
        let info = element(
            0x30,
            &[
                &element(0x80, &[b"NVIDIA"]),
                &element(0x83, &[&[1]]),
                &element(0xA6, &[&identity(8), &identity(0)]),
                &element(0x87, &[&[0]]),
            ],
        );
        assert_eq!(tcb_info(&info).map(|read| read.fwid), Some([8; 48]));
        for wrong in [
            element(0x30, &[&[2, 1, 2], &key, &identity(7)]),
            element(0x30, &[&[2, 1, 1], &key, &identity(7), &[5, 0]]),
            element(0x30, &[&[2, 1, 1], &key]),
            [composite.as_slice(), &[0]].concat(),
        ] {
            assert_eq!(composite_device_id(&wrong), None);
        }
        let twice = element(
            0x30,
            &[&element(0xA6, &[&identity(8)]), &element(0xA6, &[&identity(9)])],
        );
        assert_eq!(tcb_info(&twice), None);
        let other_hash = element(0x30, &[&element(6, &[&[0x60; 9]]), &element(4, &[&[1; 48]])]);
        assert_eq!(tcb_info(&element(0x30, &[&element(0xA6, &[&other_hash])])), None);
    }
}
