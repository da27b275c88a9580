//! `touchstone reference import`: a vendor's signed reference values, kept as they are.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use touchstone_policies::{VendorFile, reference_import};

use crate::clock;
use crate::output::{self, CommandResult, Outcome, say};

/// Stage a vendor's signed CoRIM as it is, with its signature
#[derive(ClapArgs)]
#[command(after_help = "Examples:
  The first file of a vendor, whose key you have from the vendor:
    touchstone reference import ./repo acme-fw-7.corim --signer acme.pem --list-signer acme --name acme-fw-7
  Later ones:
    touchstone reference import ./repo acme-fw-8.corim --signer acme.pem --name acme-fw-8

The signature must verify under that key, and everything in the file must be a value of a TPM register. A profile
that is not known is refused whole. An unsigned file is refused: what you vouch for yourself comes in with reference
add or compute, and is signed with your key at publish.")]
pub struct Args {
    /// The repository
    repo: PathBuf,
    /// The signed CoRIM
    file: PathBuf,
    /// The signer's certificate or public key (DER or PEM)
    #[arg(long, value_name = "CERT|KEY")]
    signer: PathBuf,
    /// Name of the reference values' file
    #[arg(long)]
    name: String,
    /// List the signer under this name with the import; without it only listed signers count
    #[arg(long, value_name = "NAME")]
    list_signer: Option<String>,
    /// One JSON object: name, signer, listed, references, staged, notes
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let (corim, signer) = (output::read(&args.file)?, output::read(&args.signer)?);
    let file = VendorFile {
        corim: &corim,
        signer: &signer,
        name: &args.name,
        list_signer: args.list_signer.as_deref(),
    };
    let imported = reference_import(&args.repo, file, clock::now())?;
    if args.json {
        output::json(&serde_json::to_value(&imported)?);
        return Ok(Outcome::Done);
    }
    let (name, issuer) = &imported.signer;
    say!(
        "staged {}: signed by {name} ({issuer}){}",
        imported.name,
        if imported.listed { ", now listed" } else { "" }
    );
    for (reference, banks) in &imported.references {
        for (bank, registers) in banks {
            let registers: Vec<String> = registers.iter().map(ToString::to_string).collect();
            say!("  {reference}: {bank} registers {}", registers.join(" "));
        }
    }
    for note in &imported.notes {
        say!("  note: {note}");
    }
    Ok(Outcome::Done)
}
