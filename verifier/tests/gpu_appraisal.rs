//! GPUs in an appraisal: reference values through a signed CoRIM, the challenge alone and beside another root, which
//! machine they belong to, several devices.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::common;
use crate::simulated_gpu;

use common::{Boot, Offline, codes, policy, references};
use simulated_gpu::{Device, NONCE, Parts, Shape};
use touchstone_cose::key::SigningKey;
use touchstone_evidence::binder::{BinderInput, Role};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_vectors::genuine;
use touchstone_verifier::anchors::{Purpose, TrustAnchors};
use touchstone_verifier::appraisal::{
    Appraisal, BinderContext, ClaimValue, Freshness, ImaKnown, Inputs, Known, Root, Tier, appraise,
};
use touchstone_verifier::corim::MachineReference;
use touchstone_verifier::gpu::check as gpu;
use touchstone_verifier::gpu::{GpuPolicy, GpuReference, GpuReport, Product, VerifiedGpu, record};
use touchstone_verifier::inventory::{Inventory, Node};
use touchstone_verifier::reference::ReferenceSet;
use touchstone_verifier::x509::CrlRule;

/// Serial number of the simulated device, as inventories list it.
const SERIAL: &str = "410102030405060708";

fn golden(device: &Device, report: &[u8]) -> GpuReference {
    let parsed = GpuReport::parse(report).unwrap();
    let (store, now) = (device.store(), simulated_gpu::NOW);
    GpuReference::of_golden(&VerifiedGpu::verify(parsed, &device.chain(), &store, now, CrlRule::WhenPresent).unwrap())
}

fn of_states(gpus: Vec<GpuReference>) -> MachineReference {
    MachineReference {
        name: "golden-gpu".into(),
        gpus,
        ..MachineReference::default()
    }
}

fn node(gpus: &[&str]) -> Node {
    Node {
        name: "node-1".into(),
        region: "north".into(),
        gpus: gpus.iter().map(|serial| (*serial).to_owned()).collect(),
        authority: "domain".into(),
        ..Node::default()
    }
}

fn collection(devices: &[(Vec<u8>, Vec<u8>)]) -> Collection {
    let mut collection = Collection::unbound();
    add(&mut collection, devices);
    collection
}

fn add(collection: &mut Collection, devices: &[(Vec<u8>, Vec<u8>)]) {
    let (reports, chains): (Vec<_>, Vec<_>) = devices.iter().cloned().unzip();
    collection.insert(Label::GpuReport, record::encode(reports)).unwrap();
    collection
        .insert(Label::GpuCertificates, record::encode(chains))
        .unwrap();
}

/// A listed GPU alone in a state that a reference lists, and what an attack changes of it.
struct Case {
    device: Device,
    offline: Offline,
}

impl Case {
    fn new() -> Self {
        let device = Device::new(&Shape::default());
        let report = device.report(&Parts::default());
        let offline = Offline {
            collection: collection(&[(report.clone(), device.chain())]),
            nonce: NONCE.to_vec(),
            policy: policy(),
            references: references(&[of_states(vec![golden(&device, &report)])]),
            anchors: TrustAnchors::new([(Purpose::Gpu, &device.root)]).unwrap(),
            inventory: Inventory::new(vec![node(&[SERIAL])]),
            enrolled: None,
            now: common::NOW,
        };
        Self { device, offline }
    }

    fn with_report(mut self, parts: &Parts) -> Self {
        let report = self.device.report(parts);
        self.offline.collection = collection(&[(report, self.device.chain())]);
        self
    }

    fn codes(&self) -> Vec<&'static str> {
        codes(&self.offline.appraise())
    }
}

fn text(appraisal: &Appraisal, name: &str) -> String {
    match appraisal.claims.get(name) {
        Some(ClaimValue::Text(text)) => text.clone(),
        other => panic!("{name}: {other:?}"),
    }
}

