//! The inventory: machines are added, given a disk, listed and taken out, one at a time.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::author::identity::{Hardware, NodeIdentity};
use crate::cedar::default_region_policy;
use crate::error::{PolicyCode, PolicyError};
use crate::layout::Files;
use crate::layout::{RegionTarget, TargetKind};
use crate::repository::Repository;
use crate::settings::Settings;
use crate::targets::deny_file;
use crate::targets::inventory_file::{AUTHORITY, NodeFile, Place, VolumeFile};
use crate::targets::node_name::NodeName;

/// Where a node belongs and what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodePlace<'a> {
    /// Its name; with a region before the slash where that region names it.
    pub name: &'a str,
    /// Its region.
    pub region: &'a str,
    /// Its zone.
    pub zone: Option<&'a str>,
    /// What it is for.
    pub roles: &'a [String],
    /// Whose it is.
    pub owner: Option<&'a str>,
}

/// What [`node_add`] staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeAdded {
    /// The entry as it now is.
    pub node: NodeFile,
    /// Whether the name was there and got another key.
    pub merged: bool,
    /// The files staged: the node's, and its region's policy where the region is new.
    pub staged: Vec<String>,
    /// What the author should know.
    pub notes: Vec<String>,
}

/// One entry of the inventory, as the next publish would have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeListed {
    /// The entry.
    #[serde(flatten)]
    pub node: NodeFile,
    /// The target it stands in.
    pub file: String,
    /// Whether that target is staged, and not published as it is.
    pub staged: bool,
}

/// What [`node_remove`] staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeRemoved {
    /// The entry that goes.
    pub node: NodeFile,
    /// The files staged.
    pub staged: Vec<String>,
    /// How many endorsement keys were added to the deny list.
    pub denied: usize,
}

/// An entry and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub kind: TargetKind,
    pub node: NodeFile,
}

/// The target that holds the node of this name, where it has a file of its own.
pub(super) fn kind_of(name: NodeName<'_>) -> TargetKind {
    let file = name.file.to_owned();
    match name.region {
        Some(region) => TargetKind::Region(region.to_owned(), RegionTarget::Node(file)),
        None => TargetKind::Node(file),
    }
}

/// Where entries of this name stand.
pub(super) fn place_of(name: NodeName<'_>) -> Place<'_> {
    Place {
        region: name.region,
        authority: name.region.unwrap_or(AUTHORITY),
    }
}

/// The name, taken apart.
pub(super) fn parsed(name: &str) -> Result<NodeName<'_>, PolicyError> {
    let expected = "a name, or <region>/<name>, each [a-z0-9][a-z0-9.-]{0,62}";
    NodeName::parse(name).ok_or_else(|| PolicyError::new(PolicyCode::SettingsName, "node", expected, name))
}

/// Every entry of these files, unread ones refused.
pub(super) fn entries(files: &Files) -> Result<Vec<Entry>, PolicyError> {
    let mut entries = Vec::new();
    for (kind, bytes) in files {
        let file = kind.name();
        let nodes = match kind {
            TargetKind::Node(name) => vec![NodeFile::parse(&file, name, bytes)?],
            TargetKind::Region(region, RegionTarget::Node(name)) => {
                vec![NodeFile::parse(&file, &format!("{region}/{name}"), bytes)?]
            }
            TargetKind::Inventory | TargetKind::Region(_, RegionTarget::Inventory) => {
                NodeFile::parse_all(&file, bytes)?
            }
            _ => continue,
        };
        entries.extend(nodes.into_iter().map(|node| Entry {
            kind: kind.clone(),
            node,
        }));
    }
    Ok(entries)
}

/// Stages the default policy of a region that has none yet.
pub(super) fn stage_region(
    repository: &Repository,
    files: &Files,
    region: &str,
) -> Result<Option<String>, PolicyError> {
    let kind = TargetKind::Region(region.to_owned(), RegionTarget::Policy);
    if files.contains_key(&kind) {
        return Ok(None);
    }
    let policy = default_region_policy(region);
    repository.stage(&kind, policy.as_bytes()).map(Some)
}

