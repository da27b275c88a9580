//! Refusals in words.

use super::*;

const PLAIN: Look = Look {
    colour: false,
    all: false,
    width: 100,
    lines: 44,
};

fn mismatch(expected: &str, found: &str) -> Why {
    Why::new("kernel-command-line-mismatch", "PCR 8 (sha256)", expected, found)
}

fn told(reasons: &[Why]) -> String {
    tell(reasons, &Places::default(), &PLAIN)
}

#[test]
fn the_words_that_differ_are_marked_and_nothing_else() {
    for (expected, found, lines) in [
        (
            "line \"a b\"",
            "event 41: line \"a b c=1\"",
            "  expected  line \"a b\"\n  found     line \"a b c=1\"\n                      ^^^\n",
        ),
        (
            "line a b c",
            "line a c",
            "  expected  line a b c\n                   -\n  found     line a c\n",
        ),
        (
            "SecureBoot = on",
            "SecureBoot = off",
            "  expected  SecureBoot = on\n  found     SecureBoot = off\n                         ^^^\n",
        ),
        (
            "one thing",
            "another matter",
            "  expected  one thing\n  found     another matter\n",
        ),
        ("é a", "é b", "  expected  é a\n  found     é b\n              ^\n"),
    ] {
        let text = told(&[mismatch(expected, found)]);
        assert!(text.contains(lines), "{text}");
    }
}

#[test]
fn the_event_is_named_beside_the_register() {
    let why = mismatch("a", "event 41: b");
    assert_eq!((why.event, why.register, why.found.as_str()), (Some(41), Some(8), "b"));
    assert!(told(&[why]).starts_with("refused[kernel-command-line-mismatch]: PCR 8 (sha256), event 41\n"));
}

#[test]
fn digests_are_short_unless_everything_is_asked_for_or_they_would_look_alike() {
    let (a, b) = ("0".repeat(63) + "1", "f".repeat(64));
    let why = mismatch(&format!("file x, digest {a}"), &format!("file x, digest {b}"));
    assert!(told(std::slice::from_ref(&why)).contains("file x, digest ffffffffffff…ffff"));
    let all = tell(&[why], &Places::default(), &Look { all: true, ..PLAIN });
    assert!(all.contains(&a) && all.contains(&b));
    // These differ only where short ones are cut.
    let c = format!("{}2{}", "0".repeat(30), "0".repeat(33));
    let text = told(&[mismatch(&"0".repeat(64), &c)]);
    assert!(text.contains(&c), "{text}");
}

#[test]
fn long_texts_are_cut_around_the_difference() {
    let common = "word ".repeat(200);
    let text = told(&[mismatch(
        &format!("{common}end"),
        &format!("{common}init=/bin/sh {common}end"),
    )]);
    assert!(text.contains("init=/bin/sh"), "{text}");
    let widest = text
        .lines()
        .filter(|line| line.contains("found") || line.contains("expected"))
        .map(|line| line.chars().count());
    assert!(widest.max().unwrap_or(0) <= PLAIN.width + 2, "{text}");
}

#[test]
fn at_most_a_screen_and_everything_on_demand() {
    let reasons: Vec<Why> = (0..100)
        .map(|n| Why::new(&format!("code-{:02}", n / 5), &format!("claim {n}"), "a", "b"))
        .collect();
    let text = told(&reasons);
    assert!(text.lines().count() < 60, "{}", text.lines().count());
    assert!(text.contains("more: code-00, ") && text.contains("--all"), "{text}");
    let all = tell(&reasons, &Places::default(), &Look { all: true, ..PLAIN });
    assert_eq!(all.matches("expected").count(), 100);
}

#[test]
fn colours_only_where_asked_for() {
    let reasons = [mismatch("a b", "a c")];
    assert!(!told(&reasons).contains('\u{1b}'));
    let coloured = tell(&reasons, &Places::default(), &Look { colour: true, ..PLAIN });
    assert!(
        coloured.contains("\u{1b}[31m") && coloured.contains("\u{1b}[1;36mhelp:\u{1b}[0m"),
        "{coloured}"
    );
}

#[test]
fn hostile_text_moves_no_cursor() {
    let reason =
        Why::from_words("kernel-command-line-mismatch (PCR 8 (sha256)): expected \u{1b}[2J, found a\r\nb\u{202e}");
    let text = told(&[reason, Why::from_words("\u{1b}]0;title\u{7}")]);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    assert!(!text.contains('\u{202e}'));
}

#[test]
fn what_travels_in_words_is_told_as_well_as_what_does_not() {
    let words = "kernel-command-line-mismatch (PCR 8 (sha256)): expected line \"a\", found event 3: line \"a b\"";
    let direct = mismatch("line \"a\"", "event 3: line \"a b\"");
    assert_eq!(Why::from_words(words), direct);
    let before = Why::from_words("session-unknown: no such session");
    assert_eq!(
        (before.code.as_str(), before.found.as_str()),
        ("session-unknown", "no such session")
    );
    assert!(told(&[before]).contains("= The session does not exist"));
    let free = Why::from_words("the authorization does not verify: no");
    assert!(told(&[free]).contains("  the authorization does not verify: no\n"));
}

#[test]
fn accepting_is_offered_only_where_nothing_speaks_against_the_evidence() {
    let state = mismatch("a", "b");
    let places = Places {
        repo: Some("./my repo"),
        evidence: Some("node.evidence"),
    };
    let text = tell(std::slice::from_ref(&state), &places, &PLAIN);
    assert!(
        text.contains("touchstone reference add './my repo' --evidence node.evidence --name NAME\n"),
        "{text}"
    );
    for forged in [
        "tpm-signature-invalid",
        "nonce-mismatch",
        "log-does-not-replay",
        "event-digest-mismatch",
        "separator-smuggled",
        "pcr-digest-mismatch",
        "certificate-signature-invalid",
        "a-code-of-tomorrow",
    ] {
        let text = told(&[Why::new(forged, "", "a", "b"), state.clone()]);
        assert!(
            !text.contains("reference add") && text.contains(&format!("while {forged} stands")),
            "{text}"
        );
        assert!(
            !told(&[Why::new(forged, "", "a", "b")]).contains("touchstone "),
            "{forged}"
        );
    }
    let denied = [state, Why::new("nothing-granted", "scopes", "at least one", "none")];
    assert!(told(&denied).contains("reference add"));
}

#[test]
fn advice_is_about_codes_that_exist() {
    for code in advice::advised_codes() {
        assert!(catalogues().any(|entry| entry.code == code), "{code}");
    }
}
