//! The whole: do the parts belong together, whose machine is it, and are the roots there that the policy requires?
//!
//! The binder adds freshness, never locality: two parts that answer the same challenge may still be of two machines. They
//! belong together where one endorses the other, or where one signed inventory entry lists both (protocol.md 3).

use std::collections::BTreeSet;

use touchstone_evidence::collection::Label;

use super::AkBinding;
use super::findings::{Findings, claim};
use super::gpu::Gpus;
use super::identity::Endorsement;
use super::inputs::{Freshness, Inputs};
use super::tee::Tee;
use super::tpm::Tpm;
use crate::inventory::{CvmIdentity, CvmKind, Lookup, Node};
use crate::policy::RequiredRoots;
use crate::reason::AppraisalCode;
use crate::reference::Reference;
use crate::tpm::ClockInfo;

const ROOTS: &str = "roots";
const NODE: &str = "node";

/// A root that hardware vouches from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Root {
    /// A TPM.
    Tpm,
    /// A confidential VM's processor.
    Tee(CvmKind),
    /// GPUs.
    Gpu,
}

impl Root {
    /// As it stands in results: `tpm`, `snp`, `tdx`, `gpu`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Root::Tpm => "tpm",
            Root::Tee(kind) => kind.as_str(),
            Root::Gpu => "gpu",
        }
    }
}

/// The parts of one machine's evidence, each with whether its own stage had nothing against it.
pub(super) struct Parts<'a> {
    /// The TPM.
    pub(super) tpm: Option<(Tpm<'a>, bool)>,
    /// The confidential VM.
    pub(super) tee: Option<(Tee<'a>, bool)>,
    /// The GPUs.
    pub(super) gpus: Option<(Gpus, bool)>,
}

/// What the parts came to together.
pub(super) struct Whole<'a> {
    /// The machine.
    pub(super) node: Option<&'a Node>,
    /// The confidential VM's identity, as the inventory lists it.
    pub(super) cvm: Option<CvmIdentity>,
    /// What ties the TPM's attestation key to the hardware.
    pub(super) ak_binding: AkBinding,
    /// The roots that had nothing against them, where the parts belong together.
    pub(super) roots: BTreeSet<Root>,
    /// The roots whose evidence is authentic (protocol.md 4).
    pub(super) authentic_roots: BTreeSet<Root>,
    /// Whether the whole is: see [`Appraisal::authentic`](super::Appraisal::authentic).
    pub(super) authentic: bool,
    /// Name of the reference that it matches; of several the confidential VM's, then the TPM's, with `+` between them.
    pub(super) reference: Option<String>,
    /// `session` or `boot`, where there is a confidential VM.
    pub(super) tcb_freshness: Option<&'static str>,
    /// The TPM's clock.
    pub(super) clock: Option<ClockInfo>,
    /// Last second at which everything it rests on holds.
    pub(super) expires: i64,
}

/// Judges the whole.
pub(super) fn judge<'a>(inputs: &Inputs<'a>, parts: &Parts<'a>, findings: &mut Findings) -> Whole<'a> {
    let (tpm, tee) = (parts.tpm.as_ref(), parts.tee.as_ref());
    let together = match (tpm, tee) {
        (Some((tpm, _)), Some((tee, _))) => belong_together(tpm, tee, findings),
        _ => true,
    };
    let vouched = has_what_it_vouches_for(inputs, tpm.map(|(tpm, _)| tpm), tee.map(|(tee, _)| tee), findings);
    judge_references(parts, findings);
    let node = judge_node(tpm.map(|(tpm, _)| tpm), tee.map(|(tee, _)| tee), findings);
    if let Some((gpus, _)) = &parts.gpus {
        if tpm.is_none() && tee.is_none() {
            // Nobody speaks for the machine: the GPUs are whose the entry says, and no node is affirmed by them.
            let owner = node_of_gpus(inputs, gpus, findings);
            // A GPU says nothing about who holds the keys of a session.
            if matches!(inputs.freshness, Freshness::Bound { .. }) {
                let expected = "a TPM or a confidential VM beside the GPUs";
                findings.refuse(AppraisalCode::RootMissing, ROOTS, expected, "none");
            }
            judge_gpus(inputs, gpus, owner, findings);
        } else {
            judge_gpus(inputs, gpus, node, findings);
        }
    }
    let mut roots = BTreeSet::new();
    if together {
        roots.extend(tpm.filter(|(_, good)| *good).map(|_| Root::Tpm));
        let tee = tee.filter(|(_, good)| *good && vouched);
        roots.extend(tee.map(|(tee, _)| Root::Tee(tee.kind)));
        roots.extend(parts.gpus.as_ref().filter(|(_, good)| *good).map(|_| Root::Gpu));
    }
    judge_required(inputs.policy.roots.required, &roots, tpm.map(|(tpm, _)| tpm), findings);
    judge_listed(inputs, parts, node, findings);
    let authentic_roots = authentic_roots(inputs, parts, vouched, findings.count() > 0);
    let references = [
        tee.and_then(|(tee, _)| tee.reference),
        tpm.and_then(|(tpm, _)| tpm.reference),
    ];
    let mut names: Vec<&str> = references
        .into_iter()
        .flatten()
        .map(|reference| reference.values.name.as_str())
        .collect();
    names.dedup();
    let expires = [
        tpm.map(|(tpm, _)| tpm.expires()),
        tee.map(|(tee, _)| tee.expires),
        tee.and_then(|(tee, _)| tee.reference)
            .map(|reference| reference.not_after),
        parts.gpus.as_ref().map(|(gpus, _)| gpus.expires),
    ];
    Whole {
        node,
        cvm: tee.and_then(|(tee, _)| tee.identity.clone()),
        ak_binding: tpm.map_or(AkBinding::None, |(tpm, _)| tpm.identity.binding),
        roots,
        // Where a TPM answers, it is the TPM that must be authentic: a report beside it names its own machine only.
        authentic: together
            && (tee.is_none() || node.is_some())
            && match (tpm, tee) {
                (Some(_), _) => authentic_roots.contains(&Root::Tpm),
                (None, Some((tee, _))) => authentic_roots.contains(&Root::Tee(tee.kind)),
                (None, None) => false,
            },
        authentic_roots,
        reference: (!names.is_empty()).then(|| names.join("+")),
        tcb_freshness: tee.map(|(tee, _)| if tee.fresh { "session" } else { "boot" }),
        clock: tpm.and_then(|(tpm, _)| tpm.quoted.as_ref()).map(|quoted| quoted.clock),
        expires: expires.into_iter().flatten().min().unwrap_or(i64::MAX),
    }
}

