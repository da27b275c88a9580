//! `touchstone key`: secrets that open only inside what was attested.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use serde_json::Value;
use touchstone_keybroker::release::MAX_SECRET_BYTES;

use crate::output::{CommandResult, Failure, Outcome, say};
use crate::{admin, output};

/// Keep secrets for attested nodes; fetch one on a node.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    touchstone key put db/main --data /var/lib/touchstone-broker --generate 32 --region north\n  \
    touchstone key rotate db/main --data /var/lib/touchstone-broker\n  \
    touchstone key list --data /var/lib/touchstone-broker\n  \
    touchstone key get db/main --socket /run/touchstone/agent.sock --out /run/db.key\n\n\
    A key that was released cannot be called back: `touchstone revoke` stops its holder, `key rotate` protects the data.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put a new key at the broker; recorded in the ledger, without anything of the secret
    Put {
        /// The key's name, such as db/main
        name: String,
        #[command(flatten)]
        broker: BrokerArgs,
        #[command(flatten)]
        secret: SecretArgs,
        /// What the authorization must name: release:RESOURCE
        #[arg(long, default_value = "keys")]
        resource: String,
        /// Release it only to nodes that the signed inventory places in this region (repeatable)
        #[arg(long = "region")]
        regions: Vec<String>,
        /// Release no version of it later than this many seconds after that version was made
        #[arg(long)]
        life: Option<u64>,
        /// Release each version once only
        #[arg(long)]
        one_time: bool,
    },
    /// Every key: settings and versions, never secrets
    List {
        #[command(flatten)]
        broker: BrokerArgs,
    },
    /// Add a version: random and as long as the one before, or what --file or --generate says. Older versions stay
    Rotate {
        /// The key's name
        name: String,
        #[command(flatten)]
        broker: BrokerArgs,
        #[command(flatten)]
        secret: SecretArgs,
    },
    /// Fetch a key on a node, through its agent; the secret goes to a new file of mode 0600, or to standard output
    Get {
        /// The key's name
        name: String,
        /// The agent's socket
        #[arg(long)]
        socket: PathBuf,
        /// What the key was put under: release:RESOURCE
        #[arg(long, default_value = "keys")]
        resource: String,
        /// This version; without it the newest
        #[arg(long)]
        version: Option<u64>,
        /// Write the secret to this new file (mode 0600); without it to standard output
        #[arg(long)]
        out: Option<PathBuf>,
        /// One JSON object: released, name, version, ends, statement, file, and secret (base64) only where there is
        /// no --out; error where nothing was released
        #[arg(long)]
        json: bool,
    },
}

#[derive(ClapArgs)]
struct BrokerArgs {
    /// The broker's data directory
    #[arg(long)]
    data: PathBuf,
    /// One JSON object: put and rotate {name, version, recorded}, list {keys}
    #[arg(long)]
    json: bool,
}

#[derive(ClapArgs)]
#[group(multiple = false)]
struct SecretArgs {
    /// The secret, as it is in this file; - for standard input
    #[arg(long)]
    file: Option<PathBuf>,
    /// This many random bytes, drawn by the broker, so that they are nowhere else
    #[arg(long)]
    generate: Option<usize>,
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    match args.command {
        Command::Put {
            name,
            broker,
            secret,
            resource,
            regions,
            life,
            one_time,
        } => {
            let mut query = vec![
                format!("name={}", plain(&name)?),
                format!("resource={}", plain(&resource)?),
            ];
            for region in &regions {
                query.push(format!("region={}", plain(region)?));
            }
            query.extend(life.map(|life| format!("life={life}")));
            query.extend(one_time.then(|| "one_time=true".to_owned()));
            let body = secret
                .body(&mut query)?
                .ok_or_else(|| Failure::new("no secret was given").hint("--file FILE, or better --generate 32"))?;
            tell(&post(&broker, "/keys", &query, body)?, &broker, "put")
        }
        Command::Rotate { name, broker, secret } => {
            let mut query = vec![format!("name={}", plain(&name)?)];
            let body = secret.body(&mut query)?.unwrap_or_default();
            tell(&post(&broker, "/keys/rotate", &query, body)?, &broker, "rotated")
        }
        Command::List { broker } => {
            let listed: Value = serde_json::from_slice(&admin::get(&broker.data, "/keys")?)?;
            if broker.json {
                output::json(&listed);
            } else {
                list(&listed);
            }
            Ok(Outcome::Done)
        }
        Command::Get {
            name,
            socket,
            resource,
            version,
            out,
            json,
        } => get::run(&socket, &name, &resource, version, out.as_deref(), json),
    }
}

