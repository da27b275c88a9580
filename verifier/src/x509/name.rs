//! Distinguished names: a form to compare them by, their text, and the attributes and other names of subjectAltName.
//!
//! Source: RFC 5280 4.1.2.4, 4.2.1.6, 7.1; X.680 41 (string types); RFC 4108 5 (hardwareModuleName).

use x509_parser::asn1_rs::{Any, Oid, Tag};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::reason::sanitise;

/// Longest name shown, in bytes.
pub const MAX_NAME_TEXT: usize = 256;
/// Longest serial number of a hardware module, in bytes.
pub const MAX_HARDWARE_SERIAL: usize = 128;
/// `id-on-hardwareModuleName` (RFC 4108, 5): the otherName of an IEEE 802.1AR device identity.
const HARDWARE_MODULE_NAME: &str = "1.3.6.1.5.5.7.8.4";

/// A device's hardwareModuleName: who numbers, and the number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HardwareModuleName {
    /// `hwType`, an object identifier in dotted form: who gives the numbers (2.23.133.1.2 for a TPM 2.0).
    pub hardware_type: String,
    /// `hwSerialNum`, as it stands: at most [`MAX_HARDWARE_SERIAL`] bytes.
    pub serial: Vec<u8>,
}

/// A name in a form in which equal names are equal bytes (RFC 5280 7.1): PrintableString, UTF8String and IA5String are
/// text, ASCII letters without case, white space as one space; any other value is its tag and bytes. A name that
/// begins another one (RFC 5280 7.1, subtrees) is also a prefix of its bytes, and only then.
///
/// Makers do need it: an intermediate of STMicroelectronics writes its issuer's name in another string type than the
/// issuer does. Names only lead to candidates; whether one issued the certificate is decided by the signature.
pub(super) fn name_key(name: &X509Name<'_>) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.as_raw().len() + 32);
    for rdn in name.iter() {
        // Nuvoton writes its attributes as one RDN, in another order than DER has it: a set has none.
        let mut attributes: Vec<Vec<u8>> = rdn.iter().map(attribute_key).collect();
        attributes.sort_unstable();
        key.extend((attributes.len() as u32).to_be_bytes());
        for attribute in attributes {
            key.extend((attribute.len() as u32).to_be_bytes());
            key.extend(attribute);
        }
    }
    key
}

fn attribute_key(attribute: &AttributeTypeAndValue<'_>) -> Vec<u8> {
    let value = attribute.attr_value();
    let oid = attribute.attr_type().as_bytes();
    let mut key = vec![oid.len() as u8];
    key.extend_from_slice(oid);
    match (value.tag(), attribute.as_str()) {
        (Tag::PrintableString | Tag::Utf8String | Tag::Ia5String, Ok(text)) => {
            key.push(0);
            let words: Vec<&str> = text.split_ascii_whitespace().collect();
            key.extend(words.join(" ").to_ascii_lowercase().into_bytes());
        }
        (tag, _) => {
            key.push(1);
            key.extend(tag.0.to_be_bytes());
            key.extend_from_slice(value.data);
        }
    }
    key
}

/// `CN=…, O=…` in the order of the certificate; attributes without a short name by their object identifier.
pub(super) fn name_text(name: &X509Name<'_>) -> String {
    let parts = name.iter_attributes().map(|attribute| {
        let oid = attribute.attr_type().to_id_string();
        let label = match oid.as_str() {
            "2.5.4.3" => "CN",
            "2.5.4.5" => "serialNumber",
            "2.5.4.6" => "C",
            "2.5.4.7" => "L",
            "2.5.4.8" => "ST",
            "2.5.4.10" => "O",
            "2.5.4.11" => "OU",
            other => other,
        };
        format!("{label}={}", attribute.as_str().unwrap_or("?"))
    });
    sanitise(&parts.collect::<Vec<_>>().join(", "), MAX_NAME_TEXT)
}

/// Type and text of each attribute of a name, whatever RDN it stands in.
pub(super) fn attributes(name: &X509Name<'_>) -> Vec<(String, String)> {
    let pair = |a: &AttributeTypeAndValue<'_>| (a.attr_type().to_id_string(), value_text(a.attr_value()));
    name.iter_attributes().map(pair).collect()
}

