//! A new repository: keys, the first root, and commented files and chip makers' roots to look at before the first
//! publish.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};
use touchstone_verifier::corim::TrustedSigner;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::Key;
use tough::schema::{RoleKeys, Root};

use crate::amd;
use crate::cedar::{DEFAULT_POLICY, DEFAULT_SCHEMA};
use crate::error::{PolicyCode, PolicyError};
use crate::intel;
use crate::keys::{KeyDir, KeyRole};
use crate::layout::{METADATA, TargetKind, is_name};
use crate::nvidia;
use crate::repository::{Repository, write_file};
use crate::settings::Settings;
use crate::signers_file::{self, Signers};
use crate::signing::{ROOT_LIFE, SPEC_VERSION, expires_at, sign_role};

/// What [`init`] made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Initialised {
    /// The domain.
    pub domain: String,
    /// Names of the keys made; those that were there are used as they are.
    pub keys_made: Vec<String>,
    /// SHA-256 of the root file, hexadecimal: what enforcers pin.
    pub root_digest: String,
    /// The files staged, to be read and edited before the first publish.
    pub staged: Vec<String>,
}

/// Makes a repository for `domain` with the keys of `keys_dir` (made where missing), and stages commented settings and
/// policies. Each TUF role is signed by any one of its keys. `now` is Unix seconds.
///
/// # Errors
/// [`PolicyError`]: `policy-already-initialised`, `policy-settings-name`, key and file errors.
pub fn init(repo: &Path, domain: &str, keys_dir: &Path, now: i64) -> Result<Initialised, PolicyError> {
    if !is_name(domain) {
        return Err(PolicyError::new(
            PolicyCode::SettingsName,
            "domain",
            "a-z, 0-9, dot and hyphen, at most 63",
            domain,
        ));
    }
    if repo.join(METADATA).exists() {
        return Err(PolicyError::new(
            PolicyCode::AlreadyInitialised,
            repo.display(),
            "a new folder",
            "a repository",
        ));
    }
    std::fs::create_dir_all(repo).map_err(|e| PolicyError::io(repo, "a folder to make", &e))?;
    let repository = Repository::lock(repo)?;
    let keys = KeyDir::new(keys_dir);
    let keys_made = keys.complete()?;
    let root = new_root(&keys, now)?;
    let signed = sign_role(root, &keys.keys(KeyRole::Root)?)?;
    let own: Vec<TrustedSigner> = keys
        .keys(KeyRole::Reference)?
        .iter()
        .map(|key| TrustedSigner {
            name: key.name.clone(),
            key: key.key.verifying_key(),
            not_after: None,
        })
        .collect();
    let staged = [
        (TargetKind::Settings, Settings::default_file(domain).into_bytes()),
        (TargetKind::Schema, DEFAULT_SCHEMA.into()),
        (TargetKind::GlobalPolicy, DEFAULT_POLICY.into()),
        (
            TargetKind::Signers,
            signers_file::to_json(&Signers {
                own,
                vendors: Vec::new(),
            }),
        ),
    ];
    let staged = staged
        .into_iter()
        .chain(
            amd::targets()
                .chain([nvidia::target()])
                .chain(intel::targets())
                .map(|(kind, der)| (kind, der.to_vec())),
        )
        .map(|(kind, bytes)| repository.stage(&kind, &bytes))
        .collect::<Result<_, _>>()?;
    // Last, and whole or not at all: a folder with a root is a repository.
    write_file(&repo.join(METADATA).join("1.root.json"), &signed)?;
    let root_digest = hex::encode(Sha256::digest(&signed));
    Ok(Initialised {
        domain: domain.into(),
        keys_made,
        root_digest,
        staged,
    })
}

/// The first root: every key of the folder for its role, each role signed by any one of them.
fn new_root(keys: &KeyDir, now: i64) -> Result<Root, PolicyError> {
    let mut root = Root {
        spec_version: SPEC_VERSION.into(),
        consistent_snapshot: true,
        version: NonZeroU64::MIN,
        expires: expires_at(now, ROOT_LIFE)?,
        keys: HashMap::new(),
        roles: HashMap::new(),
        _extra: HashMap::new(),
    };
    for (role, tuf_role) in KeyRole::ALL.into_iter().filter_map(|role| Some((role, role.tuf()?))) {
        root.roles.insert(tuf_role, role_keys(&mut root.keys, keys, role)?);
    }
    Ok(root)
}

type TufKeys = HashMap<Decoded<Hex>, Key>;

fn role_keys(known: &mut TufKeys, keys: &KeyDir, role: KeyRole) -> Result<RoleKeys, PolicyError> {
    let mut keyids = Vec::new();
    for key in keys.keys(role)? {
        let tuf_key = key.tuf_key();
        let id = tuf_key.key_id();
        let id = id.map_err(|e| PolicyError::new(PolicyCode::KeyFileInvalid, &key.name, "a TUF key", e))?;
        keyids.push(id.clone());
        known.insert(id, tuf_key);
    }
    Ok(RoleKeys {
        keyids,
        threshold: NonZeroU64::MIN,
        _extra: HashMap::new(),
    })
}
