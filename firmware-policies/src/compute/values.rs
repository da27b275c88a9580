//! Register values and reference events out of computed events.

use std::collections::BTreeMap;

use touchstone_artefacts::event::{ComputedEvent, to_event_log};
use touchstone_verifier::corim::{BankValues, ReferenceEvent};
use touchstone_verifier::eventlog::identity::{Measured, needs_data};
use touchstone_verifier::eventlog::{EventLog, RegisterValue};
use touchstone_verifier::tpm::HashAlg;

use super::refused;
use crate::error::{PolicyCode, PolicyError};

/// Computed events as those of a reference: read from the log they would make, as a golden machine's are.
pub(super) fn reference_events(bank: HashAlg, events: &[ComputedEvent]) -> Result<Vec<ReferenceEvent>, PolicyError> {
    let log = to_event_log(&[bank], &events_in(bank, events)).map_err(|e| refused("computed events", &e))?;
    let unreadable = |e| PolicyError::new(PolicyCode::ArtefactRefused, "computed events", "an event log", e);
    let log = EventLog::parse(&log).map_err(unreadable)?;
    let extended = log.events().iter().filter(|event| event.is_extended());
    let events = extended.filter_map(|event| {
        let pcr = u8::try_from(event.pcr).ok()?;
        let measured = Measured::of(event, bank)?;
        Some(ReferenceEvent {
            pcr,
            event_type: event.event_type,
            digest: measured.digest.to_vec(),
            description: event.describe(),
            data: needs_data(bank, &measured).then(|| event.data.to_vec()),
        })
    });
    Ok(events.collect())
}

/// The events with the digests of one bank only.
fn events_in(bank: HashAlg, events: &[ComputedEvent]) -> Vec<ComputedEvent> {
    let mut events = events.to_vec();
    for event in &mut events {
        event.digests.retain(|(own, _)| *own == bank);
    }
    events
}

/// The value of a register that begins at zero, after these events.
pub(super) fn register_value<'a>(bank: HashAlg, events: impl IntoIterator<Item = &'a ReferenceEvent>) -> Vec<u8> {
    let mut value = RegisterValue::zero(bank);
    for event in events {
        value.extend(bank, &event.digest);
    }
    value.as_bytes().to_vec()
}

/// Puts `events` in the place of a register's events, and the value that follows from them where there was one (or the
/// register had nothing).
pub(super) fn set_register(bank: HashAlg, values: &mut BankValues, pcr: u8, events: Vec<ReferenceEvent>) {
    let had_events = values.events.iter().any(|event| event.pcr == pcr);
    let place = values.events.iter().position(|event| event.pcr == pcr);
    let value = register_value(bank, &events);
    if values.registers.contains_key(&pcr) || !had_events {
        values.registers.insert(pcr, value);
    }
    values.events.retain(|event| event.pcr != pcr);
    let place = place.unwrap_or(values.events.len());
    values.events.splice(place..place, events);
}

/// That a register's value follows from its events: only then may they be changed.
pub(super) fn check_explained(bank: HashAlg, values: &BankValues, pcr: u8) -> Result<(), PolicyError> {
    let value = register_value(bank, values.events_of(pcr));
    match values.registers.get(&pcr) {
        Some(stated) if *stated != value => Err(PolicyError::new(
            PolicyCode::BaseUnsuitable,
            format!("register {pcr} of {bank}"),
            "a value that follows from the base's events (make the base from evidence with an event log)",
            hex::encode(stated),
        )),
        _ => Ok(()),
    }
}

/// The events of each register, in order.
pub(super) fn by_register(events: Vec<ReferenceEvent>) -> BTreeMap<u8, Vec<ReferenceEvent>> {
    let mut registers: BTreeMap<u8, Vec<ReferenceEvent>> = BTreeMap::new();
    for event in events {
        registers.entry(event.pcr).or_default().push(event);
    }
    registers
}
