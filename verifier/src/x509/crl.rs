//! Certificate revocation lists, as policy data: read once, verified once against the CAs of the domain, looked up at
//! every appraisal. Nothing is fetched.
//!
//! Only complete lists of one CA about its own certificates count. Delta, indirect and partial lists are refused by
//! name: a list that leaves certificates out would say "not revoked" about them.
//!
//! Source: RFC 5280 5 and 6.3.

use std::collections::BTreeMap;

use thiserror::Error;
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::extensions::{AuthorityKeyIdentifier, X509Extension};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::{CertificateRevocationList, RevokedCertificate};

use super::certificate::{IssuerSignature, MAX_NAME_TEXT, issuer_signature, remaining};
use super::der::without_leading_zeros;
use super::extensions::whole;
use super::key::{SubjectKey, VerifyError};
use super::name::{name_key, name_text};
use crate::reason::sanitise;

/// Longest list read, in bytes.
pub const MAX_CRL_LEN: usize = 4 << 20;
/// Most revoked certificates in a list.
pub const MAX_REVOKED: usize = 100_000;
/// Most extensions of a list or an entry.
const MAX_CRL_EXTENSIONS: usize = 16;

/// Why a revocation list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CrlError {
    /// Longer than any list.
    #[error("revocation list: expected at most {MAX_CRL_LEN} bytes, found {found}")]
    TooLong {
        /// Length found.
        found: usize,
    },
    /// Not a revocation list.
    #[error("revocation list: expected {expected}, found something else")]
    Malformed {
        /// The part that could not be read.
        expected: &'static str,
    },
    /// A list that leaves certificates out, or speaks for another CA.
    #[error("revocation list of {issuer}: expected a complete list of one CA, found {found}")]
    Incomplete {
        /// Its issuer.
        issuer: String,
        /// `a delta list`, `an indirect list`, `a partial list`.
        found: &'static str,
    },
    /// A critical extension that is not understood.
    #[error("revocation list of {issuer}: expected only understood critical extensions, found {found}")]
    Extension {
        /// Its issuer.
        issuer: String,
        /// Object identifier of the extension.
        found: String,
    },
    /// None of the CAs that are known issued it.
    #[error("revocation list: expected the signature of a known CA that may sign lists, found issuer {issuer}")]
    IssuerUnknown {
        /// Its issuer.
        issuer: String,
    },
    /// The signature is not that CA's.
    #[error("revocation list of {issuer}: expected that CA's signature, found another")]
    Signature {
        /// Its issuer.
        issuer: String,
    },
    /// SHA-1 or an unknown algorithm.
    #[error("revocation list of {issuer}: expected a SHA-2 RSA or ECDSA signature, found algorithm {found}")]
    Algorithm {
        /// Its issuer.
        issuer: String,
        /// The algorithm.
        found: String,
    },
}

/// A list as it was read. Nobody has said yet that it is the CA's: see
/// [`CertificateStore::add_crl`](super::chain::CertificateStore::add_crl).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crl {
    signed: Vec<u8>,
    signature: Vec<u8>,
    algorithm: IssuerSignature,
    pub(super) issuer: Vec<u8>,
    issuer_text: String,
    pub(super) authority_key_id: Option<Vec<u8>>,
    this_update: i64,
    next_update: i64,
    /// Serial numbers without leading zeros, with the date of revocation.
    revoked: BTreeMap<Vec<u8>, i64>,
}

impl Crl {
    /// Reads a DER revocation list.
    ///
    /// # Errors
    /// [`CrlError`].
    pub fn from_der(der: &[u8]) -> Result<Self, CrlError> {
        let malformed = |expected| CrlError::Malformed { expected };
        if der.len() > MAX_CRL_LEN {
            return Err(CrlError::TooLong { found: der.len() });
        }
        let Ok(([], list)) = CertificateRevocationList::from_der(der) else {
            return Err(malformed("an X.509 revocation list"));
        };
        let tbs: &[u8] = list.tbs_cert_list.as_ref();
        if remaining(der, tbs).is_none() || list.signature_value.unused_bits != 0 {
            return Err(malformed("a TBSCertList and a signature of whole bytes"));
        }
        if list.signature_algorithm != list.tbs_cert_list.signature {
            return Err(malformed("the same signature algorithm inside and outside"));
        }
        let issuer_text = name_text(list.issuer());
        let authority_key_id = list_extensions(list.extensions(), &issuer_text)?;
        let this_update = list.last_update().timestamp();
        let next_update = list.next_update().ok_or(malformed("nextUpdate"))?.timestamp();
        if next_update < this_update {
            return Err(malformed("a nextUpdate after thisUpdate"));
        }
        let mut revoked = BTreeMap::new();
        for entry in list.iter_revoked_certificates() {
            if revoked.len() >= MAX_REVOKED {
                return Err(malformed("at most 100000 revoked certificates"));
            }
            entry_extensions(entry, &issuer_text)?;
            let serial = without_leading_zeros(entry.raw_serial()).to_vec();
            revoked.insert(serial, entry.revocation_date.timestamp());
        }
        Ok(Self {
            signed: tbs.to_vec(),
            signature: list.signature_value.data.to_vec(),
            algorithm: issuer_signature(&list.signature_algorithm),
            issuer: name_key(list.issuer()),
            issuer_text,
            authority_key_id,
            this_update,
            next_update,
            revoked,
        })
    }

