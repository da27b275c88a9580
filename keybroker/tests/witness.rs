//! Consistency proofs over the wire, brokers that watch each other's ledgers, and what they never cosign.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::client::{Client, problem};
use common::tpm::SoftNode;
use common::{Domain, attest, command, eventually, key};
use http_body_util::BodyExt as _;
use hyper::Method;
use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{self, Limits};
use touchstone_cose::key::SigningKey;
use touchstone_keybroker::rows::WITNESS;
use touchstone_keybroker::service::RunningBroker;
use touchstone_keybroker::witness::cosigner_name;
use touchstone_ledger::checkpoint::{VerifiedCheckpoint, sign_checkpoint};
use touchstone_ledger::cosignature::CosignerKey;
use touchstone_ledger::note::NoteKey;
use touchstone_ledger::tree::{Hash, verify_consistency};
use touchstone_ledger::witness::Request;
use touchstone_policies::Job;

const WATCH: &str = "/v1/witness/add-checkpoint";
const COSIGNATURES: &str = "/v1/ledger/cosignatures";

fn log(broker: &RunningBroker) -> NoteKey {
    NoteKey::new(&broker.app().origin, &key(broker, Job::Checkpoint)).unwrap()
}

fn cosigner(broker: &RunningBroker) -> CosignerKey {
    let policy = broker.app().policy();
    CosignerKey::new(&cosigner_name(&policy.domain), &key(broker, Job::Witness)).unwrap()
}

async fn checkpoint(broker: &RunningBroker) -> (String, VerifiedCheckpoint) {
    let mut client = Client::connect(broker.address()).await;
    let note = client.get("/v1/ledger/checkpoint").await;
    let open = VerifiedCheckpoint::open(&note, &log(broker)).unwrap();
    (String::from_utf8(note.to_vec()).unwrap(), open)
}

async fn proof(broker: &RunningBroker, old: u64, new: u64) -> Vec<Hash> {
    let mut client = Client::connect(broker.address()).await;
    let body = client.get(&format!("/v1/ledger/consistency?old={old}&new={new}")).await;
    let value = cbor::decode(&body, Limits::MESSAGE).unwrap();
    let hashes = value.as_array().unwrap().iter();
    hashes
        .map(|hash| hash.as_bytes().unwrap().try_into().unwrap())
        .collect()
}

async fn post(broker: &RunningBroker, path: &str, body: &str) -> (u16, String, String) {
    let mut client = Client::connect(broker.address()).await;
    let response = client.open(Method::POST, path, body.into()).await;
    let status = response.status().as_u16();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    let said = response.into_body().collect().await.unwrap().to_bytes();
    (status, kind, String::from_utf8(said.to_vec()).unwrap())
}

