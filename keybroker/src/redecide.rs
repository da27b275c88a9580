//! Recorded decisions made again under another policy: who would lose what, and who would gain what, before that policy is
//! in force. Nothing is granted or withdrawn here, and nothing is recorded.
//!
//! Evidence is judged at one given time under both policies, as a broker judges everyone when a policy comes into force
//! ([`crate::rejudge`]), so that a difference is one of the policies. A request for a key, or for an authorization that
//! counts in another domain, is judged at its own time: what was presented then lived then. That an authorization names
//! the policy before is no difference: it is renewed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use touchstone_cose::cbor::{self, Value};
use touchstone_cose::key::VerifyingKey;
use touchstone_evidence::collection::Label;
use touchstone_ledger::statement::{Kind, Reason, Statement, VerifiedStatement};
use touchstone_policies::{Job, PolicySet};
use touchstone_store::Store;
use touchstone_verifier::appraisal::Known;
use touchstone_verifier::ear::EarReason;
use touchstone_verifier::ima::ImaMode;

use crate::asked::{as_far_as_asked, not_asked_before};
use crate::decision::{Decided, Decision, SEMANTICS_ID, decide_under};
use crate::federation::decide::{ForeignInputs, ForeignInputsError};
use crate::inputs::DecisionInputs;
use crate::log;
use crate::record::{DecisionRecord, RecordError, RecordedDecision};
use crate::release::decide::ReleaseCode;
use crate::release::inputs::{ReleaseInputs, ReleaseInputsError};
use crate::workload::inputs::{WorkloadInputs, WorkloadInputsError};

/// Most decisions that are compared at once.
pub const MAX_COMPARED: usize = 100_000;

/// The kinds of statements that are about a decision with recorded inputs.
pub const DECISIONS: [Kind; 7] = [
    Kind::Enrolment,
    Kind::Attestation,
    Kind::Renewal,
    Kind::KeyRelease,
    Kind::FederatedAuthorization,
    Kind::WorkloadAuthorization,
    Kind::Delegation,
];

/// What a decision under one policy gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The rights: scopes (`execute:workloads`), or a key (`key db-1`).
    pub rights: BTreeSet<String>,
    /// Why not more.
    pub reasons: Vec<WhyNot>,
    /// The list of measured files was not judged, because what is kept of it is not in the record.
    pub files_not_judged: bool,
    /// What the policy asks for and was not asked for then, so that the record says nothing of it.
    pub not_asked: Vec<String>,
}

/// A reason, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct WhyNot {
    /// The stable code.
    pub code: String,
    /// What it is about.
    pub claim: String,
    /// What would have been accepted.
    pub expected: String,
    /// What was found.
    pub found: String,
}

impl Comparison {
    /// Whether nobody would lose anything, as far as all of the records tell.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        let open = |compared: &Compared| !compared.may_be_refused.is_empty();
        let mut stays = self.gaining.iter().chain(&self.unchanged);
        self.losing.is_empty() && self.undecided.is_empty() && !stays.any(open)
    }
}

impl From<&EarReason> for WhyNot {
    fn from(reason: &EarReason) -> Self {
        let EarReason {
            code,
            claim,
            expected,
            found,
        } = reason.clone();
        Self {
            code,
            claim,
            expected,
            found,
        }
    }
}

impl From<&Reason> for WhyNot {
    fn from(reason: &Reason) -> Self {
        let Reason {
            code,
            claim,
            expected,
            found,
        } = reason.clone();
        Self {
            code,
            claim,
            expected,
            found,
        }
    }
}

/// One decision under both policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Entry of the ledger.
    pub index: u64,
    /// Who it is about.
    pub subject: String,
    /// What kind of decision it was.
    pub decision: &'static str,
    /// What would be lost.
    pub lost: Vec<String>,
    /// What would be gained.
    pub gained: Vec<String>,
    /// What would stay.
    pub kept: Vec<String>,
    /// Why not more, under the new policy where something is lost, and under the old one where something is gained.
    pub reasons: Vec<WhyNot>,
    /// The list of measured files could not be judged from this record: the next attestation shows it whole.
    pub files_not_judged: bool,
    /// Why what is not lost may be refused at the next attestation all the same: what the new policy asks for and was not
    /// asked for then.
    pub may_be_refused: Vec<String>,
}

