//! Each domain is a witness of the other's ledger: whoever rewrites its log has to show a head that does not continue the
//! one its neighbours have seen.
//!
//! Who can connect does the asking, in both directions: fetches the neighbour's checkpoint with the proof that it
//! continues what was seen, cosigns it and hands the cosignature in; and shows its own to the neighbour and keeps the
//! cosignature that comes back. The rules are the ledger's (`touchstone_ledger::witness`); keys are those of the
//! neighbour's keyset. Nothing is asked while a ledger does not grow.

use std::sync::Arc;
use std::time::Duration;

use touchstone_client::BrokerClient;
use touchstone_cose::cbor::{self, Limits};
use touchstone_cose::key::VerifyingKey;
use touchstone_ledger::checkpoint::sign_checkpoint;
use touchstone_ledger::cosignature::CosignerKey;
use touchstone_ledger::note::NoteKey;
use touchstone_ledger::tree::{Hash, consistency_proof};
use touchstone_ledger::witness::{MAX_PROOF_LINES, Request, WitnessError};
use touchstone_policies::Job;

use super::keep::{endpoints, tls_of};
use super::peer::{Held, Peer};
use crate::app::App;
use crate::log::Stored;
use crate::witness::{self, Observed, cosigner_name};

/// How often it is looked whether a ledger has grown.
pub const WATCH_PERIOD: Duration = Duration::from_secs(5);

/// What a proof may make a decoder do.
const PROOF_LIMITS: Limits = Limits {
    max_bytes: 4 * 1024,
    max_depth: 2,
    max_items: MAX_PROOF_LINES + 2,
};

/// How far each side has seen the other, as far as this run knows.
#[derive(Default)]
struct Reached {
    theirs: u64,
    ours: u64,
}

/// Watches and lets itself be watched, for ever.
pub(super) async fn watch(app: Arc<App>, peer: Arc<Peer>) {
    let mut reached = Reached::default();
    let mut named = None;
    let mut client: Option<BrokerClient> = None;
    loop {
        tokio::time::sleep(WATCH_PERIOD).await;
        let Some(held) = peer.held() else { continue };
        if named.as_ref() != Some(&held.policy.keyset) {
            let (logs, cosigners) = keys(&held);
            app.witnessing.follow(&held.policy.domain, logs, cosigners);
            named = Some(held.policy.keyset.clone());
            client = None;
        }
        let entry = peer.entry();
        if entry.brokers.is_empty() {
            continue;
        }
        if client.is_none() {
            let opened = endpoints(&entry.brokers).and_then(|brokers| Ok(BrokerClient::new(brokers, tls_of(&held)?)));
            client = opened.ok();
        }
        let Some(client) = client.as_mut() else { continue };
        let grown = peer.view().is_some_and(|view| view.head().ledger_size > reached.theirs) || entry.push;
        if grown && let Err(error) = see(&app, client, &held, &mut reached).await {
            tracing::info!(target: "touchstone::federation", domain = held.policy.domain, error, "its ledger was not cosigned");
        }
        if app.head().size > reached.ours
            && let Err(error) = show(&app, client, &mut reached).await
        {
            tracing::debug!(target: "touchstone::federation", domain = held.policy.domain, error, "our ledger was not cosigned there");
        }
    }
}

/// The keys of its log, and those it cosigns with.
fn keys(held: &Held) -> (Vec<NoteKey>, Vec<CosignerKey>) {
    let domain = &held.policy.domain;
    let of_job = |job| {
        let entries = held.policy.keyset.keys.iter().filter(move |entry| entry.job == job);
        entries.map(|entry| &entry.key)
    };
    let log = |key: &VerifyingKey| NoteKey::new(&format!("{domain}/ledger"), key).ok();
    let cosigner = |key: &VerifyingKey| CosignerKey::new(&cosigner_name(domain), key).ok();
    (
        of_job(Job::Checkpoint).filter_map(log).collect(),
        of_job(Job::Witness).filter_map(cosigner).collect(),
    )
}

