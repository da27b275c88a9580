//! An AI agent with rights to two tools: a real software TPM, the node agent's own code and socket, a whole broker, a guard.
//! It gets an authorization of its own below its node's, its key in the TPM; a third tool is refused; what it hands on counts,
//! on-line and off-line; and when its node is tampered with, it and all that it handed on stop.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use swtpm_tests::boots::{Boot, boots};
use swtpm_tests::domain::{Domain, Founding, add_node, recorded};
use swtpm_tests::node::Node;
use swtpm_tests::observe::Post;
use touchstone_attest::agent::memory_key::MemoryKey;
use touchstone_attest::agent::socket::{AgentSocket, Request, Response, ask};
use touchstone_attest::agent::workloads::{HandedOn, Wanted};
use touchstone_attest::{clock, local};
use touchstone_authorization::{Channel, Proof, RefusalCode, Scope, authorization_digest};
use touchstone_cose::cbor;
use touchstone_keybroker::admin::SOCKET;
use touchstone_keybroker::key_files::write_new;
use touchstone_keybroker::lineage::history::{History, Named};
use touchstone_ledger::statement::VerifiedStatement;
use touchstone_policies::Job;

const GUARD: &str = "tools";
const SECRET: &str = "the-agents-own-database-password";

/// A domain in which tools can be handed on, and keys go to workloads whose key is in hardware.
fn domain() -> Domain {
    domain_of(&[("node-1", Boot::GOOD)])
}

fn domain_of(nodes: &[(&str, Boot)]) -> Domain {
    let domain = Domain::found(&Founding {
        anchors: &["swtpm-localca-rootca-cert.pem", "issuercert.pem"].map(|file| boots().join("ca").join(file)),
        nodes: &[],
        golden: &recorded(&Boot::GOOD),
        settings: &[],
        limits: &[],
        stage: &|repo: &Path| {
            for (name, boot) in nodes {
                add_node(repo, name, boot).unwrap();
            }
            let path = repo.join("staged/settings.toml");
            let mut text = std::fs::read_to_string(&path).unwrap();
            for (key, value) in [
                (
                    "scopes = ",
                    "[\"delegate:tools/search\", \"execute:tools/search\", \"delegate:tools/mail\", \"execute:tools/mail\", \
                     \"execute:tools/payments\", \"delegate:keys\", \"release:keys\"]",
                ),
                ("offline = ", "true"),
                ("software_keys = ", "\"short-lived\""),
            ] {
                let line = text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
                text = text.replace(&line, &format!("{key}{value}"));
            }
            std::fs::write(&path, text).unwrap();
        },
    });
    let file = domain.path("passphrase");
    write_new(&file, b"correct horse battery staple\n").unwrap();
    domain.with_config(&format!("[keys]\nkek = {{ passphrase_file = {file:?} }}\n"))
}

/// This very test is the AI agent: what the kernel says of it is what the rule has to say.
fn rules() -> String {
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    format!(
        "[workloads]\n[[workloads.rule]]\nlabel = \"agent\"\nuid = {}\nexecutable = \"{}\"\n\
         scopes = [\"execute:tools/search\", \"delegate:tools/search\", \"execute:tools/mail\", \"delegate:tools/mail\", \"release:keys\"]\n\
         delegation_depth = 1\noffline = true\n\
         [[workloads.rule]]\nlabel = \"other\"\nuid = {}\nexecutable = \"{}\"\nscopes = [\"execute:tools/search\"]\n",
        uid,
        hex::encode(Sha256::digest(own)),
        uid,
        hex::encode([7; 32]),
    )
}

