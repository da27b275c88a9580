//! What comes of the decision: what is kept, the authorization, and the statement.

use touchstone_authorization::Authorization;
use touchstone_authorization::name::is_label;
use touchstone_cose::cbor::Value;
use touchstone_cose::key::VerifyingKey;
use touchstone_evidence::message::{Attributes, dependency_values};
use touchstone_ledger::statement::{Kind, Outcome, Reason, Statement};
use touchstone_policies::PolicySet;

use super::{Asking, Wanted, stands_below};
use crate::lineage::BODY_LINEAGE;
use crate::node::status_value;
use crate::record::sha256;
use crate::workload::inputs::WorkloadInputs;
use crate::workload::record::{WorkloadRecord, delegation_value, scope_values};

impl WorkloadInputs {
    /// What is to be kept of what is issued.
    pub(super) fn kept(&self, asking: &Asking<'_>, wanted: &Wanted, key: &VerifyingKey) -> WorkloadRecord {
        let parent = asking.subject.contents();
        WorkloadRecord {
            status: self.entry,
            subject: wanted.subject.clone(),
            node: asking.node_name.to_owned(),
            root: self.node.as_ref().map_or(parent.status, |(record, _)| record.status),
            parent: parent.status,
            depth: wanted.depth,
            key: key.thumbprint(),
            key_kind: wanted.key_kind,
            scopes: wanted.scopes.clone(),
            delegation: wanted.delegation,
            region: self.request.region.clone(),
            purpose: self.request.purpose.clone(),
            depends_on: self.request.depends_on.clone(),
            attributes: self.request.attributes.clone(),
            cti: self.cti,
            expires: u64::try_from(wanted.expires).unwrap_or(0),
        }
    }

    pub(super) fn authorization(
        &self,
        asking: &Asking<'_>,
        policy: &PolicySet,
        kept: &WorkloadRecord,
        key: &VerifyingKey,
        statement: [u8; 32],
    ) -> Authorization {
        let now = self.setting.now_ms / 1_000;
        Authorization {
            issuer: policy.domain.clone(),
            subject: kept.subject.clone(),
            audience: policy.domain.clone(),
            expires: kept.expires,
            not_before: now,
            issued_at: now,
            cti: kept.cti,
            confirmation: key.clone(),
            scopes: kept.scopes.clone(),
            policy_version: policy.version,
            epoch: self.setting.epoch,
            parent: Some(asking.subject.contents().cti),
            statement,
            status: kept.status,
            key_kind: kept.key_kind,
            depth: kept.depth,
            delegation: kept.delegation,
            region: kept.region.clone(),
            purpose: kept.purpose.clone(),
        }
    }

    /// The statement: `workload-authorization` where a node asks, `delegation` where something below one does. Subject: what
    /// it is for. Body: 0 who asks, 1 entry of who asks, 2 `cti` of the authorization held, 3 entry of the new one, 4 its
    /// `cti` or null, 5 when it ends, Unix seconds, or null, 6 scopes, 7 thumbprint of the key or null, 8 what keeps it,
    /// 9 depth, 10 [further depth, off-line] or null, 11 region or null, 12 purpose or null, 13 dependencies: [kind,
    /// entry], 14 what the node says of it or null, 15 whether it is a renewal, 16 entry of the node, 20 the
    /// entry of the lineage or null. Where it is denied, 3, 4 and 5 are null (3 is the entry that was to go on, where it was a renewal).
    pub(super) fn statement(
        &self,
        asking: &Asking<'_>,
        policy: &PolicySet,
        wanted: &Wanted,
        (reasons, kept): (&[Reason], Option<&WorkloadRecord>),
        (nonce, inputs): ([u8; 32], [u8; 32]),
    ) -> Statement {
        let parent = asking.subject.contents();
        let allowed = kept.is_some();
        let issued = |value: Value| if allowed { value } else { Value::Null };
        let text = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::text);
        let request = &self.request;
        let scopes = match allowed {
            true => scope_values(&wanted.scopes),
            false => Value::array(request.scopes.iter().map(|scope| Value::text(scope.as_str()))),
        };
        let named = allowed || request.renew.is_some();
        let root = self.node.as_ref().map(|(record, _)| status_value(&record.status));
        let body = Value::map([
            (0, Value::text(parent.subject.as_str())),
            (1, status_value(&parent.status)),
            (2, Value::bytes(parent.cti)),
            (3, if named { status_value(&self.entry) } else { Value::Null }),
            (4, issued(Value::bytes(self.cti))),
            (5, issued(Value::int(wanted.expires))),
            (6, scopes),
            (
                7,
                wanted
                    .key
                    .as_ref()
                    .map_or(Value::Null, |key| Value::bytes(key.thumbprint())),
            ),
            (8, Value::text(wanted.key_kind.as_str())),
            (9, Value::Unsigned(wanted.depth.into())),
            (10, delegation_value(wanted.delegation)),
            (11, text(&request.region)),
            (12, text(&request.purpose)),
            (13, dependency_values(&request.depends_on)),
            (14, request.attributes.as_ref().map_or(Value::Null, Attributes::value)),
            (15, Value::Bool(request.renew.is_some())),
            (16, root.unwrap_or(Value::Null)),
            (BODY_LINEAGE, kept.map_or(Value::Null, |kept| kept.entry().value())),
        ]);
        let circumstances = self.setting.circumstances(policy);
        let outcome = if allowed { Outcome::Allow } else { Outcome::Deny };
        let kind = match parent.depth {
            0 => Kind::WorkloadAuthorization,
            _ => Kind::Delegation,
        };
        // A label that is none, or none of the parent's to give, names nobody: then the statement is about who asked.
        let subject =
            Some(&wanted.subject).filter(|_| is_label(&request.label) && stands_below(&request.label, parent));
        let region = self.node.as_ref().map(|(record, _)| record.region.as_str());
        let revision = |revision: Option<u64>| revision.unwrap_or(0);
        Statement {
            subject: Some(subject.unwrap_or(&parent.subject).clone()),
            region_policy: region.and_then(|region| policy.region_digest(region)),
            reasons: Reason::bounded(reasons.to_vec()),
            inputs: [
                ("authorization".to_owned(), *asking.subject.digest()),
                ("proof".to_owned(), sha256(&request.proof)),
                ("inputs".to_owned(), inputs),
            ]
            .into(),
            revisions: [
                ("node", revision(self.node.as_ref().map(|(_, revision)| *revision))),
                ("shown", revision(self.shown.as_ref().map(|(_, revision)| *revision))),
                (
                    "parent",
                    revision(self.ancestry.above.first().map(|above| above.kept.1)),
                ),
            ]
            .map(|(label, revision)| (label.to_owned(), revision))
            .into(),
            nonce: Some(nonce.to_vec()),
            ..circumstances.statement(kind, outcome, body)
        }
    }
}
