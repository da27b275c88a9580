//! The rounds: each peer is asked again and again, on a task of its own, bounded in time and bytes.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use touchstone_authorization::TrustedKey;
use touchstone_client::{BrokerClient, Endpoint, pinned_config};
use touchstone_cose::cbor::Value;
use touchstone_cose::key::VerifyingKey;
use touchstone_ledger::statement::{Kind, Outcome, Reason};
use touchstone_policies::{Job, PolicySet};
use touchstone_store::{Batch, Write};

use super::compare::{Difference, View, differences, grace_ms};
use super::config::Peer;
use super::report::{EXPORTER, MAX_REPORT_BYTES, Report, Request, Wanted};
use super::sample::{self, MAX_RECORD_BYTES, Sampled};
use super::{DriftCode, Recorded, Standing, kept};
use crate::app::App;
use crate::clock::seconds;
use crate::decision::SEMANTICS_ID;
use crate::service::entry;
use crate::session::random;

/// Rounds in a freshness window: a report that counts for a window outlives a round that fails.
pub const ROUNDS_IN_WINDOW: u64 = 4;
/// The shortest time between two rounds, in milliseconds.
pub const SHORTEST_PERIOD_MS: u64 = 100;
/// The longest.
pub const LONGEST_PERIOD_MS: u64 = 1_000;
/// A peer that does not answer in this time is not seen in this round.
pub const ANSWER: Duration = Duration::from_secs(5);
/// Decisions made again at the same time.
pub const REPLAYS: usize = 2;
/// The shortest time between two statements about one peer, in milliseconds. It doubles with each that follows soon, so
/// that a peer which comes and goes fills no ledger.
pub const STATEMENT_GAP_MS: u64 = 10_000;
/// The longest it grows to; after as long without one it is short again.
pub const LONGEST_STATEMENT_GAP_MS: u64 = 3_600_000;

static REPLAYING: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(REPLAYS));

/// The route of both requests.
pub(super) const ROUTE: &str = "/v1/drift";

/// What came of one round with a peer that was seen.
struct Round {
    report: Report,
    signed: Vec<u8>,
    /// The policy it is compared with: what was in force when the answer came.
    policy: Arc<PolicySet>,
    sampled: Sampled,
}

/// Compares with every peer, until `stop` is true.
pub async fn watch(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut peers = JoinSet::new();
    for peer in app.drift.peers().to_vec() {
        let app = Arc::clone(&app);
        peers.spawn(async move { follow(&app, &peer).await });
    }
    // Dropped at the end, which ends the tasks.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn follow(app: &Arc<App>, peer: &Peer) {
    let mut client: Option<(u64, BrokerClient)> = None;
    loop {
        let outcome = round(app, peer, &mut client).await;
        // A connection on which an answer is still to come is not used again.
        if !matches!(&outcome, Ok(round) if !matches!(round.sampled, Sampled::Failed(_))) {
            client = None;
        }
        settle(app, peer, outcome).await;
        let window_ms = app.policy().settings.timers.freshness_window_ms;
        let period = (window_ms / ROUNDS_IN_WINDOW).clamp(SHORTEST_PERIOD_MS, LONGEST_PERIOD_MS);
        tokio::time::sleep(Duration::from_millis(period)).await;
    }
}

