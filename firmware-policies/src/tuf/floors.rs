//! Rollback protection: the versions of all roles, and the time, at which a policy was last accepted.
//!
//! The floors are kept by whoever accepts policy (the broker's shared store, a verifier's state file) and are given to
//! [`load`](crate::load::load), so that a replica with an empty disk cannot be rolled back either.
//!
//! Snapshot and timestamp are signed by keys that are at hand where versions are made, so they are the ones that are
//! stolen, and a thief who signed a version beyond reason would have stopped the domain for good. Where a root takes keys
//! of such a role out, what was accepted under the roots before it is therefore no floor of that role any more. The
//! specification forgets both roles when either lost a key, because its clients keep a timestamp before they have seen the
//! snapshot that it names. Here nothing is kept before the whole was verified, so a thief of the timestamp's keys cannot
//! raise the snapshot's floor, and each role's floor goes with keys of its own only. The floors of root, targets and
//! regions stay in any case: what a policy says never goes back.
//! Source: TUF 1.0.34, 5.3.5, 5.3.11, 5.4.3, 5.5.5; `docs/protocol.md`, policy.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tough::schema::{RoleType, Root};

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::tuf::delegation::role_name;
use crate::tuf::expiry::time;

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
    /// Since which roots the versions of snapshot and timestamp count.
    #[serde(default, skip_serializing_if = "KeysSince::is_first")]
    pub keys_since: KeysSince,
}

/// For each role that can begin anew the version of the root that last took keys of it out, of the roots that were
/// followed; 0 where none did. Versions accepted under an earlier root are no floor of that role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysSince {
    /// Of the snapshot.
    pub snapshot: u64,
    /// Of the timestamp.
    pub timestamp: u64,
}

impl KeysSince {
    /// Whether no root has taken keys out.
    pub fn is_first(&self) -> bool {
        *self == Self::default()
    }

    /// Of `newest` and the roots before it, the latest first, as far as they are known. Only roots that follow from a
    /// trusted one may be given.
    pub(crate) fn of(newest: &Root, before: impl IntoIterator<Item = Root>) -> Self {
        let mut since = Self::default();
        for root in before {
            let next = root.version.get().saturating_add(1);
            for (role, known) in [
                (RoleType::Snapshot, &mut since.snapshot),
                (RoleType::Timestamp, &mut since.timestamp),
            ] {
                if *known == 0 && takes_out(newest, &root, role) {
                    *known = next;
                }
            }
        }
        since
    }

    /// After `next` has followed `last`.
    pub(crate) fn followed(self, last: &Root, next: &Root) -> Self {
        let since = |before, role| {
            if takes_out(next, last, role) {
                next.version.get()
            } else {
                before
            }
        };
        Self {
            snapshot: since(self.snapshot, RoleType::Snapshot),
            timestamp: since(self.timestamp, RoleType::Timestamp),
        }
    }
}

