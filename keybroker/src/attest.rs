//! Evidence to answer: one try of one challenge, decided, recorded, answered.

use std::sync::{Arc, PoisonError};

use touchstone_authorization::Status;
use touchstone_authorization::token::StatusIndex;
use touchstone_cose::key::Signer as _;
use touchstone_evidence::binder::{BinderInput, Role};
use touchstone_evidence::collection::{Collection, Profile};
use touchstone_evidence::message::{Answer, Submission, WireReason};
use touchstone_ledger::statement::Reason;
use touchstone_policies::PolicySet;
use touchstone_store::{Guard, Write};
use touchstone_verifier::appraisal::Activated;
use touchstone_verifier::ear::EarReason;
use touchstone_verifier::tpm::credential::check_activation;

use crate::app::App;
use crate::clock::seconds;
use crate::decision::{Decided, Decision, DenialCode, SEMANTICS_ID, decide};
use crate::entry::{Effect, Entry, EntryError};
use crate::hello::{Pending, internal, unreadable};
use crate::inputs::{DecisionInputs, RecordedInputs};
use crate::node::{Granted, NodeRecord};
use crate::nodes::Stored;
use crate::problem::{ReasonLine, Refusal, RefusalCode};
use crate::rows;
use crate::server::ConnectionInfo;
use crate::session::random;
use crate::withdraw::withdraw;

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
    if evidence.profile() != Profile::Bound {
        let detail = "packed evidence is not bound to a session and is accepted by no broker";
        return Err(Refusal::new(RefusalCode::EvidenceUnreadable, detail));
    }
    tracing::info!(target: "touchstone::event", event = "evidence_received", node = %pending.node, at_ms = received_at_ms);
    let submitted = Submitted {
        pending,
        submission,
        exporter,
        evidence,
    };
    let answering = tokio::spawn(answer(app, submitted, received_at_ms));
    let answer = answering.await.map_err(internal)??;
    connection.proven.store(true, std::sync::atomic::Ordering::Relaxed);
    Ok(answer)
}

struct Submitted {
    pending: Pending,
    submission: Submission,
    exporter: [u8; 32],
    evidence: Collection,
}

/// A decision and what is to be recorded with it.
struct Prepared {
    decided: Decided,
    policy: Arc<PolicySet>,
    status: StatusIndex,
    entry: Entry,
    /// Set where another identity takes the place of one that still holds rights.
    replaces: Option<Reason>,
}

async fn answer(app: Arc<App>, submitted: Submitted, received_at_ms: u64) -> Result<Answer, Refusal> {
    let submitted = Arc::new(submitted);
    for _ in 0..MAX_TRIES {
        let prepared = {
            let (app, submitted) = (Arc::clone(&app), Arc::clone(&submitted));
            tokio::task::spawn_blocking(move || prepare(&app, &submitted))
                .await
                .map_err(internal)??
        };
        let Prepared {
            decided,
            policy,
            status,
            entry,
            replaces,
        } = prepared;
        if let Some(reason) = replaces {
            // The machine behind the name is another one: what the old one holds goes first.
            withdraw(&app, &decided.node, reason).await?;
            continue;
        }
        let statement = entry.statement.bytes.clone();
        let withdraws = matches!(entry.effect, Effect::Withdraw { .. });
        let recorded = match app.sequencer.record(entry).await {
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
            if decided.grant.is_some() {
                attested.insert(decided.node.clone(), (received_at_ms, status));
            } else if withdraws {
                attested.remove(&decided.node);
            }
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
            reasons: decided.reasons.into_iter().map(wire).collect(),
            ear: decided.ear.sign(&app.keys.ear).map_err(internal)?,
            statement,
            receipt: recorded.receipt,
            authorization,
            trust_state: app.trust.full().to_vec(),
            next_attestation_ms: policy.settings.timers.attestation_interval_ms,
            received_at_ms,
        });
    }
    Err(Refusal::new(
        RefusalCode::PolicyChanged,
        "state or policy changed again and again meanwhile",
    ))
}

