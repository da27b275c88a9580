//! `touchstone policy trust`: whose certificates are believed, and what is refused although they are.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use serde_json::{Value, json};
use touchstone_policies::{BundleAdded, Purpose, author, crl_add, deny_set, trust_bundle};

use crate::clock;
use crate::output::{self, CommandResult, Failure, say};

/// Trust anchors
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// One JSON object: add {anchors, intermediates, skipped}, remove {removed}, crl {staged}, deny {endorsement_keys,
    /// firmware}
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Stage certificate authorities whose endorsements are believed
    #[command(after_help = "Example: touchstone policy trust add ./repo --ca infineon-root.pem --purpose ek")]
    Add {
        /// The repository
        repo: PathBuf,
        /// Certificates, PEM (one or several in a file) or DER: each becomes an anchor
        #[arg(long = "ca", required_unless_present = "bundle", num_args = 1..)]
        ca: Vec<PathBuf>,
        /// Makers' certificates, a PEM file or a folder of PEM and DER: roots become anchors, other CAs intermediates
        #[arg(long, conflicts_with = "ca")]
        bundle: Option<PathBuf>,
        /// What they vouch for
        #[arg(long, value_enum, default_value_t = PurposeArg::Ek)]
        purpose: PurposeArg,
    },
    /// Stage the removal of trust anchors or intermediates; what rested on them is refused from the next publish on
    #[command(after_help = "Example, a chip maker's root that policy init has staged:\n  \
        touchstone policy trust remove ./repo anchors/snp/69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd.der")]
    Remove {
        /// The repository
        repo: PathBuf,
        /// The targets, as policy init and policy trust add name them
        #[arg(required = true)]
        targets: Vec<String>,
    },
    /// Stage certificate revocation lists of these authorities; an older list of the same one is replaced
    #[command(after_help = "Example: touchstone policy trust crl ./repo tpm_ek_intermediate_3.crl")]
    Crl {
        /// The repository
        repo: PathBuf,
        /// Revocation lists, PEM or DER
        #[arg(required = true)]
        crl: Vec<PathBuf>,
    },
    /// Stage a list of endorsement keys and TPM firmware that are refused although their makers vouch for them
    #[command(after_help = "Example: touchstone policy trust deny ./repo deny.toml\n\n  \
        [[firmware]]\n  manufacturer = \"IFX\"\n  from = \"7.0\"\n  to = \"7.61\"\n  why = \"CVE-2017-15361\"\n\n  \
        [[endorsement_key]]\n  id = \"<sha256 of the SubjectPublicKeyInfo>\"\n  why = \"stolen\"")]
    Deny {
        /// The repository
        repo: PathBuf,
        /// The list, TOML
        file: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum PurposeArg {
    Ek,
    Snp,
    Tdx,
    Gpu,
    Idevid,
    Ldevid,
    CloudAk,
}

impl From<PurposeArg> for Purpose {
    fn from(purpose: PurposeArg) -> Self {
        match purpose {
            PurposeArg::Ek => Purpose::Ek,
            PurposeArg::Snp => Purpose::Snp,
            PurposeArg::Tdx => Purpose::Tdx,
            PurposeArg::Gpu => Purpose::Gpu,
            PurposeArg::Idevid => Purpose::Idevid,
            PurposeArg::Ldevid => Purpose::Ldevid,
            PurposeArg::CloudAk => Purpose::CloudAk,
        }
    }
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    let json = args.json;
    match args.command {
        Command::Remove { repo, targets } => remove(&repo, &targets, json),
        Command::Add {
            repo,
            ca,
            bundle,
            purpose,
        } => match bundle {
            None => {
                let added = author::trust_add(&repo, purpose.into(), &ca)?;
                let added = BundleAdded {
                    anchors: added.anchors,
                    ..BundleAdded::default()
                };
                output::tell(json, &added_json(&added), || {
                    for (subject, digest) in &added.anchors {
                        say!("staged {digest}: {subject}");
                    }
                })
            }
            Some(bundle) => {
                let added = trust_bundle(&repo, purpose.into(), &bundle)?;
                output::tell(json, &added_json(&added), || show(&added))
            }
        },
        Command::Crl { repo, crl } => {
            let staged = crl_add(&repo, &crl)?;
            output::tell(json, &json!({ "staged": staged }), || {
                for added in &staged {
                    say!(
                        "staged {}: {} revokes {} certificates, in force until {}",
                        added.target,
                        added.issuer,
                        added.revoked,
                        clock::words(added.next_update)
                    );
                    for target in &added.replaced {
                        say!("  replaces {target}");
                    }
                }
            })
        }
        Command::Deny { repo, file } => {
            let (keys, firmware) = deny_set(&repo, &file)?;
            let done = json!({ "endorsement_keys": keys, "firmware": firmware });
            output::tell(json, &done, || {
                say!("staged deny.toml: {keys} endorsement keys, {firmware} ranges of firmware");
            })
        }
    }
}

/// Each target is looked at before any of them is staged to go.
fn remove(repo: &Path, targets: &[String], json: bool) -> CommandResult {
    for target in targets {
        if !target.starts_with("anchors/") && !target.starts_with("intermediates/") {
            let hint = "anchors/<purpose>/<sha256>.der or intermediates/<purpose>/<sha256>.der";
            return Err(Failure::new(format!("{target}: not a trust anchor")).hint(hint));
        }
    }
    for target in targets {
        author::withdraw(repo, target)?;
    }
    output::tell(json, &json!({ "removed": targets }), || {
        for target in targets {
            say!("{target} is removed with the next publish");
        }
    })
}

fn added_json(added: &BundleAdded) -> Value {
    let certificates = |list: &[(String, String)]| -> Vec<Value> {
        let one = |(subject, sha256): &(String, String)| json!({ "subject": subject, "sha256": sha256 });
        list.iter().map(one).collect()
    };
    let skipped = added
        .skipped
        .iter()
        .map(|(name, why)| json!({ "name": name, "why": why }));
    json!({
        "anchors": certificates(&added.anchors),
        "intermediates": certificates(&added.intermediates),
        "skipped": skipped.collect::<Vec<_>>(),
    })
}

fn show(added: &BundleAdded) {
    for (subject, digest) in &added.anchors {
        say!("anchor       {digest}: {subject}");
    }
    for (subject, digest) in &added.intermediates {
        say!("intermediate {digest}: {subject}");
    }
    for (name, why) in &added.skipped {
        say!("skipped      {name}: {why}");
    }
    say!(
        "staged {} anchors and {} intermediates, skipped {}",
        added.anchors.len(),
        added.intermediates.len(),
        added.skipped.len()
    );
}
