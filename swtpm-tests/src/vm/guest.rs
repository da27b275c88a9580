//! One boot: QEMU and the software TPM as child processes, the console watched, requests and answers line by line.
#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::observe::PATIENCE;

/// How long a guest may be silent: from its start, or its last answer, to the next. A boot takes 20 s on an idle machine, and
/// has taken 130 s on a busy one.
pub const BOOT_LIMIT: Duration = Duration::from_secs(1_800);
/// How often the console is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Where the guest finds the broker. It reaches nothing else: not the host, not the network.
pub const BROKER: &str = "10.0.2.100:7440";
/// What on the console means that nothing more will come.
const HOPELESS: [&str; 5] = [
    "No bootable option",
    "Kernel panic",
    "Access Denied",
    "Security Violation",
    "grub rescue>",
];

/// The files one boot is made of, and those it leaves.
#[derive(Debug, Clone)]
pub struct Hardware {
    /// The firmware's code.
    pub code: PathBuf,
    /// Its variable store; the boot writes to it.
    pub variables: PathBuf,
    /// The TPM's state folder; the boot writes to it.
    pub tpm: PathBuf,
    /// The boot disk.
    pub disk: PathBuf,
    /// The data disk.
    pub data: PathBuf,
    /// A third disk, where there is one; what the boot writes to it is not kept.
    pub root: Option<PathBuf>,
    /// What was said on the console.
    pub console: PathBuf,
    /// The program that connects the guest to the broker, and the folder of its libraries.
    pub socat: (PathBuf, PathBuf),
}

/// A guest that is running. Dropping it ends QEMU, and with QEMU's connection the software TPM ends.
pub struct Guest {
    qemu: Child,
    tpm: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    hardware: Hardware,
    begun: Instant,
    /// When it was last heard of.
    heard: Instant,
    /// Holds the TPM's control socket. Not below the build folder: the path of a socket has at most 107 bytes (unix(7)).
    _socket: TempDir,
}

impl Guest {
    /// Switches the machine on. With `broker` the guest reaches that address, as [`BROKER`].
    ///
    /// # Panics
    /// When QEMU or swtpm does not start.
    pub async fn start(hardware: &Hardware, broker: Option<SocketAddr>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("tpm");
        let tpm = start_tpm(hardware, &socket).await;
        // Written by QEMU from its start on; one of the boot before would be taken for this one's.
        let _ = std::fs::remove_file(&hardware.console);
        let mut qemu = qemu(hardware, &socket, broker)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("qemu-system-x86_64: install qemu-system-x86");
        let requests = qemu.stdin.take().expect("piped");
        let answers = BufReader::new(qemu.stdout.take().expect("piped")).lines();
        let begun = Instant::now();
        Self {
            qemu,
            tpm,
            requests,
            answers,
            hardware: hardware.clone(),
            begun,
            heard: begun,
            _socket: folder,
        }
    }

