//! A cgroup of one's own (version 2, cgroups(7)): frozen and killed with one write, whatever is in it.
//!
//! Where version 2 is mounted is read from `mountinfo` (proc(5)): beside version 1 it is not at `/sys/fs/cgroup`. The group
//! is made below the one this process is in, so that what a service manager has delegated is enough.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

/// How the groups of this program are named: then follow the process that made them and a number.
const PREFIX: &str = "touchstone-exec-";

/// How often it is looked whether a cgroup is empty, while waiting for that.
const LOOK: Duration = Duration::from_millis(1);

/// Why there is no cgroup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// No cgroup version 2 is mounted here.
    #[error("no cgroup version 2 is mounted here")]
    NotMounted,
    /// The kernel is older than 5.14 and cannot kill a cgroup.
    #[error("{}: no cgroup.kill; it needs Linux 5.14", path.display())]
    NoKill {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{}: {kind}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What it said.
        kind: ErrorKind,
    },
    /// Still inhabited after this long.
    #[error("{}: not empty after {after:?}", path.display())]
    NotEmpty {
        /// Which cgroup.
        path: PathBuf,
        /// How long it was waited for.
        after: Duration,
    },
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> CgroupError {
    let path = path.to_owned();
    move |error| CgroupError::Io {
        path,
        kind: error.kind(),
    }
}

/// One cgroup; it is removed when dropped, if nothing is in it any more.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes a cgroup below the one this process is in, and takes away those that processes which are gone have left.
    ///
    /// # Errors
    /// [`CgroupError`]: then one does without.
    pub fn create() -> Result<Self, CgroupError> {
        let read = |path: &str| fs::read(path).map_err(io(Path::new(path)));
        let mounts = read("/proc/self/mountinfo")?;
        let own = read("/proc/self/cgroup")?;
        let parent = place(&mounts, &own).ok_or(CgroupError::NotMounted)?;
        sweep(&parent);
        Self::create_in(&parent)
    }

    fn create_in(parent: &Path) -> Result<Self, CgroupError> {
        let mut number = 0_u32;
        let group = loop {
            let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => break Self { path },
                Err(error) if error.kind() == ErrorKind::AlreadyExists && number < 10_000 => number += 1,
                Err(error) => return Err(io(&path)(error)),
            }
        };
        let kill = group.path.join("cgroup.kill");
        if kill.exists() {
            Ok(group)
        } else {
            Err(CgroupError::NoKill { path: kill })
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a process here; what it starts from now on begins here.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn add(&self, pid: u32) -> Result<(), CgroupError> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Stops everything where it stands.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.write("cgroup.freeze", "1")
    }

    /// Lets everything go on.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.write("cgroup.freeze", "0")
    }

    /// Kills everything, what is being forked at this moment and what is frozen too.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn kill(&self) -> Result<(), CgroupError> {
        self.write("cgroup.kill", "1")
    }

    /// Whether anything lives in it, zombies not counted.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn populated(&self) -> Result<bool, CgroupError> {
        self.event("populated")
    }

    /// Whether all in it stands still.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn frozen(&self) -> Result<bool, CgroupError> {
        self.event("frozen")
    }

    /// Waits until nothing lives in it.
    ///
    /// # Errors
    /// [`CgroupError::NotEmpty`] after `patience`.
    pub fn wait_until_empty(&self, patience: Duration) -> Result<(), CgroupError> {
        let begun = Instant::now();
        while self.populated()? {
            let path = self.path.clone();
            if begun.elapsed() >= patience {
                return Err(CgroupError::NotEmpty { path, after: patience });
            }
            pause(LOOK);
        }
        Ok(())
    }

    fn event(&self, name: &str) -> Result<bool, CgroupError> {
        let path = self.path.join("cgroup.events");
        let events = fs::read_to_string(&path).map_err(io(&path))?;
        let value = events
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value == Some("1"))
    }

    fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        let path = self.path.join(file);
        // Never created: where the file is not there it is no cgroup.
        let opened = fs::OpenOptions::new().write(true).open(&path);
        opened
            .and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()))
            .map_err(io(&path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// Waits without looking at anything: for what the kernel tells nobody.
pub(crate) fn pause(time: Duration) {
    let timeout = rustix::time::Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(0),
        tv_nsec: time.subsec_nanos().into(),
    };
    let _ = rustix::event::poll(&mut [], Some(&timeout));
}

/// The folder of the cgroup that a process with these `/proc/self/mountinfo` and `/proc/self/cgroup` is in.
fn place(mounts: &[u8], own: &[u8]) -> Option<PathBuf> {
    let own = own
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"0::"))?;
    let own = Path::new(OsStr::from_bytes(own));
    let climbs = own.components().any(|part| part == Component::ParentDir);
    let Mount { root, point, .. } = hierarchies(mounts).find(|mount| mount.is_version_2)?;
    // What is mounted may be a part of the hierarchy, and this process may be outside of it.
    match own.strip_prefix(root) {
        Ok(below) if !climbs => Some(point.join(below)),
        _ => Some(point),
    }
}

