//! What lies below `regions/<id>/`: the targets that a sovereign region's own keys sign.

use touchstone_verifier::corim::MAX_CORIM;

use super::{is_name, is_reference_name};

/// Folder of everything regional.
pub const REGIONS_FOLDER: &str = "regions/";
/// What the name of a region's role begins with.
pub const REGION_ROLE: &str = "region-";

/// A target of one region, below `regions/<id>/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegionTarget {
    /// `policy.cedar`: the region's own Cedar policy.
    Policy,
    /// `settings.toml`: settings that only narrow the domain's.
    Settings,
    /// `inventory.json`: the region's nodes in one file.
    Inventory,
    /// `nodes/<file>.json`: the node `<id>/<file>`.
    Node(String),
    /// `references/<name>.corim`: reference values, counting in the classes that `regions.toml` names.
    Reference(String),
    /// `signers.json`: who may sign the region's reference values.
    Signers,
    /// `deny.toml`: endorsement keys and firmware that the region refuses.
    Deny,
    /// `tests/<name>.toml`: a case for the policies.
    Test(String),
}

impl RegionTarget {
    /// The kind of the target with this name below its region's folder.
    pub(super) fn of(rest: &str) -> Option<Self> {
        Some(match rest {
            "policy.cedar" => Self::Policy,
            "settings.toml" => Self::Settings,
            "inventory.json" => Self::Inventory,
            "signers.json" => Self::Signers,
            "deny.toml" => Self::Deny,
            _ => {
                let (folder, file) = rest.split_once('/')?;
                let named = |end: &str, valid: fn(&str) -> bool| {
                    let name = file.strip_suffix(end)?;
                    valid(name).then(|| name.to_owned())
                };
                match folder {
                    "nodes" => Self::Node(named(".json", is_name)?),
                    "references" => Self::Reference(named(".corim", is_reference_name)?),
                    "tests" => Self::Test(named(".toml", is_reference_name)?),
                    _ => return None,
                }
            }
        })
    }

    /// Its name below its region's folder.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Policy => "policy.cedar".into(),
            Self::Settings => "settings.toml".into(),
            Self::Inventory => "inventory.json".into(),
            Self::Node(file) => format!("nodes/{file}.json"),
            Self::Reference(name) => format!("references/{name}.corim"),
            Self::Signers => "signers.json".into(),
            Self::Deny => "deny.toml".into(),
            Self::Test(name) => format!("tests/{name}.toml"),
        }
    }

    /// Most bytes such a target may have.
    pub(super) const fn max_len(&self) -> u64 {
        match self {
            Self::Policy => 256 << 10,
            Self::Settings | Self::Signers | Self::Node(_) => 64 << 10,
            Self::Inventory | Self::Deny => 16 << 20,
            Self::Reference(_) => MAX_CORIM as u64,
            Self::Test(_) => super::MAX_TEST_LEN,
        }
    }
}
