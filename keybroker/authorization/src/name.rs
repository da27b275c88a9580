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
}
