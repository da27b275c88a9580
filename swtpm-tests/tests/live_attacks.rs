//! Attacks with real TPMs on a running broker, one a row. Who cannot show that it is the node is refused and changes
//! nothing of it; a node that shows authentically that it is not as it should be loses its rights at once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use swtpm_tests::boots::{Boot, SHA1, SHA256};
use swtpm_tests::domain::{Domain, Rights, recorded, rights, status};
use swtpm_tests::line::{EVIDENCE, HELLO, Line, Refused};
use swtpm_tests::machine::{Certified, Machine, Plan, falsified, hello, record};
use swtpm_tests::odd_key::{OddKey, Oddity};
use touchstone_authorization::Status;
use touchstone_cose::cbor;
use touchstone_cose::key::SigningKey;
use touchstone_evidence::collection::Label;
use touchstone_evidence::message::{Answer, Challenge, Identity, LogBytes, Submission};
use touchstone_keybroker::service::RunningBroker;
use touchstone_ledger::statement::{Kind, Outcome, VerifiedStatement};
use touchstone_policies::Job;
use touchstone_verifier::tpm::attest::Attest;

/// Status, code, and the codes of an appraisal's reasons.
type Expected = (u16, &'static str, &'static [&'static str]);
/// Registers by bank.
type Banks = Vec<(u16, Vec<u8>)>;

const VICTIM: &str = "node-1";
const SESSION_UNKNOWN: Expected = (409, "session-unknown", &[]);
const OTHER_BINDER: Expected = (401, "evidence-refused", &["binder-mismatch"]);
const NOT_OPENED: Expected = (401, "evidence-refused", &["activation-wrong"]);
const NOT_SIGNED: Expected = (401, "evidence-refused", &["tpm-signature-invalid"]);
const MALFORMED: Expected = (400, "request-message-malformed", &[]);

/// A broker, an enrolled victim, an enrolled accomplice, a listed newcomer that has not enrolled, and a stranger.
struct Scene {
    domain: Domain,
    broker: RunningBroker,
    line: Line,
    victim: Machine,
    accomplice: Machine,
    newcomer: Machine,
    stranger: Machine,
    refused: u64,
}

impl Scene {
    async fn new() -> Self {
        let nodes = [
            (VICTIM, Boot::GOOD),
            ("node-2", Boot::CMDLINE_CHANGED),
            ("node-3", Boot::IMA_UNKNOWN_EXEC),
        ];
        let domain = Domain::with(&nodes, &[], &[("refusals_per_second", 1_000_000)]);
        let (broker, line) = (domain.broker().await, domain.line().await);
        let [victim, accomplice, newcomer, stranger] =
            [Boot::GOOD, Boot::CMDLINE_CHANGED, Boot::IMA_UNKNOWN_EXEC, Boot::UKI].map(|boot| Machine::start(&boot));
        let mut scene = Self {
            domain,
            broker,
            line,
            victim,
            accomplice,
            newcomer,
            stranger,
            refused: 0,
        };
        for machine in [&mut scene.victim, &mut scene.accomplice] {
            assert!(attest(&mut scene.line, machine, false).await.unwrap().allowed);
        }
        scene
    }

    fn rights(&self) -> [Rights; 3] {
        [VICTIM, "node-2", "node-3"].map(|node| rights(&self.broker, node))
    }

    /// A hello in the victim's name and what an agent would plan to answer.
    async fn challenge(&mut self) -> (Challenge, [u8; 32]) {
        let challenge = self.line.hello(&self.victim.hello(true)).await.unwrap();
        let exporter = self.line.exporter(&challenge.nonce);
        (challenge, exporter)
    }

    /// The victim's honest answer to a fresh challenge, not yet sent.
    async fn honest(&mut self) -> Submission {
        let (challenge, exporter) = self.challenge().await;
        self.victim.evidence(Plan::honest(&challenge, exporter))
    }

    /// One attack that must be refused before anything is decided, and must change nothing of anybody.
    async fn refused(
        &mut self,
        name: &str,
        expected: Expected,
        attack: impl AsyncFnOnce(&mut Self) -> Result<Answer, Refused>,
    ) {
        let before = self.rights();
        let refused = attack(self).await.expect_err(name);
        let found: Vec<&str> = refused.reasons.iter().map(String::as_str).collect();
        assert_eq!(
            (refused.status, refused.code.as_str(), found.as_slice()),
            expected,
            "{name}"
        );
        assert_eq!(self.rights(), before, "{name}: nothing of any node is touched");
        assert_eq!(
            before[0].status,
            Some(Status::Valid),
            "{name}: the victim had rights to lose"
        );
        self.refused += 1;
    }

    /// One authentic failure of the victim: recorded as a denial with this reason, and its rights are gone. Then it
    /// comes back with honest evidence.
    async fn withdrawn(&mut self, name: &str, reason: &str, attack: impl AsyncFnOnce(&mut Self) -> Submission) {
        let before = rights(&self.broker, VICTIM);
        let place = before.record.as_ref().unwrap().status;
        assert_eq!(before.status, Some(Status::Valid), "{name}");
        let submission = attack(self).await;
        let answer = self
            .line
            .submit(&submission)
            .await
            .unwrap_or_else(|refused| panic!("{name}: {refused:?}"));
        let codes: Vec<&str> = answer.reasons.iter().map(|reason| reason.code.as_str()).collect();
        assert!(!answer.allowed && answer.authorization.is_none(), "{name}");
        assert!(codes.contains(&reason), "{name}: {codes:?}");
        let statement = self.domain.check(&answer).statement;
        assert_eq!(
            (statement.kind, statement.outcome),
            (Kind::Attestation, Outcome::Deny),
            "{name}"
        );
        assert!(
            statement.reasons.iter().any(|recorded| recorded.code == reason),
            "{name}: on record"
        );
        let after = rights(&self.broker, VICTIM);
        assert!(after.epoch > before.epoch, "{name}: the epoch is raised");
        // The exact set that fell, and the denial that it fell by.
        assert_eq!(after.entries, before.entries + 2, "{name}");
        assert!(after.record.unwrap().withdrawn, "{name}");
        assert_eq!(status(&self.broker, place), Some(Status::Invalid), "{name}");

        let back = attest(&mut self.line, &mut self.victim, true).await.unwrap();
        assert!(back.allowed, "{name}: {:?}", back.reasons);
        assert_ne!(
            rights(&self.broker, VICTIM).record.unwrap().status,
            place,
            "{name}: a new place"
        );
        assert_eq!(
            status(&self.broker, place),
            Some(Status::Invalid),
            "{name}: the old one stays marked"
        );
    }
}

/// One honest round.
async fn attest(line: &mut Line, machine: &mut Machine, known: bool) -> Result<Answer, Refused> {
    let challenge = line.hello(&machine.hello(known)).await?;
    let submission = machine.evidence(Plan::honest(&challenge, line.exporter(&challenge.nonce)));
    line.submit(&submission).await
}

/// What the quote of a submission carries.
fn qualifying(submission: &Submission) -> [u8; 32] {
    let quote = record(submission, Label::TpmQuote);
    Attest::parse(&quote).unwrap().extra_data.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_replays_relays_or_impersonates_is_refused_and_changes_nothing() {
    let mut scene = Scene::new().await;
    let s = &mut scene;

    s.refused("a quote over another nonce", OTHER_BINDER, async |s| {
        let (challenge, exporter) = s.challenge().await;
        let plan = Plan {
            nonce: [7; 32],
            ..Plan::honest(&challenge, exporter)
        };
        s.line.submit(&s.victim.evidence(plan)).await
    })
    .await;
    s.refused("a quote for another session", OTHER_BINDER, async |s| {
        let (challenge, exporter) = s.challenge().await;
        let mut submission = s.victim.evidence(Plan {
            session_id: [7; 16],
            ..Plan::honest(&challenge, exporter)
        });
        submission.session_id = challenge.session_id;
        s.line.submit(&submission).await
    })
    .await;
    s.refused("a quote for another domain", OTHER_BINDER, async |s| {
        let (challenge, exporter) = s.challenge().await;
        let plan = Plan {
            domain: "other.example",
            ..Plan::honest(&challenge, exporter)
        };
        s.line.submit(&s.victim.evidence(plan)).await
    })
    .await;
    s.refused(
        "evidence relayed from another TLS connection",
        OTHER_BINDER,
        async |s| {
            let between = s.domain.line().await;
            let (challenge, _) = s.challenge().await;
            let plan = Plan::honest(&challenge, between.exporter(&challenge.nonce));
            s.line.submit(&s.victim.evidence(plan)).await
        },
    )
    .await;
    s.refused("a record altered on the way", OTHER_BINDER, async |s| {
        let (challenge, exporter) = s.challenge().await;
        let plan = Plan {
            certified: Certified::Own,
            ..Plan::honest(&challenge, exporter)
        };
        let honest = s.victim.evidence(plan);
        let certificate = s.accomplice.ek.certificate().unwrap().to_vec();
        let submission = falsified(&honest, &[(Label::TpmEkCertificate, Some(certificate))]);
        // The certificate is another key's, too; what counts is that nothing of it is believed.
        s.line.submit(&submission).await.map_err(|mut refused| {
            refused.reasons.retain(|code| code == "binder-mismatch");
            refused
        })
    })
    .await;
    let submission = s.honest().await;
    s.refused("a session taken to another connection", SESSION_UNKNOWN, async |s| {
        s.domain.line().await.submit(&submission).await
    })
    .await;
    assert!(
        s.line.submit(&submission).await.unwrap().allowed,
        "and it was not used up by that"
    );
    scene.shutdown_after_counting().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_is_good_for_one_try() {
    let mut scene = Scene::new().await;
    let used = scene.honest().await;
    assert!(scene.line.submit(&used).await.unwrap().allowed);
    let s = &mut scene;
    s.refused("replayed on the same connection", SESSION_UNKNOWN, async |s| {
        s.line.submit(&used).await
    })
    .await;
    s.refused("replayed on another connection", SESSION_UNKNOWN, async |s| {
        s.domain.line().await.submit(&used).await
    })
    .await;
    s.refused("replayed in a new session", OTHER_BINDER, async |s| {
        let (challenge, _) = s.challenge().await;
        s.line
            .submit(&Submission {
                session_id: challenge.session_id,
                ..used.clone()
            })
            .await
    })
    .await;
    s.refused(
        "replayed in a new session of another connection",
        OTHER_BINDER,
        async |s| {
            let mut line = s.domain.line().await;
            let challenge = line.hello(&s.victim.hello(true)).await?;
            line.submit(&Submission {
                session_id: challenge.session_id,
                ..used.clone()
            })
            .await
        },
    )
    .await;
    s.refused("a second try after a refused one", SESSION_UNKNOWN, async |s| {
        let (challenge, exporter) = s.challenge().await;
        let forged = s.victim.evidence(Plan {
            nonce: [1; 32],
            ..Plan::honest(&challenge, exporter)
        });
        assert_eq!(s.line.submit(&forged).await.unwrap_err().code, "evidence-refused");
        s.refused += 1;
        let honest = s.victim.evidence(Plan::honest(&challenge, exporter));
        s.line.submit(&honest).await
    })
    .await;
    s.refused("a session that never was", SESSION_UNKNOWN, async |s| {
        let honest = s.honest().await;
        s.line
            .submit(&Submission {
                session_id: [9; 16],
                ..honest
            })
            .await
    })
    .await;
    scene.shutdown_after_counting().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tpm_is_not_the_node() {
    let mut scene = Scene::new().await;
    let s = &mut scene;
    let not_enrolled: Expected = (401, "evidence-refused", &["ak-not-enrolled"]);
    s.refused(
        "a quote by another enrolled TPM, with its own keys",
        not_enrolled,
        async |s| {
            let challenge = s
                .line
                .hello(&hello(s.victim.identity(true), &s.accomplice.session_key()))
                .await?;
            let plan = Plan::honest(&challenge, s.line.exporter(&challenge.nonce));
            let submission = s.accomplice.evidence(plan);
            s.line.submit(&submission).await
        },
    )
    .await;
    let forged: Expected = (401, "evidence-refused", &["tpm-signature-invalid"]);
    s.refused(
        "a quote by another TPM under the victim's public keys",
        forged,
        async |s| {
            let challenge = s
                .line
                .hello(&hello(s.victim.identity(true), &s.accomplice.session_key()))
                .await?;
            let plan = Plan::honest(&challenge, s.line.exporter(&challenge.nonce));
            let theirs = s.accomplice.evidence(plan);
            let keys = [
                (Label::TpmEkCertificate, s.victim.ek.certificate().map(<[u8]>::to_vec)),
                (Label::TpmEkPublic, Some(s.victim.ek.public().to_vec())),
                (Label::TpmAkPublic, Some(s.victim.ak.public().to_vec())),
            ];
            s.line.submit(&falsified(&theirs, &keys)).await
        },
    )
    .await;
    s.refused(
        "an attestation key of another TPM than the endorsement key",
        NOT_OPENED,
        async |s| {
            let identity = Identity::Full {
                ek_certificate: s.newcomer.ek.certificate().map(<[u8]>::to_vec),
                ek_public: s.newcomer.ek.public().to_vec(),
                ak_public: s.stranger.ak.public().to_vec(),
            };
            let challenge = s.line.hello(&hello(identity, &s.stranger.session_key())).await?;
            assert!(challenge.credential.is_some());
            let plan = Plan::honest(&challenge, s.line.exporter(&challenge.nonce));
            s.line.submit(&s.stranger.evidence(plan)).await
        },
    )
    .await;
    let conflict: Expected = (409, "enrolment-conflict", &[]);
    s.refused("an attestation key that is tied to another name", conflict, async |s| {
        let identity = Identity::Full {
            ek_certificate: None,
            ek_public: s.newcomer.ek.public().to_vec(),
            ak_public: s.accomplice.ak.public().to_vec(),
        };
        s.line
            .hello(&hello(identity, &s.accomplice.session_key()))
            .await
            .map(|_| unreachable!())
    })
    .await;
    for (name, answer) in [
        ("a wrong answer to the credential", Some([7; 32])),
        ("no answer to the credential", None),
    ] {
        s.refused(name, NOT_OPENED, async |s| {
            let challenge = s.line.hello(&s.newcomer.hello(false)).await?;
            let plan = Plan::honest(&challenge, s.line.exporter(&challenge.nonce));
            let honest = s.newcomer.evidence(plan);
            s.line
                .submit(&Submission {
                    activation: answer,
                    ..honest
                })
                .await
        })
        .await;
    }
    s.refused("the credential of another session", NOT_OPENED, async |s| {
        let earlier = s.line.hello(&s.newcomer.hello(false)).await?;
        let challenge = s.line.hello(&s.newcomer.hello(false)).await?;
        let exporter = s.line.exporter(&challenge.nonce);
        let plan = Plan {
            credential: earlier.credential,
            ..Plan::honest(&challenge, exporter)
        };
        s.line.submit(&s.newcomer.evidence(plan)).await
    })
    .await;
    s.refused(
        "the right answer beside a quote over another nonce",
        NOT_OPENED,
        async |s| {
            let challenge = s.line.hello(&s.newcomer.hello(false)).await?;
            let exporter = s.line.exporter(&challenge.nonce);
            let honest = s.newcomer.evidence(Plan::honest(&challenge, exporter));
            let other = s.newcomer.evidence(Plan {
                nonce: [7; 32],
                ..Plan::honest(&challenge, exporter)
            });
            s.line
                .submit(&Submission {
                    activation: other.activation,
                    ..honest
                })
                .await
        },
    )
    .await;
    let unknown: Expected = (401, "identity-unknown", &[]);
    s.refused("a machine nobody listed", unknown, async |s| {
        s.line.hello(&s.stranger.hello(false)).await.map(|_| unreachable!())
    })
    .await;
    s.refused("a listed machine by its Name before it enrolled", unknown, async |s| {
        s.line.hello(&s.newcomer.hello(true)).await.map(|_| unreachable!())
    })
    .await;
    // After all that the newcomer enrols as if nothing had been.
    assert!(attest(&mut s.line, &mut s.newcomer, false).await.unwrap().allowed);
    scene.shutdown_after_counting().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_with_unfit_keys_is_refused() {
    let mut scene = Scene::new().await;
    // Attribute bits of TPMT_PUBLIC (part 2, 8.3.2), which follow type and nameAlg.
    const ATTRIBUTES: usize = 4;
    let with_bits = |public: &[u8], clear: u32, set: u32| {
        let mut public = public.to_vec();
        let bits = u32::from_be_bytes(public[ATTRIBUTES..ATTRIBUTES + 4].try_into().unwrap());
        public[ATTRIBUTES..ATTRIBUTES + 4].copy_from_slice(&(bits & !clear | set).to_be_bytes());
        public
    };
    let rows: [(&str, u32, u32); 6] = [
        ("unrestricted", 1 << 16, 0),
        ("not fixedTPM", 1 << 1, 0),
        ("not fixedParent", 1 << 4, 0),
        ("not made in the TPM", 1 << 5, 0),
        ("not signing", 1 << 18, 0),
        ("decrypting too", 0, 1 << 17),
    ];
    let unfit: Expected = (400, "identity-malformed", &[]);
    for (name, clear, set) in rows {
        scene
            .refused(&format!("an attestation key that is {name}"), unfit, async |s| {
                let mut hello = s.newcomer.hello(false);
                if let Identity::Full { ak_public, .. } = &mut hello.identity {
                    *ak_public = with_bits(ak_public, clear, set);
                }
                s.line.hello(&hello).await.map(|_| unreachable!())
            })
            .await;
    }
    let s = &mut scene;
    s.refused("an attestation key in the endorsement key's place", unfit, async |s| {
        let mut hello = s.newcomer.hello(false);
        if let Identity::Full {
            ek_public, ak_public, ..
        } = &mut hello.identity
        {
            *ek_public = ak_public.clone();
        }
        s.line.hello(&hello).await.map(|_| unreachable!())
    })
    .await;
    s.refused("a session key that is no TPM's", unfit, async |s| {
        let mut hello = s.newcomer.hello(false);
        let software = SigningKey::from_seed([7; 32]).verifying_key();
        hello.session_key = cbor::encode(&software.to_cose_key(true));
        s.line.hello(&hello).await.map(|_| unreachable!())
    })
    .await;
    s.refused("a session key that is no key", unfit, async |s| {
        let mut hello = s.newcomer.hello(false);
        hello.session_key = vec![0xA0];
        s.line.hello(&hello).await.map(|_| unreachable!())
    })
    .await;
    s.refused(
        "another kind of evidence",
        (400, "request-kind-unsupported", &[]),
        async |s| {
            let mut hello = s.newcomer.hello(false);
            hello.kinds = vec!["cca".into()];
            s.line.hello(&hello).await.map(|_| unreachable!())
        },
    )
    .await;
    s.refused("another protocol", MALFORMED, async |s| {
        let mut hello = s.newcomer.hello(false);
        hello.protocol = "touchstone/0".into();
        s.line.hello(&hello).await.map(|_| unreachable!())
    })
    .await;
    scene.shutdown_after_counting().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_evidence_for_a_session_is_refused() {
    let mut scene = Scene::new().await;
    let s = &mut scene;
    let unreadable: Expected = (422, "evidence-not-accepted", &[]);
    s.refused("packed evidence", unreadable, async |s| {
        let (challenge, _) = s.challenge().await;
        let packed = recorded(&Boot::GOOD);
        s.line
            .submit(&Submission {
                session_id: challenge.session_id,
                collection: packed,
                activation: None,
                offsets: LogBytes::new(),
            })
            .await
    })
    .await;
    let rows = [
        ("an empty collection", vec![], MALFORMED),
        ("a collection of junk", vec![0x5A; 512], unreadable),
        ("a collection of nothing", vec![0xA0], unreadable),
    ];
    for (name, bytes, expected) in rows {
        s.refused(name, expected, async |s| {
            let (challenge, _) = s.challenge().await;
            s.line
                .submit(&Submission {
                    session_id: challenge.session_id,
                    collection: bytes,
                    activation: None,
                    offsets: LogBytes::new(),
                })
                .await
        })
        .await;
    }
    s.refused("an empty record", unreadable, async |s| {
        let honest = s.honest().await;
        s.line
            .submit(&falsified(&honest, &[(Label::FirmwareEventLog, Some(vec![]))]))
            .await
    })
    .await;
    for label in [Label::TpmQuote, Label::TpmQuoteSignature] {
        let missing: Expected = (401, "evidence-refused", &["record-missing"]);
        s.refused(&format!("no {}", label.as_str()), missing, async |s| {
            let honest = s.honest().await;
            s.line.submit(&falsified(&honest, &[(label, None)])).await
        })
        .await;
    }
    let rows = [
        ("TPMS_ATTEST with another magic", 0),
        ("TPMS_ATTEST of another type", 5),
        ("TPMS_ATTEST with other registers", 90),
    ];
    for (name, byte) in rows {
        s.refused(name, NOT_SIGNED, async |s| {
            let honest = s.honest().await;
            let mut quote = record(&honest, Label::TpmQuote);
            quote[byte] ^= 1;
            s.line
                .submit(&falsified(&honest, &[(Label::TpmQuote, Some(quote))]))
                .await
        })
        .await;
    }
    s.refused(
        "a certification in the quote's place",
        (401, "evidence-refused", &["tpm-attest-type"]),
        async |s| {
            let honest = s.honest().await;
            let made = s
                .victim
                .tpm
                .certify(&s.victim.session, &s.victim.ak, &qualifying(&honest))
                .unwrap();
            let swapped = [
                (Label::TpmQuote, Some(made.attested)),
                (Label::TpmQuoteSignature, Some(made.signature)),
            ];
            s.line.submit(&falsified(&honest, &swapped)).await
        },
    )
    .await;
    scene.shutdown_after_counting().await;
}

/// This body is no message, and costs nobody anything.
async fn refused_as_malformed(scene: &mut Scene, path: &str, body: &[u8]) {
    let name = format!("{path}, {} bytes", body.len());
    scene
        .refused(&name, MALFORMED, async |s| {
            s.line.post(path, body.to_vec()).await.map(|_| unreachable!())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_large_garbage_or_cut_off_are_refused() {
    let mut scene = Scene::new().await;
    let limits = scene.broker.app().limits;
    let too_large: Expected = (413, "request-body-too-large", &[]);
    let rows: Vec<(&str, &str, Vec<u8>, Expected)> = vec![
        ("an oversized hello", HELLO, vec![0; limits.hello_bytes + 1], too_large),
        (
            "oversized evidence",
            EVIDENCE,
            vec![0; limits.evidence_bytes + 1],
            too_large,
        ),
        (
            "a hello of the largest size",
            HELLO,
            vec![0; limits.hello_bytes],
            MALFORMED,
        ),
        ("no hello at all", HELLO, vec![], MALFORMED),
        ("no evidence at all", EVIDENCE, vec![], MALFORMED),
        ("text", HELLO, b"hello".to_vec(), MALFORMED),
        ("ten thousand open arrays", EVIDENCE, vec![0x81; 10_000], MALFORMED),
        (
            "a map of four billion members",
            EVIDENCE,
            vec![0xBA, 0xFF, 0xFF, 0xFF, 0xFF],
            MALFORMED,
        ),
        (
            "a string longer than everything",
            HELLO,
            vec![0x5B, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
            MALFORMED,
        ),
    ];
    for (name, path, body, expected) in rows {
        scene
            .refused(name, expected, async |s| {
                s.domain.line().await.post(path, body).await.map(|_| unreachable!())
            })
            .await;
    }
    let wrong_type: Expected = (415, "request-content-type", &[]);
    scene
        .refused("a hello as JSON", wrong_type, async |s| {
            let body = s.victim.hello(true).encode();
            s.line
                .post_as(HELLO, "application/json", body)
                .await
                .map(|_| unreachable!())
        })
        .await;

    // Every cut of the hello, and so many of the evidence that each kind of member is cut somewhere.
    let hello = scene.victim.hello(false).encode();
    for cut in (0..hello.len()).map(|at| &hello[..at]) {
        refused_as_malformed(&mut scene, HELLO, cut).await;
    }
    refused_as_malformed(&mut scene, HELLO, &[hello.as_slice(), &[0]].concat()).await;
    let session = std::time::Duration::from_millis(limits.session_ms);
    let mut step = 251;
    loop {
        let begun = std::time::Instant::now();
        let evidence = scene.honest().await.encode();
        for at in (0..evidence.len()).step_by(step) {
            refused_as_malformed(&mut scene, EVIDENCE, &evidence[..at]).await;
        }
        refused_as_malformed(&mut scene, EVIDENCE, &[evidence.as_slice(), &[0]].concat()).await;
        // None of them used up the session they named. Where it is over by itself on a machine so slow, fewer are sent in another.
        if begun.elapsed() < session / 2 {
            let whole = Submission::decode(&evidence).unwrap();
            assert!(scene.line.submit(&whole).await.unwrap().allowed);
            break;
        }
        step *= 2;
    }
    scene.shutdown_after_counting().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_key_that_could_be_elsewhere_or_used_otherwise_costs_the_node_its_rights() {
    let mut scene = Scene::new().await;
    let odd = async |s: &mut Scene, oddity: Oddity| {
        let mut key = OddKey::make(&s.victim.swtpm.tcti(), oddity, s.victim.session_policy());
        let challenge = s.line.hello(&hello(s.victim.identity(true), &key.key())).await.unwrap();
        let exporter = s.line.exporter(&challenge.nonce);
        let plan = Plan {
            certified: Certified::Odd(&mut key),
            ..Plan::honest(&challenge, exporter)
        };
        s.victim.evidence(plan)
    };
    let s = &mut scene;
    // First the key of the same making without any oddity: what follows is refused for the oddity alone.
    let plain = odd(s, Oddity::None).await;
    assert!(s.line.submit(&plain).await.unwrap().allowed);
    for (name, oddity, reason) in [
        (
            "a session key that is not fixedTPM",
            Oddity::NotFixed,
            "session-key-attributes",
        ),
        (
            "a session key with userWithAuth",
            Oddity::UserWithAuth,
            "session-key-attributes",
        ),
        (
            "a session key with another policy",
            Oddity::OtherPolicy,
            "session-key-policy",
        ),
    ] {
        s.withdrawn(name, reason, async |s| odd(s, oddity).await).await;
    }
    s.withdrawn("a certification of another key", "tpm-certify-name", async |s| {
        let honest = odd(s, Oddity::None).await;
        let over = qualifying(&honest);
        let made = s.victim.tpm.certify(&s.victim.session, &s.victim.ak, &over).unwrap();
        let swapped = [
            (Label::TpmSessionKeyCertify, Some(made.attested)),
            (Label::TpmSessionKeyCertifySignature, Some(made.signature)),
        ];
        falsified(&honest, &swapped)
    })
    .await;
    s.withdrawn("another key than the hello names", "session-key-mismatch", async |s| {
        let named = SigningKeyOf::new();
        let challenge = s.line.hello(&hello(s.victim.identity(true), &named.0)).await.unwrap();
        let exporter = s.line.exporter(&challenge.nonce);
        s.victim.evidence(Plan {
            named: Some(named.0.thumbprint()),
            ..Plan::honest(&challenge, exporter)
        })
    })
    .await;
    s.withdrawn(
        "a certification over an old nonce",
        "session-key-nonce-mismatch",
        async |s| {
            let (challenge, exporter) = s.challenge().await;
            let old = qualifying(&s.victim.evidence(Plan {
                nonce: [7; 32],
                ..Plan::honest(&challenge, exporter)
            }));
            let plan = Plan::honest(&challenge, exporter);
            s.victim.evidence(Plan {
                certified: Certified::Own,
                certify_over: Some(old),
                ..plan
            })
        },
    )
    .await;
    s.withdrawn(
        "a new session key without certification",
        "session-key-missing",
        async |s| {
            s.victim.renew_session_key();
            let (challenge, exporter) = s.challenge().await;
            assert!(!challenge.session_key_known);
            s.victim.evidence(Plan {
                certified: Certified::Known,
                ..Plan::honest(&challenge, exporter)
            })
        },
    )
    .await;
    s.withdrawn("a session key of the boot before", "session-key-stale", async |s| {
        s.victim.swtpm.reboot(&Boot::GOOD).unwrap();
        let (challenge, exporter) = s.challenge().await;
        assert!(challenge.session_key_known, "by its thumbprint");
        let stale = s.victim.evidence(Plan::honest(&challenge, exporter));
        s.victim.renew_session_key();
        stale
    })
    .await;
    scene.shutdown_after_counting().await;
}

/// A P-256 key that no TPM has.
struct SigningKeyOf(touchstone_cose::key::VerifyingKey);

impl SigningKeyOf {
    fn new() -> Self {
        let stranger = Machine::start(&Boot::UKI);
        Self(stranger.session_key())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_registers_than_were_asked_for_and_logs_that_do_not_fit_cost_the_node_its_rights() {
    let mut scene = Scene::new().await;
    let asked = vec![0, 2, 3, 4, 7, 8, 9, 11, 14];
    let selections: [(&str, Banks); 6] = [
        ("fewer registers", vec![(SHA256, asked[1..].to_vec())]),
        ("more registers", vec![(SHA256, [asked.as_slice(), &[1]].concat())]),
        (
            "a resettable register in place of one",
            vec![(SHA256, [&asked[..8], &[23]].concat())],
        ),
        ("another bank", vec![(SHA1, asked.clone())]),
        ("a second bank", vec![(SHA256, asked.clone()), (SHA1, asked.clone())]),
        (
            "a second bank in front",
            vec![(SHA1, asked.clone()), (SHA256, asked.clone())],
        ),
    ];
    for (name, selection) in selections {
        scene
            .withdrawn(name, "pcr-selection-mismatch", async |s| {
                let (challenge, exporter) = s.challenge().await;
                assert_eq!(challenge.selection, [(SHA256, vec![0, 2, 3, 4, 7, 8, 9, 11, 14])]);
                s.victim.evidence(Plan {
                    selection,
                    ..Plan::honest(&challenge, exporter)
                })
            })
            .await;
    }
    let log = Boot::GOOD.event_log();
    let logs: [(&str, Option<Vec<u8>>, &str); 4] = [
        ("no log", None, "event-log-missing"),
        (
            "a log cut in an event",
            Some(log[..log.len() - 1].to_vec()),
            "log-unreadable",
        ),
        (
            "a log of another boot",
            Some(Boot::CMDLINE_CHANGED.event_log()),
            "log-does-not-replay",
        ),
        ("junk for a log", Some(vec![0xFF; 4096]), "log-unreadable"),
    ];
    for (name, log, reason) in logs {
        scene
            .withdrawn(name, reason, async |s| {
                let honest = s.honest().await;
                match log {
                    // A log that is not announced is not in the manifest.
                    None => {
                        let (challenge, exporter) = s.challenge().await;
                        let kept = s.victim.log.take();
                        let bare = s.victim.evidence(Plan::honest(&challenge, exporter));
                        s.victim.log = kept;
                        bare
                    }
                    Some(log) => falsified(&honest, &[(Label::FirmwareEventLog, Some(log))]),
                }
            })
            .await;
    }
    scene.shutdown_after_counting().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_whose_state_was_rolled_back_is_noticed() {
    let mut scene = Scene::new().await;
    scene.victim.swtpm.reboot(&Boot::GOOD).unwrap();
    scene.victim.renew_session_key();
    assert!(attest(&mut scene.line, &mut scene.victim, true).await.unwrap().allowed);
    let mut old = Machine::start(&Boot::GOOD);
    std::mem::swap(&mut scene.victim, &mut old);
    scene
        .withdrawn(
            "a TPM with the state of before its last reset",
            "clock-went-back",
            async |s| {
                let rolled_back = s.honest().await;
                std::mem::swap(&mut s.victim, &mut old);
                rolled_back
            },
        )
        .await;
    scene.shutdown_after_counting().await;
}

impl Scene {
    /// Stops the broker in order: all that was refused is in one summary, and the count is right.
    async fn shutdown_after_counting(self) {
        let key = self.domain.key(Job::Statement);
        self.broker.shutdown().await.unwrap();
        let broker = self.domain.broker().await;
        let store = &broker.app().store;
        let entries = touchstone_keybroker::log::entries(&**store, 0, 4096).unwrap();
        let statements = entries
            .iter()
            .map(|entry| VerifiedStatement::parse(entry, &key).unwrap().into_statement());
        let counted: u64 = statements
            .filter(|statement| statement.kind == Kind::RefusalSummary)
            .flat_map(|summary| summary.body.get(2).unwrap().as_array().unwrap().to_vec())
            .map(|row| row.as_array().unwrap()[2].as_u64().unwrap())
            .sum();
        assert_eq!(counted, self.refused, "refusals on record");
        broker.shutdown().await.unwrap();
    }
}
