//! `touchstone reference`: reference values.

mod add;
mod compute;
mod diff;
mod import;
mod show;
mod tree;
mod withdraw;

use clap::{Args as ClapArgs, Subcommand};

use crate::output::CommandResult;

/// Make reference values that a publish will sign.
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Add(add::Args),
    Show(show::Args),
    Diff(diff::Args),
    Compute(Box<compute::Args>),
    Import(import::Args),
    Withdraw(withdraw::Args),
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    match args.command {
        Command::Add(args) => add::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Compute(args) => compute::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Withdraw(args) => withdraw::run(&args),
    }
}

/// A digest as people compare it: its start and its end.
fn short(digest: &str) -> String {
    match (digest.get(..8), digest.get(digest.len().saturating_sub(4)..)) {
        (Some(start), Some(end)) if digest.len() > 16 => format!("{start}…{end}"),
        _ => digest.to_owned(),
    }
}
