//! The record of a unified kernel image's measured sections, which evidence may hold.

use touchstone_artefacts::ArtefactError;
use touchstone_artefacts::uki::Uki;
use touchstone_evidence::uki_sections::{Section, encode};

/// Reads a unified kernel image and gives its record `uki/sections`: the measured sections in systemd-stub's order.
///
/// # Errors
/// [`ArtefactError`]: no unified kernel image, or one of which the file does not tell what is measured.
pub fn uki_sections(image: &[u8]) -> Result<Vec<u8>, ArtefactError> {
    let uki = Uki::parse(image)?;
    let sections: Vec<Section> = uki
        .sections()
        .iter()
        .map(|(name, content)| Section::of(name, content))
        .collect();
    Ok(encode(&sections))
}
