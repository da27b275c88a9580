//! The disks of the guest, made without root: the EFI system partition, and a data disk that holds an archive.
#![expect(
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::path::Path;

use super::cpio::Archive;
use super::files::BootFiles;
use crate::tools;

/// Sectors of 512 bytes of the boot disk. FAT32 needs 65,525 clusters; kernel and initramfs need 35 MiB.
const SECTORS: u32 = 131_072;
const SECTOR: usize = 512;

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

/// Writes an archive as a disk's whole contents.
///
/// # Panics
/// When it cannot be written.
pub fn write_data(archive: &Archive, image: &Path) {
    let mut bytes = archive.encode();
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    std::fs::write(image, bytes).expect("written");
}
