//! Whole appraisals of TDX guests: genuine evidence as its publishers have it, and attacks on a simulated platform.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::common;
use crate::simulated_tdx;

use common::{Offline, codes, policy, references, replace};
use simulated_tdx::{CollateralShape, DATA, INSTANCE, PPID, Platform as Simulated, without_chain};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_vectors::genuine;
use touchstone_verifier::anchors::{Purpose, TrustAnchors};
use touchstone_verifier::appraisal::{ClaimValue, Tier};
use touchstone_verifier::corim::MachineReference;
use touchstone_verifier::inventory::{CvmIdentity, GuestId, Inventory, Node, Platform};
use touchstone_verifier::tdx::{Quote, TdxReference, replay};

/// A node known by a TDX platform.
fn node(name: &str, platform: &[u8], guest: Option<GuestId>) -> Node {
    Node {
        name: name.into(),
        region: "north".into(),
        platforms: vec![CvmIdentity {
            platform: Platform::TdxPlatform(platform.to_vec()),
            guest,
        }],
        authority: "domain".into(),
        ..Node::default()
    }
}

fn reference(name: &str, quote: &[u8], ccel: Option<&[u8]>) -> MachineReference {
    let quote = Quote::parse(quote).unwrap();
    let replayed = ccel.map(|log| replay(&quote, log).unwrap());
    MachineReference {
        name: name.into(),
        tdx: Some(TdxReference::of(&quote, replayed.as_ref())),
        ..MachineReference::default()
    }
}

/// A quote with collateral of this platform, against a reference and an inventory of its own making.
fn offline(platform: &Simulated, quote: Vec<u8>, shape: &CollateralShape) -> Offline {
    let golden = platform.quote(3, |_| {});
    let mut collection = Collection::unbound();
    collection.insert(Label::TdxQuote, quote).unwrap();
    collection
        .insert(Label::TdxCollateral, platform.collateral(shape))
        .unwrap();
    Offline {
        collection,
        nonce: DATA.to_vec(),
        policy: policy(),
        references: references(&[reference("golden", &golden, None)]),
        anchors: TrustAnchors::new([(Purpose::Tdx, &platform.root)]).unwrap(),
        inventory: Inventory::new(vec![node("guest-1", &PPID, None)]),
        enrolled: None,
        now: simulated_tdx::NOW,
    }
}

fn good(platform: &Simulated) -> Offline {
    offline(platform, platform.quote(3, |_| {}), &CollateralShape::default())
}

#[test]
fn a_guest_that_is_as_it_should_be_is_affirmed() {
    let platform = Simulated::new();
    let appraisal = good(&platform).appraise();
    assert_eq!(codes(&appraisal), [""; 0]);
    assert_eq!(
        (appraisal.status, appraisal.node.as_deref()),
        (Tier::Affirming, Some("guest-1"))
    );
    assert_eq!(appraisal.reference.as_deref(), Some("golden"));
    assert!(
        !appraisal.authentic && appraisal.enrol.is_none(),
        "packed evidence enrols nobody"
    );
    let claim = |name: &str| appraisal.claims.get(name).cloned();
    assert_eq!(claim("tdx_tcb_status"), Some(ClaimValue::Text("UpToDate".into())));
    assert_eq!(claim("tcb_freshness"), Some(ClaimValue::Text("session".into())));
    assert_eq!(claim("roots"), Some(ClaimValue::Set(["tdx".to_owned()].into())));
    assert_eq!(claim("tdx_sept_ve_disable"), Some(ClaimValue::Bool(true)));
    // The collateral's next update ends the result.
    assert_eq!(appraisal.expires, 1_797_724_800);
}

