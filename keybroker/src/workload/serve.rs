//! One request for an authorization below another: authenticated, decided, recorded, answered. The same way as a request for
//! a key ([`crate::release::serve`]): the statement is durable before the answer, the commit compares everything it was
//! decided on, and a proof counts once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use touchstone_authorization::authorization_digest;
use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_authorization::token::StatusIndex;
use touchstone_cose::key::Signer as _;
use touchstone_evidence::message::{EntryNumber, IssuedAnswer, WorkloadRequest};
use touchstone_store::{Guard, Key, Write};
use touchstone_verifier::inventory::Lookup;

use super::decide::{WorkloadDecision, node_of};
use super::inputs::{WorkloadInputs, judge_request};
use super::record::WorkloadRecord;
use super::stored::{Asks, For, Stored, emptied, guard, kept, once};
use crate::app::App;
use crate::entry::{Effect, Entry, EntryError};
use crate::hello::{internal, unreadable};
use crate::holds;
use crate::lineage::Growth;
use crate::moment::{Moment, not_authenticated, unused};
use crate::nodes;
use crate::presented::{StatusSeen, known, wire};
use crate::problem::{Refusal, RefusalCode};
use crate::release::decide::NodeFacts;
use crate::release::shown;
use crate::rows;
use crate::server::ConnectionInfo;
use crate::session::random;
use crate::tenants;

/// How often a decision is made again because what it rested on has changed meanwhile: siblings that begin at the same
/// time each change what hangs below their parent.
const MAX_TRIES: u32 = 24;

/// Longest pause before another try, in milliseconds.
const MAX_PAUSE_MS: u64 = 40;

/// Answers a request.
///
/// # Errors
/// A [`Refusal`]: nothing was decided.
pub async fn serve(
    app: Arc<App>,
    connection: ConnectionInfo,
    request: WorkloadRequest,
) -> Result<IssuedAnswer, Refusal> {
    let exporter = connection
        .exporter
        .export(EXPORTER_LABEL, &authorization_digest(&request.chain))
        .map_err(|e| Refusal::new(RefusalCode::ChannelNotEndToEnd, e.to_string()))?;
    // Runs to its end also when the client has gone.
    let answering = tokio::spawn(answer(app, Arc::new(request), exporter));
    let answer = answering.await.map_err(internal)??;
    connection.proven.store(true, Ordering::Relaxed);
    Ok(answer)
}

/// What is handed in, and what is answered once it is recorded.
struct Prepared {
    entry: Entry,
    answer: IssuedAnswer,
    subject: String,
    /// What is to be known of the new entry, and the entry that was dealt for it.
    issued: Option<WorkloadRecord>,
    dealt: Option<StatusIndex>,
}

async fn answer(app: Arc<App>, request: Arc<WorkloadRequest>, exporter: [u8; 32]) -> Result<IssuedAnswer, Refusal> {
    for _ in 0..MAX_TRIES {
        let prepared = {
            let (app, request) = (Arc::clone(&app), Arc::clone(&request));
            tokio::task::spawn_blocking(move || prepare(&app, &request, exporter))
                .await
                .map_err(internal)??
        };
        let Prepared {
            entry,
            mut answer,
            subject,
            issued,
            dealt,
        } = prepared;
        let recorded = match app.sequencer.record(entry).await {
            Ok(recorded) => recorded,
            Err(error) => {
                // Nothing was granted under it.
                dealt.into_iter().for_each(|entry| app.trust.give_back(entry));
                match error {
                    // Another request has used this proof, or what this rests on has changed: looked at again.
                    EntryError::Conflict { .. } | EntryError::PolicyChanged => {
                        pause().await?;
                        continue;
                    }
                    EntryError::Busy { .. } => {
                        return Err(Refusal::new(RefusalCode::BrokerBusy, "too many decisions are waiting"));
                    }
                    error => return Err(Refusal::new(RefusalCode::BrokerStopping, error.to_string())),
                }
            }
        };
        tracing::info!(
            target: "touchstone::event",
            event = "workload_authorization",
            subject = %subject,
            allow = answer.authorization.is_some(),
            renewal = request.renew.is_some(),
            below = issued.as_ref().map_or(0, |record| record.depth),
            entry = recorded.index,
            at_ms = app.clock.now_ms()
        );
        answer.receipt = recorded.receipt;
        return Ok(answer);
    }
    Err(Refusal::new(RefusalCode::PolicyChanged, "it changed again and again"))
}

