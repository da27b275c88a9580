//! `regions/<id>/settings.toml`: what a region demands beyond the whole. Every key may be left out; none can widen.
//!
//! ```toml
//! [timers]                        # shorter, within the inequalities of the whole's timers
//! authorization_life_ms = 60000
//! [tpm]
//! required_registers = { sha256 = [5] }   # beside the whole's
//! crl = "required"
//! [snp]
//! floors = { milan = { bl = 4, tee = 0, snp = 24, ucode = 219 } }
//! [grants]
//! scopes = ["execute:workloads"]  # some of the whole's
//! [select]
//! references = ["golden-1"]       # of the whole's references, anchors (SHA-256) and signers: only these
//! ```
//! A single value that is wider than the whole's is refused when the file is read. So a whole that tightens such a value
//! beyond what a region has written is refused too, until the region follows: a forbid in `policy.cedar`, a list of what is
//! denied, and taking out a reference, anchor, chip or provider work at once, whatever regions say.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;
use touchstone_verifier::ima::{ImaMode, ImaPolicy, ImaRules, PathRule, Violations};
use touchstone_verifier::policy::{
    AppraisalPolicy, AzurePolicy, EkCertificateRule, EventLogRule, ReportFreshness, RequiredRoots, RootsPolicy,
};
use touchstone_verifier::tpm::{HashAlg, PcrSelection};
use touchstone_verifier::x509::{CrlRule as ChainCrlRule, Expiry};

use super::authority::{self, RegionDelegation};
use super::gpu::RegionGpu;
use super::rules::Rules;
use super::snp::RegionSnp;
use super::tdx::RegionTdx;
use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::is_reference_name;
use crate::settings::containment::ContainmentSection;
use crate::settings::timers::Timers;
use crate::settings::{
    AzureSettings, Containment, CrlRule, Delegation, EkCertificateName, EkExpiryName, EventLogName, ImaSettings,
    MAX_SCOPES, NEVER_REQUIRED, RequiredRoots as RootsName, RootsSettings, registers,
};
use crate::settings::{ImaMode as ModeName, ImaViolations, ReportFreshnessName};
use crate::targets::scope::Scope;

/// Most names of one selection.
pub const MAX_SELECTED: usize = 4096;

/// The file as it is written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RegionSettings {
    pub timers: RegionTimers,
    pub tpm: RegionTpm,
    pub ima: RegionIma,
    pub roots: RegionRoots,
    pub snp: RegionSnp,
    pub tdx: RegionTdx,
    pub azure: RegionAzure,
    pub gpu: RegionGpu,
    pub containment: Option<ContainmentSection>,
    pub delegation: RegionDelegation,
    pub grants: RegionGrants,
    pub select: RegionSelect,
}

/// `[timers]`. The others are the same for the whole domain: a trust state is one for all of its enforcers.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RegionTimers {
    pub attestation_interval_ms: Option<u64>,
    pub attestation_deadline_ms: Option<u64>,
    pub attestation_grace_ms: Option<u64>,
    pub authorization_life_ms: Option<u64>,
}

/// `[tpm]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RegionTpm {
    pub required_registers: std::collections::BTreeMap<String, Vec<u8>>,
    pub ek_expiry: Option<EkExpiryName>,
    pub event_log: Option<EventLogName>,
    pub crl: Option<CrlRule>,
    pub ek_certificate: Option<EkCertificateName>,
}

/// `[ima]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RegionIma {
    pub mode: Option<ModeName>,
    pub exclude: Option<Vec<String>>,
    pub violations: Option<ImaViolations>,
}

/// `[roots]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RegionRoots {
    pub required: Option<RootsName>,
}

/// `[azure]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RegionAzure {
    pub report_freshness: Option<ReportFreshnessName>,
}

/// `[grants]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RegionGrants {
    pub scopes: Option<Vec<String>>,
}

/// `[select]`: of what the whole has, only this.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RegionSelect {
    pub references: Option<Vec<String>>,
    pub anchors: Option<Vec<String>>,
    pub signers: Option<Vec<String>>,
}

/// A selection that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selection {
    pub references: Option<BTreeSet<String>>,
    pub anchors: Option<BTreeSet<[u8; 32]>>,
    pub signers: Option<BTreeSet<String>>,
}

