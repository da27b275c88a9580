//! Attacks in a broker's session: what is refused, and which failure is authentic.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::node::{AK_ATTRIBUTES, SESSION_KEY_ATTRIBUTES, Session, SoftKey, TIME, name_of};
use common::{BOOT, Boot, codes, selection};
use touchstone_evidence::binder::Role;
use touchstone_evidence::collection::{Collection, Label};
use touchstone_verifier::appraisal::{Activated, Tier};
use touchstone_verifier::inventory::{EkId, Inventory};

fn good() -> Boot {
    Boot::load("good")
}

fn first() -> Session {
    let good = good();
    Session::first(&good, &good)
}

/// One row an attack: what is changed; the codes that must be among the reasons; whether the failure is authentic, that
/// is, whether it may withdraw the node's rights.
#[test]
fn attacks_in_a_first_session() {
    let good = good();
    let changed = Boot::load("cmdline-changed");
    let session = |change: &dyn Fn(&mut Session)| {
        let mut session = first();
        change(&mut session);
        session
    };
    let ak_with = |attributes: u32| {
        session(&|s| {
            s.ak_public = s.ak.public(attributes, &[]);
            s.activated = Some(Activated {
                ek: good.ek_id("rsa"),
                ak_name: name_of(&s.ak_public),
            });
        })
    };
    let key_with = |attributes: u32| {
        session(&|s| {
            let policy = touchstone_verifier::tpm::Public::parse(&s.session_public)
                .unwrap()
                .auth_policy;
            s.session_public = s.session_key.public(attributes, &policy);
        })
    };
    const REFUSED: bool = false;
    const WITHDRAWN: bool = true;
    let rows: Vec<(&str, Session, &[&str], bool)> = vec![
        (
            "another nonce",
            session(&|s| s.node_binder.nonce = [9; 32]),
            &["binder-mismatch"],
            REFUSED,
        ),
        (
            "another session",
            session(&|s| s.node_binder.session_id = [9; 16]),
            &["binder-mismatch"],
            REFUSED,
        ),
        (
            "relayed over another channel",
            session(&|s| s.node_binder.tls_exporter = [9; 32]),
            &["binder-mismatch"],
            REFUSED,
        ),
        (
            "made for another domain",
            session(&|s| s.node_binder.domain = "other.example"),
            &["binder-mismatch"],
            REFUSED,
        ),
        (
            "made in another role",
            session(&|s| s.node_binder.role = Role::Broker),
            &["binder-mismatch"],
            REFUSED,
        ),
        (
            "with a receive key nobody announced",
            session(&|s| s.node_binder.receive_key = Some([9; 32])),
            &["binder-mismatch"],
            REFUSED,
        ),
        (
            "signed by another key",
            session(&|s| s.signed_by = Some(SoftKey::new())),
            &["tpm-signature-invalid"],
            REFUSED,
        ),
        (
            "not made by a TPM",
            session(&|s| s.magic = 0),
            &["tpm-attest-magic"],
            REFUSED,
        ),
        (
            "a TIME attestation",
            session(&|s| s.kind = TIME),
            &["tpm-attest-type"],
            REFUSED,
        ),
        (
            "a certification instead of a quote",
            session(&|s| s.kind = common::node::CERTIFY),
            &["tpm-attest-type"],
            REFUSED,
        ),
        (
            "unrestricted attestation key",
            ak_with(AK_ATTRIBUTES & !0x1_0000),
            &["ak-not-restricted"],
            REFUSED,
        ),
        (
            "attestation key not fixed to its TPM",
            ak_with(AK_ATTRIBUTES & !0x2),
            &["ak-not-fixed"],
            REFUSED,
        ),
        (
            "attestation key not fixed to its parent",
            ak_with(AK_ATTRIBUTES & !0x10),
            &["ak-not-fixed"],
            REFUSED,
        ),
        (
            "imported attestation key",
            ak_with(AK_ATTRIBUTES & !0x20),
            &["ak-origin-external"],
            REFUSED,
        ),
        (
            "attestation key that decrypts",
            ak_with(AK_ATTRIBUTES | 0x2_0000),
            &["ak-decrypts"],
            REFUSED,
        ),
        (
            "attestation key never activated",
            session(&|s| s.activated = None),
            &["ak-not-bound"],
            REFUSED,
        ),
        (
            "another attestation key activated",
            session(&|s| {
                s.activated = Some(Activated {
                    ek: good.ek_id("rsa"),
                    ak_name: vec![0, 11],
                })
            }),
            &["ak-not-bound"],
            REFUSED,
        ),
        (
            "activated by another TPM",
            session(&|s| s.activated.as_mut().unwrap().ek = EkId([9; 32])),
            &["ak-not-bound"],
            REFUSED,
        ),
        (
            "fewer registers than asked",
            session(&|s| s.quoted = selection(&BOOT[..11])),
            &["pcr-selection-mismatch"],
            WITHDRAWN,
        ),
        (
            "more registers than asked",
            session(&|s| {
                s.quoted = selection(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 14]);
                s.values = good.values(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 14]);
            }),
            &["pcr-selection-mismatch"],
            WITHDRAWN,
        ),
        (
            "a resettable register in the place of a boot register",
            session(&|s| {
                s.quoted = selection(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 16]);
                s.values = good.values(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 16]);
            }),
            &["pcr-selection-mismatch", "pcr-selection-missing"],
            WITHDRAWN,
        ),
        (
            "values of another machine sent along",
            session(&|s| s.sent_values = Some(changed.values(&BOOT))),
            &["pcr-digest-mismatch"],
            WITHDRAWN,
        ),
        ("no log", session(&|s| s.log = None), &["event-log-missing"], WITHDRAWN),
        (
            "log of another boot",
            session(&|s| s.log = Some(changed.log.clone())),
            &["log-does-not-replay"],
            WITHDRAWN,
        ),
        (
            "another kernel command line",
            Session::first(&changed, &good),
            &["kernel-command-line-mismatch"],
            WITHDRAWN,
        ),
        (
            "unknown root",
            session(&|s| s.anchors = Default::default()),
            &["certificate-issuer-unknown"],
            WITHDRAWN,
        ),
        (
            "not in the inventory",
            session(&|s| s.inventory = Inventory::default()),
            &["node-unknown"],
            WITHDRAWN,
        ),
        (
            "endorsement key of two nodes",
            session(&|s| s.inventory = Inventory::new(vec![good.node("node-1"), good.node("node-2")])),
            &["node-ambiguous"],
            WITHDRAWN,
        ),
        (
            "session key not certified",
            session(&|s| s.certify_again = false),
            &["session-key-missing"],
            WITHDRAWN,
        ),
        (
            "certification of another key",
            session(&|s| s.certified_name = Some(name_of(&s.ak_public))),
            &["tpm-certify-name"],
            WITHDRAWN,
        ),
        (
            "another key certified than that of the session",
            session(&|s| {
                let policy = touchstone_verifier::tpm::Public::parse(&s.session_public)
                    .unwrap()
                    .auth_policy;
                s.session_public = SoftKey::new().public(SESSION_KEY_ATTRIBUTES, &policy);
            }),
            &["session-key-mismatch"],
            WITHDRAWN,
        ),
        (
            "certification with an old nonce",
            session(&|s| s.certify_extra = Some(vec![9; 32])),
            &["session-key-nonce-mismatch"],
            WITHDRAWN,
        ),
        (
            "certification by another key",
            session(&|s| s.certify_signed_by = Some(SoftKey::new())),
            &["tpm-signature-invalid"],
            WITHDRAWN,
        ),
        (
            "certification from before a reset",
            session(&|s| s.certify_reset = Some(2)),
            &["session-key-stale"],
            WITHDRAWN,
        ),
        (
            "session key not fixed to its TPM",
            key_with(SESSION_KEY_ATTRIBUTES & !0x2),
            &["session-key-attributes"],
            WITHDRAWN,
        ),
        (
            "session key usable without its policy",
            key_with(SESSION_KEY_ATTRIBUTES | 0x40),
            &["session-key-attributes"],
            WITHDRAWN,
        ),
        (
            "restricted session key",
            key_with(SESSION_KEY_ATTRIBUTES | 0x1_0000),
            &["session-key-attributes"],
            WITHDRAWN,
        ),
        (
            "session key with two uses",
            key_with(SESSION_KEY_ATTRIBUTES | 0x2_0000),
            &["session-key-attributes"],
            WITHDRAWN,
        ),
        (
            "session key of another boot state",
            session(&|s| s.session_public = s.session_key.public(SESSION_KEY_ATTRIBUTES, &[7; 32])),
            &["session-key-policy"],
            WITHDRAWN,
        ),
        (
            "session key without a policy",
            session(&|s| s.session_public = s.session_key.public(SESSION_KEY_ATTRIBUTES, &[])),
            &["session-key-policy"],
            WITHDRAWN,
        ),
    ];
    for (attack, session, expected, authentic) in rows {
        let appraisal = session.appraise();
        assert_ne!(appraisal.status, Tier::Affirming, "{attack}");
        assert!(appraisal.enrol.is_none(), "{attack}: enrolled");
        assert_eq!(appraisal.authentic, authentic, "{attack}: {:#?}", appraisal.reasons);
        for code in expected {
            assert!(
                codes(&appraisal).contains(code),
                "{attack}: expected {code} in {:#?}",
                appraisal.reasons
            );
        }
        if appraisal.session_key.is_some() {
            assert!(
                !expected.iter().any(|code| code.starts_with("session-key")),
                "{attack}: session key accepted"
            );
        }
    }
}

