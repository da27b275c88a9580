//! What an operator commands: to revoke, to put into quarantine, to contain, to lift.
//!
//! In two steps (`docs/protocol.md`, section 12). A preview says exactly what would fall: how many entries, whose, and the
//! digest of the set. The command names that digest; where the set has changed meanwhile nothing is taken, and it is shown
//! again. What a command does is one statement that says who commanded what.

mod carry_out;
mod holders;
pub mod plan;
mod signed;

use serde::{Deserialize, Serialize};
use serde_json::json;
use touchstone_cose::cbor::Value;

pub use carry_out::{Done, carry_out, carry_out_planned};
pub use plan::{Plan, plan};
pub use signed::{carry_out_signed, needs_no_signature};

use crate::problem::{Refusal, RefusalCode};
use crate::withdraw::BODY_CAUSE;

/// Longest reason, in bytes.
pub const MAX_WHY: usize = 512;

/// Longest name of what a command is about, in bytes.
pub const MAX_ID: usize = 256;

/// Most names that a preview lists.
pub const MAX_SHOWN: usize = 100;

/// What is commanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Rights end; a node gets new ones by its next good evidence.
    Revoke,
    /// Rights are suspended and kept.
    Quarantine,
    /// A zone, or the whole domain, is suspended.
    Contain,
    /// A quarantine, a containment or a bar is taken back.
    Lift,
    /// A node is taken out of service.
    Decommission,
    /// That is taken back.
    Reinstate,
}

impl Action {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Revoke => "revoke",
            Self::Quarantine => "quarantine",
            Self::Contain => "contain",
            Self::Lift => "lift",
            Self::Decommission => "decommission",
            Self::Reinstate => "reinstate",
        }
    }
}

/// What a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// A node, by its name.
    Node,
    /// A workload, as `<label>@<node>`.
    Workload,
    /// Whoever was given a key, by the key's name.
    Key,
    /// A reference value, by its name.
    Reference,
    /// A signer of reference values, by its name.
    Signer,
    /// One authorization and all below it: its id in hexadecimal.
    Lineage,
    /// A zone, by its name.
    Zone,
    /// The whole domain, by its name.
    Cluster,
}

impl Target {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Workload => "workload",
            Self::Key => "key",
            Self::Reference => "reference",
            Self::Signer => "signer",
            Self::Lineage => "lineage",
            Self::Zone => "zone",
            Self::Cluster => "cluster",
        }
    }
}

/// A command, as it is given on the machine itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// What is commanded.
    pub action: Action,
    /// About what.
    pub target: Target,
    /// Which.
    pub id: String,
    /// Why.
    pub reason: String,
    /// Hexadecimal SHA-256 of the set that was shown. Nothing: whatever falls is taken.
    #[serde(default)]
    pub set: Option<String>,
}

impl Command {
    /// Checks what can be checked without looking anything up.
    ///
    /// # Errors
    /// [`RefusalCode::ParameterMalformed`]
    pub fn checked(&self) -> Result<(), Refusal> {
        let malformed = |detail: String| Err(Refusal::new(RefusalCode::ParameterMalformed, detail));
        let is_text =
            |text: &str, most: usize| !text.is_empty() && text.len() <= most && !text.chars().any(char::is_control);
        if !is_text(&self.reason, MAX_WHY) {
            return malformed(format!("reason: expected one line of 1 to {MAX_WHY} bytes"));
        }
        if !is_text(&self.id, MAX_ID) {
            return malformed(format!("id: expected 1 to {MAX_ID} bytes"));
        }
        use Target as T;
        let fits = match self.action {
            Action::Revoke => !matches!(self.target, T::Zone | T::Cluster),
            Action::Quarantine => matches!(self.target, T::Node | T::Workload | T::Lineage),
            Action::Contain => matches!(self.target, T::Zone | T::Cluster),
            Action::Lift => !matches!(self.target, T::Key),
            Action::Decommission | Action::Reinstate => self.target == T::Node,
        };
        if !fits {
            return malformed(format!(
                "{} of a {} is no command",
                self.action.as_str(),
                self.target.as_str()
            ));
        }
        Ok(())
    }

