//! `touchstone lift`: the way back from a quarantine, a containment, or a bar.

use clap::{ArgGroup, Args as ClapArgs};
use touchstone_authorization::command::{CommandAction, TargetKind};

use crate::order::{self, OrderArgs};
use crate::output::CommandResult;

/// Lift a quarantine, a containment or a bar; what was suspended comes back with fresh good evidence of each node.
#[derive(ClapArgs)]
#[command(
    group(ArgGroup::new("what").required(true)),
    after_help = "Examples:\n  \
        touchstone lift --data /var/lib/touchstone-broker --node node-2 --reason \"traffic explained\"\n  \
        touchstone lift --data /var/lib/touchstone-broker --cluster demo.example --reason \"cleaned\"\n\n\
        A node gets back by its next good evidence exactly what was suspended, and nothing that fell otherwise since. Lifting\n\
        the cluster lifts the containment of every zone and region too, and no quarantine."
)]
pub struct Args {
    /// A node in quarantine
    #[arg(long, group = "what")]
    node: Option<String>,
    /// A workload in quarantine, as LABEL@NODE
    #[arg(long, group = "what")]
    workload: Option<String>,
    /// The holder of one authorization, by its id
    #[arg(long, group = "what")]
    lineage: Option<String>,
    /// A zone that is contained
    #[arg(long, group = "what")]
    zone: Option<String>,
    /// The whole domain, by its name
    #[arg(long, group = "what", value_name = "DOMAIN")]
    cluster: Option<String>,
    /// A reference value that is barred
    #[arg(long, group = "what")]
    reference: Option<String>,
    /// A signer that is barred
    #[arg(long, group = "what")]
    signer: Option<String>,
    #[command(flatten)]
    order: OrderArgs,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let target = order::one([
        (TargetKind::Node, args.node.as_deref()),
        (TargetKind::Workload, args.workload.as_deref()),
        (TargetKind::Lineage, args.lineage.as_deref()),
        (TargetKind::Zone, args.zone.as_deref()),
        (TargetKind::Cluster, args.cluster.as_deref()),
        (TargetKind::Reference, args.reference.as_deref()),
        (TargetKind::Signer, args.signer.as_deref()),
    ])?;
    order::run(CommandAction::Lift, target, &args.order)
}
