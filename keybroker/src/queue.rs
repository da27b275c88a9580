//! The queue in front of the one writer: what takes rights away has a lane of its own and is never refused.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

/// Why something was not put into the queue; it comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// As many wait as may.
    Full(T),
    /// Nobody takes any more.
    Closed(T),
}

/// A queue for many senders and one receiver on a thread of its own.
///
/// The normal lane is bounded. The urgent lane is not refused at any length; it is as long as there are requests under
/// way whose evidence has just withdrawn rights, which the limit on connections bounds.
#[derive(Debug)]
pub struct Queue<T> {
    limit: usize,
    state: Mutex<State<T>>,
    arrived: Condvar,
}

#[derive(Debug)]
struct State<T> {
    urgent: VecDeque<T>,
    normal: VecDeque<T>,
    closed: bool,
}

impl<T> Queue<T> {
    /// An empty queue whose normal lane takes `limit`.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let state = State {
            urgent: VecDeque::new(),
            normal: VecDeque::new(),
            closed: false,
        };
        Self {
            limit,
            state: Mutex::new(state),
            arrived: Condvar::new(),
        }
    }

    /// Most that wait in the normal lane.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Puts something into one of the lanes.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn put(&self, item: T, urgent: bool) -> Result<(), Refused<T>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(Refused::Closed(item));
        }
        if urgent {
            state.urgent.push_back(item);
        } else if state.normal.len() < self.limit {
            state.normal.push_back(item);
        } else {
            return Err(Refused::Full(item));
        }
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Moves everything urgent and up to `most` others to the end of `into`; waits until there is something. `false`
    /// means closed and empty.
    pub fn take(&self, into: &mut VecDeque<T>, most: usize) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.urgent.is_empty() && (state.normal.is_empty() || most == 0) {
            if state.closed {
                return false;
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.give(into, most);
        true
    }

    /// The same without waiting.
    pub fn take_now(&self, into: &mut VecDeque<T>, most: usize) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .give(into, most);
    }

    /// Nothing more is put in; what is in can still be taken.
    pub fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.arrived.notify_all();
    }
}

impl<T> State<T> {
    fn give(&mut self, into: &mut VecDeque<T>, most: usize) {
        into.extend(self.urgent.drain(..));
        let count = most.min(self.normal.len());
        into.extend(self.normal.drain(..count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_lane_is_bounded_and_the_urgent_one_comes_first() {
        let queue = Queue::new(2);
        queue.put(1, false).unwrap();
        queue.put(2, false).unwrap();
        assert_eq!(queue.put(3, false), Err(Refused::Full(3)));
        queue.put(10, true).unwrap();
        queue.put(11, true).unwrap();
        let mut taken = VecDeque::new();
        assert!(queue.take(&mut taken, 1));
        assert_eq!(taken, [10, 11, 1]);
        queue.close();
        assert_eq!(queue.put(4, true), Err(Refused::Closed(4)));
        assert!(queue.take(&mut taken, 5));
        assert_eq!(taken, [10, 11, 1, 2]);
        assert!(!queue.take(&mut taken, 5));
    }

    #[test]
    fn who_has_no_room_for_more_still_hears_what_is_urgent() {
        let queue = std::sync::Arc::new(Queue::new(8));
        queue.put(1, false).unwrap();
        let waiting = std::thread::spawn({
            let queue = queue.clone();
            move || {
                let mut taken = VecDeque::new();
                queue.take(&mut taken, 0).then_some(taken)
            }
        });
        queue.put(10, true).unwrap();
        assert_eq!(waiting.join().unwrap(), Some(VecDeque::from([10])));
    }
}
