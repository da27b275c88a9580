//! Who a machine is: one name has one machine, also in a race; out of service means out at once; and whoever nobody has
//! listed gets in only where signed settings say so, as what they say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use std::path::Path;

use swtpm_tests::boots::{self, Boot, KeyForm};
use swtpm_tests::domain::{Domain, Founding, Post, decided, eventually, recorded, rights, status, unlocked};
use swtpm_tests::line::{Line, Refused};
use swtpm_tests::machine::{Machine, Plan, falsified, hello};
use swtpm_tests::node::Node;
use swtpm_tests::observe::PATIENCE;
use touchstone_attest::local;
use touchstone_authorization::{RefusalCode, Status};
use touchstone_evidence::collection::Label;
use touchstone_evidence::message::{Answer, Identity, Submission};
use touchstone_keybroker::admin::SOCKET;
use touchstone_keybroker::record::DecisionRecord;
use touchstone_keybroker::rows;
use touchstone_keybroker::service::RunningBroker;
use touchstone_ledger::statement::Kind;
use touchstone_policies::settings::{Assignment, settings_set};
use touchstone_policies::{Job, NodeIdentity, author};
use touchstone_verifier::appraisal::ClaimValue;

const GUARD: &str = "guard-1";
/// Machines in the race for one name.
const MACHINES: usize = 25;

async fn knock(guard: &Post, node: &Node, authorization: &[u8]) -> Result<(), Vec<RefusalCode>> {
    let challenge = guard.challenge();
    let proof = node.prove(authorization, GUARD, &challenge).await;
    guard.decide(authorization, &proof, &challenge).map(|_| ())
}

