//! Where statements are handed in.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::seat::Seat;
use crate::entry::{Entry, EntryError, Recorded};
use crate::queue::{Queue, Refused};

/// Where statements are handed in. Cheap to clone.
#[derive(Clone)]
pub struct SequencerHandle(pub(super) Arc<Seat>);

/// A statement that waits, and who waits for it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) entry: Entry,
    pub(super) reply: Reply,
}

/// Where the answer goes.
pub(super) type Reply = oneshot::Sender<Result<Recorded, EntryError>>;

/// A statement that was handed in. Dropping it takes nothing back.
#[derive(Debug)]
#[must_use = "nothing is durable before this says so"]
pub struct HandedIn(oneshot::Receiver<Result<Recorded, EntryError>>);

impl HandedIn {
    /// Resolves once it is durable, or refused.
    ///
    /// # Errors
    /// [`EntryError`]
    pub async fn recorded(self) -> Result<Recorded, EntryError> {
        self.0.await.map_err(|_| ended())?
    }
}

impl SequencerHandle {
    /// Hands in a statement; the future resolves once it is durable, or refused. Dropping the future takes nothing
    /// back.
    ///
    /// # Errors
    /// [`EntryError`]. A withdrawal is never refused as busy.
    pub async fn record(&self, entry: Entry) -> Result<Recorded, EntryError> {
        self.put(entry, Queue::put)?.recorded().await
    }

    /// Hands in a statement from a thread that may wait for the disk: where nobody else writes at the moment, this
    /// thread commits it, and what waits beside it, before it comes back.
    ///
    /// # Errors
    /// [`EntryError`]. A withdrawal is never refused as busy.
    pub fn hand_in(&self, entry: Entry) -> Result<HandedIn, EntryError> {
        let handed_in = self.put(entry, Queue::put_quietly)?;
        self.0.write_or_wake();
        Ok(handed_in)
    }

    fn put(
        &self,
        entry: Entry,
        put: impl FnOnce(&Queue<Waiting>, Waiting, bool) -> Result<(), Refused<Waiting>>,
    ) -> Result<HandedIn, EntryError> {
        let (reply, answer) = oneshot::channel();
        let urgent = entry.effect.is_urgent();
        let queue = &self.0.queue;
        put(queue, Waiting { entry, reply }, urgent).map_err(|refused| match refused {
            Refused::Full(_) => EntryError::Busy { limit: queue.limit() },
            Refused::Closed(_) => ended(),
        })?;
        Ok(HandedIn(answer))
    }

    /// Takes no more statements; what was handed in is still committed, then the thread ends.
    pub fn close(&self) {
        self.0.queue.close();
    }
}

impl std::fmt::Debug for SequencerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SequencerHandle")
    }
}

/// What is answered when nothing is committed any more.
pub(super) fn ended() -> EntryError {
    EntryError::Stopped {
        detail: "the sequencer has ended".into(),
    }
}
