//! What a TDX guest must be: reference values of its launch and of its registers.

use super::code::TdxCode;
use super::measured::{BANK, RTMRS, RtmrReplay, as_tpm_event};
use super::quote::{MEASUREMENT, Quote};
use crate::corim::{BankValues, Endorses, MAX_EVENT_REFERENCE_DATA, ReferenceEvent};
use crate::eventlog::Event;
use crate::eventlog::identity::{Measured, RegisterIdentity, Token, needs_data, register_identity, tokens};
use crate::reason::{Hint, Reason};

/// Reference values of one guest. Values of two are never mixed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TdxReference {
    /// MRTD: what was launched.
    pub mrtd: [u8; MEASUREMENT],
    /// What a report of this guest's hardware may vouch for.
    pub endorses: Endorses,
    /// MRSEAM: this very TDX module; none where every module that Intel accepts will do.
    pub mr_seam: Option<[u8; MEASUREMENT]>,
    /// MRCONFIGID.
    pub mr_config_id: [u8; MEASUREMENT],
    /// MROWNER.
    pub mr_owner: [u8; MEASUREMENT],
    /// MROWNERCONFIG.
    pub mr_owner_config: [u8; MEASUREMENT],
    /// TDATTRIBUTES.
    pub attributes: u64,
    /// XFAM.
    pub xfam: u64,
    /// Least TEE_TCB_SVN, component by component.
    pub least_tee_tcb_svn: [u8; 16],
    /// Values of the run-time measurement registers 0 to 3 and the events that led to them, in SHA-384.
    pub rtmrs: BankValues,
}

/// An event of a reference, with the register it belongs to (0 to 3).
pub type RtmrEvent = ReferenceEvent;

/// How a register compares with a reference's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Likeness {
    Same,
    Other,
}

impl TdxReference {
    /// What a golden guest shows: every register, and the events where a log leads to them. The module's own measurement
    /// is left out: Intel's collateral judges modules.
    pub fn of(quote: &Quote<'_>, replay: Option<&RtmrReplay<'_>>) -> Self {
        let registers = (0..RTMRS)
            .filter_map(|rtmr| Some((rtmr, quote.rtmr(rtmr)?.to_vec())))
            .collect();
        let events = replay.map(events_of).unwrap_or_default();
        Self {
            mrtd: *quote.mrtd(),
            endorses: Endorses::None,
            mr_seam: None,
            mr_config_id: *quote.mr_config_id(),
            mr_owner: *quote.mr_owner(),
            mr_owner_config: *quote.mr_owner_config(),
            attributes: quote.attributes().0,
            xfam: quote.xfam(),
            least_tee_tcb_svn: *quote.tee_tcb_svn(),
            rtmrs: BankValues { registers, events },
        }
    }

