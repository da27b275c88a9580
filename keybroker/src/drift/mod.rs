//! Drift: brokers of one domain, replicas or in its regions, compare what they govern by, without end.
//!
//! Each asks the others ([`config::Peer`]) for a signed report ([`report`]) of the policy, its regions' digests, the rules
//! and the epoch, and makes decisions of theirs again, picked at random from their ledgers ([`sample`]). What differs
//! ([`compare`]) raises an alert, is recorded as a statement of kind `divergence`, and denies on the side that is not the
//! majority ([`standing`]): nothing is granted or released there and no fresh trust state goes out, until it agrees again.
//! Taking away goes on as ever. A peer that differed goes on to differ until a report of its own that verifies shows
//! otherwise: neither its silence nor a restart here ends it ([`kept`]). What does is the operator, who takes it out of
//! `[[peers]]`, or the publisher, who takes it out of the keyset.
//!
//! A peer that lies can make itself differ and nobody else: a broker judges every peer by what that peer has signed, and
//! goes on while more than half of all brokers, itself counted, agree with it.

pub mod compare;
pub mod config;
mod kept;
pub mod report;
pub mod sample;
pub mod standing;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use serde_json::json;
use touchstone_policies::Keyset;
use touchstone_store::Store;

pub use watch::watch;

use crate::problem::{Refusal, RefusalCode};
use crate::restore::RestoreError;
use compare::{Difference, Lag};
use config::Peer;
use report::Report;
use standing::{Seen, Standing};

touchstone_cose::reason_codes! {
    /// In what two brokers of one domain differ.
    pub enum DriftCode {
        Policy = "drift-policy-digest": "Two brokers hold different policies of the same version. Compare both repositories with the publisher's own; one of them was not made by it.",
        Region = "drift-region-digest": "Two brokers hold the same policy and different digests of a region. One of them does not say what it has: take it out and look into it.",
        Generation = "drift-generation": "Two brokers are in different generations of the domain. One was restored from a backup and the other does not know: publish the generation that counts.",
        Behind = "drift-policy-behind": "A broker still has an older policy after the time that a new one may take to reach everybody. Look at why it does not get, or not accept, what is published.",
        Said = "drift-said-by-peer": "Another broker has found that this one differs from it. Look at what it recorded: which decision, or which policy.",
        Decision = "drift-decision": "The same inputs under the same policy and the same rules gave another decision. One of the two brokers computes wrongly or lies: take it out and replay the record on a third machine.",
    }
}

/// What is known of one peer.
#[derive(Debug, Default)]
pub(crate) struct PeerState {
    /// When its last report came that verified, in milliseconds.
    seen_ms: Option<u64>,
    /// Why the last round brought none.
    unseen_because: Option<String>,
    /// That report.
    said: Option<Report>,
    /// In what it differs: by its last report, or by what was kept of an earlier run.
    differences: Vec<Difference>,
    /// The codes of the row that is kept of it; empty where there is none.
    kept: BTreeSet<DriftCode>,
    lag: Lag,
    samples: sample::Samples,
    recorded: Recorded,
}

/// What the last statement about a peer said, and from when on there may be another one.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    codes: Vec<DriftCode>,
    /// Time between the last one and the next, in milliseconds; 0 before the first.
    gap_ms: u64,
    next_ms: u64,
}

/// The comparison with the peers, and what came of it.
#[derive(Debug)]
pub struct Drift {
    own: String,
    peers: Vec<Peer>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    peers: BTreeMap<String, PeerState>,
    standing: Standing,
    /// Whether the last statement said that this broker denies.
    recorded_denies: bool,
}

impl Drift {
    /// The comparison of the broker `own` with these peers. Who was found to differ before this start still does; of the
    /// others nothing is known yet, and nothing is denied because of them.
    ///
    /// # Errors
    /// [`RestoreError`]: the store.
    pub fn begin(own: &str, peers: Vec<Peer>, store: &dyn Store, keyset: &Keyset) -> Result<Self, RestoreError> {
        let mut state = State {
            peers: BTreeMap::new(),
            standing: standing::standing(std::iter::empty()),
            recorded_denies: false,
        };
        for peer in &peers {
            let (differences, lag) = kept::read(store, &peer.replica)?;
            state
                .peers
                .insert(peer.replica.clone(), PeerState::begin(differences, lag));
        }
        state.standing = state.stands(keyset, 0, 0);
        if state.standing.denies {
            tracing::error!(
                target: "touchstone::event", event = "divergence", differ = state.standing.differ, of = state.standing.of,
                "this broker differed from others before this start: it grants nothing until they show that they agree"
            );
        }
        Ok(Self {
            own: own.to_owned(),
            peers,
            state: Mutex::new(state),
        })
    }

