//! Who it is: endorsement key, its certificate, the tie between endorsement and attestation key, the node.

use touchstone_evidence::collection::Label;

use super::AkBinding;
use super::ak::PresentedAk;
use super::findings::{Findings, claim};
use super::inputs::{Freshness, Inputs};
use super::quote::Quoted;
use crate::anchors::Purpose;
use crate::inventory::{EkId, Lookup, Node};
use crate::reason::AppraisalCode;
use crate::tpm::Public;
use crate::tpm::ek::{AkParent, ak_parent};
use crate::x509::{Certificate, VerifiedEkCertificate, verify_ek_certificate};

const EK: &str = "endorsement key";
const CERTIFICATE: &str = "endorsement certificate";
const NODE: &str = "node";
const AK: &str = "attestation key";

/// What is known of the machine's identity.
pub(super) struct Identity<'a> {
    /// The node's name.
    pub(super) node: Option<String>,
    /// Its endorsement key, as presented or enrolled.
    pub(super) ek: Option<EkId>,
    /// The certificate that was judged, DER.
    pub(super) ek_certificate: Option<&'a [u8]>,
    /// What ties the attestation key to it.
    pub(super) binding: AkBinding,
    /// Whether a proper attestation key is tied, online, to the endorsement key of that node.
    pub(super) authentic: bool,
    /// Last second of the certificates' validity.
    pub(super) expires: i64,
}

/// Judges identity and binding.
pub(super) fn judge<'a>(
    inputs: &Inputs<'a>,
    ak: Option<&PresentedAk>,
    quoted: Option<&Quoted<'_>>,
    findings: &mut Findings,
) -> Identity<'a> {
    let ek = EndorsementKey::judge(inputs, findings);
    if let (Some(public), Some(ak), Some(quoted)) = (&ek.public, ak.and_then(|ak| ak.public.as_ref()), quoted)
        && let Ok(checked) = public.check_ek()
    {
        let parent = match ak_parent(quoted.qualified_signer, ak, &checked) {
            AkParent::EndorsementKey => "endorsement-key",
            AkParent::EndorsementPrimary => "endorsement-hierarchy",
            AkParent::Unknown => "unknown",
        };
        findings.text(claim::AK_PARENT, parent);
    }
    let (node, binding) = match inputs.freshness {
        Freshness::Bound { .. } => judge_online(inputs, &ek, ak, findings),
        Freshness::Unbound { .. } => judge_offline(inputs, &ek, ak, findings),
    };
    Identity {
        node: node.map(|node| node.name.clone()),
        ek: ek.id,
        ek_certificate: ek.certificate,
        binding,
        authentic: matches!(binding, AkBinding::Activated | AkBinding::Enrolled) && ak.is_some_and(|ak| ak.proper),
        expires: ek.expires,
    }
}

/// In a session only an activation ties the two keys: of this session, or of the one the node enrolled in.
fn judge_online<'a>(
    inputs: &Inputs<'a>,
    ek: &EndorsementKey<'_>,
    ak: Option<&PresentedAk>,
    findings: &mut Findings,
) -> (Option<&'a Node>, AkBinding) {
    let name = ak.and_then(|ak| ak.name.as_deref());
    let enrolled = inputs.enrolled();
    let activated = inputs
        .activated()
        .is_some_and(|tie| Some(tie.ek) == ek.id && Some(tie.ak_name.as_slice()) == name);
    let same_ek = enrolled.is_none_or(|node| Some(node.ek) == ek.id);
    let same_ak = enrolled.is_some_and(|node| Some(node.ak_name.as_slice()) == name);
    if let Some(node) = enrolled
        && !same_ek
    {
        let found = ek.id.map_or_else(|| "none".to_owned(), |id| id.to_string());
        findings.refuse(AppraisalCode::EkOther, EK, node.ek.to_string(), found);
    }
    // Where another endorsement key came than the enrolled one, neither tie says anything about the enrolled node.
    let binding = match (same_ek, activated, same_ak) {
        (true, true, _) => AkBinding::Activated,
        (true, false, true) => AkBinding::Enrolled,
        _ => AkBinding::None,
    };
    if binding == AkBinding::None {
        let found = hex::encode(name.unwrap_or_default());
        if let Some(node) = enrolled.filter(|_| !same_ak) {
            findings.refuse(AppraisalCode::AkOther, AK, hex::encode(&node.ak_name), &found);
        }
        let expected = "an activation of this attestation key by that endorsement key's TPM";
        findings.refuse(AppraisalCode::AkNotBound, AK, expected, "none");
    }
    let lookup = match ek.id {
        Some(id) => inputs.inventory.by_ek(&id),
        None => Lookup::Unknown,
    };
    let node = match lookup {
        Lookup::Node(node) if enrolled.is_none_or(|stored| !same_ek || stored.name == node.name) => Some(node),
        Lookup::Node(node) => {
            let expected = enrolled.map(|stored| stored.name.as_str()).unwrap_or_default();
            findings.refuse(AppraisalCode::NodeUnknown, NODE, expected, node.name.as_str());
            None
        }
        Lookup::Unknown => {
            refuse_unknown(ek.id, name, findings);
            None
        }
        Lookup::Ambiguous => {
            refuse_ambiguous(ek.id, findings);
            None
        }
    };
    (node, binding)
}

