//! Where things are in a repository, and what its targets are called.
//!
//! ```text
//! REPO/metadata/   1.root.json, N.targets.json, N.snapshot.json, timestamp.json (TUF 1.0.34, 3 and 6.2)
//! REPO/targets/    every target under its digest: nodes/<sha256>.web-1.json, regions/<id>/<sha256>.policy.cedar
//! REPO/staged/     what the next publish will sign; never read by anything else
//! ```
//! A name that is not listed here is refused, so that nothing signed is silently ignored.

mod region;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use touchstone_verifier::anchors::Purpose;
use touchstone_verifier::corim::MAX_CORIM;

pub use region::{REGION_ROLE, REGIONS_FOLDER, RegionTarget};

/// Bytes by target.
pub(crate) type Files = BTreeMap<TargetKind, Vec<u8>>;

/// Folder of the TUF metadata.
pub const METADATA: &str = "metadata";
/// Folder of the published targets.
pub const TARGETS: &str = "targets";
/// Folder of what is staged.
pub const STAGED: &str = "staged";
/// The file whose lock keeps two authors apart.
pub const LOCK: &str = ".lock";

/// Domain settings.
pub const SETTINGS: &str = "settings.toml";
/// The Cedar schema.
pub const SCHEMA: &str = "schema.cedarschema";
/// The domain's own Cedar policy.
pub const GLOBAL_POLICY: &str = "policy.cedar";
/// Who may sign reference values.
pub const SIGNERS: &str = "signers.json";
/// The broker's keys.
pub const KEYSET: &str = "keyset.json";
/// Endorsement keys and firmware that are refused.
pub const DENY: &str = "deny.toml";
/// All nodes in one file, for large domains.
pub const INVENTORY: &str = "inventory.json";
/// What each region may add.
pub const REGIONS: &str = "regions.toml";
/// The tenants of the domain.
pub const TENANTS: &str = "tenants.toml";
/// Who commands.
pub const OPERATORS: &str = "operators.toml";
/// Who reports security events.
pub const DETECTORS: &str = "detectors.toml";
/// Whose acknowledgements count.
pub const ENFORCERS: &str = "enforcers.toml";
/// What workloads reach.
pub const NETWORK: &str = "network.toml";

/// Longest name of a domain, region, zone, role or node (a DNS label's length).
pub const MAX_NAME_LEN: usize = 63;
/// Longest name of a reference.
pub const MAX_REFERENCE_NAME_LEN: usize = 63;
/// Largest file of policy tests: a case may hold evidence.
pub const MAX_TEST_LEN: u64 = 4 << 20;

/// A target, by what it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetKind {
    /// [`SETTINGS`].
    Settings,
    /// [`SCHEMA`].
    Schema,
    /// [`GLOBAL_POLICY`].
    GlobalPolicy,
    /// [`REGIONS`].
    Regions,
    /// `regions/<region>/…`.
    Region(String, RegionTarget),
    /// [`SIGNERS`].
    Signers,
    /// [`KEYSET`].
    Keyset,
    /// [`INVENTORY`].
    Inventory,
    /// `nodes/<name>.json`.
    Node(String),
    /// `anchors/<purpose>/<sha256>.der`.
    Anchor(Purpose, [u8; 32]),
    /// `intermediates/<purpose>/<sha256>.der`: leads to an anchor, vouches for nothing by itself.
    Intermediate(Purpose, [u8; 32]),
    /// `crls/<sha256>.crl`.
    Crl([u8; 32]),
    /// [`DENY`].
    Deny,
    /// `references/<name>.corim`.
    Reference(String),
    /// `ima-keys/<sha256>.der`: a key whose signatures on files count.
    ImaKey([u8; 32]),
    /// `tests/<name>.toml`: a case for the policies.
    Test(String),
    /// [`TENANTS`].
    Tenants,
    /// [`OPERATORS`].
    Operators,
    /// [`DETECTORS`].
    Detectors,
    /// [`ENFORCERS`].
    Enforcers,
    /// [`NETWORK`].
    Network,
    /// `tenants/<tenant>/policy.cedar`.
    TenantPolicy(String),
    /// `federation/<domain>.toml`: what another domain's authorizations may do in this one.
    Federation(String),
    /// `federation/<domain>.root.json`: the root that trust in that domain's policy begins with.
    FederationRoot(String),
}

