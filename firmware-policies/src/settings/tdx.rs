//! `[tdx]`: what is demanded of Intel TDX guests and platforms. What is left out has the strict value.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use touchstone_verifier::tdx::{RTMRS, TcbStatus, TdxPolicy};

use crate::error::{PolicyCode, Problem};

/// Most platforms that may be listed as not trusted.
pub const MAX_DENIED_PLATFORMS: usize = 1024;
/// Length of a PPID or platform instance id, in bytes.
const PLATFORM_LEN: usize = 16;

/// `[tdx]`. A file without it has the strict values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TdxSettings {
    /// Which of Intel's verdicts on a platform's security versions are accepted.
    pub tcb_status: Vec<String>,
    /// Least tcbEvaluationDataNumber of the collateral.
    pub min_tcb_evaluation_number: u32,
    /// Run-time measurement registers that must match a reference.
    pub registers: Vec<u8>,
    /// Platforms (PPID or platform instance id, hexadecimal) that are not trusted.
    pub denied_platforms: Vec<String>,
}

impl Default for TdxSettings {
    fn default() -> Self {
        Self {
            tcb_status: vec![TcbStatus::UpToDate.as_str().to_owned()],
            min_tcb_evaluation_number: 0,
            registers: (0..RTMRS).collect(),
            denied_platforms: Vec::new(),
        }
    }
}

impl fmt::Display for TdxSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registers: Vec<String> = self.registers.iter().map(u8::to_string).collect();
        write!(
            f,
            "TCB {}, evaluation {} or later, RTMR {}, {} platforms denied",
            self.tcb_status.join(" or "),
            self.min_tcb_evaluation_number,
            registers.join(" "),
            self.denied_platforms.len()
        )
    }
}

impl TdxSettings {
    /// What an appraisal is told. Each value was checked; one that could not be read would accept nothing more.
    pub(crate) fn policy(&self) -> TdxPolicy {
        TdxPolicy {
            tcb_status: self
                .tcb_status
                .iter()
                .filter_map(|word| TcbStatus::parse(word))
                .collect(),
            min_tcb_evaluation_number: self.min_tcb_evaluation_number,
            registers: self.registers.iter().copied().collect(),
            denied_platforms: self
                .denied_platforms
                .iter()
                .filter_map(|id| hex::decode(id).ok())
                .collect(),
        }
    }

    /// Everything that is wrong.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse = |code, key: &str, expected: &str, found: String| {
            problems.push(Problem::new(code, format!("settings.toml: tdx.{key}"), expected, found));
        };
        let known = TcbStatus::ALL.map(TcbStatus::as_str).join(", ");
        if self.tcb_status.is_empty() {
            refuse(
                PolicyCode::SettingsEmptyList,
                "tcb_status",
                "at least one status",
                "none".into(),
            );
        }
        let mut seen = BTreeSet::new();
        for word in &self.tcb_status {
            if TcbStatus::parse(word).is_none() || !seen.insert(word) {
                let expected = format!("each once of {known} (Revoked can not be accepted)");
                refuse(PolicyCode::SettingValue, "tcb_status", &expected, word.clone());
            }
        }
        // Without them nothing that the guest booted would be judged.
        if self.registers.is_empty() {
            refuse(
                PolicyCode::SettingsEmptyList,
                "registers",
                "at least one register",
                "none".into(),
            );
        }
        let mut seen = BTreeSet::new();
        for register in &self.registers {
            if *register >= RTMRS || !seen.insert(register) {
                refuse(
                    PolicyCode::SettingValue,
                    "registers",
                    "each once of 0 to 3",
                    register.to_string(),
                );
            }
        }
        if self.denied_platforms.len() > MAX_DENIED_PLATFORMS {
            let found = self.denied_platforms.len().to_string();
            refuse(
                PolicyCode::SettingValue,
                "denied_platforms",
                "at most 1024 platforms",
                found,
            );
        }
        for id in &self.denied_platforms {
            if hex::decode(id).is_ok_and(|id| id.len() == PLATFORM_LEN) {
                continue;
            }
            let expected = "a PPID or platform instance id of 16 bytes, hexadecimal";
            refuse(PolicyCode::SettingValue, "denied_platforms", expected, id.clone());
        }
        problems
    }
}
