//! Random policies and requests: no region widens what the domain permits, and what guards leave out changes nothing.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What is looked at, and what it may be compared with.
fn condition() -> impl Strategy<Value = String> {
    let simple = prop::sample::select(vec![
        "context.status == \"affirming\"",
        "\"affirming\" != context.status",
        "context.claims has secure_boot && context.claims.secure_boot",
        "context.claims has tpm_firmware && context.claims.tpm_firmware >= 7",
        "context.claims has tpm_firmware && 7 < context.claims.tpm_firmware",
        "context.claims has tpm_firmware && context.claims.tpm_firmware + 9223372036854775800 > 0",
        "context.claims has kernel_command_line && context.claims.kernel_command_line like \"*quiet*\"",
        "context.claims has roots && context.claims.roots.contains(\"tpm\")",
        "context.claims has roots && context.claims.roots.containsAll([\"tpm\", \"snp\"])",
        "context.claims has roots && context.claims.roots.containsAny([\"gpu\", \"snp\"])",
        "context.claims has roots && context.claims.roots == [\"tpm\"]",
        "context.claims has reference",
        "!(context.claims has ima_entries)",
        "[\"golden\", \"silver\"].contains(context.ak_binding)",
        "principal.roles.contains(\"web\")",
        "principal.roles.containsAny([\"db\", \"edge\"])",
        "principal.region == \"north\"",
        "principal has zone && principal.zone == \"a\"",
        "principal has owner && principal.owner == \"acme\"",
        "principal == Node::\"web-1\"",
        "principal in [Node::\"web-1\", Node::\"web-2\"]",
        "principal is Workload",
        "resource.name == \"db\"",
        "context.now + 1 > 0",
        "context.now * 2 > context.policy_version",
        "context.now == 0",
        "context.now <= 5",
        "context.policy_version != 1",
        "context.lineage_depth > 1",
        "context.lineage.depth > 1",
        "context.lineage.used.contains(\"execute:scan\")",
        "context.lineage.issued.containsAll([\"execute:scan\", \"execute:deploy\"])",
        "context.lineage.parents == [\"web-1\"]",
        "context.lineage.uses * 4611686018427387904 > 0",
        "context.lineage.uses_of_this > 1",
        "context.lineage.uses_of.hasTag(\"execute:scan\")",
        "context.lineage.uses_of.hasTag(\"execute:scan\") && context.lineage.uses_of.getTag(\"execute:scan\") > 1",
        "context.lineage.key_kind == \"tpm\"",
        "context.lineage has started_by && context.lineage.started_by == \"job.service\"",
        "context.lineage == context.lineage",
        "context has purpose && context.purpose == \"backup\"",
        "context.region == \"north\"",
        "context.claims == context.claims",
        "context == context",
        "true",
        "false",
    ]);
    let simple = simple.prop_map(|text| format!("({text})"));
    simple.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|a| format!("(!{a})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("(if {a} then {b} else {c})")),
        ]
    })
}

fn policy() -> impl Strategy<Value = String> {
    // Scopes that go together; what can never apply does not hold against the schema.
    let scope = prop::sample::select(vec![
        "principal, action, resource",
        "principal is Node, action, resource",
        "principal == Node::\"web-1\", action, resource",
        "principal, action == Action::\"execute\", resource",
        "principal, action == Action::\"release\", resource",
        "principal, action in [Action::\"release\", Action::\"delegate\"], resource",
        "principal, action, resource in KeyClass::\"keys\"",
        "principal is Node, action == Action::\"release\", resource == Key::\"db\"",
        "principal, action, resource is Key in KeyClass::\"keys\"",
        "principal is Workload, action, resource in WorkloadClass::\"workloads\"",
        "principal, action == Action::\"execute\", resource == WorkloadClass::\"workloads\"",
    ]);
    let effect = prop_oneof![3 => Just("permit"), 2 => Just("forbid")];
    let kind = prop_oneof![Just("when"), Just("unless")];
    let conditions = prop::collection::vec((kind, condition()), 0..3);
    (effect, scope, conditions).prop_map(|(effect, scope, conditions)| {
        let conditions: String = conditions
            .iter()
            .map(|(kind, text)| format!(" {kind} {{ {text} }}"))
            .collect();
        format!("{effect} ({scope}){conditions};\n")
    })
}

