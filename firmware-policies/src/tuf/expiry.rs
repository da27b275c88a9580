//! The one expiry function, for live use, offline verification and replay alike, over the time that is *given*.
//!
//! `tough` reads the system clock, so its own enforcement is switched off here, in [`loader`], and nowhere else (a lint
//! forbids it). TUF metadata has an end and no beginning: a time before the repository was made is accepted.
//!
//! How long snapshot and timestamp live is what their own keys say, and what a thief of both would say is for ever. The
//! settings, which the targets' keys signed, say how long they may: none ends later than that after the time at which it
//! can have been made at the latest. Source: TUF 1.0.34, 5.3.10, 5.4.4, 5.5.6, 5.6.5 (the end must be later than the time
//! of the update); `docs/protocol.md`, policy.

use tough::schema::{Role, Signed};
use tough::{ExpirationEnforcement, Limits, Repository, RepositoryLoader};
use url::Url;

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::settings::timers::Timers;
use crate::transport::bounded::{MAX_METADATA_LEN, MAX_ROLE_LEN, MAX_ROOT_UPDATES};
use crate::tuf::delegation::{SignedRegion, role_name};

/// A loader that leaves expiry to [`check`]. Whoever uses what it loads must call [`check`] first.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where tough's own expiry check, which reads the clock, is off"
)]
pub(crate) fn loader<'a>(root: &'a impl AsRef<[u8]>, metadata: Url, targets: Url) -> RepositoryLoader<'a> {
    let limits = Limits {
        max_root_size: MAX_ROLE_LEN,
        max_timestamp_size: MAX_ROLE_LEN,
        max_snapshot_size: MAX_ROLE_LEN,
        max_targets_size: MAX_METADATA_LEN,
        max_root_updates: MAX_ROOT_UPDATES,
    };
    RepositoryLoader::new(root, metadata, targets)
        .limits(limits)
        .expiration_enforcement(ExpirationEnforcement::Unsafe)
}

/// When one role of the repository ends.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RoleEnd {
    /// Its file.
    pub file: String,
    /// Its name: `root`, `targets`, `snapshot`, `timestamp` or `region-<id>`.
    pub role: String,
    /// Its version.
    pub version: u64,
    /// From this second on, Unix seconds, it does not count.
    pub expires: i64,
}

impl RoleEnd {
    fn claim(&self) -> String {
        format!("{} ({}, version {})", self.file, self.role, self.version)
    }

    /// A role that is made again and again lives no longer than the settings say.
    fn too_long(&self, timers: &Timers, made_by: i64) -> Option<Problem> {
        let (code, name, life) = match self.role.as_str() {
            "snapshot" => (PolicyCode::SnapshotLife, "snapshot_life_ms", timers.snapshot_life_ms),
            "timestamp" => (PolicyCode::TimestampLife, "timestamp_life_ms", timers.timestamp_life_ms),
            _ => return None,
        };
        let seconds = |ms: u64| i64::try_from(ms.div_ceil(1_000)).unwrap_or(i64::MAX);
        let latest = made_by
            .saturating_add(seconds(life))
            .saturating_add(seconds(timers.skew_ms));
        (self.expires > latest).then(|| {
            let rule = format!(
                "timers.{name} = {life} and skew_ms = {} after {}",
                timers.skew_ms,
                time(made_by)
            );
            let (expected, found) = (time(latest), time(self.expires));
            Problem::new(
                code,
                self.claim(),
                format!("an end by {expected}: {rule}"),
                format!("an end at {found}"),
            )
        })
    }

    /// Expired at its end, not only after it.
    fn problem(&self, now: i64) -> Option<Problem> {
        let code = match self.role.as_str() {
            "root" => PolicyCode::RootExpired,
            "targets" => PolicyCode::TargetsExpired,
            "snapshot" => PolicyCode::SnapshotExpired,
            "timestamp" => PolicyCode::TimestampExpired,
            _ => PolicyCode::RegionExpired,
        };
        (now >= self.expires).then(|| {
            let claim = self.claim();
            let found = format!("an end at {}", time(self.expires));
            Problem::new(code, claim, format!("an end after {}", time(now)), found)
        })
    }
}

/// When each of the four roles that hold for the whole domain ends.
pub(crate) fn ends(repository: &Repository) -> Vec<RoleEnd> {
    vec![
        end(repository.root(), "root"),
        end(repository.targets(), "targets"),
        end(repository.snapshot(), "snapshot"),
        end(repository.timestamp(), "timestamp"),
    ]
}

