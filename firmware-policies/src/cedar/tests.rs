//! A region can only narrow, an error denies, and what is missing denies.

use touchstone_verifier::appraisal::{ClaimValue, Claims, claim};

use super::facts::ClaimType;
use super::*;

mod lineage;
mod refused;
mod schema;

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

mod random;
