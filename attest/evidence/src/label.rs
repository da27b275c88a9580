//! The records a collection may hold: their labels, media types and what authenticates each.

/// How a record is authenticated, and so how it stands in the manifest (`docs/protocol.md` 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Signed over the binder itself, or by hardware over the name of a key that signs the binder: not in the manifest.
    Fresh,
    /// Authenticated by a quoted register and read after the quote: in the manifest without a digest.
    Quoted,
    /// Authenticated by nothing else: in the manifest with its SHA-256.
    Plain,
}

/// The most bytes of a firmware event log. Logs of real machines have 5-100 KiB; firmware reserves at most a few hundred.
pub const MAX_FIRMWARE_LOG: usize = 1 << 20;
/// The most bytes of an IMA list, or of the tail of one, in one collection.
pub const MAX_IMA_LOG: usize = 16 << 20;
/// The most bytes of a platform's collateral: Intel's answers with chains and revocation lists have 20-60 KiB.
pub const MAX_COLLATERAL: usize = 512 << 10;
/// The most bytes of GPU evidence: a report has 2-6 KiB, a certificate chain as much, and a machine has up to 16 devices.
pub const MAX_GPU_RECORD: usize = 256 << 10;
/// The most bytes of any other record: keys, certificates, signatures and register values.
pub const MAX_SMALL_RECORD: usize = 64 << 10;

macro_rules! labels {
    ($($variant:ident = $label:literal, $media:literal, $class:ident, $max:expr, $doc:literal;)+) => {
        /// A record of a collection.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Label {
            $(#[doc = $doc] $variant,)+
        }

        impl Label {
            /// Every label.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label as it travels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }

            /// The media type of the record's bytes.
            #[must_use]
            pub const fn media_type(self) -> &'static str {
                match self { $(Self::$variant => $media),+ }
            }

            /// What authenticates the record.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class),+ }
            }

            /// The most bytes of the record.
            #[must_use]
            pub const fn max_bytes(self) -> usize {
                match self { $(Self::$variant => $max),+ }
            }

            /// The label that travels as `text`.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|label| label.as_str() == text)
            }
        }
    };
}

impl Label {
    /// Whether the record is a log that only grows between two quotes, so that a tail of it may travel alone.
    #[must_use]
    pub const fn is_log(self) -> bool {
        matches!(self, Self::FirmwareEventLog | Self::ImaLog)
    }
}

