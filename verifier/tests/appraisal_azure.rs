//! Whole appraisals of Azure's confidential VMs: genuine evidence as its publishers have it, and attacks on it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::azure;
use crate::common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use azure::Parts;
use common::{Boot, Offline, codes, policy, references};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_vectors::genuine;
use touchstone_verifier::anchors::{Purpose, TrustAnchors};
use touchstone_verifier::appraisal::{AkBinding, ClaimValue, Root, Tier};
use touchstone_verifier::corim::{BankValues, Endorses, MachineReference};
use touchstone_verifier::hcl::{HardwareKind, HclReport};
use touchstone_verifier::inventory::{CvmIdentity, Inventory, Node, Platform};
use touchstone_verifier::policy::{EventLogRule, ReportFreshness, RequiredRoots};
use touchstone_verifier::snp::{AliasCheck, Report, SnpReference};
use touchstone_verifier::tdx::{PckData, Quote, TdxReference};
use touchstone_verifier::tpm::HashAlg;

/// 2026-11-21T00:00:00Z.
const NOW: i64 = 1_795_219_200;
const REGISTERS: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Everything at hand to affirm this evidence: the makers' roots, a reference made of it, an entry of its platform.
fn offline(parts: &Parts, azure: &Path, collateral: Option<PathBuf>, now: i64) -> Offline {
    let vectors = azure.parent().unwrap();
    let mut anchors = vec![
        (
            Purpose::Tdx,
            read(&vectors.join("tdx/trusted_root/intel_sgx_root_ca.der")),
        ),
        (
            Purpose::CloudAk,
            pem::parse(read(&azure.join("ca/azure-virtual-tpm-root-2023.pem")))
                .unwrap()
                .contents()
                .to_vec(),
        ),
    ];
    for name in ["milan_ark", "milan_ask", "genoa_ark", "genoa_ask"] {
        anchors.push((Purpose::Snp, read(&vectors.join(format!("snp/ca/{name}.der")))));
    }
    let (platform, golden) = golden(parts);
    let mut policy = policy();
    policy.required_registers = common::selection(&REGISTERS);
    policy.session_key_registers = common::selection(&REGISTERS);
    // None of them has an event log, the reports of version 2 can not speak of aliases, and each is from the start.
    policy.event_log = EventLogRule::RegistersSuffice;
    policy.snp.alias_check = AliasCheck::Ignored;
    Offline {
        collection: parts.pack(collateral.map(|path| read(&path))),
        nonce: parts.nonce(),
        policy,
        references: references(&[golden]),
        anchors: TrustAnchors::new(anchors).unwrap(),
        inventory: Inventory::new(vec![Node {
            name: "azure-1".into(),
            region: "north".into(),
            platforms: vec![CvmIdentity { platform, guest: None }],
            authority: "domain".into(),
            ..Node::default()
        }]),
        enrolled: None,
        now,
    }
}

/// The platform, and a reference made of the evidence.
fn golden(parts: &Parts) -> (Platform, MachineReference) {
    let hcl = HclReport::parse(&parts.hcl).unwrap();
    let mut golden = MachineReference {
        name: "golden".into(),
        ..MachineReference::default()
    };
    let registers: BTreeMap<u8, Vec<u8>> = REGISTERS
        .iter()
        .map(|pcr| (*pcr, parts.registers[usize::from(*pcr)].clone()))
        .collect();
    golden.banks.insert(
        HashAlg::Sha256,
        BankValues {
            registers,
            events: Vec::new(),
        },
    );
    let platform = match hcl.kind() {
        HardwareKind::Snp => {
            let report = Report::parse(hcl.hardware()).unwrap();
            golden.snp = Some(SnpReference {
                endorses: Endorses::AzureVtpm,
                ..SnpReference::of_measurement(report.measurement().try_into().unwrap())
            });
            Platform::SnpChip(report.chip_id().to_vec())
        }
        HardwareKind::Tdx => {
            let quote = parts.td_quote.as_deref().unwrap_or_default();
            let quote = Quote::parse(quote).unwrap();
            golden.tdx = Some(TdxReference {
                endorses: Endorses::AzureVtpm,
                ..TdxReference::of(&quote, None)
            });
            let PckData::Chain(chain) = quote.pck() else {
                panic!("a chain")
            };
            Platform::TdxPlatform(ppid(chain))
        }
    };
    (platform, golden)
}

