//! How far the failure of one member reaches, by signed policy: a zone, or everybody (`docs/protocol.md`, section 12). Only an
//! authentic failure of a node with a role that policy names, or a command, suspends anybody but the node itself.
//!
//! A failure reaches as far whether or not the node still holds anything: what it lost before, by silence or by command, says
//! nothing about what it did while it held it. It reaches each extent once for as long as the node is granted nothing: after
//! that somebody has looked and lifted it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, watch};
use touchstone_ledger::statement::{Kind, Reason};
use touchstone_policies::PolicySet;
use touchstone_store::{Batch, KeyError, Write};
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

    /// What is written with the first statement about the failure: a crash then loses nothing of it.
    #[must_use]
    pub fn writes(&self) -> Vec<Write> {
        let writes: Result<Vec<Write>, KeyError> = match self.is_due() {
            true => self.due.iter().map(Due::write).collect(),
            false if self.more => self.reached.write(&self.node).map(|write| vec![write]),
            false => Ok(Vec::new()),
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

/// The containments of a running broker that are due.
#[derive(Debug, Default)]
pub struct Containing {
    /// One is made at a time, so that none is made twice.
    one: Mutex<()>,
    look: Notify,
}

impl Containing {
    /// Has [`keep`] look for what is due: after the statement that says so is on record.
    pub fn look(&self) {
        self.look.notify_one();
    }
}

/// Suspends whom a failure reaches. What could not be suspended stays due: it is on record with the failure
/// ([`Reach::writes`]), and [`keep`] tries it again.
pub async fn after_failure(app: &Arc<App>, reach: &Reach) {
    for due in &reach.due {
        if let Err(refusal) = make(app, due, &reach.reached.over).await {
            not_made(due, &refusal);
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
        make(app, &due, &[]).await.map_err(|refusal| failed(refusal.detail))?;
        tracing::warn!(
            node = due.node,
            over = due.over.kind(),
            "a containment was due and is made"
        );
    }
    Ok(())
}

/// Makes what stays due, until `stop` is true: looks when it is told to, and again and again while something is left.
pub async fn keep(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let stopping = async move { drop(stop.wait_for(|stop| *stop).await) };
    let keeping = again_and_again(&app.containing.look, || make_what_is_due(&app));
    tokio::select! {
        () = stopping => {}
        () = keeping => {}
    }
}

/// How long after a try that failed the next one is made, at first; each further one waits twice as long.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The longest that is waited between two tries.
const AGAIN_AT_LAST: Duration = Duration::from_secs(60);

/// Calls `all_made` each time `look` is notified, and until it has once said that nothing is left.
async fn again_and_again<F: Future<Output = bool>>(look: &Notify, mut all_made: impl FnMut() -> F) {
    loop {
        look.notified().await;
        let mut wait = AGAIN_AFTER;
        while !all_made().await {
            tokio::time::sleep(wait).await;
            wait = wait.saturating_mul(2).min(AGAIN_AT_LAST);
        }
    }
}

/// Whether nothing is left that is due.
async fn make_what_is_due(app: &Arc<App>) -> bool {
    let reading = Arc::clone(app);
    let read = tokio::task::spawn_blocking(move || Due::all(&*reading.store));
    let all = match read.await {
        Ok(Ok(all)) => all,
        Ok(Err(error)) => {
            tracing::error!(%error, "which containments are due cannot be read");
            return false;
        }
        Err(error) => {
            tracing::error!(%error, "which containments are due was not read");
            return false;
        }
    };
    let mut all_made = true;
    for due in all {
        if let Err(refusal) = make(app, &due, &[]).await {
            not_made(&due, &refusal);
            all_made = false;
        }
    }
    all_made
}

fn not_made(due: &Due, refusal: &Refusal) {
    tracing::error!(
        node = due.node,
        over = due.over.kind(),
        detail = refusal.detail,
        "a containment could not be made, and stays due"
    );
}

/// Makes one, unless it was made for the same failure already. `standing` are those whom the failure reached by then.
async fn make(app: &Arc<App>, due: &Due, standing: &[Over]) -> Result<(), Refusal> {
    let _one = app.containing.one.lock().await;
    // What cannot be read is not remembered: then it is made, as it may not have been.
    let mut reached = Reached::read(&*app.store, &due.node, due.granted).unwrap_or_else(|error| {
        tracing::error!(node = due.node, %error, "whom it has reached cannot be read");
        Reached {
            granted: due.granted,
            over: Vec::new(),
        }
    });
    if reached.over.contains(&due.over) {
        return forget(app, due).await;
    }
    for over in standing {
        reached.add(over.clone());
    }
    reached.add(due.over.clone());
    contain(app, due, &reached).await
}

/// Deletes the row of one that was made by another evidence of the same failure.
async fn forget(app: &Arc<App>, due: &Due) -> Result<(), Refusal> {
    let (app, key) = (Arc::clone(app), due.key().map_err(internal)?);
    let deleting = tokio::task::spawn_blocking(move || {
        let mut batch = Batch::new();
        batch.delete(key);
        app.store.commit(batch)
    });
    deleting.await.map_err(internal)?.map_err(internal)?;
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::Instant;

    use super::*;

    /// On a clock of its own that moves when everybody waits.
    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_made_is_tried_again_ever_less_often_until_it_is_and_then_no_more() {
        let look = Notify::new();
        let (begun, tried) = (Instant::now(), RefCell::new(Vec::new()));
        let all_made = || {
            tried.borrow_mut().push(begun.elapsed().as_secs());
            let made = tried.borrow().len() == 9;
            std::future::ready(made)
        };
        let an_hour = tokio::time::sleep(Duration::from_secs(3_600));
        let keeping = async {
            tokio::select! {
                () = again_and_again(&look, all_made) => {}
                () = an_hour => {}
            }
        };
        look.notify_one();
        keeping.await;
        assert_eq!(*tried.borrow(), [0, 1, 3, 7, 15, 31, 63, 123, 183]);
    }
}
