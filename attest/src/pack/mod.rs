//! Packs what other tools wrote (tpm2-tools, configfs) into *unbound* evidence: a raw nonce instead of a binder.
//!
//! Unbound evidence serves offline verdicts and reference values. It has a profile of its own, no broker route accepts
//! it, and nothing turns it into an authorization (`docs/protocol.md` 3).

mod gpu;
mod pcr_files;
mod snp;
mod tdx;
mod text;

pub use pcr_files::{MAX_PCR_FILE, PcrValues};

use touchstone_evidence::collection::{Collection, EnvelopeError, Label};
use touchstone_evidence::pcr_values;
use touchstone_policies::compute::{ArtefactError, uki_sections};
use touchstone_verifier::ima::{self, ImaError};
use touchstone_verifier::tpm::attest::{AttestError, signed_bytes};
use touchstone_verifier::tpm::public::{Public, PublicError};
use touchstone_verifier::x509::SubjectKey;
use touchstone_verifier::x509::der::{TrimError, trim_padding};
use touchstone_verifier::x509::ek_certificate::read_ek_chain;

/// The files to pack, as read. Where they are binary, they may be hexadecimal or base64 text of it.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// TPMS_ATTEST or TPM2B_ATTEST.
    pub tpm_quote: Option<Vec<u8>>,
    /// TPMT_SIGNATURE.
    pub tpm_signature: Option<Vec<u8>>,
    /// TPM2B_PUBLIC, TPMT_PUBLIC or PEM.
    pub tpm_ak: Option<Vec<u8>>,
    /// Register values in any of the forms of [`pcr_files`].
    pub tpm_pcrs: Option<Vec<u8>>,
    /// The endorsement key's certificate, DER or PEM.
    pub ek_certificate: Option<Vec<u8>>,
    /// The intermediates above it, PEM or DER one after the other.
    pub ek_chain: Option<Vec<u8>>,
    /// The attestation key's own certificate (IAK or LAK), DER or PEM.
    pub iak_certificate: Option<Vec<u8>>,
    /// The firmware's event log.
    pub event_log: Option<Vec<u8>>,
    /// IMA's list, binary or text, with template digests of any bank.
    pub ima_log: Option<Vec<u8>>,
    /// The unified kernel image that was booted; its measured sections are packed.
    pub uki: Option<Vec<u8>>,
    /// An SEV-SNP report: 1184 bytes, or the message or blob around it.
    pub snp_report: Option<Vec<u8>>,
    /// Certificates of the key that signed it and those above: DER, PEM, or the host's table, one a file.
    pub snp_certificates: Vec<Vec<u8>>,
    /// Reports of GPUs and NVSwitches, binary or hexadecimal text, one a file.
    pub gpu_reports: Vec<Vec<u8>>,
    /// Their certificate chains in the same order, PEM or DER one after the other, the attestation key's first.
    pub gpu_certificates: Vec<Vec<u8>>,
    /// A TDX quote, with or without padding.
    pub tdx_quote: Option<Vec<u8>>,
    /// Intel's collateral for its platform, JSON.
    pub tdx_collateral: Option<Vec<u8>>,
    /// A TDX guest's event log: the memory that the ACPI table CCEL points at.
    pub ccel: Option<Vec<u8>>,
    /// The report of Azure's paravisor.
    pub azure_hcl: Option<Vec<u8>>,
    /// The manifest of a secure VM service module.
    pub svsm_manifest: Option<Vec<u8>>,
}

impl Files {
    /// The same, with binary in the place of the text that stands for it. Files whose own form is text stay as they are.
    fn decoded(mut self) -> Self {
        let single = [
            &mut self.tpm_quote,
            &mut self.tpm_signature,
            &mut self.tpm_ak,
            &mut self.tpm_pcrs,
            &mut self.ek_certificate,
            &mut self.ek_chain,
            &mut self.iak_certificate,
            &mut self.event_log,
            &mut self.snp_report,
            &mut self.tdx_quote,
            &mut self.ccel,
            &mut self.azure_hcl,
            &mut self.svsm_manifest,
        ];
        let several = self.snp_certificates.iter_mut().chain(&mut self.gpu_certificates);
        for file in single.into_iter().flatten().chain(several) {
            *file = text::binary(std::mem::take(file));
        }
        self
    }
}

