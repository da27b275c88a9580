//! A decoded CBOR data item.

use std::fmt;

/// One CBOR data item of the subset we speak (RFC 8949, no floats, no `undefined`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Major type 0.
    Unsigned(u64),
    /// Major type 1: `Negative(n)` is the integer -1 - n.
    Negative(u64),
    /// Major type 2.
    Bytes(Vec<u8>),
    /// Major type 3, valid UTF-8.
    Text(String),
    /// Major type 4.
    Array(Vec<Value>),
    /// Major type 5. [`super::encode`] puts the entries in order; [`super::decode`] demands that order.
    Map(Vec<(Value, Value)>),
    /// Major type 6.
    Tag(u64, Box<Value>),
    /// Simple values 20 and 21.
    Bool(bool),
    /// Simple value 22.
    Null,
}

impl Value {
    /// The integer `n`, in the one major type that fits it.
    pub const fn int(n: i64) -> Value {
        if n >= 0 {
            Value::Unsigned(n as u64)
        } else {
            Value::Negative(!n as u64)
        }
    }

    /// A byte string.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Value {
        Value::Bytes(bytes.into())
    }

    /// A text string.
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    /// An array.
    pub fn array(items: impl IntoIterator<Item = Value>) -> Value {
        Value::Array(items.into_iter().collect())
    }

    /// A map with integer keys, in any order.
    pub fn map(entries: impl IntoIterator<Item = (i64, Value)>) -> Value {
        Value::Map(entries.into_iter().map(|(k, v)| (Value::int(k), v)).collect())
    }

    /// A map with text keys, in any order.
    pub fn text_map<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
        Value::Map(entries.into_iter().map(|(k, v)| (Value::text(k), v)).collect())
    }

    /// `value` under tag `tag`.
    pub fn tag(tag: u64, value: Value) -> Value {
        Value::Tag(tag, Box::new(value))
    }

    /// The value, if it is a non-negative integer.
    pub const fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Unsigned(n) => Some(*n),
            _ => None,
        }
    }

    /// The value, if it is an integer that fits an `i64`.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Unsigned(n) => i64::try_from(*n).ok(),
            Value::Negative(n) => i64::try_from(*n).ok().map(|n| !n),
            _ => None,
        }
    }

    /// The contents, if it is a byte string.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bytes(b) => Some(b),
            _ => None,
        }
    }

    /// The contents, if it is a text string.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(t) => Some(t),
            _ => None,
        }
    }

    /// The items, if it is an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The entries, if it is a map.
    pub fn as_map(&self) -> Option<&[(Value, Value)]> {
        match self {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value, if it is a boolean.
    pub const fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// Whether it is `null`.
    pub const fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The entry of a map under the integer key `key`; `None` for anything that is not a map.
    pub fn get(&self, key: i64) -> Option<&Value> {
        let key = Value::int(key);
        self.as_map()?.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// What kind of item it is, with its length where it has one and its value where that is a number. Never the
    /// contents of a string: this goes into errors, and strings may be secret or hostile.
    pub fn kind(&self) -> String {
        match self {
            Value::Unsigned(n) => format!("integer {n}"),
            Value::Negative(n) => format!("integer {}", -1 - i128::from(*n)),
            Value::Bytes(b) => format!("{} bytes", b.len()),
            Value::Text(t) => format!("text of {} bytes", t.len()),
            Value::Array(a) => format!("array of {}", a.len()),
            Value::Map(m) => format!("map of {}", m.len()),
            Value::Tag(t, _) => format!("tag {t}"),
            Value::Bool(b) => b.to_string(),
            Value::Null => "null".to_owned(),
        }
    }
}

impl fmt::Display for Value {
    /// The same as [`Value::kind`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind())
    }
}

impl From<u64> for Value {
    fn from(n: u64) -> Value {
        Value::Unsigned(n)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Value {
        Value::Bool(b)
    }
}

impl From<&str> for Value {
    fn from(t: &str) -> Value {
        Value::Text(t.to_owned())
    }
}

impl From<String> for Value {
    fn from(t: String) -> Value {
        Value::Text(t)
    }
}

impl From<&[u8]> for Value {
    fn from(b: &[u8]) -> Value {
        Value::Bytes(b.to_vec())
    }
}

impl<const N: usize> From<[u8; N]> for Value {
    fn from(b: [u8; N]) -> Value {
        Value::Bytes(b.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::Value;

    #[test]
    fn integers_keep_their_sign_and_range() {
        for n in [0, 1, 23, 24, -1, -24, -25, -65537, i64::MAX, i64::MIN] {
            assert_eq!(Value::int(n).as_i64(), Some(n));
        }
        assert_eq!(Value::int(-1), Value::Negative(0));
        assert_eq!(Value::Unsigned(u64::MAX).as_i64(), None);
        assert_eq!(Value::Negative(u64::MAX).as_i64(), None);
        assert_eq!(Value::Negative(0).as_u64(), None);
        assert_eq!(Value::Negative(u64::MAX).kind(), "integer -18446744073709551616");
    }

    #[test]
    fn kind_never_shows_what_a_string_contains() {
        assert_eq!(Value::text("hunter2").kind(), "text of 7 bytes");
        assert_eq!(Value::bytes(*b"hunter2").kind(), "7 bytes");
    }
}
