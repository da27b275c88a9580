//! Policies that could err: they do not load, and where one errs all the same, it denies.

use super::*;

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
