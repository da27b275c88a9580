//! People see what is published, what is staged and what is wrong, also when it has expired.

use super::*;
use crate::author::identity::NodeIdentity;
use crate::author::{reference_add, withdraw};
use crate::testing::{DAY, NOW, TestRepo, boot_evidence};

fn changes(show: &Show) -> Vec<(&str, Change)> {
    show.staged.iter().map(|s| (s.target.as_str(), s.change)).collect()
}

#[test]
fn before_the_first_publish_everything_is_new() {
    let test = TestRepo::new();
    let shown = show(&test.repo, NOW).unwrap();
    assert_eq!(shown.published, None);
    assert_eq!(
        shown.problems.iter().map(|p| p.code).collect::<Vec<_>>(),
        ["policy-not-published"]
    );
    assert!(shown.staged.len() == 4 + 9 + 2 && shown.staged.iter().all(|s| s.change == Change::New));
    assert_eq!(
        shown
            .roles
            .iter()
            .map(|r| (r.threshold, r.keys.len()))
            .collect::<Vec<_>>(),
        [(1, 1); 4]
    );
    assert!(show(test.dir.path(), NOW).is_err());
}

#[test]
fn what_changed_since_is_told_from_what_is_published() {
    let test = TestRepo::published();
    let shown = show(&test.repo, NOW).unwrap();
    assert_eq!(shown.problems, []);
    assert!(
        shown.staged.iter().all(|s| s.change == Change::Published),
        "{:?}",
        shown.staged
    );
    let published = shown.published.unwrap();
    assert_eq!(
        (published.domain.as_str(), published.version, published.keyset_version),
        ("eu-1.example", 1, 0)
    );
    assert_eq!(published.nodes, [("web-1".to_owned(), "north".to_owned(), None)]);
    assert_eq!(
        published.references,
        [("golden".to_owned(), "reference-1".to_owned(), None)]
    );
    assert_eq!(
        (
            published.anchors.len(),
            published.regions.len(),
            published.expires.len()
        ),
        // One of its own, the root of each of AMD's three product lines, Intel's, and NVIDIA's.
        (1 + 3 + 2, 1, 4)
    );

    reference_add(&test.repo, &boot_evidence("uki"), Some("uki"), None, None).unwrap();
    test.add_node(
        "web-1",
        "north",
        NodeIdentity::Ak(crate::testing::boot_file("good", "ak-rsa.pem")),
    )
    .unwrap();
    withdraw(&test.repo, "references/golden.corim").unwrap();
    let shown = show(&test.repo, NOW).unwrap();
    let changed: Vec<_> = changes(&shown)
        .into_iter()
        .filter(|(_, c)| *c != Change::Published)
        .collect();
    assert_eq!(
        changed,
        [
            ("nodes/web-1.json", Change::Changed),
            ("references/golden.corim", Change::Withdrawn),
            ("references/uki.corim", Change::New)
        ]
    );
}

#[test]
fn an_expired_version_is_shown_with_its_problem() {
    let test = TestRepo::published();
    let shown = show(&test.repo, NOW + DAY).unwrap();
    assert_eq!(
        shown.problems.iter().map(|p| p.code).collect::<Vec<_>>(),
        ["policy-snapshot-expired", "policy-timestamp-expired"]
    );
    assert_eq!(shown.published.unwrap().version, 1);
    std::fs::write(test.metadata("timestamp.json"), "{}").unwrap();
    let shown = show(&test.repo, NOW).unwrap();
    assert_eq!((shown.published, shown.problems.len()), (None, 1));
}
