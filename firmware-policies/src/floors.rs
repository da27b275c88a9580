//! Rollback protection: the versions of all roles, and the time, at which a policy was last accepted.
//!
//! The floors are kept by whoever accepts policy (the broker's shared store, a verifier's state file) and are given to
//! [`load`](crate::load::load), so that a replica with an empty disk cannot be rolled back either.
//! Source: TUF 1.0.34, 5.3.5, 5.4.3, 5.5.5; `docs/protocol.md`, policy.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::delegation::role_name;
use crate::error::{PolicyCode, PolicyError, Problem};
use crate::expiry::time;

/// The version of each role.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleVersions {
    /// Of the root.
    pub root: u64,
    /// Of the targets: the policy version.
    pub targets: u64,
    /// Of the snapshot.
    pub snapshot: u64,
    /// Of the timestamp.
    pub timestamp: u64,
    /// Of each region that has keys of its own, by region.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub regions: BTreeMap<String, u64>,
}

impl RoleVersions {
    /// The roles by name.
    pub fn named(&self) -> Vec<(String, u64)> {
        let whole = [
            ("root", self.root),
            ("targets", self.targets),
            ("snapshot", self.snapshot),
            ("timestamp", self.timestamp),
        ];
        let whole = whole.into_iter().map(|(role, version)| (role.to_owned(), version));
        let regions = self
            .regions
            .iter()
            .map(|(region, version)| (role_name(region), *version));
        whole.chain(regions).collect()
    }

    /// Checks that no role is older than `floors` has it. A region whose role the whole has taken back is no rollback:
    /// that is what a newer targets role says, which is never older.
    ///
    /// # Errors
    /// [`PolicyError`] with `policy-rollback` for every role that is.
    pub fn not_below(&self, floors: &RoleVersions) -> Result<(), PolicyError> {
        let floors: BTreeMap<String, u64> = floors.named().into_iter().collect();
        let below = self.named().into_iter().filter_map(|(role, found)| {
            let floor = *floors.get(&role)?;
            (found < floor).then(|| {
                let file = match role.as_str() {
                    "timestamp" => "timestamp.json".to_owned(),
                    role => format!("{found}.{role}.json"),
                };
                let claim = format!("{file} ({role}, version {found})");
                let (expected, found) = (format!("version {floor} or later"), format!("version {found}"));
                Problem::new(PolicyCode::Rollback, claim, expected, found)
            })
        });
        PolicyError::unless_empty(below.collect())
    }

    /// The higher version of each role: the floors after both were accepted.
    #[must_use]
    pub fn raised_to(&self, other: &RoleVersions) -> RoleVersions {
        let mut regions = self.regions.clone();
        for (region, version) in &other.regions {
            let floor = regions.entry(region.clone()).or_default();
            *floor = (*floor).max(*version);
        }
        RoleVersions {
            root: self.root.max(other.root),
            targets: self.targets.max(other.targets),
            snapshot: self.snapshot.max(other.snapshot),
            timestamp: self.timestamp.max(other.timestamp),
            regions,
        }
    }
}

/// Checks that the time given is not before the last time at which a policy was accepted, both in Unix seconds.
///
/// # Errors
/// [`PolicyError`] with `policy-clock-went-back`.
pub fn check_time(now: i64, last: Option<i64>) -> Result<(), PolicyError> {
    match last {
        Some(last) if now < last => {
            let expected = format!("{} or later", time(last));
            Err(PolicyError::new(
                PolicyCode::ClockWentBack,
                "the time given",
                expected,
                time(now),
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(root: u64, targets: u64, snapshot: u64, timestamp: u64) -> RoleVersions {
        RoleVersions {
            root,
            targets,
            snapshot,
            timestamp,
            regions: BTreeMap::new(),
        }
    }

    fn with(versions: RoleVersions, regions: &[(&str, u64)]) -> RoleVersions {
        let regions = regions.iter().map(|(name, version)| ((*name).to_owned(), *version));
        RoleVersions {
            regions: regions.collect(),
            ..versions
        }
    }

    /// `7.targets.json (targets, version 7)`.
    fn role_of(claim: &str) -> String {
        let (_, role) = claim.split_once('(').unwrap();
        role.split_once(',').unwrap().0.to_owned()
    }

    #[test]
    fn no_role_goes_back() {
        let floors = v(2, 5, 7, 9);
        let rows: &[(RoleVersions, &[&str])] = &[
            (v(2, 5, 7, 9), &[]),
            (v(3, 6, 8, 10), &[]),
            (v(1, 5, 7, 9), &["root"]),
            (v(2, 4, 7, 9), &["targets"]),
            (v(2, 5, 6, 9), &["snapshot"]),
            (v(2, 5, 7, 8), &["timestamp"]),
            (v(9, 9, 9, 8), &["timestamp"]),
            (v(0, 0, 0, 0), &["root", "snapshot", "targets", "timestamp"]),
        ];
        for (found, roles) in rows {
            let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
            let claims: Vec<String> = match found.not_below(&floors) {
                Ok(()) => Vec::new(),
                Err(e) => {
                    assert!(e.problems().iter().all(|p| p.code == PolicyCode::Rollback));
                    e.problems().iter().map(|p| role_of(&p.claim)).collect()
                }
            };
            assert_eq!(claims, roles, "{found:?}");
        }
        assert_eq!(v(1, 6, 7, 8).raised_to(&v(2, 5, 7, 9)), v(2, 6, 7, 9));
    }

    #[test]
    fn no_region_goes_back_and_one_that_is_taken_back_is_none() {
        let floors = with(v(2, 5, 7, 9), &[("eu", 4), ("us", 2)]);
        for (regions, refused) in [
            (&[("eu", 4), ("us", 3)][..], None),
            (&[("eu", 3), ("us", 2)], Some("region-eu")),
            (&[("eu", 5)], None),
            (&[("eu", 4), ("us", 2), ("asia", 1)], None),
        ] {
            let result = with(v(2, 5, 7, 9), regions).not_below(&floors);
            let claim = result.err().map(|e| role_of(&e.problems()[0].claim));
            assert_eq!(claim.as_deref(), refused, "{regions:?}");
        }
        // What was taken back and given again does not begin anew below what was accepted.
        let raised = floors.raised_to(&with(v(2, 6, 8, 10), &[("eu", 5)]));
        assert_eq!(raised, with(v(2, 6, 8, 10), &[("eu", 5), ("us", 2)]));
        let json = serde_json::to_string(&raised).unwrap();
        assert_eq!(serde_json::from_str::<RoleVersions>(&json).unwrap(), raised);
        let old = r#"{"root":1,"targets":2,"snapshot":3,"timestamp":4}"#;
        assert_eq!(serde_json::from_str::<RoleVersions>(old).unwrap(), v(1, 2, 3, 4));
    }

    #[test]
    fn time_does_not_go_back() {
        assert_eq!(check_time(5, None), Ok(()));
        assert_eq!(check_time(5, Some(5)), Ok(()));
        assert_eq!(check_time(4, Some(5)).unwrap_err().code(), PolicyCode::ClockWentBack);
    }
}
