//! The endorsement key, its certificate, and what the domain was told against them.

use touchstone_evidence::collection::Label;

use super::findings::{Findings, claim};
use super::inputs::Inputs;
use super::quote::Quoted;
use crate::anchors::Purpose;
use crate::deny::{DeniedFirmware, certified_version, manufacturer_id, version_text};
use crate::inventory::EkId;
use crate::reason::AppraisalCode;
use crate::tpm::Public;
use crate::tpm::ek::AkParent;
use crate::x509::ek_certificate::{check_key, read_ek_chain};
use crate::x509::{Certificate, VerifiedEkCertificate, verify_ek_certificate};

pub(super) const EK: &str = "endorsement key";
const CERTIFICATE: &str = "endorsement certificate";
const CHAIN: &str = "endorsement certificate chain";
const FIRMWARE: &str = "TPM firmware";

/// The endorsement key, as far as evidence and enrolment show it.
pub(super) struct EndorsementKey<'a> {
    /// Its identity.
    pub(super) id: Option<EkId>,
    /// Its public area, as sent or as its certificate gives it.
    pub(super) public: Option<Public>,
    /// The certificate that was judged, DER.
    pub(super) certificate: Option<&'a [u8]>,
    /// Last second of the chain's and the revocation lists' validity.
    pub(super) expires: i64,
    manufacturer: Option<[u8; 4]>,
    version: Option<u32>,
}

impl<'a> EndorsementKey<'a> {
    pub(super) fn judge(inputs: &Inputs<'a>, findings: &mut Findings) -> Self {
        let enrolled = inputs.enrolled_tpm();
        let presented = inputs.collection.get(Label::TpmEkCertificate);
        let certificate = presented.or_else(|| enrolled.and_then(|tpm| tpm.ek_certificate.as_deref()));
        let verified = certificate.and_then(|der| judge_certificate(inputs, der, findings));
        if certificate.is_none() {
            findings.text(claim::EK_CERTIFICATE, "none");
        }
        let public = inputs
            .collection
            .get(Label::TpmEkPublic)
            .and_then(|bytes| read_public(bytes, findings));
        if let (Some(public), Some(verified)) = (&public, &verified)
            && let Ok(checked) = public.check_ek()
            && let Err(error) = checked.must_be(verified.key())
        {
            findings.refuse_with(error.code(), EK, error.details());
        }
        let id = match (&verified, &public, certificate) {
            (Some(verified), _, _) => Some(verified.id()),
            (None, Some(public), _) => Some(public.subject_key().spki_sha256()),
            // Refused already; the identity is only told, so that the node is not called unknown as well.
            (None, None, Some(der)) => Certificate::from_der(der)
                .ok()
                .map(|certificate| certificate.key().spki_sha256()),
            (None, None, None) => None,
        };
        let expires = verified
            .as_ref()
            .map_or(i64::MAX, |verified| verified.chain().not_after);
        let id = id.map(EkId).or_else(|| enrolled.map(|tpm| tpm.ek));
        let public = public.or_else(|| verified.as_ref().and_then(|verified| verified.ek_public().ok()));
        let stated = |read: fn(&VerifiedEkCertificate) -> Option<&str>| verified.as_ref().and_then(read);
        let key = Self {
            manufacturer: stated(VerifiedEkCertificate::manufacturer).and_then(manufacturer_id),
            version: stated(VerifiedEkCertificate::version).and_then(certified_version),
            id,
            public,
            certificate,
            expires,
        };
        key.judge_denied(inputs, findings);
        key
    }

    /// Keys and firmware the domain was told about (setting and file `deny.toml`).
    fn judge_denied(&self, inputs: &Inputs<'_>, findings: &mut Findings) {
        let denied = inputs.anchors.deny_list();
        if let Some(id) = &self.id
            && let Some(why) = denied.key(id)
        {
            findings.refuse(
                AppraisalCode::EkDenied,
                EK,
                "a key that is not denied",
                format!("{id}: {why}"),
            );
        }
        if let Some(version) = self.version
            && let Some(entry) = denied.certified_firmware(self.manufacturer, version)
        {
            refuse_firmware(entry, u64::from(version) << 32, "the certificate's", findings);
        }
    }

