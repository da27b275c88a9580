//! `touchstone revoke`: rights end at every enforcer, at once.

use clap::{ArgGroup, Args as ClapArgs};
use touchstone_authorization::command::{CommandAction, TargetKind};

use crate::order::{self, OrderArgs};
use crate::output::CommandResult;

/// Withdraw rights at every enforcer, at once, with everything below them; recorded with its reason and the exact set.
#[derive(ClapArgs)]
#[command(
    group(ArgGroup::new("what").required(true)),
    after_help = "Examples:\n  \
        touchstone revoke --data /var/lib/touchstone-broker --node node-2 --reason \"stolen from rack 7\"\n  \
        touchstone revoke --data /var/lib/touchstone-broker --reference web-42 --reason \"CVE in the kernel\" --dry-run\n  \
        touchstone revoke --data /var/lib/touchstone-broker --key db/main --reason copied --operator alice --operator-key alice.pem\n\n\
        A node gets new rights by its next good evidence: `touchstone node decommission` bars it. A reference or signer stays\n\
        barred until it is lifted, a version of a key until the key is rotated."
)]
pub struct Args {
    /// A node: what it holds, and everything below
    #[arg(long, group = "what")]
    node: Option<String>,
    /// A workload, as LABEL@NODE
    #[arg(long, group = "what")]
    workload: Option<String>,
    /// A released key: whoever was given its newest version, which is released no more
    #[arg(long, group = "what")]
    key: Option<String>,
    /// A reference value: bar it, and take whoever rests on it
    #[arg(long, group = "what")]
    reference: Option<String>,
    /// A signer of reference values: bar everything it signed, and take whoever rests on it
    #[arg(long, group = "what")]
    signer: Option<String>,
    /// One authorization by its id, and everything below
    #[arg(long, group = "what")]
    lineage: Option<String>,
    #[command(flatten)]
    order: OrderArgs,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let target = order::one([
        (TargetKind::Node, args.node.as_deref()),
        (TargetKind::Workload, args.workload.as_deref()),
        (TargetKind::Key, args.key.as_deref()),
        (TargetKind::Reference, args.reference.as_deref()),
        (TargetKind::Signer, args.signer.as_deref()),
        (TargetKind::Lineage, args.lineage.as_deref()),
    ])?;
    order::run(CommandAction::Revoke, target, &args.order)
}
