//! GPUs and NVSwitches: their SPDM measurement reports, chains, versions and reference values.

use std::collections::BTreeSet;

use touchstone_evidence::collection::Label;

use super::findings::{Findings, claim};
use super::inputs::{Expected, Freshness, Inputs};
use crate::anchors::Purpose;
use crate::gpu::report::NONCE_LEN;
use crate::gpu::{Difference, GpuCode, GpuReport, Kind, VerifiedGpu, check, claims, record};
use crate::reason::AppraisalCode;
use crate::reference::FoundGpu;

const REPORT: &str = "GPU report";
/// Most measurements named as differing; the rest is counted.
const MAX_NAMED: usize = 8;

/// What the reports of the machine's GPUs came to.
pub(super) struct Gpus {
    /// Serial numbers of the devices, hexadecimal, as their certificates state them.
    pub(super) serials: Vec<String>,
    /// Last second at which their certificates and references hold.
    pub(super) expires: i64,
}

/// Judges the reports: each must be genuine, answer the challenge, and be of a device in a state that a reference in
/// force lists. Several devices may be in states of several references: what runs on one says nothing about another.
pub(super) fn judge(inputs: &Inputs<'_>, expected: &Expected<'_>, findings: &mut Findings) -> Option<Gpus> {
    let reports = list(inputs, Label::GpuReport, findings);
    let chains = list(inputs, Label::GpuCertificates, findings);
    let Some(reports) = reports else {
        if inputs.policy.gpu.required {
            findings.refuse(
                AppraisalCode::RootMissing,
                "GPU",
                "reports of the machine's GPUs",
                "none",
            );
        }
        return None;
    };
    let chains = chains.unwrap_or_default();
    if chains.len() != reports.len() {
        let expected = format!("{} certificate chains, one a report", reports.len());
        findings.refuse(GpuCode::CertificatesMissing, REPORT, expected, chains.len().to_string());
    }
    let nonce = nonce(inputs, expected, findings);
    let bound = matches!(inputs.freshness, Freshness::Bound { .. });
    let mut devices = Vec::new();
    let mut verified: BTreeSet<&[u8]> = BTreeSet::new();
    for (position, bytes) in reports.iter().enumerate() {
        // What is told apart without a signature is told first: chains are dear, and old reports are public.
        if !verified.insert(bytes) {
            let found = format!("report {} once more", position + 1);
            findings.refuse(GpuCode::DeviceTwice, REPORT, "one report a device", found);
            continue;
        }
        if bound && is_of_another_session(position, bytes, nonce.as_ref(), findings) {
            continue;
        }
        let chain = chains.get(position).map(Vec::as_slice).unwrap_or_default();
        devices.extend(verify(inputs, position, bytes, chain, findings));
    }
    let mut gpus = Gpus {
        serials: Vec::new(),
        expires: i64::MAX,
    };
    let (mut seen, mut references) = (BTreeSet::new(), BTreeSet::new());
    for device in &devices {
        if !seen.insert(device.serial()) {
            let expected = "one report a device";
            findings.refuse(
                GpuCode::DeviceTwice,
                REPORT,
                expected,
                format!("{} twice", device.serial()),
            );
            continue;
        }
        findings.refuse_all(match &nonce {
            Some(nonce) => check(device, nonce, &inputs.policy.gpu),
            None => Vec::new(),
        });
        if let Some((name, not_after)) = compare(inputs, device, findings) {
            references.insert(name);
            gpus.expires = gpus.expires.min(not_after);
        }
        gpus.serials.push(device.serial().to_owned());
        gpus.expires = gpus.expires.min(device.not_after());
    }
    let of_kind = |device: &VerifiedGpu<'_>| device.product().kind() == Kind::Gpu;
    if inputs.policy.gpu.required && !devices.iter().any(of_kind) {
        let expected = "reports of the machine's GPUs";
        findings.refuse(
            AppraisalCode::RootMissing,
            "GPU",
            expected,
            "none of a GPU that is genuine",
        );
    }
    findings.claims.extend(claims(devices.iter().map(|device| &**device)));
    findings.set(claim::GPU_REFERENCES, references);
    Some(gpus)
}

/// The byte strings of a record, where there is one.
fn list(inputs: &Inputs<'_>, label: Label, findings: &mut Findings) -> Option<Vec<Vec<u8>>> {
    let record = inputs.collection.get(label)?;
    match record::decode(record) {
        Ok(list) => Some(list),
        Err(found) => {
            let expected = "a CBOR array of 1 to 32 byte strings";
            findings.refuse(AppraisalCode::RecordUnreadable, label.as_str(), expected, found);
            None
        }
    }
}

