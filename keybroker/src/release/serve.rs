//! One request for a key: authenticated, decided, recorded, answered.
//!
//! Who cannot be told is refused and counted, and learns nothing of any key. Who can be is answered by a statement, allow
//! or deny, durable before the answer goes out; and the commit compares everything it was decided on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_authorization::{StatusIndex, authorization_digest};
use touchstone_cose::cbor::Value;
use touchstone_cose::encrypt::encrypt;
use touchstone_cose::key::Signer as _;
use touchstone_cose::sign1::{self, Protected};
use touchstone_evidence::message::{
    KEY_TYPE, RELEASE_TYPE, ReleaseAnswer, ReleaseRequest, ReleasedKey, STATEMENT_LABEL,
};
use touchstone_policies::{Job, PolicySet};
use touchstone_store::{Guard, Revision, Write};
use touchstone_verifier::inventory::Lookup;

use super::decide::NodeFacts;
use super::inputs::{ReleaseInputs, judge_request};
use super::keeper::{self, Keeper};
use super::key::KeyEntry;
use super::shown::{self, Shown};
use crate::app::App;
use crate::bootstrap;
use crate::clock::seconds;
use crate::entry::{Effect, Entry, EntryError};
use crate::hello::{internal, unreadable};
use crate::moment::{Moment, not_authenticated, unused};
use crate::node::NodeRecord;
use crate::nodes;
use crate::presented::{known, wire};
use crate::problem::{Refusal, RefusalCode};
use crate::rows;
use crate::server::ConnectionInfo;
use crate::session::random;
use crate::standing::Note;
use crate::tenants;
use crate::workload::decide::node_of;
use crate::workload::stored::{Asks, For, Stored, once};

/// How often a decision is made again because what it rested on has changed meanwhile: uses that are reported, and what is
/// issued, change the tree that a release is counted in.
const MAX_TRIES: u32 = 24;

/// Answers a request. Runs to its end also when the client has gone: a one-time key that was spent stays spent.
///
/// # Errors
/// A [`Refusal`]: nothing was decided, and nothing of any key is in it.
pub async fn serve(
    app: Arc<App>,
    connection: ConnectionInfo,
    request: ReleaseRequest,
) -> Result<ReleaseAnswer, Refusal> {
    let exporter = connection
        .exporter
        .export(EXPORTER_LABEL, &authorization_digest(&request.authorization))
        .map_err(|e| Refusal::new(RefusalCode::ChannelNotEndToEnd, e.to_string()))?;
    let answering = tokio::spawn(answer(app, request, exporter));
    let answer = answering.await.map_err(internal)??;
    connection.proven.store(true, Ordering::Relaxed);
    Ok(answer)
}

/// A decision, and what is to be recorded of it.
struct Prepared {
    entry: Entry,
    decided: Decided,
}

/// What is answered once a decision is recorded.
struct Decided {
    answer: ReleaseAnswer,
    /// What the source is to forget, where the version is spent by this.
    spent: Option<Vec<u8>>,
    node: String,
    /// The entry that its tree hangs below.
    root: Option<StatusIndex>,
}

async fn answer(app: Arc<App>, request: ReleaseRequest, exporter: [u8; 32]) -> Result<ReleaseAnswer, Refusal> {
    let request = Arc::new(request);
    let mut turn = None;
    for _ in 0..MAX_TRIES {
        let (handed_in, decided) = {
            let (app, request) = (Arc::clone(&app), Arc::clone(&request));
            // Decided and handed in on one thread that may wait for the disk.
            let attempt = move || {
                let Prepared { entry, decided } = prepare(&app, &request, &exporter)?;
                Ok((app.sequencer.hand_in(entry), decided))
            };
            tokio::task::spawn_blocking(attempt).await.map_err(internal)??
        };
        let Decided {
            mut answer,
            spent,
            node,
            root,
        } = decided;
        let recorded = match handed_in {
            Ok(handed_in) => handed_in.recorded().await,
            Err(error) => Err(error),
        };
        // What is spent on record is spent, whether it is given away or not.
        if let (Ok(_) | Err(EntryError::Fallen { .. }), Some(kept)) = (&recorded, spent) {
            let keeper = keeper::keeper(&app)?;
            tokio::task::spawn_blocking(move || keeper.forget(&kept))
                .await
                .map_err(internal)?;
        }
        let recorded = match recorded {
            Ok(recorded) => recorded,
            // Another request has used this proof, or what this rests on has changed or fallen: looked at again.
            // Who has to wait for others of the same tree is decided again after them.
            Err(EntryError::Conflict { .. } | EntryError::PolicyChanged | EntryError::Fallen { .. }) => {
                if let (None, Some(root)) = (&turn, &root) {
                    turn = app.trees.of(root).await;
                }
                continue;
            }
            Err(EntryError::Busy { .. }) => {
                return Err(Refusal::new(RefusalCode::BrokerBusy, "too many decisions are waiting"));
            }
            Err(error) => return Err(Refusal::new(RefusalCode::BrokerStopping, error.to_string())),
        };
        tracing::info!(
            target: "touchstone::event",
            event = "key_release",
            node = %node,
            key = %request.key,
            allow = answer.sealed.is_some(),
            entry = recorded.index,
            at_ms = app.clock.now_ms()
        );
        answer.receipt = recorded.receipt;
        return Ok(answer);
    }
    Err(Refusal::new(RefusalCode::PolicyChanged, "it changed again and again"))
}

