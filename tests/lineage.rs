//! `touchstone lineage show`, through the real command: the tree as the ledger of a running broker tells it, at any time,
//! across domains; and a ledger that tells what cannot be so.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use touchstone_attest::local;
use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::Value;
use touchstone_keybroker::config::Config;
use touchstone_keybroker::entry::{Effect, Entry};
use touchstone_keybroker::lineage::{self, BODY_LINEAGE, Growth};
use touchstone_keybroker::service::{Broker, RunningBroker};
use touchstone_keybroker::trust::Mark;
use touchstone_keybroker::withdraw::{Cause, Taking, take};
use touchstone_ledger::statement::{Kind, Outcome, Reason, Statement};

const PATIENCE: Duration = Duration::from_secs(120);

fn touchstone(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_touchstone"));
    command.args(arguments).output().expect("the command runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// What a command says of a broker that it has reached: on a machine that stands still for seconds a connection may be given
/// up on either side.
fn reached(run: impl Fn() -> Output) -> Output {
    let begun = Instant::now();
    loop {
        let output = run();
        if !said(&output).contains("is unreachable") || begun.elapsed() > PATIENCE {
            return output;
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

struct Domain {
    name: &'static str,
    folder: tempfile::TempDir,
    broker: RunningBroker,
}

impl Domain {
    async fn new(name: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let (repo, keys, config) = (path("repo"), path("keys"), path("broker.toml"));
        let done = |arguments: &[&str]| {
            let output = touchstone(arguments);
            assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        };
        done(&["policy", "init", text(&repo), "--domain", name, "--keys", text(&keys)]);
        let toml = format!(
            "domain = \"{name}\"\ndata_dir = {:?}\npolicy = {repo:?}\nlisten = \"127.0.0.1:0\"\n\
             policy_root = {{ file = {:?} }}\n\
             [limits]\nhandshake_ms = 60000\nbody_ms = 60000\nhead_ms = 600000\n",
            path("data"),
            path("root.json"),
        );
        std::fs::write(&config, &toml).expect("writes");
        done(&["broker", "init", "--config", text(&config)]);
        done(&["policy", "keyset", "add", text(&repo), text(&path("data/keyset.json"))]);
        done(&["policy", "publish", text(&repo), "--keys", text(&keys)]);
        std::fs::copy(repo.join("metadata/1.root.json"), path("root.json")).expect("copies");
        let config = Config::parse(&toml).expect("a configuration");
        let broker = Broker::start(config).await.expect("a broker");
        // What was granted before a start is judged once more, soon after it: what is granted here, of which the broker keeps
        // no more than the entry, would be taken away, had that not been done. Then it does what it is asked.
        let reload = local::request(&path("data/admin.sock"), "POST", "/reload", Vec::new()).await;
        assert_eq!(reload.expect("the broker's socket").0, 200);
        Self { name, folder, broker }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The broker's time, as its statements tell it.
    fn second(&self) -> u64 {
        self.broker.app().clock.now_ms() / 1_000
    }

    fn address(&self) -> String {
        format!("https://{}", self.broker.address())
    }

    /// What `--peer` is given.
    fn as_peer(&self) -> String {
        let (repo, root) = (self.path("repo"), self.path("root.json"));
        format!("{},{},{},{}", self.name, self.address(), text(&repo), text(&root))
    }

    /// Records a statement that does something to the lineage.
    async fn record(&self, kind: Kind, subject: &str, outcome: Outcome, body: Vec<(i64, Value)>, effect: Effect) {
        self.record_because(kind, subject, (outcome, Vec::new()), body, effect)
            .await;
    }

    async fn record_because(
        &self,
        kind: Kind,
        subject: &str,
        (outcome, reasons): (Outcome, Vec<Reason>),
        body: Vec<(i64, Value)>,
        effect: Effect,
    ) {
        let app = self.broker.app();
        let statement = Statement {
            subject: Some(subject.to_owned()),
            reasons,
            ..app
                .circumstances(app.clock.now_ms())
                .statement(kind, outcome, Value::map(body))
        };
        let entry = Entry {
            statement: statement.sign(&app.keys.statement).expect("signed"),
            subject: None,
            policy: None,
            guards: Vec::new(),
            writes: Vec::new(),
            parts: Vec::new(),
            effect,
        };
        app.sequencer.record(entry).await.expect("recorded");
    }

    /// Grants a subject an entry as a decision does, of a node where there is no parent.
    async fn grant(&self, subject: &str, parent: Option<&lineage::Entry>) -> lineage::Entry {
        let app = self.broker.app();
        let status = app.trust.deal().expect("an entry");
        let mut cti = [0; 16];
        for (to, from) in cti.iter_mut().zip(subject.bytes()) {
            *to = from;
        }
        let entry = lineage::Entry {
            status,
            parent: parent.map(|parent| parent.status),
            subject: subject.to_owned(),
            cti,
            depth: parent.map_or(0, |parent| parent.depth + 1),
            expires: app.clock.now_ms() / 1_000 + 24 * 3_600,
            scopes: "execute:job".to_owned(),
            depends_on: Vec::new(),
        };
        let entry = lineage::Entry {
            expires: parent.map_or(entry.expires, |parent| parent.expires),
            ..entry
        };
        let place = |at: &StatusIndex| {
            Value::array([u64::from(at.list), u64::from(at.generation), u64::from(at.index)].map(Value::Unsigned))
        };
        let (kind, body) = match parent {
            Some(_) => (Kind::Delegation, vec![(BODY_LINEAGE, entry.value())]),
            None => (
                Kind::Attestation,
                vec![
                    (2, Value::text("golden")),
                    (4, Value::text(entry.scopes.as_str())),
                    (5, Value::bytes(entry.cti)),
                    (6, place(&entry.status)),
                    (7, Value::Unsigned(entry.expires)),
                ],
            ),
        };
        let growth = Growth {
            entry: entry.clone(),
            renews: false,
        };
        self.record(kind, subject, Outcome::Allow, body, Effect::grant(growth))
            .await;
        entry
    }

    /// `lineage show` with the output as JSON; and the exit code.
    async fn show(&self, more: &[&str]) -> (Option<i32>, Json, String) {
        let output = self.run(&[more, &["--json"]].concat()).await;
        let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), json, said(&output))
    }

    async fn run(&self, more: &[&str]) -> Output {
        let (broker, repo, root) = (self.address(), self.path("repo"), self.path("root.json"));
        let fixed = [
            "--broker",
            &broker,
            "--domain",
            self.name,
            "--policy",
            text(&repo),
            "--root",
            text(&root),
        ];
        let arguments: Vec<String> = ["lineage", "show"]
            .iter()
            .chain(more)
            .chain(&fixed)
            .map(|argument| (*argument).to_owned())
            .collect();
        let run = move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            reached(|| touchstone(&arguments))
        };
        tokio::task::spawn_blocking(run).await.expect("it ran")
    }
}

/// Subjects and states of a tree, from the root down.
fn states(tree: &Json) -> Vec<(String, String)> {
    let word = |key: &str| tree[key].as_str().unwrap_or_default().to_owned();
    let mut all = vec![(word("subject"), word("state"))];
    for child in tree["children"].as_array().into_iter().flatten() {
        all.extend(states(child));
    }
    all
}

fn owned(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter()
        .map(|(name, state)| ((*name).to_owned(), (*state).to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_refused_and_never_held_anything_is_shown_with_its_denials() {
    let domain = Domain::new("a.example").await;
    domain.grant("node-1", None).await;
    let reason = || Reason {
        code: "reference-mismatch".into(),
        claim: "register 4".into(),
        expected: "aa".into(),
        found: "bb".into(),
    };
    for _ in 0..2 {
        let denied = (Outcome::Deny, vec![reason()]);
        domain
            .record_because(Kind::Attestation, "web-9", denied, Vec::new(), Effect::None)
            .await;
    }
    let (code, json, words) = domain.show(&["web-9"]).await;
    assert_eq!(code, Some(0), "{words}");
    let [told] = json["trees"].as_array().expect("trees").as_slice() else {
        panic!("{json}");
    };
    assert_eq!(told["subject"], "web-9");
    assert_eq!(told["state"], "never-granted");
    assert_eq!(told["id"], Json::Null, "there is no entry");
    let event = &told["events"][0];
    assert_eq!(event["what"], "attestation denied");
    assert_eq!(event["times"], 2);
    assert_eq!(event["detail"], "reference-mismatch: register 4 is bb");
    let shown = said(&domain.run(&["web-9"]).await);
    assert!(shown.starts_with("web-9  never-granted\n"), "{shown}");
    assert!(
        shown.contains("attestation denied reference-mismatch: register 4 is bb"),
        "{shown}"
    );
    let (_, json, _) = domain.show(&["node-1"]).await;
    assert_eq!(states(&json["trees"][0]), owned(&[("node-1", "valid")]));
    let (code, _, words) = domain.show(&["web-9", "--as", "key"]).await;
    assert_eq!(code, Some(2), "{words}");
    domain.broker.shutdown().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_is_shown_by_every_name_at_any_time_and_across_domains() {
    let domain = Domain::new("a.example").await;
    let node = domain.grant("node-1", None).await;
    let agent = domain.grant("agent@node-1", Some(&node)).await;
    domain.grant("tool@node-1", Some(&agent)).await;
    domain.grant("other@node-1", Some(&node)).await;
    let before = domain.second();
    // Times of statements are whole seconds.
    while domain.second() == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let reason = Reason {
        code: "operator-command".into(),
        claim: "command".into(),
        expected: "rights as granted".into(),
        found: "it was seen to leak".into(),
    };
    let cause = Cause::new(Kind::Revocation, Some("agent@node-1"), reason);
    let taking = Taking {
        roots: vec![agent.status],
        ..Taking::new(cause, Mark::Revoked)
    };
    let taken = take(domain.broker.app(), taking).await.expect("taken");
    assert_eq!(taken.set.len(), 2);

    let now = owned(&[
        ("node-1", "valid"),
        ("agent@node-1", "revoked"),
        ("tool@node-1", "revoked"),
        ("other@node-1", "valid"),
    ]);
    let id = hex::encode(node.cti);
    for name in [&["node-1"][..], &["golden"], &["golden", "--as", "reference"], &[&id]] {
        // The broker records by itself when it closes the revocation: the whole of the ledger is between its two heads.
        let least = domain.broker.app().head().size;
        let (code, json, said) = domain.show(name).await;
        let most = domain.broker.app().head().size;
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(states(&json["trees"][0]), now, "{name:?}");
        assert_eq!(json["trees"].as_array().map(Vec::len), Some(1));
        let entries = json["ledgers"][0]["entries"].as_u64().expect("a number");
        assert!(least >= 7, "a start, a policy, four grants, a revocation: {least}");
        assert!((least..=most).contains(&entries), "{entries} of {least} to {most}");
    }
    let (_, json, _) = domain.show(&["tool@node-1"]).await;
    let tool = &json["trees"][0];
    assert_eq!(tool["reasons"][0]["found"], "it was seen to leak");
    assert_eq!(tool["epoch"], taken.epoch);
    let then = time::OffsetDateTime::from_unix_timestamp(before.try_into().expect("a time"))
        .ok()
        .and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok())
        .expect("a time");
    let (_, json, _) = domain.show(&["node-1", "--at", &then]).await;
    assert!(
        states(&json["trees"][0]).iter().all(|(_, state)| state == "valid"),
        "{json}"
    );
    let shown = said(&domain.run(&["node-1"]).await);
    assert!(
        shown.contains("  agent@node-1  revoked since") && shown.contains("    tool@node-1  revoked since"),
        "{shown}"
    );
    assert!(
        shown.contains("because operator-command: command is it was seen to leak"),
        "{shown}"
    );

    for (unknown, words) in [
        (&["node-7"][..], "tells of no node-7"),
        (&["node-1", "--as", "key"], "tells of no node-1"),
        (&["node-1", "--at", "2001-01-01T00:00:00Z"], "tells of no node-1"),
        (&["node-1", "--peer", "b.example"], "expected DOMAIN,BROKER,POLICY,ROOT"),
    ] {
        let (code, _, said) = domain.show(unknown).await;
        assert_eq!(code, Some(2), "{unknown:?}: {said}");
        assert!(said.contains(words), "{unknown:?}: {said}");
    }

    // Another domain has a node of the same name; an authorization of it counts here, under an id of its own.
    let other = Domain::new("b.example").await;
    let foreign = other.grant("node-1", None).await;
    let abroad = vec![
        (0, Value::text("a.example")),
        (2, Value::bytes(foreign.cti)),
        (3, Value::bytes([9; 16])),
    ];
    other
        .record(
            Kind::FederatedAuthorization,
            "node-1",
            Outcome::Allow,
            abroad,
            Effect::None,
        )
        .await;
    let peer = other.as_peer();
    let (_, json, said) = domain.show(&["node-1", "--peer", &peer]).await;
    assert_eq!(states(&json["trees"][0]), now, "our own: {said}");
    assert_eq!(json["trees"].as_array().map(Vec::len), Some(1));
    for name in ["b.example/node-1", &hex::encode([9; 16])] {
        let (code, json, said) = domain.show(&[name, "--peer", &peer]).await;
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(
            states(&json["trees"][0]),
            owned(&[("b.example/node-1", "valid")]),
            "{name}"
        );
        let events = json["trees"][0]["events"].as_array().cloned().unwrap_or_default();
        assert!(
            events.iter().any(|event| event["detail"] == "for a.example"),
            "{events:?}"
        );
    }
    // Of one reference in both domains, both are shown.
    let (_, json, _) = domain.show(&["golden", "--peer", &peer]).await;
    assert_eq!(json["trees"].as_array().map(Vec::len), Some(2));
    // Another domain's ledger under this one's root is nobody's.
    let (repo, root) = (domain.path("repo"), domain.path("root.json"));
    let forged = format!("b.example,{},{},{}", other.address(), text(&repo), text(&root));
    let (code, _, said) = domain.show(&["b.example/node-1", "--peer", &forged]).await;
    assert_eq!(code, Some(2), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_spares_a_descendant_is_noticed() {
    let domain = Domain::new("a.example").await;
    let node = domain.grant("node-1", None).await;
    domain.grant("agent@node-1", Some(&node)).await;
    let number = touchstone_keybroker::trust::number(&node.status);
    let body = vec![
        (0, Value::Unsigned(5)),
        (1, Value::Unsigned(1)),
        (2, Value::text("revoked")),
        (3, Value::array([Value::Unsigned(number)])),
    ];
    let app = domain.broker.app();
    let mut statement =
        app.circumstances(app.clock.now_ms())
            .statement(Kind::Revocation, Outcome::Recorded, Value::map(body));
    let set = touchstone_keybroker::withdraw::set::encode(&[node.status]);
    statement.subject = Some("node-1".into());
    statement
        .inputs
        .insert("set".into(), touchstone_keybroker::withdraw::set::digest(&set));
    let entry = Entry {
        statement: statement.sign(&app.keys.statement).expect("signed"),
        subject: None,
        policy: None,
        guards: Vec::new(),
        writes: Vec::new(),
        parts: Vec::new(),
        effect: Effect::None,
    };
    let index = app.sequencer.record(entry).await.expect("recorded").index;
    let (code, json, said) = domain.show(&["node-1"]).await;
    assert_eq!(code, Some(1), "{said}");
    let flaw = &json["ledgers"][0]["flaws"][0];
    assert_eq!(flaw["entry"], index);
    assert_eq!(flaw["what"], "1 entries fell, and 2 rested on what was named");
    let shown = domain.run(&["node-1"]).await;
    assert_eq!(shown.status.code(), Some(1));
    assert!(
        self::said(&shown).contains("a.example, ledger entry"),
        "{}",
        self::said(&shown)
    );
}