    /// Since the machine was switched on.
    #[must_use]
    pub fn since_start(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Sends a request to the guest's init.
    ///
    /// # Panics
    /// When the guest is gone.
    pub async fn request(&mut self, request: &str) {
        let line = format!("{request}\n");
        if let Err(error) = self.requests.write_all(line.as_bytes()).await {
            panic!("{request}: {error}\n{}", self.story());
        }
        self.requests.flush().await.expect("a pipe");
    }

    /// The first line from now on of which `wanted` makes something. Others are passed over; `failed …` fails the test.
    ///
    /// # Panics
    /// When it does not come within [`BOOT_LIMIT`], when the guest ends, or when its console says that it is lost.
    pub async fn answer<T>(&mut self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        loop {
            let line = match tokio::time::timeout(LOOK, self.answers.next_line()).await {
                Ok(Ok(Some(line))) => line,
                Ok(end) => panic!("the guest ended while {what} was waited for: {end:?}\n{}", self.story()),
                Err(_) => {
                    self.still_hopeful(what);
                    continue;
                }
            };
            self.heard = Instant::now();
            let line = line.trim();
            assert!(
                !line.starts_with("failed "),
                "{what}: the guest says: {line}\n{}",
                self.story()
            );
            if let Some(found) = wanted(line) {
                return found;
            }
        }
    }

    fn still_hopeful(&self, what: &str) {
        let said = self.said();
        for sign in HOPELESS {
            assert!(
                !said.contains(sign),
                "{sign:?} while {what} was waited for\n{}",
                self.story()
            );
        }
        assert!(
            self.heard.elapsed() < BOOT_LIMIT,
            "{what}: nothing came within {BOOT_LIMIT:?}\n{}",
            self.story()
        );
    }

    /// Has the guest switch itself off, and waits for it. Its disks, which are made anew for every boot, are removed: they are
    /// large, and only those of a boot that failed are of use.
    ///
    /// # Panics
    /// When it does not, within [`BOOT_LIMIT`].
    pub async fn off(mut self) -> Duration {
        self.request("off").await;
        let ended = tokio::time::timeout(BOOT_LIMIT, self.qemu.wait()).await;
        let Ok(Ok(status)) = ended else {
            panic!("the guest did not switch itself off: {ended:?}\n{}", self.story());
        };
        assert!(status.success(), "QEMU ended with {status}\n{}", self.story());
        // The next boot takes over this TPM's state.
        let ended = tokio::time::timeout(BOOT_LIMIT, self.tpm.wait()).await;
        assert!(matches!(ended, Ok(Ok(_))), "swtpm did not end with QEMU: {ended:?}");
        for image in [&self.hardware.disk, &self.hardware.data] {
            let _ = std::fs::remove_file(image);
        }
        self.begun.elapsed()
    }

    /// Everything that was said on the console so far.
    #[must_use]
    pub fn said(&self) -> String {
        let bytes = std::fs::read(&self.hardware.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of what was said on the console, for a test that fails.
    fn story(&self) -> String {
        let said = self.said();
        let lines: Vec<_> = said.lines().collect();
        let (_, last) = lines.split_at(lines.len().saturating_sub(40));
        format!(
            "after {:?}, {}:\n{}",
            self.begun.elapsed(),
            self.hardware.console.display(),
            last.join("\n")
        )
    }
}

/// Starts the TPM and waits until it takes a connection. It ends when QEMU's connection does.
async fn start_tpm(hardware: &Hardware, socket: &Path) -> Child {
    let mut tpm = Command::from(touchstone_vectors::alone("swtpm"))
        .args(["socket", "--tpm2", "--terminate"])
        .arg("--tpmstate")
        .arg(format!("dir={}", hardware.tpm.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", socket.display()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("swtpm is installed");
    let begun = Instant::now();
    while !socket.exists() {
        if let Ok(Some(status)) = tpm.try_wait() {
            panic!("swtpm ended with {status}");
        }
        assert!(begun.elapsed() < PATIENCE, "swtpm made no socket");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tpm
}

fn qemu(hardware: &Hardware, socket: &Path, broker: Option<SocketAddr>) -> Command {
    let drive = |id: &str, image: &Path| format!("if=none,id={id},format=raw,file={}", image.display());
    let flash =
        |unit: u8, more: &str, image: &Path| format!("if=pflash,format=raw,unit={unit}{more},file={}", image.display());
    let mut network = "user,id=net0,restrict=on,ipv6=off".to_owned();
    if let Some(broker) = broker {
        // One process a connection: it is the guest's only way out.
        let (socat, libraries) = &hardware.socat;
        network += &format!(
            ",guestfwd=tcp:{BROKER}-cmd:env LD_LIBRARY_PATH={} {} - TCP:{broker}",
            libraries.display(),
            socat.display()
        );
    }
    let mut command = Command::from(touchstone_vectors::alone("qemu-system-x86_64"));
    // Software emulation on purpose: it is the same everywhere, and needs no /dev/kvm.
    command.args([
        "-machine",
        "q35,smm=on,accel=tcg",
        "-cpu",
        "max",
        "-smp",
        "1",
        "-m",
        "512",
    ]);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-monitor",
        "none",
    ]);
    command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
    command.args(["-global", "ICH9-LPC.disable_s3=1"]);
    command.arg("-drive").arg(flash(0, ",readonly=on", &hardware.code));
    command.arg("-drive").arg(flash(1, "", &hardware.variables));
    command
        .arg("-chardev")
        .arg(format!("socket,id=tpm,path={}", socket.display()));
    command.args([
        "-tpmdev",
        "emulator,id=tpm0,chardev=tpm",
        "-device",
        "tpm-crb,tpmdev=tpm0",
    ]);
    command.arg("-drive").arg(drive("boot", &hardware.disk));
    command.args(["-device", "virtio-blk-pci,drive=boot,serial=boot,bootindex=1"]);
    command.arg("-drive").arg(drive("data", &hardware.data));
    command.args(["-device", "virtio-blk-pci,drive=data,serial=node"]);
    if let Some(root) = &hardware.root {
        command
            .arg("-drive")
            .arg(format!("{},snapshot=on", drive("root", root)));
        command.args(["-device", "virtio-blk-pci,drive=root,serial=root"]);
    }
    command.arg("-netdev").arg(network);
    command.args(["-device", "virtio-net-pci,netdev=net0,romfile="]);
    command.args(["-device", "virtio-rng-pci"]);
    // The console to a file; the second line is this process's.
    command
        .arg("-serial")
        .arg(format!("file:{}", hardware.console.display()));
    command.args(["-serial", "stdio"]);
    command
}
