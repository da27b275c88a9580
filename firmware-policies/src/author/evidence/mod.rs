//! Evidence as an author's source: what may be taken from it into the inventory or into a reference.
//!
//! Nothing is taken from evidence that does not hold together: the signatures of quote and report, the digest over the
//! register values and the replay of the log are checked first. Whose machine it is, the author says; that is why it is
//! signed.

pub(crate) mod gpu;
pub(crate) mod snp;
pub(crate) mod tdx;

use std::collections::BTreeMap;

use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::pcr_values;
use touchstone_verifier::corim::{BankValues, Endorses, FileDigest, MAX_EVENT_REFERENCE_DATA, ReferenceEvent};
use touchstone_verifier::eventlog::identity::{Measured, needs_data};
use touchstone_verifier::eventlog::{DataCheck, Event, EventLog, Format, Replay, SeparatorDigests, phases};
use touchstone_verifier::hcl::HclReport;
use touchstone_verifier::ima::{self, EntryKind, ImaPrefix};
use touchstone_verifier::inventory::EkId;
use touchstone_verifier::tpm::{AttestationKey, HashAlg, Name, Public};
use touchstone_verifier::x509::{Certificate, SubjectKey};

use crate::error::{PolicyCode, PolicyError};

/// IMA's register: its history is another log.
pub(crate) const IMA_REGISTER: u8 = 10;

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
    /// Its attestation key, where it has a TPM's quote.
    pub ak: Option<EvidenceAk>,
    /// Its endorsement key, where it names one.
    pub ek: Option<EkId>,
    /// Its SEV-SNP guest, where it has a report.
    pub snp: Option<snp::Guest>,
    /// Its GPUs and NVSwitches, where they reported.
    pub gpus: gpu::Devices,
    /// Its TDX guest, where it has a quote.
    pub tdx: Option<tdx::Guest>,
    /// Quoted values of every bank that is not weak, each with the events that led to them where a log tells.
    pub banks: BTreeMap<HashAlg, BankValues>,
    /// The files of its IMA list that the quoted register 10 vouches for.
    pub files: Vec<FileDigest>,
    /// What could not be taken, and what was changed, in words.
    pub notes: Vec<String>,
}

pub(crate) fn refused(claim: &str, expected: &str, found: impl std::fmt::Display) -> PolicyError {
    PolicyError::new(PolicyCode::EvidenceRefused, claim, expected, found)
}