/// Whether a report that vouches for a virtual TPM has it beside it, with a quote of this challenge. What such a report
/// measures is the module or paravisor that the TPM is of, never the system that runs: without the TPM nobody speaks for
/// that. True where there is nothing of the kind.
fn has_what_it_vouches_for(
    inputs: &Inputs<'_>,
    tpm: Option<&Tpm<'_>>,
    tee: Option<&Tee<'_>>,
    findings: &mut Findings,
) -> bool {
    let Some(tee) = tee else { return true };
    let records = [Label::AzureHclReport, Label::SvsmManifest];
    let has = |label| inputs.collection.get(label).is_some();
    if tee.endorses.is_none() && !records.into_iter().any(has) {
        return true;
    }
    let endorsed = tpm.filter(|tpm| tpm.identity.endorsement != Endorsement::None);
    let (quoted, found) = match (tpm, endorsed) {
        (_, Some(tpm)) => (
            tpm.quoted.as_ref().is_some_and(|quoted| quoted.fresh),
            "no quote of it that answers this challenge",
        ),
        (Some(_), None) => (false, "another TPM"),
        (None, None) => (false, "no TPM"),
    };
    if !quoted {
        let expected = "a quote, for this challenge, of the virtual TPM that the report vouches for";
        findings.refuse(AppraisalCode::EndorsedQuoteMissing, "virtual TPM", expected, found);
    }
    quoted
}

/// The roots that are shown to be this challenge's and the node's own, whatever they say. Their failure counts against the
/// node only where its entry names the guest: beside it anybody could run one on the same chip.
fn authentic_roots(inputs: &Inputs<'_>, parts: &Parts<'_>, vouched: bool, refused: bool) -> BTreeSet<Root> {
    let mut authentic = BTreeSet::new();
    if !matches!(inputs.freshness, Freshness::Bound { .. }) {
        return authentic;
    }
    let tee = parts.tee.as_ref().map(|(tee, _)| tee);
    let named = tee.is_some_and(|tee| tee.identity.as_ref().is_some_and(|identity| identity.guest.is_some()));
    if let Some((tpm, _)) = &parts.tpm
        && tpm.is_authentic()
        // A key that only the report names is as much the node's as the report is.
        && (tpm.identity.binding != AkBinding::Report || named || !refused)
    {
        authentic.insert(Root::Tpm);
    }
    if let Some(tee) = tee.filter(|tee| tee.node.is_some() && vouched && (named || !refused)) {
        // A report that only endorses is as fresh as the quote of the TPM that it names.
        if tee.fresh || authentic.contains(&Root::Tpm) {
            authentic.insert(Root::Tee(tee.kind));
        }
    }
    authentic
}

