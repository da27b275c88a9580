//! `touchstone policy`: author, sign, publish and look at the policy repository. One file a subcommand.

mod ima;
mod init;
mod keyset;
mod node;
mod publish;
mod set;
mod show;
mod trust;
mod volume;

use clap::{Args as ClapArgs, Subcommand};

use crate::output::CommandResult;

/// Author, sign, publish and show the policy repository.
#[derive(ClapArgs)]
#[command(after_help = "A first repository:\n  \
    touchstone policy init REPO --domain demo.example --keys KEYDIR\n  \
    touchstone policy trust add REPO --ca tpm-maker-root.pem\n  \
    touchstone policy node add REPO node-1 --ek-cert ek.der --region eu-1\n  \
    touchstone reference add REPO --evidence golden.evidence\n  \
    touchstone policy publish REPO --keys KEYDIR\n\n\
    Only `publish` signs; everything before it stages files in REPO/staged, which no verifier reads.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is taken apart at once")]
enum Command {
    Init(init::Args),
    Trust(trust::Args),
    Node(node::Args),
    Keyset(keyset::Args),
    ImaKey(ima::Args),
    Set(set::Args),
    Publish(publish::Args),
    Show(show::Args),
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    match args.command {
        Command::Init(args) => init::run(&args),
        Command::Trust(args) => trust::run(args),
        Command::Node(args) => node::run(args),
        Command::Keyset(args) => keyset::run(&args),
        Command::ImaKey(args) => ima::run(&args),
        Command::Set(args) => set::run(&args),
        Command::Publish(args) => publish::run(&args),
        Command::Show(args) => show::run(&args),
    }
}