fn file() -> impl Strategy<Value = String> {
    prop::collection::vec(policy(), 1..6).prop_map(|policies| policies.concat())
}

/// Everything a request may say.
#[derive(Debug, Clone)]
struct Asked {
    principal: Principal,
    name: &'static str,
    zone: Option<&'static str>,
    roles: Vec<String>,
    owner: Option<&'static str>,
    action: &'static str,
    resource: &'static str,
    item: Option<&'static str>,
    status: &'static str,
    ak_binding: &'static str,
    claims: Claims,
    purpose: Option<&'static str>,
    lineage_depth: u32,
    lineage: Option<LineageFacts>,
    now: i64,
}

impl Asked {
    fn request(&self) -> Request<'_> {
        Request {
            principal: self.principal,
            zone: self.zone,
            roles: &self.roles,
            owner: self.owner,
            item: self.item,
            status: self.status,
            ak_binding: self.ak_binding,
            purpose: self.purpose,
            lineage_depth: self.lineage_depth,
            lineage: self.lineage.as_ref(),
            now: self.now,
            policy_version: 1,
            ..Request::of_node(self.name, "north", self.action, self.resource, &self.claims)
        }
    }
}

fn claims() -> impl Strategy<Value = Claims> {
    let set = |texts: &[&str]| ClaimValue::Set(texts.iter().map(|t| (*t).to_owned()).collect::<BTreeSet<_>>());
    let values = vec![
        ("secure_boot", ClaimValue::Bool(true)),
        ("secure_boot", ClaimValue::Bool(false)),
        ("secure_boot", ClaimValue::Text("true".into())),
        ("tpm_firmware", ClaimValue::Int(7)),
        ("tpm_firmware", ClaimValue::Int(i64::MAX)),
        ("tpm_firmware", ClaimValue::Bool(true)),
        ("kernel_command_line", ClaimValue::Text("ro quiet".into())),
        ("roots", set(&["tpm"])),
        ("roots", set(&["tpm", "snp"])),
        ("roots", set(&[])),
        ("reference", ClaimValue::Text("golden".into())),
        ("ima_entries", ClaimValue::Int(0)),
        ("unheard_of", ClaimValue::Int(0)),
    ];
    prop::sample::subsequence(values, 0..8).prop_map(|chosen| {
        chosen
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    })
}

