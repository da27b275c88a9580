//! What a repository holds, for people and scripts: the published version, whether it would load now, what is staged.

use std::path::Path;

use serde::Serialize;
use touchstone_verifier::corim::UntrustedCorim;
use tough::schema::{RoleType, Root};

use crate::error::PolicyError;
use crate::layout::Files;
use crate::layout::TargetKind;
use crate::load::contents::Contents;
use crate::load::{LoadOptions, load_blocking};
use crate::repository::{first_root, published, staged};
use crate::settings::ImaSettings;
use crate::targets::inventory_file::NodeFile;
use crate::tuf::delegation::role_name;
use crate::tuf::expiry::{self, time};

/// What [`show`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Show {
    /// The published version, expired or not; none before the first publish.
    pub published: Option<PublishedShow>,
    /// Why the published version would not load now; empty if it would.
    pub problems: Vec<ProblemShow>,
    /// Keys and thresholds of the root's roles, and of the regions that sign for themselves.
    pub roles: Vec<RoleShow>,
    /// What the next publish would add or change.
    pub staged: Vec<StagedShow>,
}

/// The published version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishedShow {
    /// The domain.
    pub domain: String,
    /// The policy version.
    pub version: u64,
    /// SHA-256 of everything that is in force, hexadecimal.
    pub digest: String,
    /// SHA-256 of what the whole has signed, hexadecimal.
    pub global_digest: String,
    /// SHA-256 of the first root, hexadecimal.
    pub root_digest: String,
    /// Role, version and end (RFC 3339) of each role.
    pub expires: Vec<(String, u64, String)>,
    /// Nodes: name, region, zone.
    pub nodes: Vec<(String, String, Option<String>)>,
    /// References: name, signer, last second of validity (RFC 3339) where it has one.
    pub references: Vec<(String, String, Option<String>)>,
    /// Trust anchors, by target name.
    pub anchors: Vec<String>,
    /// Regions that have a policy.
    pub regions: Vec<String>,
    /// Version of the keyset; 0 where there is none.
    pub keyset_version: u64,
    /// What affirmed nodes are granted.
    pub scopes: Vec<String>,
    /// The registers that are required: `sha256:0,2,4`.
    pub required_registers: String,
    /// How lists of measured files are judged.
    pub ima: ImaSettings,
    /// Keys whose signatures on files count, by target name.
    pub ima_keys: Vec<String>,
}

/// Why the published version would not load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProblemShow {
    /// The stable code.
    pub code: &'static str,
    /// What it is about.
    pub claim: String,
    /// The rule.
    pub expected: String,
    /// What was found.
    pub found: String,
}

/// One role of the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RoleShow {
    /// Its name.
    pub role: String,
    /// How many of its keys must sign.
    pub threshold: u64,
    /// Its key ids, hexadecimal.
    pub keys: Vec<String>,
}

/// A staged file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StagedShow {
    /// The target's name.
    pub target: String,
    /// How it differs from what is published.
    pub change: Change,
}

/// How a staged file differs from what is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Nothing of this name is published.
    New,
    /// Something else is published.
    Changed,
    /// The same is published, or what is withdrawn is not.
    Published,
    /// It is published and will be withdrawn.
    Withdrawn,
    /// The same is published in another authority's list.
    Moved,
}

/// Shows the repository at `now`, Unix seconds. Also shows one that has expired; one whose signatures or digests are
/// wrong only as its problems.
///
/// # Errors
/// [`PolicyError`] where the folder is no repository, or cannot be read.
pub fn show(repo: &Path, now: i64) -> Result<Show, PolicyError> {
    show_with(repo, LoadOptions::default(), now)
}

/// [`show`], with what the repository is held against.
///
/// # Errors
/// As [`show`].
pub fn show_with(repo: &Path, options: LoadOptions, now: i64) -> Result<Show, PolicyError> {
    let root = first_root(repo)?;
    let problems = match load_blocking(repo, options, now) {
        Ok(_) => Vec::new(),
        Err(e) => e.reasons().into_iter().map(problem).collect(),
    };
    let staged = staged(repo)?;
    // Its problems are listed already.
    let published = published(repo).ok().flatten();
    let none = Files::new();
    let files = published.as_ref().map_or(&none, |p| &p.files);
    let staged = staged.iter().map(|(kind, bytes)| StagedShow {
        target: kind.name(),
        change: change(files, kind, bytes),
    });
    let mut roles = published
        .as_ref()
        .map_or_else(|| roles(&root.signed), |p| roles(&p.opened.repository.root().signed));
    let regions = published.iter().flat_map(|p| &p.opened.regions);
    roles.extend(regions.map(|(region, signed)| RoleShow {
        role: role_name(region),
        threshold: signed.threshold,
        keys: signed.keys.clone(),
    }));
    Ok(Show {
        problems,
        roles,
        staged: staged.collect(),
        published: published.as_ref().and_then(|p| published_show(p, now)),
    })
}

