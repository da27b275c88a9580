//! Everything an appraisal rests on.

use std::borrow::Cow;

use touchstone_cose::key::VerifyingKey;
use touchstone_evidence::binder::{BinderInput, Role};
use touchstone_evidence::collection::{Collection, Profile};

use super::findings::Findings;
use crate::anchors::TrustAnchors;
use crate::ima::ImaPrefix;
use crate::inventory::{EkId, EnrolledNode, EnrolledTpm, Inventory};
use crate::policy::AppraisalPolicy;
use crate::reason::AppraisalCode;
use crate::reference::ReferenceSet;
use crate::snp::KnownVek;
use crate::tpm::PcrSelection;

/// The inputs of [`appraise`](super::appraise), all of them: nothing else has an influence.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The evidence.
    pub collection: &'a Collection,
    /// What makes it fresh.
    pub freshness: Freshness<'a>,
    /// What the domain demands.
    pub policy: &'a AppraisalPolicy,
    /// The reference values.
    pub references: &'a ReferenceSet,
    /// The trust anchors.
    pub anchors: &'a TrustAnchors,
    /// The machines of the domain.
    pub inventory: &'a Inventory,
    /// What was stored for the node when it was last affirmed.
    pub enrolled: Option<&'a EnrolledNode>,
    /// What is known of the node's IMA list.
    pub ima: ImaKnown<'a>,
    /// What earlier appraisals found out, so that it need not be found out again. It has no influence on a verdict.
    pub known: Known<'a>,
    /// The time, Unix seconds.
    pub now: i64,
}

/// What is known of a node's IMA list from earlier rounds of the same boot. The default: nothing, so that the evidence
/// must hold the whole list.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImaKnown<'a> {
    /// The verified prefix: the record in the evidence begins where it ends.
    pub prefix: Option<&'a ImaPrefix>,
    /// The chunks that the prefix names, in its order: needed where it was judged under other rules, or names as many
    /// as it may ([`AppraisalCode::ImaEntriesUnavailable`] asks for them).
    pub seen: Option<&'a [Vec<u8>]>,
}

/// What earlier appraisals found out. The default: nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// The signing key of an SEV-SNP report, with the chain that was verified for it.
    pub vek: Option<&'a KnownVek>,
}

/// What makes evidence fresh.
#[derive(Debug, Clone, Copy)]
pub enum Freshness<'a> {
    /// A session of a broker: the quote carries the binder.
    Bound {
        /// What the binder ties the evidence to.
        binder: BinderContext<'a>,
        /// The selection of the challenge: the quote must have exactly this one.
        asked: &'a PcrSelection,
        /// The session signing key of the hello.
        session_key: &'a VerifyingKey,
        /// The credential that was opened in this session, if one was.
        activated: Option<&'a Activated>,
    },
    /// Packed evidence, offline: the quote carries a raw nonce.
    Unbound {
        /// The nonce.
        nonce: &'a [u8],
    },
}

/// What the binder ties the evidence to, beside the session key and the other records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BinderContext<'a> {
    /// As what the Attester presents itself.
    pub role: Role,
    /// The trust domain.
    pub domain: &'a str,
    /// The session.
    pub session_id: [u8; 16],
    /// The nonce of the challenge.
    pub nonce: [u8; 32],
    /// Thumbprint of the receive key, where there is one.
    pub receive_key: Option<[u8; 32]>,
    /// Exporter value of the connection.
    pub tls_exporter: [u8; 32],
}

/// A credential that was made for this pair of keys and opened in this session: the answer was checked.
///
/// It names the pair, so that an activation of one TPM can never stand in for another that the evidence names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activated {
    /// The endorsement key the credential was encrypted to.
    pub ek: EkId,
    /// The TPM Name it was made for.
    pub ak_name: Vec<u8>,
}

impl<'a> Inputs<'a> {
    /// The node stored, where it may count: in a session only.
    pub(super) fn enrolled(&self) -> Option<&'a EnrolledNode> {
        match self.freshness {
            Freshness::Bound { .. } => self.enrolled,
            Freshness::Unbound { .. } => None,
        }
    }

    /// The TPM the node stored enrolled with.
    pub(super) fn enrolled_tpm(&self) -> Option<&'a EnrolledTpm> {
        self.enrolled().and_then(EnrolledNode::tpm)
    }

    /// The credential opened in this session.
    pub(super) fn activated(&self) -> Option<&'a Activated> {
        match self.freshness {
            Freshness::Bound { activated, .. } => activated,
            Freshness::Unbound { .. } => None,
        }
    }

    /// What fresh evidence must carry.
    ///
    /// The two kinds of evidence never mix: packed evidence in a session, or bound evidence offline, is refused.
    pub(super) fn expected(&self, findings: &mut Findings) -> Expected<'a> {
        let (profile, qualifying_data, report_data) = match self.freshness {
            Freshness::Bound {
                binder, session_key, ..
            } => {
                // A collection holds each label once, so it always has a manifest; without one nothing would be equal.
                let input = self
                    .collection
                    .manifest_digest()
                    .ok()
                    .map(|manifest_digest| BinderInput {
                        role: binder.role,
                        domain: binder.domain,
                        session_id: binder.session_id,
                        nonce: binder.nonce,
                        ckt: session_key.thumbprint(),
                        receive_key: binder.receive_key,
                        tls_exporter: binder.tls_exporter,
                        manifest_digest,
                    });
                let qualifying = input.as_ref().map(|input| input.tpm_qualifying_data().to_vec());
                let report_data = input.as_ref().map(BinderInput::report_data);
                (Profile::Bound, Cow::Owned(qualifying.unwrap_or_default()), report_data)
            }
            Freshness::Unbound { nonce } => (Profile::Unbound, Cow::Borrowed(nonce), padded(nonce)),
        };
        let right_kind = self.collection.profile() == profile;
        if !right_kind {
            let found = self.collection.profile().uri();
            findings.refuse(AppraisalCode::EvidenceTypeWrong, "evidence", profile.uri(), found);
        }
        Expected {
            qualifying_data,
            report_data,
            right_kind,
        }
    }
}

/// What fresh evidence must carry: the binder of the session, or the raw nonce.
pub(super) struct Expected<'a> {
    /// Of a TPM's quote and certifications. Empty is never equal to anything.
    pub(super) qualifying_data: Cow<'a, [u8]>,
    /// Of a confidential VM's report. None is never equal to anything.
    pub(super) report_data: Option<[u8; 64]>,
    /// Whether the evidence is of the kind that was asked for, so that what it carries makes it fresh.
    pub(super) right_kind: bool,
}

/// A raw nonce as report data: the rest is zero. An empty one, or one that is too long, is none.
fn padded(nonce: &[u8]) -> Option<[u8; 64]> {
    let mut data = [0; 64];
    data.get_mut(..nonce.len())?.copy_from_slice(nonce);
    (!nonce.is_empty()).then_some(data)
}

#[cfg(test)]
mod tests {
    use super::padded;

    #[test]
    fn a_short_nonce_is_padded_and_none_is_nothing() {
        assert_eq!(padded(&[]), None);
        assert_eq!(padded(&[7; 65]), None);
        assert_eq!(padded(&[7; 64]), Some([7; 64]));
        assert_eq!(padded(&[7]).unwrap()[..2], [7, 0]);
    }
}
