//! A machine under an attacker's hands: every part of a hello and of evidence can be made otherwise than an agent does.
#![expect(
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use touchstone_attest::tpm::{Ak, AkAlgorithm, EkKind, EndorsementKey, SessionKey, Tpm};
use touchstone_cose::key::VerifyingKey;
use touchstone_evidence::binder::{BinderInput, Role};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::message::{Challenge, Hello, Identity, LogBytes, PROTOCOL, Selection, Submission};
use touchstone_evidence::pcr_values::{self, PcrValues};
use touchstone_verifier::tpm::credential::activation_answer;
use touchstone_verifier::tpm::policy::policy_pcr;
use touchstone_verifier::tpm::{HashAlg, PcrSelection, Public};

use crate::boots::{Boot, KeyForm, SHA256};
use crate::domain::NAME;
use crate::odd_key::OddKey;
use crate::swtpm::Swtpm;

/// The registers a session key is tied to, by the default settings.
pub const SESSION_REGISTERS: [u8; 7] = [0, 2, 4, 7, 8, 9, 14];

/// A running machine: the TPM of a recorded boot, its recorded attestation key, the registers and log of `good`.
pub struct Machine {
    /// Its TPM from outside.
    pub swtpm: Swtpm,
    /// Its TPM.
    pub tpm: Tpm,
    /// Its endorsement key.
    pub ek: EndorsementKey,
    /// Its attestation key.
    pub ak: Ak,
    /// Its session key.
    pub session: SessionKey,
    /// Its event log; none is sent where it has none.
    pub log: Option<Vec<u8>>,
    /// Its IMA list; sent whole where register 10 is quoted.
    pub list: Option<Vec<u8>>,
}

/// How evidence is made. As it comes from [`Plan::honest`], it is what an agent sends.
pub struct Plan<'a> {
    /// The session it is for.
    pub session_id: [u8; 16],
    /// The nonce in the binder.
    pub nonce: [u8; 32],
    /// The exporter value in the binder.
    pub exporter: [u8; 32],
    /// The domain in the binder.
    pub domain: &'a str,
    /// The registers that are quoted.
    pub selection: Selection,
    /// The session key that is sent and certified; none where it is known.
    pub certified: Certified<'a>,
    /// Thumbprint of the session key in the binder, where not that of the key that is sent.
    pub named: Option<[u8; 32]>,
    /// Qualifying data of the certification, where not the binder's.
    pub certify_over: Option<[u8; 32]>,
    /// The credential to open.
    pub credential: Option<(Vec<u8>, Vec<u8>)>,
}

/// Which session key is sent with its certification.
pub enum Certified<'a> {
    /// None: the broker knows it.
    Known,
    /// The machine's own.
    Own,
    /// Another one.
    Odd(&'a mut OddKey),
}

impl Plan<'_> {
    /// What an agent answers to this challenge on the connection with this exporter value.
    #[must_use]
    pub fn honest(challenge: &Challenge, exporter: [u8; 32]) -> Self {
        Self {
            session_id: challenge.session_id,
            nonce: challenge.nonce,
            exporter,
            domain: NAME,
            selection: challenge.selection.clone(),
            certified: if challenge.session_key_known {
                Certified::Known
            } else {
                Certified::Own
            },
            named: None,
            certify_over: None,
            credential: challenge.credential.clone(),
        }
    }
}

