//! The SEV-SNP report: signing key and chain, signature, platform and guest, reference values, node.

use touchstone_evidence::collection::Label;

use super::Tee;
use crate::anchors::Purpose;
use crate::appraisal::difference;
use crate::appraisal::findings::{Findings, claim};
use crate::appraisal::inputs::{Expected, Freshness, Inputs};
use crate::corim::Endorses;
use crate::inventory::{CvmKind, GuestId, Lookup, Platform};
use crate::policy::AppraisalPolicy;
use crate::reason::{AppraisalCode, Reason};
use crate::reference::{FoundSnp, Reference};
use crate::snp::reference::RawField;
use crate::snp::{
    KnownVek, Report, SignedReport, SigningKey, SnpCode, VekKind, VerifiedReport, VerifiedVek, check, check_provider,
    check_report_data, claims,
};
use crate::x509::Certificate;
use crate::x509::ek_certificate::read_ek_chain;

const REPORT: &str = "SNP report";
const CERTIFICATE: &str = "SNP signing key certificate";

/// Judges a report that must itself carry the binder or the nonce.
pub(super) fn judge<'a>(inputs: &Inputs<'a>, expected: &Expected<'_>, findings: &mut Findings) -> Option<Tee<'a>> {
    let bytes = inputs.collection.get(Label::SnpReport)?;
    if is_of_another_session(inputs, bytes, expected.report_data.as_ref(), findings) {
        return None;
    }
    let (report, mut tee) = judge_report(inputs, bytes, Endorses::None, findings)?;
    tee.fresh = judge_freshness(&report, expected.report_data.as_ref(), findings) && expected.right_kind;
    Some(tee)
}

/// Whether a report in a session does not carry `expected`, by its unsigned words: then nothing else of it is looked at. Chains
/// and signatures are dear, old reports are public, and one that answers somebody else says nothing here.
pub(super) fn is_of_another_session(
    inputs: &Inputs<'_>,
    bytes: &[u8],
    expected: Option<&[u8; 64]>,
    findings: &mut Findings,
) -> bool {
    let Ok(report) = Report::parse(bytes) else { return false };
    let found = report.report_data();
    let bound = matches!(inputs.freshness, Freshness::Bound { .. });
    if !bound || expected.is_some_and(|expected| expected == found) {
        return false;
    }
    let expected = expected.map_or("a challenge".to_owned(), hex::encode);
    findings.refuse(SnpCode::ReportData, "REPORT_DATA", expected, hex::encode(found));
    true
}

/// Whether the report carries `expected`; refused where it does not.
pub(super) fn judge_freshness(report: &SignedReport<'_>, expected: Option<&[u8; 64]>, findings: &mut Findings) -> bool {
    let reason = match expected {
        Some(expected) => check_report_data(report, expected),
        // Nothing to expect is never met.
        None => Some(Reason::new(SnpCode::ReportData, "REPORT_DATA", "a challenge", "none")),
    };
    let fresh = reason.is_none();
    findings.refuse_all(reason);
    fresh
}

