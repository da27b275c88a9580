//! From a device's certificate to a trust anchor of the domain, at a given time.
//!
//! EK and VCEK chains break generic web-PKI rules (no host names, critical names, dates in the year 9999), so the rules
//! are written out here. Source: RFC 5280 6.1 and 6.3, without policies: a certificate that *demands* what is not
//! implemented (a critical extension) is refused.

use std::collections::HashMap;

use super::certificate::{Certificate, IssuerSignature};
pub use super::chain_error::ChainError;
use super::crl::{Crl, CrlError};
use super::key::{SubjectKey, VerifyError};
use super::remembered::{Fact, Remembered, fact};
use crate::tpm::HashAlg;

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

/// When revocation lists are looked at (setting `crl`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CrlRule {
    /// Where the domain has a list of an issuer, it must be in force and must not name the certificate.
    #[default]
    WhenPresent,
    /// Every issuer must have one: for certificates of devices always, for those of CAs unless an anchor issued them
    /// (the policy lists the anchor, and can take it out).
    Required,
    /// Every CA below an anchor must be covered by a list of its issuer; a device's own certificate where its issuer has
    /// one. For makers whose root alone publishes lists (AMD).
    RequiredOfAuthorities,
}

/// How strictly chains are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ChainRules {
    /// What to do about expired certificates.
    pub expiry: Expiry,
    /// When revocation lists are looked at.
    pub crl: CrlRule,
}

impl From<Expiry> for ChainRules {
    fn from(expiry: Expiry) -> Self {
        Self {
            expiry,
            crl: CrlRule::default(),
        }
    }
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
    /// Verified lists by issuer name, each with the key that signed it.
    crls: HashMap<Vec<u8>, Vec<(SubjectKey, Crl)>>,
    digest: [u8; 32],
    /// Signatures in chains that ended here. It saves work and has no influence on an answer.
    remembered: Remembered,
}

impl CertificateStore {
    /// A store of parsed certificates, each with whether it is an anchor. A certificate given twice counts once, as
    /// anchor if either is.
    pub fn new(certificates: impl IntoIterator<Item = (Certificate, bool)>) -> Self {
        let mut store = Self::default();
        for (certificate, anchor) in certificates {
            store.add(certificate, anchor);
        }
        store
    }

    /// Adds a certificate. One that is there counts once, as anchor if it was given as one either time.
    pub fn add(&mut self, certificate: Certificate, anchor: bool) {
        self.note(if anchor { b"anchor" } else { b"intermediate" }, certificate.as_der());
        let same = self.by_subject.entry(certificate.subject.clone()).or_default();
        let certificates = &self.certificates;
        let known = same
            .iter()
            .copied()
            .find(|&i| certificates.get(i).is_some_and(|(c, _)| *c == certificate));
        match known.and_then(|i| self.certificates.get_mut(i)) {
            Some((_, is_anchor)) => *is_anchor |= anchor,
            None => {
                same.push(self.certificates.len());
                self.certificates.push((certificate, anchor));
            }
        }
    }

