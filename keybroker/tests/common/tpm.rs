//! A machine in software: keys that speak as a TPM's do, over the log and registers of a recorded boot. What it cannot
//! show is that its keys cannot leave it; everything else a broker sees of a node it does for real.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::cipher::{AES_128, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor;
use touchstone_cose::encrypt::SoftwareReceiveKey;
use touchstone_cose::key::{Algorithm, SignError, Signer, VerifyingKey};
use touchstone_evidence::binder::{BinderInput, Role};
use touchstone_evidence::collection::Collection;
use touchstone_evidence::label::Label;
use touchstone_evidence::message::{Challenge, Hello, Identity, LogBytes, PROTOCOL, Submission};
use touchstone_evidence::pcr_values::{self, PcrValues};
use touchstone_verifier::tpm::credential::activation_answer;
use touchstone_verifier::tpm::ek::POLICY_A_SHA256;
use touchstone_verifier::tpm::policy::policy_pcr;
use touchstone_verifier::tpm::{HashAlg, PcrSelection, Public};

use super::boots;

/// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt: the L-2 template.
const EK_ATTRIBUTES: u32 = 0x0003_00B2;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign.
const AK_ATTRIBUTES: u32 = 0x0005_0072;
/// fixedTPM, fixedParent, sensitiveDataOrigin, decrypt.
const RECEIVE_ATTRIBUTES: u32 = 0x0002_0032;
/// fixedTPM, fixedParent, sensitiveDataOrigin, sign.
const SESSION_ATTRIBUTES: u32 = 0x0004_0032;
const QUOTE: u16 = 0x8018;
const CERTIFY: u16 = 0x8017;

/// A P-256 key that signs.
pub struct SoftKey(EcdsaKeyPair);

impl SoftKey {
    pub fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn verifying_key(&self) -> VerifyingKey {
        let point = self.0.public_key().as_ref();
        VerifyingKey::p256(point[1..33].try_into().unwrap(), point[33..].try_into().unwrap()).unwrap()
    }

    fn fixed(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    /// TPMT_SIGNATURE: ECDSA, SHA-256.
    fn tpmt_signature(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        let (r, s) = signature.as_ref().split_at(32);
        [&[0x00, 0x18, 0x00, 0x0B, 0x00, 32][..], r, &[0, 32], s].concat()
    }

    /// TPMT_PUBLIC that signs with ECDSA and SHA-256.
    fn public(&self, attributes: u32, auth_policy: &[u8]) -> Vec<u8> {
        let scheme = [0x00, 0x10, 0x00, 0x18, 0x00, 0x0B];
        ecc_public(attributes, auth_policy, &scheme, &self.0.public_key().as_ref()[1..])
    }
}

impl Signer for SoftKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Esp256
    }

    fn kid(&self) -> [u8; 8] {
        self.verifying_key().kid()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(self.fixed(message))
    }
}

fn ecc_public(attributes: u32, auth_policy: &[u8], scheme: &[u8], point: &[u8]) -> Vec<u8> {
    let (x, y) = point.split_at(32);
    let head = [&[0x00, 0x23, 0x00, 0x0B][..], &attributes.to_be_bytes()].concat();
    [
        &head,
        &sized(auth_policy),
        scheme,
        &[0x00, 0x03, 0x00, 0x10],
        &sized(x),
        &sized(y),
    ]
    .concat()
}

pub fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// A machine.
pub struct SoftNode {
    ek: PrivateKey,
    pub ak: SoftKey,
    pub session: SoftKey,
    /// What released keys are encrypted to, where it has such a key.
    pub receive: Option<SoftwareReceiveKey>,
    pub values: PcrValues,
    pub log: Vec<u8>,
    /// IMA's list, where it has one.
    pub ima: Option<Vec<u8>>,
    /// The boot it says it is in.
    pub boot: Option<[u8; 16]>,
    pub clock: u64,
    pub resets: u32,
}

impl SoftNode {
    /// A machine that booted as the recorded boot did, with keys of its own.
    pub fn new(boot: &str) -> Self {
        Self {
            ek: PrivateKey::generate(&ECDH_P256).unwrap(),
            ak: SoftKey::new(),
            session: SoftKey::new(),
            receive: None,
            values: recorded_values(boot),
            log: std::fs::read(boots().join(boot).join("eventlog.bin")).unwrap(),
            ima: None,
            boot: None,
            clock: 1_000,
            resets: 3,
        }
    }

