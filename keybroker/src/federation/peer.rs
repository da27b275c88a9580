//! What is held of one other domain: its repository, verified from the root our policy leads to, and its trust state,
//! verified under that repository's keyset. Whoever brings either: it is taken if it verifies and is not older.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::{MutexGuard, watch};
use tokio::time::Instant;
use touchstone_authorization::trust_frame::TrustFrame;
use touchstone_authorization::{KeyRing, TrustHead, TrustStateError, TrustView};
use touchstone_client::follow::{Views, take};
use touchstone_policies::{
    FederatedDomain, ForeignPolicy, Job, PolicyError, RepositoryCopy, RoleVersions, load_carried,
};

use super::relay::Relay;
use crate::clock::seconds;

/// Its repository, as it was signed.
const COPY: &str = "repository.cbor";
/// Its trust state when it was carried here by hand.
const FRAME: &str = "frame.cbor";
/// The highest versions that were accepted.
const VERSIONS: &str = "versions.json";
/// The highest (generation, epoch) of its trust state that was accepted.
const STATE: &str = "state.json";
/// What the ledger says last was taken.
const RECORDED: &str = "recorded.json";
/// A bundle that is pushed is looked into this long after the one before, unless it is held already.
pub const PUSH_PERIOD: Duration = Duration::from_secs(1);
/// How long one waits for that.
pub const PUSH_WAIT: Duration = Duration::from_secs(5);

/// How something of another domain came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// We fetched it.
    Followed,
    /// That domain sent it.
    Pushed,
    /// Somebody carried it.
    Carried,
    /// It was here before this start.
    Kept,
}

impl Way {
    /// The word in statements.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Followed => "followed",
            Self::Pushed => "pushed",
            Self::Carried => "carried",
            Self::Kept => "kept",
        }
    }
}

/// Why something of another domain is not taken. What is held of it stays held and grows old.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// Nothing leads to its root yet.
    #[error("the domain on the way to it has not been heard of yet, or no longer names its root")]
    RootUnknown,
    /// Its repository.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Its trust state.
    #[error("{}: {}", .0.code(), .0)]
    TrustState(#[from] TrustStateError),
    /// Nothing is known of its keys yet.
    #[error("its repository has not been copied yet")]
    KeysUnknown,
    /// It cannot be kept.
    #[error("cannot write {}: {detail}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        detail: String,
    },
}

/// Its repository, verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// What it says.
    pub policy: ForeignPolicy,
    /// Keys of its trust state.
    pub trust_state_keys: KeyRing,
    /// Its bytes, as enforcers are given them.
    pub copy: Bytes,
    /// Their digest.
    pub digest: [u8; 32],
    /// Its timestamp.
    pub timestamp: Vec<u8>,
}

/// The highest versions that were accepted, and under which root: one that is trusted again by command begins anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    /// SHA-256 of the root, hexadecimal. Empty for a record that could not be read: it stands for every root.
    root: String,
    versions: RoleVersions,
}

impl Accepted {
    /// What nothing is above.
    fn unreadable() -> Self {
        Self {
            root: String::new(),
            versions: RoleVersions {
                root: u64::MAX,
                ..RoleVersions::default()
            },
        }
    }

    fn under(&self, root: &str) -> bool {
        self.root.is_empty() || self.root == root
    }
}

/// The last trust state that was accepted, whatever way it came, and under which root; see [`Accepted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reached {
    root: String,
    generation: u32,
    epoch: u64,
}

impl Reached {
    fn unreadable() -> Self {
        Self {
            root: String::new(),
            generation: u32::MAX,
            epoch: u64::MAX,
        }
    }

    fn under(&self, root: &str) -> bool {
        self.root.is_empty() || self.root == root
    }
}

/// What the ledger says was taken: what is recorded is everything but a new timestamp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recorded {
    /// SHA-256 of the root, hexadecimal.
    domain_root: String,
    /// Version of the root in force.
    root: u64,
    /// Version of the targets.
    targets: u64,
}

impl Recorded {
    fn of(held: &Held) -> Self {
        Self {
            domain_root: hex::encode(held.policy.root_digest),
            root: held.policy.versions.root,
            targets: held.policy.versions.targets,
        }
    }
}

