//! What a domain demands of a quote that is genuine.

use std::collections::BTreeSet;

use super::code::TdxCode;
use super::evaluate::{Evaluation, TcbStatus};
use super::quote::{BodyKind, Quote};
use super::verified::VerifiedQuote;
use crate::appraisal::{ClaimValue, Claims};
use crate::reason::Reason;

const COLLATERAL: &str = "TDX collateral";

/// What a domain demands of TDX guests and platforms. The default is the strictest that needs no list of the domain's
/// own: security versions that Intel calls up to date, and every register judged. Debugging, migration, service TDs and
/// revoked platforms are refused whatever it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxPolicy {
    /// Statuses of the platform's security versions that are accepted.
    pub tcb_status: BTreeSet<TcbStatus>,
    /// Least evaluation number of the collateral.
    pub min_tcb_evaluation_number: u32,
    /// Run-time measurement registers that must match a reference, 0 to 3.
    pub registers: BTreeSet<u8>,
    /// Platforms (PPID or platform instance id) that are not trusted.
    pub denied_platforms: BTreeSet<Vec<u8>>,
}

impl Default for TdxPolicy {
    fn default() -> Self {
        Self {
            tcb_status: [TcbStatus::UpToDate].into(),
            min_tcb_evaluation_number: 0,
            registers: (0..4).collect(),
            denied_platforms: BTreeSet::new(),
        }
    }
}

/// What came of a quote.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checked {
    /// Every reason against it.
    pub reasons: Vec<Reason>,
    /// What was overlooked because a signed setting says so.
    pub leniencies: Vec<String>,
    /// Every field as a typed claim.
    pub claims: Claims,
}

/// Judges what the guest was launched with: by its own words, genuine or not, for nothing but a refusal or a claim comes
/// of it.
pub fn check_guest(quote: &Quote<'_>) -> Checked {
    let mut checked = Checked {
        claims: guest_claims(quote),
        ..Checked::default()
    };
    let attributes = quote.attributes();
    let mut refuse = |code: TdxCode, claim: &str, expected: &str, found: &str| {
        checked.reasons.push(Reason::new(code, claim, expected, found));
    };
    const ATTRIBUTES: &str = "TDATTRIBUTES";
    if attributes.debug() {
        refuse(
            TdxCode::Debug,
            ATTRIBUTES,
            "no debugging or profiling",
            "debugging or profiling allowed",
        );
    }
    for (wrong, expected, found) in [
        (
            attributes.reserved(),
            "known bits only",
            "reserved bits that hold something",
        ),
        (attributes.migratable(), "no migration", "MIGRATABLE"),
        (
            !attributes.sept_ve_disable(),
            "SEPT_VE_DISABLE",
            "that the host may inject faults on the guest's memory",
        ),
    ] {
        if wrong {
            refuse(TdxCode::Attributes, ATTRIBUTES, expected, found);
        }
    }
    let bound = |hash: Option<&[u8; 48]>| hash.is_some_and(|hash| hash.iter().any(|byte| *byte != 0));
    if attributes.service_td() || bound(quote.mr_service_td()) || bound(quote.current_service_td()) {
        refuse(TdxCode::ServiceTd, "MRSERVICETD", "no service TD", "one that is bound");
    }
    checked
}

/// Judges the platform of a genuine quote by what Intel says of it.
pub fn check_platform(verified: &VerifiedQuote<'_>, evaluation: &Evaluation, policy: &TdxPolicy) -> Checked {
    let mut checked = Checked {
        claims: evaluation_claims(evaluation),
        ..Checked::default()
    };
    let mut refuse = |code: TdxCode, expected: String, found: String| {
        checked.reasons.push(Reason::new(code, COLLATERAL, expected, found));
    };
    if !policy.tcb_status.contains(&evaluation.status) {
        let accepted: Vec<&str> = policy.tcb_status.iter().map(|status| status.as_str()).collect();
        let open: Vec<&str> = evaluation.advisories.iter().map(String::as_str).collect();
        let found = match open.is_empty() {
            true => evaluation.status.to_string(),
            false => format!("{} ({})", evaluation.status, open.join(", ")),
        };
        refuse(
            TdxCode::TcbStatus,
            format!("a status among {}", accepted.join(", ")),
            found,
        );
    } else if evaluation.status != TcbStatus::UpToDate {
        checked
            .leniencies
            .push(format!("tdx-tcb-status: {}", evaluation.status));
    }
    // Intel keeps several sets of collateral in force: without a least number the sender chooses the one that suits him.
    if policy.min_tcb_evaluation_number == 0 {
        checked.leniencies.push("tdx-min-tcb-evaluation-number: 0".to_owned());
    }
    if evaluation.number < policy.min_tcb_evaluation_number {
        let expected = format!("evaluation number {} or later", policy.min_tcb_evaluation_number);
        checked.reasons.push(Reason::new(
            TdxCode::TcbEvaluationOld,
            COLLATERAL,
            expected,
            evaluation.number.to_string(),
        ));
    }
    let platform = verified.platform();
    for id in [Some(&platform.ppid), platform.instance_id.as_ref()]
        .into_iter()
        .flatten()
    {
        if policy.denied_platforms.contains(id) {
            checked.reasons.push(Reason::new(
                TdxCode::PlatformDenied,
                "platform",
                "a platform that is not denied",
                hex::encode(id),
            ));
        }
    }
    checked
}

