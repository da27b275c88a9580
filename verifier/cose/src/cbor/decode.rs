//! The strict decoder, and the gate that checks without building.

use super::{CborError, Limits, Value, major};

/// Decodes exactly one deterministic item that fills the whole of `input`.
///
/// # Errors
/// The first departure from RFC 8949 section 4.2.1 or from `limits`.
pub fn decode(input: &[u8], limits: Limits) -> Result<Value, CborError> {
    Decoder::run::<Value>(input, limits, KeyRule::Ordered)
}

/// Like [`decode`], but map keys may stand in any order; a key that is there twice is still refused.
///
/// Only for objects whose maker we do not choose (a vendor's signed CoRIM): COSE itself asks for no order. Never for
/// a format of ours.
///
/// # Errors
/// As [`decode`], except [`CborError::KeyOrder`].
pub fn decode_lenient_order(input: &[u8], limits: Limits) -> Result<Value, CborError> {
    Decoder::run::<Value>(input, limits, KeyRule::Distinct)
}

/// Checks that [`decode`] would accept `input`, without building anything.
///
/// # Errors
/// Exactly those of [`decode`].
pub fn gate(input: &[u8], limits: Limits) -> Result<(), CborError> {
    Decoder::run::<()>(input, limits, KeyRule::Ordered)
}

/// What a walk over the input makes: a [`Value`], or nothing.
trait Build: Sized {
    type List;
    type Entries;
    fn list(capacity: usize) -> Self::List;
    fn entries(capacity: usize) -> Self::Entries;
    fn push(list: &mut Self::List, item: Self);
    fn insert(entries: &mut Self::Entries, key: Self, value: Self);
    fn integer(negative: bool, argument: u64) -> Self;
    fn bytes(bytes: &[u8]) -> Self;
    fn text(text: &str) -> Self;
    fn array(list: Self::List) -> Self;
    fn map(entries: Self::Entries) -> Self;
    fn tag(tag: u64, inner: Self) -> Self;
    fn boolean(value: bool) -> Self;
    fn null() -> Self;
}

impl Build for () {
    type List = ();
    type Entries = ();
    fn list(_: usize) {}
    fn entries(_: usize) {}
    fn push((): &mut (), (): ()) {}
    fn insert((): &mut (), (): (), (): ()) {}
    fn integer(_: bool, _: u64) {}
    fn bytes(_: &[u8]) {}
    fn text(_: &str) {}
    fn array((): ()) {}
    fn map((): ()) {}
    fn tag(_: u64, (): ()) {}
    fn boolean(_: bool) {}
    fn null() {}
}

