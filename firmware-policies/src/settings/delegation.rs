//! `[delegation]`: whether there are authorizations below a node's own, how many, how deep and for how long.
//!
//! A file without it has none: no workload gets an authorization, and nothing is handed on. Source: `docs/protocol.md`,
//! section 6.

use serde::Deserialize;
use touchstone_authorization::KeyKind;

use crate::error::{PolicyCode, Problem};
use crate::settings::timers::Timers;

/// Deepest authorization below a node's own that a policy may allow.
pub const MAX_DELEGATION_DEPTH: u8 = 16;
/// Most authorizations directly below one that a policy may allow.
pub const MAX_CHILDREN: u32 = 65_536;
/// Most blocks that may be added off-line.
pub const MAX_OFFLINE_DEPTH: u8 = 4;
/// Longest life of a block that is added off-line.
pub const MAX_OFFLINE_LIFE_MS: u64 = 300_000;
/// Longest life of an authorization of a key that no hardware holds.
pub const MAX_SOFTWARE_LIFE_MS: u64 = 60_000;

/// Whether a workload whose key is only a file gets an authorization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SoftwareKeys {
    /// It gets none.
    #[default]
    Refused,
    /// For at most [`MAX_SOFTWARE_LIFE_MS`], and never a key.
    ShortLived,
}

/// The setting, checked. The default is the strictest: nothing below a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delegation {
    /// How many authorizations may stand below a node's own, one under the other; 0: none.
    pub max_depth: u8,
    /// How many may stand directly below one.
    pub max_children: u32,
    /// How long one lives at most, in milliseconds; never longer than the one above it.
    pub workload_life_ms: u64,
    /// Whether a holder may hand on without asking, where every right above it says so too.
    pub offline: bool,
    /// How many blocks may be added so.
    pub offline_depth: u8,
    /// How long such a block lives at most, in milliseconds.
    pub offline_life_ms: u64,
    /// What keys that no hardware holds are good for.
    pub software_keys: SoftwareKeys,
}

impl Delegation {
    /// How long an authorization for a key of this kind may live, in milliseconds; nothing where there is none for it.
    #[must_use]
    pub fn life_ms(&self, kind: KeyKind) -> Option<u64> {
        if self.max_depth == 0 {
            return None;
        }
        match (kind, self.software_keys) {
            (KeyKind::Tpm | KeyKind::Tee, _) => Some(self.workload_life_ms),
            (KeyKind::Software, SoftwareKeys::ShortLived) => Some(self.workload_life_ms.min(MAX_SOFTWARE_LIFE_MS)),
            // Software keys where they are refused, and any kind that this version does not know.
            _ => None,
        }
    }

    /// Everything that is wrong with it, under these timers.
    pub(super) fn problems(&self, timers: &Timers) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut within = |key: &str, found: u64, least: u64, most: u64| {
            if !(least..=most).contains(&found) {
                let claim = format!("settings.toml: delegation.{key}");
                let expected = format!("{least} to {most}");
                problems.push(Problem::new(PolicyCode::DelegationInvalid, claim, expected, found));
            }
        };
        let some = u64::from(self.max_depth > 0);
        let offline = u64::from(self.offline);
        let life = timers.authorization_life_ms;
        within("max_depth", self.max_depth.into(), offline, MAX_DELEGATION_DEPTH.into());
        within("max_children", self.max_children.into(), some, MAX_CHILDREN.into());
        within("workload_life_ms", self.workload_life_ms, some, life.max(some));
        within(
            "offline_depth",
            self.offline_depth.into(),
            offline,
            self.max_depth.min(MAX_OFFLINE_DEPTH).max(self.offline.into()).into(),
        );
        within("offline_life_ms", self.offline_life_ms, offline, MAX_OFFLINE_LIFE_MS);
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Delegation = Delegation {
        max_depth: 4,
        max_children: 64,
        workload_life_ms: 90_000,
        offline: true,
        offline_depth: 2,
        offline_life_ms: 60_000,
        software_keys: SoftwareKeys::ShortLived,
    };

    #[test]
    fn each_number_has_its_bounds() {
        type Change = fn(&mut Delegation);
        let timers = Timers::default();
        assert_eq!(ALL.problems(&timers), []);
        assert_eq!(Delegation::default().problems(&timers), [], "nothing is allowed");
        let rows: [(&str, Change); 11] = [
            ("max_depth", |d| d.max_depth = 17),
            ("max_children", |d| d.max_children = 0),
            ("max_children", |d| d.max_children = MAX_CHILDREN + 1),
            ("workload_life_ms", |d| d.workload_life_ms = 0),
            ("workload_life_ms", |d| d.workload_life_ms = 120_001),
            ("offline_depth", |d| d.offline_depth = 0),
            ("offline_depth", |d| d.offline_depth = 5),
            ("offline_depth", |d| (d.max_depth, d.offline_depth) = (1, 2)),
            ("offline_life_ms", |d| d.offline_life_ms = 0),
            ("offline_life_ms", |d| d.offline_life_ms = 300_001),
            ("offline_life_ms", |d| d.offline_life_ms = u64::MAX),
        ];
        for (key, change) in rows {
            let mut bad = ALL;
            change(&mut bad);
            let claims: Vec<_> = bad.problems(&timers).into_iter().map(|p| p.claim).collect();
            assert_eq!(claims, [format!("settings.toml: delegation.{key}")], "{bad:?}");
        }
        let off = Delegation { max_depth: 0, ..ALL };
        assert!(!off.problems(&timers).is_empty(), "off-line below nothing");
    }

    #[test]
    fn how_long_a_key_of_each_kind_is_good_for() {
        for (row, delegation, expected) in [
            ("nothing said", Delegation::default(), [None, None, None]),
            ("all", ALL, [Some(90_000), Some(90_000), Some(60_000)]),
            (
                "hardware only",
                Delegation {
                    software_keys: SoftwareKeys::Refused,
                    ..ALL
                },
                [Some(90_000), Some(90_000), None],
            ),
            (
                "shorter than a software key may",
                Delegation {
                    workload_life_ms: 20_000,
                    ..ALL
                },
                [Some(20_000), Some(20_000), Some(20_000)],
            ),
            ("no depth", Delegation { max_depth: 0, ..ALL }, [None, None, None]),
        ] {
            let lives = [KeyKind::Tpm, KeyKind::Tee, KeyKind::Software].map(|kind| delegation.life_ms(kind));
            assert_eq!(lives, expected, "{row}");
        }
    }
}
