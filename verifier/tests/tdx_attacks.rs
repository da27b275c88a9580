//! What an attacker does to TDX evidence, one attack a row, against a simulated platform whose root is trusted.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::simulated_tdx;

use base64::prelude::*;
use proptest::prelude::*;
use simulated_tdx::{CollateralShape, DATA, NOW, PPID, Platform};
use touchstone_verifier::reason::Reason;
use touchstone_verifier::tdx::check::{check_guest, check_report_data};
use touchstone_verifier::tdx::{
    Collateral, Evaluation, Quote, TcbStatus, TdxPolicy, TdxReference, VerifiedQuote, check,
};
use touchstone_verifier::x509::CertificateStore;

/// Codes of everything that speaks against `quote` with `collateral`, each once, in order.
fn codes(store: &CertificateStore, quote: &[u8], collateral: &[u8], policy: &TdxPolicy) -> Vec<&'static str> {
    let reasons: Vec<Reason> = match Quote::parse(quote) {
        Err(_) => return vec!["unreadable"],
        Ok(quote) => {
            let mut reasons = check_guest(&quote).reasons;
            reasons.extend(check_report_data(&quote, &DATA));
            match VerifiedQuote::verify(quote, None, store, NOW) {
                Err(found) => reasons.extend(found),
                Ok(verified) => {
                    let evaluated = Collateral::parse(collateral)
                        .map_err(|_| Vec::new())
                        .and_then(|collateral| Evaluation::evaluate(&verified, &collateral, store, NOW));
                    match evaluated {
                        Ok(evaluation) => reasons.extend(check(&verified, &evaluation, &DATA, policy).reasons),
                        Err(found) if found.is_empty() => return vec!["unreadable collateral"],
                        Err(found) => reasons.extend(found),
                    }
                }
            }
            reasons
        }
    };
    let mut codes = Vec::new();
    for reason in &reasons {
        if !codes.contains(&reason.code.as_str()) {
            codes.push(reason.code.as_str());
        }
    }
    codes
}

