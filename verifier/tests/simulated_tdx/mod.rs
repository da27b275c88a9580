//! A simulated Intel platform: an authority, a provisioning key, a quoting enclave, quotes and collateral of its own
//! making, for attacks that no genuine quote shows. Nothing trusts it but tests that list its root.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams, SerialNumber, date_time_ymd,
};
use serde_json::json;
use touchstone_verifier::x509::{Certificate, CertificateStore};

/// A time at which everything made here is valid, Unix seconds (2026-11-21).
pub const NOW: i64 = 1_795_219_200;
/// Report data of the quotes.
pub const DATA: [u8; 64] = [0xDA; 64];
pub const PPID: [u8; 16] = [0x99; 16];
/// Id of the platform of several processors.
pub const INSTANCE: [u8; 16] = [0x77; 16];
pub const FMSPC: &str = "00806f050000";
const SIGNER: [u8; 32] = [0x51; 32];

/// What the collateral says.
#[derive(Clone)]
pub struct CollateralShape {
    pub fmspc: &'static str,
    /// Of the platform's level, the TDX module's and the quoting enclave's.
    pub status: &'static str,
    pub module_status: &'static str,
    pub enclave_status: &'static str,
    pub advisories: &'static [&'static str],
    /// Security version of every SGX component of the one level.
    pub least: u8,
    pub number: u32,
    pub next_update: &'static str,
    /// Whether the provisioning certificate is on the revocation list.
    pub pck_revoked: bool,
    pub crl_ends: i32,
    pub enclave_signer: [u8; 32],
}

impl Default for CollateralShape {
    fn default() -> Self {
        Self {
            fmspc: FMSPC,
            status: "UpToDate",
            module_status: "UpToDate",
            enclave_status: "UpToDate",
            advisories: &[],
            least: 3,
            number: 20,
            next_update: "2026-12-20T00:00:00Z",
            pck_revoked: false,
            crl_ends: 2027,
            enclave_signer: SIGNER,
        }
    }
}

/// A platform: its authorities and the keys that sign.
pub struct Platform {
    pub root: Vec<u8>,
    root_issuer: Issuer<'static, KeyPair>,
    pub ca: Vec<u8>,
    ca_issuer: Issuer<'static, KeyPair>,
    pck: Vec<u8>,
    pck_key: EcdsaKeyPair,
    tcb_signing: Vec<u8>,
    tcb_key: EcdsaKeyPair,
    attestation_key: EcdsaKeyPair,
}

fn element(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let content = contents.concat();
    let len = content.len();
    let head = match len {
        0..0x80 => vec![tag, len as u8],
        0x80..0x100 => vec![tag, 0x81, len as u8],
        _ => vec![tag, 0x82, (len >> 8) as u8, len as u8],
    };
    [head, content].concat()
}

/// SEQUENCE of the object identifier 1.2.840.113741.1.13.1.`arc` and a value.
fn intel(arc: &[u8], value: &[u8]) -> Vec<u8> {
    const BASE: [u8; 9] = [0x2A, 0x86, 0x48, 0x86, 0xF8, 0x4D, 0x01, 0x0D, 0x01];
    element(0x30, &[&element(0x06, &[&BASE, arc]), value])
}

fn extension() -> Vec<u8> {
    let octets = |bytes: &[u8]| element(0x04, &[bytes]);
    let integer = |number: u8| vec![2, 1, number];
    let mut tcb: Vec<Vec<u8>> = (1..=16).map(|component| intel(&[2, component], &integer(5))).collect();
    tcb.push(intel(&[2, 17], &integer(11)));
    tcb.push(intel(&[2, 18], &octets(&[5; 16])));
    let tcb: Vec<&[u8]> = tcb.iter().map(Vec::as_slice).collect();
    let fmspc = hex::decode(FMSPC).unwrap();
    let members = [
        intel(&[1], &octets(&PPID)),
        intel(&[2], &element(0x30, &tcb)),
        intel(&[3], &octets(&[0, 0])),
        intel(&[4], &octets(&fmspc)),
        intel(&[5], &[0x0A, 1, 1]),
        intel(&[6], &octets(&INSTANCE)),
    ];
    let members: Vec<&[u8]> = members.iter().map(Vec::as_slice).collect();
    element(0x30, &members)
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2045, 1, 1);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn end_entity(name: &str, serial: u64) -> CertificateParams {
    let mut params = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(SerialNumber::from(serial));
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn signing(key: &KeyPair) -> EcdsaKeyPair {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der()).unwrap()
}

fn sign(key: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
}

fn pem_of(certificates: &[&[u8]]) -> String {
    certificates
        .iter()
        .map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", *der)).replace('\r', ""))
        .collect()
}