    /// SHA-256 over everything that was added, in its order: equal for two stores only if they say the same.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    fn note(&mut self, what: &[u8], der: &[u8]) {
        let added = HashAlg::Sha256.digest([what, b"\0", der]);
        let digest = HashAlg::Sha256.digest([self.digest.as_slice(), added.as_ref()]);
        self.digest = digest.as_ref().try_into().unwrap_or_default();
    }

    /// How many signatures in chains that ended here are remembered, so that they are not verified again.
    pub fn remembered(&self) -> usize {
        self.remembered.len()
    }

    /// The first second after `now` at which a list that is here comes into force; `i64::MAX` where none will.
    pub fn next_crl_after(&self, now: i64) -> i64 {
        let starts = self.crls().map(Crl::this_update).filter(|start| *start > now);
        starts.min().unwrap_or(i64::MAX)
    }

    /// This store with those anchors only that `keep` takes. The others only lead to an anchor from then on: certificates
    /// and revocation lists stay known, so that nothing that was revoked or constrained becomes acceptable by another way.
    #[must_use]
    pub fn with_anchors(&self, keep: impl Fn(&Certificate) -> bool) -> Self {
        let mut store = self.clone();
        let mut demoted = Vec::new();
        for (certificate, anchor) in &mut store.certificates {
            if *anchor && !keep(certificate) {
                *anchor = false;
                demoted.push(certificate.as_der().to_vec());
            }
        }
        demoted.iter().for_each(|der| store.note(b"demoted", der));
        store
    }

    /// Every certificate, with whether it is an anchor.
    pub fn iter(&self) -> impl Iterator<Item = (&Certificate, bool)> {
        self.certificates
            .iter()
            .map(|(certificate, anchor)| (certificate, *anchor))
    }

    /// Adds a revocation list that a CA of this store issued. Whether the CA itself is to be believed is each chain's
    /// matter: the list speaks about the certificates of that very key.
    ///
    /// # Errors
    /// [`CrlError`] if no certificate here has the issuer's name, key identifier and the right to sign lists, or none
    /// of their keys made the signature.
    pub fn add_crl(&mut self, crl: Crl) -> Result<(), CrlError> {
        let mut refusal = CrlError::IssuerUnknown {
            issuer: crl.issuer().to_owned(),
        };
        let mut signer = None;
        for (issuer, _) in self.with_subject(&crl.issuer).take(MAX_SIGNATURE_CHECKS) {
            let extensions = &issuer.extensions;
            let other_key = matches!((&crl.authority_key_id, &extensions.subject_key_id), (Some(a), Some(b)) if a != b);
            let is_ca = matches!(extensions.basic_constraints, Some((true, _)));
            if other_key || !is_ca || extensions.key_usage.is_some_and(|usage| !usage.crl_sign()) {
                continue;
            }
            match crl.check_signed_by(issuer.key()) {
                Ok(()) => {
                    signer = Some(issuer.key().clone());
                    break;
                }
                Err(e) => refusal = e,
            }
        }
        let key = signer.ok_or(refusal)?;
        self.note(b"crl", crl.signed());
        self.crls.entry(crl.issuer.clone()).or_default().push((key, crl));
        Ok(())
    }

    /// Every verified revocation list.
    pub fn crls(&self) -> impl Iterator<Item = &Crl> {
        self.crls.values().flatten().map(|(_, crl)| crl)
    }

    /// The lists of this very CA: name and key.
    fn crls_of<'s, 'i>(&'s self, issuer: &'i Certificate) -> impl Iterator<Item = &'s Crl> + use<'s, 'i> {
        let named = self.crls.get(&issuer.subject).map(Vec::as_slice).unwrap_or_default();
        named.iter().filter(|(key, _)| key == issuer.key()).map(|(_, crl)| crl)
    }

    fn with_subject<'s>(&'s self, subject: &[u8]) -> impl Iterator<Item = (&'s Certificate, bool)> + use<'s> {
        let same = self.by_subject.get(subject).map(Vec::as_slice).unwrap_or_default();
        same.iter()
            .filter_map(|&i| self.certificates.get(i))
            .map(|(certificate, anchor)| (certificate, *anchor))
    }
}

