//! Where the broker keeps what it must not lose: one small trait and the embedded engine.
//!
//! In scope: linearizable compare-and-swap over many keys at once ([`Store::commit`]), reads that never see half a
//! commit, ordered ranges, and a bounded log of what changed ([`Store::changes_since`]) that says so when it no longer
//! reaches back far enough. Out of scope: what the values mean, when to commit (the broker groups commits on one
//! writer task, because a disk sync costs a hundred times what a commit does), and any clock.
//!
//! The trait is drawn so that two engines fit behind it: [`RedbStore`], one private file with nothing beside it, and a
//! cluster store with revisions, transactions and watches. `tests/conformance` holds the rules both must keep.

mod batch;
mod changes;
mod embedded;
mod error;
mod key;
mod row;
mod store;

pub use batch::{Batch, Guard, MAX_BATCH_BYTES, MAX_BATCH_GUARDS, MAX_BATCH_WRITES, MAX_VALUE_LEN, Write};
pub use changes::{CHANGE_LOG_REVISIONS, Change, ChangeKind, Changes, MAX_CHANGES_PER_READ};
pub use embedded::{CACHE_BYTES, RedbStore, SCHEMA_VERSION};
pub use error::{BatchError, CommitError, KeyError, OpenError, StoreError};
pub use key::{Key, MAX_KEY_LEN, MAX_NAMESPACE_LEN, Namespace};
pub use row::RowFault;
pub use store::{MAX_RANGE_BYTES, MAX_RANGE_ROWS, RangeRow, Revision, Store, Versioned};
