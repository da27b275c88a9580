//! Evidence to answer: one try of one challenge, decided, recorded, answered.

mod entry;
mod prepare;

use std::sync::{Arc, PoisonError};

use tokio::sync::oneshot;
use touchstone_authorization::token::StatusIndex;
use touchstone_evidence::collection::{Collection, Profile};
use touchstone_evidence::message::{Answer, LogBytes, Submission, WireReason};
use touchstone_ledger::statement::Reason;
use touchstone_policies::PolicySet;
use touchstone_verifier::ear::EarReason;

use crate::app::App;
use crate::containment::{self, Reach};
use crate::decision::Decided;
use crate::entry::EntryError;
use crate::hello::{Pending, internal};
use crate::problem::{Refusal, RefusalCode};
use crate::room::Taken;
use crate::sequencer::HandedIn;
use crate::server::ConnectionInfo;
use crate::standing::Note;
use crate::withdraw::withdraw;
pub use entry::DECISION;
use prepare::{Prepared, prepare};

/// Label of the exporter that ties evidence to one TLS connection (`docs/protocol.md`, section 3).
pub const BINDER_EXPORTER: &str = "EXPORTER-touchstone-binder";

/// How often a decision is made again because what it rested on has changed meanwhile.
pub const MAX_TRIES: usize = 4;

/// Judges evidence and records what was decided. Runs to its end also when the client has gone: a withdrawal that went
/// out must be recorded.
///
/// # Errors
/// A [`Refusal`]: nothing was decided, and no node's state was touched.
pub async fn evidence(
    app: Arc<App>,
    connection: ConnectionInfo,
    submission: Submission,
    room: Taken,
    received_at_ms: u64,
) -> Result<Answer, Refusal> {
    let pending = {
        let mut sessions = app.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.take(&submission.session_id, connection.id, app.clock.now_ms())
    };
    let pending = pending.ok_or_else(|| Refusal::new(RefusalCode::SessionUnknown, "say hello on this connection"))?;
    let exporter = connection
        .exporter
        .export(BINDER_EXPORTER, &pending.nonce)
        .map_err(|e| Refusal::new(RefusalCode::ChannelNotEndToEnd, e.to_string()))?;
    let evidence = Collection::decode(&submission.collection)
        .map_err(|e| Refusal::new(RefusalCode::EvidenceUnreadable, e.to_string()))?;
    drop(submission.collection);
    if evidence.profile() != Profile::Bound {
        let detail = "packed evidence is not bound to a session and is accepted by no broker";
        return Err(Refusal::new(RefusalCode::EvidenceUnreadable, detail));
    }
    tracing::info!(target: "touchstone::event", event = "evidence_received", node = %pending.node, at_ms = received_at_ms);
    let submitted = Submitted {
        pending,
        session_id: submission.session_id,
        activation: submission.activation,
        offsets: submission.offsets,
        exporter,
        evidence,
        _room: room,
    };
    let answering = tokio::spawn(answer(app, submitted, received_at_ms));
    let answer = answering.await.map_err(internal)??;
    connection.proven.store(true, std::sync::atomic::Ordering::Relaxed);
    Ok(answer)
}

/// One try of one challenge.
struct Submitted {
    pending: Pending,
    session_id: [u8; 16],
    activation: Option<[u8; 32]>,
    /// Where the logs of the evidence begin.
    offsets: LogBytes,
    exporter: [u8; 32],
    evidence: Collection,
    /// Given back when the evidence is no longer in memory.
    _room: Taken,
}

/// What came of one try.
enum Tried {
    /// Another identity takes the place of the one that this node's name stands for.
    Replaces(String, Reason),
    /// It would take a seat of first use, and it is not its turn.
    NotItsTurn,
    /// A decision, handed in to be recorded.
    Decided {
        decided: Box<Decided>,
        policy: Arc<PolicySet>,
        status: StatusIndex,
        statement: Vec<u8>,
        /// What it took away, handed in too.
        taken: Option<Result<HandedIn, EntryError>>,
        /// Whom the failure reaches besides.
        reach: Option<Reach>,
        entry: Result<HandedIn, EntryError>,
    },
}

/// Decides and hands in, both on this thread: it may wait for the disk. A seat of first use is taken `in_turn` alone.
fn attempt(app: &App, submitted: &Submitted, in_turn: bool) -> Result<Tried, Refusal> {
    let Prepared {
        decided,
        policy,
        status,
        entry,
        taken,
        reach,
        replaces,
        takes_seat,
    } = prepare(app, submitted)?;
    // First of all: it is out already, and nothing is granted before it is on record.
    let taken = taken.map(|taken| app.sequencer.hand_in(taken));
    if takes_seat && !in_turn {
        app.trust.give_back(status);
        return Ok(Tried::NotItsTurn);
    }
    if let Some(reason) = replaces {
        return Ok(Tried::Replaces(decided.node, reason));
    }
    Ok(Tried::Decided {
        statement: entry.statement.bytes.clone(),
        taken,
        reach,
        entry: app.sequencer.hand_in(entry),
        decided: Box::new(decided),
        policy,
        status,
    })
}