/// A chain whose every signature, constraint and date was checked; only [`verify_chain`] makes one.
///
/// ```compile_fail,E0639
/// use touchstone_verifier::x509::{Certificate, VerifiedChain};
///
/// fn forged(issuer: Certificate) -> VerifiedChain {
///     VerifiedChain {
///         issuers: Vec::new(),
///         issuer,
///         not_after: i64::MAX,
///         expired: Vec::new(),
///         revocation_checked: true,
///         authorities_checked: true,
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedChain {
    /// Names from the leaf's issuer up to the anchor, safe to show.
    pub issuers: Vec<String>,
    /// The certificate that issued the leaf.
    pub issuer: Certificate,
    /// The earliest end of validity in the chain, Unix seconds, leaf, anchor and the revocation lists that were looked
    /// at included; certificates that were accepted although they had expired are left out.
    pub not_after: i64,
    /// Certificates that were accepted although they had expired.
    pub expired: Vec<ExpiredCertificate>,
    /// Whether a revocation list of the leaf's issuer was looked at.
    pub revocation_checked: bool,
    /// Whether every CA below the anchor was looked up in a revocation list of its issuer, and there is such a CA.
    pub authorities_checked: bool,
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
    rules: impl Into<ChainRules>,
) -> Result<VerifiedChain, ChainError> {
    let mut search = Search {
        offered,
        store,
        now,
        rules: rules.into(),
        checks_left: MAX_SIGNATURE_CHECKS,
        verified: Vec::new(),
    };
    search.check_contents(leaf)?;
    let mut path = vec![leaf];
    search.extend(&mut path)?;
    store.remembered.add(std::mem::take(&mut search.verified));
    let mut chain = VerifiedChain {
        issuers: Vec::new(),
        issuer: path.get(1).copied().unwrap_or(leaf).clone(),
        not_after: i64::MAX,
        expired: Vec::new(),
        revocation_checked: false,
        authorities_checked: path.len() > 2,
    };
    for (depth, pair) in path.windows(2).enumerate() {
        let crl = pair.last().and_then(|issuer| search.current_crl(issuer));
        if let Some(crl) = crl {
            chain.not_after = chain.not_after.min(crl.next_update());
        }
        match depth {
            0 => chain.revocation_checked = crl.is_some(),
            _ => chain.authorities_checked &= crl.is_some(),
        }
    }
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
    rules: ChainRules,
    checks_left: usize,
    /// Signatures verified on the way that were not known.
    verified: Vec<Fact>,
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
            let result = self.check_issuer(path, issuer, anchor).and_then(|()| {
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

    /// Checks that `issuer` may have issued the last certificate of `path` (leaf first), and did, and has not revoked it.
    fn check_issuer(&mut self, path: &[&Certificate], issuer: &Certificate, is_anchor: bool) -> Result<(), ChainError> {
        let Some(&child) = path.last() else {
            return Ok(());
        };
        let below = path.len() - 1;
        let (subject, issuer_name) = (child.subject().to_owned(), issuer.subject().to_owned());
        // Another key of the same CA: not this one's child.
        if let (Some(wanted), Some(found)) = (&child.extensions.authority_key_id, &issuer.extensions.subject_key_id)
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
        self.check_signature(child, issuer)
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
        let path_len = match issuer.extensions.basic_constraints {
            Some((true, path_len)) => path_len,
            _ => {
                return Err(ChainError::NotACa {
                    subject: issuer_name,
                    expected: "basicConstraints CA",
                });
            }
        };
        if issuer.extensions.key_usage.is_some_and(|usage| !usage.key_cert_sign()) {
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
        self.check_names(path, issuer)?;
        self.check_contents(issuer)?;
        let needed = match self.rules.crl {
            CrlRule::WhenPresent => false,
            CrlRule::Required => below == 0 || !is_anchor,
            CrlRule::RequiredOfAuthorities => below > 0,
        };
        self.check_revocation(child, issuer, needed)
    }

    fn check_signature(&mut self, child: &Certificate, issuer: &Certificate) -> Result<(), VerifyError> {
        let fact = fact(child, issuer);
        if fact.is_some_and(|fact| self.store.remembered.holds(&fact)) {
            return Ok(());
        }
        child.check_signed_by(issuer.key())?;
        self.verified.extend(fact);
        Ok(())
    }

    /// Name constraints hold for everything below, but not for self-issued intermediates (RFC 5280 6.1.4 (b)).
    fn check_names(&self, path: &[&Certificate], issuer: &Certificate) -> Result<(), ChainError> {
        let Some(constraints) = &issuer.extensions.name_constraints else {
            return Ok(());
        };
        for (depth, certificate) in path.iter().enumerate() {
            let exempt = depth > 0 && certificate.is_self_issued();
            if !exempt && !constraints.allow(&certificate.subject, &certificate.extensions) {
                return Err(ChainError::Names {
                    subject: certificate.subject().to_owned(),
                    issuer: issuer.subject().to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The newest list of `issuer` that is in force.
    fn current_crl(&self, issuer: &Certificate) -> Option<&'s Crl>
    where
        Self: 's,
    {
        let ours = self.store.crls_of(issuer);
        ours.filter(|crl| crl.is_current(self.now))
            .max_by_key(|crl| crl.this_update())
    }

    fn check_revocation(&self, child: &Certificate, issuer: &Certificate, needed: bool) -> Result<(), ChainError> {
        let (subject, issuer_name) = (child.subject().to_owned(), issuer.subject().to_owned());
        match (self.current_crl(issuer), self.store.crls_of(issuer).last()) {
            (Some(crl), _) => match crl.revoked_at(child.serial()) {
                Some(at) => Err(ChainError::Revoked {
                    subject,
                    issuer: issuer_name,
                    at,
                }),
                None => Ok(()),
            },
            // A list that is there and says nothing about this time: stale is denied, not passed over.
            (None, Some(crl)) => Err(ChainError::CrlNotCurrent {
                issuer: issuer_name,
                this_update: crl.this_update(),
                next_update: crl.next_update(),
                now: self.now,
            }),
            (None, None) if needed => Err(ChainError::CrlMissing { issuer: issuer_name }),
            (None, None) => Ok(()),
        }
    }

    fn check_contents(&self, certificate: &Certificate) -> Result<(), ChainError> {
        let (subject, now) = (certificate.subject().to_owned(), self.now);
        if let Some(found) = certificate.extensions.unknown_critical.first() {
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
        if now > certificate.not_after() && self.rules.expiry == Expiry::Deny {
            return Err(ChainError::Expired {
                subject,
                not_after: certificate.not_after(),
                now,
            });
        }
        Ok(())
    }
}
