//! Keeps a guard at the policy that is in force: keys that are taken out or added count without a restart, and nobody
//! who serves the repository can take the guard back to an older one (`docs/protocol.md`, section 7).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use touchstone_policies::{Mirror, Source};

use super::foreign::Reach;
use super::{Guard, GuardConfig, GuardEvent};
use crate::client::Endpoint;
use crate::clock;
use crate::floors::PolicyFloors;
use crate::trust::{DomainTrust, TrustError};

/// How often a repository in a folder is looked at: one small file is read, the rest only when that file has changed.
const PERIOD: Duration = Duration::from_secs(1);

/// How often one on a server is.
const REMOTE_PERIOD: Duration = Duration::from_secs(5);

/// Where a guard's policy comes from.
#[derive(Debug)]
pub struct Renewal {
    /// The repository.
    pub repository: Source,
    /// A copy of it, to begin with where it is out of reach, if any.
    pub mirror: Option<Mirror>,
    /// The file of the pinned root.
    pub root: PathBuf,
    /// The trust domain.
    pub domain: String,
    /// The guard's id.
    pub id: String,
    /// The domain's brokers.
    pub brokers: Vec<Endpoint>,
    /// Where accepted versions are kept over restarts, if anywhere.
    pub floors: Option<PolicyFloors>,
}

impl Renewal {
    /// Loads the policy, never below `held`, nor below what was accepted here before. Where nothing is held, the copy
    /// will do.
    ///
    /// # Errors
    /// [`TrustError`]; then nothing is believed and nothing is recorded.
    pub async fn load(&self, held: Option<&DomainTrust>) -> Result<DomainTrust, TrustError> {
        let kept = self.floors.as_ref().map(PolicyFloors::read).transpose()?.flatten();
        let floors = match (kept, held.map(|trust| trust.policy.versions.clone())) {
            (Some(kept), Some(held)) => Some(kept.raised_to(&held)),
            (kept, held) => kept.or(held),
        };
        let now = clock::wall_seconds();
        let (from, root, domain) = (&self.repository, &self.root, &self.domain);
        let trust = match (&self.mirror, held) {
            (Some(mirror), None) => DomainTrust::load_mirrored(from, mirror, root, domain, now, floors).await?,
            (Some(mirror), Some(_)) => DomainTrust::fetch(from, mirror, root, domain, now, floors).await?,
            (None, _) => DomainTrust::load_above(from, root, domain, now, floors).await?,
        };
        if let Some(floors) = &self.floors {
            floors.raise_beside(held.is_some(), &trust.policy.versions)?;
        }
        Ok(trust)
    }

    /// The timestamp metadata, where it can be had: it changes with every publication (TUF 1.0.34, 5.6).
    pub async fn timestamp(&self) -> Option<Vec<u8>> {
        self.repository.timestamp().await.ok()
    }
}

/// Follows the repository for ever, and those of the domains that it lets in. A policy that can not be loaded leaves the
/// one that is held, until that runs out.
pub async fn keep_current(guard: &Guard, renewal: &Renewal, held: DomainTrust, tell: impl Fn(GuardEvent)) {
    let held = Arc::new(held);
    let (publish, trusts) = watch::channel(Arc::clone(&held));
    let reach = Reach {
        brokers: renewal.brokers.clone(),
        id: renewal.id.clone(),
        floors: renewal.floors.clone(),
    };
    tokio::join!(
        keep_own(guard, renewal, held, &publish, tell),
        guard.keep_foreign(&reach, trusts),
    );
}

async fn keep_own(
    guard: &Guard,
    renewal: &Renewal,
    mut held: Arc<DomainTrust>,
    publish: &watch::Sender<Arc<DomainTrust>>,
    tell: impl Fn(GuardEvent),
) {
    // Another policy may have been published since `held` was loaded: only what was loaded here was seen.
    let mut seen = None;
    let period = renewal.repository.location().folder().map_or(REMOTE_PERIOD, |_| PERIOD);
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let present = renewal.timestamp().await;
        if present.is_none() || present == seen {
            continue;
        }
        match renewal.load(Some(&held)).await {
            Ok(trust) => {
                let version = trust.policy.version;
                let source = trust.source(renewal.brokers.clone(), renewal.id.clone());
                guard.renew(GuardConfig::of(&trust, &renewal.id), source);
                if version != held.policy.version {
                    tell(GuardEvent::Policy { version });
                }
                held = Arc::new(trust);
                publish.send_replace(Arc::clone(&held));
                seen = present;
            }
            // Not remembered as seen: a publication that is only half there is whole at the next look.
            Err(error) => {
                tracing::warn!(target: "touchstone::guard", "the policy in the repository is not taken: {error}")
            }
        }
    }
}
