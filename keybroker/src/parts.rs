//! Parts of recorded inputs in the store: by their SHA-256, whatever their length.
//!
//! A value of the store has at most [`MAX_VALUE_LEN`] bytes. A longer part (a whole IMA list may have 16 MiB) is stored as
//! its pieces, each a part of its own, under a row that lists their digests. Who reads a part checks it against its digest,
//! as ever; in what pieces it was stored is nobody's business.

use sha2::{Digest as _, Sha256};
use touchstone_store::{Key, KeyError, MAX_VALUE_LEN, Store};

use crate::nodes::NodesError;
use crate::rows;

/// The longest part: more than any record of a collection and any state that is kept of one.
pub const MAX_PART_BYTES: usize = 32 << 20;

/// Most bytes of parts in one commit of the store.
pub const MAX_COMMIT_BYTES: usize = 4 << 20;

const DIGEST_LEN: usize = 32;

/// Reads a part. `None` where it is not there whole; the caller compares what comes with `digest`.
///
/// # Errors
/// [`NodesError::Store`]
pub fn read(store: &dyn Store, digest: &[u8; DIGEST_LEN]) -> Result<Option<Vec<u8>>, NodesError> {
    if let Some(row) = store.get(&rows::PART.key(digest)?)? {
        return Ok(Some(row.value));
    }
    let Some(row) = store.get(&rows::PIECES.key(digest)?)? else {
        return Ok(None);
    };
    let (pieces, rest) = row.value.as_chunks::<DIGEST_LEN>();
    if !rest.is_empty() || pieces.len() > MAX_PART_BYTES.div_ceil(MAX_VALUE_LEN) {
        return Ok(None);
    }
    let mut whole = Vec::with_capacity(pieces.len().saturating_mul(MAX_VALUE_LEN));
    for piece in pieces {
        match store.get(&rows::PART.key(piece)?)? {
            Some(row) => whole.extend_from_slice(&row.value),
            None => return Ok(None),
        }
    }
    Ok(Some(whole))
}

/// Whether a part of this length is stored, whole.
///
/// # Errors
/// [`NodesError::Store`]
pub fn is_stored(store: &dyn Store, digest: &[u8; DIGEST_LEN], length: usize) -> Result<bool, NodesError> {
    let place = if length > MAX_VALUE_LEN {
        rows::PIECES
    } else {
        rows::PART
    };
    Ok(store.get(&place.key(digest)?)?.is_some())
}

/// What is to be written for a part, in this order and in as many commits as it takes: a part that was begun and not
/// finished is not there.
///
/// # Errors
/// Never: the keys are short.
pub fn writes(digest: &[u8; DIGEST_LEN], bytes: &[u8]) -> Result<Vec<(Key, Vec<u8>)>, KeyError> {
    if bytes.len() <= MAX_VALUE_LEN {
        return Ok(vec![(rows::PART.key(digest)?, bytes.to_vec())]);
    }
    let mut list = Vec::with_capacity(bytes.len().div_ceil(MAX_VALUE_LEN) * DIGEST_LEN);
    let mut written = Vec::new();
    for piece in bytes.chunks(MAX_VALUE_LEN) {
        let digest: [u8; DIGEST_LEN] = Sha256::digest(piece).into();
        list.extend_from_slice(&digest);
        written.push((rows::PART.key(&digest)?, piece.to_vec()));
    }
    written.push((rows::PIECES.key(digest)?, list));
    Ok(written)
}

#[cfg(test)]
mod tests {
    use touchstone_store::{Batch, RedbStore};

    use super::*;

    fn digest(bytes: &[u8]) -> [u8; DIGEST_LEN] {
        Sha256::digest(bytes).into()
    }

    fn put(store: &RedbStore, writes: &[(Key, Vec<u8>)]) {
        for (key, value) in writes {
            let mut batch = Batch::new();
            batch.put(key.clone(), value.as_slice());
            store.commit(batch).unwrap();
        }
    }

    #[test]
    fn parts_of_any_length_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store")).unwrap();
        for length in [
            1,
            MAX_VALUE_LEN,
            MAX_VALUE_LEN + 1,
            2 * MAX_VALUE_LEN,
            3 * MAX_VALUE_LEN - 7,
        ] {
            let part: Vec<u8> = (0..length).map(|n| (n / 1000) as u8).collect();
            let digest = digest(&part);
            assert_eq!(read(&store, &digest).unwrap(), None);
            assert!(!is_stored(&store, &digest, length).unwrap());
            let writes = writes(&digest, &part).unwrap();
            assert!(writes.iter().all(|(_, value)| value.len() <= MAX_VALUE_LEN));
            let (last, begun) = writes.split_last().unwrap();
            put(&store, begun);
            assert!(
                !is_stored(&store, &digest, length).unwrap() && read(&store, &digest).unwrap().is_none(),
                "begun and not finished"
            );
            put(&store, std::slice::from_ref(last));
            assert!(is_stored(&store, &digest, length).unwrap());
            assert_eq!(
                read(&store, &digest).unwrap().as_deref(),
                Some(&part[..]),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_part_with_a_piece_gone_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store")).unwrap();
        let part = vec![7; MAX_VALUE_LEN + 1];
        let writes = writes(&digest(&part), &part).unwrap();
        put(&store, &writes[1..]);
        assert_eq!(read(&store, &digest(&part)).unwrap(), None);
        let mut batch = Batch::new();
        batch.put(rows::PIECES.key(&[1; 32]).unwrap(), vec![1; 33]);
        store.commit(batch).unwrap();
        assert_eq!(read(&store, &[1; 32]).unwrap(), None, "a list that is none");
    }
}
