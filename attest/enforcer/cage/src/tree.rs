//! All descendants of a process, where no namespace bounds them: found in `/proc`, again and again until none is left.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Rounds after which a tree that grows as fast as it is killed is given up; each round stops everything it finds before
/// it kills it, so that more than a few mean that something else is wrong.
const MAX_ROUNDS: usize = 64;

/// The parent in a `/proc/PID/stat`: the second field after the name, which is in parentheses and may hold anything.
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Everything below `root`, by what the kernel shows now.
pub(crate) fn descendants(root: i32) -> BTreeSet<i32> {
    let mut pairs = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        // A process is called what it likes, and that need not be text: it must not be passed over for it.
        let stat = fs::read(entry.path().join("stat"));
        if let (Some(pid), Ok(stat)) = (pid, stat)
            && let Some(parent) = parent(&String::from_utf8_lossy(&stat))
        {
            pairs.push((pid, parent));
        }
    }
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        for (pid, parent) in &pairs {
            if found.contains(parent) {
                found.insert(*pid);
            }
        }
        if found.len() == before {
            found.remove(&root);
            return found;
        }
    }
}

/// Sends a signal to everything below `root`, and to what was started meanwhile.
pub(crate) fn signal(root: i32, signal: Signal) {
    let mut done = BTreeSet::new();
    for _ in 0..MAX_ROUNDS {
        let more: Vec<i32> = descendants(root).difference(&done).copied().collect();
        if more.is_empty() {
            return;
        }
        for pid in more {
            let _ = kill(Pid::from_raw(pid), signal);
            done.insert(pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pretend_another_parent() {
        for (stat, expected) in [
            ("7 (sh) S 3 7 7 0", Some(3)),
            ("7 (a) S 1 (b) R 9 7 7 0", Some(9)),
            ("7 (evil) 1 1 1) S 4 7", Some(4)),
            ("7 (sh", None),
            ("", None),
        ] {
            assert_eq!(parent(stat), expected, "{stat}");
        }
    }
}
