//! Fetching an authorization that counts in another domain: what this node holds, as far as its own domain's policy lets it
//! be used there. What comes back is checked in full before it is used.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_authorization::{Channel, Proof, Scope, UntrustedAuthorization};
use touchstone_cose::cbor::Value;
use touchstone_evidence::message::{ForeignAnswer, ForeignRequest, foreign_audience, foreign_path, release_nonce};
use touchstone_ledger::statement::{Kind, Outcome};

use super::desk::{Desk, PresentError, Presentation};
use super::owner::TpmOwner;
use super::release::ReleaseError;
use crate::client::{BrokerClient, ClientError};
use crate::clock;
use crate::trust::DomainTrust;

impl Desk {
    /// Fetches an authorization that counts in `audience` with what this node holds.
    ///
    /// # Errors
    /// [`ReleaseError`]
    pub async fn authorization_for(&self, audience: &str, scopes: &[Scope]) -> Result<Vec<u8>, ReleaseError> {
        let standing = self.standing().word();
        let not_authorized = || PresentError::NotAuthorized { standing };
        let authorization = self.authorization().ok_or_else(not_authorized)?;
        let releases = self.releases().ok_or_else(not_authorized)?;
        let trust = releases.trust().await?;
        let brokers = releases.config.endpoints();
        let mut client = trust.client(brokers.map_err(|e| ReleaseError::Domain(e.to_string()))?);
        fetch_foreign(&mut client, self.tpm(), &trust, &authorization, (audience, scopes)).await
    }
}

/// Where something is to be done, and what: an enforcer of another domain and its challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abroad {
    /// The domain.
    pub domain: String,
    /// The enforcer's id.
    pub audience: String,
    /// Its challenge.
    pub challenge: Vec<u8>,
    /// What is to be done.
    pub scope: Scope,
}

impl Desk {
    /// An authorization that counts in another domain, fetched where none is held, and a proof of possession for one of
    /// its enforcers.
    ///
    /// # Errors
    /// [`ReleaseError`]
    pub async fn present_in(&self, abroad: Abroad) -> Result<Presentation, ReleaseError> {
        let Abroad {
            domain,
            audience,
            challenge,
            scope,
        } = abroad;
        let authorization = match self.abroad(&domain, &scope) {
            Some(authorization) => authorization,
            None => {
                let own = self.authorization();
                let fetched = self.authorization_for(&domain, std::slice::from_ref(&scope)).await?;
                let fetched: Arc<[u8]> = fetched.into();
                if let Some(own) = own {
                    self.keep_abroad(&own, &domain, &scope, Arc::clone(&fetched));
                }
                fetched
            }
        };
        Ok(self.prove(&authorization, &audience, challenge, scope).await?)
    }
}

/// Fetches one with an authorization and the machine that it is bound to.
///
/// # Errors
/// [`ReleaseError::Denied`] where the broker denied and recorded that, [`ReleaseError::Unproven`] for an answer that does
/// not hold.
pub async fn fetch_foreign(
    client: &mut BrokerClient,
    tpm: &TpmOwner,
    trust: &DomainTrust,
    authorization: &[u8],
    (audience, scopes): (&str, &[Scope]),
) -> Result<Vec<u8>, ReleaseError> {
    let scope = scopes
        .first()
        .ok_or_else(|| PresentError::Scope("no scope is asked for".into()))?;
    let mut cti = [0u8; 16];
    getrandom::fill(&mut cti).map_err(|error| PresentError::Random(error.to_string()))?;
    client.connect().await?;
    let digest: [u8; 32] = Sha256::digest(authorization).into();
    let proof = Proof {
        audience: foreign_audience(&trust.policy.domain),
        issued_at: clock::wall_ms() / 1000,
        cti,
        authorization_digest: digest,
        scope: scope.clone(),
        request_digest: None,
        channel: Channel::Exporter(client.export(EXPORTER_LABEL, &digest)?),
    };
    let proof = tpm
        .run(move |machine| proof.encode_signed(&*machine.signer()))
        .await?
        .map_err(PresentError::Signing)?;
    let request = ForeignRequest {
        authorization: authorization.to_vec(),
        proof,
        audience: audience.to_owned(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
    };
    let (status, body) = client.post_here(&foreign_path(audience), request.encode()).await?;
    let answer = match ForeignAnswer::decode(&body) {
        Ok(answer) if (status == 200) == answer.authorization.is_some() => answer,
        _ => {
            return Err(ClientError::Refused {
                status,
                code: "unexplained".into(),
                message: String::from_utf8_lossy(body.get(..body.len().min(300)).unwrap_or_default()).into_owned(),
                reasons: Vec::new(),
            }
            .into());
        }
    };
    check(trust, authorization, &cti, (audience, scopes), &answer)
}

/// Checks an answer: statement and receipt first, also of a denial; then that the authorization is the one they are about,
/// for this audience, bound to the same key and no wider than asked for.
fn check(
    trust: &DomainTrust,
    authorization: &[u8],
    cti: &[u8; 16],
    (audience, scopes): (&str, &[Scope]),
    answer: &ForeignAnswer,
) -> Result<Vec<u8>, ReleaseError> {
    let unproven = |what: &str| ReleaseError::Unproven(what.to_owned());
    let recorded = trust
        .recorded(&answer.statement, &answer.receipt)
        .map_err(ReleaseError::Unproven)?;
    let (statement, digest) = (recorded.statement(), *recorded.digest());
    let verify = |bytes: &[u8]| {
        UntrustedAuthorization::parse(bytes)
            .and_then(|token| token.verify(&trust.authorization_keys, clock::wall_ms()))
            .map_err(|e| ReleaseError::Unproven(e.to_string()))
    };
    let own = verify(authorization)?;
    let nonce = release_nonce(own.confirmation_thumbprint(), cti);
    let about_this = statement.kind == Kind::FederatedAuthorization
        && statement.subject.as_deref() == Some(own.contents().subject.as_str())
        && statement.nonce.as_deref() == Some(nonce.as_slice())
        && statement.body.get(0).and_then(Value::as_text) == Some(audience);
    if !about_this {
        return Err(unproven("the statement is about another request"));
    }
    let Some(bytes) = answer.authorization.as_deref() else {
        return Err(ReleaseError::Denied(answer.reasons.clone()));
    };
    let issued = verify(bytes)?;
    let (issued, own) = (issued.contents(), own.contents());
    let as_asked = statement.outcome == Outcome::Allow
        && issued.statement == digest
        && issued.audience == audience
        && issued.subject == own.subject
        && issued.confirmation == own.confirmation
        && issued.parent == Some(own.cti)
        && issued.status == own.status
        && issued.scopes == scopes;
    if !as_asked {
        return Err(unproven("the authorization is another than the one asked for"));
    }
    Ok(bytes.to_vec())
}