/// Stages a node, or another attestation key for a node of the same name, region, zone and endorsement key. A name with a
/// region before the slash is staged for that region's keys.
///
/// # Errors
/// [`PolicyError`]: `policy-node-conflict` where the name has other hardware or another place,
/// `policy-identity-conflict` where another node has this hardware; what [`NodeIdentity`] refuses.
pub fn node_add(repo: &Path, identity: &NodeIdentity, place: NodePlace<'_>) -> Result<NodeAdded, PolicyError> {
    let repository = Repository::open(repo)?;
    let name = parsed(place.name)?;
    let hardware = identity.read()?;
    let files = repository.next()?;
    let kind = kind_of(name);
    let existing = existing_node(&files, &kind, place.name, &hardware)?;
    let merged = existing.is_some();
    let mut node = match existing {
        Some(node) => merge_place(node, place, &hardware)?,
        None => NodeFile {
            name: place.name.into(),
            region: place.region.into(),
            zone: place.zone.map(Into::into),
            owner: place.owner.map(Into::into),
            ..NodeFile::default()
        },
    };
    for role in place.roles {
        if !node.roles.contains(role) {
            node.roles.push(role.clone());
        }
    }
    hardware.add_to(&mut node);
    // Names become parts of file names: they are checked before that.
    node.to_node_at("node add", place_of(name))?;
    let mut staged = vec![repository.stage(&kind, &node.to_json())?];
    staged.extend(stage_region(&repository, &files, &node.region)?);
    Ok(NodeAdded {
        node,
        merged,
        staged,
        notes: hardware.notes,
    })
}

/// Stages the encrypted disk of a node that is staged or published, in the place of the one it had.
///
/// # Errors
/// [`PolicyError`]: `policy-node-conflict` for a name without an entry of its own, `policy-node-unreadable` for a volume
/// that is none.
pub fn node_volume(repo: &Path, name: &str, volume: VolumeFile) -> Result<NodeFile, PolicyError> {
    let repository = Repository::open(repo)?;
    let parts = parsed(name)?;
    let kind = kind_of(parts);
    let files = repository.next()?;
    let Some(bytes) = files.get(&kind) else {
        let expected = "a node added with `policy node add`";
        return Err(PolicyError::new(PolicyCode::NodeConflict, name, expected, "none"));
    };
    let mut node = NodeFile::parse(&kind.name(), name, bytes)?;
    node.volume = Some(volume);
    node.to_node_at("node volume", place_of(parts))?;
    repository.stage(&kind, &node.to_json())?;
    Ok(node)
}

/// The inventory as the next publish would have it, by name.
///
/// # Errors
/// [`PolicyError`], also for an entry that cannot be read.
pub fn node_list(repo: &Path) -> Result<Vec<NodeListed>, PolicyError> {
    let repository = Repository::open(repo)?;
    let published = repository.published()?.map(|p| p.files).unwrap_or_default();
    let next = repository.next()?;
    let listed = entries(&next)?.into_iter().map(|entry| NodeListed {
        file: entry.kind.name(),
        staged: published.get(&entry.kind) != next.get(&entry.kind),
        node: entry.node,
    });
    let mut listed: Vec<NodeListed> = listed.collect();
    listed.sort_by(|a, b| a.node.name.cmp(&b.node.name));
    Ok(listed)
}

/// Stages the removal of a node: its rights are withdrawn when what is staged is published. Where machines may enrol on
/// first use its endorsement keys are denied besides, or it would come back by itself.
///
/// # Errors
/// [`PolicyError`]: `policy-target-missing` where no entry has this name.
pub fn node_remove(repo: &Path, name: &str) -> Result<NodeRemoved, PolicyError> {
    let repository = Repository::open(repo)?;
    parsed(name)?;
    let files = repository.next()?;
    let mut by_kind: BTreeMap<TargetKind, Vec<NodeFile>> = BTreeMap::new();
    for entry in entries(&files)? {
        by_kind.entry(entry.kind).or_default().push(entry.node);
    }
    let missing = || PolicyError::new(PolicyCode::TargetMissing, name, "a node of the inventory", "none");
    let holds = |nodes: &Vec<NodeFile>| nodes.iter().any(|node| node.name == name);
    let (kind, nodes) = by_kind
        .into_iter()
        .find(|(_, nodes)| holds(nodes))
        .ok_or_else(missing)?;
    let (gone, left): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| node.name == name);
    let node = gone.into_iter().next().ok_or_else(missing)?;
    let (mut staged, denied) = deny(&repository, &files, &node)?;
    // An empty file withdraws its target.
    let bytes = if left.is_empty() {
        Vec::new()
    } else {
        NodeFile::all_to_json(&left)
    };
    staged.push(repository.stage(&kind, &bytes)?);
    Ok(NodeRemoved { node, staged, denied })
}

