//! What every request handler shares.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;
use touchstone_authorization::token::StatusIndex;
use touchstone_policies::{Location, Mirror, PolicySet};
use touchstone_store::Store;

use crate::acks::Acks;
use crate::chains::Chains;
use crate::clock::{Clock, seconds};
use crate::config::Limits;
use crate::containment::Containing;
use crate::decision::SEMANTICS_ID;
use crate::drift::Drift;
use crate::events::Reports;
use crate::federation::Neighbours;
use crate::hello::Pending;
use crate::holds::Holds;
use crate::keys::BrokerKeys;
use crate::lineage::Lineage;
use crate::log::LogHead;
use crate::problem::{ReasonLine, Refusal, RefusalCode};
use crate::refusals::Refusals;
use crate::release::keeper::Keeper;
use crate::release::turns::Turns;
use crate::room::Room;
use crate::routes::status_list::StatusTokens;
use crate::sequencer::SequencerHandle;
use crate::session::Sessions;
use crate::standing::Standings;
use crate::statements::Circumstances;
use crate::tenants::meter::Meter;
use crate::trust::Trust;
use crate::witness::Witnessing;
use crate::workload::uses::KnownChains;

/// What every request handler shares; one of it in a process.
pub struct App {
    /// Bounds.
    pub limits: Limits,
    /// The broker's time.
    pub clock: Clock,
    /// The broker's keys.
    pub keys: BrokerKeys,
    /// The hold on the keys it releases, where it keeps any.
    pub keeper: Option<Arc<Keeper>>,
    /// The ledger's name.
    pub origin: String,
    /// The store: handlers read, the sequencer writes.
    pub store: Arc<dyn Store>,
    /// The policy in force.
    pub policy: RwLock<Arc<PolicySet>>,
    /// Challenges that wait for their answer.
    pub sessions: Mutex<Sessions<Pending>>,
    /// Room for large evidence.
    pub room: Room,
    /// Nodes whose logs did not reach their quote, and who have been asked to send them again: the second time it counts.
    pub forgiven: Mutex<HashSet<String>>,
    /// What tenants have used of what they may.
    pub tenants: Meter,
    /// Held while a machine that no entry lists, and that nothing speaks against, takes its seat.
    pub first_uses: tokio::sync::Mutex<()>,
    /// Whose turn it is to count in a tree.
    pub trees: Turns,
    /// Signing keys of reports whose chains were verified.
    pub chains: Chains,
    /// Refusals before authentication.
    pub refusals: Mutex<Refusals>,
    /// Status lists as they were signed last.
    pub status_tokens: StatusTokens,
    /// Which trust state each enforcer enforces.
    pub acks: Arc<Acks>,
    /// Where statements are handed in.
    pub sequencer: SequencerHandle,
    /// Which authorization hangs below which.
    pub lineage: Arc<Lineage>,
    /// What is held of other domains.
    pub federation: Neighbours,
    /// The trust state.
    pub trust: Arc<Trust>,
    /// Held while a signed command is looked at and carried out, and while any command reads rows and writes them anew.
    pub commanding: tokio::sync::Mutex<()>,
    /// What is suspended until it is lifted.
    pub holds: Holds,
    /// The containments that follow failures.
    pub containing: Containing,
    /// The ledger's head.
    pub head: Arc<RwLock<LogHead>>,
    /// When each node last attested, in milliseconds, and the status entry it holds: who is overdue is looked up here.
    pub attested: Mutex<HashMap<String, (u64, StatusIndex)>>,
    /// Chains that enforcers reported uses of.
    pub known_chains: Mutex<KnownChains>,
    /// How often detectors have reported lately.
    pub reports: Reports,
    /// How every node stands.
    pub standings: Standings,
    /// The comparison with the domain's other brokers.
    pub drift: Drift,
    /// The logs that are watched here, and the witnesses that watch this one.
    pub witnessing: Witnessing,
    /// Where policy comes from.
    pub policy_source: Location,
    /// The copy of the policy repository, as accepted last.
    pub mirror: Arc<Mirror>,
    /// Why what is published was not taken over, as long as it is not: shown to the operator.
    pub policy_refused: Mutex<Option<String>>,
    /// True once the broker is to stop.
    pub stop: watch::Receiver<bool>,
}

impl App {
    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<PolicySet> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The policy in force, if it has not expired and this broker is not one that differs from the others.
    ///
    /// # Errors
    /// [`RefusalCode::PolicyExpired`] or [`RefusalCode::Diverged`]
    pub fn live_policy(&self, now_ms: u64) -> Result<Arc<PolicySet>, Refusal> {
        let policy = self.policy();
        let Err(ended) = policy.check_live(seconds(now_ms)) else {
            self.drift.check()?;
            return Ok(policy);
        };
        let reasons = ended
            .reasons()
            .into_iter()
            .map(|(code, claim, expected, found)| ReasonLine {
                code: code.to_owned(),
                claim,
                expected,
                found,
            });
        let refused = self
            .policy_refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let newer = refused.map_or_else(
            || "nothing newer is published".to_owned(),
            |why| format!("not renewed: {why}"),
        );
        let detail = format!("policy version {}: {ended}; {newer}", policy.version);
        Err(Refusal::new(RefusalCode::PolicyExpired, detail).with_reasons(reasons.collect()))
    }

    /// What statements made now say of their circumstances.
    #[must_use]
    pub fn circumstances(&self, now_ms: u64) -> Circumstances {
        Circumstances::of(&self.policy(), SEMANTICS_ID, seconds(now_ms))
    }

    /// The ledger's head.
    #[must_use]
    pub fn head(&self) -> LogHead {
        *self.head.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether logs that do not reach their quote are to be sent again: once, until something is decided about the node.
    pub fn forgive(&self, node: &str) -> bool {
        let mut forgiven = self.forgiven.lock().unwrap_or_else(PoisonError::into_inner);
        forgiven.insert(node.to_owned())
    }

    /// Counts a refusal; touches nothing else.
    pub fn count(&self, refusal: &Refusal, source: IpAddr) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.count(refusal.code, source, self.clock.now_ms());
    }

    /// Whether requests from this source are to wait.
    #[must_use]
    pub fn is_limited(&self, source: IpAddr) -> bool {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.is_limited(source, self.clock.now_ms())
    }
}
