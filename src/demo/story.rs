//! The story itself. A step that does not go as told ends it with an error.

use crate::output::say;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use touchstone_enforcer::guard::{DecisionRequest, Verdict, client};

use super::attacker;
use super::narrator::Narrator;
use super::process::Process;
use super::world::{ACTION, BOOTS, Node, RESOURCE, World, arg, is};
use crate::output::Failure;
use crate::runtime;

/// Which node is tampered with.
const VICTIM: usize = 1;
/// The register that something measures itself into after the node was authorized.
const REGISTER: u8 = 8;

/// What was measured on the way.
#[derive(Default)]
struct Figures {
    authorization_bytes: u64,
    enrol_ms: u64,
    revocation_ms: u64,
    refused: u64,
    ledger_entries: u64,
    replayed: u64,
}

/// Tells the whole story in `world`.
pub fn tell(world: &World, narrator: &Narrator, keep: bool) -> Result<(), Failure> {
    let mut figures = Figures::default();

    narrator.chapter("A domain is founded");
    world.publish_policy()?;
    narrator.good(
        "policy_published",
        "policy repository signed and published: reference values of one golden boot, three nodes, who may do what",
        json!({ "nodes": BOOTS.len() }),
    );
    let (_broker, broker) = world.start_broker()?;
    narrator.good(
        "broker_started",
        &format!("broker at {broker}, its keys known through the signed keyset"),
        json!({ "broker": broker }),
    );
    let (mut guard, guard_address) = world.start_guard(&broker)?;
    narrator.good(
        "guard_started",
        "a guard follows the trust state; it has allowed nothing yet",
        Value::Null,
    );

    narrator.chapter("Three machines prove what they booted");
    let mut nodes = Vec::new();
    for (index, boot) in BOOTS.iter().enumerate() {
        nodes.push(world.start_node(index, boot, &broker)?);
    }
    for node in &mut nodes {
        let granted = node.agent.wait_for("an authorization", |event| is(event, "granted"))?;
        let (bytes, took) = (number(&granted, "bytes"), number(&granted, "took_ms"));
        figures.authorization_bytes = figures.authorization_bytes.max(bytes);
        figures.enrol_ms = figures.enrol_ms.max(took);
        narrator.good(
            "node_authorized",
            &format!(
                "{}: TPM quote, event log and endorsement key hold; authorized in {took} ms, {bytes} bytes",
                node.name
            ),
            json!({ "node": node.name, "enrol_ms": took, "authorization_bytes": bytes }),
        );
    }

    narrator.chapter("A guard lets them work");
    for node in &nodes {
        let verdict = knock(guard_address, node)?;
        expect(verdict.allowed, || {
            format!("the guard refuses {}: {}", node.name, verdict.reasons.join("; "))
        })?;
        narrator.good(
            "guard_accepts",
            &format!(
                "{} may {ACTION}:{RESOURCE}: authorization, proof of possession and trust state agree",
                node.name
            ),
            json!({ "node": node.name }),
        );
    }

    narrator.chapter("One machine changes");
    tamper(&mut nodes, &mut guard, guard_address, narrator, &mut figures)?;

    narrator.chapter("Two thefts are tried");
    thefts(world, &broker, &nodes, guard_address, narrator, &mut figures)?;

    narrator.chapter("Everything can be proved afterwards");
    prove(world, &broker, narrator, &mut figures)?;

    let seconds = narrator.elapsed().as_secs_f64();
    narrator.summary(
        json!({
            "ok": true,
            "nodes": nodes.len(),
            "authorized": nodes.len(),
            "refused": figures.refused,
            "revocation_ms": figures.revocation_ms,
            "authorization_bytes": figures.authorization_bytes,
            "enrol_ms": figures.enrol_ms,
            "ledger_entries": figures.ledger_entries,
            "replayed": figures.replayed,
        }),
        &[
            format!("Every step went as told, in {seconds:.1} s."),
            format!(
                "Evidence of the change arrived; {} ms later the guard had stopped it. {} entries in the ledger, {} replayed.",
                figures.revocation_ms, figures.ledger_entries, figures.replayed
            ),
        ],
    );
    if keep {
        say!(
            "still running: broker {broker}, guard http://{guard_address}, folder {}; Ctrl-C ends it",
            world.path("").display()
        );
        runtime::block_on(runtime::stopped())?;
    }
    Ok(())
}

