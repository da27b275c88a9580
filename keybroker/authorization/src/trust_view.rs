//! What an enforcer holds of its domain's trust state, and the one way to get from one trust state to the next.
//!
//! Trust states are ordered by (generation, epoch) and an enforcer never goes back. A head of the same epoch may only
//! be a heartbeat: it must say the same about policy, keys and lists, else somebody shows two histories. Lists come
//! whole or as pages that changed, and count only if they give the digests in the signed head. Source:
//! `docs/protocol.md`, section 7.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::keys::KeyRing;
use crate::lists::{PAGE_BYTES, StatusArray, StatusLists, byte_length};
use crate::refusal::{Hex, Refusal, RefusalCode};
use crate::revoked::{RevokedHead, RevokedIds};
use crate::signed::{SignedError, SignedKind};
use crate::trust_frame::{Body, TrustFrame, inflate};
use crate::trust_head::{ListHead, TrustHead};

/// How far the enforcer's clock may step back without the trust state counting as received in the future, in
/// milliseconds: the skew bound of `docs/protocol.md`, section 1.
pub const MAX_STEP_BACK_MS: u64 = 500;

/// Why a frame is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustStateError {
    /// The frame or its head cannot be read, is of another type, or its signature does not verify.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// The head of another domain.
    #[error("domain {found:?} instead of {expected:?}")]
    Domain {
        /// The domain this enforcer obeys.
        expected: String,
        /// The domain in the head.
        found: String,
    },
    /// Older than what is held.
    #[error("(generation, epoch) {found:?} lies before {held:?}")]
    EpochBack {
        /// (generation, epoch) held.
        held: (u32, u64),
        /// (generation, epoch) in the frame.
        found: (u32, u64),
    },
    /// Two histories: the same epoch with other contents, or the same ledger size with another root.
    #[error(
        "generation {generation}, epoch {epoch}: {} is held, {} was sent",
        Hex(held),
        Hex(found)
    )]
    Forked {
        /// The generation of both.
        generation: u32,
        /// The epoch of the frame.
        epoch: u64,
        /// Digest of the contents held ([`TrustHead::contents_digest`]), or the ledger root held.
        held: [u8; 32],
        /// Digest of the contents sent, or the ledger root sent.
        found: [u8; 32],
    },
    /// A heartbeat older than the one held.
    #[error("fresh until {found} ms lies before {held} ms")]
    FreshUntilBack {
        /// `fresh_until_ms` held.
        held: u64,
        /// `fresh_until_ms` sent.
        found: u64,
    },
    /// The ledger got shorter.
    #[error("ledger size {found} is below {held}")]
    LedgerBack {
        /// Ledger size held.
        held: u64,
        /// Ledger size sent.
        found: u64,
    },
    /// A frame without lists, though they are not held.
    #[error("the frame carries no lists and those of its epoch are not held")]
    BodyMissing,
    /// A delta to something that is not held.
    #[error("the delta builds on epoch {base}, {held:?} is held")]
    DeltaBase {
        /// The epoch the delta builds on.
        base: u64,
        /// The epoch held, if any.
        held: Option<u64>,
    },
    /// A list or page that inflates to another length than the head says.
    #[error("list {list} does not inflate to exactly {expected} bytes")]
    Inflated {
        /// The number of the list.
        list: u16,
        /// Bytes by the head.
        expected: usize,
    },
    /// A list that does not have the digest in the head.
    #[error("list {list} has digest {} instead of {}", Hex(found), Hex(expected))]
    Digest {
        /// The number of the list.
        list: u16,
        /// The digest in the head.
        expected: [u8; 32],
        /// The digest of what the frame gives.
        found: [u8; 32],
    },
    /// Revoked ids that are not those of the head.
    #[error("the revoked ids are {}, the head vouches for {}", shown(*found), shown(*expected))]
    RevokedIds {
        /// What the head says.
        expected: Option<RevokedHead>,
        /// What the frame gives.
        found: Option<RevokedHead>,
    },
}

