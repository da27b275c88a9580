//! An authorization that is presented with a proof, to ask for something that the broker records: a key, an authorization below
//! it, one that counts in another domain. Judged, told apart from nobody, recorded and answered in one way. Pure: everything
//! it rests on is an argument (`docs/protocol.md`, sections 6 and 9).

use std::sync::Arc;

use touchstone_authorization::{
    Asked, ChannelPolicy, DomainState, Enforcer, KeyRing, KeyRingError, ListError, OfflineLimits, Presented, Request,
    RequestChannel, RevokedIds, Status, StatusArray, StatusIndex, StatusLists, TrustedKey, UntrustedAuthorization,
    VerifiedAuthorization, ask,
};
use touchstone_cose::cbor::{self, MapReader, ShapeError, Value};
use touchstone_evidence::message::{WireReason, release_nonce};
use touchstone_ledger::statement::Reason;
use touchstone_policies::{Job, PolicySet};

use crate::clock::seconds;
use crate::decision::{DecisionError, SEMANTICS_ID, check};
use crate::statements::Circumstances;

const CONTEXT: &str = "recorded inputs";
const MAX_TEXT: usize = 255;

/// What is presented, and what for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a> {
    /// The authorization. No off-line links: those have no entry of their own that could be found again.
    pub(crate) authorization: &'a [u8],
    /// The proof of possession.
    pub(crate) proof: &'a [u8],
    /// Whom the proof must be made for.
    pub(crate) audience: &'a str,
    /// The right that must be held.
    pub(crate) action: &'a str,
    /// On what.
    pub(crate) resource: &'a str,
    /// The exporter of the connection, for this authorization.
    pub(crate) exporter: &'a [u8; 32],
}

/// Where it is to count, and for what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Here {
    /// The region; none for what is narrowed to none.
    pub(crate) region: Option<String>,
    /// The purpose; none for what is narrowed to none.
    pub(crate) purpose: Option<String>,
}

/// Judges what was presented, on the state of the domain. `here` may look at whose authorization it is, where that is one:
/// its signature is verified once, for both.
///
/// # Errors
/// [`KeyRingError`] for a keyset that is none.
pub(crate) fn judge(
    shown: &Shown<'_>,
    policy: &PolicySet,
    state: &DomainState<'_>,
    now_ms: u64,
    here: impl FnOnce(Option<&VerifiedAuthorization>) -> Here,
) -> Result<Asked, KeyRingError> {
    let keys = ring(policy)?;
    let token = UntrustedAuthorization::parse(shown.authorization).and_then(|token| token.verify(&keys, now_ms));
    let here = here(token.as_ref().ok());
    let enforcer = Enforcer {
        id: shown.audience,
        domain: &policy.domain,
        keys: &keys,
        skew_ms: policy.settings.timers.skew_ms,
        window_ms: policy.settings.timers.freshness_window_ms,
        requires_channel: ChannelPolicy::ExporterOrChallenge,
        region: here.region.as_deref(),
        purpose: here.purpose.as_deref(),
        offline: OfflineLimits::NONE,
    };
    let request = Request {
        authorization: match token {
            Ok(token) => Presented::Verified(Arc::new(token.into())),
            // Why not is said where it is judged.
            Err(_) => Presented::Bytes(shown.authorization),
        },
        proof: shown.proof,
        action: shown.action,
        resource: shown.resource,
        request_digest: None,
        channel: RequestChannel::Exporter(shown.exporter),
    };
    Ok(ask(&request, state, &enforcer, now_ms))
}

/// The keys that sign authorizations of the domain.
///
/// # Errors
/// [`KeyRingError`] for a keyset that is none.
pub(crate) fn ring(policy: &PolicySet) -> Result<KeyRing, KeyRingError> {
    let of_job = policy
        .keyset
        .keys
        .iter()
        .filter(|entry| entry.job == Job::Authorization);
    KeyRing::new(of_job.map(|entry| TrustedKey {
        key: entry.key.clone(),
        not_before: entry.not_before,
        not_after: entry.not_after,
    }))
}

