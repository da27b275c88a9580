//! Genuine reports of H100 GPUs and an LS10 switch, with the verdict of their MANIFEST rows, and the maker's own decoding.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::path::Path;

use base64::prelude::*;
use serde_json::Value;
use touchstone_vectors::genuine;
use touchstone_verifier::gpu::{Details, GpuPolicy, GpuReference, GpuReport, Kind, Mode, VerifiedGpu, check};
use touchstone_verifier::reason::Reason;
use touchstone_verifier::x509::{Certificate, CertificateStore, CrlRule};

/// 2026-11-21T00:00:00Z.
const NOW: i64 = 1_795_219_200;
/// 2022-01-11T23:59:59Z, the last second before the first of NVIDIA's intermediates became valid; the chains' other
/// intermediate is from 2022-03-01.
const BEFORE: i64 = 1_641_945_599;

/// A report and its chain as DER.
struct Pair {
    report: Vec<u8>,
    chain: Vec<u8>,
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn der(chain: &str) -> Vec<u8> {
    pem::parse_many(chain)
        .unwrap()
        .into_iter()
        .flat_map(pem::Pem::into_contents)
        .collect()
}

fn pair(dir: &Path, name: &str) -> Pair {
    Pair {
        report: hex::decode(read(&dir.join(format!("{name}.report.hex"))).trim()).unwrap(),
        chain: der(&read(&dir.join(format!("{name}.chain.pem")))),
    }
}

fn evidence(dir: &Path) -> Pair {
    let json: Value = serde_json::from_str(&read(&dir.join("hopper_evidence.json"))).unwrap();
    let bytes = |name: &str| BASE64_STANDARD.decode(json[0][name].as_str().unwrap()).unwrap();
    Pair {
        report: bytes("evidence"),
        chain: der(&String::from_utf8(bytes("certificate")).unwrap()),
    }
}

fn anchors(dir: &Path) -> CertificateStore {
    let root = der(&read(&dir.join("device_root.pem")));
    CertificateStore::new([(Certificate::from_der(&root).unwrap(), true)])
}

fn verify<'p>(pair: &'p Pair, store: &CertificateStore, now: i64) -> Result<VerifiedGpu<'p>, Vec<Reason>> {
    let report = GpuReport::parse(&pair.report).unwrap();
    VerifiedGpu::verify(report, &pair.chain, store, now, CrlRule::WhenPresent)
}

fn codes(reasons: &[Reason]) -> Vec<&'static str> {
    reasons.iter().map(|reason| reason.code.as_str()).collect()
}

/// Name, chip, driver, VBIOS, mode, serial number of the device, first bytes of the challenge.
type Row = (
    &'static str,
    &'static str,
    Option<&'static str>,
    &'static str,
    Mode,
    &'static str,
    &'static str,
);

/// `hopper_expired` is named after the expired certificate of the *RIM* that its makers' test pairs it with: the chain
/// itself holds until the year 9999, as its MANIFEST row says too.
const ROWS: [Row; 5] = [
    (
        "hopper_a",
        "GH100",
        Some("535.86.09"),
        "96.00.5E.00.01",
        Mode::Unstated,
        "416a5fafcbd9fa5ca3",
        "27a328247bf7935c",
    ),
    (
        "hopper_trustee",
        "GH100",
        Some("550.90.07"),
        "96.00.9F.00.01",
        Mode::Unstated,
        "41431d480fe5e87274",
        "931d8dd0add203ac",
    ),
    (
        "hopper_expired",
        "GH100",
        Some("570.124.03"),
        "96.00.5E.00.04",
        Mode::Unstated,
        "41e23d711e1c4fbfac",
        "931d8dd0add203ac",
    ),
    (
        "hopper_evidence",
        "GH100",
        Some("590.12"),
        "96.00.A5.00.01",
        Mode::ProtectedPcie,
        "412921ce551e4eeda3",
        "e97b23a1718095a0",
    ),
    (
        "switch_ls10",
        "LS_10",
        None,
        "96.10.55.00.01",
        Mode::Unstated,
        "50203eb31ad9ed0008",
        "931d8dd0add203ac",
    ),
];

fn of_row(dir: &Path, row: &Row) -> Pair {
    match row.0 {
        "hopper_evidence" => evidence(dir),
        name => pair(dir, name),
    }
}

