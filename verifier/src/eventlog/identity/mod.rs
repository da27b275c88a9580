//! What of a register's events is the *software's* identity, and what belongs to one machine only.
//!
//! Two boots of the same software differ: in the disk's partition table, the boot menu's order, the UUID of a file
//! system. [`tokens`] turns each event into what must be the same, and [`register_identity`] hashes them, so that equal
//! software has one digest. The same function serves when references are made and when evidence is judged.
//!
//! An event's type and text are not covered by its digest. So nothing but a digest that *provably* is the digest of the
//! event's data, which in turn is exactly the structure it claims to be, ever makes an event anything else than
//! [`Token::Fixed`]: whoever relabels an event gains a refusal, never an acceptance.
//!
//! | token | event | compared |
//! | --- | --- | --- |
//! | [`Fixed`](Token::Fixed) | every other | order and digest |
//! | [`Text`](Token::Text) | GRUB's texts (register 8) | the text, UUIDs of file systems masked |
//! | [`NoOlder`](Token::NoOlder) | `dbx`, shim's `SbatLevel` (register 7) | at least the reference's |
//! | [`Machine`](Token::Machine) | boot entries (1), actions of the boot manager (4), the partition table (5) | not at all |

mod floor;
mod machine;
mod mask;
#[cfg(test)]
mod tests;

use aws_lc_rs::digest::{self, SHA256};

pub use floor::{Floor, FloorFault, FloorKind};

use super::boot_text::grub_text;
use super::{EfiVariable, Event, EventType};
use crate::tpm::HashAlg;

/// First bytes of what an identity digest is the digest of: no other digest of this project can be one.
const DOMAIN: &[u8] = b"touchstone register identity/1";

/// SHA-256 over the tokens of a register.
pub type IdentityDigest = [u8; 32];

/// An extended event, as a log or a reference states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured<'a> {
    /// The register.
    pub pcr: u32,
    /// The type it claims.
    pub event_type: EventType,
    /// The digest in the bank that is compared.
    pub digest: &'a [u8],
    /// The data it claims; empty where a reference has kept none.
    pub data: &'a [u8],
}

impl<'a> Measured<'a> {
    /// An event of a log; none where it has no digest of this bank.
    pub fn of(event: &Event<'a>, bank: HashAlg) -> Option<Self> {
        Some(Self {
            pcr: event.pcr,
            event_type: event.event_type,
            digest: event.digest(bank)?,
            data: event.data,
        })
    }

    /// Whether the digest is that of `data`.
    fn covers(&self, bank: HashAlg, data: &[u8]) -> bool {
        digest::digest(bank.algorithm(), data).as_ref() == self.digest
    }
}

/// What of an event must be the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token<'a> {
    /// The digest.
    Fixed(&'a [u8]),
    /// The text, with UUIDs of file systems masked. The digest covers the whole text.
    Text(Vec<u8>),
    /// A list or level that may be newer than the reference's, never older.
    NoOlder(Floor<'a>),
    /// Nothing: it belongs to the machine.
    Machine,
}

/// The token of each event of one register, in order.
pub fn tokens<'a>(bank: HashAlg, events: impl IntoIterator<Item = Measured<'a>>) -> Vec<Token<'a>> {
    let mut boot_orders = 0;
    let token = |event: Measured<'a>| {
        // The value of BootOrder has so little shape that only the first may be left out.
        let order = machine::is_boot_order(&event);
        boot_orders += usize::from(order);
        match token(bank, &event) {
            Token::Machine if order && boot_orders > 1 => Token::Fixed(event.digest),
            token => token,
        }
    };
    events.into_iter().map(token).collect()
}

