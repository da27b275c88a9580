//! Decisions of a peer, made again: one at a time, picked at random by whoever checks, out of what the peer's ledger holds
//! under its signed root. What a peer does not show counts against it as much as what it shows wrong.

use std::sync::Arc;

use touchstone_client::BrokerClient;
use touchstone_cose::cbor::{self, Limits};
use touchstone_cose::key::VerifyingKey;
use touchstone_ledger::statement::{Kind, Statement, VerifiedStatement};
use touchstone_ledger::tree::{Hash, leaf_hash, verify_inclusion};
use touchstone_policies::PolicySet;

use super::DriftCode;
use super::compare::Difference;
use super::report::Report;
use crate::decision::{DecisionError, SEMANTICS_ID};
use crate::record::{DecisionRecord, RecordError};

/// Among how many of a peer's newest entries one is picked.
pub const RECENT: u64 = 4_096;
/// Entries looked through, from the one that was picked on backwards, for a decision under the policy in force.
pub const LOOKED_THROUGH: u64 = 16;
/// Largest record that is fetched, in bytes.
pub const MAX_RECORD_BYTES: usize = 4 * 1024 * 1024;
/// Samples in a row that were not shown until the peer counts as one of which nothing is known.
pub const MAX_FAILED: u32 = 3;
/// Decisions in a row that must come out the same until one that did not is forgiven.
pub const CLEAN_AGAIN: u32 = 16;

const ENTRIES: Limits = Limits {
    max_bytes: 2 << 20,
    max_depth: 2,
    max_items: 64,
};
const PATH: Limits = Limits {
    max_bytes: 8 << 10,
    max_depth: 2,
    max_items: 128,
};

/// What came of one sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sampled {
    /// The same bytes.
    Same,
    /// Other bytes.
    Differs(Difference),
    /// There was no decision under this policy and these rules.
    Nothing,
    /// It was not shown, or what was shown is not what the ledger holds.
    Failed(String),
}

/// What came of the samples of one peer.
#[derive(Debug, Default)]
pub struct Samples {
    /// Decisions that were made again.
    pub again: u64,
    /// Samples in a row that were not shown.
    pub failed: u32,
    wrong: Option<(Difference, u32)>,
}

impl Samples {
    /// Begins with a decision that came out otherwise in an earlier run.
    pub fn begin(&mut self, wrong: Difference) {
        self.wrong = Some((wrong, 0));
    }

    /// Takes note of one.
    pub fn take(&mut self, sampled: Sampled) {
        match sampled {
            Sampled::Nothing => {}
            Sampled::Failed(_) => self.failed = self.failed.saturating_add(1),
            Sampled::Differs(difference) => {
                self.failed = 0;
                self.again = self.again.saturating_add(1);
                self.wrong = Some((difference, 0));
            }
            Sampled::Same => {
                self.failed = 0;
                self.again = self.again.saturating_add(1);
                if let Some((difference, clean)) = self.wrong.take() {
                    self.wrong = (clean + 1 < CLEAN_AGAIN).then_some((difference, clean + 1));
                }
            }
        }
    }

    /// A decision that came out otherwise, until enough others came out the same.
    #[must_use]
    pub fn difference(&self) -> Option<&Difference> {
        self.wrong.as_ref().map(|(difference, _)| difference)
    }

    /// Whether the peer shows nothing.
    #[must_use]
    pub fn withheld(&self) -> bool {
        self.failed >= MAX_FAILED
    }
}

/// A decision in a peer's ledger that can be made again here.
#[derive(Debug)]
pub struct Chosen {
    /// Its entry.
    pub index: u64,
    /// The signed statement.
    pub statement: Vec<u8>,
    /// The key that signed it.
    pub key: VerifyingKey,
}

/// Picks a decision made under `policy` out of the ledger of `report`; `at` is a random number. That the statement is
/// in that ledger is proved.
///
/// # Errors
/// Why the peer does not show it.
pub async fn choose(
    client: &mut BrokerClient,
    report: &Report,
    policy: &PolicySet,
    keys: &[VerifyingKey],
    at: u64,
) -> Result<Option<Chosen>, String> {
    let (size, root) = report.ledger;
    let Some(picked) = pick(size, at) else { return Ok(None) };
    let start = picked.saturating_sub(LOOKED_THROUGH - 1);
    let count = picked - start + 1;
    let path = format!("/v1/ledger/entries?start={start}&count={count}");
    let body = client.get(&path).await.map_err(|e| e.to_string())?;
    let entries = cbor::decode(&body, ENTRIES).map_err(|e| e.to_string())?;
    let entries = entries.as_array().unwrap_or_default();
    if entries.len() as u64 != count {
        return Err(format!("entries {start} to {picked}: {} came", entries.len()));
    }
    for (back, entry) in (0..count).zip(entries.iter().rev()) {
        let index = picked - back;
        let entry = entry
            .as_bytes()
            .ok_or_else(|| format!("entry {index} is no byte string"))?;
        let Some((key, statement)) = signed(entry, keys) else {
            return Err(format!("entry {index} is not signed by the replica's statement key"));
        };
        if !is_sample(&statement, policy.version) {
            continue;
        }
        let path = format!("/v1/ledger/proof?index={index}&size={size}");
        let body = client.get(&path).await.map_err(|e| e.to_string())?;
        let proof = digests(&body).ok_or_else(|| format!("the proof of entry {index} is malformed"))?;
        verify_inclusion(&leaf_hash(entry), index, size, &proof, &root)
            .map_err(|e| format!("entry {index} is not in the ledger that was signed: {e}"))?;
        return Ok(Some(Chosen {
            index,
            statement: entry.to_vec(),
            key: key.clone(),
        }));
    }
    Ok(None)
}

