//! The control group of a container: how all of it is made to stand still, and ended.
//!
//! cgroup v2 has `cgroup.freeze` and `cgroup.kill` (kernel documentation, "Control Group v2"); where the runtime uses v1,
//! there is the `freezer` hierarchy ("cgroup freezer"). On hybrid machines a process has a place in both, and only that in
//! the hierarchy its runtime uses is its own: so the one is taken in which nothing but the container is. The mounts are
//! found in `/proc/self/mountinfo` (proc(5)), never assumed.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::process::{Process, namespace, numbers};
use super::reason::{ContainerCode, ContainerRefused};

/// The most processes of one group that are looked at.
const MAX_PROCESSES: usize = 65_536;
/// The most groups below one, and how deep.
const MAX_GROUPS: usize = 4096;
/// How often the state of a v1 freezer is read until it is frozen, a millisecond apart.
const FREEZE_LOOKS: usize = 200;

/// A group that is one container's alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    kind: Kind,
    path: PathBuf,
}

/// Which hierarchy it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unified,
    Freezer,
}

impl Cgroup {
    /// The group of the container that begins with `init`.
    ///
    /// # Errors
    /// `container-cgroup-shared` or `container-cgroup-unusable`.
    pub fn of(init: &Process) -> Result<Self, ContainerRefused> {
        let unusable = |found: &dyn std::fmt::Display| ContainerRefused::new(ContainerCode::CgroupUnusable, found);
        let read = |path: &str| text(Path::new(path)).map_err(|error| unusable(&error.kind()));
        let mounts = read("/proc/self/mountinfo")?;
        let places = read(&format!("/proc/{}/cgroup", init.pid()))?;
        let candidates = candidates(&mounts, &places);
        if candidates.is_empty() {
            return Err(unusable(&"neither cgroup v2 nor the v1 freezer is mounted here"));
        }
        let mut why = String::new();
        for candidate in candidates {
            match candidate.is_alone(init) {
                Ok(()) => return Ok(candidate),
                Err(error) => why = format!("{}: {error}", candidate.path.display()),
            }
        }
        Err(ContainerRefused::new(ContainerCode::CgroupShared, why))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing is in it but what the container's init began.
    fn is_alone(&self, init: &Process) -> Result<(), String> {
        let processes = self.processes().map_err(|error| error.kind().to_string())?;
        if !processes.contains(&init.pid()) {
            return Err("the container is not in it".into());
        }
        let (own, depth) = (namespace(init.pid()), numbers(init.pid()).map_or(0, |all| all.len()));
        for pid in processes {
            let below = || numbers(pid).is_some_and(|all| all.len() > depth);
            // One that has just ended is nobody's.
            if pid != init.pid() && namespace(pid).is_some() && namespace(pid) != own && !below() {
                return Err(format!("process {pid} is none of the container's"));
            }
        }
        let (freeze, kill) = match self.kind {
            Kind::Unified => ("cgroup.freeze", "cgroup.kill"),
            Kind::Freezer => ("freezer.state", "cgroup.procs"),
        };
        for file in [freeze, kill] {
            if !self.path.join(file).exists() {
                return Err(format!("no {file}"));
            }
        }
        Ok(())
    }

    /// Makes everything in it stand still.
    ///
    /// # Errors
    /// The operating system's; `TimedOut` where it goes on running.
    pub async fn freeze(&self) -> io::Result<()> {
        match self.kind {
            Kind::Unified => self.write("cgroup.freeze", "1"),
            Kind::Freezer => {
                self.write("freezer.state", "FROZEN")?;
                for _ in 0..FREEZE_LOOKS {
                    if fs::read_to_string(self.path.join("freezer.state"))?.trim() == "FROZEN" {
                        return Ok(());
                    }
                    // Those that forked meanwhile are taken by writing again.
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    self.write("freezer.state", "FROZEN")?;
                }
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// The operating system's.
    pub fn thaw(&self) -> io::Result<()> {
        match self.kind {
            Kind::Unified => self.write("cgroup.freeze", "0"),
            Kind::Freezer => self.write("freezer.state", "THAWED"),
        }
    }

    /// Ends everything in it, frozen or not. What cannot be reached any more has gone with its group.
    pub async fn kill(&self) {
        match self.kind {
            Kind::Unified => {
                let _ = self.write("cgroup.kill", "1");
            }
            Kind::Freezer => {
                // Frozen, no process can fork, and none ends: the numbers stay those of these processes.
                let _ = self.freeze().await;
                for pid in self.processes().unwrap_or_default() {
                    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
                    if let Some(process) = number.and_then(|number| pidfd_open(number, PidfdFlags::empty()).ok()) {
                        let _ = pidfd_send_signal(&process, Signal::KILL);
                    }
                }
                let _ = self.thaw();
            }
        }
    }

    /// Every process in it and below.
    fn processes(&self) -> io::Result<Vec<u32>> {
        let mut open = vec![self.path.clone()];
        let (mut seen, mut found) = (0, Vec::new());
        while let Some(group) = open.pop() {
            seen += 1;
            let text = fs::read_to_string(group.join("cgroup.procs"))?;
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            if seen > MAX_GROUPS || found.len() > MAX_PROCESSES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            let below = fs::read_dir(&group)?.filter_map(Result::ok);
            let folders = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            open.extend(folders.map(|entry| entry.path()));
        }
        Ok(found)
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.path.join(file), text)
    }
}

/// What the kernel says in a file. Paths are bytes there, and anybody who may mount anything (a file system in user space)
/// chooses some: what is no text is not found, and hides nothing else.
fn text(path: &Path) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

/// The groups that the process of `places` (`/proc/PID/cgroup`) is in, by the mounts of `mountinfo`: v2, then the freezer.
/// Roots are left out: everything is in them.
fn candidates(mountinfo: &str, places: &str) -> Vec<Cgroup> {
    let unified = places.lines().find_map(|line| line.strip_prefix("0::"));
    let freezer = places.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers
            .split(',')
            .any(|controller| controller == "freezer")
            .then_some(path)
    });
    let mut found = Vec::new();
    for (kind, place) in [(Kind::Unified, unified), (Kind::Freezer, freezer)] {
        let Some(place) = place.filter(|place| is_below_a_root(place)) else {
            continue;
        };
        let path = mountinfo.lines().find_map(|line| below_mount(line, kind, place));
        found.extend(path.map(|path| Cgroup { kind, path }));
    }
    found
}

/// Absolute, not the root itself, and without dot segments: a place outside our own view shows as `/../…`.
fn is_below_a_root(place: &str) -> bool {
    let mut parts = Path::new(place).components();
    parts.next() == Some(Component::RootDir)
        && place.len() > 1
        && parts.all(|part| matches!(part, Component::Normal(_)))
        && !place.split('/').any(|part| part == "." || part == "..")
}

/// Where `place` is, if this line of mountinfo is a mount of the hierarchy that shows it.
fn below_mount(line: &str, kind: Kind, place: &str) -> Option<PathBuf> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let (filesystem, _, options) = (after.next()?, after.next()?, after.next()?);
    let fits = match kind {
        Kind::Unified => filesystem == "cgroup2",
        Kind::Freezer => filesystem == "cgroup" && options.split(',').any(|option| option == "freezer"),
    };
    if !fits {
        return None;
    }
    let mut fields = before.split(' ').skip(3);
    let (root, point) = (unescaped(fields.next()?)?, unescaped(fields.next()?)?);
    let inside = match root.as_str() {
        "/" => place,
        root => place.strip_prefix(root).filter(|rest| rest.starts_with('/'))?,
    };
    Some(Path::new(&point).join(inside.trim_start_matches('/')))
}

