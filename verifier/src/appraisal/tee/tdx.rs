//! The TDX quote: signatures and chain, Intel's verdict by the collateral that came, guest, event log, reference values,
//! node.

use touchstone_evidence::collection::Label;

use super::Tee;
use crate::anchors::Purpose;
use crate::appraisal::difference;
use crate::appraisal::findings::{Findings, claim};
use crate::appraisal::inputs::{Expected, Freshness, Inputs};
use crate::appraisal::log;
use crate::corim::Endorses;
use crate::inventory::{CvmIdentity, CvmKind, GuestId, Lookup, Platform};
use crate::reason::{AppraisalCode, Reason};
use crate::reference::{FoundTdx, Reference};
use crate::tdx::check::{check_guest, check_platform, check_report_data, platform_claims};
use crate::tdx::{Collateral, Evaluation, PckData, Quote, RtmrReplay, TdxCode, VerifiedQuote, replay};

const QUOTE: &str = "TDX quote";
const COLLATERAL: &str = "TDX collateral";

/// Judges a quote that must itself carry the binder or the nonce.
pub(super) fn judge<'a>(inputs: &Inputs<'a>, expected: &Expected<'_>, findings: &mut Findings) -> Option<Tee<'a>> {
    let bytes = inputs.collection.get(Label::TdxQuote)?;
    // In a session the unsigned words first: chains, collateral and logs are dear, and old quotes are public.
    if matches!(inputs.freshness, Freshness::Bound { .. })
        && let (Ok(quote), Some(expected)) = (Quote::parse(bytes), &expected.report_data)
        && let Some(reason) = check_report_data(&quote, expected)
    {
        findings.refuse_as(reason);
        return None;
    }
    let (verified, mut tee) = judge_quote(inputs, bytes, Endorses::None, findings)?;
    let reason = match &expected.report_data {
        Some(expected) => check_report_data(verified.quote(), expected),
        // Nothing to expect is never met.
        None => Some(Reason::new(TdxCode::ReportData, "REPORTDATA", "a challenge", "none")),
    };
    tee.fresh = reason.is_none() && expected.right_kind;
    findings.refuse_all(reason);
    Some(tee)
}

/// Judges everything of a quote but its report data: that is its caller's, who says what they should be. `fresh` is false,
/// and nothing is endorsed; `endorses` is what it is shown to vouch for.
///
/// The collateral and the event log are in the collection's `tdx/collateral` and `tdx/ccel`.
pub(super) fn judge_quote<'a>(
    inputs: &Inputs<'a>,
    bytes: &'a [u8],
    endorses: Endorses,
    findings: &mut Findings,
) -> Option<(VerifiedQuote<'a>, Tee<'a>)> {
    let quote = match Quote::parse(bytes) {
        Ok(quote) => quote,
        Err(error) => {
            let expected = "a well-formed quote of version 4 or 5";
            findings.refuse(TdxCode::QuoteMalformed, QUOTE, expected, error.to_string());
            return None;
        }
    };
    let store = inputs.anchors.store(Purpose::Tdx);
    let guest = check_guest(&quote);
    // Read before the signatures only where the platform's certificate may be in it, for it is long.
    let beside = match (quote.pck(), inputs.collection.get(Label::TdxCollateral)) {
        (PckData::Chain(_), _) | (_, None) => None,
        (PckData::Id | PckData::Leaf(_), Some(bytes)) => match read_collateral(bytes, findings) {
            None => {
                findings.refuse_all(guest.reasons);
                return None;
            }
            read => read,
        },
    };
    let verified = match VerifiedQuote::verify(quote, beside.as_ref(), store, inputs.now) {
        Ok(verified) => verified,
        Err(reasons) => {
            findings.refuse_all(guest.reasons);
            findings.refuse_all(reasons);
            return None;
        }
    };
    // Claims come of what is genuine only.
    findings.claims.extend(guest.claims);
    findings.claims.extend(platform_claims(&verified));
    findings.refuse_all(guest.reasons);
    let evaluation = evaluate(inputs, &verified, beside, findings);
    let replayed = judge_log(inputs, verified.quote(), findings);
    let reference = compare(inputs, verified.quote(), endorses, replayed.as_ref(), findings);
    let (platform, lookup, identity) = identify(inputs, &verified);
    let node = match lookup {
        Lookup::Node(node) => Some(node),
        Lookup::Unknown | Lookup::Ambiguous => None,
    };
    let collateral = evaluation.map_or(i64::MAX, |evaluation| evaluation.expires);
    let tee = Tee {
        kind: CvmKind::Tdx,
        fresh: false,
        endorses: None,
        platform: Some(platform),
        identity,
        node,
        masked: false,
        ambiguous: lookup == Lookup::Ambiguous,
        reference,
        expires: verified.chain().not_after.min(collateral),
        vek: None,
    };
    Some((verified, tee))
}

fn read_collateral(bytes: &[u8], findings: &mut Findings) -> Option<Collateral> {
    match Collateral::parse(bytes) {
        Ok(collateral) => Some(collateral),
        Err(error) => {
            let expected = "Intel's answers in JSON";
            findings.refuse(TdxCode::CollateralMalformed, COLLATERAL, expected, error.to_string());
            None
        }
    }
}

