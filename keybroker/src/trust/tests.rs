//! What enforcers see of the trust state, frame by frame.

use std::sync::Arc;

use touchstone_authorization::{KeyRing, TrustView, TrustedKey};

use super::*;

pub(crate) fn facts() -> Facts {
    Facts {
        domain: "demo".into(),
        generation: 1,
        term: 1,
        policy_version: 1,
        policy_digest: [1; 32],
        keyset_version: 1,
        window_ms: 10_000,
    }
}

pub(crate) fn start(epoch: u64, epoch_limit: u64) -> Start {
    Start {
        facts: facts(),
        lists: new_lists().unwrap(),
        dealt: 0,
        unused: Vec::new(),
        epoch,
        epoch_limit,
        ledger: (0, [0; 32]),
        kept_back: HashSet::new(),
        revoked: RevokedIds::default(),
    }
}

pub(crate) fn trust(epoch_limit: u64) -> Trust {
    Trust::start(start(0, epoch_limit), Arc::new(SigningKey::from_seed([7; 32])), 1_000).unwrap()
}

/// An enforcer that follows the stream from the full frame on.
struct Follower {
    view: TrustView,
    frames: broadcast::Receiver<Frame>,
    keys: KeyRing,
}

impl Follower {
    fn new(trust: &Trust) -> Self {
        let key = SigningKey::from_seed([7; 32]).verifying_key();
        let keys = KeyRing::new([TrustedKey {
            key,
            not_before: 0,
            not_after: i64::MAX,
        }])
        .unwrap();
        let (full, frames) = trust.subscribe();
        Self {
            view: TrustView::accept(None, &full.bytes, &keys, "demo", 1_000).unwrap(),
            frames,
            keys,
        }
    }

    /// Takes every frame that waits; how many there were.
    fn follow(&mut self) -> usize {
        let mut count = 0;
        while let Ok(frame) = self.frames.try_recv() {
            self.view = TrustView::accept(Some(&self.view), &frame.bytes, &self.keys, "demo", 1_000).unwrap();
            count += 1;
        }
        count
    }

    fn status(&self, place: StatusIndex) -> Option<Status> {
        self.view.lists().get(place.list)?.status(place.index)
    }
}

