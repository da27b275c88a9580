//! PCR selections: from the wire's plain lists to the TPM's, with the order of banks kept.

use tss_esapi::structures::PcrSelectionList;
use tss_esapi::tss2_esys::{TPML_PCR_SELECTION, TPMS_PCR_SELECTION};

use super::error::{TpmError, failed};

/// A PCR selection: banks in the order they are quoted in, as (TPM_ALG_ID, PCR indices).
pub type Selection = [(u16, Vec<u8>)];

/// The most banks one selection may name (TPM2_NUM_PCR_BANKS of the TSS).
pub const MAX_BANKS: usize = 16;
/// The highest PCR index of a PC Client TPM.
pub const MAX_PCR: u8 = 23;

/// The TPM's form of `selection`, three octets a bank, banks in the order given.
///
/// Not made with the library's builder: that keeps banks in a hash map and so gives them a random order, while the
/// verifier compares the quoted selection byte for byte with the one it asked for.
pub(super) fn to_tpm(selection: &Selection) -> Result<PcrSelectionList, TpmError> {
    if selection.is_empty() || selection.iter().any(|(_, pcrs)| pcrs.is_empty()) {
        return Err(TpmError::SelectionInvalid("it selects nothing"));
    }
    let mut list = TPML_PCR_SELECTION::default();
    if selection.len() > MAX_BANKS {
        return Err(TpmError::SelectionInvalid("it names too many banks"));
    }
    for (slot, (algorithm, pcrs)) in list.pcrSelections.iter_mut().zip(selection) {
        let mut bitmap = 0u32;
        for &pcr in pcrs {
            if pcr > MAX_PCR {
                return Err(TpmError::SelectionInvalid("it names a PCR above 23"));
            }
            bitmap |= 1 << pcr;
        }
        *slot = TPMS_PCR_SELECTION {
            hash: *algorithm,
            sizeofSelect: 3,
            pcrSelect: bitmap.to_le_bytes(),
        };
        list.count += 1;
    }
    PcrSelectionList::try_from(list).map_err(|_| TpmError::SelectionInvalid("it names an unknown hash algorithm"))
}

/// The plain form of what the TPM answered.
pub(super) fn from_tpm(list: PcrSelectionList) -> Vec<(u16, Vec<u8>)> {
    let list = TPML_PCR_SELECTION::from(list);
    let count = usize::try_from(list.count).unwrap_or(0);
    list.pcrSelections
        .iter()
        .take(count)
        .map(|bank| {
            let bitmap = u32::from_le_bytes(bank.pcrSelect);
            (
                bank.hash,
                (0..=MAX_PCR).filter(|pcr| bitmap & (1 << pcr) != 0).collect(),
            )
        })
        .collect()
}

impl super::Tpm {
    /// The current values of the selected PCRs: per bank, in the order asked for, (index, value) ascending.
    ///
    /// # Errors
    /// [`TpmError::BankAbsent`] when the TPM has not allocated a bank.
    pub fn pcr_values(&mut self, selection: &Selection) -> Result<Vec<BankValues>, TpmError> {
        to_tpm(selection)?;
        self.operation(|tpm| {
            selection
                .iter()
                .map(|(algorithm, pcrs)| tpm.bank_values(*algorithm, pcrs))
                .collect()
        })
    }

    /// One answer of TPM2_PCR_Read holds at most eight values; the rest is asked for again.
    fn bank_values(&mut self, algorithm: u16, pcrs: &[u8]) -> Result<BankValues, TpmError> {
        let mut left: Vec<u8> = pcrs.to_vec();
        left.sort_unstable();
        left.dedup();
        let mut values = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let asked = to_tpm(&[(algorithm, left.clone())])?;
            let (_, read, digests) = self.ctx.pcr_read(asked).map_err(failed("TPM2_PCR_Read"))?;
            let read = from_tpm(read)
                .into_iter()
                .find(|(bank, _)| *bank == algorithm)
                .map(|(_, pcrs)| pcrs);
            let read = read.unwrap_or_default();
            if read.is_empty() || read.len() != digests.len() {
                return Err(TpmError::BankAbsent { algorithm });
            }
            left.retain(|pcr| !read.contains(pcr));
            values.extend(
                read.into_iter()
                    .zip(digests.value().iter().map(|digest| digest.to_vec())),
            );
        }
        Ok((algorithm, values))
    }
}

/// The values of one bank: TPM_ALG_ID, then (PCR index, value) in ascending order.
pub type BankValues = (u16, Vec<(u8, Vec<u8>)>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banks_keep_their_order_both_ways() {
        for selection in [
            vec![(0x000B, vec![0, 7, 23]), (0x0004, vec![1])],
            vec![(0x0004, vec![1]), (0x000B, vec![0, 7, 23])],
            vec![(0x000C, vec![8]), (0x0004, vec![1]), (0x000B, vec![16])],
        ] {
            assert_eq!(from_tpm(to_tpm(&selection).expect("a selection")), selection);
        }
    }

    #[test]
    fn a_selection_that_cannot_be_asked_for_is_refused() {
        for (selection, why) in [
            (vec![], "it selects nothing"),
            (vec![(0x000B, vec![])], "it selects nothing"),
            (vec![(0x000B, vec![24])], "it names a PCR above 23"),
            (vec![(0x1234, vec![0])], "it names an unknown hash algorithm"),
            (vec![(0x000B, vec![0]); 17], "it names too many banks"),
        ] {
            assert_eq!(to_tpm(&selection), Err(TpmError::SelectionInvalid(why)));
        }
    }
}
