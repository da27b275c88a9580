//! Policy, as the broker takes it over: from a pinned root, never older than before, with the broker's own keys in it.
//!
//! What was accepted is kept in a mirror of the broker's own, which it starts from where the repository is out of reach,
//! and which it serves to others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_policies::delegation::MAX_REGION_ROLES;
use touchstone_policies::{
    Fetched, Job, KeysSince, Keyset, KeysetEntry, LoadOptions, Location, Mirror, PolicyError, PolicySet, RoleVersions,
    Source,
};
use touchstone_store::{Guard, Key, KeyError, Store, StoreError, Write};

use crate::config::{Config, PolicyRoot};
use crate::keys::{BrokerKeys, KeyJob};
use crate::rows;
use crate::trust::Facts;

/// The key, in [`rows::META`], of the versions and the time at which policy was accepted last.
const FLOORS: &[u8] = b"policy-floors";

/// Most regions whose floors are kept: of those that have keys now every one, and of those that were taken back as many as
/// there is room for.
const MAX_FLOOR_REGIONS: usize = 4 * MAX_REGION_ROLES;

/// Limits of that row. Eleven items beside the regions, three a region; a region's row is its name, of 64 bytes at most,
/// its version, of nine, and four that hold them together.
const FLOOR_LIMITS: Limits = Limits {
    max_bytes: 96 + 80 * MAX_FLOOR_REGIONS,
    max_depth: 4,
    max_items: 11 + 3 * MAX_FLOOR_REGIONS,
};

/// Largest root file, in bytes.
const MAX_ROOT_BYTES: u64 = 1024 * 1024;

/// Why a policy is not taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicySourceError {
    /// The repository, or something in it.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The pinned root cannot be read.
    #[error("cannot read the pinned root {}: {detail}", path.display())]
    Root {
        /// The file or folder.
        path: PathBuf,
        /// The system's own words.
        detail: String,
    },
    /// The repository is another domain's.
    #[error("the policy is of domain {found:?}, the configuration says {expected:?}")]
    Domain {
        /// In the configuration.
        expected: String,
        /// In the policy.
        found: String,
    },
    /// Another policy of the very versions that are in force: somebody signed two.
    #[error(
        "the repository has another policy of version {version}, digest {found}, than the one in force, digest {held}"
    )]
    Equivocation {
        /// The version.
        version: u64,
        /// Digest of the one in force, in hex.
        held: String,
        /// Digest of the other.
        found: String,
    },
    /// A key of this broker does not count.
    #[error("the {job} key {kid} of this broker is not in the signed keyset for that job now: stage keyset.json and publish", job = job.as_str())]
    KeyUnlisted {
        /// What it is for.
        job: KeyJob,
        /// Its id, in hex.
        kid: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key of the store.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What is stored of earlier policies cannot be read.
    #[error("the stored versions of earlier policies cannot be read")]
    Floors,
    /// What would be stored of this policy could not be read again, so it is not activated.
    #[error("the versions of this policy, {regions} regions, could not be read again once stored: take regions back")]
    FloorsNotKept {
        /// How many regions it would name.
        regions: usize,
    },
}

/// The mirror of the policy repository, in the data folder.
pub const MIRROR: &str = "policy";

/// Where policy comes from.
#[derive(Debug)]
pub struct PolicySource {
    source: Source,
    mirror: Arc<Mirror>,
    root: Vec<u8>,
    domain: String,
}

/// What was accepted last; nothing older is accepted again, on any replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Floors {
    key: Key,
    guard: Guard,
    /// Versions and time, if a policy was accepted before.
    pub held: Option<(RoleVersions, i64)>,
}

impl Floors {
    /// Reads them.
    ///
    /// # Errors
    /// [`PolicySourceError::Floors`] if they are there and cannot be read: then nothing is accepted.
    pub fn read(store: &dyn Store) -> Result<Self, PolicySourceError> {
        let key = rows::META.key(FLOORS)?;
        let Some(row) = store.get(&key)? else {
            return Ok(Self {
                guard: Guard::Absent(key.clone()),
                key,
                held: None,
            });
        };
        Ok(Self {
            guard: Guard::Unchanged(key.clone(), row.revision),
            key,
            held: Some(floors(&row.value).ok_or(PolicySourceError::Floors)?),
        })
    }

