//! The agent's life: open the TPM, attest, wait, attest again; follow the trust state meanwhile.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use touchstone_authorization::{
    ChannelPolicy, Enforcer, OfflineLimits, UntrustedAuthorization, VerifiedAuthorization, redecide,
};
use touchstone_evidence::message::Answer;
use touchstone_policies::Location;

use super::attester::AttesterError;
use super::config::{AgentConfig, ConfigError};
use super::desk::Desk;
use super::machine::Machine;
use super::owner::{OwnerGone, TpmOwner};
use super::release::Releases;
use super::round::{self, RoundContext, RoundError};
use super::socket::AgentSocket;
use super::standing::{Attempt, Standing};
use super::state::{StateDir, StateError};
use super::tails::LogPaths;
use crate::client::{BrokerClient, ClientError};
use crate::follow::Follower;
use crate::trust::{DomainTrust, TrustError};
use crate::{clock, schedule};

/// Refusals that mean "say who you are in full": the broker does not know the name alone.
const UNKNOWN_IDENTITY: &[&str] = &["identity-unknown", "session-unknown"];

/// What the agent tells whoever watches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AgentEvent {
    /// The machine's hardware is open and the keys are there.
    Ready {
        /// The attestation key's TPM Name, hexadecimal; of a confidential VM without a TPM, its platform.
        ak_name: String,
    },
    /// An authorization came.
    Granted {
        /// Its length in bytes.
        bytes: usize,
        /// When it ends, Unix seconds.
        until: i64,
        /// How long the round took.
        took_ms: u64,
        /// The node's name in the inventory.
        node: String,
    },
    /// A decision or a refusal went against this node.
    Refused {
        /// Every reason, in words.
        reasons: Vec<String>,
        /// True where a decision was recorded; false for a refusal before one.
        decided: bool,
        /// When the broker received the evidence, its Unix milliseconds; 0 where it did not say.
        received_at_ms: u64,
    },
    /// No answer.
    Unreachable {
        /// Why.
        because: String,
        /// When the next attempt is made.
        retry_ms: u64,
    },
    /// The standing changed.
    Standing {
        /// The new one.
        #[serde(flatten)]
        standing: Standing,
    },
}

