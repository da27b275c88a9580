//! What a domain demands of a report that is genuine.

use std::collections::{BTreeMap, BTreeSet};

use super::code::SnpCode;
use super::product::Product;
use super::tcb::Tcb;
use super::vek::VekKind;
use super::verified::VerifiedReport;
use crate::appraisal::{ClaimValue, Claims};
use crate::reason::Reason;

/// What to do about the memory alias check (setting `snp.alias_check`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AliasCheck {
    /// The report must say that it was done; one of version 2 can not, and is refused.
    #[default]
    Required,
    /// A report that can say it must; one of version 2 is let through, and the result names the leniency.
    WhenReported,
    /// Not looked at; the result names the leniency where the bit is missing.
    Ignored,
}

/// What a domain demands of SEV-SNP guests and platforms. The default is the strictest that needs no list of the
/// domain's own: no debugging, VMPL 0, no migration agent, the alias check, chips of every known product line, no
/// provider's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpPolicy {
    /// Product lines that are accepted.
    pub products: BTreeSet<Product>,
    /// Highest privilege level number the report may come from: 0 is the most privileged.
    pub max_vmpl: u32,
    /// Whether the host may debug the guest.
    pub allow_debug: bool,
    /// Whether a migration agent may be bound.
    pub allow_migration_agent: bool,
    /// Whether simultaneous multithreading may be on.
    pub allow_smt: bool,
    /// The alias check.
    pub alias_check: AliasCheck,
    /// Least security versions by product line: of what is reported, committed and was there at launch.
    pub floors: BTreeMap<Product, Tcb>,
    /// Mitigations (bits of the mitigation vectors) that must be in place at launch and now. Reports before version 5
    /// have no vectors: with a bit demanded they are refused.
    pub mitigations: u64,
    /// Chips that are not trusted.
    pub denied_chips: BTreeSet<Vec<u8>>,
    /// Where there is a list, only these chips are trusted, and no masked one.
    pub allowed_chips: Option<BTreeSet<Vec<u8>>>,
    /// Cloud providers whose keys are accepted.
    pub providers: BTreeSet<String>,
}

impl Default for SnpPolicy {
    fn default() -> Self {
        Self {
            products: Product::ALL.into_iter().collect(),
            max_vmpl: 0,
            allow_debug: false,
            allow_migration_agent: false,
            allow_smt: true,
            alias_check: AliasCheck::Required,
            floors: BTreeMap::new(),
            mitigations: 0,
            denied_chips: BTreeSet::new(),
            allowed_chips: None,
            providers: BTreeSet::new(),
        }
    }
}

/// What came of a genuine report.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checked {
    /// Every reason against it, in the order of the fields.
    pub reasons: Vec<Reason>,
    /// What was overlooked because a signed setting says so.
    pub leniencies: Vec<String>,
    /// Every field as a typed claim.
    pub claims: Claims,
}

