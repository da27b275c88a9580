//! Signers on machines of their own: a proposal, the root, their key, and nothing else.

use std::path::{Path, PathBuf};

use super::*;
use crate::author::init::{InitOptions, init_with};
use crate::error::PolicyCode;
use crate::keys::KeyDir;
use crate::layout::TargetKind;
use crate::publish::{PublishOptions, PublishedVersion, publish, publish_with};
use crate::repository::Repository;
use crate::testing::{DAY, DOMAIN, NOW};
use crate::{LoadOptions, PolicyError, PolicySet, load_blocking};

/// A domain whose root and targets are signed by two of three; version 1 is published, by all keys in one folder.
struct Domain {
    dir: tempfile::TempDir,
    repo: PathBuf,
    keys: PathBuf,
    root: Vec<u8>,
}

const ONLINE: [&str; 3] = ["snapshot-1", "timestamp-1", "reference-1"];

impl Domain {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (repo, keys) = (dir.path().join("repo"), dir.path().join("keys"));
        let options = InitOptions {
            threshold: 2,
            signers: 3,
            ..InitOptions::new(DOMAIN)
        };
        init_with(&repo, &KeyDir::new(&keys), &options, NOW).unwrap();
        publish(&repo, &keys, NOW).unwrap();
        let root = std::fs::read(repo.join("metadata/1.root.json")).unwrap();
        Self { dir, repo, keys, root }
    }

    /// A folder with these keys only: a machine.
    fn machine(&self, name: &str, keys: &[&str]) -> KeyDir {
        let folder = self.dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for key in keys {
            std::fs::copy(self.keys.join(format!("{key}.pem")), folder.join(format!("{key}.pem"))).unwrap();
        }
        KeyDir::new(folder)
    }

    fn stage(&self, target: &str, text: &str) {
        let kind = TargetKind::of(target).unwrap();
        Repository::open(&self.repo)
            .unwrap()
            .stage(&kind, text.as_bytes())
            .unwrap();
    }

    /// Stages another policy for the whole.
    fn stage_policy(&self, comment: &str) {
        self.stage(
            "policy.cedar",
            &format!("// {comment}\npermit (principal, action, resource);\n"),
        );
    }

    fn propose(&self, name: &str, scope: &Scope) -> Result<PathBuf, PolicyError> {
        let out = self.dir.path().join(name);
        propose(&self.repo, None, scope, &out, NOW).map(|proposed| proposed.folder)
    }

    fn sign(&self, proposal: &Path, keys: &KeyDir) -> Result<PathBuf, PolicyError> {
        let out = keys
            .path()
            .join(format!("{}.sig", proposal.file_name().unwrap().display()));
        sign(proposal, &self.root, keys, None, &out, NOW).map(|signed| signed.file)
    }

    fn publish(&self, proposal: &Path, signatures: &[&PathBuf]) -> Result<PublishedVersion, PolicyError> {
        let options = PublishOptions {
            proposal: Some(proposal.to_owned()),
            signatures: signatures.iter().map(|path| (*path).clone()).collect(),
            scope: Scope::All,
        };
        publish_with(&self.repo, &self.machine("online", &ONLINE), &options, NOW)
    }

    fn load(&self) -> Result<PolicySet, PolicyError> {
        let options = LoadOptions {
            root: Some(self.root.clone()),
            ..LoadOptions::default()
        };
        load_blocking(self.repo.as_path(), options, NOW)
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, PolicyError>) -> PolicyCode {
    result.unwrap_err().code()
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn two_of_three_signers_on_machines_of_their_own_make_a_version() {
    let domain = Domain::new();
    domain.stage_policy("second");
    let proposal = domain.propose("p", &Scope::All).unwrap();
    assert_eq!(domain.load().unwrap().version, 1, "a proposal changes nothing");
    let mut files = Vec::new();
    for n in [1, 3] {
        // Each has a copy of the proposal and no way to the repository.
        let machine = domain.machine(&format!("signer-{n}"), &[&format!("targets-{n}")]);
        let own = machine.path().join("p");
        copy(&proposal, &own);
        let review = review(&own, &domain.root, NOW).unwrap();
        assert_eq!((review.domain.as_str(), review.follows), (DOMAIN, 1));
        let roles: Vec<_> = review
            .roles
            .iter()
            .map(|r| (r.role.as_str(), r.version, r.threshold, r.keys))
            .collect();
        assert_eq!(roles, [("targets", 2, 2, 3)]);
        let targets: Vec<_> = review.targets.iter().map(|t| (t.target.as_str(), t.change)).collect();
        assert_eq!(targets, [("policy.cedar", crate::show::Change::Changed)]);
        assert_eq!(review.keys, []);
        let out = machine.path().join("signature");
        let signed = sign(&own, &domain.root, &machine, Some(&review.digest), &out, NOW).unwrap();
        assert_eq!(signed.signed, [("targets".to_owned(), format!("targets-{n}"))]);
        files.push(out);
    }
    // What is staged meanwhile is not what was signed.
    domain.stage_policy("third");
    let published = domain.publish(&proposal, &[&files[0], &files[1]]).unwrap();
    assert_eq!(
        published.signed,
        [("targets".into(), vec!["targets-1".into(), "targets-3".into()])]
    );
    let policy = domain.load().unwrap();
    assert_eq!((policy.version, policy.versions.targets), (2, 2));
    // Signed with the one folder that has all keys, the next version is what is staged.
    assert_eq!(publish(&domain.repo, &domain.keys, NOW).unwrap().versions.targets, 3);
}

#[test]
fn the_threshold_is_counted_by_keys_and_named() {
    let domain = Domain::new();
    let alone = domain.machine("alone", &[&ONLINE[..], &["targets-2"]].concat());
    let refused = publish(&domain.repo, alone.path(), NOW).unwrap_err();
    let problem = &refused.problems()[0];
    assert_eq!(problem.code, PolicyCode::ThresholdNotMet);
    assert_eq!(problem.claim, "targets version 2");
    assert_eq!(problem.expected, "signatures by 2 of its 3 keys");
    assert_eq!(problem.found, "1: targets-2");
    assert_eq!(domain.load().unwrap().version, 1);
    // A key of the publisher's own folder and one signature file are two.
    let proposal = domain.propose("p", &Scope::All).unwrap();
    let file = domain
        .sign(&proposal, &domain.machine("signer", &["targets-1"]))
        .unwrap();
    let options = PublishOptions {
        proposal: Some(proposal),
        signatures: vec![file],
        scope: Scope::All,
    };
    publish_with(&domain.repo, &alone, &options, NOW).unwrap();
    assert_eq!(domain.load().unwrap().version, 2);
}

#[test]
fn signatures_that_make_no_version() {
    let domain = Domain::new();
    domain.stage_policy("second");
    let proposal = domain.propose("p", &Scope::All).unwrap();
    let (a, b) = (domain.machine("a", &["targets-1"]), domain.machine("b", &["targets-2"]));
    let (first, second) = (domain.sign(&proposal, &a).unwrap(), domain.sign(&proposal, &b).unwrap());
    domain.stage_policy("other");
    let other = domain.propose("other", &Scope::All).unwrap();
    let foreign = domain.sign(&other, &b).unwrap();
    let text = std::fs::read_to_string(&second).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let field = |name: &str| json["signatures"][0][name].as_str().unwrap().to_owned();
    // A signature by the snapshot key, which is a key of the domain but not of this role.
    let body = RoleBody::parse(
        &KeyRole::Targets,
        &std::fs::read(proposal.join("proposed/2.targets.json")).unwrap(),
    );
    let message = body.unwrap().0.canonical().unwrap();
    let snapshot = KeyDir::new(&domain.keys).keys(&KeyRole::Snapshot).unwrap().remove(0);
    let by_snapshot = hex::encode(&snapshot.sign(&message).unwrap().sig);
    let rows: &[(&str, String, PolicyCode)] = &[
        (
            "the same key twice",
            std::fs::read_to_string(&first).unwrap(),
            PolicyCode::ThresholdNotMet,
        ),
        (
            "another proposal",
            std::fs::read_to_string(foreign).unwrap(),
            PolicyCode::SignatureOther,
        ),
        (
            "another domain",
            text.replace(DOMAIN, "other.example"),
            PolicyCode::SignatureOther,
        ),
        (
            "another version",
            text.replace("\"version\": 2", "\"version\": 3"),
            PolicyCode::SignatureOther,
        ),
        (
            "another role",
            text.replace("\"role\": \"targets\"", "\"role\": \"root\""),
            PolicyCode::SignatureOther,
        ),
        (
            "a stranger's key",
            text.replace(&field("key"), &"ab".repeat(32)),
            PolicyCode::SignatureKeyUnknown,
        ),
        (
            "a key of another role",
            text.replace(&field("key"), &snapshot.key_id().unwrap())
                .replace(&field("signature"), &by_snapshot),
            PolicyCode::SignatureKeyUnknown,
        ),
        (
            "signed by another key than it says",
            text.replace(&field("signature"), &by_snapshot),
            PolicyCode::SignatureInvalid,
        ),
        (
            "half a signature",
            text.replace(&field("signature"), "ab"),
            PolicyCode::SignatureInvalid,
        ),
        (
            "no hexadecimal",
            text.replace(&field("signature"), "xy"),
            PolicyCode::SignatureUnreadable,
        ),
        (
            "an unknown member",
            text.replace("\"domain\"", "\"extra\": 1, \"domain\""),
            PolicyCode::SignatureUnreadable,
        ),
        (
            "another format",
            text.replace("signatures/1", "signatures/2"),
            PolicyCode::SignatureUnreadable,
        ),
        (
            "cut off",
            text[..text.len() / 2].to_owned(),
            PolicyCode::SignatureUnreadable,
        ),
    ];
    for (what, bytes, expected) in rows {
        assert!(*what == "the same key twice" || *bytes != text, "{what} is a change");
        let file = domain.dir.path().join("forged");
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(code(domain.publish(&proposal, &[&first, &file])), *expected, "{what}");
        assert_eq!(domain.load().unwrap().version, 1, "{what}");
    }
    let options = PublishOptions {
        signatures: vec![first.clone()],
        ..PublishOptions::default()
    };
    let without = publish_with(&domain.repo, &KeyDir::new(&domain.keys), &options, NOW);
    assert_eq!(
        code(without),
        PolicyCode::SignatureOther,
        "signatures without what they are over"
    );
    domain.publish(&proposal, &[&first, &second]).unwrap();
    assert_eq!(
        code(domain.publish(&proposal, &[&first, &second])),
        PolicyCode::ProposalStale,
        "once only"
    );
    assert_eq!(
        code(domain.publish(&other, &[&first])),
        PolicyCode::ProposalStale,
        "overtaken"
    );
}

/// Changes the proposed targets role.
fn edit(proposal: &Path, change: impl Fn(&mut serde_json::Value)) {
    let file = proposal.join("proposed/2.targets.json");
    let mut json = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(file, serde_json::to_vec(&json).unwrap()).unwrap();
}

/// Puts another file in the place of a proposed target, with its own length and digest in the list.
fn replace(proposal: &Path, target: &str, text: &str) {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(text);
    std::fs::write(crate::layout::target_path(proposal, target, &digest), text).unwrap();
    edit(proposal, |json| {
        json["signed"]["targets"][target]["length"] = text.len().into();
        json["signed"]["targets"][target]["hashes"]["sha256"] = hex::encode(digest).into();
    });
}

#[test]
fn what_a_signer_refuses_to_sign() {
    let domain = Domain::new();
    domain.stage_policy("second");
    let good = domain.propose("good", &Scope::All).unwrap();
    let machine = domain.machine("signer", &["targets-1"]);
    type Change = fn(&Path);
    let rows: &[(&str, PolicyCode, Change)] = &[
        ("a target that was altered", PolicyCode::TargetMismatch, |p| {
            let folder = p.join("targets");
            for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
                if entry.to_string_lossy().ends_with(".policy.cedar") {
                    std::fs::write(entry, "permit (principal, action, resource);").unwrap();
                }
            }
        }),
        ("a target that is not there", PolicyCode::TargetMissing, |p| {
            std::fs::remove_dir_all(p.join("targets")).unwrap();
            std::fs::create_dir(p.join("targets")).unwrap();
        }),
        ("a policy that does not validate", PolicyCode::CedarInvalid, |p| {
            replace(p, "policy.cedar", "permit (")
        }),
        ("settings with an unknown key", PolicyCode::SettingsUnreadable, |p| {
            replace(p, "settings.toml", "allow_all = true");
        }),
        ("another domain's settings", PolicyCode::SettingsName, |p| {
            replace(p, "settings.toml", &crate::Settings::default_file("other.example"));
        }),
        ("a target that is not ours", PolicyCode::TargetUnknown, |p| {
            edit(p, |json| {
                let list = &mut json["signed"]["targets"];
                list["evil.sh"] = list["policy.cedar"].clone();
            });
        }),
        ("a target beyond its size", PolicyCode::TargetTooLarge, |p| {
            edit(p, |json| {
                json["signed"]["targets"]["policy.cedar"]["length"] = (1u64 << 40).into()
            });
        }),
        ("a later version", PolicyCode::ProposalUnreadable, |p| {
            edit(p, |json| json["signed"]["version"] = 3.into());
        }),
        ("a version that skips one", PolicyCode::ProposalStale, |p| {
            edit(p, |json| json["signed"]["version"] = 3.into());
            std::fs::rename(p.join("proposed/2.targets.json"), p.join("proposed/3.targets.json")).unwrap();
        }),
        ("two versions of one role", PolicyCode::ProposalUnreadable, |p| {
            let list = std::fs::read_to_string(p.join("proposed/2.targets.json")).unwrap();
            let other = list.replace("\"version\": 2", "\"version\": 3");
            assert_ne!(other, list);
            std::fs::write(p.join("proposed/3.targets.json"), other).unwrap();
        }),
        ("an end in a hundred years", PolicyCode::ProposalUnreadable, |p| {
            edit(p, |json| json["signed"]["expires"] = "2125-01-01T00:00:00Z".into());
        }),
        ("an end in the past", PolicyCode::ProposalUnreadable, |p| {
            edit(p, |json| json["signed"]["expires"] = "2024-01-01T00:00:00Z".into());
        }),
        ("a member that no role has", PolicyCode::ProposalUnreadable, |p| {
            edit(p, |json| json["signed"]["grant"] = "all".into());
        }),
        ("custom data of a target", PolicyCode::ProposalUnreadable, |p| {
            edit(p, |json| {
                json["signed"]["targets"]["policy.cedar"]["custom"] = serde_json::json!({"a": 1})
            });
        }),
        (
            "a signature in the unsigned role",
            PolicyCode::ProposalUnreadable,
            |p| {
                edit(p, |json| {
                    json["signatures"] = serde_json::json!([{"keyid": "ab", "sig": "ab"}])
                });
            },
        ),
        ("a delegation to everything", PolicyCode::DelegationRefused, |p| {
            edit(p, |json| {
                json["signed"]["delegations"] = serde_json::json!({"keys": {}, "roles": [
                    {"name": "region-eu", "keyids": [], "threshold": 1, "paths": ["**"], "terminating": true}]});
            });
        }),
        ("a snapshot to sign", PolicyCode::ProposalUnreadable, |p| {
            std::fs::copy(p.join("metadata/1.snapshot.json"), p.join("proposed/1.snapshot.json")).unwrap();
        }),
        ("a file that is no role", PolicyCode::ProposalUnreadable, |p| {
            std::fs::write(p.join("proposed/README"), "").unwrap();
        }),
        ("nothing", PolicyCode::ProposalUnreadable, |p| {
            std::fs::remove_file(p.join("proposed/2.targets.json")).unwrap();
        }),
        ("a base that nobody signed", PolicyCode::SignatureInvalid, |p| {
            let file = p.join("metadata/timestamp.json");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(file, text.replace("\"expires\": \"20", "\"expires\": \"21")).unwrap();
        }),
    ];
    for (i, (what, expected, change)) in rows.iter().enumerate() {
        let copied = domain.dir.path().join(format!("copy-{i}"));
        copy(&good, &copied);
        change(&copied);
        assert_eq!(code(domain.sign(&copied, &machine)), *expected, "{what}");
        assert!(!machine.path().join(format!("copy-{i}.sig")).exists(), "{what}");
    }
    // The right proposal with the wrong root, the wrong digest, or no key of the role.
    let stranger = Domain::new();
    let out = machine.path().join("x");
    assert_eq!(
        code(sign(&good, &stranger.root, &machine, None, &out, NOW)),
        PolicyCode::RootMismatch
    );
    let digest = "00".repeat(32);
    assert_eq!(
        code(sign(&good, &domain.root, &machine, Some(&digest), &out, NOW)),
        PolicyCode::ProposalOther
    );
    let other = domain.machine("other", &["root-1", "snapshot-1"]);
    assert_eq!(code(domain.sign(&good, &other)), PolicyCode::KeyNotInRoot);
    assert!(!out.exists());
    domain.sign(&good, &machine).unwrap();
    // What already lies there is not written over.
    assert_eq!(code(domain.propose("good", &Scope::All)), PolicyCode::Io);
}

#[test]
fn a_first_version_can_be_signed_elsewhere_too() {
    let domain = Domain::new();
    let repo = domain.dir.path().join("new");
    let options = InitOptions {
        threshold: 2,
        signers: 2,
        ..InitOptions::new("new.example")
    };
    init_with(&repo, &KeyDir::new(domain.dir.path().join("new-keys")), &options, NOW).unwrap();
    let domain = Domain {
        root: std::fs::read(repo.join("metadata/1.root.json")).unwrap(),
        keys: domain.dir.path().join("new-keys"),
        repo,
        dir: domain.dir,
    };
    let proposal = domain.propose("p", &Scope::All).unwrap();
    let files = ["targets-1", "targets-2"].map(|key| domain.sign(&proposal, &domain.machine(key, &[key])).unwrap());
    domain.publish(&proposal, &[&files[0], &files[1]]).unwrap();
    assert_eq!(domain.load().unwrap().version, 1);
    // The root must be that of the domain, also where nothing is published yet to prove it.
    let other = Domain::new();
    assert_eq!(code(review(&proposal, &other.root, NOW)), PolicyCode::RootMismatch);
}

mod regions;
mod root;
