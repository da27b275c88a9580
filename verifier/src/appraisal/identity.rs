//! Who it is: endorsement key, its certificate, the tie between endorsement and attestation key, the node.

use super::AkBinding;
use super::ak::PresentedAk;
use super::device::Device;
use super::endorsement::{EK, EndorsementKey};
use super::findings::{Findings, claim};
use super::inputs::{Freshness, Inputs};
use super::quote::Quoted;
use super::tee::{Endorsed, Tee};
use crate::inventory::{EkId, Lookup, Node};
use crate::policy::EkCertificateRule;
use crate::reason::AppraisalCode;
use crate::tpm::ek::{AkParent, ak_parent};
use crate::x509::CertificateCode;
use crate::x509::roca::has_roca_fingerprint;

const NODE: &str = "node";
const AK: &str = "attestation key";

/// What is known of the machine's identity.
pub(super) struct Identity<'a> {
    /// The node that these keys are of.
    pub(super) node: Option<&'a Node>,
    /// Which of its keys the confidential VM's report names.
    pub(super) endorsement: Endorsement,
    /// Its endorsement key, as presented or enrolled.
    pub(super) ek: Option<EkId>,
    /// The certificate that was judged, DER.
    pub(super) ek_certificate: Option<&'a [u8]>,
    /// What ties the attestation key to it.
    pub(super) binding: AkBinding,
    /// Whether a proper attestation key is tied, online, to the endorsement key of that node, or a genuine report names it.
    pub(super) authentic: bool,
    /// Last second of the certificates' validity.
    pub(super) expires: i64,
}

/// Which key of the TPM a genuine report of the confidential VM around it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endorsement {
    /// None of them.
    None,
    /// The endorsement key: what ties the attestation key to it is as with any TPM.
    Ek,
    /// The attestation key itself: nothing else need tie it.
    Ak,
}

impl Identity<'_> {
    /// Whether something beside the confidential VM's report says whose TPM it is.
    pub(super) fn is_independent(&self) -> bool {
        self.endorsement == Endorsement::None || self.node.is_some()
    }
}

impl Endorsement {
    fn of(tee: Option<&Tee<'_>>, ek: &EndorsementKey<'_>, ak: Option<&PresentedAk>) -> Self {
        match tee.and_then(|tee| tee.endorses) {
            Some(Endorsed::Ak(spki)) if ak.is_some_and(|ak| ak.spki == spki) => Endorsement::Ak,
            Some(Endorsed::Ek(id)) if ek.id == Some(id) => Endorsement::Ek,
            _ => Endorsement::None,
        }
    }
}

/// Judges identity and binding. A TPM that the report of `tee` endorses may be a node by that report alone: then the
/// inventory need not list its keys, and whether it is one is said where the whole is judged.
pub(super) fn judge<'a>(
    inputs: &Inputs<'a>,
    ak: Option<&PresentedAk>,
    quoted: Option<&Quoted<'_>>,
    tee: Option<&Tee<'a>>,
    findings: &mut Findings,
) -> Identity<'a> {
    let ek = EndorsementKey::judge(inputs, findings);
    let device = Device::judge(inputs, ak, findings);
    if ak.is_some_and(|ak| has_roca_fingerprint(ak.key.key())) {
        let found = "the ROCA fingerprint (CVE-2017-15361)";
        findings.refuse(CertificateCode::KeyRoca, AK, "a sound RSA key", found);
    }
    let mut parent = None;
    if let (Some(public), Some(ak), Some(quoted)) = (&ek.public, ak.and_then(|ak| ak.public.as_ref()), quoted)
        && let Ok(checked) = public.check_ek()
    {
        let found = ak_parent(quoted.qualified_signer, ak, &checked);
        parent = Some(found);
        let parent = match found {
            AkParent::EndorsementKey => "endorsement-key",
            AkParent::EndorsementPrimary => "endorsement-hierarchy",
            AkParent::Unknown => "unknown",
        };
        findings.text(claim::AK_PARENT, parent);
    }
    if let Some(quoted) = quoted {
        ek.judge_firmware(inputs, quoted, parent, findings);
    }
    let endorsement = Endorsement::of(tee, &ek, ak);
    let (node, binding) = match (endorsement, inputs.freshness) {
        (Endorsement::Ak, _) => judge_endorsed(inputs, &ek, ak, findings),
        (_, Freshness::Bound { .. }) => judge_online(inputs, &ek, ak, endorsement, findings),
        (_, Freshness::Unbound { .. }) => judge_offline(inputs, &ek, ak, device.as_ref(), endorsement, findings),
    };
    if inputs.policy.ek_certificate == EkCertificateRule::Required
        && ek.certificate.is_none()
        && endorsement == Endorsement::None
        && binding != AkBinding::IakCertificate
    {
        let expected = "an endorsement certificate";
        findings.refuse(AppraisalCode::EkCertificateMissing, EK, expected, "none");
    }
    Identity {
        node,
        endorsement,
        ek: ek.id,
        ek_certificate: ek.certificate,
        binding,
        authentic: match binding {
            AkBinding::Activated | AkBinding::Enrolled => ak.is_some_and(|ak| ak.proper),
            AkBinding::Report => true,
            AkBinding::Inventory | AkBinding::IakCertificate | AkBinding::None => false,
        },
        expires: device.map_or(ek.expires, |device| device.expires.min(ek.expires)),
    }
}

