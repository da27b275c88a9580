//! The lineage folded from statements, and what it notices in them.

use proptest::prelude::*;
use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::Outcome;

use super::*;
use crate::decision::BODY_SCOPES;
use crate::lineage::entry::tests::entry;
use crate::lineage::{BODY_LINEAGE, Dependency, Link};
use crate::node::status_value;
use crate::statements::Circumstances;
use crate::trust::{Mark, number};
use crate::withdraw::{SET, set};

/// A ledger in the making: what a broker would write.
#[derive(Default)]
struct Ledger {
    statements: Vec<Statement>,
    time: i64,
}

impl Ledger {
    fn new() -> Self {
        let mut ledger = Self::default();
        ledger.push(
            Kind::Genesis,
            None,
            Outcome::Recorded,
            vec![
                (0, Value::text("demo/ledger")),
                (1, Value::Unsigned(1)),
                (2, Value::bytes([0; 8])),
            ],
        );
        ledger
    }

    fn push(&mut self, kind: Kind, subject: Option<&str>, outcome: Outcome, body: Vec<(i64, Value)>) -> &mut Statement {
        self.time += 1;
        let circumstances = Circumstances {
            domain: "demo".into(),
            policy_version: 1,
            policy_digest: [1; 32],
            semantics: touchstone_verifier::SEMANTICS_ID.into(),
            now: self.time,
        };
        let statement = Statement {
            subject: subject.map(str::to_owned),
            ..circumstances.statement(kind, outcome, Value::map(body))
        };
        self.statements.push(statement);
        self.statements.last_mut().unwrap()
    }

    fn grant(&mut self, entry: &Entry) {
        let subject = Some(entry.subject.as_str());
        if entry.parent.is_some() {
            let body = vec![(BODY_LINEAGE, entry.value())];
            self.push(Kind::Delegation, subject, Outcome::Allow, body);
            return;
        }
        let body = vec![
            (2, Value::text("golden")),
            (BODY_SCOPES, Value::text(entry.scopes.as_str())),
            (5, Value::bytes(entry.cti)),
            (6, status_value(&entry.status)),
            (7, Value::Unsigned(entry.expires)),
        ];
        self.push(Kind::Attestation, subject, Outcome::Allow, body);
    }

    fn fall(&mut self, kind: Kind, subject: &str, mark: Mark, roots: &[StatusIndex], fallen: &[StatusIndex]) {
        let bytes = set::encode(&set::sorted(fallen.iter().copied()));
        let body = vec![
            (0, Value::Unsigned(7)),
            (1, Value::Unsigned(fallen.len() as u64)),
            (2, Value::text(mark.as_str())),
            (3, Value::array(roots.iter().map(|root| Value::Unsigned(number(root))))),
        ];
        let statement = self.push(kind, Some(subject), Outcome::Recorded, body);
        statement.inputs.insert(SET.to_owned(), set::digest(&bytes));
        statement.reasons = vec![Reason {
            code: "operator-command".into(),
            claim: "command".into(),
            expected: "rights as granted".into(),
            found: "stolen".into(),
        }];
    }

    /// What it tells up to a time.
    fn at(&self, time: i64) -> History {
        let mut history = History::default();
        for (index, statement) in (0..).zip(&self.statements).filter(|(_, s)| s.time <= time) {
            history.apply(index, statement);
        }
        history
    }

    fn now(&self) -> History {
        self.at(i64::MAX)
    }
}

fn whole(history: &History, subject: &str, now: i64) -> Tree {
    let mut trees = history.trees(Named::Subject, subject, now);
    assert_eq!(trees.len(), 1, "{subject}");
    trees.remove(0)
}

/// Every subject of a tree with its state.
fn states(tree: &Tree) -> BTreeMap<String, &'static str> {
    let mut all = BTreeMap::from([(tree.entry.subject.clone(), tree.state)]);
    all.extend(tree.children.iter().flat_map(states));
    all
}