fn wanted(label: &str, scopes: &[&str]) -> Wanted {
    Wanted {
        label: label.into(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        life: None,
        region: None,
        purpose: None,
        delegation_depth: 0,
        offline: false,
        key: None,
        depends_on: Vec::new(),
        renew: None,
    }
}

async fn error(socket: &Path, request: &Request) -> String {
    match ask(socket, request).await.unwrap() {
        Response::Error { error } => error,
        other => panic!("{other:?}"),
    }
}

/// What the guard says to the agent about a tool.
async fn tool(socket: &Path, guard: &Post, resource: &str) -> Result<String, Vec<RefusalCode>> {
    let challenge = guard.challenge();
    let request = Request::WorkloadPresent {
        label: "agent".into(),
        audience: GUARD.into(),
        challenge: Some(hex::encode(&challenge)),
        request: None,
        action: "execute".into(),
        resource: resource.into(),
    };
    let Response::Presentation { authorization, proof } = ask(socket, &request).await.unwrap() else {
        panic!("no presentation");
    };
    let (authorization, proof) = (STANDARD.decode(authorization).unwrap(), STANDARD.decode(proof).unwrap());
    guard
        .decide_about(&authorization, &proof, &challenge, ("execute", resource))
        .map(|allowed| allowed.chain.subject())
}

/// What the guard says to whoever holds this chain with this key.
fn by_key(guard: &Post, key: &MemoryKey, chain: &[u8], resource: &str) -> Result<String, Vec<RefusalCode>> {
    let challenge = guard.challenge();
    let proof = Proof {
        audience: GUARD.into(),
        issued_at: clock::wall_ms() / 1_000,
        cti: touchstone_keybroker::session::random().unwrap(),
        authorization_digest: authorization_digest(chain),
        scope: Scope::parse(&format!("execute:{resource}")).unwrap(),
        request_digest: None,
        channel: Channel::Challenge(challenge.clone()),
    };
    let proof = proof.encode_signed(key).unwrap();
    guard
        .decide_about(chain, &proof, &challenge, ("execute", resource))
        .map(|allowed| allowed.chain.subject())
}

async fn hand_on(socket: &Path, label: &str, key: &MemoryKey, online: bool) -> Vec<u8> {
    let request = Request::WorkloadDelegate {
        label: "agent".into(),
        child: HandedOn {
            label: label.into(),
            key: hex::encode(cbor::encode(&key.public().to_cose_key(true))),
            scopes: vec!["execute:tools/search".into()],
            life: 250,
            delegation_depth: 0,
            online,
            depends_on: Vec::new(),
        },
    };
    match ask(socket, &request).await.unwrap() {
        Response::Chain { chain } => STANDARD.decode(chain).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ai_agent_has_two_tools_and_loses_them_with_its_node() {
    let domain = domain();
    let broker = domain.broker().await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let granted = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let desk = Arc::new(node.desk_with(&domain, granted, &rules()));
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("workload.sock");
    let _serving = AgentSocket::bind_for_workloads(&socket, Arc::clone(&desk)).unwrap();
    let guard = domain.guard(GUARD).await;
    let admin = domain.path("data").join(SOCKET);
    for name in ["agent/db", "other/db"] {
        let path = format!("/keys?name={name}");
        let (status, _) = local::request(&admin, "POST", &path, SECRET.as_bytes().to_vec())
            .await
            .unwrap();
        assert_eq!(status, 200);
    }

    // Who asks is who the kernel says, and gets what a rule says; nothing else is answered here.
    let two = [
        "execute:tools/search",
        "delegate:tools/search",
        "execute:tools/mail",
        "delegate:tools/mail",
    ];
    let third = error(
        &socket,
        &Request::Workload(wanted("agent", &["execute:tools/payments"])),
    )
    .await;
    assert!(third.starts_with("workload-rule"), "{third}");
    let other = error(&socket, &Request::Workload(wanted("other", &["execute:tools/search"]))).await;
    assert!(other.starts_with("workload-not-listed"), "{other}");
    let status = error(&socket, &Request::Status).await;
    assert!(status.contains("for workloads"), "{status}");
    let early = error(
        &socket,
        &Request::WorkloadDelegate {
            label: "agent".into(),
            child: HandedOn {
                label: "x".into(),
                key: String::new(),
                scopes: Vec::new(),
                life: 1,
                delegation_depth: 0,
                online: false,
                depends_on: Vec::new(),
            },
        },
    )
    .await;
    assert!(early.starts_with("workload-not-held"), "{early}");

    let agent = Wanted {
        delegation_depth: 1,
        offline: true,
        scopes: two.iter().map(|scope| (*scope).to_owned()).collect(),
        ..wanted("agent", &[])
    };
    let Response::Workload {
        subject,
        key_kind,
        entry,
        ..
    } = ask(&socket, &Request::Workload(agent.clone())).await.unwrap()
    else {
        panic!("no authorization");
    };
    assert_eq!((subject.as_str(), key_kind.as_str()), ("agent@node-1", "tpm"));
    // Asked again it goes on under its entry.
    let Response::Workload { entry: again, .. } = ask(&socket, &Request::Workload(agent)).await.unwrap() else {
        panic!("no authorization");
    };
    assert_eq!(again, entry);

    // Two tools, and not the third, though its node holds that right.
    for resource in ["tools/search", "tools/mail"] {
        assert_eq!(tool(&socket, &guard, resource).await.as_deref(), Ok("agent@node-1"));
    }
    assert_eq!(
        tool(&socket, &guard, "tools/payments").await,
        Err(vec![RefusalCode::ScopeNotGranted])
    );

    // What it hands on counts, and no further than it was handed on.
    let keys = [MemoryKey::generate().unwrap(), MemoryKey::generate().unwrap()];
    let online = hand_on(&socket, "reader", &keys[0], true).await;
    let offline = hand_on(&socket, "helper", &keys[1], false).await;
    assert_eq!(
        by_key(&guard, &keys[0], &online, "tools/search").as_deref(),
        Ok("agent.reader@node-1")
    );
    assert_eq!(
        by_key(&guard, &keys[1], &offline, "tools/search").as_deref(),
        Ok("agent@node-1:helper")
    );
    for (key, chain) in [(&keys[0], &online), (&keys[1], &offline)] {
        assert_eq!(
            by_key(&guard, key, chain, "tools/mail"),
            Err(vec![RefusalCode::ScopeNotGranted])
        );
    }
    // Another's key is no use with it.
    assert_eq!(
        by_key(&guard, &keys[0], &offline, "tools/search"),
        Err(vec![RefusalCode::ProofSignature])
    );

    // Its node is tampered with: an authentic failure, and everything below falls in one epoch.
    node.swtpm.extend(4, [9; 32]).unwrap();
    let before = broker.app().trust.epoch();
    let failed = node.attest(&mut client).await.unwrap();
    assert!(!failed.allowed);
    let epoch = broker.app().trust.epoch();
    assert_eq!(epoch, before + 1, "one epoch");
    guard.reaches(epoch).await;
    for (key, chain) in [(&keys[0], &online), (&keys[1], &offline)] {
        let refused = by_key(&guard, key, chain, "tools/search").unwrap_err();
        assert_eq!(refused, [RefusalCode::AuthorizationRevoked]);
    }
    // The TPM itself does not sign for the agent any more: its key is bound to what was booted.
    let gone = error(
        &socket,
        &Request::WorkloadPresent {
            label: "agent".into(),
            audience: GUARD.into(),
            challenge: Some(hex::encode(guard.challenge())),
            request: None,
            action: "execute".into(),
            resource: "tools/search".into(),
        },
    )
    .await;
    assert!(gone.contains("PCR"), "{gone}");
    broker.shutdown().await.unwrap();
}

/// The same work, moved from one machine to another, and what it hands on there: all of it rests on where it came from.
#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_was_moved_falls_with_the_place_it_came_from() {
    let domain = domain_of(&[("node-1", Boot::GOOD), ("node-2", Boot::CMDLINE_CHANGED)]);
    let broker = domain.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let mut places = Vec::new();
    for (name, boot) in [("node-1", Boot::GOOD), ("node-2", Boot::CMDLINE_CHANGED)] {
        let (mut node, mut client) = (Node::start(&boot).await, domain.client());
        let granted = node.attest(&mut client).await.unwrap().authorization.unwrap();
        let desk = Arc::new(node.desk_with(&domain, granted, &rules()));
        let socket = folder.path().join(format!("{name}.sock"));
        let serving = AgentSocket::bind_for_workloads(&socket, Arc::clone(&desk)).unwrap();
        places.push((socket, node, client, serving));
    }
    let (old, new) = (places[0].0.clone(), places[1].0.clone());
    let guard = domain.guard(GUARD).await;
    let agent = Wanted {
        delegation_depth: 1,
        ..wanted("agent", &["execute:tools/search", "delegate:tools/search"])
    };
    let ask_at = |socket: std::path::PathBuf, wanted: Wanted| async move {
        match ask(&socket, &Request::Workload(wanted)).await.unwrap() {
            Response::Workload { entry, .. } => entry,
            other => panic!("{other:?}"),
        }
    };
    let before = ask_at(old.clone(), agent.clone()).await;
    let unheard_of = Wanted {
        depends_on: vec![("moved-on".into(), before)],
        ..agent.clone()
    };
    let refused = error(&new, &Request::Workload(unheard_of)).await;
    assert!(refused.contains("moved-from"), "{refused}");
    let moved = Wanted {
        depends_on: vec![("moved-from".into(), before)],
        ..agent
    };
    let entry = ask_at(new.clone(), moved.clone()).await;
    assert_eq!(ask_at(new.clone(), moved).await, entry, "renewed as it is");
    // What it hands on may rest on something too; on-line only.
    let key = MemoryKey::generate().unwrap();
    let reader = |online| Request::WorkloadDelegate {
        label: "agent".into(),
        child: HandedOn {
            label: "reader".into(),
            key: hex::encode(cbor::encode(&key.public().to_cose_key(true))),
            scopes: vec!["execute:tools/search".into()],
            life: 250,
            delegation_depth: 0,
            online,
            depends_on: vec![("reads-from".into(), before)],
        },
    };
    let offline = error(&new, &reader(false)).await;
    assert!(offline.contains("on-line"), "{offline}");
    let chain = match ask(&new, &reader(true)).await.unwrap() {
        Response::Chain { chain } => STANDARD.decode(chain).unwrap(),
        other => panic!("{other:?}"),
    };
    for (socket, subject) in [(&old, "agent@node-1"), (&new, "agent@node-2")] {
        assert_eq!(tool(socket, &guard, "tools/search").await.as_deref(), Ok(subject));
    }
    assert!(by_key(&guard, &key, &chain, "tools/search").is_ok());

    let epoch = broker.app().trust.epoch();
    let order =
        r#"{"action": "revoke", "target": "workload", "id": "agent@node-1", "reason": "it was copied, not moved"}"#;
    let admin = domain.path("data").join(SOCKET);
    let done = local::request(&admin, "POST", "/commands", order.as_bytes().to_vec()).await;
    assert_eq!(done.unwrap().0, 200);
    assert_eq!(broker.app().trust.epoch(), epoch + 1, "one epoch");
    guard.reaches(epoch + 1).await;
    for socket in [&old, &new] {
        assert_eq!(
            tool(socket, &guard, "tools/search").await,
            Err(vec![RefusalCode::AuthorizationRevoked])
        );
    }
    assert_eq!(
        by_key(&guard, &key, &chain, "tools/search"),
        Err(vec![RefusalCode::AuthorizationRevoked])
    );
    // The machine that it was moved to has lost nothing.
    let (_, node, client, _) = &mut places[1];
    assert!(node.attest(client).await.unwrap().allowed);

    // What `touchstone lineage show` prints, folded from the ledger alone.
    let mut history = History::default();
    let key = domain.key(Job::Statement);
    for index in 0..broker.app().head().size {
        let bytes = touchstone_keybroker::log::entry(&*broker.app().store, index)
            .unwrap()
            .unwrap();
        let statement = VerifiedStatement::parse(&bytes, &key).unwrap().into_statement();
        history.apply(index, &statement);
    }
    assert!(history.flaws().0.is_empty(), "{:?}", history.flaws());
    let tree = &history.trees(Named::Subject, "agent@node-2", clock::wall_seconds())[0];
    assert_eq!((tree.state, tree.epoch), ("revoked", Some(epoch + 1)));
    let edge = tree.events.iter().find(|event| event.what == "moved-from");
    assert_eq!(edge.map(|event| event.detail.as_str()), Some("agent@node-1"));
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_to_workloads_whose_own_key_is_in_hardware() {
    let domain = domain();
    let broker = domain.broker().await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let granted = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let desk = Arc::new(node.desk_with(&domain, granted, &rules()));
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("workload.sock");
    let _serving = AgentSocket::bind_for_workloads(&socket, Arc::clone(&desk)).unwrap();
    let admin = domain.path("data").join(SOCKET);
    let put = local::request(&admin, "POST", "/keys?name=agent/db", SECRET.as_bytes().to_vec()).await;
    assert_eq!(put.unwrap().0, 200);
    let wanted_key = Request::WorkloadKey {
        label: "agent".into(),
        key: "agent/db".into(),
        version: None,
        resource: "keys".into(),
    };
    ask(&socket, &Request::Workload(wanted("agent", &["execute:tools/search"])))
        .await
        .unwrap();
    let without = error(&socket, &wanted_key).await;
    assert!(without.contains("scope-not-granted"), "{without}");
    ask(&socket, &Request::Workload(wanted("agent", &["release:keys"])))
        .await
        .unwrap();
    match ask(&socket, &wanted_key).await.unwrap() {
        Response::Key { secret, .. } => assert_eq!(STANDARD.decode(secret.0.as_bytes()).unwrap(), SECRET.as_bytes()),
        other => panic!("{other:?}"),
    }
    broker.shutdown().await.unwrap();
}
