//! The order of a commit, with a store that waits, fails and comes back.

use touchstone_authorization::{Status, StatusLists};
use touchstone_ledger::receipt::verify_receipt;
use touchstone_ledger::statement::Signed;
use touchstone_store::{Changes, CommitError, RangeRow, RedbStore, StoreError, Versioned};

use super::*;
use crate::entry::Activation;
use crate::lineage::entry::tests::entry as lineage_entry;
use crate::lineage::{self, Dependency, Growth, Link};
use crate::log;
use crate::node::tests::record;
use crate::trust::tests::{facts, trust};
use crate::trust::{EPOCH_BLOCK, Mark, place};

const POLICY: [u8; 32] = [1; 32];

/// A store whose commits wait for a permit, so that a test decides what is committed together.
struct Gated {
    below: RedbStore,
    permits: std::sync::Mutex<std::sync::mpsc::Receiver<bool>>,
    /// How many commits have come to the gate.
    arrived: Arc<std::sync::atomic::AtomicUsize>,
    /// Panic instead.
    broken: Arc<std::sync::atomic::AtomicBool>,
}

impl Store for Gated {
    fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        self.below.get(key)
    }
    fn range(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<RangeRow>, StoreError> {
        self.below.range(prefix, after, limit)
    }
    fn commit(&self, batch: Batch) -> Result<Revision, CommitError> {
        assert!(!self.broken.load(std::sync::atomic::Ordering::SeqCst), "broken");
        self.arrived.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
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
    lineage: Arc<Lineage>,
    handle: SequencerHandle,
    thread: Option<std::thread::JoinHandle<Result<(), EntryError>>>,
    permits: std::sync::mpsc::Sender<bool>,
    arrived: Arc<std::sync::atomic::AtomicUsize>,
    broken: Arc<std::sync::atomic::AtomicBool>,
    key: Arc<SigningKey>,
}

fn bed_in(folder: tempfile::TempDir, limit: usize) -> Bed {
    let (permits, gate) = std::sync::mpsc::channel();
    let below = RedbStore::open(&folder.path().join("store")).unwrap();
    let log = LogEdge::open(&below).unwrap();
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let arrived = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let store: Arc<dyn Store> = Arc::new(Gated {
        below,
        arrived: arrived.clone(),
        broken: broken.clone(),
        permits: std::sync::Mutex::new(gate),
    });
    let trust = Arc::new(trust(EPOCH_BLOCK));
    let lineage = Arc::new(Lineage::default());
    let key = Arc::new(SigningKey::from_seed([9; 32]));
    let sequencer = Sequencer {
        store: store.clone(),
        head: Arc::new(RwLock::new(log.head())),
        log,
        trust: trust.clone(),
        lineage: lineage.clone(),
        checkpoint: key.clone(),
        origin: "demo/ledger".into(),
        policy: POLICY,
        clock: Clock::start(),
    };
    let (handle, thread) = start(sequencer, limit).unwrap();
    // A thread that is only starting takes what is meant for who hands it in.
    handle.0.queue.until_waited_for();
    Bed {
        folder,
        store,
        trust,
        lineage,
        handle,
        thread: Some(thread),
        permits,
        arrived,
        broken,
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
    /// Comes back when `count` commits in all have come to the gate.
    fn until_arrived(&self, count: usize) {
        while self.arrived.load(std::sync::atomic::Ordering::SeqCst) < count {
            std::thread::yield_now();
        }
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

/// The grant of a new entry of a node.
fn grant(place: StatusIndex) -> Effect {
    Effect::grant(Growth {
        entry: lineage_entry(number(&place), None),
        renews: false,
    })
}

/// The grant of a new entry below another one.
fn grant_below(place: StatusIndex, parent: &lineage::Entry) -> Effect {
    Effect::grant(Growth {
        entry: lineage_entry(number(&place), Some(parent)),
        renews: false,
    })
}

fn release_to(holder: StatusIndex) -> Effect {
    Effect::Release { rests_on: vec![holder] }
}

/// An entry that was granted just now, of a node or below one.
async fn granted(bed: &Bed, parent: Option<StatusIndex>) -> StatusIndex {
    let place = bed.trust.deal().unwrap();
    let parent = parent.map(|parent| bed.lineage.get(&parent).unwrap());
    bed.permit(1);
    let growth = Growth {
        entry: lineage_entry(number(&place), parent.as_ref()),
        renews: false,
    };
    bed.handle
        .record(entry("granted", Effect::grant(growth)))
        .await
        .unwrap();
    place
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

#[tokio::test]
async fn a_part_longer_than_a_commit_is_stored_before_the_statement_that_names_it() {
    let bed = bed();
    let part = (
        [4; 32],
        (0..9 * MAX_VALUE_LEN + 5)
            .map(|n| (n / MAX_VALUE_LEN) as u8)
            .collect::<Vec<_>>(),
    );
    let entry = |text: &str| Entry {
        parts: vec![part.clone()],
        ..entry(text, Effect::None)
    };
    // Two commits of pieces; the disk goes before the statement.
    bed.permit(2);
    bed.permits.send(false).unwrap();
    let lost = bed.handle.record(entry("lost")).await;
    assert!(matches!(lost, Err(EntryError::Stopped { .. })));
    let (folder, _) = bed.stop();
    let bed = bed_in(folder, 64);
    assert_eq!(
        bed.store.get(&rows::log_head().unwrap()).unwrap(),
        None,
        "nothing is recorded"
    );
    bed.permit(3);
    assert_eq!(bed.handle.record(entry("next")).await.unwrap().index, 0);
    assert_eq!(parts::read(&*bed.store, &part.0).unwrap().as_deref(), Some(&part.1[..]));
    bed.permit(1);
    bed.handle.record(entry("again")).await.unwrap();
    let huge = Entry {
        parts: vec![([5; 32], vec![0; MAX_PART_BYTES + 1])],
        ..entry("huge")
    };
    assert!(matches!(
        bed.handle.record(huge).await,
        Err(EntryError::Unstorable { .. })
    ));
}

fn status_of(lists: &StatusLists, place: StatusIndex) -> Status {
    lists.get(place.list).unwrap().status(place.index).unwrap()
}

#[tokio::test]
async fn nothing_is_granted_while_a_withdrawal_is_not_durable() {
    let bed = bed();
    let (bad, good) = (bed.trust.deal().unwrap(), bed.trust.deal().unwrap());
    let withdrawal = bed.trust.withdraw(&[bad], 1).unwrap();
    let grant = hand_in(&bed, entry("grant", grant(good))).await;
    bed.permit(1);
    // The permit is not used by the grant: an event can still have it.
    bed.handle.record(entry("event", Effect::None)).await.unwrap();
    assert!(!grant.is_finished());
    assert_eq!(log::head(&*bed.store).unwrap().unwrap().size, 1);
    bed.permit(2);
    let withdraw = Effect::Withdraw {
        nodes: vec!["bad".into()],
        entries: vec![],
        withdrawal,
    };
    bed.handle.record(entry("withdrawal", withdraw)).await.unwrap();
    grant.await.unwrap().unwrap();
    assert_eq!(bed.trust.pending(), 0);
}

#[tokio::test]
async fn while_the_trust_state_is_held_what_would_grant_is_decided_again_and_the_rest_goes_on() {
    let bed = bed();
    let (taken, wanted) = (bed.trust.deal().unwrap(), bed.trust.deal().unwrap());
    bed.trust.hold(true);
    for effect in [grant(wanted), release_to(wanted)] {
        let refused = bed.handle.record(entry("grant", effect)).await;
        assert_eq!(refused, Err(EntryError::PolicyChanged));
    }
    bed.permit(3);
    bed.handle.record(entry("divergence", Effect::None)).await.unwrap();
    let withdraw = Effect::Withdraw {
        nodes: vec!["taken".into()],
        entries: vec![],
        withdrawal: bed.trust.withdraw(&[taken], 1).unwrap(),
    };
    bed.handle.record(entry("withdrawal", withdraw)).await.unwrap();
    bed.trust.hold(false);
    let granted = bed.handle.record(entry("grant", grant(wanted))).await;
    assert!(granted.is_ok(), "{granted:?}");
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
        nodes: vec!["bad".into()],
        entries: vec![],
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
    // What makes something be taken away is on record before that.
    let due = hand_in(&bed, entry("due", Effect::Due)).await;
    let place = bed.trust.deal().unwrap();
    let withdrawal = bed.trust.withdraw(&[place], 1).unwrap();
    let withdraw = hand_in(
        &bed,
        entry(
            "w",
            Effect::Withdraw {
                nodes: vec!["n".into()],
                entries: vec![],
                withdrawal,
            },
        ),
    )
    .await;
    bed.permit(600);
    let (due, withdraw) = (due.await.unwrap().unwrap(), withdraw.await.unwrap().unwrap());
    assert!(due.index < withdraw.index);
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

#[tokio::test]
async fn who_only_looks_at_a_row_is_committed_together_and_who_writes_it_alone() {
    let bed = bed();
    let node = granted(&bed, None).await;
    let row = rows::KEY.key(b"db/main").unwrap();
    let looks = |text: &str| Entry {
        guards: vec![Guard::Absent(row.clone())],
        ..entry(text, release_to(node))
    };
    let first = hand_in(&bed, entry("genesis", Effect::None)).await;
    // These wait behind the first commit, and are looked at together.
    let one = hand_in(&bed, looks("one")).await;
    let two = hand_in(&bed, looks("two")).await;
    let writes = Entry {
        writes: vec![Write::Put(row.clone(), b"spent".to_vec())],
        ..looks("three")
    };
    let three = hand_in(&bed, writes).await;
    let late = hand_in(&bed, looks("four")).await;
    bed.permit(2);
    first.await.unwrap().unwrap();
    one.await.unwrap().unwrap();
    two.await.unwrap().unwrap();
    assert!(!three.is_finished(), "it waits for a commit of its own");
    bed.permit(1);
    three.await.unwrap().unwrap();
    // The fourth went with the two that only look, or finds the row changed: never is it granted on what is gone.
    if let Err(error) = late.await.unwrap() {
        assert!(matches!(error, EntryError::Conflict { .. }), "{error}");
    }
    bed.stop().1.unwrap();
}

#[tokio::test]
async fn a_release_waits_for_withdrawals_as_a_grant_does() {
    let bed = bed();
    let genesis = hand_in(&bed, entry("genesis", Effect::None)).await;
    bed.permit(1);
    genesis.await.unwrap().unwrap();
    let node = granted(&bed, None).await;
    // Gone out, and not handed in yet.
    let withdrawal = bed.trust.withdraw(&[], 1).unwrap();
    let release = hand_in(&bed, entry("release", release_to(node))).await;
    let other = hand_in(&bed, entry("other", Effect::None)).await;
    bed.permit(1);
    other.await.unwrap().unwrap();
    assert!(
        !release.is_finished(),
        "nothing is released while a withdrawal is not durable"
    );
    let node = "node-1".to_owned();
    let withdraw = hand_in(
        &bed,
        entry(
            "withdraw",
            Effect::Withdraw {
                nodes: vec![node],
                entries: vec![],
                withdrawal,
            },
        ),
    )
    .await;
    bed.permit(2);
    withdraw.await.unwrap().unwrap();
    release.await.unwrap().unwrap();
    bed.stop().1.unwrap();
}

#[tokio::test]
async fn nothing_is_released_on_what_does_not_count_at_the_commit() {
    let bed = bed();
    bed.permit(1);
    bed.handle.record(entry("genesis", Effect::None)).await.unwrap();
    let [revoked, suspended, kept_back, valid] = [
        granted(&bed, None).await,
        granted(&bed, None).await,
        granted(&bed, None).await,
        granted(&bed, None).await,
    ];
    let below_revoked = granted(&bed, Some(revoked)).await;
    let below_that = granted(&bed, Some(below_revoked)).await;
    let never = bed.trust.deal().unwrap();
    let depending = bed.trust.deal().unwrap();
    let mut growth = lineage_entry(number(&depending), Some(&bed.lineage.get(&valid).unwrap()));
    growth.depends_on = vec![Dependency {
        on: suspended,
        why: Link::DependsOn,
    }];
    let renews = false;
    bed.permit(1);
    let depends = Effect::grant(Growth { entry: growth, renews });
    bed.handle.record(entry("depending", depends)).await.unwrap();
    // Of each the root alone, without what falls with it: an entry is not believed for what it hangs below.
    for (place, mark) in [(revoked, Mark::Revoked), (suspended, Mark::Suspended)] {
        let withdrawal = bed.trust.take(&[place], mark, 1).unwrap();
        bed.trust.durable(withdrawal);
    }
    bed.trust.release(std::collections::HashSet::from([kept_back]));
    let mut old = valid;
    old.generation -= 1;
    for (what, rests_on) in [
        ("a revoked entry", vec![revoked]),
        ("a suspended one", vec![suspended]),
        ("one that is kept back", vec![kept_back]),
        ("one that was never granted", vec![never]),
        ("one of the generation before", vec![old]),
        ("one whose node is suspended", vec![valid, suspended]),
        ("below a revoked one", vec![below_revoked]),
        ("far below a revoked one", vec![below_that]),
        ("what depends on a suspended one", vec![depending]),
        ("nothing", vec![]),
    ] {
        // Where it is released after all, the test is to say so instead of hanging.
        bed.permit(1);
        let refused = bed.handle.record(entry(what, Effect::Release { rests_on })).await;
        assert!(
            matches!(refused, Err(EntryError::Conflict { .. })),
            "{what}: {refused:?}"
        );
    }
    bed.handle.record(entry("release", release_to(valid))).await.unwrap();
    bed.stop().1.unwrap();
}

#[tokio::test]
async fn a_release_that_waits_while_its_holder_falls_is_sent_back() {
    let bed = bed();
    bed.permit(1);
    bed.handle.record(entry("genesis", Effect::None)).await.unwrap();
    let node = granted(&bed, None).await;
    // Something else holds releases up; meanwhile the node is suspended.
    let other = bed.trust.withdraw(&[], 1).unwrap();
    let release = hand_in(&bed, entry("release", release_to(node))).await;
    let withdrawal = bed.trust.take(&[node], Mark::Suspended, 1).unwrap();
    bed.trust.durable(other);
    let suspend = Effect::Withdraw {
        nodes: vec![],
        entries: vec![node],
        withdrawal,
    };
    bed.permit(2);
    bed.handle.record(entry("suspension", suspend)).await.unwrap();
    assert!(matches!(release.await.unwrap(), Err(EntryError::Conflict { .. })));
    bed.stop().1.unwrap();
}

#[tokio::test]
async fn a_release_whose_holder_falls_before_the_answer_is_on_record_and_not_answered() {
    let bed = bed();
    bed.permit(1);
    bed.handle.record(entry("genesis", Effect::None)).await.unwrap();
    let node = granted(&bed, None).await;
    // The release hangs in its commit when the suspension goes out.
    let release = from_a_thread(&bed, entry("release", release_to(node)));
    bed.until_arrived(3);
    let withdrawal = bed.trust.take(&[node], Mark::Suspended, 1).unwrap();
    let suspend = Effect::Withdraw {
        nodes: vec![],
        entries: vec![node],
        withdrawal,
    };
    bed.permit(2);
    let answer = release.join().unwrap().unwrap().recorded();
    bed.handle.record(entry("suspension", suspend)).await.unwrap();
    let answer = answer.await;
    assert!(matches!(answer, Err(EntryError::Fallen { .. })), "{answer:?}");
    assert_eq!(
        log::entry(&*bed.store, 2).unwrap().unwrap(),
        b"release",
        "who holds it may be more than who has it"
    );
    bed.stop().1.unwrap();
}

/// Hands an entry in on a thread of its own, as who has just made a decision does.
fn from_a_thread(bed: &Bed, entry: Entry) -> std::thread::JoinHandle<Result<HandedIn, EntryError>> {
    let handle = bed.handle.clone();
    std::thread::spawn(move || handle.hand_in(entry))
}

#[tokio::test]
async fn who_hands_in_where_nobody_writes_commits_by_itself() {
    let bed = bed();
    bed.permit(1);
    let handed_in = bed.handle.hand_in(entry("genesis", Effect::None)).unwrap();
    // Before anybody waited for anything.
    assert_eq!(log::head(&*bed.store).unwrap().unwrap().size, 1);
    let recorded = handed_in.recorded();
    let at_once = std::future::ready(None);
    let answer = tokio::select! {
        biased;
        answer = recorded => Some(answer),
        none = at_once => none,
    };
    assert_eq!(answer.unwrap().unwrap().index, 0);
    bed.stop().1.unwrap();
}

#[tokio::test]
async fn who_hands_in_where_somebody_writes_is_not_kept() {
    let bed = bed();
    // The sequencer's own thread hangs at the gate with this one.
    let first = hand_in(&bed, entry("genesis", Effect::None)).await;
    bed.until_arrived(1);
    let second = from_a_thread(&bed, entry("second", Effect::None))
        .join()
        .unwrap()
        .unwrap();
    bed.permit(2);
    assert_eq!(first.await.unwrap().unwrap().index, 0);
    assert_eq!(second.recorded().await.unwrap().index, 1);
    // And the other way round: a thread hangs at the gate, and what comes meanwhile is seen to.
    let hanging = from_a_thread(&bed, entry("third", Effect::None));
    bed.until_arrived(3);
    let (fourth, fifth) = (
        hand_in(&bed, entry("fourth", Effect::None)).await,
        from_a_thread(&bed, entry("fifth", Effect::None))
            .join()
            .unwrap()
            .unwrap(),
    );
    bed.permit(2);
    hanging.join().unwrap().unwrap().recorded().await.unwrap();
    fourth.await.unwrap().unwrap();
    fifth.recorded().await.unwrap();
    assert_eq!(log::head(&*bed.store).unwrap().unwrap().size, 5);
    bed.stop().1.unwrap();
}

#[tokio::test]
async fn a_grant_from_a_thread_waits_for_withdrawals_and_is_not_forgotten() {
    let bed = bed();
    bed.permit(1);
    bed.handle.record(entry("genesis", Effect::None)).await.unwrap();
    let node = granted(&bed, None).await;
    let withdrawal = bed.trust.withdraw(&[], 1).unwrap();
    let mut release = Box::pin(
        from_a_thread(&bed, entry("release", release_to(node)))
            .join()
            .unwrap()
            .unwrap()
            .recorded(),
    );
    let wait = std::time::Duration::from_millis(100);
    assert!(
        tokio::time::timeout(wait, release.as_mut()).await.is_err(),
        "nothing is released while a withdrawal is not durable"
    );
    let node = "node-1".to_owned();
    bed.permit(2);
    let withdraw = entry(
        "withdraw",
        Effect::Withdraw {
            nodes: vec![node],
            entries: vec![],
            withdrawal,
        },
    );
    bed.handle.hand_in(withdraw).unwrap().recorded().await.unwrap();
    release.await.unwrap();
    bed.stop().1.unwrap();
}

#[tokio::test]
async fn a_store_that_fails_under_a_thread_ends_the_sequencer_with_its_reason() {
    let bed = bed();
    bed.permits.send(false).unwrap();
    let lost = bed
        .handle
        .hand_in(entry("lost", Effect::None))
        .unwrap()
        .recorded()
        .await;
    assert!(matches!(lost, Err(EntryError::Stopped { .. })));
    assert!(!bed.trust.may_grant());
    assert!(matches!(
        bed.handle.hand_in(entry("after", Effect::None)),
        Err(EntryError::Stopped { .. })
    ));
    // Nobody closed it.
    let mut bed = bed;
    let ended = bed.thread.take().unwrap().join().unwrap();
    assert!(matches!(ended, Err(EntryError::Stopped { detail }) if detail.contains("the disk is gone")));
}

#[tokio::test]
async fn a_commit_that_breaks_off_under_a_thread_ends_the_sequencer() {
    let bed = bed();
    bed.broken.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(from_a_thread(&bed, entry("lost", Effect::None)).join().is_err());
    let mut bed = bed;
    let ended = bed.thread.take().unwrap().join().unwrap();
    assert!(matches!(ended, Err(EntryError::Stopped { detail }) if detail == "it panicked"));
    for after in [
        bed.handle.hand_in(entry("after", Effect::None)).map(|_| ()),
        bed.handle.record(entry("after", Effect::None)).await.map(|_| ()),
    ] {
        assert!(matches!(after, Err(EntryError::Stopped { .. })));
    }
    assert_eq!(log::head(&*bed.store).unwrap(), None);
}

#[test]
fn statements_of_many_threads_are_each_recorded_once() {
    const THREADS: usize = 8;
    const EACH: usize = 40;
    let bed = bed_in(tempfile::tempdir().unwrap(), THREADS * 2);
    bed.permit(THREADS * EACH);
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let handle = bed.handle.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                (0..EACH)
                    .map(|n| {
                        let entry = entry(&format!("{thread} {n}"), Effect::None);
                        let recorded = if n % 3 == 0 {
                            runtime.block_on(handle.record(entry))
                        } else {
                            runtime.block_on(handle.hand_in(entry).unwrap().recorded())
                        };
                        recorded.unwrap().index
                    })
                    .collect::<Vec<u64>>()
            })
        })
        .collect();
    let mut all = std::collections::BTreeSet::new();
    for (thread, indexes) in threads.into_iter().map(|t| t.join().unwrap()).enumerate() {
        assert!(indexes.is_sorted(), "one after another");
        for (n, index) in indexes.into_iter().enumerate() {
            assert!(all.insert(index));
            let stored = log::entry(&*bed.store, index).unwrap().unwrap();
            assert_eq!(stored, format!("{thread} {n}").into_bytes());
        }
    }
    assert_eq!(all.len(), THREADS * EACH);
    assert_eq!(log::head(&*bed.store).unwrap().unwrap().size, all.len() as u64);
    bed.stop().1.unwrap();
}

#[tokio::test]
async fn nothing_is_granted_of_an_entry_that_fell_or_below_one_that_does_not_count() {
    let bed = bed();
    bed.permit(9);
    bed.handle.record(entry("genesis", Effect::None)).await.unwrap();
    let [revoked, suspended, valid, kept_back] = [(); 4].map(|()| bed.trust.deal().unwrap());
    let node = |place: StatusIndex| lineage_entry(number(&place), None);
    for place in [revoked, suspended, valid] {
        bed.handle.record(entry("granted", grant(place))).await.unwrap();
    }
    let withdrawal = bed.trust.take(&[revoked], Mark::Revoked, 1).unwrap();
    bed.trust.durable(withdrawal);
    let withdrawal = bed.trust.take(&[suspended, kept_back], Mark::Suspended, 1).unwrap();
    bed.trust.durable(withdrawal);
    let child = |parent: StatusIndex| grant_below(place(90, 1).unwrap(), &node(parent));
    let resting_on = |on: StatusIndex| {
        let mut entry = lineage_entry(90, Some(&node(valid)));
        entry.depends_on = vec![Dependency {
            on,
            why: Link::DependsOn,
        }];
        Effect::grant(Growth { entry, renews: false })
    };
    let again = Effect::grant(Growth {
        entry: node(revoked),
        renews: true,
    });
    for (what, effect) in [
        ("a revoked entry", again),
        ("a suspended entry that is kept back", grant(kept_back)),
        ("below a revoked one", child(revoked)),
        ("below a suspended one", child(suspended)),
        ("below one that was never granted", child(place(80_000, 1).unwrap())),
        ("resting on a revoked one", resting_on(revoked)),
        ("resting on a suspended one", resting_on(suspended)),
        (
            "resting on one that was never granted",
            resting_on(place(80_000, 1).unwrap()),
        ),
    ] {
        let refused = bed.handle.record(entry(what, effect)).await;
        assert!(
            matches!(refused, Err(EntryError::Conflict { .. })),
            "{what}: {refused:?}"
        );
        assert_eq!(bed.lineage.get(&place(90, 1).unwrap()), None, "{what}");
    }
    bed.handle
        .record(entry("below a valid one", child(valid)))
        .await
        .unwrap();
    let row = bed.store.get(&rows::LINEAGE.numbered(90)).unwrap().unwrap().value;
    let held = bed.lineage.get(&place(90, 1).unwrap());
    assert_eq!(lineage::Entry::decode(&row).ok(), held, "written with the grant");
    assert_eq!(bed.lineage.descendants(&[valid]), [place(90, 1).unwrap()]);
    bed.stop().1.unwrap();
}

#[tokio::test]
async fn who_is_being_granted_something_as_its_parent_falls_is_in_the_set() {
    let bed = bed();
    bed.permit(1);
    let [parent, child] = [(); 2].map(|()| bed.trust.deal().unwrap());
    bed.handle.record(entry("parent", grant(parent))).await.unwrap();
    // The child's grant hangs in its commit when the parent falls.
    let below = grant_below(child, &lineage_entry(number(&parent), None));
    let granted = hand_in(&bed, entry("child", below)).await;
    let arrived = std::thread::spawn({
        let arrived = bed.arrived.clone();
        move || {
            while arrived.load(std::sync::atomic::Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
        }
    });
    tokio::task::spawn_blocking(move || arrived.join().unwrap())
        .await
        .unwrap();
    let (set, withdrawal) = bed
        .lineage
        .fall(&[parent], |set| (set.to_vec(), bed.trust.withdraw(set, 1).unwrap()));
    assert_eq!(set, [parent, child]);
    bed.permit(2);
    let withdraw = Effect::Withdraw {
        nodes: vec![],
        entries: set,
        withdrawal,
    };
    bed.handle.record(entry("withdrawal", withdraw)).await.unwrap();
    granted.await.unwrap().unwrap();
    // It was granted before, and counts for nothing since: its answer came after the withdrawal was durable.
    assert_eq!(status_of(&bed.trust.lists(), child), Status::Invalid);
    let page = bed.store.get(&rows::status(child.list, 0)).unwrap().unwrap().value;
    assert_eq!(page[0] & 3, 1, "and that is stored");
    bed.stop().1.unwrap();
}

#[tokio::test]
async fn what_is_suspended_while_it_is_granted_stays_suspended() {
    let bed = bed();
    let place = bed.trust.deal().unwrap();
    // The grant hangs in its commit when the suspension goes out.
    let granted = from_a_thread(&bed, entry("grant", grant(place)));
    bed.until_arrived(1);
    let withdrawal = bed.trust.take(&[place], Mark::Suspended, 1).unwrap();
    bed.permit(1);
    let _ = granted.join().unwrap().unwrap();
    assert_eq!(status_of(&bed.trust.lists(), place), Status::Suspended);
    bed.permit(1);
    let suspend = Effect::Withdraw {
        nodes: vec![],
        entries: vec![place],
        withdrawal,
    };
    bed.handle.record(entry("suspension", suspend)).await.unwrap();
    let page = bed.store.get(&rows::status(place.list, 0)).unwrap().unwrap().value;
    assert_eq!(page[0] & 3, 2, "and is stored so");
    // Lifted by command and by a grant, never by one of them.
    bed.trust.release(std::collections::HashSet::new());
    assert_eq!(status_of(&bed.trust.lists(), place), Status::Suspended);
    bed.permit(1);
    let again = Effect::grant(Growth {
        entry: lineage_entry(number(&place), None),
        renews: true,
    });
    bed.handle.record(entry("again", again)).await.unwrap();
    assert_eq!(status_of(&bed.trust.lists(), place), Status::Valid);
    let page = bed.store.get(&rows::status(place.list, 0)).unwrap().unwrap().value;
    assert_eq!(page[0] & 3, 0, "and that is stored with the grant");
    bed.stop().1.unwrap();
}

#[tokio::test]
async fn a_thousand_nodes_and_more_are_marked_by_one_statement() {
    let bed = bed();
    let names: Vec<String> = (0..MAX_MARKED_IN_COMMIT * 2 + 3).map(|n| format!("node-{n}")).collect();
    let mut placed = Vec::new();
    for chunk in names.chunks(1_000) {
        let mut batch = Batch::new();
        for name in chunk {
            let mut node = record(name);
            node.status = bed.trust.deal().unwrap();
            placed.push(node.status);
            batch.put(rows::NODE.key(name.as_bytes()).unwrap(), node.encode());
        }
        bed.permit(1);
        bed.store.commit(batch).unwrap();
    }
    let withdrawal = bed.trust.take(&placed, Mark::Revoked, 1).unwrap();
    let epoch = withdrawal.epoch;
    bed.permit(9);
    let withdraw = Effect::Withdraw {
        nodes: names.clone(),
        entries: placed.clone(),
        withdrawal,
    };
    bed.handle.record(entry("all", withdraw)).await.unwrap();
    assert_eq!(
        (bed.trust.epoch(), bed.trust.pending()),
        (epoch, 0),
        "one epoch for all of them"
    );
    for name in &names {
        let row = bed
            .store
            .get(&rows::NODE.key(name.as_bytes()).unwrap())
            .unwrap()
            .unwrap();
        assert!(NodeRecord::decode(&row.value).unwrap().withdrawn, "{name}");
    }
    let lists = bed.trust.lists();
    assert!(placed.iter().all(|place| status_of(&lists, *place) == Status::Invalid));
    assert_eq!(log::head(&*bed.store).unwrap().unwrap().size, 1);
    bed.stop().1.unwrap();
}
