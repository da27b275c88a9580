//! Register 11 after the firmware log: systemd measures the phases of the boot into it (systemd-pcrphase(8)), each as the
//! digest of its word.
//!
//! The words are public, and anyone on the machine may measure them. They are taken off only where a known run of them
//! leads from the log's value to the quoted one exactly; then the log's value is what is compared.

use crate::tpm::HashAlg;

/// The register that unified kernel images and systemd's phases are measured into.
pub const REGISTER: u8 = 11;
/// The phases, in the only order they come in.
pub const PHASES: [&str; 6] = ["enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"];
/// Where a run begins: in the initrd, or after it where the initrd measures none.
const STARTS: [usize; 2] = [0, 2];

/// A run of phases: positions of the first and after the last.
pub type Run = (usize, usize);

/// The run of at least one phase that leads from `log`, the log's value, to `quoted`.
pub fn run_between(bank: HashAlg, log: &[u8], quoted: &[u8]) -> Option<Run> {
    STARTS.into_iter().find_map(|start| {
        let mut value = log.to_vec();
        let ends = start + 1..=PHASES.len();
        PHASES.iter().skip(start).zip(ends).find_map(|(phase, end)| {
            let word = bank.digest([phase.as_bytes()]);
            value = bank.digest([value.as_slice(), word.as_ref()]).as_ref().to_vec();
            (value == quoted).then_some((start, end))
        })
    })
}

/// The last phase of a run.
pub fn last((_, end): Run) -> &'static str {
    end.checked_sub(1)
        .and_then(|last| PHASES.get(last))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extended(words: &[&str]) -> Vec<u8> {
        words.iter().fold(vec![7; 32], |value, word| {
            let word = HashAlg::Sha256.digest([word.as_bytes()]);
            HashAlg::Sha256.digest([&value, word.as_ref()]).as_ref().to_vec()
        })
    }

    #[test]
    fn only_known_phases_in_their_order_are_taken_off() {
        for (words, last_phase) in [
            (&["enter-initrd"][..], Some("enter-initrd")),
            (&["enter-initrd", "leave-initrd"], Some("leave-initrd")),
            (&["enter-initrd", "leave-initrd", "sysinit", "ready"], Some("ready")),
            (
                &["enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"],
                Some("final"),
            ),
            (&["sysinit", "ready"], Some("ready")),
            (&[], None),
            (&["ready"], None),
            (&["leave-initrd"], None),
            (&["enter-initrd", "sysinit"], None),
            (&["enter-initrd", "enter-initrd"], None),
            (&["sysinit", "leave-initrd"], None),
            (&["enter-initrd", "evil"], None),
            (&["evil"], None),
        ] {
            let run = run_between(HashAlg::Sha256, &[7; 32], &extended(words));
            assert_eq!(run.map(last), last_phase, "{words:?}");
        }
    }
}
