//! An encrypted volume, opened with cryptsetup(8). Keys go through pipes only: never an argument, never a file, never the
//! environment; in memory of ours they are wiped.
//!
//! Two steps, so that it is known *which* volume it is before it can be entered: the passphrase gives the volume key, and
//! the volume key opens the disk. Both by a copy of the header ([`super::header`]).

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use touchstone_verifier::bootstrap::{register_after, volume_digest};
use touchstone_verifier::tpm::HashAlg;
use zeroize::Zeroizing;

use super::header::{self, HeaderError};

/// Most bytes of cryptsetup's words about a volume key: 64 bytes of key in hexadecimal, and what is around it.
const MAX_DUMP: usize = 16 * 1024;
/// Most bytes of cryptsetup's complaints that are kept.
const MAX_COMPLAINT: u64 = 1024;
/// Lengths of a volume key for AES-XTS, in bytes.
const KEY_LENGTHS: [usize; 2] = [32, 64];
/// Where block devices are listed, and where their files are.
const BLOCK_DEVICES: &str = "/sys/class/block";
const DEVICES: &str = "/dev";

touchstone_cose::reason_codes! {
    /// Why a node does not open its encrypted disk although the broker lets it.
    pub enum VolumeCode {
        Absent = "volume-absent": "No disk has the LUKS2 UUID of the inventory. Is the disk connected and its driver in the initramfs? After a reinstallation: touchstone policy node volume.",
        Ambiguous = "volume-ambiguous": "Several disks have the LUKS2 UUID of the inventory. Disconnect the copy, or name the disk: device in the [bootstrap] table of agent.toml.",
        UuidOther = "volume-uuid-other": "The disk that the configuration names has another LUKS2 UUID than the inventory. Find out who replaced the disk; if it was meant, list the new one.",
        HeaderRefused = "volume-header-refused": "The disk's LUKS2 header says something that could let unencrypted or foreign data be read. Restore it from a header backup; somebody may have written to the disk.",
        KeyOpensNothing = "volume-key-opens-no-slot": "The key from the broker opens no key slot of the disk. Open it with the recovery passphrase and enrol the broker's key anew (touchstone key, cryptsetup luksAddKey).",
        Other = "volume-not-the-inventorys": "The disk's volume key is not the one that the inventory expects for this node: it is another volume, or a copy made anew. It was not entered. After a re-encryption: touchstone bootstrap measure, touchstone policy node volume.",
        RegisterOther = "volume-register-moved": "Register 15 is not what the measurement of the volume key alone gives: something else was measured meanwhile. Reboot.",
        Failed = "volume-cannot-be-opened": "A program or a file that is needed to open the disk failed. The words say which; cryptsetup 2.4 or newer, dm_crypt and its ciphers must be in the initramfs.",
    }
}

/// Why a volume was not found or not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// No disk has it.
    #[error("no disk with the LUKS2 UUID {uuid} is there")]
    Absent {
        /// The one looked for.
        uuid: String,
    },
    /// Several have it.
    #[error("several disks have the LUKS2 UUID {uuid}: {}", devices.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", "))]
    Ambiguous {
        /// The one looked for.
        uuid: String,
        /// Where it was found.
        devices: Vec<PathBuf>,
    },
    /// The device that the configuration names has another one.
    #[error("{}: expected the LUKS2 UUID {expected}, found {found}", device.display())]
    OtherUuid {
        /// The device.
        device: PathBuf,
        /// The inventory's.
        expected: String,
        /// The device's.
        found: String,
    },
    /// The header says something that is not accepted.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The key opens no slot.
    #[error("the key from the broker opens no key slot of the disk")]
    NoSlot,
    /// A program, a file or a pipe.
    #[error("{what}: {cause}")]
    Failed {
        /// What was tried.
        what: String,
        /// What was said.
        cause: String,
    },
}

impl VolumeError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> VolumeCode {
        match self {
            Self::Absent { .. } => VolumeCode::Absent,
            Self::Ambiguous { .. } => VolumeCode::Ambiguous,
            Self::OtherUuid { .. } => VolumeCode::UuidOther,
            Self::Header(_) => VolumeCode::HeaderRefused,
            Self::NoSlot => VolumeCode::KeyOpensNothing,
            Self::Failed { .. } => VolumeCode::Failed,
        }
    }

    /// Whether trying again may help: a disk that is not there yet, a program that failed.
    #[must_use]
    pub const fn may_heal(&self) -> bool {
        matches!(self, Self::Absent { .. } | Self::NoSlot | Self::Failed { .. })
    }
}

/// A device and a checked copy of its header, in memory. The copy is removed when this is dropped.
#[derive(Debug)]
pub struct Volume {
    cryptsetup: PathBuf,
    device: PathBuf,
    header: PathBuf,
    uuid: String,
}

