//! A policy that has come into force judges what was granted before it: whoever holds rights for what the new policy
//! does not accept loses them now, not at its next attestation.
//!
//! What each node showed last is in the store. It is decided on again under the new policy, at the present time; good
//! evidence grants nothing here, it only keeps what there is. Enforcers take authorizations of older policies, so who
//! holds one scope more than the new policy gives loses its authorization, and has the rest at its next attestation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::{Scope, Status};
use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::{Kind, Reason, VerifiedStatement};
use touchstone_policies::{Job, PolicySet};
use touchstone_verifier::ear::EarReason;
use touchstone_verifier::ima::ImaMode;

use crate::app::App;
use crate::asked::as_far_as_asked;
use crate::bars::{self, Bar};
use crate::clock::seconds;
use crate::decision::{BODY_SCOPES, Decided, Decision, DecisionError, DenialCode, SEMANTICS_ID};
use crate::inputs::DecisionInputs;
use crate::logs;
use crate::node::NodeRecord;
use crate::nodes;
use crate::parts;
use crate::record::DecisionRecord;
use crate::rows;
use crate::trust::Mark;
use crate::withdraw::{BODY_CAUSE, Cause, Taking, take};

/// Most nodes that a statement lists by name; the set has them all.
pub const MAX_NAMED: usize = 256;

/// A node that cannot keep what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Falls {
    /// Its name.
    pub name: String,
    /// The entry it holds.
    pub entry: StatusIndex,
    /// Why.
    pub reason: Reason,
}

/// Judges every node that holds rights, and withdraws what cannot be upheld: all of it in one epoch, by one statement.
pub async fn rejudge(app: &Arc<App>) {
    rejudge_nodes(app).await;
    // What fell with its node has fallen; the rest is judged by itself.
    rejudge_workloads(app).await;
}

async fn rejudge_nodes(app: &Arc<App>) {
    let falls = falling(app, None).await;
    let Some(cause) = cause(&falls) else { return };
    let taking = Taking {
        nodes: falls.into_iter().map(|falls| (falls.name, falls.entry)).collect(),
        ..Taking::new(cause, Mark::Revoked)
    };
    if let Err(refusal) = take(app, taking).await {
        tracing::error!(detail = refusal.detail, "nodes could not be withdrawn");
    }
}

/// Workloads that the policy no longer accepts, whose nodes it does: all of them in one epoch, by one statement.
async fn rejudge_workloads(app: &Arc<App>) {
    let judged = Arc::clone(app);
    let falling = tokio::task::spawn_blocking(move || crate::workload::rejudge::falling(&judged)).await;
    let falling = match falling {
        Ok(falling) => falling,
        Err(error) => {
            tracing::error!(%error, "workloads could not be judged");
            return;
        }
    };
    let Some((first, reason)) = falling.first() else { return };
    let subject = app
        .lineage
        .get(first)
        .map(|held| held.subject)
        .filter(|_| falling.len() == 1);
    let mut cause = Cause::new(Kind::Revocation, subject.as_deref(), reason.clone());
    for (_, reason) in falling.iter().skip(1).take(MAX_NAMED) {
        if !cause.reasons.contains(reason) {
            cause.reasons.push(reason.clone());
        }
    }
    let taking = Taking {
        roots: falling.iter().map(|(entry, _)| *entry).collect(),
        ..Taking::new(cause, Mark::Revoked)
    };
    if let Err(refusal) = take(app, taking).await {
        tracing::error!(detail = refusal.detail, "workloads could not be withdrawn");
    }
}

/// What a statement about all of these says: of one node, that node; of several, their names, at most [`MAX_NAMED`], and
/// each reason once.
#[must_use]
pub fn cause(falls: &[Falls]) -> Option<Cause> {
    let first = falls.first()?;
    let subject = (falls.len() == 1).then_some(first.name.as_str());
    let mut cause = Cause::new(Kind::Revocation, subject, first.reason.clone());
    for falls in falls.iter().skip(1).take(MAX_NAMED) {
        if !cause.reasons.contains(&falls.reason) {
            cause.reasons.push(falls.reason.clone());
        }
    }
    let names = falls
        .iter()
        .take(MAX_NAMED)
        .map(|falls| Value::text(falls.name.as_str()));
    cause.body.push((BODY_CAUSE, Value::array(names)));
    Some(cause)
}

