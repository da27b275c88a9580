//! Continuous verification: how each node stands, by the schedule that policy gives it, at any moment.
//!
//! A node shows good evidence again and again; one that is silent is stale at its deadline exactly, and after the grace what
//! it holds is withdrawn. Good evidence is the way back, by itself. Every change is an event at once. What time alone has
//! brought, and the way back from it, is a statement soon after; every other change is said by the statement of the evidence,
//! the withdrawal or the command that it follows from. What takes rights away waits for neither. Only what a node said
//! authentically counts here: nobody who merely names it changes how it stands (`docs/protocol.md`, section 4).

mod book;
mod shown;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use touchstone_authorization::Status;
use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::{Kind, Outcome, Reason};
use touchstone_policies::PolicySet;
use touchstone_store::{Store, Write};

use crate::app::App;
use crate::decision::DenialCode;
use crate::rows;
use crate::service::entry;
use crate::trust::Mark;
use crate::withdraw::{Cause, Taking, out};

pub use book::{Change, MAX_ROWS, MAX_WAITING, Note, Place};
pub use shown::{MAX_SHOWN, shown};
pub use state::{Known, Schedule, State};

use book::{Book, Over, read_row, row};

/// How long the recorder waits where the ledger takes nothing at the moment.
const RETRY: Duration = Duration::from_secs(1);
/// Rows read at a time.
const STEP: usize = 1_000;

/// How every node stands.
#[derive(Debug, Default)]
pub struct Standings {
    book: Mutex<Book>,
    /// Something is to be looked at before the time that was planned.
    look: Notify,
    /// Changes wait to be recorded.
    record: Notify,
}

impl Standings {
    /// Takes up what was recorded; `live` are the nodes whose authorization may still count, as good as if they had
    /// attested at `now_ms`. A row that cannot be read is none.
    #[must_use]
    pub fn begin<'a>(
        store: &dyn Store,
        live: impl Iterator<Item = (&'a String, &'a StatusIndex)>,
        now_ms: u64,
    ) -> Self {
        let mut book = Book::default();
        let prefix = rows::STANDING.prefix();
        let mut after = None;
        while let Ok(read) = store.range(&prefix, after.as_ref(), STEP) {
            let Some((last, _)) = read.last() else { break };
            after = Some(last.clone());
            for (key, value) in &read {
                let id = key.as_bytes().strip_prefix(prefix.as_bytes());
                let name = id.and_then(|id| String::from_utf8(id.to_vec()).ok());
                let stood = value.as_ref().ok().and_then(|value| read_row(&value.value));
                match (name, stood) {
                    (Some(name), Some((state @ (State::Stale | State::Unreachable), since_ms))) => {
                        book.enter_late(&name, state, since_ms);
                    }
                    (Some(_), Some(_)) => {}
                    _ => tracing::error!(%key, "how a node stood cannot be read; it counts as never seen"),
                }
            }
        }
        for (name, status) in live {
            book.enter_live(name, now_ms, *status);
        }
        Self {
            book: Mutex::new(book),
            ..Self::default()
        }
    }

    /// Notes something authentic of a node.
    pub fn note(&self, policy: &PolicySet, node: &str, note: Note, now_ms: u64) {
        let schedule = Schedule::of(policy.demands_of(node).timers);
        let (is_due, is_waiting) = {
            let mut book = self.lock();
            (book.note(node, note, schedule, now_ms), book.is_waiting())
        };
        if is_waiting {
            self.record.notify_one();
        }
        if is_due {
            self.look.notify_one();
        }
    }

    /// How a node stands, where anything was ever heard of it.
    #[must_use]
    pub fn of(&self, node: &str) -> Option<State> {
        self.lock().get(node).map(|place| place.state)
    }

    /// Whether this node has missed its deadline: nothing below its authorization is granted or renewed meanwhile.
    #[must_use]
    pub fn is_late(&self, node: &str) -> bool {
        matches!(self.of(node), Some(State::Stale | State::Unreachable))
    }

    /// Rights were taken, lifted or given: they are looked at now.
    pub fn wake(&self) {
        self.look.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Since when this broker takes attestations. A node that was refused because the broker refuses everybody has missed
/// nothing (`docs/protocol.md`, section 4: a refusal is no withdrawal); what it holds ends by itself meanwhile.
#[derive(Debug, Default)]
struct Serving {
    since_ms: Option<u64>,
}

impl Serving {
    /// Takes note of whether it does at `now_ms`; gives since when without a break, or nothing while it does not.
    fn at(&mut self, serves: bool, now_ms: u64) -> Option<u64> {
        self.since_ms = serves.then(|| self.since_ms.unwrap_or(now_ms));
        self.since_ms
    }
}

/// Whether who attests now can be granted anything.
fn serves(app: &App, now_ms: u64) -> bool {
    app.live_policy(now_ms).is_ok() && !app.trust.is_held() && !app.trust.is_stopped()
}

/// Looks at every node when its time has come, until `stop` is true. Between two moments at which time alone changes
/// something nothing is done but a look at what else has changed, once a heartbeat.
pub async fn watch(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut serving = Serving::default();
    let mut epoch = None;
    loop {
        let now_ms = app.clock.now_ms();
        let since_ms = serving.at(serves(&app, now_ms), now_ms);
        if epoch != Some(app.trust.epoch()) {
            epoch = Some(app.trust.epoch());
            take_note_of_entries(&app, now_ms);
        }
        let wake_ms = look(&app, since_ms, now_ms);
        let wait = Duration::from_millis(wake_ms.saturating_sub(app.clock.now_ms()));
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(wait) => {}
            () = app.standings.look.notified() => {}
        }
    }
}

