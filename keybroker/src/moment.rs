//! The moment of a request: the policy in force, the state of the domain, and that a proof counts once. The same for
//! everything that is asked for with an authorization and a proof ([`crate::presented`]).

use std::sync::Arc;

use touchstone_authorization::{DomainState, RevokedIds, StatusIndex, StatusLists};
use touchstone_policies::PolicySet;
use touchstone_store::Key;

use crate::app::App;
use crate::decision::SEMANTICS_ID;
use crate::hello::internal;
use crate::presented::{Setting, StatusSeen};
use crate::problem::{ReasonLine, Refusal, RefusalCode};
use crate::rows;

/// What the broker knows as a request comes.
pub(crate) struct Moment {
    /// Unix milliseconds.
    pub(crate) now_ms: u64,
    /// The policy in force.
    pub(crate) policy: Arc<PolicySet>,
    /// The status lists.
    pub(crate) lists: StatusLists,
    /// Generation of the domain.
    pub(crate) generation: u32,
    /// Epoch of the trust state.
    pub(crate) epoch: u64,
}

impl Moment {
    /// Now.
    ///
    /// # Errors
    /// Nothing is decided now.
    pub(crate) fn now(app: &App) -> Result<Self, Refusal> {
        let now_ms = app.clock.now_ms();
        let policy = app.live_policy(now_ms)?;
        if app.trust.is_stopped() {
            return Err(Refusal::new(RefusalCode::BrokerStopping, "the ledger has stopped"));
        }
        let lists = app.trust.lists();
        Ok(Self {
            now_ms,
            policy,
            lists,
            generation: app.trust.generation(),
            epoch: app.trust.epoch(),
        })
    }

    /// What is recorded of it, for who presents an authorization under this entry on a connection with this exporter.
    pub(crate) fn setting(&self, entry: &StatusIndex, exporter: [u8; 32]) -> Setting {
        Setting {
            semantics: SEMANTICS_ID.to_owned(),
            policy_digest: self.policy.digest,
            now_ms: self.now_ms,
            generation: self.generation,
            epoch: self.epoch,
            status: StatusSeen::of(&self.lists, entry),
            exporter,
        }
    }

    /// The state of the domain.
    pub(crate) fn state(&self) -> DomainState<'_> {
        DomainState {
            generation: self.generation,
            epoch: self.epoch,
            policy_version: self.policy.version,
            lists: &self.lists,
            revoked: RevokedIds::none(),
        }
    }
}

/// The row of a nonce that nobody has used: a proof counts once, also on the connection it was made for.
///
/// # Errors
/// `refused` by this code, where it was used.
pub(crate) fn unused(app: &App, nonce: &[u8; 32], refused: RefusalCode) -> Result<Key, Refusal> {
    let row = rows::NONCE.key(nonce).map_err(internal)?;
    if app.store.get(&row).map_err(internal)?.is_none() {
        return Ok(row);
    }
    let replayed = touchstone_authorization::Refusal::new(
        touchstone_authorization::RefusalCode::ProofReplayed,
        "a proof never seen",
        "one used before",
    );
    Err(not_authenticated(refused, &[replayed]))
}

/// It is not known who asks, so nothing is decided and nothing is told of anything.
pub(crate) fn not_authenticated(code: RefusalCode, refusals: &[touchstone_authorization::Refusal]) -> Refusal {
    let lines = refusals.iter().map(|refusal| ReasonLine {
        code: refusal.code.as_str().into(),
        claim: "request".into(),
        expected: refusal.expected.clone(),
        found: refusal.found.clone(),
    });
    Refusal::new(code, "it is not known who asks").with_reasons(lines.collect())
}
