//! `settings.toml`: what a domain is called, its timers, what is required of a TPM, and what an affirmed node may do.
//!
//! Unknown keys are refused, and so is every empty list: an empty list never means "any".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use touchstone_verifier::ima::ImaPolicy;
use touchstone_verifier::policy::{AppraisalPolicy, EkCertificateRule, EventLogRule};
use touchstone_verifier::tpm::{HashAlg, PcrSelection};
use touchstone_verifier::x509::{CrlRule as ChainCrlRule, Expiry};

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::{SETTINGS, is_name};
pub use crate::scope::{ACTIONS, Scope};
use crate::timers::Timers;

/// Most scopes a domain grants.
pub const MAX_SCOPES: usize = 64;
/// Highest register of a PC client (TCG PC Client PTP, 4.6).
pub const MAX_REGISTER: u8 = 23;
/// Registers that no reference can fix: the kernel's run-time measurements (10) and those software can reset (16, 23).
pub const NEVER_REQUIRED: [u8; 3] = [10, 16, 23];
/// Registers a session key is never tied to: they move while the machine runs, or software can reset them.
pub const NEVER_FOR_SESSION_KEYS: [u8; 7] = [10, 11, 12, 13, 15, 16, 23];
/// What `policy init` requires.
pub const DEFAULT_REQUIRED: [u8; 9] = [0, 2, 3, 4, 7, 8, 9, 11, 14];
/// What `policy init` ties session keys to.
pub const DEFAULT_SESSION_KEY: [u8; 7] = [0, 2, 4, 7, 8, 9, 14];

/// When certificate revocation lists are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CrlRule {
    /// A list that is there must be in force, and must not name the certificate.
    WhenPresent,
    /// Without a list in force of whoever issued it, no certificate of a device counts.
    Required,
}

