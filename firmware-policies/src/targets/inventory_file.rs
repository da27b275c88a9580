//! `nodes/<name>.json` and `inventory.json`: which machines belong to the domain.
//!
//! ```json
//! {"name": "web-1", "region": "eu-1", "zone": "eu-1a", "roles": ["web"],
//!  "ek": ["<sha256 of the SubjectPublicKeyInfo>"], "ak_names": ["<TPM Name>"], "ak_keys": ["<sha256 of the SPKI>"]}
//! ```
//! `devices` lists device identities (IEEE 802.1AR) instead: `"key:<sha256 of the SPKI>"`, `"serial:<subject's serial
//! number>"`, `"hardware:<hwType>:<hwSerialNum, hexadecimal>"`, or `"gce:<project number>/<instance id>"` for an instance of
//! Google Compute Engine. `platforms` lists confidential VMs: `"snp:<chip id>"`, `"snp-provider:<name>"` or
//! `"tdx:<platform>"`, each optionally followed by `/host-data:<hexadecimal>`, `/id-key:<hexadecimal>` or
//! `/config-id:<hexadecimal>`. `gpus` lists serial numbers of its GPUs in hexadecimal.
//!
//! `volume` is the node's encrypted disk: `{"luks_uuid": "<UUID of its LUKS2 header>", "pcr15": "<register 15 after its
//! volume key was measured, hexadecimal>"}` (`docs/bootstrap.md`).
//!
//! `inventory.json` is `{"nodes": [ … ]}`. Lists may be left out; an entry must name some hardware. `owner` says whose
//! machine it is.
//!
//! Where an entry stands says who may name it. `nodes/web-1.json` is the node `web-1`. `regions/eu-1/nodes/web-1.json` is
//! the node `eu-1/web-1` of the region `eu-1` and of no other, whoever signs it ([`Place`]).

use serde::{Deserialize, Serialize};
use touchstone_verifier::inventory::{EkId, Node};

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::is_name;

use identities::{NAME_LENGTHS, devices, gpus, identities, platforms};

mod identities;
mod place;
mod volume;

pub use identities::{MAX_IDENTITIES, MAX_SERIAL_LEN, device_text};
pub use place::{AUTHORITY, Place};
pub use volume::VolumeFile;

/// Most nodes of a domain.
pub const MAX_NODES: usize = 65_536;
/// Most roles of a node.
pub const MAX_ROLES: usize = 32;

/// One node as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// Its name, also that of its file.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Whose it is: a name, such as that of a tenant of the domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// SHA-256 of its endorsement keys' SubjectPublicKeyInfo, hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ek: Vec<String>,
    /// TPM Names of attestation keys that the author tied to it, hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ak_names: Vec<String>,
    /// SHA-256 of the SubjectPublicKeyInfo of attestation keys known by key alone, hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ak_keys: Vec<String>,
    /// Device identities, as [`device_text`] writes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Confidential VMs: platform and guest, in the text form of
    /// [`CvmIdentity`](touchstone_verifier::inventory::CvmIdentity).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    /// Serial numbers of its GPUs, hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
    /// Its encrypted disk, where it gets the key of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InventoryFile {
    nodes: Vec<NodeFile>,
}

impl NodeFile {
    /// Reads `nodes/<name>.json`; `name` is the file's, as [`Place::name_of`] gives it.
    ///
    /// # Errors
    /// [`PolicyError`] `policy-node-unreadable`, also where the entry has another name than the file.
    pub fn parse(file: &str, name: &str, bytes: &[u8]) -> Result<Self, PolicyError> {
        let node: NodeFile = serde_json::from_slice(bytes).map_err(|e| unreadable(file, e.to_string()))?;
        if node.name != name {
            return Err(PolicyError::new(
                PolicyCode::NodeUnreadable,
                file,
                format!("the name {name}"),
                node.name,
            ));
        }
        Ok(node)
    }

    /// Reads `inventory.json`.
    ///
    /// # Errors
    /// [`PolicyError`] `policy-node-unreadable`; also for an empty list.
    pub fn parse_all(file: &str, bytes: &[u8]) -> Result<Vec<Self>, PolicyError> {
        let inventory: InventoryFile = serde_json::from_slice(bytes).map_err(|e| unreadable(file, e.to_string()))?;
        match inventory.nodes.len() {
            0 => Err(unreadable(file, "an empty list".into())),
            n if n > MAX_NODES => Err(PolicyError::new(
                PolicyCode::TargetsTooMany,
                file,
                format!("at most {MAX_NODES} nodes"),
                n,
            )),
            _ => Ok(inventory.nodes),
        }
    }

