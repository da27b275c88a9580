//! The one writer. Statements that wait are committed together: one sync, one signed root, a receipt each.
//!
//! The order of a commit: everything durable first (`docs/protocol.md`, sections 7 and 9), then the root is signed, then
//! grants become visible, then answers go out. A store that fails stops the sequencer for good: nothing is granted on an
//! unknown outcome, heads end, and enforcers stop at the end of their window.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, RwLock};

use tokio::sync::oneshot;
use touchstone_authorization::token::StatusIndex;
use touchstone_cose::key::SigningKey;
use touchstone_ledger::receipt::{MIN_TREE_SIZE, issue_batch};
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
        self.0
            .put(Waiting { entry, reply }, urgent)
            .map_err(|refused| match refused {
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
    let running = Running {
        s: sequencer,
        deferred: VecDeque::new(),
        held: Vec::new(),
        nonces: VecDeque::new(),
        known_parts: HashSet::new(),
    };
    let thread = std::thread::Builder::new()
        .name("sequencer".into())
        .spawn(move || running.run(&queue))?;
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
    /// Parts that are stored.
    known_parts: HashSet<[u8; 32]>,
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
        let values = entry.writes.iter().filter_map(|w| match w {
            Write::Put(_, value) => Some(value.len()),
            Write::Delete(_) => None,
        });
        let largest = values.chain(entry.parts.iter().map(|(_, bytes)| bytes.len())).max();
        if let Some(found) = largest.filter(|largest| *largest > MAX_VALUE_LEN) {
            let detail = format!("a value of {found} bytes, the limit is {MAX_VALUE_LEN}");
            return Ok(Admission::Refuse(EntryError::Unstorable { detail }));
        }
        let keys = || {
            entry
                .guards
                .iter()
                .map(Guard::key)
                .chain(entry.writes.iter().map(Write::key))
        };
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
            Some(self.s.trust.withdraw(&late, now_ms).map_err(stopped)?)
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
        for (key, record) in &forming.nodes {
            batch.put(key.clone(), record.encode());
        }
        let first = self.s.log.head().size;
        for (subject, index) in latest(forming, first) {
            batch.put(
                rows::LATEST.key(subject.as_bytes()).map_err(stopped)?,
                index.to_be_bytes(),
            );
        }
        let stored_parts = self.new_parts(forming)?;
        for (digest, bytes) in &stored_parts {
            batch.put(rows::PART.key(*digest).map_err(stopped)?, *bytes);
        }
        let stored_parts: Vec<[u8; 32]> = stored_parts.into_keys().copied().collect();
        for (list, page, bytes) in self.s.trust.pages(&forming.revoked, &forming.granted) {
            batch.put(rows::status(list, page), bytes);
        }
        let epochs = self.s.trust.wants_epochs();
        if let Some(limit) = epochs {
            batch.put(rows::META.key(EPOCH_LIMIT).map_err(stopped)?, limit.to_be_bytes());
        }
        while self
            .nonces
            .front()
            .is_some_and(|(at, _)| now_ms.saturating_sub(*at) > NONCE_KEPT_MS)
        {
            if let Some((_, key)) = self.nonces.pop_front() {
                batch.delete(key);
            }
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

    /// The parts of this commit's entries that are not stored yet, each once.
    fn new_parts<'a>(&mut self, forming: &'a Forming) -> Result<HashMap<&'a [u8; 32], &'a [u8]>, EntryError> {
        let mut new = HashMap::new();
        for (digest, bytes) in forming.taken.iter().flat_map(|waiting| &waiting.entry.parts) {
            if self.known_parts.contains(digest) || new.contains_key(digest) {
                continue;
            }
            let key = rows::PART.key(digest).map_err(stopped)?;
            if self.s.store.get(&key).map_err(stopped)?.is_some() {
                self.known_parts.insert(*digest);
            } else {
                new.insert(digest, bytes.as_slice());
            }
        }
        Ok(new)
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
        let mut answers = Vec::with_capacity(forming.taken.len());
        for ((index, waiting), receipt) in (first..).zip(std::mem::take(&mut forming.taken)).zip(receipts) {
            let grant = matches!(waiting.entry.effect, Effect::Grant { .. });
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
            && self.writes + writes(entry) <= MAX_BATCH_ENTRY_WRITES;
        self.taken.is_empty() || (self.taken.len() < MAX_BATCH_ENTRIES && fits)
    }
}

/// The last statement about each subject of a commit whose first statement is `first`.
fn latest(forming: &Forming, first: u64) -> HashMap<&str, u64> {
    (first..)
        .zip(&forming.taken)
        .filter_map(|(index, w)| Some((w.entry.subject.as_deref()?, index)))
        .collect()
}

fn takes_away(entry: &Entry) -> bool {
    matches!(entry.effect, Effect::Withdraw { .. })
}

fn ended() -> EntryError {
    EntryError::Stopped {
        detail: "the sequencer has ended".into(),
    }
}

fn size(entry: &Entry) -> usize {
    let writes = entry.writes.iter().map(|write| match write {
        Write::Put(_, value) => value.len(),
        Write::Delete(_) => 0,
    });
    let parts = entry.parts.iter().map(|(_, bytes)| bytes.len());
    entry.statement.bytes.len() + writes.sum::<usize>() + parts.sum::<usize>()
}

fn writes(entry: &Entry) -> usize {
    entry.writes.len() + entry.guards.len() + entry.parts.len()
}

fn is_revoked(lists: &touchstone_authorization::StatusLists, entry: &StatusIndex) -> bool {
    let status = lists.get(entry.list).and_then(|list| list.status(entry.index));
    status == Some(touchstone_authorization::Status::Invalid)
}

fn stopped(error: impl std::fmt::Display) -> EntryError {
    EntryError::Stopped {
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use touchstone_authorization::{Status, StatusLists};
    use touchstone_ledger::receipt::verify_receipt;
    use touchstone_ledger::statement::Signed;
    use touchstone_store::{Changes, CommitError, RangeRow, RedbStore, StoreError, Versioned};

    use super::*;
    use crate::entry::Activation;
    use crate::log;
    use crate::node::tests::record;
    use crate::trust::EPOCH_BLOCK;
    use crate::trust::tests::{facts, trust};

    const POLICY: [u8; 32] = [1; 32];

    /// A store whose commits wait for a permit, so that a test decides what is committed together.
    struct Gated {
        below: RedbStore,
        permits: std::sync::Mutex<std::sync::mpsc::Receiver<bool>>,
    }

    impl Store for Gated {
        fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
            self.below.get(key)
        }
        fn range(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<RangeRow>, StoreError> {
            self.below.range(prefix, after, limit)
        }
        fn commit(&self, batch: Batch) -> Result<Revision, CommitError> {
            match self.permits.lock().unwrap().recv() {
                Ok(true) => self.below.commit(batch),
                _ => Err(CommitError::Unknown {
                    detail: "the disk is gone".into(),
                }),
            }
        }
        fn revision(&self) -> Result<Revision, StoreError> {
            self.below.revision()
        }
        fn changes_since(&self, since: Revision) -> Result<Changes, StoreError> {
            self.below.changes_since(since)
        }
    }

    struct Bed {
        folder: tempfile::TempDir,
        store: Arc<dyn Store>,
        trust: Arc<Trust>,
        handle: SequencerHandle,
        thread: Option<std::thread::JoinHandle<Result<(), EntryError>>>,
        permits: std::sync::mpsc::Sender<bool>,
        key: Arc<SigningKey>,
    }

    fn bed_in(folder: tempfile::TempDir, limit: usize) -> Bed {
        let (permits, gate) = std::sync::mpsc::channel();
        let below = RedbStore::open(&folder.path().join("store")).unwrap();
        let log = LogEdge::open(&below).unwrap();
        let store: Arc<dyn Store> = Arc::new(Gated {
            below,
            permits: std::sync::Mutex::new(gate),
        });
        let trust = Arc::new(trust(EPOCH_BLOCK));
        let key = Arc::new(SigningKey::from_seed([9; 32]));
        let sequencer = Sequencer {
            store: store.clone(),
            head: Arc::new(RwLock::new(log.head())),
            log,
            trust: trust.clone(),
            checkpoint: key.clone(),
            origin: "demo/ledger".into(),
            policy: POLICY,
            clock: Clock::start(),
        };
        let (handle, thread) = start(sequencer, limit).unwrap();
        Bed {
            folder,
            store,
            trust,
            handle,
            thread: Some(thread),
            permits,
            key,
        }
    }

    fn bed() -> Bed {
        bed_in(tempfile::tempdir().unwrap(), 64)
    }

    impl Bed {
        fn permit(&self, count: usize) {
            (0..count).for_each(|_| self.permits.send(true).unwrap());
        }
        fn stop(mut self) -> (tempfile::TempDir, Result<(), EntryError>) {
            self.handle.close();
            let ended = self.thread.take().unwrap().join().unwrap();
            (self.folder, ended)
        }
    }

    fn entry(text: &str, effect: Effect) -> Entry {
        let statement = Signed {
            bytes: text.as_bytes().to_vec(),
            digest: [0; 32],
        };
        Entry {
            statement,
            subject: None,
            policy: Some(POLICY),
            guards: vec![],
            writes: vec![],
            parts: vec![],
            effect,
        }
    }

    fn nonce(name: &str) -> Key {
        rows::NONCE.key(name.as_bytes()).unwrap()
    }

    /// Hands an entry in without waiting for its answer.
    async fn hand_in(bed: &Bed, entry: Entry) -> tokio::task::JoinHandle<Result<Recorded, EntryError>> {
        let handle = bed.handle.clone();
        let mut future = Box::pin(async move { handle.record(entry).await });
        // The first poll puts it into the queue.
        let first = std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx))).await;
        match first {
            std::task::Poll::Ready(answer) => tokio::spawn(async move { answer }),
            std::task::Poll::Pending => tokio::spawn(future),
        }
    }

    use std::future::Future as _;

    #[tokio::test]
    async fn what_waits_is_committed_together_with_a_receipt_each() {
        let bed = bed();
        let first = hand_in(&bed, entry("genesis", Effect::None)).await;
        let mut others = Vec::new();
        for n in 0..40 {
            others.push(hand_in(&bed, entry(&format!("statement {n}"), Effect::None)).await);
        }
        bed.permit(2);
        first.await.unwrap().unwrap();
        let public = bed.key.verifying_key();
        for (n, answer) in others.into_iter().enumerate() {
            let recorded = answer.await.unwrap().unwrap();
            let text = format!("statement {n}");
            assert_eq!(
                log::entry(&*bed.store, recorded.index).unwrap().unwrap(),
                text.as_bytes()
            );
            if !recorded.receipt.is_empty() {
                verify_receipt(&recorded.receipt, text.as_bytes(), &public, "demo/ledger").unwrap();
            }
        }
        assert_eq!(log::head(&*bed.store).unwrap().unwrap().size, 41);
        let (folder, ended) = bed.stop();
        ended.unwrap();
        let again = RedbStore::open(&folder.path().join("store")).unwrap();
        assert_eq!(
            LogEdge::open(&again).unwrap().head().size,
            41,
            "and it is there after opening again"
        );
    }

    #[tokio::test]
    async fn a_nonce_is_consumed_once_even_within_one_commit() {
        let bed = bed();
        bed.permit(9);
        let with_nonce = |text| Entry {
            guards: vec![Guard::Absent(nonce("n"))],
            writes: vec![Write::Put(nonce("n"), vec![])],
            ..entry(text, Effect::None)
        };
        let one = hand_in(&bed, with_nonce("one")).await;
        let two = hand_in(&bed, with_nonce("two")).await;
        one.await.unwrap().unwrap();
        assert!(matches!(two.await.unwrap(), Err(EntryError::Conflict { .. })));
        assert_eq!(log::head(&*bed.store).unwrap().unwrap().size, 1);
    }

    #[tokio::test]
    async fn what_was_decided_under_another_policy_is_sent_back() {
        let bed = bed();
        bed.permit(9);
        let installed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let install = {
            let installed = installed.clone();
            Box::new(move || installed.store(true, std::sync::atomic::Ordering::SeqCst))
        };
        let mut next = facts();
        next.policy_digest = [2; 32];
        let activate = hand_in(
            &bed,
            entry("activation", Effect::Activate(Activation { facts: next, install })),
        )
        .await;
        let old = hand_in(&bed, entry("old", Effect::None)).await;
        activate.await.unwrap().unwrap();
        assert!(installed.load(std::sync::atomic::Ordering::SeqCst));
        assert_eq!(old.await.unwrap(), Err(EntryError::PolicyChanged));
        let new = Entry {
            policy: Some([2; 32]),
            ..entry("new", Effect::None)
        };
        bed.handle.record(new).await.unwrap();
    }

    #[tokio::test]
    async fn a_part_that_many_name_is_stored_once_and_holds_nobody_up() {
        let bed = bed();
        let part = ([3; 32], b"the log of an image".to_vec());
        let mut answers = Vec::new();
        for n in 0..20 {
            let named = Entry {
                parts: vec![part.clone()],
                ..entry(&format!("{n}"), Effect::None)
            };
            answers.push(hand_in(&bed, named).await);
        }
        // The first may go alone; all others go together, though they name the same part.
        bed.permit(2);
        for answer in answers {
            answer.await.unwrap().unwrap();
        }
        let key = rows::PART.key(&part.0).unwrap();
        let stored = bed.store.get(&key).unwrap().unwrap();
        bed.permit(1);
        bed.handle
            .record(Entry {
                parts: vec![part.clone()],
                ..entry("again", Effect::None)
            })
            .await
            .unwrap();
        assert_eq!(bed.store.get(&key).unwrap().unwrap(), stored);
    }

    fn status_of(lists: &StatusLists, place: StatusIndex) -> Status {
        lists.get(place.list).unwrap().status(place.index).unwrap()
    }

    #[tokio::test]
    async fn nothing_is_granted_while_a_withdrawal_is_not_durable() {
        let bed = bed();
        let (bad, good) = (bed.trust.deal().unwrap(), bed.trust.deal().unwrap());
        let withdrawal = bed.trust.withdraw(&[bad], 1).unwrap();
        let grant = hand_in(&bed, entry("grant", Effect::Grant { status: good })).await;
        bed.permit(1);
        // The permit is not used by the grant: an event can still have it.
        bed.handle.record(entry("event", Effect::None)).await.unwrap();
        assert!(!grant.is_finished());
        assert_eq!(log::head(&*bed.store).unwrap().unwrap().size, 1);
        bed.permit(2);
        let withdraw = Effect::Withdraw {
            node: "bad".into(),
            withdrawal,
        };
        bed.handle.record(entry("withdrawal", withdraw)).await.unwrap();
        grant.await.unwrap().unwrap();
        assert_eq!(bed.trust.pending(), 0);
    }

    #[tokio::test]
    async fn a_withdrawal_marks_record_and_page_whatever_was_granted_meanwhile() {
        let bed = bed();
        bed.permit(9);
        let old = bed.trust.deal().unwrap();
        let new = bed.trust.deal().unwrap();
        let key = rows::NODE.key(b"bad").unwrap();
        let mut node = record("bad");
        node.status = new;
        let put = Entry {
            writes: vec![Write::Put(key.clone(), node.encode())],
            ..entry("enrol", Effect::None)
        };
        bed.handle.record(put).await.unwrap();
        let withdrawal = bed.trust.withdraw(&[old], 1).unwrap();
        let withdraw = Effect::Withdraw {
            node: "bad".into(),
            withdrawal,
        };
        bed.handle.record(entry("withdrawal", withdraw)).await.unwrap();
        let stored = NodeRecord::decode(&bed.store.get(&key).unwrap().unwrap().value).unwrap();
        assert!(stored.withdrawn);
        let lists = bed.trust.lists();
        assert_eq!(
            (status_of(&lists, old), status_of(&lists, new)),
            (Status::Invalid, Status::Invalid)
        );
        let page = bed.store.get(&rows::status(new.list, 0)).unwrap().unwrap().value;
        assert_eq!(page[0] & 3, 1);
        assert_eq!(bed.trust.pending(), 0);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_grants_and_never_a_withdrawal() {
        let bed = bed_in(tempfile::tempdir().unwrap(), 2);
        let mut waiting = Vec::new();
        let mut busy = 0;
        // One commit hangs at the gate with at most one of these; two more fit into the queue.
        for n in 0..600 {
            let answer = hand_in(&bed, entry(&format!("{n}"), Effect::None)).await;
            if answer.is_finished() {
                busy += 1
            } else {
                waiting.push(answer)
            }
        }
        let place = bed.trust.deal().unwrap();
        let withdrawal = bed.trust.withdraw(&[place], 1).unwrap();
        let withdraw = hand_in(
            &bed,
            entry(
                "w",
                Effect::Withdraw {
                    node: "n".into(),
                    withdrawal,
                },
            ),
        )
        .await;
        bed.permit(600);
        withdraw.await.unwrap().unwrap();
        let mut refused = 0;
        for answer in waiting {
            match answer.await.unwrap() {
                Ok(_) => {}
                Err(EntryError::Busy { limit: 2 }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(busy + refused > 0);
    }

    #[tokio::test]
    async fn an_unknown_outcome_stops_everything_for_good() {
        let bed = bed();
        bed.permits.send(false).unwrap();
        let lost = bed.handle.record(entry("lost", Effect::None)).await;
        assert!(matches!(lost, Err(EntryError::Stopped { .. })));
        assert!(!bed.trust.may_grant());
        bed.permit(1);
        let after = bed.handle.record(entry("after", Effect::None)).await;
        assert!(matches!(after, Err(EntryError::Stopped { .. })));
        assert!(bed.stop().1.is_err());
    }

    #[tokio::test]
    async fn a_stop_in_mid_commit_loses_nothing_that_was_answered() {
        let bed = bed();
        bed.permit(1);
        bed.handle.record(entry("answered", Effect::None)).await.unwrap();
        bed.permits.send(false).unwrap();
        let _ = bed.handle.record(entry("not answered", Effect::None)).await;
        let (folder, _) = bed.stop();
        let again = bed_in(folder, 64);
        again.permit(1);
        assert_eq!(again.handle.record(entry("next", Effect::None)).await.unwrap().index, 1);
        assert_eq!(
            log::entries(&*again.store, 0, 9).unwrap(),
            [b"answered".to_vec(), b"next".to_vec()]
        );
    }
}
