//! The initramfs of the guest: busybox, kernel modules, the command under test with its libraries, and an init.
#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::cpio::Archive;
use super::files::{self, BootFiles};

/// What the guest needs to see its disks and its network; TPM driver, IMA and serial lines are in the kernel.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "virtio_net"];
const INIT: &str = include_str!("../../vm/init");
/// The TCTI for a kernel's TPM. libtss2 loads it by name, so `ldd` does not tell of it.
const TCTI: &str = "libtss2-tcti-device.so.0";

/// What an initramfs has that opens an encrypted disk: dm-crypt with its cipher, cryptsetup, and the script that a
/// distribution's initramfs runs.
const DISK_MODULES: [&str; 5] = ["dm_mod", "dm_crypt", "xts", "ecb", "algif_skcipher"];
const CRYPTSETUP: &str = "sbin/cryptsetup";
const SCRIPT: &str = include_str!("../../../packaging/touchstone-bootstrap");

/// What a machine's initramfs is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The agent runs in it.
    Agent,
    /// It opens an encrypted disk and goes on there.
    EncryptedRoot,
}

/// Builds the archive, not yet compressed. `scratch` is a folder for what is made on the way.
///
/// # Panics
/// When a part is missing.
#[must_use]
pub fn build(boot: &BootFiles, purpose: Purpose, scratch: &Path) -> Archive {
    let mut archive = Archive::new();
    archive.character_device("/dev/console", (5, 1));
    archive.file("/bin/busybox", 0o755, boot.read("bin/busybox"));
    let command = files::command();
    archive.file("/bin/touchstone", 0o755, stripped(&command, scratch));
    for library in libraries_of(&command) {
        // Where the loader looks for it: the path that `ldd` gives, whatever links lead there.
        archive.file(&library.to_string_lossy(), 0o755, files::read(&library));
    }
    let mut names = MODULES.to_vec();
    if purpose == Purpose::EncryptedRoot {
        names.extend(DISK_MODULES);
        archive.file("/sbin/cryptsetup", 0o755, boot.read(CRYPTSETUP));
        for (library, path) in boot.libraries(CRYPTSETUP) {
            archive.file(&path.to_string_lossy(), 0o755, files::read(&library));
        }
        archive.file("/bin/touchstone-bootstrap", 0o755, SCRIPT.as_bytes().to_vec());
        // The programs that the script calls, as an initramfs of a distribution has them.
        for path in ["/bin/sh", "/bin/sleep"] {
            archive.link(path, "busybox");
        }
    }
    let mut modules = Vec::new();
    for name in names {
        add_module(boot, name, &mut modules);
    }
    let order: Vec<_> = modules.iter().map(|(file, _)| file.as_str()).collect();
    archive.file("/init", 0o755, INIT.replace("@MODULES@", &order.join(" ")).into_bytes());
    for (file, bytes) in modules {
        archive.file(&format!("/lib/modules/{file}"), 0o644, bytes);
    }
    archive
}

/// Compresses an archive; the same archive gives the same bytes.
///
/// # Panics
/// Never: it is all in memory.
#[must_use]
pub fn compressed(archive: &Archive) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(&archive.encode()).expect("memory");
    encoder.finish().expect("memory")
}

/// The program without its symbols: a debug build carries a hundred megabytes of them.
fn stripped(program: &Path, scratch: &Path) -> Vec<u8> {
    let to = scratch.join("touchstone.stripped");
    let done = Command::new("strip")
        .arg("--strip-all")
        .arg("-o")
        .arg(&to)
        .arg(program)
        .status();
    assert!(done.expect("strip of binutils").success(), "{}", program.display());
    files::read(&to)
}

fn libraries_of(command: &Path) -> Vec<PathBuf> {
    let mut libraries = files::libraries(command);
    let beside = |library: &PathBuf| library.with_file_name(TCTI);
    let Some(tcti) = libraries.iter().map(beside).find(|tcti| tcti.exists()) else {
        panic!("{TCTI} is not beside the other libraries: install libtss2-tcti-device0");
    };
    libraries.extend(files::libraries(&tcti));
    libraries.push(tcti);
    libraries.sort();
    libraries.dedup();
    libraries
}

/// Adds a module after those it depends on.
fn add_module(boot: &BootFiles, name: &str, modules: &mut Vec<(String, Vec<u8>)>) {
    let (file, bytes) = boot.module(name);
    if modules.iter().any(|(known, _)| *known == file) {
        return;
    }
    for needed in depends(&bytes) {
        add_module(boot, &needed, modules);
    }
    modules.push((file, bytes));
}

/// The names in a module's `depends=` line (modinfo(8)).
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let (_, rest) = module.split_at(at + KEY.len());
    let line = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    line.split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_of_a_module() {
        assert_eq!(
            depends(b"\x7fELF\0license=GPL\0depends=virtio,virtio_ring\0retpoline=Y\0"),
            ["virtio", "virtio_ring"]
        );
        assert_eq!(depends(b"\x7fELF\0depends=\0intree=Y\0"), Vec::<String>::new());
    }
}
