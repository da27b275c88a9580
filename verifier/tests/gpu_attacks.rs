//! What an attacker does to GPU evidence, one attack a row, against a simulated device whose root is trusted.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::simulated_gpu;

use std::collections::BTreeSet;

use proptest::prelude::*;
use rcgen::KeyUsagePurpose;
use simulated_gpu::{Device, FWID, NONCE, NOW, Parts, Shape};
use touchstone_verifier::gpu::{Difference, GpuPolicy, GpuReference, GpuReport, Product, VerifiedGpu, Version, check};
use touchstone_verifier::reason::Reason;
use touchstone_verifier::x509::CrlRule;

/// Offset of the first measurement block.
const BLOCKS: usize = 37 + 8;
/// Length of a block.
const BLOCK: usize = 55;

fn codes(reasons: &[Reason]) -> Vec<&'static str> {
    reasons.iter().map(|reason| reason.code.as_str()).collect()
}

/// Codes of everything that speaks against `report` with `chain`, for a verifier that trusts `device`.
fn judge(device: &Device, report: &[u8], chain: &[u8], policy: &GpuPolicy) -> Vec<&'static str> {
    let Ok(report) = GpuReport::parse(report) else {
        return vec!["unreadable"];
    };
    match VerifiedGpu::verify(report, chain, &device.store(), NOW, CrlRule::WhenPresent) {
        Ok(gpu) => codes(&check(&gpu, &NONCE, policy)),
        Err(reasons) => codes(&reasons),
    }
}

#[test]
fn a_report_that_says_what_it_should_not_is_refused_for_that() {
    let device = Device::new(&Shape::default());
    let parts = Parts::default;
    let floors = GpuPolicy {
        products: Some(BTreeSet::from([Product::parse("GH100").unwrap()])),
        min_driver: Version::driver("550.90.07"),
        min_vbios: [(
            Product::parse("GH100").unwrap(),
            Version::vbios("96.00.9F.00.01").unwrap(),
        )]
        .into(),
        ..GpuPolicy::default()
    };
    let rows: [(&str, Parts, &[&str]); 12] = [
        ("nothing changed", parts(), &[]),
        (
            "another challenge",
            Parts {
                nonce: [0xDB; 32],
                ..parts()
            },
            &["gpu-nonce-mismatch"],
        ),
        (
            "another firmware than the key's",
            parts().with(20, &[0xF2; 48]),
            &["gpu-fwid-mismatch"],
        ),
        ("firmware not named", parts().without(20), &[]),
        (
            "an older driver",
            parts().with(3, b"550.54.15\0"),
            &["gpu-driver-too-old"],
        ),
        ("no driver", parts().without(3), &["gpu-driver-too-old"]),
        (
            "an older VBIOS with a higher last part",
            parts().with(6, &[0, 0x74, 0, 0x96, 0xFF, 0, 0, 0]),
            &["gpu-vbios-too-old"],
        ),
        ("no VBIOS", parts().without(6), &["gpu-report-malformed"]),
        (
            "a switch's VBIOS field",
            parts().with(6, b"96.10.55.00.01"),
            &["gpu-report-malformed"],
        ),
        ("an unknown mode", parts().with(36, &[3, 0]), &["gpu-report-malformed"]),
        (
            "modes that contradict",
            parts().with(36, &[2, 0]),
            &["gpu-report-malformed"],
        ),
        ("an unknown field", parts().with(29, &[1]), &["unreadable"]),
    ];
    for (attack, parts, expected) in rows {
        let report = device.report(&parts);
        assert_eq!(judge(&device, &report, &device.chain(), &floors), expected, "{attack}");
    }
    let report = device.report(&parts());
    let other = GpuPolicy {
        products: Some(BTreeSet::from([Product::parse("GB100").unwrap()])),
        denied: BTreeSet::from(["410102030405060708".to_owned()]),
        ..GpuPolicy::default()
    };
    let expected = ["gpu-product-refused", "gpu-device-denied"];
    assert_eq!(judge(&device, &report, &device.chain(), &other), expected);
}

#[test]
fn an_unlocked_switch_is_refused() {
    let shape = Shape {
        device: "LS_10 A01 FSP BROM",
        ..Shape::default()
    };
    let device = Device::new(&shape);
    let parts = || Parts::default().without(3).with(6, b"96.10.55.00.01");
    for (lock, expected) in [
        (Some([1, 0]), &[][..]),
        (Some([0, 0]), &["gpu-mode-refused"]),
        (Some([1, 1]), &["gpu-mode-refused"]),
        (None, &["gpu-mode-refused"]),
    ] {
        let parts = match lock {
            Some(lock) => parts().with(25, &lock),
            None => parts(),
        };
        let report = device.report(&parts);
        let found = judge(&device, &report, &device.chain(), &GpuPolicy::default());
        assert_eq!(found, expected, "{lock:?}");
    }
}

