//! The disks of the guest, made without root: the EFI system partition, and a data disk that holds an archive.
#![expect(
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::cpio::Archive;
use super::files::BootFiles;
use crate::tools;

/// Sectors of 512 bytes of the boot disk. FAT32 needs 65,525 clusters; kernel and initramfs need 35 MiB.
const SECTORS: u32 = 131_072;
const SECTOR: usize = 512;
/// Size of the file system of an encrypted root, and what its LUKS2 header needs beside it.
const ROOT_SIZE: &str = "24M";
const HEADER_ROOM: u64 = 32 << 20;
/// The first process of an encrypted root.
const ROOT_INIT: &str = include_str!("../../vm/root-init");

/// What the firmware, the boot loaders and the kernel of one boot find on the disk.
#[derive(Debug, Clone, Copy)]
pub struct BootDisk<'a> {
    /// The compressed initramfs.
    pub initrd: &'a [u8],
    /// The text of `grub.cfg`.
    pub grub_cfg: &'a str,
}

impl BootDisk<'_> {
    /// Writes the disk's image: one FAT32 file system with shim, GRUB, its configuration, kernel and initramfs.
    ///
    /// # Panics
    /// When mtools fails.
    pub fn write(&self, boot: &BootFiles, scratch: &Path, image: &Path) {
        let mtools = |tool: &str, arguments: &[&str]| {
            let mut command = std::process::Command::new(boot.path("usr/bin/mtools"));
            // Without a serial number of its own, mformat takes the time.
            command.arg("-c").arg(tool).arg("-i").arg(image).args(arguments);
            tools::run(&mut command, None);
        };
        let file = std::fs::File::create(image).expect("an image");
        file.set_len(u64::from(SECTORS) * 512).expect("room on the disk");
        let sectors = SECTORS.to_string();
        mtools(
            "mformat",
            &[
                "-F", "-c", "1", "-N", "54534254", "-T", &sectors, "-h", "64", "-s", "32", "::",
            ],
        );
        mtools("mmd", &["::/EFI", "::/EFI/BOOT", "::/EFI/debian"]);
        let files = [
            ("::/EFI/BOOT/BOOTX64.EFI", boot.read("usr/lib/shim/shimx64.efi.signed")),
            (
                "::/EFI/BOOT/grubx64.efi",
                boot.read("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"),
            ),
            ("::/EFI/debian/grub.cfg", self.grub_cfg.as_bytes().to_vec()),
            ("::/vmlinuz", boot.kernel()),
            ("::/initrd.img", self.initrd.to_vec()),
        ];
        for (path, contents) in files {
            let from = scratch.join("copied");
            std::fs::write(&from, contents).expect("written");
            mtools("mcopy", &[&from.to_string_lossy(), path]);
        }
    }
}

/// An encrypted root to be made.
#[derive(Debug, Clone, Copy)]
pub struct EncryptedRoot<'a> {
    /// The text of its `/marker`: which root it is.
    pub marker: &'a str,
    /// What opens its one key slot.
    pub passphrase: &'a [u8],
    /// The UUID of its LUKS2 header.
    pub luks_uuid: &'a str,
}

impl EncryptedRoot<'_> {
    /// Writes the disk's image: LUKS2 and in it an ext4 file system with an init that tells the marker. cryptsetup does it
    /// without a device mapper, by encrypting a file system that is there.
    ///
    /// # Panics
    /// When a tool fails.
    pub fn write(&self, boot: &BootFiles, scratch: &Path, image: &Path) {
        let folder = scratch.join("root");
        let _ = std::fs::remove_dir_all(&folder);
        for name in ["bin", "sbin", "dev", "proc", "sys"] {
            std::fs::create_dir_all(folder.join(name)).expect("a folder");
        }
        let programs = [
            ("bin/busybox", boot.read("bin/busybox")),
            ("sbin/init", ROOT_INIT.into()),
        ];
        for (path, contents) in programs {
            let path = folder.join(path);
            std::fs::write(&path, contents).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        }
        std::fs::write(folder.join("marker"), self.marker).expect("written");
        let mut mkfs = boot.program("sbin/mkfs.ext4");
        mkfs.args(["-q", "-F", "-d"]).arg(&folder).arg(image).arg(ROOT_SIZE);
        tools::run(&mut mkfs, None);
        // Room for the header: the file system moves by half of it.
        let file = std::fs::File::options().write(true).open(image).expect("an image");
        let length = file.metadata().expect("a length").len();
        file.set_len(length + HEADER_ROOM).expect("room on the disk");
        let key = scratch.join("root.key");
        std::fs::write(&key, self.passphrase).expect("written");
        let mut encrypt = boot.program("sbin/cryptsetup");
        encrypt.args(["reencrypt", "--encrypt", "--batch-mode", "--type", "luks2"]);
        encrypt.args([
            "--reduce-device-size",
            "32M",
            "--pbkdf",
            "pbkdf2",
            "--pbkdf-force-iterations",
            "1000",
        ]);
        encrypt.arg("--key-file").arg(&key).arg(image);
        tools::run(&mut encrypt, None);
        let mut name = boot.program("sbin/cryptsetup");
        name.args(["luksUUID", "--batch-mode", "--uuid", self.luks_uuid])
            .arg(image);
        tools::run(&mut name, None);
    }
}

/// Writes an archive as a disk's whole contents.
///
/// # Panics
/// When it cannot be written.
pub fn write_data(archive: &Archive, image: &Path) {
    let mut bytes = archive.encode();
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    std::fs::write(image, bytes).expect("written");
}
