//! Appraisals of SEV-SNP guests, alone and beside a TPM: one attack a row, against a simulated platform whose root is
//! trusted, and recorded boots.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::common;
use crate::simulated_snp;

use common::{Boot, Offline, anchors, codes, policy, references};
use simulated_snp::{NOW, Platform, VekShape};
use touchstone_cose::key::SigningKey;
use touchstone_evidence::binder::{BinderInput, Role};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_verifier::anchors::{Purpose, TrustAnchors};
use touchstone_verifier::appraisal::{
    AkBinding, Appraisal, BinderContext, ClaimValue, Freshness, ImaKnown, Inputs, Known, Tier, appraise, claim,
};
use touchstone_verifier::corim::MachineReference;
use touchstone_verifier::inventory::{EnrolledRoot, Inventory, Node};
use touchstone_verifier::policy::{AppraisalPolicy, RequiredRoots};
use touchstone_verifier::snp::{Report, SignedReport, SnpReference, Vek};
use touchstone_verifier::x509::CrlRule;

const DATA: [u8; 64] = [0xDA; 64];
const CHIP: [u8; 64] = [0xC1; 64];

/// Everything an appraisal of packed evidence of a guest rests on.
#[derive(Clone)]
struct Guest {
    report: Vec<u8>,
    certificates: Vec<Vec<u8>>,
    nonce: Vec<u8>,
    policy: AppraisalPolicy,
    references: Vec<MachineReference>,
    anchors: TrustAnchors,
    nodes: Vec<Node>,
    now: i64,
}

fn trusted(platform: &Platform) -> TrustAnchors {
    anchors_with(TrustAnchors::new([(Purpose::Snp, &platform.root)]).unwrap(), platform)
}

fn anchors_with(anchors: TrustAnchors, platform: &Platform) -> TrustAnchors {
    anchors
        .with_intermediates([(Purpose::Snp, &platform.intermediate)])
        .unwrap()
}

fn node(name: &str, platforms: &[String]) -> Node {
    Node {
        name: name.into(),
        region: "north".into(),
        platforms: platforms.iter().map(|text| text.parse().unwrap()).collect(),
        ..Node::default()
    }
}

fn chip() -> String {
    format!("snp:{}", hex::encode(CHIP))
}

/// What a golden report says, as `reference add` takes it.
fn golden(platform: &Platform, report: &[u8]) -> MachineReference {
    let vek = Vek::from_der(&platform.vek).unwrap();
    let signed = SignedReport::verify(Report::parse(report).unwrap(), vek).unwrap();
    MachineReference {
        name: "golden".into(),
        snp: Some(SnpReference::of_golden(&signed)),
        ..MachineReference::default()
    }
}

impl Guest {
    fn new(platform: &Platform) -> Self {
        Self::with(platform, platform.report(|_| {}))
    }

    /// With this report as the golden one.
    fn with(platform: &Platform, report: Vec<u8>) -> Self {
        Self {
            certificates: vec![platform.vek.clone()],
            nonce: DATA.to_vec(),
            policy: policy(),
            references: vec![golden(platform, &report)],
            anchors: trusted(platform),
            nodes: vec![node("guest-1", &[chip()])],
            now: NOW,
            report,
        }
    }

    fn collection(&self, mut collection: Collection) -> Collection {
        collection.insert(Label::SnpReport, self.report.clone()).unwrap();
        if !self.certificates.is_empty() {
            collection
                .insert(Label::SnpCertificates, self.certificates.concat())
                .unwrap();
        }
        collection
    }

    fn judge(&self, collection: &Collection, freshness: Freshness<'_>, known: Known<'_>) -> Appraisal {
        appraise(&Inputs {
            collection,
            freshness,
            policy: &self.policy,
            references: &references(&self.references),
            anchors: &self.anchors,
            inventory: &Inventory::new(self.nodes.clone()),
            enrolled: None,
            ima: ImaKnown::default(),
            known,
            now: self.now,
        })
    }