fn names(flaws: &History) -> Vec<&str> {
    flaws.flaws().0.iter().map(|flaw| flaw.what.as_str()).collect()
}

#[test]
fn a_tree_is_told_with_states_reasons_and_everything_that_happened() {
    let node = entry(0, None);
    let (left, right) = (entry(1, Some(&node)), entry(2, Some(&node)));
    let mut leaf = entry(3, Some(&left));
    leaf.depends_on = vec![Dependency {
        on: right.status,
        why: Link::MovedFrom,
    }];
    let mut ledger = Ledger::new();
    for entry in [&node, &left, &right, &leaf] {
        ledger.grant(entry);
    }
    let mut renewed = node.clone();
    for round in 1..=3 {
        renewed.cti = [round; 16];
        ledger.grant(&renewed);
    }
    let release = vec![
        (0, Value::text("db/main")),
        (1, Value::Unsigned(4)),
        (5, Value::bytes([2; 16])),
    ];
    ledger.push(Kind::KeyRelease, Some("node-0"), Outcome::Allow, release);
    let abroad = vec![
        (0, Value::text("a.example")),
        (2, Value::bytes([3; 16])),
        (3, Value::bytes([9; 16])),
    ];
    ledger.push(Kind::FederatedAuthorization, Some("node-0"), Outcome::Allow, abroad);
    let denied = vec![(1, status_value(&left.status)), (BODY_LINEAGE, Value::Null)];
    let denial = ledger.push(Kind::Delegation, Some("greedy@node-0"), Outcome::Deny, denied);
    denial.reasons = vec![Reason {
        code: "scope-wider".into(),
        claim: "scopes".into(),
        expected: "those of the parent".into(),
        found: "execute:other".into(),
    }];
    let before = ledger.time;
    ledger.fall(
        Kind::Revocation,
        &right.subject,
        Mark::Revoked,
        &[right.status],
        &[right.status, leaf.status],
    );

    let history = ledger.now();
    assert_eq!(names(&history), [""; 0]);
    let tree = whole(&history, "node-0", 500);
    let expected = [
        ("node-0", "valid"),
        ("work-1@node", "valid"),
        ("work-2@node", "revoked"),
        ("work-3@node", "revoked"),
    ];
    assert_eq!(
        states(&tree),
        expected.map(|(name, state)| (name.to_owned(), state)).into()
    );
    assert_eq!(
        (tree.references.as_slice(), tree.entry.cti),
        (&["golden".to_owned()][..], [3; 16])
    );
    let happened: Vec<(&str, &str, u64)> = tree
        .events
        .iter()
        .map(|event| (event.what.as_str(), event.detail.as_str(), event.times))
        .collect();
    let expected = [
        ("attestation", "", 1),
        ("renewal", "", 3),
        ("key-release", "db/main, version 4", 1),
        ("federated-authorization", "for a.example", 1),
    ];
    assert_eq!(happened, expected);
    let left_tree = &tree.children[0];
    assert!(
        left_tree
            .events
            .iter()
            .any(|e| e.what == "delegation denied" && e.detail == "greedy@node-0: scope-wider: scopes is execute:other"),
        "{:?}",
        left_tree.events
    );
    let leaf_tree = &left_tree.children[0];
    assert_eq!(
        (leaf_tree.epoch, leaf_tree.reasons[0].found.as_str()),
        (Some(7), "stolen")
    );
    assert!(
        leaf_tree
            .events
            .iter()
            .any(|e| e.what == "moved-from" && e.detail == "work-2@node")
    );
    assert!(
        leaf_tree
            .events
            .iter()
            .any(|e| e.what == "revoked" && e.detail == "with what it rests on, epoch 7")
    );
    assert_eq!(tree.children[1].dependants, ["work-3@node"]);

    // At any moment in the past; and what ends by itself.
    let then = whole(&ledger.at(before), "node-0", before);
    assert!(states(&then).values().all(|state| *state == "valid"));
    let over = whole(&ledger.at(before), "node-0", 1_000);
    assert!(states(&over).values().all(|state| *state == "expired"));
    assert_eq!(ledger.at(1).meanings("node-0"), []);

    // By every name there is for it.
    assert_eq!(history.meanings("db/main"), [Named::Key]);
    assert_eq!(history.meanings("golden"), [Named::Reference]);
    for (named, name) in [
        (Named::Key, "db/main".to_owned()),
        (Named::Reference, "golden".to_owned()),
        (Named::Id, hex::encode([1; 16])),
        (Named::Id, hex::encode([9; 16])),
    ] {
        let trees = history.trees(named, &name, 500);
        assert_eq!(trees, std::slice::from_ref(&tree), "{name}");
    }
    assert_eq!(
        history.trees(Named::Id, &hex::encode(leaf.cti), 500),
        std::slice::from_ref(leaf_tree)
    );
    assert_eq!(history.meanings(&hex::encode([8; 16])), []);
}

