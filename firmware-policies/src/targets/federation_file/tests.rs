use super::*;
use crate::author::init;
use crate::testing::NOW;

const OWN: &str = "a.example";

/// The root metadata of a new domain.
fn root_of(domain: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let repo = folder.path().join("repo");
    init(&repo, domain, &folder.path().join("keys"), NOW).unwrap();
    std::fs::read(repo.join("metadata/1.root.json")).unwrap()
}

fn good(root: &[u8]) -> String {
    format!(
        "domain = \"b.example\"\nroot = \"{}\"\ndepth = 1\npolicy = [\"/srv/b\"]\nbrokers = [\"b.example:7440\"]\n\
         issue = [\"execute:partners/a/render\"]\n[accept]\nresources = \"partners/b\"\n\
         scopes = [\"execute:partners/b/render\", \"release:partners/b/keys\"]\n",
        hex::encode(Sha256::digest(root))
    )
}

const OVER_B: &str = "domain = \"c.example\"\npath = [\"b.example\"]\n[accept]\n\
    resources = \"partners/b\"\nscopes = [\"execute:partners/b/render\"]\n";

fn files(entries: &[(&str, &str)], roots: &[(&str, &[u8])]) -> Files {
    let file = |(domain, text): &(&str, &str)| (TargetKind::Federation((*domain).into()), text.as_bytes().to_vec());
    let root = |(domain, bytes): &(&str, &[u8])| (TargetKind::FederationRoot((*domain).into()), bytes.to_vec());
    entries.iter().map(file).chain(roots.iter().map(root)).collect()
}

#[test]
fn a_file_says_what_it_says() {
    let root = root_of("b.example");
    let federation = Federation::read(
        &files(
            &[("b.example", &good(&root)), ("c.example", OVER_B)],
            &[("b.example", &root)],
        ),
        OWN,
    )
    .unwrap();
    let b = federation.get("b.example").unwrap();
    assert_eq!(b.trust, Some(TrustBegins::Root(root)));
    assert_eq!((b.depth, b.push), (1, false));
    let accept = b.accept.as_ref().unwrap();
    assert_eq!(accept.narrowing.max_state_age_ms(), None);
    assert!(accept.narrowing.takes(KeyKind::Tpm) && !accept.narrowing.takes(KeyKind::Software));
    let c = federation.get("c.example").unwrap();
    assert_eq!(c.trust, Some(TrustBegins::Path(vec!["b.example".into()])));
    // Nothing of it is believed; authorizations may be made for it.
    let issue_only = "domain = \"d.example\"\nissue = [\"execute:partners/a/render\"]\n";
    let federation = Federation::read(&files(&[("d.example", issue_only)], &[]), OWN).unwrap();
    assert!(federation.get("d.example").unwrap().trust.is_none());
}