impl SecretArgs {
    /// The secret to send, or a word in the query; nothing where neither was given.
    fn body(&self, query: &mut Vec<String>) -> Result<Option<Vec<u8>>, Failure> {
        if let Some(length) = self.generate {
            query.push(format!("generate={length}"));
            return Ok(Some(Vec::new()));
        }
        let Some(path) = &self.file else { return Ok(None) };
        let secret = if path == Path::new("-") {
            let mut secret = Vec::new();
            std::io::stdin()
                .take(MAX_SECRET_BYTES as u64 + 1)
                .read_to_end(&mut secret)?;
            secret
        } else {
            output::read_at_most(path, MAX_SECRET_BYTES)?
        };
        match secret.len() {
            0 => Err(Failure::new("the secret is empty")),
            1..=MAX_SECRET_BYTES => Ok(Some(secret)),
            _ => Err(Failure::new(format!("a secret has at most {MAX_SECRET_BYTES} bytes"))),
        }
    }
}

/// A word that needs no encoding in a query. What else a name may not hold the broker says.
fn plain(word: &str) -> Result<&str, Failure> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/' | b'-');
    if !word.is_empty() && word.bytes().all(good) {
        Ok(word)
    } else {
        Err(Failure::new(format!("{:?} is not a name", word)).hint("a-z, 0-9, and . _ / - between them"))
    }
}

fn post(broker: &BrokerArgs, path: &str, query: &[String], body: Vec<u8>) -> Result<Value, Failure> {
    let answer = admin::post_bytes(&broker.data, &format!("{path}?{}", query.join("&")), body)?;
    Ok(serde_json::from_slice(&answer)?)
}

fn tell(answer: &Value, broker: &BrokerArgs, what: &str) -> CommandResult {
    if broker.json {
        output::json(answer);
    } else {
        let field = |key: &str| answer.get(key).map_or_else(|| "?".to_owned(), ToString::to_string);
        say!(
            "{what}: {} version {}; ledger entry {}",
            field("name"),
            field("version"),
            field("recorded")
        );
    }
    Ok(Outcome::Done)
}