/// A volume key, wiped when dropped.
pub struct VolumeKey(Zeroizing<Vec<u8>>);

impl VolumeKey {
    /// What is extended into register 15 in this bank, by the name the volume gets.
    #[must_use]
    pub fn digest(&self, bank: HashAlg, name: &str, uuid: &str) -> Vec<u8> {
        volume_digest(bank, &self.0, name, uuid)
    }

    /// Register 15 after that.
    #[must_use]
    pub fn register(&self, bank: HashAlg, name: &str, uuid: &str) -> Vec<u8> {
        register_after(bank, &self.0, name, uuid)
    }
}

impl std::fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VolumeKey(..)")
    }
}

/// The device with this UUID: `configured`, or the one among all block devices.
///
/// # Errors
/// [`VolumeError::Absent`], [`VolumeError::Ambiguous`], [`VolumeError::OtherUuid`].
pub fn find(uuid: &str, configured: Option<&Path>) -> Result<PathBuf, VolumeError> {
    if let Some(device) = configured {
        return match read_uuid(device) {
            Some(found) if found == uuid => Ok(device.to_owned()),
            Some(found) => Err(VolumeError::OtherUuid {
                device: device.to_owned(),
                expected: uuid.to_owned(),
                found,
            }),
            None => Err(VolumeError::Absent { uuid: uuid.to_owned() }),
        };
    }
    let listed = std::fs::read_dir(BLOCK_DEVICES).map_err(failed(BLOCK_DEVICES))?;
    let mut devices: Vec<PathBuf> = listed
        .filter_map(|entry| Some(Path::new(DEVICES).join(entry.ok()?.file_name())))
        .filter(|device| read_uuid(device).as_deref() == Some(uuid))
        .collect();
    devices.sort();
    match devices.as_slice() {
        [device] => Ok(device.clone()),
        [] => Err(VolumeError::Absent { uuid: uuid.to_owned() }),
        _ => Err(VolumeError::Ambiguous {
            uuid: uuid.to_owned(),
            devices,
        }),
    }
}

/// The UUID of a LUKS2 header at the beginning of a device or file.
#[must_use]
pub fn read_uuid(device: &Path) -> Option<String> {
    let mut first = [0; header::BINARY_HEADER];
    File::open(device).ok()?.read_exact(&mut first).ok()?;
    header::uuid_of(&first).map(str::to_owned)
}

impl Volume {
    /// Copies the header of `device` into `folder`, which must not be on a disk, and checks the copy.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub fn read(cryptsetup: &Path, device: &Path, folder: &Path) -> Result<Self, VolumeError> {
        let header = folder.join("luks2-header");
        // One of an attempt before.
        let _ = std::fs::remove_file(&header);
        let mut volume = Self {
            cryptsetup: cryptsetup.to_owned(),
            device: device.to_owned(),
            header,
            uuid: String::new(),
        };
        let mut copy = volume.command("luksHeaderBackup");
        copy.arg(&volume.device).arg("--header-backup-file").arg(&volume.header);
        run(copy, &[], 0)?;
        let mut dump = volume.command("luksDump");
        dump.arg("--dump-json-metadata").arg(&volume.header);
        let metadata = run(dump, &[], usize::try_from(header::MAX_METADATA).unwrap_or(usize::MAX))?;
        header::check(&metadata)?;
        volume.uuid = read_uuid(&volume.header).ok_or_else(|| HeaderError::Unreadable("no UUID".into()))?;
        Ok(volume)
    }

    /// The UUID in the copy of the header.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The volume key, from the key slot that `passphrase` opens.
    ///
    /// # Errors
    /// [`VolumeError::NoSlot`], [`VolumeError::Failed`].
    pub fn key(&self, passphrase: &[u8]) -> Result<VolumeKey, VolumeError> {
        let mut dump = self.command("luksDump");
        dump.args(["--dump-volume-key", "--key-file=-"]).arg(&self.header);
        let said = run(dump, passphrase, MAX_DUMP)?;
        dumped_key(&said).map(VolumeKey).ok_or_else(|| VolumeError::Failed {
            what: "cryptsetup luksDump".into(),
            cause: "no volume key in what it says; cryptsetup 2.4 or newer is needed".into(),
        })
    }

    /// Opens the volume as `/dev/mapper/NAME` with its own key. cryptsetup compares the key with the header's digest.
    ///
    /// # Errors
    /// [`VolumeError::Failed`].
    pub fn open(&self, key: &VolumeKey, name: &str) -> Result<(), VolumeError> {
        let mut open = self.command("open");
        // Standard input by its name under /proc: an initramfs need not have /dev/stdin.
        open.args(["--type", "luks2", "--volume-key-file", "/proc/self/fd/0", "--header"])
            .arg(&self.header)
            .arg(&self.device)
            .arg(name);
        run(open, &key.0, 0).map(drop)
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(&self.cryptsetup);
        // In English, and without what could change its way of working.
        command.env_clear().env("LC_ALL", "C").args([action, "--batch-mode"]);
        command
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.header);
    }
}