/// A record under which nothing could be decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Undecided {
    /// Entry of the ledger.
    pub index: u64,
    /// Why.
    pub why: String,
}

/// What would change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Decisions that would take something away, in the order of subjects.
    pub losing: Vec<Compared>,
    /// Decisions that would give more, and take nothing away.
    pub gaining: Vec<Compared>,
    /// Decisions that would come out the same.
    pub unchanged: Vec<Compared>,
    /// Records that tell nothing: they speak neither for the new policy nor against it.
    pub undecided: Vec<Undecided>,
}

/// Entries of the latest decision of each kind about each subject, of a key each, among the `last` entries of a ledger of
/// `size` entries, in their order; at most [`MAX_COMPARED`] entries are looked through.
///
/// # Errors
/// [`RecordError`]: the store, or a statement that cannot be read.
pub fn recent(store: &dyn Store, size: u64, last: u64, key: &VerifyingKey) -> Result<Vec<u64>, RecordError> {
    let mut latest = BTreeMap::new();
    let start = size.saturating_sub(last.min(MAX_COMPARED as u64));
    for index in start..size {
        let Some(entry) = log::entry(store, index)? else {
            continue;
        };
        let verified = VerifiedStatement::parse(&entry, key)?;
        let statement = verified.statement();
        if DECISIONS.contains(&statement.kind) && statement.inputs.contains_key("inputs") {
            // What a node showed is one, whether it enrolled or attested; a key is one of its name and resource, and what
            // is asked for another domain is one of that domain and those scopes; what is asked for a workload is one of
            // who asks and those scopes.
            let what = match statement.kind {
                Kind::KeyRelease => Some(members(&statement.body, [0, 2])),
                Kind::FederatedAuthorization => Some(members(&statement.body, [0, 1])),
                Kind::WorkloadAuthorization | Kind::Delegation => Some(members(&statement.body, [0, 6])),
                _ => None,
            };
            latest.insert((statement.subject.clone(), what), index);
        }
    }
    let mut indexes: Vec<u64> = latest.into_values().collect();
    indexes.sort_unstable();
    Ok(indexes)
}

/// Two members of a statement's body, as bytes.
fn members(body: &Value, which: [u64; 2]) -> Vec<u8> {
    let of = |member: u64| match body {
        Value::Map(members) => members.iter().find(|(key, _)| key.as_u64() == Some(member)),
        _ => None,
    };
    let found = which.map(|member| of(member).map_or(Value::Null, |(_, value)| value.clone()));
    cbor::encode(&Value::array(found))
}

/// Makes the latest decision of each kind about each subject again, under both policies. `now` is Unix seconds.
#[must_use]
pub fn compare(records: &[DecisionRecord], old: &PolicySet, new: &PolicySet, now: i64) -> Comparison {
    let mut comparison = Comparison::default();
    let mut latest: BTreeMap<(String, String), (&DecisionRecord, Statement, RecordedDecision)> = BTreeMap::new();
    for record in records.iter().take(MAX_COMPARED) {
        match read(record, [old, new]) {
            Ok((statement, recorded)) => {
                let what = match &recorded {
                    RecordedDecision::Evidence(_) => String::new(),
                    RecordedDecision::Release(inputs) => format!("{} {}", inputs.request.resource, inputs.request.key),
                    RecordedDecision::Foreign(inputs) => {
                        format!("in {} {}", inputs.request.audience, inputs.request.scopes.join(" "))
                    }
                    RecordedDecision::Workload(inputs) => format!("below {}", inputs.request.scopes.join(" ")),
                };
                let subject = statement.subject.clone().unwrap_or_default();
                let place = latest.entry((subject, what));
                let entry = place.or_insert_with(|| (record, statement.clone(), recorded.clone()));
                if entry.0.index < record.index {
                    *entry = (record, statement, recorded);
                }
            }
            Err(error) => comparison.undecided.push(undecided(record, &error)),
        }
    }
    for ((subject, _), (record, statement, recorded)) in latest {
        let both =
            again(&subject, &recorded, old, now).and_then(|before| Ok((before, again(&subject, &recorded, new, now)?)));
        match both {
            Ok((before, after)) => {
                let compared = difference(record.index, subject, statement.kind.as_str(), &before, &after);
                if !compared.lost.is_empty() {
                    comparison.losing.push(compared);
                } else if !compared.gained.is_empty() {
                    comparison.gaining.push(compared);
                } else {
                    comparison.unchanged.push(compared);
                }
            }
            Err(error) => comparison.undecided.push(undecided(record, &error)),
        }
    }
    comparison
}

