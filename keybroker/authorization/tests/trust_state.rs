//! From one trust state to the next: what an enforcer takes, and every way to show it something else.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::*;
use touchstone_authorization::trust_frame::MAX_FRAME_BYTES;
use touchstone_authorization::{
    Body, KeyRing, ListHead, RevokedIds, SignedError, Status, StatusArray, StatusLists, TrustFrame, TrustHead,
    TrustStateError, TrustView,
};
use touchstone_cose::key::SigningKey;

fn keys() -> KeyRing {
    ring(&[&trust_key()])
}

fn accept(previous: Option<&TrustView>, frame: &[u8]) -> Result<TrustView, TrustStateError> {
    TrustView::accept(previous, frame, &keys(), DOMAIN, NOW_MS)
}

fn code(result: Result<TrustView, TrustStateError>) -> &'static str {
    result.err().map_or("accepted", |error| error.code().as_str())
}

/// The view of the world's first head, and that head.
fn held() -> (TrustView, TrustHead, StatusLists) {
    let lists = lists(&[]);
    let head = head(&lists);
    (accept(None, &full_frame(&head, &lists)).unwrap(), head, lists)
}

fn signed(head: &TrustHead) -> Vec<u8> {
    head.encode_signed(&trust_key()).unwrap()
}

/// The head that follows `head` with `lists`, an epoch later.
fn next(head: &TrustHead, lists: &StatusLists) -> TrustHead {
    TrustHead {
        epoch: head.epoch + 1,
        lists: ListHead::of(lists),
        issued_at_ms: head.issued_at_ms + 1_000,
        fresh_until_ms: head.fresh_until_ms + 1_000,
        ..head.clone()
    }
}

#[test]
fn a_revocation_travels_as_one_page() {
    let (view, head, before) = held();
    let after = lists(&[(STATUS.index, Status::Invalid)]);
    let next = next(&head, &after);
    let delta = TrustFrame::delta(
        &signed(&next),
        head.epoch,
        (&before, RevokedIds::none()),
        (&after, RevokedIds::none()),
    )
    .encode();
    assert!(delta.len() < 600, "{} bytes", delta.len());
    let taken = accept(Some(&view), &delta).unwrap();
    assert_eq!(taken.lists(), &after);
    assert_eq!(taken.head(), &next);
    let whole = accept(Some(&view), &full_frame(&next, &after)).unwrap();
    assert_eq!(whole, taken, "whole or as pages, it is the same trust state");
    // Who missed a frame in between can still use a delta from an earlier epoch.
    let later = TrustHead {
        epoch: next.epoch + 1,
        ..next.clone()
    };
    let from_before = TrustFrame::delta(
        &signed(&later),
        head.epoch,
        (&before, RevokedIds::none()),
        (&after, RevokedIds::none()),
    )
    .encode();
    assert_eq!(accept(Some(&taken), &from_before).unwrap().lists(), &after);
}

#[test]
fn a_list_may_grow_and_a_new_one_may_begin() {
    let (view, head, before) = held();
    let longer = before.get(STATUS.list).unwrap().to_bytes();
    let longer =
        StatusArray::from_bytes(4 * (longer.len() as u32 + 9_000), &[longer, vec![0; 9_000]].concat()).unwrap();
    let after = StatusLists::new([
        (1, before.get(1).unwrap().clone()),
        (STATUS.list, longer),
        (
            9,
            StatusArray::new(70_000)
                .unwrap()
                .with([(69_999, Status::Suspended)])
                .unwrap(),
        ),
    ])
    .unwrap();
    let next = next(&head, &after);
    let delta = TrustFrame::delta(
        &signed(&next),
        head.epoch,
        (&before, RevokedIds::none()),
        (&after, RevokedIds::none()),
    )
    .encode();
    assert_eq!(accept(Some(&view), &delta).unwrap().lists(), &after);
}

