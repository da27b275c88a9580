//! GPUs: their SPDM measurement reports.

use touchstone_evidence::collection::Label;

use super::findings::Findings;
use super::inputs::{Expected, Inputs};
use crate::reason::AppraisalCode;

/// What the reports of the machine's GPUs came to.
pub(super) struct Gpus {
    /// Serial numbers of the devices, hexadecimal, as their certificates state them.
    pub(super) serials: Vec<String>,
    /// Last second at which their certificates and references hold.
    pub(super) expires: i64,
}

/// Judges the reports. This version reads none: they are refused, so that they count for nothing.
pub(super) fn judge(inputs: &Inputs<'_>, _expected: &Expected<'_>, findings: &mut Findings) -> Option<Gpus> {
    for label in [Label::GpuReport, Label::GpuCertificates] {
        if inputs.collection.get(label).is_some() {
            let (claim, expected) = (label.as_str(), "evidence that this version judges");
            findings.refuse(AppraisalCode::RecordUnreadable, claim, expected, claim);
        }
    }
    None
}