/// The PPID in a chain of a provisioning key.
fn ppid(chain: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(chain).unwrap().trim_end_matches('\0');
    let leaf = pem::parse(text).unwrap();
    let oid = [
        0x06, 0x0A, 0x2A, 0x86, 0x48, 0x86, 0xF8, 0x4D, 0x01, 0x0D, 0x01, 0x01, 0x04, 0x10,
    ];
    let at = leaf
        .contents()
        .windows(oid.len())
        .position(|window| window == oid)
        .unwrap()
        + oid.len();
    leaf.contents()[at..at + 16].to_vec()
}

/// Every published evidence has its published verdict: the report endorses the key, the key signed the quote.
#[test]
fn genuine_evidence_is_affirmed() {
    let Some(azure) = genuine("azure") else { return };
    let collateral = |name: &str| Some(azure.parent().unwrap().join("tdx/collateral").join(name));
    let yaml = Parts::from_yaml(&azure.join("azure-tdx-with-ak-intermediates-1780922561.yaml"));
    let snp = |name: &str| Parts::from_json(&azure.join(name));
    let rows = [
        ("snp v0", snp("snp-evidence-v0.json"), None, NOW, "boot"),
        ("snp v1", snp("snp-evidence-v1.json"), None, NOW, "boot"),
        ("snp lunal", snp("snp-evidence-lunal-v1.json"), None, NOW, "boot"),
        // Its guest wrote the nonce into the NV index first.
        (
            "tdx with certificate",
            yaml,
            collateral("90c06f000000_2026-06.json"),
            1_780_922_561,
            "session",
        ),
    ];
    for (name, parts, collateral, now, freshness) in rows {
        let offline = offline(&parts, &azure, collateral, now);
        let appraisal = offline.appraise();
        assert_eq!(codes(&appraisal), [""; 0], "{name}: {:#?}", appraisal.reasons);
        assert_eq!(appraisal.status, Tier::Affirming, "{name}");
        assert_eq!(appraisal.ak_binding, AkBinding::Report, "{name}");
        assert_eq!(appraisal.node.as_deref(), Some("azure-1"), "{name}");
        assert_eq!(
            appraisal.claims.get("tcb_freshness"),
            Some(&ClaimValue::Text(freshness.into())),
            "{name}"
        );
        let named = |leniency: &String| leniency == "azure-report-freshness: boot";
        assert_eq!(appraisal.leniencies.iter().any(named), freshness == "boot", "{name}");
        // The key need not be there twice.
        let short = Offline {
            collection: common::replace(&offline.collection, Label::TpmAkPem, None),
            ..offline
        };
        assert_eq!(codes(&short.appraise()), [""; 0], "{name}");
        let offline = short;
        // In a session a report of the start is refused, unless a setting says otherwise. (This quote is no session's.)
        let mut live = offline;
        live.collection = live
            .collection
            .records()
            .fold(Collection::bound(), |mut all, (label, record)| {
                all.insert(label, record.to_vec()).unwrap();
                all
            });
        let refused = codes(&live.in_a_session()).contains(&"azure-report-not-fresh");
        assert!(refused, "{name}");
        live.policy.azure.report_freshness = ReportFreshness::Boot;
        let appraisal = live.in_a_session();
        assert!(!codes(&appraisal).contains(&"azure-report-not-fresh"), "{name}");
        assert!(!appraisal.authentic && appraisal.authentic_roots.is_empty(), "{name}");
    }
}

/// An endorsement key is public: whoever sends a stranger's beside a genuine machine of his own is not that stranger.
#[test]
fn an_endorsement_key_that_nothing_ties_names_nobody() {
    let Some(azure) = genuine("azure") else { return };
    let good = Parts::from_json(&azure.join("snp-evidence-v1.json"));
    let victim = Boot::load("good");
    let mut mine = offline(&good, &azure, None, NOW);
    mine.inventory = Inventory::new(vec![victim.node("victim")]);
    mine.collection = common::replace(&mine.collection, Label::TpmEkPublic, Some(victim.file("ek-ecc.pub")));
    let appraisal = mine.appraise();
    let found = codes(&appraisal);
    assert!(
        found.contains(&"ak-not-bound") && found.contains(&"node-unknown"),
        "{found:?}"
    );
    assert_eq!(appraisal.node, None);
    assert!(appraisal.roots.is_empty() || !appraisal.roots.contains(&Root::Tpm));
}

