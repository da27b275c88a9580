//! What decides reads no clock, no disk, no network and no environment: the sources are held to it (design.md 4, rule 4).
//! And what a verifying function made has no other way to come about (rule 2).

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::path::{Path, PathBuf};

/// Folders of the crates that are pure, from [`super::layers`], and of the rooms of other crates that decide.
const PURE: &[&str] = &[
    "verifier/src",
    "verifier/cose/src",
    "attest/evidence/src",
    "keybroker/authorization/src",
    "keybroker/ledger/src",
    "firmware-policies/artefacts/src",
    "keybroker/src/decision.rs",
    "keybroker/src/decision",
    "keybroker/src/redecide.rs",
    "keybroker/src/inputs.rs",
    "keybroker/src/first_use.rs",
    "keybroker/src/release/decide.rs",
    "keybroker/src/release/inputs.rs",
    "keybroker/src/federation/decide.rs",
    "keybroker/src/workload/decide.rs",
    "keybroker/src/workload/inputs.rs",
    "keybroker/src/lineage/graph.rs",
    "keybroker/src/lineage/history",
    "firmware-policies/src/cedar",
    "firmware-policies/src/region",
];

/// Words that reach the world. `.is_valid()` and `ASN1Time::now()` are x509-parser's, and read the clock.
const WORDS: &[&str] = &[
    "Instant",
    "SystemTime",
    "UNIX_EPOCH",
    "ASN1Time::now",
    "OsRng",
    "getrandom",
];
const CALLS: &[&str] = &["::now(", ".is_valid()", ".elapsed()"];
/// Modules of `std` that reach it.
const MODULES: &[&str] = &["fs", "net", "env", "process", "thread"];

/// A source without comments, without what is in quotes, and without what is compiled for tests alone.
fn code(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let from = hashes + 2;
            rest[from..].find(&end).map_or(rest.len(), |at| from + at + end.len())
        } else if first == '"' {
            quoted(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'{'") || rest.starts_with("'}'") {
            3
        } else {
            0
        };
        if skipped > 0 {
            out.push(' ');
            rest = &rest[skipped..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    without_tests(&out)
}

/// How many hash signs a raw string that begins here has.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix('r')?;
    let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// The length of what is in quotes here.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Takes out each item under `#[cfg(test)]`: up to its semicolon, or to the brace that closes it.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        let mut depth = 0_usize;
        let end = rest.char_indices().find_map(|(at, char)| match char {
            '{' => {
                depth += 1;
                None
            }
            '}' => {
                depth = depth.saturating_sub(1);
                (depth == 0).then_some(at + 1)
            }
            ';' if depth == 0 => Some(at + 1),
            _ => None,
        });
        rest = &rest[end.unwrap_or(rest.len())..];
    }
    out.push_str(rest);
    out
}