/// Offline the signed inventory ties the two keys, by the attestation key's Name (`node add --from`) or key (`--ak`).
fn judge_offline<'a>(
    inputs: &Inputs<'a>,
    ek: &EndorsementKey<'_>,
    ak: Option<&PresentedAk>,
    findings: &mut Findings,
) -> (Option<&'a Node>, AkBinding) {
    let inventory = inputs.inventory;
    let by_ek = ek.id.map(|id| inventory.by_ek(&id));
    let by_name = ak
        .and_then(|ak| ak.name.as_deref())
        .map_or(Lookup::Unknown, |name| inventory.by_ak_name(name));
    let by_key = ak.map_or(Lookup::Unknown, |ak| inventory.by_ak_key(&ak.spki));
    if [by_ek.unwrap_or(Lookup::Unknown), by_name, by_key].contains(&Lookup::Ambiguous) {
        refuse_ambiguous(ek.id, findings);
        return (None, AkBinding::None);
    }
    let tied = match (by_name, by_key) {
        (Lookup::Node(node), _) | (_, Lookup::Node(node)) => Some(node),
        _ => None,
    };
    let node = match by_ek {
        Some(Lookup::Node(node)) => Some(node),
        Some(_) => None,
        // Nothing but the attestation key came: the inventory's tie names the node.
        None => tied,
    };
    let Some(node) = node else {
        refuse_unknown(ek.id, ak.and_then(|ak| ak.name.as_deref()), findings);
        findings.refuse(AppraisalCode::AkNotBound, AK, "a tie in the inventory", "none");
        return (None, AkBinding::None);
    };
    match tied {
        Some(tied) if tied.name == node.name => (Some(node), AkBinding::Inventory),
        Some(tied) => {
            let (expected, found) = (format!("a tie to {}", node.name), format!("a tie to {}", tied.name));
            findings.refuse(AppraisalCode::AkNotBound, AK, expected, found);
            (Some(node), AkBinding::None)
        }
        None => {
            findings.refuse(
                AppraisalCode::AkNotBound,
                AK,
                format!("a tie to {} in the inventory", node.name),
                "none",
            );
            (Some(node), AkBinding::None)
        }
    }
}

fn refuse_unknown(ek: Option<EkId>, ak_name: Option<&[u8]>, findings: &mut Findings) {
    let found = match (ek, ak_name) {
        (Some(ek), _) => format!("endorsement key {ek}"),
        (None, Some(name)) => format!("attestation key {}", hex::encode(name)),
        (None, None) => "no hardware identity".to_owned(),
    };
    findings.refuse(AppraisalCode::NodeUnknown, NODE, "a node of the inventory", found);
}

fn refuse_ambiguous(ek: Option<EkId>, findings: &mut Findings) {
    let found = ek.map_or_else(
        || "an identity claimed twice".to_owned(),
        |ek| format!("{ek}, or its keys, twice"),
    );
    findings.refuse(AppraisalCode::NodeAmbiguous, NODE, "one inventory entry", found);
}

/// The endorsement key, as far as evidence and enrolment show it.
struct EndorsementKey<'a> {
    id: Option<EkId>,
    public: Option<Public>,
    certificate: Option<&'a [u8]>,
    expires: i64,
}

impl<'a> EndorsementKey<'a> {
    fn judge(inputs: &Inputs<'a>, findings: &mut Findings) -> Self {
        let enrolled = inputs.enrolled();
        let presented = inputs.collection.get(Label::TpmEkCertificate);
        let certificate = presented.or_else(|| enrolled.and_then(|node| node.ek_certificate.as_deref()));
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
        let id = id.map(EkId).or_else(|| enrolled.map(|node| node.ek));
        let public = public.or_else(|| verified.as_ref().and_then(|verified| verified.ek_public().ok()));
        Self {
            id,
            public,
            certificate,
            expires,
        }
    }
}

fn judge_certificate(inputs: &Inputs<'_>, der: &[u8], findings: &mut Findings) -> Option<VerifiedEkCertificate> {
    let store = inputs.anchors.store(Purpose::Ek);
    let verified = match verify_ek_certificate(der, &[], store, inputs.now, inputs.policy.ek_expiry) {
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
    match public.check_ek() {
        Ok(_) => Some(public),
        Err(error) => {
            findings.refuse_with(error.code(), EK, error.details());
            None
        }
    }
}