    fn ek_point(&self) -> Vec<u8> {
        self.ek.compute_public_key().unwrap().as_ref()[1..].to_vec()
    }

    pub fn ek_public(&self) -> Vec<u8> {
        let scheme = [0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10];
        ecc_public(EK_ATTRIBUTES, &POLICY_A_SHA256, &scheme, &self.ek_point())
    }

    pub fn ak_public(&self) -> Vec<u8> {
        self.ak.public(AK_ATTRIBUTES, &[])
    }

    pub fn ak_name(&self) -> Vec<u8> {
        name_of(&self.ak_public())
    }

    pub fn hello(&self, known: bool) -> Hello {
        let identity = if known {
            Identity::Known {
                ak_name: self.ak_name(),
            }
        } else {
            Identity::Full {
                ek_certificate: None,
                ek_public: self.ek_public(),
                ak_public: self.ak_public(),
            }
        };
        Hello {
            protocol: PROTOCOL.into(),
            identity,
            session_key: cbor::encode(&self.session.verifying_key().to_cose_key(true)),
            receive_key: self
                .receive
                .as_ref()
                .map(|key| cbor::encode(&key.public().to_cose_key(true))),
            kinds: vec!["tpm".into()],
            boot: self.boot,
        }
    }

    /// Another value in a register, as after something else was booted or loaded.
    pub fn extend(&mut self, register: u8) {
        let value = self.values.get_mut(&(HashAlg::Sha256.tpm_id(), register)).unwrap();
        *value = Sha256::digest([value.as_slice(), &[1; 32]].concat()).to_vec();
    }

    /// The evidence for a challenge that came over the connection with this exporter value.
    pub fn answer(&mut self, domain: &str, challenge: &Challenge, tls_exporter: [u8; 32]) -> Submission {
        self.clock += 1_000;
        let mut collection = Collection::bound();
        let mut put = |label, bytes: Vec<u8>| collection.insert(label, bytes).unwrap();
        put(Label::TpmEkPublic, self.ek_public());
        put(Label::TpmAkPublic, self.ak_public());
        let mut offsets = LogBytes::new();
        let logs = [
            (Label::FirmwareEventLog, Some(&self.log)),
            (Label::ImaLog, self.ima.as_ref()),
        ];
        let mut unchanged = Vec::new();
        for (label, log) in logs {
            let Some(log) = log else { continue };
            let known = challenge.known.get(&label).copied().unwrap_or(0);
            let known = if known > log.len() as u64 { 0 } else { known };
            if known > 0 {
                offsets.insert(label, known);
            }
            match &log[known as usize..] {
                [] => unchanged.push(label),
                tail => put(label, tail.to_vec()),
            }
        }
        let selection = PcrSelection::from_wire(&challenge.selection).unwrap();
        let asked: PcrValues = selection
            .iter()
            .filter_map(|(bank, pcr)| Some(((bank.tpm_id(), pcr), self.values.get(&(bank.tpm_id(), pcr))?.clone())))
            .collect();
        put(Label::TpmPcrValues, pcr_values::encode(&asked));
        let value = |bank: HashAlg, pcr: u8| self.values.get(&(bank.tpm_id(), pcr)).map(Vec::as_slice);
        let session_registers = PcrSelection::from_wire(&challenge.session_key_registers).unwrap();
        let session_public = self
            .session
            .public(SESSION_ATTRIBUTES, &policy_pcr(&session_registers, value).unwrap());
        if !challenge.session_key_known {
            put(Label::TpmSessionKey, session_public.clone());
        }
        let receive_public = self.receive.as_ref().map(|key| {
            let VerifyingKey::P256 { x, y } = key.public() else {
                unreachable!()
            };
            let policy = policy_pcr(&session_registers, value).unwrap();
            ecc_public(
                RECEIVE_ATTRIBUTES,
                &policy,
                &[0x00, 0x10, 0x00, 0x19, 0x00, 0x0B],
                &[x.as_slice(), y].concat(),
            )
        });
        let certified_anew = receive_public.filter(|_| !challenge.session_key_known);
        if let Some(public) = &certified_anew {
            put(Label::TpmReceiveKey, public.clone());
        }
        let binder = BinderInput {
            role: Role::Node,
            domain,
            session_id: challenge.session_id,
            nonce: challenge.nonce,
            ckt: self.session.verifying_key().thumbprint(),
            receive_key: self.receive.as_ref().map(|key| key.public().thumbprint()),
            tls_exporter,
            manifest_digest: {
                let mut announced = collection.clone();
                for label in unchanged {
                    announced.put_log(label, Vec::new()).unwrap();
                }
                announced.manifest_digest().unwrap()
            },
        };
        let digest = selection.pcr_digest(HashAlg::Sha256, value).unwrap();
        let quote = self.attest(QUOTE, &binder, &[selection.to_tpml(), sized(digest.as_ref())].concat());
        let mut put = |label, bytes: Vec<u8>| collection.insert(label, bytes).unwrap();
        put(Label::TpmQuoteSignature, self.ak.tpmt_signature(&quote));
        put(Label::TpmQuote, quote);
        if !challenge.session_key_known {
            let name = sized(&name_of(&session_public));
            let certify = self.attest(CERTIFY, &binder, &[name.clone(), name].concat());
            put(Label::TpmSessionKeyCertifySignature, self.ak.tpmt_signature(&certify));
            put(Label::TpmSessionKeyCertify, certify);
        }
        if let Some(public) = &certified_anew {
            let name = sized(&name_of(public));
            let certify = self.attest(CERTIFY, &binder, &[name.clone(), name].concat());
            put(Label::TpmReceiveKeyCertifySignature, self.ak.tpmt_signature(&certify));
            put(Label::TpmReceiveKeyCertify, certify);
        }
        let activation = challenge
            .credential
            .as_ref()
            .map(|(blob, secret)| activation_answer(&self.activate(blob, secret), &binder.encode()));
        Submission {
            session_id: challenge.session_id,
            collection: collection.encode(),
            activation,
            offsets,
        }
    }

