//! A batch is taken whole, or every bad line is named.

use std::path::PathBuf;

use super::*;
use crate::author::nodes::{node_list, node_remove};
use crate::testing::{NOW, TestRepo, boot_file};

fn ek(n: u16) -> String {
    format!("{:064x}", u32::from(n) + 0xE000)
}

fn written(test: &TestRepo, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = test.dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn import(test: &TestRepo, name: &str, text: impl AsRef<[u8]>) -> Result<NodesImported, ImportError> {
    node_import(&test.repo, &written(test, name, text), None)
}

/// Lines and codes of a refusal.
fn lines(result: Result<NodesImported, ImportError>) -> Vec<(u64, PolicyCode)> {
    match result {
        Err(ImportError::Lines(lines)) => lines.into_iter().map(|bad| (bad.line, bad.problem.code)).collect(),
        other => panic!("no bad lines: {other:?}"),
    }
}

#[test]
fn a_batch_of_a_thousand_is_one_file_and_says_nothing_new_the_second_time() {
    let test = TestRepo::published();
    let mut csv = String::from("name,region,zone,roles,owner,ek\n");
    for n in 0..1_000 {
        csv.push_str(&format!("web-{},north,z,web;edge,acme,{}\n", n + 10, ek(n)));
    }
    let imported = import(&test, "machines.csv", &csv).unwrap();
    assert_eq!((imported.added, imported.unchanged), (1_000, 0));
    assert_eq!(imported.staged, ["inventory.json"]);
    let again = import(
        &test,
        "machines.csv",
        csv.to_uppercase().replace("NAME,REGION,ZONE,ROLES,OWNER,EK", "x"),
    );
    assert!(again.is_err(), "upper case is another name");
    let again = import(&test, "machines.csv", &csv).unwrap();
    assert_eq!((again.added, again.unchanged, again.staged.len()), (0, 1_000, 0));
    test.publish(NOW).unwrap();
    let policy = test.load(NOW).unwrap();
    assert_eq!(policy.inventory.nodes().len(), 1_001);
    let node = policy
        .inventory
        .nodes()
        .iter()
        .find(|node| node.name == "web-10")
        .unwrap();
    assert_eq!(
        (node.owner.as_deref(), node.roles.as_slice()),
        (Some("acme"), &["web".to_owned(), "edge".into()][..])
    );
    // More of them later, beside those that are there; one goes again.
    import(
        &test,
        "more.json",
        format!(
            r#"{{"nodes":[{{"name":"db","region":"south","ek":["{}"]}}]}}"#,
            ek(5_000)
        ),
    )
    .unwrap();
    node_remove(&test.repo, "web-10").unwrap();
    assert_eq!(node_list(&test.repo).unwrap().len(), 1_001);
    test.publish(NOW).unwrap();
    assert_eq!(test.load(NOW).unwrap().inventory.nodes().len(), 1_001);
}

#[test]
fn every_bad_line_is_named_and_nothing_is_staged() {
    let test = TestRepo::published();
    let known = node_list(&test.repo).unwrap()[0].node.ek[0].to_uppercase();
    let csv = [
        "name,region,ek,owner".to_owned(),
        format!("good,north,{},", ek(1)),
        format!("Bad,north,{},", ek(2)),
        format!("eu/bad,north,{},", ek(3)),
        format!("\u{1b}[31m,north,{},", ek(4)),
        format!("\"a\nb\",north,{},", ek(5)),
        "no-ek,north,,".to_owned(),
        "short,north,00,".to_owned(),
        format!("good,north,{},", ek(6)),
        format!("thief,north,{},", ek(1)),
        format!("old-thief,north,{known},"),
        format!("web-1,north,{},", ek(7)),
        "narrow,north".to_owned(),
        format!("region,The North,{},", ek(8)),
        format!("owner,north,{},a/b", ek(9)),
        format!("{},north,{},", "n".repeat(100 * 1024), ek(10)),
    ];
    use PolicyCode::*;
    let expected = [
        (3, SettingsName),
        (4, NodeOutsideRegion),
        (5, SettingsName),
        (6, SettingsName),
        (8, NodeIdentityMissing),
        (9, NodeUnreadable),
        (10, NodeConflict),
        (11, IdentityConflict),
        (12, IdentityConflict),
        (13, NodeConflict),
        (14, NodeUnreadable),
        (15, SettingsName),
        (16, SettingsName),
        (17, SettingsName),
    ];
    let refused = import(&test, "machines.csv", csv.join("\n"));
    let told = refused.as_ref().unwrap_err().to_string();
    assert!(told.len() < 64 * 1024 && !told.chars().any(|c| c.is_control() && c != '\n'));
    assert_eq!(lines(refused), expected);
    assert!(!test.staged("inventory.json").exists() && node_list(&test.repo).unwrap().len() == 1);
    // The same without its bad lines is taken.
    assert_eq!(import(&test, "machines.csv", csv[..2].join("\n")).unwrap().added, 1);
}

#[test]
fn files_that_are_no_batch() {
    let test = TestRepo::new();
    let node = format!(r#"{{"name":"a","region":"north","ek":["{}"]}}"#, ek(1));
    let rows: [(&str, &str, Vec<u8>); 13] = [
        ("empty", "a.csv", Vec::new()),
        ("a header alone", "a.csv", b"name,region,ek\n".to_vec()),
        ("an unknown column", "a.csv", b"name,region,admin\na,north,1\n".to_vec()),
        ("a column twice", "a.csv", b"name,region,ek,ek\na,north,1,1\n".to_vec()),
        ("no names", "a.csv", b"region,ek\nnorth,00\n".to_vec()),
        ("no regions", "a.csv", b"name,ek\na,00\n".to_vec()),
        ("not UTF-8", "a.csv", b"name,region,ek\n\xff,north,00\n".to_vec()),
        ("JSON that is none", "a.json", b"{\"nodes\":".to_vec()),
        ("a list alone", "a.json", format!("[{node}]").into_bytes()),
        ("an empty list", "a.json", b"{\"nodes\":[]}".to_vec()),
        (
            "an unknown key",
            "a.json",
            format!(r#"{{"nodes":[{node}],"x":1}}"#).into_bytes(),
        ),
        (
            "an entry with an unknown key",
            "a.json",
            br#"{"nodes":[{"name":"a","region":"b","admin":1}]}"#.to_vec(),
        ),
        ("too long", "a.csv", vec![b'a'; (MAX_IMPORT_LEN + 1) as usize]),
    ];
    for (row, name, bytes) in rows {
        assert!(import(&test, name, bytes).is_err(), "{row}");
    }
    assert!(!test.staged("inventory.json").exists());
}

#[test]
fn truncated_anywhere_a_batch_is_refused_or_shorter_by_whole_lines() {
    let test = TestRepo::new();
    let csv = format!("name,region,ek\na,north,{}\nb,north,{}\n", ek(1), ek(2));
    for cut in 0..csv.len() {
        // Every digit counts: a line that is cut is never another machine.
        if let Ok(imported) = import(&test, "a.csv", &csv[..cut]) {
            assert!(imported.added + imported.unchanged <= 2);
            let names: Vec<String> = node_list(&test.repo)
                .unwrap()
                .into_iter()
                .map(|n| n.node.ek[0].clone())
                .collect();
            assert!(
                names.iter().all(|name| [ek(1), ek(2)].contains(name)),
                "cut at {cut}: {names:?}"
            );
        }
    }
}

#[test]
fn a_region_imports_its_own_and_nobody_elses() {
    let test = TestRepo::new();
    std::fs::write(test.dir.path().join("ek.der"), boot_file("good", "ek-rsa-cert.der")).unwrap();
    let csv = format!("name,ek,ek_cert\nweb-1,{},\neu-1/web-2,,ek.der\n", ek(1));
    let path = written(&test, "machines.csv", csv);
    let imported = node_import(&test.repo, &path, Some("eu-1")).unwrap();
    assert_eq!(
        imported.staged,
        ["regions/eu-1/policy.cedar", "regions/eu-1/inventory.json"]
    );
    let listed = node_list(&test.repo).unwrap();
    let names: Vec<&str> = listed.iter().map(|n| n.node.name.as_str()).collect();
    assert_eq!(names, ["eu-1/web-1", "eu-1/web-2"]);
    assert!(listed.iter().all(|n| n.node.region == "eu-1" && n.node.ek.len() == 1));
    for (row, line) in [
        ("another region's name", format!("us-1/web-3,eu-1,{}", ek(3))),
        ("another region", format!("web-3,us-1,{}", ek(3))),
        ("a machine that it has already", format!("web-3,eu-1,{}", ek(1))),
    ] {
        let path = written(&test, "machines.csv", format!("name,region,ek\n{line}\n"));
        assert_eq!(lines(node_import(&test.repo, &path, Some("eu-1"))).len(), 1, "{row}");
    }
    // The whole does not name what a region has named.
    let path = written(&test, "machines.csv", format!("name,region,ek\nweb-9,eu-1,{}\n", ek(1)));
    let conflict = node_import(&test.repo, &path, None);
    assert_eq!(lines(conflict), [(2, PolicyCode::IdentityConflict)]);
}

/// What is said of each bad line is longer than the line: no file is read beyond as many as there may be machines.
#[test]
fn a_file_of_nothing_but_bad_lines_ends_at_the_most_machines_there_may_be() {
    let test = TestRepo::published();
    let csv = format!("name,region\n{}", "a\n".repeat(MAX_NODES + 10));
    let json = format!("{{\"nodes\": [{}0]}}", "0,".repeat(MAX_NODES + 10));
    for (file, text) in [("bad.csv", csv), ("bad.json", json)] {
        let path = test.dir.path().join(file);
        std::fs::write(&path, text).unwrap();
        match node_import(&test.repo, &path, None) {
            Err(ImportError::Policy(error)) => assert_eq!(error.code(), PolicyCode::TargetsTooMany, "{file}"),
            other => panic!("{file}: {}", other.map(|_| ()).unwrap_err()),
        }
        let mut bad = Vec::new();
        assert!(read(&path, &std::fs::read(&path).unwrap(), None, &mut bad).is_err());
        assert_eq!(bad.len(), MAX_NODES, "{file}");
    }
}
