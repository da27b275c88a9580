//! The attestation key's own certificate (IAK, LAK): a device identity instead of an endorsement key.

use touchstone_evidence::collection::Label;

use super::ak::PresentedAk;
use super::findings::{Findings, claim};
use super::inputs::Inputs;
use crate::anchors::Purpose;
use crate::x509::iak_certificate::{DeviceId, IakCertificateError};
use crate::x509::verify_iak_certificate;

const CERTIFICATE: &str = "IAK certificate";

/// What a trusted certificate of the attestation key says.
pub(super) struct Device {
    /// How the device is known.
    pub(super) ids: Vec<DeviceId>,
    /// Last second of the chain's validity.
    pub(super) expires: i64,
}

impl Device {
    /// Judges the certificate, where one came: a certificate that is there must be right.
    pub(super) fn judge(inputs: &Inputs<'_>, ak: Option<&PresentedAk>, findings: &mut Findings) -> Option<Self> {
        let der = inputs.collection.get(Label::TpmIakCertificate)?;
        let key = ak?.key.key();
        let judge = |purpose| {
            let store = inputs.anchors.store(purpose);
            verify_iak_certificate(der, key, &[], store, inputs.now, inputs.policy.chain_rules())
        };
        // A maker's anchor first; of two refusals the maker's is told, unless only the owner's knew the issuer.
        let verified = judge(Purpose::Idevid)
            .map(|verified| (verified, Purpose::Idevid))
            .or_else(|first| {
                judge(Purpose::Ldevid)
                    .map(|verified| (verified, Purpose::Ldevid))
                    .map_err(|second| match first {
                        IakCertificateError::Chain(crate::x509::chain::ChainError::IssuerUnknown { .. }) => second,
                        first => first,
                    })
            });
        match verified {
            Ok((verified, purpose)) => {
                findings.text(claim::IAK_CERTIFICATE, purpose.as_str());
                for expired in &verified.chain().expired {
                    let (subject, end) = (&expired.subject, expired.not_after);
                    findings
                        .leniencies
                        .push(format!("ek-expiry: ignore-with-claim: {subject} expired at {end}"));
                }
                Some(Self {
                    ids: verified.device_ids(),
                    expires: verified.chain().not_after,
                })
            }
            Err(error) => {
                findings.refuse_with(error.code(), CERTIFICATE, error.details());
                None
            }
        }
    }
}
