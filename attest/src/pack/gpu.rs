//! Reports and certificate chains of GPUs, as NVIDIA's driver and tools hand them out.

use touchstone_verifier::gpu::GpuReport;
use touchstone_verifier::gpu::record::{self, MAX_DEVICES};
use touchstone_verifier::gpu::verified::certificates;

use super::{PackError, is_pem};

/// The records of reports and of chains, in the order of the files.
///
/// A report is binary or hexadecimal text. A file of certificates is PEM blocks, or DER one after the other; the
/// attestation key's comes first.
pub(super) fn records(reports: &[Vec<u8>], chains: &[Vec<u8>]) -> Result<(Vec<u8>, Vec<u8>), PackError> {
    if reports.len() != chains.len() || reports.len() > MAX_DEVICES {
        return Err(PackError::GpuCount {
            reports: reports.len(),
            chains: chains.len(),
        });
    }
    let reports: Result<Vec<_>, _> = reports.iter().map(|report| binary(report)).collect();
    let chains: Result<Vec<_>, _> = chains.iter().map(|chain| der(chain)).collect();
    Ok((record::encode(reports?), record::encode(chains?)))
}

fn binary(report: &[u8]) -> Result<Vec<u8>, PackError> {
    let text = report.trim_ascii();
    let bytes = match text.iter().all(u8::is_ascii_hexdigit) {
        true => hex::decode(text).map_err(|error| PackError::GpuReport {
            cause: error.to_string(),
        })?,
        false => report.to_vec(),
    };
    GpuReport::parse(&bytes).map_err(|error| PackError::GpuReport {
        cause: error.to_string(),
    })?;
    Ok(bytes)
}

fn der(chain: &[u8]) -> Result<Vec<u8>, PackError> {
    let wrong = |cause: String| PackError::GpuCertificates { cause };
    let joined = if is_pem(chain) {
        let blocks: Result<Vec<_>, _> = x509_parser::pem::Pem::iter_from_buffer(chain).collect();
        let blocks = blocks.map_err(|error| wrong(error.to_string()))?;
        blocks.into_iter().flat_map(|pem| pem.contents).collect()
    } else {
        chain.to_vec()
    };
    match certificates(&joined) {
        Ok(read) if !read.is_empty() => Ok(joined),
        Ok(_) => Err(wrong("no certificate".into())),
        Err(reasons) => Err(wrong(reasons.iter().map(ToString::to_string).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_and_pem_become_bytes() {
        let Some(dir) = touchstone_vectors::genuine("nvidia") else {
            return;
        };
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        let (report, chain) = (read("hopper_a.report.hex"), read("hopper_a.chain.pem"));
        let binary = hex::decode(&report).unwrap();
        let (of_text, of_pem) = records(&[report.clone()], &[chain.clone()]).unwrap();
        let der = record::decode(&of_pem).unwrap().remove(0);
        assert_eq!(record::decode(&of_text).unwrap(), [binary.clone()]);
        assert_eq!(records(&[binary.clone()], &[der]).unwrap(), (of_text, of_pem));
        for (reports, chains) in [
            (vec![report.clone()], vec![]),
            (vec![binary[1..].to_vec()], vec![chain.clone()]),
            (vec![report[1..].to_vec()], vec![chain.clone()]),
            (vec![report], vec![chain[..2000].to_vec()]),
            (vec![binary], vec![Vec::new()]),
        ] {
            assert!(records(&reports, &chains).is_err());
        }
    }
}
