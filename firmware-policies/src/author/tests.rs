//! Authoring against recorded boots of real machines.

use touchstone_evidence::collection::Label;
use touchstone_evidence::pcr_values;
use touchstone_verifier::tpm::HashAlg;

use super::*;
use crate::author::identity::NodeIdentity;
use crate::testing::{NOW, TestRepo, boot_evidence, boot_file, boot_records, boot_values, boots, pack};

mod nodes_named;
mod references;

fn code<T: std::fmt::Debug>(result: Result<T, PolicyError>) -> PolicyCode {
    result.unwrap_err().code()
}

#[test]
fn init_writes_what_loads_and_only_once() {
    let test = TestRepo::new();
    for file in ["settings.toml", "policy.cedar", "schema.cedarschema", "signers.json"] {
        assert!(test.staged(file).is_file(), "{file}");
    }
    assert_eq!(code(test.load(NOW)), PolicyCode::NotPublished);
    assert_eq!(
        code(init(&test.repo, "other", &test.keys, NOW)),
        PolicyCode::AlreadyInitialised
    );
    let other = test.dir.path().join("other");
    assert_eq!(
        code(init(&other, "Not A Name", &test.keys, NOW)),
        PolicyCode::SettingsName
    );
    assert!(!other.exists());
    // Keys that are there are used as they are.
    let again = init(&other, "other", &test.keys, NOW).unwrap();
    assert_eq!(again.keys_made, [""; 0]);
    let report = test.publish(NOW).unwrap();
    // Settings, schema, policy and signers, AMD's nine certificates, Intel's root and NVIDIA's.
    assert_eq!((report.domain.as_str(), report.targets), ("eu-1.example", 4 + 9 + 2));
    assert_eq!(test.load(NOW).unwrap().domain, "eu-1.example");
}

#[test]
fn anchors_are_certificates() {
    let test = TestRepo::new();
    let ca = |name: &str| boots().join("ca").join(name);
    let added = trust_add(
        &test.repo,
        Purpose::Ek,
        &[ca("swtpm-localca-rootca-cert.pem"), ca("issuercert.pem")],
    )
    .unwrap();
    assert_eq!(added.anchors.len(), 2);
    let file = test.dir.path().join("not-a-ca");
    for bytes in [
        &b"garbage"[..],
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ] {
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(
            code(trust_add(&test.repo, Purpose::Ek, std::slice::from_ref(&file))),
            PolicyCode::AnchorUnreadable
        );
    }
    assert_eq!(
        code(trust_add(&test.repo, Purpose::Ek, &[])),
        PolicyCode::AnchorUnreadable
    );
    assert_eq!(
        code(trust_add(&test.repo, Purpose::Ek, &[test.dir.path().join("absent")])),
        PolicyCode::Io
    );
}

#[test]
fn keysets_do_not_go_back() {
    use crate::targets::keyset_file::{Job, KeysetEntry};
    use touchstone_cose::key::SigningKey;
    let keyset = |version, seed| {
        let key = SigningKey::from_seed([seed; 32]).verifying_key();
        let entry = KeysetEntry {
            key,
            job: Job::Authorization,
            not_before: 0,
            not_after: 9,
            replica: "a".into(),
        };
        Keyset {
            version,
            keys: vec![entry],
        }
        .to_json()
    };
    let test = TestRepo::new();
    keyset_add(&test.repo, &keyset(2, 1)).unwrap();
    test.publish(NOW).unwrap();
    assert_eq!(test.load(NOW).unwrap().keyset.version, 2);
    keyset_add(&test.repo, &keyset(2, 1)).unwrap();
    assert_eq!(code(keyset_add(&test.repo, &keyset(2, 2))), PolicyCode::KeysetOlder);
    assert_eq!(code(keyset_add(&test.repo, &keyset(1, 2))), PolicyCode::KeysetOlder);
    keyset_add(&test.repo, &keyset(3, 2)).unwrap();
    test.publish(NOW).unwrap();
    // Put there by hand, publish still refuses it.
    std::fs::write(test.staged("keyset.json"), keyset(1, 1)).unwrap();
    assert_eq!(code(test.publish(NOW)), PolicyCode::KeysetOlder);
}
