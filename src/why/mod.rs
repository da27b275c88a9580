//! Why something was refused, told like a good compiler error: what it is about, what was expected and found with the
//! part that differs marked, what the code means, which reference was nearest, and what command would accept it, where
//! accepting is sensible at all. One renderer for every command that shows a refusal.

mod advice;
mod marks;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use touchstone_cose::reason::CatalogueEntry;
use touchstone_verifier::reason::{Code, Reason, sanitise};

pub use advice::Places;

/// Lines shown without `--all`, where the terminal does not say how many it has.
const SCREEN_LINES: usize = 44;
/// Columns, where the terminal does not say.
const SCREEN_WIDTH: usize = 110;
/// Narrowest and widest terminal that is believed.
const WIDTHS: std::ops::RangeInclusive<usize> = 60..=400;
/// Most reasons of one code that are shown without `--all`.
const OF_ONE_CODE: usize = 3;
/// Longest text of a reason that is shown.
const MAX_TEXT: usize = 4096;

/// One reason, whoever gave it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Why {
    /// The stable code.
    pub code: String,
    /// What it is about: `PCR 8 (sha256)`.
    pub claim: String,
    /// What would have been accepted.
    pub expected: String,
    /// What was found.
    pub found: String,
    /// The event of the log it is about.
    pub event: Option<usize>,
    /// The register it is about.
    pub register: Option<u8>,
    /// The reference that was nearest.
    pub nearest: Option<String>,
}

impl Why {
    /// A reason in its four fields.
    pub fn new(code: &str, claim: &str, expected: &str, found: &str) -> Self {
        let text = |text: &str| sanitise(text, MAX_TEXT);
        let (event, found) = event_of(found);
        Self {
            code: text(code),
            claim: text(claim),
            expected: text(expected),
            found: text(found),
            event,
            register: register_of(claim),
            nearest: None,
        }
    }

    /// A reason as it travels in words: `code (claim): expected …, found …`, or `code: what happened`.
    #[cfg(any(feature = "tpm", test))]
    pub fn from_words(words: &str) -> Self {
        let kebab = |code: &str| {
            !code.is_empty()
                && code
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if let Some((head, rest)) = words.split_once("): expected ")
            && let Some((code, claim)) = head.split_once(" (")
            && let Some((expected, found)) = rest.split_once(", found ")
            && kebab(code)
        {
            return Self::new(code, claim, expected, found);
        }
        match words.split_once(": ") {
            Some((code, found)) if kebab(code) => Self::new(code, "", "", found),
            _ => Self::new("", "", "", words),
        }
    }

    /// What the code means, where this version knows it.
    pub fn meaning(&self) -> Option<&'static str> {
        catalogues()
            .find(|entry| entry.code == self.code)
            .map(|entry| entry.meaning)
    }
}

impl From<&Reason> for Why {
    fn from(reason: &Reason) -> Self {
        let mut why = Self::new(reason.code.as_str(), &reason.claim, &reason.expected, &reason.found);
        if let Some(hint) = &reason.hint {
            why.event = hint.event.or(why.event);
            why.register = hint.register.or(why.register);
            why.nearest.clone_from(&hint.nearest);
        }
        why
    }
}

/// Every code that a refusal shown to people may carry.
fn catalogues() -> impl Iterator<Item = &'static CatalogueEntry> {
    let others: [&'static [CatalogueEntry]; 7] = [
        touchstone_keybroker::problem::RefusalCode::CATALOGUE,
        touchstone_keybroker::decision::DenialCode::CATALOGUE,
        touchstone_keybroker::drift::DriftCode::CATALOGUE,
        touchstone_keybroker::bootstrap::BootstrapCode::CATALOGUE,
        touchstone_attest::bootstrap::volume::VolumeCode::CATALOGUE,
        touchstone_policies::DecisionCode::CATALOGUE,
        touchstone_policies::PolicyCode::CATALOGUE,
    ];
    Code::CATALOGUES.iter().copied().chain(others).flatten()
}

/// How it is shown.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// With terminal colours.
    pub colour: bool,
    /// Everything, in full; otherwise at most a screen.
    pub all: bool,
    /// Columns.
    pub width: usize,
    /// Lines shown without `all`.
    pub lines: usize,
}

