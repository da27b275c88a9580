//! A node that opens its encrypted root with a key it gets for what it is: LUKS2 and cryptsetup in a virtual machine that
//! really boots, the broker on the host. `make test-boot`; `docs/src/genuine-boot.md` says what each case proves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use swtpm_tests::domain::{Domain, Founding, NAME};
use swtpm_tests::tools;
use swtpm_tests::vm::cpio::Archive;
use swtpm_tests::vm::disk::EncryptedRoot;
use swtpm_tests::vm::files::{self, BootFiles};
use swtpm_tests::vm::guest::{BROKER, Guest};
use swtpm_tests::vm::initrd::Purpose;
use swtpm_tests::vm::machine::{COMMAND_LINE, Machine, Setup};
use touchstone_policies::NodeIdentity;
use touchstone_policies::author::node_volume;
use touchstone_policies::inventory_file::VolumeFile;
use touchstone_policies::settings::{Assignment, settings_set};

/// The machine's name in the inventory.
const NODE: &str = "vm-1";
/// The LUKS2 UUID of its disk, and of the one somebody puts in its place.
const UUID: &str = "4878cbe9-f3c5-4d20-82da-b2bb10ae2940";
/// The key of its disk at the broker. Not text: it travels byte for byte.
const DISK_KEY: [u8; 51] = *b"\x00the key of vm-1's disk, \x0a\xff which is no passphrase\x01";
/// On this machine, for `touchstone bootstrap measure`; the guest has its own.
const CRYPTSETUP: &str = "/sbin/cryptsetup";
/// What the script says last where the disk stays closed.
const STAYS: &str = "bootstrap: the disk stays closed. Reboot to try again.";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_opens_its_encrypted_root_only_as_what_it_should_be() {
    let boot = match BootFiles::find() {
        Ok(boot) => boot,
        Err(because) => {
            touchstone_vectors::skip(&because);
            return;
        }
    };
    if !Path::new(CRYPTSETUP).exists() {
        touchstone_vectors::lacking("genuine boots, encrypted root: cryptsetup is not installed");
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("genuine-bootstrap");
    let machine = Machine::make(boot, Purpose::EncryptedRoot, &folder);
    let evidence = golden(&machine).await;
    let right = disk(&machine, &folder, "right");
    let (luks_uuid, pcr15) = measured(&right);
    assert_eq!(luks_uuid, UUID);
    let domain = domain(&machine, &evidence, &pcr15);
    let broker = domain.broker().await;
    domain.put_key(&format!("disk/{NODE}"), "disk", &DISK_KEY).await;

    opens_and_goes_on(&machine, &domain, &right, &pcr15).await;
    // The same UUID, and the same key opens it; but it is another volume.
    let swapped = disk(&machine, &folder, "swapped");
    let told = stays_closed(
        &machine,
        &domain,
        Boot {
            root: &swapped,
            ..Boot::named("swapped-root")
        },
    )
    .await;
    assert!(
        told.iter().any(|line| line.contains("volume-not-the-inventorys")),
        "{told:#?}"
    );
    assert!(
        told.iter().any(|line| line.contains("may open its disk")),
        "the machine itself is right: {told:#?}"
    );
    let line = format!("{COMMAND_LINE} init=/bin/sh");
    let told = stays_closed(
        &machine,
        &domain,
        Boot {
            root: &right,
            command_line: &line,
            ..Boot::named("other-command-line")
        },
    )
    .await;
    assert!(
        told.iter().any(|line| line.contains("kernel-command-line-mismatch")),
        "{told:#?}"
    );
    assert!(!told.iter().any(|line| line.contains("may open its disk")), "{told:#?}");
    broker.shutdown().await.unwrap();
    // Large, and made anew by every run.
    for image in [right, swapped] {
        std::fs::remove_file(image).unwrap();
    }
}

/// A boot of a case.
#[derive(Clone, Copy)]
struct Boot<'a> {
    name: &'a str,
    command_line: &'a str,
    root: &'a Path,
}

