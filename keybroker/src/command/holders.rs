//! Who was given a key: read from the ledger, back to when the version was made.

use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::{Kind, Outcome, VerifiedStatement};
use touchstone_policies::Job;

use crate::app::App;
use crate::hello::internal;
use crate::log;
use crate::problem::Refusal;
use crate::release::key::KeyVersion;

/// Everybody who was given this version of the key, by name, sorted.
///
/// # Errors
/// The store, or a statement that cannot be read: who holds the key cannot be told then.
pub fn holders(app: &App, key: &str, version: &KeyVersion) -> Result<Vec<String>, Refusal> {
    let policy = app.policy();
    let keys = policy.keyset.keys.iter().filter(|entry| entry.job == Job::Statement);
    let keys: Vec<_> = keys.map(|entry| &entry.key).collect();
    let mut holders = Vec::new();
    for index in (0..app.head().size).rev() {
        let Some(bytes) = log::entry(&*app.store, index).map_err(internal)? else {
            continue;
        };
        let read = keys.iter().find_map(|key| VerifiedStatement::parse(&bytes, key).ok());
        let read = read.ok_or_else(|| internal(format!("entry {index} of the ledger cannot be read")))?;
        let statement = read.into_statement();
        if statement.time < version.created {
            break;
        }
        let member = |number: i64| statement.body.get(number);
        let is_given = statement.kind == Kind::KeyRelease
            && statement.outcome == Outcome::Allow
            && member(0).and_then(Value::as_text) == Some(key)
            && member(1).and_then(Value::as_u64) == Some(version.number);
        if is_given {
            holders.extend(statement.subject);
        }
    }
    holders.sort_unstable();
    holders.dedup();
    Ok(holders)
}
