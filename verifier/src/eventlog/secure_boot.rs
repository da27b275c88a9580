//! Secure Boot as the firmware measured it in register 7: state, keys, and who vouched for each image (PFP 1.06, 3.3.4.8).

use super::EventType;
use super::efi::EfiVariable;
use super::guid::{GLOBAL_VARIABLE, Guid, IMAGE_SECURITY_DATABASE, SHIM_LOCK};
use super::signature_list::{SignatureListError, SignatureLists, certificate_name, sha256};
use super::story::{Fact, Told, text_of};

/// Start of a DER SEQUENCE with a two-byte length: how certificates begin.
const DER_CERTIFICATE: &[u8] = &[0x30, 0x82];
/// Length of an owner in front of a database's entry.
const OWNER: usize = 16;

/// One of Secure Boot's variables as it was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database<'a> {
    /// The value, as it was measured.
    pub value: &'a [u8],
    /// What it holds, or why that cannot be read.
    pub lists: Result<SignatureLists<'a>, SignatureListError>,
}

impl<'a> Database<'a> {
    fn read(value: &'a [u8]) -> Self {
        Self {
            value,
            lists: SignatureLists::parse(value),
        }
    }

    /// SHA-256 of every certificate; none where the database cannot be read.
    pub fn certificate_sha256(&self) -> Option<Vec<[u8; 32]>> {
        let lists = self.lists.as_ref().ok()?;
        Some(lists.certificates().map(sha256).collect())
    }
}

/// Secure Boot's state before the firmware handed over. A variable that was measured twice with different values is in
/// [`contradictions`](SecureBoot::contradictions) and has no value here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecureBoot<'a> {
    /// `SecureBoot`: whether signatures are enforced. A variable without a value is a firmware that does not have it: no
    /// fact.
    pub enabled: Option<Fact<bool>>,
    /// `SetupMode`: whether anyone may set the keys.
    pub setup_mode: Option<Fact<bool>>,
    /// `AuditMode`: whether failures are noted and images run all the same.
    pub audit_mode: Option<Fact<bool>>,
    /// `DeployedMode`.
    pub deployed_mode: Option<Fact<bool>>,
    /// The platform key.
    pub pk: Option<Fact<Database<'a>>>,
    /// Keys that may change db and dbx.
    pub kek: Option<Fact<Database<'a>>>,
    /// What may run.
    pub db: Option<Fact<Database<'a>>>,
    /// What must not run.
    pub dbx: Option<Fact<Database<'a>>>,
    /// Timestamp authorities.
    pub dbt: Option<Fact<Database<'a>>>,
    /// Recovery authorities.
    pub dbr: Option<Fact<Database<'a>>>,
    /// Names of variables that were measured more than once, differently.
    pub contradictions: Vec<&'static str>,
}

impl<'a> SecureBoot<'a> {
    /// Takes up a variable that was measured before register 7's separator.
    pub(super) fn take(&mut self, told: &Told<'a>) {
        let event = &told.event;
        let in_7 = event.belongs_to(7);
        // Firmware exists that measures the modes in register 1. A proven variable counts whatever the event is called.
        let is_config = event.event_type == EventType::EFI_VARIABLE_DRIVER_CONFIG;
        if !(is_config || told.is_proven()) || !(in_7 || event.belongs_to(1)) {
            return;
        }
        let Some(variable) = EfiVariable::parse(event.data) else {
            return;
        };
        let global = variable.guid == GLOBAL_VARIABLE;
        let contradictions = &mut self.contradictions;
        for (name, slot, in_7_only) in [
            ("SecureBoot", &mut self.enabled, true),
            ("SetupMode", &mut self.setup_mode, false),
            ("AuditMode", &mut self.audit_mode, false),
            ("DeployedMode", &mut self.deployed_mode, false),
        ] {
            if global && variable.is_named(name) && (in_7 || !in_7_only) {
                let value = match variable.value {
                    [0] => false,
                    [1] => true,
                    _ => return,
                };
                return note(name, slot, told.fact(value), contradictions);
            }
        }
        let security = variable.guid == IMAGE_SECURITY_DATABASE;
        for (name, slot, space) in [
            ("PK", &mut self.pk, global),
            ("KEK", &mut self.kek, global),
            ("db", &mut self.db, security),
            ("dbx", &mut self.dbx, security),
            ("dbt", &mut self.dbt, security),
            ("dbr", &mut self.dbr, security),
        ] {
            if space && in_7 && variable.is_named(name) {
                let database = Database::read(variable.value);
                // One entry of a database, by which firmware let a driver run before the separator, has its name as well.
                if !is_config && database.lists.is_err() {
                    return;
                }
                return note(name, slot, told.fact(database), contradictions);
            }
        }
    }

    /// The databases that were measured, by name.
    pub fn databases(&self) -> impl Iterator<Item = (&'static str, &Fact<Database<'a>>)> {
        [
            ("PK", &self.pk),
            ("KEK", &self.kek),
            ("db", &self.db),
            ("dbx", &self.dbx),
            ("dbt", &self.dbt),
            ("dbr", &self.dbr),
        ]
        .into_iter()
        .filter_map(|(name, database)| Some((name, database.as_ref()?)))
    }
}

/// Keeps the first value; a proven one goes before one that is only said, and two that differ are a contradiction.
fn note<T: PartialEq>(
    name: &'static str,
    slot: &mut Option<Fact<T>>,
    new: Fact<T>,
    contradictions: &mut Vec<&'static str>,
) {
    if contradictions.contains(&name) {
        return;
    }
    match slot {
        Some(old) if old.proven == new.proven && old.value != new.value => {
            *slot = None;
            contradictions.push(name);
        }
        Some(old) if old.proven || !new.proven => {}
        _ => *slot = Some(new),
    }
}

