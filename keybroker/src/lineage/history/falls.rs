//! What is taken away, lifted and freed.

use std::collections::HashSet;

use touchstone_authorization::token::StatusIndex;
use touchstone_ledger::statement::Statement;

use super::{History, State, Told};
use crate::trust::{Mark, number, place};
use crate::withdraw::{BODY_ROOTS, MAX_ROOTS_NAMED, SET, set};

impl History {
    /// Body: 0 epoch, 1 how many, 2 "revoked" or "suspended", 3 numbers of the roots; the set by its digest. Earlier releases
    /// wrote the epoch alone: then what the subject held is the root.
    pub(super) fn fall(&mut self, index: u64, statement: &Statement) -> Option<()> {
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

    pub(super) fn mark(
        &mut self,
        index: u64,
        statement: &Statement,
        roots: &[StatusIndex],
        mark: Mark,
        epoch: Option<u64>,
    ) {
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

    /// Body: 0 epoch, 1 how many, 2 "suspended". What lived then is known here, and nothing of it comes back with another.
    pub(super) fn interrupted(&mut self, index: u64, statement: &Statement) -> Option<()> {
        let epoch = statement.body.get(0)?.as_u64();
        let lives = |told: &Told| {
            let over = i64::try_from(told.entry.expires).is_ok_and(|end| end <= statement.time);
            !told.freed && !over && told.state != State::Revoked
        };
        let living: Vec<usize> = (0..self.told.len())
            .filter(|at| self.told.get(*at).is_some_and(lives))
            .collect();
        for at in living {
            let Some(told) = self.told.get_mut(at) else { continue };
            told.interrupted = true;
            // What a hold keeps goes on being kept by it, and says so.
            if told.state == State::Suspended {
                continue;
            }
            told.state = State::Suspended;
            told.since = statement.time;
            told.reasons.clone_from(&statement.reasons);
            told.epoch = epoch;
            let detail = epoch.map_or_else(String::new, |epoch| format!("epoch {epoch}"));
            self.tell(Some(at), index, statement, (Mark::Suspended.as_str(), detail));
        }
        Some(())
    }

    /// Body: 2 rows of [number, digest of the set, since].
    pub(super) fn lift(&mut self, index: u64, statement: &Statement) -> Option<()> {
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
    pub(super) fn free(&mut self, index: u64, statement: &Statement) -> Option<()> {
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
    pub(super) fn held(&self, subject: &str) -> Option<StatusIndex> {
        let at = *self.by_subject.get(subject)?.last()?;
        let told = self.told.get(at).filter(|told| !told.freed)?;
        Some(told.entry.status)
    }
}
