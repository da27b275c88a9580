//! Recorded boots, and nodes made of one: the genuine firmware log and endorsement certificate of a recorded boot with
//! attestation and session keys in software, so that evidence for any session can be made.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test support"
)]

pub mod log;
pub mod node;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use touchstone_cose::key::SigningKey;
use touchstone_evidence::binder::Role;
use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::pcr_values::{self, PcrValues};
use touchstone_verifier::anchors::{Purpose, TrustAnchors};
use touchstone_verifier::appraisal::{Appraisal, BinderContext, Freshness, ImaKnown, Inputs, Known, appraise};
use touchstone_verifier::corim::{
    BankValues, MachineReference, ReferenceEvent, TrustedSigner, UntrustedCorim, VerifiedCorim, sign_corim,
};
use touchstone_verifier::eventlog::identity::{Measured, needs_data};
use touchstone_verifier::eventlog::{Event, EventLog};
use touchstone_verifier::gpu::GpuPolicy;
use touchstone_verifier::ima::ImaPolicy;
use touchstone_verifier::inventory::{EkId, EnrolledNode, Inventory, Node};
use touchstone_verifier::policy::{AppraisalPolicy, AzurePolicy, EkCertificateRule, EventLogRule, RootsPolicy};
use touchstone_verifier::reference::ReferenceSet;
use touchstone_verifier::snp::{Product, SnpPolicy, Tcb};
use touchstone_verifier::tdx::TdxPolicy;
use touchstone_verifier::tpm::{HashAlg, PcrSelection};
use touchstone_verifier::x509::{Certificate, CrlRule, Expiry};

/// A time at which the recorded certificates are valid.
pub const NOW: i64 = 1_800_000_000;
/// Registers that boots fill and that do not move at run time.
pub const BOOT: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14];

/// A recorded boot.
pub struct Boot {
    pub folder: PathBuf,
    pub log: Vec<u8>,
    /// `pcrs.txt`, read a little after the quotes: register 10 may be ahead of them.
    pub registers: BTreeMap<(HashAlg, u8), Vec<u8>>,
}

