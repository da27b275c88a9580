//! Follows a domain's trust state: one long-lived stream, verified frame by frame, reconnected whenever it breaks.
//!
//! What comes out is the last view that verified, for [`touchstone_authorization::decide`]. Nothing here decides how long
//! a view counts: a view that is not renewed grows stale by itself, and then the decision denies.

mod clock;
mod report;

pub use clock::{BrokerClock, ClockError, MAX_WALL_DISAGREEMENT_MS, Sample};
pub use report::{ACKS, Enforced, REPORT_PERIOD, REPORT_SPREAD_MS};

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::Instant;
use touchstone_authorization::broker_time::BrokerTime;
use touchstone_authorization::{KeyRing, TrustStateError, TrustView};
use touchstone_cose::key::Signer;

use crate::{BrokerClient, ClientError, Endpoint, backoff_ms, spread_ms};

/// How often the broker is asked for the time again, at least; each follower adds up to half of it, so that those who
/// began together do not ask together. Two clocks that count apart by 700 millionths (crystals, and the fastest slewing of
/// a time daemon) are 126 ms apart at the end of it, a quarter of the shipped skew bound.
const TIME_PERIOD: Duration = Duration::from_secs(120);
/// For how long the last answer will do where no newer one comes: the two clocks are 210 ms apart at its end, at most.
const TIME_LASTS: Duration = Duration::from_secs(300);
/// Within this time after a stream was opened anew the time is asked again, in milliseconds.
const TIME_SPREAD_MS: u64 = 10_000;
/// How long after one that failed the time is asked again.
const TIME_RETRY: Duration = Duration::from_secs(5);
/// A follower that lost its stream comes back within this part of its freshness window, beside the backoff: ten thousand
/// that lost one broker at one instant do not come back in one instant, and all are back long before they must stop.
const SPREAD_PART: u64 = 8;
/// A stream that is silent for this long is given up and opened anew. Several heartbeats of any sane policy.
const SILENCE: Duration = Duration::from_secs(8);

/// What a follower needs to know.
#[derive(Debug, Clone)]
pub struct FollowConfig {
    /// The trust domain.
    pub domain: String,
    /// Name of this subscriber, shown at the broker.
    pub subscriber: String,
    /// The domain's trust-state keys, from the signed keyset.
    pub keys: KeyRing,
    /// The policy's skew bound: a time sample that may be off by more is not taken.
    pub skew_ms: u64,
    /// Where the stream is: [`OWN_STREAM`], or the route of a domain that is relayed.
    pub route: String,
    /// Whose time counts.
    pub time: Time,
    /// (generation, epoch) of the last state that was accepted before this start: nothing before it is taken.
    pub floor: Option<(u32, u64)>,
}

/// The stream of a broker's own domain.
pub const OWN_STREAM: &str = "/v1/trust-state/stream";

/// The route under which brokers relay the trust state of another domain, unchanged.
#[must_use]
pub fn relayed_stream(domain: &str) -> String {
    format!("/v1/federation/{domain}/trust-state/stream")
}

/// Whose time a view's receipt is measured in. It must be the one that decisions are made with.
#[derive(Clone)]
pub enum Time {
    /// The brokers are asked, with a nonce.
    Asked,
    /// Another's: that of the domain which the enforcer obeys, where the one followed is a foreign one. No time: no view.
    Of(Arc<dyn Fn() -> Option<u64> + Send + Sync>),
}

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Asked => "Asked",
            Self::Of(_) => "Of",
        })
    }
}

/// Where views are put: the last one that verified, for everybody who watches. Several may put them there.
pub type Views = Arc<watch::Sender<Option<Arc<TrustView>>>>;

/// Takes a frame as the successor of the view that is held there, whole or not at all, and none that lies before the
/// (generation, epoch) `floor`: where nothing is held yet, a state that was signed long ago would do else.
///
/// # Errors
/// [`TrustStateError`]; what is held stays held and grows old.
pub fn take(
    views: &watch::Sender<Option<Arc<TrustView>>>,
    frame: &[u8],
    keys: &KeyRing,
    domain: &str,
    floor: Option<(u32, u64)>,
    now_ms: u64,
) -> Result<(), TrustStateError> {
    let mut taken = Ok(());
    views.send_if_modified(|held| {
        let view = TrustView::accept(held.as_deref(), frame, keys, domain, now_ms).and_then(|view| {
            let found = (view.head().generation, view.head().epoch);
            match floor.filter(|floor| found < *floor) {
                Some(held) => Err(TrustStateError::EpochBack { held, found }),
                None => Ok(view),
            }
        });
        match view {
            Ok(view) => {
                *held = Some(Arc::new(view));
                true
            }
            Err(error) => {
                taken = Err(error);
                false
            }
        }
    });
    taken
}

