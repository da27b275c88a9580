//! The `[bootstrap]` table of `agent.toml`: which disk an initramfs opens, and as what.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use touchstone_policies::Location;

/// Longest name of an opened volume (DM_NAME_LEN of the kernel is 128, with the closing NUL).
const MAX_NAME: usize = 64;

/// The `[bootstrap]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootstrapConfig {
    /// What the opened volume is called: `/dev/mapper/NAME`. It is part of what is measured.
    pub name: String,
    /// The encrypted disk. Where it is left out, the one with the inventory's UUID among all block devices.
    pub device: Option<PathBuf>,
    /// The cryptsetup program, version 2.4 or newer.
    pub cryptsetup: PathBuf,
    /// Where the signed policy repository is served, `http://host[:port][/path]`: it is copied to the folder `policy`, which
    /// must be in memory, before it is read. Where it is left out, `policy` is read as it is.
    pub policy_url: Option<String>,
    /// Seconds after which it is given up. Where it is left out, never: the machine waits for its key.
    pub give_up_after_s: Option<u64>,
}

impl Default for BootstrapConfig {
    fn default() -> Self {
        Self {
            name: "root".into(),
            device: None,
            cryptsetup: PathBuf::from("/sbin/cryptsetup"),
            policy_url: None,
            give_up_after_s: None,
        }
    }
}

impl BootstrapConfig {
    /// When it is given up, after the start.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        self.give_up_after_s.map(Duration::from_secs)
    }

    /// The key that is wrong and what is accepted, where one is.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str, String)> {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let name = &self.name;
        if name.is_empty() || name.len() > MAX_NAME || name.starts_with(['.', '-']) || !name.bytes().all(is_name) {
            let expected = "1 to 64 letters, digits, dots, dashes and underscores, not beginning with a dot or a dash";
            return Some(("bootstrap.name", expected, name.clone()));
        }
        if let Some(url) = self.policy_url.as_ref().filter(|url| repository(url).is_none()) {
            return Some(("bootstrap.policy_url", "http://host[:port][/path]", url.clone()));
        }
        let paths = [
            ("bootstrap.device", self.device.as_ref()),
            ("bootstrap.cryptsetup", Some(&self.cryptsetup)),
        ];
        paths.into_iter().find_map(|(key, path)| {
            let path = path.filter(|path| !path.is_absolute())?;
            Some((key, "an absolute path", path.display().to_string()))
        })
    }
}

/// The server that `policy_url` names; in an initramfs there are no certificate authorities, and none are needed.
pub(crate) fn repository(url: &str) -> Option<Location> {
    Location::parse(url)
        .ok()
        .filter(|place| matches!(place, Location::Url(url) if url.scheme() == "http"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused() {
        let of = |change: fn(&mut BootstrapConfig)| {
            let mut config = BootstrapConfig::default();
            change(&mut config);
            config.problem().map(|(key, _, _)| key)
        };
        assert_eq!(of(|_| ()), None);
        assert_eq!(of(|c| c.device = Some("/dev/disk/by-uuid/x".into())), None);
        type Row = (fn(&mut BootstrapConfig), &'static str);
        let rows: &[Row] = &[
            (|c| c.name = String::new(), "bootstrap.name"),
            (|c| c.name = "a".repeat(65), "bootstrap.name"),
            (|c| c.name = "--type".into(), "bootstrap.name"),
            (|c| c.name = "../root".into(), "bootstrap.name"),
            (|c| c.name = "a/b".into(), "bootstrap.name"),
            (|c| c.name = "a b".into(), "bootstrap.name"),
            (|c| c.device = Some("sda2".into()), "bootstrap.device"),
            (|c| c.device = Some("--help".into()), "bootstrap.device"),
            (|c| c.policy_url = Some("https://a".into()), "bootstrap.policy_url"),
            (|c| c.policy_url = Some("a/b".into()), "bootstrap.policy_url"),
            (|c| c.cryptsetup = "cryptsetup".into(), "bootstrap.cryptsetup"),
        ];
        for (n, (change, key)) in rows.iter().enumerate() {
            assert_eq!(of(*change), Some(*key), "row {n}");
        }
    }
}