/// Why files could not be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// `--tpm-quote`.
    #[error("--tpm-quote: expected TPMS_ATTEST or TPM2B_ATTEST: {0}")]
    Quote(#[from] AttestError),
    /// `--tpm-ak`.
    #[error("--tpm-ak: expected TPM2B_PUBLIC, TPMT_PUBLIC or PEM: {0}")]
    Ak(#[from] PublicError),
    /// `--tpm-pcrs`.
    #[error("--tpm-pcrs: expected JSON, a tpm2-tools pcr file or tpm2_pcrread text; found {found}")]
    Pcrs {
        /// What was there instead.
        found: String,
    },
    /// `--ek-cert`.
    #[error("--ek-cert: expected one DER or PEM certificate: {cause}")]
    EkCertificate {
        /// What is wrong with it.
        cause: String,
    },
    /// `--ek-chain`.
    #[error("--ek-chain: expected at most 8 CA certificates, PEM or DER one after the other: {cause}")]
    EkChain {
        /// What is wrong with it.
        cause: String,
    },
    /// `--iak-cert`.
    #[error("--iak-cert: expected one DER or PEM certificate: {cause}")]
    IakCertificate {
        /// What is wrong with it.
        cause: String,
    },
    /// `--ima-log`.
    #[error("--ima-log: expected binary_runtime_measurements or ascii_runtime_measurements: {0}")]
    ImaLog(#[from] ImaError),
    /// `--uki`.
    #[error("--uki: expected a unified kernel image whose measured sections are known: {0}")]
    Uki(#[from] ArtefactError),
    /// Nothing that hardware signed.
    #[error(
        "nothing to pack: give --tpm-quote with what belongs to it, --snp-report, --tdx-quote, --azure-hcl or --gpu-report"
    )]
    Nothing,
    /// A file that is nothing without another.
    #[error("{flag} is needed with {with}")]
    Needed {
        /// What is missing.
        flag: &'static str,
        /// What needs it.
        with: &'static str,
    },
    /// `--snp-report`.
    #[error("--snp-report: expected the 1184 bytes of a report, alone or in a message of the guest device: {found}")]
    SnpReport {
        /// What was there instead.
        found: String,
    },
    /// `--snp-cert`.
    #[error("--snp-cert: expected certificates, DER, PEM, the host's certificate table, or Azure's JSON: {cause}")]
    SnpCertificates {
        /// What is wrong with them.
        cause: String,
    },
    /// `--gpu-report`.
    #[error(
        "--gpu-report: expected request and response of an SPDM measurement exchange, binary or hexadecimal, or JSON of NVIDIA's SDK or nvattest: {cause}"
    )]
    GpuReport {
        /// What is wrong with it.
        cause: String,
    },
    /// `--gpu-certs`.
    #[error("--gpu-certs: expected a chain, PEM or DER, the attestation key's certificate first: {cause}")]
    GpuCertificates {
        /// What is wrong with it.
        cause: String,
    },
    /// A chain for each report, and not too many.
    #[error(
        "--gpu-certs: expected one file for each --gpu-report that is no JSON, in the same order; found {chains} for {reports}"
    )]
    GpuCount {
        /// How many reports.
        reports: usize,
        /// How many chains.
        chains: usize,
    },
    /// `--tdx-quote`.
    #[error(
        "--tdx-quote: expected a TDX quote of version 4 or 5, binary or text, or JSON with such text as `quote`: {found}"
    )]
    TdxQuote {
        /// What was there instead.
        found: String,
    },
    /// `--tdx-collateral`.
    #[error("--tdx-collateral: expected Intel's answers in JSON: {found}")]
    TdxCollateral {
        /// What was there instead.
        found: String,
    },
    /// `--ccel`.
    #[error("--ccel: expected the event log of a confidential VM: {found}")]
    Ccel {
        /// What was there instead.
        found: String,
    },
    /// `--azure-hcl`.
    #[error("--azure-hcl: expected the paravisor's report (NV index 0x01400001): {found}")]
    AzureHcl {
        /// What was there instead.
        found: String,
    },
    /// `--tpm-ak` beside `--azure-hcl`.
    #[error("--tpm-ak: expected the key that --azure-hcl names, found {found} (leave --tpm-ak out to take that key)")]
    AzureAk {
        /// The key given.
        found: String,
    },
    /// `--svsm-manifest`.
    #[error("--svsm-manifest: expected a manifest that names one virtual TPM: {found}")]
    SvsmManifest {
        /// What was there instead.
        found: String,
    },
    /// Larger than an envelope may be.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
}

