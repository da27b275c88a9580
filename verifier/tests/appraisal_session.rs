//! Evidence in a broker's session: the binder, activation and enrolment, the session key, the TPM's clock.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::node::{AK_ATTRIBUTES, SESSION_KEY_ATTRIBUTES, Session, SoftKey, name_of};
use common::{Boot, codes};
use touchstone_verifier::appraisal::{Activated, AkBinding, ClaimValue, Tier};

fn good() -> Boot {
    Boot::load("good")
}

fn first() -> Session {
    let good = good();
    Session::first(&good, &good)
}

#[test]
fn a_first_session_affirms_and_says_what_to_enrol() {
    let session = first();
    let appraisal = session.appraise();
    assert_eq!(appraisal.reasons, []);
    assert_eq!(appraisal.status, Tier::Affirming);
    assert!(appraisal.authentic);
    assert_eq!(appraisal.ak_binding, AkBinding::Activated);
    assert_eq!(appraisal.claims["binding"], ClaimValue::Text("session".into()));
    let enrol = appraisal.enrol.unwrap();
    assert_eq!(enrol.name, "node-1");
    let tpm = enrol.tpm().unwrap();
    assert_eq!(tpm.ek, good().ek_id("rsa"));
    assert_eq!(tpm.ak_name, name_of(&session.ak_public));
    assert_eq!(tpm.ek_certificate, session.ek_certificate);
    let key = enrol.session_key.unwrap();
    assert_eq!(key.thumbprint, session.session_key.verifying_key().thumbprint());
    assert_eq!(key.name, name_of(&session.session_public));
}

#[test]
fn a_later_session_needs_neither_activation_nor_certification() {
    let session = first().next();
    let appraisal = session.appraise();
    assert_eq!(appraisal.reasons, []);
    assert!(appraisal.authentic && appraisal.enrol.is_some());
    assert_eq!(appraisal.ak_binding, AkBinding::Enrolled);
    // Nor the certificate and the key again: those enrolled are judged anew.
    let mut lean = first().next();
    lean.ek_certificate = None;
    assert_eq!(lean.appraise().reasons, []);
    lean.anchors = Default::default();
    assert_eq!(codes(&lean.appraise()), ["certificate-issuer-unknown"]);
}

#[test]
fn an_unsafe_clock_is_judged_by_its_counters_alone() {
    let mut session = first().next();
    session.clock.clock = 10;
    session.clock.safe = false;
    assert_eq!(session.appraise().reasons, []);
    session.clock.reset_count -= 1;
    assert!(codes(&session.appraise()).contains(&"clock-went-back"));
}

#[test]
fn a_rebooted_node_certifies_a_new_session_key_and_goes_on() {
    let mut session = first().next();
    session.clock.reset_count += 1;
    session.clock.clock = 5;
    let policy = touchstone_verifier::tpm::Public::parse(&session.session_public)
        .unwrap()
        .auth_policy;
    session.session_key = SoftKey::new();
    session.session_public = session.session_key.public(SESSION_KEY_ATTRIBUTES, &policy);
    session.certify_again = true;
    let appraisal = session.appraise();
    assert_eq!(appraisal.reasons, []);
    assert_eq!(
        appraisal.enrol.unwrap().tpm().unwrap().clock.reset_count,
        session.clock.reset_count
    );
}

#[test]
fn a_new_attestation_key_of_the_same_tpm_may_be_activated() {
    let mut session = first().next();
    session.ak = SoftKey::new();
    session.ak_public = session.ak.public(AK_ATTRIBUTES, &[]);
    session.activated = Some(Activated {
        ek: good().ek_id("rsa"),
        ak_name: name_of(&session.ak_public),
    });
    session.certify_again = true;
    let appraisal = session.appraise();
    assert_eq!(appraisal.reasons, []);
    assert!(appraisal.authentic);
    assert_eq!(
        appraisal.enrol.unwrap().tpm().unwrap().ak_name,
        name_of(&session.ak_public)
    );
}

#[test]
fn the_same_inputs_give_the_same_answer() {
    let session = first();
    let sent = session.collection();
    assert_eq!(session.appraise_collection(&sent), session.appraise_collection(&sent));
}
