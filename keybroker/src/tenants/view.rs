//! The ledger as one tenant is shown it: the statements about what is named after it. A filter, not secrecy: the public
//! route serves every statement to whoever can reach the broker.
//!
//! A name never passes from one tenant to another, so a statement of the past is seen by whom it was about.

use touchstone_cose::cbor::Value;
use touchstone_cose::key::VerifyingKey;
use touchstone_ledger::statement::{Kind, Statement, VerifiedStatement};
use touchstone_policies::{PolicySet, Tenants};
use touchstone_store::Store;

use crate::log::{self, LogError};
use crate::workload::decide::node_of;

/// Most entries looked through for one answer.
pub const MAX_LOOKED_AT: u64 = 4_096;

/// A part of a tenant's view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// What it sees, in order.
    pub entries: Vec<Seen>,
    /// Where to go on; the size of the ledger at its end.
    pub next: u64,
}

/// One statement that a tenant sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its place in the ledger.
    pub index: u64,
    /// The signed statement.
    pub statement: Vec<u8>,
    /// Kind, outcome and subject, in words.
    pub words: String,
}

/// Whether a tenant sees a statement.
#[must_use]
pub fn sees(tenants: &Tenants, tenant: &str, statement: &Statement) -> bool {
    if statement.kind == Kind::KeyChange {
        let members = statement.body.as_map().unwrap_or_default();
        // Body of a change of a key: 1 its name.
        let key = members.iter().find(|(label, _)| label.as_u64() == Some(1));
        let key = key.and_then(|(_, key)| key.as_text());
        return key.and_then(|key| tenants.of_key(key)) == Some(tenant);
    }
    // Only what is about a node has a node's name for a subject.
    let about_a_node = matches!(
        statement.kind,
        Kind::Enrolment
            | Kind::Attestation
            | Kind::Renewal
            | Kind::Revocation
            | Kind::KeyRelease
            | Kind::Reinstatement
            | Kind::FederatedAuthorization
            | Kind::WorkloadAuthorization
            | Kind::Delegation
            | Kind::Quarantine
            | Kind::Lift
            | Kind::Standing
            | Kind::SecurityEvent
    );
    // A workload is seen by whom its node is seen by.
    let subject = statement.subject.as_deref().filter(|_| about_a_node).map(node_of);
    subject.and_then(|subject| tenants.of_node_name(subject)) == Some(tenant)
}

/// What a tenant sees from entry `start` on. An entry that does not verify under `key` is nobody's.
///
/// # Errors
/// [`LogError`]
pub fn view(
    store: &dyn Store,
    policy: &PolicySet,
    (tenant, key): (&str, &VerifyingKey),
    start: u64,
    size: u64,
) -> Result<View, LogError> {
    let end = start.saturating_add(MAX_LOOKED_AT).min(size);
    let count = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
    let found = if count == 0 {
        Vec::new()
    } else {
        log::entries(store, start, count)?
    };
    let seen = (start..end).zip(found).filter_map(|(index, bytes)| {
        let statement = VerifiedStatement::parse(&bytes, key).ok()?.into_statement();
        let words = [statement.kind.as_str(), statement.outcome.as_str()].join(" ");
        sees(&policy.tenants, tenant, &statement).then(|| Seen {
            index,
            statement: bytes,
            words: format!("{words} {}", statement.subject.unwrap_or_default()),
        })
    });
    Ok(View {
        entries: seen.collect(),
        next: end.max(start.min(size)),
    })
}

/// The view as it is handed out: {0: where to go on, 1: [[index, statement, words] …]}.
#[must_use]
pub fn encode(view: &View) -> Vec<u8> {
    let entries = view.entries.iter().map(|seen| {
        Value::array([
            Value::Unsigned(seen.index),
            Value::bytes(seen.statement.as_slice()),
            Value::text(seen.words.as_str()),
        ])
    });
    touchstone_cose::cbor::encode(&Value::map([
        (0, Value::Unsigned(view.next)),
        (1, Value::array(entries)),
    ]))
}
