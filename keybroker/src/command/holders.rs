//! Who was given a key: read from the ledger, back to when the version was made.

use std::ops::Range;

use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::{Kind, Outcome, VerifiedStatement};
use touchstone_policies::Job;

use crate::app::App;
use crate::hello::internal;
use crate::log;
use crate::problem::Refusal;

/// Who was given a version of a key.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// The names, sorted, none twice.
    pub names: Vec<String>,
    /// Entries that cannot be read, as those of a statement key that has left the keyset: who is named there is not known.
    pub unread: u64,
}

/// Everybody whom these entries of the ledger say to have been given this version of the key. Read backwards, as far as
/// the statement that the version was made.
///
/// # Errors
/// The store.
pub fn holders(app: &App, key: &str, version: u64, entries: Range<u64>) -> Result<Holders, Refusal> {
    let policy = app.policy();
    let own = app.keys.statement.verifying_key();
    let keys = policy.keyset.keys.iter().filter(|entry| entry.job == Job::Statement);
    let keys: Vec<_> = std::iter::once(&own).chain(keys.map(|entry| &entry.key)).collect();
    let mut found = Holders::default();
    for index in entries.rev() {
        let bytes = log::entry(&*app.store, index).map_err(internal)?;
        let read = bytes.and_then(|bytes| keys.iter().find_map(|key| VerifiedStatement::parse(&bytes, key).ok()));
        // Who else was given it is told all the same.
        let Some(read) = read else {
            found.unread += 1;
            continue;
        };
        let statement = read.into_statement();
        let says = |name: i64, number: i64| {
            statement.body.get(name).and_then(Value::as_text) == Some(key)
                && statement.body.get(number).and_then(Value::as_u64) == Some(version)
        };
        match (statement.kind, statement.outcome) {
            (Kind::KeyRelease, Outcome::Allow) if says(0, 1) => found.names.extend(statement.subject),
            // Nobody was given it before. The time would not say so: a clock may have been set back since.
            (Kind::KeyChange, _) if says(1, 2) => break,
            _ => {}
        }
    }
    found.names.sort_unstable();
    found.names.dedup();
    Ok(found)
}