/// Revoked ids as an error names them.
fn shown(head: Option<RevokedHead>) -> String {
    head.map_or("none".to_owned(), |head| {
        format!("{} with digest {}", head.count, Hex(&head.digest))
    })
}

impl TrustStateError {
    /// The stable code.
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Signed(error) => error.code(SignedKind::TrustHead),
            Self::Domain { .. } => RefusalCode::TrustStateDomain,
            Self::EpochBack { .. } => RefusalCode::TrustStateEpochBack,
            Self::Forked { .. } => RefusalCode::TrustStateForked,
            Self::FreshUntilBack { .. } => RefusalCode::TrustStateFreshUntilBack,
            Self::LedgerBack { .. } => RefusalCode::TrustStateLedgerBack,
            Self::BodyMissing => RefusalCode::TrustStateBodyMissing,
            Self::DeltaBase { .. } => RefusalCode::TrustStateDeltaBase,
            Self::Inflated { .. } => RefusalCode::TrustStateInflated,
            Self::Digest { .. } => RefusalCode::TrustStateDigest,
            Self::RevokedIds { .. } => RefusalCode::TrustStateRevokedIds,
        }
    }

    /// Whether fetching the whole trust state may help: the frame was good, but builds on something not held.
    pub const fn wants_full(&self) -> bool {
        matches!(
            self,
            Self::BodyMissing
                | Self::DeltaBase { .. }
                | Self::Digest { .. }
                | Self::Inflated { .. }
                | Self::RevokedIds { .. }
        )
    }

    /// This error as a refusal.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(self.code(), "the domain's next trust state", self)
    }
}

/// The trust state an enforcer holds: a verified head and the lists it vouches for. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustView {
    head: Arc<TrustHead>,
    head_bytes: Arc<[u8]>,
    lists: Arc<StatusLists>,
    revoked: RevokedIds,
    received_at_ms: u64,
}

impl TrustView {
    /// Takes `frame` as the successor of `previous`. `keys` are the domain's trust-state keys; `received_at_ms` is the
    /// enforcer's now on the same scale as the `now_ms` it will decide with: broker time plus what `CLOCK_BOOTTIME` has
    /// counted since, in Unix milliseconds. On an error `previous` stays what is held.
    pub fn accept(
        previous: Option<&TrustView>,
        frame: &[u8],
        keys: &KeyRing,
        domain: &str,
        received_at_ms: u64,
    ) -> Result<TrustView, TrustStateError> {
        let frame = TrustFrame::parse(frame)?;
        let head = TrustHead::verify(&frame.head, keys, received_at_ms)?;
        if head.domain != domain {
            return Err(TrustStateError::Domain {
                expected: domain.to_owned(),
                found: head.domain,
            });
        }
        if let Some(previous) = previous {
            follows(&previous.head, &head)?;
        }
        let revoked = revoked(previous, &head, &frame.body)?;
        let lists = lists(previous, &head, frame.body)?;
        // A head that was heard before does not count as news: only a younger one renews the receipt.
        let received_at_ms = match previous {
            Some(held) if head.issued_at_ms <= held.head.issued_at_ms => held.received_at_ms.min(received_at_ms),
            _ => received_at_ms,
        };
        Ok(TrustView {
            head: Arc::new(head),
            head_bytes: frame.head.into(),
            lists,
            revoked,
            received_at_ms,
        })
    }

    /// The verified head.
    pub fn head(&self) -> &TrustHead {
        &self.head
    }

    /// The signed bytes of the head, to be relayed unchanged or kept as proof of a fork.
    pub fn head_bytes(&self) -> &[u8] {
        &self.head_bytes
    }

    /// SHA-256 of the signed bytes of the head.
    pub fn head_digest(&self) -> [u8; 32] {
        Sha256::digest(&self.head_bytes).into()
    }