/// Judges everything of a report but its report data: that is its caller's, who says what they should be. `fresh` is
/// false, and nothing is endorsed; `endorses` is what it is shown to vouch for.
///
/// The certificate of the signing key and those above it are in the collection's `snp/certificates`.
pub(super) fn judge_report<'a>(
    inputs: &Inputs<'a>,
    bytes: &'a [u8],
    endorses: Endorses,
    findings: &mut Findings,
) -> Option<(VerifiedReport<'a>, Tee<'a>)> {
    let report = match Report::parse(bytes) {
        Ok(report) => report,
        Err(error) => {
            let expected = "a well-formed report of version 2 to 5";
            findings.refuse(SnpCode::ReportMalformed, REPORT, expected, error.to_string());
            return None;
        }
    };
    let vek = signing_key(inputs, &report, findings)?;
    let verified = match VerifiedReport::verify(report, vek.vek()) {
        Ok(verified) => verified,
        Err(reasons) => {
            findings.refuse_all(reasons);
            return None;
        }
    };
    let policy = &inputs.policy.snp;
    findings.claims.extend(claims(&verified));
    let crl = if vek.vek().revocation_checked() {
        "checked"
    } else {
        "none"
    };
    findings.text(claim::SNP_CRL, crl);
    let checked = check(&verified, policy);
    findings.refuse_all(checked.reasons);
    findings.leniencies.extend(checked.leniencies);
    let reference = compare(inputs, &verified, endorses, findings);
    judge_floors(&verified, reference, inputs.policy, findings);
    let (platform, guests) = identities(&verified, inputs.policy);
    let (lookup, identity) = match &platform {
        Some(platform) => inputs.inventory.by_cvm(platform, &guests),
        None => (Lookup::Unknown, None),
    };
    let node = match lookup {
        Lookup::Node(node) => Some(node),
        Lookup::Unknown | Lookup::Ambiguous => None,
    };
    // A provider that the node's own entry lists is as good as one that the policy lists, for that node only.
    let listed = matches!(platform, Some(Platform::SnpProvider(_))) && node.is_some();
    match check_provider(&verified, policy) {
        Some(reason) if listed => {
            let leniency = format!("snp-provider: {}, which the node's entry lists", reason.found);
            findings.leniencies.push(leniency);
        }
        refused => findings.refuse_all(refused),
    }
    let tee = Tee {
        kind: CvmKind::Snp,
        fresh: false,
        endorses: None,
        platform,
        identity: identity.cloned(),
        node,
        masked: verified.report().chip_id_masked(),
        ambiguous: lookup == Lookup::Ambiguous,
        reference,
        expires: vek.vek().not_after(),
        vek: Some(vek.keep(inputs)),
    };
    Some((verified, tee))
}

/// The signing key: verified now, or known from an earlier appraisal of the same certificates.
enum SigningVek<'a> {
    Known(&'a KnownVek, &'a VerifiedVek),
    New(VerifiedVek),
}

impl SigningVek<'_> {
    fn vek(&self) -> &VerifiedVek {
        match self {
            SigningVek::Known(_, vek) => vek,
            SigningVek::New(vek) => vek,
        }
    }

    fn keep(self, inputs: &Inputs<'_>) -> KnownVek {
        match self {
            SigningVek::Known(known, _) => known.clone(),
            SigningVek::New(vek) => {
                let record = inputs.collection.get(Label::SnpCertificates).unwrap_or_default();
                let store = inputs.anchors.store(Purpose::Snp);
                KnownVek::new(vek, record, store, inputs.policy.crl, inputs.now)
            }
        }
    }
}

fn signing_key<'a>(inputs: &Inputs<'a>, report: &Report<'_>, findings: &mut Findings) -> Option<SigningVek<'a>> {
    let vlek = match report.signing_key() {
        SigningKey::Vcek => false,
        SigningKey::Vlek => true,
        SigningKey::None => {
            let expected = "a report signed by a VCEK or VLEK";
            findings.refuse(SnpCode::SigningKey, REPORT, expected, "one that is not signed");
            return None;
        }
    };
    let record = inputs.collection.get(Label::SnpCertificates).unwrap_or_default();
    let (store, crl, now) = (inputs.anchors.store(Purpose::Snp), inputs.policy.crl, inputs.now);
    if let Some(known) = inputs.known.vek
        && let Some(vek) = known.get(record, vlek, store, crl, now)
    {
        return Some(SigningVek::Known(known, vek));
    }
    let (leaf, offered) = certificates(record, vlek, findings)?;
    match VerifiedVek::verify(leaf.as_der(), &offered, store, now, crl) {
        Ok(vek) => Some(SigningVek::New(vek)),
        Err(error) => {
            findings.refuse_with(error.code(), CERTIFICATE, error.details());
            None
        }
    }
}

