//! The exact bytes of the signed formats, and how many there are. A change here is a change of the protocol.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::*;
use touchstone_authorization::{
    Ack, Authorization, Channel, Command, CommandAction, Delegation, DelegationRight, NamedKeys, Outcome, Proof,
    RevokedIds, TargetKind, TrustFrame, TrustHead, UntrustedAuthorization, UntrustedChain, UntrustedProof, Use,
    delegate, request_digest,
};
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

/// The workload that the golden chain begins with: every claim that an authorization may have.
fn golden_workload() -> Authorization {
    Authorization {
        subject: "agent@node-1".into(),
        depth: 1,
        delegation: Some(DelegationRight {
            depth: 2,
            offline: true,
        }),
        region: Some("eu-1".into()),
        purpose: Some("billing".into()),
        ..golden_authorization()
    }
}

fn child() -> SigningKey {
    SigningKey::from_seed([8; 32])
}

fn golden_chain() -> Vec<u8> {
    let delegation = Delegation {
        key: child().verifying_key(),
        label: "tool".into(),
        scopes: vec![scope("execute:workloads")],
        not_before: NOW_S,
        expires: NOW_S + 60,
        depth: 1,
        region: Some("eu-1".into()),
        purpose: Some("billing".into()),
        cti: [0xc3; 16],
    };
    delegate(
        &golden_workload().encode_signed(&issuer()).unwrap(),
        &delegation,
        &holder(),
    )
    .unwrap()
}

const CHAIN: &str = "\
    82590190d83dd284582fa301320448dd2fb4e18b5e1ce310781f6170706c69636174696f6e2f746f75636873746f6e652d61\
    7574682b637774a0590115aa016c64656d6f2e6578616d706c65026c6167656e74406e6f64652d31036c64656d6f2e657861\
    6d706c65041a6b49d26e051a6b49d1f6061a6b49d1f60750c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c108a101a3010120062158\
    20ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c097839657865637574653a776f726b6c6f\
    6164732072656c656173653a6e6f64652d736563726574732064656c65676174653a776f726b6c6f6164733a00010000aa00\
    0c011912670250aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa035820575757575757575757575757575757575757575757575757\
    575757575757575704830302194e2005000601078202f5086465752d31096762696c6c696e67584097c2726733f004ba86c7\
    3d692f3d75706faff2cb0e5f1aace4f9683566ef8f22398fe6d11803bf8f24b65d641a20765921635d12ffdbab6c319d5465\
    3a5ea40359011bd2845835a301320448cbf65c8afcb5f6901078256170706c69636174696f6e2f746f75636873746f6e652d\
    64656c65676174696f6e2b637774a0589da6041a6b49d23c051a6b49d2000750c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c308a1\
    01a3010120062158201398f62c6d1a457c51ba6a4b5f3dbd2f69fca93216218dc8997e416bd17d93ca097165786563757465\
    3a776f726b6c6f6164733a00010000a500582013a42abe69e8ae314f4e84f2d103287632235e2bacfabcfc42f289773436aa\
    da0164746f6f6c0201036465752d31046762696c6c696e675840ff233bdcd26f58e45dba30ecb0dc717b3615d2dbadd080ef\
    d308eb88040e9343bb81d3ed6771707ac8f3c21cb6b3dd9c0ef482e83f57eac068d0487cff390800";
const ACK: &str = "\
    d284582ea301320448cbf65c8afcb5f69010781e6170706c69636174696f6e2f746f75636873746f6e652d61636b2b637774\
    a05835a3016c67756172643a6e6f64652d32036c64656d6f2e6578616d706c653a00010000a4000201191268021b000001a3\
    185c500303025840684cc7fc48d010b884471f8de900fbd6135e6698f6ef43390e37ad58fbf83bb115af34061d9b9c3e360a\
    833a43d9ed6f7201b65af9ceda9f845be1a5ea424002";
const USE: &str = "\
    0ded82c1eeb52296ca1acd7d9eb0213e36e083b86f5ba9a1adc3a0fbb6d0c498";
const COMMAND: &str = "\
    d2845832a30132044813881c1d1c3478551078226170706c69636174696f6e2f746f75636873746f6e652d636f6d6d616e64\
    2b637774a05897a50165616c696365036c64656d6f2e6578616d706c65041a6b49d23c0750c5c5c5c5c5c5c5c5c5c5c5c5c5\
    c5c5c53a00010000a5006a71756172616e74696e650182676c696e656167656863316331633163310258205e5e5e5e5e5e5e\
    5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e031104781c6c6f6f6b656420617420627920746865206e6967\
    68742073686966745840768d90395b5cea2215acf839e2a0ef2404da385159608f4aa4c3cc599d80cb668bc56afb0b8a3af3\
    ff5f5d44d62ccd2f1ff7438528722b7034112bf64d93ce02";
const FRAME: &str = "\
    a20059011fd2845830a30132044801565176601c895c1078206170706c69636174696f6e2f746f75636873746f6e652d7472\
    7573742b637774a058a6a2016c64656d6f2e6578616d706c653a00010000ac0002011912670201030c0458209d9d9d9d9d9d\
    9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d05030680071903e80858201e1e1e1e1e1e1e1e1e1e1e1e1e\
    1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e091b000001a3185c4e0c0a1b000001a3185c73280b8202582034ca57652d6a\
    7e56fefb982d4c4d56bce0cc251257b11a6f220eafb493ae1525584095ced9102a2a4ecc8dcdac6f42a8236891977f623914\
    01f650f1ce93806b357f440fc226d8037709c51aea7ab7ec5899cae70300d7306d1b43ba306f8302ce09018301805820c3c3\
    c3c3c3c3c3c3c3c3c3c3c3c3c3c3c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4";

