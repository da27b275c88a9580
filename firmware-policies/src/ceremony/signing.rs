//! Signing the roles that are made when a version is published: the snapshot and the timestamp.

use std::num::NonZeroU64;

use tough::schema::{Role, Root};

use crate::ceremony::RoleSigners;
use crate::error::{PolicyCode, PolicyError};
use crate::keys::{KeyDir, KeyRole, RoleKey};

/// The TUF version that is written.
pub const SPEC_VERSION: &str = "1.0.0";
/// Life of a root, seconds.
pub const ROOT_LIFE: i64 = 365 * 86_400;
/// Life of the targets, seconds.
pub const TARGETS_LIFE: i64 = 365 * 86_400;
/// A root that ends within this time, seconds, is renewed when its keys are at hand.
pub const ROOT_RENEWED_BEFORE: i64 = 60 * 86_400;

/// The role's file, signed by those keys of the folder that `signers` lists; at least as many as it asks for.
pub(crate) fn signed_by<R: Role>(
    role: R,
    signers: &RoleSigners,
    keys: &KeyDir,
    by: &KeyRole,
) -> Result<Vec<u8>, PolicyError> {
    let (listed, others) = split(keys.keys(by)?, signers)?;
    if listed.is_empty() {
        let expected = format!("{} of the root's keys for this role", signers.threshold);
        return Err(PolicyError::new(
            PolicyCode::KeyNotInRoot,
            by,
            expected,
            format!("{others} other keys"),
        ));
    }
    if (listed.len() as u64) < signers.threshold {
        let claim = format!("{by} version {}", role.version());
        let expected = format!("signatures by {} of its {} keys", signers.threshold, signers.keys.len());
        return Err(PolicyError::new(
            PolicyCode::ThresholdNotMet,
            claim,
            expected,
            listed.len(),
        ));
    }
    sign_role(role, &listed)
}

fn split(keys: Vec<RoleKey>, signers: &RoleSigners) -> Result<(Vec<RoleKey>, usize), PolicyError> {
    let all = keys.len();
    let mut listed = Vec::with_capacity(all);
    for key in keys {
        if signers.keys.contains_key(&key.key_id()?) {
            listed.push(key);
        }
    }
    let others = all - listed.len();
    Ok((listed, others))
}

/// The bytes of a role's file, signed with every key given (canonical JSON, TUF 1.0.34, 4.2).
pub(crate) fn sign_role<R: Role>(role: R, keys: &[RoleKey]) -> Result<Vec<u8>, PolicyError> {
    let failed = |e: &dyn std::fmt::Display| PolicyError::new(PolicyCode::KeyFileInvalid, R::TYPE, "a signature", e);
    let message = role.canonical_form().map_err(|e| failed(&e))?;
    let signatures = keys.iter().map(|key| key.sign(&message)).collect::<Result<_, _>>()?;
    crate::ceremony::to_json(&role, signatures).map_err(|e| failed(&e))
}

/// Whether a root ends so soon that the next version renews it where its keys are at hand.
pub(crate) fn ends_soon(root: &Root, now: i64) -> bool {
    root.expires.as_second().saturating_sub(now) <= ROOT_RENEWED_BEFORE
}

/// `life` seconds after `now`.
pub(crate) fn expires_at(now: i64, life: i64) -> Result<jiff::Timestamp, PolicyError> {
    let end = jiff::Timestamp::from_second(now.saturating_add(life));
    end.map_err(|e| {
        PolicyError::new(
            PolicyCode::ClockWentBack,
            "the time given",
            "a time before the year 9999",
            e,
        )
    })
}

pub(crate) fn next(version: u64) -> Result<NonZeroU64, PolicyError> {
    let next = version.checked_add(1).and_then(NonZeroU64::new);
    next.ok_or_else(|| PolicyError::new(PolicyCode::Rollback, "version", "a version after it", version))
}