#[test]
fn genuine_reports_verify_and_say_what_they_are() {
    let Some(dir) = genuine("nvidia") else { return };
    let store = anchors(&dir);
    for row in &ROWS {
        let pair = of_row(&dir, row);
        let gpu = verify(&pair, &store, NOW).unwrap_or_else(|reasons| panic!("{}: {reasons:?}", row.0));
        let (name, product, driver, vbios, mode, serial, nonce) = *row;
        let details = gpu.details();
        assert_eq!(gpu.product().as_str(), product, "{name}");
        assert_eq!(details.driver.as_ref().map(|driver| driver.as_str()), driver, "{name}");
        assert_eq!(details.vbios.as_str(), vbios, "{name}");
        assert_eq!(details.mode, mode, "{name}");
        assert_eq!(gpu.serial(), serial, "{name}");
        assert_eq!(hex::encode(&gpu.report().nonce()[..8]), nonce, "{name}");
        let year_9999 = 253_402_300_799;
        assert_eq!(gpu.not_after(), year_9999, "{name}");
        // The challenge it answers, and nothing else, and in a state that is its own golden one.
        let policy = GpuPolicy::default();
        assert_eq!(check(&gpu, gpu.report().nonce(), &policy), [], "{name}");
        assert_eq!(codes(&check(&gpu, &[0; 32], &policy)), ["gpu-nonce-mismatch"], "{name}");
        assert_eq!(GpuReference::of_golden(&gpu).differences(&gpu), [], "{name}");
    }
}

#[test]
fn what_the_maker_shipped_later_differs_from_the_golden_state() {
    let Some(dir) = genuine("nvidia") else { return };
    let store = anchors(&dir);
    let pairs: Vec<Pair> = ROWS.iter().map(|row| of_row(&dir, row)).collect();
    let gpus: Vec<VerifiedGpu<'_>> = pairs.iter().map(|pair| verify(pair, &store, NOW).unwrap()).collect();
    for (i, golden) in gpus.iter().enumerate() {
        let reference = GpuReference::of_golden(golden);
        for (j, other) in gpus.iter().enumerate() {
            assert_eq!(
                reference.differences(other).is_empty(),
                i == j,
                "{} {}",
                ROWS[i].0,
                ROWS[j].0
            );
        }
    }
}

#[test]
fn chains_hold_in_their_time_and_under_their_root_only() {
    let Some(dir) = genuine("nvidia") else { return };
    let store = anchors(&dir);
    for row in &ROWS {
        let pair = of_row(&dir, row);
        let early = verify(&pair, &store, BEFORE).unwrap_err();
        assert_eq!(codes(&early), ["certificate-not-yet-valid"], "{}", row.0);
        let without = verify(&pair, &CertificateStore::default(), NOW).unwrap_err();
        assert_eq!(codes(&without), ["certificate-issuer-unknown"], "{}", row.0);
        let required = VerifiedGpu::verify(
            GpuReport::parse(&pair.report).unwrap(),
            &pair.chain,
            &store,
            NOW,
            CrlRule::Required,
        );
        assert_eq!(codes(&required.unwrap_err()), ["certificate-crl-missing"], "{}", row.0);
    }
    let (a, b) = (pair(&dir, "hopper_a"), pair(&dir, "hopper_trustee"));
    let swapped = Pair {
        report: a.report,
        chain: b.chain,
    };
    assert_eq!(
        codes(&verify(&swapped, &store, NOW).unwrap_err()),
        ["gpu-signature-invalid"]
    );
}

#[test]
fn a_genuine_report_is_refused_with_any_byte_changed_or_missing() {
    let Some(dir) = genuine("nvidia") else { return };
    let store = anchors(&dir);
    let whole = pair(&dir, "switch_ls10");
    for len in 0..whole.report.len() {
        assert!(GpuReport::parse(&whole.report[..len]).is_err(), "{len} bytes");
    }
    for at in (0..whole.report.len()).step_by(7) {
        let mut report = whole.report.clone();
        report[at] ^= 1;
        let verified = GpuReport::parse(&report)
            .ok()
            .and_then(|report| VerifiedGpu::verify(report, &whole.chain, &store, NOW, CrlRule::WhenPresent).ok());
        assert_eq!(verified, None, "byte {at}");
    }
}

fn bytes_of(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap().strip_prefix("0x").unwrap()).unwrap()
}

/// The maker's decoding of the switch's report, field by field.
#[test]
fn the_switch_report_decodes_as_its_maker_says() {
    let Some(dir) = genuine("nvidia") else { return };
    let expected: Value = serde_json::from_str(&read(&dir.join("switch_spdm_parsed_output.json"))).unwrap();
    let pair = pair(&dir, "switch_ls10");
    let report = GpuReport::parse(&pair.report).unwrap();
    assert_eq!(report.device_nonce().as_slice(), bytes_of(&expected["Nonce"]));
    assert_eq!(report.signature().as_slice(), bytes_of(&expected["Signature"]));
    measurements_equal(&report, &expected);
    let fields = &expected["OpaqueData"]["OpaqueDataField"];
    let details = Details::read(report.opaque(), Kind::Switch).unwrap();
    let own = bytes_of(&fields["OPAQUE_FIELD_ID_DEVICE_PDI"]);
    assert_eq!(details.own_pdi.map(Vec::from), Some(own));
    let peers: std::collections::BTreeSet<Vec<u8>> = fields["OPAQUE_FIELD_ID_SWITCH_GPU_PDIS"]
        .as_array()
        .unwrap()
        .iter()
        .map(bytes_of)
        .collect();
    assert_eq!(
        details
            .peer_pdis
            .iter()
            .map(|pdi| pdi.to_vec())
            .collect::<std::collections::BTreeSet<_>>(),
        peers
    );
    assert_eq!(details.locked, Some(true));
}