    /// Guard and write of accepting `policy` at `now`.
    ///
    /// # Errors
    /// [`PolicySourceError::FloorsNotKept`] where no broker could read the row again: then nothing is to be activated.
    pub fn raise(&self, policy: &PolicySet, now: i64) -> Result<(Guard, Write), PolicySourceError> {
        self.raise_to(&policy.versions, now)
    }

    fn raise_to(&self, accepted: &RoleVersions, now: i64) -> Result<(Guard, Write), PolicySourceError> {
        let held = self.held.as_ref();
        let mut versions = held.map_or_else(|| accepted.clone(), |(held, _)| held.raised_to(accepted));
        // A region that was taken back keeps its floor, for the day it is given keys again, but never at the cost of one
        // that has keys, or of the row.
        let mut over = versions.regions.len().saturating_sub(MAX_FLOOR_REGIONS);
        versions.regions.retain(|region, _| {
            let stays = over == 0 || accepted.regions.contains_key(region);
            over -= usize::from(!stays);
            stays
        });
        let time = held.map_or(now, |(_, time)| (*time).max(now)).max(0);
        let value = encode(&versions, time);
        let regions = versions.regions.len();
        if floors(&value) != Some((versions, time)) {
            return Err(PolicySourceError::FloorsNotKept { regions });
        }
        Ok((self.guard.clone(), Write::Put(self.key.clone(), value)))
    }
}

fn encode(versions: &RoleVersions, time: i64) -> Vec<u8> {
    let numbers = [
        versions.root,
        versions.targets,
        versions.snapshot,
        versions.timestamp,
        u64::try_from(time).unwrap_or(0),
    ];
    let regions = versions
        .regions
        .iter()
        .map(|(region, version)| Value::array([Value::text(region.as_str()), Value::Unsigned(*version)]));
    let since = versions.keys_since;
    let since = (!since.is_first()).then(|| Value::array([since.snapshot, since.timestamp].map(Value::Unsigned)));
    let fields = numbers.map(Value::Unsigned).into_iter().chain([Value::array(regions)]);
    cbor::encode(&Value::array(fields.chain(since)))
}

/// `[root, targets, snapshot, timestamp, time, [[region, version] …], [snapshot, timestamp]]`, the last being the roots that
/// took out keys of these roles, where one did; without the regions as releases before them wrote it.
fn floors(row: &[u8]) -> Option<(RoleVersions, i64)> {
    let value = cbor::decode(row, FLOOR_LIMITS).ok()?;
    let (numbers, regions, since) = match value.as_array()? {
        [numbers @ .., Value::Array(regions), Value::Array(since)] => (numbers, regions.as_slice(), since.as_slice()),
        [numbers @ .., Value::Array(regions)] => (numbers, regions.as_slice(), &[][..]),
        numbers => (numbers, &[][..], &[][..]),
    };
    let keys_since = match since {
        [] => KeysSince::default(),
        [snapshot, timestamp] => KeysSince {
            snapshot: snapshot.as_u64()?,
            timestamp: timestamp.as_u64()?,
        },
        _ => return None,
    };
    let numbers: Option<Vec<u64>> = numbers.iter().map(Value::as_u64).collect();
    let [root, targets, snapshot, timestamp, time] = *numbers?.as_slice() else {
        return None;
    };
    let region = |row: &Value| match row.as_array()? {
        [name, version] => Some((name.as_text()?.to_owned(), version.as_u64()?)),
        _ => None,
    };
    let regions: Option<BTreeMap<String, u64>> = regions.iter().map(region).collect();
    let versions = RoleVersions {
        root,
        targets,
        snapshot,
        timestamp,
        regions: regions?,
        keys_since,
    };
    Some((versions, i64::try_from(time).ok()?))
}

