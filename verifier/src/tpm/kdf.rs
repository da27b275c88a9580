//! KDFa and KDFe, the TPM's key derivation functions.
//!
//! Source: TCG TPM 2.0 Library Part 1, 11.4.10; standards.md C.11.3.

use aws_lc_rs::hmac;

use super::algorithm::HashAlg;

/// KDFa: `len` bytes from `HMAC(key, i ‖ label ‖ 00 ‖ context_u ‖ context_v ‖ bits)`, i = 1…
///
/// `label` is given without its terminating zero.
pub(crate) fn kdf_a(
    hash: HashAlg,
    key: &[u8],
    label: &[u8],
    context_u: &[u8],
    context_v: &[u8],
    len: usize,
) -> Vec<u8> {
    let key = hmac::Key::new(hash.hmac(), key);
    let bits = ((len * 8) as u32).to_be_bytes();
    blocks(len, hash.digest_len(), |i| {
        let mut context = hmac::Context::with_key(&key);
        for part in [&i, label, &[0], context_u, context_v, &bits] {
            context.update(part);
        }
        context.sign().as_ref().to_vec()
    })
}

/// KDFe: `len` bytes from `H(i ‖ z ‖ label ‖ 00 ‖ party_u ‖ party_v)`, i = 1…
///
/// `z` and the parties are x coordinates of the field's width. `len` is a whole number of bytes, so no bits are masked.
pub(crate) fn kdf_e(hash: HashAlg, z: &[u8], label: &[u8], party_u: &[u8], party_v: &[u8], len: usize) -> Vec<u8> {
    blocks(len, hash.digest_len(), |i| {
        hash.digest([&i, z, label, &[0], party_u, party_v]).as_ref().to_vec()
    })
}

fn blocks(len: usize, block_len: usize, block: impl Fn([u8; 4]) -> Vec<u8>) -> Vec<u8> {
    let count = len.div_ceil(block_len) as u32;
    let mut out: Vec<u8> = (1..=count).flat_map(|i| block(i.to_be_bytes())).collect();
    out.truncate(len);
    out
}
