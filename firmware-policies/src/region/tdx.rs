//! `[tdx]` of a region.

use serde::Deserialize;
use touchstone_verifier::tdx::TdxPolicy;

use super::rules::{Rules, either};
use crate::settings::TdxSettings;

/// `[tdx]`, each key with the meaning that it has for the whole.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RegionTdx {
    pub tcb_status: Option<Vec<String>>,
    pub min_tcb_evaluation_number: Option<u32>,
    /// Beside the whole's.
    pub registers: Vec<u8>,
    /// Beside the whole's.
    pub denied_platforms: Vec<String>,
}

impl RegionTdx {
    /// The whole's demands with this region's beside them.
    pub fn narrow(&self, whole: &TdxPolicy, rules: &mut Rules<'_>) -> TdxPolicy {
        let strict = TdxSettings::default();
        let said = TdxSettings {
            tcb_status: self.tcb_status.clone().unwrap_or(strict.tcb_status),
            min_tcb_evaluation_number: self.min_tcb_evaluation_number.unwrap_or_default(),
            registers: match self.registers.is_empty() {
                true => strict.registers,
                false => self.registers.clone(),
            },
            denied_platforms: self.denied_platforms.clone(),
        };
        rules.take(said.problems());
        let said = said.policy();
        TdxPolicy {
            tcb_status: rules.some_of(
                "tdx.tcb_status",
                &whole.tcb_status,
                self.tcb_status.as_ref().map(|_| said.tcb_status),
            ),
            min_tcb_evaluation_number: rules.at_least(
                "tdx.min_tcb_evaluation_number",
                &whole.min_tcb_evaluation_number,
                self.min_tcb_evaluation_number,
            ),
            registers: match self.registers.is_empty() {
                true => whole.registers.clone(),
                false => either(&whole.registers, &said.registers),
            },
            denied_platforms: either(&whole.denied_platforms, &said.denied_platforms),
        }
    }
}
