//! What the three formats have in common that somebody signs whom policy names: acknowledgements and uses of enforcers,
//! commands of operators.

use touchstone_cose::cbor::{MapReader, Value};

use crate::keys::NamedKeys;
use crate::refusal::{Refusal, RefusalCode};
use crate::scope::{Action, Scope};
use crate::signed::{SignedError, SignedKind, UntrustedSigned};

/// Why bytes are not what somebody whom policy names says to this domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NamedError {
    /// Not of this profile, or the signature.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// The key is another's than the one in whose name it speaks.
    #[error("signed by {expected} in the name of {found}")]
    Name {
        /// Whose key it is by policy.
        expected: String,
        /// `iss`.
        found: String,
    },
    /// Said to another domain.
    #[error("for the domain {found} instead of {expected}")]
    Domain {
        /// This domain.
        expected: String,
        /// `aud`.
        found: String,
    },
    /// A command whose time is over.
    #[error("it ended at {not_after} s, it is {now_ms} ms")]
    Over {
        /// When it ended, Unix seconds.
        not_after: u64,
        /// Now, Unix milliseconds.
        now_ms: u64,
    },
    /// A command that would count for too long.
    #[error("it ends at {not_after} s, which is more than {limit} s from {now_ms} ms")]
    Life {
        /// When it ends, Unix seconds.
        not_after: u64,
        /// The longest life, seconds.
        limit: u64,
        /// Now, Unix milliseconds.
        now_ms: u64,
    },
}

impl NamedError {
    /// The stable code of this error in an object of this kind.
    #[must_use]
    pub const fn code(&self, kind: SignedKind) -> RefusalCode {
        match (self, kind) {
            (Self::Signed(error), kind) => error.code(kind),
            (Self::Name { .. }, SignedKind::Ack) => RefusalCode::AckName,
            (Self::Name { .. }, SignedKind::Use) => RefusalCode::UseName,
            (Self::Name { .. }, _) => RefusalCode::CommandName,
            (Self::Domain { .. }, SignedKind::Ack) => RefusalCode::AckDomain,
            (Self::Domain { .. }, SignedKind::Use) => RefusalCode::UseDomain,
            (Self::Domain { .. }, _) => RefusalCode::CommandDomain,
            (Self::Over { .. }, _) => RefusalCode::CommandOver,
            (Self::Life { .. }, _) => RefusalCode::CommandLife,
        }
    }

    /// This error in an object of this kind, as a refusal.
    #[must_use]
    pub fn refusal(&self, kind: SignedKind) -> Refusal {
        Refusal::new(self.code(kind), format_args!("a valid {}", kind.typ()), self)
    }
}

/// The claims of an object of this kind, and whose key of `keys` it verified under.
pub(crate) fn verified<'k>(
    kind: SignedKind,
    bytes: &[u8],
    keys: &'k NamedKeys,
) -> Result<(&'k str, Value), SignedError> {
    let signed = UntrustedSigned::parse(kind, bytes)?;
    let kid = signed.kid();
    let (name, key) = keys.find(&kid).ok_or(SignedError::KeyUnknown { kid })?;
    Ok((name, signed.verify_under(key)?))
}

/// Whether it speaks in the name of its signer, and to `domain`.
pub(crate) fn addressed(signer: &str, issuer: &str, domain: &str, audience: &str) -> Result<(), NamedError> {
    if issuer != signer {
        return Err(NamedError::Name {
            expected: signer.to_owned(),
            found: issuer.to_owned(),
        });
    }
    if audience != domain {
        return Err(NamedError::Domain {
            expected: domain.to_owned(),
            found: audience.to_owned(),
        });
    }
    Ok(())
}

/// `[action, resource]` of a scope.
pub(crate) fn act_value(scope: &Scope) -> Value {
    Value::array([Value::text(scope.action().as_str()), Value::text(scope.resource())])
}

/// The scope of `[action, resource]`.
pub(crate) fn act(map: &mut MapReader, key: i64) -> Result<Scope, SignedError> {
    let shape = || SignedError::malformed("act is [action, resource]");
    let values = map.array(key)?;
    let [action, resource] = values.as_slice() else {
        return Err(shape());
    };
    let action = action.as_text().and_then(Action::parse).ok_or_else(shape)?;
    Scope::new(action, resource.as_text().ok_or_else(shape)?).map_err(|error| SignedError::Malformed(error.to_string()))
}
