//! A guard that knows only a relay, and the relay is hostile: it can make things stop, and nothing else.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use touchstone_authorization::{Channel, RefusalCode, RevokedIds, TrustFrame, TrustView};
use touchstone_enforcer::client::Endpoint;
use touchstone_enforcer::clock;
use touchstone_enforcer::floors::PolicyFloors;
use touchstone_enforcer::guard::{Guard, GuardConfig, Renewal, keep_current};
use touchstone_policies::RepositoryCopy;
use touchstone_policies::foreign::load_foreign;

use crate::common::{Wanted, holder, proof};
use crate::hostile::{
    A, B, C, GENERATION, Hostile, Moment, Play, Published, Shown, Sign, Stream, issued, key, ring, wanted,
};

/// How long is waited for what must come before a test fails.
const PATIENCE: Duration = Duration::from_secs(120);
/// Rows under way at once: each has a relay and a guard of its own, and a machine may be small.
const AT_ONCE: usize = 5;
const GUARD: &str = crate::common::GUARD;
/// Entries of B's status list: revoked at its second epoch, and at its third.
const SECOND: u32 = 2;
const THIRD: u32 = 3;

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

/// B at its first, second or third epoch. From the second on its old key is out, and with it what it signed.
fn moment(epoch: u64) -> Moment {
    Moment {
        epoch,
        keyset: epoch.min(2),
        revoked: [(2, SECOND), (3, THIRD)]
            .into_iter()
            .filter_map(|(since, index)| (epoch >= since).then_some(index))
            .collect(),
    }
}

/// What an honest relay shows at that epoch of B.
fn honest(published: &Published, epoch: u64) -> Play {
    let b = &published.b[usize::from(epoch > 1)];
    let c = Moment {
        epoch: 1,
        keyset: 1,
        revoked: Vec::new(),
    };
    Play {
        policies: [(B, Shown::of(b)), (C, Shown::of(&published.c))].into(),
        streams: [(B, Stream::Honest(moment(epoch))), (C, Stream::Honest(c))].into(),
    }
}

