//! What `revoke`, `quarantine`, `contain` and `lift` have in common: the set is shown, then the command names that very set.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args as ClapArgs;
use serde_json::{Value, json};
use touchstone_authorization::command::{Command, CommandAction, TargetKind};
use touchstone_cose::key::SigningKey;
use zeroize::Zeroizing;

use crate::output::{CommandResult, Failure, Outcome, say};
use crate::{admin, clock, output};

/// For how long a signed command counts, in seconds: long enough to be sent.
const LIFE_S: u64 = 120;

/// How a command is given.
#[derive(ClapArgs)]
pub struct OrderArgs {
    /// The broker's data directory
    #[arg(long)]
    data: PathBuf,
    /// Why; goes into the ledger
    #[arg(long)]
    reason: String,
    /// Show what would be taken, with its digest, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do it only if the set is the one of this digest, as --dry-run showed it
    #[arg(long, value_name = "SHA256", conflicts_with = "dry_run")]
    set: Option<String>,
    /// Who commands, by operators.toml; needed where signed policy lists anybody
    #[arg(long, requires = "operator_key")]
    operator: Option<String>,
    /// The operator's private key: Ed25519, PKCS#8 PEM
    #[arg(long, requires = "operator")]
    operator_key: Option<PathBuf>,
    /// One JSON object: recorded (the entry of the ledger), epoch, entries, unread; with --dry-run action, target, id,
    /// entries, set, revision, nodes, nodes_in_all, unread, subjects
    #[arg(long)]
    json: bool,
}

/// Shows what a command would take, and commands it.
pub fn run(action: CommandAction, (target, id): (TargetKind, &str), args: &OrderArgs) -> CommandResult {
    let shown = preview(action, (target, id), args)?;
    if args.dry_run {
        show(&shown, args);
        return Ok(Outcome::Done);
    }
    let set = args.set.clone().map_or_else(|| text(&shown, "set"), Ok)?;
    let answer = match (&args.operator, &args.operator_key) {
        (Some(operator), Some(path)) => {
            let signed = signed((action, target, id), (operator, path), (&shown, &set), args)?;
            let answer = admin::post_bytes(&args.data, "/commands/signed", signed.into_bytes());
            answer.and_then(|answer| Ok(serde_json::from_slice(&answer)?))
        }
        _ => {
            let mut order = order(action, (target, id), args);
            if let Some(members) = order.as_object_mut() {
                members.insert("set".to_owned(), json!(set));
            }
            admin::post(&args.data, "/commands", &order)
        }
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) if failure.mentions("command-set-changed") => {
            show(&preview(action, (target, id), args)?, args);
            return Err(failure.hint("this is what it would take now: command it anew"));
        }
        Err(failure) => return Err(failure),
    };
    if args.json {
        output::json(&answer);
        return Ok(Outcome::Done);
    }
    let number = |key: &str| answer.get(key).map_or_else(|| "?".to_owned(), Value::to_string);
    let words = match action {
        CommandAction::Lift => "lifted; what was suspended comes back with fresh good evidence",
        CommandAction::Revoke => "revoked",
        _ => "suspended until it is lifted",
    };
    say!(
        "{} {id}: {} authorizations {words}; ledger entry {}",
        target.as_str(),
        number("entries"),
        number("recorded")
    );
    warn_of_unread(&answer);
    Ok(Outcome::Done)
}

fn order(action: CommandAction, (target, id): (TargetKind, &str), args: &OrderArgs) -> Value {
    json!({ "action": action.as_str(), "target": target.as_str(), "id": id, "reason": args.reason })
}

fn preview(action: CommandAction, target: (TargetKind, &str), args: &OrderArgs) -> Result<Value, Failure> {
    admin::post(&args.data, "/commands/preview", &order(action, target, args))
}

/// The command, signed over the set that was shown, as base64url.
fn signed(
    (action, target, id): (CommandAction, TargetKind, &str),
    (operator, path): (&str, &PathBuf),
    (shown, set): (&Value, &str),
    args: &OrderArgs,
) -> Result<String, Failure> {
    let pem =
        Zeroizing::new(std::fs::read_to_string(path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?);
    let key = SigningKey::from_pkcs8_pem(&pem).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
    let status: Value = serde_json::from_slice(&admin::get(&args.data, "/status")?)?;
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|e| Failure::new(format!("no randomness: {e}")))?;
    let now = u64::try_from(clock::now()).unwrap_or(0);
    let set = hex::decode(set).ok().and_then(|bytes| bytes.try_into().ok());
    let command = Command {
        domain: text(&status, "domain")?,
        operator: operator.to_owned(),
        id: random,
        not_after: now.saturating_add(LIFE_S),
        action,
        target,
        target_id: id.to_owned(),
        set: set.ok_or_else(|| Failure::new("--set: expected a SHA-256 in hexadecimal"))?,
        revision: shown.get("revision").and_then(Value::as_u64).unwrap_or(u64::MAX),
        reason: args.reason.clone(),
    };
    let bytes = command.encode_signed(&key).map_err(|e| Failure::new(e.to_string()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn text(value: &Value, key: &str) -> Result<String, Failure> {
    let text = value.get(key).and_then(Value::as_str).map(str::to_owned);
    text.ok_or_else(|| Failure::new(format!("the broker's answer has no {key}")))
}

fn show(shown: &Value, args: &OrderArgs) {
    if args.json {
        output::json(shown);
        return;
    }
    let number = |key: &str| shown.get(key).map_or_else(|| "?".to_owned(), Value::to_string);
    let words = |key: &str| shown.get(key).and_then(Value::as_str).unwrap_or("?").to_owned();
    say!(
        "{} {} {}: {} authorizations, of {} nodes",
        words("action"),
        words("target"),
        words("id"),
        number("entries"),
        number("nodes_in_all")
    );
    for subject in shown.get("subjects").and_then(Value::as_array).into_iter().flatten() {
        say!("  {}", subject.as_str().unwrap_or("?"));
    }
    warn_of_unread(shown);
    say!("set {}", words("set"));
}

/// Says where holders of a key may be left out.
fn warn_of_unread(answer: &Value) {
    if let Some(unread) = answer
        .get("unread")
        .and_then(Value::as_u64)
        .filter(|unread| *unread > 0)
    {
        say!("{unread} entries of the ledger cannot be read: who was given the key there is not taken");
    }
}

/// Of several ways to name what a command is about, the one that was given.
pub fn one<'a>(
    ways: impl IntoIterator<Item = (TargetKind, Option<&'a str>)>,
) -> Result<(TargetKind, &'a str), Failure> {
    let mut given = ways.into_iter().filter_map(|(kind, id)| Some((kind, id?)));
    match (given.next(), given.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(Failure::new("say exactly one thing that the command is about")),
    }
}
