//! Asking one's own domain for an authorization below the one that is held: for a workload of a node, or for whom a workload
//! hands a part of its rights on to (`docs/protocol.md`, section 6).
//!
//! The answer has the form of that to a [`ForeignRequest`](super::ForeignRequest): statement, receipt, reasons, and the
//! authorization where it was allowed.

use touchstone_cose::cbor::{self, ShapeError, Value};

use super::{MessageError, bytes, open};

const REQUEST: &str = "workload request";

/// The route.
pub const WORKLOAD_PATH: &str = "/v1/authorizations";

/// The largest request, in bytes: a chain of the largest size, a proof, and what is wanted.
pub const MAX_WORKLOAD_REQUEST: usize = 8 << 10;
/// Most scopes asked for at once.
pub const MAX_WORKLOAD_SCOPES: usize = 16;
/// Most entries that one may depend on.
pub const MAX_DEPENDENCIES: usize = 8;
/// Longest text of an attribute, in bytes.
pub const MAX_ATTRIBUTE: usize = 255;

const MAX_CHAIN: usize = 4 << 10;
const MAX_PROOF: usize = 1 << 10;
const MAX_SCOPE: usize = 80;
const MAX_LABEL: usize = 32;
const MAX_WORD: usize = 128;
const MAX_KEY: usize = 256;

/// The id under which a domain's brokers take proofs that ask for such an authorization.
#[must_use]
pub fn workload_audience(domain: &str) -> String {
    format!("{domain}/authorizations")
}

/// A status entry: list, generation, index. It is what a lineage entry is known by.
pub type EntryNumber = (u16, u32, u32);

/// In what way something depends on an entry that is not above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DependencyKind {
    /// It was started by what that entry stands for.
    StartedBy,
    /// It reads what that one makes.
    ReadsFrom,
    /// It is the same work, moved here from there.
    MovedFrom,
}

impl DependencyKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::StartedBy, Self::ReadsFrom, Self::MovedFrom];

    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StartedBy => "started-by",
            Self::ReadsFrom => "reads-from",
            Self::MovedFrom => "moved-from",
        }
    }

    /// The kind with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// What it depends on beside its parent: it falls when that falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dependency {
    /// In what way.
    pub kind: DependencyKind,
    /// On what.
    pub on: EntryNumber,
}

/// What the node's agent says of a workload; nobody else may. The kernel told it, not the workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The user who runs it.
    pub uid: u32,
    /// Its process, and when that was started, in clock ticks since the boot: the two name one process.
    pub process: (u32, u64),
    /// Its control group.
    pub cgroup: String,
    /// SHA-256 of the file it runs.
    pub executable: [u8; 32],
    /// The path of that file, for people.
    pub path: String,
    /// Whether IMA has measured a file of that digest in this boot.
    pub measured: bool,
}

/// Holder → broker: an authorization below the one it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadRequest {
    /// The authorization of who hands rights on, as it presents it.
    pub chain: Vec<u8>,
    /// The proof of possession, for this connection, and for `delegate` on the resource of the first scope.
    pub proof: Vec<u8>,
    /// What the workload is called on its node.
    pub label: String,
    /// Its key, a COSE_Key.
    pub key: Vec<u8>,
    /// What keeps that key: `tpm`, `tee` or `software`.
    pub key_kind: String,
    /// What it is to be granted: `action:resource`, of what its parent holds.
    pub scopes: Vec<String>,
    /// How long it is to count at most, in seconds.
    pub life: Option<u64>,
    /// The region it is to count in alone.
    pub region: Option<String>,
    /// What it is for.
    pub purpose: Option<String>,
    /// How many further links may hang below it, and whether it may hand rights on without asking.
    pub delegation: Option<(u8, bool)>,
    /// What it depends on.
    pub depends_on: Vec<Dependency>,
    /// What the node says of it.
    pub attributes: Option<Attributes>,
    /// The entry that is to go on, where it is a renewal.
    pub renew: Option<EntryNumber>,
}