/// A platform that quotes its id instead of its certificate, which then comes with the collateral.
#[test]
fn a_platforms_certificate_may_come_beside_its_quote() {
    let platform = Simulated::new();
    let (quote, chain) = without_chain(&platform.quote(3, |_| {}));
    let (debugged, _) = without_chain(&platform.quote(3, |body| body[120] |= 1));
    let (_, foreign) = without_chain(&Simulated::new().quote(3, |_| {}));
    let late = CollateralShape {
        next_update: "2026-11-02T00:00:00Z",
        ..CollateralShape::default()
    };
    let collateral = |shape: &CollateralShape, chain: Option<&str>| {
        let mut file: serde_json::Value = serde_json::from_slice(&platform.collateral(shape)).unwrap();
        if let Some(chain) = chain {
            file["pck_certificate_chain"] = chain.into();
        }
        Some(file.to_string().into_bytes())
    };
    let usual = CollateralShape::default();
    type Row<'a> = (&'a str, &'a [u8], Option<Vec<u8>>, &'a [&'a str]);
    let rows: [Row<'_>; 8] = [
        ("in the collateral", &quote, collateral(&usual, Some(&chain)), &[]),
        ("nowhere", &quote, collateral(&usual, None), &["tdx-pck-missing"]),
        (
            "an empty one",
            &quote,
            collateral(&usual, Some("")),
            &["tdx-pck-missing"],
        ),
        ("no collateral", &quote, None, &["tdx-pck-missing"]),
        (
            "no collateral that can be read",
            &quote,
            Some(b"{}".to_vec()),
            &["tdx-collateral-malformed"],
        ),
        (
            "the same, of a guest that is debugged",
            &debugged,
            Some(b"{}".to_vec()),
            &["tdx-collateral-malformed", "tdx-debug-enabled"],
        ),
        (
            "of a platform whose root only has the name of a trusted one",
            &quote,
            collateral(&usual, Some(&foreign)),
            &["certificate-signature-invalid", "tdx-signature-invalid"],
        ),
        (
            "in collateral past its end",
            &quote,
            collateral(&late, Some(&chain)),
            &["tdx-collateral-expired"],
        ),
    ];
    for (row, quote, collateral, wanted) in rows {
        let mut offline = offline(&platform, quote.to_vec(), &usual);
        offline.collection = replace(&offline.collection, Label::TdxCollateral, collateral);
        let appraisal = offline.appraise();
        let mut found = codes(&appraisal);
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, wanted, "{row}");
        assert_eq!(appraisal.status == Tier::Affirming, wanted.is_empty(), "{row}");
    }
}

/// In a session what does not answer it is told by its unsigned words: no chain, collateral or log is looked at.
#[test]
fn an_old_quote_in_a_session_costs_one_comparison() {
    let platform = Simulated::new();
    let mut old = good(&platform);
    old.collection = old
        .collection
        .records()
        .fold(Collection::bound(), |mut all, (label, record)| {
            all.insert(label, record.to_vec()).unwrap();
            all
        });
    assert_eq!(codes(&old.in_a_session()), ["tdx-report-data-mismatch"]);
    // Whatever else is wrong with it.
    old.anchors = TrustAnchors::default();
    for (label, record) in [(Label::TdxCollateral, b"{}".to_vec()), (Label::CcEventLog, vec![7; 64])] {
        old.collection = common::replace(&old.collection, label, Some(record));
    }
    let appraisal = old.in_a_session();
    assert_eq!(codes(&appraisal), ["tdx-report-data-mismatch"]);
    assert!(!appraisal.authentic && appraisal.claims.keys().all(|claim| !claim.starts_with("tdx_")));
}

/// Processor and platform have an id each, and both are one machine's.
#[test]
fn two_ids_of_one_platform_are_one_node_or_nobody() {
    let platform = Simulated::new();
    let entry = |name: &str, id: &[u8], guest| Node {
        name: name.into(),
        ..node(name, id, guest)
    };
    let config = GuestId::ConfigId(vec![0x5C; 48]);
    let guest = Some(config.clone());
    let both = Node {
        platforms: [
            node("", &PPID, None).platforms,
            node("", &INSTANCE, guest.clone()).platforms,
        ]
        .concat(),
        ..entry("both", &PPID, None)
    };
    type Row = (&'static str, Vec<Node>, Result<Option<GuestId>, &'static str>);
    let rows: Vec<Row> = vec![
        ("by the processor", vec![entry("a", &PPID, None)], Ok(None)),
        ("by the platform", vec![entry("a", &INSTANCE, None)], Ok(None)),
        ("by both, the guest named once", vec![both], Ok(guest.clone())),
        (
            "two nodes",
            vec![entry("a", &PPID, None), entry("b", &INSTANCE, None)],
            Err("node-ambiguous"),
        ),
        (
            "two nodes, one of them by its guest",
            vec![entry("a", &PPID, None), entry("b", &INSTANCE, guest)],
            Err("node-ambiguous"),
        ),
    ];
    for (what, nodes, expected) in rows {
        let quote = platform.quote(3, |b| b[184..232].fill(0x5C));
        let mut scenario = offline(&platform, quote.clone(), &CollateralShape::default());
        scenario.references = references(&[reference("golden", &quote, None)]);
        scenario.inventory = Inventory::new(nodes);
        let appraisal = scenario.appraise();
        match expected {
            Ok(guest) => {
                assert_eq!(codes(&appraisal), [""; 0], "{what}");
                assert_eq!(appraisal.cvm.and_then(|cvm| cvm.guest), guest, "{what}");
            }
            Err(code) => {
                assert_eq!(codes(&appraisal), [code], "{what}");
                assert_eq!(appraisal.node, None, "{what}");
            }
        }
    }
}

