//! What a command would take, looked up and not touched.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use touchstone_authorization::Status;
use touchstone_authorization::token::StatusIndex;
use touchstone_policies::Extent;
use touchstone_store::{Guard, Write};
use touchstone_verifier::inventory::Lookup;

use super::holders::holders;
use super::{Action, Command, MAX_SHOWN, Target};
use crate::app::App;
use crate::bars::{self, Bar, MAX_BARS};
use crate::decommission;
use crate::hello::{internal, unreadable};
use crate::holds::{self, Over};
use crate::lineage::{Entry, Id};
use crate::problem::{Refusal, RefusalCode};
use crate::rejudge::{Falls, falling};
use crate::release::keeper;
use crate::rows;
use crate::taken_back;
use crate::withdraw::{held_by, held_where, holds as entry_of, set};

/// What a command would take.
#[derive(Debug, Default)]
pub struct Plan {
    /// Whom the statement is about, where it is one node or workload.
    pub subject: Option<String>,
    /// Who is suspended, and gets nothing meanwhile.
    pub over: Option<Over>,
    /// Nodes, each with the entry it holds.
    pub nodes: Vec<(String, StatusIndex)>,
    /// Entries of workloads, beside.
    pub roots: Vec<StatusIndex>,
    /// A workload all of whose entries are.
    pub named: Option<String>,
    /// An off-line delegation that is taken back by its id, and the ids of those that are over.
    pub ids: (Vec<[u8; 16]>, Vec<[u8; 16]>),
    /// Where nodes are judged anew: each with its reason.
    pub falls: Vec<Falls>,
    /// What is barred by it.
    pub bar: Option<Bar>,
    /// The key that is withheld by it.
    pub key: Option<Withheld>,
    /// How many entries of the ledger could not be read: who was given the key there is not known.
    pub unread: u64,
    /// What must be so still when it is recorded: only of what gives back.
    pub guards: Vec<Guard>,
    /// Rows that are written with it.
    pub writes: Vec<Write>,
    /// Every entry that would fall, or come back.
    pub set: Vec<StatusIndex>,
    /// What is given back, where something is: the numbers of the holds that are lifted, or the revision of the row that bars
    /// or decommissions.
    pub given_back: Vec<u64>,
    /// What is shown of both, and compared ([`set::shown`]).
    pub digest: [u8; 32],
    /// Who holds these entries, at most [`MAX_SHOWN`].
    pub subjects: Vec<String>,
}

/// A version of a key that is withheld, and how far the ledger was read for who was given it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withheld {
    /// The key.
    pub name: String,
    /// The version.
    pub version: u64,
    /// How many entries the ledger had when it was read.
    pub read: u64,
}

/// Looks up what a command would take, with everything below it.
///
/// # Errors
/// A [`Refusal`]: there is no such thing, or it cannot be told what would fall.
pub async fn plan(app: &Arc<App>, command: &Command) -> Result<Plan, Refusal> {
    let mut plan = Plan::default();
    let id = command.id.as_str();
    match command.target {
        // Who is no node yet may be taken out of service all the same, and holds nothing.
        Target::Node if command.action == Action::Decommission => {
            let _ = plan.node(app, id);
        }
        Target::Node if command.action == Action::Reinstate => {
            plan.subject = Some(id.to_owned());
            plan.given_back = vec![decommission::standing(app, id)?.1.get()];
        }
        Target::Node => plan.node(app, id)?,
        Target::Workload | Target::Lineage => plan.entry(app, command)?,
        Target::Key => plan.key(app, id).await?,
        Target::Reference => plan.bar(app, command.action, Bar::Reference(id.to_owned())).await?,
        Target::Signer => plan.bar(app, command.action, Bar::Signer(id.to_owned())).await?,
        Target::Zone => {
            let (zone, region) = (Some(id.to_owned()), None);
            plan.extent(app, Extent::Zone { zone, region });
        }
        Target::Cluster if id == app.policy().domain => plan.extent(app, Extent::Cluster),
        Target::Cluster => return Err(absent(&format!("this domain is {}", app.policy().domain))),
    }
    plan.set = match (command.action, &plan.over) {
        (Action::Lift, Some(over)) => {
            let standing = holds::standing(app, over);
            if standing.is_empty() {
                return Err(absent("nothing is suspended by this name"));
            }
            plan.given_back = standing.iter().map(|(hold, _)| hold.number).collect();
            set::sorted(standing.into_iter().flat_map(|(_, set)| set))
        }
        _ => {
            let roots: Vec<StatusIndex> = plan
                .nodes
                .iter()
                .map(|(_, entry)| *entry)
                .chain(plan.roots.iter().copied())
                .collect();
            let roots = set::sorted(roots);
            set::sorted(app.lineage.read(|graph| graph.closure(&roots)))
        }
    };
    plan.digest = set::shown(&plan.set, &plan.given_back);
    plan.subjects = app.lineage.read(|graph| {
        let subjects = plan.set.iter().filter_map(|entry| graph.get(entry));
        subjects.take(MAX_SHOWN).map(|entry| entry.subject).collect()
    });
    let handed_on = plan
        .ids
        .0
        .iter()
        .map(|id| format!("the off-line delegation {}", hex::encode(id)));
    plan.subjects.extend(handed_on);
    Ok(plan)
}

