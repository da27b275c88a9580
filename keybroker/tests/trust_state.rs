//! What enforcers, auditors and operators see: stream, lists, time, ledger, commands, policy that changes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::client::{Client, problem};
use common::tpm::SoftNode;
use common::{DOMAIN, Domain, attest, authorization, command, eventually, key, ledger, now, ring, view};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use touchstone_authorization::broker_time::BrokerTime;
use touchstone_authorization::{Status, TrustView};
use touchstone_cose::cbor::{self, Limits};
use touchstone_cose::status_list::StatusListToken;
use touchstone_keybroker::clock::Clock;
use touchstone_keybroker::policy::public_keyset;
use touchstone_keybroker::record::DecisionRecord;
use touchstone_keybroker::service::RunningBroker;
use touchstone_ledger::checkpoint::VerifiedCheckpoint;
use touchstone_ledger::note::NoteKey;
use touchstone_ledger::statement::{Kind, leaf_hash};
use touchstone_ledger::tree::verify_inclusion;
use touchstone_policies::Job;

/// Frames as they arrive on the stream.
struct Stream {
    body: Incoming,
    buffer: String,
    _client: Client,
}

impl Stream {
    async fn open(broker: &RunningBroker) -> Self {
        let mut client = Client::connect(broker.address()).await;
        let response = client
            .open(Method::GET, "/v1/trust-state/stream?subscriber=guard-1", vec![])
            .await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body(),
            buffer: String::new(),
            _client: client,
        }
    }

    /// The next frame; `None` when the broker closes the stream.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let data = event.strip_prefix("event: frame\ndata: ").unwrap();
                let frame = URL_SAFE_NO_PAD.decode(data).unwrap();
                self.buffer = rest.to_owned();
                return Some(frame);
            }
            let data = self.body.frame().await?.ok()?.into_data().unwrap();
            self.buffer.push_str(std::str::from_utf8(&data).unwrap());
        }
    }
}

#[tokio::test]
async fn the_stream_gives_the_whole_first_then_every_change() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut stream = Stream::open(&broker).await;
    let keys = ring(&broker, Job::TrustState);
    let accept = |held: Option<&TrustView>, frame: &[u8]| {
        TrustView::accept(held, frame, &keys, DOMAIN, Clock::start().now_ms()).unwrap()
    };
    let mut held = accept(None, &stream.next().await.unwrap());
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, &mut node, false).await.unwrap();
    let place = authorization(&broker, &answer).contents().status;
    node.extend(7);
    assert!(!attest(&mut client, &mut node, true).await.unwrap().allowed);
    let epoch = held.head().epoch;
    while held.lists().get(place.list).unwrap().status(place.index) == Some(Status::Valid) {
        held = accept(Some(&held), &stream.next().await.unwrap());
    }
    assert_eq!(held.head().epoch, epoch + 1, "the very next change");
    // Heartbeats: the same contents, fresher.
    let fresh_until = held.head().fresh_until_ms;
    while held.head().fresh_until_ms <= fresh_until {
        held = accept(Some(&held), &stream.next().await.unwrap());
    }
    assert_eq!(held.head().epoch, epoch + 1);
    broker.shutdown().await.unwrap();
    while let Some(frame) = stream.next().await {
        held = accept(Some(&held), &frame);
    }
}

#[tokio::test]
async fn who_polls_sees_the_same() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, &mut node, false).await.unwrap();
    let place = authorization(&broker, &answer).contents().status;
    let token = |bytes: &[u8]| {
        let subject = format!("urn:touchstone:status:{DOMAIN}:1:{}", place.list);
        StatusListToken::verify(bytes, &key(&broker, Job::TrustState), &subject, now(), 1).unwrap()
    };
    let path = format!("/v1/status/{}", place.list);
    assert_eq!(
        token(&client.get(&path).await).list.get(place.index.into()),
        Ok(Status::Valid)
    );
    let revoke = r#"{"node": "node-1", "reason": "stolen"}"#;
    let (status, body) = command(&domain, Method::POST, "/revoke", revoke).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    let revoked = token(&client.get(&path).await);
    assert_eq!(revoked.list.get(place.index.into()), Ok(Status::Invalid));
    assert!(revoked.expires - revoked.issued_at <= 60 && revoked.ttl <= 15);

    let nonce = [7; 32];
    let (status, body) = client.send(Method::POST, "/v1/time", nonce.to_vec()).await;
    assert_eq!(status, StatusCode::OK);
    let now_ms = Clock::start().now_ms();
    let time_ms = BrokerTime::verify(&body, &ring(&broker, Job::TrustState), &nonce, now_ms)
        .unwrap()
        .time_ms;
    assert!(time_ms.abs_diff(now_ms) < 60_000);
    assert!(BrokerTime::verify(&body, &ring(&broker, Job::TrustState), &[8; 32], now_ms).is_err());

    // Nothing can be entered into the list any more: then nobody is told that it is fresh.
    broker.app().trust.stop();
    let (status, body) = client.send(Method::GET, &path, vec![]).await;
    assert_eq!(problem(status, &body).code, "broker-stopping");
    assert!(broker.shutdown().await.is_err());
}

