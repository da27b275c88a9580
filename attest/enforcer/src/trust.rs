//! What a node believes of its domain, and why: the signed policy repository under a pinned root, and the keys that
//! follow from its keyset. Nothing else is a source of keys, the broker's TLS key included.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use touchstone_authorization::{KeyRing, KeyRingError, TrustedKey, VerifiedAuthorization};
use touchstone_ledger::receipt::verify_receipt;
use touchstone_ledger::statement::VerifiedStatement;
use touchstone_policies::keyset_file::Job;
use touchstone_policies::{Behind, LoadOptions, Mirror, PolicyError, PolicySet, RoleVersions, Source as Repository};

use crate::client::{BrokerClient, Endpoint, pinned_config};
use crate::floors::FloorsError;
use crate::follow::{FollowConfig, Follower, OWN_STREAM, Source, Time};

/// A domain's policy and keys, as loaded at one moment.
pub struct DomainTrust {
    /// The policy, verified whole.
    pub policy: PolicySet,
    /// Keys that sign authorizations.
    pub authorization_keys: KeyRing,
    /// Keys that sign trust states and the broker's time.
    pub trust_state_keys: KeyRing,
    /// Pins the domain's brokers.
    tls: Arc<ClientConfig>,
    /// Pins these and the relays of its sites: what comes of them is signed, and nothing is shown to them.
    follow_tls: Arc<ClientConfig>,
}

