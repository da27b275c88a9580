//! Everything the demo stands on: a folder, a policy repository made on the spot, software TPMs, the ordinary commands.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use touchstone_attest::software_tpm::{Measurement, STATE_FILE, SoftwareTpm};
use touchstone_verifier::eventlog::EventLog;
use touchstone_verifier::tpm::algorithm::HashAlg;

use super::process::Process;
use crate::output::{self, Failure};

/// The demo's trust domain.
pub const DOMAIN: &str = "demo.example";
/// The guard's id.
pub const GUARD: &str = "guard-1";
/// The action and resource that the nodes ask the guard for.
pub const ACTION: &str = "execute";
/// See [`ACTION`].
pub const RESOURCE: &str = "workloads";
/// The recorded boots whose TPMs the three nodes have.
pub const BOOTS: [&str; 3] = ["good", "cmdline-changed", "ima-unknown-exec"];
/// The recorded boot whose measurements all three have, and whose reference values are published.
const GOLDEN: &str = "good";

/// The demo's folder and where things are in it.
pub struct World {
    folder: PathBuf,
    boots: PathBuf,
}

/// A node: its software TPM and its agent.
pub struct Node {
    /// Its name in the inventory.
    pub name: String,
    /// Its TPM, from outside.
    pub tpm: SoftwareTpm,
    /// Its agent.
    pub agent: Process,
    /// The agent's socket.
    pub socket: PathBuf,
}

impl World {
    /// A world in `folder`, from the recorded boots in `boots`.
    pub fn new(folder: PathBuf, boots: PathBuf) -> Result<Self, Failure> {
        if !boots.join(GOLDEN).join("eventlog.bin").exists() {
            return Err(Failure::new(format!("no recorded boots in {}", boots.display()))
                .hint("run from the repository, or point --boots at its swtpm-tests/boots"));
        }
        Ok(Self { folder, boots })
    }

    /// A path in the demo's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes, fills and publishes the policy repository.
    pub fn publish_policy(&self) -> Result<(), Failure> {
        let (repo, keys) = (self.path("policy"), self.path("keys"));
        self.command(&["policy", "init", arg(&repo)?, "--domain", DOMAIN, "--keys", arg(&keys)?])?;
        self.quicken(&repo.join("staged/settings.toml"))?;
        let ca = self.boots.join("ca");
        self.command(&[
            "policy",
            "trust",
            "add",
            arg(&repo)?,
            "--ca",
            arg(&ca.join("swtpm-localca-rootca-cert.pem"))?,
            arg(&ca.join("issuercert.pem"))?,
        ])?;
        for (index, boot) in BOOTS.iter().enumerate() {
            let certificate = self.boots.join(boot).join("ek-rsa-cert.der");
            let name = node_name(index);
            self.command(&[
                "policy",
                "node",
                "add",
                arg(&repo)?,
                &name,
                "--ek-cert",
                arg(&certificate)?,
                "--region",
                "eu-1",
                "--zone",
                "a",
                "--role",
                "worker",
            ])?;
        }
        self.reference_values(&repo)?;
        output::write(&self.path("broker.toml"), self.broker_config()?.as_bytes())?;
        self.command(&["broker", "init", "--config", arg(&self.path("broker.toml"))?])?;
        self.command(&[
            "policy",
            "keyset",
            "add",
            arg(&repo)?,
            arg(&self.path("broker/keyset.json"))?,
        ])?;
        self.command(&["policy", "publish", arg(&repo)?, "--keys", arg(&keys)?])?;
        std::fs::copy(repo.join("metadata/1.root.json"), self.path("root.json"))?;
        Ok(())
    }

    /// Packs the golden boot's recorded quote and makes reference values of it.
    fn reference_values(&self, repo: &Path) -> Result<(), Failure> {
        let golden = self.boots.join(GOLDEN);
        let evidence = self.path("golden.evidence");
        self.command(&[
            "evidence",
            "pack",
            "--tpm-quote",
            arg(&golden.join("quote-rsa/quote.msg"))?,
            "--tpm-signature",
            arg(&golden.join("quote-rsa/quote.sig"))?,
            "--tpm-pcrs",
            arg(&golden.join("quote-rsa/quote.pcrs"))?,
            "--tpm-ak",
            arg(&golden.join("ak-rsa.pub"))?,
            "--event-log",
            arg(&golden.join("eventlog.bin"))?,
            "-o",
            arg(&evidence)?,
        ])?;
        self.command(&[
            "reference",
            "add",
            arg(repo)?,
            "--evidence",
            arg(&evidence)?,
            "--name",
            "debian-12-golden",
        ])
    }