/// Whether a TPM and a report are one machine's: the report names the TPM's key, or, where it names none, one inventory
/// entry lists both.
fn belong_together(tpm: &Tpm<'_>, tee: &Tee<'_>, findings: &mut Findings) -> bool {
    const TOGETHER: &str = "TPM and report";
    let endorsed = tpm.identity.endorsement != Endorsement::None;
    if endorsed {
        return true;
    }
    let key = tpm.identity.ek.map_or_else(
        || {
            let spki = tpm.ak.as_ref().map(|ak| hex::encode(ak.spki));
            format!("a TPM with the attestation key {}", spki.unwrap_or_default())
        },
        |ek| format!("the TPM with the endorsement key {ek}"),
    );
    // A report that names a TPM names it whole: another one is another machine's, whatever lists say.
    if tee.endorses.is_some() {
        let expected = "the TPM whose key the report names";
        findings.refuse(AppraisalCode::RootsNotTogether, TOGETHER, expected, key);
        return false;
    }
    let one_entry = match (tpm.identity.node, tee.node) {
        (Some(tpm), Some(tee)) => tpm == tee,
        _ => false,
    };
    if !one_entry {
        let platform = tee
            .platform
            .as_ref()
            .map_or("a platform that hides its id".to_owned(), ToString::to_string);
        let (expected, found) = (
            "a report that names the TPM's key, or one inventory entry that lists both",
            format!("{key}, and a report of {platform}"),
        );
        findings.refuse(AppraisalCode::RootsNotTogether, TOGETHER, expected, found);
    }
    one_entry
}

/// A reference is a whole state: one that states a TPM's registers and a guest's measurement must be matched in both.
fn judge_references(parts: &Parts<'_>, findings: &mut Findings) {
    let of_tpm = parts.tpm.as_ref().and_then(|(tpm, _)| tpm.reference);
    let of_tee = parts.tee.as_ref().and_then(|(tee, _)| tee.reference);
    let mut refuse = |reference: &Reference, found: Option<&Reference>, what: &str| {
        let expected = format!("{what} of reference {}, which states both", reference.values.name);
        let found = found.map_or("none", |found| found.values.name.as_str());
        findings.refuse(AppraisalCode::ReferenceIncomplete, "reference", expected, found);
    };
    if let Some(tee) = of_tee.filter(|tee| tee.values.has_registers() && of_tpm != Some(*tee)) {
        refuse(tee, of_tpm, "the registers");
    }
    if let Some(tpm) = of_tpm.filter(|tpm| tpm.values.has_guest() && of_tee != Some(*tpm)) {
        refuse(tpm, of_tee, "the measurement");
    }
}

/// The node by whichever part names one; two must name the same. A TPM's own stage has told what is wrong with its keys.
fn judge_node<'a>(tpm: Option<&Tpm<'a>>, tee: Option<&Tee<'a>>, findings: &mut Findings) -> Option<&'a Node> {
    let by_tpm = tpm.and_then(|tpm| tpm.identity.node);
    let Some(tee) = tee else {
        return by_tpm;
    };
    if tee.ambiguous {
        let found = tee.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        findings.refuse(
            AppraisalCode::NodeAmbiguous,
            NODE,
            "one inventory entry",
            format!("{found}, twice"),
        );
        return None;
    }
    match (by_tpm, tee.node) {
        (Some(by_tpm), Some(by_tee)) if by_tpm != by_tee => {
            let (expected, found) = (format!("the node of its TPM, {}", by_tpm.name), by_tee.name.as_str());
            findings.refuse(AppraisalCode::RootsNotTogether, NODE, expected, found);
            None
        }
        (Some(node), _) | (None, Some(node)) => Some(node),
        (None, None) => {
            let platform = tee.platform.as_ref().map(ToString::to_string);
            let found = platform.unwrap_or_else(|| "a platform that hides its id".to_owned());
            findings.refuse(AppraisalCode::NodeUnknown, NODE, "a node of the inventory", found);
            None
        }
    }
}

/// The node of GPUs that come without a machine around them: nobody asserts where they sit, so an entry must list them.
fn node_of_gpus<'a>(inputs: &Inputs<'a>, gpus: &Gpus, findings: &mut Findings) -> Option<&'a Node> {
    let first = gpus.serials.first()?;
    match inputs.inventory.by_gpu(first) {
        Lookup::Node(node) => Some(node),
        // Told by `judge_gpus`.
        Lookup::Ambiguous => None,
        Lookup::Unknown => {
            let expected = "a node that lists the GPU, or the machine it sits in";
            findings.refuse(AppraisalCode::NodeUnknown, NODE, expected, first);
            None
        }
    }
}

