//! `touchstone evidence show`: the boot as a story, truthful about what a digest proves and what is only said.

use serde_json::{Value, json};
use touchstone_evidence::collection::{Collection, Label, Profile};
use touchstone_evidence::pcr_values;
use touchstone_verifier::eventlog::{BootStory, Chapter, EventLog, Vouched};
use touchstone_verifier::tpm::HashAlg;

use super::gpu::ToldGpus;
use super::ima::ToldList;
use super::quote::Quote;
use super::snp::ToldReport;
use super::tdx::Told;
use crate::output::{self, CommandResult, Outcome, say};

/// Prints what is in the envelope.
pub(super) fn run(bytes: &[u8], as_json: bool) -> CommandResult {
    let collection = Collection::decode(bytes)?;
    let shown = Shown::of(&collection);
    if as_json {
        output::json(&shown.document);
        return Ok(Outcome::Done);
    }
    let binding = match collection.profile() {
        Profile::Bound => "bound to a session",
        Profile::Unbound => "unbound: raw nonce",
    };
    say!("Evidence ({binding}), {} bytes", bytes.len());
    for (label, record) in collection.records() {
        say!("    {:<34} {:>7} bytes", label.as_str(), record.len());
    }
    for section in &shown.sections {
        say!("");
        say!("{}", section.title);
        for line in &section.lines {
            say!("{line}");
        }
    }
    Ok(Outcome::Done)
}

/// A titled part of what is printed.
struct Section {
    title: String,
    lines: Vec<String>,
}

impl Section {
    fn new(title: impl Into<String>, lines: impl IntoIterator<Item = String>) -> Self {
        Self {
            title: title.into(),
            lines: lines.into_iter().map(|line| format!("    {line}")).collect(),
        }
    }

    fn of_chapter(chapter: &Chapter) -> Self {
        Self {
            title: chapter.title.to_owned(),
            lines: chapter
                .lines
                .iter()
                .map(|line| format!("  {} {}", line.standing.mark(), line.text))
                .collect(),
        }
    }
}

/// What is in an envelope, unverified: for people who want to see, never for a decision.
struct Shown {
    sections: Vec<Section>,
    document: Value,
}

impl Shown {
    fn of(collection: &Collection) -> Self {
        let mut quote = Quote::read(collection);
        let bytes = collection.get(Label::FirmwareEventLog);
        let parsed = bytes.map(EventLog::parse);
        let told = match &parsed {
            Some(Ok(log)) => Some(ToldLog::of(log, &mut quote)),
            Some(Err(_)) | None => None,
        };
        let list_registers: Vec<(HashAlg, Vec<u8>)> = quote.ima_registers();
        let list_registers: Vec<(HashAlg, &[u8])> = list_registers
            .iter()
            .map(|(bank, value)| (*bank, value.as_slice()))
            .collect();
        let mut sections = Vec::new();
        let report = ToldReport::of(collection);
        // Without a TPM there is nothing to tell of one.
        let gpus = ToldGpus::of(collection);
        let others = [("tdx", Told::quote(collection)), ("azure", Told::azure(collection))];
        let guest = report.is_some() || gpus.is_some() || others.iter().any(|(_, told)| told.is_some());
        let tpm = !guest || collection.get(Label::TpmQuote).is_some();
        if tpm {
            sections.push(Section::new("Machine and TPM", quote.lines));
        }
        if let Some(report) = &report {
            sections.push(Section::new("Confidential VM", report.lines.iter().cloned()));
        }
        for (_, told) in &others {
            sections.extend(
                told.iter()
                    .map(|told| Section::new("Confidential VM", told.lines.iter().cloned())),
            );
        }
        if let Some(gpus) = &gpus {
            sections.push(Section::new("GPUs", gpus.lines.iter().cloned()));
        }
        let mut document = json!({
            "profile": collection.profile().uri(),
            "records": collection.records().map(|(label, bytes)| json!({
                "label": label.as_str(), "media_type": label.media_type(), "bytes": bytes.len(),
            })).collect::<Vec<_>>(),
            "quote": quote.json,
            "registers": registers(collection),
        });
        if let (Some(report), Some(object)) = (report, document.as_object_mut()) {
            object.insert("snp".into(), report.json);
        }
        if let (Some(gpus), Some(object)) = (gpus, document.as_object_mut()) {
            object.insert("gpus".into(), gpus.json);
        }
        for (name, told) in others {
            if let (Some(told), Some(object)) = (told, document.as_object_mut()) {
                object.insert(name.into(), told.json);
            }
        }
        let log = match (&parsed, told) {
            (Some(Ok(log)), Some(told)) => {
                sections.push(Section::new("Event log", told.remarks(log)));
                sections.extend(told.chapters.iter().map(Section::of_chapter));
                if let Some(object) = document.as_object_mut() {
                    object.insert("story".into(), told.story_json());
                    object.insert("events".into(), told.events_json(log));
                }
                told.log_json(log)
            }
            (Some(Err(error)), _) => {
                let line = format!("the event log cannot be read: {error}");
                sections.push(Section::new("Event log", [line]));
                json!({ "error": error.to_string() })
            }
            _ if !tpm => Value::Null,
            _ => {
                sections.push(Section::new(
                    "Event log",
                    ["none: the registers are all that is known of the boot".to_owned()],
                ));
                Value::Null
            }
        };
        if let Some(object) = document.as_object_mut() {
            object.insert("event_log".into(), log);
        }
        if let Some(list) = collection.get(Label::ImaLog) {
            let told = ToldList::of(list, &list_registers);
            sections.push(Section::new("What ran since (IMA)", told.lines));
            if let Some(object) = document.as_object_mut() {
                object.insert("ima".into(), told.json);
            }
        }
        Self { sections, document }
    }
}

