//! What a guest says of itself in a hello: claims, in the words of the inventory. Whoever verifies the report reads them
//! there again.

use touchstone_verifier::inventory::{GuestId, Platform};
use touchstone_verifier::snp::{self, Vek, VekKind};
use touchstone_verifier::tdx;

use super::certificates::split;
use super::{Report, TeeError};

/// Platform and guest, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The platform.
    pub platform: String,
    /// Every value by which the report names the guest.
    pub guests: Vec<String>,
}

/// What an SEV-SNP report and the certificate of its signing key say: the chip or the provider that the certificate
/// names, host data and id key where the report has them.
///
/// # Errors
/// [`TeeError::Malformed`].
pub fn of_snp(report: &Report, certificates: &[u8]) -> Result<Claimed, TeeError> {
    let parsed = snp::Report::parse(&report.report).map_err(|error| TeeError::Malformed {
        what: "SEV-SNP report",
        expected: "a report of version 2 to 5".into(),
        found: error.to_string(),
    })?;
    let vlek = parsed.signing_key() == snp::SigningKey::Vlek;
    let key = split(certificates)
        .iter()
        .filter_map(|der| Vek::from_der(der).ok())
        .find(|vek| matches!(vek.kind(), VekKind::Vlek { .. }) == vlek)
        .ok_or_else(|| TeeError::Malformed {
            what: "certificates",
            expected: format!(
                "the {} of the key that signs this machine's reports: the host gives none, so name a file in `certificates`",
                if vlek { "VLEK certificate" } else { "VCEK certificate" }
            ),
            found: "none".into(),
        })?;
    let platform = match key.kind() {
        VekKind::Vcek { chip_id } => Platform::SnpChip(chip_id.clone()),
        VekKind::Vlek { provider } => Platform::SnpProvider(provider.clone()),
    };
    let shown = |bytes: &[u8], make: fn(Vec<u8>) -> GuestId| {
        let is_set = bytes.iter().any(|byte| *byte != 0);
        is_set.then(|| make(bytes.to_vec()).to_string())
    };
    let guests = [
        shown(parsed.host_data(), GuestId::HostData),
        shown(parsed.id_key_digest(), GuestId::IdKey),
    ];
    Ok(Claimed {
        platform: platform.to_string(),
        guests: guests.into_iter().flatten().collect(),
    })
}

/// What a TDX quote says: the platform by the PPID that the certificate in it names, or the one in `collateral` (Intel's
/// answers, JSON) where the quote has none, and `MRCONFIGID` where it is set.
///
/// # Errors
/// [`TeeError::Malformed`].
pub fn of_tdx(report: &Report, collateral: Option<&[u8]>) -> Result<Claimed, TeeError> {
    let malformed = |found: String| TeeError::Malformed {
        what: "TDX quote",
        expected: "a quote of version 4 or 5, and the platform's certificate in it or in tee.collateral".into(),
        found,
    };
    let quote = tdx::Quote::parse(&report.report).map_err(|error| malformed(error.to_string()))?;
    let collateral = collateral.map(tdx::Collateral::parse).transpose();
    let collateral = collateral.map_err(|error| TeeError::Malformed {
        what: "collateral",
        expected: "Intel's answers in JSON".into(),
        found: error.to_string(),
    })?;
    let platform = tdx::Platform::claimed_by(&quote, collateral.as_ref()).map_err(|reasons| {
        let first = reasons.first().map(ToString::to_string);
        malformed(first.unwrap_or_default())
    })?;
    let config_id = quote.mr_config_id();
    let is_set = config_id.iter().any(|byte| *byte != 0);
    Ok(Claimed {
        platform: Platform::TdxPlatform(platform.ppid).to_string(),
        guests: is_set
            .then(|| GuestId::ConfigId(config_id.to_vec()).to_string())
            .into_iter()
            .collect(),
    })
}
