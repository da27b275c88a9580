//! Policy repositories made at one moment, whatever the clock of this machine says: what was recorded is judged at a moment
//! too, and a repository is good for a day.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::path::Path;

/// 2026-11-20T23:00:00Z, in seconds: an hour before the first moment at which evidence is judged.
pub const NOW: i64 = 1_795_215_600;

/// Makes a repository, as `touchstone policy init` does.
pub fn init(repo: &Path, domain: &str, keys: &Path) {
    touchstone_policies::init(repo, domain, keys, NOW).expect("a repository");
}

/// Publishes what is staged, as `touchstone policy publish` does.
pub fn publish(repo: &Path, keys: &Path) {
    touchstone_policies::publish(repo, keys, NOW).expect("published");
}
