//! A disk that is full in the middle of a publish: a small tmpfs in a mount namespace of the test's own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::PathBuf;
use std::process::Command;

use touchstone_policies::{LoadOptions, PolicyCode, init, load_blocking, publish};

const NOW: i64 = 1_760_000_000;
/// Set in the second process: where the small disk is.
const DISK: &str = "TOUCHSTONE_SMALL_DISK";
const TEST: &str = "disk_full::a_full_disk_leaves_the_old_version";

#[test]
fn a_full_disk_leaves_the_old_version() {
    let Some(disk) = std::env::var_os(DISK).map(PathBuf::from) else {
        again_on_a_small_disk();
        return;
    };
    let (repo, keys) = (disk.join("repo"), disk.join("keys"));
    init(&repo, "full.example", &keys, NOW).unwrap();
    publish(&repo, &keys, NOW).unwrap();
    let load = || load_blocking(repo.as_path(), LoadOptions::default(), NOW).unwrap();
    assert_eq!(load().version, 1);
    // A policy that is as large as what is free, less and less: the disk is full at one place after another.
    let stage = repo.join("staged/policy.cedar");
    let filler = disk.join("filler");
    let mut refused = 0;
    for kib in (0..400).step_by(16).rev() {
        let text = format!("permit (principal, action, resource);\n// {}\n", "x".repeat(180 << 10));
        std::fs::write(&stage, format!("{text}// {kib}\n")).unwrap();
        drop(std::fs::remove_file(&filler));
        fill(&filler, kib);
        let version = load().version;
        match publish(&repo, &keys, NOW) {
            Ok(_) => assert_eq!(load().version, version + 1, "{kib} KiB"),
            Err(e) => {
                assert_eq!(e.code(), PolicyCode::Io, "{kib} KiB: {e}");
                assert_eq!(load().version, version, "{kib} KiB");
                assert!(!repo.join(".next").exists());
                refused += 1;
            }
        }
    }
    drop(std::fs::remove_file(&filler));
    publish(&repo, &keys, NOW).unwrap();
    assert!(refused > 3, "the disk was full {refused} times");
}

/// Fills the disk but for so many KiB.
fn fill(file: &std::path::Path, free: usize) {
    use std::io::Write;
    let mut out = std::fs::File::create(file).unwrap();
    let block = [0; 4096];
    let mut written = 0u64;
    while out.write_all(&block).is_ok() {
        written += 4096;
    }
    out.set_len(written.saturating_sub((free as u64) << 10)).unwrap();
}

/// Mounts the disk in a namespace of its own and runs the test again there.
fn again_on_a_small_disk() {
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let script = "mount -t tmpfs -o size=4m,mode=0700 tmpfs \"$0\" || exit 77; exec \"$1\" --exact \"$2\" --nocapture";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .args([folder.path().as_os_str(), program.as_os_str(), TEST.as_ref()])
        .env(DISK, folder.path())
        .output();
    let output = match output {
        Ok(output) if output.status.code() != Some(77) && !output.stdout.is_empty() => output,
        other => {
            touchstone_vectors::skip(&format!("no mount namespace of our own here: {other:?}"));
            return;
        }
    };
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