/// GPUs that the node's entry lists are the node's. Others are where the guest says: that counts for as much as the
/// guest does, and the result says so.
fn judge_gpus(inputs: &Inputs<'_>, gpus: &Gpus, node: Option<&Node>, findings: &mut Findings) {
    // Of a machine that must show its GPUs, one that is listed and does not report may be in use all the same.
    let missing = node.into_iter().flat_map(|node| &node.gpus);
    let missing = missing.filter(|serial| !gpus.serials.iter().any(|shown| shown.eq_ignore_ascii_case(serial)));
    for serial in missing.filter(|_| inputs.policy.gpu.required) {
        let expected = format!("a report of the listed GPU {serial}");
        findings.refuse(AppraisalCode::RootMissing, "GPU", expected, "none");
    }
    let mut listed = !gpus.serials.is_empty();
    for serial in &gpus.serials {
        match inputs.inventory.by_gpu(serial) {
            Lookup::Node(owner) if Some(owner) == node => {}
            Lookup::Node(owner) => {
                let expected = node.map_or_else(
                    || "a GPU of this node".to_owned(),
                    |node| format!("a GPU of {}", node.name),
                );
                let found = format!("{serial}, a GPU of {}", owner.name);
                findings.refuse(AppraisalCode::RootsNotTogether, "GPU", expected, found);
            }
            Lookup::Ambiguous => {
                let found = format!("{serial}, twice");
                findings.refuse(AppraisalCode::NodeAmbiguous, "GPU", "one inventory entry", found);
            }
            Lookup::Unknown => {
                listed = false;
                if inputs.policy.gpu.inventory_required {
                    let expected = "a GPU that the node's inventory entry lists (gpu.locality = inventory)";
                    findings.refuse(AppraisalCode::RootsNotTogether, "GPU", expected, serial);
                }
            }
        }
    }
    findings.text(
        claim::GPU_LOCALITY,
        if listed { "inventory" } else { "asserted-by-guest" },
    );
}

/// The roots that the policy requires.
fn judge_required(required: RequiredRoots, roots: &BTreeSet<Root>, part: Option<&Tpm<'_>>, findings: &mut Findings) {
    let tpm = roots.contains(&Root::Tpm);
    // What only the report vouches for is the report's root once more.
    let independent = tpm && part.is_some_and(|tpm| tpm.identity.is_independent());
    let tee = roots.iter().any(|root| matches!(root, Root::Tee(_)));
    let (missing, expected) = match required {
        // Without any root there is a reason already, of the stage that had something against it.
        RequiredRoots::Any | RequiredRoots::Listed => (false, ""),
        RequiredRoots::Tpm => (!tpm, "a TPM"),
        RequiredRoots::Tee => (!tee, "a confidential VM"),
        RequiredRoots::TpmAndTee => (
            !(independent && tee),
            "a confidential VM, and a TPM that the inventory knows by itself",
        ),
    };
    if missing {
        let found: Vec<&str> = roots.iter().map(|root| root.as_str()).collect();
        let found = if found.is_empty() {
            "none".to_owned()
        } else {
            found.join(", ")
        };
        findings.refuse(AppraisalCode::RootMissing, ROOTS, expected, found);
    }
}

/// Every kind of root that the node's own entry lists must be shown, and every GPU of it. One that is left out could be the
/// one that something speaks against.
fn judge_listed(inputs: &Inputs<'_>, parts: &Parts<'_>, node: Option<&Node>, findings: &mut Findings) {
    let Some(node) = node else { return };
    let refused = findings.count() > 0;
    // One that came and could not be judged has a reason of its own.
    let came = |labels: &[Label]| refused && labels.iter().any(|label| inputs.collection.get(*label).is_some());
    let lists_tpm =
        !(node.ek.is_empty() && node.ak_names.is_empty() && node.ak_keys.is_empty() && node.devices.is_empty());
    let mut missing = Vec::new();
    if lists_tpm && parts.tpm.is_none() {
        missing.push("its TPM".to_owned());
    }
    let reports = [Label::SnpReport, Label::TdxQuote, Label::AzureHclReport];
    if !node.platforms.is_empty() && parts.tee.is_none() && !came(&reports) {
        missing.push("the report of its confidential VM".to_owned());
    }
    let shown = parts
        .gpus
        .as_ref()
        .map(|(gpus, _)| gpus.serials.as_slice())
        .unwrap_or_default();
    if !came(&[Label::GpuReport]) {
        let is_shown = |serial: &&String| !shown.iter().any(|shown| shown.eq_ignore_ascii_case(serial));
        missing.extend(
            node.gpus
                .iter()
                .filter(is_shown)
                .map(|serial| format!("its GPU {serial}")),
        );
    }
    if missing.is_empty() {
        return;
    }
    let missing = missing.join(", ");
    if inputs.policy.roots.required == RequiredRoots::Any {
        findings
            .leniencies
            .push(format!("roots-required: any, without {missing}"));
    } else {
        let expected = format!("everything that the entry of {} lists", node.name);
        findings.refuse(
            AppraisalCode::RootMissing,
            ROOTS,
            expected,
            format!("nothing of {missing}"),
        );
    }
}
