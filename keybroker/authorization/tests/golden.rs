//! The exact bytes of the three signed formats, and how many there are. A change here is a change of the protocol.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod common;

use common::*;
use touchstone_authorization::{Authorization, Channel, Proof, TrustHead, UntrustedAuthorization, UntrustedProof};
use touchstone_cose::key::SigningKey;

/// The holder of the golden objects: Ed25519, so that its signatures are the same every time.
fn holder() -> SigningKey {
    SigningKey::from_seed([7; 32])
}

fn golden_authorization() -> Authorization {
    Authorization {
        confirmation: holder().verifying_key(),
        parent: Some([0xaa; 16]),
        ..authorization()
    }
}

fn golden_proof() -> Proof {
    let authorization_digest = sha256(&golden_authorization().encode_signed(&issuer()).unwrap());
    Proof {
        authorization_digest,
        request_digest: Some(REQUEST),
        channel: Channel::Exporter(EXPORTER),
        ..proof()
    }
}

const AUTHORIZATION: &str = "\
    d83dd284582fa301320448dd2fb4e18b5e1ce310781f6170706c69636174696f6e2f746f75636873746f6e652d617574682b\
    637774a058faaa016c64656d6f2e6578616d706c6502666e6f64652d31036c64656d6f2e6578616d706c65041a6b49d26e05\
    1a6b49d1f6061a6b49d1f60750c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c108a101a301012006215820ea4a6c63e29c520abef5\
    507b132ec5f9954776aebebe7b92421eea691446d22c097839657865637574653a776f726b6c6f6164732072656c65617365\
    3a6e6f64652d736563726574732064656c65676174653a776f726b6c6f6164733a00010000a6000c011912670250aaaaaaaa\
    aaaaaaaaaaaaaaaaaaaaaaaa0358205757575757575757575757575757575757575757575757575757575757575757048303\
    02194e20050058403ba16728d0caa6435658acec8c88f19f3708beb740b743076671234edbe63682529392c0819744dc2181\
    6c8b8b3e03ba7eb59804baff70ce865df89deec03006";

const PROOF: &str = "\
    d284582ea301320448cbf65c8afcb5f69010781e6170706c69636174696f6e2f746f75636873746f6e652d706f702b637774\
    a058aaa4036c67756172643a6e6f64652d32061a6b49d2000750c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c23a00010000a40058\
    20e8abeabd7cd129dcc9a48b53b2d339f68fc0912159ec38b1ed6c5eaff09ee01b0182676578656375746569776f726b6c6f\
    6164730258204e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e045820e0e0e0e0e0e0e0e0e0\
    e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e058403f2c26d86787ff488be03fee6d24eefced129399d4fd422bb8\
    61baff1d31101d61b5c046f9daefa6f914fde92ea97f517c897bdea85599d98877179cfbfbdb0a";

const HEAD: &str = "\
    d2845830a30132044801565176601c895c1078206170706c69636174696f6e2f746f75636873746f6e652d74727573742b63\
    7774a058cea2016c64656d6f2e6578616d706c653a00010000ab0002011912670201030c0458209d9d9d9d9d9d9d9d9d9d9d\
    9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d050306828301186458205014c951e4ccc719aabb1d635d1fd5bbe67207\
    f74cb970baa9ab9649c8cd9e958303199c40582066c5ae888bf1522c655d612f5a5126342fff7a27953c020102375a8e717b\
    caf7071903e80858201e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e091b000001a3185c4e\
    0c0a1b000001a3185c73285840f402c64d0591adf2bf024197addc55b2136d5582142010e3a5cca0cc0c2c4fd67938e0552d\
    d540f399320a03e37ae7b155b36f367f5c5ae17bfe11a94c2a7509";

#[test]
fn an_authorization() {
    let bytes = golden_authorization().encode_signed(&issuer()).unwrap();
    assert_eq!(hex::encode(&bytes), AUTHORIZATION);
    let read = UntrustedAuthorization::parse(&bytes)
        .unwrap()
        .verify(&ring(&[&issuer()]), NOW_MS)
        .unwrap();
    assert_eq!(read.contents(), &golden_authorization());
    assert_eq!(read.digest(), &sha256(&bytes));
}

#[test]
fn a_proof() {
    let bytes = golden_proof().encode_signed(&holder()).unwrap();
    assert_eq!(hex::encode(&bytes), PROOF);
    let read = UntrustedProof::parse(&bytes)
        .unwrap()
        .verify(&holder().verifying_key())
        .unwrap();
    assert_eq!(read.claims(), &golden_proof());
}

#[test]
fn a_head() {
    let head = head(&lists(&[]));
    let bytes = head.encode_signed(&trust_key()).unwrap();
    assert_eq!(hex::encode(&bytes), HEAD);
    assert_eq!(TrustHead::verify(&bytes, &ring(&[&trust_key()]), NOW_MS).unwrap(), head);
}

/// `docs/protocol.md`, section 6: at most 400 bytes for the demo's node with three scopes, fixed part at most 340.
#[test]
fn the_authorization_of_the_demo_is_small() {
    for (parent, epoch) in [(None, 4_711), (Some([0xaa; 16]), u64::from(u32::MAX) + 1)] {
        let authorization = Authorization {
            parent,
            epoch,
            ..authorization()
        };
        let bytes = authorization.encode_signed(&issuer()).unwrap().len();
        let scopes = "execute:workloads release:node-secrets delegate:workloads".len();
        assert!(bytes <= 400, "{bytes} bytes");
        assert!(bytes - scopes <= 340, "{} bytes besides the scopes", bytes - scopes);
    }
}