impl RegionSettings {
    /// Reads the file.
    ///
    /// # Errors
    /// [`PolicyError`] `policy-region-settings-unreadable`, also for a key that a region has nothing to say about.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, PolicyError> {
        let unreadable = |found: String| {
            PolicyError::new(
                PolicyCode::RegionSettingsUnreadable,
                file,
                "settings that a region may make",
                found,
            )
        };
        let text = std::str::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
        toml::from_str(text).map_err(|e| unreadable(e.to_string()))
    }

    /// The whole's demands with this region's beside them.
    pub fn appraisal(&self, whole: &AppraisalPolicy, rules: &mut Rules<'_>) -> AppraisalPolicy {
        AppraisalPolicy {
            required_registers: self.tpm.registers(&whole.required_registers, rules),
            session_key_registers: whole.session_key_registers.clone(),
            ek_expiry: rules.one(
                "tpm.ek_expiry",
                &whole.ek_expiry,
                self.tpm.ek_expiry.map(Into::into),
                |said, whole| said == whole || *said == Expiry::Deny,
            ),
            crl: rules.one("tpm.crl", &whole.crl, self.tpm.crl.map(Into::into), |said, whole| {
                said == whole || *said == ChainCrlRule::Required
            }),
            ek_certificate: rules.one(
                "tpm.ek_certificate",
                &whole.ek_certificate,
                self.tpm.ek_certificate.map(Into::into),
                |said, whole| said == whole || *said == EkCertificateRule::Required,
            ),
            event_log: rules.one(
                "tpm.event_log",
                &whole.event_log,
                self.tpm.event_log.map(Into::into),
                |said, whole| said == whole || *said == EventLogRule::Required,
            ),
            ima: self.ima.policy(&whole.ima, rules),
            roots: RootsPolicy {
                required: rules.one(
                    "roots.required",
                    &whole.roots.required,
                    self.roots
                        .required
                        .map(|required| RootsSettings { required }.policy().required),
                    |said, whole| demands_as_much(*said, *whole),
                ),
            },
            snp: self.snp.narrow(&whole.snp, rules),
            tdx: self.tdx.narrow(&whole.tdx, rules),
            azure: AzurePolicy {
                report_freshness: rules.one(
                    "azure.report_freshness",
                    &whole.azure.report_freshness,
                    self.azure
                        .report_freshness
                        .map(|report_freshness| AzureSettings { report_freshness }.policy().report_freshness),
                    |said, whole| said == whole || *said == ReportFreshness::Session,
                ),
            },
            gpu: self.gpu.narrow(&whole.gpu, rules),
            policy_id: whole.policy_id.clone(),
        }
    }

    /// The whole's timers with this region's shorter ones.
    pub fn timers(&self, whole: &Timers, rules: &mut Rules<'_>) -> Timers {
        let mut shorter = |key: &str, whole: u64, said| rules.at_most(&format!("timers.{key}"), whole, said);
        let timers = Timers {
            attestation_interval_ms: shorter(
                "attestation_interval_ms",
                whole.attestation_interval_ms,
                self.timers.attestation_interval_ms,
            ),
            attestation_deadline_ms: shorter(
                "attestation_deadline_ms",
                whole.attestation_deadline_ms,
                self.timers.attestation_deadline_ms,
            ),
            attestation_grace_ms: shorter(
                "attestation_grace_ms",
                whole.attestation_grace_ms,
                self.timers.attestation_grace_ms,
            ),
            authorization_life_ms: shorter(
                "authorization_life_ms",
                whole.authorization_life_ms,
                self.timers.authorization_life_ms,
            ),
            ..whole.clone()
        };
        rules.take(timers.problems(crate::layout::SETTINGS));
        timers
    }

    /// What this region says of failures, beside the whole.
    pub fn containment(&self, whole: &Containment, rules: &mut Rules<'_>) -> Option<Containment> {
        authority::containment(self.containment.as_ref(), whole, rules)
    }

    /// The whole's limits with this region's smaller ones.
    pub fn delegation(&self, whole: &Delegation, rules: &mut Rules<'_>) -> Delegation {
        self.delegation.narrow(whole, rules)
    }

    /// Of the whole's scopes those that this region names too.
    pub fn scopes(&self, whole: &[Scope], rules: &mut Rules<'_>) -> Vec<Scope> {
        const KEY: &str = "grants.scopes";
        let Some(texts) = &self.grants.scopes else {
            return whole.to_vec();
        };
        if texts.is_empty() || texts.len() > MAX_SCOPES {
            let (expected, found) = (format!("1 to {MAX_SCOPES} scopes"), texts.len().to_string());
            rules.refuse(PolicyCode::SettingsEmptyList, KEY, expected, &found);
            return Vec::new();
        }
        let mut said = BTreeSet::new();
        for text in texts {
            match Scope::parse(text) {
                Some(_) => drop(said.insert(text.clone())),
                None => rules.refuse(PolicyCode::ScopeInvalid, KEY, "action:resource", text),
            }
        }
        let texts = whole.iter().map(ToString::to_string).collect();
        let kept = rules.some_of(KEY, &texts, Some(said));
        whole
            .iter()
            .filter(|scope| kept.contains(&scope.to_string()))
            .cloned()
            .collect()
    }

    /// What this region selects.
    pub fn selection(&self, rules: &mut Rules<'_>) -> Selection {
        let select = &self.select;
        Selection {
            references: names("select.references", select.references.as_deref(), rules, |text| {
                is_reference_name(text).then(|| text.to_owned())
            }),
            anchors: names("select.anchors", select.anchors.as_deref(), rules, |text| {
                let mut digest = [0; 32];
                hex::decode_to_slice(text, &mut digest).ok()?;
                Some(digest)
            }),
            signers: names("select.signers", select.signers.as_deref(), rules, |text| {
                is_reference_name(text).then(|| text.to_owned())
            }),
        }
    }
}