impl TargetKind {
    /// Targets without which nothing can be decided.
    pub const REQUIRED: [TargetKind; 4] = [
        TargetKind::Settings,
        TargetKind::Schema,
        TargetKind::GlobalPolicy,
        TargetKind::Signers,
    ];

    /// The kind of the target with this name, if it is one of ours.
    pub fn of(name: &str) -> Option<Self> {
        let kind = match name {
            SETTINGS => TargetKind::Settings,
            SCHEMA => TargetKind::Schema,
            GLOBAL_POLICY => TargetKind::GlobalPolicy,
            SIGNERS => TargetKind::Signers,
            KEYSET => TargetKind::Keyset,
            INVENTORY => TargetKind::Inventory,
            DENY => TargetKind::Deny,
            REGIONS => TargetKind::Regions,
            TENANTS => TargetKind::Tenants,
            OPERATORS => TargetKind::Operators,
            DETECTORS => TargetKind::Detectors,
            ENFORCERS => TargetKind::Enforcers,
            NETWORK => TargetKind::Network,
            _ => {
                let (folder, rest) = name.split_once('/')?;
                match folder {
                    "regions" => {
                        let (region, rest) = rest.split_once('/')?;
                        let region = valid(region).filter(|region| is_region_name(region))?;
                        TargetKind::Region(region, RegionTarget::of(rest)?)
                    }
                    "tenants" => TargetKind::TenantPolicy(valid(rest.strip_suffix("/policy.cedar")?)?),
                    "federation" => match rest.strip_suffix(".root.json") {
                        Some(domain) => TargetKind::FederationRoot(valid(domain)?),
                        None => TargetKind::Federation(valid(rest.strip_suffix(".toml")?)?),
                    },
                    "tests" => {
                        let name = rest.strip_suffix(".toml").filter(|n| is_reference_name(n))?;
                        TargetKind::Test(name.to_owned())
                    }
                    "nodes" => TargetKind::Node(valid(rest.strip_suffix(".json")?)?),
                    "references" => {
                        let name = rest.strip_suffix(".corim").filter(|n| is_reference_name(n))?;
                        TargetKind::Reference(name.to_owned())
                    }
                    "anchors" => {
                        let (purpose, file) = rest.split_once('/')?;
                        TargetKind::Anchor(Purpose::parse(purpose)?, digest(file.strip_suffix(".der")?)?)
                    }
                    "intermediates" => {
                        let (purpose, file) = rest.split_once('/')?;
                        TargetKind::Intermediate(Purpose::parse(purpose)?, digest(file.strip_suffix(".der")?)?)
                    }
                    "crls" => TargetKind::Crl(digest(rest.strip_suffix(".crl")?)?),
                    "ima-keys" => TargetKind::ImaKey(digest(rest.strip_suffix(".der")?)?),
                    _ => return None,
                }
            }
        };
        // One target, one name: upper-case hex, for example, is not the name that we write.
        (kind.name() == name).then_some(kind)
    }

    /// The policy of a region.
    pub fn region_policy(region: &str) -> Self {
        TargetKind::Region(region.to_owned(), RegionTarget::Policy)
    }

    /// The region whose folder this lies in.
    pub fn region(&self) -> Option<&str> {
        match self {
            TargetKind::Region(region, _) => Some(region),
            _ => None,
        }
    }

