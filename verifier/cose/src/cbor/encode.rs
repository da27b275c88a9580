//! Deterministic encoding (RFC 8949 section 4.2.1).

use super::{Value, major};

/// Encodes `value` in the one form that [`super::decode`] accepts.
///
/// Map entries are put in bytewise order of their encoded keys. A map that names a key twice has no valid encoding:
/// both entries are written, and every strict decoder, ours first, refuses the result.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    write(&mut out, value);
    out
}

fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Unsigned(n) => write_head(out, major::UNSIGNED, *n),
        Value::Negative(n) => write_head(out, major::NEGATIVE, *n),
        Value::Bytes(b) => write_bytes(out, b),
        Value::Text(t) => write_text(out, t),
        Value::Array(items) => {
            write_head(out, major::ARRAY, items.len() as u64);
            for item in items {
                write(out, item);
            }
        }
        Value::Map(entries) => write_map(out, entries),
        Value::Tag(tag, inner) => {
            write_head(out, major::TAG, *tag);
            write(out, inner);
        }
        Value::Bool(false) => out.push(0xf4),
        Value::Bool(true) => out.push(0xf5),
        Value::Null => out.push(0xf6),
    }
}

/// Writes the entries as they stand; only if they turn out not to be in order are they moved.
fn write_map(out: &mut Vec<u8>, entries: &[(Value, Value)]) {
    write_head(out, major::MAP, entries.len() as u64);
    let base = out.len();
    // (start, end of key, end), relative to `base`.
    let mut spans = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let start = out.len() - base;
        write(out, key);
        let key_end = out.len() - base;
        write(out, value);
        spans.push((start, key_end, out.len() - base));
    }
    let written = out.get(base..).unwrap_or_default();
    let key = |&(start, key_end, _): &(usize, usize, usize)| written.get(start..key_end).unwrap_or_default();
    if spans.is_sorted_by(|a, b| key(a) <= key(b)) {
        return;
    }
    spans.sort_by(|a, b| key(a).cmp(key(b)));
    let mut sorted = Vec::with_capacity(written.len());
    for (start, _, end) in spans {
        sorted.extend_from_slice(written.get(start..end).unwrap_or_default());
    }
    out.truncate(base);
    out.append(&mut sorted);
}

/// Writes an initial byte with the shortest form of `argument`.
pub(crate) fn write_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let top = major << 5;
    let be = argument.to_be_bytes();
    let [.., b4, b5, b6, b7] = be;
    if argument < 24 {
        out.push(top | b7);
    } else if argument <= 0xff {
        out.extend_from_slice(&[top | 24, b7]);
    } else if argument <= 0xffff {
        out.extend_from_slice(&[top | 25, b6, b7]);
    } else if argument <= 0xffff_ffff {
        out.extend_from_slice(&[top | 26, b4, b5, b6, b7]);
    } else {
        out.push(top | 27);
        out.extend_from_slice(&be);
    }
}

/// Writes a byte string.
pub(crate) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_head(out, major::BYTES, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes a text string.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    write_head(out, major::TEXT, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}
