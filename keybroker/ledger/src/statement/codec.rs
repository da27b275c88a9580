//! The payload of a statement, to and from CBOR, and what its members may be.

use std::collections::BTreeMap;

use touchstone_cose::cbor::{self, MapReader, ShapeError, Value};

use super::{
    Kind, LIMITS, MAX_LABEL_LEN, MAX_LABELS, MAX_NAME_LEN, MAX_NONCE_LEN, MAX_REASON_CODE_LEN, MAX_REASONS,
    MAX_REASONS_BYTES, Outcome, Reason, Statement, StatementError,
};
use crate::tree::Hash;

const KIND: i64 = 0;
const DOMAIN: i64 = 1;
const SUBJECT: i64 = 2;
const TIME: i64 = 3;
const POLICY_VERSION: i64 = 4;
const GLOBAL_POLICY: i64 = 5;
const REGION_POLICY: i64 = 6;
const SEMANTICS: i64 = 7;
const OUTCOME: i64 = 8;
const REASONS: i64 = 9;
const INPUTS: i64 = 10;
const REVISIONS: i64 = 11;
const BODY: i64 = 12;
const NONCE: i64 = 13;

const CONTEXT: &str = "statement";

impl Statement {
    pub(super) fn encode(&self) -> Vec<u8> {
        let reasons = self
            .reasons
            .iter()
            .map(|r| Value::array(r.texts().map(|(_, text, _)| text.into())));
        let inputs = self
            .inputs
            .iter()
            .map(|(label, digest)| (label.as_str(), Value::from(*digest)));
        let revisions = self
            .revisions
            .iter()
            .map(|(label, revision)| (label.as_str(), Value::from(*revision)));
        cbor::encode(&Value::map([
            (KIND, self.kind.as_str().into()),
            (DOMAIN, self.domain.as_str().into()),
            (SUBJECT, or_null(self.subject.as_deref())),
            (TIME, Value::int(self.time)),
            (POLICY_VERSION, self.policy_version.into()),
            (GLOBAL_POLICY, self.global_policy.into()),
            (REGION_POLICY, or_null(self.region_policy)),
            (SEMANTICS, self.semantics.as_str().into()),
            (OUTCOME, self.outcome.as_str().into()),
            (REASONS, Value::array(reasons)),
            (INPUTS, Value::text_map(inputs)),
            (REVISIONS, Value::text_map(revisions)),
            (BODY, self.body.clone()),
            (NONCE, or_null(self.nonce.as_deref())),
        ]))
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, StatementError> {
        let mut map = MapReader::new(cbor::decode(payload, LIMITS)?, CONTEXT)?;
        let kind = map.text(KIND, MAX_LABEL_LEN)?;
        let kind = Kind::parse(&kind).ok_or_else(|| StatementError::member("kind", "a known kind", "another"))?;
        let outcome = map.text(OUTCOME, MAX_LABEL_LEN)?;
        let outcome = Outcome::parse(&outcome)
            .ok_or_else(|| StatementError::member("outcome", "allow, deny or recorded", "another"))?;
        let statement = Self {
            kind,
            domain: map.text(DOMAIN, MAX_NAME_LEN)?,
            subject: match map.required(SUBJECT)? {
                Value::Null => None,
                Value::Text(text) => Some(text),
                other => return Err(wrong(SUBJECT, "text or null", &other)),
            },
            time: map.i64(TIME)?,
            policy_version: map.u64(POLICY_VERSION)?,
            global_policy: map.fixed(GLOBAL_POLICY)?,
            region_policy: match map.required(REGION_POLICY)? {
                Value::Null => None,
                other => Some(digest(&other).ok_or_else(|| wrong(REGION_POLICY, "32 bytes or null", &other))?),
            },
            semantics: map.text(SEMANTICS, MAX_NAME_LEN)?,
            outcome,
            reasons: map.array(REASONS)?.into_iter().map(reason).collect::<Result<_, _>>()?,
            inputs: labelled(map.required(INPUTS)?, INPUTS, "32 bytes", digest)?,
            revisions: labelled(
                map.required(REVISIONS)?,
                REVISIONS,
                "an unsigned integer",
                Value::as_u64,
            )?,
            body: map.required(BODY)?,
            nonce: match map.required(NONCE)? {
                Value::Null => None,
                Value::Bytes(bytes) => Some(bytes),
                other => return Err(wrong(NONCE, "bytes or null", &other)),
            },
        };
        map.finish()?;
        Ok(statement)
    }

    /// The rules that hold for every statement, before it is signed and after it was read.
    pub(super) fn check(&self) -> Result<(), StatementError> {
        name("domain", &self.domain, MAX_NAME_LEN)?;
        if let Some(subject) = &self.subject {
            name("subject", subject, MAX_NAME_LEN)?;
        }
        name("semantics id", &self.semantics, MAX_NAME_LEN)?;
        count("reasons", self.reasons.len(), MAX_REASONS)?;
        count(
            "reasons' length",
            self.reasons.iter().map(Reason::len).sum(),
            MAX_REASONS_BYTES,
        )?;
        for reason in &self.reasons {
            for (what, text, limit) in reason.texts() {
                plain(what, text, limit)?;
            }
            name("reason code", &reason.code, MAX_REASON_CODE_LEN)?;
        }
        if self.outcome == Outcome::Deny && self.reasons.is_empty() {
            return Err(StatementError::member("outcome", "a reason for a refusal", "none"));
        }
        count("inputs", self.inputs.len(), MAX_LABELS)?;
        count("revisions", self.revisions.len(), MAX_LABELS)?;
        for label in self.inputs.keys().chain(self.revisions.keys()) {
            name("label", label, MAX_LABEL_LEN)?;
        }
        if self.body.as_map().is_none() {
            return Err(StatementError::member("body", "a map", self.body.kind()));
        }
        match &self.nonce {
            Some(nonce) if nonce.is_empty() => Err(StatementError::member("nonce", "at least 1 byte", "0 bytes")),
            Some(nonce) => count("nonce's length", nonce.len(), MAX_NONCE_LEN),
            None => Ok(()),
        }
    }
}

fn or_null<T: Into<Value>>(value: Option<T>) -> Value {
    value.map_or(Value::Null, Into::into)
}

fn wrong(key: i64, expected: &str, found: &Value) -> StatementError {
    ShapeError::member(CONTEXT, format!("key {key}"), expected, found.kind()).into()
}

fn digest(value: &Value) -> Option<Hash> {
    value.as_bytes()?.try_into().ok()
}

fn reason(value: Value) -> Result<Reason, StatementError> {
    let text = |value: &Value| value.as_text().map(str::to_owned);
    let parts: Option<Vec<String>> = value.as_array().and_then(|parts| parts.iter().map(text).collect());
    match parts.map(<[String; 4]>::try_from) {
        Some(Ok([code, claim, expected, found])) => Ok(Reason {
            code,
            claim,
            expected,
            found,
        }),
        _ => Err(wrong(REASONS, "arrays of 4 texts", &value)),
    }
}

/// The map of texts to values of one kind under `key`.
fn labelled<T>(
    map: Value,
    key: i64,
    expected: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<BTreeMap<String, T>, StatementError> {
    let Value::Map(entries) = map else {
        return Err(wrong(key, "map", &map));
    };
    let entry = |(label, value): (Value, Value)| match (label, read(&value)) {
        (Value::Text(label), Some(value)) => Ok((label, value)),
        (Value::Text(_), None) => Err(wrong(key, expected, &value)),
        (other, _) => Err(wrong(key, "text labels", &other)),
    };
    entries.into_iter().map(entry).collect()
}

fn count(member: &'static str, found: usize, limit: usize) -> Result<(), StatementError> {
    if found > limit {
        return Err(StatementError::member(
            member,
            format!("at most {limit}"),
            found.to_string(),
        ));
    }
    Ok(())
}

/// Text without control characters: it will be shown on terminals.
fn plain(member: &'static str, text: &str, limit: usize) -> Result<(), StatementError> {
    count(member, text.len(), limit)?;
    if text.contains(char::is_control) {
        return Err(StatementError::member(
            member,
            "text without control characters",
            "one with them",
        ));
    }
    Ok(())
}

/// [`plain`], and not empty.
fn name(member: &'static str, text: &str, limit: usize) -> Result<(), StatementError> {
    if text.is_empty() {
        return Err(StatementError::member(member, "a name", "nothing"));
    }
    plain(member, text, limit)
}
