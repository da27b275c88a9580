//! What enforcers report of the uses they let in: signed by enforcers that signed policy lists, each counted once.
//!
//! A report makes two things known: what was used in a tree, which policies may ask for (`scan` before `deploy`), and chains
//! with off-line links, which are edges of the lineage from then on (`docs/protocol.md`, section 6). Nothing that anybody
//! holds changes by a report.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError};

use sha2::{Digest as _, Sha256};
use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::usage::Outcome as UseOutcome;
use touchstone_authorization::{KeyRing, NamedKeys, Scope, UntrustedChain, Use, VerifiedChain, authorization_digest};
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_ledger::statement::{Kind, Outcome, Statement};
use touchstone_policies::PolicySet;
use touchstone_store::{Guard, Key, Write};

use super::record::{Tree, WorkloadRecord, scope_values};
use crate::app::App;
use crate::entry::{Effect, Entry, EntryError};
use crate::hello::internal;
use crate::node::status_value;
use crate::nodes;
use crate::presented;
use crate::problem::{Refusal, RefusalCode};
use crate::rows;
use crate::trust::number;

/// Most uses in one report.
pub const MAX_USES: usize = 32;

/// Largest report, in bytes.
pub const MAX_REPORT_BYTES: usize = MAX_USES * (6 << 10);

/// How old a use may be when it is reported, in milliseconds. Shorter than a nonce is kept, so that one counts once.
pub const MAX_USE_AGE_MS: u64 = 100_000;

/// Chains that are known by their digest, so that only a first use has to bring one.
pub const MAX_KNOWN_CHAINS: usize = 65_536;

/// How often a report is looked at again because a tree has changed meanwhile: whoever fetches keys without a pause must not
/// keep what it used from being counted.
const MAX_TRIES: u32 = 24;

const LIMITS: Limits = Limits {
    max_bytes: MAX_REPORT_BYTES,
    max_depth: 1,
    max_items: MAX_USES,
};

touchstone_cose::reason_codes! {
    /// Why one use of a report is not taken. The others of the report are.
    pub enum UseCode {
        Chain = "use-chain-unknown": "The chain of this use is not known here, or does not verify. Report it again with the chain.",
        Time = "use-time": "The use is more than 100 seconds old, or lies ahead. Report uses as they come.",
        Scope = "use-scope-not-held": "The chain of this use grants no such scope, so it cannot have been used.",
        Seen = "use-seen": "This use was reported before, and counts once.",
    }
}

/// What is known of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    subject: String,
    /// Who holds that entry.
    holder: String,
    /// The entry it stands and falls with.
    entry: StatusIndex,
    /// That of the node at the root.
    root: StatusIndex,
    scopes: Arc<[Scope]>,
}

/// Chains by digest, the oldest forgotten first.
#[derive(Debug, Default)]
pub struct KnownChains {
    by_digest: BTreeMap<[u8; 32], Known>,
    order: VecDeque<[u8; 32]>,
}

impl KnownChains {
    fn keep(&mut self, digest: [u8; 32], known: Known) {
        if self.by_digest.insert(digest, known).is_none() {
            self.order.push_back(digest);
        }
        while self.order.len() > MAX_KNOWN_CHAINS {
            if let Some(oldest) = self.order.pop_front() {
                self.by_digest.remove(&oldest);
            }
        }
    }
}