#[test]
fn attacks_on_an_enrolled_node() {
    let good = good();
    let later = |change: &dyn Fn(&mut Session)| {
        let mut session = first().next();
        change(&mut session);
        session
    };
    let rows: Vec<(&str, Session, &[&str], bool)> = vec![
        (
            "another attestation key in its name",
            later(&|s| {
                s.ak = SoftKey::new();
                s.ak_public = s.ak.public(AK_ATTRIBUTES, &[]);
            }),
            &["ak-not-enrolled", "ak-not-bound", "session-key-missing"],
            false,
        ),
        (
            "another TPM in its name",
            later(&|s| s.ek_certificate = Some(Boot::load("uki").file("ek-rsa-cert.der"))),
            &["ek-not-enrolled", "ak-not-bound"],
            false,
        ),
        (
            "another TPM in its name, activated",
            later(&|s| {
                let other = Boot::load("uki");
                s.ek_certificate = Some(other.file("ek-rsa-cert.der"));
                s.activated = Some(Activated {
                    ek: other.ek_id("rsa"),
                    ak_name: name_of(&s.ak_public),
                });
                s.inventory = Inventory::new(vec![good.node("node-1"), other.node("node-2")]);
            }),
            &["ek-not-enrolled"],
            false,
        ),
        (
            "an old quote",
            later(&|s| s.node_binder.nonce = [2; 32]),
            &["binder-mismatch"],
            false,
        ),
        (
            "a fresh session key, not certified",
            later(&|s| s.session_key = SoftKey::new()),
            &["session-key-missing"],
            true,
        ),
        (
            "a session key from before a reset",
            later(&|s| s.clock.reset_count += 1),
            &["session-key-stale"],
            true,
        ),
        (
            "the reset counter goes back",
            later(&|s| s.clock.reset_count -= 1),
            &["clock-went-back"],
            true,
        ),
        (
            "the clock goes back",
            later(&|s| s.clock.clock = 10),
            &["clock-went-back"],
            true,
        ),
        (
            "the restart counter goes back",
            {
                let mut session = first();
                session.clock.restart_count = 4;
                let mut session = session.next();
                session.clock.restart_count = 3;
                session
            },
            &["clock-went-back"],
            true,
        ),
        (
            "taken out of the inventory",
            later(&|s| s.inventory = Inventory::default()),
            &["node-unknown"],
            true,
        ),
        (
            "renamed in the inventory",
            later(&|s| s.inventory = Inventory::new(vec![good.node("node-2")])),
            &["node-unknown"],
            true,
        ),
        (
            "booted another command line",
            {
                let mut session = first().next();
                let changed = Boot::load("cmdline-changed");
                session.values = changed.values(&BOOT);
                session.log = Some(changed.log);
                session
            },
            &[
                "kernel-command-line-mismatch",
                "boot-file-mismatch",
                "session-key-policy",
            ],
            true,
        ),
    ];
    for (attack, session, expected, authentic) in rows {
        let appraisal = session.appraise();
        assert_ne!(appraisal.status, Tier::Affirming, "{attack}");
        assert_eq!(appraisal.authentic, authentic, "{attack}: {:#?}", appraisal.reasons);
        for code in expected {
            assert!(
                codes(&appraisal).contains(code),
                "{attack}: expected {code} in {:#?}",
                appraisal.reasons
            );
        }
    }
}

