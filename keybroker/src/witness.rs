//! Watching the ledgers of others, and keeping what others say of ours.
//!
//! A ledger that shows one history to some and another to others is caught by whoever saw both: a witness keeps the head
//! it cosigned last and cosigns only what continues it (`touchstone_ledger::witness`). Which logs are watched and whose
//! cosignatures count is said by the operator (`[witness]` in `broker.toml`) and by signed policy
//! ([`Witnessing::follow`], for the domains that are federated with this one).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, RwLock};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_ledger::checkpoint::VerifiedCheckpoint;
use touchstone_ledger::cosignature::CosignerKey;
use touchstone_ledger::note::{NoteError, NoteKey};
use touchstone_ledger::tree::root_at;
use touchstone_ledger::witness::{Request, Seen, WitnessError, observe as check};
use touchstone_policies::Job;
use touchstone_store::{Batch, CommitError, Guard, Key};

use crate::app::App;
use crate::clock::seconds;
use crate::hello::internal;
use crate::log::Stored;
use crate::problem::{Refusal, RefusalCode};
use crate::rows;

/// Most logs watched, and most witnesses known, of one source.
pub const MAX_KEYS: usize = 64;

/// A cosignature may be ahead of this broker's clock by so many seconds.
pub const MAX_AHEAD_SECONDS: u64 = 300;

/// What the operator says stands under this name.
const CONFIGURED: &str = "";

/// How often an observation is tried again because another one came between.
const TRIES: usize = 4;

/// `[witness]` of `broker.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WitnessConfig {
    /// Logs that are watched: verifier keys, `origin+hex+base64` (C2SP signed-note).
    pub logs: Vec<String>,
    /// Witnesses whose cosignatures of this ledger are kept: verifier keys of type 0x04.
    pub cosigners: Vec<String>,
}

/// The logs that are watched and the witnesses that count, by who says so.
#[derive(Debug, Default)]
pub struct Witnessing {
    known: RwLock<BTreeMap<String, Known>>,
    /// What was cosigned last, by the log's origin.
    signed: Mutex<BTreeMap<String, LastSigned>>,
}

/// A head that was cosigned in this run: it is signed once, however often it is shown.
#[derive(Debug)]
struct LastSigned {
    /// The witness key.
    kid: Vec<u8>,
    /// The text that was signed.
    text: String,
    line: String,
}

#[derive(Debug, Default)]
struct Known {
    logs: Vec<NoteKey>,
    cosigners: Vec<CosignerKey>,
}

impl Witnessing {
    /// What the operator says.
    ///
    /// # Errors
    /// [`NoteError`] with the first key that is none.
    pub fn new(config: &WitnessConfig) -> Result<Self, NoteError> {
        let logs = config.logs.iter().map(|key| NoteKey::parse(key));
        let cosigners = config.cosigners.iter().map(|key| CosignerKey::parse(key));
        let witnessing = Self::default();
        witnessing.follow(
            CONFIGURED,
            logs.collect::<Result<_, _>>()?,
            cosigners.collect::<Result<_, _>>()?,
        );
        Ok(witnessing)
    }

    /// Sets, in place of what was set before, which logs are watched and whose cosignatures count because of `source`, the
    /// name of a federated domain. At most [`MAX_KEYS`] of each are taken.
    pub fn follow(&self, source: &str, mut logs: Vec<NoteKey>, mut cosigners: Vec<CosignerKey>) {
        logs.truncate(MAX_KEYS);
        cosigners.truncate(MAX_KEYS);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if logs.is_empty() && cosigners.is_empty() {
            known.remove(source);
        } else {
            known.insert(source.to_owned(), Known { logs, cosigners });
        }
    }

    fn logs(&self, origin: &str) -> Vec<NoteKey> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let all = known.values().flat_map(|known| &known.logs);
        all.filter(|key| key.name() == origin).cloned().collect()
    }

    /// The line by this key for this very text, where it is the last one of its log.
    fn signed(&self, origin: &str, kid: &[u8], text: &str) -> Option<String> {
        let signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        let last = signed.get(origin)?;
        (last.kid == kid && last.text == text).then(|| last.line.clone())
    }

    /// Remembers the line; of logs that are no longer watched nothing is remembered.
    fn remember(&self, origin: &str, last: LastSigned) {
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        signed.retain(|origin, _| !self.logs(origin).is_empty());
        signed.insert(origin.to_owned(), last);
    }

    fn cosigners(&self) -> Vec<CosignerKey> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().flat_map(|known| &known.cosigners).cloned().collect()
    }
}