/// Why a domain cannot be believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The pinned root could not be read.
    #[error("pinned root {path}: {cause}")]
    Root {
        /// Which file.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// The policy repository.
    #[error("policy repository: {0}")]
    Policy(#[from] PolicyError),
    /// The keyset.
    #[error("keyset: {0}")]
    Keyset(#[from] KeyRingError),
    /// The repository is another domain's.
    #[error("the policy repository is of domain {found:?}, expected {expected:?}")]
    Domain {
        /// As configured.
        expected: String,
        /// As signed.
        found: String,
    },
    /// The record of accepted policy versions.
    #[error("accepted policy versions: {0}")]
    Floors(#[from] FloorsError),
    /// TLS.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl DomainTrust {
    /// Loads the repository at `repository`, a folder or a server, under the root in the file `root`, judged at `now` (Unix seconds).
    ///
    /// # Errors
    /// [`TrustError`]; then nothing of the domain is believed.
    pub async fn load(
        repository: impl Into<Repository>,
        root: &Path,
        domain: &str,
        now: i64,
    ) -> Result<Self, TrustError> {
        Self::load_above(repository, root, domain, now, None).await
    }

    /// The same, refusing a repository with a role below the version in `floors`: what was accepted once is not taken
    /// back by whoever serves the repository.
    ///
    /// # Errors
    /// [`TrustError`]; `policy-rollback` for an older repository.
    pub async fn load_above(
        repository: impl Into<Repository>,
        root: &Path,
        domain: &str,
        now: i64,
        floors: Option<RoleVersions>,
    ) -> Result<Self, TrustError> {
        let policy = touchstone_policies::load(repository, options(root, floors)?, now).await?;
        Self::of(policy, domain)
    }

    /// The same with a copy of one's own: it will do where the repository is out of reach or does not serve, until the
    /// life of what is in it ends, and what has not changed does not travel again.
    ///
    /// # Errors
    /// [`TrustError`], where the copy does not serve either.
    pub async fn load_mirrored(
        repository: &Repository,
        mirror: &Mirror,
        root: &Path,
        domain: &str,
        now: i64,
        floors: Option<RoleVersions>,
    ) -> Result<Self, TrustError> {
        let (policy, why) = mirror.latest(repository, options(root, floors)?, now).await?;
        let place = repository.location();
        match why {
            Some(Behind::NotTaken(error)) => {
                tracing::warn!(target: "touchstone::policy", "policy is taken from the copy of {place}: {error}");
            }
            Some(Behind::NotKept(error)) => not_kept(repository, &error),
            None => {}
        }
        Self::of(policy, domain)
    }

    /// The same without falling back on the copy: for who holds a policy already and wants another one or none. A copy
    /// that cannot be written, on a full disk, holds nothing up.
    ///
    /// # Errors
    /// [`TrustError`]; then the copy is what it was.
    pub async fn fetch(
        repository: &Repository,
        mirror: &Mirror,
        root: &Path,
        domain: &str,
        now: i64,
        floors: Option<RoleVersions>,
    ) -> Result<Self, TrustError> {
        let fetched = mirror.fetch(repository, options(root, floors)?, now).await?;
        if let Err(error) = mirror.keep(&fetched) {
            not_kept(repository, &error);
        }
        Self::of(fetched.policy, domain)
    }

    /// What follows from a policy that is verified.
    ///
    /// # Errors
    /// [`TrustError`] where it is another domain's, or its keyset cannot be used.
    pub fn of(policy: PolicySet, domain: &str) -> Result<Self, TrustError> {
        if policy.domain != domain {
            return Err(TrustError::Domain {
                expected: domain.to_owned(),
                found: policy.domain,
            });
        }
        // Each key with its time: whoever uses it looks at that whenever it does.
        let keys = |job| {
            let of_job = policy.keyset.keys.iter().filter(move |entry| entry.job == job);
            of_job.map(|entry| TrustedKey {
                key: entry.key.clone(),
                not_before: entry.not_before,
                not_after: entry.not_after,
            })
        };
        let ring = |job| KeyRing::new(keys(job));
        let (authorization_keys, trust_state_keys) = (ring(Job::Authorization)?, ring(Job::TrustState)?);
        let pins: Vec<_> = keys(Job::Tls).collect();
        let following: Vec<_> = pins.iter().cloned().chain(keys(Job::Relay)).collect();
        let (tls, follow_tls) = (pinned_config(&pins)?, pinned_config(&following)?);
        Ok(Self {
            policy,
            authorization_keys,
            trust_state_keys,
            tls,
            follow_tls,
        })
    }

    /// Checks that `authorization` rests on a statement which the domain's ledger vouches for: the statement is signed
    /// under the keyset, it is the one the authorization names, and the receipt proves that it is in the log.
    ///
    /// # Errors
    /// What does not hold, in words. Such an authorization is not held, let alone shown.
    pub fn check_recorded(
        &self,
        authorization: &VerifiedAuthorization,
        statement: &[u8],
        receipt: &[u8],
    ) -> Result<(), String> {
        let verified = self.recorded(statement, receipt)?;
        if *verified.digest() != authorization.contents().statement {
            return Err("the authorization names another statement".into());
        }
        Ok(())
    }

    /// The statement, where it is signed under the keyset and the receipt proves that it is in the domain's ledger.
    ///
    /// # Errors
    /// What does not hold, in words.
    pub fn recorded(&self, statement: &[u8], receipt: &[u8]) -> Result<VerifiedStatement, String> {
        let keys = |job| {
            self.policy
                .keyset
                .keys
                .iter()
                .filter(move |entry| entry.job == job)
                .map(|entry| &entry.key)
        };
        let verified = keys(Job::Statement)
            .find_map(|key| VerifiedStatement::parse(statement, key).ok())
            .ok_or("the statement is not signed under the keyset")?;
        let origin = format!("{}/ledger", self.policy.domain);
        let mut last = "the keyset has no checkpoint key".to_owned();
        for key in keys(Job::Checkpoint) {
            match verify_receipt(receipt, statement, key, &origin) {
                Ok(_) => return Ok(verified),
                Err(error) => last = error.to_string(),
            }
        }
        Err(format!("the receipt does not hold: {last}"))
    }

    /// A client for the domain's brokers, pinned to the keyset.
    #[must_use]
    pub fn client(&self, brokers: Vec<Endpoint>) -> BrokerClient {
        BrokerClient::new(brokers, Arc::clone(&self.tls))
    }

    /// A client for the domain's brokers and the relays of its sites: for what is signed, of which nothing is shown to them.
    #[must_use]
    pub fn following_client(&self, brokers: Vec<Endpoint>) -> BrokerClient {
        BrokerClient::new(brokers, Arc::clone(&self.follow_tls))
    }

    /// Starts following the domain's trust state.
    #[must_use]
    pub fn follow(&self, brokers: Vec<Endpoint>, subscriber: String) -> Follower {
        Follower::start(self.source(brokers, subscriber))
    }

    /// Whom to follow, and with which keys, as this policy has it.
    #[must_use]
    pub fn source(&self, brokers: Vec<Endpoint>, subscriber: String) -> Source {
        let config = FollowConfig {
            domain: self.policy.domain.clone(),
            subscriber,
            keys: self.trust_state_keys.clone(),
            skew_ms: self.policy.settings.timers.skew_ms,
            route: OWN_STREAM.into(),
            time: Time::Asked,
            floor: None,
        };
        Source {
            brokers,
            tls: Arc::clone(&self.follow_tls),
            config,
        }
    }
}

fn not_kept(repository: &Repository, error: &PolicyError) {
    let place = repository.location();
    tracing::warn!(target: "touchstone::policy", "policy is taken from {place}, but the copy of it could not be written: {error}");
}

fn options(root: &Path, floors: Option<RoleVersions>) -> Result<LoadOptions, TrustError> {
    let root = std::fs::read(root).map_err(|cause| TrustError::Root {
        path: root.display().to_string(),
        cause,
    })?;
    Ok(LoadOptions {
        root: Some(root),
        floors,
        ..LoadOptions::default()
    })
}
