//! `touchstone policy node`: the machines of the inventory.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use touchstone_policies::{NodeIdentity, NodePlace, author};

use super::volume::{VolumeArgs, stage as stage_volume};
use crate::output::{self, CommandResult, Failure, Outcome, say};

/// Node inventory
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Stage a machine: its hardware identity, its name, its region
    #[command(after_help = "Examples:\n  \
        touchstone policy node add ./repo node-1 --ek-cert ek.der --region eu-1 --role worker\n  \
        touchstone policy node add ./repo node-1 --from golden.evidence --region eu-1    also ties its attestation key")]
    Add {
        /// The repository
        repo: PathBuf,
        /// The node's name
        name: String,
        #[command(flatten)]
        identity: IdentityArgs,
        /// Region it belongs to
        #[arg(long)]
        region: String,
        /// Zone within the region
        #[arg(long)]
        zone: Option<String>,
        /// Roles it may act in (repeatable)
        #[arg(long = "role")]
        roles: Vec<String>,
        #[command(flatten)]
        volume: VolumeArgs,
    },
    /// Stage which encrypted disk a machine opens when it boots (`touchstone bootstrap`)
    #[command(after_help = "Example, with what `touchstone bootstrap measure` prints:\n  \
        touchstone policy node volume ./repo node-1 --luks-uuid 4878cbe9-f3c5-4d20-82da-b2bb10ae2940 --volume-pcr15 9f2c...")]
    Volume {
        /// The repository
        repo: PathBuf,
        /// The node's name
        name: String,
        #[command(flatten)]
        volume: VolumeArgs,
    },
    /// Stage the removal of a machine; it loses its rights at the next publish
    #[command(after_help = "Example: touchstone policy node remove ./repo node-1")]
    Remove {
        /// The repository
        repo: PathBuf,
        /// The node's name
        name: String,
    },
}

#[derive(ClapArgs)]
#[group(required = true, multiple = false)]
struct IdentityArgs {
    /// Endorsement key certificate (DER or PEM)
    #[arg(long)]
    ek_cert: Option<PathBuf>,
    /// Endorsement key (TPM2B_PUBLIC, TPMT_PUBLIC or PEM)
    #[arg(long)]
    ek: Option<PathBuf>,
    /// Certificate of a device identity (IDevID, LDevID) or of its attestation key (IAK, LAK), DER or PEM
    #[arg(long)]
    idevid: Option<PathBuf>,
    /// Attestation key alone (TPM2B_PUBLIC, TPMT_PUBLIC or PEM): you vouch for that very key
    #[arg(long)]
    ak: Option<PathBuf>,
    /// Evidence of this machine: ties its endorsement key and its attestation key by your signature
    #[arg(long)]
    from: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    match args.command {
        Command::Add {
            repo,
            name,
            identity,
            region,
            zone,
            roles,
            volume,
        } => {
            let identity = match identity {
                IdentityArgs {
                    ek_cert: Some(path), ..
                } => NodeIdentity::EkCert(output::read(&path)?),
                IdentityArgs { ek: Some(path), .. } => NodeIdentity::Ek(output::read(&path)?),
                IdentityArgs { ak: Some(path), .. } => NodeIdentity::Ak(output::read(&path)?),
                IdentityArgs { idevid: Some(path), .. } => NodeIdentity::Device(output::read(&path)?),
                IdentityArgs { from: Some(path), .. } => NodeIdentity::Evidence(output::read(&path)?),
                IdentityArgs {
                    ek_cert: None,
                    ek: None,
                    idevid: None,
                    ak: None,
                    from: None,
                } => {
                    let hint = "--ek-cert, --ek, --idevid, --ak or --from";
                    return Err(Failure::new("no identity given").hint(hint));
                }
            };
            let place = NodePlace {
                name: &name,
                region: &region,
                zone: zone.as_deref(),
                roles: &roles,
            };
            let added = author::node_add(&repo, &identity, place)?;
            say!(
                "{} {name} in {region}",
                if added.merged { "merged into" } else { "staged" }
            );
            for note in &added.notes {
                say!("  note: {note}");
            }
            if let Some(volume) = volume.volume() {
                stage_volume(&repo, &name, volume)?;
            }
        }
        Command::Volume { repo, name, volume } => {
            let hint = "touchstone bootstrap measure --device DISK --name NAME prints both";
            let volume = volume
                .volume()
                .ok_or_else(|| Failure::new("--luks-uuid and --volume-pcr15 are needed").hint(hint))?;
            stage_volume(&repo, &name, volume)?;
        }
        Command::Remove { repo, name } => {
            author::withdraw(&repo, &format!("nodes/{name}.json"))?;
            say!("{name} is removed with the next publish");
        }
    }
    Ok(Outcome::Done)
}
