//! `touchstone federation trust` and `drop`: stage what another domain may do here.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use touchstone_policies::author::federation::{Accepted, Trust};
use touchstone_policies::{federation_drop, federation_trust};

use crate::output::{self, CommandResult, Failure, Outcome, say};

/// Stage what another domain's authorizations may do here, and what ours are issued for there; takes the place of what was
/// said of it before, also after its root was rotated while nobody looked
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    touchstone federation trust ./a b.example --root b-1.root.json --policy https://policy.b.example/ \\\n    \
      --broker broker.b.example:7440 --resources partners/b --scope execute:partners/b/render\n  \
    touchstone federation trust ./a c.example --path b.example --resources partners/b \\\n    \
      --scope execute:partners/b/render          over b.example, whose own policy names the root of c.example\n  \
    touchstone federation trust ./a d.example --root d-1.root.json --resources d --scope execute:d/x \\\n    \
      --max-state-age 86400                      its state is carried by hand: federation export, federation import")]
pub struct Args {
    /// The policy repository
    repo: PathBuf,
    /// The other domain's name
    domain: String,
    /// Its root metadata, brought here by other means than its repository
    #[arg(long, conflicts_with = "path")]
    root: Option<PathBuf>,
    /// Trusted over these domains, the nearest first, in the place of a root (repeatable)
    #[arg(long)]
    path: Vec<String>,
    /// How many domains beyond it may be trusted over it
    #[arg(long, default_value_t = 0)]
    depth: usize,
    /// Its policy repository: a folder (absolute) or a URL (repeatable)
    #[arg(long)]
    policy: Vec<String>,
    /// Its brokers, host:port (repeatable)
    #[arg(long = "broker")]
    brokers: Vec<String>,
    /// Our brokers send our state to its brokers, which cannot connect to ours
    #[arg(long)]
    push: bool,
    /// What our nodes' authorizations may be issued for there, action:resource (repeatable)
    #[arg(long)]
    issue: Vec<String>,
    /// The prefix below which everything lies that its authorizations may do here
    #[arg(long, requires = "scopes")]
    resources: Option<String>,
    /// What its authorizations may do here, action:resource (repeatable)
    #[arg(long = "scope", requires = "resources")]
    scopes: Vec<String>,
    /// Kinds of keys its authorizations may be bound to: tpm, tee, software (default tpm and tee)
    #[arg(long = "key-kind", requires = "resources")]
    key_kinds: Vec<String>,
    /// Its state may be this old, in seconds, where it is carried by hand
    #[arg(long, requires = "resources")]
    max_state_age: Option<u64>,
    /// One JSON object: domain, staged, root, replaced
    #[arg(long)]
    json: bool,
}

/// Stages it.
pub fn run(args: &Args) -> CommandResult {
    let accept = args.resources.as_ref().map(|resources| Accepted {
        resources: resources.clone(),
        scopes: args.scopes.clone(),
        key_kinds: args.key_kinds.clone(),
        max_state_age: args.max_state_age,
    });
    if accept.is_none() && args.issue.is_empty() && args.root.is_none() && args.path.is_empty() {
        let hint = "--root or --path with --resources and --scope for its nodes here; --issue for ours there";
        return Err(Failure::new(format!("nothing is said of {}", args.domain)).hint(hint));
    }
    let staged = federation_trust(
        &args.repo,
        &Trust {
            domain: args.domain.clone(),
            root: args.root.as_deref().map(output::read).transpose()?,
            path: args.path.clone(),
            depth: args.depth,
            policy: args.policy.clone(),
            brokers: args.brokers.clone(),
            push: args.push,
            issue: args.issue.clone(),
            accept,
        },
    )?;
    if args.json {
        output::json(&serde_json::to_value(&staged)?);
        return Ok(Outcome::Done);
    }
    for target in &staged.staged {
        say!("staged {target}");
    }
    if let Some(root) = &staged.root {
        say!("{}: trust begins with the root of SHA-256 {root}", staged.domain);
    }
    if staged.replaced {
        say!("this takes the place of what was said of {} before", staged.domain);
    }
    Ok(Outcome::Done)
}

/// Stage the end of federation with a domain: from the next publish on its authorizations count here no more
#[derive(ClapArgs)]
#[command(after_help = "Example: touchstone federation drop ./a b.example")]
pub struct DropArgs {
    /// The policy repository
    repo: PathBuf,
    /// The other domain's name
    domain: String,
    /// One JSON object: removed
    #[arg(long)]
    json: bool,
}

/// Stages it.
pub fn drop(args: &DropArgs) -> CommandResult {
    federation_drop(&args.repo, &args.domain)?;
    output::tell(args.json, &serde_json::json!({ "removed": args.domain }), || {
        say!("{} counts here no more from the next publish on", args.domain);
    })
}