/// Takes a report: an array of signed uses of one enforcer. Gives, for each in its order, why it was not taken.
///
/// # Errors
/// A [`Refusal`]: nothing of it was taken.
pub async fn take(app: Arc<App>, report: Vec<u8>) -> Result<Vec<Option<UseCode>>, Refusal> {
    let report = Arc::new(report);
    let mut turn = None;
    for _ in 0..MAX_TRIES {
        let prepared = {
            let (app, report) = (Arc::clone(&app), Arc::clone(&report));
            tokio::task::spawn_blocking(move || prepare(&app, &report))
                .await
                .map_err(internal)??
        };
        let Some(entries) = prepared.entries else {
            return Ok(prepared.codes);
        };
        let mut conflict = false;
        for (entry, is_chain) in entries {
            match app.sequencer.record(entry).await {
                Ok(_) => {}
                // Another report of the same chain came first.
                Err(EntryError::Conflict { .. }) if is_chain => {}
                Err(EntryError::Conflict { .. } | EntryError::PolicyChanged) => {
                    conflict = true;
                    break;
                }
                Err(EntryError::Busy { .. }) => {
                    return Err(Refusal::new(RefusalCode::BrokerBusy, "too many decisions are waiting"));
                }
                Err(error) => return Err(Refusal::new(RefusalCode::BrokerStopping, error.to_string())),
            }
        }
        if !conflict {
            let mut chains = app.known_chains.lock().unwrap_or_else(PoisonError::into_inner);
            for (digest, known) in prepared.known {
                chains.keep(digest, known);
            }
            return Ok(prepared.codes);
        }
        if let (None, Some(root)) = (&turn, &prepared.root) {
            turn = app.trees.of(root).await;
        }
    }
    Err(Refusal::new(RefusalCode::PolicyChanged, "it changed again and again"))
}

struct Prepared {
    codes: Vec<Option<UseCode>>,
    known: Vec<([u8; 32], Known)>,
    /// What is to be recorded: chains first, then the uses; nothing where nothing was taken.
    entries: Option<Vec<(Entry, bool)>>,
    /// The first tree that uses are counted in.
    root: Option<StatusIndex>,
}

fn prepare(app: &App, report: &[u8]) -> Result<Prepared, Refusal> {
    let now_ms = app.clock.now_ms();
    let policy = app.live_policy(now_ms)?;
    if app.trust.is_stopped() {
        return Err(Refusal::new(RefusalCode::BrokerStopping, "the ledger has stopped"));
    }
    let uses = verified(&policy, report)?;
    let Some(enforcer) = uses.first().map(|used| used.enforcer.clone()) else {
        return Err(Refusal::new(RefusalCode::MessageMalformed, "a report of no use"));
    };
    let ring = presented::ring(&policy).map_err(internal)?;
    let mut codes = Vec::new();
    let mut known: BTreeMap<[u8; 32], Known> = BTreeMap::new();
    let mut new_chains: Vec<VerifiedChain> = Vec::new();
    let mut counts: BTreeMap<StatusIndex, BTreeMap<String, u64>> = BTreeMap::new();
    let mut taken: Vec<(Use, Known)> = Vec::new();
    let (mut guards, mut writes, mut seen) = (Vec::new(), Vec::new(), std::collections::BTreeSet::new());
    for used in uses {
        let age = now_ms.saturating_sub(used.at_ms);
        let ahead = used.at_ms.saturating_sub(now_ms);
        if age > MAX_USE_AGE_MS || ahead > policy.settings.timers.skew_ms {
            codes.push(Some(UseCode::Time));
            continue;
        }
        let row = nonce(&[b"use".as_slice(), used.enforcer.as_bytes(), &[0], &used.id])?;
        if !seen.insert(used.id) || app.store.get(&row).map_err(internal)?.is_some() {
            codes.push(Some(UseCode::Seen));
            continue;
        }
        let of_chain = match known.get(&used.chain_digest) {
            Some(known) => Some(known.clone()),
            None => find(app, &ring, &used, now_ms, &mut new_chains)?,
        };
        let Some(of_chain) = of_chain else {
            codes.push(Some(UseCode::Chain));
            continue;
        };
        known.insert(used.chain_digest, of_chain.clone());
        if used.outcome == UseOutcome::Allowed {
            if !of_chain.scopes.contains(&used.scope) {
                codes.push(Some(UseCode::Scope));
                continue;
            }
            let count = counts.entry(of_chain.root).or_default();
            *count.entry(used.scope.to_string()).or_default() += 1;
        }
        guards.push(Guard::Absent(row.clone()));
        writes.push(Write::Put(row, now_ms.to_be_bytes().to_vec()));
        codes.push(None);
        taken.push((used, of_chain));
    }
    if taken.is_empty() {
        return Ok(Prepared {
            codes,
            known: known.into_iter().collect(),
            entries: None,
            root: None,
        });
    }
    let first = counts.keys().next().copied();
    for (root, counts) in counts {
        // The place is still whose it was.
        let held = rows::LINEAGE.numbered(number(&root));
        let revision = app.store.get(&held).map_err(internal)?.map(|row| row.revision);
        guards.push(nodes::guard(&held, revision));
        let row = rows::tree(&root).map_err(internal)?;
        let found = app.store.get(&row).map_err(internal)?;
        let mut tree = match &found {
            None => Tree::default(),
            Some(found) => Tree::decode(&found.value).map_err(internal)?,
        };
        for (scope, count) in counts {
            // What is beyond is on record, and no policy is told of it: nothing more is issued for it.
            if tree.counts_no_more(&scope) {
                continue;
            }
            tree.count(scope, count);
        }
        guards.push(match found {
            None => Guard::Absent(row.clone()),
            Some(found) => Guard::Unchanged(row.clone(), found.revision),
        });
        writes.push(Write::Put(row, tree.encode()));
    }
    let mut entries = Vec::new();
    for chain in &new_chains {
        let statement = chain_statement(app, &enforcer, chain, now_ms);
        let row = nonce(&[b"chain".as_slice(), chain.digest()])?;
        let guards = vec![Guard::Absent(row.clone())];
        let writes = vec![Write::Put(row, now_ms.to_be_bytes().to_vec())];
        entries.push((event(app, &policy, statement, (guards, writes))?, true));
    }
    let statement = use_statement(app, &enforcer, &taken, now_ms);
    entries.push((event(app, &policy, statement, (guards, writes))?, false));
    Ok(Prepared {
        codes,
        known: known.into_iter().collect(),
        entries: Some(entries),
        root: first,
    })
}