/// cryptsetup's exit code for "no permission (bad passphrase)" (cryptsetup(8), return codes).
const BAD_PASSPHRASE: i32 = 2;

/// Runs it with `secret` on standard input; gives what it says, at most `limit` bytes, in memory that is wiped.
fn run(mut command: Command, secret: &[u8], limit: usize) -> Result<Zeroizing<Vec<u8>>, VolumeError> {
    let what = format!(
        "{} {}",
        command.get_program().to_string_lossy(),
        command.get_args().next().unwrap_or_default().to_string_lossy()
    );
    let failed = failed(&what.clone());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(if limit > 0 { Stdio::piped() } else { Stdio::null() })
        .stderr(Stdio::piped())
        .spawn()
        .map_err(&failed)?;
    if let Some(mut input) = child.stdin.take() {
        // A program that ends without reading says why by itself.
        let _ = input.write_all(secret);
    }
    let mut said = Zeroizing::new(Vec::new());
    if let Some(output) = child.stdout.take() {
        // Room for all of it: a vector that grows leaves what it held behind.
        said.reserve_exact(limit + 1);
        output.take(limit as u64 + 1).read_to_end(&mut said).map_err(&failed)?;
    }
    let mut complaint = Vec::new();
    if let Some(errors) = child.stderr.take() {
        errors
            .take(MAX_COMPLAINT)
            .read_to_end(&mut complaint)
            .map_err(&failed)?;
    }
    let status = child.wait().map_err(&failed)?;
    if status.code() == Some(BAD_PASSPHRASE) && !secret.is_empty() {
        return Err(VolumeError::NoSlot);
    }
    if !status.success() || said.len() > limit {
        let text = String::from_utf8_lossy(&complaint);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        return Err(VolumeError::Failed {
            what,
            cause: format!("{status}: {}", touchstone_verifier::reason::sanitise(&words, 256)),
        });
    }
    Ok(said)
}

fn failed(what: &str) -> impl Fn(std::io::Error) -> VolumeError + use<> {
    let what = what.to_owned();
    move |error| VolumeError::Failed {
        what: what.clone(),
        cause: error.to_string(),
    }
}