#[test]
fn a_chain_that_is_not_the_devices_is_refused() {
    let device = Device::new(&Shape::default());
    let report = device.report(&Parts::default());
    let stranger = Device::new(&Shape::default());
    let of = |change: fn(&mut Shape)| {
        let mut shape = Shape::default();
        change(&mut shape);
        Device::new(&shape)
    };
    // The complete chain of an attacker's own making, with his own root in it.
    let theirs = stranger.report(&Parts::default());
    assert_eq!(
        judge(&device, &theirs, &stranger.chain(), &GpuPolicy::default()),
        ["certificate-signature-invalid"]
    );
    let concat = |parts: &[&[u8]]| parts.concat();
    let rows: [(&str, Vec<u8>, &str); 9] = [
        ("no chain", Vec::new(), "gpu-certificates-missing"),
        ("bytes that are none", vec![1, 2, 3], "gpu-chain-malformed"),
        (
            "a chain cut short",
            device.chain()[..900].to_vec(),
            "gpu-chain-malformed",
        ),
        (
            "a byte behind the chain",
            concat(&[&device.chain(), &[0]]),
            "gpu-chain-malformed",
        ),
        (
            "seven certificates",
            concat(&[&device.chain(), &device.root, &device.root, &device.root]),
            "gpu-chain-malformed",
        ),
        (
            "no device identity",
            concat(&[&device.leaf, &device.intermediate]),
            "certificate-issuer-unknown",
        ),
        (
            "the device identity's certificate as the leaf",
            concat(&[&device.identity, &device.intermediate]),
            "gpu-key-refused",
        ),
        (
            "another device's leaf under the same names",
            concat(&[&stranger.leaf, &device.identity, &device.intermediate]),
            "certificate-signature-invalid",
        ),
        (
            "another root's intermediate of the same name",
            concat(&[&device.leaf, &device.identity, &stranger.intermediate]),
            "certificate-signature-invalid",
        ),
    ];
    for (attack, chain, expected) in rows {
        assert_eq!(
            judge(&device, &report, &chain, &GpuPolicy::default()),
            [expected],
            "{attack}"
        );
    }
    let shapes: [(&str, Device, &str); 9] = [
        (
            "a device identity that is no CA",
            of(|s| s.device_is_ca = false),
            "certificate-not-a-ca",
        ),
        ("an expired leaf", of(|s| s.expires = 2026), "certificate-expired"),
        ("a leaf that is a CA", of(|s| s.leaf_is_ca = true), "gpu-key-refused"),
        (
            "a leaf for key agreement",
            of(|s| s.leaf_usage = vec![KeyUsagePurpose::KeyAgreement]),
            "gpu-key-refused",
        ),
        (
            "a leaf that may sign certificates too",
            of(|s| s.leaf_usage = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign]),
            "gpu-key-refused",
        ),
        ("a leaf of another curve", of(|s| s.leaf_p256 = true), "gpu-key-refused"),
        (
            "a leaf without firmware identity",
            of(|s| s.fwid_extensions = 0),
            "gpu-key-refused",
        ),
        (
            "two firmware identities",
            of(|s| s.fwid_extensions = 2),
            "gpu-key-refused",
        ),
        (
            "an identity key that is not the issuer's",
            of(|s| s.other_device_key = true),
            "gpu-key-refused",
        ),
    ];
    for (attack, device, expected) in shapes {
        let report = device.report(&Parts::default());
        let found = judge(&device, &report, &device.chain(), &GpuPolicy::default());
        assert_eq!(found, [expected], "{attack}");
    }
    let unknown = of(|shape| shape.device = "TU102 A01 BROM");
    let report = unknown.report(&Parts::default());
    let found = judge(&unknown, &report, &unknown.chain(), &GpuPolicy::default());
    assert_eq!(found, ["gpu-product-unknown"]);
    let other_firmware = of(|shape| shape.fwid = [0xF2; 48]);
    let report = other_firmware.report(&Parts::default());
    let found = judge(&other_firmware, &report, &other_firmware.chain(), &GpuPolicy::default());
    assert_eq!(found, ["gpu-fwid-mismatch"]);
}

