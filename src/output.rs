//! What people and machines see: exit codes, errors that say what to do next, JSON on request.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use serde_json::Value;

/// Prints a line to standard output. A reader that has gone away (`| head`) is no reason to fail.
macro_rules! say {
    () => {
        $crate::lines::put($crate::lines::Stream::Out, format_args!(""))
    };
    ($($words:tt)+) => {
        $crate::lines::put($crate::lines::Stream::Out, format_args!($($words)+))
    };
}

/// Prints a line to standard error, likewise.
macro_rules! complain {
    ($($words:tt)+) => {
        $crate::lines::put($crate::lines::Stream::Error, format_args!($($words)+))
    };
}

pub(crate) use {complain, say};

/// How a command ended when nothing went wrong on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Done,
    /// Exit code 1: a verdict that is not affirming, a decision to deny, a proof that does not hold.
    Refused,
}

/// Why a command could not do its work: exit code 2, and what to do next.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure in words.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// Whether it speaks of this code.
    pub fn mentions(&self, code: &str) -> bool {
        self.message.contains(code)
    }

    /// What happened, without what to do about it.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Adds what the reader can do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let words = cause.to_string();
            if !message.contains(&words) {
                message.push_str(": ");
                message.push_str(&words);
            }
            source = cause.source();
        }
        Self::new(message)
    }
}

/// The result of every subcommand.
pub type CommandResult = Result<Outcome, Failure>;

/// Prints a failure to standard error and gives the exit code.
pub fn exit_code(outcome: CommandResult) -> ExitCode {
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Refused) => ExitCode::from(1),
        Err(failure) => {
            let (red, plain) = if std::io::stderr().is_terminal() {
                ("\x1b[31m", "\x1b[0m")
            } else {
                ("", "")
            };
            complain!("{red}error{plain}: {}", failure.message);
            if let Some(hint) = failure.hint {
                complain!("  try: {hint}");
            }
            ExitCode::from(2)
        }
    }
}

/// Prints one JSON document on a line of its own.
pub fn json(value: &Value) {
    say!("{value}");
}

/// Tells what was done: where `json` asks for it, `done` as one JSON object on a line; else in words.
pub fn tell(json: bool, done: &impl serde::Serialize, words: impl FnOnce()) -> CommandResult {
    if json {
        self::json(&serde_json::to_value(done)?);
    } else {
        words();
    }
    Ok(Outcome::Done)
}

/// The members of an object in words, one a line, those of objects in it by their way: `policy.version  7`.
pub fn members(value: &Value, prefix: &str) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let name = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            Value::Object(_) => members(value, &name),
            Value::String(text) => say!("{name:<32} {text}"),
            // Rows of the same members, each on a line of its own.
            Value::Array(rows) if rows.first().is_some_and(Value::is_object) => {
                for row in rows {
                    say!("{name:<32} {}", words(row));
                }
            }
            other => say!("{name:<32} {other}"),
        }
    }
}

/// The members of a row: `name state=behind epoch=7`.
fn words(row: &Value) -> String {
    let member = |(key, value): (&String, &Value)| match value {
        Value::String(text) => format!("{key}={text}"),
        other => format!("{key}={other}"),
    };
    let name = row.get("name").and_then(Value::as_str).map(str::to_owned);
    let others = row.as_object().into_iter().flatten().filter(|(key, _)| *key != "name");
    let mut others: Vec<String> = others.map(member).collect();
    others.sort();
    let members: Vec<String> = name.into_iter().chain(others).collect();
    members.join("  ")
}

/// Reads a file, naming it in the error.
pub fn read(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

/// Reads a file of at most `limit` bytes, naming it in the error.
pub fn read_at_most(path: &std::path::Path, limit: usize) -> Result<Vec<u8>, Failure> {
    use std::io::Read as _;
    let named = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(named)?;
    let mut bytes = Vec::new();
    let one_more = (limit as u64).saturating_add(1);
    file.take(one_more).read_to_end(&mut bytes).map_err(named)?;
    if bytes.len() > limit {
        return Err(Failure::new(format!(
            "{}: over the limit of {limit} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

/// Writes a file through a sibling and a rename, so that a reader never sees half of it.
pub fn write(path: &std::path::Path, bytes: &[u8]) -> Result<(), Failure> {
    let named = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, bytes).map_err(named)?;
    std::fs::rename(&partial, path).map_err(named)
}

/// Sends the program's log to standard error; `RUST_LOG` chooses what (default: warnings).
pub fn tracing_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // A second call in one process keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| crate::lines::Log)
        .try_init();
}

/// Sends the program's events (target `touchstone::event`) to standard output, one JSON object a line, and its log to
/// standard error.
pub fn events_to_stdout() {
    use tracing_subscriber::Layer as _;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    let events = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_target(false)
        .with_level(false)
        .with_filter(filter_fn(|metadata| metadata.target() == "touchstone::event"));
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_filter(filter_fn(|metadata| *metadata.level() <= tracing::Level::WARN));
    let _ = tracing_subscriber::registry().with(events).with(log).try_init();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_is_one_line() {
        let row = json!({ "name": "guard-1", "state": "behind", "epoch": 7 });
        assert_eq!(words(&row), "guard-1  epoch=7  state=behind");
    }
}