/// `{"sha256": {"0": "…"}}`.
fn registers(collection: &Collection) -> Value {
    let values = collection.get(Label::TpmPcrValues).map(pcr_values::decode);
    let mut banks = serde_json::Map::new();
    for ((bank, register), value) in values.and_then(Result::ok).unwrap_or_default() {
        let bank = HashAlg::from_tpm(bank).map_or_else(|| format!("{bank:#06x}"), |bank| bank.name().to_owned());
        if let Some(bank) = banks.entry(bank).or_insert_with(|| json!({})).as_object_mut() {
            bank.insert(register.to_string(), hex::encode(value).into());
        }
    }
    banks.into()
}

/// A log that could be read, told.
struct ToldLog<'a> {
    story: BootStory<'a>,
    chapters: Vec<Chapter>,
    by_quote: bool,
}

impl<'a> ToldLog<'a> {
    fn of(log: &EventLog<'a>, quote: &mut Quote) -> Self {
        let vouched = quote.vouches(log);
        let by_quote = vouched.is_some();
        let (bank, vouched) = vouched.unwrap_or_else(|| (strongest_bank(log), Vouched::WHOLE_LOG));
        let story = BootStory::tell(log, bank, vouched);
        Self {
            chapters: story.chapters(),
            story,
            by_quote,
        }
    }

    fn remarks(&self, log: &EventLog<'_>) -> Vec<String> {
        let banks: Vec<String> = log
            .header()
            .algorithms()
            .map(|(id, _)| HashAlg::from_tpm(id).map_or_else(|| format!("{id:#06x}"), |bank| bank.to_string()))
            .collect();
        let mut lines = vec![format!(
            "{}, {} events, digests {}",
            log.format(),
            log.events().len(),
            banks.join(", ")
        )];
        lines.push(match self.by_quote {
            true => format!(
                "= a quoted {} digest covers it; ~ the log says so, and nothing proves it",
                self.story.bank
            ),
            false => format!(
                "= a {} digest in the log covers it, but NO QUOTE vouches for the log; ~ the log says so",
                self.story.bank
            ),
        });
        let mismatches: Vec<String> = log
            .events()
            .iter()
            .zip(&self.story.checks)
            .filter(|(_, check)| check.name() == "mismatch")
            .map(|(event, _)| event.index.to_string())
            .take(16)
            .collect();
        if !mismatches.is_empty() {
            lines.push(format!(
                "THE LOG LIES: the digest is not that of the data in event {}",
                mismatches.join(", ")
            ));
        }
        lines
    }

