//! By what an author names a node.

use super::*;

#[test]
fn nodes_merge_or_conflict() {
    let test = TestRepo::new();
    let evidence = |boot| NodeIdentity::Evidence(boot_evidence(boot));
    let first = test.add_node("web-1", "north", evidence("good")).unwrap();
    assert!(!first.merged && first.staged.contains(&"regions/north/policy.cedar".to_owned()));
    // Another attestation key of the same machine.
    let mut records = boot_records("good");
    records.retain(|(l, _)| {
        matches!(
            l,
            Label::TpmEkCertificate | Label::FirmwareEventLog | Label::TpmPcrValues
        )
    });
    records.push((Label::TpmAkPublic, boot_file("good", "ak-ecc.pub")));
    records.push((Label::TpmQuote, boot_file("good", "quote-ecc/quote.msg")));
    records.push((Label::TpmQuoteSignature, boot_file("good", "quote-ecc/quote.sig")));
    let second = test
        .add_node("web-1", "north", NodeIdentity::Evidence(pack(records)))
        .unwrap();
    assert!(second.merged);
    assert_eq!((second.node.ek.len(), second.node.ak_names.len()), (1, 2));
    assert_eq!(
        test.add_node("web-1", "north", evidence("good")).unwrap().node,
        second.node
    );

    use PolicyCode::*;
    let cert = |boot: &str| NodeIdentity::EkCert(boot_file(boot, "ek-rsa-cert.der"));
    let ak = |boot: &str| NodeIdentity::Ak(boot_file(boot, "ak-rsa.pub"));
    assert_eq!(
        code(test.add_node("web-1", "north", evidence("uki"))),
        NodeConflict,
        "another machine"
    );
    assert_eq!(
        code(test.add_node("web-1", "north", cert("uki"))),
        NodeConflict,
        "another certificate"
    );
    assert_eq!(
        code(test.add_node("web-1", "south", evidence("good"))),
        NodeConflict,
        "another region"
    );
    assert_eq!(
        code(test.add_node("web-2", "north", evidence("good"))),
        IdentityConflict,
        "another name"
    );
    assert_eq!(
        code(test.add_node("web-2", "north", cert("good"))),
        IdentityConflict,
        "another name, by certificate"
    );
    test.add_node("web-3", "north", ak("uki")).unwrap();
    assert_eq!(
        code(test.add_node("web-4", "north", ak("uki"))),
        IdentityConflict,
        "another name, by attestation key"
    );
    assert_eq!(code(test.add_node("../x", "north", cert("uki"))), SettingsName);
    assert_eq!(code(test.add_node("x", "no/rth", cert("uki"))), SettingsName);
    // What is published conflicts as well as what is staged.
    test.publish(NOW).unwrap();
    std::fs::remove_dir_all(test.staged("nodes")).unwrap();
    assert_eq!(
        code(test.add_node("web-2", "north", evidence("good"))),
        IdentityConflict
    );
    assert!(test.add_node("web-1", "north", evidence("good")).unwrap().merged);
}

#[test]
fn every_form_of_a_key_names_the_same_hardware() {
    let ids = |identity: NodeIdentity| {
        let hardware = identity.read().unwrap();
        (hardware.ek, hardware.ak_keys)
    };
    let file = |name: &str| boot_file("good", name);
    let certificate = ids(NodeIdentity::EkCert(file("ek-rsa-cert.der")));
    assert_eq!(certificate.0.len(), 1);
    assert_eq!(ids(NodeIdentity::Ek(file("ek-rsa.pub"))), certificate);
    assert_eq!(ids(NodeIdentity::Ek(file("ek-rsa.pem"))), certificate);
    let public = file("ek-rsa.pub");
    assert_eq!(ids(NodeIdentity::Ek(public[2..].to_vec())), certificate, "TPMT_PUBLIC");
    assert_eq!(
        ids(NodeIdentity::Ek(file("ek-ecc.pub"))),
        ids(NodeIdentity::EkCert(file("ek-ecc-cert.der")))
    );
    assert_eq!(
        ids(NodeIdentity::Ak(file("ak-ecc.pub"))),
        ids(NodeIdentity::Ak(file("ak-ecc.pem")))
    );
    use PolicyCode::*;
    assert_eq!(
        code(NodeIdentity::Ak(file("ek-rsa.pub")).read()),
        IdentityRefused,
        "not a signing key"
    );
    for (identity, what) in [
        (NodeIdentity::EkCert(file("ek-rsa.pem")), "a key for a certificate"),
        (NodeIdentity::EkCert(Vec::new()), "nothing"),
        (NodeIdentity::Ek(file("ek-rsa-cert.der")), "a certificate for a key"),
        (NodeIdentity::Ak(b"-----BEGIN PUBLIC KEY-----\n".to_vec()), "broken PEM"),
    ] {
        assert_eq!(code(identity.read()), IdentityUnreadable, "{what}");
    }
}

#[test]
fn evidence_with_a_pem_key_names_the_endorsement_key_only() {
    let mut records = boot_records("good");
    records.retain(|(l, _)| *l != Label::TpmAkPublic);
    records.push((Label::TpmAkPem, boot_file("good", "ak-rsa.pem")));
    let test = TestRepo::new();
    let added = test
        .add_node("web-1", "north", NodeIdentity::Evidence(pack(records.clone())))
        .unwrap();
    assert_eq!(
        (
            added.node.ek.len(),
            added.node.ak_names.len(),
            added.node.ak_keys.len(),
            added.notes.len()
        ),
        (1, 0, 0, 1)
    );
    // With the key listed by itself the entry is complete.
    let added = test
        .add_node("web-1", "north", NodeIdentity::Ak(boot_file("good", "ak-rsa.pem")))
        .unwrap();
    assert_eq!(
        (added.merged, added.node.ek.len(), added.node.ak_keys.len()),
        (true, 1, 1)
    );
    records.retain(|(l, _)| *l != Label::TpmEkCertificate);
    let refused = test.add_node("web-2", "north", NodeIdentity::Evidence(pack(records)));
    assert_eq!(code(refused), PolicyCode::IdentityRefused, "nothing names the hardware");
}