impl WorkloadRequest {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::text);
        cbor::encode(&Value::map([
            (0, Value::bytes(self.chain.as_slice())),
            (1, Value::bytes(self.proof.as_slice())),
            (2, Value::text(self.label.as_str())),
            (3, Value::bytes(self.key.as_slice())),
            (4, Value::text(self.key_kind.as_str())),
            (
                5,
                Value::array(self.scopes.iter().map(|scope| Value::text(scope.as_str()))),
            ),
            (6, self.life.map_or(Value::Null, Value::Unsigned)),
            (7, text(&self.region)),
            (8, text(&self.purpose)),
            (
                9,
                self.delegation.map_or(Value::Null, |(depth, offline)| {
                    Value::array([Value::Unsigned(depth.into()), Value::Bool(offline)])
                }),
            ),
            (10, dependency_values(&self.depends_on)),
            (11, self.attributes.as_ref().map_or(Value::Null, Attributes::value)),
            (12, self.renew.map_or(Value::Null, entry_value)),
        ]))
    }

    /// Reads a request.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        let mut reader = open(message, MAX_WORKLOAD_REQUEST, REQUEST)?;
        let request = Self {
            chain: bytes(&mut reader, 0, REQUEST, MAX_CHAIN)?,
            proof: bytes(&mut reader, 1, REQUEST, MAX_PROOF)?,
            label: reader.text(2, MAX_LABEL)?,
            key: bytes(&mut reader, 3, REQUEST, MAX_KEY)?,
            key_kind: reader.text(4, MAX_LABEL)?,
            scopes: scopes(reader.array(5)?)?,
            life: match reader.required(6)? {
                Value::Null => None,
                Value::Unsigned(life) => Some(life),
                _ => return Err(shape("key 6", "seconds or null").into()),
            },
            region: optional_text(reader.required(7)?, "key 7")?,
            purpose: optional_text(reader.required(8)?, "key 8")?,
            delegation: match reader.required(9)? {
                Value::Null => None,
                value => Some(delegation(&value).ok_or_else(|| shape("key 9", "[depth, off-line] or null"))?),
            },
            depends_on: dependencies(&Value::Array(reader.array(10)?))
                .ok_or_else(|| shape("key 10", "up to 8 dependencies, sorted, each once"))?,
            attributes: match reader.required(11)? {
                Value::Null => None,
                value => Some(Attributes::read(&value).ok_or_else(|| shape("key 11", "attributes or null"))?),
            },
            renew: match reader.required(12)? {
                Value::Null => None,
                value => Some(entry(&value).ok_or_else(|| shape("key 12", "[list, generation, index] or null"))?),
            },
        };
        reader.finish()?;
        Ok(request)
    }
}

impl Attributes {
    /// As CBOR: [uid, [process, started], cgroup, executable, path, measured].
    #[must_use]
    pub fn value(&self) -> Value {
        Value::array([
            Value::Unsigned(self.uid.into()),
            Value::array([self.process.0.into(), self.process.1].map(Value::Unsigned)),
            Value::text(self.cgroup.as_str()),
            Value::bytes(self.executable),
            Value::text(self.path.as_str()),
            Value::Bool(self.measured),
        ])
    }

    /// Reads what [`Attributes::value`] makes.
    #[must_use]
    pub fn read(value: &Value) -> Option<Self> {
        let [uid, process, cgroup, executable, path, measured] = value.as_array()? else {
            return None;
        };
        let [process, started] = process.as_array()? else {
            return None;
        };
        let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let text = |value: &Value| {
            let text = value.as_text().filter(|text| text.len() <= MAX_ATTRIBUTE)?;
            (!text.chars().any(char::is_control)).then(|| text.to_owned())
        };
        Some(Self {
            uid: number(uid)?,
            process: (number(process)?, started.as_u64()?),
            cgroup: text(cgroup)?,
            executable: executable.as_bytes()?.try_into().ok()?,
            path: text(path)?,
            measured: match measured {
                Value::Bool(measured) => *measured,
                _ => return None,
            },
        })
    }
}

/// Dependencies as CBOR: [[kind, entry] …].
#[must_use]
pub fn dependency_values(depends_on: &[Dependency]) -> Value {
    Value::array(
        depends_on
            .iter()
            .map(|dependency| Value::array([Value::text(dependency.kind.as_str()), entry_value(dependency.on)])),
    )
}

/// Reads what [`dependency_values`] makes, in order and without one twice.
#[must_use]
pub fn dependencies(value: &Value) -> Option<Vec<Dependency>> {
    let values = value.as_array().filter(|values| values.len() <= MAX_DEPENDENCIES)?;
    let read: Option<Vec<Dependency>> = values
        .iter()
        .map(|value| match value.as_array()? {
            [kind, on] => Some(Dependency {
                kind: DependencyKind::parse(kind.as_text()?)?,
                on: entry(on)?,
            }),
            _ => None,
        })
        .collect();
    read.filter(|read| read.is_sorted_by(|a, b| a < b))
}

/// A status entry as CBOR: [list, generation, index].
#[must_use]
pub fn entry_value((list, generation, index): EntryNumber) -> Value {
    Value::array([u64::from(list), generation.into(), index.into()].map(Value::Unsigned))
}

fn entry(value: &Value) -> Option<EntryNumber> {
    let [list, generation, index] = value.as_array()? else {
        return None;
    };
    let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
    Some((u16::try_from(list.as_u64()?).ok()?, number(generation)?, number(index)?))
}

