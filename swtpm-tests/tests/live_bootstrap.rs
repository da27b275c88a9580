//! `touchstone bootstrap` against a real broker and a real software TPM, with a real LUKS2 header in a file. Only the last
//! step is played: a kernel without a device mapper opens no disk, so what would open it takes the volume key instead.
//! The whole of it happens in `vm_bootstrap`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use sha2::{Digest as _, Sha256};
use swtpm_tests::boots::Boot;
use swtpm_tests::domain::{Domain, NAME};
use swtpm_tests::node::FIRST_BOOT;
use swtpm_tests::swtpm::Swtpm;
use touchstone_attest::agent::config::AgentConfig;
use touchstone_attest::bootstrap::volume::Volume;
use touchstone_attest::bootstrap::{BootstrapEvent, Ending, run};
use touchstone_attest::tpm::Tpm;
use touchstone_policies::author::node_volume;
use touchstone_policies::inventory_file::VolumeFile;
use touchstone_policies::settings::{Assignment, settings_set};
use touchstone_verifier::bootstrap::{DONE, REGISTER};
use touchstone_verifier::tpm::HashAlg;

const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";
const NODE: &str = "node-1";
const DISK_KEY: &[u8] = b"the key of the disk\n\0 of node-1";
const BANK: HashAlg = HashAlg::Sha256;

/// A machine with a disk, and the domain that it is a node of.
struct World {
    folder: tempfile::TempDir,
    domain: Domain,
    swtpm: Swtpm,
    /// Register 15 as the inventory expects it.
    register: Vec<u8>,
}

