//! The ways in which other tools write PCR values down.
//!
//! - JSON `{"sha256": {"0": "hex", …}}`, the form this project documents;
//! - the binary file of `tpm2_quote --pcr` (tpm2-tools 4 and later, "serialized"): `TPML_PCR_SELECTION` and then
//!   `TPML_DIGEST`s, dumped as C structures in little-endian order;
//! - the text of `tpm2_pcrread`.
//!
//! The values are not trusted here: the verifier compares their digest with the one the TPM signed.

use std::collections::BTreeMap;

use super::PackError;

/// Values by (`TPM_ALG_ID` of the bank, register).
pub type PcrValues = BTreeMap<(u16, u8), Vec<u8>>;

/// The largest file of PCR values that is read: six banks of 24 registers in the widest text form fit twice.
pub const MAX_PCR_FILE: usize = 64 * 1024;

const REGISTERS: u8 = 24;
const BANKS: &[(&str, u16, usize)] = &[
    ("sha1", 0x04, 20),
    ("sha256", 0x0b, 32),
    ("sha384", 0x0c, 48),
    ("sha512", 0x0d, 64),
];

/// Banks that TPMs have and nothing here is judged by (TPM 2.0 Library Part 2, 6.3): what `tpm2_pcrread` calls them, and
/// their TPM_ALG_ID. Their values are passed over.
const OTHER_BANKS: &[(&str, u16)] = &[
    ("sm3_256", 0x12),
    ("sha3_256", 0x27),
    ("sha3_384", 0x28),
    ("sha3_512", 0x29),
];

/// Reads PCR values in any of the known forms.
///
/// # Errors
/// [`PackError::Pcrs`] naming the form that came closest and what was wrong with it.
pub fn parse(file: &[u8]) -> Result<PcrValues, PackError> {
    if file.len() > MAX_PCR_FILE {
        return Err(refuse(format!("{} bytes, more than {MAX_PCR_FILE}", file.len())));
    }
    let values = match std::str::from_utf8(file) {
        Ok(text) if text.trim_start().starts_with('{') => json(text)?,
        Ok(text) if text.contains(':') => pcrread(text)?,
        _ => serialized(file)?,
    };
    if values.is_empty() {
        Err(refuse("no value at all".into()))
    } else {
        Ok(values)
    }
}

fn refuse(found: String) -> PackError {
    PackError::Pcrs { found }
}

fn bank(name: &str) -> Result<(u16, usize), PackError> {
    BANKS
        .iter()
        .find(|(known, ..)| known.eq_ignore_ascii_case(name))
        .map(|(_, id, length)| (*id, *length))
        .ok_or_else(|| refuse(format!("bank {:?}", name.chars().take(32).collect::<String>())))
}

fn insert(values: &mut PcrValues, bank: (u16, usize), register: &str, digest: &str) -> Result<(), PackError> {
    let index: u8 = register
        .parse()
        .ok()
        .filter(|index| *index < REGISTERS)
        .ok_or_else(|| refuse(format!("register {:?}", register.chars().take(32).collect::<String>())))?;
    let digest = digest.trim_start_matches("0x").trim_start_matches("0X");
    let bytes = hex::decode(digest).map_err(|error| refuse(format!("register {index}: {error}")))?;
    if bytes.len() != bank.1 {
        return Err(refuse(format!(
            "register {index}: {} bytes in a bank of {}",
            bytes.len(),
            bank.1
        )));
    }
    match values.insert((bank.0, index), bytes) {
        None => Ok(()),
        Some(_) => Err(refuse(format!("register {index} twice"))),
    }
}

fn json(text: &str) -> Result<PcrValues, PackError> {
    let banks: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_str(text).map_err(|error| refuse(format!("JSON that does not fit: {error}")))?;
    let mut values = PcrValues::new();
    for (name, registers) in banks {
        let bank = bank(&name)?;
        for (register, digest) in registers {
            insert(&mut values, bank, &register, &digest)?;
        }
    }
    Ok(values)
}

/// Whose values follow in the text.
#[derive(Clone, Copy)]
enum Heading {
    Bank((u16, usize)),
    Other,
}

