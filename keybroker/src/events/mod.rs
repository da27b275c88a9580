//! Security events: what a detector that signed policy names reports about a node or a workload (RFC 8417, pushed by
//! RFC 8935 with the event types of CAEP).
//!
//! What is authentic, fresh, for this broker and within the detector's reach takes effect at once, and once; then one
//! statement says so, with the token itself as what it rests on. A detector only ever takes away.

mod effect;
mod json;
mod token;

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::{Kind, Outcome, Reason};
use touchstone_policies::PolicySet;
use touchstone_store::{Guard, Key, RowFault, Versioned, Write};
use touchstone_verifier::inventory::Lookup;

use crate::app::App;
use crate::clock::seconds;
use crate::decision::DenialCode;
use crate::entry::EntryError;
use crate::hello::internal;
use crate::holds::{self, Maker, Over};
use crate::problem::{Refusal, RefusalCode};
use crate::rows;
use crate::service::entry;
use crate::trust::Mark;
use crate::withdraw::{Cause, Taking, held_by, take};

pub use effect::Effect;
pub use token::{MAX_AGE_S, MAX_AHEAD_S, MAX_EVENTS, MAX_SET_BYTES, SecurityEvent, SetCode, SetError, judge};

/// Label, among the inputs of a statement, of the token that it follows from.
pub const EVENT: &str = "event";
/// Rows of tokens that are too old to be taken again, forgotten with another one.
const FORGOTTEN_AT_ONCE: usize = 64;
/// How long after its end a token is remembered, in seconds: more than any clock of a broker may differ.
const REMEMBERED_S: i64 = 600;
const MINUTE_MS: u64 = 60_000;

/// How often detectors have reported within the minute, and whose turn it is.
#[derive(Debug, Default)]
pub struct Reports {
    turn: tokio::sync::Mutex<HashMap<String, (u64, u32)>>,
}

/// Why a token was not taken.
#[derive(Debug)]
pub enum EventError {
    /// The token.
    Set(SetError),
    /// Its detector reports too often; after how many seconds it may again.
    TooOften(u64),
    /// The broker: the transmitter tries again.
    Broker(Refusal),
}

impl From<SetError> for EventError {
    fn from(error: SetError) -> Self {
        Self::Set(error)
    }
}

impl From<Refusal> for EventError {
    fn from(refusal: Refusal) -> Self {
        Self::Broker(refusal)
    }
}

/// What came of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// This was done, and is on record.
    Done(Effect),
    /// It was taken before: nothing was done again.
    Before,
}

/// Takes a token: judges it, does what follows, records it. Runs to its end also when the transmitter has gone.
///
/// # Errors
/// [`EventError`]. Where it is the broker that failed, what went out stays out.
pub async fn accept(app: &Arc<App>, bytes: &[u8]) -> Result<Accepted, EventError> {
    let policy = app.policy();
    let now_ms = app.clock.now_ms();
    let event = judge(&policy.detectors, bytes, seconds(now_ms))?;
    covered(&policy, &event)?;
    // One at a time: what counts once is looked up and then done.
    let mut turn = app.reports.turn.lock().await;
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let row = rows::EVENT.key(&called(&event)).map_err(internal)?;
    if let Some(before) = app.store.get(&row).map_err(internal)? {
        let another = || SetError::new(SetCode::InvalidRequest, "jti: another token was called so before");
        let known = Known::decode(&before.value).filter(|known| known.digest == digest);
        let known = known.ok_or_else(another)?;
        if let Some(effect) = known.unstated {
            // It took effect, and then the broker ended: its own statement is all that is missing. Under which epoch says the
            // statement of what was done.
            let row = (row.clone(), Guard::Unchanged(row, before.revision));
            record(app, &event, (bytes, digest), row, (effect, None)).await?;
        }
        return Ok(Accepted::Before);
    }
    meter(&mut turn, &event, now_ms)?;
    let (effect, epoch) = carry_out(app, &event, digest, &row).await?;
    let row = match app.store.get(&row).map_err(internal)? {
        Some(known) => (row.clone(), Guard::Unchanged(row, known.revision)),
        None => (row.clone(), Guard::Absent(row)),
    };
    record(app, &event, (bytes, digest), row, (effect, epoch)).await?;
    tracing::info!(
        target: "touchstone::event",
        event = "security_event",
        detector = event.name,
        node = event.subject.as_deref().unwrap_or_default(),
        effect = effect.as_str(),
        at_ms = now_ms
    );
    Ok(Accepted::Done(effect))
}

