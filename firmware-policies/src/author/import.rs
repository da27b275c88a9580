//! A batch of machines from a file, CSV or JSON: all of it, or nothing of it with every bad line named.
//!
//! ```csv
//! name,region,zone,roles,owner,ek,ek_cert
//! web-1,eu-1,eu-1a,web;edge,acme,9f2c...,
//! web-2,eu-1,eu-1a,web,acme,,certificates/web-2.der
//! ```
//! Columns are the keys of a node's entry ([`NodeFile`]); those of a list hold its members with `;` between them, and
//! `ek_cert` names an endorsement certificate's file, beside the table. `name` and `region` must be there. JSON is
//! `{"nodes": [ … ]}`, as in `inventory.json`.
//!
//! What is taken goes into `inventory.json` of the domain or of one region: one file, written whole. A line that says what
//! the inventory says already is no change; one that says something else of a known name is a conflict, never an update.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::nodes::{Entry, entries, place_of, stage_region};
use crate::author::identity::NodeIdentity;
use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::{RegionTarget, TargetKind};
use crate::repository::Repository;
use crate::targets::inventory_file::{MAX_NODES, NodeFile};
use crate::targets::node_name::NodeName;
use crate::transport::bounded::read_bounded;

/// Largest file of machines.
pub const MAX_IMPORT_LEN: u64 = 16 << 20;
/// Largest file of an endorsement certificate.
const MAX_CERTIFICATE_LEN: u64 = 64 << 10;
/// Between the members of a list in a column.
const LIST: char = ';';

/// What [`node_import`] staged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct NodesImported {
    /// Entries that are new.
    pub added: usize,
    /// Entries that were there as they are.
    pub unchanged: usize,
    /// The files staged.
    pub staged: Vec<String>,
}

/// A line of the file that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Its number in a CSV file, from 1; in JSON that of the entry.
    pub line: u64,
    /// Why not.
    pub problem: Problem,
}

/// Why nothing was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportError {
    /// The file or the repository as a whole.
    Policy(PolicyError),
    /// Lines of it, in order: every one that is bad, with everything that is wrong with it.
    Lines(Vec<BadLine>),
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(error) => error.fmt(f),
            Self::Lines(lines) => {
                let mut separator = "";
                lines.iter().try_for_each(|bad| {
                    write!(f, "{separator}line {}: {}", bad.line, bad.problem)?;
                    separator = "\n";
                    Ok(())
                })
            }
        }
    }
}

impl std::error::Error for ImportError {}

impl From<PolicyError> for ImportError {
    fn from(error: PolicyError) -> Self {
        Self::Policy(error)
    }
}

/// A line that was read.
struct Line {
    number: u64,
    node: NodeFile,
}

/// Stages every machine of a file (`.json`, or CSV), or none. With a `region`, for that region's own keys: names then may
/// be written without it, and every machine is there.
///
/// # Errors
/// [`ImportError::Lines`] with every bad line: what [`NodeFile::to_node_at`] refuses, `policy-node-conflict`,
/// `policy-identity-conflict` within the file or with the inventory. [`ImportError::Policy`] for anything else.
pub fn node_import(repo: &Path, file: &Path, region: Option<&str>) -> Result<NodesImported, ImportError> {
    let repository = Repository::open(repo)?;
    let bytes = read_bounded(file, MAX_IMPORT_LEN).map_err(|e| PolicyError::io(file, "a file of machines", &e))?;
    let mut bad = Vec::new();
    let mut lines = read(file, &bytes, region, &mut bad)?;
    for line in &mut lines {
        complete(&mut line.node, region);
    }
    let files = repository.next()?;
    let known = entries(&files)?;
    let (added, unchanged) = judge(&lines, &known, region, &mut bad);
    if !bad.is_empty() {
        bad.sort_by_key(|bad| bad.line);
        return Err(ImportError::Lines(bad));
    }
    let mut imported = NodesImported {
        added: added.len(),
        unchanged,
        staged: Vec::new(),
    };
    if added.is_empty() {
        return Ok(imported);
    }
    let kind = match region {
        Some(region) => TargetKind::Region(region.to_owned(), RegionTarget::Inventory),
        None => TargetKind::Inventory,
    };
    let mut regions: Vec<&str> = added.iter().map(|node| node.region.as_str()).collect();
    regions.sort_unstable();
    regions.dedup();
    for region in regions {
        imported.staged.extend(stage_region(&repository, &files, region)?);
    }
    let before = known
        .into_iter()
        .filter(|entry| entry.kind == kind)
        .map(|entry| entry.node);
    let nodes: Vec<NodeFile> = before.chain(added.iter().map(|node| (*node).clone())).collect();
    imported
        .staged
        .push(repository.stage(&kind, &NodeFile::all_to_json(&nodes))?);
    Ok(imported)
}

