//! Attacks on packed evidence: one row each, and every byte in turn.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::{BOOT, Boot, Offline, codes, selection};
use proptest::prelude::*;
use touchstone_evidence::collection::Label;
use touchstone_verifier::appraisal::Tier;
use touchstone_verifier::inventory::{Inventory, Node};
use touchstone_verifier::reference::ReferenceSet;

/// One row an attack: what is changed, and the codes that must be among the reasons.
#[test]
fn attacks_on_packed_evidence() {
    let (good, other) = (Boot::load("good"), Boot::load("cmdline-changed"));
    let base = || Offline::new(&good, "quote-rsa", "rsa", &good);
    let flipped = |label: Label, position: usize| {
        let mut bytes = base().collection.get(label).unwrap().to_vec();
        bytes[position] ^= 1;
        base().with(label, bytes)
    };
    let scenario = |change: &dyn Fn(&mut Offline)| {
        let mut scenario = base();
        change(&mut scenario);
        scenario
    };
    let log_without_data = || {
        // The EV_EFI_ACTION text of the last event is changed: its digest no longer fits.
        let mut log = good.log.clone();
        *log.last_mut().unwrap() ^= 1;
        base().with(Label::FirmwareEventLog, log)
    };
    let smuggled = || {
        // The type of the first separator is changed to a harmless one; data and digest stay.
        let mut log = good.log.clone();
        let data = [4, 0, 0, 0, 0, 0, 0, 0];
        let at = log.windows(8).position(|window| window == data).unwrap();
        log[at - 64] = 1;
        base().with(Label::FirmwareEventLog, log)
    };
    let pem = |listed: bool| {
        let mut node = good.node("node-1");
        if listed {
            let text = good.file("ak-rsa.pem");
            let pem = x509_parser::pem::Pem::iter_from_buffer(&text).next().unwrap().unwrap();
            node.ak_keys = vec![
                touchstone_verifier::tpm::HashAlg::Sha256
                    .digest([&pem.contents[..]])
                    .as_ref()
                    .try_into()
                    .unwrap(),
            ];
        }
        let mut scenario = base()
            .without(Label::TpmAkPublic)
            .with(Label::TpmAkPem, good.file("ak-rsa.pem"));
        scenario.inventory = Inventory::new(vec![node]);
        scenario
    };
    assert_eq!(
        pem(true).appraise().reasons,
        [],
        "an attestation key as PEM that is listed"
    );
    let rows: Vec<(&str, Offline, &[&str])> = vec![
        ("wrong nonce", scenario(&|s| s.nonce[0] ^= 1), &["nonce-mismatch"]),
        ("empty nonce", scenario(&|s| s.nonce.clear()), &["nonce-mismatch"]),
        ("longer nonce", scenario(&|s| s.nonce.push(0)), &["nonce-mismatch"]),
        (
            "quote altered",
            flipped(Label::TpmQuote, 100),
            &["tpm-signature-invalid"],
        ),
        (
            "signature altered",
            flipped(Label::TpmQuoteSignature, 100),
            &["tpm-signature-invalid"],
        ),
        ("SHA-1 signature", sha1_signature(&base()), &["weak-algorithm"]),
        (
            "signature of an unknown kind",
            flipped(Label::TpmQuoteSignature, 0),
            &["tpm-signature-scheme"],
        ),
        (
            "quote of another TPM",
            base().with(Label::TpmQuote, other.file("quote-rsa/quote.msg")),
            &["tpm-signature-invalid"],
        ),
        (
            "attestation key of another TPM",
            base().with(Label::TpmAkPublic, other.file("ak-rsa.pub")),
            &["tpm-signature-invalid", "ak-not-bound"],
        ),
        (
            "endorsement key of another TPM",
            base().with(Label::TpmEkCertificate, other.file("ek-rsa-cert.der")),
            &["node-unknown", "ak-not-bound"],
        ),
        (
            "evidence mixed from two machines of the domain",
            scenario(&|s| {
                s.inventory = Inventory::new(vec![good.node("node-1"), other.node("node-2")]);
                s.collection = common::replace(
                    &s.collection,
                    Label::TpmEkCertificate,
                    Some(other.file("ek-rsa-cert.der")),
                );
            }),
            &["ak-not-bound"],
        ),
        ("no quote", base().without(Label::TpmQuote), &["record-missing"]),
        (
            "no signature",
            base().without(Label::TpmQuoteSignature),
            &["record-missing"],
        ),
        (
            "no attestation key",
            base().without(Label::TpmAkPublic),
            &["record-missing", "ak-not-bound"],
        ),
        (
            "attestation key as PEM",
            pem(false),
            &["ak-attributes-unknown", "ak-not-bound"],
        ),
        (
            "unreadable attestation key",
            base().with(Label::TpmAkPublic, vec![0; 8]),
            &["ak-unreadable"],
        ),
        (
            "fewer registers than required",
            scenario(&|s| s.policy.required_registers = selection(&[0, 12])),
            &["pcr-selection-missing"],
        ),
        (
            "another bank required",
            scenario(&|s| {
                s.policy.required_registers =
                    touchstone_verifier::tpm::PcrSelection::new([(touchstone_verifier::tpm::HashAlg::Sha384, BOOT)])
                        .unwrap();
            }),
            &["pcr-selection-missing"],
        ),
        (
            "SHA-1 bank required",
            scenario(&|s| {
                s.policy.required_registers =
                    touchstone_verifier::tpm::PcrSelection::new([(touchstone_verifier::tpm::HashAlg::Sha1, BOOT)])
                        .unwrap();
            }),
            &["pcr-selection-missing", "weak-algorithm"],
        ),
        (
            "resettable register required",
            scenario(&|s| s.policy.required_registers = selection(&[0, 16])),
            &["pcr-register-resettable"],
        ),
        (
            "no register required",
            scenario(&|s| s.policy.required_registers = selection(&[])),
            &["pcr-selection-missing"],
        ),
        (
            "other register values",
            base().with(
                Label::TpmPcrValues,
                common::encode_values(&other.quoted_values("quote-rsa")),
            ),
            &["pcr-digest-mismatch"],
        ),
        (
            "a register value missing",
            base().with(Label::TpmPcrValues, common::encode_values(&good.values(&BOOT[1..]))),
            &["pcr-value-missing"],
        ),
        (
            "no register values",
            base().without(Label::TpmPcrValues),
            &["record-missing"],
        ),
        (
            "no event log",
            base().without(Label::FirmwareEventLog),
            &["event-log-missing"],
        ),
        (
            "log of another boot",
            base().with(Label::FirmwareEventLog, other.log.clone()),
            &["log-does-not-replay"],
        ),
        (
            "truncated log",
            base().with(Label::FirmwareEventLog, good.log[..good.log.len() - 1].to_vec()),
            &["log-unreadable"],
        ),
        (
            "log without its last event",
            base().with(Label::FirmwareEventLog, good.log[..good.log.len() - 112].to_vec()),
            &["log-does-not-replay"],
        ),
        (
            "SHA-1 log",
            base().with(Label::FirmwareEventLog, sha1_log()),
            &["log-sha1-only"],
        ),
        (
            "endless log",
            base().with(
                Label::FirmwareEventLog,
                vec![0; touchstone_verifier::eventlog::MAX_LOG + 1],
            ),
            &["log-unreadable"],
        ),
        (
            "log that lies about its data",
            log_without_data(),
            &["event-digest-mismatch"],
        ),
        ("separator under another type", smuggled(), &["separator-smuggled"]),
        (
            "no reference",
            scenario(&|s| s.references = ReferenceSet::default()),
            &["reference-missing"],
        ),
        (
            "unknown root",
            scenario(&|s| s.anchors = Default::default()),
            &["certificate-issuer-unknown"],
        ),
        (
            "before the certificate is valid",
            scenario(&|s| s.now = 1_000_000_000),
            &["certificate-not-yet-valid"],
        ),
        (
            "not in the inventory",
            scenario(&|s| s.inventory = Inventory::default()),
            &["node-unknown", "ak-not-bound"],
        ),
        (
            "known by endorsement key only",
            scenario(&|s| {
                s.inventory = Inventory::new(vec![Node {
                    ak_names: vec![],
                    ..good.node("node-1")
                }]);
            }),
            &["ak-not-bound"],
        ),
        (
            "claimed by two nodes",
            scenario(&|s| {
                s.inventory = Inventory::new(vec![good.node("node-1"), good.node("node-2")]);
            }),
            &["node-ambiguous"],
        ),
        (
            "a platform certificate as endorsement certificate",
            base().with(Label::TpmEkCertificate, good.file("platform-cert.der")),
            &["certificate-usage-wrong"],
        ),
        (
            "attestation key as endorsement key",
            base().with(Label::TpmEkPublic, good.file("ak-rsa.pub")),
            &["ek-template-unknown"],
        ),
        (
            "endorsement key other than the certificate's",
            base().with(Label::TpmEkPublic, good.file("ek-ecc.pub")),
            &["ek-certificate-key-mismatch"],
        ),
    ];
    for (attack, scenario, expected) in rows {
        let appraisal = scenario.appraise();
        assert_ne!(appraisal.status, Tier::Affirming, "{attack}");
        assert!(!appraisal.authentic, "{attack}");
        let found = codes(&appraisal);
        for code in expected {
            assert!(
                found.contains(code),
                "{attack}: expected {code} in {:#?}",
                appraisal.reasons
            );
        }
    }
}

