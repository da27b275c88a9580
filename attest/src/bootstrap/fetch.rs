//! The key of this node's disk, from the broker.

use touchstone_authorization::Scope;
use zeroize::Zeroizing;

use crate::agent::owner::TpmOwner;
use crate::agent::release::{KeyWanted, ReleaseError, fetch};
use crate::client::{BrokerClient, ClientError};
use crate::trust::DomainTrust;

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    /// The broker refused it.
    #[error("{}", .0.join("; "))]
    Refused(Vec<String>),
    /// Everything else.
    #[error("{0}")]
    Failed(String),
}

/// Fetches it: the newest version of `disk/` and the node's name, under the resource of the scope that the authorization
/// grants.
///
/// # Errors
/// [`FetchError`].
pub(super) async fn disk_key(
    client: &mut BrokerClient,
    tpm: &TpmOwner,
    trust: &DomainTrust,
    (node, authorization, scope): (&str, &[u8], Scope),
) -> Result<Zeroizing<Vec<u8>>, FetchError> {
    let wanted = KeyWanted {
        key: format!("disk/{node}"),
        version: None,
        resource: scope.resource().to_owned(),
    };
    match fetch(client, tpm, trust, authorization, scope, &wanted).await {
        Ok(fetched) => Ok(fetched.key.secret),
        Err(ReleaseError::Denied(reasons)) => {
            Err(FetchError::Refused(reasons.iter().map(ToString::to_string).collect()))
        }
        Err(ReleaseError::Client(ClientError::Refused {
            code,
            message,
            mut reasons,
            ..
        })) => {
            reasons.insert(0, format!("{code}: {message}"));
            Err(FetchError::Refused(reasons))
        }
        Err(other) => Err(FetchError::Failed(other.to_string())),
    }
}
