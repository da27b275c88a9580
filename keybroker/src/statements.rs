//! The statements the broker makes beside decisions: the beginning of the log, policies coming into force, what an
//! operator commands, what was refused before anybody was known.

use std::collections::BTreeMap;

use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::{Kind, Outcome, Reason, Statement};
use touchstone_policies::PolicySet;

use crate::decision::DenialCode;
use crate::refusals::Summary;
use crate::trust::Mark;
use crate::withdraw::{SET, set};

/// What every statement says of the circumstances it was made in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circumstances {
    /// The domain.
    pub domain: String,
    /// Version of the policy in force.
    pub policy_version: u64,
    /// Digest of what the whole signed of it.
    pub policy_digest: [u8; 32],
    /// Which rules decide.
    pub semantics: String,
    /// The clock value, Unix seconds.
    pub now: i64,
}

impl Circumstances {
    /// Of a decision under `policy`, made by the rules `semantics` at `now`, Unix seconds.
    #[must_use]
    pub fn of(policy: &PolicySet, semantics: &str, now: i64) -> Self {
        Self {
            domain: policy.domain.clone(),
            policy_version: policy.version,
            policy_digest: policy.global_digest,
            semantics: semantics.to_owned(),
            now,
        }
    }

    /// A statement about nobody in particular, to be filled in.
    #[must_use]
    pub fn statement(&self, kind: Kind, outcome: Outcome, body: Value) -> Statement {
        Statement {
            kind,
            domain: self.domain.clone(),
            subject: None,
            time: self.now,
            policy_version: self.policy_version,
            global_policy: self.policy_digest,
            region_policy: None,
            semantics: self.semantics.clone(),
            outcome,
            reasons: Vec::new(),
            inputs: BTreeMap::new(),
            revisions: BTreeMap::new(),
            body,
            nonce: None,
        }
    }

    /// The first leaf of a log. Body: 0 origin, 1 the domain's generation, 2 key id of the log.
    #[must_use]
    pub fn genesis(&self, origin: &str, generation: u64, checkpoint: [u8; 8]) -> Statement {
        let body = Value::map([
            (0, Value::text(origin)),
            (1, Value::Unsigned(generation)),
            (2, Value::bytes(checkpoint)),
        ]);
        self.statement(Kind::Genesis, Outcome::Recorded, body)
    }

    /// A policy came into force. Body: 0 version, 1 digest, 2 root digest, 3 keyset version, 4 versions of root,
    /// snapshot and timestamp, 5 when it expires, Unix seconds, 6 what the whole signed: version and digest, 7 what each
    /// region signed that signs for itself: rows of region, version, digest and when it expires.
    #[must_use]
    pub fn activation(&self, policy: &touchstone_policies::PolicySet) -> Statement {
        let versions = &policy.versions;
        let regions = policy.regions.iter().map(|(region, signed)| {
            Value::array([
                Value::text(region.as_str()),
                Value::Unsigned(signed.version),
                Value::bytes(signed.digest),
                Value::int(signed.expires),
            ])
        });
        let body = Value::map([
            (0, Value::Unsigned(policy.version)),
            (1, Value::bytes(policy.digest)),
            (2, Value::bytes(policy.root_digest)),
            (3, Value::Unsigned(policy.keyset.version)),
            (
                4,
                Value::array([versions.root, versions.snapshot, versions.timestamp].map(Value::Unsigned)),
            ),
            (5, Value::int(policy.expires)),
            (
                6,
                Value::array([Value::Unsigned(versions.targets), Value::bytes(policy.global_digest)]),
            ),
            (7, Value::array(regions)),
        ]);
        self.statement(Kind::PolicyActivation, Outcome::Recorded, body)
    }

    /// Rights were withdrawn by a command, or because a deadline passed. Body: 0 the epoch it went out under.
    #[must_use]
    pub fn revocation(&self, node: &str, reason: Reason, epoch: u64) -> Statement {
        let body = Value::map([(0, Value::Unsigned(epoch))]);
        Statement {
            subject: Some(node.to_owned()),
            reasons: Reason::bounded(vec![reason]),
            ..self.statement(Kind::Revocation, Outcome::Recorded, body)
        }
    }