/// Space, tab, newline and backslash stand as three octal digits in mountinfo.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let mut value = 0_u32;
        for _ in 0..3 {
            value = value * 8 + char::from(rest.next()?).to_digit(8)?;
        }
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    fn paths(mounts: &str, places: &str) -> Vec<String> {
        let found = candidates(mounts, places);
        found.iter().map(|group| group.path.display().to_string()).collect()
    }

    #[test]
    fn a_mount_whose_name_is_no_text_keeps_no_container_from_its_group() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mountinfo");
        let odd = b"50 30 0:60 / /home/mallory/\xff\xfe rw,nosuid - fuse.sshfs m rw\n";
        fs::write(&file, [odd, HYBRID.as_bytes()].concat()).unwrap();
        let mounts = text(&file).unwrap();
        assert_eq!(paths(&mounts, "0::/c1\n"), ["/sys/fs/cgroup/unified/c1"]);
        assert!(text(&folder.path().join("none")).is_err());
    }

    #[test]
    fn groups_are_found_where_they_are_mounted() {
        let none: [&str; 0] = [];
        let both = ["/sys/fs/cgroup/unified/c1", "/sys/fs/cgroup/freezer/c1"];
        assert_eq!(paths(HYBRID, "5:freezer:/c1\n0::/c1\n"), both);
        assert_eq!(
            paths(HYBRID, "5:cpu,freezer:/a/c1\n0::/\n"),
            ["/sys/fs/cgroup/freezer/a/c1"]
        );
        let pure = "41 31 0:38 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup rw,nsdelegate\n";
        assert_eq!(
            paths(pure, "0::/system.slice/c1.scope\n"),
            ["/sys/fs/cgroup/system.slice/c1.scope"]
        );
        let inner = "41 31 0:38 /kube /my\\040groups rw - cgroup2 cgroup rw\n";
        assert_eq!(paths(inner, "0::/kube/pod/c1\n"), ["/my groups/pod/c1"]);
        assert_eq!(paths(inner, "0::/kubernetes/c1\n"), none, "not below what is mounted");
        assert_eq!(paths("", "0::/c1\n"), none, "nothing is mounted");
        for (attack, places) in [
            ("the root of all", "5:freezer:/\n0::/\n"),
            ("outside of our view", "5:freezer:/../c1\n0::/../../c1\n"),
            ("dot segments", "0::/a/../../etc\n"),
            ("a dot segment", "0::/./c1\n"),
            ("no slash", "0::c1\n"),
            ("a name that only looks like the freezer", "5:name=freezer:/c1\n"),
            ("nothing", ""),
        ] {
            assert_eq!(paths(HYBRID, places), none, "{attack}");
        }
    }

    #[test]
    fn escapes_of_mountinfo() {
        assert_eq!(unescaped("/a\\040b\\134c").as_deref(), Some("/a b\\c"));
        for cut in ["\\", "\\0", "\\04", "\\09a", "\\777"] {
            assert_eq!(unescaped(cut), None, "{cut}");
        }
    }
}