fn lineages() -> impl Strategy<Value = LineageFacts> {
    let rights = || {
        let rights = prop::sample::subsequence(vec!["execute:scan".to_owned(), "execute:deploy".into()], 0..=2);
        rights.prop_map(|rights| rights.into_iter().collect::<BTreeSet<_>>())
    };
    let counted = (rights(), 1u64..4).prop_map(|(rights, n)| rights.into_iter().map(|right| (right, n)).collect());
    let kind = prop::sample::select(vec!["", "tpm", "software"]);
    let by = prop::option::of(Just("job.service".to_owned()));
    (0u32..3, rights(), counted, 0u64..4, kind, by).prop_map(|(depth, issued, used, uses, kind, started_by)| {
        LineageFacts {
            depth,
            parents: ["web-1".to_owned()].into_iter().take(depth as usize).collect(),
            issued,
            used,
            uses,
            key_kind: kind.into(),
            started_by,
            ..LineageFacts::default()
        }
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    let who = (
        prop_oneof![4 => Just(Principal::Node), 1 => Just(Principal::Workload)],
        prop::sample::select(vec!["web-1", "web-2"]),
        prop::option::of(prop::sample::select(vec!["a", "b"])),
        prop::sample::subsequence(vec!["web".to_owned(), "db".into(), "edge".into()], 0..3),
        prop::option::of(prop::sample::select(vec!["acme", "other"])),
    );
    let what = prop::sample::select(vec![
        ("execute", "workloads", None),
        ("execute", "workloads", Some("web")),
        ("delegate", "workloads", None),
        ("release", "keys", None),
        ("release", "keys", Some("db")),
        ("release", "others", Some("db")),
    ]);
    let how = (
        prop::sample::select(vec!["affirming", "warning", "none"]),
        prop::sample::select(vec!["activated", "golden", "none"]),
        claims(),
        prop::option::of(Just("backup")),
        (0u32..3, prop::option::of(lineages())),
        prop::sample::select(vec![0, 5, 1_760_000_000, i64::MAX, i64::MIN]),
    );
    (who, what, how).prop_map(|(who, what, how)| Asked {
        principal: who.0,
        name: who.1,
        zone: who.2,
        roles: who.3,
        owner: who.4,
        action: what.0,
        resource: what.1,
        item: what.2,
        status: how.0,
        ak_binding: how.1,
        claims: how.2,
        purpose: how.3,
        lineage_depth: how.4.0,
        lineage: how.4.1,
        now: how.5,
    })
}

/// Most pairs of files hold against the schema; those that do not are not decided by.
fn compiled(global: &str, region: &str) -> Option<Cedar> {
    Cedar::compile(DEFAULT_SCHEMA, global, &regions(region)).ok()
}

const OPEN: &str = "permit (principal, action, resource);";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_region_widens_what_the_domain_permits(
        global in file(),
        region in file(),
        requests in prop::collection::vec(asked(), 1..12),
    ) {
        let (Some(both), Some(domain), Some(own)) =
            (compiled(&global, &region), compiled(&global, OPEN), compiled(OPEN, &region))
        else { return Ok(()) };
        // The region's policies and anything else beside them: still no more than the domain alone.
        let more = compiled(&global, &format!("{region}{OPEN}"));
        for asked in &requests {
            let request = asked.request();
            let (domain, own) = (domain.decide("north", &request).allow, own.decide("north", &request).allow);
            prop_assert_eq!(both.decide("north", &request).allow, domain && own);
            if let Some(more) = &more {
                prop_assert!(domain || !more.decide("north", &request).allow);
            }
        }
    }

    #[test]
    fn what_is_left_out_changes_no_decision(
        global in file(),
        region in file(),
        requests in prop::collection::vec(asked(), 1..12),
    ) {
        let Some(cedar) = compiled(&global, &region) else { return Ok(()) };
        for asked in &requests {
            let request = asked.request();
            let everything = cedar.decide_with(cedar.conjuncts("north", request.owner), &request, |set, _| set.everything());
            prop_assert_eq!(cedar.decide("north", &request), everything);
        }
    }
}

#[test]
fn most_random_files_hold_and_some_of_them_leave_policies_out() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut held, mut allowed, mut left_out, mut erred) = (0, 0, 0, 0);
    for _ in 0..200 {
        let (text, asked) = (
            file().new_tree(&mut runner).unwrap().current(),
            asked().new_tree(&mut runner).unwrap().current(),
        );
        let Some(cedar) = compiled(&text, OPEN) else { continue };
        held += 1;
        let request = asked.request();
        let facts = Facts::new(&cedar.words, &request).unwrap();
        left_out += usize::from(cedar.global.slice(&facts).len() < cedar.global.len());
        let decision = cedar.decide("north", &request);
        allowed += usize::from(decision.allow);
        erred += usize::from(decision.reasons.iter().any(|r| r.code == DecisionCode::EvaluationError));
    }
    assert!(
        held > 100 && allowed > 15 && left_out > 50 && erred > 2,
        "{held} {allowed} {left_out} {erred}"
    );
}
