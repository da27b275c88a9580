//! Which registers of which banks are required, and which session keys are tied to.

use std::collections::BTreeMap;

use touchstone_verifier::tpm::{HashAlg, PcrSelection};

use crate::error::{PolicyCode, Problem};

/// Highest register of a PC client (TCG PC Client PTP, 4.6).
pub const MAX_REGISTER: u8 = 23;
/// Registers that no reference can fix: the kernel's run-time measurements (10) and those software can reset (16, 23).
pub const NEVER_REQUIRED: [u8; 3] = [10, 16, 23];
/// Registers a session key is never tied to: they move while the machine runs, or software can reset them.
pub const NEVER_FOR_SESSION_KEYS: [u8; 7] = [10, 11, 12, 13, 15, 16, 23];
/// What `policy init` requires.
pub const DEFAULT_REQUIRED: [u8; 9] = [0, 2, 3, 4, 7, 8, 9, 11, 14];
/// What `policy init` ties session keys to.
pub const DEFAULT_SESSION_KEY: [u8; 7] = [0, 2, 4, 7, 8, 9, 14];
/// The banks that are judged. SHA-1 is not strong enough to prove a measurement.
pub const BANKS: [HashAlg; 3] = [HashAlg::Sha256, HashAlg::Sha384, HashAlg::Sha512];

/// The selection a table like `{ sha256 = [0, 2], sha384 = [7] }` names, banks in the order of their names.
pub(crate) fn read(
    key: &str,
    banks: &BTreeMap<String, Vec<u8>>,
    never: &[u8],
    problems: &mut Vec<Problem>,
) -> PcrSelection {
    let claim = format!("settings.toml: tpm.{key}");
    if banks.is_empty() || banks.values().any(Vec::is_empty) {
        let expected = "at least one register in each bank";
        problems.push(Problem::new(PolicyCode::SettingsEmptyList, &claim, expected, "none"));
        return PcrSelection::default();
    }
    let mut selected = Vec::new();
    for (name, numbers) in banks {
        let Some(bank) = BANKS.into_iter().find(|bank| bank.name() == name) else {
            let weak = HashAlg::from_name(name).is_some_and(HashAlg::is_weak);
            let found = if weak {
                format!("{name}, which is weak")
            } else {
                name.clone()
            };
            problems.push(Problem::new(
                PolicyCode::BankRefused,
                &claim,
                "sha256, sha384 or sha512",
                found,
            ));
            continue;
        };
        for &number in numbers {
            if number > MAX_REGISTER || never.contains(&number) {
                let expected = format!("registers 0 to {MAX_REGISTER} without {never:?}");
                problems.push(Problem::new(PolicyCode::RegisterRefused, &claim, expected, number));
            }
        }
        selected.push((bank, numbers.iter().copied()));
    }
    PcrSelection::new(selected).unwrap_or_else(|e| {
        let (expected, found) = e.details();
        problems.push(Problem::new(PolicyCode::RegisterRefused, claim, expected, found));
        PcrSelection::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(bank: &str, registers: &[u8], never: &[u8]) -> (PcrSelection, Vec<PolicyCode>) {
        let mut problems = Vec::new();
        let banks = BTreeMap::from([(bank.to_owned(), registers.to_vec())]);
        let selection = read("required_registers", &banks, never, &mut problems);
        (selection, problems.iter().map(|p| p.code).collect())
    }

    #[test]
    fn session_keys_are_never_tied_to_registers_that_move() {
        for register in NEVER_FOR_SESSION_KEYS {
            let (_, codes) = read_one("sha256", &[0, register], &NEVER_FOR_SESSION_KEYS);
            assert_eq!(codes, [PolicyCode::RegisterRefused], "{register}");
        }
    }

    #[test]
    fn strong_banks_are_taken_and_weak_or_unknown_ones_refused() {
        for bank in BANKS {
            let (selection, codes) = read_one(bank.name(), &[0, 7], &NEVER_REQUIRED);
            assert_eq!(codes, [], "{bank}");
            assert!(selection.contains(bank, 7) && !selection.contains(bank, 1), "{bank}");
        }
        for bank in ["sha1", "sm3_256", "SHA256", ""] {
            assert_eq!(
                read_one(bank, &[0], &NEVER_REQUIRED).1,
                [PolicyCode::BankRefused],
                "{bank}"
            );
        }
    }

    #[test]
    fn an_empty_bank_beside_a_full_one_is_refused() {
        let mut problems = Vec::new();
        let banks = BTreeMap::from([("sha256".to_owned(), vec![0]), ("sha384".to_owned(), vec![])]);
        let selection = read("required_registers", &banks, &NEVER_REQUIRED, &mut problems);
        assert_eq!(selection, PcrSelection::default());
        assert_eq!(
            problems.iter().map(|p| p.code).collect::<Vec<_>>(),
            [PolicyCode::SettingsEmptyList]
        );
    }
}
