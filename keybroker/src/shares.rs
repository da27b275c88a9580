//! What one host may take of what all share, where nobody has proved who they are: places at once, and refusals a second.
//!
//! Finer than [`crate::refusals::Prefix`]: those at a site are each other's neighbours, and one of them must not shut the
//! others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Most hosts whose refusals are counted one by one in one second; more share one count.
pub const MAX_WATCHED: usize = 16_384;

/// One who holds addresses, as far as it can be told: an IPv4 address, an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IPv4 address.
    V4([u8; 4]),
    /// An IPv6 /64.
    V6([u8; 8]),
    /// Too many others to tell apart.
    Others,
}

impl Host {
    /// Whose address this is. IPv4 mapped into IPv6 is IPv4.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// Places, of which no host has more than its share.
#[derive(Debug)]
pub struct Places {
    share: usize,
    all: Arc<Semaphore>,
    taken: Mutex<HashMap<Host, usize>>,
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    host: Host,
    _one: OwnedSemaphorePermit,
}

impl Places {
    /// `all` places, at most `share` of them for one host.
    #[must_use]
    pub fn new(all: usize, share: usize) -> Arc<Self> {
        Arc::new(Self {
            share,
            all: Arc::new(Semaphore::new(all)),
            taken: Mutex::default(),
        })
    }

    /// A place for this host; none where all are taken, or its share is.
    #[must_use]
    pub fn take(self: &Arc<Self>, host: Host) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.get(&host).is_some_and(|count| *count >= self.share) {
            return None;
        }
        let one = Arc::clone(&self.all).try_acquire_owned().ok()?;
        *taken.entry(host).or_default() += 1;
        Some(Place {
            places: Arc::clone(self),
            host,
            _one: one,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.host) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.host);
            }
        }
    }
}

/// How often each host was refused in the present second.
#[derive(Debug)]
pub struct Rates {
    most: u32,
    began: Instant,
    counts: HashMap<Host, u32>,
}

impl Rates {
    /// Who is refused more than `most` times in a second waits for the next.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self {
            most,
            began: Instant::now(),
            counts: HashMap::new(),
        }
    }

    /// Counts one refusal; true for the first that is one too many in its second.
    pub fn count(&mut self, host: Host) -> bool {
        self.turn();
        let count = self.counts.entry(self.watched(host)).or_default();
        *count = count.saturating_add(1);
        *count == self.most
    }

    /// Whether this host is to wait.
    pub fn is_limited(&mut self, host: Host) -> bool {
        self.turn();
        self.counts
            .get(&self.watched(host))
            .is_some_and(|count| *count >= self.most)
    }

    fn turn(&mut self) {
        if self.began.elapsed() >= Duration::from_secs(1) {
            self.began = Instant::now();
            self.counts.clear();
        }
    }

    fn watched(&self, host: Host) -> Host {
        let room = self.counts.len() < MAX_WATCHED || self.counts.contains_key(&host);
        if room { host } else { Host::Others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::of(text.parse().unwrap())
    }

    #[test]
    fn a_host_is_an_address_or_what_a_host_may_number_itself() {
        assert_eq!(host("10.0.0.7"), host("::ffff:10.0.0.7"));
        assert_ne!(host("10.0.0.7"), host("10.0.0.8"));
        assert_eq!(host("2001:db8:1:2::3"), host("2001:db8:1:2:ffff::1"));
        assert_ne!(host("2001:db8:1:2::3"), host("2001:db8:1:3::3"));
    }

    #[test]
    fn one_host_takes_its_share_and_leaves_the_others_theirs() {
        let places = Places::new(4, 2);
        let (greedy, other, third) = (host("10.0.0.1"), host("10.0.0.2"), host("10.0.0.3"));
        let mut held: Vec<Place> = (0..100).filter_map(|_| places.take(greedy)).collect();
        assert_eq!(held.len(), 2);
        let others = [places.take(other), places.take(other)];
        assert!(others.iter().all(Option::is_some), "a neighbour has its own");
        assert!(places.take(third).is_none(), "all are taken");
        held.pop();
        assert!(places.take(third).is_some(), "one was given back");
        drop((held, others));
        assert!(places.taken.lock().unwrap().is_empty(), "nothing stays behind");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_too_often_waits_and_nobody_else_does() {
        let mut rates = Rates::new(3);
        let (hostile, other) = (host("10.0.0.1"), host("10.0.0.2"));
        let first: Vec<bool> = (0..5).map(|_| rates.count(hostile)).collect();
        assert_eq!(first, [false, false, true, false, false], "told of once");
        assert!(rates.is_limited(hostile) && !rates.is_limited(other));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!rates.is_limited(hostile), "the next second is a new one");
        for n in 0..50_000u32 {
            rates.count(Host::V4(n.to_be_bytes()));
        }
        assert!(rates.counts.len() <= MAX_WATCHED + 1);
        assert!(rates.is_limited(Host::V4([9, 9, 9, 9])), "the crowd shares one count");
    }
}
