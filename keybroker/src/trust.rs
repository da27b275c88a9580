//! The trust state the broker shows: heads, status lists, frames, and the order in which they may go out.
//!
//! Granting waits for the disk; taking away never waits (`docs/protocol.md`, section 7). A withdrawal marks its entries
//! and goes out at once, under an epoch from a block reserved durably beforehand. Until its statement is durable this
//! module makes no other fresh head, and [`Trust::may_grant`] says no.

mod places;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use places::{MAX_STATUS_ENTRIES, STATUS_LISTS, new_lists, number, place};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use places::{apply, grown, not_revoked, suspended};
use tokio::sync::{Notify, broadcast};
use touchstone_authorization::lists::PAGE_ENTRIES;
use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::trust_frame::TrustFrame;
use touchstone_authorization::trust_head::{ListHead, TrustHead};
use touchstone_authorization::{ListError, RevokedError, RevokedIds, Status, StatusLists};
use touchstone_cose::key::SigningKey;

/// Frames a subscriber may lag behind before its stream is closed and it has to fetch the whole state again.
pub const MAX_LAG: usize = 256;

/// Withdrawals whose closure nobody has opened yet that are remembered; a later one covers those before it.
pub const MAX_TAKEN: usize = 1_024;

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
    /// More off-line delegations are taken back than a head vouches for.
    #[error(transparent)]
    Revoked(#[from] RevokedError),
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
    /// Taken before the lock of the state where both are, never the other way round.
    whole: Mutex<Whole>,
    frames: broadcast::Sender<Frame>,
    takes: Notify,
}

/// The whole state as a frame, made once for each head whoever asks. It is made without holding the state: compressing
/// megabytes for those who reconnect must not hold up what takes rights away.
#[derive(Debug, Default)]
struct Whole {
    /// The head that `frame` is of.
    head: Bytes,
    frame: Option<Frame>,
    /// The lists compressed, and what of: a heartbeat changes the head only.
    lists: Option<((Vec<ListHead>, RevokedIds), TrustFrame)>,
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
    /// Off-line delegations that were taken back one by one.
    revoked: RevokedIds,
    epoch: u64,
    epoch_limit: u64,
    ledger: (u64, [u8; 32]),
    /// Entries dealt out, over all lists.
    dealt: u64,
    /// Of these, entries that came back unused; at most as many as decisions were under way at once.
    unused: Vec<StatusIndex>,
    /// Withdrawals that went out and are not durable yet.
    pending: u64,
    /// Entries that [`Trust::take`] suspended: no grant lifts them until [`Trust::release`].
    kept_back: HashSet<StatusIndex>,
    /// No head may go out any more: a withdrawal could not be shown.
    stopped: bool,
    /// Nothing is granted and no fresh head goes out, but one that takes away: this broker differs from its domain's others.
    held: bool,
    issued_at_ms: u64,
    head: Bytes,
    /// Epochs under which something was taken away, and when, until they are asked for.
    taken: VecDeque<(u64, u64)>,
}

/// What becomes of entries that are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// They never count again.
    Revoked,
    /// They do not count until they are lifted.
    Suspended,
}

