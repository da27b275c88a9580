//! Only what the broker has not seen travels: real TPMs, a boot's measurements played into register 10, the agent's code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use swtpm_tests::boots::Boot;
use swtpm_tests::domain::{Domain, decided, eventually, rights, unlocked};
use swtpm_tests::golden;
use swtpm_tests::machine::{Machine, Plan};
use swtpm_tests::measurements::{ima_entry, ima_length};
use swtpm_tests::node::Node;
use swtpm_tests::relay::Relay;
use touchstone_attest::agent::round::RoundError;
use touchstone_attest::client::BrokerClient;
use touchstone_authorization::Status;
use touchstone_evidence::label::Label;
use touchstone_evidence::message::Answer;
use touchstone_keybroker::record::DecisionRecord;
use touchstone_keybroker::service::RunningBroker;
use touchstone_policies::{self as policies, Job};

/// What a re-attestation with nothing new may weigh on the wire: both requests, TLS and HTTP included.
const NOTHING_NEW: u64 = 4_000;
const NODE: &str = "node-1";

/// The list of `good`'s genuine boot, and `more` programs run after it.
fn list(more: usize) -> Vec<u8> {
    let mut list = Boot::GOOD.ima_list();
    for n in 0..more {
        let name = format!("/usr/bin/tool-{n:04}");
        list.extend(ima_entry(&name, name.as_bytes()));
    }
    list
}

/// How many entries a genuine boot's list has.
fn genuine() -> usize {
    (1..)
        .find(|n| ima_length(&Boot::GOOD.ima_list(), *n) == Boot::GOOD.ima_list().len())
        .unwrap()
}

/// A domain whose golden machine booted as `good` did and ran all of `list`.
fn domain(list: &[u8]) -> Domain {
    let domain = Domain::new(&[(NODE, Boot::GOOD)]);
    let repo = domain.path("policy");
    golden::stage(&repo, "programs", &Boot::GOOD, list);
    unlocked(|| policies::withdraw(&repo, "references/golden.corim")).unwrap();
    domain.publish();
    domain
}

struct Scene {
    domain: Domain,
    broker: RunningBroker,
    relay: Relay,
    client: BrokerClient,
    node: Node,
    list: Vec<u8>,
    shown: usize,
}

impl Scene {
    /// A domain whose golden machine ran `good`'s boot and `more` programs, and a node that has run the boot.
    async fn new(more: usize) -> Self {
        let list = list(more);
        let domain = domain(&list);
        let broker = domain.broker().await;
        let relay = Relay::before(broker.address()).await;
        let client = domain.client_over(relay.endpoint());
        let node = Node::start(&Boot::GOOD).await;
        let mut scene = Self {
            domain,
            broker,
            relay,
            client,
            node,
            list,
            shown: 0,
        };
        scene.runs_until(genuine());
        scene
    }

    /// The node runs what the list has up to its `entries`th entry.
    fn runs_until(&mut self, entries: usize) {
        let end = ima_length(&self.list, entries);
        self.node.swtpm.extend_list(&self.list[self.shown..end]).unwrap();
        self.shown = end;
        self.node.shows_list(&self.list[..end]);
    }

    async fn round(&mut self) -> (u64, Result<Answer, RoundError>) {
        let _ = self.relay.sent();
        let answer = self.node.attest(&mut self.client).await;
        (self.relay.sent(), answer)
    }

    async fn allowed(&mut self, what: &str) -> u64 {
        let (sent, answer) = self.round().await;
        let answer = answer.unwrap();
        assert_eq!(answer.reasons, [], "{what}");
        let _ = self.domain.check(&answer);
        println!("{what}: {sent} bytes");
        sent
    }

    /// The latest decision made again from its record; how many bytes of the list were in its evidence.
    fn replayed(&self) -> usize {
        let key = self.domain.key(Job::Statement);
        let record = DecisionRecord::latest(&*self.broker.app().store, NODE, &key).unwrap();
        let record = DecisionRecord::decode(&record.encode()).unwrap();
        record.replay(&self.broker.app().policy(), &key).unwrap();
        let evidence = record.inputs().unwrap().evidence;
        evidence.get(Label::ImaLog).unwrap().len()
    }

