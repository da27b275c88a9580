//! Authorizations, off-line delegations, and what enforcers and operators sign: the fuzzer writes the claims and the right key
//! signs them, so that what is read behind the signature is reached. Each tells whether it was taken.

use touchstone_authorization::signed::SignedKind;
use touchstone_authorization::{
    Ack, Authorization, Command, DelegationRight, KeyKind, KeyRing, NamedKeys, Scope, StatusIndex, TrustedKey,
    UntrustedAuthorization, UntrustedChain, Use,
};
use touchstone_cose::cbor::{Value, encode};
use touchstone_cose::cwt;
use touchstone_cose::key::SigningKey;
use touchstone_cose::sign1::{self, Protected};

/// The second all of it is looked at.
const NOW_S: u64 = 1_800_000_000;
const DOMAIN: &str = "demo.example";
const SIGNER: &str = "guard:node-2";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

fn ring() -> KeyRing {
    let trusted = TrustedKey {
        key: key(1).verifying_key(),
        not_before: 0,
        not_after: i64::MAX,
    };
    KeyRing::new([trusted]).unwrap_or_default()
}

fn signed(kind: SignedKind, claims: &[u8], signer: &SigningKey) -> Vec<u8> {
    sign1::sign(signer, &Protected::typ(kind.typ()), claims, &[]).unwrap_or_default()
}

/// The authorization that fuzzed blocks are added to.
pub fn root() -> Vec<u8> {
    let scope = |text| Scope::parse(text).ok();
    let root = Authorization {
        issuer: DOMAIN.into(),
        subject: "agent@node-1".into(),
        audience: DOMAIN.into(),
        expires: NOW_S + 200,
        not_before: NOW_S - 200,
        issued_at: NOW_S - 200,
        cti: [0xc1; 16],
        confirmation: key(2).verifying_key(),
        scopes: [scope("execute:a"), scope("delegate:a"), scope("release:a")]
            .into_iter()
            .flatten()
            .collect(),
        policy_version: 1,
        epoch: 1,
        parent: Some([0xaa; 16]),
        statement: [0x57; 32],
        status: StatusIndex {
            list: 0,
            generation: 1,
            index: 1,
        },
        key_kind: KeyKind::Tpm,
        depth: 1,
        delegation: Some(DelegationRight {
            depth: 3,
            offline: true,
        }),
        region: Some("eu-1".into()),
        purpose: None,
    };
    root.encode_signed(&key(1)).unwrap_or_default()
}

/// The claims of an authorization.
pub fn claims(data: &[u8]) -> bool {
    let bytes = cwt::wrap(&signed(SignedKind::Authorization, data, &key(1)));
    let read = UntrustedAuthorization::parse(&bytes).and_then(|token| token.verify(&ring(), NOW_S * 1_000));
    let Ok(read) = read else { return false };
    // A key may be written with its point whole or compressed; ours are compressed, and what we write is read as the same.
    if let Ok(again) = read.contents().encode_signed(&key(1)) {
        let again = UntrustedAuthorization::parse(&again).and_then(|token| token.verify(&ring(), NOW_S * 1_000));
        assert!(again.is_ok_and(|again| again.contents() == read.contents()));
    }
    true
}

/// A chain as bytes, and the claims of a block at its end.
pub fn chain(data: &[u8]) -> bool {
    drop(UntrustedChain::parse(data).and_then(|chain| chain.verify(&ring(), NOW_S * 1_000)));
    let (root, block) = (root(), signed(SignedKind::Block, data, &key(2)));
    let bytes = encode(&Value::array([Value::bytes(root), Value::bytes(block)]));
    let Ok(chain) = UntrustedChain::parse(&bytes).and_then(|chain| chain.verify(&ring(), NOW_S * 1_000)) else {
        return false;
    };
    let root = chain.root().contents();
    assert!(
        chain
            .scopes()
            .iter()
            .all(|scope| root.scopes.contains(scope) && scope.resource() == "a")
    );
    assert!(chain.expires() <= root.expires && chain.not_before() >= root.not_before);
    assert!(chain.region() == Some("eu-1") && chain.further_offline() < 3);
    assert!(chain.holder() != &root.confirmation && chain.id() != &root.cti);
    true
}

/// The claims of an acknowledgement, a use and a command.
pub fn reports(data: &[u8]) -> bool {
    let signer = key(3);
    let Ok(keys) = NamedKeys::new([(SIGNER.to_owned(), signer.verifying_key())]) else {
        return false;
    };
    let bytes = signed(SignedKind::Ack, data, &signer);
    if let Ok(ack) = Ack::verify(&bytes, &keys, DOMAIN) {
        assert_eq!(ack.encode_signed(&signer).ok(), Some(bytes));
        return true;
    }
    let bytes = signed(SignedKind::Use, data, &signer);
    if let Ok(report) = Use::verify(&bytes, &keys, DOMAIN) {
        assert_eq!(report.encode_signed(&signer).ok(), Some(bytes));
        return true;
    }
    let bytes = signed(SignedKind::Command, data, &signer);
    if let Ok(command) = Command::verify(&bytes, &keys, DOMAIN, (NOW_S * 1_000, 500)) {
        assert_eq!(command.encode_signed(&signer).ok(), Some(bytes));
        return true;
    }
    false
}
