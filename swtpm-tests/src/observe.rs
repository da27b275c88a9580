//! What is seen of a domain from outside and inside: answers, rights, guards.
#![expect(
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use touchstone_authorization::{Allowed, RefusalCode, Status, StatusIndex, TrustView, VerifiedAuthorization};
use touchstone_cose::receipt::VerifiedReceipt;
use touchstone_enforcer::guard::Guard;
use touchstone_keybroker::log;
use touchstone_keybroker::node::NodeRecord;
use touchstone_keybroker::nodes;
use touchstone_keybroker::service::RunningBroker;
use touchstone_ledger::statement::{Kind, Statement, VerifiedStatement};
use touchstone_verifier::ear::Ear;

/// What nodes ask guards for.
pub const ACTION: &str = "execute";
/// See [`ACTION`].
pub const RESOURCE: &str = "workloads";
/// How long a condition is waited for before the test fails: for a machine far slower than any that is in use.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Everything in an answer, checked.
#[derive(Debug)]
pub struct Checked {
    /// The statement.
    pub statement: Statement,
    /// Digest of its payload.
    pub digest: [u8; 32],
    /// Where it stands in the ledger.
    pub receipt: VerifiedReceipt,
    /// The attestation result.
    pub ear: Ear,
    /// The authorization, where allowed.
    pub authorization: Option<VerifiedAuthorization>,
    /// The trust state that came with it.
    pub view: TrustView,
}

/// What of a node and of the domain an attack may change, or must not.
#[derive(Clone, PartialEq, Eq)]
pub struct Rights {
    /// The trust state's epoch.
    pub epoch: u64,
    /// Statements in the ledger, but for those of what was refused.
    pub entries: u64,
    /// What the broker keeps of the node.
    pub record: Option<NodeRecord>,
    /// The status of its authorization.
    pub status: Option<Status>,
}

impl std::fmt::Debug for Rights {
    /// Short: what differs is to be seen at a glance.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let record = self
            .record
            .as_ref()
            .map(|record| (record.withdrawn, record.status, record.granted.cti));
        write!(
            f,
            "epoch {} entries {} {record:?} {:?}",
            self.epoch, self.entries, self.status
        )
    }
}

/// The node's rights as the broker sees them now.
///
/// # Panics
/// When its store cannot be read.
#[must_use]
pub fn rights(broker: &RunningBroker, node: &str) -> Rights {
    let app = broker.app();
    let record = nodes::by_name(&*app.store, node)
        .expect("a readable store")
        .map(|(record, _)| record);
    let status = record.as_ref().and_then(|record| status(broker, record.status));
    Rights {
        epoch: app.trust.epoch(),
        entries: decided(broker),
        record,
        status,
    }
}

/// How many statements are on record, but for those of what was refused, which the broker records by itself once a minute.
///
/// # Panics
/// When the ledger cannot be read.
#[must_use]
pub fn decided(broker: &RunningBroker) -> u64 {
    let app = broker.app();
    let key = app.keys.statement.verifying_key();
    let is_decided = |index: &u64| {
        let entry = log::entry(&*app.store, *index).expect("a ledger").expect("an entry");
        let statement = VerifiedStatement::parse(&entry, &key).expect("a statement of the broker's own");
        statement.into_statement().kind != Kind::RefusalSummary
    };
    let count = (0..app.head().size).filter(is_decided).count();
    u64::try_from(count).expect("a count")
}

/// The status at a place of the broker's lists.
#[must_use]
pub fn status(broker: &RunningBroker, place: StatusIndex) -> Option<Status> {
    broker.app().trust.lists().get(place.list)?.status(place.index)
}

/// A guard and the trust states it sees.
pub struct Post {
    /// The guard.
    pub guard: Arc<Guard>,
    /// What it sees.
    pub views: watch::Receiver<Option<Arc<TrustView>>>,
}

impl Post {
    /// Waits until the guard's trust state is of this epoch or a later one.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn reaches(&self, epoch: u64) {
        eventually("the epoch at the guard", || {
            self.views
                .borrow()
                .as_ref()
                .is_some_and(|view| view.head().epoch >= epoch)
        })
        .await;
    }

    /// A fresh challenge.
    ///
    /// # Panics
    /// When it gives none.
    #[must_use]
    pub fn challenge(&self) -> Vec<u8> {
        self.guard.challenge().expect("a challenge").to_vec()
    }

    /// Decides about [`ACTION`] on [`RESOURCE`].
    ///
    /// # Errors
    /// The codes of every reason against.
    pub fn decide(&self, authorization: &[u8], proof: &[u8], challenge: &[u8]) -> Result<Allowed, Vec<RefusalCode>> {
        self.decide_about(authorization, proof, challenge, (ACTION, RESOURCE))
    }

    /// Decides about anything.
    ///
    /// # Errors
    /// The codes of every reason against.
    pub fn decide_about(
        &self,
        authorization: &[u8],
        proof: &[u8],
        challenge: &[u8],
        (action, resource): (&str, &str),
    ) -> Result<Allowed, Vec<RefusalCode>> {
        self.guard
            .decide(authorization, proof, action, resource, challenge)
            .map(|admitted| admitted.allowed)
            .map_err(|refusals| refusals.into_iter().map(|refusal| refusal.code).collect())
    }
}

/// Waits for a condition; the test fails if it never holds.
///
/// # Panics
/// When it does not hold in time.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
