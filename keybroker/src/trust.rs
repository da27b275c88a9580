//! The trust state the broker shows: heads, status lists, frames, and the order in which they may go out.
//!
//! Granting waits for the disk; taking away never waits (`docs/protocol.md`, section 7). A withdrawal marks its entries
//! and goes out at once, under an epoch from a block reserved durably beforehand. Until its statement is durable this
//! module makes no other fresh head, and [`Trust::may_grant`] says no.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use tokio::sync::broadcast;
use touchstone_authorization::lists::{MAX_ENTRIES, PAGE_ENTRIES};
use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::trust_frame::TrustFrame;
use touchstone_authorization::trust_head::{ListHead, TrustHead};
use touchstone_authorization::{ListError, Status, StatusArray, StatusLists};
use touchstone_cose::key::SigningKey;

/// How many status lists a domain begins with; entries are dealt out to them in turn.
pub const STATUS_LISTS: u16 = 4;

/// Entries that can be dealt out in all.
pub const MAX_STATUS_ENTRIES: u64 = STATUS_LISTS as u64 * MAX_ENTRIES as u64;

/// Frames a subscriber may lag behind before its stream is closed and it has to fetch the whole state again.
pub const MAX_LAG: usize = 256;

/// Epochs reserved in the store at a time.
pub const EPOCH_BLOCK: u64 = 1_000;

/// Why the trust state could not be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Every epoch of the reserved block is used and the store has not given another. No head goes out any more, so
    /// enforcers stop at the end of their freshness window.
    #[error("the reserved epochs end at {limit}")]
    EpochsExhausted {
        /// The first epoch that is not reserved.
        limit: u64,
    },
    /// An index that was never dealt out.
    #[error(transparent)]
    List(#[from] ListError),
    /// The status lists are full.
    #[error("all {MAX_STATUS_ENTRIES} status entries are dealt out")]
    Full,
    /// The head could not be signed.
    #[error("the trust state could not be signed: {0}")]
    Signing(String),
}

/// What a head says beside lists, epoch and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The domain.
    pub domain: String,
    /// Its generation, from signed policy.
    pub generation: u32,
    /// The leader's term; 1 where there is one broker.
    pub term: u64,
    /// Version of the active policy.
    pub policy_version: u64,
    /// Digest of the active policy.
    pub policy_digest: [u8; 32],
    /// Version of its keyset.
    pub keyset_version: u64,
    /// For how long a head counts, in milliseconds.
    pub window_ms: u64,
}

/// The trust state. Cheap calls under one lock; the longest work in it is one signature and the deflating of what changed.
#[derive(Debug)]
pub struct Trust {
    signer: SigningKeyRef,
    state: Mutex<State>,
    frames: broadcast::Sender<Frame>,
}

/// A frame, encoded once for everybody it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The frame.
    pub bytes: Bytes,
    /// The same as a server-sent event: `event: frame`, and base64url as its data.
    pub event: Bytes,
}

impl Frame {
    fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let event = Bytes::from(format!("event: frame\ndata: {}\n\n", URL_SAFE_NO_PAD.encode(&bytes)));
        Self { bytes, event }
    }
}

/// The trust-state key, shared with whoever else signs with it (time).
pub type SigningKeyRef = std::sync::Arc<SigningKey>;

#[derive(Debug)]
struct State {
    facts: Facts,
    lists: StatusLists,
    epoch: u64,
    epoch_limit: u64,
    ledger: (u64, [u8; 32]),
    /// Entries dealt out, over all lists.
    dealt: u64,
    /// Withdrawals that went out and are not durable yet.
    pending: u64,
    /// No head may go out any more: a withdrawal could not be shown.
    stopped: bool,
    issued_at_ms: u64,
    head: Bytes,
    full: Bytes,
}

/// A withdrawal that went out. Given back with [`Trust::durable`] once its statement is on disk.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "until it is given back as durable the broker grants nothing"]
pub struct Withdrawal {
    /// The epoch it went out under.
    pub epoch: u64,
}

/// What a trust state begins with after a start.
#[derive(Debug, Clone)]
pub struct Start {
    /// What heads say.
    pub facts: Facts,
    /// The status lists as stored.
    pub lists: StatusLists,
    /// Entries dealt out, over all lists.
    pub dealt: u64,
    /// An epoch above every one that was ever used.
    pub epoch: u64,
    /// The first epoch that is not reserved.
    pub epoch_limit: u64,
    /// Size and root of the ledger.
    pub ledger: (u64, [u8; 32]),
}

