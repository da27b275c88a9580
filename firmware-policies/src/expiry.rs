//! The one expiry function, for live use, offline verification and replay alike, over the time that is *given*.
//!
//! `tough` reads the system clock, so its own enforcement is switched off here, in [`loader`], and nowhere else (a lint
//! forbids it). TUF metadata has an end and no beginning: a time before the repository was made is accepted.
//! Source: TUF 1.0.34, 5.3.10, 5.4.4, 5.5.6, 5.6.5 (the end must be later than the time of the update).

use tough::schema::{Role, Signed};
use tough::{ExpirationEnforcement, Limits, Repository, RepositoryLoader};
use url::Url;

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::files::MAX_METADATA_LEN;

/// Largest root, snapshot or timestamp file.
pub const MAX_ROLE_LEN: u64 = 1 << 20;
/// Most root rotations followed from the first root.
pub const MAX_ROOT_UPDATES: u64 = 1024;

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

/// Judges all four roles at `now` (Unix seconds). Returns when the first of them expires.
///
/// # Errors
/// [`PolicyError`] with one problem a role that has expired: `policy-<role>-expired`.
pub(crate) fn check(repository: &Repository, now: i64) -> Result<i64, PolicyError> {
    let ends = [
        end(repository.root(), PolicyCode::RootExpired, "root"),
        end(repository.targets(), PolicyCode::TargetsExpired, "targets"),
        end(repository.snapshot(), PolicyCode::SnapshotExpired, "snapshot"),
        end(repository.timestamp(), PolicyCode::TimestampExpired, "timestamp"),
    ];
    PolicyError::unless_empty(ends.iter().filter_map(|end| end.problem(now)).collect())?;
    Ok(ends.iter().map(|end| end.expires).min().unwrap_or(i64::MIN))
}

struct End {
    code: PolicyCode,
    role: &'static str,
    version: u64,
    expires: i64,
}

impl End {
    /// Expired at its end, not only after it.
    fn problem(&self, now: i64) -> Option<Problem> {
        (now >= self.expires).then(|| {
            let claim = format!("{} version {}", self.role, self.version);
            let found = format!("an end at {}", time(self.expires));
            Problem::new(self.code, claim, format!("an end after {}", time(now)), found)
        })
    }
}

fn end<R: Role>(signed: &Signed<R>, code: PolicyCode, role: &'static str) -> End {
    End {
        code,
        role,
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
        let end = End {
            code: PolicyCode::TimestampExpired,
            role: "timestamp",
            version: 7,
            expires: 1_000,
        };
        assert_eq!(end.problem(999), None);
        assert_eq!(end.problem(i64::MIN), None);
        let problem = end.problem(1_000).unwrap();
        assert_eq!(problem.code, PolicyCode::TimestampExpired);
        assert_eq!(problem.claim, "timestamp version 7");
        assert_eq!(problem.expected, "an end after 1970-01-01T00:16:40Z");
        assert_eq!(time(i64::MAX), i64::MAX.to_string());
    }
}
