//! `touchstone policy set`: one setting of `settings.toml` by its dotted key, the rest of the file and its comments left
//! as they are. The whole file is checked before it is staged.
//!
//! A value is a TOML value (`30000`, `true`, `"text"`, `["/run/*"]`, `{ sha384 = [0, 7] }`) or a bare word of letters,
//! digits and `-_.:/*@+`, which stands for a string.

use std::path::Path;

use serde::Serialize;
use toml_edit::{DocumentMut, Item, Table, Value};

use super::Settings;
use crate::error::{PolicyCode, PolicyError};
use crate::layout::{SETTINGS, TargetKind};
use crate::repository::Repository;

/// Most settings changed by one command.
pub const MAX_ASSIGNMENTS: usize = 64;
/// Longest key; longer ones are cut before the nearest known one is looked for.
const MAX_KEY_LEN: usize = 64;

/// Every key `settings.toml` may have, dotted.
pub const KEYS: &[&str] = &[
    "domain",
    "generation",
    "timers.skew_ms",
    "timers.heartbeat_ms",
    "timers.failover_ms",
    "timers.freshness_window_ms",
    "timers.attestation_interval_ms",
    "timers.attestation_jitter_percent",
    "timers.attestation_retry_ms",
    "timers.attestation_deadline_ms",
    "timers.attestation_grace_ms",
    "timers.authorization_life_ms",
    "timers.status_list_ttl_ms",
    "timers.status_list_exp_ms",
    "timers.timestamp_life_ms",
    "timers.snapshot_life_ms",
    "timers.publish_period_ms",
    "tpm.required_registers",
    "tpm.required_registers.sha256",
    "tpm.required_registers.sha384",
    "tpm.required_registers.sha512",
    "tpm.session_key_registers",
    "tpm.session_key_registers.sha256",
    "tpm.session_key_registers.sha384",
    "tpm.session_key_registers.sha512",
    "tpm.ek_expiry",
    "tpm.event_log",
    "tpm.crl",
    "tpm.ek_certificate",
    "ima.mode",
    "ima.exclude",
    "ima.violations",
    "roots.required",
    "snp.alias_check",
    "snp.max_vmpl",
    "snp.debug",
    "snp.migration_agent",
    "snp.masked_chips",
    "snp.guest_policy_required",
    "snp.guest_policy_refused",
    "snp.smt_off",
    "snp.ecc",
    "snp.rapl_off",
    "snp.ciphertext_hiding",
    "snp.mitigations",
    "snp.products",
    "snp.floors",
    "snp.floors.milan",
    "snp.floors.genoa",
    "snp.floors.turin",
    "snp.allowed_chips",
    "snp.denied_chips",
    "snp.providers",
    "snp.id_keys",
    "snp.author_keys",
    "tdx.tcb_status",
    "tdx.min_tcb_evaluation_number",
    "tdx.registers",
    "tdx.denied_platforms",
    "azure.report_freshness",
    "gpu.required",
    "gpu.locality",
    "gpu.products",
    "gpu.min_driver",
    "gpu.min_vbios",
    "gpu.denied",
    "residency.providers",
    "enrolment.first_use",
    "enrolment.first_use.from",
    "enrolment.first_use.until",
    "enrolment.first_use.region",
    "enrolment.first_use.roles",
    "enrolment.first_use.name_prefix",
    "enrolment.first_use.most",
    "containment.default",
    "containment.roles",
    "containment.zones",
    "delegation.max_depth",
    "delegation.max_children",
    "delegation.workload_life_ms",
    "delegation.offline",
    "delegation.offline_depth",
    "delegation.offline_life_ms",
    "delegation.software_keys",
    "status_list.uri",
    "grants.scopes",
];

/// Values that overlook something; results name each where it was used.
const LENIENCIES: [(&str, &str); 13] = [
    ("tpm.event_log", "registers-suffice"),
    ("tpm.ek_expiry", "ignore-with-claim"),
    ("ima.mode", "off"),
    ("ima.violations", "allow"),
    ("tpm.crl", "when-present"),
    ("tpm.ek_certificate", "when-present"),
    ("snp.alias_check", "when-reported"),
    ("snp.alias_check", "ignored"),
    ("snp.masked_chips", "allow"),
    ("snp.debug", "allow"),
    ("snp.migration_agent", "allow"),
    ("azure.report_freshness", "boot"),
    ("delegation.software_keys", "short-lived"),
];