fn measurements_equal(report: &GpuReport<'_>, expected: &Value) {
    let blocks = expected["MeasurementRecord"]["MeasurementBlocks"].as_object().unwrap();
    assert_eq!(report.measurements().len(), blocks.len());
    for block in report.measurements() {
        let expected = &blocks[&block.index.to_string()];
        assert_eq!(
            u64::from(block.kind),
            expected["DMTFSpecMeasurementValueType"].as_u64().unwrap()
        );
        assert_eq!(block.digest.as_slice(), bytes_of(&expected["DMTFSpecMeasurementValue"]));
    }
}

/// The maker's decoding of a GPU's report that is not among the files: written out as bytes and read again.
#[test]
fn a_gpu_report_made_from_its_makers_decoding_reads_the_same() {
    let Some(dir) = genuine("nvidia") else { return };
    let json = |name: &str| -> Value { serde_json::from_str(&read(&dir.join(name))).unwrap() };
    let (request, response) = (json("spdm_req_parsed_output.json"), json("spdm_parsed_output.json"));
    let number = |value: &Value| u8::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    let mut bytes: Vec<u8> = Vec::new();
    for message in [&request, &response] {
        for name in ["SPDMVersion", "RequestResponseCode", "Param1", "Param2"] {
            bytes.push(number(&message[name]));
        }
        if std::ptr::eq(message, &request) {
            bytes.extend(bytes_of(&request["Nonce"]));
            bytes.push(number(&request["SlotIDParam"]));
        }
    }
    bytes.push(response["NumberOfBlocks"].as_u64().unwrap() as u8);
    bytes.extend(&(response["MeasurementRecordLength"].as_u64().unwrap() as u32).to_le_bytes()[..3]);
    let blocks = response["MeasurementRecord"]["MeasurementBlocks"].as_object().unwrap();
    for index in 1..=blocks.len() {
        let block = &blocks[&index.to_string()];
        bytes.extend([index as u8, 1, 51, 0]);
        bytes.push(block["DMTFSpecMeasurementValueType"].as_u64().unwrap() as u8);
        bytes.extend((block["DMTFSpecMeasurementValueSize"].as_u64().unwrap() as u16).to_le_bytes());
        bytes.extend(bytes_of(&block["DMTFSpecMeasurementValue"]));
    }
    bytes.extend(bytes_of(&response["Nonce"]));
    bytes.extend((response["OpaqueLength"].as_u64().unwrap() as u16).to_le_bytes());
    let fields = response["OpaqueData"]["OpaqueDataField"].as_object().unwrap();
    let order = [
        (6u16, "VBIOS_VERSION"),
        (14, "BOARD_ID"),
        (15, "CHIP_SKU"),
        (16, "CHIP_SKU_MOD"),
        (17, "PROJECT"),
        (18, "PROJECT_SKU"),
        (19, "PROJECT_SKU_MOD"),
        (3, "DRIVER_VERSION"),
        (4, "GPU_INFO"),
        (12, "MSRSCNT"),
        (13, "CPRINFO"),
        (11, "NVDEC0_STATUS"),
        (20, "FWID"),
        (21, "PROTECTED_PCIE_STATUS"),
    ];
    assert_eq!(fields.len(), order.len());
    let mut opaque = Vec::new();
    for (kind, name) in order {
        let value = &fields[&format!("OPAQUE_FIELD_ID_{name}")];
        let value = match value.as_array() {
            Some(counts) => counts
                .iter()
                .flat_map(|count| (count.as_u64().unwrap() as u32).to_le_bytes())
                .collect(),
            None => bytes_of(value),
        };
        opaque.extend(kind.to_le_bytes());
        opaque.extend((value.len() as u16).to_le_bytes());
        opaque.extend(value);
    }
    // The decoding leaves out the two fields that came last: version 1, and one GPU of a confidential VM.
    opaque.extend([34, 0, 2, 0, 1, 0, 36, 0, 2, 0, 0, 0]);
    assert_eq!(response["OpaqueLength"].as_u64().unwrap(), opaque.len() as u64);
    bytes.extend(opaque);
    bytes.extend(bytes_of(&response["Signature"]));
    let report = GpuReport::parse(&bytes).unwrap();
    measurements_equal(&report, &response);
    assert_eq!(report.nonce().as_slice(), bytes_of(&request["Nonce"]));
    let details = Details::read(report.opaque(), Kind::Gpu).unwrap();
    assert_eq!(details.driver.unwrap().as_str(), "580.159.03");
    assert_eq!(details.vbios.as_str(), "96.00.74.00.20");
    assert_eq!((details.nvdec0, details.mode), (Some(false), Mode::Single));
}
