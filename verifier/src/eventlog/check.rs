//! Whether an event's digest is the digest of its data, where the event type says what must be hashed.

use aws_lc_rs::digest::{self, Digest};

use super::boot_text::{grub_text, measured_forms};
use super::{EfiVariable, Event, EventType};
use crate::tpm::HashAlg;

/// The two values a separator may carry (PFP 1.06, 3.3.2.2): 0, and 0xFFFFFFFF.
const SEPARATORS: [[u8; 4]; 2] = [[0; 4], [0xFF; 4]];
/// What is hashed for a separator that reports an error; the event's data then says which (PFP 1.06, 3.3.2.2).
const ERROR_SEPARATOR: [u8; 4] = [1, 0, 0, 0];

/// What the digest says about the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataCheck {
    /// The digest covers the data: the text was measured.
    Covered,
    /// The event type leaves open what was hashed, or something else was: the text is commentary.
    Commentary,
    /// The event type says what must be hashed, and it was not: the log lies.
    Mismatch,
}

impl DataCheck {
    /// `covered`, `commentary` or `mismatch`.
    pub const fn name(self) -> &'static str {
        match self {
            DataCheck::Covered => "covered",
            DataCheck::Commentary => "commentary",
            DataCheck::Mismatch => "mismatch",
        }
    }
}

impl Event<'_> {
    /// Compares the digest of `bank` with the data, where the event type defines what is hashed:
    ///
    /// | event | must be the hash of |
    /// | --- | --- |
    /// | separator | the data; of 1 where it reports an error, which the data then names |
    /// | EFI action, action, omitted boot attempts | the string, without a closing NUL or with it |
    /// | partition table (both forms), SPDM events | the data |
    /// | Secure Boot variable | the data |
    /// | authority | the data; without its last byte where that lies beyond the structure (shim before 15.3 logged one byte too many) |
    /// | boot variable | the value, or the whole structure (firmware differs) |
    /// | boot loader text in register 8 with a known prefix | the text after the prefix, without the closing NUL |
    ///
    /// Where the specification leaves it open, or firmware in the field does not keep to it (versions, configuration
    /// flags, device tables, tagged events, other boot loader texts), the data counts as covered if its hash, or for a text
    /// one of the forms boot loaders hash, *is* the digest. Images, firmware volumes, system tables and microcode name what
    /// was measured elsewhere: commentary.
    pub fn check_data(&self, bank: HashAlg) -> DataCheck {
        let Some(digest) = self.digest(bank) else {
            return DataCheck::Commentary;
        };
        let data = self.data;
        let is = |data: &[u8]| hash(bank, data).as_ref() == digest;
        let must = |holds: bool| match holds {
            true => DataCheck::Covered,
            false => DataCheck::Mismatch,
        };
        let may = |holds: bool| match holds {
            true => DataCheck::Covered,
            false => DataCheck::Commentary,
        };
        match self.event_type {
            EventType::NO_ACTION => DataCheck::Commentary,
            EventType::SEPARATOR => match is(data) {
                false if is(&ERROR_SEPARATOR) => DataCheck::Commentary,
                holds => must(holds),
            },
            EventType::EFI_GPT_EVENT
            | EventType::EFI_GPT_EVENT2
            | EventType::EFI_VARIABLE_DRIVER_CONFIG
            | EventType::EFI_SPDM_FIRMWARE_BLOB
            | EventType::EFI_SPDM_FIRMWARE_CONFIG
            | EventType::EFI_SPDM_DEVICE_POLICY
            | EventType::EFI_SPDM_DEVICE_AUTHORITY => must(is(data)),
            EventType::EFI_ACTION | EventType::ACTION | EventType::OMIT_BOOT_DEVICE_EVENTS => {
                must(is(data) || data.strip_suffix(b"\0").is_some_and(is))
            }
            EventType::EFI_VARIABLE_AUTHORITY => must(is(data) || self.without_stray_byte().is_some_and(is)),
            EventType::EFI_VARIABLE_BOOT | EventType::EFI_VARIABLE_BOOT2 => {
                must(EfiVariable::parse(data).is_some_and(|variable| is(variable.value)) || is(data))
            }
            EventType::IPL if self.belongs_to(8) => match grub_text(data) {
                // RHEL 8's GRUB hashed the closing NUL as well.
                Some((_, text)) => must(is(text) || data.strip_suffix(b"\0").is_some() && is(with_nul(data, text))),
                None => may(measured_forms(data).any(|form| is(&form))),
            },
            EventType::IPL | EventType::IPL_PARTITION_DATA => may(measured_forms(data).any(|form| is(&form))),
            EventType::EFI_BOOT_SERVICES_APPLICATION
            | EventType::EFI_BOOT_SERVICES_DRIVER
            | EventType::EFI_RUNTIME_SERVICES_DRIVER
            | EventType::EFI_PLATFORM_FIRMWARE_BLOB
            | EventType::EFI_PLATFORM_FIRMWARE_BLOB2
            | EventType::EFI_HANDOFF_TABLES
            | EventType::EFI_HANDOFF_TABLES2
            | EventType::CPU_MICROCODE
            | EventType::POST_CODE
            | EventType::POST_CODE2 => DataCheck::Commentary,
            _ => may(is(data)),
        }
    }

    /// The data without its last byte, if the UEFI_VARIABLE_DATA structure ends before that byte.
    fn without_stray_byte(&self) -> Option<&[u8]> {
        let (_, data) = self.data.split_last()?;
        (EfiVariable::parse(self.data)?.len <= data.len()).then_some(data)
    }

    /// Whether this separator reports an error: the digest is that of 1 (PFP 1.06, 3.3.2.2).
    pub fn is_error_separator(&self, bank: HashAlg) -> bool {
        self.event_type == EventType::SEPARATOR
            && self
                .digest(bank)
                .is_some_and(|digest| hash(bank, &ERROR_SEPARATOR).as_ref() == digest)
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
        event.is_extended() && event.event_type != EventType::SEPARATOR && self.has_digest(event, bank)
    }

    /// Whether its digest is a separator's, whatever the event says it is.
    pub fn has_digest(&self, event: &Event<'_>, bank: HashAlg) -> bool {
        event
            .digest(bank)
            .is_some_and(|digest| self.0.iter().any(|separator| separator.as_ref() == digest))
    }
}

/// `text`, which ends one byte before `data` does, with that byte.
fn with_nul<'a>(data: &'a [u8], text: &[u8]) -> &'a [u8] {
    let start = data.len().saturating_sub(text.len() + 1);
    data.get(start..).unwrap_or_default()
}

fn hash(bank: HashAlg, data: &[u8]) -> Digest {
    digest::digest(bank.algorithm(), data)
}