/// Who cannot keep what it holds: under the policy in force, or once this is barred besides.
pub async fn falling(app: &Arc<App>, bar: Option<&Bar>) -> Vec<Falls> {
    let mut holders: BTreeMap<String, StatusIndex> = {
        let attested = app.attested.lock().unwrap_or_else(PoisonError::into_inner);
        let held = attested.iter().map(|(name, (_, entry))| (name.clone(), *entry));
        held.collect()
    };
    // Who was granted something and has not been answered yet is in the lineage already.
    let (lists, now) = (app.trust.lists(), app.clock.now_ms() / 1_000);
    let revoked = |entry: &StatusIndex| {
        let status = lists.get(entry.list).and_then(|list| list.status(entry.index));
        status == Some(Status::Invalid)
    };
    app.lineage.read(|graph| {
        let nodes = graph.nodes_where(|_| true);
        for entry in nodes.iter().filter_map(|entry| graph.get(entry)) {
            if entry.expires > now && !revoked(&entry.status) {
                holders.entry(entry.subject).or_insert(entry.status);
            }
        }
    });
    let holders: Vec<(String, StatusIndex)> = holders.into_iter().collect();
    let (judged, bar) = (Arc::clone(app), bar.cloned());
    let judging = tokio::task::spawn_blocking({
        let holders = holders.clone();
        move || {
            let mut falling = Vec::new();
            for (name, entry) in holders {
                let reason = against(&judged, &name, bar.as_ref());
                falling.extend(reason.map(|reason| Falls { name, entry, reason }));
            }
            falling
        }
    });
    // What could not be judged is not upheld.
    judging.await.unwrap_or_else(|error| {
        let reason = because("a judgement", &error.to_string());
        let falls = |(name, entry)| Falls {
            name,
            entry,
            reason: reason.clone(),
        };
        holders.into_iter().map(falls).collect()
    })
}

/// Why the node `name` cannot keep what it holds, if it cannot. What it showed and nobody can read counts against it.
fn against(app: &App, name: &str, bar: Option<&Bar>) -> Option<Reason> {
    let record = match nodes::by_name(&*app.store, name) {
        Ok(Some((record, _))) if !record.withdrawn => record,
        Ok(_) => return None,
        Err(error) => return Some(because("its record", &error.to_string())),
    };
    let policy = app.policy();
    let inputs = match shown(app, &record) {
        Ok(inputs) => inputs,
        Err(found) => return Some(because("what it showed last", &found)),
    };
    if inputs.policy_digest == policy.digest && bar.is_none() {
        // It was decided on under this very policy.
        return None;
    }
    let mut barred = match bars::read(&*app.store) {
        Ok((barred, ..)) => barred,
        Err(error) => return Some(because("what is barred", &error.to_string())),
    };
    barred.extend(bar.cloned());
    barred.sort();
    barred.dedup();
    let decision = again(app, &policy, name, inputs, barred);
    match decision {
        Ok(Decision::Decided(decided)) => match (decided.reasons.first(), decided.grant) {
            (Some(first), _) => Some(because(&format!("{}: {}", first.code, first.claim), &first.found)),
            (None, Some(grant)) => lost(app, name, &record.granted.statement, &grant.authorization.scopes),
            (None, None) => Some(because("scopes", "none")),
        },
        Ok(Decision::Refused(reasons)) => {
            let found = reasons
                .first()
                .map_or("no node of the inventory", |reason| reason.code.as_str());
            Some(because("identity", found))
        }
        Err(error) => Some(because("a decision", &error.to_string())),
    }
}

/// What a node showed when it was granted what its record says.
fn shown(app: &App, record: &NodeRecord) -> Result<DecisionInputs, String> {
    let key = rows::INPUTS.key(&record.granted.inputs).map_err(|e| e.to_string())?;
    let row = app.store.get(&key).map_err(|e| e.to_string())?;
    let row = row.ok_or_else(|| "nothing".to_owned())?;
    let part = |digest: &[u8; 32]| parts::read(&*app.store, digest).ok().flatten();
    DecisionInputs::decode(&row.value, part).map_err(|e| e.to_string())
}

