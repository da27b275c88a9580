//! `touchstone tenant`: what a tenant of the domain sees of it.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use serde_json::json;
use touchstone_cose::cbor::{self, Limits};

use crate::output::{CommandResult, Failure, Outcome, say};
use crate::{admin, output};

/// Most bytes of one answer of the broker.
const LIMITS: Limits = Limits {
    max_bytes: 256 << 20,
    max_depth: 4,
    max_items: 65_536,
};

/// Tenants of the domain (tenants.toml)
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The statements about a tenant's nodes and keys, picked out for that tenant; the ledger itself is public
    #[command(
        after_help = "Example:\n  touchstone tenant ledger acme --data /var/lib/touchstone-broker --json > acme.json"
    )]
    Ledger {
        /// The tenant
        tenant: String,
        /// The broker's data directory
        #[arg(long)]
        data: PathBuf,
        /// First entry to look at
        #[arg(long, default_value_t = 0)]
        start: u64,
        /// One JSON object: tenant, next, entries ([{entry, statement}], each statement in hexadecimal, as it is
        /// signed)
        #[arg(long)]
        json: bool,
    },
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    let Command::Ledger {
        tenant,
        data,
        start,
        json,
    } = args.command;
    // It is part of an address.
    if !tenant
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        || tenant.is_empty()
    {
        return Err(Failure::new("a tenant's name has letters, digits and hyphens"));
    }
    let (mut next, mut seen) = (start, Vec::new());
    loop {
        let answer = admin::get(&data, &format!("/tenants/{tenant}/ledger?start={next}"))?;
        let (after, entries) =
            read(&answer).ok_or_else(|| Failure::new("the broker's answer is not a view of its ledger"))?;
        seen.extend(entries);
        if after <= next {
            break;
        }
        next = after;
    }
    if json {
        let entries: Vec<_> = seen
            .iter()
            .map(|(index, bytes, _)| json!({ "entry": index, "statement": hex::encode(bytes) }))
            .collect();
        output::json(&json!({ "tenant": tenant, "next": next, "entries": entries }));
        return Ok(Outcome::Done);
    }
    for (index, _, words) in &seen {
        say!("{index:>8}  {words}");
    }
    Ok(Outcome::Done)
}

/// Index, signed statement, and what it is in words.
type Entry = (u64, Vec<u8>, String);

/// Where to go on, and the entries.
fn read(bytes: &[u8]) -> Option<(u64, Vec<Entry>)> {
    let value = cbor::decode(bytes, LIMITS).ok()?;
    let [(_, next), (_, entries)] = value.as_map()? else {
        return None;
    };
    let entries = entries.as_array()?.iter().map(|entry| match entry.as_array()? {
        [index, bytes, words] => Some((index.as_u64()?, bytes.as_bytes()?.to_vec(), words.as_text()?.to_owned())),
        _ => None,
    });
    Some((next.as_u64()?, entries.collect::<Option<_>>()?))
}