/// Packs files into unbound evidence; gives the envelope's bytes.
///
/// Only form is checked here, so that a mistake is named by its flag. Whether any of it is true is the verifier's work.
///
/// # Errors
/// [`PackError`].
pub fn pack(files: Files) -> Result<Vec<u8>, PackError> {
    let files = files.decoded();
    let mut collection = Collection::unbound();
    let roots = [&files.tpm_quote, &files.snp_report, &files.tdx_quote, &files.azure_hcl];
    if roots.into_iter().all(Option::is_none) && files.gpu_reports.is_empty() {
        return Err(PackError::Nothing);
    }
    for (there, flag, with) in [
        (!files.snp_certificates.is_empty(), "--snp-report", "--snp-cert"),
        (files.svsm_manifest.is_some(), "--snp-report", "--svsm-manifest"),
        (files.tdx_collateral.is_some(), "--tdx-quote", "--tdx-collateral"),
        (files.ccel.is_some(), "--tdx-quote", "--ccel"),
    ] {
        let snp = files.snp_report.is_some() || (flag == "--snp-report" && files.azure_hcl.is_some());
        let given = if flag == "--snp-report" {
            snp
        } else {
            files.tdx_quote.is_some()
        };
        if there && !given {
            return Err(PackError::Needed { flag, with });
        }
    }
    let named = files.azure_hcl.as_deref().map(tdx::hcl_key).transpose();
    let named = named.map_err(|found| PackError::AzureHcl { found })?;
    let needed = |flag| PackError::Needed {
        flag,
        with: "--tpm-quote",
    };
    if let Some(quote) = files.tpm_quote {
        collection.insert(Label::TpmQuote, signed_bytes(&quote)?.to_vec())?;
        let signature = files.tpm_signature.ok_or(needed("--tpm-signature"))?;
        collection.insert(Label::TpmQuoteSignature, tdx::tpm_signature(signature))?;
        match (files.tpm_ak, named) {
            (Some(ak), named) => insert_ak(&mut collection, ak, named.as_ref())?,
            // The paravisor's report has the key already.
            (None, Some(_)) => {}
            (None, None) => return Err(needed("--tpm-ak")),
        }
        let values = pcr_files::parse(&files.tpm_pcrs.ok_or(needed("--tpm-pcrs"))?)?;
        collection.insert(Label::TpmPcrValues, pcr_values::encode(&values))?;
    }
    if let Some(report) = files.snp_report {
        let report = snp::report(&report).map_err(|found| PackError::SnpReport { found })?;
        collection.insert(Label::SnpReport, report.to_vec())?;
    }
    if !files.snp_certificates.is_empty() {
        let certificates = snp::certificates(&files.snp_certificates);
        let certificates = certificates.map_err(|cause| PackError::SnpCertificates { cause })?;
        collection.insert(Label::SnpCertificates, certificates)?;
    }
    if !(files.gpu_reports.is_empty() && files.gpu_certificates.is_empty()) {
        let (reports, chains) = gpu::records(&files.gpu_reports, &files.gpu_certificates)?;
        collection.insert(Label::GpuReport, reports)?;
        collection.insert(Label::GpuCertificates, chains)?;
    }
    if let Some(quote) = files.tdx_quote {
        let quote = tdx::quote(quote).map_err(|found| PackError::TdxQuote { found })?;
        collection.insert(Label::TdxQuote, quote)?;
    }
    if let Some(collateral) = files.tdx_collateral {
        tdx::collateral(&collateral).map_err(|found| PackError::TdxCollateral { found })?;
        collection.insert(Label::TdxCollateral, collateral)?;
    }
    if let Some(log) = files.ccel {
        tdx::ccel(&log).map_err(|found| PackError::Ccel { found })?;
        collection.insert(Label::CcEventLog, log)?;
    }
    if let Some(report) = files.azure_hcl {
        collection.insert(Label::AzureHclReport, report)?;
    }
    if let Some(manifest) = files.svsm_manifest {
        tdx::manifest(&manifest).map_err(|found| PackError::SvsmManifest { found })?;
        collection.insert(Label::SvsmManifest, manifest)?;
    }
    if let Some(certificate) = files.ek_certificate {
        let der = der(&certificate).map_err(|cause| PackError::EkCertificate { cause })?;
        collection.insert(Label::TpmEkCertificate, der)?;
    }
    if let Some(chain) = files.ek_chain {
        let chain = concatenated(&chain).map_err(|cause| PackError::EkChain { cause })?;
        collection.insert(Label::TpmEkChain, chain)?;
    }
    if let Some(certificate) = files.iak_certificate {
        let der = der(&certificate).map_err(|cause| PackError::IakCertificate { cause })?;
        collection.insert(Label::TpmIakCertificate, der)?;
    }
    if let Some(log) = files.event_log {
        collection.insert(Label::FirmwareEventLog, log)?;
    }
    if let Some(list) = files.ima_log {
        collection.insert(Label::ImaLog, binary_list(list)?)?;
    }
    if let Some(image) = files.uki {
        collection.insert(Label::UkiSections, uki_sections(&image)?)?;
    }
    let packed = collection.encode();
    // An envelope nobody could read back is refused here, where its maker can still do something about it.
    Collection::decode(&packed)?;
    Ok(packed)
}

