//! `[snp]` of a region.

use std::collections::BTreeMap;

use serde::Deserialize;
use touchstone_verifier::snp::{self, SnpPolicy, Tcb};

use super::rules::{Rules, both, both_lists, either};
use crate::settings::{AliasCheck, Allowed, Demand, Floor, SnpSettings};

/// `[snp]`, each key with the meaning that it has for the whole.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RegionSnp {
    pub alias_check: Option<AliasCheck>,
    pub max_vmpl: Option<u32>,
    pub debug: Option<Allowed>,
    pub migration_agent: Option<Allowed>,
    pub masked_chips: Option<Allowed>,
    /// Beside the whole's.
    pub guest_policy_required: Vec<String>,
    /// Beside the whole's.
    pub guest_policy_refused: Vec<String>,
    pub smt_off: Option<Demand>,
    pub ecc: Option<Demand>,
    pub rapl_off: Option<Demand>,
    pub ciphertext_hiding: Option<Demand>,
    /// Beside the whole's.
    pub mitigations: Vec<u8>,
    pub products: Option<Vec<String>>,
    pub floors: BTreeMap<String, Floor>,
    pub allowed_chips: Option<Vec<String>>,
    /// Beside the whole's.
    pub denied_chips: Vec<String>,
    pub providers: Option<Vec<String>>,
    pub id_keys: Option<Vec<String>>,
    pub author_keys: Option<Vec<String>>,
}

impl RegionSnp {
    /// In the form of the whole's section, so that one reader checks both.
    fn said(&self) -> SnpSettings {
        SnpSettings {
            alias_check: self.alias_check.unwrap_or_default(),
            max_vmpl: self.max_vmpl.unwrap_or_default(),
            debug: self.debug.unwrap_or_default(),
            migration_agent: self.migration_agent.unwrap_or_default(),
            masked_chips: self.masked_chips.unwrap_or_default(),
            guest_policy_required: self.guest_policy_required.clone(),
            guest_policy_refused: self.guest_policy_refused.clone(),
            smt_off: self.smt_off.unwrap_or_default(),
            ecc: self.ecc.unwrap_or_default(),
            rapl_off: self.rapl_off.unwrap_or_default(),
            ciphertext_hiding: self.ciphertext_hiding.unwrap_or_default(),
            mitigations: self.mitigations.clone(),
            products: self.products.clone(),
            floors: self.floors.clone(),
            allowed_chips: self.allowed_chips.clone(),
            denied_chips: self.denied_chips.clone(),
            providers: self.providers.clone().unwrap_or_default(),
            id_keys: self.id_keys.clone(),
            author_keys: self.author_keys.clone(),
        }
    }

    /// The whole's demands with this region's beside them.
    pub fn narrow(&self, whole: &SnpPolicy, rules: &mut Rules<'_>) -> SnpPolicy {
        let mut wrong = Vec::new();
        let said = self.said().policy(&mut wrong);
        rules.take(wrong);
        SnpPolicy {
            products: rules.some_of(
                "snp.products",
                &whole.products,
                self.products.as_ref().map(|_| said.products),
            ),
            max_vmpl: rules.at_most("snp.max_vmpl", whole.max_vmpl, self.max_vmpl),
            allow_debug: rules.leniency("snp.debug", whole.allow_debug, self.debug.map(|_| said.allow_debug)),
            allow_migration_agent: rules.leniency(
                "snp.migration_agent",
                whole.allow_migration_agent,
                self.migration_agent.map(|_| said.allow_migration_agent),
            ),
            allow_smt: rules.leniency("snp.smt_off", whole.allow_smt, self.smt_off.map(|_| said.allow_smt)),
            require_ecc: rules.demand("snp.ecc", whole.require_ecc, self.ecc.map(|_| said.require_ecc)),
            require_rapl_disabled: rules.demand(
                "snp.rapl_off",
                whole.require_rapl_disabled,
                self.rapl_off.map(|_| said.require_rapl_disabled),
            ),
            require_ciphertext_hiding: rules.demand(
                "snp.ciphertext_hiding",
                whole.require_ciphertext_hiding,
                self.ciphertext_hiding.map(|_| said.require_ciphertext_hiding),
            ),
            alias_check: rules.one(
                "snp.alias_check",
                &whole.alias_check,
                self.alias_check.map(|_| said.alias_check),
                |said, whole| rank(*said) >= rank(*whole),
            ),
            guest_policy_required: whole.guest_policy_required | said.guest_policy_required,
            guest_policy_refused: whole.guest_policy_refused | said.guest_policy_refused,
            floors: floors(whole, said.floors, rules),
            mitigations: whole.mitigations | said.mitigations,
            denied_chips: either(&whole.denied_chips, &said.denied_chips),
            allowed_chips: both_lists(whole.allowed_chips.as_ref(), said.allowed_chips),
            allow_masked_chips: rules.leniency(
                "snp.masked_chips",
                whole.allow_masked_chips,
                self.masked_chips.map(|_| said.allow_masked_chips),
            ),
            providers: both(&whole.providers, self.providers.as_ref().map(|_| &said.providers)),
            id_keys: both_lists(whole.id_keys.as_ref(), said.id_keys),
            author_keys: both_lists(whole.author_keys.as_ref(), said.author_keys),
        }
    }
}

/// Each component of each product line at least the whole's.
fn floors(whole: &SnpPolicy, said: BTreeMap<snp::Product, Tcb>, rules: &mut Rules<'_>) -> BTreeMap<snp::Product, Tcb> {
    let mut floors = whole.floors.clone();
    for (product, said) in said {
        let before = whole.floors.get(&product).copied().unwrap_or_default();
        let mut higher = |component: &str, whole: u8, said: u8| {
            rules.at_least(&format!("snp.floors.{product}.{component}"), &whole, Some(said))
        };
        let floor = Tcb {
            fmc: said.fmc.or(before.fmc).map(|_| {
                let least = before.fmc.unwrap_or_default();
                higher("fmc", least, said.fmc.unwrap_or(least))
            }),
            boot_loader: higher("bl", before.boot_loader, said.boot_loader),
            tee: higher("tee", before.tee, said.tee),
            snp: higher("snp", before.snp, said.snp),
            microcode: higher("ucode", before.microcode, said.microcode),
        };
        floors.insert(product, floor);
    }
    floors
}

const fn rank(check: snp::AliasCheck) -> u8 {
    match check {
        snp::AliasCheck::Ignored => 0,
        snp::AliasCheck::WhenReported => 1,
        snp::AliasCheck::Required => 2,
    }
}