fn deny(ledger: &mut Ledger, kind: Kind, subject: &str, body: Vec<(i64, Value)>, code: &str) {
    let denied = ledger.push(kind, Some(subject), Outcome::Deny, body);
    denied.reasons = vec![Reason {
        code: code.into(),
        claim: "register 4".into(),
        expected: "aa".into(),
        found: "bb".into(),
    }];
}

/// The entry of who asked, as the statement of a workload names it.
fn asked_by(entry: &Entry) -> Vec<(i64, Value)> {
    vec![
        (0, Value::text(entry.subject.as_str())),
        (1, status_value(&entry.status)),
    ]
}

/// Every denial is told of whoever it is about, though that one never held anything.
#[test]
fn who_was_refused_and_never_held_anything_is_told() {
    let node = entry(0, None);
    let mut ledger = Ledger::new();
    ledger.grant(&node);
    for _ in 0..3 {
        deny(&mut ledger, Kind::Attestation, "web-9", vec![], "reference-mismatch");
    }
    deny(
        &mut ledger,
        Kind::WorkloadAuthorization,
        "agent@node-0",
        asked_by(&node),
        "denied-by-domain-policy",
    );
    deny(
        &mut ledger,
        Kind::WorkloadAuthorization,
        "node-0",
        asked_by(&node),
        "workload-label",
    );
    let history = ledger.now();
    assert_eq!(names(&history), [""; 0]);

    assert_eq!(history.meanings("web-9"), [Named::Subject]);
    assert_eq!(
        history.trees(Named::Subject, "web-9", 500).len(),
        0,
        "there is no entry"
    );
    let refused = history.refused("web-9").unwrap();
    assert_eq!((refused.subject.as_str(), refused.left_out), ("web-9", 0));
    let [event] = refused.events.as_slice() else {
        panic!("{:?}", refused.events);
    };
    assert_eq!((event.what.as_str(), event.times), ("attestation denied", 3));
    assert_eq!(event.detail, "reference-mismatch: register 4 is bb");
    let agent = history.refused("agent@node-0").unwrap();
    assert_eq!(agent.events[0].what, "workload-authorization denied");
    // Where it was asked from it is told too, and what names nobody is told there alone.
    let told: Vec<Event> = whole(&history, "node-0", 500).events;
    let told: Vec<(&str, &str)> = told.iter().map(|e| (e.what.as_str(), e.detail.as_str())).collect();
    assert_eq!(
        &told[1..],
        [
            (
                "workload-authorization denied",
                "agent@node-0: denied-by-domain-policy: register 4 is bb"
            ),
            (
                "workload-authorization denied",
                "node-0: workload-label: register 4 is bb"
            ),
        ]
    );
    for nobody in ["web-8", "node-0", ""] {
        assert_eq!(history.refused(nobody), None, "{nobody}");
    }

    // Once it holds something, its tree begins with what came before.
    let late = Entry {
        subject: "agent@node-0".into(),
        ..entry(5, Some(&node))
    };
    ledger.grant(&late);
    let history = ledger.now();
    assert_eq!(history.refused("agent@node-0"), None);
    let what: Vec<String> = whole(&history, "agent@node-0", 500)
        .events
        .into_iter()
        .map(|e| e.what)
        .collect();
    assert_eq!(what, ["workload-authorization denied", "delegation"]);
}