const PCK_SERIAL: u64 = 0x77;

/// A quote of version 5 with a TDX 1.5 body, its chain exchanged for the platform's id (certification data of type 3), and
/// that chain.
pub fn without_chain(quote: &[u8]) -> (Vec<u8>, String) {
    let body = 54 + 648;
    let sizes = body + 4 + 64 + 64 + 2;
    let inner = sizes + 4 + 384 + 64 + 2 + 32;
    let chain = String::from_utf8(quote[inner + 6..].to_vec()).unwrap();
    let mut changed = quote[..inner].to_vec();
    changed.extend(3u16.to_le_bytes());
    changed.extend(404u32.to_le_bytes());
    changed.extend([7; 404]);
    let (certification, all) = ((changed.len() - sizes - 4) as u32, (changed.len() - body - 4) as u32);
    changed[sizes..sizes + 4].copy_from_slice(&certification.to_le_bytes());
    changed[body..body + 4].copy_from_slice(&all.to_le_bytes());
    (changed, chain)
}

impl Platform {
    pub fn new() -> Self {
        let root_key = new_key();
        let root_params = authority("Simulated SGX Root CA");
        let root = root_params.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(root_params, root_key);
        let ca_key = new_key();
        let ca_params = authority("Simulated SGX PCK Platform CA");
        let ca = ca_params.signed_by(&ca_key, &root_issuer).unwrap();
        let ca_issuer = Issuer::new(ca_params, ca_key);
        let pck_key = new_key();
        let mut params = end_entity("Simulated SGX PCK Certificate", PCK_SERIAL);
        let oid = [1, 2, 840, 113_741, 1, 13, 1];
        params
            .custom_extensions
            .push(CustomExtension::from_oid_content(&oid, extension()));
        let pck = params.signed_by(&pck_key, &ca_issuer).unwrap();
        let tcb_key = new_key();
        let tcb_signing = end_entity("Simulated SGX TCB Signing", 0x88)
            .signed_by(&tcb_key, &root_issuer)
            .unwrap();
        Self {
            root: root.der().to_vec(),
            ca: ca.der().to_vec(),
            pck: pck.der().to_vec(),
            tcb_signing: tcb_signing.der().to_vec(),
            pck_key: signing(&pck_key),
            tcb_key: signing(&tcb_key),
            attestation_key: signing(&new_key()),
            root_issuer,
            ca_issuer,
        }
    }

    /// A store that trusts this platform's root.
    pub fn store(&self) -> CertificateStore {
        CertificateStore::new([(Certificate::from_der(&self.root).unwrap(), true)])
    }

    /// A good body, changed by `change`, in a quote of version 4 or, for a longer body, 5.
    pub fn quote(&self, kind: u16, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let len = match kind {
            2 => 584,
            3 => 648,
            _ => 885,
        };
        let mut body = vec![0; len];
        body[0..3].copy_from_slice(&[5, 1, 5]);
        body[16..64].fill(0x5E);
        body[120..128].copy_from_slice(&(1u64 << 28).to_le_bytes());
        body[128..136].copy_from_slice(&0x6_02E7u64.to_le_bytes());
        body[136..184].fill(0x3D);
        for (rtmr, offset) in (328..520).step_by(48).enumerate() {
            body[offset..offset + 48].fill(rtmr as u8 + 1);
        }
        body[520..584].copy_from_slice(&DATA);
        if len > 584 {
            body[584..587].copy_from_slice(&[5, 1, 5]);
        }
        change(&mut body);
        self.quote_of(kind, &body)
    }

    /// A quote over this body.
    pub fn quote_of(&self, kind: u16, body: &[u8]) -> Vec<u8> {
        let version = if kind == 2 { 4u16 } else { 5 };
        let mut quote = Vec::new();
        quote.extend(version.to_le_bytes());
        quote.extend(2u16.to_le_bytes());
        quote.extend(0x81u32.to_le_bytes());
        quote.extend([0; 4]);
        quote.extend(hex::decode("939a7233f79c4ca9940a0db3957f0607").unwrap());
        quote.extend([0; 20]);
        if version == 5 {
            quote.extend(kind.to_le_bytes());
            quote.extend((body.len() as u32).to_le_bytes());
        }
        quote.extend(body);
        let authentication = self.authentication(&quote);
        quote.extend((authentication.len() as u32).to_le_bytes());
        quote.extend(authentication);
        quote
    }

