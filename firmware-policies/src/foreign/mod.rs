//! Another domain's policy repository, as far as a follower of that domain needs it: verified from the root that our own
//! policy names, never older than before, and read no further than its timers, its keyset and whom it trusts itself.
//!
//! What travels is [`RepositoryCopy`]: the signed files as they were published. Whoever receives one verifies it, whoever it came
//! from: a broker over the network, a folder, another domain's push, a bundle carried by hand. Source: TUF 1.0.34;
//! `docs/protocol.md`, sections 7 and 12.

mod copy;
mod memory;

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use touchstone_authorization::{KeyRing, TrustFrame, TrustHead, TrustedKey};
use tough::{IntoVec as _, Repository, TargetName};
use url::Url;

pub use copy::{CopyError, MAX_COPY_BYTES, MAX_COPY_FILES, RepositoryCopy};

use crate::error::{PolicyCode, PolicyError};
use crate::layout::{KEYSET, SETTINGS, TargetKind};
use crate::settings::Settings;
use crate::targets::federation_file::{FederatedDomain, TrustBegins};
use crate::targets::keyset_file::{Job, Keyset};
use crate::transport::files::{METADATA_URL, TARGETS_URL};
use crate::tuf::delegation;
use crate::tuf::expiry;
use crate::tuf::floors::RoleVersions;
use crate::tuf::{self, parse_root};
use memory::MemoryFiles;

/// What a follower believes of another domain.
#[derive(Debug, Clone, PartialEq)]
pub struct ForeignPolicy {
    /// Its name, by its own signed settings.
    pub domain: String,
    /// SHA-256 of the root that trust began with.
    pub root_digest: [u8; 32],
    /// Versions of all roles: the floors for the next one.
    pub versions: RoleVersions,
    /// The newest root of it, followed from the first: what a restart may begin with.
    pub root: Vec<u8>,
    /// Its freshness window, in milliseconds.
    pub window_ms: u64,
    /// Its keys.
    pub keyset: Keyset,
    /// Where it begins to trust others: the way to domains that we trust over it.
    pub roots: BTreeMap<String, Vec<u8>>,
    /// When the first role expires, Unix seconds. The copy is not valid at that second any more.
    pub expires: i64,
}

/// Verifies a copy from `root`, at `now` (Unix seconds), never below `floors`, and reads it.
///
/// # Errors
/// [`PolicyError`]: `policy-foreign-refused`, `policy-rollback`, `policy-<role>-expired`, or what is wrong with a file.
pub async fn load_foreign(
    copy: &RepositoryCopy,
    root: &[u8],
    floors: Option<&RoleVersions>,
    domain: &str,
    now: i64,
) -> Result<ForeignPolicy, PolicyError> {
    load_made_by(copy, root, floors, domain, (now, now)).await
}

/// Judged at one time, made by the other.
async fn load_made_by(
    copy: &RepositoryCopy,
    root: &[u8],
    floors: Option<&RoleVersions>,
    domain: &str,
    (now, made_by): (i64, i64),
) -> Result<ForeignPolicy, PolicyError> {
    let refused =
        |claim: &str, found: String| PolicyError::new(PolicyCode::ForeignRefused, claim, "a good copy", found);
    let pinned = parse_root(root).map_err(|e| refused("root", e))?;
    let url = |text: &str| Url::parse(text).map_err(|e| refused("URL", e.to_string()));
    let repository = expiry::loader(&root, url(METADATA_URL)?, url(TARGETS_URL)?)
        .transport(MemoryFiles::new(copy))
        .load()
        .await
        .map_err(|e| refused(&format!("repository of {domain}"), words(&e)))?;
    let regions = delegation::regions(&repository.targets().signed, &repository.snapshot().signed)?;
    delegation::root_keys_differ(&repository.root().signed)?;
    let followed = |file: &str| copy.file(&format!("metadata/{file}"));
    let versions = tuf::versions(&repository, &regions, root, followed);
    if let Some(floors) = floors {
        versions.not_below(floors)?;
    }
    let ends = expiry::ends(&repository);
    expiry::check(&ends, now)?;
    let settings = Settings::parse(&read(&repository, SETTINGS).await?)?;
    if settings.domain != domain {
        let expected = format!("the repository of {domain}");
        return Err(PolicyError::new(
            PolicyCode::ForeignRefused,
            SETTINGS,
            expected,
            &settings.domain,
        ));
    }
    expiry::check_lives(&ends, &settings.timers, made_by)?;
    let keyset = Keyset::parse(&read(&repository, KEYSET).await?)?;
    let mut roots = BTreeMap::new();
    for name in repository.targets().signed.targets.keys() {
        let Some(TargetKind::Federation(trusted)) = TargetKind::of(name.raw()) else {
            continue;
        };
        let file = read(&repository, name.raw()).await?;
        let beside = TargetKind::FederationRoot(trusted.clone()).name();
        let listed =
            TargetName::new(beside.as_str()).is_ok_and(|name| repository.targets().signed.targets.contains_key(&name));
        let beside = if listed {
            Some(read(&repository, &beside).await?)
        } else {
            None
        };
        // What that domain says of others concerns us only as far as it leads to their roots.
        if let Ok(FederatedDomain {
            trust: Some(TrustBegins::Root(root)),
            ..
        }) = FederatedDomain::parse(&trusted, &file, beside.as_deref())
        {
            roots.insert(trusted, root);
        }
    }
    Ok(ForeignPolicy {
        domain: settings.domain,
        root_digest: Sha256::digest(root).into(),
        root: newest_root(copy, pinned.signed.version.get(), versions.root).unwrap_or_else(|| root.to_vec()),
        versions,
        window_ms: settings.timers.freshness_window_ms,
        keyset,
        roots,
        expires: expiry::first(&ends),
    })
}

