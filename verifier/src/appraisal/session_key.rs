//! The session key, certified by the attestation key, and the TPM's clock.

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

const CLAIM: &str = "session key";
const CLOCK: &str = "TPM clock";

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
    // Without register values there is a reason already, and nothing to recompute the policy from.
    let value = |bank, pcr| quoted.registers.get(&(bank, pcr)).map(Vec::as_slice);
    let auth_policy = policy_pcr(&inputs.policy.session_key_registers, value).ok()?;
    let labels = [
        Label::TpmSessionKey,
        Label::TpmSessionKeyCertify,
        Label::TpmSessionKeyCertifySignature,
    ];
    let certified = labels.iter().any(|label| inputs.collection.get(*label).is_some());
    // The binder names the session key. A confidential VM's own report over that binder says that the key lives in its
    // encrypted memory, whatever its TPM knows of it.
    if !certified && tee.is_some_and(|tee| tee.fresh) {
        return None;
    }
    let before = findings.reasons.len();
    let key = if certified {
        let [public, message, signature] = labels.map(|label| record(inputs, label, findings));
        judge_certified(
            ak,
            quoted,
            qualifying,
            session_key,
            auth_policy,
            (public?, message?, signature?),
            findings,
        )
    } else {
        judge_known(inputs, ak, quoted, session_key, auth_policy, findings)
    };
    key.filter(|_| findings.reasons.len() == before)
}

/// A certification of this session (protocol.md 2): by the same attestation key, over the same binder, in the same
/// boot of the TPM, of a key with exactly the attributes and the policy of a session key.
fn judge_certified(
    ak: &PresentedAk,
    quoted: &Quoted<'_>,
    qualifying: &[u8],
    session_key: &VerifyingKey,
    auth_policy: [u8; 32],
    (public, message, signature): (&[u8], &[u8], &[u8]),
    findings: &mut Findings,
) -> Option<CertifiedKey> {
    let public = match Public::from_tpm2b_or_tpmt(public) {
        Ok(public) => public,
        Err(error) => {
            findings.refuse_with(error.code(), CLAIM, error.details());
            return None;
        }
    };
    let thumbprint = session_key.thumbprint();
    let certified = VerifyingKey::from_spki_der(&public.to_spki_der())
        .ok()
        .map(|key| key.thumbprint());
    if certified != Some(thumbprint) {
        let found = certified.map_or_else(|| "a key of another kind".to_owned(), hex::encode);
        findings.refuse(AppraisalCode::SessionKeyMismatch, CLAIM, hex::encode(thumbprint), found);
    }
    if let Err(faults) = public.check_session_key(SessionKeyUse::Sign, &auth_policy) {
        for fault in faults {
            findings.refuse_with(fault.code(), CLAIM, fault.details());
        }
    }
    let certify = match ak.key.verify_certify(message, signature) {
        Ok(certify) => certify,
        Err(error) => {
            findings.refuse_with(error.code(), "session key certification", error.details());
            return None;
        }
    };
    let attest = certify.attest();
    if attest.extra_data != qualifying {
        let (expected, found) = (hex::encode(qualifying), hex::encode(attest.extra_data));
        findings.refuse(AppraisalCode::SessionKeyNonceMismatch, CLAIM, expected, found);
    }
    if let Err(error) = certify.check_key(&public) {
        findings.refuse_with(error.code(), CLAIM, error.details());
    }
    refuse_other_boot(attest.clock.reset_count, quoted.clock.reset_count, findings);
    Some(CertifiedKey {
        thumbprint,
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
    session_key: &VerifyingKey,
    auth_policy: [u8; 32],
    findings: &mut Findings,
) -> Option<CertifiedKey> {
    let known = inputs
        .enrolled()
        .and_then(|node| Some((node.session_key.as_ref()?, node.tpm()?)))
        .filter(|(_, tpm)| Some(&tpm.ak_name) == ak.name.as_ref())
        .map(|(key, tpm)| (key, tpm.clock))
        .filter(|(key, _)| key.thumbprint == session_key.thumbprint());
    let Some((key, clock)) = known else {
        findings.refuse(
            AppraisalCode::SessionKeyMissing,
            CLAIM,
            "a certification by the attestation key",
            "none",
        );
        return None;
    };
    refuse_other_boot(clock.reset_count, quoted.clock.reset_count, findings);
    if key.auth_policy != auth_policy {
        let (expected, found) = (hex::encode(auth_policy), hex::encode(key.auth_policy));
        findings.refuse(crate::tpm::TpmCode::SessionKeyPolicy, CLAIM, expected, found);
    }
    Some(key.clone())
}

fn refuse_other_boot(certified: u32, quoted: u32, findings: &mut Findings) {
    if certified != quoted {
        let (expected, found) = (
            format!("resetCount {quoted}, as quoted"),
            format!("resetCount {certified}"),
        );
        findings.refuse(AppraisalCode::SessionKeyStale, CLAIM, expected, found);
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