/// What is known of a token that was taken, as its row says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// Until when it could come again, Unix seconds.
    until: u64,
    /// SHA-256 of the token.
    digest: [u8; 32],
    /// What was done, until the token's own statement is on record.
    unstated: Option<Effect>,
}

impl Known {
    fn of(event: &SecurityEvent<'_>, digest: [u8; 32]) -> Self {
        // Until it is too old to be taken whatever clock says so; then nobody has to remember it.
        let until = event.issued_at.saturating_add(MAX_AGE_S).saturating_add(REMEMBERED_S);
        Self {
            until: u64::try_from(until).unwrap_or(0),
            digest,
            unstated: None,
        }
    }

    /// Its row.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = [self.until.to_be_bytes().as_slice(), &self.digest].concat();
        if let Some(effect) = self.unstated {
            bytes.push(effect as u8);
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (until, rest) = bytes.split_first_chunk::<8>()?;
        let (digest, rest) = rest.split_first_chunk::<32>()?;
        let unstated = match rest {
            [] => None,
            [effect] => {
                let all = [Effect::Nothing, Effect::Quarantine, Effect::Revoke];
                Some(all.into_iter().find(|known| *known as u8 == *effect)?)
            }
            _ => return None,
        };
        Some(Self {
            until: u64::from_be_bytes(*until),
            digest: *digest,
            unstated,
        })
    }
}

/// Whether its detector may report this subject. Nobody learns by this who is listed and who is not.
fn covered(policy: &PolicySet, event: &SecurityEvent<'_>) -> Result<(), SetError> {
    let Some(subject) = event.subject.as_deref() else {
        return Ok(());
    };
    match policy.inventory.by_name(node_of(subject)) {
        Lookup::Node(node) if event.detector.covers(node) => Ok(()),
        _ => Err(SetError::new(
            SetCode::AccessDenied,
            "signed policy does not let this issuer report this subject",
        )),
    }
}

/// The node of a subject: itself, or the one that a workload is on.
fn node_of(subject: &str) -> &str {
    subject.split_once('@').map_or(subject, |(_, node)| node)
}

