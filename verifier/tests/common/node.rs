//! A node in a session: a recorded boot's log, registers and endorsement certificate, keys in software.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use touchstone_cose::key::VerifyingKey;
use touchstone_evidence::binder::{BinderInput, Role};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::pcr_values::PcrValues;
use touchstone_verifier::anchors::TrustAnchors;
use touchstone_verifier::appraisal::{
    Activated, Appraisal, BinderContext, Freshness, ImaKnown, Inputs, Known, appraise,
};
use touchstone_verifier::ima::ImaPrefix;
use touchstone_verifier::inventory::{EnrolledNode, Inventory};
use touchstone_verifier::policy::AppraisalPolicy;
use touchstone_verifier::reference::ReferenceSet;
use touchstone_verifier::tpm::policy::policy_pcr;
use touchstone_verifier::tpm::{ClockInfo, HashAlg, PcrSelection, Public};

use super::{BOOT, Boot, NOW, anchors, encode_values, policy, references, selection};

pub const DOMAIN: &str = "test.example";
pub const QUOTE: u16 = 0x8018;
pub const CERTIFY: u16 = 0x8017;
pub const TIME: u16 = 0x8019;
pub const MAGIC: u32 = 0xFF54_4347;
/// fixedTPM, fixedParent, sensitiveDataOrigin, restricted, sign.
pub const AK_ATTRIBUTES: u32 = 0x0005_0032;
/// fixedTPM, fixedParent, sensitiveDataOrigin, sign.
pub const SESSION_KEY_ATTRIBUTES: u32 = 0x0004_0032;

/// A P-256 key that signs as a TPM does.
pub struct SoftKey(EcdsaKeyPair);

impl SoftKey {
    pub fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn point(&self) -> ([u8; 32], [u8; 32]) {
        let point = self.0.public_key().as_ref();
        (point[1..33].try_into().unwrap(), point[33..].try_into().unwrap())
    }

    pub fn verifying_key(&self) -> VerifyingKey {
        let (x, y) = self.point();
        VerifyingKey::p256(x, y).unwrap()
    }

    /// TPMT_SIGNATURE, ECDSA with SHA-256.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        let (r, s) = signature.as_ref().split_at(32);
        [&[0x00, 0x18, 0x00, 0x0B, 0x00, 32][..], r, &[0, 32], s].concat()
    }

    /// TPMT_PUBLIC: P-256, SHA-256 Name, ECDSA with SHA-256 where it has a scheme of its own.
    pub fn public(&self, attributes: u32, auth_policy: &[u8]) -> Vec<u8> {
        let (x, y) = self.point();
        let mut out = vec![0x00, 0x23, 0x00, 0x0B];
        out.extend(attributes.to_be_bytes());
        out.extend((auth_policy.len() as u16).to_be_bytes());
        out.extend(auth_policy);
        out.extend([0x00, 0x10, 0x00, 0x18, 0x00, 0x0B, 0x00, 0x03, 0x00, 0x10]);
        for coordinate in [x, y] {
            out.extend([0, 32]);
            out.extend(coordinate);
        }
        out
    }
}

/// TPMS_ATTEST, field by field.
#[derive(Clone)]
pub struct Attest {
    pub magic: u32,
    pub kind: u16,
    pub extra_data: Vec<u8>,
    pub clock: ClockInfo,
    pub attested: Vec<u8>,
}

impl Attest {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.magic.to_be_bytes().to_vec();
        out.extend(self.kind.to_be_bytes());
        out.extend(sized(&[0x00, 0x0B]));
        out.extend(sized(&self.extra_data));
        out.extend(self.clock.clock.to_be_bytes());
        out.extend(self.clock.reset_count.to_be_bytes());
        out.extend(self.clock.restart_count.to_be_bytes());
        out.push(self.clock.safe.into());
        out.extend(7u64.to_be_bytes());
        out.extend(&self.attested);
        out
    }
}

pub fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// TPMS_QUOTE_INFO over `values` by `selection`.
pub fn quote_info(selection: &PcrSelection, values: &PcrValues) -> Vec<u8> {
    let value = |bank: HashAlg, pcr: u8| values.get(&(bank.tpm_id(), pcr)).map(Vec::as_slice);
    let digest = selection.pcr_digest(HashAlg::Sha256, value).unwrap();
    [selection.to_tpml(), sized(digest.as_ref())].concat()
}

