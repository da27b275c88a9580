//! Reports of GPUs in words. For people who want to see: whose keys signed them, only `touchstone verify` judges.

use serde_json::{Value, json};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_verifier::gpu::reference::describe;
use touchstone_verifier::gpu::{GpuReport, SignedGpu, record};

/// The reports, told.
pub(super) struct ToldGpus {
    pub(super) lines: Vec<String>,
    pub(super) json: Value,
}

impl ToldGpus {
    /// Reads what there is; nothing here fails. None where there is no report.
    pub(super) fn of(collection: &Collection) -> Option<Self> {
        let reports = match record::decode(collection.get(Label::GpuReport)?) {
            Ok(reports) => reports,
            Err(found) => {
                return Some(Self {
                    lines: vec![format!("the reports cannot be read: {found}")],
                    json: json!({ "error": found }),
                });
            }
        };
        let chains = collection.get(Label::GpuCertificates).map(record::decode);
        let chains = chains.and_then(Result::ok).unwrap_or_default();
        let (mut lines, mut documents) = (Vec::new(), Vec::new());
        for (position, bytes) in reports.iter().enumerate() {
            let chain = chains.get(position).map(Vec::as_slice).unwrap_or_default();
            let number = position + 1;
            match GpuReport::parse(bytes) {
                Ok(report) => {
                    let (told, document) = tell(report, chain);
                    lines.extend(told.into_iter().map(|line| format!("{number}: {line}")));
                    documents.push(document);
                }
                Err(error) => {
                    lines.push(format!("{number}: the report cannot be read: {error}"));
                    documents.push(json!({ "error": error.to_string() }));
                }
            }
        }
        Some(Self {
            lines,
            json: Value::Array(documents),
        })
    }
}

fn tell(report: GpuReport<'_>, chain: &[u8]) -> (Vec<String>, Value) {
    let nonce = hex::encode(report.nonce());
    let mut lines = vec![format!("answers the challenge {nonce}")];
    let measured = report.measurements().iter();
    let measured = measured
        .filter(|block| block.digest.iter().any(|byte| *byte != 0))
        .count();
    lines.push(format!(
        "{} measurement blocks, {measured} in use",
        report.measurements().len()
    ));
    let measurements: serde_json::Map<String, Value> = report
        .measurements()
        .iter()
        .map(|block| (block.index.to_string(), hex::encode(block.digest).into()))
        .collect();
    match SignedGpu::verify(report, chain) {
        Ok(signed) => {
            lines.push(format!("{}, device {}", describe(&signed), signed.serial()));
            lines
                .push("signed by the key of that chain (whether NVIDIA certified it, touchstone verify judges)".into());
            let document = json!({
                "nonce": nonce,
                "chip": signed.product().as_str(),
                "serial": signed.serial(),
                "state": describe(&signed),
                "measurements": measurements,
                "signed_by_key_in_evidence": true,
            });
            (lines, document)
        }
        Err(reasons) => {
            let why: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            lines.push(format!(
                "NOT SHOWN to be signed by a key that came with it: {}",
                why.join("; ")
            ));
            let document = json!({
                "nonce": nonce, "measurements": measurements, "signed_by_key_in_evidence": false,
            });
            (lines, document)
        }
    }
}