/// Whoever asks under many names takes bounded room, and who was refused last is still told of.
#[test]
fn who_was_refused_is_kept_in_bounded_room() {
    let mut history = History::default();
    let mut ledger = Ledger::default();
    for n in 0..MAX_REFUSED + 10 {
        ledger.statements.clear();
        deny(&mut ledger, Kind::Attestation, &format!("web-{n}"), vec![], "a");
        history.apply(n as u64, &ledger.statements[0]);
    }
    let is_told = |n: usize| history.refused(&format!("web-{n}")).is_some();
    assert_eq!([0, 9, 10, MAX_REFUSED + 9].map(is_told), [false, false, true, true]);
    let mut history = History::default();
    for n in 0..MAX_REFUSED_EVENTS + 5 {
        ledger.statements.clear();
        deny(&mut ledger, Kind::Attestation, "web-1", vec![], &format!("a-{n}"));
        history.apply(n as u64, &ledger.statements[0]);
    }
    let refused = history.refused("web-1").unwrap();
    assert_eq!((refused.events.len(), refused.left_out), (MAX_REFUSED_EVENTS, 5));
    let (first, last) = (&refused.events[0], &refused.events[MAX_REFUSED_EVENTS - 1]);
    assert_eq!((first.first, last.first), (0, (MAX_REFUSED_EVENTS + 4) as u64));
}

#[test]
fn quarantine_and_the_way_back() {
    let node = entry(0, None);
    let (child, other) = (entry(1, Some(&node)), entry(2, Some(&node)));
    let mut ledger = Ledger::new();
    for entry in [&node, &child, &other] {
        ledger.grant(entry);
    }
    let all = [node.status, child.status, other.status];
    ledger.fall(Kind::Quarantine, "node-0", Mark::Suspended, &[node.status], &all);
    let digest = ledger.statements.last().unwrap().inputs[SET];
    let state = |ledger: &Ledger| {
        states(&whole(&ledger.now(), "node-0", 500))
            .into_values()
            .collect::<Vec<_>>()
    };
    assert_eq!(state(&ledger), ["suspended"; 3]);
    // Meanwhile one falls for good: it does not come back with the others.
    ledger.fall(
        Kind::Revocation,
        &other.subject,
        Mark::Revoked,
        &[other.status],
        &[other.status],
    );
    let row = Value::array([Value::Unsigned(1), Value::bytes(digest), Value::int(3)]);
    let body = vec![(0, Value::Null), (1, Value::text("clean")), (2, Value::array([row]))];
    ledger.push(Kind::Lift, Some("node-0"), Outcome::Recorded, body);
    assert_eq!(
        state(&ledger),
        ["suspended", "suspended", "revoked"],
        "it needs fresh good evidence"
    );
    ledger.grant(&node);
    assert_eq!(state(&ledger), ["valid", "valid", "revoked"]);
    assert_eq!(names(&ledger.now()), [""; 0]);
}

