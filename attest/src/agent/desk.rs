//! What the agent's tasks share: the standing, the authorization, and the way to have a proof signed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use touchstone_authorization::{Channel, Proof, Scope, SignedError};

use super::owner::{OwnerGone, TpmOwner};
use super::release::Releases;
use super::standing::Standing;
use super::workloads::Workloads;

/// Why no proof could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PresentError {
    /// There is no authorization to present.
    #[error("this node holds no authorization: it is {standing}")]
    NotAuthorized {
        /// The state it is in.
        standing: &'static str,
    },
    /// Action or resource is not well formed.
    #[error("{0}")]
    Scope(String),
    /// The session key could not or would not sign.
    #[error("{0}")]
    Signing(SignedError),
    /// The TPM's thread is gone.
    #[error(transparent)]
    Owner(#[from] OwnerGone),
    /// No randomness for the proof's id.
    #[error("no randomness: {0}")]
    Random(String),
}

/// An authorization and a fresh proof that its key is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presentation {
    /// The authorization's bytes.
    pub authorization: Vec<u8>,
    /// The proof's bytes.
    pub proof: Vec<u8>,
}

/// Shared by the attestation loop, the socket and the trust-state watcher.
#[derive(Debug)]
pub struct Desk {
    tpm: TpmOwner,
    held: Mutex<Held>,
    releases: Mutex<Option<Arc<Releases>>>,
    abroad: Mutex<HeldAbroad>,
    pub(super) below: Mutex<Workloads>,
}

/// Authorizations that count in other domains, by domain and scope, made from the one held now.
type HeldAbroad = BTreeMap<(String, Scope), Arc<[u8]>>;

/// Most of them; one more, and all are fetched anew.
const MAX_ABROAD: usize = 64;

#[derive(Debug)]
struct Held {
    standing: Standing,
    authorization: Option<Arc<[u8]>>,
}

impl Desk {
    /// A desk with nothing on it yet.
    #[must_use]
    pub fn new(tpm: TpmOwner) -> Self {
        Self {
            tpm,
            held: Mutex::new(Held {
                standing: Standing::unknown(),
                authorization: None,
            }),
            releases: Mutex::default(),
            abroad: Mutex::default(),
            below: Mutex::default(),
        }
    }

    /// The TPM's owner.
    #[must_use]
    pub fn tpm(&self) -> &TpmOwner {
        &self.tpm
    }

    /// The standing now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.lock().standing.clone()
    }

    /// Changes the standing; gives the new one, and whether its word changed.
    pub fn change(&self, change: impl FnOnce(Standing) -> Standing) -> (Standing, bool) {
        let mut held = self.lock();
        let before = std::mem::replace(&mut held.standing, Standing::unknown());
        let word = before.word();
        held.standing = change(before);
        (held.standing.clone(), held.standing.word() != word)
    }

    /// Puts down a new authorization, or takes the old one away.
    pub fn hold(&self, authorization: Option<Vec<u8>>) {
        self.abroad.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.lock().authorization = authorization.map(Arc::from);
    }

    /// The authorization that counts in `domain` for `scope`, where one was fetched since the one held now came.
    pub(super) fn abroad(&self, domain: &str, scope: &Scope) -> Option<Arc<[u8]>> {
        let abroad = self.abroad.lock().unwrap_or_else(PoisonError::into_inner);
        abroad.get(&(domain.to_owned(), scope.clone())).cloned()
    }

    /// Keeps one that was fetched with `own`, unless that is no longer the one held.
    pub(super) fn keep_abroad(&self, own: &[u8], domain: &str, scope: &Scope, authorization: Arc<[u8]>) {
        let mut abroad = self.abroad.lock().unwrap_or_else(PoisonError::into_inner);
        if self.authorization().is_some_and(|held| *held == *own) {
            if abroad.len() >= MAX_ABROAD {
                abroad.clear();
            }
            abroad.insert((domain.to_owned(), scope.clone()), authorization);
        }
    }

    /// Says where keys come from.
    pub fn release_from(&self, releases: Releases) {
        *self.releases.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(releases));
    }

    /// Where keys come from.
    #[must_use]
    pub fn releases(&self) -> Option<Arc<Releases>> {
        self.releases.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The authorization's bytes, if there is one.
    #[must_use]
    pub fn authorization(&self) -> Option<Arc<[u8]>> {
        self.lock().authorization.clone()
    }

    /// The authorization and a proof of possession that answers `challenge` of the enforcer `audience`.
    ///
    /// # Errors
    /// [`PresentError`]; once a register of the session key has changed, the TPM itself refuses to sign.
    pub async fn present(
        &self,
        audience: &str,
        challenge: Vec<u8>,
        action: &str,
        resource: &str,
    ) -> Result<Presentation, PresentError> {
        let authorization = self.authorization().ok_or(PresentError::NotAuthorized {
            standing: self.standing().word(),
        })?;
        let scope = Scope::parse(&format!("{action}:{resource}")).map_err(|e| PresentError::Scope(e.to_string()))?;
        self.prove(&authorization, audience, challenge, scope).await
    }

    /// An authorization and a proof of possession of its key that answers `challenge` of the enforcer `audience`.
    ///
    /// # Errors
    /// [`PresentError`]
    pub(super) async fn prove(
        &self,
        authorization: &[u8],
        audience: &str,
        challenge: Vec<u8>,
        scope: Scope,
    ) -> Result<Presentation, PresentError> {
        let mut cti = [0u8; 16];
        getrandom::fill(&mut cti).map_err(|error| PresentError::Random(error.to_string()))?;
        let proof = Proof {
            audience: audience.to_owned(),
            issued_at: crate::clock::wall_ms() / 1000,
            cti,
            authorization_digest: Sha256::digest(authorization).into(),
            scope,
            request_digest: None,
            channel: Channel::Challenge(challenge),
        };
        let proof = self
            .tpm
            .run(move |machine| proof.encode_signed(&*machine.signer()))
            .await?
            .map_err(PresentError::Signing)?;
        Ok(Presentation {
            authorization: authorization.to_vec(),
            proof,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
