//! What holds for every chain that anybody could put together: it never has more than its root.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::links::*;
use common::*;
use proptest::prelude::*;
use touchstone_authorization::{
    Authorization, Block, Delegation, DelegationRight, OfflineLimits, Presented, Scope, UntrustedChain, VerifiedChain,
    delegate,
};

const WORDS: [&str; 6] = [
    "execute:a",
    "delegate:a",
    "execute:b",
    "delegate:b",
    "release:a",
    "delegate:ab",
];

/// A small world in which everything collides: scopes, times, depths, places, keys and ids.
#[derive(Debug, Clone)]
struct Step {
    scopes: Vec<&'static str>,
    not_before: u64,
    expires: u64,
    depth: u8,
    region: Option<&'static str>,
    purpose: Option<&'static str>,
    key: u8,
    cti: u8,
    /// 0: by the link before, as it should be; 1: by the authorization's own key; 2: by the child.
    signer: u8,
    /// Made for what stands before it.
    bound: bool,
}

fn word() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![4 => Just(None), 2 => Just(Some("x")), 1 => Just(Some("y"))]
}

fn held() -> impl Strategy<Value = Vec<&'static str>> {
    let all = Just(vec!["execute:a", "delegate:a", "execute:b", "delegate:b"]);
    prop_oneof![3 => all, 2 => proptest::sample::subsequence(WORDS.to_vec(), 1..WORDS.len())]
}

fn step(position: u8) -> impl Strategy<Value = Step> {
    let time = (0..6_u64, prop_oneof![3 => 90..100_u64, 1 => 295..320_u64]);
    let key = prop_oneof![12 => Just(20 + position), 1 => prop_oneof![Just(ROOT), Just(21), Just(22)]];
    let cti = prop_oneof![12 => Just(20 + position), 1 => prop_oneof![Just(0xc1), Just(21)]];
    let signer = prop_oneof![14 => Just(0_u8), 1 => 1..3_u8];
    let depth = prop_oneof![3 => Just(4 - position), 1 => 0..5_u8];
    let (held, bound) = (held(), prop_oneof![14 => Just(true), 1 => Just(false)]);
    (held, time, depth, word(), word(), key, cti, signer, bound).prop_map(
        |(scopes, (begins, ends), depth, region, purpose, key, cti, signer, bound)| Step {
            scopes,
            not_before: NOW_S - 10 + begins,
            expires: NOW_S + ends,
            depth,
            region,
            purpose,
            key,
            cti,
            signer,
            bound,
        },
    )
}

#[derive(Debug, Clone)]
struct Root {
    scopes: Vec<&'static str>,
    expires: u64,
    right: Option<(u8, bool)>,
    region: Option<&'static str>,
    purpose: Option<&'static str>,
}