#[test]
fn after_a_stop_in_disorder_each_comes_back_by_a_grant_of_its_own_only() {
    let node = entry(0, None);
    let (child, fallen, mut over) = (entry(1, Some(&node)), entry(2, Some(&node)), entry(3, Some(&node)));
    over.expires = 4;
    let mut ledger = Ledger::new();
    for entry in [&node, &child, &fallen, &over] {
        ledger.grant(entry);
    }
    let alone = [fallen.status];
    ledger.fall(Kind::Revocation, &fallen.subject, Mark::Revoked, &alone, &alone);
    // A hold that was made before the stop brings back nothing either, for something else may have fallen.
    let held = [node.status, child.status, fallen.status, over.status];
    ledger.fall(Kind::Quarantine, "node-0", Mark::Suspended, &[node.status], &held);
    let digest = ledger.statements.last().unwrap().inputs[SET];
    let row = Value::array([Value::Unsigned(1), Value::bytes(digest), Value::int(3)]);
    let lifted = vec![(0, Value::Null), (1, Value::text("clean")), (2, Value::array([row]))];
    ledger.push(Kind::Lift, Some("node-0"), Outcome::Recorded, lifted);
    ledger.time = 500;
    let interruption = || {
        let circumstances = Circumstances {
            domain: "demo".into(),
            policy_version: 1,
            policy_digest: [1; 32],
            semantics: touchstone_verifier::SEMANTICS_ID.into(),
            now: 501,
        };
        circumstances.interruption(9, &[node.status, child.status])
    };
    ledger.statements.push(interruption());
    let state = |ledger: &Ledger| {
        let told = states(&whole(&ledger.now(), "node-0", 502));
        [&node, &child, &fallen].map(|entry| told[&entry.subject])
    };
    assert_eq!(state(&ledger), ["suspended", "suspended", "revoked"]);
    ledger.grant(&node);
    assert_eq!(
        state(&ledger),
        ["valid", "suspended", "revoked"],
        "the node, not what rests on it"
    );
    ledger.grant(&child);
    assert_eq!(state(&ledger), ["valid", "valid", "revoked"]);

    // Without a hold it is said of who counted, with its reason, and of nobody else.
    ledger.statements.push(interruption());
    let tree = whole(&ledger.now(), "node-0", 502);
    assert_eq!((tree.state, tree.epoch, tree.since), ("suspended", Some(9), 501));
    assert_eq!(tree.reasons[0].code, "broker-interrupted");
    let told = |entry: &Entry| {
        tree.children
            .iter()
            .find(|child| child.entry.status == entry.status)
            .unwrap()
    };
    assert!(told(&child).events.iter().any(|event| event.detail == "epoch 9"));
    assert!(
        [&fallen, &over]
            .iter()
            .all(|entry| told(entry).events.iter().all(|event| event.detail != "epoch 9"))
    );
    assert_eq!(names(&ledger.now()), [""; 0]);
}

