//! `keyset.json`: the broker's keys, the only source of them, its TLS key too.
//!
//! ```json
//! {"version": 1, "keys": [{"job": "authorization", "key": "<SubjectPublicKeyInfo, hexadecimal>",
//!                          "not_before": 1700000000, "not_after": 1800000000, "replica": "a"}]}
//! ```
//! One key has one job. Source: `docs/protocol.md`, trust state (keyset).

use serde::{Deserialize, Serialize};
use touchstone_cose::key::{KID_LEN, VerifyingKey};

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::{KEYSET, is_name};

/// Most keys in a keyset.
pub const MAX_KEYS: usize = 256;

/// What a key of the broker signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// Authorizations.
    Authorization,
    /// Attestation Results.
    Ear,
    /// Trust-state heads, status lists and the time.
    TrustState,
    /// Statements in the ledger.
    Statement,
    /// Checkpoints and receipts of the ledger.
    Checkpoint,
    /// Answers that carry a released key.
    Release,
    /// Cosignatures of the checkpoints of other logs.
    Witness,
    /// TLS: clients pin this key.
    Tls,
    /// TLS of a site relay: who follows the trust state pins it, and nobody who sends evidence or asks for keys.
    Relay,
}

impl Job {
    /// Every job.
    pub const ALL: [Job; 9] = [
        Job::Authorization,
        Job::Ear,
        Job::TrustState,
        Job::Statement,
        Job::Checkpoint,
        Job::Release,
        Job::Witness,
        Job::Tls,
        Job::Relay,
    ];
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysetEntry {
    /// The public key.
    pub key: VerifyingKey,
    /// What it signs.
    pub job: Job,
    /// First second at which it counts, Unix time.
    pub not_before: i64,
    /// Last second at which it counts, Unix time.
    pub not_after: i64,
    /// Which replica holds it.
    pub replica: String,
}

impl KeysetEntry {
    /// Whether it counts at `now`.
    pub const fn in_force(&self, now: i64) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// The keys of a domain's broker. Without a `keyset.json` it is version 0 and empty: nothing the broker signs counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keyset {
    /// Raised with every change; an older one is refused.
    pub version: u64,
    /// The keys.
    pub keys: Vec<KeysetEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysetFile {
    version: u64,
    keys: Vec<EntryFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryFile {
    job: Job,
    key: String,
    not_before: i64,
    not_after: i64,
    replica: String,
}

impl Keyset {
    /// Reads `keyset.json`.
    ///
    /// # Errors
    /// [`PolicyError`] with every problem: unreadable, empty, a key twice, a validity that ends before it begins.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let unreadable = |found: String| PolicyError::new(PolicyCode::KeysetUnreadable, KEYSET, "a keyset", found);
        let file: KeysetFile = serde_json::from_slice(bytes).map_err(|e| unreadable(e.to_string()))?;
        if file.version == 0 || file.keys.is_empty() {
            return Err(unreadable("version 0 or an empty list".into()));
        }
        if file.keys.len() > MAX_KEYS {
            let expected = format!("at most {MAX_KEYS} keys");
            return Err(PolicyError::new(
                PolicyCode::TargetsTooMany,
                KEYSET,
                expected,
                file.keys.len(),
            ));
        }
        let mut problems = Vec::new();
        let mut keys: Vec<KeysetEntry> = Vec::with_capacity(file.keys.len());
        for (i, entry) in file.keys.into_iter().enumerate() {
            let claim = format!("{KEYSET}: keys[{i}]");
            let key = match parse_key(&entry.key) {
                Ok(key) => key,
                Err(found) => {
                    problems.push(Problem::new(PolicyCode::KeysetUnreadable, claim, "a public key", found));
                    continue;
                }
            };
            if !is_name(&entry.replica) {
                problems.push(Problem::new(
                    PolicyCode::SettingsName,
                    &claim,
                    "a replica's name",
                    &entry.replica,
                ));
            }
            if entry.not_after < entry.not_before {
                let expected = format!("an end after {}", entry.not_before);
                problems.push(Problem::new(
                    PolicyCode::KeysetValidity,
                    &claim,
                    expected,
                    entry.not_after,
                ));
            }
            if keys.iter().any(|k| k.key.kid() == key.kid()) {
                let found = hex::encode(key.kid());
                problems.push(Problem::new(
                    PolicyCode::KeysetDuplicate,
                    &claim,
                    "each key id once",
                    found,
                ));
            }
            keys.push(KeysetEntry {
                key,
                job: entry.job,
                not_before: entry.not_before,
                not_after: entry.not_after,
                replica: entry.replica,
            });
        }
        PolicyError::unless_empty(problems)?;
        Ok(Keyset {
            version: file.version,
            keys,
        })
    }

    /// The bytes of `keyset.json`.
    pub fn to_json(&self) -> Vec<u8> {
        let keys = self.keys.iter().map(|k| EntryFile {
            job: k.job,
            key: hex::encode(k.key.to_spki_der()),
            not_before: k.not_before,
            not_after: k.not_after,
            replica: k.replica.clone(),
        });
        let file = KeysetFile {
            version: self.version,
            keys: keys.collect(),
        };
        // A struct of numbers and strings always serialises; an empty file would be refused when it is read.
        let mut bytes = serde_json::to_vec_pretty(&file).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// The key with this id for this job, if it counts at `now` (Unix seconds).
    pub fn find(&self, job: Job, kid: &[u8; KID_LEN], now: i64) -> Option<&KeysetEntry> {
        self.keys(job, now).find(|entry| entry.key.kid() == *kid)
    }

    /// Every key for this job that counts at `now` (Unix seconds).
    pub fn keys(&self, job: Job, now: i64) -> impl Iterator<Item = &KeysetEntry> {
        self.keys
            .iter()
            .filter(move |entry| entry.job == job && entry.in_force(now))
    }
}

/// A public key as our JSON files have it: a SubjectPublicKeyInfo in hexadecimal.
pub(crate) fn parse_key(text: &str) -> Result<VerifyingKey, String> {
    let der = hex::decode(text).map_err(|e| e.to_string())?;
    VerifyingKey::from_spki_der(&der).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchstone_cose::key::SigningKey;

    fn entry(seed: u8, job: Job) -> KeysetEntry {
        let key = SigningKey::from_seed([seed; 32]).verifying_key();
        KeysetEntry {
            key,
            job,
            not_before: 100,
            not_after: 200,
            replica: "a".into(),
        }
    }

    #[test]
    fn keys_are_found_by_job_id_and_time() {
        let keyset = Keyset {
            version: 3,
            keys: vec![entry(1, Job::Ear), entry(2, Job::Statement)],
        };
        let read = Keyset::parse(&keyset.to_json()).unwrap();
        assert_eq!(read, keyset);
        let kid = keyset.keys[0].key.kid();
        assert_eq!(read.find(Job::Ear, &kid, 100), keyset.keys.first());
        assert_eq!(read.find(Job::Ear, &kid, 200), keyset.keys.first());
        assert_eq!(read.find(Job::Ear, &kid, 99), None);
        assert_eq!(read.find(Job::Ear, &kid, 201), None);
        assert_eq!(read.find(Job::Statement, &kid, 150), None);
        assert_eq!(read.find(Job::Ear, &[0; 8], 150), None);
        assert_eq!(Keyset::default().keys(Job::Tls, 0).count(), 0);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        use PolicyCode::*;
        let good = Keyset {
            version: 1,
            keys: vec![entry(1, Job::Ear)],
        };
        let with = |change: fn(&mut Keyset)| {
            let mut keyset = good.clone();
            change(&mut keyset);
            Keyset::parse(&keyset.to_json()).map_err(|e| e.code())
        };
        assert_eq!(with(|_| ()), Ok(good.clone()));
        assert_eq!(with(|k| k.version = 0), Err(KeysetUnreadable));
        assert_eq!(with(|k| k.keys.clear()), Err(KeysetUnreadable));
        assert_eq!(with(|k| k.keys.push(entry(1, Job::Tls))), Err(KeysetDuplicate));
        assert_eq!(with(|k| k.keys[0].not_after = 99), Err(KeysetValidity));
        assert_eq!(with(|k| k.keys[0].replica = "A".into()), Err(SettingsName));
        let text = String::from_utf8(good.to_json()).unwrap();
        for (from, to) in [
            ("\"ear\"", "\"any\""),
            ("\"version\": 1", "\"version\": 1, \"x\": 1"),
            ("302a", "302b"),
        ] {
            let bad = text.replacen(from, to, 1);
            assert_eq!(
                Keyset::parse(bad.as_bytes()).map_err(|e| e.code()),
                Err(KeysetUnreadable),
                "{to}"
            );
        }
    }
}
