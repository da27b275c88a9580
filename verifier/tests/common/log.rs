//! Event logs taken apart, changed and measured anew, and machines that booted so: with an attestation key in software
//! the evidence is whole, and only what it says is another.

use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::pcr_values::PcrValues;
use touchstone_verifier::anchors::TrustAnchors;
use touchstone_verifier::appraisal::{Appraisal, Freshness, ImaKnown, Inputs, Known, appraise};
use touchstone_verifier::corim::{BankValues, MachineReference};
use touchstone_verifier::eventlog::{EventLog, EventType};
use touchstone_verifier::inventory::{Inventory, Node};
use touchstone_verifier::policy::AppraisalPolicy;
use touchstone_verifier::reference::ReferenceSet;
use touchstone_verifier::tpm::{ClockInfo, HashAlg, PcrSelection};

use super::node::{AK_ATTRIBUTES, Attest, MAGIC, QUOTE, SoftKey, name_of, quote_info};
use super::{Boot, NOW, anchors, encode_values, policy, reference_event, references};

/// One event of a crypto-agile log.
#[derive(Clone, Debug)]
pub struct RawEvent {
    pub pcr: u32,
    pub event_type: u32,
    pub digests: Vec<(HashAlg, Vec<u8>)>,
    pub data: Vec<u8>,
}

impl RawEvent {
    /// An event of this type with the digest of `hashed`.
    pub fn new(pcr: u32, event_type: EventType, data: &[u8], hashed: &[u8]) -> Self {
        let mut event = Self {
            pcr,
            event_type: event_type.0,
            digests: [HashAlg::Sha1, HashAlg::Sha256].map(|bank| (bank, Vec::new())).to_vec(),
            data: data.to_vec(),
        };
        event.measure(hashed);
        event
    }

    /// An event whose digest is that of its data.
    pub fn whole(pcr: u32, event_type: EventType, data: &[u8]) -> Self {
        Self::new(pcr, event_type, data, data)
    }

    /// Sets every digest to that of `hashed`.
    pub fn measure(&mut self, hashed: &[u8]) {
        for (bank, digest) in &mut self.digests {
            *digest = bank.digest([hashed]).as_ref().to_vec();
        }
    }

    /// What the digests are digests of, where the data tell.
    fn hashed(&self) -> Option<&[u8]> {
        let (bank, digest) = &self.digests[0];
        let text = self.data.strip_suffix(b"\0").unwrap_or(&self.data);
        let text = text
            .iter()
            .position(|byte| *byte == b' ')
            .map(|space| &text[space + 1..]);
        let value = (self.data.len() > 32).then(|| {
            let name = u64::from_le_bytes(self.data[16..24].try_into().unwrap()) as usize;
            self.data.get(32usize.checked_add(name.checked_mul(2)?)?..)
        });
        [Some(&self.data[..]), text, value.flatten()]
            .into_iter()
            .flatten()
            .find(|bytes| bank.digest([*bytes]).as_ref() == digest)
    }
}

/// A crypto-agile log.
#[derive(Clone, Debug)]
pub struct RawLog {
    pub events: Vec<RawEvent>,
    pub banks: Vec<HashAlg>,
}

impl RawLog {
    pub fn of(boot: &Boot) -> Self {
        Self::parse(&boot.log)
    }

    pub fn parse(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        let mut at = 32 + word(28);
        let mut log = Self {
            events: Vec::new(),
            banks: Vec::new(),
        };
        while at < bytes.len() {
            let mut event = RawEvent {
                pcr: word(at) as u32,
                event_type: word(at + 4) as u32,
                digests: Vec::new(),
                data: Vec::new(),
            };
            let count = word(at + 8);
            at += 12;
            for _ in 0..count {
                let bank = HashAlg::from_tpm(half(at)).unwrap();
                event
                    .digests
                    .push((bank, bytes[at + 2..][..bank.digest_len()].to_vec()));
                at += 2 + bank.digest_len();
            }
            let len = word(at);
            event.data = bytes[at + 4..][..len].to_vec();
            at += 4 + len;
            log.banks = event.digests.iter().map(|(bank, _)| *bank).collect();
            log.events.push(event);
        }
        log
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut header = b"Spec ID Event03\0".to_vec();
        header.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        header.extend((self.banks.len() as u32).to_le_bytes());
        for bank in &self.banks {
            header.extend(bank.tpm_id().to_le_bytes());
            header.extend((bank.digest_len() as u16).to_le_bytes());
        }
        header.push(0);
        let mut out = [[0u8; 4], 3u32.to_le_bytes()].concat();
        out.extend([0; 20]);
        out.extend((header.len() as u32).to_le_bytes());
        out.extend(header);
        for event in &self.events {
            out.extend(event.pcr.to_le_bytes());
            out.extend(event.event_type.to_le_bytes());
            out.extend((event.digests.len() as u32).to_le_bytes());
            for (bank, digest) in &event.digests {
                out.extend(bank.tpm_id().to_le_bytes());
                out.extend(digest);
            }
            out.extend((event.data.len() as u32).to_le_bytes());
            out.extend(&event.data);
        }
        out
    }

    /// The position of the one event whose data contain `text` in this register.
    pub fn position(&self, pcr: u32, text: &[u8]) -> usize {
        let found: Vec<usize> = (0..self.events.len())
            .filter(|at| {
                let event = &self.events[*at];
                event.pcr == pcr && event.data.windows(text.len()).any(|window| window == text)
            })
            .collect();
        assert!(
            !found.is_empty(),
            "no event of register {pcr} with {:?}",
            String::from_utf8_lossy(text)
        );
        found[0]
    }

