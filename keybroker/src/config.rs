//! `broker.toml`: where the broker keeps its data, where it listens, which policy it obeys, and its limits.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use touchstone_evidence::message::MAX_SUBMISSION;
use touchstone_policies::Location;

use crate::drift::{self, config::Peer};
use crate::release::config::KeysConfig;
use crate::witness::{WitnessConfig, Witnessing};

/// Longest configuration file, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 64 * 1024;

/// Smallest `policy_refresh_ms`.
pub const MIN_POLICY_REFRESH_MS: u64 = 100;

/// Largest `policy_refresh_ms`.
pub const MAX_POLICY_REFRESH_MS: u64 = 3_600_000;

/// Largest `limits.evidence_bytes_at_once`.
const MOST_AT_ONCE: u64 = 4 << 30;

/// What `broker.toml` says. Unknown keys are refused, so that a misspelt limit is not silently the default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The folder of keys, store and admin socket; made by `touchstone broker init`, mode 0700.
    pub data_dir: PathBuf,
    /// Address and port of the HTTPS listener. Port 0 lets the system choose; the choice is in `DATA/address`.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The policy repository (TUF): a folder, or the `http://` or `https://` URL of any static web server.
    pub policy: Location,
    /// Certificate authorities, PEM, of an `https://` policy repository. No others are believed.
    pub policy_ca: Option<PathBuf>,
    /// How often it is looked whether another policy is published, in milliseconds: one small file is read.
    #[serde(default = "default_policy_refresh")]
    pub policy_refresh_ms: u64,
    /// Address and port of a plain HTTP listener that serves the policy repository and nothing else, below
    /// `/v1/policy/`; without it that is served by the HTTPS listener alone.
    pub policy_listen: Option<SocketAddr>,
    /// The pinned first root of that repository: the only thing about policy the broker trusts without a signature.
    pub policy_root: PolicyRoot,
    /// The trust domain. A policy repository of another domain is refused.
    pub domain: String,
    /// The keys it keeps and releases; without this section it keeps none.
    pub keys: Option<KeysConfig>,
    /// The domain's other brokers.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// Whose logs it watches, and who watches its own.
    #[serde(default)]
    pub witness: WitnessConfig,
    /// Bounds on what others may make the broker do.
    #[serde(default)]
    pub limits: Limits,
}

/// How the first root of the policy repository is pinned.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum PolicyRoot {
    /// A copy of the root metadata, brought here by other means than the repository itself.
    File(PathBuf),
    /// Its SHA-256, in hex. The repository supplies the bytes.
    Sha256(String),
}

/// Bounds on what others may make the broker do. Every one has a default that fits a domain of thousands of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most connections at once, those in their handshake included. More wait in the listener's queue.
    pub connections: usize,
    /// Most connections that have not finished their handshake. More are closed at once.
    pub handshakes: usize,
    /// A handshake may take this long, in milliseconds (CVE-2023-38200: half-open handshakes must not block others).
    pub handshake_ms: u64,
    /// A request's head may take this long, in milliseconds.
    pub head_ms: u64,
    /// A request's body may take this long, in milliseconds.
    pub body_ms: u64,
    /// Largest hello, in bytes.
    pub hello_bytes: usize,
    /// Largest evidence, in bytes. Only a first contact with a long IMA list comes near it.
    pub evidence_bytes: usize,
    /// Most bytes of evidence over 64 KiB a piece at once, of connections on which no node has proved itself yet; as many
    /// again of those on which one has. Larger evidence waits for room.
    pub evidence_bytes_at_once: usize,
    /// Most challenges open at once, over all connections.
    pub sessions: usize,
    /// Most challenges open at once on one connection.
    pub sessions_per_connection: usize,
    /// A challenge may be answered for this long, in milliseconds.
    pub session_ms: u64,
    /// Most trust-state streams at once.
    pub subscribers: usize,
    /// Most refused requests a second from one source prefix (/24 or /48) before it is told to wait.
    pub refusals_per_second: u32,
    /// Most decisions waiting for the disk.
    pub queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            handshakes: 1_024,
            handshake_ms: 5_000,
            head_ms: 60_000,
            body_ms: 10_000,
            hello_bytes: 16 * 1024,
            evidence_bytes: MAX_SUBMISSION,
            evidence_bytes_at_once: 128 * 1024 * 1024,
            sessions: 65_536,
            sessions_per_connection: 4,
            session_ms: 30_000,
            subscribers: 12_288,
            refusals_per_second: 200,
            queue: 4_096,
        }
    }
}

