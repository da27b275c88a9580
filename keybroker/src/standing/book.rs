//! How every node stands, and the changes that are still to be recorded.

use std::collections::{BTreeMap, HashMap, VecDeque};

use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::{self, Limits, Value};

use super::state::{Known, Schedule, State};

/// Most changes that wait to be recorded; beyond them the oldest are only counted.
pub const MAX_WAITING: usize = 65_536;
/// Most changes in one statement.
pub const MAX_ROWS: usize = 64;

/// One change of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The node.
    pub node: String,
    /// How it stood.
    pub from: State,
    /// How it stands.
    pub to: State,
    /// Since when, Unix milliseconds.
    pub at_ms: u64,
    /// When it last showed good evidence, where that is known.
    pub good_ms: Option<u64>,
}

impl Change {
    /// Whether a statement of its own says it: what time alone has brought, and the end of that. Every other change is said
    /// by the statement of the evidence, the withdrawal or the command that it follows from.
    #[must_use]
    pub const fn is_news(&self) -> bool {
        matches!(self.to, State::Stale | State::Unreachable) || matches!(self.from, State::Stale | State::Unreachable)
    }
}

/// How one node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What is known of it.
    pub known: Known,
    /// How it stands, as said last.
    pub state: State,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
    /// The status entry it holds, or held last.
    pub entry: Option<StatusIndex>,
}

/// Every node that was ever heard of.
#[derive(Debug, Default)]
pub struct Book {
    nodes: HashMap<String, Place>,
    waiting: VecDeque<Change>,
    lost: u64,
    /// When the time is looked at next, Unix milliseconds; nothing before it was looked at first.
    planned_ms: Option<u64>,
}

/// A node whose rights end by its silence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    /// Its name.
    pub node: String,
    /// When its deadline passed, Unix milliseconds.
    pub late_ms: u64,
    /// When it last showed good evidence, or what counts as that: what it holds by later evidence does not end.
    pub good_ms: u64,
}

/// What was noted of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// Good evidence, and the entry it holds by it.
    Good(StatusIndex),
    /// Authentic evidence that is not acceptable.
    Refused,
    /// An authentic word.
    Heard,
    /// Its rights were withdrawn for another reason.
    Withdrawn,
    /// Whether it is decommissioned.
    Gone(bool),
    /// Whether its rights are suspended.
    Quarantined(bool),
}

impl Book {
    /// Enters a node that was late when the process before this one ended.
    pub fn enter_late(&mut self, node: &str, state: State, since_ms: u64) {
        let place = Place {
            known: Known {
                late_ms: Some(since_ms),
                ..Known::default()
            },
            state,
            since_ms,
            entry: None,
        };
        self.nodes.insert(node.to_owned(), place);
    }

    /// Enters a node whose authorization may still count: as good as if it had attested at `at_ms`, but for what was said
    /// of it before.
    pub fn enter_live(&mut self, node: &str, at_ms: u64, entry: StatusIndex) {
        let place = self.nodes.entry(node.to_owned()).or_insert_with(|| Place {
            known: Known::default(),
            state: State::Trusted,
            since_ms: at_ms,
            entry: None,
        });
        place.entry = Some(entry);
        (place.known.good_ms, place.known.heard_ms) = (Some(at_ms), Some(at_ms));
    }