/// A running follower; dropping it ends it.
#[derive(Debug)]
pub struct Follower {
    views: watch::Receiver<Option<Arc<TrustView>>>,
    clock: Arc<BrokerClock>,
    source: watch::Sender<Source>,
    task: tokio::task::JoinHandle<()>,
}

/// Whom to follow, and with which keys.
#[derive(Debug, Clone)]
pub struct Source {
    /// The domain's brokers.
    pub brokers: Vec<Endpoint>,
    /// TLS, pinned to the keyset.
    pub tls: Arc<ClientConfig>,
    /// How to judge what they send.
    pub config: FollowConfig,
}

impl Source {
    fn client(&self) -> BrokerClient {
        BrokerClient::new(self.brokers.clone(), Arc::clone(&self.tls))
    }
}

impl Follower {
    /// Starts following.
    #[must_use]
    pub fn start(source: Source) -> Self {
        Self::start_into(source, Arc::new(watch::channel(None).0))
    }

    /// Starts following, going on from what is held in `publish` and putting there what comes.
    #[must_use]
    pub fn start_into(source: Source, publish: Views) -> Self {
        let views = publish.subscribe();
        let clock = Arc::new(BrokerClock::default());
        let (source, sources) = watch::channel(source);
        let task = tokio::spawn(run(sources, publish, Arc::clone(&clock)));
        Self {
            views,
            clock,
            source,
            task,
        }
    }

    /// Goes on with other keys: the policy has changed. The view that is held stays, so that what comes next must still
    /// continue it; the stream is opened anew under the new keys.
    pub fn change(&self, source: Source) {
        self.source.send_replace(source);
    }

    /// The last verified view. It may be stale: the decision looks.
    #[must_use]
    pub fn view(&self) -> Option<Arc<TrustView>> {
        self.views.borrow().clone()
    }

    /// A receiver that wakes at every new view.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Option<Arc<TrustView>>> {
        self.views.clone()
    }

    /// Says at the brokers, signed by the key that policy lists for this subscriber, what is enforced, for as long as
    /// somebody tells it or the follower lives.
    pub fn acknowledge(
        &self,
        signer: Arc<dyn Signer + Send + Sync>,
        enforced: watch::Receiver<Option<Enforced>>,
    ) -> tokio::task::JoinHandle<()> {
        let (sources, views, clock) = (self.source.subscribe(), self.views(), self.clock());
        tokio::spawn(report::report(sources, views, clock, signer, enforced))
    }

    /// The broker's time.
    #[must_use]
    pub fn clock(&self) -> Arc<BrokerClock> {
        Arc::clone(&self.clock)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(mut sources: watch::Receiver<Source>, publish: Views, clock: Arc<BrokerClock>) {
    let mut failures = 0u32;
    let mut source = sources.borrow_and_update().clone();
    let mut client = source.client();
    let mut asking = Asking::new();
    loop {
        let why = tokio::select! {
            followed = follow_once(&mut client, &source.config, &publish, &clock, &mut failures, &mut asking) => match followed {
                Ok(never) => match never {},
                Err(why) => Some(why),
            },
            changed = sources.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
        };
        let pause = why.map(|why| {
            failures = failures.saturating_add(1);
            // A broker that is silent, or shows what does not verify, must not hold an enforcer that has others.
            client.turn();
            tracing::info!(target: "touchstone::follow", failures, "trust-state stream: {why}");
            let window_ms = publish.borrow().as_ref().map_or(0, |view| {
                view.head().fresh_until_ms.saturating_sub(view.head().issued_at_ms)
            });
            let asked_ms = match why {
                // Each of the others is tried before anybody waits.
                Broken::Later(seconds) if failures as usize >= client.choices() => {
                    seconds * 1_000 + spread_ms(seconds * 1_000, random())
                }
                _ => 0,
            };
            let pause_ms = backoff_ms(failures, random()) + spread_ms(window_ms / SPREAD_PART, random());
            Duration::from_millis(pause_ms.max(asked_ms))
        });
        if let Some(pause) = pause {
            // New keys are a reason to try at once.
            let _ = tokio::time::timeout(pause, sources.changed()).await;
        }
        if sources.has_changed().unwrap_or(false) || pause.is_none() {
            source = sources.borrow_and_update().clone();
            client = source.client();
            asking.next = Instant::now();
        }
    }
}

/// Why a stream ended.
#[derive(Debug)]
enum Broken {
    /// The broker has no place and said when to come again, in seconds.
    Later(u64),
    /// In words.
    Words(String),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Later(seconds) => write!(f, "the broker has no place, again in {seconds} s"),
            Self::Words(words) => f.write_str(words),
        }
    }
}

impl From<String> for Broken {
    fn from(words: String) -> Self {
        Self::Words(words)
    }
}

