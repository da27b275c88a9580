//! The course of a bootstrap: attest, see which disk is this node's, fetch its key, measure its volume key, open it, end
//! the phase. What may heal is tried again with backoff; the phase is ended however it ends, so that whatever the
//! initramfs does next (a shell, perhaps) gets no key in this boot.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use serde::Serialize;
use touchstone_authorization::{Action, Scope, UntrustedAuthorization, VerifiedAuthorization};
use touchstone_evidence::message::Answer;
use touchstone_policies::Mirror;
use touchstone_verifier::bootstrap::{DONE, REGISTER};
use touchstone_verifier::inventory::{self, Lookup};
use touchstone_verifier::tpm::HashAlg;
use zeroize::Zeroizing;

use super::config::repository;
use super::fetch::{self, FetchError};
use super::volume::{self, Volume, VolumeCode, VolumeError, VolumeKey};
use crate::agent::attester::Attester;
use crate::agent::config::AgentConfig;
use crate::agent::load;
use crate::agent::machine::Machine;
use crate::agent::owner::TpmOwner;
use crate::agent::round::{self, RoundContext, RoundError};
use crate::agent::state::StateDir;
use crate::agent::tails::LogPaths;
use crate::client::{BrokerClient, ClientError};
use crate::tpm::{Tpm, TpmError};
use crate::trust::DomainTrust;
use crate::{clock, schedule};

/// Reasons of the broker that no later attempt in this boot changes.
const FOR_THIS_BOOT: [&str; 2] = ["bootstrap-done", "bootstrap-phase-over"];
/// Longest pause after a refusal: each one is a decision on record, and what it is for takes a person to mend.
const MAX_REFUSED_PAUSE_MS: u64 = 60_000;

/// What a bootstrap tells whoever watches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BootstrapEvent {
    /// The broker lets this node have its disk's key.
    Granted {
        /// The node's name in the inventory.
        node: String,
    },
    /// The node's disk was found, and its header is acceptable.
    Found {
        /// The disk.
        device: String,
        /// Its LUKS2 UUID.
        luks_uuid: String,
    },
    /// A refusal, of the broker or of the node itself.
    Refused {
        /// Every reason, in words.
        reasons: Vec<String>,
        /// When it is tried again; none where that would not help in this boot.
        retry_ms: Option<u64>,
    },
    /// Something does not answer, or is not there yet.
    Waiting {
        /// For what.
        because: String,
        /// When it is tried again.
        retry_ms: u64,
    },
    /// The disk is open.
    Opened {
        /// As what: `/dev/mapper/NAME`.
        volume: String,
        /// Milliseconds since the start.
        took_ms: u64,
    },
    /// The phase could not be ended: the TPM does not answer.
    NotEnded {
        /// Why.
        because: String,
    },
}

/// How a bootstrap ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The disk is open.
    Opened,
    /// It was refused for as long as this boot lasts.
    Refused,
    /// The time that the configuration gives it is over.
    GaveUp,
    /// It was told to stop.
    Stopped,
}

/// Why an attempt did not end it.
enum Trouble {
    /// Told as a refusal, and tried again after this pause where there is one.
    Refused(Vec<String>, Option<u64>),
    /// Told as something waited for.
    Waiting(String),
    /// It will be refused in this boot.
    Final(Vec<String>),
}

/// Opens this node's disk.
///
/// Whatever the ending, register 15 holds the mark of a finished bootstrap afterwards, unless the TPM does not answer
/// ([`BootstrapEvent::NotEnded`]): no disk key leaves for this boot any more.
pub async fn run(config: AgentConfig, events: impl Fn(BootstrapEvent), stop: impl Future<Output = ()>) -> Ending {
    let patience = config.bootstrap.patience();
    let mut life = Life {
        config,
        events,
        tpm: None,
        client: None,
        measured: false,
        started: clock::boot_ms(),
    };
    let patience = async {
        match patience {
            Some(patience) => tokio::time::sleep(patience).await,
            None => std::future::pending().await,
        }
    };
    let ending = tokio::select! {
        ending = life.until_ended() => ending,
        () = stop => Ending::Stopped,
        () = patience => Ending::GaveUp,
    };
    life.end_phase().await;
    ending
}

struct Life<E> {
    config: AgentConfig,
    events: E,
    tpm: Option<TpmOwner>,
    /// The connection, and the version of the policy that it was made under.
    client: Option<(u64, BrokerClient)>,
    /// Whether this process has measured a volume key.
    measured: bool,
    started: u64,
}