#[test]
fn heartbeats_keep_it_fresh_and_change_nothing() {
    let (view, head, _) = held();
    assert!(view.fresh(NOW_MS + 8_999, WINDOW_MS));
    assert!(!view.fresh(NOW_MS + 9_000, WINDOW_MS), "fresh-until ends it");
    assert!(!view.fresh(NOW_MS + 4_000, 4_000), "the window ends it");
    let beat = TrustHead {
        issued_at_ms: head.issued_at_ms + 1_000,
        fresh_until_ms: head.fresh_until_ms + 1_000,
        ledger_size: head.ledger_size + 40,
        ledger_root: [0x2e; 32],
        term: head.term + 1,
        ..head
    };
    let beat = TrustFrame::heartbeat(&signed(&beat)).encode();
    assert!(beat.len() < 500, "{} bytes", beat.len());
    let taken = TrustView::accept(Some(&view), &beat, &keys(), DOMAIN, NOW_MS + 1_000).unwrap();
    assert_eq!(taken.lists(), view.lists());
    assert!(taken.fresh(NOW_MS + 9_999, WINDOW_MS));
}

#[test]
fn hearing_the_same_head_again_does_not_keep_it_fresh() {
    let lists = lists(&[]);
    let head = TrustHead {
        fresh_until_ms: NOW_MS + 600_000,
        ..head(&lists)
    };
    let frame = full_frame(&head, &lists);
    let view = accept(None, &frame).unwrap();
    for later in [1_000, 5_000, 9_999, 20_000] {
        let again = TrustView::accept(Some(&view), &frame, &keys(), DOMAIN, NOW_MS + later).unwrap();
        assert_eq!(again.received_at_ms(), NOW_MS);
        assert!(!again.fresh(NOW_MS + WINDOW_MS, WINDOW_MS));
    }
}

#[test]
#[rustfmt::skip]
fn what_must_follow() {
    let (view, head, _) = held();
    let other = lists(&[(5, Status::Invalid)]);
    let again = TrustHead {
        fresh_until_ms: head.fresh_until_ms + 1,
        issued_at_ms: head.issued_at_ms + 1,
        ..head.clone()
    };
    let forked = |change: fn(&mut TrustHead)| {
        let mut head = again.clone();
        change(&mut head);
        code(accept(Some(&view), &TrustFrame::heartbeat(&signed(&head)).encode()))
    };
    for (attack, found, expected) in [
        ("another heartbeat", forked(|_| {}), "accepted"),
        ("epoch going back", forked(|h| h.epoch -= 1), "trust-state-epoch-back"),
        ("epoch going back to nothing", forked(|h| h.epoch = 0), "trust-state-epoch-back"),
        ("generation going back with a huge epoch", forked(|h| (h.generation, h.epoch) = (1, u64::MAX)), "trust-state-epoch-back"),
        ("same epoch, other policy version", forked(|h| h.policy_version += 1), "trust-state-forked"),
        ("same epoch, other policy", forked(|h| h.policy_digest[0] ^= 1), "trust-state-forked"),
        ("same epoch, other keyset", forked(|h| h.keyset_version += 1), "trust-state-forked"),
        ("same epoch, other list digest", forked(|h| h.lists[0].digest[0] ^= 1), "trust-state-forked"),
        ("same epoch, longer list", forked(|h| h.lists[0].entries += 1), "trust-state-forked"),
        ("same epoch, a list less", forked(|h| h.lists.truncate(1)), "trust-state-forked"),
        ("older heartbeat", forked(|h| h.fresh_until_ms -= 2), "trust-state-fresh-until-back"),
        ("shorter ledger", forked(|h| h.ledger_size -= 1), "trust-state-ledger-back"),
        ("same ledger size, other root", forked(|h| h.ledger_root[0] ^= 1), "trust-state-forked"),
        ("a later epoch without its lists", forked(|h| h.epoch += 1), "trust-state-body-missing"),
        ("a later generation without its lists", forked(|h| h.generation += 1), "trust-state-body-missing"),
        ("another domain", forked(|h| h.domain = "other.example".into()), "trust-state-domain"),
    ] {
        assert_eq!(found, expected, "{attack}");
    }
    // Two histories name both digests, so that they can be reported.
    let fork = TrustHead {
        lists: ListHead::of(&other),
        ..again
    };
    let Err(TrustStateError::Forked { held, found, .. }) = accept(Some(&view), &full_frame(&fork, &other)) else {
        panic!("a fork was taken");
    };
    assert_eq!((held, found), (head.contents_digest(), fork.contents_digest()));
}

