//! Status lists as pages: two bits an entry, the layout of Token Status List (draft-ietf-oauth-status-list) with
//! `bits` = 2, cut into 4 KiB pages so that a change travels and hashes as a page and not as a list.
//!
//! The digest of a list is SHA-256 over the concatenated SHA-256 of each page of its uncompressed bytes
//! (`docs/protocol.md`, section 7). Pages are shared: a copy of a list costs one pointer a page.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
pub use touchstone_cose::status_list::Status;
use touchstone_cose::status_list::{self, StatusList};

/// Bytes in a page; only the last page of a list may be shorter.
pub const PAGE_BYTES: usize = 4096;

/// Entries in a full page.
pub const PAGE_ENTRIES: u32 = 4 * 4096;

/// The most entries in one list (256 KiB uncompressed).
pub const MAX_ENTRIES: u32 = 1 << 20;

/// The most lists a domain has.
pub const MAX_LISTS: usize = 16;

/// Why bytes or changes do not make a status list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// No entries, or more than [`MAX_ENTRIES`].
    #[error("a status list has 1 to {MAX_ENTRIES} entries, not {found}")]
    Entries {
        /// The number asked for.
        found: u32,
    },
    /// The bytes do not fit the number of entries.
    #[error("{expected} bytes expected, {found} found")]
    Length {
        /// Bytes that the number of entries takes.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// An index at or beyond the number of entries.
    #[error("index {found} is outside a list of {entries} entries")]
    Index {
        /// Entries in the list.
        entries: u32,
        /// The index asked for.
        found: u32,
    },
    /// More than [`MAX_LISTS`] lists.
    #[error("more than {MAX_LISTS} status lists")]
    TooMany,
}

#[derive(Debug, PartialEq, Eq)]
struct Page {
    bytes: Vec<u8>,
    digest: [u8; 32],
}

impl Page {
    fn new(bytes: Vec<u8>) -> Arc<Self> {
        let digest = Sha256::digest(&bytes).into();
        Arc::new(Self { bytes, digest })
    }
}

/// One status list, uncompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusArray {
    entries: u32,
    pages: Vec<Arc<Page>>,
    digest: [u8; 32],
}

impl StatusArray {
    /// A list of `entries` entries (1 to [`MAX_ENTRIES`]), all valid.
    pub fn new(entries: u32) -> Result<Self, ListError> {
        let length = byte_length(entries)?;
        let full = Page::new(vec![0; PAGE_BYTES.min(length)]);
        let mut pages = vec![Arc::clone(&full); length / PAGE_BYTES];
        if !length.is_multiple_of(PAGE_BYTES) {
            pages.push(Page::new(vec![0; length % PAGE_BYTES]));
        }
        Ok(Self::from_pages(entries, pages))
    }

    /// The list whose uncompressed bytes these are: entry `i` is the two bits at `(i % 4) * 2` of byte `i / 4`.
    pub fn from_bytes(entries: u32, bytes: &[u8]) -> Result<Self, ListError> {
        let expected = byte_length(entries)?;
        if bytes.len() != expected {
            return Err(ListError::Length {
                expected,
                found: bytes.len(),
            });
        }
        Ok(Self::from_pages(
            entries,
            bytes.chunks(PAGE_BYTES).map(|page| Page::new(page.to_vec())).collect(),
        ))
    }

