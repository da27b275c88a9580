//! The Attestation Result: an EAR (draft-ietf-rats-ear-04) as a signed CWT and, for people, as JSON.
//!
//! In scope: one submodule an attester, status, AR4SI vector, policy ids, our verifier claims (1006: what was found,
//! and every reason). Out of scope: raw evidence, device topology, results of other verifiers.

use std::collections::BTreeMap;

use serde_json::{Map, json};
use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_cose::cwt::{self, CwtError, claim};
use touchstone_cose::key::{SignError, Signer, VerifyingKey};
use touchstone_cose::sign1::{self, CoseError, Protected, Unverified};

use crate::appraisal::{Appraisal, ClaimValue, Claims, Tier, TrustVector};
use crate::reason::{AppraisalCode, Code, Reason};

/// Profile of this version of the draft: it changes with each.
pub const PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";
/// typ (RFC 9596) of a signed EAR.
pub const TYP: &str = "application/eat+cwt";
/// Limits of a signed EAR: every reason of an appraisal fits.
pub const LIMITS: Limits = Limits {
    max_bytes: 1 << 20,
    max_depth: 12,
    max_items: 1 << 14,
};
/// Most submodules.
pub const MAX_SUBMODS: usize = 16;
/// Longest text in an EAR, in bytes.
pub const MAX_TEXT: usize = 4096;

/// Claim keys of the draft (suggested, not yet registered).
mod key {
    pub(super) const STATUS: i64 = 1000;
    pub(super) const VECTOR: i64 = 1001;
    pub(super) const POLICY_IDS: i64 = 1003;
    pub(super) const VERIFIER_ID: i64 = 1004;
    pub(super) const VERIFIER_CLAIMS: i64 = 1006;
}

/// Members of our verifier claims.
mod member {
    pub(super) const CLAIMS: &str = "claims";
    pub(super) const REASONS: &str = "reasons";
    pub(super) const NODE: &str = "node";
}