impl World {
    /// None, after reporting it as skipped, where cryptsetup is not installed.
    fn new() -> Option<Self> {
        if !Path::new(CRYPTSETUP).exists() {
            touchstone_vectors::lacking("live bootstrap: cryptsetup is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let disk = format(&path("disk.img"));
        let volume = Volume::read(Path::new(CRYPTSETUP), &disk, folder.path()).unwrap();
        let key = volume.key(DISK_KEY).unwrap();
        let register = key.register(BANK, "root", volume.uuid());
        let domain = Domain::new(&[(NODE, Boot::GOOD)]).with_config(&format!(
            "[keys]\nkek = {{ passphrase_file = {:?} }}\n",
            secret(&path("kek"), b"a passphrase for the store")
        ));
        let repo = domain.path("policy");
        let grants = Assignment::parse("grants.scopes=[\"bootstrap:disk\", \"execute:workloads\"]").unwrap();
        settings_set(&repo, &[grants]).unwrap();
        let listed = VolumeFile {
            luks_uuid: volume.uuid().into(),
            pcr15: hex::encode(&register),
        };
        node_volume(&repo, NODE, listed).unwrap();
        domain.publish();
        let swtpm = Swtpm::from_boot(&Boot::GOOD, &Boot::GOOD).expect("a software TPM");
        std::fs::write(path("boot-id"), FIRST_BOOT).unwrap();
        // What opens disks here.
        let script = format!(
            "#!/bin/sh\ncase \"$1\" in open) echo \"$@\" >{opened:?}.arguments; cat >{opened:?};; *) exec {CRYPTSETUP} \"$@\";; esac\n",
            opened = path("opened")
        );
        std::fs::write(path("cryptsetup"), script).unwrap();
        std::fs::set_permissions(path("cryptsetup"), std::fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self {
            folder,
            domain,
            swtpm,
            register,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts the disk's key at the broker, as its operator does.
    async fn put_key(&self) {
        self.domain.put_key(&format!("disk/{NODE}"), "disk", DISK_KEY).await;
    }

    /// One run of the command, with what it told. The policy repository comes over the network, from `url`.
    async fn bootstrap(&self, more: &str, url: &str) -> (Ending, Vec<BootstrapEvent>) {
        let config = format!(
            "brokers = [\"https://127.0.0.1:1\", \"https://{}\"]\ndomain = {NAME:?}\npolicy = {:?}\npolicy_root = {:?}\nstate_dir = {:?}\n\
             [tpm]\ntcti = {:?}\nevent_log = {:?}\nima_list = {:?}\nboot_id = {:?}\n\
             [bootstrap]\npolicy_url = {url:?}\ndevice = {:?}\ncryptsetup = {:?}\n{more}",
            self.domain.address(),
            self.path("policy"),
            self.domain.path("root.json"),
            self.path("state"),
            self.swtpm.tcti(),
            Boot::GOOD.path("eventlog.bin"),
            self.path("ima-list"),
            self.path("boot-id"),
            self.path("disk.img"),
            self.path("cryptsetup"),
        );
        let file = self.path("agent.toml");
        std::fs::write(&file, config).unwrap();
        let told = Mutex::new(Vec::new());
        let tell = |event| told.lock().unwrap().push(event);
        let ending = run(AgentConfig::load(&file).unwrap(), tell, std::future::pending()).await;
        (ending, told.into_inner().unwrap())
    }

    /// Serves the policy repository as any web server does; gives where.
    fn serve(&self) -> String {
        let (listener, folder) = (TcpListener::bind("127.0.0.1:0").unwrap(), self.domain.path("policy"));
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut requests = BufReader::new(stream.try_clone().unwrap());
                let (mut stream, mut line) = (stream, String::new());
                while requests.read_line(&mut line).is_ok_and(|n| n > 0) {
                    let path = line
                        .strip_prefix("GET /")
                        .and_then(|rest| rest.split(' ').next())
                        .map(str::to_owned);
                    line.clear();
                    let Some(path) = path else { continue };
                    let (status, body) = match std::fs::read(folder.join(path)) {
                        Ok(body) => ("200 OK", body),
                        Err(_) => ("404 Not Found", Vec::new()),
                    };
                    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
                }
            }
        });
        url
    }

    fn register(&self) -> Vec<u8> {
        let mut tpm = Tpm::open(&self.swtpm.tcti()).unwrap();
        tpm.register(REGISTER).unwrap().remove(&BANK).unwrap()
    }
}

fn format(image: &Path) -> PathBuf {
    std::fs::File::create(image).unwrap().set_len(40 << 20).unwrap();
    let mut format = Command::new(CRYPTSETUP);
    format.args(["luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2"]);
    format
        .args(["--pbkdf-force-iterations", "1000", "--key-file=-"])
        .arg(image);
    let mut child = format.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(DISK_KEY).unwrap();
    assert!(child.wait().unwrap().success());
    image.to_owned()
}

fn secret(path: &Path, contents: &[u8]) -> PathBuf {
    std::fs::write(path, contents).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_owned()
}

fn extended(value: &[u8]) -> Vec<u8> {
    Sha256::digest([value, Sha256::digest(DONE).as_slice()].concat()).to_vec()
}

fn refusals(told: &[BootstrapEvent]) -> Vec<&str> {
    let reasons = told.iter().filter_map(|event| match event {
        BootstrapEvent::Refused { reasons, .. } => Some(reasons),
        _ => None,
    });
    let code = |words: &'_ String| words.find([' ', ':']).map_or(0, |end| end);
    reasons
        .flatten()
        .map(|words| words.get(..code(words)).unwrap_or_default())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_opens_once_in_a_boot() {
    let Some(world) = World::new() else { return };
    let broker = world.domain.broker().await;
    world.put_key().await;
    let (ending, told) = world.bootstrap("", &world.serve()).await;
    assert_eq!(ending, Ending::Opened, "{told:#?}");
    assert_eq!(refusals(&told), Vec::<&str>::new(), "{told:#?}");
    let key = std::fs::read(world.path("opened")).unwrap();
    assert_eq!(
        key.len(),
        64,
        "the volume key, not the slot's, went to what opens the disk"
    );
    let arguments = std::fs::read_to_string(world.path("opened.arguments")).unwrap();
    assert!(arguments.contains("--volume-key-file /proc/self/fd/0"), "{arguments}");
    assert!(arguments.contains("--header"), "{arguments}");
    assert_eq!(
        world.register(),
        extended(&world.register),
        "the volume key, then the mark"
    );
    assert!(
        !world.path("state/luks2-header").exists(),
        "the copy of the header is gone"
    );

    let (ending, told) = world.bootstrap("", &world.serve()).await;
    assert_eq!(
        (ending, refusals(&told)),
        (Ending::Refused, vec!["bootstrap-done"]),
        "{told:#?}"
    );
    assert_eq!(world.register(), extended(&world.register), "and stays as it was");
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_volume_is_not_entered_and_ends_the_boot_for_the_key() {
    let Some(world) = World::new() else { return };
    let broker = world.domain.broker().await;
    world.put_key().await;
    // Another disk that the same key opens, with the UUID of the first.
    let uuid = touchstone_attest::bootstrap::volume::read_uuid(&world.path("disk.img")).unwrap();
    std::fs::remove_file(world.path("disk.img")).unwrap();
    let disk = format(&world.path("disk.img"));
    let named = Command::new(CRYPTSETUP)
        .args(["luksUUID", "--batch-mode", "--uuid", &uuid])
        .arg(disk)
        .status();
    assert!(named.unwrap().success());
    let (ending, told) = world.bootstrap("", &world.serve()).await;
    assert_eq!(
        (ending, refusals(&told)),
        (Ending::Refused, vec!["volume-not-the-inventorys"]),
        "{told:#?}"
    );
    assert!(!world.path("opened").exists(), "nothing was opened");
    assert_eq!(world.register(), extended(&[0; 32]), "the mark alone");
    let (ending, told) = world.bootstrap("", &world.serve()).await;
    assert_eq!(
        (ending, refusals(&told)),
        (Ending::Refused, vec!["bootstrap-done"]),
        "{told:#?}"
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_it_waits_and_giving_up_ends_the_phase() {
    // A slow machine needs longer for a try than a quick one for three.
    for give_up_after_s in [3, 30, 120] {
        let Some(world) = World::new() else { return };
        let more = format!("give_up_after_s = {give_up_after_s}\n");
        let (ending, told) = world.bootstrap(&more, &world.serve()).await;
        assert_eq!(ending, Ending::GaveUp, "{told:#?}");
        assert_eq!(world.register(), extended(&[0; 32]), "the mark alone");
        let waits = told
            .iter()
            .filter(|event| matches!(event, BootstrapEvent::Waiting { .. }));
        if waits.count() >= 2 {
            return;
        }
        println!("no second try in {give_up_after_s} s: {told:#?}");
    }
    panic!("it did not try again");
}
