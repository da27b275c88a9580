//! Reports and certificate chains of GPUs, as NVIDIA's driver and tools hand them out.

use base64::prelude::*;
use serde::Deserialize;
use serde::de::IgnoredAny;
use touchstone_verifier::gpu::record::{self, MAX_DEVICES};
use touchstone_verifier::gpu::verified::certificates;
use touchstone_verifier::gpu::{GpuReport, ReportError};
use touchstone_verifier::reason::sanitise;

use super::{PackError, is_pem};

/// A device's report and chain, as NVIDIA's attestation SDK serialises them: base64, the chain as PEM. What else it says
/// (architecture, challenge) is in what the device signed.
#[derive(Deserialize)]
struct Serialised {
    evidence: String,
    certificate: String,
}

/// The same devices within an object: what `nvattest collect-evidence` writes beside how collecting went, or the list as a
/// request to NVIDIA's attestation service has it, or the attestation agent of Confidential Containers.
#[derive(Deserialize)]
struct Collected {
    result_code: Option<i64>,
    result_message: Option<String>,
    evidences: Option<Vec<Serialised>>,
    #[serde(alias = "device_evidence_list")]
    evidence_list: Option<Vec<Serialised>>,
    /// What `nvattest attest` writes in their place.
    claims: Option<IgnoredAny>,
}

impl Collected {
    /// The devices. A result that is not told is not taken for a good one.
    fn devices(self) -> Result<Vec<Serialised>, String> {
        match (self.result_code, self.evidences, self.evidence_list) {
            (Some(0), Some(devices), None) | (None, None, Some(devices)) => Ok(devices),
            (Some(0), None, None) if self.claims.is_some() => {
                Err("claims about devices, and not what they signed: nvattest collect-evidence writes that".into())
            }
            (Some(code), ..) => {
                let said = sanitise(&self.result_message.unwrap_or_default(), MAX_MESSAGE);
                Err(format!("collecting it failed ({code}): {said}"))
            }
            (None, ..) => Err("neither a result_code with evidences nor an evidence_list".into()),
        }
    }
}

/// Longest message of NVIDIA's tool that is repeated, in bytes.
const MAX_MESSAGE: usize = 200;

/// The records of reports and of chains, in the order of the files.
///
/// A report is binary or hexadecimal text, or JSON of NVIDIA's SDK or its tool, which has the chain in it. A file of certificates is PEM
/// blocks, or DER one after the other; the attestation key's comes first. There is one for each report but those in JSON.
pub(super) fn records(reports: &[Vec<u8>], chains: &[Vec<u8>]) -> Result<(Vec<u8>, Vec<u8>), PackError> {
    let (mut taken, mut rest) = (Vec::new(), chains.iter());
    let mut alone = 0;
    for report in reports {
        // A report begins with 0x11 or, as text, with `1`.
        if matches!(report.trim_ascii_start().first(), Some(b'[' | b'{')) {
            taken.extend(serialised(report)?);
            continue;
        }
        alone += 1;
        if let Some(chain) = rest.next() {
            taken.push((binary(report)?, der(chain)?));
        }
    }
    if alone != chains.len() || taken.len() > MAX_DEVICES {
        return Err(PackError::GpuCount {
            reports: alone,
            chains: chains.len(),
        });
    }
    let (reports, chains): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
    Ok((record::encode(reports), record::encode(chains)))
}

/// A device's report and the certificate chain beside it.
type Device = (Vec<u8>, Vec<u8>);

fn serialised(json: &[u8]) -> Result<Vec<Device>, PackError> {
    let wrong = |cause: String| PackError::GpuReport { cause };
    let devices: Vec<Serialised> = if json.trim_ascii_start().starts_with(b"{") {
        let collected: Collected = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
        collected.devices().map_err(wrong)?
    } else {
        serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?
    };
    if devices.is_empty() {
        return Err(wrong("JSON of no device".into()));
    }
    let bytes = |text: &str| BASE64_STANDARD.decode(text).map_err(|error| wrong(error.to_string()));
    devices
        .iter()
        .map(|device| Ok((binary(&bytes(&device.evidence)?)?, der(&bytes(&device.certificate)?)?)))
        .collect()
}

