//! What the broker has seen of a node's logs: only what it has not seen travels (`docs/protocol.md`, section 5).
//!
//! The node's record names it by digest, for one boot: the firmware log as it was, and the verified state of IMA's list.
//! Nothing of it has authority. A tail counts because the whole replays to what the TPM quoted; where it does not, or
//! where anything about the boot differs, the node is asked for everything.

use touchstone_cose::cbor::{ShapeError, Value};
use touchstone_evidence::collection::Collection;
use touchstone_evidence::label::{self, Label};
use touchstone_evidence::message::{BOOT_ID_LEN, LogBytes};
use touchstone_policies::PolicySet;
use touchstone_store::Store;
use touchstone_verifier::appraisal::Known;
use touchstone_verifier::ima::{ImaPrefix, chunk_digest};
use touchstone_verifier::policy::AppraisalPolicy;
use touchstone_verifier::reason::{AppraisalCode, Code};
use touchstone_verifier::snp::KnownVek;
use touchstone_verifier::tpm::PcrSelection;
use touchstone_verifier::tpm::attest::Attest;

use crate::asked::IMA_REGISTER;
use crate::decision::{Decided, Decision, DecisionError, decide_under};
use crate::hello::unreadable;
use crate::inputs::{DecisionInputs, KnownList, PART_BYTES};
use crate::node::NodeRecord;
use crate::parts;
use crate::problem::{Refusal, RefusalCode};

const CONTEXT: &str = "logs of a node";
const ENTRIES_UNAVAILABLE: Code = Code::Appraisal(AppraisalCode::ImaEntriesUnavailable);

/// A log, or what is kept of it, by its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenLog {
    /// SHA-256 of what is kept, a part in the store: the firmware log itself; the state of an IMA list.
    pub digest: [u8; 32],
    /// How many bytes of the log it stands for.
    pub bytes: u64,
}

/// What has been seen of a node's logs in one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenLogs {
    /// The boot, as the node named it: a hint.
    pub boot: [u8; BOOT_ID_LEN],
    /// The firmware log.
    pub firmware: Option<SeenLog>,
    /// IMA's list.
    pub ima: Option<SeenLog>,
}

impl SeenLogs {
    /// As CBOR: [boot, [digest, bytes] / null, [digest, bytes] / null].
    pub(crate) fn value(&self) -> Value {
        let log = |log: Option<SeenLog>| {
            log.map_or(Value::Null, |log| {
                Value::array([Value::bytes(log.digest), Value::Unsigned(log.bytes)])
            })
        };
        Value::array([Value::bytes(self.boot), log(self.firmware), log(self.ima)])
    }

    /// Reads what [`Self::value`] wrote, or null.
    pub(crate) fn read(value: &Value) -> Result<Option<Self>, ShapeError> {
        let refuse = || ShapeError::whole(CONTEXT, "[boot, log or null, log or null] or null", value);
        let fixed = |value: &Value| value.as_bytes().map(<[u8]>::to_vec);
        let log = |value: &Value| match value {
            Value::Null => Ok(None),
            Value::Array(items) => match items.as_slice() {
                [digest, bytes] => {
                    let digest = fixed(digest).and_then(|bytes| bytes.try_into().ok());
                    let (Some(digest), Some(bytes)) = (digest, bytes.as_u64().filter(|bytes| *bytes > 0)) else {
                        return Err(refuse());
                    };
                    Ok(Some(SeenLog { digest, bytes }))
                }
                _ => Err(refuse()),
            },
            _ => Err(refuse()),
        };
        match value {
            Value::Null => Ok(None),
            Value::Array(items) => match items.as_slice() {
                [boot, firmware, ima] => Ok(Some(Self {
                    boot: fixed(boot).and_then(|bytes| bytes.try_into().ok()).ok_or_else(refuse)?,
                    firmware: log(firmware)?,
                    ima: log(ima)?,
                })),
                _ => Err(refuse()),
            },
            _ => Err(refuse()),
        }
    }