/// Denies the endorsement keys of a node that goes, where first use would let it in again.
fn deny(repository: &Repository, files: &Files, node: &NodeFile) -> Result<(Vec<String>, usize), PolicyError> {
    let settings = files.get(&TargetKind::Settings).map(|bytes| Settings::parse(bytes));
    if settings
        .transpose()?
        .is_none_or(|settings| settings.first_use.is_none())
    {
        return Ok((Vec::new(), 0));
    }
    let before = files.get(&TargetKind::Deny);
    let mut bytes = before.cloned().unwrap_or_default();
    let known = before.map(|bytes| deny_file::parse(bytes)).transpose()?;
    let mut denied = 0;
    for ek in node.to_node_at("node remove", place_of(parsed(&node.name)?))?.ek {
        if known.as_ref().is_none_or(|known| known.key(&ek).is_none()) {
            let entry = format!(
                "\n[[endorsement_key]]\nid = \"{ek}\"\nwhy = \"decommissioned: {}\"\n",
                node.name
            );
            bytes.extend_from_slice(entry.as_bytes());
            denied += 1;
        }
    }
    if denied == 0 {
        return Ok((Vec::new(), 0));
    }
    // What was appended must be read as what it is.
    deny_file::parse(&bytes)?;
    Ok((vec![repository.stage(&TargetKind::Deny, &bytes)?], denied))
}

/// The entry of this name; an error where another entry has any of the hardware.
fn existing_node(
    files: &Files,
    kind: &TargetKind,
    name: &str,
    hardware: &Hardware,
) -> Result<Option<NodeFile>, PolicyError> {
    let mut existing = None;
    for entry in entries(files)? {
        let node = entry.node;
        if node.name == name && entry.kind != *kind {
            let file = entry.kind.name();
            let expected = format!("a name that {file} does not have");
            return Err(PolicyError::new(PolicyCode::NodeConflict, name, expected, file));
        } else if node.name == name {
            existing = Some(node);
        } else if let Some(identity) = hardware.shared_with(&node) {
            let found = format!("{identity} of node {}", node.name);
            return Err(PolicyError::new(
                PolicyCode::IdentityConflict,
                name,
                "hardware of no other node",
                found,
            ));
        }
    }
    Ok(existing)
}

fn merge_place(mut node: NodeFile, place: NodePlace<'_>, hardware: &Hardware) -> Result<NodeFile, PolicyError> {
    let conflict =
        |expected: String, found: String| Err(PolicyError::new(PolicyCode::NodeConflict, place.name, expected, found));
    if node.region != place.region {
        return conflict(format!("region {}", node.region), format!("region {}", place.region));
    }
    match (&node.zone, place.zone) {
        (Some(zone), Some(found)) if zone != found => return conflict(format!("zone {zone}"), format!("zone {found}")),
        (None, Some(zone)) => node.zone = Some(zone.into()),
        _ => (),
    }
    match (&node.owner, place.owner) {
        (Some(owner), Some(found)) if owner != found => {
            return conflict(format!("owner {owner}"), format!("owner {found}"));
        }
        (None, Some(owner)) => node.owner = Some(owner.into()),
        _ => (),
    }
    let known = |ek: &String| node.ek.iter().any(|k| k.eq_ignore_ascii_case(ek));
    let new: Vec<String> = hardware.ek.iter().map(ToString::to_string).collect();
    if !node.ek.is_empty() && !new.iter().all(known) {
        return conflict(
            format!("endorsement key {}", node.ek.join(", ")),
            format!("endorsement key {}", new.join(", ")),
        );
    }
    Ok(node)
}

#[cfg(test)]
mod tests;