#[test]
fn what_is_wrong_is_refused() {
    let root = root_of("b.example");
    let good = good(&root);
    let other = root_of("b.example");
    use PolicyCode as P;
    for (attack, from, to, expected) in [
        ("an unknown key", "depth = 1", "depht = 1", P::FederationUnreadable),
        (
            "an unknown key within",
            "resources =",
            "zone = \"a\"\nresources =",
            P::FederationUnreadable,
        ),
        (
            "another name",
            "\"b.example\"\nroot",
            "\"d.example\"\nroot",
            P::FederationUnreadable,
        ),
        ("no trust", "root = \"", "# root = \"", P::FederationRoot),
        ("another root", "root = \"", "root = \"00", P::FederationRoot),
        (
            "root and path",
            "depth = 1",
            "path = [\"d.example\"]",
            P::FederationPath,
        ),
        ("a depth beyond all", "depth = 1", "depth = 5", P::FederationPath),
        ("an empty list of places", "[\"/srv/b\"]", "[]", P::FederationUnreadable),
        ("a relative place", "\"/srv/b\"", "\"srv/b\"", P::FederationUnreadable),
        (
            "a place in another scheme",
            "\"/srv/b\"",
            "\"ftp://b\"",
            P::FederationUnreadable,
        ),
        (
            "an empty list of brokers",
            "[\"b.example:7440\"]",
            "[]",
            P::FederationUnreadable,
        ),
        (
            "a broker without a port",
            "b.example:7440",
            "b.example",
            P::FederationUnreadable,
        ),
        (
            "a broker with a path",
            "b.example:7440",
            "b/x:7440",
            P::FederationUnreadable,
        ),
        (
            "nothing to issue",
            "[\"execute:partners/a/render\"]",
            "[]",
            P::FederationScope,
        ),
        (
            "administer to issue",
            "execute:partners/a/render",
            "administer:partners/a",
            P::FederationScope,
        ),
        (
            "an empty list of scopes",
            "[\"execute:partners/b/render\", \"release:partners/b/keys\"]",
            "[]",
            P::FederationScope,
        ),
        (
            "a wildcard",
            "execute:partners/b/render",
            "execute:*",
            P::FederationScope,
        ),
        (
            "a scope outside the prefix",
            "execute:partners/b/render",
            "execute:workloads",
            P::FederationScope,
        ),
        (
            "a neighbour of the prefix",
            "execute:partners/b/render",
            "execute:partners/bad",
            P::FederationScope,
        ),
        (
            "the way up",
            "execute:partners/b/render",
            "execute:partners/b/../a",
            P::FederationScope,
        ),
        (
            "bootstrap",
            "execute:partners/b/render",
            "bootstrap:partners/b/render",
            P::FederationScope,
        ),
        (
            "a scope twice",
            "release:partners/b/keys",
            "execute:partners/b/render",
            P::FederationScope,
        ),
        ("an empty prefix", "\"partners/b\"", "\"\"", P::FederationScope),
        (
            "no kind of key",
            "resources =",
            "key_kinds = []\nresources =",
            P::FederationScope,
        ),
        (
            "a region: no policy is asked with it",
            "resources =",
            "region = \"partner-b\"\nresources =",
            P::FederationUnreadable,
        ),
    ] {
        assert_eq!(good.matches(from).count(), 1, "{attack}: {from}");
        let text = good.replacen(from, to, 1);
        let error = FederatedDomain::parse("b.example", text.as_bytes(), Some(&root)).unwrap_err();
        assert!(error.problems().iter().any(|p| p.code == expected), "{attack}: {error}");
        assert!(
            error.to_string().contains("federation/b.example.toml"),
            "{attack} names its file"
        );
    }
    for (attack, beside) in [
        ("no root beside it", None),
        ("another root beside it", Some(other.as_slice())),
        ("junk beside it", Some(&b"{}"[..])),
    ] {
        let error = FederatedDomain::parse("b.example", good.as_bytes(), beside).unwrap_err();
        assert_eq!(error.code(), P::FederationRoot, "{attack}");
    }
}

/// An age counts only where nothing else can be heard: else it is a freeze that somebody in between can choose.
#[test]
fn only_what_is_carried_by_hand_has_an_age() {
    let root = root_of("b.example");
    let parse = |members: &str, age: u64| {
        let text = format!(
            "domain = \"b.example\"\nroot = \"{}\"\n{members}\n[accept]\nresources = \"partners/b\"\n\
             scopes = [\"execute:partners/b/render\"]\nmax_state_age = {age}\n",
            hex::encode(Sha256::digest(&root))
        );
        FederatedDomain::parse("b.example", text.as_bytes(), Some(&root))
    };
    let accept = parse("", 3_600).unwrap().accept.unwrap();
    assert_eq!(accept.narrowing.max_state_age_ms(), Some(3_600_000));
    let brokers = "brokers = [\"b.example:7440\"]";
    for (attack, members, age) in [
        ("no age at all", "", 0),
        ("an age beyond all", "", MAX_STATE_AGE_SECONDS + 1),
        ("its repository is followed", "policy = [\"/srv/b\"]", 3_600),
        ("its brokers are followed", brokers, 3_600),
        ("its brokers are sent ours", &format!("{brokers}\npush = true"), 3_600),
    ] {
        let error = parse(members, age).unwrap_err();
        assert_eq!(error.code(), PolicyCode::FederationUnreadable, "{attack}");
        assert!(error.to_string().contains("accept.max_state_age"), "{attack}: {error}");
    }
}