/// The genuine signature, said to be over SHA-1.
fn sha1_signature(base: &Offline) -> Offline {
    let mut signature = base.collection.get(Label::TpmQuoteSignature).unwrap().to_vec();
    signature[2..4].copy_from_slice(&[0x00, 0x04]);
    Offline::new(&Boot::load("good"), "quote-rsa", "rsa", &Boot::load("good")).with(Label::TpmQuoteSignature, signature)
}

/// The first record of a log in the old form: EV_S_CRTM_VERSION with a SHA-1 digest.
fn sha1_log() -> Vec<u8> {
    let mut log = vec![0, 0, 0, 0, 8, 0, 0, 0];
    log.extend([7; 20]);
    log.extend([2, 0, 0, 0, 0, 0]);
    log
}

#[test]
fn bound_and_packed_evidence_never_mix() {
    let good = Boot::load("good");
    let mut scenario = Offline::new(&good, "quote-rsa", "rsa", &good);
    let mut bound = touchstone_evidence::collection::Collection::bound();
    for (label, record) in scenario.collection.records() {
        bound.insert(label, record.to_vec()).unwrap();
    }
    scenario.collection = bound;
    assert_eq!(codes(&scenario.appraise()), ["evidence-type-wrong"]);
}

/// Flipping any byte of any record never affirms, unless nothing covers the byte: events' texts and types, where the
/// type leaves open what was hashed, are commentary, and the log's SHA-1 digests are not quoted.
#[test]
fn no_flipped_byte_affirms_unless_nothing_covers_it() {
    let good = Boot::load("good");
    let base = Offline::new(&good, "quote-ecc", "ecc", &good);
    let records: Vec<(Label, Vec<u8>)> = base
        .collection
        .records()
        .map(|(label, bytes)| (label, bytes.to_vec()))
        .collect();
    let log = touchstone_verifier::eventlog::EventLog::parse(&good.log).unwrap();
    let mut judged = 0;
    for (label, bytes) in records {
        let step = (bytes.len() / 400).max(1);
        for position in (0..bytes.len()).step_by(step) {
            let mut altered = bytes.clone();
            altered[position] ^= 0x01;
            let covered = label != Label::FirmwareEventLog || !only_commentary_differs(&log, &altered);
            let mut scenario = Offline::new(&good, "quote-ecc", "ecc", &good);
            scenario.collection = common::replace(&scenario.collection, label, Some(altered));
            let affirming = scenario.appraise().status == Tier::Affirming;
            assert_eq!(affirming, !covered, "{label:?} byte {position}");
            judged += 1;
        }
    }
    assert!(judged > 1000, "{judged}");
}

