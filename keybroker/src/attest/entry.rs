//! What is recorded of a decision about evidence.

use touchstone_cose::key::VerifyingKey;
use touchstone_evidence::message::BOOT_ID_LEN;
use touchstone_ledger::statement::{Kind, Reason};
use touchstone_policies::PolicySet;
use touchstone_store::{Guard, Write};
use touchstone_verifier::ima::chunk_digest;
use touchstone_verifier::inventory::CvmIdentity;

use crate::app::App;
use crate::containment::{self, Reach};
use crate::decision::{Decided, DenialCode};
use crate::entry::{Effect, Entry};
use crate::first_use::Seat;
use crate::hello::{internal, unreadable};
use crate::holds;
use crate::inputs::{DecisionInputs, RecordedInputs};
use crate::lineage::{self, Growth, scopes_text};
use crate::logs;
use crate::node::{Granted, NodeRecord};
use crate::nodes::Stored;
use crate::problem::Refusal;
use crate::release::shown::{Shown, vouched};
use crate::rows;
use crate::trust::Mark;
use crate::withdraw::{Cause, Taking, out};
use crate::workload::stored::emptied;

/// What a decision rests on and changes in the store.
pub(super) struct Standing<'a> {
    /// What is stored of the node that was named.
    pub(super) stored: &'a Stored,
    /// Its seat, where no entry of the inventory lists it.
    pub(super) seat: Option<&'a Seat>,
    /// Its record, where it is of the machine that speaks.
    pub(super) record: Option<&'a NodeRecord>,
    /// The boot that machine says it is in.
    pub(super) boot: Option<[u8; BOOT_ID_LEN]>,
    /// The receive key of the hello.
    pub(super) receive_key: Option<&'a VerifyingKey>,
    /// What an operator has barred and suspended, as it was when this was decided.
    pub(super) standing: &'a [Guard],
}

/// Label, among the inputs of a revocation's statement, of the decision that it follows from.
pub const DECISION: &str = "decision";

/// What is to be recorded.
pub(super) struct Entries {
    /// The decision.
    pub(super) decision: Entry,
    /// What it takes away, which is out already: to be handed in before anything else.
    pub(super) taken: Option<Entry>,
    /// Whom the failure reaches besides.
    pub(super) reach: Option<Reach>,
}

/// The statement of a decision and everything that happens with it. What takes away goes out here.
pub(super) fn entry(
    app: &App,
    policy: &PolicySet,
    standing: &Standing<'_>,
    inputs: &DecisionInputs,
    decided: &mut Decided,
) -> Result<Entries, Refusal> {
    let (mut taken, mut reach) = (None, None);
    let statement = decided.statement.sign(&app.keys.statement).map_err(internal)?;
    let Standing {
        stored,
        seat,
        record,
        boot,
        receive_key,
        standing,
    } = *standing;
    let seen = logs::seen(boot, inputs, decided);
    let RecordedInputs {
        record: inputs_record,
        digest: inputs_digest,
        mut parts,
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
            guards.extend_from_slice(standing);
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
                logs: seen,
                first_use: seat.map(|seat| seat.first_use),
            };
            if let Some((guard, write)) = seat.and_then(|seat| seat.take.clone()) {
                guards.push(guard);
                writes.push(write);
            }
            if let Some(list) = &decided.list {
                let prefix = list.prefix.encode();
                let kept = list.chunk.iter().cloned().chain([prefix]);
                parts.extend(kept.map(|bytes| (chunk_digest(&bytes), bytes)));
            }
            let shown = Shown {
                statement: decided.digest,
                ear: decided.ear.clone(),
                receive_key: vouched(&grant.enrolled, receive_key),
                cvm: decided.cvm.as_ref().map(CvmIdentity::digest),
                disk_key_given: false,
            };
            writes.push(shown.write(&decided.node)?);
            writes.extend(stored.writes(&decided.node, &record).map_err(unreadable)?);
            let held = stored.record.as_ref().map(|(held, _)| held.status);
            if held != Some(record.status) {
                writes.extend(emptied(&record.status).map_err(internal)?);
            }
            let growth = Growth {
                entry: lineage::Entry {
                    scopes: scopes_text(&grant.authorization.scopes),
                    ..lineage::load::root(decided.node.clone(), &record)
                },
                renews: held == Some(record.status),
            };
            let grant = Effect::Grant {
                growth,
                lifts: holds::coming_back(app, &inputs.status),
            };
            (Some(policy.digest), grant)
        }
        // Good, and suspended: what it holds is kept for it.
        (None, Some(_)) if decided.is_only_held() => (Some(policy.digest), Effect::None),
        (None, Some(record)) => {
            // However little it still holds: the failure of a member reaches as far as policy says.
            let failure = containment::reach(app, policy, decided, record, inputs.first_use.as_ref());
            let (reaching, is_due) = (failure.writes(), failure.is_due());
            reach = Some(failure);
            if record.withdrawn {
                writes.extend(reaching);
            } else {
                // Taking away never waits: it goes out here, before the statement is on its way, and rests on no policy.
                taken = Some(revoke(app, decided, record, reaching)?);
            }
            if taken.is_some() || is_due {
                // Nothing may stand in the way of recording it; the session that had the nonce is used up already.
                guards.clear();
                // Where it takes nothing itself, it is this statement that says whom its failure reaches.
                let is_first = taken.is_none() && is_due;
                (None, if is_first { Effect::Due } else { Effect::None })
            } else {
                (Some(policy.digest), Effect::None)
            }
        }
        (None, None) => (Some(policy.digest), Effect::None),
    };
    let subject = Some(decided.node.clone());
    let decision = Entry {
        statement,
        subject,
        policy: policy_digest,
        guards,
        writes,
        parts,
        effect,
    };
    Ok(Entries { decision, taken, reach })
}

/// Takes what the node holds, now, for what it has just shown.
fn revoke(app: &App, decided: &Decided, record: &NodeRecord, writes: Vec<Write>) -> Result<Entry, Refusal> {
    let reason = decided.statement.reasons.first().cloned();
    let reason = reason.unwrap_or_else(|| Reason {
        code: DenialCode::NothingGranted.as_str().into(),
        claim: "evidence".into(),
        expected: "acceptable".into(),
        found: "not acceptable".into(),
    });
    let mut cause = Cause::new(Kind::Revocation, Some(&decided.node), reason);
    cause.inputs.insert(DECISION.to_owned(), decided.digest);
    let taking = Taking {
        nodes: vec![(decided.node.clone(), record.status)],
        writes,
        ..Taking::new(cause, Mark::Revoked)
    };
    Ok(out(app, taking)?.0)
}
