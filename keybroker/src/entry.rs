//! What is handed to the sequencer, and what comes back.

use touchstone_authorization::token::StatusIndex;
use touchstone_ledger::statement::Signed;
use touchstone_store::{Guard, Write};

use crate::inputs::Part;
use crate::lineage::Growth;
use crate::trust::{Facts, Withdrawal};

/// A signed statement on its way into the ledger, with everything that must hold and happen in the same commit.
#[derive(Debug)]
pub struct Entry {
    /// The statement.
    pub statement: Signed,
    /// The node, where it is a decision about evidence: the latest one is found by name.
    pub subject: Option<String>,
    /// Digest of the policy it was decided under; after an activation of another one it is refused.
    pub policy: Option<[u8; 32]>,
    /// What must hold at the commit: the revisions it was decided on, the nonce it consumes.
    pub guards: Vec<Guard>,
    /// What is written with it.
    pub writes: Vec<Write>,
    /// Parts of recorded inputs, by digest; stored once, whoever names them.
    pub parts: Vec<Part>,
    /// What it does to rights.
    pub effect: Effect,
}

/// What a statement does to rights.
#[derive(Debug)]
pub enum Effect {
    /// Nothing: an event, or a refusal that takes nothing away.
    None,
    /// Grants: committed only while every withdrawal is durable, and visible only afterwards.
    Grant {
        /// The entry of the lineage, new or renewed. As long as something that it rests on does not count, nothing is
        /// granted.
        growth: Growth,
        /// Suspended entries that come back with it, beside its own.
        lifts: Vec<StatusIndex>,
    },
    /// Releases a key, or what counts in another domain: like a grant it is committed, and answered, only while every
    /// withdrawal is durable; and only while all that it rests on counts, for what was released cannot be called back.
    Release {
        /// The entry of who asked, and that of its node. Each must count, and what it hangs below and depends on.
        rests_on: Vec<StatusIndex>,
    },
    /// Nothing itself: what it writes makes something be taken away. Like a withdrawal it is never refused as busy, and is
    /// committed before what follows from it.
    Due,
    /// Takes away what went out already under `withdrawal`.
    Withdraw {
        /// The nodes whose records are marked, as they are then; whatever entry one has got meanwhile goes out too. None
        /// where the entries were suspended: the record stays as it is.
        nodes: Vec<String>,
        /// Every entry that went out.
        entries: Vec<StatusIndex>,
        /// The withdrawal that went out.
        withdrawal: Withdrawal,
    },
    /// Frees status entries: nothing that was granted under them can be taken by anybody any more.
    Free {
        /// The entries.
        entries: Vec<StatusIndex>,
        /// When they were found to be over, Unix seconds.
        now: u64,
        /// For how long everything under them must have ended then, in seconds.
        margin: u64,
    },
    /// Another policy comes into force.
    Activate(Activation),
}

impl Effect {
    /// A grant that lifts nothing but its own entry.
    #[must_use]
    pub const fn grant(growth: Growth) -> Self {
        Self::Grant {
            growth,
            lifts: Vec::new(),
        }
    }

    /// Whether it takes away.
    #[must_use]
    pub const fn takes_away(&self) -> bool {
        matches!(self, Self::Withdraw { .. })
    }

    /// Whether it goes before what takes nothing away.
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        matches!(self, Self::Withdraw { .. } | Self::Due)
    }
}

/// A policy coming into force, between two decisions.
pub struct Activation {
    /// What heads say from now on.
    pub facts: Facts,
    /// Called once it is durable and before anything is decided under it: puts it in its place for the deciders.
    pub install: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Activation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Activation")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

/// A statement that is in the ledger, durably.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its index.
    pub index: u64,
    /// Its receipt.
    pub receipt: Vec<u8>,
}

/// Why a statement is not in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// State it was decided on has changed: decide again.
    #[error("what it was decided on has changed: {detail}")]
    Conflict {
        /// Which.
        detail: String,
    },
    /// Another policy is in force: decide again.
    #[error("another policy has come into force")]
    PolicyChanged,
    /// Too many statements are waiting.
    #[error("{limit} statements are waiting already")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// The statement, or what is written with it, is over a limit of the store.
    #[error("cannot be stored: {detail}")]
    Unstorable {
        /// The limit.
        detail: String,
    },
    /// It is on record, and what it rests on fell before it was answered: nothing of it is to be given away.
    #[error("it was recorded, and what it rests on has fallen since: {detail}")]
    Fallen {
        /// Which.
        detail: String,
    },
    /// Nothing is recorded or granted any more until the process starts anew.
    #[error("the ledger has stopped: {detail}")]
    Stopped {
        /// Why.
        detail: String,
    },
}
