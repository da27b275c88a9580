//! An SEV-SNP report as an author's source: what the golden guest was launched from, and which machine it is.

use touchstone_evidence::collection::{Collection, Label};
use touchstone_verifier::hcl::{HardwareKind, HclReport};
use touchstone_verifier::inventory::{CvmIdentity, GuestId, Platform};
use touchstone_verifier::snp::{Report, SignedReport, SnpReference, Vek, VekKind};
use touchstone_verifier::x509::Certificate;
use touchstone_verifier::x509::ek_certificate::read_ek_chain;

use super::{endorses, refused};
use crate::error::PolicyError;

/// What a report shows that the key beside it signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guest {
    /// What it was launched from, how, and on what: the reference's values.
    pub reference: SnpReference,
    /// Which machine it is.
    pub identity: CvmIdentity,
    /// What the author of a node should know of that identity.
    pub notes: Vec<String>,
}

/// Reads the report, where there is one. Whose key signed it is the verifier's to say: whose machine it is, the author
/// says, and signs.
pub(super) fn read(collection: &Collection, notes: &mut Vec<String>) -> Result<Option<Guest>, PolicyError> {
    let Some(bytes) = collection.get(Label::SnpReport).or_else(|| in_azure(collection)) else {
        return Ok(None);
    };
    let report = signed(bytes, collection.get(Label::SnpCertificates).unwrap_or_default()).map_err(|found| {
        refused(
            Label::SnpReport.as_str(),
            "a report signed by the key whose certificate came",
            found,
        )
    })?;
    let mut of_identity = Vec::new();
    let identity = identity(&report, &mut of_identity);
    note(&report, notes);
    Ok(Some(Guest {
        reference: SnpReference {
            endorses: endorses(collection),
            ..SnpReference::of_golden(&report)
        },
        identity,
        notes: of_identity,
    }))
}

/// The report that Azure's paravisor keeps, where that is one of SEV-SNP.
pub(crate) fn in_azure(collection: &Collection) -> Option<&[u8]> {
    let report = HclReport::parse(collection.get(Label::AzureHclReport)?).ok()?;
    (report.kind() == HardwareKind::Snp).then(|| report.hardware())
}

/// The report, signed by one of the certified keys beside it. No chain is looked at.
pub(crate) fn signed<'a>(report: &'a [u8], certificates: &[u8]) -> Result<SignedReport<'a>, String> {
    let report = Report::parse(report).map_err(|e| e.to_string())?;
    let certificates = read_ek_chain(certificates).map_err(|e| e.to_string())?;
    let mut found = "no certificate of a signing key".to_owned();
    for certificate in certificates
        .iter()
        .filter(|certificate| !Certificate::is_ca(certificate))
    {
        let vek = match Vek::from_der(certificate.as_der()) {
            Ok(vek) => vek,
            Err(e) => {
                found = e.to_string();
                continue;
            }
        };
        match SignedReport::verify(report, vek) {
            Ok(signed) => return Ok(signed),
            Err(reasons) => {
                let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                found = reasons.join("; ");
            }
        }
    }
    Err(found)
}

/// Platform, and of the single guest what there is: host data before the ID key.
fn identity(report: &SignedReport<'_>, notes: &mut Vec<String>) -> CvmIdentity {
    let read = report.report();
    let not_zero = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
    let platform = match report.vek().kind() {
        VekKind::Vcek { chip_id } => {
            if read.chip_id_masked() {
                notes.push(
                    "the report masks its chip, which is taken from the certificate: such machines are refused unless \
                     snp.masked_chips is allow"
                        .into(),
                );
            }
            Platform::SnpChip(chip_id.clone())
        }
        VekKind::Vlek { provider } => {
            notes.push(format!(
                "the signing key is {provider}'s: nothing says which of its machines this is"
            ));
            Platform::SnpProvider(provider.clone())
        }
    };
    let guest = if not_zero(read.host_data()) {
        Some(GuestId::HostData(read.host_data().to_vec()))
    } else if not_zero(read.id_key_digest()) {
        Some(GuestId::IdKey(read.id_key_digest().to_vec()))
    } else {
        notes.push(
            "the guest has neither host data nor an ID key: any guest on this platform that matches a reference is this \
             node"
                .into(),
        );
        None
    };
    CvmIdentity { platform, guest }
}

/// What such a machine will be refused for under the settings of a new repository.
fn note(report: &SignedReport<'_>, notes: &mut Vec<String>) {
    let read = report.report();
    let mut add = |words: &str| notes.push(words.to_owned());
    if read.policy().debug() {
        add("the host may debug this guest: it is refused unless snp.debug is allow");
    }
    if read.vmpl() != 0 {
        add("the report is from a privilege level above 0: it is refused unless snp.max_vmpl lets it");
    }
    if read.version() < 3 || !read.platform_info().alias_check_complete() {
        add("the platform does not show the memory alias check: it is refused unless snp.alias_check lets it");
    }
}
