//! What of the machine's logs travels in a round: the bytes the broker has not seen.
//!
//! Nothing is kept here between rounds: the broker says in each challenge how much of each log it has seen in this boot,
//! and the log is read anew. A log shorter than that is another one, and is sent whole.

use std::path::PathBuf;

use touchstone_evidence::label::Label;
use touchstone_evidence::message::{BOOT_ID_LEN, LogBytes, Selection};

use crate::logs::{self, LogReadError};

/// IMA's register.
const IMA_REGISTER: u8 = 10;

/// Where the machine's logs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPaths {
    /// The firmware's event log.
    pub event_log: PathBuf,
    /// IMA's list; a machine without IMA has none.
    pub ima_list: PathBuf,
    /// The kernel's id of this boot.
    pub boot_id: PathBuf,
}

/// The end of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Which log.
    pub label: Label,
    /// Where it begins.
    pub offset: u64,
    /// Everything from there on; nothing where the log has not grown.
    pub bytes: Vec<u8>,
}

impl LogPaths {
    /// The kernel's id of this boot, where it has one.
    #[must_use]
    pub fn boot_id(&self) -> Option<[u8; BOOT_ID_LEN]> {
        logs::boot_id(&self.boot_id)
    }

    /// The logs that evidence with a quote of `selection` will hold: the firmware's where the kernel has one, IMA's where
    /// its register is quoted and the kernel keeps a list. Asked before the quote, because the quote covers which logs
    /// there are. What a missing log means is for the policy to say: a machine without one is still heard.
    #[must_use]
    pub fn announced(&self, selection: &Selection) -> Vec<Label> {
        let quoted = selection.iter().any(|(_, registers)| registers.contains(&IMA_REGISTER));
        let mut labels = Vec::new();
        if self.event_log.exists() {
            labels.push(Label::FirmwareEventLog);
        }
        if quoted && self.ima_list.exists() {
            labels.push(Label::ImaLog);
        }
        labels
    }

    /// Reads the log `label` and gives what is behind the `known` bytes. Called after the quote: what is measured in
    /// between is in the log and not in the quote, never the other way round.
    ///
    /// # Errors
    /// [`LogReadError`]
    pub fn tail(&self, label: Label, known: &LogBytes) -> Result<Tail, LogReadError> {
        let known = known.get(&label).copied().unwrap_or(0);
        let length = usize::try_from(known).unwrap_or(usize::MAX);
        let mut log = match label {
            Label::ImaLog => logs::ima_list(&self.ima_list, length)?,
            _ => logs::firmware_log(&self.event_log)?,
        };
        if log.len() < length {
            if label == Label::ImaLog && log.len() > logs::MAX_IMA_LIST {
                return Err(LogReadError::TooLong {
                    path: self.ima_list.clone(),
                    limit: logs::MAX_IMA_LIST,
                });
            }
            return Ok(Tail {
                label,
                offset: 0,
                bytes: log,
            });
        }
        Ok(Tail {
            label,
            offset: known,
            bytes: log.split_off(length),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(event_log: &[u8], ima_list: Option<&[u8]>) -> (tempfile::TempDir, LogPaths) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("event-log"), event_log).expect("written");
        if let Some(list) = ima_list {
            std::fs::write(path("ima"), list).expect("written");
        }
        std::fs::write(path("boot-id"), "00000000-0000-0000-0000-000000000001\n").expect("written");
        let paths = LogPaths {
            event_log: path("event-log"),
            ima_list: path("ima"),
            boot_id: path("boot-id"),
        };
        (folder, paths)
    }

    #[test]
    fn only_what_is_new_is_sent() {
        let (_folder, paths) = machine(b"firmware", Some(b"entries"));
        for (label, known, offset, bytes) in [
            (Label::FirmwareEventLog, 0, 0, &b"firmware"[..]),
            (Label::FirmwareEventLog, 8, 8, b""),
            (Label::FirmwareEventLog, 9, 0, b"firmware"),
            (Label::ImaLog, 0, 0, b"entries"),
            (Label::ImaLog, 3, 3, b"ries"),
            (Label::ImaLog, 7, 7, b""),
            (Label::ImaLog, u64::MAX, 0, b"entries"),
        ] {
            let expected = Tail {
                label,
                offset,
                bytes: bytes.to_vec(),
            };
            let known = LogBytes::from([(label, known)]);
            assert_eq!(
                paths.tail(label, &known),
                Ok(expected),
                "{label:?} of which {known:?} is known"
            );
        }
    }

    #[test]
    fn a_machine_without_a_firmware_log_announces_none() {
        let (folder, paths) = machine(b"firmware", None);
        std::fs::remove_file(folder.path().join("event-log")).expect("removed");
        assert_eq!(paths.announced(&Selection::new()), []);
    }

    #[test]
    fn a_list_is_announced_where_there_is_one_and_its_register_is_quoted() {
        let both = vec![Label::FirmwareEventLog, Label::ImaLog];
        let (_folder, with) = machine(b"firmware", Some(b"entries"));
        let (_other, without) = machine(b"firmware", None);
        assert_eq!(with.announced(&vec![(0x0b, vec![0, 10])]), both);
        assert_eq!(with.announced(&vec![(0x0b, vec![0]), (0x0c, vec![10])]), both);
        assert_eq!(with.announced(&vec![(0x0b, vec![0, 11])]), both[..1]);
        assert_eq!(without.announced(&vec![(0x0b, vec![0, 10])]), both[..1]);
        assert_eq!(with.boot_id(), Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]));
    }
}
