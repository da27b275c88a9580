//! A quote that a platform certified by Intel signed.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use dcap_qvl::configs::RustCryptoConfig;
use dcap_qvl::intel::parse_pck_extension_with;

use super::code::TdxCode;
use super::collateral::Collateral;
use super::pck::{PCK, PckChain, malformed};
use super::quote::Quote;
use crate::reason::Reason;
use crate::tpm::HashAlg;
use crate::tpm::algorithm::Curve;
use crate::x509::chain::VerifiedChain;
use crate::x509::{Certificate, CertificateStore, Expiry, SubjectKey, verify_chain};

const QUOTE: &str = "TDX quote";
/// Where an enclave's report has its report data (Intel SDM, REPORT structure).
const ENCLAVE_REPORT_DATA: usize = 320;

/// Which platform signed, by Intel's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// PPID: the processor's own id, 16 bytes.
    pub ppid: Vec<u8>,
    /// Id of the platform of several processors, where the certificate has one.
    pub instance_id: Option<Vec<u8>>,
    /// FMSPC: the kind of platform.
    pub fmspc: [u8; 6],
    /// Whether multithreading is on, where the certificate says so.
    pub smt: Option<bool>,
    /// Whether processors may be added later, where the certificate says so.
    pub dynamic: Option<bool>,
}

impl Platform {
    /// The platform that the certificate in `quote` names, or the one in `collateral` where the quote has none: words,
    /// until [`VerifiedQuote::verify`] has said that Intel signed them.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn claimed_by(quote: &Quote<'_>, collateral: Option<&Collateral>) -> Result<Self, Vec<Reason>> {
        platform(&PckChain::of(quote, collateral)?.leaf)
    }
}

/// A genuine quote: its signatures lead to a trust anchor. Only [`VerifiedQuote::verify`] makes one. What the security
/// versions of the platform are worth is said by [`super::Evaluation`].
///
/// ```compile_fail,E0616
/// use touchstone_verifier::tdx::{Quote, VerifiedQuote};
///
/// fn forged<'a>(signed: &mut VerifiedQuote<'a>, other: Quote<'a>) {
///     signed.quote = other;
/// }
/// ```
#[derive(Debug, Clone)]
pub struct VerifiedQuote<'a> {
    quote: Quote<'a>,
    platform: Platform,
    chain: VerifiedChain,
    supplied: Option<String>,
}

impl<'a> VerifiedQuote<'a> {
    /// Checks, from the anchors of `store` down at `now` (Unix seconds): the chain of the provisioning key, its signature
    /// over the quoting enclave's report, that report's tie to the attestation key, and the quote's signature.
    ///
    /// The chain is the quote's own. Quotes of platforms that do not keep their certificate have none: then it is the one
    /// in `collateral`.
    ///
    /// # Errors
    /// Every reason against it.
    pub fn verify(
        quote: Quote<'a>,
        collateral: Option<&Collateral>,
        store: &CertificateStore,
        now: i64,
    ) -> Result<Self, Vec<Reason>> {
        Self::verify_by(quote, &PckChain::of(&quote, collateral)?, store, now)
    }

    fn verify_by(quote: Quote<'a>, pck: &PckChain, store: &CertificateStore, now: i64) -> Result<Self, Vec<Reason>> {
        let mut reasons = Vec::new();
        let PckChain { leaf, above, .. } = pck;
        let chain = match verify_chain(leaf, above, store, now, Expiry::Deny) {
            Ok(chain) => Some(chain),
            Err(error) => {
                let (expected, found) = error.details();
                reasons.push(Reason::new(error.code(), PCK, expected, found));
                None
            }
        };
        if !matches!(leaf.key(), SubjectKey::Ec { curve: Curve::P256, .. }) {
            reasons.extend(malformed("a P-256 key", leaf.key().describe()));
        }
        let signed = |key: &[u8], message: &[u8], signature: &[u8]| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
                .verify(message, signature)
                .is_ok()
        };
        let mut refuse = |expected: &str, found: &str| {
            reasons.push(Reason::new(TdxCode::SignatureInvalid, QUOTE, expected, found));
        };
        if !signed(
            &leaf.key().uncompressed_point(),
            quote.qe_report(),
            quote.qe_signature(),
        ) {
            refuse(
                "a quoting enclave's report signed by the platform's provisioning key",
                "another signature",
            );
        }
        let bound = HashAlg::Sha256.digest([quote.attestation_key().as_slice(), quote.qe_authentication_data()]);
        let (stated, rest) = quote
            .qe_report()
            .get(ENCLAVE_REPORT_DATA..)
            .and_then(|data| data.split_at_checked(bound.as_ref().len()))
            .unwrap_or_default();
        if stated != bound.as_ref() || rest.iter().any(|byte| *byte != 0) {
            refuse("an attestation key that the quoting enclave vouches for", "another key");
        }
        let point = [&[4], quote.attestation_key().as_slice()].concat();
        if !signed(&point, quote.signed(), quote.signature()) {
            refuse(
                "a quote signed by its attestation key",
                "another signature: it was altered",
            );
        }
        let platform = platform(leaf).map_err(|found| reasons.extend(found)).ok();
        match (chain, platform) {
            (Some(chain), Some(platform)) if reasons.is_empty() => Ok(Self {
                quote,
                platform,
                chain,
                supplied: pck.supplied(),
            }),
            _ => Err(reasons),
        }
    }

    /// The same with the root that came with the quote, at the time its certificate begins: whether it holds together. It
    /// says nothing about whose platform it is.
    ///
    /// # Errors
    /// Every reason against it.
    pub fn by_own_root(quote: Quote<'a>, collateral: Option<&Collateral>) -> Result<Self, Vec<Reason>> {
        let pck = PckChain::of(&quote, collateral)?;
        let roots = std::iter::once(&pck.leaf)
            .chain(&pck.above)
            .filter(|certificate| certificate.is_self_issued())
            .map(|root| (root.clone(), true));
        Self::verify_by(quote, &pck, &CertificateStore::new(roots), pck.leaf.not_before())
    }

    /// The quote.
    pub fn quote(&self) -> &Quote<'a> {
        &self.quote
    }

    /// The platform.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// The provisioning key's certificate with those above it, PEM, where they did not come in the quote.
    pub(super) fn supplied_pck(&self) -> Option<&str> {
        self.supplied.as_deref()
    }

    /// The chain of the provisioning key.
    pub fn chain(&self) -> &VerifiedChain {
        &self.chain
    }
}

/// Intel's extension 1.2.840.113741.1.13.1.
fn platform(leaf: &Certificate) -> Result<Platform, Vec<Reason>> {
    let extension = parse_pck_extension_with::<RustCryptoConfig>(leaf.as_der())
        .map_err(|error| malformed("Intel's extension of provisioning certificates", format!("{error:#}")))?;
    if extension.ppid.len() != 16 {
        let found = format!("{} bytes", extension.ppid.len());
        return Err(malformed("a PPID of 16 bytes", found));
    }
    Ok(Platform {
        ppid: extension.ppid,
        instance_id: extension.platform_instance_id,
        fmspc: extension.fmspc,
        smt: extension.smt_enabled,
        dynamic: extension.dynamic_platform,
    })
}