fn set(appraisal: &Appraisal, name: &str) -> Vec<String> {
    match appraisal.claims.get(name) {
        Some(ClaimValue::Set(set)) => set.iter().cloned().collect(),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn a_listed_gpu_in_a_known_state_is_affirmed() {
    let appraisal = Case::new().offline.appraise();
    assert_eq!(codes(&appraisal), [""; 0]);
    assert_eq!(appraisal.status, Tier::Affirming);
    // Nobody speaks for the machine: whose the GPU is says nothing of what runs there.
    assert_eq!(
        (appraisal.node.as_deref(), appraisal.vector.instance_identity),
        (None, None)
    );
    assert_eq!(appraisal.roots, [Root::Gpu].into());
    // A GPU says nothing about who holds the session's keys.
    assert!(!appraisal.authentic && appraisal.enrol.is_none());
    assert_eq!(text(&appraisal, "gpu_locality"), "inventory");
    assert_eq!(set(&appraisal, "gpu_serials"), [SERIAL]);
    assert_eq!(set(&appraisal, "gpu_driver_versions"), ["550.90.07"]);
    assert_eq!(set(&appraisal, "gpu_references"), ["golden-gpu"]);
    assert_eq!(appraisal.claims.get("gpu_count"), Some(&ClaimValue::Int(1)));
    let declared = |name: &str| gpu::SETS.contains(&name) || gpu::NUMBERS.contains(&name);
    let others = ["gpu_locality", "gpu_references"];
    for name in appraisal.claims.keys().filter(|name| name.starts_with("gpu_")) {
        assert!(
            declared(name) || others.contains(&name.as_str()),
            "{name} is declared nowhere"
        );
    }
}

#[test]
fn what_is_wrong_with_a_gpu_is_told() {
    let changed = |index: usize| {
        let mut parts = Parts::default();
        parts.blocks[index].1 = [0xEE; 48];
        parts
    };
    type Attack = (&'static str, fn(&mut Case), &'static [&'static str]);
    let rows: [Attack; 13] = [
        (
            "another challenge",
            |case| case.offline.nonce[31] ^= 1,
            &["gpu-nonce-mismatch"],
        ),
        (
            "a challenge of 64 bytes",
            |case| case.offline.nonce.extend([0; 32]),
            &["gpu-nonce-mismatch"],
        ),
        (
            "a shorter challenge",
            |case| case.offline.nonce.truncate(31),
            &["gpu-nonce-mismatch"],
        ),
        (
            "no chain",
            |case| case.offline.collection = common::replace(&case.offline.collection, Label::GpuCertificates, None),
            &["gpu-certificates-missing"],
        ),
        (
            "another root",
            |case| case.offline.anchors = TrustAnchors::default(),
            &["certificate-issuer-unknown"],
        ),
        (
            "a root for TPMs",
            |case| case.offline.anchors = TrustAnchors::new([(Purpose::Ek, &case.device.root)]).unwrap(),
            &["certificate-issuer-unknown"],
        ),
        (
            "no reference",
            |case| case.offline.references = ReferenceSet::default(),
            &["gpu-reference-missing"],
        ),
        (
            "an expired reference",
            |case| {
                let report = case.device.report(&Parts::default());
                let mut reference = of_states(vec![golden(&case.device, &report)]);
                reference.not_after = Some(common::NOW);
                case.offline.references = references(&[reference]);
                case.offline.now = common::NOW + 1;
            },
            &["gpu-reference-out-of-force"],
        ),
        (
            "a GPU nobody lists",
            |case| case.offline.inventory = Inventory::default(),
            &["node-unknown"],
        ),
        (
            "a GPU two nodes list",
            |case| {
                let mut other = node(&[SERIAL]);
                other.name = "node-2".into();
                case.offline.inventory = Inventory::new(vec![node(&[SERIAL]), other]);
            },
            &["node-ambiguous"],
        ),
        (
            "the same device twice",
            |case| {
                let report = case.device.report(&Parts::default());
                let device = (report, case.device.chain());
                case.offline.collection = collection(&[device.clone(), device]);
            },
            &["gpu-device-twice"],
        ),
        (
            "a denied device",
            |case| case.offline.policy.gpu.denied = [SERIAL.to_owned()].into(),
            &["gpu-device-denied"],
        ),
        (
            "a chip that is not accepted",
            |case| case.offline.policy.gpu.products = Some([Product::parse("GB100").unwrap()].into()),
            &["gpu-product-refused"],
        ),
    ];
    for (attack, change, expected) in rows {
        let mut case = Case::new();
        change(&mut case);
        let mut found = case.codes();
        found.dedup();
        assert_eq!(found, expected, "{attack}");
    }
    for (change, parts, expected) in [
        ("a measurement", changed(1), &["gpu-measurement-mismatch"][..]),
        (
            "a driver",
            Parts::default().with(3, b"550.90.08"),
            &["gpu-reference-mismatch"],
        ),
        (
            "a mode",
            Parts::default().with(21, &[0xAA]),
            &["gpu-reference-mismatch"],
        ),
        (
            "a mode nobody knows",
            Parts::default().with(21, &[0xBB]),
            &["gpu-report-malformed"],
        ),
    ] {
        let mut found = Case::new().with_report(&parts).codes();
        found.dedup();
        assert_eq!(found, expected, "{change}");
    }
}

#[test]
fn records_that_are_no_arrays_are_refused() {
    for bytes in [&b""[..], b"\x80", b"\x41\x00", b"\x81\x01", b"\x81\x41"] {
        let mut case = Case::new();
        case.offline.collection = common::replace(&case.offline.collection, Label::GpuReport, Some(bytes.to_vec()));
        assert!(case.codes().contains(&"record-unreadable"), "{bytes:?}");
    }
}

/// The boot's own evidence with a GPU whose report answers `nonce`.
fn beside_a_tpm(nonce: [u8; 32], gpus: &[&str]) -> Offline {
    let boot = Boot::load("good");
    let mut offline = Offline::new(&boot, "quote-rsa", "rsa", &boot);
    let device = Device::new(&Shape::default());
    let report = device.report(&Parts {
        nonce,
        ..Parts::default()
    });
    add(&mut offline.collection, &[(report.clone(), device.chain())]);
    let mut entry = boot.node("node-1");
    entry.gpus = node(gpus).gpus;
    offline.inventory = Inventory::new(vec![entry]);
    offline.references = references(&[boot.reference("golden"), of_states(vec![golden(&device, &report)])]);
    let gpu = TrustAnchors::new([(Purpose::Gpu, &device.root)]).unwrap();
    offline.anchors = both(&offline.anchors, &gpu);
    offline
}

fn both(tpm: &TrustAnchors, gpu: &TrustAnchors) -> TrustAnchors {
    let of = |anchors: &TrustAnchors, purpose| {
        let certificates = anchors.store(purpose).iter();
        certificates
            .map(|(certificate, _)| (purpose, certificate.as_der().to_vec()))
            .collect::<Vec<_>>()
    };
    TrustAnchors::new(of(tpm, Purpose::Ek).into_iter().chain(of(gpu, Purpose::Gpu))).unwrap()
}

/// The first 32 bytes of the nonce, zeros where it is shorter.
fn first_bytes(nonce: &[u8]) -> [u8; 32] {
    let mut first = [0; 32];
    first.iter_mut().zip(nonce).for_each(|(to, from)| *to = *from);
    first
}

#[test]
fn beside_a_tpm_the_challenge_is_the_first_bytes_of_the_nonce() {
    let boot = Boot::load("good");
    let nonce = first_bytes(&boot.nonce("quote-rsa"));
    let appraisal = beside_a_tpm(nonce, &[SERIAL]).appraise();
    assert_eq!(codes(&appraisal), [""; 0]);
    assert_eq!(appraisal.roots, [Root::Tpm, Root::Gpu].into());
    assert_eq!(text(&appraisal, "gpu_locality"), "inventory");
    let appraisal = beside_a_tpm([0xDB; 32], &[SERIAL]).appraise();
    assert_eq!(codes(&appraisal), ["gpu-nonce-mismatch"]);
    assert_eq!(appraisal.roots, [Root::Tpm].into());
}

#[test]
fn where_a_gpu_sits_is_said_by_the_inventory_or_by_an_affirmed_machine() {
    let boot = Boot::load("good");
    let nonce = first_bytes(&boot.nonce("quote-rsa"));
    let appraisal = beside_a_tpm(nonce, &[]).appraise();
    assert_eq!(codes(&appraisal), [""; 0]);
    assert_eq!(text(&appraisal, "gpu_locality"), "asserted-by-guest");
    let mut offline = beside_a_tpm(nonce, &[]);
    offline.policy.gpu.inventory_required = true;
    assert_eq!(codes(&offline.appraise()), ["roots-not-together"]);
    // Another machine's GPU, whatever this machine says.
    let mut offline = beside_a_tpm(nonce, &[]);
    let mut other = node(&[SERIAL]);
    other.name = "node-2".into();
    offline.inventory = Inventory::new(vec![boot.node("node-1"), other]);
    assert_eq!(codes(&offline.appraise()), ["roots-not-together"]);
}

#[test]
fn a_machine_without_gpus_is_refused_where_they_are_required() {
    let boot = Boot::load("good");
    let mut offline = Offline::new(&boot, "quote-rsa", "rsa", &boot);
    assert_eq!(codes(&offline.appraise()), [""; 0]);
    offline.policy.gpu = GpuPolicy {
        required: true,
        ..GpuPolicy::default()
    };
    assert_eq!(codes(&offline.appraise()), ["root-missing"]);
    // A GPU that reports is enough; one more that is listed and keeps silent is not.
    let nonce = first_bytes(&boot.nonce("quote-rsa"));
    for (listed, expected) in [(&[SERIAL][..], &[][..]), (&[SERIAL, "4101"], &["root-missing"])] {
        let mut offline = beside_a_tpm(nonce, listed);
        offline.policy.gpu.required = true;
        assert_eq!(codes(&offline.appraise()), expected, "{listed:?}");
    }
}

#[test]
fn a_switch_is_no_gpu_and_nothing_genuine_is_nowhere() {
    let shape = Shape {
        device: "LS_10 A01 FSP BROM",
        ..Shape::default()
    };
    let (device, mut case) = (Device::new(&shape), Case::new());
    let parts = Parts::default().without(3).with(6, b"96.10.55.00.01").with(25, &[1, 0]);
    let report = device.report(&parts);
    case.offline.references = references(&[of_states(vec![golden(&device, &report)])]);
    case.offline.anchors = TrustAnchors::new([(Purpose::Gpu, &device.root)]).unwrap();
    case.offline.collection = collection(&[(report, device.chain())]);
    assert_eq!(case.codes(), [""; 0]);
    case.offline.policy.gpu.required = true;
    assert_eq!(case.codes(), ["root-missing"]);
    case.offline.anchors = TrustAnchors::default();
    case.offline.policy.gpu.required = false;
    let appraisal = case.offline.appraise();
    assert_eq!(codes(&appraisal), ["certificate-issuer-unknown"]);
    assert_eq!(text(&appraisal, "gpu_locality"), "asserted-by-guest");
}

#[test]
fn genuine_gpus_and_a_switch_are_affirmed_together_and_an_altered_one_spoils_all() {
    let Some(dir) = genuine("nvidia") else { return };
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let pem = |name: &str| -> Vec<u8> {
        let blocks = pem::parse_many(read(name)).unwrap();
        blocks.into_iter().flat_map(pem::Pem::into_contents).collect()
    };
    let device = |name: &str| {
        let report = hex::decode(read(&format!("{name}.report.hex")).trim()).unwrap();
        (report, pem(&format!("{name}.chain.pem")))
    };
    // Three that answered the same challenge.
    let names = ["hopper_trustee", "hopper_expired", "switch_ls10"];
    let devices: Vec<(Vec<u8>, Vec<u8>)> = names.map(device).to_vec();
    let anchors = TrustAnchors::new([(Purpose::Gpu, pem("device_root.pem"))]).unwrap();
    let mut states = Vec::new();
    let mut serials = Vec::new();
    for (report, chain) in &devices {
        let parsed = GpuReport::parse(report).unwrap();
        let store = anchors.store(Purpose::Gpu);
        let gpu = VerifiedGpu::verify(parsed, chain, store, common::NOW, CrlRule::WhenPresent).unwrap();
        states.push(GpuReference::of_golden(&gpu));
        serials.push(gpu.serial().to_owned());
    }
    let serials: Vec<&str> = serials.iter().map(String::as_str).collect();
    let mut offline = Offline {
        collection: collection(&devices),
        nonce: hex::decode("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb").unwrap(),
        policy: policy(),
        references: references(&[of_states(states)]),
        anchors,
        inventory: Inventory::new(vec![node(&serials)]),
        enrolled: None,
        now: common::NOW,
    };
    let appraisal = offline.appraise();
    assert_eq!(codes(&appraisal), [""; 0]);
    assert_eq!(set(&appraisal, "gpu_products"), ["GH100", "LS_10"]);
    assert_eq!(appraisal.claims.get("gpu_switch_count"), Some(&ClaimValue::Int(1)));
    let mut altered = devices.clone();
    altered[1].0[115] ^= 1;
    offline.collection = collection(&altered);
    assert_eq!(codes(&offline.appraise()), ["gpu-signature-invalid"]);
    let mut swapped = devices;
    let chain = std::mem::take(&mut swapped[0].1);
    swapped[0].1 = std::mem::replace(&mut swapped[2].1, chain);
    offline.collection = collection(&swapped);
    assert!(codes(&offline.appraise()).contains(&"gpu-signature-invalid"));
}

#[test]
fn in_a_session_the_challenge_is_the_binder_and_gpus_alone_are_no_machine() {
    let (device, session_key) = (
        Device::new(&Shape::default()),
        SigningKey::from_seed([5; 32]).verifying_key(),
    );
    let context = BinderContext {
        role: Role::Node,
        domain: "test.example",
        session_id: [1; 16],
        nonce: [2; 32],
        receive_key: None,
        tls_exporter: [3; 32],
    };
    // Chains are in the manifest, reports are not: they answer for it.
    let mut session = Collection::bound();
    let chains = record::encode(vec![device.chain()]);
    session.insert(Label::GpuCertificates, chains).unwrap();
    let binder = BinderInput {
        role: context.role,
        domain: context.domain,
        session_id: context.session_id,
        nonce: context.nonce,
        ckt: session_key.thumbprint(),
        receive_key: None,
        tls_exporter: context.tls_exporter,
        manifest_digest: session.manifest_digest().unwrap(),
    };
    let (asked, case) = (common::selection(&common::BOOT), Case::new());
    for (what, nonce, expected) in [
        ("the binder", binder.tpm_qualifying_data(), &["root-missing"][..]),
        (
            "the nonce alone",
            context.nonce,
            &["root-missing", "gpu-nonce-mismatch"],
        ),
    ] {
        let report = device.report(&Parts {
            nonce,
            ..Parts::default()
        });
        let references = references(&[of_states(vec![golden(&device, &report)])]);
        let anchors = TrustAnchors::new([(Purpose::Gpu, &device.root)]).unwrap();
        let mut collection = session.clone();
        collection
            .insert(Label::GpuReport, record::encode(vec![report]))
            .unwrap();
        let appraisal = appraise(&Inputs {
            collection: &collection,
            freshness: Freshness::Bound {
                binder: context,
                asked: &asked,
                session_key: &session_key,
                activated: None,
            },
            policy: &case.offline.policy,
            references: &references,
            anchors: &anchors,
            inventory: &case.offline.inventory,
            enrolled: None,
            ima: ImaKnown::default(),
            known: Known::default(),
            now: common::NOW,
        });
        let found = codes(&appraisal);
        assert!(
            found.len() == expected.len() && expected.iter().all(|code| found.contains(code)),
            "{what}: {found:?}"
        );
        assert!(!appraisal.authentic, "{what}");
    }
}

/// Old reports are public, and each leads up a chain of its own: in a session one comparison tells them, and a report that came
/// twice is verified once.
#[test]
fn reports_of_another_session_cost_one_comparison_each() {
    let mut case = Case::new();
    let report = case.device.report(&Parts::default());
    let many: Vec<_> = (0..32).map(|_| (report.clone(), vec![0x30, 3, 1, 2, 3])).collect();
    case.offline.anchors = TrustAnchors::default();
    case.offline.collection = Collection::bound();
    add(&mut case.offline.collection, &many);
    let appraisal = case.offline.in_a_session();
    let found = codes(&appraisal);
    let count = |code: &str| found.iter().filter(|found| **found == code).count();
    assert_eq!(
        (count("gpu-nonce-mismatch"), count("gpu-device-twice")),
        (1, 31),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .all(|code| !code.starts_with("certificate-") && !code.starts_with("gpu-chain")),
        "{found:?}"
    );
    // Thirty-two reports fill no room that others need.
    assert!(found.contains(&"root-missing"));
}
