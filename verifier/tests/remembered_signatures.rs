//! A store that remembers signatures gives every answer that one which remembers nothing gives: at any time, under any
//! rule, with any revocation list, for any byte changed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use crate::pki;

use pki::{EK_SERIAL, INTERMEDIATE_SERIAL, Maker, NOW};
use proptest::prelude::*;
use rcgen::date_time_ymd;
use touchstone_verifier::x509::ek_certificate::EkCertificateError;
use touchstone_verifier::x509::{
    Certificate, CertificateStore, ChainRules, Crl, CrlRule, Expiry, VerifiedEkCertificate, verify_ek_certificate,
};

type Answer = Result<VerifiedEkCertificate, EkCertificateError>;

/// Root as anchor; intermediates come with the evidence.
fn root_alone(maker: &Maker) -> CertificateStore {
    CertificateStore::new([(maker.root.clone(), true)])
}

fn verify(store: &CertificateStore, ek: &[u8], offered: &[Certificate], now: i64, rules: ChainRules) -> Answer {
    verify_ek_certificate(ek, offered, store, now, rules)
}

fn rules() -> impl Strategy<Value = ChainRules> {
    let expiry = prop_oneof![Just(Expiry::Deny), Just(Expiry::IgnoreWithClaim)];
    let crl = prop_oneof![
        Just(CrlRule::WhenPresent),
        Just(CrlRule::Required),
        Just(CrlRule::RequiredOfAuthorities)
    ];
    (expiry, crl).prop_map(|(expiry, crl)| ChainRules { expiry, crl })
}

/// A store for this maker with these lists, which has seen `ek` accepted where `warm`.
fn store(maker: &Maker, ek: &[u8], lists: &[Vec<u8>], warm: bool) -> CertificateStore {
    let store = root_alone(maker);
    if warm {
        let offered = [maker.intermediate.clone()];
        assert!(verify(&store, ek, &offered, NOW, ChainRules::default()).is_ok());
        assert_eq!(store.remembered(), 2, "leaf and intermediate");
    }
    // A copy knows what the store knew.
    let mut store = store.clone();
    store.add(maker.intermediate.clone(), false);
    for list in lists {
        store.add_crl(Crl::from_der(list).unwrap()).unwrap();
    }
    store
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_does_not_depend_on_what_is_remembered(
        of_ek in prop::option::of(any::<bool>()),
        of_intermediate in prop::option::of(any::<bool>()),
        list_ends in 2026..2030i32,
        now in prop_oneof![
            // Around the ends of lists and certificates, and far from them.
            Just(NOW),
            1_500_000_000i64..2_400_000_000,
            (0..6i64, -1..=1i64).prop_map(|(year, second)| 1_798_675_200 + year * 31_536_000 + second),
        ],
        rules in rules(),
    ) {
        let maker = Maker::new();
        let ek = maker.ek(|params| params.not_after = date_time_ymd(2029, 1, 1));
        let list = |of_root, revokes: bool, serial: u64| {
            let serials = if revokes { vec![serial] } else { Vec::new() };
            maker.crl(of_root, &serials, |params| params.next_update = date_time_ymd(list_ends, 12, 31))
        };
        let lists: Vec<Vec<u8>> = [
            of_ek.map(|revokes| list(false, revokes, EK_SERIAL)),
            of_intermediate.map(|revokes| list(true, revokes, INTERMEDIATE_SERIAL)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let answer = |warm| verify(&store(&maker, &ek, &lists, warm), &ek, &[], now, rules);
        prop_assert_eq!(answer(true), answer(false));
    }
}

/// What was accepted once is refused from the moment a list names it, and from the end of its validity on.
#[test]
fn what_is_remembered_is_not_accepted_for_it() {
    let maker = Maker::new();
    let ek = maker.ek(|params| params.not_after = date_time_ymd(2031, 1, 1));
    let code = |lists: &[Vec<u8>], now, rules: ChainRules| {
        let answer = verify(&store(&maker, &ek, lists, true), &ek, &[], now, rules);
        answer.map(|_| ()).map_err(|error| error.code().as_str())
    };
    let revoked = maker.crl(false, &[EK_SERIAL], |_| {});
    let of_intermediate = maker.crl(true, &[INTERMEDIATE_SERIAL], |_| {});
    let required = ChainRules {
        expiry: Expiry::Deny,
        crl: CrlRule::Required,
    };
    let (usual, end) = (ChainRules::default(), 1_924_992_000);
    for (what, answer, expected) in [
        ("as before", code(&[], NOW, usual), Ok(())),
        ("its last second", code(&[], end, usual), Ok(())),
        ("expired", code(&[], end + 1, usual), Err("certificate-expired")),
        ("not yet valid", code(&[], 0, usual), Err("certificate-not-yet-valid")),
        ("revoked", code(&[revoked], NOW, usual), Err("ek-certificate-revoked")),
        (
            "the intermediate revoked",
            code(&[of_intermediate], NOW, usual),
            Err("ek-certificate-revoked"),
        ),
        (
            "a list is required",
            code(&[], NOW, required),
            Err("certificate-crl-missing"),
        ),
    ] {
        assert_eq!(answer, expected, "{what}");
    }
}

/// Every byte of leaf and intermediate changed, at a store that has seen both accepted.
#[test]
fn a_changed_byte_is_another_certificate() {
    let maker = Maker::new();
    let ek = maker.ek(|_| {});
    let (warm, cold) = (root_alone(&maker), || root_alone(&maker));
    let rules = ChainRules::default();
    assert!(verify(&warm, &ek, std::slice::from_ref(&maker.intermediate), NOW, rules).is_ok());
    for byte in 0..ek.len() {
        let mut changed = ek.clone();
        changed[byte] ^= 0x01;
        let offered = [maker.intermediate.clone()];
        let answer = verify(&warm, &changed, &offered, NOW, rules);
        assert!(answer.is_err(), "byte {byte} of the leaf");
        assert_eq!(answer, verify(&cold(), &changed, &offered, NOW, rules), "byte {byte}");
    }
    let intermediate = maker.intermediate.as_der().to_vec();
    for byte in 0..intermediate.len() {
        let mut changed = intermediate.clone();
        changed[byte] ^= 0x01;
        let Ok(changed) = Certificate::from_der(&changed) else {
            continue;
        };
        let offered = [changed];
        let answer = verify(&warm, &ek, &offered, NOW, rules);
        assert!(answer.is_err(), "byte {byte} of the intermediate");
        assert_eq!(answer, verify(&cold(), &ek, &offered, NOW, rules), "byte {byte}");
    }
    assert_eq!(warm.remembered(), 2, "nothing that was refused is remembered");
}

/// Whoever sends certificates of their own making adds nothing, however genuine the signatures between them.
#[test]
fn only_chains_to_an_anchor_are_remembered() {
    let (maker, other) = (Maker::new(), Maker::new());
    let store = root_alone(&maker);
    for _ in 0..3 {
        let offered = [other.intermediate.clone(), other.root.clone()];
        assert!(verify(&store, &other.ek(|_| {}), &offered, NOW, ChainRules::default()).is_err());
    }
    assert_eq!(store.remembered(), 0);
}
