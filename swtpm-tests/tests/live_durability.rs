//! A broker that is killed at any moment forgets nothing that it said, and never says two things; of many who enrol at
//! once under a name one identity is left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use swtpm_tests::boots::{Boot, KeyForm};
use swtpm_tests::domain::{self, Domain, NAME, eventually, rights, status};
use swtpm_tests::machine::{Machine, Plan};
use swtpm_tests::node::Node;
use touchstone_attest::agent::round::RoundError;
use touchstone_attest::client::ClientError;
use touchstone_attest::{clock, local};
use touchstone_authorization::{Status, StatusIndex, TrustView};
use touchstone_cose::cbor::{self, Limits};
use touchstone_evidence::message::Answer;
use touchstone_keybroker::admin::SOCKET;
use touchstone_keybroker::nodes;
use touchstone_keybroker::session::random;
use touchstone_ledger::checkpoint::VerifiedCheckpoint;
use touchstone_ledger::note::NoteKey;
use touchstone_ledger::tree::{MemoryTree, leaf_hash, root_at};
use touchstone_policies::Job;
use touchstone_verifier::inventory::EkId;
use touchstone_verifier::tpm::Public;

/// Names the configuration file in the child's environment.
const CONFIG: &str = "TOUCHSTONE_TEST_BROKER";
/// How often the broker is killed.
const KILLS: usize = 8;

/// Not a test of its own: the broker of the tests below, in a process that can be killed.
#[test]
#[ignore = "the broker of the tests below, in a process of its own"]
fn broker_in_a_child() {
    let Ok(config) = std::env::var(CONFIG) else { return };
    let config = std::fs::read_to_string(config).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let broker = runtime.block_on(domain::start(&config));
    // It ends with the test that started it, whatever becomes of that.
    let _ = std::io::read_to_string(std::io::stdin());
    drop(broker);
}

/// A broker in a process of its own.
struct Killable(Child);

