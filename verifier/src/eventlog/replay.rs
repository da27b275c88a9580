//! Replaying a log: what the registers would hold if the TPM had been extended with its digests.

use aws_lc_rs::digest;

use super::{EventLog, Format, REGISTERS};
use crate::tpm::HashAlg;

/// Longest digest of any bank, in bytes (SHA-512).
const MAX_DIGEST: usize = 64;
/// Registers of the dynamic root of trust, which start with all bits set (PFP 1.06, 3.3.4).
const DYNAMIC: std::ops::RangeInclusive<u32> = 17..=22;

/// The value of one register in one bank.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RegisterValue {
    bytes: [u8; MAX_DIGEST],
    len: u8,
}

impl RegisterValue {
    /// The value after TPM2_Startup: zeros, ones for the dynamic registers, and the start-up locality in register 0.
    pub fn initial(bank: HashAlg, pcr: u32, startup_locality: u8) -> Self {
        let len = bank.digest_len();
        let mut bytes = [0; MAX_DIGEST];
        if DYNAMIC.contains(&pcr) {
            bytes.iter_mut().take(len).for_each(|byte| *byte = 0xFF);
        } else if pcr == 0
            && let Some(last) = bytes.get_mut(len.wrapping_sub(1))
        {
            *last = startup_locality;
        }
        Self { bytes, len: len as u8 }
    }

    /// The value a confidential VM's run-time measurement registers start with.
    pub fn zero(bank: HashAlg) -> Self {
        Self {
            bytes: [0; MAX_DIGEST],
            len: bank.digest_len() as u8,
        }
    }

    /// A value that was kept; none where it does not have the bank's length.
    pub fn from_bytes(bank: HashAlg, value: &[u8]) -> Option<Self> {
        let len = bank.digest_len();
        let mut bytes = [0; MAX_DIGEST];
        bytes
            .get_mut(..len)
            .filter(|_| value.len() == len)?
            .copy_from_slice(value);
        Some(Self { bytes, len: len as u8 })
    }

    /// The value's bytes: the bank's digest length.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Extends the register: H(old value ‖ digest).
    #[inline]
    pub fn extend(&mut self, bank: HashAlg, digest: &[u8]) {
        let mut message = [0; 2 * MAX_DIGEST];
        let len = usize::from(self.len);
        let (Some(old), Some(rest)) = (message.get_mut(..len), self.bytes.get(..len)) else {
            return;
        };
        old.copy_from_slice(rest);
        let Some(new) = message.get_mut(len..len + digest.len()) else {
            return;
        };
        new.copy_from_slice(digest);
        let extended = digest::digest(bank.algorithm(), message.get(..len + digest.len()).unwrap_or_default());
        for (byte, value) in self.bytes.iter_mut().zip(extended.as_ref()) {
            *byte = *value;
        }
    }
}

impl std::fmt::Debug for RegisterValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.as_bytes()))
    }
}

/// All registers of one bank after a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    format: Format,
    bank: HashAlg,
    registers: [RegisterValue; REGISTERS as usize],
    extended: u32,
}

impl Replay {
    /// The bank that was replayed.
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// A register's value, by the index of the log's form: none above its last, and none for a confidential VM's launch
    /// measurement, which no log leads to.
    pub fn register(&self, pcr: u32) -> Option<&[u8]> {
        if pcr >= self.format.registers() || (self.format == Format::ConfidentialComputing && pcr == 0) {
            return None;
        }
        self.registers.get(pcr as usize).map(RegisterValue::as_bytes)
    }

    /// The value of a confidential VM's run-time measurement register, RTMR0 to RTMR3; none for a TPM's log.
    pub fn rtmr(&self, index: u32) -> Option<&[u8]> {
        match self.format {
            Format::ConfidentialComputing => self.register(index.checked_add(1)?),
            Format::CryptoAgile | Format::Sha1 => None,
        }
    }

    /// Whether any event was extended into this register.
    pub fn is_extended(&self, pcr: u32) -> bool {
        pcr < REGISTERS && self.extended & (1 << pcr) != 0
    }
}

/// Why a bank could not be replayed to the end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The header does not declare this bank.
    #[error("the log has no digests for the {bank} bank")]
    BankAbsent {
        /// The bank asked for.
        bank: HashAlg,
    },
    /// An extended event carries no digest of this bank.
    #[error("event {event} has no digest for the {bank} bank")]
    DigestAbsent {
        /// The event's index.
        event: usize,
        /// The bank asked for.
        bank: HashAlg,
    },
}