/// A pause of random length, so that those who got into each other's way do not do so again.
async fn pause() -> Result<(), Refusal> {
    let [random] = random::<1>().map_err(internal)?;
    let ms = u64::from(random) % MAX_PAUSE_MS;
    tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
    Ok(())
}

fn prepare(app: &App, request: &WorkloadRequest, exporter: [u8; 32]) -> Result<Prepared, Refusal> {
    let moment = Moment::now(app)?;
    let asked = judge_request(request, &exporter, &moment.policy, &moment.state(), moment.now_ms).map_err(internal)?;
    let Some((subject, nonce)) = known(&asked) else {
        return Err(not_authenticated(RefusalCode::HolderNotAuthenticated, &asked.refusals));
    };
    let nonce_row = unused(app, &nonce, RefusalCode::HolderNotAuthenticated)?;
    let setting = moment.setting(&subject.contents().status, exporter);
    let Moment {
        now_ms, policy, lists, ..
    } = moment;
    let contents = subject.contents();
    let name = node_of(&contents.subject).to_owned();
    let owner = match policy.inventory.by_name(&name) {
        Lookup::Node(node) => node.owner.as_deref(),
        _ => None,
    };
    if app.standings.is_late(&name) {
        let detail = "the node has missed its deadline: nothing below it is granted or renewed until it attests";
        return Err(Refusal::new(RefusalCode::NodeStale, detail));
    }
    // Read before what is in memory: what changes between the two is found at the commit.
    let (held_key, held_revision) = holds::revision(&*app.store).map_err(unreadable)?;
    let listed = match policy.inventory.by_name(&name) {
        Lookup::Node(node) => Some(node),
        _ => None,
    };
    // Who is suspended gets nothing by asking anew, under its own name.
    if let Some(held) = app.holds.against(&format!("{}@{name}", request.label), listed) {
        let detail = format!("{} {} is suspended: {}", held.over, held.name, held.why);
        return Err(Refusal::new(RefusalCode::SubjectSuspended, detail));
    }
    tenants::count(app, &policy, owner)?;
    let record = nodes::by_name(&*app.store, &name).map_err(unreadable)?;
    let shown = shown::read(&*app.store, &name)?;
    let root = record.as_ref().map(|(record, _)| record.status);
    let asks = Asks {
        entry: contents.status,
        is_node: contents.depth == 0,
        root,
        wanted: For::Below(request.renew.map(index)),
    };
    let times = (now_ms, policy.settings.timers.skew_ms);
    let mut stored = Stored::read(&*app.store, &lists, &asks, times)?;
    stored.guards.push(nodes::guard(&held_key, held_revision));
    let renewed = match request.renew {
        None => None,
        Some(entry) => Some(kept(&*app.store, &lists, index(entry))?),
    };
    let dealt = match &renewed {
        Some(_) => None,
        None => Some(app.trust.deal().map_err(internal)?),
    };
    let entry = match (&renewed, dealt) {
        (Some(renewed), _) => renewed.entry,
        (None, Some(dealt)) => dealt,
        (None, None) => return Err(internal("an entry was neither dealt nor named")),
    };
    let inputs = WorkloadInputs {
        setting,
        request: request.clone(),
        node: record
            .as_ref()
            .map(|(record, revision)| (NodeFacts::from(record), revision.get())),
        shown: shown.as_ref().map(|(shown, revision)| (shown.clone(), revision.get())),
        ancestry: stored.ancestry.clone(),
        depends: request
            .depends_on
            .iter()
            .map(|dependency| {
                // A list says "valid" of places that nobody holds, too.
                let on = index(dependency.on);
                let held = app.lineage.get(&on).is_some();
                StatusSeen::of(&lists, &on).filter(|_| held)
            })
            .collect(),
        renewed,
        entry,
        cti: random().map_err(internal)?,
        signer: app.keys.authorization.kid(),
    };
    let decided = inputs.decide(&asked, &policy).map_err(internal);
    // Whoever can ask could otherwise use up every entry there is.
    let dealt = match (&decided, dealt) {
        (Ok(WorkloadDecision { issued: Some(_), .. }), dealt) => dealt,
        (_, dealt) => {
            dealt.into_iter().for_each(|entry| app.trust.give_back(entry));
            None
        }
    };
    let prepared = recorded(app, &inputs, decided?, stored, (&name, &nonce_row));
    prepared
        .inspect_err(|_| dealt.into_iter().for_each(|entry| app.trust.give_back(entry)))
        .map(|prepared| Prepared {
            entry: Entry {
                policy: Some(policy.digest),
                ..prepared.entry
            },
            dealt,
            ..prepared
        })
}

