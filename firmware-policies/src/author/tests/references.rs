//! References from a golden machine.

use super::*;

#[test]
fn a_golden_machine_becomes_a_signed_reference_and_a_node() {
    let test = TestRepo::published();
    let policy = test.load(NOW).unwrap();
    assert_eq!(policy.version, 1);
    let [reference] = policy.references.references() else {
        panic!("one reference")
    };
    assert_eq!(
        (reference.values.name.as_str(), reference.authority.as_str()),
        ("golden", "reference-1")
    );
    assert_eq!((reference.not_before, reference.not_after), (None, i64::MAX));
    let sha256 = &reference.values.banks[&HashAlg::Sha256];
    let registers: Vec<u8> = sha256.registers.keys().copied().collect();
    assert_eq!(registers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14]);
    assert!(sha256.events.len() > 40);
    // What is compared by more than its digest has its data; the rest has not.
    let with_data: std::collections::BTreeSet<u8> = sha256
        .events
        .iter()
        .filter(|event| event.data.is_some())
        .map(|event| event.pcr)
        .collect();
    assert_eq!(with_data.into_iter().collect::<Vec<_>>(), [1, 4, 5, 7, 8]);
    let [node] = policy.inventory.nodes() else {
        panic!("one node")
    };
    assert_eq!(
        (
            node.name.as_str(),
            node.region.as_str(),
            node.ek.len(),
            node.ak_names.len()
        ),
        ("web-1", "north", 1, 1)
    );
    assert_eq!(node.ak_names[0], boot_file("good", "ak-rsa.name"));
    assert_eq!(policy.anchors.store(Purpose::Ek).iter().count(), 1);
    assert_eq!(policy.cedar.regions().collect::<Vec<_>>(), ["north"]);
    // The past is judged by it as well: nothing in it has a beginning.
    assert!(test.load_of_today(0).is_ok());
}

#[test]
fn garbage_never_becomes_a_reference_or_a_node() {
    let without = |label| {
        boot_records("good")
            .into_iter()
            .filter(|(l, _)| *l != label)
            .collect::<Vec<_>>()
    };
    let with = |label: Label, bytes: Vec<u8>| {
        let mut records = without(label);
        records.push((label, bytes));
        pack(records)
    };
    let flipped = |label: Label, at: usize| {
        let (_, mut bytes) = boot_records("good").into_iter().find(|(l, _)| *l == label).unwrap();
        bytes[at] ^= 1;
        with(label, bytes)
    };
    let mut values = boot_values("good");
    values.get_mut(&(0x0B, 8)).unwrap()[0] ^= 1;
    let mut fewer = boot_values("good");
    fewer.remove(&(0x0B, 8));
    let mut log = boot_file("good", "eventlog.bin");
    let last = log.iter().rposition(|b| *b != 0).unwrap();
    log.truncate(last - 2000);
    let mut lying = boot_file("good", "eventlog.bin");
    let at = lying.windows(5).position(|w| w == b"quiet").unwrap();
    lying[at] = b'Q';
    use PolicyCode::*;
    let rows: Vec<(&str, Vec<u8>, PolicyCode)> = vec![
        ("no evidence", b"garbage".to_vec(), EvidenceUnreadable),
        ("no quote", pack(without(Label::TpmQuote)), EvidenceRefused),
        ("no signature", pack(without(Label::TpmQuoteSignature)), EvidenceRefused),
        ("no attestation key", pack(without(Label::TpmAkPublic)), EvidenceRefused),
        ("no values", pack(without(Label::TpmPcrValues)), EvidenceRefused),
        (
            "a quote with a flipped bit",
            flipped(Label::TpmQuote, 60),
            EvidenceRefused,
        ),
        (
            "a signature with a flipped bit",
            flipped(Label::TpmQuoteSignature, 40),
            EvidenceRefused,
        ),
        (
            "another machine's key",
            with(Label::TpmAkPublic, boot_file("uki", "ak-rsa.pub")),
            EvidenceRefused,
        ),
        (
            "other values",
            with(Label::TpmPcrValues, pcr_values::encode(&values)),
            EvidenceRefused,
        ),
        (
            "fewer values",
            with(Label::TpmPcrValues, pcr_values::encode(&fewer)),
            EvidenceRefused,
        ),
        (
            "another boot's log",
            with(Label::FirmwareEventLog, boot_file("uki", "eventlog.bin")),
            EvidenceRefused,
        ),
        (
            "a log whose text is not what was measured",
            with(Label::FirmwareEventLog, lying),
            EvidenceRefused,
        ),
        ("a log cut short", with(Label::FirmwareEventLog, log), EvidenceRefused),
        (
            "an endorsement key as attestation key",
            with(Label::TpmAkPublic, boot_file("good", "ek-rsa.pub")),
            IdentityRefused,
        ),
    ];
    let test = TestRepo::new();
    for (attack, evidence, expected) in rows {
        assert_eq!(
            code(reference_add(&test.repo, &evidence, Some("bad"), None, None)),
            expected,
            "{attack}"
        );
        assert_eq!(
            code(test.add_node("bad", "north", NodeIdentity::Evidence(evidence))),
            expected,
            "{attack}"
        );
    }
    assert!(!test.staged("references").exists() && !test.staged("nodes").exists());
}

