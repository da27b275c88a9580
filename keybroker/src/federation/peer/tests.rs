use touchstone_authorization::{ListHead, RevokedIds, Status, StatusArray, StatusLists, TrustHead};
use touchstone_cose::key::SigningKey;
use touchstone_policies as policies;
use touchstone_policies::author::federation::{Trust, federation_list, federation_trust};
use touchstone_policies::source::{Location, Source};

use super::*;
use crate::federation::follow::Following;
use touchstone_client::follow::Source as Source_;

const B: &str = "b.example";
const NOW: i64 = 1_760_000_000;
const NOW_MS: u64 = 1_760_000_000_000;

fn trust_key() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

/// A published domain.
struct Made(tempfile::TempDir);

impl Made {
    fn new(domain: &str) -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        policies::init(&made.repo(), domain, &made.keys(), NOW).unwrap();
        let spki = hex::encode(trust_key().verifying_key().to_spki_der());
        let keyset = format!(
            r#"{{"version":1,"keys":[{{"job":"trust-state","key":"{spki}","not_before":0,"not_after":9999999999,"replica":"a"}}]}}"#
        );
        std::fs::write(made.repo().join("staged/keyset.json"), keyset).unwrap();
        made.publish(NOW);
        made
    }

    fn repo(&self) -> PathBuf {
        self.0.path().join("repo")
    }

    fn keys(&self) -> PathBuf {
        self.0.path().join("keys")
    }

    fn publish(&self, now: i64) {
        policies::publish(&self.repo(), &self.keys(), now).unwrap();
    }

    fn root(&self) -> Vec<u8> {
        std::fs::read(self.repo().join("metadata/1.root.json")).unwrap()
    }

    async fn copy(&self) -> RepositoryCopy {
        let source = Source::new(Location::Folder(self.repo()));
        RepositoryCopy::read(&source, 0).await.unwrap()
    }
}

/// What some policy says of B.
fn entry(root: Vec<u8>) -> FederatedDomain {
    let own = Made::new("a.example");
    let trust = Trust {
        domain: B.into(),
        root: Some(root),
        ..Trust::default()
    };
    federation_trust(&own.repo(), &trust).unwrap();
    federation_list(&own.repo()).unwrap().get(B).unwrap().clone()
}

fn lists(revoked: &[u32]) -> StatusLists {
    let list = StatusArray::new(20_000).unwrap();
    let list = list
        .with(revoked.iter().map(|index| (*index, Status::Invalid)))
        .unwrap();
    StatusLists::new([(0, list)]).unwrap()
}

fn view(previous: Option<&TrustView>, head: &TrustHead, lists: &StatusLists) -> TrustView {
    let head = TrustHead {
        lists: ListHead::of(lists),
        ..head.clone()
    };
    let frame = TrustFrame::full(&head.encode_signed(&trust_key()).unwrap(), lists, RevokedIds::none()).encode();
    TrustView::accept(previous, &frame, &ring(), &head.domain, NOW_MS).unwrap()
}

fn ring() -> KeyRing {
    KeyRing::new([touchstone_authorization::TrustedKey {
        key: trust_key().verifying_key(),
        not_before: 0,
        not_after: i64::MAX,
    }])
    .unwrap()
}

fn head(domain: &str, generation: u32, epoch: u64, issued_at_ms: u64) -> TrustHead {
    TrustHead {
        domain: domain.into(),
        generation,
        epoch,
        term: 1,
        policy_version: 1,
        policy_digest: [1; 32],
        keyset_version: 1,
        lists: Vec::new(),
        ledger_size: 5,
        ledger_root: [2; 32],
        issued_at_ms,
        fresh_until_ms: issued_at_ms + 10_000,
        revoked: None,
    }
}

fn frame(domain: &str, key: &SigningKey, epoch: u64) -> Vec<u8> {
    let lists = lists(&[]);
    let head = TrustHead {
        lists: ListHead::of(&lists),
        ..head(domain, 1, epoch, NOW_MS)
    };
    TrustFrame::full(&head.encode_signed(key).unwrap(), &lists, RevokedIds::none()).encode()
}

