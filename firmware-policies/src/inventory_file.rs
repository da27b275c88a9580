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
use touchstone_verifier::bootstrap::Volume;
use touchstone_verifier::inventory::{CvmIdentity, EkId, Node};
use touchstone_verifier::x509::HardwareModuleName;
use touchstone_verifier::x509::cloud_ak::GceInstance;
use touchstone_verifier::x509::iak_certificate::DeviceId;

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::is_name;
use crate::node_name::NodeName;

/// Most nodes of a domain.
pub const MAX_NODES: usize = 65_536;
/// Most roles of a node.
pub const MAX_ROLES: usize = 32;
/// Most keys of one kind of a node.
pub const MAX_IDENTITIES: usize = 32;
/// Longest serial number of a device, in bytes.
pub const MAX_SERIAL_LEN: usize = 128;
/// Who signed an entry of the global targets role.
pub const AUTHORITY: &str = "targets";

/// Where an entry stands, which says what it may be called and where its node may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The region whose folder it is in; nothing below `nodes/` and in `inventory.json`.
    pub region: Option<&'a str>,
    /// Who signs what stands there: [`AUTHORITY`], or a region's own role.
    pub authority: &'a str,
}

impl Place<'_> {
    /// The domain's own folder.
    pub const WHOLE: Place<'static> = Place {
        region: None,
        authority: AUTHORITY,
    };

    /// The name of the node in the file `<file>.json` here.
    pub fn name_of(&self, file: &str) -> String {
        match self.region {
            Some(region) => format!("{region}/{file}"),
            None => file.to_owned(),
        }
    }

    /// Whether a node of this name and in this region may stand here.
    fn problems(&self, node: &NodeFile, claim: &dyn Fn(&str) -> String) -> Vec<Problem> {
        let mut problems = Vec::new();
        let prefix =
            |region: Option<&str>| region.map_or("no slash".to_owned(), |region| format!("{region}/ before it"));
        match NodeName::parse(&node.name) {
            Some(name) if name.region == self.region => {}
            Some(_) => {
                let expected = format!("a name with {}", prefix(self.region));
                problems.push(Problem::new(
                    PolicyCode::NodeOutsideRegion,
                    claim("name"),
                    expected,
                    &node.name,
                ));
            }
            None => problems.push(Problem::new(
                PolicyCode::SettingsName,
                claim("name"),
                "a name",
                &node.name,
            )),
        }
        if let Some(region) = self.region.filter(|region| *region != node.region) {
            let expected = format!("region {region}");
            problems.push(Problem::new(
                PolicyCode::NodeOutsideRegion,
                claim("region"),
                expected,
                &node.region,
            ));
        }
        problems
    }
}

/// Length of a TPM Name with SHA-256, SHA-384 and SHA-512 (TPM 2.0 Library Part 1, 16).
const NAME_LENGTHS: [usize; 3] = [34, 50, 66];

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

/// A node's encrypted disk as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeFile {
    /// UUID of its LUKS2 header, in lower case.
    pub luks_uuid: String,
    /// Register 15 after its volume key was measured, in the SHA-256, SHA-384 or SHA-512 bank, hexadecimal.
    pub pcr15: String,
}

impl VolumeFile {
    /// The checked volume.
    ///
    /// # Errors
    /// What was expected, and what was found.
    pub fn to_volume(&self) -> Result<Volume, (&'static str, String)> {
        if !is_uuid(&self.luks_uuid) {
            let expected = "a UUID: 8-4-4-4-12 hexadecimal digits in lower case";
            return Err((expected, self.luks_uuid.clone()));
        }
        let register = hex::decode(&self.pcr15).unwrap_or_default();
        let volume = Volume {
            luks_uuid: self.luks_uuid.clone(),
            register,
        };
        match volume.bank() {
            Some(_) if volume.register.iter().any(|byte| *byte != 0) => Ok(volume),
            _ => Err(("32, 48 or 64 bytes in hexadecimal, not all zero", self.pcr15.clone())),
        }
    }
}

