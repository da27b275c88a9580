//! How far something is that takes its time: a bar on standard error, for people alone.

use std::io::{IsTerminal as _, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What ends sooner needs no bar.
const AFTER: Duration = Duration::from_secs(1);

/// How often it is drawn anew.
const PERIOD: Duration = Duration::from_millis(200);

/// How many places the bar has.
const WIDTH: u64 = 30;

/// To the beginning of the line, and nothing in it (ECMA-48, CR and EL).
const CLEAR: &str = "\r\x1b[2K";

/// A bar from the first second on, for as long as this lives; where standard error is no terminal there is none.
pub struct Progress {
    done: Arc<AtomicU64>,
    drawing: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Begins: `what` is being done, and `whole` is how much there is of it, where that is known.
    pub fn new(what: &'static str, whole: Option<u64>) -> Self {
        let stderr = std::io::stderr();
        let people = stderr.is_terminal();
        Self::over(what, whole, people.then_some(stderr), AFTER)
    }

    fn over(
        what: &'static str,
        whole: Option<u64>,
        sink: Option<impl Write + Send + 'static>,
        after: Duration,
    ) -> Self {
        let done = Arc::new(AtomicU64::new(0));
        let drawing = sink.map(|mut sink| {
            let (end, ended) = channel();
            let done = Arc::clone(&done);
            let begun = Instant::now();
            let draw = std::thread::spawn(move || {
                let mut wait = after;
                // The sender says nothing: it goes away, and that is the end.
                while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                    let line = line(what, done.load(Ordering::Relaxed), whole, begun.elapsed());
                    let _ = write!(sink, "{CLEAR}{line}").and_then(|()| sink.flush());
                    wait = PERIOD;
                }
                if wait == PERIOD {
                    let _ = write!(sink, "{CLEAR}").and_then(|()| sink.flush());
                }
            });
            (end, draw)
        });
        Self { done, drawing }
    }

    /// So much is done.
    pub fn at(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }
}

impl Drop for Progress {
    /// What is printed next stands on a line of its own.
    fn drop(&mut self) {
        if let Some((end, draw)) = self.drawing.take() {
            drop(end);
            let _ = draw.join();
        }
    }
}

fn line(what: &str, done: u64, whole: Option<u64>, since: Duration) -> String {
    let Some(whole) = whole.filter(|whole| *whole > 0) else {
        return format!("{what}: {} s", since.as_secs());
    };
    let done = done.min(whole);
    let share = |of: u64| u64::try_from(u128::from(done) * u128::from(of) / u128::from(whole)).unwrap_or(of);
    let (full, percent) = (share(WIDTH), share(100));
    let bar: String = (0..WIDTH).map(|place| if place < full { '#' } else { ' ' }).collect();
    format!("{what} [{bar}] {done} of {whole}, {percent} %")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Screen {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn a_bar_says_how_far_it_is() {
        let second = Duration::from_secs(1);
        assert_eq!(
            line("reading", 50, Some(200), second),
            format!("reading [{}{}] 50 of 200, 25 %", "#".repeat(7), " ".repeat(23))
        );
        assert_eq!(
            line("reading", 300, Some(200), second),
            line("reading", 200, Some(200), second)
        );
        assert!(line("reading", u64::MAX, Some(u64::MAX), second).ends_with("100 %"));
        assert_eq!(line("reading", 3, None, 4 * second), "reading: 4 s");
        assert_eq!(line("reading", 0, Some(0), second), "reading: 1 s");
    }

    #[test]
    fn what_takes_its_time_is_shown_and_wiped_away_and_what_is_quick_is_not() {
        let slow = Screen::default();
        let progress = Progress::over("reading", Some(10), Some(slow.clone()), Duration::ZERO);
        progress.at(5);
        while slow.text().is_empty() {
            std::thread::yield_now();
        }
        drop(progress);
        let text = slow.text();
        assert!(text.contains("of 10, ") && text.ends_with(CLEAR), "{text:?}");

        let quick = Screen::default();
        drop(Progress::over(
            "reading",
            Some(10),
            Some(quick.clone()),
            Duration::from_secs(3_600),
        ));
        assert_eq!(quick.text(), "");

        // No terminal: nobody draws.
        let nobody = Progress::over("reading", None, None::<Screen>, Duration::ZERO);
        assert!(nobody.drawing.is_none());
    }
}
