//! The appraisal: evidence, endorsements, reference values, policy and a time in; a verdict with every reason out.
//!
//! Pure: it reads no clock and does no I/O, and it never fails; what cannot be read becomes a reason. The same inputs
//! give the same answer, live, offline and in replay: they are the same code. Source of the rules: `docs/protocol.md`,
//! sections 2 to 4.
//!
//! Order: attestation key, signature, freshness, registers, event log, unified kernel image, reference values, IMA list,
//! identity, session key, TPM clock, verdict. A stage runs whenever what it needs is there, also after an earlier one has
//! found a reason: all reasons are told, not the first.

mod ak;
mod bootstrap;
mod compare;
mod device;
mod difference;
mod endorsement;
mod findings;
mod identity;
mod ima;
mod inputs;
mod log;
mod quote;
mod session_key;
mod uki;
mod verdict;

use std::collections::BTreeMap;

pub use findings::{ClaimValue, Claims, MAX_REASONS, claim};
pub use ima::ImaOutcome;
pub use inputs::{Activated, BinderContext, Freshness, ImaKnown, Inputs};
pub use verdict::{Tier, TrustVector};

use crate::inventory::{CertifiedKey, EnrolledNode, EnrolledRoot, EnrolledTpm};
use crate::reason::Reason;
use crate::tpm::{ClockInfo, HashAlg};
use findings::Findings;

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
    /// Nothing.
    None,
}

impl AkBinding {
    /// As it stands in results: `activated`, `enrolled`, `inventory`, `iak-certificate`, `none`.
    pub const fn as_str(self) -> &'static str {
        match self {
            AkBinding::Activated => "activated",
            AkBinding::Enrolled => "enrolled",
            AkBinding::Inventory => "inventory",
            AkBinding::IakCertificate => "iak-certificate",
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
    /// in this session, for this node, over this session's binder. Only an authentic failure may withdraw anything;
    /// every other failure refuses the requester and touches nobody's state.
    pub authentic: bool,
    /// The node it speaks for, where inventory or enrolment say so.
    pub node: Option<String>,
    /// What ties the attestation key to the hardware.
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
    /// Name of the reference that matches.
    pub reference: Option<String>,
    /// The session key, where the attestation key certifies it.
    pub session_key: Option<CertifiedKey>,
    /// What to store for the next round: only where the evidence is authentic and affirming.
    pub enrol: Option<EnrolledNode>,
    /// What to store of the IMA list for the next round: only where the evidence is authentic and affirming.
    pub ima: Option<ImaOutcome>,
}

/// Appraises one machine's TPM evidence.
pub fn appraise(inputs: &Inputs<'_>) -> Appraisal {
    let mut findings = Findings::default();
    let ak = ak::read(inputs, &mut findings);
    let qualifying = inputs.qualifying_data(&mut findings);
    let quoted = ak
        .as_ref()
        .and_then(|ak| quote::verify(inputs, ak, &qualifying, &mut findings));
    let registers = quoted
        .as_ref()
        .map(|quoted| &quoted.registers)
        .filter(|registers| !registers.is_empty());
    let log = log::judge(inputs, registers, &mut findings);
    uki::judge(inputs, registers, &log, &mut findings);
    let reference = registers.and_then(|registers| compare::compare(inputs, registers, &log, &mut findings));
    let ima = ima::judge(inputs, registers, reference, &mut findings);
    let identity = identity::judge(inputs, ak.as_ref(), quoted.as_ref(), &mut findings);
    bootstrap::judge(inputs, registers, identity.node.as_deref(), &mut findings);
    let clock = quoted.as_ref().map(|quoted| quoted.clock);
    let session_key = match (&ak, &quoted) {
        (Some(ak), Some(quoted)) => session_key::judge(inputs, ak, quoted, &qualifying, &mut findings),
        _ => None,
    };
    if let Some(clock) = clock {
        session_key::judge_clock(inputs, ak.as_ref(), clock, &mut findings);
    }
    let authentic = quoted.as_ref().is_some_and(|quoted| quoted.fresh) && identity.authentic;
    let expires = identity
        .expires
        .min(reference.map_or(i64::MAX, |reference| reference.not_after))
        .min(ima.as_ref().map_or(i64::MAX, |ima| ima.expires));
    findings.note_situation(
        inputs,
        &identity,
        clock,
        reference.map(|reference| reference.values.name.as_str()),
    );
    let Findings {
        mut reasons,
        leniencies,
        claims,
    } = findings;
    reasons.sort();
    reasons.dedup();
    let (status, vector) = verdict::verdict(&reasons);
    let enrol = match (&identity, &ak, clock) {
        (
            identity::Identity {
                node: Some(name),
                ek: Some(ek),
                ..
            },
            Some(ak),
            Some(clock),
        ) if authentic && reasons.is_empty() => ak.public.as_ref().map(|public| EnrolledNode {
            name: name.clone(),
            root: EnrolledRoot::Tpm(EnrolledTpm {
                ek: *ek,
                ak_name: ak.name.clone().unwrap_or_default(),
                ak_public: public.as_bytes().to_vec(),
                ek_certificate: identity.ek_certificate.map(<[u8]>::to_vec),
                clock,
            }),
            session_key: session_key.clone(),
        }),
        _ => None,
    };
    let ima = ima.map(|ima| ima.outcome).filter(|_| authentic && reasons.is_empty());
    Appraisal {
        status,
        vector,
        reasons,
        authentic,
        ak_binding: identity.binding,
        node: identity.node,
        claims,
        leniencies,
        clock,
        expires,
        reference: reference.map(|reference| reference.values.name.clone()),
        registers: quoted.map(|quoted| quoted.registers).unwrap_or_default(),
        session_key,
        enrol,
        ima,
    }
}
