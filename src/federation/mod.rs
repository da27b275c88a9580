//! `touchstone federation`: which other domains count here, as far as what, and what of them is known.

mod carry;
mod list;
mod trust;

use clap::{Args as ClapArgs, Subcommand};

use crate::output::CommandResult;

/// Let authorizations of other domains count here, narrowed; and ours there.
#[derive(ClapArgs)]
#[command(
    after_help = "In domain A, whose policy repository is ./a, for nodes of domain b.example:\n  \
    touchstone federation trust ./a b.example --root b-1.root.json --policy https://policy.b.example/ \\\n    \
      --broker broker.b.example:7440 --resources partners/b --scope execute:partners/b/render\n  \
    touchstone policy publish ./a --keys KEYDIR\n\n\
    In domain B, so that its brokers issue authorizations for A:\n  \
    touchstone federation trust ./b a.example --issue execute:partners/b/render\n\n\
    `trust` and `drop` stage; nothing counts before `policy publish`. The root comes by other means than the repository."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Trust(Box<trust::Args>),
    List(list::Args),
    Drop(trust::DropArgs),
    Export(carry::ExportArgs),
    Import(carry::ImportArgs),
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    match args.command {
        Command::Trust(args) => trust::run(&args),
        Command::List(args) => list::run(&args),
        Command::Drop(args) => trust::drop(&args),
        Command::Export(args) => carry::export(&args),
        Command::Import(args) => carry::import(&args),
    }
}
