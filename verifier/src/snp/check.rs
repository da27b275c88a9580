//! What a domain demands of a report that is genuine.

use std::collections::BTreeSet;

use super::code::SnpCode;
use super::guest_policy::GuestPolicy;
use super::policy::{AliasCheck, SnpPolicy};
use super::tcb::Tcb;
use super::vek::VekKind;
use super::verified::SignedReport;
use crate::reason::Reason;

/// What came of a genuine report.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checked {
    /// Every reason against it, in the order of the fields.
    pub reasons: Vec<Reason>,
    /// What was overlooked because a signed setting says so.
    pub leniencies: Vec<String>,
}

impl Checked {
    fn refuse(&mut self, code: SnpCode, claim: &str, expected: impl AsRef<str>, found: impl AsRef<str>) {
        self.reasons.push(Reason::new(code, claim, expected, found));
    }
}

/// Whether a report carries `expected`: the binder of a session, or what its maker was asked to put there.
pub fn check_report_data(report: &SignedReport<'_>, expected: &[u8; 64]) -> Option<Reason> {
    let found = report.report().report_data();
    (found != expected).then(|| {
        let (expected, found) = (hex::encode(expected), hex::encode(found));
        Reason::new(SnpCode::ReportData, "REPORT_DATA", expected, found)
    })
}

/// Whether the signing key is a chip's, or of a provider that the domain names.
pub fn check_provider(report: &SignedReport<'_>, policy: &SnpPolicy) -> Option<Reason> {
    match report.vek().kind() {
        VekKind::Vlek { provider } if !policy.providers.contains(provider) => Some(Reason::new(
            SnpCode::ProviderRefused,
            "provider",
            "a provider of snp.providers, or of the node's inventory entry",
            provider,
        )),
        _ => None,
    }
}

/// Judges a genuine report but for its report data and its key's provider.
pub fn check(verified: &SignedReport<'_>, policy: &SnpPolicy) -> Checked {
    let mut checked = Checked::default();
    check_guest(verified, policy, &mut checked);
    check_platform(verified, policy, &mut checked);
    check_alias(verified, policy, &mut checked);
    if !policy.products.contains(&verified.product()) {
        let accepted: Vec<&str> = policy.products.iter().map(|product| product.as_str()).collect();
        let found = verified.product().to_string();
        checked.refuse(SnpCode::ProductRefused, "product", accepted.join(", "), found);
    }
    if let Some(floor) = policy.floors.get(&verified.product()) {
        for (name, tcb) in [
            ("REPORTED_TCB", verified.reported_tcb()),
            ("COMMITTED_TCB", verified.committed_tcb()),
            ("LAUNCH_TCB", verified.launch_tcb()),
        ] {
            checked.reasons.extend(below_floor(name, &tcb, floor));
        }
    }
    check_chip(verified, policy, &mut checked);
    checked
}

/// The components of `tcb` that are below `floor`, a reason each.
pub(super) fn below_floor(name: &str, tcb: &Tcb, floor: &Tcb) -> impl Iterator<Item = Reason> {
    let words = |version: Option<u8>| version.map_or("none".to_owned(), |version| version.to_string());
    tcb.below(floor).map(move |(component, wanted, found)| {
        let claim = format!("{name} {}", component.as_str());
        let expected = format!("at least {}", words(wanted));
        Reason::new(SnpCode::TcbBelowFloor, claim, expected, words(found))
    })
}

/// POLICY, VMPL, and who signed for the guest.
fn check_guest(verified: &SignedReport<'_>, policy: &SnpPolicy, checked: &mut Checked) {
    const POLICY: &str = "POLICY";
    let report = verified.report();
    let guest = report.policy();
    match (guest.debug(), policy.allow_debug) {
        (true, false) => checked.refuse(SnpCode::Debug, POLICY, "no debugging", "debugging allowed"),
        (true, true) => checked.leniencies.push("snp-debug: allowed".into()),
        (false, _) => {}
    }
    if report.vmpl() > policy.max_vmpl {
        let expected = format!("at most {}", policy.max_vmpl);
        checked.refuse(SnpCode::Vmpl, "VMPL", expected, report.vmpl().to_string());
    } else if report.vmpl() > SnpPolicy::default().max_vmpl {
        checked.leniencies.push(format!("snp-vmpl: {}", report.vmpl()));
    }
    match (guest.migration_agent(), policy.allow_migration_agent) {
        (true, false) => {
            let found = "a migration agent may be bound";
            checked.refuse(SnpCode::MigrationAgent, POLICY, "no migration agent", found);
        }
        (true, true) => checked.leniencies.push("snp-migration-agent: allowed".into()),
        (false, _) => {}
    }
    for (bits, wanted) in [
        (policy.guest_policy_required & !guest.0, "set"),
        (policy.guest_policy_refused & guest.0, "clear"),
    ] {
        if bits != 0 {
            let expected = format!("{} {wanted}", GuestPolicy::names(bits));
            checked.refuse(SnpCode::GuestPolicy, POLICY, expected, format!("{:#x}", guest.0));
        }
    }
    let author = if report.author_key_enabled() {
        report.author_key_digest()
    } else {
        &[]
    };
    for (name, listed, found) in [
        ("ID_KEY_DIGEST", &policy.id_keys, report.id_key_digest()),
        ("AUTHOR_KEY_DIGEST", &policy.author_keys, author),
    ] {
        let is_listed = |listed: &BTreeSet<Vec<u8>>| listed.contains(found);
        if listed.as_ref().is_some_and(|listed| !is_listed(listed)) {
            checked.refuse(SnpCode::GuestIdentity, name, "a listed key", hex::encode(found));
        }
    }
}

