//! Why no chain leads from a certificate to a trust anchor.

use thiserror::Error;

use super::code::CertificateCode;
use crate::utc::utc;

/// Why no chain leads from a certificate to a trust anchor. `subject` is the refused certificate's name, safe to show.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Nobody known issued it.
    #[error("certificate {subject}: expected a trust anchor or known intermediate as issuer, found {issuer}")]
    IssuerUnknown {
        /// Name of the certificate.
        subject: String,
        /// Name of its issuer.
        issuer: String,
    },
    /// SHA-1 or an unknown algorithm.
    #[error("certificate {subject}: expected a SHA-2 RSA or ECDSA signature, found algorithm {found}")]
    Algorithm {
        /// Name of the certificate.
        subject: String,
        /// Object identifier of the algorithm.
        found: String,
    },
    /// The signature is not the issuer's.
    #[error("certificate {subject}: expected a signature by {issuer}, found another")]
    Signature {
        /// Name of the certificate.
        subject: String,
        /// Name of its issuer.
        issuer: String,
    },
    /// The issuer is no CA.
    #[error("issuer {subject}: expected {expected}, found none")]
    NotACa {
        /// Name of the issuer.
        subject: String,
        /// What it lacks.
        expected: &'static str,
    },
    /// Too many certificates.
    #[error("chain at {subject}: expected at most {expected} certificates, found more")]
    TooLong {
        /// Name of the certificate at which it became too long.
        subject: String,
        /// The limit: ours, or what a CA's path length allows.
        expected: usize,
    },
    /// A critical extension that is not understood.
    #[error("certificate {subject}: expected only understood critical extensions, found {found}")]
    Extension {
        /// Name of the certificate.
        subject: String,
        /// Object identifier of the extension.
        found: String,
    },
    /// A name that a CA above may not issue for.
    #[error("certificate {subject}: expected names that {issuer} may issue for, found others")]
    Names {
        /// Name of the certificate.
        subject: String,
        /// Name of the CA with the constraints.
        issuer: String,
    },
    /// Its issuer has revoked it.
    #[error("certificate {subject}: expected one that {issuer} has not revoked, found it revoked at {at}")]
    Revoked {
        /// Name of the certificate.
        subject: String,
        /// Name of its issuer.
        issuer: String,
        /// When, Unix seconds.
        at: i64,
    },
    /// The domain has a revocation list of the issuer, and none that is in force.
    #[error("revocation list of {issuer}: in force from {this_update} to {next_update}, found the time {now}")]
    CrlNotCurrent {
        /// Name of the issuer.
        issuer: String,
        /// Start, Unix seconds.
        this_update: i64,
        /// End, Unix seconds.
        next_update: i64,
        /// The time given, Unix seconds.
        now: i64,
    },
    /// The policy requires a revocation list of the issuer, and there is none.
    #[error("revocation list of {issuer}: expected one in the policy, found none")]
    CrlMissing {
        /// Name of the issuer.
        issuer: String,
    },
    /// Not valid yet.
    #[error("certificate {subject}: valid from {not_before}, found the time {now}")]
    NotYetValid {
        /// Name of the certificate.
        subject: String,
        /// Start of validity, Unix seconds.
        not_before: i64,
        /// The time given, Unix seconds.
        now: i64,
    },
    /// Expired.
    #[error("certificate {subject}: valid until {not_after}, found the time {now}")]
    Expired {
        /// Name of the certificate.
        subject: String,
        /// End of validity, Unix seconds.
        not_after: i64,
        /// The time given, Unix seconds.
        now: i64,
    },
}

impl ChainError {
    /// The stable code.
    pub const fn code(&self) -> CertificateCode {
        match self {
            ChainError::IssuerUnknown { .. } => CertificateCode::IssuerUnknown,
            ChainError::Algorithm { .. } => CertificateCode::AlgorithmRefused,
            ChainError::Signature { .. } => CertificateCode::SignatureInvalid,
            ChainError::NotACa { .. } => CertificateCode::NotACa,
            ChainError::TooLong { .. } => CertificateCode::PathTooLong,
            ChainError::Extension { .. } => CertificateCode::ExtensionUnknown,
            ChainError::Names { .. } => CertificateCode::NameConstrained,
            ChainError::Revoked { .. } => CertificateCode::Revoked,
            ChainError::CrlNotCurrent { .. } => CertificateCode::CrlNotCurrent,
            ChainError::CrlMissing { .. } => CertificateCode::CrlMissing,
            ChainError::NotYetValid { .. } => CertificateCode::NotYetValid,
            ChainError::Expired { .. } => CertificateCode::Expired,
        }
    }

    /// What was expected and what was found.
    pub fn details(&self) -> (String, String) {
        // Makers leave the subject of endorsement keys' certificates empty (EK Credential Profile 2.5, 3.2.6).
        let named = |subject: &'_ str| match subject {
            "" => "a certificate without a subject".to_owned(),
            subject => subject.to_owned(),
        };
        match self {
            ChainError::IssuerUnknown { subject, issuer } => (
                format!("a trust anchor above {}", named(subject)),
                format!("issuer {issuer}, which is not known"),
            ),
            ChainError::Algorithm { subject, found } => (
                format!("a SHA-2 RSA or ECDSA signature on {}", named(subject)),
                found.clone(),
            ),
            ChainError::Signature { subject, issuer } => (
                format!("a signature by {issuer} on {}", named(subject)),
                "another".into(),
            ),
            ChainError::NotACa { subject, expected } => (format!("{expected} in issuer {subject}"), "none".into()),
            ChainError::TooLong { subject, expected } => (
                format!("at most {expected} certificates"),
                format!("more, at {subject}"),
            ),
            ChainError::Extension { subject, found } => (
                "only understood critical extensions".into(),
                format!("{found} in {}", named(subject)),
            ),
            ChainError::Names { subject, issuer } => (
                format!("names that {issuer} may issue for"),
                format!("others in {}", named(subject)),
            ),
            ChainError::Revoked { subject, issuer, at } => (
                format!("a certificate that {issuer} has not revoked"),
                format!("{}, revoked at {}", named(subject), utc(*at)),
            ),
            ChainError::CrlNotCurrent {
                issuer,
                this_update,
                next_update,
                now,
            } => (
                format!("a revocation list of {issuer} that is in force at {}", utc(*now)),
                format!("one from {} to {}", utc(*this_update), utc(*next_update)),
            ),
            ChainError::CrlMissing { issuer } => (format!("a revocation list of {issuer}"), "none".into()),
            ChainError::NotYetValid {
                subject,
                not_before,
                now,
            } => (
                format!("a time from {} on, for {}", utc(*not_before), named(subject)),
                utc(*now),
            ),
            ChainError::Expired {
                subject,
                not_after,
                now,
            } => (
                format!("a time up to {}, for {}", utc(*not_after), named(subject)),
                utc(*now),
            ),
        }
    }

    /// How far the search had come: of several refusals the one nearest to an anchor tells most.
    pub(super) const fn rank(&self) -> u8 {
        match self {
            ChainError::IssuerUnknown { .. } => 0,
            ChainError::TooLong { .. } => 1,
            ChainError::Signature { .. } | ChainError::Algorithm { .. } => 2,
            ChainError::NotACa { .. } => 3,
            ChainError::Extension { .. } | ChainError::Names { .. } => 4,
            ChainError::NotYetValid { .. } | ChainError::Expired { .. } => 5,
            ChainError::CrlMissing { .. } | ChainError::CrlNotCurrent { .. } => 6,
            ChainError::Revoked { .. } => 7,
        }
    }
}