    /// Shortens the staged timers so that the story fits a minute; the inequalities between them still hold.
    fn quicken(&self, settings: &Path) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(&output::read(settings)?).into_owned();
        let mut quick = String::new();
        for line in text.lines() {
            let key = line.split('=').next().unwrap_or_default().trim();
            match key {
                "attestation_interval_ms" => quick.push_str("attestation_interval_ms = 2000"),
                "attestation_deadline_ms" => quick.push_str("attestation_deadline_ms = 6000"),
                "attestation_retry_ms" => quick.push_str("attestation_retry_ms = 1000"),
                _ => quick.push_str(line),
            }
            quick.push('\n');
        }
        output::write(settings, quick.as_bytes())
    }

    fn broker_config(&self) -> Result<String, Failure> {
        let quoted =
            |path: &Path| -> Result<String, Failure> { Ok(toml::Value::String(arg(path)?.into()).to_string()) };
        Ok(format!(
            "domain = \"{DOMAIN}\"\nlisten = \"127.0.0.1:0\"\ndata_dir = {}\npolicy = {}\npolicy_root = {{ file = {} }}\n",
            quoted(&self.path("broker"))?,
            quoted(&self.path("policy"))?,
            quoted(&self.path("root.json"))?,
        ))
    }

    /// Starts the broker; gives it and its address.
    pub fn start_broker(&self) -> Result<(Process, String), Failure> {
        let arguments = strings(&["broker", "run", "--json", "--config", arg(&self.path("broker.toml"))?]);
        let mut broker = Process::start("broker", &arguments, &self.path("broker.log"))?;
        let event = broker.wait_for("the broker's address", |event| is(event, "listening"))?;
        let address = event.get("address").and_then(|a| a.as_str()).unwrap_or_default();
        Ok((broker, format!("https://{address}")))
    }

    /// Starts the guard; gives it and its address.
    pub fn start_guard(&self, broker: &str) -> Result<(Process, SocketAddr), Failure> {
        let arguments = strings(&[
            "guard",
            "run",
            "--json",
            "--id",
            GUARD,
            "--domain",
            DOMAIN,
            "--broker",
            broker,
            "--policy",
            arg(&self.path("policy"))?,
            "--root",
            arg(&self.path("root.json"))?,
        ]);
        let mut guard = Process::start("guard", &arguments, &self.path("guard.log"))?;
        let event = guard.wait_for("the guard's address", |event| is(event, "listening"))?;
        let address = event
            .get("address")
            .and_then(|a| a.as_str())
            .unwrap_or_default()
            .parse()?;
        guard.wait_for("the trust state", |event| is(event, "following"))?;
        Ok((guard, address))
    }

    /// Starts a software TPM with the saved state of a recorded boot and the golden boot's measurements, and an agent.
    pub fn start_node(&self, index: usize, boot: &str, broker: &str) -> Result<Node, Failure> {
        let name = node_name(index);
        let tpm = SoftwareTpm::start(&self.boots.join(boot).join("tpm-state").join(STATE_FILE))?;
        let log = self.boots.join(GOLDEN).join("eventlog.bin");
        tpm.extend(&measurements(&output::read(&log)?)?)?;

        let socket = self.path(&format!("{name}.sock"));
        let quoted =
            |path: &Path| -> Result<String, Failure> { Ok(toml::Value::String(arg(path)?.into()).to_string()) };
        let config = format!(
            "brokers = [\"{broker}\"]\ndomain = \"{DOMAIN}\"\npolicy = {}\npolicy_root = {}\nstate_dir = {}\nsocket = {}\n\
             [tpm]\ntcti = \"{}\"\nevent_log = {}\n",
            quoted(&self.path("policy"))?,
            quoted(&self.path("root.json"))?,
            quoted(&self.path(&name))?,
            quoted(&socket)?,
            tpm.tcti(),
            quoted(&log)?,
        );
        let config_path = self.path(&format!("{name}.toml"));
        output::write(&config_path, config.as_bytes())?;
        let arguments = strings(&["agent", "run", "--json", "--config", arg(&config_path)?]);
        let agent = Process::start(&name, &arguments, &self.path(&format!("{name}.log")))?;
        Ok(Node {
            name,
            tpm,
            agent,
            socket,
        })
    }

    /// Runs one of the ordinary commands to its end; anything but exit code 0 is a failure of the story.
    pub fn command(&self, arguments: &[&str]) -> Result<(), Failure> {
        self.output(arguments).map(|_| ())
    }

    /// Runs one of the ordinary commands and gives what it printed.
    pub fn output(&self, arguments: &[&str]) -> Result<String, Failure> {
        let ended = Command::new(std::env::current_exe()?)
            .args(arguments)
            .env("TSS2_LOG", "all+none")
            .stdin(Stdio::null())
            .output()?;
        if ended.status.success() {
            return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
        }
        Err(Failure::new(format!(
            "touchstone {}: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&ended.stdout),
            String::from_utf8_lossy(&ended.stderr).trim()
        )))
    }
}

/// Names are given in the order of [`BOOTS`].
pub fn node_name(index: usize) -> String {
    format!("node-{}", index + 1)
}

/// True for an event of this kind.
pub fn is(event: &serde_json::Value, kind: &str) -> bool {
    event.get("event").and_then(|event| event.as_str()) == Some(kind)
}

/// A path as a command-line argument.
pub fn arg(path: &Path) -> Result<&str, Failure> {
    path.to_str()
        .ok_or_else(|| Failure::new(format!("{} is not UTF-8", path.display())))
}

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

/// The measurements of an event log, in the order they were made, in every bank the log has.
fn measurements(log: &[u8]) -> Result<Vec<Measurement>, Failure> {
    let log = EventLog::parse(log)?;
    Ok(log
        .events()
        .iter()
        .filter(|event| event.is_extended())
        .filter_map(|event| {
            let digests = HashAlg::ALL
                .iter()
                .filter_map(|bank| Some((bank.tpm_id(), event.digest(*bank)?.to_vec())))
                .collect();
            Some((u8::try_from(event.pcr).ok()?, digests))
        })
        .collect())
}
