//! Where nothing speaks against a node but that its logs are not all there: it is asked again before that counts.

use touchstone_verifier::reason::{AppraisalCode, Code};

use super::{Decided, DenialCode};

/// A log that does not reach what was quoted.
const LOGS_BEHIND: &[Code] = &[Code::Appraisal(AppraisalCode::ImaLogDoesNotReplay)];
/// A tail that does not go on where what was kept ends: the log may be another one than it was.
const TAIL_DOES_NOT_FIT: &[Code] = &[
    Code::Appraisal(AppraisalCode::ImaLogDoesNotReplay),
    Code::Appraisal(AppraisalCode::ImaLogUnreadable),
    Code::Appraisal(AppraisalCode::ImaEntryMismatch),
];
/// Something that was kept of the node's logs and is gone.
const LOGS_MISSING: &[Code] = &[Code::Appraisal(AppraisalCode::ImaEntriesUnavailable)];

impl Decided {
    /// Whether nothing speaks against the node but a log that does not reach what was quoted: it may have been read too
    /// early or, where only a tail came (`in_part`), not be the one that the broker has seen.
    #[must_use]
    pub fn logs_are_behind(&self, in_part: bool) -> bool {
        self.only(if in_part { TAIL_DOES_NOT_FIT } else { LOGS_BEHIND })
    }

    /// Whether nothing speaks against the node but that what was kept of its logs is not enough.
    #[must_use]
    pub fn logs_are_missing(&self) -> bool {
        self.only(LOGS_MISSING)
    }

    /// Whether nothing speaks against the node but that it, its zone or the domain is suspended.
    #[must_use]
    pub fn is_only_held(&self) -> bool {
        let held = [DenialCode::Quarantined, DenialCode::Contained].map(DenialCode::as_str);
        self.grant.is_none()
            && !self.reasons.is_empty()
            && self.reasons.iter().all(|reason| held.contains(&reason.code.as_str()))
    }

    fn only(&self, codes: &[Code]) -> bool {
        !self.appraised.is_empty() && self.appraised.iter().all(|code| codes.contains(code))
    }
}