#[test]
fn what_is_relayed_gives_the_same_view_with_the_same_signed_head() {
    let first = view(None, &head(B, 1, 1, NOW_MS), &lists(&[]));
    let beat = view(Some(&first), &head(B, 1, 1, NOW_MS + 1), &lists(&[]));
    let revoked = view(Some(&beat), &head(B, 1, 2, NOW_MS + 2), &lists(&[7]));
    let later = view(Some(&revoked), &head(B, 1, 9, NOW_MS + 3), &lists(&[7, 9_000]));
    let restored = view(Some(&later), &head(B, 2, 1, NOW_MS + 4), &lists(&[]));
    let all = [first, beat, revoked, later, restored];
    // From any of them, or from nothing, to any later one: also for who missed those between.
    for (n, to) in all.iter().enumerate() {
        for from in std::iter::once(None).chain(all[..n].iter().map(Some)) {
            let frame = frame_between(from, to).encode();
            let relayed = TrustView::accept(from, &frame, &ring(), B, NOW_MS).unwrap();
            assert_eq!(relayed.head_bytes(), to.head_bytes());
            assert_eq!(relayed.lists(), to.lists());
        }
    }
    let [first, beat, revoked, ..] = &all;
    assert!(matches!(
        frame_between(Some(first), beat).body,
        touchstone_authorization::Body::None
    ));
    let delta = frame_between(Some(beat), revoked).body;
    assert!(matches!(
        delta,
        touchstone_authorization::Body::Delta { base_epoch: 1, .. }
    ));
}

#[tokio::test]
async fn a_copy_is_never_older_than_before_also_after_a_restart() {
    let (made, folder) = (Made::new(B), tempfile::tempdir().unwrap());
    let (root, older) = (made.root(), made.copy().await);
    std::fs::write(
        made.repo().join("staged/policy.cedar"),
        "permit(principal, action, resource);",
    )
    .unwrap();
    made.publish(NOW + 1);
    let newer = made.copy().await;
    let peer = || Peer::new(entry(root.clone()), folder.path().join(B));
    let root = || Some(made.root());

    let first = peer();
    assert_eq!(
        first.take_copy(&older, None, None, NOW_MS).await,
        Err(PeerError::RootUnknown)
    );
    first.take_copy(&older, root(), None, NOW_MS).await.unwrap();
    first.take_copy(&newer, root(), None, NOW_MS + 1_000).await.unwrap();
    let rolled_back = |outcome: Result<(), PeerError>| matches!(outcome, Err(PeerError::Policy(error)) if error.code() == policies::PolicyCode::Rollback);
    assert!(rolled_back(first.take_copy(&older, root(), None, NOW_MS + 2_000).await));
    let versions = first.held().unwrap().policy.versions.clone();

    let second = peer();
    assert!(
        rolled_back(second.take_copy(&older, root(), None, NOW_MS + 2_000).await),
        "wiped of nothing"
    );
    second.take_kept(root(), NOW_MS + 2_000).await.unwrap();
    assert_eq!(second.held().unwrap().policy.versions, versions);

    // A record that cannot be read is not none.
    std::fs::write(folder.path().join(B).join(VERSIONS), b"{}").unwrap();
    assert!(rolled_back(
        peer().take_copy(&newer, root(), None, NOW_MS + 2_000).await
    ));

    // Another root, trusted by command: the domain was founded anew.
    let anew = Made::new(B);
    let third = Peer::new(entry(anew.root()), folder.path().join("anew"));
    third
        .take_copy(&anew.copy().await, Some(anew.root()), None, NOW_MS)
        .await
        .unwrap();
    assert!(
        third.take_copy(&newer, Some(anew.root()), None, NOW_MS).await.is_err(),
        "of the one before"
    );
}

#[tokio::test]
async fn a_root_that_is_trusted_again_begins_anew() {
    let (made, anew, folder) = (Made::new(B), Made::new(B), tempfile::tempdir().unwrap());
    made.publish(NOW + 1);
    let peer = Peer::new(entry(made.root()), folder.path().to_owned());
    peer.take_copy(&made.copy().await, Some(made.root()), None, NOW_MS)
        .await
        .unwrap();
    let peer = Peer::new(entry(anew.root()), folder.path().to_owned());
    assert!(
        peer.take_kept(Some(anew.root()), NOW_MS).await.is_err(),
        "what was kept is the old one's"
    );
    peer.take_copy(&anew.copy().await, Some(anew.root()), None, NOW_MS)
        .await
        .unwrap();
    assert_eq!(peer.held().unwrap().policy.versions.targets, 1);
}

