//! Decides on evidence and makes what is to be recorded of it.

use std::sync::Arc;

use touchstone_authorization::Status;
use touchstone_authorization::token::StatusIndex;
use touchstone_cose::key::Signer as _;
use touchstone_evidence::binder::{BinderInput, Role};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_ledger::statement::Reason;
use touchstone_policies::PolicySet;
use touchstone_verifier::appraisal::Activated;
use touchstone_verifier::ear::EarReason;
use touchstone_verifier::inventory::Lookup;
use touchstone_verifier::reason::AppraisalCode;
use touchstone_verifier::tpm::Public;
use touchstone_verifier::tpm::credential::check_activation;

use super::Submitted;
use super::entry::{Entries, Standing, entry};
use crate::app::App;
use crate::asked::asked;
use crate::bars;
use crate::clock::seconds;
use crate::containment::Reach;
use crate::decision::{Decided, Decision, DenialCode, SEMANTICS_ID};
use crate::entry::Entry;
use crate::first_use::{self, Seat};
use crate::hardware::{Hardware, enrolled_text};
use crate::hello::{internal, may_speak, unlisted, unreadable};
use crate::holds;
use crate::inputs::{DecisionInputs, KnownList};
use crate::logs;
use crate::node::NodeRecord;
use crate::nodes::{Stored, guard};
use crate::problem::{ReasonLine, Refusal, RefusalCode};
use crate::session::random;
use crate::standing::Note;
use crate::tenants;

/// A decision and what is to be recorded with it.
pub(super) struct Prepared {
    pub(super) decided: Decided,
    pub(super) policy: Arc<PolicySet>,
    pub(super) status: StatusIndex,
    pub(super) entry: Entry,
    /// What it takes away, which is out already: to be handed in first.
    pub(super) taken: Option<Entry>,
    /// Whom the failure reaches besides.
    pub(super) reach: Option<Reach>,
    /// Set where another identity takes the place of one that still holds rights.
    pub(super) replaces: Option<Reason>,
    /// Whether it takes one of the seats of first use.
    pub(super) takes_seat: bool,
}

