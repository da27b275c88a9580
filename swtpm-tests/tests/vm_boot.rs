//! Genuine boots: a virtual machine with Secure Boot, a TPM and IMA really boots, and the agent in it attests to a broker
//! on the host over the virtual network. `make test-boot`; `docs/src/genuine-boot.md` says what each case proves.
//!
//! One machine is booted several times, one boot after the other: the first boot gives the golden evidence that every
//! case's domain is founded on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use swtpm_tests::domain::{Domain, Founding, NAME, rights};
use swtpm_tests::observe::eventually;
use swtpm_tests::tools;
use swtpm_tests::vm::cpio::Archive;
use swtpm_tests::vm::files::{self, BootFiles};
use swtpm_tests::vm::guest::{BROKER, Guest};
use swtpm_tests::vm::initrd::Purpose;
use swtpm_tests::vm::machine::{COMMAND_LINE, Machine, Setup};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};
use touchstone_authorization::Status;
use touchstone_evidence::collection::Collection;
use touchstone_keybroker::service::RunningBroker;
use touchstone_policies::NodeIdentity;

/// The machine's name in the inventory.
const NODE: &str = "vm-1";
/// Milliseconds between two attestations. A busy machine needs seconds for one round in the guest.
const INTERVAL_MS: u64 = 2_000;

/// The machine all cases boot, and the evidence of its first boot.
struct Golden {
    machine: Machine,
    evidence: Vec<u8>,
}

enum Shared {
    NotYet,
    /// The first boot failed: no case waits for it again.
    Failed,
    Made(Box<Golden>),
}

static MACHINE: Mutex<Shared> = Mutex::const_new(Shared::NotYet);

/// The machine, for one case at a time; `None` after reporting the calling test as skipped.
async fn golden() -> Option<MappedMutexGuard<'static, Golden>> {
    let boot = match BootFiles::find() {
        Ok(boot) => boot,
        Err(because) => {
            touchstone_vectors::skip(&because);
            return None;
        }
    };
    let mut shared = MACHINE.lock().await;
    if matches!(*shared, Shared::NotYet) {
        *shared = Shared::Failed;
        *shared = Shared::Made(Box::new(first_boot(boot).await));
    }
    let made = MutexGuard::try_map(shared, |shared| match shared {
        Shared::Made(golden) => Some(golden.as_mut()),
        Shared::NotYet | Shared::Failed => None,
    });
    Some(made.ok().expect("the golden boot, which another case has seen fail"))
}

/// Boots the machine as it should be and takes its evidence, as an author does on a golden machine.
async fn first_boot(boot: BootFiles) -> Golden {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("genuine-boot");
    let machine = Machine::make(boot, Purpose::Agent, &folder);
    let mut guest = machine.boot(as_it_should_be("golden")).await;
    ready(&mut guest, "golden").await;
    guest.request(&format!("collect {}", "5a".repeat(32))).await;
    let evidence = guest
        .answer("evidence", |line| line.strip_prefix("evidence ").map(str::to_owned))
        .await;
    off(guest, "golden").await;
    let evidence = STANDARD.decode(evidence).expect("base64");
    std::fs::write(folder.join("golden.evidence"), &evidence).unwrap();
    Golden { machine, evidence }
}

fn as_it_should_be(name: &str) -> Setup<'_> {
    Setup {
        name,
        command_line: COMMAND_LINE,
        secure_boot: true,
        broker: None,
        node: None,
        root: None,
    }
}

impl Golden {
    /// A domain that knows this machine and takes its first boot as the reference.
    fn domain(&self) -> Domain {
        let domain = Domain::found(&Founding {
            anchors: &self.machine.maker_certificates(),
            nodes: &[(NODE, NodeIdentity::Evidence(self.evidence.clone()))],
            golden: &self.evidence,
            settings: &[],
            limits: &[],
            stage: &|_| (),
        });
        if computes_initrd_files() {
            // What may run follows from the initramfs, not from what happened to run on the golden machine.
            let mut author = Command::new(files::command());
            author.args(["reference", "compute", "--name", "initramfs", "--initrd-files"]);
            author.arg(self.machine.initrd()).arg(domain.path("policy"));
            tools::run(&mut author, None);
            domain.publish();
        }
        domain
    }
}