/// What vouched for an image, or which shim policy was in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityKind<'a> {
    /// A certificate, DER.
    Certificate(&'a [u8]),
    /// The image's own digest was listed.
    Digest(&'a [u8]),
    /// A setting of shim's (SbatLevel, MokListTrusted), by its value.
    Setting(&'a [u8]),
}

/// EV_EFI_VARIABLE_AUTHORITY: the entry of a database that let an image run. Firmware measures an entry once, when it is
/// used for the first time, before the image it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority<'a> {
    /// The variable the entry is from.
    pub variable: EfiVariable<'a>,
    /// The entry.
    pub kind: AuthorityKind<'a>,
    /// Whether it was used before the firmware handed over (for drivers and option ROMs).
    pub before_separator: bool,
}

impl<'a> Authority<'a> {
    /// Reads an event's data; none if it is no variable.
    pub(super) fn read(data: &'a [u8], before_separator: bool) -> Option<Self> {
        let variable = EfiVariable::parse(data)?;
        let shims: &Guid = &SHIM_LOCK;
        let value = variable.value;
        let entry = value.get(OWNER..).unwrap_or_default();
        let kind = if variable.guid == shims && (variable.is_named("SbatLevel") || value.len() <= 1) {
            AuthorityKind::Setting(value)
        } else if value.starts_with(DER_CERTIFICATE) {
            AuthorityKind::Certificate(value)
        } else if entry.starts_with(DER_CERTIFICATE) {
            AuthorityKind::Certificate(entry)
        } else if matches!(entry.len(), 20 | 28 | 32 | 48 | 64) {
            AuthorityKind::Digest(entry)
        } else if matches!(value.len(), 20 | 28 | 32) {
            AuthorityKind::Digest(value)
        } else {
            AuthorityKind::Setting(value)
        };
        Some(Self {
            variable,
            kind,
            before_separator,
        })
    }

    /// SHA-256 of the certificate.
    pub fn certificate_sha256(&self) -> Option<[u8; 32]> {
        match self.kind {
            AuthorityKind::Certificate(der) => Some(sha256(der)),
            AuthorityKind::Digest(_) | AuthorityKind::Setting(_) => None,
        }
    }

    /// Whether an image was let in by it (and it is no setting of shim's).
    pub fn admits_images(&self) -> bool {
        !matches!(self.kind, AuthorityKind::Setting(_))
    }

    /// In words; not yet made safe to show.
    pub fn words(&self) -> String {
        match self.kind {
            AuthorityKind::Certificate(der) => certificate_name(der),
            AuthorityKind::Digest(digest) => format!("the image's own digest {}", hex::encode(digest)),
            AuthorityKind::Setting([0]) => "off".to_owned(),
            AuthorityKind::Setting([1]) => "on".to_owned(),
            AuthorityKind::Setting(value) => text_of(value),
        }
    }

    /// Where the entry is from, in words.
    pub fn source(&self) -> &'static str {
        let shims = self.variable.guid == SHIM_LOCK;
        for (name, words) in [
            ("Shim", "built into shim"),
            ("vendor_db", "built into shim"),
            ("MokList", "enrolled by the machine's owner or built into shim"),
            ("MokListRT", "enrolled by the machine's owner or built into shim"),
            ("MokListX", "denied by the machine's owner"),
            ("db", "db"),
        ] {
            if self.variable.is_named(name) && (shims || self.variable.guid == IMAGE_SECURITY_DATABASE) {
                return words;
            }
        }
        if shims { "shim" } else { "another variable" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(guid: &Guid, name: &str, value: &[u8]) -> Vec<u8> {
        let mut data = guid.to_vec();
        data.extend((name.len() as u64).to_le_bytes());
        data.extend((value.len() as u64).to_le_bytes());
        data.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
        data.extend(value);
        data
    }

    #[test]
    fn authorities_are_told_apart() {
        let certificate = [DER_CERTIFICATE, b"rest"].concat();
        let owned = [&[9; 16][..], &certificate].concat();
        for (what, guid, name, value, certificate_len, source) in [
            ("db", IMAGE_SECURITY_DATABASE, "db", &owned, Some(6), "db"),
            (
                "a raw certificate",
                IMAGE_SECURITY_DATABASE,
                "db",
                &certificate,
                Some(6),
                "db",
            ),
            (
                "shim's own",
                SHIM_LOCK,
                "Shim",
                &certificate,
                Some(6),
                "built into shim",
            ),
            (
                "MOK",
                SHIM_LOCK,
                "MokList",
                &owned,
                Some(6),
                "enrolled by the machine's owner or built into shim",
            ),
            ("shim's setting", SHIM_LOCK, "MokListTrusted", &vec![1], None, "shim"),
            ("a digest", IMAGE_SECURITY_DATABASE, "db", &vec![1; 48], None, "db"),
            (
                "db of another maker",
                [3; 16],
                "db",
                &owned,
                Some(6),
                "another variable",
            ),
        ] {
            let data = variable(&guid, name, value);
            let authority = Authority::read(&data, false).unwrap();
            let found = match authority.kind {
                AuthorityKind::Certificate(der) => Some(der.len()),
                _ => None,
            };
            assert_eq!((found, authority.source()), (certificate_len, source), "{what}");
        }
        let sbat = variable(&SHIM_LOCK, "SbatLevel", b"sbat,1,2021030218\n");
        let sbat = Authority::read(&sbat, false).unwrap();
        assert!(!sbat.admits_images() && sbat.words().starts_with("sbat,1"));
        assert_eq!(Authority::read(b"short", true), None);
    }
}
