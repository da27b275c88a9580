//! What an appraisal says of a machine that asks for the key of its disk: the claim `bootstrap`, of machines with and
//! without a unified kernel image, in each phase of their boot.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::log::{Machine, RawLog};
use common::{BOOT, Boot, anchors, codes, selection};
use touchstone_verifier::appraisal::{ClaimValue, claim};
use touchstone_verifier::bootstrap::{DONE, REGISTER, Volume, register_after, volume_digest};
use touchstone_verifier::inventory::Inventory;
use touchstone_verifier::tpm::HashAlg;

const BANK: HashAlg = HashAlg::Sha256;
const UUID: &str = "4878cbe9-f3c5-4d20-82da-b2bb10ae2940";

/// What is measured into registers 11 and 15 after the firmware's log.
struct Measured<'a> {
    phases: &'a [&'a str],
    own: Vec<Vec<u8>>,
}

/// The claim of a machine that booted as recorded; register 15 is quoted, and no reference says anything of it.
fn claimed(boot: &str, measured: &Measured<'_>, quoted: bool, listed: bool) -> Option<String> {
    let required = selection(&BOOT);
    let log = RawLog::of(&Boot::load(boot));
    let reference = log.reference(boot, &required);
    let mut more = BOOT.to_vec();
    if quoted {
        more.push(REGISTER);
    }
    let mut machine = Machine::new(&log, &selection(&more), std::slice::from_ref(&reference));
    let mut extend = |register: u8, digest: &[u8]| {
        if let Some(value) = machine.values.get_mut(&(BANK.tpm_id(), register)) {
            *value = BANK.digest([value.as_slice(), digest]).as_ref().to_vec();
        }
    };
    for phase in measured.phases {
        extend(11, BANK.digest([phase.as_bytes()]).as_ref());
    }
    for digest in &measured.own {
        extend(REGISTER, digest);
    }
    let (collection, inventory) = machine.packed();
    let mut nodes = inventory.nodes().to_vec();
    if listed {
        nodes[0].volume = Some(Volume {
            luks_uuid: UUID.into(),
            register: register_after(BANK, &[7; 64], "root", UUID),
        });
    }
    machine.policy.required_registers = required;
    let appraisal = machine.appraise_packed(&collection, &Inventory::new(nodes), &anchors());
    assert_eq!(codes(&appraisal), [""; 0], "register 15 is a claim, never a reason");
    appraisal.claims.get(claim::BOOTSTRAP).map(|claim| match claim {
        ClaimValue::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    })
}

#[test]
fn the_stage_of_a_boot() {
    let volume = volume_digest(BANK, &[7; 64], "root", UUID);
    let other = volume_digest(BANK, &[8; 64], "root", UUID);
    let done = BANK.digest([DONE]).as_ref().to_vec();
    type Row<'a> = (&'a str, &'a str, &'a [&'a str], Vec<Vec<u8>>, &'a str);
    let rows: Vec<Row<'_>> = vec![
        ("GRUB, the initramfs", "good", &[], vec![], "open"),
        (
            "GRUB, the volume measured",
            "good",
            &[],
            vec![volume.clone()],
            "volume-measured",
        ),
        (
            "GRUB, the disk open",
            "good",
            &[],
            vec![volume.clone(), done.clone()],
            "done",
        ),
        ("GRUB, given up", "good", &[], vec![done.clone()], "done"),
        (
            "GRUB, another volume",
            "good",
            &[],
            vec![other.clone()],
            "register-moved",
        ),
        (
            "GRUB, the mark of another volume",
            "good",
            &[],
            vec![other, done.clone()],
            "register-moved",
        ),
        (
            "GRUB, more after the mark",
            "good",
            &[],
            vec![volume.clone(), done.clone(), volume.clone()],
            "register-moved",
        ),
        ("an image, its initramfs", "uki", &["enter-initrd"], vec![], "open"),
        ("an image that measures no phase", "uki", &[], vec![], "phase-over"),
        (
            "an image, its initramfs left",
            "uki",
            &["enter-initrd", "leave-initrd"],
            vec![],
            "phase-over",
        ),
        (
            "an image, running",
            "uki",
            &["enter-initrd", "leave-initrd", "sysinit", "ready"],
            vec![],
            "phase-over",
        ),
        (
            "an image, its disk open",
            "uki",
            &["enter-initrd"],
            vec![volume, done],
            "done",
        ),
    ];
    for (name, boot, phases, own, expected) in rows {
        let measured = Measured { phases, own };
        assert_eq!(
            claimed(boot, &measured, true, true).as_deref(),
            Some(expected),
            "{name}"
        );
    }
}

#[test]
fn without_register_15_or_an_entry_nothing_is_taken_for_granted() {
    let nothing = || Measured {
        phases: &[],
        own: Vec::new(),
    };
    assert_eq!(claimed("good", &nothing(), false, true), None, "not quoted, no claim");
    let volume = Measured {
        own: vec![volume_digest(BANK, &[7; 64], "root", UUID)],
        ..nothing()
    };
    assert_eq!(claimed("good", &volume, true, false).as_deref(), Some("register-moved"));
}
