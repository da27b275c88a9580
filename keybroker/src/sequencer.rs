//! The one who writes. Statements that wait are committed together: one sync, one signed root, a receipt each.
//!
//! The order of a commit: everything durable first (`docs/protocol.md`, sections 7 and 9), then the root is signed, then
//! grants become visible, then answers go out. A store that fails stops the sequencer for good: nothing is granted on an
//! unknown outcome, heads end, and enforcers stop at the end of their window.

mod counts;
mod forming;
mod handle;
mod seat;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, RwLock};

use counts::is_revoked;
use forming::{Forming, latest, size, takes_away, writes};
pub use handle::HandedIn;
pub use handle::SequencerHandle;
use handle::{Reply, Waiting};
use seat::Seat;
use touchstone_authorization::token::StatusIndex;
use touchstone_cose::key::SigningKey;
use touchstone_ledger::receipt::{MIN_TREE_SIZE, issue_batch};
use touchstone_store::{Batch, Guard, Key, MAX_VALUE_LEN, Revision, Store, Write};

use crate::clock::{Clock, seconds};
use crate::entry::{Effect, Entry, EntryError, Recorded};
use crate::lineage::Lineage;
use crate::log::{LogEdge, LogHead};
use crate::node::NodeRecord;
use crate::parts::{self, MAX_COMMIT_BYTES, MAX_PART_BYTES};
use crate::queue::Queue;
use crate::rows;
use crate::trust::{Trust, number};

/// Digests of parts that are stored already or written now, and the rows to write.
type NewParts = (HashSet<[u8; 32]>, BTreeMap<Key, Vec<u8>>);

/// Most statements in one commit.
pub const MAX_BATCH_ENTRIES: usize = 256;

/// Most bytes of statements and writes in one commit, before hashes and pages.
pub const MAX_BATCH_ENTRY_BYTES: usize = 4 * 1024 * 1024;

/// Most guards and writes of statements in one commit, before hashes and pages: half of what the store takes.
pub const MAX_BATCH_ENTRY_WRITES: usize = touchstone_store::MAX_BATCH_WRITES / 2;

/// Most records of nodes that a commit marks as withdrawn; the rest is marked in commits before it.
pub const MAX_MARKED_IN_COMMIT: usize = 1_024;

/// A used nonce is kept this long, in milliseconds: twice the longest life of a session.
pub const NONCE_KEPT_MS: u64 = 120_000;

/// Digests of stored parts remembered, so that a part that comes again is not looked up.
pub const KNOWN_PARTS: usize = 16_384;

/// What the sequencer works on.
pub struct Sequencer {
    /// The store; nobody else writes to it.
    pub store: Arc<dyn Store>,
    /// The ledger's right edge.
    pub log: LogEdge,
    /// The trust state.
    pub trust: Arc<Trust>,
    /// Which authorization hangs below which.
    pub lineage: Arc<Lineage>,
    /// Signs roots.
    pub checkpoint: Arc<SigningKey>,
    /// The ledger's name.
    pub origin: String,
    /// Digest of the policy in force.
    pub policy: [u8; 32],
    /// The head of the ledger, for those who read.
    pub head: Arc<RwLock<LogHead>>,
    /// The broker's time.
    pub clock: Clock,
}

/// Starts the sequencer, with a thread of its own and room for `limit` statements that wait. It ends when the handle is
/// closed, or when the store fails; then the thread gives the reason.
///
/// # Errors
/// The system has no thread to give.
pub fn start(
    sequencer: Sequencer,
    limit: usize,
) -> std::io::Result<(SequencerHandle, std::thread::JoinHandle<Result<(), EntryError>>)> {
    let seat = Arc::new(Seat::new(
        Queue::new(limit),
        Running {
            s: sequencer,
            deferred: VecDeque::new(),
            held: Vec::new(),
            nonces: VecDeque::new(),
            known_parts: HashSet::new(),
            failed: None,
        },
    ));
    let handle = SequencerHandle(Arc::clone(&seat));
    let thread = std::thread::Builder::new()
        .name("sequencer".into())
        .spawn(move || seat.run())?;
    Ok((handle, thread))
}

