//! Containers under a guard, with real runtimes: runc itself, and runc through containerd. The hook and the keeper are the
//! command; guard, trust state and agent are this process's, so that each can be made to fail.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::able::what_a_cage_takes;
use crate::common;

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{GUARD, LONG_MS, SUBJECT, Wanted, World, authorization, holder, proof};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;
use touchstone_authorization::{Channel, Status};
use touchstone_enforcer::oci::Watchman;
use touchstone_enforcer::oci::watchman::ContainerEvent;

const TOUCHSTONE: &str = env!("CARGO_BIN_EXE_touchstone");
/// Less than the longest word that a keeper believes.
const PATIENCE: Duration = Duration::from_secs(90);
/// What containers do: they leave a mark every few milliseconds, in a child of their init.
const WORK: &str = "sh -c 'while :; do date +%s%N > /out/mark; sleep 0.01; done' & sleep 1000";

/// Tests run side by side, and a container's id names its control group.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Whether these tests can run here.
fn able() -> bool {
    let runs = |program: &str| {
        Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_ok()
    };
    if let Some(program) = ["runc", "containerd", "ctr"].into_iter().find(|program| !runs(program)) {
        touchstone_vectors::lacking(&format!("containers: no {program}"));
        return false;
    }
    match what_a_cage_takes() {
        Ok(()) => true,
        Err(reason) => {
            touchstone_vectors::skip(&format!("containers: {reason}"));
            false
        }
    }
}

macro_rules! where_possible {
    () => {
        if !able() {
            return;
        }
    };
}

/// An agent that presents the holder's authorization, while it may.
struct Agent {
    willing: Arc<AtomicBool>,
    life_s: Arc<AtomicU64>,
    _task: tokio::task::JoinHandle<()>,
}

impl Agent {
    fn at(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let (willing, life_s) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(600)));
        let (will, life) = (Arc::clone(&willing), Arc::clone(&life_s));
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (reader, mut writer) = stream.split();
                let mut line = String::new();
                // Who has given up before it was heard wants nothing any more.
                if BufReader::new(reader).read_line(&mut line).await.unwrap_or(0) == 0 {
                    continue;
                }
                let asked: Value = serde_json::from_str(&line).unwrap();
                assert_eq!(
                    (asked["op"].as_str(), asked["audience"].as_str()),
                    (Some("present"), Some(GUARD))
                );
                let answer = if will.load(Ordering::SeqCst) {
                    let chain = authorization(life.load(Ordering::SeqCst));
                    let scope = format!(
                        "{}:{}",
                        asked["action"].as_str().unwrap(),
                        asked["resource"].as_str().unwrap()
                    );
                    let wanted = Wanted {
                        scope: &scope,
                        request: None,
                        channel: Channel::Challenge(hex::decode(asked["challenge"].as_str().unwrap()).unwrap()),
                    };
                    let proof = proof(&chain, &wanted).encode_signed(&holder()).unwrap();
                    json!({ "authorization": STANDARD.encode(&chain), "proof": STANDARD.encode(&proof) })
                } else {
                    json!({ "error": "this node holds no authorization: it is refused" })
                };
                let _ = writer.write_all(format!("{answer}\n").as_bytes()).await;
            }
        });
        Self {
            willing,
            life_s,
            _task: task,
        }
    }
}

/// A guard's watchman, ended at will.
struct Station {
    watchman: Arc<Watchman>,
    task: tokio::task::JoinHandle<()>,
}

