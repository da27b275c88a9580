//! Nodes that are confidential VMs: a simulated SEV-SNP guest under the agent's own code, alone or beside a software TPM.
#![expect(
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::path::Path;
use std::sync::Arc;

use touchstone_attest::agent::attester::{Attester, AttesterError};
use touchstone_attest::agent::config::{AgentConfig, TeeConfig, TpmConfig};
use touchstone_attest::agent::cvm::Cvm;
use touchstone_attest::agent::desk::Desk;
use touchstone_attest::agent::machine::Machine;
use touchstone_attest::agent::owner::TpmOwner;
use touchstone_attest::agent::release::Releases;
use touchstone_attest::agent::round::{self, RoundContext, RoundError};
use touchstone_attest::agent::state::StateDir;
use touchstone_attest::agent::tails::LogPaths;
use touchstone_attest::client::{BrokerClient, ClientError};
use touchstone_evidence::message::{Answer, Challenge, Hello, Submission};
use touchstone_policies::{self as policies, Purpose};
use touchstone_simulated_platform::{EmulatedTsm, Guest, Line, Platform, field};
use touchstone_verifier::corim::MachineReference;
use touchstone_verifier::snp::reference::{GuestPolicyBits, SnpReference, TcbFloors};
use touchstone_verifier::snp::{Product, Tcb};

use crate::boots::Boot;
use crate::domain::{Domain, NAME, REGION, unlocked};
use crate::machine::session_registers;
use crate::node::{FIRST_BOOT, proof};
use crate::swtpm::Swtpm;

/// The measurement of a simulated guest, as it is made.
pub const MEASUREMENT: [u8; 48] = [0x3E; 48];

/// Simulated chips under one root, in the order of `chips`: each id is one byte, repeated.
///
/// # Panics
/// When they cannot be made.
#[must_use]
pub fn platforms(line: Line, chips: &[u8]) -> Vec<Platform> {
    let shapes: Vec<_> = chips.iter().map(|chip| line.vek(*chip)).collect();
    Platform::under_one_root(&shapes).expect("a simulated authority")
}

/// How the inventory lists the chip whose id is made of `chip`, and of its guests the one with these host data.
#[must_use]
pub fn listed(line: Line, chip: u8, host_data: Option<u8>) -> String {
    let id = hex::encode(vec![chip; line.chip_id_len()]);
    match host_data {
        None => format!("snp:{id}"),
        Some(data) => format!("snp:{id}/host-data:{}", hex::encode([data; 32])),
    }
}

/// Stages the simulated root as a trust anchor for SEV-SNP.
///
/// # Panics
/// When it is refused.
pub fn stage_root(repo: &Path, platform: &Platform) {
    let folder = tempfile::tempdir().expect("a folder");
    platform.write(folder.path()).expect("written");
    let root = [folder.path().join("ark.pem")];
    unlocked(|| policies::trust_add(repo, Purpose::Snp, &root)).expect("a trust anchor");
}

/// Stages a node that is these confidential VMs, and has the TPM of `boot` where one is given.
///
/// # Panics
/// When it cannot be written.
pub fn stage_node(repo: &Path, name: &str, platforms: &[String], boot: Option<&Boot>) {
    let path = repo.join(format!("staged/nodes/{name}.json"));
    if let Some(boot) = boot {
        crate::domain::add_node(repo, name, boot).expect("a node");
    }
    let mut node: serde_json::Map<String, serde_json::Value> = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).expect("a node"),
        Err(_) => [
            ("name", name.into()),
            ("region", REGION.into()),
            ("zone", "a".into()),
            ("roles", vec!["worker"].into()),
        ]
        .map(|(key, value): (&str, serde_json::Value)| (key.to_owned(), value))
        .into_iter()
        .collect(),
    };
    node.insert("platforms".into(), platforms.into());
    std::fs::create_dir_all(repo.join("staged/nodes")).expect("a folder");
    std::fs::write(&path, serde_json::to_vec(&node).expect("JSON")).expect("written");
}

/// Stages a reference of the guest as it is made: its measurement, its launch policy, its security versions as floors.
///
/// # Panics
/// When it cannot be written.
pub fn stage_reference(repo: &Path, name: &str, line: Line) {
    let product = match line {
        Line::Milan => Product::Milan,
        Line::Genoa => Product::Genoa,
        Line::Turin => Product::Turin,
    };
    let floor = Tcb::parse(line.tcb(), product).ok();
    let snp = SnpReference {
        product: Some(product),
        policy: Some(GuestPolicyBits {
            value: 0x3_0000,
            mask: u64::MAX,
        }),
        vmpl: Some(0),
        floors: TcbFloors {
            reported: floor,
            committed: floor,
            launch: floor,
            current: floor,
        },
        ..SnpReference::of_measurement(MEASUREMENT)
    };
    let reference = MachineReference {
        name: name.to_owned(),
        banks: std::collections::BTreeMap::new(),
        files: Vec::new(),
        snp: Some(snp),
        tdx: None,
        gpus: Vec::new(),
        not_before: None,
        not_after: None,
    };
    let unsigned = reference.to_corim_unsigned().expect("a CoRIM");
    std::fs::create_dir_all(repo.join("staged/references")).expect("a folder");
    std::fs::write(repo.join(format!("staged/references/{name}.corim")), unsigned).expect("written");
}

