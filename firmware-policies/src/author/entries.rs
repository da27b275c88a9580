//! Staging of the tables of names: operators, detectors, enforcers; and of segments. Each change keeps the rest of the file
//! and its comments, and is staged only where the whole next version reads.

use std::path::Path;

use serde::Serialize;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

use crate::error::{PolicyCode, PolicyError};
use crate::layout::TargetKind;
use crate::load::read::check_keys;
use crate::repository::Repository;
use crate::targets::detectors_file::{DetectorReach, Detectors};
use crate::targets::enforcers_file::Enforcers;
use crate::targets::network_file::Network;
use crate::targets::operators_file::{Operators, Power};

/// An operator to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewOperator {
    /// The name.
    pub name: String,
    /// The public key: PEM, hexadecimal or JWK.
    pub key: String,
    /// What may be commanded.
    pub may: Vec<Power>,
    /// Where; empty: everywhere.
    pub regions: Vec<String>,
}

/// A detector to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewDetector {
    /// The name.
    pub name: String,
    /// `iss` of its tokens.
    pub issuer: String,
    /// `aud` of its tokens.
    pub audience: String,
    /// The public keys: PEM, hexadecimal or JWK.
    pub keys: Vec<String>,
    /// What follows at most.
    pub reach: DetectorReach,
    /// The nodes; empty: no list.
    pub nodes: Vec<String>,
    /// The roles; empty: no list.
    pub roles: Vec<String>,
    /// The regions; empty: no list.
    pub regions: Vec<String>,
    /// Most reports a minute.
    pub most_per_minute: u32,
}

/// An enforcer to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewEnforcer {
    /// Its id.
    pub name: String,
    /// The public key: PEM, hexadecimal or JWK.
    pub key: String,
    /// Where it stands.
    pub region: Option<String>,
}

/// What was staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryStaged {
    /// The file.
    pub file: String,
    /// How many entries it has now; 0: it is taken out.
    pub entries: usize,
    /// Whether the entry was there before: it was replaced, or removed.
    pub before: bool,
}

/// Stages an operator, in the place of one of this name.
///
/// # Errors
/// [`PolicyError`] naming every problem; then nothing is staged.
pub fn operator_add(repo: &Path, new: &NewOperator) -> Result<EntryStaged, PolicyError> {
    let mut entry = Table::new();
    entry.insert("key", value(new.key.as_str()));
    entry.insert("may", list(new.may.iter().map(|power| power.as_str())));
    insert_list(&mut entry, "regions", &new.regions);
    change(repo, &TargetKind::Operators, &new.name, Some(entry))
}

/// Stages a detector, in the place of one of this name.
///
/// # Errors
/// As [`operator_add`].
pub fn detector_add(repo: &Path, new: &NewDetector) -> Result<EntryStaged, PolicyError> {
    let mut entry = Table::new();
    entry.insert("issuer", value(new.issuer.as_str()));
    entry.insert("audience", value(new.audience.as_str()));
    entry.insert("keys", list(new.keys.iter().map(String::as_str)));
    entry.insert("reach", value(new.reach.as_str()));
    insert_list(&mut entry, "nodes", &new.nodes);
    insert_list(&mut entry, "roles", &new.roles);
    insert_list(&mut entry, "regions", &new.regions);
    entry.insert("most_per_minute", value(i64::from(new.most_per_minute)));
    change(repo, &TargetKind::Detectors, &new.name, Some(entry))
}

/// Stages an enforcer, in the place of one of this id.
///
/// # Errors
/// As [`operator_add`].
pub fn enforcer_add(repo: &Path, new: &NewEnforcer) -> Result<EntryStaged, PolicyError> {
    let mut entry = Table::new();
    entry.insert("key", value(new.key.as_str()));
    if let Some(region) = &new.region {
        entry.insert("region", value(region.as_str()));
    }
    change(repo, &TargetKind::Enforcers, &new.name, Some(entry))
}

/// Stages the removal of an operator. The last one takes the file with it: then commands need no signature.
///
/// # Errors
/// [`PolicyError`] `policy-target-missing` where there is none of this name.
pub fn operator_remove(repo: &Path, name: &str) -> Result<EntryStaged, PolicyError> {
    change(repo, &TargetKind::Operators, name, None)
}

/// Stages the removal of a detector; with the last one the file goes.
///
/// # Errors
/// As [`operator_remove`].
pub fn detector_remove(repo: &Path, name: &str) -> Result<EntryStaged, PolicyError> {
    change(repo, &TargetKind::Detectors, name, None)
}

/// Stages the removal of an enforcer; with the last one the file goes.
///
/// # Errors
/// As [`operator_remove`].
pub fn enforcer_remove(repo: &Path, name: &str) -> Result<EntryStaged, PolicyError> {
    change(repo, &TargetKind::Enforcers, name, None)
}

/// Stages what a workload reaches that runs under `scope`, in the place of what it reached.
///
/// # Errors
/// As [`operator_add`].
pub fn segment_add(repo: &Path, scope: &str, allow: &[String]) -> Result<EntryStaged, PolicyError> {
    segment(repo, scope, Some(allow))
}

