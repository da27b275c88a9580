//! The reasons in a statement: bounded, and saying so when some were left out.

use crate::reason::Code;

/// Most reasons in one statement.
pub const MAX_REASONS: usize = 64;

/// Longest code, in bytes.
pub const MAX_REASON_CODE_LEN: usize = 64;

/// Longest claim, expected or found, in bytes.
pub const MAX_REASON_TEXT_LEN: usize = 512;

/// Most bytes of text in all reasons of one statement: half of it, so that a refusal can always be recorded, however
/// much there is to say.
pub const MAX_REASONS_BYTES: usize = 32 * 1024;

/// Room for the reason that says that some were left out.
const TRUNCATED_BYTES: usize = 128;

/// What stands where a control character was.
const REPLACEMENT: char = '\u{fffd}';

/// One reason for an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The stable code.
    pub code: String,
    /// What it is about.
    pub claim: String,
    /// What would have been acceptable.
    pub expected: String,
    /// What was there.
    pub found: String,
}

impl Reason {
    /// Makes a list that fits a statement. Texts are cut to their limits and freed of control characters; a list that
    /// is too long keeps its beginning and ends with a reason `reasons-truncated`, which says how many there were.
    #[must_use]
    pub fn bounded(reasons: Vec<Self>) -> Vec<Self> {
        let total = reasons.len();
        let mut kept: Vec<Self> = Vec::with_capacity(total.min(MAX_REASONS));
        let mut bytes = 0;
        for (at, reason) in reasons.into_iter().enumerate() {
            let reason = reason.clean();
            bytes += reason.len();
            let last = at + 1 == total;
            let fits = if last {
                kept.len() < MAX_REASONS && bytes <= MAX_REASONS_BYTES
            } else {
                kept.len() + 1 < MAX_REASONS && bytes + TRUNCATED_BYTES <= MAX_REASONS_BYTES
            };
            if !fits {
                kept.push(Self::truncated(total));
                break;
            }
            kept.push(reason);
        }
        kept
    }

    fn truncated(total: usize) -> Self {
        Self {
            code: Code::ReasonsTruncated.as_str().to_owned(),
            claim: "reasons".to_owned(),
            expected: format!("at most {MAX_REASONS} reasons of {MAX_REASONS_BYTES} bytes"),
            found: total.to_string(),
        }
    }

    fn clean(self) -> Self {
        Self {
            code: clean(self.code, MAX_REASON_CODE_LEN),
            claim: clean(self.claim, MAX_REASON_TEXT_LEN),
            expected: clean(self.expected, MAX_REASON_TEXT_LEN),
            found: clean(self.found, MAX_REASON_TEXT_LEN),
        }
    }

    /// Bytes of text.
    pub(super) fn len(&self) -> usize {
        self.texts().iter().map(|(_, text, _)| text.len()).sum()
    }

    /// Each text with its name and its limit.
    pub(super) fn texts(&self) -> [(&'static str, &str, usize); 4] {
        [
            ("reason code", &self.code, MAX_REASON_CODE_LEN),
            ("reason claim", &self.claim, MAX_REASON_TEXT_LEN),
            ("reason expected", &self.expected, MAX_REASON_TEXT_LEN),
            ("reason found", &self.found, MAX_REASON_TEXT_LEN),
        ]
    }
}

fn clean(text: String, limit: usize) -> String {
    if text.len() <= limit && !text.contains(char::is_control) {
        return text;
    }
    let mut clean = String::with_capacity(limit);
    for c in text.chars().map(|c| if c.is_control() { REPLACEMENT } else { c }) {
        if clean.len() + c.len_utf8() > limit {
            break;
        }
        clean.push(c);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(n: usize, found: &str) -> Reason {
        Reason {
            code: "pcr-mismatch".into(),
            claim: format!("pcr.{n}"),
            expected: "a".into(),
            found: found.into(),
        }
    }

    #[test]
    fn a_list_that_fits_is_left_alone() {
        for count in [0, 1, MAX_REASONS] {
            let reasons: Vec<_> = (0..count).map(|n| reason(n, "b")).collect();
            assert_eq!(Reason::bounded(reasons.clone()), reasons);
        }
    }

    #[test]
    fn too_many_reasons_keep_the_first_and_say_so() {
        for count in [MAX_REASONS + 1, 10_000] {
            let reasons: Vec<_> = (0..count).map(|n| reason(n, "b")).collect();
            let kept = Reason::bounded(reasons.clone());
            assert_eq!(kept.len(), MAX_REASONS);
            assert_eq!(kept[..MAX_REASONS - 1], reasons[..MAX_REASONS - 1]);
            let last = kept.last().unwrap();
            assert_eq!(
                (last.code.as_str(), last.found.as_str()),
                ("reasons-truncated", count.to_string().as_str())
            );
        }
    }

    #[test]
    fn too_long_reasons_are_cut_and_fewer_of_them_kept() {
        let reasons: Vec<_> = (0..MAX_REASONS).map(|n| reason(n, &"é".repeat(5_000))).collect();
        let reasons: Vec<_> = reasons
            .into_iter()
            .map(|r| Reason {
                claim: r.found.clone(),
                expected: r.found.clone(),
                ..r
            })
            .collect();
        let kept = Reason::bounded(reasons);
        assert!(kept.iter().map(Reason::len).sum::<usize>() <= MAX_REASONS_BYTES);
        assert_eq!(kept.last().unwrap().code, "reasons-truncated");
        assert_eq!(kept[0].found, "é".repeat(256), "cut between characters");
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        let kept = Reason::bounded(vec![reason(1, "\u{1b}[2Jgone\n\u{9b}")]);
        assert_eq!(kept[0].found, "\u{fffd}[2Jgone\u{fffd}\u{fffd}");
    }
}
