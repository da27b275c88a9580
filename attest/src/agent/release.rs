//! Fetching a key: authorization and proof of possession to the broker; what comes back is checked in full before the
//! receive key is used at all (`docs/protocol.md`, section 11).

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_authorization::{Channel, Proof, Scope, UntrustedAuthorization};
use touchstone_cose::cbor::{Limits, Value};
use touchstone_cose::encrypt::{EncryptError, Sealed};
use touchstone_cose::key::KID_LEN;
use touchstone_cose::sign1::Unverified;
use touchstone_evidence::message::{
    KEY_TYPE, MAX_SEALED, RELEASE_TYPE, ReleaseAnswer, ReleaseRequest, ReleasedKey, STATEMENT_LABEL, WireReason,
    release_audience, release_nonce,
};
use touchstone_ledger::statement::{Kind, Outcome};
use touchstone_policies::keyset_file::Job;

use super::config::AgentConfig;
use super::desk::{Desk, PresentError};
use super::machine::HeldKey;
use super::owner::{OwnerGone, TpmOwner};
use super::state::StateDir;
use crate::client::{BrokerClient, ClientError};
use crate::clock;
use crate::trust::DomainTrust;

/// What an answer's signed object may make a decoder do.
const LIMITS: Limits = Limits {
    max_bytes: MAX_SEALED,
    max_depth: 8,
    max_items: 64,
};

/// Where keys come from. The domain's policy is read anew for each: its keyset is what an answer is checked with.
#[derive(Debug)]
pub struct Releases {
    /// Of the agent.
    pub config: AgentConfig,
    /// Of the agent.
    pub state: StateDir,
}

