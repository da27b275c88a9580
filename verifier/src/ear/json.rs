//! The JSON view of an EAR, with the draft's names.

use serde_json::{Map, json};

use super::{Ear, EarReason, PROFILE, Submod, member};
use crate::appraisal::ClaimValue;

impl Ear {
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