/// The attestation key in its form, where it is the one that the paravisor's report names, if there is a report.
fn insert_ak(collection: &mut Collection, ak: Vec<u8>, named: Option<&SubjectKey>) -> Result<(), PackError> {
    if let Some(named) = named {
        let given = tdx::key_of(&ak).map_err(|found| PackError::AzureAk { found })?;
        if given != *named {
            let found = format!("{} {}", given.describe(), hex::encode(given.spki_sha256()));
            return Err(PackError::AzureAk { found });
        }
    }
    if is_pem(&ak) {
        collection.insert(Label::TpmAkPem, ak)?;
    } else {
        let public = Public::from_tpm2b_or_tpmt(&ak)?;
        collection.insert(Label::TpmAkPublic, public.as_bytes().to_vec())?;
    }
    Ok(())
}

/// The list in binary with SHA-1 template digests, the one form that travels. Only a text list and one of another bank are
/// read here, for they must be to become that.
fn binary_list(list: Vec<u8>) -> Result<Vec<u8>, ImaError> {
    if ima::is_ascii(&list) {
        return ima::from_ascii(&list);
    }
    ima::canonical(list)
}

fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).take(4096).any(|window| window == b"-----BEGIN ")
}

fn der(certificate: &[u8]) -> Result<Vec<u8>, String> {
    if is_pem(certificate) {
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate).map_err(|error| error.to_string())?;
        return Ok(pem.contents);
    }
    trim_padding(certificate)
        .map(<[u8]>::to_vec)
        .map_err(|error: TrimError| error.to_string())
}

/// The certificates of a chain, DER one after the other without what was between them.
fn concatenated(chain: &[u8]) -> Result<Vec<u8>, String> {
    let joined = if is_pem(chain) {
        let blocks: Result<Vec<_>, _> = x509_parser::pem::Pem::iter_from_buffer(chain).collect();
        let blocks = blocks.map_err(|error| error.to_string())?;
        blocks.into_iter().flat_map(|pem| pem.contents).collect()
    } else {
        chain.to_vec()
    };
    let certificates = read_ek_chain(&joined).map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("no certificate".into());
    }
    Ok(certificates
        .iter()
        .flat_map(|certificate| certificate.as_der())
        .copied()
        .collect())
}

#[cfg(test)]
mod tests {
    use touchstone_verifier::ima::ImaList;
    use touchstone_verifier::tpm::HashAlg;

    use super::*;

    #[test]
    fn a_list_of_one_bank_is_packed_in_the_form_that_travels() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../swtpm-tests/boots/good/");
        let list = std::fs::read(format!("{folder}ima.bin")).expect("a recorded list");
        let (mut banked, mut start) = (Vec::new(), 0);
        for entry in ImaList::parse(&list).expect("a list").entries() {
            banked.extend(&list[start..start + 4]);
            banked.extend(entry.hash(HashAlg::Sha256).as_ref());
            banked.extend(&list[start + 24..entry.end]);
            start = entry.end;
        }
        assert_eq!(binary_list(banked.clone()).as_ref(), Ok(&list));
        assert_eq!(binary_list(list.clone()).as_ref(), Ok(&list));
        banked[4] ^= 1;
        assert_eq!(binary_list(banked), Err(ImaError::EntryDigest { entry: 1 }));
    }
}