type Row = (&'static str, u16, fn(&mut [u8]), &'static [&'static str]);

#[test]
fn a_guest_that_says_what_it_should_not_is_refused_for_that() {
    let platform = Platform::new();
    let (store, collateral) = (platform.store(), platform.collateral(&CollateralShape::default()));
    let rows: &[Row] = &[
        ("nothing changed, TDX 1.0", 2, |_| {}, &[]),
        ("nothing changed, TDX 1.5", 3, |_| {}, &[]),
        ("nothing changed, TDX 1.5 extended", 4, |_| {}, &[]),
        (
            "another challenge's report data",
            2,
            |b| b[583] ^= 1,
            &["tdx-report-data-mismatch"],
        ),
        ("debugging", 2, |b| b[120] |= 1, &["tdx-debug-enabled"]),
        ("profiling", 2, |b| b[120] |= 1 << 4, &["tdx-debug-enabled"]),
        (
            "a debug bit of a later module",
            2,
            |b| b[120] |= 1 << 7,
            &["tdx-debug-enabled", "tdx-attributes"],
        ),
        ("migratable", 2, |b| b[123] |= 1 << 5, &["tdx-attributes"]),
        ("faults on the guest's memory", 2, |b| b[123] = 0, &["tdx-attributes"]),
        ("a reserved attribute", 2, |b| b[124] |= 1, &["tdx-attributes"]),
        ("SERVTD_EXT", 3, |b| b[122] |= 1 << 1, &["tdx-service-td"]),
        ("a service TD", 3, |b| b[600] = 1, &["tdx-service-td"]),
        (
            "a service TD bound after the launch",
            4,
            |b| b[829] = 1,
            &["tdx-service-td"],
        ),
        ("a module of another signer", 2, |b| b[64] = 1, &["tdx-module-mismatch"]),
        (
            "a module with other attributes",
            2,
            |b| b[112] = 1,
            &["tdx-module-mismatch"],
        ),
        (
            "a module of a version nobody names",
            2,
            |b| b[1] = 9,
            &["tdx-module-mismatch"],
        ),
        (
            "a module below the least version",
            2,
            |b| b[0] = 4,
            &["tdx-module-mismatch"],
        ),
        (
            "a module rolled back under the guest",
            3,
            |b| b[584] = 4,
            &["tdx-module-mismatch"],
        ),
    ];
    for (attack, kind, change, wanted) in rows {
        let quote = platform.quote(*kind, change);
        let found = codes(&store, &quote, &collateral, &TdxPolicy::default());
        // The library stops at its first reason, which may be one that we have told already.
        assert_eq!(found, *wanted, "{attack}");
    }
}

#[test]
fn what_intel_says_of_the_platform_decides() {
    let platform = Platform::new();
    let (store, quote) = (platform.store(), platform.quote(2, |_| {}));
    type Change = fn(&mut CollateralShape);
    let rows: &[(&str, Change, &[&str])] = &[
        ("up to date", |_| {}, &[]),
        ("out of date", |c| c.status = "OutOfDate", &["tdx-tcb-status"]),
        (
            "out of date module",
            |c| c.module_status = "OutOfDate",
            &["tdx-tcb-status"],
        ),
        (
            "out of date quoting enclave",
            |c| c.enclave_status = "OutOfDate",
            &["tdx-tcb-status"],
        ),
        (
            "software must be hardened",
            |c| c.status = "SWHardeningNeeded",
            &["tdx-tcb-status"],
        ),
        (
            "to be configured",
            |c| c.status = "ConfigurationNeeded",
            &["tdx-tcb-status"],
        ),
        ("revoked", |c| c.status = "Revoked", &["tdx-tcb-revoked"]),
        ("revoked module", |c| c.module_status = "Revoked", &["tdx-tcb-revoked"]),
        (
            "revoked quoting enclave",
            |c| c.enclave_status = "Revoked",
            &["tdx-tcb-revoked"],
        ),
        ("revoked certificate", |c| c.pck_revoked = true, &["tdx-tcb-revoked"]),
        (
            "a status nobody knows",
            |c| c.status = "Fine",
            &["tdx-collateral-refused"],
        ),
        ("below every level", |c| c.least = 6, &["tdx-tcb-level-unknown"]),
        ("an older evaluation", |c| c.number = 17, &["tdx-tcb-evaluation-old"]),
        (
            "another platform's",
            |c| c.fmspc = "90c06f000000",
            &["tdx-collateral-other-platform"],
        ),
        (
            "expired",
            |c| c.next_update = "2026-11-20T23:59:59Z",
            &["tdx-collateral-expired"],
        ),
        (
            "expired revocation lists",
            |c| c.crl_ends = 2026,
            &["tdx-collateral-expired"],
        ),
        (
            "another enclave's identity",
            |c| c.enclave_signer = [1; 32],
            &["tdx-collateral-refused"],
        ),
    ];
    let policy = TdxPolicy {
        min_tcb_evaluation_number: 18,
        ..TdxPolicy::default()
    };
    for (case, change, wanted) in rows {
        let mut shape = CollateralShape::default();
        change(&mut shape);
        let collateral = platform.collateral(&shape);
        assert_eq!(codes(&store, &quote, &collateral, &policy), *wanted, "{case}");
    }
    // A policy may accept what is out of date, and the result says so; never what is revoked.
    let lenient = TdxPolicy {
        tcb_status: TcbStatus::ALL.into(),
        ..TdxPolicy::default()
    };
    let shape = CollateralShape {
        status: "OutOfDate",
        advisories: &["INTEL-SA-1"],
        ..CollateralShape::default()
    };
    let collateral = platform.collateral(&shape);
    assert_eq!(codes(&store, &quote, &collateral, &lenient), [""; 0]);
    let verified = VerifiedQuote::verify(Quote::parse(&quote).unwrap(), None, &store, NOW).unwrap();
    let evaluation = Evaluation::evaluate(&verified, &Collateral::parse(&collateral).unwrap(), &store, NOW).unwrap();
    assert_eq!(
        check(&verified, &evaluation, &DATA, &lenient).leniencies,
        ["tdx-tcb-status: OutOfDate", "tdx-min-tcb-evaluation-number: 0"]
    );
    assert!(evaluation.advisories.contains("INTEL-SA-1"));
    let revoked = CollateralShape {
        status: "Revoked",
        ..CollateralShape::default()
    };
    assert_eq!(
        codes(&store, &quote, &platform.collateral(&revoked), &lenient),
        ["tdx-tcb-revoked"]
    );
    assert_eq!(TcbStatus::parse("Revoked"), None);
    // This very platform.
    let denied = TdxPolicy {
        denied_platforms: [PPID.to_vec()].into(),
        ..TdxPolicy::default()
    };
    let good = platform.collateral(&CollateralShape::default());
    assert_eq!(codes(&store, &quote, &good, &denied), ["tdx-platform-denied"]);
}

#[test]
fn another_authority_vouches_for_nothing() {
    let (platform, other) = (Platform::new(), Platform::new());
    let (store, quote) = (platform.store(), platform.quote(2, |_| {}));
    let policy = TdxPolicy::default();
    let own = platform.collateral(&CollateralShape::default());
    // A self-made complete chain, with its own collateral.
    let forged = (other.quote(2, |_| {}), other.collateral(&CollateralShape::default()));
    let found = codes(&store, &forged.0, &forged.1, &policy);
    assert!(found[0].starts_with("certificate-"), "{found:?}");
    // A genuine quote with collateral somebody else signed.
    assert_eq!(codes(&store, &quote, &forged.1, &policy), ["tdx-collateral-refused"]);
    // One part of the collateral exchanged, each in turn.
    let (own_json, other_json): (serde_json::Value, serde_json::Value) = (
        serde_json::from_slice(&own).unwrap(),
        serde_json::from_slice(&forged.1).unwrap(),
    );
    for member in [
        "root_ca_crl",
        "pck_crl",
        "tcb_info_signature",
        "tcb_info_issuer_chain",
        "qe_identity_signature",
        "qe_identity_issuer_chain",
    ] {
        let mut mixed = own_json.clone();
        mixed[member] = other_json[member].clone();
        let found = codes(&store, &quote, mixed.to_string().as_bytes(), &policy);
        assert_eq!(found, ["tdx-collateral-refused"], "{member}");
    }
    for member in own_json.as_object().unwrap().keys() {
        let mut without = own_json.clone();
        without.as_object_mut().unwrap().remove(member);
        let found = codes(&store, &quote, without.to_string().as_bytes(), &policy);
        assert_ne!(found, [""; 0], "without {member}");
    }
    // Both roots listed: each quote still needs its own root's collateral.
    let both = CertificateStore::new(store.iter().chain(other.store().iter()).map(|(c, _)| (c.clone(), true)));
    assert_eq!(codes(&both, &quote, &own, &policy), [""; 0]);
    assert_eq!(codes(&both, &forged.0, &forged.1, &policy), [""; 0]);
    assert_eq!(codes(&both, &quote, &forged.1, &policy), ["tdx-collateral-refused"]);
}

/// Intel has two authorities of provisioning keys: the other one's list says nothing of this platform, and is told as what
/// it is.
#[test]
fn the_other_authoritys_revocation_list_is_named() {
    let platform = Platform::new();
    let (store, quote) = (platform.store(), platform.quote(2, |_| {}));
    let other = platform.collateral_of_another_authority(&CollateralShape::default());
    let found = codes(&store, &quote, &other, &TdxPolicy::default());
    assert_eq!(found, ["tdx-collateral-other-platform"]);
    let verified = VerifiedQuote::verify(Quote::parse(&quote).unwrap(), None, &store, NOW).unwrap();
    let reasons = Evaluation::evaluate(&verified, &Collateral::parse(&other).unwrap(), &store, NOW).unwrap_err();
    assert!(
        reasons[0].expected.contains("CN=Simulated SGX PCK Platform CA"),
        "{reasons:?}"
    );
    assert!(
        reasons[0].found.contains("CN=Simulated SGX PCK Processor CA"),
        "{reasons:?}"
    );
}

/// How Intel answers: chains percent-encoded in headers, lists in PEM, or in DER that some write as base64.
#[test]
fn lists_and_chains_are_taken_in_the_forms_they_are_handed_out_in() {
    let platform = Platform::new();
    let (store, quote) = (platform.store(), platform.quote(2, |_| {}));
    let policy = TdxPolicy::default();
    let plain: serde_json::Value = serde_json::from_slice(&platform.collateral(&CollateralShape::default())).unwrap();
    let der = |member: &str| hex::decode(plain[member].as_str().unwrap()).unwrap();
    let pem = |member: &str, label: &str| pem::encode(&pem::Pem::new(label, der(member)));
    let escaped = |member: &str| {
        let chain = plain[member].as_str().unwrap();
        let escape = |c: char| match c {
            '-' | '0'..='9' | 'A'..='Z' | 'a'..='z' => c.to_string(),
            other => format!("%{:02X}", u32::from(other)),
        };
        chain.chars().map(escape).collect::<String>()
    };
    let judged = |member: &str, text: String| {
        let mut json = plain.clone();
        json[member] = text.into();
        codes(&store, &quote, json.to_string().as_bytes(), &policy)
    };
    for member in ["root_ca_crl", "pck_crl"] {
        for text in [
            hex::encode_upper(der(member)),
            format!("{}\n", hex::encode(der(member))),
            BASE64_STANDARD.encode(der(member)),
            pem(member, "X509 CRL"),
        ] {
            assert_eq!(judged(member, text.clone()), [""; 0], "{member}: {text}");
        }
        for text in [
            pem(member, "CERTIFICATE"),
            pem(member, "X509 CRL").replace("A", ""),
            "%30".into(),
        ] {
            assert_eq!(
                judged(member, text.clone()),
                ["unreadable collateral"],
                "{member}: {text}"
            );
        }
    }
    for member in [
        "pck_crl_issuer_chain",
        "tcb_info_issuer_chain",
        "qe_identity_issuer_chain",
    ] {
        let text = escaped(member);
        assert_eq!(judged(member, text.clone()), [""; 0], "{member}");
        for wrong in [
            text.replacen("%0A", "%0", 1),
            text.replacen("%0A", "%C3", 1),
            format!("{text}%"),
        ] {
            assert_eq!(
                judged(member, wrong.clone()),
                ["unreadable collateral"],
                "{member}: {wrong}"
            );
        }
    }
}

/// What percent-encoding hides is judged like what stands plain: somebody else's chain is somebody else's.
#[test]
fn another_authoritys_chain_is_none_in_any_encoding() {
    let (platform, other) = (Platform::new(), Platform::new());
    let (store, quote) = (platform.store(), platform.quote(2, |_| {}));
    let json = |platform: &Platform| -> serde_json::Value {
        serde_json::from_slice(&platform.collateral(&CollateralShape::default())).unwrap()
    };
    for member in ["tcb_info_issuer_chain", "qe_identity_issuer_chain"] {
        let (mut own, other) = (json(&platform), json(&other));
        own[member] = other[member].as_str().unwrap().replace('\n', "%0A").into();
        let found = codes(&store, &quote, own.to_string().as_bytes(), &TdxPolicy::default());
        assert_eq!(found, ["tdx-collateral-refused"], "{member}");
    }
}

/// No byte of a quote can change without being noticed, but in two places that say nothing: the zeros of padding do not
/// belong to it, and PEM has more than one form of the same certificate.
#[test]
fn no_byte_of_a_quote_can_be_altered() {
    let platform = Platform::new();
    let (store, collateral) = (platform.store(), platform.collateral(&CollateralShape::default()));
    let quote = platform.quote(3, |_| {});
    let pem = quote.windows(11).position(|window| window == b"-----BEGIN ").unwrap();
    for position in 0..pem {
        let mut altered = quote.clone();
        altered[position] ^= 1;
        let refused = match Quote::parse(&altered) {
            Err(_) => true,
            Ok(quote) => VerifiedQuote::verify(quote, None, &store, NOW).is_err(),
        };
        assert!(refused, "byte {position}");
    }
    let mut padded = quote.clone();
    padded.extend([0; 3000]);
    assert_eq!(codes(&store, &padded, &collateral, &TdxPolicy::default()), [""; 0]);
    padded.push(1);
    assert_eq!(
        codes(&store, &padded, &collateral, &TdxPolicy::default()),
        ["unreadable"]
    );
}

#[test]
fn parts_of_two_quotes_do_not_make_one() {
    let (platform, other) = (Platform::new(), Platform::new());
    let store = platform.store();
    let collateral = platform.collateral(&CollateralShape::default());
    let (quote, foreign) = (platform.quote(2, |_| {}), other.quote(2, |b| b[136] = 0));
    // Header and body of the one, signature data of the other.
    let body = 48 + 584;
    let mixed = [&foreign[..body], &quote[body..]].concat();
    assert_eq!(
        codes(&store, &mixed, &collateral, &TdxPolicy::default()),
        ["tdx-signature-invalid"]
    );
    // Signature and attestation key of the other: the enclave of the one never vouched for that key.
    let start = body + 4;
    let mut swapped = quote.clone();
    swapped[..body].copy_from_slice(&foreign[..body]);
    swapped[start..start + 128].copy_from_slice(&foreign[start..start + 128]);
    assert_eq!(
        codes(&store, &swapped, &collateral, &TdxPolicy::default()),
        ["tdx-signature-invalid"]
    );
}

#[test]
fn a_guest_must_be_what_the_reference_says() {
    let platform = Platform::new();
    let golden = platform.quote(3, |_| {});
    let reference = TdxReference::of(&Quote::parse(&golden).unwrap(), None);
    type Change = fn(&mut [u8]);
    let rows: &[(&str, Change, &[&str])] = &[
        ("nothing changed", |_| {}, &[]),
        ("other firmware", |b| b[136] ^= 1, &["MRTD"]),
        ("another configuration", |b| b[184] ^= 1, &["MRCONFIGID"]),
        ("another owner", |b| b[232] ^= 1, &["MROWNER"]),
        ("another owner's configuration", |b| b[280] ^= 1, &["MROWNERCONFIG"]),
        ("another attribute", |b| b[123] |= 1 << 6, &["TDATTRIBUTES"]),
        ("other processor state", |b| b[128] ^= 1, &["XFAM"]),
        ("RTMR0", |b| b[328] ^= 1, &["RTMR0"]),
        ("RTMR3", |b| b[519] ^= 1, &["RTMR3"]),
        ("another module: Intel judges those", |b| b[16] ^= 1, &[]),
        ("older microcode", |b| b[2] = 4, &["TEE_TCB_SVN[2]"]),
        ("newer microcode", |b| b[2] = 6, &[]),
        ("an older module", |b| b[0] = 4, &["TEE_TCB_SVN[0]"]),
        (
            "a later module begins anew",
            |b| {
                b[0] = 1;
                b[1] = 2;
            },
            &[],
        ),
        (
            "an earlier module with a higher minor",
            |b| {
                b[0] = 9;
                b[1] = 0;
            },
            &["TEE_TCB_SVN[1]"],
        ),
        ("a component of no meaning yet", |b| b[9] = 1, &[]),
        ("the module now, older", |b| b[584] = 4, &["TEE_TCB_SVN2[0]"]),
    ];
    for (case, change, wanted) in rows {
        let quote = platform.quote(3, change);
        let quote = Quote::parse(&quote).unwrap();
        let found = reference.differences("golden", &quote, 0..4, None);
        let claims: Vec<&str> = found.iter().map(|reason| reason.claim.as_str()).collect();
        assert_eq!(claims, *wanted, "{case}");
    }
    // Registers that the policy does not judge are left out, and only those.
    let quote = platform.quote(3, |b| b[472] ^= 1);
    let quote = Quote::parse(&quote).unwrap();
    assert_eq!(reference.differences("golden", &quote, 0..3, None), []);
    // The very module, where the reference names one.
    let strict = TdxReference {
        mr_seam: Some([1; 48]),
        ..reference
    };
    let found = strict.differences("golden", &Quote::parse(&golden).unwrap(), 0..4, None);
    assert_eq!(found[0].claim, "MRSEAM");
}

proptest! {
    #[test]
    fn hostile_bytes_neither_panic_nor_pass(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
        let _ = Quote::parse(&bytes);
        prop_assert!(Collateral::parse(&bytes).is_err());
    }

    #[test]
    fn what_is_read_is_what_is_there(seed in any::<[u8; 32]>(), kind in 2u16..=4, at in 0usize..2000, to in any::<u8>()) {
        let platform = SHARED.with(|platform| platform.quote(kind, |body| {
            for (position, byte) in body.iter_mut().enumerate() {
                *byte = seed[position % 32].wrapping_add((position / 32) as u8);
            }
        }));
        let mut bytes = platform;
        let start = if kind == 2 { 48 } else { 54 };
        {
            let quote = Quote::parse(&bytes).unwrap();
            prop_assert_eq!(quote.body(), &bytes[start..start + quote.kind().len()]);
            prop_assert_eq!(quote.mrtd().as_slice(), &bytes[start + 136..start + 184]);
            prop_assert_eq!(quote.report_data().as_slice(), &bytes[start + 520..start + 584]);
            prop_assert_eq!(quote.rtmr(3).unwrap().as_slice(), &bytes[start + 472..start + 520]);
        }
        // One byte anywhere in front: read or refused, never a panic.
        bytes[at] = to;
        let _ = Quote::parse(&bytes);
    }
}

thread_local! {
    static SHARED: Platform = Platform::new();
}
