//! The claims of an EAR as deterministic CBOR.

use std::collections::BTreeMap;

use touchstone_cose::cbor::{self, MapReader, ShapeError, Value};
use touchstone_cose::cwt::claim;

use super::{Ear, EarError, EarReason, LIMITS, MAX_SUBMODS, MAX_TEXT, PROFILE, Submod, VerifierId, member};
use crate::appraisal::{ClaimValue, Claims, Tier, TrustVector};

/// Claim keys of the draft (suggested, not yet registered).
mod key {
    pub(super) const STATUS: i64 = 1000;
    pub(super) const VECTOR: i64 = 1001;
    pub(super) const POLICY_IDS: i64 = 1003;
    pub(super) const VERIFIER_ID: i64 = 1004;
    pub(super) const VERIFIER_CLAIMS: i64 = 1006;
}

impl Ear {
    /// The CWT payload: deterministic CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let submods = self
            .submods
            .iter()
            .map(|(label, submod)| (label.as_str(), encode_submod(submod)));
        let verifier = [
            (0, Value::text(self.verifier.developer.as_str())),
            (1, Value::text(self.verifier.build.as_str())),
        ];
        let mut claims = vec![
            (claim::EAT_PROFILE, Value::text(PROFILE)),
            (claim::IAT, Value::int(self.issued_at)),
            (key::VERIFIER_ID, Value::map(verifier)),
            (claim::SUBMODS, Value::text_map(submods)),
        ];
        claims.extend(self.expires.map(|expires| (claim::EXP, Value::int(expires))));
        claims.extend(
            self.nonce
                .as_ref()
                .map(|nonce| (claim::NONCE, Value::bytes(nonce.as_slice()))),
        );
        cbor::encode(&Value::map(claims))
    }

    /// Reads a payload whose signature has been checked.
    ///
    /// # Errors
    /// [`EarError`]: another profile or shape.
    pub fn decode(payload: &[u8]) -> Result<Self, EarError> {
        const CONTEXT: &str = "attestation result";
        let mut claims = MapReader::new(cbor::decode(payload, LIMITS)?, CONTEXT)?;
        let profile = claims.text(claim::EAT_PROFILE, MAX_TEXT)?;
        if profile != PROFILE {
            return Err(EarError::Profile {
                found: crate::reason::sanitise(&profile, 128),
            });
        }
        let mut verifier = claims.map(key::VERIFIER_ID, "verifier id")?;
        let verifier_id = VerifierId {
            developer: verifier.text(0, MAX_TEXT)?,
            build: verifier.text(1, MAX_TEXT)?,
        };
        verifier.finish()?;
        let submods = claims.required(claim::SUBMODS)?;
        let entries = submods
            .as_map()
            .ok_or_else(|| ShapeError::whole("submods", "map", &submods))?;
        if entries.is_empty() || entries.len() > MAX_SUBMODS {
            return Err(EarError::Value {
                expected: "1 to 16 submodules",
                found: entries.len().to_string(),
            });
        }
        let mut read = BTreeMap::new();
        for (label, submod) in entries {
            let label = label
                .as_text()
                .ok_or_else(|| ShapeError::whole("submods", "text labels", label))?;
            read.insert(label.to_owned(), decode_submod(submod.clone())?);
        }
        let optional_int = |value: Option<Value>| match value {
            None => Ok(None),
            Some(value) => value
                .as_i64()
                .map(Some)
                .ok_or_else(|| ShapeError::whole(CONTEXT, "integer", &value)),
        };
        let nonce = match claims.optional(claim::NONCE) {
            None => None,
            Some(Value::Bytes(nonce)) if (8..=64).contains(&nonce.len()) => Some(nonce),
            Some(other) => return Err(ShapeError::whole("nonce", "8 to 64 bytes", &other).into()),
        };
        let ear = Self {
            issued_at: claims.i64(claim::IAT)?,
            expires: optional_int(claims.optional(claim::EXP))?,
            verifier: verifier_id,
            nonce,
            submods: read,
        };
        claims.finish()?;
        Ok(ear)
    }
}

fn encode_submod(submod: &Submod) -> Value {
    let vector = submod
        .vector
        .aspects()
        .into_iter()
        .filter_map(|(key, _, value)| Some((key, Value::int(value?.into()))));
    let claims = submod
        .claims
        .iter()
        .map(|(name, value)| (name.as_str(), encode_claim(value)));
    let reasons = submod.reasons.iter().map(|reason| {
        let EarReason {
            code,
            claim,
            expected,
            found,
        } = reason;
        Value::array([code, claim, expected, found].map(|text| Value::text(text.as_str())))
    });
    let mut verifier_claims = vec![
        (member::CLAIMS, Value::text_map(claims)),
        (member::REASONS, Value::array(reasons)),
    ];
    verifier_claims.extend(
        submod
            .node
            .as_ref()
            .map(|node| (member::NODE, Value::text(node.as_str()))),
    );
    Value::map([
        (key::STATUS, Value::int(submod.status.value().into())),
        (key::VECTOR, Value::map(vector)),
        (
            key::POLICY_IDS,
            Value::array(submod.policy_ids.iter().map(|id| Value::text(id.as_str()))),
        ),
        (key::VERIFIER_CLAIMS, Value::text_map(verifier_claims)),
    ])
}

