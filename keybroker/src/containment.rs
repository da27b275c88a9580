//! How far the failure of one member reaches, by signed policy: a zone, or everybody (`docs/protocol.md`, section 12). Only an
//! authentic failure of a node with a role that policy names, or a command, suspends anybody but the node itself.

use std::sync::Arc;

use touchstone_ledger::statement::{Kind, Reason};
use touchstone_policies::Extent;
use touchstone_verifier::inventory::Lookup;

use crate::app::App;
use crate::attest::DECISION;
use crate::command::Plan;
use crate::decision::DenialCode;
use crate::holds::{self, Over};
use crate::trust::Mark;
use crate::withdraw::{Cause, Taking};

/// Suspends whom policy says that the failure of `name`, decided by the statement of this digest, reaches. What is suspended
/// already is not suspended again.
pub async fn after_failure(app: &Arc<App>, name: &str, decision: [u8; 32]) {
    let policy = app.policy();
    let Lookup::Node(node) = policy.inventory.by_name(name) else {
        return;
    };
    for extent in policy.extents_of(node) {
        let over = Over::Nodes(extent.clone());
        if app
            .holds
            .list()
            .iter()
            .any(|(hold, _)| hold.lifted.is_none() && hold.over == over)
        {
            continue;
        }
        if let Err(refusal) = contain(app, extent, name, decision).await {
            tracing::error!(node = name, detail = refusal.detail, "a containment could not be made");
        }
    }
}

async fn contain(
    app: &Arc<App>,
    extent: Extent,
    name: &str,
    decision: [u8; 32],
) -> Result<(), crate::problem::Refusal> {
    let mut plan = Plan::default();
    plan.extent(app, extent.clone());
    let over = Over::Nodes(extent);
    let reason = Reason {
        code: DenialCode::Contained.as_str().into(),
        claim: format!("{} {}", over.kind(), over.name()),
        expected: "no member of these roles that fails".into(),
        found: format!("{name} has failed"),
    };
    let why = format!("{name} has failed");
    let mut cause = Cause::new(Kind::Containment, None, reason);
    cause.inputs.insert(DECISION.to_owned(), decision);
    let taking = Taking {
        nodes: plan.nodes,
        roots: plan.roots,
        ..Taking::new(cause, Mark::Suspended)
    };
    holds::hold(app, over, &why, taking).await.map(|_| ())
}