    /// TPMS_ATTEST.
    fn attest(&self, kind: u16, binder: &BinderInput<'_>, attested: &[u8]) -> Vec<u8> {
        let mut out = 0xFF54_4347_u32.to_be_bytes().to_vec();
        out.extend(kind.to_be_bytes());
        out.extend(sized(&[0x00, 0x0B]));
        out.extend(sized(&binder.tpm_qualifying_data()));
        out.extend(self.clock.to_be_bytes());
        out.extend(self.resets.to_be_bytes());
        out.extend([0, 0, 0, 0, 1]);
        out.extend(7u64.to_be_bytes());
        out.extend(attested);
        out
    }

    /// TPM2_ActivateCredential (TCG Part 1, 24): opens the credential with the endorsement key, for the attestation key.
    fn activate(&self, blob: &[u8], encrypted_secret: &[u8]) -> Vec<u8> {
        // Both come as TPM2B, with their lengths.
        let (blob, encrypted_secret) = (&blob[2..], &encrypted_secret[2..]);
        let (x, y) = (&encrypted_secret[2..34], &encrypted_secret[36..68]);
        let ephemeral = [&[4][..], x, y].concat();
        let ek_point = self.ek_point();
        let seed = agree(&self.ek, UnparsedPublicKey::new(&ECDH_P256, ephemeral), (), |z| {
            let parts = [&1u32.to_be_bytes()[..], z, b"IDENTITY\0", x, &ek_point[..32]];
            Ok(Sha256::digest(parts.concat()))
        })
        .unwrap();
        let kdf = [
            &1u32.to_be_bytes()[..],
            b"STORAGE\0",
            &self.ak_name(),
            &128u32.to_be_bytes(),
        ]
        .concat();
        let symmetric = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &seed), &kdf);
        let key = UnboundCipherKey::new(&AES_128, &symmetric.as_ref()[..16]).unwrap();
        let mut identity = blob[34..].to_vec();
        let context = DecryptionContext::Iv128(FixedLength::from([0; 16]));
        let opened = DecryptingKey::cfb128(key)
            .unwrap()
            .decrypt(&mut identity, context)
            .unwrap();
        opened[2..].to_vec()
    }
}

pub fn name_of(public: &[u8]) -> Vec<u8> {
    Public::parse(public).unwrap().name().into_bytes()
}

/// The SHA-256 registers in a boot's `pcrs.txt`.
pub fn recorded_values(boot: &str) -> PcrValues {
    let text = std::fs::read_to_string(boots().join(boot).join("pcrs.txt")).unwrap();
    text.lines()
        .filter_map(|line| {
            let [bank, register, value] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                return None;
            };
            (bank == "sha256").then(|| {
                (
                    (HashAlg::Sha256.tpm_id(), register.parse().unwrap()),
                    hex::decode(value).unwrap(),
                )
            })
        })
        .collect()
}
