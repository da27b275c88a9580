//! When the broker grants `bootstrap`: to an initramfs with a closed disk, once a boot, whatever else is granted.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::client::Client;
use common::tpm::SoftNode;
use common::{Domain, attest, authorization, ledger};
use sha2::{Digest as _, Sha256};
use touchstone_policies::author::node_volume;
use touchstone_policies::inventory_file::VolumeFile;
use touchstone_verifier::bootstrap::{DONE, REGISTER, register_after, volume_digest};
use touchstone_verifier::tpm::HashAlg;

const BANK: HashAlg = HashAlg::Sha256;
const UUID: &str = "4878cbe9-f3c5-4d20-82da-b2bb10ae2940";
const SCOPES: (&str, &str) = ("scopes", r#"["bootstrap:disk", "execute:workloads"]"#);

/// A domain that grants it, and whose inventory names the disk of `node-1`, but none of `node-2`.
fn domain(nodes: &[(&str, &SoftNode)]) -> Domain {
    let domain = Domain::new(nodes, &[SCOPES]);
    let volume = VolumeFile {
        luks_uuid: UUID.into(),
        pcr15: hex::encode(register_after(BANK, &[7; 64], "root", UUID)),
    };
    node_volume(&domain.path("policy"), "node-1", volume).unwrap();
    domain.publish();
    domain
}

fn measure(node: &mut SoftNode, register: u8, digest: &[u8]) {
    let value = node.values.get_mut(&(BANK.tpm_id(), register)).unwrap();
    *value = Sha256::digest([value.as_slice(), digest].concat()).to_vec();
}

#[tokio::test]
async fn bootstrap_is_granted_once_in_a_boot_and_only_in_the_initramfs() {
    let (mut node, mut other) = (SoftNode::new("good"), SoftNode::new("good"));
    let domain = domain(&[("node-1", &node), ("node-2", &other)]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let volume = volume_digest(BANK, &[7; 64], "root", UUID);
    let done = Sha256::digest(DONE).to_vec();
    // What is measured before each attestation of the same boot, the register it goes to, and why there is no key then.
    type Row<'a> = (&'a str, Option<(u8, &'a [u8])>, Option<&'a str>);
    let story: &[Row<'_>] = &[
        ("the initramfs", None, None),
        ("a second try, the disk still closed", None, None),
        (
            "the volume was measured",
            Some((REGISTER, &volume)),
            Some("bootstrap-phase-over"),
        ),
        ("the disk is open", Some((REGISTER, &done)), Some("bootstrap-done")),
        (
            "the running system",
            Some((REGISTER, &[9; 32])),
            Some("bootstrap-phase-over"),
        ),
    ];
    for (n, (what, measured, refused)) in story.iter().enumerate() {
        if let Some((register, digest)) = measured {
            measure(&mut node, *register, digest);
        }
        let challenge = client.hello(&node.hello(n > 0)).await.unwrap();
        assert!(challenge.selection[0].1.contains(&REGISTER), "register 15 is asked for");
        let answer = attest(&mut client, &mut node, n > 0).await.unwrap();
        assert!(answer.allowed, "{what}: {:?}", answer.reasons);
        let granted = authorization(&broker, &answer);
        let scopes: Vec<String> = granted.contents().scopes.iter().map(ToString::to_string).collect();
        let told: Vec<&str> = answer.reasons.iter().map(|reason| reason.code.as_str()).collect();
        match refused {
            None => assert_eq!(
                (told, scopes),
                (vec![], vec!["bootstrap:disk".into(), "execute:workloads".into()]),
                "{what}"
            ),
            Some(code) => assert_eq!(
                (told, scopes),
                (vec![*code], vec!["execute:workloads".into()]),
                "{what}"
            ),
        }
    }
    let answer = attest(&mut client, &mut other, false).await.unwrap();
    let told: Vec<&str> = answer.reasons.iter().map(|reason| reason.code.as_str()).collect();
    assert_eq!(
        told,
        ["bootstrap-volume-unlisted"],
        "a node without a disk in the inventory"
    );
    assert_eq!(authorization(&broker, &answer).contents().scopes.len(), 1);
    assert!(ledger(&broker).await.len() > story.len(), "every decision is on record");
    broker.shutdown().await.unwrap();
}

/// Words that user space measures into register 11 without a unified kernel image make no initramfs of a machine.
#[tokio::test]
async fn a_phase_without_a_unified_kernel_image_is_refused() {
    let mut node = SoftNode::new("good");
    let domain = domain(&[("node-1", &node)]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    measure(&mut node, 11, &Sha256::digest("enter-initrd"));
    let refused = attest(&mut client, &mut node, false).await.unwrap();
    assert!(!refused.allowed && refused.authorization.is_none());
    assert!(
        refused.reasons.iter().any(|r| r.code == "log-does-not-replay"),
        "{:?}",
        refused.reasons
    );
    broker.shutdown().await.unwrap();
}

/// A policy that does not grant it asks for no more than before.
#[tokio::test]
async fn register_15_is_asked_for_only_where_bootstrap_is_granted() {
    let node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let challenge = client.hello(&node.hello(false)).await.unwrap();
    assert!(!challenge.selection[0].1.contains(&REGISTER));
    broker.shutdown().await.unwrap();
}
