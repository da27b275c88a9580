//! The Azure HCL report: a hardware report over run-time data that name the virtual TPM's attestation key.

use touchstone_evidence::collection::Label;

use super::Tee;
use crate::appraisal::findings::Findings;
use crate::appraisal::inputs::{Expected, Inputs};
use crate::reason::AppraisalCode;

/// Judges it. This version reads none: it is refused, so that it counts for nothing.
pub(super) fn judge<'a>(_inputs: &Inputs<'a>, _expected: &Expected<'_>, findings: &mut Findings) -> Option<Tee<'a>> {
    let (claim, expected) = (Label::AzureHclReport.as_str(), "evidence that this version judges");
    findings.refuse(AppraisalCode::RecordUnreadable, claim, expected, claim);
    None
}