/// RFC 9562, section 4, as cryptsetup prints it.
fn is_uuid(text: &str) -> bool {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let digits = |group: &str| group.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    text.split('-').map(str::len).eq(GROUPS) && text.split('-').all(digits)
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
        let platforms = self.platforms(&claim("platforms"), &mut problems);
        let gpus = self.gpus(&claim("gpus"), &mut problems);
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

    fn platforms(&self, claim: &str, problems: &mut Vec<Problem>) -> Vec<CvmIdentity> {
        listed(&self.platforms, claim, problems, |text| {
            text.parse::<CvmIdentity>().map_err(|error| error.expected)
        })
    }

    fn gpus(&self, claim: &str, problems: &mut Vec<Problem>) -> Vec<String> {
        listed(&self.gpus, claim, problems, |text| {
            let serial = hex::decode(text)
                .ok()
                .filter(|serial| (1..=MAX_SERIAL_LEN).contains(&serial.len()));
            serial.map(hex::encode).ok_or("a serial number in hexadecimal")
        })
    }
}

/// Reads each text of a list of bounded length.
fn listed<T>(
    texts: &[String],
    claim: &str,
    problems: &mut Vec<Problem>,
    read: impl Fn(&str) -> Result<T, &'static str>,
) -> Vec<T> {
    if texts.len() > MAX_IDENTITIES {
        let expected = format!("at most {MAX_IDENTITIES}");
        problems.push(Problem::new(PolicyCode::TargetsTooMany, claim, expected, texts.len()));
        return Vec::new();
    }
    let mut found = Vec::with_capacity(texts.len());
    for text in texts {
        match read(text) {
            Ok(value) => found.push(value),
            Err(expected) => problems.push(Problem::new(PolicyCode::NodeUnreadable, claim, expected, text)),
        }
    }
    found
}

/// A device identity as it is written.
pub fn device_text(device: &DeviceId) -> String {
    match device {
        DeviceId::Key(digest) => format!("key:{}", hex::encode(digest)),
        DeviceId::Serial(serial) => format!("serial:{serial}"),
        DeviceId::Hardware(name) => format!("hardware:{}:{}", name.hardware_type, hex::encode(&name.serial)),
        DeviceId::Gce(GceInstance { project, instance }) => format!("gce:{project}/{instance}"),
    }
}

fn device(text: &str) -> Option<DeviceId> {
    match text.split_once(':')? {
        ("key", digits) => {
            let mut digest = [0; 32];
            hex::decode_to_slice(digits, &mut digest).ok()?;
            Some(DeviceId::Key(digest))
        }
        ("serial", serial) => (1..=MAX_SERIAL_LEN)
            .contains(&serial.len())
            .then(|| DeviceId::Serial(serial.to_owned())),
        ("hardware", rest) => {
            let (hardware_type, serial) = rest.split_once(':')?;
            let dotted = !hardware_type.is_empty() && hardware_type.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            let serial = hex::decode(serial)
                .ok()
                .filter(|s| (1..=MAX_SERIAL_LEN).contains(&s.len()))?;
            dotted.then(|| {
                DeviceId::Hardware(HardwareModuleName {
                    hardware_type: hardware_type.to_owned(),
                    serial,
                })
            })
        }
        ("gce", rest) => {
            let (project, instance) = rest.split_once('/')?;
            // One spelling a number, or one instance could be two entries.
            let number = |text: &str| text.parse::<u64>().ok().filter(|number| number.to_string() == text);
            Some(DeviceId::Gce(GceInstance {
                project: number(project)?,
                instance: number(instance)?,
            }))
        }
        _ => None,
    }
}

fn devices(texts: &[String], claim: &str, problems: &mut Vec<Problem>) -> Vec<DeviceId> {
    if texts.len() > MAX_IDENTITIES {
        let expected = format!("at most {MAX_IDENTITIES}");
        problems.push(Problem::new(PolicyCode::TargetsTooMany, claim, expected, texts.len()));
        return Vec::new();
    }
    let mut found = Vec::with_capacity(texts.len());
    for text in texts {
        match device(text) {
            Some(device) => found.push(device),
            None => {
                let expected = "key:, serial:, hardware: or gce: and an identity";
                problems.push(Problem::new(PolicyCode::NodeUnreadable, claim, expected, text));
            }
        }
    }
    found
}

fn unreadable(file: &str, found: String) -> PolicyError {
    PolicyError::new(PolicyCode::NodeUnreadable, file, "a node entry", found)
}