#[tokio::test]
async fn the_trust_state_begins_anew_with_another_root() {
    let (made, anew, folder) = (Made::new(B), Made::new(B), tempfile::tempdir().unwrap());
    let peer = Peer::new(entry(made.root()), folder.path().to_owned());
    peer.take_copy(&made.copy().await, Some(made.root()), None, NOW_MS)
        .await
        .unwrap();
    peer.take_frame(&frame(B, &trust_key(), u64::MAX), NOW_MS).unwrap();
    peer.keep_frame(frame(B, &trust_key(), u64::MAX)).await.unwrap();
    let before = peer.views();
    peer.take_copy(&made.copy().await, Some(made.root()), None, NOW_MS)
        .await
        .unwrap();
    assert!(Arc::ptr_eq(&before, &peer.views()), "the same root goes on");

    // The domain on the way to it names another root.
    peer.take_copy(&anew.copy().await, Some(anew.root()), None, NOW_MS)
        .await
        .unwrap();
    assert_eq!(peer.view(), None, "of the root before");
    assert!(!folder.path().join(FRAME).exists());
    peer.take_frame(&frame(B, &trust_key(), 1), NOW_MS).unwrap();
    assert_eq!(peer.view().unwrap().head().epoch, 1);
    // Who still follows the one before changes nothing.
    take(&before, &frame(B, &trust_key(), u64::MAX), &ring(), B, None, NOW_MS).unwrap();
    assert_eq!(peer.view().unwrap().head().epoch, 1);
}

#[tokio::test]
async fn frames_count_under_the_keys_of_the_verified_copy_only() {
    let (made, folder) = (Made::new(B), tempfile::tempdir().unwrap());
    let peer = Peer::new(entry(made.root()), folder.path().to_owned());
    let good = frame(B, &trust_key(), 2);
    assert_eq!(peer.take_frame(&good, NOW_MS), Err(PeerError::KeysUnknown));
    let folder_of = folder.path().to_owned();
    peer.take_copy(&made.copy().await, Some(made.root()), None, NOW_MS)
        .await
        .unwrap();
    peer.take_frame(&good, NOW_MS).unwrap();
    for (attack, bytes) in [
        ("by another key", frame(B, &SigningKey::from_seed([9; 32]), 3)),
        ("of another domain", frame("c.example", &trust_key(), 3)),
        ("older", frame(B, &trust_key(), 1)),
        ("junk", b"junk".to_vec()),
        ("nothing", Vec::new()),
    ] {
        assert!(
            matches!(peer.take_frame(&bytes, NOW_MS), Err(PeerError::TrustState(_))),
            "{attack}"
        );
        assert_eq!(peer.view().unwrap().head().epoch, 2, "{attack}");
    }
    // After a restart what was signed before is no more welcome than it was: nobody brings back what was revoked since.
    let again = Peer::new(entry(made.root()), folder_of);
    again
        .take_copy(&made.copy().await, Some(made.root()), None, NOW_MS)
        .await
        .unwrap();
    let older = again.take_frame(&frame(B, &trust_key(), 1), NOW_MS);
    assert!(
        matches!(older, Err(PeerError::TrustState(TrustStateError::EpochBack { .. }))),
        "{older:?}"
    );
    assert_eq!(again.view(), None);
    again.take_frame(&good, NOW_MS).unwrap();
}

