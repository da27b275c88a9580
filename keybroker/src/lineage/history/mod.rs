//! The lineage as the ledger tells it: folded from statements alone, so that anybody who has checked the ledger can say
//! which authorization hung below which at any time, what it was used for, and what it fell with.
//!
//! A withdrawal's statement names its roots, and the digest of the set that it took. The set is computed here anew, from
//! the edges that the statements before it made; where the digests differ, the broker took more or less than what hung
//! below, and that is a [`Flaw`]. Pure: no store, no clock.

mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::{Kind, Outcome, Reason, Statement};

pub use tree::{Named, Tree};

use super::BODY_LINEAGE;
use super::entry::Entry;
use super::graph::Graph;
use crate::decision::BODY_SCOPES;
use crate::node::status;
use crate::trust::{Mark, number, place};
use crate::withdraw::{BODY_CAUSE, BODY_ROOTS, MAX_ROOTS_NAMED, SET, set};

/// Events kept of one entry; of more, the first and the last stay, and how many there were.
pub const MAX_EVENTS: usize = 256;

/// Off-line links kept of one entry, the newest.
pub const MAX_OFFLINE: usize = 256;

/// Flaws kept; of more, only their number.
pub const MAX_FLAWS: usize = 64;

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It counts, until it ends.
    Valid,
    /// It does not count until it is lifted.
    Suspended,
    /// It never counts again.
    Revoked,
}

/// What was handed on off-line below an entry, as an enforcer reported it at its first use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffLine {
    /// Its 16-byte id.
    pub id: [u8; 16],
    /// The id of the link that it hangs below; none where it hangs below the entry itself.
    pub above: Option<[u8; 16]>,
    /// Its label.
    pub label: String,
    /// Its scopes, one space between two.
    pub scopes: String,
    /// Its end, Unix seconds.
    pub expires: u64,
    /// Revoked by its own id.
    pub revoked: bool,
}

/// Something that the ledger says of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The index of the statement; of several in a row that say the same, the first.
    pub first: u64,
    /// The last of them.
    pub last: u64,
    /// How many they are.
    pub times: u64,
    /// The time of the last, Unix seconds.
    pub time: i64,
    /// What happened: a kind of statement, with the outcome where it is a denial.
    pub what: String,
    /// More of it.
    pub detail: String,
}

/// What the ledger says and cannot be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// The index of the statement.
    pub index: u64,
    /// What is wrong with it.
    pub what: String,
}

/// One entry, as told.
#[derive(Debug, Clone)]
struct Told {
    entry: Entry,
    state: State,
    /// Since when, and the reasons of the statement that made it so.
    since: i64,
    reasons: Vec<Reason>,
    /// The epoch under which it fell.
    epoch: Option<u64>,
    freed: bool,
    references: BTreeSet<String>,
    offline: Vec<OffLine>,
    events: Vec<Event>,
    dropped: u64,
}

/// The lineage up to some time.
#[derive(Debug, Default)]
pub struct History {
    told: Vec<Told>,
    /// Who holds a place now.
    at: HashMap<StatusIndex, usize>,
    graph: Graph,
    by_id: HashMap<[u8; 16], usize>,
    by_subject: HashMap<String, Vec<usize>>,
    by_key: BTreeMap<String, BTreeSet<usize>>,
    by_reference: BTreeMap<String, BTreeSet<usize>>,
    /// What was suspended, by the digest of the set, and whether that was lifted.
    holds: BTreeMap<[u8; 32], (HashSet<StatusIndex>, bool)>,
    generation: u32,
    flaws: Vec<Flaw>,
    more_flaws: u64,
}