#[test]
fn what_cannot_be_so_is_noticed() {
    let node = entry(0, None);
    let (child, leaf) = (entry(1, Some(&node)), entry(2, Some(&entry(1, Some(&node)))));
    let begun = || {
        let mut ledger = Ledger::new();
        for entry in [&node, &child, &leaf] {
            ledger.grant(entry);
        }
        ledger
    };
    let revoke = |ledger: &mut Ledger, fallen: &[StatusIndex]| {
        ledger.fall(Kind::Revocation, "node-0", Mark::Revoked, &[child.status], fallen);
    };
    type Case<'a> = (&'a str, &'a str, Box<dyn Fn(&mut Ledger) + 'a>);
    let mut long = entry(5, Some(&node));
    long.expires = 1_001;
    let cases: Vec<Case<'_>> = vec![
        (
            "the right set",
            "",
            Box::new(|l| revoke(l, &[child.status, leaf.status])),
        ),
        (
            "a descendant spared",
            "1 entries fell, and 2 rested on what was named",
            Box::new(|l| revoke(l, &[child.status])),
        ),
        (
            "one too many taken",
            "3 entries fell, and 2 rested on what was named",
            Box::new(|l| revoke(l, &[child.status, leaf.status, node.status])),
        ),
        (
            "another one taken instead",
            "2 entries fell, and 2 rested on what was named",
            Box::new(|l| revoke(l, &[child.status, node.status])),
        ),
        (
            "a grant below what was revoked",
            "it grants work-5@node below work-1@node, which did not count",
            Box::new(|l| {
                revoke(l, &[child.status, leaf.status]);
                l.grant(&entry(5, Some(&child)));
            }),
        ),
        (
            "a renewal of what was revoked",
            "it renews an entry of work-1@node that was revoked",
            Box::new(|l| {
                revoke(l, &[child.status, leaf.status]);
                l.grant(&child);
            }),
        ),
        (
            "a child outliving its parent",
            "it grants work-5@node what the rules of lineage forbid: it ends at 1001, its parent at 1000",
            Box::new(|l| l.grant(&long)),
        ),
        (
            "a lift of what was not suspended",
            "it lifts what was not suspended",
            Box::new(|l| {
                let row = Value::array([Value::Unsigned(1), Value::bytes([3; 32]), Value::int(3)]);
                let body = vec![(2, Value::array([row]))];
                l.push(Kind::Lift, Some("node-0"), Outcome::Recorded, body);
            }),
        ),
        (
            "a statement of another shape",
            "a revocation statement of another shape",
            Box::new(|l| {
                revoke(l, &[child.status, leaf.status]);
                l.statements.last_mut().unwrap().inputs.clear();
            }),
        ),
        (
            "an entry freed while one rests on it",
            "1 was freed while 2 rested on it",
            Box::new(|l| {
                l.time = 2_000;
                let body = vec![(0, Value::bytes(set::encode(&[child.status])))];
                l.push(Kind::StatusFreed, None, Outcome::Recorded, body);
            }),
        ),
        (
            "an entry freed before it ended",
            "2 was freed before it ended",
            Box::new(|l| {
                let body = vec![(0, Value::bytes(set::encode(&[leaf.status])))];
                l.push(Kind::StatusFreed, None, Outcome::Recorded, body);
            }),
        ),
    ];
    for (what, flaw, change) in cases {
        let mut ledger = begun();
        change(&mut ledger);
        let history = ledger.now();
        let expected: Vec<&str> = [flaw].into_iter().filter(|flaw| !flaw.is_empty()).collect();
        assert_eq!(names(&history), expected, "{what}");
    }
}

#[test]
fn a_freed_place_is_told_apart_from_who_gets_it_next() {
    let node = entry(0, None);
    let first = entry(1, Some(&node));
    let mut ledger = Ledger::new();
    ledger.grant(&node);
    ledger.grant(&first);
    ledger.time = 2_000;
    let body = vec![(0, Value::bytes(set::encode(&[first.status])))];
    ledger.push(Kind::StatusFreed, None, Outcome::Recorded, body);
    let mut longer = node.clone();
    longer.expires = 3_000;
    ledger.grant(&longer);
    let mut second = first.clone();
    second.subject = "next@node".into();
    second.cti = [77; 16];
    second.expires = 2_500;
    ledger.grant(&second);
    let history = ledger.now();
    assert_eq!(names(&history), [""; 0]);
    assert_eq!(whole(&history, &first.subject, 2_100).state, "freed");
    assert_eq!(whole(&history, "next@node", 2_100).state, "valid");
    let tree = whole(&history, "node-0", 2_100);
    assert_eq!(states(&tree).keys().collect::<Vec<_>>(), ["next@node", "node-0"]);
    let by_id = history.trees(Named::Id, &hex::encode(first.cti), 2_100);
    assert_eq!(by_id[0].entry.subject, first.subject);
}

#[test]
fn what_denials_took_in_ledgers_of_earlier_releases() {
    let node = entry(0, None);
    let mut ledger = Ledger::new();
    ledger.grant(&node);
    for (semantics, state) in [
        (touchstone_verifier::SEMANTICS_ID, "valid"),
        ("touchstone-semantics/5", "valid"),
        ("touchstone-semantics/4", "revoked"),
    ] {
        let denied = ledger.push(Kind::Attestation, Some("node-0"), Outcome::Deny, vec![]);
        denied.semantics = semantics.into();
        denied.inputs.insert("enrolled".into(), [0; 32]);
        assert_eq!(whole(&ledger.now(), "node-0", 500).state, state, "{semantics}");
    }
    let mut early = Ledger::new();
    early.grant(&node);
    early.push(
        Kind::Revocation,
        Some("node-0"),
        Outcome::Recorded,
        vec![(0, Value::Unsigned(3))],
    );
    assert_eq!(whole(&early.now(), "node-0", 500).state, "revoked");
}

