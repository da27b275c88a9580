//! Taking rights away, whatever the cause: the entries that it names and everything below them go out in one epoch, and
//! then one statement says why, how many, and exactly which.
//!
//! Taking away never waits (`docs/protocol.md`, section 7): [`out`] marks and sends before anything is written. What it
//! gives back must be handed in, whatever happens to who asked for it.

pub mod set;

use std::collections::BTreeMap;
use std::sync::PoisonError;

use touchstone_authorization::Status;
use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::{Kind, Outcome, Reason, Statement};
use touchstone_store::{Guard, Write};

use crate::app::App;
use crate::entry::{Effect, Entry, Recorded};
use crate::hello::{internal, unreadable};
use crate::lineage::Graph;
use crate::nodes;
use crate::problem::{Refusal, RefusalCode};
use crate::trust::{Mark, number};

/// Most roots that a statement lists by number; the set has them all.
pub const MAX_ROOTS_NAMED: usize = 64;

/// Most bytes of roots that a statement holds where they are more than it lists: some ten thousand of them.
pub const MAX_ROOTS_BYTES: usize = 32 * 1024;

/// Where they stand in its body, as a set.
pub const BODY_ROOTS: i64 = 4;

/// Label, among the inputs of a statement, of the set that was taken.
pub const SET: &str = "set";

/// First member of a statement's body that belongs to its cause; those before it are the same for all.
pub const BODY_CAUSE: i64 = 16;

/// Why something is taken, as its statement says it.
#[derive(Debug, Clone)]
pub struct Cause {
    /// The kind of statement: a revocation, a quarantine, a containment.
    pub kind: Kind,
    /// The node or workload it is about, where it is about one.
    pub subject: Option<String>,
    /// The reasons: at least one.
    pub reasons: Vec<Reason>,
    /// SHA-256 of what it rests on, by label: the decision, the command, the event.
    pub inputs: BTreeMap<String, [u8; 32]>,
    /// More members of the body, numbered from [`BODY_CAUSE`] on.
    pub body: Vec<(i64, Value)>,
}

impl Cause {
    /// A cause that rests on nothing else.
    #[must_use]
    pub fn new(kind: Kind, subject: Option<&str>, reason: Reason) -> Self {
        Self {
            kind,
            subject: subject.map(str::to_owned),
            reasons: vec![reason],
            inputs: BTreeMap::new(),
            body: Vec::new(),
        }
    }
}

/// What is to be taken.
#[derive(Debug)]
pub struct Taking {
    /// Why.
    pub cause: Cause,
    /// What becomes of it.
    pub mark: Mark,
    /// Nodes, each with the entry it holds: roots, whose records are marked where they are revoked.
    pub nodes: Vec<(String, StatusIndex)>,
    /// Other roots: entries of workloads.
    pub roots: Vec<StatusIndex>,
    /// A workload all of whose entries are roots, those too that it was granted since it was looked up.
    pub named: Option<String>,
    /// Off-line delegations beside, by id: those that are taken back, and those that are over.
    pub ids: (Vec<[u8; 16]>, Vec<[u8; 16]>),
    /// What must hold when it is recorded. Nothing, for what goes out is out; only what may go out twice has a guard.
    pub guards: Vec<Guard>,
    /// More rows, written in the commit that records it.
    pub writes: Vec<Write>,
    /// Digest of the set that was shown before: another one is not taken.
    pub expect: Option<[u8; 32]>,
}

impl Taking {
    /// One with nothing in it yet.
    #[must_use]
    pub const fn new(cause: Cause, mark: Mark) -> Self {
        Self {
            cause,
            mark,
            nodes: Vec::new(),
            roots: Vec::new(),
            named: None,
            ids: (Vec::new(), Vec::new()),
            guards: Vec::new(),
            writes: Vec::new(),
            expect: None,
        }
    }
}

fn changed(entries: usize) -> Refusal {
    let detail = format!("it is another set than the one that was shown, of {entries} entries now: look at it again");
    Refusal::new(RefusalCode::SetChanged, detail)
}

/// What went out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Out {
    /// The epoch it went out under.
    pub epoch: u64,
    /// Every entry that fell: the roots and what hangs below them, sorted.
    pub set: Vec<StatusIndex>,
}

