//! Reports of GPUs as an author's source: the states of golden devices, and which devices they are.

use std::collections::BTreeSet;

use touchstone_evidence::collection::{Collection, Label};
use touchstone_verifier::gpu::{GpuReference, GpuReport, SignedGpu, record};

use super::refused;
use crate::error::PolicyError;

/// What the reports show that the keys beside them signed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Devices {
    /// The states that the devices are in, each once.
    pub states: Vec<GpuReference>,
    /// Serial numbers of the devices, hexadecimal.
    pub serials: Vec<String>,
}

/// Reads the reports, where there are any. Whether NVIDIA certified the keys is the verifier's to say: whose machine it is,
/// the author says, and signs.
pub(super) fn read(collection: &Collection) -> Result<Devices, PolicyError> {
    let label = Label::GpuReport;
    let Some(reports) = collection.get(label) else {
        return Ok(Devices::default());
    };
    let list = |label: Label, bytes| {
        record::decode(bytes).map_err(|found| refused(label.as_str(), "an array of byte strings", found))
    };
    let reports = list(label, reports)?;
    let chains = match collection.get(Label::GpuCertificates) {
        Some(chains) => list(Label::GpuCertificates, chains)?,
        None => Vec::new(),
    };
    if chains.len() != reports.len() {
        let expected = format!("{} chains, one a report", reports.len());
        return Err(refused(Label::GpuCertificates.as_str(), &expected, chains.len()));
    }
    let (mut states, mut devices) = (BTreeSet::new(), Devices::default());
    for (report, chain) in reports.iter().zip(&chains) {
        let parsed =
            GpuReport::parse(report).map_err(|e| refused(label.as_str(), "an SPDM measurement exchange", e))?;
        let signed = SignedGpu::verify(parsed, chain).map_err(|reasons| {
            let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            refused(
                label.as_str(),
                "a report signed by the key beside it",
                reasons.join("; "),
            )
        })?;
        states.insert(GpuReference::of_golden(&signed));
        devices.serials.push(signed.serial().to_owned());
    }
    devices.states = states.into_iter().collect();
    Ok(devices)
}