/// The challenge that the reports must answer: in a session SHA-256 of the binder; in packed evidence the nonce itself.
/// Where that one belongs to another root too, whose report data are longer, its first 32 bytes.
fn nonce(inputs: &Inputs<'_>, expected: &Expected<'_>, findings: &mut Findings) -> Option<[u8; NONCE_LEN]> {
    let alone = [
        Label::TpmQuote,
        Label::SnpReport,
        Label::TdxQuote,
        Label::AzureHclReport,
    ]
    .into_iter()
    .all(|label| inputs.collection.get(label).is_none());
    let whole = <[u8; NONCE_LEN]>::try_from(&*expected.qualifying_data).ok();
    let nonce = match inputs.freshness {
        Freshness::Bound { .. } => whole,
        Freshness::Unbound { .. } if alone => whole,
        Freshness::Unbound { .. } => expected.report_data.and_then(|data| data.first_chunk().copied()),
    };
    if nonce.is_none() {
        let found = format!("{} bytes", expected.qualifying_data.len());
        findings.refuse(GpuCode::NonceMismatch, REPORT, "a challenge of 32 bytes", found);
    }
    nonce
}

/// Whether a report, by its unsigned words, answers another challenge.
fn is_of_another_session(
    position: usize,
    bytes: &[u8],
    nonce: Option<&[u8; NONCE_LEN]>,
    findings: &mut Findings,
) -> bool {
    let Ok(report) = GpuReport::parse(bytes) else {
        return false;
    };
    if nonce.is_some_and(|nonce| nonce == report.nonce()) {
        return false;
    }
    let expected = nonce.map_or("a challenge".to_owned(), hex::encode);
    let claim = format!("{REPORT} {}: nonce", position + 1);
    findings.refuse(GpuCode::NonceMismatch, claim, expected, hex::encode(report.nonce()));
    true
}

fn verify<'r>(
    inputs: &Inputs<'_>,
    position: usize,
    bytes: &'r [u8],
    chain: &[u8],
    findings: &mut Findings,
) -> Option<VerifiedGpu<'r>> {
    let report = match GpuReport::parse(bytes) {
        Ok(report) => report,
        Err(error) => {
            let claim = format!("{REPORT} {}", position + 1);
            let expected = "an SPDM 1.1 measurement exchange";
            findings.refuse(GpuCode::ReportMalformed, claim, expected, error.to_string());
            return None;
        }
    };
    let store = inputs.anchors.store(Purpose::Gpu);
    match VerifiedGpu::verify(report, chain, store, inputs.now, inputs.policy.crl) {
        Ok(device) => Some(device),
        Err(reasons) => {
            findings.refuse_all(reasons);
            None
        }
    }
}

/// Name and end of the reference that lists the device's state.
fn compare(inputs: &Inputs<'_>, device: &VerifiedGpu<'_>, findings: &mut Findings) -> Option<(String, i64)> {
    let of_device = format!("{} {}", device.product(), device.serial());
    match inputs.references.find_gpu(device, inputs.now) {
        FoundGpu::Match(reference) => Some((reference.values.name.clone(), reference.not_after)),
        FoundGpu::OutOfForce(reference) => {
            let found = format!("{}, which is not", reference.values.name);
            findings.refuse(GpuCode::ReferenceOutOfForce, of_device, "a reference in force", found);
            None
        }
        FoundGpu::Deselected(reference) => {
            let found = format!("{}, which the node's region does not select", reference.values.name);
            findings.refuse(
                GpuCode::ReferenceMissing,
                of_device,
                "a reference that is selected",
                found,
            );
            None
        }
        FoundGpu::Nearest(reference, state, differences) => {
            let found = crate::gpu::reference::describe(device);
            let versions = |difference: &&Difference| !matches!(difference, Difference::Measurement { .. });
            if differences.iter().any(|difference| versions(&difference)) {
                let expected = format!("{} (reference {})", state.describe(), reference.values.name);
                findings.refuse(GpuCode::ReferenceMismatch, &of_device, expected, found);
            }
            refuse_measurements(&of_device, &differences, findings);
            None
        }
        FoundGpu::Nothing => {
            let expected = format!("a reference for {}", device.product());
            findings.refuse(GpuCode::ReferenceMissing, of_device, expected, "none");
            None
        }
    }
}

fn refuse_measurements(of_device: &str, differences: &[Difference], findings: &mut Findings) {
    let mut measurements = differences.iter().filter_map(|difference| match difference {
        Difference::Measurement { index, expected, found } => Some((index, expected, found)),
        _ => None,
    });
    for (index, expected, found) in measurements.by_ref().take(MAX_NAMED) {
        let expected: Vec<String> = expected.iter().map(hex::encode).collect();
        let expected = match expected.is_empty() {
            true => "no such block".to_owned(),
            false => expected.join(" or "),
        };
        let found = found.map_or("no such block".to_owned(), hex::encode);
        let claim = format!("{of_device}: measurement {index}");
        findings.refuse(GpuCode::MeasurementMismatch, claim, expected, found);
    }
    let more = measurements.count();
    if more > 0 {
        let claim = format!("{of_device}: further measurements");
        let found = format!("{more} more that differ");
        findings.refuse(GpuCode::MeasurementMismatch, claim, "those of a reference", found);
    }
}
