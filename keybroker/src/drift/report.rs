//! What brokers tell each other: a request that proves who asks, and a signed report.
//!
//! Both are COSE_Sign1 by the sender's trust-state key, each with a type of its own. A request names the TLS connection it
//! is made on (exporter), so that nobody can pass it on; a report names the nonce of its request, so that it is never an
//! old one.

use std::collections::BTreeMap;

use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_cose::key::{SignError, Signer};
use touchstone_cose::sign1::{self, CoseError, Protected, Unverified};
use touchstone_policies::{Job, Keyset};

use super::compare::View;
use super::config::MAX_PEERS;

/// The typ of a request.
pub const REQUEST_TYPE: &str = "application/touchstone-drift-request+cbor";
/// The typ of a report.
pub const REPORT_TYPE: &str = "application/touchstone-drift+cbor";
/// Label of the exporter that ties a request to its connection.
pub const EXPORTER: &str = "EXPORTER-touchstone-drift";
/// Longest request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 512;
/// Longest report, in bytes: 256 regions with their digests, and it still fits a statement.
pub const MAX_REPORT_BYTES: usize = 32 * 1024;
/// Most regions in a report.
pub const MAX_REGIONS: usize = 256;

const NONCE_LEN: usize = 32;
const MAX_NAME: usize = 128;
const REQUEST_LIMITS: Limits = Limits {
    max_bytes: MAX_REQUEST_BYTES,
    max_depth: 4,
    max_items: 32,
};
const REPORT_LIMITS: Limits = Limits {
    max_bytes: MAX_REPORT_BYTES,
    max_depth: 5,
    max_items: 4 * MAX_REGIONS,
};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A report.
    Report,
    /// The record of the decision whose statement is this entry of the ledger.
    Record(u64),
}

/// A request of one broker to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The domain.
    pub domain: String,
    /// Drawn for this request.
    pub nonce: [u8; NONCE_LEN],
    /// The connection's exporter over that nonce.
    pub exporter: [u8; 32],
    /// What.
    pub wanted: Wanted,
}

/// What a broker says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The domain.
    pub domain: String,
    /// The request's nonce.
    pub nonce: [u8; NONCE_LEN],
    /// What it governs by.
    pub view: View,
    /// The trust state's epoch: each broker's own as long as each keeps its own state, so it is shown and not compared.
    pub epoch: u64,
    /// Its ledger: how many entries, and their root. Decisions that are made again are proved to be in it.
    pub ledger: (u64, [u8; 32]),
    /// Whether it denies because it differs from others.
    pub denies: bool,
    /// The brokers that it has found to differ from itself, by what they signed.
    pub differing: Vec<String>,
}

/// Why a request or a report is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Not signed as it has to be.
    #[error(transparent)]
    Cose(#[from] CoseError),
    /// Not CBOR.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Other members.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Not by a trust-state key that the keyset gives this replica now.
    #[error(
        "key {} is no trust-state key of {expected} in the signed keyset now",
        hex::encode(kid)
    )]
    Key {
        /// The id of the key.
        kid: [u8; 8],
        /// Whose it had to be.
        expected: String,
    },
    /// Another domain, nonce or connection.
    #[error("it is of another {0}")]
    Other(&'static str),
}

impl Request {
    /// Signs it.
    ///
    /// # Errors
    /// The signer's.
    pub fn sign(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        let payload = cbor::encode(&Value::map([
            (0, Value::text(self.domain.as_str())),
            (1, Value::bytes(self.nonce)),
            (2, Value::bytes(self.exporter)),
            (
                3,
                match self.wanted {
                    Wanted::Report => Value::Null,
                    Wanted::Record(index) => Value::Unsigned(index),
                },
            ),
        ]));
        sign1::sign(signer, &Protected::typ(REQUEST_TYPE), &payload, &[])
    }

    /// Reads a request by one of `replicas`; gives who asks. That it is for this domain and this connection is compared by
    /// the caller, who has the exporter.
    ///
    /// # Errors
    /// [`ReportError`]
    pub fn verify<'a>(
        bytes: &[u8],
        keyset: &'a Keyset,
        replicas: &[&str],
        now: i64,
    ) -> Result<(&'a str, Self), ReportError> {
        let (replica, payload) = open(bytes, REQUEST_TYPE, REQUEST_LIMITS, keyset, replicas, now)?;
        let mut reader = MapReader::new(cbor::decode(&payload, REQUEST_LIMITS)?, "drift request")?;
        let request = Self {
            domain: reader.text(0, MAX_NAME)?,
            nonce: reader.fixed(1)?,
            exporter: reader.fixed(2)?,
            wanted: match reader.required(3)? {
                Value::Null => Wanted::Report,
                Value::Unsigned(index) => Wanted::Record(index),
                other => {
                    return Err(ShapeError::member("drift request", "key 3", "a number or null", other.kind()).into());
                }
            },
        };
        reader.finish()?;
        Ok((replica, request))
    }
}

