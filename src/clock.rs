//! The command's clock: everything below gets time as an argument, and this is where the argument comes from.

use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::output::Failure;

/// Seconds since the Unix epoch by the wall clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the command reads the wall clock"
)]
pub fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// An RFC 3339 time given on the command line, or now.
pub fn at(given: Option<&str>) -> Result<i64, Failure> {
    match given {
        None => Ok(now()),
        Some(text) => parse(text),
    }
}

/// Parses RFC 3339 (`2026-11-21T12:00:00Z`) into Unix seconds.
pub fn parse(text: &str) -> Result<i64, Failure> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map(OffsetDateTime::unix_timestamp)
        .map_err(|error| {
            Failure::new(format!("{text:?} is not an RFC 3339 time: {error}")).hint("for example 2026-11-21T12:00:00Z")
        })
}

/// Unix seconds as RFC 3339, for people.
pub fn words(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s"))
}
