//! The SVSM's services manifest, endorsed by an SEV-SNP report of VMPL 0.

use touchstone_evidence::collection::Label;

use super::{Endorsed, Tee, snp};
use crate::appraisal::findings::Findings;
use crate::appraisal::inputs::{Expected, Inputs};
use crate::corim::Endorses;
use crate::inventory::EkId;
use crate::snp::SnpCode;
use crate::svsm::{Manifest, SvsmCode};

const MANIFEST: &str = "SVSM manifest";
const VMPL: &str = "VMPL";

/// Judges it. The module's report is of VMPL 0 whatever the policy allows guests: below it, the report could be the
/// guest's own, over a manifest of its own.
pub(super) fn judge<'a>(inputs: &Inputs<'a>, expected: &Expected<'_>, findings: &mut Findings) -> Option<Tee<'a>> {
    let bytes = inputs.collection.get(Label::SnpReport)?;
    let manifest = inputs.collection.get(Label::SvsmManifest)?;
    let manifest = match Manifest::parse(manifest) {
        Ok(manifest) => Some(manifest),
        Err(error) => {
            let expected = "a manifest that names one virtual TPM";
            findings.refuse(SvsmCode::ManifestMalformed, MANIFEST, expected, error.to_string());
            None
        }
    };
    // The module hashes the nonce it was given, which is the binder or the raw nonce, with what it vouches for.
    let report_data = |manifest: &Manifest<'_>| expected.report_data.as_ref().map(|nonce| manifest.report_data(nonce));
    if let Some(manifest) = &manifest
        && snp::is_of_another_session(inputs, bytes, report_data(manifest).as_ref(), findings)
    {
        return None;
    }
    let (verified, mut tee) = snp::judge_report(inputs, bytes, Endorses::Svsm, findings)?;
    let report = verified.report();
    let level = report.vmpl();
    if level != 0 {
        findings.refuse(SvsmCode::Vmpl, VMPL, "0, where the module runs", level.to_string());
    }
    let manifest = manifest?;
    let wanted = report_data(&manifest);
    tee.fresh = match &wanted {
        Some(wanted) => snp::judge_freshness(&verified, Some(wanted), findings),
        None => {
            findings.refuse(SnpCode::ReportData, "REPORT_DATA", "a challenge", "none");
            false
        }
    } && expected.right_kind;
    if tee.fresh && level == 0 {
        let key = manifest.endorsement_key().subject_key().spki_sha256();
        tee.endorses = Some(Endorsed::Ek(EkId(key)));
    }
    Some(tee)
}
