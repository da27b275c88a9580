//! What a domain demands of the list. Every leniency is a signed line in it.

use std::sync::Arc;

use super::MAX_PATH;
use super::key::ImaKey;
use super::list::has_control;
use crate::tpm::HashAlg;

/// Most exclusions of a domain.
pub const MAX_EXCLUSIONS: usize = 256;
/// Most keys that may sign files.
pub const MAX_KEYS: usize = 64;

/// Whether a machine must show its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ImaMode {
    /// A machine whose matched reference has files must.
    #[default]
    ByReference,
    /// Every machine must.
    Required,
    /// Nobody must, and a list that is there is not looked at.
    Off,
}

/// What is done about violations: files that were written while they were measured, so that the digest is worth
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Violations {
    /// Refused, unless the path is excluded.
    #[default]
    Refuse,
    /// Counted, and named as a leniency.
    Allow,
}

/// Most `*` of a path rule: matching stays linear in the length of the path for each.
pub const MAX_STARS: usize = 8;

/// Why a text is no path rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected an absolute path with its first folder spelled out, * within a name or /** at the end, found {found}"
)]
pub struct PathRuleError {
    /// The text, made safe to show.
    pub found: String,
}

/// Which paths a domain does not judge: an absolute path in which `*` stands for any characters but `/`, and which may
/// end in `/**`, for everything below that folder. All else is compared byte by byte, never loosely.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathRule {
    text: String,
    /// The parts between the slashes, without the final `**`.
    parts: Vec<String>,
    /// Whether it is about everything below.
    below: bool,
}

impl PathRule {
    /// Reads a rule.
    ///
    /// # Errors
    /// [`PathRuleError`]: a relative path, one with control characters, `.`, `..` or empty parts, `**` elsewhere, more than
    /// [`MAX_STARS`] asterisks, or no folder spelled out (a rule never means the whole machine).
    pub fn parse(text: &str) -> Result<Self, PathRuleError> {
        let below = text.strip_suffix("/**");
        let named = below.unwrap_or(text);
        let parts: Vec<String> = named.split('/').skip(1).map(str::to_owned).collect();
        let good = text.len() <= MAX_PATH
            && is_plain(named.as_bytes())
            && !named.contains("**")
            && named.bytes().filter(|byte| *byte == b'*').count() <= MAX_STARS
            && parts.first().is_some_and(|first| !first.contains('*'))
            && (below.is_some() || parts.len() > 1);
        if !good {
            return Err(PathRuleError {
                found: crate::reason::sanitise(text, 128),
            });
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
            below: below.is_some(),
        })
    }

    /// The rule as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is about this path. Never about one that is relative, unsafe, or has `.`, `..` or empty parts.
    pub fn matches(&self, path: &[u8]) -> bool {
        if !is_plain(path) {
            return false;
        }
        let mut found = path.split(|byte| *byte == b'/').skip(1);
        let all = self
            .parts
            .iter()
            .all(|part| found.next().is_some_and(|found| part_matches(part.as_bytes(), found)));
        all && found.next().is_some() == self.below
    }
}

/// Whether a name is what a part of a rule says: what stands between asterisks, in order, the first at the start and the
/// last at the end.
fn part_matches(rule: &[u8], name: &[u8]) -> bool {
    let mut pieces = rule.split(|byte| *byte == b'*');
    let first = pieces.next().unwrap_or_default();
    let Some(last) = pieces.next_back() else {
        return name == first;
    };
    let Some(mut rest) = name.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else {
        return false;
    };
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        let Some(at) = rest.windows(piece.len()).position(|window| window == piece) else {
            return false;
        };
        rest = rest.get(at + piece.len()..).unwrap_or_default();
    }
    true
}

/// Whether a path is absolute and says what it means: no control character, no `.`, `..` or empty part.
fn is_plain(path: &[u8]) -> bool {
    let Some(parts) = path.strip_prefix(b"/") else {
        return false;
    };
    !has_control(path)
        && parts
            .split(|byte| *byte == b'/')
            .all(|part| !matches!(part, b"" | b"." | b".."))
}

/// What a domain demands of a list. The default: everything by digest, nothing excluded, violations refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImaRules {
    /// Paths that are not judged. Each one used is named in the result.
    pub exclude: Vec<PathRule>,
    /// Keys whose signature over a file's digest is enough.
    pub signed_by: Vec<ImaKey>,
    /// What is done about violations.
    pub violations: Violations,
}

