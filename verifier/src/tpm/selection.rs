//! PCR selections: which registers of which banks a quote or a policy speaks of.
//!
//! Values are always taken by the *signed* selection, never by position. Source: TCG TPM 2.0 Library Part 2, 10.6.2
//! (TPMS_PCR_SELECTION) and 10.9.7 (TPML_PCR_SELECTION); Part 3, 18.4 (TPM2_Quote).

use std::fmt;

use super::algorithm::HashAlg;
use super::reader::{ReadError, Reader};
pub use super::selection_error::SelectionError;
use aws_lc_rs::digest::{Context, Digest};

/// Most banks in a selection. A TPM lists a bank for each hash algorithm it implements (SM3, SHA-3) and may list those of
/// which nothing is selected; none implements more than this.
pub const MAX_BANKS: usize = 16;
/// Most bytes in a selection's bitmap: 32 registers (a PC client has 24).
pub const MAX_SELECT_LEN: usize = 4;
/// Fewest bytes in a bitmap that is written: the PC client's 24 registers.
pub const MIN_SELECT_LEN: usize = 3;
/// Highest register number.
pub const MAX_REGISTER: u8 = (MAX_SELECT_LEN * 8 - 1) as u8;
/// Registers that software can reset at any time: debug and application support (TCG PC Client PTP, 4.6.2).
pub const RESETTABLE_REGISTERS: [u8; 2] = [16, 23];

/// The registers selected in one bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BankSelection {
    bank: HashAlg,
    mask: u32,
}

impl BankSelection {
    /// The bank.
    pub const fn bank(self) -> HashAlg {
        self.bank
    }

    /// The registers, ascending.
    pub fn registers(self) -> impl Iterator<Item = u8> {
        (0..=MAX_REGISTER).filter(move |&register| self.contains(register))
    }

    /// How many registers are selected.
    pub const fn count(self) -> usize {
        self.mask.count_ones() as usize
    }

    /// Whether this register is selected.
    pub const fn contains(self, register: u8) -> bool {
        register <= MAX_REGISTER && self.mask & 1 << register != 0
    }
}

/// Banks in the order given, each once, and in each a set of registers.
///
/// Two selections are equal only if banks, their order and the registers are: the digest in a quote depends on all
/// three. The length of a bitmap is no part of it (trailing zero bytes select nothing).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PcrSelection {
    banks: Vec<BankSelection>,
}

impl PcrSelection {
    /// A selection from banks and register numbers, banks in the order given.
    ///
    /// # Errors
    /// [`SelectionError`] for a bank or register named twice or a register that does not exist.
    pub fn new<R>(banks: impl IntoIterator<Item = (HashAlg, R)>) -> Result<Self, SelectionError>
    where
        R: IntoIterator<Item = u8>,
    {
        let mut selection = PcrSelection::default();
        for (bank, registers) in banks {
            let mut mask = 0u32;
            for register in registers {
                if register > MAX_REGISTER {
                    return Err(SelectionError::UnknownRegister { found: register });
                }
                let bit = 1 << register;
                if mask & bit != 0 {
                    return Err(SelectionError::DuplicateRegister { bank, register });
                }
                mask |= bit;
            }
            selection.push(BankSelection { bank, mask })?;
        }
        Ok(selection)
    }

    /// A selection from the shape it has in our messages: TPM_ALG_ID and register numbers.
    ///
    /// # Errors
    /// [`SelectionError`] as for [`PcrSelection::new`], and for an unknown bank.
    pub fn from_wire(banks: &[(u16, Vec<u8>)]) -> Result<Self, SelectionError> {
        let banks = banks
            .iter()
            .map(|(id, registers)| {
                let bank = HashAlg::from_tpm(*id).ok_or(SelectionError::UnknownBank { found: *id })?;
                Ok((bank, registers.iter().copied()))
            })
            .collect::<Result<Vec<_>, SelectionError>>()?;
        Self::new(banks)
    }

    /// The shape it has in our messages.
    pub fn to_wire(&self) -> Vec<(u16, Vec<u8>)> {
        self.banks
            .iter()
            .map(|b| (b.bank.tpm_id(), b.registers().collect()))
            .collect()
    }

