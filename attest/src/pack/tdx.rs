//! What tools write of a TDX guest: the quote, Intel's collateral, the firmware's log; and of an Azure machine the
//! paravisor's report, which names the key of its virtual TPM.

use serde::Deserialize;
use touchstone_verifier::eventlog::EventLog;
use touchstone_verifier::hcl::HclReport;
use touchstone_verifier::svsm::Manifest;
use touchstone_verifier::tdx::{Collateral, Quote};
use touchstone_verifier::tpm::Public;
use touchstone_verifier::x509::SubjectKey;

use super::text;

/// RSASSA with SHA-256, as TPMT_SIGNATURE begins (TPM 2.0 Library Part 2, 11.3.4).
const RSASSA_SHA256: [u8; 4] = [0x00, 0x14, 0x00, 0x0B];

/// What services answer that hand out quotes (Azure's metadata service, dstack): the quote as text among other members.
#[derive(Deserialize)]
struct Answer {
    quote: String,
}

/// A quote as the guest device or configfs gave it, with or without padding, or JSON around its text.
pub(super) fn quote(file: Vec<u8>) -> Result<Vec<u8>, String> {
    let bytes = match file.trim_ascii_start().first() {
        Some(b'{') => {
            let answer: Answer = serde_json::from_slice(&file).map_err(|error| error.to_string())?;
            text::binary(answer.quote.into_bytes())
        }
        _ => file,
    };
    Quote::parse(&bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
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

#[cfg(test)]
mod tests {
    use base64::prelude::*;

    use super::*;

    #[test]
    fn a_quote_is_taken_out_of_an_answer_around_it() {
        let Some(dir) = touchstone_vectors::genuine("tdx") else {
            return;
        };
        let bytes = std::fs::read(dir.join("tdx_v4_b0c06f_uptodate.bin")).unwrap();
        let answer = |quote: &str| format!("\n{{\"event_log\":\"[]\",\"quote\":\"{quote}\"}}").into_bytes();
        for text in [
            BASE64_URL_SAFE_NO_PAD.encode(&bytes),
            BASE64_STANDARD.encode(&bytes),
            hex::encode(&bytes),
        ] {
            assert_eq!(quote(answer(&text)).as_ref(), Ok(&bytes));
        }
        assert_eq!(quote(bytes.clone()).as_ref(), Ok(&bytes));
        for wrong in [
            answer(&hex::encode(&bytes[..bytes.len() / 2])),
            answer(""),
            b"{}".to_vec(),
            b"{".to_vec(),
            b"{\"quote\": 4}".to_vec(),
            Vec::new(),
        ] {
            assert!(quote(wrong).is_err());
        }
    }
}
