//! The session keys, signing and receiving, certified by the attestation key; and the TPM's clock.

use touchstone_cose::key::VerifyingKey;
use touchstone_evidence::collection::Label;

use super::ak::PresentedAk;
use super::findings::Findings;
use super::inputs::{Freshness, Inputs};
use super::quote::{Quoted, record};
use super::tee::Tee;
use crate::inventory::CertifiedKey;
use crate::reason::AppraisalCode;
use crate::tpm::policy::policy_pcr;
use crate::tpm::{ClockInfo, Public, SessionKeyUse};

const CLOCK: &str = "TPM clock";

/// One of the two keys of a session, and what the evidence says of it.
struct Expected {
    claim: &'static str,
    certification: &'static str,
    /// The thumbprint in the hello, which the binder holds.
    thumbprint: [u8; 32],
    usage: SessionKeyUse,
    labels: [Label; 3],
}

/// Judges the session key of a session: certified anew, or the same as when the node was last affirmed.
///
/// None offline, and where it is refused.
pub(super) fn judge(
    inputs: &Inputs<'_>,
    ak: &PresentedAk,
    quoted: &Quoted<'_>,
    tee: Option<&Tee<'_>>,
    qualifying: &[u8],
    findings: &mut Findings,
) -> Option<CertifiedKey> {
    let Freshness::Bound { session_key, .. } = inputs.freshness else {
        return None;
    };
    let expected = Expected {
        claim: "session key",
        certification: "session key certification",
        thumbprint: session_key.thumbprint(),
        usage: SessionKeyUse::Sign,
        labels: [
            Label::TpmSessionKey,
            Label::TpmSessionKeyCertify,
            Label::TpmSessionKeyCertifySignature,
        ],
    };
    let known = inputs.enrolled().and_then(|node| node.session_key.as_ref());
    judge_key(inputs, ak, quoted, (tee, qualifying), (&expected, known), findings)
}

/// Judges the receive key of a session in the same way. None where the hello named none, offline, and where it is refused.
pub(super) fn judge_receive(
    inputs: &Inputs<'_>,
    ak: &PresentedAk,
    quoted: &Quoted<'_>,
    tee: Option<&Tee<'_>>,
    qualifying: &[u8],
    findings: &mut Findings,
) -> Option<CertifiedKey> {
    let Freshness::Bound { binder, .. } = inputs.freshness else {
        return None;
    };
    let expected = Expected {
        claim: "receive key",
        certification: "receive key certification",
        thumbprint: binder.receive_key?,
        usage: SessionKeyUse::Receive,
        labels: [
            Label::TpmReceiveKey,
            Label::TpmReceiveKeyCertify,
            Label::TpmReceiveKeyCertifySignature,
        ],
    };
    let known = inputs.enrolled_tpm().and_then(|tpm| tpm.receive_key.as_ref());
    judge_key(inputs, ak, quoted, (tee, qualifying), (&expected, known), findings)
}