/// Why a configuration is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {detail}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        detail: String,
    },
    /// Over [`MAX_CONFIG_BYTES`].
    #[error("{} has {found} bytes, the limit is {limit}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit, in bytes.
        limit: u64,
        /// The length, in bytes.
        found: u64,
    },
    /// Not TOML, an unknown key, a missing key, or a value of another type.
    #[error("{detail}")]
    Syntax {
        /// Where and what, in the parser's words.
        detail: String,
    },
    /// A value that cannot work.
    #[error("{key} is {found}, expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What would do.
        expected: &'static str,
        /// What is there.
        found: String,
    },
}

impl Config {
    /// Reads `broker.toml`. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let io = |e: std::io::Error| ConfigError::Io {
            path: path.into(),
            detail: e.to_string(),
        };
        let found = std::fs::metadata(path).map_err(io)?.len();
        if found > MAX_CONFIG_BYTES {
            return Err(ConfigError::TooLong {
                path: path.into(),
                limit: MAX_CONFIG_BYTES,
                found,
            });
        }
        let mut config = Self::parse(&std::fs::read_to_string(path).map_err(io)?)?;
        if let Some(folder) = path.parent() {
            config.data_dir = folder.join(&config.data_dir);
            config.policy = config.policy.below(folder);
            config.policy_ca = config.policy_ca.map(|file| folder.join(file));
            if let PolicyRoot::File(file) = &mut config.policy_root {
                *file = folder.join(&*file);
            }
            if let Some(keys) = &mut config.keys {
                keys.relative_to(folder);
            }
        }
        Ok(config)
    }

    /// The configuration in `text`, checked.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] or [`ConfigError::Value`]
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|e| ConfigError::Syntax {
            detail: e.to_string().trim_end().to_owned(),
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if let PolicyRoot::Sha256(digest) = &self.policy_root {
            let mut bytes = [0; 32];
            if hex::decode_to_slice(digest, &mut bytes).is_err() {
                let expected = "64 hex digits";
                return Err(ConfigError::Value {
                    key: "policy_root.sha256",
                    expected,
                    found: digest.clone(),
                });
            }
        }
        if !(MIN_POLICY_REFRESH_MS..=MAX_POLICY_REFRESH_MS).contains(&self.policy_refresh_ms) {
            return Err(ConfigError::Value {
                key: "policy_refresh_ms",
                expected: "100 to 3600000",
                found: self.policy_refresh_ms.to_string(),
            });
        }
        if self.domain.is_empty() || self.domain.len() > 64 || self.domain.chars().any(char::is_control) {
            let expected = "a name of 1 to 64 characters";
            return Err(ConfigError::Value {
                key: "domain",
                expected,
                found: self.domain.escape_debug().to_string(),
            });
        }
        if let Some((key, expected)) = self.keys.as_ref().and_then(KeysConfig::problem) {
            return Err(ConfigError::Value {
                key,
                expected,
                found: "something else".into(),
            });
        }
        if let Some((key, expected, found)) = drift::config::problem(&self.peers) {
            return Err(ConfigError::Value { key, expected, found });
        }
        if let Err(error) = Witnessing::new(&self.witness) {
            return Err(ConfigError::Value {
                key: "witness",
                expected: "verifier keys: name+hex+base64",
                found: error.to_string(),
            });
        }
        let l = &self.limits;
        let numbers: [(&'static str, u64, u64); 14] = [
            ("limits.connections", l.connections as u64, 1_000_000),
            ("limits.handshakes", l.handshakes as u64, 1_000_000),
            ("limits.handshake_ms", l.handshake_ms, 60_000),
            ("limits.head_ms", l.head_ms, 600_000),
            ("limits.body_ms", l.body_ms, 60_000),
            ("limits.hello_bytes", l.hello_bytes as u64, 1024 * 1024),
            ("limits.evidence_bytes", l.evidence_bytes as u64, MAX_SUBMISSION as u64),
            (
                "limits.evidence_bytes_at_once",
                l.evidence_bytes_at_once as u64,
                MOST_AT_ONCE,
            ),
            ("limits.sessions", l.sessions as u64, 1_000_000),
            ("limits.sessions_per_connection", l.sessions_per_connection as u64, 64),
            ("limits.session_ms", l.session_ms, 60_000),
            ("limits.subscribers", l.subscribers as u64, 1_000_000),
            ("limits.refusals_per_second", l.refusals_per_second.into(), 1_000_000),
            ("limits.queue", l.queue as u64, 65_536),
        ];
        if l.evidence_bytes_at_once < l.evidence_bytes {
            return Err(ConfigError::Value {
                key: "limits.evidence_bytes_at_once",
                expected: "at least evidence_bytes",
                found: l.evidence_bytes_at_once.to_string(),
            });
        }
        for (key, found, most) in numbers {
            if found == 0 || found > most {
                let expected = "at least 1 and at most the documented maximum";
                return Err(ConfigError::Value {
                    key,
                    expected,
                    found: found.to_string(),
                });
            }
        }
        Ok(())
    }
}

