//! Tells the domain's brokers, signed, what was let in here and what of it was stopped (`docs/protocol.md`, section 6): only
//! then is a chain a known edge of the lineage, and only then can a policy ask what was used before.
//!
//! Nothing waits for it. What cannot be sent is tried again until it is too old to count.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use touchstone_authorization::usage::Outcome;
use touchstone_authorization::{Scope, Use, authorization_digest};
use touchstone_client::backoff_ms;
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_cose::key::Signer;

use crate::client::BrokerClient;
use crate::clock;

/// The route.
pub const USES: &str = "/v1/uses";
/// Most uses that wait; of more the oldest are dropped, and that is said.
pub const MAX_WAITING: usize = 1_024;
/// Most in one report: what a broker takes.
const MAX_REPORTED: usize = 32;
/// A use older than this does not count any more, in milliseconds.
const MAX_AGE_MS: u64 = 100_000;

/// One use.
#[derive(Debug, Clone)]
pub struct Used {
    /// The authorization or chain, as it was presented.
    pub chain: Arc<[u8]>,
    /// What was done.
    pub scope: Scope,
    /// What came of it.
    pub outcome: Outcome,
    /// When, in Unix milliseconds of the domain's time.
    pub at_ms: u64,
}

/// Who reports.
pub struct Reporter {
    /// The domain.
    pub domain: String,
    /// The enforcer's id, as policy lists it.
    pub enforcer: String,
    /// Its key, as policy lists it.
    pub signer: Arc<dyn Signer + Send + Sync>,
    /// The domain's brokers.
    pub client: BrokerClient,
}

struct Waiting {
    signed: Vec<u8>,
    since_ms: u64,
}

impl Reporter {
    /// Reports what comes, until nothing does any more and all of it is sent or too old.
    pub async fn run(mut self, mut uses: mpsc::Receiver<Used>) {
        let mut waiting = VecDeque::new();
        let mut failures = 0_u32;
        loop {
            if waiting.is_empty() {
                match uses.recv().await {
                    Some(used) => self.push(&mut waiting, &used),
                    None => return,
                }
            }
            while let Ok(used) = uses.try_recv() {
                self.push(&mut waiting, &used);
            }
            let now_ms = clock::boot_ms();
            waiting.retain(|one| now_ms.saturating_sub(one.since_ms) < MAX_AGE_MS);
            let number = waiting.len().min(MAX_REPORTED);
            if number == 0 {
                continue;
            }
            let report = Value::array(
                waiting
                    .iter()
                    .take(number)
                    .map(|one| Value::bytes(one.signed.as_slice())),
            );
            match self.client.post(USES, cbor::encode(&report)).await {
                Ok(answer) => {
                    failures = 0;
                    waiting.drain(..number);
                    tell_refused(&answer);
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.client.turn();
                    tracing::info!(target: "touchstone::guard", failures, %error, "uses could not be reported");
                    let random = getrandom::u64().unwrap_or(0);
                    tokio::time::sleep(Duration::from_millis(backoff_ms(failures, random))).await;
                }
            }
        }
    }

    /// Signed once: a report that is sent again is the same, and counts once.
    fn push(&self, waiting: &mut VecDeque<Waiting>, used: &Used) {
        let mut id = [0; 16];
        if let Err(error) = getrandom::fill(&mut id) {
            tracing::error!(target: "touchstone::guard", %error, "a use cannot be reported: no randomness");
            return;
        }
        let signed = Use {
            domain: self.domain.clone(),
            enforcer: self.enforcer.clone(),
            id,
            chain_digest: authorization_digest(&used.chain),
            chain: Some(used.chain.to_vec()),
            scope: used.scope.clone(),
            at_ms: used.at_ms,
            outcome: used.outcome,
        }
        .encode_signed(&*self.signer);
        match signed {
            Ok(signed) => waiting.push_back(Waiting {
                signed,
                since_ms: clock::boot_ms(),
            }),
            Err(error) => tracing::error!(target: "touchstone::guard", %error, "a use cannot be signed"),
        }
        if waiting.len() > MAX_WAITING {
            waiting.pop_front();
            tracing::warn!(target: "touchstone::guard", "more than {MAX_WAITING} uses wait to be reported: the oldest is dropped");
        }
    }
}

/// An answer says of each use, in order, nothing or why it was not taken.
fn tell_refused(answer: &[u8]) {
    let Ok(value) = cbor::decode(answer, Limits::MESSAGE) else {
        tracing::warn!(target: "touchstone::guard", "the answer to a report of uses cannot be read");
        return;
    };
    for code in value.as_array().into_iter().flatten().filter_map(Value::as_text) {
        tracing::warn!(target: "touchstone::guard", code, "a use was not taken");
    }
}