async fn answer(app: Arc<App>, submitted: Submitted, received_at_ms: u64) -> Result<Answer, Refusal> {
    let submitted = Arc::new(submitted);
    let mut turn = None;
    for _ in 0..MAX_TRIES {
        let tried = {
            let (app, submitted, in_turn) = (Arc::clone(&app), Arc::clone(&submitted), turn.is_some());
            tokio::task::spawn_blocking(move || attempt(&app, &submitted, in_turn))
                .await
                .map_err(internal)??
        };
        let (decided, policy, status, statement, taken, reach, entry) = match tried {
            Tried::Replaces(node, reason) => {
                // The machine behind the name is another one: what the old one holds goes first.
                withdraw(&app, &node, reason).await?;
                continue;
            }
            Tried::NotItsTurn => {
                // The counter of first use has room for one at a time: those of one broker wait for each other here, and
                // only another replica is met by its compare-and-swap. Whoever is refused never comes this far.
                turn = Some(app.first_uses.lock().await);
                continue;
            }
            Tried::Decided {
                decided,
                policy,
                status,
                statement,
                taken,
                reach,
                entry,
            } => (decided, policy, status, statement, taken, reach, entry),
        };
        let (unrecorded, on_record) = oneshot::channel::<()>();
        if let Some(reach) = reach.filter(Reach::is_due) {
            // What says that they have to be suspended is handed in, and they are before anything more is waited for.
            let app = Arc::clone(&app);
            let (suspended, suspending) = oneshot::channel();
            tokio::spawn(async move {
                containment::after_failure(&app, &reach).await;
                let _ = suspended.send(());
                // On record, or never to be: whatever of it could not be made is tried again.
                let _ = on_record.await;
                app.containing.look();
            });
            if taken.is_none() {
                suspending.await.map_err(internal)?;
            }
        }
        let withdrawn = match taken {
            None => Ok(()),
            Some(Ok(taken)) => taken.recorded().await.map(|_| ()),
            Some(Err(error)) => Err(error),
        };
        withdrawn.map_err(|error| Refusal::new(RefusalCode::BrokerStopping, error.to_string()))?;
        let recorded = match entry {
            Ok(handed_in) => handed_in.recorded().await,
            Err(error) => Err(error),
        };
        drop(unrecorded);
        let recorded = match recorded {
            Ok(recorded) => recorded,
            Err(EntryError::Conflict { detail }) => {
                tracing::debug!(node = %decided.node, detail, "decided again");
                continue;
            }
            Err(EntryError::PolicyChanged) => continue,
            Err(EntryError::Busy { .. }) => {
                return Err(Refusal::new(RefusalCode::BrokerBusy, "too many decisions are waiting"));
            }
            Err(EntryError::Unstorable { detail }) => {
                return Err(Refusal::new(RefusalCode::EvidenceUnreadable, detail));
            }
            Err(error) => return Err(Refusal::new(RefusalCode::BrokerStopping, error.to_string())),
        };
        app.forgiven
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&decided.node);
        let now_ms = app.clock.now_ms();
        tracing::info!(
            target: "touchstone::event",
            event = "decision",
            node = %decided.node,
            allow = decided.grant.is_some(),
            entry = recorded.index,
            at_ms = now_ms
        );
        {
            let mut attested = app.attested.lock().unwrap_or_else(PoisonError::into_inner);
            // Good evidence of a node that is suspended is in time, too: what it holds is kept for it.
            if decided.grant.is_some() || (decided.is_only_held() && attested.contains_key(&decided.node)) {
                attested.insert(decided.node.clone(), (received_at_ms, status));
            }
        }
        if decided.grant.is_some() || decided.is_only_held() {
            app.standings
                .note(&policy, &decided.node, Note::Good(status), received_at_ms);
        }
        let authorization = match &decided.grant {
            Some(grant) => Some(
                grant
                    .authorization
                    .encode_signed(&app.keys.authorization)
                    .map_err(internal)?,
            ),
            None => None,
        };
        return Ok(Answer {
            allowed: decided.grant.is_some(),
            // Where it is allowed, why less than the settings offer.
            reasons: decided.reasons.into_iter().chain(decided.withheld).map(wire).collect(),
            ear: decided.ear.sign(&app.keys.ear).map_err(internal)?,
            statement,
            receipt: recorded.receipt,
            authorization,
            trust_state: app.trust.full().to_vec(),
            next_attestation_ms: policy.demands(&decided.region).timers.attestation_interval_ms,
            received_at_ms,
        });
    }
    Err(Refusal::new(
        RefusalCode::PolicyChanged,
        "state or policy changed again and again meanwhile",
    ))
}

fn wire(reason: EarReason) -> WireReason {
    let EarReason {
        code,
        claim,
        expected,
        found,
    } = reason;
    WireReason {
        code,
        claim,
        expected,
        found,
    }
}