fn identities(texts: &[String], lengths: &[usize], claim: &str, problems: &mut Vec<Problem>) -> Vec<Vec<u8>> {
    if texts.len() > MAX_IDENTITIES {
        let expected = format!("at most {MAX_IDENTITIES}");
        problems.push(Problem::new(PolicyCode::TargetsTooMany, claim, expected, texts.len()));
        return Vec::new();
    }
    let mut found = Vec::with_capacity(texts.len());
    for text in texts {
        match hex::decode(text) {
            // A TPM Name begins with the algorithm of its digest, so upper and lower case are one identity.
            Ok(bytes) if lengths.contains(&bytes.len()) => found.push(bytes),
            _ => {
                let expected = format!("{lengths:?} bytes in hexadecimal");
                problems.push(Problem::new(PolicyCode::NodeUnreadable, claim, expected, text));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const EK: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

    fn parse(json: &str) -> Result<Node, PolicyCode> {
        let node = NodeFile::parse("nodes/a.json", "a", json.as_bytes()).and_then(|n| n.to_node("nodes/a.json"));
        node.map_err(|e| e.code())
    }

    #[test]
    fn a_node_is_read_and_written() {
        let json = format!(r#"{{"name":"a","region":"eu-1","zone":"z","roles":["web"],"ek":["{EK}"]}}"#);
        let node = parse(&json).unwrap();
        assert_eq!(
            (node.region.as_str(), node.authority.as_str(), node.ek.len()),
            ("eu-1", AUTHORITY, 1)
        );
        let file = NodeFile::parse("", "a", json.as_bytes()).unwrap();
        assert_eq!(NodeFile::parse("", "a", &file.to_json()).unwrap(), file);
        assert_eq!(
            NodeFile::parse_all("", format!(r#"{{"nodes":[{json}]}}"#).as_bytes()).unwrap(),
            [file]
        );
    }

    #[test]
    fn devices_are_read_as_they_are_written() {
        let all = [
            DeviceId::Key([7; 32]),
            DeviceId::Serial("SN:1 2".into()),
            DeviceId::Gce(GceInstance {
                project: 117_473_819_753,
                instance: u64::MAX,
            }),
            DeviceId::Hardware(HardwareModuleName {
                hardware_type: "2.23.133.1.2".into(),
                serial: b"x1".to_vec(),
            }),
        ];
        for id in all {
            assert_eq!(device(&device_text(&id)), Some(id));
        }
        for bad in [
            "",
            "key:00",
            "serial:",
            "hardware:2.23",
            "hardware::00",
            "hardware:2.x:00",
            "hardware:2.2:",
            "mac:1",
            "gce:1",
            "gce:01/2",
            "gce:1/+2",
        ] {
            assert_eq!(device(bad), None, "{bad}");
        }
        let node = parse(r#"{"name":"a","region":"eu-1","devices":["serial:1"]}"#).unwrap();
        assert_eq!(node.devices, [DeviceId::Serial("1".into())]);
        let bad = r#"{"name":"a","region":"eu-1","devices":["mac:1"]}"#;
        assert_eq!(parse(bad), Err(PolicyCode::NodeUnreadable));
    }

    #[test]
    fn a_volume_is_read_or_refused() {
        const UUID: &str = "4878cbe9-f3c5-4d20-82da-b2bb10ae2940";
        let with = |uuid: &str, pcr15: &str| {
            parse(&format!(
                r#"{{"name":"a","region":"eu-1","ek":["{EK}"],"volume":{{"luks_uuid":"{uuid}","pcr15":"{pcr15}"}}}}"#
            ))
        };
        let volume = with(UUID, EK).unwrap().volume.unwrap();
        assert_eq!((volume.luks_uuid.as_str(), volume.register.len()), (UUID, 32));
        assert_eq!(with(UUID, &"ab".repeat(48)).unwrap().volume.unwrap().register.len(), 48);
        let zeros = "00".repeat(32);
        for (uuid, pcr15) in [
            ("", EK),
            (&UUID.to_uppercase(), EK),
            (&UUID.replace('-', ""), EK),
            (&format!("{UUID}0"), EK),
            ("4878cbe9-f3c5-4d20-82da-b2bb10ae294g", EK),
            ("../../../../etc/passwd", EK),
            (UUID, ""),
            (UUID, "aa"),
            (UUID, &zeros),
            (UUID, &format!("{EK}aa")),
        ] {
            assert_eq!(with(uuid, pcr15), Err(PolicyCode::NodeUnreadable), "{uuid} {pcr15}");
        }
        let more = format!(r#"{{"name":"a","region":"eu-1","ek":["{EK}"],"volume":{{"luks_uuid":"{UUID}"}}}}"#);
        assert_eq!(parse(&more), Err(PolicyCode::NodeUnreadable));
    }

    #[test]
    fn hostile_names_name_nothing() {
        for name in crate::node_name::hostile() {
            let shown: String = name.chars().take(40).collect();
            for (key, node) in [
                (
                    "name",
                    NodeFile {
                        name: name.clone(),
                        ..good()
                    },
                ),
                (
                    "region",
                    NodeFile {
                        region: name.clone(),
                        ..good()
                    },
                ),
                (
                    "zone",
                    NodeFile {
                        zone: Some(name.clone()),
                        ..good()
                    },
                ),
                (
                    "owner",
                    NodeFile {
                        owner: Some(name.clone()),
                        ..good()
                    },
                ),
                (
                    "roles",
                    NodeFile {
                        roles: vec![name.clone()],
                        ..good()
                    },
                ),
            ] {
                let refused = node.to_node("nodes/a.json").unwrap_err();
                assert_eq!(refused.code(), PolicyCode::SettingsName, "{key} {shown:?}");
                // What is told of it cannot write to the terminal it is told on.
                let told = refused.to_string();
                assert!(
                    told.len() < 8192 && !told.chars().any(|c| c.is_control() && c != '\n'),
                    "{key} {shown:?}"
                );
            }
        }
    }

    fn good() -> NodeFile {
        NodeFile {
            name: "a".into(),
            region: "eu-1".into(),
            ek: vec![EK.into()],
            ..NodeFile::default()
        }
    }

    #[test]
    fn a_place_names_its_own_nodes_and_no_others() {
        let eu = Place {
            region: Some("eu-1"),
            authority: "eu-1",
        };
        assert_eq!(
            (eu.name_of("web"), Place::WHOLE.name_of("web")),
            ("eu-1/web".into(), "web".into())
        );
        for (place, name, region, good) in [
            (eu, "eu-1/web", "eu-1", true),
            (eu, "eu-1/web", "us-1", false),
            (eu, "us-1/web", "eu-1", false),
            (eu, "us-1/web", "us-1", false),
            (eu, "web", "eu-1", false),
            (Place::WHOLE, "web", "us-1", true),
            (Place::WHOLE, "eu-1/web", "eu-1", false),
        ] {
            let node = NodeFile {
                name: name.into(),
                region: region.into(),
                ..self::good()
            };
            let read = node.to_node_at("file", place);
            match read {
                Ok(node) => assert!(good && node.authority == place.authority, "{name} {region}"),
                Err(error) => assert!(
                    !good && error.code() == PolicyCode::NodeOutsideRegion,
                    "{name} {region}"
                ),
            }
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        use PolicyCode::*;
        let rows = [
            (
                format!(r#"{{"name":"a","region":"eu-1","ek":["{EK}"],"admin":true}}"#),
                NodeUnreadable,
            ),
            (
                format!(r#"{{"name":"b","region":"eu-1","ek":["{EK}"]}}"#),
                NodeUnreadable,
            ),
            (format!(r#"{{"name":"a","ek":["{EK}"]}}"#), NodeUnreadable),
            (format!(r#"{{"name":"a","region":"EU","ek":["{EK}"]}}"#), SettingsName),
            (
                format!(r#"{{"name":"a","region":"eu-1","roles":["a b"],"ek":["{EK}"]}}"#),
                SettingsName,
            ),
            (
                format!(r#"{{"name":"a","region":"eu-1","zone":"","ek":["{EK}"]}}"#),
                SettingsName,
            ),
            (r#"{"name":"a","region":"eu-1"}"#.to_owned(), NodeIdentityMissing),
            (
                r#"{"name":"a","region":"eu-1","ek":[]}"#.to_owned(),
                NodeIdentityMissing,
            ),
            (r#"{"name":"a","region":"eu-1","ek":["00"]}"#.to_owned(), NodeUnreadable),
            (
                format!(r#"{{"name":"a","region":"eu-1","ak_names":["{EK}"]}}"#),
                NodeUnreadable,
            ),
            ("[]".to_owned(), NodeUnreadable),
            (String::new(), NodeUnreadable),
        ];
        for (json, code) in rows {
            assert_eq!(parse(&json), Err(code), "{json}");
        }
        assert!(NodeFile::parse_all("inventory.json", br#"{"nodes":[]}"#).is_err());
        assert!(NodeFile::parse_all("inventory.json", br#"{"nodes":[],"x":1}"#).is_err());
    }
}