/// A key and what becomes of it.
#[derive(Debug, Clone)]
pub struct Assignment {
    key: &'static str,
    value: Option<Value>,
}

impl Assignment {
    /// Reads `KEY=VALUE`.
    ///
    /// # Errors
    /// [`PolicyError`] `policy-setting-unknown` with the nearest known key, `policy-setting-value`.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let Some((key, value)) = text.split_once('=') else {
            return Err(PolicyError::new(PolicyCode::SettingValue, text, "KEY=VALUE", "no ="));
        };
        let key = known(key.trim())?;
        Ok(Self {
            key,
            value: Some(read_value(key, value.trim())?),
        })
    }

    /// The removal of a key, after which its default holds; of one without a default the file is refused.
    ///
    /// # Errors
    /// [`PolicyError`] `policy-setting-unknown`.
    pub fn unset(key: &str) -> Result<Self, PolicyError> {
        Ok(Self {
            key: known(key.trim())?,
            value: None,
        })
    }
}

/// One setting, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingChange {
    /// Its dotted key.
    pub key: String,
    /// As it was, in TOML; none where the file did not say.
    pub before: Option<String>,
    /// As it is staged, in TOML; none where it was taken out.
    pub after: Option<String>,
}

/// What [`settings_set`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingsChanged {
    /// Each setting named, in the order given.
    pub changes: Vec<SettingChange>,
    /// The file staged; none where everything was so already.
    pub staged: Option<String>,
    /// What the author should know.
    pub notes: Vec<String>,
}

/// Stages `settings.toml` (as staged, or else as published) with these settings changed, all or none.
///
/// # Errors
/// [`PolicyError`]: `policy-setting-value` for a key given twice, whatever [`Settings::parse`] refuses, file errors.
pub fn settings_set(repo: &Path, assignments: &[Assignment]) -> Result<SettingsChanged, PolicyError> {
    let repository = Repository::open(repo)?;
    let bytes = repository.next()?.remove(&TargetKind::Settings).unwrap_or_default();
    let (text, changes) = edit(&bytes, assignments)?;
    Settings::parse(text.as_bytes())?;
    let changed = changes.iter().any(|change| change.before != change.after);
    let staged = changed
        .then(|| repository.stage(&TargetKind::Settings, text.as_bytes()))
        .transpose()?;
    let lenient = |change: &&SettingChange| {
        LENIENCIES.iter().any(|(key, value)| {
            *key == change.key && change.after.as_deref().map(|after| after.trim_matches('"')) == Some(*value)
        })
    };
    let notes = changes.iter().filter(lenient).map(|change| {
        let value = change.after.as_deref().unwrap_or_default();
        format!(
            "{} = {value} overlooks something; results say so where it is used",
            change.key
        )
    });
    Ok(SettingsChanged {
        notes: notes.collect(),
        changes,
        staged,
    })
}

