//! Whether what was stopped by a signal stands still.
//!
//! A cgroup freezes whoever is in it; SIGSTOP is undone by any SIGCONT, and a process can have the kernel send itself one
//! (timer_create(2)). So it is looked at again and again, each thread by itself: a process whose first thread has ended is
//! shown as a zombie while the others run. Between two looks a thread that stands still is not switched to, either
//! (proc_pid_status(5), `voluntary_ctxt_switches`).

use std::collections::BTreeMap;
use std::fs;

use crate::tree;

/// At how many looks a thread may be seen on its way to where it stops. One that is in the middle of a system call ends that
/// first, and is not counted while it sleeps there: a parent in vfork(2) does so for as long as its child stands still.
const MOST_LOOKS: u32 = 100;

/// When a thread was started, and how often it was switched to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    started: u64,
    switches: u64,
}

/// What one look shows of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    Stopped(Seen),
    /// In a system call that no signal interrupts.
    Asleep,
    Moving,
    Ended,
}

/// What is known of a thread since everything was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// On its way, and at how many looks it was seen moving.
    Waited(u32),
    /// Stopped at one look: it may have been about to be switched away from.
    Stopped,
    /// Stopped, and so it stays.
    Still(Seen),
}

/// What was seen since everything was stopped.
#[derive(Debug, Default)]
pub(crate) struct Stillness {
    threads: BTreeMap<i32, Known>,
    /// Nothing moved at one look: from there on nothing begins.
    settled: bool,
}

impl Stillness {
    /// Looks at everything below `root`.
    ///
    /// # Errors
    /// In words: something goes on, or that cannot be seen.
    pub fn look(&mut self, root: i32) -> Result<(), String> {
        // One that shows another namespace shows others under these numbers.
        let own = fs::read_link("/proc/self").map_err(|error| format!("/proc/self: {error}"))?;
        if own.to_str() != Some(std::process::id().to_string().as_str()) {
            return Err("/proc is of another namespace, so nobody can see whether it does".to_owned());
        }
        let found = tree::descendants(root).into_iter().flat_map(threads).collect();
        self.judge(found)
    }

    fn judge(&mut self, found: Vec<(i32, Now)>) -> Result<(), String> {
        let settled = self.settled;
        let mut moves = false;
        for (thread, now) in found {
            if now == Now::Ended {
                continue;
            }
            moves |= now == Now::Moving;
            let before = self.threads.get(&thread).copied();
            let known = match (before, now) {
                (None, _) if settled => return Err(format!("thread {thread} has begun")),
                (Some(Known::Still(before)), Now::Stopped(seen)) if before == seen => Known::Still(seen),
                (Some(Known::Still(_)), _) => return Err(format!("thread {thread} has gone on")),
                (Some(Known::Stopped), Now::Stopped(seen)) => Known::Still(seen),
                (Some(Known::Stopped), _) => return Err(format!("thread {thread} goes on")),
                (_, Now::Stopped(_)) => Known::Stopped,
                (before, now) => {
                    let waited = match before {
                        Some(Known::Waited(looks)) => looks,
                        _ => 0,
                    };
                    let waited = waited.saturating_add(u32::from(now == Now::Moving));
                    if waited >= MOST_LOOKS {
                        return Err(format!("thread {thread} does not stop"));
                    }
                    Known::Waited(waited)
                }
            };
            self.threads.insert(thread, known);
        }
        self.settled |= !moves;
        Ok(())
    }
}

/// Every thread of a process, as the kernel shows it now; none of one that is gone.
fn threads(pid: i32) -> Vec<(i32, Now)> {
    let folder = fs::read_dir(format!("/proc/{pid}/task"));
    let threads = folder.into_iter().flatten().flatten().filter_map(|entry| {
        let thread = entry.file_name().to_str()?.parse().ok()?;
        let read = |file| fs::read(entry.path().join(file)).ok();
        let (stat, status) = (read("stat")?, read("status")?);
        let now = thread_of(&String::from_utf8_lossy(&stat), &String::from_utf8_lossy(&status));
        Some((thread, now))
    });
    threads.collect()
}

