//! What one commit asks for: guards that must hold, and writes.

use std::collections::BTreeSet;

use crate::{BatchError, Key, Revision};

/// Longest value, in bytes (`protocol.md` 9: a batch of statements is one value of at most 1 MiB).
pub const MAX_VALUE_LEN: usize = 1024 * 1024;

/// Most puts and deletes in one batch.
pub const MAX_BATCH_WRITES: usize = 4_096;

/// Most guards in one batch.
pub const MAX_BATCH_GUARDS: usize = 4_096;

/// Most bytes of keys and values written by one batch. A clustered engine is run with request limits no lower.
pub const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// A condition on one key at the instant of the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The key has no value: what makes a nonce or a name one-time.
    Absent(Key),
    /// The key has a value, last written at exactly this revision: what makes read-decide-write safe.
    Unchanged(Key, Revision),
}

impl Guard {
    /// The key it looks at.
    #[must_use]
    pub const fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::Unchanged(key, _) => key,
        }
    }

    /// The revision it demands; `None` demands that there is no value.
    #[must_use]
    pub const fn expected(&self) -> Option<Revision> {
        match self {
            Self::Absent(_) => None,
            Self::Unchanged(_, revision) => Some(*revision),
        }
    }
}

/// One change to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets the value.
    Put(Key, Vec<u8>),
    /// Removes the value; nothing happens if there is none.
    Delete(Key),
}

impl Write {
    /// The key it changes.
    #[must_use]
    pub const fn key(&self) -> &Key {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// All that one [`Store::commit`](crate::Store::commit) does. Built freely; the limits are checked by the commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    guards: Vec<Guard>,
    writes: Vec<Write>,
}

impl Batch {
    /// A batch that asks for nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition. Guards are looked at in the order in which they were added.
    pub fn guard(&mut self, guard: Guard) -> &mut Self {
        self.guards.push(guard);
        self
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: Key, value: impl Into<Vec<u8>>) -> &mut Self {
        self.writes.push(Write::Put(key, value.into()));
        self
    }

    /// Removes `key`, which may be absent.
    pub fn delete(&mut self, key: Key) -> &mut Self {
        self.writes.push(Write::Delete(key));
        self
    }

    /// The conditions, in the order in which they are looked at.
    #[must_use]
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// The changes.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Whether an engine may take this batch; every engine asks before it does anything.
    ///
    /// # Errors
    /// The limit that is exceeded, or the key that is written twice (whose outcome would depend on the engine).
    pub fn check(&self) -> Result<(), BatchError> {
        if self.guards.len() > MAX_BATCH_GUARDS {
            return Err(BatchError::TooManyGuards {
                limit: MAX_BATCH_GUARDS,
                found: self.guards.len(),
            });
        }
        if self.writes.len() > MAX_BATCH_WRITES {
            return Err(BatchError::TooManyWrites {
                limit: MAX_BATCH_WRITES,
                found: self.writes.len(),
            });
        }
        let mut bytes = 0;
        let mut written = BTreeSet::new();
        for write in &self.writes {
            bytes += write.key().as_bytes().len();
            if let Write::Put(key, value) = write {
                if value.len() > MAX_VALUE_LEN {
                    return Err(BatchError::ValueTooLong {
                        key: key.clone(),
                        limit: MAX_VALUE_LEN,
                        found: value.len(),
                    });
                }
                bytes += value.len();
            }
            if !written.insert(write.key()) {
                return Err(BatchError::WrittenTwice {
                    key: write.key().clone(),
                });
            }
        }
        if bytes > MAX_BATCH_BYTES {
            return Err(BatchError::TooLarge {
                limit: MAX_BATCH_BYTES,
                found: bytes,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Namespace;

    const N: Namespace = Namespace::new("n");

    #[test]
    fn limits_are_exact() {
        let mut batch = Batch::new();
        for i in 0..MAX_BATCH_WRITES as u64 {
            batch.put(N.numbered(i), []);
            batch.guard(Guard::Absent(N.numbered(i)));
        }
        assert_eq!(batch.check(), Ok(()));

        let mut guards = batch.clone();
        guards.guard(Guard::Absent(N.prefix()));
        assert_eq!(
            guards.check(),
            Err(BatchError::TooManyGuards {
                limit: 4_096,
                found: 4_097
            })
        );

        batch.delete(N.prefix());
        assert_eq!(
            batch.check(),
            Err(BatchError::TooManyWrites {
                limit: 4_096,
                found: 4_097
            })
        );
    }

    #[test]
    fn value_length_is_exact() {
        let mut batch = Batch::new();
        batch.put(N.prefix(), vec![0; MAX_VALUE_LEN]);
        assert_eq!(batch.check(), Ok(()));
        batch.put(N.numbered(1), vec![0; MAX_VALUE_LEN + 1]);
        let found = MAX_VALUE_LEN + 1;
        assert_eq!(
            batch.check(),
            Err(BatchError::ValueTooLong {
                key: N.numbered(1),
                limit: MAX_VALUE_LEN,
                found
            })
        );
    }

    #[test]
    fn whole_size_counts_keys_and_values() {
        let mut batch = Batch::new();
        for i in 0..8 {
            batch.put(N.numbered(i), vec![0; MAX_VALUE_LEN - 10]);
        }
        assert_eq!(
            batch.check(),
            Ok(()),
            "8 keys of 10 bytes and their values fill the batch exactly"
        );
        batch.delete(N.prefix());
        assert_eq!(
            batch.check(),
            Err(BatchError::TooLarge {
                limit: MAX_BATCH_BYTES,
                found: MAX_BATCH_BYTES + 2
            })
        );
    }

    #[test]
    fn one_key_is_written_once() {
        let mut batch = Batch::new();
        batch.put(N.numbered(1), *b"a").delete(N.numbered(1));
        assert_eq!(batch.check(), Err(BatchError::WrittenTwice { key: N.numbered(1) }));
    }
}