/// The name under which brokers of a domain cosign; its keys are those of job `witness` in the domain's keyset.
#[must_use]
pub fn cosigner_name(domain: &str) -> String {
    format!("{domain}/witness")
}

/// What came of a request to a witness.
#[derive(Debug)]
pub enum Observed {
    /// The signature line.
    Cosigned(String),
    /// Nothing was cosigned, and what was seen before stays.
    Refused(WitnessError),
}

/// Looks at a head of another log and cosigns it where it continues the one seen before. What is seen now is durable
/// before it is signed; of two at once, one is looked at again. A head that was seen already is not written again, and
/// one that was cosigned last gets the same line: whoever asks again and again costs neither a commit nor a signature.
///
/// # Errors
/// A [`Refusal`]: there is no key to cosign with, or the store failed.
pub fn observe(app: &App, request: &[u8]) -> Result<Observed, Refusal> {
    let request = match Request::decode(request) {
        Ok(request) => request,
        Err(error) => return Ok(Observed::Refused(error)),
    };
    let unavailable = || {
        Refusal::new(
            RefusalCode::WitnessUnavailable,
            "no witness key is in the signed keyset",
        )
    };
    let signer = app.keys.witness.as_ref().ok_or_else(unavailable)?;
    let now = seconds(app.clock.now_ms());
    let policy = app.policy();
    let (kid, public) = (signer.verifying_key().kid(), signer.verifying_key());
    policy.keyset.find(Job::Witness, &kid, now).ok_or_else(unavailable)?;
    let cosigner = CosignerKey::new(&cosigner_name(&policy.domain), &public).map_err(internal)?;
    let keys = app.witnessing.logs(request.origin());
    let row = row(rows::WITNESS, request.origin())?;
    for _ in 0..TRIES {
        let stored = app.store.get(&row).map_err(internal)?;
        let (guard, seen) = match stored {
            None => (Guard::Absent(row.clone()), None),
            Some(stored) => {
                let seen = read_seen(&stored.value).ok_or_else(|| internal("a head seen before cannot be read"))?;
                (Guard::Unchanged(row.clone(), stored.revision), Some(seen))
            }
        };
        let (found, checkpoint) = match check(seen.as_ref(), &request, &keys) {
            Ok(found) => found,
            Err(error) => {
                if matches!(error, WitnessError::Rewritten { .. } | WitnessError::Proof(_)) {
                    tracing::error!(target: "touchstone::event", event = "log_not_continued", origin = request.origin(), %error);
                }
                return Ok(Observed::Refused(error));
            }
        };
        if seen == Some(found) {
            if let Some(line) = app.witnessing.signed(request.origin(), &kid, checkpoint.text()) {
                return Ok(Observed::Cosigned(line));
            }
        } else {
            let mut batch = Batch::new();
            batch.guard(guard);
            batch.put(row.clone(), write_seen(&found));
            match app.store.commit(batch) {
                Ok(_) => {}
                Err(CommitError::Conflict { .. }) => continue,
                Err(error) => return Err(internal(error)),
            }
        }
        let time = u64::try_from(now).unwrap_or(0);
        let line = cosigner.cosign(checkpoint.text(), time, signer).map_err(internal)?;
        let last = LastSigned {
            kid: kid.to_vec(),
            text: checkpoint.text().to_owned(),
            line: line.clone(),
        };
        app.witnessing.remember(request.origin(), last);
        return Ok(Observed::Cosigned(line));
    }
    Err(Refusal::new(
        RefusalCode::BrokerBusy,
        "others ask for the same log at the same time",
    ))
}