/// A virtual TPM that only the report vouches for is not the second of two independent roots.
#[test]
fn an_endorsed_tpm_is_no_independent_root() {
    let Some(azure) = genuine("azure") else { return };
    let good = Parts::from_json(&azure.join("snp-evidence-v1.json"));
    let mut both = offline(&good, &azure, None, NOW);
    assert_eq!(codes(&both.appraise()), [""; 0]);
    both.policy.roots.required = RequiredRoots::TpmAndTee;
    assert_eq!(codes(&both.appraise()), ["root-missing"]);
}

type Change = fn(&mut Parts, &mut Offline);

/// What an attacker makes of good evidence. After the change to its parts it is packed anew.
#[test]
fn attacks_row_by_row() {
    let Some(azure) = genuine("azure") else { return };
    let good = Parts::from_json(&azure.join("snp-evidence-v1.json"));
    let other = Parts::from_json(&azure.join("snp-evidence-lunal-v1.json"));
    const SLOT: usize = 32;
    const LENGTHS: usize = SLOT + 1184;
    const JSON: usize = LENGTHS + 20;
    let rows: &[(&str, Change, &[&str])] = &[
        ("nothing changed", |_, _| {}, &[]),
        (
            "hash type unknown",
            |p, _| p.hcl[LENGTHS + 12] = 9,
            &["azure-report-malformed"],
        ),
        (
            "report type unknown",
            |p, _| p.hcl[LENGTHS + 8] = 3,
            &["azure-report-malformed"],
        ),
        (
            "no report of the paravisor",
            |p, _| p.hcl[0] = 0,
            &["azure-report-malformed"],
        ),
        (
            "the runtime data altered",
            |p, _| {
                let at = p.hcl.windows(11).position(|w| w == b"secure-boot").unwrap();
                p.hcl[at] ^= 1;
            },
            &["azure-runtime-data-mismatch"],
        ),
        (
            "the hash type changed",
            |p, _| p.hcl[LENGTHS + 12] = 2,
            &["azure-runtime-data-mismatch"],
        ),
        (
            "the key in the runtime data swapped",
            |p, _| {
                let at = p.hcl[JSON..].windows(5).position(|w| w == b"\"n\":\"").unwrap() + JSON + 20;
                p.hcl[at] = if p.hcl[at] == b'A' { b'B' } else { b'A' };
            },
            &["azure-runtime-data-mismatch"],
        ),
        (
            "the report altered",
            |p, _| p.hcl[SLOT + 0x90] ^= 1,
            &["snp-signature-invalid"],
        ),
        (
            "the quote altered",
            |p, _| *p.quote.last_mut().unwrap() ^= 1,
            &["tpm-signature-invalid"],
        ),
        (
            "a register altered",
            |p, _| p.registers[4][0] ^= 1,
            &["pcr-digest-mismatch"],
        ),
        ("another nonce", |_, o| o.nonce[0] ^= 1, &["nonce-mismatch"]),
        (
            "a debugged guest",
            |p, _| p.hcl[SLOT + 0x0A] |= 1 << 3,
            &["snp-signature-invalid"],
        ),
        (
            "no certificate of the chip",
            |p, _| p.certificates.clear(),
            &["snp-vek-missing"],
        ),
        (
            "another machine's registers expected",
            |_, o| o.references = references(&[]),
            &["reference-missing"],
        ),
        (
            "nobody's machine",
            |_, o| o.inventory = Inventory::new(Vec::new()),
            &["node-unknown"],
        ),
    ];
    for (attack, change, wanted) in rows {
        let mut parts = good.clone();
        let mut offline = offline(&good, &azure, None, NOW);
        change(&mut parts, &mut offline);
        // The key is what it was: an attacker keeps what is good of it.
        let mut records = offline.collection.clone();
        for (label, record) in [
            (Label::AzureHclReport, Some(parts.hcl.clone())),
            (Label::TpmQuote, Some(parts.quote.clone())),
            (Label::TpmPcrValues, Some(registers(&parts))),
            (
                Label::SnpCertificates,
                Some(parts.certificates.concat()).filter(|record| !record.is_empty()),
            ),
        ] {
            records = common::replace(&records, label, record);
        }
        offline.collection = records;
        let appraisal = offline.appraise();
        let found = codes(&appraisal);
        match wanted.first() {
            None => assert_eq!(found, [""; 0], "{attack}: {:#?}", appraisal.reasons),
            Some(first) => {
                assert!(found.contains(first), "{attack}: {found:?}");
                assert_eq!(appraisal.status, Tier::Contraindicated, "{attack}");
            }
        }
    }
    // Two genuine machines: the report of the one, the virtual TPM of the other.
    let mut mixed = offline(&good, &azure, None, NOW);
    let foreign = other.pack(None);
    for label in [
        Label::TpmQuote,
        Label::TpmQuoteSignature,
        Label::TpmAkPem,
        Label::TpmPcrValues,
    ] {
        mixed.collection = common::replace(&mixed.collection, label, foreign.get(label).map(<[u8]>::to_vec));
    }
    mixed.nonce = other.nonce();
    let appraisal = mixed.appraise();
    let found = codes(&appraisal);
    assert!(found.contains(&"roots-not-together"), "{found:?}");
    assert_eq!(appraisal.ak_binding, AkBinding::None);
    // The report alone: genuine, and nothing is fresh.
    let mut alone = offline(&good, &azure, None, NOW);
    for label in [
        Label::TpmQuote,
        Label::TpmQuoteSignature,
        Label::TpmAkPem,
        Label::TpmPcrValues,
    ] {
        alone = alone.without(label);
    }
    let appraisal = alone.appraise();
    assert_eq!(codes(&appraisal), ["reference-incomplete", "endorsed-quote-missing"]);
    // Also where no reference states a register: the paravisor's measurement says nothing of the system above it.
    let (_, mut golden) = golden(&good);
    golden.banks.clear();
    alone.references = references(&[golden]);
    let appraisal = alone.appraise();
    assert_eq!(codes(&appraisal), ["endorsed-quote-missing"]);
    assert!(appraisal.roots.is_empty() && !appraisal.authentic);
}