    /// The name of this target.
    pub fn name(&self) -> String {
        match self {
            TargetKind::Settings => SETTINGS.into(),
            TargetKind::Schema => SCHEMA.into(),
            TargetKind::GlobalPolicy => GLOBAL_POLICY.into(),
            TargetKind::Signers => SIGNERS.into(),
            TargetKind::Keyset => KEYSET.into(),
            TargetKind::Inventory => INVENTORY.into(),
            TargetKind::Regions => REGIONS.into(),
            TargetKind::Region(region, target) => format!("{REGIONS_FOLDER}{region}/{}", target.name()),
            TargetKind::Test(name) => format!("tests/{name}.toml"),
            TargetKind::Tenants => TENANTS.into(),
            TargetKind::Operators => OPERATORS.into(),
            TargetKind::Detectors => DETECTORS.into(),
            TargetKind::Enforcers => ENFORCERS.into(),
            TargetKind::Network => NETWORK.into(),
            TargetKind::TenantPolicy(tenant) => format!("tenants/{tenant}/policy.cedar"),
            TargetKind::Federation(domain) => format!("federation/{domain}.toml"),
            TargetKind::FederationRoot(domain) => format!("federation/{domain}.root.json"),
            TargetKind::Node(name) => format!("nodes/{name}.json"),
            TargetKind::Reference(name) => format!("references/{name}.corim"),
            TargetKind::Anchor(purpose, digest) => {
                format!("anchors/{}/{}.der", purpose.as_str(), hex::encode(digest))
            }
            TargetKind::Intermediate(purpose, digest) => {
                format!("intermediates/{}/{}.der", purpose.as_str(), hex::encode(digest))
            }
            TargetKind::Crl(digest) => format!("crls/{}.crl", hex::encode(digest)),
            TargetKind::Deny => DENY.into(),
            TargetKind::ImaKey(digest) => format!("ima-keys/{}.der", hex::encode(digest)),
        }
    }

    /// Most bytes such a target may have.
    pub const fn max_len(&self) -> u64 {
        match self {
            TargetKind::Settings
            | TargetKind::Signers
            | TargetKind::Anchor(..)
            | TargetKind::Intermediate(..)
            | TargetKind::ImaKey(_)
            | TargetKind::Federation(_) => 64 << 10,
            TargetKind::Crl(_) => 4 << 20,
            TargetKind::Deny => 16 << 20,
            TargetKind::Schema | TargetKind::GlobalPolicy | TargetKind::TenantPolicy(_) => 256 << 10,
            TargetKind::Keyset
            | TargetKind::Regions
            | TargetKind::Tenants
            | TargetKind::Operators
            | TargetKind::Detectors
            | TargetKind::Network => 1 << 20,
            TargetKind::Enforcers => 4 << 20,
            TargetKind::FederationRoot(_) => 512 << 10,
            TargetKind::Test(_) => MAX_TEST_LEN,
            TargetKind::Region(_, target) => target.max_len(),
            TargetKind::Reference(_) => MAX_CORIM as u64,
            TargetKind::Node(_) => 64 << 10,
            TargetKind::Inventory => 16 << 20,
        }
    }
}

/// Whether this may name a domain, region, zone, role or node: `[a-z0-9][a-z0-9.-]{0,62}`.
pub fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= MAX_NAME_LEN
        && name.bytes().next().is_some_and(allowed)
        && name.bytes().all(|b| allowed(b) || b == b'.' || b == b'-')
}

/// What no region may be called: what the roles of the whole are called. Who signed a thing is told by these names and by
/// those of regions.
pub const RESERVED: [&str; 5] = ["root", "targets", "snapshot", "timestamp", "reference"];

/// Whether this may name a region: a name that is no role's ([`RESERVED`]).
pub fn is_region_name(name: &str) -> bool {
    is_name(name) && !RESERVED.contains(&name)
}

/// Whether this may name a reference: `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`.
pub fn is_reference_name(name: &str) -> bool {
    name.len() <= MAX_REFERENCE_NAME_LEN
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Where a published target lies: `REPO/targets/<folder>/<sha256>.<file>` (TUF 1.0.34, 5.7.3, consistent snapshots).
pub fn target_path(repo: &Path, name: &str, sha256: &[u8]) -> PathBuf {
    repo.join(TARGETS).join(digest_name(name, &hex::encode(sha256)))
}

/// A target name with its digest before the last component.
pub(crate) fn digest_name(name: &str, sha256: &str) -> String {
    match name.rsplit_once('/') {
        Some((folder, file)) => format!("{folder}/{sha256}.{file}"),
        None => format!("{sha256}.{name}"),
    }
}

fn digest(hex_digits: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(hex_digits, &mut digest).ok()?;
    Some(digest)
}

fn valid(name: &str) -> Option<String> {
    is_name(name).then(|| name.to_owned())
}

#[cfg(test)]
mod tests;
