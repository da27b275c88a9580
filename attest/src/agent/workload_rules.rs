//! Which workloads of this node may have an authorization of their own: the `[workloads]` table of `agent.toml`.
//!
//! A workload is who the kernel says it is. Without a rule there is none.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;
use touchstone_authorization::Scope;
use touchstone_authorization::name::is_label;

use super::config::ConfigError;

/// Most rules.
pub const MAX_RULES: usize = 256;

/// The `[workloads]` table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadsConfig {
    /// Unix socket on which workloads of any user ask; nothing else is answered there, and nobody whom no rule names.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// Who may have an authorization of its own.
    #[serde(default)]
    pub rule: Vec<Rule>,
}

/// One workload that may run here: what the kernel has to say of whoever asks in its name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it is called: `[a-z0-9][a-z0-9_-]{0,31}`. A dot is only in the names of what a workload hands on.
    pub label: String,
    /// The user it runs as.
    pub uid: u32,
    /// SHA-256 of the file it runs, hexadecimal.
    #[serde(default)]
    pub executable: Option<String>,
    /// Its control group.
    #[serde(default)]
    pub cgroup: Option<String>,
    /// What it may ask for, of what this node holds.
    pub scopes: Vec<String>,
    /// How many further links may hang below it.
    #[serde(default)]
    pub delegation_depth: u8,
    /// Whether it may hand on without asking.
    #[serde(default)]
    pub offline: bool,
}

impl WorkloadsConfig {
    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let value = |key, expected, found: &str| ConfigError::Value {
            key,
            expected,
            found: found.to_owned(),
        };
        if self.rule.len() > MAX_RULES {
            return Err(value("workloads.rule", "at most 256", &self.rule.len().to_string()));
        }
        let mut labels = BTreeSet::new();
        for rule in &self.rule {
            // The broker gives nobody directly below a node a label with a dot: those are for what workloads hand on.
            if !is_label(&rule.label) || rule.label.contains('.') || !labels.insert(&rule.label) {
                let expected = "[a-z0-9][a-z0-9_-]{0,31}, each once, and no dot";
                return Err(value("workloads.rule.label", expected, &rule.label));
            }
            if rule.executable.is_none() && rule.cgroup.is_none() {
                let expected = "an executable or a cgroup beside the user";
                return Err(value("workloads.rule", expected, &rule.label));
            }
            let digest = rule
                .executable
                .as_deref()
                .map(|text| <[u8; 32]>::try_from(hex::decode(text).unwrap_or_default()));
            if digest.is_some_and(|digest| digest.is_err()) {
                return Err(value("workloads.rule.executable", "SHA-256, hexadecimal", &rule.label));
            }
            if rule.scopes.is_empty() || rule.scopes.iter().any(|scope| Scope::parse(scope).is_err()) {
                return Err(value(
                    "workloads.rule.scopes",
                    "action:resource, at least one",
                    &rule.label,
                ));
            }
            if rule.offline && rule.delegation_depth == 0 {
                return Err(value("workloads.rule.offline", "with a delegation_depth", &rule.label));
            }
        }
        Ok(())
    }
}

impl Rule {
    /// Whether the kernel says of a process what the rule says: its user, the digest of its executable, its control group.
    #[must_use]
    pub fn fits(&self, uid: u32, executable: &[u8; 32], cgroup: &str) -> bool {
        let listed = self.executable.as_deref();
        self.uid == uid
            && listed.is_none_or(|text| hex::decode(text).is_ok_and(|digest| digest == executable))
            && self.cgroup.as_deref().is_none_or(|listed| listed == cgroup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> Rule {
        Rule {
            label: "agent".into(),
            uid: 1000,
            executable: Some(hex::encode([4; 32])),
            cgroup: Some("/system.slice/agent.service".into()),
            scopes: vec!["execute:tools/search".into()],
            delegation_depth: 1,
            offline: false,
        }
    }

    #[test]
    fn a_rule_fits_whom_the_kernel_describes_so_and_nobody_else() {
        const CGROUP: &str = "/system.slice/agent.service";
        for (attack, uid, executable, cgroup, fits) in [
            ("itself", 1000, [4; 32], CGROUP, true),
            ("another user", 0, [4; 32], CGROUP, false),
            ("another executable at the same path", 1000, [5; 32], CGROUP, false),
            (
                "a control group below",
                1000,
                [4; 32],
                "/system.slice/agent.service/x",
                false,
            ),
            ("no control group", 1000, [4; 32], "", false),
        ] {
            assert_eq!(rule().fits(uid, &executable, cgroup), fits, "{attack}");
        }
    }

    #[test]
    fn rules_that_are_none() {
        type Change = fn(&mut Rule);
        let config = |rule: Vec<Rule>| WorkloadsConfig { socket: None, rule };
        assert_eq!(config(vec![rule()]).check(), Ok(()));
        let rows: [(&str, Change); 8] = [
            ("a label that is none", |r| r.label = "a b".into()),
            ("a label of what another hands on", |r| r.label = "agent.tool".into()),
            ("a user alone", |r| (r.executable, r.cgroup) = (None, None)),
            ("a digest that is none", |r| r.executable = Some("4".into())),
            ("a short digest", |r| r.executable = Some("04".into())),
            ("no scope", |r| r.scopes.clear()),
            ("a wildcard", |r| r.scopes = vec!["execute:*".into()]),
            ("off-line below nothing", |r| {
                (r.delegation_depth, r.offline) = (0, true)
            }),
        ];
        for (attack, change) in rows {
            let mut bad = rule();
            change(&mut bad);
            assert!(config(vec![bad]).check().is_err(), "{attack}");
        }
        assert!(config(vec![rule(), rule()]).check().is_err(), "a label twice");
    }
}
