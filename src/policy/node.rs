//! `touchstone policy node`: the machines of the inventory.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use serde_json::json;
use touchstone_policies::{NodeIdentity, NodePlace, author};

use super::volume::{VolumeArgs, tell as tell_volume};
use crate::output::{self, CommandResult, Failure, say};

/// Node inventory
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// One JSON object: add {node, merged, staged, notes}, volume {node}, import {added, unchanged, staged}, list {nodes}, remove
    /// {node, staged, denied}
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is taken apart at once")]
enum Command {
    /// Stage a machine: its hardware identity, its name, its region
    #[command(after_help = "Examples:\n  \
        touchstone policy node add ./repo node-1 --ek-cert ek.der --region eu-1 --role worker\n  \
        touchstone policy node add ./repo node-1 --from golden.evidence --region eu-1    also ties its attestation key\n  \
        touchstone policy node add ./repo web-1 --ek ek.pub --region-authority eu-1      eu-1/web-1, signed by that region")]
    Add {
        /// The repository
        repo: PathBuf,
        /// The node's name
        name: String,
        #[command(flatten)]
        identity: IdentityArgs,
        /// Region it belongs to
        #[arg(
            long,
            required_unless_present = "region_authority",
            conflicts_with = "region_authority"
        )]
        region: Option<String>,
        /// Region that names it and signs for it: the node is called REGION/NAME
        #[arg(long, value_name = "REGION")]
        region_authority: Option<String>,
        /// Whose it is (a tenant of the domain)
        #[arg(long)]
        owner: Option<String>,
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
    /// Stage a batch of machines from a CSV or JSON file: all of them, or none and every bad line named
    #[command(after_help = "Example:\n  touchstone policy node import ./repo machines.csv\n\n  \
        name,region,zone,roles,owner,ek,ek_cert\n  \
        web-1,eu-1,eu-1a,web;edge,acme,<sha256 of the endorsement key's SubjectPublicKeyInfo>,\n  \
        web-2,eu-1,eu-1a,web,acme,,certificates/web-2.der\n\n\
        More columns: ak_names, ak_keys, devices, platforms, gpus. JSON is {\"nodes\": [ ... ]} as in inventory.json.")]
    Import {
        /// The repository
        repo: PathBuf,
        /// The machines: JSON where its name ends in .json, else CSV
        file: PathBuf,
        /// Region that names them and signs for them: each is called REGION/NAME
        #[arg(long, value_name = "REGION")]
        region_authority: Option<String>,
    },
    /// List the machines that the next publish would have
    #[command(after_help = "Example: touchstone policy node list ./repo --region eu-1")]
    List {
        /// The repository
        repo: PathBuf,
        /// Those of this region alone
        #[arg(long)]
        region: Option<String>,
        /// Those of this owner alone
        #[arg(long)]
        owner: Option<String>,
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
    let json = args.json;
    match args.command {
        Command::Add {
            repo,
            name,
            identity,
            region,
            region_authority,
            owner,
            zone,
            roles,
            volume,
        } => {
            let (name, region) = named(name, region, region_authority);
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
                owner: owner.as_deref(),
            };
            let mut added = author::node_add(&repo, &identity, place)?;
            if let Some(volume) = volume.volume() {
                added.node = author::node_volume(&repo, &name, volume)?;
            }
            output::tell(json, &added, || {
                let what = if added.merged { "merged into" } else { "staged" };
                say!("{what} {name} in {region}");
                for note in &added.notes {
                    say!("  note: {note}");
                }
                tell_volume(&added.node);
            })
        }
        Command::Volume { repo, name, volume } => {
            let hint = "touchstone bootstrap measure --device DISK --name NAME prints both";
            let volume = volume
                .volume()
                .ok_or_else(|| Failure::new("--luks-uuid and --volume-pcr15 are needed").hint(hint))?;
            let node = author::node_volume(&repo, &name, volume)?;
            output::tell(json, &json!({ "node": node }), || tell_volume(&node))
        }
        Command::Import {
            repo,
            file,
            region_authority,
        } => {
            let imported = author::node_import(&repo, &file, region_authority.as_deref()).map_err(|error| {
                Failure::new(error.to_string())
                    .hint("nothing was staged; correct these lines and import the file again")
            })?;
            output::tell(json, &imported, || {
                say!(
                    "{} machines are new, {} were there as they are",
                    imported.added,
                    imported.unchanged
                );
                for staged in &imported.staged {
                    say!("  staged {staged}");
                }
            })
        }
        Command::List { repo, region, owner } => {
            let mut nodes = author::node_list(&repo)?;
            nodes.retain(|listed| {
                let node = &listed.node;
                region.as_ref().is_none_or(|region| node.region == *region)
                    && owner.as_ref().is_none_or(|owner| node.owner.as_ref() == Some(owner))
            });
            output::tell(json, &json!({ "nodes": nodes }), || nodes.iter().for_each(show))
        }
        Command::Remove { repo, name } => {
            let removed = author::node_remove(&repo, &name)?;
            output::tell(json, &removed, || {
                say!("{name} is removed with the next publish");
                if removed.denied > 0 {
                    say!(
                        "  its {} endorsement keys are denied, or first use would let it in again",
                        removed.denied
                    );
                }
                say!("  its rights end when brokers load that; to end them now: touchstone node decommission");
            })
        }
    }
}

/// Name and region, where a region may have the say.
fn named(name: String, region: Option<String>, authority: Option<String>) -> (String, String) {
    match authority {
        Some(authority) if name.contains('/') => (name, authority),
        Some(authority) => (format!("{authority}/{name}"), authority),
        None => (name, region.unwrap_or_default()),
    }
}

fn show(listed: &author::NodeListed) {
    let node = &listed.node;
    let zone = node.zone.as_ref().map_or(String::new(), |zone| format!("/{zone}"));
    let owner = node
        .owner
        .as_ref()
        .map_or(String::new(), |owner| format!(" of {owner}"));
    let hardware = [
        ("ek", &node.ek),
        ("ak", &node.ak_names),
        ("ak key", &node.ak_keys),
        ("device", &node.devices),
        ("confidential VM", &node.platforms),
        ("GPU", &node.gpus),
    ];
    let hardware: Vec<String> = hardware
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(kind, list)| format!("{} {kind}", list.len()))
        .collect();
    say!(
        "{} in {}{zone}{owner}: {} [{}]{}",
        node.name,
        node.region,
        hardware.join(", "),
        node.roles.join(" "),
        if listed.staged { " (staged)" } else { "" }
    );
}
