//! Commands of operators whom signed policy names: signed over the very set that was shown, good for five minutes, and once.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use touchstone_authorization::command::{Command as Signed, CommandAction, TargetKind};
use touchstone_authorization::{NamedKeys, SignedKind};
use touchstone_policies::{DecisionCode, PolicySet, Power, Principal, Request};
use touchstone_verifier::appraisal::Claims;
use touchstone_verifier::inventory::Lookup;

use super::carry_out::carry_out_alone;
use super::{Action, By, Command, Done, Target};
use crate::app::App;
use crate::clock::seconds;
use crate::hello::internal;
use crate::lineage::Id;
use crate::problem::{ReasonLine, Refusal, RefusalCode};
use crate::rows;

/// The class of things in Cedar that commands are about.
pub const COMMANDS: &str = "commands";

/// Whether a command counts without a signature: only where signed policy lists nobody who could sign one.
///
/// # Errors
/// [`RefusalCode::CommandUnsigned`]
pub fn needs_no_signature(app: &App) -> Result<(), Refusal> {
    if app.policy().operators.is_empty() {
        return Ok(());
    }
    let detail = "signed policy lists operators: a command must be signed by one of them";
    Err(Refusal::new(RefusalCode::CommandUnsigned, detail))
}

/// Carries out a signed command.
///
/// # Errors
/// A [`Refusal`]: it is no such command, not permitted, was carried out before, or the set is another than the one that was
/// shown.
pub async fn carry_out_signed(app: &Arc<App>, bytes: &[u8]) -> Result<Done, Refusal> {
    // One at a time: what counts once is looked up and then carried out.
    let _alone = app.commanding.lock().await;
    let now_ms = app.clock.now_ms();
    let policy = app.policy();
    let keys = policy
        .operators
        .iter()
        .map(|(name, operator)| (name.to_owned(), operator.key.clone()));
    let keys = NamedKeys::new(keys).map_err(internal)?;
    let skew_ms = policy.settings.timers.skew_ms;
    let signed = Signed::verify(bytes, &keys, &policy.domain, (now_ms, skew_ms)).map_err(|error| {
        let refusal = error.refusal(SignedKind::Command);
        let line = ReasonLine {
            code: refusal.code.as_str().into(),
            claim: "command".into(),
            expected: refusal.expected,
            found: refusal.found,
        };
        Refusal::new(RefusalCode::CommandRefused, "it is not known who commands").with_reasons(vec![line])
    })?;
    let row = rows::COMMAND.key(&signed.id).map_err(internal)?;
    if app.store.get(&row).map_err(internal)?.is_some() {
        return Err(Refusal::new(
            RefusalCode::CommandReplayed,
            "a command of this id was carried out before",
        ));
    }
    let (action, target) = (action(signed.action), target(signed.target));
    let (Some(action), Some(target)) = (action, target) else {
        return Err(Refusal::new(
            RefusalCode::ParameterMalformed,
            "this release knows no such command",
        ));
    };
    let command = Command {
        action,
        target,
        id: signed.target_id.clone(),
        reason: signed.reason.clone(),
        set: Some(hex::encode(signed.set)),
    };
    command.checked()?;
    permitted(app, &policy, &signed.operator, &command)?;
    if signed.revision > app.trust.epoch() {
        let detail = "the command names a state that has not been yet";
        return Err(Refusal::new(RefusalCode::SetChanged, detail));
    }
    let by = By::Operator {
        name: signed.operator,
        command: Sha256::digest(bytes).into(),
        id: signed.id,
        not_after: signed.not_after,
    };
    carry_out_alone(app, &command, &by).await
}

/// Whether signed policy lets this operator command this: `operators.toml` must say so, and no Cedar policy forbid it.
fn permitted(app: &App, policy: &PolicySet, operator: &str, command: &Command) -> Result<(), Refusal> {
    let region = region(app, policy, command);
    let power = match command.action {
        Action::Revoke => Power::Revoke,
        Action::Quarantine => Power::Quarantine,
        Action::Contain => Power::Contain,
        Action::Lift => Power::Lift,
        Action::Decommission | Action::Reinstate => Power::Decommission,
    };
    let may = policy
        .operators
        .get(operator)
        .is_some_and(|entry| entry.may(power, region.as_deref()));
    if !may {
        let place = region.map_or_else(|| "everywhere".to_owned(), |region| format!("in {region}"));
        let detail = format!("{operator} may not {power} {place}");
        return Err(Refusal::new(RefusalCode::CommandNotPermitted, detail));
    }
    let claims = Claims::default();
    let decision = policy.cedar.decide(
        region.as_deref().unwrap_or_default(),
        &Request {
            principal: Principal::Operator,
            now: seconds(app.clock.now_ms()),
            policy_version: policy.version,
            ..Request::of_node(
                operator,
                region.as_deref().unwrap_or_default(),
                "administer",
                COMMANDS,
                &claims,
            )
        },
    );
    // The grant is the operator's entry; the policies narrow it. What cannot be evaluated narrows it to nothing.
    let broken = decision
        .reasons
        .iter()
        .any(|reason| reason.code == DecisionCode::EvaluationError);
    if decision.forbids.is_empty() && !broken {
        return Ok(());
    }
    let names: Vec<String> = decision
        .forbids
        .iter()
        .map(|(file, id)| format!("{file}: {id}"))
        .collect();
    let detail = format!("the policies forbid it: {}", names.join(", "));
    Err(Refusal::new(RefusalCode::CommandNotPermitted, detail))
}

/// The region that a command concerns; nothing where it is about more than one node, or about none.
fn region(app: &App, policy: &PolicySet, command: &Command) -> Option<String> {
    let subject = match command.target {
        Target::Node | Target::Workload => command.id.clone(),
        Target::Lineage => {
            let cti: [u8; 16] = hex::decode(&command.id).ok()?.try_into().ok()?;
            app.lineage.find(Id::Authorization(&cti))?.subject
        }
        _ => return None,
    };
    let node = subject.split_once('@').map_or(subject.as_str(), |(_, node)| node);
    match policy.inventory.by_name(node) {
        Lookup::Node(node) => Some(node.region.clone()),
        _ => None,
    }
}

const fn action(action: CommandAction) -> Option<Action> {
    Some(match action {
        CommandAction::Revoke => Action::Revoke,
        CommandAction::Quarantine => Action::Quarantine,
        CommandAction::Lift => Action::Lift,
        CommandAction::Contain => Action::Contain,
        CommandAction::Decommission => Action::Decommission,
        CommandAction::Reinstate => Action::Reinstate,
        _ => return None,
    })
}

const fn target(target: TargetKind) -> Option<Target> {
    Some(match target {
        TargetKind::Node => Target::Node,
        TargetKind::Workload => Target::Workload,
        TargetKind::Key => Target::Key,
        TargetKind::Reference => Target::Reference,
        TargetKind::Signer => Target::Signer,
        TargetKind::Lineage => Target::Lineage,
        TargetKind::Zone => Target::Zone,
        TargetKind::Cluster => Target::Cluster,
        _ => return None,
    })
}