    /// Notes something of a node, and the change that comes of it. Gives whether the time is to be looked at before that
    /// was planned: not for one that stood well and goes on so beyond then. A look is at every node, so a thousand that
    /// attest in turn must not each bring one about.
    pub fn note(&mut self, node: &str, note: Note, schedule: Schedule, now_ms: u64) -> bool {
        if note == Note::Heard && !self.nodes.contains_key(node) {
            // A word alone is nobody's standing.
            return false;
        }
        let place = self.nodes.entry(node.to_owned()).or_insert_with(|| Place {
            known: Known::default(),
            state: State::NeverSeen,
            since_ms: now_ms,
            entry: None,
        });
        let stood = place.state;
        match note {
            Note::Good(entry) => {
                place.known.good(now_ms);
                place.entry = Some(entry);
            }
            Note::Refused => place.known.refuse(now_ms),
            Note::Heard => place.known.hear(now_ms),
            Note::Withdrawn => place.known.withdrawn = true,
            Note::Gone(gone) => place.known.gone = gone,
            Note::Quarantined(quarantined) => place.known.quarantined = quarantined,
        }
        // At the earliest: it counts from when attestations are taken, where that is later.
        let deadline_ms = place.known.deadline(schedule, 0);
        let stands = self.turn(node, schedule, now_ms);
        let goes_on = stood == State::Trusted && stands == Some(State::Trusted);
        let in_time = match (deadline_ms, self.planned_ms) {
            (Some(deadline_ms), Some(planned_ms)) => planned_ms <= deadline_ms,
            _ => false,
        };
        matches!(note, Note::Good(_)) && !(goes_on && in_time)
    }

    /// The time is looked at next at `at_ms`, whatever is noted until then.
    pub fn plan(&mut self, at_ms: u64) {
        self.planned_ms = Some(at_ms);
    }

    /// Whether changes wait to be recorded.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Looks at the time for every node; `schedule` says how long each has. Gives those whose rights end by it, and when to
    /// look again at the latest.
    pub fn look(
        &mut self,
        schedule: impl Fn(&str) -> Schedule,
        since_ms: Option<u64>,
        now_ms: u64,
    ) -> (Vec<Over>, Option<u64>) {
        let (mut over, mut next, mut turned) = (Vec::new(), None::<u64>, Vec::new());
        for (name, place) in &mut self.nodes {
            // Time says nothing of who was never good, and nothing more of who is silent and has lost everything.
            if place.known.good_ms.is_none() && place.known.late_ms.is_none() {
                continue;
            }
            let schedule = schedule(name);
            place.known.look(schedule, since_ms, now_ms);
            if place.known.state(schedule, now_ms) != place.state {
                turned.push((name.clone(), schedule));
            }
            let Some(since_ms) = since_ms else { continue };
            if let Some(late_ms) = place
                .known
                .late_ms
                .filter(|_| place.known.is_over(schedule, since_ms, now_ms))
            {
                over.push(Over {
                    node: name.clone(),
                    late_ms,
                    good_ms: place.known.good_ms.unwrap_or(0),
                });
            }
            let at_ms = place.known.next(schedule, since_ms, now_ms);
            next = [next, at_ms].into_iter().flatten().min();
        }
        for (name, schedule) in turned {
            self.turn(&name, schedule, now_ms);
        }
        (over, next)
    }

    /// Says how a node stands now, and gives it; a change is kept to be recorded. A change by time is of the moment of the
    /// deadline.
    fn turn(&mut self, node: &str, schedule: Schedule, now_ms: u64) -> Option<State> {
        let place = self.nodes.get_mut(node)?;
        let to = place.known.state(schedule, now_ms);
        if to == place.state {
            return Some(to);
        }
        let at_ms = match (to, place.known.late_ms) {
            (State::Stale, Some(late_ms)) => late_ms,
            (State::Unreachable, Some(late_ms)) => late_ms.saturating_add(schedule.silence_ms),
            _ => now_ms,
        };
        let change = Change {
            node: node.to_owned(),
            from: place.state,
            to,
            at_ms,
            good_ms: place.known.good_ms,
        };
        (place.state, place.since_ms) = (to, at_ms);
        tracing::info!(
            target: "touchstone::event",
            event = "standing",
            node,
            from = change.from.as_str(),
            to = to.as_str(),
            at_ms
        );
        if change.is_news() {
            if self.waiting.len() >= MAX_WAITING {
                self.waiting.pop_front();
                self.lost = self.lost.saturating_add(1);
            }
            self.waiting.push_back(change);
        }
        Some(to)
    }

    /// Changes to record, oldest first, at most [`MAX_ROWS`], and how many were lost before them.
    pub fn take(&mut self) -> (Vec<Change>, u64) {
        let count = self.waiting.len().min(MAX_ROWS);
        (self.waiting.drain(..count).collect(), std::mem::take(&mut self.lost))
    }

