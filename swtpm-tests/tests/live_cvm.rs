//! Confidential VMs against a real broker: simulated SEV-SNP guests under the agent's own code, over TLS, alone and beside
//! a software TPM.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use swtpm_tests::boots::Boot;
use swtpm_tests::cvm::{self, CvmNode, guest, listed, platforms};
use swtpm_tests::domain::{ACTION, Domain, Founding, RESOURCE, eventually, rights, status, unlocked};
use swtpm_tests::node::Node;
use swtpm_tests::observe::PATIENCE;
use touchstone_attest::agent::config::AgentConfig;
use touchstone_attest::agent::release::{Fetched, KeyWanted, ReleaseError};
use touchstone_attest::agent::socket::{self, Request, Response};
use touchstone_attest::agent::{self, AgentEvent};
use touchstone_attest::client::ClientError;
use touchstone_attest::local;
use touchstone_authorization::{KeyKind, Status, StatusIndex};
use touchstone_cose::key::VerifyingKey;
use touchstone_evidence::message::{Answer, Identity, Submission};
use touchstone_keybroker::record::DecisionRecord;
use touchstone_ledger::statement::{Kind, Outcome};
use touchstone_policies::settings::{Assignment, settings_set};
use touchstone_policies::{self as policies, Job};
use touchstone_simulated_platform::{EmulatedTsm, Guest, Line, Platform, field};

const LINE: Line = Line::Milan;
const CHIP: u8 = 0xC1;
const OTHER_CHIP: u8 = 0xC2;
const DATA: u8 = 0xDA;

/// A domain with one recorded TPM machine as the reference of TPMs, and what `stage` adds.
fn domain(stage: &dyn Fn(&Path)) -> Domain {
    Domain::found(&Founding {
        anchors: &["swtpm-localca-rootca-cert.pem", "issuercert.pem"]
            .map(|file| swtpm_tests::boots::boots().join("ca").join(file)),
        nodes: &[],
        golden: &swtpm_tests::domain::recorded(&Boot::GOOD),
        settings: &[],
        limits: &[("refusals_per_second", 1_000_000)],
        stage,
    })
}

/// A domain of one guest, `guest-1`, and a TPM machine beside it; and the guest's chip and another of the same maker.
fn domain_of_a_guest() -> (Domain, Platform, Platform) {
    let mut chips = platforms(LINE, &[CHIP, OTHER_CHIP]);
    let (other, chip) = (chips.pop().unwrap(), chips.pop().unwrap());
    let domain = domain(&|repo| {
        cvm::stage_root(repo, &chip);
        cvm::stage_reference(repo, "guest", LINE);
        swtpm_tests::domain::add_node(repo, "node-1", &Boot::GOOD).unwrap();
        cvm::stage_node(repo, "guest-1", &[listed(LINE, CHIP, Some(DATA))], None);
    });
    (domain, chip, other)
}

fn set(domain: &Domain, assignments: &[&str]) {
    let assignments: Vec<_> = assignments
        .iter()
        .map(|text| Assignment::parse(text).unwrap())
        .collect();
    unlocked(|| settings_set(&domain.path("policy"), &assignments).map(|_| ())).unwrap();
}

fn codes(answer: &Answer) -> Vec<&str> {
    answer.reasons.iter().map(|reason| reason.code.as_str()).collect()
}