fn problem((code, claim, expected, found): (&'static str, String, String, String)) -> ProblemShow {
    ProblemShow {
        code,
        claim,
        expected,
        found,
    }
}

fn published_show(published: &crate::repository::Published, now: i64) -> Option<PublishedShow> {
    let contents = Contents::read(&published.files, now).ok()?;
    let opened = &published.opened;
    let end = |role: &str, version: u64, expires: i64| (role.to_owned(), version, time(expires));
    let whole = expiry::ends(&opened.repository);
    let mut expires: Vec<_> = whole.iter().map(|e| end(&e.role, e.version, e.expires)).collect();
    expires.extend(
        opened
            .regions
            .iter()
            .map(|(region, signed)| end(&role_name(region), signed.version, signed.expires)),
    );
    let nodes = contents
        .inventory
        .nodes()
        .iter()
        .map(|n| (n.name.clone(), n.region.clone(), n.zone.clone()));
    let references = contents.references.references().iter().map(|r| {
        let end = (r.not_after != i64::MAX).then(|| time(r.not_after));
        (r.values.name.clone(), r.authority.clone(), end)
    });
    let anchors = published.files.keys().filter(|k| matches!(k, TargetKind::Anchor(..)));
    let ima_keys = published.files.keys().filter(|k| matches!(k, TargetKind::ImaKey(_)));
    Some(PublishedShow {
        domain: contents.settings.domain.clone(),
        version: opened.versions.snapshot,
        digest: hex::encode(opened.digest),
        global_digest: hex::encode(opened.targets_digest),
        root_digest: hex::encode(opened.root_digest),
        expires,
        nodes: nodes.collect(),
        references: references.collect(),
        anchors: anchors.map(TargetKind::name).collect(),
        regions: contents.cedar.regions().map(str::to_owned).collect(),
        keyset_version: contents.keyset.version,
        scopes: contents.settings.scopes.iter().map(ToString::to_string).collect(),
        required_registers: contents.settings.appraisal.required_registers.to_string(),
        ima: contents.settings.ima.clone(),
        ima_keys: ima_keys.map(TargetKind::name).collect(),
    })
}

/// A staged reference is unsigned: it is the same as a published one if that one's payload holds exactly it.
fn change(published: &Files, kind: &TargetKind, bytes: &[u8]) -> Change {
    let Some(other) = published.get(kind) else {
        return if bytes.is_empty() {
            Change::Published
        } else {
            Change::New
        };
    };
    if bytes.is_empty() {
        return Change::Withdrawn;
    }
    let same = match kind {
        TargetKind::Reference(_) => other == bytes || is_signed_form_of(other, bytes),
        TargetKind::Node(name) => {
            let parse = |bytes| NodeFile::parse(name, name, bytes).ok();
            parse(other).zip(parse(bytes)).is_some_and(|(a, b)| a == b)
        }
        _ => other == bytes,
    };
    if same { Change::Published } else { Change::Changed }
}

/// For display only: the signed file holds its payload as it was staged.
fn is_signed_form_of(signed: &[u8], unsigned: &[u8]) -> bool {
    let unsigned_form = matches!(
        UntrustedCorim::new(unsigned).verify(&[], 0),
        Err(touchstone_verifier::corim::CorimError::Unsigned)
    );
    unsigned_form && signed.len() > unsigned.len() && signed.windows(unsigned.len()).any(|part| part == unsigned)
}

fn roles(root: &Root) -> Vec<RoleShow> {
    [
        RoleType::Root,
        RoleType::Targets,
        RoleType::Snapshot,
        RoleType::Timestamp,
    ]
    .into_iter()
    .filter_map(|role| {
        let keys = root.roles.get(&role)?;
        let ids = keys.keyids.iter().map(|id| hex::encode(&**id));
        Some(RoleShow {
            role: role.to_string(),
            threshold: keys.threshold.get(),
            keys: ids.collect(),
        })
    })
    .collect()
}

#[cfg(test)]
mod tests;