/// The uses of a report: each signed, all by one enforcer of the policy.
fn verified(policy: &PolicySet, report: &[u8]) -> Result<Vec<Use>, Refusal> {
    let malformed = |what: String| Refusal::new(RefusalCode::MessageMalformed, what);
    let value = cbor::decode(report, LIMITS).map_err(|e| malformed(e.to_string()))?;
    let items = value.as_array().ok_or_else(|| malformed("an array of uses".into()))?;
    let listed = policy
        .enforcers
        .iter()
        .map(|(id, listed)| (id.to_owned(), listed.key.clone()));
    let keys = NamedKeys::new(listed).map_err(internal)?;
    let mut uses: Vec<Use> = Vec::with_capacity(items.len());
    for item in items {
        let bytes = item.as_bytes().ok_or_else(|| malformed("an array of uses".into()))?;
        let used = Use::verify(bytes, &keys, &policy.domain)
            .map_err(|error| Refusal::new(RefusalCode::EnforcerUnknown, error.to_string()))?;
        if uses.first().is_some_and(|first| first.enforcer != used.enforcer) {
            return Err(malformed("uses of two enforcers".into()));
        }
        uses.push(used);
    }
    Ok(uses)
}

/// What is known of the chain of a use: from before, or by the chain that came with it.
fn find(
    app: &App,
    ring: &KeyRing,
    used: &Use,
    now_ms: u64,
    new_chains: &mut Vec<VerifiedChain>,
) -> Result<Option<Known>, Refusal> {
    {
        let chains = app.known_chains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = chains.by_digest.get(&used.chain_digest) {
            return Ok(Some(known.clone()).filter(|known| is_held(app, known)));
        }
    }
    let Some(bytes) = used
        .chain
        .as_deref()
        .filter(|bytes| authorization_digest(bytes) == used.chain_digest)
    else {
        return Ok(None);
    };
    let Ok(chain) = UntrustedChain::parse(bytes).and_then(|chain| chain.verify(ring, now_ms)) else {
        return Ok(None);
    };
    let contents = chain.root().contents();
    let root = match contents.depth {
        0 => contents.status,
        _ => {
            let row = rows::workload(&contents.status).map_err(internal)?;
            let found = app.store.get(&row).map_err(internal)?;
            let record = found.and_then(|found| WorkloadRecord::decode(&found.value).ok());
            match record.filter(|record| record.status == contents.status) {
                Some(record) => record.root,
                None => return Ok(None),
            }
        }
    };
    let known = Known {
        subject: chain.subject(),
        holder: contents.subject.clone(),
        entry: contents.status,
        root,
        scopes: chain.scopes().into(),
    };
    if !is_held(app, &known) {
        return Ok(None);
    }
    if !chain.blocks().is_empty() {
        new_chains.push(chain);
    }
    Ok(Some(known))
}

