//! The machine an agent speaks for: its TPM, the confidential VM it is, or both. It says who it is, and answers a
//! challenge.
//!
//! Where there is a TPM the session keys are in it; else they are in the confidential VM's memory. Every root of hardware
//! carries the same binder.

use touchstone_cose::cbor;
use touchstone_cose::encrypt::{Agreement, AgreementError, Point};
use touchstone_cose::key::{SignError, Signer, VerifyingKey};
use touchstone_evidence::binder::{BinderInput, Role};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::message::{BOOT_ID_LEN, Challenge, Hello, Identity, LogBytes, PROTOCOL, Submission};
use touchstone_evidence::pcr_values;
use touchstone_verifier::tpm::credential::activation_answer;
use zeroize::Zeroizing;

use super::attester::{Attester, AttesterError, Receiver, SessionSigner};
use super::config::{AgentConfig, TeeSource};
use super::cvm::Cvm;
use super::memory_key::MemoryKey;
use super::round::RoundError;
use super::state::StateDir;
use super::tails::LogPaths;
use crate::tee::azure::ATTESTATION_KEY;
use crate::tpm::SessionKey;

/// The roots of hardware of one machine: a TPM, a confidential VM, or both.
#[derive(Debug)]
pub struct Machine {
    roots: Roots,
}

#[derive(Debug)]
enum Roots {
    Tpm(Box<Attester>),
    Cvm(Box<Cvm>),
    Both(Box<Attester>, Box<Cvm>),
}

impl From<Attester> for Machine {
    fn from(tpm: Attester) -> Self {
        Self {
            roots: Roots::Tpm(Box::new(tpm)),
        }
    }
}

impl From<Cvm> for Machine {
    fn from(cvm: Cvm) -> Self {
        Self {
            roots: Roots::Cvm(Box::new(cvm)),
        }
    }
}

impl From<(Attester, Cvm)> for Machine {
    fn from((tpm, cvm): (Attester, Cvm)) -> Self {
        Self {
            roots: Roots::Both(Box::new(tpm), Box::new(cvm)),
        }
    }
}

impl Machine {
    /// Opens what the configuration names: the TPM alone, the confidential VM alone, or both.
    ///
    /// # Errors
    /// [`AttesterError`]
    pub fn open(
        config: &AgentConfig,
        state: &StateDir,
        session_registers: &[(u16, Vec<u8>)],
    ) -> Result<Self, AttesterError> {
        let mut of_tpm = config.tpm.clone();
        if config.tee.as_ref().is_some_and(|tee| tee.source == TeeSource::Azure) {
            // No other key is named by the report.
            of_tpm.attestation_key_handle.get_or_insert(ATTESTATION_KEY);
        }
        let tpm = || Attester::open(&of_tpm, state, session_registers);
        let cvm = |tee| Cvm::open(tee, &of_tpm.tcti);
        match &config.tee {
            None => Ok(tpm()?.into()),
            Some(tee) if tee.with_tpm => Ok((tpm()?, cvm(tee)?).into()),
            Some(tee) => Ok(cvm(tee)?.into()),
        }
    }

    /// Its TPM.
    #[must_use]
    pub fn tpm(&self) -> Option<&Attester> {
        match &self.roots {
            Roots::Tpm(tpm) | Roots::Both(tpm, _) => Some(tpm),
            Roots::Cvm(_) => None,
        }
    }

    /// The same, to be used.
    pub fn tpm_mut(&mut self) -> Option<&mut Attester> {
        match &mut self.roots {
            Roots::Tpm(tpm) | Roots::Both(tpm, _) => Some(tpm),
            Roots::Cvm(_) => None,
        }
    }

    /// The confidential VM it is.
    #[must_use]
    pub fn cvm(&self) -> Option<&Cvm> {
        match &self.roots {
            Roots::Cvm(cvm) | Roots::Both(_, cvm) => Some(cvm),
            Roots::Tpm(_) => None,
        }
    }

    /// The same, to be used.
    pub fn cvm_mut(&mut self) -> Option<&mut Cvm> {
        match &mut self.roots {
            Roots::Cvm(cvm) | Roots::Both(_, cvm) => Some(cvm),
            Roots::Tpm(_) => None,
        }
    }

