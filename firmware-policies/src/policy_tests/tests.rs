//! Tests of policies come out as they say, or the version is not published and not activated.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use touchstone_verifier::appraisal::Claims;

use super::*;
use crate::cedar::decision::Principal;
use crate::cedar::{Cedar, DEFAULT_SCHEMA};
use crate::testing::{NOW, TestRepo, boot_evidence, boot_file};

const GOOD: &str = r#"
    [[case]]
    name = "an affirmed node runs workloads"
    region = "north"
    action = "execute"
    resource = "workloads"
    status = "affirming"
    expect = "allow"

    [[case]]
    name = "another does not"
    region = "north"
    action = "execute"
    resource = "workloads"
    status = "warning"
    expect = "deny"
    reasons = ["denied-by-domain-policy"]
"#;

fn test(repo: &TestRepo, text: &str) -> Result<Vec<CaseResult>, PolicyError> {
    let kind = TargetKind::Test("basic".into());
    with(repo, &[(kind, text.as_bytes())])
}

fn with(repo: &TestRepo, more: &[(TargetKind, &[u8])]) -> Result<Vec<CaseResult>, PolicyError> {
    let mut files = published(repo);
    files.extend(more.iter().map(|(kind, bytes)| (kind.clone(), bytes.to_vec())));
    let contents = Contents::untested(&files, NOW).unwrap();
    run(&files, &contents)
}

fn published(repo: &TestRepo) -> Files {
    crate::repository::published(&repo.repo).unwrap().unwrap().files
}

/// What differs, what the case says, and what came.
type Difference<'a> = (&'static str, &'a str, &'a str);

fn differences(results: &[CaseResult]) -> Vec<Difference<'_>> {
    let mismatches = results.iter().flat_map(|result| &result.mismatches);
    mismatches
        .map(|m| (m.what, m.expected.as_str(), m.found.as_str()))
        .collect()
}

#[test]
fn cases_come_out_as_they_say() {
    let repo = TestRepo::published();
    let results = test(&repo, GOOD).unwrap();
    assert_eq!(results.len(), 2);
    assert!(results.iter().all(CaseResult::passed), "{results:?}");
}

