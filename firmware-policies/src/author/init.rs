//! A new repository: keys, the first root, and commented files and chip makers' roots to look at before the first
//! publish.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};
use touchstone_verifier::corim::TrustedSigner;

use crate::author::makers::amd;
use crate::author::makers::intel;
use crate::author::makers::nvidia;
use crate::cedar::{DEFAULT_POLICY, DEFAULT_SCHEMA};
use crate::ceremony::signing::{ROOT_LIFE, expires_at, signed_by};
use crate::ceremony::{RoleSigners, build_root};
use crate::error::{PolicyCode, PolicyError};
use crate::keys::{KeyDir, KeyRole};
use crate::layout::{METADATA, TargetKind, is_name};
use crate::repository::{Repository, write_file};
use crate::settings::Settings;
use crate::targets::signers_file::{self, Signers};

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

/// What a new repository begins with.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// Name of the trust domain.
    pub domain: String,
    /// How many keys of root and of targets must sign. Snapshot and timestamp, which are signed where versions are
    /// published, have a threshold of one.
    pub threshold: u64,
    /// How many keys root and targets have; those that are not in the folder are made.
    pub signers: usize,
    /// Files staged in place of, or besides, the defaults.
    pub files: BTreeMap<TargetKind, Vec<u8>>,
}

impl InitOptions {
    /// One key a role, and any one of them signs: for a start.
    pub fn new(domain: impl Into<String>) -> Self {
        Self {
            domain: domain.into(),
            threshold: 1,
            signers: 1,
            files: BTreeMap::new(),
        }
    }
}

/// Makes a repository for `domain` with the keys of `keys_dir` (made where missing), and stages commented settings and
/// policies. Each TUF role is signed by any one of its keys. `now` is Unix seconds.
///
/// # Errors
/// [`PolicyError`]: `policy-already-initialised`, `policy-settings-name`, key and file errors.
pub fn init(repo: &Path, domain: &str, keys_dir: &Path, now: i64) -> Result<Initialised, PolicyError> {
    init_with(repo, &KeyDir::new(keys_dir), &InitOptions::new(domain), now)
}

/// [`init`] with a threshold of signatures. Keys that are only there as `<role>-<n>.pub` are listed too: their private
/// halves are somewhere else.
///
/// # Errors
/// As [`init`]; `policy-root-change` for a threshold that the keys cannot meet, `policy-threshold-not-met` where too few
/// private root keys are in the folder to sign the first root.
pub fn init_with(repo: &Path, keys: &KeyDir, options: &InitOptions, now: i64) -> Result<Initialised, PolicyError> {
    let domain = options.domain.as_str();
    if !is_name(domain) {
        return Err(PolicyError::new(
            PolicyCode::SettingsName,
            "domain",
            "a-z, 0-9, dot and hyphen, at most 63",
            domain,
        ));
    }
    if options.threshold == 0 || options.threshold > options.signers as u64 {
        let expected = format!("a threshold of 1 to {}, the number of signers", options.signers);
        return Err(PolicyError::new(
            PolicyCode::RootChange,
            "threshold",
            expected,
            options.threshold,
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
    let wanted = KeyRole::DOMAIN.map(|role| {
        let count = if role.is_offline() { options.signers } else { 1 };
        (role, count)
    });
    let keys_made = keys.complete(&wanted)?;
    let root = new_root(keys, options.threshold, now)?;
    let own: Vec<TrustedSigner> = keys
        .keys(&KeyRole::Reference)?
        .iter()
        .map(|key| TrustedSigner {
            name: key.name.clone(),
            key: key.verifying_key().clone(),
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
        .collect::<BTreeMap<_, _>>();
    let mut staged: BTreeMap<TargetKind, Vec<u8>> = staged;
    staged.extend(options.files.clone());
    let staged = staged
        .iter()
        .map(|(kind, bytes)| repository.stage(kind, bytes))
        .collect::<Result<_, _>>()?;
    // Last, and whole or not at all: a folder with a root is a repository.
    write_file(&repo.join(METADATA).join("1.root.json"), &root)?;
    let root_digest = hex::encode(Sha256::digest(&root));
    Ok(Initialised {
        domain: domain.into(),
        keys_made,
        root_digest,
        staged,
    })
}

/// The first root, signed: every key of the folder for its role.
fn new_root(keys: &KeyDir, threshold: u64, now: i64) -> Result<Vec<u8>, PolicyError> {
    let mut roles = BTreeMap::new();
    for role in KeyRole::DOMAIN.into_iter().filter(|role| role.tuf().is_some()) {
        let threshold = if role.is_offline() { threshold } else { 1 };
        let publics = keys.public_keys(&role)?.into_iter().map(|(_, key)| key);
        roles.insert(role.clone(), RoleSigners::new(&role.to_string(), threshold, publics)?);
    }
    let root = build_root(NonZeroU64::MIN, expires_at(now, ROOT_LIFE)?, &roles)?;
    let signers = roles.get(&KeyRole::Root);
    let signers = signers.ok_or_else(|| PolicyError::new(PolicyCode::KeyMissing, "root", "a key", "none"))?;
    signed_by(root, signers, keys, &KeyRole::Root)
}
