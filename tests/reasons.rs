//! Every stable reason code of the workspace, its catalogue in `docs/src/reasons.md`, and what must hold for all of them.
//!
//! The page is made from the code: `TOUCHSTONE_WRITE_DOCS=1 cargo test --test tests reasons` writes it, without that variable
//! the test compares. A new catalogue must be added to [`rooms`]; one that is not in it cannot be found by its readers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use touchstone_cose::reason::CatalogueEntry;

/// Set to 1, the page is written instead of compared.
const WRITE: &str = "TOUCHSTONE_WRITE_DOCS";

const HEAD: &str = "# Reasons

Every refusal carries a stable code. Scripts may match on the code; people read the words beside it: what it is about,
what would have been accepted, what was found. A code is never given another meaning.

This page is made from the code (`tests/reasons.rs`). Do not edit it: run
`TOUCHSTONE_WRITE_DOCS=1 cargo test --test tests reasons`.

Where a code comes from says who speaks: an appraisal says what is wrong with a machine, a broker says what is wrong with
a request, an enforcer says what is wrong with an authorization, a policy repository says what is wrong with itself.
";

/// One heading of the page.
struct Room {
    title: &'static str,
    where_it_appears: &'static str,
    catalogues: Vec<&'static [CatalogueEntry]>,
}

fn rooms() -> Vec<Room> {
    vec![
        Room {
            title: "Appraisal of evidence",
            where_it_appears: "In the reasons of `touchstone verify`, of an attestation result (EAR), of a broker's answer \
                               and of a ledger statement. Reasons are sorted in this order, then by claim. The \
                               `reference-…` codes at the end are also the `found` of `policy-reference-refused`.",
            catalogues: touchstone_verifier::reason::Code::CATALOGUES.to_vec(),
        },
        Room {
            title: "Evidence envelopes",
            where_it_appears: "When an envelope is read: `touchstone evidence`, `touchstone verify` (exit code 2), a broker.",
            catalogues: vec![touchstone_evidence::collection::EnvelopeCode::CATALOGUE],
        },
        Room {
            title: "The broker, before it knows who asks",
            where_it_appears: "In problem documents (`application/problem+json`), and in the ledger's summaries of \
                               refusals. None of these touches the state of any node.",
            catalogues: vec![touchstone_keybroker::problem::RefusalCode::CATALOGUE],
        },
        Room {
            title: "Decisions about a node",
            where_it_appears: "In answers and statements about an authenticated node, beside the reasons of its appraisal.",
            catalogues: vec![
                touchstone_keybroker::decision::DenialCode::CATALOGUE,
                touchstone_keybroker::drift::DriftCode::CATALOGUE,
                touchstone_keybroker::bootstrap::BootstrapCode::CATALOGUE,
                touchstone_keybroker::release::decide::ReleaseCode::CATALOGUE,
                touchstone_keybroker::workload::decide::WorkloadCode::CATALOGUE,
                touchstone_keybroker::workload::uses::UseCode::CATALOGUE,
                touchstone_attest::bootstrap::volume::VolumeCode::CATALOGUE,
                touchstone_policies::DecisionCode::CATALOGUE,
            ],
        },
        Room {
            title: "Enforcers",
            where_it_appears: "When a guard or a service decides about an authorization, a proof of possession and a trust \
                               state.",
            catalogues: vec![
                touchstone_authorization::RefusalCode::CATALOGUE,
                touchstone_enforcer::layer::AccessCode::CATALOGUE,
                touchstone_enforcer::oci::ContainerCode::CATALOGUE,
            ],
        },
        Room {
            title: "The policy repository",
            where_it_appears: "When a repository is loaded, staged into or published. `touchstone verify` then gives the \
                               verdict `none` and exit code 1; `policy-io` alone is exit code 2.",
            catalogues: vec![touchstone_policies::PolicyCode::CATALOGUE],
        },
        Room {
            title: "The ledger",
            where_it_appears: "When a proof, a checkpoint, a receipt or a statement is checked.",
            catalogues: vec![touchstone_ledger::reason::Code::CATALOGUE],
        },
        Room {
            title: "CBOR, COSE and keys",
            where_it_appears: "Underneath the others: as the code of a message, token or list that is not well formed.",
            catalogues: vec![touchstone_cose::code::Code::CATALOGUE],
        },
        #[cfg(feature = "tpm")]
        Room {
            title: "The TPM of this machine",
            where_it_appears: "On the node: `touchstone agent`, `touchstone evidence collect`.",
            catalogues: vec![touchstone_attest::tpm::TpmCode::CATALOGUE],
        },
    ]
}

fn entries() -> impl Iterator<Item = (&'static str, CatalogueEntry)> {
    rooms().into_iter().flat_map(|room| {
        let all: Vec<CatalogueEntry> = room.catalogues.into_iter().flatten().copied().collect();
        all.into_iter().map(move |entry| (room.title, entry))
    })
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for Room {
        title,
        where_it_appears,
        catalogues,
    } in rooms()
    {
        let _ = write!(
            page,
            "\n## {title}\n\n{where_it_appears}\n\n| code | meaning |\n| --- | --- |\n"
        );
        for CatalogueEntry { code, meaning } in catalogues.into_iter().flatten() {
            let _ = writeln!(page, "| `{code}` | {} |", meaning.replace('|', "\\|"));
        }
    }
    page
}

fn path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "docs", "src", "reasons.md"]
        .iter()
        .collect()
}

#[test]
fn no_code_has_two_meanings() {
    let mut meanings: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    let mut twice = Vec::new();
    for (room, CatalogueEntry { code, meaning }) in entries() {
        if let Some((first_room, first)) = meanings.insert(code, (room, meaning))
            && first != meaning
        {
            twice.push(format!("{code}: {first_room}: {first} / {room}: {meaning}"));
        }
    }
    assert!(twice.is_empty(), "these codes have two meanings:\n{}", twice.join("\n"));
}

#[test]
fn codes_are_kebab_case_and_meanings_are_sentences() {
    for (room, CatalogueEntry { code, meaning }) in entries() {
        let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        assert!(
            code.split('-').all(word) && code.len() <= 64,
            "{room}: {code} is not kebab-case of at most 64 bytes"
        );
        assert!(
            meaning.ends_with('.') && !meaning.contains('\n'),
            "{room}: {code}: one line of sentences"
        );
    }
}

#[test]
#[cfg(feature = "tpm")]
fn the_page_is_what_the_code_says() {
    let (page, path) = (page(), path());
    if std::env::var_os(WRITE).is_some_and(|value| value == "1") {
        std::fs::write(&path, &page).expect("docs/src/reasons.md");
        return;
    }
    let written = std::fs::read_to_string(&path).expect("docs/src/reasons.md");
    let differs = written
        .lines()
        .zip(page.lines())
        .find(|(written, made)| written != made);
    assert!(
        written == page,
        "docs/src/reasons.md is behind the code: run {WRITE}=1 cargo test --test tests reasons\nfirst difference: {differs:?}"
    );
}
