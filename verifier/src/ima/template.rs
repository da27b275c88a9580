//! Templates: which fields an entry has, and in which order.
//!
//! Source: Linux, security/integrity/ima/ima_template.c (names and formats) and ima_template_lib.c (fields). A kernel
//! with `ima_template_fmt=` writes the format itself in place of a name.

/// Most fields of a template (Linux: TEMPLATE_NUM_FIELDS_MAX).
pub const MAX_FIELDS: usize = 15;
/// Longest name of a template in bytes: a format of the most fields.
pub const MAX_TEMPLATE_NAME: usize = 255;

/// A field of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `d`: a 20-byte digest without its algorithm.
    Digest,
    /// `n`: a name, NUL-terminated (in template `ima`: without the NUL, hashed as 256 bytes).
    Name,
    /// `d-ng`: algorithm, colon, NUL, digest.
    DigestNg,
    /// `n-ng`: a name, NUL-terminated.
    NameNg,
    /// `d-ngv2`: kind of digest, colon, algorithm, colon, NUL, digest.
    DigestNgV2,
    /// `sig`: security.ima, or the portable security.evm.
    Sig,
    /// `buf`: a buffer that was measured itself.
    Buf,
    /// `d-modsig`: digest without the appended signature.
    DigestModsig,
    /// `modsig`: the appended signature.
    Modsig,
    /// `evmsig`: the portable security.evm.
    EvmSig,
    /// `xattrnames`, `xattrlengths`, `xattrvalues`: what the portable signature covers.
    XattrNames,
    /// See [`Field::XattrNames`].
    XattrLengths,
    /// See [`Field::XattrNames`].
    XattrValues,
    /// `iuid`: owner, four bytes.
    Uid,
    /// `igid`: group, four bytes.
    Gid,
    /// `imode`: mode, two bytes.
    Mode,
}

impl Field {
    const ALL: [(Field, &'static str); 16] = [
        (Field::Digest, "d"),
        (Field::Name, "n"),
        (Field::DigestNg, "d-ng"),
        (Field::NameNg, "n-ng"),
        (Field::DigestNgV2, "d-ngv2"),
        (Field::Sig, "sig"),
        (Field::Buf, "buf"),
        (Field::DigestModsig, "d-modsig"),
        (Field::Modsig, "modsig"),
        (Field::EvmSig, "evmsig"),
        (Field::XattrNames, "xattrnames"),
        (Field::XattrLengths, "xattrlengths"),
        (Field::XattrValues, "xattrvalues"),
        (Field::Uid, "iuid"),
        (Field::Gid, "igid"),
        (Field::Mode, "imode"),
    ];

    /// Its name in a format.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(field, _)| *field == self)
            .map_or("", |(_, name)| name)
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(field, _)| *field)
    }

    /// Whether the name of the entry stands here.
    pub(super) const fn is_name(self) -> bool {
        matches!(self, Field::Name | Field::NameNg)
    }
}

/// The fields of a format of the kernel's command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format {
    fields: [Field; MAX_FIELDS],
    len: u8,
}

impl Format {
    /// Reads a format such as `d-ng|n-ng`; none where a field is unknown, there twice, or there are too many.
    fn parse(text: &str) -> Option<Self> {
        let mut format = Self {
            fields: [Field::Digest; MAX_FIELDS],
            len: 0,
        };
        for name in text.split('|') {
            let field = Field::from_name(name)?;
            if format.fields().contains(&field) {
                return None;
            }
            *format.fields.get_mut(usize::from(format.len))? = field;
            format.len += 1;
        }
        Some(format)
    }

