//! A node with the agent's own code: attester, TPM thread, rounds, proofs of possession.
#![expect(
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use touchstone_attest::agent::attester::Attester;
use touchstone_attest::agent::config::{AgentConfig, AttestationKeyKind, TpmConfig};
use touchstone_attest::agent::desk::Desk;
use touchstone_attest::agent::machine::Machine;
use touchstone_attest::agent::owner::TpmOwner;
use touchstone_attest::agent::release::Releases;
use touchstone_attest::agent::round::{self, RoundContext, RoundError};
use touchstone_attest::agent::state::StateDir;
use touchstone_attest::agent::tails::LogPaths;
use touchstone_attest::client::{BrokerClient, ClientError};
use touchstone_attest::clock;
use touchstone_authorization::{Channel, Proof, Scope};
use touchstone_evidence::message::Answer;

use crate::boots::Boot;
use crate::domain::{ACTION, Domain, NAME, RESOURCE};
use crate::machine::session_registers;
use crate::swtpm::Swtpm;

/// The boot a node is in at first.
pub const FIRST_BOOT: &str = "00000000-0000-4000-8000-000000000001\n";

/// A node: software TPM, state folder, and the agent's parts.
pub struct Node {
    /// Its TPM from outside.
    pub swtpm: Arc<Swtpm>,
    state: Arc<tempfile::TempDir>,
    tpm: TpmOwner,
    context: RoundContext,
}