/// The report says that the attestation key lives in the TPM of that very confidential VM. Where the inventory lists the
/// TPM's keys besides, they must be one node's.
fn judge_endorsed<'a>(
    inputs: &Inputs<'a>,
    ek: &EndorsementKey<'_>,
    ak: Option<&PresentedAk>,
    findings: &mut Findings,
) -> (Option<&'a Node>, AkBinding) {
    let inventory = inputs.inventory;
    let by_name = ak
        .and_then(|ak| ak.name.as_deref())
        .map_or(Lookup::Unknown, |name| inventory.by_ak_name(name));
    let by_key = ak.map_or(Lookup::Unknown, |ak| inventory.by_ak_key(&ak.spki));
    // The report ties the attestation key, and nothing to do with an endorsement key: anybody can send one.
    let name = ak.and_then(|ak| ak.name.as_deref());
    let activated = inputs
        .activated()
        .is_some_and(|tie| Some(tie.ek) == ek.id && Some(tie.ak_name.as_slice()) == name);
    let enrolled = inputs
        .enrolled_tpm()
        .is_some_and(|tpm| Some(tpm.ek) == ek.id && Some(tpm.ak_name.as_slice()) == name);
    let of_ek = ek.id.map_or(Lookup::Unknown, |id| inventory.by_ek(&id));
    let listed = matches!(of_ek, Lookup::Node(_)) && (of_ek == by_name || of_ek == by_key);
    let by_ek = if activated || enrolled || listed {
        of_ek
    } else {
        if let Some(id) = ek.id {
            let expected = "an endorsement key that an activation or one inventory entry ties to it";
            findings.refuse(AppraisalCode::AkNotBound, AK, expected, id.to_string());
        }
        Lookup::Unknown
    };
    let mut found = None;
    for lookup in [by_ek, by_name, by_key] {
        match (lookup, found) {
            (Lookup::Unknown, _) => {}
            (Lookup::Node(node), None) => found = Some(node),
            (Lookup::Node(node), Some(before)) if node == before => {}
            _ => {
                refuse_ambiguous(ek.id, findings);
                return (None, AkBinding::Report);
            }
        }
    }
    (found, AkBinding::Report)
}

/// In a session only an activation ties the two keys: of this session, or of the one the node enrolled in.
fn judge_online<'a>(
    inputs: &Inputs<'a>,
    ek: &EndorsementKey<'_>,
    ak: Option<&PresentedAk>,
    endorsement: Endorsement,
    findings: &mut Findings,
) -> (Option<&'a Node>, AkBinding) {
    let name = ak.and_then(|ak| ak.name.as_deref());
    let enrolled = inputs.enrolled();
    let activated = inputs
        .activated()
        .is_some_and(|tie| Some(tie.ek) == ek.id && Some(tie.ak_name.as_slice()) == name);
    let tpm = inputs.enrolled_tpm();
    // A node that enrolled without a TPM has no tie that could stand for this one.
    let same_ek = enrolled.is_none() || tpm.is_some_and(|tpm| Some(tpm.ek) == ek.id);
    let same_ak = tpm.is_some_and(|tpm| Some(tpm.ak_name.as_slice()) == name);
    if let Some(tpm) = tpm
        && !same_ek
    {
        let found = ek.id.map_or_else(|| "none".to_owned(), |id| id.to_string());
        findings.refuse(AppraisalCode::EkOther, EK, tpm.ek.to_string(), found);
    }
    // Where another endorsement key came than the enrolled one, neither tie says anything about the enrolled node.
    let binding = match (same_ek, activated, same_ak) {
        (true, true, _) => AkBinding::Activated,
        (true, false, true) => AkBinding::Enrolled,
        _ => AkBinding::None,
    };
    if binding == AkBinding::None {
        let found = hex::encode(name.unwrap_or_default());
        if let Some(tpm) = tpm.filter(|_| !same_ak) {
            findings.refuse(AppraisalCode::AkOther, AK, hex::encode(&tpm.ak_name), &found);
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
        Lookup::Unknown if endorsement == Endorsement::Ek => None,
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

/// Offline the signed inventory ties the two keys, by the attestation key's Name (`node add --from`) or key (`--ak`); or
/// a CA of device identities has certified the attestation key for a device that the inventory lists.
fn judge_offline<'a>(
    inputs: &Inputs<'a>,
    ek: &EndorsementKey<'_>,
    ak: Option<&PresentedAk>,
    device: Option<&Device>,
    endorsement: Endorsement,
    findings: &mut Findings,
) -> (Option<&'a Node>, AkBinding) {
    let inventory = inputs.inventory;
    let by_ek = ek.id.map(|id| inventory.by_ek(&id));
    let by_name = ak
        .and_then(|ak| ak.name.as_deref())
        .map_or(Lookup::Unknown, |name| inventory.by_ak_name(name));
    let by_key = ak.map_or(Lookup::Unknown, |ak| inventory.by_ak_key(&ak.spki));
    // The certificate speaks for a key of a TPM: only a public area shows that this key is one.
    let by_device = device.filter(|_| ak.is_some_and(|ak| ak.proper));
    let by_device = by_device.map_or(Lookup::Unknown, |device| inventory.by_device(&device.ids));
    if [by_ek.unwrap_or(Lookup::Unknown), by_name, by_key, by_device].contains(&Lookup::Ambiguous) {
        refuse_ambiguous(ek.id, findings);
        return (None, AkBinding::None);
    }
    let (tied, binding) = match (by_name, by_key, by_device) {
        (Lookup::Node(node), ..) | (_, Lookup::Node(node), _) => (Some(node), AkBinding::Inventory),
        (.., Lookup::Node(node)) => (Some(node), AkBinding::IakCertificate),
        _ => (None, AkBinding::None),
    };
    let node = match by_ek {
        Some(Lookup::Node(node)) => Some(node),
        Some(Lookup::Unknown) if endorsement == Endorsement::Ek => tied,
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
        Some(tied) if tied.name == node.name => (Some(node), binding),
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
