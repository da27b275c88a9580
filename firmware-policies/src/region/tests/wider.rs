//! What is wider is refused, with file, key and rule.

use super::*;

fn problems_of(whole: &Settings, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let file = "regions/eu/settings.toml";
    let said = crate::region::settings::read(file, text.as_bytes(), &mut problems);
    let mut rules = Rules::new(file, &mut problems);
    said.timers(&whole.timers, &mut rules);
    said.appraisal(&whole.appraisal, &mut rules);
    said.containment(&whole.containment, &mut rules);
    said.delegation(&whole.delegation, &mut rules);
    said.scopes(&whole.scopes, &mut rules);
    said.selection(&mut rules);
    problems
}

/// A whole in which every key has a value that could be made wider.
fn whole() -> Settings {
    let mut settings = default_settings();
    let snp = &mut settings.appraisal.snp;
    snp.products = [Product::Milan].into();
    snp.floors = BTreeMap::from([(
        Product::Milan,
        Tcb {
            boot_loader: 4,
            snp: 24,
            ..Tcb::default()
        },
    )]);
    (snp.allow_smt, snp.require_ecc, snp.require_rapl_disabled) = (false, true, true);
    snp.require_ciphertext_hiding = true;
    settings.appraisal.tdx.min_tcb_evaluation_number = 17;
    let gpu = &mut settings.appraisal.gpu;
    (gpu.required, gpu.inventory_required) = (true, true);
    gpu.products = Some([chip("GH100")].into());
    gpu.min_driver = Version::driver("550.90");
    gpu.min_vbios = BTreeMap::from([(chip("GH100"), Version::vbios("96.00.9F").unwrap())]);
    settings.appraisal.crl = CrlRule::Required;
    settings.appraisal.ek_certificate = EkCertificateRule::Required;
    settings.appraisal.ima.mode = ImaMode::Required;
    settings.appraisal.roots.required = RequiredRoots::Tpm;
    let rule = |reach, roles: &[&str]| ReachRule {
        reach,
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
    };
    settings.containment = Containment {
        default: rule(Reach::Zone, &["gateway"]),
        zones: BTreeMap::from([("vault".to_owned(), rule(Reach::Cluster, &["a", "b"]))]),
    };
    settings.timers.attestation_grace_ms = 10_000;
    settings
}

#[test]
fn every_wider_value_is_refused_with_its_key() {
    for (key, text) in [
        (
            "timers.attestation_interval_ms",
            "[timers]\nattestation_interval_ms = 30001",
        ),
        (
            "timers.attestation_deadline_ms",
            "[timers]\nattestation_deadline_ms = 60001",
        ),
        (
            "timers.authorization_life_ms",
            "[timers]\nauthorization_life_ms = 120001",
        ),
        ("tpm.ek_expiry", "[tpm]\nek_expiry = \"ignore-with-claim\""),
        ("tpm.event_log", "[tpm]\nevent_log = \"registers-suffice\""),
        ("tpm.crl", "[tpm]\ncrl = \"when-present\""),
        ("tpm.ek_certificate", "[tpm]\nek_certificate = \"when-present\""),
        ("ima.mode", "[ima]\nmode = \"by-reference\""),
        ("ima.exclude", "[ima]\nexclude = [\"/usr/lib/**\"]"),
        ("ima.violations", "[ima]\nviolations = \"allow\""),
        ("roots.required", "[roots]\nrequired = \"any\""),
        ("roots.required", "[roots]\nrequired = \"tee\""),
        ("snp.alias_check", "[snp]\nalias_check = \"ignored\""),
        ("snp.max_vmpl", "[snp]\nmax_vmpl = 1"),
        ("snp.debug", "[snp]\ndebug = \"allow\""),
        ("snp.migration_agent", "[snp]\nmigration_agent = \"allow\""),
        ("snp.masked_chips", "[snp]\nmasked_chips = \"allow\""),
        ("snp.smt_off", "[snp]\nsmt_off = \"any\""),
        ("snp.ecc", "[snp]\necc = \"any\""),
        ("snp.rapl_off", "[snp]\nrapl_off = \"any\""),
        ("snp.ciphertext_hiding", "[snp]\nciphertext_hiding = \"any\""),
        ("snp.products", "[snp]\nproducts = [\"milan\", \"genoa\"]"),
        (
            "snp.floors.milan.snp",
            "[snp]\nfloors = { milan = { bl = 4, tee = 0, snp = 23, ucode = 0 } }",
        ),
        ("tdx.tcb_status", "[tdx]\ntcb_status = [\"UpToDate\", \"OutOfDate\"]"),
        ("tdx.min_tcb_evaluation_number", "[tdx]\nmin_tcb_evaluation_number = 16"),
        ("azure.report_freshness", "[azure]\nreport_freshness = \"boot\""),
        ("gpu.required", "[gpu]\nrequired = false"),
        ("gpu.locality", "[gpu]\nlocality = \"guest\""),
        ("gpu.products", "[gpu]\nproducts = [\"GH100\", \"LS_10\"]"),
        ("gpu.min_driver", "[gpu]\nmin_driver = \"550.9\""),
        ("gpu.min_vbios.gh100", "[gpu]\nmin_vbios = { GH100 = \"96.00.0F\" }"),
        ("grants.scopes", "[grants]\nscopes = [\"administer:everything\"]"),
        ("timers.attestation_grace_ms", "[timers]\nattestation_grace_ms = 10001"),
        ("containment.default", "[containment]\ndefault = \"subject\""),
        (
            "containment.default",
            "[containment]\ndefault = \"cluster\"\nroles = [\"other\"]",
        ),
        (
            "containment.zones.vault",
            "[containment]\nzones.vault = { reach = \"zone\", roles = [\"a\", \"b\"] }",
        ),
        (
            "containment.zones.vault",
            "[containment]\nzones.vault = { reach = \"cluster\", roles = [\"a\"] }",
        ),
        // A zone that the whole does not name has the whole's default.
        (
            "containment.zones.office",
            "[containment]\nzones.office = { reach = \"subject\" }",
        ),
        ("delegation.max_depth", "[delegation]\nmax_depth = 5"),
        ("delegation.max_children", "[delegation]\nmax_children = 65"),
        ("delegation.workload_life_ms", "[delegation]\nworkload_life_ms = 60001"),
        ("delegation.offline", "[delegation]\noffline = true"),
        ("delegation.offline_depth", "[delegation]\noffline_depth = 3"),
        ("delegation.offline_life_ms", "[delegation]\noffline_life_ms = 60001"),
        (
            "delegation.software_keys",
            "[delegation]\nsoftware_keys = \"short-lived\"",
        ),
    ] {
        let problems = problems_of(&whole(), text);
        let [problem] = problems.as_slice() else {
            panic!("{key}: {problems:?}");
        };
        assert_eq!(problem.code, PolicyCode::RegionWidens, "{key}");
        assert_eq!(problem.claim.to_lowercase(), format!("regions/eu/settings.toml: {key}"));
        assert!(
            problem.expected.starts_with("nothing that the whole does not accept: "),
            "{key}"
        );
    }
}

