//! What policies are told of the lineage when a key is released: the same as where an authorization is issued, and the
//! release itself counts. Machines and workloads in software.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;
use crate::release::{Ask, codes, domain, inputs_of, machine, put, record_of, request, send};
use crate::workloads::{asked, enforcer, issued, report, stage_enforcer, token, used, wanted};

use common::client::{Client, Problem};
use common::tpm::{SoftKey, SoftNode};
use common::{Domain, attest, eventually, key, ledger};
use touchstone_authorization::Status;
use touchstone_authorization::token::StatusIndex;
use touchstone_evidence::message::{ReleaseAnswer, WorkloadRequest};
use touchstone_keybroker::decision::DecisionError;
use touchstone_keybroker::release::inputs::{ReleaseInputs, ReleaseInputsError};
use touchstone_keybroker::rows;
use touchstone_keybroker::service::RunningBroker;
use touchstone_keybroker::workload::ancestry::Kept;
use touchstone_keybroker::workload::record::{MAX_TREE_SCOPES, Tree, WorkloadRecord};
use touchstone_ledger::statement::{Kind, Outcome, VerifiedStatement};
use touchstone_policies::Job;
use touchstone_store::Batch;

const SCOPES: &str = r#"["delegate:keys", "release:keys", "delegate:tools/scan", "execute:tools/scan", "delegate:tools/deploy", "execute:tools/deploy"]"#;

const ALL: &str = r#"@id("all") permit (principal, action, resource);"#;

/// A node with a receive key, and a workload of it with a key in the TPM that may fetch keys.
struct World {
    domain: Domain,
    broker: RunningBroker,
    client: Client,
    node: SoftNode,
    held: Vec<u8>,
    agent_key: SoftKey,
    agent: Vec<u8>,
}

async fn world(policy: &str) -> World {
    let mut node = machine();
    let domain = domain(
        &[("node-1", &node)],
        &[("scopes", SCOPES), ("software_keys", "\"short-lived\"")],
    );
    std::fs::write(domain.path("policy/staged/policy.cedar"), format!("{ALL}\n{policy}")).unwrap();
    stage_enforcer(&domain);
    domain.publish();
    let broker = domain.start().await;
    put(&domain, "name=db/main").await;
    let mut client = Client::connect(broker.address()).await;
    let held = attest(&mut client, &mut node, false).await.unwrap();
    assert_eq!(held.reasons, []);
    let mut w = World {
        domain,
        broker,
        client,
        node,
        held: held.authorization.unwrap(),
        agent_key: SoftKey::new(),
        agent: Vec::new(),
    };
    let agent = WorkloadRequest {
        key_kind: "tpm".into(),
        scopes: [
            "release:keys",
            "execute:tools/scan",
            "execute:tools/deploy",
            "delegate:keys",
        ]
        .map(str::to_owned)
        .into(),
        ..wanted("agent", &w.agent_key)
    };
    w.agent = below_node(&mut w, agent).await;
    w
}

/// What the node is issued for `wanted`.
async fn below_node(w: &mut World, wanted: WorkloadRequest) -> Vec<u8> {
    let request = asked(&w.client, &w.node.session, &w.held, wanted);
    let answer = crate::workloads::send(&mut w.client, &request).await.unwrap();
    issued(&w.broker, &answer);
    answer.authorization.unwrap()
}

impl World {
    async fn by_agent(&mut self) -> ReleaseAnswer {
        self.try_by_agent().await.unwrap()
    }

    async fn try_by_agent(&mut self) -> Result<ReleaseAnswer, Problem> {
        let body = request(&self.client, &self.agent_key, &self.agent, &Ask::default());
        send(&mut self.client, body).await
    }

    async fn by_node(&mut self) -> ReleaseAnswer {
        let body = request(&self.client, &self.node.session, &self.held, &Ask::default());
        send(&mut self.client, body).await.unwrap()
    }

    async fn uses(&mut self, scope: &str) {
        let used = used(&self.agent, scope).encode_signed(&enforcer(7)).unwrap();
        assert_eq!(report(&mut self.client, &[used]).await.unwrap(), [None]);
    }

    fn root(&self) -> StatusIndex {
        token(&self.broker, &self.held).status
    }

    fn agents(&self) -> StatusIndex {
        token(&self.broker, &self.agent).status
    }