    fn appraise(&self) -> Appraisal {
        let freshness = Freshness::Unbound { nonce: &self.nonce };
        self.judge(&self.collection(Collection::unbound()), freshness, Known::default())
    }
}

#[test]
fn a_guest_in_its_reference_state_is_affirmed() {
    let platform = Platform::new(&VekShape::default());
    let appraisal = Guest::new(&platform).appraise();
    assert_eq!(codes(&appraisal), [""; 0]);
    assert_eq!(appraisal.status, Tier::Affirming);
    assert_eq!(
        (appraisal.node.as_deref(), appraisal.reference.as_deref()),
        (Some("guest-1"), Some("golden"))
    );
    assert_eq!(appraisal.cvm.unwrap().to_string(), chip());
    assert_eq!(
        appraisal.claims[claim::ROOTS],
        ClaimValue::Set(["snp".to_owned()].into())
    );
    assert_eq!(
        appraisal.claims[claim::TCB_FRESHNESS],
        ClaimValue::Text("session".into())
    );
    assert_eq!(appraisal.ak_binding, AkBinding::None);
    let vector = appraisal.vector;
    assert_eq!(
        (vector.hardware, vector.runtime_opaque, vector.configuration),
        (Some(2), Some(2), Some(2))
    );
    // Packed evidence withdraws nothing and enrols nobody.
    assert!(!appraisal.authentic && appraisal.enrol.is_none());
}

type Bend = fn(&mut Guest, &Platform);