    /// The status lists, each with the digest in the head.
    pub fn lists(&self) -> &StatusLists {
        &self.lists
    }

    /// Ids of off-line delegations that were taken back one by one.
    pub fn revoked(&self) -> &RevokedIds {
        &self.revoked
    }

    /// Whether the off-line delegation with this id was taken back.
    pub fn is_revoked(&self, id: &[u8; 16]) -> bool {
        self.revoked.contains(id)
    }

    /// When the head arrived, in the enforcer's Unix milliseconds.
    pub fn received_at_ms(&self) -> u64 {
        self.received_at_ms
    }

    /// When this view stops to count: the earlier of the head's `fresh_until_ms` and `window_ms` after receipt.
    pub fn fresh_until_ms(&self, window_ms: u64) -> u64 {
        self.head
            .fresh_until_ms
            .min(self.received_at_ms.saturating_add(window_ms))
    }

    /// Whether this view still counts at `now_ms`. A clock that stepped back by more than [`MAX_STEP_BACK_MS`] since
    /// receipt makes it stale: how old it is cannot be said any more.
    pub fn fresh(&self, now_ms: u64, window_ms: u64) -> bool {
        now_ms < self.fresh_until_ms(window_ms) && self.received_at_ms <= now_ms.saturating_add(MAX_STEP_BACK_MS)
    }
}

/// Whether `head` may come after `held`.
fn follows(held: &TrustHead, head: &TrustHead) -> Result<(), TrustStateError> {
    let (before, after) = ((held.generation, held.epoch), (head.generation, head.epoch));
    if after < before {
        return Err(TrustStateError::EpochBack {
            held: before,
            found: after,
        });
    }
    let forked = |held, found| TrustStateError::Forked {
        generation: head.generation,
        epoch: head.epoch,
        held,
        found,
    };
    if after == before {
        let (contents, found) = (held.contents_digest(), head.contents_digest());
        if contents != found {
            return Err(forked(contents, found));
        }
        // Only within one epoch: a later epoch takes something away, and that counts even if its time is shorter.
        if head.fresh_until_ms < held.fresh_until_ms {
            return Err(TrustStateError::FreshUntilBack {
                held: held.fresh_until_ms,
                found: head.fresh_until_ms,
            });
        }
    }
    // A new generation may begin a new ledger.
    if held.generation == head.generation {
        if head.ledger_size < held.ledger_size {
            return Err(TrustStateError::LedgerBack {
                held: held.ledger_size,
                found: head.ledger_size,
            });
        }
        if head.ledger_size == held.ledger_size && head.ledger_root != held.ledger_root {
            return Err(forked(held.ledger_root, head.ledger_root));
        }
    }
    Ok(())
}

/// The revoked ids that `head` vouches for, out of what is held and what came.
fn revoked(previous: Option<&TrustView>, head: &TrustHead, body: &Body) -> Result<RevokedIds, TrustStateError> {
    let held = previous.filter(|held| held.head.generation == head.generation);
    let found = match body {
        Body::Full { revoked, .. } => revoked,
        Body::Delta {
            revoked: Some(revoked), ..
        } => revoked,
        // Unchanged, or a frame that builds on something else: the digest tells.
        Body::Delta { revoked: None, .. } | Body::None => held.map_or(RevokedIds::none(), |held| &held.revoked),
    };
    if found.head() == head.revoked {
        return Ok(found.clone());
    }
    match (body, held) {
        (Body::None, _) => Err(TrustStateError::BodyMissing),
        (Body::Delta { base_epoch, .. }, None) => Err(TrustStateError::DeltaBase {
            base: *base_epoch,
            held: previous.map(|held| held.head.epoch),
        }),
        _ => Err(TrustStateError::RevokedIds {
            expected: head.revoked,
            found: found.head(),
        }),
    }
}