impl History {
    /// Takes the next statement of the ledger in; in order, from the first on.
    pub fn apply(&mut self, index: u64, statement: &Statement) {
        let done = match statement.kind {
            Kind::Genesis => self.genesis(statement),
            Kind::Enrolment | Kind::Attestation | Kind::Renewal => self.node(index, statement),
            Kind::WorkloadAuthorization | Kind::Delegation => self.workload(index, statement),
            Kind::KeyRelease => self.release(index, statement),
            Kind::FederatedAuthorization => self.foreign(index, statement),
            Kind::Revocation | Kind::Quarantine | Kind::Containment => self.fall(index, statement),
            Kind::Lift => self.lift(index, statement),
            Kind::StatusFreed => self.free(index, statement),
            Kind::ChainReport => self.chain(index, statement),
            Kind::UseReport => self.uses(index, statement),
            Kind::Command => self.command(index, statement),
            _ => {
                self.mention(index, statement);
                Some(())
            }
        };
        if done.is_none() {
            let what = format!("a {} statement of another shape", statement.kind.as_str());
            self.flaw(index, what);
        }
    }

    /// Whatever the ledger says that cannot be so, and how many more there are.
    #[must_use]
    pub fn flaws(&self) -> (&[Flaw], u64) {
        (&self.flaws, self.more_flaws)
    }

    fn flaw(&mut self, index: u64, what: String) {
        if self.flaws.len() < MAX_FLAWS {
            self.flaws.push(Flaw { index, what });
        } else {
            self.more_flaws += 1;
        }
    }

    fn genesis(&mut self, statement: &Statement) -> Option<()> {
        self.generation = statement.body.get(1)?.as_u64()?.try_into().ok()?;
        Some(())
    }

    fn node(&mut self, index: u64, statement: &Statement) -> Option<()> {
        let subject = statement.subject.clone()?;
        if statement.outcome != Outcome::Allow {
            self.mention(index, statement);
            // Before there were statements of their own for what a denial takes away, it was said by the denial.
            let early = ["1", "2", "3", "4"].map(|n| format!("touchstone-semantics/{n}"));
            if early.contains(&statement.semantics) && statement.inputs.contains_key("enrolled") {
                let held: Vec<StatusIndex> = self.held(&subject).into_iter().collect();
                self.mark(index, statement, &held, Mark::Revoked, None);
            }
            return Some(());
        }
        let body = &statement.body;
        let entry = Entry {
            status: status(body.get(6)?.clone()).ok()?,
            parent: None,
            subject,
            cti: body.get(5)?.as_bytes()?.try_into().ok()?,
            depth: 0,
            expires: body.get(7)?.as_u64()?,
            scopes: body.get(BODY_SCOPES)?.as_text()?.to_owned(),
            depends_on: Vec::new(),
        };
        let reference = body.get(2)?.as_text().map(str::to_owned);
        let at = self.grant(index, statement, &entry);
        if let Some(reference) = reference {
            self.by_reference.entry(reference.clone()).or_default().insert(at);
            if let Some(told) = self.told.get_mut(at) {
                told.references.insert(reference);
            }
        }
        self.come_back(index, statement, entry.status);
        Some(())
    }

    fn workload(&mut self, index: u64, statement: &Statement) -> Option<()> {
        if statement.outcome != Outcome::Allow {
            // A denial hangs where it was asked from.
            let parent = status(statement.body.get(1)?.clone()).ok()?;
            let subject = statement.subject.clone().unwrap_or_default();
            self.event(self.at.get(&parent).copied(), index, statement, subject);
            return Some(());
        }
        let entry = Entry::read(statement.body.get(BODY_LINEAGE)?.clone()).ok()?;
        self.grant(index, statement, &entry);
        self.come_back(index, statement, entry.status);
        Some(())
    }

