//! One virtual machine over several boots: its TPM, its variable store and its disks stay, as a machine's do.
#![expect(
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::cpio::Archive;
use super::disk::{self, BootDisk};
use super::files::{self, BootFiles};
use super::guest::{Guest, Hardware};
use super::initrd::Purpose;
use super::{initrd, variables};
use crate::swtpm;

/// The kernel's command line. IMA measures by its `tcb` policy, and only because the initramfs is a ramfs: it leaves a
/// tmpfs out.
pub const COMMAND_LINE: &str = "console=ttyS0 ima_policy=tcb rootfstype=ramfs rdinit=/init panic=-1 quiet loglevel=4";

/// What is different about one boot.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// Names the boot in what is printed and in the folder of what it leaves.
    pub name: &'a str,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// Whether the firmware enforces Secure Boot. Its keys are enrolled either way.
    pub secure_boot: bool,
    /// The broker the guest reaches.
    pub broker: Option<SocketAddr>,
    /// What lies in `/run/node` of the guest.
    pub node: Option<&'a Archive>,
    /// A third disk; what the boot writes to it is not kept.
    pub root: Option<&'a Path>,
}

/// A machine.
#[derive(Debug, Clone)]
pub struct Machine {
    boot: BootFiles,
    folder: PathBuf,
    initrd: Vec<u8>,
}

impl Machine {
    /// Makes a machine in `folder`, which is emptied: a TPM from a maker of its own, firmware with Microsoft's keys, an
    /// initramfs with the command under test.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn make(boot: BootFiles, purpose: Purpose, folder: &Path) -> Self {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder).expect("a folder");
        swtpm::manufacture(folder).expect("a TPM");
        std::fs::write(
            folder.join("variables.fd"),
            boot.read("usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
        )
        .expect("a variable store");
        let initrd = initrd::compressed(&initrd::build(&boot, purpose, folder));
        std::fs::write(folder.join("initrd.img"), &initrd).expect("written");
        Self {
            boot,
            folder: folder.into(),
            initrd,
        }
    }

    /// The certificates of the TPM's maker: the root first, then the issuer.
    #[must_use]
    pub fn maker_certificates(&self) -> [PathBuf; 2] {
        swtpm::CA_FILES.map(|file| self.folder.join("ca").join(file))
    }

    /// The packages it is made of.
    #[must_use]
    pub fn boot_files(&self) -> &BootFiles {
        &self.boot
    }

    /// The initramfs, as it lies on the boot disk.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd.img")
    }

    /// Switches the machine on.
    ///
    /// # Panics
    /// When it cannot be.
    pub async fn boot(&self, setup: Setup<'_>) -> Guest {
        let boot = self.folder.join(setup.name);
        std::fs::create_dir_all(&boot).expect("a folder");
        let disk = BootDisk {
            initrd: &self.initrd,
            grub_cfg: &grub_cfg(setup.command_line),
        };
        let image = boot.join("boot.img");
        disk.write(&self.boot, &boot, &image);
        let data = boot.join("data.img");
        disk::write_data(setup.node.unwrap_or(&Archive::new()), &data);
        let mut store = self.folder.join("variables.fd");
        if !setup.secure_boot {
            let mut bytes = files::read(&store);
            variables::switch_secure_boot_off(&mut bytes);
            // A copy: the next boot finds the machine as it was.
            store = boot.join("variables.fd");
            std::fs::write(&store, bytes).expect("written");
        }
        let hardware = Hardware {
            code: self.boot.path("usr/share/OVMF/OVMF_CODE_4M.secboot.fd"),
            variables: store,
            tpm: self.folder.join("state"),
            disk: image,
            data,
            root: setup.root.map(Path::to_owned),
            console: boot.join("console.txt"),
            socat: (
                self.boot.path("usr/bin/socat"),
                self.boot.path("usr/lib/x86_64-linux-gnu"),
            ),
        };
        Guest::start(&hardware, setup.broker).await
    }
}

/// `linuxefi` starts the kernel through its EFI stub whether Secure Boot is on or off. GRUB 2.06's `linux` does so only
/// where it is on; otherwise the kernel has no event log at all.
fn grub_cfg(command_line: &str) -> String {
    format!("set timeout=0\nlinuxefi /vmlinuz {command_line}\ninitrdefi /initrd.img\nboot\n")
}