/// The victim's register changes; its rights end while its authorization is still in date.
fn tamper(
    nodes: &mut [Node],
    guard: &mut Process,
    guard_address: SocketAddr,
    narrator: &Narrator,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let Some(victim) = nodes.get_mut(VICTIM) else {
        return Err(Failure::new("there is no second node"));
    };
    // A proof signed while all was well: what remains in hand of whoever took the machine over.
    let prepared = present(guard_address, victim)?;
    victim.agent.forget();
    victim
        .tpm
        .extend_sha256(REGISTER, *b"a program nobody has ever vetted")?;
    narrator.refused(
        "pcr_changed",
        &format!(
            "{}: something measured itself into PCR {REGISTER}; its authorization has minutes left",
            victim.name
        ),
        json!({ "node": victim.name, "pcr": REGISTER }),
    );

    let refused = victim.agent.wait_for("the refusal", |event| is(event, "refused"))?;
    let reasons: Vec<String> = texts(&refused, "reasons");
    let received_at_ms = number(&refused, "received_at_ms");
    expect(!reasons.is_empty(), || "the refusal gives no reason".into())?;
    figures.refused += 1;
    narrator.refused(
        "evidence_refused",
        &format!("{}: its next evidence is refused, and says why:", victim.name),
        json!({ "node": victim.name, "reasons": reasons }),
    );
    for reason in &reasons {
        narrator.detail(reason);
    }

    let name = victim.name.clone();
    let withdrawn = guard.wait_for("the withdrawal", |event| {
        is(event, "withdrawn") && event.get("subject").and_then(Value::as_str) == Some(&name)
    })?;
    figures.revocation_ms = number(&withdrawn, "at_ms").saturating_sub(received_at_ms);
    let verdict = runtime::block_on(client::decide(guard_address, &prepared))??;
    expect(
        !verdict.allowed && verdict.codes.iter().any(|code| code == "authorization-revoked"),
        || {
            format!(
                "the guard should call the authorization revoked, it says: {}",
                verdict.reasons.join("; ")
            )
        },
    )?;
    figures.refused += 1;
    narrator.refused(
        "authorization_refused",
        &format!(
            "the guard refuses the unexpired authorization, {} ms after the evidence arrived:",
            figures.revocation_ms
        ),
        json!({ "node": name, "codes": verdict.codes, "revocation_ms": figures.revocation_ms }),
    );
    for reason in &verdict.reasons {
        narrator.detail(reason);
    }

    for (index, node) in nodes.iter_mut().enumerate().filter(|(index, _)| *index != VICTIM) {
        node.agent.forget();
        node.agent
            .wait_for("the next attestation", |event| is(event, "granted"))?;
        let verdict = knock(guard_address, node)?;
        expect(verdict.allowed, || {
            format!("node {index} should go on: {}", verdict.reasons.join("; "))
        })?;
        narrator.good(
            "node_goes_on",
            &format!("{} attested again and goes on", node.name),
            json!({ "node": node.name }),
        );
    }
    Ok(())
}

/// A recorded quote is sent again; an authorization is used without its key.
fn thefts(
    world: &World,
    broker: &str,
    nodes: &[Node],
    guard_address: SocketAddr,
    narrator: &Narrator,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let record = world.path("stolen.record");
    world.command(&[
        "ledger",
        "record",
        "--data",
        arg(&world.path("broker"))?,
        "--subject",
        "node-1",
        "-o",
        arg(&record)?,
    ])?;
    let refusal = runtime::block_on(attacker::replay_evidence(world, broker, &record))??;
    figures.refused += 1;
    narrator.refused(
        "replayed_quote_refused",
        &format!(
            "node-1's recorded evidence, sent again on another connection: {}",
            refusal.code
        ),
        json!({ "code": refusal.code, "message": refusal.message }),
    );
    narrator.detail(&refusal.message);

    let Some(honest) = nodes.first() else {
        return Err(Failure::new("there is no first node"));
    };
    let stolen = present(guard_address, honest)?;
    let forged = attacker::sign_with_another_key(guard_address, &stolen)?;
    let verdict = runtime::block_on(client::decide(guard_address, &forged))??;
    expect(!verdict.allowed, || "the guard let a stolen authorization in".into())?;
    figures.refused += 1;
    narrator.refused(
        "stolen_authorization_refused",
        &format!(
            "{}'s authorization with a proof by another key: {}",
            honest.name,
            verdict.codes.join(", ")
        ),
        json!({ "codes": verdict.codes }),
    );
    let verdict = knock(guard_address, honest)?;
    expect(verdict.allowed, || "the theft must not harm the node it names".into())?;
    narrator.good(
        "victim_unharmed",
        &format!("{} itself is not harmed by either", honest.name),
        json!({ "node": honest.name }),
    );
    Ok(())
}