/// Decides on evidence with what is stored and in force now.
pub(super) fn prepare(app: &App, submitted: &Submitted) -> Result<Prepared, Refusal> {
    let now_ms = app.clock.now_ms();
    let policy = app.live_policy(now_ms)?;
    let pending = &submitted.pending;
    let stored = Stored::read(&*app.store, &pending.node, &pending.hardware).map_err(unreadable)?;
    may_speak(&stored, &policy, &pending.node, &pending.hardware)?;
    let seat = match &pending.hardware {
        Hardware::Tpm { ek, .. } if policy.inventory.by_ek(ek) == Lookup::Unknown => {
            let (name, seat) = unlisted(&*app.store, &policy, ek, seconds(now_ms))?;
            if name != pending.node {
                let detail = "another policy has come into force, under which this machine is another node";
                return Err(Refusal::new(RefusalCode::PolicyChanged, detail));
            }
            Some(seat)
        }
        _ => None,
    };
    if pending.asked != asked(policy.demands_of(&pending.node)) {
        // An honest node quoted what it was asked for: what another policy misses in that does not speak against it.
        let detail = "another policy has come into force, which asks for other registers: say hello again";
        return Err(Refusal::new(RefusalCode::PolicyChanged, detail));
    }
    let record = stored.record.as_ref().map(|(record, _)| record);
    let same_key = record.filter(|record| pending.hardware.has_key_of(&record.enrolled));
    let (offsets, evidence) = (&submitted.offsets, submitted.evidence.clone());
    let (evidence, known) = logs::whole(&*app.store, same_key, pending.seen, offsets, evidence)?;
    is_of_the_hardware(&pending.hardware, &evidence)?;
    let activated = activated(&policy, submitted, &evidence)?;
    // Another machine that the inventory lists for this node is a new enrolment, not the enrolled identity.
    let same_machine = record.filter(|record| pending.hardware.is_machine_of(&record.enrolled));
    let kept = same_machine.filter(|record| keeps_entry(app, record));
    let status = match kept {
        Some(record) => record.status,
        None => app.trust.deal().map_err(internal)?,
    };
    let prepared = judge(
        app,
        submitted,
        (evidence, known),
        policy,
        (&stored, seat.as_ref()),
        (now_ms, status),
        activated,
    );
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
    (evidence, ima): (Collection, Option<KnownList>),
    policy: Arc<PolicySet>,
    (stored, seat): (&Stored, Option<&Seat>),
    (now_ms, status): (u64, StatusIndex),
    activated: Option<Activated>,
) -> Result<Prepared, Refusal> {
    let Submitted {
        pending,
        session_id,
        exporter,
        ..
    } = submitted;
    let record = stored.record.as_ref().map(|(record, _)| record);
    let same_machine = record.filter(|record| pending.hardware.is_machine_of(&record.enrolled));
    // Read before what is in memory: what changes between the two is found at the commit.
    let (key, revision) = holds::revision(&*app.store).map_err(unreadable)?;
    let held_row = guard(&key, revision);
    let (barred, key, revision) = bars::read(&*app.store).map_err(unreadable)?;
    let standing_rows = [held_row, guard(&key, revision)];
    let first_use = seat.map(|seat| seat.first_use);
    let inventory = first_use::inventory(first_use.as_ref(), &policy);
    let entry_of = match inventory.by_name(&pending.node) {
        Lookup::Node(node) => Some(node),
        _ => None,
    };
    let mut inputs = DecisionInputs {
        semantics: SEMANTICS_ID.to_owned(),
        domain: policy.domain.clone(),
        policy_digest: policy.digest,
        policy_expires: policy.expires,
        now: seconds(now_ms),
        session_id: *session_id,
        nonce: pending.nonce,
        tls_exporter: *exporter,
        receive_key: pending.receive_key,
        session_key: pending.session_key.clone(),
        asked: pending.asked.clone(),
        activated,
        evidence,
        ima,
        enrolled: same_machine.map(|record| record.enrolled.clone()),
        region: record.map(|record| record.region.clone()),
        revisions: stored.revisions(),
        cti: random().map_err(internal)?,
        status,
        epoch: app.trust.epoch(),
        signer: app.keys.authorization.kid(),
        first_use,
        barred,
        held: app.holds.against(&pending.node, entry_of),
    };
    let known = app.chains.of(&inputs.evidence);
    let decision = logs::decide_on(&*app.store, &mut inputs, &policy, None, known.as_ref()).map_err(internal)?;
    let mut decided = match decision {
        Decision::Decided(decided) if decided.node == pending.node => *decided,
        Decision::Decided(_) => return Err(refused(&[])),
        Decision::Refused(reasons) => return Err(refused(&reasons)),
    };
    speaks_for(&pending.hardware, &decided)?;
    // What is taken away is never counted, and neither is what nobody could be shown to have asked for.
    if let (Some(_), Lookup::Node(node)) = (&decided.grant, policy.inventory.by_name(&decided.node)) {
        tenants::count(app, &policy, node.owner.as_deref())?;
    }
    if let Some(vek) = decided.vek.take() {
        app.chains.keep(&inputs.evidence, vek);
    }
    if decided.logs_are_missing() {
        return Err(logs::incomplete("entries of the list that were judged before are gone"));
    }
    let says = |note| {
        if same_machine.is_some() {
            app.standings.note(&policy, &decided.node, note, now_ms);
        }
    };
    if decided.logs_are_behind(inputs.ima.is_some()) && app.forgive(&decided.node) {
        says(Note::Heard);
        return Err(logs::incomplete("a log does not reach the quoted value"));
    }
    // It holds nothing that could be taken from it, so a denial is worth no record: otherwise whoever has one genuine
    // machine fills the ledger and the store with its evidence.
    if seat.is_some() && same_machine.is_none() && decided.grant.is_none() {
        let detail = "a machine that nobody has listed is not admitted by what it shows";
        return Err(refused_for(detail, &decided.reasons));
    }
    let replaces = record
        .filter(|record| decided.grant.is_some() && same_machine.is_none() && !record.withdrawn)
        .map(|record| Reason {
            code: DenialCode::IdentityReplaced.as_str().into(),
            claim: pending.hardware.claim().into(),
            expected: enrolled_text(&record.enrolled),
            found: pending.hardware.to_string(),
        });
    // Only what verifies under the key enrolled for a node takes anything from it: another machine that the inventory
    // lists under the same name, and that fails, is denied and no more (`docs/protocol.md`, section 4).
    let standing = Standing {
        stored,
        seat,
        record: same_machine,
        boot: pending.boot,
        receive_key: pending.receive_public.as_ref(),
        standing: &standing_rows,
    };
    if decided.grant.is_none() && !decided.is_only_held() {
        // Before it goes out: what is withdrawn by this is not withdrawn for another reason.
        says(Note::Refused);
    }
    let Entries { decision, taken, reach } = entry(app, &policy, &standing, &inputs, &mut decided)?;
    Ok(Prepared {
        takes_seat: decided.grant.is_some() && seat.is_some_and(|seat| seat.take.is_some()),
        decided,
        policy,
        status,
        entry: decision,
        taken,
        reach,
        replaces,
    })
}