    /// The digest of the set that was shown.
    ///
    /// # Errors
    /// [`RefusalCode::ParameterMalformed`]
    pub fn expected(&self) -> Result<Option<[u8; 32]>, Refusal> {
        let Some(text) = &self.set else { return Ok(None) };
        let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        let malformed = || {
            Refusal::new(
                RefusalCode::ParameterMalformed,
                "set: expected a SHA-256 in hexadecimal",
            )
        };
        bytes.map(Some).ok_or_else(malformed)
    }
}

/// Who commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// Whoever owns the administrative socket.
    Local,
    /// An operator of the signed policy, by a command of this digest.
    Operator {
        /// The name.
        name: String,
        /// SHA-256 of the signed command.
        command: [u8; 32],
        /// Its id: it counts once.
        id: [u8; 16],
        /// Until when it would have counted, Unix seconds.
        not_after: u64,
    },
}

impl By {
    /// As statements say it: "local", or the operator.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Local => "local",
            Self::Operator { name, .. } => name,
        }
    }
}

/// What the statement of a command says of it, behind what its cause says: 17 what was commanded, 18 [kind, id], 19 who.
#[must_use]
pub fn body(command: &Command, by: &By) -> Vec<(i64, Value)> {
    let target = [command.target.as_str(), command.id.as_str()].map(Value::text);
    vec![
        (BODY_CAUSE + 1, Value::text(command.action.as_str())),
        (BODY_CAUSE + 2, Value::array(target)),
        (BODY_CAUSE + 3, Value::text(by.name())),
    ]
}

/// What a preview shows.
#[must_use]
pub fn shown(command: &Command, plan: &Plan, revision: u64) -> serde_json::Value {
    json!({
        "action": command.action,
        "target": command.target,
        "id": command.id,
        "entries": plan.set.len(),
        "set": hex::encode(plan.digest),
        "revision": revision,
        "nodes": plan.nodes.iter().take(MAX_SHOWN).map(|(name, _)| name).collect::<Vec<_>>(),
        "nodes_in_all": plan.nodes.len(),
        "unread": plan.unread,
        "subjects": plan.subjects,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(action: Action, target: Target) -> Command {
        Command {
            action,
            target,
            id: "x".into(),
            reason: "why".into(),
            set: None,
        }
    }

    #[test]
    fn only_what_can_be_commanded_is_a_command() {
        use Action as A;
        use Target as T;
        for (action, target, expected) in [
            (A::Revoke, T::Node, true),
            (A::Revoke, T::Key, true),
            (A::Revoke, T::Cluster, false),
            (A::Revoke, T::Zone, false),
            (A::Quarantine, T::Workload, true),
            (A::Quarantine, T::Reference, false),
            (A::Quarantine, T::Cluster, false),
            (A::Contain, T::Zone, true),
            (A::Contain, T::Node, false),
            (A::Lift, T::Cluster, true),
            (A::Lift, T::Reference, true),
            (A::Lift, T::Key, false),
            (A::Decommission, T::Node, true),
            (A::Decommission, T::Zone, false),
        ] {
            assert_eq!(
                command(action, target).checked().is_ok(),
                expected,
                "{action:?} {target:?}"
            );
        }
        for (what, id, reason) in [
            ("no id", "", "why"),
            ("no reason", "x", ""),
            ("two lines", "x", "a\nb"),
            ("a control character", "x\u{1b}", "why"),
        ] {
            let command = Command {
                id: id.into(),
                reason: reason.into(),
                ..command(A::Revoke, T::Node)
            };
            assert!(command.checked().is_err(), "{what}");
        }
        let mut cut = command(A::Revoke, T::Node);
        cut.set = Some("00".into());
        assert!(cut.expected().is_err());
    }
}
