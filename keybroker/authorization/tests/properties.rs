//! What holds for any bytes and any order of events.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::*;
use proptest::prelude::*;
use touchstone_authorization::{
    ListHead, Presented, ReplayMemory, RevokedIds, Status, TrustFrame, TrustHead, TrustView,
};

/// Some bytes with some of them overwritten, cut or extended.
fn damaged(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    (
        edits,
        any::<prop::sample::Index>(),
        proptest::collection::vec(any::<u8>(), 0..4),
        any::<bool>(),
    )
        .prop_map(move |(edits, cut, tail, whole)| {
            let mut bytes = good.clone();
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if !whole {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes.extend(tail);
            bytes
        })
}

/// One head out of a small world in which everything collides: generations, epochs, contents, times.
#[derive(Debug, Clone)]
struct Step {
    generation: u32,
    epoch: u64,
    revoked: u32,
    policy_version: u64,
    fresh: u64,
    ledger: u64,
    body: u8,
    base: u64,
    received: u64,
    /// The id of the one delegation that was taken back; none for 0.
    id: u8,
}

fn step() -> impl Strategy<Value = Step> {
    (
        0..3_u32,
        0..4_u64,
        0..3_u32,
        0..2_u64,
        0..4_u64,
        0..3_u64,
        0..3_u8,
        0..4_u64,
        0..5_u64,
        0..3_u8,
    )
        .prop_map(
            |(generation, epoch, revoked, policy_version, fresh, ledger, body, base, received, id)| Step {
                generation,
                epoch,
                revoked,
                policy_version,
                fresh,
                ledger,
                body,
                base,
                received,
                id,
            },
        )
}

impl Step {
    fn frame(&self) -> Vec<u8> {
        let lists_now = lists(&[(self.revoked, Status::Invalid)]);
        let revoked = RevokedIds::new((self.id > 0).then_some([self.id; 16])).unwrap();
        let head = TrustHead {
            generation: self.generation,
            epoch: self.epoch,
            policy_version: self.policy_version,
            lists: ListHead::of(&lists_now),
            issued_at_ms: NOW_MS + self.fresh,
            fresh_until_ms: NOW_MS + 1_000 * self.fresh,
            ledger_size: self.ledger,
            ledger_root: [self.ledger as u8; 32],
            revoked: revoked.head(),
            ..head(&lists_now)
        };
        let head = head.encode_signed(&trust_key()).unwrap();
        match self.body {
            0 => TrustFrame::heartbeat(&head),
            1 => TrustFrame::full(&head, &lists_now, &revoked),
            _ => TrustFrame::delta(
                &head,
                self.base,
                (&lists(&[]), RevokedIds::none()),
                (&lists_now, &revoked),
            ),
        }
        .encode()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// No sequence of validly signed frames makes an enforcer go back, change within an epoch, hold lists that are not
    /// the head's, or count something as fresh for longer.
    #[test]
    fn a_view_never_goes_back(steps in proptest::collection::vec(step(), 1..24)) {
        let keys = ring(&[&trust_key()]);
        let mut held: Option<TrustView> = None;
        for step in steps {
            let frame = step.frame();
            let Ok(next) = TrustView::accept(held.as_ref(), &frame, &keys, DOMAIN, NOW_MS + step.received) else {
                continue;
            };
            let head = next.head();
            prop_assert_eq!(ListHead::of(next.lists()), head.lists.clone());
            prop_assert_eq!(next.revoked().head(), head.revoked);
            if let Some(held) = &held {
                let (before, after) = (held.head(), head);
                prop_assert!((before.generation, before.epoch) <= (after.generation, after.epoch));
                if (before.generation, before.epoch) == (after.generation, after.epoch) {
                    prop_assert_eq!(held.lists(), next.lists());
                    prop_assert_eq!(held.revoked(), next.revoked());
                    prop_assert_eq!(before.policy_version, after.policy_version);
                    prop_assert!(before.fresh_until_ms <= after.fresh_until_ms);
                }
                if before.generation == after.generation {
                    prop_assert!(before.ledger_size <= after.ledger_size);
                }
                if after.issued_at_ms <= before.issued_at_ms {
                    prop_assert!(next.received_at_ms() <= held.received_at_ms());
                }
            }
            prop_assert!(next.fresh_until_ms(WINDOW_MS) <= head.fresh_until_ms);
            held = Some(next);
        }
    }

    /// Whatever arrives, the answer is a refusal with at least one reason, and nothing is remembered.
    #[test]
    fn any_bytes_are_refused_without_a_panic(
        authorization in proptest::collection::vec(any::<u8>(), 0..600),
        proof in proptest::collection::vec(any::<u8>(), 0..400),
        now_ms in any::<u64>(),
    ) {
        let case = Case { now_ms, memory: ReplayMemory::new(1), ..Case::over_request() };
        let (result, memory) = case.decide_bytes(&authorization, &proof);
        prop_assert!(!result.unwrap_err().is_empty());
        prop_assert!(memory.is_empty());
    }

    #[test]
    fn damaged_authorizations_are_refused(bytes in damaged(Case::default().authorization_bytes())) {
        let case = Case::default();
        prop_assume!(bytes != case.authorization_bytes());
        prop_assert!(case.decide_bytes(&bytes, &case.proof_bytes()).0.is_err());
    }

    #[test]
    fn damaged_proofs_are_refused(bytes in damaged(Case::default().proof_bytes())) {
        let case = Case::default();
        prop_assume!(bytes != case.proof_bytes());
        prop_assert!(case.decide_bytes(&case.authorization_bytes(), &bytes).0.is_err());
    }

    /// Any instants whatever: no arithmetic overflows, and only instants inside every window are allowed.
    #[test]
    fn any_time_is_judged(
        now_ms in prop_oneof![any::<u64>(), NOW_MS - 20_000..NOW_MS + 130_000],
        expires in prop_oneof![any::<u64>(), NOW_S..NOW_S + 20],
        not_before in prop_oneof![any::<u64>(), NOW_S - 20..NOW_S + 20],
    ) {
        prop_assume!(not_before < expires);
        let mut case = Case { now_ms, ..Case::default() };
        (case.authorization.expires, case.authorization.not_before) = (expires, not_before);
        let allowed = case.decide().0.is_ok();
        let within = u128::from(now_ms) + 500 >= u128::from(not_before) * 1_000
            && u128::from(now_ms) < u128::from(expires) * 1_000 + 500;
        let fresh = (NOW_MS - 500..NOW_MS + 9_000).contains(&now_ms);
        prop_assert_eq!(allowed, within && fresh);
    }

    #[test]
    fn any_frame_is_read_without_a_panic(
        random in proptest::collection::vec(any::<u8>(), 0..400),
        broken in damaged(full_frame(&head(&lists(&[])), &lists(&[]))),
    ) {
        let keys = ring(&[&trust_key()]);
        let good = Case::default().view();
        for frame in [random, broken] {
            for previous in [None, Some(&good)] {
                if let Ok(taken) = TrustView::accept(previous, &frame, &keys, DOMAIN, NOW_MS) {
                    prop_assert_eq!(&taken, &good);
                }
            }
            prop_assert!(TrustFrame::parse(&frame).is_ok_and(|read| read.encode() == frame) || TrustFrame::parse(&frame).is_err());
        }
    }

}

proptest! {
    // Each case signs some ten proofs.
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A proof over a request is allowed once, whatever else is tried in between and in whatever order.
    #[test]
    fn a_request_proof_passes_once(offsets in proptest::collection::vec((0..4_u8, 0..3_000_u64), 1..20)) {
        let mut memory = ReplayMemory::new(64);
        let mut allowed = std::collections::BTreeMap::new();
        let view = Case::default().view();
        let mut now_ms = NOW_MS;
        for (cti, pause) in offsets {
            now_ms += pause;
            let mut case = Case { memory, now_ms, ..Case::over_request() };
            case.proof.cti = [cti; 16];
            let authorization = case.authorization_bytes();
            let (result, after) = case.decide_presented(Presented::Bytes(&authorization), &case.proof_bytes(), Some(&view));
            memory = after;
            *allowed.entry(cti).or_insert(0) += usize::from(result.is_ok());
        }
        prop_assert!(allowed.values().all(|times| *times <= 1));
    }
}