/// What the trust state says of the entries of nodes: what was suspended by command, what was withdrawn.
fn take_note_of_entries(app: &App, now_ms: u64) {
    let lists = app.trust.lists();
    let notes: Vec<(String, Note)> = {
        let book = app.standings.lock();
        let note = |(name, place): (&str, &Place)| {
            let entry = place.entry?;
            let status = lists.get(entry.list).and_then(|list| list.status(entry.index));
            let known = &place.known;
            let quarantined = match status {
                Some(Status::Invalid) => false,
                // What is lifted is back with the next good evidence, and not before.
                Some(Status::Suspended) => known.quarantined || app.trust.is_kept_back(&entry),
                _ => app.trust.is_kept_back(&entry),
            };
            if quarantined != known.quarantined {
                return Some((name.to_owned(), Note::Quarantined(quarantined)));
            }
            // Who is late or refused lost its rights by that; anybody else, by something else.
            let told = known.withdrawn || known.refused || known.late_ms.is_some();
            (status == Some(Status::Invalid) && !told).then(|| (name.to_owned(), Note::Withdrawn))
        };
        book.all().into_iter().filter_map(note).collect()
    };
    let policy = app.policy();
    for (name, note) in notes {
        app.standings.note(&policy, &name, note, now_ms);
    }
}

/// Says who is late, and withdraws what is held by those whose grace has ended: all of them in one epoch. Gives when to look
/// again.
fn look(app: &Arc<App>, since_ms: Option<u64>, now_ms: u64) -> u64 {
    let policy = app.policy();
    let schedule = |name: &str| Schedule::of(policy.demands_of(name).timers);
    let at_latest_ms = now_ms.saturating_add(policy.settings.timers.heartbeat_ms.max(1));
    let (over, wake_ms, is_waiting) = {
        let mut book = app.standings.lock();
        let (over, next_ms) = book.look(schedule, since_ms, now_ms);
        let wake_ms = next_ms.map_or(at_latest_ms, |next_ms| next_ms.min(at_latest_ms));
        // Under the same lock: what is noted from here on compares itself with this.
        book.plan(wake_ms);
        (over, wake_ms, book.is_waiting())
    };
    if is_waiting {
        app.standings.record.notify_one();
    }
    let over: Vec<(Over, StatusIndex)> = {
        let attested = app.attested.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |over: Over| {
            let (at_ms, entry) = attested.get(&over.node)?;
            // Good evidence that has come between the two looks counts.
            (*at_ms <= over.good_ms).then_some((over, *entry))
        };
        over.into_iter().filter_map(holds).collect()
    };
    if !over.is_empty() {
        withdraw(app, &policy, over, now_ms);
    }
    wake_ms
}

