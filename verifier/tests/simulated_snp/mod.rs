//! A simulated AMD platform: an authority, signing keys and reports of its own making, for attacks that no genuine
//! report shows. Nothing trusts it but tests that list its root.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, and of a bench that uses a part"
)]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P384_SHA384,
    date_time_ymd,
};
use touchstone_verifier::x509::{Certificate, CertificateStore};

/// A time at which everything made here is valid, Unix seconds (2026-11-21).
pub const NOW: i64 = 1_795_219_200;
/// Security versions of the simulated platform, in Milan's layout.
pub const TCB: [u8; 8] = [4, 0, 0, 0, 0, 0, 24, 219];

/// What goes into the certificate of a signing key.
#[derive(Clone)]
pub struct VekShape {
    pub product: &'static str,
    /// Line in the issuer's name.
    pub issuer: &'static str,
    pub versions: Vec<(u64, u8)>,
    pub chip: Option<Vec<u8>>,
    pub provider: Option<&'static str>,
    /// Further extensions below AMD's arc: last number and raw value.
    pub extra: Vec<(u64, Vec<u8>)>,
    pub expires: i32,
}

impl Default for VekShape {
    fn default() -> Self {
        Self {
            product: "Milan-B0",
            issuer: "SEV-Milan",
            versions: vec![(1, 4), (2, 0), (3, 24), (4, 0), (5, 0), (6, 0), (7, 0), (8, 219)],
            chip: Some(vec![0xC1; 64]),
            provider: None,
            extra: Vec::new(),
            expires: 2033,
        }
    }
}

/// A platform: its root, and the key that signs its reports.
pub struct Platform {
    pub root: Vec<u8>,
    pub intermediate: Vec<u8>,
    pub vek: Vec<u8>,
    key: EcdsaKeyPair,
}

fn integer(value: u8) -> Vec<u8> {
    if value < 0x80 {
        vec![2, 1, value]
    } else {
        vec![2, 2, 0, value]
    }
}

fn ia5(text: &str) -> Vec<u8> {
    [&[0x16, text.len() as u8], text.as_bytes()].concat()
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2045, 1, 1);
    params
}

impl Platform {
    pub fn new(shape: &VekShape) -> Self {
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let (root_key, ask_key, vek_key) = (key(), key(), key());
        let root_params = authority("ARK-Milan");
        let root = root_params.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(root_params, root_key);
        let ask_params = authority(shape.issuer);
        let ask = ask_params.signed_by(&ask_key, &root_issuer).unwrap();
        let ask_issuer = Issuer::new(ask_params, ask_key);
        let mut params = CertificateParams::default();
        let name = if shape.provider.is_some() {
            "SEV-VLEK"
        } else {
            "SEV-VCEK"
        };
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2022, 1, 1);
        params.not_after = date_time_ymd(shape.expires, 1, 1);
        let arc = [1, 3, 6, 1, 4, 1, 3704, 1];
        let mut extension = |rest: &[u64], value: Vec<u8>| {
            let oid: Vec<u64> = arc.iter().chain(rest).copied().collect();
            params
                .custom_extensions
                .push(CustomExtension::from_oid_content(&oid, value));
        };
        extension(&[1], integer(0));
        extension(&[2], ia5(shape.product));
        for (index, version) in &shape.versions {
            extension(&[3, *index], integer(*version));
        }
        if let Some(chip) = &shape.chip {
            extension(&[4], chip.clone());
        }
        if let Some(provider) = shape.provider {
            extension(&[5], ia5(provider));
        }
        for (number, value) in &shape.extra {
            extension(&[*number], value.clone());
        }
        let vek = params.signed_by(&vek_key, &ask_issuer).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &vek_key.serialize_der()).unwrap();
        Self {
            root: root.der().to_vec(),
            intermediate: ask.der().to_vec(),
            vek: vek.der().to_vec(),
            key,
        }
    }

    /// A store that trusts this platform's root.
    pub fn store(&self) -> CertificateStore {
        CertificateStore::new([
            (Certificate::from_der(&self.root).unwrap(), true),
            (Certificate::from_der(&self.intermediate).unwrap(), false),
        ])
    }

    /// A good report of version 3, changed by `change` before it is signed.
    pub fn report(&self, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut bytes = vec![0; 0x4A0];
        bytes[0] = 3;
        bytes[0x008..0x010].copy_from_slice(&0x3_0000u64.to_le_bytes());
        bytes[0x034] = 1;
        bytes[0x040] = 0x25;
        bytes[0x050..0x090].fill(0xDA);
        bytes[0x090..0x0C0].fill(0x3E);
        bytes[0x188..0x18B].copy_from_slice(&[0x19, 0x01, 0x01]);
        bytes[0x1A0..0x1E0].fill(0xC1);
        for offset in [0x038, 0x180, 0x1E0, 0x1F0] {
            bytes[offset..offset + 8].copy_from_slice(&TCB);
        }
        change(&mut bytes);
        self.sign(&mut bytes);
        bytes
    }

    /// Signs a report in place.
    pub fn sign(&self, bytes: &mut [u8]) {
        let signature = self.key.sign(&SystemRandom::new(), &bytes[..0x2A0]).unwrap();
        let (r, s) = signature.as_ref().split_at(48);
        for (offset, scalar) in [(0x2A0, r), (0x2A0 + 72, s)] {
            bytes[offset..offset + 72].fill(0);
            for (to, from) in bytes[offset..].iter_mut().zip(scalar.iter().rev()) {
                *to = *from;
            }
        }
    }
}