/// A session with one node: what the verifier expects, and what the node does. Attack tests change one of them.
pub struct Session {
    // The verifier's side.
    pub policy: AppraisalPolicy,
    pub references: ReferenceSet,
    pub anchors: TrustAnchors,
    pub inventory: Inventory,
    pub enrolled: Option<EnrolledNode>,
    pub activated: Option<Activated>,
    pub asked: PcrSelection,
    pub binder: BinderContext<'static>,
    pub now: i64,
    // The node's side.
    pub ak: SoftKey,
    pub ak_public: Vec<u8>,
    pub signed_by: Option<SoftKey>,
    pub session_key: SoftKey,
    pub session_public: Vec<u8>,
    pub certified_name: Option<Vec<u8>>,
    pub certify_again: bool,
    pub certify_extra: Option<Vec<u8>>,
    pub certify_signed_by: Option<SoftKey>,
    pub certify_reset: Option<u32>,
    pub node_binder: BinderContext<'static>,
    pub quoted: PcrSelection,
    pub values: PcrValues,
    pub sent_values: Option<PcrValues>,
    pub magic: u32,
    pub kind: u16,
    pub clock: ClockInfo,
    pub ek_certificate: Option<Vec<u8>>,
    pub log: Option<Vec<u8>>,
    /// The IMA list's part that the node sends, and what the verifier knows of it.
    pub ima_log: Option<Vec<u8>>,
    pub ima_prefix: Option<ImaPrefix>,
    pub ima_seen: Option<Vec<Vec<u8>>>,
    /// Sections of a unified kernel image that the node sends.
    pub uki_sections: Option<Vec<u8>>,
}

impl Session {
    /// A node that booted as `boot` did, in its first session with a domain whose reference is `good`.
    pub fn first(boot: &Boot, good: &Boot) -> Self {
        let (ak, session_key) = (SoftKey::new(), SoftKey::new());
        let policy = policy();
        let values = boot.values(&BOOT);
        let value = |bank: HashAlg, pcr: u8| values.get(&(bank.tpm_id(), pcr)).map(Vec::as_slice);
        let auth_policy = policy_pcr(&policy.session_key_registers, value).unwrap();
        let ak_public = ak.public(AK_ATTRIBUTES, &[]);
        let binder = BinderContext {
            role: Role::Node,
            domain: DOMAIN,
            session_id: [1; 16],
            nonce: [2; 32],
            receive_key: None,
            tls_exporter: [4; 32],
        };
        Self {
            references: references(&[good.reference("golden")]),
            anchors: anchors(),
            inventory: Inventory::new(vec![boot.node("node-1")]),
            enrolled: None,
            activated: Some(Activated {
                ek: boot.ek_id("rsa"),
                ak_name: name_of(&ak_public),
            }),
            asked: selection(&BOOT),
            binder,
            now: NOW,
            session_public: session_key.public(SESSION_KEY_ATTRIBUTES, &auth_policy),
            ak,
            ak_public,
            signed_by: None,
            session_key,
            certified_name: None,
            certify_again: true,
            certify_extra: None,
            certify_signed_by: None,
            certify_reset: None,
            node_binder: binder,
            quoted: selection(&BOOT),
            values,
            sent_values: None,
            magic: MAGIC,
            kind: QUOTE,
            clock: ClockInfo {
                clock: 1_000,
                reset_count: 3,
                restart_count: 0,
                safe: true,
            },
            ek_certificate: Some(boot.file("ek-rsa-cert.der")),
            log: Some(boot.log.clone()),
            ima_log: None,
            ima_prefix: None,
            ima_seen: None,
            uki_sections: None,
            policy,
        }
    }

    /// The same node in its next session: enrolled, nothing to activate, its session key known.
    pub fn next(mut self) -> Self {
        let enrolled = self.appraise().enrol.expect("the first session is affirmed");
        self.enrolled = Some(enrolled);
        self.activated = None;
        self.certify_again = false;
        self.clock.clock += 1_000;
        for binder in [&mut self.binder, &mut self.node_binder] {
            binder.nonce = [5; 32];
            binder.session_id = [6; 16];
        }
        self
    }