async fn round(app: &Arc<App>, peer: &Peer, client: &mut Option<(u64, BrokerClient)>) -> Result<Round, String> {
    let policy = app.policy();
    // Its keys may have changed with the keyset.
    if client
        .as_ref()
        .is_none_or(|(version, _)| *version != policy.keyset.version)
    {
        *client = Some((policy.keyset.version, connect(peer, &policy)?));
    }
    let (_, client) = client.as_mut().ok_or("no client")?;
    let silent = || format!("no answer in {} ms", ANSWER.as_millis());
    let asked = timeout(ANSWER, ask(app, client, &policy.domain, Wanted::Report));
    let (nonce, signed) = asked.await.map_err(|_| silent())??;
    if signed.len() > MAX_REPORT_BYTES {
        return Err(format!("a report of {} bytes", signed.len()));
    }
    let now = seconds(app.clock.now_ms());
    let report = Report::verify(&signed, &policy.keyset, &peer.replica, (&policy.domain, &nonce), now)
        .map_err(|e| e.to_string())?;
    let policy = app.policy();
    let comparable = report.view.digest == policy.digest && report.view.semantics == SEMANTICS_ID;
    let sampled = if comparable {
        let fetched = timeout(ANSWER, fetch(app, client, peer, &report, &policy)).await;
        match fetched.map_err(|_| silent()).and_then(|fetched| fetched) {
            Ok(Some((chosen, record))) => again(chosen, record, Arc::clone(&policy)).await,
            Ok(None) => Sampled::Nothing,
            Err(because) => Sampled::Failed(because),
        }
    } else {
        Sampled::Nothing
    };
    Ok(Round {
        report,
        signed,
        policy,
        sampled,
    })
}

/// A client that believes this replica's TLS keys and no others.
fn connect(peer: &Peer, policy: &PolicySet) -> Result<BrokerClient, String> {
    let keys = policy.keyset.keys.iter();
    let keys = keys.filter(|entry| entry.job == Job::Tls && entry.replica == peer.replica);
    let pins: Vec<TrustedKey> = keys
        .map(|entry| TrustedKey {
            key: entry.key.clone(),
            not_before: entry.not_before,
            not_after: entry.not_after,
        })
        .collect();
    if pins.is_empty() {
        return Err(format!("the signed keyset has no TLS key of {}", peer.replica));
    }
    let tls = pinned_config(&pins).map_err(|e| e.to_string())?;
    let endpoint = Endpoint::parse(&peer.url).map_err(|e| e.to_string())?;
    Ok(BrokerClient::new(vec![endpoint], tls))
}

/// Asks over the connection that the request names; gives the nonce and the answer.
async fn ask(
    app: &App,
    client: &mut BrokerClient,
    domain: &str,
    wanted: Wanted,
) -> Result<([u8; 32], Vec<u8>), String> {
    client.connect().await.map_err(|e| e.to_string())?;
    let nonce = random().map_err(|e| e.to_string())?;
    let request = Request {
        domain: domain.to_owned(),
        nonce,
        exporter: client.export(EXPORTER, &nonce).map_err(|e| e.to_string())?,
        wanted,
    };
    let request = request.sign(&*app.keys.trust_state).map_err(|e| e.to_string())?;
    match client.post_here(ROUTE, request).await.map_err(|e| e.to_string())? {
        (200, body) => Ok((nonce, body)),
        (status, body) => {
            let said = serde_json::from_slice::<serde_json::Value>(&body).ok();
            let code = said.as_ref().and_then(|said| said.get("code")?.as_str());
            Err(format!("refused: {status} {}", code.unwrap_or_default().escape_debug()))
        }
    }
}

async fn fetch(
    app: &App,
    client: &mut BrokerClient,
    peer: &Peer,
    report: &Report,
    policy: &PolicySet,
) -> Result<Option<(sample::Chosen, Vec<u8>)>, String> {
    let keys = policy.keyset.keys.iter();
    let keys = keys.filter(|entry| entry.job == Job::Statement && entry.replica == peer.replica);
    let keys: Vec<VerifyingKey> = keys.map(|entry| entry.key.clone()).collect();
    let at = u64::from_be_bytes(random().map_err(|e| e.to_string())?);
    let Some(chosen) = sample::choose(client, report, policy, &keys, at).await? else {
        return Ok(None);
    };
    let (_, record) = ask(app, client, &policy.domain, Wanted::Record(chosen.index)).await?;
    if record.len() > MAX_RECORD_BYTES {
        return Err(format!("a record of {} bytes", record.len()));
    }
    Ok(Some((chosen, record)))
}

async fn again(chosen: sample::Chosen, record: Vec<u8>, policy: Arc<PolicySet>) -> Sampled {
    let Ok(_turn) = REPLAYING.acquire().await else {
        return Sampled::Nothing;
    };
    let replaying = tokio::task::spawn_blocking(move || sample::replay(&chosen, &record, &policy));
    replaying.await.unwrap_or_else(|e| Sampled::Failed(e.to_string()))
}

