//! Signing TUF roles with the keys of a folder, and renewing the root before it ends.

use std::num::NonZeroU64;

use touchstone_cose::key::Signer;
use tough::schema::{Role, RoleType, Root, Signature, Signed};

use crate::error::{PolicyCode, PolicyError};
use crate::expiry::time;
use crate::keys::{KeyDir, KeyRole, RoleKey};

/// The TUF version that is written.
pub const SPEC_VERSION: &str = "1.0.0";
/// Life of a root, seconds.
pub const ROOT_LIFE: i64 = 365 * 86_400;
/// Life of the targets, seconds.
pub const TARGETS_LIFE: i64 = 365 * 86_400;
/// A root that ends within this time, seconds, is renewed when its keys are at hand.
pub const ROOT_RENEWED_BEFORE: i64 = 60 * 86_400;

/// The root, made anew with the same keys where it ends soon and enough root keys are at hand.
pub(crate) fn renewed(
    root: Signed<Root>,
    keys: &KeyDir,
    now: i64,
) -> Result<(Signed<Root>, Option<Vec<u8>>), PolicyError> {
    let end = root.signed.expires.as_second();
    if end.saturating_sub(now) > ROOT_RENEWED_BEFORE {
        return Ok((root, None));
    }
    let mut next_root = root.signed.clone();
    next_root.version = next(next_root.version.get())?;
    next_root.expires = expires_at(now, ROOT_LIFE)?;
    match signed_by(&root, next_root, keys, KeyRole::Root) {
        Ok(bytes) => {
            let parsed = crate::tuf::parse_root(&bytes);
            let parsed = parsed.map_err(|e| PolicyError::new(PolicyCode::RootInvalid, "root", "a root", e))?;
            Ok((parsed, Some(bytes)))
        }
        Err(_) if end > now => Ok((root, None)),
        Err(_) => {
            let found = format!("an end at {}, and no root keys to renew it", time(end));
            Err(PolicyError::new(
                PolicyCode::RootExpired,
                "root",
                format!("an end after {}", time(now)),
                found,
            ))
        }
    }
}

/// The role's file, signed by those keys of the folder that the root lists for it; as many as the root asks for.
pub(crate) fn signed_by<R: Role + Clone>(
    root: &Signed<Root>,
    role: R,
    keys: &KeyDir,
    by: KeyRole,
) -> Result<Vec<u8>, PolicyError> {
    let listed: Vec<RoleKey> = keys
        .keys(by)?
        .into_iter()
        .filter(|key| is_listed(root, R::TYPE, key))
        .collect();
    let threshold = root.signed.roles.get(&R::TYPE).map_or(u64::MAX, |r| r.threshold.get());
    if (listed.len() as u64) < threshold {
        let expected = format!("{threshold} keys of the root for this role");
        return Err(PolicyError::new(PolicyCode::KeyNotInRoot, by, expected, listed.len()));
    }
    sign_role(role, &listed)
}

fn is_listed(root: &Signed<Root>, role: RoleType, key: &RoleKey) -> bool {
    let key = key.tuf_key();
    root.signed.keys(role).any(|k| *k == key)
}

/// The bytes of a role's file, signed with every key given (canonical JSON, TUF 1.0.34, 4.2).
pub(crate) fn sign_role<R: Role>(role: R, keys: &[RoleKey]) -> Result<Vec<u8>, PolicyError> {
    let failed = |e: &dyn std::fmt::Display| PolicyError::new(PolicyCode::KeyFileInvalid, R::TYPE, "a signature", e);
    let message = role.canonical_form().map_err(|e| failed(&e))?;
    let mut signatures = Vec::with_capacity(keys.len());
    for key in keys {
        signatures.push(Signature {
            keyid: key.tuf_key().key_id().map_err(|e| failed(&e))?,
            sig: key.key.sign(&message).map_err(|e| failed(&e))?.into(),
        });
    }
    let mut bytes = serde_json::to_vec_pretty(&Signed {
        signed: role,
        signatures,
    })
    .map_err(|e| failed(&e))?;
    bytes.push(b'\n');
    Ok(bytes)
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
