//! Tenants of one domain: each row is an attempt of one to reach what is another's. Machines in software.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::client::{Client, Problem};
use common::tpm::SoftNode;
use common::{DOMAIN, Domain, attest, command, decided, in_time, key, ledger, now};
use hyper::{Method, StatusCode};
use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_authorization::{Channel, Proof, Scope, authorization_digest};
use touchstone_cose::cbor::{self, Limits};
use touchstone_cose::encrypt::SoftwareReceiveKey;
use touchstone_evidence::message::{
    Answer, ForeignRequest, RELEASE_PATH, ReleaseAnswer, ReleaseRequest, foreign_audience, foreign_path,
    release_audience,
};
use touchstone_keybroker::key_files::write_new;
use touchstone_keybroker::service::RunningBroker;
use touchstone_ledger::statement::VerifiedStatement;
use touchstone_policies::{self as policies, Job, NodeIdentity, NodePlace, PolicyCode};

const PERMIT: &str = "permit (principal, action, resource);";
const FORBID: &str = "forbid (principal, action, resource);";

fn tenants(nodes: u64, keys: u64, requests: u64) -> String {
    ["acme", "rival"]
        .map(|name| format!("[tenants.{name}]\nnodes = {nodes}\nkeys = {keys}\nrequests_per_minute = {requests}\n"))
        .concat()
}

/// What is founded: quotas, and the policies of acme and of rival.
struct World {
    domain: Domain,
    acme: SoftNode,
    rival: SoftNode,
}

impl World {
    fn new(quotas: &str, policies_of: [Option<&str>; 2]) -> Self {
        let machine = || {
            let mut node = SoftNode::new("good");
            node.receive = Some(SoftwareReceiveKey::generate().unwrap());
            node
        };
        let (acme, rival, own) = (machine(), machine(), machine());
        let domain = Domain::new(&[("web", &own)], &[]);
        let repo = domain.path("policy");
        std::fs::create_dir_all(repo.join("staged")).unwrap();
        std::fs::write(repo.join("staged/tenants.toml"), quotas).unwrap();
        for (tenant, policy) in ["acme", "rival"].into_iter().zip(policies_of) {
            if let Some(policy) = policy {
                let folder = repo.join("staged/tenants").join(tenant);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join("policy.cedar"), policy).unwrap();
            }
        }
        add(&domain, "acme.web", &acme, Some("acme")).unwrap();
        add(&domain, "rival.web", &rival, Some("rival")).unwrap();
        domain.publish();
        let file = domain.path("passphrase");
        write_new(&file, b"correct horse battery staple\n").unwrap();
        let domain = domain.with_more(&format!("[keys]\nkek = {{ passphrase_file = {file:?} }}\n"));
        Self { domain, acme, rival }
    }
}

/// How many requests a tenant of three a minute may make from a moment on.
struct Rate(u64);

impl Rate {
    const PER_MINUTE: u64 = 3;

    fn begun(broker: &RunningBroker) -> Self {
        Self(broker.app().clock.now_ms())
    }

    /// Those that were there, and those that have come with the time since; one of them in part.
    fn most(&self, broker: &RunningBroker) -> u64 {
        let passed_ms = broker.app().clock.now_ms() - self.0;
        Self::PER_MINUTE + passed_ms * Self::PER_MINUTE / 60_000 + 1
    }
}

fn add(domain: &Domain, name: &str, node: &SoftNode, owner: Option<&str>) -> Result<(), policies::PolicyError> {
    let place = NodePlace {
        name,
        region: common::REGION,
        zone: None,
        roles: &["worker".to_owned()],
        owner,
    };
    policies::node_add(&domain.path("policy"), &NodeIdentity::Ek(node.ek_public()), place).map(drop)
}

fn codes(answer: &Answer) -> Vec<&str> {
    answer.reasons.iter().map(|reason| reason.code.as_str()).collect()
}