#[test]
fn taking_away_is_taken_even_with_less_time() {
    let (view, head, _) = held();
    let after = lists(&[(STATUS.index, Status::Invalid)]);
    let next = TrustHead {
        fresh_until_ms: head.fresh_until_ms - 3_000,
        ..next(&head, &after)
    };
    let taken = accept(Some(&view), &full_frame(&next, &after)).unwrap();
    assert_eq!(taken.fresh_until_ms(WINDOW_MS), head.fresh_until_ms - 3_000);
}

#[test]
fn a_new_generation_starts_over() {
    let (view, head, _) = held();
    let lists = lists(&[]);
    let restored = TrustHead {
        generation: 3,
        epoch: 1,
        ledger_size: 2,
        ledger_root: [9; 32],
        ..next(&head, &lists)
    };
    let taken = accept(Some(&view), &full_frame(&restored, &lists)).unwrap();
    assert_eq!(taken.head().generation, 3);
    assert_eq!(
        code(accept(Some(&taken), &full_frame(&next(&head, &lists), &lists))),
        "trust-state-epoch-back"
    );
    let delta = TrustFrame::delta(
        &signed(&restored),
        0,
        (&lists, RevokedIds::none()),
        (&lists, RevokedIds::none()),
    )
    .encode();
    assert_eq!(
        code(accept(Some(&view), &delta)),
        "trust-state-delta-base",
        "a delta never crosses a generation"
    );
}

#[test]
#[rustfmt::skip]
fn signatures_and_keys() {
    let lists = lists(&[]);
    let head = head(&lists);
    let frame = |head: Vec<u8>| TrustFrame::full(&head, &lists, RevokedIds::none()).encode();
    let mut forged = signed(&head);
    *forged.last_mut().unwrap() ^= 1;
    let authorization = Case::default().authorization_bytes();
    for (attack, frame, expected) in [
        ("forged", frame(forged), "trust-state-signature"),
        ("by a stranger", frame(head.encode_signed(&SigningKey::from_seed([9; 32])).unwrap()), "trust-state-key-unknown"),
        ("by the authorization key", frame(head.encode_signed(&issuer()).unwrap()), "trust-state-key-unknown"),
        ("an authorization in its place", frame(authorization[2..].to_vec()), "trust-state-type"),
        ("empty head", frame(vec![]), "trust-state-malformed"),
        ("endless head", frame(vec![0; 1 << 16]), "trust-state-too-large"),
        ("endless frame", vec![0; MAX_FRAME_BYTES + 1], "trust-state-too-large"),
        ("no frame", vec![], "trust-state-malformed"),
    ] {
        assert_eq!(code(accept(None, &frame)), expected, "{attack}");
    }
    let after_the_key = (NOW_S + 3_600) * 1_000;
    let late = TrustView::accept(None, &full_frame(&head, &lists), &keys(), DOMAIN, after_the_key);
    assert!(matches!(
        late,
        Err(TrustStateError::Signed(SignedError::KeyUnknown { .. }))
    ));
}

