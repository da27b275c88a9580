//! What is asked of the brokers for those at the site: a few connections, whose turns go to who came first.
//!
//! Each kind of request has connections and a room of its own, of which no host has more than its share: whatever one host
//! asks, and however much of it, the others get the time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use touchstone_client::follow::Source;
use touchstone_client::{BrokerClient, ClientError};

use crate::problem::{Refusal, RefusalCode};
use crate::shares::{Host, Places};

/// Connections to the brokers, for each kind of request.
pub const CLIENTS: usize = 4;

/// Most requests of the site, of each kind, that wait for one of them. The next is told to come again.
pub const MAX_WAITING: usize = 512;

/// Most of these of one host. An enforcer asks one thing at a time.
pub const MAX_WAITING_OF_HOST: usize = 8;

/// Connections to the brokers for one kind of request.
pub struct Upstream {
    source: Mutex<(u64, Source)>,
    /// Clients that nobody uses now.
    idle: Mutex<Vec<Opened>>,
    turns: Semaphore,
    room: Arc<Places>,
    /// The broker that whoever is opened next begins with.
    first: AtomicUsize,
}

impl Upstream {
    /// Connections that are opened when something is asked.
    #[must_use]
    pub fn new(source: &Source) -> Self {
        Self {
            source: Mutex::new((0, source.clone())),
            idle: Mutex::default(),
            turns: Semaphore::new(CLIENTS),
            room: Places::new(MAX_WAITING, MAX_WAITING_OF_HOST),
            first: AtomicUsize::new(0),
        }
    }

    /// Goes on with other brokers or keys.
    pub fn change(&self, source: &Source) {
        let mut held = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        *held = (held.0 + 1, source.clone());
    }

    /// Sends `body` on to a broker as it is, for `host`, and gives the answer as it is, no later than after `longest`.
    ///
    /// # Errors
    /// [`RefusalCode::BrokerBusy`] where too many wait; [`RefusalCode::UpstreamAway`] where no broker answers;
    /// [`RefusalCode::UpstreamRefused`] with what a broker said.
    pub async fn post(&self, host: Host, path: &str, body: Vec<u8>, longest: Duration) -> Result<Vec<u8>, Refusal> {
        let full = || {
            let detail = format!("{MAX_WAITING} requests of the site wait, or {MAX_WAITING_OF_HOST} of this host");
            Refusal::new(RefusalCode::BrokerBusy, detail)
        };
        let _room = self.room.take(host).ok_or_else(full)?;
        let away = |detail: String| Refusal::new(RefusalCode::UpstreamAway, detail);
        match timeout(longest, self.send(path, body)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ClientError::Refused { code, message, .. })) => {
                Err(Refusal::new(RefusalCode::UpstreamRefused, format!("{code}: {message}")))
            }
            Ok(Err(error)) => Err(away(error.to_string())),
            Err(_) => Err(away(format!("no answer in {longest:?}"))),
        }
    }

    async fn send(&self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        // In the order in which they came; never closed.
        let _turn = self.turns.acquire().await;
        let mut opened = self.opened();
        // Dropped in the middle, what was opened is gone with half its exchange, and the broker behind it was too slow.
        let mut slow = Slow {
            first: &self.first,
            began: Some(opened.first),
        };
        let answer = opened.client.post(path, body).await;
        slow.began = None;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(opened);
        answer
    }

    fn opened(&self) -> Opened {
        let (version, mut source) = self.source.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|opened| opened.version == version);
        if let Some(opened) = idle.pop() {
            return opened;
        }
        drop(idle);
        let first = self.first.load(Ordering::Relaxed);
        let by = first.checked_rem(source.brokers.len()).unwrap_or(0);
        source.brokers.rotate_left(by);
        Opened {
            version,
            first,
            client: BrokerClient::new(source.brokers, source.tls),
        }
    }
}

/// A client, of which source, and with which broker it began.
struct Opened {
    version: u64,
    first: usize,
    client: BrokerClient,
}

/// Where one that began with this broker was not answered in time, the next begins with the one after: once, however many
/// of them wait for it.
struct Slow<'a> {
    first: &'a AtomicUsize,
    began: Option<usize>,
}

impl Drop for Slow<'_> {
    fn drop(&mut self) {
        if let Some(began) = self.began {
            let next = began.wrapping_add(1);
            let _ = self
                .first
                .compare_exchange(began, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;
    use tokio::time::Instant;
    use touchstone_authorization::KeyRing;
    use touchstone_client::follow::{FollowConfig, OWN_STREAM, Time};
    use touchstone_client::{Endpoint, pinned_config};

    use super::*;

    const LONGEST: Duration = Duration::from_millis(400);

    /// A broker that accepts and says nothing.
    async fn silent() -> (TcpListener, Source) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let source = Source {
            brokers: vec![Endpoint::parse(&address.to_string()).unwrap()],
            tls: pinned_config(&[]).unwrap(),
            config: FollowConfig {
                domain: "test.example".into(),
                subscriber: "site-7".into(),
                keys: KeyRing::new([]).unwrap(),
                skew_ms: 200,
                route: OWN_STREAM.into(),
                time: Time::Asked,
                floor: None,
            },
        };
        (listener, source)
    }

    // Time goes on where nobody has anything to do: so it takes as long on every machine.
    #[tokio::test(start_paused = true)]
    async fn a_host_that_asks_without_end_leaves_the_others_their_place_and_nothing_comes_late() {
        let (_listener, source) = silent().await;
        let upstream = Arc::new(Upstream::new(&source));
        let (greedy, other) = (Host::V4([10, 0, 0, 1]), Host::V4([10, 0, 0, 2]));
        let ask = |host| {
            let upstream = Arc::clone(&upstream);
            tokio::spawn(async move {
                let begun = Instant::now();
                let refusal = upstream.post(host, "/v1/time", vec![7; 32], LONGEST).await.unwrap_err();
                (refusal.code, begun.elapsed())
            })
        };
        let flood: Vec<_> = (0..100).map(|_| ask(greedy)).collect();
        tokio::task::yield_now().await;
        let (code, took) = ask(other).await.unwrap();
        assert_eq!(
            code,
            RefusalCode::UpstreamAway,
            "it was let in, and the broker is silent"
        );
        assert!(took < 2 * LONGEST, "{took:?}");
        let mut turned_away = 0;
        for one in flood {
            turned_away += usize::from(one.await.unwrap().0 == RefusalCode::BrokerBusy);
        }
        assert_eq!(turned_away, 100 - MAX_WAITING_OF_HOST);
    }

    #[tokio::test]
    async fn a_broker_that_is_silent_is_not_asked_first_again() {
        let ((_one, mut source), (_two, other)) = (silent().await, silent().await);
        source.brokers.extend(other.brokers);
        let upstream = Upstream::new(&source);
        let before = format!("{:?}", upstream.opened().client);
        let host = Host::V4([10, 0, 0, 1]);
        let ask = || upstream.post(host, "/v1/time", vec![7; 32], LONGEST);
        // However many wait for it at once: it is the next one's turn, and not the one's after.
        let _ = tokio::join!(ask(), ask(), ask(), ask());
        assert_ne!(before, format!("{:?}", upstream.opened().client));
        assert_eq!(upstream.first.load(Ordering::Relaxed), 1);
    }
}
