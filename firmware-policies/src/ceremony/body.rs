//! A role's metadata before and after it is signed.

use tough::schema::{Role, Root, Signature, Signed, Targets};

use crate::error::{PolicyCode, PolicyError};
use crate::keys::KeyRole;

/// What is signed: the content of one role.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RoleBody {
    /// The root.
    Root(Root),
    /// The whole's list of targets.
    Targets(Targets),
    /// A region's list of targets.
    Region(String, Targets),
}

impl RoleBody {
    /// Which role it is.
    pub fn role(&self) -> KeyRole {
        match self {
            RoleBody::Root(_) => KeyRole::Root,
            RoleBody::Targets(_) => KeyRole::Targets,
            RoleBody::Region(id, _) => KeyRole::Region(id.clone()),
        }
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        match self {
            RoleBody::Root(root) => root.version.get(),
            RoleBody::Targets(targets) | RoleBody::Region(_, targets) => targets.version.get(),
        }
    }

    /// When it ends, Unix seconds.
    pub fn expires(&self) -> i64 {
        match self {
            RoleBody::Root(root) => root.expires.as_second(),
            RoleBody::Targets(targets) | RoleBody::Region(_, targets) => targets.expires.as_second(),
        }
    }

    /// Role and version, as refusals name them: `targets version 7`.
    pub fn claim(&self) -> String {
        format!("{} version {}", self.role(), self.version())
    }

    /// The name of its file: `7.targets.json`.
    pub fn file(&self) -> String {
        format!("{}.{}.json", self.version(), self.role())
    }

    /// What is signed: canonical JSON (TUF 1.0.34, 4.2).
    pub fn canonical(&self) -> Result<Vec<u8>, PolicyError> {
        let form = match self {
            RoleBody::Root(root) => root.canonical_form(),
            RoleBody::Targets(targets) | RoleBody::Region(_, targets) => targets.canonical_form(),
        };
        form.map_err(|e| PolicyError::new(PolicyCode::MetadataUnreadable, self.claim(), "JSON", e))
    }

    /// The file with these signatures.
    pub fn to_json(&self, signatures: Vec<Signature>) -> Result<Vec<u8>, PolicyError> {
        let bytes = match self {
            RoleBody::Root(root) => to_json(root, signatures),
            RoleBody::Targets(targets) | RoleBody::Region(_, targets) => to_json(targets, signatures),
        };
        bytes.map_err(|e| PolicyError::new(PolicyCode::MetadataUnreadable, self.claim(), "JSON", e))
    }

    /// Reads a file of this role.
    pub fn parse(role: &KeyRole, bytes: &[u8]) -> Result<(Self, Vec<Signature>), String> {
        match role {
            KeyRole::Root => {
                let file: Signed<Root> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
                Ok((RoleBody::Root(file.signed), file.signatures))
            }
            KeyRole::Targets => {
                let file: Signed<Targets> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
                Ok((RoleBody::Targets(file.signed), file.signatures))
            }
            KeyRole::Region(id) => {
                let file: Signed<Targets> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
                Ok((RoleBody::Region(id.clone(), file.signed), file.signatures))
            }
            other => Err(format!("{other} is made when a version is published, never proposed")),
        }
    }
}

/// A metadata file, ending with a line break.
pub(crate) fn to_json<R: Role>(signed: &R, signatures: Vec<Signature>) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec_pretty(&Signed { signed, signatures })?;
    bytes.push(b'\n');
    Ok(bytes)
}
