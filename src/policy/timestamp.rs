//! `touchstone policy timestamp`: the publisher, a process of its own with the timestamp key and no other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as ClapArgs;
use touchstone_policies::timestamp::{PublisherOptions, Renewed, renew_timestamp};
use touchstone_policies::{PolicyCode, PolicyError, RoleVersions};

use super::keydir::KeyDirArgs;
use super::propose::root;
use crate::output::{CommandResult, Failure, Outcome, complain, say};
use crate::{clock, output, runtime};

/// How long until a renewal is tried again that somebody else's publish, or the disk, was in the way of.
const RETRY: Duration = Duration::from_secs(2);

/// Say again and again that the published version is the newest, until its snapshot ends (SIGTERM stops it)
#[derive(ClapArgs)]
#[command(
    after_help = "Example: touchstone policy timestamp ./repo --keys ./publisher --root root.json\n\n\
    KEYDIR has a timestamp key and nothing else; never run it on a broker. It loads the whole repository before it signs,\n\
    never names another snapshot, and its thief can hold a version until its snapshot ends, no longer."
)]
pub struct Args {
    /// The repository
    repo: PathBuf,
    #[command(flatten)]
    keys: KeyDirArgs,
    /// Root metadata that it holds; without it the repository's own first root is taken
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// Where it keeps which versions it has signed for, so that it never signs for older ones
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Renew once and end, for a timer of the system
    #[arg(long)]
    once: bool,
    /// One JSON object a renewal: domain, versions (of each role), expires and snapshot_expires (Unix seconds), period
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let state = args
        .state
        .clone()
        .unwrap_or_else(|| args.keys.path().join("publisher.json"));
    let mut options = PublisherOptions {
        root: args.root.as_deref().map(root).transpose()?,
        floors: read(&state)?,
    };
    let mut renew = || {
        let renewed = renew_timestamp(&args.repo, &args.keys.open(), &options, clock::now())?;
        options.floors = Some(renewed.versions.clone());
        Ok::<_, PolicyError>(renewed)
    };
    if args.once {
        let renewed = renew()?;
        write(&state, &renewed.versions)?;
        return tell(&renewed, args.json);
    }
    runtime::block_on(async {
        let stopped = runtime::stopped();
        tokio::pin!(stopped);
        loop {
            let wait = match renew() {
                Ok(renewed) => {
                    tell(&renewed, args.json)?;
                    keep(&state, &renewed.versions);
                    Duration::from_secs(u64::try_from(renewed.period).unwrap_or(1))
                }
                Err(e) if e.is_io() || e.code() == PolicyCode::PublishBusy => {
                    complain!("not renewed: {e}");
                    RETRY
                }
                // What it must not sign for it never signs for: somebody has to publish.
                Err(e) => return Err(e.into()),
            };
            tokio::select! {
                () = &mut stopped => return Ok(Outcome::Done),
                () = tokio::time::sleep(wait) => {}
            }
        }
    })?
}

/// Keeps the versions that were signed for, and says whether that could be done. Where it could not, on a full disk, the
/// publisher goes on with what it holds in memory: a domain whose publisher ended would end with its timestamp.
fn keep(state: &Path, versions: &RoleVersions) -> bool {
    let kept = write(state, versions);
    if let Err(e) = &kept {
        let why = e.message();
        complain!("not kept, so that after a start older versions would be signed for: {why}");
    }
    kept.is_ok()
}

fn tell(renewed: &Renewed, json: bool) -> CommandResult {
    output::tell(json, renewed, || {
        say!(
            "{} timestamp {} for snapshot {}, until {}; the snapshot ends {}",
            renewed.domain,
            renewed.versions.timestamp,
            renewed.versions.snapshot,
            clock::words(renewed.expires),
            clock::words(renewed.snapshot_expires)
        );
    })
}

fn read(state: &Path) -> Result<Option<RoleVersions>, Failure> {
    if !state.exists() {
        return Ok(None);
    }
    let versions = serde_json::from_slice(&output::read(state)?);
    versions
        .map(Some)
        .map_err(|e| Failure::new(format!("{}: {e}", state.display())).hint("the versions of all roles in JSON"))
}

/// Written aside and renamed: a file cut in half would be no floor.
fn write(state: &Path, versions: &RoleVersions) -> Result<(), Failure> {
    let mut aside = state.as_os_str().to_owned();
    aside.push(".unfinished");
    let aside = PathBuf::from(aside);
    output::write(&aside, &serde_json::to_vec(versions)?)?;
    Ok(std::fs::rename(&aside, state)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_does_not_end_the_publisher_and_with_it_the_domain() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("publisher.json");
        assert!(keep(&state, &RoleVersions::default()));
        assert_eq!(read(&state), Ok(Some(RoleVersions::default())));
        assert!(!keep(
            &folder.path().join("none/publisher.json"),
            &RoleVersions::default()
        ));
    }
}
