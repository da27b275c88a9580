//! How long one Cedar decision takes; its budget is 100 µs.
//!
//! Prints the median and the slowest hundredth of single decisions with the policies that `policy init` writes, and
//! with a domain and a region of a hundred policies each. Run: `cargo bench -p touchstone-policies --bench cedar`.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use touchstone_policies::cedar::{DEFAULT_POLICY, DEFAULT_SCHEMA, default_region_policy};
use touchstone_policies::{Cedar, Request};
use touchstone_verifier::appraisal::{ClaimValue, Claims, claim};

/// What a decision may take.
const BUDGET: Duration = Duration::from_micros(100);
const WARM_UP: usize = 500;
const DECISIONS: usize = 5_000;

fn main() {
    let many: String = (0..100)
        .map(|i| {
            format!(
                "@id(\"p{i}\") forbid (principal, action, resource) when {{ principal.roles.contains(\"retired-{i}\") }};\n"
            )
        })
        .collect();
    let region = default_region_policy("north");
    measure("default policies", DEFAULT_POLICY, &region);
    measure(
        "200 more policies",
        &format!("{DEFAULT_POLICY}{many}"),
        &format!("{region}{many}"),
    );
}

fn measure(name: &str, global: &str, region: &str) {
    let regions = BTreeMap::from([("north".to_owned(), region.to_owned())]);
    let cedar = match Cedar::compile(DEFAULT_SCHEMA, global, &regions) {
        Ok(cedar) => cedar,
        Err(e) => {
            println!("{name}: {e}");
            std::process::exit(1);
        }
    };
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
        "cedar decision, {name}: median {median:?}, 99th percentile {slow:?}, {share:.2} of the budget of {BUDGET:?}"
    );
}

/// As many claims as an appraisal of a real boot makes.
fn claims() -> Claims {
    let text = |t: &str| ClaimValue::Text(t.to_owned());
    Claims::from(
        [
            (claim::BINDING, text("session")),
            (claim::AK_BINDING, text("activated")),
            (claim::AK_PARENT, text("endorsement-key")),
            (claim::EK_CERTIFICATE, text("valid")),
            (claim::TPM_MANUFACTURER, text("id:49424D00")),
            (claim::TPM_MODEL, text("swtpm")),
            (claim::TPM_FIRMWARE, ClaimValue::Int(0x2019_1023_0016_3636)),
            (claim::RESET_COUNT, ClaimValue::Int(12)),
            (claim::RESTART_COUNT, ClaimValue::Int(0)),
            (claim::CLOCK_SAFE, ClaimValue::Bool(true)),
            (claim::EVENT_LOG, text("replayed")),
            (claim::EVENTS_IGNORED, ClaimValue::Int(0)),
            (claim::SECURE_BOOT, ClaimValue::Bool(true)),
            (
                claim::KERNEL_COMMAND_LINE,
                text("console=ttyS0 ima_policy=tcb quiet loglevel=4"),
            ),
            (claim::REFERENCE, text("golden")),
            (claim::KEXEC, text("not excluded")),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    )
}