/// The ledger is checked whole, and one decision is made again from its recorded inputs.
fn prove(world: &World, broker: &str, narrator: &Narrator, figures: &mut Figures) -> Result<(), Failure> {
    let (policy, root, data) = (world.path("policy"), world.path("root.json"), world.path("broker"));
    let verified = last_json(&world.output(&[
        "ledger",
        "verify",
        "--broker",
        broker,
        "--domain",
        super::world::DOMAIN,
        "--policy",
        arg(&policy)?,
        "--root",
        arg(&root)?,
        "--json",
    ])?)?;
    figures.ledger_entries = number(&verified, "entries");
    narrator.good(
        "ledger_verified",
        &format!(
            "{} statements: every signature and the Merkle root hold",
            figures.ledger_entries
        ),
        verified.clone(),
    );
    let replayed = last_json(&world.output(&[
        "ledger",
        "replay",
        "--data",
        arg(&data)?,
        "--policy",
        arg(&policy)?,
        "--root",
        arg(&root)?,
        "--subject",
        "node-2",
        "--json",
    ])?)?;
    figures.replayed = number(&replayed, "replayed");
    narrator.good(
        "decision_replayed",
        &format!(
            "the decision against node-2 made again from its recorded inputs: entry {}, same {} bytes",
            number(&replayed, "index"),
            number(&replayed, "bytes")
        ),
        replayed.clone(),
    );
    Ok(())
}

/// A node shows its authorization and a fresh proof; gives the guard's verdict.
fn knock(guard: SocketAddr, node: &Node) -> Result<Verdict, Failure> {
    let request = present(guard, node)?;
    Ok(runtime::block_on(client::decide(guard, &request))??)
}

/// Asks the guard for a challenge and the node's agent for the answer.
fn present(guard: SocketAddr, node: &Node) -> Result<DecisionRequest, Failure> {
    let challenge = runtime::block_on(client::challenge(guard))??;
    let (authorization, proof) = ask_agent(&node.socket, &challenge)?;
    Ok(DecisionRequest {
        authorization,
        proof,
        challenge,
        action: ACTION.into(),
        resource: RESOURCE.into(),
    })
}

#[cfg(feature = "tpm")]
fn ask_agent(socket: &Path, challenge: &str) -> Result<(String, String), Failure> {
    use touchstone_attest::agent::socket::{Request, Response, ask};
    let request = Request::Present {
        audience: super::world::GUARD.into(),
        challenge: challenge.into(),
        action: ACTION.into(),
        resource: RESOURCE.into(),
    };
    match runtime::block_on(ask(socket, &request))?? {
        Response::Presentation { authorization, proof } => Ok((authorization, proof)),
        other => Err(Failure::new(format!("the agent does not present: {other:?}"))),
    }
}

#[cfg(not(feature = "tpm"))]
fn ask_agent(_socket: &Path, _challenge: &str) -> Result<(String, String), Failure> {
    Err(Failure::new("this build has no TPM support").hint("build with the feature `tpm`"))
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::new(otherwise())) }
}

fn number(event: &Value, key: &str) -> u64 {
    event.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn texts(event: &Value, key: &str) -> Vec<String> {
    event
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}

fn last_json(printed: &str) -> Result<Value, Failure> {
    let line = printed.lines().last().unwrap_or_default();
    serde_json::from_str(line).map_err(|error| Failure::new(format!("{line:?}: {error}")))
}
