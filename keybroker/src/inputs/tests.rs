//! Inputs come back as recorded; what is altered or missing is told.

use std::collections::BTreeMap;

use touchstone_cose::key::SigningKey;
use touchstone_verifier::tpm::HashAlg;

use super::*;

fn inputs() -> DecisionInputs {
    let mut evidence = Collection::bound();
    evidence.insert(Label::TpmQuote, vec![1; 100]).unwrap();
    evidence.insert(Label::FirmwareEventLog, vec![2; 5_000]).unwrap();
    DecisionInputs {
        semantics: "touchstone-semantics/1".into(),
        domain: "demo".into(),
        policy_digest: [3; 32],
        policy_expires: 1_700_080_000,
        now: 1_700_000_000,
        session_id: [4; 16],
        nonce: [5; 32],
        tls_exporter: [6; 32],
        receive_key: None,
        session_key: SigningKey::from_seed([7; 32]).verifying_key(),
        asked: PcrSelection::new([(HashAlg::Sha256, [0, 7])]).unwrap(),
        activated: Some(Activated {
            ek: EkId([8; 32]),
            ak_name: vec![9; 34],
        }),
        evidence,
        enrolled: Some(crate::node::tests::record("a").enrolled),
        region: Some("north".into()),
        revisions: vec![("node".into(), 5)],
        cti: [10; 16],
        status: StatusIndex {
            list: 1,
            generation: 2,
            index: 3,
        },
        epoch: 11,
        signer: [12; 8],
    }
}

#[test]
fn inputs_come_back_as_recorded() {
    let full = inputs();
    let mut bare = inputs();
    (bare.activated, bare.enrolled, bare.region, bare.receive_key) = (None, None, None, Some([1; 32]));
    for inputs in [full, bare] {
        let RecordedInputs {
            record, parts, digest, ..
        } = inputs.record();
        assert!(record.len() < 3_000, "the log is not in the record");
        let parts: BTreeMap<_, _> = parts.into_iter().collect();
        assert_eq!(parts.len(), 1);
        let read = DecisionInputs::decode(&record, |digest| parts.get(digest).cloned()).unwrap();
        assert_eq!(read, inputs);
        assert_eq!(read.record().digest, digest);
    }
}

#[test]
fn altered_or_missing_parts_are_told() {
    let RecordedInputs { record, parts, .. } = inputs().record();
    let digest = parts[0].0;
    assert_eq!(
        DecisionInputs::decode(&record, |_| None),
        Err(InputsError::PartMissing { digest })
    );
    let altered = DecisionInputs::decode(&record, |_| Some(vec![2; 4_999]));
    assert!(matches!(altered, Err(InputsError::PartAltered { expected, .. }) if expected == digest));
}

#[test]
fn every_input_changes_the_digest() {
    let base = inputs().record().digest;
    let changes: [fn(&mut DecisionInputs); 12] = [
        |i| i.now += 1,
        |i| i.nonce[0] ^= 1,
        |i| i.session_id[0] ^= 1,
        |i| i.tls_exporter[0] ^= 1,
        |i| i.policy_digest[0] ^= 1,
        |i| i.receive_key = Some([0; 32]),
        |i| i.session_key = SigningKey::from_seed([8; 32]).verifying_key(),
        |i| i.activated = None,
        |i| i.enrolled = None,
        |i| i.cti[0] ^= 1,
        |i| i.epoch += 1,
        |i| i.revisions[0].1 += 1,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut other = inputs();
        change(&mut other);
        assert_ne!(other.record().digest, base, "change {n}");
    }
}