/// Whether a file of these bytes would be read, whatever it says of which machine.
pub(crate) fn reads(file: &Path, bytes: &[u8], region: Option<&str>) -> bool {
    let mut bad = Vec::new();
    let Ok(mut lines) = read(file, bytes, region, &mut bad) else {
        return false;
    };
    assert!(lines.len() + bad.len() <= MAX_NODES);
    for line in &mut lines {
        complete(&mut line.node, region);
    }
    let (added, _) = judge(&lines, &[], region, &mut bad);
    bad.is_empty() && added.len() == lines.len()
}

fn read(file: &Path, bytes: &[u8], region: Option<&str>, bad: &mut Vec<BadLine>) -> Result<Vec<Line>, PolicyError> {
    if file.extension().is_some_and(|end| end.eq_ignore_ascii_case("json")) {
        read_json(file, bytes, bad)
    } else {
        read_csv(file, bytes, region, bad)
    }
}

/// Judged before each further machine: a file of nothing but bad lines would cost many times its length in what is said
/// of each.
fn has_room(file: &Path, lines: &[Line], bad: &[BadLine]) -> Result<(), PolicyError> {
    if lines.len() + bad.len() < MAX_NODES {
        return Ok(());
    }
    let expected = format!("at most {MAX_NODES} machines");
    Err(PolicyError::new(
        PolicyCode::TargetsTooMany,
        file.display(),
        expected,
        "more",
    ))
}

/// A name without its region gets it, and so does a machine that does not say where it is.
fn complete(node: &mut NodeFile, region: Option<&str>) {
    if let Some(region) = region {
        if !node.name.contains('/') {
            node.name = format!("{region}/{}", node.name);
        }
        if node.region.is_empty() {
            node.region = region.to_owned();
        }
    }
}

/// The entries that are new, and how many are there already; what is wrong goes to `bad`.
fn judge<'a>(
    lines: &'a [Line],
    known: &[Entry],
    region: Option<&str>,
    bad: &mut Vec<BadLine>,
) -> (Vec<&'a NodeFile>, usize) {
    let by_name: BTreeMap<&str, &Entry> = known.iter().map(|entry| (entry.node.name.as_str(), entry)).collect();
    // Where each name stands, and who has each identity and where that one stands.
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    let mut holders: BTreeMap<String, (&str, String)> = BTreeMap::new();
    for entry in known {
        for identity in identities(&entry.node) {
            holders.insert(identity, (&entry.node.name, format!("node {}", entry.node.name)));
        }
    }
    let (mut added, mut unchanged) = (Vec::new(), 0);
    for Line { number, node } in lines {
        let before = bad.len();
        let mut note = |problem| bad.push(BadLine { line: *number, problem });
        let place = region.map(|region| NodeName {
            region: Some(region),
            file: "",
        });
        let place = place_of(place.unwrap_or(NodeName { region: None, file: "" }));
        if let Err(error) = node.to_node_at("import", place) {
            error.into_problems().into_iter().for_each(&mut note);
        }
        let conflict = |code, expected: &str, found: String| Problem::new(code, &node.name, expected, found);
        if let Some(other) = names.insert(&node.name, format!("line {number}")) {
            note(conflict(PolicyCode::NodeConflict, "each name once", other));
        }
        match by_name.get(node.name.as_str()) {
            Some(entry) if entry.node.is_same(node) => {
                unchanged += 1;
                continue;
            }
            Some(entry) => {
                let found = format!("something else of {} in {}", node.name, entry.kind.name());
                note(conflict(
                    PolicyCode::NodeConflict,
                    "what the inventory says of this name",
                    found,
                ));
            }
            None => {}
        }
        for identity in identities(node) {
            match holders.get(&identity) {
                // Its name is told as the conflict that it is.
                Some((holder, _)) if *holder == node.name => {}
                Some((_, origin)) => {
                    let found = format!("{identity} of {origin}");
                    note(conflict(
                        PolicyCode::IdentityConflict,
                        "hardware of no other node",
                        found,
                    ));
                }
                None => drop(holders.insert(identity, (&node.name, format!("line {number}")))),
            }
        }
        if bad.len() == before {
            added.push(node);
        }
    }
    (added, unchanged)
}

