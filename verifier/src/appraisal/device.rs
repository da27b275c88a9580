//! The attestation key's own certificate (IAK, LAK): a device identity instead of an endorsement key.

use touchstone_evidence::collection::Label;

use super::ak::PresentedAk;
use super::findings::{Findings, claim};
use super::inputs::Inputs;
use crate::anchors::Purpose;
use crate::x509::chain::ChainError;
use crate::x509::ek_certificate::read_ek_chain;
use crate::x509::iak_certificate::{DeviceId, IakCertificateError};
use crate::x509::{verify_cloud_ak_certificate, verify_iak_certificate};

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
        // What came with it may lead to an anchor; a record that cannot be read is told where the endorsement key is.
        let record = inputs.collection.get(Label::TpmEkChain).unwrap_or_default();
        let offered = read_ek_chain(record).unwrap_or_default();
        let judge = |purpose| {
            let (store, rules) = (inputs.anchors.store(purpose), inputs.policy.chain_rules());
            let verify = match purpose {
                Purpose::CloudAk => verify_cloud_ak_certificate,
                _ => verify_iak_certificate,
            };
            verify(der, key, &offered, store, inputs.now, rules).map(|verified| (verified, purpose))
        };
        let issuer_unknown =
            |error: &IakCertificateError| matches!(error, IakCertificateError::Chain(ChainError::IssuerUnknown { .. }));
        // A maker's anchor first. Of several refusals the first is told, unless only a later one knew the issuer; a
        // provider's certificate never has what the TCG's profile demands.
        let mut verified = judge(Purpose::Idevid);
        for purpose in [Purpose::Ldevid, Purpose::CloudAk] {
            let Err(before) = verified else { break };
            verified = judge(purpose).map_err(|error| {
                let closer = issuer_unknown(&before) || purpose == Purpose::CloudAk;
                if closer && !issuer_unknown(&error) {
                    error
                } else {
                    before
                }
            });
        }
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