/// A guard as it runs in production.
struct Post {
    guard: Arc<Guard>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Post {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Who knocks, in order: by the key that is taken out, revoked at the second epoch, at the third, and one of C.
struct Tokens {
    old: Vec<u8>,
    second: Vec<u8>,
    third: Vec<u8>,
    c: Vec<u8>,
}

impl Tokens {
    fn new() -> Self {
        Self {
            old: issued(B, Sign::OldIssuer, 1),
            second: issued(B, Sign::Issuer, SECOND),
            third: issued(B, Sign::Issuer, THIRD),
            c: issued(C, Sign::Issuer, 1),
        }
    }
}

impl Post {
    async fn at(published: &Published, relay: &Hostile, floors: Option<PolicyFloors>) -> Self {
        let renewal = Renewal {
            repository: published.path(A).as_path().into(),
            mirror: None,
            root: published.path(A).join("metadata/1.root.json"),
            domain: A.into(),
            id: GUARD.into(),
            brokers: vec![Endpoint::parse(&relay.address.to_string()).unwrap()],
            floors,
        };
        let held = renewal.load(None).await.unwrap();
        let follower = held.follow(renewal.brokers.clone(), GUARD.into());
        let guard = Arc::new(Guard::new(GuardConfig::of(&held, GUARD), follower));
        let (keeping, watching) = (Arc::clone(&guard), Arc::clone(&guard));
        let tasks = vec![
            tokio::spawn(async move { keep_current(&keeping, &renewal, held, |_| ()).await }),
            tokio::spawn(async move { watching.watch(|_| ()).await }),
        ];
        Self { guard, tasks }
    }

    /// The codes of a decision; none where it is let in.
    fn knock(&self, domain: &str, chain: &[u8]) -> Vec<RefusalCode> {
        let challenge = self.guard.challenge().unwrap();
        let asked = Wanted {
            scope: wanted(domain),
            request: None,
            channel: Channel::Challenge(challenge.to_vec()),
        };
        let proof = proof(chain, &asked).encode_signed(&holder()).unwrap();
        let (action, resource) = wanted(domain).split_once(':').unwrap();
        let decided = self.guard.decide(chain, &proof, action, resource, &challenge);
        decided.err().map_or_else(Vec::new, |refusals| {
            refusals.iter().map(|refusal| refusal.code).collect()
        })
    }

    async fn says(&self, what: &str, domain: &str, chain: &[u8], wanted: &[RefusalCode]) {
        let mut last = Vec::new();
        let told = tokio::time::timeout(PATIENCE, async {
            loop {
                last = self.knock(domain, chain);
                if last == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(told.await.is_ok(), "{what}: {last:?} instead of {wanted:?}");
    }

    /// Neither what was revoked nor what a key that is out has signed.
    fn keeps_out(&self, what: &str, tokens: &Tokens) {
        assert!(
            !self.knock(B, &tokens.second).is_empty(),
            "{what}: a revoked one is let in"
        );
        assert!(
            !self.knock(B, &tokens.old).is_empty(),
            "{what}: a key that is out counts"
        );
    }
}

/// What a row shows, and the code with which the guard refuses that, as its own library says it.
enum Attack {
    /// Frames on B's stream, each refused with this code.
    Frames(Vec<Vec<u8>>, &'static str),
    /// Bytes on it that are no frame.
    Raw(Bytes),
    /// In the place of B's repository, refused with this code.
    Policy(Shown, &'static str),
}

/// What B's second epoch makes of the frame.
fn refused(frame: &[u8]) -> String {
    let (keys, now) = (ring(B), clock::wall_ms());
    let held = TrustView::accept(None, &moment(2).frame(B), &keys, B, now).unwrap();
    match TrustView::accept(Some(&held), frame, &keys, B, now) {
        Ok(_) => "taken".into(),
        Err(error) => error.code().as_str().into(),
    }
}

async fn refused_policy(published: &Published, bytes: &[u8]) -> String {
    let root = published.root(B);
    let load = |copy: RepositoryCopy, floors| {
        let root = root.clone();
        async move { load_foreign(&copy, &root, floors, B, clock::wall_seconds()).await }
    };
    let held = load(published.b[1].clone(), None).await.unwrap();
    match RepositoryCopy::decode(bytes) {
        Err(_) => "not a copy".into(),
        Ok(copy) => match load(copy, Some(&held.versions)).await {
            Ok(_) => "taken".into(),
            Err(error) => error.problems()[0].code.as_str().into(),
        },
    }
}

fn attacks(published: &Published) -> Vec<(&'static str, Attack)> {
    let now = clock::wall_ms();
    let (second, lists) = (moment(2), moment(2).lists());
    let full = |head: &[u8], moment: &Moment| TrustFrame::full(head, &moment.lists(), RevokedIds::none()).encode();
    let signed =
        |head: &touchstone_authorization::TrustHead, by: &str| head.encode_signed(&key(by, Sign::Trust)).unwrap();
    let mut stretched = second.head(B, now);
    stretched.fresh_until_ms += 3_600_000;
    let whole = moment(3).frame(B);
    let cuts: Vec<Vec<u8>> = [0, 1, whole.len() / 2, whole.len() - 1]
        .map(|end| whole[..end].to_vec())
        .into();
    let mut altered = whole.clone();
    // In the digest of the policy.
    let middle = altered.windows(32).position(|bytes| bytes == [9; 32]).unwrap();
    altered[middle] ^= 1;
    let beat = TrustFrame::heartbeat(&signed(&moment(3).head(B, now), B)).encode();
    let delta = TrustFrame::delta(
        &signed(&moment(3).head(B, now), B),
        7,
        (&lists, RevokedIds::none()),
        (&moment(3).lists(), RevokedIds::none()),
    )
    .encode();
    let [before, after] = &published.b;
    let (old, new, of_c) = (Shown::of(before), Shown::of(after), Shown::of(&published.c));
    let instead = |bytes: &[u8]| Shown {
        digest: vec![7; 32],
        bytes: Bytes::copy_from_slice(bytes),
    };
    let frames = |frames: Vec<Vec<u8>>, code| Attack::Frames(frames, code);
    vec![
        (
            "an older state, whole",
            frames(vec![moment(1).frame(B)], "trust-state-epoch-back"),
        ),
        (
            "an older beat of this epoch",
            frames(
                vec![full(&signed(&second.head(B, now - 60_000), B), &second)],
                "trust-state-fresh-until-back",
            ),
        ),
        (
            "another domain's state",
            frames(
                vec![
                    Moment {
                        epoch: 9,
                        ..second.clone()
                    }
                    .frame(C),
                    second.frame(A),
                ],
                "trust-state-key-unknown",
            ),
        ),
        (
            "another domain's state that this one has signed",
            frames(
                vec![full(
                    &signed(
                        &Moment {
                            epoch: 9,
                            ..second.clone()
                        }
                        .head(C, now),
                        B,
                    ),
                    &second,
                )],
                "trust-state-domain",
            ),
        ),
        (
            "a head that lives longer, signed by somebody else",
            frames(vec![full(&signed(&stretched, C), &second)], "trust-state-key-unknown"),
        ),
        ("a state cut short", frames(cuts, "trust-state-malformed")),
        (
            "a state with a byte altered",
            frames(vec![altered], "trust-state-signature"),
        ),
        (
            "a new head over old lists",
            frames(
                vec![full(&signed(&moment(3).head(B, now), B), &moment(1))],
                "trust-state-digest",
            ),
        ),
        (
            "a new head without lists",
            frames(vec![beat], "trust-state-body-missing"),
        ),
        (
            "a change of what is not held",
            frames(vec![delta], "trust-state-delta-base"),
        ),
        ("an event without an end", Attack::Raw(vec![b'a'; 9 << 20].into())),
        (
            "bytes that are no event",
            Attack::Raw(Bytes::from_static(b"data: \xff\xfe\n\n")),
        ),
        ("an older repository", Attack::Policy(old.clone(), "policy-rollback")),
        (
            "an older repository under the digest of the newest",
            Attack::Policy(
                Shown {
                    digest: new.digest.clone(),
                    ..old.clone()
                },
                "policy-rollback",
            ),
        ),
        (
            "another domain's repository",
            Attack::Policy(of_c.clone(), "policy-foreign-refused"),
        ),
        (
            "a repository cut short",
            Attack::Policy(instead(&new.bytes[..new.bytes.len() - 1]), "not a copy"),
        ),
        (
            "a repository without its keyset",
            Attack::Policy(instead(&without_keyset(after)), "policy-foreign-refused"),
        ),
        (
            "a repository too large to be read",
            Attack::Policy(instead(&vec![0; 9 << 20]), "not a copy"),
        ),
        (
            "the same under another digest each time",
            Attack::Policy(instead(&new.bytes), "taken"),
        ),
    ]
}

fn without_keyset(copy: &RepositoryCopy) -> Vec<u8> {
    use touchstone_cose::cbor::{Value, encode};
    let files = copy.files().filter(|(name, _)| !name.ends_with("keyset.json"));
    encode(&Value::array(files.map(|(name, bytes)| {
        Value::array([Value::text(name), Value::bytes(bytes)])
    })))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_relay_can_make_things_stop_and_nothing_else() {
    let published = Arc::new(Published::new().await);
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut rows = Vec::new();
    for (name, attack) in attacks(&published) {
        let (published, turns) = (Arc::clone(&published), Arc::clone(&turns));
        rows.push((
            name,
            tokio::spawn(async move {
                let _turn = turns.acquire().await;
                row(&published, name, attack).await
            }),
        ));
    }
    let mut failed = BTreeMap::new();
    for (name, row) in rows {
        if let Err(error) = row.await {
            failed.insert(name, error.to_string());
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

async fn row(published: &Published, name: &str, attack: Attack) {
    let tokens = Tokens::new();
    let relay = Hostile::start(published, honest(published, 1)).await;
    let post = Post::at(published, &relay, None).await;
    for chain in [&tokens.old, &tokens.second, &tokens.third] {
        post.says(name, B, chain, &[]).await;
    }
    relay.show(honest(published, 2));
    post.says(name, B, &tokens.second, &[RefusalCode::AuthorizationRevoked])
        .await;
    post.says(name, B, &tokens.old, &[RefusalCode::AuthorizationKeyUnknown])
        .await;
    post.says(name, B, &tokens.third, &[]).await;

    let mut play = honest(published, 2);
    let (stream, policy) = (
        "/v1/federation/b.example/trust-state/stream",
        "/v1/federation/b.example/policy",
    );
    let (asked, times) = match attack {
        Attack::Frames(frames, code) => {
            let found: Vec<String> = frames.iter().map(|frame| refused(frame)).collect();
            assert!(found.iter().all(|found| found == code), "{name}: {found:?}");
            let times = frames.len() + 1;
            play.streams.insert(B, Stream::Each(frames));
            (stream, times)
        }
        Attack::Raw(raw) => {
            play.streams.insert(B, Stream::Raw(raw));
            (stream, 2)
        }
        Attack::Policy(shown, code) => {
            assert_eq!(refused_policy(published, &shown.bytes).await, code, "{name}");
            // Under the digest of what is held nothing is asked for.
            let fetched = shown.digest != published.b[1].digest();
            play.policies.insert(B, shown);
            if fetched {
                (policy, 2)
            } else {
                ("/v1/federation/b.example/policy/digest", 3)
            }
        }
    };
    relay.show(play);
    // Asked once more: what was shown before has been looked at.
    eventually(name, || relay.asked(asked) >= times).await;
    post.keeps_out(name, &tokens);
    // What another domain vouches for is not touched by it.
    post.says(name, C, &tokens.c, &[]).await;
    post.keeps_out(name, &tokens);

    // Nor does it last: what B takes away comes through as soon as the relay, or another one, shows it.
    relay.show(honest(published, 3));
    post.says(name, B, &tokens.third, &[RefusalCode::AuthorizationRevoked])
        .await;
    post.keeps_out(name, &tokens);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_counts_under_its_own_digest_whatever_it_is_called() {
    let published = Published::new().await;
    let tokens = Tokens::new();
    let mut play = honest(&published, 1);
    let called = Shown {
        digest: published.b[1].digest().to_vec(),
        ..Shown::of(&published.b[0])
    };
    play.policies.insert(B, called);
    let relay = Hostile::start(&published, play).await;
    let post = Post::at(&published, &relay, None).await;
    // Nothing is known here that is newer: it is taken for what it is.
    post.says("the older one", B, &tokens.old, &[]).await;
    relay.show(honest(&published, 2));
    post.says("the newer one", B, &tokens.third, &[]).await;
    post.says("the newer one", B, &tokens.old, &[RefusalCode::AuthorizationKeyUnknown])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guard_accepted_before_it_was_restarted_is_its_floor() {
    let published = Published::new().await;
    let (tokens, folder) = (Tokens::new(), tempfile::tempdir().unwrap());
    let floors = || PolicyFloors::open(&folder.path().join("floors")).unwrap();
    let recorded = moment(1).frame(B);
    let relay = Hostile::start(&published, honest(&published, 2)).await;
    let post = Post::at(&published, &relay, Some(floors())).await;
    post.says("before", B, &tokens.third, &[]).await;
    let record = format!("{B}-{}", hex::encode(Sha256::digest(published.root(B))));
    eventually("the state is on record", || {
        let of_b = floors().of_domain(&record).unwrap();
        of_b.read_state().unwrap() == Some((GENERATION, 2))
    })
    .await;
    drop(post);

    let (stream, policy) = (
        "/v1/federation/b.example/trust-state/stream",
        "/v1/federation/b.example/policy",
    );
    let mut older_state = honest(&published, 2);
    older_state.streams.insert(B, Stream::Each(vec![recorded.clone()]));
    let mut older_policy = honest(&published, 1);
    older_policy.streams.insert(B, Stream::Again(recorded));
    for (attack, play, asked, code) in [
        (
            "an older state",
            older_state,
            stream,
            RefusalCode::FederatedStateMissing,
        ),
        (
            "an older repository",
            older_policy,
            policy,
            RefusalCode::AuthorizationKeyUnknown,
        ),
    ] {
        relay.show(play);
        let post = Post::at(&published, &relay, Some(floors())).await;
        eventually(attack, || relay.asked(asked) >= 2).await;
        post.keeps_out(attack, &tokens);
        post.says(attack, B, &tokens.second, &[code]).await;
        relay.show(honest(&published, 3));
        post.says(attack, B, &tokens.third, &[RefusalCode::AuthorizationRevoked])
            .await;
        post.keeps_out(attack, &tokens);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_a_head_that_is_shown_again_and_again_end_when_the_domain_said() {
    let published = Published::new().await;
    let tokens = Tokens::new();
    for (name, of) in [("silence", false), ("again and again", true)] {
        let relay = Hostile::start(&published, honest(&published, 2)).await;
        let post = Post::at(&published, &relay, None).await;
        post.says(name, B, &tokens.third, &[]).await;
        let mut play = honest(&published, 2);
        let withheld = if of {
            Stream::Again(moment(2).frame(B))
        } else {
            Stream::Silent
        };
        play.streams.insert(B, withheld);
        relay.show(play);
        post.says(name, B, &tokens.third, &[RefusalCode::FederatedDomainStale])
            .await;
        // It is B that has ended, and nobody else.
        post.says(name, C, &tokens.c, &[]).await;
        relay.show(honest(&published, 2));
        post.says(name, B, &tokens.third, &[]).await;
    }
}