#[test]
fn a_chain() {
    let bytes = golden_chain();
    assert_eq!(hex::encode(&bytes), CHAIN);
    let read = UntrustedChain::parse(&bytes)
        .unwrap()
        .verify(&ring(&[&issuer()]), NOW_MS)
        .unwrap();
    assert_eq!(read.root().contents(), &golden_workload());
    assert_eq!(read.subject(), "agent@node-1:tool");
    assert_eq!(
        (read.digest(), read.depth(), read.further_offline()),
        (&sha256(&bytes), 2, 1)
    );
    assert_eq!(
        read.blocks()[0].before,
        sha256(&golden_workload().encode_signed(&issuer()).unwrap())
    );
}

fn keys() -> NamedKeys {
    NamedKeys::new([
        (ENFORCER.to_owned(), holder().verifying_key()),
        ("alice".to_owned(), child().verifying_key()),
    ])
    .unwrap()
}

#[test]
fn an_acknowledgement() {
    let ack = Ack {
        domain: DOMAIN.into(),
        enforcer: ENFORCER.into(),
        generation: 2,
        epoch: 4_712,
        enforced_at_ms: NOW_MS + 3,
        refused: 2,
    };
    let bytes = ack.encode_signed(&holder()).unwrap();
    assert_eq!(hex::encode(&bytes), ACK);
    assert_eq!(Ack::verify(&bytes, &keys(), DOMAIN), Ok(ack));
}

#[test]
fn a_use() {
    let chain = golden_chain();
    let report = Use {
        domain: DOMAIN.into(),
        enforcer: ENFORCER.into(),
        id: [0xc4; 16],
        chain_digest: sha256(&chain),
        chain: Some(chain),
        scope: scope("execute:workloads"),
        at_ms: NOW_MS,
        outcome: Outcome::Refused,
    };
    let bytes = report.encode_signed(&holder()).unwrap();
    assert_eq!(hex::encode(sha256(&bytes)), USE, "SHA-256: the chain stands above");
    assert_eq!(Use::verify(&bytes, &keys(), DOMAIN), Ok(report));
}

#[test]
fn a_command() {
    let command = Command {
        domain: DOMAIN.into(),
        operator: "alice".into(),
        id: [0xc5; 16],
        not_after: NOW_S + 60,
        action: CommandAction::Quarantine,
        target: TargetKind::Lineage,
        target_id: "c1c1c1c1".into(),
        set: [0x5e; 32],
        revision: 17,
        reason: "looked at by the night shift".into(),
    };
    let bytes = command.encode_signed(&child()).unwrap();
    assert_eq!(hex::encode(&bytes), COMMAND);
    assert_eq!(Command::verify(&bytes, &keys(), DOMAIN, (NOW_MS, SKEW_MS)), Ok(command));
}

#[test]
fn a_frame_with_revoked_ids() {
    let lists = touchstone_authorization::StatusLists::default();
    let revoked = RevokedIds::new([[0xc4; 16], [0xc3; 16]]).unwrap();
    let head = TrustHead {
        revoked: revoked.head(),
        ..head(&lists)
    };
    let frame = TrustFrame::full(&head.encode_signed(&trust_key()).unwrap(), &lists, &revoked);
    assert_eq!(hex::encode(frame.encode()), FRAME);
    assert_eq!(TrustFrame::parse(&frame.encode()), Ok(frame));
}

/// `req`: whatever of a request is another gives another digest.
#[test]
fn a_request_digest() {
    let body = sha256(b"{}");
    let digest = |method, authority, path, body| hex::encode(request_digest(method, authority, path, body));
    let good = digest("POST", "api.example", "/v1/tools?x=1", Some(&body));
    assert_eq!(good, "d0521f7dd03352bfd40347930ad538a3ab76f7d822fb165961b929547a3c3639");
    for (what, other) in [
        ("method", digest("GET", "api.example", "/v1/tools?x=1", Some(&body))),
        (
            "authority",
            digest("POST", "api.example:8443", "/v1/tools?x=1", Some(&body)),
        ),
        ("path", digest("POST", "api.example", "/v1/tool", Some(&body))),
        ("query", digest("POST", "api.example", "/v1/tools?x=2", Some(&body))),
        ("body", digest("POST", "api.example", "/v1/tools?x=1", Some(&[0; 32]))),
        ("no body seen", digest("POST", "api.example", "/v1/tools?x=1", None)),
        (
            "a boundary moved",
            digest("POST", "api.example/v1", "/tools?x=1", Some(&body)),
        ),
    ] {
        assert_ne!(other, good, "{what}");
    }
}

/// What a workload's authorization with every claim and one delegation cost on the wire.
#[test]
fn a_link_is_small() {
    let (root, chain) = (golden_workload().encode_signed(&issuer()).unwrap(), golden_chain());
    assert!(root.len() <= 450, "{} bytes", root.len());
    assert!(
        chain.len() - root.len() <= 400,
        "{} bytes a link",
        chain.len() - root.len()
    );
}
