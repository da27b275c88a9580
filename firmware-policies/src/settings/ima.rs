//! `[ima]`: whether the list of measured files is judged, which paths are left out, what a violation means.
//!
//! A path rule is an absolute path in which `*` stands for any characters except `/`, and which may end in `/**`: then
//! it means everything below that folder. Nothing else is special. The first folder is always spelled out, so that no
//! rule leaves out the whole machine. No rules means that nothing is left out.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use touchstone_verifier::ima::{self, ImaPolicy, ImaRules, PathRule, Violations};

use crate::error::{PolicyCode, Problem};

/// Most path rules.
pub const MAX_EXCLUDED: usize = 64;
/// Longest path rule, in bytes.
pub const MAX_RULE_LEN: usize = 256;
/// Most `*` in one rule: matching stays linear in the length of the path for each.
pub const MAX_STARS: usize = 8;

/// Whether the list of measured files is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImaMode {
    /// Where the reference that a machine matches has files, the machine must show its list.
    #[default]
    ByReference,
    /// Every machine must show its list.
    Required,
    /// Lists are not judged; the result names the leniency.
    Off,
}

/// What a violation in the list means: a file that was written while it was measured, so that nobody knows what ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImaViolations {
    /// Refused.
    #[default]
    Refuse,
    /// Counted in the result, which names the leniency.
    Allow,
}

/// `[ima]`. A file without it has the strict values.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImaSettings {
    /// Whether the list is judged.
    #[serde(default)]
    pub mode: ImaMode,
    /// Paths that are not judged. They are counted in the result.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// What a violation means.
    #[serde(default)]
    pub violations: ImaViolations,
}

impl fmt::Display for ImaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            ImaMode::ByReference => "by reference",
            ImaMode::Required => "required",
            ImaMode::Off => "off",
        };
        let violations = match self.violations {
            ImaViolations::Refuse => "refused",
            ImaViolations::Allow => "allowed",
        };
        write!(f, "{mode}, violations {violations}, ")?;
        match self.exclude.as_slice() {
            [] => f.write_str("nothing left out"),
            rules => write!(f, "left out: {}", rules.join(" ")),
        }
    }
}

impl ImaSettings {
    /// What an appraisal is told.
    pub(crate) fn policy(&self) -> ImaPolicy {
        ImaPolicy {
            mode: match self.mode {
                ImaMode::ByReference => ima::ImaMode::ByReference,
                ImaMode::Required => ima::ImaMode::Required,
                ImaMode::Off => ima::ImaMode::Off,
            },
            rules: Arc::new(ImaRules {
                // Each was checked; one that the verifier could not read would leave nothing out.
                exclude: self
                    .exclude
                    .iter()
                    .filter_map(|rule| PathRule::parse(rule).ok())
                    .collect(),
                violations: match self.violations {
                    ImaViolations::Refuse => Violations::Refuse,
                    ImaViolations::Allow => Violations::Allow,
                },
                signed_by: Vec::new(),
            }),
        }
    }

    /// Everything that is wrong.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let claim = "settings.toml: ima.exclude";
        let problem = |expected: String, found: String| Problem::new(PolicyCode::PathRule, claim, expected, found);
        if self.exclude.len() > MAX_EXCLUDED {
            return vec![problem(
                format!("at most {MAX_EXCLUDED} rules"),
                self.exclude.len().to_string(),
            )];
        }
        let mut problems = Vec::new();
        for (position, rule) in self.exclude.iter().enumerate() {
            if let Err(expected) = check_rule(rule) {
                problems.push(problem(expected, rule.clone()));
            } else if self.exclude.iter().take(position).any(|earlier| earlier == rule) {
                problems.push(problem("each rule once".into(), rule.clone()));
            }
        }
        problems
    }
}

/// What a path rule must be, where this one is not.
fn check_rule(rule: &str) -> Result<(), String> {
    if rule.len() > MAX_RULE_LEN {
        return Err(format!("at most {MAX_RULE_LEN} bytes"));
    }
    if rule.chars().any(char::is_control) {
        return Err("no control characters".into());
    }
    let Some(path) = rule.strip_prefix('/') else {
        return Err("an absolute path".into());
    };
    let below = path.strip_suffix("/**");
    let named = below.unwrap_or(path);
    if named.contains("**") {
        return Err("** only at the end, as /**".into());
    }
    if named.bytes().filter(|byte| *byte == b'*').count() > MAX_STARS {
        return Err(format!("at most {MAX_STARS} *"));
    }
    let mut parts = named.split('/');
    if parts.clone().any(|part| part.is_empty() || part == "." || part == "..") {
        return Err("a path without empty parts, . and ..".into());
    }
    let first = parts.next().unwrap_or_default();
    if first.contains('*') || (below.is_none() && parts.next().is_none()) {
        return Err("the first folder spelled out, and something in it".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(toml: &str) -> Vec<PolicyCode> {
        let settings: ImaSettings = toml::from_str(toml).unwrap();
        settings.problems().into_iter().map(|p| p.code).collect()
    }

    #[test]
    fn what_is_not_said_is_strict() {
        let settings: ImaSettings = toml::from_str("").unwrap();
        assert_eq!(settings, ImaSettings::default());
        assert_eq!(
            (settings.mode, settings.violations),
            (ImaMode::ByReference, ImaViolations::Refuse)
        );
        assert_eq!(settings.exclude, Vec::<String>::new());
    }

    #[test]
    fn rules_that_name_a_place_are_taken() {
        for rule in [
            "/run/*",
            "/run/**",
            "/var/lib/*/cache/**",
            "/opt/app-*/bin/tool",
            "/tmp/a b",
            "/usr/lib/é",
        ] {
            assert_eq!(check_rule(rule), Ok(()), "{rule}");
            assert!(PathRule::parse(rule).is_ok(), "{rule}: the verifier reads it too");
        }
    }

    #[test]
    fn rules_that_could_mean_anything_are_refused() {
        let long = format!("/run/{}", "a".repeat(MAX_RULE_LEN));
        let stars = format!("/run/{}", "a*".repeat(MAX_STARS + 1));
        let rules = [
            "",
            "/",
            "*",
            "**",
            "/*",
            "/**",
            "/run",
            "/*/bin",
            "/r*n/**",
            "run/*",
            "/run/",
            "/run//a",
            "/run/../bin/*",
            "/run/./a",
            "/run/**/a",
            "/run/a**",
            "/run/***",
            "/run/\n*",
            "/run/\0",
            long.as_str(),
            stars.as_str(),
        ];
        for rule in rules {
            assert!(check_rule(rule).is_err(), "{rule:?}");
        }
    }

    #[test]
    fn rules_are_few_and_each_once() {
        assert_eq!(problems("exclude = [\"/run/*\", \"/run/*\"]"), [PolicyCode::PathRule]);
        let many: Vec<String> = (0..=MAX_EXCLUDED).map(|n| format!("\"/run/{n}\"")).collect();
        assert_eq!(
            problems(&format!("exclude = [{}]", many.join(","))),
            [PolicyCode::PathRule]
        );
        assert_eq!(problems("exclude = []"), []);
    }
}