impl ImaRules {
    /// SHA-256 that names these rules: entries judged under other ones are judged again. Of keys, the key counts.
    pub fn digest(&self) -> [u8; 32] {
        let mut context = aws_lc_rs::digest::Context::new(HashAlg::Sha256.algorithm());
        context.update(b"touchstone-ima-rules/1\0");
        context.update(&[matches!(self.violations, Violations::Allow).into()]);
        for rule in &self.exclude {
            context.update(&(rule.text.len() as u64).to_be_bytes());
            context.update(rule.text.as_bytes());
        }
        context.update(&u64::MAX.to_be_bytes());
        for key in &self.signed_by {
            context.update(&key.key().spki_sha256());
            key.ids().iter().for_each(|id| context.update(id));
            context.update(&[0xFF]);
        }
        context.finish().as_ref().try_into().unwrap_or_default()
    }

    /// The first exclusion that is about this path.
    pub fn exclusion(&self, path: &[u8]) -> Option<&PathRule> {
        self.exclude.iter().find(|rule| rule.matches(path))
    }
}

/// The part of an appraisal policy that is about IMA. The default demands the list by reference and excludes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImaPolicy {
    /// Whether a machine must show its list.
    pub mode: ImaMode,
    /// What is demanded of it; compiled once, shared.
    pub rules: Arc<ImaRules>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_path_rule_is_never_about_more_than_it_says() {
        let rows: [(&str, &str, bool); 25] = [
            ("/var/log/**", "/var/log/a/b", true),
            ("/var/log/**", "/var/log/", false),
            ("/var/log/**", "/var/log", false),
            ("/var/log/**", "/var/logs/a", false),
            ("/var/log/**", "/var/log/../../bin/sh", false),
            ("/var/log/**", "/var/log/a\nb", false),
            ("/var/log/**", "/var/log//a", false),
            ("/var/log/**", "var/log/a", false),
            ("/tmp/*", "/tmp/a", true),
            ("/tmp/*", "/tmp/a/b", false),
            ("/etc/passwd", "/etc/passwd", true),
            ("/etc/passwd", "/etc/passwd-", false),
            ("/etc/passwd", "/ETC/passwd", false),
            ("/tmp/*", "/tmp/\0", false),
            ("/opt/app-*/bin/tool", "/opt/app-2/bin/tool", true),
            ("/opt/app-*/bin/tool", "/opt/app-/bin/tool", true),
            ("/opt/app-*/bin/tool", "/opt/app-2/3/bin/tool", false),
            ("/opt/app-*/bin/tool", "/opt/xapp-2/bin/tool", false),
            ("/opt/a*b*c", "/opt/abc", true),
            ("/opt/a*b*c", "/opt/a-bb-b-c", true),
            ("/opt/a*b*c", "/opt/acb", false),
            ("/opt/ab*ba", "/opt/aba", false),
            ("/var/*/cache/**", "/var/x/cache/y/z", true),
            ("/var/*/cache/**", "/var/x/cache", false),
            ("/var/*/cache/**", "/var/x/y/cache/z", false),
        ];
        for (rule, path, matches) in rows {
            let parsed = PathRule::parse(rule).unwrap();
            assert_eq!(parsed.matches(path.as_bytes()), matches, "{rule} {path:?}");
            assert_eq!(parsed.as_str(), rule);
        }
    }

    #[test]
    fn a_text_that_is_no_path_rule_is_refused() {
        for text in [
            "",
            "/",
            "/**",
            "/*",
            "**",
            "*",
            "tmp/*",
            "/a/../b",
            "/a//b",
            "/a*/b",
            "/a/***",
            "/a\n/*",
            "/a/",
            "/a",
            "/a/**/b",
            "/a/*********",
        ] {
            assert!(PathRule::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_rule_changes_the_name_of_the_rules() {
        let rule = |text| PathRule::parse(text).unwrap();
        let with = |exclude: Vec<PathRule>, violations| ImaRules {
            exclude,
            violations,
            signed_by: Vec::new(),
        };
        let all = [
            ImaRules::default(),
            with(vec![rule("/a/b")], Violations::Refuse),
            with(vec![rule("/a/b"), rule("/b/c")], Violations::Refuse),
            with(vec![rule("/a/b")], Violations::Allow),
        ];
        let digests: std::collections::BTreeSet<_> = all.iter().map(ImaRules::digest).collect();
        assert_eq!(digests.len(), all.len());
    }
}