impl Killable {
    async fn start(domain: &Domain) -> Self {
        let config = domain.path("broker.toml");
        std::fs::write(&config, domain.config_text()).unwrap();
        let address = domain.path("data/address");
        let _ = std::fs::remove_file(&address);
        let child = touchstone_vectors::alone(std::env::current_exe().unwrap())
            .args([
                "live_durability::broker_in_a_child",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(CONFIG, config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self(child);
        eventually("the broker's address", || address.exists()).await;
        started
    }

    /// SIGKILL, and nothing else.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What clients were told, over all lives of the broker.
#[derive(Default)]
struct Told {
    answers: Mutex<Vec<Answer>>,
    enough: AtomicBool,
}

impl Told {
    fn count(&self) -> usize {
        self.answers.lock().unwrap().len()
    }
}

/// An agent that attests again and again, whatever happens, and notes every answer.
async fn attest_for_ever(domain: Arc<Domain>, boot: Boot, told: Arc<Told>) {
    let (mut node, mut client) = (Node::start(&boot).await, domain.client());
    while !told.enough.load(Ordering::Relaxed) {
        match node.attest(&mut client).await {
            Ok(answer) => {
                assert!(answer.allowed, "{:?}", answer.reasons);
                told.answers.lock().unwrap().push(answer);
            }
            Err(RoundError::Client(ClientError::Refused { code, .. })) => {
                // Killed before its enrolment was durable: nobody was told otherwise.
                assert!(
                    ["identity-unknown", "broker-stopping"].contains(&code.as_str()),
                    "{code}"
                );
                node.forget();
            }
            Err(RoundError::Client(ClientError::Unreachable { .. })) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Fetches the whole log and checks it against its signed head, and everything that was ever told against it.
async fn check(domain: &Domain, told: &Told) -> TrustView {
    let answers: Vec<Answer> = told.answers.lock().unwrap().clone();
    let mut line = domain.line().await;
    let log = NoteKey::new(&format!("{NAME}/ledger"), &domain.key(Job::Checkpoint)).unwrap();
    let head = VerifiedCheckpoint::open(&line.get("/v1/ledger/checkpoint").await, &log).unwrap();
    let (mut tree, mut entries) = (MemoryTree::new(), Vec::new());
    while tree.size() < head.size() {
        let body = line
            .get(&format!("/v1/ledger/entries?start={}&count=64", tree.size()))
            .await;
        for entry in cbor::decode(&body, Limits::MESSAGE).unwrap().as_array().unwrap() {
            let entry = entry.as_bytes().unwrap().to_vec();
            if tree.size() < head.size() {
                tree.append(leaf_hash(&entry)).unwrap();
                entries.push(entry);
            }
        }
    }
    assert_eq!(tree.root(), *head.root(), "the head is that of the entries");
    let state = domain.ring(Job::TrustState);
    let frame = line.get("/v1/trust-state").await;
    let view = TrustView::accept(None, &frame, &state, NAME, clock::wall_ms()).unwrap();
    for answer in &answers {
        let checked = domain.check(answer);
        let index = usize::try_from(checked.receipt.leaf_index).unwrap();
        assert_eq!(
            entries.get(index),
            Some(&answer.statement),
            "what was told is on record, where it was"
        );
        let then = root_at(checked.receipt.tree_size, &tree).unwrap();
        assert_eq!(
            then, checked.receipt.root,
            "the log only grows: no other history was ever signed"
        );
        assert!(
            checked.view.head().epoch <= view.head().epoch,
            "the epoch never goes back"
        );
    }
    view
}

fn status_in(view: &TrustView, place: StatusIndex) -> Option<Status> {
    view.lists().get(place.list)?.status(place.index)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_the_broker_forgets_nothing_it_said() {
    let boots = [Boot::GOOD, Boot::CMDLINE_CHANGED];
    let nodes = [
        ("node-1", Boot::GOOD),
        ("node-2", Boot::CMDLINE_CHANGED),
        ("node-3", Boot::IMA_UNKNOWN_EXEC),
    ];
    let domain = Arc::new(Domain::new(&nodes));
    let told = Arc::new(Told::default());
    let mut broker = Killable::start(&domain).await;

    // One node is revoked; from then on no life of the broker may say otherwise.
    let (mut third, mut client) = (Node::start(&Boot::IMA_UNKNOWN_EXEC).await, domain.client());
    let granted = third.attest(&mut client).await.unwrap();
    let place = domain.check(&granted).authorization.unwrap().contents().status;
    told.answers.lock().unwrap().push(granted);
    let socket = domain.path("data").join(SOCKET);
    let command = br#"{"node":"node-3","reason":"test"}"#.to_vec();
    assert_eq!(
        local::request(&socket, "POST", "/revoke", command).await.unwrap().0,
        200
    );
    let mut epoch = check(&domain, &told).await.head().epoch;

    let agents = boots.map(|boot| tokio::spawn(attest_for_ever(Arc::clone(&domain), boot, Arc::clone(&told))));
    for _ in 0..KILLS {
        let [answers, within] = random::<2>().unwrap();
        let wanted = told.count() + usize::from(answers % 6);
        eventually("further answers", || told.count() >= wanted).await;
        // Not a wait for anything: the moment is to be any.
        tokio::time::sleep(Duration::from_micros(u64::from(within) * 150)).await;
        broker.kill();
        broker = Killable::start(&domain).await;
        let view = check(&domain, &told).await;
        assert!(view.head().epoch >= epoch, "{} after {epoch}", view.head().epoch);
        epoch = view.head().epoch;
        assert_eq!(
            status_in(&view, place),
            Some(Status::Invalid),
            "what was taken away stays away"
        );
    }
    let wanted = told.count() + 4;
    eventually("everybody to go on", || told.count() >= wanted).await;
    told.enough.store(true, Ordering::Relaxed);
    for agent in agents {
        agent.await.unwrap();
    }
    check(&domain, &told).await;
    println!("{} answers over {KILLS} kills", told.count());
    broker.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_first_enrolments_at_once_leave_one_identity() {
    const ENROLMENTS: usize = 20;
    let domain = Domain::new(&[("node-1", Boot::GOOD)]);
    let broker = domain.broker().await;
    let mut machine = Machine::start(&Boot::GOOD);
    let rsa = machine.tpm.ak_at(&machine.ek, KeyForm::Rsa.ak_handle()).unwrap();
    let mut keys = [rsa, machine.ak.clone()];
    // Everybody has a challenge before anybody answers, and two attestation keys compete for the name.
    let mut ready = Vec::new();
    for _ in 0..ENROLMENTS {
        keys.swap(0, 1);
        let [ak, _] = &keys;
        machine.ak = ak.clone();
        let mut line = domain.line().await;
        let challenge = line.hello(&machine.hello(false)).await.unwrap();
        assert!(challenge.credential.is_some(), "nobody has enrolled yet");
        let submission = machine.evidence(Plan::honest(&challenge, line.exporter(&challenge.nonce)));
        ready.push((line, submission));
    }
    let racing: Vec<_> = ready
        .into_iter()
        .map(|(mut line, submission)| tokio::spawn(async move { line.submit(&submission).await }))
        .collect();
    let mut granted = Vec::new();
    for racer in racing {
        // Who comes late may be refused, or denied because the TPM's clock was seen further on; never granted beside.
        if let Ok(answer) = racer.await.unwrap()
            && let Some(authorization) = domain.check(&answer).authorization
        {
            granted.push(authorization.contents().status);
        }
    }
    assert!(!granted.is_empty());
    let record = rights(&broker, "node-1").record.unwrap();
    for place in granted {
        let holds = status(&broker, place) == Some(Status::Valid);
        assert!(
            !holds || place == record.status,
            "rights beside those of the one identity: {place:?}"
        );
    }
    let store = &*broker.app().store;
    let ek = Public::parse(machine.ek.public()).unwrap().check_ek().unwrap().id();
    let tpm = record.enrolled.tpm().unwrap();
    assert_eq!(tpm.ek, EkId(ek));
    assert_eq!(nodes::ek_tie(store, &EkId(ek)).unwrap().held.unwrap().0, "node-1");
    assert!(keys.iter().any(|key| key.name() == tpm.ak_name));
    assert!(nodes::by_name(store, "node-1").unwrap().is_some());
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_machine_has_one_name() {
    let domain = Domain::new(&[("node-1", Boot::GOOD)]);
    let repo = domain.path("policy");
    let refused = domain::add_node(&repo, "node-2", &Boot::GOOD).unwrap_err();
    let codes: Vec<&str> = refused.problems().iter().map(|problem| problem.code.as_str()).collect();
    assert_eq!(codes, ["policy-identity-conflict"]);
    assert!(
        domain::add_node(&repo, "node-1", &Boot::CMDLINE_CHANGED).is_err(),
        "and one name one machine"
    );
    // Nor by the back door: what an author's tool would not write is refused, or helps neither of the two.
    let staged = repo.join("staged/nodes");
    domain::add_node(&repo, "node-2", &Boot::CMDLINE_CHANGED).unwrap();
    let other = std::fs::read_to_string(staged.join("node-2.json")).unwrap();
    let ek = |boot: &Boot| {
        let public = Public::from_tpm2b_or_tpmt(&boot.ek_public(KeyForm::Rsa)).unwrap();
        hex::encode(public.check_ek().unwrap().id())
    };
    let (mine, theirs) = (ek(&Boot::GOOD), ek(&Boot::CMDLINE_CHANGED));
    assert!(other.contains(&theirs));
    std::fs::write(staged.join("node-2.json"), other.replace(&theirs, &mine)).unwrap();
    let publish = || touchstone_policies::publish(&repo, &domain.path("keys"), clock::wall_seconds());
    match domain::unlocked(publish) {
        Err(refused) => assert!(refused.to_string().contains("identity"), "{refused}"),
        Ok(_) => {
            let broker = domain.broker().await;
            let machine = Machine::start(&Boot::GOOD);
            let refused = domain.line().await.hello(&machine.hello(false)).await.unwrap_err();
            assert_eq!(refused.code, "identity-unknown");
            broker.shutdown().await.unwrap();
        }
    }
}