/// Asks for a key with this authorization.
async fn ask(client: &mut Client, node: &SoftNode, authorization: &[u8], name: &str) -> ReleaseAnswer {
    let digest = authorization_digest(authorization);
    let mut cti = [0; 16];
    getrandom::fill(&mut cti).unwrap();
    let proof = Proof {
        audience: release_audience(DOMAIN),
        issued_at: now() as u64,
        cti,
        authorization_digest: digest,
        scope: Scope::parse("release:keys").unwrap(),
        request_digest: None,
        channel: Channel::Exporter(client.export_for(EXPORTER_LABEL, &digest)),
    };
    let request = ReleaseRequest {
        authorization: authorization.to_vec(),
        proof: proof.encode_signed(&node.session).unwrap(),
        key: name.into(),
        version: None,
        resource: "keys".into(),
    };
    let (_, body) = client.send(Method::POST, RELEASE_PATH, request.encode()).await;
    ReleaseAnswer::decode(&body).unwrap()
}

/// Asks for an authorization that counts in another domain.
async fn ask_foreign(client: &mut Client, node: &SoftNode, authorization: &[u8]) -> (StatusCode, String) {
    let digest = authorization_digest(authorization);
    let mut cti = [0; 16];
    getrandom::fill(&mut cti).unwrap();
    let proof = Proof {
        audience: foreign_audience(DOMAIN),
        issued_at: now() as u64,
        cti,
        authorization_digest: digest,
        scope: Scope::parse("release:keys").unwrap(),
        request_digest: None,
        channel: Channel::Exporter(client.export_for(EXPORTER_LABEL, &digest)),
    };
    let request = ForeignRequest {
        authorization: authorization.to_vec(),
        proof: proof.encode_signed(&node.session).unwrap(),
        audience: "b.example".into(),
        scopes: vec!["release:keys".into()],
    };
    let (status, body) = client
        .send(Method::POST, &foreign_path("b.example"), request.encode())
        .await;
    (status, String::from_utf8_lossy(&body).into_owned())
}

async fn put(domain: &Domain, name: &str) -> (StatusCode, String) {
    let query = format!("/keys?name={name}&resource=keys");
    let (status, body) = command(domain, Method::POST, &query, "secret of 16 bytes").await;
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

/// The subjects of what a tenant sees of the ledger, and how many statements it sees.
async fn seen(w: &World, broker: &RunningBroker, tenant: &str) -> Vec<Option<String>> {
    let path = format!("/tenants/{tenant}/ledger");
    let (status, body) = command(&w.domain, Method::GET, &path, "").await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    let limits = Limits {
        max_bytes: 1 << 20,
        max_depth: 4,
        max_items: 4_096,
    };
    let value = cbor::decode(&body, limits).unwrap();
    let members = value.as_map().unwrap();
    assert_eq!(members[0].1.as_u64(), Some(broker.app().head().size));
    let statement = |entry: &cbor::Value| {
        let bytes = entry.as_array().unwrap()[1].as_bytes().unwrap();
        VerifiedStatement::parse(bytes, &key(broker, Job::Statement))
            .unwrap()
            .into_statement()
            .subject
    };
    members[1].1.as_array().unwrap().iter().map(statement).collect()
}

#[tokio::test]
async fn what_an_author_names_for_one_tenant_is_never_anothers() {
    let w = World::new(&tenants(10, 10, 600), [Some(PERMIT), Some(PERMIT)]);
    for (row, name, owner) in [
        ("acme's machine under rival's name", "rival.db", Some("acme")),
        ("acme's machine under nobody's name", "db", Some("acme")),
        ("nobody's machine under acme's name", "acme.db", None),
        ("a machine of no tenant", "other.db", Some("other")),
    ] {
        add(&w.domain, name, &SoftNode::new("good"), owner).unwrap();
        let refused = policies::publish(&w.domain.path("policy"), &w.domain.path("keys"), now()).unwrap_err();
        assert_eq!(refused.code(), PolicyCode::TenantNode, "{row}");
        std::fs::remove_file(w.domain.path("policy/staged/nodes").join(format!("{name}.json"))).unwrap();
    }
    // A name that rival has: another machine cannot take it.
    let taken = add(&w.domain, "rival.web", &SoftNode::new("good"), Some("rival")).unwrap_err();
    assert_eq!(taken.code(), PolicyCode::NodeConflict);
    // A policy for somebody who is no tenant.
    let folder = w.domain.path("policy/staged/tenants/other");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("policy.cedar"), PERMIT).unwrap();
    let refused = policies::publish(&w.domain.path("policy"), &w.domain.path("keys"), now()).unwrap_err();
    assert_eq!(refused.code(), PolicyCode::TenantsUnreadable);
}