#[test]
fn places_are_dealt_in_turn_and_can_be_numbered_back() {
    let trust = trust(EPOCH_BLOCK);
    let dealt: Vec<StatusIndex> = (0..9).map(|_| trust.deal().unwrap()).collect();
    assert_eq!(dealt.iter().map(number).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
    assert_eq!((dealt[5].list, dealt[5].index, dealt[5].generation), (1, 1, 1));
    assert_eq!(place(MAX_STATUS_ENTRIES, 1), None);
}

#[test]
fn a_withdrawal_is_out_before_its_statement_and_silences_everything_else() {
    let trust = trust(EPOCH_BLOCK);
    let mut enforcer = Follower::new(&trust);
    let place = trust.deal().unwrap();
    trust.heartbeat(1_001).unwrap();
    assert_eq!(enforcer.follow(), 1);
    let withdrawal = trust.withdraw(&[place], 1_002).unwrap();
    assert_eq!(enforcer.follow(), 1);
    assert_eq!(enforcer.status(place), Some(Status::Invalid));
    assert_eq!(enforcer.view.head().epoch, withdrawal.epoch);
    trust.heartbeat(1_003).unwrap();
    assert_eq!(
        (enforcer.follow(), trust.pending()),
        (0, 1),
        "no fresh head before the statement is durable"
    );
    trust.durable(withdrawal);
    trust.heartbeat(1_004).unwrap();
    assert_eq!((enforcer.follow(), trust.pending()), (1, 0));
}

#[test]
fn while_it_is_held_only_what_takes_away_is_fresh() {
    let trust = trust(EPOCH_BLOCK);
    let mut enforcer = Follower::new(&trust);
    let (kept, taken) = (trust.deal().unwrap(), trust.deal().unwrap());
    trust.granted(&[kept, taken], (1, [1; 32]), 1_001).unwrap();
    trust.heartbeat(1_001).unwrap();
    enforcer.follow();
    trust.hold(true);
    trust.heartbeat(1_500).unwrap();
    assert_eq!(enforcer.follow(), 0, "no heartbeat");
    trust.activate(facts(), (2, [2; 32]), 1_600).unwrap();
    assert_eq!(enforcer.follow(), 1);
    assert_eq!(enforcer.view.head().issued_at_ms, 1_001, "no fresher than before");
    let withdrawal = trust.withdraw(&[taken], 1_700).unwrap();
    assert_eq!(enforcer.follow(), 1);
    assert_eq!(
        (enforcer.status(taken), enforcer.view.head().issued_at_ms),
        (Some(Status::Invalid), 1_700)
    );
    trust.durable(withdrawal);
    trust.hold(false);
    trust.heartbeat(1_800).unwrap();
    assert_eq!((enforcer.follow(), enforcer.view.head().issued_at_ms), (1, 1_800));
}

#[test]
fn who_subscribes_later_gets_the_same() {
    let trust = trust(EPOCH_BLOCK);
    let mut early = Follower::new(&trust);
    let place = trust.deal().unwrap();
    let withdrawal = trust.withdraw(&[place], 1_002).unwrap();
    trust.durable(withdrawal);
    early.follow();
    let late = Follower::new(&trust);
    assert_eq!(early.view.head(), late.view.head());
    assert_eq!(early.view.lists(), late.view.lists());
}

#[test]
fn a_used_up_block_stops_heads_rather_than_hiding_a_withdrawal() {
    let trust = trust(2);
    let mut enforcer = Follower::new(&trust);
    let (first, second) = (trust.deal().unwrap(), trust.deal().unwrap());
    let withdrawal = trust.withdraw(&[first], 1_001).unwrap();
    trust.durable(withdrawal);
    assert_eq!(
        trust.withdraw(&[second], 1_002),
        Err(TrustError::EpochsExhausted { limit: 2 })
    );
    assert!(!trust.may_grant());
    enforcer.follow();
    trust.heartbeat(1_003).unwrap();
    assert_eq!(enforcer.follow(), 0, "enforcers are left to go stale");
    assert_eq!(
        trust.pages(&[second], &[], &[])[0].2[0] & 3,
        1,
        "and the mark is kept for the commit"
    );
}

#[test]
fn epochs_are_asked_for_in_time() {
    let trust = trust(EPOCH_BLOCK);
    assert_eq!(trust.wants_epochs(), None);
    for _ in 0..EPOCH_BLOCK / 2 {
        let place = trust.deal().unwrap();
        let withdrawal = trust.withdraw(&[place], 1_001).unwrap();
        trust.durable(withdrawal);
    }
    assert_eq!(trust.wants_epochs(), Some(2 * EPOCH_BLOCK));
    trust.reserved(2 * EPOCH_BLOCK);
    assert_eq!(trust.wants_epochs(), None);
}

#[test]
fn lists_grow_for_a_grant_and_suspended_entries_are_lifted_by_one() {
    let trust = trust(EPOCH_BLOCK);
    let mut enforcer = Follower::new(&trust);
    let far = StatusIndex {
        list: 2,
        generation: 1,
        index: PAGE_ENTRIES,
    };
    trust.granted(&[far], (2, [9; 32]), 1_001).unwrap();
    assert_eq!(enforcer.follow(), 1);
    assert_eq!(enforcer.status(far), Some(Status::Valid));
    trust.granted(&[far], (3, [8; 32]), 1_002).unwrap();
    assert_eq!(
        enforcer.follow(),
        0,
        "nothing changed but the ledger: the next heartbeat says so"
    );
    trust.heartbeat(1_003).unwrap();
    enforcer.follow();
    assert_eq!(enforcer.view.head().ledger_size, 3);

    let mut begin = start(0, EPOCH_BLOCK);
    begin.lists = apply(&begin.lists, &[place(0, 1).unwrap()], Status::Suspended).unwrap();
    let trust = Trust::start(begin, Arc::new(SigningKey::from_seed([7; 32])), 1_000).unwrap();
    let place = place(0, 1).unwrap();
    assert_eq!(
        trust.pages(&[], &[place], &[]),
        [(0, 0, vec![0; 4_096])],
        "the page as it will be"
    );
    let mut enforcer = Follower::new(&trust);
    assert_eq!(enforcer.status(place), Some(Status::Suspended));
    trust.granted(&[place], (1, [0; 32]), 1_001).unwrap();
    enforcer.follow();
    assert_eq!(enforcer.status(place), Some(Status::Valid));
}

#[test]
fn time_that_is_set_back_does_not_shorten_freshness() {
    let trust = trust(EPOCH_BLOCK);
    let mut enforcer = Follower::new(&trust);
    trust.heartbeat(500).unwrap();
    assert_eq!(enforcer.follow(), 1);
    assert_eq!(enforcer.view.head().issued_at_ms, 1_000);
}

#[test]
fn a_lagging_subscriber_is_told_so() {
    let trust = trust(EPOCH_BLOCK);
    let (_, mut frames) = trust.subscribe();
    for _ in 0..=MAX_LAG {
        trust.heartbeat(1_001).unwrap();
    }
    assert!(matches!(
        frames.try_recv(),
        Err(broadcast::error::TryRecvError::Lagged(1))
    ));
}

#[test]
fn what_came_back_unused_is_dealt_again_and_nothing_else_is() {
    let trust = trust(EPOCH_BLOCK);
    let (first, second) = (trust.deal().unwrap(), trust.deal().unwrap());
    trust.give_back(first);
    assert_eq!(trust.deal().unwrap(), first);
    assert_eq!(number(&trust.deal().unwrap()), number(&second) + 1);
    trust.give_back(second);
    let mut next = facts();
    next.generation = 2;
    trust.activate(next, (1, [0; 32]), 1_001).unwrap();
    assert_eq!(
        trust.deal().unwrap().generation,
        2,
        "an entry of another generation is none"
    );
}

#[test]
fn nothing_but_a_withdrawal_makes_a_fresh_head_while_one_is_not_durable() {
    let trust = trust(EPOCH_BLOCK);
    let mut enforcer = Follower::new(&trust);
    let withdrawn = trust.deal().unwrap();
    let far = StatusIndex {
        index: PAGE_ENTRIES,
        ..trust.deal().unwrap()
    };
    let withdrawal = trust.withdraw(&[withdrawn], 2_000).unwrap();
    trust.granted(&[far], (1, [1; 32]), 3_000).unwrap();
    enforcer.follow();
    assert_eq!(enforcer.status(far), Some(Status::Valid), "it is shown");
    assert_eq!(enforcer.view.head().fresh_until_ms, 2_000 + facts().window_ms);
    trust.activate(facts(), (1, [1; 32]), 4_000).unwrap();
    enforcer.follow();
    assert_eq!(enforcer.view.head().fresh_until_ms, 2_000 + facts().window_ms);
    trust.durable(withdrawal);
    trust.heartbeat(5_000).unwrap();
    enforcer.follow();
    assert_eq!(enforcer.view.head().fresh_until_ms, 5_000 + facts().window_ms);
}

#[test]
fn after_the_end_nothing_goes_out() {
    let trust = trust(EPOCH_BLOCK);
    let place = trust.deal().unwrap();
    assert!(trust.end());
    let mut enforcer = Follower::new(&trust);
    assert!(trust.withdraw(&[place], 2_000).is_err());
    trust.heartbeat(2_000).unwrap();
    assert_eq!(enforcer.follow(), 0);
    assert!(!trust.end(), "and such a run did not end in order");
}

#[test]
fn what_is_revoked_is_never_made_suspended() {
    let trust = trust(EPOCH_BLOCK);
    let mut enforcer = Follower::new(&trust);
    let (revoked, other) = (trust.deal().unwrap(), trust.deal().unwrap());
    let withdrawal = trust.take(&[revoked], Mark::Revoked, 1_001).unwrap();
    trust.durable(withdrawal);
    let withdrawal = trust.take(&[revoked, other], Mark::Suspended, 1_002).unwrap();
    trust.durable(withdrawal);
    enforcer.follow();
    let seen = [revoked, other].map(|place| enforcer.status(place).unwrap());
    assert_eq!(seen, [Status::Invalid, Status::Suspended]);
    // Nothing that is granted lifts either of them.
    trust.granted(&[revoked, other], (1, [1; 32]), 1_003).unwrap();
    trust.release(HashSet::new());
    trust.granted(&[revoked], (1, [1; 32]), 1_004).unwrap();
    enforcer.follow();
    let seen = [revoked, other].map(|place| enforcer.status(place).unwrap());
    assert_eq!(seen, [Status::Invalid, Status::Suspended]);
    trust.granted(&[other], (1, [1; 32]), 1_005).unwrap();
    enforcer.follow();
    assert_eq!(enforcer.status(other), Some(Status::Valid));
}

#[test]
fn the_whole_frame_is_made_once_for_everybody_and_anew_for_another_head() {
    let trust = trust(EPOCH_BLOCK);
    let place = trust.deal().unwrap();
    trust.granted(&[place], (1, [1; 32]), 1_000).unwrap();
    let (first, _kept) = trust.subscribe();
    let (second, _) = trust.subscribe();
    // The same bytes in memory, not equal ones: what ten thousand get is one.
    assert_eq!(first.bytes.as_ptr(), second.bytes.as_ptr());
    assert_eq!(first.event.as_ptr(), second.event.as_ptr());
    assert_eq!(trust.full().as_ptr(), first.bytes.as_ptr());
    trust.heartbeat(2_000).unwrap();
    let (fresher, _) = trust.subscribe();
    assert_ne!(fresher.bytes, first.bytes, "another head");
    let mut follower = Follower::new(&trust);
    trust.withdraw(&[place], 3_000).map(|gone| trust.durable(gone)).unwrap();
    assert_eq!(
        Follower::new(&trust).status(place),
        Some(Status::Invalid),
        "other lists"
    );
    assert_eq!(follower.follow(), 1);
    assert_eq!(follower.view.lists(), Follower::new(&trust).view.lists());
}

#[test]
fn a_place_on_the_stream_is_counted_and_taken_in_one() {
    let trust = Arc::new(trust(EPOCH_BLOCK));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let trust = Arc::clone(&trust);
            std::thread::spawn(move || (0..10).filter_map(|_| trust.subscribe_within(50)).collect::<Vec<_>>())
        })
        .collect();
    let taken: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(taken.len(), 50);
    drop(taken);
    assert!(trust.subscribe_within(1).is_some(), "who leaves makes room");
}