fn binary(report: &[u8]) -> Result<Vec<u8>, PackError> {
    let text = report.trim_ascii();
    let bytes = match text.iter().all(u8::is_ascii_hexdigit) {
        true => hex::decode(text).map_err(|error| PackError::GpuReport {
            cause: error.to_string(),
        })?,
        false => report.to_vec(),
    };
    let wrong = |error: ReportError| PackError::GpuReport {
        cause: error.to_string(),
    };
    match GpuReport::parse(&bytes) {
        Ok(_) => Ok(bytes),
        // Zeros behind the signature are what the driver's buffer had left: no part of the exchange, and not packed.
        Err(error @ ReportError::Trailing { found }) => {
            let (exchange, rest) = bytes.split_at(bytes.len().saturating_sub(found));
            if rest.iter().any(|byte| *byte != 0) {
                return Err(wrong(error));
            }
            GpuReport::parse(exchange).map_err(wrong)?;
            Ok(exchange.to_vec())
        }
        Err(error) => Err(wrong(error)),
    }
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
    use std::slice::from_ref;

    use super::*;

    #[test]
    fn hexadecimal_and_pem_become_bytes() {
        let Some(dir) = touchstone_vectors::genuine("nvidia") else {
            return;
        };
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        let (report, chain) = (read("hopper_a.report.hex"), read("hopper_a.chain.pem"));
        let binary = hex::decode(&report).unwrap();
        let (of_text, of_pem) = records(from_ref(&report), from_ref(&chain)).unwrap();
        let der = record::decode(&of_pem).unwrap().remove(0);
        assert_eq!(record::decode(&of_text).unwrap(), from_ref(&binary));
        assert_eq!(records(from_ref(&binary), &[der]).unwrap(), (of_text, of_pem));
        // The SDK's JSON beside another device, whose chain is the only file of certificates.
        let json = read("hopper_evidence.json");
        let (both, _) = records(&[json.clone(), report.clone()], from_ref(&chain)).unwrap();
        let both = record::decode(&both).unwrap();
        assert_eq!((both.len(), &both[1]), (2, &binary));
        for (reports, chains) in [
            (vec![json.clone()], vec![chain.clone()]),
            (vec![json[..json.len() - 9].to_vec()], vec![]),
            (vec![b"[]".to_vec()], vec![]),
            (vec![report.clone()], vec![]),
            (vec![binary[1..].to_vec()], vec![chain.clone()]),
            (vec![report[1..].to_vec()], vec![chain.clone()]),
            (vec![report], vec![chain[..2000].to_vec()]),
            (vec![binary], vec![Vec::new()]),
        ] {
            assert!(records(&reports, &chains).is_err());
        }
    }

    #[test]
    fn what_the_buffer_had_left_is_cut_off() {
        let Some(dir) = touchstone_vectors::genuine("nvidia") else {
            return;
        };
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        let (report, chain) = (read("hopper_a.report.hex"), read("hopper_a.chain.pem"));
        let exact = hex::decode(&report).unwrap();
        let packed = |report: Vec<u8>| records(&[report], from_ref(&chain));
        let plain = packed(exact.clone()).unwrap();
        for zeros in [1, 2, 4096] {
            let padded = [exact.as_slice(), &vec![0; zeros]].concat();
            assert_eq!(
                packed(hex::encode(&padded).into_bytes()).unwrap(),
                plain,
                "{zeros} in text"
            );
            assert_eq!(packed(padded).unwrap(), plain, "{zeros}");
        }
        for behind in [&[1u8][..], &[0, 0, 1], &[1, 0, 0]] {
            let found = packed([exact.as_slice(), behind].concat());
            assert!(
                matches!(found, Err(PackError::GpuReport { .. })),
                "{behind:?}: {found:?}"
            );
        }
    }

    #[test]
    fn what_nvidias_tool_collects_is_its_sdks_json_with_a_result() {
        let Some(dir) = touchstone_vectors::genuine("nvidia") else {
            return;
        };
        let json = std::fs::read(dir.join("hopper_evidence.json")).unwrap();
        let evidences = std::str::from_utf8(&json).unwrap();
        let pack = |text: String| records(&[text.into_bytes()], &[]);
        let bare = pack(evidences.to_owned()).unwrap();
        let collected = |code: &str, evidences: &str| {
            format!("\n{{\"result_code\":{code},\"result_message\":\"No GPU\",\"evidences\":{evidences}}}")
        };
        assert_eq!(pack(collected("0", evidences)).unwrap(), bare);
        for (code, evidences) in [
            ("1", evidences),
            ("0", "null"),
            ("1", "null"),
            ("0", "[]"),
            ("\"0\"", evidences),
        ] {
            assert!(pack(collected(code, evidences)).is_err(), "{code}");
        }
        let failed = pack(collected("3", "null")).unwrap_err().to_string();
        assert!(failed.contains("(3): No GPU"), "{failed}");
        // A result that is not told is not taken for a good one.
        assert!(pack(format!("{{\"evidences\":{evidences}}}")).is_err());
        let claims = pack("{\"result_code\":0,\"result_message\":\"Ok\",\"claims\":[]}".into());
        let claims = claims.unwrap_err().to_string();
        assert!(claims.contains("collect-evidence"), "{claims}");
    }

    #[test]
    fn lists_of_devices_go_by_other_names_too() {
        let Some(dir) = touchstone_vectors::genuine("nvidia") else {
            return;
        };
        let json = std::fs::read(dir.join("hopper_evidence.json")).unwrap();
        let evidences = std::str::from_utf8(&json).unwrap();
        let pack = |text: String| records(&[text.into_bytes()], &[]);
        let bare = pack(evidences.to_owned()).unwrap();
        // As some send it, the report is hexadecimal text within the base64.
        let mut inner: Vec<serde_json::Value> = serde_json::from_str(evidences).unwrap();
        for device in &mut inner {
            let report = BASE64_STANDARD.decode(device["evidence"].as_str().unwrap()).unwrap();
            device["evidence"] = BASE64_STANDARD.encode(hex::encode(report)).into();
        }
        let inner = serde_json::Value::from(inner).to_string();
        for name in ["evidence_list", "device_evidence_list"] {
            for devices in [evidences, &inner] {
                let request = format!("{{\"nonce\":\"00\",\"arch\":\"HOPPER\",\"{name}\":{devices}}}");
                assert_eq!(pack(request).unwrap(), bare, "{name}");
            }
            assert!(pack(format!("{{\"{name}\":[]}}")).is_err(), "{name}");
        }
        for mixed in [
            format!("{{\"evidence_lists\":{evidences}}}"),
            format!("{{\"result_code\":3,\"evidence_list\":{evidences}}}"),
            format!("{{\"result_code\":0,\"evidence_list\":{evidences}}}"),
            format!("{{\"result_code\":0,\"evidences\":{evidences},\"evidence_list\":{evidences}}}"),
            "{\"evidence_list\":[{\"evidence\":1}]}".into(),
        ] {
            assert!(pack(mixed.clone()).is_err(), "{mixed:.60}");
        }
    }
}