#[tokio::test]
async fn one_tenants_policy_says_nothing_of_another() {
    /// Of acme and of rival.
    type Both = [Option<&'static str>; 2];
    let rows: [(&str, Both, Both); 4] = [
        ("both permit", [Some(PERMIT), Some(PERMIT)], [None, None]),
        (
            "acme's permit does not help rival",
            [Some(PERMIT), Some(FORBID)],
            [None, Some("denied-by-tenant-policy")],
        ),
        (
            "acme's forbid does not hurt rival",
            [Some(FORBID), Some(PERMIT)],
            [Some("denied-by-tenant-policy"), None],
        ),
        (
            "none permits nothing",
            [Some(PERMIT), None],
            [None, Some("tenant-policy-missing")],
        ),
    ];
    for (row, policies_of, expected) in rows {
        let mut w = World::new(&tenants(10, 10, 600), policies_of);
        let broker = w.domain.start().await;
        let mut client = Client::connect(broker.address()).await;
        for (node, expected) in [&mut w.acme, &mut w.rival].into_iter().zip(expected) {
            let answer = attest(&mut client, node, false).await.unwrap();
            assert_eq!(answer.allowed, expected.is_none(), "{row}: {:?}", codes(&answer));
            assert!(
                expected.is_none_or(|code| codes(&answer).contains(&code)),
                "{row}: {:?}",
                codes(&answer)
            );
        }
        broker.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_tenants_keys_and_view_are_its_own() {
    let mut w = World::new(&tenants(10, 2, 600), [Some(PERMIT), Some(PERMIT)]);
    let broker = w.domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    for name in ["acme/db", "rival/db", "shared"] {
        assert_eq!(put(&w.domain, name).await.0, StatusCode::OK, "{name}");
    }
    let answer = attest(&mut client, &mut w.acme, false).await.unwrap();
    let authorization = answer.authorization.unwrap();
    assert!(attest(&mut client, &mut w.rival, false).await.unwrap().allowed);
    for (name, given) in [
        ("acme/db", true),
        ("shared", true),
        ("rival/db", false),
        ("rival/none", false),
        ("none", false),
    ] {
        let answer = ask(&mut client, &w.acme, &authorization, name).await;
        assert_eq!(answer.sealed.is_some(), given, "{name}");
        if !given {
            // Rival's key is not told from one that does not exist.
            let codes: Vec<&str> = answer.reasons.iter().map(|reason| reason.code.as_str()).collect();
            assert_eq!(codes, ["key-unknown"], "{name}");
        }
    }
    // Its quota of keys is its own.
    assert_eq!(put(&w.domain, "acme/second").await.0, StatusCode::OK);
    assert_eq!(
        put(&w.domain, "acme/third").await,
        (StatusCode::CONFLICT, "tenant-keys-full".to_owned())
    );
    assert_eq!(put(&w.domain, "rival/second").await.0, StatusCode::OK);
    assert_eq!(
        put(&w.domain, "acme-2/third").await.0,
        StatusCode::OK,
        "a name like it is another"
    );
    // What each sees: an enrolment, acme's five requests, and its keys.
    let acme = seen(&w, &broker, "acme").await;
    let rival = seen(&w, &broker, "rival").await;
    let about = |seen: &[Option<String>], name: &str| seen.iter().flatten().filter(|s| *s == name).count();
    assert_eq!((about(&acme, "acme.web"), about(&rival, "rival.web")), (6, 1));
    let foreign = |seen: &[Option<String>], prefix: &str| seen.iter().flatten().any(|s| !s.starts_with(prefix));
    assert!(
        !foreign(&acme, "acme.") && !foreign(&rival, "rival."),
        "{acme:?} {rival:?}"
    );
    assert_eq!(
        (acme.len(), rival.len()),
        (6 + 2, 1 + 2),
        "and the keys that were put for it"
    );
    // A view is a filter, not secrecy: the public ledger is whole, as an auditor needs it.
    let public: Vec<_> = ledger(&broker).await.into_iter().map(|s| s.subject).collect();
    assert_eq!((about(&public, "acme.web"), about(&public, "rival.web")), (6, 1));
    let (status, _) = command(&w.domain, Method::GET, "/tenants/other/ledger", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn one_tenant_uses_up_nothing_of_another() {
    let mut w = World::new(&tenants(1, 0, 3), [Some(PERMIT), Some(PERMIT)]);
    let mut second = SoftNode::new("good");
    add(&w.domain, "acme.xtra", &second, Some("acme")).unwrap();
    w.domain.publish();
    let broker = w.domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    // More nodes than it may have: the last one counts for nothing, and takes nobody's place.
    let answer = attest(&mut client, &mut second, false).await.unwrap();
    assert!(
        !answer.allowed && codes(&answer).contains(&"tenant-nodes-full"),
        "{:?}",
        codes(&answer)
    );
    assert_eq!(
        put(&w.domain, "acme/db").await.1,
        "tenant-keys-full",
        "no quota is none"
    );
    // More requests than it may make: it waits, and the others do not.
    let rate = Rate::begun(&broker);
    let (mut limited, mut allowed) = (0, 0);
    in_time("what is too much", async {
        while limited < 2 {
            match attest(&mut client, &mut w.acme, allowed > 0).await {
                Ok(answer) => {
                    assert!(answer.allowed);
                    allowed += 1;
                }
                Err(Problem { code, status, .. }) => {
                    assert_eq!((code.as_str(), status), ("tenant-rate-limited", 429));
                    limited += 1;
                }
            }
        }
    })
    .await;
    // What was asked for before this is counted besides.
    assert!(allowed < rate.most(&broker), "{allowed} of {}", rate.most(&broker));
    assert!(attest(&mut client, &mut w.rival, false).await.unwrap().allowed);
    // What takes rights away is never counted.
    w.acme.extend(4);
    let denied = attest(&mut client, &mut w.acme, true).await.unwrap();
    assert!(!denied.allowed);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_is_asked_for_other_domains_is_counted_too() {
    let mut w = World::new(&tenants(1, 0, 3), [Some(PERMIT), Some(PERMIT)]);
    let broker = w.domain.start().await;
    let (mut client, mut rivals) = (
        Client::connect(broker.address()).await,
        Client::connect(broker.address()).await,
    );
    let acme = attest(&mut client, &mut w.acme, false).await.unwrap();
    let rival = attest(&mut rivals, &mut w.rival, false).await.unwrap();
    let acme = acme.authorization.unwrap();
    let entries = decided(&broker).await.len() as u64;
    let rate = Rate::begun(&broker);
    let (mut limited, mut answered) = (0, 0);
    in_time("what is too much", async {
        while limited < 2 {
            let (status, body) = ask_foreign(&mut client, &w.acme, &acme).await;
            match status {
                StatusCode::FORBIDDEN => answered += 1,
                StatusCode::TOO_MANY_REQUESTS => {
                    assert!(body.contains("tenant-rate-limited"), "{body}");
                    limited += 1;
                }
                other => panic!("{other}: {body}"),
            }
        }
    })
    .await;
    // Its attestation is counted besides.
    assert!(answered < rate.most(&broker), "{answered} of {}", rate.most(&broker));
    let recorded = decided(&broker).await.len() as u64 - entries;
    assert_eq!(recorded, answered, "what is too many is on no record");
    let (status, body) = ask_foreign(&mut rivals, &w.rival, &rival.authorization.unwrap()).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    broker.shutdown().await.unwrap();
}
