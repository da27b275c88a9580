//! Where an entry of the inventory stands, and what that lets it say.

use super::NodeFile;
use crate::error::{PolicyCode, Problem};
use crate::targets::node_name::NodeName;

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
    pub(super) fn problems(&self, node: &NodeFile, claim: &dyn Fn(&str) -> String) -> Vec<Problem> {
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