impl Look {
    /// For standard output: colours only on a terminal, and never with `NO_COLOR` (no-color.org).
    pub fn of_stdout(all: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let terminal = std::io::stdout().is_terminal();
        Self {
            colour: terminal && !dumb && !set("NO_COLOR"),
            all,
            width: number("COLUMNS")
                .filter(|width| terminal && WIDTHS.contains(width))
                .unwrap_or(SCREEN_WIDTH),
            lines: SCREEN_LINES,
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

/// The reasons as text, in the order given (an appraisal gives them in the order of its stages), reasons of one code
/// together, and the help at the end. Empty where there is no reason.
pub fn tell(reasons: &[Why], places: &Places<'_>, look: &Look) -> String {
    let mut out = String::new();
    let mut left: Vec<&Why> = Vec::new();
    let mut lines = 0;
    for group in groups(reasons) {
        let shown = if look.all { group.len() } else { OF_ONE_CODE };
        for (position, why) in group.iter().enumerate() {
            if position >= shown || (!look.all && lines >= look.lines) {
                left.push(*why);
                continue;
            }
            let text = one(why, position == 0, look);
            lines += text.lines().count() + 1;
            out.push_str(&text);
            out.push('\n');
        }
    }
    if !left.is_empty() {
        let mut codes: Vec<&str> = left.iter().map(|why| why.code.as_str()).collect();
        codes.dedup();
        let _ = writeln!(
            out,
            "… and {} more: {} (--all shows everything)\n",
            left.len(),
            codes.join(", ")
        );
    }
    if let Some(nearest) = reasons.iter().find_map(|why| why.nearest.as_deref()) {
        let _ = writeln!(out, "{} {nearest}", look.paint("1", "nearest reference:"));
    }
    for line in advice::help(reasons, places) {
        let (mark, rest) = line.split_at(
            line.find(':')
                .map_or(0, |end| if line.starts_with("help") { end + 1 } else { 0 }),
        );
        let _ = writeln!(
            out,
            "{}{rest}",
            if mark.is_empty() {
                String::new()
            } else {
                look.paint("1;36", mark)
            }
        );
    }
    out
}

/// The commands that would accept what `why`, one of `reasons`, is about.
pub fn commands(why: &Why, reasons: &[Why], places: &Places<'_>) -> Vec<String> {
    advice::commands(&why.code, reasons, places)
}

/// Reasons of one code, each code where it came first.
fn groups(reasons: &[Why]) -> Vec<Vec<&Why>> {
    let mut groups: Vec<Vec<&Why>> = Vec::new();
    for why in reasons {
        match groups
            .iter_mut()
            .find(|group| group.first().is_some_and(|first| first.code == why.code))
        {
            Some(group) => group.push(why),
            None => groups.push(vec![why]),
        }
    }
    groups
}

/// One reason; with `meaning`, what its code means.
fn one(why: &Why, meaning: bool, look: &Look) -> String {
    let mut place = why.claim.clone();
    if let Some(event) = why.event.filter(|_| !why.claim.contains("event")) {
        let _ = write!(place, "{}event {event}", if place.is_empty() { "" } else { ", " });
    }
    let name = if why.code.is_empty() {
        "refused".to_owned()
    } else {
        format!("refused[{}]", why.code)
    };
    let mut out = look.paint("1;31", &name);
    let _ = writeln!(out, "{}{place}", if place.is_empty() { "" } else { ": " });
    if why.expected.is_empty() {
        let _ = writeln!(out, "  {}", why.found);
    } else {
        for line in marks::pair(&why.expected, &why.found, look) {
            let _ = writeln!(out, "  {line}");
        }
    }
    if let Some(meaning) = why.meaning().filter(|_| meaning) {
        let _ = writeln!(out, "  {} {meaning}", look.paint("1;34", "="));
    }
    out
}

/// `event 41: what it says` taken apart.
fn event_of(found: &str) -> (Option<usize>, &str) {
    let apart = found.strip_prefix("event ").and_then(|rest| rest.split_once(": "));
    match apart.and_then(|(number, rest)| Some((number.parse().ok()?, rest))) {
        Some((number, rest)) => (Some(number), rest),
        None => (None, found),
    }
}

/// The register of a claim like `PCR 8 (sha256)`.
fn register_of(claim: &str) -> Option<u8> {
    let (_, rest) = claim.split_once("PCR ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
