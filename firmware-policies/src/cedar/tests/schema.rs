//! The schema, and what is handed to policies under it.

use super::*;

#[test]
fn the_schema_declares_every_claim_with_its_type() {
    use touchstone_verifier::gpu::check as gpu;
    use touchstone_verifier::snp::claims as snp;
    let cedar = default_cedar();
    let strings = [
        claim::BINDING,
        claim::AK_BINDING,
        claim::AK_PARENT,
        claim::EK_CERTIFICATE,
        claim::EK_CRL,
        claim::IAK_CERTIFICATE,
        claim::TPM_MANUFACTURER,
        claim::TPM_MODEL,
        claim::EVENT_LOG,
        claim::KERNEL_COMMAND_LINE,
        claim::BOOT_PHASE,
        claim::BOOTSTRAP,
        claim::UKI_COMMAND_LINE,
        claim::UKI_UNAME,
        claim::UKI_OS,
        claim::SBAT_LEVEL,
        claim::FIRMWARE_VERSION,
        claim::REFERENCE,
        claim::KEXEC,
        claim::IMA,
        claim::IMA_BOOT_AGGREGATE,
        claim::TCB_FRESHNESS,
        claim::CVM_GUEST,
        claim::GPU_LOCALITY,
        claim::SNP_CRL,
        claim::TDX_EVENT_LOG,
        claim::AZURE_VM_ID,
    ];
    let longs = [
        claim::TPM_FIRMWARE,
        claim::RESET_COUNT,
        claim::RESTART_COUNT,
        claim::EVENTS_IGNORED,
        claim::DBX_ENTRIES,
        claim::IMA_ENTRIES,
        claim::IMA_IGNORED,
        claim::IMA_VIOLATIONS,
    ];
    // A confidential VM's own log says of its boot what a TPM's says, under names of its own.
    let of_boot = [
        (claim::SECURE_BOOT, ClaimType::Bool),
        (claim::SETUP_MODE, ClaimType::Bool),
        (claim::BOOT_LOG_COMPLETE, ClaimType::Bool),
        (claim::SECURE_BOOT_PK, ClaimType::Set),
        (claim::SECURE_BOOT_KEK, ClaimType::Set),
        (claim::SECURE_BOOT_DB, ClaimType::Set),
        (claim::BOOT_AUTHORITIES, ClaimType::Set),
        (claim::BOOT_IMAGES, ClaimType::Set),
        (claim::DBX_ENTRIES, ClaimType::Long),
        (claim::EVENTS_IGNORED, ClaimType::Long),
        (claim::SBAT_LEVEL, ClaimType::String),
        (claim::FIRMWARE_VERSION, ClaimType::String),
        (claim::KERNEL_COMMAND_LINE, ClaimType::String),
    ]
    .map(|(name, kind)| (format!("{}{name}", claim::CC_PREFIX), kind));
    let expected = strings
        .into_iter()
        .chain([claim::ENROLMENT])
        .map(|c| (c, ClaimType::String));
    let expected = expected.chain(longs.map(|c| (c, ClaimType::Long)));
    let bools = [
        claim::CLOCK_SAFE,
        claim::SECURE_BOOT,
        claim::SETUP_MODE,
        claim::BOOT_LOG_COMPLETE,
        claim::AZURE_SECURE_BOOT,
        claim::AZURE_CONSOLE,
        claim::AZURE_TPM_PERSISTED,
    ];
    let sets = [
        claim::LENIENCIES,
        claim::SECURE_BOOT_PK,
        claim::SECURE_BOOT_KEK,
        claim::SECURE_BOOT_DB,
        claim::BOOT_AUTHORITIES,
        claim::BOOT_IMAGES,
        claim::IMA_EXCLUDED,
        claim::ROOTS,
        claim::GPU_REFERENCES,
    ];
    let snp = [
        (snp::TEXTS.as_slice(), ClaimType::String),
        (snp::NUMBERS.as_slice(), ClaimType::Long),
        (snp::FLAGS.as_slice(), ClaimType::Bool),
        (snp::SETS.as_slice(), ClaimType::Set),
    ];
    let snp = snp
        .into_iter()
        .flat_map(|(names, kind)| names.iter().map(move |name| (*name, kind)));
    let expected = expected.chain(snp);
    let tdx = [
        (
            "body mrtd mr_seam mr_config_id mr_owner mr_owner_config rtmr0 rtmr1 rtmr2 rtmr3 tee_tcb_svn tee_tcb_svn_now \
             xfam attributes ppid platform_instance fmspc tcb_status qe_status",
            ClaimType::String,
        ),
        ("quote_version vm_id tcb_evaluation_number tcb_date", ClaimType::Long),
        (
            "debug sept_ve_disable migratable pks perfmon key_locker lass service_td smt dynamic_platform",
            ClaimType::Bool,
        ),
        ("advisories", ClaimType::Set),
    ];
    let tdx = tdx.into_iter().flat_map(|(names, kind)| {
        let names = names.split_whitespace();
        names.map(move |name| (format!("tdx_{name}"), kind))
    });
    let expected = expected.chain(gpu::SETS.map(|name| (name, ClaimType::Set)));
    let expected = expected.chain(gpu::NUMBERS.map(|name| (name, ClaimType::Long)));
    let expected = expected.chain(bools.map(|c| (c, ClaimType::Bool)));
    let expected = expected.chain(sets.map(|c| (c, ClaimType::Set)));
    let expected = expected.map(|(c, t)| (c.to_owned(), t));
    let expected: BTreeMap<String, ClaimType> = expected.chain(tdx).chain(of_boot).collect();
    let declared: BTreeMap<_, _> = cedar.words.declared().iter().cloned().collect();
    assert_eq!(declared, expected);
}

