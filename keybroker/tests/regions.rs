//! A sovereign region under its own keys: it narrows what the whole allows, and nothing that it signs widens anything.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;
use crate::forge;

use common::client::Client;
use common::tpm::SoftNode;
use common::{Domain, attest, authorization, command, ledger, now, statement, view};
use forge::Forge;
use hyper::{Method, StatusCode};
use touchstone_authorization::Status;
use touchstone_cose::key::SigningKey;
use touchstone_keybroker::record::DecisionRecord;
use touchstone_policies::signers_file::{self, Signers};
use touchstone_policies::{Job, PolicySet};
use touchstone_verifier::corim::{BankValues, MachineReference, TrustedSigner, sign_corim};
use touchstone_verifier::inventory::{EkId, Lookup, Node};
use touchstone_verifier::tpm::{HashAlg, Public};

const EU: &str = "eu-1";
const FEWER: &str = "{ sha256 = [0, 2, 3, 4, 7, 8, 9, 14] }";
const STRICTER: &[u8] = b"[tpm]\nrequired_registers = { sha256 = [11] }\n\
    [timers]\nauthorization_life_ms = 5400000\nattestation_deadline_ms = 3000000\n";
const ANYTHING: &str = "@id(\"eu-all\")\npermit (principal, action, resource);\n";

/// The entry of a machine of the region.
fn entry(name: &str, node: &SoftNode, more: &str) -> Vec<u8> {
    let ek = hex::encode(Public::parse(&node.ek_public()).unwrap().subject_key().spki_sha256());
    format!("{{\"name\": \"{name}\", \"region\": \"{EU}\", \"ek\": [\"{ek}\"]{more}}}").into_bytes()
}

/// A domain with a machine in a region that the whole keeps, and `eu-1` that signs for itself: a machine of its own, and
/// `files` below its folder.
struct Sovereign {
    domain: Domain,
    forge: Forge,
}

impl Sovereign {
    fn new(here: &SoftNode, there: &SoftNode, files: &[(&str, &[u8])]) -> Self {
        let domain = Domain::new(&[("node-1", here)], &[("required_registers", FEWER)]);
        let mut forge = Forge::open(&domain.path("policy"), &domain.path("keys"));
        forge.delegate(EU, 3, 2, now());
        let mut sovereign = Self { domain, forge };
        sovereign.sign("policy.cedar", ANYTHING.as_bytes());
        sovereign.sign("nodes/b.json", &entry("eu-1/b", there, ""));
        for (name, bytes) in files {
            sovereign.sign(name, bytes);
        }
        sovereign.forge.publish(now());
        sovereign
    }

    /// A file that the region's keys sign at the next publication.
    fn sign(&mut self, name: &str, bytes: &[u8]) {
        self.forge.put_in(EU, &format!("regions/{EU}/{name}"), bytes);
    }