    fn fields(&self) -> &[Field] {
        self.fields.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// The shape of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Template {
    /// `ima`: `d|n`, without field lengths of its own; a SHA-1 or MD5 digest.
    Ima,
    /// `ima-ng`: `d-ng|n-ng`.
    ImaNg,
    /// `ima-sig`: `d-ng|n-ng|sig`.
    ImaSig,
    /// `ima-buf`: `d-ng|n-ng|buf`.
    ImaBuf,
    /// `ima-modsig`: `d-ng|n-ng|sig|d-modsig|modsig`.
    ImaModsig,
    /// `ima-ngv2`: `d-ngv2|n-ng`.
    ImaNgV2,
    /// `ima-sigv2`: `d-ngv2|n-ng|sig`.
    ImaSigV2,
    /// `evm-sig`: `d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|imode`.
    EvmSig,
    /// A format of the kernel's command line.
    Format(Format),
}

impl Template {
    /// The template of this name or format; none where it is not one of ours.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"ima" => Template::Ima,
            b"ima-ng" => Template::ImaNg,
            b"ima-sig" => Template::ImaSig,
            b"ima-buf" => Template::ImaBuf,
            b"ima-modsig" => Template::ImaModsig,
            b"ima-ngv2" => Template::ImaNgV2,
            b"ima-sigv2" => Template::ImaSigV2,
            b"evm-sig" => Template::EvmSig,
            other => Template::Format(Format::parse(std::str::from_utf8(other).ok()?)?),
        })
    }

    /// Its fields, in order.
    pub fn fields(&self) -> &[Field] {
        match self {
            Template::Ima => &[Field::Digest, Field::Name],
            Template::ImaNg => &[Field::DigestNg, Field::NameNg],
            Template::ImaSig => &[Field::DigestNg, Field::NameNg, Field::Sig],
            Template::ImaBuf => &[Field::DigestNg, Field::NameNg, Field::Buf],
            Template::ImaModsig => &[
                Field::DigestNg,
                Field::NameNg,
                Field::Sig,
                Field::DigestModsig,
                Field::Modsig,
            ],
            Template::ImaNgV2 => &[Field::DigestNgV2, Field::NameNg],
            Template::ImaSigV2 => &[Field::DigestNgV2, Field::NameNg, Field::Sig],
            Template::EvmSig => &[
                Field::DigestNg,
                Field::NameNg,
                Field::EvmSig,
                Field::XattrNames,
                Field::XattrLengths,
                Field::XattrValues,
                Field::Uid,
                Field::Gid,
                Field::Mode,
            ],
            Template::Format(format) => format.fields(),
        }
    }

    /// Whether digest and name can only be what they are. The format is in no digest: with the digest first and the name
    /// behind it, the same bytes can not be read in an order where what a file's owner wrote into an attribute stands for
    /// the file's digest or path. A list with other orders replays; nothing in such an entry is believed.
    pub fn is_ordered(&self) -> bool {
        let place = |wanted: fn(&Field) -> bool| self.fields().iter().position(wanted);
        let digest = place(|field| matches!(field, Field::Digest | Field::DigestNg | Field::DigestNgV2));
        let name = place(|field| field.is_name());
        let name_next = name.is_none_or(|place| place == usize::from(digest.is_some()));
        digest.is_none_or(|place| place == 0) && name_next
    }

    /// Its name, or its format.
    pub fn name(&self) -> String {
        match self {
            Template::Ima => "ima".to_owned(),
            Template::ImaNg => "ima-ng".to_owned(),
            Template::ImaSig => "ima-sig".to_owned(),
            Template::ImaBuf => "ima-buf".to_owned(),
            Template::ImaModsig => "ima-modsig".to_owned(),
            Template::ImaNgV2 => "ima-ngv2".to_owned(),
            Template::ImaSigV2 => "ima-sigv2".to_owned(),
            Template::EvmSig => "evm-sig".to_owned(),
            Template::Format(format) => {
                let names: Vec<&str> = format.fields().iter().map(|field| field.name()).collect();
                names.join("|")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_with_digest_and_name_in_front_is_an_entry_what_it_says() {
        for (format, ordered) in [
            ("d-ng|n-ng|sig", true),
            ("d-ng|sig", true),
            ("n-ng", true),
            (
                "d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|imode",
                true,
            ),
            // The bytes of an attribute would stand for the digest, or for the path.
            (
                "d-modsig|n-ng|evmsig|xattrnames|xattrlengths|d-ng|iuid|igid|imode",
                false,
            ),
            ("d-ng|sig|n-ng", false),
            ("n-ng|d-ng", false),
        ] {
            let format = Format::parse(format).unwrap();
            assert_eq!(Template::Format(format).is_ordered(), ordered, "{format:?}");
        }
        assert!(Template::Ima.is_ordered() && Template::ImaSigV2.is_ordered());
        for unknown in ["d-ng|d-ng", "d-ng|else", ""] {
            assert_eq!(Format::parse(unknown), None, "{unknown}");
        }
    }
}