impl Boot {
    pub fn load(name: &str) -> Self {
        let folder = boots().join(name);
        let text = std::fs::read_to_string(folder.join("pcrs.txt")).unwrap();
        let registers = text
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let key = (HashAlg::from_name(words[0]).unwrap(), words[1].parse().unwrap());
                (key, hex::decode(words[2]).unwrap())
            })
            .collect();
        let log = std::fs::read(folder.join("eventlog.bin")).unwrap();
        Self { folder, log, registers }
    }

    pub fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.join(name)).unwrap()
    }

    /// The nonce of a recorded quote.
    pub fn nonce(&self, quote: &str) -> Vec<u8> {
        let text = self.file(&format!("{quote}/nonce.hex"));
        hex::decode(std::str::from_utf8(&text).unwrap().trim()).unwrap()
    }

    pub fn values(&self, registers: &[u8]) -> PcrValues {
        let value = |pcr: &u8| {
            (
                (HashAlg::Sha256.tpm_id(), *pcr),
                self.registers[&(HashAlg::Sha256, *pcr)].clone(),
            )
        };
        registers.iter().map(value).collect()
    }

    /// The recorded quote, packed as `evidence pack` packs it.
    pub fn packed(&self, quote: &str, key: &str) -> Collection {
        let mut collection = Collection::unbound();
        let mut put = |label, bytes| collection.insert(label, bytes).unwrap();
        put(Label::TpmQuote, self.file(&format!("{quote}/quote.msg")));
        put(Label::TpmQuoteSignature, self.file(&format!("{quote}/quote.sig")));
        put(Label::TpmAkPublic, self.file(&format!("ak-{key}.pub")));
        put(Label::TpmEkCertificate, self.file(&format!("ek-{key}-cert.der")));
        put(Label::TpmPcrValues, encode_values(&self.quoted_values(quote)));
        put(Label::FirmwareEventLog, self.log.clone());
        collection
    }

    /// Values of a recorded quote from the file tpm2-tools wrote with it: TPML_PCR_SELECTION as tpm2-tools lays it out
    /// in memory, then lists of up to eight digests.
    pub fn quoted_values(&self, quote: &str) -> PcrValues {
        let bytes = self.file(&format!("{quote}/quote.pcrs"));
        let selected: Vec<u8> = (0..24u8)
            .filter(|pcr| bytes[7 + usize::from(pcr / 8)] & (1 << (pcr % 8)) != 0)
            .collect();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let lists = word(132);
        let mut at = 136;
        let mut digests = Vec::new();
        for _ in 0..lists {
            let count = word(at);
            for slot in 0..count {
                let digest = at + 4 + slot * 66;
                let len = usize::from(u16::from_le_bytes([bytes[digest], bytes[digest + 1]]));
                digests.push(bytes[digest + 2..digest + 2 + len].to_vec());
            }
            at += 4 + 8 * 66;
        }
        assert_eq!(digests.len(), selected.len(), "the layout of the file of tpm2-tools");
        selected
            .into_iter()
            .zip(digests)
            .map(|(pcr, value)| ((HashAlg::Sha256.tpm_id(), pcr), value))
            .collect()
    }

    /// This boot's registers and events as a reference.
    pub fn reference(&self, name: &str) -> MachineReference {
        let log = EventLog::parse(&self.log).unwrap();
        let events = log
            .events()
            .iter()
            .filter(|event| event.is_extended())
            .map(|event| reference_event(event, HashAlg::Sha256));
        let values = BankValues {
            registers: BOOT
                .iter()
                .map(|pcr| (*pcr, self.registers[&(HashAlg::Sha256, *pcr)].clone()))
                .collect(),
            events: events.collect(),
        };
        MachineReference {
            name: name.into(),
            banks: [(HashAlg::Sha256, values)].into(),
            ..MachineReference::default()
        }
    }

    pub fn ek_id(&self, key: &str) -> EkId {
        EkId(
            Certificate::from_der(&self.file(&format!("ek-{key}-cert.der")))
                .unwrap()
                .key()
                .spki_sha256(),
        )
    }

    /// An inventory entry that ties the recorded attestation keys to the recorded endorsement keys.
    pub fn node(&self, name: &str) -> Node {
        Node {
            name: name.into(),
            region: "north".into(),
            ek: vec![self.ek_id("rsa"), self.ek_id("ecc")],
            ak_names: vec![self.file("ak-rsa.name"), self.file("ak-ecc.name")],
            authority: "domain".into(),
            ..Node::default()
        }
    }
}

/// An event as `reference add` takes it.
pub fn reference_event(event: &Event<'_>, bank: HashAlg) -> ReferenceEvent {
    let measured = Measured::of(event, bank).unwrap();
    ReferenceEvent {
        pcr: event.pcr as u8,
        event_type: event.event_type,
        digest: measured.digest.to_vec(),
        description: event.describe(),
        data: needs_data(bank, &measured).then(|| event.data.to_vec()),
    }
}

pub fn boots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../swtpm-tests/boots")
}

pub fn encode_values(values: &PcrValues) -> Vec<u8> {
    pcr_values::encode(values)
}

/// The recorded TPM maker's CA.
pub fn anchors() -> TrustAnchors {
    let der = ["swtpm-localca-rootca-cert.pem", "issuercert.pem"].map(|name| {
        let text = std::fs::read(boots().join("ca").join(name)).unwrap();
        x509_parser::pem::Pem::iter_from_buffer(&text)
            .next()
            .unwrap()
            .unwrap()
            .contents
    });
    TrustAnchors::new(der.map(|der| (Purpose::Ek, der))).unwrap()
}

pub fn policy() -> AppraisalPolicy {
    AppraisalPolicy {
        required_registers: selection(&BOOT),
        session_key_registers: selection(&[0, 2, 4, 7, 8, 9, 14]),
        ek_expiry: Expiry::Deny,
        crl: CrlRule::WhenPresent,
        ek_certificate: EkCertificateRule::WhenPresent,
        event_log: EventLogRule::Required,
        ima: ImaPolicy::default(),
        roots: RootsPolicy::default(),
        snp: SnpPolicy {
            floors: Product::ALL
                .map(|product| (product, Tcb::parse([0; 8], product).unwrap()))
                .into(),
            ..SnpPolicy::default()
        },
        tdx: TdxPolicy::default(),
        azure: AzurePolicy::default(),
        gpu: GpuPolicy::default(),
        policy_id: "test/1".into(),
    }
}