#[test]
fn a_record_added_taken_away_or_changed_breaks_the_binder() {
    let session = first();
    let sent = session.collection();
    let added = {
        let mut changed = sent.clone();
        changed.insert(Label::TpmEkPublic, good().file("ek-rsa.pub")).unwrap();
        changed
    };
    let taken = common::replace(&sent, Label::TpmEkCertificate, None);
    let logless = common::replace(&sent, Label::FirmwareEventLog, None);
    let changed = common::replace(&sent, Label::TpmEkCertificate, Some(good().file("ek-ecc-cert.der")));
    for (what, collection) in [
        ("added", added),
        ("taken", taken),
        ("no log", logless),
        ("changed", changed),
    ] {
        let appraisal = session.appraise_collection(&collection);
        assert!(
            codes(&appraisal).contains(&"binder-mismatch"),
            "{what}: {:#?}",
            appraisal.reasons
        );
        assert!(!appraisal.authentic, "{what}");
    }
}

#[test]
fn packed_evidence_is_never_accepted_in_a_session() {
    let session = first();
    let mut packed = Collection::unbound();
    for (label, record) in session.collection().records() {
        packed.insert(label, record.to_vec()).unwrap();
    }
    let appraisal = session.appraise_collection(&packed);
    assert_eq!(codes(&appraisal), ["evidence-type-wrong"]);
    assert!(!appraisal.authentic);
}

