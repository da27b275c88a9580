//! The program: a platform that is made once, and a guest on it that any other process can ask for reports.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::zombie_processes,
    reason = "tests"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use touchstone_simulated_platform::{Platform, field};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_touchstone-simulated-platform"));
    command.args(arguments);
    command
}

#[test]
fn a_platform_is_made_once_and_its_guest_says_what_it_was_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (platform, tsm) = (path("platform"), path("tsm"));
    let made = program(&["init", "--platform", &platform, "--line", "turin", "--chip", "7"])
        .status()
        .unwrap();
    assert!(made.success());
    assert!(Platform::read(Path::new(&platform)).is_ok());

    let set = "0x090=abab";
    let run = [
        "run",
        "--platform",
        &platform,
        "--tsm",
        &tsm,
        "--line",
        "turin",
        "--chip",
        "7",
        "--set",
        set,
    ];
    let mut running = program(&run).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(running.stdout.take().unwrap())
        .read_line(&mut ready)
        .unwrap();
    assert!(ready.starts_with("ready: "), "{ready:?}");

    let entry = Path::new(&tsm).join("mine");
    fs::create_dir(&entry).unwrap();
    while !entry.join("outblob").exists() {
        std::thread::yield_now();
    }
    fs::write(entry.join("inblob"), [9; 64]).unwrap();
    let report = fs::read(entry.join("outblob")).unwrap();
    assert_eq!(fs::read_to_string(entry.join("generation")).unwrap(), "1\n");
    assert_eq!(report.len(), 1184);
    assert_eq!(&report[field::REPORT_DATA..][..64], [9; 64]);
    assert_eq!(&report[field::MEASUREMENT..][..3], [0xAB, 0xAB, 0x3E]);
    assert_eq!(&report[field::CHIP_ID..][..9], [7, 7, 7, 7, 7, 7, 7, 7, 0]);
    running.kill().unwrap();
    running.wait().unwrap();
}

#[test]
fn usage_that_is_wrong_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nothing").display().to_string();
    for arguments in [
        &["init", "--platform", nowhere.as_str(), "--line", "naples"][..],
        &["run", "--platform", nowhere.as_str(), "--tsm", nowhere.as_str()],
        &[
            "run",
            "--platform",
            nowhere.as_str(),
            "--tsm",
            nowhere.as_str(),
            "--set",
            "90=ab",
        ],
    ] {
        let done = program(arguments).stderr(Stdio::null()).status().unwrap();
        assert_eq!(done.code(), Some(2), "{arguments:?}");
    }
}