fn undecided(record: &DecisionRecord, error: &RecordError) -> Undecided {
    Undecided {
        index: record.index,
        why: error.to_string(),
    }
}

/// The statement, by a key of either policy's keyset, and the inputs it names.
fn read(record: &DecisionRecord, policies: [&PolicySet; 2]) -> Result<(Statement, RecordedDecision), RecordError> {
    let none = || RecordError::NotFound(format!("as entry {}", record.index));
    let mut error = None;
    let keys = policies.iter().flat_map(|policy| &policy.keyset.keys);
    for entry in keys.filter(|entry| entry.job == Job::Statement) {
        match VerifiedStatement::parse(&record.statement, &entry.key) {
            Err(e) => error = Some(e),
            Ok(verified) => {
                let statement = verified.statement().clone();
                let expected = statement.inputs.get("inputs").copied().ok_or_else(none)?;
                let found = crate::record::sha256(&record.inputs);
                if expected != found {
                    return Err(RecordError::OtherInputs { expected, found });
                }
                return Ok((statement, record.recorded()?));
            }
        }
    }
    Err(error.map_or_else(none, RecordError::from))
}

/// Makes one recorded decision about `name` again under `policy`.
///
/// # Errors
/// [`RecordError`]: then nothing can be said of it.
pub fn again(name: &str, recorded: &RecordedDecision, policy: &PolicySet, now: i64) -> Result<Given, RecordError> {
    match recorded {
        RecordedDecision::Evidence(inputs) => evidence(name, inputs, policy, now),
        RecordedDecision::Release(inputs) => release(inputs, policy),
        RecordedDecision::Foreign(inputs) => foreign(inputs, policy),
        RecordedDecision::Workload(inputs) => workload(inputs, policy),
    }
}

fn evidence(name: &str, inputs: &DecisionInputs, policy: &PolicySet, now: i64) -> Result<Given, RecordError> {
    let inputs = DecisionInputs {
        semantics: SEMANTICS_ID.to_owned(),
        policy_digest: policy.digest,
        policy_expires: policy.expires,
        now,
        ..inputs.clone()
    };
    // By the name it was recorded under: a node that is not in the inventory is judged by the whole's.
    let demanded = policy.demands_of(name);
    // Who has no TPM quotes nothing, whatever is asked.
    let not_asked = match inputs.evidence.get(Label::TpmQuote) {
        Some(_) => not_asked_before(demanded, &inputs.asked),
        None => Vec::new(),
    };
    let mut demands = as_far_as_asked(demanded, &inputs.asked);
    let mut decision = decide_under(&inputs, policy, Some(&demands), Known::default())?;
    let files_not_judged = matches!(&decision, Decision::Decided(decided) if decided.logs_are_missing());
    if files_not_judged {
        demands.ima.mode = ImaMode::Off;
        decision = decide_under(&inputs, policy, Some(&demands), Known::default())?;
    }
    Ok(match decision {
        Decision::Refused(reasons) => Given {
            rights: BTreeSet::new(),
            reasons: reasons.iter().map(WhyNot::from).collect(),
            files_not_judged,
            not_asked,
        },
        Decision::Decided(decided) => Given {
            rights: rights(&decided),
            reasons: decided
                .reasons
                .iter()
                .chain(&decided.withheld)
                .map(WhyNot::from)
                .collect(),
            files_not_judged,
            not_asked,
        },
    })
}

fn rights(decided: &Decided) -> BTreeSet<String> {
    let scopes = decided.grant.iter().flat_map(|grant| &grant.authorization.scopes);
    scopes.map(ToString::to_string).collect()
}