#[test]
fn what_a_region_has_no_say_in_is_refused() {
    for text in [
        "[status_list]\nuri = \"https://a/b\"",
        "[delegation]\noperators = 1",
        "[containment]\nreach = \"zone\"",
        "domain = \"other\"",
        "generation = 2",
        "[timers]\nfreshness_window_ms = 1",
        "[timers]\nheartbeat_ms = 1",
        "[tpm]\nsession_key_registers = { sha256 = [0] }",
        "[residency]\nproviders = [\"cloud=eu\"]",
        "[enrolment]\n",
        "[snp]\nanchors = [\"x\"]",
        "[select]\nchips = [\"x\"]",
        "[trust]\n",
        "not toml",
    ] {
        let problems = problems_of(&whole(), text);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert_eq!(problems[0].code, PolicyCode::RegionSettingsUnreadable, "{text}");
        assert_eq!(problems[0].claim, "regions/eu/settings.toml", "{text}");
    }
}

#[test]
fn an_empty_list_never_means_any() {
    for text in [
        "[grants]\nscopes = []",
        "[select]\nreferences = []",
        "[select]\nanchors = []",
        "[select]\nsigners = []",
        "[snp]\nproducts = []",
        "[snp]\nallowed_chips = []",
        "[snp]\nid_keys = []",
        "[tdx]\ntcb_status = []",
        "[gpu]\nproducts = []",
    ] {
        let codes: Vec<PolicyCode> = problems_of(&whole(), text).iter().map(|p| p.code).collect();
        assert_eq!(codes, [PolicyCode::SettingsEmptyList], "{text}");
    }
}

#[test]
fn what_is_stricter_is_taken() {
    let whole = whole();
    let text = "[timers]\nauthorization_life_ms = 90000\nattestation_deadline_ms = 45000\n\
                [tpm]\nrequired_registers = { sha256 = [5], sha384 = [7] }\n\
                [snp]\nfloors = { milan = { bl = 4, tee = 0, snp = 25, ucode = 0 } }\ndenied_chips = [\"CHIP\"]\n\
                [gpu]\nmin_driver = \"550.100\"\n[roots]\nrequired = \"tpm+tee\"\n";
    let text = text.replace("CHIP", &"ab".repeat(64));
    assert_eq!(problems_of(&whole, &text), []);
    let mut problems = Vec::new();
    let said = crate::region::settings::read("f", text.as_bytes(), &mut problems);
    let mut rules = Rules::new("f", &mut problems);
    let region = said.appraisal(&whole.appraisal, &mut rules);
    assert!(region.required_registers.covers(&whole.appraisal.required_registers));
    assert!(region.required_registers.contains(HashAlg::Sha256, 5));
    assert!(region.required_registers.contains(HashAlg::Sha384, 7));
    assert_eq!(region.snp.floors[&Product::Milan].snp, 25);
    assert!(region.snp.denied_chips.contains(&vec![0xab; 64]));
    assert_eq!(region.gpu.min_driver, Version::driver("550.100"));
    assert_eq!(region.roots.required, RequiredRoots::TpmAndTee);
    assert_eq!(said.timers(&whole.timers, &mut rules).authorization_life_ms, 90_000);
}