    /// Another domain's policy was taken over for what it may do here. Body: 0 SHA-256 of the root that trust began with,
    /// 1 versions of root, targets, snapshot and timestamp, 2 keyset version, 3 digest of the copy, 4 how it came, 5 when it
    /// expires, Unix seconds.
    #[must_use]
    pub fn federation_update(
        &self,
        policy: &touchstone_policies::ForeignPolicy,
        copy: &[u8; 32],
        way: &str,
    ) -> Statement {
        let versions = &policy.versions;
        let numbers = [versions.root, versions.targets, versions.snapshot, versions.timestamp];
        let body = Value::map([
            (0, Value::bytes(policy.root_digest)),
            (1, Value::array(numbers.map(Value::Unsigned))),
            (2, Value::Unsigned(policy.keyset.version)),
            (3, Value::bytes(*copy)),
            (4, Value::text(way)),
            (5, Value::int(policy.expires)),
        ]);
        Statement {
            subject: Some(policy.domain.clone()),
            ..self.statement(Kind::FederationUpdate, Outcome::Recorded, body)
        }
    }

    /// An operator took a decommissioning back. Body: 0 why.
    #[must_use]
    pub fn reinstatement(&self, node: &str, why: &str) -> Statement {
        Statement {
            subject: Some(node.to_owned()),
            ..self.statement(
                Kind::Reinstatement,
                Outcome::Recorded,
                Value::map([(0, Value::text(why))]),
            )
        }
    }

    /// Status entries were freed: everything that was granted under them ended long ago. Body: 0 the set, as
    /// [`crate::withdraw::set`] encodes it.
    #[must_use]
    pub fn status_freed(&self, set: &[u8]) -> Statement {
        let body = Value::map([(0, Value::bytes(set))]);
        self.statement(Kind::StatusFreed, Outcome::Recorded, body)
    }

    /// The last run did not end in order, so what still counted is suspended until it shows itself. Body, as of every
    /// withdrawal: 0 the epoch of the first trust state that says so, 1 how many entries, 2 "suspended". The set is the
    /// input [`SET`].
    #[must_use]
    pub fn interruption(&self, epoch: u64, entries: &[StatusIndex]) -> Statement {
        let body = Value::map([
            (0, Value::Unsigned(epoch)),
            (1, Value::Unsigned(entries.len() as u64)),
            (2, Value::text(Mark::Suspended.as_str())),
        ]);
        let mut statement = self.statement(Kind::Interruption, Outcome::Recorded, body);
        statement
            .inputs
            .insert(SET.to_owned(), set::digest(&set::encode(entries)));
        statement.reasons = vec![Reason {
            code: DenialCode::Interrupted.as_str().to_owned(),
            claim: "last run".into(),
            expected: "ended in order".into(),
            found: "ended without a mark".into(),
        }];
        statement
    }

    /// What was refused before authentication. Body: 0 from and 1 until, Unix milliseconds, 2 rows of [code, source
    /// prefix, count].
    #[must_use]
    pub fn refusals(&self, summary: &Summary) -> Statement {
        let rows = summary.counts.iter().map(|row| {
            Value::array([
                Value::text(row.code.as_str()),
                Value::text(row.prefix.to_string()),
                Value::Unsigned(row.count),
            ])
        });
        let body = Value::map([
            (0, Value::Unsigned(summary.from_ms)),
            (1, Value::Unsigned(summary.until_ms)),
            (2, Value::array(rows)),
        ]);
        self.statement(Kind::RefusalSummary, Outcome::Recorded, body)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::problem::RefusalCode;
    use crate::refusals::{MAX_SUMMARY_ROWS, Refusals};

    fn circumstances() -> Circumstances {
        Circumstances {
            domain: "demo".into(),
            policy_version: 1,
            policy_digest: [1; 32],
            semantics: "touchstone-semantics/1".into(),
            now: 1_700_000_000,
        }
    }

    #[test]
    fn the_longest_summary_is_a_statement() {
        let mut refusals = Refusals::new(1, 0);
        for n in 0..4_000u32 {
            for code in RefusalCode::ALL {
                refusals.count(
                    *code,
                    IpAddr::from([0x2001 + (n >> 8) as u16, n as u16, 0xffff, 0, 0, 0, 0, 1]),
                    1,
                );
            }
        }
        let summary = refusals.summarise(60_000).unwrap();
        assert!(summary.counts.len() > MAX_SUMMARY_ROWS);
        circumstances().refusals(&summary).payload_bytes().unwrap();
    }

    #[test]
    fn commands_are_recorded_in_words_that_are_safe_to_show() {
        let reason = Reason {
            code: "operator-command".into(),
            claim: "command".into(),
            expected: "rights as granted".into(),
            found: "stolen\u{1b}[2J".repeat(200),
        };
        let statement = circumstances().revocation("node-1", reason, 7);
        statement.payload_bytes().unwrap();
        assert!(!statement.reasons[0].found.contains('\u{1b}'));
    }
}