fn release(inputs: &ReleaseInputs, policy: &PolicySet) -> Result<Given, RecordError> {
    let rights = [format!("key {}", inputs.request.key)].into();
    let inputs = ReleaseInputs {
        setting: inputs.setting.under(policy),
        ..inputs.clone()
    };
    match inputs.again(policy) {
        Ok(decision) => Ok(asked_for(rights, &decision.reasons)),
        Err(ReleaseInputsError::Nobody { codes }) => Ok(nobody(&codes)),
        Err(error) => Err(error.into()),
    }
}

fn foreign(inputs: &ForeignInputs, policy: &PolicySet) -> Result<Given, RecordError> {
    let audience = &inputs.request.audience;
    let scopes = inputs.request.scopes.iter();
    let rights = scopes.map(|scope| format!("{scope} in {audience}")).collect();
    let inputs = ForeignInputs {
        setting: inputs.setting.under(policy),
        ..inputs.clone()
    };
    match inputs.again(policy) {
        Ok(decision) => Ok(asked_for(rights, &decision.reasons)),
        Err(ForeignInputsError::Nobody { codes }) => Ok(nobody(&codes)),
        Err(error) => Err(error.into()),
    }
}

fn workload(inputs: &WorkloadInputs, policy: &PolicySet) -> Result<Given, RecordError> {
    let rights = inputs.request.scopes.iter().cloned().collect();
    let inputs = WorkloadInputs {
        setting: inputs.setting.under(policy),
        ..inputs.clone()
    };
    match inputs.again(policy) {
        Ok(decision) => Ok(asked_for(rights, &decision.reasons)),
        Err(WorkloadInputsError::Nobody { codes }) => Ok(nobody(&codes)),
        Err(error) => Err(error.into()),
    }
}

/// What was asked for, where nothing speaks against it but that the authorization is of the policy before.
fn asked_for(rights: BTreeSet<String>, reasons: &[Reason]) -> Given {
    let renewed = |reason: &&Reason| reason.code != ReleaseCode::AuthorizationPolicyStale.as_str();
    let reasons: Vec<WhyNot> = reasons.iter().filter(renewed).map(WhyNot::from).collect();
    Given {
        rights: if reasons.is_empty() { rights } else { BTreeSet::new() },
        reasons,
        files_not_judged: false,
        not_asked: Vec::new(),
    }
}

/// Who asked is not known any more: the keys are not those of this policy.
fn nobody(codes: &[String]) -> Given {
    let reason = |code: &String| WhyNot {
        code: code.clone(),
        claim: "authorization".into(),
        expected: "one that counts under this policy".into(),
        found: "another".into(),
    };
    Given {
        rights: BTreeSet::new(),
        reasons: codes.iter().map(reason).collect(),
        files_not_judged: false,
        not_asked: Vec::new(),
    }
}

fn difference(index: u64, subject: String, decision: &'static str, before: &Given, after: &Given) -> Compared {
    let only =
        |these: &BTreeSet<String>, those: &BTreeSet<String>| these.difference(those).cloned().collect::<Vec<_>>();
    let (lost, gained) = (only(&before.rights, &after.rights), only(&after.rights, &before.rights));
    let mut reasons = Vec::new();
    if !lost.is_empty() {
        // What stood against it before explains nothing of what is lost now.
        reasons.extend(
            after
                .reasons
                .iter()
                .filter(|reason| !before.reasons.contains(reason))
                .cloned(),
        );
    }
    if !gained.is_empty() {
        reasons.extend(
            before
                .reasons
                .iter()
                .filter(|reason| !after.reasons.contains(reason))
                .cloned(),
        );
    }
    Compared {
        index,
        subject,
        decision,
        kept: before.rights.intersection(&after.rights).cloned().collect(),
        lost,
        gained,
        reasons,
        files_not_judged: before.files_not_judged || after.files_not_judged,
        // Who would have nothing has nothing to be refused.
        may_be_refused: if after.rights.is_empty() {
            Vec::new()
        } else {
            after.not_asked.clone()
        },
    }
}
