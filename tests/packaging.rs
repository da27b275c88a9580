//! What is packaged: units that systemd takes and that start what they say, and the files that the makers of an initramfs
//! are told to put into it. Nothing here starts a unit or makes an initramfs.
#![allow(clippy::unwrap_used, reason = "tests: what is not as it must be fails")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Each unit, and the most exposure that `systemd-analyze security` may find, in tenths: 100 is everything. What runs other
/// people's commands is not confined by systemd but by what it is.
const UNITS: [(&str, u32); 9] = [
    ("touchstone-agent.service", 50),
    ("touchstone-authorization@.service", 80),
    ("touchstone-bootstrap.service", 100),
    ("touchstone-broker.service", 20),
    ("touchstone-exec@.service", 100),
    ("touchstone-guard-oci.service", 50),
    ("touchstone-guard@.service", 20),
    ("touchstone-relay.service", 20),
    ("touchstone-timestamp.service", 20),
];

fn packaging(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(path)
}

fn unit(name: &str) -> String {
    fs::read_to_string(packaging("systemd").join(name)).unwrap()
}

/// The values of every line with this key.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .filter_map(|(name, value)| (name == key).then_some(value))
        .collect()
}

fn analyze(words: &[&str], file: &Path) -> Option<Output> {
    let program = ["/usr/bin/systemd-analyze", "/bin/systemd-analyze"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(program) = program else {
        touchstone_vectors::skip("the systemd units: there is no systemd-analyze here");
        return None;
    };
    Some(Command::new(program).args(words).arg(file).output().unwrap())
}

/// A unit as it would be installed, with programs that need not be installed here.
fn installed(folder: &Path, name: &str, text: &str) -> PathBuf {
    let text = text
        .replace("/usr/bin/touchstone-bootstrap ", "/bin/true ")
        .replace("/usr/bin/touchstone ", "/bin/true ");
    let file = folder.join(name.replace('@', "@db"));
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn every_unit_is_in_the_table() {
    let shipped = fs::read_dir(packaging("systemd")).unwrap().flatten();
    let shipped: BTreeSet<String> = shipped.map(|entry| entry.file_name().into_string().unwrap()).collect();
    let table: BTreeSet<String> = UNITS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(shipped, table);
}

#[test]
fn the_units_are_units() {
    let folder = tempfile::tempdir().unwrap();
    let good = UNITS.map(|(name, _)| (name, None));
    // And it would tell.
    let broken = [("touchstone-exec@.service", Some(("KillMode=mixed", "KillMode=gently")))];
    for (name, broken) in good.into_iter().chain(broken) {
        let mut text = unit(name);
        if let Some((good, bad)) = broken {
            text = text.replace(good, bad);
        }
        let file = installed(folder.path(), name, &text);
        let Some(verified) = analyze(&["verify", "--man=no"], &file) else {
            return;
        };
        let said = String::from_utf8_lossy(&verified.stderr);
        let stem = name.split(['@', '.']).next().unwrap();
        let clean = verified.status.success() && !said.contains(stem);
        assert_eq!(clean, broken.is_none(), "{name}: {said}");
    }
}

#[test]
fn the_units_are_confined_as_far_as_they_can_be() {
    let folder = tempfile::tempdir().unwrap();
    for (name, most) in UNITS {
        let file = installed(folder.path(), name, &unit(name));
        let threshold = format!("--threshold={most}");
        let words = ["security", "--offline=true", "--no-pager", &threshold];
        let Some(judged) = analyze(&words, &file) else {
            return;
        };
        let said = String::from_utf8_lossy(&judged.stdout);
        assert!(judged.status.success(), "{name}: {said}");
        assert!(said.contains("exposure level"), "{name}: {said}");
    }
}

#[test]
fn what_is_bound_to_an_authorization_waits_for_it_and_falls_with_a_quarantine() {
    for name in ["touchstone-authorization@.service", "touchstone-exec@.service"] {
        let text = unit(name);
        for (key, value) in [
            // Any other type lets what comes after it start before there is an authorization.
            ("Type", "notify"),
            ("NotifyAccess", "main"),
            ("TimeoutStartSec", "infinity"),
        ] {
            assert_eq!(values(&text, key), [value], "{name}: {key}");
        }
    }
    let started = unit("touchstone-authorization@.service");
    let started = values(&started, "ExecStart").concat();
    assert!(started.contains(" --end-when-suspended "), "{started}");
    assert!(
        started.contains(" --user 65534:65534 "),
        "what only stands there is nobody: {started}"
    );
}

#[test]
fn units_rest_on_units_and_users_that_are_shipped() {
    let users = fs::read_to_string(packaging("sysusers.d/touchstone.conf")).unwrap();
    let users: BTreeSet<&str> = users
        .lines()
        .filter_map(|line| line.strip_prefix("u "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let mut used = BTreeSet::new();
    for (name, _) in UNITS {
        let text = unit(name);
        for key in ["After", "Wants", "Requires", "BindsTo", "Before"] {
            for other in values(&text, key).iter().flat_map(|value| value.split(' ')) {
                let ours = other.starts_with("touchstone");
                assert!(
                    !ours || packaging("systemd").join(other).exists(),
                    "{name}: {key}={other}"
                );
            }
        }
        used.extend(values(&text, "User").into_iter().map(str::to_owned));
    }
    assert_eq!(used.iter().map(String::as_str).collect::<BTreeSet<_>>(), users);
}

/// The command line takes what each unit says; what the unit needs is not there, so it ends at once, for another reason.
#[test]
fn the_units_start_what_the_command_line_knows() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere").display().to_string();
    for (name, _) in UNITS {
        let text = unit(name);
        let line = values(&text, "ExecStart").concat();
        let Some(arguments) = line.strip_prefix("/usr/bin/touchstone ") else {
            assert_eq!(line, "/usr/bin/touchstone-bootstrap /etc/touchstone", "{name}");
            continue;
        };
        let options = match name {
            "touchstone-exec@.service" => "--user 1000:1000 --network",
            _ => "--broker https://127.0.0.1:1",
        };
        let arguments = arguments
            .replace("/etc/touchstone", &nowhere)
            .replace("/srv/touchstone", &nowhere)
            .replace("${STATE_DIRECTORY}", &nowhere)
            .replace("${POLICY}", &nowhere)
            .replace("${DOMAIN}", "demo.example")
            .replace("${ID}", "one")
            .replace("${ACTION}", "execute")
            .replace("${RESOURCE}", "search")
            .replace("$OPTIONS", options)
            .replace("$COMMAND", "/bin/true")
            .replace("%i", "db");
        assert!(!arguments.contains(['$', '%']), "{name}: {arguments}");
        let mut arguments: Vec<&str> = arguments.split(' ').collect();
        if name.starts_with("touchstone-authorization@") || name.starts_with("touchstone-exec@") {
            // Where /etc/touchstone/agent.toml is somebody's, it is not to be asked.
            arguments.splice(1..1, ["--config", &nowhere]);
        }
        let ended = Command::new(env!("CARGO_BIN_EXE_touchstone"))
            .args(&arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success(), "{name}: {said}");
        assert!(!said.contains("Usage:"), "{name}: {arguments:?}: {said}");
        assert!(said.contains("nowhere"), "{name}: {said}");
    }
}

/// A machine, below `root`, on which everything is that an initramfs is made of.
fn machine(root: &Path) {
    for path in [
        "usr/bin/touchstone",
        "usr/bin/touchstone-bootstrap",
        "usr/sbin/cryptsetup",
        "usr/lib/arch-any/libtss2-tcti-device.so.0",
        "lib/arch-any/libnss_dns.so.2",
        "lib/arch-any/libnss_files.so.2",
        "etc/nsswitch.conf",
        "etc/touchstone/agent.toml",
        "etc/touchstone/bootstrap.conf",
        "etc/touchstone/root.json",
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
}

/// initramfs-tools' functions, as far as the hook calls them: each says what it was asked for, and fails where a file is not.
const HOOK_FUNCTIONS: &str = r#"
copy_exec() { [ -e "$1" ] || return 1; echo "exec ${1#$ROOT} ${2:-${1#$ROOT}}" >>"$SAID"; }
copy_file() { [ -e "$2" ] || return 1; echo "file $1 ${2#$ROOT} $3" >>"$SAID"; }
manual_add_modules() { echo "modules $*" >>"$SAID"; }
"#;

/// Runs the hook on the machine below `root`: whether it went well, what it asked for, and the configuration it copied.
fn hook(root: &Path) -> (bool, String, BTreeSet<String>) {
    let functions = root.join("hook-functions");
    fs::write(&functions, HOOK_FUNCTIONS).unwrap();
    let here = root.display().to_string();
    // The paths of the machine, with the functions' own first.
    let text = fs::read_to_string(packaging("initramfs-tools/hooks/touchstone")).unwrap();
    assert!(text.contains(". /usr/share/initramfs-tools/hook-functions\n"));
    let text = text
        .replace("/usr/share/initramfs-tools/hook-functions", "HOOK-FUNCTIONS")
        .replace("\"$DESTDIR/etc/", "DESTINATION-ETC")
        .replace(" /usr/", &format!(" {here}/usr/"))
        .replace(" /lib/", &format!(" {here}/lib/"))
        .replace(" /etc/", &format!(" {here}/etc/"))
        .replace("\"/etc/", &format!("\"{here}/etc/"))
        .replace("DESTINATION-ETC", "\"$DESTDIR/etc/")
        .replace("HOOK-FUNCTIONS", functions.to_str().unwrap());
    let (script, said, into) = (root.join("hook"), root.join("said"), root.join("initramfs"));
    fs::write(&script, text).unwrap();
    fs::write(&said, "").unwrap();
    let _ = fs::remove_dir_all(&into);
    fs::create_dir(&into).unwrap();
    let ended = Command::new("sh")
        .arg(&script)
        .env("ROOT", root)
        .env("SAID", &said)
        .env("DESTDIR", &into)
        .output()
        .unwrap();
    let copied = fs::read_dir(into.join("etc/touchstone"))
        .into_iter()
        .flatten()
        .flatten();
    let copied = copied.map(|entry| entry.file_name().into_string().unwrap()).collect();
    (ended.status.success(), fs::read_to_string(said).unwrap(), copied)
}

#[test]
fn the_hook_of_initramfs_tools_asks_for_all_of_it_or_fails() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    machine(root);
    let (good, said, copied) = hook(root);
    assert!(good, "{said}");
    let expected = [
        "exec /usr/bin/touchstone /bin",
        "exec /usr/sbin/cryptsetup /sbin",
        "exec /usr/lib/arch-any/libtss2-tcti-device.so.0 /usr/lib/arch-any/libtss2-tcti-device.so.0",
        "file script /usr/bin/touchstone-bootstrap /bin/touchstone-bootstrap",
        "modules tpm_crb tpm_tis dm_mod dm_crypt xts ecb aes algif_skcipher",
        "exec /lib/arch-any/libnss_dns.so.2 /lib/arch-any/libnss_dns.so.2",
        "exec /lib/arch-any/libnss_files.so.2 /lib/arch-any/libnss_files.so.2",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    let configuration = ["agent.toml", "bootstrap.conf", "root.json"].map(str::to_owned);
    assert_eq!(copied, BTreeSet::from(configuration));
    assert!(root.join("initramfs/etc/nsswitch.conf").exists());

    for lacking in [
        "usr/bin/touchstone",
        "usr/bin/touchstone-bootstrap",
        "usr/sbin/cryptsetup",
        "usr/lib/arch-any/libtss2-tcti-device.so.0",
        "etc/touchstone/agent.toml",
    ] {
        fs::remove_file(root.join(lacking)).unwrap();
        assert!(!hook(root).0, "without {lacking} the machine would not open its disk");
        machine(root);
    }
}

/// dracut's functions, as far as the module calls them.
const DRACUT_FUNCTIONS: &str = r#"
say() { echo "$*"; }
require_binaries() { say binaries "$@"; [ -z "$LACKING" ]; }
inst_multiple() { say multiple "$@"; }
inst_libdir_file() { say libdir "$@"; }
inst_simple() { say simple "$@"; }
instmods() { say modules "$@"; }
SYSTEMCTL="say systemctl" initdir=/initdir moddir=/moddir systemdsystemunitdir=/units
"#;

#[test]
fn the_module_of_dracut_asks_for_all_of_it() {
    let module = packaging("dracut/90touchstone/module-setup.sh");
    let run = |function: &str, lacking: &str| {
        let script = format!("{DRACUT_FUNCTIONS}\n. '{}'\n{function}", module.display());
        let ended = Command::new("bash")
            .args(["-c", &script])
            .env("LACKING", lacking)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{function}");
        (ended.status.code(), String::from_utf8(ended.stdout).unwrap())
    };
    let binaries = "binaries touchstone touchstone-bootstrap cryptsetup\n".to_owned();
    assert_eq!(
        run("check", ""),
        (Some(255), binaries.clone()),
        "only where it is asked for"
    );
    assert_eq!(
        run("check", "one"),
        (Some(1), binaries),
        "not where one is not installed"
    );
    assert_eq!(run("depends", ""), (Some(0), "systemd network dm\n".into()));
    let modules = "modules =drivers/char/tpm dm_crypt xts ecb aes algif_skcipher\n".to_owned();
    assert_eq!(run("installkernel", ""), (Some(0), modules));
    let (code, installed) = run("install", "");
    let expected = [
        "multiple touchstone touchstone-bootstrap cryptsetup mount mkdir sleep",
        "libdir libtss2-tcti-device.so*",
        "multiple -o /etc/touchstone/agent.toml /etc/touchstone/bootstrap.conf /etc/touchstone/root.json",
        "simple /moddir/touchstone-bootstrap.service /units/touchstone-bootstrap.service",
        "systemctl -q --root /initdir add-requires initrd-root-device.target touchstone-bootstrap.service",
    ];
    assert_eq!(
        (code, installed.lines().collect::<Vec<_>>()),
        (Some(0), expected.to_vec())
    );
}

#[test]
fn the_boot_script_opens_the_disk_when_the_network_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().display().to_string();
    let functions = "configure_networking() { echo network; }\n";
    fs::write(folder.path().join("functions"), functions).unwrap();
    let opens = folder.path().join("touchstone-bootstrap");
    fs::write(&opens, "#!/bin/sh\necho \"open $*\"\n").unwrap();
    fs::set_permissions(&opens, fs::Permissions::from_mode(0o700)).unwrap();
    let text = fs::read_to_string(packaging("initramfs-tools/scripts/local-top/touchstone")).unwrap();
    let text = text
        .replace("/scripts/functions", &format!("{here}/functions"))
        .replace("/bin/touchstone-bootstrap", &format!("{here}/touchstone-bootstrap"));
    let script = folder.path().join("script");
    fs::write(&script, text).unwrap();
    let run = |words: &[&str]| {
        let ended = Command::new("sh").arg(&script).args(words).output().unwrap();
        (ended.status.success(), String::from_utf8(ended.stdout).unwrap())
    };
    assert_eq!(run(&["prereqs"]), (true, "udev\n".to_owned()));
    assert_eq!(run(&[]), (true, "network\nopen /etc/touchstone\n".to_owned()));
}
