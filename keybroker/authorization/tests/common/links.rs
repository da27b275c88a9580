//! Chains: the demo's authorization with off-line delegations added to it, good until a test changes one.

use touchstone_authorization::{Authorization, Block, DelegationRight, Scope};
use touchstone_cose::cbor::{Value, encode};

use super::*;

/// One off-line delegation, and how it is made.
#[derive(Clone)]
pub struct Link {
    pub block: Block,
    /// The key that signs it: [`HolderKey::new`] of this seed.
    pub signer: u8,
    /// Another digest of what stands before than the right one.
    pub before: Option<[u8; 32]>,
    /// Changes the signed bytes on their way.
    pub alter: fn(Vec<u8>) -> Vec<u8>,
}

/// The seed of the authorization's own key.
pub const ROOT: u8 = 7;

/// The seed of the key of the link at `position`, from 1.
pub fn seed(position: usize) -> u8 {
    20 + u8::try_from(position).unwrap()
}

/// The link at `position`, from 1: everything that may be handed on, and a second shorter than the one before.
pub fn link(position: usize) -> Link {
    let at = u64::try_from(position).unwrap();
    Link {
        block: Block {
            before: [0; 32],
            confirmation: HolderKey::new(seed(position)).verifying_key(),
            label: format!("link-{position}"),
            scopes: vec![scope("execute:workloads"), scope("delegate:workloads")],
            not_before: NOW_S - 10 + at,
            expires: NOW_S + 110 - at,
            depth: 4 - u8::try_from(position).unwrap(),
            region: None,
            purpose: None,
            cti: [seed(position); 16],
        },
        signer: if position == 1 { ROOT } else { seed(position - 1) },
        before: None,
        alter: |bytes| bytes,
    }
}

/// The demo's authorization, with the right to delegate off-line four times.
pub fn delegable() -> Authorization {
    Authorization {
        delegation: Some(DelegationRight {
            depth: 4,
            offline: true,
        }),
        ..authorization()
    }
}

/// A request by the holder of the last of so many links.
pub fn chain(links: usize) -> Case {
    Case {
        authorization: delegable(),
        links: (1..=links).map(link).collect(),
        holder: HolderKey::new(if links == 0 { ROOT } else { seed(links) }),
        ..Case::default()
    }
}

/// The same with the last of its links changed.
pub fn changed(links: usize, change: impl FnOnce(&mut Block)) -> Case {
    let mut case = chain(links);
    change(&mut case.links.last_mut().unwrap().block);
    case
}

/// The links as bytes, each made for what stands before it.
pub fn signed(authorization: Vec<u8>, links: &[Link]) -> Vec<Vec<u8>> {
    let mut chain = vec![authorization];
    for link in links {
        let block = Block {
            before: link.before.unwrap_or_else(|| sha256(&join(&chain))),
            ..link.block.clone()
        };
        chain.push((link.alter)(block.encode_signed(&HolderKey::new(link.signer)).unwrap()));
    }
    chain
}

/// An authorization alone as it is; a longer chain as an array of byte strings. Written here once more, so that the tests
/// do not take the encoding from what they test.
pub fn join(links: &[Vec<u8>]) -> Vec<u8> {
    match links {
        [one] => one.clone(),
        links => array(links),
    }
}

pub fn array(links: &[Vec<u8>]) -> Vec<u8> {
    encode(&Value::array(links.iter().map(|link| Value::bytes(link.as_slice()))))
}

pub fn scopes(texts: &[&str]) -> Vec<Scope> {
    texts.iter().map(|text| scope(text)).collect()
}
