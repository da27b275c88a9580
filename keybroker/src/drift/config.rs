//! `[[peers]]` of `broker.toml`: the other brokers of the domain.

use std::collections::BTreeSet;

use serde::Deserialize;
use touchstone_client::Endpoint;
use touchstone_policies::layout::is_name;

/// Most peers: with this broker, more than any domain has regions' replicas of one kind.
pub const MAX_PEERS: usize = 32;

/// Another broker of the domain. Its keys are those that the signed keyset gives this replica.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its name in the keyset.
    pub replica: String,
    /// Where it listens, `https://host:port`.
    pub url: String,
}

/// What is wrong with a list of peers: the key, what is expected, what was found.
#[must_use]
pub fn problem(peers: &[Peer]) -> Option<(&'static str, &'static str, String)> {
    if peers.len() > MAX_PEERS {
        return Some(("peers", "at most 32", peers.len().to_string()));
    }
    let mut names = BTreeSet::new();
    for peer in peers {
        if !is_name(&peer.replica) {
            return Some((
                "peers.replica",
                "the name of a replica in the keyset",
                peer.replica.clone(),
            ));
        }
        if !names.insert(&peer.replica) {
            return Some(("peers.replica", "each replica once", peer.replica.clone()));
        }
        if Endpoint::parse(&peer.url).is_err() {
            return Some(("peers.url", "https://host:port", peer.url.clone()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_cannot_be() {
        let peer = |replica: &str, url: &str| Peer {
            replica: replica.into(),
            url: url.into(),
        };
        let good = peer("b", "https://127.0.0.1:7440");
        assert_eq!(problem(std::slice::from_ref(&good)), None);
        for (name, peers) in [
            ("a replica twice", vec![good.clone(), good.clone()]),
            ("no name", vec![peer("", &good.url)]),
            ("in clear", vec![peer("b", "http://127.0.0.1:7440")]),
            (
                "too many",
                (0..=MAX_PEERS).map(|n| peer(&format!("b{n}"), &good.url)).collect(),
            ),
        ] {
            assert!(problem(&peers).is_some(), "{name}");
        }
    }
}