#[test]
fn each_attack_on_a_guest_is_refused_for_what_it_is() {
    let platform = Platform::new(&VekShape::default());
    let rows: &[(&str, Bend, &[&str])] = &[
        (
            "another challenge",
            |g, _| g.nonce[0] ^= 1,
            &["snp-report-data-mismatch"],
        ),
        ("no challenge", |g, _| g.nonce.clear(), &["snp-report-data-mismatch"]),
        (
            "a shorter challenge",
            |g, _| g.nonce.truncate(63),
            &["snp-report-data-mismatch"],
        ),
        (
            "debugging",
            |g, p| g.report = p.report(|b| b[0x0A] |= 1 << 3),
            &["snp-debug-enabled", "snp-guest-policy"],
        ),
        (
            "VMPL 1",
            |g, p| g.report = p.report(|b| b[0x30] = 1),
            &["snp-vmpl", "snp-vmpl"],
        ),
        (
            "a migration agent",
            |g, p| g.report = p.report(|b| b[0x0A] |= 1 << 2),
            &["snp-migration-agent", "snp-guest-policy"],
        ),
        (
            "no alias check",
            |g, p| g.report = p.report(|b| b[0x40] = 0x05),
            &["snp-alias-check"],
        ),
        (
            "another kernel",
            |g, p| g.report = p.report(|b| b[0x90] ^= 1),
            &["snp-measurement-mismatch"],
        ),
        (
            "another launch policy than the golden guest's",
            |g, p| g.report = p.report(|b| b[0x0A] |= 1 << 4),
            &["snp-guest-policy"],
        ),
        (
            "a boot loader below the golden one was there at launch, newer microcode",
            |g, p| {
                g.report = p.report(|b| {
                    b[0x1F0] = 3;
                    b[0x1F7] = 255;
                });
            },
            &["snp-tcb-below-floor"],
        ),
        (
            "committed below the golden one",
            |g, p| g.report = p.report(|b| b[0x1E6] = 23),
            &["snp-tcb-below-floor"],
        ),
        (
            "another ID key than the reference's",
            |g, _| g.references[0].snp.as_mut().unwrap().id_key_digest = Some([7; 48]),
            &["snp-guest-identity"],
        ),
        (
            "host data other than the reference's",
            |g, _| g.references[0].snp.as_mut().unwrap().host_data = Some([7; 32]),
            &["snp-guest-identity"],
        ),
        (
            "a guest version below the reference's",
            |g, _| g.references[0].snp.as_mut().unwrap().guest_svn = Some(1),
            &["snp-guest-identity"],
        ),
        (
            "an author key that is not enabled",
            |g, p| {
                g.report = p.report(|b| b[0x110..0x140].fill(7));
                g.references[0].snp.as_mut().unwrap().author_key_digest = Some([7; 48]);
            },
            &["snp-guest-identity"],
        ),
        (
            "a reference that has ended",
            |g, _| {
                g.references[0].not_after = Some(common::NOW + 10);
                g.now = common::NOW + 20;
            },
            &["reference-out-of-force"],
        ),
        (
            "no reference of a guest",
            |g, _| {
                g.references = vec![Boot::load("good").reference("a machine")];
            },
            &["reference-missing"],
        ),
        (
            "a reserved bit is set",
            |g, p| g.report = p.report(|b| b[0x4C] = 1),
            &["snp-report-malformed"],
        ),
        ("cut short", |g, _| g.report.truncate(0x49F), &["snp-report-malformed"]),
        (
            "a flipped bit of the measurement",
            |g, _| g.report[0x90] ^= 1,
            &["snp-signature-invalid"],
        ),
        (
            "a signature of zeros",
            |g, _| g.report[0x2A0..].fill(0),
            &["snp-signature-invalid"],
        ),
        (
            "a key that AMD has not certified, chain and all",
            |g, _| {
                let theirs = Platform::new(&VekShape::default());
                g.report = theirs.report(|_| {});
                g.certificates = vec![theirs.vek, theirs.intermediate, theirs.root];
            },
            &["certificate-signature-invalid"],
        ),
        ("no certificate", |g, _| g.certificates.clear(), &["snp-vek-missing"]),
        (
            "authorities only",
            |g, p| g.certificates = vec![p.intermediate.clone()],
            &["snp-vek-missing"],
        ),
        (
            "two certificates that could be it",
            |g, _| g.certificates.push(Platform::new(&VekShape::default()).vek),
            &["snp-vek-missing"],
        ),
        (
            "certificates that are none",
            |g, _| g.certificates = vec![vec![0x30, 3, 1, 2, 3]],
            &["certificate-malformed"],
        ),
        (
            "no root listed",
            |g, _| g.anchors = TrustAnchors::default(),
            &["certificate-issuer-unknown"],
        ),
        (
            "a root listed for TPMs only",
            |g, p| g.anchors = TrustAnchors::new([(Purpose::Ek, &p.root)]).unwrap(),
            &["certificate-issuer-unknown"],
        ),
        (
            "a certificate that has ended",
            |g, _| g.now = 1_988_150_401,
            &["certificate-expired"],
        ),
        (
            "revocation lists demanded, none there",
            |g, _| g.policy.crl = CrlRule::Required,
            &["certificate-crl-missing"],
        ),
        (
            "a machine that nobody listed",
            |g, _| g.nodes.clear(),
            &["node-unknown"],
        ),
        (
            "another chip of the same node's name",
            |g, _| g.nodes = vec![node("guest-1", &[format!("snp:{}", "c2".repeat(64))])],
            &["node-unknown"],
        ),
        (
            "a chip that two nodes list",
            |g, _| g.nodes.push(node("guest-2", &[chip()])),
            &["node-ambiguous"],
        ),
        (
            "a guest that another entry names",
            |g, _| g.nodes = vec![node("guest-1", &[format!("{}/host-data:{}", chip(), "09".repeat(32))])],
            &["node-unknown"],
        ),
        (
            "the entry's chip, masked in the report",
            |g, p| g.report = p.report(|b| b[0x1A0..0x1E0].fill(0)),
            &["snp-chip-masked", "node-unknown"],
        ),
        (
            "a TPM is required",
            |g, _| g.policy.roots.required = RequiredRoots::Tpm,
            &["root-missing"],
        ),
        (
            "both are required",
            |g, _| g.policy.roots.required = RequiredRoots::TpmAndTee,
            &["root-missing"],
        ),
        (
            "nobody says how old the platform may be",
            |g, _| {
                g.policy.snp.floors.clear();
                g.references[0].snp.as_mut().unwrap().floors = Default::default();
            },
            &[
                "snp-tcb-floor-missing",
                "snp-tcb-floor-missing",
                "snp-tcb-floor-missing",
            ],
        ),
        (
            "nobody says how old it may have been at launch",
            |g, _| {
                g.policy.snp.floors.clear();
                g.references[0].snp.as_mut().unwrap().floors.launch = None;
            },
            &["snp-tcb-floor-missing"],
        ),
        (
            "half of a state that has registers as well",
            |g, _| {
                g.references[0].banks = Boot::load("good").reference("golden").banks;
            },
            &["reference-incomplete"],
        ),
    ];
    for (what, bend, expected) in rows {
        let mut guest = Guest::new(&platform);
        bend(&mut guest, &platform);
        let appraisal = guest.appraise();
        assert_eq!(codes(&appraisal), *expected, "{what}: {:?}", appraisal.reasons);
        assert_eq!(appraisal.status, Tier::Contraindicated, "{what}");
    }
}

