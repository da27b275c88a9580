//! The queue in front of the one who writes: what takes rights away has a lane of its own and is never refused.

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

/// A queue for many senders and one receiver at a time.
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
    /// Whoever receives has no room for more of the normal lane.
    full: bool,
    /// The receiver's thread is to look again, whatever is here.
    woken: bool,
    /// How many threads wait now.
    #[cfg(test)]
    waiting: usize,
}

impl<T> Queue<T> {
    /// An empty queue whose normal lane takes `limit`.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let state = State {
            urgent: VecDeque::new(),
            normal: VecDeque::new(),
            closed: false,
            full: false,
            woken: false,
            #[cfg(test)]
            waiting: 0,
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

    /// Puts something into one of the lanes, and wakes who waits.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn put(&self, item: T, urgent: bool) -> Result<(), Refused<T>> {
        self.put_quietly(item, urgent)?;
        self.arrived.notify_one();
        Ok(())
    }

    /// The same for who is about to receive itself, or wakes who does ([`Self::wake`]).
    ///
    /// # Errors
    /// [`Refused`]
    pub fn put_quietly(&self, item: T, urgent: bool) -> Result<(), Refused<T>> {
        let mut state = self.lock();
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
        Ok(())
    }

    /// Lets who waits look again, also where nothing new is in.
    pub fn wake(&self) {
        self.lock().woken = true;
        self.arrived.notify_one();
    }

    /// Waits until there is something that can be taken, or the thread is woken. `false` means closed, and nothing that
    /// can be taken.
    pub fn wait(&self) -> bool {
        let mut state = self.lock();
        loop {
            if std::mem::take(&mut state.woken) || state.has_some() {
                return true;
            }
            if state.closed {
                return false;
            }
            #[cfg(test)]
            {
                state.waiting += 1;
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
            #[cfg(test)]
            {
                state.waiting -= 1;
            }
        }
    }

    /// Moves everything urgent and up to `most` others to the end of `into`, without waiting.
    pub fn take(&self, into: &mut VecDeque<T>, most: usize) {
        self.lock().give(into, most);
    }

    /// Whether who receives has no room for more of the normal lane: then nobody is woken for that.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Nothing more is put in; what is in can still be taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn has_some(&self) -> bool {
        !self.urgent.is_empty() || !(self.normal.is_empty() || self.full)
    }

    fn give(&mut self, into: &mut VecDeque<T>, most: usize) {
        into.extend(self.urgent.drain(..));
        let count = most.min(self.normal.len());
        into.extend(self.normal.drain(..count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<T> Queue<T> {
        /// Comes back when a thread sleeps in [`Queue::wait`]: it counts itself under the lock that the sleep gives back.
        pub(crate) fn until_waited_for(&self) {
            while self.lock().waiting == 0 {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn the_normal_lane_is_bounded_and_the_urgent_one_comes_first() {
        let queue = Queue::new(2);
        queue.put(1, false).unwrap();
        queue.put(2, false).unwrap();
        assert_eq!(queue.put(3, false), Err(Refused::Full(3)));
        queue.put(10, true).unwrap();
        queue.put(11, true).unwrap();
        let mut taken = VecDeque::new();
        assert!(queue.wait());
        queue.take(&mut taken, 1);
        assert_eq!(taken, [10, 11, 1]);
        queue.close();
        assert_eq!(queue.put(4, true), Err(Refused::Closed(4)));
        assert!(queue.wait());
        queue.take(&mut taken, 5);
        assert_eq!(taken, [10, 11, 1, 2]);
        assert!(!queue.wait());
    }

    #[test]
    fn who_has_no_room_for_more_still_hears_what_is_urgent() {
        let queue = std::sync::Arc::new(Queue::new(8));
        queue.put(1, false).unwrap();
        queue.set_full(true);
        let waiting = std::thread::spawn({
            let queue = queue.clone();
            move || {
                let mut taken = VecDeque::new();
                queue.wait();
                queue.take(&mut taken, 0);
                taken
            }
        });
        queue.put(10, true).unwrap();
        assert_eq!(waiting.join().unwrap(), [10]);
        queue.set_full(false);
        assert!(queue.wait(), "there is room again");
    }

    #[test]
    fn what_comes_quietly_wakes_nobody_and_is_there() {
        let queue = std::sync::Arc::new(Queue::new(8));
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn({
            let queue = queue.clone();
            move || {
                while queue.wait() {
                    let mut taken = VecDeque::new();
                    queue.take(&mut taken, 8);
                    tell.send(taken).unwrap();
                }
            }
        });
        queue.put(1, false).unwrap();
        assert_eq!(told.recv().unwrap(), [1]);
        queue.until_waited_for();
        queue.put_quietly(2, false).unwrap();
        let early = told.recv_timeout(std::time::Duration::from_millis(100));
        assert!(early.is_err(), "nobody was woken");
        queue.wake();
        assert_eq!(told.recv().unwrap(), [2]);
        queue.wake();
        assert!(told.recv().unwrap().is_empty(), "woken for nothing new");
        queue.close();
        assert!(told.recv().is_err());
    }
}