/// Ten thousand forgeries in a good node's name: each is refused, none is authentic.
#[test]
fn forgeries_are_never_authentic() {
    let session = first().next();
    let stranger = SoftKey::new();
    let sent = session.collection();
    for attempt in 0..200u32 {
        let mut quote = sent.get(Label::TpmQuote).unwrap().to_vec();
        let at = attempt as usize % quote.len();
        quote[at] ^= 1 + (attempt / 145) as u8;
        let signature = if attempt % 2 == 0 {
            stranger.sign(&quote)
        } else {
            sent.get(Label::TpmQuoteSignature).unwrap().to_vec()
        };
        let forged = common::replace(&sent, Label::TpmQuote, Some(quote));
        let forged = common::replace(&forged, Label::TpmQuoteSignature, Some(signature));
        let appraisal = session.appraise_collection(&forged);
        assert!(!appraisal.authentic && appraisal.status != Tier::Affirming, "{attempt}");
    }
}

#[test]
fn no_flipped_byte_affirms_in_a_session() {
    let session = first();
    let sent = session.collection();
    for (label, bytes) in sent.records().filter(|(label, _)| *label != Label::FirmwareEventLog) {
        for position in (0..bytes.len()).step_by((bytes.len() / 60).max(1)) {
            let mut altered = bytes.to_vec();
            altered[position] ^= 0x10;
            let appraisal = session.appraise_collection(&common::replace(&sent, label, Some(altered)));
            assert_ne!(appraisal.status, Tier::Affirming, "{label:?} byte {position}");
        }
    }
}