#[test]
#[rustfmt::skip]
fn bodies_that_do_not_give_the_digests() {
    let bomb = touchstone_cose::status_list::StatusList::from_zlib(&TestZlib::bomb());
    assert!(matches!(bomb, Err(touchstone_cose::status_list::StatusListError::TooLarge { .. })), "the bomb is one");
    let (view, head, before) = held();
    let after = lists(&[(STATUS.index, Status::Invalid)]);
    let next = next(&head, &after);
    let good = |lists: &StatusLists| match TrustFrame::full(&[], lists, RevokedIds::none()).body {
        Body::Full { lists, .. } => lists,
        _ => unreachable!(),
    };
    let full = |change: fn(&mut std::collections::BTreeMap<u16, Vec<u8>>)| {
        let mut lists = good(&after);
        change(&mut lists);
        let frame = TrustFrame {
            head: signed(&next),
            body: Body::Full {
                lists,
                revoked: RevokedIds::default(),
            },
        };
        [
            code(accept(None, &frame.encode())),
            code(accept(Some(&view), &frame.encode())),
        ]
    };
    for (attack, found, expected) in [
        ("as it should be", full(|_| {}), "accepted"),
        ("a list missing", full(|l| drop(l.remove(&1))), "trust-state-body-missing"),
        ("a list too many", full(|l| drop(l.insert(7, vec![]))), "trust-state-malformed"),
        ("the older list", full(|l| drop(l.insert(3, TestZlib::of(&[0; 10_000])))), "trust-state-digest"),
        ("a shorter list", full(|l| drop(l.insert(3, TestZlib::of(&[0; 9_999])))), "trust-state-inflated"),
        ("a longer list", full(|l| drop(l.insert(3, TestZlib::of(&[0; 10_001])))), "trust-state-inflated"),
        ("a list that inflates without end", full(|l| drop(l.insert(3, TestZlib::bomb()))), "trust-state-inflated"),
        ("not a zlib stream", full(|l| drop(l.insert(3, vec![1, 2, 3]))), "trust-state-inflated"),
        ("bytes after the stream", full(|l| l.get_mut(&3).unwrap().push(0)), "trust-state-inflated"),
    ] {
        assert_eq!(found, [expected; 2], "{attack}");
    }

    let delta = |base_epoch: u64, pages: &[(u16, u16, Vec<u8>)]| {
        let mut map: std::collections::BTreeMap<u16, std::collections::BTreeMap<u16, Vec<u8>>> = Default::default();
        for (list, page, bytes) in pages {
            map.entry(*list).or_default().insert(*page, bytes.clone());
        }
        let frame = TrustFrame {
            head: signed(&next),
            body: Body::Delta {
                base_epoch,
                pages: map,
                revoked: None,
            },
        };
        frame.encode()
    };
    let page = TestZlib::of(after.get(3).unwrap().page(1).unwrap());
    let good = delta(head.epoch, &[(3, 1, page.clone())]);
    for (attack, found, expected) in [
        ("as it should be", accept(Some(&view), &good), "accepted"),
        ("without what it builds on", accept(None, &good), "trust-state-delta-base"),
        ("builds on a later epoch", accept(Some(&view), &delta(head.epoch + 1, &[(3, 1, page.clone())])), "trust-state-delta-base"),
        ("a page left out", accept(Some(&view), &delta(head.epoch, &[])), "trust-state-digest"),
        ("another page", accept(Some(&view), &delta(head.epoch, &[(3, 0, page.clone())])), "trust-state-digest"),
        ("a page of another list", accept(Some(&view), &delta(head.epoch, &[(1, 0, page.clone())])), "trust-state-inflated"),
        ("a page of an unknown list", accept(Some(&view), &delta(head.epoch, &[(3, 1, page.clone()), (8, 0, page.clone())])), "trust-state-malformed"),
        ("a page beyond the end", accept(Some(&view), &delta(head.epoch, &[(3, 1, page.clone()), (3, 60_000, TestZlib::of(&[]))])), "trust-state-malformed"),
        ("a page that inflates without end", accept(Some(&view), &delta(head.epoch, &[(3, 1, TestZlib::bomb())])), "trust-state-inflated"),
        ("an older page", accept(Some(&view), &delta(head.epoch, &[(3, 1, TestZlib::of(before.get(3).unwrap().page(1).unwrap()))])), "trust-state-digest"),
    ] {
        assert_eq!(code(found), expected, "{attack}");
    }
    assert!(accept(None, &good).unwrap_err().wants_full());
}

#[test]
fn every_changed_byte_of_a_frame_is_refused_or_without_effect() {
    let (view, head, before) = held();
    let after = lists(&[(STATUS.index, Status::Invalid)]);
    let next = next(&head, &after);
    let delta = TrustFrame::delta(
        &signed(&next),
        head.epoch,
        (&before, RevokedIds::none()),
        (&after, RevokedIds::none()),
    )
    .encode();
    let good = accept(Some(&view), &delta).unwrap();
    for position in 0..delta.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut changed = delta.clone();
            changed[position] ^= mask;
            // The body is not signed: another spelling of the same pages is the same trust state.
            if let Ok(taken) = accept(Some(&view), &changed) {
                assert_eq!(taken, good, "byte {position}, mask {mask:#x}");
            }
        }
    }
}