#[test]
fn a_delegation_that_is_taken_back_goes_out_at_once_and_is_dropped_when_it_is_over() {
    let trust = trust(1_000);
    let mut follower = Follower::new(&trust);
    let entry = trust.deal().unwrap();
    let first = trust
        .take_with(&[entry], Mark::Revoked, (&[[7; 16]], &[]), 2_000)
        .unwrap();
    follower.follow();
    assert!(follower.view.is_revoked(&[7; 16]) && !follower.view.is_revoked(&[8; 16]));
    assert_eq!(follower.view.head().epoch, first.epoch);
    let whole = Follower::new(&trust);
    assert_eq!(
        whole.view.revoked(),
        follower.view.revoked(),
        "who connects now is told too"
    );
    assert_eq!(trust.pending(), 1);
    trust.durable(first);

    // What hangs on nothing else travels without any page, and keeps what was taken back before.
    let second = trust.take_with(&[], Mark::Revoked, (&[[8; 16]], &[]), 3_000).unwrap();
    follower.follow();
    assert!(follower.view.is_revoked(&[7; 16]) && follower.view.is_revoked(&[8; 16]));
    trust.durable(second);
    let third = trust
        .take_with(&[], Mark::Revoked, (&[[9; 16]], &[[7; 16]]), 4_000)
        .unwrap();
    follower.follow();
    assert_eq!(follower.view.revoked().ids(), [[8; 16], [9; 16]]);
    trust.durable(third);
    // Other withdrawals leave them as they are.
    let last = trust.withdraw(&[entry], 5_000).unwrap();
    follower.follow();
    assert_eq!(follower.view.revoked().ids(), [[8; 16], [9; 16]]);
    trust.durable(last);
}

#[test]
fn more_than_can_be_taken_back_is_refused_and_nothing_is_half_done() {
    let trust = trust(1_000);
    let (entry, epoch) = (trust.deal().unwrap(), trust.epoch());
    let ids: Vec<[u8; 16]> = (0..=1_024_u16)
        .map(|n| {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&n.to_be_bytes());
            id
        })
        .collect();
    let outcome = trust.take_with(&[entry], Mark::Revoked, (&ids, &[]), 2_000);
    assert!(matches!(outcome, Err(TrustError::Revoked(_))), "{outcome:?}");
    assert_eq!((trust.epoch(), trust.pending(), trust.is_stopped()), (epoch, 0, false));
    let most = trust.take_with(&[], Mark::Revoked, (&ids[1..], &[]), 3_000).unwrap();
    trust.durable(most);
    assert_eq!(trust.revoked().len(), 1_024);
    let again = trust.take_with(&[], Mark::Revoked, (&ids[1..2], &[]), 4_000).unwrap();
    trust.durable(again);
}
