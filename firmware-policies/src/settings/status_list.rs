//! `[status_list]`: the address at which the status list is found by whoever polls, and which it names as its subject.

use serde::Deserialize;

use crate::error::{PolicyCode, Problem};

/// Longest address, in bytes.
pub const MAX_STATUS_LIST_URI: usize = 512;

/// `[status_list]` as it stands in the file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusListSection {
    uri: Option<String>,
}

impl StatusListSection {
    /// The address; nothing where the domain publishes no list.
    pub fn read(self, problems: &mut Vec<Problem>) -> Option<String> {
        let uri = self.uri?;
        let host = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://"));
        let host = host.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', '?', ':']));
        let plain = uri.bytes().all(|b| b.is_ascii_graphic()) && !uri.contains(['#', '"', '<', '>', '\\']);
        if !host || !plain || uri.len() > MAX_STATUS_LIST_URI {
            let claim = "settings.toml: status_list.uri";
            let expected = "an http:// or https:// address without fragment";
            problems.push(Problem::new(PolicyCode::StatusListUri, claim, expected, &uri));
        }
        Some(uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let long = format!("https://{}", "a".repeat(MAX_STATUS_LIST_URI));
        for (uri, good) in [
            ("https://status.example/lists/1", true),
            ("http://[fd00::1]:7440/v1/status", true),
            ("https://", false),
            ("https:///lists", false),
            ("ftp://a/b", false),
            ("file:///etc/passwd", false),
            ("https://a/b#c", false),
            ("https://a/ b", false),
            ("https://ä/", false),
            ("", false),
            (&long, false),
        ] {
            let mut problems = Vec::new();
            let section = StatusListSection { uri: Some(uri.into()) };
            section.read(&mut problems);
            assert_eq!(problems.is_empty(), good, "{uri}");
        }
        assert_eq!(StatusListSection::default().read(&mut Vec::new()), None);
    }
}
