//! `touchstone federation list`: the other domains, as a repository says and as a broker sees them.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::{Value, json};
use touchstone_policies::{FederatedDomain, TrustBegins, federation_list};

use crate::output::{CommandResult, Outcome, say};
use crate::{admin, output};

/// Show the domains that are federated with: by a repository, staged changes included, or as a running broker sees them
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    touchstone federation list ./a\n  \
    touchstone federation list --data /var/lib/touchstone-broker      with the state of each, and why one is not followed")]
pub struct Args {
    /// The policy repository
    #[arg(required_unless_present = "data")]
    repo: Option<PathBuf>,
    /// The broker's data directory
    #[arg(long, conflicts_with = "repo")]
    data: Option<PathBuf>,
    /// One JSON object: domains; of a broker issue too
    #[arg(long)]
    json: bool,
}

/// Shows them.
pub fn run(args: &Args) -> CommandResult {
    let shown = match (&args.repo, &args.data) {
        (Some(repo), _) => {
            let federation = federation_list(repo)?;
            json!({ "domains": federation.domains().map(entry).collect::<Vec<_>>() })
        }
        (None, Some(data)) => serde_json::from_slice(&admin::get(data, "/federation")?)?,
        (None, None) => Value::Null,
    };
    if args.json {
        output::json(&shown);
        return Ok(Outcome::Done);
    }
    let domains = shown.get("domains").and_then(Value::as_array);
    for domain in domains.into_iter().flatten() {
        say!("{}", words(domain, "domain"));
        let Some(members) = domain.as_object() else { continue };
        for (member, value) in members
            .iter()
            .filter(|(member, value)| *member != "domain" && !value.is_null())
        {
            say!("  {member}: {}", plain(value));
        }
    }
    for row in shown.get("issue").and_then(Value::as_array).into_iter().flatten() {
        say!(
            "issued for {}: {}",
            words(row, "audience"),
            row.get("scopes").map(plain).unwrap_or_default()
        );
    }
    if domains.is_none_or(Vec::is_empty) {
        say!("no other domain is trusted with anything");
    }
    Ok(Outcome::Done)
}

fn words(value: &Value, member: &str) -> String {
    value.get(member).map(plain).unwrap_or_default()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Object(members) => {
            let pairs = members
                .iter()
                .map(|(member, value)| format!("{member} {}", plain(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

fn entry(domain: &FederatedDomain) -> Value {
    let list = |scopes: &mut dyn Iterator<Item = String>| scopes.collect::<Vec<_>>();
    let accept = domain.accept.as_ref();
    json!({
        "domain": domain.name,
        "root": match &domain.trust {
            Some(TrustBegins::Root(root)) => Some(sha256(root)),
            _ => None,
        },
        "path": match &domain.trust {
            Some(TrustBegins::Path(path)) => Some(path.clone()),
            _ => None,
        },
        "depth": domain.depth,
        "policy": domain.policy,
        "brokers": domain.brokers,
        "push": domain.push,
        "issue": list(&mut domain.issue.iter().map(ToString::to_string)),
        "resources": accept.map(|accept| accept.narrowing.prefix().to_owned()),
        "scopes": accept.map(|accept| list(&mut accept.narrowing.scopes().map(ToString::to_string))),
        "max_state_age_ms": accept.and_then(|accept| accept.narrowing.max_state_age_ms()),
    })
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(bytes))
}
