//! What was expected and what was found, one below the other, with the words that differ marked.

use super::Look;

/// What stands in front of the two texts.
const LABELS: [&str; 2] = ["expected  ", "found     "];
/// How much of the words in common is shown on each side of a difference, where not everything fits.
const CONTEXT: usize = 32;
/// Hexadecimal words at least this long are digests; they are shown in short.
const DIGEST: usize = 40;
/// How much of a digest is shown at its start and at its end.
const DIGEST_SHOWN: (usize, usize) = (12, 4);

/// The lines for the two texts, without the indent.
pub(super) fn pair(expected: &str, found: &str, look: &Look) -> Vec<String> {
    let texts = if look.all {
        [expected.to_owned(), found.to_owned()]
    } else {
        short_digests(expected, found)
    };
    let [a, b] = [words(&texts[0]), words(&texts[1])];
    let start = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let most = a.len().min(b.len()) - start;
    let end = a
        .iter()
        .rev()
        .zip(b.iter().rev())
        .take(most)
        .take_while(|(x, y)| x == y)
        .count();
    let mut lines = Vec::new();
    for (label, words, mark, colour) in [(LABELS[0], &a, '-', "32"), (LABELS[1], &b, '^', "31")] {
        let parts = Parts::new(words, start, end);
        let parts = if look.all {
            parts
        } else {
            parts.within(look.width.saturating_sub(label.len() + 2))
        };
        let [before, differs, after] = [&parts.before, &parts.differs, &parts.after];
        lines.push(format!("{label}{before}{}{after}", look.paint(colour, differs)));
        let width = differs.trim().chars().count();
        // Where the two have nothing in common, there is nothing to point at.
        let alike = start + end > 0;
        let other_is_marked = mark == '-' && b.len() > start + end;
        if alike && width > 0 && !other_is_marked {
            let lead = label.chars().count() + before.chars().count();
            let lead = lead + differs.chars().take_while(|c| c.is_whitespace()).count();
            let marks: String = std::iter::repeat_n(mark, width).collect();
            lines.push(format!("{}{}", " ".repeat(lead), look.paint(colour, &marks)));
        }
    }
    lines
}

/// A text around its difference.
struct Parts {
    before: String,
    differs: String,
    after: String,
}

impl Parts {
    fn new(words: &[&str], start: usize, end: usize) -> Self {
        let join = |from: usize, to: usize| words.get(from..to).unwrap_or_default().concat();
        Self {
            before: join(0, start),
            differs: join(start, words.len() - end),
            after: join(words.len() - end, words.len()),
        }
    }

    /// Cut to `width` columns: first what both have in common, then the difference itself.
    fn within(mut self, width: usize) -> Self {
        let length =
            |parts: &Self| parts.before.chars().count() + parts.differs.chars().count() + parts.after.chars().count();
        if length(&self) > width && self.after.chars().count() > CONTEXT {
            self.after = format!("{}…", take(&self.after, CONTEXT));
        }
        let over = length(&self).saturating_sub(width);
        let before = self.before.chars().count();
        if over > 0 && before > CONTEXT {
            let keep = (before.saturating_sub(over + 1)).max(CONTEXT);
            let rest: String = self.before.chars().skip(before - keep).collect();
            self.before = format!("…{rest}");
        }
        let over = length(&self).saturating_sub(width);
        let differs = self.differs.chars().count();
        if over > 0 && differs > CONTEXT {
            self.differs = format!(
                "{}…",
                take(&self.differs, differs.saturating_sub(over + 1).max(CONTEXT))
            );
        }
        self
    }
}

fn take(text: &str, count: usize) -> String {
    text.chars().take(count).collect()
}

/// Words, each with the space before it.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let lead = rest.len() - rest.trim_start().len();
        let tail = rest.get(lead..).unwrap_or_default();
        // A quotation mark stands for itself, so that a word added before it is the only one that differs.
        let len = match tail.find(|c: char| c.is_whitespace() || c == '"') {
            Some(0) => 1.min(tail.len()),
            Some(len) => len,
            None => tail.len(),
        };
        let (word, next) = rest.split_at(lead + len);
        words.push(word);
        rest = next;
    }
    words
}

/// Both texts with their digests in short, unless that would make different texts the same.
fn short_digests(expected: &str, found: &str) -> [String; 2] {
    let short = [short_digest(expected), short_digest(found)];
    if short[0] == short[1] && expected != found {
        [expected.to_owned(), found.to_owned()]
    } else {
        short
    }
}

fn short_digest(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let (before, from) = rest.split_at(start);
        let len = from.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(from.len());
        let (run, next) = from.split_at(len);
        out.push_str(before);
        match (run.get(..DIGEST_SHOWN.0), run.get(len.saturating_sub(DIGEST_SHOWN.1)..)) {
            (Some(first), Some(last)) if len >= DIGEST => {
                out.push_str(first);
                out.push('…');
                out.push_str(last);
            }
            _ => out.push_str(run),
        }
        rest = next;
    }
    out.push_str(rest);
    out
}