    /// Whether `quote` matches in everything, `registers` included; see [`differences`](Self::differences).
    pub fn matches<'r>(
        &self,
        quote: &Quote<'_>,
        registers: impl IntoIterator<Item = &'r u8>,
        replay: Option<&RtmrReplay<'_>>,
    ) -> bool {
        let now = quote.tee_tcb_svn_now();
        self.mrtd == *quote.mrtd()
            && self.mr_config_id == *quote.mr_config_id()
            && self.mr_owner == *quote.mr_owner()
            && self.mr_owner_config == *quote.mr_owner_config()
            && self.mr_seam.is_none_or(|module| module == *quote.mr_seam())
            && self.attributes == quote.attributes().0
            && self.xfam == quote.xfam()
            && self.below(quote.tee_tcb_svn()).is_empty()
            && now.is_none_or(|svn| self.below(svn).is_empty())
            && registers
                .into_iter()
                .all(|rtmr| self.likeness(quote, *rtmr, replay) == Likeness::Same)
    }

    /// Everything in which `quote` differs from this reference, `registers` of it included; empty where it matches. A
    /// register matches by its value, or, where the log replays to it, by the identity of its events. `name` is the
    /// reference's, for the words.
    pub fn differences(
        &self,
        name: &str,
        quote: &Quote<'_>,
        registers: impl IntoIterator<Item = u8>,
        replay: Option<&RtmrReplay<'_>>,
    ) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let hint = || Hint {
            nearest: Some(name.to_owned()),
            ..Hint::default()
        };
        let mut differ = |code, claim: &str, expected: String, found: String| {
            let expected = format!("{expected} (reference {name})");
            reasons.push(Reason::new(code, claim, expected, found).with_hint(hint()));
        };
        for (claim, wanted, found) in [
            ("MRTD", &self.mrtd, quote.mrtd()),
            ("MRCONFIGID", &self.mr_config_id, quote.mr_config_id()),
            ("MROWNER", &self.mr_owner, quote.mr_owner()),
            ("MROWNERCONFIG", &self.mr_owner_config, quote.mr_owner_config()),
            (
                "MRSEAM",
                self.mr_seam.as_ref().unwrap_or(quote.mr_seam()),
                quote.mr_seam(),
            ),
        ] {
            if wanted != found {
                differ(TdxCode::Measurement, claim, hex::encode(wanted), hex::encode(found));
            }
        }
        for (claim, wanted, found) in [
            ("TDATTRIBUTES", self.attributes, quote.attributes().0),
            ("XFAM", self.xfam, quote.xfam()),
        ] {
            if wanted != found {
                differ(
                    TdxCode::Measurement,
                    claim,
                    format!("{wanted:#018x}"),
                    format!("{found:#018x}"),
                );
            }
        }
        for (which, svn) in [
            ("TEE_TCB_SVN", Some(quote.tee_tcb_svn())),
            ("TEE_TCB_SVN2", quote.tee_tcb_svn_now()),
        ] {
            for (component, wanted, found) in svn.into_iter().flat_map(|svn| self.below(svn)) {
                let claim = format!("{which}[{component}]");
                differ(
                    TdxCode::TcbBelowFloor,
                    &claim,
                    format!("at least {wanted}"),
                    found.to_string(),
                );
            }
        }
        for rtmr in registers {
            if self.likeness(quote, rtmr, replay) == Likeness::Other {
                reasons.push(self.register_difference(name, quote, rtmr, replay));
            }
        }
        reasons
    }

    /// Components below the floor: index, least, found. The module's minor version ([0]) counts within its version ([1]):
    /// a later module begins anew.
    fn below(&self, svn: &[u8; 16]) -> Vec<(usize, u8, u8)> {
        let floor = &self.least_tee_tcb_svn;
        let later_module = svn.get(1) > floor.get(1);
        floor
            .iter()
            .zip(svn)
            .enumerate()
            .filter(|(component, (least, found))| found < least && !(*component == 0 && later_module))
            .map(|(component, (least, found))| (component, *least, *found))
            .collect()
    }

    fn likeness(&self, quote: &Quote<'_>, rtmr: u8, replay: Option<&RtmrReplay<'_>>) -> Likeness {
        let quoted = quote.rtmr(rtmr).map(<[u8; MEASUREMENT]>::as_slice);
        if quoted.is_some() && self.rtmrs.registers.get(&rtmr).map(Vec::as_slice) == quoted {
            return Likeness::Same;
        }
        let Some(found) = replay.and_then(|replay| replay.identity_of(rtmr)) else {
            return Likeness::Other;
        };
        if self.rtmrs.events_of(rtmr).next().is_none() {
            return Likeness::Other;
        }
        let wanted = self.identity(rtmr);
        match found.digest == wanted.digest && found.no_older_than(&wanted).is_ok() {
            true => Likeness::Same,
            false => Likeness::Other,
        }
    }

    fn identity(&self, rtmr: u8) -> RegisterIdentity<'_> {
        register_identity(BANK, self.rtmrs.events_of(rtmr).map(kept))
    }

    /// The first event of a register that differs, or its value where events do not tell.
    fn register_difference(&self, name: &str, quote: &Quote<'_>, rtmr: u8, replay: Option<&RtmrReplay<'_>>) -> Reason {
        let claim = format!("RTMR{rtmr}");
        let mut hint = Hint {
            register: Some(rtmr),
            nearest: Some(name.to_owned()),
            ..Hint::default()
        };
        let found: Vec<&Event<'_>> = replay
            .and_then(|replay| replay.events_of(rtmr))
            .into_iter()
            .flatten()
            .collect();
        let wanted: Vec<&ReferenceEvent> = self.rtmrs.events_of(rtmr).collect();
        if !found.is_empty() && !wanted.is_empty() {
            let have = tokens(BANK, found.iter().filter_map(|event| measured(rtmr, event)));
            let want = tokens(BANK, wanted.iter().map(|event| kept(event)));
            let software = |tokens: &[Token<'_>]| -> Vec<usize> {
                let machine = |position: &usize| tokens.get(*position) == Some(&Token::Machine);
                (0..tokens.len()).filter(|position| !machine(position)).collect()
            };
            let (have_at, want_at) = (software(&have), software(&want));
            let longest = have_at.len().max(want_at.len());
            let differing = (0..longest).find(|position| {
                let of = |at: &[usize]| at.get(*position).copied();
                match (
                    of(&want_at).and_then(|at| want.get(at)),
                    of(&have_at).and_then(|at| have.get(at)),
                ) {
                    (Some(Token::NoOlder(want)), Some(Token::NoOlder(have))) => have.no_older_than(want).is_err(),
                    (want, have) => want != have,
                }
            });
            if let Some(position) = differing {
                let want = want_at.get(position).and_then(|at| wanted.get(*at));
                let have = have_at.get(position).and_then(|at| found.get(*at));
                let none = || "no further event".to_owned();
                let expected = want.map_or_else(none, |event| format!("{} {}", event.event_type, event.description));
                let present = have.map_or_else(none, |event| format!("{} {}", event.event_type, event.describe()));
                hint.event = have.map(|event| event.index);
                let expected = format!("{expected} (reference {name})");
                return Reason::new(TdxCode::Rtmr, claim, expected, present).with_hint(hint);
            }
        }
        let wanted = self
            .rtmrs
            .registers
            .get(&rtmr)
            .map_or("a value".to_owned(), hex::encode);
        let value = hex::encode(quote.rtmr(rtmr).map_or(&[][..], <[u8; MEASUREMENT]>::as_slice));
        Reason::new(TdxCode::Rtmr, claim, format!("{wanted} (reference {name})"), value).with_hint(hint)
    }
}

fn measured<'e>(rtmr: u8, event: &Event<'e>) -> Option<Measured<'e>> {
    Some(as_tpm_event(rtmr, event.event_type, event.digest(BANK)?, event.data))
}

fn kept(event: &ReferenceEvent) -> Measured<'_> {
    let data = event.data.as_deref().unwrap_or_default();
    as_tpm_event(event.pcr, event.event_type, &event.digest, data)
}

/// The events of every register that a log leads to, with the data that the comparison needs.
fn events_of(replay: &RtmrReplay<'_>) -> Vec<ReferenceEvent> {
    let mut events = Vec::new();
    for rtmr in 0..RTMRS {
        for event in replay.events_of(rtmr).into_iter().flatten() {
            let Some(measured) = measured(rtmr, event) else {
                continue;
            };
            let data = Some(event.data)
                .filter(|data| needs_data(BANK, &measured) && data.len() <= MAX_EVENT_REFERENCE_DATA)
                .map(<[u8]>::to_vec);
            events.push(ReferenceEvent {
                pcr: rtmr,
                event_type: event.event_type,
                digest: measured.digest.to_vec(),
                description: event.describe(),
                data,
            });
        }
    }
    events
}