    fn tree(&self) -> Tree {
        let row = self.broker.app().store.get(&rows::tree(&self.root()).unwrap()).unwrap();
        Tree::decode(&row.unwrap().value).unwrap()
    }

    fn write(&self, key: touchstone_store::Key, value: Option<Vec<u8>>) {
        let mut batch = Batch::new();
        match value {
            None => batch.delete(key),
            Some(value) => batch.put(key, value),
        };
        self.broker.app().store.commit(batch).unwrap();
    }
}

/// The decision made again from its record and the policy alone, byte for byte.
fn replays(broker: &RunningBroker, answer: &ReleaseAnswer) {
    let (policy, statement_key) = (broker.app().policy(), key(broker, Job::Statement));
    let replayed = record_of(broker, answer).replay(&policy, &statement_key).unwrap();
    let recorded = VerifiedStatement::parse(&answer.statement, &statement_key).unwrap();
    assert_eq!(
        replayed.statement.payload_bytes().unwrap(),
        recorded.into_statement().payload_bytes().unwrap()
    );
    assert_eq!(replayed.allowed(), answer.sealed.is_some());
}

fn forbidden_by(answer: &ReleaseAnswer, id: &str) {
    assert!(answer.sealed.is_none(), "{id}");
    assert_eq!(codes(answer), ["denied-by-domain-policy"], "{id}");
    assert!(answer.reasons[0].found.contains(id), "{:?}", answer.reasons);
}

const THREE: &str = r#"
@id("three-releases") forbid (principal, action == Action::"release", resource in KeyClass::"keys")
when { context.lineage.uses_of_this >= 3 };
"#;

/// Three below one node, whoever of it asks: what the broker released itself is what it counts.
#[tokio::test]
async fn a_limit_that_is_reached_denies_the_release() {
    let mut w = world(THREE).await;
    let mut answers = vec![w.by_agent().await, w.by_node().await];
    // What was denied is no use.
    let body = request(
        &w.client,
        &w.agent_key,
        &w.agent,
        &Ask {
            key: "nothing",
            ..Ask::default()
        },
    );
    let unknown = send(&mut w.client, body).await.unwrap();
    assert_eq!(codes(&unknown), ["key-unknown"]);
    assert_eq!(w.tree().used, [("release:keys".to_owned(), 2)].into());
    answers.push(unknown);
    let third = w.by_agent().await;
    assert!(third.sealed.is_some(), "{:?}", codes(&third));
    answers.push(third);
    for late in [w.by_agent().await, w.by_node().await] {
        forbidden_by(&late, "three-releases");
        answers.push(late);
    }
    assert_eq!(w.tree().uses(), 3);
    for answer in &answers {
        replays(&w.broker, answer);
    }
    w.broker.shutdown().await.unwrap();
}

/// The deployment's key comes after a scan and not after the deployment, as listed enforcers report them.
#[tokio::test]
async fn a_key_can_demand_what_came_before_and_what_did_not() {
    let policy = r#"
@id("scan-first") forbid (principal is Workload, action == Action::"release", resource == Key::"db/main")
unless { context.lineage.used.contains("execute:tools/scan") };
@id("not-after-deploy") forbid (principal, action == Action::"release", resource == Key::"db/main")
when { context.lineage.uses_of.hasTag("execute:tools/deploy") };
"#;
    let mut w = world(policy).await;
    let early = w.by_agent().await;
    forbidden_by(&early, "scan-first");
    w.uses("execute:tools/scan").await;
    let released = w.by_agent().await;
    assert!(released.sealed.is_some(), "{:?}", codes(&released));
    w.uses("execute:tools/deploy").await;
    let late = w.by_agent().await;
    forbidden_by(&late, "not-after-deploy");
    // The node's own request is about the same tree.
    let by_node = w.by_node().await;
    forbidden_by(&by_node, "not-after-deploy");
    for answer in [&early, &released, &late, &by_node] {
        replays(&w.broker, answer);
    }
    w.broker.shutdown().await.unwrap();
}