/// Why an agent could not start or go on at all. Everything that may heal is retried, not reported here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The TPM.
    #[error(transparent)]
    Attester(#[from] AttesterError),
    /// The TPM's thread.
    #[error(transparent)]
    Owner(#[from] OwnerGone),
    /// The domain's policy or keys.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A file or the socket.
    #[error("{what}: {cause}")]
    Io {
        /// Which.
        what: String,
        /// Why.
        cause: std::io::Error,
    },
}

/// Runs an agent until `shutdown` completes.
///
/// # Errors
/// [`AgentError`] at the start; afterwards failures are retried with backoff and told as events.
pub async fn run(
    config: AgentConfig,
    events: impl Fn(AgentEvent) + Send + Sync + 'static,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let state = StateDir::open(&config.state_dir)?;
    let trust = load(&config, &state).await?;
    let registers = trust.policy.settings.appraisal.session_key_registers.to_wire();
    let for_machine = config.clone();
    let session_registers = registers.clone();
    let kept_state = state.clone();
    let tpm = TpmOwner::start(move || Machine::open(&for_machine, &state, &session_registers)).await??;
    let ak_name = tpm.run(|machine| machine.words()).await?;
    events(AgentEvent::Ready { ak_name });

    let desk = Arc::new(Desk::new(tpm));
    desk.release_from(Releases {
        config: config.clone(),
        state: kept_state.clone(),
    });
    let _socket = match &config.socket {
        None => None,
        Some(path) => Some(
            AgentSocket::bind(path, Arc::clone(&desk)).map_err(|cause| AgentError::Io {
                what: path.display().to_string(),
                cause,
            })?,
        ),
    };
    let _workload_socket = match &config.workloads.socket {
        None => None,
        Some(path) => Some(
            AgentSocket::bind_for_workloads(path, Arc::clone(&desk)).map_err(|cause| AgentError::Io {
                what: path.display().to_string(),
                cause,
            })?,
        ),
    };
    let life = Life {
        config,
        state: kept_state,
        trust,
        seen: None,
        registers,
        desk,
        events,
    };
    tokio::select! {
        result = life.attest_forever() => result,
        () = shutdown => Ok(()),
    }
}

struct Life<E> {
    config: AgentConfig,
    state: StateDir,
    trust: DomainTrust,
    /// The published timestamp when the policy was looked at last.
    seen: Option<Vec<u8>>,
    registers: Vec<(u16, Vec<u8>)>,
    desk: Arc<Desk>,
    events: E,
}

impl<E: Fn(AgentEvent)> Life<E> {
    async fn attest_forever(mut self) -> Result<(), AgentError> {
        let mut client = self.client()?;
        let mut follower = self.follow()?;
        let mut known = false;
        // What went wrong may have been what the broker thinks it has seen of the logs.
        let mut whole = false;
        let mut failures = 0u32;
        loop {
            if self.renew_policy().await {
                (client, follower) = (self.client()?, self.follow()?);
            }
            let started = clock::boot_ms();
            let context = RoundContext {
                domain: self.config.domain.clone(),
                logs: LogPaths {
                    event_log: self.config.tpm.event_log.clone(),
                    ima_list: self.config.tpm.ima_list.clone(),
                    boot_id: self.config.tpm.boot_id.clone(),
                },
                whole,
                known,
                session_registers: self.registers.clone(),
            };
            let outcome = round::attest(&mut client, self.desk.tpm(), &context).await;
            let took_ms = clock::boot_ms().saturating_sub(started);
            let pause_ms = match outcome {
                Ok(answer) => {
                    failures = 0;
                    known = answer.allowed;
                    whole = !answer.allowed;
                    let interval = answer.next_attestation_ms;
                    self.take(answer, took_ms);
                    if !known {
                        // What is bound to registers that have moved must not speak against the next evidence.
                        self.reopen_tpm().await?;
                    }
                    schedule::next_attestation_ms(interval, self.config.schedule, random())
                }
                Err(RoundError::Client(ClientError::Refused { code, .. }))
                    if known && UNKNOWN_IDENTITY.contains(&code.as_str()) =>
                {
                    known = false;
                    0
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    whole |= matches!(&error, RoundError::Client(ClientError::Refused { .. }));
                    let retry_ms = schedule::backoff_ms(failures, random());
                    self.missed(&error, retry_ms);
                    if matches!(&error, RoundError::Attester(error) if error.keys_are_gone()) {
                        self.desk.hold(None);
                        known = false;
                        self.reopen_tpm().await?;
                    }
                    if matches!(error, RoundError::Client(ClientError::NotInKeyset { .. })) {
                        // The broker's keys may have been rotated by a newer policy version.
                        if let Ok(trust) = load(&self.config, &self.state).await {
                            self.trust = trust;
                            (client, follower) = (self.client()?, self.follow()?);
                        }
                    }
                    retry_ms
                }
            };
            self.wait(&mut follower, pause_ms).await;
        }
    }

    /// Looks whether another policy is published, before every attempt, and takes it over. One that cannot be loaded leaves
    /// the one that is held. Whether there is another one now.
    async fn renew_policy(&mut self) -> bool {
        let published = match self.config.repository() {
            Ok(repository) => repository.timestamp().await.ok(),
            Err(_) => None,
        };
        if published.is_none() || published == self.seen {
            return false;
        }
        match load(&self.config, &self.state).await {
            Ok(trust) => {
                // What came from the copy is not what is published: that is looked at again.
                let folder = matches!(self.config.policy, Location::Folder(_));
                if folder || self.state.mirror().timestamp() == published {
                    self.seen = published;
                }
                let another = trust.policy.versions != self.trust.policy.versions;
                self.trust = trust;
                another
            }
            Err(error) => {
                tracing::warn!(target: "touchstone::agent", "the published policy is not taken: {error}");
                false
            }
        }
    }

    /// Opens the TPM anew; a TPM that cannot be had now is tried again at the next attempt.
    async fn reopen_tpm(&self) -> Result<(), AgentError> {
        if let Err(error) = self.desk.tpm().run(Machine::reopen).await? {
            (self.events)(AgentEvent::Unreachable {
                because: error.to_string(),
                retry_ms: 0,
            });
        }
        Ok(())
    }

    /// Waits for the next attempt, watching the trust state and the clock meanwhile.
    async fn wait(&self, follower: &mut Follower, pause_ms: u64) {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(pause_ms);
        let mut views = follower.views();
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => return,
                changed = views.changed() => {
                    if changed.is_err() {
                        tokio::time::sleep_until(deadline).await;
                        return;
                    }
                    self.look_at_trust_state(follower);
                }
                _ = second.tick() => self.shift(|standing| standing.at(clock::wall_seconds())),
            }
        }
    }

    /// Takes an answer: believed only as far as its signatures go.
    fn take(&self, answer: Answer, took_ms: u64) {
        let now = clock::wall_ms();
        let Some(bytes) = answer.authorization.filter(|_| answer.allowed) else {
            let reasons: Vec<String> = answer.reasons.iter().map(ToString::to_string).collect();
            self.desk.hold(None);
            (self.events)(AgentEvent::Refused {
                reasons: reasons.clone(),
                decided: true,
                received_at_ms: answer.received_at_ms,
            });
            self.shift(|standing| standing.after(Attempt::Refused { reasons }, clock::wall_seconds()));
            return;
        };
        let held = self.verified(&bytes, now).and_then(|authorization| {
            self.trust
                .check_recorded(&authorization, &answer.statement, &answer.receipt)?;
            Ok(authorization)
        });
        match held {
            Ok(authorization) => {
                let contents = authorization.contents();
                let until = i64::try_from(contents.expires).unwrap_or(i64::MAX);
                let granted = AgentEvent::Granted {
                    bytes: bytes.len(),
                    until,
                    took_ms,
                    node: contents.subject.clone(),
                };
                // Who is told of it may ask for it at once.
                self.desk.hold(Some(bytes));
                (self.events)(granted);
                self.shift(|standing| standing.after(Attempt::Granted { until }, clock::wall_seconds()));
            }
            Err(because) => {
                // A broker whose signature does not verify under the signed keyset said nothing at all.
                self.shift(|standing| standing.after(Attempt::Unreachable { because }, clock::wall_seconds()));
            }
        }
    }

    fn verified(&self, bytes: &[u8], now_ms: u64) -> Result<VerifiedAuthorization, String> {
        UntrustedAuthorization::parse(bytes)
            .and_then(|token| token.verify(&self.trust.authorization_keys, now_ms))
            .map_err(|error| format!("the authorization does not verify: {error}"))
    }

    fn missed(&self, error: &RoundError, retry_ms: u64) {
        let attempt = match error {
            RoundError::Client(ClientError::Refused {
                code, message, reasons, ..
            }) => {
                let mut reasons = reasons.clone();
                reasons.insert(0, format!("{code}: {message}"));
                (self.events)(AgentEvent::Refused {
                    reasons: reasons.clone(),
                    decided: false,
                    received_at_ms: 0,
                });
                Attempt::Refused { reasons }
            }
            other => {
                let because = other.to_string();
                (self.events)(AgentEvent::Unreachable {
                    because: because.clone(),
                    retry_ms,
                });
                Attempt::Unreachable { because }
            }
        };
        self.shift(|standing| standing.after(attempt, clock::wall_seconds()));
    }

    /// Drops the authorization when the trust state says that it was withdrawn.
    fn look_at_trust_state(&self, follower: &Follower) {
        let (Some(view), Ok(now_ms)) = (follower.view(), follower.clock().now_ms()) else {
            return;
        };
        let Some(bytes) = self.desk.authorization() else { return };
        let Ok(authorization) = self.verified(&bytes, now_ms) else {
            return;
        };
        let timers = &self.trust.policy.settings.timers;
        let enforcer = Enforcer {
            id: &self.config.domain,
            domain: &self.config.domain,
            keys: &self.trust.authorization_keys,
            skew_ms: timers.skew_ms,
            window_ms: timers.freshness_window_ms,
            requires_channel: ChannelPolicy::Challenge,
            region: None,
            purpose: None,
            offline: OfflineLimits::NONE,
        };
        if let Err(refusals) = redecide(&authorization.into(), Some(&view), &enforcer, now_ms) {
            let because = refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            self.desk.hold(None);
            self.shift(|standing| standing.withdrawn(because));
        }
    }

    fn shift(&self, change: impl FnOnce(Standing) -> Standing) {
        let (standing, changed) = self.desk.change(change);
        if changed {
            (self.events)(AgentEvent::Standing { standing });
        }
    }

    fn client(&self) -> Result<BrokerClient, AgentError> {
        Ok(self.trust.client(self.config.endpoints()?))
    }

    fn follow(&self) -> Result<Follower, AgentError> {
        Ok(self
            .trust
            .follow(self.config.endpoints()?, format!("agent-{}", std::process::id())))
    }
}

/// Loads the domain's policy, never below what was accepted here before, and remembers what it accepted. Of a repository
/// on a server the copy will do where the server is out of reach.
pub(crate) async fn load(config: &AgentConfig, state: &StateDir) -> Result<DomainTrust, AgentError> {
    let floors = state.floors().read().map_err(StateError::from)?;
    let repository = config.repository().map_err(TrustError::from)?;
    let (root, domain, now) = (&config.policy_root, &config.domain, clock::wall_seconds());
    let trust = match repository.location() {
        Location::Folder(_) => DomainTrust::load_above(&repository, root, domain, now, floors).await?,
        Location::Url(_) => DomainTrust::load_mirrored(&repository, state.mirror(), root, domain, now, floors).await?,
    };
    state.floors().raise(&trust.policy.versions).map_err(StateError::from)?;
    Ok(trust)
}

fn random() -> u64 {
    getrandom::u64().unwrap_or(0)
}