fn delegation(value: &Value) -> Option<(u8, bool)> {
    match value.as_array()? {
        [depth, Value::Bool(offline)] => Some((u8::try_from(depth.as_u64()?).ok()?, *offline)),
        _ => None,
    }
}

fn scopes(values: Vec<Value>) -> Result<Vec<String>, MessageError> {
    if values.is_empty() || values.len() > MAX_WORKLOAD_SCOPES {
        return Err(shape("key 5", "1 to 16 scopes").into());
    }
    let scopes = values.into_iter().map(|value| match value {
        Value::Text(text) if text.len() <= MAX_SCOPE => Ok(text),
        _ => Err(shape("key 5", "1 to 16 scopes").into()),
    });
    scopes.collect()
}

fn optional_text(value: Value, key: &'static str) -> Result<Option<String>, ShapeError> {
    match value {
        Value::Null => Ok(None),
        Value::Text(text) if (1..=MAX_WORD).contains(&text.len()) => Ok(Some(text)),
        _ => Err(shape(key, "a word or null")),
    }
}

fn shape(key: &'static str, expected: &'static str) -> ShapeError {
    ShapeError::member(REQUEST, key, expected, "something else")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> WorkloadRequest {
        WorkloadRequest {
            chain: vec![1; 300],
            proof: vec![2; 200],
            label: "agent".into(),
            key: vec![3; 80],
            key_kind: "software".into(),
            scopes: vec!["execute:tools/search".into(), "delegate:tools/search".into()],
            life: Some(30),
            region: Some("north".into()),
            purpose: Some("report".into()),
            delegation: Some((2, true)),
            depends_on: vec![
                Dependency {
                    kind: DependencyKind::StartedBy,
                    on: (0, 1, 7),
                },
                Dependency {
                    kind: DependencyKind::ReadsFrom,
                    on: (0, 1, 3),
                },
            ],
            attributes: Some(Attributes {
                uid: 1000,
                process: (77, 12_345),
                cgroup: "/system.slice/agent.service".into(),
                executable: [4; 32],
                path: "/usr/bin/agent".into(),
                measured: true,
            }),
            renew: Some((0, 1, 9)),
        }
    }

    fn bare() -> WorkloadRequest {
        WorkloadRequest {
            life: None,
            region: None,
            purpose: None,
            delegation: None,
            depends_on: Vec::new(),
            attributes: None,
            renew: None,
            ..request()
        }
    }

    #[test]
    fn requests_are_read_as_they_were_written_and_no_shorter() {
        for request in [request(), bare()] {
            let bytes = request.encode();
            assert_eq!(WorkloadRequest::decode(&bytes).unwrap(), request);
            for end in 0..bytes.len() {
                assert!(WorkloadRequest::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
    }

    #[test]
    fn requests_that_are_none() {
        type Change = fn(&mut WorkloadRequest);
        let rows: [(&str, Change); 14] = [
            ("no scope", |r| r.scopes.clear()),
            ("too many scopes", |r| {
                r.scopes = vec!["execute:a".into(); MAX_WORKLOAD_SCOPES + 1];
            }),
            ("a long scope", |r| r.scopes = vec!["e".repeat(MAX_SCOPE + 1)]),
            ("a long label", |r| r.label = "a".repeat(MAX_LABEL + 1)),
            ("a long chain", |r| r.chain = vec![0; MAX_CHAIN + 1]),
            ("no chain", |r| r.chain.clear()),
            ("a long proof", |r| r.proof = vec![0; MAX_PROOF + 1]),
            ("a long key", |r| r.key = vec![0; MAX_KEY + 1]),
            ("an empty purpose", |r| r.purpose = Some(String::new())),
            ("a long region", |r| r.region = Some("a".repeat(MAX_WORD + 1))),
            ("dependencies out of order", |r| r.depends_on.reverse()),
            ("a dependency twice", |r| r.depends_on = vec![r.depends_on[0]; 2]),
            ("too many dependencies", |r| {
                r.depends_on = (0..=MAX_DEPENDENCIES as u32)
                    .map(|n| Dependency {
                        kind: DependencyKind::ReadsFrom,
                        on: (0, 1, n),
                    })
                    .collect();
            }),
            ("an attribute that speaks to terminals", |r| {
                if let Some(attributes) = &mut r.attributes {
                    attributes.cgroup = "\u{1b}[2J".into();
                }
            }),
        ];
        for (attack, change) in rows {
            let mut request = request();
            change(&mut request);
            assert!(WorkloadRequest::decode(&request.encode()).is_err(), "{attack}");
        }
    }
}
