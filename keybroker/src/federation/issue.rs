//! One request for an authorization that counts in another domain: authenticated, decided, recorded, answered. The same
//! way as a request for a key ([`crate::release::serve`]): the statement is durable before the answer, the commit compares
//! what it was decided on, and a proof counts once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_authorization::{DomainState, RevokedIds, authorization_digest};
use touchstone_cose::key::Signer as _;
use touchstone_evidence::message::{ForeignAnswer, ForeignRequest, WireReason};
use touchstone_ledger::statement::Reason;
use touchstone_store::{Guard, Write};
use touchstone_verifier::inventory::Lookup;

use super::decide::{ForeignInputs, judge_request, known};
use crate::app::App;
use crate::attest::MAX_TRIES;
use crate::decision::SEMANTICS_ID;
use crate::entry::{Effect, Entry, EntryError};
use crate::hello::{internal, unreadable};
use crate::nodes;
use crate::problem::{ReasonLine, Refusal, RefusalCode};
use crate::release::decide::NodeFacts;
use crate::release::inputs::StatusSeen;
use crate::release::serve::rests_on;
use crate::rows;
use crate::server::ConnectionInfo;
use crate::session::random;
use crate::tenants;

/// Answers a request.
///
/// # Errors
/// A [`Refusal`]: nothing was decided.
pub async fn serve(
    app: Arc<App>,
    connection: ConnectionInfo,
    request: ForeignRequest,
) -> Result<ForeignAnswer, Refusal> {
    let exporter = connection
        .exporter
        .export(EXPORTER_LABEL, &authorization_digest(&request.authorization))
        .map_err(|e| Refusal::new(RefusalCode::ChannelNotEndToEnd, e.to_string()))?;
    // Runs to its end also when the client has gone.
    let answering = tokio::spawn(answer(app, Arc::new(request), exporter));
    let answer = answering.await.map_err(internal)??;
    connection.proven.store(true, Ordering::Relaxed);
    Ok(answer)
}

async fn answer(app: Arc<App>, request: Arc<ForeignRequest>, exporter: [u8; 32]) -> Result<ForeignAnswer, Refusal> {
    for _ in 0..MAX_TRIES {
        let (entry, mut answer, node) = {
            let (app, request) = (Arc::clone(&app), Arc::clone(&request));
            tokio::task::spawn_blocking(move || prepare(&app, &request, exporter))
                .await
                .map_err(internal)??
        };
        let recorded = match app.sequencer.record(entry).await {
            Ok(recorded) => recorded,
            // Another request has used this proof, or what this rests on has changed or fallen: looked at again.
            Err(EntryError::Conflict { .. } | EntryError::PolicyChanged | EntryError::Fallen { .. }) => continue,
            Err(EntryError::Busy { .. }) => {
                return Err(Refusal::new(RefusalCode::BrokerBusy, "too many decisions are waiting"));
            }
            Err(error) => return Err(Refusal::new(RefusalCode::BrokerStopping, error.to_string())),
        };
        tracing::info!(
            target: "touchstone::event",
            event = "federated_authorization",
            node = %node,
            audience = %request.audience,
            allow = answer.authorization.is_some(),
            entry = recorded.index,
            at_ms = app.clock.now_ms()
        );
        answer.receipt = recorded.receipt;
        return Ok(answer);
    }
    Err(Refusal::new(RefusalCode::PolicyChanged, "it changed again and again"))
}