/// What was taken, and is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its statement.
    pub recorded: Recorded,
    /// The epoch it went out under.
    pub epoch: u64,
    /// Every entry that fell.
    pub set: Vec<StatusIndex>,
}

/// Takes, and records it. Resolves when that is durable.
///
/// # Errors
/// The broker's failure. What went out stays out whatever fails afterwards.
pub async fn take(app: &App, taking: Taking) -> Result<Taken, Refusal> {
    let (entry, Out { epoch, set }) = out(app, taking)?;
    let recorded = app.sequencer.record(entry).await;
    let recorded = recorded.map_err(|error| Refusal::new(RefusalCode::BrokerStopping, error.to_string()))?;
    Ok(Taken { recorded, epoch, set })
}

/// Takes, now, and makes what is to be recorded of it: to be handed in at once.
///
/// # Errors
/// [`RefusalCode::SetChanged`] where another set was expected: then nothing is taken. Otherwise the broker's failure: then
/// no head goes out any more.
pub fn out(app: &App, taking: Taking) -> Result<(Entry, Out), Refusal> {
    let Taking {
        cause,
        mark,
        nodes,
        mut roots,
        named,
        ids: (back, over),
        guards,
        writes,
        expect,
    } = taking;
    let now_ms = app.clock.now_ms();
    roots.extend(nodes.iter().map(|(_, entry)| *entry));
    let all_roots = |graph: &Graph| {
        let named = named.map(|name| held_among(app, graph, |held| held == name));
        roots.extend(named.into_iter().flatten());
        set::sorted(roots)
    };
    // Nothing is hung below a root between the look at what hangs there and the mark.
    let (roots, set, withdrawal) = app.lineage.fall_found(all_roots, |roots, all| {
        let set = set::sorted(all.iter().copied());
        if expect.is_some_and(|expected| expected != set::digest(&set::encode(&set))) {
            return Err(changed(set.len()));
        }
        let withdrawal = app
            .trust
            .take_with(&set, mark, (&back, &over), now_ms)
            .map_err(internal)?;
        Ok((roots.to_vec(), set, withdrawal))
    })?;
    app.standings.wake();
    let epoch = withdrawal.epoch;
    if mark == Mark::Revoked {
        let mut attested = app.attested.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, _) in &nodes {
            attested.remove(name);
        }
    }
    let subject = cause.subject.as_deref().unwrap_or_default();
    tracing::info!(
        target: "touchstone::event",
        event = event(mark),
        node = nodes.first().map_or(subject, |(name, _)| name.as_str()),
        reason = cause.reasons.first().map_or("", |reason| reason.code.as_str()),
        epoch,
        entries = set.len(),
        at_ms = now_ms
    );
    let bytes = set::encode(&set);
    let statement = statement(app, cause, (mark, epoch), (&roots, &set), set::digest(&bytes), now_ms);
    let entry = Entry {
        statement: statement.sign(&app.keys.statement).map_err(internal)?,
        subject: None,
        policy: None,
        guards,
        writes,
        parts: vec![(set::digest(&bytes), bytes)],
        effect: Effect::Withdraw {
            nodes: match mark {
                Mark::Revoked => nodes.into_iter().map(|(name, _)| name).collect(),
                Mark::Suspended => Vec::new(),
            },
            entries: set.clone(),
            withdrawal,
        },
    };
    Ok((entry, Out { epoch, set }))
}

const fn event(mark: Mark) -> &'static str {
    match mark {
        Mark::Revoked => "withdrawn",
        Mark::Suspended => "suspended",
    }
}