impl Report {
    /// Signs it.
    ///
    /// # Errors
    /// The signer's.
    pub fn sign(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        let View {
            generation,
            semantics,
            version,
            digest,
            regions,
        } = &self.view;
        let regions = regions.iter().take(MAX_REGIONS);
        let regions = regions.map(|(name, digest)| Value::array([Value::text(name.as_str()), Value::bytes(*digest)]));
        let payload = cbor::encode(&Value::map([
            (0, Value::text(self.domain.as_str())),
            (1, Value::bytes(self.nonce)),
            (2, Value::Unsigned(*generation)),
            (3, Value::text(semantics.as_str())),
            (4, Value::Unsigned(*version)),
            (5, Value::bytes(*digest)),
            (6, Value::array(regions)),
            (7, Value::Unsigned(self.epoch)),
            (
                8,
                Value::array([Value::Unsigned(self.ledger.0), Value::bytes(self.ledger.1)]),
            ),
            (9, Value::Bool(self.denies)),
            (
                10,
                Value::array(self.differing.iter().map(|name| Value::text(name.as_str()))),
            ),
        ]));
        sign1::sign(signer, &Protected::typ(REPORT_TYPE), &payload, &[])
    }

    /// Reads the report of `replica` that answers `nonce`.
    ///
    /// # Errors
    /// [`ReportError`]
    pub fn verify(
        bytes: &[u8],
        keyset: &Keyset,
        replica: &str,
        (domain, nonce): (&str, &[u8; NONCE_LEN]),
        now: i64,
    ) -> Result<Self, ReportError> {
        let (_, payload) = open(bytes, REPORT_TYPE, REPORT_LIMITS, keyset, &[replica], now)?;
        let mut reader = MapReader::new(cbor::decode(&payload, REPORT_LIMITS)?, "drift report")?;
        let report = Self {
            domain: reader.text(0, MAX_NAME)?,
            nonce: reader.fixed(1)?,
            view: View {
                generation: reader.u64(2)?,
                semantics: reader.text(3, MAX_NAME)?,
                version: reader.u64(4)?,
                digest: reader.fixed(5)?,
                regions: regions(reader.array(6)?)?,
            },
            epoch: reader.u64(7)?,
            ledger: ledger(&reader.required(8)?)?,
            denies: reader.bool(9)?,
            differing: names(reader.array(10)?)?,
        };
        reader.finish()?;
        if report.domain != domain {
            return Err(ReportError::Other("domain"));
        }
        if report.nonce != *nonce {
            return Err(ReportError::Other("nonce"));
        }
        Ok(report)
    }
}

/// Payload and replica of an object signed by a trust-state key of one of `replicas`.
fn open<'a>(
    bytes: &[u8],
    typ: &str,
    limits: Limits,
    keyset: &'a Keyset,
    replicas: &[&str],
    now: i64,
) -> Result<(&'a str, Vec<u8>), ReportError> {
    let object = Unverified::parse(bytes, limits)?;
    let kid = object.kid();
    let entry = keyset.find(Job::TrustState, &kid, now);
    let entry = entry.filter(|entry| replicas.contains(&entry.replica.as_str()));
    let entry = entry.ok_or_else(|| ReportError::Key {
        kid,
        expected: replicas.join(", "),
    })?;
    let payload = object.verify(&entry.key, typ, &[])?.into_payload();
    Ok((&entry.replica, payload))
}

fn regions(rows: Vec<Value>) -> Result<BTreeMap<String, [u8; 32]>, ReportError> {
    let malformed = || ShapeError::member("drift report", "key 6", "[region, digest], sorted", "something else");
    let mut regions: BTreeMap<String, [u8; 32]> = BTreeMap::new();
    if rows.len() > MAX_REGIONS {
        return Err(malformed().into());
    }
    for row in &rows {
        let Some([Value::Text(name), Value::Bytes(digest)]) = row.as_array() else {
            return Err(malformed().into());
        };
        let digest = digest.as_slice().try_into().map_err(|_| malformed())?;
        let in_order = regions.last_key_value().is_none_or(|(last, _)| last < name);
        if name.len() > MAX_NAME || !in_order {
            return Err(malformed().into());
        }
        regions.insert(name.clone(), digest);
    }
    Ok(regions)
}

fn names(rows: Vec<Value>) -> Result<Vec<String>, ReportError> {
    let malformed = || ShapeError::member("drift report", "key 10", "names of replicas", "something else");
    if rows.len() > MAX_PEERS {
        return Err(malformed().into());
    }
    let name = |row: Value| match row {
        Value::Text(name) if name.len() <= MAX_NAME => Ok(name),
        _ => Err(malformed().into()),
    };
    rows.into_iter().map(name).collect()
}