    /// Reads a TPML_PCR_SELECTION.
    ///
    /// # Errors
    /// [`SelectionError`]: bytes missing, too many banks, a bitmap of no or more than [`MAX_SELECT_LEN`] bytes, registers of
    /// an unknown bank, or a bank twice. A bank that is not known here and of which nothing is selected is passed over: it
    /// adds nothing to the digest.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, SelectionError> {
        let offset = r.offset();
        let count = r.u32("pcrSelect.count")? as usize;
        if count > MAX_BANKS {
            return Err(ReadError::OverLimit {
                field: "pcrSelect.count",
                offset,
                limit: MAX_BANKS,
                found: count,
            }
            .into());
        }
        let mut selection = PcrSelection::default();
        for _ in 0..count {
            let found = r.u16("pcrSelect.hash")?;
            let offset = r.offset();
            let len = usize::from(r.u8("sizeofSelect")?);
            if len == 0 || len > MAX_SELECT_LEN {
                let (field, expected) = ("sizeofSelect", "1 to 4");
                return Err(ReadError::Value {
                    field,
                    offset,
                    expected,
                    found: len as u64,
                }
                .into());
            }
            // Byte 0 holds registers 0 to 7, bit 0 the lowest.
            let bitmap = r.take("pcrSelect", len)?;
            let mask = bitmap
                .iter()
                .rev()
                .fold(0u32, |mask, &byte| mask << 8 | u32::from(byte));
            match HashAlg::from_tpm(found) {
                Some(bank) => selection.push(BankSelection { bank, mask })?,
                None if mask == 0 => {}
                None => return Err(SelectionError::UnknownBank { found }),
            }
        }
        Ok(selection)
    }

    /// Writes a TPML_PCR_SELECTION with bitmaps of [`MIN_SELECT_LEN`] bytes, as PC clients use (more only for registers above 23).
    pub fn to_tpml(&self) -> Vec<u8> {
        let mut out = (self.banks.len() as u32).to_be_bytes().to_vec();
        for selected in &self.banks {
            let bitmap = selected.mask.to_le_bytes();
            let len = if selected.mask >> (8 * MIN_SELECT_LEN) == 0 {
                MIN_SELECT_LEN
            } else {
                MAX_SELECT_LEN
            };
            out.extend_from_slice(&selected.bank.tpm_id().to_be_bytes());
            out.push(len as u8);
            out.extend(bitmap.iter().take(len));
        }
        out
    }

    /// The banks in order.
    pub fn banks(&self) -> &[BankSelection] {
        &self.banks
    }

    /// Every selected register, in the order in which values are hashed.
    pub fn iter(&self) -> impl Iterator<Item = (HashAlg, u8)> + '_ {
        self.banks
            .iter()
            .flat_map(|b| b.registers().map(|register| (b.bank, register)))
    }

    /// How many registers are selected in all banks.
    pub fn count(&self) -> usize {
        self.banks.iter().map(|b| b.count()).sum()
    }

    /// Whether no register is selected.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Whether this register of this bank is selected.
    pub fn contains(&self, bank: HashAlg, register: u8) -> bool {
        self.banks.iter().any(|b| b.bank == bank && b.contains(register))
    }

    /// Live rule: what was quoted is exactly what was asked — banks, registers, count and order.
    ///
    /// # Errors
    /// [`SelectionError::Mismatch`]; also when nothing was asked for.
    pub fn must_equal(&self, asked: &PcrSelection) -> Result<(), SelectionError> {
        if self == asked && !asked.is_empty() {
            return Ok(());
        }
        Err(SelectionError::Mismatch {
            expected: asked.clone(),
            found: self.clone(),
        })
    }

    /// Whether every register of `required` is selected here.
    pub fn covers(&self, required: &PcrSelection) -> bool {
        required
            .banks
            .iter()
            .all(|r| r.mask == 0 || self.banks.iter().any(|s| s.bank == r.bank && s.mask & r.mask == r.mask))
    }

    /// Offline rule: what was quoted contains what the policy requires.
    ///
    /// # Errors
    /// [`SelectionError::Missing`]; also when nothing is required.
    pub fn must_cover(&self, required: &PcrSelection) -> Result<(), SelectionError> {
        if self.covers(required) && !required.is_empty() {
            return Ok(());
        }
        Err(SelectionError::Missing {
            expected: required.clone(),
            found: self.clone(),
        })
    }

    /// Refuses a selection in which a register that software can reset stands for a boot register.
    ///
    /// # Errors
    /// [`SelectionError::Resettable`] with the first such register.
    pub fn must_be_boot_registers(&self) -> Result<(), SelectionError> {
        match self
            .iter()
            .find(|(_, register)| RESETTABLE_REGISTERS.contains(register))
        {
            Some((bank, register)) => Err(SelectionError::Resettable { bank, register }),
            None => Ok(()),
        }
    }

    /// The digest over the values of the selected registers, in selection order, with `hash`.
    ///
    /// In a quote `hash` is the hash of the *signing scheme*, whatever the banks are; in PolicyPCR that of the policy.
    /// `value` gives the value of a register, or nothing.
    ///
    /// # Errors
    /// [`SelectionError::Value`] if a value is missing or has another length than its bank's digests.
    pub fn pcr_digest<'v>(
        &self,
        hash: HashAlg,
        value: impl Fn(HashAlg, u8) -> Option<&'v [u8]>,
    ) -> Result<Digest, SelectionError> {
        let mut context = Context::new(hash.algorithm());
        for (bank, register) in self.iter() {
            let expected = bank.digest_len();
            match value(bank, register) {
                Some(v) if v.len() == expected => context.update(v),
                other => {
                    return Err(SelectionError::Value {
                        bank,
                        register,
                        expected,
                        found: other.map(<[u8]>::len),
                    });
                }
            }
        }
        Ok(context.finish())
    }

    fn push(&mut self, selected: BankSelection) -> Result<(), SelectionError> {
        if self.banks.iter().any(|b| b.bank == selected.bank) {
            return Err(SelectionError::DuplicateBank { bank: selected.bank });
        }
        self.banks.push(selected);
        Ok(())
    }
}

/// The form tpm2-tools use: `sha256:0,1,2+sha1:4`.
impl fmt::Display for PcrSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.banks.is_empty() {
            return f.write_str("none");
        }
        for (i, selected) in self.banks.iter().enumerate() {
            write!(f, "{}{}:", if i == 0 { "" } else { "+" }, selected.bank)?;
            for (j, register) in selected.registers().enumerate() {
                write!(f, "{}{register}", if j == 0 { "" } else { "," })?;
            }
        }
        Ok(())
    }
}