/// The collateral's sender may choose an older list: one that the domain has counts as well. And where no least evaluation
/// number is set, he chooses that too, which the result says.
#[test]
fn the_domains_own_revocation_lists_count() {
    let platform = Simulated::new();
    let mut own = good(&platform);
    let named = |leniency: &String| leniency == "tdx-min-tcb-evaluation-number: 0";
    assert!(own.appraise().leniencies.iter().any(named));
    own.policy.tdx.min_tcb_evaluation_number = 20;
    assert!(own.appraise().leniencies.is_empty());
    let revoking = platform.collateral(&CollateralShape {
        pck_revoked: true,
        ..CollateralShape::default()
    });
    let revoking: serde_json::Value = serde_json::from_slice(&revoking).unwrap();
    let list = hex::decode(revoking["pck_crl"].as_str().unwrap()).unwrap();
    let anchors = own
        .anchors
        .clone()
        .with_intermediates([(Purpose::Tdx, &platform.ca)])
        .unwrap();
    own.anchors = anchors.clone();
    assert_eq!(codes(&own.appraise()), [""; 0]);
    own.anchors = anchors.with_crl(&list).unwrap();
    assert_eq!(codes(&own.appraise()), ["ek-certificate-revoked"]);
}

type Change = fn(&Simulated, Offline) -> Offline;

#[test]
fn attacks_row_by_row() {
    let (platform, other) = (Simulated::new(), Simulated::new());
    let rows: &[(&str, Change, &[&str])] = &[
        (
            "another challenge",
            |_, mut o| {
                o.nonce[0] ^= 1;
                o
            },
            &["tdx-report-data-mismatch"],
        ),
        (
            "no challenge at all",
            |_, mut o| {
                o.nonce.clear();
                o
            },
            &["tdx-report-data-mismatch"],
        ),
        (
            "debug",
            |p, _| offline(p, p.quote(3, |b| b[120] |= 1), &CollateralShape::default()),
            &["tdx-debug-enabled", "tdx-measurement-mismatch"],
        ),
        (
            "out of date",
            |p, o| with(p, o, |c| c.status = "OutOfDate"),
            &["tdx-tcb-status"],
        ),
        (
            "revoked",
            |p, o| with(p, o, |c| c.status = "Revoked"),
            &["tdx-tcb-revoked"],
        ),
        (
            "collateral expired",
            |p, o| with(p, o, |c| c.next_update = "2026-11-20T00:00:00Z"),
            &["tdx-collateral-expired"],
        ),
        (
            "collateral for another platform",
            |p, o| with(p, o, |c| c.fmspc = "90c06f000000"),
            &["tdx-collateral-other-platform"],
        ),
        (
            "no collateral",
            |_, o| o.without(Label::TdxCollateral),
            &["tdx-collateral-missing"],
        ),
        (
            "collateral that is none",
            |_, o| o.with(Label::TdxCollateral, b"{}".to_vec()),
            &["tdx-collateral-malformed"],
        ),
        (
            "a quote that is none",
            |_, o| o.with(Label::TdxQuote, vec![0; 600]),
            &["tdx-quote-malformed"],
        ),
        (
            "collateral alone",
            |_, o| o.without(Label::TdxQuote),
            &["record-missing"],
        ),
        (
            "an SNP report beside it",
            |_, o| o.with(Label::SnpReport, vec![0; 1184]),
            &["reports-conflict"],
        ),
        (
            "the root withdrawn",
            |_, mut o| {
                o.anchors = TrustAnchors::default();
                o
            },
            &["certificate-issuer-unknown"],
        ),
        (
            "no reference",
            |_, mut o| {
                o.references = references(&[]);
                o
            },
            &["reference-missing"],
        ),
        (
            "nobody's platform",
            |_, mut o| {
                o.inventory = Inventory::new(vec![node("x", &[1; 16], None)]);
                o
            },
            &["node-unknown"],
        ),
        (
            "two entries of one platform",
            |_, mut o| {
                o.inventory = Inventory::new(vec![node("a", &PPID, None), node("b", &PPID, None)]);
                o
            },
            &["node-ambiguous"],
        ),
        (
            "a log that is none",
            |_, o| o.with(Label::CcEventLog, b"log".to_vec()),
            &["log-unreadable"],
        ),
        (
            "another kernel",
            |p, _| offline(p, p.quote(3, |b| b[450] ^= 1), &CollateralShape::default()),
            &["tdx-rtmr-mismatch"],
        ),
        (
            "a TPM required as well",
            |_, mut o| {
                o.policy.roots.required = touchstone_verifier::policy::RequiredRoots::TpmAndTee;
                o
            },
            &["root-missing"],
        ),
    ];
    for (attack, change, wanted) in rows {
        let appraisal = change(&platform, good(&platform)).appraise();
        let mut found = codes(&appraisal);
        found.dedup();
        assert_eq!(found, *wanted, "{attack}: {:#?}", appraisal.reasons);
        assert_eq!(appraisal.status, Tier::Contraindicated, "{attack}");
    }
    // A self-made complete chain.
    let mut forged = good(&other);
    forged.anchors = good(&platform).anchors;
    assert_eq!(forged.appraise().status, Tier::Contraindicated);
    assert!(
        forged.appraise().claims.keys().all(|claim| !claim.starts_with("tdx_")),
        "claims of nobody"
    );
}

