//! A report that a certified attestation key signed, on the firmware the key is for.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use super::code::GpuCode;
use super::fwid::FirmwareIdentity;
use super::opaque::Details;
use super::product::Product;
use super::report::{DIGEST_LEN, GpuReport};
use crate::reason::Reason;
use crate::tpm::algorithm::Curve;
use crate::x509::der::leading_sequence;
use crate::x509::{Certificate, CertificateStore, ChainRules, CrlRule, Expiry, SubjectKey, verify_chain};

/// Most certificates that come with a report, the attestation key's included.
pub const MAX_CERTIFICATES: usize = 6;
/// What claims of reasons start with.
pub(super) const CLAIM: &str = "GPU report";

/// A report that the key of the certificate beside it signed, whose certificate, chip and firmware identity hold together.
/// Nobody says yet that the certificate is NVIDIA's: see [`VerifiedGpu`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedGpu<'a> {
    report: GpuReport<'a>,
    details: Details,
    product: Product,
    serial: String,
    attestation_key: String,
    fwid: [u8; DIGEST_LEN],
}

/// A signed report with a chain to an anchor of the domain. Only [`VerifiedGpu::verify`] makes one. What it says may still
/// be unacceptable: see [`super::check()`] and [`super::GpuReference`].
///
/// ```compile_fail,E0451
/// use touchstone_verifier::gpu::{SignedGpu, VerifiedGpu};
///
/// fn forged<'a>(signed: SignedGpu<'a>) -> VerifiedGpu<'a> {
///     VerifiedGpu { signed, not_after: i64::MAX, revocation_checked: true }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedGpu<'a> {
    signed: SignedGpu<'a>,
    not_after: i64,
    revocation_checked: bool,
}

impl<'a> std::ops::Deref for VerifiedGpu<'a> {
    type Target = SignedGpu<'a>;

    fn deref(&self) -> &Self::Target {
        &self.signed
    }
}

impl<'a> VerifiedGpu<'a> {
    /// Checks that the key of `chain` signed `report`, and that a CA of `store` stands behind it at `now` (Unix seconds).
    /// `chain` is DER certificates one after the other, the attestation key's first.
    ///
    /// Expired certificates are always refused. Revocation lists are looked at where the domain has them; with `crl`
    /// required, from the device identity upwards: that one is a key in the device, which issues no lists.
    ///
    /// # Errors
    /// Every reason against it, as far as it could be judged.
    pub fn verify(
        report: GpuReport<'a>,
        chain: &[u8],
        store: &CertificateStore,
        now: i64,
        crl: CrlRule,
    ) -> Result<Self, Vec<Reason>> {
        let chain = certificates(chain)?;
        let [leaf, offered @ ..] = chain.as_slice() else {
            return Err(vec![refusal(
                GpuCode::CertificatesMissing,
                "a certificate chain",
                "none",
            )]);
        };
        let chained = |error: &crate::x509::chain::ChainError| {
            let (expected, found) = error.details();
            vec![Reason::new(error.code(), "GPU certificate chain", expected, found)]
        };
        let rules = ChainRules::from(Expiry::Deny);
        let verified = verify_chain(leaf, offered, store, now, rules).map_err(|e| chained(&e))?;
        let device = &verified.issuer;
        let mut not_after = verified.not_after;
        if crl == CrlRule::Required {
            let rules = ChainRules { crl, ..rules };
            let upwards = verify_chain(device, offered, store, now, rules).map_err(|e| chained(&e))?;
            not_after = not_after.min(upwards.not_after);
        }
        Ok(Self {
            signed: SignedGpu::of_device(report, leaf, device)?,
            not_after,
            revocation_checked: verified.revocation_checked || crl == CrlRule::Required,
        })
    }

    /// Last second at which the chain holds, Unix seconds.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Whether a revocation list was looked at.
    pub fn revocation_checked(&self) -> bool {
        self.revocation_checked
    }
}

impl<'a> SignedGpu<'a> {
    /// Checks that the first certificate of `chain` (DER, one after the other) is an attestation key's, that the second
    /// issued it, and that the key signed `report`. No anchor, date or revocation is looked at.
    ///
    /// # Errors
    /// Every reason against it, as far as it could be judged.
    pub fn verify(report: GpuReport<'a>, chain: &[u8]) -> Result<Self, Vec<Reason>> {
        let chain = certificates(chain)?;
        let [leaf, device, ..] = chain.as_slice() else {
            return Err(vec![refusal(
                GpuCode::CertificatesMissing,
                "a certificate chain",
                "none",
            )]);
        };
        if !device.is_ca() || leaf.check_signed_by(device.key()).is_err() {
            let expected = "the attestation key's certificate, then its issuer's";
            return Err(vec![refusal(GpuCode::ChainMalformed, expected, "another order")]);
        }
        Self::of_device(report, leaf, device)
    }