/// Depth, who stands above, siblings, what was issued and what keeps the key: as they are, not as they are by default.
#[tokio::test]
async fn the_facts_of_a_release_are_those_of_the_issue() {
    let policy = r#"
@id("as-it-is") forbid (principal is Workload, action == Action::"release", resource == Key::"db/main")
unless {
    context.lineage.depth == 1 && context.lineage.parents.contains("node-1")
    && !context.lineage.parents.contains("agent@node-1")
    && context.lineage.issued.contains("execute:tools/deploy")
    && context.lineage.key_kind == "tpm"
};
@id("alone") forbid (principal is Workload, action == Action::"release", resource == Key::"db/main")
when { context.lineage.children > 0 };
"#;
    let mut w = world(policy).await;
    let alone = w.by_agent().await;
    assert!(alone.sealed.is_some(), "{:?}", alone.reasons);
    let sibling = WorkloadRequest {
        key_kind: "tpm".into(),
        scopes: vec!["execute:tools/scan".into()],
        delegation: None,
        ..wanted("sibling", &SoftKey::new())
    };
    below_node(&mut w, sibling).await;
    let beside = w.by_agent().await;
    forbidden_by(&beside, "alone");
    for answer in [&alone, &beside] {
        replays(&w.broker, answer);
    }
    w.broker.shutdown().await.unwrap();
}

/// Decided at once on the same number, and committed one after the other: the second finds the tree changed.
#[tokio::test]
async fn of_releases_at_once_no_more_pass_than_a_limit_allows() {
    let policy = r#"
@id("one-release") forbid (principal, action == Action::"release", resource in KeyClass::"keys")
when { context.lineage.uses_of_this >= 1 };
"#;
    let w = world(policy).await;
    let mut racing = Vec::new();
    for n in 0..8 {
        let mut client = Client::connect(w.broker.address()).await;
        let body = match n % 2 {
            0 => request(&client, &w.agent_key, &w.agent, &Ask::default()),
            _ => request(&client, &w.node.session, &w.held, &Ask::default()),
        };
        racing.push(tokio::spawn(async move { send(&mut client, body).await.unwrap() }));
    }
    let mut released = 0;
    for racer in racing {
        let answer = racer.await.unwrap();
        released += usize::from(answer.sealed.is_some());
        if answer.sealed.is_none() {
            forbidden_by(&answer, "one-release");
        }
        replays(&w.broker, &answer);
    }
    assert_eq!(released, 1);
    assert_eq!(w.tree().uses(), 1);
    let statements = ledger(&w.broker).await;
    let given = statements
        .iter()
        .filter(|s| (s.kind, s.outcome) == (Kind::KeyRelease, Outcome::Allow));
    assert_eq!(given.count(), 1);
    w.broker.shutdown().await.unwrap();
}

/// Where nothing limits them all of them are released, and each is counted.
#[tokio::test]
async fn releases_at_once_are_all_given_and_all_counted() {
    let w = world("").await;
    let mut racing = Vec::new();
    for _ in 0..10 {
        let mut client = Client::connect(w.broker.address()).await;
        let body = request(&client, &w.agent_key, &w.agent, &Ask::default());
        racing.push(tokio::spawn(async move { send(&mut client, body).await.unwrap() }));
    }
    for racer in racing {
        let answer = racer.await.unwrap();
        assert!(answer.sealed.is_some(), "{:?}", answer.reasons);
    }
    assert_eq!(w.tree().used, [("release:keys".to_owned(), 10)].into());
    w.broker.shutdown().await.unwrap();
}

/// Whoever fetches keys without a pause keeps nothing of what it used from being counted.
#[tokio::test]
async fn uses_are_counted_however_many_keys_are_released_meanwhile() {
    let mut w = world("").await;
    let mut fetching = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(w.broker.address()).await;
        let own: Vec<_> = (0..8)
            .map(|_| request(&client, &w.agent_key, &w.agent, &Ask::default()))
            .collect();
        fetching.push(tokio::spawn(async move {
            for body in own {
                let answer = send(&mut client, body).await.unwrap();
                assert!(answer.sealed.is_some(), "{:?}", answer.reasons);
            }
        }));
    }
    for _ in 0..6 {
        w.uses("execute:tools/scan").await;
    }
    for fetching in fetching {
        fetching.await.unwrap();
    }
    let counted = [("execute:tools/scan", 6), ("release:keys", 24)].map(|(right, uses)| (right.to_owned(), uses));
    assert_eq!(w.tree().used, counted.into());
    w.broker.shutdown().await.unwrap();
}