impl Build for Value {
    type List = Vec<Value>;
    type Entries = Vec<(Value, Value)>;
    fn list(capacity: usize) -> Self::List {
        Vec::with_capacity(capacity)
    }
    fn entries(capacity: usize) -> Self::Entries {
        Vec::with_capacity(capacity)
    }
    fn push(list: &mut Self::List, item: Self) {
        list.push(item);
    }
    fn insert(entries: &mut Self::Entries, key: Self, value: Self) {
        entries.push((key, value));
    }
    fn integer(negative: bool, argument: u64) -> Self {
        if negative {
            Value::Negative(argument)
        } else {
            Value::Unsigned(argument)
        }
    }
    fn bytes(bytes: &[u8]) -> Self {
        Value::Bytes(bytes.to_vec())
    }
    fn text(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
    fn array(list: Self::List) -> Self {
        Value::Array(list)
    }
    fn map(entries: Self::Entries) -> Self {
        Value::Map(entries)
    }
    fn tag(tag: u64, inner: Self) -> Self {
        Value::Tag(tag, Box::new(inner))
    }
    fn boolean(value: bool) -> Self {
        Value::Bool(value)
    }
    fn null() -> Self {
        Value::Null
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyRule {
    Ordered,
    Distinct,
}

struct Decoder<'a> {
    input: &'a [u8],
    at: usize,
    limits: Limits,
    /// Items that may still be announced. An array takes its share when its head is read, so that the memory set
    /// aside for all arrays together never exceeds the limit.
    items_left: usize,
    keys: KeyRule,
}

impl<'a> Decoder<'a> {
    fn run<B: Build>(input: &'a [u8], limits: Limits, keys: KeyRule) -> Result<B, CborError> {
        if input.len() > limits.max_bytes {
            return Err(CborError::TooLarge {
                limit: limits.max_bytes,
                found: input.len(),
            });
        }
        let mut decoder = Decoder {
            input,
            at: 0,
            limits,
            items_left: limits.max_items,
            keys,
        };
        decoder.reserve(0, 1)?;
        let item = decoder.item(0)?;
        let extra = input.len() - decoder.at;
        if extra > 0 {
            return Err(CborError::Trailing {
                offset: decoder.at,
                extra,
            });
        }
        Ok(item)
    }

    fn item<B: Build>(&mut self, depth: usize) -> Result<B, CborError> {
        let offset = self.at;
        let (kind, argument) = self.head()?;
        match kind {
            major::UNSIGNED => Ok(B::integer(false, argument)),
            major::NEGATIVE => Ok(B::integer(true, argument)),
            major::BYTES => Ok(B::bytes(self.take(offset, argument)?)),
            major::TEXT => {
                let raw = self.take(offset, argument)?;
                Ok(B::text(
                    core::str::from_utf8(raw).map_err(|_| CborError::Utf8 { offset })?,
                ))
            }
            major::ARRAY => {
                let depth = self.deeper(offset, depth)?;
                let count = self.reserve(offset, argument)?;
                let mut list = B::list(count);
                for _ in 0..count {
                    B::push(&mut list, self.item(depth)?);
                }
                Ok(B::array(list))
            }
            major::MAP => {
                let depth = self.deeper(offset, depth)?;
                let count = self.reserve(offset, argument.saturating_mul(2))? / 2;
                self.map(depth, count)
            }
            major::TAG => {
                let depth = self.deeper(offset, depth)?;
                self.reserve(offset, 1)?;
                Ok(B::tag(argument, self.item(depth)?))
            }
            _ => match argument {
                20 => Ok(B::boolean(false)),
                21 => Ok(B::boolean(true)),
                22 => Ok(B::null()),
                other => Err(CborError::Simple {
                    offset,
                    value: other as u8,
                }),
            },
        }
    }

    fn map<B: Build>(&mut self, depth: usize, count: usize) -> Result<B, CborError> {
        let input = self.input;
        let mut entries = B::entries(count);
        let mut previous: &[u8] = &[];
        let mut seen = Vec::new();
        for _ in 0..count {
            let offset = self.at;
            let key = self.item(depth)?;
            let raw = input.get(offset..self.at).unwrap_or_default();
            match self.keys {
                KeyRule::Distinct => seen.push((raw, offset)),
                KeyRule::Ordered if raw == previous => return Err(CborError::DuplicateKey { offset }),
                KeyRule::Ordered if raw < previous => return Err(CborError::KeyOrder { offset }),
                KeyRule::Ordered => previous = raw,
            }
            let value = self.item(depth)?;
            B::insert(&mut entries, key, value);
        }
        seen.sort_unstable();
        for pair in seen.windows(2) {
            if let [(first, _), (second, offset)] = pair
                && first == second
            {
                return Err(CborError::DuplicateKey { offset: *offset });
            }
        }
        Ok(B::map(entries))
    }

    /// Reads an initial byte and its argument. For major type 7 the argument is the simple value.
    fn head(&mut self) -> Result<(u8, u64), CborError> {
        let offset = self.at;
        let initial = *self.take(offset, 1)?.first().unwrap_or(&0xff);
        let (kind, info) = (initial >> 5, initial & 0x1f);
        if kind == major::SIMPLE {
            return match info {
                0..=23 => Ok((kind, u64::from(info))),
                // A simple value in two bytes is never one of the three we know.
                24 => Err(CborError::Simple {
                    offset,
                    value: *self.take(offset, 1)?.first().unwrap_or(&0),
                }),
                25..=27 => Err(CborError::Float { offset }),
                31 => Err(CborError::Indefinite { offset }),
                _ => Err(CborError::Reserved { offset, found: initial }),
            };
        }
        let (width, smallest) = match info {
            0..=23 => return Ok((kind, u64::from(info))),
            24 => (1, 24),
            25 => (2, 1 << 8),
            26 => (4, 1 << 16),
            27 => (8, 1 << 32),
            31 => return Err(CborError::Indefinite { offset }),
            _ => return Err(CborError::Reserved { offset, found: initial }),
        };
        let value = self
            .take(offset, width)?
            .iter()
            .fold(0_u64, |n, b| n << 8 | u64::from(*b));
        if value < smallest {
            return Err(CborError::NotShortest { offset, value });
        }
        Ok((kind, value))
    }

    fn take(&mut self, offset: usize, count: u64) -> Result<&'a [u8], CborError> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let taken = usize::try_from(count).ok().and_then(|n| rest.get(..n));
        let taken = taken.ok_or(CborError::Truncated {
            offset,
            expected: count,
            found: rest.len(),
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    /// Announces `count` more items: each needs a byte at least, and all of them count against the limit.
    fn reserve(&mut self, offset: usize, count: u64) -> Result<usize, CborError> {
        let left = self.input.len() - self.at;
        let wanted = usize::try_from(count).ok().filter(|n| *n <= left);
        let wanted = wanted.ok_or(CborError::Truncated {
            offset,
            expected: count,
            found: left,
        })?;
        let too_many = CborError::TooManyItems {
            limit: self.limits.max_items,
            offset,
        };
        self.items_left = self.items_left.checked_sub(wanted).ok_or(too_many)?;
        Ok(wanted)
    }

    fn deeper(&self, offset: usize, depth: usize) -> Result<usize, CborError> {
        if depth >= self.limits.max_depth {
            return Err(CborError::TooDeep {
                limit: self.limits.max_depth,
                offset,
            });
        }
        Ok(depth + 1)
    }
}
