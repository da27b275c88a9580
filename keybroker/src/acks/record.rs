//! The statement that closes a revocation.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use touchstone_cose::cbor::{Value, encode};
use touchstone_ledger::statement::{Kind, Outcome, Statement};

use super::closure::{Closure, Heard};
use super::{Acks, State};
use crate::app::App;
use crate::entry::EntryError;
use crate::service::entry;

/// Most of those behind that a statement names; it says how many there are besides.
pub const MAX_NAMED: usize = 256;

/// Most bytes of acknowledgements kept with a statement, as a part that it names. Where there are more, as with ten thousand
/// enforcers, it has their count alone.
pub const MAX_KEPT_BYTES: usize = 1 << 20;

/// Label, among the inputs of a statement, of the acknowledgements it rests on: a CBOR array of them, by enforcer.
pub const ACKNOWLEDGEMENTS: &str = "acknowledgements";

/// Most closures that have ended and wait for the disk; later ones stay open meanwhile, and are put together there.
pub const MAX_UNRECORDED: usize = 32;

/// How long after a failure a closure is recorded again.
const RETRY: Duration = Duration::from_secs(1);

/// Closures that have ended and are not on record yet, oldest first.
#[derive(Default)]
struct Unrecorded {
    waiting: Mutex<VecDeque<Closed>>,
    news: Notify,
    /// There is room again.
    room: Notify,
}

impl Unrecorded {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Closed>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a closure for every withdrawal that goes out, and records those that end, until `stop` is true. A domain whose
/// policy lists no enforcers has none. Neither waits for the other: a busy disk makes no closure late, and loses none.
pub async fn close(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let unrecorded = Unrecorded::default();
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = end(&app, &unrecorded) => {}
        () = write(&app, &unrecorded) => {}
    }
}