    /// The bytes of `nodes/<name>.json`.
    pub fn to_json(&self) -> Vec<u8> {
        // A struct of strings and lists always serialises; an empty file would be refused when it is read.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// The bytes of `inventory.json` with these entries, which must not be none.
    pub fn all_to_json(nodes: &[Self]) -> Vec<u8> {
        let inventory = InventoryFile { nodes: nodes.to_vec() };
        let mut bytes = serde_json::to_vec_pretty(&inventory).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Whether both say the same, however hexadecimal digits are written and lists are ordered.
    pub fn is_same(&self, other: &Self) -> bool {
        let canonical = |node: &Self| {
            let mut node = node.clone();
            let identities = [
                &mut node.ek,
                &mut node.ak_names,
                &mut node.ak_keys,
                &mut node.platforms,
                &mut node.gpus,
            ];
            for list in identities {
                list.iter_mut().for_each(|text| text.make_ascii_lowercase());
                list.sort();
            }
            node.devices.sort();
            node.roles.sort();
            node
        };
        canonical(self) == canonical(other)
    }

    /// The checked entry.
    ///
    /// # Errors
    /// [`PolicyError`] with every problem: names outside the grammar, identities that are none, no identity at all.
    pub fn to_node(&self, file: &str) -> Result<Node, PolicyError> {
        self.to_node_at(file, Place::WHOLE)
    }

    /// The checked entry, where it stands.
    ///
    /// # Errors
    /// As [`NodeFile::to_node`]; also `policy-node-outside-region` for a name or a region that is not of that place.
    pub fn to_node_at(&self, file: &str, place: Place<'_>) -> Result<Node, PolicyError> {
        let claim = |key: &str| format!("{file}: {key} of {}", self.name);
        let mut problems = place.problems(self, &claim);
        let named = [
            ("region", Some(&self.region)),
            ("zone", self.zone.as_ref()),
            ("owner", self.owner.as_ref()),
        ];
        let roles = self.roles.iter().map(|role| ("roles", Some(role)));
        for (key, value) in named.into_iter().chain(roles) {
            if let Some(value) = value.filter(|v| !is_name(v)) {
                problems.push(Problem::new(PolicyCode::SettingsName, claim(key), "a name", value));
            }
        }
        if self.roles.len() > MAX_ROLES {
            let expected = format!("at most {MAX_ROLES}");
            problems.push(Problem::new(
                PolicyCode::TargetsTooMany,
                claim("roles"),
                expected,
                self.roles.len(),
            ));
        }
        let ek = identities(&self.ek, &[32], &claim("ek"), &mut problems);
        let ak_names = identities(&self.ak_names, &NAME_LENGTHS, &claim("ak_names"), &mut problems);
        let ak_keys = identities(&self.ak_keys, &[32], &claim("ak_keys"), &mut problems);
        let devices = devices(&self.devices, &claim("devices"), &mut problems);
        let volume = self.volume.as_ref().and_then(|volume| match volume.to_volume() {
            Ok(volume) => Some(volume),
            Err((expected, found)) => {
                problems.push(Problem::new(
                    PolicyCode::NodeUnreadable,
                    claim("volume"),
                    expected,
                    found,
                ));
                None
            }
        });
        let platforms = platforms(&self.platforms, &claim("platforms"), &mut problems);
        let gpus = gpus(&self.gpus, &claim("gpus"), &mut problems);
        // A node of GPUs alone is judged offline only: in a session they are no machine.
        let machine = [&self.ek, &self.ak_names, &self.ak_keys, &self.devices, &self.platforms];
        let mut lists = machine.into_iter().chain([&self.gpus]);
        if lists.all(Vec::is_empty) {
            let expected = "ek, ak_names, ak_keys, devices, platforms or gpus";
            problems.push(Problem::new(
                PolicyCode::NodeIdentityMissing,
                claim("identity"),
                expected,
                "none",
            ));
        }
        PolicyError::unless_empty(problems)?;
        let digest = |bytes: Vec<u8>| <[u8; 32]>::try_from(bytes).ok();
        Ok(Node {
            name: self.name.clone(),
            region: self.region.clone(),
            zone: self.zone.clone(),
            roles: self.roles.clone(),
            owner: self.owner.clone(),
            ek: ek.into_iter().filter_map(digest).map(EkId).collect(),
            ak_names,
            ak_keys: ak_keys.into_iter().filter_map(digest).collect(),
            devices,
            platforms,
            gpus,
            volume,
            authority: place.authority.into(),
        })
    }
}

fn unreadable(file: &str, found: String) -> PolicyError {
    PolicyError::new(PolicyCode::NodeUnreadable, file, "a node entry", found)
}

#[cfg(test)]
mod tests;