#[tokio::test]
async fn status_lists_are_at_the_address_of_policy_and_say_how_long_they_may_be_kept() {
    let domain = Domain::new(&[], &[]);
    let settings = domain.path("policy/staged/settings.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let uri = "https://status.test.example/v1/status";
    let with = text.replace("[status_list]\n", &format!("[status_list]\nuri = \"{uri}/\"\n"));
    assert_ne!(with, text);
    std::fs::write(&settings, with).unwrap();
    domain.publish();
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let lists: serde_json::Value = serde_json::from_slice(&client.get("/v1/status").await).unwrap();
    let names = lists["status_lists"].as_array().unwrap();
    assert!(names.len() > 1, "several lists from the start");
    for (number, name) in names.iter().enumerate() {
        assert_eq!(name, &format!("{uri}/{number}"));
        let bytes = client.get(&format!("/v1/status/{number}")).await;
        let verify = |subject: &str| StatusListToken::verify(&bytes, &key(&broker, Job::TrustState), subject, now(), 1);
        let token = verify(name.as_str().unwrap()).unwrap();
        assert!(verify("https://elsewhere.example/0").is_err());
        // An index that the list does not have has no status: whoever asks for it denies.
        assert!(token.list.get(token.list.entries()).is_err() && token.list.get(u64::MAX).is_err());
    }
    let response = client.open(Method::GET, "/v1/status/0", vec![]).await;
    assert_eq!(response.headers()["content-type"], "application/statuslist+cwt");
    assert_eq!(response.headers()["cache-control"], "public, max-age=15");
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    let first = response.into_body().collect().await.unwrap().to_bytes();
    // Signed once a second, whoever asks; and at once where something is taken away.
    let trust = &broker.app().trust;
    let place = trust.deal().unwrap();
    trust
        .granted(&[place], (1, [1; 32]), broker.app().clock.now_ms())
        .unwrap();
    let again = client.get(&format!("/v1/status/{}", place.list)).await;
    let gone = trust.withdraw(&[place], broker.app().clock.now_ms()).unwrap();
    let after = client.get(&format!("/v1/status/{}", place.list)).await;
    let status = |bytes: &[u8]| {
        let subject = format!("{uri}/{}", place.list);
        let token = StatusListToken::verify(bytes, &key(&broker, Job::TrustState), &subject, now(), 1).unwrap();
        token.list.get(place.index.into()).unwrap()
    };
    assert_eq!((status(&again), status(&after)), (Status::Valid, Status::Invalid));
    assert!(!first.is_empty());
    trust.durable(gone);
    for (path, status, code) in [
        ("/v1/status/99", 404, "request-not-found"),
        ("/v1/status/65536", 400, "request-parameter-malformed"),
        ("/v1/status/-1", 400, "request-parameter-malformed"),
        ("/v1/status/0?time=1700000000", 501, "status-list-history"),
    ] {
        let (found, body) = client.send(Method::GET, path, vec![]).await;
        assert_eq!(found.as_u16(), status, "{path}");
        assert_eq!(problem(found, &body).code, code, "{path}");
    }
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_auditor_can_follow_every_entry_to_the_signed_root() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    for round in 0..4 {
        assert!(attest(&mut client, &mut node, round > 0).await.unwrap().allowed);
    }
    let note = NoteKey::new(&format!("{DOMAIN}/ledger"), &key(&broker, Job::Checkpoint)).unwrap();
    let checkpoint = VerifiedCheckpoint::open(&client.get("/v1/ledger/checkpoint").await, &note).unwrap();
    assert_eq!(checkpoint.size(), 6);
    let body = client.get("/v1/ledger/entries?start=0&count=1000").await;
    let entries = cbor::decode(&body, Limits::MESSAGE).unwrap();
    let entries = entries.as_array().unwrap();
    assert_eq!(entries.len(), 6);
    for (index, entry) in entries.iter().enumerate() {
        let body = client.get(&format!("/v1/ledger/proof?index={index}&size=6")).await;
        let proof = cbor::decode(&body, Limits::TOKEN).unwrap();
        let path: Vec<[u8; 32]> = proof
            .as_array()
            .unwrap()
            .iter()
            .map(|hash| hash.as_bytes().unwrap().try_into().unwrap())
            .collect();
        let leaf = leaf_hash(entry.as_bytes().unwrap());
        verify_inclusion(&leaf, index as u64, 6, &path, checkpoint.root()).unwrap();
    }
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn operators_command_over_a_private_socket() {
    use std::os::unix::fs::MetadataExt as _;
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mode = std::fs::metadata(domain.path("data/admin.sock")).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, &mut node, false).await.unwrap();

    let (_, body) = command(&domain, Method::GET, "/status", "").await;
    let status: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&status["domain"], &status["ledger"]["size"]),
        (&DOMAIN.into(), &3.into())
    );
    assert_eq!(status["attesting_nodes"], 1);
    for path in ["/record/2", "/record/latest/node-1"] {
        let (_, body) = command(&domain, Method::GET, path, "").await;
        let record = DecisionRecord::decode(&body).unwrap();
        assert_eq!((record.index, &record.statement), (2, &answer.statement));
        record
            .replay(&broker.app().policy(), &key(&broker, Job::Statement))
            .unwrap();
    }
    for (method, path, body, status, code) in [
        (
            Method::POST,
            "/revoke",
            r#"{"node": "nobody", "reason": "x"}"#,
            404,
            "request-not-found",
        ),
        (
            Method::POST,
            "/revoke",
            r#"{"node": "node-1"}"#,
            400,
            "request-message-malformed",
        ),
        (
            Method::POST,
            "/revoke",
            r#"{"node": "node-1", "reason": "x", "all": true}"#,
            400,
            "request-message-malformed",
        ),
        (Method::GET, "/record/99", "", 404, "request-not-found"),
        (Method::GET, "/record/x", "", 400, "request-parameter-malformed"),
        (Method::GET, "/record/latest/nobody", "", 404, "request-not-found"),
        (Method::GET, "/nothing", "", 404, "request-route-unknown"),
    ] {
        let (found, body) = command(&domain, method, path, body).await;
        assert_eq!(found.as_u16(), status, "{path}");
        assert_eq!(problem(found, &body).code, code, "{path}");
    }
    // None of it is on the network.
    for (method, path) in [
        (Method::GET, "/status"),
        (Method::POST, "/revoke"),
        (Method::GET, "/record/2"),
    ] {
        assert_eq!(
            client.send(method, path, vec![]).await.0,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }

    let place = authorization(&broker, &answer).contents().status;
    let revoke = r#"{"node": "node-1", "reason": "stolen"}"#;
    command(&domain, Method::POST, "/revoke", revoke).await;
    let shown = view(&broker, &client.get("/v1/trust-state").await);
    assert_eq!(
        shown.lists().get(place.list).unwrap().status(place.index),
        Some(Status::Invalid)
    );
    let last = ledger(&broker).await.pop().unwrap();
    assert_eq!(
        (last.kind, last.reasons[0].found.as_str()),
        (Kind::Revocation, "stolen")
    );
    let again = attest(&mut client, &mut node, true).await.unwrap();
    assert_ne!(authorization(&broker, &again).contents().status, place);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_published_policy_is_taken_over_between_two_decisions_and_a_bad_one_is_not() {
    let mut node = SoftNode::new("good");
    let late = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let before = attest(&mut client, &mut node, false).await.unwrap();
    let version = authorization(&broker, &before).contents().policy_version;
    let (status, _) = command(&domain, Method::POST, "/reload", "").await;
    assert_eq!(status, StatusCode::OK, "nothing new is no failure");

    domain.add_node("node-2", &late);
    domain.publish();
    let (status, body) = command(&domain, Method::POST, "/reload", "").await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    let shown = view(&broker, &client.get("/v1/trust-state").await);
    assert_eq!(shown.head().policy_version, version + 1);
    let after = attest(&mut client, &mut node, true).await.unwrap();
    assert_eq!(authorization(&broker, &after).contents().policy_version, version + 1);
    let kinds: Vec<Kind> = ledger(&broker).await.iter().map(|s| s.kind).collect();
    let expected = [
        Kind::Genesis,
        Kind::PolicyActivation,
        Kind::Enrolment,
        Kind::PolicyActivation,
        Kind::Attestation,
    ];
    assert_eq!(kinds, expected);

    // Rolled back: the files of before are put back.
    let metadata = domain.path("policy/metadata");
    let newest = std::fs::read(metadata.join("timestamp.json")).unwrap();
    std::fs::write(metadata.join("timestamp.json"), &newest[..newest.len() / 2]).unwrap();
    let (status, body) = command(&domain, Method::POST, "/reload", "").await;
    assert_eq!(problem(status, &body).code, "policy-refused");
    assert!(
        attest(&mut client, &mut node, true).await.unwrap().allowed,
        "the policy in force goes on"
    );
    std::fs::write(metadata.join("timestamp.json"), newest).unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_policy_without_the_brokers_own_keys_is_not_taken_over_and_the_operator_sees_it() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let before = attest(&mut client, &mut node, false).await.unwrap();
    let version = authorization(&broker, &before).contents().policy_version;
    let shown = async || -> serde_json::Value {
        let (_, body) = command(&domain, Method::GET, "/status", "").await;
        serde_json::from_slice(&body).unwrap()
    };
    assert!(shown().await["policy"]["refused"].is_null());

    let own = touchstone_keybroker::keys::BrokerKeys::load(&domain.path("data")).unwrap();
    let stranger = tempfile::tempdir().unwrap();
    touchstone_keybroker::keys::BrokerKeys::init(&stranger.path().join("data")).unwrap();
    let other = touchstone_keybroker::keys::BrokerKeys::load(&stranger.path().join("data")).unwrap();
    let keyset = |keys, version| public_keyset(keys, version, "r1", now() - 60, now() + 86_400).to_json();
    touchstone_policies::keyset_add(&domain.path("policy"), &keyset(&other, 2)).unwrap();
    domain.publish();
    let (status, body) = command(&domain, Method::POST, "/reload", "").await;
    let refused = problem(status, &body);
    assert_eq!(refused.code, "policy-refused");
    assert!(
        shown().await["policy"]["refused"]
            .as_str()
            .is_some_and(|words| words.contains("not in the signed keyset"))
    );
    let after = attest(&mut client, &mut node, true).await.unwrap();
    assert!(after.allowed, "the policy in force goes on");
    assert_eq!(authorization(&broker, &after).contents().policy_version, version);

    touchstone_policies::keyset_add(&domain.path("policy"), &keyset(&own, 3)).unwrap();
    domain.publish();
    let (status, _) = command(&domain, Method::POST, "/reload", "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        shown().await["policy"]["refused"].is_null(),
        "what is taken over is refused no more"
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_policy_that_no_longer_accepts_a_node_takes_its_rights_now() {
    let (mut kept, mut dropped) = (SoftNode::new("good"), SoftNode::new("good"));
    let domain = Domain::new(&[("node-1", &kept), ("node-2", &dropped)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let first = attest(&mut client, &mut kept, false).await.unwrap();
    let second = attest(&mut client, &mut dropped, false).await.unwrap();
    let place = |answer| authorization(&broker, answer).contents().status;
    let (first, second) = (place(&first), place(&second));

    let region = domain.path("policy/staged/regions/north/policy.cedar");
    let forbid = "\nforbid (principal, action, resource) when { principal.name == \"node-2\" };\n";
    std::fs::create_dir_all(region.parent().unwrap()).unwrap();
    std::fs::write(
        &region,
        touchstone_policies::cedar::default_region_policy("north") + forbid,
    )
    .unwrap();
    domain.publish();
    let (status, body) = command(&domain, Method::POST, "/reload", "").await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    let shown = view(&broker, &client.get("/v1/trust-state").await);
    let status = |at: touchstone_authorization::StatusIndex| shown.lists().get(at.list).unwrap().status(at.index);
    assert_eq!(
        (status(first), status(second)),
        (Some(Status::Valid), Some(Status::Invalid))
    );
    let last = ledger(&broker).await.pop().unwrap();
    assert_eq!((last.kind, last.subject.as_deref()), (Kind::Revocation, Some("node-2")));
    assert_eq!(last.reasons[0].code, "policy-no-longer-permits");
    let denied = attest(&mut client, &mut dropped, true).await.unwrap();
    assert!(
        denied
            .reasons
            .iter()
            .any(|reason| reason.code == "denied-by-region-policy")
    );
    assert!(attest(&mut client, &mut kept, true).await.unwrap().allowed);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_session_that_was_asked_for_other_registers_is_refused_and_takes_nothing_away() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, &mut node, false).await.unwrap();
    let place = authorization(&broker, &answer).contents().status;

    let challenge = client.hello(&node.hello(true)).await.unwrap();
    let settings = domain.path("policy/staged/settings.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let (before, after) = ("[0, 2, 3, 4, 7, 8, 9, 11, 14]", "[0, 2, 3, 4, 7, 8, 9, 14]");
    assert!(text.contains(before));
    std::fs::write(&settings, text.replace(before, after)).unwrap();
    domain.publish();
    let (status, body) = command(&domain, Method::POST, "/reload", "").await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));

    // What it was asked for, and not good: even that is no failure under a policy that asks for something else.
    let kept = node.values.clone();
    node.extend(4);
    let submission = node.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
    let refused = client.submit(&submission).await.unwrap_err();
    assert_eq!(
        (refused.status, refused.code.as_str()),
        (503, "policy-changed-meanwhile")
    );
    let shown = view(&broker, &client.get("/v1/trust-state").await);
    let found = shown.lists().get(place.list).unwrap().status(place.index);
    assert_eq!(found, Some(Status::Valid));
    node.values = kept;
    let again = attest(&mut client, &mut node, true).await.unwrap();
    assert_eq!(authorization(&broker, &again).contents().status, place);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_policy_published_while_the_broker_was_down_judges_what_was_granted_before() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, &mut node, false).await.unwrap();
    let place = authorization(&broker, &answer).contents().status;
    drop(client);
    broker.shutdown().await.unwrap();

    let region = domain.path("policy/staged/regions/north/policy.cedar");
    std::fs::create_dir_all(region.parent().unwrap()).unwrap();
    let forbid = "\nforbid (principal, action, resource);\n";
    let text = touchstone_policies::cedar::default_region_policy("north") + forbid;
    std::fs::write(&region, text).unwrap();
    domain.publish();
    let broker = domain.start().await;
    let status = || broker.app().trust.lists().get(place.list).unwrap().status(place.index);
    eventually("what the policy takes", || status() == Some(Status::Invalid)).await;
    eventually("the disk", || broker.app().trust.pending() == 0).await;
    let last = ledger(&broker).await.pop().unwrap();
    assert_eq!(last.reasons[0].code, "policy-no-longer-permits");
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_policy_that_was_accepted_once_is_never_rolled_back_over_a_restart() {
    let domain = Domain::new(&[], &[]);
    let timestamp = domain.path("policy/metadata/timestamp.json");
    let old = std::fs::read(&timestamp).unwrap();
    let node = SoftNode::new("good");
    domain.add_node("node-1", &node);
    domain.publish();
    let broker = domain.start().await;
    let accepted = broker.app().policy().version;
    broker.shutdown().await.unwrap();
    std::fs::write(&timestamp, old).unwrap();
    // Its own copy is what it accepted; without that there is nothing to go on with.
    let broker = domain.start().await;
    assert_eq!(broker.app().policy().version, accepted);
    broker.shutdown().await.unwrap();
    std::fs::remove_dir_all(domain.config().data_dir.join("policy")).unwrap();
    let refused = touchstone_keybroker::service::Broker::start(domain.config())
        .await
        .err()
        .unwrap();
    assert!(refused.to_string().contains("timestamp"), "{refused}");
}