impl PolicySource {
    /// The source that the configuration names, with its pinned root.
    ///
    /// # Errors
    /// [`PolicySourceError::Root`] if the root cannot be read or, pinned by digest, is neither in the repository nor in
    /// the mirror; [`PolicySourceError::Policy`] for a place that cannot be used.
    pub async fn new(config: &Config) -> Result<Self, PolicySourceError> {
        let mut source = Source::new(config.policy.clone());
        if let Some(ca) = &config.policy_ca {
            source = source.with_ca(ca)?;
        }
        let mirror = Arc::new(Mirror::new(config.data_dir.join(MIRROR)));
        let root = match &config.policy_root {
            PolicyRoot::File(path) => read_root(path)?,
            PolicyRoot::Sha256(digest) => find_root(&[mirror.folder().into(), source.clone()], digest).await?,
        };
        Ok(Self {
            source,
            mirror,
            root,
            domain: config.domain.clone(),
        })
    }

    /// The copy of what was accepted.
    #[must_use]
    pub const fn mirror(&self) -> &Arc<Mirror> {
        &self.mirror
    }

    /// Every place from which what is published can be had: the repository, then the mirror, which has no root before the
    /// pinned one.
    #[must_use]
    pub fn places(&self) -> Vec<Source> {
        vec![self.source.clone(), self.mirror.folder().into()]
    }

    /// Where it is.
    #[must_use]
    pub const fn location(&self) -> &Location {
        self.source.location()
    }

    /// Fetches what is published now, verifies it whole (signatures, expiry, schema and Cedar policies, reference values,
    /// and that this broker's keys count under it), and only then keeps it in the mirror. A mirror that cannot be written,
    /// on a full disk, holds nothing up: what a policy takes away never waits.
    ///
    /// # Errors
    /// [`PolicySourceError`]; what is in force stays in force, and the mirror stays what it was.
    pub async fn load(&self, floors: &Floors, keys: &BrokerKeys, now: i64) -> Result<PolicySet, PolicySourceError> {
        let fetched = self.mirror.fetch(&self.source, self.options(floors), now).await?;
        self.check(&fetched.policy, keys, now)?;
        keep(&self.mirror, &fetched);
        Ok(fetched.policy)
    }

    /// The same for a start: where the repository cannot be had, or what it has cannot be accepted, the mirror will do
    /// until the life of what is in it ends. Then also why the repository was not taken.
    ///
    /// # Errors
    /// [`PolicySourceError`]: that of the repository, where the mirror does not serve either.
    pub async fn begin(
        &self,
        floors: &Floors,
        keys: &BrokerKeys,
        now: i64,
    ) -> Result<(PolicySet, Option<String>), PolicySourceError> {
        let error = match self.load(floors, keys, now).await {
            Ok(policy) => return Ok((policy, None)),
            Err(error) => error,
        };
        let kept = match self.mirror.load(self.options(floors), now).await {
            Ok(policy) => self.check(&policy, keys, now).map(|()| policy),
            Err(error) => Err(error.into()),
        };
        match kept {
            Ok(policy) => {
                tracing::warn!(source = %self.location(), %error, "policy is taken from the mirror");
                Ok((policy, Some(error.to_string())))
            }
            Err(of_mirror) => {
                tracing::warn!(error = %of_mirror, "the mirror of the policy repository does not serve");
                Err(error)
            }
        }
    }

    /// The published timestamp as it is: another one after every publication.
    ///
    /// # Errors
    /// Why it cannot be read, in words.
    pub async fn timestamp(&self) -> Result<Vec<u8>, String> {
        self.source.timestamp().await.map_err(|e| e.to_string())
    }

    fn options(&self, floors: &Floors) -> LoadOptions {
        LoadOptions {
            root: Some(self.root.clone()),
            floors: floors.held.as_ref().map(|(versions, _)| versions.clone()),
            last_time: floors.held.as_ref().map(|(_, time)| *time),
            // What is published is judged now.
            made_by: None,
        }
    }

