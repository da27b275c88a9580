//! What operators command and what policy contains: each cause, what falls by it, and the way back.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::client::{Client, problem};
use common::tpm::SoftNode;
use common::{DOMAIN, Domain, REGION, attest, authorization, command, eventually, key, ledger, now};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use touchstone_authorization::command::{Command, CommandAction, TargetKind};
use touchstone_authorization::{Status, StatusIndex};
use touchstone_cose::key::SigningKey;
use touchstone_evidence::message::Answer;
use touchstone_keybroker::bars::{self, Bar};
use touchstone_keybroker::command::{By, Command as LocalCommand, carry_out_planned, plan};
use touchstone_keybroker::entry::{Effect, Entry};
use touchstone_keybroker::holds::{self, Over};
use touchstone_keybroker::key_files::write_new;
use touchstone_keybroker::lineage;
use touchstone_keybroker::log;
use touchstone_keybroker::parts;
use touchstone_keybroker::record::DecisionRecord;
use touchstone_keybroker::release::keeper;
use touchstone_keybroker::service::RunningBroker;
use touchstone_keybroker::trust::Mark;
use touchstone_keybroker::withdraw::{Cause, SET, Taking, set};
use touchstone_ledger::statement::{Kind, Outcome, Statement, VerifiedStatement};
use touchstone_policies::{self as policies, Job, NewOperator, NodeIdentity, NodePlace, Power};

pub(crate) fn status(broker: &RunningBroker, place: StatusIndex) -> Status {
    let lists = broker.app().trust.lists();
    lists.get(place.list).unwrap().status(place.index).unwrap()
}

pub(crate) fn place(broker: &RunningBroker, answer: &Answer) -> StatusIndex {
    authorization(broker, answer).contents().status
}

pub(crate) fn codes(answer: &Answer) -> Vec<&str> {
    answer.reasons.iter().map(|reason| reason.code.as_str()).collect()
}

/// A command about one thing.
pub(crate) fn order(action: &str, target: &str, id: &str) -> Value {
    json!({ "action": action, "target": target, "id": id, "reason": "odd traffic" })
}

