//! What a policy would take away and give is known before it is published: recent decisions of a real broker about real
//! software TPMs, made again under what is staged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use swtpm_tests::boots::Boot;
use swtpm_tests::domain::{Domain, unlocked};
use swtpm_tests::node::Node;
use touchstone_attest::agent::release::KeyWanted;
use touchstone_attest::{clock, local};
use touchstone_keybroker::admin::SOCKET;
use touchstone_keybroker::key_files::write_new;
use touchstone_keybroker::record::DecisionRecord;
use touchstone_keybroker::redecide::{Compared, Comparison, compare};
use touchstone_keybroker::service::RunningBroker;
use touchstone_policies::preview::preview;
use touchstone_policies::{LoadOptions, PolicyError, PolicySet, author};

const PERMIT: &str = "permit (principal is Node, action, resource) when { context.status == \"affirming\" };\n";

/// Two nodes that have attested more than once, one of which holds a key.
async fn run() -> (Domain, RunningBroker) {
    let domain = Domain::new(&[("node-1", Boot::GOOD), ("node-2", Boot::CMDLINE_CHANGED)]);
    let file = domain.path("passphrase");
    write_new(&file, b"correct horse battery staple\n").unwrap();
    let domain = domain.with_config(&format!("[keys]\nkek = {{ passphrase_file = {file:?} }}\n"));
    let broker = domain.broker().await;
    domain.put_key("db/main", "keys", b"a secret of sixteen").await;
    let mut clients = [domain.client(), domain.client()];
    let (mut first, mut second) = (
        Node::start(&Boot::GOOD).await,
        Node::start(&Boot::CMDLINE_CHANGED).await,
    );
    for _ in 0..2 {
        assert!(second.attest(&mut clients[1]).await.unwrap().allowed);
        assert!(first.attest(&mut clients[0]).await.unwrap().allowed);
    }
    let granted = first.attest(&mut clients[0]).await.unwrap().authorization.unwrap();
    let wanted = KeyWanted {
        key: "db/main".into(),
        version: None,
        resource: "keys".into(),
    };
    first.desk(&domain, granted).fetch(&wanted).await.unwrap();
    (domain, broker)
}

/// The records of the latest decisions, as an operator fetches them.
async fn records(domain: &Domain) -> Vec<DecisionRecord> {
    let socket = domain.path("data").join(SOCKET);
    let get = async |path: String| {
        let (status, body) = local::request(&socket, "GET", &path, Vec::new()).await.unwrap();
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        body
    };
    let listed: serde_json::Value = serde_json::from_slice(&get("/records/10000".into()).await).unwrap();
    let mut records = Vec::new();
    for index in listed["indexes"].as_array().unwrap() {
        records.push(DecisionRecord::decode(&get(format!("/record/{index}")).await).unwrap());
    }
    records
}

/// What would come of these policies, staged.
fn staged(domain: &Domain, policy: &str) -> PolicySet {
    std::fs::write(domain.path("policy").join("staged/policy.cedar"), policy).unwrap();
    looked_at(domain).unwrap()
}

fn looked_at(domain: &Domain) -> Result<PolicySet, PolicyError> {
    let repo = domain.path("policy");
    unlocked(|| preview(&repo, LoadOptions::default(), clock::wall_seconds()))
}

fn told(compared: &[Compared]) -> Vec<(&str, Vec<&str>, Vec<&str>)> {
    compared
        .iter()
        .map(|one| {
            (
                one.subject.as_str(),
                one.lost.iter().map(String::as_str).collect(),
                one.gained.iter().map(String::as_str).collect(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_would_lose_and_gain_is_known_before_it_is_published() {
    let (domain, broker) = run().await;
    let in_force = domain.trust().await.policy;
    let records = records(&domain).await;
    // The latest of each: two nodes and one key, however often they attested.
    assert_eq!(records.len(), 3);
    let now = clock::wall_seconds();
    let against = |new: &PolicySet| -> Comparison { compare(&records, &in_force, new, now) };

    let same = against(&staged(&domain, PERMIT));
    assert_eq!((same.losing.len(), same.gaining.len(), same.undecided.len()), (0, 0, 0));
    assert_eq!(same.unchanged.len(), 3);
    assert_eq!(
        same.unchanged.iter().filter(|one| one.kept == ["key db/main"]).count(),
        1
    );

    let tighter = format!(
        "{PERMIT}@id(\"second-runs-nothing\") forbid (principal == Node::\"node-2\", action == Action::\"execute\", resource);\n\
         @id(\"key-withdrawn\") forbid (principal, action, resource == Key::\"db/main\");\n"
    );
    let tighter = staged(&domain, &tighter);
    let comparison = against(&tighter);
    assert_eq!(
        told(&comparison.losing),
        [
            ("node-1", vec!["key db/main"], vec![]),
            ("node-2", vec!["execute:workloads"], vec![]),
        ]
    );
    assert_eq!(comparison.losing[0].decision, "key-release");
    assert_eq!(comparison.unchanged.len(), 1);
    for (one, id) in comparison.losing.iter().zip(["key-withdrawn", "second-runs-nothing"]) {
        let reason = one.reasons.iter().find(|reason| reason.found.contains(id));
        assert_eq!(reason.unwrap().code, "denied-by-domain-policy", "{one:?}");
    }
    assert!(comparison.losing[1].kept.contains(&"release:keys".to_owned()));

    // The other way round the same rights are gained.
    let wider = compare(&records, &tighter, &in_force, now);
    assert_eq!((wider.losing.len(), wider.gaining.len()), (0, 2));
    assert_eq!(wider.gaining[1].gained, ["execute:workloads"]);

    // A node that leaves the inventory loses everything; what the other holds is untouched.
    std::fs::write(domain.path("policy").join("staged/policy.cedar"), PERMIT).unwrap();
    unlocked(|| author::withdraw(&domain.path("policy"), "nodes/node-2.json")).unwrap();
    let gone = against(&looked_at(&domain).unwrap());
    assert_eq!(gone.losing.len(), 1);
    assert_eq!(
        (gone.losing[0].subject.as_str(), gone.losing[0].kept.len()),
        ("node-2", 0)
    );
    assert!(!gone.losing[0].reasons.is_empty());

    // Nothing of all this came into force.
    assert_eq!(broker.app().policy().digest, in_force.digest);
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_not_what_was_signed_tells_nothing() {
    let (domain, broker) = run().await;
    let in_force = domain.trust().await.policy;
    let mut records = records(&domain).await;
    let foreign = records[0].statement.len() - 1;
    records[0].statement[foreign] ^= 1;
    let middle = records[1].inputs.len() / 2;
    records[1].inputs[middle] ^= 1;
    let comparison = compare(&records, &in_force, &staged(&domain, PERMIT), clock::wall_seconds());
    assert_eq!((comparison.undecided.len(), comparison.unchanged.len()), (2, 1));
    assert_eq!(comparison.undecided[0].index, records[0].index);
    broker.shutdown().await.unwrap();
}