fn absent(detail: &str) -> Refusal {
    Refusal::new(RefusalCode::NotFound, detail)
}

impl Plan {
    fn node(&mut self, app: &App, name: &str) -> Result<(), Refusal> {
        self.nodes = vec![(name.to_owned(), entry_of(app, name)?)];
        self.subject = Some(name.to_owned());
        self.over = Some(Over::Subject(name.to_owned()));
        Ok(())
    }

    /// A workload by its subject, or an authorization by its id. One of a node is that node's.
    fn entry(&mut self, app: &App, command: &Command) -> Result<(), Refusal> {
        let id = command.id.as_str();
        let found = match command.target {
            Target::Workload => app.lineage.find(Id::Subject(id)),
            _ => {
                let cti: Option<[u8; 16]> = hex::decode(id).ok().and_then(|bytes| bytes.try_into().ok());
                let malformed = || Refusal::new(RefusalCode::ParameterMalformed, "id: expected 32 hexadecimal digits");
                app.lineage.find(Id::Authorization(&cti.ok_or_else(malformed)?))
            }
        };
        if let (None, Target::Lineage, Action::Revoke) = (&found, command.target, command.action) {
            return self.take_back(app, id);
        }
        if let (None, Target::Workload, Action::Lift) = (&found, command.target, command.action) {
            // What is held over a workload outlives what the workload was granted.
            self.over = Some(Over::Subject(id.to_owned()));
            self.subject = Some(id.to_owned());
            return Ok(());
        }
        let Entry { status, subject, .. } =
            found.ok_or_else(|| absent("no authorization of this id or subject is known"))?;
        match command.target {
            Target::Workload if subject.contains('@') => {
                self.roots = held_by(app, &subject);
                self.named = Some(subject.clone());
            }
            _ if subject.contains('@') => self.roots = vec![status],
            _ => self.nodes = vec![(subject.clone(), status)],
        }
        self.subject = Some(subject.clone());
        self.over = Some(Over::Subject(subject));
        Ok(())
    }

    /// What hangs below no authorization of this id may be handed on off-line: then the id itself is taken back.
    fn take_back(&mut self, app: &App, id: &str) -> Result<(), Refusal> {
        let id = hex::decode(id).ok().and_then(|bytes| bytes.try_into().ok());
        let taken_back::TakenBack { id, over, writes } =
            taken_back::taking(app, id.ok_or_else(|| absent("no authorization of this id is known"))?)?;
        self.ids = (vec![id], over);
        self.writes.extend(writes);
        Ok(())
    }

    /// Whoever was given the newest version of a key, which is released no more.
    async fn key(&mut self, app: &Arc<App>, name: &str) -> Result<(), Refusal> {
        let (entry, _) = keeper::read(&*app.store, name)?.ok_or_else(|| absent("there is no key of this name"))?;
        let version = entry.current().ok_or_else(|| absent("the key has no version"))?.number;
        let withheld = Withheld {
            name: name.to_owned(),
            version,
            read: app.head().size,
        };
        self.holders(app, &withheld, 0..withheld.read).await?;
        self.key = Some(withheld);
        let row = rows::WITHHELD.key(name.as_bytes()).map_err(internal)?;
        let number = version.max(entry.withheld);
        self.writes.push(Write::Put(row, number.to_be_bytes().to_vec()));
        Ok(())
    }