fn root() -> impl Strategy<Value = Root> {
    let right = prop_oneof![8 => Just(Some((4, true))), 2 => (1..4_u8).prop_map(|depth| Some((depth, true))), 1 => Just(Some((4, false))), 1 => Just(None)];
    (held(), prop_oneof![Just(100_u64), Just(400)], right, word(), word()).prop_map(
        |(scopes, life, right, region, purpose)| Root {
            scopes,
            expires: NOW_S + life,
            right,
            region,
            purpose,
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    (0..=4_u8).prop_flat_map(|links| (1..=links).map(step).collect::<Vec<_>>())
}

fn authorization_of(root: &Root) -> Authorization {
    Authorization {
        scopes: scopes(&root.scopes),
        expires: root.expires,
        delegation: root.right.map(|(depth, offline)| DelegationRight { depth, offline }),
        region: root.region.map(str::to_owned),
        purpose: root.purpose.map(str::to_owned),
        ..authorization()
    }
}

fn links_of(steps: &[Step]) -> Vec<Link> {
    let mut before = ROOT;
    let mut links = Vec::new();
    for step in steps {
        let key = HolderKey::new(step.key);
        links.push(Link {
            block: Block {
                before: [0; 32],
                confirmation: key.verifying_key(),
                label: "child".into(),
                scopes: scopes(&step.scopes),
                not_before: step.not_before,
                expires: step.expires,
                depth: step.depth,
                region: step.region.map(str::to_owned),
                purpose: step.purpose.map(str::to_owned),
                cti: [step.cti; 16],
            },
            signer: [before, ROOT, step.key][usize::from(step.signer)],
            before: (!step.bound).then_some([5; 32]),
            alter: |bytes| bytes,
        });
        before = step.key;
    }
    links
}

/// The rules of `protocol.md` 6 once more, written down from there and not from the code: whether every link may stand where
/// it stands.
fn may_stand(root: &Root, steps: &[Step]) -> bool {
    let mut scopes = root.scopes.clone();
    let mut time = (NOW_S - 10, root.expires);
    let mut further = match root.right {
        Some((depth, true)) => i32::from(depth),
        _ => 0,
    };
    let (mut region, mut purpose) = (root.region, root.purpose);
    let (mut keys, mut ids, mut holder) = (vec![ROOT], vec![0xc1], ROOT);
    for step in steps {
        let signer = [holder, ROOT, step.key][usize::from(step.signer)];
        let handed_on = step.scopes.iter().all(|scope| {
            let (action, resource) = scope.split_once(':').unwrap();
            let delegable = scopes.iter().any(|held| *held == format!("delegate:{resource}"));
            scopes.contains(scope) && delegable && (action == "execute" || action == "delegate")
        });
        let good = signer == holder
            && step.bound
            && further >= 1
            && i32::from(step.depth) < further
            && handed_on
            && step.not_before >= time.0
            && step.expires <= time.1
            && step.expires - step.not_before <= 300
            && (region.is_none() || region == step.region)
            && (purpose.is_none() || purpose == step.purpose)
            && !keys.contains(&step.key)
            && !ids.contains(&step.cti);
        if !good {
            return false;
        }
        (scopes, time, further) = (
            step.scopes.clone(),
            (step.not_before, step.expires),
            i32::from(step.depth),
        );
        (region, purpose, holder) = (step.region, step.purpose, step.key);
        keys.push(step.key);
        ids.push(step.cti);
    }
    true
}

/// Nothing in `chain` is more than in its root.
fn is_within_its_root(chain: &VerifiedChain) {
    let root = chain.root().contents();
    assert!(chain.scopes().iter().all(|scope| root.scopes.contains(scope)));
    assert!(chain.not_before() >= root.not_before && chain.expires() <= root.expires);
    assert!(root.region.is_none() || chain.region() == root.region.as_deref());
    assert!(root.purpose.is_none() || chain.purpose() == root.purpose.as_deref());
    let offline = root
        .delegation
        .filter(|right| right.offline)
        .map_or(0, |right| right.depth);
    assert!(usize::from(chain.further_offline()) + chain.blocks().len() <= usize::from(offline));
    assert_eq!(chain.status(), root.status);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A chain holds exactly where the rules let every link stand, and then has nothing that its root has not.
    #[test]
    fn no_chain_has_more_than_its_root(root in root(), steps in steps()) {
        let bytes = signed(authorization_of(&root).encode_signed(&issuer()).unwrap(), &links_of(&steps));
        let verified = UntrustedChain::parse(&join(&bytes)).unwrap().verify(&ring(&[&issuer()]), NOW_MS);
        prop_assert_eq!(verified.is_ok(), may_stand(&root, &steps), "{:?}", verified.err());
        if let Ok(chain) = verified {
            is_within_its_root(&chain);
        }
    }

    /// Links that verify may be left off the end by who holds them, and by nobody else be put together otherwise: whatever
    /// order or selection of genuine links is presented, it holds only as it was made.
    #[test]
    fn genuine_links_hold_in_their_own_order_only(order in proptest::collection::vec(0..5_usize, 1..=5)) {
        let case = chain(4);
        let bytes = signed(case.authorization_bytes(), &case.links);
        let chosen: Vec<Vec<u8>> = order.iter().map(|at| bytes[*at].clone()).collect();
        let verified = UntrustedChain::parse(&join(&chosen)).and_then(|chain| chain.verify(&ring(&[&issuer()]), NOW_MS));
        let as_made = order.iter().copied().eq(0..order.len());
        prop_assert_eq!(verified.is_ok(), as_made);
    }

    /// What a holder hands on with the helper is what every enforcer takes, and what the helper refuses none would have.
    #[test]
    fn what_is_handed_on_is_taken(root in root(), steps in steps()) {
        let mut held = authorization_of(&root).encode_signed(&issuer()).unwrap();
        let mut good = true;
        let mut holder = ROOT;
        for (at, step) in steps.iter().enumerate() {
            let wanted = Delegation {
                key: HolderKey::new(step.key).verifying_key(),
                label: "child".into(),
                scopes: scopes(&step.scopes),
                not_before: step.not_before,
                expires: step.expires,
                depth: step.depth,
                region: step.region.map(str::to_owned),
                purpose: step.purpose.map(str::to_owned),
                cti: [step.cti; 16],
            };
            let signer = [holder, ROOT, step.key][usize::from(step.signer)];
            let made = delegate(&held, &wanted, &HolderKey::new(signer));
            let bound: Vec<Step> = steps[..=at].iter().cloned().map(|step| Step { bound: true, ..step }).collect();
            good = may_stand(&root, &bound);
            prop_assert_eq!(made.is_ok(), good, "{:?}", made.err());
            let Ok(chain) = made else { break };
            (held, holder) = (chain, step.key);
        }
        if good {
            let verified = UntrustedChain::parse(&held).unwrap().verify(&ring(&[&issuer()]), NOW_MS).unwrap();
            prop_assert_eq!(verified.blocks().len(), steps.len());
            is_within_its_root(&verified);
        }
    }

    /// Any bytes where a chain is expected: an error with a reason, never a panic.
    #[test]
    fn any_bytes_are_refused_without_a_panic(
        mut random in proptest::collection::vec(any::<u8>(), 1..600),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        random[0] = 0x82 | (random[0] & 0x07);
        let good = chain(2).chain_bytes();
        let mut broken = good.clone();
        for (at, value) in edits {
            let at = at.index(broken.len());
            broken[at] = value;
        }
        let short = good[..cut.index(good.len())].to_vec();
        for bytes in [random, broken, short] {
            prop_assume!(bytes != good);
            prop_assert!(UntrustedChain::parse(&bytes).and_then(|chain| chain.verify(&ring(&[&issuer()]), NOW_MS)).is_err());
            // A holder does not look who issued what it holds, so this may be made, and no enforcer takes it.
            if let Ok(made) = delegate(&bytes, &wanted(), &HolderKey::new(seed(2))) {
                let made = UntrustedChain::parse(&made).and_then(|chain| chain.verify(&ring(&[&issuer()]), NOW_MS));
                prop_assert!(made.is_err());
            }
        }
    }
}

fn wanted() -> Delegation {
    let block = link(3).block;
    Delegation {
        key: block.confirmation,
        label: block.label,
        scopes: block.scopes,
        not_before: block.not_before,
        expires: block.expires,
        depth: block.depth,
        region: block.region,
        purpose: block.purpose,
        cti: block.cti,
    }
}

proptest! {
    // Each case signs up to five links and six proofs.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever an enforcer lets the holder of a chain do, it lets the holder of its root do too.
    #[test]
    fn a_decision_never_allows_more_than_the_roots(root in root(), steps in steps(), region in word(), purpose in word()) {
        let of = |links: Vec<Link>, holder: u8, wanted: Scope| Case {
            authorization: authorization_of(&root),
            links,
            holder: HolderKey::new(holder),
            region,
            purpose,
            action: wanted.action().as_str(),
            resource: if wanted.resource() == "a" { "a" } else { "b" },
            proof: touchstone_authorization::Proof { scope: wanted, ..proof() },
            offline: OfflineLimits::MOST,
            ..Case::default()
        };
        let view = Case::default().view();
        for wanted in ["execute:a", "execute:b", "delegate:a"] {
            let holder = steps.last().map_or(ROOT, |step| step.key);
            let case = of(links_of(&steps), holder, scope(wanted));
            let allowed = case.decide_presented(Presented::Bytes(&case.chain_bytes()), &case.proof_bytes(), Some(&view)).0;
            let above = of(Vec::new(), ROOT, scope(wanted));
            let by_root = above.decide_presented(Presented::Bytes(&above.chain_bytes()), &above.proof_bytes(), Some(&view)).0;
            // A region that a child set is the child's own; everything else that a child may do, its root may.
            prop_assert!(allowed.is_err() || by_root.is_ok(), "{wanted}: {:?}", by_root.err());
        }
    }
}
