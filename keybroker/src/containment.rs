//! How far the failure of one member reaches, by signed policy: a zone, or everybody (`docs/protocol.md`, section 12). Only an
//! authentic failure of a node with a role that policy names, or a command, suspends anybody but the node itself.
//!
//! A failure reaches as far whether or not the node still holds anything: what it lost before, by silence or by command, says
//! nothing about what it did while it held it. It reaches each extent once for as long as the node is granted nothing: after
//! that somebody has looked and lifted it.

use std::sync::Arc;

use touchstone_ledger::statement::{Kind, Reason};
use touchstone_policies::PolicySet;
use touchstone_store::{KeyError, Write};
use touchstone_verifier::inventory::Lookup;

use crate::app::App;
use crate::attest::DECISION;
use crate::command::Plan;
use crate::decision::{Decided, DenialCode};
use crate::first_use::{self, FirstUse};
use crate::hello::internal;
use crate::holds::{self, Due, Maker, Over, Reached};
use crate::node::NodeRecord;
use crate::problem::Refusal;
use crate::rejudge;
use crate::service::ServiceError;
use crate::trust::Mark;
use crate::withdraw::{Cause, Taking};

/// Whom a failure reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    node: String,
    /// Who is to be suspended.
    due: Vec<Due>,
    /// Whom the node's failure has reached: by this or before it.
    reached: Reached,
    /// Whether that is more than was remembered.
    more: bool,
}

impl Reach {
    /// Whether anybody is to be suspended.
    #[must_use]
    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// What is written with the first statement about the failure: a crash then loses nothing of it. Where `alone`, that
    /// statement is handed in after everybody is suspended, and nothing is due any more.
    #[must_use]
    pub fn writes(&self, alone: bool) -> Vec<Write> {
        let writes: Result<Vec<Write>, KeyError> = match (alone, self.is_due()) {
            (false, true) => self.due.iter().map(Due::write).collect(),
            (_, false) if self.more => self.reached.write(&self.node).map(|write| vec![write]),
            _ => Ok(Vec::new()),
        };
        // A name that is no key has no record either; what is taken away does not wait for it.
        writes.unwrap_or_default()
    }
}

/// Whom signed policy says that the failure of the node of `record` reaches, beyond itself. Who is suspended by another's
/// failure or by command is not suspended again, and where nothing but policy or a bar has changed since the node was granted
/// what it lost by that, its failure is theirs and reaches nobody.
pub fn reach(
    app: &App,
    policy: &PolicySet,
    decided: &Decided,
    record: &NodeRecord,
    first_use: Option<&FirstUse>,
) -> Reach {
    let granted = record.granted.cti;
    let nothing = || Reached {
        granted,
        over: Vec::new(),
    };
    let mut reach = Reach {
        node: decided.node.clone(),
        due: Vec::new(),
        reached: nothing(),
        more: false,
    };
    let unlisted;
    let inventory = match first_use {
        None => &policy.inventory,
        Some(_) => {
            unlisted = first_use::inventory(first_use, policy);
            &unlisted
        }
    };
    let Lookup::Node(node) = inventory.by_name(&decided.node) else {
        return reach;
    };
    let extents = policy.extents_of(node);
    if extents.is_empty() {
        return reach;
    }
    // What cannot be read is not remembered: then it reaches everybody anew.
    reach.reached = Reached::read(&*app.store, &decided.node, granted).unwrap_or_else(|error| {
        tracing::error!(node = decided.node, %error, "whom it has reached cannot be read");
        nothing()
    });
    let new: Vec<Over> = extents.into_iter().map(Over::Nodes).collect();
    let new: Vec<Over> = new
        .into_iter()
        .filter(|over| !reach.reached.over.contains(over))
        .collect();
    if new.is_empty() || (record.withdrawn && rejudge::is_of_policy(app, policy, record, decided)) {
        return reach;
    }
    for over in new {
        if holds::stands(app, &over) {
            reach.reached.add(over);
            reach.more = true;
        } else {
            reach.due.push(Due {
                node: decided.node.clone(),
                granted,
                decision: decided.digest,
                over,
            });
        }
    }
    reach
}

/// Suspends whom a failure reaches. What could not be suspended stays due.
pub async fn after_failure(app: &Arc<App>, reach: &Reach) {
    let mut reached = reach.reached.clone();
    for due in &reach.due {
        reached.add(due.over.clone());
        if let Err(refusal) = contain(app, due, &reached).await {
            tracing::error!(
                node = due.node,
                detail = refusal.detail,
                "a containment could not be made"
            );
        }
    }
}

/// Makes what was due when the last run ended.
///
/// # Errors
/// What cannot be read, or made: the broker does not start, for it would serve whom it has to suspend.
pub async fn catch_up(app: &Arc<App>) -> Result<(), ServiceError> {
    let failed = |what: String| ServiceError::Statement(format!("a containment that is due: {what}"));
    let all = Due::all(&*app.store).map_err(|error| failed(error.to_string()))?;
    for due in all {
        let reached = Reached::read(&*app.store, &due.node, due.granted);
        let mut reached = reached.map_err(|error| failed(error.to_string()))?;
        reached.add(due.over.clone());
        contain(app, &due, &reached)
            .await
            .map_err(|refusal| failed(refusal.detail))?;
        tracing::warn!(
            node = due.node,
            over = due.over.kind(),
            "a containment was due and is made"
        );
    }
    Ok(())
}

async fn contain(app: &Arc<App>, due: &Due, reached: &Reached) -> Result<(), Refusal> {
    let mut plan = Plan::default();
    if let Over::Nodes(extent) = &due.over {
        plan.extent(app, extent.clone());
    }
    let why = format!("{} has failed", due.node);
    let reason = Reason {
        code: DenialCode::Contained.as_str().into(),
        claim: format!("{} {}", due.over.kind(), due.over.name()),
        expected: "no member of these roles that fails".into(),
        found: why.clone(),
    };
    let mut cause = Cause::new(Kind::Containment, None, reason);
    cause.inputs.insert(DECISION.to_owned(), due.decision);
    let taking = Taking {
        nodes: plan.nodes,
        roots: plan.roots,
        writes: vec![
            Write::Delete(due.key().map_err(internal)?),
            reached.write(&due.node).map_err(internal)?,
        ],
        ..Taking::new(cause, Mark::Suspended)
    };
    let over = due.over.clone();
    holds::hold_by(app, Maker::Failure, over, &why, taking)
        .await
        .map(|_| ())
}
