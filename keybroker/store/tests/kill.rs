//! Kill -9 at any instant loses no commit that returned, and half of no commit is ever seen.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use touchstone_store::{Batch, Guard, Namespace, RedbStore, Revision, Store};

const N: Namespace = Namespace::new("n");
const TWIN: Namespace = Namespace::new("twin");

/// Tells the child which store to write to.
const STORE: &str = "TOUCHSTONE_KILL_TEST_STORE";
const DURABLE: &str = "durable ";

/// Not a test of its own: the process that the test below starts and kills.
#[test]
#[ignore = "the child process of a_killed_writer_loses_nothing_it_reported"]
fn writer() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let store = RedbStore::open(Path::new(&path)).unwrap();
    let mut out = std::io::stdout();
    loop {
        let n = store.revision().unwrap().get() + 1;
        let mut batch = Batch::new();
        batch.guard(Guard::Absent(N.numbered(n)));
        batch
            .put(N.numbered(n), vec![n as u8; 3_000])
            .put(TWIN.numbered(n), n.to_be_bytes());
        let revision = store.commit(batch).unwrap();
        // The newline in front ends whatever the test harness has begun to write.
        writeln!(out, "\n{DURABLE}{revision}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_killed_writer_loses_nothing_it_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut reported = 0;
    // Each round goes on with the file that the last kill left. The kill falls wherever the writer is by then: the
    // parent does not wait for anything after the line it counted, and in the first round not even for the file.
    for lines in [0, 1, 2, 5, 9, 14, 20, 3, 1, 27] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "kill::writer",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(STORE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut durable = (&mut output)
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix(DURABLE).and_then(|number| number.parse::<u64>().ok()));
        let counted = durable.by_ref().take(lines).last();
        child.kill().unwrap();
        // What it wrote to the pipe before it died was reported as well.
        let last = durable.last().or(counted);
        child.wait().unwrap();
        assert!(lines == 0 || last.is_some(), "the writer ended by itself");
        reported = last.unwrap_or(reported);

        let store = RedbStore::open(&path).unwrap();
        let revision = store.revision().unwrap();
        assert!(
            revision >= Revision::new(reported),
            "{reported} was reported, the store is at {revision}"
        );
        for n in 1..=revision.get() {
            let found = store.get(&N.numbered(n)).unwrap().unwrap();
            assert_eq!(
                (found.value, found.revision),
                (vec![n as u8; 3_000], Revision::new(n)),
                "row {n}"
            );
            let twin = store.get(&TWIN.numbered(n)).unwrap().unwrap();
            assert_eq!(twin.value, n.to_be_bytes(), "half of commit {n}");
        }
        assert_eq!(store.get(&N.numbered(revision.get() + 1)), Ok(None));
        assert_eq!(
            store.changes_since(Revision::ZERO).unwrap().changes.len() as u64,
            2 * revision.get()
        );
        reported = revision.get();
    }
    assert!(reported > 0);
}
