//! Who writes: one thread at a time, the sequencer's own or the one that has just made a statement.
//!
//! A thread that hands in a statement and may wait for the disk takes the seat where it is free, and commits what waits,
//! once: two threads need not wake each other for that. Where somebody sits there already, the statement waits in the
//! queue and the sequencer's own thread sees to it. There is one order, that of the commits, whoever makes them.

use std::sync::{Mutex, MutexGuard, TryLockError};

use super::Running;
use super::handle::{Waiting, ended};
use crate::entry::EntryError;
use crate::queue::Queue;

/// The queue, and the seat of who takes from it.
pub(super) struct Seat {
    pub(super) queue: Queue<Waiting>,
    running: Mutex<Running>,
}

impl Seat {
    pub(super) fn new(queue: Queue<Waiting>, running: Running) -> Self {
        let running = Mutex::new(running);
        Self { queue, running }
    }

    /// The sequencer's own thread: commits whatever nobody else does, until the queue is closed or the store fails.
    pub(super) fn run(&self) -> Result<(), EntryError> {
        let mut again = false;
        loop {
            let open = again || self.queue.wait();
            let mut running = match self.running.lock() {
                Ok(running) => running,
                Err(broken) => {
                    // What a commit that broke off has left is not to be gone on with.
                    let error = panicked();
                    broken.into_inner().refuse_all(&self.queue, &error);
                    return Err(error);
                }
            };
            if open {
                again = running.turn(&self.queue)?;
            } else {
                running.refuse_all(&self.queue, &ended());
                // Closed by whoever committed last and failed, perhaps: that was no end in order.
                return running.failed.clone().map_or(Ok(()), Err);
            }
        }
    }

    /// Commits once what waits, if the seat is free; otherwise wakes the sequencer's own thread.
    pub(super) fn write_or_wake(&self) {
        let free = match self.running.try_lock() {
            Ok(running) => Some(running),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => return self.queue.close(),
        };
        if free.is_none_or(|running| self.write(running)) {
            self.queue.wake();
        }
    }

    /// One commit; whether the sequencer's own thread has to go on. One, so that who hands in a statement is never kept
    /// for the statements of others.
    fn write(&self, mut running: MutexGuard<'_, Running>) -> bool {
        let closing = CloseOnPanic(&self.queue);
        // A failure has closed the queue: the sequencer's own thread ends with its reason.
        let again = running.turn(&self.queue).unwrap_or(true);
        drop(closing);
        again
    }
}

/// Closes the queue when a commit breaks off, so that the sequencer's own thread hears of it.
struct CloseOnPanic<'a>(&'a Queue<Waiting>);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
        }
    }
}

fn panicked() -> EntryError {
    EntryError::Stopped {
        detail: "it panicked".into(),
    }
}