    /// Who it is, in words: the attestation key's TPM Name, hexadecimal, or the platform.
    #[must_use]
    pub fn words(&self) -> String {
        match &self.roots {
            Roots::Tpm(tpm) | Roots::Both(tpm, _) => hex::encode(tpm.attestation_key().name()),
            Roots::Cvm(cvm) => cvm.claimed().platform.clone(),
        }
    }

    /// The session signing key, to which an authorization is bound.
    #[must_use]
    pub fn session_key(&self) -> &VerifyingKey {
        match &self.roots {
            Roots::Tpm(tpm) | Roots::Both(tpm, _) => tpm.session_key(),
            Roots::Cvm(cvm) => cvm.session_key().public(),
        }
    }

    /// The session receive key, to which released keys are encrypted.
    #[must_use]
    pub fn receive_key(&self) -> &VerifyingKey {
        match &self.roots {
            Roots::Tpm(tpm) | Roots::Both(tpm, _) => tpm.receive_key(),
            Roots::Cvm(cvm) => cvm.receive_key().public(),
        }
    }

    /// The session signing key as a COSE signer, for the length of one signature.
    pub fn signer(&mut self) -> Box<dyn Signer + '_> {
        match &mut self.roots {
            Roots::Tpm(tpm) | Roots::Both(tpm, _) => Box::new(SessionSigner::new(tpm)),
            Roots::Cvm(cvm) => Box::new(SignerOf(cvm)),
        }
    }

    /// Makes a key for a workload, where this machine's own session key is.
    ///
    /// # Errors
    /// [`AttesterError`]
    pub fn held_key(&mut self) -> Result<HeldKey, AttesterError> {
        match &mut self.roots {
            Roots::Tpm(tpm) | Roots::Both(tpm, _) => {
                let (key, public) = tpm.make_key()?;
                Ok(HeldKey::Tpm(Box::new((key, public))))
            }
            Roots::Cvm(_) => MemoryKey::generate().map(HeldKey::Memory).ok_or(AttesterError::Random),
        }
    }

    /// Such a key as a COSE signer, for the length of one signature.
    pub fn signer_of<'a>(&'a mut self, key: &'a HeldKey) -> Box<dyn Signer + 'a> {
        Box::new(HeldSigner {
            machine: std::cell::RefCell::new(self),
            key,
        })
    }

    /// Who agrees on secrets with its receive key, for the length of one agreement.
    pub fn receiver(&mut self) -> Box<dyn Agreement + '_> {
        match &mut self.roots {
            Roots::Tpm(tpm) | Roots::Both(tpm, _) => Box::new(Receiver::new(tpm)),
            Roots::Cvm(cvm) => Box::new(ReceiverOf(cvm)),
        }
    }

    /// Opens the TPM anew, with a session key bound to the registers' present values. A confidential VM's keys stay.
    ///
    /// # Errors
    /// [`AttesterError`]; then everything is as it was.
    pub fn reopen(&mut self) -> Result<(), AttesterError> {
        self.tpm_mut().map_or(Ok(()), Attester::reopen)
    }

    /// What it says of itself. `known`: the broker knows it by the name of its attestation key.
    #[must_use]
    pub fn hello(&self, known: bool, boot: Option<[u8; BOOT_ID_LEN]>) -> Hello {
        let mut kinds = Vec::new();
        kinds.extend(self.tpm().map(|_| "tpm".to_owned()));
        kinds.extend(self.cvm().map(|cvm| cvm.kind().to_owned()));
        let identity = match &self.roots {
            Roots::Tpm(tpm) | Roots::Both(tpm, _) if known => Identity::Known {
                ak_name: tpm.attestation_key().name().to_vec(),
            },
            Roots::Tpm(tpm) | Roots::Both(tpm, _) => Identity::Full {
                ek_certificate: tpm.endorsement_key().certificate().map(<[u8]>::to_vec),
                ek_public: tpm.endorsement_key().public().to_vec(),
                ak_public: tpm.attestation_key().public().to_vec(),
            },
            Roots::Cvm(cvm) => Identity::Cvm {
                platform: cvm.claimed().platform.clone(),
                guests: cvm.claimed().guests.clone(),
            },
        };
        let encoded = |key: &VerifyingKey| cbor::encode(&key.to_cose_key(true));
        Hello {
            protocol: PROTOCOL.into(),
            identity,
            session_key: encoded(self.session_key()),
            receive_key: Some(encoded(self.receive_key())),
            kinds,
            // The boot tells of logs, and logs are a TPM's.
            boot: boot.filter(|_| self.tpm().is_some()),
        }
    }

    /// The evidence that answers a challenge which came over the connection with this exporter value.
    ///
    /// # Errors
    /// [`RoundError`]
    pub fn answer(
        &mut self,
        domain: &str,
        logs: &LogPaths,
        known: bool,
        challenge: &Challenge,
        tls_exporter: [u8; 32],
    ) -> Result<Submission, RoundError> {
        let mut collection = Collection::bound();
        for (label, bytes) in self.records(known, challenge) {
            insert(&mut collection, label, bytes)?;
        }
        // The manifest names the logs without a digest: a quoted register authenticates them, and they are read after the
        // quote. So it can be computed before they are there.
        let mut announced = collection.clone();
        let mut tpm_logs = Vec::new();
        if self.tpm().is_some() {
            insert(&mut announced, Label::TpmPcrValues, Vec::new())?;
            tpm_logs = logs.announced(&challenge.selection);
        }
        let cvm_log = self.cvm().and_then(Cvm::log);
        let cvm_label = cvm_log.as_ref().map(|(label, _)| *label);
        for label in tpm_logs.iter().copied().chain(cvm_label) {
            insert(&mut announced, label, Vec::new())?;
        }
        let binder = BinderInput {
            role: Role::Node,
            domain,
            session_id: challenge.session_id,
            nonce: challenge.nonce,
            ckt: self.session_key().thumbprint(),
            receive_key: Some(self.receive_key().thumbprint()),
            tls_exporter,
            manifest_digest: announced.manifest_digest().map_err(evidence)?,
        };
        let mut activation = None;
        let mut offsets = LogBytes::new();
        if let Some(tpm) = self.tpm_mut() {
            quote(tpm, challenge, &binder, &mut collection)?;
            if let Some((blob, secret)) = &challenge.credential {
                let credential = tpm.activate_credential(blob, secret)?;
                activation = Some(activation_answer(&credential, &binder.encode()));
            }
        }
        if let Some(cvm) = self.cvm_mut() {
            let (label, report) = cvm.report(&binder.report_data())?;
            insert(&mut collection, label, report)?;
        }
        for label in tpm_logs {
            let tail = logs.tail(label, &challenge.known)?;
            if tail.offset > 0 {
                offsets.insert(label, tail.offset);
            }
            if !tail.bytes.is_empty() {
                insert(&mut collection, label, tail.bytes)?;
            }
        }
        if let Some((label, path)) = cvm_log {
            insert(&mut collection, label, Cvm::read_log(&path)?)?;
        }
        Ok(Submission {
            session_id: challenge.session_id,
            collection: collection.encode(),
            activation,
            offsets,
        })
    }

    /// The records that nothing but the binder authenticates.
    fn records(&self, known: bool, challenge: &Challenge) -> Vec<(Label, Vec<u8>)> {
        let mut records = Vec::new();
        if let Some(tpm) = self.tpm() {
            // Every round: the broker judges the enrolled certificate anew and keeps no intermediates.
            if let Some(chain) = tpm.endorsement_key().chain() {
                records.push((Label::TpmEkChain, chain.to_vec()));
            }
            if !known {
                if let Some(certificate) = tpm.endorsement_key().certificate() {
                    records.push((Label::TpmEkCertificate, certificate.to_vec()));
                }
                records.push((Label::TpmEkPublic, tpm.endorsement_key().public().to_vec()));
            }
            records.push((Label::TpmAkPublic, tpm.attestation_key().public().to_vec()));
            if !challenge.session_key_known {
                records.push((Label::TpmSessionKey, tpm.session_public_area().to_vec()));
                records.push((Label::TpmReceiveKey, tpm.receive_public_area().to_vec()));
            }
        }
        if let Some(cvm) = self.cvm() {
            records.extend(cvm.records().iter().cloned());
        }
        records
    }
}

