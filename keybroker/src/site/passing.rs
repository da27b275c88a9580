//! Acknowledgements on their way up: those of enforcers that signed policy lists, each enforcer's one at a time.
//!
//! A broker counts what it refuses against the network it came from, and a whole site comes from its relay's. So what no
//! broker would take ends here; who is listed and is refused all the same waits a while; and what says nothing newer than
//! what a broker has taken does not go up again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use touchstone_policies::PolicySet;

use crate::acks::Listed;
use crate::problem::{Refusal, RefusalCode};

/// How long an enforcer whose acknowledgement a broker refused waits before another one of it goes up.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// (generation, epoch, since when) of an acknowledgement: a later one is greater.
type Said = (u32, u64, u64);

#[derive(Debug, Default)]
struct Row {
    /// What a broker has taken last.
    taken: Option<Said>,
    under_way: bool,
    not_before: Option<Instant>,
}

/// What goes up, by enforcer.
#[derive(Debug, Default)]
pub(super) struct Passing {
    listed: Listed,
    rows: Mutex<HashMap<String, Row>>,
}

/// One that goes up; dropped it has ended, however it ended.
#[derive(Debug)]
pub(super) struct Pass {
    passing: Arc<Passing>,
    enforcer: String,
    said: Said,
}

impl Passing {
    /// Looks at an acknowledgement. None where a broker has taken it, or a later one, already.
    ///
    /// # Errors
    /// [`RefusalCode::AckNotAccepted`] where it is not of an enforcer that policy lists, or that enforcer was refused
    /// lately; [`RefusalCode::BrokerBusy`] where one of it is under way.
    pub fn admit(self: &Arc<Self>, bytes: &[u8], policy: &PolicySet) -> Result<Option<Pass>, Refusal> {
        let ack = self.listed.verify(bytes, policy)?;
        let said = (ack.generation, ack.epoch, ack.enforced_at_ms);
        let mut rows = self.lock();
        let row = rows.entry(ack.enforcer.clone()).or_default();
        if row.taken.is_some_and(|taken| taken >= said) {
            return Ok(None);
        }
        if row.under_way {
            let detail = "one of this enforcer is under way";
            return Err(Refusal::new(RefusalCode::BrokerBusy, detail));
        }
        if row.not_before.is_some_and(|not_before| Instant::now() < not_before) {
            let detail = "a broker refused this enforcer a moment ago";
            return Err(Refusal::new(RefusalCode::AckNotAccepted, detail));
        }
        row.under_way = true;
        Ok(Some(Pass {
            passing: Arc::clone(self),
            enforcer: ack.enforcer,
            said,
        }))
    }

    /// Forgets who is not listed any more.
    pub fn renew(&self, policy: &PolicySet) {
        self.lock().retain(|name, _| policy.enforcers.get(name).is_some());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// A broker has answered.
    pub fn answered<T>(&self, answer: &Result<T, Refusal>) {
        let mut rows = self.passing.lock();
        let Some(row) = rows.get_mut(&self.enforcer) else {
            return;
        };
        match answer {
            Ok(_) => (row.taken, row.not_before) = (Some(self.said), None),
            Err(refusal) if refusal.code == RefusalCode::UpstreamRefused => {
                row.not_before = Some(Instant::now() + REFUSED_PAUSE);
            }
            Err(_) => {}
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(row) = self.passing.lock().get_mut(&self.enforcer) {
            row.under_way = false;
        }
    }
}