    fn log_json(&self, log: &EventLog<'_>) -> Value {
        let header = log.header();
        json!({
            "format": log.format().to_string(),
            "bank": self.story.bank.name(),
            "vouched_by_quote": self.by_quote,
            "vouched_events": if self.by_quote { json!(self.story.vouched.events) } else { Value::Null },
            "startup_locality": log.startup_locality(),
            "padding": log.padding(),
            "algorithms": header.algorithms().map(|(id, size)| json!({
                "id": id, "name": HashAlg::from_tpm(id).map(HashAlg::name), "bytes": size,
            })).collect::<Vec<_>>(),
            "specification": header.specification().map(|told| json!({
                "platform_class": told.platform_class,
                "version": [told.version.0, told.version.1, told.version.2],
                "uintn_size": told.uintn_size,
                "vendor_info": hex::encode(told.vendor_info),
            })),
            "missing": self.story.missing().iter().map(|missing| format!("{missing:?}")).collect::<Vec<_>>(),
        })
    }

    fn story_json(&self) -> Value {
        let chapters = self.chapters.iter().map(|chapter| {
            json!({
                "title": chapter.title,
                "lines": chapter.lines.iter().map(|line| json!({
                    "standing": match line.standing.mark() { '=' => "proven", '~' => "said", _ => "remark" },
                    "text": line.text,
                })).collect::<Vec<_>>(),
            })
        });
        let claims = self.story.claims();
        let certificates = |set: Option<std::collections::BTreeSet<[u8; 32]>>| {
            set.map(|set| set.into_iter().map(hex::encode).collect::<Vec<_>>())
        };
        json!({
            "chapters": chapters.collect::<Vec<_>>(),
            "claims": {
                "secure_boot": claims.secure_boot,
                "setup_mode": claims.setup_mode,
                "secure_boot_pk": certificates(claims.pk),
                "secure_boot_kek": certificates(claims.kek),
                "secure_boot_db": certificates(claims.db),
                "dbx_entries": claims.dbx_entries,
                "boot_authorities": certificates(claims.authorities),
                "sbat_level": claims.sbat_level,
                "kernel_command_line": claims.kernel_command_line,
                "boot_images": claims.boot_images.map(|set| set.into_iter().map(hex::encode).collect::<Vec<_>>()),
                "firmware_version": claims.firmware_version,
                "boot_log_complete": claims.complete,
            },
        })
    }

    fn events_json(&self, log: &EventLog<'_>) -> Value {
        let vouched = self.story.vouched;
        let events = log.events().iter().zip(&self.story.checks).enumerate();
        events
            .map(|(position, (event, check))| {
                let quoted = event.pcr < 32 && vouched.registers & (1 << event.pcr) != 0;
                let digests: serde_json::Map<String, Value> = HashAlg::ALL
                    .into_iter()
                    .filter_map(|bank| Some((bank.name().to_owned(), hex::encode(event.digest(bank)?).into())))
                    .collect();
                json!({
                    "index": event.index,
                    "pcr": event.pcr,
                    "register": log.format().register_name(event.pcr),
                    "type": event.event_type.to_string(),
                    "extended": event.is_extended(),
                    "check": check.name(),
                    "vouched": self.by_quote && event.is_extended() && quoted && position < vouched.events,
                    "description": event.describe(),
                    "digests": digests,
                    "data": hex::encode(event.data),
                })
            })
            .collect()
    }
}

/// The strongest bank that every event has a digest of.
fn strongest_bank(log: &EventLog<'_>) -> HashAlg {
    let mut banks = HashAlg::ALL.into_iter().rev();
    banks.find(|bank| log.replay(*bank).is_ok()).unwrap_or(HashAlg::Sha256)
}