    /// Takes a grant in; gives where it is told of.
    fn grant(&mut self, index: u64, statement: &Statement, entry: &Entry) -> usize {
        self.generation = self.generation.max(entry.status.generation);
        let renews = self.graph.get(&entry.status).is_some();
        let taken = if renews {
            self.graph.renew(entry)
        } else {
            self.graph.insert(entry)
        };
        if let Err(error) = taken {
            self.flaw(
                index,
                format!("it grants {} what the rules of lineage forbid: {error}", entry.subject),
            );
        }
        let fallen = |told: &Told| told.state == State::Revoked;
        let known = self.at.get(&entry.status).copied().filter(|_| renews);
        if known.and_then(|at| self.told.get(at)).is_some_and(fallen) {
            self.flaw(
                index,
                format!("it renews an entry of {} that was revoked", entry.subject),
            );
        }
        let rests_on = entry.parent.iter().chain(entry.depends_on.iter().map(|d| &d.on));
        let dead = rests_on
            .filter_map(|on| self.told.get(*self.at.get(on)?))
            .find(|on| on.state != State::Valid)
            .map(|on| on.entry.subject.clone());
        if let Some(on) = dead {
            self.flaw(
                index,
                format!("it grants {} below {on}, which did not count", entry.subject),
            );
        }
        let at = known.unwrap_or_else(|| {
            self.told.push(Told {
                entry: entry.clone(),
                state: State::Valid,
                since: statement.time,
                reasons: Vec::new(),
                epoch: None,
                freed: false,
                references: BTreeSet::new(),
                offline: Vec::new(),
                events: Vec::new(),
                dropped: 0,
            });
            self.told.len() - 1
        });
        self.at.insert(entry.status, at);
        self.by_id.insert(entry.cti, at);
        let of = self.by_subject.entry(entry.subject.clone()).or_default();
        if !of.contains(&at) {
            of.push(at);
        }
        if let (Some(told), Some(now)) = (self.told.get_mut(at), self.graph.get(&entry.status)) {
            told.entry = now;
        }
        let what = if renews { "renewal" } else { statement.kind.as_str() };
        self.tell(Some(at), index, statement, (what, String::new()));
        for dependency in entry.depends_on.iter().filter(|_| !renews) {
            let on = self.at.get(&dependency.on).and_then(|at| self.told.get(*at));
            let on = on.map_or_else(|| format!("{:?}", dependency.on), |on| on.entry.subject.clone());
            self.tell(Some(at), index, statement, (dependency.why.as_str(), on));
        }
        at
    }

    /// A grant brings back what is suspended of the entry, and what a lifted hold took below it and no standing one has.
    fn come_back(&mut self, index: u64, statement: &Statement, entry: StatusIndex) {
        let any_lifted = self.holds.values().any(|(_, lifted)| *lifted);
        let below = match any_lifted {
            true => self.graph.closure(&[entry]),
            false => vec![entry],
        };
        for below in below {
            let held = |lifted: bool| {
                let mut holds = self.holds.values().filter(|(_, is)| *is == lifted);
                holds.any(|(set, _)| set.contains(&below))
            };
            let comes_back = below == entry || (held(true) && !held(false));
            let Some(at) = self.at.get(&below).copied().filter(|_| comes_back) else {
                continue;
            };
            let Some(told) = self.told.get_mut(at).filter(|told| told.state == State::Suspended) else {
                continue;
            };
            told.state = State::Valid;
            told.since = statement.time;
            told.reasons.clear();
            told.epoch = None;
            self.tell(Some(at), index, statement, ("counts again", String::new()));
        }
    }

    fn release(&mut self, index: u64, statement: &Statement) -> Option<()> {
        let key = statement.body.get(0)?.as_text()?.to_owned();
        let cti: [u8; 16] = statement.body.get(5)?.as_bytes()?.try_into().ok()?;
        let at = self.by_id.get(&cti).copied();
        let version = statement.body.get(1)?.as_u64();
        if let (Outcome::Allow, Some(at)) = (statement.outcome, at) {
            self.by_key.entry(key.clone()).or_default().insert(at);
        }
        let detail = version.map_or_else(|| key.clone(), |version| format!("{key}, version {version}"));
        self.event(at, index, statement, detail);
        Some(())
    }

