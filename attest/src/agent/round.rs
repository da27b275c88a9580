//! One attestation: hello, challenge, binder, quote, evidence, answer (`docs/protocol.md`).

use touchstone_evidence::message::Answer;

use super::attester::AttesterError;
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
        // The certificates that the evidence announced are those of the platform before.
        Err(RoundError::Attester(AttesterError::PlatformChanged)) => attempt(client, tpm, context, context.whole).await,
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
    let hello = tpm.run(move |machine| machine.hello(known, boot)).await?;
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
        .run(move |machine| machine.answer(&domain, &logs, known, &challenge, exporter))
        .await??;
    Ok(client.submit(&submission).await?.answer)
}
