//! Unified kernel images: the sections systemd-stub measures into register 11.
//!
//! Sources: UAPI.5 Unified Kernel Image; systemd-stub(7), systemd-measure(1). Each section is measured as its name with
//! the closing NUL, then its content, in systemd's canonical order, whatever its order in the file.

use touchstone_verifier::eventlog::EventType;
use touchstone_verifier::tpm::HashAlg;

use crate::ArtefactError;
use crate::event::{ComputedEvent, REGISTER_SECTIONS};
use crate::pe::{Image, Section};

/// First version of systemd-stub that measures sections one by one, with their names.
pub const OLDEST_STUB: u32 = 252;
/// Last version whose order is known here.
pub const NEWEST_STUB: u32 = 262;

/// Every section of the standard in canonical order, and the first version of systemd-stub that measures it. `.pcrsig`
/// is never measured: it holds signatures over what the measurement gives.
const MEASURED: &[(&str, u32)] = &[
    (".linux", 252),
    (".osrel", 252),
    (".cmdline", 252),
    (".initrd", 252),
    (".ucode", 256),
    (".splash", 252),
    (".dtb", 252),
    (".uname", 254),
    (".sbat", 254),
    (".pcrpkey", 252),
];
/// Sections that make what is measured depend on the machine: profiles are chosen at boot, device trees and firmware by
/// the hardware found.
const CHOSEN_AT_BOOT: &[&str] = &[".profile", ".dtbauto", ".hwids", ".efifw"];
/// What the stub puts into `.sdmagic` around its version.
const MAGIC: &[u8] = b"#### LoaderInfo: systemd-stub ";

/// A unified kernel image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uki<'a> {
    image: Image<'a>,
    stub: u32,
    sections: Vec<(&'static str, &'a [u8])>,
}

impl<'a> Uki<'a> {
    /// Whether an image has a `.linux` section, as only unified kernel images do.
    pub fn is_uki(image: &Image<'_>) -> bool {
        image.sections().iter().any(|section| section.name == b".linux")
    }

    /// Reads an image's sections.
    ///
    /// # Errors
    /// [`ArtefactError`]: no kernel in it, no known stub, a section twice, or one that is chosen at boot.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ArtefactError> {
        let image = Image::parse(bytes)?;
        if !Self::is_uki(&image) {
            let expected = "a unified kernel image with a section .linux";
            return Err(ArtefactError::malformed("UKI", expected, "none"));
        }
        let stub = stub_version(&image)?;
        for name in CHOSEN_AT_BOOT {
            if image.sections().iter().any(|section| section.name == name.as_bytes()) {
                let why = "the machine chooses at boot what is measured: take the reference from a golden machine (reference add --evidence)";
                return Err(ArtefactError::not_computable(format!("UKI section {name}"), why));
            }
        }
        let mut sections = Vec::new();
        for (name, since) in MEASURED {
            let section = image.section(name)?;
            // Nothing is measured of an empty section, not even its name.
            if let Some(section) = section.filter(|section| section.virtual_size != 0 && stub >= *since) {
                sections.push((*name, section.in_memory()?));
            }
        }
        Ok(Self { image, stub, sections })
    }

    /// The image as a whole.
    pub fn image(&self) -> &Image<'a> {
        &self.image
    }

    /// Major version of its systemd-stub.
    pub fn stub_version(&self) -> u32 {
        self.stub
    }

    /// The measured sections in the order of measurement: name and content.
    pub fn sections(&self) -> &[(&'static str, &'a [u8])] {
        &self.sections
    }

    /// Content of a measured section.
    pub fn content(&self, name: &str) -> Option<&'a [u8]> {
        let mut sections = self.sections.iter();
        sections.find(|(own, _)| *own == name).map(|(_, content)| *content)
    }

    /// Whether the image has a section of this name, measured or not.
    pub fn has(&self, name: &str) -> bool {
        let mut sections = self.image.sections().iter();
        sections.any(|section: &Section<'_>| section.name == name.as_bytes())
    }

    /// The inner kernel, itself an image: firmware measures it too when Secure Boot is off.
    ///
    /// # Errors
    /// [`ArtefactError`]: not an image.
    pub fn kernel(&self) -> Result<Image<'a>, ArtefactError> {
        Image::parse(self.content(".linux").unwrap_or_default())
    }

    /// The events of register 11.
    pub fn section_events(&self, banks: &[HashAlg]) -> Vec<ComputedEvent> {
        let events = self.sections.iter().flat_map(|(name, content)| {
            let event = |measured: &[u8]| {
                ComputedEvent::of(banks, REGISTER_SECTIONS, EventType::IPL, utf16(name, true), measured)
            };
            let mut named = name.as_bytes().to_vec();
            named.push(0);
            [event(&named), event(content)]
        });
        events.collect()
    }

    /// What it is, in words: system, kernel release and command line, where it says so.
    pub fn describe(&self) -> Vec<String> {
        let words = [(".osrel", "system"), (".uname", "kernel"), (".cmdline", "command line")];
        let mut out = vec![format!("unified kernel image, systemd-stub {}", self.stub)];
        for (name, what) in words {
            if let Some(content) = self.content(name) {
                let text = String::from_utf8_lossy(content);
                let text = match name {
                    ".osrel" => os_name(&text).unwrap_or_else(|| "unnamed".into()),
                    _ => text.trim_end_matches(['\0', '\n']).to_owned(),
                };
                let text = touchstone_verifier::reason::sanitise(&text, MAX_WORDS);
                out.push(format!("{what}: {text}"));
            }
        }
        out
    }
}

/// Longest description of a section, in bytes.
const MAX_WORDS: usize = 1024;

/// `PRETTY_NAME`, or `NAME` and `VERSION_ID`, of os-release(5).
fn os_name(text: &str) -> Option<String> {
    let value = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim_matches(['"', '\'']).to_owned())
    };
    let named = || {
        let version = value("VERSION_ID").map(|version| format!(" {version}"));
        Some(value("NAME").or_else(|| value("ID"))? + &version.unwrap_or_default())
    };
    value("PRETTY_NAME").or_else(named)
}

fn stub_version(image: &Image<'_>) -> Result<u32, ArtefactError> {
    let unknown = |found: &str| {
        let why = format!(
            "which sections are measured depends on the stub; systemd-stub {OLDEST_STUB} to {NEWEST_STUB} is known, this is {found}: take the reference from a golden machine (reference add --evidence)"
        );
        ArtefactError::not_computable("UKI stub", why)
    };
    let magic = image.section(".sdmagic")?.ok_or_else(|| unknown("another stub"))?;
    let version = magic.data.strip_prefix(MAGIC).ok_or_else(|| unknown("another stub"))?;
    let digits: Vec<u8> = version.iter().copied().take_while(u8::is_ascii_digit).take(6).collect();
    let version: Option<u32> = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok());
    let version = version.ok_or_else(|| unknown("a stub without a version"))?;
    if (OLDEST_STUB..=NEWEST_STUB).contains(&version) {
        Ok(version)
    } else {
        Err(unknown(&version.to_string()))
    }
}

/// UTF-16LE, with a closing NUL if asked for.
pub(crate) fn utf16(text: &str, nul: bool) -> Vec<u8> {
    let closing = nul.then_some(0);
    text.encode_utf16().chain(closing).flat_map(u16::to_le_bytes).collect()
}
