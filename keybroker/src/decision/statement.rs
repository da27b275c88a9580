//! What is recorded of a decision: the statement about a node's evidence.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{self, Value};
use touchstone_evidence::label::Label;
use touchstone_ledger::statement::{Kind, Outcome, Reason, Statement};
use touchstone_policies::PolicySet;
use touchstone_verifier::appraisal::{Appraisal, claim};
use touchstone_verifier::ear::{Ear, EarReason};
use touchstone_verifier::inventory::Node;

use super::Judged;
use crate::enrolled;
use crate::inputs::{DecisionInputs, RecordedInputs};
use crate::node;
use crate::statements::Circumstances;

/// Where the granted scopes stand in the body of a statement about evidence, as text, one space between two.
pub const BODY_SCOPES: i64 = 4;

/// The statement. Body: 0 verdict, 1 what ties the attestation key, 2 reference or null, 3 region, 4 scopes, 5 cti, 6
/// status entry, 7 end, Unix seconds (4 to 7 null where denied), 8 SHA-256 of the result's payload, 9 leniencies, 10
/// scopes withheld, as reasons; of a machine that enrolled on first use also 11: [endorsement key, since, number].
pub(super) fn statement(
    inputs: &DecisionInputs,
    policy: &PolicySet,
    appraisal: &Appraisal,
    node: &Node,
    judged: &Judged,
    ear: &Ear,
) -> Statement {
    let allowed = judged.reasons.is_empty();
    let or_null = |value: Value| if allowed { value } else { Value::Null };
    let scopes: Vec<String> = judged.scopes.iter().map(ToString::to_string).collect();
    let withheld = Reason::bounded(judged.withheld.iter().map(ledger_reason).collect());
    let withheld = withheld
        .into_iter()
        .map(|r| Value::array([r.code, r.claim, r.expected, r.found].map(Value::text)));
    let unlisted = appraisal.claims.contains_key(claim::ENROLMENT);
    let first_use = inputs.first_use.as_ref().filter(|_| unlisted);
    let members = [
        (0, Value::text(appraisal.status.as_str())),
        (1, Value::text(appraisal.ak_binding.as_str())),
        (2, appraisal.reference.as_deref().map_or(Value::Null, Value::text)),
        (3, Value::text(node.region.as_str())),
        (BODY_SCOPES, or_null(Value::text(scopes.join(" ")))),
        (5, or_null(Value::bytes(inputs.cti))),
        (6, or_null(node::status_value(&inputs.status))),
        (7, or_null(Value::int(judged.expires))),
        (8, Value::bytes(sha256(&ear.encode()))),
        (
            9,
            Value::array(
                appraisal
                    .leniencies
                    .iter()
                    .take(16)
                    .map(|text| Value::text(text.as_str())),
            ),
        ),
        (
            10,
            Value::array(if allowed {
                withheld.take(16).collect()
            } else {
                Vec::new()
            }),
        ),
    ];
    let body = Value::map(
        members
            .into_iter()
            .chain(first_use.map(|first_use| (11, first_use.value()))),
    );
    let kind = if inputs.enrolled.is_some() {
        Kind::Attestation
    } else {
        Kind::Enrolment
    };
    let circumstances = Circumstances {
        domain: inputs.domain.clone(),
        policy_version: policy.version,
        policy_digest: policy.global_digest,
        semantics: inputs.semantics.clone(),
        now: inputs.now,
    };
    Statement {
        subject: Some(node.name.clone()),
        region_policy: policy.region_digest(&node.region),
        reasons: Reason::bounded(judged.reasons.iter().map(ledger_reason).collect()),
        revisions: inputs.revisions.iter().cloned().collect(),
        nonce: Some(inputs.nonce.to_vec()),
        ..circumstances.statement(kind, if allowed { Outcome::Allow } else { Outcome::Deny }, body)
    }
}

fn ledger_reason(reason: &EarReason) -> Reason {
    let EarReason {
        code,
        claim,
        expected,
        found,
    } = reason.clone();
    Reason {
        code,
        claim,
        expected,
        found,
    }
}

/// SHA-256 of everything the decision rests on, by label.
pub(super) fn digests(
    inputs: &DecisionInputs,
    recorded: &RecordedInputs,
    policy: &PolicySet,
    node: &Node,
) -> BTreeMap<String, [u8; 32]> {
    let mut digests: BTreeMap<String, [u8; 32]> = recorded
        .evidence
        .iter()
        .map(|(label, digest)| (label.as_str().to_owned(), *digest))
        .collect();
    digests.insert("evidence".into(), sha256(&inputs.evidence.encode()));
    digests.insert("inputs".into(), recorded.digest);
    digests.insert("references".into(), policy.demands_for(node).references.digest());
    digests.insert("session".into(), session_digest(inputs));
    if let Some(known) = &inputs.ima {
        digests.insert("ima/known".into(), known.prefix.digest());
    }
    if let Some(node) = &inputs.enrolled {
        digests.insert("enrolled".into(), sha256(&cbor::encode(&enrolled::value(node))));
        if inputs.evidence.get(Label::TpmEkCertificate).is_none()
            && let Some(certificate) = node.tpm().and_then(|tpm| tpm.ek_certificate.as_ref())
        {
            digests.insert(Label::TpmEkCertificate.as_str().to_owned(), sha256(certificate));
        }
    }
    digests
}

/// Digest of the session's context: what ties the evidence to one challenge, key and connection.
fn session_digest(inputs: &DecisionInputs) -> [u8; 32] {
    sha256(&cbor::encode(&Value::array([
        Value::bytes(inputs.session_id),
        Value::bytes(inputs.nonce),
        Value::bytes(inputs.tls_exporter),
        Value::bytes(inputs.session_key.thumbprint()),
        inputs.receive_key.map_or(Value::Null, Value::bytes),
    ])))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