    async fn broker_restarts(self) -> Self {
        let Self {
            domain,
            broker,
            node,
            list,
            shown,
            ..
        } = self;
        broker.shutdown().await.unwrap();
        let broker = domain.broker().await;
        let relay = Relay::before(broker.address()).await;
        let client = domain.client_over(relay.endpoint());
        Self {
            domain,
            broker,
            relay,
            client,
            node,
            list,
            shown,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_entries_travel_once_and_then_only_what_is_new() {
    let mut scene = Scene::new(1_100).await;
    scene.runs_until(1_000);
    let whole = scene.shown + Boot::GOOD.event_log().len();
    let first = scene.allowed("first contact, 1,000 entries").await;
    assert!(first > whole as u64, "{first} bytes for {whole} of logs");
    assert_eq!(scene.replayed(), scene.shown);

    let again = scene.allowed("nothing new").await;
    assert!(again < NOTHING_NEW, "{again} bytes");
    assert_eq!(scene.replayed(), 0);

    let before = scene.shown;
    scene.runs_until(1_010);
    let ten = scene.allowed("ten entries more").await;
    assert!(ten < NOTHING_NEW + (scene.shown - before) as u64, "{ten} bytes");
    assert_eq!(scene.replayed(), scene.shown - before);

    // A restart of the agent: it knows nothing, the broker does.
    scene.node = scene.node.restarted().await;
    let after = scene.allowed("a restart of the agent").await;
    assert!(
        after < 2 * NOTHING_NEW,
        "{after} bytes, the session key's certification among them"
    );
    assert_eq!(scene.replayed(), 0);

    // A restart of the broker: it has it on its disk.
    let mut scene = scene.broker_restarts().await;
    scene.runs_until(1_011);
    let after = scene.allowed("a restart of the broker, one entry more").await;
    assert!(after < 2 * NOTHING_NEW, "{after} bytes, the TLS handshake among them");
    assert_eq!(scene.replayed(), scene.shown - ima_length(&scene.list, 1_010));

    // A reboot: everything anew, the list too.
    scene.node.swtpm.reboot(&Boot::GOOD).unwrap();
    scene.node = scene.node.restarted().await;
    scene.shown = 0;
    scene.runs_until(100);
    scene.node.boots_anew("00000000-0000-4000-8000-000000000002\n");
    let rebooted = scene.allowed("after a reboot").await;
    assert!(rebooted > scene.shown as u64);
    assert_eq!(scene.replayed(), scene.shown);
    scene.broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_id_that_lies_about_a_reset_costs_a_round_and_nothing_else() {
    let mut scene = Scene::new(10).await;
    scene.allowed("first contact").await;
    scene.node.swtpm.reboot(&Boot::GOOD).unwrap();
    scene.node = scene.node.restarted().await;
    scene.shown = 0;
    scene.runs_until(genuine());
    let entries = decided(&scene.broker);
    // The agent says hello again by itself, and sends everything.
    let sent = scene.allowed("under the same boot id").await;
    assert!(sent > (scene.shown + Boot::GOOD.event_log().len()) as u64);
    assert_eq!(decided(&scene.broker), entries + 1, "one decision");
    assert_eq!(scene.replayed(), scene.shown);
    scene.broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_no_reference_has_takes_the_rights_when_its_entry_comes() {
    let mut scene = Scene::new(10).await;
    scene.allowed("first contact").await;
    let unknown = ima_entry("/opt/unknown-tool", b"unknown");
    scene.node.swtpm.extend_list(&unknown).unwrap();
    let list = [&scene.list[..scene.shown], &unknown].concat();
    scene.node.shows_list(&list);
    let (sent, answer) = scene.round().await;
    let answer = answer.unwrap();
    assert!(sent < NOTHING_NEW, "only the new entry travels: {sent} bytes");
    assert!(
        !answer.allowed && answer.reasons.iter().any(|r| r.code == "ima-file-unknown"),
        "{:?}",
        answer.reasons
    );
    assert!(
        answer
            .reasons
            .iter()
            .any(|r| format!("{r}").contains("/opt/unknown-tool"))
    );
    assert_eq!(rights(&scene.broker, NODE).status, Some(Status::Invalid));
    scene.broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_changed_in_the_known_part_is_refused() {
    let mut scene = Scene::new(10).await;
    scene.allowed("first contact").await;
    // An entry taken out before what is known, as many bytes put in behind: the tail does not continue.
    let (second, third) = (ima_length(&scene.list, 1), ima_length(&scene.list, 2));
    let next = ima_length(&scene.list, genuine() + 1);
    scene.node.swtpm.extend_list(&scene.list[scene.shown..next]).unwrap();
    let changed = [&scene.list[..second], &scene.list[third..next]].concat();
    scene.node.shows_list(&changed);
    let (_, answer) = scene.round().await;
    let answer = answer.unwrap();
    assert!(!answer.allowed, "whole, it does not replay either");
    let codes: Vec<&str> = answer.reasons.iter().map(|r| r.code.as_str()).collect();
    assert!(codes.contains(&"ima-log-does-not-replay"), "{codes:?}");
    assert_eq!(rights(&scene.broker, NODE).status, Some(Status::Invalid));
    scene.broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_shorter_than_the_quote_has_one_more_try() {
    let list = list(3);
    let domain = domain(&list);
    let broker = domain.broker().await;
    let (mut machine, mut line) = (Machine::start(&Boot::GOOD), domain.line().await);
    let mut shown = ima_length(&list, genuine());
    machine.swtpm.extend_list(&list[..shown]).unwrap();
    machine.list = Some(list[..shown].to_vec());
    let mut round = async |machine: &mut Machine| {
        let challenge = line.hello(&machine.hello(false)).await.unwrap();
        let submission = machine.evidence(Plan::honest(&challenge, line.exporter(&challenge.nonce)));
        line.submit(&submission).await
    };
    assert!(round(&mut machine).await.unwrap().allowed);
    for entries in [genuine() + 1, genuine() + 2] {
        // Measured, and not in the list that was read: what an agent that reads too early would send.
        let before = rights(&broker, NODE);
        let end = ima_length(&list, entries);
        machine.swtpm.extend_list(&list[shown..end]).unwrap();
        let again = round(&mut machine).await.unwrap_err();
        assert_eq!(again.code, "logs-incomplete");
        assert_eq!(rights(&broker, NODE), before, "nothing is touched");
        shown = end;
        machine.list = Some(list[..shown].to_vec());
        assert!(
            round(&mut machine).await.unwrap().allowed,
            "with a new nonce and the list all is well"
        );
    }
    machine.swtpm.extend_list(&list[shown..]).unwrap();
    assert_eq!(round(&mut machine).await.unwrap_err().code, "logs-incomplete");
    let denied = round(&mut machine).await.unwrap();
    assert!(!denied.allowed, "the second time it counts");
    assert!(
        denied.reasons.iter().any(|r| r.code == "ima-log-does-not-replay"),
        "{:?}",
        denied.reasons
    );
    assert_eq!(rights(&broker, NODE).status, Some(Status::Invalid));
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_file_takes_the_rights_of_a_running_node_at_the_take_over() {
    let mut scene = Scene::new(10).await;
    scene.runs_until(genuine() + 10);
    scene.allowed("first contact").await;
    scene.allowed("what was run stays in what is kept").await;
    // The same machine without the last program.
    let fewer = ima_length(&scene.list, genuine() + 9);
    let repo = scene.domain.path("policy");
    golden::stage(&repo, "fewer", &Boot::GOOD, &scene.list[..fewer]);
    unlocked(|| policies::withdraw(&repo, "references/programs.corim")).unwrap();
    scene.domain.publish();
    eventually("the rights are gone", || {
        rights(&scene.broker, NODE).status == Some(Status::Invalid)
    })
    .await;
    let (_, answer) = scene.round().await;
    let answer = answer.unwrap();
    assert!(
        answer.reasons.iter().any(|r| r.code == "ima-file-unknown"),
        "{:?}",
        answer.reasons
    );
    scene.broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_policy_judges_what_is_kept_again_and_a_good_node_goes_on() {
    let mut scene = Scene::new(10).await;
    scene.runs_until(genuine() + 5);
    scene.allowed("first contact").await;
    // Another reference of the same machine, with more programs: what was judged before is judged again.
    let more = list(12);
    let repo = scene.domain.path("policy");
    golden::stage(&repo, "more", &Boot::GOOD, &more);
    unlocked(|| policies::withdraw(&repo, "references/programs.corim")).unwrap();
    let version = scene.broker.app().policy().version;
    scene.domain.publish();
    eventually("the policy is in force", || {
        scene.broker.app().policy().version > version
    })
    .await;
    let before = scene.shown;
    scene.runs_until(genuine() + 6);
    let sent = scene.allowed("under another policy").await;
    assert!(
        sent < NOTHING_NEW + (scene.shown - before) as u64,
        "only what is new: {sent} bytes"
    );
    assert_eq!(scene.replayed(), scene.shown - before);
    assert_eq!(rights(&scene.broker, NODE).status, Some(Status::Valid));
    scene.broker.shutdown().await.unwrap();
}
