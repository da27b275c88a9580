//! `network.toml`: what a workload reaches over the network, by the right that it runs under.
//!
//! ```toml
//! [[segment]]
//! scope = "execute:db-reader"
//! allow = ["tcp 10.0.0.5:5432", "tcp 10.1.0.0/16:443", "udp [fd00::53]:53"]
//! ```
//! Everything else is dropped. An entry is a protocol, an address or a prefix (IPv6 in brackets), and one port; no names, no
//! ranges of ports, nothing that means any.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::NETWORK;
use crate::targets::scope::Scope;

/// Most segments.
pub const MAX_SEGMENTS: usize = 1024;
/// Most entries of one segment.
pub const MAX_REACHABLE: usize = 256;
/// Shortest prefix of an IPv4 entry: more addresses than these are no segment.
pub const MIN_PREFIX_V4: u8 = 8;
/// Shortest prefix of an IPv6 entry.
pub const MIN_PREFIX_V6: u8 = 16;
/// The action that has segments.
const ACTION: &str = "execute";

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One thing that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reachable {
    /// The protocol.
    pub transport: Transport,
    /// The address, or the first of a prefix.
    pub address: IpAddr,
    /// How many of its bits count: 32 or 128 for one address.
    pub prefix: u8,
    /// The port.
    pub port: u16,
}

impl Reachable {
    /// Reads `tcp 10.0.0.5:5432`; nothing where it is none, or bits beyond the prefix are set.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (transport, place) = text.split_once(' ')?;
        let transport = match transport {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return None,
        };
        let (addresses, port) = place.rsplit_once(':')?;
        let addresses = match addresses.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').filter(|inner| inner.contains(':'))?,
            None => Some(addresses).filter(|text| !text.contains(':'))?,
        };
        let (address, prefix) = match addresses.split_once('/') {
            Some((address, prefix)) => (address, Some(number(prefix)?)),
            None => (addresses, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let (bits, least): (u8, u8) = match address {
            IpAddr::V4(_) => (32, MIN_PREFIX_V4),
            IpAddr::V6(_) => (128, MIN_PREFIX_V6),
        };
        let prefix = match prefix {
            Some(prefix) => u8::try_from(prefix)
                .ok()
                .filter(|prefix| (least..=bits).contains(prefix))?,
            None => bits,
        };
        let value = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let beyond = 1u128
            .checked_shl(u32::from(bits - prefix))
            .map_or(u128::MAX, |one| one - 1);
        if value & beyond != 0 || address.is_unspecified() || address.is_multicast() {
            return None;
        }
        Some(Self {
            transport,
            address,
            prefix,
            port: number(port).filter(|port| *port > 0)?,
        })
    }
}

/// Decimal digits without sign and leading zero.
fn number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Reachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        let (open, close, bits) = match self.address {
            IpAddr::V4(_) => ("", "", 32),
            IpAddr::V6(_) => ("[", "]", 128),
        };
        write!(f, "{transport} {open}{}", self.address)?;
        if self.prefix != bits {
            write!(f, "/{}", self.prefix)?;
        }
        write!(f, "{close}:{}", self.port)
    }
}