fn prepare(app: &App, submitted: &Submitted) -> Result<Prepared, Refusal> {
    let now_ms = app.clock.now_ms();
    let policy = app.live_policy(now_ms)?;
    let pending = &submitted.pending;
    let stored = Stored::read(&*app.store, &pending.node, &pending.ek, &pending.ak_name).map_err(unreadable)?;
    if stored.ek.is_of_another(&pending.node) || stored.ak.is_of_another(&pending.node) {
        let detail = format!("the keys presented for {} were tied to another name", pending.node);
        return Err(Refusal::new(RefusalCode::EnrolmentConflict, detail));
    }
    let appraisal = &policy.settings.appraisal;
    if pending.asked != appraisal.required_registers {
        // An honest node quoted what it was asked for: what another policy misses in that does not speak against it.
        let detail = "another policy has come into force, which asks for other registers: say hello again";
        return Err(Refusal::new(RefusalCode::PolicyChanged, detail));
    }
    let activated = activated(&policy, submitted)?;
    // Another endorsement key that the inventory lists for this node is a new enrolment, not the enrolled identity.
    let record = stored.record.as_ref().map(|(record, _)| record);
    let same_ek = record.filter(|record| record.enrolled.ek == pending.ek);
    let kept = same_ek.filter(|record| keeps_entry(app, record));
    let status = match kept {
        Some(record) => record.status,
        None => app.trust.deal().map_err(internal)?,
    };
    let prepared = judge(app, submitted, policy, &stored, (now_ms, status), activated);
    let uses_entry = matches!(&prepared, Ok(p) if p.decided.grant.is_some() && p.replaces.is_none());
    if kept.is_none() && !uses_entry {
        // Whoever can say hello could otherwise use up every entry there is.
        app.trust.give_back(status);
    }
    prepared
}

/// Decides, with the status entry the node gets if it is allowed.
fn judge(
    app: &App,
    submitted: &Submitted,
    policy: Arc<PolicySet>,
    stored: &Stored,
    (now_ms, status): (u64, StatusIndex),
    activated: Option<Activated>,
) -> Result<Prepared, Refusal> {
    let Submitted {
        pending,
        submission,
        exporter,
        evidence,
    } = submitted;
    let record = stored.record.as_ref().map(|(record, _)| record);
    let same_ek = record.filter(|record| record.enrolled.ek == pending.ek);
    let inputs = DecisionInputs {
        semantics: SEMANTICS_ID.to_owned(),
        domain: policy.domain.clone(),
        policy_digest: policy.digest,
        policy_expires: policy.expires,
        now: seconds(now_ms),
        session_id: submission.session_id,
        nonce: pending.nonce,
        tls_exporter: *exporter,
        receive_key: pending.receive_key,
        session_key: pending.session_key.clone(),
        asked: pending.asked.clone(),
        activated,
        evidence: evidence.clone(),
        enrolled: same_ek.map(|record| record.enrolled.clone()),
        region: record.map(|record| record.region.clone()),
        revisions: stored.revisions(),
        cti: random().map_err(internal)?,
        status,
        epoch: app.trust.epoch(),
        signer: app.keys.authorization.kid(),
    };
    let mut decided = match decide(&inputs, &policy).map_err(internal)? {
        Decision::Decided(decided) if decided.node == pending.node => *decided,
        Decision::Decided(_) => return Err(refused(&[])),
        Decision::Refused(reasons) => return Err(refused(&reasons)),
    };
    let replaces = record
        .filter(|record| decided.grant.is_some() && same_ek.is_none() && !record.withdrawn)
        .map(|record| Reason {
            code: DenialCode::IdentityReplaced.as_str().into(),
            claim: "endorsement key".into(),
            expected: record.enrolled.ek.to_string(),
            found: pending.ek.to_string(),
        });
    // Only what verifies under the key enrolled for a node takes anything from it: another machine that the inventory
    // lists under the same name, and that fails, is denied and no more (`docs/protocol.md`, section 4).
    let entry = entry(app, &policy, stored, same_ek, &inputs, &mut decided)?;
    Ok(Prepared {
        decided,
        policy,
        status,
        entry,
        replaces,
    })
}