/// What is handed in for a decision.
fn recorded(
    app: &App,
    inputs: &WorkloadInputs,
    decided: WorkloadDecision,
    stored: Stored,
    (name, nonce_row): (&str, &Key),
) -> Result<Prepared, Refusal> {
    let signed = decided.statement.sign(&app.keys.statement).map_err(internal)?;
    let (inputs_digest, inputs_record) = decided.record;
    let mut guards = stored.guards;
    guards.extend([
        Guard::Absent(nonce_row.clone()),
        guard(
            rows::NODE.key(name.as_bytes()),
            inputs.node.as_ref().map_or(0, |(_, revision)| *revision),
        )?,
        guard(
            rows::SHOWN.key(name.as_bytes()),
            inputs.shown.as_ref().map_or(0, |(_, revision)| *revision),
        )?,
    ]);
    let mut writes = vec![
        Write::Put(nonce_row.clone(), inputs.setting.now_ms.to_be_bytes().to_vec()),
        Write::Put(rows::INPUTS.key(&inputs_digest).map_err(internal)?, inputs_record),
    ];
    let mut authorization = None;
    let mut effect = Effect::None;
    let mut issued = None;
    if let Some((contents, record)) = decided.issued {
        authorization = Some(contents.encode_signed(&app.keys.authorization).map_err(internal)?);
        if let Some(renewed) = &inputs.renewed {
            guards.push(guard(rows::workload(&renewed.entry), renewed.kept.1)?);
        }
        writes.push(Write::Put(
            rows::workload(&record.status).map_err(internal)?,
            record.encode(),
        ));
        if inputs.renewed.is_none() {
            // Its own row is written here.
            let rest = emptied(&record.status).map_err(internal)?;
            let own = rows::workload(&record.status).map_err(internal)?;
            writes.extend(rest.into_iter().filter(|write| *write.key() != own));
            let mut branch = stored.children;
            branch.children.insert(record.status, record.expires);
            writes.push(Write::Put(
                rows::branch(&record.parent).map_err(internal)?,
                branch.encode(),
            ));
        }
        let mut tree = stored.ancestry.tree.map(|(tree, _)| tree).unwrap_or_default();
        let before = tree.issued.len();
        tree.issued.extend(record.scopes.iter().map(ToString::to_string));
        if tree.issued.len() > before {
            writes.push(Write::Put(rows::tree(&record.root).map_err(internal)?, tree.encode()));
        }
        // What it hangs below, and what it depends on, must count when it is committed.
        effect = Effect::grant(Growth {
            entry: record.entry(),
            renews: inputs.renewed.is_some(),
        });
        issued = Some(record);
    }
    Ok(Prepared {
        answer: IssuedAnswer {
            statement: signed.bytes.clone(),
            receipt: Vec::new(),
            reasons: wire(&decided.reasons),
            authorization,
        },
        entry: Entry {
            statement: signed,
            subject: None,
            policy: None,
            guards: once(guards),
            writes,
            parts: decided.parts,
            effect,
        },
        subject: decided.subject,
        issued,
        dealt: None,
    })
}

fn index((list, generation, index): EntryNumber) -> StatusIndex {
    StatusIndex {
        list,
        generation,
        index,
    }
}