#[test]
fn references_are_named_limited_in_time_and_not_replaced_by_accident() {
    let test = TestRepo::new();
    let good = boot_evidence("good");
    let added = reference_add(&test.repo, &good, None, Some(NOW + 10), Some(NOW + 20)).unwrap();
    assert!(
        added.name.starts_with("reference-") && added.name.len() == 26,
        "{}",
        added.name
    );
    assert_eq!(
        code(reference_add(&test.repo, &good, Some("../x"), None, None)),
        PolicyCode::SettingsName
    );
    assert_eq!(
        code(reference_add(&test.repo, &good, Some("a"), Some(2), Some(1))),
        PolicyCode::ReferenceConflict
    );
    reference_add(&test.repo, &good, Some("a"), None, None).unwrap();
    reference_add(&test.repo, &good, Some("a"), None, None).unwrap();
    let other = boot_evidence("cmdline-changed");
    assert_eq!(
        code(reference_add(&test.repo, &other, Some("a"), None, None)),
        PolicyCode::ReferenceConflict
    );
    let unlogged = pack(
        boot_records("uki")
            .into_iter()
            .filter(|(l, _)| *l != Label::FirmwareEventLog)
            .collect(),
    );
    let unlogged = reference_add(&test.repo, &unlogged, Some("uki"), None, None).unwrap();
    assert_eq!((unlogged.events, unlogged.notes.len()), (0, 1));
    let published = test.publish(NOW).unwrap();
    assert_eq!(published.references_signed.len(), 3);
    let policy = test.load(NOW).unwrap();
    let limited = policy
        .references
        .references()
        .iter()
        .find(|r| r.values.name == added.name)
        .unwrap();
    assert_eq!((limited.not_before, limited.not_after), (Some(NOW + 10), NOW + 20));
}

#[test]
fn the_published_policy_affirms_the_golden_machine_and_refuses_the_changed_one() {
    use touchstone_evidence::collection::Collection;
    use touchstone_verifier::appraisal::{Freshness, ImaKnown, Inputs, Known, Tier, appraise};
    let test = TestRepo::published();
    test.add_node(
        "web-2",
        "north",
        NodeIdentity::Evidence(boot_evidence("cmdline-changed")),
    )
    .unwrap();
    test.publish(NOW).unwrap();
    let policy = test.load(NOW).unwrap();
    let verdict = |boot: &str, now: i64| {
        let nonce = String::from_utf8(boot_file(boot, "quote-rsa/nonce.hex")).unwrap();
        let appraisal = appraise(&Inputs {
            collection: &Collection::decode(&boot_evidence(boot)).unwrap(),
            freshness: Freshness::Unbound {
                nonce: &hex::decode(nonce.trim()).unwrap(),
            },
            policy: &policy.settings.appraisal,
            references: &policy.references,
            anchors: &policy.anchors,
            inventory: &policy.inventory,
            enrolled: None,
            ima: ImaKnown::default(),
            known: Known::default(),
            now,
        });
        let codes: Vec<&str> = appraisal.reasons.iter().map(|r| r.code.as_str()).collect();
        (appraisal.status, appraisal.node.clone(), codes.join(" "))
    };
    // The recorded machines' certificates begin after the time the test repositories are made at.
    let now = 1_800_000_000;
    assert_eq!(
        verdict("good", now),
        (Tier::Affirming, Some("web-1".to_owned()), String::new())
    );
    let (status, node, codes) = verdict("cmdline-changed", now);
    assert_eq!((status, node.as_deref()), (Tier::Contraindicated, Some("web-2")));
    assert!(codes.contains("kernel-command-line-mismatch"), "{codes}");
    let (_, _, codes) = verdict("uki", now);
    assert!(codes.contains("node-unknown"), "{codes}");
}