#[test]
fn what_a_case_says_and_does_not_come_is_a_failure() {
    let repo = TestRepo::published();
    let rows: &[(&str, &str, &str, &[Difference<'_>])] = &[
        (
            "allowed and expected denied",
            "status = \"affirming\"\n    expect = \"allow\"",
            "status = \"affirming\"\n    expect = \"deny\"\n reasons = [\"denied-by-region-policy\"]",
            &[
                ("decision", "deny", "allow"),
                ("reasons", "denied-by-region-policy", "none"),
            ],
        ),
        (
            "denied and expected allowed",
            "expect = \"deny\"\n    reasons = [\"denied-by-domain-policy\"]",
            "expect = \"allow\"",
            &[
                ("decision", "allow", "deny"),
                ("reasons", "none", "denied-by-domain-policy"),
            ],
        ),
        (
            "denied for another reason",
            "\"denied-by-domain-policy\"",
            "\"denied-by-region-policy\"",
            &[("reasons", "denied-by-region-policy", "denied-by-domain-policy")],
        ),
        (
            "a reason that is expected and missing",
            "\"denied-by-domain-policy\"",
            "\"denied-by-domain-policy\", \"denied-by-region-policy\"",
            &[(
                "reasons",
                "denied-by-domain-policy, denied-by-region-policy",
                "denied-by-domain-policy",
            )],
        ),
        (
            "a policy that does not forbid",
            "reasons = [\"denied-by-domain-policy\"]",
            "reasons = [\"denied-by-domain-policy\"]\n forbidden_by = [\"closed\"]",
            &[("forbidden_by", "closed", "none")],
        ),
        (
            "a region without a policy",
            "region = \"north\"",
            "region = \"south\"",
            &[
                ("decision", "allow", "deny"),
                ("reasons", "none", "region-policy-missing"),
                (
                    "reasons",
                    "denied-by-domain-policy",
                    "denied-by-domain-policy, region-policy-missing",
                ),
            ],
        ),
    ];
    for (what, from, to, expected) in rows {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD, "{what}");
        assert_eq!(differences(&test(&repo, &text).unwrap()), *expected, "{what}");
    }
}

/// How often something was used is said of each right; what is named in `used` alone was used once.
#[test]
fn a_case_says_how_often_each_right_was_used() {
    let policy = r#"
        @id("all") permit (principal, action, resource);
        @id("often") forbid (principal, action, resource)
        unless { context.lineage.uses_of.hasTag("execute:scan") && context.lineage.uses_of.getTag("execute:scan") == 3
                 && context.lineage.uses_of_this == 1 && context.lineage.used.contains("execute:web")
                 && context.lineage.uses == 4 };
    "#;
    let cedar = Cedar::compile(DEFAULT_SCHEMA, policy, &BTreeMap::new()).unwrap();
    let case = |lineage: &str| {
        let text = format!(
            "[[case]]\nname = \"a\"\nask = \"domain\"\nprincipal = \"workload\"\nsubject = \"agent@node-1\"\nregion = \"north\"\n\
             action = \"execute\"\n\
             resource = \"web\"\nstatus = \"affirming\"\nexpect = \"allow\"\nlineage = {{ {lineage} }}\n"
        );
        let cases = file::parse("tests/a.toml", text.as_bytes(), None, &cedar).unwrap();
        cases[0].lineage.clone().unwrap()
    };
    let claims = Claims::new();
    for (lineage, allow) in [
        ("used = [\"execute:web\"], uses_of = { \"execute:scan\" = 3 }", true),
        ("uses_of = { \"execute:scan\" = 3, \"execute:web\" = 1 }", true),
        (
            "uses_of = { \"execute:scan\" = 3, \"execute:web\" = 1 }, uses = 5",
            false,
        ),
        ("uses_of = { \"execute:scan\" = 2, \"execute:web\" = 1 }", false),
        ("used = [\"execute:scan\", \"execute:web\"], uses = 4", false),
    ] {
        let lineage_facts = case(lineage);
        let request = Request {
            principal: Principal::Workload,
            lineage: Some(&lineage_facts),
            ..Request::of_node("a@b", "north", "execute", "web", &claims)
        };
        assert_eq!(cedar.decide_alone(None, &request).allow, allow, "{lineage}");
    }
}

#[test]
fn a_case_that_tests_nothing_is_refused() {
    let repo = TestRepo::published();
    let first = GOOD.split("[[case]]").nth(1).unwrap();
    let edit = |from: &str, to: &str| format!("[[case]]{}", first.replace(from, to));
    let many = "[[case]]".to_owned() + first;
    let many: String = (0..=MAX_CASES)
        .map(|i| many.replace("runs", &format!("runs {i}")))
        .collect();
    let rows = [
        ("no case", String::new()),
        ("no TOML", "case".into()),
        ("an unknown key", edit("region =", "regoin = \"a\"\nregion =")),
        ("an unknown key of the file", format!("about = \"a\"\n{GOOD}")),
        (
            "an unknown claim",
            edit("expect =", "claims = { secure_bot = true }\nexpect ="),
        ),
        (
            "a claim of another type",
            edit("expect =", "claims = { secure_boot = 1 }\nexpect ="),
        ),
        (
            "a claim that is a list of numbers",
            edit("expect =", "claims = { roots = [1] }\nexpect ="),
        ),
        ("a status of its own", edit("\"affirming\"", "\"affirmed\"")),
        ("no status", edit("status = \"affirming\"", "")),
        (
            "an attestation key tied otherwise",
            edit("expect =", "ak_binding = \"trusted\"\nexpect ="),
        ),
        ("no region", edit("region = \"north\"", "")),
        ("no expectation", edit("expect = \"allow\"", "")),
        ("another expectation", edit("\"allow\"", "\"maybe\"")),
        ("denied without a reason", edit("\"allow\"", "\"deny\"")),
        (
            "denied with an empty list of reasons",
            edit("\"allow\"", "\"deny\"\nreasons = []"),
        ),
        (
            "allowed with reasons",
            edit("\"allow\"", "\"allow\"\nreasons = [\"a\"]"),
        ),
        (
            "allowed and forbidden",
            edit("\"allow\"", "\"allow\"\nforbidden_by = [\"a\"]"),
        ),
        ("an unknown action", edit("\"execute\"", "\"fly\"")),
        ("a resource with a wildcard", edit("\"workloads\"", "\"*\"")),
        ("a time that is none", edit("expect =", "at = \"yesterday\"\nexpect =")),
        ("a nonce without evidence", edit("expect =", "nonce = \"00\"\nexpect =")),
        (
            "evidence that is not there",
            edit("status = \"affirming\"", "evidence = \"a\"\nnonce = \"00\""),
        ),
        (
            "the same name twice",
            GOOD.replace("another does not", "an affirmed node runs workloads"),
        ),
        ("evidence that no case names", format!("evidence.a = \"AAAA\"\n{GOOD}")),
        ("evidence that is no base64", format!("evidence.a = \"?\"\n{GOOD}")),
        ("too many", many),
        (
            "a principal of its own",
            edit("region =", "principal = \"robot\"\nregion ="),
        ),
        (
            "a right that was used no time",
            edit("expect =", "lineage = { uses_of = { \"execute:scan\" = 0 } }\nexpect ="),
        ),
        (
            "a number of uses of no right",
            edit("expect =", "lineage = { uses_of = { scan = 1 } }\nexpect ="),
        ),
        (
            "a name with a line break",
            edit("region =", "subject = \"a\\nb\"\nregion ="),
        ),
    ];
    for (what, text) in rows {
        let error = test(&repo, &text).expect_err(what);
        assert_eq!(error.code(), PolicyCode::TestUnreadable, "{what}: {error}");
        assert!(
            error.problems()[0].claim.starts_with("tests/basic.toml"),
            "{what}: {error}"
        );
    }
}

#[test]
fn evidence_is_appraised_under_the_repository_s_own_values() {
    let repo = TestRepo::published();
    let envelope = |boot: &str| STANDARD.encode(boot_evidence(boot));
    let nonce = String::from_utf8(boot_file("good", "quote-rsa/nonce.hex")).unwrap_or_default();
    let case = |name: &str, evidence: &str, rest: &str| {
        format!(
            "[[case]]\nname = \"{name}\"\nevidence = \"{evidence}\"\nnonce = \"{}\"\naction = \"execute\"\n\
             resource = \"workloads\"\nat = \"2027-01-01T00:00:00Z\"\n{rest}\n",
            nonce.trim()
        )
    };
    let good = format!(
        "[evidence]\ngood = \"{}\"\n{}",
        envelope("good"),
        case("the golden boot", "good", "expect = \"allow\"\nverdict = \"affirming\"")
    );
    let results = test(&repo, &good).unwrap();
    assert!(results.iter().all(CaseResult::passed), "{results:?}");
    let refused = good.replace("verdict = \"affirming\"", "verdict = \"warning\"");
    assert_eq!(
        differences(&test(&repo, &refused).unwrap()),
        [("verdict", "warning", "affirming")]
    );
    let another = good.replace(nonce.trim(), "00");
    let results = test(&repo, &another).unwrap();
    assert!(
        differences(&results).contains(&("decision", "allow", "deny")),
        "{results:?}"
    );
}

#[test]
fn a_version_whose_tests_fail_is_not_published_and_not_loaded() {
    let repo = TestRepo::published();
    let before = repo.load(NOW).unwrap().version;
    let file = repo.staged("tests/basic.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, GOOD.replace("\"warning\"", "\"affirming\"")).unwrap();
    let error = repo.publish(NOW).unwrap_err();
    assert_eq!(error.code(), PolicyCode::TestFailed, "{error}");
    assert_eq!(
        error.problems()[0].claim,
        "tests/basic.toml: another does not: decision"
    );
    assert_eq!(repo.load(NOW).unwrap().version, before);
    std::fs::write(&file, GOOD).unwrap();
    repo.publish(NOW).unwrap();
    assert_eq!(repo.load(NOW).unwrap().version, before + 1);
    // From now on the tests stand in the way of a policy that they do not hold for.
    let policy = repo.staged("policy.cedar");
    std::fs::write(&policy, "permit (principal, action, resource);").unwrap();
    assert_eq!(repo.publish(NOW).unwrap_err().code(), PolicyCode::TestFailed);
}

