//! Frames: a signed head and the lists it vouches for, whole, as changed pages, or not at all.
//!
//! CBOR map {0: head (bstr), 1: body}; body is `[0]` (heartbeat), `[1, [[number, list] …]]` (whole lists) or
//! `[2, base epoch, [[number, page, bytes] …]]` (pages that changed since the base epoch). Lists and pages are zlib
//! streams (RFC 1950), rising by number and page. The ids of revoked off-line delegations follow as one more byte string
//! ([`crate::revoked`]): with whole lists where there are any, with pages where they changed. A frame is not signed: the
//! digests in its head judge the body.

use std::collections::BTreeMap;

use touchstone_cose::cbor::{Limits, MapReader, Value, decode, encode};
use touchstone_cose::status_list::StatusList;

use crate::lists::{MAX_ENTRIES, MAX_LISTS, PAGE_ENTRIES, StatusLists};
use crate::revoked::RevokedIds;
use crate::signed::SignedError;
use crate::trust_head::MAX_HEAD_BYTES;

/// The largest frame, in bytes: all lists whole, none of them compressible.
pub const MAX_FRAME_BYTES: usize = MAX_LISTS * (MAX_ENTRIES as usize / 4) + 64 * 1024;

/// The most pages in one delta: every page of every list.
pub const MAX_DELTA_PAGES: usize = MAX_LISTS * (MAX_ENTRIES / PAGE_ENTRIES) as usize;

const LIMITS: Limits = Limits {
    max_bytes: MAX_FRAME_BYTES,
    max_depth: 5,
    max_items: 16 + 4 * MAX_DELTA_PAGES,
};

const HEAD: i64 = 0;
const BODY: i64 = 1;
const NONE: u64 = 0;
const FULL: u64 = 1;
const DELTA: u64 = 2;

/// What a frame carries beside the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A heartbeat: nothing changed since the head of the same epoch.
    None,
    /// Everything.
    Full {
        /// Every list by number, each as a zlib stream of its uncompressed bytes.
        lists: BTreeMap<u16, Vec<u8>>,
        /// Every revoked id.
        revoked: RevokedIds,
    },
    /// Pages that changed.
    Delta {
        /// The epoch the pages are the difference to.
        base_epoch: u64,
        /// By list number and page number, each page as a zlib stream.
        pages: BTreeMap<u16, BTreeMap<u16, Vec<u8>>>,
        /// Every revoked id, where they are others than in the base epoch.
        revoked: Option<RevokedIds>,
    },
}

/// A head and its body, as they travel. Nothing in it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustFrame {
    /// The signed head.
    pub head: Vec<u8>,
    /// The lists.
    pub body: Body,
}

impl TrustFrame {
    /// A head alone, for who holds its epoch.
    pub fn heartbeat(head: &[u8]) -> Self {
        Self {
            head: head.to_vec(),
            body: Body::None,
        }
    }

    /// A head with all its lists and revoked ids.
    pub fn full(head: &[u8], lists: &StatusLists, revoked: &RevokedIds) -> Self {
        let lists = lists
            .iter()
            .map(|(number, list)| (number, deflate(&list.to_bytes())))
            .collect();
        Self {
            head: head.to_vec(),
            body: Body::Full {
                lists,
                revoked: revoked.clone(),
            },
        }
    }

    /// A head with what differs from `base`, the lists and revoked ids of `base_epoch`.
    pub fn delta(
        head: &[u8],
        base_epoch: u64,
        (base, base_revoked): (&StatusLists, &RevokedIds),
        (lists, revoked): (&StatusLists, &RevokedIds),
    ) -> Self {
        let mut pages = BTreeMap::new();
        for (number, list) in lists.iter() {
            let mut changed = BTreeMap::new();
            for page in list.pages_that_differ(base.get(number)) {
                if let (Ok(index), Some(bytes)) = (u16::try_from(page), list.page(page)) {
                    changed.insert(index, deflate(bytes));
                }
            }
            if !changed.is_empty() {
                pages.insert(number, changed);
            }
        }
        Self {
            head: head.to_vec(),
            body: Body::Delta {
                base_epoch,
                pages,
                revoked: (revoked != base_revoked).then(|| revoked.clone()),
            },
        }
    }

    /// The bytes to send; one frame serves every subscriber that holds its base.
    pub fn encode(&self) -> Vec<u8> {
        let body = match &self.body {
            Body::None => vec![Value::Unsigned(NONE)],
            Body::Full { lists, revoked } => {
                let list = |(number, bytes): (&u16, &Vec<u8>)| {
                    Value::Array(vec![Value::Unsigned((*number).into()), Value::bytes(bytes.as_slice())])
                };
                let mut body = vec![Value::Unsigned(FULL), Value::Array(lists.iter().map(list).collect())];
                body.extend((!revoked.is_empty()).then(|| Value::Bytes(revoked.to_bytes())));
                body
            }
            Body::Delta {
                base_epoch,
                pages,
                revoked,
            } => {
                let changed = pages.iter().flat_map(|(number, pages)| {
                    pages.iter().map(|(page, bytes)| {
                        Value::Array(vec![
                            Value::Unsigned((*number).into()),
                            Value::Unsigned((*page).into()),
                            Value::bytes(bytes.as_slice()),
                        ])
                    })
                });
                let mut body = vec![
                    Value::Unsigned(DELTA),
                    Value::Unsigned(*base_epoch),
                    Value::Array(changed.collect()),
                ];
                body.extend(revoked.iter().map(|revoked| Value::Bytes(revoked.to_bytes())));
                body
            }
        };
        encode(&Value::map([
            (HEAD, Value::bytes(self.head.as_slice())),
            (BODY, Value::Array(body)),
        ]))
    }