    /// What the repository itself cannot know of: that it is this domain's, and that this broker is one of it. Under a
    /// policy without its keys everything it signs would count for nothing, what it takes away included.
    fn check(&self, policy: &PolicySet, keys: &BrokerKeys, now: i64) -> Result<(), PolicySourceError> {
        if policy.domain != self.domain {
            return Err(PolicySourceError::Domain {
                expected: self.domain.clone(),
                found: policy.domain.clone(),
            });
        }
        check_keys(keys, policy, now)
    }
}

fn keep(mirror: &Mirror, fetched: &Fetched) {
    if let Err(error) = mirror.keep(fetched) {
        tracing::warn!(%error, "policy is taken over, but the mirror of it could not be written: a start without the repository would find an older one");
    }
}

/// The job of a key in the signed keyset.
#[must_use]
pub const fn job(job: KeyJob) -> Job {
    match job {
        KeyJob::Authorization => Job::Authorization,
        KeyJob::Ear => Job::Ear,
        KeyJob::TrustState => Job::TrustState,
        KeyJob::Statement => Job::Statement,
        KeyJob::Checkpoint => Job::Checkpoint,
        KeyJob::Release => Job::Release,
        KeyJob::Witness => Job::Witness,
        KeyJob::Tls => Job::Tls,
    }
}

/// Checks that every key of this broker counts at `now` (Unix seconds), each for its job.
///
/// # Errors
/// [`PolicySourceError::KeyUnlisted`] with the first that does not.
pub fn check_keys(keys: &BrokerKeys, policy: &PolicySet, now: i64) -> Result<(), PolicySourceError> {
    for (key_job, key) in keys.public() {
        let listed = policy.keyset.find(job(key_job), &key.kid(), now);
        if listed.is_none_or(|entry| entry.key != key) {
            // A keyset from before there was this job: everything else goes on, and nothing is released or cosigned.
            if KeyJob::ADDED.contains(&key_job) {
                tracing::warn!(
                    job = key_job.as_str(),
                    kid = hex::encode(key.kid()),
                    "a key is not in the signed keyset and not used until keyset.json is staged and published"
                );
                continue;
            }
            return Err(PolicySourceError::KeyUnlisted {
                job: key_job,
                kid: hex::encode(key.kid()),
            });
        }
    }
    Ok(())
}

/// The name that the signed keyset gives this broker.
#[must_use]
pub fn replica(keys: &BrokerKeys, policy: &PolicySet, now: i64) -> String {
    let kid = keys.trust_state.verifying_key().kid();
    let listed = policy.keyset.find(Job::TrustState, &kid, now);
    listed.map(|entry| entry.replica.clone()).unwrap_or_default()
}

/// The keyset of these keys, for `touchstone policy keyset add`.
#[must_use]
pub fn public_keyset(keys: &BrokerKeys, version: u64, replica: &str, not_before: i64, not_after: i64) -> Keyset {
    let entry = |(key_job, key)| KeysetEntry {
        key,
        job: job(key_job),
        not_before,
        not_after,
        replica: replica.into(),
    };
    Keyset {
        version,
        keys: keys.public().into_iter().map(entry).collect(),
    }
}

/// What trust-state heads say under `policy`.
#[must_use]
pub fn facts(policy: &PolicySet) -> Facts {
    Facts {
        domain: policy.domain.clone(),
        // A generation beyond 32 bits would be millions of restores a day for a year.
        generation: u32::try_from(policy.settings.generation).unwrap_or(u32::MAX),
        term: 1,
        policy_version: policy.version,
        policy_digest: policy.digest,
        keyset_version: policy.keyset.version,
        window_ms: policy.settings.timers.freshness_window_ms,
    }
}

fn read_root(path: &Path) -> Result<Vec<u8>, PolicySourceError> {
    let failed = |detail: String| PolicySourceError::Root {
        path: path.into(),
        detail,
    };
    let length = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
    if length > MAX_ROOT_BYTES {
        return Err(failed(format!("{length} bytes, at most {MAX_ROOT_BYTES}")));
    }
    std::fs::read(path).map_err(|e| failed(e.to_string()))
}