/// One of the newest entries, the genesis leaf left out.
fn pick(size: u64, at: u64) -> Option<u64> {
    let among = size.saturating_sub(1).min(RECENT);
    (among > 0).then(|| size - 1 - at % among)
}

fn signed<'a>(entry: &[u8], keys: &'a [VerifyingKey]) -> Option<(&'a VerifyingKey, Statement)> {
    keys.iter()
        .find_map(|key| Some((key, VerifiedStatement::parse(entry, key).ok()?.into_statement())))
}

/// Whether it is a decision under the policy of this version: whatever is granted here or for another domain can be picked.
fn is_sample(statement: &Statement, version: u64) -> bool {
    let recorded = matches!(
        statement.kind,
        Kind::Enrolment
            | Kind::Attestation
            | Kind::Renewal
            | Kind::KeyRelease
            | Kind::FederatedAuthorization
            | Kind::WorkloadAuthorization
            | Kind::Delegation
    );
    recorded
        && statement.inputs.contains_key("inputs")
        && statement.policy_version == version
        && statement.semantics == SEMANTICS_ID
}

fn digests(body: &[u8]) -> Option<Vec<Hash>> {
    let value = cbor::decode(body, PATH).ok()?;
    let hashes = value.as_array()?.iter();
    hashes.map(|hash| hash.as_bytes()?.try_into().ok()).collect()
}

/// Makes the decision of `record` again. Takes as long as a decision does.
#[must_use]
pub fn replay(chosen: &Chosen, record: &[u8], policy: &Arc<PolicySet>) -> Sampled {
    let record = match DecisionRecord::decode(record) {
        Ok(record) => record,
        Err(error) => return Sampled::Failed(error.to_string()),
    };
    if record.index != chosen.index || record.statement != chosen.statement {
        return Sampled::Failed(format!("the record is not that of entry {}", chosen.index));
    }
    match record.replay(policy, &chosen.key) {
        Ok(_) => Sampled::Same,
        Err(RecordError::Differs { expected, found }) => Sampled::Differs(Difference {
            code: DriftCode::Decision,
            expected: format!("entry {} made again: {found}", chosen.index),
            found: hex::encode(expected),
        }),
        Err(RecordError::Decision(DecisionError::Semantics { .. })) => Sampled::Nothing,
        Err(error) => Sampled::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong() -> Sampled {
        Sampled::Differs(Difference {
            code: DriftCode::Decision,
            expected: "a".into(),
            found: "b".into(),
        })
    }

    #[test]
    fn one_wrong_decision_counts_until_enough_are_right() {
        let mut samples = Samples::default();
        samples.take(Sampled::Same);
        assert!(samples.difference().is_none());
        samples.take(wrong());
        for _ in 1..CLEAN_AGAIN {
            samples.take(Sampled::Same);
            samples.take(Sampled::Nothing);
            assert!(samples.difference().is_some());
        }
        samples.take(Sampled::Same);
        assert!(samples.difference().is_none());
    }

    #[test]
    fn who_shows_nothing_is_not_known() {
        let mut samples = Samples::default();
        for _ in 0..MAX_FAILED {
            assert!(!samples.withheld());
            samples.take(Sampled::Failed("gone".into()));
        }
        assert!(samples.withheld());
        samples.take(Sampled::Nothing);
        assert!(samples.withheld(), "that there is nothing to show takes nothing back");
        samples.take(Sampled::Same);
        assert!(!samples.withheld());
    }

    #[test]
    fn whatever_grants_is_sampled() {
        use crate::statements::Circumstances;
        use touchstone_ledger::statement::Outcome;

        let circumstances = Circumstances {
            domain: "test.example".into(),
            policy_version: 7,
            policy_digest: [1; 32],
            semantics: SEMANTICS_ID.into(),
            now: 1,
        };
        for kind in Kind::ALL {
            let decision = matches!(
                kind,
                Kind::Enrolment
                    | Kind::Attestation
                    | Kind::Renewal
                    | Kind::KeyRelease
                    | Kind::FederatedAuthorization
                    | Kind::WorkloadAuthorization
                    | Kind::Delegation
            );
            let mut statement = circumstances.statement(*kind, Outcome::Allow, cbor::Value::Null);
            assert!(!is_sample(&statement, 7), "{kind:?} without inputs");
            statement.inputs.insert("inputs".into(), [2; 32]);
            assert_eq!(is_sample(&statement, 7), decision, "{kind:?}");
            assert!(!is_sample(&statement, 8), "{kind:?} under another policy");
        }
    }

    #[test]
    fn what_is_picked_is_there() {
        assert_eq!((pick(0, 7), pick(1, 7)), (None, None));
        for size in [2, 3, 100, RECENT, RECENT + 2, 1 << 40] {
            for at in [0, 1, 77, u64::MAX] {
                let picked = pick(size, at).unwrap();
                assert!(picked > 0 && picked < size && size - picked <= RECENT, "{size} {at}");
            }
        }
    }
}