/// Who asks, where that is known, and the nonce the request uses up.
#[must_use]
pub(crate) fn known(asked: &Asked) -> Option<(&VerifiedAuthorization, [u8; 32])> {
    let (subject, proof) = (asked.subject()?, asked.proof.as_ref()?);
    let nonce = release_nonce(subject.confirmation_thumbprint(), &proof.claims().cti);
    Some((subject, nonce))
}

/// Why it is not known who asks, as codes.
#[must_use]
pub(crate) fn unknown(asked: &Asked) -> Vec<String> {
    let codes = asked.refusals.iter();
    codes.map(|refusal| refusal.code.as_str().to_owned()).collect()
}

/// What speaks against what was presented.
#[must_use]
pub(crate) fn against(asked: &Asked) -> Vec<Reason> {
    let refusals = asked.refusals.iter();
    refusals
        .map(|refusal| {
            reason(
                refusal.code.as_str(),
                "authorization",
                &refusal.expected,
                &refusal.found,
            )
        })
        .collect()
}

/// What the end of a region's own signatures speaks against: nothing of it counts afterwards. `now` is Unix seconds.
#[must_use]
pub(crate) fn region_over(policy: &PolicySet, region: &str, now: i64) -> Vec<Reason> {
    let Err(error) = policy.check_region_live(region, now) else {
        return Vec::new();
    };
    let problems = error.into_problems().into_iter();
    problems
        .map(|problem| reason(problem.code.as_str(), &problem.claim, &problem.expected, &problem.found))
        .collect()
}

/// A reason.
#[must_use]
pub(crate) fn reason(code: &str, claim: &str, expected: &str, found: &str) -> Reason {
    Reason {
        code: code.into(),
        claim: claim.into(),
        expected: expected.into(),
        found: found.into(),
    }
}

/// Reasons as they are answered: as many as the statement names.
#[must_use]
pub(crate) fn wire(reasons: &[Reason]) -> Vec<WireReason> {
    let reasons = Reason::bounded(reasons.to_vec()).into_iter();
    reasons
        .map(|reason| WireReason {
            code: reason.code,
            claim: reason.claim,
            expected: reason.expected,
            found: reason.found,
        })
        .collect()
}

/// What was known of the domain, and of the authorization that was presented, as a request came: members 1 to 7 of every
/// record of inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Which rules decide.
    pub semantics: String,
    /// Digest of the policy.
    pub policy_digest: [u8; 32],
    /// The clock value, Unix milliseconds.
    pub now_ms: u64,
    /// Generation of the domain.
    pub generation: u32,
    /// Epoch of the trust state.
    pub epoch: u64,
    /// The status entry of the authorization, where its list is there.
    pub status: Option<StatusSeen>,
    /// The exporter of the connection, for this authorization.
    pub exporter: [u8; 32],
}

impl Setting {
    /// The same under the rules of this release and another policy.
    #[must_use]
    pub fn under(&self, policy: &PolicySet) -> Self {
        Self {
            semantics: SEMANTICS_ID.to_owned(),
            policy_digest: policy.digest,
            ..self.clone()
        }
    }

    /// The clock value, Unix seconds.
    #[must_use]
    pub fn now(&self) -> i64 {
        seconds(self.now_ms)
    }

    /// Whether it is decided under these rules and this policy: under no others.
    pub(crate) fn check(&self, policy: &PolicySet) -> Result<(), DecisionError> {
        check(&self.semantics, self.policy_digest, policy)
    }

