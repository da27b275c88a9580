//! What a runtime says of the container it is creating, and what the bundle says, read so that neither can lie to the other.
//!
//! The state comes on the hook's standard input (OCI runtime specification 1.0.2, "State"; the runtime writes it, and puts
//! the bundle's annotations into it); the bundle's `config.json` is whoever's made the container. Both must name the same
//! right. Anything that could be read in two ways is refused: a key twice, a path over a symbolic link, a file that others
//! may change.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use serde_json::Value;
use touchstone_authorization::{Action, Scope};

use super::json;
use super::reason::{ContainerCode, ContainerRefused};

/// The largest state that is read, in bytes.
pub const MAX_STATE: usize = 1 << 20;
/// The largest `config.json` that is read, in bytes.
pub const MAX_CONFIG: usize = 4 << 20;
/// The longest id of a container, in bytes.
pub const MAX_ID: usize = 128;

/// The annotation that names the action.
pub const ACTION: &str = "touchstone.action";
/// The annotation that names the resource.
pub const RESOURCE: &str = "touchstone.resource";

/// A container that is being created, and the right it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: String,
    /// Its first process, as this process's PID namespace numbers it.
    pub pid: u32,
    /// The right.
    pub scope: Scope,
}

/// Judges a container by its state, and by the bundle that it names.
///
/// # Errors
/// [`ContainerRefused`]; then it must not start.
pub fn created(state: &[u8]) -> Result<Created, ContainerRefused> {
    if state.len() > MAX_STATE {
        let found = format!("more than {MAX_STATE} bytes");
        return Err(ContainerRefused::new(ContainerCode::StateTooLarge, found));
    }
    let malformed = |found: &str| ContainerRefused::new(ContainerCode::StateMalformed, found);
    let state = json::parse(state).map_err(|error| malformed(&error))?;
    let text = |name: &str| state.get(name).and_then(Value::as_str);
    let id = text("id").ok_or_else(|| malformed("no id"))?;
    if !is_id(id) {
        return Err(ContainerRefused::new(ContainerCode::IdInvalid, id));
    }
    // Created already, it could have run before anybody was asked.
    if text("status") != Some("creating") {
        return Err(malformed("the container is not being created"));
    }
    let pid = state
        .get("pid")
        .and_then(Value::as_u64)
        .and_then(|pid| u32::try_from(pid).ok());
    let pid = pid
        .filter(|pid| (2..=i32::MAX.unsigned_abs()).contains(pid))
        .ok_or_else(|| malformed("no pid"))?;
    let scope = right(&state)?;
    let bundle = text("bundle").ok_or_else(|| malformed("no bundle"))?;
    let config = config(Path::new(bundle))?;
    let named = right(&config)?;
    if named != scope {
        let found = format!("{named} in config.json, {scope} in the state");
        return Err(ContainerRefused::new(ContainerCode::BundleDiffers, found));
    }
    Ok(Created {
        id: id.to_owned(),
        pid,
        scope,
    })
}

/// Whether this is an id: what runtimes take (runc: word characters, `+`, `-`, `.`), and no path.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len())
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'+' | b'-'))
        && !text.contains("..")
}

/// The right that the annotations name.
fn right(value: &Value) -> Result<Scope, ContainerRefused> {
    let annotation = |name: &str| match value.get("annotations").and_then(|all| all.get(name)) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(ContainerRefused::new(
            ContainerCode::RightMalformed,
            format!("{name} is no text"),
        )),
        None => Err(ContainerRefused::new(
            ContainerCode::RightMissing,
            format!("no annotation {name}"),
        )),
    };
    let (action, resource) = (annotation(ACTION)?, annotation(RESOURCE)?);
    let scope = Action::parse(action).and_then(|action| Scope::new(action, resource).ok());
    scope.ok_or_else(|| ContainerRefused::new(ContainerCode::RightMalformed, format!("{action}:{resource}")))
}

fn config(bundle: &Path) -> Result<Value, ContainerRefused> {
    let refuse = |code, found: &dyn std::fmt::Display| ContainerRefused::new(code, found);
    let bytes = bundle.as_os_str().as_encoded_bytes();
    let plain = bundle
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && !bytes
            .split(|byte| *byte == b'/')
            .any(|part| part == b"." || part == b"..");
    if !bundle.is_absolute() || !plain || bytes.contains(&0) {
        return Err(refuse(ContainerCode::BundlePath, &bundle.display()));
    }
    let path: PathBuf = bundle.join("config.json");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = openat2(
        CWD,
        &path,
        flags,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    );
    let file = File::from(file.map_err(|error| match error {
        rustix::io::Errno::LOOP => refuse(ContainerCode::BundlePath, &"a symbolic link on the way"),
        other => refuse(ContainerCode::BundleUnreadable, &std::io::Error::from(other).kind()),
    })?);
    let unreadable = |error: std::io::Error| refuse(ContainerCode::BundleUnreadable, &error.kind());
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(refuse(ContainerCode::BundleUnreadable, &"not a file"));
    }
    let owner = metadata.uid();
    if metadata.mode() & 0o022 != 0 || (owner != 0 && owner != rustix::process::geteuid().as_raw()) {
        let found = format!("mode {:o}, owner {owner}", metadata.mode() & 0o7777);
        return Err(refuse(ContainerCode::BundleOpen, &found));
    }
    let mut text = Vec::new();
    let limit = u64::try_from(MAX_CONFIG).unwrap_or(u64::MAX);
    file.take(limit + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() > MAX_CONFIG {
        return Err(refuse(
            ContainerCode::BundleTooLarge,
            &format!("more than {MAX_CONFIG} bytes"),
        ));
    }
    json::parse(&text).map_err(|error| refuse(ContainerCode::BundleMalformed, &error))
}

#[cfg(test)]
mod tests;
