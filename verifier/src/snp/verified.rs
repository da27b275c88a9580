//! A report that a certified key signed, about the chip and the security versions the key is for.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use super::code::SnpCode;
use super::product::Product;
use super::report::{Report, SigningKey};
use super::tcb::Tcb;
use super::vek::{Vek, VekKind, VerifiedVek};
use crate::reason::Reason;

/// What claims of reasons start with.
const CLAIM: &str = "SNP report";

/// A report and the key that signed it: signature, kind of key, product, chip and security versions hold together. Only
/// [`SignedReport::verify`] makes one. Whose key it is, it does not say: that is [`VerifiedReport`]'s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedReport<'a> {
    report: Report<'a>,
    vek: Vek,
    reported: Tcb,
    current: Tcb,
    committed: Tcb,
    launch: Tcb,
}

/// A report signed by a key that AMD certified. What it says may still be unacceptable: see [`super::check`].
///
/// ```compile_fail,E0423
/// use touchstone_verifier::snp::{SignedReport, VerifiedReport};
///
/// fn forged<'a>(signed: SignedReport<'a>) -> VerifiedReport<'a> {
///     VerifiedReport(signed)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedReport<'a>(SignedReport<'a>);

impl<'a> VerifiedReport<'a> {
    /// Checks that `vek` signed `report` and is the key the report names.
    ///
    /// # Errors
    /// Every reason against it, not the first.
    pub fn verify(report: Report<'a>, vek: &VerifiedVek) -> Result<Self, Vec<Reason>> {
        SignedReport::verify(report, vek.vek().clone()).map(Self)
    }
}

impl<'a> std::ops::Deref for VerifiedReport<'a> {
    type Target = SignedReport<'a>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<'a> SignedReport<'a> {
    /// Checks that `vek` signed `report` and is the key the report names.
    ///
    /// # Errors
    /// Every reason against it, not the first.
    pub fn verify(report: Report<'a>, vek: Vek) -> Result<Self, Vec<Reason>> {
        let mut reasons = Vec::new();
        let mut refuse = |code: SnpCode, expected: String, found: String| {
            reasons.push(Reason::new(code, CLAIM, expected, found));
        };
        let kind_fits = matches!(
            (report.signing_key(), vek.kind()),
            (SigningKey::Vcek, VekKind::Vcek { .. }) | (SigningKey::Vlek, VekKind::Vlek { .. })
        );
        if !kind_fits {
            let certified = match vek.kind() {
                VekKind::Vcek { .. } => "a VCEK",
                VekKind::Vlek { .. } => "a VLEK",
            };
            refuse(
                SnpCode::SigningKey,
                certified.into(),
                format!("{:?}", report.signing_key()),
            );
        }
        let signature = report.signature().map(|signature| {
            UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, vek.point()).verify(report.signed(), &signature)
        });
        match signature {
            Ok(Ok(())) => {}
            Ok(Err(_)) => refuse(
                SnpCode::SignatureInvalid,
                "a signature by the certified key".into(),
                "another".into(),
            ),
            Err(error) => refuse(
                SnpCode::SignatureInvalid,
                "r and s in the range of P-384".into(),
                error.to_string(),
            ),
        }
        if let Some((family, model, _)) = report.cpuid()
            && Product::of_cpuid(family, model) != Some(vek.product())
        {
            let found = format!("CPUID family {family:#04x} model {model:#04x}");
            refuse(SnpCode::ProductMismatch, vek.product().to_string(), found);
        }
        if let VekKind::Vcek { chip_id } = vek.kind()
            && !report.chip_id_masked()
        {
            let (own, rest) = report.chip_id().split_at_checked(chip_id.len()).unwrap_or_default();
            if own != chip_id.as_slice() || rest.iter().any(|byte| *byte != 0) {
                refuse(
                    SnpCode::ChipMismatch,
                    hex::encode(chip_id),
                    hex::encode(report.chip_id()),
                );
            }
        }
        let mut read = |name: &str, bytes: [u8; 8]| match Tcb::parse(bytes, vek.product()) {
            Ok(tcb) => Some(tcb),
            Err(error) => {
                refuse(
                    SnpCode::TcbMismatch,
                    format!("{name} as {} lays it out", vek.product()),
                    error.to_string(),
                );
                None
            }
        };
        let tcbs = (
            read("REPORTED_TCB", report.reported_tcb()),
            read("CURRENT_TCB", report.current_tcb()),
            read("COMMITTED_TCB", report.committed_tcb()),
            read("LAUNCH_TCB", report.launch_tcb()),
        );
        if let Some(reported) = tcbs.0.filter(|reported| *reported != vek.tcb()) {
            refuse(SnpCode::TcbMismatch, vek.tcb().to_string(), reported.to_string());
        }
        match tcbs {
            (Some(reported), Some(current), Some(committed), Some(launch)) if reasons.is_empty() => Ok(Self {
                report,
                vek,
                reported,
                current,
                committed,
                launch,
            }),
            _ => Err(reasons),
        }
    }

    /// The report.
    pub fn report(&self) -> &Report<'a> {
        &self.report
    }

    /// The key that signed it.
    pub fn vek(&self) -> &Vek {
        &self.vek
    }

    /// The product line.
    pub fn product(&self) -> Product {
        self.vek.product()
    }

    /// What the signing key was derived from.
    pub fn reported_tcb(&self) -> Tcb {
        self.reported
    }

    /// What runs now.
    pub fn current_tcb(&self) -> Tcb {
        self.current
    }

    /// What the platform can not go back below.
    pub fn committed_tcb(&self) -> Tcb {
        self.committed
    }

    /// What ran when the guest was launched.
    pub fn launch_tcb(&self) -> Tcb {
        self.launch
    }

    /// The chip that AMD certified the key for, as the product names it, also where the report masks it; none where the
    /// key is a provider's.
    pub fn certified_chip(&self) -> Option<&[u8]> {
        match self.vek.kind() {
            VekKind::Vcek { chip_id } => Some(chip_id),
            VekKind::Vlek { .. } => None,
        }
    }

    /// The chip, as the product names it; none where it is masked or the key is a provider's.
    pub fn chip_id(&self) -> Option<&'a [u8]> {
        if self.report.chip_id_masked() || matches!(self.vek.kind(), VekKind::Vlek { .. }) {
            return None;
        }
        self.report.chip_id().get(..self.vek.product().chip_id_len())
    }
}
