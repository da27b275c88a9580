//! Keys that open only inside what was attested: real software TPMs, the agent's own code, a whole broker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use swtpm_tests::boots::{Boot, SHA256};
use swtpm_tests::domain::{Domain, decided, eventually};
use swtpm_tests::machine::session_registers;
use swtpm_tests::node::Node;
use swtpm_tests::observe::PATIENCE;
use swtpm_tests::swtpm::Swtpm;
use touchstone_attest::agent::AgentEvent;
use touchstone_attest::agent::attester::Receiver;
use touchstone_attest::agent::desk::Desk;
use touchstone_attest::agent::release::{KeyWanted, ReleaseError, prove};
use touchstone_attest::agent::socket::{Request, Response, ask};
use touchstone_attest::local;
use touchstone_attest::tpm::{SealedBlob, Tpm, TpmError};
use touchstone_authorization::{Channel, Proof, Scope, authorization_digest, proof::EXPORTER_LABEL};
use touchstone_cose::cbor::Value;
use touchstone_cose::code::Code;
use touchstone_cose::encrypt::{Agreement as _, Point, SoftwareReceiveKey, encrypt};
use touchstone_cose::key::{Signer as _, VerifyingKey};
use touchstone_cose::sign1::{self, Protected};
use touchstone_evidence::message::{
    KEY_TYPE, RELEASE_TYPE, ReleaseAnswer, ReleaseRequest, STATEMENT_LABEL, release_audience,
};
use touchstone_keybroker::admin::SOCKET;
use touchstone_keybroker::key_files::write_new;
use touchstone_keybroker::service::RunningBroker;
use touchstone_ledger::statement::{Kind, Outcome, Statement, VerifiedStatement};
use touchstone_policies::Job;

const SECRET: &str = "the-launch-codes-0123456789abcdef";

fn domain(nodes: &[(&str, Boot)]) -> Domain {
    let domain = Domain::new(nodes);
    let file = domain.path("passphrase");
    write_new(&file, b"correct horse battery staple\n").unwrap();
    domain.with_config(&format!("[keys]\nkek = {{ passphrase_file = {file:?} }}\n"))
}

async fn admin(domain: &Domain, path: &str, body: &str) {
    let socket = domain.path("data").join(SOCKET);
    let (status, answer) = local::request(&socket, "POST", path, body.as_bytes().to_vec())
        .await
        .unwrap();
    assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&answer));
}

fn wanted(key: &str) -> KeyWanted {
    KeyWanted {
        key: key.into(),
        version: None,
        resource: "keys".into(),
    }
}

/// The last statement in the ledger.
fn last(domain: &Domain, broker: &RunningBroker) -> Statement {
    let (store, size) = (&broker.app().store, broker.app().head().size);
    let entry = touchstone_keybroker::log::entry(&**store, size - 1).unwrap().unwrap();
    VerifiedStatement::parse(&entry, &domain.key(Job::Statement))
        .unwrap()
        .into_statement()
}

async fn denied(desk: &Desk, key: &str) -> Vec<String> {
    match desk.fetch(&wanted(key)).await {
        Err(ReleaseError::Denied(reasons)) => reasons.into_iter().map(|reason| reason.code).collect(),
        other => panic!("{key}: {other:?}"),
    }
}

/// A request as the agent makes it, and the broker's answer, nothing opened.
async fn answer(domain: &Domain, node: &Node, authorization: &[u8], key: &str) -> (ReleaseAnswer, [u8; 16]) {
    let mut client = domain.client();
    client.connect().await.unwrap();
    let digest = authorization_digest(authorization);
    let cti = touchstone_keybroker::session::random().unwrap();
    let proof = Proof {
        audience: release_audience(swtpm_tests::domain::NAME),
        issued_at: touchstone_attest::clock::wall_ms() / 1000,
        cti,
        authorization_digest: digest,
        scope: Scope::parse("release:keys").unwrap(),
        request_digest: None,
        channel: Channel::Exporter(client.export(EXPORTER_LABEL, &digest).unwrap()),
    };
    let proof = node
        .run(move |attester| proof.encode_signed(&touchstone_attest::agent::attester::SessionSigner::new(attester)))
        .await
        .unwrap();
    let request = ReleaseRequest {
        authorization: authorization.to_vec(),
        proof,
        key: key.into(),
        version: None,
        resource: "keys".into(),
    };
    (client.release(&request).await.unwrap(), cti)
}