impl Boot<'_> {
    fn named(name: &str) -> Boot<'_> {
        Boot {
            name,
            command_line: COMMAND_LINE,
            root: Path::new(""),
        }
    }
}

/// The first boot: evidence of the machine as it should be. No disk, no broker.
async fn golden(machine: &Machine) -> Vec<u8> {
    let guest = machine.boot(Setup {
        name: "golden",
        command_line: COMMAND_LINE,
        secure_boot: true,
        broker: None,
        node: None,
        root: None,
    });
    let mut guest = guest.await;
    ready(&mut guest, "golden").await;
    guest.request(&format!("collect {}", "5a".repeat(32))).await;
    let evidence = guest
        .answer("evidence", |line| line.strip_prefix("evidence ").map(str::to_owned))
        .await;
    off(guest, "golden").await;
    STANDARD.decode(evidence).expect("base64")
}

/// An encrypted root of its own; each has another volume key.
fn disk(machine: &Machine, folder: &Path, name: &str) -> PathBuf {
    let image = folder.join(format!("{name}.img"));
    let root = EncryptedRoot {
        marker: name,
        passphrase: &DISK_KEY,
        luks_uuid: UUID,
    };
    root.write(machine.boot_files(), folder, &image);
    image
}

/// What `touchstone bootstrap measure` says of a disk where it is set up: UUID and register 15.
fn measured(disk: &Path) -> (String, String) {
    use std::io::Write as _;
    let mut measure = Command::new(files::command());
    measure.args(["bootstrap", "measure", "--json", "--cryptsetup", CRYPTSETUP, "--device"]);
    let mut child = measure
        .arg(disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&DISK_KEY).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |key: &str| said[key].as_str().unwrap().to_owned();
    (text("luks_uuid"), text("volume_pcr15"))
}

/// A domain that knows the machine, its first boot as the reference, and its disk; it grants bootstrap and nothing else.
fn domain(machine: &Machine, evidence: &[u8], pcr15: &str) -> Domain {
    let stage = |repo: &Path| {
        let grants = Assignment::parse("grants.scopes=[\"bootstrap:disk\"]").unwrap();
        settings_set(repo, &[grants]).unwrap();
        let volume = VolumeFile {
            luks_uuid: UUID.into(),
            pcr15: pcr15.into(),
        };
        node_volume(repo, NODE, volume).unwrap();
        // What may run follows from the initramfs, not from what happened to run on the golden machine.
        let mut author = Command::new(files::command());
        author.args(["reference", "compute", "--name", "initramfs", "--initrd-files"]);
        author.arg(machine.initrd()).arg(repo);
        tools::run(&mut author, None);
    };
    let domain = Domain::found(&Founding {
        anchors: &machine.maker_certificates(),
        nodes: &[(NODE, NodeIdentity::Evidence(evidence.to_vec()))],
        golden: evidence,
        // How long a machine waits after a refusal that may heal.
        settings: &[("attestation_interval_ms", 2_000)],
        limits: &[],
        stage: &stage,
    });
    let passphrase = domain.path("kek");
    std::fs::write(&passphrase, "a passphrase for the broker's store").unwrap();
    std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).unwrap();
    domain.with_config(&format!("[keys]\nkek = {{ passphrase_file = {passphrase:?} }}\n"))
}

