//! The list as text (`ascii_runtime_measurements`) made into the binary one.
//!
//! A line (Linux, ima_fs.c, ima_ascii_measurements_show): register, template digest, template, then each field after a
//! space, an empty one too. The digest is SHA-1's, or in a list of one bank (`ascii_runtime_measurements_sha256`, Linux
//! 6.10) that bank's. Paths stand there raw, with their spaces, so the line alone does not say where a path ends: the digest
//! decides, and a line that it does not confirm is refused.

use super::banked::confirmed;
use super::error::{ImaError, MAX_SHOWN, words};
use super::list::TEMPLATE_DIGEST;
use super::template::{Field, Template};
use super::{MAX_ENTRIES, MAX_LIST};
use crate::tpm::HashAlg;

/// Longest text list in bytes: hexadecimal doubles what is in the binary one.
const MAX_TEXT: usize = 2 * MAX_LIST + (MAX_LIST >> 1);

/// Whether these bytes look like a text list: the binary one begins with its register as a number of four bytes.
pub fn is_ascii(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|byte| byte.is_ascii_digit() || *byte == b' ') && bytes.get(1..4) != Some(&[0; 3])
}

/// Makes the binary list of a text list.
///
/// # Errors
/// [`ImaError`], naming the line: not a line of a list, an unknown template, or fields whose record does not have the
/// line's digest.
pub fn from_ascii(text: &[u8]) -> Result<Vec<u8>, ImaError> {
    if text.len() > MAX_TEXT {
        return Err(ImaError::TooLarge {
            limit: MAX_TEXT,
            found: text.len(),
        });
    }
    let mut list = Vec::with_capacity(text.len());
    let mut entries = 0;
    let mut bank = None;
    for (position, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(ImaError::TooManyEntries { limit: MAX_ENTRIES });
        }
        convert(line, position + 1, &mut bank, &mut list)?;
        if list.len() > MAX_LIST {
            return Err(ImaError::TooLarge {
                limit: MAX_LIST,
                found: list.len(),
            });
        }
    }
    Ok(list)
}

/// Adds the record of a line. All lines are of one bank, which the first one decides.
fn convert(line: &[u8], number: usize, bank: &mut Option<HashAlg>, list: &mut Vec<u8>) -> Result<(), ImaError> {
    let odd = || ImaError::Line {
        line: number,
        found: words(line, MAX_SHOWN),
    };
    // The kernel pads the register to two places.
    let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (Some(register), Some(digest), Some(name), Some(rest)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(odd());
    };
    let register: u32 = text_of(register).and_then(|text| text.parse().ok()).ok_or_else(odd)?;
    let digest = hex::decode(digest).map_err(|_| odd())?;
    let banks = HashAlg::ALL.into_iter();
    let of_line = banks.into_iter().find(|bank| bank.digest_len() == digest.len());
    let of_line = of_line.ok_or_else(odd)?;
    if *bank.get_or_insert(of_line) != of_line {
        return Err(odd());
    }
    let template = Template::from_name(name).ok_or_else(|| ImaError::TemplateUnknown {
        entry: number,
        name: words(name, MAX_SHOWN),
    })?;
    // Trailing spaces stand for empty fields, and editors drop them.
    for lost in 0..template.fields().len() {
        let mut padded = rest.to_vec();
        padded.extend(std::iter::repeat_n(b' ', lost));
        let record = split(&padded, template.fields()).and_then(|fields| record(register, template, name, &fields));
        if let Some(record) = record.and_then(|record| confirmed(record, &digest, of_line)) {
            list.extend(record);
            return Ok(());
        }
    }
    Err(ImaError::LineDigest { line: number })
}

fn text_of(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// The texts of the fields: only the name may hold spaces, so that fields before it are counted from the left and
/// fields after it from the right.
fn split<'t>(rest: &'t [u8], fields: &[Field]) -> Option<Vec<&'t [u8]>> {
    let name = fields.iter().position(|field| field.is_name());
    let before = name.unwrap_or(fields.len());
    let mut left = rest;
    let mut texts = Vec::with_capacity(fields.len());
    for position in 0..before {
        let last = position + 1 == fields.len();
        let end = left.iter().position(|byte| *byte == b' ');
        let end = if last { left.len() } else { end? };
        let (text, more) = left.split_at_checked(end)?;
        texts.push(text);
        left = more.get(1..).unwrap_or_default();
    }
    if name.is_some() {
        let mut after = Vec::new();
        for _ in before + 1..fields.len() {
            let space = left.iter().rposition(|byte| *byte == b' ')?;
            let (more, text) = left.split_at_checked(space)?;
            after.push(text.get(1..)?);
            left = more;
        }
        texts.push(left);
        texts.extend(after.into_iter().rev());
    }
    Some(texts)
}

/// The binary record of a line with zeros for its digest; none where a text is not one of its field.
fn record(register: u32, template: Template, name: &[u8], texts: &[&[u8]]) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    for (field, text) in template.fields().iter().zip(texts) {
        let value = value(*field, text)?;
        match (template, field) {
            (Template::Ima, Field::Digest) => data.extend(value),
            (Template::Ima, _) => put(&mut data, text)?,
            _ => put(&mut data, &value)?,
        }
    }
    let mut record = register.to_le_bytes().to_vec();
    record.extend([0; TEMPLATE_DIGEST]);
    put(&mut record, name)?;
    if template == Template::Ima {
        record.extend(data);
    } else {
        put(&mut record, &data)?;
    }
    Some(record)
}

fn put(to: &mut Vec<u8>, value: &[u8]) -> Option<()> {
    to.extend(u32::try_from(value.len()).ok()?.to_le_bytes());
    to.extend(value);
    Some(())
}

/// The bytes of a field from its text (Linux, ima_template_lib.c, ima_show_template_data_ascii).
fn value(field: Field, text: &[u8]) -> Option<Vec<u8>> {
    let number = || text_of(text)?.parse::<u32>().ok();
    Some(match field {
        Field::Digest => hex::decode(text).ok()?,
        Field::DigestModsig if text.is_empty() => Vec::new(),
        Field::DigestNg | Field::DigestModsig | Field::DigestNgV2 => {
            let colon = text.iter().rposition(|byte| *byte == b':')?;
            let (algorithm, digest) = text.split_at_checked(colon + 1)?;
            [algorithm, &[0], &hex::decode(digest).ok()?].concat()
        }
        Field::Name | Field::NameNg | Field::XattrNames => [text, &[0]].concat(),
        Field::Uid | Field::Gid => number()?.to_le_bytes().to_vec(),
        Field::Mode => u16::try_from(number()?).ok()?.to_le_bytes().to_vec(),
        Field::Sig | Field::Buf | Field::Modsig | Field::EvmSig | Field::XattrLengths | Field::XattrValues => {
            hex::decode(text).ok()?
        }
    })
}