fn with(platform: &Simulated, offline: Offline, change: fn(&mut CollateralShape)) -> Offline {
    let mut shape = CollateralShape::default();
    change(&mut shape);
    offline.with(Label::TdxCollateral, platform.collateral(&shape))
}

#[test]
fn a_guest_is_told_from_others_on_its_platform() {
    let platform = Simulated::new();
    let quote = platform.quote(3, |body| body[184..232].fill(0xC0));
    let mut offline = offline(&platform, quote.clone(), &CollateralShape::default());
    offline.references = references(&[reference("golden", &quote, None)]);
    let config = GuestId::ConfigId(vec![0xC0; 48]);
    offline.inventory = Inventory::new(vec![node("any", &PPID, None), node("this", &PPID, Some(config))]);
    assert_eq!(offline.appraise().node.as_deref(), Some("this"));
    let other = GuestId::ConfigId(vec![0xC1; 48]);
    offline.inventory = Inventory::new(vec![node("any", &PPID, None), node("other", &PPID, Some(other))]);
    assert_eq!(offline.appraise().node.as_deref(), Some("any"));
    // Known by the id of the whole platform only.
    offline.inventory = Inventory::new(vec![node("instance", &[0x77; 16], None)]);
    assert_eq!(offline.appraise().node.as_deref(), Some("instance"));
}

/// A recorded TPM's quote beside a TDX quote: one machine only where one inventory entry lists both.
#[test]
fn a_tpm_beside_a_quote_is_another_machine_until_it_is_listed_with_it() {
    let platform = Simulated::new();
    let boot = common::Boot::load("good");
    let nonce = boot.nonce("quote-ecc");
    let mut data = [0; 64];
    data[..nonce.len()].copy_from_slice(&nonce);
    let quote = platform.quote(3, |body| body[520..584].copy_from_slice(&data));
    let mut offline = Offline::new(&boot, "quote-ecc", "ecc", &boot);
    // The recorded TPM's certificate begins a little later.
    offline.now = 1_795_300_000;
    let golden = platform.quote(3, |_| {});
    offline.references = references(&[boot.reference("golden"), reference("guest", &golden, None)]);
    let pem = std::fs::read(common::boots().join("ca/issuercert.pem")).unwrap();
    let root = std::fs::read(common::boots().join("ca/swtpm-localca-rootca-cert.pem")).unwrap();
    let der = |pem: &[u8]| pem::parse(pem).unwrap().contents().to_vec();
    offline.anchors = TrustAnchors::new([
        (Purpose::Ek, der(&pem)),
        (Purpose::Ek, der(&root)),
        (Purpose::Tdx, platform.root.clone()),
    ])
    .unwrap();
    let collateral = platform.collateral(&CollateralShape::default());
    let mut offline = offline
        .with(Label::TdxQuote, quote)
        .with(Label::TdxCollateral, collateral);
    let mut both = boot.node("node-1");
    both.platforms = node("", &PPID, None).platforms;
    offline.inventory = Inventory::new(vec![both]);
    let together = offline.appraise();
    assert_eq!(codes(&together), [""; 0], "{:#?}", together.reasons);
    assert_eq!(
        together.claims.get("roots"),
        Some(&ClaimValue::Set(["tdx", "tpm"].map(str::to_owned).into()))
    );
    offline.inventory = Inventory::new(vec![boot.node("node-1"), node("node-2", &PPID, None)]);
    let mixed = offline.appraise();
    assert!(codes(&mixed).contains(&"roots-not-together"), "{:#?}", mixed.reasons);
}

