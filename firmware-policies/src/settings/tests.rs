//! Settings that load, and settings that do not.

use touchstone_verifier::policy::{ReportFreshness, RequiredRoots};
use touchstone_verifier::tdx::{TcbStatus, TdxPolicy};
use touchstone_verifier::tpm::{HashAlg, PcrSelection};

use super::*;

fn codes(text: &str) -> Vec<PolicyCode> {
    Settings::parse(text.as_bytes()).map_or_else(|e| e.problems().iter().map(|p| p.code).collect(), |_| Vec::new())
}

#[test]
fn the_default_file_holds_the_default_values() {
    let settings = Settings::parse(Settings::default_file("eu-1.example").as_bytes()).unwrap();
    assert_eq!(settings.domain, "eu-1.example");
    assert_eq!((settings.generation, settings.crl), (1, CrlRule::WhenPresent));
    assert_eq!(settings.timers, Timers::default());
    let required = PcrSelection::new([(HashAlg::Sha256, DEFAULT_REQUIRED)]).unwrap();
    let session = PcrSelection::new([(HashAlg::Sha256, DEFAULT_SESSION_KEY)]).unwrap();
    assert_eq!(settings.appraisal.required_registers, required);
    assert_eq!(settings.appraisal.session_key_registers, session);
    assert_eq!(settings.appraisal.ek_expiry, Expiry::Deny);
    assert_eq!(settings.appraisal.event_log, EventLogRule::Required);
    assert_eq!(settings.appraisal.policy_id, "eu-1.example");
    assert_eq!(settings.scopes.len(), 3);
}

#[test]
fn what_is_wrong_is_refused_with_its_code() {
    use PolicyCode::*;
    let good = Settings::default_file("eu-1");
    let session = "session_key_registers = { sha256 = [0, 2, 4, 7, 8, 9, 14] }";
    let required = "required_registers = { sha256 = [0, 2, 3, 4, 7, 8, 9, 11, 14] }";
    let scopes = good.lines().find(|l| l.starts_with("scopes")).unwrap();
    let rows: &[(&str, &str, &[PolicyCode])] = &[
        ("domain = \"eu-1\"", "domain = \"EU 1\"", &[SettingsName]),
        ("domain = \"eu-1\"", "domain = \"\"", &[SettingsName]),
        (
            "domain = \"eu-1\"",
            "domain = \"eu-1\"\nallow_all = true",
            &[SettingsUnreadable],
        ),
        ("domain = \"eu-1\"", "", &[SettingsUnreadable]),
        ("generation = 1", "generation = 0", &[SettingsGeneration]),
        ("generation = 1", "generation = -1", &[SettingsUnreadable]),
        ("skew_ms = 500", "skew_ms = 500\nskew_s = 1", &[SettingsUnreadable]),
        ("skew_ms = 500", "", &[SettingsUnreadable]),
        ("heartbeat_ms = 1000", "heartbeat_ms = 2000", &[TimerWindowShort]),
        ("ek_expiry = \"deny\"", "ek_expiry = \"ignore\"", &[SettingsUnreadable]),
        (
            "ek_expiry = \"deny\"",
            "ek_expiry = \"deny\"\nskip_verify = true",
            &[SettingsUnreadable],
        ),
        (
            "event_log = \"required\"",
            "event_log = \"optional\"",
            &[SettingsUnreadable],
        ),
        ("crl = \"when-present\"", "crl = \"never\"", &[SettingsUnreadable]),
        ("crl = \"when-present\"", "", &[SettingsUnreadable]),
        (
            "ek_certificate = \"when-present\"",
            "ek_certificate = \"optional\"",
            &[SettingsUnreadable],
        ),
        (session, "session_key_registers = { sha256 = [] }", &[SettingsEmptyList]),
        (session, "session_key_registers = {}", &[SettingsEmptyList]),
        (
            session,
            "session_key_registers = { sha256 = [0, 10] }",
            &[RegisterRefused, SessionRegisters],
        ),
        (
            session,
            "session_key_registers = { sha256 = [0, 11] }",
            &[RegisterRefused],
        ),
        (
            session,
            "session_key_registers = { sha256 = [0, 0] }",
            &[RegisterRefused],
        ),
        (
            session,
            "session_key_registers = { sha256 = [0, 1] }",
            &[SessionRegisters],
        ),
        (session, "session_key_registers = { sha1 = [0] }", &[BankRefused]),
        (
            required,
            "required_registers = { sha256 = [] }",
            &[SettingsEmptyList, SessionRegisters],
        ),
        (
            required,
            "required_registers = { sha256 = [0, 2, 3, 4, 7, 8, 9, 11, 14, 16] }",
            &[RegisterRefused],
        ),
        (
            required,
            "required_registers = { sha256 = [0, 2, 3, 4, 7, 8, 9, 11, 14, 24] }",
            &[RegisterRefused],
        ),
        (
            required,
            "required_registers = { sha256 = [0, 2, 4, 7, 8, 9, 14], sha1 = [0] }",
            &[BankRefused],
        ),
        ("mode = \"by-reference\"", "mode = \"sometimes\"", &[SettingsUnreadable]),
        (
            "violations = \"refuse\"",
            "violations = \"ignore\"",
            &[SettingsUnreadable],
        ),
        ("exclude = []", "exclude = [\"/**\"]", &[PathRule]),
        ("exclude = []", "excluded = []", &[SettingsUnreadable]),
        (scopes, "scopes = []", &[SettingsEmptyList]),
        (scopes, "scopes = [\"execute:*\"]", &[ScopeInvalid]),
        (scopes, "scopes = [\"anything:workloads\"]", &[ScopeInvalid]),
        (scopes, "scopes = [\"execute:a\", \"execute:a\"]", &[ScopeInvalid]),
    ];
    assert_eq!(codes(&good), []);
    for (from, to, expected) in rows {
        assert_eq!(good.matches(from).count(), 1, "{from}");
        let mut found = codes(&good.replace(from, to));
        found.dedup();
        assert_eq!(found, *expected, "{to}");
    }
}