fn key(bytes: &[u8]) -> VerifyingKey {
    let value = touchstone_cose::cbor::decode(bytes, touchstone_cose::cbor::Limits::TOKEN).unwrap();
    VerifyingKey::from_cose_key(&value).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_enrols_renews_and_is_let_in_with_a_key_in_its_memory() {
    for line in [Line::Milan, Line::Genoa, Line::Turin] {
        let chip = platforms(line, &[CHIP]).pop().unwrap();
        let domain = domain(&|repo| {
            cvm::stage_root(repo, &chip);
            cvm::stage_reference(repo, "guest", line);
            swtpm_tests::domain::add_node(repo, "node-1", &Boot::GOOD).unwrap();
            cvm::stage_node(repo, "guest-1", &[listed(line, CHIP, Some(DATA))], None);
        });
        let broker = domain.broker().await;
        let post = domain.guard("guard-1").await;
        let mut node = CvmNode::start(guest(chip, line, CHIP, Some(DATA)), None).await;
        let mut client = domain.client();

        let answer = node.attest(&mut client).await.unwrap();
        assert_eq!(codes(&answer), [] as [&str; 0], "{line:?}");
        let first = domain.check(&answer);
        let granted = first.authorization.unwrap();
        let hello = node.hello().await;
        let contents = granted.contents();
        assert_eq!(contents.subject, "guest-1");
        assert_eq!(contents.key_kind, KeyKind::Tee);
        assert_eq!(contents.confirmation, key(&hello.session_key));
        assert!(
            hello
                .receive_key
                .is_some_and(|bytes| key(&bytes) != contents.confirmation)
        );
        assert_eq!(
            (first.statement.kind, first.statement.outcome),
            (Kind::Enrolment, Outcome::Allow)
        );
        assert_eq!(
            first.statement.body.get(3).unwrap().as_text(),
            Some(swtpm_tests::domain::REGION)
        );

        let authorization = answer.authorization.unwrap();
        post.reaches(first.view.head().epoch).await;
        let challenge = post.challenge();
        let proof = node.prove(&authorization, "guard-1", &challenge).await;
        post.decide(&authorization, &proof, &challenge).unwrap();

        let second = domain.check(&node.attest(&mut client).await.unwrap());
        assert_eq!(second.statement.kind, Kind::Attestation);
        let renewed = second.authorization.unwrap();
        assert_eq!(renewed.contents().status, contents.status, "the entry is kept");
        assert_eq!(
            renewed.contents().confirmation,
            contents.confirmation,
            "and so is the key"
        );
        broker.shutdown().await.unwrap();
    }
}

/// What a report says, and what is to be said against it.
type Row = (&'static str, fn(&mut Guest), &'static str);

/// What an enrolled guest may show that is authentic and not acceptable.
const ROWS: &[Row] = &[
    (
        "another image was started",
        |g| g.set(field::MEASUREMENT, &[0x3F; 48]),
        "snp-measurement",
    ),
    (
        "the host may debug it",
        |g| g.set(field::POLICY, &0xB_0000u64.to_le_bytes()),
        "snp-debug-enabled",
    ),
    (
        "a migration agent may move it",
        |g| g.set(field::POLICY, &0x7_0000u64.to_le_bytes()),
        "snp-migration-agent",
    ),
    ("VMPL 1", |g| g.set(field::VMPL, &[1]), "snp-vmpl"),
    (
        "no alias check",
        |g| g.set(field::PLATFORM_INFO, &[0x05]),
        "snp-alias-check",
    ),
    (
        "launched on older firmware",
        |g| g.set(field::LAUNCH_TCB, &[4, 0, 0, 0, 0, 0, 23, 219]),
        "tcb",
    ),
    (
        "firmware that may go back",
        |g| g.set(field::COMMITTED_TCB, &[3, 0, 0, 0, 0, 0, 24, 219]),
        "tcb",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_authentically_shows_and_is_not_acceptable_costs_its_rights() {
    let (domain, chip, _) = domain_of_a_guest();
    let broker = domain.broker().await;
    let folder = tempfile::tempdir().unwrap();
    chip.write(folder.path()).unwrap();
    for (attack, change, code) in ROWS {
        let again = Platform::read(folder.path()).unwrap();
        let mut node = CvmNode::start(guest(again, LINE, CHIP, Some(DATA)), None).await;
        let mut client = domain.client();
        let granted = domain
            .check(&node.attest(&mut client).await.unwrap())
            .authorization
            .unwrap();
        let place = granted.contents().status;
        assert_eq!(status(&broker, place), Some(Status::Valid), "{attack}");
        let before = rights(&broker, "guest-1");

        node.tsm.change(change);
        let denied = node.attest(&mut client).await.unwrap();
        assert!(!denied.allowed, "{attack}");
        assert!(
            codes(&denied).iter().any(|found| found.contains(code)),
            "{attack}: {:?}",
            codes(&denied)
        );
        let checked = domain.check(&denied);
        assert_eq!(checked.statement.outcome, Outcome::Deny, "{attack}");
        let after = rights(&broker, "guest-1");
        assert_eq!(status(&broker, place), Some(Status::Invalid), "{attack}");
        assert!(
            after.record.unwrap().withdrawn && after.epoch > before.epoch,
            "{attack}"
        );
    }
    // The way back: the guest shows again what it was enrolled with.
    let mut node = CvmNode::start(guest(chip, LINE, CHIP, Some(DATA)), None).await;
    let back = node.attest(&mut domain.client()).await.unwrap();
    assert!(back.allowed, "{:?}", back.reasons);
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_was_acceptable_is_denied_and_recorded() {
    let (domain, chip, _) = domain_of_a_guest();
    let broker = domain.broker().await;
    let mut shown = guest(chip, LINE, CHIP, Some(DATA));
    shown.set(field::MEASUREMENT, &[0x3F; 48]);
    let mut node = CvmNode::start(shown, None).await;
    let before = rights(&broker, "guest-1");
    let denied = node.attest(&mut domain.client()).await.unwrap();
    assert!(!denied.allowed);
    let after = rights(&broker, "guest-1");
    assert_eq!((after.record, after.epoch), (None, before.epoch));
    assert_eq!(after.entries, before.entries + 1);
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forgeries_in_a_guests_name_touch_nothing_of_it() {
    let (domain, chip, other) = domain_of_a_guest();
    let broker = domain.broker().await;
    let folder = tempfile::tempdir().unwrap();
    chip.write(folder.path()).unwrap();
    let good = || guest(Platform::read(folder.path()).unwrap(), LINE, CHIP, Some(DATA));
    let mut node = CvmNode::start(good(), None).await;
    let mut client = domain.client();
    let granted = domain
        .check(&node.attest(&mut client).await.unwrap())
        .authorization
        .unwrap();
    let before = rights(&broker, "guest-1");
    let (mut line, mut elsewhere) = (domain.line().await, domain.line().await);
    let hello = node.hello().await;

    // A report of the session before: the binder is another.
    let challenge = line.hello(&hello).await.unwrap();
    let old = node.evidence(&challenge, line.exporter(&challenge.nonce)).await;
    line.submit(&old).await.unwrap();
    let before_replay = rights(&broker, "guest-1");
    let session_id = line.hello(&hello).await.unwrap().session_id;
    let replayed = Submission {
        session_id,
        ..old.clone()
    };
    let refused = line.submit(&replayed).await.unwrap_err();
    assert_eq!(
        (refused.code.as_str(), &*refused.reasons),
        ("evidence-refused", &["snp-report-data-mismatch".to_owned()][..])
    );

    // A report made for another connection: somebody in between.
    let challenge = line.hello(&hello).await.unwrap();
    let relayed = node.evidence(&challenge, elsewhere.exporter(&challenge.nonce)).await;
    let refused = line.submit(&relayed).await.unwrap_err();
    assert_eq!(
        (refused.code.as_str(), &*refused.reasons),
        ("evidence-refused", &["snp-report-data-mismatch".to_owned()][..])
    );

    // The session of one connection on another one.
    let challenge = line.hello(&hello).await.unwrap();
    let stolen = node.evidence(&challenge, line.exporter(&challenge.nonce)).await;
    assert_eq!(elsewhere.submit(&stolen).await.unwrap_err().code, "session-unknown");

    // Another chip of the same maker in this one's name, with everything else as it should be.
    let mut impostor = CvmNode::start(guest(other, LINE, OTHER_CHIP, Some(DATA)), None).await;
    assert_eq!(impostor.refused(&mut domain.client()).await.0, "identity-unknown");
    let named = touchstone_evidence::message::Hello {
        identity: hello.identity.clone(),
        ..impostor.hello().await
    };
    let challenge = line.hello(&named).await.unwrap();
    let forged = impostor.evidence(&challenge, line.exporter(&challenge.nonce)).await;
    assert_eq!(line.submit(&forged).await.unwrap_err().code, "evidence-refused");

    // Reports that claim its chip, signed by a chip that is not it: two hundred times.
    impostor.tsm.change(|guest| guest.set(field::CHIP_ID, &[CHIP; 64]));
    for n in 0..200u8 {
        let challenge = line.hello(&named).await.unwrap();
        impostor.tsm.change(|guest| guest.set(field::MEASUREMENT, &[n; 48]));
        let forged = impostor.evidence(&challenge, line.exporter(&challenge.nonce)).await;
        let refused = line.submit(&forged).await.unwrap_err();
        assert_eq!(refused.code, "evidence-refused", "{n}");
    }
    assert_eq!(
        rights(&broker, "guest-1"),
        before_replay,
        "no right, no epoch, no statement"
    );
    assert_eq!(before_replay.status, before.status);
    assert_eq!(status(&broker, granted.contents().status), Some(Status::Valid));
    assert!(node.attest(&mut client).await.unwrap().allowed, "and it renews");
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hardware_speaks_for_itself_and_for_no_other_of_its_name() {
    let mut chips = platforms(LINE, &[CHIP, OTHER_CHIP]);
    let (second, first) = (chips.pop().unwrap(), chips.pop().unwrap());
    // One name, two machines: a spare, say.
    let domain = domain(&|repo| {
        cvm::stage_root(repo, &first);
        cvm::stage_reference(repo, "guest", LINE);
        swtpm_tests::domain::add_node(repo, "node-1", &Boot::GOOD).unwrap();
        cvm::stage_node(
            repo,
            "guest-1",
            &[listed(LINE, CHIP, Some(DATA)), listed(LINE, OTHER_CHIP, Some(DATA))],
            None,
        );
    });
    let broker = domain.broker().await;
    let mut one = CvmNode::start(guest(first, LINE, CHIP, Some(DATA)), None).await;
    let mut spare = CvmNode::start(guest(second, LINE, OTHER_CHIP, Some(DATA)), None).await;
    let mut client = domain.client();
    let granted = domain
        .check(&one.attest(&mut client).await.unwrap())
        .authorization
        .unwrap();
    let before = rights(&broker, "guest-1");

    // The spare says hello as the first: neither what is good nor what is bad about it counts for the first.
    let mut line = domain.line().await;
    let named = touchstone_evidence::message::Hello {
        identity: one.hello().await.identity,
        ..spare.hello().await
    };
    for measurement in [0x3E, 0x3F] {
        spare
            .tsm
            .change(|guest| guest.set(field::MEASUREMENT, &[measurement; 48]));
        let challenge = line.hello(&named).await.unwrap();
        let evidence = spare.evidence(&challenge, line.exporter(&challenge.nonce)).await;
        let refused = line.submit(&evidence).await.unwrap_err();
        assert_eq!(
            (refused.code.as_str(), &*refused.reasons),
            ("evidence-refused", &["cvm-not-named".to_owned()][..])
        );
        assert_eq!(rights(&broker, "guest-1"), before);
    }
    // As itself it fails without costing the first anything, and takes its place when it is good.
    assert!(!spare.attest(&mut client).await.unwrap().allowed);
    assert_eq!(status(&broker, granted.contents().status), Some(Status::Valid));
    spare
        .tsm
        .change(|guest| guest.set(field::MEASUREMENT, &cvm::MEASUREMENT));
    let taken = domain.check(&spare.attest(&mut client).await.unwrap());
    assert_ne!(
        taken.authorization.unwrap().contents().status,
        granted.contents().status
    );
    assert_eq!(
        status(&broker, granted.contents().status),
        Some(Status::Invalid),
        "identity-replaced"
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_on_the_same_chip_cannot_fail_a_node_that_names_no_guest() {
    let mut chips = platforms(LINE, &[CHIP]);
    let chip = chips.pop().unwrap();
    let folder = tempfile::tempdir().unwrap();
    chip.write(folder.path()).unwrap();
    let domain = domain(&|repo| {
        cvm::stage_root(repo, &chip);
        cvm::stage_reference(repo, "guest", LINE);
        swtpm_tests::domain::add_node(repo, "node-1", &Boot::GOOD).unwrap();
        cvm::stage_node(repo, "guest-1", &[listed(LINE, CHIP, None)], None);
    });
    let broker = domain.broker().await;
    let mut client = domain.client();
    let same_chip = Platform::read(folder.path()).unwrap();
    let mut node = CvmNode::start(guest(chip, LINE, CHIP, None), None).await;
    assert!(node.attest(&mut client).await.unwrap().allowed);
    let before = rights(&broker, "guest-1");
    let mut neighbour = CvmNode::start(guest(same_chip, LINE, CHIP, None), None).await;
    neighbour.tsm.change(|guest| guest.set(field::MEASUREMENT, &[0x3F; 48]));
    assert_eq!(neighbour.refused(&mut client).await.0, "evidence-refused");
    assert_eq!(rights(&broker, "guest-1"), before, "no right, no epoch, no statement");
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_floor_takes_rights_that_rest_on_less() {
    let (domain, chip, _) = domain_of_a_guest();
    let broker = domain.broker().await;
    let mut node = CvmNode::start(guest(chip, LINE, CHIP, Some(DATA)), None).await;
    let mut client = domain.client();
    let granted = domain
        .check(&node.attest(&mut client).await.unwrap())
        .authorization
        .unwrap();
    let place = granted.contents().status;

    // Component by component: one of them one higher, though the others are far lower.
    set(&domain, &["snp.floors.milan={ bl = 0, tee = 0, snp = 25, ucode = 0 }"]);
    domain.publish();
    eventually("the withdrawal", || status(&broker, place) == Some(Status::Invalid)).await;
    let denied = node.attest(&mut client).await.unwrap();
    assert!(
        codes(&denied).iter().any(|code| code.contains("tcb")),
        "{:?}",
        codes(&denied)
    );
    broker.shutdown().await.unwrap();
}

/// A domain of two machines that each have a TPM and a chip, where both roots are required.
fn domain_of_two_roots() -> (Domain, Platform, Platform) {
    let mut chips = platforms(LINE, &[CHIP, OTHER_CHIP]);
    let (other, chip) = (chips.pop().unwrap(), chips.pop().unwrap());
    let domain = domain(&|repo| {
        cvm::stage_root(repo, &chip);
        cvm::stage_reference(repo, "guest", LINE);
        cvm::stage_node(repo, "machine-1", &[listed(LINE, CHIP, None)], Some(&Boot::GOOD));
        cvm::stage_node(repo, "machine-2", &[listed(LINE, OTHER_CHIP, None)], Some(&Boot::UKI));
        let required = [Assignment::parse("roots.required=tpm+tee").unwrap()];
        unlocked(|| settings_set(repo, &required).map(|_| ())).unwrap();
    });
    (domain, chip, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_roots_of_one_machine_are_one_node() {
    let (domain, chip, _) = domain_of_two_roots();
    let broker = domain.broker().await;
    let mut node = CvmNode::start(guest(chip, LINE, CHIP, None), Some(&Boot::GOOD)).await;
    let mut client = domain.client();
    let answer = node.attest(&mut client).await.unwrap();
    assert_eq!(codes(&answer), [] as [&str; 0]);
    let first = domain.check(&answer);
    let granted = first.authorization.unwrap();
    assert_eq!(granted.contents().subject, "machine-1");
    assert_eq!(
        granted.contents().key_kind,
        KeyKind::Tpm,
        "the session key is in the TPM"
    );
    assert!(matches!(node.hello().await.identity, Identity::Known { .. }));
    let again = domain.check(&node.attest(&mut client).await.unwrap());
    let place = granted.contents().status;
    assert_eq!(again.authorization.unwrap().contents().status, place);

    // Each root alone is authentic, and not enough.
    node.tsm.change(|guest| guest.set(field::VMPL, &[1]));
    let denied = node.attest(&mut client).await.unwrap();
    assert!(
        codes(&denied).contains(&"snp-vmpl") && codes(&denied).contains(&"root-missing"),
        "{:?}",
        codes(&denied)
    );
    assert_eq!(status(&broker, place), Some(Status::Invalid));
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_required_and_does_not_come_is_missing() {
    let (domain, chip, _) = domain_of_two_roots();
    let broker = domain.broker().await;
    let mut client = domain.client();
    let mut tpm_alone = Node::start(&Boot::GOOD).await;
    let denied = tpm_alone.attest(&mut client).await.unwrap();
    assert!(codes(&denied).contains(&"root-missing"), "{:?}", codes(&denied));
    // The entry names the chip and no guest: who answers from it without the TPM may be anybody's guest.
    let mut guest_alone = CvmNode::start(guest(chip, LINE, CHIP, None), None).await;
    let before = rights(&broker, "machine-1");
    let (code, reasons) = guest_alone.refused(&mut client).await;
    assert_eq!(code, "evidence-refused");
    assert!(
        reasons.iter().any(|reason| reason.starts_with("root-missing")),
        "{reasons:?}"
    );
    assert_eq!(rights(&broker, "machine-1"), before);
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tpm_of_one_machine_and_the_report_of_another_are_no_machine() {
    let (domain, chip, other) = domain_of_two_roots();
    let broker = domain.broker().await;
    let mut client = domain.client();
    let mut good = CvmNode::start(guest(chip, LINE, CHIP, None), Some(&Boot::GOOD)).await;
    assert!(good.attest(&mut client).await.unwrap().allowed);
    let before = ["machine-1", "machine-2"].map(|name| rights(&broker, name).record);

    // Both roots are genuine, both carry the same binder, and each is listed: with another.
    let mut mixed = CvmNode::start(guest(other, LINE, OTHER_CHIP, None), Some(&Boot::GOOD)).await;
    let (code, reasons) = mixed.refused(&mut client).await;
    assert_eq!(code, "evidence-refused");
    assert!(
        reasons.iter().any(|reason| reason.starts_with("roots-not-together")),
        "{reasons:?}"
    );
    assert_eq!(
        ["machine-1", "machine-2"].map(|name| rights(&broker, name).record),
        before
    );
    assert!(good.attest(&mut client).await.unwrap().allowed);
    broker.shutdown().await.unwrap();
}

/// The codes for which a key was denied.
fn denied(outcome: Result<Fetched, ReleaseError>) -> Vec<String> {
    match outcome {
        Err(ReleaseError::Denied(reasons)) => reasons.into_iter().map(|reason| reason.code).collect(),
        Err(ReleaseError::Client(ClientError::Refused { code, .. })) => vec![code],
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_released_to_the_guests_memory_while_it_is_what_was_attested() {
    const SECRET: &str = "a disk key, 0123456789abcdef0123";
    let (domain, chip, other) = domain_of_a_guest();
    let file = domain.path("passphrase");
    touchstone_keybroker::key_files::write_new(&file, b"correct horse battery staple\n").unwrap();
    let domain = domain.with_config(&format!("[keys]\nkek = {{ passphrase_file = {file:?} }}\n"));
    let broker = domain.broker().await;
    let admin = domain.path("data").join(touchstone_keybroker::admin::SOCKET);
    let put = local::request(&admin, "POST", "/keys?name=db/guest&region=eu-1", SECRET.into()).await;
    assert_eq!(put.unwrap().0, 200);
    let mut node = CvmNode::start(guest(chip, LINE, CHIP, Some(DATA)), None).await;
    let mut client = domain.client();
    let granted = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let wanted = KeyWanted {
        key: "db/guest".into(),
        version: None,
        resource: "keys".into(),
    };
    let fetched = node.desk(&domain, granted.clone()).fetch(&wanted).await.unwrap();
    assert_eq!(fetched.key.secret.as_slice(), SECRET.as_bytes());

    // The authorization on another machine, whose keys it does not name.
    let thief = CvmNode::start(guest(other, LINE, OTHER_CHIP, Some(DATA)), None).await;
    let stolen = thief.desk(&domain, granted.clone()).fetch(&wanted).await;
    assert_eq!(denied(stolen), ["release-not-authenticated"], "a stolen authorization");
    assert!(
        node.desk(&domain, granted.clone()).fetch(&wanted).await.is_ok(),
        "and its owner still gets it"
    );

    // The guest shows something else: what it holds opens nothing any more.
    node.tsm.change(|guest| guest.set(field::MEASUREMENT, &[0x3F; 48]));
    assert!(!node.attest(&mut client).await.unwrap().allowed);
    let refused = node.desk(&domain, granted).fetch(&wanted).await;
    assert_eq!(denied(refused), ["authorization-revoked", "node-withdrawn"]);
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_runs_as_a_guest_from_its_configuration_file() {
    let (domain, chip, _) = domain_of_a_guest();
    let broker = domain.broker().await;
    let post = domain.guard("guard-1").await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let tsm = EmulatedTsm::start(&path("tsm"), guest(chip, LINE, CHIP, Some(DATA))).unwrap();
    let text = format!(
        "brokers = [\"https://{}\"]\ndomain = {:?}\npolicy = {:?}\npolicy_root = {:?}\nstate_dir = {:?}\nsocket = {:?}\n\
         [tee]\nsource = \"configfs\"\npath = {:?}\n[schedule]\ninterval_ms = 200\n",
        domain.address(),
        swtpm_tests::domain::NAME,
        domain.path("policy"),
        domain.path("root.json"),
        path("state"),
        path("agent.sock"),
        tsm.path(),
    );
    std::fs::write(path("agent.toml"), text).unwrap();
    let config = AgentConfig::load(&path("agent.toml")).unwrap();
    let (tell, mut events) = tokio::sync::mpsc::unbounded_channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(async move {
        let tell = move |event| drop(tell.send(event));
        agent::run(config, tell, async { drop(stopped.await) }).await
    });
    let mut next = async |wanted: fn(&AgentEvent) -> bool| {
        tokio::time::timeout(PATIENCE, async {
            loop {
                let event = events.recv().await.expect("the agent runs");
                if wanted(&event) {
                    return event;
                }
            }
        })
        .await
        .expect("an event in time")
    };

    let AgentEvent::Ready { ak_name } = next(|event| matches!(event, AgentEvent::Ready { .. })).await else {
        panic!()
    };
    assert_eq!(ak_name, listed(LINE, CHIP, None), "who it is: its platform");
    next(|event| matches!(event, AgentEvent::Granted { node, .. } if node == "guest-1")).await;
    // What was granted is held once the standing says so.
    next(|event| matches!(event, AgentEvent::Standing { standing } if standing.word() == "trusted")).await;
    post.reaches(broker.app().trust.epoch()).await;
    let challenge = post.challenge();
    let request = Request::Present {
        audience: "guard-1".into(),
        challenge: hex::encode(&challenge),
        action: ACTION.into(),
        resource: RESOURCE.into(),
    };
    let (authorization, proof) = match socket::ask(&path("agent.sock"), &request).await.unwrap() {
        Response::Presentation { authorization, proof } => (authorization, proof),
        other => panic!("{other:?}"),
    };
    let [authorization, proof] = [authorization, proof].map(|text| STANDARD.decode(text).unwrap());
    post.decide(&authorization, &proof, &challenge).unwrap();

    // What it shows from now on is not acceptable: it is told so, and holds nothing any more.
    tsm.change(|guest| guest.set(field::MEASUREMENT, &[0x3F; 48]));
    let refused = next(|event| matches!(event, AgentEvent::Refused { .. })).await;
    let AgentEvent::Refused { reasons, decided, .. } = refused else {
        panic!()
    };
    assert!(
        decided && reasons.iter().any(|reason| reason.contains("measurement")),
        "{reasons:?}"
    );
    assert_eq!(rights(&broker, "guest-1").status, Some(Status::Invalid));
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_chain_stands_only_as_long_as_its_root_is_trusted() {
    let (domain, chip, _) = domain_of_a_guest();
    let broker = domain.broker().await;
    let root = hex::encode(Sha256::digest(&chip.root));
    let mut node = CvmNode::start(guest(chip, LINE, CHIP, Some(DATA)), None).await;
    let mut client = domain.client();
    assert!(broker.app().chains.is_empty());
    let place = granted_place(&domain, &node.attest(&mut client).await.unwrap());
    assert_eq!(broker.app().chains.len(), 1);
    // Judged with the chain that is known, and replayed without it: the same bytes.
    node.attest(&mut client).await.unwrap();
    assert_eq!(broker.app().chains.len(), 1);
    let key = domain.key(Job::Statement);
    let record = DecisionRecord::latest(&*broker.app().store, "guest-1", &key).unwrap();
    assert!(record.replay(&broker.app().policy(), &key).unwrap().allowed());

    let repo = domain.path("policy");
    unlocked(|| policies::withdraw(&repo, &format!("anchors/snp/{root}.der"))).unwrap();
    domain.publish();
    eventually("the withdrawal", || status(&broker, place) == Some(Status::Invalid)).await;
    let (code, _) = node.refused(&mut client).await;
    assert_eq!(code, "evidence-refused", "a report that leads to no root is nobody's");
    broker.shutdown().await.unwrap();
}

fn granted_place(domain: &Domain, answer: &Answer) -> StatusIndex {
    domain.check(answer).authorization.unwrap().contents().status
}