    /// How many bytes of each log need not be sent.
    #[must_use]
    pub fn known(&self) -> LogBytes {
        let seen = [(Label::FirmwareEventLog, self.firmware), (Label::ImaLog, self.ima)];
        seen.into_iter()
            .filter_map(|(label, log)| Some((label, log?.bytes)))
            .collect()
    }
}

/// What a node in this boot need not send again: nothing of another boot, and nothing after its rights were withdrawn.
#[must_use]
pub fn offered(record: &NodeRecord, boot: Option<[u8; BOOT_ID_LEN]>, asked: &PcrSelection) -> Option<SeenLogs> {
    let seen = record.logs.filter(|_| !record.withdrawn)?;
    let quoted = asked.iter().any(|(_, register)| register == IMA_REGISTER);
    (boot == Some(seen.boot)).then_some(SeenLogs {
        ima: seen.ima.filter(|_| quoted),
        ..seen
    })
}

/// Puts the logs of evidence together, from what is stored and what came.
///
/// # Errors
/// [`RefusalCode::EvidenceUnreadable`] for offsets that were not offered; [`RefusalCode::LogsIncomplete`] where what was
/// offered does not count any more, so that the logs must come whole. Neither touches any state.
pub fn whole(
    store: &dyn Store,
    record: Option<&NodeRecord>,
    offered: Option<SeenLogs>,
    offsets: &LogBytes,
    mut evidence: Collection,
) -> Result<(Collection, Option<KnownList>), Refusal> {
    let known = offered.map(|seen| seen.known()).unwrap_or_default();
    if let Some((label, offset)) = offsets.iter().find(|(label, offset)| known.get(label) != Some(offset)) {
        let detail = format!(
            "{} from byte {offset} on: the challenge offered no such place",
            label.as_str()
        );
        return Err(Refusal::new(RefusalCode::EvidenceUnreadable, detail));
    }
    let empty = evidence
        .records()
        .find(|(label, bytes)| label.is_log() && bytes.is_empty());
    if let Some((label, _)) = empty {
        let detail = format!(
            "{} is empty: a log that has not grown has an offset and no record",
            label.as_str()
        );
        return Err(Refusal::new(RefusalCode::EvidenceUnreadable, detail));
    }
    if offsets.is_empty() {
        return Ok((evidence, None));
    }
    let (Some(record), Some(seen)) = (record, offered) else {
        return Err(incomplete("nothing has been seen of this node"));
    };
    let kept = record
        .logs
        .map(|kept| (kept.boot, kept.firmware, seen.ima.and(kept.ima)));
    if record.withdrawn || kept != Some((seen.boot, seen.firmware, seen.ima)) {
        return Err(incomplete("what was seen of the logs has changed meanwhile"));
    }
    if !is_same_boot(record, &evidence) {
        return Err(incomplete("the TPM was reset or restarted since the logs were seen"));
    }
    if let (Some(firmware), Some(_)) = (seen.firmware, offsets.get(&Label::FirmwareEventLog)) {
        let mut log = stored(store, &firmware.digest)?;
        if u64::try_from(log.len()) != Ok(firmware.bytes) {
            return Err(incomplete("the part of the firmware log that was seen is gone"));
        }
        log.extend_from_slice(evidence.get(Label::FirmwareEventLog).unwrap_or_default());
        if log.len() > label::MAX_FIRMWARE_LOG {
            let detail = format!(
                "a firmware log of {} bytes, limit {}",
                log.len(),
                label::MAX_FIRMWARE_LOG
            );
            return Err(Refusal::new(RefusalCode::EvidenceUnreadable, detail));
        }
        put(&mut evidence, Label::FirmwareEventLog, log)?;
    }
    let mut known = None;
    if let (Some(list), Some(_)) = (seen.ima, offsets.get(&Label::ImaLog)) {
        let prefix = ImaPrefix::decode(&stored(store, &list.digest)?)
            .ok()
            .filter(|prefix| prefix.bytes == list.bytes);
        let prefix = prefix.ok_or_else(|| incomplete("what was kept of the list cannot be read"))?;
        known = Some(KnownList { prefix, entries: None });
        if evidence.get(Label::ImaLog).is_none() {
            put(&mut evidence, Label::ImaLog, Vec::new())?;
        }
    }
    Ok((evidence, known))
}

