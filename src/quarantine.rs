//! `touchstone quarantine` and `touchstone contain`: rights are suspended and kept.

use clap::{ArgGroup, Args as ClapArgs};
use touchstone_authorization::command::{CommandAction, TargetKind};

use crate::order::{self, OrderArgs};
use crate::output::CommandResult;

/// Suspend what a node or workload holds, with everything below: frozen, kept, until it is lifted.
#[derive(ClapArgs)]
#[command(
    group(ArgGroup::new("what").required(true)),
    after_help = "Example:\n  touchstone quarantine --data /var/lib/touchstone-broker --node node-2 --reason \"odd traffic\"\n\n\
        The node goes on attesting and gets nothing meanwhile; evidence that fails takes its rights for good."
)]
pub struct Args {
    /// A node
    #[arg(long, group = "what")]
    node: Option<String>,
    /// A workload, as LABEL@NODE
    #[arg(long, group = "what")]
    workload: Option<String>,
    /// The holder of one authorization, by its id
    #[arg(long, group = "what")]
    lineage: Option<String>,
    #[command(flatten)]
    order: OrderArgs,
}

/// Suspend every authorization of a zone, or of the whole domain, until it is lifted.
#[derive(ClapArgs)]
#[command(
    group(ArgGroup::new("what").required(true)),
    after_help = "Examples:\n  \
        touchstone contain --data /var/lib/touchstone-broker --zone payments --reason \"break-in\"\n  \
        touchstone contain --data /var/lib/touchstone-broker --cluster demo.example --reason \"break-in\"\n\n\
        Nobody there gets anything meanwhile, whatever is shown. `touchstone lift` is the way back."
)]
pub struct ContainArgs {
    /// A zone of the inventory
    #[arg(long, group = "what")]
    zone: Option<String>,
    /// The whole domain, by its name
    #[arg(long, group = "what", value_name = "DOMAIN")]
    cluster: Option<String>,
    #[command(flatten)]
    order: OrderArgs,
}

/// Runs `quarantine`.
pub fn run(args: &Args) -> CommandResult {
    let target = order::one([
        (TargetKind::Node, args.node.as_deref()),
        (TargetKind::Workload, args.workload.as_deref()),
        (TargetKind::Lineage, args.lineage.as_deref()),
    ])?;
    order::run(CommandAction::Quarantine, target, &args.order)
}

/// Runs `contain`.
pub fn contain(args: &ContainArgs) -> CommandResult {
    let target = order::one([
        (TargetKind::Zone, args.zone.as_deref()),
        (TargetKind::Cluster, args.cluster.as_deref()),
    ])?;
    order::run(CommandAction::Contain, target, &args.order)
}