/// What the TPM signs over the binder.
fn quote(
    tpm: &mut Attester,
    challenge: &Challenge,
    binder: &BinderInput<'_>,
    collection: &mut Collection,
) -> Result<(), RoundError> {
    let qualifying = binder.tpm_qualifying_data();
    let quote = tpm.quote(&challenge.selection, &qualifying)?;
    insert(collection, Label::TpmQuote, quote.attested)?;
    insert(collection, Label::TpmQuoteSignature, quote.signature)?;
    insert(collection, Label::TpmPcrValues, pcr_values::encode(&quote.values))?;
    if !challenge.session_key_known {
        let certified = tpm.certify_session_key(&qualifying)?;
        insert(collection, Label::TpmSessionKeyCertify, certified.attested)?;
        insert(collection, Label::TpmSessionKeyCertifySignature, certified.signature)?;
        let certified = tpm.certify_receive_key(&qualifying)?;
        insert(collection, Label::TpmReceiveKeyCertify, certified.attested)?;
        insert(collection, Label::TpmReceiveKeyCertifySignature, certified.signature)?;
    }
    Ok(())
}

/// A key that the agent holds for a workload: in the TPM, or in a confidential VM's memory.
#[derive(Debug)]
pub enum HeldKey {
    /// A session key of the TPM's.
    Tpm(Box<(SessionKey, VerifyingKey)>),
    /// In memory that is encrypted.
    Memory(MemoryKey),
}