/// zlib streams made by the status list of `touchstone-cose`, and one that is larger than any list.
struct TestZlib;

impl TestZlib {
    fn of(bytes: &[u8]) -> Vec<u8> {
        touchstone_cose::status_list::StatusList::from_bytes(bytes.to_vec())
            .unwrap()
            .to_zlib()
    }

    /// RFC 1951 block with fixed codes: one zero byte, then copies of length 258 at distance 1, some 10 MB of them.
    fn bomb() -> Vec<u8> {
        let (mut bits, mut stream) = (Vec::new(), vec![0x78, 0x9c]);
        bits.extend([1, 1, 0]);
        bits.extend([0, 0, 1, 1, 0, 0, 0, 0]);
        for _ in 0..40_000 {
            bits.extend([1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]);
        }
        bits.extend([0; 7]);
        for byte in bits.chunks(8) {
            stream.push(byte.iter().enumerate().map(|(at, bit)| bit << at).sum());
        }
        stream.extend([0; 4]);
        stream
    }
}

#[test]
#[rustfmt::skip]
fn heads_that_cannot_be_signed() {
    let good = head(&lists(&[]));
    for (what, change) in [
        ("a domain that is not a name", (|h| h.domain = "a b".into()) as fn(&mut TrustHead)),
        ("lists out of order", |h| h.lists.reverse()),
        ("a list twice", |h| h.lists[1] = h.lists[0]),
        ("no revoked ids, counted", |h| h.revoked = Some(touchstone_authorization::RevokedHead { count: 0, digest: [0; 32] })),
        ("too many revoked ids", |h| h.revoked = Some(touchstone_authorization::RevokedHead { count: 1_025, digest: [0; 32] })),
        ("too many lists", |h| {
            h.lists = (0..17).map(|number| ListHead { number, ..h.lists[0] }).collect()
        }),
        ("an empty list", |h| h.lists[0].entries = 0),
        ("a list that is too long", |h| h.lists[0].entries = (1 << 20) + 1),
    ] {
        let mut head = good.clone();
        change(&mut head);
        assert!(
            matches!(head.encode_signed(&trust_key()), Err(SignedError::Malformed(_))),
            "{what}"
        );
    }
}

fn ids(ids: &[u8]) -> RevokedIds {
    RevokedIds::new(ids.iter().map(|id| [*id; 16])).unwrap()
}

/// A head that takes back these delegations and changes nothing else, an epoch after `head`.
fn taking_back(head: &TrustHead, lists: &StatusLists, revoked: &RevokedIds) -> TrustHead {
    TrustHead {
        revoked: revoked.head(),
        ..next(head, lists)
    }
}

#[test]
fn a_delegation_that_is_taken_back_travels_as_its_id() {
    let (view, head, lists) = held();
    let none = RevokedIds::none();
    let one = ids(&[7]);
    let next = taking_back(&head, &lists, &one);
    let delta = TrustFrame::delta(&signed(&next), head.epoch, (&lists, none), (&lists, &one)).encode();
    assert!(delta.len() < 500, "{} bytes", delta.len());
    let taken = accept(Some(&view), &delta).unwrap();
    assert!(taken.is_revoked(&[7; 16]) && !taken.is_revoked(&[8; 16]) && !view.is_revoked(&[7; 16]));
    let whole = TrustFrame::full(&signed(&next), &lists, &one).encode();
    assert_eq!(accept(Some(&view), &whole).unwrap(), taken);
    assert_eq!(accept(None, &whole).unwrap().revoked(), &one);

    // A heartbeat keeps it, and so does a delta that changes something else.
    let beat = TrustHead {
        issued_at_ms: next.issued_at_ms + 1,
        fresh_until_ms: next.fresh_until_ms + 1,
        ..next.clone()
    };
    let beat = accept(Some(&taken), &TrustFrame::heartbeat(&signed(&beat)).encode()).unwrap();
    assert_eq!(beat.revoked(), &one);
    let after = common::lists(&[(STATUS.index, Status::Invalid)]);
    let later = taking_back(&next, &after, &one);
    let delta = TrustFrame::delta(&signed(&later), next.epoch, (&lists, &one), (&after, &one));
    assert!(
        matches!(&delta.body, Body::Delta { revoked: None, .. }),
        "what did not change does not travel"
    );
    let taken = accept(Some(&taken), &delta.encode()).unwrap();
    assert_eq!((taken.revoked(), taken.lists()), (&one, &after));

    // Its time is over: it is dropped, by an epoch like any other change.
    let last = taking_back(&later, &after, none);
    let delta = TrustFrame::delta(&signed(&last), later.epoch, (&after, &one), (&after, none)).encode();
    assert!(accept(Some(&taken), &delta).unwrap().revoked().is_empty());
}

