//! Tells the story: lines for people, or one JSON object a step.

use crate::output::say;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

/// Tells what happened, step by step, in the form asked for.
pub struct Narrator {
    json: bool,
    colour: bool,
    started: Instant,
}

impl Narrator {
    /// A narrator for people, or for machines.
    pub fn new(json: bool) -> Self {
        Self {
            json,
            colour: std::io::stdout().is_terminal(),
            started: Instant::now(),
        }
    }

    /// A heading: a new chapter of the story.
    pub fn chapter(&self, title: &str) {
        if !self.json {
            say!("\n{}", self.paint("1", title));
        }
    }

    /// Something went as told.
    pub fn good(&self, step: &str, words: &str, facts: Value) {
        self.tell("32", "✓", step, words, facts);
    }

    /// Something was refused, as it should be.
    pub fn refused(&self, step: &str, words: &str, facts: Value) {
        self.tell("33", "✗", step, words, facts);
    }

    /// Further lines under the last step, for people only.
    pub fn detail(&self, line: &str) {
        if !self.json {
            say!("           {}", self.paint("2", &shorten_digests(line)));
        }
    }

    /// Time since the story began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The last object, or the closing lines.
    pub fn summary(&self, facts: Value, lines: &[String]) {
        if self.json {
            say!("{}", with_step("summary", facts));
        } else {
            say!();
            for line in lines {
                say!("{}", self.paint("1", line));
            }
        }
    }

    fn tell(&self, colour: &str, mark: &str, step: &str, words: &str, facts: Value) {
        if self.json {
            say!("{}", with_step(step, facts));
        } else {
            say!(
                "  {:>6.2} s  {} {words}",
                self.elapsed().as_secs_f64(),
                self.paint(colour, mark)
            );
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Digests of 32 bytes and more, in hexadecimal, as their first and last digits: for the eye, which compares no more.
fn shorten_digests(line: &str) -> String {
    const LONG: usize = 64;
    let mut short = String::with_capacity(line.len());
    for word in line.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
        let digits = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
        match (digits.get(..8), digits.get(digits.len().saturating_sub(4)..)) {
            (Some(head), Some(tail)) if digits.len() >= LONG => {
                short.push_str(head);
                short.push('…');
                short.push_str(tail);
                short.push_str(word.get(digits.len()..).unwrap_or_default());
            }
            _ => short.push_str(word),
        }
    }
    short
}

/// Puts `"step"` first; anything but an object becomes `"facts"`.
fn with_step(step: &str, facts: Value) -> Value {
    let mut object = Map::new();
    object.insert("step".into(), json!(step));
    match facts {
        Value::Object(facts) => object.extend(facts),
        Value::Null => {}
        other => {
            object.insert("facts".into(), other);
        }
    }
    Value::Object(object)
}