/// One other domain.
pub struct Peer {
    folder: PathBuf,
    entry: RwLock<FederatedDomain>,
    held: watch::Sender<Option<Arc<Held>>>,
    floors: Mutex<Option<Accepted>>,
    reached: Mutex<Option<Reached>>,
    /// Views of one root: those of another begin anew, and whoever still follows the one before puts them nowhere.
    views: RwLock<Views>,
    refused: Mutex<Option<String>>,
    /// One copy is taken over at a time, whoever brought it, and only if it is not older then: two cannot overtake each other.
    taking: tokio::sync::Mutex<()>,
    /// What was recorded last; held while something is taken and recorded.
    recording: tokio::sync::Mutex<Option<Recorded>>,
    /// When a pushed bundle was looked into last; held while one is.
    pushed: tokio::sync::Mutex<Option<Instant>>,
    /// Its trust state, made for our enforcers.
    pub(crate) relay: Arc<Relay>,
}

impl Peer {
    pub(super) fn new(entry: FederatedDomain, folder: PathBuf) -> Self {
        let floors = record(&folder, VERSIONS, Accepted::unreadable);
        let reached = record(&folder, STATE, Reached::unreadable);
        // Where it cannot be read, once too often is recorded.
        let recorded = std::fs::read(folder.join(RECORDED)).ok();
        let recorded = recorded.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            folder,
            entry: RwLock::new(entry),
            held: watch::channel(None).0,
            floors: Mutex::new(floors),
            reached: Mutex::new(reached),
            views: RwLock::new(new_views()),
            refused: Mutex::default(),
            taking: tokio::sync::Mutex::default(),
            recording: tokio::sync::Mutex::new(recorded),
            pushed: tokio::sync::Mutex::default(),
            relay: Arc::default(),
        }
    }

    /// What our policy says of it.
    #[must_use]
    pub fn entry(&self) -> FederatedDomain {
        self.entry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn replace_entry(&self, entry: FederatedDomain) {
        *self.entry.write().unwrap_or_else(PoisonError::into_inner) = entry;
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.entry.read().unwrap_or_else(PoisonError::into_inner).name.clone()
    }

    /// Its repository, where one was taken.
    #[must_use]
    pub fn held(&self) -> Option<Arc<Held>> {
        self.held.borrow().clone()
    }

    /// Wakes when another one is taken.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<Arc<Held>>> {
        self.held.subscribe()
    }

    /// Its last trust state that verified; it may be stale.
    #[must_use]
    pub fn view(&self) -> Option<Arc<TrustView>> {
        self.views().borrow().clone()
    }

    /// Where its views are put: another place once its root is another one.
    #[must_use]
    pub fn views(&self) -> Views {
        Arc::clone(&self.views.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why the last thing that came of it was not taken, as long as nothing newer was.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes whether the last try went well.
    pub fn note<T>(&self, outcome: &Result<T, String>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = outcome.as_ref().err().cloned();
    }

    /// Whether exactly this is held already, under this root, and still counts: then there is nothing to verify.
    #[must_use]
    pub fn holds(&self, digest: &[u8; 32], root: Option<&[u8]>, now_ms: u64) -> bool {
        let same = |held: &Held| {
            held.digest == *digest
                && root.is_some_and(|root| *Sha256::digest(root) == held.policy.root_digest)
                && seconds(now_ms) < held.policy.expires
        };
        self.held().is_some_and(|held| same(&held))
    }

    /// Waits until a pushed bundle may be looked into; no other is for as long as what this gives is held. None where too
    /// many wait, or one takes long: what we fetch ourselves waits for none of them.
    pub async fn turn(&self) -> Option<MutexGuard<'_, Option<Instant>>> {
        let turn = async {
            let mut last = self.pushed.lock().await;
            if let Some(last) = *last {
                tokio::time::sleep_until(last + PUSH_PERIOD).await;
            }
            *last = Some(Instant::now());
            last
        };
        tokio::time::timeout(PUSH_WAIT, turn).await.ok()
    }

    /// Nothing else is recorded of it for as long as this is held.
    pub(super) async fn recording(&self) -> MutexGuard<'_, Option<Recorded>> {
        self.recording.lock().await
    }

    /// What is held and not on record.
    pub(super) fn unrecorded(&self, recorded: Option<&Recorded>) -> Option<Arc<Held>> {
        self.held().filter(|held| recorded != Some(&Recorded::of(held)))
    }

    /// Remembers that this is on record.
    pub(super) async fn set_recorded(&self, recorded: &mut Option<Recorded>, held: &Held) -> Result<(), PeerError> {
        let now = Recorded::of(held);
        self.keep(RECORDED, serde_json::to_vec(&now).unwrap_or_default().into())
            .await?;
        *recorded = Some(now);
        Ok(())
    }

    /// Takes a copy of its repository, verified from `root` and not older than any before, and keeps it. What is held
    /// already is not verified again.
    ///
    /// # Errors
    /// [`PeerError`]; what is held stays.
    pub async fn take_copy(
        &self,
        copy: &RepositoryCopy,
        root: Option<Vec<u8>>,
        frame: Option<&[u8]>,
        now_ms: u64,
    ) -> Result<(), PeerError> {
        let root = root.ok_or(PeerError::RootUnknown)?;
        match self.verify_copy(copy, &root, frame, now_ms).await? {
            Some(held) => self.accept(held).await,
            None => Ok(()),
        }
    }

    /// Verifies a copy of its repository from `root`, not older than any before. None where it is held already. Nothing is
    /// locked meanwhile, however long that takes: what is taken over is looked at once more by [`Self::accept`].
    ///
    /// # Errors
    /// [`PeerError`]
    pub(super) async fn verify_copy(
        &self,
        copy: &RepositoryCopy,
        root: &[u8],
        frame: Option<&[u8]>,
        now_ms: u64,
    ) -> Result<Option<Arc<Held>>, PeerError> {
        let digest = copy.digest();
        if self.holds(&digest, Some(root), now_ms) {
            return Ok(None);
        }
        let entry = self.entry();
        let floors = self.versions_under(&hex::encode(Sha256::digest(root)));
        let age = entry
            .accept
            .as_ref()
            .and_then(|accept| accept.narrowing.max_state_age_ms());
        let carried = frame.zip(age);
        let policy = load_carried(copy, root, floors.as_ref(), &entry.name, now_ms, carried).await?;
        Ok(Some(Arc::new(Held {
            trust_state_keys: policy.ring(Job::TrustState)?,
            copy: copy.encode().into(),
            digest,
            timestamp: copy.timestamp().unwrap_or_default().to_vec(),
            policy,
        })))
    }

    /// The versions that were accepted under this root.
    fn versions_under(&self, root_digest: &str) -> Option<RoleVersions> {
        let accepted = self.floors.lock().unwrap_or_else(PoisonError::into_inner);
        let accepted = accepted.as_ref().filter(|accepted| accepted.under(root_digest));
        accepted.map(|accepted| accepted.versions.clone())
    }

    /// Takes over what was verified, if it is not older than what was taken over meanwhile, and keeps it.
    ///
    /// # Errors
    /// [`PeerError`]; what is held stays.
    pub(super) async fn accept(&self, held: Arc<Held>) -> Result<(), PeerError> {
        let _one = self.taking.lock().await;
        let root_digest = hex::encode(held.policy.root_digest);
        let floors = self.versions_under(&root_digest);
        if let Some(floors) = &floors {
            held.policy.versions.not_below(floors)?;
        }
        let before = self.held();
        let found = &held.policy.versions;
        let versions = floors.map_or_else(|| found.clone(), |floors| floors.raised_to(found));
        // The record of versions first: what is used was never above it.
        let accepted = Accepted {
            root: root_digest,
            versions,
        };
        self.keep(VERSIONS, serde_json::to_vec(&accepted).unwrap_or_default().into())
            .await?;
        self.keep(COPY, held.copy.clone()).await?;
        *self.floors.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepted);
        let founded_anew = before
            .as_ref()
            .is_some_and(|before| before.policy.root_digest != held.policy.root_digest);
        self.held.send_replace(Some(Arc::clone(&held)));
        if founded_anew {
            // After the keys: what is still verified under the ones before goes where nobody looks.
            *self.views.write().unwrap_or_else(PoisonError::into_inner) = new_views();
            let _ = std::fs::remove_file(self.folder.join(FRAME));
            // Who has bound something to the views before, in between, looks again.
            self.held.send_modify(|_| ());
        }
        Ok(())
    }

    /// Takes what an earlier run kept, as far as it still verifies.
    ///
    /// # Errors
    /// [`PeerError`]
    pub async fn take_kept(&self, root: Option<Vec<u8>>, now_ms: u64) -> Result<(), PeerError> {
        let Ok(bytes) = std::fs::read(self.folder.join(COPY)) else {
            return Ok(());
        };
        let Ok(copy) = RepositoryCopy::decode(&bytes) else {
            return Ok(());
        };
        let frame = std::fs::read(self.folder.join(FRAME)).ok();
        self.take_copy(&copy, root, frame.as_deref(), now_ms).await?;
        match frame {
            Some(frame) => self.take_frame(&frame, now_ms),
            None => Ok(()),
        }
    }

    /// Takes a trust-state frame as the successor of what is held.
    ///
    /// # Errors
    /// [`PeerError`]
    pub fn take_frame(&self, frame: &[u8], now_ms: u64) -> Result<(), PeerError> {
        let views = self.views();
        let held = self.held().ok_or(PeerError::KeysUnknown)?;
        let known = views.borrow().clone();
        let heard = |view: Arc<TrustView>| TrustFrame::parse(frame).is_ok_and(|frame| frame.head == view.head_bytes());
        if known.is_some_and(heard) {
            // No news: nobody is woken for it.
            return Ok(());
        }
        let floor = self.state_floor(&held);
        take(
            &views,
            frame,
            &held.trust_state_keys,
            &held.policy.domain,
            floor,
            now_ms,
        )?;
        self.keep_reached()
    }

    /// (generation, epoch) below which no state of it is taken.
    pub(crate) fn state_floor(&self, held: &Held) -> Option<(u32, u64)> {
        let root = hex::encode(held.policy.root_digest);
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let reached = reached.as_ref().filter(|reached| reached.under(&root));
        reached.map(|reached| (reached.generation, reached.epoch))
    }

    /// Keeps how far its state has come, over restarts.
    ///
    /// # Errors
    /// [`PeerError::Io`]
    pub(crate) fn keep_reached(&self) -> Result<(), PeerError> {
        let (Some(view), Some(held)) = (self.view(), self.held()) else {
            return Ok(());
        };
        let (generation, epoch) = (view.head().generation, view.head().epoch);
        let root = hex::encode(held.policy.root_digest);
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let before = reached.as_ref().filter(|before| before.under(&root));
        if before.is_some_and(|before| (before.generation, before.epoch) >= (generation, epoch)) {
            return Ok(());
        }
        // A state of the root before, in the moment in which another one is taken over, says nothing of this one.
        if TrustHead::verify(view.head_bytes(), &held.trust_state_keys, view.received_at_ms()).is_err() {
            return Ok(());
        }
        let next = Reached {
            root,
            generation,
            epoch,
        };
        // A few bytes, once an epoch: under the lock, so that two cannot overtake each other.
        let written = write_whole(&self.folder, STATE, &serde_json::to_vec(&next).unwrap_or_default());
        written.map_err(|e| PeerError::Io {
            path: self.folder.join(STATE),
            detail: e.to_string(),
        })?;
        *reached = Some(next);
        Ok(())
    }

    /// Keeps a state that was carried by hand over restarts: nobody sends it again.
    ///
    /// # Errors
    /// [`PeerError::Io`]
    pub async fn keep_frame(&self, frame: Vec<u8>) -> Result<(), PeerError> {
        self.keep(FRAME, frame.into()).await
    }

    /// Writes where it holds nobody up.
    async fn keep(&self, name: &'static str, bytes: Bytes) -> Result<(), PeerError> {
        let folder = self.folder.clone();
        let written = tokio::task::spawn_blocking(move || write_whole(&folder, name, &bytes)).await;
        let written = written
            .map_err(|e| e.to_string())
            .and_then(|done| done.map_err(|e| e.to_string()));
        written.map_err(|detail| PeerError::Io {
            path: self.folder.join(name),
            detail,
        })
    }
}