/// Why an EAR was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EarError {
    /// No CWT, or one without validity.
    #[error("attestation result: {0}")]
    Cwt(#[from] CwtError),
    /// The COSE envelope or its signature.
    #[error("attestation result: {0}")]
    Cose(#[from] CoseError),
    /// The payload is no CBOR that is accepted.
    #[error("attestation result: {0}")]
    Cbor(#[from] CborError),
    /// The payload has another shape.
    #[error("attestation result: {0}")]
    Shape(#[from] ShapeError),
    /// Another profile.
    #[error("attestation result: expected profile {PROFILE}, found {found}")]
    Profile {
        /// What was there.
        found: String,
    },
    /// The composite says something better than a part, or a code is unknown.
    #[error("attestation result: expected {expected}, found {found}")]
    Value {
        /// What the format says.
        expected: &'static str,
        /// What was there.
        found: String,
    },
}

impl EarError {
    /// The stable code.
    pub const fn code(&self) -> AppraisalCode {
        match self {
            EarError::Cwt(CwtError::Expired { .. } | CwtError::NotYetValid { .. }) => AppraisalCode::EarExpired,
            EarError::Cose(CoseError::Key(_) | CoseError::KidMismatch { .. } | CoseError::AlgorithmMismatch { .. }) => {
                AppraisalCode::EarSignatureInvalid
            }
            _ => AppraisalCode::EarUnreadable,
        }
    }
}

/// Who verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierId {
    /// Maker of the verifier.
    pub developer: String,
    /// Its build.
    pub build: String,
}

/// A reason as it stands in an EAR: the code is text, since a reader may be older than the writer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EarReason {
    /// The stable code.
    pub code: String,
    /// What it is about.
    pub claim: String,
    /// What would have been accepted.
    pub expected: String,
    /// What came.
    pub found: String,
}

impl From<&Reason> for EarReason {
    fn from(reason: &Reason) -> Self {
        let Reason {
            code,
            claim,
            expected,
            found,
        } = reason.clone();
        Self {
            code: Code::as_str(code).to_owned(),
            claim,
            expected,
            found,
        }
    }
}

/// The appraisal of one attester.
#[derive(Debug, Clone, PartialEq)]
pub struct Submod {
    /// The verdict.
    pub status: Tier,
    /// The verdict by aspect.
    pub vector: TrustVector,
    /// The policies it was appraised by.
    pub policy_ids: Vec<String>,
    /// The node, where it is known.
    pub node: Option<String>,
    /// What was found.
    pub claims: Claims,
    /// Every reason against, sorted.
    pub reasons: Vec<EarReason>,
}

impl Submod {
    /// The submodule of an appraisal under a policy.
    pub fn new(appraisal: &Appraisal, policy_id: &str) -> Self {
        Self {
            status: appraisal.status,
            vector: appraisal.vector,
            policy_ids: vec![policy_id.to_owned()],
            node: appraisal.node.clone(),
            claims: appraisal.claims.clone(),
            reasons: appraisal.reasons.iter().map(EarReason::from).collect(),
        }
    }
}

/// An Attestation Result.
#[derive(Debug, Clone, PartialEq)]
pub struct Ear {
    /// When it was made, Unix seconds.
    pub issued_at: i64,
    /// First second at which it no longer counts, Unix seconds.
    pub expires: Option<i64>,
    /// Who verified.
    pub verifier: VerifierId,
    /// The nonce of the challenge, 8 to 64 bytes.
    pub nonce: Option<Vec<u8>>,
    /// The appraisals by attester, at least one.
    pub submods: BTreeMap<String, Submod>,
}

impl Ear {
    /// The result of one TPM appraisal at the time it was made for. It expires with what it rests on.
    pub fn of(appraisal: &Appraisal, policy_id: &str, nonce: &[u8], now: i64) -> Self {
        Self {
            issued_at: now,
            expires: (appraisal.expires != i64::MAX).then(|| appraisal.expires.saturating_add(1)),
            verifier: VerifierId {
                developer: "touchstone".to_owned(),
                build: format!(
                    "touchstone-verifier {} {}",
                    env!("CARGO_PKG_VERSION"),
                    crate::SEMANTICS_ID
                ),
            },
            nonce: (8..=64).contains(&nonce.len()).then(|| nonce.to_vec()),
            submods: [("tpm".to_owned(), Submod::new(appraisal, policy_id))].into(),
        }
    }

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

    /// Signs it: a CWT under tag 61.
    ///
    /// # Errors
    /// The signing key failed.
    pub fn sign(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        Ok(cwt::wrap(&sign1::sign(
            signer,
            &Protected::typ(TYP),
            &self.encode(),
            &[],
        )?))
    }

    /// Checks a signed EAR under `verifier_key` at `now` (Unix seconds), and reads it.
    ///
    /// # Errors
    /// [`EarError`]; the contents are looked at only after the signature.
    pub fn verify(token: &[u8], verifier_key: &VerifyingKey, now: i64) -> Result<Self, EarError> {
        let verified = Unverified::parse(cwt::unwrap(token)?, LIMITS)?.verify(verifier_key, TYP, &[])?;
        let ear = Self::decode(verified.payload())?;
        cwt::check_window(None, ear.expires.unwrap_or(i64::MAX), now, 0)?;
        Ok(ear)
    }

    /// The JSON view, with the draft's names.
    pub fn to_json(&self) -> serde_json::Value {
        let submods: Map<String, serde_json::Value> = self
            .submods
            .iter()
            .map(|(label, submod)| (label.clone(), submod_json(submod)))
            .collect();
        let mut ear = json!({
            "eat_profile": PROFILE,
            "iat": self.issued_at,
            "ear_verifier_id": { "developer": self.verifier.developer, "build": self.verifier.build },
            "submods": submods,
        });
        if let Some(members) = ear.as_object_mut() {
            members.extend(self.expires.map(|expires| ("exp".to_owned(), json!(expires))));
            members.extend(
                self.nonce
                    .as_ref()
                    .map(|nonce| ("eat_nonce".to_owned(), json!(hex::encode(nonce)))),
            );
        }
        ear
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
fn tier_of(value: i8) -> Tier {
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

fn submod_json(submod: &Submod) -> serde_json::Value {
    let vector: Map<String, serde_json::Value> = submod
        .vector
        .aspects()
        .into_iter()
        .filter_map(|(_, name, value)| Some((name.to_owned(), json!(value?))))
        .collect();
    let claims: Map<String, serde_json::Value> = submod
        .claims
        .iter()
        .map(|(name, value)| (name.clone(), claim_json(value)))
        .collect();
    let reasons: Vec<serde_json::Value> = submod
        .reasons
        .iter()
        .map(
            |EarReason {
                 code,
                 claim,
                 expected,
                 found,
             }| { json!({ "code": code, "claim": claim, "expected": expected, "found": found }) },
        )
        .collect();
    let mut verifier_claims = json!({ "claims": claims, "reasons": reasons });
    if let (Some(members), Some(node)) = (verifier_claims.as_object_mut(), &submod.node) {
        members.insert(member::NODE.to_owned(), json!(node));
    }
    json!({
        "ear_status": submod.status.as_str(),
        "ear_trustworthiness_vector": vector,
        "ear_appraisal_policy_ids": submod.policy_ids,
        "ear_verifier_claims": verifier_claims,
    })
}

fn claim_json(value: &ClaimValue) -> serde_json::Value {
    match value {
        ClaimValue::Bool(value) => json!(value),
        ClaimValue::Int(value) => json!(value),
        ClaimValue::Text(value) => json!(value),
        ClaimValue::Set(values) => json!(values),
    }
}

#[cfg(test)]
mod tests {
    use touchstone_cose::key::SigningKey;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn sample() -> Ear {
        let vector = TrustVector {
            instance_identity: Some(2),
            executables: Some(96),
            ..TrustVector::default()
        };
        let submod = Submod {
            status: Tier::Contraindicated,
            vector,
            policy_ids: vec!["demo/7".into()],
            node: Some("node-1".into()),
            claims: [
                ("secure_boot".into(), ClaimValue::Bool(true)),
                ("reset_count".into(), ClaimValue::Int(3)),
                ("binding".into(), ClaimValue::Text("session".into())),
                (
                    "leniencies".into(),
                    ClaimValue::Set(["one".to_owned(), "two".to_owned()].into()),
                ),
            ]
            .into(),
            reasons: vec![EarReason {
                code: "mok-mismatch".into(),
                claim: "PCR 14 (sha256)".into(),
                expected: "this".into(),
                found: "that".into(),
            }],
        };
        Ear {
            issued_at: NOW,
            expires: Some(NOW + 60),
            verifier: VerifierId {
                developer: "touchstone".into(),
                build: "test".into(),
            },
            nonce: Some(vec![7; 32]),
            submods: [("tpm".to_owned(), submod)].into(),
        }
    }

    #[test]
    fn a_signed_result_is_read_back_by_its_key_until_it_expires() {
        let (key, other) = (SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32]));
        let token = sample().sign(&key).unwrap();
        assert_eq!(Ear::verify(&token, &key.verifying_key(), NOW), Ok(sample()));
        let code = |token: &[u8], key: &SigningKey, now| {
            Ear::verify(token, &key.verifying_key(), now).map_err(|error| error.code())
        };
        assert_eq!(code(&token, &other, NOW), Err(AppraisalCode::EarSignatureInvalid));
        assert_eq!(code(&token, &key, NOW + 60), Err(AppraisalCode::EarExpired));
        let mut altered = token.clone();
        *altered.last_mut().unwrap() ^= 1;
        assert_eq!(code(&altered, &key, NOW), Err(AppraisalCode::EarSignatureInvalid));
        assert_eq!(
            code(&token[2..], &key, NOW),
            Err(AppraisalCode::EarUnreadable),
            "no CWT tag"
        );
        let other_type =
            cwt::wrap(&sign1::sign(&key, &Protected::typ("application/x"), &sample().encode(), &[]).unwrap());
        assert_eq!(code(&other_type, &key, NOW), Err(AppraisalCode::EarUnreadable));
    }

    #[test]
    fn wrong_contents_are_refused_although_signed() {
        let encoded = |change: fn(&mut Ear)| {
            let mut ear = sample();
            change(&mut ear);
            Ear::decode(&ear.encode())
        };
        assert!(encoded(|_| {}).is_ok());
        assert!(encoded(|ear| ear.submods.clear()).is_err(), "no submodule");
        assert!(
            encoded(|ear| ear
                .submods
                .values_mut()
                .for_each(|submod| submod.status = Tier::Affirming))
            .is_err(),
            "a status better than its worst aspect"
        );
        assert!(encoded(|ear| ear.nonce = Some(vec![1; 7])).is_err(), "a short nonce");
        let other_profile = cbor::encode(&Value::map([(claim::EAT_PROFILE, Value::text("tag:example,2026:x"))]));
        assert!(matches!(Ear::decode(&other_profile), Err(EarError::Profile { .. })));
    }

    #[test]
    fn the_json_view_has_the_names_of_the_draft() {
        let json = sample().to_json();
        assert_eq!(json["eat_profile"], PROFILE);
        let submod = &json["submods"]["tpm"];
        assert_eq!(submod["ear_status"], "contraindicated");
        assert_eq!(
            submod["ear_trustworthiness_vector"],
            json!({ "instance-identity": 2, "executables": 96 })
        );
        assert_eq!(submod["ear_appraisal_policy_ids"], json!(["demo/7"]));
        assert_eq!(submod["ear_verifier_claims"]["reasons"][0]["code"], "mok-mismatch");
        assert_eq!(submod["ear_verifier_claims"]["claims"]["secure_boot"], true);
    }

    #[test]
    fn tiers_follow_the_ranges() {
        for (value, tier) in [
            (-1, Tier::None),
            (1, Tier::None),
            (2, Tier::Affirming),
            (31, Tier::Affirming),
            (-32, Tier::Affirming),
            (32, Tier::Warning),
            (-33, Tier::Warning),
            (96, Tier::Contraindicated),
            (-97, Tier::Contraindicated),
            (i8::MIN, Tier::Contraindicated),
        ] {
            assert_eq!(tier_of(value), tier, "{value}");
        }
    }
}