    /// Publishes, and has the broker look.
    async fn publish(&mut self) -> (StatusCode, String) {
        self.forge.publish(now());
        let (status, body) = command(&self.domain, Method::POST, "/reload", "").await;
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

fn codes(reasons: &[touchstone_evidence::message::WireReason]) -> Vec<&str> {
    reasons.iter().map(|reason| reason.code.as_str()).collect()
}

/// Both machines run another kernel than the reference. The whole does not ask; the region does.
#[tokio::test]
async fn a_region_refuses_what_the_whole_affirms_and_nobody_else_is_concerned() {
    let (mut here, mut there) = (SoftNode::new("good"), SoftNode::new("good"));
    here.extend(11);
    there.extend(11);
    let sovereign = Sovereign::new(&here, &there, &[("settings.toml", STRICTER)]);
    let broker = sovereign.domain.start().await;
    let mut client = Client::connect(broker.address()).await;

    let asked = client.hello(&here.hello(false)).await.unwrap().selection[0].1.clone();
    let affirmed = attest(&mut client, &mut here, false).await.unwrap();
    assert!(affirmed.allowed, "{:?}", affirmed.reasons);
    assert!(!asked.contains(&11), "the whole asks for what the whole requires");

    let asked = client.hello(&there.hello(false)).await.unwrap().selection[0].1.clone();
    let refused = attest(&mut client, &mut there, false).await.unwrap();
    assert!(asked.contains(&11), "the region asks for what it requires");
    assert!(!refused.allowed && refused.authorization.is_none());
    let found = codes(&refused.reasons);
    assert!(
        found.iter().any(|code| code.ends_with("mismatch")),
        "register 11 differs: {found:?}"
    );

    // Both digests in the statement; the same bytes when it is decided again.
    let policy = broker.app().policy();
    let key = common::key(&broker, Job::Statement);
    for (answer, name, region) in [
        (&affirmed, "node-1", None),
        (&refused, "eu-1/b", policy.region_digest(EU)),
    ] {
        let statement = statement(&broker, answer);
        assert_eq!(statement.global_policy, policy.global_digest);
        assert_eq!(statement.region_policy, region, "{name}");
        assert_eq!(statement.policy_version, policy.version);
        assert_eq!(statement.semantics, "touchstone-semantics/7");
        let record = DecisionRecord::latest(&*broker.app().store.clone(), name, &key).unwrap();
        record.replay(&policy, &key).unwrap();
        // Under the policy without the region's view the decision would be another: the replay would notice.
        if region.is_some() {
            let without = PolicySet {
                views: Default::default(),
                ..(*policy).clone()
            };
            assert!(record.replay(&without, &key).is_err(), "{name}");
        }
    }
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn shorter_timers_and_a_forbid_hold_in_the_region_alone() {
    let (mut here, mut there) = (SoftNode::new("good"), SoftNode::new("good"));
    let mut sovereign = Sovereign::new(&here, &there, &[("settings.toml", STRICTER)]);
    let broker = sovereign.domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let mut places = Vec::new();
    for (node, life) in [(&mut here, 7_200), (&mut there, 5_400)] {
        let answer = attest(&mut client, node, false).await.unwrap();
        let verified = authorization(&broker, &answer);
        let contents = verified.contents();
        assert_eq!(contents.expires - contents.issued_at, life);
        places.push(contents.status);
    }
    // The region forbids: its machine loses what it holds at once, the other one keeps it.
    let forbid = format!("{ANYTHING}\n@id(\"no-more\")\nforbid (principal, action, resource);\n");
    sovereign.sign("policy.cedar", forbid.as_bytes());
    let (status, body) = sovereign.publish().await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let shown = view(&broker, &client.get("/v1/trust-state").await);
    for (place, expected) in places.iter().zip([Status::Valid, Status::Invalid]) {
        let status = shown.lists().get(place.list).unwrap().status(place.index);
        assert_eq!(status, Some(expected));
    }
    assert!(attest(&mut client, &mut here, true).await.unwrap().allowed);
    let denied = attest(&mut client, &mut there, true).await.unwrap();
    assert!(codes(&denied.reasons).contains(&"denied-by-region-policy"));
    let withdrawn = ledger(&broker).await;
    let revocation = withdrawn
        .iter()
        .find(|statement| statement.kind.as_str() == "revocation");
    let digest = broker.app().policy().region_digest(EU);
    assert_eq!(
        revocation.unwrap().region_policy,
        digest,
        "both digests in every statement"
    );
    broker.shutdown().await.unwrap();
}

/// A region's keys in the wrong hands: what they sign is refused, or takes from the region alone.
#[tokio::test]
async fn nothing_that_a_region_signs_widens_anything() {
    let (mut here, there) = (SoftNode::new("good"), SoftNode::new("good"));
    let mut sovereign = Sovereign::new(&here, &there, &[]);
    let broker = sovereign.domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    assert!(attest(&mut client, &mut here, false).await.unwrap().allowed);
    let version = broker.app().policy().version;
    let anchor = format!("anchors/ek/{}.der", "ab".repeat(32));
    let role = entry("eu-1/c", &SoftNode::new("good"), ", \"roles\": [\"administrator\"]");
    let owner = entry("eu-1/c", &SoftNode::new("good"), ", \"owner\": \"acme\"");
    let outside = entry("us-1/c", &SoftNode::new("good"), "");
    let plain = entry("c", &SoftNode::new("good"), "");
    let unsigned = b"\xd9\x01\xf5\xa0".as_slice();
    let rows: &[(&str, &str, &[u8], &str)] = &[
        ("adds an anchor", &anchor, b"x", "policy-target-unknown"),
        (
            "lowers a demand",
            "settings.toml",
            b"[tpm]\nevent_log = \"registers-suffice\"\n",
            "policy-region-widens",
        ),
        (
            "lets the host debug",
            "settings.toml",
            b"[snp]\ndebug = \"allow\"\n",
            "policy-region-widens",
        ),
        (
            "lengthens a timer",
            "settings.toml",
            b"[timers]\nauthorization_life_ms = 7200001\n",
            "policy-region-widens",
        ),
        (
            "grants a scope",
            "settings.toml",
            b"[grants]\nscopes = [\"administer:everything\"]\n",
            "policy-region-widens",
        ),
        (
            "has a say in the generation",
            "settings.toml",
            b"generation = 9\n",
            "policy-region-settings-unreadable",
        ),
        (
            "adds a role that is not delegated",
            "nodes/c.json",
            &role,
            "policy-region-role",
        ),
        (
            "adds an owner that is not delegated",
            "nodes/c.json",
            &owner,
            "policy-region-owner",
        ),
        (
            "names a node of another region",
            "nodes/c.json",
            &outside,
            "policy-node-unreadable",
        ),
        (
            "names a node of the whole",
            "nodes/c.json",
            &plain,
            "policy-node-unreadable",
        ),
        (
            "adds an unsigned reference",
            "references/r.corim",
            unsigned,
            "policy-reference-refused",
        ),
        (
            "delegates to itself",
            "regions.toml",
            b"[regions.eu-1]\nroles = [\"a\"]\n",
            "policy-target-unknown",
        ),
    ];
    for (attack, name, bytes, code) in rows {
        let before = sovereign.forge.regions[EU].list.clone();
        sovereign.sign(name, bytes);
        let (status, body) = sovereign.publish().await;
        assert_ne!(status, StatusCode::OK, "{attack}");
        assert!(body.contains(code), "{attack}: {body}");
        assert!(body.contains(name), "{attack}: the file is not named: {body}");
        assert_eq!(
            broker.app().policy().version,
            version,
            "{attack}: what is in force goes on"
        );
        sovereign.forge.regions.get_mut(EU).unwrap().list = before;
    }
    // What was in force goes on, for everybody.
    assert!(attest(&mut client, &mut here, true).await.unwrap().allowed);

    // Another's machine, claimed by its endorsement key: nobody's. Neither name gets anything any more.
    let claimed = entry("eu-1/mine", &here, "");
    sovereign.sign("nodes/mine.json", &claimed);
    let (status, body) = sovereign.publish().await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let refused = attest(&mut client, &mut here, false).await.unwrap_err();
    assert!(format!("{refused:?}").contains("identity-unknown"), "{refused:?}");
    let mine = broker.app().policy();
    let ek = EkId(Public::parse(&here.ek_public()).unwrap().subject_key().spki_sha256());
    assert_eq!(
        mine.inventory.by_ek(&ek),
        Lookup::Ambiguous,
        "nobody's, not the region's"
    );
    broker.shutdown().await.unwrap();
}

/// A region's reference of an image of its own: the state of a machine that no reference of the whole knows.
fn reference(name: &str, node: &SoftNode) -> Vec<u8> {
    let registers = [0, 2, 3, 4, 7, 8, 9, 11, 14]
        .map(|register: u8| (register, node.values[&(HashAlg::Sha256.tpm_id(), register)].clone()));
    let values = BankValues {
        registers: registers.into(),
        events: Vec::new(),
    };
    let reference = MachineReference {
        name: name.into(),
        banks: [(HashAlg::Sha256, values)].into(),
        files: Vec::new(),
        snp: None,
        tdx: None,
        gpus: Vec::new(),
        not_before: None,
        not_after: None,
    };
    let unsigned = reference.to_corim_unsigned().unwrap();
    sign_corim(&unsigned, &signer(), "images", None).unwrap()
}

fn signer() -> SigningKey {
    SigningKey::from_seed([77; 32])
}

#[tokio::test]
async fn a_region_adds_references_in_its_classes_for_its_own_machines() {
    let (mut here, mut there) = (SoftNode::new("uki"), SoftNode::new("uki"));
    let domain = Domain::new(&[("node-1", &here)], &[]);
    let mut forge = Forge::open(&domain.path("policy"), &domain.path("keys"));
    forge.delegate(EU, 3, 2, now());
    let mut sovereign = Sovereign { domain, forge };
    sovereign.sign("policy.cedar", ANYTHING.as_bytes());
    sovereign.sign("nodes/b.json", &entry("eu-1/b", &there, ""));
    sovereign.forge.publish(now());
    let broker = sovereign.domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    for node in [&mut here, &mut there] {
        assert!(
            !attest(&mut client, node, false).await.unwrap().allowed,
            "nobody knows this image"
        );
    }

    let signers = Signers {
        own: vec![TrustedSigner {
            name: "images".into(),
            key: signer().verifying_key(),
            not_after: None,
        }],
        vendors: Vec::new(),
    };
    sovereign.sign("signers.json", &signers_file::to_json(&signers));
    sovereign.sign("references/image.corim", &reference("eu-image-1", &there));
    let (_, body) = sovereign.publish().await;
    assert!(
        body.contains("policy-region-reference"),
        "no class is delegated: {body}"
    );
    for (classes, taken) in [
        ("\"us-image-*\"", false),
        ("\"eu-image-2\"", false),
        ("\"eu-image-*\"", true),
    ] {
        let regions = format!("[regions.eu-1]\nenvironments = [{classes}]\n");
        sovereign.forge.put("regions.toml", regions.as_bytes());
        let (status, body) = sovereign.publish().await;
        assert_eq!(status == StatusCode::OK, taken, "{classes}: {body}");
        assert!(
            taken || body.contains("regions/eu-1/references/image.corim: environment"),
            "{body}"
        );
    }
    let affirmed = attest(&mut client, &mut there, false).await.unwrap();
    assert!(affirmed.allowed, "{:?}", affirmed.reasons);
    let refused = attest(&mut client, &mut here, false).await.unwrap();
    assert!(
        !refused.allowed,
        "a region's reference counts for its own machines only"
    );
    let policy = broker.app().policy();
    let names = |region: &str, authority: &str| -> Vec<(String, String)> {
        let node = Node {
            region: region.into(),
            authority: authority.into(),
            ..Node::default()
        };
        let references = policy.demands_for(&node).references.selected();
        references
            .map(|r| (r.values.name.clone(), r.authority.clone()))
            .collect()
    };
    assert_eq!(names("north", "targets"), names("anywhere", "anywhere"));
    assert!(
        names(EU, EU).contains(&("eu-image-1".into(), "eu-1/images".into())),
        "{:?}",
        names(EU, EU)
    );
    assert_eq!(
        names(EU, "targets"),
        names("north", "targets"),
        "a machine of the whole that stands in the region"
    );
    assert!(std::ptr::eq(
        policy.demands("north").references,
        policy.whole().references
    ));
    assert!(
        std::ptr::eq(policy.demands(EU).anchors, policy.whole().anchors),
        "nothing is copied"
    );
    broker.shutdown().await.unwrap();
}

/// What a region says of its machines, the domain's own policy hears as far as it delegated it.
#[tokio::test]
async fn the_domains_policy_hears_what_it_delegated() {
    let (here, mut there) = (SoftNode::new("good"), SoftNode::new("good"));
    let listed = entry("eu-1/b", &there, ", \"roles\": [\"edge\"], \"zone\": \"trusted\"");
    let mut sovereign = Sovereign::new(&here, &there, &[]);
    let roles = b"[regions.eu-1]\nroles = [\"edge\"]\n";
    sovereign.forge.put("regions.toml", roles);
    sovereign.sign("nodes/b.json", &listed);
    let by_role = "permit (principal is Node, action, resource) when { principal.roles.contains(\"edge\") };\n";
    let by_zone =
        "permit (principal is Node, action, resource) when { principal has zone && principal.zone == \"trusted\" };\n";
    sovereign.forge.put("policy.cedar", by_role.as_bytes());
    sovereign.forge.publish(now());
    let broker = sovereign.domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let affirmed = attest(&mut client, &mut there, false).await.unwrap();
    assert!(
        affirmed.allowed,
        "a role that was delegated counts: {:?}",
        affirmed.reasons
    );
    // The same words, of a zone that nobody delegated: the region says so, and the whole does not hear it.
    sovereign.forge.put("policy.cedar", by_zone.as_bytes());
    let (status, body) = sovereign.publish().await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let denied = attest(&mut client, &mut there, true).await.unwrap();
    assert!(
        codes(&denied.reasons).contains(&"denied-by-domain-policy"),
        "{:?}",
        denied.reasons
    );
    // The region's own policy hears all of it.
    sovereign.forge.put("policy.cedar", by_role.as_bytes());
    sovereign.sign("policy.cedar", by_zone.as_bytes());
    let (status, body) = sovereign.publish().await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(attest(&mut client, &mut there, true).await.unwrap().allowed);
    broker.shutdown().await.unwrap();
}
