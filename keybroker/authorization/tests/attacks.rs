//! Every way to be refused at an enforcer, one attack a row, and the few ways to be allowed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::cases::*;
use common::*;
use touchstone_authorization::{Channel, ChannelPolicy, ReplayMemory, Status, StatusIndex};
use touchstone_cose::key::SigningKey;

/// One attack: its name, what differs from a good request, and every code it is refused with.
type Row = (&'static str, Case, &'static [&'static str]);

fn check(rows: Vec<Row>) {
    for (attack, case, expected) in rows {
        assert_eq!(case.codes(), expected, "{attack}");
    }
}

#[test]
#[rustfmt::skip]
fn what_is_allowed() {
    check(vec![
        ("a local guard's challenge", Case::default(), &[]),
        ("a challenge at a proxy", Case { policy: ChannelPolicy::ExporterOrChallenge, ..Case::default() }, &[]),
        ("a challenge at an endpoint without TLS", Case { policy: ChannelPolicy::Optional, ..Case::default() }, &[]),
        ("the exporter of the connection", Case::over_tls(), &[]),
        ("the request alone, at an endpoint without TLS", Case::over_request(), &[]),
        ("an Ed25519 confirmation key", ed25519_holder(), &[]),
        ("the last millisecond, within the skew", Case { now_ms: NOW_MS + 110_499, ..late() }, &[]),
        ("the first millisecond, within the skew", Case { now_ms: NOW_MS - 10_500, received_at_ms: NOW_MS - 10_500, ..Case::default() }, &[]),
        ("an older epoch and policy than the trust state's", authorized(|a| (a.epoch, a.policy_version) = (1, 1)), &[]),
        ("another entry is revoked", Case { status: vec![(STATUS.index + 1, Status::Invalid)], ..Case::default() }, &[]),
    ]);
    let allowed = Case::default().decide().0.unwrap();
    assert_eq!(allowed.scope, scope("execute:workloads"));
    assert_eq!(allowed.until_ms, (NOW_S + 110) * 1_000);
    assert_eq!(allowed.chain.root().contents(), &authorization());
}

#[test]
#[rustfmt::skip]
fn attacks_on_the_authorization() {
    let other_issuer = || Case {
        issuer: SigningKey::from_seed([99; 32]),
        ..Case::default()
    };
    check(vec![
        ("forged by a key outside the keyset", other_issuer(), &["authorization-key-unknown"]),
        ("signed by the trust-state key", Case { issuer: trust_key(), ..Case::default() }, &["authorization-key-unknown"]),
        ("a trust head in its place", Case { alter_authorization: |b| [vec![0xd8, 0x3d], a_trust_head(b)].concat(), ..Case::default() }, &["authorization-type"]),
        ("a proof in its place", Case { alter_authorization: |_| [vec![0xd8, 0x3d], Case::default().proof_bytes()].concat(), ..Case::default() }, &["authorization-type"]),
        ("without the CWT tag", Case { alter_authorization: |b| b[2..].to_vec(), ..Case::default() }, &["authorization-malformed"]),
        ("bytes after it", Case { alter_authorization: |b| [b, vec![0]].concat(), ..Case::default() }, &["authorization-malformed"]),
        ("cut short", Case { alter_authorization: |b| b[..b.len() - 1].to_vec(), ..Case::default() }, &["authorization-malformed"]),
        ("nothing", Case { alter_authorization: |_| vec![], ..Case::default() }, &["authorization-malformed"]),
        ("endless", Case { alter_authorization: |_| vec![0xd8; 1 << 20], ..Case::default() }, &["authorization-too-large"]),
        ("last byte of the signature changed", Case { alter_authorization: flip_last, ..Case::default() }, &["authorization-signature"]),
        ("issued by another domain", authorized(|a| a.issuer = "evil.example".into()), &["authorization-issuer"]),
        ("for another domain", authorized(|a| a.audience = "other.example".into()), &["authorization-audience"]),
        ("for a longer domain", authorized(|a| a.audience = "demo.example.org".into()), &["authorization-audience"]),
        ("not yet valid", Case { now_ms: NOW_MS - 10_501, received_at_ms: NOW_MS - 10_501, ..Case::default() }, &["authorization-not-yet-valid"]),
        ("expired", Case { now_ms: NOW_MS + 110_500, ..late() }, &["authorization-expired"]),
        ("at the end of time", Case { now_ms: u64::MAX - 1, ..authorized(|a| a.expires = NOW_S + 110) }, &["trust-state-stale", "authorization-key-unknown"]),
        ("revoked", status(Status::Invalid), &["authorization-revoked"]),
        ("suspended", status(Status::Suspended), &["authorization-suspended"]),
        ("a status without a meaning", status(Status::Reserved), &["authorization-status-unknown"]),
        ("an index outside the list", at(StatusIndex { index: ENTRIES, ..STATUS }), &["authorization-index"]),
        ("an index far outside the list", at(StatusIndex { index: u32::MAX, ..STATUS }), &["authorization-index"]),
        ("an unknown list", at(StatusIndex { list: 2, ..STATUS }), &["authorization-list-unknown"]),
        ("an older generation", at(StatusIndex { generation: 1, ..STATUS }), &["authorization-generation"]),
        ("a later generation", at(StatusIndex { generation: 3, ..STATUS }), &["authorization-generation"]),
        ("an epoch the enforcer has not seen", authorized(|a| a.epoch += 1), &["authorization-epoch-ahead"]),
        ("a policy the trust state does not know", authorized(|a| a.policy_version += 1), &["authorization-policy-unknown"]),
        ("an action it does not grant", Case { action: "administer", ..asking("administer:workloads") }, &["scope-not-granted"]),
        ("a resource it does not grant", Case { resource: "other", ..asking("execute:other") }, &["scope-not-granted"]),
        ("a resource below one it grants", Case { resource: "workloads/a", ..asking("execute:workloads/a") }, &["scope-not-granted"]),
        ("a wildcard resource", Case { resource: "*", ..Case::default() }, &["request-malformed", "proof-action"]),
        ("a wildcard action", Case { action: "*", ..Case::default() }, &["request-malformed", "proof-action"]),
        ("no action at all", Case { action: "", resource: "", ..Case::default() }, &["request-malformed", "proof-action"]),
        ("everything wrong with it at once", Case { now_ms: NOW_MS + 200_000, status: vec![(STATUS.index, Status::Invalid)], ..authorized(|a| a.audience = "x".into()) }, &["trust-state-stale", "authorization-audience", "authorization-expired", "authorization-revoked"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn attacks_on_the_proof() {
    let stolen = || Case {
        holder: HolderKey::new(8),
        ..Case::default()
    };
    check(vec![
        ("a stolen authorization with another key", stolen(), &["proof-signature"]),
        ("a proof by the broker", Case { alter_proof: |_| proof().encode_signed(&issuer()).unwrap(), ..Case::default() }, &["proof-signature"]),
        ("last byte of the signature changed", Case { alter_proof: flip_last, ..Case::default() }, &["proof-signature"]),
        ("no proof", Case { alter_proof: |_| vec![], ..Case::default() }, &["proof-malformed"]),
        ("bytes after it", Case { alter_proof: |b| [b, vec![0]].concat(), ..Case::default() }, &["proof-malformed"]),
        ("endless", Case { alter_proof: |_| vec![0xd2; 1 << 20], ..Case::default() }, &["proof-too-large"]),
        ("a trust head in its place", Case { alter_proof: a_trust_head, ..Case::default() }, &["proof-type"]),
        ("the authorization in its place", Case { alter_proof: |_| Case::default().authorization_bytes()[2..].to_vec(), ..Case::default() }, &["proof-type"]),
        ("for another enforcer", proven(|p| p.audience = "guard:node-3".into()), &["proof-audience"]),
        ("for an enforcer with a longer id", proven(|p| p.audience = format!("{ENFORCER}2")), &["proof-audience"]),
        ("for another authorization", Case { other_ath: Some([5; 32]), ..Case::default() }, &["proof-authorization"]),
        ("for another action", proven(|p| p.scope = scope("delegate:workloads")), &["proof-action"]),
        ("for another resource", proven(|p| p.scope = scope("execute:workloads2")), &["proof-action"]),
        ("over another challenge", proven(|p| p.channel = Channel::Challenge(vec![1; 16])), &["proof-challenge"]),
        ("over a longer challenge that begins alike", proven(|p| p.channel = Channel::Challenge([CHALLENGE, b"x"].concat())), &["proof-challenge"]),
        ("over an exporter where a challenge was given", proven(|p| p.channel = Channel::Exporter(EXPORTER)), &["proof-challenge"]),
        ("of another connection", over_tls(|p| p.channel = Channel::Exporter([1; 32])), &["proof-exporter"]),
        ("over a challenge where the exporter is asked for", over_tls(|p| p.channel = Channel::Challenge(CHALLENGE.to_vec())), &["proof-exporter"]),
        ("over the request alone, at a proxy", over_tls(|p| (p.channel, p.request_digest) = (Channel::None, None)), &["proof-channel-missing"]),
        ("over the request alone, at a guard", over_request(|c| (c.policy, c.request_digest) = (ChannelPolicy::Challenge, Some(REQUEST))), &["proof-channel-missing"]),
        ("over the request alone, on a connection without an exporter", Case { policy: ChannelPolicy::ExporterOrChallenge, ..Case::over_request() }, &["proof-channel-missing"]),
        ("exporter at a local guard", Case { policy: ChannelPolicy::Challenge, ..Case::over_tls() }, &["proof-channel-missing"]),
        ("over a challenge nobody gave", over_request(|c| c.proof.channel = Channel::Challenge(CHALLENGE.to_vec())), &["proof-challenge"]),
        ("over an exporter nobody has", over_request(|c| c.proof.channel = Channel::Exporter(EXPORTER)), &["proof-exporter"]),
        ("without a request", over_request(|c| (c.request_digest, c.proof.request_digest) = (None, None)), &["proof-request-missing"]),
        ("for another request", over_request(|c| c.proof.request_digest = Some([1; 32])), &["proof-request"]),
        ("for no request where one is asked for", over_request(|c| c.proof.request_digest = None), &["proof-request"]),
        ("for a request the enforcer does not see", proven(|p| p.request_digest = Some(REQUEST)), &["proof-request"]),
        ("five seconds and a bit old", over_request(|c| c.proof.issued_at = NOW_S - 6), &["proof-time"]),
        ("five seconds and a bit ahead", over_request(|c| c.proof.issued_at = NOW_S + 6), &["proof-time"]),
        ("from the end of time", over_request(|c| c.proof.issued_at = u64::MAX), &["proof-time"]),
        ("nothing can be remembered", over_request(|c| c.memory = ReplayMemory::new(0)), &["replay-memory-full"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn attacks_on_the_trust_state() {
    check(vec![
        ("no trust state yet", Case { without_view: true, ..Case::default() }, &["trust-state-missing"]),
        ("of another domain", headed(|h| h.domain = "other.example".into()), &["trust-state-domain"]),
        ("enforcer of another domain", Case { enforcer_domain: "other.example", ..Case::default() }, &["trust-state-domain", "authorization-issuer", "authorization-audience"]),
        ("silence for the window", Case { now_ms: NOW_MS + WINDOW_MS, ..headed(|h| h.fresh_until_ms = u64::MAX) }, &["trust-state-stale"]),
        ("past fresh-until", Case { now_ms: NOW_MS + 9_000, ..Case::default() }, &["trust-state-stale"]),
        ("never fresh", headed(|h| h.fresh_until_ms = 0), &["trust-state-stale"]),
        ("the clock was set back", Case { received_at_ms: NOW_MS + 501, ..headed(|h| h.fresh_until_ms += 60_000) }, &["trust-state-stale"]),
        ("stale and revoked", Case { now_ms: NOW_MS + 9_000, ..status(Status::Invalid) }, &["trust-state-stale", "authorization-revoked"]),
        ("a list that was taken away", at(StatusIndex { list: 0, ..STATUS }), &["authorization-list-unknown"]),
    ]);
}