fn registers(parts: &Parts) -> Vec<u8> {
    let values = (0u8..)
        .zip(&parts.registers)
        .map(|(register, value)| ((0x000B, register), value.clone()))
        .collect();
    touchstone_evidence::pcr_values::encode(&values)
}

/// The kinvolk files: a certificate bundle of another chip, and a TDX report without a quote.
#[test]
fn what_is_published_as_wrong_is_refused() {
    let Some(azure) = genuine("azure") else { return };
    let good = Parts::from_json(&azure.join("snp-evidence-v1.json"));
    let mut wrong_chip = good.clone();
    wrong_chip.hcl = read(&azure.join("hcl-report-snp.bin"));
    wrong_chip.certificates = pem::parse_many(read(&azure.join("kinvolk-certs.pem")))
        .unwrap()
        .iter()
        .map(|pem| pem.contents().to_vec())
        .collect();
    let appraisal = offline(&wrong_chip, &azure, None, NOW).appraise();
    let found = codes(&appraisal);
    assert!(
        found.contains(&"snp-chip-mismatch") || found.contains(&"snp-signature-invalid"),
        "{found:?}"
    );
    let evidence = Parts::from_json(&azure.join("tdx-evidence-v1.json"));
    let mut tdx = offline(&evidence, &azure, None, NOW);
    // Its platform has no collateral among the published, and it was launched without SEPT_VE_DISABLE; the chain from the
    // quote to the key and its signature holds.
    assert_eq!(codes(&tdx.appraise()), ["tdx-collateral-missing", "tdx-attributes"]);
    tdx.collection = common::replace(&tdx.collection, Label::TdxQuote, None);
    let found = tdx.appraise();
    assert!(codes(&found).contains(&"record-missing"), "{:#?}", found.reasons);
    // A quote of another guest beside it: its report data are not the hash of these runtime data.
    let foreign = read(&azure.parent().unwrap().join("tdx/tdx_v5_90c06f_uptodate.bin"));
    let mut swapped = offline(&evidence, &azure, None, NOW);
    swapped.collection = common::replace(&swapped.collection, Label::TdxQuote, Some(foreign));
    assert!(codes(&swapped.appraise()).contains(&"azure-runtime-data-mismatch"));
}
