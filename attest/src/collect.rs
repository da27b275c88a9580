//! Collects unbound evidence from this machine's TPM: for reference values, for an inventory, for an offline verdict.

use std::path::Path;

use touchstone_evidence::collection::{Collection, EnvelopeError, Label};
use touchstone_evidence::pcr_values;

use crate::agent::attester::{Attester, AttesterError};
use crate::logs::{self, LogReadError};

/// Why nothing was collected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The TPM did not do its part.
    #[error(transparent)]
    Attester(#[from] AttesterError),
    /// A log could not be read.
    #[error(transparent)]
    Log(#[from] LogReadError),
    /// Larger than an envelope may be.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
}

/// Quotes `selection` over the raw `nonce` and packs it with keys, values and the logs, which are read after the
/// quote: unbound evidence, encoded.
///
/// # Errors
/// [`CollectError`].
pub fn collect(
    attester: &mut Attester,
    selection: &[(u16, Vec<u8>)],
    nonce: &[u8],
    event_log: Option<&Path>,
    ima_list: Option<&Path>,
) -> Result<Vec<u8>, CollectError> {
    let quote = attester.quote(selection, nonce)?;
    let mut collection = Collection::unbound();
    if let Some(certificate) = attester.endorsement_key().certificate() {
        collection.insert(Label::TpmEkCertificate, certificate.to_vec())?;
    }
    if let Some(chain) = attester.endorsement_key().chain() {
        collection.insert(Label::TpmEkChain, chain.to_vec())?;
    }
    collection.insert(Label::TpmEkPublic, attester.endorsement_key().public().to_vec())?;
    collection.insert(Label::TpmAkPublic, attester.attestation_key().public().to_vec())?;
    collection.insert(Label::TpmQuote, quote.attested)?;
    collection.insert(Label::TpmQuoteSignature, quote.signature)?;
    collection.insert(Label::TpmPcrValues, pcr_values::encode(&quote.values))?;
    if let Some(path) = event_log {
        collection.insert(Label::FirmwareEventLog, logs::firmware_log(path)?)?;
    }
    if let Some(path) = ima_list {
        collection.insert(Label::ImaLog, logs::ima_list(path, 0)?)?;
    }
    Ok(collection.encode())
}
