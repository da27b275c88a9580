//! Where statements are handed in.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::forming::takes_away;
use crate::entry::{Entry, EntryError, Recorded};
use crate::queue::{Queue, Refused};

/// Where statements are handed in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SequencerHandle(pub(super) Arc<Queue<Waiting>>);

/// A statement that waits, and who waits for it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) entry: Entry,
    pub(super) reply: Reply,
}

/// Where the answer goes.
pub(super) type Reply = oneshot::Sender<Result<Recorded, EntryError>>;

impl SequencerHandle {
    /// Hands in a statement; the future resolves once it is durable, or refused. Dropping the future takes nothing
    /// back.
    ///
    /// # Errors
    /// [`EntryError`]. A withdrawal is never refused as busy.
    pub async fn record(&self, entry: Entry) -> Result<Recorded, EntryError> {
        let (reply, answer) = oneshot::channel();
        let urgent = takes_away(&entry);
        self.0
            .put(Waiting { entry, reply }, urgent)
            .map_err(|refused| match refused {
                Refused::Full(_) => EntryError::Busy { limit: self.0.limit() },
                Refused::Closed(_) => ended(),
            })?;
        answer.await.map_err(|_| ended())?
    }

    /// Takes no more statements; what was handed in is still committed, then the thread ends.
    pub fn close(&self) {
        self.0.close();
    }
}

/// What is answered when nothing is committed any more.
pub(super) fn ended() -> EntryError {
    EntryError::Stopped {
        detail: "the sequencer has ended".into(),
    }
}