impl HeldKey {
    /// Its public half.
    #[must_use]
    pub fn public(&self) -> &VerifyingKey {
        match self {
            Self::Tpm(key) => &key.1,
            Self::Memory(key) => key.public(),
        }
    }

    /// What keeps it, in the word of requests.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Tpm(_) => "tpm",
            Self::Memory(_) => "tee",
        }
    }
}

/// A held key and the machine that it is in. The machine is used through `&mut`, a signer through `&`: the cell is borrowed
/// for one command at a time.
struct HeldSigner<'a> {
    machine: std::cell::RefCell<&'a mut Machine>,
    key: &'a HeldKey,
}

impl Signer for HeldSigner<'_> {
    fn algorithm(&self) -> touchstone_cose::key::Algorithm {
        self.key.public().algorithm()
    }

    fn kid(&self) -> [u8; 8] {
        self.key.public().kid()
    }

    fn sign(&self, to_be_signed: &[u8]) -> Result<Vec<u8>, SignError> {
        match self.key {
            HeldKey::Memory(key) => key.sign(to_be_signed),
            HeldKey::Tpm(key) => {
                let mut machine = self.machine.borrow_mut();
                let tpm = machine
                    .tpm_mut()
                    .ok_or_else(|| SignError::Device("the TPM is gone".into()))?;
                let signed = tpm.sign_with(&key.0, to_be_signed);
                signed
                    .map(|signature| signature.to_vec())
                    .map_err(|error| SignError::Device(error.to_string()))
            }
        }
    }
}

/// The session key of a confidential VM, borrowed as a TPM's is.
struct SignerOf<'a>(&'a Cvm);

impl Signer for SignerOf<'_> {
    fn algorithm(&self) -> touchstone_cose::key::Algorithm {
        self.0.session_key().algorithm()
    }

    fn kid(&self) -> [u8; 8] {
        self.0.session_key().kid()
    }

    fn sign(&self, to_be_signed: &[u8]) -> Result<Vec<u8>, touchstone_cose::key::SignError> {
        self.0.session_key().sign(to_be_signed)
    }
}

/// The receive key of a confidential VM, borrowed likewise.
struct ReceiverOf<'a>(&'a Cvm);

impl Agreement for ReceiverOf<'_> {
    fn kid(&self) -> [u8; 8] {
        self.0.receive_key().kid()
    }

    fn agree(&self, ephemeral: &Point) -> Result<Zeroizing<[u8; 32]>, AgreementError> {
        self.0.receive_key().agree(ephemeral)
    }
}

fn insert(collection: &mut Collection, label: Label, bytes: Vec<u8>) -> Result<(), RoundError> {
    collection.insert(label, bytes).map_err(evidence)
}

fn evidence(error: impl std::fmt::Display) -> RoundError {
    RoundError::Evidence(error.to_string())
}