struct Running {
    s: Sequencer,
    /// Handed in, and not for the commit that was made since.
    deferred: VecDeque<Waiting>,
    /// Durable grants whose answers wait until every withdrawal is durable too.
    held: Vec<Held>,
    /// Used nonces and when, oldest first.
    nonces: VecDeque<(u64, Key)>,
    /// Parts that are stored.
    known_parts: HashSet<[u8; 32]>,
    /// Why nothing is committed any more.
    failed: Option<EntryError>,
}

/// The answer to a durable grant.
struct Held {
    reply: Reply,
    recorded: Recorded,
    /// What must count still when it goes out; nothing for a grant, whose status entry says so by itself.
    rests_on: Vec<StatusIndex>,
}

impl Running {
    /// One commit of what waits. `true` where another one may do something without anything new to come first.
    fn turn(&mut self, queue: &Queue<Waiting>) -> Result<bool, EntryError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let room = MAX_BATCH_ENTRIES.saturating_sub(self.deferred.len());
        queue.take(&mut self.deferred, room);
        // Taking away goes first.
        self.deferred
            .make_contiguous()
            .sort_by_key(|w| !w.entry.effect.is_urgent());
        match self.commit_some() {
            Ok(committed) => {
                // Where nothing could be committed, what is deferred waits for a withdrawal on its way.
                queue.set_full(self.deferred.len() >= MAX_BATCH_ENTRIES);
                Ok(committed && !self.deferred.is_empty())
            }
            Err(error) => {
                tracing::error!(%error, "the ledger has stopped");
                self.s.trust.stop();
                self.failed = Some(error.clone());
                self.refuse_all(queue, &error);
                Err(error)
            }
        }
    }

    /// Nothing is committed any more: refuses what waits, and what comes.
    fn refuse_all(&mut self, queue: &Queue<Waiting>, error: &EntryError) {
        queue.close();
        queue.take(&mut self.deferred, usize::MAX);
        self.refuse_deferred(error);
    }

    fn refuse_deferred(&mut self, error: &EntryError) {
        for waiting in self.deferred.drain(..) {
            let _ = waiting.reply.send(Err(error.clone()));
        }
    }

    /// Commits what can be committed now; `false` if nothing could.
    fn commit_some(&mut self) -> Result<bool, EntryError> {
        let mut forming = Forming::default();
        let mut later = VecDeque::new();
        // Counted before anything is taken: a withdrawal that goes out from here on holds back the answers below.
        let mut grants_wait = !self.s.trust.may_grant();
        let pending = self.s.trust.pending();
        let here = self.deferred.iter().filter(|w| takes_away(&w.entry)).count();
        grants_wait |= pending > here as u64;
        for waiting in std::mem::take(&mut self.deferred) {
            let grant = matches!(waiting.entry.effect, Effect::Grant { .. } | Effect::Release { .. });
            if !self.s.trust.may_grant() && !waiting.entry.effect.is_urgent() {
                let detail = "a withdrawal could not be shown".to_owned();
                let _ = waiting.reply.send(Err(EntryError::Stopped { detail }));
            } else if (grant && grants_wait) || !forming.has_room(&waiting.entry) {
                later.push_back(waiting);
            } else {
                match self.admit(&mut forming, &waiting.entry)? {
                    Admission::Take => forming.taken.push(waiting),
                    Admission::Later => later.push_back(waiting),
                    Admission::Refuse(error) => drop(waiting.reply.send(Err(error))),
                }
            }
        }
        self.deferred = later;
        if forming.taken.is_empty() {
            return Ok(false);
        }
        // Before anybody hears of it: who is answered that the ledger has stopped finds that heads have ended.
        self.commit(&mut forming)
            .map(|()| true)
            .inspect_err(|_| self.s.trust.stop())
    }

    /// Whether an entry can be part of the commit. Guards are looked at here, one entry at a time, so that the one that
    /// fails is known; nobody else writes, so they still hold at the commit.
    fn admit(&mut self, forming: &mut Forming, entry: &Entry) -> Result<Admission, EntryError> {
        if entry.policy.is_some_and(|policy| policy != self.s.policy) {
            return Ok(Admission::Refuse(EntryError::PolicyChanged));
        }
        // Whoever decides it again is told why.
        if matches!(entry.effect, Effect::Grant { .. } | Effect::Release { .. }) && self.s.trust.is_held() {
            return Ok(Admission::Refuse(EntryError::PolicyChanged));
        }
        let value = |write: &Write| match write {
            Write::Put(_, value) => value.len(),
            Write::Delete(_) => 0,
        };
        let values = entry.writes.iter().map(|write| (value(write), MAX_VALUE_LEN));
        let parts = entry.parts.iter().map(|(_, bytes)| (bytes.len(), MAX_PART_BYTES));
        if let Some((found, most)) = values.chain(parts).find(|(found, most)| found > most) {
            let detail = format!("a value of {found} bytes, the limit is {most}");
            return Ok(Admission::Refuse(EntryError::Unstorable { detail }));
        }
        // Two that only look at a row go together; one that writes it goes alone.
        let written = || entry.writes.iter().map(Write::key);
        let guarded = || entry.guards.iter().map(Guard::key);
        if written().any(|key| forming.touched.contains(key) || forming.guarded.contains(key))
            || guarded().any(|key| forming.touched.contains(key))
        {
            return Ok(Admission::Later);
        }
        for guard in &entry.guards {
            let found = self.s.store.get(guard.key()).map_err(stopped)?.map(|row| row.revision);
            if found != guard.expected() {
                let at = |r: Option<Revision>| r.map_or_else(|| "absent".to_owned(), |r| format!("revision {r}"));
                let detail = format!("{} was {}, is {}", guard.key(), at(guard.expected()), at(found));
                return Ok(Admission::Refuse(EntryError::Conflict { detail }));
            }
        }
        match &entry.effect {
            Effect::Withdraw { nodes, entries, .. } => {
                for node in nodes {
                    self.withdraw(forming, node)?;
                }
                forming.out.extend_from_slice(entries);
            }
            Effect::Grant { growth, lifts } => {
                let stands = || self.stands(&growth.entry);
                if let Err(detail) = self.s.lineage.grow(growth, stands) {
                    return Ok(Admission::Refuse(EntryError::Conflict { detail }));
                }
                forming.grown.insert(growth.entry.status);
                forming.granted.push(growth.entry.status);
                forming.granted.extend_from_slice(lifts);
            }
            Effect::Free { entries, now, margin } => {
                let falling = || self.s.trust.pending() > 0;
                if !self.s.lineage.free(entries, *now, *margin, falling) {
                    let detail = "something of it was renewed, or something falls".to_owned();
                    return Ok(Admission::Refuse(EntryError::Conflict { detail }));
                }
                forming.freed.extend_from_slice(entries);
            }
            Effect::Release { rests_on } => {
                let counts = match rests_on.as_slice() {
                    [] => Err("it rests on nothing".to_owned()),
                    rests_on => self.count(rests_on),
                };
                if let Err(detail) = counts {
                    return Ok(Admission::Refuse(EntryError::Conflict { detail }));
                }
            }
            Effect::None | Effect::Due => {}
            // What comes after an activation is looked at again under the new policy.
            Effect::Activate(_) if !forming.taken.is_empty() => return Ok(Admission::Later),
            Effect::Activate(_) => forming.bytes = usize::MAX,
        }
        forming.touched.extend(written().cloned());
        forming.guarded.extend(guarded().cloned());
        forming.bytes = forming.bytes.saturating_add(size(entry));
        forming.writes += writes(entry);
        Ok(Admission::Take)
    }

    /// Marks the node's record, as it is now, and whatever status entry it has now.
    fn withdraw(&self, forming: &mut Forming, node: &str) -> Result<(), EntryError> {
        let key = rows::NODE.key(node.as_bytes()).map_err(stopped)?;
        let mut record = match forming.nodes.remove(&key) {
            Some(record) => record,
            None => match self.s.store.get(&key).map_err(stopped)? {
                None => return Ok(()),
                Some(row) => match NodeRecord::decode(&row.value) {
                    Ok(record) => record,
                    // A record nobody can read grants nothing; its entry is marked where it went out.
                    Err(_) => return Ok(()),
                },
            },
        };
        record.withdrawn = true;
        forming.revoked.push(record.status);
        forming.touched.insert(key.clone());
        forming.nodes.insert(key, record);
        Ok(())
    }

    fn commit(&mut self, forming: &mut Forming) -> Result<(), EntryError> {
        let now_ms = self.s.clock.now_ms();
        // The record may have got a new entry since the withdrawal went out: that one goes out now.
        let lists = self.s.trust.lists();
        let late: Vec<StatusIndex> = forming
            .revoked
            .iter()
            .filter(|e| !is_revoked(&lists, e))
            .copied()
            .collect();
        let extra = if late.is_empty() {
            None
        } else {
            let take = |set: &[StatusIndex]| {
                forming.revoked.extend_from_slice(set);
                self.s.trust.withdraw(set, now_ms)
            };
            Some(self.s.lineage.fall(&late, take).map_err(stopped)?)
        };

        let mut batch = Batch::new();
        let mut nonces = Vec::new();
        for waiting in &forming.taken {
            for guard in &waiting.entry.guards {
                batch.guard(guard.clone());
            }
            for write in &waiting.entry.writes {
                match write {
                    Write::Put(key, value) => batch.put(key.clone(), value.as_slice()),
                    Write::Delete(key) => batch.delete(key.clone()),
                };
                if write.key().as_bytes().starts_with(rows::NONCE.prefix().as_bytes()) {
                    nonces.push((now_ms, write.key().clone()));
                }
            }
        }
        self.mark(forming, &mut batch)?;
        for status in &forming.freed {
            batch.delete(rows::LINEAGE.numbered(number(status)));
        }
        for status in &forming.grown {
            // As it is with all that was taken in since: what it rests on, and the latest end.
            if let Some(entry) = self.s.lineage.get(status) {
                batch.put(rows::LINEAGE.numbered(number(status)), entry.encode());
            }
        }
        let first = self.s.log.head().size;
        for (subject, index) in latest(forming, first) {
            batch.put(
                rows::LATEST.key(subject.as_bytes()).map_err(stopped)?,
                index.to_be_bytes(),
            );
        }
        let (stored_parts, written) = self.new_parts(forming)?;
        for (key, bytes) in written {
            batch.put(key, bytes);
        }
        forming.out.append(&mut forming.revoked);
        for (list, page, bytes) in self.s.trust.pages(&forming.out, &forming.granted, &forming.freed) {
            batch.put(rows::status(list, page), bytes);
        }
        let epochs = self.s.trust.wants_epochs();
        if let Some(limit) = epochs {
            batch.put(rows::META.key(EPOCH_LIMIT).map_err(stopped)?, limit.to_be_bytes());
        }
        let old = self
            .nonces
            .iter()
            .take_while(|(at, _)| now_ms.saturating_sub(*at) > NONCE_KEPT_MS);
        let old = old.take(MAX_BATCH_ENTRIES).count();
        for (_, key) in self.nonces.drain(..old) {
            batch.delete(key);
        }
        let entries = forming.taken.iter().map(|w| w.entry.statement.bytes.as_slice());
        let staged = self.s.log.stage(entries, &mut batch).map_err(stopped)?;
        // Guards were looked at before and nobody else writes, so a conflict means that the store is not what it was.
        self.s.store.commit(batch).map_err(stopped)?;
        let head = staged.head();
        self.s.log.settle(staged);
        self.nonces.extend(nonces);
        if self.known_parts.len() + stored_parts.len() > KNOWN_PARTS {
            self.known_parts.clear();
        }
        self.known_parts.extend(stored_parts);
        if let Some(limit) = epochs {
            self.s.trust.reserved(limit);
        }
        if let Ok(mut shown) = self.s.head.write() {
            *shown = head;
        }
        if let Some(extra) = extra {
            self.s.trust.durable(extra);
        }
        self.settle(forming, head, first, now_ms)
    }

    /// Writes the records of nodes that withdrawals mark. More than one commit takes are written beforehand: a node that is
    /// marked and whose withdrawal is not on record yet only has to attest anew.
    fn mark(&self, forming: &Forming, batch: &mut Batch) -> Result<(), EntryError> {
        let mut before = Batch::new();
        let last = forming.nodes.len().saturating_sub(MAX_MARKED_IN_COMMIT);
        for (nth, (key, record)) in (1..).zip(&forming.nodes) {
            if nth > last {
                batch.put(key.clone(), record.encode());
                continue;
            }
            before.put(key.clone(), record.encode());
            if nth % MAX_MARKED_IN_COMMIT == 0 || nth == last {
                let full = std::mem::take(&mut before);
                self.s.store.commit(full).map_err(stopped)?;
            }
        }
        Ok(())
    }

    /// The parts of this commit's entries that are not stored yet, and the rows they are to be stored in with it. More
    /// than one commit takes is stored beforehand: parts are named by their digest, so one too many does no harm.
    fn new_parts(&mut self, forming: &Forming) -> Result<NewParts, EntryError> {
        let (mut new, mut written, mut bytes_written) = (HashSet::new(), BTreeMap::new(), 0);
        for (digest, bytes) in forming.taken.iter().flat_map(|waiting| &waiting.entry.parts) {
            if self.known_parts.contains(digest) || new.contains(digest) {
                continue;
            }
            if parts::is_stored(&*self.s.store, digest, bytes.len()).map_err(stopped)? {
                self.known_parts.insert(*digest);
                continue;
            }
            new.insert(*digest);
            for (key, value) in parts::writes(digest, bytes).map_err(stopped)? {
                bytes_written += value.len();
                written.insert(key, value);
                if bytes_written > MAX_COMMIT_BYTES - MAX_VALUE_LEN {
                    bytes_written = 0;
                    self.commit_parts(std::mem::take(&mut written))?;
                }
            }
        }
        Ok((new, written))
    }

    fn commit_parts(&self, written: BTreeMap<Key, Vec<u8>>) -> Result<(), EntryError> {
        let mut batch = Batch::new();
        for (key, bytes) in written {
            batch.put(key, bytes);
        }
        self.s.store.commit(batch).map(|_| ()).map_err(stopped)
    }

    /// One receipt for each entry from `first` on.
    fn receipts(&self, head: LogHead, first: u64, now_ms: u64) -> Result<Vec<Vec<u8>>, EntryError> {
        if head.size < MIN_TREE_SIZE {
            // Only the genesis statement is without one; it is nobody's answer.
            return Ok(vec![
                Vec::new();
                usize::try_from(head.size.saturating_sub(first)).unwrap_or(0)
            ]);
        }
        let source = self.s.log.source(&*self.s.store);
        let (origin, size, root) = (&self.s.origin, head.size, &head.root);
        issue_batch(
            &*self.s.checkpoint,
            origin,
            size,
            root,
            first..size,
            &source,
            seconds(now_ms),
        )
        .map_err(stopped)
    }

    /// Everything is durable: takes over activations, shows grants, answers.
    fn settle(&mut self, forming: &mut Forming, head: LogHead, first: u64, now_ms: u64) -> Result<(), EntryError> {
        let ledger = (head.size, head.root);
        let receipts = self.receipts(head, first, now_ms)?;
        self.s
            .trust
            .granted(&forming.granted, ledger, now_ms)
            .map_err(stopped)?;
        self.s.trust.freed(&forming.freed, now_ms).map_err(stopped)?;
        let mut answers = Vec::with_capacity(forming.taken.len());
        for ((index, waiting), receipt) in (first..).zip(std::mem::take(&mut forming.taken)).zip(receipts) {
            let mut held = None;
            match waiting.entry.effect {
                Effect::Withdraw { withdrawal, .. } => self.s.trust.durable(withdrawal),
                Effect::Activate(activation) => {
                    self.s.policy = activation.facts.policy_digest;
                    self.s
                        .trust
                        .activate(activation.facts, ledger, now_ms)
                        .map_err(stopped)?;
                    (activation.install)();
                }
                Effect::Grant { .. } => held = Some(Vec::new()),
                Effect::Release { rests_on } => held = Some(rests_on),
                Effect::Free { .. } | Effect::None | Effect::Due => {}
            }
            answers.push((waiting.reply, Recorded { index, receipt }, held));
        }
        // Who went away meanwhile finds the decision in the ledger.
        for (reply, recorded, held) in answers {
            if let Some(rests_on) = held {
                self.held.push(Held {
                    reply,
                    recorded,
                    rests_on,
                });
            } else {
                let _ = reply.send(Ok(recorded));
            }
        }
        if self.s.trust.pending() == 0 {
            for held in std::mem::take(&mut self.held) {
                // What fell since the commit is on record as released, and is not given away all the same.
                let answer = match self.count(&held.rests_on) {
                    Ok(()) => Ok(held.recorded),
                    Err(detail) => Err(EntryError::Fallen { detail }),
                };
                let _ = held.reply.send(answer);
            }
        }
        Ok(())
    }
}

/// The key, in [`rows::META`], of the first epoch that is not reserved.
pub const EPOCH_LIMIT: &[u8] = b"epoch-limit";

enum Admission {
    Take,
    Later,
    Refuse(EntryError),
}

fn stopped(error: impl std::fmt::Display) -> EntryError {
    EntryError::Stopped {
        detail: error.to_string(),
    }
}