#[test]
#[rustfmt::skip]
fn revoked_ids_that_are_not_the_heads() {
    let (view, head, lists) = held();
    let none = RevokedIds::none();
    let (one, other) = (ids(&[7]), ids(&[8]));
    let with_one = taking_back(&head, &lists, &one);
    let held_one = accept(Some(&view), &TrustFrame::full(&signed(&with_one), &lists, &one).encode()).unwrap();
    let two = taking_back(&with_one, &lists, &ids(&[7, 9]));
    let full = |head: &TrustHead, revoked: &RevokedIds| TrustFrame::full(&signed(head), &lists, revoked).encode();
    let delta = |head: &TrustHead, base: u64, revoked: Option<RevokedIds>| {
        TrustFrame { head: signed(head), body: Body::Delta { base_epoch: base, pages: Default::default(), revoked } }.encode()
    };
    let same_epoch = TrustHead { epoch: with_one.epoch, ..two.clone() };
    let restored = TrustHead { generation: 3, ..with_one.clone() };
    for (attack, found, expected) in [
        ("as it should be", accept(Some(&held_one), &delta(&two, with_one.epoch, Some(ids(&[7, 9])))), "accepted"),
        ("left out of the whole state", accept(None, &full(&with_one, none)), "trust-state-revoked-ids"),
        ("left out of the whole state, for who holds the lists", accept(Some(&view), &full(&with_one, none)), "trust-state-revoked-ids"),
        ("another one in its place", accept(Some(&view), &full(&with_one, &other)), "trust-state-revoked-ids"),
        ("one more than the head says", accept(Some(&view), &full(&with_one, &ids(&[7, 8]))), "trust-state-revoked-ids"),
        ("one that the head does not know", accept(Some(&view), &full(&next(&head, &lists), &one)), "trust-state-revoked-ids"),
        ("as many as may be, that the head does not know", accept(Some(&view), &full(&next(&head, &lists), &RevokedIds::new((0..1_024_u16).map(|n| { let mut id = [0; 16]; id[..2].copy_from_slice(&n.to_be_bytes()); id })).unwrap())), "trust-state-revoked-ids"),
        ("left out of a delta", accept(Some(&view), &delta(&with_one, head.epoch, None)), "trust-state-revoked-ids"),
        ("the older ones in a delta", accept(Some(&held_one), &delta(&two, with_one.epoch, Some(one.clone()))), "trust-state-revoked-ids"),
        ("given back by a delta", accept(Some(&held_one), &delta(&two, with_one.epoch, Some(none.clone()))), "trust-state-revoked-ids"),
        ("a delta without what it builds on", accept(None, &delta(&two, with_one.epoch, None)), "trust-state-delta-base"),
        ("a delta to a later epoch than is held, that gives what the head vouches for all the same", accept(Some(&view), &delta(&two, with_one.epoch, Some(ids(&[7, 9])))), "accepted"),
        ("a heartbeat that takes one back", accept(Some(&held_one), &TrustFrame::heartbeat(&signed(&same_epoch)).encode()), "trust-state-forked"),
        ("the same epoch with and without", accept(Some(&held_one), &full(&TrustHead { revoked: None, issued_at_ms: with_one.issued_at_ms + 1, fresh_until_ms: with_one.fresh_until_ms + 1, ..with_one.clone() }, none)), "trust-state-forked"),
        ("a heartbeat of a later epoch", accept(Some(&held_one), &TrustFrame::heartbeat(&signed(&two)).encode()), "trust-state-body-missing"),
        ("another generation's ids carried over", accept(Some(&held_one), &delta(&restored, 0, None)), "trust-state-delta-base"),
        ("the state before it was taken back, replayed", accept(Some(&held_one), &full_frame(&head, &lists)), "trust-state-epoch-back"),
    ] {
        assert_eq!(code(found), expected, "{attack}");
    }
    assert!(accept(Some(&view), &delta(&with_one, head.epoch, None)).unwrap_err().wants_full());
}

