//! `signers.json`, who may sign reference values, and the reading of signed CoRIMs.
//!
//! ```json
//! {"signers": [{"name": "reference-1", "key": "<SubjectPublicKeyInfo, hexadecimal>", "not_after": 1800000000}],
//!  "vendors": [{"name": "acme", "issuer": "ACME Ltd signing key", "key": "…", "purpose": "tpm-registers"}]}
//! ```
//! `signers` are the domain's own; `vendors` sign files of their own making, and only values of TPM registers are taken
//! from those.

use serde::{Deserialize, Serialize};
use touchstone_cose::key::VerifyingKey;
use touchstone_verifier::corim::vendor::VendorSigner;
use touchstone_verifier::corim::{CorimError, MAX_NAME, TrustedSigner, UntrustedCorim, VerifiedCorim};

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::{SIGNERS, is_reference_name};
use crate::targets::keyset_file::parse_key;

/// Most signers of a domain.
pub const MAX_SIGNERS: usize = 64;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignersFile {
    signers: Vec<SignerFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    vendors: Vec<VendorFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VendorFile {
    name: String,
    issuer: String,
    key: String,
    purpose: VendorPurpose,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after: Option<i64>,
}

/// What is taken from a vendor's files.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum VendorPurpose {
    TpmRegisters,
}

/// Everyone who may sign reference values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signers {
    /// The domain's own.
    pub own: Vec<TrustedSigner>,
    /// Vendors.
    pub vendors: Vec<VendorSigner>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignerFile {
    name: String,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after: Option<i64>,
}

/// Reads `signers.json`.
///
/// # Errors
/// [`PolicyError`] `policy-signers-unreadable`, also for an empty list and a name or key that is there twice.
pub fn parse(bytes: &[u8]) -> Result<Signers, PolicyError> {
    let code = PolicyCode::SignersUnreadable;
    let unreadable = |found: String| PolicyError::new(code, SIGNERS, "signers", found);
    let file: SignersFile = serde_json::from_slice(bytes).map_err(|e| unreadable(e.to_string()))?;
    for (count, least) in [(file.signers.len(), 1), (file.vendors.len(), 0)] {
        if count < least || count > MAX_SIGNERS {
            return Err(unreadable(format!("{count} of {least} to {MAX_SIGNERS}")));
        }
    }
    let mut problems = Vec::new();
    let mut signers: Vec<TrustedSigner> = Vec::with_capacity(file.signers.len());
    for (i, signer) in file.signers.into_iter().enumerate() {
        let claim = format!("{SIGNERS}: signers[{i}]");
        match parse_key(&signer.key) {
            Err(found) => problems.push(Problem::new(code, claim, "a public key", found)),
            Ok(_) if !is_reference_name(&signer.name) => {
                problems.push(Problem::new(code, claim, "a name", signer.name));
            }
            Ok(key)
                if signers
                    .iter()
                    .any(|s| s.name == signer.name || s.key.kid() == key.kid()) =>
            {
                problems.push(Problem::new(code, claim, "each name and key once", signer.name));
            }
            Ok(key) => signers.push(TrustedSigner {
                name: signer.name,
                key,
                not_after: signer.not_after,
            }),
        }
    }
    let mut vendors: Vec<VendorSigner> = Vec::with_capacity(file.vendors.len());
    for (i, vendor) in file.vendors.into_iter().enumerate() {
        let claim = format!("{SIGNERS}: vendors[{i}]");
        let known = |key: &VerifyingKey| {
            let own = signers.iter().any(|s| s.name == vendor.name || s.key == *key);
            own || vendors.iter().any(|v| v.name == vendor.name || v.key == *key)
        };
        match parse_key(&vendor.key) {
            Err(found) => problems.push(Problem::new(code, claim, "a public key", found)),
            Ok(_) if !is_reference_name(&vendor.name) => {
                problems.push(Problem::new(code, claim, "a name", vendor.name));
            }
            Ok(_) if vendor.issuer.is_empty() || vendor.issuer.len() > MAX_NAME => {
                problems.push(Problem::new(code, claim, "the name in its signatures", vendor.issuer));
            }
            Ok(key) if known(&key) => {
                problems.push(Problem::new(code, claim, "each name and key once", vendor.name));
            }
            Ok(key) => vendors.push(VendorSigner {
                name: vendor.name,
                issuer: vendor.issuer,
                key,
                not_after: vendor.not_after,
            }),
        }
    }
    PolicyError::unless_empty(problems)?;
    Ok(Signers { own: signers, vendors })
}

