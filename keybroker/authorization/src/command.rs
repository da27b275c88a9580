//! Commands: what an operator whom policy names orders, signed, over the very set that was shown.
//!
//! COSE_Sign1 (tag 18) by the operator's key of the signed policy (Ed25519 or P-256), typ
//! `application/touchstone-command+cwt`, claims 1 `iss` (the operator), 3 `aud` (the domain), 4 `exp` (not after), 7 `cti` (the
//! command's id: it counts once), and one private map under -65537: {0 action, 1 target as [kind, id], 2 digest of the set
//! that was shown, 3 the state's revision when it was shown, 4 reason}. Source: `docs/protocol.md`, section 12.

use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{MapReader, Value, encode};
use touchstone_cose::cwt::claim;
use touchstone_cose::key::Signer;

use crate::keys::NamedKeys;
use crate::name::{MAX_NAME, is_name};
use crate::named::{NamedError, addressed, verified};
use crate::signed::{SignedError, SignedKind, sign};

/// The typ (COSE header 16) of commands.
pub const COMMAND_TYPE: &str = "application/touchstone-command+cwt";

/// The largest command that is looked at, in bytes.
pub const MAX_COMMAND_BYTES: usize = 2_048;

/// The longest a command may count, in seconds.
pub const MAX_COMMAND_LIFE_S: u64 = 300;

/// The longest id of a target, in bytes.
pub const MAX_TARGET: usize = 256;

/// The longest reason, in bytes.
pub const MAX_REASON: usize = 512;

const MAX_WORD: usize = 32;

// Labels within the private map.
const ACTION: i64 = 0;
const TARGET: i64 = 1;
const SET: i64 = 2;
const REVISION: i64 = 3;
const REASON: i64 = 4;

/// Words of a closed list, in both directions.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$each])* $variant),+
        }

        impl $name {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word used in commands, policies and results.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }

            /// The one with this word, if there is one. Case matters.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == text)
            }
        }
    };
}

words! {
    /// What is ordered. The list is closed: what is not in it cannot be ordered.
    CommandAction {
        /// Withdraw for good.
        Revoke = "revoke",
        /// Suspend: freeze, keep, can be lifted.
        Quarantine = "quarantine",
        /// End a quarantine or a containment.
        Lift = "lift",
        /// Suspend a zone, or the whole cluster.
        Contain = "contain",
        /// Take a node out of the domain for good.
        Decommission = "decommission",
        /// Let a node that was withdrawn attest again.
        Reinstate = "reinstate",
    }
}

words! {
    /// What a command is about.
    TargetKind {
        /// A node, by name.
        Node = "node",
        /// A workload, by subject.
        Workload = "workload",
        /// A released key, by name.
        Key = "key",
        /// A reference value, by name or digest.
        Reference = "reference",
        /// A signer of reference values, by key id or name.
        Signer = "signer",
        /// One authorization or off-line delegation and all below it, by id.
        Lineage = "lineage",
        /// A zone, by name.
        Zone = "zone",
        /// The whole domain, by name.
        Cluster = "cluster",
    }
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// `aud`: the domain.
    pub domain: String,
    /// `iss`: the operator.
    pub operator: String,
    /// `cti`: 16 random bytes; a command counts once.
    pub id: [u8; 16],
    /// `exp`: the Unix second from which on it no longer counts, at most [`MAX_COMMAND_LIFE_S`] ahead.
    pub not_after: u64,
    /// What is ordered.
    pub action: CommandAction,
    /// What it is about.
    pub target: TargetKind,
    /// Which one: 1 to [`MAX_TARGET`] bytes of printable ASCII without spaces.
    pub target_id: String,
    /// Digest of the set that was shown.
    pub set: [u8; 32],
    /// The revision of the state it was shown at.
    pub revision: u64,
    /// Why, in words: 1 to [`MAX_REASON`] bytes of printable ASCII.
    pub reason: String,
}

impl Command {
    /// Signs the command with the operator's key.
    ///
    /// # Errors
    /// Contents that are not of this profile, or the signer's.
    pub fn encode_signed(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignedError> {
        self.check()?;
        sign(SignedKind::Command, &self.claims(), signer)
    }

    /// SHA-256 over the claims as they are signed: what a device signs that signs digests only.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.claims()).into()
    }