#[test]
fn what_is_loaded_is_tested_again() {
    // A publisher that runs no tests: the files as they would be loaded.
    let repo = TestRepo::published();
    let mut files = published(&repo);
    let text = GOOD.replace("\"warning\"", "\"affirming\"");
    files.insert(TargetKind::Test("basic".into()), text.into_bytes());
    assert_eq!(Contents::read(&files, NOW).unwrap_err().code(), PolicyCode::TestFailed);
    files.insert(TargetKind::Test("basic".into()), b"[[case]]".to_vec());
    assert_eq!(
        Contents::read(&files, NOW).unwrap_err().code(),
        PolicyCode::TestUnreadable
    );
}

#[test]
fn a_region_tests_its_own_policy_and_holds_nobody_up() {
    let repo = TestRepo::published();
    let kind = TargetKind::Region("north".into(), RegionTarget::Test("own".into()));
    let own = GOOD
        .replace("region = \"north\"", "")
        .replace("[\"denied-by-domain-policy\"]", "[\"denied-by-region-policy\"]");
    // The region's policy permits everything, so its own denial does not come.
    let results = with(&repo, &[(kind.clone(), own.as_bytes())]).unwrap();
    assert_eq!(differences(&results)[0], ("decision", "deny", "allow"));
    let allowed = own.split("[[case]]").nth(1).unwrap();
    let allowed = format!("[[case]]{allowed}");
    let closed: &[u8] = b"@id(\"closed\") forbid (principal, action, resource);";
    for (what, more) in [
        ("as it is", vec![]),
        ("the domain closes everything", vec![(TargetKind::GlobalPolicy, closed)]),
    ] {
        let mut more = more;
        more.push((kind.clone(), allowed.as_bytes()));
        let results = with(&repo, &more).unwrap();
        assert!(results.iter().all(CaseResult::passed), "{what}: {results:?}");
    }
    let rows = [
        (
            "another region",
            allowed.replace("action =", "region = \"south\"\naction ="),
        ),
        (
            "the domain's policy",
            allowed.replace("action =", "ask = \"domain\"\naction ="),
        ),
        ("everyone's", allowed.replace("action =", "ask = \"all\"\naction =")),
        (
            "evidence",
            format!(
                "evidence.a = \"AAAA\"\n{}",
                allowed.replace("status = \"affirming\"", "evidence = \"a\"\nnonce = \"00\"")
            ),
        ),
    ];
    for (what, text) in rows {
        let error = with(&repo, &[(kind.clone(), text.as_bytes())]).expect_err(what);
        assert_eq!(error.code(), PolicyCode::TestUnreadable, "{what}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_files_are_refused(text in "\\PC{0,200}", cut in 0usize..GOOD.len(), flip in any::<u8>()) {
        let cedar = crate::cedar::Cedar::compile(
            crate::cedar::DEFAULT_SCHEMA, crate::cedar::DEFAULT_POLICY, &Default::default()).unwrap();
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes[cut] ^= flip;
        for bytes in [text.as_bytes(), &GOOD.as_bytes()[..cut], &bytes] {
            // Whatever comes of it, it comes of it without a panic; what is read tests something.
            if let Ok(cases) = file::parse("tests/a.toml", bytes, None, &cedar) {
                prop_assert!(!cases.is_empty());
            }
        }
    }
}