/// Decides on what a node has shown as if it showed it now.
fn again(
    app: &App,
    policy: &PolicySet,
    name: &str,
    inputs: DecisionInputs,
    barred: Vec<Bar>,
) -> Result<Decision, DecisionError> {
    let mut inputs = DecisionInputs {
        // What an earlier release granted is judged by the rules of this one.
        semantics: SEMANTICS_ID.to_owned(),
        policy_digest: policy.digest,
        policy_expires: policy.expires,
        now: seconds(app.clock.now_ms()),
        barred,
        // What is suspended is kept: whether it could be upheld is another question.
        held: None,
        ..inputs
    };
    // What it was not asked for does not speak against it, and what the broker has lost of its list does not either: it is
    // asked for both at its next attestation, and gets nothing before that.
    let mut demands = as_far_as_asked(policy.demands_of(name), &inputs.asked);
    let mut decision = logs::decide_on(&*app.store, &mut inputs, policy, Some(&demands), None);
    if matches!(&decision, Ok(Decision::Decided(decided)) if decided.logs_are_missing()) {
        demands.ima.mode = ImaMode::Off;
        decision = logs::decide_on(&*app.store, &mut inputs, policy, Some(&demands), None);
    }
    decision
}

/// Whether exactly what speaks against a node now speaks against what it showed when it was granted something last: then what
/// has changed since is the policy, or what is barred, and not the node. What cannot be read again excuses nobody.
pub fn is_of_policy(app: &App, policy: &PolicySet, record: &NodeRecord, decided: &Decided) -> bool {
    let (Ok(inputs), Ok((barred, ..))) = (shown(app, record), bars::read(&*app.store)) else {
        return false;
    };
    let Ok(Decision::Decided(before)) = again(app, policy, &decided.node, inputs, barred) else {
        return false;
    };
    before.grant.is_none() && own(&before.reasons) == own(&decided.reasons)
}

/// What speaks against the evidence itself; that somebody is suspended does not.
fn own(reasons: &[EarReason]) -> BTreeSet<(&str, &str, &str)> {
    let held = [DenialCode::Quarantined, DenialCode::Contained].map(DenialCode::as_str);
    let own = reasons.iter().filter(|reason| !held.contains(&reason.code.as_str()));
    own.map(|reason| (reason.code.as_str(), reason.claim.as_str(), reason.found.as_str()))
        .collect()
}

/// Why what `name` was granted by the statement of this digest is more than `scopes`, if it is. An authorization is one
/// piece: with one scope too many it falls, and the node gets what is left at its next attestation.
fn lost(app: &App, name: &str, granted: &[u8; 32], scopes: &[Scope]) -> Option<Reason> {
    let policy = app.policy();
    let mut keys = policy.keyset.keys.iter().filter(|entry| entry.job == Job::Statement);
    let statement = keys.find_map(|entry| {
        let record = DecisionRecord::latest(&*app.store, name, &entry.key).ok()?;
        let statement = VerifiedStatement::parse(&record.statement, &entry.key).ok()?;
        (statement.digest() == granted).then(|| statement.into_statement())
    });
    let Some(statement) = statement else {
        return Some(because("what it was granted", "no statement of it"));
    };
    let Some(held) = statement.body.get(BODY_SCOPES).and_then(Value::as_text) else {
        return Some(because("what it was granted", "no scopes in the statement of it"));
    };
    let kept: BTreeSet<String> = scopes.iter().map(ToString::to_string).collect();
    let missing = held.split(' ').find(|scope| !kept.contains(*scope))?;
    Some(because("scopes", missing))
}

fn because(claim: &str, found: &str) -> Reason {
    Reason {
        code: DenialCode::PolicyNoLonger.as_str().into(),
        claim: claim.into(),
        expected: "acceptable under the policy in force".into(),
        found: found.into(),
    }
}
