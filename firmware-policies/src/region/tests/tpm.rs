//! TPM, IMA, roots and Azure.

use super::*;

const REGISTERS: &[u8] = &[0, 4, 7, 11];
const PATHS: &[&str] = &["/var/lib/**", "/opt/app/*", "/run/**"];

/// What is against a machine with a TPM, or missing.
#[derive(Debug, Clone)]
struct Machine {
    matching: BTreeSet<(HashAlg, u8)>,
    certificate_expired: bool,
    certificate: bool,
    /// Whether its issuer has a revocation list.
    crl: bool,
    event_log: bool,
    /// IMA's list: none, and the path of a file that no reference knows.
    list: Option<Option<&'static str>>,
    violation: bool,
    matched_reference_has_files: bool,
    tpm: bool,
    tee: bool,
    /// Whether its inventory entry lists a TPM, and a confidential VM.
    lists: (bool, bool),
    fresh_report: bool,
}

fn machines() -> impl Strategy<Value = Machine> {
    let files = &["/var/lib/x", "/opt/app/x", "/run/x", "/usr/bin/x"][..];
    let list = of(of(select(files)));
    (few(REGISTERS), few(REGISTERS), list, any::<[bool; 12]>()).prop_map(|(sha256, sha384, list, f)| {
        let bank = |bank, registers: Vec<u8>| registers.into_iter().map(move |register| (bank, register));
        Machine {
            matching: bank(HashAlg::Sha256, sha256)
                .chain(bank(HashAlg::Sha384, sha384))
                .collect(),
            certificate_expired: f[0],
            certificate: f[1],
            crl: f[2],
            event_log: f[3],
            list,
            violation: f[4],
            matched_reference_has_files: f[5],
            tpm: f[6],
            tee: f[7],
            lists: (f[8], f[9]),
            fresh_report: f[10],
        }
    })
}

fn tpm_kept(policy: &AppraisalPolicy, machine: &Machine) -> Kept {
    let any = machine.tpm || machine.tee;
    let listed = any && (machine.tpm || !machine.lists.0) && (machine.tee || !machine.lists.1);
    let roots = match policy.roots.required {
        RequiredRoots::Any => any,
        RequiredRoots::Listed => listed,
        RequiredRoots::Tpm => listed && machine.tpm,
        RequiredRoots::Tee => listed && machine.tee,
        RequiredRoots::TpmAndTee => listed && machine.tpm && machine.tee,
    };
    let judged = match policy.ima.mode {
        ImaMode::Off => None,
        ImaMode::ByReference if !machine.matched_reference_has_files => None,
        ImaMode::ByReference | ImaMode::Required => Some(machine.list),
    };
    let excluded = |path: &str| {
        policy
            .ima
            .rules
            .exclude
            .iter()
            .any(|rule| rule.matches(path.as_bytes()))
    };
    let unknown = judged.flatten().flatten().filter(|path| !excluded(path));
    vec![
        (
            "required_registers",
            policy
                .required_registers
                .iter()
                .all(|register| machine.matching.contains(&register)),
        ),
        (
            "ek_expiry",
            policy.ek_expiry == Expiry::IgnoreWithClaim || !machine.certificate_expired,
        ),
        ("crl", policy.crl != CrlRule::Required || machine.crl),
        (
            "ek_certificate",
            policy.ek_certificate != EkCertificateRule::Required || machine.certificate,
        ),
        (
            "event_log",
            policy.event_log != EventLogRule::Required || machine.event_log,
        ),
        ("ima list", judged.is_none_or(|list| list.is_some())),
        ("ima files", unknown.is_none()),
        (
            "ima violations",
            judged.is_none() || policy.ima.rules.violations == Violations::Allow || !machine.violation,
        ),
        ("roots", roots),
        (
            "report_freshness",
            policy.azure.report_freshness == ReportFreshness::Boot || machine.fresh_report,
        ),
    ]
}