/// A provider's key counts where the policy names the provider, or the node's own entry does.
#[test]
fn a_providers_machine_is_known_by_provider_and_guest() {
    let shape = VekShape {
        issuer: "SEV-VLEK-Milan",
        chip: None,
        provider: Some("CN=cc-eu-west-1.amazonaws.com"),
        ..VekShape::default()
    };
    let platform = Platform::new(&shape);
    let data = "09".repeat(32);
    let report = platform.report(|b| {
        b[0x48] = 1 << 2;
        b[0xC0..0xE0].fill(9);
    });
    let mut guest = Guest::with(&platform, report);
    for (listed, expected) in [
        (
            format!("snp-provider:CN=cc-eu-west-1.amazonaws.com/host-data:{data}"),
            &[][..],
        ),
        ("snp-provider:CN=cc-eu-west-1.amazonaws.com".to_owned(), &[]),
        (chip(), &["snp-provider-refused", "node-unknown"]),
        (
            format!("{}/host-data:{data}", chip()),
            &["snp-provider-refused", "node-unknown"],
        ),
        (
            format!("snp-provider:other/host-data:{data}"),
            &["snp-provider-refused", "node-unknown"],
        ),
    ] {
        guest.nodes = vec![node("guest-1", std::slice::from_ref(&listed))];
        assert_eq!(codes(&guest.appraise()), expected, "{listed}");
    }
    // What the entry let in is told; in a session a provider without a guest is every customer of it.
    guest.nodes = vec![node(
        "guest-1",
        &["snp-provider:CN=cc-eu-west-1.amazonaws.com".to_owned()],
    )];
    let named = |leniency: &String| leniency.starts_with("snp-provider: CN=cc-eu-west-1.amazonaws.com");
    assert!(guest.appraise().leniencies.iter().any(named));
    let session_key = SigningKey::from_seed([5; 32]).verifying_key();
    let asked = common::selection(&common::BOOT);
    let bound = |guest: &Guest| {
        let mut collection = Collection::bound();
        collection.insert(Label::SnpCertificates, platform.vek.clone()).unwrap();
        let binder = BinderContext {
            role: Role::Node,
            domain: "test.example",
            session_id: [1; 16],
            nonce: [2; 32],
            receive_key: None,
            tls_exporter: [4; 32],
        };
        let input = BinderInput {
            role: binder.role,
            domain: binder.domain,
            session_id: binder.session_id,
            nonce: binder.nonce,
            ckt: session_key.thumbprint(),
            receive_key: None,
            tls_exporter: binder.tls_exporter,
            manifest_digest: collection.manifest_digest().unwrap(),
        };
        let report = platform.report(|b| {
            b[0x48] = 1 << 2;
            b[0xC0..0xE0].fill(9);
            b[0x50..0x90].copy_from_slice(&input.report_data());
        });
        collection.insert(Label::SnpReport, report).unwrap();
        let freshness = Freshness::Bound {
            binder,
            asked: &asked,
            session_key: &session_key,
            activated: None,
        };
        guest.judge(&collection, freshness, Known::default())
    };
    assert_eq!(codes(&bound(&guest)), ["cvm-guest-unnamed"]);
    guest.nodes = vec![node(
        "guest-1",
        &[format!("snp-provider:CN=cc-eu-west-1.amazonaws.com/host-data:{data}")],
    )];
    assert_eq!(codes(&bound(&guest)), [""; 0]);
    // The signed report names the chip, whose ever key signed it.
    guest.policy.snp.denied_chips = [CHIP.to_vec()].into();
    assert_eq!(codes(&guest.appraise()), ["snp-chip-denied"]);
    guest.policy.snp.denied_chips = [vec![0xC2; 64]].into();
    assert_eq!(codes(&guest.appraise()), [""; 0]);
    let shown = guest.report.clone();
    guest.report = platform.report(|b| {
        b[0x48] = 1 << 2 | 2;
        b[0xC0..0xE0].fill(9);
        b[0x1A0..0x1E0].fill(0);
    });
    assert_eq!(codes(&guest.appraise()), ["snp-chip-masked"]);
    guest.report = shown;
    guest.policy.snp.denied_chips.clear();
    guest.nodes = vec![node("guest-1", &[format!("snp-provider:other/host-data:{data}")])];
    guest.policy.snp.providers = ["CN=cc-eu-west-1.amazonaws.com".to_owned()].into();
    assert_eq!(codes(&guest.appraise()), ["node-unknown"]);
    guest.policy.snp.allowed_chips = Some([CHIP.to_vec()].into());
    assert_eq!(codes(&guest.appraise()), ["snp-chip-unlisted", "node-unknown"]);
}