fn prepare(app: &App, request: &ReleaseRequest, exporter: &[u8; 32]) -> Result<Prepared, Refusal> {
    let moment = Moment::now(app)?;
    let asked = judge_request(request, exporter, &moment.policy, &moment.state(), moment.now_ms).map_err(internal)?;
    let Some((subject, nonce)) = known(&asked) else {
        return Err(not_authenticated(RefusalCode::ReleaseRefused, &asked.refusals));
    };
    let nonce_row = unused(app, &nonce, RefusalCode::ReleaseRefused)?;
    let setting = moment.setting(&subject.contents().status, *exporter);
    let Moment {
        now_ms, policy, lists, ..
    } = moment;
    let contents = subject.contents();
    // What runs on a node asks for what its node showed, and is answered under its node's receive key.
    let name = node_of(&contents.subject);
    let owner = match policy.inventory.by_name(name) {
        Lookup::Node(node) => node.owner.as_deref(),
        _ => None,
    };
    tenants::count(app, &policy, owner)?;
    let keeper = keeper::keeper(app)?;
    if contents.depth == 0 {
        // Its own word: what a workload says is not the node's.
        app.standings.note(&policy, name, Note::Heard, now_ms);
    }
    // Within the grace it keeps what it has. A key would be something new, and one that nobody can take back.
    if app.standings.is_late(name) {
        let detail = "the node has missed its deadline: no key leaves for it until it attests";
        return Err(Refusal::new(RefusalCode::NodeStale, detail));
    }
    let record = nodes::by_name(&*app.store, name).map_err(unreadable)?;
    let shown = shown::read(&*app.store, name)?;
    // Before the key, whose entry says up to which version it is withheld: what is withheld after this look sends the
    // release back.
    let withheld = match rows::WITHHELD.key(request.key.as_bytes()) {
        Ok(_) => keeper::withheld(&*app.store, &request.key)?.1,
        Err(_) => None,
    };
    let root = record.as_ref().map(|(record, _)| record.status);
    let asks = Asks {
        entry: contents.status,
        is_node: contents.depth == 0,
        root,
        wanted: For::Itself,
    };
    let times = (now_ms, policy.settings.timers.skew_ms);
    let stored = Stored::read(&*app.store, &lists, &asks, times)?;
    // A name that no key can have is looked up as one that none has.
    let key = keeper::read(&*app.store, &request.key)?;
    let inputs = ReleaseInputs {
        setting,
        request: request.clone(),
        key: key
            .as_ref()
            .map(|(entry, revision)| (entry.without_secrets(), revision.get())),
        node: record
            .as_ref()
            .map(|(record, revision)| (NodeFacts::from(record), revision.get())),
        shown: shown.as_ref().map(|(shown, revision)| (shown.clone(), revision.get())),
        blind: random().map_err(internal)?,
        ancestry: Some(stored.ancestry.clone()),
    };
    let decided = inputs.decide(&asked, &policy).map_err(internal)?;
    let allowed = decided.reasons.is_empty();
    let digest = decided.statement.digest().map_err(internal)?;
    let signed = decided.statement.sign(&app.keys.statement).map_err(internal)?;
    // Judged already: each of them is there.
    let sealed = match (&key, decided.version, &shown) {
        (Some((entry, _)), Some(number), Some((shown, _))) if allowed => {
            Some(seal(app, &policy, &keeper, (entry, number), shown, (&digest, now_ms))?)
        }
        _ if allowed => return Err(internal("a release without a key")),
        _ => None,
    };

    let (inputs_digest, inputs_record) = decided.record;
    let mut guards = stored.guards;
    guards.extend([
        Guard::Absent(nonce_row.clone()),
        guard(rows::NODE.key(name.as_bytes()), revision(&record))?,
        guard(rows::SHOWN.key(name.as_bytes()), revision(&shown))?,
    ]);
    if let Ok(row) = rows::KEY.key(request.key.as_bytes()) {
        guards.push(guard(Ok(row), revision(&key))?);
        guards.push(guard(rows::WITHHELD.key(request.key.as_bytes()), withheld)?);
    }
    let mut writes = vec![
        Write::Put(nonce_row, now_ms.to_be_bytes().to_vec()),
        Write::Put(rows::INPUTS.key(&inputs_digest).map_err(internal)?, inputs_record),
    ];
    if let (true, bootstrap::ACTION, Some((shown, _))) = (allowed, bootstrap::action_of(&request.key), &shown) {
        let given = Shown {
            disk_key_given: true,
            ..shown.clone()
        };
        writes.push(given.write(name)?);
    }
    // A release is a use of its right, and the broker saw it: policies are told of it from the next request on, and of two
    // at once only one is decided on the number before.
    if let (Some(used), Some(root)) = (decided.used, root) {
        let mut tree = stored.ancestry.tree.map(|(tree, _)| tree).unwrap_or_default();
        tree.count(used, 1);
        writes.push(Write::Put(rows::tree(&root).map_err(internal)?, tree.encode()));
    }
    let mut spent = None;
    if let (true, Some((entry, _)), Some(version)) = (allowed, &key, decided.version)
        && entry.settings.one_time
    {
        let (entry, kept) = without(entry, version);
        spent = kept;
        writes.push(Write::Put(
            rows::KEY.key(request.key.as_bytes()).map_err(internal)?,
            entry.encode(),
        ));
    }
    Ok(Prepared {
        decided: Decided {
            answer: ReleaseAnswer {
                statement: signed.bytes.clone(),
                receipt: Vec::new(),
                reasons: wire(&decided.reasons),
                sealed,
            },
            node: name.to_owned(),
            root,
            spent,
        },
        entry: Entry {
            statement: signed,
            subject: None,
            policy: Some(policy.digest),
            guards: once(guards),
            writes,
            parts: decided.parts,
            effect: if allowed {
                Effect::Release {
                    rests_on: rests_on(contents.status, record.as_ref().map(|(record, _)| record)),
                }
            } else {
                Effect::None
            },
        },
    })
}

