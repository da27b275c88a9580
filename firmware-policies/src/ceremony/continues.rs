//! What must not go back from one version to the next: the domain's name, its generation, its keyset.

use crate::error::{PolicyCode, PolicyError};
use crate::layout::Files;
use crate::layout::TargetKind;
use crate::load::contents::Contents;
use crate::settings::Settings;
use crate::targets::keyset_file::Keyset;

/// What the published version says about what must not go back.
struct Previous {
    domain: String,
    generation: u64,
    keyset: u64,
}

/// Nothing before the first version, or where the published settings cannot be read by this program any more.
fn previous(files: &Files) -> Option<Previous> {
    let settings = Settings::parse(files.get(&TargetKind::Settings)?).ok()?;
    let keyset = files
        .get(&TargetKind::Keyset)
        .and_then(|bytes| Keyset::parse(bytes).ok());
    let keyset = keyset.map_or(0, |k| k.version);
    Some(Previous {
        domain: settings.domain,
        generation: settings.generation,
        keyset,
    })
}

/// A new version keeps its domain, and neither its generation nor its keyset goes back.
pub(super) fn continues(published: Option<&Files>, contents: &Contents) -> Result<Vec<String>, PolicyError> {
    let mut notes = Vec::new();
    if contents.keyset.keys.is_empty() {
        notes.push("no keyset yet: a broker's signatures count only after broker init and another publish".into());
    }
    let Some(previous) = published.and_then(previous) else {
        return Ok(notes);
    };
    let (settings, keyset) = (&contents.settings, contents.keyset.version);
    if settings.domain != previous.domain {
        let expected = format!("domain {}", previous.domain);
        return Err(PolicyError::new(
            PolicyCode::SettingsName,
            "settings.toml: domain",
            expected,
            &settings.domain,
        ));
    }
    if settings.generation < previous.generation {
        let expected = format!("{} or later", previous.generation);
        let claim = "settings.toml: generation";
        return Err(PolicyError::new(
            PolicyCode::SettingsGeneration,
            claim,
            expected,
            settings.generation,
        ));
    }
    if keyset < previous.keyset {
        let expected = format!("version {} or later", previous.keyset);
        return Err(PolicyError::new(
            PolicyCode::KeysetOlder,
            "keyset.json",
            expected,
            keyset,
        ));
    }
    Ok(notes)
}
