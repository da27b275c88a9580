//! ROCA (CVE-2017-15361): RSA keys whose primes are powers of 65537 modulo a product of small primes.
//!
//! The faulty generator (RSALib, in TPMs of Infineon up to firmware 4.33 / 6.42 / 7.61 and others) makes primes
//! k·M + (65537^a mod M), M the product of the first 39 to 225 primes by key size. So the modulus is a power of 65537
//! modulo M too, and the one exponent can be looked for: a discrete logarithm that is easy because every factor of M is
//! small. A sound modulus has such an exponent by accident with a negligible chance.
//!
//! Source: M. Nemec et al., The Return of Coppersmith's Attack (CCS 2017), 2.1 and 3; CVE-2017-15361.

use std::collections::BTreeMap;

use super::key::SubjectKey;

/// The generator of the weak primes' residues.
const GENERATOR: u32 = 65537;
/// The odd primes up to 167: factors of M for every key size of the faulty generator (RSA-512 has these and 2 only).
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
    113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// Whether the key has the fingerprint of the faulty generator. Keys that are not RSA have none.
pub fn has_roca_fingerprint(key: &SubjectKey) -> bool {
    match key {
        SubjectKey::Rsa { modulus, .. } => discrete_logarithm_exists(modulus),
        SubjectKey::Ec { .. } => false,
    }
}

/// Whether one exponent a gives `modulus` = 65537^a modulo every one of the primes (Pohlig-Hellman and the Chinese
/// remainder theorem: the exponents modulo the single primes must agree wherever their orders have a common factor).
fn discrete_logarithm_exists(modulus: &[u8]) -> bool {
    // Exponent known so far modulo prime powers: factor -> (power, exponent modulo it).
    let mut known: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    PRIMES.iter().all(|&prime| {
        let residue = modulus
            .iter()
            .fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let Some((exponent, order)) = logarithm(residue, prime) else {
            return false;
        };
        prime_powers(order).into_iter().all(|(factor, power)| {
            let (seen_power, seen) = known.entry(factor).or_insert((power, exponent % power));
            let common = power.min(*seen_power);
            let agrees = *seen % common == exponent % common;
            if power > *seen_power {
                (*seen_power, *seen) = (power, exponent % power);
            }
            agrees
        })
    })
}

/// The exponent of 65537 that gives `residue` modulo `prime`, and the order of 65537 there.
fn logarithm(residue: u32, prime: u32) -> Option<(u32, u32)> {
    let (mut value, mut found, mut exponent) = (1, None, 0);
    loop {
        if value == residue && found.is_none() {
            found = Some(exponent);
        }
        value = value * (GENERATOR % prime) % prime;
        exponent += 1;
        // 65537 is prime and larger than all of these, so its powers come back to 1 within prime - 1 steps.
        if value == 1 || exponent >= prime {
            return found.map(|found| (found, exponent));
        }
    }
}

/// The prime powers whose product is `number`, which is below 167.
fn prime_powers(number: u32) -> Vec<(u32, u32)> {
    let mut powers = Vec::new();
    let mut left = number;
    for factor in 2..=number {
        let mut power = 1;
        while left > 1 && left.is_multiple_of(factor) {
            left /= factor;
            power *= factor;
        }
        if power > 1 {
            powers.push((factor, power));
        }
    }
    powers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpm::algorithm::Curve;

    /// A product of two 1024-bit primes made as the faulty generator makes them (M of 126 primes).
    const WEAK: &[&str] = &[
        "cf1405dce938718c4a682b0efca9e887b882c3a73d000a53e207705c469bb5fc94150b8b4dbf70eda50e19017140f62f",
        "0025cc06aa40266096369eab43ffa1e972dc7b7b2df437ef94eeabf5cf0f73735be9e0960fe657037c68fa7a72c1e8eb",
        "2bdb32af660c290b57dd8d71390b67c4ce109293fa71b7135e804c7747515c6607cea8d32aec1721b655faf3d6c20a2a",
        "951b2ea0f2269853e317a0b3e7fa67c0316a3aac27eb30e5e18e279239cd1ff52d57962734f84dc96bcf04d35c87e30c",
        "3b3ef7f6207aa0b48fef9fb968d01009d19bb6db9a6f74e40680d2ae15dda79bb9f31ccaecb73b18d8f7c88dcee0aae9",
        "23ae2fb5c5ba71783b71729486ad9c27",
    ];
    /// A number that is a power of 65537 modulo each of the primes, but not the same power: not of that generator.
    const IN_EVERY_SUBGROUP: &[&str] = &[
        "ac682453516d3952e1247653a4d24364e66cd1c179c75f5b2059221255ef4f19b3f63690b52bc3d8e17f33926a18b09a",
        "b2bb250fbf2f8667d901b0456f820fe541f12764a65eef902d38117039f74a751b1ac9075a479e6a6490f9cba0098489",
        "57c8ac7dbfb20b5c7e106a56870220b86ef2c5549b1637e4e8d782d01ab2832dc32d3227b9525870c2a78c87acc49078",
        "0b662eabf2d251db5d1c7262ddc103fed2e4c5ae8e6c8a6f2d87294d2689eefe7b7efe09383abd8f6364bdc72346f065",
        "3edb5094573da852e31ab1c40f2537a5a9e8715f6aa9f58c127bbcfbe031f919e75f9b742065134f872e9c80ba7e1e56",
        "9cee0d8d50ffff8bdcd71cbad2dfa568",
    ];

    fn key(hex_lines: &[&str]) -> SubjectKey {
        let modulus = hex::decode(hex_lines.concat()).unwrap();
        assert_eq!(modulus.len(), 256);
        SubjectKey::Rsa {
            modulus,
            exponent: 65537,
        }
    }

    #[test]
    fn the_faulty_generators_keys_are_found() {
        assert!(has_roca_fingerprint(&key(WEAK)));
    }

    #[test]
    fn sound_keys_are_not() {
        assert!(
            !has_roca_fingerprint(&key(IN_EVERY_SUBGROUP)),
            "one exponent must fit all primes"
        );
        let SubjectKey::Rsa { modulus, .. } = key(WEAK) else {
            panic!("an RSA key")
        };
        for bit in 1..64 {
            let mut other = modulus.clone();
            other[255 - bit / 8] ^= 1 << (bit % 8);
            assert!(!discrete_logarithm_exists(&other), "bit {bit}");
        }
        let point = SubjectKey::Ec {
            curve: Curve::P256,
            x: vec![1; 32],
            y: vec![1; 32],
        };
        assert!(!has_roca_fingerprint(&point));
        assert!(!discrete_logarithm_exists(&[]));
    }

    #[test]
    fn logarithms_are_those_of_the_group() {
        // 65537 = 4 modulo 13: its powers are 1, 4, 3, 12, 9, 10.
        let found: Vec<_> = (0..13)
            .map(|residue| logarithm(residue, 13).map(|(exponent, _)| exponent))
            .collect();
        let [n, one, four, three, twelve, nine, ten] = [None, Some(0), Some(1), Some(2), Some(3), Some(4), Some(5)];
        assert_eq!(found, [n, one, n, three, four, n, n, n, n, nine, ten, n, twelve]);
        assert_eq!(prime_powers(72), [(2, 8), (3, 9)]);
        assert_eq!(prime_powers(1), []);
    }
}
