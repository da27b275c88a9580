//! A genuine quote of a Google Compute Engine virtual TPM: the provider's certificate ties its key to the instance.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Offline, codes, policy, references};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::pcr_values::{self, PcrValues};
use touchstone_vectors::genuine;
use touchstone_verifier::anchors::{Purpose, TrustAnchors};
use touchstone_verifier::appraisal::{AkBinding, ClaimValue};
use touchstone_verifier::corim::{BankValues, MachineReference};
use touchstone_verifier::inventory::{Inventory, Node};
use touchstone_verifier::policy::EventLogRule;
use touchstone_verifier::tpm::HashAlg;
use touchstone_verifier::x509::cloud_ak::GceInstance;
use touchstone_verifier::x509::iak_certificate::DeviceId;

const REGISTERS: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn instance(name: &str, instance: u64) -> Node {
    Node {
        name: name.into(),
        region: "north".into(),
        devices: vec![DeviceId::Gce(GceInstance {
            project: 0x1B_5A47_5C69,
            instance,
        })],
        authority: "domain".into(),
        ..Node::default()
    }
}

fn offline(evidence: &Path, quotes: &Path, certificates: &Path) -> Offline {
    let quote = |extension: &str| read(&quotes.join(format!("gce-cos-85-nonce9009.sha256.{extension}")));
    let json: serde_json::Value = serde_json::from_slice(&quote("pcrs.json")).unwrap();
    let values: BTreeMap<u8, Vec<u8>> = json["sha256"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(pcr, value)| (pcr.parse().unwrap(), hex::decode(value.as_str().unwrap()).unwrap()))
        .collect();
    let all: PcrValues = values
        .iter()
        .map(|(pcr, value)| ((0x000B, *pcr), value.clone()))
        .collect();
    // attest.Attestation, field 1: ak_pub, of 280 bytes.
    let message = read(&evidence.join("gce-cos-85-nonce9009.attestation.pb"));
    assert_eq!(message[..3], [0x0A, 0x98, 0x02]);
    let mut collection = Collection::unbound();
    for (label, bytes) in [
        (Label::TpmQuote, quote("msg")),
        (Label::TpmQuoteSignature, quote("sig")),
        (Label::TpmAkPublic, message[3..283].to_vec()),
        (Label::TpmPcrValues, pcr_values::encode(&all)),
        (
            Label::TpmIakCertificate,
            read(&evidence.join("gce-cos-85-nonce9009.ak.der")),
        ),
        (
            Label::TpmEkChain,
            read(&certificates.join("ca/gce/tpm_ek_intermediate_2.crt")),
        ),
    ] {
        collection.insert(label, bytes).unwrap();
    }
    let registers = values.into_iter().filter(|(pcr, _)| REGISTERS.contains(pcr)).collect();
    let bank = BankValues {
        registers,
        events: Vec::new(),
    };
    let golden = MachineReference {
        name: "cos-85".into(),
        banks: [(HashAlg::Sha256, bank)].into(),
        ..MachineReference::default()
    };
    let mut policy = policy();
    policy.required_registers = common::selection(&REGISTERS);
    policy.session_key_registers = common::selection(&REGISTERS);
    policy.event_log = EventLogRule::RegistersSuffice;
    Offline {
        collection,
        nonce: vec![0x90, 0x09],
        policy,
        references: references(&[golden]),
        anchors: TrustAnchors::new([(Purpose::CloudAk, read(&certificates.join("ca/gce/tpm_ek_root_1.cer")))]).unwrap(),
        inventory: Inventory::new(vec![instance("cos-test", 0x5E53_E3FB_BF83_06C5)]),
        enrolled: None,
        // 2026-11-21T00:00:00Z.
        now: 1_795_219_200,
    }
}

#[test]
fn the_providers_certificate_ties_the_key_to_the_instance() {
    let (Some(evidence), Some(quotes), Some(certificates)) =
        (genuine("tpm-evidence"), genuine("tpm-quotes"), genuine("ek-certs"))
    else {
        return;
    };
    let good = || offline(&evidence, &quotes, &certificates);
    let appraisal = good().appraise();
    assert_eq!(codes(&appraisal), [""; 0], "{:#?}", appraisal.reasons);
    assert_eq!(
        (appraisal.node.as_deref(), appraisal.ak_binding),
        (Some("cos-test"), AkBinding::IakCertificate)
    );
    assert_eq!(
        appraisal.claims.get("iak_certificate"),
        Some(&ClaimValue::Text("cloud-ak".into()))
    );
    type Change = fn(&mut Offline);
    let rows: &[(&str, Change, &str)] = &[
        (
            "another instance of the project",
            |o| o.inventory = Inventory::new(vec![instance("x", 1)]),
            "node-unknown",
        ),
        (
            "the provider's CA is not listed",
            |o| o.anchors = TrustAnchors::default(),
            "iak-certificate-not-attestation",
        ),
        (
            "listed for another purpose",
            |o| {
                let all: Vec<Vec<u8>> = o
                    .anchors
                    .store(Purpose::CloudAk)
                    .iter()
                    .map(|(c, _)| c.as_der().to_vec())
                    .collect();
                o.anchors = TrustAnchors::new(all.iter().map(|der| (Purpose::Idevid, der))).unwrap();
            },
            "iak-certificate-not-attestation",
        ),
        ("another nonce", |o| o.nonce = vec![0x90, 0x08], "nonce-mismatch"),
        (
            "the certificate left out",
            |o| o.collection = common::replace(&o.collection, Label::TpmIakCertificate, None),
            "ak-not-bound",
        ),
    ];
    for (attack, change, wanted) in rows {
        let mut offline = good();
        change(&mut offline);
        let appraisal = offline.appraise();
        assert!(codes(&appraisal).contains(wanted), "{attack}: {:#?}", appraisal.reasons);
    }
}