/// What Intel says of the platform, by the collateral that came; `read` is that, where it has been read already.
fn evaluate(
    inputs: &Inputs<'_>,
    verified: &VerifiedQuote<'_>,
    read: Option<Collateral>,
    findings: &mut Findings,
) -> Option<Evaluation> {
    let Some(bytes) = inputs.collection.get(Label::TdxCollateral) else {
        let expected = format!("collateral for FMSPC {}", hex::encode(verified.platform().fmspc));
        findings.refuse(TdxCode::CollateralMissing, COLLATERAL, expected, "none");
        return None;
    };
    let collateral = match read {
        Some(collateral) => collateral,
        None => read_collateral(bytes, findings)?,
    };
    let store = inputs.anchors.store(Purpose::Tdx);
    match Evaluation::evaluate(verified, &collateral, store, inputs.now) {
        Ok(evaluation) => {
            let checked = check_platform(verified, &evaluation, &inputs.policy.tdx);
            findings.refuse_all(checked.reasons);
            findings.leniencies.extend(checked.leniencies);
            findings.claims.extend(checked.claims);
            Some(evaluation)
        }
        Err(reasons) => {
            // The library refuses what the guest was launched with too; that has been told, with words of its own.
            let told = |reason: &Reason| {
                let same = |other: &Reason| other.code == reason.code;
                findings.reasons.iter().any(same)
            };
            let new: Vec<Reason> = reasons.into_iter().filter(|reason| !told(reason)).collect();
            findings.refuse_all(new);
            None
        }
    }
}

/// The firmware's log, where one came: it must lead to the quoted registers, and must not lie.
fn judge_log<'a>(inputs: &Inputs<'a>, quote: &Quote<'_>, findings: &mut Findings) -> Option<RtmrReplay<'a>> {
    let Some(bytes) = inputs.collection.get(Label::CcEventLog) else {
        findings.text(claim::TDX_EVENT_LOG, "none");
        return None;
    };
    match replay(quote, bytes) {
        Ok(replayed) => {
            let before = findings.count();
            log::judge_ccel(&replayed, findings);
            let honest = findings.count() == before;
            findings.text(claim::TDX_EVENT_LOG, if honest { "replayed" } else { "refused" });
            findings.int(
                &format!("{}{}", claim::CC_PREFIX, claim::EVENTS_IGNORED),
                replayed.ignored as u64,
            );
            Some(replayed).filter(|_| honest)
        }
        Err(reasons) => {
            findings.refuse_all(reasons);
            findings.text(claim::TDX_EVENT_LOG, "refused");
            None
        }
    }
}

/// The reference that the quote matches.
fn compare<'a>(
    inputs: &Inputs<'a>,
    quote: &Quote<'_>,
    endorses: Endorses,
    replayed: Option<&RtmrReplay<'_>>,
    findings: &mut Findings,
) -> Option<&'a Reference> {
    const MRTD: &str = "MRTD";
    let registers = &inputs.policy.tdx.registers;
    match inputs
        .references
        .find_tdx(quote, endorses, registers, replayed, inputs.now)
    {
        FoundTdx::Match(reference) => return Some(reference),
        FoundTdx::OutOfForce(reference) => difference::out_of_force(reference, MRTD, inputs.now, findings),
        FoundTdx::Deselected(reference) => difference::deselected(reference, MRTD, findings),
        FoundTdx::Nearest(reference, reasons) => {
            for reason in reasons {
                let hint = difference::hint(
                    reference,
                    reason.hint.as_ref().and_then(|hint| hint.register),
                    reason.hint.as_ref().and_then(|hint| hint.event),
                );
                findings.refuse_as(reason.with_hint(hint));
            }
        }
        FoundTdx::Nothing => {
            let (expected, found) = ("a signed reference of a TDX guest", "none");
            findings.refuse(AppraisalCode::ReferenceMissing, MRTD, expected, found);
        }
    }
    None
}

/// The platform by its PPID and by the id of the whole platform: an entry that names the guest comes first, and two nodes
/// are nobody.
fn identify<'a>(inputs: &Inputs<'a>, verified: &VerifiedQuote<'_>) -> (Platform, Lookup<'a>, Option<CvmIdentity>) {
    let mut guests = Vec::new();
    let config_id = verified.quote().mr_config_id();
    if config_id.iter().any(|byte| *byte != 0) {
        guests.push(GuestId::ConfigId(config_id.to_vec()));
    }
    let platform = verified.platform();
    let by = |id: &[u8]| {
        let platform = Platform::TdxPlatform(id.to_vec());
        let (lookup, identity) = inputs.inventory.by_cvm(&platform, &guests);
        (platform, lookup, identity.cloned())
    };
    let by_ppid = by(&platform.ppid);
    let Some(by_instance) = platform.instance_id.as_deref().map(by) else {
        return by_ppid;
    };
    let names_guest = |identity: &Option<CvmIdentity>| identity.as_ref().is_some_and(|cvm| cvm.guest.is_some());
    match (by_ppid.1, by_instance.1) {
        (_, Lookup::Unknown) => by_ppid,
        (Lookup::Unknown, _) => by_instance,
        // Both ids are the same platform's: two nodes claim it.
        (a, b) if a != b => (by_ppid.0, Lookup::Ambiguous, None),
        _ if names_guest(&by_instance.2) && !names_guest(&by_ppid.2) => by_instance,
        _ => by_ppid,
    }
}
