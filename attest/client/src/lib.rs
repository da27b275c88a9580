//! The client side of the broker's protocol: TLS 1.3 pinned to the signed keyset, the connection's exporter, typed calls.
//!
//! In scope too: [`follow`], which turns the stream of a domain's trust state into the last view that verified. Used by
//! whoever speaks to a broker: agents, guards, and the brokers of other domains.
//!
//! No certificate authority is consulted: the only source of a broker's TLS key is the keyset in the policy repository
//! (`docs/protocol.md`, "keyset"). A connection whose key is not listed there does not carry a single byte of evidence.

mod backoff;
mod broker;
pub mod clock;
mod connection;
mod events;
pub mod follow;
mod tls;

pub use backoff::{FIRST_BACKOFF_MS, MAX_BACKOFF_MS, MAX_RETRY_AFTER_S, backoff_ms, spread_ms};
pub use broker::{BrokerClient, Submitted};
pub use connection::{Connection, EXPORTER_LENGTH};
pub use events::EventStream;
pub use tls::pinned_config;

use thiserror::Error;

/// Where a broker listens: `host:port`, or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// Parses `host:port`, with or without a leading `https://`.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`] for anything else, plain `http://` included: evidence never travels in clear.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        let refuse = || ClientError::Endpoint {
            found: text.chars().take(128).collect(),
        };
        let rest = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = rest.rsplit_once(':').ok_or_else(refuse)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains('/') {
            return Err(refuse());
        }
        Ok(Self {
            host: host.to_owned(),
            port: port.parse().map_err(|_| refuse())?,
        })
    }

    /// `host:port`, for the `Host` header and for messages.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Why a call to a broker did not give an answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Not an address of a broker.
    #[error("expected https://host:port, found {found:?}")]
    Endpoint {
        /// What was given.
        found: String,
    },
    /// The broker could not be reached, or the connection broke: nothing is known about the decision.
    #[error("broker {endpoint} is unreachable: {cause}")]
    Unreachable {
        /// Which one.
        endpoint: String,
        /// The operating system's or TLS library's words.
        cause: String,
    },
    /// The TLS key shown is not in the signed keyset: an interceptor, a proxy that ends TLS, or a broker not yet listed.
    #[error("broker {endpoint} shows a TLS key that the signed keyset does not list")]
    NotInKeyset {
        /// Which one.
        endpoint: String,
    },
    /// The broker refused before any decision was made.
    #[error("refused ({status}) {code}: {message}{}", reasons.iter().map(|reason| format!("; {reason}")).collect::<String>())]
    Refused {
        /// HTTP status.
        status: u16,
        /// Stable reason code.
        code: String,
        /// In words.
        message: String,
        /// What was found on the way: `code (claim): expected …, found …`.
        reasons: Vec<String>,
    },
    /// The broker has no place now and says when to come again.
    #[error("broker {endpoint} has no place now ({code}): again in {seconds} s")]
    Later {
        /// Which one.
        endpoint: String,
        /// Stable reason code.
        code: String,
        /// What it said of the wait, in seconds; never more than [`MAX_RETRY_AFTER_S`].
        seconds: u64,
    },
    /// The answer was not what the protocol says.
    #[error("answer to {path}: expected {expected}, found {found}")]
    Answer {
        /// The route called.
        path: &'static str,
        /// What the protocol says.
        expected: &'static str,
        /// What came.
        found: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let parsed = Endpoint::parse("https://broker.example:8443/").expect("parses");
        assert_eq!(parsed.authority(), "broker.example:8443");
        assert_eq!(Endpoint::parse("[::1]:9").expect("parses").authority(), "[::1]:9");
        for bad in [
            "",
            "broker",
            "http://broker:80",
            "broker:99999",
            ":443",
            "https://a/b:1",
        ] {
            assert!(
                matches!(Endpoint::parse(bad), Err(ClientError::Endpoint { .. })),
                "{bad}"
            );
        }
    }
}
