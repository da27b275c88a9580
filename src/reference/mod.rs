//! `touchstone reference`: reference values.

mod add;
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
    Withdraw(withdraw::Args),
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    match args.command {
        Command::Add(args) => add::run(&args),
        Command::Withdraw(args) => withdraw::run(&args),
    }
}
