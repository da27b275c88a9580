//! What Intel says of a kind of platform, as it came with the evidence: lists of security versions (TCB info), the
//! identity of the quoting enclave, revocation lists, and the certificates that signed them.
//!
//! The file is JSON of text members: `pck_crl_issuer_chain`, `tcb_info_issuer_chain` and `qe_identity_issuer_chain` in
//! PEM, `root_ca_crl` and `pck_crl` in DER as hexadecimal, `tcb_info` and `qe_identity` as the exact text that was signed,
//! `tcb_info_signature` and `qe_identity_signature` in hexadecimal (the layout of DCAP's `sgx_ql_qve_collateral_t`). Lists
//! may also be base64 or, as Intel answers by default, PEM; chains may be percent-encoded, as they stand in the headers of
//! its answers (PCS API 4, `SGX-PCK-CRL-Issuer-Chain` and the like).
//! Instead of text and signature apart, `tcb_info` and `qe_identity` may hold Intel's whole answer as it was received
//! (`{"tcbInfo":…,"signature":"…"}`), as text or as the JSON it is. `pck_certificate_chain` (PEM, leaf first) is read where
//! the quote has no certificate of its own.
//!
//! What is read of it here is only for refusals with words of their own; the signatures are checked in
//! [`super::Evaluation::evaluate`].

use base64::prelude::*;
use dcap_qvl::QuoteCollateralV3;
use serde::Deserialize;

use super::json_text;
use super::time::unix_seconds;
use crate::x509::Crl;

/// Longest collateral, in bytes. Lists of revoked platforms grow.
pub const MAX_COLLATERAL: usize = 1 << 20;

/// Why bytes are not collateral.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollateralError {
    /// Over the limit.
    #[error("expected at most 1 MiB, found {found} bytes")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// Not the JSON it should be.
    #[error("expected collateral in JSON: {found}")]
    Json {
        /// What is wrong.
        found: String,
    },
    /// A member that cannot be read.
    #[error("{member}: expected {expected}")]
    Member {
        /// Which.
        member: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

#[derive(Deserialize)]
struct File {
    pck_crl_issuer_chain: String,
    root_ca_crl: String,
    pck_crl: String,
    tcb_info_issuer_chain: String,
    tcb_info: Signed,
    #[serde(default)]
    tcb_info_signature: String,
    qe_identity_issuer_chain: String,
    qe_identity: Signed,
    #[serde(default)]
    qe_identity_signature: String,
    #[serde(default)]
    pck_certificate_chain: Option<String>,
}

/// What Intel signed: text, or JSON whose text is taken out of the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Signed {
    Text(String),
    Object(Members),
}

/// An object of which only the text matters.
#[derive(Deserialize)]
struct Members {}

#[derive(Deserialize)]
struct Dated {
    #[serde(rename = "issueDate")]
    issued: String,
    #[serde(rename = "nextUpdate")]
    next_update: String,
    fmspc: Option<String>,
}

/// A part of the collateral with its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which: `TCB info`, `quoting enclave identity`, `root revocation list`, `platform revocation list`.
    pub name: &'static str,
    /// When it was issued, Unix seconds.
    pub issued: i64,
    /// Last second at which it holds, Unix seconds.
    pub next_update: i64,
}

/// Collateral that is well formed.
#[derive(Debug, Clone)]
pub struct Collateral {
    pub(super) inner: QuoteCollateralV3,
    parts: [Part; 4],
    revocation_issuer: String,
    fmspc: [u8; 6],
    pck_chain: Option<String>,
}

