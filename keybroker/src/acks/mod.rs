//! Which trust state each enforcer enforces: acknowledgements, who is behind, and the statement that closes a revocation.
//!
//! Only enforcers that signed policy lists are waited for, and only by what they have signed: a name on a stream proves
//! nothing. One counts as following for [`FOLLOWS_MS`] after what it signed last; where it is cut off, its own window has
//! ended long before, and the closure says that it was not heard of.
//!
//! What was heard lives in memory. A broker that starts anew takes it that all whom policy lists followed until then: each is
//! waited for until it has spoken or [`FOLLOWS_MS`] have passed. What was open when the one before ended is closed under the
//! epoch that this one begins with.

pub mod closure;
mod listed;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value as Json, json};
use tokio::sync::Notify;
use touchstone_policies::PolicySet;

use crate::problem::Refusal;

use self::closure::{Closures, Heard};
pub(crate) use self::listed::Listed;
use self::listed::not_accepted;
pub use self::record::{MAX_UNRECORDED, close};

/// For how long an enforcer counts as following after what it signed last, in milliseconds. It says where it is whenever
/// that changes, and every two minutes.
pub const FOLLOWS_MS: u64 = 300_000;

/// Most enforcers shown one by one of each sort.
pub const MAX_SHOWN: usize = 64;

/// What an enforcer signed last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    generation: u32,
    epoch: u64,
    /// When it first said that it enforces this epoch, in the domain's time.
    since_ms: u64,
    /// When it last said so.
    last_ms: u64,
    /// When that came here.
    received_ms: u64,
    refused: u64,
    bytes: Bytes,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<String, Row>,
    closures: Closures,
    /// When this broker began, where one was before it: until then all may have followed.
    began_ms: Option<u64>,
    /// Names on open streams, and on how many.
    streams: BTreeMap<String, u32>,
}

/// Which trust state each enforcer enforces.
#[derive(Debug, Default)]
pub struct Acks {
    state: Mutex<State>,
    listed: Listed,
    heard: Notify,
}

/// A name on an open stream, until it is dropped.
#[derive(Debug)]
pub struct OnStream {
    acks: Arc<Acks>,
    name: String,
}

impl Drop for OnStream {
    fn drop(&mut self) {
        let mut state = self.acks.lock();
        if let Some(count) = state.streams.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                state.streams.remove(&self.name);
            }
        }
    }
}

/// One enforcer, as it is shown.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: &'a str,
    /// acknowledged, behind, silent or never.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enforced_since_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heard_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<u64>,
    streams: u32,
}

impl Acks {
    /// This broker goes on at `epoch` for one that was before it. Whoever followed that one is waited for, and what it had
    /// taken away and not closed is closed with this epoch: it holds all of that.
    pub fn go_on(&self, epoch: u64, policy: &PolicySet, now_ms: u64) {
        let mut state = self.lock();
        state.began_ms = Some(now_ms);
        if !policy.enforcers.is_empty() {
            let follow = Self::following(&state, policy, now_ms);
            state.closures.open(epoch, now_ms, follow);
        }
        drop(state);
        self.heard.notify_one();
    }

    /// Notes a name on a stream, for as long as what this gives lives. It is shown and proves nothing.
    #[must_use]
    pub fn on_stream(self: &Arc<Self>, name: &str) -> OnStream {
        *self.lock().streams.entry(name.to_owned()).or_default() += 1;
        OnStream {
            acks: Arc::clone(self),
            name: name.to_owned(),
        }
    }