/// Evidence under another key than the hello's can not be this node's: it is not worth the work of judging it.
fn is_of_the_hardware(hardware: &Hardware, evidence: &Collection) -> Result<(), Refusal> {
    let refused = |code: AppraisalCode, expected: String, found: String, detail: &str| {
        let line = ReasonLine {
            code: code.as_str().into(),
            claim: "attestation key".into(),
            expected,
            found,
        };
        Err(Refusal::new(RefusalCode::EvidenceRefused, detail).with_reasons(vec![line]))
    };
    if matches!(hardware, Hardware::Tpm { .. }) && evidence.get(Label::TpmQuote).is_none() {
        let (expected, found) = (Label::TpmQuote.as_str().to_owned(), "no record".to_owned());
        let detail = "the hello named a TPM, and the evidence holds no quote of one";
        return refused(AppraisalCode::RecordMissing, expected, found, detail);
    }
    let Some(public) = evidence.get(Label::TpmAkPublic) else {
        return Ok(());
    };
    let name = Public::from_tpm2b_or_tpmt(public).map(|public| public.name().as_bytes().to_vec());
    let expected = match hardware {
        Hardware::Tpm { ak_name, .. } if name.as_ref() == Ok(ak_name) => return Ok(()),
        Hardware::Tpm { ak_name, .. } => hex::encode(ak_name),
        Hardware::Cvm(_) => "none, for the hello named a confidential VM".to_owned(),
    };
    let found = name.map_or_else(|error| error.to_string(), hex::encode);
    let detail = "the evidence brings another attestation key than the hello named";
    refused(AppraisalCode::AkOther, expected, found, detail)
}

/// What was judged is the hardware that said hello, and no other that the inventory lists under the same name: the other
/// would use, or lose, rights that are not its own.
fn speaks_for(hardware: &Hardware, decided: &Decided) -> Result<(), Refusal> {
    let other = match hardware {
        Hardware::Cvm(identity) => decided.cvm.as_ref() != Some(identity),
        Hardware::Tpm { .. } => false,
    };
    let granted = decided.grant.as_ref().map(|grant| &grant.enrolled);
    if !other && granted.is_none_or(|enrolled| hardware.has_key_of(enrolled)) {
        return Ok(());
    }
    let found = decided.cvm.as_ref().map_or("none".to_owned(), ToString::to_string);
    let line = ReasonLine {
        code: AppraisalCode::CvmOther.as_str().into(),
        claim: hardware.claim().into(),
        expected: hardware.to_string(),
        found,
    };
    let detail = "the evidence is of another machine than the one that said hello";
    Err(Refusal::new(RefusalCode::EvidenceRefused, detail).with_reasons(vec![line]))
}

/// The credential that was opened in this session; one wrong answer ends it, and says nothing about the right one.
fn activated(policy: &PolicySet, submitted: &Submitted, evidence: &Collection) -> Result<Option<Activated>, Refusal> {
    let Submitted {
        pending,
        session_id,
        activation,
        exporter,
        ..
    } = submitted;
    let Some(sent) = &pending.credential else {
        return Ok(None);
    };
    let binder = BinderInput {
        role: Role::Node,
        domain: &policy.domain,
        session_id: *session_id,
        nonce: pending.nonce,
        ckt: pending.session_key.thumbprint(),
        receive_key: pending.receive_key,
        tls_exporter: *exporter,
        manifest_digest: evidence.manifest_digest().map_err(internal)?,
    };
    let answer = activation.unwrap_or([0; 32]);
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

fn refused(reasons: &[EarReason]) -> Refusal {
    refused_for("the evidence is not authentic for this session", reasons)
}

fn refused_for(detail: &str, reasons: &[EarReason]) -> Refusal {
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
    Refusal::new(RefusalCode::EvidenceRefused, detail).with_reasons(lines.collect())
}