/// Takes cosignatures of a head of this ledger. Gives how many count, of witnesses that are known here; of each the
/// newest is kept.
///
/// # Errors
/// A [`Refusal`]: not a head that this broker signed, none of a known witness, or a signature that does not verify.
pub fn take(app: &App, note: &[u8]) -> Result<usize, Refusal> {
    let refused = |detail: String| Refusal::new(RefusalCode::NotWitnessed, detail);
    let log = NoteKey::new(&app.origin, &app.keys.checkpoint.verifying_key()).map_err(internal)?;
    let checkpoint = VerifiedCheckpoint::open(note, &log).map_err(|e| refused(format!("{}: {e}", e.code())))?;
    let head = app.head();
    // Signed by this broker's own key, so this can be only if the ledger went back since.
    if checkpoint.size() > head.size {
        return Err(refused(format!("the ledger has {} entries", head.size)));
    }
    let root = root_at(checkpoint.size(), &Stored(&*app.store)).map_err(internal)?;
    if root != *checkpoint.root() {
        tracing::error!(target: "touchstone::event", event = "own_ledger_rewritten", size = checkpoint.size());
        return Err(refused(
            "ledger-rewritten: this ledger has another root at that size".into(),
        ));
    }
    let latest = u64::try_from(seconds(app.clock.now_ms()))
        .unwrap_or(0)
        .saturating_add(MAX_AHEAD_SECONDS);
    let mut taken = 0;
    for cosigner in app.witnessing.cosigners() {
        let found = cosigner.open(note).map_err(|e| refused(format!("{}: {e}", e.code())))?;
        let Some(found) = found.filter(|found| found.time <= latest) else {
            continue;
        };
        keep(app, &cosigner, &checkpoint, found.time, note)?;
        taken += 1;
    }
    match taken {
        0 => Err(refused("no cosignature of a witness that is known here".into())),
        taken => Ok(taken),
    }
}

/// The newest head of this ledger that each known witness cosigned, as notes; whoever reads them verifies them.
///
/// # Errors
/// A [`Refusal`]: the store.
pub fn held(app: &App) -> Result<Vec<String>, Refusal> {
    let mut notes = Vec::new();
    for cosigner in app.witnessing.cosigners() {
        let stored = app
            .store
            .get(&row(rows::COSIGNED, &cosigner.to_vkey())?)
            .map_err(internal)?;
        notes.extend(stored.and_then(|row| read_kept(&row.value)).map(|kept| kept.2));
    }
    Ok(notes)
}

fn keep(
    app: &App,
    cosigner: &CosignerKey,
    checkpoint: &VerifiedCheckpoint,
    time: u64,
    note: &[u8],
) -> Result<(), Refusal> {
    let row = row(rows::COSIGNED, &cosigner.to_vkey())?;
    let stored = app.store.get(&row).map_err(internal)?;
    let kept = stored.as_ref().and_then(|stored| read_kept(&stored.value));
    if kept.is_some_and(|(size, held, _)| (size, held) >= (checkpoint.size(), time)) {
        return Ok(());
    }
    let lines = cosigner.lines(note).map_err(internal)?;
    let log = NoteKey::new(&app.origin, &app.keys.checkpoint.verifying_key()).map_err(internal)?;
    let signed = log.sign(checkpoint.text(), &*app.keys.checkpoint).map_err(internal)?;
    let value = Value::array([
        Value::Unsigned(checkpoint.size()),
        Value::Unsigned(time),
        Value::text(format!("{signed}{lines}")),
    ]);
    let mut batch = Batch::new();
    batch.guard(match stored {
        None => Guard::Absent(row.clone()),
        Some(stored) => Guard::Unchanged(row.clone(), stored.revision),
    });
    batch.put(row, cbor::encode(&value));
    match app.store.commit(batch) {
        // Somebody brought one at the same time: one of the two is kept.
        Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
        Err(error) => Err(internal(error)),
    }
}

/// Names may be long and of any characters: rows are named by their digest.
fn row(namespace: touchstone_store::Namespace, name: &str) -> Result<Key, Refusal> {
    namespace.key(Sha256::digest(name).as_slice()).map_err(internal)
}

fn write_seen(seen: &Seen) -> Vec<u8> {
    cbor::encode(&Value::array([Value::Unsigned(seen.size), Value::bytes(seen.root)]))
}

fn read_seen(bytes: &[u8]) -> Option<Seen> {
    let value = cbor::decode(bytes, Limits::TOKEN).ok()?;
    let [size, root] = value.as_array()? else { return None };
    Some(Seen {
        size: size.as_u64()?,
        root: root.as_bytes()?.try_into().ok()?,
    })
}

fn read_kept(bytes: &[u8]) -> Option<(u64, u64, String)> {
    let value = cbor::decode(bytes, Limits::MESSAGE).ok()?;
    let [size, time, note] = value.as_array()? else {
        return None;
    };
    Some((size.as_u64()?, time.as_u64()?, note.as_text()?.to_owned()))
}
