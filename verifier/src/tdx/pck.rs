//! The certificate of the key that certified the quoting enclave, and those above it: in the quote, or beside it.

use base64::prelude::*;
use x509_parser::pem::Pem;

use super::code::TdxCode;
use super::collateral::Collateral;
use super::quote::{PckData, Quote};
use crate::reason::Reason;
use crate::x509::Certificate;

/// What refusals of the certificate are about.
pub(super) const PCK: &str = "provisioning certificate";
/// Most certificates in the chain.
const MAX_CHAIN: usize = 4;

/// The certificate of the provisioning key with those above it.
pub(super) struct PckChain {
    pub(super) leaf: Certificate,
    pub(super) above: Vec<Certificate>,
    /// Whether all of it is in the quote.
    in_quote: bool,
}

impl PckChain {
    /// The quote's own chain; nothing beside it may stand in for that. Where it has none, the collateral's: nothing is
    /// trusted for coming from there, for the leaf must lead to an anchor and must have signed the quoting enclave's report.
    ///
    /// # Errors
    /// What is missing or cannot be read.
    pub(super) fn of(quote: &Quote<'_>, collateral: Option<&Collateral>) -> Result<Self, Vec<Reason>> {
        let beside = collateral.and_then(Collateral::pck_chain);
        let (certificates, in_quote) = match (quote.pck(), beside) {
            (PckData::Chain(pem), _) => (read_chain(pem)?, true),
            (PckData::Leaf(leaf), beside) => {
                let leaf = read_leaf(leaf)?;
                let mut certificates = vec![leaf.clone()];
                // The authority that revokes provisioning certificates is the one that issues them.
                if let Some(above) = beside.or(collateral.map(Collateral::pck_issuer_chain)) {
                    let above = read_chain(above.as_bytes())?;
                    certificates.extend(above.into_iter().filter(|certificate| *certificate != leaf));
                }
                (certificates, false)
            }
            (PckData::Id, Some(pem)) => (read_chain(pem.as_bytes())?, false),
            (PckData::Id, None) => {
                let expected = "a certificate of the platform's provisioning key, in the quote or in its collateral";
                let found = "the platform's id alone";
                return Err(vec![Reason::new(TdxCode::PckMissing, PCK, expected, found)]);
            }
        };
        let mut certificates = certificates.into_iter();
        let leaf = certificates.next();
        Ok(Self {
            leaf: leaf.ok_or_else(|| malformed("a chain of certificates", "none"))?,
            above: certificates.collect(),
            in_quote,
        })
    }

    /// All of it, PEM, where it is not the quote's own.
    pub(super) fn supplied(&self) -> Option<String> {
        let certificates = std::iter::once(&self.leaf).chain(&self.above);
        (!self.in_quote).then(|| certificates.map(|certificate| to_pem(certificate.as_der())).collect())
    }
}

pub(super) fn malformed(expected: &str, found: impl AsRef<str>) -> Vec<Reason> {
    vec![Reason::new(TdxCode::PckMalformed, PCK, expected, found)]
}

/// The certificates of a PEM chain, leaf first; some quoting enclaves end it with a NUL.
fn read_chain(pem: &[u8]) -> Result<Vec<Certificate>, Vec<Reason>> {
    let pem = pem.strip_suffix(&[0]).unwrap_or(pem);
    let mut certificates = Vec::new();
    for block in Pem::iter_from_buffer(pem) {
        let block = block.map_err(|error| malformed("certificates in PEM", error.to_string()))?;
        if block.label != "CERTIFICATE" || certificates.len() == MAX_CHAIN {
            return Err(malformed("at most 4 certificates in PEM", block.label));
        }
        certificates.push(read(&block.contents)?);
    }
    Ok(certificates)
}

fn read(der: &[u8]) -> Result<Certificate, Vec<Reason>> {
    Certificate::from_der(der).map_err(|error| {
        let (expected, found) = error.details();
        vec![Reason::new(error.code(), PCK, expected, found)]
    })
}

/// A certificate alone, PEM or DER.
fn read_leaf(bytes: &[u8]) -> Result<Certificate, Vec<Reason>> {
    const SEQUENCE: u8 = 0x30;
    if bytes.first() == Some(&SEQUENCE) {
        return read(bytes);
    }
    match <[Certificate; 1]>::try_from(read_chain(bytes)?) {
        Ok([certificate]) => Ok(certificate),
        Err(read) => Err(malformed("one certificate", format!("{} of them", read.len()))),
    }
}

/// RFC 7468, section 5.1: what the library that evaluates the platform reads.
fn to_pem(der: &[u8]) -> String {
    const LINE: usize = 64;
    let text = BASE64_STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while let Some((line, after)) = rest
        .split_at_checked(rest.len().min(LINE))
        .filter(|(line, _)| !line.is_empty())
    {
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem + "-----END CERTIFICATE-----\n"
}