#[test]
fn what_is_handed_on_off_line_is_told_at_its_first_use_and_falls_with_what_it_hangs_below() {
    let node = entry(0, None);
    let child = entry(1, Some(&node));
    let mut ledger = Ledger::new();
    ledger.grant(&node);
    ledger.grant(&child);
    let link = |id: u8, label: &str, expires: u64| {
        Value::array([
            Value::bytes([id; 16]),
            Value::text(label),
            Value::bytes([0; 32]),
            Value::array([Value::text("execute:job-1")]),
            Value::Unsigned(expires),
            Value::Unsigned(0),
        ])
    };
    let report = |links: Vec<Value>| {
        vec![
            (0, Value::text("proxy-1")),
            (1, Value::text(child.subject.as_str())),
            (2, status_value(&child.status)),
            (3, Value::bytes(child.cti)),
            (4, Value::array(links)),
            (5, Value::bytes([0; 32])),
        ]
    };
    let first = vec![link(0xA1, "helper", 600), link(0xA2, "below-helper", 300)];
    ledger.push(Kind::ChainReport, None, Outcome::Recorded, report(first.clone()));
    ledger.push(Kind::ChainReport, None, Outcome::Recorded, report(first));
    ledger.push(
        Kind::ChainReport,
        None,
        Outcome::Recorded,
        report(vec![link(0xA3, "other", 600)]),
    );
    let used = |subject: &str| {
        let cells = [
            Value::text(subject),
            status_value(&child.status),
            Value::text("execute:job-1"),
            Value::Unsigned(1),
            Value::text("allow"),
            Value::bytes([0; 32]),
        ];
        Value::array(cells)
    };
    let rows = Value::array([used(&child.subject), used("helper@node")]);
    ledger.push(
        Kind::UseReport,
        None,
        Outcome::Recorded,
        vec![(0, Value::text("proxy-1")), (1, rows)],
    );
    let states = |ledger: &Ledger, now: i64| -> Vec<(String, &'static str)> {
        let tree = whole(&ledger.now(), &child.subject, now);
        tree.offline
            .iter()
            .map(|(link, state)| (link.label.clone(), *state))
            .collect()
    };
    let told = |state: [&'static str; 3]| -> Vec<(String, &'static str)> {
        ["helper", "below-helper", "other"]
            .map(str::to_owned)
            .into_iter()
            .zip(state)
            .collect()
    };
    assert_eq!(states(&ledger, 100), told(["valid"; 3]), "each once");
    assert_eq!(states(&ledger, 400), told(["valid", "expired", "valid"]));
    let tree = whole(&ledger.now(), &child.subject, 100);
    assert_eq!(tree.offline[1].0.above, Some([0xA1; 16]));
    let happened: Vec<&str> = tree.events.iter().map(|event| event.detail.as_str()).collect();
    assert!(happened.contains(&"execute:job-1 at proxy-1: allow"), "{happened:?}");
    assert!(
        happened.contains(&"execute:job-1 by helper@node at proxy-1: allow"),
        "{happened:?}"
    );
    let found = ledger.now().trees(Named::Id, &hex::encode([0xA2; 16]), 100);
    assert_eq!(found[0].entry.subject, child.subject);

    let id = hex::encode([0xA1; 16]);
    let body = vec![
        (17, Value::text("revoke")),
        (18, Value::array([Value::text("lineage"), Value::text(id.as_str())])),
    ];
    ledger.push(Kind::Command, None, Outcome::Recorded, body);
    assert_eq!(
        states(&ledger, 100),
        told(["revoked", "revoked", "valid"]),
        "it and what hangs below it"
    );
    ledger.fall(
        Kind::Revocation,
        &child.subject,
        Mark::Revoked,
        &[child.status],
        &[child.status],
    );
    assert_eq!(states(&ledger, 100), told(["revoked"; 3]));
    assert_eq!(names(&ledger.now()), [""; 0]);
}

