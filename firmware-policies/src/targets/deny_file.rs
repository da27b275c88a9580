//! `deny.toml`: endorsement keys and TPM firmware that the domain refuses although their makers vouch for them.
//!
//! ```toml
//! [[endorsement_key]]
//! id = "<sha256 of the SubjectPublicKeyInfo>"
//! why = "stolen from rack 4"
//!
//! [[firmware]]
//! manufacturer = "IFX"          # four letters of the TCG vendor registry, or "id:49465800"
//! from = "7.0"                  # four 16-bit numbers; what is left out is lowest in `from`, highest in `to`
//! to = "7.61"
//! why = "CVE-2017-15361"
//! ```
//! Unknown keys are refused, and so is a file that denies nothing: taking the target out says that.

use serde::Deserialize;
use touchstone_verifier::deny::{DeniedFirmware, DenyList, manufacturer_id};
use touchstone_verifier::inventory::EkId;

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::DENY;

/// Most keys and most ranges of firmware.
pub const MAX_DENIED: usize = 65_536;
/// Longest reason of an entry, in bytes.
pub const MAX_WHY: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DenyFile {
    #[serde(default)]
    endorsement_key: Vec<KeyEntry>,
    #[serde(default)]
    firmware: Vec<FirmwareEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    id: String,
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FirmwareEntry {
    manufacturer: String,
    from: String,
    to: String,
    why: String,
}

/// Reads and checks `deny.toml`.
///
/// # Errors
/// [`PolicyError`] `policy-deny-unreadable` with every problem.
pub fn parse(bytes: &[u8]) -> Result<DenyList, PolicyError> {
    let unreadable = |found: String| PolicyError::new(PolicyCode::DenyUnreadable, DENY, "a deny list", found);
    let text = std::str::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
    let file: DenyFile = toml::from_str(text).map_err(|e| unreadable(e.to_string()))?;
    if file.endorsement_key.is_empty() && file.firmware.is_empty() {
        return Err(unreadable("an empty list".into()));
    }
    if file.endorsement_key.len().max(file.firmware.len()) > MAX_DENIED {
        return Err(unreadable(format!("more than {MAX_DENIED} entries")));
    }
    let mut problems = Vec::new();
    let mut problem = |claim: &str, expected: &str, found: &str| {
        let claim = format!("{DENY}: {claim}");
        problems.push(Problem::new(PolicyCode::DenyUnreadable, claim, expected, found));
    };
    let whys = file.endorsement_key.iter().map(|e| &e.why);
    for why in whys.chain(file.firmware.iter().map(|e| &e.why)) {
        if why.is_empty() || why.len() > MAX_WHY {
            problem("why", "1 to 200 bytes that say why", why);
        }
    }
    let mut keys = Vec::new();
    for entry in file.endorsement_key {
        let mut id = [0; 32];
        match hex::decode_to_slice(&entry.id, &mut id) {
            Ok(()) => keys.push((EkId(id), entry.why)),
            Err(_) => problem("endorsement_key.id", "32 bytes in hexadecimal", &entry.id),
        }
    }
    let mut firmware = Vec::new();
    for entry in file.firmware {
        let Some(manufacturer) = manufacturer(&entry.manufacturer) else {
            let expected = "up to four letters, or id: and eight hexadecimal digits";
            problem("firmware.manufacturer", expected, &entry.manufacturer);
            continue;
        };
        match (version(&entry.from, 0), version(&entry.to, u16::MAX)) {
            (Some(from), Some(to)) if from <= to => firmware.push(DeniedFirmware {
                manufacturer,
                from,
                to,
                why: entry.why,
            }),
            _ => {
                let found = format!("{} to {}", entry.from, entry.to);
                problem("firmware", "versions like 7.61, from not above to", &found);
            }
        }
    }
    PolicyError::unless_empty(problems)?;
    Ok(DenyList::new(keys, firmware))
}

/// `IFX` is padded with zeros, `STM ` is written with its blank; or the number itself.
fn manufacturer(text: &str) -> Option<[u8; 4]> {
    if text.starts_with("id:") {
        return manufacturer_id(text);
    }
    let mut id = [0; 4];
    let fits = (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    if !fits {
        return None;
    }
    id.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    Some(id)
}

/// Up to four decimal numbers of 16 bits; `rest` stands for those left out.
fn version(text: &str, rest: u16) -> Option<u64> {
    let mut numbers = [rest; 4];
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() > numbers.len() {
        return None;
    }
    for (number, part) in numbers.iter_mut().zip(parts) {
        let digits = (1..=5).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        *number = part.parse().ok().filter(|_| digits)?;
    }
    Some(
        numbers
            .iter()
            .fold(0, |version, number| version << 16 | u64::from(*number)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[[endorsement_key]]\nid = \"11111111111111111111111111111111\
        11111111111111111111111111111111\"\nwhy = \"stolen\"\n\
        [[firmware]]\nmanufacturer = \"IFX\"\nfrom = \"7.0\"\nto = \"7.61\"\nwhy = \"CVE-2017-15361\"\n";

    #[test]
    fn a_list_is_read() {
        let list = parse(GOOD.as_bytes()).unwrap();
        assert_eq!(list.key(&EkId([0x11; 32])), Some("stolen"));
        let maker = Some(*b"IFX\0");
        assert!(list.quoted_firmware(maker, 7 << 48).is_some());
        assert!(
            list.quoted_firmware(maker, (7 << 48) | (61 << 32) | 0xFFFF_FFFF)
                .is_some()
        );
        assert!(list.quoted_firmware(maker, (7 << 48) | (62 << 32)).is_none());
        let by_id = GOOD.replace("\"IFX\"", "\"id:49465800\"");
        assert_eq!(parse(by_id.as_bytes()).unwrap(), list);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for (from, to) in [
            (GOOD, ""),
            ("why = \"stolen\"", "why = \"\""),
            ("why = \"stolen\"", "reason = \"stolen\""),
            ("id = \"11", "id = \"1"),
            ("\"IFX\"", "\"\""),
            ("\"IFX\"", "\"IFXXX\""),
            ("\"IFX\"", "\"id:494658\""),
            ("\"7.61\"", "\"6.99\""),
            ("\"7.61\"", "\"7.70000\""),
            ("\"7.61\"", "\"7.+1\""),
            ("\"7.61\"", "\"7.1.2.3.4\""),
            ("\"7.61\"", "\"\""),
            ("[[firmware]]", "[[firmwares]]"),
        ] {
            assert_eq!(GOOD.matches(from).count(), 1, "{from}");
            let error = parse(GOOD.replace(from, to).as_bytes()).unwrap_err();
            assert_eq!(error.code(), PolicyCode::DenyUnreadable, "{to}");
        }
    }
}
