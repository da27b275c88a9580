//! A TDX quote as an author's source: what the golden guest was launched from and measured, and which machine it is.

use touchstone_evidence::collection::{Collection, Label};
use touchstone_verifier::eventlog::SeparatorDigests;
use touchstone_verifier::inventory::{CvmIdentity, GuestId, Platform};
use touchstone_verifier::reason::Reason;
use touchstone_verifier::tdx::check::check_guest;
use touchstone_verifier::tdx::measured::BANK;
use touchstone_verifier::tdx::{Collateral, Quote, RtmrReplay, TdxReference, VerifiedQuote, replay};

use super::{endorses, lies, refused};
use crate::error::PolicyError;

/// What a quote shows that a quoting enclave beside it signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guest {
    /// What it was launched from, how, and what it measured: the reference's values.
    pub reference: TdxReference,
    /// Which machine it is.
    pub identity: CvmIdentity,
    /// What the author of a node should know of that identity.
    pub notes: Vec<String>,
}

/// Reads the quote, where there is one. Whose root its chain ends at is the verifier's to say: whose machine it is, the
/// author says, and signs.
pub(super) fn read(collection: &Collection, notes: &mut Vec<String>) -> Result<Option<Guest>, PolicyError> {
    let Some(bytes) = collection.get(Label::TdxQuote) else {
        return Ok(None);
    };
    let claim = Label::TdxQuote.as_str();
    let quote = Quote::parse(bytes).map_err(|e| refused(claim, "a TDX quote", e))?;
    let collateral = collection
        .get(Label::TdxCollateral)
        .and_then(|bytes| Collateral::parse(bytes).ok());
    let verified = VerifiedQuote::by_own_root(quote, collateral.as_ref())
        .map_err(|reasons| refused(claim, "a quote that holds together", words(&reasons)))?;
    for reason in check_guest(&quote).reasons {
        notes.push(format!("such a guest is refused: {reason}"));
    }
    let replayed = match collection.get(Label::CcEventLog) {
        Some(log) => Some(honest(&quote, log)?),
        None => {
            notes.push(
                "the evidence has no CCEL: only guests with the same register values will match, and a mismatch can name \
                 the register only, not the event"
                    .into(),
            );
            None
        }
    };
    let mut of_identity = Vec::new();
    let config_id = quote.mr_config_id();
    let guest = if config_id.iter().any(|byte| *byte != 0) {
        Some(GuestId::ConfigId(config_id.to_vec()))
    } else {
        of_identity.push(
            "the guest has no MRCONFIGID: any guest on this platform that matches a reference is this node".into(),
        );
        None
    };
    Ok(Some(Guest {
        reference: TdxReference {
            endorses: endorses(collection),
            ..TdxReference::of(&quote, replayed.as_ref())
        },
        identity: CvmIdentity {
            platform: Platform::TdxPlatform(verified.platform().ppid.clone()),
            guest,
        },
        notes: of_identity,
    }))
}

/// The log, where it leads to the quoted registers and does not lie about its data.
fn honest<'a>(quote: &Quote<'_>, log: &'a [u8]) -> Result<RtmrReplay<'a>, PolicyError> {
    let claim = Label::CcEventLog.as_str();
    let replayed =
        replay(quote, log).map_err(|reasons| refused(claim, "the quoted registers by replay", words(&reasons)))?;
    let separators = SeparatorDigests::new(BANK);
    let events = replayed.log.events().iter().take(replayed.events);
    for event in events.filter(|event| event.is_extended()) {
        if let Some(expected) = lies(event, BANK, &separators) {
            let found = format!("event {}: {}", event.index, event.describe());
            return Err(refused(claim, expected, found));
        }
    }
    Ok(replayed)
}

fn words(reasons: &[Reason]) -> String {
    let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    reasons.join("; ")
}
