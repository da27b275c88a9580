//! The appraisal: evidence, endorsements, reference values, policy and a time in; a verdict with every reason out.
//!
//! Pure: it reads no clock and does no I/O, and it never fails; what cannot be read becomes a reason. The same inputs
//! give the same answer, live, offline and in replay: they are the same code. Source of the rules: `docs/protocol.md`,
//! sections 2 to 4.
//!
//! Each root of hardware that the evidence has is judged by itself: the confidential VM (`tee`), the GPUs, the TPM
//! (`tpm`, which takes the confidential VM around it into account). Then the whole is judged (`composite`): do the
//! parts belong together, whose machine is it, is every root there that the policy requires? Every stage runs, also after
//! an earlier one has found a reason: all reasons are told, not the first.

mod ak;
mod bootstrap;
mod compare;
mod composite;
mod device;
mod difference;
mod endorsement;
mod findings;
mod gpu;
mod identity;
mod ima;
mod inputs;
mod log;
mod quote;
mod session_key;
mod tee;
mod tpm;
mod uki;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};

pub use composite::Root;
pub use findings::{ClaimValue, Claims, MAX_REASONS, claim};
pub use ima::ImaOutcome;
pub use inputs::{Activated, BinderContext, Freshness, ImaKnown, Inputs, Known};
pub use verdict::{Tier, TrustVector};

use crate::inventory::{CertifiedKey, CvmIdentity, EnrolledCvm, EnrolledNode, EnrolledRoot, EnrolledTpm};
use crate::reason::Reason;
use crate::snp::KnownVek;
use crate::tpm::{ClockInfo, HashAlg};
use composite::{Parts, Whole};
use findings::Findings;

/// Of [`MAX_REASONS`], those that are kept for the GPUs, for the TPM, and for the whole.
const REASONS_OF_GPUS: usize = 32;
const REASONS_OF_TPM: usize = 128;
const REASONS_OF_WHOLE: usize = 32;

/// What ties the attestation key to the hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AkBinding {
    /// A credential only that TPM can open was opened in this session.
    Activated,
    /// The same, in an earlier session of this node.
    Enrolled,
    /// The signed inventory says so (offline only).
    Inventory,
    /// A CA of device identities says so, and the inventory lists that identity (offline only).
    IakCertificate,
    /// The genuine report of the confidential VM around the TPM names it.
    Report,
    /// Nothing.
    None,
}

impl AkBinding {
    /// As it stands in results: `activated`, `enrolled`, `inventory`, `iak-certificate`, `report`, `none`.
    pub const fn as_str(self) -> &'static str {
        match self {
            AkBinding::Activated => "activated",
            AkBinding::Enrolled => "enrolled",
            AkBinding::Inventory => "inventory",
            AkBinding::IakCertificate => "iak-certificate",
            AkBinding::Report => "report",
            AkBinding::None => "none",
        }
    }
}

/// The outcome. Affirming exactly when there is no reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Appraisal {
    /// The verdict in one word.
    pub status: Tier,
    /// The verdict by aspect (AR4SI).
    pub vector: TrustVector,
    /// Every reason against, sorted. Bounded by [`MAX_REASONS`].
    pub reasons: Vec<Reason>,
    /// Whether the evidence is *authentic* (protocol.md 4): a quote that verifies under the key enrolled, or activated
    /// in this session, for this node, or a genuine report of the platform that this node is listed with, over this
    /// session's binder; and parts that belong together. With a TPM in the evidence it is the TPM that must be
    /// authentic. A failure is not, where the node's entry names a platform and no guest on it. Only an authentic failure may withdraw anything;
    /// every other failure refuses the requester and touches nobody's state.
    pub authentic: bool,
    /// The roots whose own evidence is authentic: a TPM's quote under a tied key, a report of the platform that the node is
    /// listed with, each for this session. What another part says counts for none of them.
    pub authentic_roots: BTreeSet<Root>,
    /// The node it speaks for, where inventory or enrolment say so.
    pub node: Option<String>,
    /// The confidential VM's identity, as the inventory lists it.
    pub cvm: Option<CvmIdentity>,
    /// The roots of hardware that had nothing against them, where they belong together.
    pub roots: BTreeSet<Root>,
    /// What ties a TPM's attestation key to the hardware.
    pub ak_binding: AkBinding,
    /// What was found, for policies.
    pub claims: Claims,
    /// What was overlooked because a signed setting says so.
    pub leniencies: Vec<String>,
    /// The TPM's clock, where the quote's signature verifies.
    pub clock: Option<ClockInfo>,
    /// Last second at which this result holds, Unix seconds: the minimum over certificates and references. `i64::MAX`
    /// where nothing ends.
    pub expires: i64,
    /// The quoted registers, where they are the ones that were signed.
    pub registers: BTreeMap<(HashAlg, u8), Vec<u8>>,
    /// Name of the reference that matches; of two, the confidential VM's and the TPM's, with `+` between them.
    pub reference: Option<String>,
    /// The session key, where the attestation key certifies it.
    pub session_key: Option<CertifiedKey>,
    /// What to store for the next round: only where the evidence is authentic and affirming.
    pub enrol: Option<EnrolledNode>,
    /// What to store of the IMA list for the next round: only where the evidence is authentic and affirming.
    pub ima: Option<ImaOutcome>,
    /// The signing key of an SEV-SNP report, to be given as [`Known::vek`] the next time.
    pub vek: Option<KnownVek>,
}

