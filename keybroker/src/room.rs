//! Room for large evidence. What anybody may make the broker hold in memory is bounded before it knows who they are.
//!
//! Evidence of up to [`SMALL_EVIDENCE_BYTES`] is read from whoever sends it: connections times that is the bound. More is
//! read only on a connection with an open challenge, of the length its head announces, and only while there is room: there
//! is as much for connections on which no node has proved itself yet as for all the others, so that a flood by those who
//! only know a node's public key holds up first contacts with long lists and nobody else. The room is taken until the
//! answer is made.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::body::announced;
use crate::problem::{Refusal, RefusalCode};

/// Evidence of up to this many bytes needs no room: a re-attestation with nothing new in its logs has a few thousand.
pub const SMALL_EVIDENCE_BYTES: usize = 64 * 1024;

/// Bytes that one permit stands for.
const UNIT: usize = 1024;

/// Room for large evidence.
#[derive(Debug)]
pub struct Room {
    unproven: Arc<Semaphore>,
    proven: Arc<Semaphore>,
}

/// Room that was taken; given back when dropped.
#[derive(Debug)]
pub struct Taken {
    /// Most bytes the body may have.
    pub bytes: usize,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Room for `bytes` of either kind of connection.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let permits = (bytes / UNIT).min(Semaphore::MAX_PERMITS);
        Self {
            unproven: Arc::new(Semaphore::new(permits)),
            proven: Arc::new(Semaphore::new(permits)),
        }
    }

    /// Takes room for a body with this head of at most `most` bytes, waiting `ms` milliseconds for it. `proven` says
    /// whether a node has proved itself on the connection, `has_challenge` whether one may be about to.
    ///
    /// # Errors
    /// [`RefusalCode::BrokerBusy`] where none becomes free, [`RefusalCode::BodyTooLarge`] for a length that is none.
    pub async fn take(
        &self,
        proven: bool,
        has_challenge: bool,
        headers: &HeaderMap,
        most: usize,
        ms: u64,
    ) -> Result<Taken, Refusal> {
        let small = |bytes| Taken { bytes, _permit: None };
        let wanted = match announced(headers)? {
            Some(wanted) if has_challenge && wanted > SMALL_EVIDENCE_BYTES => wanted,
            _ => return Ok(small(most.min(SMALL_EVIDENCE_BYTES))),
        };
        if wanted > most {
            // Refused where the body is read.
            return Ok(small(most));
        }
        let semaphore = Arc::clone(if proven { &self.proven } else { &self.unproven });
        let units = u32::try_from(wanted.div_ceil(UNIT)).unwrap_or(u32::MAX);
        match timeout(Duration::from_millis(ms), semaphore.acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(Taken {
                bytes: wanted,
                _permit: Some(permit),
            }),
            _ => Err(Refusal::new(
                RefusalCode::BrokerBusy,
                "too much large evidence is in work",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header::CONTENT_LENGTH;

    use super::*;

    const MOST: usize = 1024 * 1024;

    fn head(length: Option<usize>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        headers
    }

    #[tokio::test(start_paused = true)]
    async fn only_announced_lengths_of_connections_with_a_challenge_get_more_than_a_little() {
        let room = Room::new(MOST);
        for (name, challenge, length, bytes) in [
            ("small", true, Some(10), SMALL_EVIDENCE_BYTES),
            ("not announced", true, None, SMALL_EVIDENCE_BYTES),
            ("large", true, Some(MOST), MOST),
            ("without a challenge", false, Some(MOST), SMALL_EVIDENCE_BYTES),
            ("over the limit", true, Some(MOST + 1), MOST),
        ] {
            let taken = room.take(false, challenge, &head(length), MOST, 10).await;
            assert_eq!(taken.map(|taken| taken.bytes).ok(), Some(bytes), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_bounded_and_comes_back() {
        let room = Room::new(MOST);
        let take = |proven: bool| {
            let room = &room;
            async move { room.take(proven, true, &head(Some(MOST)), MOST, 10).await }
        };
        let first = take(false).await.unwrap();
        assert_eq!(
            take(false).await.map_err(|e| e.code).err(),
            Some(RefusalCode::BrokerBusy)
        );
        let other = take(true).await;
        assert!(other.is_ok(), "those who have proved themselves have room of their own");
        drop(first);
        assert!(take(false).await.is_ok());
    }
}