impl Node {
    /// A node with the TPM of a recorded boot, in the state after `good` ran.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(state_of: &Boot) -> Self {
        let swtpm = Swtpm::from_boot(state_of, &Boot::GOOD).expect("a software TPM");
        let state = tempfile::tempdir().expect("a folder");
        Self::open(Arc::new(swtpm), Arc::new(state)).await
    }

    /// The agent started anew on the same machine: what it kept on disk is all it knows.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub async fn restarted(self) -> Self {
        let Self { swtpm, state, tpm, .. } = self;
        // The thread ends with its last handle, and lets go of the TPM.
        drop(tpm);
        Self::open(swtpm, state).await
    }

    async fn open(swtpm: Arc<Swtpm>, state: Arc<tempfile::TempDir>) -> Self {
        let logs = LogPaths {
            event_log: Boot::GOOD.path("eventlog.bin"),
            ima_list: state.path().join("ima-list"),
            boot_id: state.path().join("boot-id"),
        };
        if !logs.boot_id.exists() {
            std::fs::write(&logs.boot_id, FIRST_BOOT).expect("written");
        }
        let config = TpmConfig {
            tcti: swtpm.tcti(),
            attestation_key: AttestationKeyKind::Ecc,
            ..TpmConfig::default()
        };
        let folder: PathBuf = state.path().join("agent");
        let open = move || Attester::open(&config, &StateDir::open(&folder)?, &session_registers());
        let tpm = TpmOwner::start(open).await.expect("a thread").expect("a TPM");
        let context = RoundContext {
            domain: NAME.into(),
            logs,
            whole: false,
            known: false,
            session_registers: session_registers(),
        };
        Self {
            swtpm,
            state,
            tpm,
            context,
        }
    }

    /// Forgets that the broker knows it: the next hello is a full one.
    pub fn forget(&mut self) {
        self.context.known = false;
    }

    /// One round as the agent makes it; after an answer that allows, the next hello names the attestation key alone, and
    /// only what is new of the logs is sent.
    ///
    /// # Errors
    /// [`RoundError`]
    pub async fn attest(&mut self, client: &mut BrokerClient) -> Result<Answer, RoundError> {
        let outcome = round::attest(client, &self.tpm, &self.context).await;
        self.context.whole = match &outcome {
            Ok(answer) => !answer.allowed,
            Err(error) => self.context.whole || matches!(error, RoundError::Client(ClientError::Refused { .. })),
        };
        let answer = outcome?;
        self.context.known = answer.allowed;
        Ok(answer)
    }

    /// Puts these bytes where the kernel shows IMA's list.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn shows_list(&self, list: &[u8]) {
        std::fs::write(&self.context.logs.ima_list, list).expect("written");
    }

    /// Another boot id, as after a reboot.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn boots_anew(&self, id: &str) {
        std::fs::write(&self.context.logs.boot_id, id).expect("written");
    }

    /// Runs `job` on the thread that owns the TPM.
    ///
    /// # Panics
    /// When that thread is gone.
    pub async fn run<R: Send + 'static>(&self, job: impl FnOnce(&mut Attester) -> R + Send + 'static) -> R {
        let with_tpm = move |machine: &mut Machine| job(machine.tpm_mut().expect("a node with a TPM"));
        self.tpm.run(with_tpm).await.expect("the TPM's thread")
    }

    /// The desk at which this node's keys are fetched, holding this authorization.
    pub fn desk(&self, domain: &Domain, authorization: Vec<u8>) -> Desk {
        self.desk_with(domain, authorization, "")
    }

    /// The same with more tables in the agent's configuration.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn desk_with(&self, domain: &Domain, authorization: Vec<u8>, more: &str) -> Desk {
        let file = self.state.path().join("agent.toml");
        let text = format!(
            "brokers = [\"https://{}\"]\ndomain = {NAME:?}\npolicy = {:?}\npolicy_root = {:?}\nstate_dir = {:?}\nsocket = {:?}\n[tpm]\ntcti = {:?}\nevent_log = {:?}\nima_list = {:?}\nboot_id = {:?}\n{more}",
            domain.address(),
            domain.path("policy"),
            domain.path("root.json"),
            self.state.path().join("agent"),
            self.socket(),
            self.swtpm.tcti(),
            self.context.logs.event_log,
            self.context.logs.ima_list,
            self.context.logs.boot_id,
        );
        std::fs::write(&file, text).expect("written");
        let desk = Desk::new(self.tpm.clone());
        desk.hold(Some(authorization));
        desk.release_from(Releases {
            config: AgentConfig::load(&file).expect("a configuration"),
            state: StateDir::open(&self.state.path().join("agent")).expect("a folder"),
        });
        desk
    }

    /// The thread that owns the TPM.
    #[must_use]
    pub const fn tpm(&self) -> &TpmOwner {
        &self.tpm
    }

    /// A proof for any scope at the guard `audience`.
    ///
    /// # Panics
    /// When the TPM does not sign.
    pub async fn prove_for(&self, authorization: &[u8], audience: &str, challenge: &[u8], scope: &str) -> Vec<u8> {
        let proof = Proof {
            scope: Scope::parse(scope).expect("a scope"),
            ..proof(authorization, audience, challenge)
        };
        self.tpm
            .run(move |machine| proof.encode_signed(&*machine.signer()))
            .await
            .expect("the TPM's thread")
            .expect("a proof")
    }

    /// Where an agent of this node's configuration has its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.state.path().join("agent.sock")
    }

    /// The configuration that [`Node::desk`] wrote; the TPM's thread of this node ends, so that an agent can have it.
    #[must_use]
    pub fn into_agent(self) -> (AgentConfig, Arc<Swtpm>, Arc<tempfile::TempDir>) {
        let config = AgentConfig::load(&self.state.path().join("agent.toml")).expect("a configuration");
        (config, self.swtpm, self.state)
    }

    /// TPM Name of its attestation key.
    pub async fn ak_name(&self) -> Vec<u8> {
        self.run(|attester| attester.attestation_key().name().to_vec()).await
    }

    /// A proof that the session key is here, for [`ACTION`] on [`RESOURCE`] at the guard `audience`.
    ///
    /// # Panics
    /// When the TPM does not sign.
    pub async fn prove(&self, authorization: &[u8], audience: &str, challenge: &[u8]) -> Vec<u8> {
        let proof = proof(authorization, audience, challenge);
        self.tpm
            .run(move |machine| proof.encode_signed(&*machine.signer()))
            .await
            .expect("the TPM's thread")
            .expect("a proof")
    }
}

/// The contents of an honest proof.
///
/// # Panics
/// When the machine has no randomness.
#[must_use]
pub fn proof(authorization: &[u8], audience: &str, challenge: &[u8]) -> Proof {
    let id = touchstone_keybroker::session::random().expect("randomness");
    Proof {
        audience: audience.into(),
        issued_at: clock::wall_ms() / 1000,
        cti: id,
        authorization_digest: Sha256::digest(authorization).into(),
        scope: Scope::parse(&format!("{ACTION}:{RESOURCE}")).expect("a scope"),
        request_digest: None,
        channel: Channel::Challenge(challenge.to_vec()),
    }
}
