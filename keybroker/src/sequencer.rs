//! The one writer. Statements that wait are committed together: one sync, one signed root, a receipt each.
//!
//! The order of a commit: everything durable first (`docs/protocol.md`, sections 7 and 9), then the root is signed, then
//! grants become visible, then answers go out. A store that fails stops the sequencer for good: nothing is granted on an
//! unknown outcome, heads end, and enforcers stop at the end of their window.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, RwLock};

use tokio::sync::oneshot;
use touchstone_authorization::token::StatusIndex;
use touchstone_cose::key::SigningKey;
use touchstone_cose::receipt::{SignedRoot, sign_root};
use touchstone_store::{Batch, Guard, Key, MAX_VALUE_LEN, Revision, Store, Write};

use crate::clock::{Clock, seconds};
use crate::entry::{Effect, Entry, EntryError, Recorded};
use crate::log::{LogEdge, LogHead};
use crate::node::NodeRecord;
use crate::queue::{Queue, Refused};
use crate::rows;
use crate::trust::Trust;

/// Most statements in one commit.
pub const MAX_BATCH_ENTRIES: usize = 256;

/// Most bytes of statements and writes in one commit, before hashes and pages.
pub const MAX_BATCH_ENTRY_BYTES: usize = 4 * 1024 * 1024;

/// Most guards and writes of statements in one commit, before hashes and pages: half of what the store takes.
pub const MAX_BATCH_ENTRY_WRITES: usize = touchstone_store::MAX_BATCH_WRITES / 2;

/// A used nonce is kept this long, in milliseconds: twice the longest life of a session.
pub const NONCE_KEPT_MS: u64 = 120_000;

/// What the sequencer works on.
pub struct Sequencer {
    /// The store; nobody else writes to it.
    pub store: Arc<dyn Store>,
    /// The ledger's right edge.
    pub log: LogEdge,
    /// The trust state.
    pub trust: Arc<Trust>,
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

/// Where statements are handed in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SequencerHandle(Arc<Queue<Waiting>>);

#[derive(Debug)]
struct Waiting {
    entry: Entry,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<Recorded, EntryError>>;

impl SequencerHandle {
    /// Hands in a statement; the future resolves once it is durable, or refused. Dropping the future takes nothing
    /// back.
    ///
    /// # Errors
    /// [`EntryError`]. A withdrawal is never refused as busy.
    pub async fn record(&self, entry: Entry) -> Result<Recorded, EntryError> {
        let (reply, answer) = oneshot::channel();
        let urgent = takes_away(&entry);
        self.0.put(Waiting { entry, reply }, urgent).map_err(|refused| match refused {
            Refused::Full(_) => EntryError::Busy { limit: self.0.limit() },
            Refused::Closed(_) => ended(),
        })?;
        answer.await.map_err(|_| ended())?
    }

