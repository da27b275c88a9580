//! Good requests with one thing changed.

use touchstone_authorization::{Authorization, Proof, Status, StatusIndex, TrustHead};
use touchstone_cose::key::SigningKey;

use super::*;

pub fn authorized(change: impl FnOnce(&mut Authorization)) -> Case {
    let mut case = Case::default();
    change(&mut case.authorization);
    case
}

pub fn proven(change: impl FnOnce(&mut Proof)) -> Case {
    let mut case = Case::default();
    change(&mut case.proof);
    case
}

pub fn headed(alter_head: fn(&mut TrustHead)) -> Case {
    Case {
        alter_head,
        ..Case::default()
    }
}

pub fn status(status: Status) -> Case {
    Case {
        status: vec![(STATUS.index, status)],
        ..Case::default()
    }
}

/// Puts another object of this world where an authorization or a proof is expected.
pub fn a_trust_head(_: Vec<u8>) -> Vec<u8> {
    head(&lists(&[])).encode_signed(&trust_key()).unwrap()
}

pub fn flip_last(mut bytes: Vec<u8>) -> Vec<u8> {
    *bytes.last_mut().unwrap() ^= 1;
    bytes
}

pub fn at(status: StatusIndex) -> Case {
    authorized(|a| a.status = status)
}

/// Asks with a proof for `text`; the caller sets the request's own action and resource.
pub fn asking(text: &str) -> Case {
    proven(|p| p.scope = scope(text))
}

/// With a trust state that is still fresh when the authorization ends.
pub fn late() -> Case {
    Case {
        received_at_ms: NOW_MS + 110_000,
        ..headed(|h| h.fresh_until_ms += 600_000)
    }
}

pub fn over_tls(change: impl FnOnce(&mut Proof)) -> Case {
    let mut case = Case::over_tls();
    change(&mut case.proof);
    case
}

pub fn over_request(change: impl FnOnce(&mut Case)) -> Case {
    let mut case = Case::over_request();
    change(&mut case);
    case
}

pub fn ed25519_holder() -> Case {
    let holder = || SigningKey::from_seed([42; 32]);
    Case {
        alter_proof: |_| {
            let case = authorized(|a| a.confirmation = SigningKey::from_seed([42; 32]).verifying_key());
            let authorization_digest = sha256(&case.authorization_bytes());
            Proof {
                authorization_digest,
                ..proof()
            }
            .encode_signed(&SigningKey::from_seed([42; 32]))
            .unwrap()
        },
        ..authorized(|a| a.confirmation = holder().verifying_key())
    }
}