/// Looks at their newest head, cosigns it if it continues what was seen, and hands the cosignature in.
async fn see(app: &Arc<App>, client: &mut BrokerClient, held: &Held, reached: &mut Reached) -> Result<(), String> {
    let checkpoint = client.get("/v1/ledger/checkpoint").await.map_err(|e| e.to_string())?;
    let checkpoint = String::from_utf8(checkpoint).map_err(|e| e.to_string())?;
    let size = size_of(&checkpoint).ok_or("the checkpoint names no size")?;
    let mut old = reached.theirs;
    // What is held in the store counts; of what this run remembers, one correction is enough.
    for _ in 0..2 {
        let proof = match old {
            0 => Vec::new(),
            old if old >= size => Vec::new(),
            old => {
                let path = format!("/v1/ledger/consistency?old={old}&new={size}");
                proof(&client.get(&path).await.map_err(|e| e.to_string())?)?
            }
        };
        let request = Request {
            old: old.min(size),
            proof,
            checkpoint: checkpoint.clone(),
        };
        let observing = Arc::clone(app);
        let observed = tokio::task::spawn_blocking(move || witness::observe(&observing, request.encode().as_bytes()));
        match observed.await.map_err(|e| e.to_string())?.map_err(|e| e.detail)? {
            Observed::Cosigned(line) => {
                reached.theirs = size;
                let note = format!("{checkpoint}{line}");
                // Whether they know us is for their policy to say; what we have seen stays seen.
                let _ = client.post("/v1/ledger/cosignatures", note.into_bytes()).await;
                return Ok(());
            }
            Observed::Refused(WitnessError::OldSize { seen, .. }) if seen != old && seen <= size => old = seen,
            Observed::Refused(error) => {
                tracing::error!(
                    target: "touchstone::event",
                    event = "federated_ledger_refused",
                    domain = held.policy.domain,
                    code = error.code(),
                    %error
                );
                return Err(format!("{}: {error}", error.code()));
            }
        }
    }
    Err("what was seen of it changes at the same time".into())
}

/// Shows our newest head, and keeps the cosignature that comes back.
async fn show(app: &Arc<App>, client: &mut BrokerClient, reached: &mut Reached) -> Result<(), String> {
    let head = app.head();
    let key = &app.keys.checkpoint;
    let note = NoteKey::new(&app.origin, &key.verifying_key()).map_err(|e| e.to_string())?;
    let checkpoint = sign_checkpoint(&note, head.size, &head.root, &**key).map_err(|e| e.to_string())?;
    let mut old = reached.ours;
    for _ in 0..2 {
        let from = old;
        let store = Arc::clone(&app.store);
        let proof = tokio::task::spawn_blocking(move || match from {
            0 => Ok(Vec::new()),
            from => consistency_proof(from, head.size, &Stored(&*store)).map_err(|e| e.to_string()),
        });
        let request = Request {
            old,
            proof: proof.await.map_err(|e| e.to_string())??,
            checkpoint: checkpoint.clone(),
        };
        client.connect().await.map_err(|e| e.to_string())?;
        let sent = client
            .post_here("/v1/witness/add-checkpoint", request.encode().into_bytes())
            .await;
        let (status, body) = sent.map_err(|e| e.to_string())?;
        let text = String::from_utf8(body).map_err(|e| e.to_string())?;
        match status {
            200 => {
                let note = format!("{checkpoint}{text}");
                let taking = Arc::clone(app);
                let taken = tokio::task::spawn_blocking(move || witness::take(&taking, note.as_bytes()));
                taken.await.map_err(|e| e.to_string())?.map_err(|e| e.detail)?;
                reached.ours = head.size;
                return Ok(());
            }
            409 => match text.trim().parse::<u64>() {
                Ok(seen) if seen != old && seen <= head.size => old = seen,
                _ => return Err(text.chars().take(300).collect()),
            },
            _ => return Err(text.chars().take(300).collect()),
        }
    }
    Err("what it has seen of us changes at the same time".into())
}

/// The second line of a checkpoint: how many entries the log has.
fn size_of(checkpoint: &str) -> Option<u64> {
    checkpoint.lines().nth(1)?.parse().ok()
}

fn proof(bytes: &[u8]) -> Result<Vec<Hash>, String> {
    let shape = || "the proof is not an array of digests".to_owned();
    let value = cbor::decode(bytes, PROOF_LIMITS).map_err(|e| e.to_string())?;
    let hashes = value.as_array().ok_or_else(shape)?.iter();
    hashes
        .map(|hash| hash.as_bytes().and_then(|hash| hash.try_into().ok()).ok_or_else(shape))
        .collect()
}
