//! What was done under an authorization: keys released, authorizations for other domains, uses and off-line links that
//! enforcers reported, and commands.

use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::{Outcome, Statement};

use super::{History, MAX_OFFLINE, OffLine};
use crate::node::status;
use crate::withdraw::BODY_CAUSE;

impl History {
    pub(super) fn release(&mut self, index: u64, statement: &Statement) -> Option<()> {
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

    pub(super) fn foreign(&mut self, index: u64, statement: &Statement) -> Option<()> {
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
    pub(super) fn chain(&mut self, index: u64, statement: &Statement) -> Option<()> {
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
    pub(super) fn uses(&mut self, index: u64, statement: &Statement) -> Option<()> {
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
    pub(super) fn command(&mut self, index: u64, statement: &Statement) -> Option<()> {
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
}
