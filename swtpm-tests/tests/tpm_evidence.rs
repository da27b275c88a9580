//! What the node's TPM access makes is what the verifier asks for: live software TPMs on one side, the pure verifier on
//! the other, over the bytes that travel.
#![expect(
    clippy::expect_used,
    reason = "test helpers: what is not as it must be fails the test"
)]

use std::collections::BTreeMap;

use swtpm_tests::boots::{Boot, KeyForm, SHA1, SHA256};
use swtpm_tests::swtpm::Swtpm;
use touchstone_attest::tpm::{Ak, AkAlgorithm, EkKind, EndorsementKey, Selection, Tpm};
use touchstone_verifier::tpm::credential::{CREDENTIAL_ENTROPY_LEN, make_credential};
use touchstone_verifier::tpm::ek::{AkParent, ak_parent};
use touchstone_verifier::tpm::policy::policy_pcr;
use touchstone_verifier::tpm::{AttestationKey, HashAlg, PcrSelection, Public, SessionKeyUse};

const QUALIFYING: [u8; 32] = [0x5A; 32];
const ALGORITHMS: [AkAlgorithm; 2] = [AkAlgorithm::EcdsaP256, AkAlgorithm::RsassaRsa2048];

struct Node {
    _swtpm: Swtpm,
    tpm: Tpm,
}

fn node() -> Node {
    let swtpm = Swtpm::from_boot(&Boot::GOOD, &Boot::GOOD).expect("a software TPM");
    let tpm = Tpm::open(&swtpm.tcti()).expect("an open TPM");
    Node { _swtpm: swtpm, tpm }
}

/// Runs `f` for every kind of endorsement key with every kind of attestation key under it.
fn for_all_keys(mut f: impl FnMut(&mut Tpm, &EndorsementKey, &Ak)) {
    let Node { _swtpm, mut tpm } = node();
    for kind in EkKind::COMMON {
        let ek = tpm.endorsement_key(kind).expect("an EK");
        for algorithm in ALGORITHMS {
            let blob = tpm.create_ak(&ek, algorithm).expect("an AK");
            let ak = tpm.load_ak(&ek, &blob).expect("loaded");
            f(&mut tpm, &ek, &ak);
        }
    }
}

fn values(tpm: &mut Tpm, selection: &Selection) -> BTreeMap<(u16, u8), Vec<u8>> {
    let banks = tpm.pcr_values(selection).expect("values");
    banks
        .into_iter()
        .flat_map(|(bank, pcrs)| pcrs.into_iter().map(move |(pcr, value)| ((bank, pcr), value)))
        .collect()
}

#[test]
fn quotes_and_values_verify_and_name_their_endorsement_key() {
    let selections = [
        vec![(SHA256, vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14])],
        vec![(SHA1, vec![0, 23]), (SHA256, vec![7])],
        vec![(SHA256, (0..24).collect()), (SHA1, (0..24).collect())],
    ];
    for_all_keys(|tpm, ek, ak| {
        let ak_public = Public::parse(ak.public()).expect("a public area");
        let ak_checked = ak_public.check_ak().expect("a proper AK");
        let ek_public = Public::parse(ek.public()).expect("a public area");
        let ek_checked = ek_public.check_ek().expect("a proper EK");
        assert_eq!(ak_public.name().as_bytes(), ak.name());
        assert_eq!(ek_public.name().as_bytes(), ek.name());
        for asked in &selections {
            let made = tpm.quote(ak, asked, &QUALIFYING).expect("a quote");
            let key = AttestationKey::from(&ak_checked);
            let quote = key
                .verify_quote(&made.attested, &made.signature)
                .expect("a genuine quote");
            assert_eq!(quote.attest().extra_data, QUALIFYING);
            let asked_for = PcrSelection::from_wire(asked).expect("a selection");
            quote
                .info()
                .selection
                .must_equal(&asked_for)
                .expect("exactly what was asked for");
            let values = values(tpm, asked);
            let value = |bank: HashAlg, pcr| values.get(&(bank.tpm_id(), pcr)).map(Vec::as_slice);
            quote.check_values(value).expect("the quoted values");
            assert_eq!(
                ak_parent(quote.attest().qualified_signer, &ak_public, &ek_checked),
                AkParent::EndorsementKey
            );
            let clock = &quote.attest().clock;
            assert_eq!(
                (clock.clock, clock.reset_count, clock.restart_count, clock.safe),
                (
                    made.clock.clock_ms,
                    made.clock.reset_count,
                    made.clock.restart_count,
                    made.clock.safe
                )
            );
        }
    });
}

#[test]
fn session_keys_are_certified_with_the_attributes_and_policy_the_protocol_asks_for() {
    let registers = vec![(SHA256, vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14])];
    for_all_keys(|tpm, ek, ak| {
        let session_key = tpm.create_session_key(ek, &registers).expect("a session key");
        let made = tpm.certify(&session_key, ak, &QUALIFYING).expect("a certification");
        let ak_public = Public::parse(ak.public()).expect("a public area");
        let key = AttestationKey::from(&ak_public.check_ak().expect("a proper AK"));
        let certify = key
            .verify_certify(&made.attested, &made.signature)
            .expect("a genuine certification");
        assert_eq!(certify.attest().extra_data, QUALIFYING);
        let public = Public::parse(session_key.public()).expect("a public area");
        certify.check_key(&public).expect("this very key");
        let values = values(tpm, &registers);
        let value = |bank: HashAlg, pcr| values.get(&(bank.tpm_id(), pcr)).map(Vec::as_slice);
        let selection = PcrSelection::from_wire(&registers).expect("a selection");
        let policy = policy_pcr(&selection, value).expect("a policy");
        public
            .check_session_key(SessionKeyUse::Sign, &policy)
            .expect("attributes and policy as they must be");
    });
}

#[test]
fn credentials_made_in_software_open_in_the_tpm_they_were_made_for() {
    for_all_keys(|tpm, ek, ak| {
        let ek_public = Public::parse(ek.public()).expect("a public area");
        let ak_public = Public::parse(ak.public()).expect("a public area");
        let secret = [0xC3; 32];
        // Constant here: what is tested is that the TPM opens it, not that nobody else can.
        let credential = make_credential(
            &ek_public.check_ek().expect("a proper EK"),
            &ak_public.check_ak().expect("a proper AK"),
            &secret,
            &[0x17; CREDENTIAL_ENTROPY_LEN],
        )
        .expect("a credential");
        let opened = tpm.activate_credential(ek, ak, &credential.credential_blob, &credential.encrypted_secret);
        assert_eq!(*opened.expect("opened"), secret);
    });
}

#[test]
fn the_recorded_quotes_verify_too() {
    for boot in Boot::ALL {
        for form in [KeyForm::Rsa, KeyForm::Ecc] {
            let quote = boot.quote(swtpm_tests::boots::QuoteOf::Boot(form));
            let public = Public::parse(&boot.ak_public(form)).expect("a public area");
            let key = AttestationKey::from(&public.check_ak().expect("a proper AK"));
            let verified = key
                .verify_quote(&quote.attest, &quote.signature)
                .expect("a genuine quote");
            assert_eq!(verified.attest().extra_data, quote.nonce, "{} {form:?}", boot.name());
            let recorded = boot.pcrs();
            let value = |bank: HashAlg, pcr| recorded.get(&(bank.tpm_id(), pcr)).map(Vec::as_slice);
            verified.check_values(value).expect("the recorded values");
        }
    }
}