#[test]
fn trust_goes_no_further_than_it_was_given() {
    let root = root_of("b.example");
    let good = good(&root);
    let other = good.replace("b.example", "d.example");
    use PolicyCode as P;
    for (attack, entries, expected) in [
        (
            "depth exceeded",
            vec![
                ("b.example", good.replace("depth = 1", "depth = 0")),
                ("c.example", OVER_B.into()),
            ],
            P::FederationPath,
        ),
        (
            "a path longer than the depth",
            vec![
                ("b.example", good.clone()),
                (
                    "c.example",
                    OVER_B.replace("[\"b.example\"]", "[\"b.example\", \"x.example\"]"),
                ),
            ],
            P::FederationPath,
        ),
        (
            "over a domain that is not trusted",
            vec![("c.example", OVER_B.into())],
            P::FederationPath,
        ),
        (
            "over one that is itself not trusted directly",
            vec![
                ("b.example", good.clone()),
                ("c.example", OVER_B.into()),
                (
                    "e.example",
                    OVER_B
                        .replace("b.example", "c.example")
                        .replace("domain = \"c", "domain = \"e"),
                ),
            ],
            P::FederationPath,
        ),
        (
            "over this domain",
            vec![
                ("b.example", good.clone()),
                ("c.example", OVER_B.replace("\"b.example\"", "\"a.example\"")),
            ],
            P::FederationPath,
        ),
        (
            "over itself",
            vec![
                ("b.example", good.clone()),
                (
                    "c.example",
                    OVER_B.replace("[\"b.example\"]", "[\"b.example\", \"c.example\"]"),
                ),
            ],
            P::FederationPath,
        ),
        (
            "an empty path",
            vec![
                ("b.example", good.clone()),
                ("c.example", OVER_B.replace("[\"b.example\"]", "[]")),
            ],
            P::FederationPath,
        ),
        (
            "more than the domain on the way",
            vec![
                ("b.example", good.clone()),
                (
                    "c.example",
                    OVER_B.replace("execute:partners/b/render", "execute:partners/b/other"),
                ),
            ],
            P::FederationWider,
        ),
        (
            "more kinds of keys than the domain on the way",
            vec![
                ("b.example", good.clone()),
                ("c.example", format!("{OVER_B}key_kinds = [\"software\"]\n")),
            ],
            P::FederationWider,
        ),
        (
            "this domain itself",
            vec![("a.example", good.replace("b.example", "a.example"))],
            P::FederationUnreadable,
        ),
        (
            "one prefix for two",
            vec![("b.example", good.clone()), ("d.example", other.clone())],
            P::FederationPrefix,
        ),
        (
            "one prefix below another's",
            vec![
                ("b.example", good.clone()),
                ("d.example", other.replace("partners/b", "partners/b/d")),
            ],
            P::FederationPrefix,
        ),
    ] {
        let entries: Vec<(&str, &str)> = entries.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let roots: Vec<(&str, &[u8])> = entries
            .iter()
            .filter(|(_, text)| text.contains("root ="))
            .map(|(name, _)| (*name, root.as_slice()))
            .collect();
        let error = Federation::read(&files(&entries, &roots), OWN).unwrap_err();
        assert!(error.problems().iter().any(|p| p.code == expected), "{attack}: {error}");
    }
    let alone = Federation::read(&files(&[], &[("b.example", &root)]), OWN).unwrap_err();
    assert_eq!(alone.code(), P::FederationRoot, "a root without a file");
}