/// A mount of a hierarchy of cgroups, of either version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    is_version_2: bool,
}

/// The hierarchies of cgroups in a `mountinfo`. Paths are bytes there, and anybody who may mount anything (a file system in
/// user space) chooses some: no line may hide another.
pub(crate) fn hierarchies(mountinfo: &[u8]) -> impl Iterator<Item = Mount> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(hierarchy)
}

fn hierarchy(line: &[u8]) -> Option<Mount> {
    // "36 35 98:0 ROOT POINT options optional… - TYPE source options", proc(5).
    let mut fields = line.split(|byte| *byte == b' ');
    let (root, point) = (fields.by_ref().nth(3)?, fields.next()?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    let is_version_2 = kind == b"cgroup2";
    (is_version_2 || kind == b"cgroup").then(|| Mount {
        root: unescape(root),
        point: unescape(point),
        is_version_2,
    })
}

/// A path as `mountinfo` writes it: space, tab, newline and backslash as three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    let (mut path, mut rest) = (Vec::with_capacity(text.len()), text);
    while let [first, after @ ..] = rest {
        let octal = match rest {
            [
                b'\\',
                high @ b'0'..=b'3',
                middle @ b'0'..=b'7',
                low @ b'0'..=b'7',
                after @ ..,
            ] => Some(((high & 7) << 6 | (middle & 7) << 3 | (low & 7), after)),
            _ => None,
        };
        let (byte, after) = octal.unwrap_or((*first, after));
        path.push(byte);
        rest = after;
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

/// Takes away empty groups of processes that are gone.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let gone = maker.is_some_and(|maker| !Path::new("/proc").join(maker).exists());
        if gone {
            // The kernel refuses where anything lives in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_wherever_it_is() {
        let hybrid = "31 24 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      39 31 0:36 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let unified = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let part = "30 24 0:26 /system.slice/a.service /cg rw - cgroup2 cgroup rw\n";
        let spaced = "30 24 0:26 / /mnt/a\\040b rw - cgroup2 cgroup rw\n";
        for (name, mounts, own, expected) in [
            (
                "beside version 1",
                hybrid,
                "4:memory:/x\n0::/\n",
                Some("/sys/fs/cgroup/unified"),
            ),
            (
                "alone, in a service",
                unified,
                "0::/system.slice/a.service\n",
                Some("/sys/fs/cgroup/system.slice/a.service"),
            ),
            (
                "a part is mounted",
                part,
                "0::/system.slice/a.service/b\n",
                Some("/cg/b"),
            ),
            ("outside of the part", part, "0::/user.slice\n", Some("/cg")),
            (
                "above a cgroup namespace",
                unified,
                "0::/../../x\n",
                Some("/sys/fs/cgroup"),
            ),
            ("a space in the path", spaced, "0::/\n", Some("/mnt/a b")),
            (
                "no version 2",
                "39 31 0:36 / /c rw - cgroup cgroup rw\n",
                "0::/\n",
                None,
            ),
            ("only version 1 for this process", hybrid, "4:memory:/x\n", None),
            ("nothing", "", "", None),
        ] {
            let found = place(mounts.as_bytes(), own.as_bytes());
            assert_eq!(found.as_deref(), expected.map(Path::new), "{name}");
        }
    }

    #[test]
    fn a_mount_whose_name_is_no_text_hides_no_other_one() {
        // fusermount(1) mounts for any user, wherever that user may write.
        let mounts = b"50 30 0:60 / /home/mallory/\xff\xfe rw,nosuid - fuse.sshfs m rw\n\
            30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n\
            31 24 0:27 / /mnt/\xff\\040x rw - cgroup none rw,freezer\n\
            51 30 0:61 / /home/mallory/\\040-\\040cgroup2 rw - fuse.x cgroup2 rw\n\
            32 24\n\n";
        let found: Vec<PathBuf> = hierarchies(mounts).map(|mount| mount.point).collect();
        let odd = PathBuf::from(OsStr::from_bytes(b"/mnt/\xff x"));
        assert_eq!(found, [PathBuf::from("/sys/fs/cgroup"), odd]);
        let own = b"0::/a/\xff\n";
        let expected = PathBuf::from(OsStr::from_bytes(b"/sys/fs/cgroup/a/\xff"));
        assert_eq!(place(mounts, own), Some(expected));
        for (text, path) in [
            (&b"a\\040b"[..], &b"a b"[..]),
            (b"\\134040", b"\\040"),
            (b"\\011\\012\\134", b"\t\n\\"),
            (b"\\04", b"\\04"),
            (b"\\", b"\\"),
            (b"", b""),
        ] {
            assert_eq!(unescape(text).as_os_str().as_bytes(), path);
        }
    }
}