#[test]
fn a_long_life_is_told_in_bounded_room() {
    let node = entry(0, None);
    let mut ledger = Ledger::new();
    ledger.grant(&node);
    for n in 0..MAX_EVENTS as u64 + 50 {
        let body = vec![
            (0, Value::text(format!("key-{n}"))),
            (1, Value::Unsigned(1)),
            (5, Value::bytes(node.cti)),
        ];
        ledger.push(Kind::KeyRelease, Some("node-0"), Outcome::Allow, body);
    }
    let tree = whole(&ledger.now(), "node-0", 500);
    assert_eq!((tree.events.len(), tree.left_out), (MAX_EVENTS, 51));
    assert_eq!(
        (tree.events[0].what.as_str(), tree.events[1].detail.as_str()),
        ("attestation", "key-0, version 1")
    );
    assert_eq!(tree.events.last().unwrap().detail, "key-305, version 1");
}

proptest! {
    #[test]
    fn a_fold_of_statements_is_what_the_broker_did(
        rests in prop::collection::vec((proptest::option::weighted(0.8, 0..1_000_usize), proptest::option::of(0..1_000_usize)), 1..25),
        falls in prop::collection::vec((0..1_000_usize, any::<bool>()), 0..6),
    ) {
        let mut ledger = Ledger::new();
        let mut graph = Graph::default();
        let mut made: Vec<Entry> = Vec::new();
        for (n, (parent, on)) in rests.iter().enumerate() {
            let parent = parent.filter(|_| n > 0).map(|parent| made[parent % n].clone());
            let mut new = entry(n as u64, parent.filter(|parent| parent.depth < 10).as_ref());
            new.subject = format!("subject-{n}");
            let on = on.filter(|_| n > 0).map(|on| Dependency { on: made[on % n].status, why: Link::DependsOn });
            // A node's statement says nothing of dependencies: it has none.
            new.depends_on = on.into_iter().filter(|_| new.parent.is_some()).collect();
            graph.insert(&new).unwrap();
            ledger.grant(&new);
            made.push(new);
        }
        let mut expected: BTreeMap<String, &str> = made.iter().map(|e| (e.subject.clone(), "valid")).collect();
        for (root, revoked) in falls {
            let root = &made[root % made.len()];
            let set = graph.closure(&[root.status]);
            let (kind, mark) = if revoked { (Kind::Revocation, Mark::Revoked) } else { (Kind::Quarantine, Mark::Suspended) };
            ledger.fall(kind, &root.subject, mark, &[root.status], &set);
            for entry in &made {
                let state = expected.get_mut(&entry.subject).unwrap();
                if set.contains(&entry.status) && *state != "revoked" {
                    *state = mark.as_str();
                }
            }
        }
        let history = ledger.now();
        prop_assert_eq!(names(&history), [""; 0]);
        for entry in &made {
            let tree = whole(&history, &entry.subject, 500);
            prop_assert_eq!(tree.state, expected[&entry.subject], "{}", &entry.subject);
        }
    }

    #[test]
    fn no_statement_makes_it_panic(kinds in prop::collection::vec((prop::sample::select(Kind::ALL), 0..8_i64, any::<u64>(), any::<bool>()), 0..20)) {
        let mut history = History::default();
        let node = entry(0, None);
        let mut ledger = Ledger::new();
        ledger.grant(&node);
        for (kind, member, number, allow) in kinds {
            let outcome = if allow { Outcome::Allow } else { Outcome::Deny };
            let body = vec![(member, Value::Unsigned(number)), (BODY_LINEAGE, node.value())];
            ledger.push(kind, Some("node-0"), outcome, body);
        }
        for (index, statement) in (0..).zip(&ledger.statements) {
            history.apply(index, statement);
        }
        let _ = history.trees(Named::Subject, "node-0", 5);
    }
}