/// Whether a log says the same as far as the quoted bank and the data it covers go.
fn only_commentary_differs(log: &touchstone_verifier::eventlog::EventLog<'_>, altered: &[u8]) -> bool {
    use touchstone_verifier::eventlog::{DataCheck, EventLog, SeparatorDigests};
    use touchstone_verifier::tpm::HashAlg::Sha256;
    let Ok(altered) = EventLog::parse(altered) else {
        return false;
    };
    let separators = SeparatorDigests::new(Sha256);
    altered.startup_locality() == log.startup_locality()
        && altered.events().len() == log.events().len()
        && altered.events().iter().zip(log.events()).all(|(new, old)| {
            (new.pcr, new.digest(Sha256), new.is_extended()) == (old.pcr, old.digest(Sha256), old.is_extended())
                && new.check_data(Sha256) != DataCheck::Mismatch
                && !separators.is_smuggled(new, Sha256)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_record_makes_it_panic(which in any::<prop::sample::Index>(), bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
        let good = Boot::load("good");
        let label = Label::ALL[which.index(Label::ALL.len())];
        // An envelope holds one form of the attestation key.
        let base = Offline::new(&good, "quote-rsa", "rsa", &good);
        let base = if label == Label::TpmAkPem { base.without(Label::TpmAkPublic) } else { base };
        let scenario = base.with(label, bytes);
        let ignored = ["tpm/session-key", "tpm/receive-key"]
            .into_iter()
            .any(|key| label.as_str().starts_with(key));
        prop_assert_eq!(scenario.appraise().status == Tier::Affirming, ignored);
    }
}