impl From<ClientError> for Broken {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Later { seconds, .. } => Self::Later(seconds),
            other => Self::Words(other.to_string()),
        }
    }
}

/// When the time was asked, and when it is to be asked again.
struct Asking {
    next: Instant,
    /// When the last answer that was taken came.
    last: Option<Instant>,
}

impl Asking {
    fn new() -> Self {
        Self {
            next: Instant::now(),
            last: None,
        }
    }

    /// Whether the time that is known will do without another answer.
    fn is_known(&self) -> bool {
        self.last.is_some_and(|last| last.elapsed() < TIME_LASTS)
    }

    fn answered(&mut self) {
        let more_ms = u64::try_from(TIME_PERIOD.as_millis()).unwrap_or(0) / 2;
        self.last = Some(Instant::now());
        self.next = Instant::now() + TIME_PERIOD + Duration::from_millis(spread_ms(more_ms, random()));
    }

    fn soon(&mut self) {
        let soon = Instant::now() + Duration::from_millis(spread_ms(TIME_SPREAD_MS, random()));
        self.next = self.next.min(soon);
    }

    fn failed(&mut self) {
        self.next = Instant::now() + TIME_RETRY;
    }
}

/// Follows one stream until it breaks.
async fn follow_once(
    client: &mut BrokerClient,
    config: &FollowConfig,
    publish: &watch::Sender<Option<Arc<TrustView>>>,
    clock: &BrokerClock,
    failures: &mut u32,
    asking: &mut Asking,
) -> Result<std::convert::Infallible, Broken> {
    if asking.is_known() {
        // A broker that was started anew may count from another wall clock. Not all ask at the moment they come back.
        asking.soon();
    } else {
        ask(client, config, clock).await?;
        asking.answered();
    }
    let mut stream = client.follow(&config.route, &config.subscriber).await?;
    let mut silent_until = Instant::now() + SILENCE;
    loop {
        // Asked beside the stream: no frame waits for the time.
        let answer = {
            let ask = async {
                tokio::time::sleep_until(asking.next).await;
                ask(client, config, clock).await
            };
            tokio::pin!(ask);
            loop {
                let frame = tokio::select! {
                    biased;
                    frame = tokio::time::timeout_at(silent_until, stream.next()) => frame,
                    answer = &mut ask => break answer,
                };
                let frame = frame.map_err(|_| format!("silent for {SILENCE:?}"))??;
                silent_until = Instant::now() + SILENCE;
                let now_ms = match &config.time {
                    Time::Asked => clock.now_ms().map_err(|error| error.to_string())?,
                    Time::Of(now) => now().ok_or_else(|| "the time is not known".to_owned())?,
                };
                // The view that is held stays held and grows old; the stream starts anew with a whole list.
                take(publish, &frame, &config.keys, &config.domain, config.floor, now_ms)
                    .map_err(|error| format!("{}: {error}", error.code().as_str()))?;
                *failures = 0;
            }
        };
        match answer {
            Ok(()) => asking.answered(),
            // A stream that goes on is not given up for a clock that is good for a while yet.
            Err(_) if asking.is_known() => asking.failed(),
            Err(why) => return Err(why),
        }
    }
}

/// Asks for the time. The connection it is asked on is not kept: what a broker holds for each of ten thousand enforcers is
/// one stream.
async fn ask(client: &mut BrokerClient, config: &FollowConfig, clock: &BrokerClock) -> Result<(), Broken> {
    let asked = synchronize(client, config, clock).await;
    client.hang_up();
    Ok(asked?)
}

/// Asks for the time with a fresh nonce.
async fn synchronize(client: &mut BrokerClient, config: &FollowConfig, clock: &BrokerClock) -> Result<(), String> {
    const ATTEMPTS: usize = 5;
    if matches!(config.time, Time::Of(_)) {
        return Ok(());
    }
    let mut nonce = [0u8; 32];
    for _ in 0..ATTEMPTS {
        getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
        let sent = crate::clock::boot_ms();
        let token = client
            .time(&nonce)
            .await
            .map_err(|error: ClientError| error.to_string())?;
        let arrived = crate::clock::boot_ms();
        let time = BrokerTime::verify(&token, &config.keys, &nonce, crate::clock::wall_ms())
            .map_err(|error| error.to_string())?;
        let half = arrived.saturating_sub(sent).div_ceil(2);
        let sample = Sample {
            broker_ms: time.time_ms.saturating_add(half),
            boot_ms: arrived,
            bound_ms: half,
        };
        if clock.take(sample, config.skew_ms) {
            return Ok(());
        }
    }
    Err(format!(
        "the broker's time was off by more than {} ms in {ATTEMPTS} attempts",
        config.skew_ms
    ))
}

fn random() -> u64 {
    getrandom::u64().unwrap_or(0)
}
