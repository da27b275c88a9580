//! Keys over the network: what an attested node gets, and everybody who gets nothing. Machines in software; the same over
//! real TPMs is `swtpm-tests/tests/live_release.rs`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::client::{Client, Problem, problem};
use common::tpm::{SoftKey, SoftNode};
use common::{DOMAIN, Domain, attest, command, decided, eventually, key, ledger, now};
use hyper::{Method, StatusCode};
use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_authorization::{Channel, Proof, Scope, authorization_digest};
use touchstone_cose::cbor::{Limits, Value};
use touchstone_cose::encrypt::{Agreement as _, EncryptError, Sealed, SoftwareReceiveKey};
use touchstone_cose::sign1::Unverified;
use touchstone_evidence::message::{
    KEY_TYPE, MAX_RELEASE_ANSWER, RELEASE_PATH, RELEASE_TYPE, ReleaseAnswer, ReleaseRequest, ReleasedKey,
    STATEMENT_LABEL, release_audience,
};
use touchstone_keybroker::decision::DecisionError;
use touchstone_keybroker::key_files::write_new;
use touchstone_keybroker::record::{DecisionRecord, RecordError, RecordedDecision};
use touchstone_keybroker::release::inputs::{ReleaseInputs, ReleaseInputsError};
use touchstone_keybroker::service::RunningBroker;
use touchstone_ledger::receipt::verify_receipt;
use touchstone_ledger::statement::{Kind, Outcome, Statement, VerifiedStatement};
use touchstone_policies::Job;

const SECRET: &str = "the-launch-codes-0123456789abcdef";
const LIMITS: Limits = Limits {
    max_bytes: MAX_RELEASE_ANSWER,
    max_depth: 8,
    max_items: 512,
};

pub fn machine() -> SoftNode {
    let mut node = SoftNode::new("good");
    node.receive = Some(SoftwareReceiveKey::generate().unwrap());
    node
}

pub fn domain(nodes: &[(&str, &SoftNode)], settings: &[(&str, &str)]) -> Domain {
    let domain = Domain::new(nodes, settings);
    let file = domain.path("passphrase");
    write_new(&file, b"correct horse battery staple\n").unwrap();
    domain.with_more(&format!("[keys]\nkek = {{ passphrase_file = {file:?} }}\n"))
}

pub async fn put(domain: &Domain, query: &str) {
    let (status, body) = command(domain, Method::POST, &format!("/keys?{query}"), SECRET).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
}

/// What a request says, where it is not the usual.
pub struct Ask<'a> {
    pub key: &'a str,
    pub version: Option<u64>,
    pub resource: &'a str,
    /// The scope of the proof.
    pub scope: &'a str,
    pub audience: String,
    pub cti: [u8; 16],
    /// None: that of the connection.
    pub channel: Option<Channel>,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        Self {
            key: "db/main",
            version: None,
            resource: "keys",
            scope: "release:keys",
            audience: release_audience(DOMAIN),
            cti: getrandom_16(),
            channel: None,
        }
    }
}

fn getrandom_16() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

pub fn request(client: &Client, signer: &SoftKey, authorization: &[u8], ask: &Ask<'_>) -> Vec<u8> {
    let digest = authorization_digest(authorization);
    let proof = Proof {
        audience: ask.audience.clone(),
        issued_at: now() as u64,
        cti: ask.cti,
        authorization_digest: digest,
        scope: Scope::parse(ask.scope).unwrap(),
        request_digest: None,
        channel: ask
            .channel
            .clone()
            .unwrap_or_else(|| Channel::Exporter(client.export_for(EXPORTER_LABEL, &digest))),
    };
    ReleaseRequest {
        authorization: authorization.to_vec(),
        proof: proof.encode_signed(signer).unwrap(),
        key: ask.key.into(),
        version: ask.version,
        resource: ask.resource.into(),
    }
    .encode()
}

pub async fn send(client: &mut Client, body: Vec<u8>) -> Result<ReleaseAnswer, Problem> {
    let (status, body) = client.send(Method::POST, RELEASE_PATH, body).await;
    let no_secret = |bytes: &[u8]| !bytes.windows(12).any(|window| window == &SECRET.as_bytes()[..12]);
    assert!(no_secret(&body), "the secret travels in clear");
    match ReleaseAnswer::decode(&body) {
        Ok(answer) => {
            assert_eq!(status == StatusCode::OK, answer.sealed.is_some());
            Ok(answer)
        }
        Err(_) => Err(problem(status, &body)),
    }
}

async fn get(
    client: &mut Client,
    node: &SoftNode,
    authorization: &[u8],
    ask: &Ask<'_>,
) -> Result<ReleaseAnswer, Problem> {
    let body = request(client, &node.session, authorization, ask);
    send(client, body).await
}

/// The statement of an answer, with its receipt.
fn recorded(broker: &RunningBroker, answer: &ReleaseAnswer) -> Statement {
    let origin = format!("{DOMAIN}/ledger");
    verify_receipt(
        &answer.receipt,
        &answer.statement,
        &key(broker, Job::Checkpoint),
        &origin,
    )
    .unwrap();
    let verified = VerifiedStatement::parse(&answer.statement, &key(broker, Job::Statement)).unwrap();
    verified.into_statement()
}

/// What the holder of `receive` gets out of an answer.
fn open(
    broker: &RunningBroker,
    receive: &SoftwareReceiveKey,
    answer: &ReleaseAnswer,
) -> Result<ReleasedKey, EncryptError> {
    let statement = recorded(broker, answer).digest().unwrap();
    let signer = key(broker, Job::Release);
    let signed = Unverified::parse(answer.sealed.as_ref().unwrap(), LIMITS).unwrap();
    let signed = signed.verify(&signer, RELEASE_TYPE, &[]).unwrap();
    assert_eq!(
        signed.extra(STATEMENT_LABEL).and_then(Value::as_bytes),
        Some(statement.as_slice())
    );
    let content = Sealed::parse(signed.payload())?.open(receive, signer.kid(), KEY_TYPE, &statement)?;
    Ok(ReleasedKey::decode(&content).unwrap())
}