impl Collateral {
    /// Reads collateral.
    ///
    /// # Errors
    /// [`CollateralError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CollateralError> {
        if bytes.len() > MAX_COLLATERAL {
            return Err(CollateralError::TooLong { found: bytes.len() });
        }
        let file: File = serde_json::from_slice(bytes).map_err(|error| CollateralError::Json {
            found: error.to_string(),
        })?;
        let tcb_info = text_of(bytes, "tcb_info", file.tcb_info)?;
        let (tcb_info, tcb_info_signature) =
            text_and_signature("tcb_info", "tcbInfo", tcb_info, &file.tcb_info_signature)?;
        let qe_identity = text_of(bytes, "qe_identity", file.qe_identity)?;
        let (qe_identity, qe_identity_signature) = text_and_signature(
            "qe_identity",
            "enclaveIdentity",
            qe_identity,
            &file.qe_identity_signature,
        )?;
        let tcb = dated("tcb_info", &tcb_info)?;
        let enclave = dated("qe_identity", &qe_identity)?;
        let fmspc = tcb.fmspc.as_deref().and_then(|text| {
            let mut fmspc = [0; 6];
            hex::decode_to_slice(text, &mut fmspc).ok().map(|()| fmspc)
        });
        let fmspc = fmspc.ok_or(CollateralError::Member {
            member: "tcb_info",
            expected: "an FMSPC of 6 bytes",
        })?;
        let (root_ca_crl, roots_list) = revocation_list("root_ca_crl", &file.root_ca_crl)?;
        let (pck_crl, platforms_list) = revocation_list("pck_crl", &file.pck_crl)?;
        let parts = [
            part("TCB info", "tcb_info", &tcb)?,
            part("quoting enclave identity", "qe_identity", &enclave)?,
            list_part("root revocation list", &roots_list),
            list_part("platform revocation list", &platforms_list),
        ];
        Ok(Self {
            inner: QuoteCollateralV3 {
                pck_crl_issuer_chain: chain("pck_crl_issuer_chain", file.pck_crl_issuer_chain)?,
                root_ca_crl,
                pck_crl,
                tcb_info_issuer_chain: chain("tcb_info_issuer_chain", file.tcb_info_issuer_chain)?,
                tcb_info,
                tcb_info_signature,
                qe_identity_issuer_chain: chain("qe_identity_issuer_chain", file.qe_identity_issuer_chain)?,
                qe_identity,
                qe_identity_signature,
                // The chain that counts is the quote's own: nothing beside it may stand in for it. Where the quote has
                // none, the chain that was verified is put here.
                pck_certificate_chain: None,
            },
            parts,
            revocation_issuer: platforms_list.issuer().to_owned(),
            fmspc,
            pck_chain: match file.pck_certificate_chain {
                Some(text) if !text.is_empty() => Some(chain("pck_certificate_chain", text)?),
                _ => None,
            },
        })
    }

    /// The chain of the provisioning key's certificate, PEM, leaf first, for a quote that has none.
    pub(super) fn pck_chain(&self) -> Option<&str> {
        self.pck_chain.as_deref()
    }

    /// The chain of the authority that issues and revokes provisioning certificates, PEM.
    pub(super) fn pck_issuer_chain(&self) -> &str {
        &self.inner.pck_crl_issuer_chain
    }

    /// The authority that issued the list of revoked provisioning certificates, by its name.
    pub(super) fn revocation_issuer(&self) -> &str {
        &self.revocation_issuer
    }

    /// Its dated parts.
    pub fn parts(&self) -> &[Part; 4] {
        &self.parts
    }

    /// The kind of platform it is for.
    pub fn fmspc(&self) -> [u8; 6] {
        self.fmspc
    }

    /// Last second at which every part holds, Unix seconds.
    pub fn next_update(&self) -> i64 {
        self.parts.iter().map(|part| part.next_update).min().unwrap_or(i64::MIN)
    }
}

/// What Intel signed, or its answer, as text. Of JSON the text without the spaces between its parts: that is what Intel
/// signs (Intel PCS API 4, "signature calculated over tcbInfo body (without whitespaces)"), and the file around it may have
/// been laid out anew.
fn text_of(file: &[u8], member: &'static str, signed: Signed) -> Result<String, CollateralError> {
    if let Signed::Text(text) = signed {
        return Ok(text);
    }
    let members = std::str::from_utf8(file).ok().and_then(json_text::members);
    let answer = members.into_iter().flatten().find(|(name, _)| name == member);
    answer
        .map(|(_, text)| json_text::compact(text))
        .ok_or(CollateralError::Member {
            member,
            expected: "text, or Intel's answer as it was received",
        })
}