    /// The issuer's name, safe to show.
    pub fn issuer(&self) -> &str {
        &self.issuer_text
    }

    /// When it was made, Unix seconds.
    pub fn this_update(&self) -> i64 {
        self.this_update
    }

    /// The last second at which it counts, Unix seconds.
    pub fn next_update(&self) -> i64 {
        self.next_update
    }

    /// How many certificates it revokes.
    pub fn len(&self) -> usize {
        self.revoked.len()
    }

    /// Whether it revokes none.
    pub fn is_empty(&self) -> bool {
        self.revoked.is_empty()
    }

    /// Whether `other` speaks for the same CA, as far as name and key identifier say.
    pub fn is_of_same_issuer(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.authority_key_id == other.authority_key_id
    }

    /// What its issuer signed.
    pub(super) fn signed(&self) -> &[u8] {
        &self.signed
    }

    /// Whether it is in force at `now`.
    pub(super) fn is_current(&self, now: i64) -> bool {
        (self.this_update..=self.next_update).contains(&now)
    }

    /// When the certificate with this serial number (without leading zeros) was revoked.
    pub(super) fn revoked_at(&self, serial: &[u8]) -> Option<i64> {
        self.revoked.get(serial).copied()
    }

    pub(super) fn check_signed_by(&self, key: &SubjectKey) -> Result<(), CrlError> {
        let issuer = || self.issuer_text.clone();
        let algorithm = match &self.algorithm {
            IssuerSignature::Known(algorithm) => *algorithm,
            IssuerSignature::Refused(found) => {
                return Err(CrlError::Algorithm {
                    issuer: issuer(),
                    found: found.clone(),
                });
            }
        };
        key.verify(algorithm, &self.signed, &self.signature)
            .map_err(|e| match e {
                VerifyError::Unsupported => CrlError::Algorithm {
                    issuer: issuer(),
                    found: format!("{algorithm:?} by {}", key.describe()),
                },
                VerifyError::Invalid => CrlError::Signature { issuer: issuer() },
            })
    }
}

/// Checks the list's own extensions; gives the authority key identifier.
fn list_extensions(extensions: &[X509Extension<'_>], issuer: &str) -> Result<Option<Vec<u8>>, CrlError> {
    let malformed = |expected| CrlError::Malformed { expected };
    let incomplete = |found| CrlError::Incomplete {
        issuer: issuer.to_owned(),
        found,
    };
    if extensions.len() > MAX_CRL_EXTENSIONS {
        return Err(malformed("at most 16 extensions"));
    }
    let mut authority_key_id = None;
    let mut seen = Vec::new();
    for extension in extensions {
        let oid = extension.oid.to_id_string();
        match oid.as_str() {
            "2.5.29.35" => {
                let id: AuthorityKeyIdentifier<'_> =
                    whole(extension.value).ok_or(malformed("authorityKeyIdentifier"))?;
                authority_key_id = id.key_identifier.map(|id| id.0.to_vec());
            }
            "2.5.29.20" => {}
            "2.5.29.27" => return Err(incomplete("a delta list")),
            "2.5.29.28" => return Err(incomplete(issuing_distribution_point(extension.value))),
            _ if extension.critical => {
                return Err(CrlError::Extension {
                    issuer: issuer.to_owned(),
                    found: sanitise(&oid, MAX_NAME_TEXT),
                });
            }
            _ => {}
        }
        if seen.contains(&oid) {
            return Err(malformed("each extension once"));
        }
        seen.push(oid);
    }
    Ok(authority_key_id)
}

/// A list with an issuing distribution point covers the certificates that name that point: some, or other CAs'.
fn issuing_distribution_point(value: &[u8]) -> &'static str {
    const INDIRECT: Tag = Tag(4);
    let indirect = || {
        let (_, sequence) = Any::from_der(value).ok()?;
        let mut rest = sequence.data;
        while let Ok((next, field)) = Any::from_der(rest) {
            if field.tag() == INDIRECT {
                return Some(field.data != [0]);
            }
            rest = next;
        }
        None
    };
    if indirect() == Some(true) {
        "an indirect list"
    } else {
        "a partial list"
    }
}

fn entry_extensions(entry: &RevokedCertificate<'_>, issuer: &str) -> Result<(), CrlError> {
    if entry.extensions().len() > MAX_CRL_EXTENSIONS {
        return Err(CrlError::Malformed {
            expected: "at most 16 extensions of an entry",
        });
    }
    for extension in entry.extensions() {
        match extension.oid.to_id_string().as_str() {
            "2.5.29.29" => {
                return Err(CrlError::Incomplete {
                    issuer: issuer.to_owned(),
                    found: "an indirect list",
                });
            }
            // Reason and date of invalidity: a certificate on the list is revoked, whatever the reason.
            "2.5.29.21" | "2.5.29.24" => {}
            oid if extension.critical => {
                return Err(CrlError::Extension {
                    issuer: issuer.to_owned(),
                    found: sanitise(oid, MAX_NAME_TEXT),
                });
            }
            _ => {}
        }
    }
    Ok(())
}
