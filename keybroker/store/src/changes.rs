//! What changed, and how the embedded engine writes it down: per revision, for each key, one kind byte, the key's
//! length (2 bytes, big-endian), the key.

use crate::{Key, Revision, Write};

/// How many revisions back the log of changes reaches at least. Who is further behind reads everything anew.
pub const CHANGE_LOG_REVISIONS: u64 = 16_384;

/// After this many changes [`Store::changes_since`](crate::Store::changes_since) stops at the end of a revision.
pub const MAX_CHANGES_PER_READ: usize = 4_096;

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// How a key changed. The new value is read with [`Store::get`](crate::Store::get), and may by then be newer still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// A value was set.
    Put,
    /// A value was removed.
    Delete,
}

/// One key that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The commit that changed it.
    pub revision: Revision,
    /// The key.
    pub key: Key,
    /// How.
    pub kind: ChangeKind,
}

/// A stretch of history, in whole commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// By revision; within one revision in the order of the batch.
    pub changes: Vec<Change>,
    /// Everything up to and including this revision is in `changes`: where to go on.
    pub up_to: Revision,
}

/// Adds one write that took effect to the record of a revision.
pub(crate) fn record(log: &mut Vec<u8>, write: &Write) {
    let key = write.key().as_bytes();
    log.push(match write {
        Write::Put(..) => PUT,
        Write::Delete(_) => DELETE,
    });
    // A key is at most MAX_KEY_LEN bytes, which fits.
    log.extend_from_slice(&(key.len() as u16).to_be_bytes());
    log.extend_from_slice(key);
}

/// The changes of one revision, or `None` if the record is not one that [`record`] made.
pub(crate) fn parse(revision: Revision, mut log: &[u8]) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    while let Some((&[kind, high, low], rest)) = log.split_first_chunk() {
        let kind = match kind {
            PUT => ChangeKind::Put,
            DELETE => ChangeKind::Delete,
            _ => return None,
        };
        let (key, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
        changes.push(Change {
            revision,
            key: Key::new(key).ok()?,
            kind,
        });
        log = rest;
    }
    log.is_empty().then_some(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &[u8]) -> Key {
        Key::new(name).unwrap()
    }

    #[test]
    fn records_come_back_as_written() {
        let mut log = Vec::new();
        record(&mut log, &Write::Put(key(b"a/1"), b"ignored".to_vec()));
        record(&mut log, &Write::Delete(key(&[0; 512])));
        let revision = Revision::new(7);
        assert_eq!(
            parse(revision, &log),
            Some(vec![
                Change {
                    revision,
                    key: key(b"a/1"),
                    kind: ChangeKind::Put
                },
                Change {
                    revision,
                    key: key(&[0; 512]),
                    kind: ChangeKind::Delete
                },
            ])
        );
        for cut in (1..log.len()).filter(|cut| *cut != 6) {
            assert_eq!(parse(revision, &log[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn unknown_kinds_are_not_guessed() {
        assert_eq!(parse(Revision::new(1), b"\x03\0\x01k"), None);
        assert_eq!(parse(Revision::new(1), b"\x01\0\0"), None, "an empty key");
    }
}