fn heading(name: &str) -> Result<Heading, PackError> {
    match OTHER_BANKS.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
        true => Ok(Heading::Other),
        false => bank(name).map(Heading::Bank),
    }
}

/// `  sha256:` on a line of its own, then `    0 : 0xABCD…` a register.
fn pcrread(text: &str) -> Result<PcrValues, PackError> {
    let mut values = PcrValues::new();
    let mut current = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (left, right) = line
            .split_once(':')
            .ok_or_else(|| refuse(format!("the line {line:?}")))?;
        let (left, right) = (left.trim(), right.trim());
        if right.is_empty() {
            current = Some(heading(left)?);
            continue;
        }
        match current.ok_or_else(|| refuse("a register before any bank".into()))? {
            Heading::Bank(bank) => insert(&mut values, bank, left, right)?,
            Heading::Other => {}
        }
    }
    Ok(values)
}

/// tpm2-tools' dump: `count, 16 x {hash u16, size u8, select[4], pad}`, then `count`, `count x {count, 8 x {size u16, [64]}}`.
fn serialized(file: &[u8]) -> Result<PcrValues, PackError> {
    const SELECTIONS: usize = 16;
    const SELECTION: usize = 8;
    const DIGESTS: usize = 8;
    const DIGEST: usize = 66;
    let short = || refuse("a file that ends early (not JSON, not tpm2_pcrread text)".into());
    let word = |at: usize| -> Result<usize, PackError> {
        let bytes: [u8; 4] = file.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or_else(short)?;
        usize::try_from(u32::from_le_bytes(bytes)).map_err(|_| short())
    };
    let half = |at: usize| -> Result<u16, PackError> {
        file.get(at..at + 2)
            .and_then(|b| b.try_into().ok())
            .map(u16::from_le_bytes)
            .ok_or_else(short)
    };

    let count = word(0)?;
    if count > SELECTIONS {
        return Err(refuse(format!(
            "{count} banks (not JSON, not tpm2_pcrread text, not a tpm2-tools file)"
        )));
    }
    let mut wanted = Vec::new();
    for selection in 0..count {
        let at = 4 + selection * SELECTION;
        let algorithm = half(at)?;
        let known = BANKS.iter().find(|(_, id, _)| *id == algorithm).map(|(name, ..)| *name);
        if known.is_none() && !OTHER_BANKS.iter().any(|(_, id)| *id == algorithm) {
            return Err(refuse(format!("a bank of algorithm {algorithm:#06x}")));
        }
        let size = usize::from(*file.get(at + 2).ok_or_else(short)?).min(4);
        for byte in 0..size {
            let bits = *file.get(at + 3 + byte).ok_or_else(short)?;
            for bit in (0..8u8).filter(|bit| bits >> bit & 1 == 1) {
                wanted.push((known, byte * 8 + usize::from(bit)));
            }
        }
    }

    let lists_at = 4 + SELECTIONS * SELECTION;
    let lists = word(lists_at)?;
    if lists > SELECTIONS * 4 {
        return Err(refuse(format!("{lists} lists of digests")));
    }
    let mut digests = Vec::new();
    for list in 0..lists {
        let at = lists_at + 4 + list * (4 + DIGESTS * DIGEST);
        let in_list = word(at)?;
        if in_list > DIGESTS {
            return Err(refuse(format!("{in_list} digests in a list of {DIGESTS}")));
        }
        for digest in 0..in_list {
            let at = at + 4 + digest * DIGEST;
            let length = usize::from(half(at)?);
            digests.push(file.get(at + 2..at + 2 + length.min(64)).ok_or_else(short)?);
        }
    }
    if wanted.len() != digests.len() {
        return Err(refuse(format!(
            "{} registers selected, {} values",
            wanted.len(),
            digests.len()
        )));
    }
    let mut values = PcrValues::new();
    for ((name, register), digest) in wanted.into_iter().zip(digests) {
        if let Some(name) = name {
            insert(&mut values, bank(name)?, &register.to_string(), &hex::encode(digest))?;
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(name: &str) -> Vec<u8> {
        std::fs::read(format!(
            "{}/../swtpm-tests/boots/good/{name}",
            env!("CARGO_MANIFEST_DIR")
        ))
        .expect("recorded boot")
    }

    #[test]
    fn the_three_forms_agree() {
        let binary = parse(&recorded("quote-rsa/quote.pcrs")).expect("tpm2-tools file");
        assert_eq!(binary.len(), 12);
        let hex_of = |value: &Vec<u8>| hex::encode(value);
        let json = serde_json::json!({
            "sha256": binary.iter().map(|((_, index), value)| (index.to_string(), hex_of(value))).collect::<BTreeMap<_, _>>()
        });
        assert_eq!(parse(json.to_string().as_bytes()), Ok(binary.clone()));
        let mut text = "  sha256:\n".to_owned();
        for ((_, index), value) in &binary {
            text.push_str(&format!("    {index} : 0x{}\n", hex::encode_upper(value)));
        }
        assert_eq!(parse(text.as_bytes()), Ok(binary));
    }

    /// The same file with another bank in front of its own, of which these registers are selected.
    fn with_bank(file: &[u8], algorithm: u16, registers: u8) -> Vec<u8> {
        const LISTS: usize = 4 + 16 * 8;
        const LIST: usize = 4 + 8 * 66;
        let mut bytes = file.to_vec();
        bytes[0] += 1;
        bytes.copy_within(4..4 + 15 * 8, 12);
        bytes[4..12].copy_from_slice(&[algorithm as u8, 0, 3, registers, 0, 0, 0, 0]);
        bytes[LISTS] += 1;
        let mut list = vec![0; LIST];
        list[0] = registers.count_ones() as u8;
        for digest in 0..usize::from(list[0]) {
            let at = 4 + digest * 66;
            list[at] = 32;
            list[at + 2..at + 34].fill(0xEE);
        }
        bytes.splice(LISTS + 4..LISTS + 4, list);
        bytes
    }

    #[test]
    fn values_of_banks_that_are_not_judged_are_passed_over() {
        let file = recorded("quote-rsa/quote.pcrs");
        let plain = parse(&file).expect("tpm2-tools file");
        for (name, algorithm) in OTHER_BANKS {
            assert_eq!(parse(&with_bank(&file, *algorithm, 0x07)), Ok(plain.clone()), "{name}");
            // One that is listed and not allocated.
            assert_eq!(
                parse(&with_bank(&file, *algorithm, 0)),
                Ok(plain.clone()),
                "{name}, nothing selected"
            );
        }
        assert!(parse(&with_bank(&file, 0x07, 0x07)).is_err(), "no hash algorithm");
        let mut uneven = with_bank(&file, 0x12, 0x07);
        uneven[7] = 0x03;
        assert!(parse(&uneven).is_err(), "a value that no register has");
        let text = "  sha1:\n  sm3_256:\n    0 : 0xEE\n  sha256:\n    0 : 0x".to_owned() + &"11".repeat(32);
        let read = parse(format!("{text}\n  sha3_384:\n    0 : 0xEE\n").as_bytes()).expect("text");
        assert_eq!(read, PcrValues::from([((0x0b, 0), vec![0x11; 32])]));
        for none in ["  sm3_256:\n    0 : 0xEE\n", "  md5:\n    0 : 0xEE\n"] {
            assert!(matches!(parse(none.as_bytes()), Err(PackError::Pcrs { .. })), "{none}");
        }
    }

    #[test]
    fn truncated_anywhere_is_refused() {
        let whole = recorded("quote-rsa/quote.pcrs");
        // The last value ends at byte 904; what follows is room for digests that are not there.
        for length in 0..904 {
            assert!(
                matches!(parse(&whole[..length]), Err(PackError::Pcrs { .. })),
                "{length}"
            );
        }
    }

    #[test]
    fn hostile_text_is_refused() {
        for bad in [
            r#"{"sha256":{"24":"00"}}"#,
            r#"{"sha256":{"0":"00"}}"#,
            r#"{"md5":{"0":"00"}}"#,
            r#"{"sha256":{"-1":"00"}}"#,
            "sha256:\n 0 : 0xZZ",
            " 0 : 0x00",
            "{}",
            "",
        ] {
            assert!(matches!(parse(bad.as_bytes()), Err(PackError::Pcrs { .. })), "{bad}");
        }
    }
}
