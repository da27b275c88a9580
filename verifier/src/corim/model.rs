//! What a reference says: one whole state of a machine, in every bank that was measured.

use std::collections::BTreeMap;

use super::{CorimError, MAX_EVENT_REFERENCE_DATA, MAX_FILE_PATH, MAX_NAME, MAX_REFERENCE_EVENTS, MAX_REFERENCE_FILES};
use crate::eventlog::{EventType, MAX_DESCRIPTION, REGISTERS};
use crate::gpu::GpuReference;
use crate::snp::SnpReference;
use crate::tdx::TdxReference;
use crate::tpm::HashAlg;

/// One event of a reference: what was measured, in which order, and in words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReferenceEvent {
    /// The register.
    pub pcr: u8,
    /// Its type: how to read the data, and which code a difference has. No digest covers it.
    pub event_type: EventType,
    /// The digest in the bank it is listed under.
    pub digest: Vec<u8>,
    /// In words; commentary.
    pub description: String,
    /// The event's data, where its digest covers them and the comparison needs more than the digest (see
    /// [`eventlog::identity`](crate::eventlog::identity)). None elsewhere: the digest is all that counts.
    pub data: Option<Vec<u8>>,
}

/// The registers of one bank, and what led to them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BankValues {
    /// Register values. A register may have events and no value: a reference computed from artefacts does not know what
    /// a machine's firmware measures beside them.
    pub registers: BTreeMap<u8, Vec<u8>>,
    /// The events, in the order of the log (where a log was there).
    pub events: Vec<ReferenceEvent>,
}

impl BankValues {
    /// The events of one register, in order.
    pub fn events_of(&self, pcr: u8) -> impl Iterator<Item = &ReferenceEvent> {
        self.events.iter().filter(move |event| event.pcr == pcr)
    }
}

/// A file that may be executed or read as code: an entry of IMA's list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileDigest {
    /// The digest's algorithm; never SHA-1.
    pub algorithm: HashAlg,
    /// The file's digest.
    pub digest: Vec<u8>,
    /// Where it was; for people and for "nearest": a digest counts wherever the file lies.
    pub path: String,
}

/// Reference values of one machine state. A state is whole: values of two references are never mixed.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineReference {
    /// Its name.
    pub name: String,
    /// Registers and events by bank; never SHA-1. Empty where it states nothing of a TPM.
    pub banks: BTreeMap<HashAlg, BankValues>,
    /// The files that such a machine may execute.
    pub files: Vec<FileDigest>,
    /// The SEV-SNP guest, where the machine is one.
    pub snp: Option<SnpReference>,
    /// The TDX guest, where the machine is one.
    pub tdx: Option<TdxReference>,
    /// States that its GPUs and NVSwitches may be in.
    pub gpus: Vec<GpuReference>,
    /// First second of validity, Unix seconds.
    pub not_before: Option<i64>,
    /// Last second of validity, Unix seconds.
    pub not_after: Option<i64>,
}

impl MachineReference {
    /// The value of a register, where the reference states one.
    pub fn register(&self, bank: HashAlg, pcr: u8) -> Option<&[u8]> {
        self.banks.get(&bank)?.registers.get(&pcr).map(Vec::as_slice)
    }

    /// The events of one register of one bank, in order; empty where the reference has none.
    pub fn events_of(&self, bank: HashAlg, pcr: u8) -> impl Iterator<Item = &ReferenceEvent> {
        self.banks
            .get(&bank)
            .into_iter()
            .flat_map(move |values| values.events_of(pcr))
    }

    /// Whether the reference has events of this register.
    pub fn has_events(&self, bank: HashAlg, pcr: u8) -> bool {
        self.events_of(bank, pcr).next().is_some()
    }

    /// URI of the profile that it is written in: each reads what it states, and nothing more.
    pub fn profile(&self) -> &'static str {
        match (&self.snp, &self.tdx) {
            _ if !self.gpus.is_empty() => super::gpu::PROFILE,
            (Some(_), _) => super::snp::PROFILE,
            (None, Some(_)) => super::tdx::PROFILE,
            (None, None) => super::PROFILE,
        }
    }

    /// Whether it states anything of a TPM's registers.
    pub fn has_registers(&self) -> bool {
        !self.banks.is_empty()
    }

    /// Whether it states what a confidential VM was launched from.
    pub fn has_guest(&self) -> bool {
        self.snp.is_some() || self.tdx.is_some()
    }

    /// The limits and lengths that writing and reading check alike.
    pub(super) fn check(&self) -> Result<(), CorimError> {
        let wrong = |expected, found: &dyn std::fmt::Display| Err(CorimError::malformed(expected, found));
        if self.name.is_empty() || self.name.len() > MAX_NAME || self.name.chars().any(char::is_control) {
            return wrong(
                "a reference name of 1 to 128 bytes without control characters",
                &self.name,
            );
        }
        if self.banks.is_empty() && self.files.is_empty() && !self.has_guest() && self.gpus.is_empty() {
            return wrong("registers, events, files, a guest's measurement or a GPU's", &"none");
        }
        super::gpu::check(&self.gpus)?;
        if let Some(snp) = &self.snp {
            super::snp::check(snp)?;
        }
        if let Some(tdx) = &self.tdx {
            super::tdx::check(tdx)?;
            if self.snp.is_some() {
                return wrong("a guest of one kind of hardware", &"SEV-SNP and TDX");
            }
        }
        for (bank, values) in &self.banks {
            if bank.is_weak() {
                return Err(CorimError::WeakBank { bank: *bank });
            }
            values.check(*bank)?;
        }
        if self.files.len() > MAX_REFERENCE_FILES {
            return wrong("at most 200,000 files", &self.files.len());
        }
        let odd_file = |file: &&FileDigest| {
            file.algorithm.is_weak()
                || file.digest.len() != file.algorithm.digest_len()
                || file.path.is_empty()
                || file.path.len() > MAX_FILE_PATH
        };
        match self.files.iter().find(odd_file) {
            Some(file) => wrong(
                "files with a path of at most 4096 bytes and a SHA-2 digest of its length",
                &file.path,
            ),
            None => Ok(()),
        }
    }
}

impl BankValues {
    fn check(&self, bank: HashAlg) -> Result<(), CorimError> {
        let wrong = |expected, found: &dyn std::fmt::Display| Err(CorimError::malformed(expected, found));
        if self.registers.is_empty() && self.events.is_empty() {
            return wrong("at least one register or event a bank", &"none");
        }
        if let Some((pcr, value)) = self
            .registers
            .iter()
            .find(|(pcr, value)| u32::from(**pcr) >= REGISTERS || value.len() != bank.digest_len())
        {
            return wrong(
                "registers 0 to 23 of the bank's length",
                &format!("register {pcr} of {} bytes", value.len()),
            );
        }
        if self.events.len() > MAX_REFERENCE_EVENTS {
            return wrong("at most 4096 events a bank", &self.events.len());
        }
        let odd_event = |event: &&ReferenceEvent| {
            u32::from(event.pcr) >= REGISTERS
                || event.digest.len() != bank.digest_len()
                || event.description.len() > MAX_DESCRIPTION
                || event
                    .data
                    .as_ref()
                    .is_some_and(|data| data.len() > MAX_EVENT_REFERENCE_DATA)
        };
        match self.events.iter().find(odd_event) {
            Some(event) => wrong(
                "events of registers 0 to 23 with the bank's digests, short descriptions and at most 256 KiB of data",
                &format!(
                    "an event of register {} with a digest of {} bytes",
                    event.pcr,
                    event.digest.len()
                ),
            ),
            None => Ok(()),
        }
    }
}