/// A session: the report carries the binder, over the keys and the channel of this very session.
#[test]
fn in_a_session_only_the_binder_makes_a_report_authentic() {
    let platform = Platform::new(&VekShape::default());
    let session_key = SigningKey::from_seed([5; 32]).verifying_key();
    let binder = BinderContext {
        role: Role::Node,
        domain: "test.example",
        session_id: [1; 16],
        nonce: [2; 32],
        receive_key: Some([3; 32]),
        tls_exporter: [4; 32],
    };
    let asked = common::selection(&common::BOOT);
    let certificates = platform.vek.clone();
    let report = |change: &dyn Fn(&mut BinderInput<'_>)| {
        let mut shape = Collection::bound();
        shape.insert(Label::SnpCertificates, certificates.clone()).unwrap();
        let mut input = BinderInput {
            role: Role::Node,
            domain: "test.example",
            session_id: [1; 16],
            nonce: [2; 32],
            ckt: session_key.thumbprint(),
            receive_key: Some([3; 32]),
            tls_exporter: [4; 32],
            manifest_digest: shape.manifest_digest().unwrap(),
        };
        change(&mut input);
        platform.report(|b| b[0x50..0x90].copy_from_slice(&input.report_data()))
    };
    let freshness = Freshness::Bound {
        binder,
        asked: &asked,
        session_key: &session_key,
        activated: None,
    };
    let judge = |guest: &Guest| guest.judge(&guest.collection(Collection::bound()), freshness, Known::default());
    let good = Guest {
        report: report(&|_| {}),
        ..Guest::new(&platform)
    };
    let appraisal = judge(&good);
    assert_eq!(codes(&appraisal), [""; 0]);
    assert!(appraisal.authentic);
    let enrolled = appraisal.enrol.unwrap();
    assert!(matches!(enrolled.root, EnrolledRoot::Cvm(cvm) if cvm.identity == appraisal.cvm.unwrap().digest()));
    type Substituted = (&'static str, Box<dyn Fn(&mut BinderInput<'_>)>);
    let relayed: [Substituted; 6] = [
        ("another nonce", Box::new(|input| input.nonce = [9; 32])),
        ("another session", Box::new(|input| input.session_id = [9; 16])),
        ("another session key", Box::new(|input| input.ckt = [9; 32])),
        ("another receive key", Box::new(|input| input.receive_key = None)),
        ("another channel", Box::new(|input| input.tls_exporter = [9; 32])),
        ("another record", Box::new(|input| input.manifest_digest = [9; 32])),
    ];
    for (what, change) in relayed {
        let guest = Guest {
            report: report(&*change),
            ..good.clone()
        };
        let appraisal = judge(&guest);
        assert_eq!(codes(&appraisal), ["snp-report-data-mismatch"], "{what}");
        assert!(!appraisal.authentic, "{what}");
    }
    // And no chain is looked at for one that answers somebody else: old reports are public, and chains are dear.
    let stranger = Guest {
        report: report(&|input| input.nonce = [9; 32]),
        certificates: vec![vec![0x30, 3, 1, 2, 3]],
        anchors: TrustAnchors::default(),
        nodes: Vec::new(),
        ..good.clone()
    };
    let appraisal = judge(&stranger);
    assert_eq!(codes(&appraisal), ["snp-report-data-mismatch"]);
    assert!(appraisal.claims.keys().all(|claim| !claim.starts_with("snp_")));
    // A genuine report over the binder that says something unacceptable is authentic: it may withdraw. But only of a guest
    // that the entry names: on a chip that it lists for whatever runs there, anybody could launch one that fails.
    let named = format!("{}/host-data:{}", chip(), "09".repeat(32));
    for (listed, bytes, withdraws) in [(chip(), 0, false), (named, 9, true)] {
        let mut changed = good.clone();
        changed.nodes = vec![node("guest-1", &[listed])];
        changed.report = {
            let data: [u8; 64] = good.report[0x50..0x90].try_into().unwrap();
            platform.report(|b| {
                b[0x50..0x90].copy_from_slice(&data);
                b[0xC0..0xE0].fill(bytes);
            })
        };
        let appraisal = judge(&changed);
        assert_eq!(codes(&appraisal), [""; 0]);
        assert!(appraisal.authentic && appraisal.authentic_roots == appraisal.roots);
        let words = if withdraws { "named" } else { "unnamed" };
        assert_eq!(appraisal.claims[claim::CVM_GUEST], ClaimValue::Text(words.into()));
        changed.references[0].snp.as_mut().unwrap().measurement = [7; 48];
        let appraisal = judge(&changed);
        assert_eq!(codes(&appraisal), ["snp-measurement-mismatch"]);
        assert_eq!(appraisal.authentic, withdraws);
        assert_eq!(!appraisal.authentic_roots.is_empty(), withdraws);
        assert!(appraisal.enrol.is_none());
    }
    // A chip that hides its id, and no guest that the entry names: anybody's.
    let mut masked = good.clone();
    masked.policy.snp.allow_masked_chips = true;
    masked.report = {
        let data: [u8; 64] = good.report[0x50..0x90].try_into().unwrap();
        platform.report(|b| {
            b[0x50..0x90].copy_from_slice(&data);
            b[0x48] = 2;
            b[0x1A0..0x1E0].fill(0);
        })
    };
    assert_eq!(codes(&judge(&masked)), ["cvm-guest-unnamed"]);
    // Of a machine that is nobody's, or with a chain of one's own, it is not.
    let mut unlisted = good.clone();
    unlisted.nodes.clear();
    assert!(!judge(&unlisted).authentic);
    let mut untrusted = good.clone();
    untrusted.anchors = TrustAnchors::default();
    assert!(!judge(&untrusted).authentic);
    // Packed evidence over the very binder is not a session's.
    let packed = good.collection(Collection::unbound());
    let appraisal = good.judge(&packed, freshness, Known::default());
    assert!(codes(&appraisal).contains(&"evidence-type-wrong") && !appraisal.authentic);
}

