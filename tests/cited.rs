//! What the pages of the book name is there: every file, and every function in the very file that is named before it.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;

/// Pages that name tests and code.
const PAGES: [&str; 4] = ["threat-model.md", "conformance.md", "status.md", "requirements.md"];
/// Of these everything in quotes after a file is a row of a table of that file.
const WITH_ROWS: [&str; 2] = ["threat-model.md", "requirements.md"];

/// Folders whose files are not sources.
const NOT_SOURCES: [&str; 4] = ["target", ".git", "book", "node_modules"];

/// Every source, by its path from the root of the repository.
struct Sources(BTreeMap<String, String>);

impl Sources {
    fn read() -> Self {
        let mut found = BTreeMap::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        below(root, root, &mut found);
        assert!(found.len() > 500, "{} sources only", found.len());
        Self(found)
    }

    /// The sources that a page means by a path: the end of one is enough, in whole names, or the beginning and the end with
    /// a star between them.
    fn named(&self, path: &str) -> Vec<&String> {
        let end = format!("/{path}");
        let meant = |file: &str| match path.split_once('*') {
            Some((from, to)) => file.starts_with(from) && file.ends_with(to),
            None => file == path || file.ends_with(&end),
        };
        let all = self.0.iter();
        all.filter(|(file, _)| meant(file)).map(|(_, text)| text).collect()
    }

    fn has_word(&self, word: &str) -> bool {
        self.0.values().any(|text| has_word(text, word))
    }
}

fn below(root: &Path, folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_symlink() || NOT_SOURCES.contains(&name) {
            continue;
        }
        if path.is_dir() {
            below(root, &path, found);
        } else if ["rs", "toml", "sh", "py", "cedar"]
            .iter()
            .any(|end| name.ends_with(end))
            || name == "Makefile"
        {
            let file = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            // What is no text names nothing.
            if let Ok(text) = std::fs::read_to_string(&path) {
                found.insert(file, text);
            }
        }
    }
}

