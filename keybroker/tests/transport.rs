//! The door: TLS, bounds, hostile requests. Nothing here gets as far as a decision.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use std::sync::Arc;

use common::client::{self, Client, problem};
use common::tpm::SoftNode;
use common::{Domain, attest, decided, in_time};
use hyper::{Method, StatusCode};
use rustls::client::Resumption;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use touchstone_evidence::message::{Identity, LogBytes, Submission};
use touchstone_keybroker::config::Config;
use touchstone_keybroker::keys::KeyJob;
use touchstone_keybroker::policy::PolicySourceError;
use touchstone_keybroker::service::{Broker, ServiceError};

#[tokio::test]
async fn only_tls_13_with_post_quantum_key_exchange_and_never_a_resumption() {
    let domain = Domain::new(&[], &[]);
    let broker = domain.start().await;
    let old = Client::with(broker.address(), client::config(&[&rustls::version::TLS12])).await;
    assert!(old.is_err(), "TLS 1.2");

    let mut config = client::config(&[&rustls::version::TLS13]);
    config.resumption = Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    for round in 0..3 {
        let mut client = Client::with(broker.address(), config.clone()).await.unwrap();
        client.get("/v1/health").await;
        client.tls(|tls| {
            let group = tls.negotiated_key_exchange_group().unwrap().name();
            assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
            assert_eq!(tls.handshake_kind(), Some(rustls::HandshakeKind::Full), "round {round}");
            assert_eq!(tls.tls13_tickets_received(), 0);
            assert!(!tls.is_early_data_accepted());
            assert_eq!(tls.alpn_protocol(), Some(&b"http/1.1"[..]));
        });
    }
    let mut other = client::config(&[&rustls::version::TLS13]);
    other.alpn_protocols = vec![b"h2".to_vec()];
    assert!(
        Client::with(broker.address(), other).await.is_err(),
        "another application protocol"
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn half_open_handshakes_and_idle_connections_hold_nobody_up() {
    let domain = Domain::new(&[], &[]).with_limits("handshakes = 64\nhandshake_ms = 60000");
    let broker = domain.start().await;
    let mut open = Vec::new();
    for n in 0..500 {
        let mut stream = TcpStream::connect(broker.address()).await.unwrap();
        if n % 2 == 0 {
            // A ClientHello that says it is long, and never comes.
            stream.write_all(&[0x16, 3, 1, 0x3f, 0xff, 1]).await.unwrap();
        }
        open.push(stream);
    }
    let mut client = Client::connect(broker.address()).await;
    client.get("/v1/health").await;
    // The oldest were dropped to make room.
    let mut byte = [0];
    assert_eq!(open[1].read(&mut byte).await.unwrap_or(0), 0);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_slow_handshake_is_ended() {
    let domain = Domain::new(&[], &[]).with_limits("handshake_ms = 50");
    let broker = domain.start().await;
    let mut stream = TcpStream::connect(broker.address()).await.unwrap();
    let mut byte = [0];
    assert_eq!(stream.read(&mut byte).await.unwrap_or(0), 0, "the broker hangs up");
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn hostile_requests_are_typed_refusals() {
    let node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]).with_limits("refusals_per_second = 1000");
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let hello = node.hello(false);
    let mut other_protocol = hello.clone();
    other_protocol.protocol = "touchstone/2".into();
    let mut other_kind = hello.clone();
    other_kind.kinds = vec!["sgx".into()];
    let mut no_key = hello.clone();
    no_key.session_key = vec![0xA0];
    let mut no_ek = hello.clone();
    if let Identity::Full { ek_public, .. } = &mut no_ek.identity {
        ek_public.truncate(40);
    }
    let mut unrestricted = hello.clone();
    if let Identity::Full { ak_public, .. } = &mut unrestricted.identity {
        // `restricted` is bit 16 of the attributes at offset 4.
        ak_public[5] &= !0x01;
    }
    let mut trailing = hello.encode();
    trailing.push(0);
    let unknown = Submission {
        session_id: [9; 16],
        collection: vec![0xA0],
        activation: None,
        offsets: LogBytes::new(),
    };
    let large = broker.app().limits.hello_bytes + 1;
    for (attack, path, body, status, code) in [
        ("empty", "/v1/hello", vec![], 400, "request-message-malformed"),
        (
            "not CBOR",
            "/v1/hello",
            b"{\"hello\":1}".to_vec(),
            400,
            "request-message-malformed",
        ),
        ("trailing byte", "/v1/hello", trailing, 400, "request-message-malformed"),
        (
            "indefinite length",
            "/v1/hello",
            vec![0xBF, 0xFF],
            400,
            "request-message-malformed",
        ),
        ("too large", "/v1/hello", vec![0; large], 413, "request-body-too-large"),
        (
            "another protocol",
            "/v1/hello",
            other_protocol.encode(),
            400,
            "request-message-malformed",
        ),
        (
            "another kind",
            "/v1/hello",
            other_kind.encode(),
            400,
            "request-kind-unsupported",
        ),
        (
            "no session key",
            "/v1/hello",
            no_key.encode(),
            400,
            "identity-malformed",
        ),
        (
            "endorsement key cut short",
            "/v1/hello",
            no_ek.encode(),
            400,
            "identity-malformed",
        ),
        (
            "unrestricted attestation key",
            "/v1/hello",
            unrestricted.encode(),
            400,
            "identity-malformed",
        ),
        (
            "unknown session",
            "/v1/evidence",
            unknown.encode(),
            409,
            "session-unknown",
        ),
        (
            "no submission",
            "/v1/evidence",
            vec![0x80],
            400,
            "request-message-malformed",
        ),
        ("short nonce", "/v1/time", vec![0; 31], 400, "request-message-malformed"),
        ("long nonce", "/v1/time", vec![0; 33], 413, "request-body-too-large"),
        ("no such route", "/v1/secrets", vec![], 404, "request-route-unknown"),
        ("no such method", "/v1/health", vec![], 405, "request-method-unknown"),
    ] {
        let (found, body) = client.send(Method::POST, path, body).await;
        assert_eq!(found.as_u16(), status, "{attack}");
        assert_eq!(problem(found, &body).code, code, "{attack}");
        if status == 413 {
            // The rest of a body that was refused is not read: the connection ends with it.
            client = Client::connect(broker.address()).await;
        }
    }
    for (path, status) in [
        ("/v1/ledger/entries", 400),
        ("/v1/ledger/entries?start=0&count=-1", 400),
        (
            "/v1/ledger/entries?start=18446744073709551615&count=18446744073709551615",
            200,
        ),
        ("/v1/ledger/proof?index=0&size=99", 404),
        ("/v1/ledger/proof?index=2&size=2", 404),
        ("/v1/status/4", 404),
        ("/v1/status/x", 400),
        ("/v1/trust-state/stream", 400),
        ("/v1/trust-state/stream?subscriber=%1b%5b2J", 400),
    ] {
        assert_eq!(
            client.send(Method::GET, path, vec![]).await.0.as_u16(),
            status,
            "{path}"
        );
    }
    assert_eq!(decided(&broker).await.len(), 2, "none of it was decided on");
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn wrong_evidence_in_a_session_is_refused_and_uses_it_up() {
    let node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let unbound = touchstone_evidence::collection::Collection::unbound().encode();
    for (attack, collection) in [("not an envelope", vec![0x80]), ("packed evidence", unbound)] {
        let challenge = client.hello(&node.hello(false)).await.unwrap();
        let submission = Submission {
            session_id: challenge.session_id,
            collection,
            activation: None,
            offsets: LogBytes::new(),
        };
        assert_eq!(
            client.submit(&submission).await.unwrap_err().code,
            "evidence-not-accepted",
            "{attack}"
        );
        assert_eq!(
            client.submit(&submission).await.unwrap_err().code,
            "session-unknown",
            "{attack}"
        );
    }
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_flood_of_hellos_stays_bounded_and_the_newest_still_work() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[])
        .with_limits("sessions = 8\nsessions_per_connection = 2\nrefusals_per_second = 1000");
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let first = client.hello(&node.hello(false)).await.unwrap();
    let mut nonces = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let mut flood = Client::connect(broker.address()).await;
        for _ in 0..10 {
            let challenge = flood.hello(&node.hello(false)).await.unwrap();
            assert!(nonces.insert(challenge.nonce));
        }
    }
    assert!(broker.app().sessions.lock().unwrap().len() <= 8);
    let late = node.answer(common::DOMAIN, &first, client.export(&first.nonce));
    assert_eq!(client.submit(&late).await.unwrap_err().code, "session-unknown");
    assert!(attest(&mut client, &mut node, false).await.unwrap().allowed);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_source_that_is_refused_too_often_waits_and_a_proven_connection_does_not() {
    let mut node = SoftNode::new("good");
    // Two in one of its seconds: that comes, however slow the machine.
    let domain = Domain::new(&[("node-1", &node)], &[]).with_limits("refusals_per_second = 1");
    let broker = domain.start().await;
    let mut proven = Client::connect(broker.address()).await;
    assert!(attest(&mut proven, &mut node, false).await.unwrap().allowed);
    let mut hostile = Client::connect(broker.address()).await;
    let limited = loop {
        let (status, body) = hostile.send(Method::POST, "/v1/hello", vec![0x80]).await;
        if status == StatusCode::TOO_MANY_REQUESTS {
            break problem(status, &body);
        }
    };
    assert_eq!(limited.code, "source-rate-limited");
    assert!(attest(&mut proven, &mut node, true).await.unwrap().allowed);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_body_that_stays_away_is_not_waited_for() {
    let domain = Domain::new(&[], &[]).with_limits("body_ms = 50");
    let broker = domain.start().await;
    let tcp = TcpStream::connect(broker.address()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client::config(&[&rustls::version::TLS13])));
    let mut stream = connector.connect("x".try_into().unwrap(), tcp).await.unwrap();
    let head =
        b"POST /v1/hello HTTP/1.1\r\nhost: x\r\ncontent-type: application/cbor\r\ncontent-length: 100\r\n\r\n\xA5";
    stream.write_all(head).await.unwrap();
    let mut answer = [0; 12];
    in_time("an answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_broker_whose_keys_policy_does_not_list_does_not_start() {
    let domain = Domain::new(&[], &[]);
    let keys = domain.path("data/keys");
    // Without the keys of jobs that came later it starts, and does without them: tests/release.rs, tests/witness.rs.
    for job in KeyJob::ALL.into_iter().filter(|job| !KeyJob::ADDED.contains(job)) {
        let stranger = tempfile::tempdir().unwrap();
        touchstone_keybroker::keys::BrokerKeys::init(&stranger.path().join("data")).unwrap();
        let files: Vec<String> = match job {
            KeyJob::Tls => vec!["tls.pem".into(), "tls-certificate.pem".into()],
            other => vec![format!("{}.pem", other.as_str())],
        };
        let kept: Vec<Vec<u8>> = files
            .iter()
            .map(|file| std::fs::read(keys.join(file)).unwrap())
            .collect();
        for file in &files {
            std::fs::copy(stranger.path().join("data/keys").join(file), keys.join(file)).unwrap();
        }
        let refused = Broker::start(domain.config()).await.err().unwrap();
        match refused {
            ServiceError::Policy(PolicySourceError::KeyUnlisted { job: missing, .. }) => assert_eq!(missing, job),
            other => panic!("{other}"),
        }
        for (file, bytes) in files.iter().zip(kept) {
            std::fs::write(keys.join(file), bytes).unwrap();
        }
    }
    let other = Config {
        domain: "other.example".into(),
        ..domain.config()
    };
    let refused = Broker::start(other).await.err().unwrap();
    assert!(
        matches!(refused, ServiceError::Policy(PolicySourceError::Domain { .. })),
        "{refused}"
    );
    domain.start().await.shutdown().await.unwrap();
}
