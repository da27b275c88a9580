//! SEV-SNP files of other tools: `snpguest report`, the guest device, `configfs-tsm`.

use serde::Deserialize;
use touchstone_verifier::snp::report::{REPORT_LEN, VERSIONS};

use crate::tee::certificates;

/// Length of the header of the message around a report: status, size, 24 reserved bytes (AMD 56860, MSG_REPORT_RSP).
const HEADER: usize = 32;
/// Most bytes of a message with its padding (Linux, `struct snp_report_resp`).
const MAX_MESSAGE: usize = 4096;
/// Most files of certificates.
const MAX_FILES: usize = 8;

/// The 1184 bytes of the report: the file itself, or what is in the message. Nothing but zeros may be behind it.
pub(super) fn report(file: &[u8]) -> Result<&[u8], String> {
    if file.len() > MAX_MESSAGE {
        return Err(format!("{} bytes", file.len()));
    }
    let word = |offset: usize| {
        file.get(offset..)?
            .first_chunk::<4>()
            .map(|bytes| u32::from_le_bytes(*bytes))
    };
    // A report begins with its version, a message with its status, which is 0 where a report is in it.
    let start = match word(0) {
        Some(version) if VERSIONS.contains(&version) => 0,
        Some(0) if word(4).and_then(|size| usize::try_from(size).ok()) == Some(REPORT_LEN) => HEADER,
        Some(found) => return Err(format!("something that begins with {found:#010x}")),
        None => return Err(format!("{} bytes", file.len())),
    };
    let (before, rest) = file.split_at_checked(start).unwrap_or_default();
    let reserved = before.get(8..).unwrap_or_default();
    let Some((report, behind)) = rest.split_at_checked(REPORT_LEN) else {
        return Err(format!("{} bytes", file.len()));
    };
    if reserved.iter().chain(behind).any(|byte| *byte != 0) {
        return Err(format!("{} bytes, with something beside the report", file.len()));
    }
    Ok(report)
}

/// The certificates of all files, DER one after the other, each once.
pub(super) fn certificates(files: &[Vec<u8>]) -> Result<Vec<u8>, String> {
    if files.len() > MAX_FILES {
        return Err(format!("more than {MAX_FILES} files"));
    }
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for file in files {
        let answer = answer(file)?;
        let file = answer.as_ref().unwrap_or(file);
        // What stands before the first block of a PEM file is commentary.
        let pem = file.windows(PEM.len()).take(4096).position(|window| window == PEM);
        let der = file.first() == Some(&0x30);
        let bytes = match pem.filter(|_| !der) {
            Some(start) => file.get(start..).unwrap_or_default(),
            None => file,
        };
        let record = certificates::record(bytes).map_err(|error| error.to_string())?;
        let split = certificates::split(&record);
        if split.is_empty() {
            return Err("a file without one".into());
        }
        for certificate in split {
            if !seen.contains(&certificate) {
                seen.push(certificate);
            }
        }
    }
    Ok(seen.concat())
}

const PEM: &[u8] = b"-----BEGIN CERTIFICATE";

/// What Azure's metadata service answers (THIM, `/metadata/THIM/amd/certification`): the signing key's certificate and those
/// above it, PEM, among other members. `host-amd-cert-base64` of its container instances is the same in base64.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    vcek_cert: String,
    certificate_chain: String,
}

fn answer(file: &[u8]) -> Result<Option<Vec<u8>>, String> {
    if file.trim_ascii_start().first() != Some(&b'{') {
        return Ok(None);
    }
    let answer: Answer = serde_json::from_slice(file).map_err(|error| error.to_string())?;
    Ok(Some(
        format!("{}\n{}", answer.vcek_cert, answer.certificate_chain).into_bytes(),
    ))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    fn plain() -> Vec<u8> {
        let mut report = vec![0xAB; REPORT_LEN];
        report[..4].copy_from_slice(&3u32.to_le_bytes());
        report
    }

    fn message() -> Vec<u8> {
        let mut message = vec![0; HEADER];
        message[4..8].copy_from_slice(&(REPORT_LEN as u32).to_le_bytes());
        message.extend(plain());
        message
    }

    #[test]
    fn a_report_is_found_alone_and_in_its_message() {
        let padded = |mut bytes: Vec<u8>, length: usize| {
            bytes.resize(length, 0);
            bytes
        };
        for file in [plain(), padded(plain(), 4000), message(), padded(message(), 4000)] {
            assert_eq!(report(&file).unwrap(), plain());
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let changed = |mut bytes: Vec<u8>, at: usize| {
            bytes[at] ^= 0x40;
            bytes
        };
        let longer = |mut bytes: Vec<u8>| {
            bytes.push(1);
            bytes
        };
        for (what, file) in [
            ("nothing", Vec::new()),
            ("an unknown version", changed(plain(), 0)),
            ("something behind the report", longer(plain())),
            ("a status that is an error", changed(message(), 0)),
            ("another size", changed(message(), 4)),
            ("something reserved", changed(message(), 9)),
            ("something behind the message", longer(message())),
            ("too long", vec![3; MAX_MESSAGE + 1]),
        ] {
            assert!(report(&file).is_err(), "{what}");
        }
        for (file, whole) in [(plain(), REPORT_LEN), (message(), HEADER + REPORT_LEN)] {
            for cut in 0..whole {
                assert!(report(&file[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn azures_answer_is_taken_apart() {
        let Some(dir) = touchstone_vectors::genuine("snp") else {
            return;
        };
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        let pem = |der: &[u8]| {
            let body = base64::prelude::BASE64_STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        };
        let names = ["milan_v3_a.vcek.der", "ca/milan_ask.der", "ca/milan_ark.der"];
        let ders = names.map(read);
        let [vcek, ask, ark] = ders.each_ref().map(|der| pem(der));
        let json = |chain: &str| {
            serde_json::json!({ "cacheControl": "86400", "vcekCert": vcek, "tcbm": "DB18000000000004", "certificateChain": chain })
                .to_string()
                .into_bytes()
        };
        assert_eq!(certificates(&[json(&format!("{ask}{ark}"))]).unwrap(), ders.concat());
        assert_eq!(certificates(&[json("")]).unwrap(), ders[0]);
        for wrong in [&b"{}"[..], b"{", b"{\"vcekCert\": \"\", \"certificateChain\": \"\"}"] {
            assert!(certificates(&[wrong.to_vec()]).is_err());
        }
    }

    #[test]
    fn a_file_without_a_certificate_is_named() {
        for file in [
            &b""[..],
            b"-----BEGIN CERTIFICATE-----",
            b"nothing of the kind",
            &[0x30, 0x82, 0, 1, 5],
        ] {
            assert!(certificates(&[file.to_vec()]).is_err(), "{file:?}");
        }
        assert!(certificates(&vec![Vec::new(); MAX_FILES + 1]).is_err());
    }
}
