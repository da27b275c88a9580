//! `settings.toml`: what a domain is called, its timers, what is required of a TPM, and what an affirmed node may do.
//!
//! Unknown keys are refused, and so is every empty list of what is required or granted: an empty list never means "any".

mod azure;
pub(crate) mod containment;
mod delegation;
mod edit;
mod first_use;
mod gpu;
mod ima;
pub(crate) mod registers;
mod residency;
mod roots;
mod snp;
mod status_list;
mod tdx;
pub mod timers;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use touchstone_verifier::policy::{AppraisalPolicy, EkCertificateRule, EventLogRule};
use touchstone_verifier::x509::{CrlRule as ChainCrlRule, Expiry};

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::{SETTINGS, is_name};
use crate::settings::timers::Timers;
pub use crate::targets::scope::{ACTIONS, Scope};
pub use azure::{AzureSettings, ReportFreshnessName};
pub use containment::{Containment, Extent, MAX_ZONES, Reach, ReachRule};
pub use delegation::{
    Delegation, MAX_CHILDREN, MAX_DELEGATION_DEPTH, MAX_OFFLINE_DEPTH, MAX_OFFLINE_LIFE_MS, MAX_SOFTWARE_LIFE_MS,
    SoftwareKeys,
};
pub use edit::{Assignment, KEYS, MAX_ASSIGNMENTS, SettingChange, SettingsChanged, settings_set};
pub use first_use::{FirstUse, MAX_FIRST_USE_NODES, MAX_FIRST_USE_SECONDS};
pub use ima::{ImaMode, ImaSettings, ImaViolations, MAX_EXCLUDED, MAX_RULE_LEN};
pub use registers::{
    BANKS, DEFAULT_REQUIRED, DEFAULT_SESSION_KEY, MAX_REGISTER, NEVER_FOR_SESSION_KEYS, NEVER_REQUIRED,
};

pub use gpu::{GpuSettings, Locality};
pub use residency::{MAX_PROVIDERS, Residency};
pub use roots::{Required as RequiredRoots, RootsSettings};
pub use snp::{AliasCheck, Allowed, Demand, Floor, MAX_LISTED, SnpSettings};
pub use status_list::MAX_STATUS_LIST_URI;
pub use tdx::{MAX_DENIED_PLATFORMS, TdxSettings};

/// Most scopes a domain grants.
pub const MAX_SCOPES: usize = 64;
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
    /// How lists of measured files are judged.
    pub ima: ImaSettings,
    /// Where providers' machines count as standing.
    pub residency: Residency,
    /// Whether machines that nobody has listed may enrol, and as what.
    pub first_use: Option<FirstUse>,
    /// How far the failure of one member reaches.
    pub containment: Containment,
    /// What may stand below a node's authorization.
    pub delegation: Delegation,
    /// Where the status list is for those who poll, and what it names as its subject; nothing where there is none.
    pub status_list_uri: Option<String>,
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
    #[serde(default)]
    ima: ImaSettings,
    #[serde(default)]
    roots: RootsSettings,
    #[serde(default)]
    snp: SnpSettings,
    #[serde(default)]
    tdx: TdxSettings,
    #[serde(default)]
    azure: AzureSettings,
    #[serde(default)]
    gpu: GpuSettings,
    #[serde(default)]
    residency: residency::ResidencySection,
    #[serde(default)]
    enrolment: first_use::EnrolmentSection,
    #[serde(default)]
    containment: containment::ContainmentSection,
    #[serde(default)]
    delegation: Delegation,
    #[serde(default)]
    status_list: status_list::StatusListSection,
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

/// What an expired endorsement certificate means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EkExpiryName {
    Deny,
    IgnoreWithClaim,
}

/// Left out is as it was before there was this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EkCertificateName {
    #[default]
    WhenPresent,
    Required,
}

/// Whether a machine must show its event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EventLogName {
    Required,
    RegistersSuffice,
}

impl From<EkExpiryName> for Expiry {
    fn from(name: EkExpiryName) -> Self {
        match name {
            EkExpiryName::Deny => Expiry::Deny,
            EkExpiryName::IgnoreWithClaim => Expiry::IgnoreWithClaim,
        }
    }
}

impl From<CrlRule> for ChainCrlRule {
    fn from(name: CrlRule) -> Self {
        match name {
            CrlRule::WhenPresent => ChainCrlRule::WhenPresent,
            CrlRule::Required => ChainCrlRule::Required,
        }
    }
}

impl From<EkCertificateName> for EkCertificateRule {
    fn from(name: EkCertificateName) -> Self {
        match name {
            EkCertificateName::WhenPresent => EkCertificateRule::WhenPresent,
            EkCertificateName::Required => EkCertificateRule::Required,
        }
    }
}

impl From<EventLogName> for EventLogRule {
    fn from(name: EventLogName) -> Self {
        match name {
            EventLogName::Required => EventLogRule::Required,
            EventLogName::RegistersSuffice => EventLogRule::RegistersSuffice,
        }
    }
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
        problems.extend(file.ima.problems());
        let required = registers::read(
            "required_registers",
            &file.tpm.required_registers,
            &NEVER_REQUIRED,
            &mut problems,
        );
        let session = registers::read(
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
        let residency = file.residency.read(&mut problems);
        let first_use = file.enrolment.read(&mut problems);
        let containment = file.containment.read(&mut problems);
        problems.extend(file.delegation.problems(&file.timers));
        let status_list_uri = file.status_list.read(&mut problems);
        let scopes = scopes(&file.grants.scopes, &mut problems);
        let snp = file.snp.policy(&mut problems);
        problems.extend(file.tdx.problems());
        let gpu = file.gpu.policy(&mut problems);
        PolicyError::unless_empty(problems)?;
        let appraisal = AppraisalPolicy {
            roots: file.roots.policy(),
            snp,
            tdx: file.tdx.policy(),
            azure: file.azure.policy(),
            gpu,
            policy_id: file.domain.clone(),
            required_registers: required,
            session_key_registers: session,
            ek_expiry: file.tpm.ek_expiry.into(),
            crl: file.tpm.crl.into(),
            ek_certificate: file.tpm.ek_certificate.into(),
            event_log: file.tpm.event_log.into(),
            ima: file.ima.policy(),
        };
        Ok(Settings {
            domain: file.domain,
            generation: file.generation,
            timers: file.timers,
            appraisal,
            crl: file.tpm.crl,
            ima: file.ima,
            residency,
            first_use,
            containment,
            delegation: file.delegation,
            status_list_uri,
            scopes,
        })
    }

    /// The commented file `policy init` writes.
    pub fn default_file(domain: &str) -> String {
        include_str!("../defaults/settings.toml").replace("@DOMAIN@", domain)
    }
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
mod tests;