fn ledger(value: &Value) -> Result<(u64, [u8; 32]), ReportError> {
    let malformed = || ShapeError::member("drift report", "key 8", "[size, root]", "something else");
    match value.as_array() {
        Some([Value::Unsigned(size), Value::Bytes(root)]) => {
            Ok((*size, root.as_slice().try_into().map_err(|_| malformed())?))
        }
        _ => Err(malformed().into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use touchstone_cose::key::SigningKey;
    use touchstone_policies::KeysetEntry;

    use super::*;

    fn keyset() -> Keyset {
        let entry = |seed, job, replica: &str| KeysetEntry {
            key: SigningKey::from_seed([seed; 32]).verifying_key(),
            job,
            not_before: 0,
            not_after: 100,
            replica: replica.into(),
        };
        Keyset {
            version: 1,
            keys: vec![
                entry(1, Job::TrustState, "a"),
                entry(2, Job::TrustState, "b"),
                entry(3, Job::Statement, "b"),
            ],
        }
    }

    fn report() -> Report {
        Report {
            domain: "d".into(),
            nonce: [7; 32],
            view: View {
                generation: 3,
                semantics: "s/1".into(),
                version: 9,
                digest: [5; 32],
                regions: BTreeMap::from([("eu".to_owned(), [1; 32]), ("us".to_owned(), [2; 32])]),
            },
            epoch: 12,
            ledger: (40, [6; 32]),
            denies: false,
            differing: vec!["c".into()],
        }
    }

    fn read(bytes: &[u8], replica: &str, domain: &str, nonce: u8, now: i64) -> Result<Report, ReportError> {
        Report::verify(bytes, &keyset(), replica, (domain, &[nonce; 32]), now)
    }

    #[test]
    fn only_the_peers_own_answer_counts() {
        let signed = report().sign(&SigningKey::from_seed([2; 32])).unwrap();
        assert_eq!(read(&signed, "b", "d", 7, 50), Ok(report()));
        let by = |seed| report().sign(&SigningKey::from_seed([seed; 32])).unwrap();
        assert!(
            matches!(read(&by(1), "b", "d", 7, 50), Err(ReportError::Key { .. })),
            "another replica"
        );
        assert!(
            matches!(read(&by(3), "b", "d", 7, 50), Err(ReportError::Key { .. })),
            "a key of another job"
        );
        assert!(
            matches!(read(&by(9), "b", "d", 7, 50), Err(ReportError::Key { .. })),
            "a stranger"
        );
        assert!(
            matches!(read(&signed, "b", "d", 7, 101), Err(ReportError::Key { .. })),
            "a key that ended"
        );
        assert_eq!(
            read(&signed, "b", "d", 8, 50),
            Err(ReportError::Other("nonce")),
            "an old report"
        );
        assert_eq!(read(&signed, "b", "other", 7, 50), Err(ReportError::Other("domain")));
        for at in 0..signed.len() {
            assert!(read(&signed[..at], "b", "d", 7, 50).is_err(), "cut at {at}");
            let mut changed = signed.clone();
            changed[at] ^= 1;
            assert!(read(&changed, "b", "d", 7, 50).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_request_is_of_a_peer_and_no_report() {
        let request = Request {
            domain: "d".into(),
            nonce: [1; 32],
            exporter: [2; 32],
            wanted: Wanted::Record(17),
        };
        let key = SigningKey::from_seed([2; 32]);
        let signed = request.sign(&key).unwrap();
        let keyset = keyset();
        assert_eq!(
            Request::verify(&signed, &keyset, &["b", "c"], 50),
            Ok(("b", request.clone()))
        );
        assert!(Request::verify(&signed, &keyset, &["a"], 50).is_err(), "no peer here");
        assert!(
            Request::verify(&report().sign(&key).unwrap(), &keyset, &["b"], 50).is_err(),
            "a report"
        );
        assert!(read(&signed, "b", "d", 7, 50).is_err(), "a request");
    }

    #[test]
    fn the_longest_report_fits() {
        let mut long = report();
        long.view.regions = (0..MAX_REGIONS).map(|n| (format!("{n:0>63}"), [9; 32])).collect();
        let signed = long.sign(&SigningKey::from_seed([2; 32])).unwrap();
        assert_eq!(read(&signed, "b", "d", 7, 50), Ok(long));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_no_report(bytes: Vec<u8>) {
            prop_assert!(read(&bytes, "b", "d", 7, 50).is_err());
            prop_assert!(Request::verify(&bytes, &keyset(), &["b"], 50).is_err());
        }
    }
}
