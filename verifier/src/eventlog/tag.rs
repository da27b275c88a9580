//! EV_EVENT_TAG: TCG_PCClientTaggedEvent (PFP 1.06, 10.4.2.1): what the Linux EFI stub, systemd and Windows measured.
//!
//! Sources: Linux `include/linux/efi.h` (EFI stub), systemd `src/fundamental/tpm2-pcr.h`, Windows' `wbcl.h` (SIPA events).
//! Linux and systemd measure something else than the event says (a file's contents), Windows the event itself.

use super::boot_text::text_or_hex;

/// Most of Windows' inner events that are named.
const MAX_INNER: usize = 12;
/// Windows' container types have this bit.
const SIPA_AGGREGATION: u32 = 0x4000_0000;

/// The Linux EFI stub's initrd.
pub(super) const LINUX_INITRD: u32 = 0x8F3B_22EC;
/// The Linux EFI stub's kernel command line.
pub(super) const LINUX_LOAD_OPTIONS: u32 = 0x8F3B_22ED;

/// What a tagged event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagKind {
    /// The kernel command line as the EFI stub was given it, by digest.
    KernelCommandLine,
    /// An initrd the EFI stub loaded, by digest.
    Initrd,
    /// Configuration, or an addition to the system, by digest.
    Addition,
    /// Windows' own events.
    Windows,
}

const TAGS: &[(u32, TagKind, &str)] = &[
    (
        LINUX_LOAD_OPTIONS,
        TagKind::KernelCommandLine,
        "kernel command line (from the boot loader, by digest)",
    ),
    (LINUX_INITRD, TagKind::Initrd, "initrd (by digest)"),
    (0xF5BC_582A, TagKind::Addition, "systemd-boot configuration"),
    (0x6C46_F751, TagKind::Addition, "devicetree addition"),
    (0x49DF_FE0F, TagKind::Addition, "initrd addition"),
    (0xDAC0_8E1A, TagKind::Addition, "microcode addition"),
    (0xD5CB_7CBC, TagKind::Addition, "SMBIOS system information"),
    (0xE0D4_7BC8, TagKind::Addition, "SMBIOS board information"),
    (0xC0B3_BD23, TagKind::Addition, "SMBIOS OEM strings"),
];

/// Windows' SIPA events by type.
const SIPA: &[(u32, &str)] = &[
    (0x0002_0001, "information"),
    (0x0002_0002, "boot counter"),
    (0x0002_0003, "transfer of control"),
    (0x0002_0004, "application return"),
    (0x0002_0005, "BitLocker unlock"),
    (0x0002_0006, "event counter"),
    (0x0002_0007, "counter id"),
    (0x0002_0008, "memory overwrite request not cancellable"),
    (0x0002_0009, "application's security version"),
    (0x0002_000A, "security version chain status"),
    (0x0002_000B, "memory overwrite request status"),
    (0x0003_0001, "firmware failure"),
    (0x0004_0001, "boot debugging"),
    (0x0004_0002, "boot revocation list"),
    (0x0005_0001, "kernel debugging"),
    (0x0005_0002, "code integrity"),
    (0x0005_0003, "test signing"),
    (0x0005_0004, "data execution prevention"),
    (0x0005_0005, "safe mode"),
    (0x0005_0006, "Windows PE"),
    (0x0005_0007, "physical address extension"),
    (0x0005_0008, "operating system device"),
    (0x0005_0009, "system root"),
    (0x0005_000A, "hypervisor launch type"),
    (0x0005_000B, "hypervisor path"),
    (0x0005_000C, "hypervisor IOMMU policy"),
    (0x0005_000D, "hypervisor debugging"),
    (0x0005_000E, "driver load policy"),
    (0x0005_000F, "signing policy"),
    (0x0006_0001, "no authority"),
    (0x0006_0002, "authority's public key"),
    (0x0007_0001, "file path"),
    (0x0007_0002, "image size"),
    (0x0007_0003, "hash algorithm"),
    (0x0007_0004, "image digest"),
    (0x0007_0005, "authority's issuer"),
    (0x0007_0006, "authority's serial number"),
    (0x0007_0007, "image base"),
    (0x0007_0008, "authority's publisher"),
    (0x0007_0009, "authority's thumbprint"),
    (0x0007_000A, "image validated"),
    (0x0007_000B, "module's security version"),
    (0x4001_0001, "trust boundary"),
    (0x4001_0002, "early-launch anti-malware"),
    (0x4001_0003, "loaded module"),
    (0xC001_0004, "trust point"),
    (0x4001_0005, "key for signed registers"),
    (0xC001_0006, "signed registers"),
    (0x8008_0001, "quote"),
    (0x8008_0003, "attestation key's name"),
    (0x8008_0004, "attestation key"),
];

