//! A simulated confidential VM for demonstrations: a `configfs-tsm` folder that an agent can be pointed at.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use touchstone_simulated_platform::{EmulatedTsm, Guest, Line, Platform, PlatformError};

/// Simulates an SEV-SNP platform. It proves nothing: list its root in no policy but a test's.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a platform: root, intermediate, signing key
    Init {
        /// Where to keep it; ark.pem is the root that a policy has to list
        #[arg(long)]
        platform: PathBuf,
        /// milan, genoa or turin
        #[arg(long, default_value = "milan")]
        line: String,
        /// The byte its chip id is made of
        #[arg(long, default_value_t = 0xC1)]
        chip: u8,
    },
    /// Show a guest on it until stopped
    Run {
        /// What init made
        #[arg(long)]
        platform: PathBuf,
        /// The folder in which reports are asked for
        #[arg(long)]
        tsm: PathBuf,
        /// milan, genoa or turin
        #[arg(long, default_value = "milan")]
        line: String,
        /// The byte its chip id is made of
        #[arg(long, default_value_t = 0xC1)]
        chip: u8,
        /// Fields of its reports, OFFSET=HEX each
        #[arg(long, value_name = "OFFSET=HEX", value_parser = field)]
        set: Vec<(usize, Vec<u8>)>,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<(), PlatformError> {
    let line_of = |name: &str| Line::parse(name).ok_or(PlatformError::Key);
    match command {
        Command::Init { platform, line, chip } => Platform::new(&line_of(&line)?.vek(chip))?.write(&platform),
        Command::Run {
            platform,
            tsm,
            line,
            chip,
            set,
        } => {
            let mut guest = Guest::on(Platform::read(&platform)?, line_of(&line)?, chip);
            for (offset, value) in set {
                guest.set(offset, &value);
            }
            let tsm = EmulatedTsm::start(&tsm, guest)?;
            println!("ready: {}", tsm.path().display());
            loop {
                std::thread::park_timeout(Duration::from_secs(3600));
            }
        }
    }
}

fn field(text: &str) -> Result<(usize, Vec<u8>), String> {
    let (offset, value) = text.split_once('=').ok_or("expected OFFSET=HEX")?;
    let digits = offset.strip_prefix("0x").ok_or("the offset begins with 0x")?;
    let offset = usize::from_str_radix(digits, 16).map_err(|error| error.to_string())?;
    let digits: Vec<char> = value.chars().collect();
    let bytes = digits.chunks(2).map(|pair| {
        let pair: String = pair.iter().collect();
        u8::from_str_radix(&pair, 16).map_err(|error| error.to_string())
    });
    Ok((offset, bytes.collect::<Result<_, _>>()?))
}
