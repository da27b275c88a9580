//! A simulated GPU: an authority, a device and reports of its own making, for attacks that no genuine report shows.
//! Nothing trusts it but tests that list its root.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData, SerialNumber, date_time_ymd,
};
use touchstone_verifier::x509::{Certificate, CertificateStore};

/// A time at which everything made here is valid, Unix seconds (2026-11-21).
pub const NOW: i64 = 1_795_219_200;
/// The challenge in a good report.
pub const NONCE: [u8; 32] = [0xDA; 32];
/// Identity of the simulated firmware.
pub const FWID: [u8; 48] = [0xF1; 48];
/// Serial number of the device identity certificate.
pub const SERIAL: [u8; 9] = [0x41, 1, 2, 3, 4, 5, 6, 7, 8];

/// What goes into the certificates.
#[derive(Clone)]
pub struct Shape {
    /// Common name of the device identity.
    pub device: &'static str,
    pub device_is_ca: bool,
    pub leaf_usage: Vec<KeyUsagePurpose>,
    pub leaf_is_ca: bool,
    pub leaf_p256: bool,
    /// Firmware identity in the leaf, and how often the extension is there.
    pub fwid: [u8; 48],
    pub fwid_extensions: usize,
    /// Whether the extension repeats another key than the device identity's.
    pub other_device_key: bool,
    pub expires: i32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            device: "GH100 A01 GSP BROM",
            device_is_ca: true,
            leaf_usage: vec![KeyUsagePurpose::DigitalSignature],
            leaf_is_ca: false,
            leaf_p256: false,
            fwid: FWID,
            fwid_extensions: 1,
            other_device_key: false,
            expires: 4096,
        }
    }
}

/// A device: its root, its chain, and the key that signs its reports.
pub struct Device {
    pub root: Vec<u8>,
    pub intermediate: Vec<u8>,
    pub identity: Vec<u8>,
    pub leaf: Vec<u8>,
    key: Option<EcdsaKeyPair>,
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(4096, 1, 1);
    params
}

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        len @ 0..0x80 => out.push(len as u8),
        len => out.extend([0x81, len as u8]),
    }
    out.extend(content);
    out
}

fn firmware_identity(key: &[u8], fwid: &[u8; 48]) -> Vec<u8> {
    let sha384 = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];
    let identity = element(0x30, &[&element(6, &[&sha384]), &element(4, &[fwid])]);
    element(0x30, &[&[2, 1, 1], key, &identity])
}

impl Device {
    pub fn new(shape: &Shape) -> Self {
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let (root_key, ica_key, device_key) = (key(), key(), key());
        let leaf_key = match shape.leaf_p256 {
            true => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            false => key(),
        };
        let root_params = authority("Simulated Device Identity CA");
        let root = root_params.self_signed(&root_key).unwrap();
        let root = (root.der().to_vec(), Issuer::new(root_params, root_key));
        let ica_params = authority("Simulated GH100 Provisioner ICA 1");
        let ica = ica_params.signed_by(&ica_key, &root.1).unwrap();
        let ica = (ica.der().to_vec(), Issuer::new(ica_params, ica_key));
        let mut params = authority(shape.device);
        params.serial_number = Some(SerialNumber::from_slice(&SERIAL));
        if !shape.device_is_ca {
            params.is_ca = IsCa::NoCa;
        }
        let device_spki = match shape.other_device_key {
            true => key().subject_public_key_info(),
            false => device_key.subject_public_key_info(),
        };
        let identity = params.signed_by(&device_key, &ica.1).unwrap();
        let identity = (identity.der().to_vec(), Issuer::new(params, device_key));
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "GH100 A01 GSP FMC LF");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(shape.expires, 1, 1);
        params.key_usages = shape.leaf_usage.clone();
        if shape.leaf_is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        for arc in [&[2, 23, 133, 5, 4, 1][..], &[2, 23, 133, 5, 4, 1, 1]]
            .into_iter()
            .take(shape.fwid_extensions)
        {
            let value = firmware_identity(&device_spki, &shape.fwid);
            params
                .custom_extensions
                .push(CustomExtension::from_oid_content(arc, value));
        }
        let leaf = params.signed_by(&leaf_key, &identity.1).unwrap();
        Self {
            root: root.0,
            intermediate: ica.0,
            identity: identity.0,
            leaf: leaf.der().to_vec(),
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &leaf_key.serialize_der()).ok(),
        }
    }

    /// The chain as it comes with a report, root included.
    pub fn chain(&self) -> Vec<u8> {
        [&self.leaf, &self.identity, &self.intermediate, &self.root]
            .map(Vec::as_slice)
            .concat()
    }

    /// A store that trusts this device's root.
    pub fn store(&self) -> CertificateStore {
        CertificateStore::new([(Certificate::from_der(&self.root).unwrap(), true)])
    }

    /// A report with these parts, signed.
    pub fn report(&self, parts: &Parts) -> Vec<u8> {
        let mut bytes = parts.unsigned();
        match &self.key {
            Some(key) => bytes.extend(key.sign(&SystemRandom::new(), &bytes).unwrap().as_ref()),
            None => bytes.extend([1; 96]),
        }
        bytes
    }
}

/// What a report is made of.
#[derive(Clone)]
pub struct Parts {
    pub nonce: [u8; 32],
    pub blocks: Vec<(u8, [u8; 48])>,
    pub fields: Vec<(u16, Vec<u8>)>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            nonce: NONCE,
            blocks: (1..=64).map(|index| (index, [index; 48])).collect(),
            fields: vec![
                (6, vec![0, 0x9F, 0, 0x96, 1, 0, 0, 0]),
                (17, b"1010\0".to_vec()),
                (3, b"550.90.07\0".to_vec()),
                (12, vec![0; 256]),
                (11, vec![0xAA]),
                (20, FWID.to_vec()),
                (21, vec![0x55]),
            ],
        }
    }
}

impl Parts {
    /// Sets or adds a field.
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.fields.retain(|(known, _)| *known != kind);
        self.fields.push((kind, value.to_vec()));
        self
    }

    /// Takes a field out.
    pub fn without(mut self, kind: u16) -> Self {
        self.fields.retain(|(known, _)| *known != kind);
        self
    }

    /// Request and response without the signature.
    pub fn unsigned(&self) -> Vec<u8> {
        let mut bytes = vec![0x11, 0xE0, 1, 0xFF];
        bytes.extend(self.nonce);
        bytes.extend([0, 0x11, 0x60, 0, 0, self.blocks.len() as u8]);
        bytes.extend(&((self.blocks.len() * 55) as u32).to_le_bytes()[..3]);
        for (index, digest) in &self.blocks {
            bytes.extend([*index, 1, 51, 0, 1, 48, 0]);
            bytes.extend(digest);
        }
        bytes.extend([0x77; 32]);
        let len: usize = self.fields.iter().map(|(_, value)| 4 + value.len()).sum();
        bytes.extend((len as u16).to_le_bytes());
        for (kind, value) in &self.fields {
            bytes.extend(kind.to_le_bytes());
            bytes.extend((value.len() as u16).to_le_bytes());
            bytes.extend(value);
        }
        bytes
    }
}