/// The part of a log that a quote vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixMatch {
    /// How many of the log's events belong to it.
    pub events: usize,
    /// How many follow it: they are not looked at, and must be in the next round's prefix.
    pub ignored: usize,
}

/// Why no prefix of the log gives the quoted values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// The header does not declare this bank.
    #[error("the log has no digests for the {bank} bank")]
    BankAbsent {
        /// The bank asked for.
        bank: HashAlg,
    },
    /// These registers never, or never at once with the others, reach their quoted values.
    #[error("registers {registers:?} do not replay to their quoted values")]
    Diverged {
        /// The registers, each with the value the whole log gives.
        registers: Vec<(u32, Vec<u8>)>,
    },
}

impl<'a> EventLog<'a> {
    /// Replays every event into `bank`.
    ///
    /// # Errors
    /// [`ReplayError`] where the log does not have every digest of that bank.
    pub fn replay(&self, bank: HashAlg) -> Result<Replay, ReplayError> {
        if !self.header().has_bank(bank) {
            return Err(ReplayError::BankAbsent { bank });
        }
        let mut replay = self.start(bank);
        for event in self.events().iter().filter(|event| event.is_extended()) {
            let digest = event.digest(bank).ok_or(ReplayError::DigestAbsent {
                event: event.index,
                bank,
            })?;
            replay.extended |= 1u32.wrapping_shl(event.pcr);
            if let Some(register) = replay.registers.get_mut(event.pcr as usize) {
                register.extend(bank, digest);
            }
        }
        Ok(replay)
    }

    /// Finds the longest prefix of the log that gives `quoted`, (register, value) pairs of `bank`, exactly and all at once.
    ///
    /// One pass; registers that were not quoted are not computed.
    ///
    /// # Errors
    /// [`PrefixError`], naming the registers that differ.
    pub fn match_prefix(&self, bank: HashAlg, quoted: &[(u32, &[u8])]) -> Result<PrefixMatch, PrefixError> {
        if !self.header().has_bank(bank) {
            return Err(PrefixError::BankAbsent { bank });
        }
        let mut expected: [Option<&[u8]>; REGISTERS as usize] = [None; REGISTERS as usize];
        for (pcr, value) in quoted {
            match expected.get_mut(*pcr as usize) {
                Some(entry) if *pcr < self.format().registers() => *entry = Some(value),
                // No log leads to a register that its form does not have.
                _ => {
                    return Err(PrefixError::Diverged {
                        registers: vec![(*pcr, Vec::new())],
                    });
                }
            }
        }
        let mut state = self.start(bank);
        let mut differing = 0u32;
        for ((pcr, register), value) in (0u32..).zip(&state.registers).zip(expected) {
            if value.is_some_and(|value| value != register.as_bytes()) {
                differing |= 1u32.wrapping_shl(pcr);
            }
        }
        let mut reached = differing;
        let mut longest = (differing == 0).then_some(0);
        for (position, event) in self.events().iter().enumerate() {
            if event.is_extended()
                && let Some(value) = expected.get(event.pcr as usize).copied().flatten()
                && let Some(register) = state.registers.get_mut(event.pcr as usize)
            {
                let Some(digest) = event.digest(bank) else { break };
                register.extend(bank, digest);
                let bit = 1u32.wrapping_shl(event.pcr);
                if register.as_bytes() == value {
                    differing &= !bit;
                    reached &= !bit;
                } else {
                    differing |= bit;
                }
            }
            if differing == 0 {
                longest = Some(position + 1);
            }
        }
        match longest {
            Some(events) => Ok(PrefixMatch {
                events,
                ignored: self.events().len() - events,
            }),
            None => {
                // Name those that never were right; where each was right at some time, those that are wrong at the end.
                let named = if reached != 0 { reached } else { differing };
                let registers = (0u32..)
                    .zip(&state.registers)
                    .filter(|(pcr, _)| named & 1u32.wrapping_shl(*pcr) != 0)
                    .map(|(pcr, register)| (pcr, register.as_bytes().to_vec()))
                    .collect();
                Err(PrefixError::Diverged { registers })
            }
        }
    }

    /// All registers as TPM2_Startup, or the launch of a confidential VM, leaves them.
    fn start(&self, bank: HashAlg) -> Replay {
        let mut pcr = 0..;
        let registers = std::array::from_fn(|_| {
            let pcr = pcr.next().unwrap_or_default();
            match self.format() {
                Format::CryptoAgile | Format::Sha1 => RegisterValue::initial(bank, pcr, self.startup_locality()),
                Format::ConfidentialComputing => RegisterValue::zero(bank),
            }
        });
        Replay {
            format: self.format(),
            bank,
            registers,
            extended: 0,
        }
    }
}