async fn kept(broker: &RunningBroker) -> Vec<String> {
    let mut client = Client::connect(broker.address()).await;
    let body = client.get(COSIGNATURES).await;
    let value = cbor::decode(&body, Limits::MESSAGE).unwrap();
    let notes = value.as_array().unwrap().iter();
    notes.map(|note| note.as_text().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_two_sizes_of_a_ledger_are_shown_to_continue() {
    let node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut node = node;
    let mut client = Client::connect(broker.address()).await;
    let mut heads = vec![broker.app().head()];
    for known in [false, true, true, true, true] {
        attest(&mut client, &mut node, known).await.unwrap();
        heads.push(broker.app().head());
    }
    for (n, new) in heads.iter().enumerate() {
        for old in &heads[..=n] {
            let proof = proof(&broker, old.size, new.size).await;
            assert_eq!(
                verify_consistency(old.size, &old.root, new.size, &new.root, &proof),
                Ok(()),
                "{} to {}",
                old.size,
                new.size
            );
        }
    }
    let size = heads.last().unwrap().size;
    for query in [
        format!("old=0&new={size}"),
        format!("old=1&new={}", size + 1),
        format!("old={size}&new=1"),
        "old=1".into(),
        "old=a&new=1".into(),
    ] {
        let mut client = Client::connect(broker.address()).await;
        let path = format!("/v1/ledger/consistency?{query}");
        let (status, body) = client.send(Method::GET, &path, Vec::new()).await;
        let refused = problem(status, &body);
        let expected = if query.contains("new=") && !query.contains('a') {
            "request-not-found"
        } else {
            "request-parameter-malformed"
        };
        assert_eq!(refused.code, expected, "{query}");
    }
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn two_brokers_watch_each_other_and_a_rewritten_ledger_gets_no_cosignature() {
    let watched_domain = Domain::new(&[], &[]);
    let broker = watched_domain.start().await;
    let (vkey, origin) = (log(&broker).to_vkey(), broker.app().origin.clone());
    let watcher_domain = Domain::new(&[], &[]).with_more(&format!("[witness]\nlogs = [{vkey:?}]\n"));
    let watcher = watcher_domain.start().await;
    let named = cosigner(&watcher);

    // First contact: what is seen is what there is from now on.
    let (first, open) = checkpoint(&broker).await;
    let ask = |old, proof, checkpoint: &str| {
        Request {
            old,
            proof,
            checkpoint: checkpoint.to_owned(),
        }
        .encode()
    };
    let (status, _, line) = post(&watcher, WATCH, &ask(0, vec![], &first)).await;
    assert_eq!(status, 200, "{line}");
    let cosigned = format!("{first}{line}");
    assert!(named.open(cosigned.as_bytes()).unwrap().is_some());

    // Grown: the size it begins at is told, and the proof from there counts.
    let policy_before = open.size();
    watched_domain.publish();
    command(&watched_domain, Method::POST, "/reload", "").await;
    let (second, grown) = checkpoint(&broker).await;
    assert!(grown.size() > policy_before);
    let (status, kind, said) = post(&watcher, WATCH, &ask(0, vec![], &second)).await;
    assert_eq!(
        (status, kind.as_str(), said),
        (409, "text/x.tlog.size", format!("{policy_before}\n"))
    );
    let growth = proof(&broker, policy_before, grown.size()).await;
    let asked = ask(policy_before, growth.clone(), &second);
    let both = tokio::join!(post(&watcher, WATCH, &asked), post(&watcher, WATCH, &asked));
    let mut statuses = [both.0.0, both.1.0];
    statuses.sort_unstable();
    assert_eq!(
        statuses,
        [200, 409],
        "of two at once from one size one is behind: {both:?}"
    );
    let line = if both.0.0 == 200 { both.0.2 } else { both.1.2 };

    // Rewritten, signed by the log's own key: the same size with another root, and a longer one with a proof of its own.
    let app = broker.app();
    let forge = |size, root: &Hash| sign_checkpoint(&log(&broker), size, root, &*app.keys.checkpoint).unwrap();
    let forged = forge(grown.size(), &[7; 32]);
    let (status, _, said) = post(&watcher, WATCH, &ask(grown.size(), vec![], &forged)).await;
    assert_eq!(status, 409);
    assert!(said.contains("ledger-rewritten"), "{said}");
    let forged = forge(grown.size() + 1, &[7; 32]);
    let (status, _, said) = post(&watcher, WATCH, &ask(grown.size(), vec![[8; 32]; 2], &forged)).await;
    assert_eq!(status, 422, "{said}");
    let (status, _, said) = post(&watcher, WATCH, &ask(policy_before, vec![], &first)).await;
    assert_eq!((status, said), (409, format!("{}\n", grown.size())), "fewer entries");
    let (status, ..) = post(&watcher, WATCH, "old 0\n\nother.example/ledger\n1\nAAAA\n").await;
    assert_eq!(status, 404);

    // It outlives the watcher's process.
    watcher.shutdown().await.unwrap();
    let watcher = watcher_domain.start().await;
    let (status, _, said) = post(&watcher, WATCH, &ask(0, vec![], &second)).await;
    assert_eq!((status, said), (409, format!("{}\n", grown.size())));

    // The watched one keeps what its witness says, of witnesses it knows.
    let cosigned = format!("{second}{line}");
    let (status, _, said) = post(&broker, COSIGNATURES, &cosigned).await;
    assert_eq!(status, 403, "nobody is known: {said}");
    app.witnessing
        .follow("watcher.example", Vec::new(), vec![named.clone()]);
    assert!(kept(&broker).await.is_empty());
    let stranger = SigningKey::from_seed([9; 32]);
    let strangers = NoteKey::new(&origin, &stranger.verifying_key()).unwrap();
    let by_stranger = sign_checkpoint(&strangers, grown.size(), grown.root(), &stranger).unwrap();
    for (name, note) in [
        ("no cosignature", second.clone()),
        ("cosigned and signed by a stranger", format!("{by_stranger}{line}")),
        ("a cosignature of another head", format!("{first}{line}")),
        (
            "an own head that never was",
            format!("{}{line}", forge(grown.size() - 1, &[7; 32])),
        ),
        ("junk", "junk".into()),
    ] {
        let (status, _, said) = post(&broker, COSIGNATURES, &note).await;
        assert_eq!(status, 403, "{name}: {said}");
        assert!(kept(&broker).await.is_empty(), "{name}");
    }
    let (status, _, said) = post(&broker, COSIGNATURES, &cosigned).await;
    assert_eq!((status, said.as_str()), (200, "1\n"));
    let notes = kept(&broker).await;
    assert_eq!(notes.len(), 1);
    assert!(named.open(notes[0].as_bytes()).unwrap().is_some());
    assert!(VerifiedCheckpoint::open(notes[0].as_bytes(), &log(&broker)).is_ok());
    watcher.shutdown().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_head_that_is_shown_again_costs_neither_a_commit_nor_a_signature() {
    let watched_domain = Domain::new(&[], &[]);
    let broker = watched_domain.start().await;
    let watcher_domain =
        Domain::new(&[], &[]).with_more(&format!("[witness]\nlogs = [{:?}]\n", log(&broker).to_vkey()));
    let watcher = watcher_domain.start().await;
    let (note, open) = checkpoint(&broker).await;
    let ask = |old| {
        let request = Request {
            old,
            proof: vec![],
            checkpoint: note.clone(),
        };
        request.encode()
    };
    let app = watcher.app();
    let row = WITNESS.key(Sha256::digest(&broker.app().origin).as_slice()).unwrap();
    let revision = || app.store.get(&row).unwrap().unwrap().revision;
    let (status, _, first) = post(&watcher, WATCH, &ask(0)).await;
    assert_eq!(status, 200, "{first}");
    let written = revision();
    // A signature made then would say another time.
    let second = || app.clock.now_ms() / 1_000;
    let signed = second();
    eventually("another second", || second() != signed).await;
    for _ in 0..3 {
        let (status, _, again) = post(&watcher, WATCH, &ask(open.size())).await;
        assert_eq!((status, &again), (200, &first), "the line signed before");
        assert_eq!(revision(), written, "nothing is written");
    }

    // After a restart it is signed once more, and still not written.
    watcher.shutdown().await.unwrap();
    let watcher = watcher_domain.start().await;
    let app = watcher.app();
    let (status, _, line) = post(&watcher, WATCH, &ask(open.size())).await;
    assert_eq!(status, 200, "{line}");
    assert_eq!(app.store.get(&row).unwrap().unwrap().revision, written);
    let cosigned = format!("{note}{line}");
    assert!(cosigner(&watcher).open(cosigned.as_bytes()).unwrap().is_some());
    watcher.shutdown().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn without_its_key_a_broker_cosigns_nothing() {
    let domain = Domain::new(&[], &[]);
    std::fs::remove_file(domain.path("data/keys/witness.pem")).unwrap();
    let broker = domain.start().await;
    let (note, _) = checkpoint(&broker).await;
    let request = Request {
        old: 0,
        proof: vec![],
        checkpoint: note,
    };
    let (status, _, said) = post(&broker, WATCH, &request.encode()).await;
    assert_eq!(status, 503);
    assert!(said.contains("witness-unavailable"), "{said}");
    broker.shutdown().await.unwrap();
}
