//! One attestation: hello, challenge, binder, quote, evidence, answer (`docs/protocol.md`).

use std::path::{Path, PathBuf};

use touchstone_evidence::binder::{BinderInput, Role};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::message::{Answer, Challenge, Hello, Identity, PROTOCOL, Submission};
use touchstone_evidence::pcr_values;
use touchstone_verifier::tpm::credential::activation_answer;

use super::attester::{Attester, AttesterError};
use super::owner::{OwnerGone, TpmOwner};
use crate::client::{BrokerClient, ClientError};
use crate::logs::{self, LogReadError};

/// Label of the exporter that ties evidence to one TLS connection (`docs/protocol.md`, "binder").
pub const BINDER_EXPORTER: &str = "EXPORTER-touchstone-binder";

/// Why a round gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RoundError {
    /// The broker did not answer, or refused before a decision.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The TPM did not do its part.
    #[error(transparent)]
    Attester(#[from] AttesterError),
    /// The TPM's thread is gone.
    #[error(transparent)]
    Owner(#[from] OwnerGone),
    /// The event log could not be read.
    #[error(transparent)]
    Log(#[from] LogReadError),
    /// What the broker asks for does not follow from signed policy: its word alone is not enough.
    #[error("the broker asks for {what}: expected {expected}, found {found}")]
    Challenge {
        /// Which part of the challenge.
        what: &'static str,
        /// What signed policy says.
        expected: String,
        /// What the broker asked for.
        found: String,
    },
    /// Evidence could not be put together.
    #[error("evidence: {0}")]
    Evidence(String),
}

/// What a round needs to know besides the TPM and the connection.
#[derive(Debug, Clone)]
pub struct RoundContext {
    /// The trust domain's name.
    pub domain: String,
    /// Where the firmware's event log is.
    pub event_log: PathBuf,
    /// True when the broker has accepted this identity before: its name alone is sent.
    pub known: bool,
    /// The registers that signed policy binds session keys to.
    pub session_registers: Vec<(u16, Vec<u8>)>,
}

/// Runs one round on `client`'s connection and gives the broker's answer, not yet checked.
///
/// # Errors
/// [`RoundError`]; nothing is kept of a round that failed.
pub async fn attest(client: &mut BrokerClient, tpm: &TpmOwner, context: &RoundContext) -> Result<Answer, RoundError> {
    let known = context.known;
    let hello = tpm.run(move |attester| hello(attester, known)).await?;
    let challenge = client.hello(&hello).await?;
    if challenge.session_key_registers != context.session_registers {
        return Err(RoundError::Challenge {
            what: "session-key registers",
            expected: format!("{:?}", context.session_registers),
            found: format!("{:?}", challenge.session_key_registers),
        });
    }
    let exporter = client.export(BINDER_EXPORTER, &challenge.nonce)?;
    let RoundContext { domain, event_log, .. } = context.clone();
    let submission = tpm
        .run(move |attester| submission(attester, &domain, &event_log, known, &challenge, exporter))
        .await??;
    Ok(client.submit(&submission).await?.answer)
}

fn hello(attester: &Attester, known: bool) -> Hello {
    let identity = if known {
        Identity::Known {
            ak_name: attester.attestation_key().name().to_vec(),
        }
    } else {
        Identity::Full {
            ek_certificate: attester.endorsement_key().certificate().map(<[u8]>::to_vec),
            ek_public: attester.endorsement_key().public().to_vec(),
            ak_public: attester.attestation_key().public().to_vec(),
        }
    };
    Hello {
        protocol: PROTOCOL.into(),
        identity,
        session_key: touchstone_cose::cbor::encode(&attester.session_key().to_cose_key(true)),
        receive_key: None,
        kinds: vec!["tpm".into()],
    }
}

fn submission(
    attester: &mut Attester,
    domain: &str,
    event_log: &Path,
    known: bool,
    challenge: &Challenge,
    tls_exporter: [u8; 32],
) -> Result<Submission, RoundError> {
    let mut records = Vec::new();
    if !known {
        if let Some(certificate) = attester.endorsement_key().certificate() {
            records.push((Label::TpmEkCertificate, certificate.to_vec()));
        }
        records.push((Label::TpmEkPublic, attester.endorsement_key().public().to_vec()));
    }
    records.push((Label::TpmAkPublic, attester.attestation_key().public().to_vec()));
    if !challenge.session_key_known {
        records.push((Label::TpmSessionKey, attester.session_public_area().to_vec()));
    }
    // The manifest names the logs without a digest: a quoted register authenticates them, and they are read after the
    // quote. So it can be computed before they are there.
    let mut collection = Collection::bound();
    for (label, bytes) in records {
        insert(&mut collection, label, bytes)?;
    }
    let mut announced = collection.clone();
    insert(&mut announced, Label::TpmPcrValues, Vec::new())?;
    insert(&mut announced, Label::FirmwareEventLog, Vec::new())?;
    let binder = BinderInput {
        role: Role::Node,
        domain,
        session_id: challenge.session_id,
        nonce: challenge.nonce,
        ckt: attester.session_key().thumbprint(),
        receive_key: None,
        tls_exporter,
        manifest_digest: announced.manifest_digest().map_err(evidence)?,
    };
    let qualifying = binder.tpm_qualifying_data();

    let quote = attester.quote(&challenge.selection, &qualifying)?;
    insert(&mut collection, Label::TpmQuote, quote.attested)?;
    insert(&mut collection, Label::TpmQuoteSignature, quote.signature)?;
    insert(&mut collection, Label::TpmPcrValues, pcr_values::encode(&quote.values))?;
    if !challenge.session_key_known {
        let certified = attester.certify_session_key(&qualifying)?;
        insert(&mut collection, Label::TpmSessionKeyCertify, certified.attested)?;
        insert(
            &mut collection,
            Label::TpmSessionKeyCertifySignature,
            certified.signature,
        )?;
    }
    insert(&mut collection, Label::FirmwareEventLog, logs::firmware_log(event_log)?)?;

    let activation = match &challenge.credential {
        None => None,
        Some((blob, secret)) => {
            let credential = attester.activate_credential(blob, secret)?;
            Some(activation_answer(&credential, &binder.encode()))
        }
    };
    Ok(Submission {
        session_id: challenge.session_id,
        collection: collection.encode(),
        activation,
    })
}

fn insert(collection: &mut Collection, label: Label, bytes: Vec<u8>) -> Result<(), RoundError> {
    collection.insert(label, bytes).map_err(evidence)
}

fn evidence(error: impl std::fmt::Display) -> RoundError {
    RoundError::Evidence(error.to_string())
}
