//! The publisher: says again and again that the published version is the newest, with the timestamp key and no other.
//!
//! It loads the whole repository, as everyone will, before it signs; it never names another snapshot than the published
//! one, and no timestamp outlives that snapshot. Whoever steals its key can do no more than that: hold a version that was
//! published once until its snapshot ends. Source: `docs/protocol.md`, policy; TUF 1.0.34, 4.6, 5.4.

use std::path::Path;

use serde::Serialize;
use tough::schema::Timestamp;

use crate::ceremony::Base;
use crate::ceremony::signing::{SPEC_VERSION, expires_at, signed_by};
use crate::error::{PolicyCode, PolicyError};
use crate::keys::{KeyDir, KeyRole};
use crate::layout::TargetKind;
use crate::publish::commit::{Commit, Placing};
use crate::repository::Repository;
use crate::settings::Settings;
use crate::tuf::expiry::time;
use crate::tuf::floors::RoleVersions;

/// What the publisher is held to.
#[derive(Debug, Clone, Default)]
pub struct PublisherOptions {
    /// The root it holds, of any version; without it the repository's own first root is taken.
    pub root: Option<Vec<u8>>,
    /// The versions it signed for last: it never signs for anything older.
    pub floors: Option<RoleVersions>,
}

/// A timestamp that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Renewed {
    /// The domain.
    pub domain: String,
    /// The versions of all roles: the floors for the next time.
    pub versions: RoleVersions,
    /// When it ends, Unix seconds.
    pub expires: i64,
    /// When the snapshot ends, Unix seconds: until then a new version must be published.
    pub snapshot_expires: i64,
    /// Seconds until the next one should be made.
    pub period: i64,
}

/// Makes a new timestamp for the published version, with the timestamp key of `keys`. `now` is Unix seconds.
///
/// # Errors
/// [`PolicyError`], and then the old timestamp stays: `policy-snapshot-expired` where a new version must be published,
/// `policy-rollback` where the repository is older than what was signed for, `policy-publish-busy` while a version is
/// being published, and everything that loading refuses.
pub fn renew_timestamp(
    repo: &Path,
    keys: &KeyDir,
    options: &PublisherOptions,
    now: i64,
) -> Result<Renewed, PolicyError> {
    let repository = Repository::open(repo)?;
    let base = Base::open(repository.path(), options.root.as_deref())?;
    let Some(published) = &base.published else {
        return Err(PolicyError::new(
            PolicyCode::NotPublished,
            "timestamp.json",
            "a published version",
            "none",
        ));
    };
    let last = &published.opened.versions;
    if let Some(floors) = &options.floors {
        last.not_below(floors)?;
    }
    let tuf = &published.opened.repository;
    let snapshot = &tuf.snapshot().signed;
    let end = snapshot.expires.as_second();
    if end <= now {
        let claim = format!("snapshot version {}", snapshot.version);
        let found = format!("an end at {}", time(end));
        let expected = format!("an end after {}", time(now));
        return Err(PolicyError::new(PolicyCode::SnapshotExpired, claim, expected, found));
    }
    let settings = published.files.get(&TargetKind::Settings);
    let settings = settings.ok_or_else(|| {
        PolicyError::new(
            PolicyCode::TargetRequired,
            "settings.toml",
            "in the signed list",
            "missing",
        )
    })?;
    let settings = Settings::parse(settings)?;
    let life = i64::try_from(settings.timers.timestamp_life_ms / 1000)
        .unwrap_or(i64::MAX)
        .max(1);
    let expires = now.saturating_add(life).min(end);
    let timestamp = Timestamp {
        // The very entry that is published: another snapshot is for those who publish.
        meta: tuf.timestamp().signed.meta.clone(),
        ..Timestamp::new(
            SPEC_VERSION.into(),
            base.next_version(&KeyRole::Timestamp)?,
            expires_at(expires, 0)?,
        )
    };
    let versions = RoleVersions {
        timestamp: timestamp.version.get(),
        ..last.clone()
    };
    let signers = base.signers(&KeyRole::Timestamp)?;
    let commit = Commit {
        targets: Vec::new(),
        metadata: Vec::new(),
        timestamp: signed_by(timestamp, &signers, keys, &KeyRole::Timestamp)?,
        placing: Placing::Files,
        floors: Some(last.clone()),
    };
    commit.run(repo, now)?;
    let period = settings
        .timers
        .publish_period_ms
        .map_or(life / 3, |ms| i64::try_from(ms / 1000).unwrap_or(i64::MAX));
    Ok(Renewed {
        domain: settings.domain,
        versions,
        expires,
        snapshot_expires: end,
        period: period.max(1),
    })
}

#[cfg(test)]
mod tests;
