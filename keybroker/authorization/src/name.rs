//! Names that travel in signed objects: domains, nodes, enforcers.

/// The longest name, in bytes.
pub const MAX_NAME: usize = 128;

/// Whether `text` may name a domain, a node, a workload or an enforcer: 1 to [`MAX_NAME`] bytes out of
/// `[A-Za-z0-9._:/@-]`, beginning with a letter or a digit. No wildcard, no space, nothing that a terminal or a log
/// would interpret.
pub fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'/' | b'@' | b'-'))
}

/// Whether `text` may name who an authorization is about: a name of [`is_name`] in one part, or in two with one slash
/// between them, the region that names the node before it (`docs/protocol.md`, section 8). No part is empty or begins with
/// a dot, so that a name is no path.
pub fn is_subject(text: &str) -> bool {
    let part = |part: &str| part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    is_name(text) && text.split('/').count() <= 2 && text.split('/').all(part)
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
        for name in ["node-1", "eu-1/node-1", "eu-1/node-1.rack", "guard:node-1"] {
            assert!(is_subject(name), "{name}");
        }
        let long = ["a".repeat(MAX_NAME + 1), "a/".repeat(51_200), "\n".repeat(102_400)];
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
        ]
        .into_iter()
        .chain(long.iter().map(String::as_str))
        {
            assert!(!is_subject(name), "{:?}", name.get(..20).unwrap_or(name));
        }
    }
}
