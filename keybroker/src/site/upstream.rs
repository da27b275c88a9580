//! What is asked of the brokers for those at the site: a few connections, used in turn.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex as StdMutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use touchstone_client::follow::Source;
use touchstone_client::{BrokerClient, ClientError};

use crate::problem::{Refusal, RefusalCode};

/// Connections to the brokers.
pub const CLIENTS: usize = 4;

/// Most requests of the site that wait for one of them. The next is told to come again.
pub const MAX_WAITING: usize = 512;

/// The longest that a request of the site waits, its answer included: the time is worthless when it comes later.
const LONGEST: Duration = Duration::from_secs(4);

/// Connections to the brokers, for requests of the site.
pub struct Upstream {
    source: StdMutex<(u64, Source)>,
    clients: [Mutex<Option<(u64, BrokerClient)>>; CLIENTS],
    next: AtomicUsize,
    room: Semaphore,
}

impl Upstream {
    /// Connections that are opened when something is asked.
    #[must_use]
    pub fn new(source: &Source) -> Self {
        Self {
            source: StdMutex::new((0, source.clone())),
            clients: Default::default(),
            next: AtomicUsize::new(0),
            room: Semaphore::new(MAX_WAITING),
        }
    }

    /// Goes on with other brokers or keys.
    pub fn change(&self, source: &Source) {
        let mut held = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        *held = (held.0 + 1, source.clone());
    }

    /// Sends `body` on to a broker as it is, and gives the answer as it is.
    ///
    /// # Errors
    /// [`RefusalCode::BrokerBusy`] where too many wait; [`RefusalCode::UpstreamAway`] where no broker answers;
    /// [`RefusalCode::UpstreamRefused`] with what a broker said.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        let full = || {
            Refusal::new(
                RefusalCode::BrokerBusy,
                format!("{MAX_WAITING} requests of the site wait"),
            )
        };
        let _room = self.room.try_acquire().map_err(|_| full())?;
        let away = |detail: String| Refusal::new(RefusalCode::UpstreamAway, detail);
        match timeout(LONGEST, self.send(path, body)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ClientError::Refused { code, message, .. })) => {
                Err(Refusal::new(RefusalCode::UpstreamRefused, format!("{code}: {message}")))
            }
            Ok(Err(error)) => Err(away(error.to_string())),
            Err(_) => Err(away(format!("no answer in {LONGEST:?}"))),
        }
    }

    async fn send(&self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        let (version, source) = self.source.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % CLIENTS;
        let mut slot = match self.clients.get(turn) {
            Some(client) => client.lock().await,
            None => return Err(gone()),
        };
        // Taken out while it is used: an exchange that is given up in the middle is not continued by the next.
        let mut client = match slot.take() {
            Some((held, client)) if held == version => client,
            _ => BrokerClient::new(source.brokers, source.tls),
        };
        let answer = client.post(path, body).await;
        *slot = Some((version, client));
        answer
    }
}

/// There is a client for every turn.
fn gone() -> ClientError {
    ClientError::Unreachable {
        endpoint: String::new(),
        cause: "no client".into(),
    }
}