/// PLATFORM_INFO and the mitigation vectors.
fn check_platform(verified: &SignedReport<'_>, policy: &SnpPolicy, checked: &mut Checked) {
    const PLATFORM: &str = "PLATFORM_INFO";
    let platform = verified.report().platform_info();
    for (wrong, expected, found) in [
        (platform.smt() && !policy.allow_smt, "multithreading off", "on"),
        (
            !platform.ecc() && policy.require_ecc,
            "memory with error-correcting codes",
            "without",
        ),
        (
            !platform.rapl_disabled() && policy.require_rapl_disabled,
            "power measurements off (RAPL)",
            "on",
        ),
        (
            !platform.ciphertext_hiding() && policy.require_ciphertext_hiding,
            "ciphertext hidden from the host",
            "visible",
        ),
    ] {
        if wrong {
            checked.refuse(SnpCode::PlatformSetting, PLATFORM, expected, found);
        }
    }
    if policy.mitigations != 0 {
        let (launch, current) = verified.report().mitigations().unwrap_or_default();
        let missing = policy.mitigations & !(launch & current);
        if missing != 0 {
            let (expected, found) = (format!("{:#x}", policy.mitigations), format!("without {missing:#x}"));
            checked.refuse(SnpCode::PlatformSetting, "mitigation vectors", expected, found);
        }
    }
}

/// The memory alias check. Firmware that knows nothing of it leaves the bit clear; version 2 has no such bit.
fn check_alias(verified: &SignedReport<'_>, policy: &SnpPolicy, checked: &mut Checked) {
    let report = verified.report();
    if report.version() >= 3 && report.platform_info().alias_check_complete() {
        return;
    }
    let lenient = match policy.alias_check {
        AliasCheck::Required => None,
        AliasCheck::WhenReported => (report.version() < 3).then_some("when-reported"),
        AliasCheck::Ignored => Some("ignored"),
    };
    match lenient {
        Some(setting) => checked.leniencies.push(format!("snp-alias-check: {setting}")),
        None => {
            let found = match report.version() {
                2 => "a report of version 2, which can not say",
                _ => "not complete",
            };
            checked.refuse(SnpCode::AliasCheck, "PLATFORM_INFO", "the alias check complete", found);
        }
    }
}

/// The chip of a report under a provider's key: its certificate names none, the signed report does, unless it is masked.
fn check_named_chip(verified: &SignedReport<'_>, policy: &SnpPolicy, checked: &mut Checked) {
    const CHIP: &str = "CHIP_ID";
    if policy.denied_chips.is_empty() {
        return;
    }
    if verified.report().chip_id_masked() {
        let expected = "a chip id that is not masked, since the policy denies chips";
        checked.refuse(SnpCode::ChipMasked, CHIP, expected, "masked");
        return;
    }
    let found = verified.report().chip_id();
    // Turin's have 8 bytes, with zeros behind them in the report.
    let is_denied = |chip: &Vec<u8>| {
        let rest = found.strip_prefix(chip.as_slice());
        rest.is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
    };
    if policy.denied_chips.iter().any(is_denied) {
        checked.refuse(
            SnpCode::ChipDenied,
            CHIP,
            "a chip that is not denied",
            hex::encode(found),
        );
    }
}

/// CHIP_ID against the lists. A chip that is masked in the report is still named by its key's certificate.
fn check_chip(verified: &SignedReport<'_>, policy: &SnpPolicy, checked: &mut Checked) {
    const CHIP: &str = "CHIP_ID";
    let Some(chip) = verified.certified_chip() else {
        if policy.allowed_chips.is_some() {
            checked.refuse(
                SnpCode::ChipUnlisted,
                CHIP,
                "a listed chip",
                "a provider's key, which names none",
            );
        }
        check_named_chip(verified, policy, checked);
        return;
    };
    if policy.denied_chips.contains(chip) {
        checked.refuse(
            SnpCode::ChipDenied,
            CHIP,
            "a chip that is not denied",
            hex::encode(chip),
        );
    }
    if verified.report().chip_id_masked() {
        if policy.allow_masked_chips {
            checked.leniencies.push("snp-masked-chip: allowed".into());
        } else {
            let found = format!("masked; the signing key is for {}", hex::encode(chip));
            checked.refuse(SnpCode::ChipMasked, CHIP, "a chip id that is not masked", found);
        }
    }
    if policy
        .allowed_chips
        .as_ref()
        .is_some_and(|allowed| !allowed.contains(chip))
    {
        checked.refuse(SnpCode::ChipUnlisted, CHIP, "a listed chip", hex::encode(chip));
    }
}
