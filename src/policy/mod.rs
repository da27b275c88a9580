//! `touchstone policy`: author, sign, publish and look at the policy repository. One file a subcommand.

mod detector;
mod diff;
mod enforcer;
mod ima;
mod init;
mod key;
mod keydir;
mod keyset;
mod node;
mod operator;
mod propose;
mod publish;
mod region;
mod root;
mod scope;
mod segment;
mod set;
mod show;
mod sign;
mod test;
mod timestamp;
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
    Only `publish` (and `sign`) signs; everything before it stages files in REPO/staged, which no verifier reads.\n\n\
    Signers on machines of their own: propose, sign, publish --proposal --signatures.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Args),
    Trust(trust::Args),
    Node(node::Args),
    Keyset(keyset::Args),
    ImaKey(ima::Args),
    Operator(operator::Args),
    Detector(detector::Args),
    Enforcer(enforcer::Args),
    Segment(segment::Args),
    Set(set::Args),
    Propose(propose::Args),
    Review(propose::ReviewArgs),
    Sign(sign::Args),
    Publish(publish::Args),
    Root(root::Args),
    Region(region::Args),
    Key(key::Args),
    Timestamp(timestamp::Args),
    Show(show::Args),
    Test(test::Args),
    Diff(diff::Args),
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    match args.command {
        Command::Init(args) => init::run(&args),
        Command::Trust(args) => trust::run(args),
        Command::Node(args) => node::run(args),
        Command::Keyset(args) => keyset::run(&args),
        Command::ImaKey(args) => ima::run(&args),
        Command::Operator(args) => operator::run(args),
        Command::Detector(args) => detector::run(args),
        Command::Enforcer(args) => enforcer::run(args),
        Command::Segment(args) => segment::run(args),
        Command::Set(args) => set::run(&args),
        Command::Propose(args) => propose::run(&args),
        Command::Review(args) => propose::review(&args),
        Command::Sign(args) => sign::run(&args),
        Command::Publish(args) => publish::run(&args),
        Command::Root(args) => root::run(&args),
        Command::Region(args) => region::run(&args),
        Command::Key(args) => key::run(&args),
        Command::Timestamp(args) => timestamp::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Diff(args) => diff::run(&args),
    }
}