fn judge_key(
    inputs: &Inputs<'_>,
    ak: &PresentedAk,
    quoted: &Quoted<'_>,
    (tee, qualifying): (Option<&Tee<'_>>, &[u8]),
    (expected, known): (&Expected, Option<&CertifiedKey>),
    findings: &mut Findings,
) -> Option<CertifiedKey> {
    // Without register values there is a reason already, and nothing to recompute the policy from.
    let value = |bank, pcr| quoted.registers.get(&(bank, pcr)).map(Vec::as_slice);
    let auth_policy = policy_pcr(&inputs.policy.session_key_registers, value).ok()?;
    let has = |label: &Label| inputs.collection.get(*label).is_some();
    let certified = expected.labels.iter().any(has);
    // The binder names the key. A confidential VM's own report over that binder says that the key lives in its encrypted
    // memory, whatever its TPM knows of it.
    if !certified && tee.is_some_and(|tee| tee.fresh) {
        return None;
    }
    let before = findings.count();
    let key = if certified {
        let [public, message, signature] = expected.labels.map(|label| record(inputs, label, findings));
        let certificate = (public?, message?, signature?);
        judge_certified(ak, quoted, qualifying, expected, auth_policy, certificate, findings)
    } else {
        judge_known(inputs, ak, quoted, (expected, known), auth_policy, findings)
    };
    key.filter(|_| findings.count() == before)
}

/// A certification of this session (protocol.md 2): by the same attestation key, over the same binder, in the same
/// boot of the TPM, of a key with exactly the attributes and the policy of a session key.
fn judge_certified(
    ak: &PresentedAk,
    quoted: &Quoted<'_>,
    qualifying: &[u8],
    wanted: &Expected,
    auth_policy: [u8; 32],
    (public, message, signature): (&[u8], &[u8], &[u8]),
    findings: &mut Findings,
) -> Option<CertifiedKey> {
    let public = match Public::from_tpm2b_or_tpmt(public) {
        Ok(public) => public,
        Err(error) => {
            findings.refuse_with(error.code(), wanted.claim, error.details());
            return None;
        }
    };
    let certified = VerifyingKey::from_spki_der(&public.to_spki_der())
        .ok()
        .map(|key| key.thumbprint());
    if certified != Some(wanted.thumbprint) {
        let found = certified.map_or_else(|| "a key of another kind".to_owned(), hex::encode);
        let expected = hex::encode(wanted.thumbprint);
        findings.refuse(AppraisalCode::SessionKeyMismatch, wanted.claim, expected, found);
    }
    if let Err(faults) = public.check_session_key(wanted.usage, &auth_policy) {
        for fault in faults {
            findings.refuse_with(fault.code(), wanted.claim, fault.details());
        }
    }
    let certify = match ak.key.verify_certify(message, signature) {
        Ok(certify) => certify,
        Err(error) => {
            findings.refuse_with(error.code(), wanted.certification, error.details());
            return None;
        }
    };
    let attest = certify.attest();
    if attest.extra_data != qualifying {
        let (expected, found) = (hex::encode(qualifying), hex::encode(attest.extra_data));
        findings.refuse(AppraisalCode::SessionKeyNonceMismatch, wanted.claim, expected, found);
    }
    if let Err(error) = certify.check_key(&public) {
        findings.refuse_with(error.code(), wanted.claim, error.details());
    }
    refuse_other_boot(
        wanted.claim,
        attest.clock.reset_count,
        quoted.clock.reset_count,
        findings,
    );
    Some(CertifiedKey {
        thumbprint: wanted.thumbprint,
        name: public.name().into_bytes(),
        auth_policy,
    })
}

/// The key of the round before: it lives under a primary that dies with the TPM's reset, so an equal resetCount under
/// the same attestation key says that it is still the same, and its policy must still fit the registers.
fn judge_known(
    inputs: &Inputs<'_>,
    ak: &PresentedAk,
    quoted: &Quoted<'_>,
    (wanted, known): (&Expected, Option<&CertifiedKey>),
    auth_policy: [u8; 32],
    findings: &mut Findings,
) -> Option<CertifiedKey> {
    let known = inputs
        .enrolled_tpm()
        .filter(|tpm| Some(&tpm.ak_name) == ak.name.as_ref())
        .and_then(|tpm| Some((known?, tpm.clock)))
        .filter(|(key, _)| key.thumbprint == wanted.thumbprint);
    let Some((key, clock)) = known else {
        findings.refuse(
            AppraisalCode::SessionKeyMissing,
            wanted.claim,
            "a certification by the attestation key",
            "none",
        );
        return None;
    };
    refuse_other_boot(wanted.claim, clock.reset_count, quoted.clock.reset_count, findings);
    if key.auth_policy != auth_policy {
        let (expected, found) = (hex::encode(auth_policy), hex::encode(key.auth_policy));
        findings.refuse(crate::tpm::TpmCode::SessionKeyPolicy, wanted.claim, expected, found);
    }
    Some(key.clone())
}

fn refuse_other_boot(claim: &str, certified: u32, quoted: u32, findings: &mut Findings) {
    if certified != quoted {
        let (expected, found) = (
            format!("resetCount {quoted}, as quoted"),
            format!("resetCount {certified}"),
        );
        findings.refuse(AppraisalCode::SessionKeyStale, claim, expected, found);
    }
}

/// Time never runs backwards under one attestation key. Within one boot the clock must not go back either, unless the
/// TPM itself does not vouch for it (`safe` = 0): then the counters alone are judged (protocol.md 2).
pub(super) fn judge_clock(inputs: &Inputs<'_>, ak: Option<&PresentedAk>, clock: ClockInfo, findings: &mut Findings) {
    let same_ak = |name: &[u8]| ak.and_then(|ak| ak.name.as_deref()) == Some(name);
    let Some(last) = inputs
        .enrolled_tpm()
        .filter(|tpm| same_ak(&tpm.ak_name))
        .map(|tpm| tpm.clock)
    else {
        return;
    };
    let counters = (clock.reset_count, clock.restart_count);
    let last_counters = (last.reset_count, last.restart_count);
    let same_boot = clock.reset_count == last.reset_count;
    if counters < last_counters {
        let expected = format!(
            "resetCount {}, restartCount {} or later",
            last.reset_count, last.restart_count
        );
        let found = format!("resetCount {}, restartCount {}", clock.reset_count, clock.restart_count);
        findings.refuse(AppraisalCode::ClockWentBack, CLOCK, expected, found);
    } else if same_boot && clock.safe && last.safe && clock.clock < last.clock {
        let (expected, found) = (format!("{} ms or later", last.clock), format!("{} ms", clock.clock));
        findings.refuse(AppraisalCode::ClockWentBack, CLOCK, expected, found);
    }
}
