//! `[enrolment.first_use]`: machines that nobody has listed may enrol by what they show, for a time that is signed.
//!
//! ```toml
//! [enrolment.first_use]
//! from = "2027-03-01T08:00:00Z"    # at most 31 days before `until`
//! until = "2027-03-02T20:00:00Z"
//! region = "eu-1"
//! roles = ["edge"]
//! name_prefix = "edge-"
//! most = 40
//! ```
//! Without this table there is no such thing. With it, a TPM whose endorsement key no entry of the inventory names, whose
//! certificate leads to a trust anchor and which opens a credential made for that key becomes the node that
//! [`FirstUse::node`] derives: the machine chooses nothing of it. Taken out of the settings, or changed so that a machine
//! would not have got in, the rights of what enrolled so are withdrawn.

use serde::Deserialize;
use touchstone_verifier::inventory::{EkId, Node};

use crate::error::{PolicyCode, Problem};
use crate::layout::is_name;
use crate::targets::inventory_file::{AUTHORITY, MAX_ROLES};

/// Longest time in which machines may enrol on first use, in seconds: 31 days.
pub const MAX_FIRST_USE_SECONDS: i64 = 31 * 24 * 3600;
/// Most machines that may enrol so.
pub const MAX_FIRST_USE_NODES: u64 = 4096;
/// Hexadecimal digits of the endorsement key's digest in a name: 128 bits, so that nobody finds two keys of one name.
const DIGEST_DIGITS: usize = 32;

/// The setting, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstUse {
    /// The first second, Unix time.
    pub from: i64,
    /// The first second at which nobody may any more, Unix time.
    pub until: i64,
    /// The region of every such node.
    pub region: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// What its name begins with.
    pub name_prefix: String,
    /// How many may enrol so, over all time.
    pub most: u64,
}

/// `[enrolment]` as it stands in the file.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct EnrolmentSection {
    first_use: Option<FirstUseSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstUseSection {
    from: String,
    until: String,
    region: String,
    roles: Vec<String>,
    name_prefix: String,
    most: u64,
}

impl EnrolmentSection {
    pub(super) fn read(self, problems: &mut Vec<Problem>) -> Option<FirstUse> {
        let section = self.first_use?;
        let mut problem = |key: &str, expected: String, found: String| {
            let claim = format!("settings.toml: enrolment.first_use.{key}");
            problems.push(Problem::new(PolicyCode::FirstUseInvalid, claim, expected, found));
        };
        let mut time = |key: &str, text: &str| match text.parse::<jiff::Timestamp>() {
            Ok(time) => time.as_second(),
            Err(error) => {
                problem(key, "a time (RFC 3339)".into(), error.to_string());
                0
            }
        };
        let (from, until) = (time("from", &section.from), time("until", &section.until));
        if !(1..=MAX_FIRST_USE_SECONDS).contains(&until.saturating_sub(from)) {
            let expected = "after from, by 31 days at most".to_owned();
            problem("until", expected, format!("{} to {}", section.from, section.until));
        }
        for (key, name) in [("region", &section.region)]
            .into_iter()
            .chain(section.roles.iter().map(|role| ("roles", role)))
        {
            if !is_name(name) {
                problem(key, "a name".into(), name.clone());
            }
        }
        if section.roles.len() > MAX_ROLES {
            problem("roles", format!("at most {MAX_ROLES}"), section.roles.len().to_string());
        }
        if section.name_prefix.is_empty() || !is_name(&format!("{}{}", section.name_prefix, "0".repeat(DIGEST_DIGITS)))
        {
            let expected = "1 to 31 bytes that a name begins with".to_owned();
            problem("name_prefix", expected, section.name_prefix.clone());
        }
        if !(1..=MAX_FIRST_USE_NODES).contains(&section.most) {
            problem("most", format!("1 to {MAX_FIRST_USE_NODES}"), section.most.to_string());
        }
        Some(FirstUse {
            from,
            until,
            region: section.region,
            roles: section.roles,
            name_prefix: section.name_prefix,
            most: section.most,
        })
    }
}