/// The bytes of `signers.json`.
pub fn to_json(signers: &Signers) -> Vec<u8> {
    let vendors = signers.vendors.iter().map(|v| VendorFile {
        name: v.name.clone(),
        issuer: v.issuer.clone(),
        key: hex::encode(v.key.to_spki_der()),
        purpose: VendorPurpose::TpmRegisters,
        not_after: v.not_after,
    });
    let signers = signers.own.iter().map(|s| SignerFile {
        name: s.name.clone(),
        key: hex::encode(s.key.to_spki_der()),
        not_after: s.not_after,
    });
    // A struct of numbers and strings always serialises; an empty file would be refused when it is read.
    let mut bytes = serde_json::to_vec_pretty(&SignersFile {
        signers: signers.collect(),
        vendors: vendors.collect(),
    })
    .unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Verifies a signed CoRIM *at a time at which it is in force*, whatever the time is now.
///
/// Reference values carry their validity with them and are judged at every appraisal: one that has expired, or is
/// published ahead of its time, must not make the whole repository unusable. Everything else about it must hold.
///
/// # Errors
/// [`CorimError`]; [`CorimError::Expired`] or [`CorimError::NotYetValid`] only if it is in force at no time at all.
pub fn verify_reference(bytes: &[u8], signers: &Signers, now: i64) -> Result<VerifiedCorim, CorimError> {
    let (mut early, mut late) = (0, LAST_SECOND);
    let mut time = now.clamp(early, late);
    // Halving: "expired" says the time is too late, "not yet valid" that it is too early.
    loop {
        let error = match signers.verify(bytes, time) {
            Err(e @ (CorimError::Expired | CorimError::SignerExpired { .. })) => {
                late = time - 1;
                e
            }
            Err(e @ CorimError::NotYetValid) => {
                early = time + 1;
                e
            }
            other => return other,
        };
        if early > late {
            return Err(error);
        }
        time = early + (late - early) / 2;
    }
}

impl Signers {
    /// Verifies a file as the domain's own; if none of its own signers has made it, as a vendor's.
    fn verify(&self, bytes: &[u8], now: i64) -> Result<VerifiedCorim, CorimError> {
        let corim = UntrustedCorim::new(bytes);
        match corim.verify(&self.own, now) {
            Err(own @ CorimError::SignerUnknown { .. }) => match corim.verify_vendor(&self.vendors, now) {
                Err(CorimError::SignerUnknown { .. }) => Err(own),
                other => other,
            },
            other => other,
        }
    }
}

/// The last second of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use touchstone_cose::key::SigningKey;
    use touchstone_verifier::corim::{BankValues, MachineReference, sign_corim};
    use touchstone_verifier::tpm::HashAlg;

    fn signer(seed: u8, not_after: Option<i64>) -> TrustedSigner {
        let key = SigningKey::from_seed([seed; 32]).verifying_key();
        TrustedSigner {
            name: format!("reference-{seed}"),
            key,
            not_after,
        }
    }

    fn own(own: Vec<TrustedSigner>) -> Signers {
        Signers {
            own,
            vendors: Vec::new(),
        }
    }

    fn corim(not_before: Option<i64>, not_after: Option<i64>, signed_until: Option<i64>) -> Vec<u8> {
        let values = BankValues {
            registers: BTreeMap::from([(0, vec![1; 32])]),
            events: Vec::new(),
        };
        let reference = MachineReference {
            name: "golden".into(),
            banks: [(HashAlg::Sha256, values)].into(),
            files: Vec::new(),
            snp: None,
            tdx: None,
            gpus: Vec::new(),
            not_before,
            not_after,
        };
        let unsigned = reference.to_corim_unsigned().unwrap();
        sign_corim(&unsigned, &SigningKey::from_seed([1; 32]), "reference-1", signed_until).unwrap()
    }

    #[test]
    fn a_reference_is_read_whatever_its_validity_and_keeps_it() {
        let now = 1_700_000_000;
        for (not_before, not_after, signed_until, signer_until) in [
            (None, None, None, None),
            (None, Some(now - 1), None, None),
            (Some(now + 1_000), None, None, None),
            (Some(now - 9), Some(now - 3), None, None),
            (Some(now + 3), Some(now + 3), None, None),
            (None, None, Some(now - 1), None),
            (Some(5), None, None, Some(7)),
        ] {
            let bytes = corim(not_before, not_after, signed_until);
            let verified = verify_reference(&bytes, &own(vec![signer(1, signer_until)]), now).unwrap();
            let end = [not_after, signed_until, signer_until].into_iter().flatten().min();
            assert_eq!(verified.not_before(), not_before);
            assert!(
                end.is_none_or(|end| verified.not_after() == end),
                "{end:?} {}",
                verified.not_after()
            );
        }
        let never = corim(Some(now), None, Some(now - 10));
        assert!(matches!(
            verify_reference(&never, &own(vec![signer(1, None)]), now),
            Err(CorimError::Expired | CorimError::NotYetValid)
        ));
    }

    #[test]
    fn what_nobody_listed_signed_is_refused() {
        let bytes = corim(None, None, None);
        assert!(matches!(
            verify_reference(&bytes, &own(vec![signer(2, None)]), 0),
            Err(CorimError::SignerUnknown { .. })
        ));
        let mut altered = bytes.clone();
        *altered.last_mut().unwrap() ^= 1;
        assert!(verify_reference(&altered, &own(vec![signer(1, None)]), 0).is_err());
        assert!(verify_reference(&[], &own(vec![signer(1, None)]), 0).is_err());
    }

    #[test]
    fn signers_are_read_and_written() {
        let signers = own(vec![signer(1, None), signer(2, Some(9))]);
        assert_eq!(parse(&to_json(&signers)).unwrap(), signers);
        let text = String::from_utf8(to_json(&signers)).unwrap();
        for (from, to) in [
            ("reference-2", "reference-1"),
            ("reference-2", "a b"),
            ("\"name\"", "\"x\": 1, \"name\""),
            ("302a", "302b"),
        ] {
            let error = parse(text.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert_eq!(error.code(), PolicyCode::SignersUnreadable, "{to}");
        }
        assert_eq!(
            parse(br#"{"signers":[]}"#).unwrap_err().code(),
            PolicyCode::SignersUnreadable
        );
        assert!(
            parse(&to_json(&own(vec![
                signer(1, None),
                TrustedSigner {
                    name: "x".into(),
                    ..signer(1, None)
                }
            ])))
            .is_err()
        );
    }
}
