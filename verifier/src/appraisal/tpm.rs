//! The TPM: its quote, its logs, its keys, the node they are of.
//!
//! Order: attestation key, signature, freshness, registers, event log, unified kernel image, reference values, IMA list,
//! identity, session key, TPM clock. A stage runs whenever what it needs is there, also after an earlier one has found a
//! reason.

use touchstone_evidence::collection::Label;

use super::ak::{self, PresentedAk};
use super::bootstrap;
use super::compare;
use super::findings::Findings;
use super::identity::{self, Identity};
use super::ima;
use super::inputs::{Expected, Inputs};
use super::log;
use super::quote::{self, Quoted};
use super::session_key;
use super::tee::Tee;
use super::uki;
use crate::inventory::CertifiedKey;
use crate::reference::Reference;

/// What a TPM's evidence came to.
pub(super) struct Tpm<'a> {
    /// The attestation key, as far as it could be read.
    pub(super) ak: Option<PresentedAk>,
    /// The quote, where its signature verifies.
    pub(super) quoted: Option<Quoted<'a>>,
    /// Whose keys they are.
    pub(super) identity: Identity<'a>,
    /// The reference that the registers match.
    pub(super) reference: Option<&'a Reference>,
    /// What became of the IMA list.
    pub(super) ima: Option<ima::Judged>,
    /// The session key, where the attestation key certifies it.
    pub(super) session_key: Option<CertifiedKey>,
    /// The receive key, likewise.
    pub(super) receive_key: Option<CertifiedKey>,
}

/// Records that only a TPM's quote can vouch for.
const RECORDS: [Label; 8] = [
    Label::TpmQuote,
    Label::TpmQuoteSignature,
    Label::TpmPcrValues,
    Label::TpmAkPublic,
    Label::TpmAkPem,
    Label::FirmwareEventLog,
    Label::ImaLog,
    Label::UkiSections,
];

/// Whether the evidence has a part that is a TPM's to prove.
pub(super) fn is_present(inputs: &Inputs<'_>) -> bool {
    RECORDS.into_iter().any(|label| inputs.collection.get(label).is_some())
}

impl Tpm<'_> {
    /// Whether the quote is this challenge's, by a key that is tied to the node's hardware.
    pub(super) fn is_authentic(&self) -> bool {
        self.quoted.as_ref().is_some_and(|quoted| quoted.fresh) && self.identity.authentic
    }

    /// Last second at which what it rests on holds.
    pub(super) fn expires(&self) -> i64 {
        self.identity
            .expires
            .min(self.reference.map_or(i64::MAX, |reference| reference.not_after))
            .min(self.ima.as_ref().map_or(i64::MAX, |ima| ima.expires))
    }
}

/// Judges the TPM of a machine; `tee` is the confidential VM around it, where there is one.
pub(super) fn judge<'a>(
    inputs: &Inputs<'a>,
    expected: &Expected<'_>,
    tee: Option<&Tee<'a>>,
    findings: &mut Findings,
) -> Tpm<'a> {
    let ak = ak::read(inputs, tee, findings);
    let quoted = ak.as_ref().and_then(|ak| quote::verify(inputs, ak, expected, findings));
    let registers = quoted
        .as_ref()
        .map(|quoted| &quoted.registers)
        .filter(|registers| !registers.is_empty());
    let log = log::judge(inputs, registers, findings);
    uki::judge(inputs, registers, &log, findings);
    let reference = registers.and_then(|registers| compare::compare(inputs, registers, &log, findings));
    let ima = ima::judge(inputs, registers, reference, findings);
    let identity = identity::judge(inputs, ak.as_ref(), quoted.as_ref(), tee, findings);
    let node = identity.node.or(tee.and_then(|tee| tee.node));
    bootstrap::judge(inputs, registers, node, findings);
    let session_key = match (&ak, &quoted) {
        (Some(ak), Some(quoted)) => session_key::judge(inputs, ak, quoted, tee, &expected.qualifying_data, findings),
        _ => None,
    };
    let receive_key = match (&ak, &quoted) {
        (Some(ak), Some(quoted)) => {
            session_key::judge_receive(inputs, ak, quoted, tee, &expected.qualifying_data, findings)
        }
        _ => None,
    };
    if let Some(quoted) = &quoted {
        session_key::judge_clock(inputs, ak.as_ref(), quoted.clock, findings);
    }
    Tpm {
        ak,
        quoted,
        identity,
        reference,
        ima,
        session_key,
        receive_key,
    }
}
