//! From a device's certificate to a trust anchor of the domain, at a given time.
//!
//! EK and VCEK chains break generic web-PKI rules (no host names, critical names, dates in the year 9999), so the rules
//! are written out here. Source: RFC 5280 6.1, without CRLs, policies and name constraints: a certificate that
//! *demands* what is not implemented (a critical extension) is refused.

use std::collections::HashMap;

use super::certificate::{Certificate, IssuerSignature};
pub use super::chain_error::ChainError;
use super::key::VerifyError;

/// Most certificates in a chain, leaf and anchor included.
pub const MAX_CHAIN_DEPTH: usize = 6;
/// Most signatures checked for one chain, however many CAs share a name.
pub const MAX_SIGNATURE_CHECKS: usize = 32;

/// What to do about certificates that have expired (setting `ek-expiry`, protocol.md 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Expiry {
    /// Refuse.
    #[default]
    Deny,
    /// Accept, and name each of them in the result.
    IgnoreWithClaim,
}

/// A certificate of a chain that had expired and was accepted all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredCertificate {
    /// Its name, safe to show.
    pub subject: String,
    /// End of its validity, Unix seconds.
    pub not_after: i64,
}

/// The CA certificates a domain knows: anchors, which end a chain, and intermediates, which only lead to one.
#[derive(Debug, Clone, Default)]
pub struct CertificateStore {
    certificates: Vec<(Certificate, bool)>,
    by_subject: HashMap<Vec<u8>, Vec<usize>>,
}

impl CertificateStore {
    /// A store of parsed certificates, each with whether it is an anchor. A certificate given twice counts once, as
    /// anchor if either is.
    pub fn new(certificates: impl IntoIterator<Item = (Certificate, bool)>) -> Self {
        let mut store = Self::default();
        for (certificate, anchor) in certificates {
            let same = store.by_subject.entry(certificate.subject.clone()).or_default();
            let certificates = &store.certificates;
            let known = same
                .iter()
                .copied()
                .find(|&i| certificates.get(i).is_some_and(|(c, _)| *c == certificate));
            match known.and_then(|i| store.certificates.get_mut(i)) {
                Some((_, is_anchor)) => *is_anchor |= anchor,
                None => {
                    same.push(store.certificates.len());
                    store.certificates.push((certificate, anchor));
                }
            }
        }
        store
    }

    /// Every certificate, with whether it is an anchor.
    pub fn iter(&self) -> impl Iterator<Item = (&Certificate, bool)> {
        self.certificates
            .iter()
            .map(|(certificate, anchor)| (certificate, *anchor))
    }

    fn with_subject<'s>(&'s self, subject: &[u8]) -> impl Iterator<Item = (&'s Certificate, bool)> + use<'s> {
        let same = self.by_subject.get(subject).map(Vec::as_slice).unwrap_or_default();
        same.iter()
            .filter_map(|&i| self.certificates.get(i))
            .map(|(certificate, anchor)| (certificate, *anchor))
    }
}

/// A chain whose every signature, constraint and date was checked; only [`verify_chain`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedChain {
    /// Names from the leaf's issuer up to the anchor, safe to show.
    pub issuers: Vec<String>,
    /// The earliest end of validity in the chain, Unix seconds, leaf and anchor included; certificates that were
    /// accepted although they had expired are left out.
    pub not_after: i64,
    /// Certificates that were accepted although they had expired.
    pub expired: Vec<ExpiredCertificate>,
}

/// Finds and checks a chain from `leaf` to an anchor of `store` at the time `now` (Unix seconds).
///
/// `offered` are intermediates that came with the evidence; they lead to an anchor but never end a chain. Names are
/// compared as RFC 5280 7.1 has it. An anchor's own signature is not checked (it is trusted because the policy lists it); its
/// dates, constraints and key usage are.
///
/// # Errors
/// [`ChainError`]: of all paths tried, the refusal nearest to an anchor.
pub fn verify_chain(
    leaf: &Certificate,
    offered: &[Certificate],
    store: &CertificateStore,
    now: i64,
    expiry: Expiry,
) -> Result<VerifiedChain, ChainError> {
    let mut search = Search {
        offered,
        store,
        now,
        expiry,
        checks_left: MAX_SIGNATURE_CHECKS,
    };
    search.check_contents(leaf)?;
    let mut path = vec![leaf];
    search.extend(&mut path)?;
    let mut chain = VerifiedChain {
        issuers: Vec::new(),
        not_after: i64::MAX,
        expired: Vec::new(),
    };
    for (depth, certificate) in path.into_iter().enumerate() {
        if depth > 0 {
            chain.issuers.push(certificate.subject().to_owned());
        }
        if certificate.not_after() < now {
            let (subject, not_after) = (certificate.subject().to_owned(), certificate.not_after());
            chain.expired.push(ExpiredCertificate { subject, not_after });
        } else {
            chain.not_after = chain.not_after.min(certificate.not_after());
        }
    }
    Ok(chain)
}