    fn authentication(&self, signed: &[u8]) -> Vec<u8> {
        let point = &self.attestation_key.public_key().as_ref()[1..];
        let authentication_data = [0xA0; 32];
        let mut enclave = vec![0; 384];
        enclave[48] = 0x15;
        enclave[56] = 0xE7;
        enclave[128..160].copy_from_slice(&SIGNER);
        enclave[256..258].copy_from_slice(&2u16.to_le_bytes());
        enclave[258..260].copy_from_slice(&4u16.to_le_bytes());
        let bound = digest(&SHA256, &[point, &authentication_data].concat());
        enclave[320..352].copy_from_slice(bound.as_ref());
        let chain = pem_of(&[&self.pck, &self.ca, &self.root]);
        let mut certification = enclave.clone();
        certification.extend(sign(&self.pck_key, &enclave));
        certification.extend(32u16.to_le_bytes());
        certification.extend(authentication_data);
        certification.extend(5u16.to_le_bytes());
        certification.extend((chain.len() as u32).to_le_bytes());
        certification.extend(chain.as_bytes());
        let mut authentication = sign(&self.attestation_key, signed);
        authentication.extend(point);
        authentication.extend(6u16.to_le_bytes());
        authentication.extend((certification.len() as u32).to_le_bytes());
        authentication.extend(certification);
        authentication
    }

    fn crl(issuer: &Issuer<'static, KeyPair>, revoked: bool, ends: i32) -> String {
        let revoked = revoked.then(|| RevokedCertParams {
            serial_number: SerialNumber::from(PCK_SERIAL),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(ends, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.into_iter().collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        hex::encode(params.signed_by(issuer).unwrap().der())
    }

    /// Collateral with the revocation list of the root's other authority of provisioning keys, in force and genuine.
    pub fn collateral_of_another_authority(&self, shape: &CollateralShape) -> Vec<u8> {
        let (key, params) = (new_key(), authority("Simulated SGX PCK Processor CA"));
        let other = params.signed_by(&key, &self.root_issuer).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&self.collateral(shape)).unwrap();
        json["pck_crl_issuer_chain"] = pem_of(&[other.der(), &self.root]).into();
        json["pck_crl"] = Self::crl(&Issuer::new(params, key), false, shape.crl_ends).into();
        json.to_string().into_bytes()
    }

    /// Collateral for this platform.
    pub fn collateral(&self, shape: &CollateralShape) -> Vec<u8> {
        let components = |svn: u8| -> Vec<_> { (0..16).map(|_| json!({ "svn": svn })).collect() };
        let issued = "2026-11-01T00:00:00Z";
        let level_date = "2026-01-01T00:00:00Z";
        let zeros = "0".repeat(96);
        let module = |attributes: &str| json!({ "mrsigner": zeros, "attributes": attributes, "attributesMask": "FFFFFFFFFFFFFFFF" });
        let mut identity = module("0000000000000000");
        identity["id"] = "TDX_01".into();
        identity["tcbLevels"] =
            json!([{ "tcb": { "isvsvn": 5 }, "tcbDate": level_date, "tcbStatus": shape.module_status }]);
        let tcb_info = json!({
            "id": "TDX", "version": 3, "issueDate": issued, "nextUpdate": shape.next_update, "fmspc": shape.fmspc,
            "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": shape.number,
            "tdxModule": module("0000000000000000"),
            "tdxModuleIdentities": [identity],
            "tcbLevels": [{
                "tcb": { "sgxtcbcomponents": components(shape.least), "pcesvn": 11, "tdxtcbcomponents": components(0) },
                "tcbDate": level_date, "tcbStatus": shape.status, "advisoryIDs": shape.advisories,
            }],
        })
        .to_string();
        let qe_identity = json!({
            "id": "TD_QE", "version": 2, "issueDate": issued, "nextUpdate": shape.next_update,
            "tcbEvaluationDataNumber": shape.number, "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000", "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": hex::encode_upper(shape.enclave_signer), "isvprodid": 2,
            "tcbLevels": [{ "tcb": { "isvsvn": 4 }, "tcbDate": level_date, "tcbStatus": shape.enclave_status }],
        })
        .to_string();
        let signer = pem_of(&[&self.tcb_signing, &self.root]);
        json!({
            "pck_crl_issuer_chain": pem_of(&[&self.ca, &self.root]),
            "root_ca_crl": Self::crl(&self.root_issuer, false, shape.crl_ends),
            "pck_crl": Self::crl(&self.ca_issuer, shape.pck_revoked, shape.crl_ends),
            "tcb_info_issuer_chain": signer,
            "tcb_info_signature": hex::encode(sign(&self.tcb_key, tcb_info.as_bytes())),
            "tcb_info": tcb_info,
            "qe_identity_issuer_chain": signer,
            "qe_identity_signature": hex::encode(sign(&self.tcb_key, qe_identity.as_bytes())),
            "qe_identity": qe_identity,
        })
        .to_string()
        .into_bytes()
    }
}