    fn foreign(&mut self, index: u64, statement: &Statement) -> Option<()> {
        let audience = statement.body.get(0)?.as_text()?.to_owned();
        let held: [u8; 16] = statement.body.get(2)?.as_bytes()?.try_into().ok()?;
        let at = self.by_id.get(&held).copied();
        let issued = statement.body.get(3)?.as_bytes().and_then(|cti| cti.try_into().ok());
        if let (Some(at), Some(issued)) = (at, issued) {
            // Known in the other domain by this id: one lineage, one entry.
            self.by_id.insert(issued, at);
        }
        self.event(at, index, statement, format!("for {audience}"));
        Some(())
    }

    /// Body: 0 the enforcer, 2 entry of the authorization that the chain begins with, 4 its links: [id, label, thumbprint,
    /// scopes, end, further depth].
    fn chain(&mut self, index: u64, statement: &Statement) -> Option<()> {
        let enforcer = statement.body.get(0)?.as_text()?.to_owned();
        let entry = status(statement.body.get(2)?.clone()).ok()?;
        let at = self.at.get(&entry).copied();
        let mut above = None;
        for link in statement.body.get(4)?.as_array()? {
            let [id, label, _, scopes, expires, _] = link.as_array()? else {
                return None;
            };
            let id: [u8; 16] = id.as_bytes()?.try_into().ok()?;
            let scopes: Option<Vec<&str>> = scopes.as_array()?.iter().map(Value::as_text).collect();
            let link = OffLine {
                id,
                above,
                label: label.as_text()?.to_owned(),
                scopes: scopes?.join(" "),
                expires: expires.as_u64()?,
                revoked: false,
            };
            above = Some(id);
            let Some((at, told)) = at.and_then(|at| Some((at, self.told.get_mut(at)?))) else {
                continue;
            };
            if told.offline.iter().any(|known| known.id == id) {
                continue;
            }
            if told.offline.len() >= MAX_OFFLINE {
                let oldest = told.offline.remove(0);
                self.by_id.remove(&oldest.id);
            }
            let label = link.label.clone();
            told.offline.push(link);
            // Found by its own id, like what hangs on-line.
            self.by_id.entry(id).or_insert(at);
            self.tell(
                Some(at),
                index,
                statement,
                ("off-line delegation", format!("{label}, at {enforcer}")),
            );
        }
        Some(())
    }

    /// Body: 0 the enforcer, 1 rows of [subject, entry, scope, when, what came of it, digest of the chain].
    fn uses(&mut self, index: u64, statement: &Statement) -> Option<()> {
        let enforcer = statement.body.get(0)?.as_text()?;
        for row in statement.body.get(1)?.as_array()? {
            let [subject, entry, scope, _, outcome, _] = row.as_array()? else {
                return None;
            };
            let at = self.at.get(&status(entry.clone()).ok()?).copied();
            let (subject, scope, outcome) = (subject.as_text()?, scope.as_text()?, outcome.as_text()?);
            let told = at.and_then(|at| self.told.get(at));
            let by = match told.filter(|told| told.entry.subject == subject) {
                Some(_) => String::new(),
                None => format!(" by {subject}"),
            };
            self.tell(
                at,
                index,
                statement,
                ("use", format!("{scope}{by} at {enforcer}: {outcome}")),
            );
        }
        Some(())
    }

    /// A command that takes nothing, but where it names an off-line link: that one falls by itself. Body: 17 what was
    /// commanded, 18 [what kind of thing, its id].
    fn command(&mut self, index: u64, statement: &Statement) -> Option<()> {
        self.mention(index, statement);
        let target = statement.body.get(BODY_CAUSE + 2).and_then(Value::as_array);
        let named = target.and_then(|target| target.get(1)).and_then(Value::as_text);
        let mut id = [0; 16];
        if statement.body.get(BODY_CAUSE + 1).and_then(Value::as_text) != Some("revoke")
            || named.is_none_or(|named| hex::decode_to_slice(named, &mut id).is_err())
        {
            return Some(());
        }
        let at = self.by_id.get(&id).copied();
        let told = at.and_then(|at| self.told.get_mut(at));
        let link = told.and_then(|told| told.offline.iter_mut().find(|link| link.id == id));
        if let Some(link) = link {
            link.revoked = true;
            let detail = link.label.clone();
            self.tell(at, index, statement, ("off-line link revoked", detail));
        }
        Some(())
    }

