//! Why a list cannot be read or does not replay.

use crate::reason::{AppraisalCode, sanitise};
use crate::tpm::HashAlg;

/// Longest piece of a list that an error shows, in bytes.
pub(super) const MAX_SHOWN: usize = 128;

/// Why a list is refused before any of its entries is judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImaError {
    /// Longer than the limit.
    #[error("the list has {found} bytes, at most {limit} are read")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// Its length.
        found: usize,
    },
    /// More entries than the limit.
    #[error("the list has more than {limit} entries")]
    TooManyEntries {
        /// The limit.
        limit: usize,
    },
    /// A length within a record that no record has.
    #[error("entry {entry}, {field}: expected at most {limit} bytes, found {found}")]
    FieldTooLong {
        /// The entry, from 1.
        entry: usize,
        /// Which field.
        field: &'static str,
        /// The limit in bytes.
        limit: usize,
        /// Its length.
        found: usize,
    },
    /// A template that this version does not know.
    #[error("entry {entry}: unknown template {name}")]
    TemplateUnknown {
        /// The entry, from 1.
        entry: usize,
        /// Its template's name, made safe to show.
        name: String,
    },
    /// A field that does not have its form.
    #[error("entry {entry}: malformed field {field}")]
    Malformed {
        /// The entry, from 1.
        entry: usize,
        /// Which field.
        field: &'static str,
    },
    /// Bytes after the last field of an entry.
    #[error("entry {entry}: {found} bytes after its last field")]
    FieldsLeft {
        /// The entry, from 1.
        entry: usize,
        /// How many.
        found: usize,
    },
    /// A line of a text list that is none.
    #[error("line {line}: expected register, template digest, template and its fields, found {found}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// The line, made safe to show.
        found: String,
    },
    /// A line whose digest is not that of the record its fields give: it was altered, or cannot be told apart.
    #[error("line {line}: the digest is not that of the fields")]
    LineDigest {
        /// The line, from 1.
        line: usize,
    },
    /// An entry of another register: an IMA policy with pcr= measures into several.
    #[error("entry {entry} belongs to register {register}, which is not IMA's")]
    OtherRegister {
        /// The entry, from 1.
        entry: usize,
        /// The register it names.
        register: u32,
    },
    /// The register's value after the earlier entries is not known for this bank.
    #[error("what came before is not known for the {bank} bank")]
    BankUnknown {
        /// The bank.
        bank: HashAlg,
    },
    /// No bank to replay in.
    #[error("register 10 is quoted in no bank")]
    NoBank,
    /// The list gives the quoted value only if SHA-1 digests, padded with zeros, were extended.
    #[error("register 10 ({bank}) holds SHA-1 digests padded with zeros")]
    BankWeak {
        /// The bank.
        bank: HashAlg,
    },
    /// No prefix of the list gives the quoted value.
    #[error("the list does not give register 10 ({bank})")]
    DoesNotReplay {
        /// The bank.
        bank: HashAlg,
        /// The value quoted.
        quoted: Vec<u8>,
        /// The value after the whole list.
        found: Vec<u8>,
        /// The first entry whose digest is not that of its data, if there is one.
        altered: Option<usize>,
    },
    /// An entry whose template digest in the list is not that of its data.
    #[error("entry {entry}: the digest is not that of the data")]
    EntryDigest {
        /// The entry, from 1.
        entry: usize,
    },
}

impl ImaError {
    /// The stable code of the refusal.
    pub const fn code(&self) -> AppraisalCode {
        match self {
            ImaError::BankUnknown { .. } => AppraisalCode::ImaEntriesUnavailable,
            ImaError::NoBank => AppraisalCode::ImaRegisterNotQuoted,
            ImaError::BankWeak { .. } => AppraisalCode::ImaBankWeak,
            ImaError::DoesNotReplay { .. } => AppraisalCode::ImaLogDoesNotReplay,
            ImaError::EntryDigest { .. } | ImaError::LineDigest { .. } => AppraisalCode::ImaEntryMismatch,
            _ => AppraisalCode::ImaLogUnreadable,
        }
    }
}

/// Bytes from a list made safe to show: what is no UTF-8 becomes `\xNN`, control characters become escapes, a long one
/// is cut.
pub fn words(bytes: &[u8], limit: usize) -> String {
    let mut text = String::with_capacity(bytes.len().min(limit));
    for chunk in bytes.get(..bytes.len().min(limit)).unwrap_or_default().utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    if bytes.len() > limit {
        text.push('…');
    }
    sanitise(&text, limit)
}