impl RegionTpm {
    /// The whole's registers and this region's.
    fn registers(&self, whole: &PcrSelection, rules: &mut Rules<'_>) -> PcrSelection {
        const KEY: &str = "required_registers";
        if self.required_registers.is_empty() {
            return whole.clone();
        }
        let mut wrong = Vec::new();
        let said = registers::read(KEY, &self.required_registers, &NEVER_REQUIRED, &mut wrong);
        rules.take(wrong);
        let mut banks: Vec<(HashAlg, BTreeSet<u8>)> = Vec::new();
        for (bank, register) in whole.iter().chain(said.iter()) {
            match banks.iter_mut().find(|(known, _)| *known == bank) {
                Some((_, registers)) => drop(registers.insert(register)),
                None => banks.push((bank, [register].into())),
            }
        }
        PcrSelection::new(banks).unwrap_or_else(|error| {
            let (expected, found) = error.details();
            rules.refuse(PolicyCode::RegisterRefused, &format!("tpm.{KEY}"), expected, &found);
            whole.clone()
        })
    }
}

impl RegionIma {
    fn policy(&self, whole: &ImaPolicy, rules: &mut Rules<'_>) -> ImaPolicy {
        if *self == Self::default() {
            return whole.clone();
        }
        let said = ImaSettings {
            mode: self.mode.unwrap_or_default(),
            exclude: self.exclude.clone().unwrap_or_default(),
            violations: self.violations.unwrap_or_default(),
        };
        rules.take(said.problems());
        let said = said.policy();
        let mode = rules.one("ima.mode", &whole.mode, self.mode.map(|_| said.mode), |said, whole| {
            mode_rank(*said) >= mode_rank(*whole)
        });
        let before = &whole.rules;
        let violations = self.violations.map(|_| said.rules.violations);
        let texts = |rules: &[PathRule]| rules.iter().map(|rule| rule.as_str().to_owned()).collect();
        let kept = rules.some_of(
            "ima.exclude",
            &texts(&before.exclude),
            self.exclude.as_ref().map(|_| texts(&said.rules.exclude)),
        );
        ImaPolicy {
            mode,
            rules: Arc::new(ImaRules {
                exclude: before
                    .exclude
                    .iter()
                    .filter(|rule| kept.contains(rule.as_str()))
                    .cloned()
                    .collect(),
                violations: rules.one("ima.violations", &before.violations, violations, |said, whole| {
                    said == whole || *said == Violations::Refuse
                }),
                signed_by: before.signed_by.clone(),
            }),
        }
    }
}

const fn mode_rank(mode: ImaMode) -> u8 {
    match mode {
        ImaMode::Off => 0,
        ImaMode::ByReference => 1,
        ImaMode::Required => 2,
    }
}

/// Whether every machine that shows the roots `said` also shows the roots `whole`.
const fn demands_as_much(said: RequiredRoots, whole: RequiredRoots) -> bool {
    use RequiredRoots::{Any, Listed, Tee, Tpm, TpmAndTee};
    match (said, whole) {
        (_, Any) | (TpmAndTee, _) | (Tpm, Tpm | Listed) | (Tee, Tee | Listed) | (Listed, Listed) => true,
        (Any | Listed, _) | (Tpm, Tee | TpmAndTee) | (Tee, Tpm | TpmAndTee) => false,
    }
}

/// Names, each read, each once; a list that is there and empty is refused.
fn names<T: Ord>(
    key: &str,
    texts: Option<&[String]>,
    rules: &mut Rules<'_>,
    read: impl Fn(&str) -> Option<T>,
) -> Option<BTreeSet<T>> {
    let texts = texts?;
    if texts.is_empty() || texts.len() > MAX_SELECTED {
        let (expected, found) = (format!("1 to {MAX_SELECTED} names"), texts.len().to_string());
        rules.refuse(PolicyCode::SettingsEmptyList, key, expected, &found);
    }
    let mut names = BTreeSet::new();
    for text in texts.iter().take(MAX_SELECTED) {
        if !read(text).is_some_and(|name| names.insert(name)) {
            rules.refuse(PolicyCode::SettingValue, key, "names, each once", text);
        }
    }
    Some(names)
}

/// The names of what is wrong are those of this file.
pub(super) fn read(file: &str, bytes: &[u8], problems: &mut Vec<Problem>) -> RegionSettings {
    RegionSettings::parse(file, bytes).unwrap_or_else(|error| {
        problems.extend(error.into_problems());
        RegionSettings::default()
    })
}