/// The credential that was opened in this session; one wrong answer ends it, and says nothing about the right one.
fn activated(policy: &PolicySet, submitted: &Submitted) -> Result<Option<Activated>, Refusal> {
    let Submitted {
        pending,
        submission,
        exporter,
        evidence,
    } = submitted;
    let Some(sent) = &pending.credential else {
        return Ok(None);
    };
    let binder = BinderInput {
        role: Role::Node,
        domain: &policy.domain,
        session_id: submission.session_id,
        nonce: pending.nonce,
        ckt: pending.session_key.thumbprint(),
        receive_key: pending.receive_key,
        tls_exporter: *exporter,
        manifest_digest: evidence.manifest_digest().map_err(internal)?,
    };
    let answer = submission.activation.unwrap_or([0; 32]);
    check_activation(sent.secret.as_slice(), &binder.encode(), &answer).map_err(|error| {
        let (expected, found) = error.details();
        let line = ReasonLine {
            code: error.code().as_str().into(),
            claim: "activation".into(),
            expected,
            found,
        };
        Refusal::new(RefusalCode::EvidenceRefused, "the credential was not opened").with_reasons(vec![line])
    })?;
    Ok(Some(sent.pair.clone()))
}

/// Whether a node goes on with the status entry it has. After a withdrawal it gets a new one: the old one stays marked.
fn keeps_entry(app: &App, record: &NodeRecord) -> bool {
    let lists = app.trust.lists();
    let status = lists
        .get(record.status.list)
        .and_then(|list| list.status(record.status.index));
    record.status.generation == app.trust.generation()
        && !record.withdrawn
        && matches!(status, Some(Status::Valid | Status::Suspended))
}

fn entry(
    app: &App,
    policy: &PolicySet,
    stored: &Stored,
    record: Option<&NodeRecord>,
    inputs: &DecisionInputs,
    decided: &mut Decided,
) -> Result<Entry, Refusal> {
    let statement = decided.statement.sign(&app.keys.statement).map_err(internal)?;
    let RecordedInputs {
        record: inputs_record,
        digest: inputs_digest,
        parts,
        ..
    } = std::mem::take(&mut decided.recorded);
    let nonce = rows::NONCE.key(&inputs.nonce).map_err(internal)?;
    let mut guards = vec![Guard::Absent(nonce.clone())];
    let mut writes = vec![
        Write::Put(nonce, app.clock.now_ms().to_be_bytes().to_vec()),
        Write::Put(rows::INPUTS.key(&inputs_digest).map_err(internal)?, inputs_record),
    ];
    let (policy_digest, effect) = match (&decided.grant, record) {
        (Some(grant), _) => {
            guards.extend(stored.guards());
            let record = NodeRecord {
                region: decided.region.clone(),
                enrolled: grant.enrolled.clone(),
                status: inputs.status,
                withdrawn: false,
                granted: Granted {
                    cti: inputs.cti,
                    expires: grant.authorization.expires,
                    statement: decided.digest,
                    inputs: inputs_digest,
                },
            };
            writes.extend(stored.writes(&decided.node, &record).map_err(unreadable)?);
            (Some(policy.digest), Effect::Grant { status: inputs.status })
        }
        // Taking away never waits: it goes out here, before the statement is on its way, and rests on no policy.
        (None, Some(record)) if !record.withdrawn => {
            let now_ms = app.clock.now_ms();
            let withdrawal = app.trust.withdraw(&[record.status], now_ms).map_err(internal)?;
            tracing::info!(
                target: "touchstone::event",
                event = "withdrawn",
                node = %decided.node,
                epoch = withdrawal.epoch,
                at_ms = now_ms
            );
            // Nothing may stand in the way of recording it; the session that had the nonce is used up already.
            guards.clear();
            (
                None,
                Effect::Withdraw {
                    node: decided.node.clone(),
                    withdrawal,
                },
            )
        }
        (None, _) => (Some(policy.digest), Effect::None),
    };
    let subject = Some(decided.node.clone());
    Ok(Entry {
        statement,
        subject,
        policy: policy_digest,
        guards,
        writes,
        parts,
        effect,
    })
}

fn refused(reasons: &[EarReason]) -> Refusal {
    let lines = reasons.iter().take(64).map(|reason| {
        let EarReason {
            code,
            claim,
            expected,
            found,
        } = reason.clone();
        ReasonLine {
            code,
            claim,
            expected,
            found,
        }
    });
    Refusal::new(
        RefusalCode::EvidenceRefused,
        "the evidence is not authentic for this session",
    )
    .with_reasons(lines.collect())
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
