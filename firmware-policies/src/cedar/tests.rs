//! A region can only narrow, an error denies, and what is missing denies.

use touchstone_verifier::appraisal::{ClaimValue, Claims, claim};

use super::facts::ClaimType;
use super::*;

fn regions(text: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("north".to_owned(), text.to_owned())])
}

fn compile(global: &str, region: &str) -> Cedar {
    Cedar::compile(DEFAULT_SCHEMA, global, &regions(region)).unwrap()
}

fn default_cedar() -> Cedar {
    compile(DEFAULT_POLICY, &default_region_policy("north"))
}

struct Case {
    claims: Claims,
    roles: Vec<String>,
}

impl Case {
    fn new() -> Self {
        let claims = Claims::from([
            (claim::SECURE_BOOT.to_owned(), ClaimValue::Bool(true)),
            (claim::TPM_FIRMWARE.to_owned(), ClaimValue::Int(7)),
            (claim::KERNEL_COMMAND_LINE.to_owned(), ClaimValue::Text("quiet".into())),
        ]);
        Self {
            claims,
            roles: vec!["web".into()],
        }
    }

    fn request(&self) -> Request<'_> {
        Request {
            roles: &self.roles,
            status: "affirming",
            ak_binding: "activated",
            now: 1_760_000_000,
            policy_version: 1,
            ..Request::of_node("web-1", "north", "execute", "workloads", &self.claims)
        }
    }
}

fn codes(decision: &CedarDecision) -> Vec<DecisionCode> {
    assert_eq!(decision.allow, decision.reasons.is_empty());
    decision.reasons.iter().map(|r| r.code).collect()
}

