//! Keys over the network: what an attested node gets, and everybody who gets nothing. Machines in software; the same over
//! real TPMs is `swtpm-tests/tests/live_release.rs`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod common;

use common::client::{Client, Problem, problem};
use common::tpm::{SoftKey, SoftNode};
use common::{DOMAIN, Domain, attest, command, key, ledger, now};
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
use touchstone_keybroker::key_files::write_new;
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

fn machine() -> SoftNode {
    let mut node = SoftNode::new("good");
    node.receive = Some(SoftwareReceiveKey::generate().unwrap());
    node
}

fn domain(nodes: &[(&str, &SoftNode)], settings: &[(&str, &str)]) -> Domain {
    let domain = Domain::new(nodes, settings);
    let file = domain.path("passphrase");
    write_new(&file, b"correct horse battery staple\n").unwrap();
    domain.with_more(&format!("[keys]\nkek = {{ passphrase_file = {file:?} }}\n"))
}

async fn put(domain: &Domain, query: &str) {
    let (status, body) = command(domain, Method::POST, &format!("/keys?{query}"), SECRET).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
}

/// What a request says, where it is not the usual.
struct Ask<'a> {
    key: &'a str,
    version: Option<u64>,
    resource: &'a str,
    /// The scope of the proof.
    scope: &'a str,
    audience: String,
    cti: [u8; 16],
    /// None: that of the connection.
    channel: Option<Channel>,
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

fn request(client: &Client, signer: &SoftKey, authorization: &[u8], ask: &Ask<'_>) -> Vec<u8> {
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

async fn send(client: &mut Client, body: Vec<u8>) -> Result<ReleaseAnswer, Problem> {
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

fn codes(answer: &ReleaseAnswer) -> Vec<&str> {
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
    let before = ledger(&w.broker).await.len();
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
    assert_eq!(ledger(&w.broker).await.len(), before, "nothing is recorded of nobody");
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
            &["key-unknown", "scope-not-granted"],
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
