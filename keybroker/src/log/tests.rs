//! The ledger after opening again, and stores that were altered.

use touchstone_ledger::tree::{inclusion_proof, root_from_inclusion, verify_inclusion};
use touchstone_store::RedbStore;

use super::*;

fn store() -> (tempfile::TempDir, RedbStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = RedbStore::open(&folder.path().join("store")).unwrap();
    (folder, store)
}

fn append(edge: &mut LogEdge, store: &RedbStore, entries: &[&[u8]]) {
    let mut batch = Batch::new();
    let staged = edge.stage(entries.iter().copied(), &mut batch).unwrap();
    store.commit(batch).unwrap();
    edge.settle(staged);
}

#[test]
fn what_was_appended_is_there_after_opening_again() {
    let (_folder, store) = store();
    let mut edge = LogEdge::open(&store).unwrap();
    assert_eq!(edge.head().size, 0);
    append(&mut edge, &store, &[b"genesis"]);
    append(&mut edge, &store, &[b"one", b"two", b"three"]);
    let again = LogEdge::open(&store).unwrap();
    assert_eq!(again.head(), edge.head());
    assert_eq!(head(&store).unwrap(), Some(edge.head()));
    assert_eq!(entries(&store, 1, 2).unwrap(), [b"one".to_vec(), b"two".to_vec()]);
    for (index, entry) in [b"genesis".as_slice(), b"one", b"two", b"three"].iter().enumerate() {
        let path = inclusion_proof(index as u64, 4, &again.source(&store)).unwrap();
        let root = again.head().root;
        verify_inclusion(&leaf_hash(entry), index as u64, 4, &path, &root).unwrap();
        assert_eq!(root_from_inclusion(&leaf_hash(entry), index as u64, 4, &path), Ok(root));
    }
}

#[test]
fn proofs_beyond_the_cache_come_from_the_store() {
    let (_folder, store) = store();
    let mut edge = LogEdge::open(&store).unwrap();
    let many: Vec<Vec<u8>> = (0..3 * CACHED_HASHES as u32)
        .map(|n| n.to_be_bytes().to_vec())
        .collect();
    let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    for part in many.chunks(1_000) {
        append(&mut edge, &store, part);
    }
    assert!(
        edge.cache
            .levels
            .iter()
            .all(|level| level.hashes.len() <= CACHED_HASHES)
    );
    let LogHead { size, root } = edge.head();
    for index in [0, 1, 1_023, 1_024, size - 1] {
        let path = inclusion_proof(index, size, &edge.source(&store)).unwrap();
        verify_inclusion(&leaf_hash(many[index as usize]), index, size, &path, &root).unwrap();
    }
}

#[test]
fn an_altered_store_is_not_used() {
    for (attack, alter) in [
        (
            "entry altered",
            (|batch| {
                batch.put(rows::LEAF.numbered(1), *b"other");
            }) as fn(&mut Batch),
        ),
        ("entry removed", |batch| {
            batch.delete(rows::LEAF.numbered(1));
        }),
        ("last entry removed", |batch| {
            batch.delete(rows::LEAF.numbered(2));
        }),
        ("entry added", |batch| {
            batch.put(rows::LEAF.numbered(3), *b"more");
        }),
        ("head removed", |batch| {
            batch.delete(rows::log_head().unwrap());
        }),
        ("head set back", |batch| {
            let edge = LogEdge {
                frontier: Frontier::new(),
                cache: Cache::default(),
            };
            let staged = edge.stage([b"genesis".as_slice()], &mut Batch::new()).unwrap();
            batch.put(rows::log_head().unwrap(), staged.head().encode());
        }),
    ] {
        let (_folder, store) = store();
        let mut edge = LogEdge::open(&store).unwrap();
        append(&mut edge, &store, &[b"genesis", b"one", b"two"]);
        let mut batch = Batch::new();
        alter(&mut batch);
        store.commit(batch).unwrap();
        assert!(matches!(LogEdge::open(&store), Err(LogError::Torn { .. })), "{attack}");
    }
}
