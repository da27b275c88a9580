//! Names that travel in signed objects: domains, nodes, enforcers.

/// The longest name, in bytes.
pub const MAX_NAME: usize = 128;

/// The longest subject, in bytes: a label, `@`, and the longest name of a node.
pub const MAX_SUBJECT: usize = MAX_LABEL + 1 + 127;

/// The longest label of a workload, in bytes.
pub const MAX_LABEL: usize = 32;

/// The longest name of a region or purpose, in bytes.
pub const MAX_WORD: usize = 64;

/// Whether `text` may name a domain, a node, a workload or an enforcer: 1 to [`MAX_NAME`] bytes out of
/// `[A-Za-z0-9._:/@-]`, beginning with a letter or a digit. No wildcard, no space, nothing that a terminal or a log
/// would interpret.
pub fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME && has_bytes_of_a_name(text)
}

fn has_bytes_of_a_name(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'/' | b'@' | b'-'))
}

/// Whether `text` may name who an authorization is about: a node, or a workload on it as `LABEL@NODE` ([`is_label`]). A
/// node's name has one part, or two with one slash between them, the region that names the node before it
/// (`docs/protocol.md`, section 8). No part is empty or begins with a dot, so that a name is no path.
pub fn is_subject(text: &str) -> bool {
    if text.len() > MAX_SUBJECT {
        return false;
    }
    let node = match text.split_once('@') {
        Some((label, _)) if !is_label(label) => return false,
        Some((_, node)) => node,
        None => text,
    };
    let part = |part: &str| part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    is_name(node) && !node.contains('@') && node.split('/').count() <= 2 && node.split('/').all(part)
}

/// Whether `text` may label a workload: `[a-z0-9][a-z0-9._-]{0,31}`.
pub fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL && is_word(text)
}

/// Whether `text` may name a region or a purpose: `[a-z0-9][a-z0-9._-]{0,63}`.
pub fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= MAX_WORD
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in [
            "demo.example",
            "node-1",
            "B/node-1",
            "guard:node-1",
            "https://proxy.example:8443/a",
            "n",
        ] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(MAX_NAME + 1);
        for name in ["", "*", "node-*", "a b", "a\n", "\u{1b}[31m", "ä", "-a", ".", &long] {
            assert!(!is_name(name), "{name:?}");
        }
    }

    #[test]
    fn subjects() {
        let longest = format!("{}@{}/{}", "a".repeat(MAX_LABEL), "b".repeat(63), "c".repeat(63));
        assert_eq!(longest.len(), MAX_SUBJECT);
        for name in [
            "node-1",
            "eu-1/node-1",
            "eu-1/node-1.rack",
            "guard:node-1",
            "agent@node-1",
            "a.b_c-1@eu-1/node-1",
            &longest,
        ] {
            assert!(is_subject(name), "{name}");
        }
        let long = [
            "a".repeat(MAX_NAME + 1),
            "a/".repeat(51_200),
            "\n".repeat(102_400),
            format!("{}@node-1", "a".repeat(MAX_LABEL + 1)),
            format!("{longest}c"),
        ];
        for name in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "a/b/c",
            "B/eu-1/node-1",
            ".",
            "..",
            "a/..",
            "../a",
            "a/.b",
            "a/-b",
            "a\n",
            "a\u{1b}[31m",
            "a\0",
            "a b",
            "a\\b",
            "a%2fb",
            "@node-1",
            "agent@",
            "agent@@node-1",
            "agent@tool@node-1",
            "Agent@node-1",
            "eu-1/agent@node-1",
            "agent:x@node-1",
            "*@node-1",
            "agent@*",
        ]
        .into_iter()
        .chain(long.iter().map(String::as_str))
        {
            assert!(!is_subject(name), "{:?}", name.get(..20).unwrap_or(name));
        }
    }
}