const fn default_policy_refresh() -> u64 {
    5_000
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7440))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        data_dir = "data"
        listen = "127.0.0.1:0"
        policy = "repo"
        policy_root = { file = "root.json" }
        domain = "demo"
    "#;

    #[test]
    fn a_short_file_is_enough() {
        let config = Config::parse(GOOD).unwrap();
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.listen.port(), 0);
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.toml");
        std::fs::write(&path, GOOD).unwrap();
        let config = Config::read(&path).unwrap();
        assert_eq!(config.data_dir, folder.path().join("data"));
        assert_eq!(config.policy, Location::Folder(folder.path().join("repo")));
        assert_eq!(config.policy_root, PolicyRoot::File(folder.path().join("root.json")));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (name, bad) in [
            ("unknown key", GOOD.replace("domain", "insecure = true\ndomain")),
            ("unknown limit", format!("{GOOD}\n[limits]\nsesions = 1")),
            (
                "no policy root",
                GOOD.replace("policy_root = { file = \"root.json\" }", ""),
            ),
            (
                "two policy roots",
                GOOD.replace("{ file = \"root.json\" }", "{ file = \"a\", sha256 = \"b\" }"),
            ),
            (
                "short digest",
                GOOD.replace("{ file = \"root.json\" }", "{ sha256 = \"ab\" }"),
            ),
            ("no place of policy", GOOD.replace("\"repo\"", "\"ftp://a.example/\"")),
            (
                "policy looked at all the time",
                format!("{GOOD}\npolicy_refresh_ms = 99"),
            ),
            ("policy looked at never", format!("{GOOD}\npolicy_refresh_ms = 3600001")),
            ("empty domain", GOOD.replace("demo", "")),
            ("no limit at all", format!("{GOOD}\n[limits]\nsessions = 0")),
            (
                "less room than for one evidence",
                format!("{GOOD}\n[limits]\nevidence_bytes_at_once = 1048576"),
            ),
            (
                "limit over the maximum",
                format!("{GOOD}\n[limits]\nsession_ms = 60001"),
            ),
        ] {
            assert!(Config::parse(&bad).is_err(), "{name}");
        }
    }
}