/// A release that was decided, and a use that came before its commit: it is decided again.
#[tokio::test]
async fn a_use_that_is_reported_while_a_release_is_under_way_counts_against_it() {
    let policy = r#"
@id("before-any-scan") forbid (principal, action == Action::"release", resource in KeyClass::"keys")
when { context.lineage.used.contains("execute:tools/scan") };
"#;
    let mut w = world(policy).await;
    let app = w.broker.app().clone();
    // Something goes out that is not on record yet, so releases wait.
    let other = app.trust.withdraw(&[], app.clock.now_ms()).unwrap();
    let mut client = Client::connect(w.broker.address()).await;
    let body = request(&client, &w.node.session, &w.held, &Ask::default());
    let heard = || touchstone_keybroker::standing::shown(w.broker.app())["nodes"][0]["heard_ms"].as_u64();
    let before = heard();
    let start = app.clock.now_ms();
    eventually("another millisecond", || app.clock.now_ms() > start).await;
    let asking = tokio::spawn(async move { send(&mut client, body).await.unwrap() });
    eventually("the request", || heard() != before).await;
    w.uses("execute:tools/scan").await;
    assert!(!asking.is_finished(), "it waits");
    app.trust.durable(other);
    // Anything that is handed in has it looked at again.
    put(&w.domain, "name=another").await;
    let answer = asking.await.unwrap();
    forbidden_by(&answer, "before-any-scan");
    replays(&w.broker, &answer);
    w.broker.shutdown().await.unwrap();
}

/// What the broker keeps of who asks is looked up: where that is gone, cannot be read or is another's, no key leaves.
#[tokio::test]
async fn a_parent_that_is_missing_or_unreadable_denies_a_release() {
    let mut w = world("").await;
    let row = rows::workload(&w.agents()).unwrap();
    let good = w.broker.app().store.get(&row).unwrap().unwrap().value;
    let other = |change: fn(&mut WorkloadRecord)| {
        let mut record = WorkloadRecord::decode(&good).unwrap();
        change(&mut record);
        Some(record.encode())
    };
    for (name, value, expected) in [
        ("missing", None, "workload-parent-missing"),
        ("unreadable", Some(vec![0xff]), "workload-parent-unreadable"),
        (
            "cut short",
            Some(good[..good.len() - 1].to_vec()),
            "workload-parent-unreadable",
        ),
        ("of another key", other(|r| r.key = [7; 32]), "workload-parent-other"),
        (
            "of another name",
            other(|r| r.subject = "db@node-1".into()),
            "workload-parent-other",
        ),
        (
            "of another node",
            other(|r| r.node = "node-2".into()),
            "workload-parent-other",
        ),
        ("of another depth", other(|r| r.depth = 7), "workload-parent-other"),
        (
            "a loop",
            other(|r| (r.depth, r.parent) = (2, r.status)),
            "workload-parent-other",
        ),
        (
            "below another entry than the node's",
            other(|r| r.parent.index += 77),
            "workload-parent-other",
        ),
    ] {
        w.write(row.clone(), value);
        let answer = w.by_agent().await;
        assert_eq!(codes(&answer), [expected], "{name}");
        replays(&w.broker, &answer);
        w.write(row.clone(), Some(good.clone()));
    }
    // What came before cannot be read: nothing is decided, on record or otherwise.
    for row in [rows::tree(&w.root()).unwrap(), rows::branch(&w.root()).unwrap()] {
        let good = w.broker.app().store.get(&row).unwrap().unwrap().value;
        w.write(row.clone(), Some(vec![0xff]));
        let before = ledger(&w.broker).await;
        let releases =
            |all: &[touchstone_ledger::statement::Statement]| all.iter().filter(|s| s.kind == Kind::KeyRelease).count();
        assert!(w.try_by_agent().await.is_err());
        assert_eq!(releases(&ledger(&w.broker).await), releases(&before));
        w.write(row, Some(good));
    }
    let answer = w.by_agent().await;
    assert!(answer.sealed.is_some(), "{:?}", answer.reasons);
    w.broker.shutdown().await.unwrap();
}