    /// The peers, as configured.
    #[must_use]
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// Where this broker stands among its peers.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.lock().standing
    }

    /// The peers that this broker itself has found to differ.
    #[must_use]
    pub fn differing(&self) -> Vec<String> {
        let state = self.lock();
        let own = |peer: &PeerState| peer.differences.iter().any(|found| found.code != DriftCode::Said);
        let differing = state.peers.iter().filter(|(_, peer)| own(peer));
        differing.map(|(name, _)| name.clone()).collect()
    }

    /// Refuses while this broker is on the side that denies.
    ///
    /// # Errors
    /// [`RefusalCode::Diverged`]
    pub fn check(&self) -> Result<(), Refusal> {
        let standing = self.standing();
        if !standing.denies {
            return Ok(());
        }
        let Standing { agree, differ, of, .. } = standing;
        let detail = format!("{agree} of {of} brokers agree with this one, itself counted, and {differ} differ");
        Err(Refusal::new(RefusalCode::Diverged, detail))
    }

    /// For `touchstone status`.
    #[must_use]
    pub fn shown(&self, now_ms: u64) -> serde_json::Value {
        let state = self.lock();
        let peers: serde_json::Map<_, _> = state
            .peers
            .iter()
            .map(|(name, peer)| (name.clone(), peer.shown(now_ms)))
            .collect();
        let Standing {
            agree,
            differ,
            unseen,
            of,
            denies,
        } = state.standing;
        json!({
            "brokers": of,
            "agree": agree,
            "differ": differ,
            "unseen": unseen,
            "denies": denies,
            "peers": peers,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Where this broker stands. A peer to which the keyset gives no key any more is none.
    fn stands(&self, keyset: &Keyset, now_ms: u64, window_ms: u64) -> Standing {
        let named = |replica: &String| keyset.keys.iter().any(|entry| entry.replica == *replica);
        let peers = self.peers.iter().filter(|(replica, _)| named(replica));
        standing::standing(peers.map(|(_, peer)| peer.seen(now_ms, window_ms)))
    }
}

impl PeerState {
    /// One that was found to differ so before this start, or of which nothing is known.
    fn begin(differences: Vec<Difference>, lag: Lag) -> Self {
        let mut samples = sample::Samples::default();
        if let Some(wrong) = differences.iter().find(|found| found.code == DriftCode::Decision) {
            samples.begin(wrong.clone());
        }
        Self {
            kept: differences.iter().map(|found| found.code).collect(),
            differences,
            lag,
            samples,
            ..Self::default()
        }
    }

    /// What this peer counts as at `now_ms`: that it agrees counts for `window_ms`, that it differs until it agrees.
    fn seen(&self, now_ms: u64, window_ms: u64) -> Seen {
        let fresh = self.seen_ms.is_some_and(|at| now_ms.saturating_sub(at) <= window_ms);
        match (self.differences.is_empty(), fresh, self.samples.withheld()) {
            (false, ..) => Seen::Differs,
            (true, true, false) => Seen::Agrees,
            (true, true, true) | (true, false, _) => Seen::Not,
        }
    }

    /// The row that is to be kept before anything else, where it is not yet.
    fn unkept(&self) -> Option<Vec<u8>> {
        let new = self.differences.iter().any(|found| !self.kept.contains(&found.code));
        new.then(|| kept::encode(&self.differences, &self.lag))
    }

    fn shown(&self, now_ms: u64) -> serde_json::Value {
        let differences: Vec<_> = self.differences.iter().map(ToString::to_string).collect();
        let said = self.said.as_ref();
        json!({
            "seen_ms_ago": self.seen_ms.map(|at| now_ms.saturating_sub(at)),
            "unseen_because": self.unseen_because,
            "policy_version": said.map(|said| said.view.version),
            "epoch": said.map(|said| said.epoch),
            "semantics": said.map(|said| said.view.semantics.clone()),
            "denies": said.map(|said| said.denies),
            "differences": differences,
            "decisions_made_again": self.samples.again,
            "decisions_not_shown": self.samples.failed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_differed_goes_on_to_differ_when_it_falls_silent() {
        let difference = |code| Difference {
            code,
            expected: "a".into(),
            found: "b".into(),
        };
        let mut peer = PeerState {
            seen_ms: Some(1_000),
            ..PeerState::default()
        };
        assert_eq!(
            (peer.seen(1_500, 500), peer.seen(1_501, 500)),
            (Seen::Agrees, Seen::Not)
        );
        peer.differences = vec![difference(DriftCode::Policy)];
        for now_ms in [1_500, 1_501, u64::MAX] {
            assert_eq!(peer.seen(now_ms, 500), Seen::Differs);
        }
        assert!(peer.unkept().is_some());
        let begun = PeerState::begin(peer.differences, Lag::default());
        assert_eq!((begun.seen(0, 0), begun.unkept()), (Seen::Differs, None));
        let wrong = PeerState::begin(vec![difference(DriftCode::Decision)], Lag::default());
        assert!(
            wrong.samples.difference().is_some(),
            "it takes as many right ones as before"
        );
    }
}
