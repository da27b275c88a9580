//! A workload in the cage: whatever happens to whoever holds it, nothing of it is left outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests: what is not as it must be fails"
)]

#[path = "../support/able.rs"]
mod able;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use able::what_a_cage_takes;

const PATIENCE: Duration = Duration::from_secs(120);
/// Long enough to be sure that something does not happen.
const QUIET: Duration = Duration::from_millis(300);

/// Whether this machine can do what the test is about; CI must.
fn able() -> bool {
    match what_a_cage_takes() {
        Ok(()) => true,
        Err(reason) => {
            touchstone_vectors::skip(&format!("the cage: {reason}"));
            false
        }
    }
}

struct Guard {
    child: Child,
    orders: ChildStdin,
    said: Receiver<String>,
    cgroup: PathBuf,
    mark: String,
}

/// The processes that sleep for as long as the mark says.
fn marked(mark: &str) -> Vec<i32> {
    let sleeper = format!("sleep\0{mark}\0");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            (line == sleeper.as_bytes()).then_some(pid)
        })
        .collect()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Guard {
    /// A guard over a shell with a mark of its own: a number of seconds that nobody else sleeps.
    fn start(options: &[&str], script: &str) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!(
            "{}.{}",
            10_000 + std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let script = script.replace("FOREVER", &format!("sleep {mark}"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_caged"))
            .args(options)
            .args(["sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, said) = channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(tell.send(line))));
        let orders = child.stdin.take().unwrap();
        let mut guard = Self {
            child,
            orders,
            said,
            cgroup: PathBuf::new(),
            mark,
        };
        let first = guard.hear("guard ");
        guard.cgroup = PathBuf::from(first.split(' ').nth(2).unwrap());
        guard
    }

    /// Waits for a line that begins so.
    fn hear(&self, beginning: &str) -> String {
        let mut heard = Vec::new();
        loop {
            let line = self.said.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("{beginning:?} never came ({error}): {heard:#?}"));
            if line.starts_with(beginning) {
                return line;
            }
            heard.push(line);
        }
    }

    fn order(&mut self, order: &str) {
        self.orders.write_all(format!("{order}\n").as_bytes()).unwrap();
        self.hear(&format!("did {order}"));
    }

    fn sleepers(&self, number: usize) {
        until("the sleepers", || marked(&self.mark).len() == number);
    }

    fn none_left(mut self) {
        until("nothing to be left", || marked(&self.mark).is_empty());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A shell, a child, one in a session of its own whose parent is gone, and one that ignores every signal it can.
const FAMILY: &str =
    "(setsid sh -c 'FOREVER & exit 0' &) ; sh -c \"trap '' TERM HUP INT; FOREVER & wait\" & FOREVER & wait";

#[test]
fn the_exit_code_and_standard_streams_are_the_workloads() {
    if !able() {
        return;
    }
    let script = "echo its own words; echo pid $$; echo init $(cat /proc/1/cmdline | tr '\\0' ' '); exit 42";
    let mut guard = Guard::start(&[], script);
    let mut said = vec![guard.hear("")];
    while !said.last().unwrap().starts_with("ended") {
        said.push(guard.hear(""));
    }
    let has = |part: &str| said.iter().any(|line| line.contains(part));
    for part in [
        "\"by\":\"pid-namespace\"",
        "its own words",
        "{\"report\":\"exited\",\"code\":42}",
        "pid 2",
        "ended exit status: 42",
    ] {
        assert!(has(part), "{part}: {said:#?}");
    }
    let init = said.iter().find(|line| line.starts_with("init ")).unwrap();
    assert!(init.contains("exec-stage"), "its init is ours: {init}");
    let group = guard.cgroup.clone();
    guard.child.wait().unwrap();
    guard.none_left();
    assert!(!group.exists(), "its cgroup goes with it");

    let guard = Guard::start(&[], "kill -KILL $$");
    guard.hear("{\"report\":\"signalled\",\"signal\":9}");
    assert!(guard.hear("ended").contains("137"));
    let missing = Guard::start(&[], "exec /no/such/program");
    assert!(missing.hear("{\"report\":\"exited\"").contains("127"));
}

/// Session and controlling terminal of a process (proc_pid_stat(5), fields 6 and 7), as this process sees them.
fn session_and_terminal(pid: i32) -> (i32, i32) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let field = |number: usize| fields.split(' ').nth(number - 3).unwrap().parse().unwrap();
    (field(6), field(7))
}

#[test]
fn it_is_in_a_session_of_its_own() {
    if !able() {
        return;
    }
    for options in [&[][..], &["nocgroup"]] {
        let guard = Guard::start(options, "FOREVER & wait");
        guard.sleepers(1);
        let own = i32::try_from(guard.child.id()).unwrap();
        let caged = marked(&guard.mark)[0];
        let ((outside, _), (inside, terminal)) = (session_and_terminal(own), session_and_terminal(caged));
        assert_ne!(inside, outside, "{options:?}");
        assert_eq!(terminal, 0, "{options:?}");
        drop(guard.orders);
        let _ = kill(Pid::from_raw(own), Signal::SIGKILL);
        until("nothing to be left", || marked(&guard.mark).is_empty());
        let _ = guard.child.wait_with_output();
    }
}

#[test]
fn the_operators_terminal_is_not_the_workloads() {
    if !able() {
        return;
    }
    // script(1) gives its command a controlling terminal. To have one is to be able to open it by this name.
    let on_a_terminal = |command: &str| {
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", command, "/dev/null"]);
        let ran = script.env("SHELL", "/bin/sh").stdin(Stdio::null()).output();
        ran.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let asks = "sh -c 'if (: < /dev/tty) 2> /dev/null; then echo has one; else echo has none; fi'";
    let Ok(bare) = on_a_terminal(asks) else {
        touchstone_vectors::skip("the operator's terminal: it takes script(1)");
        return;
    };
    assert!(bare.contains("has one"), "without a cage: {bare}");
    let caged = on_a_terminal(&format!("{} {asks}", env!("CARGO_BIN_EXE_caged"))).unwrap();
    assert!(caged.contains("has none"), "in the cage: {caged}");
}

#[test]
fn what_is_not_there_is_not_started() {
    if !able() {
        return;
    }
    for (command, code) in [("/no/such/program", 127), ("/etc/passwd", 126)] {
        let output = Command::new(env!("CARGO_BIN_EXE_caged"))
            .arg(command)
            .stdin(Stdio::null())
            .output();
        let said = String::from_utf8(output.unwrap().stdout).unwrap();
        assert!(said.contains(&format!("\"code\":{code}")), "{command}: {said}");
    }
}

#[test]
fn killing_takes_all_of_it_at_once() {
    if !able() {
        return;
    }
    for options in [&[][..], &["nocgroup"]] {
        let mut guard = Guard::start(options, FAMILY);
        guard.sleepers(3);
        guard.order("kill");
        assert_eq!(
            marked(&guard.mark),
            [0_i32; 0],
            "{options:?}: when it says killed, it is"
        );
        guard.none_left();
    }
}

#[test]
fn a_frozen_workload_stands_still_and_goes_on() {
    if !able() {
        return;
    }
    for options in [&[][..], &["nocgroup"]] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("count");
        let count = format!("while :; do echo x >> {}; sleep 0.005; done", file.display());
        let mut guard = Guard::start(options, &format!("{count} & FOREVER"));
        let size = || fs::metadata(&file).map_or(0, |data| data.len());
        until("it to run", || size() > 4);
        guard.order("freeze");
        // What was on its way arrives.
        let mut still = size();
        until("it to stand still", || {
            let before = still;
            std::thread::sleep(QUIET);
            still = size();
            still == before
        });
        std::thread::sleep(QUIET);
        assert_eq!(size(), still, "{options:?}: frozen");
        guard.order("thaw");
        until("it to go on", || size() > still);
        guard.order("freeze");
        guard.order("kill");
        assert_eq!(marked(&guard.mark), [0_i32; 0], "{options:?}: what is frozen dies too");
        guard.none_left();
    }
}

#[test]
fn nothing_outlives_its_guard() {
    if !able() {
        return;
    }
    for (name, options, frozen, signal) in [
        ("killed", &[][..], false, Signal::SIGKILL),
        ("killed while the workload is frozen", &[], true, Signal::SIGKILL),
        ("killed, without a cgroup", &["nocgroup"], false, Signal::SIGKILL),
        (
            "killed while frozen, without a cgroup",
            &["nocgroup"],
            true,
            Signal::SIGKILL,
        ),
        ("stopped", &["silence=10000"], false, Signal::SIGSTOP),
        ("ended by a signal it does not handle", &[], false, Signal::SIGTERM),
    ] {
        let mut guard = Guard::start(options, FAMILY);
        guard.sleepers(3);
        if frozen {
            guard.order("freeze");
        }
        kill(Pid::from_raw(guard.child.id().cast_signed()), signal).unwrap();
        until(name, || marked(&guard.mark).is_empty());
        let group = guard.cgroup.clone();
        guard.none_left();
        if group.is_absolute() {
            // Empty as soon as the last of it, its stage, is gone too.
            until("the next guard to take its empty cgroup away", || {
                Guard::start(&[], "exit 0").none_left();
                !group.exists()
            });
        }
    }
}

#[test]
fn a_silent_guard_is_a_gone_guard() {
    if !able() {
        return;
    }
    let mut guard = Guard::start(&["silence=10000"], FAMILY);
    guard.sleepers(3);
    std::thread::sleep(Duration::from_millis(10_500));
    assert_eq!(marked(&guard.mark).len(), 3, "while it beats nothing happens");
    guard.order("silent");
    guard.hear("{\"report\":\"guard-silent\"");
    guard.none_left();
}

#[test]
fn the_stage_or_the_init_killed_alone_takes_everything_along() {
    if !able() {
        return;
    }
    for which in [0, 1] {
        let guard = Guard::start(&[], FAMILY);
        guard.sleepers(3);
        // The stage is the guard's child, the init the stage's.
        let child = |parent: u32| -> u32 {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
            children.trim().parse().unwrap()
        };
        let stage = child(guard.child.id());
        let target = if which == 0 { stage } else { child(stage) };
        kill(Pid::from_raw(target.cast_signed()), Signal::SIGKILL).unwrap();
        guard.hear("ended");
        guard.none_left();
    }
}

#[test]
fn signals_reach_the_workload() {
    if !able() {
        return;
    }
    let mut guard = Guard::start(
        &[],
        "trap 'echo got it; exit 7' USR1; echo ready; while :; do sleep 0.01; done",
    );
    guard.hear("ready");
    guard.order("signal 10");
    guard.hear("got it");
    guard.hear("{\"report\":\"exited\",\"code\":7}");
    guard.none_left();
}

#[test]
fn a_workload_cannot_undo_what_holds_it() {
    if !able() {
        return;
    }
    for (name, attempt) in [
        ("leave its cgroup", "echo $$ > $(dirname GROUP)/cgroup.procs"),
        ("make the cgroup writable", "mount -o remount,rw,bind ROOT"),
        (
            "mount another",
            "place=$(mktemp -d); mount -t cgroup2 none $place; mounted=$?; rmdir $place; test $mounted -eq 0",
        ),
        ("kill its init", "kill -KILL 1; sleep 0.05; false"),
        (
            "enter another namespace",
            "nsenter -t 1 -m -p true && nsenter --net=/proc/1/ns/net true",
        ),
        ("make a namespace", "unshare -m true"),
        ("trace its init", "cat /proc/1/environ > /dev/null"),
        (
            "have CAP_SYS_ADMIN",
            "test $((0x$(awk '/CapEff/{print $2}' /proc/self/status) & 0x200000)) -ne 0",
        ),
        (
            "get it back",
            "test $((0x$(awk '/CapBnd/{print $2}' /proc/self/status) & 0x200000)) -ne 0",
        ),
        ("see other processes", "test $(ls /proc | grep -c '^[0-9]*$') -gt 6"),
    ] {
        let (group, root) = {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
            (
                format!("{}/x", line.split(' ').nth(4).unwrap()),
                line.split(' ').nth(4).unwrap().to_owned(),
            )
        };
        let attempt = attempt.replace("GROUP", &group).replace("ROOT", &root);
        let guard = Guard::start(
            &[],
            &format!("if {{ {attempt}; }} 2>/dev/null; then echo it could; else echo it could not; fi"),
        );
        let said = guard.hear("it could");
        assert_eq!(said, "it could not", "{name}");
        guard.none_left();
    }
}

#[test]
fn a_workload_is_given_no_pipe_of_its_guard() {
    if !able() {
        return;
    }
    // What the test itself was started with is passed on, and nothing besides.
    let count = "echo has $(ls /proc/self/fd | wc -l)";
    let plain = Command::new("sh")
        .args(["-c", count])
        .stdin(Stdio::piped())
        .output()
        .unwrap();
    let guard = Guard::start(&[], count);
    assert_eq!(guard.hear("has"), String::from_utf8(plain.stdout).unwrap().trim());
    guard.none_left();
}

#[test]
fn another_user_has_nothing_of_root() {
    if !able() {
        return;
    }
    let guard = Guard::start(
        &["user=65534:65534"],
        "echo user $(id -u); echo groups $(id -G); grep CapPrm /proc/self/status; grep NoNewPrivs /proc/self/status",
    );
    for (part, why) in [
        ("user 65534", ""),
        ("groups 65534", "no group of root's"),
        ("CapPrm:\t0000000000000000", "no capability"),
        ("NoNewPrivs:\t1", "and no way to one"),
    ] {
        assert_eq!(guard.hear(part), part, "{why}");
    }
    guard.none_left();
}

#[test]
fn who_is_not_root_gets_a_namespace_or_a_tree_and_it_dies_too() {
    if !able() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // For another user.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("caged");
    fs::copy(env!("CARGO_BIN_EXE_caged"), &program).unwrap();
    let script = FAMILY.replace("FOREVER", &format!("sleep {}.7", 20_000 + std::process::id()));
    let mark = format!("{}.7", 20_000 + std::process::id());
    for (name, signal) in [("killed", Signal::SIGKILL), ("stopped", Signal::SIGSTOP)] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
        let mut child = command
            .arg(&program)
            .args(["nocgroup", "silence=10000", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        until("the sleepers", || marked(&mark).len() == 3);
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        until(name, || marked(&mark).is_empty());
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[test]
fn a_mount_whose_name_is_no_text_leaves_no_cgroup_writable() {
    if !able() {
        return;
    }
    let mounts = fs::read("/proc/self/mountinfo").unwrap();
    let mounts = String::from_utf8_lossy(&mounts).into_owned();
    let cgroups = mounts.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
    let point = cgroups.split(' ').nth(4).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // As fusermount(1) mounts for anybody; here in mounts of its own.
    let outside = "odd=$1/$(printf '\\377'); mkdir \"$odd\" && mount -t tmpfs none \"$odd\" && shift && exec \"$@\"";
    let inside = "if mkdir $0/touchstone-$$; then rmdir $0/touchstone-$$; echo could; else echo could not; fi";
    let ran = Command::new("unshare")
        .args(["--mount", "sh", "-c", outside, "sh"])
        .arg(folder.path())
        .args([env!("CARGO_BIN_EXE_caged"), "sh", "-c", inside, point])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(said.lines().any(|line| line == "could not"), "{said} {ran:?}");
    assert!(said.contains("exited"), "{said}");
}

/// Has the kernel send it SIGCONT 20 ms from now, again and again, and writes what it lives (sigevent(3type): SIGEV_SIGNAL
/// is 0).
const RESTLESS: &str = "
import ctypes, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGCONT, lambda *_: None)
event = (ctypes.c_int * 16)()
event[2] = signal.SIGCONT
timer = ctypes.c_void_p()
assert libc.timer_create(1, event, ctypes.byref(timer)) == 0
every = (ctypes.c_long * 4)(0, 20000000, 0, 20000000)
while True:
    assert libc.timer_settime(timer, 0, every, None) == 0
    with open(sys.argv[1], 'a') as file:
        file.write('x')
    time.sleep(0.001)
";

#[test]
fn what_has_itself_continued_is_frozen_all_the_same_or_killed() {
    if !able() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (program, file) = (folder.path().join("restless"), folder.path().join("count"));
    fs::write(&program, RESTLESS).unwrap();
    let size = || fs::metadata(&file).map_or(0, |data| data.len());
    let script = format!("FOREVER & exec python3 {} {}", program.display(), file.display());

    let mut guard = Guard::start(&[], &script);
    until("it to run", || size() > 4);
    guard.order("freeze");
    let mut still = size();
    until("it to stand still", || {
        let before = still;
        std::thread::sleep(QUIET);
        still = size();
        still == before
    });
    guard.order("thaw");
    until("it to go on", || size() > still);
    guard.order("kill");
    guard.none_left();

    // A signal does not hold it: then it dies.
    let before = size();
    let mut guard = Guard::start(&["nocgroup"], &script);
    until("it to run", || size() > before);
    // One that was late with its timer does stand still this time.
    let round = Duration::from_secs(3);
    until("it to be found out", || {
        let begun = Instant::now();
        let _ = guard.orders.write_all(b"freeze\n");
        while let Some(left) = round.checked_sub(begun.elapsed()) {
            match guard.said.recv_timeout(left) {
                Ok(line) if line.contains("does not stand still") => return true,
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error, RecvTimeoutError::Timeout, "the guard ended");
                    break;
                }
            }
        }
        let _ = guard.orders.write_all(b"thaw\n");
        false
    });
    guard.none_left();
}

#[test]
fn a_tree_without_a_namespace_dies_with_its_guard() {
    dies_as_a_tree(FAMILY, 3, "8");
}

#[test]
fn one_whose_name_is_no_text_dies_with_its_tree() {
    // The kernel takes any bytes for a name, and shows them (proc_pid_comm(5)).
    let nameless = "printf '\\377\\376' > /proc/self/comm; FOREVER & FOREVER & wait";
    dies_as_a_tree(nameless, 2, "9");
}

/// A tree without a namespace, whose guard is killed.
fn dies_as_a_tree(family: &str, sleepers: usize, fraction: &str) {
    // The namespaces are refused by a user namespace that may have no more of them.
    if !able() {
        return;
    }
    let limit = Path::new("/proc/sys/user/max_pid_namespaces");
    let mark = format!("{}.{fraction}", 30_000 + std::process::id());
    let script = family.replace("FOREVER", &format!("sleep {mark}"));
    // Inside: limits of namespaces are per user namespace (namespaces(7)).
    let inner = format!(
        "echo 0 > {} && exec \"$0\" nocgroup silence=10000 sh -c \"$1\"",
        limit.display()
    );
    let mut child = Command::new("unshare")
        .args(["-Ur", "sh", "-c", &inner, env!("CARGO_BIN_EXE_caged"), &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let guard = lines.next().unwrap().unwrap();
    let confined = lines.next().unwrap().unwrap();
    assert!(
        confined.contains("process-tree") && confined.contains("because"),
        "{confined}"
    );
    until("the sleepers", || marked(&mark).len() == sleepers);
    let pid: i32 = guard.split(' ').nth(1).unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    until("the tree to die", || marked(&mark).is_empty());
    let _ = child.wait();
}