/// Judges a genuine report: it must carry `report_data`, and be what `policy` demands.
pub fn check(verified: &VerifiedReport<'_>, report_data: &[u8; 64], policy: &SnpPolicy) -> Checked {
    let mut checked = Checked {
        claims: claims(verified),
        ..Checked::default()
    };
    let report = verified.report();
    let mut refuse = |code: SnpCode, claim: &str, expected: String, found: String| {
        checked.reasons.push(Reason::new(code, claim, expected, found));
    };
    if report.report_data() != report_data {
        let (expected, found) = (hex::encode(report_data), hex::encode(report.report_data()));
        refuse(SnpCode::ReportData, "REPORT_DATA", expected, found);
    }
    let guest = report.policy();
    if guest.debug() && !policy.allow_debug {
        refuse(
            SnpCode::Debug,
            "POLICY",
            "no debugging".into(),
            "debugging allowed".into(),
        );
    }
    if report.vmpl() > policy.max_vmpl {
        let expected = format!("at most {}", policy.max_vmpl);
        refuse(SnpCode::Vmpl, "VMPL", expected, report.vmpl().to_string());
    }
    if guest.migration_agent() && !policy.allow_migration_agent {
        let found = "a migration agent may be bound";
        refuse(
            SnpCode::MigrationAgent,
            "POLICY",
            "no migration agent".into(),
            found.into(),
        );
    }
    if report.platform_info().smt() && !policy.allow_smt {
        let claim = "PLATFORM_INFO";
        refuse(
            SnpCode::PlatformSetting,
            claim,
            "multithreading off".into(),
            "on".into(),
        );
    }
    let done = report.version() >= 3 && report.platform_info().alias_check_complete();
    let lenient = match policy.alias_check {
        AliasCheck::Required => false,
        AliasCheck::WhenReported => report.version() < 3,
        AliasCheck::Ignored => true,
    };
    if !done && !lenient {
        let found = match report.version() {
            2 => "a report of version 2, which can not say",
            _ => "not complete",
        };
        refuse(
            SnpCode::AliasCheck,
            "PLATFORM_INFO",
            "the alias check complete".into(),
            found.into(),
        );
    }
    if !policy.products.contains(&verified.product()) {
        let accepted: Vec<&str> = policy.products.iter().map(|product| product.as_str()).collect();
        let found = verified.product().to_string();
        refuse(SnpCode::ProductRefused, "product", accepted.join(", "), found);
    }
    if let Some(floor) = policy.floors.get(&verified.product()) {
        for (name, tcb) in [
            ("REPORTED_TCB", verified.reported_tcb()),
            ("COMMITTED_TCB", verified.committed_tcb()),
            ("LAUNCH_TCB", verified.launch_tcb()),
        ] {
            for (component, wanted, found) in tcb.below(floor) {
                let words = |version: Option<u8>| version.map_or("none".to_owned(), |version| version.to_string());
                let claim = format!("{name} {}", component.as_str());
                refuse(
                    SnpCode::TcbBelowFloor,
                    &claim,
                    format!("at least {}", words(wanted)),
                    words(found),
                );
            }
        }
    }
    if policy.mitigations != 0 {
        let (launch, current) = report.mitigations().unwrap_or_default();
        let missing = policy.mitigations & !(launch & current);
        if missing != 0 {
            let (expected, found) = (format!("{:#x}", policy.mitigations), format!("without {missing:#x}"));
            refuse(SnpCode::PlatformSetting, "mitigation vectors", expected, found);
        }
    }
    let chip = verified.chip_id();
    let name = |chip: Option<&[u8]>| chip.map_or("masked".to_owned(), hex::encode);
    if chip.is_some_and(|chip| policy.denied_chips.contains(chip)) {
        refuse(
            SnpCode::ChipDenied,
            "CHIP_ID",
            "a chip that is not denied".into(),
            name(chip),
        );
    }
    if let Some(allowed) = &policy.allowed_chips
        && !chip.is_some_and(|chip| allowed.contains(chip))
    {
        refuse(SnpCode::ChipUnlisted, "CHIP_ID", "a listed chip".into(), name(chip));
    }
    if let VekKind::Vlek { provider } = verified.vek().kind()
        && !policy.providers.contains(provider)
    {
        refuse(
            SnpCode::ProviderRefused,
            "provider",
            "a listed provider".into(),
            provider.clone(),
        );
    }
    if !done && lenient {
        let setting = match policy.alias_check {
            AliasCheck::WhenReported => "when-reported",
            _ => "ignored",
        };
        checked.leniencies.push(format!("snp-alias-check: {setting}"));
    }
    checked
}

/// Every field of a report under a name that policies can ask for.
fn claims(verified: &VerifiedReport<'_>) -> Claims {
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
    if report.author_key_enabled() {
        text("snp_author_key_digest", hex::encode(report.author_key_digest()));
    }
    let words = |(major, minor, build): (u8, u8, u8)| format!("{major}.{minor}.{build}");
    text("snp_firmware_current", words(report.current_version()));
    text("snp_firmware_committed", words(report.committed_version()));
    if let Some((family, model, stepping)) = report.cpuid() {
        text("snp_cpuid", format!("{family:#04x} {model:#04x} {stepping}"));
    }
    let mut int = |name: String, value: i64| drop(claims.insert(name, ClaimValue::Int(value)));
    int("snp_report_version".into(), report.version().into());
    int("snp_guest_svn".into(), report.guest_svn().into());
    int("snp_vmpl".into(), report.vmpl().into());
    for (name, tcb) in [
        ("reported", verified.reported_tcb()),
        ("current", verified.current_tcb()),
        ("committed", verified.committed_tcb()),
        ("launch", verified.launch_tcb()),
    ] {
        for component in super::Component::ALL {
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
