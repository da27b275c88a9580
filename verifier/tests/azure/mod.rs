//! Evidence of Azure's confidential VMs as others publish it (JSON, YAML), taken apart into the records of an envelope.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    reason = "helpers of tests, also of the command's: each uses its part"
)]

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;
use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::pcr_values::{self, PcrValues};
use touchstone_verifier::hcl::HclReport;
use touchstone_verifier::tpm::Attest;

/// TPM_ALG_SHA256.
const SHA256: u16 = 0x000B;

/// The parts of one machine's evidence.
#[derive(Clone, Default)]
pub struct Parts {
    pub hcl: Vec<u8>,
    pub td_quote: Option<Vec<u8>>,
    /// DER certificates of the SEV-SNP signing key, leaf first.
    pub certificates: Vec<Vec<u8>>,
    pub quote: Vec<u8>,
    /// The raw RSASSA signature.
    pub signature: Vec<u8>,
    /// SHA-256 values of registers 0 to 23.
    pub registers: Vec<Vec<u8>>,
    pub ak_certificate: Option<Vec<u8>>,
    pub ak_chain: Vec<Vec<u8>>,
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Base64 of either alphabet, with or without padding and line breaks.
fn base64(text: &str) -> Vec<u8> {
    let text: String = text.chars().filter(|c| !c.is_whitespace() && *c != '=').collect();
    URL_SAFE_NO_PAD
        .decode(&text)
        .or_else(|_| STANDARD_NO_PAD.decode(&text))
        .unwrap()
}

/// Hexadecimal, base64, or a list of numbers.
fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Array(numbers) => numbers.iter().map(|n| n.as_u64().unwrap() as u8).collect(),
        Value::String(text) => hex::decode(text).unwrap_or_else(|_| base64(text)),
        other => panic!("{other}"),
    }
}

fn certificate(value: &Value) -> Vec<u8> {
    match value.as_str().unwrap() {
        text if text.starts_with("-----") => pem::parse(text).unwrap().contents().to_vec(),
        text => base64(text),
    }
}

impl Parts {
    /// One of the JSON forms of confidential-containers and its relatives.
    pub fn from_json(path: &Path) -> Self {
        let mut json: Value = serde_json::from_str(&read(path)).unwrap();
        if json.get("evidence").is_some() {
            json = json["evidence"].take();
        }
        let quote = json.get("tpm_quote").unwrap_or_else(|| &json["quote"]);
        let hcl = json.get("hcl_report").unwrap_or_else(|| &json["report"]);
        Self {
            hcl: bytes(hcl),
            td_quote: json.get("td_quote").map(bytes),
            certificates: json.get("vcek").map(certificate).into_iter().collect(),
            quote: bytes(&quote["message"]),
            signature: bytes(&quote["signature"]),
            registers: quote["pcrs"].as_array().unwrap().iter().map(bytes).collect(),
            ..Self::default()
        }
    }

    /// The YAML form of attested-tls: text blocks and lists of numbers, read by their indentation.
    pub fn from_yaml(path: &Path) -> Self {
        let text = read(path);
        let lines: Vec<&str> = text.lines().collect();
        let at = |key: &str, from: usize| {
            from + lines[from..]
                .iter()
                .position(|line| line.trim().starts_with(key))
                .unwrap()
        };
        let indent = |line: &str| line.len() - line.trim_start().len();
        let block = |start: usize| -> String {
            let depth = indent(lines[start]);
            // A list may stand as far left as its key.
            let inside = |line: &&&str| {
                line.trim().is_empty()
                    || indent(line) > depth
                    || (indent(line) == depth && line.trim().starts_with("- "))
            };
            lines[start + 1..]
                .iter()
                .take_while(inside)
                .map(|line| format!("{}\n", line.trim().trim_start_matches("- |")))
                .collect()
        };
        let numbers = |start: usize| -> Vec<u8> {
            let depth = indent(lines[start]);
            lines[start + 1..]
                .iter()
                .take_while(|line| {
                    indent(line) >= depth && line.trim().starts_with("- ") && !line.trim().starts_with("- - ")
                })
                .map(|line| line.trim().trim_start_matches("- ").parse().unwrap())
                .collect()
        };
        let quote = at("quote:", 0);
        let pcrs = at("pcrs:", quote);
        let mut registers: Vec<Vec<u8>> = Vec::new();
        for line in &lines[pcrs + 1..] {
            match line.trim() {
                number if number.starts_with("- - ") => registers.push(vec![number[4..].parse().unwrap()]),
                number if number.starts_with("- ") => registers.last_mut().unwrap().push(number[2..].parse().unwrap()),
                _ => break,
            }
        }
        let pems = |text: &str| -> Vec<Vec<u8>> {
            pem::parse_many(text)
                .unwrap()
                .iter()
                .map(|pem| pem.contents().to_vec())
                .collect()
        };
        Self {
            hcl: base64(&block(at("hcl_report_base64:", 0))),
            td_quote: Some(base64(&block(at("tdx_quote_base64:", 0)))),
            quote: numbers(at("message:", quote)),
            signature: numbers(at("signature:", quote)),
            registers,
            ak_certificate: pems(&block(at("ak_certificate_pem:", 0))).pop(),
            ak_chain: pems(&block(at("ak_intermediate_certificates_pem:", 0))),
            ..Self::default()
        }
    }

    /// The nonce that the virtual TPM's quote carries.
    pub fn nonce(&self) -> Vec<u8> {
        Attest::parse(&self.quote).unwrap().extra_data.to_vec()
    }

    /// TPMT_SIGNATURE: RSASSA with SHA-256.
    pub fn tpm_signature(&self) -> Vec<u8> {
        let mut signature = vec![0, 0x14, 0, 0x0B];
        signature.extend((self.signature.len() as u16).to_be_bytes());
        signature.extend(&self.signature);
        signature
    }

    /// The attestation key that the run-time data name, as PEM.
    pub fn ak_pem(&self) -> Vec<u8> {
        let key = HclReport::parse(&self.hcl).unwrap().attestation_key().to_spki_der();
        pem::encode(&pem::Pem::new("PUBLIC KEY", key)).into_bytes()
    }

    /// An envelope of packed evidence, with this collateral for a TD quote.
    pub fn pack(&self, collateral: Option<Vec<u8>>) -> Collection {
        let mut collection = Collection::unbound();
        let values: PcrValues = (0u8..)
            .zip(&self.registers)
            .map(|(register, value)| ((SHA256, register), value.clone()))
            .collect();
        let mut records = vec![
            (Label::AzureHclReport, self.hcl.clone()),
            (Label::TpmQuote, self.quote.clone()),
            (Label::TpmQuoteSignature, self.tpm_signature()),
            (Label::TpmAkPem, self.ak_pem()),
            (Label::TpmPcrValues, pcr_values::encode(&values)),
        ];
        records.extend(self.td_quote.clone().map(|quote| (Label::TdxQuote, quote)));
        records.extend(collateral.map(|collateral| (Label::TdxCollateral, collateral)));
        records.extend(self.ak_certificate.clone().map(|der| (Label::TpmIakCertificate, der)));
        if !self.ak_chain.is_empty() {
            records.push((Label::TpmEkChain, self.ak_chain.concat()));
        }
        if !self.certificates.is_empty() {
            records.push((Label::SnpCertificates, self.certificates.concat()));
        }
        for (label, bytes) in records {
            collection.insert(label, bytes).unwrap();
        }
        collection
    }
}