/// The place in the lists of the `number`th entry dealt out, `None` beyond [`MAX_STATUS_ENTRIES`].
#[must_use]
pub fn place(number: u64, generation: u32) -> Option<StatusIndex> {
    if number >= MAX_STATUS_ENTRIES {
        return None;
    }
    let lists = u64::from(STATUS_LISTS);
    Some(StatusIndex {
        list: u16::try_from(number % lists).ok()?,
        generation,
        index: u32::try_from(number / lists).ok()?,
    })
}

/// The number under which [`place`] gave this place.
#[must_use]
pub fn number(place: &StatusIndex) -> u64 {
    u64::from(place.index) * u64::from(STATUS_LISTS) + u64::from(place.list)
}

/// Lists as a new domain begins with: one page each, nothing withdrawn.
///
/// # Errors
/// Never for the constants of this module.
pub fn new_lists() -> Result<StatusLists, ListError> {
    let lists: Result<Vec<_>, _> = (0..STATUS_LISTS)
        .map(|number| Ok((number, StatusArray::new(PAGE_ENTRIES)?)))
        .collect();
    StatusLists::new(lists?)
}

impl Trust {
    /// Makes the first head.
    ///
    /// # Errors
    /// [`TrustError::EpochsExhausted`] or [`TrustError::Signing`]
    pub fn start(start: Start, signer: SigningKeyRef, now_ms: u64) -> Result<Self, TrustError> {
        if start.epoch >= start.epoch_limit {
            return Err(TrustError::EpochsExhausted {
                limit: start.epoch_limit,
            });
        }
        let mut state = State {
            facts: start.facts,
            lists: start.lists,
            epoch: start.epoch,
            epoch_limit: start.epoch_limit,
            ledger: start.ledger,
            dealt: start.dealt,
            pending: 0,
            stopped: false,
            issued_at_ms: 0,
            head: Bytes::new(),
            full: Bytes::new(),
        };
        state.sign(&signer, now_ms)?;
        Ok(Self {
            signer,
            state: Mutex::new(state),
            frames: broadcast::channel(MAX_LAG).0,
        })
    }

    /// Takes rights away, now: marks the entries revoked, raises the epoch and sends the frame to every subscriber.
    /// The statement follows; until [`Trust::durable`] nothing is granted and no other head is made.
    ///
    /// # Errors
    /// [`TrustError`]. Then no head goes out any more at all and nothing is granted until the process starts anew:
    /// what cannot be shown is denied by staleness.
    pub fn withdraw(&self, entries: &[StatusIndex], now_ms: u64) -> Result<Withdrawal, TrustError> {
        let mut state = self.lock();
        state.pending += 1;
        let outcome = match state
            .grown(entries)
            .and_then(|lists| apply(&lists, entries, Status::Invalid))
        {
            Ok(lists) => self
                .publish(&mut state, lists.clone(), now_ms)
                .inspect_err(|_| state.lists = lists),
            Err(error) => Err(error.into()),
        };
        if outcome.is_err() {
            state.stopped = true;
        }
        outcome.map(|()| Withdrawal { epoch: state.epoch })
    }

    /// The statement of a withdrawal is on disk.
    pub fn durable(&self, withdrawal: Withdrawal) {
        let Withdrawal { epoch: _ } = withdrawal;
        let mut state = self.lock();
        state.pending = state.pending.saturating_sub(1);
    }

