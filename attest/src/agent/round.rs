//! One attestation: hello, challenge, binder, quote, evidence, answer (`docs/protocol.md`).

use touchstone_evidence::binder::{BinderInput, Role};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::message::{Answer, BOOT_ID_LEN, Challenge, Hello, Identity, LogBytes, PROTOCOL, Submission};
use touchstone_evidence::pcr_values;
use touchstone_verifier::tpm::credential::activation_answer;

use super::attester::{Attester, AttesterError};
use super::owner::{OwnerGone, TpmOwner};
use super::tails::LogPaths;
use crate::client::{BrokerClient, ClientError};
use crate::logs::LogReadError;

/// Label of the exporter that ties evidence to one TLS connection (`docs/protocol.md`, "binder").
pub const BINDER_EXPORTER: &str = "EXPORTER-touchstone-binder";

/// The broker's refusal of logs that do not reach what was quoted, or that continue something it has not seen.
pub const LOGS_INCOMPLETE: &str = "logs-incomplete";

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
    /// A log could not be read.
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
    /// Where the machine's logs are.
    pub logs: LogPaths,
    /// True when logs are to be sent whole, whatever the broker has seen of them: after anything went wrong.
    pub whole: bool,
    /// True when the broker has accepted this identity before: its name alone is sent.
    pub known: bool,
    /// The registers that signed policy binds session keys to.
    pub session_registers: Vec<(u16, Vec<u8>)>,
}

/// Runs one round on `client`'s connection and gives the broker's answer, not yet checked.
///
/// Where the broker says that the logs were incomplete the round is made once more, with a new nonce and whole logs: only
/// what those show counts against the node.
///
/// # Errors
/// [`RoundError`]; nothing is kept of a round that failed.
pub async fn attest(client: &mut BrokerClient, tpm: &TpmOwner, context: &RoundContext) -> Result<Answer, RoundError> {
    match attempt(client, tpm, context, context.whole).await {
        Err(RoundError::Client(ClientError::Refused { code, .. })) if code == LOGS_INCOMPLETE => {
            attempt(client, tpm, context, true).await
        }
        outcome => outcome,
    }
}

async fn attempt(
    client: &mut BrokerClient,
    tpm: &TpmOwner,
    context: &RoundContext,
    whole: bool,
) -> Result<Answer, RoundError> {
    let known = context.known;
    let boot = if whole { None } else { context.logs.boot_id() };
    let hello = tpm.run(move |attester| hello(attester, known, boot)).await?;
    let challenge = client.hello(&hello).await?;
    if challenge.session_key_registers != context.session_registers {
        return Err(RoundError::Challenge {
            what: "session-key registers",
            expected: format!("{:?}", context.session_registers),
            found: format!("{:?}", challenge.session_key_registers),
        });
    }
    let exporter = client.export(BINDER_EXPORTER, &challenge.nonce)?;
    let RoundContext { domain, logs, .. } = context.clone();
    let submission = tpm
        .run(move |attester| submission(attester, &domain, &logs, known, &challenge, exporter))
        .await??;
    Ok(client.submit(&submission).await?.answer)
}

fn hello(attester: &Attester, known: bool, boot: Option<[u8; BOOT_ID_LEN]>) -> Hello {
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
        boot,
    }
}

fn submission(
    attester: &mut Attester,
    domain: &str,
    logs: &LogPaths,
    known: bool,
    challenge: &Challenge,
    tls_exporter: [u8; 32],
) -> Result<Submission, RoundError> {
    let mut records = Vec::new();
    // Every round: the broker judges the enrolled certificate anew and keeps no intermediates.
    if let Some(chain) = attester.endorsement_key().chain() {
        records.push((Label::TpmEkChain, chain.to_vec()));
    }
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
    let logs_announced = logs.announced(&challenge.selection);
    for label in &logs_announced {
        insert(&mut announced, *label, Vec::new())?;
    }
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
    let mut offsets = LogBytes::new();
    for label in logs_announced {
        let tail = logs.tail(label, &challenge.known)?;
        if tail.offset > 0 {
            offsets.insert(label, tail.offset);
        }
        if !tail.bytes.is_empty() {
            insert(&mut collection, label, tail.bytes)?;
        }
    }

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
        offsets,
    })
}

fn insert(collection: &mut Collection, label: Label, bytes: Vec<u8>) -> Result<(), RoundError> {
    collection.insert(label, bytes).map_err(evidence)
}

fn evidence(error: impl std::fmt::Display) -> RoundError {
    RoundError::Evidence(error.to_string())
}