#[tokio::test(flavor = "multi_thread")]
async fn put_get_rotate_and_the_store_file_alone_gives_nothing() {
    let domain = domain(&[("node-1", Boot::GOOD)]);
    let broker = domain.broker().await;
    admin(&domain, "/keys?name=db/main&region=eu-1", SECRET).await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let granted = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let desk = node.desk(&domain, granted);
    let fetched = desk.fetch(&wanted("db/main")).await.unwrap();
    assert_eq!(fetched.key.secret.as_slice(), SECRET.as_bytes());
    let recorded = last(&domain, &broker);
    assert_eq!((recorded.kind, recorded.outcome), (Kind::KeyRelease, Outcome::Allow));
    assert_eq!(recorded.digest().unwrap(), fetched.statement);

    // A later round certifies nothing anew; the key is still the attested one.
    let renewed = node.attest(&mut client).await.unwrap().authorization.unwrap();
    desk.hold(Some(renewed));
    admin(&domain, "/keys/rotate?name=db/main", "").await;
    let second = desk.fetch(&wanted("db/main")).await.unwrap();
    assert_eq!(second.key.version, 2);
    assert_ne!(second.key.secret, fetched.key.secret);
    let first = KeyWanted {
        version: Some(1),
        ..wanted("db/main")
    };
    assert_eq!(desk.fetch(&first).await.unwrap().key.secret, fetched.key.secret);
    broker.shutdown().await.unwrap();

    let file = std::fs::read(domain.path("data/store.redb")).unwrap();
    for secret in [SECRET.as_bytes(), second.key.secret.as_slice()] {
        assert!(!file.windows(secret.len()).any(|window| window == secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_only_in_the_tpm_and_only_in_the_state_it_was_attested_in() {
    let domain = domain(&[("node-1", Boot::GOOD)]);
    let broker = domain.broker().await;
    admin(&domain, "/keys?name=db/main", SECRET).await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let granted = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let (answer, cti) = answer(&domain, &node, &granted, "db/main").await;
    let trust = domain.trust().await;
    let open = async |node: &Node| {
        let proven = prove(&trust, &granted, &cti, &wanted("db/main"), &answer).unwrap();
        node.run(move |attester| {
            let receiver = Receiver::new(attester);
            proven
                .sealed
                .open(&receiver, proven.signer, KEY_TYPE, &proven.statement)
        })
        .await
    };
    assert!(open(&node).await.unwrap().ends_with(SECRET.as_bytes()));
    // A register that the key is not bound to changes nothing; one that it is bound to shuts it, in the TPM itself.
    node.swtpm.extend(16, [7; 32]).unwrap();
    assert!(open(&node).await.is_ok());
    node.swtpm.extend(8, [7; 32]).unwrap();
    let refused = open(&node).await.unwrap_err();
    assert_eq!(refused.code(), Code::KeyAgreementFailed, "{refused}");
    assert!(refused.to_string().contains("PCR"), "{refused}");
    // After a reboot into the same state the key is another one: what was sealed to the old one is gone.
    node.swtpm.reboot(&Boot::GOOD).unwrap();
    node = node.restarted().await;
    let refused = open(&node).await.unwrap_err();
    assert_eq!(refused.code(), Code::CoseKidMismatch, "{refused}");
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_nothing() {
    let domain = domain(&[("node-1", Boot::GOOD), ("node-2", Boot::CMDLINE_CHANGED)]);
    let broker = domain.broker().await;
    for query in [
        "name=db/main",
        "name=us-only&region=us-1",
        "name=once&one_time=true",
        "name=vault&resource=vault",
    ] {
        admin(&domain, &format!("/keys?{query}"), SECRET).await;
    }
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let (mut thief, mut thiefs_client) = (Node::start(&Boot::CMDLINE_CHANGED).await, domain.client());
    let granted = node.attest(&mut client).await.unwrap().authorization.unwrap();
    thief.attest(&mut thiefs_client).await.unwrap();
    let desk = node.desk(&domain, granted.clone());

    // A stolen authorization, the thief's own TPM: nobody is known, nothing is recorded.
    let before = decided(&broker);
    let stolen = thief.desk(&domain, granted.clone());
    match stolen.fetch(&wanted("db/main")).await {
        Err(ReleaseError::Client(error)) => assert!(error.to_string().contains("release-not-authenticated"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(decided(&broker), before);

    // Known, and denied on record.
    for (key, code) in [
        ("us-only", "key-residency"),
        ("nothing", "key-unknown"),
        ("vault", "key-unknown"),
    ] {
        assert_eq!(denied(&desk, key).await, [code], "{key}");
        let recorded = last(&domain, &broker);
        assert_eq!(
            (recorded.kind, recorded.outcome),
            (Kind::KeyRelease, Outcome::Deny),
            "{key}"
        );
    }
    let vault = KeyWanted {
        resource: "vault".into(),
        ..wanted("vault")
    };
    match desk.fetch(&vault).await {
        Err(ReleaseError::Denied(reasons)) => assert_eq!(reasons[0].code, "scope-not-granted"),
        other => panic!("{other:?}"),
    }

    // One-time: the second request finds it spent.
    assert!(desk.fetch(&wanted("once")).await.is_ok());
    assert_eq!(denied(&desk, "once").await, ["key-spent"]);

    // A policy that has come into force since: the old authorization's word is stale.
    swtpm_tests::domain::add_node(&domain.path("policy"), "node-3", &Boot::UKI).unwrap();
    domain.publish();
    admin(&domain, "/reload", "").await;
    assert_eq!(denied(&desk, "db/main").await, ["authorization-policy-stale"]);
    let fresh = node.attest(&mut client).await.unwrap().authorization.unwrap();
    desk.hold(Some(fresh));
    assert!(desk.fetch(&wanted("db/main")).await.is_ok());

    // Revoked.
    admin(
        &domain,
        "/revoke",
        r#"{"node": "node-1", "reason": "stolen from rack 7"}"#,
    )
    .await;
    assert_eq!(
        denied(&desk, "db/main").await,
        ["authorization-revoked", "node-withdrawn"]
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_touched_is_refused_before_the_tpm_is_asked() {
    let domain = domain(&[("node-1", Boot::GOOD)]);
    let broker = domain.broker().await;
    admin(&domain, "/keys?name=db/main", SECRET).await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let granted = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let (good, cti) = answer(&domain, &node, &granted, "db/main").await;
    let (other, _) = answer(&domain, &node, &granted, "db/main").await;
    let trust = domain.trust().await;
    let judge = |answer: &ReleaseAnswer| prove(&trust, &granted, &cti, &wanted("db/main"), answer).map(|_| ());
    judge(&good).unwrap();
    let refused = |name: &str, answer: &ReleaseAnswer| {
        let outcome = judge(answer);
        assert!(matches!(outcome, Err(ReleaseError::Unproven(_))), "{name}: {outcome:?}");
    };
    let with = |change: fn(&mut ReleaseAnswer, &ReleaseAnswer)| {
        let mut changed = good.clone();
        change(&mut changed, &other);
        changed
    };
    refused(
        "the statement of another request",
        &with(|a, b| a.statement.clone_from(&b.statement)),
    );
    refused(
        "the receipt of another request",
        &with(|a, b| a.receipt.clone_from(&b.receipt)),
    );
    refused(
        "the key of another request",
        &with(|a, b| a.sealed.clone_from(&b.sealed)),
    );
    refused("a whole answer, replayed", &other);
    for part in 0..3 {
        let bytes = [&good.statement, &good.receipt, good.sealed.as_ref().unwrap()][part];
        for at in (0..bytes.len()).step_by(7) {
            let mut changed = good.clone();
            let [statement, receipt] = [&mut changed.statement, &mut changed.receipt];
            match part {
                0 => statement[at] ^= 1,
                1 => receipt[at] ^= 1,
                _ => changed.sealed.as_mut().unwrap()[at] ^= 1,
            }
            refused(&format!("part {part}, byte {at}"), &changed);
        }
    }
    // A broker's own signature over a key sealed to somebody else: it holds, and does not open here.
    let proven = prove(&trust, &granted, &cti, &wanted("db/main"), &good).unwrap();
    let stranger = SoftwareReceiveKey::generate().unwrap();
    let signer = broker.app().keys.release.as_ref().unwrap();
    let encrypted = encrypt(stranger.public(), signer.kid(), KEY_TYPE, b"x", &proven.statement).unwrap();
    let protected = Protected {
        extra: vec![(STATEMENT_LABEL, Value::bytes(proven.statement))],
        ..Protected::typ(RELEASE_TYPE)
    };
    let misdirected = ReleaseAnswer {
        sealed: Some(sign1::sign(signer, &protected, &encrypted, &[]).unwrap()),
        ..good.clone()
    };
    let proven = prove(&trust, &granted, &cti, &wanted("db/main"), &misdirected).unwrap();
    let refused = node
        .run(move |attester| {
            let receiver = Receiver::new(attester);
            proven
                .sealed
                .open(&receiver, proven.signer, KEY_TYPE, &proven.statement)
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::CoseKidMismatch);
    broker.shutdown().await.unwrap();
}

/// Asks for a key as a workload does: again while the agent holds no authorization. A machine so slow that the trust
/// state grows stale meanwhile takes it away until the next round.
async fn ask_while_it_attests(socket: &Path, key: &str) -> Response {
    let request = Request::Key {
        key: key.into(),
        version: None,
        resource: "keys".into(),
    };
    let begun = Instant::now();
    loop {
        let response = ask(socket, &request).await.unwrap();
        let none = matches!(&response, Response::Error { error } if error.contains("holds no authorization"));
        if !none || begun.elapsed() > PATIENCE {
            return response;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_asks_the_agent_and_gets_its_key() {
    let domain = domain(&[("node-1", Boot::GOOD)]);
    let broker = domain.broker().await;
    admin(&domain, "/keys?name=db/main", SECRET).await;
    let node = Node::start(&Boot::GOOD).await;
    drop(node.desk(&domain, Vec::new()));
    let socket = node.socket();
    let (config, _swtpm, _state) = node.into_agent();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let running = tokio::spawn(touchstone_attest::agent::run(
        config,
        move |event| drop(tell.lock().unwrap().send(event)),
        async { drop(stopped.await) },
    ));
    eventually("an authorization", || {
        told.recv_timeout(Duration::from_millis(10))
            .is_ok_and(|event| matches!(event, AgentEvent::Granted { .. }))
    })
    .await;
    let response = ask_while_it_attests(&socket, "db/main").await;
    assert!(
        !format!("{response:?}").contains(&STANDARD.encode(SECRET)),
        "a secret is never shown"
    );
    let Response::Key {
        key, version, secret, ..
    } = response
    else {
        panic!("{response:?}")
    };
    assert_eq!((key.as_str(), version), ("db/main", 1));
    assert_eq!(STANDARD.decode(secret.0.as_bytes()).unwrap(), SECRET.as_bytes());
    let response = ask_while_it_attests(&socket, "nothing").await;
    assert!(
        matches!(&response, Response::Error { error } if error.contains("key-unknown")),
        "{response:?}"
    );
    drop(stop);
    running.await.unwrap().unwrap();
    broker.shutdown().await.unwrap();
}

#[test]
fn the_receive_key_agrees_as_software_does_and_only_in_its_state() {
    let swtpm = Swtpm::from_boot(&Boot::GOOD, &Boot::GOOD).unwrap();
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let ek = tpm.best_endorsement_key().unwrap();
    let key = tpm.create_receive_key(&ek, &session_registers()).unwrap();
    let ephemeral = SoftwareReceiveKey::generate().unwrap();
    let VerifyingKey::P256 { x, y } = ephemeral.public() else {
        panic!("P-256")
    };
    let (px, py) = key.point().split_at(32);
    let public = Point {
        x: px.try_into().unwrap(),
        y: py.try_into().unwrap(),
    };
    let expected = ephemeral.agree(&public).unwrap();
    assert_eq!(tpm.agree(&key, x, y).unwrap(), expected);
    assert_eq!(tpm.loaded_handles(), Ok(vec![]), "nothing is left in the TPM");
    swtpm.extend(4, [9; 32]).unwrap();
    assert_eq!(tpm.agree(&key, x, y).unwrap_err(), TpmError::PolicyCheckFailed);
    swtpm.reboot(&Boot::GOOD).unwrap();
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    assert!(tpm.agree(&key, x, y).is_err(), "it died with its boot");
}

#[test]
fn what_is_sealed_to_a_tpm_comes_out_there_and_in_that_state_only() {
    let swtpm = Swtpm::from_boot(&Boot::GOOD, &Boot::GOOD).unwrap();
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let ek = tpm.best_endorsement_key().unwrap();
    let registers = [(SHA256, vec![4, 7])];
    let sealed = tpm.seal(&ek, &registers, &[5; 32]).unwrap();
    let sealed = SealedBlob::decode(&sealed.encode()).unwrap();
    assert_eq!(*tpm.unseal(&ek, &sealed).unwrap(), [5; 32]);
    assert_eq!(tpm.loaded_handles(), Ok(vec![]), "nothing is left in the TPM");

    // It survives a reboot into the same state, and opens in no other state and no other TPM.
    swtpm.reboot(&Boot::GOOD).unwrap();
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let ek = tpm.best_endorsement_key().unwrap();
    assert_eq!(*tpm.unseal(&ek, &sealed).unwrap(), [5; 32]);
    swtpm.extend(7, [1; 32]).unwrap();
    assert_eq!(tpm.unseal(&ek, &sealed).unwrap_err(), TpmError::PolicyCheckFailed);

    let other = Swtpm::from_boot(&Boot::CMDLINE_CHANGED, &Boot::GOOD).unwrap();
    let mut tpm = Tpm::open(&other.tcti()).unwrap();
    let ek = tpm.best_endorsement_key().unwrap();
    assert!(matches!(tpm.unseal(&ek, &sealed), Err(TpmError::BlobRejected(_))));
}
