//! The runtime measurement list of Linux IMA: reading it, replaying it against register 10, and what a domain demands
//! of what ran.
//!
//! Source: Linux, Documentation/security/IMA-templates.rst and security/integrity/ima (formats); what the list is worth
//! rests on register 10 alone. The list itself carries SHA-1 digests only, so that every other bank is recomputed.

mod ascii;
mod banked;
mod error;
mod files;
mod key;
mod list;
mod replay;
mod rules;
mod state;
mod template;

pub use ascii::{from_ascii, is_ascii};
pub use banked::canonical;
pub use error::{ImaError, words};
pub use files::FileSet;
pub use key::{ImaKey, SignedBy, signed_by};
pub use list::{Entry, EntryKind, FileHash, ImaList, MAX_TEMPLATE_DATA, TEMPLATE_DIGEST, reference_files};
pub use replay::{Replayed, replay};
pub use rules::{ImaMode, ImaPolicy, ImaRules, MAX_EXCLUSIONS, MAX_KEYS, PathRule, PathRuleError, Violations};
pub use state::{
    BootAggregate, ImaPrefix, MAX_CHUNKS, MAX_PREFIX, SeenEntry, SeenKind, StateError, chunk_digest, decode_chunk,
    encode_chunk,
};
pub(crate) use state::{Seen, encode_seen};
pub use template::{Field, Format, MAX_FIELDS, MAX_TEMPLATE_NAME, Template};

/// Longest list in bytes: everything a node has measured since it booted.
pub const MAX_LIST: usize = 16 << 20;
/// Most entries of a list.
pub const MAX_ENTRIES: usize = 200_000;
/// Longest path of an entry in bytes (Linux: PATH_MAX).
pub const MAX_PATH: usize = 4096;
/// IMA's register.
pub const REGISTER: u8 = 10;