/// Takes note of a round: who differs, which side this broker is on, what is to be recorded.
async fn settle(app: &App, peer: &Peer, outcome: Result<Round, String>) {
    let now_ms = app.clock.now_ms();
    let signed = outcome.as_ref().ok().map(|round| round.signed.clone());
    let (before, after, unkept, due) = {
        let mut state = app.drift.lock();
        let policy = match &outcome {
            Ok(round) => Arc::clone(&round.policy),
            Err(_) => app.policy(),
        };
        let timers = &policy.settings.timers;
        let window_ms = timers.freshness_window_ms;
        let mut unkept = None;
        if let Some(known) = state.peers.get_mut(&peer.replica) {
            match outcome {
                Ok(round) => {
                    let own = View::of(&policy, SEMANTICS_ID);
                    let grace = grace_ms(timers);
                    let mut found = differences(&own, &round.report.view, &mut known.lag, now_ms, grace);
                    known.samples.take(round.sampled);
                    found.extend(known.samples.difference().cloned());
                    if round.report.differing.contains(&app.drift.own) {
                        found.push(Difference {
                            code: DriftCode::Said,
                            expected: "to agree".into(),
                            found: format!("{} has found this broker to differ", peer.replica),
                        });
                    }
                    known.differences = found;
                    known.seen_ms = Some(now_ms);
                    known.unseen_because = None;
                    known.said = Some(round.report);
                }
                Err(because) => known.unseen_because = Some(because),
            }
            unkept = known.unkept();
        }
        let before = state.standing;
        let after = state.stands(&app.policy().keyset, now_ms, window_ms);
        state.standing = after;
        // Before anything else is decided.
        app.trust.hold(after.denies);
        (before, after, unkept, due(&state, peer, now_ms))
    };
    if let Some(row) = unkept {
        keep(app, peer, row).await;
    }
    if before.denies != after.denies {
        tell(app, peer, after);
    }
    if let Some((codes, reasons)) = due {
        record(app, peer, after, (codes, reasons), signed, now_ms).await;
    }
}

/// Keeps what differs, so that it still does after a restart. Only the statement that nothing differs any more takes the
/// row away, so that a peer which comes and goes costs no more writes than statements.
async fn keep(app: &App, peer: &Peer, row: Vec<u8>) {
    let key = match kept::key(&peer.replica) {
        Ok(key) => key,
        Err(error) => return tracing::error!(%error, peer = peer.replica, "a difference could not be kept"),
    };
    let store = Arc::clone(&app.store);
    let kept = tokio::task::spawn_blocking(move || {
        let mut batch = Batch::new();
        batch.put(key, row);
        store.commit(batch).map_err(|e| e.to_string())
    });
    match kept.await.map_err(|e| e.to_string()).and_then(|kept| kept) {
        Ok(_) => {
            let mut state = app.drift.lock();
            if let Some(known) = state.peers.get_mut(&peer.replica) {
                let codes = known.differences.iter().map(|found| found.code);
                known.kept.extend(codes);
            }
        }
        // Tried again at the next round.
        Err(detail) => tracing::error!(detail, peer = peer.replica, "a difference could not be kept"),
    }
}

impl Recorded {
    fn then(&self, codes: Vec<DriftCode>, now_ms: u64) -> Self {
        let quiet = now_ms >= self.next_ms.saturating_add(LONGEST_STATEMENT_GAP_MS);
        let gap_ms = match self.gap_ms {
            0 => STATEMENT_GAP_MS,
            _ if quiet => STATEMENT_GAP_MS,
            gap => (gap * 2).min(LONGEST_STATEMENT_GAP_MS),
        };
        Self {
            codes,
            gap_ms,
            next_ms: now_ms.saturating_add(gap_ms),
        }
    }
}

