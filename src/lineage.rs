//! `touchstone lineage`: which authorization hangs below which, and what became of it, as the ledger tells it.

use crate::output::say;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use serde_json::{Value, json};
use touchstone_attest::client::Endpoint;
use touchstone_attest::trust::DomainTrust;
use touchstone_keybroker::lineage::history::{Event, Flaw, History, Named, Refused, Tree};
use touchstone_ledger::statement::{Reason, Statement};

use crate::output::{self, CommandResult, Failure, Outcome};
use crate::{clock, ledger, runtime};

/// Which authorization hangs below which.
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The tree of an authorization, a node, a key's holders or a reference's, with states and reasons
    ///
    /// Fetches the whole ledger, checks it as `ledger verify` does, and folds it: nothing of it rests on the broker's word.
    /// A node or workload that was refused and never granted anything has no entry: it is shown with its denials. Where the
    /// ledger says what cannot be so, as a withdrawal that took more or less than what hung below, that is shown
    /// and the exit code is 1.
    #[command(
        after_help = "Examples:\n  touchstone lineage show node-2 --broker https://127.0.0.1:8443 --domain demo.example --policy ./repo --root ./root.json\n  touchstone lineage show reader@node-2 --at 2026-11-21T12:00:00Z ...\n  touchstone lineage show db/main --as key ...\n  touchstone lineage show b.example/node-1 --peer b.example,https://b:8443,./repo-b,./b.root.json ..."
    )]
    Show(ShowArgs),
}

#[derive(ClapArgs)]
struct ShowArgs {
    /// The id of an authorization, a node, `<label>@<node>`, the name of a key or of a reference; of another domain's with
    /// the domain and a slash before it
    name: String,
    /// What NAME is, where it may be several things
    #[arg(long = "as", value_name = "WHAT")]
    named: Option<What>,
    /// A broker, https://host:port
    #[arg(long)]
    broker: String,
    /// The trust domain
    #[arg(long)]
    domain: String,
    /// The policy repository
    #[arg(long)]
    policy: PathBuf,
    /// The root.json that is trusted
    #[arg(long)]
    root: PathBuf,
    /// Another domain, whose ledger is read and checked too: domain, broker, policy repository and trusted root
    #[arg(long = "peer", value_name = "DOMAIN,BROKER,POLICY,ROOT")]
    peers: Vec<String>,
    /// As it was at this time, RFC 3339
    #[arg(long)]
    at: Option<String>,
    /// One JSON object: at, ledgers ([{domain, entries, root, flaws}]), trees (each with subject, state, reasons,
    /// events, children)
    #[arg(long)]
    json: bool,
}

/// The state of what was refused and never granted anything.
const NEVER_GRANTED: &str = "never-granted";

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Id,
    Subject,
    Key,
    Reference,
}