/// Whether `later` lacks a key of the role that `earlier` lists. A key that comes in, or another threshold, takes nothing
/// from whoever holds the keys that were there.
pub(crate) fn takes_out(later: &Root, earlier: &Root, role: RoleType) -> bool {
    let lists = |root: &Root, id| root.roles.get(&role).is_some_and(|keys| keys.keyids.contains(id));
    let earlier = earlier.roles.get(&role);
    earlier.is_some_and(|keys| keys.keyids.iter().any(|id| !lists(later, id)))
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
    /// that is what a newer targets role says, which is never older. Nor is a role whose keys the root has taken out since.
    ///
    /// # Errors
    /// [`PolicyError`] with `policy-rollback` for every role that is.
    pub fn not_below(&self, floors: &RoleVersions) -> Result<(), PolicyError> {
        let last_root = floors.root;
        let mut floors: BTreeMap<String, u64> = floors.named().into_iter().collect();
        for (role, since) in [
            ("snapshot", self.keys_since.snapshot),
            ("timestamp", self.keys_since.timestamp),
        ] {
            if since > last_root {
                floors.remove(role);
            }
        }
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

    /// The higher version of each role: the floors after both were accepted. Where keys of snapshot or timestamp were taken
    /// out between the two, the later one's version.
    #[must_use]
    pub fn raised_to(&self, other: &RoleVersions) -> RoleVersions {
        let mut regions = self.regions.clone();
        for (region, version) in &other.regions {
            let floor = regions.entry(region.clone()).or_default();
            *floor = (*floor).max(*version);
        }
        let later = |own: (u64, u64), others: (u64, u64)| {
            let ((own_since, own), (others_since, others)) = (own, others);
            if others_since > self.root {
                others
            } else if own_since > other.root {
                own
            } else {
                own.max(others)
            }
        };
        let (own, others) = (self.keys_since, other.keys_since);
        RoleVersions {
            root: self.root.max(other.root),
            targets: self.targets.max(other.targets),
            snapshot: later((own.snapshot, self.snapshot), (others.snapshot, other.snapshot)),
            timestamp: later((own.timestamp, self.timestamp), (others.timestamp, other.timestamp)),
            regions,
            keys_since: KeysSince {
                snapshot: own.snapshot.max(others.snapshot),
                timestamp: own.timestamp.max(others.timestamp),
            },
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
            ..RoleVersions::default()
        }
    }

    fn since(versions: RoleVersions, snapshot: u64, timestamp: u64) -> RoleVersions {
        RoleVersions {
            keys_since: KeysSince { snapshot, timestamp },
            ..versions
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
    fn a_floor_goes_with_the_keys_it_was_accepted_under_and_no_other_does() {
        const BEYOND: u64 = u64::MAX;
        let stolen = with(v(3, 5, BEYOND, BEYOND), &[("eu", 4)]);
        let refused = |found: &RoleVersions, floors: &RoleVersions| match found.not_below(floors) {
            Ok(()) => Vec::new(),
            Err(e) => e.problems().iter().map(|p| role_of(&p.claim)).collect(),
        };
        let rows: &[(RoleVersions, &[&str])] = &[
            (since(v(4, 5, 8, 10), 4, 4), &[]),
            (since(v(9, 5, 8, 10), 4, 4), &[]),
            // Keys of one role say nothing of the other.
            (since(v(4, 5, 8, 10), 0, 4), &["snapshot"]),
            (since(v(4, 5, 8, 10), 4, 0), &["timestamp"]),
            // Keys taken out under, or before, the root of the floors: they were accepted under the keys that count.
            (since(v(4, 5, 8, 10), 3, 2), &["snapshot", "timestamp"]),
            // What a policy says does not go back with them.
            (since(v(4, 4, 8, 10), 4, 4), &["targets"]),
            (with(since(v(4, 5, 8, 10), 4, 4), &[("eu", 3)]), &["region-eu"]),
        ];
        for (found, roles) in rows {
            assert_eq!(refused(found, &stolen), *roles, "{found:?}");
        }
        // Accepted, they are the floors, in whichever order both are joined, and from there on nothing goes back.
        let anew = since(v(4, 5, 8, 10), 4, 4);
        let floors = stolen.raised_to(&anew);
        assert_eq!(floors, with(anew.clone(), &[("eu", 4)]));
        assert_eq!(anew.raised_to(&stolen), floors);
        assert_eq!(refused(&since(v(4, 5, 8, 9), 4, 4), &floors), ["timestamp"]);
        assert_eq!(refused(&since(v(5, 5, 7, 10), 4, 4), &floors), ["snapshot"]);
        // Whoever begins with a later root knows of no rotation, and keeps what is known.
        let later = floors.raised_to(&v(5, 6, 9, 11));
        assert_eq!(later, with(since(v(5, 6, 9, 11), 4, 4), &[("eu", 4)]));
        let json = serde_json::to_string(&later).unwrap();
        assert_eq!(serde_json::from_str::<RoleVersions>(&json).unwrap(), later);
        assert!(!serde_json::to_string(&v(1, 1, 1, 1)).unwrap().contains("since"));
    }

    #[test]
    fn time_does_not_go_back() {
        assert_eq!(check_time(5, None), Ok(()));
        assert_eq!(check_time(5, Some(5)), Ok(()));
        assert_eq!(check_time(4, Some(5)).unwrap_err().code(), PolicyCode::ClockWentBack);
    }
}
