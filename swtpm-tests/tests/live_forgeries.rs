//! Ten thousand forgeries in a good node's name: its rights stay, and one statement says what was tried.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use std::sync::Arc;

use swtpm_tests::boots::Boot;
use swtpm_tests::domain::{Domain, rights};
use swtpm_tests::line::{EVIDENCE, HELLO};
use swtpm_tests::machine::{Machine, Plan, falsified, record};
use swtpm_tests::node::Node;
use touchstone_authorization::Status;
use touchstone_evidence::collection::Label;
use touchstone_evidence::message::Submission;
use touchstone_keybroker::log;
use touchstone_keybroker::refusals::SUMMARY_PERIOD_MS;
use touchstone_ledger::statement::{Kind, Outcome, Statement, VerifiedStatement};
use touchstone_policies::Job;

const CONNECTIONS: usize = 8;
/// Each connection says this many hellos in the node's name and answers them with forged quotes,
const QUOTES: u64 = 250;
/// sends this many submissions of sessions that never were,
const SESSIONS: u64 = 500;
/// and this many hellos that are none: 10,000 over all.
const JUNK: u64 = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_forgeries_in_a_nodes_name_leave_its_rights_untouched() {
    const TOTAL: u64 = CONNECTIONS as u64 * (QUOTES + SESSIONS + JUNK);
    const { assert!(TOTAL == 10_000) };
    let limits = [("refusals_per_second", 1_000_000), ("sessions", 64)];
    let domain = Arc::new(Domain::with(&[("node-1", Boot::GOOD)], &[], &limits));
    let broker = domain.broker().await;
    let guard = domain.guard("guard-1").await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let granted = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let before = rights(&broker, "node-1");
    assert_eq!(before.status, Some(Status::Valid));

    // Everything public about the node, with a quote that its key never signed.
    let name = node.ak_name().await;
    let ak_public = node.run(|attester| attester.attestation_key().public().to_vec()).await;
    let mut forger = Machine::start(&Boot::UKI);
    let mut line = domain.line().await;
    let mut hello = forger.hello(true);
    hello.identity = touchstone_evidence::message::Identity::Known { ak_name: name };
    let challenge = line.hello(&hello).await.unwrap();
    let made = forger.evidence(Plan::honest(&challenge, line.exporter(&challenge.nonce)));
    let log = [(Label::FirmwareEventLog, None), (Label::TpmAkPublic, Some(ak_public))];
    let forged = falsified(&made, &log);
    assert!(!record(&forged, Label::TpmQuote).is_empty());

    let attackers: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (domain, hello, forged) = (Arc::clone(&domain), hello.clone(), forged.clone());
            tokio::spawn(async move {
                let mut line = domain.line().await;
                for _ in 0..QUOTES {
                    let session_id = line.hello(&hello).await.unwrap().session_id;
                    let refused = line
                        .submit(&Submission {
                            session_id,
                            ..forged.clone()
                        })
                        .await
                        .unwrap_err();
                    assert_eq!(refused.code, "evidence-refused");
                    assert!(
                        refused.reasons.iter().any(|code| code == "tpm-signature-invalid"),
                        "{refused:?}"
                    );
                }
                let body = Submission {
                    session_id: [7; 16],
                    ..forged
                }
                .encode();
                for _ in 0..SESSIONS {
                    assert_eq!(
                        line.post(EVIDENCE, body.clone()).await.unwrap_err().code,
                        "session-unknown"
                    );
                }
                let mut junk = hello.encode();
                junk.truncate(40);
                for _ in 0..JUNK {
                    assert_eq!(
                        line.post(HELLO, junk.clone()).await.unwrap_err().code,
                        "request-message-malformed"
                    );
                }
            })
        })
        .collect();
    for attacker in attackers {
        attacker.await.unwrap();
    }

    assert_eq!(rights(&broker, "node-1"), before, "no right, no epoch, no statement");
    assert!(
        broker.app().sessions.lock().unwrap().len() <= 64,
        "open sessions are bounded"
    );
    let challenge = guard.challenge();
    let proof = node.prove(&granted, "guard-1", &challenge).await;
    assert!(
        guard.decide(&granted, &proof, &challenge).is_ok(),
        "the guard still lets it in"
    );
    assert!(node.attest(&mut client).await.unwrap().allowed, "and it renews");

    broker.shutdown().await.unwrap();
    let broker = domain.broker().await;
    let key = domain.key(Job::Statement);
    let recorded = log::entries(&*broker.app().store, 0, 1_000).unwrap();
    let statements = recorded
        .iter()
        .map(|entry| VerifiedStatement::parse(entry, &key).unwrap().into_statement());
    let summaries: Vec<_> = statements.filter(|s| s.kind == Kind::RefusalSummary).collect();
    let (last, minutes) = summaries.split_last().expect("all of them are on record");
    assert_eq!(last.kind, Kind::RefusalSummary);
    let number = |summary: &Statement, label| summary.body.get(label).unwrap().as_u64().unwrap();
    for summary in minutes {
        let covers_ms = number(summary, 1) - number(summary, 0);
        assert!(covers_ms >= SUMMARY_PERIOD_MS, "one statement a minute: {covers_ms} ms");
    }
    let mut counted = std::collections::BTreeMap::<String, u64>::new();
    for summary in &summaries {
        assert_eq!(summary.outcome, Outcome::Recorded);
        assert_eq!(summary.subject, None, "it names nobody");
        for row in summary.body.get(2).unwrap().as_array().unwrap() {
            let row = row.as_array().unwrap();
            *counted.entry(row[0].as_text().unwrap().to_owned()).or_default() += row[2].as_u64().unwrap();
        }
    }
    let rows: Vec<(String, u64)> = counted.into_iter().collect();
    let connections = CONNECTIONS as u64;
    let expected = [
        ("evidence-refused", QUOTES * connections),
        ("request-message-malformed", JUNK * connections),
        ("session-unknown", SESSIONS * connections),
    ];
    assert_eq!(rows, expected.map(|(code, count)| (code.to_owned(), count)));
    assert_eq!(rows.iter().map(|(_, count)| count).sum::<u64>(), TOTAL);
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_told_to_wait_and_a_node_on_its_own_connection_is_not() {
    let domain = Domain::with(&[("node-1", Boot::GOOD)], &[], &[("refusals_per_second", 2)]);
    let broker = domain.broker().await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    assert!(node.attest(&mut client).await.unwrap().allowed);
    let mut line = domain.line().await;
    let mut codes = Vec::new();
    for _ in 0..200 {
        codes.push(line.post(HELLO, vec![0]).await.unwrap_err().code);
    }
    assert_eq!(codes[0], "request-message-malformed");
    assert!(codes.iter().any(|code| code == "source-rate-limited"), "{codes:?}");
    // From the same source prefix, in the same second, on the connection on which it has proved itself.
    assert!(node.attest(&mut client).await.unwrap().allowed);
    broker.shutdown().await.unwrap();
}
