//! Challenges that wait for their answer: bounded in number and time, bound to one TLS connection, one try each.

use std::collections::{BTreeMap, HashMap};

use crate::server::ConnectionId;

/// Bytes of a session's id.
pub const SESSION_ID_LEN: usize = 16;

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 32;

/// A session's id: random, so that nobody can name a session that is not theirs.
pub type SessionId = [u8; SESSION_ID_LEN];

/// The machine gives no random bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes: {detail}")]
pub struct EntropyError {
    /// The system's own words.
    pub detail: String,
}

/// `N` bytes from the system's random number generator.
///
/// # Errors
/// [`EntropyError`]: nothing may go on with fewer, older or guessed bytes.
pub fn random<const N: usize>() -> Result<[u8; N], EntropyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| EntropyError { detail: e.to_string() })?;
    Ok(bytes)
}

/// Bounds on open challenges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// Most open at once.
    pub total: usize,
    /// Most open at once on one connection.
    pub per_connection: usize,
    /// Lifetime in milliseconds.
    pub life_ms: u64,
}

/// The open challenges, each with what was noted at the hello (`T`).
///
/// When there are too many the oldest goes: an honest node answers within a second, and a flood can shorten the time to
/// answer but lock nobody out.
#[derive(Debug)]
pub struct Sessions<T> {
    limits: SessionLimits,
    next: u64,
    open: HashMap<SessionId, Open<T>>,
    by_age: BTreeMap<u64, SessionId>,
    by_connection: BTreeMap<(ConnectionId, u64), SessionId>,
}

#[derive(Debug)]
struct Open<T> {
    number: u64,
    connection: ConnectionId,
    since_ms: u64,
    noted: T,
}

impl<T> Sessions<T> {
    /// None open.
    #[must_use]
    pub fn new(limits: SessionLimits) -> Self {
        Self {
            limits,
            next: 0,
            open: HashMap::new(),
            by_age: BTreeMap::new(),
            by_connection: BTreeMap::new(),
        }
    }

    /// Opens a session. `now_ms` is time since boot.
    pub fn open(&mut self, id: SessionId, connection: ConnectionId, noted: T, now_ms: u64) {
        self.expire(now_ms);
        // An id that is taken would have to be 128 equal random bits; the older session yields.
        self.remove(&id);
        while self.of(connection) >= self.limits.per_connection {
            let Some(oldest) = self.oldest_of(connection) else {
                break;
            };
            self.remove(&oldest);
        }
        while self.open.len() >= self.limits.total {
            let Some(oldest) = self.by_age.first_key_value().map(|(_, id)| *id) else {
                break;
            };
            self.remove(&oldest);
        }
        let number = self.next;
        self.next += 1;
        self.by_age.insert(number, id);
        self.by_connection.insert((connection, number), id);
        self.open.insert(
            id,
            Open {
                number,
                connection,
                since_ms: now_ms,
                noted,
            },
        );
    }

    /// Takes a session for its one try. `None` if it is unknown, expired, used, or another connection's; in that last
    /// case it stays, so that nobody can use up a session by naming it elsewhere.
    pub fn take(&mut self, id: &SessionId, connection: ConnectionId, now_ms: u64) -> Option<T> {
        self.expire(now_ms);
        if self.open.get(id)?.connection != connection {
            return None;
        }
        self.remove(id)
    }

