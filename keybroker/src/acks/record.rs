//! The statement that closes a revocation.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::sleep;
use touchstone_cose::cbor::{Value, encode};
use touchstone_ledger::statement::{Kind, Outcome, Statement};

use super::closure::{Closure, Heard};
use super::{Acks, State};
use crate::app::App;
use crate::entry::{Effect, Entry};

/// Most of those behind that a statement names; it says how many there are besides.
pub const MAX_NAMED: usize = 256;

/// Most bytes of acknowledgements kept with a statement, as a part that it names. Where there are more, as with ten thousand
/// enforcers, it has their count alone.
pub const MAX_KEPT_BYTES: usize = 1 << 20;

/// Label, among the inputs of a statement, of the acknowledgements it rests on: a CBOR array of them, by enforcer.
pub const ACKNOWLEDGEMENTS: &str = "acknowledgements";

/// Opens a closure for every withdrawal that goes out, and records those that end, until `stop` is true. A domain whose
/// policy lists no enforcers has none.
pub async fn close(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    loop {
        let window_ms = app.policy().settings.timers.freshness_window_ms;
        let wait = {
            let next = app.acks.lock().closures.next_deadline_ms(window_ms);
            next.map(|next_ms| Duration::from_millis(next_ms.saturating_sub(app.clock.now_ms())))
        };
        let deadline = async {
            match wait {
                Some(wait) => sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = app.trust.takes() => {}
            () = app.acks.heard.notified() => {}
            () = deadline => {}
        }
        for closed in turn(&app) {
            record(&app, &closed).await;
        }
    }
}

/// A closure that has ended, with what it rests on.
struct Closed {
    closure: Closure,
    /// The acknowledgements of those who had acknowledged, as they are now.
    acks: Vec<Vec<u8>>,
    /// Of those behind: what they acknowledged last.
    last: Vec<(String, u64)>,
}

fn turn(app: &App) -> Vec<Closed> {
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
    let acks = heard.filter_map(|(name, _)| Some(row(name)?.bytes.to_vec())).collect();
    let last = closure.behind().take(MAX_NAMED);
    let last = last
        .map(|name| (name.to_owned(), row(name).map_or(0, |row| row.epoch)))
        .collect();
    Closed { closure, acks, last }
}

async fn record(app: &App, closed: &Closed) {
    let now_ms = app.clock.now_ms();
    let (statement, parts) = statement(app, closed, now_ms);
    let behind = closed.closure.behind().count();
    tracing::info!(
        target: "touchstone::event",
        event = "revocation-closed",
        from_epoch = closed.closure.from_epoch,
        to_epoch = closed.closure.to_epoch,
        waited_for = closed.closure.waits.len(),
        behind,
        longest_ms = closed.closure.longest_ms(),
        at_ms = now_ms
    );
    let signed = match statement.sign(&app.keys.statement) {
        Ok(signed) => signed,
        Err(error) => return tracing::error!(%error, "a closure could not be signed"),
    };
    let entry = Entry {
        statement: signed,
        subject: None,
        policy: None,
        guards: Vec::new(),
        writes: Vec::new(),
        parts,
        effect: Effect::None,
    };
    if let Err(error) = app.sequencer.record(entry).await {
        tracing::error!(%error, "a closure could not be recorded");
    }
}

/// Body: 0 first and last epoch, 1 when the first and the last went out, Unix milliseconds, 2 how many enforcers were waited
/// for, 3 how many acknowledged, 4 milliseconds between going out and the last acknowledgement, or null, 5 how many those
/// stopped, 6 how many are behind, 7 the first of these: rows of name and the epoch it acknowledged last, 8 when this was
/// closed, Unix milliseconds.
fn statement(app: &App, closed: &Closed, now_ms: u64) -> (Statement, Vec<crate::inputs::Part>) {
    let Closed { closure, acks, last } = closed;
    let behind = closure.behind().count();
    let stopped: u64 = closure.waits.values().flatten().map(|heard| heard.refused).sum();
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
        (5, Value::Unsigned(stopped)),
        (6, number(behind)),
        (7, Value::array(rows)),
        (8, Value::Unsigned(now_ms)),
    ]);
    let mut statement = app
        .circumstances(now_ms)
        .statement(Kind::RevocationClosure, Outcome::Recorded, body);
    let mut parts = Vec::new();
    if !acks.is_empty() && acks.iter().map(Vec::len).sum::<usize>() <= MAX_KEPT_BYTES {
        let bytes = encode(&Value::array(acks.iter().map(|ack| Value::bytes(ack.as_slice()))));
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        statement.inputs.insert(ACKNOWLEDGEMENTS.to_owned(), digest);
        parts.push((digest, bytes));
    }
    (statement, parts)
}