/// What in a source reaches the world.
fn reaches(source: &str) -> Vec<String> {
    let code = code(source);
    let mut found = Vec::new();
    let is_name = |char: char| char.is_alphanumeric() || char == '_';
    for word in WORDS {
        let alone = code.match_indices(word).any(|(at, _)| {
            let before = code[..at].chars().next_back();
            let after = code[at + word.len()..].chars().next();
            !before.is_some_and(is_name) && !after.is_some_and(is_name)
        });
        if alone {
            found.push((*word).to_owned());
        }
    }
    let dense: String = code.split_whitespace().collect();
    for call in CALLS {
        if dense.contains(call) {
            found.push((*call).to_owned());
        }
    }
    for (at, _) in dense.match_indices("std::") {
        let path = &dense[at + "std::".len()..];
        let group = path
            .strip_prefix('{')
            .map(|group| &group[..group.find(';').unwrap_or(group.len())]);
        // One module, or every word of a group, however deep it is named.
        let named: Vec<&str> = match group {
            Some(group) => group.split(|char: char| !is_name(char)).collect(),
            None => path.split(|char: char| !is_name(char)).take(1).collect(),
        };
        for module in MODULES {
            if named.contains(module) {
                found.push(format!("std::{module}"));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every source below a folder, or the one file; tests in files of their own are left out.
fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    let is_test = |name: &str| name == "tests.rs" || name == "tests";
    if path.file_name().and_then(|name| name.to_str()).is_some_and(is_test) {
        return;
    }
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder that can be listed") {
            sources(&entry.expect("an entry").path(), found);
        }
    } else if path.extension().is_some_and(|end| end == "rs") {
        found.push(path.to_owned());
    }
}

fn below(folders: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in folders {
        let path = root().join(folder);
        assert!(
            path.exists(),
            "{folder} is gone: say in tests/pure_sources.rs where what it held is now"
        );
        sources(&path, &mut found);
    }
    found.sort();
    found
}

#[test]
fn what_decides_reads_no_clock_no_disk_and_no_network() {
    let files = below(PURE);
    assert!(files.len() > 150, "found {} sources only", files.len());
    for file in files {
        let source = std::fs::read_to_string(&file).expect("a source");
        let found = reaches(&source);
        let file = file.strip_prefix(root()).unwrap_or(&file).display();
        assert!(
            found.is_empty(),
            "{file}: {}: it decides, and what it decides on is an argument",
            found.join(", ")
        );
    }
}

/// Each crate of which the layers say that it reaches no world is read here, too.
#[test]
fn every_pure_crate_is_among_the_sources() {
    let read = below(PURE);
    for package in super::layers::pure_folders() {
        let sources_of = package.join("src");
        assert!(
            read.iter().any(|file| file.starts_with(&sources_of)),
            "{} is pure and not in tests/pure_sources.rs",
            package.display()
        );
    }
}

#[test]
fn each_way_out_into_the_world_is_seen() {
    let rows = [
        ("a monotonic clock", "let now = std::time::Instant::now();"),
        ("a clock in a group", "use std::time::{Duration, Instant};"),
        ("the wall clock", "fn f() { std::time::SystemTime::now(); }"),
        ("a clock by another's name", "let t = chrono::Utc::now();"),
        ("a clock over two lines", "let t = Utc\n    ::now();"),
        ("x509-parser's clock", "ASN1Time::now()"),
        ("x509-parser's dates", "if certificate.validity().is_valid() {}"),
        ("a file", "std::fs::read(path)"),
        ("a file in a group", "use std::{collections::BTreeMap, fs};"),
        ("the network", "use std::net::TcpStream;"),
        ("the environment", "std::env::var(name)"),
        ("a program", "std::process::Command::new(name)"),
        ("after what is for tests", "#[cfg(test)]\nmod tests;\nuse std::fs;"),
        (
            "after a test module",
            "#[cfg(test)]\nmod tests { fn f() {} }\nuse std::fs;",
        ),
        ("after a string", "let s = \"a \\\" quote\"; use std::fs;"),
    ];
    for (attack, source) in rows {
        assert!(!reaches(source).is_empty(), "{attack} is not seen");
    }
    let harmless = [
        ("words", "// Instant::now and std::fs\n/* SystemTime */ fn f() {}"),
        ("a message", "Err(\"std::fs and Instant::now()\")"),
        ("a test", "fn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }"),
        ("dates at a time", "validity.is_valid_at(time)"),
    ];
    for (what, source) in harmless {
        assert_eq!(reaches(source), Vec::<String>::new(), "{what}");
    }
}

/// What only a verifying function makes, and where it is.
const VERIFIED: &[(&str, &str)] = &[
    ("verifier/src/corim/mod.rs", "VerifiedCorim"),
    ("verifier/src/tpm/attestation.rs", "VerifiedQuote"),
    ("verifier/src/tpm/attestation.rs", "VerifiedCertify"),
    ("verifier/src/snp/vek.rs", "VerifiedVek"),
    ("verifier/src/snp/verified.rs", "SignedReport"),
    ("verifier/src/snp/verified.rs", "VerifiedReport"),
    ("verifier/src/tdx/verified.rs", "VerifiedQuote"),
    ("verifier/src/gpu/verified.rs", "SignedGpu"),
    ("verifier/src/gpu/verified.rs", "VerifiedGpu"),
    ("verifier/src/x509/ek_certificate.rs", "VerifiedEkCertificate"),
    ("verifier/src/x509/iak_certificate.rs", "VerifiedIakCertificate"),
    ("verifier/cose/src/sign1/verify.rs", "Verified"),
    ("verifier/cose/src/sign1/third_party.rs", "VerifiedThirdParty"),
    ("keybroker/authorization/src/token.rs", "VerifiedAuthorization"),
    ("keybroker/authorization/src/chain.rs", "VerifiedChain"),
    ("keybroker/authorization/src/proof.rs", "VerifiedProof"),
    ("keybroker/ledger/src/checkpoint.rs", "VerifiedCheckpoint"),
    ("keybroker/ledger/src/statement/mod.rs", "VerifiedStatement"),
];

/// Of these everybody reads the members; nobody outside their crate makes one, for they are `non_exhaustive`.
const READ_BY_ALL: &[(&str, &str)] = &[
    ("verifier/src/x509/chain.rs", "VerifiedChain"),
    ("verifier/cose/src/receipt.rs", "VerifiedReceipt"),
];

/// The attributes and the body of a struct.
fn declared(file: &str, name: &str) -> (String, String) {
    let source = std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let code = code(&source);
    let at = ["<", " ", "(", ";"]
        .iter()
        .find_map(|end| code.find(&format!("pub struct {name}{end}")));
    let at = at.unwrap_or_else(|| panic!("{file} has no struct {name} any more"));
    let attributes = code[..at].rsplit(['}', ';']).next().unwrap_or_default().to_owned();
    let body = &code[at + "pub struct ".len()..];
    let close = match body.find(['{', ';']) {
        Some(open) if body[open..].starts_with('{') => '}',
        _ => ';',
    };
    (attributes, body[..body.find(close).unwrap_or(body.len())].to_owned())
}

/// Rule 2: a type that stands for "its signature was found good" has no public member, is read from no bytes, and has no
/// default.
#[test]
fn what_is_verified_is_made_by_the_verifying_function_alone() {
    for (file, name) in VERIFIED {
        let (attributes, body) = declared(file, name);
        assert!(
            !body.contains("pub"),
            "{file}: {name} has a member that anybody can set"
        );
        for derived in ["Default", "Deserialize"] {
            assert!(!attributes.contains(derived), "{file}: {name} is made by {derived}");
        }
    }
    for (file, name) in READ_BY_ALL {
        let (attributes, _) = declared(file, name);
        assert!(
            attributes.contains("#[non_exhaustive]"),
            "{file}: anybody can make a {name}"
        );
        assert!(!attributes.contains("Default"), "{file}: {name} is made by Default");
    }
    let listed: Vec<&(&str, &str)> = VERIFIED.iter().chain(READ_BY_ALL).collect();
    for file in below(PURE) {
        let source = code(&std::fs::read_to_string(&file).expect("a source"));
        let file = file.strip_prefix(root()).unwrap_or(&file);
        let file = file.to_string_lossy().into_owned();
        for (at, _) in source.match_indices("pub struct Verified") {
            let name = &source[at + "pub struct ".len()..];
            let name = name.split(|char: char| !char.is_alphanumeric()).next().unwrap_or(name);
            let held = listed.iter().any(|(path, of)| *path == file && *of == name);
            assert!(held, "{file}: {name} is new: list it in tests/pure_sources.rs");
        }
        for made in [
            "Default for Verified",
            "Deserialize<'de> for Verified",
            "DerefMut for Verified",
        ] {
            assert!(!source.contains(made), "{file}: {made}");
        }
    }
}