#[tokio::test]
async fn a_copy_that_is_held_is_not_verified_or_written_again() {
    let (made, folder) = (Made::new(B), tempfile::tempdir().unwrap());
    let (peer, copy) = (
        Peer::new(entry(made.root()), folder.path().to_owned()),
        made.copy().await,
    );
    let root = made.root();
    assert!(!peer.holds(&copy.digest(), Some(&root), NOW_MS));
    peer.take_copy(&copy, Some(root.clone()), None, NOW_MS).await.unwrap();
    let written = folder.path().join(COPY);
    std::fs::remove_file(&written).unwrap();
    peer.take_copy(&copy, Some(root.clone()), None, NOW_MS).await.unwrap();
    assert!(!written.exists(), "written again");

    let expires = u64::try_from(peer.held().unwrap().policy.expires).unwrap() * 1_000;
    let other = Made::new(B).root();
    for (name, digest, root, now_ms, holds) in [
        ("the same", copy.digest(), Some(&root), NOW_MS, true),
        ("until it expires", copy.digest(), Some(&root), expires - 1, true),
        ("expired", copy.digest(), Some(&root), expires, false),
        ("under another root", copy.digest(), Some(&other), NOW_MS, false),
        ("under none", copy.digest(), None, NOW_MS, false),
        ("another", [0; 32], Some(&root), NOW_MS, false),
    ] {
        assert_eq!(peer.holds(&digest, root.map(Vec::as_slice), now_ms), holds, "{name}");
    }
    assert!(peer.take_copy(&copy, Some(root), None, expires).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn pushed_bundles_are_looked_into_one_a_second() {
    let (made, folder) = (Made::new(B), tempfile::tempdir().unwrap());
    let peer = Arc::new(Peer::new(entry(made.root()), folder.path().to_owned()));
    let begun = Instant::now();
    let turns: Vec<_> = (0..50)
        .map(|_| {
            let peer = Arc::clone(&peer);
            tokio::spawn(async move { peer.turn().await.is_some() })
        })
        .collect();
    let mut went = 0;
    for turn in turns {
        went += u64::from(turn.await.unwrap());
    }
    let waited = PUSH_WAIT.as_secs() / PUSH_PERIOD.as_secs();
    assert!((2..=waited + 1).contains(&went), "{went}");
    assert!(begun.elapsed() <= PUSH_WAIT + PUSH_PERIOD);
    let one = peer.turn().await;
    assert!(one.is_some(), "those who gave up hold up nobody");
    assert!(peer.turn().await.is_none(), "one is looked into at a time");
}

#[tokio::test]
async fn what_takes_long_to_verify_keeps_nobody_waiting_and_brings_nothing_back() {
    let (made, folder) = (Made::new(B), tempfile::tempdir().unwrap());
    let peer = Peer::new(entry(made.root()), folder.path().to_owned());
    let older = made.copy().await;
    std::fs::write(
        made.repo().join("staged/policy.cedar"),
        "permit(principal, action, resource);",
    )
    .unwrap();
    made.publish(NOW + 1);
    let newer = made.copy().await;
    let verify = async |copy: &RepositoryCopy| peer.verify_copy(copy, &made.root(), None, NOW_MS + 1_000).await;
    // A pushed bundle has its turn and is being verified; what is fetched comes between, verified and taken.
    let turn = peer.turn().await.unwrap();
    let slow = verify(&older).await.unwrap().unwrap();
    let same = verify(&newer).await.unwrap().unwrap();
    peer.take_copy(&newer, Some(made.root()), None, NOW_MS + 1_000)
        .await
        .unwrap();
    assert!(matches!(
        peer.accept(slow).await,
        Err(PeerError::Policy(error)) if error.code() == policies::PolicyCode::Rollback
    ));
    assert_eq!(peer.held().unwrap().digest, newer.digest(), "what is held stays");
    // Brought twice at once, it is taken twice.
    peer.accept(same).await.unwrap();
    assert_eq!(verify(&newer).await.unwrap(), None, "held already");
    drop(turn);
}

#[tokio::test]
async fn what_could_not_be_recorded_is_due_until_it_is_on_record() {
    let (made, folder) = (Made::new(B), tempfile::tempdir().unwrap());
    let peer = || Peer::new(entry(made.root()), folder.path().to_owned());
    let first = peer();
    let copy = made.copy().await;
    first.take_copy(&copy, Some(made.root()), None, NOW_MS).await.unwrap();
    // The ledger had no place for it, and it is looked at again; the broker is killed and starts again.
    first.take_copy(&copy, Some(made.root()), None, NOW_MS).await.unwrap();
    assert!(first.unrecorded(first.recording().await.as_ref()).is_some());
    let second = peer();
    second.take_kept(Some(made.root()), NOW_MS).await.unwrap();
    let mut recorded = second.recording().await;
    let held = second.unrecorded(recorded.as_ref()).unwrap();
    second.set_recorded(&mut recorded, &held).await.unwrap();
    assert!(second.unrecorded(recorded.as_ref()).is_none());

    let third = peer();
    third.take_kept(Some(made.root()), NOW_MS).await.unwrap();
    let recorded = third.recording().await;
    assert!(third.unrecorded(recorded.as_ref()).is_none(), "once is enough");
    std::fs::write(
        made.repo().join("staged/policy.cedar"),
        "permit(principal, action, resource);",
    )
    .unwrap();
    made.publish(NOW + 1);
    third
        .take_copy(&made.copy().await, Some(made.root()), None, NOW_MS + 1_000)
        .await
        .unwrap();
    assert!(third.unrecorded(recorded.as_ref()).is_some(), "a new one");
}

#[tokio::test]
async fn a_head_that_was_heard_wakes_nobody() {
    let (made, folder) = (Made::new(B), tempfile::tempdir().unwrap());
    let peer = Peer::new(entry(made.root()), folder.path().to_owned());
    peer.take_copy(&made.copy().await, Some(made.root()), None, NOW_MS)
        .await
        .unwrap();
    let mut views = peer.views().subscribe();
    for (epoch, wakes) in [(1, true), (1, false), (2, true), (2, false)] {
        peer.take_frame(&frame(B, &trust_key(), epoch), NOW_MS).unwrap();
        assert_eq!(views.has_changed().unwrap(), wakes, "{epoch}");
        views.borrow_and_update();
    }
}

#[tokio::test]
async fn frames_are_made_once_a_head() {
    let relay = Relay::default();
    let states: Vec<Arc<TrustView>> = (1..=8u32)
        .map(|epoch| {
            let head = head(B, 1, epoch.into(), NOW_MS + u64::from(epoch));
            Arc::new(view(None, &head, &lists(&[epoch])))
        })
        .collect();
    let newest = states.last().unwrap();
    let whole = relay.frame(None, newest).await;
    assert_eq!(whole.frame.as_ptr(), relay.frame(None, newest).await.frame.as_ptr());
    let mut deltas = 0;
    for from in &states[..7] {
        let made = relay.frame(Some(from), newest).await;
        assert_eq!(made, relay.frame(Some(from), newest).await);
        let again = relay.frame(Some(from), newest).await;
        assert_eq!(made.frame.as_ptr(), again.frame.as_ptr(), "made once");
        deltas += usize::from(made.frame.as_ptr() != whole.frame.as_ptr());
        let relayed = TrustView::accept(Some(from), &made.frame, &ring(), B, NOW_MS).unwrap();
        assert_eq!(relayed.lists(), newest.lists());
    }
    assert_eq!(
        deltas,
        crate::federation::relay::MAX_DELTAS,
        "the others are given the whole"
    );
    // Another head: nothing of the one before.
    let older = relay.frame(None, &states[0]).await;
    let view = TrustView::accept(None, &older.frame, &ring(), B, NOW_MS).unwrap();
    assert_eq!(view.head_bytes(), states[0].head_bytes());
}

/// Whom to follow: nobody answers there.
fn nobody(held: &Held) -> Result<Option<Source_>, String> {
    Ok(Some(Source_ {
        brokers: vec![touchstone_client::Endpoint::parse("127.0.0.1:1").unwrap()],
        tls: touchstone_client::pinned_config(&[]).unwrap(),
        config: touchstone_client::follow::FollowConfig {
            domain: B.into(),
            subscriber: "a.example".into(),
            keys: held.trust_state_keys.clone(),
            skew_ms: 500,
            route: touchstone_client::follow::OWN_STREAM.into(),
            time: touchstone_client::follow::Time::Of(Arc::new(|| Some(NOW_MS))),
            floor: None,
        },
    }))
}

#[tokio::test]
async fn a_follower_that_looks_while_the_root_changes_is_bound_to_the_views_of_the_new_one() {
    let (made, other) = (Made::new(B), Made::new(B));
    let (folder, aside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let peer = Peer::new(entry(made.root()), folder.path().to_owned());
    peer.take_copy(&made.copy().await, Some(made.root()), None, NOW_MS)
        .await
        .unwrap();
    let mut following = Following::default();
    let look = |peer: &Peer, following: &mut Following<_>| {
        let held = peer.held().unwrap();
        // The keyset is another one with each root, or is the same: neither must matter.
        following.look(peer, &held, held.policy.root_digest, nobody);
    };
    look(&peer, &mut following);
    // What `take_copy` does, and a look between its two steps.
    let anew = Peer::new(entry(other.root()), aside.path().to_owned());
    anew.take_copy(&other.copy().await, Some(other.root()), None, NOW_MS)
        .await
        .unwrap();
    peer.held.send_replace(anew.held());
    look(&peer, &mut following);
    *peer.views.write().unwrap() = new_views();
    look(&peer, &mut following);
    let heard = Arc::new(view(None, &head(B, 1, 1, NOW_MS), &lists(&[])));
    peer.views().send_replace(Some(Arc::clone(&heard)));
    let bound = following.follower.as_ref().unwrap().view();
    assert!(
        bound.is_some_and(|bound| Arc::ptr_eq(&bound, &heard)),
        "bound to views that nobody reads"
    );
    // Nothing has changed: it goes on.
    look(&peer, &mut following);
    assert!(following.follower.as_ref().unwrap().view().is_some());
}