/// An operator's command; the status and the code of a refusal.
async fn command(domain: &Domain, path: &str, node: &str, reason: &str) -> (u16, String) {
    let socket = domain.path("data").join(SOCKET);
    let body = serde_json::json!({ "node": node, "reason": reason }).to_string();
    let (status, answer) = local::request(&socket, "POST", path, body.into_bytes()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
    (status, answer["code"].as_str().unwrap_or_default().to_owned())
}

fn identity(boot: &Boot) -> NodeIdentity {
    NodeIdentity::EkCert(boot.ek_certificate(KeyForm::Rsa))
}

/// A domain with these nodes, and what `stage` adds before it is published.
fn domain(nodes: &[(&str, Boot)], stage: &dyn Fn(&Path)) -> Domain {
    let nodes: Vec<_> = nodes.iter().map(|(name, boot)| (*name, identity(boot))).collect();
    Domain::found(&Founding {
        anchors: &["swtpm-localca-rootca-cert.pem", "issuercert.pem"].map(|file| boots::boots().join("ca").join(file)),
        nodes: &nodes,
        golden: &recorded(&Boot::GOOD),
        settings: &[],
        limits: &[("refusals_per_second", 1_000_000)],
        stage,
    })
}

/// The lines and answers of a race: every machine says hello `tries` times before anybody has enrolled, makes its
/// evidence, and then all of it is submitted at once.
async fn race(domain: &Domain, machines: &mut [Machine], tries: usize) -> Vec<(usize, Result<Answer, Refused>)> {
    let mut waiting: Vec<(usize, Line, Submission)> = Vec::new();
    for (n, machine) in machines.iter_mut().enumerate() {
        for _ in 0..tries {
            let mut line = domain.line().await;
            let challenge = line.hello(&machine.hello(false)).await.unwrap();
            assert!(challenge.credential.is_some(), "nobody has enrolled");
            let plan = Plan::honest(&challenge, line.exporter(&challenge.nonce));
            waiting.push((n, line, machine.evidence(plan)));
        }
    }
    let mut submitting = tokio::task::JoinSet::new();
    for (n, mut line, evidence) in waiting {
        submitting.spawn(async move { (n, line.submit(&evidence).await) });
    }
    submitting.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_race_of_a_hundred_for_one_name_leaves_one_identity() {
    // Machines that one entry lists, and tries of each: as one name that was given to a whole batch by mistake.
    let mut machines: Vec<Machine> = (0..MACHINES).map(|_| Machine::bare()).collect();
    let ids = machines.iter().map(|machine| {
        let public = touchstone_verifier::tpm::Public::parse(machine.ek.public()).unwrap();
        hex::encode(public.subject_key().spki_sha256())
    });
    let entry = touchstone_policies::inventory_file::NodeFile {
        name: "node-1".into(),
        region: "eu-1".into(),
        ek: ids.collect(),
        ..Default::default()
    };
    let domain = domain(&[("node-9", Boot::GOOD)], &|repo| {
        std::fs::write(repo.join("staged/nodes/node-1.json"), entry.to_json()).unwrap();
    });
    let broker = domain.broker().await;
    let answers = race(&domain, &mut machines, 100 / MACHINES).await;
    assert_eq!(answers.len(), 100);
    let winners: std::collections::BTreeSet<usize> = answers
        .iter()
        .filter(|(_, answer)| answer.as_ref().is_ok_and(|answer| answer.allowed))
        .map(|(n, _)| *n)
        .collect();
    assert_eq!(winners.len(), 1, "one machine has the name");
    let winner = *winners.first().unwrap();
    for (n, answer) in &answers {
        match answer {
            // Its own older evidence that comes after newer is no good, and is its own.
            _ if *n == winner => {}
            Ok(answer) => panic!("machine {n} was heard: {:?}", answer.reasons),
            Err(refused) => assert_eq!((refused.status, refused.code.as_str()), (409, "enrolment-conflict")),
        }
    }
    // In the store and in the ledger too: one identity.
    let store = &broker.app().store;
    let rows = |namespace: touchstone_store::Namespace| store.range(&namespace.prefix(), None, 200).unwrap().len();
    assert_eq!((rows(rows::NODE), rows(rows::EK), rows(rows::AK)), (1, 1, 1));
    let statements = statements(&domain, &broker);
    assert_eq!(statements.iter().filter(|kind| **kind == Kind::Enrolment).count(), 1);

    // Those who lost are told so at once from now on.
    let loser = (winner + 1) % MACHINES;
    let refused = domain
        .line()
        .await
        .hello(&machines[loser].hello(false))
        .await
        .unwrap_err();
    assert_eq!(refused.code, "enrolment-conflict");
    broker.shutdown().await.unwrap();
}

/// The kinds of every statement in the ledger.
fn statements(domain: &Domain, broker: &RunningBroker) -> Vec<Kind> {
    let (store, size) = (&broker.app().store, broker.app().head().size);
    let key = domain.key(Job::Statement);
    let kind = |index| {
        let entry = touchstone_keybroker::log::entry(&**store, index).unwrap().unwrap();
        let verified = touchstone_ledger::statement::VerifiedStatement::parse(&entry, &key).unwrap();
        verified.into_statement().kind
    };
    (0..size).map(kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decommissioned_node_is_out_at_once_and_stays_out() {
    let domain = domain(&[("node-1", Boot::GOOD), ("node-2", Boot::CMDLINE_CHANGED)], &|_| ());
    let broker = domain.broker().await;
    let guard = domain.guard(GUARD).await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let authorization = node.attest(&mut client).await.unwrap().authorization.unwrap();
    guard.reaches(rights(&broker, "node-1").epoch).await;
    assert_eq!(knock(&guard, &node, &authorization).await, Ok(()));
    let before = rights(&broker, "node-1");
    for (row, name, reason) in [
        ("two slashes", "a/b/c", "test"),
        ("a path", "../node-1", "test"),
        ("two lines", "node-1\nnode-2", "test"),
        ("a terminal's command", "\u{1b}[2Jnode-1", "test"),
        ("a long name", &"n".repeat(3_000), "test"),
        ("no reason", "node-1", ""),
        ("a reason of two lines", "node-1", "a\nb"),
    ] {
        assert_eq!(
            command(&domain, "/decommission", name, reason).await,
            (400, "request-parameter-malformed".to_owned()),
            "{row}"
        );
    }
    let long = "n".repeat(100 * 1024);
    assert_eq!(command(&domain, "/decommission", &long, "test").await.0, 413);
    assert_eq!(rights(&broker, "node-1"), before);

    assert_eq!(command(&domain, "/decommission", "node-1", "sold").await.0, 200);
    let after = rights(&broker, "node-1");
    assert!(after.epoch > before.epoch && after.status == Some(Status::Invalid));
    guard.reaches(after.epoch).await;
    let closed = Err(vec![RefusalCode::AuthorizationRevoked]);
    assert_eq!(knock(&guard, &node, &authorization).await, closed);
    // Good evidence brings nothing back, whichever way it says hello.
    let code = |error: touchstone_attest::agent::round::RoundError| error.to_string();
    for _ in 0..2 {
        let refused = code(node.attest(&mut client).await.unwrap_err());
        assert!(refused.contains("node-decommissioned"), "{refused}");
        node.forget();
    }
    // One that has never enrolled is kept out as well.
    assert_eq!(
        command(&domain, "/decommission", "node-2", "never delivered").await.0,
        200
    );
    let mut other = Node::start(&Boot::CMDLINE_CHANGED).await;
    let refused = code(other.attest(&mut domain.client()).await.unwrap_err());
    assert!(refused.contains("node-decommissioned"), "{refused}");
    assert_eq!(rights(&broker, "node-2").record, None);

    // Until it is taken back, also by a broker that was started anew.
    broker.shutdown().await.unwrap();
    let broker = domain.broker().await;
    let refused = code(node.attest(&mut domain.client()).await.unwrap_err());
    assert!(refused.contains("node-decommissioned"), "{refused}");
    let missing = (404, "request-not-found".to_owned());
    assert_eq!(command(&domain, "/reinstate", "node-9", "never").await, missing);
    assert_eq!(command(&domain, "/reinstate", "node-1", "the wrong one").await.0, 200);
    let back = node.attest(&mut domain.client()).await.unwrap();
    let new = domain.check(&back).authorization.unwrap();
    assert_ne!(new.contents().status, before.record.unwrap().status);
    assert!(
        knock(&guard, &node, &authorization).await.is_err(),
        "the old one stays revoked"
    );
    assert_eq!(
        statements(&domain, &broker)
            .iter()
            .filter(|kind| **kind == Kind::Reinstatement)
            .count(),
        1
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_taken_out_of_the_inventory_is_out_when_that_comes_into_force() {
    let domain = domain(&[("node-1", Boot::GOOD), ("node-2", Boot::CMDLINE_CHANGED)], &|_| ());
    let broker = domain.broker().await;
    let guard = domain.guard(GUARD).await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let (mut other, mut others_client) = (Node::start(&Boot::CMDLINE_CHANGED).await, domain.client());
    let authorization = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let others = other.attest(&mut others_client).await.unwrap().authorization.unwrap();
    let place = rights(&broker, "node-1").record.unwrap().status;
    guard.reaches(rights(&broker, "node-2").epoch).await;
    assert_eq!(knock(&guard, &node, &authorization).await, Ok(()));
    unlocked(|| author::node_remove(&domain.path("policy"), "node-1")).unwrap();
    domain.publish();
    eventually("the withdrawal", || status(&broker, place) == Some(Status::Invalid)).await;
    guard.reaches(rights(&broker, "node-1").epoch).await;
    let closed = Err(vec![RefusalCode::AuthorizationRevoked]);
    assert_eq!(knock(&guard, &node, &authorization).await, closed);
    assert_eq!(knock(&guard, &other, &others).await, Ok(()), "the others go on");
    let refused = node.attest(&mut client).await.unwrap_err().to_string();
    assert!(refused.contains("identity-unknown"), "{refused}");
    broker.shutdown().await.unwrap();
}

/// `enrolment.first_use`, from `from` seconds from now on for `life` seconds.
fn first_use(repo: &Path, (from, life): (i64, i64), most: u64) {
    let now = touchstone_attest::clock::wall_seconds();
    let time = |seconds: i64| jiff::Timestamp::from_second(seconds).unwrap().to_string();
    let setting = format!(
        "enrolment.first_use={{ from = \"{}\", until = \"{}\", region = \"eu-1\", roles = [\"edge\"], name_prefix = \"edge-\", most = {most} }}",
        time(now + from),
        time(now + from + life),
    );
    let change = Assignment::parse(&setting).unwrap();
    unlocked(|| settings_set(repo, std::slice::from_ref(&change))).unwrap();
}

const HOUR: (i64, i64) = (-60, 3_600);

/// The name that a machine gets.
fn name_of(machine: &Machine) -> String {
    let certificate = touchstone_verifier::x509::Certificate::from_der(machine.ek.certificate().unwrap()).unwrap();
    format!("edge-{}", &hex::encode(certificate.key().spki_sha256())[..32])
}

/// One round of a machine; the code of a refusal.
async fn attest(domain: &Domain, machine: &mut Machine) -> Result<Answer, Refused> {
    let mut line = domain.line().await;
    let challenge = line.hello(&machine.hello(false)).await?;
    let plan = Plan::honest(&challenge, line.exporter(&challenge.nonce));
    line.submit(&machine.evidence(plan)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_admits_whom_a_maker_vouches_for_as_what_is_signed_and_says_so() {
    let domain = domain(&[("node-1", Boot::GOOD)], &|repo| first_use(repo, HOUR, 1));
    let broker = domain.broker().await;
    let mut machine = Machine::start(&Boot::UKI);
    let name = name_of(&machine);
    let entries = decided(&broker);

    // What shows no maker's certificate is nobody: refused, and nothing is recorded of it.
    let mut line = domain.line().await;
    let without = async |line: &mut Line, machine: &mut Machine, change: Option<Vec<u8>>| {
        let challenge = line.hello(&machine.hello(false)).await.unwrap();
        let mut plan = Plan::honest(&challenge, line.exporter(&challenge.nonce));
        plan.credential = None;
        let honest = machine.evidence(plan);
        let falsified = falsified(&honest, &[(Label::TpmEkCertificate, change)]);
        line.submit(&falsified).await.unwrap_err()
    };
    let refused = without(&mut line, &mut machine, None).await;
    assert_eq!(
        refused.code, "evidence-refused",
        "no certificate, and no credential opened"
    );
    let foreign = Boot::GOOD.ek_certificate(KeyForm::Rsa);
    let refused = without(&mut line, &mut machine, Some(foreign)).await;
    assert_eq!(refused.code, "evidence-refused", "another machine's certificate");
    let mut stranger = Machine::blank();
    let refused = attest(&domain, &mut stranger).await.unwrap_err();
    assert_eq!(refused.code, "evidence-refused");
    assert!(
        refused.reasons.contains(&"first-use-certificate".to_owned()),
        "{:?}",
        refused.reasons
    );
    // A hello chooses no name, and an attestation key of another machine opens nothing.
    let identity = Identity::Full {
        ek_certificate: None,
        ek_public: machine.ek.public().to_vec(),
        ak_public: stranger.ak.public().to_vec(),
    };
    let challenge = line.hello(&hello(identity, &stranger.session_key())).await.unwrap();
    let plan = Plan::honest(&challenge, line.exporter(&challenge.nonce));
    assert_eq!(
        line.submit(&stranger.evidence(plan)).await.unwrap_err().code,
        "evidence-refused"
    );
    assert_eq!(decided(&broker), entries, "nothing of all this is on record");

    let answer = attest(&domain, &mut machine).await.unwrap();
    let checked = domain.check(&answer);
    let authorization = checked.authorization.unwrap();
    assert_eq!(authorization.contents().subject, name);
    assert_eq!(checked.statement.kind, Kind::Enrolment);
    assert_eq!(checked.statement.subject.as_deref(), Some(name.as_str()));
    let result = checked.ear.submods.values().next().unwrap();
    assert_eq!(
        result.claims.get("enrolment"),
        Some(&ClaimValue::Text("first-use".into()))
    );
    let recorded = checked
        .statement
        .body
        .as_map()
        .unwrap()
        .iter()
        .find(|(key, _)| key.as_i64() == Some(11));
    let first = recorded.unwrap().1.as_array().unwrap().to_vec();
    assert_eq!(first[2].as_u64(), Some(1), "the first of them");
    // The decision is made again from its record, byte for byte.
    let key = domain.key(Job::Statement);
    let record = DecisionRecord::latest(&*broker.app().store, &name, &key).unwrap();
    let policy = broker.app().policy();
    record.replay(&policy, &key).expect("the same decision again");
    // Renewals stay what they are, and take no further number.
    let renewed = domain.check(&attest(&domain, &mut machine).await.unwrap());
    assert_eq!(renewed.statement.kind, Kind::Attestation);
    let body = renewed
        .statement
        .body
        .as_map()
        .unwrap()
        .iter()
        .find(|(key, _)| key.as_i64() == Some(11));
    assert_eq!(body.unwrap().1.as_array().unwrap(), first.as_slice());

    // One may, and one has.
    let mut second = Machine::start(&Boot::CMDLINE_CHANGED);
    let refused = attest(&domain, &mut second).await.unwrap_err();
    assert_eq!((refused.status, refused.code.as_str()), (401, "first-use-over"));
    // A listed machine is what its entry says.
    let listed = domain.check(&attest(&domain, &mut Machine::start(&Boot::GOOD)).await.unwrap());
    assert_eq!(listed.statement.subject.as_deref(), Some("node-1"));
    assert!(
        !listed
            .ear
            .submods
            .values()
            .next()
            .unwrap()
            .claims
            .contains_key("enrolment")
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_admitted_on_first_use_leaves_nothing_behind_and_holds_nobody_up() {
    let domain = domain(&[("node-1", Boot::GOOD)], &|repo| first_use(repo, HOUR, 10));
    let broker = domain.broker().await;
    let stored = || {
        let store = &broker.app().store;
        [rows::INPUTS, rows::PART, rows::NONCE, rows::NODE]
            .map(|namespace| store.range(&namespace.prefix(), None, 200).unwrap().len())
    };
    let (entries, before) = (decided(&broker), stored());
    // A maker vouches for it, and the policy does not want what it runs.
    let mut genuine = Machine::start(&Boot::UKI);
    genuine.swtpm.extend(4, [7; 32]).unwrap();
    // It opens the credential, and no maker vouches for it.
    let mut stranger = Machine::blank();
    // Neither waits for another machine that is taking its seat.
    let turn = broker.app().first_uses.lock().await;
    for machine in [&mut genuine, &mut stranger] {
        let mut last = String::new();
        for _ in 0..3 {
            let answer = tokio::time::timeout(PATIENCE, attest(&domain, machine)).await;
            last = answer.expect("not held up").unwrap_err().code;
        }
        // The first time it may have been a log that grew meanwhile.
        assert_eq!(last, "evidence-refused");
    }
    assert_eq!(decided(&broker), entries, "nothing is on record");
    assert_eq!(stored(), before, "and nothing is kept");
    // One that nothing speaks against waits for its turn, and gets its seat.
    let mut machine = Machine::start(&Boot::CMDLINE_CHANGED);
    let mut admitted = std::pin::pin!(attest(&domain, &mut machine));
    let early = tokio::time::timeout(std::time::Duration::from_secs(3), &mut admitted).await;
    assert!(early.is_err(), "it is not its turn");
    drop(turn);
    assert!(admitted.await.unwrap().allowed);
    assert_eq!(touchstone_keybroker::first_use::count(&*broker.app().store).unwrap(), 1);
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_ends_and_what_enrolled_so_falls_with_it_unless_it_is_listed() {
    let domain = domain(&[("node-1", Boot::GOOD)], &|repo| first_use(repo, HOUR, 10));
    let repo = domain.path("policy");
    let broker = domain.broker().await;
    let guard = domain.guard(GUARD).await;
    let (mut node, mut client) = (Node::start(&Boot::UKI).await, domain.client());
    let (mut kept, mut kept_client) = (Node::start(&Boot::CMDLINE_CHANGED).await, domain.client());
    let granted = domain
        .check(&node.attest(&mut client).await.unwrap())
        .authorization
        .unwrap();
    let name = granted.contents().subject.clone();
    let keeps = domain
        .check(&kept.attest(&mut kept_client).await.unwrap())
        .authorization
        .unwrap();
    let (kept_name, kept_place) = (keeps.contents().subject.clone(), keeps.contents().status);
    // Its time over: who is in stays, and nobody comes after.
    first_use(&repo, (-7_200, 3_600 * 3), 10);
    domain.publish();
    eventually("the next policy", || broker.app().policy().version >= 2).await;
    assert!(node.attest(&mut client).await.unwrap().allowed);
    // One of them is added to the inventory under its name, and the setting goes.
    let place = touchstone_policies::NodePlace {
        name: &kept_name,
        region: "eu-1",
        zone: None,
        roles: &["worker".to_owned()],
        owner: None,
    };
    let adopted = identity(&Boot::CMDLINE_CHANGED);
    unlocked(|| author::node_add(&repo, &adopted, place)).unwrap();
    let gone = Assignment::unset("enrolment.first_use").unwrap();
    unlocked(|| settings_set(&repo, std::slice::from_ref(&gone))).unwrap();
    domain.publish();
    let old = rights(&broker, &name).record.unwrap().status;
    eventually("the withdrawal", || status(&broker, old) == Some(Status::Invalid)).await;
    guard.reaches(rights(&broker, &name).epoch).await;
    let refused = node.attest(&mut client).await.unwrap_err().to_string();
    assert!(refused.contains("identity-unknown"), "{refused}");
    assert_eq!(
        status(&broker, kept_place),
        Some(Status::Valid),
        "the listed one keeps what it has"
    );
    let renewed = domain.check(&kept.attest(&mut kept_client).await.unwrap());
    assert!(
        !renewed
            .ear
            .submods
            .values()
            .next()
            .unwrap()
            .claims
            .contains_key("enrolment")
    );
    assert_eq!(rights(&broker, &kept_name).record.unwrap().first_use, None);

    // Taken out of the inventory, with first use open again: out is out.
    first_use(&repo, HOUR, 10);
    unlocked(|| author::node_remove(&repo, &kept_name)).unwrap();
    domain.publish();
    eventually("the withdrawal", || {
        status(&broker, kept_place) == Some(Status::Invalid)
    })
    .await;
    kept.forget();
    let refused = kept.attest(&mut kept_client).await.unwrap_err().to_string();
    assert!(refused.contains("identity-unknown"), "{refused}");
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_race_on_first_use_admits_as_many_as_may_and_no_more() {
    let domain = domain(&[("node-9", Boot::GOOD)], &|repo| first_use(repo, HOUR, 2));
    let broker = domain.broker().await;
    let mut machines: Vec<Machine> = Boot::ALL[1..].iter().map(Machine::start).collect();
    let answers = race(&domain, &mut machines, 10).await;
    let admitted: std::collections::BTreeSet<usize> = answers
        .iter()
        .filter(|(_, answer)| answer.as_ref().is_ok_and(|answer| answer.allowed))
        .map(|(n, _)| *n)
        .collect();
    assert_eq!(admitted.len(), 2);
    for (n, answer) in &answers {
        match answer {
            _ if admitted.contains(n) => {}
            Ok(answer) => panic!("machine {n} was heard: {:?}", answer.reasons),
            Err(refused) => assert_eq!(refused.code, "first-use-over"),
        }
    }
    assert_eq!(touchstone_keybroker::first_use::count(&*broker.app().store).unwrap(), 2);
    let numbers: std::collections::BTreeSet<u64> = admitted
        .iter()
        .map(|n| {
            rights(&broker, &name_of(&machines[*n]))
                .record
                .unwrap()
                .first_use
                .unwrap()
                .number
        })
        .collect();
    assert_eq!(numbers.into_iter().collect::<Vec<_>>(), [1, 2]);
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_or_out_of_its_time_nobody_comes_by_first_use() {
    type Stage = fn(&Path);
    let rows: [(&str, Stage, &str); 3] = [
        ("no setting", |_| (), "identity-unknown"),
        (
            "before it begins",
            |repo| first_use(repo, (600, 3_600), 10),
            "first-use-over",
        ),
        (
            "after its end",
            |repo| first_use(repo, (-7_200, 3_600), 10),
            "first-use-over",
        ),
    ];
    let mut machine = Machine::start(&Boot::UKI);
    for (row, stage, code) in rows {
        let domain = domain(&[("node-1", Boot::GOOD)], &stage);
        let broker = domain.broker().await;
        let entries = decided(&broker);
        assert_eq!(attest(&domain, &mut machine).await.unwrap_err().code, code, "{row}");
        assert_eq!(decided(&broker), entries, "{row}");
        broker.shutdown().await.unwrap();
    }
}
