//! The three forms a firmware event log comes in.

use std::fmt;

use super::REGISTERS;

/// Registers a confidential VM's log may name: 0 is the launch measurement (MRTD), 1 to 4 are RTMR0 to RTMR3
/// (UEFI 2.10, 38.4.1).
pub const MEASUREMENT_REGISTERS: u32 = 5;

/// The form of a log. It decides how records are laid out, how many registers there are and how they start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// A TPM 2.0's log, with a digest a bank in every event (TCG_PCR_EVENT2).
    CryptoAgile,
    /// The old form: one SHA-1 digest in every event (TCG_PCR_EVENT). SHA-1 is weak: a policy refuses it.
    Sha1,
    /// A confidential VM's log: crypto-agile records, whose register is a measurement register's index.
    ConfidentialComputing,
}

impl Format {
    /// How many registers events may name.
    pub const fn registers(self) -> u32 {
        match self {
            Format::CryptoAgile | Format::Sha1 => REGISTERS,
            Format::ConfidentialComputing => MEASUREMENT_REGISTERS,
        }
    }

    /// Where the events of a TPM's register are in a log of this form (UEFI 2.10, 38.4.1: RTMR0 holds registers 1 and 7,
    /// RTMR1 2 to 6, RTMR2 8 to 15). None where nothing is measured at run time.
    pub const fn register_of(self, pcr: u32) -> Option<u32> {
        match (self, pcr) {
            (Format::CryptoAgile | Format::Sha1, 0..REGISTERS) => Some(pcr),
            // Firmware code is in the launch measurement; what firmware measures of it all the same goes into RTMR0.
            (Format::ConfidentialComputing, 0 | 1 | 7) => Some(1),
            (Format::ConfidentialComputing, 2..=6) => Some(2),
            (Format::ConfidentialComputing, 8..=15) => Some(3),
            _ => None,
        }
    }

    /// The register's name for people: `PCR 7`, `RTMR0`, `MRTD`.
    pub fn register_name(self, register: u32) -> String {
        match (self, register) {
            (Format::CryptoAgile | Format::Sha1, _) => format!("PCR {register}"),
            (Format::ConfidentialComputing, 0) => "MRTD".to_owned(),
            (Format::ConfidentialComputing, 1..MEASUREMENT_REGISTERS) => format!("RTMR{}", register.wrapping_sub(1)),
            (Format::ConfidentialComputing, _) => format!("register {register}"),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::CryptoAgile => "a TPM's crypto-agile log",
            Format::Sha1 => "a TPM's log in the SHA-1 form",
            Format::ConfidentialComputing => "a confidential VM's log",
        })
    }
}