    /// The uncompressed bytes, one after another.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.pages.iter().map(|page| page.bytes.len()).sum());
        self.pages.iter().for_each(|page| bytes.extend_from_slice(&page.bytes));
        bytes
    }

    /// How many entries the list has.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// SHA-256 over the concatenated SHA-256 of each page.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// How many pages the list has.
    pub fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// The bytes of one page.
    pub fn page(&self, index: usize) -> Option<&[u8]> {
        self.pages.get(index).map(|page| page.bytes.as_slice())
    }

    /// The status of one entry, `None` outside the list.
    pub fn status(&self, index: u32) -> Option<Status> {
        if index >= self.entries {
            return None;
        }
        status_list::get(
            self.page((index / PAGE_ENTRIES) as usize)?,
            u64::from(index % PAGE_ENTRIES),
        )
        .ok()
    }

    /// A copy of this list with some entries changed; a page is copied and hashed once, however much in it changes.
    pub fn with(&self, changes: impl IntoIterator<Item = (u32, Status)>) -> Result<Self, ListError> {
        let mut touched: BTreeMap<usize, StatusList> = BTreeMap::new();
        for (index, status) in changes {
            let outside = |_| ListError::Index {
                entries: self.entries,
                found: index,
            };
            if index >= self.entries {
                return Err(ListError::Index {
                    entries: self.entries,
                    found: index,
                });
            }
            let number = (index / PAGE_ENTRIES) as usize;
            let page = match touched.entry(number) {
                Entry::Occupied(page) => page.into_mut(),
                Entry::Vacant(slot) => {
                    let bytes = self.page(number).unwrap_or_default().to_vec();
                    slot.insert(StatusList::from_bytes(bytes).map_err(outside)?)
                }
            };
            page.set(u64::from(index % PAGE_ENTRIES), status).map_err(outside)?;
        }
        let mut pages = self.pages.clone();
        for (number, changed) in touched {
            if let Some(page) = pages.get_mut(number) {
                *page = Page::new(changed.as_bytes().to_vec());
            }
        }
        Ok(Self::from_pages(self.entries, pages))
    }

    /// A list of `entries` entries that takes `pages` (number, bytes) where given and the pages of `base` elsewhere;
    /// pages that neither has are all valid. The caller compares the digest of what comes out with a signed one.
    pub(crate) fn patched(
        base: Option<&Self>,
        entries: u32,
        mut pages: BTreeMap<usize, Vec<u8>>,
    ) -> Result<Self, ListError> {
        let length = byte_length(entries)?;
        let count = length.div_ceil(PAGE_BYTES);
        let mut patched = Vec::with_capacity(count);
        for number in 0..count {
            let expected = PAGE_BYTES.min(length - number * PAGE_BYTES);
            let page = match (pages.remove(&number), base.and_then(|base| base.pages.get(number))) {
                (Some(bytes), _) if bytes.len() != expected => {
                    return Err(ListError::Length {
                        expected,
                        found: bytes.len(),
                    });
                }
                (Some(bytes), _) => Page::new(bytes),
                (None, Some(held)) if held.bytes.len() == expected => Arc::clone(held),
                (None, Some(held)) => {
                    let mut bytes = held.bytes.clone();
                    bytes.resize(expected, 0);
                    Page::new(bytes)
                }
                (None, None) => Page::new(vec![0; expected]),
            };
            patched.push(page);
        }
        match pages.first_key_value() {
            Some((number, bytes)) => Err(ListError::Length {
                expected: length,
                found: number * PAGE_BYTES + bytes.len(),
            }),
            None => Ok(Self::from_pages(entries, patched)),
        }
    }

    /// The numbers of the pages in which this list differs from `base`.
    pub(crate) fn pages_that_differ(&self, base: Option<&Self>) -> Vec<usize> {
        let held = |number| base.and_then(|base: &Self| base.pages.get(number));
        let differs = |(number, page): (usize, &Arc<Page>)| {
            (held(number).map(|held| held.digest) != Some(page.digest)).then_some(number)
        };
        self.pages.iter().enumerate().filter_map(differs).collect()
    }

    fn from_pages(entries: u32, pages: Vec<Arc<Page>>) -> Self {
        let mut hash = Sha256::new();
        pages.iter().for_each(|page| hash.update(page.digest));
        Self {
            entries,
            pages,
            digest: hash.finalize().into(),
        }
    }
}

/// The status lists of a domain by number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StatusLists(BTreeMap<u16, StatusArray>);

impl StatusLists {
    /// The lists with these numbers, at most [`MAX_LISTS`]; of two with one number the later stays.
    pub fn new(lists: impl IntoIterator<Item = (u16, StatusArray)>) -> Result<Self, ListError> {
        let mut map = BTreeMap::new();
        for (number, list) in lists {
            map.insert(number, list);
            if map.len() > MAX_LISTS {
                return Err(ListError::TooMany);
            }
        }
        Ok(Self(map))
    }

    /// The list with this number.
    pub fn get(&self, number: u16) -> Option<&StatusArray> {
        self.0.get(&number)
    }

    /// All lists, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &StatusArray)> {
        self.0.iter().map(|(number, list)| (*number, list))
    }
}