/// What a token is called: its issuer and `jti`.
fn called(event: &SecurityEvent<'_>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in [event.detector.issuer.as_str(), event.jti.as_str()] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Counts a report; more than policy allows in a minute are not taken.
fn meter(reports: &mut HashMap<String, (u64, u32)>, event: &SecurityEvent<'_>, now_ms: u64) -> Result<(), EventError> {
    reports.retain(|_, (since_ms, _)| now_ms.saturating_sub(*since_ms) < MINUTE_MS);
    let (since_ms, count) = reports.entry(event.name.to_owned()).or_insert((now_ms, 0));
    if *count >= event.detector.most_per_minute {
        let left_ms = MINUTE_MS.saturating_sub(now_ms.saturating_sub(*since_ms));
        return Err(EventError::TooOften(left_ms.div_ceil(1_000).max(1)));
    }
    *count += 1;
    Ok(())
}

/// Does what the event asks for, as far as policy lets its detector go. Gives what was done, and under which epoch. That the
/// token has been taken is written in the commit that records what it did: whatever fails afterwards, it does nothing twice.
async fn carry_out(
    app: &App,
    event: &SecurityEvent<'_>,
    digest: [u8; 32],
    row: &Key,
) -> Result<(Effect, Option<u64>), Refusal> {
    let effect = event.asks.capped(event.detector.reach);
    let (Some(subject), true) = (event.subject.as_deref(), effect > Effect::Nothing) else {
        return Ok((Effect::Nothing, None));
    };
    let mut taking = {
        let reason = Reason {
            code: DenialCode::SecurityEvent.as_str().into(),
            claim: subject.to_owned(),
            expected: "nothing reported".into(),
            found: format!("{} reported {}", event.name, event.types.join(", ")),
        };
        let kind = match effect {
            Effect::Quarantine => Kind::Quarantine,
            _ => Kind::Revocation,
        };
        let mut cause = Cause::new(kind, Some(subject), reason);
        cause.inputs.insert(EVENT.to_owned(), digest);
        let known = Known {
            unstated: Some(effect),
            ..Known::of(event, digest)
        };
        Taking {
            guards: vec![Guard::Absent(row.clone())],
            writes: vec![Write::Put(row.clone(), known.encode())],
            ..Taking::new(cause, Mark::Revoked)
        }
    };
    match node_entry(app, subject) {
        _ if subject.contains('@') => {
            taking.roots = held_by(app, subject);
            taking.named = Some(subject.to_owned());
        }
        Some(status) => taking.nodes.push((subject.to_owned(), status)),
        None => {}
    }
    if effect == Effect::Revoke && taking.nodes.is_empty() && taking.roots.is_empty() {
        // It holds nothing that could be withdrawn; what is suspended gets nothing new either.
        return Ok((Effect::Nothing, None));
    }
    if effect == Effect::Revoke {
        let taken = take(app, taking).await?;
        return Ok((effect, Some(taken.epoch)));
    }
    let policy = app.policy();
    let node = match policy.inventory.by_name(node_of(subject)) {
        Lookup::Node(node) => Some(node),
        _ => None,
    };
    if app.holds.against(subject, node).is_some() {
        // It is suspended already; another hold would only have to be lifted as well.
        return Ok((Effect::Nothing, None));
    }
    let why = format!("{} reported {}", event.name, event.types.join(", "));
    let by = Maker::Detector(event.name.to_owned());
    let taken = holds::hold_by(app, by, Over::Subject(subject.to_owned()), &why, taking).await?;
    Ok((effect, Some(taken.epoch)))
}

/// The entry that a node holds.
fn node_entry(app: &App, subject: &str) -> Option<StatusIndex> {
    let (record, _) = crate::nodes::by_name(&*app.store, subject).ok()??;
    (!record.withdrawn).then_some(record.status)
}

/// The statement. Body: 0 the detector, 1 its issuer, 2 `jti`, 3 the types of the events, 4 what was done, 5 `iat`, Unix
/// seconds, 6 the epoch it went out under, or null: nothing went out, or the broker ended before it could be said here. The
/// input [`EVENT`] is SHA-256 of the token, which is kept as a part.
async fn record(
    app: &App,
    event: &SecurityEvent<'_>,
    (bytes, digest): (&[u8], [u8; 32]),
    (row, guard): (Key, Guard),
    (effect, epoch): (Effect, Option<u64>),
) -> Result<(), Refusal> {
    let body = Value::map([
        (0, Value::text(event.name)),
        (1, Value::text(event.detector.issuer.as_str())),
        (2, Value::text(event.jti.as_str())),
        (3, Value::array(event.types.iter().map(|uri| Value::text(uri.as_str())))),
        (4, Value::text(effect.as_str())),
        (5, Value::int(event.issued_at)),
        (6, epoch.map_or(Value::Null, Value::Unsigned)),
    ]);
    let now_ms = app.clock.now_ms();
    let mut statement = app
        .circumstances(now_ms)
        .statement(Kind::SecurityEvent, Outcome::Recorded, body);
    statement.subject.clone_from(&event.subject);
    statement.inputs.insert(EVENT.to_owned(), digest);
    let mut entry = entry(app, &statement).map_err(internal)?;
    entry.writes = forgotten(app, seconds(now_ms))?;
    // Its own row may be among those that are over.
    entry.writes.retain(|write| *write.key() != row);
    entry.writes.push(Write::Put(row, Known::of(event, digest).encode()));
    entry.guards = vec![guard];
    entry.parts = vec![(digest, bytes.to_vec())];
    match app.sequencer.record(entry).await {
        Ok(_) => Ok(()),
        Err(EntryError::Busy { .. }) => Err(Refusal::new(RefusalCode::BrokerBusy, "too many decisions are waiting")),
        Err(error) => Err(Refusal::new(RefusalCode::BrokerStopping, error.to_string())),
    }
}

/// Rows of tokens that are not taken any more, whoever shows them again.
fn forgotten(app: &App, now: i64) -> Result<Vec<Write>, Refusal> {
    let rows = app.store.range(&rows::EVENT.prefix(), None, FORGOTTEN_AT_ONCE);
    let over = |(key, row): (Key, Result<Versioned, RowFault>)| {
        let until = u64::from_be_bytes(*row.ok()?.value.first_chunk::<8>()?);
        (until < u64::try_from(now).ok()?).then_some(Write::Delete(key))
    };
    Ok(rows.map_err(internal)?.into_iter().filter_map(over).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_tokens_come_back_as_written_and_others_are_of_no_token() {
        for unstated in [
            None,
            Some(Effect::Nothing),
            Some(Effect::Quarantine),
            Some(Effect::Revoke),
        ] {
            let known = Known {
                until: 7,
                digest: [1; 32],
                unstated,
            };
            let bytes = known.encode();
            assert_eq!(Known::decode(&bytes), Some(known));
            for cut in 0..40 {
                assert_eq!(Known::decode(&bytes[..cut]), None, "cut at {cut}");
            }
            assert_eq!(Known::decode(&[&bytes[..40], &[9]].concat()), None);
        }
    }
}