/// What an installer puts on a node: the policy repository, the domain's root, the agent's configuration.
fn installed(domain: &Domain) -> Archive {
    let mut archive = Archive::new();
    archive.add_folder(&domain.path("policy"), "/policy");
    archive.file("/root.json", 0o644, files::read(&domain.path("root.json")));
    let config = format!(
        "brokers = [\"https://{BROKER}\"]\ndomain = {NAME:?}\npolicy = \"/run/node/policy\"\n\
         policy_root = \"/run/node/root.json\"\nstate_dir = \"/run/agent\"\n\
         [schedule]\ninterval_ms = {INTERVAL_MS}\n"
    );
    archive.file("/agent.toml", 0o644, config.into_bytes());
    archive
}

/// What the agent in the guest tells.
#[derive(Debug)]
enum Told {
    Granted { node: String },
    Refused { reasons: Vec<String> },
}

fn told(line: &str) -> Option<Told> {
    let event: Value = serde_json::from_str(line).ok()?;
    match event["event"].as_str()? {
        "granted" => Some(Told::Granted {
            node: event["node"].as_str()?.to_owned(),
        }),
        "refused" => {
            let reasons = event["reasons"].as_array()?.iter();
            Some(Told::Refused {
                reasons: reasons
                    .map(|reason| reason.as_str().unwrap_or_default().to_owned())
                    .collect(),
            })
        }
        _ => None,
    }
}

async fn ready(guest: &mut Guest, name: &str) {
    guest
        .answer("init", |line| line.starts_with("ready").then_some(()))
        .await;
    report(name, "init runs", guest.since_start());
}

/// Ends the agent and starts it again. What it told before its end is passed over.
async fn restart_agent(guest: &mut Guest) {
    guest.request("restart").await;
    guest
        .answer("the agent's end", |line| (line == "restarted").then_some(()))
        .await;
    guest.request("attest").await;
}

async fn off(guest: Guest, name: &str) {
    let took = guest.off().await;
    report(name, "is off", took);
}

fn report(name: &str, what: &str, after: Duration) {
    println!("{name}: {what} after {:.1} s", after.as_secs_f64());
}

/// Boots the machine in this setup and has it attest to a domain that was founded on its golden boot. Gives the reasons
/// it is refused for, after making sure that it got nothing.
async fn refused(setup: Setup<'_>) -> Option<Vec<String>> {
    let golden = golden().await?;
    let domain = golden.domain();
    let broker = domain.broker().await;
    let before = rights(&broker, NODE);
    let node = installed(&domain);
    let mut guest = golden
        .machine
        .boot(Setup {
            broker: Some(domain.address()),
            node: Some(&node),
            ..setup
        })
        .await;
    ready(&mut guest, setup.name).await;
    guest.request("attest").await;
    let answer = guest.answer("a decision", told).await;
    report(setup.name, "has its answer", guest.since_start());
    let Told::Refused { reasons } = answer else {
        panic!("{}: {answer:?}", setup.name)
    };
    for reason in &reasons {
        println!("{}: refused: {reason}", setup.name);
    }
    off(guest, setup.name).await;
    let after = rights(&broker, NODE);
    assert_eq!((after.record, after.status), (None, None), "no rights");
    assert!(after.entries > before.entries, "the decision is on record");
    broker.shutdown().await.unwrap();
    Some(reasons)
}

/// What follows from every refusal, whatever it is for.
const CONSEQUENCES: [&str; 2] = ["denied-by-domain-policy", "nothing-granted"];