    /// Body: 0 epoch, 1 how many, 2 "revoked" or "suspended", 3 numbers of the roots; the set by its digest. Earlier releases
    /// wrote the epoch alone: then what the subject held is the root.
    fn fall(&mut self, index: u64, statement: &Statement) -> Option<()> {
        let epoch = statement.body.get(0)?.as_u64();
        let held = statement.subject.as_deref().and_then(|subject| self.held(subject));
        let Some(mark) = statement.body.get(2) else {
            self.mention(index, statement);
            let roots: Vec<StatusIndex> = held.into_iter().collect();
            self.mark(index, statement, &roots, Mark::Revoked, epoch);
            return Some(());
        };
        let mark = [Mark::Revoked, Mark::Suspended]
            .into_iter()
            .find(|known| mark.as_text() == Some(known.as_str()))?;
        let count = statement.body.get(1)?.as_u64()?;
        let named = statement.body.get(3)?.as_array()?;
        let mut roots: Vec<StatusIndex> = match statement.body.get(BODY_ROOTS) {
            Some(all) => set::decode(all.as_bytes()?).ok()?,
            None => named
                .iter()
                .map(|number| place(number.as_u64()?, self.generation))
                .collect::<Option<_>>()?,
        };
        let digest = *statement.inputs.get(SET)?;
        if roots.len() == MAX_ROOTS_NAMED && count > MAX_ROOTS_NAMED as u64 {
            // There may be more than these, too many for the statement: then the set alone, which is not here, has them all.
            self.flaw(
                index,
                format!("{count} entries fell, and it is not told of all what they rested on"),
            );
        } else {
            let computed = set::sorted(self.graph.closure(&roots));
            if computed.len() as u64 != count || set::digest(&set::encode(&computed)) != digest {
                let found = computed.len();
                self.flaw(
                    index,
                    format!("{count} entries fell, and {found} rested on what was named"),
                );
            }
            if mark == Mark::Suspended {
                self.holds.insert(digest, (computed.into_iter().collect(), false));
            }
        }
        self.mention(index, statement);
        // What its subject was granted while this was on its way falls with it.
        let is_of_subject = |root: &StatusIndex| {
            let told = self.at.get(root).and_then(|at| self.told.get(*at));
            told.is_some_and(|told| Some(&told.entry.subject) == statement.subject.as_ref())
        };
        if mark == Mark::Revoked && roots.iter().any(is_of_subject) {
            roots.extend(held);
        }
        self.mark(index, statement, &roots, mark, epoch);
        Some(())
    }

    fn mark(&mut self, index: u64, statement: &Statement, roots: &[StatusIndex], mark: Mark, epoch: Option<u64>) {
        let named: HashSet<&StatusIndex> = roots.iter().collect();
        for entry in self.graph.closure(roots) {
            let Some(at) = self.at.get(&entry).copied() else {
                continue;
            };
            let Some(told) = self.told.get_mut(at) else { continue };
            let state = match mark {
                Mark::Revoked => State::Revoked,
                Mark::Suspended => State::Suspended,
            };
            if told.state == State::Revoked || told.state == state {
                continue;
            }
            told.state = state;
            told.since = statement.time;
            told.reasons.clone_from(&statement.reasons);
            told.epoch = epoch;
            let with = if named.contains(&entry) {
                ""
            } else {
                "with what it rests on"
            };
            let with = match epoch {
                Some(epoch) if with.is_empty() => format!("epoch {epoch}"),
                Some(epoch) => format!("{with}, epoch {epoch}"),
                None => with.to_owned(),
            };
            self.tell(Some(at), index, statement, (mark.as_str(), with));
        }
    }