    /// Whether one is open on this connection. `now_ms` is time since boot.
    pub fn has(&mut self, connection: ConnectionId, now_ms: u64) -> bool {
        self.expire(now_ms);
        self.oldest_of(connection).is_some()
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn expire(&mut self, now_ms: u64) {
        while let Some(id) = self.by_age.first_key_value().map(|(_, id)| *id) {
            let expired = self
                .open
                .get(&id)
                .is_none_or(|open| now_ms.saturating_sub(open.since_ms) > self.limits.life_ms);
            if !expired {
                return;
            }
            self.remove(&id);
        }
    }

    fn remove(&mut self, id: &SessionId) -> Option<T> {
        let open = self.open.remove(id)?;
        self.by_age.remove(&open.number);
        self.by_connection.remove(&(open.connection, open.number));
        Some(open.noted)
    }

    fn of(&self, connection: ConnectionId) -> usize {
        self.by_connection
            .range((connection, 0)..=(connection, u64::MAX))
            .count()
    }

    fn oldest_of(&self, connection: ConnectionId) -> Option<SessionId> {
        self.by_connection
            .range((connection, 0)..=(connection, u64::MAX))
            .next()
            .map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: SessionLimits = SessionLimits {
        total: 8,
        per_connection: 3,
        life_ms: 30_000,
    };
    const HERE: ConnectionId = ConnectionId(1);
    const THERE: ConnectionId = ConnectionId(2);

    fn id(n: u8) -> SessionId {
        [n; SESSION_ID_LEN]
    }

    #[test]
    fn one_try() {
        let mut sessions = Sessions::new(LIMITS);
        sessions.open(id(1), HERE, "noted", 0);
        assert_eq!(sessions.take(&id(1), HERE, 1), Some("noted"));
        assert_eq!(sessions.take(&id(1), HERE, 1), None);
    }

    #[test]
    fn another_connection_neither_uses_it_nor_uses_it_up() {
        let mut sessions = Sessions::new(LIMITS);
        sessions.open(id(1), HERE, (), 0);
        assert_eq!(sessions.take(&id(1), THERE, 1), None);
        assert_eq!(sessions.take(&id(1), HERE, 1), Some(()));
    }

    #[test]
    fn it_expires() {
        let mut sessions = Sessions::new(LIMITS);
        sessions.open(id(1), HERE, (), 5);
        sessions.open(id(2), HERE, (), 6);
        assert_eq!(sessions.take(&id(1), HERE, 5 + 30_001), None);
        assert_eq!(sessions.take(&id(2), HERE, 6 + 30_000), Some(()));
    }

    #[test]
    fn a_flood_takes_the_oldest_and_memory_stays_bounded() {
        let mut sessions = Sessions::new(LIMITS);
        sessions.open(id(200), HERE, (), 0);
        for n in 0..7 {
            sessions.open(id(n), ConnectionId(10 + u64::from(n)), (), 1);
        }
        assert_eq!(sessions.len(), 8);
        assert_eq!(
            sessions.take(&id(200), HERE, 2),
            Some(()),
            "within bounds nobody is pushed out"
        );
        for n in 100..200 {
            sessions.open(id(n), ConnectionId(50 + u64::from(n)), (), 2);
        }
        assert_eq!(sessions.len(), 8);
        assert_eq!(sessions.take(&id(0), ConnectionId(10), 2), None);
        assert_eq!(sessions.take(&id(199), ConnectionId(249), 2), Some(()));
    }

    #[test]
    fn one_connection_cannot_push_out_others() {
        let mut sessions = Sessions::new(LIMITS);
        sessions.open(id(200), THERE, (), 0);
        for n in 0..100 {
            sessions.open(id(n), HERE, (), 0);
        }
        assert_eq!(sessions.len(), 4);
        assert_eq!(sessions.take(&id(200), THERE, 0), Some(()));
    }

    #[test]
    fn ten_thousand_challenges_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            assert!(seen.insert(random::<NONCE_LEN>().unwrap()));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn the_books_agree(steps in proptest::collection::vec((0u8..20, 0u64..4, 0u64..20_000, any::<bool>()), 0..200)) {
            let mut sessions = Sessions::new(LIMITS);
            let mut now = 0;
            for (n, connection, later, take) in steps {
                now += later;
                if take {
                    sessions.take(&id(n), ConnectionId(connection), now);
                } else {
                    sessions.open(id(n), ConnectionId(connection), (), now);
                }
                prop_assert!(sessions.len() <= LIMITS.total);
                prop_assert_eq!(sessions.by_age.len(), sessions.len());
                prop_assert_eq!(sessions.by_connection.len(), sessions.len());
                prop_assert!((0..4).all(|c| sessions.of(ConnectionId(c)) <= LIMITS.per_connection));
            }
        }
    }
}