/// Text and signature, given apart or as one answer of Intel's.
fn text_and_signature(
    member: &'static str,
    signed: &str,
    text: String,
    signature: &str,
) -> Result<(String, Vec<u8>), CollateralError> {
    let answer = json_text::members(&text).filter(|members| members.iter().any(|(name, _)| name == signed));
    let Some(answer) = answer else {
        let signature = hexadecimal(member, signature)?;
        return Ok((text, signature));
    };
    let wrong = CollateralError::Member {
        member,
        expected: "Intel's answer as it was received, and then no signature beside it",
    };
    let inner = answer.iter().find(|(name, _)| name == signed);
    let with = answer.iter().find(|(name, _)| name == "signature");
    match (inner, with) {
        // Two members, so neither is there twice.
        (Some((_, inner)), Some((_, with))) if answer.len() == 2 && signature.is_empty() => {
            let with: String = serde_json::from_str(with).map_err(|_| wrong)?;
            Ok(((*inner).to_owned(), hexadecimal(member, &with)?))
        }
        _ => Err(wrong),
    }
}

fn hexadecimal(member: &'static str, text: &str) -> Result<Vec<u8>, CollateralError> {
    hex::decode(text).map_err(|_| CollateralError::Member {
        member,
        expected: "hexadecimal",
    })
}

fn dated(member: &'static str, text: &str) -> Result<Dated, CollateralError> {
    serde_json::from_str(text).map_err(|_| CollateralError::Member {
        member,
        expected: "JSON with issueDate and nextUpdate",
    })
}

fn part(name: &'static str, member: &'static str, dated: &Dated) -> Result<Part, CollateralError> {
    match (unix_seconds(&dated.issued), unix_seconds(&dated.next_update)) {
        (Some(issued), Some(next_update)) => Ok(Part {
            name,
            issued,
            next_update,
        }),
        _ => Err(CollateralError::Member {
            member,
            expected: "dates like 2026-01-31T12:00:00Z",
        }),
    }
}

/// A revocation list in DER, out of hexadecimal, base64 or PEM.
fn revocation_list(member: &'static str, text: &str) -> Result<(Vec<u8>, Crl), CollateralError> {
    let text = text.trim();
    let pem = || {
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).ok()?;
        (pem.label == "X509 CRL").then_some(pem.contents)
    };
    let der = match text.starts_with("-----BEGIN") {
        true => pem(),
        false => hex::decode(text).or_else(|_| BASE64_STANDARD.decode(text)).ok(),
    };
    let der = der.ok_or(CollateralError::Member {
        member,
        expected: "a revocation list: DER as hexadecimal or base64, or PEM",
    })?;
    match Crl::from_der(&der) {
        Ok(list) => Ok((der, list)),
        Err(_) => Err(CollateralError::Member {
            member,
            expected: "a revocation list (DER)",
        }),
    }
}

fn list_part(name: &'static str, list: &Crl) -> Part {
    Part {
        name,
        issued: list.this_update(),
        next_update: list.next_update(),
    }
}

/// A chain in PEM, out of its percent-encoding where that is what came: PEM itself has no percent sign.
fn chain(member: &'static str, text: String) -> Result<String, CollateralError> {
    if !text.contains('%') {
        return Ok(text);
    }
    let wrong = CollateralError::Member {
        member,
        expected: "PEM, plain or percent-encoded",
    };
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digits = [rest.next().unwrap_or_default(), rest.next().unwrap_or_default()];
                let mut decoded = [0];
                hex::decode_to_slice(digits, &mut decoded).map_err(|_| wrong.clone())?;
                let [byte] = decoded;
                byte
            }
            plain => plain,
        };
        if !byte.is_ascii() {
            return Err(wrong);
        }
        decoded.push(char::from(byte));
    }
    Ok(decoded)
}