/// What should be in the place of an event that lies about itself.
fn lies(event: &Event<'_>, bank: HashAlg, separators: &SeparatorDigests) -> Option<&'static str> {
    if event.check_data(bank) == DataCheck::Mismatch {
        return Some("digests of what the events say");
    }
    separators
        .is_smuggled(event, bank)
        .then_some("a separator's digest in separators only")
}

impl CheckedEvidence {
    /// Reads an envelope and checks that it holds together.
    pub fn read(bytes: &[u8]) -> Result<Self, PolicyError> {
        let collection = Collection::decode(bytes)
            .map_err(|e| PolicyError::new(PolicyCode::EvidenceUnreadable, "evidence", "an evidence envelope", e))?;
        let mut notes = Vec::new();
        let snp = snp::read(&collection, &mut notes)?;
        let tdx = tdx::read(&collection, &mut notes)?;
        let gpus = gpu::read(&collection)?;
        let others = snp.is_some() || tdx.is_some() || !gpus.serials.is_empty();
        if others && collection.get(Label::TpmQuote).is_none() {
            return Ok(CheckedEvidence {
                ak: None,
                ek: None,
                snp,
                gpus,
                tdx,
                banks: BTreeMap::new(),
                files: Vec::new(),
                notes,
            });
        }
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
        let mut banks: BTreeMap<HashAlg, BankValues> = BTreeMap::new();
        for (bank, register) in quote.info().selection.iter().filter(|(bank, _)| !bank.is_weak()) {
            if let Some(value) = values.get(&(bank.tpm_id(), register)) {
                let registers = &mut banks.entry(bank).or_default().registers;
                registers.insert(register, value.clone());
            }
        }
        match collection.get(Label::FirmwareEventLog) {
            Some(log) => take_events(log, &mut banks, &mut notes)?,
            None => notes.push(
                "the evidence has no event log: only machines with the same register values will match, and a mismatch \
                 can name the register only, not the event"
                    .into(),
            ),
        }
        let files = take_files(&collection, &banks, &mut notes)?;
        Ok(CheckedEvidence {
            ak: Some(ak),
            ek: endorsement_key(&collection)?,
            snp,
            gpus,
            tdx,
            banks,
            files,
            notes,
        })
    }
}

/// What the golden report vouches for, by what came with it: a reference made of it lets in nothing else.
fn endorses(collection: &Collection) -> Endorses {
    let has = |label| collection.get(label).is_some();
    if has(Label::AzureHclReport) {
        Endorses::AzureVtpm
    } else if has(Label::SvsmManifest) {
        Endorses::Svsm
    } else {
        Endorses::None
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
        let Some(report) = collection.get(Label::AzureHclReport) else {
            return Err(refused("attestation key", "a record", "none"));
        };
        let report = HclReport::parse(report);
        let report = report.map_err(|e| refused(Label::AzureHclReport.as_str(), "the paravisor's report", e))?;
        let key = AttestationKey::without_attributes(report.attestation_key().clone());
        return Ok((key, EvidenceAk::KeyOnly));
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

/// The files of the IMA list, as far as the quoted register 10 vouches for it.
fn take_files(
    collection: &Collection,
    banks: &BTreeMap<HashAlg, BankValues>,
    notes: &mut Vec<String>,
) -> Result<Vec<FileDigest>, PolicyError> {
    let Some(list) = collection.get(Label::ImaLog) else {
        return Ok(Vec::new());
    };
    let claim = Label::ImaLog.as_str();
    let quoted: Vec<(HashAlg, &[u8])> = banks
        .iter()
        .filter_map(|(bank, values)| Some((*bank, values.registers.get(&IMA_REGISTER)?.as_slice())))
        .collect();
    let replayed = ima::replay(&ImaPrefix::default(), list, &quoted)
        .map_err(|e| refused(claim, "a list that the quoted register 10 vouches for", e))?;
    let violations = replayed.entries.iter().filter(|entry| entry.is_violation()).count();
    if violations > 0 {
        notes.push(format!(
            "{violations} violations in the IMA list: such machines are refused unless ima.violations is allow"
        ));
    }
    let files = ima::reference_files(&replayed.entries);
    let measured = replayed
        .entries
        .iter()
        .filter(|entry| entry.kind() == EntryKind::File)
        .count();
    if files.is_empty() && measured > 0 {
        let expected = "files with digests of SHA-256 or better (ima_hash=sha256)";
        return Err(refused(claim, expected, format!("{measured} files without one")));
    }
    notes.push(match files.len() {
        0 => "the IMA list names no file: the reference says nothing of what runs".to_owned(),
        count => format!("{count} files of the IMA list: a machine that matches must show its list"),
    });
    Ok(files)
}

/// Adds the log's events up to what was quoted, bank by bank, after the log has been believed.
fn take_events(
    log: &[u8],
    banks: &mut BTreeMap<HashAlg, BankValues>,
    notes: &mut Vec<String>,
) -> Result<(), PolicyError> {
    let claim = Label::FirmwareEventLog.as_str();
    let log = EventLog::parse(log).map_err(|e| refused(claim, "an event log", e))?;
    match log.format() {
        Format::CryptoAgile => {}
        Format::Sha1 => {
            notes.push("the event log is in the SHA-1 form and proves nothing: register values only".into());
            return Ok(());
        }
        Format::ConfidentialComputing => {
            return Err(refused(claim, "a TPM's event log", "one of a confidential VM"));
        }
    }
    if !banks.is_empty() && !banks.keys().any(|bank| log.header().has_bank(*bank)) {
        return Err(refused(claim, "digests of a quoted bank", "none"));
    }
    for (bank, values) in banks {
        if log.header().has_bank(*bank) {
            take_bank(&log, *bank, values, notes)?;
        } else {
            notes.push(format!(
                "the event log has no digests for the {bank} bank: register values only"
            ));
        }
    }
    Ok(())
}

/// The events of one bank, where the log replays to the quoted values and does not lie about its data.
fn take_bank(
    log: &EventLog<'_>,
    bank: HashAlg,
    values: &mut BankValues,
    notes: &mut Vec<String>,
) -> Result<(), PolicyError> {
    let claim = Label::FirmwareEventLog.as_str();
    let replay = log
        .replay(bank)
        .map_err(|e| refused(claim, "digests of the quoted bank", e))?;
    if let Some(note) = take_off_phases(&replay, bank, values) {
        notes.push(note);
    }
    // Registers that the firmware's log says nothing about (10, say) are not its to prove.
    let logged: Vec<(u32, &[u8])> = values
        .registers
        .iter()
        .map(|(register, value)| (u32::from(*register), value.as_slice()))
        .filter(|(register, _)| *register != u32::from(IMA_REGISTER) && replay.is_extended(*register))
        .collect();
    let prefix = log
        .match_prefix(bank, &logged)
        .map_err(|e| refused(claim, "the quoted values by replay", e))?;
    let separators = SeparatorDigests::new(bank);
    let mut events = Vec::new();
    for event in log.events().iter().take(prefix.events).filter(|e| e.is_extended()) {
        if let Some(expected) = lies(event, bank, &separators) {
            let found = format!("event {} in register {}: {}", event.index, event.pcr, event.describe());
            return Err(refused(claim, expected, found));
        }
        let (Ok(pcr), Some(measured)) = (u8::try_from(event.pcr), Measured::of(event, bank)) else {
            continue;
        };
        if !values.registers.contains_key(&pcr) {
            continue;
        }
        let mut data = needs_data(bank, &measured).then_some(event.data);
        if data.is_some_and(|data| data.len() > MAX_EVENT_REFERENCE_DATA) {
            data = None;
            notes.push(format!(
                "event {} is too long to keep: only machines with the very same register {pcr} will match",
                event.index
            ));
        }
        events.push(ReferenceEvent {
            pcr,
            event_type: event.event_type,
            digest: measured.digest.to_vec(),
            description: event.describe(),
            data: data.map(<[u8]>::to_vec),
        });
    }
    values.events = events;
    Ok(())
}

/// Register 11 as the log leaves it, where only phases of the boot were measured after that: they are no property of the
/// software. In words, if there were any.
fn take_off_phases(replay: &Replay, bank: HashAlg, values: &mut BankValues) -> Option<String> {
    let register = phases::REGISTER;
    let quoted = values.registers.get_mut(&register)?;
    let log = replay
        .register(u32::from(register))
        .filter(|log| replay.is_extended(u32::from(register)) && *log != quoted.as_slice())?;
    let run = phases::run_between(bank, log, quoted)?;
    *quoted = log.to_vec();
    let phase = phases::last(run);
    Some(format!(
        "register {register} ({bank}) was quoted in the phase {phase}: its value before the phases is taken"
    ))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{boot_file, boot_values};

    const BANK: HashAlg = HashAlg::Sha256;

    fn taken(
        log: &[u8],
        change: impl FnOnce(&mut BTreeMap<u8, Vec<u8>>),
    ) -> Result<(BankValues, Vec<String>), PolicyError> {
        let mut registers: BTreeMap<u8, Vec<u8>> = boot_values("uki")
            .into_iter()
            .filter_map(|((_, register), value)| (register != IMA_REGISTER).then_some((register, value)))
            .collect();
        change(&mut registers);
        let values = BankValues {
            registers,
            events: Vec::new(),
        };
        let (mut banks, mut notes) = ([(BANK, values)].into(), Vec::new());
        take_events(log, &mut banks, &mut notes)?;
        Ok((banks.remove(&BANK).unwrap(), notes))
    }

    fn extend(value: &mut Vec<u8>, word: &str) {
        let word = BANK.digest([word.as_bytes()]);
        *value = BANK.digest([value.as_slice(), word.as_ref()]).as_ref().to_vec();
    }

    #[test]
    fn phases_of_the_boot_are_no_property_of_the_software() {
        let log = boot_file("uki", "eventlog.bin");
        let (plain, notes) = taken(&log, |_| {}).unwrap();
        assert_eq!((notes.len(), plain.events.is_empty()), (0, false));
        let (phased, notes) = taken(&log, |registers| {
            for phase in ["enter-initrd", "leave-initrd", "sysinit"] {
                extend(registers.get_mut(&11).unwrap(), phase);
            }
        })
        .unwrap();
        assert_eq!(phased, plain);
        assert!(notes[0].contains("phase sysinit"), "{notes:?}");
        let other = taken(&log, |registers| extend(registers.get_mut(&11).unwrap(), "other"));
        assert_eq!(other.unwrap_err().code(), PolicyCode::EvidenceRefused);
    }

    #[test]
    fn what_is_wrong_with_an_event_is_told() {
        let log = boot_file("uki", "eventlog.bin");
        let mut relabelled = log.clone();
        // The first separator's length and data; its type is 64 bytes before in a log of these two banks.
        let at = log
            .windows(8)
            .position(|bytes| bytes == [4, 0, 0, 0, 0, 0, 0, 0])
            .unwrap();
        relabelled[at - 64] = 1;
        let mut altered = log;
        *altered.last_mut().unwrap() ^= 1;
        for (log, expected) in [
            (relabelled, "a separator's digest in separators only"),
            (altered, "digests of what the events say"),
        ] {
            let error = taken(&log, |_| {}).unwrap_err();
            assert_eq!(error.code(), PolicyCode::EvidenceRefused);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_log_in_the_old_form_gives_registers_only() {
        // TCG_PCR_EVENT: register 0, EV_S_CRTM_VERSION, a SHA-1 digest, two bytes.
        let mut old = [[0, 0, 0, 0], [8, 0, 0, 0]].concat();
        old.extend([7; 20]);
        old.extend([2, 0, 0, 0, 0, 0]);
        let (values, notes) = taken(&old, |_| {}).unwrap();
        assert!(values.events.is_empty() && !values.registers.is_empty());
        assert!(notes[0].contains("SHA-1"), "{notes:?}");
    }
}