impl FirstUse {
    /// Whether a machine may enrol at this time, Unix seconds.
    #[must_use]
    pub fn is_open(&self, now: i64) -> bool {
        (self.from..self.until).contains(&now)
    }

    /// The node that a machine with this endorsement key is: its name from the prefix and the key's digest, everything
    /// else from the setting.
    #[must_use]
    pub fn node(&self, ek: &EkId) -> Node {
        let digest = ek.to_string();
        let digits = digest.get(..DIGEST_DIGITS).unwrap_or(&digest);
        Node {
            name: format!("{}{digits}", self.name_prefix),
            region: self.region.clone(),
            roles: self.roles.clone(),
            ek: vec![*ek],
            authority: AUTHORITY.into(),
            ..Node::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"from = "2027-03-01T08:00:00Z"
until = "2027-03-02T20:00:00Z"
region = "eu-1"
roles = ["edge"]
name_prefix = "edge-"
most = 40
"#;

    fn read(text: &str) -> Result<FirstUse, Vec<String>> {
        let section: EnrolmentSection =
            toml::from_str(&format!("[first_use]\n{text}")).map_err(|e| vec![e.to_string()])?;
        let mut problems = Vec::new();
        let read = section.read(&mut problems).unwrap();
        if problems.is_empty() {
            Ok(read)
        } else {
            assert!(
                problems
                    .iter()
                    .all(|problem| problem.code == PolicyCode::FirstUseInvalid)
            );
            Err(problems.into_iter().map(|problem| problem.claim).collect())
        }
    }

    #[test]
    fn a_name_is_made_of_the_signed_prefix_and_the_key_and_nothing_else() {
        let setting = read(GOOD).unwrap();
        let node = setting.node(&EkId([0xab; 32]));
        assert_eq!(node.name, format!("edge-{}", "ab".repeat(16)));
        assert_eq!(
            (node.region.as_str(), node.roles.as_slice()),
            ("eu-1", &["edge".to_owned()][..])
        );
        assert_eq!((node.ek, node.authority.as_str()), (vec![EkId([0xab; 32])], AUTHORITY));
        assert_ne!(setting.node(&EkId([0xac; 32])).name, node.name);
    }

    #[test]
    fn it_is_open_in_its_time_alone() {
        let setting = read(GOOD).unwrap();
        let (from, until) = (setting.from, setting.until);
        let open = [from - 1, from, until - 1, until].map(|now| setting.is_open(now));
        assert_eq!(open, [false, true, true, false]);
    }

    #[test]
    fn what_is_no_time_box_or_names_nothing_is_refused() {
        let longest = GOOD.replace("2027-03-02T20:00:00Z", "2027-04-01T08:00:00Z");
        assert!(read(&longest).is_ok());
        let long = "e".repeat(32);
        for (from, to) in [
            ("2027-03-02T20:00:00Z", "2027-04-01T08:00:01Z"),
            ("2027-03-02T20:00:00Z", "9999-01-01T00:00:00Z"),
            ("2027-03-02T20:00:00Z", "2027-03-01T08:00:00Z"),
            ("2027-03-02T20:00:00Z", "2026-03-01T08:00:00Z"),
            ("2027-03-02T20:00:00Z", "tomorrow"),
            ("2027-03-01T08:00:00Z", "-009999-01-01T00:00:00Z"),
            ("\"eu-1\"", "\"EU\""),
            ("\"eu-1\"", "\"eu-1/a\""),
            ("\"edge\"", "\"any role\""),
            ("\"edge-\"", "\"\""),
            ("\"edge-\"", "\"eu-1/\""),
            ("\"edge-\"", "\"-\""),
            ("\"edge-\"", "\"Edge-\""),
            ("\"edge-\"", &format!("\"{long}\"")),
            ("\"edge-\"", "\"e\\n\""),
            ("most = 40", "most = 0"),
            ("most = 40", "most = 4097"),
            ("most = 40", "most = -1"),
            ("most = 40", ""),
            ("most = 40", "most = 40\nalways = true"),
            ("until", "untill"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            assert!(read(&text).is_err(), "{to}");
        }
    }
}