/// Judges these roles at `now` (Unix seconds).
///
/// # Errors
/// [`PolicyError`] with one problem a role that has expired: `policy-<role>-expired`.
pub(crate) fn check(ends: &[RoleEnd], now: i64) -> Result<(), PolicyError> {
    PolicyError::unless_empty(ends.iter().filter_map(|end| end.problem(now)).collect())
}

/// Judges how long snapshot and timestamp say that they live. Nothing of it was signed after `made_by`, Unix seconds, but
/// for the skew bound.
///
/// # Errors
/// [`PolicyError`] with `policy-snapshot-life`, `policy-timestamp-life` or both.
pub(crate) fn check_lives(ends: &[RoleEnd], timers: &Timers, made_by: i64) -> Result<(), PolicyError> {
    PolicyError::unless_empty(ends.iter().filter_map(|end| end.too_long(timers, made_by)).collect())
}

/// When the first of these roles ends.
pub(crate) fn first(ends: &[RoleEnd]) -> i64 {
    ends.iter().map(|end| end.expires).min().unwrap_or(i64::MIN)
}

/// Judges a region's own role. Its end stops the region and nobody else: no region can stop the domain.
///
/// # Errors
/// [`PolicyError`] with `policy-region-expired`.
pub(crate) fn check_region(region: &str, signed: &SignedRegion, now: i64) -> Result<(), PolicyError> {
    let role = role_name(region);
    let end = RoleEnd {
        file: format!("{}.{role}.json", signed.version),
        role,
        version: signed.version,
        expires: signed.expires,
    };
    check(&[end], now)
}

fn end<R: Role>(signed: &Signed<R>, role: &str) -> RoleEnd {
    RoleEnd {
        file: signed.signed.filename(true),
        role: role.to_owned(),
        version: signed.signed.version().get(),
        expires: signed.signed.expires().as_second(),
    }
}

/// Unix seconds as RFC 3339, or as a number where no calendar reaches.
pub(crate) fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_ends_at_its_end() {
        let end = RoleEnd {
            file: "timestamp.json".into(),
            role: "timestamp".into(),
            version: 7,
            expires: 1_000,
        };
        assert_eq!(end.problem(999), None);
        assert_eq!(end.problem(i64::MIN), None);
        let problem = end.problem(1_000).unwrap();
        assert_eq!(problem.code, PolicyCode::TimestampExpired);
        assert_eq!(problem.claim, "timestamp.json (timestamp, version 7)");
        assert_eq!(problem.expected, "an end after 1970-01-01T00:16:40Z");
        assert_eq!(time(i64::MAX), i64::MAX.to_string());
    }

    #[test]
    fn a_role_that_is_made_again_and_again_lives_as_long_as_the_settings_say() {
        let timers = Timers {
            skew_ms: 1_500,
            timestamp_life_ms: 600_000,
            snapshot_life_ms: 3_600_001,
            ..Timers::default()
        };
        let end = |role: &str, expires| RoleEnd {
            file: format!("{role}.json"),
            role: role.into(),
            version: 7,
            expires,
        };
        for (role, last, code) in [
            ("timestamp", Some(1_602), Some(PolicyCode::TimestampLife)),
            ("snapshot", Some(4_603), Some(PolicyCode::SnapshotLife)),
            ("targets", None, None),
            ("root", None, None),
        ] {
            let judge = |expires| check_lives(&[end(role, expires)], &timers, 1_000);
            assert_eq!(judge(last.unwrap_or(i64::MAX)), Ok(()), "{role}");
            let after = last.and_then(|last| judge(last + 1).err());
            assert_eq!(after.map(|e| e.code()), code, "{role}");
        }
        let error = check_lives(&[end("timestamp", i64::MAX)], &timers, 1_000).unwrap_err();
        assert_eq!(error.problems()[0].claim, "timestamp.json (timestamp, version 7)");
        assert_eq!(
            error.problems()[0].expected,
            "an end by 1970-01-01T00:26:42Z: timers.timestamp_life_ms = 600000 and skew_ms = 1500 after 1970-01-01T00:16:40Z"
        );
    }

    #[test]
    fn a_region_ends_at_its_own_end() {
        let region = SignedRegion {
            version: 3,
            digest: [0; 32],
            expires: 1_000,
            threshold: 1,
            keys: Vec::new(),
        };
        assert_eq!(check_region("eu", &region, 999), Ok(()));
        let error = check_region("eu", &region, 1_000).unwrap_err();
        assert_eq!(error.code(), PolicyCode::RegionExpired);
        assert_eq!(error.problems()[0].claim, "3.region-eu.json (region-eu, version 3)");
    }
}