/// The lists that `head` vouches for, out of what is held and what came.
fn lists(previous: Option<&TrustView>, head: &TrustHead, body: Body) -> Result<Arc<StatusLists>, TrustStateError> {
    // What is held already needs no body: a reconnecting enforcer gets a full frame and inflates none of it.
    if let Some(held) = previous
        && held.head.generation == head.generation
        && held.head.lists == head.lists
        && (held.head.epoch == head.epoch || !matches!(body, Body::None))
    {
        return Ok(Arc::clone(&held.lists));
    }
    let lists = match body {
        Body::None => return Err(TrustStateError::BodyMissing),
        Body::Full { lists, .. } => full(head, lists)?,
        Body::Delta { base_epoch, pages, .. } => {
            // Pages travel whole, so a delta from an earlier epoch than the one held gives the same lists.
            let base = previous
                .filter(|held| held.head.generation == head.generation && base_epoch <= held.head.epoch)
                .ok_or_else(|| TrustStateError::DeltaBase {
                    base: base_epoch,
                    held: previous.map(|p| p.head.epoch),
                })?;
            delta(head, &base.lists, pages)?
        }
    };
    StatusLists::new(lists)
        .map(Arc::new)
        .map_err(|error| malformed(error.to_string()))
}

fn full(head: &TrustHead, mut lists: BTreeMap<u16, Vec<u8>>) -> Result<Vec<(u16, StatusArray)>, TrustStateError> {
    let mut arrays = Vec::with_capacity(head.lists.len());
    for wanted in &head.lists {
        let compressed = lists.remove(&wanted.number).ok_or(TrustStateError::BodyMissing)?;
        let length = length(wanted)?;
        let bytes = inflate(&compressed, length).ok_or(TrustStateError::Inflated {
            list: wanted.number,
            expected: length,
        })?;
        let array = StatusArray::from_bytes(wanted.entries, &bytes);
        arrays.push(checked(wanted, array)?);
    }
    match lists.first_key_value() {
        Some((number, _)) => Err(malformed(format!("list {number} is not in the head"))),
        None => Ok(arrays),
    }
}

fn delta(
    head: &TrustHead,
    base: &StatusLists,
    mut pages: BTreeMap<u16, BTreeMap<u16, Vec<u8>>>,
) -> Result<Vec<(u16, StatusArray)>, TrustStateError> {
    let mut arrays = Vec::with_capacity(head.lists.len());
    for wanted in &head.lists {
        let length = length(wanted)?;
        let mut inflated = BTreeMap::new();
        for (page, compressed) in pages.remove(&wanted.number).unwrap_or_default() {
            let start = usize::from(page) * PAGE_BYTES;
            let expected = PAGE_BYTES.min(length.saturating_sub(start));
            let bytes = inflate(&compressed, expected).ok_or(TrustStateError::Inflated {
                list: wanted.number,
                expected,
            })?;
            inflated.insert(usize::from(page), bytes);
        }
        let array = StatusArray::patched(base.get(wanted.number), wanted.entries, inflated);
        arrays.push(checked(wanted, array)?);
    }
    match pages.first_key_value() {
        Some((number, _)) => Err(malformed(format!("list {number} is not in the head"))),
        None => Ok(arrays),
    }
}

fn length(list: &ListHead) -> Result<usize, TrustStateError> {
    byte_length(list.entries).map_err(|error| malformed(error.to_string()))
}

fn checked(
    wanted: &ListHead,
    array: Result<StatusArray, crate::lists::ListError>,
) -> Result<(u16, StatusArray), TrustStateError> {
    let array = array.map_err(|error| malformed(error.to_string()))?;
    if array.digest() != wanted.digest {
        return Err(TrustStateError::Digest {
            list: wanted.number,
            expected: wanted.digest,
            found: array.digest(),
        });
    }
    Ok((wanted.number, array))
}

fn malformed(text: String) -> TrustStateError {
    TrustStateError::Signed(SignedError::Malformed(text))
}
