//! Lines for standard output and standard error, written by threads of their own: whoever does not read them holds up
//! nobody who enforces.
//!
//! A reader that falls behind by [`MAX_WAITING`] lines misses those that come then; once it reads again it is told how many
//! of which kind those were. What goes to the one stream never waits for the other.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Most lines that wait for their reader.
pub const MAX_WAITING: usize = 1_024;

/// Most kinds of lines that are counted one by one when they are not told; the others are counted together.
pub const MAX_KINDS: usize = 32;

/// How long the end of the program waits for what was said last.
const LAST: Duration = Duration::from_secs(1);

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Error,
}

/// Lines on their way to one stream.
struct Lines {
    sender: SyncSender<Vec<u8>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    written: Condvar,
}

#[derive(Default)]
struct State {
    /// Handed over and not written yet.
    waiting: usize,
    /// Not told, by kind.
    dropped: BTreeMap<String, u64>,
}

struct Both {
    out: Lines,
    error: Lines,
}

static BOTH: OnceLock<Both> = OnceLock::new();

/// From here on whatever this program says waits for no reader. With `json`, lines that were not told are told of as an event.
///
/// # Errors
/// The streams, or threads, cannot be had.
pub fn detach(json: bool) -> std::io::Result<()> {
    if BOTH.get().is_none() {
        // Copies: whoever holds the lock of the program's own streams is not waited for.
        let out = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
        let error = File::from(std::io::stderr().as_fd().try_clone_to_owned()?);
        let both = Both {
            out: Lines::to(out, json)?,
            error: Lines::to(error, json)?,
        };
        let _ = BOTH.set(both);
    }
    Ok(())
}

/// Says a line. A reader that has gone away (`| head`) is no reason to fail.
pub fn put(stream: Stream, line: std::fmt::Arguments<'_>) {
    match (BOTH.get(), stream) {
        (Some(both), Stream::Out) => both.out.put(format!("{line}\n").into_bytes()),
        (Some(both), Stream::Error) => both.error.put(format!("{line}\n").into_bytes()),
        (None, Stream::Out) => drop(writeln!(std::io::stdout().lock(), "{line}")),
        (None, Stream::Error) => drop(writeln!(std::io::stderr().lock(), "{line}")),
    }
}

/// Waits until everything is said, and no longer than a reader that reads needs.
pub fn flush() {
    if let Some(both) = BOTH.get() {
        let until = Instant::now() + LAST;
        both.error.flush(until);
        both.out.flush(until);
    }
}

/// The program's log: a line a write.
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match BOTH.get() {
            Some(both) => both.error.put(bytes.to_vec()),
            None => std::io::stderr().lock().write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn to(stream: impl Write + Send + 'static, json: bool) -> std::io::Result<Self> {
        let (sender, lines) = sync_channel(MAX_WAITING);
        let shared = Arc::new(Shared::default());
        let of_writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("lines".into())
            .spawn(move || write(stream, &lines, &of_writer, json))?;
        Ok(Self { sender, shared })
    }

    fn put(&self, line: Vec<u8>) {
        let mut state = self.shared.lock();
        match self.sender.try_send(line) {
            Ok(()) => state.waiting += 1,
            Err(TrySendError::Full(line) | TrySendError::Disconnected(line)) => state.drop_line(&line),
        }
    }

    fn flush(&self, until: Instant) {
        let mut state = self.shared.lock();
        while state.waiting > 0 {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return;
            };
            let waited = self.shared.written.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn drop_line(&mut self, line: &[u8]) {
        let kind = kind(line);
        let known = self.dropped.contains_key(&kind) || self.dropped.len() < MAX_KINDS;
        let count = self
            .dropped
            .entry(if known { kind } else { "other".into() })
            .or_default();
        *count = count.saturating_add(1);
    }
}

/// What sort of line it is: the name of an event, or the first word.
fn kind(line: &[u8]) -> String {
    const MOST: usize = 32;
    let event = serde_json::from_slice::<serde_json::Value>(line).ok();
    let named = event.as_ref().and_then(|event| event.get("event")?.as_str());
    let text = String::from_utf8_lossy(line);
    let word = || text.split([':', ' ', '\n']).next().unwrap_or_default();
    named.unwrap_or_else(word).chars().take(MOST).collect()
}

fn write(mut stream: impl Write, lines: &Receiver<Vec<u8>>, shared: &Shared, json: bool) {
    while let Ok(line) = lines.recv() {
        let _ = stream.write_all(&line).and_then(|()| stream.flush());
        // Whoever was not told of something hears of it as soon as it hears anything.
        let dropped = std::mem::take(&mut shared.lock().dropped);
        if !dropped.is_empty() {
            let _ = stream
                .write_all(&not_told(&dropped, json))
                .and_then(|()| stream.flush());
        }
        shared.lock().waiting -= 1;
        shared.written.notify_all();
    }
}

fn not_told(dropped: &BTreeMap<String, u64>, json: bool) -> Vec<u8> {
    if json {
        let event = serde_json::json!({ "event": "not_told", "lines": dropped });
        return format!("{event}\n").into_bytes();
    }
    let kinds: Vec<String> = dropped.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    format!("not told, for nobody read: {}\n", kinds.join(", ")).into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    #[test]
    fn a_reader_that_does_not_read_holds_up_nobody_and_is_told_what_it_missed() {
        let (reader, writer) = std::io::pipe().unwrap();
        let lines = Lines::to(writer, true).unwrap();
        let (say, count) = ("x".repeat(200), 5_000);
        let begun = Instant::now();
        for n in 0..count {
            let event = if n % 2 == 0 { "denied" } else { "allowed" };
            lines.put(format!("{{\"event\":\"{event}\",\"at\":\"{say}\"}}\n").into_bytes());
        }
        lines.flush(Instant::now() + Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_secs(60), "the reader was waited for");
        let mut told = 0u64;
        let mut missed = BTreeMap::<String, u64>::new();
        for line in BufReader::new(reader).lines() {
            let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            if line["event"] == "not_told" {
                for (kind, count) in line["lines"].as_object().unwrap() {
                    *missed.entry(kind.clone()).or_default() += count.as_u64().unwrap();
                }
            } else {
                told += 1;
            }
            if told + missed.values().sum::<u64>() == count {
                break;
            }
        }
        assert!(missed["denied"] > 1_000 && missed["allowed"] > 1_000, "{missed:?}");
        assert!(told >= MAX_WAITING as u64, "{told}");
    }

    #[test]
    fn what_is_not_told_is_counted_in_bounded_room() {
        let mut state = State::default();
        for n in 0..10_000 {
            state.drop_line(format!("kind-{n}: words").as_bytes());
        }
        assert!(state.dropped.len() <= MAX_KINDS + 1);
        assert_eq!(state.dropped.values().sum::<u64>(), 10_000);
        let words = String::from_utf8(not_told(&BTreeMap::from([("denied".into(), 3)]), false)).unwrap();
        assert_eq!(words, "not told, for nobody read: 3 denied\n");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_reason_to_stop() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let lines = Lines::to(writer, false).unwrap();
        for _ in 0..10 {
            lines.put(b"denied: nobody reads\n".to_vec());
        }
        lines.flush(Instant::now() + Duration::from_secs(60));
        assert_eq!(lines.shared.lock().waiting, 0);
    }
}
