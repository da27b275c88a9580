//! How long one Cedar decision takes over a thousand policies and a hundred claims; its budget is 100 µs.
//!
//! Prints the median and the slowest hundredth of single decisions: with the policies that `policy init` writes, with a
//! domain and a region of five hundred policies each of the kinds that large domains have, with a thousand that all look at
//! claims, and with a thousand of which a hundred apply. Run: `cargo bench -p touchstone-policies --bench cedar`.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::{Duration, Instant};

use touchstone_policies::cedar::{DEFAULT_POLICY, DEFAULT_SCHEMA, default_region_policy};
use touchstone_policies::{Cedar, Request};
use touchstone_verifier::appraisal::{ClaimValue, Claims};

/// What a decision may take.
const BUDGET: Duration = Duration::from_micros(100);
const WARM_UP: usize = 500;
const DECISIONS: usize = 5_000;
const POLICIES: usize = 500;
const CLAIMS: usize = 100;

fn main() {
    let region = default_region_policy("north");
    measure("default policies", DEFAULT_POLICY, &region);
    let mixed: String = (0..POLICIES).map(mixed).collect();
    measure(
        "1,000 policies of a large domain",
        &format!("{DEFAULT_POLICY}{mixed}"),
        &format!("{region}{mixed}"),
    );
    let looking: String = (0..POLICIES).map(looking).collect();
    measure(
        "1,000 policies that look at claims",
        &format!("{DEFAULT_POLICY}{looking}"),
        &format!("{region}{looking}"),
    );
    let applying: String = (0..POLICIES).map(applying).collect();
    measure(
        "1,000 policies of which 100 apply",
        &format!("{DEFAULT_POLICY}{applying}"),
        &format!("{region}{applying}"),
    );
}

/// One in ten applies: only Cedar can say so, at its own price for each.
fn applying(i: usize) -> String {
    if !i.is_multiple_of(10) {
        return mixed(i);
    }
    format!("@id(\"p{i}\") permit (principal, action, resource) when {{ context.status == \"affirming\" }};\n")
}

/// What large domains are made of: machines, roles, keys and zones named one by one, and what is demanded of all.
fn mixed(i: usize) -> String {
    match i % 5 {
        0 => format!("@id(\"p{i}\") forbid (principal == Node::\"gone-{i}\", action, resource);\n"),
        1 => format!(
            "@id(\"p{i}\") forbid (principal, action, resource) when {{ principal.roles.contains(\"retired-{i}\") }};\n"
        ),
        2 => format!(
            "@id(\"p{i}\") permit (principal is Node, action == Action::\"release\", resource == Key::\"key-{i}\") \
             when {{ context.status == \"affirming\" && principal.roles.contains(\"user-{i}\") }};\n"
        ),
        3 => format!(
            "@id(\"p{i}\") forbid (principal, action, resource) \
             when {{ principal has zone && principal.zone == \"closed-{i}\" }};\n"
        ),
        _ => looking(i),
    }
}

/// One that looks at a claim that is there, and finds nothing against it.
fn looking(i: usize) -> String {
    let (name, value) = claims_of_schema().into_iter().nth(i % CLAIMS).unwrap_or_default();
    let against = match value.as_str() {
        "Long" => format!("context.claims.{name} > {}", 1_000_000 + i),
        "Bool" => format!("!context.claims.{name}"),
        "String" => format!("context.claims.{name} == \"revoked-{i}\""),
        _ => format!("context.claims.{name}.contains(\"revoked-{i}\")"),
    };
    format!("@id(\"p{i}\") forbid (principal, action, resource) when {{ context.claims has {name} && {against} }};\n")
}

fn measure(name: &str, global: &str, region: &str) {
    let regions = BTreeMap::from([("north".to_owned(), region.to_owned())]);
    let start = Instant::now();
    let cedar = match Cedar::compile(DEFAULT_SCHEMA, global, &regions) {
        Ok(cedar) => cedar,
        Err(e) => {
            println!("{name}: {e}");
            std::process::exit(1);
        }
    };
    let compiled = start.elapsed();
    let claims = claims();
    let roles = ["web".to_owned(), "edge".to_owned()];
    let request = Request {
        zone: Some("north-a"),
        roles: &roles,
        status: "affirming",
        ak_binding: "activated",
        now: 1_760_000_000,
        policy_version: 7,
        ..Request::of_node("web-1", "north", "execute", "workloads", &claims)
    };
    let mut times = Vec::with_capacity(DECISIONS);
    for round in 0..WARM_UP + DECISIONS {
        let start = Instant::now();
        let decision = black_box(cedar.decide("north", black_box(&request)));
        let time = start.elapsed();
        if !decision.allow {
            println!("{name}: denied: {:?}", decision.reasons);
            std::process::exit(1);
        }
        if round >= WARM_UP {
            times.push(time);
        }
    }
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    let (median, slow) = (at(50), at(99));
    let share = median.as_secs_f64() / BUDGET.as_secs_f64();
    println!(
        "cedar decision, {name}, {} claims: median {median:?}, 99th percentile {slow:?}, {share:.2} of the budget of \
         {BUDGET:?}; compiled once, in {compiled:?}",
        claims.len()
    );
}

/// The claims that the schema declares, with their types.
fn claims_of_schema() -> Vec<(String, String)> {
    let of_claims = DEFAULT_SCHEMA.split("type Claims = {").nth(1).unwrap_or_default();
    let of_claims = of_claims.split("};").next().unwrap_or_default();
    let declared = of_claims.lines().filter_map(|line| line.trim().split_once("?: "));
    declared
        .map(|(name, kind)| (name.to_owned(), kind.trim_end_matches(',').to_owned()))
        .collect()
}

/// More than any machine shows.
fn claims() -> Claims {
    let value = |kind: &str| match kind {
        "Bool" => ClaimValue::Bool(true),
        "Long" => ClaimValue::Int(219),
        "String" => ClaimValue::Text("console=ttyS0 ima_policy=tcb quiet loglevel=4".into()),
        _ => ClaimValue::Set(BTreeSet::from(["tpm".to_owned(), "snp".to_owned()])),
    };
    let declared = claims_of_schema().into_iter().take(CLAIMS);
    declared.map(|(name, kind)| (name, value(&kind))).collect()
}
