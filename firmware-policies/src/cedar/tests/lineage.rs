//! What came before, and how often each right was used, as policies ask for it.

use super::*;

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