fn new_views() -> Views {
    Arc::new(watch::channel(None).0)
}

/// What was kept. A record that is there and cannot be read is not none: it would allow a rollback.
fn record<T: serde::de::DeserializeOwned>(folder: &Path, name: &str, unreadable: fn() -> T) -> Option<T> {
    match std::fs::read(folder.join(name)) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| unreadable())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(_) => Some(unreadable()),
    }
}

/// Writes a file so that it is there whole or not at all.
fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    std::fs::create_dir_all(folder)?;
    let aside = folder.join(format!("{name}.partial"));
    let mut file = std::fs::File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&aside, folder.join(name))?;
    std::fs::File::open(folder)?.sync_all()
}

/// The frame that takes somebody who holds `sent` to `view`. The head in it is the one that was signed, byte for byte.
#[must_use]
pub fn frame_between(sent: Option<&TrustView>, view: &TrustView) -> TrustFrame {
    let (bytes, head) = (view.head_bytes(), view.head());
    match sent {
        Some(sent) if sent.head().generation != head.generation => {
            TrustFrame::full(bytes, view.lists(), view.revoked())
        }
        Some(sent) if sent.head().epoch == head.epoch => TrustFrame::heartbeat(bytes),
        Some(sent) => TrustFrame::delta(
            bytes,
            sent.head().epoch,
            (sent.lists(), sent.revoked()),
            (view.lists(), view.revoked()),
        ),
        None => TrustFrame::full(bytes, view.lists(), view.revoked()),
    }
}

#[cfg(test)]
mod tests;