#[test]
fn an_exchange_of_another_form_is_not_read() {
    let device = Device::new(&Shape::default());
    let good = device.report(&Parts::default());
    assert!(GpuReport::parse(&good).is_ok());
    let opaque_length = BLOCKS + 64 * BLOCK + 32;
    let rows: [(&str, usize, u8); 20] = [
        ("SPDM 1.2 asked", 0, 0x12),
        ("another request", 1, 0xE1),
        ("no signature asked", 2, 0),
        ("one measurement asked", 3, 1),
        ("slot 8", 36, 8),
        ("SPDM 1.0 answered", 37, 0x10),
        ("an error answered", 38, 0x7F),
        ("Param1 set", 39, 1),
        ("another slot answered", 40, 1),
        ("no blocks", 41, 0),
        ("fewer blocks", 41, 63),
        ("more blocks", 41, 65),
        ("a longer record", 42, 0xC1),
        ("a shorter record", 42, 0xBF),
        ("index 0", BLOCKS, 0),
        ("an index twice", BLOCKS + BLOCK, 1),
        ("another specification", BLOCKS + 1, 2),
        ("raw bits", BLOCKS + 4, 0x81),
        ("a longer value", BLOCKS + 5, 49),
        ("shorter opaque data", opaque_length, 0),
    ];
    for (attack, at, value) in rows {
        let mut bytes = good.clone();
        assert_ne!(bytes[at], value, "{attack}");
        bytes[at] = value;
        assert!(GpuReport::parse(&bytes).is_err(), "{attack}");
    }
    for len in 0..good.len() {
        assert!(GpuReport::parse(&good[..len]).is_err(), "{len} bytes");
    }
    assert!(GpuReport::parse(&[good.as_slice(), &[0]].concat()).is_err());
    assert!(GpuReport::parse(&vec![0x11; 65 * 1024]).is_err());
}

fn verified<'r>(device: &Device, report: &'r [u8]) -> VerifiedGpu<'r> {
    let parsed = GpuReport::parse(report).unwrap();
    VerifiedGpu::verify(parsed, &device.chain(), &device.store(), NOW, CrlRule::WhenPresent).unwrap()
}

#[test]
fn what_differs_from_the_reference_is_found() {
    let device = Device::new(&Shape::default());
    let golden = device.report(&Parts::default());
    let reference = GpuReference::of_golden(&verified(&device, &golden));
    let changed = |index: u8| {
        let mut parts = Parts::default();
        parts.blocks[usize::from(index) - 1].1 = [0xEE; 48];
        parts
    };
    let blocks = |change: fn(&mut Vec<(u8, [u8; 48])>)| {
        let mut parts = Parts::default();
        change(&mut parts.blocks);
        parts
    };
    let measurement = |differences: &[Difference]| match differences {
        [Difference::Measurement { index, .. }] => Some(*index),
        _ => None,
    };
    let rows: [(&str, Parts, Option<u8>); 9] = [
        ("VBIOS measurement", changed(2), Some(2)),
        ("driver measurement", changed(41), Some(41)),
        ("a block the maker says to vary", changed(42), None),
        ("NVDEC0's block with NVDEC0 on", changed(36), Some(36)),
        ("NVDEC0's block with NVDEC0 off", changed(36).with(11, &[0x55]), None),
        ("NVDEC0's block, nothing said of it", changed(36).without(11), Some(36)),
        (
            "a stated block missing",
            blocks(|blocks| {
                blocks.remove(1);
            }),
            Some(2),
        ),
        (
            "an unstated block missing",
            blocks(|blocks| {
                blocks.remove(50);
            }),
            None,
        ),
        (
            "a block nobody knows",
            blocks(|blocks| blocks.push((65, [0; 48]))),
            Some(65),
        ),
    ];
    for (change, parts, expected) in rows {
        let report = device.report(&parts);
        let differences = reference.differences(&verified(&device, &report));
        assert_eq!(measurement(&differences), expected, "{change}");
        assert_eq!(differences.is_empty(), expected.is_none(), "{change}");
    }
    for (change, parts, expected) in [
        ("driver", Parts::default().with(3, b"550.90.08"), Difference::Driver),
        (
            "VBIOS",
            Parts::default().with(6, &[0, 0x9F, 0, 0x96, 2, 0, 0, 0]),
            Difference::Vbios,
        ),
        ("mode", Parts::default().with(21, &[0xAA]), Difference::Mode),
    ] {
        let report = device.report(&parts);
        assert_eq!(
            reference.differences(&verified(&device, &report)),
            [expected],
            "{change}"
        );
    }
    let blackwell = Device::new(&Shape {
        device: "GB100 A01 GSP BROM",
        ..Shape::default()
    });
    let report = blackwell.report(&Parts::default());
    assert!(!reference.differences(&verified(&blackwell, &report)).is_empty());
    assert_eq!(FWID.as_slice(), verified(&blackwell, &report).fwid());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = GpuReport::parse(&bytes);
    }

    #[test]
    fn what_is_read_covers_every_byte(at in 0usize..200, value in any::<u8>(), opaque in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = Parts { fields: vec![(4, opaque)], ..Parts::default() }.unsigned();
        bytes.extend([7; 96]);
        let at = at.min(bytes.len() - 1);
        bytes[at] = value;
        if let Ok(report) = GpuReport::parse(&bytes) {
            prop_assert_eq!(report.signed().len() + report.signature().len(), bytes.len());
        }
    }
}
