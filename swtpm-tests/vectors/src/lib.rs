//! Test support: genuine evidence from public repositories, read from beside the checkout, never committed.
//!
//! A stranger's clone has no `../shared/vectors`. There such a test reports itself as skipped, with the reason. Where
//! the folder does lie beside the checkout and `CI=true`, a skip is a failure: it would hide a path typed wrong.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file or folder `name` below `../shared/vectors`, or `None` after reporting the calling test as skipped.
///
/// # Panics
/// When `CI=true`, the folder `../shared` lies beside the checkout, and yet `name` is not in it.
#[must_use]
#[expect(clippy::panic, reason = "test support: a skip that must not happen is a failed test")]
pub fn genuine(name: &str) -> Option<PathBuf> {
    let shared = beside_the_checkout();
    let path = shared.join("vectors").join(name);
    if path.exists() {
        return Some(path);
    }
    if shared.exists() && is_ci() {
        panic!(
            "{} is missing although ../shared lies beside the checkout",
            path.display()
        );
    }
    skip(&format!(
        "genuine vectors `{name}`: no ../shared/vectors beside this checkout"
    ));
    None
}

/// Reports the calling test as skipped, with the reason; `make test` lists and counts these.
pub fn skip(reason: &str) {
    println!("skipped: {reason}");
    if let Some(list) = std::env::var_os("TOUCHSTONE_SKIPS")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(list)
    {
        // One write, so that tests running side by side do not mix their lines.
        let _ = file.write_all(format!("{reason}\n").as_bytes());
    }
}

/// Reports the calling test as skipped for want of a program that `make deps` installs.
///
/// # Panics
/// When `CI=true` on Debian: there it is installed, or something is wrong with the test or with `setup/deps.sh`.
#[expect(clippy::panic, reason = "test support: a skip that must not happen is a failed test")]
pub fn lacking(reason: &str) {
    if is_ci() && Path::new("/etc/debian_version").exists() {
        panic!("{reason}: `make deps` installs it, and this is CI");
    }
    skip(reason);
}

/// Closes everything but standard input, output and error, then becomes the program.
const CLOSE_INHERITED: &str =
    r#"for fd in /proc/$$/fd/*; do n=${fd##*/}; [ "$n" -gt 2 ] && eval "exec $n>&-"; done; exec "$0" "$@""#;

/// A command that inherits nothing but standard input, output and error, for a child process that lives on beside others
/// of the same test program.
///
/// libtss2 opens its connections without close-on-exec, and a software TPM serves one connection at a time: a child that
/// keeps one open stops that TPM for everybody. The process id is the program's own.
#[must_use]
pub fn alone(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", CLOSE_INHERITED]).arg(program);
    command
}

fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}

fn beside_the_checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared")
}