/// A key that is known gives the same answer as one that is verified anew.
#[test]
fn a_known_signing_key_changes_no_answer() {
    let platform = Platform::new(&VekShape::default());
    let guest = Guest::new(&platform);
    let collection = guest.collection(Collection::unbound());
    let judge = |guest: &Guest, collection: &Collection, known| {
        guest.judge(collection, Freshness::Unbound { nonce: &DATA }, known)
    };
    let first = judge(&guest, &collection, Known::default());
    let known = Known {
        vek: first.vek.as_ref(),
    };
    assert_eq!(judge(&guest, &collection, known), first);
    // After the root was taken out, or for another chip's certificate, it does not count.
    let mut revoked = guest.clone();
    revoked.anchors = TrustAnchors::default();
    assert_eq!(
        codes(&judge(&revoked, &collection, known)),
        ["certificate-issuer-unknown"]
    );
    let mut other = guest.clone();
    other.certificates = vec![Platform::new(&VekShape::default()).vek];
    let others = other.collection(Collection::unbound());
    assert_eq!(codes(&judge(&other, &others, known)), ["certificate-signature-invalid"]);
    let mut late = guest.clone();
    late.now = 1_988_150_401;
    assert_eq!(codes(&judge(&late, &collection, known)), ["certificate-expired"]);
}