    /// Takes an acknowledgement. `at` is the (generation, epoch) of this broker's trust state. One that says nothing newer
    /// than what is held changes nothing.
    ///
    /// # Errors
    /// [`RefusalCode::AckNotAccepted`](crate::problem::RefusalCode::AckNotAccepted), with what was found: not of an enforcer that policy lists, of another domain, of a
    /// trust state that was never made, or from the future.
    pub fn take(&self, bytes: Bytes, policy: &PolicySet, at: (u32, u64), now_ms: u64) -> Result<(), Refusal> {
        let ack = self.listed.verify(&bytes, policy)?;
        let (generation, epoch) = at;
        if (ack.generation, ack.epoch) > (generation, epoch) {
            let found = format!("({}, {})", ack.generation, ack.epoch);
            return Err(not_accepted(
                "ack-ahead",
                format!("at most ({generation}, {epoch})"),
                found,
            ));
        }
        let latest_ms = now_ms.saturating_add(policy.settings.timers.skew_ms);
        if ack.enforced_at_ms > latest_ms {
            let found = ack.enforced_at_ms.to_string();
            return Err(not_accepted("ack-future", format!("at most {latest_ms} ms"), found));
        }
        let mut state = self.lock();
        let held = state.rows.get(&ack.enforcer);
        let place = |row: &Row| (row.generation, row.epoch, row.last_ms);
        let found = (ack.generation, ack.epoch, ack.enforced_at_ms);
        if held.is_some_and(|held| place(held) >= found) {
            return Ok(());
        }
        let same = held.filter(|held| (held.generation, held.epoch) == (ack.generation, ack.epoch));
        let since_ms = same.map_or(ack.enforced_at_ms, |held| held.since_ms);
        // Said again, it may have stopped more meanwhile; what it stopped for the epoch is what it says last.
        let row = Row {
            generation: ack.generation,
            epoch: ack.epoch,
            since_ms,
            last_ms: ack.enforced_at_ms,
            received_ms: now_ms,
            refused: ack.refused,
            bytes,
        };
        state.rows.insert(ack.enforcer.clone(), row);
        if ack.generation == generation {
            let heard = Heard {
                received_ms: now_ms,
                enforced_at_ms: ack.enforced_at_ms,
                refused: ack.refused,
            };
            state.closures.heard(&ack.enforcer, ack.epoch, heard);
        }
        drop(state);
        self.heard.notify_one();
        Ok(())
    }

    /// How enforcers stand: those that are behind one by one, and those that are not listed.
    #[must_use]
    pub fn shown(&self, policy: &PolicySet, at: (u32, u64), now_ms: u64) -> Json {
        let state = self.lock();
        let mut counts = BTreeMap::from([("acknowledged", 0u64), ("behind", 0), ("silent", 0), ("never", 0)]);
        let mut rows = Vec::new();
        for (name, listed) in policy.enforcers.iter() {
            let row = state.rows.get(name);
            let standing = standing(row, at, now_ms);
            *counts.entry(standing).or_default() += 1;
            if standing != "acknowledged" && rows.len() < MAX_SHOWN {
                rows.push(Shown {
                    name,
                    state: standing,
                    region: listed.region.as_deref(),
                    epoch: row.map(|row| row.epoch),
                    enforced_since_ms: row.map(|row| row.since_ms),
                    heard_ms: row.map(|row| row.last_ms),
                    stopped: row.map(|row| row.refused),
                    streams: state.streams.get(name).copied().unwrap_or(0),
                });
            }
        }
        let unlisted = || state.streams.keys().filter(|name| policy.enforcers.get(name).is_none());
        json!({
            "listed": policy.enforcers.len(),
            "acknowledged": counts.get("acknowledged"),
            "behind": counts.get("behind"),
            "silent": counts.get("silent"),
            "never": counts.get("never"),
            "not_acknowledged": rows,
            "unlisted_streams": unlisted().count(),
            "unlisted": unlisted().take(MAX_SHOWN).collect::<Vec<_>>(),
            "revocations_open": state.closures.len(),
        })
    }

    /// Those who are waited for: listed, and heard of lately, or not yet by a broker that began lately.
    fn following(state: &State, policy: &PolicySet, now_ms: u64) -> BTreeSet<String> {
        let lately = |at_ms: u64| now_ms.saturating_sub(at_ms) < FOLLOWS_MS;
        let follows = |name: &str| match state.rows.get(name) {
            Some(row) => lately(row.last_ms),
            None => state.began_ms.is_some_and(lately),
        };
        let listed = policy.enforcers.iter().map(|(name, _)| name);
        listed.filter(|name| follows(name)).map(str::to_owned).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// acknowledged: it enforces the present epoch. behind: an older one, heard of lately. silent: not heard of. never: no
/// acknowledgement since this broker began.
fn standing(row: Option<&Row>, (generation, epoch): (u32, u64), now_ms: u64) -> &'static str {
    match row {
        None => "never",
        Some(row) if now_ms.saturating_sub(row.last_ms) >= FOLLOWS_MS => "silent",
        Some(row) if (row.generation, row.epoch) == (generation, epoch) => "acknowledged",
        Some(_) => "behind",
    }
}