#[test]
fn a_file_from_before_ima_loads_with_the_strict_values() {
    let text = Settings::default_file("eu-1");
    let (before, rest) = text.split_once("[ima]").unwrap();
    let (_, after) = rest.split_once("[grants]").unwrap();
    let settings = Settings::parse(format!("{before}[grants]{after}").as_bytes()).unwrap();
    assert_eq!(settings.ima, ImaSettings::default());
    // Workloads are what a file has to ask for: one of before there were any has none.
    assert_eq!(settings.delegation, Delegation::default());
    let asked = Settings::parse(text.as_bytes()).unwrap().delegation;
    assert!(asked.max_depth > 0 && !asked.offline);
    let settings = Settings {
        delegation: asked,
        ..settings
    };
    assert_eq!(
        settings,
        Settings::parse(text.as_bytes()).unwrap(),
        "the default file says what is assumed"
    );
}

#[test]
fn several_banks_are_required_together() {
    let text = Settings::default_file("eu-1").replace(
        "required_registers = { sha256 = [0, 2, 3, 4, 7, 8, 9, 11, 14] }",
        "required_registers = { sha256 = [0, 2, 4, 7, 8, 9, 14], sha384 = [0, 7], sha512 = [4] }",
    );
    let required = Settings::parse(text.as_bytes()).unwrap().appraisal.required_registers;
    assert!(required.contains(HashAlg::Sha384, 7) && required.contains(HashAlg::Sha512, 4));
    assert!(!required.contains(HashAlg::Sha384, 4));
}

#[test]
fn what_is_demanded_of_certificates_reaches_the_appraisal() {
    let good = Settings::default_file("eu-1");
    let read = |text: &str| Settings::parse(text.as_bytes()).unwrap().appraisal;
    let start = read(&good);
    assert_eq!(start.crl, ChainCrlRule::WhenPresent);
    assert_eq!(start.ek_certificate, EkCertificateRule::WhenPresent);
    let strict = read(&good.replace("\"when-present\"", "\"required\""));
    assert_eq!(strict.crl, ChainCrlRule::Required);
    assert_eq!(strict.ek_certificate, EkCertificateRule::Required);
    let older = read(&good.replace("ek_certificate = \"when-present\"", ""));
    assert_eq!(older.ek_certificate, EkCertificateRule::WhenPresent);
}

#[test]
fn what_is_demanded_of_tdx_guests_reaches_the_appraisal() {
    let good = Settings::default_file("eu-1");
    let read = |text: &str| Settings::parse(text.as_bytes()).map(|settings| settings.appraisal);
    let start = read(&good).unwrap();
    assert_eq!(start.tdx, TdxPolicy::default(), "the default file is the strictest");
    assert_eq!(start.azure.report_freshness, ReportFreshness::Session);
    assert_eq!(
        start.roots.required,
        RequiredRoots::Listed,
        "nothing that an entry lists may be left out"
    );
    let lenient = good.replace("required = \"listed\"", "required = \"any\"");
    assert_eq!(read(&lenient).unwrap().roots.required, RequiredRoots::Any);
    let status = "tcb_status = [\"UpToDate\"]";
    let changed = good
        .replace(status, "tcb_status = [\"UpToDate\", \"OutOfDate\"]")
        .replace("registers = [0, 1, 2, 3]\n", "registers = [0, 2]\n")
        .replace("min_tcb_evaluation_number = 0", "min_tcb_evaluation_number = 20")
        .replace(
            "denied_platforms = []",
            "denied_platforms = [\"99999999999999999999999999999999\"]",
        );
    let tdx = read(&changed).unwrap().tdx;
    assert_eq!(tdx.tcb_status, [TcbStatus::UpToDate, TcbStatus::OutOfDate].into());
    assert_eq!(tdx.registers, [0, 2].into());
    assert_eq!(tdx.min_tcb_evaluation_number, 20);
    assert_eq!(tdx.denied_platforms, [vec![0x99; 16]].into());
    for (from, to) in [
        (status, "tcb_status = []"),
        (status, "tcb_status = [\"Revoked\"]"),
        (status, "tcb_status = [\"uptodate\"]"),
        (status, "tcb_status = [\"UpToDate\", \"UpToDate\"]"),
        (status, "status = [\"UpToDate\"]"),
        ("registers = [0, 1, 2, 3]\n", "registers = []\n"),
        ("registers = [0, 1, 2, 3]\n", "registers = [4]\n"),
        ("registers = [0, 1, 2, 3]\n", "registers = [1, 1]\n"),
        ("denied_platforms = []", "denied_platforms = [\"99\"]"),
        ("min_tcb_evaluation_number = 0", "min_tcb_evaluation_number = -1"),
        ("report_freshness = \"session\"", "report_freshness = \"any\""),
    ] {
        assert_eq!(good.matches(from).count(), 1, "{from}");
        assert!(read(&good.replace(from, to)).is_err(), "{to}");
    }
}
