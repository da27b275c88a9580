//! Inputs come back as recorded; what is altered or missing is told.

use std::collections::BTreeMap;

use touchstone_cose::key::SigningKey;
use touchstone_verifier::tpm::HashAlg;

use super::*;

const CHUNK: &[u8] = b"a chunk of entries";

fn prefix() -> ImaPrefix {
    ImaPrefix {
        entries: 2,
        bytes: 300,
        seen: vec![chunk_digest(CHUNK)],
        ..ImaPrefix::default()
    }
}

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
        ima: Some(KnownList {
            prefix: prefix(),
            entries: None,
        }),
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
        first_use: None,
        barred: Vec::new(),
        held: None,
    }
}

#[test]
fn inputs_come_back_as_recorded() {
    let full = inputs();
    let mut bare = inputs();
    (bare.activated, bare.enrolled, bare.region, bare.receive_key) = (None, None, None, Some([1; 32]));
    bare.ima = None;
    let mut again = inputs();
    again.ima.as_mut().unwrap().entries = Some(vec![CHUNK.to_vec()]);
    let mut cvm = inputs();
    cvm.enrolled = Some(crate::node::tests::cvm_record("c", [13; 32]).enrolled);
    let mut held = inputs();
    held.barred = vec![Bar::Reference("golden".into()), Bar::Signer("a".into())];
    held.held = Some(Held {
        over: "subject".into(),
        name: "a".into(),
        why: "odd traffic".into(),
    });
    for (inputs, count) in [(full, 2), (bare, 1), (again, 3), (cvm, 2), (held, 2)] {
        let RecordedInputs {
            record, parts, digest, ..
        } = inputs.record();
        assert!(record.len() < 3_000, "the log is not in the record");
        let parts: BTreeMap<_, _> = parts.into_iter().collect();
        assert_eq!(parts.len(), count);
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
fn inputs_of_earlier_releases_are_read() {
    let mut bare = inputs();
    bare.ima = None;
    let RecordedInputs { record, parts, .. } = bare.record();
    let Ok(Value::Map(mut entries)) = cbor::decode(&record, LIMITS) else {
        panic!("a map")
    };
    let parts: BTreeMap<_, _> = parts.into_iter().collect();
    let decode = |entries: &[(Value, Value)]| {
        let record = cbor::encode(&Value::Map(entries.to_vec()));
        DecisionInputs::decode(&record, |digest| parts.get(digest).cloned())
    };
    assert_eq!(decode(&entries), Ok(bare.clone()));
    entries[0].1 = Value::Unsigned(2);
    assert_eq!(decode(&entries), Ok(bare.clone()));
    let enrolled = entries.iter().position(|(key, _)| *key == Value::int(13)).unwrap();
    let mut early = entries.clone();
    early[enrolled].1 = enrolled::value(&crate::node::tests::cvm_record("c", [13; 32]).enrolled);
    assert!(decode(&early).is_err(), "format 2 has no confidential VMs");
    entries.retain(|(key, _)| *key != Value::int(21));
    assert!(decode(&entries).is_err(), "format 2 says what is known of the list");
    entries[0].1 = Value::Unsigned(1);
    assert_eq!(decode(&entries), Ok(bare));
}

#[test]
fn every_input_changes_the_digest() {
    let base = inputs().record().digest;
    let changes: [fn(&mut DecisionInputs); 15] = [
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
        |i| i.ima = None,
        |i| i.ima.as_mut().unwrap().prefix.entries += 1,
        |i| i.ima.as_mut().unwrap().entries = Some(vec![CHUNK.to_vec()]),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut other = inputs();
        change(&mut other);
        assert_ne!(other.record().digest, base, "change {n}");
    }
}