    pub fn event(&mut self, pcr: u32, text: &[u8]) -> &mut RawEvent {
        let at = self.position(pcr, text);
        &mut self.events[at]
    }

    /// Replaces `from` by `to` in GRUB's texts of register 8 and measures them anew. How many there were.
    pub fn retype(&mut self, from: &str, to: &str) -> usize {
        let mut changed = 0;
        for event in self.events.iter_mut().filter(|event| event.pcr == 8) {
            let text = String::from_utf8(event.data.clone()).unwrap();
            if !text.contains(from) {
                continue;
            }
            let text = text.replace(from, to);
            let measured = text.split_once(": ").unwrap().1.trim_end_matches('\0').to_owned();
            event.data = text.into_bytes();
            event.measure(measured.as_bytes());
            changed += 1;
        }
        changed
    }

    /// Adds a bank as the firmware would have filled it: digests of the same bytes where the log tells which.
    pub fn with_bank(mut self, bank: HashAlg) -> Self {
        self.banks.push(bank);
        for event in &mut self.events {
            let hashed = event.hashed().unwrap_or(&event.digests[1].1).to_vec();
            event.digests.push((bank, bank.digest([&hashed[..]]).as_ref().to_vec()));
        }
        self
    }

    /// Keeps one bank only.
    pub fn only_bank(mut self, bank: HashAlg) -> Self {
        self.banks.retain(|one| *one == bank);
        for event in &mut self.events {
            event.digests.retain(|(one, _)| *one == bank);
        }
        self
    }

    /// The values the log leads to.
    pub fn values(&self, required: &PcrSelection) -> PcrValues {
        let bytes = self.encode();
        let log = EventLog::parse(&bytes).unwrap();
        let value = |(bank, pcr): (HashAlg, u8)| {
            let replay = log.replay(bank).unwrap();
            ((bank.tpm_id(), pcr), replay.register(u32::from(pcr)).unwrap().to_vec())
        };
        required.iter().map(value).collect()
    }

    /// A reference made of a machine that booted so.
    pub fn reference(&self, name: &str, required: &PcrSelection) -> MachineReference {
        let bytes = self.encode();
        let log = EventLog::parse(&bytes).unwrap();
        let values = self.values(required);
        let banks = required.banks().iter().map(|selected| {
            let bank = selected.bank();
            let events = log.events().iter().filter(|event| event.is_extended());
            let values = BankValues {
                registers: selected
                    .registers()
                    .map(|pcr| (pcr, values[&(bank.tpm_id(), pcr)].clone()))
                    .collect(),
                events: events.map(|event| reference_event(event, bank)).collect(),
            };
            (bank, values)
        });
        MachineReference {
            name: name.into(),
            banks: banks.collect(),
            ..MachineReference::default()
        }
    }
}

/// A machine whose quote, packed offline, holds for whatever its registers are.
pub struct Machine {
    pub log: Option<Vec<u8>>,
    pub values: PcrValues,
    pub policy: AppraisalPolicy,
    pub references: ReferenceSet,
    pub now: i64,
}

impl Machine {
    const NONCE: [u8; 32] = [7; 32];

    /// A machine that booted as `log` says, judged by `policy` with these references.
    pub fn new(log: &RawLog, required: &PcrSelection, all: &[MachineReference]) -> Self {
        Self {
            log: Some(log.encode()),
            values: log.values(required),
            policy: AppraisalPolicy {
                required_registers: required.clone(),
                ..policy()
            },
            references: references(all),
            now: NOW,
        }
    }

    /// The evidence, and an inventory that knows its attestation key.
    pub fn packed(&self) -> (Collection, Inventory) {
        let key = SoftKey::new();
        let public = key.public(AK_ATTRIBUTES, &[]);
        let quote = Attest {
            magic: MAGIC,
            kind: QUOTE,
            extra_data: Self::NONCE.to_vec(),
            clock: ClockInfo {
                clock: 1,
                reset_count: 1,
                restart_count: 0,
                safe: true,
            },
            attested: quote_info(&self.policy.required_registers, &self.values),
        }
        .encode();
        let inventory = Inventory::new(vec![Node {
            name: "node-1".into(),
            region: "north".into(),
            ak_names: vec![name_of(&public)],
            ..Node::default()
        }]);
        let mut collection = Collection::unbound();
        for (label, bytes) in [
            (Label::TpmQuoteSignature, key.sign(&quote)),
            (Label::TpmQuote, quote),
            (Label::TpmAkPublic, public),
            (Label::TpmPcrValues, encode_values(&self.values)),
        ] {
            collection.insert(label, bytes).unwrap();
        }
        if let Some(log) = &self.log {
            collection.insert(Label::FirmwareEventLog, log.clone()).unwrap();
        }
        (collection, inventory)
    }

    pub fn appraise(&self) -> Appraisal {
        let (collection, inventory) = self.packed();
        self.appraise_packed(&collection, &inventory, &anchors())
    }

    pub fn appraise_packed(&self, collection: &Collection, inventory: &Inventory, anchors: &TrustAnchors) -> Appraisal {
        appraise(&Inputs {
            collection,
            freshness: Freshness::Unbound { nonce: &Self::NONCE },
            policy: &self.policy,
            references: &self.references,
            anchors,
            inventory,
            enrolled: None,
            ima: ImaKnown::default(),
            known: Known::default(),
            now: self.now,
        })
    }
}