fn list(listed: &Value) {
    let keys = listed.get("keys").and_then(Value::as_array);
    for key in keys.into_iter().flatten() {
        if let Some(error) = key.get("unreadable").and_then(Value::as_str) {
            say!("unreadable: {error}");
            continue;
        }
        let text = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or("?");
        let regions: Vec<&str> = key
            .get("regions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let versions = key.get("versions").and_then(Value::as_array);
        let of = |version: &Value, name: &str| version.get(name).cloned().unwrap_or_default();
        let newest = versions
            .and_then(|versions| versions.last())
            .cloned()
            .unwrap_or_default();
        let place = if regions.is_empty() {
            "any region".to_owned()
        } else {
            regions.join(", ")
        };
        let life = key
            .get("life")
            .and_then(Value::as_u64)
            .map(|life| format!(", {life} s a version"));
        let once = key.get("one_time").and_then(Value::as_bool).unwrap_or(false);
        let state = match (once, of(&newest, "spent") == Value::Bool(true)) {
            (_, true) => ", one-time, spent",
            (true, false) => ", one-time",
            (false, false) => "",
        };
        say!(
            "{}  release:{}  version {} ({} kept)  {place}{}{state}",
            text("name"),
            text("resource"),
            of(&newest, "version"),
            versions.map_or(0, Vec::len),
            life.unwrap_or_default(),
        );
    }
}

#[cfg(not(feature = "tpm"))]
mod get {
    use super::*;

    pub(super) fn run(_: &Path, _: &str, _: &str, _: Option<u64>, _: Option<&Path>, _: bool) -> CommandResult {
        Err(Failure::new("this build has no agent").hint("build with the default features"))
    }
}

#[cfg(feature = "tpm")]
mod get {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use std::fs::File;
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    use touchstone_attest::agent::socket::{Request, Response, ask};
    use zeroize::Zeroizing;

    use super::*;
    use crate::runtime;

    pub(super) fn run(
        socket: &Path,
        name: &str,
        resource: &str,
        version: Option<u64>,
        out: Option<&Path>,
        json: bool,
    ) -> CommandResult {
        // Before it is asked for: a one-time key that has nowhere to go would be spent and lost.
        let mut file = out.map(create).transpose()?;
        let done = fetch(socket, name, resource, version, (out, file.as_mut()), json);
        if let (Some(path), false) = (out, matches!(done, Ok(Outcome::Done))) {
            // Ours, made a moment ago, and without a whole key in it.
            let _ = std::fs::remove_file(path);
        }
        done
    }

    fn fetch(
        socket: &Path,
        name: &str,
        resource: &str,
        version: Option<u64>,
        (out, file): (Option<&Path>, Option<&mut File>),
        json: bool,
    ) -> CommandResult {
        let request = Request::Key {
            key: name.to_owned(),
            version,
            resource: resource.to_owned(),
        };
        let answer = runtime::block_on(ask(socket, &request))?.map_err(|error| {
            Failure::new(format!("{}: {error}", socket.display()))
                .hint("is `touchstone agent run` running with this socket, and are you its user?")
        })?;
        let (key, version, ends, statement, secret) = match answer {
            Response::Key {
                key,
                version,
                ends,
                statement,
                secret,
            } => (key, version, ends, statement, secret),
            Response::Error { error } => {
                if json {
                    output::json(&serde_json::json!({ "released": false, "error": error }));
                } else {
                    output::complain!("not released: {error}");
                }
                return Ok(Outcome::Refused);
            }
            _ => return Err(Failure::new("the agent gave no key")),
        };
        let bytes = Zeroizing::new(STANDARD.decode(secret.0.as_bytes())?);
        if let (Some(path), Some(file)) = (out, file) {
            file.write_all(&bytes)
                .and_then(|()| file.sync_all())
                .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        }
        match (json, out) {
            (true, _) => output::json(&serde_json::json!({
                "released": true,
                "name": key,
                "version": version,
                "ends": ends,
                "statement": statement,
                "secret": out.is_none().then_some(secret.0.as_str()),
                "file": out,
            })),
            (false, Some(path)) => say!(
                "{key} version {version} is in {}; statement {statement}",
                path.display()
            ),
            // Nothing but the secret: it goes into a pipe.
            (false, None) => std::io::stdout().lock().write_all(&bytes)?,
        }
        Ok(Outcome::Done)
    }

    /// A new file that only its owner may read. What is there already stays as it is.
    fn create(path: &Path) -> Result<File, Failure> {
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// What is in the way is found before anybody is asked, and stays; what was made for nothing goes.
        #[test]
        fn a_key_without_a_place_is_not_asked_for() {
            let folder = tempfile::tempdir().unwrap();
            let (socket, out) = (folder.path().join("agent.sock"), folder.path().join("out"));
            let agent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            agent.set_nonblocking(true).unwrap();
            std::fs::write(&out, "a key of yesterday").unwrap();
            assert!(run(&socket, "once", "keys", None, Some(&out), false).is_err());
            assert!(agent.accept().is_err(), "nobody was asked");
            assert_eq!(std::fs::read_to_string(&out).unwrap(), "a key of yesterday");

            drop(agent);
            std::fs::remove_file(&socket).unwrap();
            std::fs::remove_file(&out).unwrap();
            assert!(run(&socket, "once", "keys", None, Some(&out), false).is_err());
            assert!(!out.exists());
        }
    }
}
