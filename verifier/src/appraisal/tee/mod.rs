//! The confidential VM: a report of its hardware says what it was launched from, on which platform.
//!
//! A report is *fresh* where its report data are the binder (or the nonce of packed evidence), or *endorsing* where they
//! are the digest of contents that name a TPM's key: then that TPM's quote is what is fresh (protocol.md 3).

mod azure;
mod snp;
mod svsm;
mod tdx;

use touchstone_evidence::collection::Label;

use super::findings::{Findings, claim};
use super::inputs::{Expected, Freshness, Inputs};
use crate::inventory::{CvmIdentity, CvmKind, EkId, Node, Platform};
use crate::reason::AppraisalCode;
use crate::reference::Reference;
use crate::snp::KnownVek;

/// A key of a TPM that a report names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endorsed {
    /// The attestation key: SHA-256 of its SubjectPublicKeyInfo.
    Ak([u8; 32]),
    /// The endorsement key.
    Ek(EkId),
}

/// A genuine report: the vendor's chain, signature and contents hold together. What it says may still be refused.
pub(super) struct Tee<'a> {
    /// Which hardware.
    pub(super) kind: CvmKind,
    /// Whether it carries the binder or the nonce itself.
    pub(super) fresh: bool,
    /// The TPM key it endorses.
    pub(super) endorses: Option<Endorsed>,
    /// The platform; none where it does not say.
    pub(super) platform: Option<Platform>,
    /// The identity under which the inventory lists it.
    pub(super) identity: Option<CvmIdentity>,
    /// The node of that identity.
    pub(super) node: Option<&'a Node>,
    /// Whether the report hides which chip it is from.
    pub(super) masked: bool,
    /// Whether more than one entry claims that identity.
    pub(super) ambiguous: bool,
    /// The reference it matches.
    pub(super) reference: Option<&'a Reference>,
    /// Last second at which its certificates and collateral hold.
    pub(super) expires: i64,
    /// Its signing key, to be known the next time.
    pub(super) vek: Option<KnownVek>,
}

/// The records that speak of a confidential VM and count for nothing without its report.
const BESIDE: [Label; 4] = [
    Label::SnpCertificates,
    Label::TdxCollateral,
    Label::CcEventLog,
    Label::SvsmManifest,
];

/// Judges the report, where there is one. None where there is none, or where nothing genuine could be read from it: then
/// there is a reason.
pub(super) fn judge<'a>(inputs: &Inputs<'a>, expected: &Expected<'_>, findings: &mut Findings) -> Option<Tee<'a>> {
    let has = |label| inputs.collection.get(label).is_some();
    let (snp, tdx, azure) = (has(Label::SnpReport), has(Label::TdxQuote), has(Label::AzureHclReport));
    // Azure's TDX machines send a quote beside the report that names the TPM's key. Everything else would be a choice.
    if snp && (tdx || azure) {
        let found = "an SEV-SNP report beside another";
        findings.refuse(
            AppraisalCode::ReportsConflict,
            "evidence",
            "one report of the machine's hardware",
            found,
        );
        return None;
    }
    let tee = match (azure, tdx, snp) {
        (true, ..) => azure::judge(inputs, expected, findings),
        (_, true, _) => tdx::judge(inputs, expected, findings),
        (.., true) if has(Label::SvsmManifest) => svsm::judge(inputs, expected, findings),
        (.., true) => snp::judge(inputs, expected, findings),
        _ => {
            for label in BESIDE.into_iter().filter(|label| has(*label)) {
                let expected = "a report that it belongs to";
                findings.refuse(AppraisalCode::RecordMissing, label.as_str(), expected, "none");
            }
            None
        }
    };
    if let Some(tee) = &tee {
        judge_guest(inputs, tee, findings);
    }
    tee
}

/// Whether the node's entry names the guest. Where it names one processor alone, its author says that whatever runs there
/// is this node. A provider's machines, or one that hides its id, are anybody's: in a session they are no node.
fn judge_guest(inputs: &Inputs<'_>, tee: &Tee<'_>, findings: &mut Findings) {
    let Some(identity) = &tee.identity else { return };
    let named = identity.guest.is_some();
    findings.text(claim::CVM_GUEST, if named { "named" } else { "unnamed" });
    let anybodys = tee.masked || matches!(identity.platform, Platform::SnpProvider(_));
    if !named && anybodys && matches!(inputs.freshness, Freshness::Bound { .. }) {
        let expected = "an inventory entry that names the guest beside it";
        findings.refuse(AppraisalCode::CvmGuestUnnamed, "guest", expected, identity.to_string());
    }
}
