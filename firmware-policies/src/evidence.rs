//! Evidence as an author's source: what may be taken from it into the inventory or into a reference.
//!
//! Nothing is taken from evidence that does not hold together: the quote's signature, the digest over the register
//! values and the replay of the log are checked first. Whose machine it is, the author says; that is why it is signed.

use std::collections::BTreeMap;

use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::pcr_values;
use touchstone_verifier::corim::ReferenceEvent;
use touchstone_verifier::eventlog::{DataCheck, EventLog, SeparatorDigests};
use touchstone_verifier::inventory::EkId;
use touchstone_verifier::tpm::{AttestationKey, HashAlg, Name, Public};
use touchstone_verifier::x509::{Certificate, SubjectKey};

use crate::error::{PolicyCode, PolicyError};

/// The bank references are made in.
pub const BANK: HashAlg = HashAlg::Sha256;

/// The attestation key of evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EvidenceAk {
    /// With its TPM attributes, all as they must be.
    Checked(Name),
    /// As PEM: nothing says where it lives.
    KeyOnly,
}

/// Evidence that holds together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckedEvidence {
    pub ak: EvidenceAk,
    /// Its endorsement key, where it names one.
    pub ek: Option<EkId>,
    /// Quoted register values of [`BANK`].
    pub registers: BTreeMap<u8, Vec<u8>>,
    /// The events that led to them; none where there is no log.
    pub events: Option<Vec<ReferenceEvent>>,
}

fn refused(claim: &str, expected: &str, found: impl std::fmt::Display) -> PolicyError {
    PolicyError::new(PolicyCode::EvidenceRefused, claim, expected, found)
}

impl CheckedEvidence {
    /// Reads an envelope and checks that it holds together.
    pub fn read(bytes: &[u8]) -> Result<Self, PolicyError> {
        let collection = Collection::decode(bytes)
            .map_err(|e| PolicyError::new(PolicyCode::EvidenceUnreadable, "evidence", "an evidence envelope", e))?;
        let record = |label: Label| {
            let missing = || refused(label.as_str(), "a record", "none");
            collection.get(label).ok_or_else(missing)
        };
        let (key, ak) = attestation_key(&collection)?;
        let quote = key.verify_quote(record(Label::TpmQuote)?, record(Label::TpmQuoteSignature)?);
        let quote = quote.map_err(|e| refused("quote", "a quote signed by the attestation key", e))?;
        let values = pcr_values::decode(record(Label::TpmPcrValues)?);
        let values = values.map_err(|e| refused(Label::TpmPcrValues.as_str(), "register values", e))?;
        quote
            .check_values(|bank, register| values.get(&(bank.tpm_id(), register)).map(Vec::as_slice))
            .map_err(|e| refused(Label::TpmPcrValues.as_str(), "the values that were quoted", e))?;
        // Values by the signed selection, never by what else came along.
        let quoted = quote.info().selection.iter().filter(|(bank, _)| *bank == BANK);
        let registers: BTreeMap<u8, Vec<u8>> = quoted
            .filter_map(|(bank, register)| Some((register, values.get(&(bank.tpm_id(), register))?.clone())))
            .collect();
        let log = collection.get(Label::FirmwareEventLog);
        let events = log.map(|log| events(log, &registers)).transpose()?;
        Ok(CheckedEvidence {
            ak,
            ek: endorsement_key(&collection)?,
            registers,
            events,
        })
    }
}

fn attestation_key(collection: &Collection) -> Result<(AttestationKey, EvidenceAk), PolicyError> {
    if let Some(bytes) = collection.get(Label::TpmAkPublic) {
        let claim = Label::TpmAkPublic.as_str();
        let public = Public::from_tpm2b_or_tpmt(bytes).map_err(|e| refused(claim, "a public area", e))?;
        let ak = public.check_ak().map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            PolicyError::new(
                PolicyCode::IdentityRefused,
                claim,
                "an attestation key",
                faults.join("; "),
            )
        })?;
        return Ok((AttestationKey::from(&ak), EvidenceAk::Checked(ak.name().clone())));
    }
    let Some(bytes) = collection.get(Label::TpmAkPem) else {
        return Err(refused("attestation key", "a record", "none"));
    };
    let key = subject_key_from_pem(bytes).map_err(|e| refused(Label::TpmAkPem.as_str(), "a public key", e))?;
    Ok((AttestationKey::without_attributes(key), EvidenceAk::KeyOnly))
}

