//! Off-line delegation: what a chain is let in for, and every way to get more out of one than went in. One attack a row.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::cases::*;
use common::links::*;
use common::*;
use touchstone_authorization::chain::MAX_CHAIN_BYTES;
use touchstone_authorization::{
    Authorization, DelegationRight, KeyKind, OfflineLimits, Presented, Proof, Status, UntrustedChain, redecide,
};
use touchstone_cose::key::SigningKey;

/// One attack: its name, what differs from a good request, and every code it is refused with.
type Row = (&'static str, Case, &'static [&'static str]);

fn check(rows: Vec<Row>) {
    for (attack, case, expected) in rows {
        assert_eq!(case.codes(), expected, "{attack}");
    }
}

/// A chain whose authorization is changed too.
fn rooted(links: usize, change: impl FnOnce(&mut Authorization)) -> Case {
    let mut case = chain(links);
    change(&mut case.authorization);
    case
}

fn with(mut case: Case, change: impl FnOnce(&mut Case)) -> Case {
    change(&mut case);
    case
}

/// Whether the limits of an enforcer, and nothing else, are others.
fn taking(links: usize, depth: u8, life_ms: u64) -> Case {
    let offline = OfflineLimits { depth, life_ms };
    with(chain(links), |c| c.offline = offline)
}

#[test]
#[rustfmt::skip]
fn what_is_allowed() {
    check(vec![
        ("the holder of the authorization itself", chain(0), &[]),
        ("one link", chain(1), &[]),
        ("two links", chain(2), &[]),
        ("four links", chain(4), &[]),
        ("fewer scopes", changed(2, |b| b.scopes = scopes(&["execute:workloads"])), &[]),
        ("less time", changed(2, |b| (b.not_before, b.expires) = (NOW_S, NOW_S + 1)), &[]),
        ("less depth", changed(1, |b| b.depth = 0), &[]),
        ("an authorization that is a workload's own", rooted(1, |a| (a.depth, a.parent, a.subject) = (3, Some([1; 16]), "agent@node-1".into())), &[]),
        ("a region where there was none, there", with(changed(1, |b| b.region = Some("eu-1".into())), |c| c.region = Some("eu-1")), &[]),
        ("a purpose where there was none, for it", with(changed(1, |b| b.purpose = Some("billing".into())), |c| c.purpose = Some("billing")), &[]),
        ("its ancestor's region", with(rooted(1, |a| a.region = Some("eu-1".into())), |c| { c.region = Some("eu-1"); c.links[0].block.region = Some("eu-1".into()) }), &[]),
        ("no region, at an enforcer in one", with(chain(1), |c| (c.region, c.purpose) = (Some("eu-1"), Some("billing"))), &[]),
        ("the last millisecond, within the skew", Case { now_ms: NOW_MS + 109_499, ..with(chain(1), |c| { c.received_at_ms = NOW_MS + 105_000; c.alter_head = |h| h.fresh_until_ms += 600_000 }) }, &[]),
        ("somebody else's delegation was taken back", with(chain(2), |c| c.revoked = vec![[9; 16]]), &[]),
        ("as many links as are taken", taking(2, 2, 300_000), &[]),
        ("as long as is taken", taking(1, 4, 118_000), &[]),
        ("over TLS", Case { authorization: delegable(), links: vec![link(1)], holder: HolderKey::new(seed(1)), ..Case::over_tls() }, &[]),
        ("for a request alone", Case { authorization: delegable(), links: vec![link(1)], holder: HolderKey::new(seed(1)), ..Case::over_request() }, &[]),
    ]);
}

#[test]
fn what_an_allowed_chain_tells() {
    let case = changed(2, |b| b.scopes = scopes(&["execute:workloads"]));
    let allowed = case.decide().0.unwrap();
    assert_eq!(allowed.scope, scope("execute:workloads"));
    assert_eq!(allowed.until_ms, (NOW_S + 108) * 1_000, "the last link ends first");
    let chain = &allowed.chain;
    assert_eq!(chain.subject(), "node-1:link-1:link-2");
    assert_eq!(chain.scopes(), scopes(&["execute:workloads"]));
    assert_eq!((chain.not_before(), chain.expires()), (NOW_S - 8, NOW_S + 108));
    assert_eq!(chain.id(), &[seed(2); 16]);
    assert_eq!(chain.holder(), &HolderKey::new(seed(2)).verifying_key());
    assert_eq!(
        chain.holder_thumbprint(),
        &HolderKey::new(seed(2)).verifying_key().thumbprint()
    );
    assert_eq!((chain.depth(), chain.further_offline()), (2, 2));
    assert_eq!(chain.status(), STATUS);
    assert_eq!(chain.digest(), &sha256(&case.chain_bytes()));
    assert_eq!(chain.key_kind(), KeyKind::Software, "nobody vouched for a child's key");
    assert_eq!(chain.root().contents(), &delegable());
    assert_eq!(chain.blocks().len(), 2);
    let alone = Case::default().decide().0.unwrap().chain;
    assert_eq!(
        (alone.subject().as_str(), alone.key_kind(), alone.depth()),
        ("node-1", KeyKind::Tpm, 0)
    );
    assert_eq!(alone.further_offline(), 0);
}

#[test]
#[rustfmt::skip]
fn attacks_that_widen() {
    let long_lived = |a: &mut Authorization| a.expires = NOW_S + 1_000;
    check(vec![
        ("no right to delegate at all", rooted(1, |a| a.delegation = None), &["delegation-not-granted"]),
        ("only the right to ask the broker", rooted(1, |a| a.delegation = Some(DelegationRight { depth: 4, offline: false })), &["delegation-not-granted"]),
        ("a depth bomb: as much depth as its parent", changed(1, |b| b.depth = 4), &["delegation-depth"]),
        ("a depth bomb: more depth than its parent", changed(1, |b| b.depth = 16), &["delegation-depth"]),
        ("a depth bomb: more depth than its parent, further down", changed(3, |b| b.depth = 2), &["delegation-depth"]),
        ("a link where none may follow", with(chain(2), |c| (c.links[0].block.depth, c.links[1].block.depth) = (0, 0)), &["delegation-depth"]),
        ("a link where the authorization lets one follow", rooted(2, |a| a.delegation = Some(DelegationRight { depth: 1, offline: true })), &["delegation-depth"]),
        ("a depth bomb of five links", with(chain(4), |c| c.links.push(Link { block: c.links[3].block.clone(), ..link(4) })), &["chain-too-long"]),
        ("a scope nobody above holds", changed(1, |b| b.scopes = scopes(&["execute:other"])), &["delegation-scope"]),
        ("a good scope and one that nobody above holds", changed(1, |b| b.scopes = scopes(&["execute:workloads", "execute:other"])), &["delegation-scope"]),
        ("a longer resource", changed(1, |b| b.scopes = scopes(&["execute:workloads/a"])), &["delegation-scope"]),
        ("a shorter resource", changed(1, |b| b.scopes = scopes(&["execute:work"])), &["delegation-scope"]),
        ("a scope that is held and may not be delegated", with(changed(1, |b| b.scopes = scopes(&["execute:private"])), |c| c.authorization.scopes.push(scope("execute:private"))), &["delegation-scope"]),
        ("the right to delegate what may not be delegated", with(changed(1, |b| b.scopes = scopes(&["delegate:private"])), |c| c.authorization.scopes.push(scope("execute:private"))), &["delegation-scope"]),
        ("a right to delegate taken for the right itself", with(changed(1, |b| b.scopes = scopes(&["execute:tools"])), |c| c.authorization.scopes.push(scope("delegate:tools"))), &["delegation-scope"]),
        ("a scope given up and taken again", with(chain(3), |c| c.links[1].block.scopes = scopes(&["delegate:workloads"])), &["delegation-scope"]),
        ("the right to delegate given up and used", with(chain(2), |c| c.links[0].block.scopes = scopes(&["execute:workloads"])), &["delegation-scope"]),
        ("a key released off-line", changed(1, |b| b.scopes = scopes(&["release:node-secrets"])), &["delegation-action"]),
        ("a key released off-line that may be delegated", with(changed(1, |b| b.scopes = scopes(&["release:workloads"])), |c| c.authorization.scopes.push(scope("release:workloads"))), &["delegation-action"]),
        ("administration off-line", with(changed(1, |b| b.scopes = scopes(&["administer:workloads"])), |c| c.authorization.scopes.push(scope("administer:workloads"))), &["delegation-action"]),
        ("bootstrap off-line", with(changed(1, |b| b.scopes = scopes(&["bootstrap:workloads"])), |c| c.authorization.scopes.push(scope("bootstrap:workloads"))), &["delegation-action"]),
        ("a child that outlives its parent", changed(1, |b| b.expires = NOW_S + 111), &["delegation-outlives"]),
        ("a child for ever", changed(1, |b| b.expires = u64::MAX), &["delegation-outlives"]),
        ("a grandchild that outlives its parent, not its root", changed(2, |b| b.expires = NOW_S + 110), &["delegation-outlives"]),
        ("a child older than its parent", changed(1, |b| b.not_before = NOW_S - 11), &["delegation-outlives"]),
        ("a child from the beginning of time", changed(1, |b| b.not_before = 0), &["delegation-outlives"]),
        ("a child for five minutes and a second", with(changed(1, |b| (b.not_before, b.expires) = (NOW_S, NOW_S + 301)), |c| long_lived(&mut c.authorization)), &["delegation-life"]),
        ("its parent's region dropped", with(rooted(1, |a| a.region = Some("eu-1".into())), |c| c.region = Some("eu-1")), &["delegation-region"]),
        ("another region than its parent's", with(changed(1, |b| b.region = Some("us-1".into())), |c| (c.authorization.region, c.region) = (Some("eu-1".into()), Some("us-1"))), &["delegation-region"]),
        ("a longer region that begins alike", with(changed(1, |b| b.region = Some("eu-11".into())), |c| (c.authorization.region, c.region) = (Some("eu-1".into()), Some("eu-11"))), &["delegation-region"]),
        ("the region that its parent set dropped again", with(chain(2), |c| (c.links[0].block.region, c.region) = (Some("eu-1".into()), Some("eu-1"))), &["delegation-region"]),
        ("its parent's purpose dropped", with(rooted(1, |a| a.purpose = Some("billing".into())), |c| c.purpose = Some("billing")), &["delegation-purpose"]),
        ("another purpose than its parent's", with(changed(1, |b| b.purpose = Some("ads".into())), |c| (c.authorization.purpose, c.purpose) = (Some("billing".into()), Some("ads"))), &["delegation-purpose"]),
        ("a loop to the authorization's own key", with(changed(1, |b| b.confirmation = HolderKey::new(ROOT).verifying_key()), |c| c.holder = HolderKey::new(ROOT)), &["delegation-loop"]),
        ("a loop of two links", with(changed(2, |b| b.confirmation = HolderKey::new(ROOT).verifying_key()), |c| c.holder = HolderKey::new(ROOT)), &["delegation-loop"]),
        ("a loop of a link to itself", with(changed(2, |b| b.confirmation = HolderKey::new(seed(1)).verifying_key()), |c| c.holder = HolderKey::new(seed(1))), &["delegation-loop"]),
        ("the id of the authorization", changed(1, |b| b.cti = authorization().cti), &["delegation-loop"]),
        ("the id of the link before", changed(2, |b| b.cti = [seed(1); 16]), &["delegation-loop"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn attacks_on_the_links() {
    let by = |signer: u8| with(chain(2), |c| c.links[1].signer = signer);
    let renewed = || with(chain(1), |c| {
        // The block of one authorization behind another of the same holder.
        c.links[0].before = Some(sha256(&c.authorization_bytes()));
        c.authorization.cti = [0xc9; 16];
    });
    let sibling = || with(chain(2), |c| {
        // The second link was made below a first one that gave less; another first one with the same key gives more.
        let mut lesser = chain(1);
        lesser.links[0].block.expires -= 50;
        c.links[1].before = Some(sha256(&lesser.chain_bytes()));
    });
    check(vec![
        ("signed by a stranger", by(99), &["delegation-signature"]),
        ("signed by the grandparent", by(ROOT), &["delegation-signature"]),
        ("signed by the child itself", by(seed(2)), &["delegation-signature"]),
        ("signed by the broker", with(chain(1), |c| c.links[0].alter = |_| link(1).block.encode_signed(&issuer()).unwrap()), &["delegation-signature"]),
        ("last byte of the signature changed", with(chain(1), |c| c.links[0].alter = flip_last), &["delegation-signature"]),
        ("cut short", with(chain(1), |c| c.links[0].alter = |b| b[..b.len() - 1].to_vec()), &["delegation-malformed"]),
        ("nothing in its place", with(chain(1), |c| c.links[0].alter = |_| vec![]), &["delegation-malformed"]),
        ("endless", with(chain(1), |c| c.links[0].alter = |_| vec![0xd2; 2_000]), &["delegation-too-large"]),
        ("a trust head in its place", with(chain(1), |c| c.links[0].alter = a_trust_head), &["delegation-type"]),
        ("a proof in its place", with(chain(1), |c| c.links[0].alter = |_| Case::default().proof_bytes()), &["delegation-type"]),
        ("an authorization in its place", with(chain(1), |c| c.links[0].alter = |_| Case::default().authorization_bytes()), &["delegation-malformed"]),
        ("an authorization without its tag in its place", with(chain(1), |c| c.links[0].alter = |_| Case::default().authorization_bytes()[2..].to_vec()), &["delegation-type"]),
        ("a block where the authorization stands", with(chain(2), |c| c.join = |l| array(&l[1..])), &["authorization-malformed"]),
        ("the middle taken out", with(chain(3), |c| c.join = |l| array(&[l[0].clone(), l[1].clone(), l[3].clone()])), &["delegation-signature"]),
        ("the first taken out", with(chain(2), |c| c.join = |l| array(&[l[0].clone(), l[2].clone()])), &["delegation-signature"]),
        ("two exchanged", with(chain(2), |c| c.join = |l| array(&[l[0].clone(), l[2].clone(), l[1].clone()])), &["delegation-signature"]),
        ("one twice", with(chain(1), |c| c.join = |l| array(&[l[0].clone(), l[1].clone(), l[1].clone()])), &["delegation-signature"]),
        ("a link of another authorization of the same holder", renewed(), &["delegation-order"]),
        ("a link below another first link with the same key", sibling(), &["delegation-order"]),
        ("a digest of nothing", with(chain(1), |c| c.links[0].before = Some([0; 32])), &["delegation-order"]),
        ("the last link left off: its holder has no other right", with(chain(2), |c| c.join = |l| join(&l[..2])), &["proof-signature"]),
        ("every link left off", with(chain(2), |c| c.join = |l| l[0].clone()), &["proof-signature"]),
        ("the child's chain with its parent's proof", with(chain(1), |c| c.holder = HolderKey::new(ROOT)), &["proof-signature"]),
        ("a proof for the authorization alone", with(chain(1), |c| c.other_ath = Some(sha256(&c.authorization_bytes()))), &["proof-authorization"]),
        ("a proof for the chain without its last link", with(chain(2), |c| c.other_ath = Some(sha256(&chain(1).chain_bytes()))), &["proof-authorization"]),
        ("what the authorization grants and the link does not", with(chain(1), |c| (c.action, c.resource, c.proof) = ("release", "node-secrets", Proof { scope: scope("release:node-secrets"), ..proof() })), &["scope-not-granted"]),
        ("what an earlier link grants and the last does not", with(changed(2, |b| b.scopes = scopes(&["delegate:workloads"])), |_| {}), &["scope-not-granted"]),
        ("the authorization forged", with(chain(2), |c| c.issuer = SigningKey::from_seed([99; 32])), &["authorization-key-unknown"]),
        ("the authorization altered", with(chain(2), |c| c.alter_authorization = flip_last), &["authorization-signature"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn attacks_on_the_encoding() {
    check(vec![
        ("an array of an authorization alone: there is one encoding", with(chain(0), |c| c.join = array), &["chain-malformed"]),
        ("an empty array", with(chain(1), |c| c.join = |_| vec![0x80]), &["chain-malformed"]),
        ("an array without end", with(chain(1), |c| c.join = |l| [vec![0x9f], array(l)[1..].to_vec(), vec![0xff]].concat()), &["chain-malformed"]),
        ("a length that is not the shortest", with(chain(1), |c| c.join = |l| [vec![0x98, 2], array(l)[1..].to_vec()].concat()), &["chain-malformed"]),
        ("bytes after it", with(chain(1), |c| c.join = |l| [array(l), vec![0]].concat()), &["chain-malformed"]),
        ("cut short", with(chain(1), |c| c.join = |l| array(l)[..100].to_vec()), &["chain-malformed"]),
        ("a chain within a chain", with(chain(1), |c| c.join = |l| array(&[array(l), l[1].clone()])), &["authorization-malformed"]),
        ("links that are no byte strings", with(chain(1), |c| c.join = |_| vec![0x82, 0, 0]), &["chain-malformed"]),
        ("an announced length beyond all memory", with(chain(1), |c| c.join = |_| vec![0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), &["chain-malformed"]),
        ("nested without end", with(chain(1), |c| c.join = |_| vec![0x81; 4_000]), &["chain-malformed"]),
        ("a breadth bomb", with(chain(1), |c| c.join = |_| [vec![0x98, 60], vec![0x40; 60]].concat()), &["chain-too-long"]),
        ("a breadth bomb of a thousand links", with(chain(1), |c| c.join = |_| [vec![0x99, 4, 0], vec![0x40; 1024]].concat()), &["chain-malformed"]),
        ("too large", with(chain(1), |c| c.join = |l| array(&[l[0].clone(), vec![0; MAX_CHAIN_BYTES]])), &["chain-too-large"]),
        ("a megabyte", with(chain(1), |c| c.join = |_| vec![0x84; 1 << 20]), &["chain-too-large"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn what_time_and_trust_state_change() {
    let late = |mut case: Case, now_ms: u64| { case.now_ms = now_ms; case.received_at_ms = now_ms; case.alter_head = |h| h.fresh_until_ms += 600_000; case };
    check(vec![
        ("the child has run out, its parent has not", late(changed(1, |b| b.expires = NOW_S + 1), NOW_MS + 1_500), &["delegation-expired"]),
        ("the parent's time is the child's", late(with(chain(2), |c| { c.links[0].block.expires = NOW_S + 1; c.links[1].block.expires = NOW_S + 1 }), NOW_MS + 1_500), &["delegation-expired"]),
        ("all have run out", late(chain(2), NOW_MS + 200_000), &["authorization-expired", "delegation-expired", "delegation-expired"]),
        ("the child begins later", changed(1, |b| b.not_before = NOW_S + 5), &["delegation-not-yet-valid"]),
        ("the ancestor is revoked", with(chain(2), |c| c.status = vec![(STATUS.index, Status::Invalid)]), &["authorization-revoked"]),
        ("the ancestor is suspended", with(chain(2), |c| c.status = vec![(STATUS.index, Status::Suspended)]), &["authorization-suspended"]),
        ("it is taken back by its id", with(chain(2), |c| c.revoked = vec![[1; 16], [seed(2); 16]]), &["delegation-revoked"]),
        ("its parent is taken back by its id", with(chain(2), |c| c.revoked = vec![[seed(1); 16]]), &["delegation-revoked"]),
        ("taken back and suspended above", with(chain(1), |c| (c.revoked, c.status) = (vec![[seed(1); 16]], vec![(STATUS.index, Status::Suspended)])), &["authorization-suspended", "delegation-revoked"]),
        ("no fresh trust state", with(chain(1), |c| c.alter_head = |h| h.fresh_until_ms = 0), &["trust-state-stale"]),
        ("no trust state: nobody knows what was taken back", with(chain(1), |c| c.without_view = true), &["trust-state-missing"]),
        ("none is taken here", taking(1, 0, 0), &["delegation-not-taken"]),
        ("only one is taken here", taking(2, 1, 300_000), &["delegation-not-taken"]),
        ("only shorter ones are taken here", taking(1, 4, 117_999), &["delegation-not-taken"]),
        ("its region, and an enforcer that says none", changed(1, |b| b.region = Some("eu-1".into())), &["authorization-region"]),
        ("its region, and an enforcer in another", with(changed(1, |b| b.region = Some("eu-1".into())), |c| c.region = Some("eu-2")), &["authorization-region"]),
        ("its purpose, and an enforcer that says none", changed(1, |b| b.purpose = Some("billing".into())), &["authorization-purpose"]),
        ("its purpose, and an enforcer for another", with(changed(1, |b| b.purpose = Some("billing".into())), |c| c.purpose = Some("ads")), &["authorization-purpose"]),
        ("the authorization's own region elsewhere", with(rooted(0, |a| a.region = Some("eu-1".into())), |c| c.region = Some("eu-2")), &["authorization-region"]),
        ("the authorization's own purpose elsewhere", rooted(0, |a| a.purpose = Some("billing".into())), &["authorization-purpose"]),
    ]);
}

/// What was let in and is open: everything that can change is looked at again, along the whole chain.
#[test]
fn an_open_connection_is_looked_at_again() {
    let opened = chain(2).decide().0.unwrap();
    let keys = ring(&[&issuer()]);
    let again = |case: &Case| -> Vec<&str> {
        let result = redecide(&opened.chain, Some(&case.view()), &case.enforcer(&keys), case.now_ms);
        let refusals = result.err().unwrap_or_default();
        refusals.iter().map(|refusal| refusal.code.as_str()).collect()
    };
    assert_eq!(again(&chain(2)), [""; 0]);
    for (what, case, expected) in [
        (
            "the ancestor revoked",
            with(chain(2), |c| c.status = vec![(STATUS.index, Status::Invalid)]),
            &["authorization-revoked"][..],
        ),
        (
            "the first link taken back",
            with(chain(2), |c| c.revoked = vec![[seed(1); 16]]),
            &["delegation-revoked"],
        ),
        (
            "the last link's time over",
            with(chain(2), |c| {
                (c.now_ms, c.received_at_ms) = (NOW_MS + 108_500, NOW_MS + 108_500);
                c.alter_head = |h| h.fresh_until_ms += 600_000;
            }),
            &["delegation-expired"],
        ),
        (
            "policy takes no delegations any more",
            taking(2, 0, 0),
            &["delegation-not-taken"],
        ),
        ("policy takes fewer", taking(2, 1, 300_000), &["delegation-not-taken"]),
    ] {
        assert_eq!(again(&case), expected, "{what}");
    }
}

/// A chain that was verified once is judged anew with every decision, but for its signatures.
#[test]
fn a_verified_chain_is_judged_anew_each_time() {
    let case = chain(2);
    let verified = case.decide().0.unwrap().chain;
    let proof = case.proof_bytes();
    let again = |case: &Case| {
        codes(
            &case
                .decide_presented(Presented::Verified(verified.clone()), &proof, Some(&case.view()))
                .0,
        )
    };
    assert_eq!(again(&case), [""; 0]);
    assert_eq!(
        again(&with(chain(2), |c| c.revoked = vec![[seed(2); 16]])),
        ["delegation-revoked"]
    );
    assert_eq!(again(&taking(2, 1, 300_000)), ["delegation-not-taken"]);
    let another = with(chain(2), |c| c.proof.audience = "guard:other".into());
    assert_eq!(
        codes(
            &case
                .decide_presented(
                    Presented::Verified(verified.clone()),
                    &another.proof_bytes(),
                    Some(&case.view())
                )
                .0
        ),
        ["proof-audience"]
    );
}

/// The proof of a child counts once, like any other; that of a sibling with the same id is its own.
#[test]
fn a_childs_proof_counts_once() {
    let over_request = |links: usize| Case {
        authorization: delegable(),
        links: (1..=links).map(link).collect(),
        holder: HolderKey::new(seed(links)),
        ..Case::over_request()
    };
    let (first, memory) = over_request(1).decide();
    assert!(first.is_ok());
    assert_eq!(
        with(over_request(1), |c| c.memory = memory.clone()).codes(),
        ["proof-replayed"]
    );
    assert_eq!(with(over_request(2), |c| c.memory = memory).codes(), [""; 0]);
}

#[test]
fn every_changed_byte_of_a_chain_is_refused() {
    let case = changed(1, |b| b.region = Some("eu-1".into()));
    let case = with(case, |c| c.region = Some("eu-1"));
    let (bytes, proof, view) = (case.chain_bytes(), case.proof_bytes(), case.view());
    let decide = |bytes: &[u8]| case.decide_presented(Presented::Bytes(bytes), &proof, Some(&view)).0;
    assert!(decide(&bytes).is_ok());
    let keys = ring(&[&issuer()]);
    for position in 0..bytes.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[position] ^= mask;
            assert!(decide(&changed).is_err(), "byte {position}, mask {mask:#x}");
            let verified = UntrustedChain::parse(&changed).and_then(|chain| chain.verify(&keys, NOW_MS));
            assert!(verified.is_err(), "byte {position}, mask {mask:#x}: already as a chain");
        }
    }
    for length in 0..bytes.len() {
        assert!(decide(&bytes[..length]).is_err(), "cut to {length}");
    }
}