    /// Reads a command to `domain` and verifies it under the operator's key by policy, at `now_ms` (Unix milliseconds), its
    /// end widened by `skew_ms`. Whether this operator may order this, whether the set is still the one that was shown, and
    /// that it counts once, is for the broker to say.
    ///
    /// # Errors
    /// [`NamedError`]
    pub fn verify(
        bytes: &[u8],
        operators: &NamedKeys,
        domain: &str,
        (now_ms, skew_ms): (u64, u64),
    ) -> Result<Self, NamedError> {
        let (name, payload) = verified(SignedKind::Command, bytes, operators)?;
        let command = Self::read(payload)?;
        addressed(name, &command.operator, domain, &command.domain)?;
        let not_after = command.not_after;
        let ends_ms = not_after.saturating_mul(1_000);
        if now_ms >= ends_ms.saturating_add(skew_ms) {
            return Err(NamedError::Over { not_after, now_ms });
        }
        let latest_ms = now_ms
            .saturating_add(MAX_COMMAND_LIFE_S * 1_000)
            .saturating_add(skew_ms);
        if ends_ms > latest_ms {
            return Err(NamedError::Life {
                not_after,
                limit: MAX_COMMAND_LIFE_S,
                now_ms,
            });
        }
        Ok(command)
    }

    fn claims(&self) -> Vec<u8> {
        let target = [Value::text(self.target.as_str()), Value::text(self.target_id.as_str())];
        let private = Value::map([
            (ACTION, Value::text(self.action.as_str())),
            (TARGET, Value::array(target)),
            (SET, Value::bytes(self.set)),
            (REVISION, Value::Unsigned(self.revision)),
            (REASON, Value::text(self.reason.as_str())),
        ]);
        encode(&Value::map([
            (claim::ISS, Value::text(self.operator.as_str())),
            (claim::AUD, Value::text(self.domain.as_str())),
            (claim::EXP, Value::Unsigned(self.not_after)),
            (claim::CTI, Value::bytes(self.id)),
            (claim::PRIVATE, private),
        ]))
    }

    fn read(payload: Value) -> Result<Self, SignedError> {
        let mut claims = MapReader::new(payload, "command")?;
        let mut private = claims.map(claim::PRIVATE, "command, private claims")?;
        let target = private.array(TARGET)?;
        let [Value::Text(kind), Value::Text(target_id)] = target.as_slice() else {
            return Err(SignedError::malformed("a target is [kind, id]"));
        };
        let action = private.text(ACTION, MAX_WORD)?;
        let command = Self {
            domain: claims.text(claim::AUD, MAX_NAME)?,
            operator: claims.text(claim::ISS, MAX_NAME)?,
            id: claims.fixed(claim::CTI)?,
            not_after: claims.u64(claim::EXP)?,
            action: CommandAction::parse(&action).ok_or_else(|| SignedError::malformed("no such action"))?,
            target: TargetKind::parse(kind).ok_or_else(|| SignedError::malformed("no such kind of target"))?,
            target_id: target_id.clone(),
            set: private.fixed(SET)?,
            revision: private.u64(REVISION)?,
            reason: private.text(REASON, MAX_REASON)?,
        };
        claims.finish()?;
        private.finish()?;
        command.check()?;
        Ok(command)
    }

    fn check(&self) -> Result<(), SignedError> {
        if !is_name(&self.domain) || !is_name(&self.operator) {
            return Err(SignedError::malformed("iss or aud is not a name"));
        }
        let id = &self.target_id;
        if !(1..=MAX_TARGET).contains(&id.len()) || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(SignedError::malformed(
                "the target's id is not short printable ASCII without spaces",
            ));
        }
        let reason = &self.reason;
        let printable = reason.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        if !(1..=MAX_REASON).contains(&reason.len()) || !printable {
            return Err(SignedError::malformed("the reason is not short printable ASCII"));
        }
        Ok(())
    }
}