fn encode_claim(value: &ClaimValue) -> Value {
    match value {
        ClaimValue::Bool(value) => Value::Bool(*value),
        ClaimValue::Int(value) => Value::int(*value),
        ClaimValue::Text(value) => Value::text(value.as_str()),
        ClaimValue::Set(values) => Value::array(values.iter().map(|value| Value::text(value.as_str()))),
    }
}

fn decode_submod(value: Value) -> Result<Submod, EarError> {
    let mut submod = MapReader::new(value, "submodule")?;
    let status = submod.i64(key::STATUS)?;
    let status = Tier::from_value(status).ok_or_else(|| EarError::Value {
        expected: "status 0, 2, 32 or 96",
        found: status.to_string(),
    })?;
    let mut vector = TrustVector::default();
    let aspects = submod.required(key::VECTOR)?;
    for (aspect, value) in aspects
        .as_map()
        .ok_or_else(|| ShapeError::whole("vector", "map", &aspects))?
    {
        let known = match (
            aspect.as_i64(),
            value.as_i64().and_then(|value| i8::try_from(value).ok()),
        ) {
            (Some(aspect), Some(value)) => vector.set(aspect, value),
            _ => false,
        };
        if !known {
            return Err(EarError::Value {
                expected: "aspects 0 to 7 with values of one byte",
                found: aspect.kind(),
            });
        }
    }
    let worst = vector
        .aspects()
        .into_iter()
        .filter_map(|(_, _, value)| value)
        .map(tier_of)
        .max();
    if worst.is_some_and(|worst| status != Tier::None && status < worst) {
        return Err(EarError::Value {
            expected: "a status no better than its worst aspect",
            found: status.to_string(),
        });
    }
    let policy_ids = texts(&Value::Array(submod.array(key::POLICY_IDS)?), "policy ids")?;
    let mut ours = MapReader::new(submod.required(key::VERIFIER_CLAIMS)?, "verifier claims")?;
    let claims = ours.required_text_key(member::CLAIMS)?;
    let claims = claims
        .as_map()
        .ok_or_else(|| ShapeError::whole("claims", "map", &claims))?;
    let claims = claims
        .iter()
        .map(|(name, value)| Ok((text(name)?, decode_claim(value)?)));
    let claims = claims.collect::<Result<Claims, EarError>>()?;
    let reasons = ours.required_text_key(member::REASONS)?;
    let reasons = reasons
        .as_array()
        .ok_or_else(|| ShapeError::whole("reasons", "array", &reasons))?;
    let reasons = reasons.iter().map(decode_reason).collect::<Result<_, EarError>>()?;
    let node = ours
        .optional_text_key(member::NODE)
        .map(|node| text(&node))
        .transpose()?;
    ours.finish()?;
    submod.finish()?;
    Ok(Submod {
        status,
        vector,
        policy_ids,
        node,
        claims,
        reasons,
    })
}

/// The tier of an AR4SI value (draft-ietf-rats-ar4si-09, 2.3.2).
pub(super) fn tier_of(value: i8) -> Tier {
    match value {
        -1..=1 => Tier::None,
        2..=31 | -32..=-2 => Tier::Affirming,
        32..=95 | -96..=-33 => Tier::Warning,
        _ => Tier::Contraindicated,
    }
}

fn decode_reason(value: &Value) -> Result<EarReason, EarError> {
    let wrong = || ShapeError::whole("reason", "[code, claim, expected, found]", value);
    let [code, claim, expected, found] = value.as_array().ok_or_else(wrong)? else {
        return Err(wrong().into());
    };
    Ok(EarReason {
        code: text(code)?,
        claim: text(claim)?,
        expected: text(expected)?,
        found: text(found)?,
    })
}

fn decode_claim(value: &Value) -> Result<ClaimValue, EarError> {
    Ok(match value {
        Value::Bool(value) => ClaimValue::Bool(*value),
        Value::Text(_) => ClaimValue::Text(text(value)?),
        Value::Array(_) => ClaimValue::Set(texts(value, "claim")?.into_iter().collect()),
        other => ClaimValue::Int(
            other
                .as_i64()
                .ok_or_else(|| ShapeError::whole("claim", "a claim's value", other))?,
        ),
    })
}

fn texts(value: &Value, context: &'static str) -> Result<Vec<String>, EarError> {
    value
        .as_array()
        .ok_or_else(|| ShapeError::whole(context, "array of texts", value))?
        .iter()
        .map(text)
        .collect()
}

fn text(value: &Value) -> Result<String, EarError> {
    let text = value.as_text().filter(|text| text.len() <= MAX_TEXT);
    Ok(text
        .ok_or_else(|| ShapeError::whole("text", "text of at most 4096 bytes", value))?
        .to_owned())
}