    /// The firmware the TPM signed. `parent` is where the attestation key hangs, by the TPM's own word: elsewhere than
    /// under the endorsement hierarchy the TPM adds a number to the version, so it shows nothing.
    pub(super) fn judge_firmware(
        &self,
        inputs: &Inputs<'_>,
        quoted: &Quoted<'_>,
        parent: Option<AkParent>,
        findings: &mut Findings,
    ) {
        let denied = inputs.anchors.deny_list();
        if let Some(entry) = denied.quoted_firmware(self.manufacturer, quoted.firmware_version) {
            refuse_firmware(entry, quoted.firmware_version, "the quote's", findings);
        } else if denied.concerns(self.manufacturer) && matches!(parent, None | Some(AkParent::Unknown)) {
            let expected = "an attestation key under the endorsement hierarchy, whose quotes show the version";
            findings.refuse(
                AppraisalCode::FirmwareUnknown,
                FIRMWARE,
                expected,
                "another, or one that is not known",
            );
        }
    }
}

fn refuse_firmware(entry: &DeniedFirmware, version: u64, whose: &str, findings: &mut Findings) {
    let expected = format!(
        "none from {} to {} ({})",
        version_text(entry.from),
        version_text(entry.to),
        entry.why
    );
    let found = format!("{whose} {}", version_text(version));
    findings.refuse(AppraisalCode::FirmwareDenied, FIRMWARE, expected, found);
}

/// The intermediates that the TPM keeps beside its certificate.
fn offered(inputs: &Inputs<'_>, findings: &mut Findings) -> Vec<Certificate> {
    let record = inputs.collection.get(Label::TpmEkChain).unwrap_or_default();
    match read_ek_chain(record) {
        Ok(chain) => chain,
        Err(error) => {
            findings.refuse_with(error.code(), CHAIN, error.details());
            Vec::new()
        }
    }
}

fn judge_certificate(inputs: &Inputs<'_>, der: &[u8], findings: &mut Findings) -> Option<VerifiedEkCertificate> {
    let store = inputs.anchors.store(Purpose::Ek);
    let offered = offered(inputs, findings);
    let verified = match verify_ek_certificate(der, &offered, store, inputs.now, inputs.policy.chain_rules()) {
        Ok(verified) => verified,
        Err(error) => {
            findings.refuse_with(error.code(), CERTIFICATE, error.details());
            return None;
        }
    };
    let expired = &verified.chain().expired;
    findings.text(
        claim::EK_CERTIFICATE,
        if expired.is_empty() { "valid" } else { "expired" },
    );
    let checked = verified.chain().revocation_checked;
    findings.text(claim::EK_CRL, if checked { "checked" } else { "none" });
    for certificate in expired {
        let (subject, end) = (&certificate.subject, certificate.not_after);
        findings
            .leniencies
            .push(format!("ek-expiry: ignore-with-claim: {subject} expired at {end}"));
    }
    for (name, value) in [
        (claim::TPM_MANUFACTURER, verified.manufacturer()),
        (claim::TPM_MODEL, verified.model()),
    ] {
        if let Some(value) = value {
            findings.text(name, value);
        }
    }
    Some(verified)
}

fn read_public(bytes: &[u8], findings: &mut Findings) -> Option<Public> {
    let public = match Public::from_tpm2b_or_tpmt(bytes) {
        Ok(public) => public,
        Err(error) => {
            let (expected, found) = error.details();
            findings.refuse(AppraisalCode::EkUnreadable, EK, expected, found);
            return None;
        }
    };
    if let Err(error) = check_key(&public.subject_key()) {
        findings.refuse_with(error.code(), EK, error.details());
        return None;
    }
    match public.check_ek() {
        Ok(_) => Some(public),
        Err(error) => {
            findings.refuse_with(error.code(), EK, error.details());
            None
        }
    }
}
