//! The report that Azure's paravisor keeps for a confidential VM (NV index 0x01400001 of its virtual TPM).
//!
//! Layout (little-endian): 32 bytes of header beginning with `HCLA`, 1184 bytes for the hardware's report (an SEV-SNP
//! report, or a TDREPORT of 1024 bytes), 20 bytes of lengths and kinds, then runtime data in JSON. The hardware's
//! report data is the hash of that JSON, so the JSON is as good as the hardware's signature; everything else in the
//! structure is commentary. Source: Azure documentation "Confidential VM guest attestation design", and the structures
//! of the open paravisor.
//!
//! Such a report is *endorsing*: it was made when the machine started and names the attestation key of the virtual TPM.
//! Freshness comes from a quote by that key (`docs/protocol.md`, section 3).

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::tpm::HashAlg;
use crate::x509::SubjectKey;

/// Longest report, in bytes.
pub const MAX_REPORT: usize = 16 << 10;
/// Most keys the runtime data may list.
pub const MAX_KEYS: usize = 16;
const HEADER: usize = 32;
const HARDWARE: usize = 1184;
const TDREPORT: usize = 1024;
/// Where a TDREPORT has its report data (Intel TDX module ABI, REPORTMACSTRUCT).
const TDREPORT_DATA: usize = 128;
const SIGNATURE: &[u8] = b"HCLA";
/// Name of the virtual TPM's attestation key in the runtime data.
const AK: &str = "HCLAkPub";

touchstone_cose::reason_codes! {
    /// Why the report of Azure's paravisor was refused.
    pub enum AzureCode {
        ReportMalformed = "azure-report-malformed":
            "The bytes are not the report of Azure's paravisor, or its kind, hash or keys are not known here. Read NV index 0x01400001 again.",
        RuntimeData = "azure-runtime-data-mismatch":
            "The run-time data are not the ones whose hash the hardware signed, so the key that they name is nobody's. They were altered, or belong to another machine.",
        ReportNotFresh = "azure-report-not-fresh":
            "The report was made when the machine started and does not answer this challenge, and the policy wants one that does (azure.report_freshness = session). Write the binder to NV index 0x01400002 first.",
    }
}

/// Which hardware report the slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HardwareKind {
    /// An SEV-SNP attestation report.
    Snp,
    /// A TDREPORT: it proves nothing off its platform; a quote with the same report data does.
    Tdx,
}

/// Why bytes are not such a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HclError {
    /// Shorter or longer than its lengths say, or over the limit.
    #[error("expected {expected}, found {found} bytes")]
    Length {
        /// What was expected.
        expected: &'static str,
        /// What is there.
        found: usize,
    },
    /// Not `HCLA`.
    #[error("expected a report that begins with HCLA")]
    Magic,
    /// A kind of hardware report or hash this version does not know.
    #[error("expected {expected}, found {found}")]
    Kind {
        /// What is known.
        expected: &'static str,
        /// The number found.
        found: u32,
    },
    /// The runtime data is not the JSON it should be.
    #[error("the runtime data: {found}")]
    RuntimeData {
        /// What is wrong with it.
        found: String,
    },
    /// Not exactly one attestation key of the virtual TPM.
    #[error("expected one RSA key {AK}, found {found}")]
    AttestationKey {
        /// What is there.
        found: String,
    },
}

#[derive(Deserialize)]
struct RuntimeData {
    keys: Vec<Jwk>,
    #[serde(rename = "user-data")]
    user_data: Option<String>,
    #[serde(rename = "vm-configuration")]
    configuration: Option<Configuration>,
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    kty: String,
    n: Option<String>,
    e: Option<String>,
}

/// What the paravisor says about how the machine was set up.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Configuration {
    /// Whether Secure Boot is on, as the paravisor says.
    #[serde(rename = "secure-boot")]
    pub secure_boot: Option<bool>,
    /// Whether the serial console is there.
    #[serde(rename = "console-enabled")]
    pub console: Option<bool>,
    /// Whether the virtual TPM keeps its state over restarts.
    #[serde(rename = "tpm-persisted")]
    pub tpm_persisted: Option<bool>,
    /// The machine's id, as the paravisor says.
    #[serde(rename = "vmUniqueId")]
    pub vm_id: Option<String>,
}

/// A report that is well formed. It counts for something once [`HclReport::is_bound_to`] has said that the hardware
/// signed the hash of its runtime data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HclReport<'a> {
    kind: HardwareKind,
    hardware: &'a [u8],
    hash: HashAlg,
    runtime_data: &'a [u8],
    attestation_key: SubjectKey,
    user_data: Option<Vec<u8>>,
    configuration: Option<Configuration>,
}

