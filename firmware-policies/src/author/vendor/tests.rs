use touchstone_cose::cbor::Value;
use touchstone_cose::cwt::claim;
use touchstone_cose::key::SigningKey;
use touchstone_cose::sign1::{self, Protected, label};
use touchstone_verifier::corim::{BankValues, CONTENT_TYPE, MachineReference};
use touchstone_verifier::tpm::HashAlg;

use super::*;
use crate::testing::{NOW, TestRepo};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

fn spki(seed: u8) -> Vec<u8> {
    key(seed).verifying_key().to_spki_der()
}

fn unsigned(value: u8) -> Vec<u8> {
    let bank = BankValues {
        registers: [(0, vec![value; 32]), (2, vec![value; 32])].into(),
        events: Vec::new(),
    };
    let reference = MachineReference {
        name: "acme-fw".into(),
        banks: [(HashAlg::Sha256, bank)].into(),
        ..MachineReference::default()
    };
    reference.to_corim_unsigned().unwrap()
}

fn signed(seed: u8, issuer: &str, value: u8) -> Vec<u8> {
    let claims = Value::map([(claim::ISS, Value::text(issuer))]);
    let protected = Protected {
        typ: None,
        content_type: Some(CONTENT_TYPE.into()),
        extra: vec![(label::CWT_CLAIMS, claims)],
    };
    sign1::sign(&key(seed), &protected, &unsigned(value), &[]).unwrap()
}

fn import(
    test: &TestRepo,
    corim: &[u8],
    signer: &[u8],
    name: &str,
    list: Option<&str>,
) -> Result<VendorImported, PolicyError> {
    let file = VendorFile {
        corim,
        signer,
        name,
        list_signer: list,
    };
    reference_import(&test.repo, file, NOW)
}

#[test]
fn a_vendors_file_is_published_byte_for_byte_with_its_signer() {
    let test = TestRepo::published();
    let corim = signed(7, "ACME Ltd", 1);
    let pem = pem::encode(&pem::Pem::new("PUBLIC KEY", spki(7)));
    let first = import(&test, &corim, pem.as_bytes(), "acme-7", Some("acme")).unwrap();
    assert!(first.listed);
    assert_eq!(
        first.references,
        [("acme-fw".into(), vec![("sha256".into(), vec![0, 2])])]
    );
    test.publish(NOW).unwrap();
    let set = test.load(NOW).unwrap();
    let reference = set
        .references
        .references()
        .iter()
        .find(|r| r.values.name == "acme-fw")
        .unwrap();
    assert_eq!(reference.authority, "acme");
    let repository = Repository::open(&test.repo).unwrap();
    let kind = TargetKind::Reference("acme-7".into());
    assert_eq!(repository.next().unwrap()[&kind], corim, "kept with its signature");
    drop(repository);
    // The next file needs no listing; the domain's own signer still signs its own.
    let second = import(&test, &signed(7, "ACME Ltd", 2), &spki(7), "acme-8", None).unwrap();
    assert!(!second.listed && second.signer == ("acme".into(), "ACME Ltd".into()));
    test.publish(NOW).unwrap();
    assert_eq!(test.load(NOW).unwrap().references.references().len(), 3);
}

/// The files an import may stage, as they are now.
fn staged(test: &TestRepo) -> [Option<Vec<u8>>; 2] {
    ["references/a.corim", "signers.json"].map(|file| std::fs::read(test.staged(file)).ok())
}