/// Stages that a workload under `scope` reaches nothing any more.
///
/// # Errors
/// As [`operator_remove`].
pub fn segment_remove(repo: &Path, scope: &str) -> Result<EntryStaged, PolicyError> {
    segment(repo, scope, None)
}

/// The operators of the next version.
///
/// # Errors
/// [`PolicyError`] of files that cannot be read.
pub fn operator_list(repo: &Path) -> Result<Operators, PolicyError> {
    listed(repo, &TargetKind::Operators, Operators::parse)
}

/// The detectors of the next version.
///
/// # Errors
/// As [`operator_list`].
pub fn detector_list(repo: &Path) -> Result<Detectors, PolicyError> {
    listed(repo, &TargetKind::Detectors, Detectors::parse)
}

/// The enforcers of the next version.
///
/// # Errors
/// As [`operator_list`].
pub fn enforcer_list(repo: &Path) -> Result<Enforcers, PolicyError> {
    listed(repo, &TargetKind::Enforcers, Enforcers::parse)
}

/// The segments of the next version.
///
/// # Errors
/// As [`operator_list`].
pub fn segment_list(repo: &Path) -> Result<Network, PolicyError> {
    listed(repo, &TargetKind::Network, Network::parse)
}

fn listed<T: Default>(
    repo: &Path,
    kind: &TargetKind,
    parse: impl Fn(&[u8]) -> Result<T, PolicyError>,
) -> Result<T, PolicyError> {
    let next = Repository::open(repo)?.next()?;
    next.get(kind).map_or_else(|| Ok(T::default()), |bytes| parse(bytes))
}

/// Puts an entry into the one table of a file, or takes it out.
fn change(repo: &Path, kind: &TargetKind, name: &str, entry: Option<Table>) -> Result<EntryStaged, PolicyError> {
    let file = kind.name();
    let table_name = file.strip_suffix(".toml").unwrap_or(&file).to_owned();
    stage(repo, kind, name, |document| {
        let table = document.entry(&table_name).or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        let table = table.as_table_like_mut()?;
        let before = table.remove(name).is_some();
        if let Some(entry) = entry {
            table.insert(name, Item::Table(entry));
        }
        Some((before, table.len()))
    })
}

fn segment(repo: &Path, scope: &str, allow: Option<&[String]>) -> Result<EntryStaged, PolicyError> {
    stage(repo, &TargetKind::Network, scope, |document| {
        let segments = document
            .entry("segment")
            .or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
        let segments = segments.as_array_of_tables_mut()?;
        let all = segments.len();
        segments.retain(|segment| segment.get("scope").and_then(Item::as_str) != Some(scope));
        let before = segments.len() < all;
        if let Some(allow) = allow {
            let mut segment = Table::new();
            segment.insert("scope", value(scope));
            segment.insert("allow", list(allow.iter().map(String::as_str)));
            segments.push(segment);
        }
        Some((before, segments.len()))
    })
}

/// Changes a file of the next version, checks it and the keys of all, and stages it; an empty one is withdrawn. `edit` says
/// whether the entry was there and how many there are now, or nothing where the file has another form.
fn stage(
    repo: &Path,
    kind: &TargetKind,
    name: &str,
    edit: impl FnOnce(&mut DocumentMut) -> Option<(bool, usize)>,
) -> Result<EntryStaged, PolicyError> {
    let repository = Repository::open(repo)?;
    let mut next = repository.next()?;
    let bytes = next.get(kind).cloned().unwrap_or_default();
    let unreadable = |found: &str| PolicyError::new(PolicyCode::TargetMismatch, kind.name(), "TOML", found);
    let text = std::str::from_utf8(&bytes).map_err(|e| unreadable(&e.to_string()))?;
    let mut document: DocumentMut = text
        .parse()
        .map_err(|e: toml_edit::TomlError| unreadable(&e.to_string()))?;
    let asked = document.to_string();
    let (before, entries) = edit(&mut document).ok_or_else(|| unreadable("another form"))?;
    let text = document.to_string();
    if !before && (entries == 0 || text.trim() == asked.trim()) {
        let expected = format!("an entry of {}", kind.name());
        return Err(PolicyError::new(PolicyCode::TargetMissing, name, expected, "none"));
    }
    let staged = if entries == 0 { Vec::new() } else { text.into_bytes() };
    if staged.is_empty() {
        next.remove(kind);
    } else {
        next.insert(kind.clone(), staged.clone());
    }
    check_keys(&next)?;
    repository.stage(kind, &staged)?;
    Ok(EntryStaged {
        file: kind.name(),
        entries,
        before,
    })
}

fn list<'t>(texts: impl Iterator<Item = &'t str>) -> Item {
    value(texts.collect::<Array>())
}

fn insert_list(entry: &mut Table, key: &str, texts: &[String]) {
    if !texts.is_empty() {
        entry.insert(key, list(texts.iter().map(String::as_str)));
    }
}

#[cfg(test)]
mod tests;
