//! Keys released to confidential VMs: simulated SEV-SNP guests under the agent's own code, over TLS. The receive key is in
//! the guest's memory; its report over the binder vouches for it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use swtpm_tests::boots::Boot;
use swtpm_tests::cvm::{self, CvmNode, guest, listed, platforms};
use swtpm_tests::domain::{Domain, Founding, unlocked};
use touchstone_attest::agent::desk::Desk;
use touchstone_attest::agent::release::{KeyWanted, ReleaseError};
use touchstone_attest::local;
use touchstone_keybroker::admin::SOCKET;
use touchstone_keybroker::key_files::write_new;
use touchstone_policies::settings::{Assignment, settings_set};
use touchstone_simulated_platform::{Guest, Line, Platform, VekShape, field};

const LINE: Line = Line::Milan;
const CHIP: u8 = 0xC1;
const DATA: u8 = 0xDA;
const PROVIDER: &str = "example-cloud";
const SECRET: &str = "the-launch-codes-0123456789abcdef";

/// A domain of one guest, `guest-1`, that is `listed` in the inventory, with keys.
fn domain(platform: &Platform, listed: &str, boot: Option<&Boot>) -> Domain {
    let domain = Domain::found(&Founding {
        anchors: &["swtpm-localca-rootca-cert.pem", "issuercert.pem"]
            .map(|file| swtpm_tests::boots::boots().join("ca").join(file)),
        nodes: &[],
        golden: &swtpm_tests::domain::recorded(&Boot::GOOD),
        settings: &[],
        limits: &[],
        stage: &|repo| {
            cvm::stage_root(repo, platform);
            cvm::stage_reference(repo, "guest", LINE);
            // With it comes the policy of the region.
            swtpm_tests::domain::add_node(repo, "node-1", &Boot::CMDLINE_CHANGED).unwrap();
            cvm::stage_node(repo, "guest-1", &[listed.to_owned()], boot);
        },
    });
    let file = domain.path("passphrase");
    write_new(&file, b"correct horse battery staple\n").unwrap();
    domain.with_config(&format!("[keys]\nkek = {{ passphrase_file = {file:?} }}\n"))
}

async fn admin(domain: &Domain, path: &str, body: &str) {
    let socket = domain.path("data").join(SOCKET);
    let (status, answer) = local::request(&socket, "POST", path, body.as_bytes().to_vec())
        .await
        .unwrap();
    assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&answer));
}

/// The secret, or the codes of the denial.
async fn fetch(desk: &Desk, key: &str) -> Result<Vec<u8>, Vec<String>> {
    let wanted = KeyWanted {
        key: key.into(),
        version: None,
        resource: "keys".into(),
    };
    match desk.fetch(&wanted).await {
        Ok(fetched) => Ok(fetched.key.secret.to_vec()),
        Err(ReleaseError::Denied(reasons)) => Err(reasons.into_iter().map(|reason| reason.code).collect()),
        Err(other) => panic!("{key}: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_on_a_listed_chip_gets_the_keys_of_its_region_alone_and_beside_a_tpm() {
    for boot in [None, Some(Boot::GOOD)] {
        let chip = platforms(LINE, &[CHIP]).pop().unwrap();
        let domain = domain(&chip, &listed(LINE, CHIP, Some(DATA)), boot.as_ref());
        let broker = domain.broker().await;
        admin(&domain, "/keys?name=here&region=eu-1", SECRET).await;
        admin(&domain, "/keys?name=elsewhere&region=us-1", SECRET).await;
        let mut node = CvmNode::start(guest(chip, LINE, CHIP, Some(DATA)), boot.as_ref()).await;
        let mut client = domain.client();
        for round in 0..2 {
            let answer = node.attest(&mut client).await.unwrap();
            assert!(answer.allowed, "{boot:?} {round}: {:?}", answer.reasons);
            let desk = node.desk(&domain, answer.authorization.unwrap());
            assert_eq!(
                fetch(&desk, "here").await,
                Ok(SECRET.as_bytes().to_vec()),
                "{boot:?} {round}"
            );
            assert_eq!(
                fetch(&desk, "elsewhere").await,
                Err(vec!["key-residency".into()]),
                "{boot:?} {round}"
            );
        }
        broker.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_providers_class_of_machines_stands_nowhere_until_signed_policy_says_where() {
    let shape = VekShape {
        issuer: "SEV-VLEK-Milan",
        chip: None,
        provider: Some(PROVIDER),
        ..LINE.vek(CHIP)
    };
    let platform = Platform::new(&shape).unwrap();
    let domain = domain(
        &platform,
        &format!("snp-provider:{PROVIDER}/host-data:{}", hex::encode([DATA; 32])),
        None,
    );
    let broker = domain.broker().await;
    admin(&domain, "/keys?name=anywhere", SECRET).await;
    admin(&domain, "/keys?name=here&region=eu-1", SECRET).await;
    let mut guest: Guest = guest(platform, LINE, CHIP, Some(DATA));
    guest.set(field::KEY_INFO, &[1 << 2]);
    let mut node = CvmNode::start(guest, None).await;
    let mut client = domain.client();
    let answer = node.attest(&mut client).await.unwrap();
    assert!(answer.allowed, "{:?}", answer.reasons);
    let desk = node.desk(&domain, answer.authorization.unwrap());
    assert_eq!(fetch(&desk, "anywhere").await, Ok(SECRET.as_bytes().to_vec()));
    assert_eq!(fetch(&desk, "here").await, Err(vec!["key-residency-unproven".into()]));

    // Of another provider, or for another region, is not for this one.
    for (setting, released) in [
        (format!("[\"other-cloud=eu-1\", \"{PROVIDER}=us-1\"]"), false),
        (format!("[\"{PROVIDER}=eu-1\"]"), true),
    ] {
        let assignment = [Assignment::parse(&format!("residency.providers={setting}")).unwrap()];
        unlocked(|| settings_set(&domain.path("policy"), &assignment).map(|_| ())).unwrap();
        domain.publish();
        admin(&domain, "/reload", "").await;
        desk.hold(node.attest(&mut client).await.unwrap().authorization);
        let outcome = fetch(&desk, "here").await;
        let expected = if released {
            Ok(SECRET.as_bytes().to_vec())
        } else {
            Err(vec!["key-residency-unproven".into()])
        };
        assert_eq!(outcome, expected, "{setting}");
    }
    broker.shutdown().await.unwrap();
}