    /// Reads a frame of at most [`MAX_FRAME_BYTES`]. Nothing is inflated and nothing verified:
    /// [`crate::trust_view::TrustView::accept`] does both.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignedError> {
        if bytes.len() > MAX_FRAME_BYTES {
            return Err(SignedError::TooLarge {
                limit: MAX_FRAME_BYTES,
                found: bytes.len(),
            });
        }
        let mut frame = MapReader::new(decode(bytes, LIMITS)?, "trust frame")?;
        let head = frame.bytes(HEAD)?;
        if head.len() > MAX_HEAD_BYTES {
            return Err(SignedError::TooLarge {
                limit: MAX_HEAD_BYTES,
                found: head.len(),
            });
        }
        let mut body = frame.array(BODY)?.into_iter();
        frame.finish()?;
        let unknown = || SignedError::malformed("unknown body");
        let mut part = || body.next();
        let body = match (part(), part(), part(), part(), part()) {
            (Some(Value::Unsigned(NONE)), None, None, None, None) => Body::None,
            (Some(Value::Unsigned(FULL)), Some(Value::Array(lists)), revoked, None, None) => Body::Full {
                lists: full(lists)?,
                // None are written by leaving them out, so that there is one encoding.
                revoked: match revoked {
                    None => RevokedIds::default(),
                    Some(Value::Bytes(ids)) if !ids.is_empty() => ids_of(&ids)?,
                    Some(_) => return Err(unknown()),
                },
            },
            (
                Some(Value::Unsigned(DELTA)),
                Some(Value::Unsigned(base_epoch)),
                Some(Value::Array(pages)),
                revoked,
                None,
            ) => Body::Delta {
                base_epoch,
                pages: delta(pages)?,
                revoked: match revoked {
                    None => None,
                    Some(Value::Bytes(ids)) => Some(ids_of(&ids)?),
                    Some(_) => return Err(unknown()),
                },
            },
            _ => return Err(unknown()),
        };
        Ok(Self { head, body })
    }
}

fn ids_of(bytes: &[u8]) -> Result<RevokedIds, SignedError> {
    RevokedIds::from_bytes(bytes).map_err(|error| SignedError::Malformed(error.to_string()))
}

fn full(values: Vec<Value>) -> Result<BTreeMap<u16, Vec<u8>>, SignedError> {
    let mut lists = BTreeMap::new();
    for value in values {
        let Value::Array(list) = value else {
            return Err(SignedError::malformed("a list is [number, bytes]"));
        };
        let [Value::Unsigned(number), Value::Bytes(bytes)] =
            <[Value; 2]>::try_from(list).map_err(|_| SignedError::malformed("a list is [number, bytes]"))?
        else {
            return Err(SignedError::malformed("a list is [number, bytes]"));
        };
        let number = u16::try_from(number).map_err(|_| SignedError::out_of_range("list number", number))?;
        if lists.last_key_value().is_some_and(|(last, _)| *last >= number) {
            return Err(SignedError::malformed("list numbers must rise"));
        }
        lists.insert(number, bytes);
        if lists.len() > MAX_LISTS {
            return Err(SignedError::malformed("too many lists"));
        }
    }
    Ok(lists)
}

fn delta(values: Vec<Value>) -> Result<BTreeMap<u16, BTreeMap<u16, Vec<u8>>>, SignedError> {
    let shape = || SignedError::malformed("a page is [list number, page number, bytes]");
    if values.len() > MAX_DELTA_PAGES {
        return Err(SignedError::malformed("too many pages"));
    }
    let mut pages: BTreeMap<u16, BTreeMap<u16, Vec<u8>>> = BTreeMap::new();
    let mut last = None;
    for value in values {
        let Value::Array(page) = value else { return Err(shape()) };
        let [Value::Unsigned(number), Value::Unsigned(page), Value::Bytes(bytes)] =
            <[Value; 3]>::try_from(page).map_err(|_| shape())?
        else {
            return Err(shape());
        };
        let number = u16::try_from(number).map_err(|_| SignedError::out_of_range("list number", number))?;
        let page = u16::try_from(page).map_err(|_| SignedError::out_of_range("page number", page))?;
        if last >= Some((number, page)) {
            return Err(SignedError::malformed("pages must rise"));
        }
        last = Some((number, page));
        pages.entry(number).or_default().insert(page, bytes);
    }
    Ok(pages)
}

/// `bytes` as a zlib stream. At most one status list.
fn deflate(bytes: &[u8]) -> Vec<u8> {
    StatusList::from_bytes(bytes.to_vec())
        .map(|list| list.to_zlib())
        .unwrap_or_default()
}

/// The bytes of a zlib stream that inflates to exactly `expected` bytes. Never inflates more than one status list holds.
pub(crate) fn inflate(stream: &[u8], expected: usize) -> Option<Vec<u8>> {
    let list = StatusList::from_zlib(stream).ok()?;
    (list.as_bytes().len() == expected).then(|| list.as_bytes().to_vec())
}
