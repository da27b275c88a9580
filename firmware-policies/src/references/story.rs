//! One reference in words.

use std::collections::BTreeSet;

use serde::Serialize;
use touchstone_verifier::corim::{BankValues, MachineReference, ReferenceEvent};
use touchstone_verifier::eventlog::EventType;
use touchstone_verifier::tpm::HashAlg;

use super::aspect::{Aspect, command_line, kernel_version};
use super::{ReferenceEntry, Standing, guest};
use crate::tuf::expiry::time;

/// Most kernel versions named.
const MAX_VERSIONS: usize = 4;

/// Something that was measured: in words, and its digest (hexadecimal).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// In words.
    pub what: String,
    /// Its digest in the bank that is told.
    pub digest: String,
}

/// What a reference says of one bank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BankStory {
    /// The bank.
    pub bank: String,
    /// Registers with a value.
    pub registers: Vec<u8>,
    /// How many events explain them.
    pub events: usize,
}

/// One reference, for people and scripts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReferenceStory {
    /// Its name.
    pub name: String,
    /// The target it is in.
    pub target: String,
    /// Where it stands.
    pub standing: Standing,
    /// Who signed.
    pub signer: Option<String>,
    /// First second of validity, RFC 3339.
    pub valid_from: Option<String>,
    /// Last second of validity, RFC 3339.
    pub valid_until: Option<String>,
    /// Its banks.
    pub banks: Vec<BankStory>,
    /// The firmware's version, as it says.
    pub firmware: Option<String>,
    /// Secure Boot on or off; none where no event says so.
    pub secure_boot: Option<bool>,
    /// Secure Boot's variables: PK, KEK, db, dbx.
    pub secure_boot_keys: Vec<Shown>,
    /// What vouched for what was started.
    pub authorities: Vec<Shown>,
    /// The images the firmware started, in order.
    pub boot_chain: Vec<Shown>,
    /// Kernel versions that paths speak of.
    pub kernel_versions: Vec<String>,
    /// Kernel and initrd.
    pub kernel: Vec<Shown>,
    /// The kernel's command line; empty where only its digest is known.
    pub command_line: Option<String>,
    /// How many files such a machine may run; 0 where files are not judged.
    pub files: usize,
    /// What is stated of a confidential VM: field and value, in words.
    pub guest: Vec<(String, String)>,
}

impl ReferenceStory {
    /// Tells an entry, by the bank that explains most.
    pub fn of(entry: &ReferenceEntry) -> Self {
        let values = &entry.values;
        let empty = BankValues::default();
        let told = told_bank(values)
            .and_then(|bank| values.banks.get(&bank))
            .unwrap_or(&empty);
        let events = || {
            told.events
                .iter()
                .filter(|event| event.event_type != EventType::SEPARATOR)
        };
        let of = |pcr: u8, event_type: EventType| -> Vec<Shown> {
            events()
                .filter(|event| event.pcr == pcr && event.event_type == event_type)
                .map(shown)
                .collect()
        };
        let about = |aspects: &[Aspect]| -> Vec<Shown> {
            events()
                .filter(|event| event.pcr != 4 && aspects.contains(&Aspect::of(event)))
                .map(shown)
                .collect()
        };
        let variables = of(7, EventType::EFI_VARIABLE_DRIVER_CONFIG);
        let (state, keys): (Vec<Shown>, Vec<Shown>) = variables
            .into_iter()
            .partition(|shown| shown.what.starts_with("SecureBoot"));
        Self {
            name: values.name.clone(),
            target: entry.target.clone(),
            standing: entry.standing,
            signer: entry.signer.clone(),
            valid_from: entry.not_before.map(time),
            valid_until: entry.not_after.map(time),
            banks: values
                .banks
                .iter()
                .map(|(bank, values)| bank_story(*bank, values))
                .collect(),
            firmware: of(0, EventType::S_CRTM_VERSION).first().map(|shown| shown.what.clone()),
            secure_boot: state.first().and_then(|shown| match shown.what.rsplit_once("= ")?.1 {
                "on" => Some(true),
                "off" => Some(false),
                _ => None,
            }),
            secure_boot_keys: keys,
            authorities: of(7, EventType::EFI_VARIABLE_AUTHORITY),
            boot_chain: of(4, EventType::EFI_BOOT_SERVICES_APPLICATION),
            kernel_versions: kernel_versions(values),
            kernel: about(&[Aspect::Kernel, Aspect::Initrd]),
            command_line: told.events.iter().find_map(command_line),
            files: values.files.len(),
            guest: guest::words(values),
        }
    }
}

/// The bank whose events are told: the one with the most, of several the first.
pub(super) fn told_bank(values: &MachineReference) -> Option<HashAlg> {
    let banks = values.banks.iter().rev();
    banks
        .max_by_key(|(_, values)| values.events.len())
        .map(|(bank, _)| *bank)
}

/// Kernel versions that events and files speak of.
pub(super) fn kernel_versions(values: &MachineReference) -> Vec<String> {
    let events = values
        .banks
        .values()
        .flat_map(|values| &values.events)
        .map(|event| event.description.as_str());
    let files = values.files.iter().map(|file| file.path.as_str());
    let versions: BTreeSet<&str> = events.chain(files).filter_map(kernel_version).collect();
    versions.into_iter().take(MAX_VERSIONS).map(str::to_owned).collect()
}

fn bank_story(bank: HashAlg, values: &BankValues) -> BankStory {
    BankStory {
        bank: bank.name().to_owned(),
        registers: values.registers.keys().copied().collect(),
        events: values.events.len(),
    }
}

fn shown(event: &ReferenceEvent) -> Shown {
    Shown {
        what: event.description.clone(),
        digest: hex::encode(&event.digest),
    }
}