/// Opens and ends closures, for ever.
async fn end(app: &App, unrecorded: &Unrecorded) {
    loop {
        let window_ms = app.policy().settings.timers.freshness_window_ms;
        let full = unrecorded.lock().len() >= MAX_UNRECORDED;
        let wait = {
            let next = app.acks.lock().closures.next_deadline_ms(window_ms).filter(|_| !full);
            next.map(|next_ms| Duration::from_millis(next_ms.saturating_sub(app.clock.now_ms())))
        };
        let deadline = async {
            match wait {
                Some(wait) => sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = app.trust.takes() => {}
            () = app.acks.heard.notified() => {}
            () = unrecorded.room.notified() => {}
            () = deadline => {}
        }
        let mut waiting = unrecorded.lock();
        let closed = turn(app, waiting.len() < MAX_UNRECORDED);
        waiting.extend(closed);
        drop(waiting);
        unrecorded.news.notify_one();
    }
}

/// Records what has ended, in its order, each until it is on record, for ever.
async fn write(app: &App, unrecorded: &Unrecorded) {
    loop {
        let Some(closed) = unrecorded.lock().pop_front() else {
            unrecorded.news.notified().await;
            continue;
        };
        unrecorded.room.notify_one();
        event(app, &closed.closure);
        loop {
            match record(app, &closed).await {
                Ok(()) => break,
                // The same bytes would be refused for ever, and hold up those after them.
                Err(Unwritten::Never(error)) => {
                    tracing::error!(error, "a closure cannot be recorded");
                    break;
                }
                Err(Unwritten::Yet(error)) => {
                    tracing::error!(error, "a closure could not be recorded; it is tried again");
                    sleep(RETRY).await;
                }
            }
        }
    }
}

/// A closure that has ended, with what it rests on.
struct Closed {
    closure: Closure,
    /// The acknowledgements of those who had acknowledged, as they are now.
    /// None where they are too many to be kept.
    acks: Vec<Bytes>,
    /// Of those behind: what they acknowledged last.
    last: Vec<(String, u64)>,
}

/// What has been taken away is opened, and where there is `room` what has ended is taken out.
fn turn(app: &App, room: bool) -> Vec<Closed> {
    let (policy, now_ms) = (app.policy(), app.clock.now_ms());
    let mut state = app.acks.lock();
    for (epoch, at_ms) in app.trust.taken() {
        if !policy.enforcers.is_empty() {
            let follow = Acks::following(&state, &policy, now_ms);
            state.closures.open(epoch, at_ms, follow);
            // Who was faster than this look is not waited for.
            already(&mut state, app.trust.generation(), epoch);
        }
    }
    if !room {
        return Vec::new();
    }
    let closed = state.closures.close(now_ms, policy.settings.timers.freshness_window_ms);
    closed.into_iter().map(|closure| with_rows(&state, closure)).collect()
}

/// Enters what was acknowledged between the withdrawal and the opening of its closure.
fn already(state: &mut State, generation: u32, epoch: u64) {
    let State { rows, closures, .. } = state;
    for (name, row) in rows.iter() {
        if row.generation == generation && row.epoch >= epoch {
            let heard = Heard {
                received_ms: row.received_ms,
                enforced_at_ms: row.since_ms,
                refused: row.refused,
            };
            closures.heard(name, row.epoch, heard);
        }
    }
}

fn with_rows(state: &State, closure: Closure) -> Closed {
    let row = |name: &str| state.rows.get(name);
    let heard = closure.waits.iter().filter(|(_, heard)| heard.is_some());
    let acks: Vec<Bytes> = heard.filter_map(|(name, _)| Some(row(name)?.bytes.clone())).collect();
    let kept = acks.iter().map(Bytes::len).sum::<usize>() <= MAX_KEPT_BYTES;
    let last = closure.behind().take(MAX_NAMED);
    let last = last
        .map(|name| (name.to_owned(), row(name).map_or(0, |row| row.epoch)))
        .collect();
    Closed {
        acks: if kept { acks } else { Vec::new() },
        closure,
        last,
    }
}

fn event(app: &App, closure: &Closure) {
    tracing::info!(
        target: "touchstone::event",
        event = "revocation-closed",
        from_epoch = closure.from_epoch,
        to_epoch = closure.to_epoch,
        waited_for = closure.waits.len(),
        behind = closure.behind().count(),
        longest_ms = closure.longest_ms(),
        at_ms = app.clock.now_ms()
    );
}

/// Why a closure is not on record.
enum Unwritten {
    /// It may be at another time.
    Yet(String),
    /// It never will be.
    Never(String),
}

async fn record(app: &App, closed: &Closed) -> Result<(), Unwritten> {
    let (statement, parts) = statement(app, closed, app.clock.now_ms());
    let mut entry = entry(app, &statement).map_err(|error| Unwritten::Never(error.to_string()))?;
    entry.parts = parts;
    match app.sequencer.record(entry).await {
        Ok(_) => Ok(()),
        Err(error @ EntryError::Unstorable { .. }) => Err(Unwritten::Never(error.to_string())),
        Err(error) => Err(Unwritten::Yet(error.to_string())),
    }
}

/// Body: 0 first and last epoch, 1 when the first and the last went out, Unix milliseconds, 2 how many enforcers were waited
/// for, 3 how many acknowledged, 4 milliseconds between going out and the last acknowledgement, or null, 5 how many those
/// stopped, 6 how many are behind, 7 the first of these: rows of name and the epoch it acknowledged last, 8 when this was
/// closed, Unix milliseconds.
fn statement(app: &App, closed: &Closed, now_ms: u64) -> (Statement, Vec<crate::inputs::Part>) {
    let Closed { closure, acks, last } = closed;
    let behind = closure.behind().count();
    let rows = last
        .iter()
        .map(|(name, epoch)| Value::array([Value::text(name.as_str()), Value::Unsigned(*epoch)]));
    let number = |n: usize| Value::Unsigned(n as u64);
    let body = Value::map([
        (
            0,
            Value::array([closure.from_epoch, closure.to_epoch].map(Value::Unsigned)),
        ),
        (
            1,
            Value::array([closure.first_ms, closure.last_ms].map(Value::Unsigned)),
        ),
        (2, number(closure.waits.len())),
        (3, number(closure.waits.len() - behind)),
        (4, closure.longest_ms().map_or(Value::Null, Value::Unsigned)),
        (5, Value::Unsigned(closure.stopped())),
        (6, number(behind)),
        (7, Value::array(rows)),
        (8, Value::Unsigned(now_ms)),
    ]);
    let mut statement = app
        .circumstances(now_ms)
        .statement(Kind::RevocationClosure, Outcome::Recorded, body);
    let mut parts = Vec::new();
    if !acks.is_empty() {
        let bytes = encode(&Value::array(acks.iter().map(|ack| Value::bytes(ack.as_ref()))));
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        statement.inputs.insert(ACKNOWLEDGEMENTS.to_owned(), digest);
        parts.push((digest, bytes));
    }
    (statement, parts)
}