impl Machine {
    /// Starts the TPM of a recorded boot, in the state after `good` ran.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(state_of: &Boot) -> Self {
        let swtpm = Swtpm::from_boot(state_of, &Boot::GOOD).expect("a software TPM");
        let mut tpm = Tpm::open(&swtpm.tcti()).expect("an open TPM");
        let ek = tpm.endorsement_key(EkKind::Rsa2048).expect("an endorsement key");
        let ak = tpm.ak_at(&ek, KeyForm::Ecc.ak_handle()).expect("an attestation key");
        let session = tpm
            .create_session_key(&ek, &session_registers())
            .expect("a session key");
        Self {
            swtpm,
            tpm,
            ek,
            ak,
            session,
            log: Some(Boot::GOOD.event_log()),
            list: None,
        }
    }

    /// A newly made TPM of a maker whom nobody knows, its registers as at power-on, with an attestation key of its own.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn blank() -> Self {
        Self::of(Swtpm::blank().expect("a software TPM"), EkKind::Rsa2048)
    }

    /// A newly made TPM without any certificate, in the state after `good` ran, with keys of its own.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn bare() -> Self {
        let swtpm = Swtpm::bare().expect("a software TPM");
        swtpm.reboot(&Boot::GOOD).expect("measurements");
        Self::of(swtpm, EkKind::EccP256)
    }

    fn of(swtpm: Swtpm, kind: EkKind) -> Self {
        let mut tpm = Tpm::open(&swtpm.tcti()).expect("an open TPM");
        let ek = tpm.endorsement_key(kind).expect("an endorsement key");
        let made = tpm.create_ak(&ek, AkAlgorithm::EcdsaP256).expect("an attestation key");
        let ak = tpm.load_ak(&ek, &made).expect("an attestation key");
        let session = tpm
            .create_session_key(&ek, &session_registers())
            .expect("a session key");
        Self {
            swtpm,
            tpm,
            ek,
            ak,
            session,
            log: Some(Boot::GOOD.event_log()),
            list: None,
        }
    }

    /// Makes a new session key, as after a reset.
    ///
    /// # Panics
    /// When the TPM does not.
    pub fn renew_session_key(&mut self) {
        self.session = self
            .tpm
            .create_session_key(&self.ek, &session_registers())
            .expect("a session key");
    }

    /// The session key.
    #[must_use]
    pub fn session_key(&self) -> VerifyingKey {
        key_of(self.session.public())
    }

    /// Its full identity, or the Name alone.
    #[must_use]
    pub fn identity(&self, known: bool) -> Identity {
        if known {
            Identity::Known {
                ak_name: self.ak.name().to_vec(),
            }
        } else {
            Identity::Full {
                ek_certificate: self.ek.certificate().map(<[u8]>::to_vec),
                ek_public: self.ek.public().to_vec(),
                ak_public: self.ak.public().to_vec(),
            }
        }
    }

    /// The hello of an agent.
    #[must_use]
    pub fn hello(&self, known: bool) -> Hello {
        hello(self.identity(known), &self.session_key())
    }

    /// The policy digest of a session key in the present state.
    ///
    /// # Panics
    /// When the TPM does not show its registers.
    #[must_use]
    pub fn session_policy(&self) -> [u8; 32] {
        let values = self.swtpm.pcr_values(SHA256).expect("values");
        let selection = PcrSelection::from_wire(&session_registers()).expect("a selection");
        let value = |_: HashAlg, pcr: u8| values.get(usize::from(pcr)).map(Vec::as_slice);
        policy_pcr(&selection, value).expect("a policy")
    }

    /// Makes evidence by this plan.
    ///
    /// # Panics
    /// When the TPM does not do its part.
    #[must_use]
    pub fn evidence(&mut self, mut plan: Plan<'_>) -> Submission {
        let mut collection = Collection::bound();
        let mut put = |label, bytes| collection.insert(label, bytes).expect("room");
        if let Some(certificate) = self.ek.certificate() {
            put(Label::TpmEkCertificate, certificate.to_vec());
        }
        put(Label::TpmEkPublic, self.ek.public().to_vec());
        put(Label::TpmAkPublic, self.ak.public().to_vec());
        let session_public = match &plan.certified {
            Certified::Odd(key) => key.public().to_vec(),
            Certified::Own | Certified::Known => self.session.public().to_vec(),
        };
        if !matches!(plan.certified, Certified::Known) {
            put(Label::TpmSessionKey, session_public.clone());
        }
        let values: PcrValues = self
            .tpm
            .pcr_values(&plan.selection)
            .expect("values")
            .into_iter()
            .flat_map(|(bank, values)| values.into_iter().map(move |(pcr, value)| ((bank, pcr), value)))
            .collect();
        put(Label::TpmPcrValues, pcr_values::encode(&values));
        if let Some(log) = &self.log {
            put(Label::FirmwareEventLog, log.clone());
        }
        if let Some(list) = self.list.as_ref().filter(|_| values.contains_key(&(SHA256, 10))) {
            put(Label::ImaLog, list.clone());
        }
        let binder = BinderInput {
            role: Role::Node,
            domain: plan.domain,
            session_id: plan.session_id,
            nonce: plan.nonce,
            ckt: plan.named.unwrap_or_else(|| key_of(&session_public).thumbprint()),
            receive_key: None,
            tls_exporter: plan.exporter,
            manifest_digest: collection.manifest_digest().expect("each record once"),
        };
        let qualifying = binder.tpm_qualifying_data();
        let quote = self.tpm.quote(&self.ak, &plan.selection, &qualifying).expect("a quote");
        let mut put = |label, bytes| collection.insert(label, bytes).expect("room");
        put(Label::TpmQuote, quote.attested);
        put(Label::TpmQuoteSignature, quote.signature);
        let over = plan.certify_over.unwrap_or(qualifying);
        let certification = match &mut plan.certified {
            Certified::Known => None,
            Certified::Own => {
                let made = self
                    .tpm
                    .certify(&self.session, &self.ak, &over)
                    .expect("a certification");
                Some((made.attested, made.signature))
            }
            Certified::Odd(key) => Some(key.certify(KeyForm::Ecc.ak_handle(), &over)),
        };
        if let Some((attested, signature)) = certification {
            put(Label::TpmSessionKeyCertify, attested);
            put(Label::TpmSessionKeyCertifySignature, signature);
        }
        let activation = plan.credential.map(|(blob, secret)| {
            match self.tpm.activate_credential(&self.ek, &self.ak, &blob, &secret) {
                Ok(credential) => activation_answer(&credential, &binder.encode()),
                // It was made for another TPM. An attacker guesses.
                Err(_) => [0x5A; 32],
            }
        });
        Submission {
            session_id: plan.session_id,
            collection: collection.encode(),
            activation,
            offsets: LogBytes::new(),
        }
    }
}