struct Site {
    world: World,
    agent: Agent,
    events: Arc<Mutex<Vec<ContainerEvent>>>,
    station: Option<Station>,
    folder: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = World::new().await;
        let agent = Agent::at(&folder.path().join("agent.sock"));
        let mut site = Self {
            world,
            agent,
            events: Arc::default(),
            station: None,
            folder,
        };
        site.open().await;
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("guard.sock")
    }

    /// Begins to watch over containers.
    async fn open(&mut self) {
        let events = Arc::clone(&self.events);
        let tell = Arc::new(move |event| events.lock().unwrap().push(event));
        let watchman = Watchman::new(Arc::clone(&self.world.guard), GUARD, &self.path("agent.sock"), tell);
        let (own, socket) = (Arc::clone(&watchman), self.socket());
        let task = tokio::spawn(async move {
            let _ = own.serve(&socket).await;
        });
        self.station = Some(Station { watchman, task });
        let socket = self.socket();
        eventually("the guard's socket", || socket.exists()).await;
    }

    /// The guard is gone, from one moment to the next.
    fn close(&mut self) {
        let station = self.station.take().unwrap();
        station.watchman.leave();
        station.task.abort();
        let _ = std::fs::remove_file(self.socket());
    }

    fn watched(&self) -> usize {
        self.station.as_ref().map_or(0, |station| station.watchman.len())
    }

    fn bundle(&self, name: &str, change: impl FnOnce(&mut Value)) -> Bundle {
        let id = format!(
            "touchstone-test-{}-{}-{name}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::SeqCst)
        );
        let folder = self.path(name);
        let rootfs = folder.join("rootfs");
        for below in ["usr", "proc", "dev", "sys", "tmp", "out"] {
            std::fs::create_dir_all(rootfs.join(below)).unwrap();
        }
        for link in ["bin", "lib", "lib64", "sbin"] {
            symlink(format!("usr/{link}"), rootfs.join(link)).unwrap();
        }
        let out = folder.join("out");
        std::fs::create_dir(&out).unwrap();
        let spec = Command::new("runc")
            .args(["spec", "--bundle"])
            .arg(&folder)
            .status()
            .unwrap();
        assert!(spec.success());
        let file = folder.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = json!(["/bin/sh", "-c", WORK]);
        config["root"]["path"] = rootfs.display().to_string().into();
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({ "destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"] }));
        mounts.push(json!({ "destination": "/out", "type": "bind", "source": out, "options": ["rbind", "rw"] }));
        config["annotations"] = json!({ "touchstone.action": "execute", "touchstone.resource": "tool-search" });
        let arguments = json!(["touchstone", "oci-hook", "--socket", self.socket()]);
        config["hooks"] = json!({ "createRuntime": [{ "path": TOUCHSTONE, "args": arguments, "timeout": 20 }] });
        // Below the root in every version of cgroups: without a path a runtime chooses one of its own.
        config["linux"]["cgroupsPath"] = format!("/{id}").into();
        change(&mut config);
        std::fs::write(&file, config.to_string()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        Bundle {
            folder,
            id,
            root: self.path("runc"),
        }
    }

    fn told(&self, id: &str) -> Vec<&'static str> {
        let events = self.events.lock().unwrap();
        let of = |event: &ContainerEvent| match event {
            ContainerEvent::ContainerAdmitted { container, .. } => Some(("admitted", container.clone())),
            ContainerEvent::ContainerRefused { container, .. } => Some(("refused", container.clone())),
            ContainerEvent::ContainerFrozen { container, .. } => Some(("frozen", container.clone())),
            ContainerEvent::ContainerThawed { container, .. } => Some(("thawed", container.clone())),
            ContainerEvent::ContainerKilled { container, .. } => Some(("killed", container.clone())),
            ContainerEvent::ContainerEnded { container, .. } => Some(("ended", container.clone())),
        };
        events
            .iter()
            .filter_map(of)
            .filter(|(_, own)| own == id)
            .map(|(word, _)| word)
            .collect()
    }
}

struct Bundle {
    folder: PathBuf,
    id: String,
    root: PathBuf,
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.runc(&["delete", "--force", &self.id]);
    }
}

impl Bundle {
    fn runc(&self, arguments: &[&str]) -> Output {
        // Software TPMs of other tests live in this process.
        let mut command = touchstone_vectors::alone("runc");
        command
            .arg("--root")
            .arg(&self.root)
            .args(arguments)
            .stdin(Stdio::null());
        // Not a pipe: a container that goes on holds its end.
        let log = self.folder.join("log");
        let output = std::fs::File::create(&log).unwrap();
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let status = command.status().unwrap();
        Output {
            status,
            stdout: Vec::new(),
            stderr: std::fs::read(log).unwrap_or_default(),
        }
    }