async fn find_root(places: &[Source], digest: &str) -> Result<Vec<u8>, PolicySourceError> {
    let mut wanted = [0; 32];
    let mut detail = format!("no root with SHA-256 {digest} is in it");
    if hex::decode_to_slice(digest, &mut wanted).is_ok() {
        for place in places {
            match place.root(&wanted).await {
                Ok(Some(root)) => return Ok(root),
                Ok(None) => {}
                Err(error) => detail = error.to_string(),
            }
        }
    }
    let path = places.last().map(|place| place.location().to_string());
    Err(PolicySourceError::Root {
        path: path.unwrap_or_default().into(),
        detail,
    })
}

#[cfg(test)]
mod tests {
    use touchstone_store::{Batch, RedbStore};

    use super::*;

    const LONGEST_NAME: usize = 63;

    fn versions(targets: u64, regions: impl Iterator<Item = usize>) -> RoleVersions {
        let name = |n: usize| format!("r{n:0>width$}", width = LONGEST_NAME - 1);
        RoleVersions {
            root: u64::MAX,
            targets,
            snapshot: u64::MAX,
            timestamp: u64::MAX,
            regions: regions.map(|n| (name(n), u64::MAX)).collect(),
            keys_since: KeysSince {
                snapshot: u64::MAX,
                timestamp: u64::MAX,
            },
        }
    }

    #[test]
    fn floors_of_every_region_there_may_be_are_read_again_also_after_years_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store")).unwrap();
        let years = 2 * MAX_FLOOR_REGIONS / MAX_REGION_ROLES;
        for year in 0..years {
            // Later names first, so that what has keys is not what happens to sort last.
            let first = (years - year) * MAX_REGION_ROLES;
            let accepted = versions(year as u64 + 1, first..first + MAX_REGION_ROLES);
            let (guard, write) = Floors::read(&store).unwrap().raise_to(&accepted, i64::MAX).unwrap();
            let mut batch = Batch::new();
            let Write::Put(key, value) = write else { panic!("a row") };
            batch.guard(guard).put(key, value);
            store.commit(batch).unwrap();
            let (held, time) = Floors::read(&store).unwrap().held.unwrap();
            assert_eq!((held.targets, time), (year as u64 + 1, i64::MAX));
            assert!(accepted.regions.keys().all(|region| held.regions.contains_key(region)));
            // Of those that were taken back as many as there is room for.
            let all = MAX_FLOOR_REGIONS.min((year + 1) * MAX_REGION_ROLES);
            assert_eq!(held.regions.len(), all, "year {year}");
        }
    }

    #[test]
    fn floors_say_since_which_root_they_count_and_rows_of_before_are_read() {
        let plain = RoleVersions {
            keys_since: KeysSince::default(),
            ..versions(7, 0..2)
        };
        for row in [versions(7, 0..2), plain.clone()] {
            assert_eq!(floors(&encode(&row, 9)), Some((row, 9)));
        }
        // As written before a root took keys out, and before there were regions.
        let numbers = [2u64, 7, 8, 9, 10].map(Value::Unsigned);
        let (read, time) = floors(&cbor::encode(&Value::array(numbers.clone()))).unwrap();
        assert_eq!((read.snapshot, read.keys_since, time), (8, KeysSince::default(), 10));
        let since = |fields: &[u64]| {
            let fields = Value::array(fields.iter().map(|n| Value::Unsigned(*n)));
            let row = numbers.clone().into_iter().chain([Value::array([]), fields]);
            floors(&cbor::encode(&Value::array(row))).map(|(read, _)| read.keys_since)
        };
        assert_eq!(
            since(&[3, 4]),
            Some(KeysSince {
                snapshot: 3,
                timestamp: 4
            })
        );
        assert_eq!((since(&[3]), since(&[3, 4, 5])), (None, None));
    }

    #[test]
    fn what_could_not_be_read_again_is_not_activated() {
        let floors = Floors {
            key: rows::META.key(FLOORS).unwrap(),
            guard: Guard::Absent(rows::META.key(FLOORS).unwrap()),
            held: None,
        };
        let many = MAX_FLOOR_REGIONS + 1;
        assert_eq!(
            floors.raise_to(&versions(1, 0..many), 1),
            Err(PolicySourceError::FloorsNotKept { regions: many })
        );
    }
}
