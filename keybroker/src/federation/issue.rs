//! One request for an authorization that counts in another domain: authenticated, decided, recorded, answered. The same
//! way as a request for a key ([`crate::release::serve`]): the statement is durable before the answer, the commit compares
//! what it was decided on, and a proof counts once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use touchstone_authorization::authorization_digest;
use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_cose::key::Signer as _;
use touchstone_evidence::message::{ForeignAnswer, ForeignRequest};
use touchstone_store::{Guard, Write};
use touchstone_verifier::inventory::Lookup;

use super::decide::{ForeignInputs, judge_request};
use crate::app::App;
use crate::attest::MAX_TRIES;
use crate::entry::{Effect, Entry, EntryError};
use crate::hello::{internal, unreadable};
use crate::moment::{Moment, not_authenticated, unused};
use crate::nodes;
use crate::presented::{known, wire};
use crate::problem::{Refusal, RefusalCode};
use crate::release::decide::NodeFacts;
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
    let moment = Moment::now(app)?;
    let asked = judge_request(request, &exporter, &moment.policy, &moment.state(), moment.now_ms).map_err(internal)?;
    let Some((subject, nonce)) = known(&asked) else {
        return Err(not_authenticated(
            RefusalCode::FederationNotAuthenticated,
            &asked.refusals,
        ));
    };
    let nonce_row = unused(app, &nonce, RefusalCode::FederationNotAuthenticated)?;
    let setting = moment.setting(&subject.contents().status, exporter);
    let Moment { now_ms, policy, .. } = moment;
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
        setting,
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
