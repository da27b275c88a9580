//! A guard, reduced to what concerns the cage: `caged [nocgroup] [silence=MS] [user=UID:GID] COMMAND…`. It prints its own
//! id and the reports, and obeys one line of standard input at a time.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a tool of the tests"
)]

use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use touchstone_cage::{BEAT_MS, Cage, Cgroup, Plan, STAGE};

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == STAGE) {
        return touchstone_cage::run_stage(&arguments.split_off(1));
    }
    let mut plan = Plan {
        program: std::env::current_exe().unwrap(),
        command: Vec::new(),
        network: false,
        user: None,
        silence_ms: 10_000,
    };
    let mut cgroup = true;
    while let Some(word) = arguments.first().and_then(|word| word.to_str()) {
        match word.split_once('=') {
            _ if word == "nocgroup" => cgroup = false,
            Some(("silence", ms)) => plan.silence_ms = ms.parse().unwrap(),
            Some(("user", ids)) => {
                let (user, group) = ids.split_once(':').unwrap();
                plan.user = Some((user.parse().unwrap(), group.parse().unwrap()));
            }
            _ => break,
        }
        arguments.remove(0);
    }
    plan.command = arguments;
    let cgroup = cgroup.then(|| Cgroup::create().unwrap());
    let (mut cage, reports) = Cage::start(&plan, cgroup).unwrap();
    let place = cage.cgroup().map(|path| path.display().to_string()).unwrap_or_default();
    say(&format!("guard {} {place}", std::process::id()));
    let mut reports = std::fs::File::from(reports);
    let mut beating = true;
    loop {
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: i64::try_from(BEAT_MS * 1_000_000 / 2).unwrap(),
        };
        let stdin = std::io::stdin();
        let mut ready = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&reports, PollFlags::IN)];
        poll(&mut ready, Some(&wait)).unwrap();
        let commanded = !ready[0].revents().is_empty();
        if beating {
            cage.beat();
        }
        // Looked at before the reports are read: what was said before the end is there then.
        let ended = cage.ended().unwrap();
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = reports.read(&mut bytes) {
            print!("{}", String::from_utf8_lossy(&bytes[..length]));
            std::io::stdout().flush().unwrap();
        }
        if let Some(status) = ended {
            say(&format!("ended {status}"));
            return ExitCode::SUCCESS;
        }
        if !commanded {
            continue;
        }
        let mut line = [0; 64];
        let length = rustix::io::read(&stdin, &mut line).unwrap();
        for command in String::from_utf8_lossy(&line[..length]).lines() {
            match command.split_once(' ') {
                // One that has ended meanwhile says so before the next order.
                _ if command == "freeze" => drop(cage.freeze()),
                _ if command == "thaw" => drop(cage.thaw()),
                _ if command == "silent" => beating = false,
                _ if command == "kill" => {
                    let begun = std::time::Instant::now();
                    cage.kill().unwrap();
                    let took: Duration = begun.elapsed();
                    say(&format!("killed {} us", took.as_micros()));
                }
                Some(("signal", number)) => cage.signal(number.parse().unwrap()),
                _ => panic!("{command}"),
            }
            say(&format!("did {command}"));
        }
    }
}