/// What a release to the holder of `entry` rests on: that, and what its node holds.
pub(crate) fn rests_on(entry: StatusIndex, node: Option<&NodeRecord>) -> Vec<StatusIndex> {
    let node = node.map(|node| node.status).filter(|node| *node != entry);
    std::iter::once(entry).chain(node).collect()
}

/// The answer's inside: COSE_Sign1 over COSE_Encrypt to the attested receive key.
fn seal(
    app: &App,
    policy: &PolicySet,
    keeper: &Keeper,
    (entry, number): (&KeyEntry, u64),
    shown: &Shown,
    (statement, now_ms): (&[u8; 32], u64),
) -> Result<Vec<u8>, Refusal> {
    let unavailable = || {
        Refusal::new(
            RefusalCode::ReleaseUnavailable,
            "the release key is not in the keyset now",
        )
    };
    let signer = app.keys.release.as_ref().ok_or_else(unavailable)?;
    let kid = signer.kid();
    if policy.keyset.find(Job::Release, &kid, seconds(now_ms)).is_none() {
        return Err(unavailable());
    }
    let (Some(version), Some(receive_key)) = (entry.version(Some(number)), &shown.receive_key) else {
        return Err(internal("a release without a key"));
    };
    let secret = keeper.secret(entry, version).map_err(|error| {
        tracing::error!(%error, key = entry.settings.name, "a secret does not open");
        Refusal::new(RefusalCode::KeySourceFailed, "the broker's log says more")
    })?;
    let content = ReleasedKey {
        name: entry.settings.name.clone(),
        version: version.number,
        ends: entry.ends(version),
        secret,
    }
    .encode();
    let encrypted = encrypt(receive_key, kid, KEY_TYPE, &content, statement).map_err(internal)?;
    let protected = Protected {
        extra: vec![(STATEMENT_LABEL, Value::bytes(*statement))],
        ..Protected::typ(RELEASE_TYPE)
    };
    sign1::sign(signer, &protected, &encrypted, &[]).map_err(internal)
}

/// The key without the secret of one version, and what was kept of that.
fn without(entry: &KeyEntry, number: u64) -> (KeyEntry, Option<Vec<u8>>) {
    let mut entry = entry.clone();
    let version = entry.versions.iter_mut().find(|version| version.number == number);
    let kept = version.and_then(|version| version.kept.take());
    (entry, kept)
}

fn revision<T>(row: &Option<(T, Revision)>) -> Option<Revision> {
    row.as_ref().map(|(_, revision)| *revision)
}

fn guard(
    key: Result<touchstone_store::Key, touchstone_store::KeyError>,
    revision: Option<Revision>,
) -> Result<Guard, Refusal> {
    let key = key.map_err(internal)?;
    Ok(match revision {
        None => Guard::Absent(key),
        Some(revision) => Guard::Unchanged(key, revision),
    })
}