/// Everything by which an entry names hardware, each as one text that is the same for the same hardware.
fn identities(node: &NodeFile) -> Vec<String> {
    let kinds: [(&str, &[String]); 6] = [
        ("endorsement key", &node.ek),
        ("attestation key name", &node.ak_names),
        ("attestation key", &node.ak_keys),
        ("device", &node.devices),
        ("confidential VM", &node.platforms),
        ("GPU", &node.gpus),
    ];
    let texts = kinds.iter().flat_map(|(kind, list)| {
        list.iter().map(move |text| match *kind {
            // Serial numbers in certificates are text, and tell upper from lower case.
            "device" => format!("{kind} {text}"),
            _ => format!("{kind} {}", text.to_ascii_lowercase()),
        })
    });
    let mut texts: Vec<String> = texts.collect();
    texts.sort();
    texts.dedup();
    texts
}

fn read_json(file: &Path, bytes: &[u8], bad: &mut Vec<BadLine>) -> Result<Vec<Line>, PolicyError> {
    let unreadable = |found: String| {
        let expected = "{\"nodes\": [ ... ]} with at least one entry and nothing beside";
        PolicyError::new(PolicyCode::NodeUnreadable, file.display(), expected, found)
    };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| unreadable(e.to_string()))?;
    let nodes = match value {
        serde_json::Value::Object(mut members) if members.len() == 1 => members.remove("nodes"),
        _ => None,
    };
    let Some(serde_json::Value::Array(nodes)) = nodes.filter(|nodes| nodes.as_array().is_some_and(|n| !n.is_empty()))
    else {
        return Err(unreadable("something else".into()));
    };
    let mut lines = Vec::new();
    for (number, value) in (1..).zip(nodes) {
        has_room(file, &lines, bad)?;
        match serde_json::from_value(value) {
            Ok(node) => lines.push(Line { number, node }),
            Err(error) => bad.push(BadLine {
                line: number,
                problem: Problem::new(PolicyCode::NodeUnreadable, "entry", "a node entry", error),
            }),
        }
    }
    Ok(lines)
}

