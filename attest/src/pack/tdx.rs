//! What tools write of a TDX guest: the quote, Intel's collateral, the firmware's log; and of an Azure machine the
//! paravisor's report, which names the key of its virtual TPM.

use touchstone_verifier::eventlog::EventLog;
use touchstone_verifier::hcl::HclReport;
use touchstone_verifier::svsm::Manifest;
use touchstone_verifier::tdx::{Collateral, Quote};
use touchstone_verifier::tpm::Public;
use touchstone_verifier::x509::SubjectKey;

/// RSASSA with SHA-256, as TPMT_SIGNATURE begins (TPM 2.0 Library Part 2, 11.3.4).
const RSASSA_SHA256: [u8; 4] = [0x00, 0x14, 0x00, 0x0B];

/// A quote as the guest device or configfs gave it, with or without padding.
pub(super) fn quote(bytes: &[u8]) -> Result<(), String> {
    Quote::parse(bytes).map(drop).map_err(|error| error.to_string())
}

/// Intel's answers.
pub(super) fn collateral(bytes: &[u8]) -> Result<(), String> {
    Collateral::parse(bytes).map(drop).map_err(|error| error.to_string())
}

/// The memory that the ACPI table CCEL points at.
pub(super) fn ccel(bytes: &[u8]) -> Result<(), String> {
    EventLog::parse_ccel(bytes).map(drop).map_err(|error| error.to_string())
}

/// The manifest of a secure VM service module.
pub(super) fn manifest(bytes: &[u8]) -> Result<(), String> {
    Manifest::parse(bytes).map(drop).map_err(|error| error.to_string())
}

/// The attestation key that the paravisor's report names.
pub(super) fn hcl_key(bytes: &[u8]) -> Result<SubjectKey, String> {
    let report = HclReport::parse(bytes).map_err(|error| error.to_string())?;
    Ok(report.attestation_key().clone())
}

/// The key of a TPM2B_PUBLIC, TPMT_PUBLIC or PEM.
pub(super) fn key_of(bytes: &[u8]) -> Result<SubjectKey, String> {
    if !super::is_pem(bytes) {
        let public = Public::from_tpm2b_or_tpmt(bytes).map_err(|error| error.to_string())?;
        return Ok(public.subject_key());
    }
    let (_, pem) = x509_parser::pem::parse_x509_pem(bytes).map_err(|error| error.to_string())?;
    SubjectKey::from_spki_der(&pem.contents).map_err(|error| error.to_string())
}

/// TPMT_SIGNATURE, made of the bare bytes of an RSASSA signature with SHA-256 where that is what came: 256, 384 or 512 of
/// them, which no TPMT_SIGNATURE of an RSA key is long.
pub(super) fn tpm_signature(bytes: Vec<u8>) -> Vec<u8> {
    match u16::try_from(bytes.len()) {
        Ok(len @ (256 | 384 | 512)) => [&RSASSA_SHA256, len.to_be_bytes().as_slice(), &bytes].concat(),
        _ => bytes,
    }
}
