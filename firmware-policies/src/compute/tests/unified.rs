//! Unified kernel images.

use super::*;

#[test]
fn the_record_of_an_image_has_its_measured_sections_in_order() {
    use touchstone_evidence::uki_sections::{Section, decode};
    let image = uki("6.1", "quiet");
    let kernel = pe(&[(".text", b"6.1")]);
    let expected = [
        Section::of(".linux", &kernel),
        Section::of(".osrel", b"NAME=Test\nVERSION_ID=6.1\n"),
        Section::of(".cmdline", b"quiet"),
        Section::of(".initrd", b"an initrd"),
    ];
    assert_eq!(
        decode(&uki_sections(&image.bytes).unwrap()).as_deref(),
        Ok(&expected[..])
    );
    assert!(uki_sections(&kernel).is_err(), "a kernel is no unified image");
    let other_stub = pe(&[(".linux", &kernel), (".sdmagic", b"#### LoaderInfo: another 1 ####")]);
    assert!(
        uki_sections(&other_stub).is_err(),
        "what another stub measures is not known"
    );
}

#[test]
fn a_unified_image_alone_has_the_registers_that_follow_from_it() {
    let test = TestRepo::published();
    let compute = Compute {
        banks: vec![HashAlg::Sha256, HashAlg::Sha384],
        boot: uki_boot(uki("6.1", "quiet")),
        validity: (Some(NOW - 5), Some(NOW + 5)),
        ..Compute::default()
    };
    let report = reference_compute(&test.repo, "uki", &compute).unwrap();
    assert_eq!(
        (report.registers.as_slice(), report.events_only.as_slice()),
        (&[9, 11][..], &[4][..])
    );
    assert!(report.words.contains(&"command line: quiet".into()) && report.words.contains(&"system: Test 6.1".into()));
    let reference = computed(&test, "uki", &compute);
    assert_eq!(
        (reference.not_before, reference.not_after),
        (Some(NOW - 5), Some(NOW + 5))
    );
    assert_eq!(reference.banks.len(), 2);
    for (bank, values) in &reference.banks {
        // Eight events of four sections, name before content.
        let digests: Vec<_> = values.events_of(11).map(|event| event.digest.clone()).collect();
        assert_eq!(digests.len(), 8);
        assert_eq!(digests[0], bank.digest([&b".linux\0"[..]]).as_ref());
        assert_eq!(digests[5], bank.digest([&b"quiet"[..]]).as_ref());
        let mut value = vec![0; bank.digest_len()];
        for digest in &digests {
            value = bank.digest([value.as_slice(), digest]).as_ref().to_vec();
        }
        assert_eq!(values.registers[&11], value, "{bank}");
        let images: Vec<_> = values.events_of(4).map(|event| event.digest.clone()).collect();
        let image = uki("6.1", "quiet");
        let image = Image::parse(&image.bytes).unwrap().authenticode(*bank);
        assert_eq!(
            images,
            [bank.digest([&[0; 4][..]]).as_ref().to_vec(), image],
            "separator, image"
        );
    }
}

/// Over a base, a path determines its registers whole; what it does not use is empty, the rest is the base's.
#[test]
fn a_unified_image_over_a_base_is_a_whole_state() {
    let test = TestRepo::published();
    let over = |name: &str, image| {
        let compute = Compute {
            base: golden(),
            boot: uki_boot(image),
            ..Compute::default()
        };
        computed(&test, name, &compute)
    };
    let one = over("uki-1", uki("6.1", "quiet"));
    let good = quoted("good");
    let values = sha256(&one);
    for pcr in [0, 1, 2, 3, 5, 6, 7, 14] {
        assert_eq!(
            values.registers[&pcr], good.registers[&pcr],
            "register {pcr} is the platform's"
        );
    }
    assert_eq!(values.registers[&8], vec![0; 32], "GRUB does not run");
    assert_eq!(values.events_of(8).count(), 0);
    assert_eq!(
        values.events_of(4).count(),
        3,
        "the boot attempt, the separator, the image"
    );
    assert_eq!((values.events_of(9).count(), values.events_of(11).count()), (2, 8));
    // One image replaced by the next is the same state as the next one computed from the start.
    let two = over("uki-2", uki("6.2", "quiet panic=1"));
    let replaced = computed(
        &test,
        "uki-2-replaced",
        &Compute {
            base: Some(Base::Reference("uki-1".into())),
            replacements: vec![Replacement::File {
                old: uki("6.1", "quiet"),
                new: uki("6.2", "quiet panic=1"),
            }],
            ..Compute::default()
        },
    );
    let digests = |reference: &MachineReference| {
        let mut events: Vec<_> = sha256(reference)
            .events
            .iter()
            .map(|e| (e.pcr, e.digest.clone()))
            .collect();
        events.sort_by_key(|(pcr, _)| *pcr);
        events
    };
    assert_eq!(sha256(&replaced).registers, sha256(&two).registers);
    assert_eq!(digests(&replaced), digests(&two));
    assert_ne!(digests(&replaced), digests(&one));
}