fn edit(bytes: &[u8], assignments: &[Assignment]) -> Result<(String, Vec<SettingChange>), PolicyError> {
    let unreadable = |found: String| PolicyError::new(PolicyCode::SettingsUnreadable, SETTINGS, "settings", found);
    if assignments.is_empty() || assignments.len() > MAX_ASSIGNMENTS {
        let expected = format!("1 to {MAX_ASSIGNMENTS} settings");
        return Err(PolicyError::new(
            PolicyCode::SettingValue,
            "KEY=VALUE",
            expected,
            assignments.len(),
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
    let mut document: DocumentMut = text
        .parse()
        .map_err(|e: toml_edit::TomlError| unreadable(e.to_string()))?;
    let mut changes: Vec<SettingChange> = Vec::new();
    for assignment in assignments {
        let (key, value) = (assignment.key, &assignment.value);
        // A table and a key in it, in one command, would depend on their order.
        if let Some(other) = changes.iter().find(|change| overlap(&change.key, key)) {
            return Err(PolicyError::new(
                PolicyCode::SettingValue,
                key,
                "each key once",
                &other.key,
            ));
        }
        let before = match value {
            Some(value) => put(document.as_table_mut(), key, value.clone()),
            None => take(document.as_table_mut(), key),
        };
        changes.push(SettingChange {
            key: key.to_owned(),
            before,
            after: value.as_ref().map(plain),
        });
    }
    Ok((document.to_string(), changes))
}

/// Whether two dotted keys are the same, or one is within the other.
fn overlap(a: &str, b: &str) -> bool {
    let within = |outer: &str, inner: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    within(a, b) || within(b, a)
}

/// Puts a value where the key says, and gives what was there. The comment beside a value stays.
fn put(table: &mut Table, key: &str, mut value: Value) -> Option<String> {
    let (path, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut place: &mut dyn toml_edit::TableLike = table;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let item = place.entry(part).or_insert_with(|| Item::Table(Table::new()));
        if !item.is_table_like() {
            *item = Item::Table(Table::new());
        }
        place = item.as_table_like_mut()?;
    }
    let before = place.get(name).map(words);
    if let Some(old) = place.get(name).and_then(Item::as_value) {
        *value.decor_mut() = old.decor().clone();
    }
    match place.get_mut(name) {
        // The key keeps the comments above it.
        Some(item) => *item = Item::Value(value),
        None => drop(place.insert(name, Item::Value(value))),
    }
    before
}

/// Takes a key out, and gives what was there.
fn take(table: &mut Table, key: &str) -> Option<String> {
    let (path, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut place: &mut dyn toml_edit::TableLike = table;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        place = place.get_mut(part)?.as_table_like_mut()?;
    }
    place.remove(name).as_ref().map(words)
}

fn words(item: &Item) -> String {
    item.as_value()
        .map_or_else(|| item.to_string().trim().replace('\n', ", "), plain)
}

/// A value without the space and comments around it.
fn plain(value: &Value) -> String {
    let mut value = value.clone();
    value.decor_mut().clear();
    value.to_string().trim().to_owned()
}

fn read_value(key: &str, text: &str) -> Result<Value, PolicyError> {
    let bare = |c: char| c.is_ascii_alphanumeric() || "-_.:/*@+".contains(c);
    match text.parse::<Value>() {
        Ok(value) => Ok(value),
        Err(_) if !text.is_empty() && text.chars().all(bare) => Ok(Value::from(text)),
        Err(_) => Err(PolicyError::new(
            PolicyCode::SettingValue,
            key,
            "a TOML value, or a bare word of letters, digits and -_.:/*@+",
            text,
        )),
    }
}

fn known(key: &str) -> Result<&'static str, PolicyError> {
    if let Some(known) = KEYS.iter().find(|known| **known == key) {
        return Ok(known);
    }
    let nearest = nearest(key).map_or_else(
        || "a key of settings.toml".to_owned(),
        |known| format!("{known}, the nearest known key"),
    );
    Err(PolicyError::new(PolicyCode::SettingUnknown, "policy set", nearest, key))
}

/// The known key that takes the fewest changes, of a whole key or of its last part alone.
fn nearest(key: &str) -> Option<&'static str> {
    let key: Vec<char> = key.chars().take(MAX_KEY_LEN).collect();
    KEYS.iter().copied().min_by_key(|known| {
        let last = known.rsplit_once('.').map_or(*known, |(_, last)| last);
        // A whole key that is as near as the last part of another is the better answer.
        (2 * distance(&key, known)).min(2 * distance(&key, last) + 1)
    })
}

/// Edit distance: letters inserted, removed or exchanged.
fn distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        let (mut left, mut diagonal) = (i + 1, i);
        for (y, above) in b.iter().zip(row.iter().skip(1)) {
            let cost = (left + 1).min(above + 1).min(diagonal + usize::from(x != y));
            (left, diagonal) = (cost, *above);
            next.push(cost);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