/// The endorsement key: of the certificate, of the public area, or of both where they are the same.
fn endorsement_key(collection: &Collection) -> Result<Option<EkId>, PolicyError> {
    let (certificate, public) = (Label::TpmEkCertificate, Label::TpmEkPublic);
    let from_certificate = collection.get(certificate).map(|der| {
        let parsed = Certificate::from_der(der).map_err(|e| refused(certificate.as_str(), "a certificate", e))?;
        Ok(EkId(parsed.key().spki_sha256()))
    });
    let from_public = collection.get(public).map(|bytes| {
        let parsed = Public::from_tpm2b_or_tpmt(bytes).map_err(|e| refused(public.as_str(), "a public area", e))?;
        Ok(EkId(parsed.subject_key().spki_sha256()))
    });
    match (from_certificate.transpose()?, from_public.transpose()?) {
        (Some(a), Some(b)) if a != b => Err(refused(
            "endorsement key",
            "the certificate's key",
            "another public area",
        )),
        (a, b) => Ok(a.or(b)),
    }
}

/// The log's events up to what was quoted, after the log has been believed: it replays, and does not lie about its data.
fn events(log: &[u8], registers: &BTreeMap<u8, Vec<u8>>) -> Result<Vec<ReferenceEvent>, PolicyError> {
    let claim = Label::FirmwareEventLog.as_str();
    let log = EventLog::parse(log).map_err(|e| refused(claim, "an event log", e))?;
    let replay = log
        .replay(BANK)
        .map_err(|e| refused(claim, "digests of the quoted bank", e))?;
    // Registers that the firmware's log says nothing about (10, say) are not its to prove.
    let logged: Vec<(u32, &[u8])> = registers
        .iter()
        .map(|(register, value)| (u32::from(*register), value.as_slice()))
        .filter(|(register, _)| replay.is_extended(*register))
        .collect();
    let prefix = log
        .match_prefix(BANK, &logged)
        .map_err(|e| refused(claim, "the quoted values by replay", e))?;
    let separators = SeparatorDigests::new(BANK);
    let mut events = Vec::new();
    for event in log.events().iter().take(prefix.events).filter(|e| e.is_extended()) {
        let lies = event.check_data(BANK) == DataCheck::Mismatch || separators.is_smuggled(event, BANK);
        if lies {
            let found = format!("event {} in register {}: {}", event.index, event.pcr, event.describe());
            return Err(refused(claim, "digests of what the events say", found));
        }
        let (Ok(pcr), Some(digest)) = (u8::try_from(event.pcr), event.digest(BANK)) else {
            continue;
        };
        if registers.contains_key(&pcr) {
            events.push(ReferenceEvent {
                pcr,
                event_type: event.event_type,
                digest: digest.to_vec(),
                description: event.describe(),
                data: None,
            });
        }
    }
    Ok(events)
}

/// A public key from PEM text (`PUBLIC KEY`).
pub(crate) fn subject_key_from_pem(bytes: &[u8]) -> Result<SubjectKey, String> {
    let pem = pem::parse(bytes).map_err(|e| e.to_string())?;
    if pem.tag() != "PUBLIC KEY" {
        return Err(format!("PEM of {}", pem.tag()));
    }
    SubjectKey::from_spki_der(pem.contents()).map_err(|e| e.to_string())
}

/// Whether a file is PEM rather than binary.
pub(crate) fn is_pem(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"-----BEGIN ")
}