impl From<What> for Named {
    fn from(what: What) -> Self {
        match what {
            What::Id => Self::Id,
            What::Subject => Self::Subject,
            What::Key => Self::Key,
            What::Reference => Self::Reference,
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    match &args.command {
        Command::Show(args) => runtime::block_on(show(args))?,
    }
}

/// Where a domain's ledger is.
struct Place {
    domain: String,
    broker: String,
    policy: PathBuf,
    root: PathBuf,
    /// What stands before ids of this domain.
    prefix: String,
}

/// What a domain's ledger tells.
struct Told {
    prefix: String,
    domain: String,
    entries: u64,
    root: String,
    history: History,
}

async fn show(args: &ShowArgs) -> CommandResult {
    let now = clock::now();
    let at = clock::at(args.at.as_deref())?;
    let own = Place {
        domain: args.domain.clone(),
        broker: args.broker.clone(),
        policy: args.policy.clone(),
        root: args.root.clone(),
        prefix: String::new(),
    };
    let peers: Result<Vec<Place>, Failure> = args.peers.iter().map(|peer| place(peer)).collect();
    let mut told = Vec::new();
    for place in std::iter::once(own).chain(peers?) {
        told.push(read(place, now, at).await?);
    }
    let found = found(&told, &args.name, args.named.map(Named::from))?;
    let trees: Vec<(&str, Tree)> = found
        .iter()
        .flat_map(|(told, named, name)| {
            let trees = told.history.trees(*named, name, at);
            trees.into_iter().map(|tree| (told.prefix.as_str(), tree))
        })
        .collect();
    let refused: Vec<(&str, Refused)> = found
        .iter()
        .filter(|(_, named, _)| *named == Named::Subject)
        .filter_map(|(told, _, name)| Some((told.prefix.as_str(), told.history.refused(name)?)))
        .collect();
    let flawed = told.iter().any(|told| !told.history.flaws().0.is_empty());
    if args.json {
        let ledgers: Vec<Value> = told.iter().map(ledger_json).collect();
        let trees = trees.iter().map(|(prefix, tree)| tree_json(prefix, tree));
        let refused = refused.iter().map(|(prefix, refused)| refused_json(prefix, refused));
        let trees: Vec<Value> = trees.chain(refused).collect();
        output::json(&json!({ "at": clock::words(at), "ledgers": ledgers, "trees": trees }));
    } else {
        for (prefix, tree) in &trees {
            print(prefix, tree, "");
        }
        for (prefix, refused) in &refused {
            print_refused(prefix, refused);
        }
        for told in &told {
            for Flaw { index, what } in told.history.flaws().0 {
                say!("{}, ledger entry {index}: {what}", told.domain);
            }
        }
    }
    Ok(if flawed { Outcome::Refused } else { Outcome::Done })
}

fn place(peer: &str) -> Result<Place, Failure> {
    let parts: Vec<&str> = peer.split(',').collect();
    let [domain, broker, policy, root] = parts.as_slice() else {
        return Err(Failure::new(format!(
            "--peer {peer}: expected DOMAIN,BROKER,POLICY,ROOT"
        )));
    };
    Ok(Place {
        domain: (*domain).to_owned(),
        broker: (*broker).to_owned(),
        policy: policy.into(),
        root: root.into(),
        prefix: format!("{domain}/"),
    })
}

/// Reads and checks a ledger; what was said after `at` is checked and not told.
async fn read(place: Place, now: i64, at: i64) -> Result<Told, Failure> {
    let trust = DomainTrust::load(&place.policy, &place.root, &place.domain, now).await?;
    let mut client = trust.client(vec![Endpoint::parse(&place.broker)?]);
    let mut history = History::default();
    let each = |index: u64, statement: &Statement| {
        if statement.time <= at {
            history.apply(index, statement);
        }
    };
    let checkpoint = ledger::check::every(&mut client, &trust, &place.domain, each).await?;
    Ok(Told {
        prefix: place.prefix,
        domain: place.domain,
        entries: checkpoint.size(),
        root: hex::encode(checkpoint.root()),
        history,
    })
}

/// Where a name is known, and as what: in one sense only.
fn found<'a>(
    told: &'a [Told],
    name: &'a str,
    named: Option<Named>,
) -> Result<Vec<(&'a Told, Named, &'a str)>, Failure> {
    let mut found = Vec::new();
    for of in told {
        // A subject is of one domain. An id is one everywhere, and a key or a reference may be in several.
        let own = name.strip_prefix(&of.prefix).unwrap_or(name);
        let is_named_with_domain = own.len() < name.len();
        for meaning in of.history.meanings(own) {
            let here = of.prefix.is_empty() || is_named_with_domain || meaning != Named::Subject;
            if here && named.is_none_or(|named| named == meaning) {
                found.push((of, meaning, own));
            }
        }
    }
    let mut senses: Vec<&str> = found.iter().map(|(_, meaning, _)| meaning.as_str()).collect();
    senses.sort_unstable();
    senses.dedup();
    match senses.as_slice() {
        [] => Err(Failure::new(format!("the ledger tells of no {name} at that time"))
            .hint("name an authorization by its id in hexadecimal, a node, <label>@<node>, a key or a reference")),
        [_] => Ok(found),
        several => Err(Failure::new(format!("{name} is {}", several.join(" and ")))
            .hint(format!("say which with --as {}", several.join(" or --as ")))),
    }
}

fn print(prefix: &str, tree: &Tree, indent: &str) {
    let entry = &tree.entry;
    say!(
        "{indent}{prefix}{}  {} since {}, until {}",
        entry.subject,
        tree.state,
        clock::words(tree.since),
        clock::words(i64::try_from(entry.expires).unwrap_or(i64::MAX))
    );
    let more = format!("{indent}    ");
    say!(
        "{more}id {}, status entry {}/{}/{}",
        hex::encode(entry.cti),
        entry.status.list,
        entry.status.generation,
        entry.status.index
    );
    if !entry.scopes.is_empty() {
        say!("{more}may {}", entry.scopes);
    }
    for reference in &tree.references {
        say!("{more}shown to be {reference}");
    }
    for reason in &tree.reasons {
        say!("{more}because {}", because(reason));
    }
    for event in &tree.events {
        say!("{more}{}", words(event));
    }
    if tree.left_out > 0 {
        say!("{more}{} events are left out", tree.left_out);
    }
    for (link, state) in &tree.offline {
        say!(
            "{more}off-line {}  {state}, until {}, id {}, may {}",
            link.label,
            clock::words(i64::try_from(link.expires).unwrap_or(i64::MAX)),
            hex::encode(link.id),
            link.scopes
        );
    }
    for dependant in &tree.dependants {
        say!("{more}rested on by {prefix}{dependant}");
    }
    for child in &tree.children {
        print(prefix, child, &format!("{indent}  "));
    }
}

/// What has no entry: nothing was ever granted to it.
fn print_refused(prefix: &str, refused: &Refused) {
    say!("{prefix}{}  {NEVER_GRANTED}", refused.subject);
    for event in &refused.events {
        say!("    {}", words(event));
    }
    if refused.left_out > 0 {
        say!("    {} events are left out", refused.left_out);
    }
}

fn because(reason: &Reason) -> String {
    format!(
        "{}: {} is {}, expected {}",
        reason.code, reason.claim, reason.found, reason.expected
    )
}

fn words(event: &Event) -> String {
    let entries = match event.times {
        1 => format!("entry {}", event.first),
        times => format!("entries {} to {}, {times} times", event.first, event.last),
    };
    let detail = match event.detail.as_str() {
        "" => String::new(),
        detail => format!(" {detail}"),
    };
    format!("{} {}{detail} ({entries})", clock::words(event.time), event.what)
}

fn ledger_json(told: &Told) -> Value {
    let (flaws, more) = told.history.flaws();
    let flaws: Vec<Value> = flaws
        .iter()
        .map(|flaw| json!({ "entry": flaw.index, "what": flaw.what }))
        .collect();
    json!({
        "domain": told.domain,
        "entries": told.entries,
        "root": told.root,
        "flaws": flaws,
        "more_flaws": more,
    })
}

fn tree_json(prefix: &str, tree: &Tree) -> Value {
    let entry = &tree.entry;
    let reasons: Vec<Value> = tree
        .reasons
        .iter()
        .map(|r| json!({ "code": r.code, "claim": r.claim, "expected": r.expected, "found": r.found }))
        .collect();
    let offline: Vec<Value> = tree
        .offline
        .iter()
        .map(|(link, state)| {
            json!({
                "id": hex::encode(link.id),
                "below": link.above.map(hex::encode),
                "label": link.label,
                "state": state,
                "scopes": link.scopes.split(' ').collect::<Vec<_>>(),
                "until": clock::words(i64::try_from(link.expires).unwrap_or(i64::MAX)),
            })
        })
        .collect();
    let depends_on: Vec<Value> = entry
        .depends_on
        .iter()
        .map(|d| json!({ "why": d.why.as_str(), "status_entry": [u32::from(d.on.list), d.on.generation, d.on.index] }))
        .collect();
    json!({
        "subject": format!("{prefix}{}", entry.subject),
        "state": tree.state,
        "since": clock::words(tree.since),
        "until": clock::words(i64::try_from(entry.expires).unwrap_or(i64::MAX)),
        "epoch": tree.epoch,
        "reasons": reasons,
        "id": hex::encode(entry.cti),
        "status_entry": [u32::from(entry.status.list), entry.status.generation, entry.status.index],
        "depth": entry.depth,
        "scopes": entry.scopes.split(' ').filter(|scope| !scope.is_empty()).collect::<Vec<_>>(),
        "references": tree.references,
        "offline": offline,
        "depends_on": depends_on,
        "rested_on_by": tree.dependants.iter().map(|of| format!("{prefix}{of}")).collect::<Vec<_>>(),
        "events": events_json(&tree.events),
        "events_left_out": tree.left_out,
        "children": tree.children.iter().map(|child| tree_json(prefix, child)).collect::<Vec<_>>(),
    })
}

fn refused_json(prefix: &str, refused: &Refused) -> Value {
    json!({
        "subject": format!("{prefix}{}", refused.subject),
        "state": NEVER_GRANTED,
        "events": events_json(&refused.events),
        "events_left_out": refused.left_out,
        "children": [],
    })
}

fn events_json(events: &[Event]) -> Vec<Value> {
    let event = |event: &Event| {
        json!({
            "what": event.what,
            "detail": event.detail,
            "at": clock::words(event.time),
            "entries": [event.first, event.last],
            "times": event.times,
        })
    };
    events.iter().map(event).collect()
}