    /// The evidence the node sends.
    pub fn collection(&self) -> Collection {
        let mut collection = Collection::bound();
        let mut put = |label, bytes: Vec<u8>| collection.insert(label, bytes).unwrap();
        put(Label::TpmAkPublic, self.ak_public.clone());
        self.ek_certificate
            .iter()
            .for_each(|der| put(Label::TpmEkCertificate, der.clone()));
        self.log
            .iter()
            .for_each(|log| put(Label::FirmwareEventLog, log.clone()));
        self.ima_log.iter().for_each(|log| put(Label::ImaLog, log.clone()));
        self.uki_sections
            .iter()
            .for_each(|record| put(Label::UkiSections, record.clone()));
        put(
            Label::TpmPcrValues,
            encode_values(self.sent_values.as_ref().unwrap_or(&self.values)),
        );
        if self.certify_again {
            put(Label::TpmSessionKey, self.session_public.clone());
        }
        let qualifying = self.qualifying(&collection);
        let attested = match self.kind {
            QUOTE => quote_info(&self.quoted, &self.values),
            _ => [sized(&name_of(&self.session_public)), sized(&[])].concat(),
        };
        let quote = Attest {
            magic: self.magic,
            kind: self.kind,
            extra_data: qualifying.clone(),
            clock: self.clock,
            attested,
        }
        .encode();
        let mut put = |label, bytes: Vec<u8>| collection.insert(label, bytes).unwrap();
        put(
            Label::TpmQuoteSignature,
            self.signed_by.as_ref().unwrap_or(&self.ak).sign(&quote),
        );
        put(Label::TpmQuote, quote);
        if self.certify_again {
            let name = self
                .certified_name
                .clone()
                .unwrap_or_else(|| name_of(&self.session_public));
            let certify = Attest {
                magic: MAGIC,
                kind: CERTIFY,
                extra_data: self.certify_extra.clone().unwrap_or(qualifying),
                clock: ClockInfo {
                    reset_count: self.certify_reset.unwrap_or(self.clock.reset_count),
                    ..self.clock
                },
                attested: [sized(&name), sized(&name)].concat(),
            }
            .encode();
            let signer = self.certify_signed_by.as_ref().unwrap_or(&self.ak);
            put(Label::TpmSessionKeyCertifySignature, signer.sign(&certify));
            put(Label::TpmSessionKeyCertify, certify);
        }
        collection
    }

    /// What the node's TPM is given as qualifying data.
    fn qualifying(&self, collection: &Collection) -> Vec<u8> {
        let BinderContext {
            role,
            domain,
            session_id,
            nonce,
            receive_key,
            tls_exporter,
        } = self.node_binder;
        let ckt = self.session_key.verifying_key().thumbprint();
        let manifest_digest = collection.manifest_digest().unwrap();
        let input = BinderInput {
            role,
            domain,
            session_id,
            nonce,
            ckt,
            receive_key,
            tls_exporter,
            manifest_digest,
        };
        input.tpm_qualifying_data().to_vec()
    }

    pub fn appraise(&self) -> Appraisal {
        self.appraise_collection(&self.collection())
    }

    pub fn appraise_collection(&self, collection: &Collection) -> Appraisal {
        appraise(&Inputs {
            collection,
            freshness: Freshness::Bound {
                binder: self.binder,
                asked: &self.asked,
                session_key: &self.session_key.verifying_key(),
                activated: self.activated.as_ref(),
            },
            policy: &self.policy,
            references: &self.references,
            anchors: &self.anchors,
            inventory: &self.inventory,
            enrolled: self.enrolled.as_ref(),
            ima: ImaKnown {
                prefix: self.ima_prefix.as_ref(),
                seen: self.ima_seen.as_deref(),
            },
            known: Known::default(),
            now: self.now,
        })
    }
}

pub fn name_of(public: &[u8]) -> Vec<u8> {
    Public::parse(public).unwrap().name().into_bytes()
}