impl<'a> HclReport<'a> {
    /// Reads a report, with or without the padding of its NV index.
    ///
    /// # Errors
    /// [`HclError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HclError> {
        let length = |expected| HclError::Length {
            expected,
            found: bytes.len(),
        };
        if bytes.len() > MAX_REPORT {
            return Err(length("at most 16 KiB"));
        }
        let (header, rest) = bytes.split_at_checked(HEADER).ok_or(length("a header"))?;
        if !header.starts_with(SIGNATURE) {
            return Err(HclError::Magic);
        }
        let (slot, rest) = rest.split_at_checked(HARDWARE).ok_or(length("a hardware report"))?;
        let (fields, rest) = rest.split_first_chunk::<20>().ok_or(length("lengths and kinds"))?;
        let [_data_size, _version, kind, hash, variable] = words(fields);
        let (kind, hardware) = match kind {
            2 => (HardwareKind::Snp, slot),
            4 => (HardwareKind::Tdx, slot.get(..TDREPORT).unwrap_or_default()),
            found => {
                return Err(HclError::Kind {
                    expected: "report type 2 (SNP) or 4 (TDX)",
                    found,
                });
            }
        };
        let hash = match hash {
            1 => HashAlg::Sha256,
            2 => HashAlg::Sha384,
            3 => HashAlg::Sha512,
            found => {
                return Err(HclError::Kind {
                    expected: "hash type 1 (SHA-256), 2 (SHA-384) or 3 (SHA-512)",
                    found,
                });
            }
        };
        let runtime_data = usize::try_from(variable)
            .ok()
            .and_then(|variable| rest.get(..variable))
            .ok_or(length("as much runtime data as it says"))?;
        let parsed: RuntimeData = serde_json::from_slice(runtime_data).map_err(|error| HclError::RuntimeData {
            found: error.to_string(),
        })?;
        let user_data = match parsed.user_data.as_deref().map(hex::decode).transpose() {
            Ok(user_data) => user_data,
            Err(error) => {
                return Err(HclError::RuntimeData {
                    found: format!("user-data: {error}"),
                });
            }
        };
        Ok(Self {
            kind,
            hardware,
            hash,
            runtime_data,
            attestation_key: attestation_key(&parsed.keys)?,
            user_data,
            configuration: parsed.configuration,
        })
    }

    /// Which hardware report it holds.
    pub fn kind(&self) -> HardwareKind {
        self.kind
    }

    /// The hardware's report: 1184 bytes of SEV-SNP, 1024 of TDX.
    pub fn hardware(&self) -> &'a [u8] {
        self.hardware
    }

    /// The report data inside a TDREPORT; none for SEV-SNP, whose report is read as such.
    pub fn tdreport_data(&self) -> Option<&'a [u8]> {
        match self.kind {
            HardwareKind::Tdx => self.hardware.get(TDREPORT_DATA..TDREPORT_DATA + 64),
            HardwareKind::Snp => None,
        }
    }

    /// Whether `report_data`, which the hardware signed, is the hash of this runtime data with zeros behind it.
    pub fn is_bound_to(&self, report_data: &[u8; 64]) -> bool {
        let hashed = digest::digest(self.hash.algorithm(), self.runtime_data);
        let (bound, rest) = report_data.split_at_checked(hashed.as_ref().len()).unwrap_or_default();
        bound == hashed.as_ref() && rest.iter().all(|byte| *byte == 0)
    }

    /// The attestation key of the virtual TPM, and nothing else in the report is one.
    pub fn attestation_key(&self) -> &SubjectKey {
        &self.attestation_key
    }

    /// What the guest wrote into NV index 0x01400002 before the report was made; freshness, where it is the binder.
    pub fn user_data(&self) -> Option<&[u8]> {
        self.user_data.as_deref()
    }

    /// How the machine was set up, as the paravisor says.
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }
}

fn words(bytes: &[u8; 20]) -> [u32; 5] {
    let mut words = [0; 5];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*chunk);
    }
    words
}

fn attestation_key(keys: &[Jwk]) -> Result<SubjectKey, HclError> {
    let wrong = |found: String| HclError::AttestationKey { found };
    if keys.len() > MAX_KEYS {
        return Err(wrong(format!("{} keys", keys.len())));
    }
    let mut named = keys.iter().filter(|key| key.kid == AK);
    let (Some(key), None) = (named.next(), named.next()) else {
        return Err(wrong(format!(
            "{} of them",
            keys.iter().filter(|key| key.kid == AK).count()
        )));
    };
    let number = |text: &Option<String>| {
        let bytes = text.as_deref().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.get(zeros..).map(<[u8]>::to_vec)
    };
    let (Some(modulus), Some(exponent)) = (number(&key.n), number(&key.e)) else {
        return Err(wrong("no modulus and exponent".into()));
    };
    if key.kty != "RSA" || modulus.len() < 256 || modulus.len() > 512 || exponent.is_empty() || exponent.len() > 4 {
        return Err(wrong(format!("{} of {} bits", key.kty, modulus.len() * 8)));
    }
    let exponent = exponent.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    Ok(SubjectKey::Rsa { modulus, exponent })
}