/// Withdraws what overdue nodes hold: out before this comes back, recorded soon after.
fn withdraw(app: &Arc<App>, policy: &PolicySet, over: Vec<(Over, StatusIndex)>, now_ms: u64) {
    let (subject, expected, found) = match over.as_slice() {
        [(Over { node, late_ms, .. }, _)] => {
            let Schedule {
                deadline_ms, grace_ms, ..
            } = Schedule::of(policy.demands_of(node).timers);
            let grace = match grace_ms {
                0 => String::new(),
                grace_ms => format!(" and {grace_ms} ms of grace"),
            };
            let silent_ms = now_ms.saturating_sub(late_ms.saturating_sub(deadline_ms));
            (
                Some(node.as_str()),
                format!("within {deadline_ms} ms{grace}"),
                format!("{silent_ms} ms ago"),
            )
        }
        nodes => (
            None,
            "within the deadline and the grace of each".to_owned(),
            format!("{} nodes are silent", nodes.len()),
        ),
    };
    let reason = Reason {
        code: DenialCode::DeadlinePassed.as_str().into(),
        claim: "last attestation".into(),
        expected,
        found,
    };
    let mut taking = Taking::new(Cause::new(Kind::Revocation, subject, reason), Mark::Revoked);
    taking.nodes = over.iter().map(|(over, entry)| (over.node.clone(), *entry)).collect();
    match out(app, taking) {
        Ok((entry, _)) => {
            let app = Arc::clone(app);
            tokio::spawn(async move {
                if let Err(error) = app.sequencer.record(entry).await {
                    tracing::error!(%error, "the withdrawal of overdue nodes could not be recorded");
                }
            });
        }
        Err(refusal) => tracing::error!(detail = refusal.detail, "overdue nodes could not be withdrawn"),
    }
}

/// Records changes, in their order, until `stop` is true.
pub async fn record(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = app.standings.record.notified() => {}
        }
        loop {
            let (changes, lost) = app.standings.lock().take();
            if changes.is_empty() {
                break;
            }
            if let Err(detail) = statement(&app, &changes, lost).await {
                tracing::error!(detail, "how nodes stand could not be recorded; it is tried again");
                app.standings.lock().give_back(changes, lost);
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }
}

/// One statement of several changes. Body: 0 rows of [node, how it stood, how it stands, since when, when it last showed
/// good evidence or null], times in Unix milliseconds; 1 how many changes before them were not recorded. The subject is the
/// node where there is one row.
async fn statement(app: &App, changes: &[Change], lost: u64) -> Result<(), String> {
    let rows = changes.iter().map(|change| {
        Value::array([
            Value::text(change.node.as_str()),
            Value::text(change.from.as_str()),
            Value::text(change.to.as_str()),
            Value::Unsigned(change.at_ms),
            change.good_ms.map_or(Value::Null, Value::Unsigned),
        ])
    });
    let body = Value::map([(0, Value::array(rows)), (1, Value::Unsigned(lost))]);
    let circumstances = app.circumstances(app.clock.now_ms());
    let mut statement = circumstances.statement(Kind::Standing, Outcome::Recorded, body);
    if let [change] = changes {
        statement.subject = Some(change.node.clone());
    }
    let mut entry = entry(app, &statement).map_err(|e| e.to_string())?;
    for change in changes {
        let key = rows::STANDING.key(change.node.as_bytes()).map_err(|e| e.to_string())?;
        entry.writes.push(Write::Put(key, row(change.to, change.at_ms)));
    }
    app.sequencer.record(entry).await.map(drop).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_counts_from_when_attestations_are_taken_again() {
        let mut serving = Serving::default();
        let said: Vec<_> = [(true, 5), (true, 6), (false, 7), (false, 8), (true, 9), (true, 10)]
            .map(|(serves, at)| serving.at(serves, at))
            .into();
        assert_eq!(said, [Some(5), Some(5), None, None, Some(9), Some(9)]);
    }
}