    /// `device` issued `leaf`: that is its caller's to know.
    fn of_device(report: GpuReport<'a>, leaf: &Certificate, device: &Certificate) -> Result<Self, Vec<Reason>> {
        let mut reasons = Vec::new();
        let mut refuse = |code, expected: &str, found: &str| reasons.push(refusal(code, expected, found));
        let point = attestation_key(leaf).map_err(|found| {
            vec![refusal(
                GpuCode::KeyRefused,
                "a P-384 key for digital signatures, no CA",
                found,
            )]
        })?;
        let identity = FirmwareIdentity::read(leaf.as_der());
        let Some(identity) = identity else {
            let expected = "one firmware identity with a SHA-384 digest";
            return Err(vec![refusal(GpuCode::KeyRefused, expected, "none that can be read")]);
        };
        if identity
            .device_key
            .as_ref()
            .is_some_and(|key| *key != device.key().to_spki_der())
        {
            refuse(
                GpuCode::KeyRefused,
                "the device identity key in the certificate",
                "another",
            );
        }
        let signature = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &point);
        if signature.verify(report.signed(), report.signature()).is_err() {
            let expected = "a signature by the certified key";
            refuse(GpuCode::SignatureInvalid, expected, "another");
        }
        let Some(product) = Product::of_subject(device.subject()) else {
            refuse(GpuCode::ProductUnknown, "GH…, GB… or LS_10", device.subject());
            return Err(reasons);
        };
        let details = match Details::read(report.opaque(), product.kind()) {
            Ok(details) => details,
            Err(error) => {
                refuse(GpuCode::ReportMalformed, "NVIDIA's fields", &error.to_string());
                return Err(reasons);
            }
        };
        if let Some(stated) = details.fwid
            && stated != identity.fwid
        {
            let (expected, found) = (hex::encode(identity.fwid), hex::encode(stated));
            refuse(GpuCode::FirmwareIdMismatch, &expected, &found);
        }
        if !reasons.is_empty() {
            return Err(reasons);
        }
        Ok(Self {
            details,
            product,
            serial: hex::encode(device.serial()),
            attestation_key: hex::encode(leaf.serial()),
            fwid: identity.fwid,
            report,
        })
    }

    /// The report.
    pub fn report(&self) -> &GpuReport<'a> {
        &self.report
    }

    /// What its fields say.
    pub fn details(&self) -> &Details {
        &self.details
    }

    /// The chip, as the factory certified it.
    pub fn product(&self) -> &Product {
        &self.product
    }

    /// Serial number of the device identity certificate, hexadecimal: the device, whatever firmware runs on it.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Serial number of the attestation key's certificate, hexadecimal: another one after a change of firmware.
    pub fn attestation_key(&self) -> &str {
        &self.attestation_key
    }

    /// Identity of the firmware that holds the attestation key.
    pub fn fwid(&self) -> &[u8; DIGEST_LEN] {
        &self.fwid
    }
}

/// The certificates of `chain`, DER one after the other, at most [`MAX_CERTIFICATES`].
///
/// # Errors
/// `gpu-chain-malformed`.
pub fn certificates(chain: &[u8]) -> Result<Vec<Certificate>, Vec<Reason>> {
    let (mut rest, mut certificates) = (chain, Vec::new());
    let wrong = |found: &str| {
        let expected = "1 to 6 DER certificates one after the other";
        vec![refusal(GpuCode::ChainMalformed, expected, found)]
    };
    while !rest.is_empty() {
        if certificates.len() >= MAX_CERTIFICATES {
            return Err(wrong("more"));
        }
        let (der, after) = leading_sequence(rest).map_err(|error| wrong(&error.to_string()))?;
        certificates.push(Certificate::from_der(der).map_err(|error| wrong(&error.to_string()))?);
        rest = after;
    }
    Ok(certificates)
}

/// The point of a key that may sign reports, or what speaks against it.
fn attestation_key(leaf: &Certificate) -> Result<Vec<u8>, &'static str> {
    if leaf.is_ca() {
        return Err("a CA's certificate");
    }
    if !leaf
        .extensions
        .key_usage
        .is_some_and(|usage| usage.digital_signature() && !usage.key_cert_sign())
    {
        return Err("another key usage");
    }
    match leaf.key() {
        SubjectKey::Ec { curve: Curve::P384, .. } => Ok(leaf.key().uncompressed_point()),
        _ => Err("another kind of key"),
    }
}

fn refusal(code: GpuCode, expected: &str, found: &str) -> Reason {
    Reason::new(code, CLAIM, expected, found)
}