/// A whole trust state that somebody recorded, shown to an enforcer that has just started and remembers nothing: it is
/// taken, since it was true once, and counts no longer than it was signed to.
#[test]
fn a_recorded_state_does_not_outlive_its_signed_time() {
    let lists = lists(&[]);
    let head = head(&lists);
    let frame = full_frame(&head, &lists);
    for (what, received_ms, fresh) in [
        ("just made", NOW_MS, true),
        ("the last millisecond it was signed for", head.fresh_until_ms - 1, true),
        ("a millisecond later", head.fresh_until_ms, false),
        ("a minute later", NOW_MS + 60_000, false),
        ("by a clock at the end of time", (NOW_S + 3_599) * 1_000, false),
    ] {
        let view = TrustView::accept(None, &frame, &keys(), DOMAIN, received_ms).unwrap();
        assert_eq!(view.fresh(received_ms, WINDOW_MS), fresh, "{what}");
    }
}

/// A clock that jumps, forwards or back, never makes a trust state count for longer.
#[test]
fn a_clock_that_jumps_either_way() {
    let lists = lists(&[]);
    let head = TrustHead {
        fresh_until_ms: NOW_MS + 600_000,
        ..head(&lists)
    };
    let frame = full_frame(&head, &lists);
    let received = |at_ms: u64| TrustView::accept(None, &frame, &keys(), DOMAIN, at_ms).unwrap();
    for (jump, received_ms, now_ms, fresh) in [
        ("none", NOW_MS, NOW_MS + 9_999, true),
        ("the window is over", NOW_MS, NOW_MS + WINDOW_MS, false),
        ("an hour forwards after receipt", NOW_MS, NOW_MS + 3_600_000, false),
        ("back by as much as clocks may differ", NOW_MS, NOW_MS - 500, true),
        ("back by a millisecond more", NOW_MS, NOW_MS - 501, false),
        ("back by an hour", NOW_MS, NOW_MS - 3_600_000, false),
        ("to the beginning of time", NOW_MS, 0, false),
        ("to the end of time", NOW_MS, u64::MAX, false),
        (
            "received in an hour to come, looked at now",
            NOW_MS + 3_500_000,
            NOW_MS,
            false,
        ),
    ] {
        assert_eq!(received(received_ms).fresh(now_ms, WINDOW_MS), fresh, "{jump}");
    }
    // A clock that was ahead at receipt and is put right: what was heard then does not count, and the next head does.
    let ahead = received(NOW_MS + 60_000);
    assert!(!ahead.fresh(NOW_MS, WINDOW_MS));
    let beat = TrustHead {
        issued_at_ms: head.issued_at_ms + 1,
        fresh_until_ms: head.fresh_until_ms + 1,
        ..head.clone()
    };
    let beat = TrustFrame::heartbeat(&signed(&beat)).encode();
    let right = TrustView::accept(Some(&ahead), &beat, &keys(), DOMAIN, NOW_MS + 1_000).unwrap();
    assert!(right.fresh(NOW_MS + 1_000, WINDOW_MS) && !right.fresh(NOW_MS + 1_000 + WINDOW_MS, WINDOW_MS));
    // Hearing the old head again under a clock that is ahead does not renew it either.
    let again = TrustView::accept(Some(&right), &frame, &keys(), DOMAIN, NOW_MS + 60_000);
    assert_eq!(code(again), "trust-state-fresh-until-back");
}