    /// The state of the domain; `lists` are [`StatusSeen::lists`] of what was seen.
    pub(crate) fn state<'l>(&self, policy: &PolicySet, lists: &'l StatusLists) -> DomainState<'l> {
        DomainState {
            generation: self.generation,
            epoch: self.epoch,
            policy_version: policy.version,
            lists,
            revoked: RevokedIds::none(),
        }
    }

    /// What statements say of the circumstances.
    pub(crate) fn circumstances(&self, policy: &PolicySet) -> Circumstances {
        Circumstances::of(policy, &self.semantics, self.now())
    }

    /// The first members of a record of this format.
    pub(crate) fn members(&self, format: &str) -> [(i64, Value); 8] {
        [
            (0, Value::text(format)),
            (1, Value::text(self.semantics.as_str())),
            (2, Value::bytes(self.policy_digest)),
            (3, Value::Unsigned(self.now_ms)),
            (4, Value::Unsigned(self.generation.into())),
            (5, Value::Unsigned(self.epoch)),
            (6, StatusSeen::value(self.status.as_ref())),
            (7, Value::bytes(self.exporter)),
        ]
    }

    /// Reads what [`Setting::members`] made.
    ///
    /// # Errors
    /// [`ShapeError`]
    pub(crate) fn read(reader: &mut MapReader, format: &'static str) -> Result<Self, ShapeError> {
        let found = reader.text(0, MAX_TEXT)?;
        if found != format {
            return Err(ShapeError::member(CONTEXT, "key 0", format, found));
        }
        let generation = reader.u64(4)?;
        Ok(Self {
            semantics: reader.text(1, MAX_TEXT)?,
            policy_digest: reader.fixed(2)?,
            now_ms: reader.u64(3)?,
            generation: u32::try_from(generation)
                .map_err(|_| ShapeError::member(CONTEXT, "key 4", "a generation", generation.to_string()))?,
            epoch: reader.u64(5)?,
            status: StatusSeen::read(&reader.required(6)?)?,
            exporter: reader.fixed(7)?,
        })
    }
}

/// Whether a record of inputs says that it is of this format.
#[must_use]
pub(crate) fn is_of(record: &[u8], format: &str) -> bool {
    // The head of the map, and its first key.
    let format = cbor::encode(&Value::text(format));
    record.get(2..).is_some_and(|rest| rest.starts_with(&format))
}

/// One entry of a status list, as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusSeen {
    /// Which: list and index.
    pub entry: (u16, u32),
    /// Digest of that list, the one of the signed trust state of that epoch.
    pub digest: [u8; 32],
    /// How many entries it has.
    pub entries: u32,
    /// What it says; nothing beyond its end.
    pub status: Option<Status>,
}

impl StatusSeen {
    /// The entry of `place` in `lists`.
    #[must_use]
    pub fn of(lists: &StatusLists, place: &StatusIndex) -> Option<Self> {
        let list = lists.get(place.list)?;
        Some(Self {
            entry: (place.list, place.index),
            digest: list.digest(),
            entries: list.entries(),
            status: list.status(place.index),
        })
    }

    /// Lists that say this of that entry; no list where nothing was seen.
    ///
    /// # Errors
    /// [`ListError`]: there is no such list.
    pub(crate) fn lists(seen: Option<&Self>) -> Result<StatusLists, ListError> {
        let Some(seen) = seen else {
            return Ok(StatusLists::default());
        };
        let (list, index) = seen.entry;
        let array = StatusArray::new(seen.entries)?.with(seen.status.map(|status| (index, status)))?;
        StatusLists::new([(list, array)])
    }

    /// As CBOR: [list, index, digest, entries, status or null]; null where nothing was seen.
    pub(crate) fn value(seen: Option<&Self>) -> Value {
        let Some(seen) = seen else { return Value::Null };
        let (list, index) = seen.entry;
        Value::array([
            Value::Unsigned(list.into()),
            Value::Unsigned(index.into()),
            Value::bytes(seen.digest),
            Value::Unsigned(seen.entries.into()),
            seen.status.map_or(Value::Null, |status| Value::Unsigned(status as u64)),
        ])
    }

    /// Reads what [`StatusSeen::value`] made.
    ///
    /// # Errors
    /// [`ShapeError`]
    pub(crate) fn read(value: &Value) -> Result<Option<Self>, ShapeError> {
        if value.is_null() {
            return Ok(None);
        }
        let seen = Self::read_some(value);
        seen.map(Some)
            .ok_or_else(|| ShapeError::whole("a status entry", "[list, index, digest, entries, status]", value))
    }

