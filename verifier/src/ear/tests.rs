use serde_json::json;
use touchstone_cose::cbor::{self, Value};
use touchstone_cose::cwt::claim;
use touchstone_cose::key::SigningKey;

use super::codec::tier_of;
use super::*;
use crate::appraisal::ClaimValue;

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
    let other_type = cwt::wrap(&sign1::sign(&key, &Protected::typ("application/x"), &sample().encode(), &[]).unwrap());
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