    /// Whether it started; what the runtime said where it did not.
    async fn start(&self) -> Result<(), String> {
        let (own, bundle) = (self.id.clone(), self.folder.display().to_string());
        // The runtime waits for its hook, which waits for this process.
        let output = tokio::task::block_in_place(|| self.runc(&["run", "--detach", "--bundle", &bundle, &own]));
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The last mark that the container left.
    fn mark(&self) -> Option<u128> {
        std::fs::read_to_string(self.folder.join("out/mark"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    async fn works(&self) {
        let before = self.mark();
        eventually("a mark of the container", || {
            self.mark().is_some() && self.mark() != before
        })
        .await;
    }

    /// Whether it comes to leave no more marks: what was under way when the kernel was told arrives first.
    async fn stands_still(&self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let before = self.mark();
            tokio::time::sleep(Duration::from_millis(300)).await;
            if self.mark() == before {
                return true;
            }
        }
        false
    }

    /// Whether any process of it is left: at the root where there is only version 2, otherwise in a hierarchy of its own.
    fn processes(&self) -> usize {
        let mut found = 0;
        for hierarchy in ["", "freezer", "unified", "pids"] {
            let procs = Path::new("/sys/fs/cgroup")
                .join(hierarchy)
                .join(&self.id)
                .join("cgroup.procs");
            found += std::fs::read_to_string(procs).map_or(0, |text| text.lines().count());
        }
        found
    }

    async fn is_dead(&self) {
        eventually("the end of the container", || self.processes() == 0).await;
        assert!(self.stands_still().await);
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Keepers of this container.
fn keepers(id: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.contains(&&b"keep"[..]) && words.contains(&id.as_bytes())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_starts_under_an_authorization_and_ends_with_it() {
    where_possible!();
    let site = Site::new().await;
    let bundle = site.bundle("a", |_| ());
    bundle.start().await.unwrap();
    bundle.works().await;
    assert!(bundle.processes() > 0, "and its processes are seen");
    assert_eq!((site.watched(), keepers(&bundle.id).len()), (1, 1));
    assert!(matches!(
        site.events.lock().unwrap().first(),
        Some(ContainerEvent::ContainerAdmitted { subject, scope, .. }) if subject == SUBJECT && scope == "execute:tool-search"
    ));

    site.world.publish(Status::Suspended, LONG_MS);
    eventually("quarantine", || site.told(&bundle.id) == ["admitted", "frozen"]).await;
    assert!(bundle.stands_still().await, "quarantined");
    assert!(bundle.processes() > 0, "and kept");
    site.world.publish(Status::Valid, LONG_MS);
    bundle.works().await;
    assert_eq!(site.told(&bundle.id), ["admitted", "frozen", "thawed"]);

    let begun = Instant::now();
    site.world.publish(Status::Invalid, LONG_MS);
    bundle.is_dead().await;
    println!("revoked to dead, as seen from outside: under {:?}", begun.elapsed());
    eventually("its end told", || site.told(&bundle.id).last() == Some(&"killed")).await;
    eventually("its keeper's end", || keepers(&bundle.id).is_empty()).await;
    assert_eq!(site.watched(), 0);
    let again = site.bundle("b", |_| ());
    assert!(again.start().await.unwrap_err().contains("authorization-revoked"));
    assert_eq!(again.mark(), None, "nothing of it ran");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_quarantined_can_still_be_ended() {
    where_possible!();
    let site = Site::new().await;
    let bundle = site.bundle("a", |_| ());
    bundle.start().await.unwrap();
    bundle.works().await;
    site.world.publish(Status::Suspended, LONG_MS);
    eventually("quarantine", || site.told(&bundle.id) == ["admitted", "frozen"]).await;
    site.world.publish(Status::Invalid, LONG_MS);
    bundle.is_dead().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_containers() {
    where_possible!();
    let site = Site::new().await;
    let bundle = site.bundle("a", |_| ());
    bundle.start().await.unwrap();
    bundle.works().await;
    site.world.publish(Status::Valid, 500);
    bundle.is_dead().await;
    // Guard and keeper count the same time; whoever is first ends it.
    eventually("its end told", || site.told(&bundle.id).len() == 2).await;
    assert!(["killed", "ended"].contains(&site.told(&bundle.id)[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_is_renewed_and_a_container_without_a_new_one_ends() {
    where_possible!();
    let site = Site::new().await;
    const LIFE: Duration = Duration::from_secs(20);
    site.agent.life_s.store(LIFE.as_secs(), Ordering::SeqCst);
    let bundle = site.bundle("a", |_| ());
    bundle.start().await.unwrap();
    tokio::time::sleep(LIFE + Duration::from_secs(1)).await;
    bundle.works().await;
    assert_eq!(site.told(&bundle.id), ["admitted"], "past the end of the first");
    site.agent.willing.store(false, Ordering::SeqCst);
    bundle.is_dead().await;
    let refused = site.bundle("b", |_| ());
    let why = refused.start().await.unwrap_err();
    assert!(
        why.contains("agent-unavailable") && why.contains("it is refused"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_should_not_start_does_not() {
    where_possible!();
    let mut site = Site::new().await;
    type Change = Box<dyn FnOnce(&mut Value)>;
    let rows: Vec<(&str, Change, &str)> = vec![
        (
            "no-right",
            Box::new(|config| config["annotations"] = json!({})),
            "container-right-missing",
        ),
        (
            "wildcard",
            Box::new(|config| config["annotations"]["touchstone.resource"] = "*".into()),
            "container-right-malformed",
        ),
        (
            "other-right",
            Box::new(|config| config["annotations"]["touchstone.resource"] = "tool-shell".into()),
            "scope-not-granted",
        ),
        (
            "shared-processes",
            Box::new(|config| {
                let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.retain(|namespace| namespace["type"] != "pid");
            }),
            "container-shares-processes",
        ),
        (
            "other-guard",
            Box::new(|config| config["hooks"]["createRuntime"][0]["args"][3] = "/nowhere/guard.sock".into()),
            "guard-unavailable",
        ),
    ];
    for (name, change, code) in rows {
        let bundle = site.bundle(name, change);
        let why = bundle.start().await.unwrap_err();
        assert!(why.contains(code), "{name}: {why}");
        assert_eq!(
            (bundle.mark(), bundle.processes()),
            (None, 0),
            "{name}: nothing of it ran"
        );
        assert!(keepers(&bundle.id).is_empty(), "{name}");
    }
    let open = site.bundle("open", |_| ());
    let file = open.folder.join("config.json");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(open.start().await.unwrap_err().contains("bundle-open-to-others"));
    symlink(site.path("no-right"), site.path("link")).unwrap();

    // A victim's group: a container in it would have the victim frozen with itself.
    let first = site.bundle("first", |_| ());
    first.start().await.unwrap();
    first.works().await;
    let group = format!("/{}", first.id);
    let parasite = site.bundle("parasite", move |config| config["linux"]["cgroupsPath"] = group.into());
    let why = parasite.start().await.unwrap_err();
    assert!(
        why.contains("container-cgroup-shared") || why.contains("cgroup"),
        "{why}"
    );
    first.works().await;

    site.close();
    let away = site.bundle("away", |_| ());
    assert!(away.start().await.unwrap_err().contains("guard-unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_dies_takes_its_containers_along_unless_it_is_back_in_time() {
    where_possible!();
    let mut site = Site::new().await;
    let bundle = site.bundle("a", |_| ());
    site.world.publish(Status::Valid, LONG_MS);
    bundle.start().await.unwrap();
    bundle.works().await;
    site.close();
    tokio::time::sleep(Duration::from_millis(500)).await;
    bundle.works().await;
    site.open().await;
    eventually("the container at the new guard", || site.watched() == 1).await;
    bundle.works().await;
    assert_eq!(site.told(&bundle.id), ["admitted", "admitted"]);

    // Its last word was good for seconds, and the one before for longer than the end is waited for. The keeper hears it
    // meanwhile: a time in which this process ran, not only one that has passed.
    site.world.publish(Status::Valid, 20_000);
    for _ in 0..400 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    site.close();
    bundle.is_dead().await;
    assert_eq!(
        site.told(&bundle.id),
        ["admitted", "admitted"],
        "no guard did this: the keeper did"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_comes_back_refusing_ends_what_it_finds() {
    where_possible!();
    let mut site = Site::new().await;
    let bundle = site.bundle("a", |_| ());
    bundle.start().await.unwrap();
    bundle.works().await;
    site.close();
    site.world.publish(Status::Invalid, LONG_MS);
    bundle.works().await;
    site.open().await;
    bundle.is_dead().await;
    assert_eq!(site.told(&bundle.id), ["admitted", "refused"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_is_killed_frees_nobody() {
    where_possible!();
    let site = Site::new().await;
    let bundle = site.bundle("a", |_| ());
    bundle.start().await.unwrap();
    bundle.works().await;
    for keeper in keepers(&bundle.id) {
        let keeper = rustix::process::Pid::from_raw(keeper.try_into().unwrap()).unwrap();
        rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    }
    eventually("the keeper's end", || keepers(&bundle.id).is_empty()).await;
    bundle.works().await;
    site.world.publish(Status::Invalid, LONG_MS);
    bundle.is_dead().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ends_is_forgotten() {
    where_possible!();
    let site = Site::new().await;
    let bundle = site.bundle("a", |config| config["process"]["args"] = json!(["/bin/true"]));
    bundle.start().await.unwrap();
    eventually("its end", || site.told(&bundle.id) == ["admitted", "ended"]).await;
    eventually("its keeper's end", || keepers(&bundle.id).is_empty()).await;
    assert_eq!(site.watched(), 0);
}

/// A containerd of this test's own.
struct Containerd {
    process: Child,
    address: PathBuf,
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Containerd {
    async fn start(folder: &Path) -> Self {
        let path = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("containerd.sock"),
        );
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("config.toml"), config).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let process = touchstone_vectors::alone("containerd")
            .args(["--config", &path("config.toml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Self {
            process,
            address: folder.join("containerd.sock"),
        };
        eventually("containerd", || containerd.ctr(&["version"]).0).await;
        containerd
    }

    /// Whether it did, and what it said.
    fn ctr(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(&self.address)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let words = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&words).into_owned())
    }

    fn run(&self, bundle: &Bundle) -> (bool, String) {
        let config = bundle.folder.join("config.json").display().to_string();
        tokio::task::block_in_place(|| self.ctr(&["run", "--detach", "--config", &config, &bundle.id]))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_through_containerd() {
    where_possible!();
    let site = Site::new().await;
    let containerd = Containerd::start(&site.path("containerd")).await;
    let other = site.bundle("other", |config| {
        config["annotations"]["touchstone.resource"] = "tool-shell".into()
    });
    let (started, why) = containerd.run(&other);
    assert!(!started && why.contains("scope-not-granted"), "{why}");
    assert_eq!(other.mark(), None);

    let bundle = site.bundle("a", |_| ());
    let (started, why) = containerd.run(&bundle);
    assert!(started, "{why}");
    bundle.works().await;
    site.world.publish(Status::Suspended, LONG_MS);
    eventually("quarantine", || site.told(&bundle.id) == ["admitted", "frozen"]).await;
    assert!(bundle.stands_still().await);
    site.world.publish(Status::Valid, LONG_MS);
    bundle.works().await;
    site.world.publish(Status::Invalid, LONG_MS);
    eventually("its end told", || site.told(&bundle.id).last() == Some(&"killed")).await;
    assert!(bundle.stands_still().await);
    eventually("containerd's word", || {
        containerd.ctr(&["task", "ls"]).1.contains("STOPPED")
    })
    .await;
    for (id, verb) in [
        (&bundle.id, "task"),
        (&bundle.id, "container"),
        (&other.id, "container"),
    ] {
        containerd.ctr(&[verb, "delete", id]);
    }
}