    fn read_some(value: &Value) -> Option<Self> {
        let [list, index, digest, entries, status] = value.as_array()? else {
            return None;
        };
        let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let seen = Self {
            entry: (u16::try_from(list.as_u64()?).ok()?, number(index)?),
            digest: digest.as_bytes()?.try_into().ok()?,
            entries: number(entries)?,
            status: match status {
                Value::Null => None,
                value => Some(
                    [Status::Valid, Status::Invalid, Status::Suspended, Status::Reserved]
                        .into_iter()
                        .find(|status| value.as_u64() == Some(*status as u64))?,
                ),
            },
        };
        // A list says something of every entry it has, and of no other.
        (seen.status.is_some() == (seen.entry.1 < seen.entries)).then_some(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(index: u32, status: Option<Status>) -> StatusSeen {
        StatusSeen {
            entry: (2, index),
            digest: [7; 32],
            entries: 16,
            status,
        }
    }

    /// Three kinds of records begin so: what they say of the moment is read in one place.
    #[test]
    fn a_setting_comes_back_as_written_and_every_other_shape_is_refused() {
        const FORMAT: &str = "test-inputs/1";
        let setting = Setting {
            semantics: SEMANTICS_ID.to_owned(),
            policy_digest: [1; 32],
            now_ms: 1_234,
            generation: 2,
            epoch: 3,
            status: Some(seen(9, Some(Status::Suspended))),
            exporter: [4; 32],
        };
        let read = |members: Vec<(i64, Value)>| {
            let mut reader = MapReader::new(Value::map(members), CONTEXT)?;
            let setting = Setting::read(&mut reader, FORMAT)?;
            reader.finish()?;
            Ok::<_, ShapeError>(setting)
        };
        let good = setting.members(FORMAT).to_vec();
        assert_eq!(read(good.clone()), Ok(setting.clone()));
        let record = cbor::encode(&Value::map(good.clone()));
        assert!(is_of(&record, FORMAT) && !is_of(&record, "test-inputs/2") && !is_of(&record[..4], FORMAT));
        for (at, other) in [
            (0, Value::text("test-inputs/2")),
            (1, Value::bytes([1])),
            (2, Value::bytes([1; 31])),
            (3, Value::text("now")),
            (4, Value::Unsigned(1 << 32)),
            (5, Value::Null),
            (6, Value::Bool(true)),
            (7, Value::Null),
        ] {
            let mut bad = good.clone();
            bad[at].1 = other;
            assert!(read(bad).is_err(), "member {at}");
            let mut without = good.clone();
            without.remove(at);
            assert!(read(without).is_err(), "without member {at}");
        }
        let unseen = Setting {
            status: None,
            ..setting
        };
        assert_eq!(read(unseen.members(FORMAT).to_vec()), Ok(unseen));
    }

    #[test]
    fn what_a_list_says_comes_back_as_written_and_says_the_same_again() {
        for status in [Status::Valid, Status::Invalid, Status::Suspended, Status::Reserved] {
            let seen = seen(9, Some(status));
            assert_eq!(StatusSeen::read(&StatusSeen::value(Some(&seen))), Ok(Some(seen)));
            let lists = StatusSeen::lists(Some(&seen)).unwrap();
            assert_eq!(lists.get(2).unwrap().status(9), Some(status));
        }
        let beyond = seen(16, None);
        assert_eq!(StatusSeen::read(&StatusSeen::value(Some(&beyond))), Ok(Some(beyond)));
        assert_eq!(StatusSeen::read(&StatusSeen::value(None)), Ok(None));
        assert_eq!(StatusSeen::lists(None).unwrap(), StatusLists::default());
    }

    #[test]
    fn what_no_list_says_is_not_read() {
        for (attack, value) in [
            (
                "nothing of an entry that it has",
                StatusSeen::value(Some(&seen(9, None))),
            ),
            (
                "something of one beyond its end",
                StatusSeen::value(Some(&seen(16, Some(Status::Valid)))),
            ),
            ("a list that is none", Value::array([Value::Unsigned(1 << 16)])),
            ("no list at all", Value::Bool(false)),
        ] {
            assert!(StatusSeen::read(&value).is_err(), "{attack}");
        }
        let Value::Array(good) = StatusSeen::value(Some(&seen(9, Some(Status::Valid)))) else {
            panic!("no array");
        };
        for (at, other) in [
            (0, Value::Unsigned(1 << 16)),
            (1, Value::Unsigned(1 << 32)),
            (2, Value::bytes([7; 31])),
            (3, Value::text("16")),
            (4, Value::Unsigned(99)),
        ] {
            let mut bad = good.clone();
            bad[at] = other;
            assert!(StatusSeen::read(&Value::Array(bad)).is_err(), "member {at}");
        }
        assert!(StatusSeen::read(&Value::Array(good[..4].to_vec())).is_err());
    }
}
