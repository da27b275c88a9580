//! By which hardware an author names a node: a certificate, a key, or the machine's own evidence.

use touchstone_verifier::inventory::{CvmIdentity, EkId};
use touchstone_verifier::tpm::Public;
use touchstone_verifier::x509::iak_certificate::{DeviceId, device_ids};
use touchstone_verifier::x509::{Certificate, SubjectKey};

use crate::author::evidence::{CheckedEvidence, EvidenceAk, is_pem, subject_key_from_pem};
use crate::error::{PolicyCode, PolicyError};
use crate::targets::inventory_file::{NodeFile, device_text};

/// What an author gives to name a node's hardware: the bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeIdentity {
    /// The endorsement key's certificate, DER or PEM.
    EkCert(Vec<u8>),
    /// The endorsement key: TPM2B_PUBLIC, TPMT_PUBLIC or PEM.
    Ek(Vec<u8>),
    /// An attestation key that stands for itself: TPM2B_PUBLIC, TPMT_PUBLIC or PEM.
    Ak(Vec<u8>),
    /// A certificate of a device identity (IDevID, LDevID, IAK or LAK), DER or PEM.
    Device(Vec<u8>),
    /// An evidence envelope of the machine: its endorsement key and its attestation key, tied by the author's signature,
    /// and the confidential VM that its report shows.
    Evidence(Vec<u8>),
}

/// The identities of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Hardware {
    pub ek: Vec<EkId>,
    pub ak_names: Vec<Vec<u8>>,
    pub ak_keys: Vec<[u8; 32]>,
    pub devices: Vec<DeviceId>,
    pub platforms: Vec<CvmIdentity>,
    /// Serial numbers of its GPUs, hexadecimal.
    pub gpus: Vec<String>,
    /// What the author should know.
    pub notes: Vec<String>,
}

impl NodeIdentity {
    /// Reads the file.
    pub(crate) fn read(&self) -> Result<Hardware, PolicyError> {
        let unreadable = |expected: &str, found: String| {
            PolicyError::new(PolicyCode::IdentityUnreadable, "identity", expected, found)
        };
        match self {
            NodeIdentity::EkCert(bytes) => {
                let der = certificate_der(bytes).map_err(|e| unreadable("an endorsement certificate", e))?;
                let parsed = Certificate::from_der(&der);
                let parsed = parsed.map_err(|e| unreadable("an endorsement certificate", e.to_string()))?;
                Ok(Hardware {
                    ek: vec![EkId(parsed.key().spki_sha256())],
                    ..Hardware::default()
                })
            }
            NodeIdentity::Ek(bytes) => {
                let (key, _) = public_key(bytes).map_err(|e| unreadable("an endorsement key", e))?;
                Ok(Hardware {
                    ek: vec![EkId(key.spki_sha256())],
                    ..Hardware::default()
                })
            }
            NodeIdentity::Ak(bytes) => {
                let (key, public) = public_key(bytes).map_err(|e| unreadable("an attestation key", e))?;
                if let Some(Err(faults)) = public.as_ref().map(|p| p.check_ak()) {
                    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                    let (code, claim) = (PolicyCode::IdentityRefused, "attestation key");
                    return Err(PolicyError::new(
                        code,
                        claim,
                        "a restricted signing key",
                        faults.join("; "),
                    ));
                }
                let mut notes = Vec::new();
                if public.is_none() {
                    notes.push("a PEM key says nothing about where it lives: your signature vouches for that".into());
                }
                Ok(Hardware {
                    ak_keys: vec![key.spki_sha256()],
                    notes,
                    ..Hardware::default()
                })
            }
            NodeIdentity::Device(bytes) => {
                let der = certificate_der(bytes).map_err(|e| unreadable("a device certificate", e))?;
                let parsed = Certificate::from_der(&der);
                let parsed = parsed.map_err(|e| unreadable("a device certificate", e.to_string()))?;
                if parsed.is_ca() {
                    let (expected, found) = ("a device's certificate", "a CA's");
                    return Err(PolicyError::new(
                        PolicyCode::IdentityRefused,
                        "identity",
                        expected,
                        found,
                    ));
                }
                Ok(Hardware {
                    devices: device_ids(&parsed),
                    ..Hardware::default()
                })
            }
            NodeIdentity::Evidence(bytes) => from_evidence(bytes),
        }
    }
}

