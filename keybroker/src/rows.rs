//! The rows of the store: which namespace holds what.

use touchstone_authorization::token::StatusIndex;
use touchstone_ledger::tree::NodeId;
use touchstone_store::{Key, KeyError, Namespace};

/// `leaf/<index>`: a ledger entry, the signed statement.
pub const LEAF: Namespace = Namespace::new("leaf");
/// `hash/<level><index>`: the hash of a complete subtree of at least two leaves.
pub const HASH: Namespace = Namespace::new("hash");
/// `log/head`: size and root of the ledger.
pub const LOG: Namespace = Namespace::new("log");
/// `node/<name>`: a node's record.
pub const NODE: Namespace = Namespace::new("node");
/// `ek/<id>`: the name an endorsement key is tied to.
pub const EK: Namespace = Namespace::new("ek");
/// `ak/<Name>`: the name of the node an attestation key is tied to.
pub const AK: Namespace = Namespace::new("ak");
/// `cvm/<digest>`: the name a confidential VM is tied to, by the digest of the identity under which it is listed.
pub const CVM: Namespace = Namespace::new("cvm");
/// `nonce/<nonce>`: a nonce that was used, and when, in Unix milliseconds.
pub const NONCE: Namespace = Namespace::new("nonce");
/// `inputs/<digest>`: the recorded inputs of a decision.
pub const INPUTS: Namespace = Namespace::new("inputs");
/// `part/<digest>`: a part of evidence that records of inputs name by its digest.
pub const PART: Namespace = Namespace::new("part");
/// `pieces/<digest>`: the digests of the pieces, parts each, of a part that is longer than a value of the store.
pub const PIECES: Namespace = Namespace::new("pieces");
/// `latest/<name>`: the index of the latest decision about a node's evidence.
pub const LATEST: Namespace = Namespace::new("latest");
/// `status/<list, page>`: a page of a status list that is not all valid.
pub const STATUS: Namespace = Namespace::new("status");
/// `shown/<name>`: what a node showed when it was granted what it holds, and its receive key.
pub const SHOWN: Namespace = Namespace::new("shown");
/// `key/<name>`: a key that is released to attested nodes, its secrets sealed.
pub const KEY: Namespace = Namespace::new("key");
/// `withheld/<name>`: up to which version a key is released no more: an operator revoked it. Rotation goes on behind it.
pub const WITHHELD: Namespace = Namespace::new("withheld");
/// `witness/<digest>`: the head of another log that was cosigned last, by the digest of the log's origin.
pub const WITNESS: Namespace = Namespace::new("witness");
/// `cosigned/<digest>`: the newest head of this ledger that a witness cosigned, by the digest of the witness's name.
pub const COSIGNED: Namespace = Namespace::new("cosigned");
/// `differs/<replica>`: in what another broker of the domain was found to differ, until it agrees.
pub const DIFFERS: Namespace = Namespace::new("differs");
/// `gone/<name>`: a node that an operator has decommissioned: why, as text. It enrols no more.
pub const GONE: Namespace = Namespace::new("gone");
/// `lineage/<number>`: an entry of the lineage, by the number of its status entry.
pub const LINEAGE: Namespace = Namespace::new("lineage");
/// `hold/<number>`: a quarantine or a containment, and what it took.
pub const HOLD: Namespace = Namespace::new("hold");
/// `due/<decision, digest>`: a containment that is to follow a failure, until it is made.
pub const DUE: Namespace = Namespace::new("due");
/// `reached/<name>`: whom the failure of a node has reached since it was granted something last.
pub const REACHED: Namespace = Namespace::new("reached");
/// `command/<id>`: a signed command that was carried out, and until when it would have counted, in Unix milliseconds.
pub const COMMAND: Namespace = Namespace::new("command");
/// `taken-back/<id>`: an off-line delegation that was taken back, and until when its id is kept, Unix seconds.
pub const TAKEN_BACK: Namespace = Namespace::new("taken-back");
/// `workload/<list, generation, index>`: an authorization below a node's own, by its status entry.
pub const WORKLOAD: Namespace = Namespace::new("workload");
/// `branch/<list, generation, index>`: what hangs directly below an entry.
pub const BRANCH: Namespace = Namespace::new("branch");
/// `tree/<list, generation, index>`: what was issued and used below a node's entry.
pub const TREE: Namespace = Namespace::new("tree");
/// `event/<digest>`: a security event that was taken, by the digest of issuer and `jti`: until when it could come again, Unix
/// seconds, SHA-256 of the token, and until its own statement is on record what was done and under which epoch.
pub const EVENT: Namespace = Namespace::new("event");
/// `standing/<name>`: how a node stands, as recorded last, and since when.
pub const STANDING: Namespace = Namespace::new("standing");
/// `meta/<what>`: single values.
pub const META: Namespace = Namespace::new("meta");

/// The key of the ledger's head.
///
/// # Errors
/// Never: the key is short.
pub fn log_head() -> Result<Key, KeyError> {
    LOG.key(b"head")
}

/// The key of a subtree's hash.
///
/// # Errors
/// Never: the key is short.
pub fn hash(id: NodeId) -> Result<Key, KeyError> {
    let mut bytes = [id.level; 9];
    if let Some(index) = bytes.last_chunk_mut::<8>() {
        *index = id.index.to_be_bytes();
    }
    HASH.key(&bytes)
}

/// The key of a status page.
#[must_use]
pub fn status(list: u16, page: u32) -> Key {
    STATUS.numbered(u64::from(list) << 32 | u64::from(page))
}

/// The key of an authorization below a node's own.
///
/// # Errors
/// Never: the key is short.
pub fn workload(entry: &StatusIndex) -> Result<Key, KeyError> {
    WORKLOAD.key(&entry_bytes(entry))
}

/// The key of what hangs directly below an entry.
///
/// # Errors
/// Never: the key is short.
pub fn branch(entry: &StatusIndex) -> Result<Key, KeyError> {
    BRANCH.key(&entry_bytes(entry))
}

/// The key of what was issued and used below a node's entry.
///
/// # Errors
/// Never: the key is short.
pub fn tree(entry: &StatusIndex) -> Result<Key, KeyError> {
    TREE.key(&entry_bytes(entry))
}

/// A status entry in ten bytes: list, generation, index.
fn entry_bytes(entry: &StatusIndex) -> Vec<u8> {
    [
        entry.list.to_be_bytes().as_slice(),
        &entry.generation.to_be_bytes(),
        &entry.index.to_be_bytes(),
    ]
    .concat()
}

/// List and page of a key that [`status`] made.
#[must_use]
pub fn parse_status(key: &Key) -> Option<(u16, u32)> {
    let number = u64::from_be_bytes(*key.as_bytes().last_chunk::<8>()?);
    Some((
        u16::try_from(number >> 32).ok()?,
        u32::try_from(number & 0xffff_ffff).ok()?,
    ))
}