/// Appraises one machine's evidence: its confidential VM, its TPM, its GPUs, and whether they belong together.
pub fn appraise(inputs: &Inputs<'_>) -> Appraisal {
    let mut findings = Findings::default();
    let expected = inputs.expected(&mut findings);
    findings.leave(REASONS_OF_TPM + REASONS_OF_GPUS + REASONS_OF_WHOLE);
    let tee = stage(&mut findings, |findings| tee::judge(inputs, &expected, findings));
    findings.leave(REASONS_OF_TPM + REASONS_OF_WHOLE);
    let gpus = stage(&mut findings, |findings| gpu::judge(inputs, &expected, findings));
    findings.leave(REASONS_OF_WHOLE);
    // What a TPM would vouch for is refused without one; and without any other root, so is the machine.
    let others = tee.is_some() || gpus.is_some() || !findings.reasons.is_empty();
    let tpm = (tpm::is_present(inputs) || !others).then_some(()).and_then(|()| {
        stage(&mut findings, |findings| {
            Some(tpm::judge(
                inputs,
                &expected,
                tee.as_ref().map(|(tee, _)| tee),
                findings,
            ))
        })
    });
    let parts = Parts { tpm, tee, gpus };
    findings.leave(0);
    let whole = composite::judge(inputs, &parts, &mut findings);
    findings.note_situation(inputs, &whole);
    conclude(parts, whole, findings)
}

/// Runs one part's stages. With the part, whether nothing was found against it.
fn stage<T>(findings: &mut Findings, judge: impl FnOnce(&mut Findings) -> Option<T>) -> Option<(T, bool)> {
    let before = findings.count();
    let part = judge(findings)?;
    Some((part, findings.count() == before))
}

/// The verdict, and what to keep for the next time.
fn conclude(parts: Parts<'_>, whole: Whole<'_>, findings: Findings) -> Appraisal {
    let Findings {
        mut reasons,
        leniencies,
        claims,
        ..
    } = findings;
    reasons.sort();
    reasons.dedup();
    let (status, vector) = verdict::verdict(
        &reasons,
        parts.tee.is_some(),
        parts.tpm.is_some() || parts.tee.is_some(),
    );
    let keep = whole.authentic && reasons.is_empty();
    let tpm = parts.tpm.map(|(tpm, _)| tpm);
    let node = whole.node.map(|node| node.name.clone());
    let enrol = keep.then_some(node.clone()).flatten().and_then(|name| match &tpm {
        Some(tpm) => enrolled_tpm(tpm, name),
        None => enrolled_cvm(parts.tee.as_ref().map(|(tee, _)| tee)?, name),
    });
    let (ima, session_key, quoted) = match tpm {
        Some(tpm) => (tpm.ima, tpm.session_key, tpm.quoted),
        None => (None, None, None),
    };
    Appraisal {
        status,
        vector,
        reasons,
        authentic: whole.authentic,
        authentic_roots: whole.authentic_roots,
        ak_binding: whole.ak_binding,
        node,
        cvm: whole.cvm,
        roots: whole.roots,
        claims,
        leniencies,
        clock: whole.clock,
        expires: whole.expires,
        reference: whole.reference,
        registers: quoted.map(|quoted| quoted.registers).unwrap_or_default(),
        session_key,
        enrol,
        ima: ima.map(|ima| ima.outcome).filter(|_| keep),
        vek: parts.tee.and_then(|(tee, _)| tee.vek),
    }
}

/// What to store of a node with a TPM.
fn enrolled_tpm(tpm: &tpm::Tpm<'_>, name: String) -> Option<EnrolledNode> {
    let (ak, quoted) = (tpm.ak.as_ref()?, tpm.quoted.as_ref()?);
    Some(EnrolledNode {
        name,
        root: EnrolledRoot::Tpm(EnrolledTpm {
            ek: tpm.identity.ek?,
            ak_name: ak.name.clone().unwrap_or_default(),
            ak_public: ak.public.as_ref()?.as_bytes().to_vec(),
            ek_certificate: tpm.identity.ek_certificate.map(<[u8]>::to_vec),
            receive_key: tpm.receive_key.clone(),
            clock: quoted.clock,
        }),
        session_key: tpm.session_key.clone(),
    })
}

/// What to store of a confidential VM without a TPM: its session key is bound by the binder each time.
fn enrolled_cvm(tee: &tee::Tee<'_>, name: String) -> Option<EnrolledNode> {
    Some(EnrolledNode {
        name,
        root: EnrolledRoot::Cvm(EnrolledCvm {
            kind: tee.kind,
            identity: tee.identity.as_ref()?.digest(),
        }),
        session_key: None,
    })
}