fn from_evidence(bytes: &[u8]) -> Result<Hardware, PolicyError> {
    let evidence = CheckedEvidence::read(bytes)?;
    let mut hardware = Hardware {
        ek: evidence.ek.into_iter().collect(),
        ..Hardware::default()
    };
    if let Some(guest) = &evidence.snp {
        hardware.notes.extend(guest.notes.iter().cloned());
    }
    if let Some(guest) = &evidence.tdx {
        hardware.notes.extend(guest.notes.iter().cloned());
    }
    hardware.platforms.extend(evidence.snp.map(|guest| guest.identity));
    hardware.gpus = evidence.gpus.serials;
    hardware.platforms.extend(evidence.tdx.map(|guest| guest.identity));
    let Some(ak) = evidence.ak else {
        return Ok(hardware);
    };
    match ak {
        EvidenceAk::Checked(name) => hardware.ak_names.push(name.into_bytes()),
        EvidenceAk::KeyOnly if hardware.ek.is_empty() && hardware.platforms.is_empty() => {
            let (code, expected) = (
                PolicyCode::IdentityRefused,
                "an endorsement key, or a key with TPM attributes",
            );
            return Err(PolicyError::new(
                code,
                "evidence",
                expected,
                "an attestation key in PEM alone",
            ));
        }
        // A report of the machine's hardware vouches for the key.
        EvidenceAk::KeyOnly if !hardware.platforms.is_empty() => {}
        EvidenceAk::KeyOnly => hardware.notes.push(
            "the evidence has its attestation key as PEM, without TPM attributes: list that key with node add --ak"
                .into(),
        ),
    }
    Ok(hardware)
}

impl Hardware {
    /// Adds these identities to an entry; what is there stays once.
    pub fn add_to(&self, node: &mut NodeFile) {
        let add = |list: &mut Vec<String>, values: Vec<String>| {
            for value in values {
                if !list.iter().any(|v| v.eq_ignore_ascii_case(&value)) {
                    list.push(value);
                }
            }
        };
        add(&mut node.ek, self.ek.iter().map(ToString::to_string).collect());
        add(&mut node.ak_names, self.ak_names.iter().map(hex::encode).collect());
        add(&mut node.ak_keys, self.ak_keys.iter().map(hex::encode).collect());
        add(&mut node.devices, self.devices.iter().map(device_text).collect());
        add(&mut node.gpus, self.gpus.clone());
        add(
            &mut node.platforms,
            self.platforms.iter().map(ToString::to_string).collect(),
        );
    }

    /// An identity of these that `node` claims, in words.
    pub fn shared_with(&self, node: &NodeFile) -> Option<String> {
        let claims =
            |list: &[String], value: String| list.iter().any(|v| v.eq_ignore_ascii_case(&value)).then_some(value);
        let ek = self
            .ek
            .iter()
            .find_map(|ek| claims(&node.ek, ek.to_string()))
            .map(|v| format!("endorsement key {v}"));
        ek.or_else(|| {
            let ak = self
                .ak_names
                .iter()
                .find_map(|name| claims(&node.ak_names, hex::encode(name)));
            let ak = ak.or_else(|| {
                self.ak_keys
                    .iter()
                    .find_map(|key| claims(&node.ak_keys, hex::encode(key)))
            });
            ak.map(|v| format!("attestation key {v}"))
        })
        .or_else(|| {
            let device = self
                .devices
                .iter()
                .find_map(|id| claims(&node.devices, device_text(id)));
            device.map(|v| format!("device {v}"))
        })
        .or_else(|| {
            let platform = self
                .platforms
                .iter()
                .find_map(|identity| claims(&node.platforms, identity.to_string()));
            platform.map(|v| format!("confidential VM {v}"))
        })
        .or_else(|| {
            let gpu = self.gpus.iter().find_map(|serial| claims(&node.gpus, serial.clone()));
            gpu.map(|v| format!("GPU {v}"))
        })
    }
}

/// A certificate file's DER, whether it is PEM or DER.
pub(crate) fn certificate_der(bytes: &[u8]) -> Result<Vec<u8>, String> {
    if !is_pem(bytes) {
        return Ok(bytes.to_vec());
    }
    let pem = pem::parse(bytes).map_err(|e| e.to_string())?;
    if pem.tag() == "CERTIFICATE" {
        Ok(pem.into_contents())
    } else {
        Err(format!("PEM of {}", pem.tag()))
    }
}

fn public_key(bytes: &[u8]) -> Result<(SubjectKey, Option<Public>), String> {
    if is_pem(bytes) {
        return Ok((subject_key_from_pem(bytes)?, None));
    }
    let public = Public::from_tpm2b_or_tpmt(bytes).map_err(|e| e.to_string())?;
    Ok((public.subject_key(), Some(public)))
}