    /// Takes no more statements; what was handed in is still committed, then the thread ends.
    pub fn close(&self) {
        self.0.close();
    }
}

/// Starts the sequencer on a thread of its own, with room for `limit` statements that wait. It ends when the handle is
/// closed, or when the store fails; then the thread gives the reason.
///
/// # Errors
/// The system has no thread to give.
pub fn start(
    sequencer: Sequencer,
    limit: usize,
) -> std::io::Result<(SequencerHandle, std::thread::JoinHandle<Result<(), EntryError>>)> {
    let queue = Arc::new(Queue::new(limit));
    let handle = SequencerHandle(Arc::clone(&queue));
    let running =
        Running { s: sequencer, deferred: VecDeque::new(), held: Vec::new(), nonces: VecDeque::new() };
    let thread = std::thread::Builder::new().name("sequencer".into()).spawn(move || running.run(&queue))?;
    Ok((handle, thread))
}

struct Running {
    s: Sequencer,
    /// Handed in, and not for the commit that was made since.
    deferred: VecDeque<Waiting>,
    /// Durable grants whose answers wait until every withdrawal is durable too.
    held: Vec<(Reply, Recorded)>,
    /// Used nonces and when, oldest first.
    nonces: VecDeque<(u64, Key)>,
}

/// A commit in the making.
#[derive(Default)]
struct Forming {
    taken: Vec<Waiting>,
    touched: BTreeSet<Key>,
    bytes: usize,
    writes: usize,
    /// Node records as withdrawals in this commit leave them.
    nodes: HashMap<Key, NodeRecord>,
    revoked: Vec<StatusIndex>,
    granted: Vec<StatusIndex>,
}

impl Running {
    fn run(mut self, queue: &Queue<Waiting>) -> Result<(), EntryError> {
        let mut idle = true;
        loop {
            let room = MAX_BATCH_ENTRIES.saturating_sub(self.deferred.len());
            // Where nothing could be committed, what is deferred waits for a withdrawal on its way.
            if !idle {
                queue.take_now(&mut self.deferred, room);
            } else if !queue.take(&mut self.deferred, room) {
                self.refuse_deferred(&ended());
                return Ok(());
            }
            // Taking away goes first.
            self.deferred.make_contiguous().sort_by_key(|w| !takes_away(&w.entry));
            match self.commit_some() {
                Ok(committed) => idle = !committed || self.deferred.is_empty(),
                Err(error) => {
                    tracing::error!(%error, "the ledger has stopped");
                    self.s.trust.stop();
                    queue.close();
                    queue.take_now(&mut self.deferred, usize::MAX);
                    self.refuse_deferred(&error);
                    return Err(error);
                }
            }
        }
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
            let grant = matches!(waiting.entry.effect, Effect::Grant { .. });
            if !self.s.trust.may_grant() && !takes_away(&waiting.entry) {
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
        self.commit(forming).map(|()| true)
    }

    /// Whether an entry can be part of the commit. Guards are looked at here, one entry at a time, so that the one that
    /// fails is known; nobody else writes, so they still hold at the commit.
    fn admit(&mut self, forming: &mut Forming, entry: &Entry) -> Result<Admission, EntryError> {
        if entry.policy.is_some_and(|policy| policy != self.s.policy) {
            return Ok(Admission::Refuse(EntryError::PolicyChanged));
        }
        let large = entry.writes.iter().find_map(|w| match w {
            Write::Put(key, value) if value.len() > MAX_VALUE_LEN => Some(key),
            _ => None,
        });
        if let Some(key) = large {
            let detail = format!("{key} is over {MAX_VALUE_LEN} bytes");
            return Ok(Admission::Refuse(EntryError::Unstorable { detail }));
        }
        let keys = || entry.guards.iter().map(Guard::key).chain(entry.writes.iter().map(Write::key));
        if keys().any(|key| forming.touched.contains(key)) {
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
            Effect::Withdraw { node, .. } => self.withdraw(forming, node)?,
            Effect::Grant { status } => forming.granted.push(*status),
            Effect::None => {}
            // What comes after an activation is looked at again under the new policy.
            Effect::Activate(_) if !forming.taken.is_empty() => return Ok(Admission::Later),
            Effect::Activate(_) => forming.bytes = usize::MAX,
        }
        forming.touched.extend(keys().cloned());
        forming.bytes = forming.bytes.saturating_add(size(entry));
        forming.writes += entry.writes.len() + entry.guards.len();
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

    fn commit(&mut self, forming: Forming) -> Result<(), EntryError> {
        let now_ms = self.s.clock.now_ms();
        // The record may have got a new entry since the withdrawal went out: that one goes out now.
        let lists = self.s.trust.lists();
        let late: Vec<StatusIndex> = forming.revoked.iter().filter(|e| !is_revoked(&lists, e)).copied().collect();
        let extra = if late.is_empty() { None } else { Some(self.s.trust.withdraw(&late, now_ms).map_err(stopped)?) };

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
        for (key, record) in &forming.nodes {
            batch.put(key.clone(), record.encode());
        }
        for (list, page, bytes) in self.s.trust.pages(&forming.revoked, &forming.granted) {
            batch.put(rows::status(list, page), bytes);
        }
        let epochs = self.s.trust.wants_epochs();
        if let Some(limit) = epochs {
            batch.put(rows::META.key(EPOCH_LIMIT).map_err(stopped)?, limit.to_be_bytes());
        }
        while self.nonces.front().is_some_and(|(at, _)| now_ms.saturating_sub(*at) > NONCE_KEPT_MS) {
            if let Some((_, key)) = self.nonces.pop_front() {
                batch.delete(key);
            }
        }
        let entries = forming.taken.iter().map(|w| w.entry.statement.bytes.as_slice());
        let staged = self.s.log.stage(entries, &mut batch).map_err(stopped)?;
        let first = self.s.log.head().size;
        // Guards were looked at before and nobody else writes, so a conflict means that the store is not what it was.
        self.s.store.commit(batch).map_err(stopped)?;
        let head = staged.head();
        self.s.log.settle(staged);
        self.nonces.extend(nonces);
        if let Some(limit) = epochs {
            self.s.trust.reserved(limit);
        }
        if let Ok(mut shown) = self.s.head.write() {
            *shown = head;
        }
        let root =
            sign_root(&*self.s.checkpoint, &self.s.origin, head.size, &head.root, seconds(now_ms)).map_err(stopped)?;
        if let Some(extra) = extra {
            self.s.trust.durable(extra);
        }
        self.settle(forming, &root, head, first, now_ms)
    }

    /// Everything is durable: takes over activations, shows grants, answers.
    fn settle(
        &mut self,
        forming: Forming,
        root: &SignedRoot,
        head: LogHead,
        first: u64,
        now_ms: u64,
    ) -> Result<(), EntryError> {
        let ledger = (head.size, head.root);
        self.s.trust.granted(&forming.granted, ledger, now_ms).map_err(stopped)?;
        let mut answers = Vec::with_capacity(forming.taken.len());
        for (index, waiting) in (first..).zip(forming.taken) {
            let path = self.s.log.path(index, &*self.s.store).map_err(stopped)?;
            // A tree of one leaf has no encodable proof; only the first statement of all is without a receipt.
            let receipt = if head.size == 1 { Vec::new() } else { root.encode(index, &path).map_err(stopped)? };
            let grant = matches!(waiting.entry.effect, Effect::Grant { .. });
            match waiting.entry.effect {
                Effect::Withdraw { withdrawal, .. } => self.s.trust.durable(withdrawal),
                Effect::Activate(activation) => {
                    self.s.policy = activation.facts.policy_digest;
                    self.s.trust.activate(activation.facts, ledger, now_ms).map_err(stopped)?;
                    (activation.install)();
                }
                Effect::Grant { .. } | Effect::None => {}
            }
            answers.push((waiting.reply, Recorded { index, receipt }, grant));
        }
        // Who went away meanwhile finds the decision in the ledger.
        for (reply, recorded, grant) in answers {
            if grant {
                self.held.push((reply, recorded));
            } else {
                let _ = reply.send(Ok(recorded));
            }
        }
        if self.s.trust.pending() == 0 {
            for (reply, recorded) in self.held.drain(..) {
                let _ = reply.send(Ok(recorded));
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

impl Forming {
    fn has_room(&self, entry: &Entry) -> bool {
        let fits = self.bytes.saturating_add(size(entry)) <= MAX_BATCH_ENTRY_BYTES
            && self.writes + entry.writes.len() + entry.guards.len() <= MAX_BATCH_ENTRY_WRITES;
        self.taken.is_empty() || (self.taken.len() < MAX_BATCH_ENTRIES && fits)
    }
}

fn takes_away(entry: &Entry) -> bool {
    matches!(entry.effect, Effect::Withdraw { .. })
}

fn ended() -> EntryError {
    EntryError::Stopped { detail: "the sequencer has ended".into() }
}

fn size(entry: &Entry) -> usize {
    let writes = entry.writes.iter().map(|write| match write {
        Write::Put(_, value) => value.len(),
        Write::Delete(_) => 0,
    });
    entry.statement.bytes.len() + writes.sum::<usize>()
}

fn is_revoked(lists: &touchstone_authorization::StatusLists, entry: &StatusIndex) -> bool {
    let status = lists.get(entry.list).and_then(|list| list.status(entry.index));
    status == Some(touchstone_authorization::Status::Revoked)
}

fn stopped(error: impl std::fmt::Display) -> EntryError {
    EntryError::Stopped { detail: error.to_string() }
}