/// A recorded boot with its IMA list, all registers quoted.
fn with_list(boot: &str) -> Vec<(Label, Vec<u8>)> {
    let text = String::from_utf8(boot_file(boot, "pcrs.txt")).unwrap();
    let values = text.lines().filter_map(|line| {
        let mut parts = line.split_whitespace();
        let (bank, register, value) = (parts.next()?, parts.next()?.parse::<u8>().ok()?, parts.next()?);
        (bank == "sha256").then(|| ((HashAlg::Sha256.tpm_id(), register), hex::decode(value).unwrap()))
    });
    let mut records = boot_records(boot);
    for (label, bytes) in &mut records {
        match label {
            Label::TpmQuote => *bytes = boot_file(boot, "quote-all-rsa/quote.msg"),
            Label::TpmQuoteSignature => *bytes = boot_file(boot, "quote-all-rsa/quote.sig"),
            Label::TpmPcrValues => *bytes = pcr_values::encode(&values.clone().collect()),
            _ => {}
        }
    }
    records.push((Label::ImaLog, boot_file(boot, "ima.bin")));
    records
}

#[test]
fn a_golden_machines_list_is_part_of_its_reference_and_an_unknown_program_is_refused_by_name() {
    use touchstone_evidence::collection::Collection;
    use touchstone_verifier::appraisal::{Freshness, ImaKnown, Inputs, Known, appraise};
    let test = TestRepo::new();
    let ca = boots().join("ca/issuercert.pem");
    trust_add(&test.repo, Purpose::Ek, &[ca]).unwrap();
    for (name, boot) in [("web-1", "good"), ("web-2", "ima-unknown-exec")] {
        test.add_node(name, "north", NodeIdentity::Evidence(boot_evidence(boot)))
            .unwrap();
    }
    let added = reference_add(&test.repo, &pack(with_list("good")), Some("golden"), None, None).unwrap();
    assert_eq!(added.files, 52, "every entry but the boot aggregate");
    // A list that no quoted register vouches for, or that is not what it quotes, is taken from nobody.
    let mut alone = boot_records("good");
    alone.push((Label::ImaLog, boot_file("good", "ima.bin")));
    let mut other = with_list("good");
    other.pop();
    other.push((Label::ImaLog, boot_file("ima-unknown-exec", "ima.bin")));
    for evidence in [alone, other] {
        let refused = reference_add(&test.repo, &pack(evidence), Some("other"), None, None);
        assert_eq!(code(refused), PolicyCode::EvidenceRefused);
    }
    test.publish(NOW).unwrap();
    let policy = test.load(NOW).unwrap();
    let verdict = |boot: &str, evidence: Vec<(Label, Vec<u8>)>, quote: &str| {
        let nonce = String::from_utf8(boot_file(boot, &format!("{quote}/nonce.hex"))).unwrap();
        let appraisal = appraise(&Inputs {
            collection: &Collection::decode(&pack(evidence)).unwrap(),
            freshness: Freshness::Unbound {
                nonce: &hex::decode(nonce.trim()).unwrap(),
            },
            policy: &policy.settings.appraisal,
            references: &policy.references,
            anchors: &policy.anchors,
            inventory: &policy.inventory,
            enrolled: None,
            ima: ImaKnown::default(),
            known: Known::default(),
            now: 1_800_000_000,
        });
        let told = appraisal
            .reasons
            .iter()
            .map(|r| format!("{} {}", r.code.as_str(), r.found));
        told.collect::<Vec<String>>().join("; ")
    };
    assert_eq!(verdict("good", with_list("good"), "quote-all-rsa"), "");
    let told = verdict("ima-unknown-exec", with_list("ima-unknown-exec"), "quote-all-rsa");
    assert!(
        told.starts_with("ima-file-unknown /opt/unknown-tool, sha256 58c4afe3"),
        "{told}"
    );
    assert!(!told.contains(';'), "and for nothing else: {told}");
    let told = verdict("good", boot_records("good"), "quote-rsa");
    assert!(told.starts_with("ima-log-missing") && !told.contains(';'), "{told}");
}