pub fn codes(answer: &ReleaseAnswer) -> Vec<&str> {
    answer.reasons.iter().map(|reason| reason.code.as_str()).collect()
}

struct World {
    domain: Domain,
    broker: RunningBroker,
    client: Client,
    node: SoftNode,
    authorization: Vec<u8>,
}

async fn world(settings: &[(&str, &str)]) -> World {
    let mut node = machine();
    let domain = domain(&[("node-1", &node)], settings);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, &mut node, false).await.unwrap();
    assert_eq!(answer.reasons, []);
    World {
        domain,
        broker,
        client,
        node,
        authorization: answer.authorization.unwrap(),
    }
}

#[tokio::test]
async fn an_attested_node_gets_its_key() {
    let mut w = world(&[]).await;
    put(&w.domain, "name=db/main&region=north&life=3600").await;
    let answer = get(&mut w.client, &w.node, &w.authorization, &Ask::default())
        .await
        .unwrap();
    let receive = w.node.receive.as_ref().unwrap();
    let released = open(&w.broker, receive, &answer).unwrap();
    assert_eq!(released.secret.as_slice(), SECRET.as_bytes());
    assert_eq!((released.name.as_str(), released.version), ("db/main", 1));
    assert!(released.ends.is_some_and(|ends| ends > now() && ends <= now() + 3600));
    let statement = recorded(&w.broker, &answer);
    assert_eq!((statement.kind, statement.outcome), (Kind::KeyRelease, Outcome::Allow));
    assert_eq!(statement.subject.as_deref(), Some("node-1"));

    // After a renewal that certifies nothing anew, and after a rotation, the newest and the one before.
    let again = attest(&mut w.client, &mut w.node, true).await.unwrap();
    let authorization = again.authorization.unwrap();
    let (status, _) = command(&w.domain, Method::POST, "/keys/rotate?name=db/main", "").await;
    assert_eq!(status, StatusCode::OK);
    for (version, is_first) in [(None, false), (Some(1), true), (Some(2), false)] {
        let ask = Ask {
            version,
            ..Ask::default()
        };
        let answer = get(&mut w.client, &w.node, &authorization, &ask).await.unwrap();
        let released = open(&w.broker, w.node.receive.as_ref().unwrap(), &answer).unwrap();
        assert_eq!(released.secret.as_slice() == SECRET.as_bytes(), is_first);
    }
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_answer_opens_for_nobody_else() {
    let mut w = world(&[]).await;
    put(&w.domain, "name=db/main").await;
    let answer = get(&mut w.client, &w.node, &w.authorization, &Ask::default())
        .await
        .unwrap();
    let stranger = SoftwareReceiveKey::generate().unwrap();
    assert!(matches!(
        open(&w.broker, &stranger, &answer),
        Err(EncryptError::Party { .. })
    ));
    assert_ne!(stranger.kid(), w.node.receive.as_ref().unwrap().kid());
    // No byte of it can be changed: the signature is looked at first.
    let sealed = answer.sealed.clone().unwrap();
    for at in 0..sealed.len() {
        let mut other = sealed.clone();
        other[at] ^= 1;
        let signer = key(&w.broker, Job::Release);
        let verified = Unverified::parse(&other, LIMITS).and_then(|signed| signed.verify(&signer, RELEASE_TYPE, &[]));
        assert!(verified.is_err(), "byte {at}");
    }
    w.broker.shutdown().await.unwrap();
}

/// Who is not known for who they say learns nothing, is counted, and leaves no statement.
#[tokio::test]
async fn requests_that_are_nobodys() {
    let mut w = world(&[]).await;
    put(&w.domain, "name=db/main").await;
    let before = decided(&w.broker).await.len();
    let thief = SoftKey::new();
    let other_channel = Channel::Exporter([7; 32]);
    let rows: [(&str, &SoftKey, Ask<'_>, &str); 6] = [
        (
            "a stolen authorization, another machine's proof",
            &thief,
            Ask::default(),
            "proof-signature",
        ),
        (
            "a proof replayed on another connection",
            &w.node.session,
            Ask {
                channel: Some(other_channel),
                ..Ask::default()
            },
            "proof-exporter",
        ),
        (
            "a proof that answers a challenge nobody gave",
            &w.node.session,
            Ask {
                channel: Some(Channel::Challenge(vec![1; 32])),
                ..Ask::default()
            },
            "proof-exporter",
        ),
        (
            "a proof bound to no channel",
            &w.node.session,
            Ask {
                channel: Some(Channel::None),
                ..Ask::default()
            },
            "proof-channel-missing",
        ),
        (
            "a proof made for a guard",
            &w.node.session,
            Ask {
                audience: "db-proxy".into(),
                ..Ask::default()
            },
            "proof-audience",
        ),
        (
            "a proof of another action",
            &w.node.session,
            Ask {
                scope: "execute:workloads",
                ..Ask::default()
            },
            "proof-action",
        ),
    ];
    for (name, signer, ask, code) in &rows {
        let body = request(&w.client, signer, &w.authorization, ask);
        let refused = send(&mut w.client, body).await.unwrap_err();
        assert_eq!(
            (refused.status, refused.code.as_str()),
            (401, "release-not-authenticated"),
            "{name}"
        );
        assert!(
            refused.reasons.iter().any(|reason| reason == code),
            "{name}: {:?}",
            refused.reasons
        );
    }
    // Not one byte of the authorization may differ.
    let mut forged = w.authorization.clone();
    *forged.last_mut().unwrap() ^= 1;
    let refused = get(&mut w.client, &w.node, &forged, &Ask::default()).await.unwrap_err();
    assert_eq!(refused.reasons, ["authorization-signature"]);
    assert_eq!(decided(&w.broker).await.len(), before, "nothing is recorded of nobody");
    w.broker.shutdown().await.unwrap();
}

/// Who is known is told no, on record: and the record says nothing of the key.
#[tokio::test]
async fn requests_that_are_denied() {
    let mut w = world(&[]).await;
    put(&w.domain, "name=db/main").await;
    put(&w.domain, "name=south-only&region=south").await;
    put(&w.domain, "name=vault&resource=vault").await;
    let rows: [(&str, Ask<'_>, &[&str]); 6] = [
        (
            "no such key",
            Ask {
                key: "nothing",
                ..Ask::default()
            },
            &["key-unknown"],
        ),
        (
            "no such version",
            Ask {
                version: Some(9),
                ..Ask::default()
            },
            &["key-version-unknown"],
        ),
        (
            "another region's",
            Ask {
                key: "south-only",
                ..Ask::default()
            },
            &["key-residency"],
        ),
        (
            "another resource's, asked for as one's own",
            Ask {
                key: "vault",
                ..Ask::default()
            },
            &["key-unknown"],
        ),
        (
            "another resource's, asked for as such",
            Ask {
                key: "vault",
                resource: "vault",
                scope: "release:vault",
                ..Ask::default()
            },
            &["scope-not-granted"],
        ),
        (
            "a resource that nobody has",
            Ask {
                resource: "other",
                scope: "release:other",
                ..Ask::default()
            },
            &["scope-not-granted"],
        ),
    ];
    for (name, ask, expected) in &rows {
        let answer = get(&mut w.client, &w.node, &w.authorization, ask).await.unwrap();
        assert_eq!(codes(&answer), *expected, "{name}");
        let statement = recorded(&w.broker, &answer);
        assert_eq!(
            (statement.kind, statement.outcome),
            (Kind::KeyRelease, Outcome::Deny),
            "{name}"
        );
        assert!(
            statement.body.get(1).is_some_and(Value::is_null),
            "{name}: no version is named"
        );
    }
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_proof_counts_once() {
    let mut w = world(&[]).await;
    put(&w.domain, "name=db/main").await;
    let body = request(&w.client, &w.node.session, &w.authorization, &Ask::default());
    assert!(send(&mut w.client, body.clone()).await.unwrap().sealed.is_some());
    let replayed = send(&mut w.client, body).await.unwrap_err();
    assert_eq!(replayed.reasons, ["proof-replayed"]);
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_one_time_key_goes_out_once_however_it_is_raced() {
    let mut w = world(&[]).await;
    put(&w.domain, "name=db/main&one_time=true").await;
    let mut others = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(w.broker.address()).await;
        let body = request(&client, &w.node.session, &w.authorization, &Ask::default());
        others.push(tokio::spawn(async move { send(&mut client, body).await.unwrap() }));
    }
    let (mut released, mut denied) = (0, 0);
    for other in others {
        let answer = other.await.unwrap();
        match &answer.sealed {
            Some(_) => {
                released += 1;
                let key = open(&w.broker, w.node.receive.as_ref().unwrap(), &answer).unwrap();
                assert_eq!(key.secret.as_slice(), SECRET.as_bytes());
            }
            None => {
                denied += 1;
                assert_eq!(codes(&answer), ["key-spent"]);
            }
        }
    }
    assert_eq!((released, denied), (1, 7));
    // The row no longer holds it; a rotation brings another one.
    let app = w.broker.app();
    let (entry, _) = touchstone_keybroker::release::keeper::read(&*app.store, "db/main")
        .unwrap()
        .unwrap();
    assert!(entry.versions[0].kept.is_none());
    command(&w.domain, Method::POST, "/keys/rotate?name=db/main&generate=32", "").await;
    let answer = get(&mut w.client, &w.node, &w.authorization, &Ask::default())
        .await
        .unwrap();
    assert_eq!(
        open(&w.broker, w.node.receive.as_ref().unwrap(), &answer)
            .unwrap()
            .version,
        2
    );
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_revoked_key_stops_who_holds_it_and_is_withheld_until_it_is_rotated() {
    let mut w = world(&[]).await;
    put(&w.domain, "name=db/main").await;
    let answer = get(&mut w.client, &w.node, &w.authorization, &Ask::default())
        .await
        .unwrap();
    assert!(answer.sealed.is_some());
    let order = r#"{"action": "revoke", "target": "key", "id": "db/main", "reason": "copied"}"#;
    let (status, body) = command(&w.domain, Method::POST, "/commands", order).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    let done: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(done["entries"], 1, "who was given it has fallen");
    // New rights by good evidence, and the key all the same not.
    let back = attest(&mut w.client, &mut w.node, true)
        .await
        .unwrap()
        .authorization
        .unwrap();
    let answer = get(&mut w.client, &w.node, &back, &Ask::default()).await.unwrap();
    assert_eq!(codes(&answer), ["key-withheld"]);
    assert_eq!(recorded(&w.broker, &answer).outcome, Outcome::Deny);
    // Nobody holds it any more who was given it since: the command takes nothing more, and is recorded.
    command(&w.domain, Method::POST, "/keys/rotate?name=db/main&generate=32", "").await;
    let answer = get(&mut w.client, &w.node, &back, &Ask::default()).await.unwrap();
    assert!(answer.sealed.is_some(), "{:?}", codes(&answer));
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn nothing_is_released_behind_the_commit_that_withholds_it() {
    let mut w = world(&[]).await;
    put(&w.domain, "name=db/main").await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(Client::connect(w.broker.address()).await);
    }
    for round in 0..12 {
        // Whoever was given the key before has fallen, and may ask again for the next version.
        let answer = attest(&mut w.client, &mut w.node, true).await.unwrap();
        let authorization = answer.authorization.unwrap();
        let mut asking = Vec::new();
        for mut client in std::mem::take(&mut clients) {
            let body = request(&client, &w.node.session, &authorization, &Ask::default());
            asking.push(tokio::spawn(async move {
                // Given, denied, or sent to ask anew: what counts is the ledger.
                drop(send(&mut client, body).await);
                client
            }));
        }
        let order = r#"{"action": "revoke", "target": "key", "id": "db/main", "reason": "copied"}"#;
        let (status, body) = command(&w.domain, Method::POST, "/commands", order).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        let done: serde_json::Value = serde_json::from_slice(&body).unwrap();
        for asked in asking {
            clients.push(asked.await.unwrap());
        }
        let withheld = usize::try_from(done["recorded"].as_u64().unwrap()).unwrap();
        let statements = ledger(&w.broker).await;
        let is_given = |s: &&Statement| (s.kind, s.outcome) == (Kind::KeyRelease, Outcome::Allow);
        let late = statements[withheld..].iter().filter(is_given).count();
        assert_eq!(late, 0, "round {round}");
        let path = "/keys/rotate?name=db/main&generate=32";
        assert_eq!(command(&w.domain, Method::POST, path, "").await.0, StatusCode::OK);
    }
    w.broker.shutdown().await.unwrap();
}

/// When the broker last heard of node-1.
fn heard(broker: &RunningBroker) -> u64 {
    touchstone_keybroker::standing::shown(broker.app())["nodes"][0]["heard_ms"]
        .as_u64()
        .unwrap()
}

#[tokio::test]
async fn nothing_is_released_once_who_asked_for_it_is_suspended_however_long_it_was_under_way() {
    for (action, target, id) in [("quarantine", "node", "node-1"), ("contain", "cluster", DOMAIN)] {
        let w = world(&[]).await;
        put(&w.domain, "name=db/main").await;
        let app = w.broker.app().clone();
        // Something goes out that is not on record yet, so releases wait; this one was decided before the suspension.
        let other = app.trust.withdraw(&[], app.clock.now_ms()).unwrap();
        let before = heard(&w.broker);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        let body = request(&w.client, &w.node.session, &w.authorization, &Ask::default());
        let mut client = w.client;
        let asking = tokio::spawn(async move { send(&mut client, body).await });
        while heard(&w.broker) == before {
            tokio::task::yield_now().await;
        }
        let order = format!(r#"{{"action": "{action}", "target": "{target}", "id": "{id}", "reason": "stolen"}}"#);
        let (status, body) = command(&w.domain, Method::POST, "/commands", &order).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        assert!(!asking.is_finished(), "{action}: it waits");
        app.trust.durable(other);
        // Anything that is handed in has it looked at again.
        command(&w.domain, Method::POST, "/keys?name=another", SECRET).await;
        let answer = asking.await.unwrap().unwrap();
        assert!(
            answer.sealed.is_none(),
            "{action}: a key that is out cannot be called back"
        );
        assert!(
            codes(&answer).contains(&"authorization-suspended"),
            "{:?}",
            codes(&answer)
        );
        let statement = recorded(&w.broker, &answer);
        assert_eq!((statement.kind, statement.outcome), (Kind::KeyRelease, Outcome::Deny));
        w.broker.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_revoked_node_gets_nothing() {
    let mut w = world(&[]).await;
    put(&w.domain, "name=db/main").await;
    let revoke = r#"{"node": "node-1", "reason": "stolen from rack 7"}"#;
    let (status, _) = command(&w.domain, Method::POST, "/revoke", revoke).await;
    assert_eq!(status, StatusCode::OK);
    let answer = get(&mut w.client, &w.node, &w.authorization, &Ask::default())
        .await
        .unwrap();
    assert_eq!(codes(&answer), ["authorization-revoked", "node-withdrawn"]);
    assert_eq!(recorded(&w.broker, &answer).outcome, Outcome::Deny);

    // It attests again, and its new authorization counts; the old one never again.
    let back = attest(&mut w.client, &mut w.node, true)
        .await
        .unwrap()
        .authorization
        .unwrap();
    let answer = get(&mut w.client, &w.node, &w.authorization, &Ask::default())
        .await
        .unwrap();
    assert_eq!(codes(&answer), ["authorization-not-current", "authorization-revoked"]);
    assert!(
        get(&mut w.client, &w.node, &back, &Ask::default())
            .await
            .unwrap()
            .sealed
            .is_some()
    );
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_authorization_of_an_earlier_policy_gets_nothing() {
    let mut w = world(&[]).await;
    put(&w.domain, "name=db/main").await;
    // Something else in policy changes.
    w.domain.add_node("node-2", &SoftNode::new("good"));
    w.domain.publish();
    let (status, _) = command(&w.domain, Method::POST, "/reload", "").await;
    assert_eq!(status, StatusCode::OK);
    let answer = get(&mut w.client, &w.node, &w.authorization, &Ask::default())
        .await
        .unwrap();
    assert_eq!(codes(&answer), ["authorization-policy-stale"]);
    let fresh = attest(&mut w.client, &mut w.node, true)
        .await
        .unwrap()
        .authorization
        .unwrap();
    assert!(
        get(&mut w.client, &w.node, &fresh, &Ask::default())
            .await
            .unwrap()
            .sealed
            .is_some()
    );
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_policy_that_forbids_release_is_asked_at_each_release() {
    let mut w = world(&[]).await;
    put(&w.domain, "name=db/main").await;
    assert!(
        get(&mut w.client, &w.node, &w.authorization, &Ask::default())
            .await
            .unwrap()
            .sealed
            .is_some()
    );
    let path = w.domain.path("policy/staged/regions/north/policy.cedar");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("\nforbid (principal, action == Action::\"release\", resource);\n");
    std::fs::write(&path, text).unwrap();
    w.domain.publish();
    command(&w.domain, Method::POST, "/reload", "").await;
    let answer = get(&mut w.client, &w.node, &w.authorization, &Ask::default())
        .await
        .unwrap();
    assert!(
        codes(&answer).contains(&"denied-by-region-policy"),
        "{:?}",
        codes(&answer)
    );
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_node_without_an_attested_receive_key_gets_nothing() {
    let mut node = SoftNode::new("good");
    let domain = domain(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    put(&domain, "name=db/main").await;
    let mut client = Client::connect(broker.address()).await;
    let authorization = attest(&mut client, &mut node, false)
        .await
        .unwrap()
        .authorization
        .unwrap();
    let answer = get(&mut client, &node, &authorization, &Ask::default()).await.unwrap();
    assert_eq!(codes(&answer), ["receive-key-not-attested"]);

    // One that it names later, without a certification, is refused as evidence and changes nothing.
    node.receive = Some(SoftwareReceiveKey::generate().unwrap());
    let challenge = client.hello(&node.hello(true)).await.unwrap();
    assert!(!challenge.session_key_known, "both keys, or neither");
    let submission = node.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
    let mut collection = touchstone_evidence::collection::Collection::decode(&submission.collection).unwrap();
    use touchstone_evidence::label::Label;
    let labels = [Label::TpmReceiveKeyCertify, Label::TpmReceiveKeyCertifySignature];
    let mut without = touchstone_evidence::collection::Collection::bound();
    for (label, bytes) in collection.records() {
        if !labels.contains(&label) {
            without.insert(label, bytes.to_vec()).unwrap();
        }
    }
    std::mem::swap(&mut collection, &mut without);
    let answer = client
        .submit(&touchstone_evidence::message::Submission {
            collection: collection.encode(),
            ..submission
        })
        .await
        .unwrap();
    assert!(!answer.allowed);
    assert!(
        answer
            .reasons
            .iter()
            .any(|reason| reason.expected.contains("receive-key")),
        "{:?}",
        answer.reasons
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_machine_that_lies_about_its_region_stays_where_the_inventory_has_it() {
    // What a node could say of itself is in no message at all: the only word on its region is the signed inventory's.
    let mut w = world(&[]).await;
    put(&w.domain, "name=south-only&region=south").await;
    let ask = || Ask {
        key: "south-only",
        ..Ask::default()
    };
    assert_eq!(
        codes(&get(&mut w.client, &w.node, &w.authorization, &ask()).await.unwrap()),
        ["key-residency"]
    );
    // Moving the entry to another region takes its rights, and gives none there: one name has one region.
    let path = w.domain.path("policy/staged/nodes/node-1.json");
    let mut entry: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    entry["region"] = "south".into();
    std::fs::write(&path, serde_json::to_vec(&entry).unwrap()).unwrap();
    std::fs::create_dir_all(w.domain.path("policy/staged/regions/south")).unwrap();
    std::fs::write(
        w.domain.path("policy/staged/regions/south/policy.cedar"),
        touchstone_policies::cedar::default_region_policy("south"),
    )
    .unwrap();
    w.domain.publish();
    command(&w.domain, Method::POST, "/reload", "").await;
    let answer = get(&mut w.client, &w.node, &w.authorization, &ask()).await.unwrap();
    assert!(answer.sealed.is_none());
    assert!(codes(&answer).contains(&"node-not-enrolled"), "{:?}", codes(&answer));
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_broker_of_an_older_release_goes_on_and_releases_nothing_until_its_keyset_is_published() {
    let mut node = machine();
    let domain = domain(&[("node-1", &node)], &[]);
    // As an older release left it: no such key in the folder, no such job in the keyset.
    std::fs::remove_file(domain.path("data/keys/release.pem")).unwrap();
    let broker = domain.start().await;
    put(&domain, "name=db/main").await;
    let mut client = Client::connect(broker.address()).await;
    let authorization = attest(&mut client, &mut node, false)
        .await
        .unwrap()
        .authorization
        .unwrap();
    let refused = get(&mut client, &node, &authorization, &Ask::default())
        .await
        .unwrap_err();
    assert_eq!((refused.status, refused.code.as_str()), (503, "release-unavailable"));
    broker.shutdown().await.unwrap();

    // `broker init` again makes the one key that is missing, and a keyset of a higher version.
    let data = domain.path("data");
    let other_keys = std::fs::read(data.join("keys/statement.pem")).unwrap();
    let keyset = touchstone_keybroker::service::init(&data, "a", now() - 60, 3_600).unwrap();
    assert_eq!(std::fs::read(data.join("keys/statement.pem")).unwrap(), other_keys);
    assert!(
        touchstone_keybroker::service::init(&data, "a", now() - 60, 3_600).is_err(),
        "nothing is missing now"
    );
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let authorization = attest(&mut client, &mut node, true)
        .await
        .unwrap()
        .authorization
        .unwrap();
    let refused = get(&mut client, &node, &authorization, &Ask::default())
        .await
        .unwrap_err();
    assert_eq!(
        refused.code, "release-unavailable",
        "a key that no keyset vouches for signs nothing"
    );
    touchstone_policies::keyset_add(&domain.path("policy"), &std::fs::read(keyset).unwrap()).unwrap();
    domain.publish();
    command(&domain, Method::POST, "/reload", "").await;
    let authorization = attest(&mut client, &mut node, true)
        .await
        .unwrap()
        .authorization
        .unwrap();
    let answer = get(&mut client, &node, &authorization, &Ask::default()).await.unwrap();
    assert!(open(&broker, node.receive.as_ref().unwrap(), &answer).is_ok());
    broker.shutdown().await.unwrap();
}

fn disk<'a>(key: &'a str, scope: &'a str) -> Ask<'a> {
    Ask {
        key,
        resource: "disk",
        scope,
        ..Ask::default()
    }
}

/// The key of a disk goes to its own node, in its initramfs, and nowhere else; whatever the authorization once granted.
#[tokio::test]
async fn a_disk_key_leaves_for_its_own_node_in_its_initramfs_only() {
    use sha2::{Digest as _, Sha256};
    use touchstone_policies::author::node_volume;
    use touchstone_policies::inventory_file::VolumeFile;
    use touchstone_verifier::bootstrap::{DONE, REGISTER};

    let (mut node, mut other) = (machine(), machine());
    let scopes = r#"["bootstrap:disk", "release:disk", "release:keys"]"#;
    let domain = domain(&[("node-1", &node), ("node-2", &other)], &[("scopes", scopes)]);
    let listed = || VolumeFile {
        luks_uuid: "4878cbe9-f3c5-4d20-82da-b2bb10ae2940".into(),
        pcr15: "ab".repeat(32),
    };
    for name in ["node-1", "node-2"] {
        node_volume(&domain.path("policy"), name, listed()).unwrap();
    }
    domain.publish();
    let broker = domain.start().await;
    put(&domain, "name=disk/node-1&resource=disk&region=north").await;
    put(&domain, "name=disk/node-2&resource=disk&region=south").await;
    put(&domain, "name=db/main&resource=disk").await;
    let mut client = Client::connect(broker.address()).await;
    let first = attest(&mut client, &mut node, false).await.unwrap();
    let second = attest(&mut client, &mut other, false).await.unwrap();
    let (own, others) = (first.authorization.unwrap(), second.authorization.unwrap());

    let answer = get(&mut client, &node, &own, &disk("disk/node-1", "bootstrap:disk"))
        .await
        .unwrap();
    let released = open(&broker, node.receive.as_ref().unwrap(), &answer).unwrap();
    assert_eq!(released.secret.as_slice(), SECRET.as_bytes());
    // Once for each attestation: what it showed then says nothing of now.
    let ask = || disk("disk/node-1", "bootstrap:disk");
    let again = get(&mut client, &node, &own, &ask()).await.unwrap();
    assert!(again.sealed.is_none());
    assert_eq!(codes(&again), ["bootstrap-key-fetched"]);
    let own = attest(&mut client, &mut node, true)
        .await
        .unwrap()
        .authorization
        .unwrap();
    let answer = get(&mut client, &node, &own, &ask()).await.unwrap();
    assert!(
        answer.sealed.is_some(),
        "the disk is still closed: {:?}",
        answer.reasons
    );
    type Row<'a> = (&'a str, &'a SoftNode, &'a [u8], &'a str, &'a str, &'a str);
    let rows: &[Row<'_>] = &[
        (
            "the key of another node",
            &node,
            &own,
            "disk/node-2",
            "bootstrap:disk",
            "bootstrap-key-of-another-node",
        ),
        (
            "a disk of another region",
            &other,
            &others,
            "disk/node-2",
            "bootstrap:disk",
            "key-residency",
        ),
        (
            "the right to release instead",
            &node,
            &own,
            "disk/node-1",
            "release:disk",
            "proof-action",
        ),
        (
            "another key by the right to bootstrap",
            &node,
            &own,
            "db/main",
            "bootstrap:disk",
            "proof-action",
        ),
    ];
    for (what, machine, token, key, scope, code) in rows {
        match get(&mut client, machine, token, &disk(key, scope)).await {
            Ok(answer) => {
                assert!(answer.sealed.is_none(), "{what}");
                assert!(codes(&answer).contains(code), "{what}: {:?}", answer.reasons);
            }
            Err(refused) => assert!(
                refused.reasons.iter().any(|reason| reason == code),
                "{what}: {refused:?}"
            ),
        }
    }
    // The disk was opened. The node shows it with its next evidence, and from then on the authorization it had before is of
    // no use for the same request.
    let value = node
        .values
        .get_mut(&(touchstone_verifier::tpm::HashAlg::Sha256.tpm_id(), REGISTER))
        .unwrap();
    for digest in [vec![1; 32], Sha256::digest(DONE).to_vec()] {
        *value = Sha256::digest([value.as_slice(), &digest].concat()).to_vec();
    }
    let later = attest(&mut client, &mut node, true).await.unwrap();
    assert!(later.allowed, "{:?}", later.reasons);
    let again = get(&mut client, &node, &own, &disk("disk/node-1", "bootstrap:disk"))
        .await
        .unwrap();
    assert!(again.sealed.is_none());
    assert!(codes(&again).contains(&"bootstrap-phase-over"), "{:?}", again.reasons);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn no_key_leaves_for_a_node_that_has_missed_its_deadline() {
    let settings = [
        ("attestation_interval_ms", "300"),
        ("attestation_retry_ms", "100"),
        ("attestation_deadline_ms", "3000"),
        ("attestation_grace_ms", "3600000"),
    ];
    let mut w = world(&settings).await;
    put(&w.domain, "name=db/main").await;
    eventually("the deadline", || w.broker.app().standings.is_late("node-1")).await;
    let refused = get(&mut w.client, &w.node, &w.authorization, &Ask::default()).await;
    assert_eq!(refused.unwrap_err().code, "node-stale", "within the grace, too");
    // Good evidence is the way back, however slow the machine is.
    let mut tries = 0;
    let answer = loop {
        let back = attest(&mut w.client, &mut w.node, true).await.unwrap();
        match get(&mut w.client, &w.node, &back.authorization.unwrap(), &Ask::default()).await {
            Ok(answer) => break answer,
            Err(refused) => assert_eq!(refused.code, "node-stale"),
        }
        tries += 1;
        assert!(tries < 100, "too slow for its deadline a hundred times");
    };
    assert!(answer.sealed.is_some(), "{:?}", answer.reasons);
    w.broker.shutdown().await.unwrap();
}

/// The record of the decision that an answer carries, through the file in which records travel.
pub fn record_of(broker: &RunningBroker, answer: &ReleaseAnswer) -> DecisionRecord {
    let store = &*broker.app().store;
    let is_it =
        |index: &u64| touchstone_keybroker::log::entry(store, *index).unwrap().as_ref() == Some(&answer.statement);
    let index = (0..broker.app().head().size).find(is_it).unwrap();
    let record = DecisionRecord::read(store, index, &key(broker, Job::Statement)).unwrap();
    DecisionRecord::decode(&record.encode()).unwrap()
}

pub fn inputs_of(record: &DecisionRecord) -> ReleaseInputs {
    match record.recorded().unwrap() {
        RecordedDecision::Release(inputs) => *inputs,
        RecordedDecision::Evidence(_) | RecordedDecision::Foreign(_) | RecordedDecision::Workload(_) => {
            panic!("not about a key")
        }
    }
}

/// Allow or deny, each is made again from its record and the policy alone, and comes out with the same bytes.
#[tokio::test]
async fn releases_and_denials_are_made_again_byte_for_byte_and_hold_nothing_of_a_secret() {
    let mut w = world(&[]).await;
    put(&w.domain, "name=db/main&life=3600").await;
    put(&w.domain, "name=once&one_time=true").await;
    put(&w.domain, "name=south-only&region=south").await;
    let sealed = |name: &str| {
        let (entry, _) = touchstone_keybroker::release::keeper::read(&*w.broker.app().store, name)
            .unwrap()
            .unwrap();
        entry.versions[0].kept.clone()
    };
    let kept: Vec<Vec<u8>> = ["db/main", "once", "south-only"]
        .into_iter()
        .filter_map(sealed)
        .collect();
    assert_eq!(kept.len(), 3);
    let asked = [
        ("db/main", None, "allow"),
        ("once", None, "allow"),
        ("once", None, "key-spent"),
        ("south-only", None, "key-residency"),
        ("db/main", Some(9), "key-version-unknown"),
        ("nothing", None, "key-unknown"),
    ];
    let mut answers = Vec::new();
    for (key, version, expected) in asked {
        let ask = Ask {
            key,
            version,
            ..Ask::default()
        };
        answers.push((
            expected,
            get(&mut w.client, &w.node, &w.authorization, &ask).await.unwrap(),
        ));
    }
    let revoke = r#"{"node": "node-1", "reason": "stolen from rack 7"}"#;
    command(&w.domain, Method::POST, "/revoke", revoke).await;
    let revoked = get(&mut w.client, &w.node, &w.authorization, &Ask::default())
        .await
        .unwrap();
    answers.push(("authorization-revoked", revoked));

    let (policy, statement_key) = (w.broker.app().policy(), key(&w.broker, Job::Statement));
    for (expected, answer) in &answers {
        let record = record_of(&w.broker, answer);
        let replayed = record.replay(&policy, &statement_key).unwrap();
        let payload = recorded(&w.broker, answer).payload_bytes().unwrap();
        assert_eq!(replayed.statement.payload_bytes().unwrap(), payload, "{expected}");
        assert_eq!(replayed.node(), "node-1");
        match *expected {
            "allow" => assert!(replayed.allowed()),
            code => assert!(
                !replayed.allowed() && replayed.statement.reasons.iter().any(|reason| reason.code == code),
                "{code}: {:?}",
                replayed.statement.reasons
            ),
        }
        assert_eq!(inputs_of(&record).key.is_some(), *expected != "key-unknown");
        assert!(matches!(record.inputs(), Err(RecordError::NoEvidence(_))));
        let bytes = record.encode();
        assert!(bytes.len() < 16 << 10, "{} bytes", bytes.len());
        for secret in kept.iter().map(Vec::as_slice).chain([SECRET.as_bytes()]) {
            let holds = secret
                .windows(12)
                .any(|part| bytes.windows(12).any(|window| window == part));
            assert!(!holds, "{expected}: the record holds something of a secret");
        }
    }
    // The states of the trust lists that were judged under are the ones that were in force then.
    let (first, last) = (&answers[0].1, &answers[answers.len() - 1].1);
    let status = |answer| inputs_of(&record_of(&w.broker, answer)).setting.status.unwrap();
    assert_ne!(status(first).digest, status(last).digest);
    w.broker.shutdown().await.unwrap();
}

/// What is changed in a record is noticed by its digest; and were that made to fit, the decision follows the inputs.
#[tokio::test]
async fn a_record_that_was_changed_gives_another_decision_or_none() {
    use touchstone_authorization::Status;

    let mut w = world(&[]).await;
    put(&w.domain, "name=db/main&region=north&life=300").await;
    let answer = get(&mut w.client, &w.node, &w.authorization, &Ask::default())
        .await
        .unwrap();
    let (policy, statement_key) = (w.broker.app().policy(), key(&w.broker, Job::Statement));
    let record = record_of(&w.broker, &answer);
    let good = inputs_of(&record);
    assert_eq!(good.again(&policy).unwrap().reasons, []);
    assert_eq!(good.record().0, record.inputs);

    type Change = fn(&mut ReleaseInputs);
    let denied: &[(&str, Change, &str)] = &[
        (
            "a status list that revokes",
            |i| i.setting.status.as_mut().unwrap().status = Some(Status::Invalid),
            "authorization-revoked",
        ),
        (
            "no status list",
            |i| i.setting.status = None,
            "authorization-list-unknown",
        ),
        (
            "another generation",
            |i| i.setting.generation += 1,
            "authorization-generation",
        ),
        (
            "half a day later",
            |i| i.setting.now_ms += 43_200_000,
            "authorization-expired",
        ),
        (
            "a key whose life is over",
            |i| i.key.as_mut().unwrap().0.versions[0].created -= 301,
            "key-life-over",
        ),
        ("no node", |i| i.node = None, "node-not-enrolled"),
        (
            "a withdrawn node",
            |i| i.node.as_mut().unwrap().0.withdrawn = true,
            "node-withdrawn",
        ),
        (
            "another lineage",
            |i| i.node.as_mut().unwrap().0.status.index += 1,
            "authorization-not-current",
        ),
        (
            "enrolled in another region",
            |i| i.node.as_mut().unwrap().0.region = "south".into(),
            "node-not-enrolled",
        ),
        (
            "a guest that no entry lists",
            |i| i.node.as_mut().unwrap().0.cvm = Some([1; 32]),
            "key-residency-unproven",
        ),
        ("nothing shown", |i| i.shown = None, "attestation-result-missing"),
        (
            "no receive key",
            |i| i.shown.as_mut().unwrap().0.receive_key = None,
            "receive-key-not-attested",
        ),
        ("no key", |i| i.key = None, "key-unknown"),
        (
            "a key of another resource",
            |i| i.key.as_mut().unwrap().0.settings.resource = "vault".into(),
            "key-unknown",
        ),
        (
            "a key of another region",
            |i| i.key.as_mut().unwrap().0.settings.regions = vec!["south".into()],
            "key-residency",
        ),
        (
            "a spent version",
            |i| i.key.as_mut().unwrap().0.versions[0].kept = None,
            "key-spent",
        ),
        (
            "another version",
            |i| i.request.version = Some(2),
            "key-version-unknown",
        ),
    ];
    for (name, change, code) in denied {
        let mut altered = good.clone();
        change(&mut altered);
        let again = altered.again(&policy).unwrap();
        assert!(
            again.reasons.iter().any(|reason| reason.code == *code),
            "{name}: {:?}",
            again.reasons
        );
        // The record by itself is one that can be read.
        let (bytes, parts) = altered.record();
        let part = |digest: &[u8; 32]| {
            parts
                .iter()
                .find(|(named, _)| named == digest)
                .map(|(_, part)| part.clone())
        };
        let read = ReleaseInputs::decode(&bytes, part).unwrap();
        assert_eq!(read, altered, "{name}");
        // In the place of the recorded one it is not what the statement names.
        let mixed = DecisionRecord {
            inputs: bytes,
            parts: parts.into_iter().map(|(_, part)| part).collect(),
            ..record.clone()
        };
        assert!(
            matches!(
                mixed.replay(&policy, &statement_key),
                Err(RecordError::OtherInputs { .. })
            ),
            "{name}"
        );
    }

    let nobody: &[(&str, Change, &str)] = &[
        ("another connection", |i| i.setting.exporter[0] ^= 1, "proof-exporter"),
        (
            "another proof",
            |i| *i.request.proof.last_mut().unwrap() ^= 1,
            "proof-signature",
        ),
        (
            "another authorization",
            |i| *i.request.authorization.last_mut().unwrap() ^= 1,
            "authorization-signature",
        ),
        (
            "another resource",
            |i| i.request.resource = "vault".into(),
            "proof-action",
        ),
    ];
    for (name, change, code) in nobody {
        let mut altered = good.clone();
        change(&mut altered);
        match altered.again(&policy) {
            Err(ReleaseInputsError::Nobody { codes }) => {
                assert!(codes.iter().any(|found| found == code), "{name}: {codes:?}")
            }
            other => panic!("{name}: {other:?}"),
        }
    }

    let mut other = good.clone();
    other.setting.policy_digest[0] ^= 1;
    assert!(matches!(
        other.again(&policy),
        Err(ReleaseInputsError::Decision(DecisionError::Policy { .. }))
    ));
    let mut other = good.clone();
    other.setting.semantics.push('0');
    assert!(matches!(
        other.again(&policy),
        Err(ReleaseInputsError::Decision(DecisionError::Semantics { .. }))
    ));
    // What decides nothing is still part of the bytes.
    let blind = ReleaseInputs {
        blind: [0; 16],
        ..good.clone()
    };
    let again = blind.again(&policy).unwrap();
    assert_eq!(again.reasons, []);
    assert_ne!(
        again.statement.digest().unwrap(),
        recorded(&w.broker, &answer).digest().unwrap()
    );

    // A record cut short, one whose part is gone or changed, and one that smuggles a sealed secret.
    for end in 0..record.inputs.len() {
        assert!(
            ReleaseInputs::decode(&record.inputs[..end], |_| None).is_err(),
            "cut at {end}"
        );
    }
    for at in 0..record.inputs.len() {
        let mut altered = record.clone();
        altered.inputs[at] ^= 1;
        assert!(altered.replay(&policy, &statement_key).is_err(), "byte {at}");
    }
    let without = DecisionRecord {
        parts: Vec::new(),
        ..record.clone()
    };
    assert!(matches!(
        without.replay(&policy, &statement_key),
        Err(RecordError::Release(ReleaseInputsError::PartMissing { .. }))
    ));
    let altered = |_: &[u8; 32]| {
        let mut part = record.parts[0].clone();
        *part.last_mut().unwrap() ^= 1;
        Some(part)
    };
    assert!(matches!(
        ReleaseInputs::decode(&record.inputs, altered),
        Err(ReleaseInputsError::PartAltered { .. })
    ));
    w.broker.shutdown().await.unwrap();
}

/// Whoever is denied sees the statement, so that says nothing of a key: not that there is one, not its settings.
#[tokio::test]
async fn the_statement_of_a_denial_does_not_tell_whether_there_is_such_a_key() {
    let mut w = world(&[]).await;
    put(&w.domain, "name=vault&resource=vault").await;
    let mut seen = Vec::new();
    for key in ["vault", "nothing"] {
        let ask = Ask { key, ..Ask::default() };
        let answer = get(&mut w.client, &w.node, &w.authorization, &ask).await.unwrap();
        assert_eq!(codes(&answer), ["key-unknown"]);
        let statement = recorded(&w.broker, &answer);
        assert_eq!(statement.revisions.get("key"), Some(&0), "{key}");
        seen.push(statement.inputs.into_keys().collect::<Vec<_>>());
    }
    assert_eq!(seen[0], seen[1]);
    assert!(!seen[0].iter().any(|label| label == "key"));
    w.broker.shutdown().await.unwrap();
}
