//! Rollback protection: the versions of all roles, and the time, at which a policy was last accepted.
//!
//! The floors are kept by whoever accepts policy (the broker's shared store, a verifier's state file) and are given to
//! [`load`](crate::load::load), so that a replica with an empty disk cannot be rolled back either.
//! Source: TUF 1.0.34, 5.3.5, 5.4.3, 5.5.5; `docs/protocol.md`, policy.

use serde::{Deserialize, Serialize};

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::expiry::time;

/// The version of each role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
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
}

impl RoleVersions {
    /// The roles by name.
    pub const fn named(self) -> [(&'static str, u64); 4] {
        [
            ("root", self.root),
            ("targets", self.targets),
            ("snapshot", self.snapshot),
            ("timestamp", self.timestamp),
        ]
    }

    /// Checks that no role is older than `floors` has it.
    ///
    /// # Errors
    /// [`PolicyError`] with `policy-rollback` for every role that is.
    pub fn not_below(self, floors: RoleVersions) -> Result<(), PolicyError> {
        let problems = self
            .named()
            .into_iter()
            .zip(floors.named())
            .filter(|((_, found), (_, floor))| found < floor);
        let problem = |((role, found), (_, floor)): ((&str, u64), (&str, u64))| {
            Problem::new(
                PolicyCode::Rollback,
                role,
                format!("version {floor} or later"),
                format!("version {found}"),
            )
        };
        PolicyError::unless_empty(problems.map(problem).collect())
    }

    /// The higher version of each role: the floors after both were accepted.
    pub const fn raised_to(self, other: RoleVersions) -> RoleVersions {
        const fn max(a: u64, b: u64) -> u64 {
            if a > b { a } else { b }
        }
        RoleVersions {
            root: max(self.root, other.root),
            targets: max(self.targets, other.targets),
            snapshot: max(self.snapshot, other.snapshot),
            timestamp: max(self.timestamp, other.timestamp),
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

    const fn v(root: u64, targets: u64, snapshot: u64, timestamp: u64) -> RoleVersions {
        RoleVersions {
            root,
            targets,
            snapshot,
            timestamp,
        }
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
            let claims = match found.not_below(floors) {
                Ok(()) => Vec::new(),
                Err(e) => {
                    assert!(e.problems().iter().all(|p| p.code == PolicyCode::Rollback));
                    e.problems().iter().map(|p| p.claim.clone()).collect()
                }
            };
            assert_eq!(claims, *roles, "{found:?}");
        }
        assert_eq!(v(1, 6, 7, 8).raised_to(v(2, 5, 7, 9)), v(2, 6, 7, 9));
    }

    #[test]
    fn time_does_not_go_back() {
        assert_eq!(check_time(5, None), Ok(()));
        assert_eq!(check_time(5, Some(5)), Ok(()));
        assert_eq!(check_time(4, Some(5)).unwrap_err().code(), PolicyCode::ClockWentBack);
    }
}
