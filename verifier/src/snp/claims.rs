//! Every field of a report as a typed claim.

use std::collections::BTreeSet;

use super::tcb::Component;
use super::vek::VekKind;
use super::verified::SignedReport;
use crate::appraisal::{ClaimValue, Claims};

/// Names of the claims that are texts. One that a report has nothing for is absent.
pub const TEXTS: [&str; 19] = [
    "snp_product",
    "snp_measurement",
    "snp_host_data",
    "snp_family_id",
    "snp_image_id",
    "snp_id_key_digest",
    "snp_author_key_digest",
    "snp_report_id",
    "snp_report_id_ma",
    "snp_report_data",
    "snp_chip_id",
    "snp_signing_key",
    "snp_provider",
    "snp_firmware_current",
    "snp_firmware_committed",
    "snp_cpuid",
    "snp_mitigations_launch",
    "snp_mitigations_current",
    "snp_policy",
];
/// Names of the claims that are numbers. A component that the product line lacks is absent.
pub const NUMBERS: [&str; 25] = [
    "snp_report_version",
    "snp_guest_svn",
    "snp_vmpl",
    "snp_policy_abi_major",
    "snp_policy_abi_minor",
    "snp_reported_fmc",
    "snp_reported_bl",
    "snp_reported_tee",
    "snp_reported_snp",
    "snp_reported_ucode",
    "snp_current_fmc",
    "snp_current_bl",
    "snp_current_tee",
    "snp_current_snp",
    "snp_current_ucode",
    "snp_committed_fmc",
    "snp_committed_bl",
    "snp_committed_tee",
    "snp_committed_snp",
    "snp_committed_ucode",
    "snp_launch_fmc",
    "snp_launch_bl",
    "snp_launch_tee",
    "snp_launch_snp",
    "snp_launch_ucode",
];
/// Names of the claims that are yes or no.
pub const FLAGS: [&str; 16] = [
    "snp_debug",
    "snp_migration_agent",
    "snp_policy_smt",
    "snp_policy_single_socket",
    "snp_policy_cxl",
    "snp_policy_aes_256_xts",
    "snp_policy_rapl_disabled",
    "snp_policy_ciphertext_hiding",
    "snp_policy_page_swap_disabled",
    "snp_smt",
    "snp_tsme",
    "snp_ecc",
    "snp_rapl_disabled",
    "snp_ciphertext_hiding",
    "snp_alias_check",
    "snp_tio",
];

/// Names of the claims that are sets. A report before version 5 has none of them.
pub const SETS: [&str; 2] = ["snp_mitigation_bits_launch", "snp_mitigation_bits_current"];

/// REPORT_ID_MA of a guest without a migration agent.
const NO_MIGRATION_AGENT: [u8; 32] = [0xff; 32];

/// Every field of a report under a name that policies can ask for.
pub fn claims(verified: &SignedReport<'_>) -> Claims {
    let report = verified.report();
    let (guest, platform) = (report.policy(), report.platform_info());
    let mut claims = Claims::new();
    let mut text = |name: &str, value: String| drop(claims.insert(name.to_owned(), ClaimValue::Text(value)));
    text("snp_product", verified.product().to_string());
    text("snp_measurement", hex::encode(report.measurement()));
    text("snp_host_data", hex::encode(report.host_data()));
    text("snp_family_id", hex::encode(report.family_id()));
    text("snp_image_id", hex::encode(report.image_id()));
    text("snp_id_key_digest", hex::encode(report.id_key_digest()));
    text("snp_report_id", hex::encode(report.report_id()));
    if report.report_id_ma() != NO_MIGRATION_AGENT {
        text("snp_report_id_ma", hex::encode(report.report_id_ma()));
    }
    text(
        "snp_chip_id",
        verified.chip_id().map_or("masked".to_owned(), hex::encode),
    );
    let (signer, provider) = match verified.vek().kind() {
        VekKind::Vcek { .. } => ("vcek", None),
        VekKind::Vlek { provider } => ("vlek", Some(provider)),
    };
    text("snp_signing_key", signer.into());
    if let Some(provider) = provider {
        text("snp_provider", provider.clone());
    }
    text("snp_report_data", hex::encode(report.report_data()));
    if report.author_key_enabled() {
        text("snp_author_key_digest", hex::encode(report.author_key_digest()));
    }
    let words = |(major, minor, build): (u8, u8, u8)| format!("{major}.{minor}.{build}");
    text("snp_firmware_current", words(report.current_version()));
    text("snp_firmware_committed", words(report.committed_version()));
    if let Some((family, model, stepping)) = report.cpuid() {
        text("snp_cpuid", format!("{family:#04x} {model:#04x} {stepping}"));
    }
    if let Some((launch, current)) = report.mitigations() {
        text("snp_mitigations_launch", format!("{launch:#x}"));
        text("snp_mitigations_current", format!("{current:#x}"));
    }
    text("snp_policy", format!("{:#x}", guest.0));
    if let Some((launch, current)) = report.mitigations() {
        for (name, vector) in SETS.into_iter().zip([launch, current]) {
            claims.insert(name.to_owned(), ClaimValue::Set(bits(vector)));
        }
    }
    let mut int = |name: String, value: i64| drop(claims.insert(name, ClaimValue::Int(value)));
    int("snp_report_version".into(), report.version().into());
    int("snp_guest_svn".into(), report.guest_svn().into());
    int("snp_vmpl".into(), report.vmpl().into());
    let (abi_major, abi_minor) = guest.abi();
    int("snp_policy_abi_major".into(), abi_major.into());
    int("snp_policy_abi_minor".into(), abi_minor.into());
    for (name, tcb) in [
        ("reported", verified.reported_tcb()),
        ("current", verified.current_tcb()),
        ("committed", verified.committed_tcb()),
        ("launch", verified.launch_tcb()),
    ] {
        for component in Component::ALL {
            if let Some(version) = tcb.get(component) {
                int(format!("snp_{name}_{}", component.as_str()), version.into());
            }
        }
    }
    for (name, value) in [
        ("snp_debug", guest.debug()),
        ("snp_migration_agent", guest.migration_agent()),
        ("snp_policy_smt", guest.smt()),
        ("snp_policy_single_socket", guest.single_socket()),
        ("snp_policy_cxl", guest.cxl()),
        ("snp_policy_aes_256_xts", guest.aes_256_xts()),
        ("snp_policy_rapl_disabled", guest.rapl_disabled()),
        ("snp_policy_ciphertext_hiding", guest.ciphertext_hiding()),
        ("snp_policy_page_swap_disabled", guest.page_swap_disabled()),
        ("snp_smt", platform.smt()),
        ("snp_tsme", platform.tsme()),
        ("snp_ecc", platform.ecc()),
        ("snp_rapl_disabled", platform.rapl_disabled()),
        ("snp_ciphertext_hiding", platform.ciphertext_hiding()),
        (
            "snp_alias_check",
            report.version() >= 3 && platform.alias_check_complete(),
        ),
        ("snp_tio", platform.tio()),
    ] {
        claims.insert(name.to_owned(), ClaimValue::Bool(value));
    }
    claims
}

/// The numbers of the bits that are set, as decimal texts: what a policy can ask for one by one.
fn bits(vector: u64) -> BTreeSet<String> {
    let set = (0..u64::BITS).filter(|bit| vector >> bit & 1 == 1);
    set.map(|bit| bit.to_string()).collect()
}