/// The text of an attribute's value, safe to show; empty where it is no string.
///
/// The EK Credential Profile (3.2.9) asks for UTF8String; the field also has PrintableString, IA5String, T61String and
/// BMPString. What it says is what counts: the bytes are under the maker's signature whatever their type.
fn value_text(value: &Any<'_>) -> String {
    let text = match value.tag() {
        Tag::Utf8String
        | Tag::PrintableString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::VisibleString
        | Tag::GeneralString => std::str::from_utf8(value.data).ok().map(str::to_owned),
        Tag::T61String => Some(value.data.iter().copied().map(char::from).collect()),
        Tag::BmpString => utf16(value.data),
        _ => None,
    };
    sanitise(&text.unwrap_or_default(), MAX_NAME_TEXT)
}

fn utf16(bytes: &[u8]) -> Option<String> {
    let (units, []) = bytes.as_chunks::<2>() else {
        return None;
    };
    let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
    String::from_utf16(&units).ok()
}

/// The hardwareModuleName in a general name, if it is one that can be read.
pub(super) fn hardware_module_name(name: &GeneralName<'_>) -> Option<HardwareModuleName> {
    let GeneralName::OtherName(oid, value) = name else {
        return None;
    };
    if oid.to_id_string() != HARDWARE_MODULE_NAME {
        return None;
    }
    let ([], explicit) = Any::from_der(value).ok()? else {
        return None;
    };
    let ([], sequence) = Any::from_der(explicit.data).ok()? else {
        return None;
    };
    if sequence.tag() != Tag::Sequence {
        return None;
    }
    let (rest, hardware_type) = Oid::from_der(sequence.data).ok()?;
    let ([], serial) = Any::from_der(rest).ok()? else {
        return None;
    };
    let fits = serial.tag() == Tag::OctetString && (1..=MAX_HARDWARE_SERIAL).contains(&serial.data.len());
    fits.then(|| HardwareModuleName {
        hardware_type: hardware_type.to_id_string(),
        serial: serial.data.to_vec(),
    })
}

/// The tag number of a general name (RFC 5280 4.2.1.6): its form.
pub(super) fn form(name: &GeneralName<'_>) -> u32 {
    match name {
        GeneralName::OtherName(..) => 0,
        GeneralName::RFC822Name(_) => 1,
        GeneralName::DNSName(_) => 2,
        GeneralName::X400Address(_) => 3,
        GeneralName::DirectoryName(_) => 4,
        GeneralName::EDIPartyName(_) => 5,
        GeneralName::URI(_) => 6,
        GeneralName::IPAddress(_) => 7,
        GeneralName::RegisteredID(_) => 8,
        GeneralName::Invalid(tag, _) => tag.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(tag: u8, bytes: &[u8]) -> Vec<u8> {
        [&[tag, bytes.len() as u8], bytes].concat()
    }

    #[test]
    fn odd_string_types_say_what_they_say() {
        for (bytes, text) in [
            (value(0x0C, b"NPCT75x"), "NPCT75x"),
            (value(0x13, b"NPCT75x"), "NPCT75x"),
            (value(0x16, b"NPCT75x"), "NPCT75x"),
            (value(0x14, b"SLB\xA09670"), "SLB\u{a0}9670"),
            (value(0x1E, b"\0A\0M\0D"), "AMD"),
            // Half a character, text that is none, no string at all.
            (value(0x1E, b"\0A\0"), ""),
            (value(0x0C, b"\xFF"), ""),
            (value(0x02, b"\x01"), ""),
        ] {
            let (_, any) = Any::from_der(&bytes).unwrap();
            assert_eq!(value_text(&any), text, "{bytes:02x?}");
        }
    }

    #[test]
    fn hardware_module_names_are_read_strictly() {
        // OID 2.23.133.1.2, serial "x1"; explicit [0] around the SEQUENCE.
        let inner = [value(0x06, &[0x67, 0x81, 0x05, 1, 2]), value(0x04, b"x1")].concat();
        let good = value(0xA0, &value(0x30, &inner));
        let oid = Oid::from(&[1, 3, 6, 1, 5, 5, 7, 8, 4]).unwrap();
        let read = |bytes: &[u8]| hardware_module_name(&GeneralName::OtherName(oid.clone(), bytes));
        let name = read(&good).unwrap();
        assert_eq!(
            (name.hardware_type.as_str(), name.serial.as_slice()),
            ("2.23.133.1.2", &b"x1"[..])
        );
        for cut in 0..good.len() {
            assert_eq!(read(&good[..cut]), None, "{cut}");
        }
        assert_eq!(read(&[good.as_slice(), &[0]].concat()), None);
        let other = Oid::from(&[1, 3, 6, 1, 5, 5, 7, 8, 3]).unwrap();
        assert_eq!(hardware_module_name(&GeneralName::OtherName(other, &good)), None);
    }
}