    /// Who was given the key, as these entries of the ledger have it, and holds something now.
    pub(super) async fn holders(&mut self, app: &Arc<App>, key: &Withheld, entries: Range<u64>) -> Result<(), Refusal> {
        let (reading, key) = (Arc::clone(app), key.clone());
        let looking = tokio::task::spawn_blocking(move || holders(&reading, &key.name, key.version, entries));
        let found = looking.await.map_err(internal)??;
        self.unread += found.unread;
        if found.names.is_empty() {
            return Ok(());
        }
        // Whichever of those of a name was given it: a label may be in use more than once.
        let is_holder = |subject: &str| found.names.binary_search_by(|name| name.as_str().cmp(subject)).is_ok();
        let held: BTreeSet<StatusIndex> = held_where(app, is_holder).into_iter().collect();
        for holder in found.names.iter().filter(|holder| !holder.contains('@')) {
            // Its record is marked, so that it has to show itself anew. A record nobody can read grants nothing.
            if let Ok(entry) = entry_of(app, holder)
                && held.contains(&entry)
            {
                self.nodes.push((holder.clone(), entry));
            }
        }
        self.roots.extend(held);
        Ok(())
    }

    /// Everybody whose rights rest on what is barred. To lift a bar takes nothing.
    async fn bar(&mut self, app: &Arc<App>, action: Action, bar: Bar) -> Result<(), Refusal> {
        let (mut barred, row, revision) = bars::read(&*app.store).map_err(unreadable)?;
        if action == Action::Lift {
            let place = barred.iter().position(|known| *known == bar);
            barred.remove(place.ok_or_else(|| absent("it is not barred"))?);
            // What is barred is in one row: who bars it once more writes that anew.
            let revision = revision.ok_or_else(|| absent("it is not barred"))?;
            self.given_back = vec![revision.get()];
            self.guards.push(Guard::Unchanged(row, revision));
        } else {
            if !is_known(app, &bar) {
                return Err(absent("the policy in force has nothing of this name"));
            }
            self.falls = falling(app, Some(&bar)).await;
            self.nodes = self
                .falls
                .iter()
                .map(|falls| (falls.name.clone(), falls.entry))
                .collect();
            self.bar = Some(bar.clone());
            barred.push(bar);
            barred.sort();
            barred.dedup();
            if barred.len() > MAX_BARS {
                let detail = format!("{MAX_BARS} references and signers are barred");
                return Err(Refusal::new(RefusalCode::BarsFull, detail));
            }
        }
        self.writes.push(bars::write(&barred).map_err(unreadable)?);
        Ok(())
    }

    /// Everything that hangs below the nodes of a zone, a region or the domain, as signed policy places them.
    pub(crate) fn extent(&mut self, app: &App, extent: Extent) {
        let policy = app.policy();
        let stands = |name: &str| match policy.inventory.by_name(name) {
            Lookup::Node(node) => extent.covers(node),
            _ => extent == Extent::Cluster,
        };
        self.live(app, stands);
        self.over = Some(Over::Nodes(extent));
    }

    fn live(&mut self, app: &App, stands: impl Fn(&str) -> bool) {
        {
            let attested = app.attested.lock().unwrap_or_else(PoisonError::into_inner);
            let here = attested.iter().filter(|(name, _)| stands(name));
            self.nodes = here.map(|(name, (_, entry))| (name.clone(), *entry)).collect();
        }
        self.nodes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        // What a node was granted that has not been heard of for long may still count below it.
        let lists = app.trust.lists();
        let counts = |entry: &StatusIndex| {
            let status = lists.get(entry.list).and_then(|list| list.status(entry.index));
            status == Some(Status::Valid)
        };
        self.roots = app.lineage.read(|graph| graph.nodes_where(&stands));
        self.roots.retain(counts);
    }
}

/// Whether any reference of the policy in force, or of a region's own, is of this name or signer.
fn is_known(app: &App, bar: &Bar) -> bool {
    let policy = app.policy();
    let mut sets = vec![policy.whole().references];
    sets.extend(
        policy
            .inventory
            .nodes()
            .iter()
            .map(|node| policy.demands_for(node).references),
    );
    sets.dedup_by_key(|set| set.digest());
    sets.iter()
        .any(|set| set.references().iter().any(|reference| bar.bars(reference)))
}
