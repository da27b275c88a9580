//! Staging of [federation files](crate::federation_file).

use std::path::Path;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use toml_edit::{Array, DocumentMut, Item, Table, value};

use crate::error::{PolicyCode, PolicyError};
use crate::layout::{Files, TargetKind};
use crate::repository::Repository;
use crate::settings::Settings;
use crate::targets::federation_file::{FederatedDomain, Federation};

/// What a domain is to be trusted with; see the file's form in [`federation_file`](crate::federation_file).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trust {
    /// Its name.
    pub domain: String,
    /// Its root metadata, brought here by other means than its repository.
    pub root: Option<Vec<u8>>,
    /// The domains over which it is trusted, in the place of a root.
    pub path: Vec<String>,
    /// How many domains beyond it may be trusted over it.
    pub depth: usize,
    /// Where its policy repository is.
    pub policy: Vec<String>,
    /// Its brokers.
    pub brokers: Vec<String>,
    /// Whether our state is sent there.
    pub push: bool,
    /// Scopes our nodes' authorizations may be issued for there.
    pub issue: Vec<String>,
    /// What its authorizations may do here.
    pub accept: Option<Accepted>,
}

/// What its authorizations may do here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accepted {
    /// The prefix.
    pub resources: String,
    /// The scopes.
    pub scopes: Vec<String>,
    /// `tpm`, `tee`, `software`; empty for the default.
    pub key_kinds: Vec<String>,
    /// Seconds.
    pub max_state_age: Option<u64>,
}

/// What was staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trusted {
    /// The domain.
    pub domain: String,
    /// SHA-256 of its root, where it is trusted directly.
    pub root: Option<String>,
    /// The files staged.
    pub staged: Vec<String>,
    /// Whether it was federated with before: this is what takes the place of that.
    pub replaced: bool,
}

impl Trust {
    /// The file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let list = |texts: &[String]| value(texts.iter().map(String::as_str).collect::<Array>());
        let mut file = DocumentMut::new();
        file.insert("domain", value(self.domain.as_str()));
        if let Some(root) = &self.root {
            file.insert("root", value(hex::encode(Sha256::digest(root))));
        }
        for (member, texts) in [
            ("path", &self.path),
            ("policy", &self.policy),
            ("brokers", &self.brokers),
            ("issue", &self.issue),
        ] {
            if !texts.is_empty() {
                file.insert(member, list(texts));
            }
        }
        if self.depth > 0 {
            file.insert("depth", value(i64::try_from(self.depth).unwrap_or(i64::MAX)));
        }
        if self.push {
            file.insert("push", value(true));
        }
        if let Some(accept) = &self.accept {
            let mut table = Table::new();
            table.insert("resources", value(accept.resources.as_str()));
            table.insert("scopes", list(&accept.scopes));
            if !accept.key_kinds.is_empty() {
                table.insert("key_kinds", list(&accept.key_kinds));
            }
            if let Some(age) = accept.max_state_age {
                table.insert("max_state_age", value(i64::try_from(age).unwrap_or(i64::MAX)));
            }
            file.insert("accept", Item::Table(table));
        }
        file.to_string()
    }
}

/// Stages what another domain is trusted with, in the place of what was said of it before. A root that was rotated while
/// nobody looked is taken over this way too.
///
/// # Errors
/// [`PolicyError`] naming every problem, also those the next publish would find in the other domains; then nothing is
/// staged.
pub fn federation_trust(repo: &Path, trust: &Trust) -> Result<Trusted, PolicyError> {
    let repository = Repository::open(repo)?;
    let kind = TargetKind::Federation(trust.domain.clone());
    let root_kind = TargetKind::FederationRoot(trust.domain.clone());
    let file = trust.to_toml().into_bytes();
    FederatedDomain::parse(&trust.domain, &file, trust.root.as_deref())?;
    let mut next = repository.next()?;
    let replaced = next.insert(kind.clone(), file.clone()).is_some();
    let had_root = next.remove(&root_kind).is_some();
    if let Some(root) = &trust.root {
        next.insert(root_kind.clone(), root.clone());
    }
    Federation::read(&next, &own_name(&next)?)?;
    let mut staged = vec![repository.stage(&kind, &file)?];
    match &trust.root {
        Some(root) => staged.push(repository.stage(&root_kind, root)?),
        // An empty staged file withdraws its target.
        None if had_root => staged.push(repository.stage(&root_kind, &[])?),
        None => {}
    }
    Ok(Trusted {
        domain: trust.domain.clone(),
        root: trust.root.as_ref().map(|root| hex::encode(Sha256::digest(root))),
        staged,
        replaced,
    })
}

/// What the next publish would federate with.
///
/// # Errors
/// [`PolicyError`]
pub fn federation_list(repo: &Path) -> Result<Federation, PolicyError> {
    let next = Repository::open(repo)?.next()?;
    Federation::read(&next, &own_name(&next)?)
}

/// Stages the end of federation with a domain: its authorizations count here no more from the next publish on.
///
/// # Errors
/// [`PolicyError`]: `policy-target-missing` where it is not federated with, `policy-federation-path` while another domain
/// is trusted over it.
pub fn federation_drop(repo: &Path, domain: &str) -> Result<(), PolicyError> {
    let repository = Repository::open(repo)?;
    let mut next = repository.next()?;
    let kinds = [
        TargetKind::Federation(domain.to_owned()),
        TargetKind::FederationRoot(domain.to_owned()),
    ];
    let held: Vec<&TargetKind> = kinds.iter().filter(|kind| next.contains_key(kind)).collect();
    if held.is_empty() {
        let expected = "a domain that is federated with";
        return Err(PolicyError::new(PolicyCode::TargetMissing, domain, expected, "none"));
    }
    let held: Vec<TargetKind> = held.into_iter().cloned().collect();
    for kind in &held {
        next.remove(kind);
    }
    Federation::read(&next, &own_name(&next)?)?;
    for kind in &held {
        repository.stage(kind, &[])?;
    }
    Ok(())
}

fn own_name(next: &Files) -> Result<String, PolicyError> {
    let settings = next.get(&TargetKind::Settings).map(Vec::as_slice).unwrap_or_default();
    Settings::parse(settings).map(|settings| settings.domain)
}
