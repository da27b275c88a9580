//! What keeper and guard say to each other over the guard's Unix socket: one JSON object a line.

use serde::{Deserialize, Serialize};
use touchstone_authorization::{Action, Scope};

use super::bundle::is_id;
use super::reason::{ContainerCode, ContainerRefused};

/// The longest line.
pub const MAX_LINE: usize = 16 * 1024;
/// How often a guard says that it is there, in milliseconds.
pub const BEAT_MS: u64 = 250;

/// A keeper asks for its container to be watched, and goes on listening.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// The container's id.
    pub container: String,
    /// Its first process.
    pub pid: u32,
    /// When that began, in clock ticks since the machine did.
    pub start: u64,
    /// The right it needs.
    pub action: String,
    /// To what.
    pub resource: String,
}

impl Watch {
    /// The right.
    ///
    /// # Errors
    /// `container-id-invalid`, `container-right-malformed`.
    pub fn scope(&self) -> Result<Scope, ContainerRefused> {
        if !is_id(&self.container) {
            return Err(ContainerRefused::new(ContainerCode::IdInvalid, &self.container));
        }
        let scope = Action::parse(&self.action).and_then(|action| Scope::new(action, &self.resource).ok());
        let found = || format!("{}:{}", self.action, self.resource);
        scope.ok_or_else(|| ContainerRefused::new(ContainerCode::RightMalformed, found()))
    }
}

/// What the guard says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "standing", rename_all = "kebab-case")]
pub enum Said {
    /// The container may run.
    Allowed {
        /// For how long without another word, in milliseconds: as long as the guard's trust state is fresh, or the
        /// authorization lasts.
        for_ms: u64,
    },
    /// It stands still.
    Suspended {
        /// For how long it may stand still without another word, in milliseconds.
        for_ms: u64,
    },
    /// It must not start, or is being ended.
    Refused {
        /// The stable codes.
        codes: Vec<String>,
        /// Every reason, as `code: words`.
        reasons: Vec<String>,
    },
}

impl Said {
    /// A refusal for one reason.
    #[must_use]
    pub fn refused(why: &ContainerRefused) -> Self {
        Self::Refused {
            codes: vec![why.code.as_str().to_owned()],
            reasons: vec![why.to_string()],
        }
    }
}