/// The codes and reasons of a statement that is due about this peer.
fn due(state: &super::State, peer: &Peer, now_ms: u64) -> Option<(Vec<DriftCode>, Vec<Reason>)> {
    let known = state.peers.get(&peer.replica)?;
    let codes: Vec<DriftCode> = known.differences.iter().map(|difference| difference.code).collect();
    let ended = codes.is_empty() && !known.kept.is_empty();
    let changed = known.recorded.codes != codes || state.recorded_denies != state.standing.denies || ended;
    if !changed || now_ms < known.recorded.next_ms {
        return None;
    }
    let reasons = known.differences.iter().map(|difference| Reason {
        code: difference.code.as_str().into(),
        claim: format!("broker {}", peer.replica),
        expected: difference.expected.clone(),
        found: difference.found.clone(),
    });
    Some((codes, reasons.collect()))
}

fn tell(app: &App, peer: &Peer, standing: Standing) {
    let Standing { agree, differ, of, .. } = standing;
    let at_ms = app.clock.now_ms();
    if standing.denies {
        tracing::error!(
            target: "touchstone::event", event = "divergence", peer = peer.replica, agree, differ, of, at_ms,
            "this broker differs from the majority, or sees none: it grants nothing until they show that they agree"
        );
    } else {
        tracing::info!(
            target: "touchstone::event", event = "divergence_ended", peer = peer.replica, agree, differ, of, at_ms,
            "this broker is with the majority again"
        );
    }
}

/// Records what differs, or that nothing does any more. Body: 0 the peer, 1 brokers that agree, that differ, of which nothing
/// is known, and all; 2 whether this broker denies; 3 the peer's signed report, or null where it gave none in this round.
async fn record(
    app: &App,
    peer: &Peer,
    standing: Standing,
    (codes, reasons): (Vec<DriftCode>, Vec<Reason>),
    signed: Option<Vec<u8>>,
    now_ms: u64,
) {
    if !codes.is_empty() {
        let words: Vec<_> = reasons
            .iter()
            .map(|reason| format!("{}: {}", reason.code, reason.found))
            .collect();
        tracing::error!(
            target: "touchstone::event", event = "drift", peer = peer.replica, found = words.join("; "), at_ms = now_ms
        );
    }
    let counts = [standing.agree, standing.differ, standing.unseen, standing.of];
    let body = Value::map([
        (0, Value::text(peer.replica.as_str())),
        (1, Value::array(counts.map(|count| Value::Unsigned(count as u64)))),
        (2, Value::Bool(standing.denies)),
        (3, signed.clone().map_or(Value::Null, Value::Bytes)),
    ]);
    let mut statement = app
        .circumstances(now_ms)
        .statement(Kind::Divergence, Outcome::Recorded, body);
    statement.reasons = Reason::bounded(reasons);
    if let Some(signed) = signed {
        statement.inputs.insert("report".into(), Sha256::digest(&signed).into());
    }
    let recorded = match entry(app, &statement) {
        Ok(mut entry) => {
            if codes.is_empty()
                && let Ok(key) = kept::key(&peer.replica)
            {
                entry.writes.push(Write::Delete(key));
            }
            app.sequencer.record(entry).await.map(|_| ()).map_err(|e| e.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    match recorded {
        Ok(()) => {
            let mut state = app.drift.lock();
            state.recorded_denies = standing.denies;
            if let Some(known) = state.peers.get_mut(&peer.replica) {
                if codes.is_empty() {
                    known.kept.clear();
                }
                known.recorded = known.recorded.then(codes, now_ms);
            }
        }
        // Tried again at the next round.
        Err(detail) => tracing::error!(detail, "a divergence could not be recorded"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_comes_and_goes_fills_no_ledger() {
        let (mut recorded, mut statements) = (Recorded::default(), 0);
        let day_ms = 24 * 3_600_000;
        for now_ms in (0..day_ms).step_by(1_000) {
            if now_ms >= recorded.next_ms {
                recorded = recorded.then(vec![DriftCode::Policy], now_ms);
                statements += 1;
            }
        }
        assert!(statements < 40, "{statements} in a day");
        // After a quiet time the next one is soon followed by another again.
        let later = recorded.next_ms + LONGEST_STATEMENT_GAP_MS;
        assert_eq!(recorded.then(Vec::new(), later).next_ms, later + STATEMENT_GAP_MS);
    }
}