    /// Body: 2 rows of [number, digest of the set, since].
    fn lift(&mut self, index: u64, statement: &Statement) -> Option<()> {
        self.mention(index, statement);
        for row in statement.body.get(2)?.as_array()? {
            let [_, digest, _] = row.as_array()? else { return None };
            let digest: [u8; 32] = digest.as_bytes()?.try_into().ok()?;
            match self.holds.get_mut(&digest) {
                Some((_, lifted)) => *lifted = true,
                None => self.flaw(index, "it lifts what was not suspended".to_owned()),
            }
        }
        Some(())
    }

    /// Body: 0 the set.
    fn free(&mut self, index: u64, statement: &Statement) -> Option<()> {
        let freed = set::decode(statement.body.get(0)?.as_bytes()?).ok()?;
        let freed_now: HashSet<&StatusIndex> = freed.iter().collect();
        for entry in &freed {
            let left = self.graph.closure(&[*entry]);
            if let Some(stays) = left.iter().find(|left| !freed_now.contains(left)) {
                let stays = number(stays);
                self.flaw(index, format!("{} was freed while {stays} rested on it", number(entry)));
            }
        }
        for entry in &freed {
            let at = self.at.remove(entry);
            self.tell(at, index, statement, ("freed", String::new()));
            match at.and_then(|at| self.told.get_mut(at)) {
                Some(told) => {
                    told.freed = true;
                    if i64::try_from(told.entry.expires).is_ok_and(|end| end >= statement.time) {
                        self.flaw(index, format!("{} was freed before it ended", number(entry)));
                    }
                }
                None => self.flaw(index, format!("{} was freed, which nobody held", number(entry))),
            }
            self.graph.remove(entry);
        }
        Some(())
    }

    /// What a subject holds.
    fn held(&self, subject: &str) -> Option<StatusIndex> {
        let at = *self.by_subject.get(subject)?.last()?;
        let told = self.told.get(at).filter(|told| !told.freed)?;
        Some(told.entry.status)
    }

    /// An event of whatever the statement's subject holds.
    fn mention(&mut self, index: u64, statement: &Statement) {
        let at = statement
            .subject
            .as_ref()
            .and_then(|subject| self.by_subject.get(subject));
        let at = at.and_then(|of| of.last().copied());
        let detail = statement.reasons.first().map(reason).unwrap_or_default();
        self.event(at, index, statement, detail);
    }

    fn event(&mut self, at: Option<usize>, index: u64, statement: &Statement, detail: String) {
        let denied = statement.outcome == Outcome::Deny;
        let what = match denied {
            true => format!("{} denied", statement.kind.as_str()),
            false => statement.kind.as_str().to_owned(),
        };
        let why = statement.reasons.first().filter(|_| denied).map(reason);
        let detail = match why {
            Some(why) if !detail.is_empty() && detail != why => format!("{detail}: {why}"),
            Some(why) => why,
            None => detail,
        };
        self.tell(at, index, statement, (&what, detail));
    }

    fn tell(&mut self, at: Option<usize>, index: u64, statement: &Statement, (what, detail): (&str, String)) {
        let Some(told) = at.and_then(|at| self.told.get_mut(at)) else {
            return;
        };
        if let Some(last) = told
            .events
            .last_mut()
            .filter(|last| last.what == what && last.detail == detail)
        {
            last.last = index;
            last.time = statement.time;
            last.times += 1;
            return;
        }
        if told.events.len() >= MAX_EVENTS {
            told.events.remove(MAX_EVENTS / 2);
            told.dropped += 1;
        }
        told.events.push(Event {
            first: index,
            last: index,
            times: 1,
            time: statement.time,
            what: what.to_owned(),
            detail,
        });
    }
}

fn reason(reason: &Reason) -> String {
    if reason.found.is_empty() {
        return reason.code.clone();
    }
    format!("{}: {} is {}", reason.code, reason.claim, reason.found)
}

#[cfg(test)]
mod tests;
