//! Whether an event's digest is the digest of its data, where the event type says what must be hashed.

use aws_lc_rs::digest::{self, Digest};

use super::describe::grub_text;
use super::{EfiVariable, Event, EventType};
use crate::tpm::HashAlg;

/// The two values a separator may carry (PFP 1.06, 3.3.2.2): 0, and 0xFFFFFFFF.
const SEPARATORS: [[u8; 4]; 2] = [[0; 4], [0xFF; 4]];

/// What the digest says about the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataCheck {
    /// The digest covers the data: the text was measured.
    Covered,
    /// The event type leaves open what was hashed: the text is commentary.
    Commentary,
    /// The event type says what must be hashed, and it was not: the log lies.
    Mismatch,
}

impl Event<'_> {
    /// Compares the digest of `bank` with the data, where the event type defines what is hashed:
    ///
    /// | event | hashed |
    /// | --- | --- |
    /// | separator, EFI action, partition table, Secure Boot variable | the data |
    /// | authority | the data; without its last byte where that lies beyond the structure (shim before 15.3 logged one byte too many) |
    /// | boot variable | the value, or the whole structure (firmware differs) |
    /// | boot loader text in register 8 with a known prefix | the text after the prefix, without the closing NUL |
    pub fn check_data(&self, bank: HashAlg) -> DataCheck {
        let Some(digest) = self.digest(bank) else {
            return DataCheck::Commentary;
        };
        let is = |data: &[u8]| hash(bank, data).as_ref() == digest;
        let holds = match self.event_type {
            EventType::SEPARATOR
            | EventType::EFI_ACTION
            | EventType::EFI_GPT_EVENT
            | EventType::EFI_VARIABLE_DRIVER_CONFIG => is(self.data),
            EventType::EFI_VARIABLE_AUTHORITY => is(self.data) || self.without_stray_byte().is_some_and(is),
            EventType::EFI_VARIABLE_BOOT | EventType::EFI_VARIABLE_BOOT2 => {
                EfiVariable::parse(self.data).is_some_and(|variable| is(variable.value)) || is(self.data)
            }
            EventType::IPL if self.pcr == 8 => match grub_text(self.data) {
                Some((_, text)) => is(text),
                None => return DataCheck::Commentary,
            },
            _ => return DataCheck::Commentary,
        };
        if holds { DataCheck::Covered } else { DataCheck::Mismatch }
    }

    /// The data without its last byte, if the UEFI_VARIABLE_DATA structure ends before that byte.
    fn without_stray_byte(&self) -> Option<&[u8]> {
        let (_, data) = self.data.split_last()?;
        (EfiVariable::parse(self.data)?.len <= data.len()).then_some(data)
    }
}

/// The digests of the two separator values in one bank, to find separators that do not say they are.
#[derive(Debug, Clone)]
pub struct SeparatorDigests([Digest; 2]);

impl SeparatorDigests {
    /// Computed once per bank.
    pub fn new(bank: HashAlg) -> Self {
        Self(SEPARATORS.map(|value| hash(bank, &value)))
    }

    /// Whether `event` carries a separator's digest without being a separator, so that a later separator looks like the
    /// first one: what was measured before it could pass for firmware.
    pub fn is_smuggled(&self, event: &Event<'_>, bank: HashAlg) -> bool {
        event.is_extended()
            && event.event_type != EventType::SEPARATOR
            && event
                .digest(bank)
                .is_some_and(|digest| self.0.iter().any(|separator| separator.as_ref() == digest))
    }
}

fn hash(bank: HashAlg, data: &[u8]) -> Digest {
    digest::digest(bank.algorithm(), data)
}