/// Body: 0 the epoch it went out under, 1 how many entries fell, 2 "revoked" or "suspended", 3 the numbers of the roots, at
/// most [`MAX_ROOTS_NAMED`], 4 all of them as a set where they are more and it fits in [`MAX_ROOTS_BYTES`]; from [`BODY_CAUSE`] on what the cause says. The set is the input [`SET`].
fn statement(
    app: &App,
    cause: Cause,
    (mark, epoch): (Mark, u64),
    (roots, set): (&[StatusIndex], &[StatusIndex]),
    digest: [u8; 32],
    now_ms: u64,
) -> Statement {
    let Cause {
        kind,
        subject,
        reasons,
        mut inputs,
        body,
    } = cause;
    inputs.insert(SET.to_owned(), digest);
    let numbers = roots
        .iter()
        .take(MAX_ROOTS_NAMED)
        .map(|root| Value::Unsigned(number(root)));
    let members = [
        (0, Value::Unsigned(epoch)),
        (1, Value::Unsigned(set.len() as u64)),
        (2, Value::text(mark.as_str())),
        (3, Value::array(numbers)),
    ];
    let all = (roots.len() > MAX_ROOTS_NAMED).then(|| set::encode(roots));
    let all = all.filter(|bytes| bytes.len() <= MAX_ROOTS_BYTES);
    let all = all.map(|bytes| (BODY_ROOTS, Value::bytes(bytes)));
    let body = Value::map(members.into_iter().chain(all).chain(body));
    // Of a node that signs for itself in part, the policy that counted.
    let region = subject.as_deref().and_then(|name| region(app, name));
    Statement {
        region_policy: region.and_then(|region| app.policy().region_digest(&region)),
        subject,
        reasons: Reason::bounded(reasons),
        inputs,
        ..app.circumstances(now_ms).statement(kind, Outcome::Recorded, body)
    }
}

/// The region of a node, or of the node that a workload is on.
fn region(app: &App, subject: &str) -> Option<String> {
    let node = subject.split_once('@').map_or(subject, |(_, node)| node);
    let (record, _) = nodes::by_name(&*app.store, node).ok()??;
    Some(record.region)
}

/// Withdraws what the node `name` holds, and everything below it. Resolves when it is durable.
///
/// # Errors
/// [`RefusalCode::NotFound`] if no such node has enrolled; otherwise the broker's failure. A withdrawal that went out
/// stays out whatever fails afterwards.
pub async fn withdraw(app: &App, name: &str, reason: Reason) -> Result<Recorded, Refusal> {
    withdraw_with(app, name, reason, Vec::new(), None).await
}

/// The same, with more rows written in the commit that records it, and only where it takes the set of the digest `expect`.
///
/// # Errors
/// As [`withdraw`], and [`RefusalCode::SetChanged`].
pub async fn withdraw_with(
    app: &App,
    name: &str,
    reason: Reason,
    writes: Vec<Write>,
    expect: Option<[u8; 32]>,
) -> Result<Recorded, Refusal> {
    let holds = holds(app, name)?;
    let taking = Taking {
        nodes: vec![(name.to_owned(), holds)],
        writes,
        expect,
        ..Taking::new(Cause::new(Kind::Revocation, Some(name), reason), Mark::Revoked)
    };
    Ok(take(app, taking).await?.recorded)
}

/// The entry that the node `name` holds.
///
/// # Errors
/// [`RefusalCode::NotFound`] if no such node has enrolled; otherwise its row cannot be read.
pub fn holds(app: &App, name: &str) -> Result<StatusIndex, Refusal> {
    let found = nodes::by_name(&*app.store, name).map_err(unreadable)?;
    let (record, _) = found.ok_or_else(|| Refusal::new(RefusalCode::NotFound, "no node of this name has enrolled"))?;
    Ok(record.status)
}

/// The entries of the workload `subject` that have not fallen: a label may be in use more than once, and who takes the
/// workload away takes all of them.
#[must_use]
pub fn held_by(app: &App, subject: &str) -> Vec<StatusIndex> {
    held_where(app, |held| held == subject)
}

/// The same of all subjects, nodes and workloads, that `is` says yes to.
#[must_use]
pub fn held_where(app: &App, is: impl FnMut(&str) -> bool) -> Vec<StatusIndex> {
    app.lineage.read(|graph| held_among(app, graph, is))
}

fn held_among(app: &App, graph: &Graph, is: impl FnMut(&str) -> bool) -> Vec<StatusIndex> {
    let lists = app.trust.lists();
    let status = |entry: &StatusIndex| lists.get(entry.list).and_then(|list| list.status(entry.index));
    let mut entries = graph.all_where(is);
    entries.retain(|entry| status(entry) != Some(Status::Invalid));
    entries
}