impl Mark {
    /// Its name in statements.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
        }
    }
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
    /// Of these, entries that nobody holds.
    pub unused: Vec<StatusIndex>,
    /// An epoch above every one that was ever used.
    pub epoch: u64,
    /// The first epoch that is not reserved.
    pub epoch_limit: u64,
    /// Size and root of the ledger.
    pub ledger: (u64, [u8; 32]),
    /// Suspended entries that stay so until they are lifted by command, whatever their nodes show.
    pub kept_back: HashSet<StatusIndex>,
    /// Off-line delegations that were taken back one by one.
    pub revoked: RevokedIds,
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
            revoked: start.revoked,
            epoch: start.epoch,
            epoch_limit: start.epoch_limit,
            ledger: start.ledger,
            dealt: start.dealt,
            unused: start.unused,
            pending: 0,
            kept_back: start.kept_back,
            stopped: false,
            held: false,
            issued_at_ms: 0,
            head: Bytes::new(),
            taken: VecDeque::new(),
        };
        state.sign(&signer, now_ms)?;
        Ok(Self {
            signer,
            state: Mutex::new(state),
            whole: Mutex::default(),
            frames: broadcast::channel(MAX_LAG).0,
            takes: Notify::new(),
        })
    }

    /// Takes rights away, now: marks the entries revoked, raises the epoch and sends the frame to every subscriber.
    /// The statement follows; until [`Trust::durable`] nothing is granted and no other head is made.
    ///
    /// # Errors
    /// [`TrustError`]. Then no head goes out any more at all and nothing is granted until the process starts anew:
    /// what cannot be shown is denied by staleness.
    pub fn withdraw(&self, entries: &[StatusIndex], now_ms: u64) -> Result<Withdrawal, TrustError> {
        self.take(entries, Mark::Revoked, now_ms)
    }

    /// The same, with the mark that entries get. What is revoked already is not suspended: it stays revoked.
    ///
    /// # Errors
    /// As [`Trust::withdraw`].
    pub fn take(&self, entries: &[StatusIndex], mark: Mark, now_ms: u64) -> Result<Withdrawal, TrustError> {
        self.take_with(entries, mark, (&[], &[]), now_ms)
    }

    /// The same, and off-line delegations beside, by their ids: `back` are taken back, `over` are dropped, for nothing of
    /// them can count any more.
    ///
    /// # Errors
    /// As [`Trust::withdraw`]; [`TrustError::Revoked`] where more would be taken back than a head vouches for: then nothing
    /// is taken at all.
    pub fn take_with(
        &self,
        entries: &[StatusIndex],
        mark: Mark,
        (back, over): (&[[u8; 16]], &[[u8; 16]]),
        now_ms: u64,
    ) -> Result<Withdrawal, TrustError> {
        let mut state = self.lock();
        // Too many to be shown: said before anything is taken, so that nothing of it is half done.
        let stay = state.revoked.ids().iter().filter(|id| !over.contains(id));
        let revoked = RevokedIds::new(stay.chain(back).copied())?;
        state.pending += 1;
        let marked = |lists: StatusLists| match mark {
            Mark::Revoked => apply(&lists, entries, Status::Invalid),
            Mark::Suspended => apply(&lists, &not_revoked(&lists, entries), Status::Suspended),
        };
        if mark == Mark::Suspended {
            state.kept_back.extend(entries);
        }
        let outcome = match grown(&state.lists, entries).and_then(marked) {
            Ok(lists) => self
                .publish_with(&mut state, lists.clone(), revoked.clone(), now_ms)
                .inspect_err(|_| (state.lists, state.revoked) = (lists, revoked)),
            Err(error) => Err(error.into()),
        };
        if outcome.is_err() {
            state.stopped = true;
        } else {
            if state.taken.len() >= MAX_TAKEN {
                state.taken.pop_front();
            }
            let epoch = state.epoch;
            state.taken.push_back((epoch, now_ms));
            self.takes.notify_one();
        }
        outcome.map(|()| Withdrawal { epoch: state.epoch })
    }

    /// The epochs under which something was taken away since this was asked last, and when each went out.
    #[must_use]
    pub fn taken(&self) -> Vec<(u64, u64)> {
        self.lock().taken.drain(..).collect()
    }

    /// Resolves when something was taken away that nobody has asked for yet.
    pub async fn takes(&self) {
        self.takes.notified().await;
    }

    /// From here on only `kept_back` stay suspended whatever is granted; the others come back with the next grant of them.
    pub fn release(&self, kept_back: HashSet<StatusIndex>) {
        self.lock().kept_back = kept_back;
    }

    /// Whether an entry stays suspended whatever is granted.
    #[must_use]
    pub fn is_kept_back(&self, entry: &StatusIndex) -> bool {
        self.lock().kept_back.contains(entry)
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
        let generation = state.facts.generation;
        while let Some(place) = state.unused.pop() {
            if place.generation == generation {
                return Ok(place);
            }
        }
        let place = place(state.dealt, generation).ok_or(TrustError::Full)?;
        state.dealt += 1;
        Ok(place)
    }

    /// Takes back an entry that was dealt out and that no decision which could be committed names: the next one gets it.
    pub fn give_back(&self, entry: StatusIndex) {
        self.lock().unused.push(entry);
    }

    /// Makes a durable change visible: `valid` are entries that a durable statement granted (lists grow to hold them,
    /// suspended ones are lifted), `ledger` is the head of the log. Raises the epoch only if a list changed.
    ///
    /// # Errors
    /// [`TrustError`]; the previous state goes on being shown.
    pub fn granted(&self, valid: &[StatusIndex], ledger: (u64, [u8; 32]), now_ms: u64) -> Result<(), TrustError> {
        let mut state = self.lock();
        state.ledger = ledger;
        let grown = grown(&state.lists, valid)?;
        let lifts = state.lifted_by(&grown, valid);
        let changed = apply(&grown, &lifts, Status::Valid)?;
        if changed == state.lists {
            return Ok(());
        }
        let now_ms = state.freshness(now_ms);
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
        let now_ms = state.freshness(now_ms);
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
        if state.pending > 0 || state.stopped || state.held {
            return Ok(());
        }
        state.sign(&self.signer, now_ms)?;
        self.send(TrustFrame::heartbeat(&state.head).encode());
        Ok(())
    }

    /// The whole current state as one frame.
    #[must_use]
    pub fn full(&self) -> Bytes {
        let mut whole = self.lock_whole();
        let (head, lists, revoked) = self.lock().shown();
        whole.frame(head, &lists, &revoked).bytes
    }

    /// The whole current state and every frame after it, without a gap between them.
    #[must_use]
    pub fn subscribe(&self) -> (Frame, broadcast::Receiver<Frame>) {
        let mut whole = self.lock_whole();
        let (frames, (head, lists, revoked)) = {
            let state = self.lock();
            (self.frames.subscribe(), state.shown())
        };
        (whole.frame(head, &lists, &revoked), frames)
    }

    /// The same while fewer than `limit` follow, counted and entered in one: however many come at once.
    #[must_use]
    pub fn subscribe_within(&self, limit: usize) -> Option<(Frame, broadcast::Receiver<Frame>)> {
        let mut whole = self.lock_whole();
        let (frames, (head, lists, revoked)) = {
            let state = self.lock();
            if self.frames.receiver_count() >= limit {
                return None;
            }
            (self.frames.subscribe(), state.shown())
        };
        Some((whole.frame(head, &lists, &revoked), frames))
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

    /// The off-line delegations that are taken back one by one.
    #[must_use]
    pub fn revoked(&self) -> RevokedIds {
        self.lock().revoked.clone()
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

    /// The pages to be stored with a commit, as (list, page, bytes): those that hold the `revoked` entries, those where a
    /// `granted` entry is to be lifted, and those of `freed` ones, as they will be then.
    #[must_use]
    pub fn pages(
        &self,
        revoked: &[StatusIndex],
        granted: &[StatusIndex],
        freed: &[StatusIndex],
    ) -> Vec<(u16, u32, Vec<u8>)> {
        let state = self.lock();
        let lifts = state.lifted_by(&state.lists, granted);
        let clean = |lists: StatusLists| apply(&lists, freed, Status::Valid);
        let Ok(lists) = apply(&state.lists, &lifts, Status::Valid).and_then(clean) else {
            return Vec::new();
        };
        let mut pages = BTreeMap::new();
        for entry in revoked.iter().chain(&lifts).chain(freed) {
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

    /// A durable statement freed these entries: their marks go, and they are dealt out anew.
    ///
    /// # Errors
    /// [`TrustError`]; the previous state goes on being shown.
    pub fn freed(&self, entries: &[StatusIndex], now_ms: u64) -> Result<(), TrustError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        let cleaned = apply(&state.lists, entries, Status::Valid)?;
        if cleaned != state.lists {
            let now_ms = state.freshness(now_ms);
            self.publish(&mut state, cleaned, now_ms)?;
        }
        for entry in entries {
            state.kept_back.remove(entry);
        }
        let generation = state.facts.generation;
        let places = entries.iter().filter_map(|entry| place(number(entry), generation));
        state.unused.extend(places);
        Ok(())
    }

    /// Holds back fresh heads, but those that take away, and lets them go out again.
    pub fn hold(&self, held: bool) {
        self.lock().held = held;
    }

    /// Whether nothing is to be granted for the time being.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.lock().held
    }

    /// No head goes out any more and nothing is granted, until the process starts anew.
    pub fn stop(&self) {
        self.lock().stopped = true;
    }

    /// The same at the end of a run. Whether it ended in order: nothing went out that is not durable, and from here on
    /// nothing can.
    #[must_use]
    pub fn end(&self) -> bool {
        let mut state = self.lock();
        let in_order = state.pending == 0 && !state.stopped;
        state.stopped = true;
        in_order
    }

    /// Raises the epoch, signs, and sends what changed.
    fn publish(&self, state: &mut State, lists: StatusLists, now_ms: u64) -> Result<(), TrustError> {
        let revoked = state.revoked.clone();
        self.publish_with(state, lists, revoked, now_ms)
    }

    fn publish_with(
        &self,
        state: &mut State,
        lists: StatusLists,
        revoked: RevokedIds,
        now_ms: u64,
    ) -> Result<(), TrustError> {
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
        let base_revoked = std::mem::replace(&mut state.revoked, revoked);
        state.epoch = next;
        if let Err(error) = state.sign(&self.signer, now_ms) {
            state.epoch = base_epoch;
            (state.lists, state.revoked) = (base, base_revoked);
            return Err(error);
        }
        self.send(
            TrustFrame::delta(
                &state.head,
                base_epoch,
                (&base, &base_revoked),
                (&state.lists, &state.revoked),
            )
            .encode(),
        );
        Ok(())
    }

    fn send(&self, frame: Vec<u8>) {
        // No receiver is no error: nobody follows at the moment.
        let _ = self.frames.send(Frame::new(frame));
    }

    fn lock_whole(&self) -> MutexGuard<'_, Whole> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is made whole before it is stored, so a panic elsewhere leaves it usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What a grant of these entries lifts: what is suspended of them, and not kept back.
    fn lifted_by(&self, lists: &StatusLists, granted: &[StatusIndex]) -> Vec<StatusIndex> {
        let mut lifts = suspended(lists, granted);
        lifts.retain(|entry| !self.kept_back.contains(entry));
        lifts
    }

    /// The time from which a head counts that is made at `now_ms` because of something else than a withdrawal. While one
    /// is not durable such a head says what is new, and is no fresher than the one before.
    fn freshness(&self, now_ms: u64) -> u64 {
        if self.pending > 0 || self.held {
            self.issued_at_ms
        } else {
            now_ms
        }
    }

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
            revoked: self.revoked.head(),
        };
        let signed = head
            .encode_signed(signer)
            .map_err(|e| TrustError::Signing(e.to_string()))?;
        self.issued_at_ms = issued_at_ms;
        self.head = Bytes::from(signed);
        Ok(())
    }

    /// The head, and the lists and revoked ids it vouches for; a copy of these costs one pointer a page.
    fn shown(&self) -> (Bytes, StatusLists, RevokedIds) {
        (self.head.clone(), self.lists.clone(), self.revoked.clone())
    }
}

impl Whole {
    /// The frame of this head with all of `lists` and `revoked`.
    fn frame(&mut self, head: Bytes, lists: &StatusLists, revoked: &RevokedIds) -> Frame {
        if let Some(frame) = self.frame.as_ref().filter(|_| self.head == head) {
            return frame.clone();
        }
        let of = (ListHead::of(lists), revoked.clone());
        let made = match self.lists.take() {
            Some((made_of, made)) if made_of == of => TrustFrame {
                head: head.to_vec(),
                ..made
            },
            _ => TrustFrame::full(&head, lists, revoked),
        };
        let frame = Frame::new(made.encode());
        *self = Self {
            head,
            frame: Some(frame.clone()),
            lists: Some((of, made)),
        };
        frame
    }
}

#[cfg(test)]
pub(crate) mod tests;