fn has_word(text: &str, word: &str) -> bool {
    let is_name = |char: char| char.is_alphanumeric() || char == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

/// What a page says in one cell: spans of code and words in quotes, in order.
#[derive(Debug, PartialEq, Eq)]
enum Said<'t> {
    Code(&'t str),
    Quoted(&'t str),
}

fn said(cell: &str) -> Vec<Said<'_>> {
    let mut found = Vec::new();
    let mut rest = cell;
    while let Some(at) = rest.find(['`', '"']) {
        let mark = &rest[at..=at];
        let inner = &rest[at + 1..];
        let Some(end) = inner.find(mark) else { break };
        found.push(if mark == "`" {
            Said::Code(&inner[..end])
        } else {
            Said::Quoted(&inner[..end])
        });
        rest = &inner[end + 1..];
    }
    found
}

fn is_snake(span: &str) -> bool {
    let good = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_';
    span.contains('_') && span.chars().all(good) && span.starts_with(|char: char| char.is_ascii_lowercase())
}

/// Names of three words and more after a file are its functions; shorter ones may be settings or members.
fn is_function(span: &str) -> bool {
    is_snake(span) && span.matches('_').count() >= 2
}

/// What one cell names and what is not there.
fn missing(cell: &str, sources: &Sources, rows: bool) -> Vec<String> {
    let mut missing = Vec::new();
    let mut last: Option<(&str, Vec<&String>)> = None;
    for said in said(cell) {
        match said {
            Said::Code(span) if span.ends_with(".rs") && !span.contains(char::is_whitespace) => {
                let found = sources.named(span);
                if found.is_empty() {
                    missing.push(format!("{span} is no file"));
                }
                last = Some((span, found));
            }
            Said::Code(span) if is_function(span) && last.is_some() => {
                let declared = |text: &String| has_word(text, span) && text.contains(&format!("fn {span}"));
                let (file, texts) = last.as_ref().expect("a file was named");
                if !texts.iter().any(|text| declared(text)) {
                    missing.push(format!("{span} is no function of {file}"));
                }
            }
            Said::Code(span) if rows && (is_snake(span) || span.contains("::")) => {
                let word = span.rsplit("::").next().unwrap_or(span);
                let is_name = !word.is_empty() && word.chars().all(|char| char.is_alphanumeric() || char == '_');
                if is_name && !sources.has_word(word) {
                    missing.push(format!("{span} is nowhere"));
                }
            }
            Said::Quoted(row) if rows => {
                if let Some((file, texts)) = last.as_ref().filter(|(_, texts)| !texts.is_empty())
                    && !texts.iter().any(|text| text.contains(row))
                {
                    missing.push(format!("{row:?} is no row of {file}"));
                }
            }
            _ => {}
        }
    }
    missing
}

/// The cells of a table's row, or the line.
fn cells(line: &str) -> Vec<&str> {
    if line.starts_with('|') {
        line.split('|').collect()
    } else {
        vec![line]
    }
}

#[test]
fn every_file_and_function_that_a_page_names_is_there() {
    let sources = Sources::read();
    let mut wrong = Vec::new();
    for page in PAGES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src").join(page);
        let text = std::fs::read_to_string(&path).expect("a page of the book");
        let rows = WITH_ROWS.contains(&page);
        for (number, line) in (1..).zip(text.lines()) {
            for cell in cells(line) {
                let missing = missing(cell, &sources, rows && line.starts_with('|'));
                wrong.extend(missing.into_iter().map(|what| format!("{page}:{number}: {what}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each clause of the plan's parts 3 to 5 has a test or a command: a row without one fails.
#[test]
fn every_clause_has_what_shows_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/requirements.md");
    let text = std::fs::read_to_string(path).expect("requirements.md");
    let mut clauses = BTreeMap::<String, usize>::new();
    let mut part = String::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            part = heading.to_owned();
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let is_row = cells.len() == 5 && !cells[1].is_empty() && !cells[1].starts_with("---") && cells[1] != "clause";
        if is_row {
            *clauses.entry(part.clone()).or_default() += 1;
            let shown = cells[3].contains(".rs`") || cells[3].contains("`make ") || cells[3].starts_with("not done");
            assert!(shown, "{part}, {}: nothing shows it", cells[1]);
        }
    }
    assert_eq!(clauses.len(), 3, "parts 3, 4 and 5: {clauses:?}");
    assert!(clauses.values().all(|rows| *rows >= 9), "{clauses:?}");
}

#[test]
fn what_is_not_there_is_noticed() {
    let sources = Sources::read();
    let file = "tests/cited.rs";
    let holds = [
        format!("`{file}` `what_is_not_there_is_noticed`, \"a row of this table\""),
        format!("`{file}` `what_is_not_there_is_noticed`; \"another row\""),
        "`grace_period_of_nothing` without a file is a word of another page".to_owned(),
    ];
    for (cell, rows) in holds.iter().zip([true, true, false]) {
        assert_eq!(missing(cell, &sources, rows), Vec::<String>::new(), "{cell}");
    }
    let absent = format!("no_such_{}_of_ours", "function");
    let attacks = [
        ("a file that is gone", format!("`tests/{absent}.rs`")),
        ("half a name", "`ited.rs`".to_owned()),
        ("a star over nothing", format!("`tests/{absent}_*.rs`")),
        ("a function that is gone", format!("`{file}` `{absent}`")),
        (
            "a function of another file",
            format!("`{file}` `imports_go_only_downwards`"),
        ),
        ("a row that is gone", format!("`{file}` \"{absent}\"")),
        ("a name that is nowhere", format!("`{absent}`")),
        ("a path that is nowhere", format!("`appraisal::{absent}`")),
    ];
    for (attack, cell) in attacks {
        assert_eq!(missing(&cell, &sources, true).len(), 1, "{attack}: {cell}");
    }
}
