//! Tenants of one domain: what keeps one from another's nodes, keys and share of the broker's time. Whose something is
//! follows from its name and the signed `tenants.toml` ([`touchstone_policies::Tenants`]).
//!
//! A tenant's view of the ledger ([`view`]) is a filter, and keeps nothing from anybody: auditors, peers and strangers
//! alike read all statements over the public route.

pub mod admin;
pub mod meter;
pub mod view;

use touchstone_policies::{NotApart, PolicySet};
use touchstone_store::Store;
use touchstone_verifier::ear::EarReason;
use touchstone_verifier::inventory::Node;

use crate::app::App;
use crate::decision::DenialCode;
use crate::hello::internal;
use crate::problem::{Refusal, RefusalCode};
use crate::rows;

/// What speaks against a node that cannot be told from another tenant's.
#[must_use]
pub fn against(policy: &PolicySet, node: &Node) -> Option<EarReason> {
    let owner = node.owner.as_deref().unwrap_or("nobody");
    let (code, claim, expected, found) = match policy.tenants.check(node) {
        Ok(()) => return None,
        Err(NotApart::OwnerUnknown) => (DenialCode::TenantUnknown, "owner", "a tenant of the domain", owner),
        Err(NotApart::NameOfAnother) => {
            let expected = "<tenant>.<name> of the tenant who owns it";
            (DenialCode::TenantName, "name", expected, node.name.as_str())
        }
        Err(NotApart::Beyond) => (
            DenialCode::TenantNodesFull,
            "nodes",
            "as many as its tenant may have",
            owner,
        ),
    };
    Some(EarReason {
        code: code.as_str().into(),
        claim: claim.into(),
        expected: expected.into(),
        found: found.into(),
    })
}

/// Counts one grant to a node of this owner.
///
/// # Errors
/// [`RefusalCode::TenantLimited`] where its tenant has had as many as it may for now. What takes rights away is never
/// counted.
pub fn count(app: &App, policy: &PolicySet, owner: Option<&str>) -> Result<(), Refusal> {
    let Some((name, tenant)) = owner.and_then(|owner| Some((owner, policy.tenants.get(owner)?))) else {
        return Ok(());
    };
    if app.tenants.take(name, tenant.requests_per_minute, app.clock.now_ms()) {
        return Ok(());
    }
    let detail = format!(
        "the nodes of {name} may be granted something {} times a minute",
        tenant.requests_per_minute
    );
    Err(Refusal::new(RefusalCode::TenantLimited, detail))
}

/// Whether one more key may be put under this name.
///
/// # Errors
/// [`RefusalCode::TenantKeysFull`]
pub fn may_put(store: &dyn Store, policy: &PolicySet, key: &str) -> Result<(), Refusal> {
    let Some((name, tenant)) = policy
        .tenants
        .of_key(key)
        .and_then(|name| Some((name, policy.tenants.get(name)?)))
    else {
        return Ok(());
    };
    let prefix = rows::KEY.key(format!("{name}/").as_bytes()).map_err(internal)?;
    let most = usize::try_from(tenant.keys).unwrap_or(usize::MAX);
    let (mut found, mut after) = (0, None);
    while found < most {
        let read = store.range(&prefix, after.as_ref(), STEP).map_err(internal)?;
        found += read.len();
        match read.into_iter().last() {
            Some((last, _)) if found < most => after = Some(last),
            Some(_) => break,
            None => return Ok(()),
        }
    }
    let detail = format!("{name} may have {most} keys, and has them");
    Err(Refusal::new(RefusalCode::TenantKeysFull, detail))
}

/// Rows read at once.
const STEP: usize = 256;
