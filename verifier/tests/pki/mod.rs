//! A TPM maker: root, intermediate, endorsement certificates and revocation lists, made for a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::sync::OnceLock;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P256_SHA256, RevokedCertParams, SerialNumber, date_time_ymd,
};
use touchstone_verifier::x509::{Certificate, CertificateStore};

/// 2026-06-01T00:00:00Z.
pub const NOW: i64 = 1_780_272_000;
/// Serial number of every endorsement certificate made here.
pub const EK_SERIAL: u64 = 0x00A1_B2C3;
/// Serial number of the intermediate.
pub const INTERMEDIATE_SERIAL: u64 = 77;

pub fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params.use_authority_key_identifier_extension = true;
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn ca(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// One maker.
pub struct Maker {
    pub root: Certificate,
    pub intermediate: Certificate,
    root_issuer: Issuer<'static, KeyPair>,
    issuer: Issuer<'static, KeyPair>,
}

impl Maker {
    pub fn new() -> Self {
        Self::make(None)
    }

    /// A maker whose intermediate may issue only for these common names.
    pub fn constrained(names: &[&str]) -> Self {
        Self::make(Some(NameConstraints {
            permitted_subtrees: names.iter().map(|n| GeneralSubtree::DirectoryName(named(n))).collect(),
            excluded_subtrees: Vec::new(),
        }))
    }

    fn make(constraints: Option<NameConstraints>) -> Self {
        let (root_key, key) = (key(), key());
        let root_params = ca("Maker Root");
        let root = parsed(root_params.self_signed(&root_key).unwrap().der());
        let root_issuer = Issuer::new(root_params, root_key);
        let mut params = ca("Maker Intermediate");
        params.serial_number = Some(SerialNumber::from(INTERMEDIATE_SERIAL));
        params.name_constraints = constraints;
        let intermediate = parsed(params.signed_by(&key, &root_issuer).unwrap().der());
        Self {
            root,
            intermediate,
            root_issuer,
            issuer: Issuer::new(params, key),
        }
    }

    /// Root as anchor, intermediate as such.
    pub fn store(&self) -> CertificateStore {
        CertificateStore::new([(self.root.clone(), true), (self.intermediate.clone(), false)])
    }

    /// An endorsement certificate by the profile, as `bend` leaves it.
    pub fn ek(&self, bend: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        self.certify(bend, &key())
    }

    /// The same for a key of the caller's.
    pub fn certify(&self, bend: impl FnOnce(&mut CertificateParams), key: &impl rcgen::PublicKeyData) -> Vec<u8> {
        let mut params = params("Device");
        params.is_ca = IsCa::ExplicitNoCa;
        params.serial_number = Some(SerialNumber::from(EK_SERIAL));
        params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        params.custom_extensions = vec![tpm_name(true, true)];
        bend(&mut params);
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }

    /// A revocation list of the intermediate (or the root) over `serials`, from 2026-01-01 to the end of `until`.
    pub fn crl(
        &self,
        of_root: bool,
        serials: &[u64],
        bend: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> Vec<u8> {
        let mut params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2026, 12, 31),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(|serial| revoked(*serial)).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        bend(&mut params);
        let issuer = if of_root { &self.root_issuer } else { &self.issuer };
        params.signed_by(issuer).unwrap().der().to_vec()
    }
}

fn revoked(serial: u64) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: date_time_ymd(2026, 2, 1),
        reason_code: None,
        invalidity_date: None,
    }
}

pub fn parsed(der: &[u8]) -> Certificate {
    Certificate::from_der(der).unwrap()
}

/// An endorsement certificate that is the same throughout a test run.
pub fn sample() -> &'static [u8] {
    static SAMPLE: OnceLock<Vec<u8>> = OnceLock::new();
    SAMPLE.get_or_init(|| Maker::new().ek(|_| {}))
}

pub fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        len @ 0..0x80 => out.push(len as u8),
        len @ 0x80..0x100 => out.extend([0x81, len as u8]),
        len => out.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    out.extend(content);
    out
}

pub fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let first = arcs[0] * 40 + arcs[1];
    for arc in std::iter::once(&first).chain(&arcs[2..]) {
        let mut digits = vec![(arc & 0x7F) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            digits.insert(0, (rest & 0x7F) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.extend(digits);
    }
    tlv(0x06, &[&bytes])
}

/// subjectAltName with one directoryName: attribute type, string tag and bytes; several RDNs or one.
pub fn san(attributes: &[(&[u64], u8, &[u8])], critical: bool, several: bool) -> CustomExtension {
    let pairs = attributes
        .iter()
        .map(|(kind, tag, text)| tlv(0x30, &[&oid(kind), &tlv(*tag, &[text])]));
    let rdns: Vec<u8> = if several {
        pairs.flat_map(|pair| tlv(0x31, &[&pair])).collect()
    } else {
        tlv(0x31, &[&pairs.flatten().collect::<Vec<u8>>()])
    };
    let names = tlv(0x30, &[&tlv(0xA4, &[&tlv(0x30, &[&rdns])])]);
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], names);
    extension.set_criticality(critical);
    extension
}

/// A TPM's name of Intel.
pub fn tpm_name(critical: bool, several: bool) -> CustomExtension {
    let all: [(&[u64], u8, &[u8]); 3] = [
        (&[2, 23, 133, 2, 1], 0x0C, b"id:494E5443"),
        (&[2, 23, 133, 2, 2], 0x0C, b"Model"),
        (&[2, 23, 133, 2, 3], 0x0C, b"id:0007003E"),
    ];
    san(&all, critical, several)
}

/// A TPM's name with this manufacturer, and perhaps another one.
pub fn san_of(first: &[u8], second: Option<&[u8]>) -> CustomExtension {
    let mut all: Vec<(&[u64], u8, &[u8])> = vec![(&[2, 23, 133, 2, 1], 0x0C, first)];
    all.extend(second.map(|text| (&[2, 23, 133, 2, 1][..], 0x0C, text)));
    all.push((&[2, 23, 133, 2, 2], 0x0C, b"Model"));
    all.push((&[2, 23, 133, 2, 3], 0x0C, b"id:0007003E"));
    san(&all, true, true)
}

/// Google's description of an instance.
pub fn gce_extension() -> CustomExtension {
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 11129, 2, 1, 21], tlv(0x30, &[]))
}
