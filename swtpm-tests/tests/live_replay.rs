//! Every decision of a run is made again from its recorded inputs to the same bytes; a falsified record is noticed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use swtpm_tests::boots::Boot;
use swtpm_tests::domain::{self, Domain};
use swtpm_tests::node::Node;
use touchstone_attest::local;
use touchstone_keybroker::admin::SOCKET;
use touchstone_keybroker::decision::DecisionError;
use touchstone_keybroker::record::{DecisionRecord, RecordError};
use touchstone_keybroker::service::RunningBroker;
use touchstone_ledger::statement::{Kind, Outcome, VerifiedStatement};
use touchstone_policies::Job;

/// A run with everything in it: enrolments, renewals, a denial, a reboot, a command, another try.
async fn run(domain: &Domain) -> RunningBroker {
    let broker = domain.broker().await;
    let mut clients = [domain.client(), domain.client()];
    let (mut first, mut second) = (
        Node::start(&Boot::GOOD).await,
        Node::start(&Boot::CMDLINE_CHANGED).await,
    );
    for _ in 0..3 {
        assert!(first.attest(&mut clients[0]).await.unwrap().allowed);
        assert!(second.attest(&mut clients[1]).await.unwrap().allowed);
    }
    second.swtpm.extend(4, [1; 32]).unwrap();
    assert!(!second.attest(&mut clients[1]).await.unwrap().allowed);
    assert!(!second.attest(&mut clients[1]).await.unwrap().allowed);
    second.swtpm.reboot(&Boot::GOOD).unwrap();
    let mut second = second.restarted().await;
    assert!(second.attest(&mut clients[1]).await.unwrap().allowed);
    let command = br#"{"node":"node-1","reason":"test"}"#.to_vec();
    let socket = domain.path("data").join(SOCKET);
    assert_eq!(
        local::request(&socket, "POST", "/revoke", command).await.unwrap().0,
        200
    );
    assert!(first.attest(&mut clients[0]).await.unwrap().allowed);
    broker
}

fn two_nodes() -> Domain {
    Domain::new(&[("node-1", Boot::GOOD), ("node-2", Boot::CMDLINE_CHANGED)])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_of_a_run_is_made_again_to_the_same_bytes() {
    let domain = two_nodes();
    let broker = run(&domain).await;
    let key = domain.key(Job::Statement);
    let (policy, store) = (domain.trust().await.policy, &*broker.app().store);
    let (mut replayed, mut denied) = (0, 0);
    for index in 0..broker.app().head().size {
        let entry = touchstone_keybroker::log::entry(store, index).unwrap().unwrap();
        let statement = VerifiedStatement::parse(&entry, &key).unwrap();
        let about_evidence = matches!(
            statement.statement().kind,
            Kind::Enrolment | Kind::Attestation | Kind::Renewal
        );
        let record = match DecisionRecord::read(store, index, &key) {
            Ok(record) => record,
            Err(error) => {
                assert!(!about_evidence, "entry {index}: {error}");
                continue;
            }
        };
        assert!(about_evidence);
        // By policy loaded from the repository alone, through the file in which records travel.
        let again = DecisionRecord::decode(&record.encode())
            .unwrap()
            .replay(&policy, &key)
            .unwrap();
        assert_eq!(again.statement.payload_bytes().unwrap().len(), again.payload_bytes);
        assert_eq!(again.statement.digest().unwrap(), *statement.digest(), "entry {index}");
        assert_eq!(again.allowed(), statement.statement().outcome == Outcome::Allow);
        replayed += 1;
        denied += u32::from(statement.statement().outcome == Outcome::Deny);
    }
    assert_eq!((replayed, denied), (10, 2));
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_falsified_byte_in_any_part_of_a_record_is_noticed() {
    let domain = two_nodes();
    let broker = run(&domain).await;
    let key = domain.key(Job::Statement);
    let (policy, store) = (broker.app().policy(), &*broker.app().store);
    let record = DecisionRecord::latest(store, "node-2", &key).unwrap();
    record.replay(&policy, &key).unwrap();
    assert!(!record.parts.is_empty());
    let falsified = |what: &str, length: usize, step: usize, change: fn(&mut DecisionRecord) -> &mut Vec<u8>| {
        for at in (0..length).step_by(step) {
            let mut altered = record.clone();
            change(&mut altered)[at] ^= 1;
            assert!(altered.replay(&policy, &key).is_err(), "{what}, byte {at}");
        }
    };
    falsified("statement", record.statement.len(), 1, |record| &mut record.statement);
    falsified("inputs", record.inputs.len(), 1, |record| &mut record.inputs);
    falsified("first part", record.parts[0].len(), 97, |record| &mut record.parts[0]);
    falsified("last part", record.parts[record.parts.len() - 1].len(), 97, |record| {
        record.parts.last_mut().unwrap()
    });
    for part in 0..record.parts.len() {
        let mut missing = record.clone();
        missing.parts.remove(part);
        assert!(
            matches!(missing.replay(&policy, &key), Err(RecordError::Inputs(_))),
            "part {part} is missing"
        );
    }
    // Genuine inputs of another decision are not this decision's.
    let other = DecisionRecord::latest(store, "node-1", &key).unwrap();
    let mixed = DecisionRecord {
        inputs: other.inputs,
        parts: other.parts,
        ..record.clone()
    };
    assert!(matches!(
        mixed.replay(&policy, &key),
        Err(RecordError::OtherInputs { .. })
    ));
    // Nor does anybody else's signature do.
    let stranger = domain.key(Job::Ear);
    assert!(matches!(
        record.replay(&policy, &stranger),
        Err(RecordError::Statement(_))
    ));
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_replayed_under_its_own_policy_and_no_other() {
    let domain = two_nodes();
    let broker = run(&domain).await;
    let key = domain.key(Job::Statement);
    let before = domain.trust().await.policy;
    domain::add_node(&domain.path("policy"), "node-3", &Boot::IMA_UNKNOWN_EXEC).unwrap();
    domain.publish();
    let after = domain.trust().await.policy;
    assert_eq!(after.version, before.version + 1);
    let record = DecisionRecord::latest(&*broker.app().store, "node-1", &key).unwrap();
    assert!(record.replay(&before, &key).is_ok());
    let refused = record.replay(&after, &key).unwrap_err();
    assert!(
        matches!(refused, RecordError::Decision(DecisionError::Policy { .. })),
        "{refused}"
    );
    broker.shutdown().await.unwrap();
}