/// What proc_pid_stat(5), fields 3 and 22, and proc_pid_status(5) say of a thread. What cannot be understood does not stand
/// still.
fn thread_of(stat: &str, status: &str) -> Now {
    let read = || {
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        match fields.next()? {
            "T" | "t" => {}
            "Z" | "X" | "x" => return Some(Now::Ended),
            "D" => return Some(Now::Asleep),
            _ => return Some(Now::Moving),
        }
        let count = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        let switches = count("voluntary_ctxt_switches:")?.checked_add(count("nonvoluntary_ctxt_switches:")?)?;
        let started = fields.nth(18)?.parse().ok()?;
        Some(Now::Stopped(Seen { started, switches }))
    };
    read().unwrap_or(Now::Moving)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped(switches: u64) -> Now {
        let started = 1;
        Now::Stopped(Seen { started, switches })
    }

    /// Whether each look in turn finds nothing wrong.
    fn looks(all: &[&[(i32, Now)]]) -> Vec<bool> {
        let mut stillness = Stillness::default();
        all.iter()
            .map(|found| stillness.judge(found.to_vec()).is_ok())
            .collect()
    }

    #[test]
    fn what_stood_still_and_has_moved_since_is_found_out() {
        use Now::{Asleep, Ended, Moving};
        let another = Now::Stopped(Seen {
            started: 2,
            switches: 20,
        });
        let two = &[(7, stopped(10)), (8, stopped(20))][..];
        for (name, last, expected) in [
            ("the same", two, true),
            ("one has ended", &two[..1], true),
            ("one is ending", &[(7, stopped(10)), (8, Ended)], true),
            ("one goes on", &[(7, stopped(10)), (8, Moving)], false),
            ("one waits for its own doing", &[(7, stopped(10)), (8, Asleep)], false),
            ("one went on for a moment", &[(7, stopped(12)), (8, stopped(20))], false),
            (
                "one is new",
                &[(7, stopped(10)), (8, stopped(20)), (9, stopped(1))],
                false,
            ),
            ("a new one moves", &[(7, stopped(10)), (9, Moving)], false),
            ("one is another of the same number", &[(8, another)], false),
        ] {
            // On its way; stopped and about to be switched away from; still.
            let begun = &[(7, stopped(9)), (8, Moving)][..];
            let about = &[(7, stopped(9)), (8, stopped(19))][..];
            let found = looks(&[begun, about, two, two, last]);
            assert_eq!(found[..2], [true, true], "{name}");
            let found = looks(&[about, two, two, last]);
            assert_eq!(found, [true, true, true, expected], "{name}");
        }
    }

    #[test]
    fn what_ends_a_system_call_first_has_time_and_what_never_stops_is_found_out() {
        let asleep = &[(7, Now::Asleep), (8, stopped(1))][..];
        let moving = &[(7, Now::Moving), (8, stopped(1))][..];
        let stopped_now = &[(7, stopped(5)), (8, stopped(1))][..];
        let mut long = vec![asleep; 10 * MOST_LOOKS as usize];
        long.extend([moving, stopped_now, stopped_now, stopped_now]);
        assert!(looks(&long).into_iter().all(|still| still), "a parent in vfork");
        // To sleep now and then buys no more time.
        let restless: Vec<_> = (0..4 * MOST_LOOKS)
            .map(|n| if n % 2 == 0 { asleep } else { moving })
            .collect();
        let found = looks(&restless);
        assert_eq!(found.iter().position(|still| !still), Some(2 * MOST_LOOKS as usize - 1));
        let found = looks(&vec![moving; MOST_LOOKS as usize]);
        assert_eq!(found.iter().position(|still| !still), Some(MOST_LOOKS as usize - 1));
    }

    #[test]
    fn a_thread_is_read_as_the_kernel_writes_it() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t2\n";
        let stat = |state: &str| format!("7 (a) R 1) {state} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20");
        let still = Now::Stopped(Seen {
            started: 777,
            switches: 7,
        });
        for (state, expected) in [
            ("T", still),
            ("t", still),
            ("Z", Now::Ended),
            ("X", Now::Ended),
            ("D", Now::Asleep),
            ("R", Now::Moving),
            ("S", Now::Moving),
            ("?", Now::Moving),
        ] {
            assert_eq!(thread_of(&stat(state), status), expected, "{state}");
        }
        for (stat, status) in [("", status), ("7 (a) T", status), (stat("T").as_str(), "")] {
            assert_eq!(thread_of(stat, status), Now::Moving, "{stat:?}");
        }
    }
}