/// Bytes that a list of so many entries takes.
pub(crate) fn byte_length(entries: u32) -> Result<usize, ListError> {
    if entries == 0 || entries > MAX_ENTRIES {
        return Err(ListError::Entries { found: entries });
    }
    Ok(entries.div_ceil(4) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_draft() {
        // draft-ietf-oauth-status-list, 2-bit example: bytes C9 44 F9 hold 1,2,0,3, 0,1,0,1, 1,2,3,3.
        let list = StatusArray::from_bytes(12, &[0xC9, 0x44, 0xF9]).unwrap();
        let values: Vec<u8> = (0..12).map(|i| list.status(i).unwrap() as u8).collect();
        assert_eq!(values, [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3]);
        assert_eq!(list.status(12), None);
    }

    #[test]
    fn the_digest_is_over_page_digests() {
        let bytes: Vec<u8> = (0..PAGE_BYTES + 10).map(|n| (n % 251) as u8).collect();
        let list = StatusArray::from_bytes(4 * bytes.len() as u32, &bytes).unwrap();
        let mut concatenated = Sha256::digest(&bytes[..PAGE_BYTES]).to_vec();
        concatenated.extend_from_slice(&Sha256::digest(&bytes[PAGE_BYTES..]));
        assert_eq!(list.digest(), <[u8; 32]>::from(Sha256::digest(&concatenated)));
        assert_eq!(list.to_bytes(), bytes);
    }

    #[test]
    fn changes_touch_only_their_entry_and_their_page() {
        let before = StatusArray::new(3 * PAGE_ENTRIES + 5).unwrap();
        assert_eq!(before.page_count(), 4);
        let last = 3 * PAGE_ENTRIES + 4;
        let after = before
            .with([(PAGE_ENTRIES, Status::Invalid), (last, Status::Suspended)])
            .unwrap();
        assert_eq!(after.pages_that_differ(Some(&before)), [1, 3]);
        assert_eq!(after.status(PAGE_ENTRIES), Some(Status::Invalid));
        assert_eq!(after.status(PAGE_ENTRIES + 1), Some(Status::Valid));
        assert_eq!(after.status(last), Some(Status::Suspended));
        let back = after
            .with([(PAGE_ENTRIES, Status::Valid), (last, Status::Valid)])
            .unwrap();
        assert_eq!(back, before);
        assert_eq!(
            before.with([(last + 1, Status::Invalid)]),
            Err(ListError::Index {
                entries: last + 1,
                found: last + 1
            })
        );
    }

    #[test]
    fn patching_gives_the_same_list_and_refuses_strays() {
        let before = StatusArray::new(10).unwrap();
        let after = StatusArray::new(2 * PAGE_ENTRIES)
            .unwrap()
            .with([(PAGE_ENTRIES + 9, Status::Invalid)])
            .unwrap();
        let page = |n: usize| (n, after.page(n).unwrap().to_vec());
        let patched = StatusArray::patched(Some(&before), after.entries(), [page(1)].into()).unwrap();
        assert_eq!(
            patched, after,
            "a list that grows keeps its entries and fills up with valid ones"
        );
        let stray = StatusArray::patched(Some(&before), after.entries(), [(2, vec![0; PAGE_BYTES])].into());
        assert!(matches!(stray, Err(ListError::Length { .. })));
        let short = StatusArray::patched(Some(&before), after.entries(), [(0, vec![0; 5])].into());
        assert_eq!(
            short,
            Err(ListError::Length {
                expected: PAGE_BYTES,
                found: 5
            })
        );
    }

    #[test]
    fn sizes_that_are_refused() {
        assert_eq!(StatusArray::new(0), Err(ListError::Entries { found: 0 }));
        assert_eq!(
            StatusArray::new(MAX_ENTRIES + 1),
            Err(ListError::Entries { found: MAX_ENTRIES + 1 })
        );
        assert_eq!(
            StatusArray::from_bytes(12, &[0; 4]),
            Err(ListError::Length { expected: 3, found: 4 })
        );
        let one = StatusArray::new(1).unwrap();
        let many = StatusLists::new((0..=MAX_LISTS as u16).map(|n| (n, one.clone())));
        assert_eq!(many, Err(ListError::TooMany));
    }
}
