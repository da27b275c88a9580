//! The Azure HCL report: a hardware report over run-time data that name the virtual TPM's attestation key.
//!
//! The paravisor made it when the machine started, so it endorses: what is fresh is a quote by that key. Where the guest
//! wrote the binder into NV index 0x01400002 first, it is in the run-time data, and the report is fresh as well.

use touchstone_evidence::collection::Label;

use super::{Endorsed, Tee, snp, tdx};
use crate::appraisal::findings::{Findings, claim};
use crate::appraisal::inputs::{Expected, Freshness, Inputs};
use crate::corim::Endorses;
use crate::hcl::{AzureCode, HardwareKind, HclReport};
use crate::policy::ReportFreshness;
use crate::reason::AppraisalCode;
use crate::tpm::attest::Attest;

const REPORT: &str = "Azure report";

/// Judges it.
pub(super) fn judge<'a>(inputs: &Inputs<'a>, expected: &Expected<'_>, findings: &mut Findings) -> Option<Tee<'a>> {
    let bytes = inputs.collection.get(Label::AzureHclReport)?;
    let hcl = match HclReport::parse(bytes) {
        Ok(hcl) => hcl,
        Err(error) => {
            let expected = "the paravisor's report of a confidential VM";
            findings.refuse(AzureCode::ReportMalformed, REPORT, expected, error.to_string());
            return None;
        }
    };
    if is_of_another_session(inputs, &hcl, expected, findings) {
        return None;
    }
    let quote = inputs.collection.get(Label::TdxQuote);
    let (report_data, mut tee): ([u8; 64], Tee<'a>) = match (hcl.kind(), quote) {
        (HardwareKind::Snp, Some(_)) => {
            let (expected, found) = (
                "one report of the machine's hardware",
                "a TDX quote beside an SEV-SNP report",
            );
            findings.refuse(AppraisalCode::ReportsConflict, REPORT, expected, found);
            return None;
        }
        (HardwareKind::Snp, None) => {
            let (verified, tee) = snp::judge_report(inputs, hcl.hardware(), Endorses::AzureVtpm, findings)?;
            (*verified.report().report_data().first_chunk()?, tee)
        }
        (HardwareKind::Tdx, None) => {
            let expected = "a quote of the TDX guest: the report in the slot proves nothing elsewhere";
            findings.refuse(AppraisalCode::RecordMissing, Label::TdxQuote.as_str(), expected, "none");
            return None;
        }
        (HardwareKind::Tdx, Some(quote)) => {
            let (verified, tee) = tdx::judge_quote(inputs, quote, Endorses::AzureVtpm, findings)?;
            (*verified.quote().report_data(), tee)
        }
    };
    if !hcl.is_bound_to(&report_data) {
        let (expected, found) = (
            "the hash of the run-time data in the hardware's report",
            hex::encode(report_data),
        );
        findings.refuse(AzureCode::RuntimeData, REPORT, expected, found);
        // Genuine hardware, and it vouches for nothing that came with it.
        return Some(tee);
    }
    tee.endorses = Some(Endorsed::Ak(hcl.attestation_key().spki_sha256()));
    let written = hcl.user_data().filter(|_| expected.right_kind);
    tee.fresh = match (&expected.report_data, written) {
        (Some(expected), Some(written)) => written == expected.as_slice(),
        _ => false,
    };
    if !tee.fresh {
        // Packed evidence answers no session in any case, and its result says so.
        let packed = matches!(inputs.freshness, Freshness::Unbound { .. });
        match inputs.policy.azure.report_freshness {
            _ if packed => findings.leniencies.push("azure-report-freshness: boot".to_owned()),
            ReportFreshness::Boot => findings.leniencies.push("azure-report-freshness: boot".to_owned()),
            ReportFreshness::Session => {
                let expected = "a report made for this challenge (NV index 0x01400002)";
                findings.refuse(AzureCode::ReportNotFresh, REPORT, expected, "one of another time");
            }
        }
    }
    note(&hcl, findings);
    Some(tee)
}

/// Whether, by unsigned words, nothing here answers this session: neither the run-time data, where they must, nor the
/// virtual TPM's quote. Then nothing of the hardware's report is looked at.
fn is_of_another_session(
    inputs: &Inputs<'_>,
    hcl: &HclReport<'_>,
    expected: &Expected<'_>,
    findings: &mut Findings,
) -> bool {
    if matches!(inputs.freshness, Freshness::Unbound { .. }) {
        return false;
    }
    let written = expected
        .report_data
        .as_ref()
        .is_some_and(|data| hcl.user_data() == Some(data.as_slice()));
    if !written && inputs.policy.azure.report_freshness == ReportFreshness::Session {
        let expected = "a report made for this challenge (NV index 0x01400002)";
        findings.refuse(AzureCode::ReportNotFresh, REPORT, expected, "one of another time");
        return true;
    }
    let quote = inputs
        .collection
        .get(Label::TpmQuote)
        .and_then(|bytes| Attest::parse(bytes).ok());
    let quoted = quote.is_some_and(|quote| quote.extra_data == expected.qualifying_data.as_ref());
    if !quoted {
        let expected = "a quote, for this challenge, of the virtual TPM that the report vouches for";
        findings.refuse(AppraisalCode::EndorsedQuoteMissing, "virtual TPM", expected, "none");
    }
    !quoted
}

/// What the paravisor says of the machine; the hardware vouches for its words.
fn note(hcl: &HclReport<'_>, findings: &mut Findings) {
    let Some(configuration) = hcl.configuration() else {
        return;
    };
    for (name, value) in [
        (claim::AZURE_SECURE_BOOT, configuration.secure_boot),
        (claim::AZURE_CONSOLE, configuration.console),
        (claim::AZURE_TPM_PERSISTED, configuration.tpm_persisted),
    ] {
        if let Some(value) = value {
            findings.bool(name, value);
        }
    }
    if let Some(id) = &configuration.vm_id {
        findings.text(claim::AZURE_VM_ID, crate::reason::sanitise(id, 128));
    }
}
