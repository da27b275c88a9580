//! The quote: signature, type, freshness, selection, register values.

use std::collections::BTreeMap;

use touchstone_evidence::collection::Label;
use touchstone_evidence::pcr_values::{self, PcrValues};

use super::ak::PresentedAk;
use super::findings::{Findings, claim};
use super::inputs::{Expected, Freshness, Inputs};
use crate::reason::{AppraisalCode, Code};
use crate::tpm::attestation::AttestationError;
use crate::tpm::signature::SignatureError;
use crate::tpm::{ClockInfo, HashAlg, PcrSelection, VerifiedQuote};

const CLAIM: &str = "quote";

/// What a quote that verifies under the presented key says.
pub(super) struct Quoted<'a> {
    /// Qualified Name of the signing key, as the TPM computed it.
    pub(super) qualified_signer: &'a [u8],
    /// The TPM's clock.
    pub(super) clock: ClockInfo,
    /// The firmware version the TPM signed; obfuscated for keys outside the endorsement hierarchy.
    pub(super) firmware_version: u64,
    /// Whether it carries the expected qualifying data, in evidence of the right kind.
    pub(super) fresh: bool,
    /// The registers by the *signed* selection; empty where the values sent along are not the signed ones.
    pub(super) registers: BTreeMap<(HashAlg, u8), Vec<u8>>,
}

/// Verifies the quote under the presented key and judges what it says. None where there is nothing signed to judge.
pub(super) fn verify<'a>(
    inputs: &Inputs<'a>,
    ak: &PresentedAk,
    expected: &Expected<'_>,
    findings: &mut Findings,
) -> Option<Quoted<'a>> {
    let message = record(inputs, Label::TpmQuote, findings);
    let signature = record(inputs, Label::TpmQuoteSignature, findings);
    let quote = match ak.key.verify_quote(message?, signature?) {
        Ok(quote) => quote,
        Err(error) => {
            let weak = matches!(&error, AttestationError::Signature(SignatureError::Scheme { found, .. }) if found.hash().is_weak());
            let code = if weak {
                AppraisalCode::WeakAlgorithm.into()
            } else {
                Code::from(error.code())
            };
            findings.refuse_with(code, CLAIM, error.details());
            return None;
        }
    };
    let attest = quote.attest();
    let qualifying = expected.qualifying_data.as_ref();
    let same = !qualifying.is_empty() && attest.extra_data == qualifying;
    if !same {
        let (code, what) = match inputs.freshness {
            Freshness::Bound { .. } => (AppraisalCode::BinderMismatch, "binder"),
            Freshness::Unbound { .. } => (AppraisalCode::NonceMismatch, "nonce"),
        };
        let (expected, found) = (hex::encode(qualifying), hex::encode(attest.extra_data));
        findings.refuse(code, CLAIM, format!("{what} {expected}"), format!("{what} {found}"));
    }
    findings.int(claim::TPM_FIRMWARE, attest.firmware_version);
    judge_selection(inputs, &quote.info().selection, findings);
    let registers = register_values(inputs, &quote, findings);
    Some(Quoted {
        qualified_signer: attest.qualified_signer,
        clock: attest.clock,
        firmware_version: attest.firmware_version,
        fresh: same && expected.right_kind,
        registers,
    })
}

/// The bytes of a record that must be there.
pub(super) fn record<'a>(inputs: &Inputs<'a>, label: Label, findings: &mut Findings) -> Option<&'a [u8]> {
    let record = inputs.collection.get(label);
    if record.is_none() {
        findings.refuse(AppraisalCode::RecordMissing, "evidence", label.as_str(), "no record");
    }
    record
}

/// Live: exactly what was asked. Always: everything the policy requires, none of it resettable or of a weak bank.
fn judge_selection(inputs: &Inputs<'_>, selection: &PcrSelection, findings: &mut Findings) {
    const CLAIM: &str = "PCR selection";
    let required = &inputs.policy.required_registers;
    if let Freshness::Bound { asked, .. } = inputs.freshness {
        if let Err(error) = selection.must_equal(asked) {
            findings.refuse_with(error.code(), CLAIM, error.details());
        }
        // The session key's policy is recomputed from these.
        if let Err(error) = selection.must_cover(&inputs.policy.session_key_registers) {
            findings.refuse_with(error.code(), "session key registers", error.details());
        }
    }
    if let Err(error) = selection.must_cover(required) {
        findings.refuse_with(error.code(), CLAIM, error.details());
    }
    if let Err(error) = required.must_be_boot_registers() {
        findings.refuse_with(error.code(), "policy", error.details());
    }
    let weak = |selection: &PcrSelection| {
        selection.count() > 0
            && selection
                .banks()
                .iter()
                .all(|bank| bank.count() == 0 || bank.bank().is_weak())
    };
    if weak(selection)
        || required
            .banks()
            .iter()
            .any(|bank| bank.count() > 0 && bank.bank().is_weak())
    {
        let (expected, found) = ("a bank of SHA-256 or better", selection.to_string());
        findings.refuse(AppraisalCode::WeakAlgorithm, CLAIM, expected, found);
    }
}

/// The values sent along, by the signed selection, if their digest is the signed one.
fn register_values(
    inputs: &Inputs<'_>,
    quote: &VerifiedQuote<'_>,
    findings: &mut Findings,
) -> BTreeMap<(HashAlg, u8), Vec<u8>> {
    const CLAIM: &str = "register values";
    let Some(bytes) = record(inputs, Label::TpmPcrValues, findings) else {
        return BTreeMap::new();
    };
    let mut values: PcrValues = match pcr_values::decode(bytes) {
        Ok(values) => values,
        Err(error) => {
            findings.refuse(
                AppraisalCode::RecordUnreadable,
                CLAIM,
                "register values",
                error.to_string(),
            );
            return BTreeMap::new();
        }
    };
    let value = |bank: HashAlg, pcr: u8| values.get(&(bank.tpm_id(), pcr)).map(Vec::as_slice);
    if let Err(error) = quote.check_values(value) {
        findings.refuse_with(error.code(), CLAIM, error.details());
        return BTreeMap::new();
    }
    let signed = quote.info().selection.iter();
    signed
        .filter_map(|(bank, pcr)| Some(((bank, pcr), values.remove(&(bank.tpm_id(), pcr))?)))
        .collect()
}