/// A policy that asks how often would be told too little, so there is no release that is not counted.
#[tokio::test]
async fn what_could_be_released_without_being_counted_is_not_released() {
    let mut w = world("").await;
    let full = |first: &str| {
        let others = (1..MAX_TREE_SCOPES).map(|n| (format!("execute:other-{n}"), 1));
        Tree {
            used: others.chain([(first.to_owned(), 1)]).collect(),
            ..Tree::default()
        }
    };
    let row = rows::tree(&w.root()).unwrap();
    w.write(row.clone(), Some(full("execute:other").encode()));
    for answer in [w.by_agent().await, w.by_node().await] {
        assert_eq!(codes(&answer), ["workload-tree-full"]);
        replays(&w.broker, &answer);
    }
    w.write(row, Some(full("release:keys").encode()));
    let answer = w.by_agent().await;
    assert!(answer.sealed.is_some(), "{:?}", answer.reasons);
    assert_eq!(w.tree().used.get("release:keys"), Some(&2));
    replays(&w.broker, &answer);
    w.broker.shutdown().await.unwrap();
}

/// The lineage is part of what is recorded: with another one the decision is another one.
#[tokio::test]
async fn a_record_with_another_lineage_gives_another_decision_or_none() {
    type Change = fn(&mut ReleaseInputs);
    let mut w = world(THREE).await;
    let answer = w.by_agent().await;
    let policy = w.broker.app().policy();
    let record = record_of(&w.broker, &answer);
    let good = inputs_of(&record);
    assert_eq!(good.again(&policy).unwrap().reasons, []);
    assert_eq!(good.record().0, record.inputs);
    let rows: [(&str, Change, &str); 6] = [
        (
            "three uses before",
            |i| {
                let (tree, _) = i.ancestry.as_mut().unwrap().tree.as_mut().unwrap();
                tree.count("release:keys".into(), 3);
            },
            "denied-by-domain-policy",
        ),
        (
            "its own entry revoked",
            |i| i.ancestry.as_mut().unwrap().above[0].seen.as_mut().unwrap().status = Some(Status::Invalid),
            "workload-parent-fallen",
        ),
        (
            "the node's entry suspended",
            |i| i.ancestry.as_mut().unwrap().node_seen.as_mut().unwrap().status = Some(Status::Suspended),
            "workload-parent-fallen",
        ),
        (
            "no list of the node's entry",
            |i| i.ancestry.as_mut().unwrap().node_seen = None,
            "workload-parent-fallen",
        ),
        (
            "nothing above",
            |i| i.ancestry.as_mut().unwrap().above.clear(),
            "workload-parent-other",
        ),
        (
            "nothing kept of it",
            |i| i.ancestry.as_mut().unwrap().above[0].kept = (Kept::Missing, 0),
            "workload-parent-missing",
        ),
    ];
    for (name, change, code) in rows {
        let mut altered = good.clone();
        change(&mut altered);
        let again = altered.again(&policy).unwrap();
        assert!(
            again.reasons.iter().any(|reason| reason.code == code),
            "{name}: {:?}",
            again.reasons
        );
        let (bytes, parts) = altered.record();
        let part = |digest: &[u8; 32]| {
            parts
                .iter()
                .find(|(named, _)| named == digest)
                .map(|(_, part)| part.clone())
        };
        assert_eq!(ReleaseInputs::decode(&bytes, part).unwrap(), altered, "{name}");
    }
    for cut in 0..record.inputs.len() {
        assert!(
            ReleaseInputs::decode(&record.inputs[..cut], |_| None).is_err(),
            "cut at {cut}"
        );
    }

    // As it was recorded before policies were told: read, and not decided again under these rules.
    let mut earlier = ReleaseInputs {
        ancestry: None,
        ..good.clone()
    };
    earlier.setting.semantics = "touchstone-semantics/6".into();
    let (bytes, parts) = earlier.record();
    let read = ReleaseInputs::decode(&bytes, |_| Some(parts[0].1.clone())).unwrap();
    assert_eq!(read, earlier);
    assert!(matches!(
        read.again(&policy),
        Err(ReleaseInputsError::Decision(DecisionError::Semantics { .. }))
    ));
    let relabelled = ReleaseInputs {
        setting: good.setting.clone(),
        ..earlier
    };
    assert_eq!(relabelled.again(&policy), Err(ReleaseInputsError::NoLineage));
    w.broker.shutdown().await.unwrap();
}