fn tpm_policies() -> impl Strategy<Value = AppraisalPolicy> {
    use RequiredRoots::{Any, Listed, Tee, Tpm, TpmAndTee};
    let modes = (
        select(&[ImaMode::Off, ImaMode::ByReference, ImaMode::Required][..]),
        select(&[Any, Listed, Tpm, Tee, TpmAndTee][..]),
    );
    (vec(few(REGISTERS), 2), few(PATHS), modes, any::<[bool; 6]>()).prop_map(|(banks, paths, (mode, required), f)| {
        let banks = [HashAlg::Sha256, HashAlg::Sha384].into_iter().zip(banks);
        let mut policy = default_settings().appraisal;
        policy.required_registers = PcrSelection::new(banks.filter(|(_, registers)| !registers.is_empty())).unwrap();
        policy.ek_expiry = if f[0] { Expiry::Deny } else { Expiry::IgnoreWithClaim };
        policy.crl = if f[1] { CrlRule::Required } else { CrlRule::WhenPresent };
        policy.ek_certificate = match f[2] {
            true => EkCertificateRule::Required,
            false => EkCertificateRule::WhenPresent,
        };
        policy.event_log = if f[3] {
            EventLogRule::Required
        } else {
            EventLogRule::RegistersSuffice
        };
        policy.azure.report_freshness = if f[4] {
            ReportFreshness::Session
        } else {
            ReportFreshness::Boot
        };
        policy.roots.required = required;
        let rules = ImaRules {
            exclude: paths.iter().map(|path| PathRule::parse(path).unwrap()).collect(),
            violations: if f[5] { Violations::Refuse } else { Violations::Allow },
            signed_by: Vec::new(),
        };
        policy.ima = ImaPolicy {
            mode,
            rules: std::sync::Arc::new(rules),
        };
        policy
    })
}

fn tpm_said() -> impl Strategy<Value = RegionSettings> {
    use file::{CrlRule, EkCertificateName, EkExpiryName, EventLogName};
    use file::{ImaMode, ImaViolations, ReportFreshnessName, RequiredRoots};
    let registers = proptest::collection::btree_map(
        select(&["sha256", "sha384", "sha512", "sha1"][..]).prop_map(str::to_owned),
        few(&[0u8, 4, 7, 10, 11, 23]),
        0..3,
    );
    let tpm = (
        registers,
        of(select(&[EkExpiryName::Deny, EkExpiryName::IgnoreWithClaim][..])),
        of(select(&[EventLogName::Required, EventLogName::RegistersSuffice][..])),
        of(select(&[CrlRule::Required, CrlRule::WhenPresent][..])),
        of(select(
            &[EkCertificateName::Required, EkCertificateName::WhenPresent][..],
        )),
    );
    let ima = (
        of(select(&[ImaMode::Off, ImaMode::ByReference, ImaMode::Required][..])),
        of(words(PATHS)),
        of(select(&[ImaViolations::Refuse, ImaViolations::Allow][..])),
    );
    let roots = &[
        RequiredRoots::Any,
        RequiredRoots::Listed,
        RequiredRoots::Tpm,
        RequiredRoots::Tee,
        RequiredRoots::TpmAndTee,
    ][..];
    let fresh = of(select(&[ReportFreshnessName::Session, ReportFreshnessName::Boot][..]));
    (tpm, ima, of(select(roots)), fresh).prop_map(|(tpm, ima, required, report_freshness)| RegionSettings {
        tpm: RegionTpm {
            required_registers: tpm.0,
            ek_expiry: tpm.1,
            event_log: tpm.2,
            crl: tpm.3,
            ek_certificate: tpm.4,
        },
        ima: RegionIma {
            mode: ima.0,
            exclude: ima.1,
            violations: ima.2,
        },
        roots: RegionRoots { required },
        azure: crate::region::settings::RegionAzure { report_freshness },
        ..RegionSettings::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn tpm_ima_roots_and_azure_only_narrow(
        whole in tpm_policies(), said in tpm_said(), machines in vec(machines(), 8)
    ) {
        let mut problems = Vec::new();
        let region = said.appraisal(&whole, &mut Rules::new("f", &mut problems));
        for machine in &machines {
            only_narrows(tpm_kept(&whole, machine), tpm_kept(&region, machine))?;
        }
        prop_assert_eq!(&region.session_key_registers, &whole.session_key_registers);
        prop_assert_eq!(&region.ima.rules.signed_by, &whole.ima.rules.signed_by);
    }
}
