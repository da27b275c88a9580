//! Texts of boot loaders: GRUB's registers 8 and 9, systemd's 11 to 13 and 15, shim's 14.
//!
//! Sources: GRUB `grub-core/commands/tpm.c` (2.04 and later; RHEL 8's older form), systemd's `TPM2_PCR_MEASUREMENTS`,
//! shim's `tpm.c`. What is hashed was confirmed with genuine logs.

use super::efi;

/// What GRUB's texts in register 8 start with; what follows, without the closing NUL, is what it measured.
const GRUB_PREFIXES: &[(&[u8], TextKind)] = &[
    (b"grub_cmd: ", TextKind::Command),
    (b"kernel_cmdline: ", TextKind::KernelCommandLine),
    (b"module_cmdline: ", TextKind::ModuleCommandLine),
    // RHEL 8.
    (b"grub_cmd ", TextKind::Command),
    (b"grub_kernel_cmdline ", TextKind::KernelCommandLine),
];

/// Commands of GRUB that load a kernel; what follows is its command line.
const LOADING_COMMANDS: &[&[u8]] = &[b"linux", b"linuxefi", b"linux16", b"kernel"];

/// What a boot loader's text in register 8 is. The prefix that says so is **not** covered by the digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    /// A command of the boot loader.
    Command,
    /// The kernel's command line.
    KernelCommandLine,
    /// A module's command line (multiboot).
    ModuleCommandLine,
}

/// The kind and the measured bytes of GRUB's text, where the prefix is known.
pub(super) fn grub_text(data: &[u8]) -> Option<(TextKind, &[u8])> {
    GRUB_PREFIXES.iter().find_map(|(prefix, kind)| {
        let text = data.strip_prefix(*prefix)?;
        Some((*kind, text.strip_suffix(b"\0").unwrap_or(text)))
    })
}

/// The command line a GRUB command gives to a kernel it loads.
pub(super) fn loaded_command_line(command: &[u8]) -> Option<&[u8]> {
    let space = command.iter().position(|byte| *byte == b' ')?;
    let (word, rest) = command.split_at_checked(space)?;
    let rest = rest.get(1..)?;
    LOADING_COMMANDS.contains(&word).then_some(rest)
}

/// A command line without its quoting: GRUB measures the words of the command, and the line it made of them.
pub(super) fn unquoted(line: &[u8]) -> impl Iterator<Item = &u8> {
    line.iter().filter(|byte| !matches!(byte, b'"' | b'\'' | b'\\'))
}

/// ASCII or UTF-16 text as boot loaders log it, without its closing NUL; none for what is not printable text.
pub(super) fn text(data: &[u8]) -> Option<String> {
    let ascii = data.strip_suffix(b"\0").unwrap_or(data);
    if !ascii.is_empty()
        && ascii
            .iter()
            .all(|byte| matches!(byte, 0x09 | 0x0A | 0x0D | 0x20..=0x7E))
    {
        return Some(String::from_utf8_lossy(ascii).into_owned());
    }
    utf16_text(data)
}

/// UTF-16 text, without its closing NUL.
pub(super) fn utf16_text(data: &[u8]) -> Option<String> {
    let (units, []) = data.as_chunks::<2>() else {
        return None;
    };
    let units = units.strip_suffix(&[[0, 0]]).unwrap_or(units);
    let printable = |unit: &[u8; 2]| match u16::from_le_bytes(*unit) {
        0x09 | 0x0A | 0x0D | 0x20..=0x7E => true,
        unit => unit >= 0xA0,
    };
    // Latin text only: any pair of bytes would be some character of some script.
    let latin = units.iter().filter(|[_, high]| *high == 0).count() * 2 >= units.len();
    if units.is_empty() || !latin || !units.iter().all(printable) {
        return None;
    }
    char::decode_utf16(units.iter().map(|unit| u16::from_le_bytes(*unit)))
        .collect::<Result<String, _>>()
        .ok()
}

/// The bytes that a text may have been measured as: as it is logged, without the closing NUL, and for UTF-16 as the same
/// text in bytes, with a NUL (names of sections) and without (phases, machine ids).
pub(super) fn measured_forms(data: &[u8]) -> impl Iterator<Item = std::borrow::Cow<'_, [u8]>> {
    use std::borrow::Cow;
    let narrow = utf16_text(data).map(String::into_bytes);
    let with_nul = narrow.clone().map(|mut text| {
        text.push(0);
        text
    });
    let stripped = match &narrow {
        Some(_) => data.strip_suffix(b"\0\0"),
        None => data.strip_suffix(b"\0"),
    };
    [
        Some(Cow::Borrowed(data)),
        with_nul.map(Cow::Owned),
        stripped.map(Cow::Borrowed),
        narrow.map(Cow::Owned),
    ]
    .into_iter()
    .flatten()
}

/// Text where it is text, the first bytes in hexadecimal otherwise.
pub(super) fn text_or_hex(data: &[u8]) -> String {
    const SHOWN: usize = 32;
    if let Some(text) = text(data) {
        return text;
    }
    if data.len() == 16 && data.iter().any(|byte| *byte != 0) {
        return efi::guid(data).unwrap_or_default();
    }
    match data.get(..SHOWN) {
        Some(start) if data.len() > SHOWN => format!("{}… ({} bytes)", hex::encode(start), data.len()),
        _ => hex::encode(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn texts_are_told_from_bytes() {
        for (data, expected) in [
            (&b"abc\0"[..], Some("abc")),
            (b"abc", Some("abc")),
            (&wide("abc\0"), Some("abc")),
            (&wide("ab\u{e9}"), Some("ab\u{e9}")),
            (&wide("ab\0c"), None),
            (b"\0\0", None),
            (b"", None),
            (b"\x01\x02\x03\x04", None),
            (b"\x00\x30\x00\x31", None),
            (b"ab\0c", None),
        ] {
            assert_eq!(text(data).as_deref(), expected, "{data:?}");
        }
        assert_eq!(text_or_hex(b""), "");
        assert_eq!(text_or_hex(&[0xAB; 40]), format!("{}… (40 bytes)", "ab".repeat(32)));
    }

    #[test]
    fn a_loading_command_is_known_by_its_first_word() {
        for (command, line) in [
            (&b"linux /vmlinuz quiet"[..], Some(&b"/vmlinuz quiet"[..])),
            (b"linuxefi (hd0)/k", Some(b"(hd0)/k")),
            (b"linuxx /a", None),
            (b"linux", None),
            (b"echo linux /a", None),
        ] {
            assert_eq!(loaded_command_line(command), line);
        }
        assert!(unquoted(b"a \"b c\"").eq(b"a b c") && !unquoted(b"a b").eq(b"ab"));
    }

    #[test]
    fn a_section_name_may_have_been_measured_narrow_with_nul() {
        let data = wide(".linux\0");
        let forms: Vec<Vec<u8>> = measured_forms(&data).map(|form| form.into_owned()).collect();
        assert_eq!(
            forms,
            [data.clone(), b".linux\0".to_vec(), wide(".linux"), b".linux".to_vec()]
        );
        let forms: Vec<Vec<u8>> = measured_forms(b"ready\0").map(|form| form.into_owned()).collect();
        assert_eq!(forms, [b"ready\0".to_vec(), b"ready".to_vec()]);
    }
}
