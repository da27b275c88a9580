//! UUIDs of file systems in a boot loader's texts.
//!
//! Masked are texts of the form of RFC 9562, 4 (8-4-4-4-12 hexadecimal digits) that stand alone, anywhere; and serial
//! numbers of FAT (4-4) only where they must name a file system: directly after `UUID=`, or as a word of GRUB's `search`
//! by UUID. Nothing else: a `roothash=` or any other digest has no hyphens and stays.

/// Lengths of the groups of a UUID.
const UUID: [usize; 5] = [8, 4, 4, 4, 12];
/// Lengths of the groups of a FAT serial number.
const FAT: [usize; 2] = [4, 4];
/// Stands for a UUID, and for a serial number. NUL cannot come from a text: GRUB's texts end before it.
const MASKED_UUID: &[u8] = b"\0uuid\0";
const MASKED_SERIAL: &[u8] = b"\0serial\0";

/// The text with identifiers of file systems masked.
pub(super) fn file_system_ids(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let search = Search::of(text);
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let rest = text.get(at..).unwrap_or_default();
        let masked = if !byte.is_ascii_hexdigit() || !starts_alone(text, at) {
            None
        } else if let Some(len) = groups(rest, &UUID) {
            Some((len, MASKED_UUID))
        } else {
            groups(rest, &FAT)
                .filter(|len| names_file_system(text, at) || search.names(text, at, *len))
                .map(|len| (len, MASKED_SERIAL))
        };
        match masked {
            Some((len, mask)) => {
                out.extend_from_slice(mask);
                at += len;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// Whether no letter or digit stands directly before.
fn starts_alone(text: &[u8], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| text.get(before));
    before.is_none_or(|byte| !byte.is_ascii_alphanumeric())
}

/// The length of hexadecimal groups with hyphens between, if the text starts with them and they end there.
fn groups(text: &[u8], lengths: &[usize]) -> Option<usize> {
    let mut at = 0;
    for (position, len) in lengths.iter().enumerate() {
        if position > 0 {
            (text.get(at) == Some(&b'-')).then_some(())?;
            at += 1;
        }
        text.get(at..at + len)?
            .iter()
            .all(u8::is_ascii_hexdigit)
            .then_some(())?;
        at += len;
    }
    let ends = |byte: &u8| !byte.is_ascii_alphanumeric() && *byte != b'-';
    text.get(at).is_none_or(ends).then_some(at)
}

/// Whether `UUID=` stands directly before.
fn names_file_system(text: &[u8], at: usize) -> bool {
    text.get(..at).is_some_and(|before| before.ends_with(b"UUID="))
}

/// A GRUB command that searches for a file system by its identifier.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Search {
    /// Another text.
    No,
    /// `search … --fs-uuid … ID` or `search.fs_uuid ID …`, from this byte on.
    From(usize),
}

impl Search {
    fn of(text: &[u8]) -> Self {
        const SHORT: &[u8] = b"search.fs_uuid ";
        const OPTION: &[u8] = b" --fs-uuid ";
        if text.starts_with(SHORT) {
            return Search::From(SHORT.len());
        }
        if !text.starts_with(b"search ") {
            return Search::No;
        }
        let option = text.windows(OPTION.len()).position(|window| window == OPTION);
        option.map_or(Search::No, |at| Search::From(at + OPTION.len()))
    }

    /// Whether the word at `at` is a whole word after the option.
    fn names(self, text: &[u8], at: usize, len: usize) -> bool {
        let Search::From(start) = self else { return false };
        let space = |byte: Option<&u8>| byte.is_none_or(|byte| *byte == b' ');
        at >= start && space(at.checked_sub(1).and_then(|before| text.get(before))) && space(text.get(at + len))
    }
}
