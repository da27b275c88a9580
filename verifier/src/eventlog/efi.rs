//! UEFI structures inside events: variables, device paths, images (UEFI 2.10, PFP 1.06 10.4).

use super::bytes::Reader;

/// Longest variable name, in UTF-16 units.
const MAX_NAME: u64 = 1024;
/// Device-path node: media, file path.
const MEDIA_FILE_PATH: (u8, u8) = (4, 4);
/// Device-path node: media, firmware file.
const MEDIA_FIRMWARE_FILE: (u8, u8) = (4, 6);
/// Device-path node: end of the whole path.
const END: u8 = 0x7F;
/// Most device-path nodes that are looked at.
const MAX_NODES: usize = 64;

/// UEFI_VARIABLE_DATA: a variable as the firmware measured it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EfiVariable<'a> {
    /// GUID of the vendor's name space, as on the wire.
    pub guid: &'a [u8],
    /// Name, UTF-16 little-endian.
    pub name: &'a [u8],
    /// Value.
    pub value: &'a [u8],
    /// Length of the structure in bytes. Some boot loaders log bytes beyond it.
    pub len: usize,
}

impl<'a> EfiVariable<'a> {
    /// Reads the structure at the start of `data`; none if the lengths do not fit.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let (guid, rest) = data.split_at_checked(16)?;
        let (name_len, rest) = rest.split_first_chunk::<8>()?;
        let (value_len, rest) = rest.split_first_chunk::<8>()?;
        let name_len = Some(u64::from_le_bytes(*name_len)).filter(|len| *len <= MAX_NAME)? as usize * 2;
        let (name, rest) = rest.split_at_checked(name_len)?;
        let value = rest.get(..usize::try_from(u64::from_le_bytes(*value_len)).ok()?)?;
        Some(Self {
            guid,
            name,
            value,
            len: 32 + name.len() + value.len(),
        })
    }

    /// The name as text.
    pub fn name(&self) -> String {
        utf16(self.name)
    }

    /// Whether the name is this ASCII text.
    pub fn is_named(&self, name: &str) -> bool {
        self.name.len() == 2 * name.len()
            && self
                .name
                .chunks(2)
                .zip(name.bytes())
                .all(|(unit, byte)| unit == [byte, 0])
    }
}

/// UTF-16 little-endian to text, up to a NUL; what is no text becomes U+FFFD.
pub(super) fn utf16(bytes: &[u8]) -> String {
    let (units, _) = bytes.as_chunks::<2>();
    let units = units
        .iter()
        .map(|unit| u16::from_le_bytes(*unit))
        .take_while(|unit| *unit != 0);
    char::decode_utf16(units)
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// A GUID in its usual text form (mixed-endian, RFC 9562 appendix).
pub(super) fn guid(bytes: &[u8]) -> Option<String> {
    let [a0, a1, a2, a3, b0, b1, c0, c1, d @ ..] = <&[u8; 16]>::try_from(bytes).ok()?;
    let (high, low) = d.split_at_checked(2)?;
    Some(format!(
        "{:08x}-{:04x}-{:04x}-{}-{}",
        u32::from_le_bytes([*a0, *a1, *a2, *a3]),
        u16::from_le_bytes([*b0, *b1]),
        u16::from_le_bytes([*c0, *c1]),
        hex::encode(high),
        hex::encode(low)
    ))
}

/// UEFI_IMAGE_LOAD_EVENT: length of the image in memory, and where it came from in words.
pub(super) fn image(data: &[u8]) -> Option<(u64, Option<String>)> {
    let mut fields = data.as_chunks::<8>().0.iter().map(|field| u64::from_le_bytes(*field));
    let (_location, len, _link_time, path_len) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let path = data.get(32..)?.get(..usize::try_from(path_len).ok()?)?;
    Some((len, device_path(path)))
}

/// The file a device path names, in words.
pub(super) fn device_path(path: &[u8]) -> Option<String> {
    let mut reader = Reader::at(path, 0);
    for _ in 0..MAX_NODES {
        let kind = (reader.u8().ok()?, reader.u8().ok()?);
        let body = reader
            .take(usize::from(reader.clone().u16().ok()?).checked_sub(2)?)
            .ok()?
            .get(2..)?;
        match kind {
            MEDIA_FILE_PATH => return Some(utf16(body)),
            MEDIA_FIRMWARE_FILE => return Some(format!("firmware file {}", guid(body)?)),
            (END, _) => return None,
            _ => {}
        }
    }
    None
}

/// The description of an EFI_LOAD_OPTION (the value of a `Boot####` variable) and the file it boots.
pub(super) fn load_option(value: &[u8]) -> Option<(String, Option<String>)> {
    let (_attributes, rest) = value.split_at_checked(4)?;
    let (path_len, rest) = rest.split_first_chunk::<2>()?;
    let (units, _) = rest.as_chunks::<2>();
    let name_len = units.iter().position(|unit| *unit == [0, 0])? * 2 + 2;
    let path = rest
        .get(name_len..)?
        .get(..usize::from(u16::from_le_bytes(*path_len)))?;
    Some((utf16(rest), device_path(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, value: &[u8]) -> Vec<u8> {
        let mut data = vec![7; 16];
        data.extend((name.len() as u64).to_le_bytes());
        data.extend((value.len() as u64).to_le_bytes());
        data.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
        data.extend(value);
        data
    }

    #[test]
    fn variables_are_read_and_wrong_lengths_are_not() {
        let data = variable("SecureBoot", &[1]);
        let read = EfiVariable::parse(&data).unwrap();
        assert!(read.is_named("SecureBoot") && !read.is_named("SecureBoo") && !read.is_named("SecureBooT"));
        assert_eq!(
            (read.name().as_str(), read.value, read.len),
            ("SecureBoot", &[1u8][..], data.len())
        );
        for len in 0..data.len() {
            assert_eq!(EfiVariable::parse(&data[..len]), None, "{len}");
        }
        let mut endless = data.clone();
        endless[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(EfiVariable::parse(&endless), None);
    }

    #[test]
    fn device_paths_name_their_file() {
        let mut path = vec![2, 1, 12, 0, 0xd0, 0x41, 3, 10, 0, 0, 0, 0, 4, 4, 10, 0];
        path.extend("\\a\0".encode_utf16().flat_map(u16::to_le_bytes));
        path.extend([0x7f, 0xff, 4, 0]);
        assert_eq!(device_path(&path).as_deref(), Some("\\a"));
        for len in 0..path.len() {
            let _ = device_path(&path[..len]);
        }
        assert_eq!(device_path(&[0; 64]), None);
        assert_eq!(
            guid(&(0..16).collect::<Vec<u8>>()).as_deref(),
            Some("03020100-0504-0706-0809-0a0b0c0d0e0f")
        );
    }
}