/// The codes of what is wrong with the machine itself, each once, in the order the agent was told them.
fn codes(reasons: &[String]) -> Vec<&str> {
    let mut codes: Vec<_> = reasons.iter().filter_map(|reason| reason.split(' ').next()).collect();
    codes.retain(|code| !CONSEQUENCES.contains(code));
    codes.dedup();
    codes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_boot_of_the_same_machine_gets_its_authorization_and_keeps_it() {
    const NAME: &str = "good";
    let Some(golden) = golden().await else { return };
    let domain = golden.domain();
    let broker = domain.broker().await;
    let node = installed(&domain);
    let mut guest = golden
        .machine
        .boot(Setup {
            broker: Some(domain.address()),
            node: Some(&node),
            ..as_it_should_be(NAME)
        })
        .await;
    ready(&mut guest, NAME).await;
    guest.request("attest").await;
    for round in 1..=3 {
        let answer = guest.answer("an authorization", told).await;
        report(NAME, &format!("has answer {round}"), guest.since_start());
        assert!(
            matches!(&answer, Told::Granted { node } if node == NODE),
            "round {round}: {answer:?}"
        );
    }
    restart_agent(&mut guest).await;
    let answer = guest.answer("an authorization", told).await;
    assert!(matches!(&answer, Told::Granted { .. }), "restarted: {answer:?}");
    report(NAME, "has its answer after a restart of the agent", guest.since_start());
    let now = rights(&broker, NODE);
    assert_eq!(now.status, Some(Status::Valid));
    let record = now.record.expect("a record");
    assert!(!record.withdrawn);
    // The kernel's event log came whole in the first round; from then on only what came after it travels.
    let log = record.logs.and_then(|logs| logs.firmware).expect("a log that is kept");
    assert!(log.bytes > 10_000, "{log:?}");
    match ima_is_judged(&golden.evidence) {
        Ok(()) => an_unknown_program_ends_it(&mut guest, &broker).await,
        Err(because) => touchstone_vectors::skip(&format!("genuine boots, unknown program: {because}")),
    }
    off(guest, NAME).await;
    broker.shutdown().await.unwrap();
}

/// Runs a program that no reference knows: the node that was trusted until then loses its rights for it, and an agent
/// started after it gets none.
async fn an_unknown_program_ends_it(guest: &mut Guest, broker: &RunningBroker) {
    const PROGRAM: &str = "/opt/unknown-tool";
    guest.request(&format!("run-unknown {PROGRAM}")).await;
    let is_refused = |line: &str| match told(line)? {
        // An attestation that was under way.
        Told::Granted { .. } => None,
        Told::Refused { reasons } => Some(reasons),
    };
    for name in ["running agent", "agent started later"] {
        if name == "agent started later" {
            restart_agent(guest).await;
        }
        let reasons = guest.answer("a refusal", is_refused).await;
        report(name, "is refused", guest.since_start());
        for reason in &reasons {
            println!("{name}: refused: {reason}");
        }
        assert_eq!(codes(&reasons), ["ima-file-unknown"], "{name}: {reasons:#?}");
        assert!(
            reasons.iter().any(|reason| reason.contains(PROGRAM)),
            "{name}: {reasons:#?}"
        );
        let withdrawn = || rights(broker, NODE).status != Some(Status::Valid);
        eventually("the withdrawal", withdrawn).await;
    }
}

/// Whether this build's evidence has the IMA list, and its author can say which files an initramfs has.
fn ima_is_judged(golden: &[u8]) -> Result<(), String> {
    let collection = Collection::decode(golden).expect("an envelope");
    if !collection.records().any(|(label, _)| label.as_str() == "ima/log") {
        return Err("`touchstone evidence collect` sends no IMA list".into());
    }
    if !computes_initrd_files() {
        return Err("`touchstone reference compute --initrd-files` is not there".into());
    }
    Ok(())
}

fn computes_initrd_files() -> bool {
    let help = Command::new(files::command())
        .args(["reference", "compute", "--help"])
        .output();
    String::from_utf8_lossy(&help.unwrap().stdout).contains("--initrd-files")
}

#[tokio::test(flavor = "multi_thread")]
async fn another_kernel_command_line_is_refused() {
    let line = format!("{COMMAND_LINE} module.sig_enforce=0");
    let setup = Setup {
        command_line: &line,
        ..as_it_should_be("command-line")
    };
    let Some(reasons) = refused(setup).await else { return };
    // GRUB's command that loads the kernel has the command line in it, and so has GRUB's configuration file.
    let expected = [
        "grub-command-mismatch",
        "kernel-command-line-mismatch",
        "boot-file-mismatch",
    ];
    assert_eq!(codes(&reasons), expected, "{reasons:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_without_secure_boot_is_refused() {
    let setup = Setup {
        secure_boot: false,
        ..as_it_should_be("secure-boot-off")
    };
    let Some(reasons) = refused(setup).await else { return };
    // Without Secure Boot shim verifies no kernel, and the firmware measures it once instead of twice.
    let expected = ["boot-application-mismatch", "secure-boot-mismatch"];
    assert_eq!(codes(&reasons), expected, "{reasons:#?}");
}
