//! What a node is called: `web-1` where the whole domain names it, `eu-1/web-1` where the region `eu-1` does.
//!
//! The prefix belongs to the region (`docs/protocol.md`, section 8): whoever signs for `eu-1` can name nothing outside of
//! it, and a reader of a name sees whose word it is. One name has one spelling, on one line, with at most one slash: it
//! stands in files, rows, addresses, logs and terminals.

use crate::layout::is_name;

/// Longest name of a node, in bytes: region, slash and name.
pub const MAX_NODE_NAME_LEN: usize = 2 * crate::layout::MAX_NAME_LEN + 1;

/// A node's name, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeName<'a> {
    /// The region that names it; nothing where the whole domain does.
    pub region: Option<&'a str>,
    /// Its name there.
    pub file: &'a str,
}

impl<'a> NodeName<'a> {
    /// Takes a name apart: one or two names of [`is_name`] with one slash between them.
    pub fn parse(text: &'a str) -> Option<Self> {
        // Before anything is searched through: a name of 100 KB is none.
        if text.len() > MAX_NODE_NAME_LEN {
            return None;
        }
        let (region, file) = match text.split_once('/') {
            Some((region, file)) => (Some(region), file),
            None => (None, text),
        };
        (region.is_none_or(is_name) && is_name(file)).then_some(Self { region, file })
    }
}

/// Whether this may name a node.
pub fn is_node_name(text: &str) -> bool {
    NodeName::parse(text).is_some()
}

/// Longest label of a workload, in bytes.
pub const MAX_LABEL_LEN: usize = 32;

/// Whether this may name a workload: `<label>@<node>`, the label `[a-z0-9][a-z0-9._-]{0,31}`. No name of a node has an `@`.
pub fn is_workload_name(text: &str) -> bool {
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_label = |label: &str| {
        label.len() <= MAX_LABEL_LEN
            && label.bytes().next().is_some_and(first)
            && label.bytes().all(|b| first(b) || matches!(b, b'.' | b'_' | b'-'))
    };
    text.len() <= MAX_LABEL_LEN + 1 + MAX_NODE_NAME_LEN
        && text
            .split_once('@')
            .is_some_and(|(label, node)| is_label(label) && is_node_name(node))
}

/// Names that are none, and what they try: for the tests of everything that takes a name.
#[cfg(test)]
pub(crate) fn hostile() -> Vec<String> {
    let long = |text: &str| text.repeat(100 * 1024 / text.len());
    let mut names: Vec<String> = [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "a/b/c",
        ".",
        "..",
        "../a",
        "a/..",
        "./a",
        "a/.b",
        "a\n",
        "a\nb",
        "a\r",
        "a\0",
        "\u{1b}[31ma",
        "a\u{1b}]0;owned\u{7}",
        "a b",
        " a",
        "A",
        "a%2fb",
        "a\\b",
        "\u{430}",
        "a\u{200b}",
        "a\u{202e}b",
        "*",
        "a,b",
        "a;b",
        "-a",
        "a/-b",
        "a:b",
    ]
    .map(str::to_owned)
    .to_vec();
    names.extend(["a", "a/", "/", "\n"].map(long));
    names.push("a".repeat(64));
    names.push(format!("a/{}", "b".repeat(64)));
    names.push(format!("{}/b", "a".repeat(64)));
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let of = |text| NodeName::parse(text).map(|name| (name.region, name.file));
        assert_eq!(of("web-1"), Some((None, "web-1")));
        assert_eq!(of("eu-1/web-1.rack"), Some((Some("eu-1"), "web-1.rack")));
        let longest = format!("{}/{}", "r".repeat(63), "n".repeat(63));
        assert_eq!(longest.len(), MAX_NODE_NAME_LEN);
        assert!(is_node_name(&longest));
    }

    #[test]
    fn hostile_names_are_none() {
        for name in hostile() {
            let shown: String = name.chars().take(40).collect();
            assert!(!is_node_name(&name), "{shown:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_one_line_of_plain_characters(text in any::<String>()) {
            if let Some(name) = NodeName::parse(&text) {
                prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
                prop_assert!(text.bytes().filter(|b| *b == b'/').count() == usize::from(name.region.is_some()));
            }
        }
    }

    #[test]
    fn workloads_are_named_after_their_node() {
        let longest = format!("{}@{}", "a".repeat(MAX_LABEL_LEN), "b".repeat(63));
        for name in ["agent@web-1", "job.1_a-b@eu-1/web-1", "0@a", &longest] {
            assert!(is_workload_name(name), "{name}");
        }
        for name in [
            "agent",
            "@web-1",
            "agent@",
            "a@b@c",
            "A@web-1",
            "-a@web-1",
            "a/b@web-1",
            "a @web-1",
            "*@web-1",
        ] {
            assert!(!is_workload_name(name), "{name}");
        }
        assert!(!is_workload_name(&format!("a{longest}")));
        for node in hostile() {
            assert!(!is_workload_name(&format!("agent@{node}")), "{node:?}");
            assert!(!is_workload_name(&node), "{node:?}");
        }
    }
}
