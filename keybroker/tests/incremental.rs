//! Only log bytes that the broker has not seen travel; what was seen counts in one boot, for one key, while it is there.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::client::{Client, Problem};
use common::tpm::{SoftKey, SoftNode};
use common::{DOMAIN, Domain, attest, decided, key};
use touchstone_evidence::collection::Collection;
use touchstone_evidence::label::Label;
use touchstone_evidence::message::{Answer, LogBytes};
use touchstone_keybroker::record::DecisionRecord;
use touchstone_keybroker::service::RunningBroker;
use touchstone_policies::Job;

/// What one round sent: offsets, and how many bytes of the firmware log.
type Sent = (LogBytes, usize);

async fn round(client: &mut Client, node: &mut SoftNode) -> (Sent, Result<Answer, Problem>) {
    let challenge = client.hello(&node.hello(false)).await.unwrap();
    let submission = node.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
    let collection = Collection::decode(&submission.collection).unwrap();
    let log = collection.get(Label::FirmwareEventLog).unwrap_or_default().len();
    let sent = (submission.offsets.clone(), log);
    (sent, client.submit(&submission).await)
}

fn firmware(bytes: usize) -> LogBytes {
    LogBytes::from([(Label::FirmwareEventLog, bytes as u64)])
}

/// An event that no quote of these tests reaches: what was measured after it.
fn event() -> Vec<u8> {
    let mut event = [15u32.to_le_bytes(), 5u32.to_le_bytes(), 2u32.to_le_bytes()].concat();
    event.extend([&4u16.to_le_bytes()[..], &[1; 20], &11u16.to_le_bytes(), &[2; 32]].concat());
    event.extend([&4u32.to_le_bytes()[..], b"late"].concat());
    event
}

/// The log in the latest decision's record, as it was judged; the decision comes out the same.
fn judged_log(broker: &RunningBroker) -> Vec<u8> {
    let statement_key = key(broker, Job::Statement);
    let record = DecisionRecord::latest(&*broker.app().store, "node-1", &statement_key).unwrap();
    let read = DecisionRecord::decode(&record.encode()).unwrap();
    read.replay(&broker.app().policy(), &statement_key).unwrap();
    let evidence = read.inputs().unwrap().evidence;
    evidence.get(Label::FirmwareEventLog).unwrap().to_vec()
}