/// The certificate of the signing key, and those that came with it. Where both a VCEK's and a VLEK's came, the report
/// says which it is; two of that kind would be a choice.
fn certificates(record: &[u8], vlek: bool, findings: &mut Findings) -> Option<(Certificate, Vec<Certificate>)> {
    let all = match read_ek_chain(record) {
        Ok(all) => all,
        Err(error) => {
            findings.refuse_with(error.code(), CERTIFICATE, error.details());
            return None;
        }
    };
    let (above, mut keys): (Vec<_>, Vec<_>) = all.into_iter().partition(Certificate::is_ca);
    if keys.len() > 1 {
        let is_vlek = |certificate: &Certificate| {
            crate::snp::Vek::from_der(certificate.as_der()).is_ok_and(|vek| matches!(vek.kind(), VekKind::Vlek { .. }))
        };
        keys.retain(|certificate| is_vlek(certificate) == vlek);
    }
    match <[Certificate; 1]>::try_from(keys) {
        Ok([leaf]) => Some((leaf, above)),
        Err(keys) => {
            let expected = if vlek {
                "one certificate of a VLEK"
            } else {
                "one certificate of a VCEK"
            };
            let found = match keys.len() {
                0 => "none".to_owned(),
                count => format!("{count} that could be it"),
            };
            findings.refuse(SnpCode::VekMissing, CERTIFICATE, expected, found);
            None
        }
    }
}

/// The reference that the report matches.
fn compare<'a>(
    inputs: &Inputs<'a>,
    report: &SignedReport<'_>,
    endorses: Endorses,
    findings: &mut Findings,
) -> Option<&'a Reference> {
    const MEASUREMENT: &str = "MEASUREMENT";
    match inputs.references.find_snp(report, endorses, inputs.now) {
        FoundSnp::Match(reference) => return Some(reference),
        FoundSnp::OutOfForce(reference) => {
            difference::out_of_force(reference, MEASUREMENT, inputs.now, findings);
        }
        FoundSnp::Deselected(reference) => difference::deselected(reference, MEASUREMENT, findings),
        FoundSnp::Nearest(reference, reasons) => {
            let hint = difference::hint(reference, None, None);
            for reason in reasons {
                findings.refuse_as(reason.with_hint(hint.clone()));
            }
        }
        FoundSnp::Nothing => {
            let (expected, found) = ("a signed reference of an SEV-SNP guest", "none");
            findings.refuse(AppraisalCode::ReferenceMissing, MEASUREMENT, expected, found);
        }
    }
    None
}

/// Somebody must have said how old the platform may be: what is reported, committed and was there at launch.
fn judge_floors(
    report: &SignedReport<'_>,
    reference: Option<&Reference>,
    policy: &AppraisalPolicy,
    findings: &mut Findings,
) {
    let Some(reference) = reference.filter(|_| !policy.snp.floors.contains_key(&report.product())) else {
        return;
    };
    let snp = reference.values.snp.as_ref();
    let floors = snp.map(|snp| snp.floors).unwrap_or_default();
    let packed = |field| snp.is_some_and(|snp| snp.packed.iter().any(|floor| floor.field == field));
    for (name, floor, field) in [
        ("REPORTED_TCB", floors.reported, RawField::ReportedTcb),
        ("COMMITTED_TCB", floors.committed, RawField::CommittedTcb),
        ("LAUNCH_TCB", floors.launch, RawField::LaunchTcb),
    ] {
        if floor.is_none() && !packed(field) {
            let expected = format!("a floor for {} in snp.floors or in the reference", report.product());
            let found = format!("none in reference {}", reference.values.name);
            findings.refuse(SnpCode::TcbFloorMissing, name, expected, found);
        }
    }
}

/// What the inventory may list the machine by: its platform, and what its report says of the single guest.
fn identities(report: &SignedReport<'_>, policy: &AppraisalPolicy) -> (Option<Platform>, Vec<GuestId>) {
    let read = report.report();
    let platform = match report.vek().kind() {
        VekKind::Vlek { provider } => Some(Platform::SnpProvider(provider.clone())),
        // A masked chip is known by its key's certificate, where the policy lets it.
        VekKind::Vcek { chip_id } if !read.chip_id_masked() || policy.snp.allow_masked_chips => {
            Some(Platform::SnpChip(chip_id.clone()))
        }
        VekKind::Vcek { .. } => None,
    };
    let not_zero = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
    let mut guests = Vec::new();
    if not_zero(read.host_data()) {
        guests.push(GuestId::HostData(read.host_data().to_vec()));
    }
    if not_zero(read.id_key_digest()) {
        guests.push(GuestId::IdKey(read.id_key_digest().to_vec()));
    }
    (platform, guests)
}