fn prepare(app: &App, request: &ForeignRequest, exporter: [u8; 32]) -> Result<(Entry, ForeignAnswer, String), Refusal> {
    let now_ms = app.clock.now_ms();
    let policy = app.live_policy(now_ms)?;
    if app.trust.is_stopped() {
        return Err(Refusal::new(RefusalCode::BrokerStopping, "the ledger has stopped"));
    }
    let lists = app.trust.lists();
    let (generation, epoch) = (app.trust.generation(), app.trust.epoch());
    let state = DomainState {
        generation,
        epoch,
        policy_version: policy.version,
        lists: &lists,
        revoked: RevokedIds::none(),
    };
    let asked = judge_request(request, &exporter, &policy, &state, now_ms).map_err(internal)?;
    let Some((subject, nonce)) = known(&asked) else {
        return Err(not_authenticated(&asked.refusals));
    };
    let nonce_row = rows::NONCE.key(&nonce).map_err(internal)?;
    if app.store.get(&nonce_row).map_err(internal)?.is_some() {
        let replayed = touchstone_authorization::Refusal::new(
            touchstone_authorization::RefusalCode::ProofReplayed,
            "a proof never seen",
            "one used before",
        );
        return Err(not_authenticated(&[replayed]));
    }
    let name = subject.contents().subject.as_str();
    let owner = match policy.inventory.by_name(name) {
        Lookup::Node(node) => node.owner.as_deref(),
        _ => None,
    };
    tenants::count(app, &policy, owner)?;
    if app.standings.is_late(name) {
        let detail = "the node has missed its deadline: nothing is issued to it for other domains until it attests";
        return Err(Refusal::new(RefusalCode::NodeStale, detail));
    }
    let record = nodes::by_name(&*app.store, name).map_err(unreadable)?;
    let cti = random::<16>().map_err(internal)?;
    let inputs = ForeignInputs {
        semantics: SEMANTICS_ID.to_owned(),
        policy_digest: policy.digest,
        now_ms,
        generation,
        epoch,
        status: StatusSeen::of(&lists, &subject.contents().status),
        exporter,
        request: request.clone(),
        node: record
            .as_ref()
            .map(|(record, revision)| (NodeFacts::from(record), revision.get())),
        cti,
        signer: app.keys.authorization.kid(),
    };
    let decided = inputs.decide(&asked, &policy).map_err(internal)?;
    let signed = decided.statement.sign(&app.keys.statement).map_err(internal)?;
    let authorization = decided
        .authorization
        .map(|authorization| authorization.encode_signed(&app.keys.authorization))
        .transpose()
        .map_err(internal)?;
    let node_row = rows::NODE.key(name.as_bytes()).map_err(internal)?;
    let (inputs_digest, inputs_record) = decided.record;
    let entry = Entry {
        statement: signed.clone(),
        subject: None,
        policy: Some(policy.digest),
        guards: vec![
            Guard::Absent(nonce_row.clone()),
            match &record {
                None => Guard::Absent(node_row),
                Some((_, revision)) => Guard::Unchanged(node_row, *revision),
            },
        ],
        writes: vec![
            Write::Put(nonce_row, now_ms.to_be_bytes().to_vec()),
            Write::Put(rows::INPUTS.key(&inputs_digest).map_err(internal)?, inputs_record),
        ],
        parts: Vec::new(),
        // Like a grant: answered only while every withdrawal is durable.
        effect: if authorization.is_some() {
            let record = record.as_ref().map(|(record, _)| record);
            Effect::Release {
                rests_on: rests_on(subject.contents().status, record),
            }
        } else {
            Effect::None
        },
    };
    let answer = ForeignAnswer {
        statement: signed.bytes,
        receipt: Vec::new(),
        reasons: wire(&decided.reasons),
        authorization,
    };
    Ok((entry, answer, decided.node))
}

fn not_authenticated(refusals: &[touchstone_authorization::Refusal]) -> Refusal {
    let lines = refusals.iter().map(|refusal| ReasonLine {
        code: refusal.code.as_str().into(),
        claim: "request".into(),
        expected: refusal.expected.clone(),
        found: refusal.found.clone(),
    });
    let detail = "it is not known who asks";
    Refusal::new(RefusalCode::FederationNotAuthenticated, detail).with_reasons(lines.collect())
}

fn wire(reasons: &[Reason]) -> Vec<WireReason> {
    Reason::bounded(reasons.to_vec())
        .into_iter()
        .map(|reason| WireReason {
            code: reason.code,
            claim: reason.claim,
            expected: reason.expected,
            found: reason.found,
        })
        .collect()
}