/// The key in what `luksDump --dump-volume-key` prints: after `MK bits:` its length, after `MK dump:` its bytes in
/// hexadecimal, to the end.
fn dumped_key(said: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = std::str::from_utf8(said).ok()?;
    let (head, dump) = text.split_once("MK dump:")?;
    let bits = head.split_once("MK bits:")?.1.split_whitespace().next()?;
    let length = bits.parse::<usize>().ok()? / 8;
    if !KEY_LENGTHS.contains(&length) {
        return None;
    }
    let mut key = Zeroizing::new(Vec::with_capacity(length));
    for pair in dump.split_ascii_whitespace() {
        if key.len() == length {
            return None;
        }
        let mut byte = Zeroizing::new([0u8; 1]);
        hex::decode_to_slice(pair, byte.as_mut_slice()).ok()?;
        key.extend_from_slice(byte.as_slice());
    }
    (key.len() == length).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";
    const PASSPHRASE: &[u8] = b"a passphrase with a \n and a \0 in it";

    /// A disk in a file: cryptsetup makes one without a device mapper.
    fn disk(folder: &Path, passphrase: &[u8]) -> Option<PathBuf> {
        if !Path::new(CRYPTSETUP).exists() {
            eprintln!("skipped: {CRYPTSETUP} is not installed");
            return None;
        }
        let image = folder.join("disk.img");
        File::create(&image).unwrap().set_len(40 << 20).unwrap();
        let mut format = Command::new(CRYPTSETUP);
        format.args(["luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2"]);
        format
            .args(["--pbkdf-force-iterations", "1000", "--key-file=-"])
            .arg(&image);
        run(format, passphrase, 0).unwrap();
        Some(image)
    }

    #[test]
    fn a_real_disk_gives_its_volume_key_for_its_passphrase_only() {
        let folder = tempfile::tempdir().unwrap();
        let Some(image) = disk(folder.path(), PASSPHRASE) else {
            return;
        };
        let volume = Volume::read(Path::new(CRYPTSETUP), &image, folder.path()).unwrap();
        assert_eq!(Some(volume.uuid()), read_uuid(&image).as_deref());
        let key = volume.key(PASSPHRASE).unwrap();
        assert_eq!((key.0.len(), format!("{key:?}").as_str()), (64, "VolumeKey(..)"));
        assert_eq!(volume.key(PASSPHRASE).unwrap().0, key.0, "the same each time");
        assert_eq!(volume.key(b"another").unwrap_err(), VolumeError::NoSlot);
        assert_eq!(find(volume.uuid(), Some(&image)), Ok(image.clone()));
        let other = find("00000000-0000-4000-8000-000000000000", Some(&image));
        assert!(matches!(other, Err(VolumeError::OtherUuid { .. })), "{other:?}");
        let copy = volume.header.clone();
        assert!(copy.exists());
        drop(volume);
        assert!(!copy.exists(), "the copy of the header is gone");
    }

    /// The header says that the data are under the null cipher, and is otherwise as it was: both copies, with checksums that
    /// are right (specification, 2.1 and 2.4). Its key slot still gives the right volume key.
    fn forge(image: &Path) {
        const HEADER: usize = 16 * 1024;
        const CHECKSUM: std::ops::Range<usize> = 448..512;
        let mut bytes = std::fs::read(image).unwrap();
        for copy in bytes.chunks_mut(HEADER).take(2) {
            let cipher = b"aes-xts-plain64";
            // The last one is that of the data: key slots come before.
            let at = copy.windows(cipher.len()).rposition(|found| found == cipher).unwrap();
            copy[at..at + cipher.len()].copy_from_slice(b"cipher_null-ecb");
            copy[CHECKSUM].fill(0);
            let digest = <sha2::Sha256 as sha2::Digest>::digest(&*copy);
            copy[CHECKSUM.start..CHECKSUM.start + digest.len()].copy_from_slice(&digest);
        }
        std::fs::write(image, bytes).unwrap();
    }

    #[test]
    fn a_forged_header_that_calls_the_data_unencrypted_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let Some(image) = disk(folder.path(), PASSPHRASE) else {
            return;
        };
        let program = Path::new(CRYPTSETUP);
        let key = Volume::read(program, &image, folder.path())
            .unwrap()
            .key(PASSPHRASE)
            .unwrap();
        forge(&image);
        // cryptsetup itself takes it, and the key is the right one: only the check stands between.
        let mut dump = Command::new(CRYPTSETUP);
        dump.args(["luksDump", "--batch-mode", "--dump-volume-key", "--key-file=-"])
            .arg(&image);
        assert_eq!(dumped_key(&run(dump, PASSPHRASE, MAX_DUMP).unwrap()).unwrap(), key.0);
        let read = Volume::read(program, &image, folder.path());
        let Err(VolumeError::Header(HeaderError::Other { what, found, .. })) = &read else {
            panic!("{read:?}");
        };
        assert_eq!((*what, found.as_str()), ("cipher of the data", "cipher_null-ecb"));
    }

    #[test]
    fn a_file_that_is_no_disk_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.img");
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(read_uuid(&image), None);
        let uuid = "4878cbe9-f3c5-4d20-82da-b2bb10ae2940".to_owned();
        assert_eq!(
            find(&uuid, Some(&image)),
            Err(VolumeError::Absent { uuid: uuid.clone() })
        );
        assert_eq!(find(&uuid, None), Err(VolumeError::Absent { uuid }));
        for program in [CRYPTSETUP, "/nonexistent/cryptsetup"] {
            let read = Volume::read(Path::new(program), &image, folder.path());
            assert!(matches!(read, Err(VolumeError::Failed { .. })), "{program}: {read:?}");
        }
    }

    #[test]
    fn only_a_whole_volume_key_is_read() {
        let said = |bits: &str, dump: &str| {
            let text = format!("UUID: x\nMK bits:       \t{bits}\nMK dump:\t{dump}\n");
            dumped_key(text.as_bytes()).map(|key| key.len())
        };
        let line = "d9 52 4f 7b 00 49 ee ea a7 73 40 f8 cd b0 d6 0f \n\t\t";
        assert_eq!(said("512", &line.repeat(4)), Some(64));
        assert_eq!(said("256", &line.repeat(2)), Some(32));
        for (bits, dump) in [
            ("512", line.repeat(3)),
            ("512", line.repeat(5)),
            ("512", format!("{}d9 5", line.repeat(3))),
            ("512", format!("{}zz", line.repeat(4))),
            ("0", String::new()),
            ("8", "d9".into()),
            ("x", line.repeat(4)),
        ] {
            assert_eq!(said(bits, &dump), None, "{bits} {dump}");
        }
        assert_eq!(dumped_key(b""), None);
        assert_eq!(dumped_key(&[0xff; 64]), None);
    }
}
