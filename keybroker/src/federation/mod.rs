//! Other domains: following their keys and trust state, relaying both to our enforcers, and issuing authorizations that
//! count there.
//!
//! What is held of each is in [`peer`]; who keeps it current is [`keep`]; the other way round, where only our side can
//! open connections, [`push`]; each other's ledgers are witnessed in [`watch`]; what is carried by hand is a [`bundle`]. Authorizations for other domains are decided in
//! [`decide`], recorded with everything they rest on, and answered in [`issue`]. Nothing here decides about what another
//! domain's authorizations may do: that is every enforcer's, from the signed policy it verifies itself. Source:
//! `docs/protocol.md`, section 12.

pub mod admin;
pub mod bundle;
pub mod decide;
pub(crate) mod follow;
pub mod issue;
pub mod keep;
pub mod peer;
pub mod push;
pub mod relay;
pub mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use touchstone_policies::{CopyError, Location, PolicyError, PolicySet, RepositoryCopy, Source};

use crate::room::Room;
pub use peer::{Peer, PeerError, Way};

/// The folder of what is kept of other domains, in the data folder.
pub const FEDERATION_FOLDER: &str = "federation";

/// Most bytes of large frames and bundles that are in memory at once: whoever sends one is not known before it is read.
pub const PUSHED_BYTES_AT_ONCE: usize = 4 * bundle::MAX_BUNDLE_BYTES;

/// What this broker holds of other domains.
pub struct Neighbours {
    folder: PathBuf,
    own_policy: Vec<Source>,
    ca: Option<PathBuf>,
    /// Room for what others send.
    pub room: Room,
    peers: RwLock<Arc<BTreeMap<String, Arc<Peer>>>>,
}

impl Neighbours {
    /// Nothing yet. `own_policy` is where our own repository is to be had: what we send to others. `ca` is the file of
    /// authorities for repositories under `https`.
    #[must_use]
    pub fn new(data_dir: &Path, own_policy: Vec<Source>, ca: Option<PathBuf>) -> Self {
        Self {
            folder: data_dir.join(FEDERATION_FOLDER),
            own_policy,
            ca,
            room: Room::new(PUSHED_BYTES_AT_ONCE),
            peers: RwLock::default(),
        }
    }

    /// The domain with this name, as far as our policy trusts it with anything.
    #[must_use]
    pub fn get(&self, domain: &str) -> Option<Arc<Peer>> {
        self.all().get(domain).cloned()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Arc<BTreeMap<String, Arc<Peer>>> {
        Arc::clone(&self.peers.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Our own repository, from the first place that has it.
    ///
    /// # Errors
    /// [`CopyError`] of the last place.
    pub async fn own_copy(&self) -> Result<RepositoryCopy, CopyError> {
        let mut last = CopyError::TooLarge;
        for place in &self.own_policy {
            match RepositoryCopy::read(place, 0).await {
                Ok(copy) => return Ok(copy),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Its timestamp alone, to see whether anything was published.
    pub async fn own_timestamp(&self) -> Option<Vec<u8>> {
        for place in &self.own_policy {
            if let Ok(timestamp) = RepositoryCopy::read_timestamp(place).await {
                return Some(timestamp);
            }
        }
        None
    }

    /// A place of another domain's repository.
    ///
    /// # Errors
    /// [`PolicyError`]: not a folder or URL, or the file of authorities cannot be read.
    pub fn place(&self, text: &str) -> Result<Source, PolicyError> {
        let source = Source::new(Location::parse(text)?);
        match &self.ca {
            Some(ca) => source.with_ca(ca),
            None => Ok(source),
        }
    }

    /// Goes on under this policy: domains that are trusted are held, others forgotten. A domain of which nothing but what
    /// it may do has changed keeps what is held of it; one whose root changed begins anew.
    pub fn renew(&self, policy: &PolicySet) -> Arc<BTreeMap<String, Arc<Peer>>> {
        let held = self.all();
        let mut next = BTreeMap::new();
        for entry in policy.federation.domains().filter(|entry| entry.trust.is_some()) {
            let peer = match held.get(&entry.name) {
                Some(peer) if peer.entry() == *entry => Arc::clone(peer),
                Some(peer) if peer.entry().trust == entry.trust => {
                    peer.replace_entry(entry.clone());
                    Arc::clone(peer)
                }
                _ => Arc::new(Peer::new(entry.clone(), self.folder.join(&entry.name))),
            };
            next.insert(entry.name.clone(), peer);
        }
        let next = Arc::new(next);
        *self.peers.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&next);
        next
    }

    /// The root from which that domain's copy is verified under our policy.
    #[must_use]
    pub fn root_of(&self, policy: &PolicySet, domain: &str) -> Option<Vec<u8>> {
        let peers = self.all();
        policy.federation.root_of(domain, |over| {
            let held = peers.get(over)?.held()?;
            Some(Box::new(held.policy.roots.clone()))
        })
    }
}
