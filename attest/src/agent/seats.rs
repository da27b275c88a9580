//! Places on one of the agent's sockets: so many in all, and so many for one user, so that none locks the others out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many connections there may be at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places {
    /// On the socket.
    pub all: usize,
    /// Of one user.
    pub of_one: usize,
}

/// Who has a place.
#[derive(Debug)]
pub(super) struct Seats {
    places: Places,
    /// Connections by user; a user without any is not in it.
    taken: Mutex<BTreeMap<u32, usize>>,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    uid: u32,
}

impl Seats {
    pub(super) fn new(places: Places) -> Arc<Self> {
        Arc::new(Self {
            places,
            taken: Mutex::default(),
        })
    }

    /// A place for this user, where there is one.
    pub(super) fn take(self: &Arc<Self>, uid: u32) -> Option<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_this = taken.get(&uid).copied().unwrap_or(0);
        if of_this >= self.places.of_one || taken.values().sum::<usize>() >= self.places.all {
            return None;
        }
        taken.insert(uid, of_this + 1);
        drop(taken);
        Some(Seat {
            seats: Arc::clone(self),
            uid,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.uid) {
            Some(of_this) if *of_this > 1 => *of_this -= 1,
            _ => {
                taken.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_takes_no_place_of_another() {
        let seats = Seats::new(Places { all: 5, of_one: 2 });
        let mut held: Vec<Seat> = [1, 1, 2].map(|uid| seats.take(uid).expect("a place")).into();
        assert!(seats.take(1).is_none(), "one more than a user may have");
        held.push(seats.take(2).expect("another user's"));
        held.push(seats.take(3).expect("the last"));
        assert!(seats.take(4).is_none(), "one more than there are");
        drop(held.remove(0));
        held.push(seats.take(1).expect("given back"));
        assert!(seats.take(1).is_none());
        held.clear();
        assert!(seats.taken.lock().expect("a lock").is_empty(), "nobody is kept in mind");
    }
}