    /// How many withdrawals went out and are not durable yet. A commit may hold grants only if it holds all of them.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.lock().pending
    }

    /// Whether anything may be granted at all.
    #[must_use]
    pub fn may_grant(&self) -> bool {
        !self.lock().stopped
    }

    /// Deals out the next entry. It is used only by a decision that is committed; one that is not leaves a gap.
    ///
    /// # Errors
    /// [`TrustError::Full`]
    pub fn deal(&self) -> Result<StatusIndex, TrustError> {
        let mut state = self.lock();
        let place = place(state.dealt, state.facts.generation).ok_or(TrustError::Full)?;
        state.dealt += 1;
        Ok(place)
    }

    /// Makes a durable change visible: `valid` are entries that a durable statement granted (lists grow to hold them,
    /// suspended ones are lifted), `ledger` is the head of the log. Raises the epoch only if a list changed.
    ///
    /// # Errors
    /// [`TrustError`]; the previous state goes on being shown.
    pub fn granted(&self, valid: &[StatusIndex], ledger: (u64, [u8; 32]), now_ms: u64) -> Result<(), TrustError> {
        let mut state = self.lock();
        state.ledger = ledger;
        let grown = state.grown(valid)?;
        let lifts = suspended(&grown, valid);
        let changed = apply(&grown, &lifts, Status::Valid)?;
        if changed == state.lists {
            return Ok(());
        }
        self.publish(&mut state, changed, now_ms)
    }

    /// Another policy is active.
    ///
    /// # Errors
    /// [`TrustError`]; the previous state goes on being shown.
    pub fn activate(&self, facts: Facts, ledger: (u64, [u8; 32]), now_ms: u64) -> Result<(), TrustError> {
        let mut state = self.lock();
        state.ledger = ledger;
        state.facts = facts;
        let lists = state.lists.clone();
        self.publish(&mut state, lists, now_ms)
    }

    /// A further block of epochs is reserved in the store.
    pub fn reserved(&self, epoch_limit: u64) {
        let mut state = self.lock();
        state.epoch_limit = state.epoch_limit.max(epoch_limit);
    }

    /// The block to reserve next, if the present one is half used: its first epoch that is not yet reserved.
    #[must_use]
    pub fn wants_epochs(&self) -> Option<u64> {
        let state = self.lock();
        let left = state.epoch_limit.saturating_sub(state.epoch);
        (left <= EPOCH_BLOCK / 2).then(|| state.epoch_limit.saturating_add(EPOCH_BLOCK))
    }

    /// A heartbeat: the same contents, fresh again. Nothing is made while a withdrawal is not durable.
    ///
    /// # Errors
    /// [`TrustError::Signing`]
    pub fn heartbeat(&self, now_ms: u64) -> Result<(), TrustError> {
        let mut state = self.lock();
        if state.pending > 0 || state.stopped {
            return Ok(());
        }
        state.sign(&self.signer, now_ms)?;
        self.send(TrustFrame::heartbeat(&state.head).encode());
        Ok(())
    }

    /// The whole current state as one frame.
    #[must_use]
    pub fn full(&self) -> Bytes {
        self.lock().full()
    }

    /// The whole current state and every frame after it, without a gap between them.
    #[must_use]
    pub fn subscribe(&self) -> (Frame, broadcast::Receiver<Frame>) {
        let mut state = self.lock();
        (Frame::new(state.full()), self.frames.subscribe())
    }

    /// The current epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// The domain's generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.lock().facts.generation
    }

    /// The current lists; a copy costs one pointer a page.
    #[must_use]
    pub fn lists(&self) -> StatusLists {
        self.lock().lists.clone()
    }

    /// Whether heads end here: nothing is granted and none goes out any more.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// How many streams are open.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.frames.receiver_count()
    }

    /// The pages to be stored with a commit, as (list, page, bytes): those that hold the `revoked` entries, and those
    /// where a `granted` entry is to be lifted, as they will be then.
    #[must_use]
    pub fn pages(&self, revoked: &[StatusIndex], granted: &[StatusIndex]) -> Vec<(u16, u32, Vec<u8>)> {
        let state = self.lock();
        let lifts = suspended(&state.lists, granted);
        let Ok(lists) = apply(&state.lists, &lifts, Status::Valid) else {
            return Vec::new();
        };
        let mut pages = BTreeMap::new();
        for entry in revoked.iter().chain(&lifts) {
            let page = entry.index / PAGE_ENTRIES;
            if let Some(bytes) = lists.get(entry.list).and_then(|list| list.page(page as usize)) {
                pages.entry((entry.list, page)).or_insert_with(|| bytes.to_vec());
            }
        }
        pages
            .into_iter()
            .map(|((list, page), bytes)| (list, page, bytes))
            .collect()
    }

    /// No head goes out any more and nothing is granted, until the process starts anew.
    pub fn stop(&self) {
        self.lock().stopped = true;
    }

    /// Raises the epoch, signs, and sends what changed.
    fn publish(&self, state: &mut State, lists: StatusLists, now_ms: u64) -> Result<(), TrustError> {
        let next = state.epoch + 1;
        if next >= state.epoch_limit {
            return Err(TrustError::EpochsExhausted {
                limit: state.epoch_limit,
            });
        }
        if state.stopped {
            return Err(TrustError::Signing("no head goes out any more".into()));
        }
        let (base_epoch, base) = (state.epoch, std::mem::replace(&mut state.lists, lists));
        state.epoch = next;
        if let Err(error) = state.sign(&self.signer, now_ms) {
            state.epoch = base_epoch;
            state.lists = base;
            return Err(error);
        }
        self.send(TrustFrame::delta(&state.head, base_epoch, &base, &state.lists).encode());
        Ok(())
    }

    fn send(&self, frame: Vec<u8>) {
        // No receiver is no error: nobody follows at the moment.
        let _ = self.frames.send(Frame::new(frame));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is made whole before it is stored, so a panic elsewhere leaves it usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn sign(&mut self, signer: &SigningKey, now_ms: u64) -> Result<(), TrustError> {
        // Time never goes back within one process, so neither does freshness.
        let issued_at_ms = self.issued_at_ms.max(now_ms);
        let head = TrustHead {
            domain: self.facts.domain.clone(),
            generation: self.facts.generation,
            epoch: self.epoch,
            term: self.facts.term,
            policy_version: self.facts.policy_version,
            policy_digest: self.facts.policy_digest,
            keyset_version: self.facts.keyset_version,
            lists: ListHead::of(&self.lists),
            ledger_size: self.ledger.0,
            ledger_root: self.ledger.1,
            issued_at_ms,
            fresh_until_ms: issued_at_ms.saturating_add(self.facts.window_ms),
        };
        let signed = head
            .encode_signed(signer)
            .map_err(|e| TrustError::Signing(e.to_string()))?;
        self.issued_at_ms = issued_at_ms;
        self.head = Bytes::from(signed);
        self.full = Bytes::new();
        Ok(())
    }

    /// The full frame of the current head, encoded once for all who ask.
    fn full(&mut self) -> Bytes {
        if self.full.is_empty() {
            self.full = Bytes::from(TrustFrame::full(&self.head, &self.lists).encode());
        }
        self.full.clone()
    }

    /// The lists, long enough to hold these entries.
    fn grown(&self, entries: &[StatusIndex]) -> Result<StatusLists, ListError> {
        let mut lists: BTreeMap<u16, StatusArray> = self.lists.iter().map(|(n, list)| (n, list.clone())).collect();
        for entry in entries {
            let Some(list) = lists.get_mut(&entry.list) else {
                return Err(ListError::Index {
                    entries: 0,
                    found: entry.index,
                });
            };
            if entry.index >= list.entries() {
                let wanted = (entry.index / PAGE_ENTRIES)
                    .saturating_add(1)
                    .saturating_mul(PAGE_ENTRIES);
                let mut bytes = list.to_bytes();
                bytes.resize((wanted.min(MAX_ENTRIES) / 4) as usize, 0);
                *list = StatusArray::from_bytes(wanted.min(MAX_ENTRIES), &bytes)?;
            }
        }
        StatusLists::new(lists)
    }
}

/// Those of `entries` that are suspended.
fn suspended(lists: &StatusLists, entries: &[StatusIndex]) -> Vec<StatusIndex> {
    let is = |e: &&StatusIndex| lists.get(e.list).and_then(|l| l.status(e.index)) == Some(Status::Suspended);
    entries.iter().filter(is).copied().collect()
}

fn apply(lists: &StatusLists, entries: &[StatusIndex], status: Status) -> Result<StatusLists, ListError> {
    let mut by_list: BTreeMap<u16, Vec<(u32, Status)>> = BTreeMap::new();
    for entry in entries {
        by_list.entry(entry.list).or_default().push((entry.index, status));
    }
    let changed: Result<Vec<_>, ListError> = lists
        .iter()
        .map(|(number, list)| match by_list.remove(&number) {
            Some(changes) => Ok((number, list.with(changes)?)),
            None => Ok((number, list.clone())),
        })
        .collect();
    StatusLists::new(changed?)
}

#[cfg(test)]
pub(crate) mod tests {
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
            epoch,
            epoch_limit,
            ledger: (0, [0; 32]),
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
            trust.pages(&[second], &[])[0].2[0] & 3,
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
            trust.pages(&[], &[place]),
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
}
