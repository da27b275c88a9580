//! The `touchstone` command: nothing runs, and no key leaves, unless hardware has just proved what it is running.
//!
//! One file a subcommand; each is thin and calls the room that does the work. Exit codes: 0 done or affirming,
//! 1 refused with reasons, 2 unreadable input or usage.

mod admin;
mod agent;
mod bootstrap;
mod broker;
mod clock;
mod demo;
mod evidence;
mod exec;
mod federation;
mod guard;
mod key;
mod ledger;
mod lift;
mod lineage;
mod lines;
mod node;
mod notify;
mod obeyed;
mod oci_hook;
mod order;
mod output;
mod policy;
mod progress;
mod proxy;
mod quarantine;
mod reference;
mod relay;
mod revoke;
mod runtime;
mod status;
#[cfg(test)]
mod surface;
mod tenant;
mod vault;
mod verify;
mod why;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "touchstone",
    version,
    about = "Hardware-attested trust coordinator: nothing runs, and no key leaves, unless hardware has just proved what it is running.",
    after_help = "Start here:\n  touchstone demo                 three software-TPM nodes, one broker, the whole story\n  touchstone policy init --help   make a signed policy repository\n\nExit codes: 0 done or affirming, 1 refused with reasons, 2 unreadable input or usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    Broker(broker::Args),
    Agent(agent::Args),
    Bootstrap(bootstrap::Args),
    Guard(guard::Args),
    Exec(exec::Args),
    OciHook(oci_hook::Args),
    Relay(relay::Args),
    Evidence(evidence::Args),
    Verify(verify::Args),
    Reference(reference::Args),
    Policy(policy::Args),
    Federation(federation::Args),
    Key(key::Args),
    Revoke(revoke::Args),
    Quarantine(quarantine::Args),
    Contain(quarantine::ContainArgs),
    Lift(lift::Args),
    Node(node::Args),
    Status(status::Args),
    Tenant(tenant::Args),
    Ledger(ledger::Args),
    Workload(workload::Args),
    Lineage(lineage::Args),
}

fn main() -> ExitCode {
    // Before anything else: what holds a workload is one thread and nothing more.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == touchstone_cage::STAGE) {
        return touchstone_cage::run_stage(&arguments.collect::<Vec<_>>());
    }
    let code = command();
    lines::flush();
    code
}

fn command() -> ExitCode {
    let cli = Cli::parse();
    if !matches!(cli.command, Command::Exec(_)) {
        // What it runs is not to find a variable of ours.
        quiet_tss();
    }
    let outcome = match cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Broker(args) => broker::run(args),
        Command::Agent(args) => agent::run(args),
        Command::Bootstrap(args) => bootstrap::run(args),
        Command::Guard(args) => guard::run(args),
        Command::Exec(args) => return exec::run(args),
        Command::OciHook(args) => oci_hook::run(args),
        Command::Relay(args) => relay::run(args),
        Command::Evidence(args) => evidence::run(args),
        Command::Verify(args) => verify::run(&args),
        Command::Reference(args) => reference::run(args),
        Command::Policy(args) => policy::run(args),
        Command::Federation(args) => federation::run(args),
        Command::Key(args) => key::run(args),
        Command::Revoke(args) => revoke::run(&args),
        Command::Quarantine(args) => quarantine::run(&args),
        Command::Contain(args) => quarantine::contain(&args),
        Command::Lift(args) => lift::run(&args),
        Command::Node(args) => node::run(args),
        Command::Status(args) => status::run(&args),
        Command::Tenant(args) => tenant::run(args),
        Command::Ledger(args) => ledger::run(args),
        Command::Workload(args) => workload::run(args),
        Command::Lineage(args) => lineage::run(&args),
    };
    output::exit_code(outcome)
}

/// The TSS library writes its own log to standard error unless `TSS2_LOG` says otherwise, and reads that variable once,
/// at its first use. A process cannot safely change its own environment, so it starts itself again with it set.
#[cfg(feature = "tpm")]
fn quiet_tss() {
    use std::os::unix::process::CommandExt as _;
    if std::env::var_os("TSS2_LOG").is_some() {
        return;
    }
    if let Ok(own) = std::env::current_exe() {
        // Gives control back only where it fails; then the log is noisier, nothing else.
        let _ = std::process::Command::new(own)
            .args(std::env::args_os().skip(1))
            .env("TSS2_LOG", "all+none")
            .exec();
    }
}

#[cfg(not(feature = "tpm"))]
fn quiet_tss() {}