/// Whether the entry that a chain begins with is still its holder's, below the same node's: a place that was given back is
/// another's soon, and a late report must not count in the tree of that one.
fn is_held(app: &App, known: &Known) -> bool {
    app.lineage.read(|graph| {
        let root = graph.above(&known.entry).last().copied().unwrap_or(known.entry);
        root == known.root && graph.get(&known.entry).is_some_and(|held| held.subject == known.holder)
    })
}

/// By which a use, or the first of a chain, counts once.
fn nonce(of: &[&[u8]]) -> Result<Key, Refusal> {
    let mut hasher = Sha256::new();
    hasher.update(b"touchstone-use/1");
    of.iter().for_each(|part| hasher.update(part));
    rows::NONCE.key(&hasher.finalize()).map_err(internal)
}

/// A chain was used for the first time: its links are edges from now on. Subject: its last holder. Body: 0 the enforcer, 1
/// subject, 2 entry and 3 `cti` of the authorization it begins with, 4 links: [id, label, thumbprint of the key, scopes, end
/// in Unix seconds, further depth], 5 digest of the chain.
fn chain_statement(app: &App, enforcer: &str, chain: &VerifiedChain, now_ms: u64) -> Statement {
    let root = chain.root().contents();
    let links = chain.blocks().iter().map(|block| {
        Value::array([
            Value::bytes(block.cti),
            Value::text(block.label.as_str()),
            Value::bytes(block.confirmation.thumbprint()),
            scope_values(&block.scopes),
            Value::Unsigned(block.expires),
            Value::Unsigned(block.depth.into()),
        ])
    });
    let body = Value::map([
        (0, Value::text(enforcer)),
        (1, Value::text(root.subject.as_str())),
        (2, status_value(&root.status)),
        (3, Value::bytes(root.cti)),
        (4, Value::array(links)),
        (5, Value::bytes(*chain.digest())),
    ]);
    Statement {
        subject: Some(chain.subject()),
        ..app
            .circumstances(now_ms)
            .statement(Kind::ChainReport, Outcome::Recorded, body)
    }
}

/// Uses as one enforcer reported them. Body: 0 the enforcer, 1 rows of [subject, entry, scope, when in Unix milliseconds,
/// what came of it, digest of the chain].
fn use_statement(app: &App, enforcer: &str, taken: &[(Use, Known)], now_ms: u64) -> Statement {
    let rows = taken.iter().map(|(used, known)| {
        Value::array([
            Value::text(known.subject.as_str()),
            status_value(&known.entry),
            Value::text(used.scope.to_string()),
            Value::Unsigned(used.at_ms),
            Value::text(used.outcome.as_str()),
            Value::bytes(used.chain_digest),
        ])
    });
    let body = Value::map([(0, Value::text(enforcer)), (1, Value::array(rows))]);
    app.circumstances(now_ms)
        .statement(Kind::UseReport, Outcome::Recorded, body)
}

fn event(
    app: &App,
    policy: &PolicySet,
    statement: Statement,
    (guards, writes): (Vec<Guard>, Vec<Write>),
) -> Result<Entry, Refusal> {
    Ok(Entry {
        statement: statement.sign(&app.keys.statement).map_err(internal)?,
        subject: None,
        policy: Some(policy.digest),
        guards,
        writes,
        parts: Vec::new(),
        effect: Effect::None,
    })
}