    /// Puts changes back that could not be recorded.
    pub fn give_back(&mut self, changes: Vec<Change>, lost: u64) {
        for change in changes.into_iter().rev() {
            self.waiting.push_front(change);
        }
        self.lost = self.lost.saturating_add(lost);
    }

    /// How a node stands.
    pub fn get(&self, node: &str) -> Option<&Place> {
        self.nodes.get(node)
    }

    /// Every node, by name.
    pub fn all(&self) -> BTreeMap<&str, &Place> {
        self.nodes.iter().map(|(name, place)| (name.as_str(), place)).collect()
    }
}

/// The row of a node: how it stands, and since when.
pub fn row(state: State, since_ms: u64) -> Vec<u8> {
    cbor::encode(&Value::array([Value::text(state.as_str()), Value::Unsigned(since_ms)]))
}

/// Reads what [`row`] wrote.
pub fn read_row(bytes: &[u8]) -> Option<(State, u64)> {
    let value = cbor::decode(bytes, Limits::TOKEN).ok()?;
    let [state, since_ms] = value.as_array()? else {
        return None;
    };
    Some((State::parse(state.as_text()?)?, since_ms.as_u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule {
        deadline_ms: 60,
        grace_ms: 10,
        silence_ms: 33,
    };
    const ENTRY: StatusIndex = StatusIndex {
        list: 0,
        generation: 1,
        index: 7,
    };

    fn changes(book: &mut Book) -> Vec<(String, State, State, u64)> {
        let (changes, _) = book.take();
        changes.into_iter().map(|c| (c.node, c.from, c.to, c.at_ms)).collect()
    }

    #[test]
    fn every_change_is_kept_once_with_its_moment() {
        use State::{Quarantined, Stale, Trusted, Unreachable};
        let mut book = Book::default();
        book.note("a", Note::Good(ENTRY), SCHEDULE, 100);
        book.note("a", Note::Good(ENTRY), SCHEDULE, 130);
        // Looked at late: the change is of the deadline all the same.
        let (over, next) = book.look(|_| SCHEDULE, Some(0), 195);
        assert_eq!((over, next), (vec![], Some(200)));
        let (over, next) = book.look(|_| SCHEDULE, Some(0), 200);
        let late = Over {
            node: "a".into(),
            late_ms: 190,
            good_ms: 130,
        };
        assert_eq!((over, next), (vec![late], Some(223)));
        assert_eq!(book.look(|_| SCHEDULE, Some(0), 230).1, None);
        book.note("a", Note::Quarantined(true), SCHEDULE, 240);
        book.note("a", Note::Quarantined(true), SCHEDULE, 241);
        book.note("a", Note::Good(ENTRY), SCHEDULE, 250);
        book.note("a", Note::Quarantined(false), SCHEDULE, 260);
        let a = |from, to, at_ms| ("a".to_owned(), from, to, at_ms);
        let expected = [
            a(Trusted, Stale, 190),
            a(Stale, Unreachable, 223),
            a(Unreachable, Quarantined, 240),
        ];
        assert_eq!(changes(&mut book), expected, "the others are said by other statements");
        assert_eq!(changes(&mut book), []);
        assert_eq!(
            book.get("a").map(|place| (place.state, place.since_ms)),
            Some((Trusted, 260))
        );
        book.look(|_| SCHEDULE, Some(0), 320);
        book.note("a", Note::Good(ENTRY), SCHEDULE, 330);
        assert_eq!(
            changes(&mut book),
            [a(Trusted, Stale, 310), a(Stale, Trusted, 330)],
            "and the way back"
        );
        book.note("b", Note::Heard, SCHEDULE, 330);
        assert_eq!(book.get("b"), None, "a word is nobody's standing");
    }

    #[test]
    fn who_goes_on_well_brings_no_look_about_and_everybody_else_does() {
        let mut book = Book::default();
        let good = |book: &mut Book, node, now_ms| book.note(node, Note::Good(ENTRY), SCHEDULE, now_ms);
        assert!(good(&mut book, "a", 100), "nobody has looked yet");
        let look = |book: &mut Book, now_ms| {
            let (_, next_ms) = book.look(|_| SCHEDULE, Some(0), now_ms);
            book.plan(next_ms.unwrap_or(u64::MAX));
            next_ms
        };
        assert_eq!(look(&mut book, 101), Some(160));
        assert!(
            !good(&mut book, "a", 110),
            "its deadline has moved behind the next look"
        );
        assert!(good(&mut book, "b", 111), "one that is new");
        assert!(!good(&mut book, "b", 112));
        let soon = Schedule {
            deadline_ms: 40,
            ..SCHEDULE
        };
        assert!(
            book.note("b", Note::Good(ENTRY), soon, 113),
            "another policy gives it a deadline before the next look"
        );
        for (name, note) in [
            ("refused", Note::Refused),
            ("suspended", Note::Quarantined(true)),
            ("withdrawn", Note::Withdrawn),
            ("gone", Note::Gone(true)),
        ] {
            assert!(!book.note("a", note, SCHEDULE, 120), "{name}: said by itself");
            assert!(good(&mut book, "a", 121), "{name}: the way back");
            if let Note::Quarantined(_) = note {
                assert!(good(&mut book, "a", 121), "{name}: until it is lifted");
                book.note("a", Note::Quarantined(false), SCHEDULE, 121);
            }
            assert!(!good(&mut book, "a", 122), "{name}: is over");
        }
        assert_eq!(look(&mut book, 175), Some(182), "b is late since 173");
        assert!(good(&mut book, "b", 176), "late");
        assert!(!book.note("b", Note::Heard, SCHEDULE, 177));
        assert!(book.is_waiting());
        assert_eq!(book.take().0.len(), 2, "late, and back");
        assert!(!book.is_waiting());
    }

    #[test]
    fn a_process_goes_on_from_what_was_recorded() {
        let (stale, unreachable) = (State::Stale, State::Unreachable);
        let mut book = Book::default();
        for state in [stale, unreachable] {
            let (read, since_ms) = read_row(&row(state, 5)).unwrap();
            book.enter_late(state.as_str(), read, since_ms);
        }
        // It was late within its grace: what it holds may still count.
        book.enter_live("stale", 1_000, ENTRY);
        book.enter_live("trusted", 1_000, ENTRY);
        let (over, _) = book.look(|_| SCHEDULE, Some(1_000), 1_001);
        assert_eq!(over, [], "the grace counts from when attestations are taken");
        let late = |node: &str, to| (node.to_owned(), stale, to, 38);
        assert_eq!(
            changes(&mut book),
            [late("stale", unreachable)],
            "nobody has heard of it since"
        );
        let (over, _) = book.look(|_| SCHEDULE, Some(1_000), 1_060);
        let mut over: Vec<&str> = over.iter().map(|over| over.node.as_str()).collect();
        over.sort_unstable();
        assert_eq!(
            over,
            ["stale", "unreachable"],
            "whether they hold anything is looked up elsewhere"
        );
        let trusted = ("trusted".to_owned(), State::Trusted, stale, 1_060);
        assert_eq!(changes(&mut book), [trusted]);
        for bytes in [&b""[..], b"\x80", b"\x82\x61x\x01", &row(State::Stale, 5)[1..]] {
            assert_eq!(read_row(bytes), None);
        }
    }

    #[test]
    fn what_waits_is_bounded_and_what_is_lost_is_counted() {
        let mut book = Book::default();
        book.note("a", Note::Good(ENTRY), SCHEDULE, 0);
        let mut now_ms = 0;
        for _ in 0..(MAX_WAITING / 2 + 2) {
            now_ms += SCHEDULE.deadline_ms;
            book.look(|_| SCHEDULE, Some(0), now_ms);
            book.note("a", Note::Good(ENTRY), SCHEDULE, now_ms);
        }
        let (changes, lost) = book.take();
        assert_eq!(
            (changes.len(), lost, changes[0].at_ms),
            (MAX_ROWS, 4, 3 * SCHEDULE.deadline_ms)
        );
        book.give_back(changes.clone(), lost);
        assert_eq!(book.take(), (changes, 4));
    }
}