fn read_csv(file: &Path, bytes: &[u8], region: Option<&str>, bad: &mut Vec<BadLine>) -> Result<Vec<Line>, PolicyError> {
    let unreadable =
        |expected: &str, found: String| PolicyError::new(PolicyCode::NodeUnreadable, file.display(), expected, found);
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(bytes);
    let header = reader
        .headers()
        .map_err(|e| unreadable("a header line", e.to_string()))?
        .clone();
    let mut columns = Vec::new();
    for name in &header {
        let column = Column::parse(name).ok_or_else(|| unreadable(&Column::known(), name.to_owned()))?;
        if columns.contains(&column) {
            return Err(unreadable("each column once", name.to_owned()));
        }
        columns.push(column);
    }
    let needed = [(Column::Name, true), (Column::Region, region.is_none())];
    if let Some((column, _)) = needed
        .iter()
        .find(|(column, needed)| *needed && !columns.contains(column))
    {
        return Err(unreadable(&format!("the column {}", column.as_str()), "none".into()));
    }
    let folder = file.parent().unwrap_or_else(|| Path::new("."));
    let mut lines = Vec::new();
    for record in reader.records() {
        has_room(file, &lines, bad)?;
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let number = error.position().map_or(0, csv::Position::line);
                let problem = Problem::new(PolicyCode::NodeUnreadable, "line", "UTF-8 text in columns", error);
                bad.push(BadLine { line: number, problem });
                continue;
            }
        };
        let number = record.position().map_or(0, csv::Position::line);
        let read = if record.len() == columns.len() {
            read_line(&columns, &record, folder)
        } else {
            let expected = format!("{} columns", columns.len());
            Err(Problem::new(PolicyCode::NodeUnreadable, "line", expected, record.len()))
        };
        match read {
            Ok(node) => lines.push(Line { number, node }),
            Err(problem) => bad.push(BadLine { line: number, problem }),
        }
    }
    if lines.is_empty() && bad.is_empty() {
        return Err(unreadable("at least one machine", "none".into()));
    }
    Ok(lines)
}

fn read_line(columns: &[Column], record: &csv::StringRecord, folder: &Path) -> Result<NodeFile, Problem> {
    let mut node = NodeFile::default();
    for (column, text) in columns.iter().zip(record) {
        let optional = || (!text.is_empty()).then(|| text.to_owned());
        let list = || -> Vec<String> {
            let members = text.split(LIST).map(str::trim);
            members.filter(|member| !member.is_empty()).map(str::to_owned).collect()
        };
        match column {
            Column::Name => node.name = text.to_owned(),
            Column::Region => node.region = text.to_owned(),
            Column::Zone => node.zone = optional(),
            Column::Roles => node.roles = list(),
            Column::Owner => node.owner = optional(),
            Column::Ek => node.ek.extend(list()),
            Column::EkCert => {
                for path in list() {
                    let path = folder.join(path);
                    let problem = |found: &dyn fmt::Display| {
                        let expected = "an endorsement certificate";
                        Problem::new(PolicyCode::IdentityUnreadable, path.display(), expected, found)
                    };
                    let bytes = read_bounded(&path, MAX_CERTIFICATE_LEN).map_err(|e| problem(&e))?;
                    let hardware = NodeIdentity::EkCert(bytes).read().map_err(|e| problem(&e))?;
                    hardware.add_to(&mut node);
                }
            }
            Column::AkNames => node.ak_names = list(),
            Column::AkKeys => node.ak_keys = list(),
            Column::Devices => node.devices = list(),
            Column::Platforms => node.platforms = list(),
            Column::Gpus => node.gpus = list(),
        }
    }
    Ok(node)
}

/// A column of a table of machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Name,
    Region,
    Zone,
    Roles,
    Owner,
    Ek,
    EkCert,
    AkNames,
    AkKeys,
    Devices,
    Platforms,
    Gpus,
}

impl Column {
    const ALL: [Self; 12] = [
        Self::Name,
        Self::Region,
        Self::Zone,
        Self::Roles,
        Self::Owner,
        Self::Ek,
        Self::EkCert,
        Self::AkNames,
        Self::AkKeys,
        Self::Devices,
        Self::Platforms,
        Self::Gpus,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Region => "region",
            Self::Zone => "zone",
            Self::Roles => "roles",
            Self::Owner => "owner",
            Self::Ek => "ek",
            Self::EkCert => "ek_cert",
            Self::AkNames => "ak_names",
            Self::AkKeys => "ak_keys",
            Self::Devices => "devices",
            Self::Platforms => "platforms",
            Self::Gpus => "gpus",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.as_str() == name)
    }

    fn known() -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|column| column.as_str()).collect();
        format!("columns out of {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests;
