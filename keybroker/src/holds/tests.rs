use touchstone_cose::cbor::{self, Value};
use touchstone_policies::Extent;
use touchstone_verifier::inventory::Node;

use super::row::LIMITS;
use super::*;
use crate::trust::place;

fn hold(number: u64, over: Over, lifted: Option<i64>) -> Hold {
    Hold {
        number,
        over,
        why: "odd traffic".into(),
        set: [number as u8; 32],
        since: 100,
        lifted,
        exact: true,
        by: Maker::Command,
    }
}

fn places(numbers: &[u64]) -> Vec<StatusIndex> {
    numbers.iter().map(|n| place(*n, 1).unwrap()).collect()
}

fn zone(zone: Option<&str>, region: Option<&str>) -> Over {
    let (zone, region) = (zone.map(str::to_owned), region.map(str::to_owned));
    Over::Nodes(Extent::Zone { zone, region })
}

const CLUSTER: Over = Over::Nodes(Extent::Cluster);

#[test]
fn rows_come_back_as_written_and_cut_ones_do_not() {
    let region = Over::Nodes(Extent::Region("r".into()));
    for over in [
        Over::Subject("a".into()),
        zone(Some("z"), None),
        zone(None, Some("r")),
        region,
        CLUSTER,
    ] {
        for lifted in [None, Some(200)] {
            let hold = hold(3, over.clone(), lifted);
            let bytes = hold.encode();
            assert_eq!(Hold::decode(&bytes), Ok(hold));
            for cut in 0..bytes.len() {
                assert!(Hold::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
    }
    for by in [Maker::Failure, Maker::Detector("monitor".into())] {
        let hold = Hold {
            by,
            ..hold(3, CLUSTER, None)
        };
        assert_eq!(Hold::decode(&hold.encode()), Ok(hold));
    }
    let nameless = Hold {
        over: Over::Subject(String::new()),
        ..hold(1, CLUSTER, None)
    };
    assert!(Hold::decode(&nameless.encode()).is_err());
}

#[test]
fn a_hold_is_over_whom_it_names_and_nobody_else() {
    let node = |zone: Option<&str>| Node {
        name: "n1".into(),
        region: "r".into(),
        zone: zone.map(str::to_owned),
        ..Node::default()
    };
    let (in_a, in_none) = (node(Some("a")), node(None));
    for (over, subject, place, expected) in [
        (Over::Subject("n1".into()), "n1", None, true),
        (Over::Subject("n1".into()), "x@n1", None, true),
        (Over::Subject("n1".into()), "n10", None, false),
        (Over::Subject("x@n1".into()), "x@n1", None, true),
        (Over::Subject("x@n1".into()), "n1", None, false),
        (Over::Subject("x@n1".into()), "y@n1", None, false),
        (zone(Some("a"), None), "n1", Some(&in_a), true),
        (zone(Some("b"), None), "n1", Some(&in_a), false),
        (zone(Some("a"), Some("other")), "n1", Some(&in_a), false),
        (zone(Some("a"), None), "n1", Some(&in_none), false),
        (zone(Some("a"), None), "n1", None, false),
        (Over::Nodes(Extent::Region("r".into())), "n1", Some(&in_none), true),
        (CLUSTER, "n1", None, true),
        (CLUSTER, "x@n1", Some(&in_a), true),
    ] {
        assert_eq!(over.is_over(subject, place), expected, "{over:?} {subject}");
    }
}

#[test]
fn a_lift_lifts_what_it_names() {
    let node = Over::Subject("n".into());
    for (standing, commanded, expected) in [
        (&node, &node, true),
        (&node, &CLUSTER, false),
        (&CLUSTER, &node, false),
        (&CLUSTER, &CLUSTER, true),
        (&zone(Some("a"), Some("r")), &zone(Some("a"), None), true),
        (&zone(Some("a"), None), &zone(Some("b"), None), false),
        (&zone(Some("a"), None), &CLUSTER, true),
        (&zone(None, Some("r")), &CLUSTER, true),
        (&Over::Nodes(Extent::Region("r".into())), &CLUSTER, true),
        (&Over::Nodes(Extent::Region("r".into())), &zone(Some("a"), None), false),
        (&CLUSTER, &zone(Some("a"), None), false),
    ] {
        assert_eq!(
            standing.is_lifted_by(commanded),
            expected,
            "{standing:?} by {commanded:?}"
        );
    }
}

#[test]
fn rows_of_the_release_before_are_holds_by_command() {
    let hold = hold(3, CLUSTER, None);
    let Value::Map(members) = cbor::decode(&hold.encode(), LIMITS).unwrap() else {
        panic!()
    };
    let before = members.into_iter().filter(|(key, _)| *key != Value::Unsigned(8));
    let before = before.map(|(key, value)| match key {
        Value::Unsigned(0) => (key, Value::Unsigned(1)),
        _ => (key, value),
    });
    let bytes = cbor::encode(&Value::Map(before.collect()));
    assert_eq!(Hold::decode(&bytes), Ok(hold));
}

#[test]
fn every_hold_is_read_however_many_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let store = touchstone_store::RedbStore::open(&folder.path().join("store")).unwrap();
    let bytes = set::encode(&[]);
    let digest = set::digest(&bytes);
    let mut batch = touchstone_store::Batch::new();
    for (key, value) in parts::writes(&digest, &bytes).unwrap() {
        batch.put(key, value);
    }
    // More than the store gives in one answer.
    for number in 1..=touchstone_store::MAX_RANGE_ROWS as u64 + 5 {
        let hold = Hold {
            set: digest,
            ..hold(number, CLUSTER, None)
        };
        batch.put(hold.key(), hold.encode());
    }
    store.commit(batch).unwrap();
    let read = load(&store, 1).unwrap();
    let numbers: Vec<u64> = read.iter().map(|(hold, _)| hold.number).collect();
    assert_eq!(
        numbers,
        (1..=touchstone_store::MAX_RANGE_ROWS as u64 + 5).collect::<Vec<_>>()
    );
}

#[test]
fn what_comes_back_was_taken_by_a_lifted_hold_and_is_kept_by_none() {
    let set = |numbers: &[u64]| places(numbers).into_iter().collect::<HashSet<_>>();
    let of = |holds: Vec<(Hold, HashSet<StatusIndex>)>| Holds::new(holds).coming_back(|| places(&[1, 2, 3, 4]));
    let lifted = (hold(1, Over::Subject("n".into()), Some(200)), set(&[1, 2]));
    assert_eq!(of(vec![lifted.clone()]), places(&[1, 2]));
    let standing = (hold(2, CLUSTER, None), set(&[2, 3]));
    assert_eq!(
        of(vec![lifted.clone(), standing.clone()]),
        places(&[1]),
        "another hold keeps it"
    );
    assert_eq!(of(vec![standing]), [], "nothing is lifted");
    let mut inexact = lifted;
    inexact.0.exact = false;
    assert_eq!(of(vec![inexact]), [], "after a stop in disorder each shows itself");
}