/// A domain's settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The domain's name.
    pub domain: String,
    /// Raised by one when a domain is restored from a backup; authorizations of an older one are refused.
    pub generation: u64,
    /// The timers.
    pub timers: Timers,
    /// What is required of a TPM; its `policy_id` is the domain's name.
    pub appraisal: AppraisalPolicy,
    /// When revocation lists are looked at.
    pub crl: CrlRule,
    /// What an affirmed node is granted, where the Cedar policies permit it. Sorted, each once.
    pub scopes: Vec<Scope>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsFile {
    domain: String,
    generation: u64,
    timers: Timers,
    tpm: TpmSection,
    grants: Grants,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TpmSection {
    required_registers: BTreeMap<String, Vec<u8>>,
    session_key_registers: BTreeMap<String, Vec<u8>>,
    ek_expiry: EkExpiryName,
    event_log: EventLogName,
    crl: CrlRule,
    #[serde(default)]
    ek_certificate: EkCertificateName,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grants {
    scopes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EkExpiryName {
    Deny,
    IgnoreWithClaim,
}

/// Left out is as it was before there was this key.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
enum EkCertificateName {
    #[default]
    WhenPresent,
    Required,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EventLogName {
    Required,
    RegistersSuffice,
}

impl Settings {
    /// Reads and checks `settings.toml`.
    ///
    /// # Errors
    /// [`PolicyError`] with every problem: unknown or missing keys, empty lists, broken timer inequalities, registers
    /// that cannot serve, scopes outside the grammar.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let unreadable = |found: String| PolicyError::new(PolicyCode::SettingsUnreadable, SETTINGS, "settings", found);
        let text = std::str::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
        let file: SettingsFile = toml::from_str(text).map_err(|e| unreadable(e.to_string()))?;
        let mut problems = file.timers.problems(SETTINGS);
        if !is_name(&file.domain) {
            problems.push(Problem::new(
                PolicyCode::SettingsName,
                "settings.toml: domain",
                "a name",
                &file.domain,
            ));
        }
        if file.generation == 0 {
            let claim = "settings.toml: generation";
            problems.push(Problem::new(PolicyCode::SettingsGeneration, claim, "at least 1", "0"));
        }
        let required = registers(
            "required_registers",
            &file.tpm.required_registers,
            &NEVER_REQUIRED,
            &mut problems,
        );
        let session = registers(
            "session_key_registers",
            &file.tpm.session_key_registers,
            &NEVER_FOR_SESSION_KEYS,
            &mut problems,
        );
        if !required.covers(&session) {
            let claim = "settings.toml: tpm.session_key_registers";
            problems.push(Problem::new(
                PolicyCode::SessionRegisters,
                claim,
                format!("within {required}"),
                &session,
            ));
        }
        let scopes = scopes(&file.grants.scopes, &mut problems);
        PolicyError::unless_empty(problems)?;
        let appraisal = AppraisalPolicy {
            policy_id: file.domain.clone(),
            required_registers: required,
            session_key_registers: session,
            ek_expiry: match file.tpm.ek_expiry {
                EkExpiryName::Deny => Expiry::Deny,
                EkExpiryName::IgnoreWithClaim => Expiry::IgnoreWithClaim,
            },
            crl: match file.tpm.crl {
                CrlRule::WhenPresent => ChainCrlRule::WhenPresent,
                CrlRule::Required => ChainCrlRule::Required,
            },
            ek_certificate: match file.tpm.ek_certificate {
                EkCertificateName::WhenPresent => EkCertificateRule::WhenPresent,
                EkCertificateName::Required => EkCertificateRule::Required,
            },
            event_log: match file.tpm.event_log {
                EventLogName::Required => EventLogRule::Required,
                EventLogName::RegistersSuffice => EventLogRule::RegistersSuffice,
            },
            ima: ImaPolicy::default(),
        };
        Ok(Settings {
            domain: file.domain,
            generation: file.generation,
            timers: file.timers,
            appraisal,
            crl: file.tpm.crl,
            scopes,
        })
    }

    /// The commented file `policy init` writes.
    pub fn default_file(domain: &str) -> String {
        include_str!("defaults/settings.toml").replace("@DOMAIN@", domain)
    }
}

/// The selection a table like `{ sha256 = [0, 2] }` names.
fn registers(key: &str, banks: &BTreeMap<String, Vec<u8>>, never: &[u8], problems: &mut Vec<Problem>) -> PcrSelection {
    let claim = format!("settings.toml: tpm.{key}");
    if banks.values().all(Vec::is_empty) {
        problems.push(Problem::new(
            PolicyCode::SettingsEmptyList,
            &claim,
            "at least one register",
            "none",
        ));
        return PcrSelection::default();
    }
    let mut selected = Vec::new();
    for (bank, numbers) in banks {
        if bank != "sha256" {
            problems.push(Problem::new(PolicyCode::BankRefused, &claim, "sha256", bank));
            continue;
        }
        for &number in numbers {
            if number > MAX_REGISTER || never.contains(&number) {
                let expected = format!("registers 0 to {MAX_REGISTER} without {never:?}");
                problems.push(Problem::new(PolicyCode::RegisterRefused, &claim, expected, number));
            }
        }
        selected.push((HashAlg::Sha256, numbers.iter().copied()));
    }
    PcrSelection::new(selected).unwrap_or_else(|e| {
        let (expected, found) = e.details();
        problems.push(Problem::new(PolicyCode::RegisterRefused, claim, expected, found));
        PcrSelection::default()
    })
}

fn scopes(texts: &[String], problems: &mut Vec<Problem>) -> Vec<Scope> {
    let claim = "settings.toml: grants.scopes";
    if texts.is_empty() {
        problems.push(Problem::new(
            PolicyCode::SettingsEmptyList,
            claim,
            "at least one scope",
            "none",
        ));
    }
    if texts.len() > MAX_SCOPES {
        problems.push(Problem::new(
            PolicyCode::ScopeInvalid,
            claim,
            format!("at most {MAX_SCOPES}"),
            texts.len(),
        ));
        return Vec::new();
    }
    let mut scopes = Vec::with_capacity(texts.len());
    for text in texts {
        match Scope::parse(text) {
            Some(scope) if scopes.contains(&scope) => {
                problems.push(Problem::new(PolicyCode::ScopeInvalid, claim, "each scope once", text));
            }
            Some(scope) => scopes.push(scope),
            None => {
                let expected = format!("action:resource with an action of {ACTIONS:?}");
                problems.push(Problem::new(PolicyCode::ScopeInvalid, claim, expected, text));
            }
        }
    }
    scopes.sort();
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<PolicyCode> {
        Settings::parse(text.as_bytes()).map_or_else(|e| e.problems().iter().map(|p| p.code).collect(), |_| Vec::new())
    }

    #[test]
    fn the_default_file_holds_the_default_values() {
        let settings = Settings::parse(Settings::default_file("eu-1.example").as_bytes()).unwrap();
        assert_eq!(settings.domain, "eu-1.example");
        assert_eq!((settings.generation, settings.crl), (1, CrlRule::WhenPresent));
        assert_eq!(settings.timers, Timers::default());
        let required = PcrSelection::new([(HashAlg::Sha256, DEFAULT_REQUIRED)]).unwrap();
        let session = PcrSelection::new([(HashAlg::Sha256, DEFAULT_SESSION_KEY)]).unwrap();
        assert_eq!(settings.appraisal.required_registers, required);
        assert_eq!(settings.appraisal.session_key_registers, session);
        assert_eq!(settings.appraisal.ek_expiry, Expiry::Deny);
        assert_eq!(settings.appraisal.event_log, EventLogRule::Required);
        assert_eq!(settings.appraisal.policy_id, "eu-1.example");
        assert_eq!(settings.scopes.len(), 3);
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_code() {
        use PolicyCode::*;
        let good = Settings::default_file("eu-1");
        let session = "session_key_registers = { sha256 = [0, 2, 4, 7, 8, 9, 14] }";
        let required = "required_registers = { sha256 = [0, 2, 3, 4, 7, 8, 9, 11, 14] }";
        let scopes = good.lines().find(|l| l.starts_with("scopes")).unwrap();
        let rows: &[(&str, &str, &[PolicyCode])] = &[
            ("domain = \"eu-1\"", "domain = \"EU 1\"", &[SettingsName]),
            ("domain = \"eu-1\"", "domain = \"\"", &[SettingsName]),
            (
                "domain = \"eu-1\"",
                "domain = \"eu-1\"\nallow_all = true",
                &[SettingsUnreadable],
            ),
            ("domain = \"eu-1\"", "", &[SettingsUnreadable]),
            ("generation = 1", "generation = 0", &[SettingsGeneration]),
            ("generation = 1", "generation = -1", &[SettingsUnreadable]),
            ("skew_ms = 500", "skew_ms = 500\nskew_s = 1", &[SettingsUnreadable]),
            ("skew_ms = 500", "", &[SettingsUnreadable]),
            ("heartbeat_ms = 1000", "heartbeat_ms = 2000", &[TimerWindowShort]),
            ("ek_expiry = \"deny\"", "ek_expiry = \"ignore\"", &[SettingsUnreadable]),
            (
                "ek_expiry = \"deny\"",
                "ek_expiry = \"deny\"\nskip_verify = true",
                &[SettingsUnreadable],
            ),
            (
                "event_log = \"required\"",
                "event_log = \"optional\"",
                &[SettingsUnreadable],
            ),
            ("crl = \"when-present\"", "crl = \"never\"", &[SettingsUnreadable]),
            ("crl = \"when-present\"", "", &[SettingsUnreadable]),
            (
                "ek_certificate = \"when-present\"",
                "ek_certificate = \"optional\"",
                &[SettingsUnreadable],
            ),
            (session, "session_key_registers = { sha256 = [] }", &[SettingsEmptyList]),
            (session, "session_key_registers = {}", &[SettingsEmptyList]),
            (
                session,
                "session_key_registers = { sha256 = [0, 10] }",
                &[RegisterRefused, SessionRegisters],
            ),
            (
                session,
                "session_key_registers = { sha256 = [0, 11] }",
                &[RegisterRefused],
            ),
            (
                session,
                "session_key_registers = { sha256 = [0, 0] }",
                &[RegisterRefused],
            ),
            (
                session,
                "session_key_registers = { sha256 = [0, 1] }",
                &[SessionRegisters],
            ),
            (session, "session_key_registers = { sha1 = [0] }", &[BankRefused]),
            (
                required,
                "required_registers = { sha256 = [] }",
                &[SettingsEmptyList, SessionRegisters],
            ),
            (
                required,
                "required_registers = { sha256 = [0, 2, 3, 4, 7, 8, 9, 11, 14, 16] }",
                &[RegisterRefused],
            ),
            (
                required,
                "required_registers = { sha256 = [0, 2, 3, 4, 7, 8, 9, 11, 14, 24] }",
                &[RegisterRefused],
            ),
            (
                required,
                "required_registers = { sha256 = [0, 2, 4, 7, 8, 9, 14], sha1 = [0] }",
                &[BankRefused],
            ),
            (scopes, "scopes = []", &[SettingsEmptyList]),
            (scopes, "scopes = [\"execute:*\"]", &[ScopeInvalid]),
            (scopes, "scopes = [\"anything:workloads\"]", &[ScopeInvalid]),
            (scopes, "scopes = [\"execute:a\", \"execute:a\"]", &[ScopeInvalid]),
        ];
        assert_eq!(codes(&good), []);
        for (from, to, expected) in rows {
            assert_eq!(good.matches(from).count(), 1, "{from}");
            let mut found = codes(&good.replace(from, to));
            found.dedup();
            assert_eq!(found, *expected, "{to}");
        }
    }

    #[test]
    fn what_is_demanded_of_certificates_reaches_the_appraisal() {
        let good = Settings::default_file("eu-1");
        let read = |text: &str| Settings::parse(text.as_bytes()).unwrap().appraisal;
        let start = read(&good);
        assert_eq!(start.crl, ChainCrlRule::WhenPresent);
        assert_eq!(start.ek_certificate, EkCertificateRule::WhenPresent);
        let strict = read(&good.replace("\"when-present\"", "\"required\""));
        assert_eq!(strict.crl, ChainCrlRule::Required);
        assert_eq!(strict.ek_certificate, EkCertificateRule::Required);
        let older = read(&good.replace("ek_certificate = \"when-present\"", ""));
        assert_eq!(older.ek_certificate, EkCertificateRule::WhenPresent);
    }

    #[test]
    fn session_keys_are_never_tied_to_registers_that_move() {
        for register in NEVER_FOR_SESSION_KEYS {
            let mut problems = Vec::new();
            let banks = BTreeMap::from([("sha256".to_owned(), vec![0, register])]);
            registers("session_key_registers", &banks, &NEVER_FOR_SESSION_KEYS, &mut problems);
            assert_eq!(
                problems.iter().map(|p| p.code).collect::<Vec<_>>(),
                [PolicyCode::RegisterRefused]
            );
        }
    }
}