/// Genuine evidence of a Google guest with its firmware's log, at the collateral's time.
#[test]
fn a_genuine_guest_with_its_log_is_affirmed() {
    let (Some(tdx), Some(ccel)) = (genuine("tdx"), genuine("ccel")) else {
        return;
    };
    let read = |path: &std::path::Path| std::fs::read(path).unwrap();
    let quote = read(&tdx.join("tdx_v4_gce_cos113.bin"));
    let log = read(&ccel.join("gce_cos113.ccel.bin"));
    let parsed = Quote::parse(&quote).unwrap();
    let ppid = hex::decode("8ebf889447fd60ab1913348582eb509e").unwrap();
    let mut collection = Collection::unbound();
    for (label, bytes) in [
        (Label::TdxQuote, quote.clone()),
        (
            Label::TdxCollateral,
            read(&tdx.join("collateral/00806f050000_2025-10.json")),
        ),
        (Label::CcEventLog, log.clone()),
    ] {
        collection.insert(label, bytes).unwrap();
    }
    let root = read(&tdx.join("trusted_root/intel_sgx_root_ca.der"));
    let mut offline = Offline {
        collection,
        nonce: parsed.report_data().to_vec(),
        policy: policy(),
        references: references(&[reference("cos-113", &quote, Some(&log))]),
        anchors: TrustAnchors::new([(Purpose::Tdx, &root)]).unwrap(),
        inventory: Inventory::new(vec![node("cos", &ppid, None)]),
        enrolled: None,
        now: 1_761_920_231,
    };
    let appraisal = offline.appraise();
    assert_eq!(codes(&appraisal), [""; 0], "{:#?}", appraisal.reasons);
    let text = |name: &str| match appraisal.claims.get(name) {
        Some(ClaimValue::Text(text)) => text.clone(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(text("tdx_event_log"), "replayed");
    assert_eq!(
        appraisal.claims.get("cc_boot_log_complete"),
        Some(&ClaimValue::Bool(true))
    );
    // A TPM's claims are a TPM's: the guest's log never stands in for what a TPM's log leaves unsaid.
    for name in [
        "boot_log_complete",
        "secure_boot",
        "boot_images",
        "events_ignored",
        "kernel_command_line",
    ] {
        assert_eq!(appraisal.claims.get(name), None, "{name}");
    }
    assert_eq!(text("cc_sbat_level"), "sbat,1,2021030218\\u{a}");
    let Some(ClaimValue::Set(images)) = appraisal.claims.get("cc_boot_images") else {
        panic!("no boot images");
    };
    assert_eq!(images.len(), 2);
    // Every claim of the guest is one that policies know, and of the type they know it by.
    use touchstone_verifier::tdx::claims::{FLAGS, NUMBERS, SETS, TEXTS};
    for (name, value) in appraisal.claims.iter().filter(|(name, _)| name.starts_with("tdx_")) {
        let known: &[&str] = match value {
            ClaimValue::Text(_) => &TEXTS,
            ClaimValue::Int(_) => &NUMBERS,
            ClaimValue::Bool(_) => &FLAGS,
            ClaimValue::Set(_) => &SETS,
        };
        assert!(known.contains(&name.as_str()), "{name}");
    }
    // Another reference of the same firmware whose boot was another: the event that differs is named.
    let mut changed = reference("cos-113", &quote, Some(&log));
    let tdx_reference = changed.tdx.as_mut().unwrap();
    tdx_reference.rtmrs.registers.insert(2, vec![0; 48]);
    let position = tdx_reference
        .rtmrs
        .events
        .iter()
        .rposition(|event| event.pcr == 2)
        .unwrap();
    tdx_reference.rtmrs.events[position].digest = vec![7; 48];
    tdx_reference.rtmrs.events[position].data = None;
    offline.references = references(&[changed]);
    let appraisal = offline.appraise();
    assert_eq!(codes(&appraisal), ["tdx-rtmr-mismatch"], "{:#?}", appraisal.reasons);
    let hint = appraisal.reasons[0].hint.as_ref().unwrap();
    assert!(
        hint.event.is_some() && hint.nearest.as_deref() == Some("cos-113"),
        "{hint:?}"
    );
    // The same log with one event's data altered: it replays, and lies.
    let position = log.windows(19).position(|window| window == b"Exit Boot Services ");
    let mut lying = log.clone();
    lying[position.unwrap()] ^= 1;
    offline.references = references(&[reference("cos-113", &quote, Some(&log))]);
    offline.collection = replace(&offline.collection, Label::CcEventLog, Some(lying));
    let appraisal = offline.appraise();
    assert_eq!(codes(&appraisal), ["event-digest-mismatch"], "{:#?}", appraisal.reasons);
    assert!(
        appraisal.reasons[0].claim.contains("RTMR1"),
        "{:?}",
        appraisal.reasons[0]
    );
}