/// A guest on `platform` with these host data.
#[must_use]
pub fn guest(platform: Platform, line: Line, chip: u8, host_data: Option<u8>) -> Guest {
    let mut guest = Guest::on(platform, line, chip);
    if let Some(data) = host_data {
        guest.set(field::HOST_DATA, &[data; 32]);
    }
    guest
}

/// A node that is a simulated confidential VM.
pub struct CvmNode {
    /// The platform under it: what its reports say can be changed.
    pub tsm: Arc<EmulatedTsm>,
    /// Its TPM, where it has one.
    pub swtpm: Option<Arc<Swtpm>>,
    machine: TpmOwner,
    context: RoundContext,
    folder: tempfile::TempDir,
}

impl CvmNode {
    /// A guest, with the TPM of a recorded boot beside it where one is given.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(guest: Guest, tpm_of: Option<&Boot>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let tsm = EmulatedTsm::start(&path("tsm"), guest).expect("an emulated interface");
        let tee = TeeConfig::configfs(tsm.path());
        let swtpm = tpm_of.map(|boot| Arc::new(Swtpm::from_boot(boot, &Boot::GOOD).expect("a software TPM")));
        std::fs::write(path("boot-id"), FIRST_BOOT).expect("written");
        let tpm = swtpm.as_ref().map(|swtpm| TpmConfig {
            tcti: swtpm.tcti(),
            ..TpmConfig::default()
        });
        let state = path("agent");
        let open = move || {
            let cvm = Cvm::open(&tee, "")?;
            Ok(match tpm {
                None => Machine::from(cvm),
                Some(tpm) => {
                    let attester = Attester::open(&tpm, &StateDir::open(&state)?, &session_registers())?;
                    Machine::from((attester, cvm))
                }
            })
        };
        let machine = TpmOwner::start(open).await.expect("a thread").expect("a machine");
        let context = RoundContext {
            domain: NAME.into(),
            logs: LogPaths {
                event_log: Boot::GOOD.path("eventlog.bin"),
                ima_list: path("ima-list"),
                boot_id: path("boot-id"),
            },
            whole: false,
            known: false,
            session_registers: session_registers(),
        };
        Self {
            tsm: Arc::new(tsm),
            swtpm,
            machine,
            context,
            folder,
        }
    }

    /// One round as the agent makes it.
    ///
    /// # Errors
    /// [`RoundError`]
    pub async fn attest(&mut self, client: &mut BrokerClient) -> Result<Answer, RoundError> {
        let answer = round::attest(client, &self.machine, &self.context).await?;
        self.context.known = answer.allowed;
        Ok(answer)
    }

    /// The codes of a round that the broker refused before it decided.
    ///
    /// # Panics
    /// When it decided, or nothing came.
    pub async fn refused(&mut self, client: &mut BrokerClient) -> (String, Vec<String>) {
        match self.attest(client).await {
            Err(RoundError::Client(ClientError::Refused { code, reasons, .. })) => (code, reasons),
            other => panic_with(&format!("{other:?}")),
        }
    }

    /// What it says of itself.
    ///
    /// # Panics
    /// When its thread is gone.
    pub async fn hello(&self) -> Hello {
        let known = self.context.known;
        let hello = self.machine.run(move |machine| machine.hello(known, None)).await;
        hello.expect("the machine's thread")
    }

    /// Its evidence for a challenge over the connection with this exporter value.
    ///
    /// # Panics
    /// When it gives none.
    pub async fn evidence(&self, challenge: &Challenge, exporter: [u8; 32]) -> Submission {
        let (challenge, logs, known) = (challenge.clone(), self.context.logs.clone(), self.context.known);
        let answer = move |machine: &mut Machine| {
            let mut answer = || machine.answer(NAME, &logs, known, &challenge, exporter);
            match answer() {
                Err(RoundError::Attester(AttesterError::PlatformChanged)) => answer(),
                other => other,
            }
        };
        self.machine
            .run(answer)
            .await
            .expect("the machine's thread")
            .expect("evidence")
    }

    /// The desk at which this guest's keys are fetched, holding this authorization.
    ///
    /// # Panics
    /// When its configuration cannot be written.
    pub fn desk(&self, domain: &Domain, authorization: Vec<u8>) -> Desk {
        let path = |name: &str| self.folder.path().join(name);
        let text = format!(
            "brokers = [\"https://{}\"]\ndomain = {NAME:?}\npolicy = {:?}\npolicy_root = {:?}\nstate_dir = {:?}\n",
            domain.address(),
            domain.path("policy"),
            domain.path("root.json"),
            path("agent"),
        );
        std::fs::write(path("agent.toml"), text).expect("written");
        let desk = Desk::new(self.machine.clone());
        desk.hold(Some(authorization));
        desk.release_from(Releases {
            config: AgentConfig::load(&path("agent.toml")).expect("a configuration"),
            state: StateDir::open(&path("agent")).expect("a folder"),
        });
        desk
    }

    /// A proof that the session key is here.
    ///
    /// # Panics
    /// When it does not sign.
    pub async fn prove(&self, authorization: &[u8], audience: &str, challenge: &[u8]) -> Vec<u8> {
        let proof = proof(authorization, audience, challenge);
        let signed = self.machine.run(move |machine| proof.encode_signed(&*machine.signer()));
        signed.await.expect("the machine's thread").expect("a proof")
    }
}

#[expect(clippy::panic, reason = "test support: what is not as it must be fails the test")]
fn panic_with(what: &str) -> ! {
    panic!("expected a refusal, found {what}")
}