/// Judges a genuine quote with its evaluation: it must carry `report_data`, and be what `policy` demands.
pub fn check(
    verified: &VerifiedQuote<'_>,
    evaluation: &Evaluation,
    report_data: &[u8; 64],
    policy: &TdxPolicy,
) -> Checked {
    let mut checked = check_guest(verified.quote());
    checked.reasons.extend(check_report_data(verified.quote(), report_data));
    checked.claims.extend(platform_claims(verified));
    let platform = check_platform(verified, evaluation, policy);
    checked.reasons.extend(platform.reasons);
    checked.leniencies.extend(platform.leniencies);
    checked.claims.extend(platform.claims);
    checked
}

/// Whether the quote carries what was asked for; a reason where it does not.
pub fn check_report_data(quote: &Quote<'_>, report_data: &[u8; 64]) -> Option<Reason> {
    (quote.report_data() != report_data).then(|| {
        let (expected, found) = (hex::encode(report_data), hex::encode(quote.report_data()));
        Reason::new(TdxCode::ReportData, "REPORTDATA", expected, found)
    })
}

/// What the quote's body says of the guest.
pub fn guest_claims(quote: &Quote<'_>) -> Claims {
    let mut claims = Claims::new();
    let mut text = |name: &str, value: String| drop(claims.insert(name.to_owned(), ClaimValue::Text(value)));
    text("tdx_body", quote.kind().as_str().into());
    text("tdx_mrtd", hex::encode(quote.mrtd()));
    text("tdx_mr_seam", hex::encode(quote.mr_seam()));
    text("tdx_mr_config_id", hex::encode(quote.mr_config_id()));
    text("tdx_mr_owner", hex::encode(quote.mr_owner()));
    text("tdx_mr_owner_config", hex::encode(quote.mr_owner_config()));
    for index in 0..4 {
        if let Some(value) = quote.rtmr(index) {
            text(&format!("tdx_rtmr{index}"), hex::encode(value));
        }
    }
    text("tdx_tee_tcb_svn", hex::encode(quote.tee_tcb_svn()));
    text("tdx_xfam", format!("{:#018x}", quote.xfam()));
    text("tdx_attributes", format!("{:#018x}", quote.attributes().0));
    if let Some(now) = quote.tee_tcb_svn_now() {
        text("tdx_tee_tcb_svn_now", hex::encode(now));
    }
    let attributes = quote.attributes();
    for (name, value) in [
        ("tdx_debug", attributes.debug()),
        ("tdx_sept_ve_disable", attributes.sept_ve_disable()),
        ("tdx_migratable", attributes.migratable()),
        ("tdx_pks", attributes.pks()),
        ("tdx_perfmon", attributes.perfmon()),
        ("tdx_key_locker", attributes.key_locker()),
        ("tdx_lass", attributes.lass()),
        ("tdx_service_td", attributes.service_td()),
    ] {
        claims.insert(name.to_owned(), ClaimValue::Bool(value));
    }
    let mut int = |name: &str, value: i64| drop(claims.insert(name.to_owned(), ClaimValue::Int(value)));
    int("tdx_quote_version", quote.version().into());
    if quote.kind() == BodyKind::Td15Ex
        && let Some(id) = quote.vm_id()
    {
        int("tdx_vm_id", id.into());
    }
    claims
}

/// What Intel's certificate says of the platform.
pub fn platform_claims(verified: &VerifiedQuote<'_>) -> Claims {
    let platform = verified.platform();
    let mut claims = Claims::new();
    let mut text = |name: &str, value: String| drop(claims.insert(name.to_owned(), ClaimValue::Text(value)));
    text("tdx_ppid", hex::encode(&platform.ppid));
    text("tdx_fmspc", hex::encode(platform.fmspc));
    if let Some(id) = &platform.instance_id {
        text("tdx_platform_instance", hex::encode(id));
    }
    for (name, value) in [("tdx_smt", platform.smt), ("tdx_dynamic_platform", platform.dynamic)] {
        if let Some(value) = value {
            claims.insert(name.to_owned(), ClaimValue::Bool(value));
        }
    }
    claims
}

fn evaluation_claims(evaluation: &Evaluation) -> Claims {
    [
        ("tdx_tcb_status", ClaimValue::Text(evaluation.status.to_string())),
        ("tdx_qe_status", ClaimValue::Text(evaluation.enclave_status.clone())),
        ("tdx_advisories", ClaimValue::Set(evaluation.advisories.clone())),
        ("tdx_tcb_evaluation_number", ClaimValue::Int(evaluation.number.into())),
        ("tdx_tcb_date", ClaimValue::Int(evaluation.level_date)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