/// A tagged event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag<'a> {
    /// The tag.
    pub id: u32,
    /// What it holds.
    pub body: &'a [u8],
}

impl<'a> Tag<'a> {
    /// Reads the tag at the start of `data`, and gives what follows it.
    fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (id, rest) = data.split_first_chunk::<4>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (body, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        let id = u32::from_le_bytes(*id);
        Some((Self { id, body }, rest))
    }

    /// Reads an event's data; none if the length does not fit.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        Self::split(data).map(|(tag, _)| tag)
    }

    /// What it is about, where the tag is a known one.
    pub fn kind(&self) -> Option<TagKind> {
        match TAGS.iter().find(|(id, _, _)| *id == self.id) {
            Some((_, kind, _)) => Some(*kind),
            None => sipa(self.id).map(|_| TagKind::Windows),
        }
    }

    /// In words.
    pub(super) fn words(&self) -> String {
        if let Some((_, kind, name)) = TAGS.iter().find(|(id, _, _)| *id == self.id) {
            return match kind {
                TagKind::Addition if !self.body.is_empty() => format!("{name} {}", text_or_hex(self.body)),
                _ => (*name).to_owned(),
            };
        }
        match sipa(self.id) {
            Some(name) => format!("Windows: {name}{}", inner(self)),
            None => format!("tagged event {:#010x} {}", self.id, text_or_hex(self.body)),
        }
    }
}

fn sipa(id: u32) -> Option<&'static str> {
    SIPA.iter().find(|(known, _)| *known == id).map(|(_, name)| *name)
}

/// The names of what a container of Windows' holds, one level deep.
fn inner(container: &Tag<'_>) -> String {
    if container.id & SIPA_AGGREGATION == 0 {
        return String::new();
    }
    let mut names = Vec::new();
    let mut rest = container.body;
    while let Some((tag, after)) = Tag::split(rest) {
        if names.len() == MAX_INNER {
            names.push("…".to_owned());
            break;
        }
        let name = sipa(tag.id).map_or_else(|| format!("{:#010x}", tag.id), str::to_owned);
        if names.last() != Some(&name) {
            names.push(name);
        }
        rest = after;
    }
    match names.is_empty() {
        true => String::new(),
        false => format!(" ({})", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(id: u32, body: &[u8]) -> Vec<u8> {
        [&id.to_le_bytes()[..], &(body.len() as u32).to_le_bytes(), body].concat()
    }

    #[test]
    fn tags_are_named() {
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        for (data, words, kind) in [
            (
                tag(0xF5BC_582A, &wide("loader.conf\0")),
                "systemd-boot configuration loader.conf",
                Some(TagKind::Addition),
            ),
            (
                tag(LINUX_INITRD, b"Linux initrd\0"),
                "initrd (by digest)",
                Some(TagKind::Initrd),
            ),
            (
                tag(
                    0x4001_0001,
                    &[tag(0x0005_0002, &[1]), tag(0x0005_0002, &[1]), tag(9, b"")].concat(),
                ),
                "Windows: trust boundary (code integrity, 0x00000009)",
                Some(TagKind::Windows),
            ),
            (
                tag(0x4001_0003, &tag(0x0007_0001, b"").repeat(2)),
                "Windows: loaded module (file path)",
                Some(TagKind::Windows),
            ),
            (tag(7, b"abc\0"), "tagged event 0x00000007 abc", None),
        ] {
            let tag = Tag::parse(&data).unwrap();
            assert_eq!((tag.words().as_str(), tag.kind()), (words, kind));
            for len in 0..data.len() {
                assert_eq!(Tag::parse(&data[..len]), None, "{len}");
            }
        }
    }
}