/// A recorded TPM beside a report of the same nonce: one machine only where the inventory lists both in one entry, for
/// this report names no TPM.
#[test]
fn a_tpm_and_a_report_are_one_machine_only_where_something_says_so() {
    let boot = Boot::load("good");
    let platform = Platform::new(&VekShape::default());
    let base = Offline::new(&boot, "quote-rsa", "rsa", &boot);
    let nonce = base.nonce.clone();
    let carrying = |nonce: &[u8], chip: u8| {
        platform.report(|b| {
            b[0x50..0x90].fill(0);
            b[0x50..0x50 + nonce.len()].copy_from_slice(nonce);
            b[0x1A0..0x1E0].fill(chip);
        })
    };
    let report = carrying(&nonce, 0xC1);
    let tpm_only = || boot.node("node-1");
    let both = || Node {
        platforms: vec![chip().parse().unwrap()],
        ..boot.node("node-1")
    };
    let of_boot = boot.reference("machine");
    let of_guest = golden(&platform, &report);
    let whole = MachineReference {
        snp: of_guest.snp.clone(),
        ..boot.reference("whole")
    };
    let other = MachineReference {
        name: "other".into(),
        ..whole.clone()
    };
    let mut changed = other.clone();
    changed.snp.as_mut().unwrap().measurement = [7; 48];
    let judge = |report: &[u8], nodes: Vec<Node>, all: &[MachineReference], required| {
        let mut scenario = Offline::new(&boot, "quote-rsa", "rsa", &boot)
            .with(Label::SnpReport, report.to_vec())
            .with(Label::SnpCertificates, platform.vek.clone());
        scenario.anchors = anchors_with(
            anchors().with_anchors([(Purpose::Snp, &platform.root)]).unwrap(),
            &platform,
        );
        scenario.inventory = Inventory::new(nodes);
        scenario.references = references(all);
        scenario.policy.roots.required = required;
        scenario.appraise()
    };
    let apart = [of_guest.clone(), of_boot.clone()];
    let required = RequiredRoots::TpmAndTee;
    type Row<'r> = (&'r str, Vec<u8>, Vec<Node>, &'r [MachineReference], &'r [&'r str]);
    let rows: [Row<'_>; 9] = [
        ("one entry lists both", report.clone(), vec![both()], &apart, &[]),
        (
            "one reference states both",
            report.clone(),
            vec![both()],
            std::slice::from_ref(&whole),
            &[],
        ),
        (
            "only the TPM is listed",
            report.clone(),
            vec![tpm_only()],
            &apart,
            &["roots-not-together", "root-missing"],
        ),
        (
            "two entries",
            report.clone(),
            vec![tpm_only(), node("node-2", &[chip()])],
            &apart,
            &["roots-not-together", "roots-not-together", "root-missing"],
        ),
        (
            "only the platform is listed",
            report.clone(),
            vec![node("node-2", &[chip()])],
            &apart,
            &["ak-not-bound", "node-unknown", "roots-not-together", "root-missing"],
        ),
        (
            "the report answers another challenge",
            carrying(&[7; 20], 0xC1),
            vec![both()],
            &apart,
            &["snp-report-data-mismatch", "root-missing"],
        ),
        (
            "the report is another chip's",
            carrying(&nonce, 0xC2),
            vec![both()],
            &apart,
            &["snp-chip-mismatch", "root-missing"],
        ),
        (
            "the registers of one whole state, the measurement of none",
            report.clone(),
            vec![both()],
            std::slice::from_ref(&changed),
            &["snp-measurement-mismatch", "reference-incomplete", "root-missing"],
        ),
        (
            "the registers of one whole state, the measurement of another",
            report,
            vec![both()],
            &[changed.clone(), of_guest.clone()],
            &["reference-incomplete"],
        ),
    ];
    for (what, report, nodes, all, expected) in rows {
        let appraisal = judge(&report, nodes, all, required);
        assert_eq!(codes(&appraisal), expected, "{what}: {:?}", appraisal.reasons);
        let roots = ["snp", "tpm"].map(str::to_owned);
        if expected.is_empty() {
            assert_eq!(appraisal.claims[claim::ROOTS], ClaimValue::Set(roots.into()), "{what}");
            assert_eq!(appraisal.node.as_deref(), Some("node-1"));
        }
    }
    // The TPM alone is still enough where any root is.
    let mut alone = Offline::new(&boot, "quote-rsa", "rsa", &boot);
    assert_eq!(codes(&alone.appraise()), [""; 0]);
    alone.policy.roots.required = RequiredRoots::Tee;
    assert_eq!(codes(&alone.appraise()), ["root-missing"]);
}

/// A root that the node's own entry lists may not be left out: it could be the one that something speaks against.
#[test]
fn what_the_entry_lists_must_be_shown() {
    let boot = Boot::load("good");
    let platform = Platform::new(&VekShape::default());
    let listed = |platforms: &[String], gpus: &[&str]| Node {
        platforms: node("", platforms).platforms,
        gpus: gpus.iter().map(|serial| (*serial).to_owned()).collect(),
        ..boot.node("node-1")
    };
    let mut tpm = Offline::new(&boot, "quote-rsa", "rsa", &boot);
    let mut guest = Guest::new(&platform);
    for (what, entry, by_tpm, by_guest) in [
        ("a TPM and a platform", listed(&[chip()], &[]), true, true),
        ("a TPM and a GPU", listed(&[], &["41aa"]), true, false),
        ("a TPM, a platform and a GPU", listed(&[chip()], &["41aa"]), true, true),
    ] {
        tpm.inventory = Inventory::new(vec![entry.clone()]);
        guest.nodes = vec![entry];
        for (shown, refused, appraise) in [
            (
                "TPM",
                by_tpm,
                &(|required| {
                    let mut scenario = Offline::new(&boot, "quote-rsa", "rsa", &boot);
                    scenario.inventory = tpm.inventory.clone();
                    scenario.policy.roots.required = required;
                    scenario.appraise()
                }) as &dyn Fn(RequiredRoots) -> Appraisal,
            ),
            ("report", by_guest, &|required| {
                let mut guest = guest.clone();
                guest.policy.roots.required = required;
                guest.appraise()
            }),
        ] {
            if !refused {
                continue;
            }
            for required in [RequiredRoots::default(), RequiredRoots::Listed] {
                assert_eq!(codes(&appraise(required)), ["root-missing"], "{what}, {shown} only");
            }
            let lenient = appraise(RequiredRoots::Any);
            assert_eq!(codes(&lenient), [""; 0], "{what}, {shown} only");
            let named = |leniency: &String| {
                leniency.starts_with("roots-required: any, without its") || leniency.contains("without the report")
            };
            assert!(lenient.leniencies.iter().any(named), "{what}, {shown} only");
        }
    }
    // Nothing is missing: nothing is lenient.
    let mut whole = Guest::new(&platform);
    whole.policy.roots.required = RequiredRoots::Any;
    assert!(whole.appraise().leniencies.is_empty());
}

/// What belongs to a report counts for nothing without it.
#[test]
fn certificates_without_a_report_are_refused() {
    let platform = Platform::new(&VekShape::default());
    let boot = Boot::load("good");
    let scenario = Offline::new(&boot, "quote-rsa", "rsa", &boot).with(Label::SnpCertificates, platform.vek);
    assert_eq!(codes(&scenario.appraise()), ["record-missing"]);
}
