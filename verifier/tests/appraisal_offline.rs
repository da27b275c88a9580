//! Recorded boots, packed with their genuine quotes, against references made of other boots.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::{Boot, NOW, Offline, codes, references};
use touchstone_evidence::collection::Label;
use touchstone_verifier::appraisal::{AkBinding, ClaimValue, Tier};
use touchstone_verifier::policy::EventLogRule;
use touchstone_verifier::reason::Reason;
use touchstone_verifier::tpm::HashAlg;

const QUOTES: [(&str, &str); 4] = [
    ("quote-rsa", "rsa"),
    ("quote-ecc", "ecc"),
    ("quote-all-rsa", "rsa"),
    ("quote-all-ecc", "ecc"),
];

#[test]
fn a_good_boot_is_affirmed_by_each_of_its_quotes() {
    let good = Boot::load("good");
    for (quote, key) in QUOTES {
        let appraisal = Offline::new(&good, quote, key, &good).appraise();
        assert_eq!(appraisal.reasons, [], "{quote}");
        assert_eq!(appraisal.status, Tier::Affirming);
        assert_eq!(appraisal.node.as_deref(), Some("node-1"));
        assert_eq!(appraisal.ak_binding, AkBinding::Inventory);
        assert_eq!(appraisal.reference.as_deref(), Some("golden"));
        assert_eq!(appraisal.claims["secure_boot"], ClaimValue::Bool(true));
        assert_eq!(appraisal.claims["binding"], ClaimValue::Text("none".into()));
        assert_eq!(appraisal.claims["event_log"], ClaimValue::Text("replayed".into()));
        let ClaimValue::Text(line) = &appraisal.claims["kernel_command_line"] else {
            panic!("a text")
        };
        assert!(line.starts_with("/vmlinuz console=ttyS0"), "{line}");
        assert!(
            !appraisal.authentic && appraisal.enrol.is_none(),
            "packed evidence is never authentic"
        );
        assert_eq!(
            appraisal.vector.aspects().map(|(_, _, value)| value)[..5],
            [Some(2), None, Some(3), None, Some(2)]
        );
    }
}

#[test]
fn a_changed_command_line_is_refused_and_named() {
    let (good, changed) = (Boot::load("good"), Boot::load("cmdline-changed"));
    for (quote, key) in QUOTES {
        let appraisal = Offline::new(&changed, quote, key, &good).appraise();
        assert_eq!(appraisal.status, Tier::Contraindicated);
        assert_eq!(
            codes(&appraisal),
            [
                "grub-command-mismatch",
                "kernel-command-line-mismatch",
                "boot-file-mismatch"
            ],
            "{quote}"
        );
        let [grub, line, file]: [Reason; 3] = appraisal.reasons.try_into().unwrap();
        assert_eq!(line.claim, "PCR 8 (sha256)");
        assert!(line.expected.starts_with("kernel command line \"/vmlinuz") && line.expected.ends_with("loglevel=4\""));
        assert!(line.found.contains("kernel command line") && line.found.contains("module.sig_enforce=0 init=/bin/sh"));
        assert!(grub.found.contains("grub: linux /vmlinuz"));
        assert_eq!(file.claim, "PCR 9 (sha256)");
        assert!(
            file.expected
                .starts_with("file (hd0,gpt1)/EFI/debian/grub.cfg, digest 0672cb2a8d5b0b20")
        );
        assert!(file.found.contains("digest 69de3f3659a40d45"));
        assert_eq!(appraisal.vector.executables, Some(96));
        assert_eq!(
            (appraisal.vector.instance_identity, appraisal.vector.hardware),
            (Some(2), Some(2))
        );
    }
}

#[test]
fn another_boot_path_is_refused_and_accepted_against_itself() {
    let (good, uki) = (Boot::load("good"), Boot::load("uki"));
    let refused = Offline::new(&uki, "quote-rsa", "rsa", &good).appraise();
    for code in [
        "boot-application-mismatch",
        "secure-boot-mismatch",
        "boot-file-mismatch",
        "uki-section-mismatch",
        "mok-mismatch",
    ] {
        assert!(codes(&refused).contains(&code), "{code} not in {:?}", codes(&refused));
    }
    let accepted = Offline::new(&uki, "quote-ecc", "ecc", &uki).appraise();
    assert_eq!(accepted.reasons, []);
    // Against both, it is judged by the one it matches.
    let mut both = Offline::new(&uki, "quote-rsa", "rsa", &good);
    both.references = references(&[good.reference("golden"), uki.reference("unified")]);
    assert_eq!(both.appraise().reference.as_deref(), Some("unified"));
}

#[test]
fn an_unknown_program_moves_no_boot_register() {
    let (good, other) = (Boot::load("good"), Boot::load("ima-unknown-exec"));
    assert_eq!(Offline::new(&other, "quote-rsa", "rsa", &good).appraise().reasons, []);
}

#[test]
fn leniencies_are_signed_lines_and_are_named() {
    let good = Boot::load("good");
    let mut scenario = Offline::new(&good, "quote-rsa", "rsa", &good).without(Label::FirmwareEventLog);
    scenario.policy.event_log = EventLogRule::RegistersSuffice;
    let appraisal = scenario.appraise();
    assert_eq!(
        (appraisal.reasons.len(), appraisal.leniencies.as_slice()),
        (0, &["event-log: registers-suffice".to_owned()][..])
    );
    assert!(!appraisal.claims.contains_key("secure_boot"), "nothing proves it");
    // A log that is there must replay all the same.
    let lying = scenario.with(Label::FirmwareEventLog, Boot::load("uki").log);
    assert!(codes(&lying.appraise()).contains(&"log-does-not-replay"));
}

#[test]
fn without_a_log_the_register_is_named() {
    let (good, changed) = (Boot::load("good"), Boot::load("cmdline-changed"));
    let mut scenario = Offline::new(&changed, "quote-rsa", "rsa", &good).without(Label::FirmwareEventLog);
    scenario.policy.event_log = EventLogRule::RegistersSuffice;
    let appraisal = scenario.appraise();
    assert_eq!(codes(&appraisal), ["grub-command-mismatch", "boot-file-mismatch"]);
    assert!(appraisal.reasons[0].expected.contains("(reference golden)"));
}

#[test]
fn a_reference_ends_and_its_end_is_the_end_of_the_result() {
    let good = Boot::load("good");
    let mut ending = good.reference("golden");
    ending.not_after = Some(NOW + 10);
    let mut scenario = Offline::new(&good, "quote-rsa", "rsa", &good);
    scenario.references = references(&[ending]);
    let appraisal = scenario.appraise();
    assert_eq!((appraisal.status, appraisal.expires), (Tier::Affirming, NOW + 10));
    scenario.now = NOW + 11;
    assert_eq!(codes(&scenario.appraise()), ["reference-out-of-force"]);
    let mut partial = good.reference("golden");
    scenario.now = NOW;
    partial.banks.get_mut(&HashAlg::Sha256).unwrap().registers.remove(&4);
    scenario.references = references(std::slice::from_ref(&partial));
    assert_eq!(codes(&scenario.appraise()), [""; 0], "the events tell the value");
    partial
        .banks
        .get_mut(&HashAlg::Sha256)
        .unwrap()
        .events
        .retain(|event| event.pcr != 4);
    scenario.references = references(&[partial]);
    assert_eq!(codes(&scenario.appraise()), ["reference-incomplete"]);
}