fn token<'a>(bank: HashAlg, event: &Measured<'a>) -> Token<'a> {
    let fixed = Token::Fixed(event.digest);
    match (event.pcr, event.event_type) {
        (1, EventType::EFI_VARIABLE_BOOT | EventType::EFI_VARIABLE_BOOT2) => match machine::boot_variable(event.data) {
            // Firmware hashes the value, or the whole structure.
            Some(value) if event.covers(bank, value) || event.covers(bank, event.data) => Token::Machine,
            _ => fixed,
        },
        (4, EventType::EFI_ACTION) if machine::is_boot_action(event.data) && event.covers(bank, event.data) => {
            Token::Machine
        }
        (5, EventType::EFI_GPT_EVENT | EventType::EFI_GPT_EVENT2)
            if machine::is_partition_table(event.data) && event.covers(bank, event.data) =>
        {
            Token::Machine
        }
        (7, EventType::EFI_VARIABLE_DRIVER_CONFIG | EventType::EFI_VARIABLE_AUTHORITY) => {
            match Floor::read(event.event_type, event.data) {
                Some(floor) if event.covers(bank, event.data) => Token::NoOlder(floor),
                _ => fixed,
            }
        }
        // What GRUB hashed is the text after the prefix that names its kind.
        // NUL marks what is masked, so a text with one of its own is compared as it is.
        (8, EventType::IPL) => match grub_text(event.data) {
            Some((_, text)) if !text.contains(&0) && event.covers(bank, text) => {
                Token::Text(mask::file_system_ids(text))
            }
            _ => fixed,
        },
        _ => fixed,
    }
}

/// The identity of one register: equal where the software is, apart from [`floors`](RegisterIdentity::floors).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterIdentity<'a> {
    /// Hash of the tokens. [`Token::NoOlder`] contributes its kind and place only.
    pub digest: IdentityDigest,
    /// What may be newer, in order.
    pub floors: Vec<Floor<'a>>,
}

impl<'a> RegisterIdentity<'a> {
    /// Of the tokens of one register, in order.
    pub fn new(tokens: &[Token<'a>]) -> Self {
        let mut context = digest::Context::new(&SHA256);
        let mut floors = Vec::new();
        context.update(DOMAIN);
        let mut put = |tag: u8, bytes: &[u8]| {
            context.update(&[tag]);
            context.update(&(bytes.len() as u64).to_le_bytes());
            context.update(bytes);
        };
        for token in tokens {
            match token {
                Token::Fixed(digest) => put(0, digest),
                Token::Text(text) => put(1, text),
                Token::NoOlder(floor) => {
                    put(2, floor.kind.as_str().as_bytes());
                    floors.push(*floor);
                }
                Token::Machine => {}
            }
        }
        let digest = context.finish().as_ref().try_into().unwrap_or_default();
        Self { digest, floors }
    }

    /// Whether everything that may be newer is at least `reference`'s. Meaningful where the digests are equal: then there
    /// are as many of the same kinds.
    ///
    /// # Errors
    /// The first [`FloorFault`].
    pub fn no_older_than(&self, reference: &RegisterIdentity<'_>) -> Result<(), FloorFault> {
        self.floors
            .iter()
            .zip(&reference.floors)
            .try_for_each(|(found, wanted)| found.no_older_than(wanted))
    }
}

/// The identity of the events of one register, in order.
pub fn register_identity<'a>(bank: HashAlg, events: impl IntoIterator<Item = Measured<'a>>) -> RegisterIdentity<'a> {
    RegisterIdentity::new(&tokens(bank, events))
}

/// Whether a reference must keep the data of this event: its identity rests on more than the digest.
pub fn needs_data(bank: HashAlg, event: &Measured<'_>) -> bool {
    !matches!(token(bank, event), Token::Fixed(_))
}

/// Whether a variable's vendor GUID, as on the wire, and name are these.
fn is_variable(variable: &EfiVariable<'_>, guid: &[u8; 16], name: &str) -> bool {
    variable.guid == guid && variable.is_named(name)
}

/// The variable that `data` is, to the last byte.
fn whole_variable(data: &[u8]) -> Option<EfiVariable<'_>> {
    EfiVariable::parse(data).filter(|variable| variable.len == data.len())
}