#[test]
fn what_is_unsigned_unlisted_or_another_vendors_is_refused() {
    let test = TestRepo::published();
    let before = staged(&test);
    let corim = signed(7, "ACME Ltd", 1);
    let mut altered = corim.clone();
    *altered.last_mut().unwrap() ^= 1;
    for (what, bytes, signer, name, list, expected) in [
        (
            "unsigned",
            unsigned(1),
            spki(7),
            "a",
            Some("acme"),
            PolicyCode::VendorRefused,
        ),
        (
            "a signer that is not listed",
            corim.clone(),
            spki(7),
            "a",
            None,
            PolicyCode::VendorRefused,
        ),
        (
            "another key",
            corim.clone(),
            spki(8),
            "a",
            Some("acme"),
            PolicyCode::VendorRefused,
        ),
        (
            "altered",
            altered,
            spki(7),
            "a",
            Some("acme"),
            PolicyCode::VendorRefused,
        ),
        (
            "no CoRIM",
            b"hello".to_vec(),
            spki(7),
            "a",
            Some("acme"),
            PolicyCode::VendorRefused,
        ),
        (
            "no key",
            corim.clone(),
            b"hello".to_vec(),
            "a",
            Some("acme"),
            PolicyCode::SignerUnreadable,
        ),
        (
            "a name with blanks",
            corim.clone(),
            spki(7),
            "a b",
            Some("acme"),
            PolicyCode::SettingsName,
        ),
        (
            "the name of the domain's own signer",
            corim.clone(),
            spki(7),
            "a",
            Some("reference-1"),
            PolicyCode::SignerConflict,
        ),
        (
            "the name of a published reference",
            corim.clone(),
            spki(7),
            "golden",
            Some("acme"),
            PolicyCode::ReferenceConflict,
        ),
    ] {
        let error = import(&test, &bytes, &signer, name, list).unwrap_err();
        assert_eq!(error.code(), expected, "{what}: {error}");
        assert_eq!(staged(&test), before, "{what}");
    }
    import(&test, &corim, &spki(7), "a", Some("acme")).unwrap();
    assert_ne!(staged(&test), before);
    let renamed = signed(7, "ACME Inc", 1);
    assert_eq!(
        import(&test, &renamed, &spki(7), "b", None).unwrap_err().code(),
        PolicyCode::SignerConflict
    );
    let taken = signed(9, "Other", 1);
    assert_eq!(
        import(&test, &taken, &spki(9), "b", Some("acme")).unwrap_err().code(),
        PolicyCode::SignerConflict
    );
}

/// A vendor taken off the list takes its files with it: the repository no longer loads until they are withdrawn.
#[test]
fn a_vendor_that_is_not_listed_any_more_does_not_count() {
    let test = TestRepo::published();
    import(&test, &signed(7, "ACME Ltd", 1), &spki(7), "acme-7", Some("acme")).unwrap();
    test.publish(NOW).unwrap();
    let listed = std::fs::read(test.staged("signers.json"));
    let repository = Repository::open(&test.repo).unwrap();
    let mut signers = signers_file::parse(&repository.next().unwrap()[&TargetKind::Signers]).unwrap();
    assert_eq!(signers.vendors.len(), 1, "{listed:?}");
    signers.vendors.clear();
    repository
        .stage(&TargetKind::Signers, &signers_file::to_json(&signers))
        .unwrap();
    drop(repository);
    assert_eq!(test.publish(NOW).unwrap_err().code(), PolicyCode::ReferenceRefused);
    crate::author::withdraw(&test.repo, "references/acme-7.corim").unwrap();
    test.publish(NOW).unwrap();
}

#[test]
fn vendors_are_read_and_written() {
    let signers = Signers {
        own: vec![touchstone_verifier::corim::TrustedSigner {
            name: "reference-1".into(),
            key: key(1).verifying_key(),
            not_after: None,
        }],
        vendors: vec![VendorSigner {
            name: "acme".into(),
            issuer: "ACME Ltd".into(),
            key: key(2).verifying_key(),
            not_after: Some(9),
        }],
    };
    let text = String::from_utf8(signers_file::to_json(&signers)).unwrap();
    assert_eq!(signers_file::parse(text.as_bytes()).unwrap(), signers);
    let own_key = hex::encode(spki(1));
    for (from, to) in [
        ("\"acme\"", "\"reference-1\""),
        ("tpm-registers", "anything"),
        ("\"issuer\": \"ACME Ltd\"", "\"issuer\": \"\""),
        (hex::encode(spki(2)).as_str(), own_key.as_str()),
    ] {
        let error = signers_file::parse(text.replace(from, to).as_bytes()).unwrap_err();
        assert_eq!(error.code(), PolicyCode::SignersUnreadable, "{to}");
    }
}

/// NVIDIA's RIM files are SWID tags with an XML signature, which nothing here verifies.
#[test]
fn an_xml_rim_is_refused_with_what_to_do_instead() {
    let test = TestRepo::published();
    for xml in [
        &b"<SoftwareIdentity/>"[..],
        b"\n <?xml version=\"1.0\"?><SoftwareIdentity/>",
    ] {
        let error = import(&test, xml, &spki(7), "driver", Some("nvidia")).unwrap_err();
        assert_eq!(error.code(), PolicyCode::VendorRefused);
        assert!(error.to_string().contains("XML-DSig"), "{error}");
        assert!(error.to_string().contains("reference add --evidence"), "{error}");
    }
}