pub fn selection(registers: &[u8]) -> PcrSelection {
    PcrSelection::new([(HashAlg::Sha256, registers.iter().copied())]).unwrap()
}

/// Signs a reference as the domain's author does.
pub fn signed(reference: &MachineReference) -> Vec<u8> {
    sign_corim(&reference.to_corim_unsigned().unwrap(), &author(), "author", None).unwrap()
}

/// Reads and verifies what the author signed.
pub fn read(signed: &[u8]) -> VerifiedCorim {
    let signer = TrustedSigner {
        name: "author".into(),
        key: author().verifying_key(),
        not_after: None,
    };
    UntrustedCorim::new(signed).verify(&[signer], NOW).unwrap()
}

fn author() -> SigningKey {
    SigningKey::from_seed([3; 32])
}

/// Signs a reference as the domain's author does, and verifies it.
pub fn verified(reference: &MachineReference) -> VerifiedCorim {
    read(&signed(reference))
}

pub fn references(all: &[MachineReference]) -> ReferenceSet {
    ReferenceSet::new(all.iter().map(verified).collect())
}

/// Everything an offline appraisal rests on.
pub struct Offline {
    pub collection: Collection,
    pub nonce: Vec<u8>,
    pub policy: AppraisalPolicy,
    pub references: ReferenceSet,
    pub anchors: TrustAnchors,
    pub inventory: Inventory,
    pub enrolled: Option<EnrolledNode>,
    pub now: i64,
}

impl Offline {
    /// The recorded quote of `boot` against references from `reference`, in the inventory of its own machine.
    pub fn new(boot: &Boot, quote: &str, key: &str, reference: &Boot) -> Self {
        Self {
            collection: boot.packed(quote, key),
            nonce: boot.nonce(quote),
            policy: policy(),
            references: references(&[reference.reference("golden")]),
            anchors: anchors(),
            inventory: Inventory::new(vec![boot.node("node-1")]),
            enrolled: None,
            now: NOW,
        }
    }

    pub fn appraise(&self) -> Appraisal {
        appraise(&Inputs {
            collection: &self.collection,
            freshness: Freshness::Unbound { nonce: &self.nonce },
            policy: &self.policy,
            references: &self.references,
            anchors: &self.anchors,
            inventory: &self.inventory,
            enrolled: self.enrolled.as_ref(),
            ima: ImaKnown::default(),
            known: Known::default(),
            now: self.now,
        })
    }

    /// The same evidence in a session, whose binder nothing of it carries.
    pub fn in_a_session(&self) -> Appraisal {
        appraise(&Inputs {
            collection: &self.collection,
            freshness: Freshness::Bound {
                binder: BinderContext {
                    role: Role::Node,
                    domain: "test.example",
                    session_id: [1; 16],
                    nonce: [2; 32],
                    receive_key: None,
                    tls_exporter: [4; 32],
                },
                asked: &self.policy.required_registers,
                session_key: &SigningKey::from_seed([5; 32]).verifying_key(),
                activated: None,
            },
            policy: &self.policy,
            references: &self.references,
            anchors: &self.anchors,
            inventory: &self.inventory,
            enrolled: self.enrolled.as_ref(),
            ima: ImaKnown::default(),
            known: Known::default(),
            now: self.now,
        })
    }

    /// The same with a record replaced.
    pub fn with(mut self, label: Label, bytes: Vec<u8>) -> Self {
        self.collection = replace(&self.collection, label, Some(bytes));
        self
    }

    pub fn without(mut self, label: Label) -> Self {
        self.collection = replace(&self.collection, label, None);
        self
    }
}

/// A collection with one record replaced or left out.
pub fn replace(collection: &Collection, label: Label, bytes: Option<Vec<u8>>) -> Collection {
    let mut changed = match collection.profile() {
        touchstone_evidence::collection::Profile::Bound => Collection::bound(),
        touchstone_evidence::collection::Profile::Unbound => Collection::unbound(),
    };
    for (other, record) in collection.records().filter(|(other, _)| *other != label) {
        changed.insert(other, record.to_vec()).unwrap();
    }
    if let Some(bytes) = bytes {
        changed.insert(label, bytes).unwrap();
    }
    changed
}

/// The codes of an appraisal, in order.
pub fn codes(appraisal: &Appraisal) -> Vec<&'static str> {
    appraisal.reasons.iter().map(|reason| reason.code.as_str()).collect()
}
