//! The attestation key as it was presented.

use touchstone_evidence::collection::Label;
use x509_parser::pem::Pem;

use super::findings::Findings;
use super::inputs::{Freshness, Inputs};
use super::tee::{Endorsed, Tee};
use crate::hcl::HclReport;
use crate::reason::AppraisalCode;
use crate::tpm::{AttestationKey, Public};
use crate::x509::SubjectKey;

const CLAIM: &str = "attestation key";
/// Longest PEM of a key, in bytes.
const MAX_PEM: usize = 4096;

/// A key that can be verified with. Whether it is an attestation key at all has been checked; whose it is has not.
pub(super) struct PresentedAk {
    /// The key, with its own scheme where its public area is a proper one.
    pub(super) key: AttestationKey,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub(super) spki: [u8; 32],
    /// Its TPM public area; none where it came as PEM.
    pub(super) public: Option<Public>,
    /// Its TPM Name; none where it came as PEM.
    pub(super) name: Option<Vec<u8>>,
    /// Whether its public area has every property of an attestation key.
    pub(super) proper: bool,
}

/// Reads the key of the collection or, in a session, the one enrolled.
///
/// `tee` is the confidential VM around the TPM: a key that its report names needs no attributes of its own.
pub(super) fn read(inputs: &Inputs<'_>, tee: Option<&Tee<'_>>, findings: &mut Findings) -> Option<PresentedAk> {
    let enrolled = || inputs.enrolled_tpm().map(|tpm| tpm.ak_public.as_slice());
    if let Some(bytes) = inputs.collection.get(Label::TpmAkPublic) {
        return from_public(bytes, findings);
    }
    if let Some(pem) = inputs.collection.get(Label::TpmAkPem) {
        return from_pem(pem, inputs, tee, findings);
    }
    if let Some(bytes) = enrolled() {
        return from_public(bytes, findings);
    }
    // The key of Azure's virtual TPM is in the paravisor's report, so packed evidence need not have it twice.
    if let (Freshness::Unbound { .. }, Some(report)) = (inputs.freshness, inputs.collection.get(Label::AzureHclReport))
        && let Ok(report) = HclReport::parse(report)
    {
        return Some(from_key(report.attestation_key().clone(), inputs, tee, findings));
    }
    findings.refuse(
        AppraisalCode::RecordMissing,
        CLAIM,
        Label::TpmAkPublic.as_str(),
        "no record",
    );
    None
}

fn from_public(bytes: &[u8], findings: &mut Findings) -> Option<PresentedAk> {
    let public = match Public::from_tpm2b_or_tpmt(bytes) {
        Ok(public) => public,
        Err(error) => {
            let (expected, found) = error.details();
            findings.refuse(AppraisalCode::AkUnreadable, CLAIM, expected, found);
            return None;
        }
    };
    let (key, proper) = match public.check_ak() {
        Ok(checked) => (AttestationKey::from(&checked), true),
        Err(faults) => {
            for fault in faults {
                findings.refuse_with(fault.code(), CLAIM, fault.details());
            }
            (AttestationKey::without_attributes(public.subject_key()), false)
        }
    };
    let (spki, name) = (key.key().spki_sha256(), public.name().into_bytes());
    Some(PresentedAk {
        key,
        spki,
        public: Some(public),
        name: Some(name),
        proper,
    })
}

fn from_pem(pem: &[u8], inputs: &Inputs<'_>, tee: Option<&Tee<'_>>, findings: &mut Findings) -> Option<PresentedAk> {
    let key = Some(pem)
        .filter(|pem| pem.len() <= MAX_PEM)
        .and_then(|pem| Pem::iter_from_buffer(pem).next()?.ok())
        .filter(|pem| pem.label == "PUBLIC KEY")
        .and_then(|pem| SubjectKey::from_spki_der(&pem.contents).ok());
    let Some(key) = key else {
        findings.refuse(
            AppraisalCode::AkUnreadable,
            CLAIM,
            "one PEM public key",
            "something else",
        );
        return None;
    };
    Some(from_key(key, inputs, tee, findings))
}

/// A key without attributes counts only where the inventory lists that very key (protocol.md 2), or the report of the
/// confidential VM around it names it.
fn from_key(key: SubjectKey, inputs: &Inputs<'_>, tee: Option<&Tee<'_>>, findings: &mut Findings) -> PresentedAk {
    let spki = key.spki_sha256();
    let endorsed = tee.is_some_and(|tee| tee.endorses == Some(Endorsed::Ak(spki)));
    if !endorsed && !matches!(inputs.inventory.by_ak_key(&spki), crate::inventory::Lookup::Node(_)) {
        let found = format!("key {} as PEM, which the inventory does not list", hex::encode(spki));
        findings.refuse(
            AppraisalCode::AkAttributesUnknown,
            CLAIM,
            "a TPM public area, or a key that is listed",
            found,
        );
    }
    PresentedAk {
        key: AttestationKey::without_attributes(key),
        spki,
        public: None,
        name: None,
        proper: false,
    }
}