pub(crate) async fn commanded(domain: &Domain, order: &Value) -> Value {
    let (status, body) = command(domain, Method::POST, "/commands", &order.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

/// Starts the broker. What was granted before is judged once more, soon after it: what these tests grant by hand, of which it
/// keeps no more than the entry, would be taken away by that, so it is over before this comes back.
async fn started(domain: &Domain) -> RunningBroker {
    let broker = domain.start().await;
    let (status, body) = command(domain, Method::POST, "/reload", "").await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    broker
}

pub(crate) async fn previewed(domain: &Domain, order: &Value) -> Value {
    let (status, body) = command(domain, Method::POST, "/commands/preview", &order.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

pub(crate) async fn refused(domain: &Domain, path: &str, body: &str) -> String {
    let (status, body) = command(domain, Method::POST, path, body).await;
    assert_ne!(status, StatusCode::OK);
    problem(status, &body).code
}

/// The exact set that a statement says it took.
fn taken(broker: &RunningBroker, statement: &Statement) -> Vec<StatusIndex> {
    let digest = statement.inputs[SET];
    let bytes = parts::read(&*broker.app().store, &digest).unwrap().unwrap();
    assert_eq!(set::digest(&bytes), digest);
    set::decode(&bytes).unwrap()
}

async fn last(broker: &RunningBroker) -> Statement {
    ledger(broker).await.pop().unwrap()
}

/// A domain whose nodes stand in zones and have roles, with more in its settings.
pub(crate) fn zoned(nodes: &[(&str, &SoftNode, Option<&str>, &str)], containment: &str) -> Domain {
    let domain = Domain::new(&[], &[]);
    let repo = domain.path("policy");
    for (name, node, zone, role) in nodes {
        let roles = [(*role).to_owned()];
        let place = NodePlace {
            name,
            region: REGION,
            zone: *zone,
            roles: &roles,
            owner: None,
        };
        policies::node_add(&repo, &NodeIdentity::Ek(node.ek_public()), place).unwrap();
    }
    let path = repo.join("staged/settings.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("[containment]\ndefault = \"subject\"\n"));
    let text = text.replace(
        "[containment]\ndefault = \"subject\"\n",
        &format!("[containment]\n{containment}\n"),
    );
    std::fs::write(&path, text).unwrap();
    domain.publish();
    domain
}

#[tokio::test]
async fn a_quarantine_keeps_what_a_node_holds_until_it_is_lifted_and_the_node_shows_good_evidence() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = started(&domain).await;
    let mut client = Client::connect(broker.address()).await;
    let held = place(&broker, &attest(&mut client, &mut node, false).await.unwrap());
    let epoch = broker.app().trust.epoch();
    let done = commanded(&domain, &order("quarantine", "node", "node-1")).await;
    assert_eq!((&done["entries"], &done["epoch"]), (&json!(1), &json!(epoch + 1)));
    assert_eq!(status(&broker, held), Status::Suspended);
    let statement = last(&broker).await;
    assert_eq!(
        (statement.kind, statement.subject.as_deref()),
        (Kind::Quarantine, Some("node-1"))
    );
    assert_eq!(taken(&broker, &statement), [held]);

    // It goes on attesting, gets nothing, and loses nothing.
    for _ in 0..2 {
        let denied = attest(&mut client, &mut node, true).await.unwrap();
        assert_eq!((denied.allowed, codes(&denied)), (false, vec!["quarantined"]));
        assert_eq!(status(&broker, held), Status::Suspended);
    }
    // The decision is made again from what was recorded of it.
    let index = broker.app().head().size - 1;
    let (_, body) = command(&domain, Method::GET, &format!("/record/{index}"), "").await;
    let record = DecisionRecord::decode(&body).unwrap();
    record
        .replay(&broker.app().policy(), &key(&broker, Job::Statement))
        .unwrap();

    // Lifted it is only when the node has shown itself.
    commanded(&domain, &order("lift", "node", "node-1")).await;
    assert_eq!(last(&broker).await.kind, Kind::Lift);
    assert_eq!(status(&broker, held), Status::Suspended);
    let again = attest(&mut client, &mut node, true).await.unwrap();
    assert!(again.allowed, "{:?}", codes(&again));
    assert_eq!((place(&broker, &again), status(&broker, held)), (held, Status::Valid));
    let refused = refused(&domain, "/commands", &order("lift", "node", "node-1").to_string()).await;
    assert_eq!(refused, "request-not-found", "it is lifted once");
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_fails_in_quarantine_falls_for_good() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = started(&domain).await;
    let mut client = Client::connect(broker.address()).await;
    let held = place(&broker, &attest(&mut client, &mut node, false).await.unwrap());
    commanded(&domain, &order("quarantine", "node", "node-1")).await;
    let kept = node.values.clone();
    node.extend(7);
    assert!(!attest(&mut client, &mut node, true).await.unwrap().allowed);
    assert_eq!(status(&broker, held), Status::Invalid);
    let statements = ledger(&broker).await;
    let [.., revocation, decision] = statements.as_slice() else {
        panic!()
    };
    assert_eq!((revocation.kind, decision.kind), (Kind::Revocation, Kind::Attestation));
    assert_eq!(revocation.inputs["decision"], decision.digest().unwrap(), "it says why");
    assert_eq!(taken(&broker, revocation), [held]);
    commanded(&domain, &order("lift", "node", "node-1")).await;
    node.values = kept;
    let again = attest(&mut client, &mut node, true).await.unwrap();
    assert_ne!(place(&broker, &again), held, "what fell otherwise is not lifted");
    assert_eq!(status(&broker, held), Status::Invalid);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_quarantine_outlives_the_broker_stopped_in_order_or_not() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let mut broker = started(&domain).await;
    let mut client = Client::connect(broker.address()).await;
    let held = place(&broker, &attest(&mut client, &mut node, false).await.unwrap());
    commanded(&domain, &order("quarantine", "node", "node-1")).await;
    for in_order in [true, false] {
        drop(client);
        if in_order {
            broker.shutdown().await.unwrap();
        } else {
            drop(broker);
        }
        broker = started(&domain).await;
        client = Client::connect(broker.address()).await;
        let denied = attest(&mut client, &mut node, true).await.unwrap();
        assert_eq!(codes(&denied), ["quarantined"], "in order: {in_order}");
        assert_eq!(status(&broker, held), Status::Suspended);
    }
    commanded(&domain, &order("lift", "node", "node-1")).await;
    assert!(attest(&mut client, &mut node, true).await.unwrap().allowed);
    assert_eq!(status(&broker, held), Status::Valid);
    drop(client);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn one_of_two_holds_over_a_node_is_not_lifted_with_the_other() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = started(&domain).await;
    let mut client = Client::connect(broker.address()).await;
    let held = place(&broker, &attest(&mut client, &mut node, false).await.unwrap());
    commanded(&domain, &order("quarantine", "node", "node-1")).await;
    commanded(&domain, &order("contain", "cluster", DOMAIN)).await;
    commanded(&domain, &order("lift", "cluster", DOMAIN)).await;
    let denied = attest(&mut client, &mut node, true).await.unwrap();
    assert_eq!(
        (codes(&denied), status(&broker, held)),
        (vec!["quarantined"], Status::Suspended)
    );
    commanded(&domain, &order("lift", "node", "node-1")).await;
    assert!(attest(&mut client, &mut node, true).await.unwrap().allowed);
    assert_eq!(status(&broker, held), Status::Valid);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_whole_domain_is_suspended_by_command_and_there_is_a_way_back() {
    let (mut one, mut two, mut late) = (SoftNode::new("good"), SoftNode::new("good"), SoftNode::new("good"));
    let domain = Domain::new(&[("node-1", &one), ("node-2", &two), ("node-3", &late)], &[]);
    let broker = started(&domain).await;
    let mut client = Client::connect(broker.address()).await;
    let first = place(&broker, &attest(&mut client, &mut one, false).await.unwrap());
    let second = place(&broker, &attest(&mut client, &mut two, false).await.unwrap());
    let epoch = broker.app().trust.epoch();
    let done = commanded(&domain, &order("contain", "cluster", DOMAIN)).await;
    assert_eq!(
        (&done["entries"], &done["epoch"]),
        (&json!(2), &json!(epoch + 1)),
        "in one epoch"
    );
    let statement = last(&broker).await;
    assert_eq!(
        (statement.kind, statement.subject.as_deref()),
        (Kind::Containment, None)
    );
    assert_eq!(taken(&broker, &statement), [first, second]);
    for node in [&mut one, &mut two] {
        let denied = attest(&mut client, node, true).await.unwrap();
        assert_eq!(codes(&denied), ["contained"]);
    }
    let denied = attest(&mut client, &mut late, false).await.unwrap();
    assert_eq!(codes(&denied), ["contained"], "nobody new either");
    assert_eq!(
        [first, second].map(|place| status(&broker, place)),
        [Status::Suspended; 2]
    );

    commanded(&domain, &order("lift", "cluster", DOMAIN)).await;
    assert!(attest(&mut client, &mut one, true).await.unwrap().allowed);
    let found = [first, second].map(|place| status(&broker, place));
    assert_eq!(found, [Status::Valid, Status::Suspended], "each by evidence of its own");
    assert!(attest(&mut client, &mut two, true).await.unwrap().allowed);
    assert!(attest(&mut client, &mut late, false).await.unwrap().allowed);
    assert_eq!(status(&broker, second), Status::Valid);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_failure_of_one_member_reaches_as_far_as_policy_says_and_no_forgery_does() {
    let zone = "default = \"zone\"\nroles = [\"gateway\"]";
    let cluster = "default = \"cluster\"\nroles = [\"gateway\"]";
    let other_role = "default = \"cluster\"\nroles = [\"custodian\"]";
    for (what, containment, in_zone, elsewhere) in [
        ("by default", "default = \"subject\"", Status::Valid, Status::Valid),
        ("a zone", zone, Status::Suspended, Status::Valid),
        ("everybody", cluster, Status::Suspended, Status::Suspended),
        ("a role that is not named", other_role, Status::Valid, Status::Valid),
    ] {
        let mut nodes = [SoftNode::new("good"), SoftNode::new("good"), SoftNode::new("good")];
        let [bad, near, far] = &nodes;
        let rows = [
            ("bad", bad, Some("a"), "gateway"),
            ("near", near, Some("a"), "worker"),
            ("far", far, Some("b"), "worker"),
        ];
        let domain = zoned(&rows, containment);
        let broker = started(&domain).await;
        let mut client = Client::connect(broker.address()).await;
        let mut places = Vec::new();
        for node in &mut nodes {
            places.push(place(&broker, &attest(&mut client, node, false).await.unwrap()));
        }
        let [bad, near, _] = &mut nodes;
        // Garbage in the name of the member whose failure would reach far: nothing happens.
        let before = broker.app().trust.epoch();
        let mut forger = SoftNode::new("good");
        for _ in 0..5 {
            let mut client = Client::connect(broker.address()).await;
            let challenge = client.hello(&bad.hello(true)).await.unwrap();
            std::mem::swap(&mut forger.session, &mut bad.session);
            let mut forged = forger.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
            std::mem::swap(&mut forger.session, &mut bad.session);
            forged.activation = None;
            assert_eq!(client.submit(&forged).await.unwrap_err().code, "evidence-refused");
        }
        assert_eq!(broker.app().trust.epoch(), before, "{what}: a forgery");

        bad.extend(7);
        assert!(!attest(&mut client, bad, true).await.unwrap().allowed);
        let expected = [Status::Invalid, in_zone, elsewhere];
        let found = || [places[0], places[1], places[2]].map(|place| status(&broker, place));
        let begun = std::time::Instant::now();
        while found() != expected && begun.elapsed() < common::PATIENCE {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        assert_eq!(found(), expected, "{what}");
        if in_zone == Status::Suspended {
            eventually("the disk", || broker.app().trust.pending() == 0).await;
            let statement = ledger(&broker)
                .await
                .into_iter()
                .find(|s| s.kind == Kind::Containment)
                .unwrap();
            assert!(
                statement.inputs.contains_key("decision"),
                "{what}: it says by whose failure"
            );
            let denied = attest(&mut client, near, true).await.unwrap();
            assert_eq!(codes(&denied), ["contained"], "{what}");
            let (target, id) = if elsewhere == Status::Valid {
                ("zone", "a")
            } else {
                ("cluster", DOMAIN)
            };
            commanded(&domain, &order("lift", target, id)).await;
            assert!(
                attest(&mut client, near, true).await.unwrap().allowed,
                "{what}: the way back"
            );
            assert_eq!(status(&broker, places[1]), Status::Valid);
        } else {
            // Whatever is on its way would come now.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            assert_eq!(found(), expected, "{what}");
        }
        broker.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_barred_reference_takes_everybody_who_rests_on_it_at_once() {
    for (target, id) in [("reference", "golden"), ("signer", "author")] {
        let (mut one, mut two) = (SoftNode::new("good"), SoftNode::new("good"));
        let domain = Domain::new(&[("node-1", &one), ("node-2", &two)], &[]);
        let broker = started(&domain).await;
        let authority = broker.app().policy().whole().references.references()[0]
            .authority
            .clone();
        let id = if target == "signer" { authority.as_str() } else { id };
        let mut client = Client::connect(broker.address()).await;
        let first = place(&broker, &attest(&mut client, &mut one, false).await.unwrap());
        let second = place(&broker, &attest(&mut client, &mut two, false).await.unwrap());
        let missing = refused(&domain, "/commands", &order("revoke", target, "nothing").to_string()).await;
        assert_eq!(missing, "request-not-found");
        let shown = previewed(&domain, &order("revoke", target, id)).await;
        assert_eq!(
            (&shown["entries"], &shown["nodes"]),
            (&json!(2), &json!(["node-1", "node-2"]))
        );
        assert_eq!(status(&broker, first), Status::Valid, "a preview takes nothing");
        let (size, epoch) = (broker.app().head().size, broker.app().trust.epoch());
        let done = commanded(&domain, &order("revoke", target, id)).await;
        assert_eq!(
            (&done["entries"], &done["epoch"]),
            (&json!(2), &json!(epoch + 1)),
            "one epoch"
        );
        assert_eq!(broker.app().head().size, size + 1, "one statement");
        assert_eq!(
            [first, second].map(|place| status(&broker, place)),
            [Status::Invalid; 2]
        );
        let statement = last(&broker).await;
        assert_eq!(taken(&broker, &statement), [first, second]);
        let reasons: Vec<&str> = statement.reasons.iter().map(|reason| reason.code.as_str()).collect();
        assert_eq!(reasons, ["operator-command", "policy-no-longer-permits"]);

        let denied = attest(&mut client, &mut one, true).await.unwrap();
        assert!(codes(&denied).contains(&"reference-barred"), "{:?}", codes(&denied));
        let index = broker.app().head().size - 1;
        let (_, body) = command(&domain, Method::GET, &format!("/record/{index}"), "").await;
        let record = DecisionRecord::decode(&body).unwrap();
        record
            .replay(&broker.app().policy(), &key(&broker, Job::Statement))
            .unwrap();
        // Over a restart, until it is lifted.
        drop(client);
        broker.shutdown().await.unwrap();
        let broker = started(&domain).await;
        let mut client = Client::connect(broker.address()).await;
        assert!(!attest(&mut client, &mut two, true).await.unwrap().allowed);
        commanded(&domain, &order("lift", target, id)).await;
        assert!(attest(&mut client, &mut one, true).await.unwrap().allowed);
        broker.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_set_that_has_changed_since_it_was_shown_is_not_taken() {
    let (mut one, mut two) = (SoftNode::new("good"), SoftNode::new("good"));
    let domain = Domain::new(&[("node-1", &one), ("node-2", &two)], &[]);
    let broker = started(&domain).await;
    let mut client = Client::connect(broker.address()).await;
    let first = place(&broker, &attest(&mut client, &mut one, false).await.unwrap());
    let mut contain = order("contain", "cluster", DOMAIN);
    let shown = previewed(&domain, &contain).await;
    assert_eq!(shown["entries"], 1);
    let second = place(&broker, &attest(&mut client, &mut two, false).await.unwrap());
    contain["set"] = shown["set"].clone();
    let (size, epoch) = (broker.app().head().size, broker.app().trust.epoch());
    assert_eq!(
        refused(&domain, "/commands", &contain.to_string()).await,
        "command-set-changed"
    );
    assert_eq!((broker.app().head().size, broker.app().trust.epoch()), (size, epoch));
    assert_eq!([first, second].map(|place| status(&broker, place)), [Status::Valid; 2]);
    contain["set"] = previewed(&domain, &order("contain", "cluster", DOMAIN)).await["set"].clone();
    commanded(&domain, &contain).await;
    assert_eq!(
        [first, second].map(|place| status(&broker, place)),
        [Status::Suspended; 2]
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_policy_takes_all_that_it_no_longer_permits_in_one_epoch_by_one_statement() {
    let mut nodes: Vec<SoftNode> = (0..4).map(|_| SoftNode::new("good")).collect();
    let names = ["node-1", "node-2", "node-3", "node-4"];
    let rows: Vec<(&str, &SoftNode)> = names.into_iter().zip(&nodes).collect();
    let domain = Domain::new(&rows, &[]);
    let broker = started(&domain).await;
    let mut client = Client::connect(broker.address()).await;
    let mut places = Vec::new();
    for node in &mut nodes {
        places.push(place(&broker, &attest(&mut client, node, false).await.unwrap()));
    }
    let region = domain.path("policy/staged/regions/north/policy.cedar");
    std::fs::create_dir_all(region.parent().unwrap()).unwrap();
    let forbid = "\n@id(\"not-them\") forbid (principal, action, resource) unless { principal.name == \"node-1\" };\n";
    std::fs::write(&region, policies::cedar::default_region_policy("north") + forbid).unwrap();
    domain.publish();
    let epoch = broker.app().trust.epoch();
    let (done, body) = command(&domain, Method::POST, "/reload", "").await;
    assert_eq!(done, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    assert_eq!(
        broker.app().trust.epoch(),
        epoch + 2,
        "the policy, and what falls by it"
    );
    let statement = last(&broker).await;
    assert_eq!((statement.kind, statement.subject.as_deref()), (Kind::Revocation, None));
    assert_eq!(taken(&broker, &statement), places[1..]);
    assert!(
        statement.reasons[0].found.contains("not-them"),
        "{:?}",
        statement.reasons
    );
    assert_eq!(status(&broker, places[0]), Status::Valid);
    broker.shutdown().await.unwrap();
}

/// A signed command, with what it is before it is signed.
fn signed(broker: &RunningBroker, shown: &Value, key: &SigningKey, change: impl FnOnce(&mut Command)) -> String {
    let mut id = [0; 16];
    getrandom::fill(&mut id).unwrap();
    let mut command = Command {
        domain: DOMAIN.into(),
        operator: "alice".into(),
        id,
        not_after: now() as u64 + 290,
        action: CommandAction::parse(shown["action"].as_str().unwrap()).unwrap(),
        target: TargetKind::parse(shown["target"].as_str().unwrap()).unwrap(),
        target_id: shown["id"].as_str().unwrap().into(),
        set: hex::decode(shown["set"].as_str().unwrap()).unwrap().try_into().unwrap(),
        revision: broker.app().trust.epoch(),
        reason: "odd traffic".into(),
    };
    change(&mut command);
    let bytes = command.encode_signed(key).unwrap();
    // The admin helper sends text.
    base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes)
}

#[tokio::test]
async fn where_policy_lists_operators_only_their_signed_commands_count_and_each_once() {
    let (mut one, mut two) = (SoftNode::new("good"), SoftNode::new("good"));
    let domain = Domain::new(&[("node-1", &one), ("node-2", &two)], &[]);
    let (alice, bob, stranger) = (
        SigningKey::from_seed([1; 32]),
        SigningKey::from_seed([2; 32]),
        SigningKey::from_seed([3; 32]),
    );
    let operator = |name: &str, key: &SigningKey, may: &[Power], regions: &[&str]| {
        let new = NewOperator {
            name: name.into(),
            key: hex::encode(key.verifying_key().to_spki_der()),
            may: may.to_vec(),
            regions: regions.iter().map(|region| (*region).to_owned()).collect(),
        };
        policies::entries::operator_add(&domain.path("policy"), &new).unwrap();
    };
    operator("alice", &alice, &[Power::Quarantine, Power::Lift], &[]);
    operator("bob", &bob, &[Power::Revoke], &["south"]);
    let carol = SigningKey::from_seed([4; 32]);
    operator("carol", &carol, &[Power::Quarantine], &[]);
    let region = domain.path("policy/staged/regions/north/policy.cedar");
    std::fs::create_dir_all(region.parent().unwrap()).unwrap();
    let forbid =
        "\n@id(\"not-carol\") forbid (principal is Operator, action, resource) when { principal.name == \"carol\" };\n";
    std::fs::write(&region, policies::cedar::default_region_policy("north") + forbid).unwrap();
    domain.publish();
    let broker = started(&domain).await;
    let mut client = Client::connect(broker.address()).await;
    let first = place(&broker, &attest(&mut client, &mut one, false).await.unwrap());
    let second = place(&broker, &attest(&mut client, &mut two, false).await.unwrap());

    let about = r#"{"node": "node-1", "reason": "x"}"#;
    let quarantine = order("quarantine", "node", "node-1");
    for (path, body) in [
        ("/revoke", about.to_owned()),
        ("/decommission", about.to_owned()),
        ("/reinstate", about.to_owned()),
        ("/commands", quarantine.to_string()),
    ] {
        assert_eq!(refused(&domain, path, &body).await, "command-unsigned", "{path}");
    }
    let shown = previewed(&domain, &quarantine).await;
    let revoke = previewed(&domain, &order("revoke", "node", "node-1")).await;
    let other = previewed(&domain, &order("quarantine", "node", "node-2")).await;
    let good = signed(&broker, &shown, &alice, |_| {});
    let mut altered = good.clone();
    altered.replace_range(100..101, if &good[100..101] == "A" { "B" } else { "A" });
    for (what, body, code) in [
        (
            "another's key",
            signed(&broker, &shown, &stranger, |_| {}),
            "command-not-accepted",
        ),
        (
            "in another's name",
            signed(&broker, &shown, &bob, |_| {}),
            "command-not-accepted",
        ),
        ("altered", altered, "command-not-accepted"),
        (
            "over",
            signed(&broker, &shown, &alice, |c| c.not_after = now() as u64 - 5),
            "command-not-accepted",
        ),
        (
            "for too long",
            signed(&broker, &shown, &alice, |c| c.not_after += 3_600),
            "command-not-accepted",
        ),
        (
            "another domain's",
            signed(&broker, &shown, &alice, |c| c.domain = "other".into()),
            "command-not-accepted",
        ),
        (
            "not hers",
            signed(&broker, &revoke, &alice, |_| {}),
            "command-not-permitted",
        ),
        (
            "not his there",
            signed(&broker, &revoke, &bob, |c| c.operator = "bob".into()),
            "command-not-permitted",
        ),
        (
            "forbidden to her by a policy",
            signed(&broker, &shown, &carol, |c| c.operator = "carol".into()),
            "command-not-permitted",
        ),
        (
            "another set",
            signed(&broker, &shown, &alice, |c| c.set = [7; 32]),
            "command-set-changed",
        ),
        (
            "the set of another",
            signed(&broker, &other, &alice, |c| c.target_id = "node-1".into()),
            "command-set-changed",
        ),
        (
            "a state to come",
            signed(&broker, &shown, &alice, |c| c.revision += 9),
            "command-set-changed",
        ),
    ] {
        assert_eq!(refused(&domain, "/commands/signed", &body).await, code, "{what}");
        assert_eq!(status(&broker, first), Status::Valid, "{what}");
    }
    let (done, body) = command(&domain, Method::POST, "/commands/signed", &good).await;
    assert_eq!(done, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    assert_eq!(
        [first, second].map(|place| status(&broker, place)),
        [Status::Suspended, Status::Valid]
    );
    let statement = last(&broker).await;
    assert_eq!(statement.body.get(19).and_then(|by| by.as_text()), Some("alice"));
    assert!(statement.inputs.contains_key("command"));
    assert_eq!(refused(&domain, "/commands/signed", &good).await, "command-replayed");
    let lift = previewed(&domain, &order("lift", "node", "node-1")).await;
    let lift = signed(&broker, &lift, &alice, |_| {});
    let (done, body) = command(&domain, Method::POST, "/commands/signed", &lift).await;
    assert_eq!(done, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    assert!(attest(&mut client, &mut one, true).await.unwrap().allowed);
    // Once, over a restart too.
    drop(client);
    broker.shutdown().await.unwrap();
    let broker = started(&domain).await;
    assert_eq!(refused(&domain, "/commands/signed", &good).await, "command-replayed");
    broker.shutdown().await.unwrap();
}

/// Grants an entry below others, as an authorization of a workload does; by the way of every grant, through the ledger.
pub(crate) async fn child(
    broker: &RunningBroker,
    label: &str,
    node: &str,
    parent: StatusIndex,
    on: &[StatusIndex],
) -> (StatusIndex, [u8; 16]) {
    let app = broker.app();
    let status = app.trust.deal().unwrap();
    let above = app.lineage.get(&parent).unwrap();
    let mut cti = [0; 16];
    getrandom::fill(&mut cti).unwrap();
    let entry = lineage::Entry {
        status,
        parent: Some(parent),
        subject: format!("{label}@{node}"),
        cti,
        depth: above.depth + 1,
        // No later than what it hangs below, also where a second has passed since that was made.
        expires: above.expires,
        scopes: "execute:workloads".into(),
        depends_on: on
            .iter()
            .map(|on| lineage::Dependency {
                on: *on,
                why: lineage::Link::DependsOn,
            })
            .collect(),
    };
    let statement = app.circumstances(app.clock.now_ms()).statement(
        Kind::WorkloadAuthorization,
        Outcome::Allow,
        touchstone_cose::cbor::Value::map([(0, touchstone_cose::cbor::Value::text("test"))]),
    );
    let entry = Entry {
        statement: statement.sign(&app.keys.statement).unwrap(),
        subject: None,
        policy: None,
        guards: vec![],
        writes: vec![],
        parts: vec![],
        effect: Effect::grant(lineage::Growth { entry, renews: false }),
    };
    app.sequencer.record(entry).await.unwrap();
    (status, cti)
}

#[tokio::test]
async fn a_quarantine_takes_the_whole_lineage_and_a_lift_gives_back_exactly_what_it_took() {
    let (mut one, mut two) = (SoftNode::new("good"), SoftNode::new("good"));
    let domain = Domain::new(&[("node-1", &one), ("node-2", &two)], &[]);
    let broker = started(&domain).await;
    let mut client = Client::connect(broker.address()).await;
    let root = place(&broker, &attest(&mut client, &mut one, false).await.unwrap());
    let other = place(&broker, &attest(&mut client, &mut two, false).await.unwrap());
    let (job, _) = child(&broker, "job", "node-1", root, &[]).await;
    let (below, below_id) = child(&broker, "below", "node-1", job, &[]).await;
    let (resting, _) = child(&broker, "resting", "node-2", other, &[job]).await;
    let (apart, _) = child(&broker, "apart", "node-2", other, &[]).await;
    let all = [root, job, below, resting, other, apart];
    let found = || all.map(|place| status(&broker, place));
    assert_eq!(found(), [Status::Valid; 6]);

    let epoch = broker.app().trust.epoch();
    let done = commanded(&domain, &order("quarantine", "node", "node-1")).await;
    assert_eq!(
        (&done["entries"], &done["epoch"]),
        (&json!(4), &json!(epoch + 1)),
        "in one epoch"
    );
    let (s, v, i) = (Status::Suspended, Status::Valid, Status::Invalid);
    assert_eq!(found(), [s, s, s, s, v, v]);
    let mut expected = vec![root, job, below, resting];
    expected.sort_by_key(touchstone_keybroker::trust::number);
    assert_eq!(taken(&broker, &last(&broker).await), expected);
    // One of them falls for another cause, while it is suspended: by its id.
    commanded(&domain, &order("revoke", "lineage", &hex::encode(below_id))).await;
    assert_eq!(found(), [s, s, i, s, v, v]);
    let statement = last(&broker).await;
    assert_eq!(
        (statement.kind, statement.subject.as_deref()),
        (Kind::Revocation, Some("below@node-1"))
    );

    commanded(&domain, &order("lift", "node", "node-1")).await;
    assert!(attest(&mut client, &mut two, true).await.unwrap().allowed);
    assert_eq!(found(), [s, s, i, s, v, v], "another node's evidence lifts nothing");
    assert!(attest(&mut client, &mut one, true).await.unwrap().allowed);
    assert_eq!(found(), [v, v, i, v, v, v]);

    // A workload alone: it, and what rests on it, and no more.
    commanded(&domain, &order("quarantine", "workload", "job@node-1")).await;
    assert_eq!(found(), [v, s, i, s, v, v]);
    assert!(
        attest(&mut client, &mut one, true).await.unwrap().allowed,
        "its node goes on"
    );
    assert_eq!(found(), [v, s, i, s, v, v]);
    commanded(&domain, &order("lift", "workload", "job@node-1")).await;
    assert!(attest(&mut client, &mut one, true).await.unwrap().allowed);
    assert_eq!(found(), [v, v, i, v, v, v]);
    commanded(&domain, &order("revoke", "workload", "job@node-1")).await;
    assert_eq!(found(), [v, i, i, i, v, v]);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_workload_is_taken_away_under_every_entry_of_its_name() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = started(&domain).await;
    let mut client = Client::connect(broker.address()).await;
    let root = place(&broker, &attest(&mut client, &mut node, false).await.unwrap());
    // Whoever may hand rights on may do so twice to one label: the second must not hide the first.
    let (first, _) = child(&broker, "job", "node-1", root, &[]).await;
    let (second, _) = child(&broker, "job", "node-1", root, &[]).await;
    let found = || [root, first, second].map(|place| status(&broker, place));
    let revoke = order("revoke", "workload", "job@node-1");
    assert_eq!(previewed(&domain, &revoke).await["entries"], json!(2));
    commanded(&domain, &revoke).await;
    assert_eq!(found(), [Status::Valid, Status::Invalid, Status::Invalid]);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_hangs_below_a_node_falls_with_it_whatever_the_cause() {
    for cause in ["failed", "overdue", "revoked", "decommissioned", "policy"] {
        let (mut one, mut two) = (SoftNode::new("good"), SoftNode::new("good"));
        let domain = Domain::new(&[("node-1", &one), ("node-2", &two)], &[]);
        let broker = started(&domain).await;
        let mut client = Client::connect(broker.address()).await;
        let root = place(&broker, &attest(&mut client, &mut one, false).await.unwrap());
        // Where the deadline is made short, it is over for everybody who has attested.
        let other = match cause {
            "overdue" => None,
            _ => Some(place(&broker, &attest(&mut client, &mut two, false).await.unwrap())),
        };
        let (job, _) = child(&broker, "job", "node-1", root, &[]).await;
        let (below, _) = child(&broker, "below", "node-1", job, &[]).await;
        let about = r#"{"node": "node-1", "reason": "x"}"#;
        match cause {
            "failed" => {
                one.extend(7);
                assert!(!attest(&mut client, &mut one, true).await.unwrap().allowed);
            }
            "overdue" => {
                let deadline = [
                    ("attestation_interval_ms", "300"),
                    ("attestation_retry_ms", "100"),
                    ("attestation_deadline_ms", "500"),
                ];
                domain.change(&deadline).await;
                eventually("the deadline", || status(&broker, root) != Status::Valid).await;
                eventually("the disk", || broker.app().trust.pending() == 0).await;
            }
            "revoked" => drop(command(&domain, Method::POST, "/revoke", about).await),
            "decommissioned" => drop(command(&domain, Method::POST, "/decommission", about).await),
            _ => {
                policies::withdraw(&domain.path("policy"), "nodes/node-1.json").unwrap();
                domain.publish();
                command(&domain, Method::POST, "/reload", "").await;
            }
        }
        let found = [root, job, below].map(|place| status(&broker, place));
        assert_eq!(found, [Status::Invalid; 3], "{cause}");
        if let Some(other) = other {
            assert_eq!(status(&broker, other), Status::Valid, "{cause}");
        }
        let mut revocations = ledger(&broker).await.into_iter().filter(|s| s.kind == Kind::Revocation);
        let statement = revocations.find(|s| s.subject.as_deref() == Some("node-1")).unwrap();
        assert_eq!(
            taken(&broker, &statement).len(),
            3,
            "{cause}: one statement for all of it"
        );
        broker.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn who_was_granted_something_while_a_containment_looked_is_suspended_too() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = started(&domain).await;
    let mut client = Client::connect(broker.address()).await;
    let held = place(&broker, &attest(&mut client, &mut node, false).await.unwrap());
    // As if the look had seen nobody: what it names is nothing.
    let reason = touchstone_ledger::statement::Reason {
        code: "contained".into(),
        claim: "cluster".into(),
        expected: "as granted".into(),
        found: "test".into(),
    };
    let taking = Taking::new(Cause::new(Kind::Containment, None, reason), Mark::Suspended);
    let over = Over::Nodes(policies::Extent::Cluster);
    holds::hold(broker.app(), over, "test", taking).await.unwrap();
    assert_eq!(status(&broker, held), Status::Suspended);
    commanded(&domain, &order("lift", "cluster", DOMAIN)).await;
    assert!(attest(&mut client, &mut node, true).await.unwrap().allowed);
    assert_eq!(status(&broker, held), Status::Valid);
    broker.shutdown().await.unwrap();
}

/// A domain that keeps a key, and a node in it that holds rights.
async fn with_key(node: &mut SoftNode) -> (Domain, RunningBroker, StatusIndex) {
    let domain = Domain::new(&[("node-1", node)], &[]);
    let file = domain.path("passphrase");
    write_new(&file, b"correct horse battery staple\n").unwrap();
    let domain = domain.with_more(&format!("[keys]\nkek = {{ passphrase_file = {file:?} }}\n"));
    let broker = started(&domain).await;
    let mut client = Client::connect(broker.address()).await;
    let root = place(&broker, &attest(&mut client, node, false).await.unwrap());
    (domain, broker, root)
}

async fn put_key(domain: &Domain) {
    let (status, body) = command(domain, Method::POST, "/keys?name=db/main", "0123456789abcdef").await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
}

/// Puts a statement on record that `subject` was given version 1 of the key, signed by the broker or by `key`.
async fn given(broker: &RunningBroker, subject: &str, key: Option<&SigningKey>) {
    use touchstone_cose::cbor::Value;
    let app = broker.app();
    let body = Value::map([(0, Value::text("db/main")), (1, Value::Unsigned(1))]);
    let circumstances = app.circumstances(app.clock.now_ms());
    let statement = Statement {
        subject: Some(subject.to_owned()),
        ..circumstances.statement(Kind::KeyRelease, Outcome::Allow, body)
    };
    let entry = Entry {
        statement: statement.sign(key.unwrap_or(&app.keys.statement)).unwrap(),
        subject: None,
        policy: None,
        guards: vec![],
        writes: vec![],
        parts: vec![],
        effect: Effect::None,
    };
    app.sequencer.record(entry).await.unwrap();
}

fn revoke_key() -> Value {
    order("revoke", "key", "db/main")
}

#[tokio::test]
async fn a_revoked_key_takes_every_entry_of_a_name_that_was_given_it() {
    let mut node = SoftNode::new("good");
    let (domain, broker, root) = with_key(&mut node).await;
    put_key(&domain).await;
    // The older one was given the key; the younger one of the same label must not stand before it.
    let (older, _) = child(&broker, "job", "node-1", root, &[]).await;
    given(&broker, "job@node-1", None).await;
    let (younger, _) = child(&broker, "job", "node-1", root, &[]).await;
    let (other, _) = child(&broker, "other", "node-1", root, &[]).await;
    let done = commanded(&domain, &revoke_key()).await;
    assert_eq!((&done["entries"], &done["unread"]), (&json!(2), &json!(0)));
    let found = [root, older, younger, other].map(|place| status(&broker, place));
    let (valid, fallen) = (Status::Valid, Status::Invalid);
    assert_eq!(found, [valid, fallen, fallen, valid]);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn who_was_given_a_key_while_its_holders_were_looked_up_falls_too() {
    for anybody_before in [false, true] {
        let mut node = SoftNode::new("good");
        let (domain, broker, root) = with_key(&mut node).await;
        put_key(&domain).await;
        let (first, _) = child(&broker, "first", "node-1", root, &[]).await;
        let (late, _) = child(&broker, "late", "node-1", root, &[]).await;
        if anybody_before {
            given(&broker, "first@node-1", None).await;
        }
        let order: LocalCommand = serde_json::from_value(revoke_key()).unwrap();
        let planned = plan(broker.app(), &order).await.unwrap();
        assert_eq!(planned.set.len(), usize::from(anybody_before));
        // Between the look and the commit that withholds the key.
        given(&broker, "late@node-1", None).await;
        let done = carry_out_planned(broker.app(), &order, &By::Local, planned)
            .await
            .unwrap();
        assert_eq!(done.entries, 1 + usize::from(anybody_before));
        assert!(done.epoch.is_some());
        let first_now = if anybody_before { Status::Invalid } else { Status::Valid };
        let found = [root, first, late].map(|place| status(&broker, place));
        assert_eq!(found, [Status::Valid, first_now, Status::Invalid]);
        let statement = last(&broker).await;
        assert_eq!(
            (statement.kind, taken(&broker, &statement)),
            (Kind::Revocation, vec![late])
        );
        broker.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_statement_that_cannot_be_read_hides_no_other_holder_and_withholds_the_key_all_the_same() {
    for anybody in [true, false] {
        let mut node = SoftNode::new("good");
        let (domain, broker, root) = with_key(&mut node).await;
        // Of a statement key that has left the keyset. What is older than the key says nothing of who was given it.
        let gone = SigningKey::from_seed([3; 32]);
        given(&broker, "before@node-1", Some(&gone)).await;
        put_key(&domain).await;
        let (known, _) = child(&broker, "known", "node-1", root, &[]).await;
        if anybody {
            given(&broker, "known@node-1", None).await;
        }
        given(&broker, "unknown@node-1", Some(&gone)).await;
        assert_eq!(
            previewed(&domain, &revoke_key()).await["unread"],
            json!(1),
            "said beforehand"
        );
        let done = commanded(&domain, &revoke_key()).await;
        assert_eq!(
            (&done["entries"], &done["unread"]),
            (&json!(usize::from(anybody)), &json!(1))
        );
        let expected = if anybody { Status::Invalid } else { Status::Valid };
        assert_eq!(status(&broker, known), expected);
        let statement = parsed(&broker, broker.app().head().size - 1);
        assert_eq!(statement.reasons.len(), 2, "and on record: {:?}", statement.reasons);
        assert!(statement.reasons[1].found.starts_with("1 "), "{:?}", statement.reasons);
        let (withheld, _) = keeper::withheld(&*broker.app().store, "db/main").unwrap();
        assert_eq!(withheld, 1);
        broker.shutdown().await.unwrap();
    }
}

/// One statement; not those before it, of which some cannot be read.
fn parsed(broker: &RunningBroker, index: u64) -> Statement {
    let bytes = log::entry(&*broker.app().store, index).unwrap().unwrap();
    VerifiedStatement::parse(&bytes, &key(broker, Job::Statement))
        .unwrap()
        .into_statement()
}

#[tokio::test]
async fn of_two_bars_at_once_none_is_lost() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = started(&domain).await;
    let signer = broker.app().policy().whole().references.references()[0]
        .authority
        .clone();
    let mut client = Client::connect(broker.address()).await;
    for round in 0..8 {
        assert!(attest(&mut client, &mut node, round > 0).await.unwrap().allowed);
        let (one, two) = (
            order("revoke", "reference", "golden"),
            order("revoke", "signer", &signer),
        );
        tokio::join!(commanded(&domain, &one), commanded(&domain, &two));
        let (barred, ..) = bars::read(&*broker.app().store).unwrap();
        assert_eq!(barred, [Bar::Reference("golden".into()), Bar::Signer(signer.clone())]);
        let (one, two) = (order("lift", "reference", "golden"), order("lift", "signer", &signer));
        tokio::join!(commanded(&domain, &one), commanded(&domain, &two));
        assert_eq!(
            bars::read(&*broker.app().store).unwrap().0,
            [],
            "nor one that is lifted"
        );
    }
    broker.shutdown().await.unwrap();
}