/// What is reached, by scope.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Network {
    segments: BTreeMap<Scope, Vec<Reachable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkFile {
    segment: Vec<SegmentEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SegmentEntry {
    scope: String,
    allow: Vec<String>,
}

impl Network {
    /// Reads and checks `network.toml`.
    ///
    /// # Errors
    /// [`PolicyError`] `policy-network-unreadable` with every problem.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let unreadable = |found: String| PolicyError::new(PolicyCode::NetworkUnreadable, NETWORK, "segments", found);
        let text = std::str::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
        let file: NetworkFile = toml::from_str(text).map_err(|e| unreadable(e.to_string()))?;
        if file.segment.is_empty() || file.segment.len() > MAX_SEGMENTS {
            return Err(unreadable(format!("{} segments", file.segment.len())));
        }
        let mut problems = Vec::new();
        let mut segments = BTreeMap::new();
        for entry in file.segment {
            let mut problem = |expected: &str, found: &str| {
                let claim = format!("{NETWORK}: segment of {}", entry.scope);
                problems.push(Problem::new(PolicyCode::NetworkUnreadable, claim, expected, found));
            };
            if !(1..=MAX_REACHABLE).contains(&entry.allow.len()) {
                let expected = format!("1 to {MAX_REACHABLE} entries; without a segment nothing is reached");
                problem(&expected, &entry.allow.len().to_string());
            }
            let mut allow = Vec::new();
            for text in entry.allow.iter().take(MAX_REACHABLE) {
                match Reachable::parse(text) {
                    Some(reachable) if !allow.contains(&reachable) => allow.push(reachable),
                    Some(_) => problem("each entry once", text),
                    None => problem("tcp or udp, an address or prefix, and a port: tcp 10.0.0.5:5432", text),
                }
            }
            allow.sort();
            match Scope::parse(&entry.scope).filter(|scope| scope.action == ACTION) {
                Some(scope) if segments.contains_key(&scope) => problem("one segment of a scope", &entry.scope),
                Some(scope) => drop(segments.insert(scope, allow)),
                None => problem("execute:<resource>", &entry.scope),
            }
        }
        PolicyError::unless_empty(problems)?;
        Ok(Self { segments })
    }

    /// What is reached under `execute:<resource>`, sorted; empty: nothing.
    #[must_use]
    pub fn of(&self, resource: &str) -> &[Reachable] {
        let scope = Scope {
            action: ACTION.into(),
            resource: resource.into(),
        };
        self.segments.get(&scope).map_or(&[], Vec::as_slice)
    }

    /// Every segment, by scope.
    pub fn iter(&self) -> impl Iterator<Item = (&Scope, &[Reachable])> {
        self.segments.iter().map(|(scope, allow)| (scope, allow.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_are_exact() {
        for text in [
            "tcp 10.0.0.5:5432",
            "udp 10.1.0.0/16:53",
            "tcp [fd00::5]:443",
            "tcp [fd00:1::/32]:65535",
            "tcp 127.0.0.1:1",
        ] {
            assert_eq!(Reachable::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "tcp",
            "tcp 10.0.0.5",
            "10.0.0.5:80",
            "icmp 10.0.0.5:1",
            "TCP 10.0.0.5:80",
            "tcp  10.0.0.5:80",
            "tcp 10.0.0.5:80 ",
            "tcp 10.0.0.5:0",
            "tcp 10.0.0.5:080",
            "tcp 10.0.0.5:+80",
            "tcp 10.0.0.5:65536",
            "tcp 10.0.0.5:80-90",
            "tcp 10.0.0.5:*",
            "tcp *:80",
            "tcp 0.0.0.0:80",
            "tcp 0.0.0.0/0:80",
            "tcp 10.0.0.0/7:80",
            "tcp 10.0.0.5/33:80",
            "tcp 10.0.0.5/8:80",
            "tcp 10.0.0.0/08:80",
            "tcp 10.0.0.0/8/8:80",
            "tcp 010.0.0.1:80",
            "tcp 10.1:80",
            "tcp 0x0a000001:80",
            "tcp 224.0.0.1:80",
            "tcp [::]:80",
            "tcp [::/0]:80",
            "tcp [fe80::1%eth0]:80",
            "tcp fd00::5:443",
            "tcp [10.0.0.5]:443",
            "tcp [fd00::5:443",
            "tcp example.org:443",
            "tcp 10.0.0.5:80; drop",
            "tcp 10.0.0.5:80\naccept",
        ] {
            assert_eq!(Reachable::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_workload_reaches_what_its_scope_names() {
        let network = Network::parse(
            b"[[segment]]\nscope = \"execute:db-reader\"\nallow = [\"udp 10.0.0.2:53\", \"tcp 10.0.0.5:5432\"]\n",
        )
        .unwrap();
        let shown: Vec<String> = network.of("db-reader").iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["tcp 10.0.0.5:5432", "udp 10.0.0.2:53"]);
        assert_eq!(network.of("db"), [], "no prefixes, no wildcards: nothing is reached");
        assert_eq!(Network::default().of("db-reader"), []);
        for text in [
            "",
            "segment = []",
            "[[segment]]\nscope = \"execute:a\"\nallow = []\n",
            "[[segment]]\nscope = \"execute:*\"\nallow = [\"tcp 10.0.0.5:80\"]\n",
            "[[segment]]\nscope = \"release:a\"\nallow = [\"tcp 10.0.0.5:80\"]\n",
            "[[segment]]\nscope = \"execute:a\"\nallow = [\"tcp 10.0.0.5:80\", \"tcp 10.0.0.5:80\"]\n",
            "[[segment]]\nscope = \"execute:a\"\nallow = [\"any\"]\n",
            "[[segment]]\nscope = \"execute:a\"\nallow = [\"tcp 10.0.0.5:80\"]\ndefault = \"accept\"\n",
            "[[segment]]\nscope = \"execute:a\"\nallow = [\"tcp 10.0.0.5:80\"]\n\
             [[segment]]\nscope = \"execute:a\"\nallow = [\"tcp 10.0.0.6:80\"]\n",
        ] {
            let refused = Network::parse(text.as_bytes()).map_err(|e| e.code());
            assert_eq!(refused, Err(PolicyCode::NetworkUnreadable), "{text}");
        }
    }

    proptest! {
        /// Whatever is read is shown as it is written, and nothing but that is read as it.
        #[test]
        fn what_is_read_is_what_is_shown(text in "(tcp|udp) \\[?[0-9a-f:.]{0,12}(/[0-9]{1,3})?\\]?:[0-9]{1,5}") {
            if let Some(reachable) = Reachable::parse(&text) {
                prop_assert_eq!(Reachable::parse(&reachable.to_string()), Some(reachable));
            }
        }

        #[test]
        fn no_text_is_a_panic(text in "\\PC{0,64}") {
            let _ = Reachable::parse(&text);
        }
    }
}