/// A hello of this identity with this session key.
#[must_use]
pub fn hello(identity: Identity, session_key: &VerifyingKey) -> Hello {
    Hello {
        protocol: PROTOCOL.into(),
        identity,
        session_key: touchstone_cose::cbor::encode(&session_key.to_cose_key(true)),
        receive_key: None,
        kinds: vec!["tpm".into()],
        boot: None,
    }
}

/// The same submission with other bytes in some records; none takes a record out.
///
/// # Panics
/// When the submission is no collection.
#[must_use]
pub fn falsified(submission: &Submission, changes: &[(Label, Option<Vec<u8>>)]) -> Submission {
    let honest = Collection::decode(&submission.collection).expect("a collection");
    let mut collection = Collection::bound();
    for (label, bytes) in honest.records() {
        let change = changes.iter().find(|(changed, _)| *changed == label);
        match change.map(|(_, bytes)| bytes) {
            Some(None) => {}
            Some(Some(other)) => collection.insert(label, other.clone()).expect("room"),
            None => collection.insert(label, bytes.to_vec()).expect("room"),
        }
    }
    for (label, bytes) in changes {
        if let (Some(bytes), None) = (bytes, honest.get(*label)) {
            collection.insert(*label, bytes.clone()).expect("room");
        }
    }
    Submission {
        collection: collection.encode(),
        ..submission.clone()
    }
}

/// A record of a submission.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn record(submission: &Submission, label: Label) -> Vec<u8> {
    let collection = Collection::decode(&submission.collection).expect("a collection");
    collection.get(label).expect("the record").to_vec()
}

/// The key in a TPMT_PUBLIC.
///
/// # Panics
/// When there is none of ours.
#[must_use]
pub fn key_of(public: &[u8]) -> VerifyingKey {
    let public = Public::parse(public).expect("a public area");
    VerifyingKey::from_spki_der(&public.to_spki_der()).expect("a key")
}

/// [`SESSION_REGISTERS`] as they travel.
#[must_use]
pub fn session_registers() -> Selection {
    vec![(SHA256, SESSION_REGISTERS.to_vec())]
}
