//! `touchstone policy`: author, sign, publish and look at the policy repository.

mod ima;
mod set;
mod volume;

use crate::output::say;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use touchstone_policies::{NodeIdentity, NodePlace, Purpose, author, crl_add, deny_set, publish, show, trust_bundle};

use crate::clock;
use crate::output::{self, CommandResult, Outcome};

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
    /// Make a repository: keys, root metadata, commented default settings and Cedar policy
    #[command(after_help = "Example: touchstone policy init ./repo --domain demo.example --keys ./keys")]
    Init {
        /// Directory to make
        repo: PathBuf,
        /// Name of the trust domain
        #[arg(long)]
        domain: String,
        /// Where the role keys go (`<role>-<n>.pem`, mode 0600); keys that are there are used
        #[arg(long)]
        keys: PathBuf,
    },
    /// Trust anchors
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Node inventory
    #[command(subcommand)]
    Node(NodeCommand),
    /// The brokers' public keys
    #[command(subcommand)]
    Keyset(KeysetCommand),
    ImaKey(ima::Args),
    Set(set::Args),
    /// Sign what is staged and publish it as the next version
    #[command(after_help = "Example: touchstone policy publish ./repo --keys ./keys")]
    Publish {
        /// The repository
        repo: PathBuf,
        /// Where the role keys are
        #[arg(long)]
        keys: PathBuf,
    },
    /// Show the published version: roles, expiry, settings, nodes, reference values
    Show {
        /// The repository
        repo: PathBuf,
        /// Judge at this time instead of now (RFC 3339)
        #[arg(long)]
        at: Option<String>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum TrustCommand {
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

#[derive(Subcommand)]
enum NodeCommand {
    /// Stage a machine: its hardware identity, its name, its region
    #[command(after_help = "Examples:\n  \
        touchstone policy node add ./repo node-1 --ek-cert ek.der --region eu-1 --role worker\n  \
        touchstone policy node add ./repo node-1 --from golden.evidence --region eu-1    also ties its attestation key")]
    Add {
        /// The repository
        repo: PathBuf,
        /// The node's name
        name: String,
        #[command(flatten)]
        identity: IdentityArgs,
        /// Region it belongs to
        #[arg(long)]
        region: String,
        /// Zone within the region
        #[arg(long)]
        zone: Option<String>,
        /// Roles it may act in (repeatable)
        #[arg(long = "role")]
        roles: Vec<String>,
        #[command(flatten)]
        volume: volume::VolumeArgs,
    },
    /// Stage which encrypted disk a machine opens when it boots (`touchstone bootstrap`)
    #[command(after_help = "Example, with what `touchstone bootstrap measure` prints:\n  \
        touchstone policy node volume ./repo node-1 --luks-uuid 4878cbe9-f3c5-4d20-82da-b2bb10ae2940 --volume-pcr15 9f2c...")]
    Volume {
        /// The repository
        repo: PathBuf,
        /// The node's name
        name: String,
        #[command(flatten)]
        volume: volume::VolumeArgs,
    },
    /// Stage the removal of a machine; it loses its rights at the next publish
    #[command(after_help = "Example: touchstone policy node remove ./repo node-1")]
    Remove {
        /// The repository
        repo: PathBuf,
        /// The node's name
        name: String,
    },
}

#[derive(ClapArgs)]
#[group(required = true, multiple = false)]
struct IdentityArgs {
    /// Endorsement key certificate (DER or PEM)
    #[arg(long)]
    ek_cert: Option<PathBuf>,
    /// Endorsement key (TPM2B_PUBLIC, TPMT_PUBLIC or PEM)
    #[arg(long)]
    ek: Option<PathBuf>,
    /// Certificate of a device identity (IDevID, LDevID) or of its attestation key (IAK, LAK), DER or PEM
    #[arg(long)]
    idevid: Option<PathBuf>,
    /// Attestation key alone (TPM2B_PUBLIC, TPMT_PUBLIC or PEM): you vouch for that very key
    #[arg(long)]
    ak: Option<PathBuf>,
    /// Evidence of this machine: ties its endorsement key and its attestation key by your signature
    #[arg(long)]
    from: Option<PathBuf>,
}

#[derive(Subcommand)]
enum KeysetCommand {
    /// Stage a broker's public keys, as written by `touchstone broker init`
    Add {
        /// The repository
        repo: PathBuf,
        /// The broker's keyset.json
        keyset: PathBuf,
    },
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    match args.command {
        Command::Init { repo, domain, keys } => {
            let made = author::init(&repo, &domain, &keys, clock::now())?;
            say!("{}: domain {}, root {}", repo.display(), made.domain, made.root_digest);
            for key in &made.keys_made {
                say!("  key   {key}");
            }
            for target in &made.staged {
                say!("  staged {target}");
            }
            say!(
                "edit what is in {}, then: touchstone policy publish",
                repo.join("staged").display()
            );
        }
        Command::Trust(command) => run_trust(command)?,
        Command::Node(NodeCommand::Add {
            repo,
            name,
            identity,
            region,
            zone,
            roles,
            volume,
        }) => {
            let identity = match identity {
                IdentityArgs {
                    ek_cert: Some(path), ..
                } => NodeIdentity::EkCert(output::read(&path)?),
                IdentityArgs { ek: Some(path), .. } => NodeIdentity::Ek(output::read(&path)?),
                IdentityArgs { ak: Some(path), .. } => NodeIdentity::Ak(output::read(&path)?),
                IdentityArgs { idevid: Some(path), .. } => NodeIdentity::Device(output::read(&path)?),
                IdentityArgs { from: Some(path), .. } => NodeIdentity::Evidence(output::read(&path)?),
                IdentityArgs {
                    ek_cert: None,
                    ek: None,
                    idevid: None,
                    ak: None,
                    from: None,
                } => {
                    let hint = "--ek-cert, --ek, --idevid, --ak or --from";
                    return Err(output::Failure::new("no identity given").hint(hint));
                }
            };
            let place = NodePlace {
                name: &name,
                region: &region,
                zone: zone.as_deref(),
                roles: &roles,
            };
            let added = author::node_add(&repo, &identity, place)?;
            say!(
                "{} {name} in {region}",
                if added.merged { "merged into" } else { "staged" }
            );
            for note in &added.notes {
                say!("  note: {note}");
            }
            if let Some(volume) = volume.volume() {
                self::volume::stage(&repo, &name, volume)?;
            }
        }
        Command::Node(NodeCommand::Volume { repo, name, volume }) => {
            let hint = "touchstone bootstrap measure --device DISK --name NAME prints both";
            let volume = volume
                .volume()
                .ok_or_else(|| output::Failure::new("--luks-uuid and --volume-pcr15 are needed").hint(hint))?;
            self::volume::stage(&repo, &name, volume)?;
        }
        Command::Node(NodeCommand::Remove { repo, name }) => {
            author::withdraw(&repo, &format!("nodes/{name}.json"))?;
            say!("{name} is removed with the next publish");
        }
        Command::Keyset(KeysetCommand::Add { repo, keyset }) => {
            let added = author::keyset_add(&repo, &output::read(&keyset)?)?;
            say!("staged keyset version {}: {} keys", added.version, added.keys);
        }
        Command::ImaKey(args) => return ima::run(&args),
        Command::Set(args) => return set::run(&args),
        Command::Publish { repo, keys } => {
            let published = publish(&repo, &keys, clock::now())?;
            say!(
                "published {} version {}: {} targets, valid until {}",
                published.domain,
                published.versions.targets,
                published.targets,
                published.expires
            );
            for reference in &published.references_signed {
                say!("  signed {reference}");
            }
            for note in &published.notes {
                say!("  note: {note}");
            }
        }
        Command::Show { repo, at, json } => return show_repository(&repo, at.as_deref(), json),
    }
    Ok(Outcome::Done)
}

fn run_trust(command: TrustCommand) -> Result<(), output::Failure> {
    match command {
        TrustCommand::Remove { repo, targets } => {
            for target in &targets {
                if !target.starts_with("anchors/") && !target.starts_with("intermediates/") {
                    let hint = "anchors/<purpose>/<sha256>.der or intermediates/<purpose>/<sha256>.der";
                    return Err(output::Failure::new(format!("{target}: not a trust anchor")).hint(hint));
                }
                author::withdraw(&repo, target)?;
                say!("{target} is removed with the next publish");
            }
        }
        TrustCommand::Add {
            repo,
            ca,
            bundle: None,
            purpose,
        } => {
            for (subject, target) in author::trust_add(&repo, purpose.into(), &ca)?.anchors {
                say!("staged {target}: {subject}");
            }
        }
        TrustCommand::Add {
            repo,
            bundle: Some(bundle),
            purpose,
            ..
        } => {
            let added = trust_bundle(&repo, purpose.into(), &bundle)?;
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
        TrustCommand::Crl { repo, crl } => {
            for added in crl_add(&repo, &crl)? {
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
        }
        TrustCommand::Deny { repo, file } => {
            let (keys, firmware) = deny_set(&repo, &file)?;
            say!("staged deny.toml: {keys} endorsement keys, {firmware} ranges of firmware");
        }
    }
    Ok(())
}

fn show_repository(repo: &std::path::Path, at: Option<&str>, json: bool) -> CommandResult {
    let shown = show(repo, clock::at(at)?)?;
    let loads = shown.problems.is_empty();
    if json {
        output::json(&serde_json::to_value(&shown)?);
        return Ok(if loads { Outcome::Done } else { Outcome::Refused });
    }
    match &shown.published {
        None => say!("{}: nothing is published yet", repo.display()),
        Some(published) => {
            say!(
                "{} version {} ({})",
                published.domain,
                published.version,
                published.digest
            );
            say!("  first root {}", published.root_digest);
            for (role, version, end) in &published.expires {
                say!("  {role:<10} version {version:<4} until {end}");
            }
            say!("  grants     {}", published.scopes.join(", "));
            say!("  requires   {}", published.required_registers);
            say!("  files      {}", published.ima);
            for key in &published.ima_keys {
                say!("  signer     {key}");
            }
            say!("  regions    {}", published.regions.join(", "));
            for (name, region, zone) in &published.nodes {
                say!(
                    "  node       {name} in {region}{}",
                    zone.as_ref().map_or(String::new(), |z| format!("/{z}"))
                );
            }
            for (name, signer, end) in &published.references {
                let end = end.as_deref().unwrap_or("without end");
                say!("  reference  {name}, signed by {signer}, until {end}");
            }
            for anchor in &published.anchors {
                say!("  anchor     {anchor}");
            }
        }
    }
    for role in &shown.roles {
        say!(
            "  role       {}: {} of {} keys",
            role.role,
            role.threshold,
            role.keys.len()
        );
    }
    for staged in &shown.staged {
        say!("  staged     {} ({:?})", staged.target, staged.change);
    }
    for problem in &shown.problems {
        say!(
            "  would not load: {}: {}: expected {}, found {}",
            problem.code,
            problem.claim,
            problem.expected,
            problem.found
        );
    }
    Ok(if loads { Outcome::Done } else { Outcome::Refused })
}