struct Search<'s> {
    offered: &'s [Certificate],
    store: &'s CertificateStore,
    now: i64,
    expiry: Expiry,
    checks_left: usize,
}

impl<'s> Search<'s> {
    /// Extends `path` (leaf first) up to an anchor, depth first.
    fn extend(&mut self, path: &mut Vec<&'s Certificate>) -> Result<(), ChainError>
    where
        Self: 's,
    {
        let Some(&child) = path.last() else {
            return Ok(());
        };
        if path.len() >= MAX_CHAIN_DEPTH {
            return Err(ChainError::TooLong {
                subject: child.subject().to_owned(),
                expected: MAX_CHAIN_DEPTH,
            });
        }
        let mut refusal = ChainError::IssuerUnknown {
            subject: child.subject().to_owned(),
            issuer: child.issuer().to_owned(),
        };
        let (store, offered) = (self.store, self.offered);
        let offered = offered.iter().filter(|c| c.subject == child.issuer).map(|c| (c, false));
        for (issuer, anchor) in store.with_subject(&child.issuer).chain(offered) {
            if path.contains(&issuer) {
                continue;
            }
            let result = self.check_issuer(child, issuer, path.len() - 1).and_then(|()| {
                path.push(issuer);
                if anchor { Ok(()) } else { self.extend(path) }
            });
            match result {
                Ok(()) => return Ok(()),
                Err(e) if e.rank() >= refusal.rank() => refusal = e,
                Err(_) => {}
            }
            // A path that did not end at an anchor is taken back to the child.
            let keep = path
                .iter()
                .position(|c| std::ptr::eq(*c, child))
                .map_or(path.len(), |i| i + 1);
            path.truncate(keep);
        }
        Err(refusal)
    }

    /// Checks that `issuer` may have issued `child` and did; `below` intermediates lie between the leaf and `issuer`.
    fn check_issuer(&mut self, child: &Certificate, issuer: &Certificate, below: usize) -> Result<(), ChainError> {
        let (subject, issuer_name) = (child.subject().to_owned(), issuer.subject().to_owned());
        // Another key of the same CA: not this one's child.
        if let (Some(wanted), Some(found)) = (&child.authority_key_id, &issuer.subject_key_id)
            && wanted != found
        {
            return Err(ChainError::IssuerUnknown {
                subject,
                issuer: format!("{issuer_name} with another key"),
            });
        }
        self.checks_left = self.checks_left.checked_sub(1).ok_or_else(|| ChainError::TooLong {
            subject: subject.clone(),
            expected: MAX_CHAIN_DEPTH,
        })?;
        child
            .check_signed_by(issuer.key())
            .map_err(|e| match (e, &child.signature_algorithm) {
                (VerifyError::Unsupported, IssuerSignature::Refused(found)) => ChainError::Algorithm {
                    subject,
                    found: found.clone(),
                },
                (VerifyError::Unsupported, IssuerSignature::Known(found)) => ChainError::Algorithm {
                    subject,
                    found: format!("{found:?} by {}", issuer.key().describe()),
                },
                (VerifyError::Invalid, _) => ChainError::Signature {
                    subject,
                    issuer: issuer_name.clone(),
                },
            })?;
        let path_len = match issuer.basic_constraints {
            Some((true, path_len)) => path_len,
            _ => {
                return Err(ChainError::NotACa {
                    subject: issuer_name,
                    expected: "basicConstraints CA",
                });
            }
        };
        if issuer.key_usage.is_some_and(|usage| !usage.key_cert_sign()) {
            return Err(ChainError::NotACa {
                subject: issuer_name,
                expected: "keyCertSign",
            });
        }
        if let Some(limit) = path_len
            && below > limit as usize
        {
            return Err(ChainError::TooLong {
                subject: issuer_name,
                expected: limit as usize + 2,
            });
        }
        self.check_contents(issuer)
    }

    fn check_contents(&self, certificate: &Certificate) -> Result<(), ChainError> {
        let (subject, now) = (certificate.subject().to_owned(), self.now);
        if let Some(found) = certificate.unknown_critical.first() {
            return Err(ChainError::Extension {
                subject,
                found: found.clone(),
            });
        }
        if now < certificate.not_before() {
            return Err(ChainError::NotYetValid {
                subject,
                not_before: certificate.not_before(),
                now,
            });
        }
        if now > certificate.not_after() && self.expiry == Expiry::Deny {
            return Err(ChainError::Expired {
                subject,
                not_after: certificate.not_after(),
                now,
            });
        }
        Ok(())
    }
}