#[tokio::test]
async fn only_new_bytes_of_the_firmware_log_are_sent_and_the_whole_is_judged() {
    let mut node = SoftNode::new("good");
    node.boot = Some([1; 16]);
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let length = node.log.len();

    let (sent, answer) = round(&mut client, &mut node).await;
    assert_eq!(sent, (LogBytes::new(), length), "first contact");
    assert!(answer.unwrap().allowed);
    let (sent, answer) = round(&mut client, &mut node).await;
    assert_eq!(sent, (firmware(length), 0), "nothing new");
    assert!(answer.unwrap().allowed);
    assert_eq!(judged_log(&broker), node.log);

    node.log.extend(event());
    let (sent, answer) = round(&mut client, &mut node).await;
    assert_eq!(sent, (firmware(length), event().len()), "one event more");
    assert!(answer.unwrap().allowed);
    assert_eq!(judged_log(&broker), node.log);
    let (sent, _) = round(&mut client, &mut node).await;
    assert_eq!(sent, (firmware(length + event().len()), 0));

    // What the broker knows outlives it.
    broker.shutdown().await.unwrap();
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let (sent, answer) = round(&mut client, &mut node).await;
    assert_eq!(sent, (firmware(node.log.len()), 0), "after a restart of the broker");
    assert!(answer.unwrap().allowed);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn everything_is_asked_for_after_a_reboot_with_another_key_or_without_a_boot() {
    let mut node = SoftNode::new("good");
    node.boot = Some([1; 16]);
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let length = node.log.len();
    assert!(round(&mut client, &mut node).await.1.unwrap().allowed);

    let mut expect_whole = async |node: &mut SoftNode, what: &str| {
        let (sent, answer) = round(&mut client, node).await;
        assert_eq!(sent, (LogBytes::new(), length), "{what}");
        assert!(answer.unwrap().allowed, "{what}");
    };
    node.boot = Some([2; 16]);
    (node.resets, node.session) = (node.resets + 1, SoftKey::new());
    expect_whole(&mut node, "another boot").await;
    node.boot = None;
    expect_whole(&mut node, "a boot it does not name").await;
    node.boot = Some([2; 16]);
    expect_whole(&mut node, "a round without a boot leaves nothing behind").await;
    node.ak = SoftKey::new();
    expect_whole(&mut node, "another attestation key").await;
    node.extend(4);
    assert!(!round(&mut client, &mut node).await.1.unwrap().allowed);
    let challenge = client.hello(&node.hello(false)).await.unwrap();
    assert_eq!(challenge.known, LogBytes::new(), "its rights were withdrawn");
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_tail_that_does_not_belong_is_refused_and_touches_nothing() {
    let mut node = SoftNode::new("good");
    node.boot = Some([1; 16]);
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    assert!(round(&mut client, &mut node).await.1.unwrap().allowed);
    let entries = decided(&broker).await.len();
    let length = node.log.len() as u64;

    for (name, offset, code) in [
        ("before what is known", length - 1, "evidence-not-accepted"),
        ("behind what is known", length + 1, "evidence-not-accepted"),
    ] {
        let challenge = client.hello(&node.hello(true)).await.unwrap();
        let mut submission = node.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
        submission.offsets.insert(Label::FirmwareEventLog, offset);
        assert_eq!(client.submit(&submission).await.unwrap_err().code, code, "{name}");
    }
    let challenge = client.hello(&node.hello(true)).await.unwrap();
    let mut submission = node.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
    submission.offsets.insert(Label::ImaLog, 5);
    let refused = client.submit(&submission).await.unwrap_err();
    assert_eq!(refused.code, "evidence-not-accepted", "a list nobody has seen");

    // A TPM reset under the same boot id: the hint lies, the quote does not.
    let (resets, session) = (node.resets, std::mem::replace(&mut node.session, SoftKey::new()));
    node.resets += 1;
    let (sent, refused) = round(&mut client, &mut node).await;
    assert_eq!(sent.0, firmware(node.log.len()));
    assert_eq!(refused.unwrap_err().code, "logs-incomplete");
    assert_eq!(decided(&broker).await.len(), entries, "nothing was decided");
    (node.resets, node.session) = (resets, session);
    let answer = attest(&mut client, &mut node, true).await.unwrap();
    assert!(answer.allowed, "and the node goes on");
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_tail_that_makes_another_log_of_it_counts_against_the_node() {
    let mut node = SoftNode::new("good");
    node.boot = Some([1; 16]);
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    assert!(round(&mut client, &mut node).await.1.unwrap().allowed);
    node.log.extend([0x41; 40]);
    let (sent, answer) = round(&mut client, &mut node).await;
    assert_eq!(sent.1, 40);
    let answer = answer.unwrap();
    assert!(!answer.allowed && answer.reasons.iter().any(|r| r.code == "log-unreadable"));
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn large_evidence_is_read_only_where_a_challenge_is_open_and_its_length_is_announced() {
    let node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let large = vec![0u8; 100_000];
    let (status, body) = client.send(hyper::Method::POST, "/v1/evidence", large.clone()).await;
    assert_eq!(common::client::problem(status, &body).code, "request-body-too-large");
    client.hello(&node.hello(false)).await.unwrap();
    let (status, body) = client.send(hyper::Method::POST, "/v1/evidence", large).await;
    assert_eq!(common::client::problem(status, &body).code, "request-message-malformed");
    broker.shutdown().await.unwrap();
}