/// The same for a copy that was carried by hand with the trust state in `frame`: where it has run out meanwhile, it is
/// judged at the time that state was made, which must not lie further back than `max_state_age_ms`. Without such an age it
/// is judged now and nothing else.
///
/// # Errors
/// As [`load_foreign`]; `policy-foreign-refused` for a state that is too old, of another domain, or not signed under the
/// copy's own keyset.
pub async fn load_carried(
    copy: &RepositoryCopy,
    root: &[u8],
    floors: Option<&RoleVersions>,
    domain: &str,
    now_ms: u64,
    carried: Option<(&[u8], u64)>,
) -> Result<ForeignPolicy, PolicyError> {
    let seconds = |ms: u64| i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    let live = load_foreign(copy, root, floors, domain, seconds(now_ms)).await;
    let (error, (frame, max_state_age_ms)) = match (live, carried) {
        (Err(error), Some(carried)) if error.problems().iter().all(|p| has_ended(p.code)) => (error, carried),
        (live, _) => return live,
    };
    // Only to find the key that the state is signed under.
    let made_by = seconds(now_ms);
    let keys = load_made_by(copy, root, floors, domain, (0, made_by))
        .await?
        .ring(Job::TrustState)?;
    let refused = |found: String| PolicyError::new(PolicyCode::ForeignRefused, domain, "a state of this domain", found);
    let frame = TrustFrame::parse(frame).map_err(|e| refused(e.to_string()))?;
    let head = TrustHead::verify(&frame.head, &keys, now_ms).map_err(|e| refused(e.to_string()))?;
    if head.domain != domain {
        return Err(refused(head.domain));
    }
    let age_ms = now_ms.saturating_sub(head.issued_at_ms);
    if age_ms > max_state_age_ms || head.issued_at_ms > now_ms {
        let found = format!("{age_ms} ms old, at most {max_state_age_ms} ms are taken");
        let mut problems = error.into_problems();
        problems.extend(refused(found).into_problems());
        return PolicyError::unless_empty(problems).and_then(|()| Err(refused("too old".into())));
    }
    load_made_by(copy, root, floors, domain, (seconds(head.issued_at_ms), made_by)).await
}

const fn has_ended(code: PolicyCode) -> bool {
    matches!(
        code,
        PolicyCode::RootExpired
            | PolicyCode::TargetsExpired
            | PolicyCode::SnapshotExpired
            | PolicyCode::TimestampExpired
    )
}

impl ForeignPolicy {
    /// Its keys for a job, each with its time.
    ///
    /// # Errors
    /// [`PolicyError`] where two keys of the job share an id.
    pub fn ring(&self, job: Job) -> Result<KeyRing, PolicyError> {
        let of_job = self.keyset.keys.iter().filter(|entry| entry.job == job);
        KeyRing::new(of_job.map(|entry| TrustedKey {
            key: entry.key.clone(),
            not_before: entry.not_before,
            not_after: entry.not_after,
        }))
        .map_err(|e| PolicyError::new(PolicyCode::KeysetDuplicate, KEYSET, "each key once", e))
    }
}

fn newest_root(copy: &RepositoryCopy, pinned: u64, newest: u64) -> Option<Vec<u8>> {
    (newest > pinned).then(|| copy.file(&format!("metadata/{newest}.root.json")).map(<[u8]>::to_vec))?
}

async fn read(repository: &Repository, name: &str) -> Result<Vec<u8>, PolicyError> {
    let refused = |found: String| PolicyError::new(PolicyCode::ForeignRefused, name, "a target as signed", found);
    let target = TargetName::new(name).map_err(|e| refused(e.to_string()))?;
    let stream = repository.read_target(&target).await.map_err(|e| refused(words(&e)))?;
    let stream = stream.ok_or_else(|| refused("not listed".into()))?;
    stream.into_vec().await.map_err(|e| refused(words(&e)))
}

/// An error with what caused it.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