impl Releases {
    pub(super) async fn trust(&self) -> Result<DomainTrust, ReleaseError> {
        let trust = super::load(&self.config, &self.state).await;
        trust.map_err(|e| ReleaseError::Domain(e.to_string()))
    }
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyWanted {
    /// The key's name.
    pub key: String,
    /// The version; none for the newest.
    pub version: Option<u64>,
    /// The resource it is filed under.
    pub resource: String,
}

/// A key that came, and the statement that says so.
#[derive(Debug)]
pub struct Fetched {
    /// The key.
    pub key: ReleasedKey,
    /// Digest of the statement in the ledger.
    pub statement: [u8; 32],
}

/// Why no key came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// Nothing to present, or it could not be signed.
    #[error(transparent)]
    Present(#[from] PresentError),
    /// No broker, or a refusal before a decision.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The domain's policy, or the agent's configuration.
    #[error("{0}")]
    Domain(String),
    /// The TPM's thread.
    #[error(transparent)]
    Owner(#[from] OwnerGone),
    /// The broker denied, and recorded that.
    #[error("denied: {}", words(.0))]
    Denied(Vec<WireReason>),
    /// What the broker answered does not hold; the receive key was not used.
    #[error("the broker's answer does not hold: {0}")]
    Unproven(String),
    /// The answer holds and does not open.
    #[error("{} ({})", .0, .0.code())]
    Open(EncryptError),
}

fn words(reasons: &[WireReason]) -> String {
    let lines: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

impl Desk {
    /// Fetches a key with what this node holds.
    ///
    /// # Errors
    /// [`ReleaseError`]
    pub async fn fetch(&self, wanted: &KeyWanted) -> Result<Fetched, ReleaseError> {
        let standing = self.standing().word();
        let not_authorized = || PresentError::NotAuthorized { standing };
        let authorization = self.authorization().ok_or_else(not_authorized)?;
        let releases = self.releases().ok_or_else(not_authorized)?;
        let scope = format!("release:{}", wanted.resource);
        let scope = Scope::parse(&scope).map_err(|e| PresentError::Scope(e.to_string()))?;
        let trust = releases.trust().await?;
        let brokers = releases
            .config
            .endpoints()
            .map_err(|e| ReleaseError::Domain(e.to_string()))?;
        let mut client = trust.client(brokers);
        fetch(&mut client, self.tpm(), &trust, &authorization, scope, wanted).await
    }
}

/// Fetches a key with an authorization and the machine that it is bound to. `scope` is what the proof names.
///
/// # Errors
/// [`ReleaseError`]
pub async fn fetch(
    client: &mut BrokerClient,
    tpm: &TpmOwner,
    trust: &DomainTrust,
    authorization: &[u8],
    scope: Scope,
    wanted: &KeyWanted,
) -> Result<Fetched, ReleaseError> {
    fetch_as(client, tpm, trust, (authorization, None), scope, wanted).await
}

/// The same as whose key it is: the machine itself, or a workload whose key the agent holds. What comes opens with the
/// machine's receive key for both.
pub(super) async fn fetch_as(
    client: &mut BrokerClient,
    tpm: &TpmOwner,
    trust: &DomainTrust,
    (authorization, holder): (&[u8], Option<Arc<HeldKey>>),
    scope: Scope,
    wanted: &KeyWanted,
) -> Result<Fetched, ReleaseError> {
    let mut cti = [0u8; 16];
    getrandom::fill(&mut cti).map_err(|error| PresentError::Random(error.to_string()))?;
    client.connect().await?;
    let digest: [u8; 32] = Sha256::digest(authorization).into();
    let proof = Proof {
        audience: release_audience(&trust.policy.domain),
        issued_at: clock::wall_ms() / 1000,
        cti,
        authorization_digest: digest,
        scope,
        request_digest: None,
        channel: Channel::Exporter(client.export(EXPORTER_LABEL, &digest)?),
    };
    let proof = tpm
        .run(move |machine| match &holder {
            None => proof.encode_signed(&*machine.signer()),
            Some(key) => proof.encode_signed(&*machine.signer_of(key)),
        })
        .await?
        .map_err(PresentError::Signing)?;
    let request = ReleaseRequest {
        authorization: authorization.to_vec(),
        proof,
        key: wanted.key.clone(),
        version: wanted.version,
        resource: wanted.resource.clone(),
    };
    let answer = client.release(&request).await?;
    let proven = prove(trust, authorization, &cti, wanted, &answer)?;
    let Proven {
        sealed,
        signer,
        statement,
    } = proven;
    // Only now is the receive key asked for anything.
    let content = tpm
        .run(move |machine| sealed.open(&*machine.receiver(), signer, KEY_TYPE, &statement))
        .await?
        .map_err(ReleaseError::Open)?;
    let key = ReleasedKey::decode(&content).map_err(|e| ReleaseError::Unproven(e.to_string()))?;
    if key.name != wanted.key || wanted.version.is_some_and(|version| version != key.version) {
        return Err(ReleaseError::Unproven("another key than the one asked for".into()));
    }
    Ok(Fetched { key, statement })
}

/// An answer that holds: signed by a broker of the domain, for this request, and in the ledger.
#[derive(Debug)]
pub struct Proven {
    /// What the receive key opens.
    pub sealed: Sealed,
    /// The key that signed.
    pub signer: [u8; KID_LEN],
    /// Digest of the statement: additional data of the encryption.
    pub statement: [u8; 32],
}

/// Checks an answer: statement and receipt first, also of a denial; then the signature, and that it is of that statement. `cti` is the id of the proof it answers.
///
/// # Errors
/// [`ReleaseError::Denied`], or [`ReleaseError::Unproven`] for what nobody of the domain has said.
pub fn prove(
    trust: &DomainTrust,
    authorization: &[u8],
    cti: &[u8; 16],
    wanted: &KeyWanted,
    answer: &ReleaseAnswer,
) -> Result<Proven, ReleaseError> {
    let unproven = |what: &str| ReleaseError::Unproven(what.to_owned());
    let recorded = trust
        .recorded(&answer.statement, &answer.receipt)
        .map_err(ReleaseError::Unproven)?;
    let (statement, digest) = (recorded.statement(), *recorded.digest());
    let own = UntrustedAuthorization::parse(authorization)
        .and_then(|token| token.verify(&trust.authorization_keys, clock::wall_ms()))
        .map_err(|e| ReleaseError::Unproven(e.to_string()))?;
    let nonce = release_nonce(own.confirmation_thumbprint(), cti);
    let about_this = statement.kind == Kind::KeyRelease
        && statement.subject.as_deref() == Some(own.contents().subject.as_str())
        && statement.nonce.as_deref() == Some(nonce.as_slice())
        && statement.body.get(0).and_then(Value::as_text) == Some(wanted.key.as_str())
        && statement.body.get(2).and_then(Value::as_text) == Some(wanted.resource.as_str());
    if !about_this {
        return Err(unproven("the statement is about another request"));
    }
    let Some(sealed) = answer.sealed.as_deref() else {
        return Err(ReleaseError::Denied(answer.reasons.clone()));
    };
    if statement.outcome != Outcome::Allow {
        return Err(unproven("a key came beside a statement that denies it"));
    }
    let signed = Unverified::parse(sealed, LIMITS).map_err(|e| ReleaseError::Unproven(e.to_string()))?;
    let signer = signed.kid();
    let key = trust.policy.keyset.find(Job::Release, &signer, clock::wall_seconds());
    let key = &key
        .ok_or_else(|| unproven("it is not signed by a release key of the keyset"))?
        .key;
    let signed = signed
        .verify(key, RELEASE_TYPE, &[])
        .map_err(|e| ReleaseError::Unproven(e.to_string()))?;
    if signed.extra_len() != 1 || signed.extra(STATEMENT_LABEL).and_then(Value::as_bytes) != Some(digest.as_slice()) {
        return Err(unproven("it was signed for another statement"));
    }
    let sealed = Sealed::parse(signed.payload()).map_err(|e| ReleaseError::Unproven(e.to_string()))?;
    Ok(Proven {
        sealed,
        signer,
        statement: digest,
    })
}