impl<E: Fn(BootstrapEvent)> Life<E> {
    async fn until_ended(&mut self) -> Ending {
        let mut failures = 0u32;
        loop {
            let trouble = match self.attempt().await {
                Ok(()) => return Ending::Opened,
                Err(trouble) => trouble,
            };
            failures = failures.saturating_add(1);
            let backoff = schedule::backoff_ms(failures, getrandom::u64().unwrap_or(0));
            let pause = match trouble {
                Trouble::Refused(reasons, pause) => {
                    let retry_ms = pause.map_or(backoff, |pause| pause.clamp(backoff, MAX_REFUSED_PAUSE_MS));
                    self.tell(BootstrapEvent::Refused {
                        reasons,
                        retry_ms: Some(retry_ms),
                    });
                    retry_ms
                }
                Trouble::Waiting(because) => {
                    self.tell(BootstrapEvent::Waiting {
                        because,
                        retry_ms: backoff,
                    });
                    backoff
                }
                Trouble::Final(reasons) => {
                    self.tell(BootstrapEvent::Refused {
                        reasons,
                        retry_ms: None,
                    });
                    return Ending::Refused;
                }
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn attempt(&mut self) -> Result<(), Trouble> {
        let state = StateDir::open(&self.config.state_dir).map_err(waiting)?;
        self.copy_policy(&state).await?;
        let trust = load(&self.config, &state).await.map_err(waiting)?;
        let tpm = self.open_tpm(&state, &trust).await?;
        // Kept from attempt to attempt: it goes on with the next broker of the list where one fails.
        let version = trust.policy.version;
        let mut client = match self.client.take() {
            Some((of, client)) if of == version => client,
            // Its keys are those of the policy.
            _ => trust.client(self.config.endpoints().map_err(waiting)?),
        };
        let outcome = self.with_client(&mut client, &tpm, &trust).await;
        self.client = Some((version, client));
        outcome
    }

    async fn with_client(
        &mut self,
        client: &mut BrokerClient,
        tpm: &TpmOwner,
        trust: &DomainTrust,
    ) -> Result<(), Trouble> {
        let (token, authorization) = self.attest(client, tpm, trust).await?;
        let node = authorization.contents().subject.clone();
        self.tell(BootstrapEvent::Granted { node: node.clone() });
        let expected = match trust.policy.inventory.by_name(&node) {
            Lookup::Node(inventory::Node {
                volume: Some(volume), ..
            }) => volume.clone(),
            _ => return Err(Trouble::Waiting(format!("the inventory names no disk for {node}"))),
        };
        let disk = self.find(&expected.luks_uuid).await?;
        let scope = bootstrap_scope(&authorization).ok_or_else(|| Trouble::Waiting("no bootstrap scope".into()))?;
        let passphrase = fetch::disk_key(client, tpm, trust, (&node, &token, scope))
            .await
            .map_err(|error| match error {
                FetchError::Refused(reasons) => Trouble::Refused(reasons, None),
                other => waiting(other),
            })?;
        let (disk, key) = blocking(move || unlock(disk, &passphrase)).await??;
        self.check_and_measure(tpm, &expected, &disk, &key).await?;
        let name = self.config.bootstrap.name.clone();
        let opened = blocking({
            let name = name.clone();
            move || disk.open(&key, &name).map_err(trouble)
        });
        // The volume key is measured: there is no second attempt in this boot.
        opened.await?.map_err(|trouble| match trouble {
            Trouble::Refused(reasons, _) => Trouble::Final(reasons),
            other => other,
        })?;
        self.tell(BootstrapEvent::Opened {
            volume: format!("/dev/mapper/{name}"),
            took_ms: clock::boot_ms().saturating_sub(self.started),
        });
        Ok(())
    }

    /// The TPM with its keys; opened once, and anew where an attempt before found that they are gone.
    /// Copies the policy repository from where it is served into the folder that is read, whole and verified or not at
    /// all. Where the server is out of reach, the copy of an earlier attempt is read.
    async fn copy_policy(&self, state: &StateDir) -> Result<(), Trouble> {
        let url = self.config.bootstrap.policy_url.as_deref();
        let (Some(place), Some(folder)) = (url.and_then(repository), self.config.policy.folder()) else {
            return Ok(());
        };
        let floors = state.floors().read().map_err(waiting)?;
        let (root, domain, now) = (&self.config.policy_root, &self.config.domain, clock::wall_seconds());
        let mirror = Mirror::new(folder);
        let copied = DomainTrust::load_mirrored(&place.into(), &mirror, root, domain, now, floors).await;
        copied.map(|_| ()).map_err(waiting)
    }

    async fn open_tpm(&mut self, state: &StateDir, trust: &DomainTrust) -> Result<TpmOwner, Trouble> {
        if let Some(tpm) = &self.tpm {
            return Ok(tpm.clone());
        }
        let registers = trust.policy.settings.appraisal.session_key_registers.to_wire();
        let (config, state) = (self.config.clone(), state.clone());
        let tpm = TpmOwner::start(move || Machine::open(&config, &state, &registers)).await;
        let tpm = tpm.map_err(waiting)?.map_err(waiting)?;
        self.tpm = Some(tpm.clone());
        Ok(tpm)
    }

    /// One round: the authorization, where it grants bootstrap.
    async fn attest(
        &mut self,
        client: &mut BrokerClient,
        tpm: &TpmOwner,
        trust: &DomainTrust,
    ) -> Result<(Vec<u8>, VerifiedAuthorization), Trouble> {
        let context = RoundContext {
            domain: self.config.domain.clone(),
            logs: LogPaths {
                event_log: self.config.tpm.event_log.clone(),
                ima_list: self.config.tpm.ima_list.clone(),
                boot_id: self.config.tpm.boot_id.clone(),
            },
            whole: true,
            known: false,
            session_registers: trust.policy.settings.appraisal.session_key_registers.to_wire(),
        };
        let answer = match round::attest(client, tpm, &context).await {
            Ok(answer) => answer,
            Err(error) => {
                if matches!(&error, RoundError::Attester(error) if error.keys_are_gone()) {
                    self.tpm = None;
                }
                return Err(match error {
                    RoundError::Client(ClientError::Refused {
                        code,
                        message,
                        mut reasons,
                        ..
                    }) => {
                        reasons.insert(0, format!("{code}: {message}"));
                        Trouble::Refused(reasons, None)
                    }
                    other => waiting(other),
                });
            }
        };
        let verified = verified(&answer, trust)?;
        match verified {
            Some((token, authorization)) if bootstrap_scope(&authorization).is_some() => Ok((token, authorization)),
            _ => {
                // Session keys bound to registers that have moved must not speak against the next evidence.
                self.tpm = None;
                Err(refused(&answer))
            }
        }
    }

    /// The disk of the inventory, with a checked copy of its header.
    async fn find(&self, uuid: &str) -> Result<Volume, Trouble> {
        let (uuid, config) = (uuid.to_owned(), self.config.bootstrap.clone());
        let folder = self.config.state_dir.clone();
        let disk = blocking(move || {
            let device = volume::find(&uuid, config.device.as_deref())?;
            let disk = Volume::read(&config.cryptsetup, &device, &folder)?;
            if disk.uuid() == uuid {
                Ok((disk, device))
            } else {
                let found = disk.uuid().to_owned();
                Err(VolumeError::OtherUuid {
                    device,
                    expected: uuid,
                    found,
                })
            }
        });
        let (disk, device) = disk.await?.map_err(trouble)?;
        self.tell(BootstrapEvent::Found {
            device: device.display().to_string(),
            luks_uuid: disk.uuid().to_owned(),
        });
        Ok(disk)
    }

    /// Compares what the volume key will make of register 15 with the inventory, and only then measures it.
    async fn check_and_measure(
        &mut self,
        tpm: &TpmOwner,
        expected: &touchstone_verifier::bootstrap::Volume,
        disk: &Volume,
        key: &VolumeKey,
    ) -> Result<(), Trouble> {
        let (name, uuid) = (self.config.bootstrap.name.clone(), disk.uuid().to_owned());
        let Some(bank) = expected.bank() else {
            return Err(Trouble::Waiting(
                "the inventory's value of register 15 is of no bank".into(),
            ));
        };
        let found = key.register(bank, &name, &uuid);
        if found != expected.register {
            let (expected, found) = (hex::encode(&expected.register), hex::encode(found));
            let claim = format!("volume {name} {uuid}");
            return Err(Trouble::Final(vec![reason(
                VolumeCode::Other,
                &claim,
                &expected,
                &found,
            )]));
        }
        let digests = HashAlg::ALL.map(|bank| (bank, key.digest(bank, &name, &uuid)));
        self.measured = true;
        let register = tpm
            .run(move |machine| {
                let attester = tpm_of(machine)?;
                let digest = |bank| {
                    digests
                        .iter()
                        .find(|(of, _)| *of == bank)
                        .map(|(_, digest)| digest.clone())
                };
                let extended = attester.extend(REGISTER, |bank| digest(bank).unwrap_or_default());
                let register = extended.and_then(|()| attester.register(REGISTER));
                register.map_err(|error| error.to_string())
            })
            .await
            .map_err(waiting)?
            .map_err(|error| Trouble::Final(vec![error]))?;
        let value = register.get(&bank).cloned().unwrap_or_default();
        if value == expected.register {
            return Ok(());
        }
        let (expected, found) = (hex::encode(&expected.register), hex::encode(value));
        let words = reason(VolumeCode::RegisterOther, "PCR 15", &expected, &found);
        Err(Trouble::Final(vec![words]))
    }

    /// Measures the mark, unless it is there: nothing else was measured by us into a register that is no longer zero.
    async fn end_phase(&mut self) {
        let measured = self.measured;
        let ended = match self.tpm.take() {
            Some(tpm) => {
                let end = move |machine: &mut Machine| {
                    let attester = tpm_of(machine)?;
                    let register = attester.register(REGISTER).map_err(|error| error.to_string())?;
                    if measured || is_untouched(&register) {
                        attester.extend(REGISTER, mark).map_err(|error| error.to_string())?;
                    }
                    Ok(())
                };
                tpm.run(end).await.unwrap_or_else(|gone| Err(gone.to_string()))
            }
            None => {
                let tcti = self.config.tpm.tcti.clone();
                match tokio::task::spawn_blocking(move || end_phase(&tcti)).await {
                    Ok(ended) => ended.map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                }
            }
        };
        if let Err(because) = ended {
            self.tell(BootstrapEvent::NotEnded { because });
        }
    }

    fn tell(&self, event: BootstrapEvent) {
        (self.events)(event);
    }
}

/// Ends the phase without keys of ours: where register 15 is untouched, the mark is measured into it.
///
/// # Errors
/// [`TpmError`].
pub fn end_phase(tcti: &str) -> Result<(), TpmError> {
    let mut tpm = Tpm::open(tcti)?;
    let ek = tpm.best_endorsement_key()?;
    if is_untouched(&tpm.register(REGISTER)?) {
        tpm.extend(&ek, REGISTER, mark)?;
    }
    Ok(())
}

/// Register 15 is a TPM's: a confidential VM without one has no phase that could end.
fn tpm_of(machine: &mut Machine) -> Result<&mut Attester, String> {
    let missing = "a disk key is bound to register 15, and this machine has no TPM: set tee.with_tpm";
    machine.tpm_mut().ok_or_else(|| missing.to_owned())
}

fn mark(bank: HashAlg) -> Vec<u8> {
    bank.digest([DONE]).as_ref().to_vec()
}

fn is_untouched(register: &BTreeMap<HashAlg, Vec<u8>>) -> bool {
    register.values().any(|value| value.iter().all(|byte| *byte == 0))
}

/// The volume key by the passphrase, which is wiped with the end of this.
fn unlock(disk: Volume, passphrase: &Zeroizing<Vec<u8>>) -> Result<(Volume, VolumeKey), Trouble> {
    let key = disk.key(passphrase).map_err(trouble)?;
    Ok((disk, key))
}

/// The authorization of an answer, as far as signatures, statement and receipt go; nothing where it is a denial.
fn verified(answer: &Answer, trust: &DomainTrust) -> Result<Option<(Vec<u8>, VerifiedAuthorization)>, Trouble> {
    let Some(bytes) = answer.authorization.as_ref().filter(|_| answer.allowed) else {
        return Ok(None);
    };
    let authorization = UntrustedAuthorization::parse(bytes)
        .and_then(|token| token.verify(&trust.authorization_keys, clock::wall_ms()))
        .map_err(|error| Trouble::Waiting(format!("the authorization does not verify: {error}")))?;
    trust
        .check_recorded(&authorization, &answer.statement, &answer.receipt)
        .map_err(Trouble::Waiting)?;
    Ok(Some((bytes.clone(), authorization)))
}

/// The scope that grants it.
fn bootstrap_scope(authorization: &VerifiedAuthorization) -> Option<Scope> {
    let scopes = &authorization.contents().scopes;
    scopes.iter().find(|scope| scope.action() == Action::Bootstrap).cloned()
}

/// A denial, or an authorization without what is needed.
fn refused(answer: &Answer) -> Trouble {
    let mut reasons: Vec<String> = answer.reasons.iter().map(ToString::to_string).collect();
    if answer
        .reasons
        .iter()
        .any(|reason| FOR_THIS_BOOT.contains(&reason.code.as_str()))
    {
        return Trouble::Final(reasons);
    }
    if reasons.is_empty() {
        let words = "nothing-granted (scopes): expected bootstrap among the domain's grants, found none";
        reasons.push(words.into());
    }
    Trouble::Refused(reasons, Some(answer.next_attestation_ms))
}

fn trouble(error: VolumeError) -> Trouble {
    let words = format!("{}: {error}", error.code());
    if error.may_heal() {
        Trouble::Refused(vec![words], None)
    } else {
        Trouble::Final(vec![words])
    }
}

fn reason(code: VolumeCode, claim: &str, expected: &str, found: &str) -> String {
    format!("{code} ({claim}): expected {expected}, found {found}")
}

fn waiting(error: impl std::fmt::Display) -> Trouble {
    Trouble::Waiting(error.to_string())
}

/// Runs what waits for programs and disks on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Trouble> {
    tokio::task::spawn_blocking(work).await.map_err(waiting)
}