labels! {
    TpmEkCertificate = "tpm/ek-certificate", "application/pkix-cert", Plain, MAX_SMALL_RECORD,
        "The endorsement key's X.509 certificate, DER.";
    TpmEkChain = "tpm/ek-chain", "application/vnd.touchstone.certificates", Plain, MAX_SMALL_RECORD,
        "Intermediates above the endorsement certificate, DER one after the other, as the TPM keeps them in NV memory.";
    TpmIakCertificate = "tpm/iak-certificate", "application/pkix-cert", Plain, MAX_SMALL_RECORD,
        "The attestation key's own X.509 certificate (IAK or LAK), DER.";
    TpmEkPublic = "tpm/ek-public", "application/vnd.touchstone.tpmt-public", Plain, MAX_SMALL_RECORD,
        "The endorsement key's public area, TPMT_PUBLIC.";
    TpmAkPublic = "tpm/ak-public", "application/vnd.touchstone.tpmt-public", Plain, MAX_SMALL_RECORD,
        "The attestation key's public area, TPMT_PUBLIC.";
    TpmAkPem = "tpm/ak-pem", "application/x-pem-file", Plain, MAX_SMALL_RECORD,
        "The attestation key as PEM, without TPM attributes; in unbound evidence only.";
    TpmQuote = "tpm/quote", "application/vnd.touchstone.tpms-attest", Fresh, MAX_SMALL_RECORD,
        "The quote, TPMS_ATTEST: exactly the signed bytes.";
    TpmQuoteSignature = "tpm/quote-signature", "application/vnd.touchstone.tpmt-signature", Fresh, MAX_SMALL_RECORD,
        "The quote's signature, TPMT_SIGNATURE.";
    TpmPcrValues = "tpm/pcr-values", "application/vnd.touchstone.pcr-values+cbor", Quoted, MAX_SMALL_RECORD,
        "The values of the quoted registers (see `pcr_values`).";
    TpmSessionKey = "tpm/session-key", "application/vnd.touchstone.tpmt-public", Plain, MAX_SMALL_RECORD,
        "The session signing key's public area, TPMT_PUBLIC.";
    TpmSessionKeyCertify = "tpm/session-key-certify", "application/vnd.touchstone.tpms-attest", Fresh, MAX_SMALL_RECORD,
        "The attestation key's certification of the session key, TPMS_ATTEST.";
    TpmSessionKeyCertifySignature = "tpm/session-key-certify-signature", "application/vnd.touchstone.tpmt-signature", Fresh, MAX_SMALL_RECORD,
        "That certification's signature, TPMT_SIGNATURE.";
    FirmwareEventLog = "firmware/event-log", "application/vnd.touchstone.tcg-event-log", Quoted, MAX_FIRMWARE_LOG,
        "The firmware's event log (TCG PC Client PFP), as the kernel gives it.";
    ImaLog = "ima/log", "application/vnd.touchstone.ima-log", Quoted, MAX_IMA_LOG,
        "The kernel's IMA measurement list, binary form.";
    UkiSections = "uki/sections", "application/vnd.touchstone.uki-sections+cbor", Plain, MAX_SMALL_RECORD,
        "The measured sections of the unified kernel image that was booted (see `uki_sections`).";
    TpmReceiveKey = "tpm/receive-key", "application/vnd.touchstone.tpmt-public", Plain, MAX_SMALL_RECORD,
        "The session receive key's public area, TPMT_PUBLIC: what released keys are encrypted to.";
    TpmReceiveKeyCertify = "tpm/receive-key-certify", "application/vnd.touchstone.tpms-attest", Fresh, MAX_SMALL_RECORD,
        "The attestation key's certification of the receive key, TPMS_ATTEST.";
    TpmReceiveKeyCertifySignature = "tpm/receive-key-certify-signature", "application/vnd.touchstone.tpmt-signature", Fresh, MAX_SMALL_RECORD,
        "That certification's signature, TPMT_SIGNATURE.";
    SnpReport = "snp/report", "application/vnd.amd.sev-snp.attestation-report", Fresh, MAX_SMALL_RECORD,
        "The SEV-SNP attestation report: exactly the 1184 bytes that AMD's firmware made.";
    SnpCertificates = "snp/certificates", "application/vnd.touchstone.certificates", Plain, MAX_SMALL_RECORD,
        "The report's VCEK or VLEK certificate and what is above it, DER one after the other.";
    TdxQuote = "tdx/quote", "application/vnd.touchstone.tdx-quote", Fresh, MAX_SMALL_RECORD,
        "The Intel TDX quote, version 4 or 5.";
    TdxCollateral = "tdx/collateral", "application/vnd.touchstone.tdx-collateral+json", Plain, MAX_COLLATERAL,
        "Intel's signed statements on the platform (TCB info, QE identity, revocation lists and their chains), JSON.";
    CcEventLog = "tdx/ccel", "application/vnd.touchstone.tcg-event-log", Quoted, MAX_FIRMWARE_LOG,
        "The confidential VM's event log (CCEL): what led to the run-time measurement registers.";
    AzureHclReport = "azure/hcl-report", "application/vnd.touchstone.azure-hcl-report", Fresh, MAX_SMALL_RECORD,
        "Azure's HCL report: a hardware report over run-time data that name the virtual TPM's attestation key.";
    SvsmManifest = "svsm/manifest", "application/vnd.touchstone.svsm-manifest", Fresh, MAX_SMALL_RECORD,
        "The SVSM's services manifest, which names the virtual TPM's endorsement key: signed over by a report of VMPL 0.";
    GpuReport = "gpu/report", "application/vnd.touchstone.gpu-reports+cbor", Fresh, MAX_GPU_RECORD,
        "SPDM measurement reports of GPUs, request and response: a CBOR array of byte strings, one a device.";
    GpuCertificates = "gpu/certificates", "application/vnd.touchstone.gpu-certificates+cbor", Plain, MAX_GPU_RECORD,
        "Their certificate chains in the same order: a CBOR array of byte strings, each DER one after the other.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_parse_back() {
        for label in Label::ALL {
            assert_eq!(Label::parse(label.as_str()), Some(*label));
        }
        assert_eq!(Label::parse("tpm/unknown"), None);
    }

    #[test]
    fn only_what_a_register_authenticates_may_travel_in_parts() {
        for label in Label::ALL {
            assert!(!label.is_log() || label.class() == Class::Quoted, "{label:?}");
        }
    }
}
