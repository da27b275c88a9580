//! Collects unbound evidence from this machine's TPM, confidential VM, or both: for reference values, for an inventory, for
//! an offline verdict.

use std::path::Path;

use touchstone_evidence::collection::{Collection, EnvelopeError, Label};
use touchstone_evidence::pcr_values;

use crate::agent::attester::{Attester, AttesterError};
use crate::agent::cvm::Cvm;
use crate::logs::{self, LogReadError};
use crate::tee::REPORT_DATA_LEN;

/// Why nothing was collected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The hardware did not do its part.
    #[error(transparent)]
    Attester(#[from] AttesterError),
    /// A log could not be read.
    #[error(transparent)]
    Log(#[from] LogReadError),
    /// Larger than an envelope may be.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// A nonce longer than a report's data.
    #[error("the nonce has {found} bytes: a report carries {REPORT_DATA_LEN}")]
    Nonce {
        /// How many.
        found: usize,
    },
}

/// Logs to send along, read after the quote.
#[derive(Debug, Clone, Copy, Default)]
pub struct Logs<'a> {
    /// The firmware's.
    pub firmware: Option<&'a Path>,
    /// IMA's list.
    pub ima: Option<&'a Path>,
}

/// Unbound evidence in the making: everything in it is over one raw nonce.
#[derive(Debug)]
pub struct Collector {
    nonce: Vec<u8>,
    collection: Collection,
}

impl Collector {
    /// Evidence over this nonce.
    #[must_use]
    pub fn new(nonce: &[u8]) -> Self {
        Self {
            nonce: nonce.to_vec(),
            collection: Collection::unbound(),
        }
    }

    /// Adds a quote of `selection`, with keys, values and the logs.
    ///
    /// # Errors
    /// [`CollectError`].
    pub fn quote(
        &mut self,
        attester: &mut Attester,
        selection: &[(u16, Vec<u8>)],
        logs: Logs<'_>,
    ) -> Result<(), CollectError> {
        let quote = attester.quote(selection, &self.nonce)?;
        let collection = &mut self.collection;
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
        if let Some(path) = logs.firmware {
            collection.insert(Label::FirmwareEventLog, logs::firmware_log(path)?)?;
        }
        if let Some(path) = logs.ima {
            collection.insert(Label::ImaLog, logs::ima_list(path, 0)?)?;
        }
        Ok(())
    }

    /// Adds a report of a confidential VM, over the nonce filled up with zeros, with its certificates and its log.
    ///
    /// # Errors
    /// [`CollectError`].
    pub fn report(&mut self, cvm: &mut Cvm) -> Result<(), CollectError> {
        let mut data = [0; REPORT_DATA_LEN];
        let place = data.get_mut(..self.nonce.len());
        let place = place.ok_or(CollectError::Nonce {
            found: self.nonce.len(),
        })?;
        place.copy_from_slice(&self.nonce);
        let (label, report) = cvm.report(&data)?;
        self.collection.insert(label, report)?;
        for (label, bytes) in cvm.records() {
            self.collection.insert(*label, bytes.clone())?;
        }
        if let Some((label, path)) = cvm.log() {
            self.collection.insert(label, Cvm::read_log(&path)?)?;
        }
        Ok(())
    }

    /// The envelope.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.collection.encode()
    }
}