/// Decides; where entries of the node's list have to be judged again, with what is kept of them, which then is an input
/// like any other.
///
/// # Errors
/// [`DecisionError`]
pub fn decide_on(
    store: &dyn Store,
    inputs: &mut DecisionInputs,
    policy: &PolicySet,
    instead: Option<&AppraisalPolicy>,
    known_vek: Option<&KnownVek>,
) -> Result<Decision, DecisionError> {
    let before = Known { vek: known_vek };
    let decision = decide_under(inputs, policy, instead, before)?;
    let missing = matches!(&decision, Decision::Decided(decided) if decided.appraised.contains(&ENTRIES_UNAVAILABLE));
    match &mut inputs.ima {
        Some(known) if missing && known.entries.is_none() => {
            let Some(entries) = entries(store, &known.prefix) else {
                return Ok(decision);
            };
            known.entries = Some(entries);
            decide_under(inputs, policy, instead, before)
        }
        _ => Ok(decision),
    }
}

/// The chunks of entries a prefix names, if every one of them is there.
fn entries(store: &dyn Store, prefix: &ImaPrefix) -> Option<Vec<Vec<u8>>> {
    let read = |digest: &[u8; 32]| {
        let chunk = parts::read(store, digest).ok()??;
        (chunk_digest(&chunk) == *digest).then_some(chunk)
    };
    prefix.seen.iter().map(read).collect()
}

/// What is to be remembered of the logs of evidence that was granted on.
#[must_use]
pub fn seen(boot: Option<[u8; BOOT_ID_LEN]>, inputs: &DecisionInputs, decided: &Decided) -> Option<SeenLogs> {
    let boot = boot?;
    let firmware = inputs.evidence.get(Label::FirmwareEventLog).and_then(|log| {
        let recorded = &decided.recorded.evidence;
        let (_, digest) = recorded.iter().find(|(label, _)| *label == Label::FirmwareEventLog)?;
        // A shorter one is in the record of inputs, not stored by digest.
        (log.len() >= PART_BYTES).then_some(SeenLog {
            digest: *digest,
            bytes: u64::try_from(log.len()).ok()?,
        })
    });
    Some(SeenLogs {
        boot,
        firmware,
        ima: decided.list.as_ref().and_then(|list| {
            (list.prefix.bytes > 0).then(|| SeenLog {
                digest: list.prefix.digest(),
                bytes: list.prefix.bytes,
            })
        }),
    })
}

/// Whether a quote counts the same resets and restarts as the one before. It is not verified here: the verifier does that,
/// and replays the logs to it.
fn is_same_boot(record: &NodeRecord, evidence: &Collection) -> bool {
    let Some(before) = record.enrolled.tpm().map(|tpm| tpm.clock) else {
        return false;
    };
    let attest = evidence
        .get(Label::TpmQuote)
        .and_then(|quote| Attest::parse(quote).ok());
    attest.is_some_and(|attest| {
        (attest.clock.reset_count, attest.clock.restart_count) == (before.reset_count, before.restart_count)
    })
}

fn stored(store: &dyn Store, digest: &[u8; 32]) -> Result<Vec<u8>, Refusal> {
    let part = parts::read(store, digest).map_err(unreadable)?;
    part.ok_or_else(|| incomplete("what was seen of the logs is gone"))
}

fn put(evidence: &mut Collection, label: Label, bytes: Vec<u8>) -> Result<(), Refusal> {
    let refused = |e: touchstone_evidence::collection::EnvelopeError| {
        Refusal::new(RefusalCode::EvidenceUnreadable, e.to_string())
    };
    evidence.put_log(label, bytes).map_err(refused)
}

/// The logs must come whole.
pub(crate) fn incomplete(why: &str) -> Refusal {
    Refusal::new(
        RefusalCode::LogsIncomplete,
        format!("{why}: say hello again and send the logs whole"),
    )
}

#[cfg(test)]
pub(crate) mod tests;