#[test]
fn the_default_policy_permits_affirmed_nodes_and_nobody_else() {
    let (cedar, case) = (default_cedar(), Case::new());
    use DecisionCode::*;
    for action in ["bootstrap", "execute", "release", "delegate"] {
        assert_eq!(
            codes(&cedar.decide(
                "north",
                &Request {
                    action,
                    ..case.request()
                }
            )),
            [],
            "{action}"
        );
    }
    for status in ["warning", "contraindicated", "none", "", "Affirming", "affirming "] {
        assert_eq!(
            codes(&cedar.decide(
                "north",
                &Request {
                    status,
                    ..case.request()
                }
            )),
            [GlobalDenied],
            "{status}"
        );
    }
    let rows: [(Request<'_>, &str, &[DecisionCode]); 5] = [
        (
            Request {
                action: "administer",
                ..case.request()
            },
            "north",
            &[GlobalDenied],
        ),
        (
            Request {
                action: "fly",
                ..case.request()
            },
            "north",
            &[RequestInvalid],
        ),
        (
            Request {
                policy_version: u64::MAX,
                ..case.request()
            },
            "north",
            &[RequestInvalid],
        ),
        (case.request(), "south", &[RegionMissing]),
        (
            Request {
                status: "none",
                ..case.request()
            },
            "south",
            &[GlobalDenied, RegionMissing],
        ),
    ];
    for (request, region, expected) in rows {
        assert_eq!(codes(&cedar.decide(region, &request)), expected, "{request:?}");
    }
}

#[test]
fn forbid_wins_and_is_named() {
    let global = format!("{DEFAULT_POLICY}\n@id(\"closed\") forbid (principal, action, resource);");
    let decision = compile(&global, &default_region_policy("north")).decide("north", &Case::new().request());
    assert_eq!(codes(&decision), [DecisionCode::GlobalDenied]);
    assert_eq!(decision.reasons[0].found, "forbidden by closed");
    let region = "permit (principal, action, resource); forbid (principal, action, resource);";
    let decision = compile(DEFAULT_POLICY, region).decide("north", &Case::new().request());
    assert_eq!(codes(&decision), [DecisionCode::RegionDenied]);
}

#[test]
fn the_examples_in_the_default_files_hold_against_the_schema() {
    for (file, expected) in [(DEFAULT_POLICY.to_owned(), 6), (default_region_policy("north"), 1)] {
        let examples: String = file
            .lines()
            .filter_map(|l| l.strip_prefix("//     "))
            .map(|l| format!("{l}\n"))
            .collect();
        assert_eq!(examples.matches("forbid (").count(), expected);
        compile(&format!("{file}\n{examples}"), &file);
    }
}

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
fn an_evaluation_error_denies_even_beside_a_permit() {
    // Valid, and errs for one value only: the addition overflows. Cedar alone would skip the forbid and allow.
    let erring = r#"
        permit (principal, action, resource);
        forbid (principal, action, resource) when { context.now + 1 == 0 };
    "#;
    let plain = "permit (principal, action, resource);";
    let case = Case::new();
    let overflow = Request {
        now: i64::MAX,
        ..case.request()
    };
    for (global, region) in [(erring, plain), (plain, erring), (erring, erring)] {
        let cedar = compile(global, region);
        assert_eq!(codes(&cedar.decide("north", &case.request())), []);
        let decision = cedar.decide("north", &overflow);
        assert!(!decision.allow && codes(&decision).contains(&DecisionCode::EvaluationError));
    }
}

#[test]
fn policies_that_could_err_or_mislead_do_not_load() {
    use PolicyCode::*;
    let many = "permit (principal, action, resource);\n".repeat(MAX_POLICIES + 1);
    let rows: &[(&str, &str, PolicyCode)] = &[
        (
            "an unknown attribute",
            "permit (principal, action, resource) when { principal.rack == \"a\" };",
            CedarInvalid,
        ),
        (
            "an optional attribute, not asked for",
            "permit (principal, action, resource) when { principal.zone == \"a\" };",
            CedarInvalid,
        ),
        (
            "an optional claim, not asked for",
            "permit (principal, action, resource) when { context.claims.secure_boot };",
            CedarInvalid,
        ),
        (
            "another type",
            "permit (principal, action, resource) when { context.now == \"a\" };",
            CedarInvalid,
        ),
        (
            "an unknown action",
            "permit (principal, action == Action::\"fly\", resource);",
            CedarInvalid,
        ),
        (
            "a template",
            "permit (principal == ?principal, action, resource);",
            CedarInvalid,
        ),
        (
            "an id twice",
            "@id(\"a\") permit (principal, action, resource); @id(\"a\") forbid (principal, action, resource);",
            CedarInvalid,
        ),
        ("too many", &many, CedarInvalid),
        ("nothing", "// nothing\n", CedarEmpty),
        ("no Cedar", "allow all", CedarInvalid),
    ];
    for (what, text, expected) in rows {
        let good = default_region_policy("north");
        let global = Cedar::compile(DEFAULT_SCHEMA, text, &regions(&good)).unwrap_err();
        assert_eq!(
            (global.code(), global.problems()[0].claim.as_str()),
            (*expected, "policy.cedar"),
            "{what}"
        );
        let region = Cedar::compile(DEFAULT_SCHEMA, DEFAULT_POLICY, &regions(text)).unwrap_err();
        assert_eq!(
            (region.code(), region.problems()[0].claim.as_str()),
            (*expected, "regions/north/policy.cedar"),
            "{what}"
        );
    }
    for (what, schema) in [
        ("no schema", "entity"),
        ("nothing in it", ""),
        (
            "an action less",
            &DEFAULT_SCHEMA.replace("action release ", "action dispatch "),
        ),
        (
            "another attribute of nodes",
            &DEFAULT_SCHEMA.replace("roles: Set<String>,", "roles: Set<String>, rack: String,"),
        ),
        (
            "another situation",
            &DEFAULT_SCHEMA.replace("now: Long,", "now: String,"),
        ),
    ] {
        let error = Cedar::compile(schema, "permit (principal, action, resource);", &BTreeMap::new()).unwrap_err();
        assert_eq!(error.code(), SchemaInvalid, "{what}");
    }
}

#[test]
fn node_attributes_come_from_the_request_alone() {
    let global = r#"
        permit (principal == Node::"web-1", action == Action::"execute", resource == WorkloadClass::"workloads")
        when { principal.name == "web-1" && principal.region == "north" && principal.roles.contains("web")
               && principal has zone && principal.zone == "a" && resource.name == "workloads"
               && context.ak_binding == "activated" && context.policy_version == 1 };
    "#;
    let cedar = compile(global, "permit (principal, action, resource);");
    let case = Case::new();
    let good = Request {
        zone: Some("a"),
        ..case.request()
    };
    assert_eq!(codes(&cedar.decide("north", &good)), []);
    let none: [String; 0] = [];
    for other in [
        Request { zone: None, ..good },
        Request {
            zone: Some("b"),
            ..good
        },
        Request { name: "web-2", ..good },
        Request {
            region: "south",
            ..good
        },
        Request { roles: &none, ..good },
        Request {
            resource: "keys",
            ..good
        },
        Request {
            ak_binding: "inventory",
            ..good
        },
        Request {
            policy_version: 2,
            ..good
        },
    ] {
        assert_eq!(
            codes(&cedar.decide("north", &other)),
            [DecisionCode::GlobalDenied],
            "{other:?}"
        );
    }
}

#[test]
fn policies_of_the_schema_of_before_still_decide_as_they_did() {
    let schema = include_str!("tests/plain.cedarschema");
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

/// A workload's deployment under a policy that demands a scan before it.
fn deploys(lineage: Option<&LineageFacts>) -> Vec<DecisionCode> {
    let global = r#"
        permit (principal is Workload, action == Action::"execute", resource);
        @id("scan-before-deploy")
        forbid (principal, action, resource in WorkloadClass::"deploy")
        unless { context.lineage.used.contains("execute:scan") };
        @id("not-too-deep")
        forbid (principal, action, resource) when { context.lineage.depth > 2 || context.lineage_depth > 2 };
        @id("known-programs")
        forbid (principal, action, resource)
        when { context.lineage has executable && context.lineage.executable == "bad" };
    "#;
    let cedar = compile(global, "permit (principal, action, resource);");
    let case = Case::new();
    let request = Request {
        principal: Principal::Workload,
        name: "agent@node-1",
        action: "execute",
        resource: "deploy",
        lineage,
        ..case.request()
    };
    let decision = cedar.decide("north", &request);
    decision.reasons.into_iter().map(|reason| reason.code).collect()
}

#[test]
fn a_policy_asks_what_came_before_in_the_lineage() {
    use DecisionCode::*;
    let scanned = LineageFacts {
        depth: 1,
        parents: ["node-1".to_owned()].into(),
        used: [("execute:scan".to_owned(), 1)].into(),
        uses: 1,
        key_kind: "tpm".into(),
        ..LineageFacts::default()
    };
    let many = (0..=MAX_LINEAGE_FACTS).map(|n| format!("execute:{n}")).collect();
    let rows: [(&str, Option<LineageFacts>, &[DecisionCode]); 8] = [
        ("after a scan", Some(scanned.clone()), &[]),
        (
            "no scan",
            Some(LineageFacts {
                used: [].into(),
                ..scanned.clone()
            }),
            &[GlobalDenied],
        ),
        (
            "a right to scan is none",
            Some(LineageFacts {
                used: [].into(),
                issued: ["execute:scan".to_owned()].into(),
                ..scanned.clone()
            }),
            &[GlobalDenied],
        ),
        (
            "a scan by a name like it",
            Some(LineageFacts {
                used: ["execute:scan2", "execute:*", "release:scan"]
                    .map(|right| (right.to_owned(), 1))
                    .into(),
                ..scanned.clone()
            }),
            &[GlobalDenied],
        ),
        ("no lineage at all", None, &[GlobalDenied]),
        (
            "too deep",
            Some(LineageFacts {
                depth: 3,
                ..scanned.clone()
            }),
            &[GlobalDenied],
        ),
        (
            "a program",
            Some(LineageFacts {
                executable: Some("bad".into()),
                ..scanned.clone()
            }),
            &[GlobalDenied],
        ),
        (
            "more than policies are shown",
            Some(LineageFacts {
                issued: many,
                ..scanned
            }),
            &[RequestInvalid],
        ),
    ];
    for (row, lineage, expected) in rows {
        assert_eq!(deploys(lineage.as_ref()), expected, "{row}");
    }
}

/// How often a right was used is asked for the right itself and for each other one, and never guessed.
#[test]
fn a_policy_asks_how_often_each_right_was_used() {
    use DecisionCode::*;
    let global = r#"
        permit (principal is Workload, action == Action::"execute", resource);
        @id("two-deployments")
        forbid (principal, action, resource in WorkloadClass::"deploy") when { context.lineage.uses_of_this >= 2 };
        @id("two-scans-first")
        forbid (principal, action, resource in WorkloadClass::"deploy")
        unless { context.lineage.uses_of.hasTag("execute:scan") && context.lineage.uses_of.getTag("execute:scan") >= 2 };
    "#;
    let cedar = compile(global, "permit (principal, action, resource);");
    let case = Case::new();
    type Row<'a> = (&'a str, &'a str, &'a [(&'a str, u64)], &'a [DecisionCode]);
    let rows: [Row<'_>; 9] = [
        ("two scans", "deploy", &[("execute:scan", 2)], &[]),
        ("one scan", "deploy", &[("execute:scan", 1)], &[GlobalDenied]),
        (
            "two scans of another kind",
            "deploy",
            &[("execute:scan2", 2)],
            &[GlobalDenied],
        ),
        (
            "two other uses",
            "deploy",
            &[("execute:scan", 1), ("execute:x", 1)],
            &[GlobalDenied],
        ),
        ("nothing used", "deploy", &[], &[GlobalDenied]),
        (
            "the second",
            "deploy",
            &[("execute:scan", 2), ("execute:deploy", 1)],
            &[],
        ),
        (
            "the third",
            "deploy",
            &[("execute:scan", 2), ("execute:deploy", 2)],
            &[GlobalDenied],
        ),
        (
            "the third of something else",
            "other",
            &[("execute:other", 2), ("execute:deploy", 2)],
            &[],
        ),
        (
            "more than can be counted",
            "other",
            &[("execute:other", u64::MAX)],
            &[RequestInvalid],
        ),
    ];
    for (row, resource, used, expected) in rows {
        let lineage = LineageFacts {
            depth: 1,
            used: used.iter().map(|(right, n)| ((*right).to_owned(), *n)).collect(),
            ..LineageFacts::default()
        };
        let request = Request {
            principal: Principal::Workload,
            name: "agent@node-1",
            action: "execute",
            resource,
            lineage: Some(&lineage),
            ..case.request()
        };
        assert_eq!(codes(&cedar.decide("north", &request)), expected, "{row}");
    }
    // A number that may not be there is asked for first, or the policy does not load.
    let bare = "permit (principal, action, resource) when { context.lineage.uses_of.getTag(\"execute:scan\") >= 2 };";
    let error = Cedar::compile(DEFAULT_SCHEMA, bare, &BTreeMap::new()).unwrap_err();
    assert_eq!(error.code(), PolicyCode::CedarInvalid);
}

/// A schema of before each right was counted is read, and decides as it did.
#[test]
fn a_schema_that_counts_no_rights_is_asked_without_them() {
    let removed = [
        "    uses_of_this: Long,\n",
        "    uses_of: UseCounts,\n",
        "entity UseCounts tags Long;\n",
    ];
    let schema = removed.iter().fold(DEFAULT_SCHEMA.to_owned(), |schema, line| {
        assert!(schema.contains(line), "{line}");
        schema.replace(line, "")
    });
    let north = regions("permit (principal, action, resource);");
    let global = "permit (principal, action, resource) when { context.lineage.uses < 2 };";
    let cedar = Cedar::compile(&schema, global, &north).unwrap();
    let case = Case::new();
    for (uses, allow) in [(1, true), (2, false)] {
        let lineage = LineageFacts {
            used: [("execute:scan".to_owned(), uses)].into(),
            uses,
            ..LineageFacts::default()
        };
        let request = Request {
            lineage: Some(&lineage),
            ..case.request()
        };
        assert_eq!(cedar.decide("north", &request).allow, allow, "{uses}");
    }
    let asks = "permit (principal, action, resource) when { context.lineage.uses_of_this < 2 };";
    let error = Cedar::compile(&schema, asks, &north).unwrap_err();
    assert_eq!(error.code(), PolicyCode::CedarInvalid);
}

/// A repository that was published before there were workloads keeps its schema: it decides as it did.
#[test]
fn a_schema_without_the_lineage_is_asked_without_it() {
    let schema = DEFAULT_SCHEMA.replace("    lineage: Lineage,\n", "");
    assert_ne!(schema, DEFAULT_SCHEMA);
    let global = "permit (principal, action, resource) when { context.lineage_depth <= 1 };";
    let schema = schema.split("type Lineage = {").next().unwrap().to_owned()
        + schema
            .split_once("type Situation")
            .map(|(_, rest)| format!("type Situation{rest}"))
            .unwrap()
            .as_str();
    let all = BTreeMap::from([("north".to_owned(), "permit (principal, action, resource);".to_owned())]);
    let cedar = Cedar::compile(&schema, global, &all).unwrap();
    let case = Case::new();
    for (depth, allow) in [(1, true), (2, false)] {
        let lineage = LineageFacts {
            depth,
            ..LineageFacts::default()
        };
        let request = Request {
            lineage: Some(&lineage),
            region: "north",
            ..case.request()
        };
        assert_eq!(cedar.decide("north", &request).allow, allow, "depth {depth}");
    }
    let asks = "permit (principal, action, resource) when { context.lineage.uses > 0 };";
    let error = Cedar::compile(&schema, asks, &all).unwrap_err();
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

#[test]
fn a_policy_that_would_exhaust_the_stack_does_not_load() {
    let n = 4_000;
    for condition in [
        format!("{}true{}", "(".repeat(n), ")".repeat(n)),
        vec!["context.now == 1"; n].join(" && "),
        format!("{}true", "if context.now == 1 then true else ".repeat(n)),
    ] {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        let error = Cedar::compile(DEFAULT_SCHEMA, DEFAULT_POLICY, &regions(&text)).unwrap_err();
        assert_eq!(error.code(), PolicyCode::CedarInvalid);
    }
    // The deepest that loads is decided on a thread of usual size, in this build without optimisation.
    for condition in [
        vec!["context.now == 1"; MAX_OPERATORS / 3].join(" && "),
        format!("{}true{}", "(".repeat(MAX_NESTING - 1), ")".repeat(MAX_NESTING - 1)),
        format!(
            "{}true",
            "if context.now == 1 then true else ".repeat(MAX_OPERATORS / 5)
        ),
    ] {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        compile(DEFAULT_POLICY, &text).decide("north", &Case::new().request());
    }
}

#[test]
fn a_domain_of_many_policies_has_a_limit() {
    let many = "permit (principal, action, resource);\n".repeat(MAX_POLICIES);
    let regions: BTreeMap<String, String> = (0..=MAX_ALL_POLICIES / MAX_POLICIES)
        .map(|i| (format!("region-{i}"), many.clone()))
        .collect();
    let error = Cedar::compile(DEFAULT_SCHEMA, DEFAULT_POLICY, &regions).unwrap_err();
    assert_eq!(error.code(), PolicyCode::CedarInvalid);
    assert!(error.to_string().contains("policies in all files"), "{error}");
}

mod random;