/// Case 1: the right machine with its disk. The disk opens; asked again in the same boot the broker refuses; the boot goes
/// on in the real root.
async fn opens_and_goes_on(machine: &Machine, domain: &Domain, root: &Path, pcr15: &str) {
    let name = "right";
    let mut guest = start(
        machine,
        domain,
        Boot {
            root,
            ..Boot::named(name)
        },
    )
    .await;
    guest.request("bootstrap").await;
    let told = until(&mut guest, "the disk's opening", |line| line == "bootstrap-ended").await;
    report(name, "has its disk open", &guest);
    assert!(
        told.iter().any(|line| line.contains("/dev/mapper/root is open")),
        "{told:#?}"
    );
    let secret = hex::encode(DISK_KEY);
    assert!(
        !guest.said().contains("no passphrase") && !guest.said().contains(&secret),
        "the key is told to nobody"
    );

    guest.request("bootstrap").await;
    let told = until(&mut guest, "the second refusal", |line| line == STAYS).await;
    assert!(told.iter().any(|line| line.contains("bootstrap-done")), "{told:#?}");
    report(name, "is refused when it asks again", &guest);

    guest.request("switch-root").await;
    let value = guest
        .answer("register 15", |line| line.strip_prefix("pcr15 ").map(str::to_lowercase))
        .await;
    let marker = guest
        .answer("the real root", |line| {
            line.strip_prefix("real-root ").map(str::to_owned)
        })
        .await;
    assert_eq!(marker, name);
    let mark = Sha256::digest("touchstone-bootstrap-done");
    let expected = Sha256::digest([hex::decode(pcr15).unwrap(), mark.to_vec()].concat());
    assert_eq!(value, hex::encode(expected), "the volume key, then the mark");
    report(name, "runs in its real root", &guest);
    off(guest, name).await;
}

/// A boot in which the disk stays closed. Gives what was told.
async fn stays_closed(machine: &Machine, domain: &Domain, boot: Boot<'_>) -> Vec<String> {
    let mut guest = start(machine, domain, boot).await;
    guest.request("bootstrap").await;
    // Once with its reasons; what comes after it is told by another line of this beginning.
    let mut told = until(&mut guest, "a refusal", |line| line.starts_with("bootstrap: refused")).await;
    told.extend(until(&mut guest, "its reasons", |line| line.starts_with("bootstrap: ")).await);
    report(boot.name, "is refused", &guest);
    for line in &told {
        println!("{}: {line}", boot.name);
    }
    guest.request("switch-root").await;
    guest
        .answer("no root", |line| line.starts_with("no-root ").then_some(()))
        .await;
    assert!(!guest.said().contains("real root:"), "the root was not entered");
    off(guest, boot.name).await;
    told
}

async fn start(machine: &Machine, domain: &Domain, boot: Boot<'_>) -> Guest {
    let node = installed(domain);
    let setup = Setup {
        name: boot.name,
        command_line: boot.command_line,
        secure_boot: true,
        broker: Some(domain.address()),
        node: Some(&node),
        root: Some(boot.root),
    };
    let mut guest = machine.boot(setup).await;
    ready(&mut guest, boot.name).await;
    guest
}

/// What the script told until a line of it is as wanted; that line too.
async fn until(guest: &mut Guest, what: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = guest.answer(what, |line| Some(line.to_owned())).await;
        let line = line.strip_prefix("told ").unwrap_or(&line).to_owned();
        let last = wanted(&line);
        lines.push(line);
        if last {
            return lines;
        }
    }
}

/// What an installer puts on a node: the policy repository, the domain's root, the configuration.
fn installed(domain: &Domain) -> Archive {
    let mut archive = Archive::new();
    archive.add_folder(&domain.path("policy"), "/policy");
    archive.file("/root.json", 0o644, files::read(&domain.path("root.json")));
    // The second broker is nobody: whoever lists several goes on with the next.
    let config = format!(
        "brokers = [\"https://10.0.2.99:7440\", \"https://{BROKER}\"]\ndomain = {NAME:?}\npolicy = \"/run/node/policy\"\n\
         policy_root = \"/run/node/root.json\"\nstate_dir = \"/run/agent\"\n[bootstrap]\nname = \"root\"\n"
    );
    archive.file("/agent.toml", 0o644, config.into_bytes());
    archive
}

async fn ready(guest: &mut Guest, name: &str) {
    guest
        .answer("init", |line| line.starts_with("ready").then_some(()))
        .await;
    report(name, "init runs", guest);
}

async fn off(guest: Guest, name: &str) {
    let took = guest.off().await;
    println!("{name}: is off after {:.1} s", took.as_secs_f64());
}

fn report(name: &str, what: &str, guest: &Guest) {
    println!("{name}: {what} after {:.1} s", guest.since_start().as_secs_f64());
}