#[test]
fn claims_of_another_type_or_unknown_are_absent() {
    let global = r#"
        permit (principal, action, resource);
        forbid (principal, action, resource) unless { context.claims has secure_boot && context.claims.secure_boot };
    "#;
    let cedar = compile(global, "permit (principal, action, resource);");
    let mut case = Case::new();
    assert_eq!(codes(&cedar.decide("north", &case.request())), []);
    case.claims.insert("unheard_of".into(), ClaimValue::Bool(true));
    assert_eq!(codes(&cedar.decide("north", &case.request())), []);
    for value in [
        ClaimValue::Text("true".into()),
        ClaimValue::Int(1),
        ClaimValue::Bool(false),
    ] {
        case.claims.insert(claim::SECURE_BOOT.into(), value);
        assert_eq!(
            codes(&cedar.decide("north", &case.request())),
            [DecisionCode::GlobalDenied]
        );
    }
    case.claims.remove(claim::SECURE_BOOT);
    assert_eq!(
        codes(&cedar.decide("north", &case.request())),
        [DecisionCode::GlobalDenied]
    );
}

#[test]
fn policies_of_the_schema_of_before_still_decide_as_they_did() {
    let schema = include_str!("plain.cedarschema");
    let policies = r#"
        permit (principal is Node, action, resource) when { context.status == "affirming" };
        @id("keys") forbid (principal, action == Action::"release", resource == Resource::"keys")
        unless { principal.roles.contains("database") && context.claims has secure_boot && context.claims.secure_boot };
    "#;
    let cedar = Cedar::compile(schema, policies, &regions("permit (principal, action, resource);")).unwrap();
    let case = Case::new();
    let release = Request {
        action: "release",
        resource: "keys",
        item: Some("db-1"),
        purpose: Some("backup"),
        owner: Some("acme"),
        ..case.request()
    };
    assert_eq!(codes(&cedar.decide("north", &case.request())), []);
    let denied = cedar.decide("north", &release);
    assert_eq!(denied.reasons[0].found, "forbidden by keys");
    let roles = ["database".to_owned()];
    assert_eq!(
        codes(&cedar.decide(
            "north",
            &Request {
                roles: &roles,
                ..release
            }
        )),
        []
    );
    // The same words under the schema of now would never apply to a key: they do not load.
    let error = Cedar::compile(DEFAULT_SCHEMA, policies, &BTreeMap::new()).unwrap_err();
    assert_eq!(error.code(), PolicyCode::CedarInvalid);
}

#[test]
fn principals_resources_and_context_are_what_the_schema_says() {
    let global = r#"
        permit (principal is Operator, action == Action::"administer", resource == Domain::"policy")
        when { principal.roles.contains("author") };
        permit (principal is Workload, action == Action::"release", resource in KeyClass::"keys")
        when { context.lineage_depth <= 2 && context has purpose && context.purpose == "backup"
               && context.region == "north" && principal has owner && principal.owner == "acme" };
        permit (principal is Node, action == Action::"execute", resource in WorkloadClass::"workloads");
        @id("root-key") forbid (principal, action, resource == Key::"root");
        @id("shell") forbid (principal, action, resource == Workload::"shell");
    "#;
    let cedar = compile(global, "permit (principal, action, resource);");
    let (case, author) = (Case::new(), ["author".to_owned()]);
    let operator = Request {
        principal: Principal::Operator,
        name: "ada",
        roles: &author,
        action: "administer",
        resource: "policy",
        ..case.request()
    };
    let workload = Request {
        principal: Principal::Workload,
        name: "job-1",
        owner: Some("acme"),
        action: "release",
        resource: "keys",
        item: Some("db"),
        purpose: Some("backup"),
        lineage_depth: 2,
        ..case.request()
    };
    let none: [String; 0] = [];
    use DecisionCode::*;
    let rows: [(&str, Request<'_>, &[DecisionCode]); 13] = [
        ("an operator", operator, &[]),
        (
            "without the role",
            Request {
                roles: &none,
                ..operator
            },
            &[GlobalDenied],
        ),
        (
            "a node of that name",
            Request {
                principal: Principal::Node,
                ..operator
            },
            &[GlobalDenied],
        ),
        (
            "one thing of a domain",
            Request {
                item: Some("a"),
                ..operator
            },
            &[RequestInvalid],
        ),
        ("a workload", workload, &[]),
        ("the class of the key", Request { item: None, ..workload }, &[]),
        (
            "another class",
            Request {
                resource: "others",
                ..workload
            },
            &[GlobalDenied],
        ),
        (
            "deeper",
            Request {
                lineage_depth: 3,
                ..workload
            },
            &[GlobalDenied],
        ),
        (
            "no purpose",
            Request {
                purpose: None,
                ..workload
            },
            &[GlobalDenied],
        ),
        (
            "no owner",
            Request {
                owner: None,
                ..workload
            },
            &[GlobalDenied],
        ),
        (
            "the key that is forbidden",
            Request {
                item: Some("root"),
                ..workload
            },
            &[GlobalDenied],
        ),
        (
            "a workload to run",
            Request {
                item: Some("web"),
                ..case.request()
            },
            &[],
        ),
        (
            "the workload that is forbidden",
            Request {
                item: Some("shell"),
                ..case.request()
            },
            &[GlobalDenied],
        ),
    ];
    for (what, request, expected) in rows {
        assert_eq!(codes(&cedar.decide("north", &request)), expected, "{what}");
    }
}
