//! Reading a map of a known shape: every key is asked for by name, and what nobody asked for is an error.

use super::Value;
use crate::code::Code;

/// A decoded item does not have the shape that its format prescribes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{context}: {key}: expected {expected}, found {found}")]
pub struct ShapeError {
    /// Which structure was read.
    pub context: &'static str,
    /// Which member of it: "key 3", "key \"lst\"", or "value" for the structure itself.
    pub key: String,
    /// What the format prescribes.
    pub expected: String,
    /// What was there. Kinds, lengths and numbers, never the contents of strings.
    pub found: String,
}

impl ShapeError {
    /// An error about the structure `context` itself.
    pub fn whole(context: &'static str, expected: impl Into<String>, found: &Value) -> ShapeError {
        ShapeError {
            context,
            key: "value".to_owned(),
            expected: expected.into(),
            found: found.kind(),
        }
    }

    /// An error about the member `key` of `context`.
    pub fn member(
        context: &'static str,
        key: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> ShapeError {
        ShapeError {
            context,
            key: key.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// The stable code of this refusal.
    pub const fn code(&self) -> Code {
        Code::ShapeMismatch
    }
}

/// Takes a map apart, key by key. Call [`MapReader::finish`] at the end: it refuses keys that nobody asked for.
#[derive(Debug)]
#[must_use = "call finish(): only that refuses unknown keys"]
pub struct MapReader {
    entries: Vec<(Value, Value)>,
    context: &'static str,
}

/// How a key shows in an error.
fn name(key: &Value) -> String {
    match key {
        Value::Text(t) if t.len() <= 64 && !t.chars().any(char::is_control) => format!("key \"{t}\""),
        Value::Unsigned(n) => format!("key {n}"),
        Value::Negative(n) => format!("key {}", -1 - i128::from(*n)),
        other => format!("key ({other})"),
    }
}

impl MapReader {
    /// Starts reading `value`, which must be a map. `context` names the structure in errors.
    ///
    /// # Errors
    /// `value` is not a map.
    pub fn new(value: Value, context: &'static str) -> Result<Self, ShapeError> {
        match value {
            Value::Map(entries) => Ok(MapReader { entries, context }),
            other => Err(ShapeError::whole(context, "map", &other)),
        }
    }

    fn take(&mut self, key: &Value) -> Option<Value> {
        let at = self.entries.iter().position(|(k, _)| k == key)?;
        Some(self.entries.remove(at).1)
    }

    fn need(&mut self, key: &Value) -> Result<Value, ShapeError> {
        self.take(key)
            .ok_or_else(|| ShapeError::member(self.context, name(key), "a value", "nothing"))
    }

    fn wrong<T>(&self, key: i64, expected: impl Into<String>, found: &Value) -> Result<T, ShapeError> {
        Err(ShapeError::member(
            self.context,
            name(&Value::int(key)),
            expected,
            found.kind(),
        ))
    }

    /// The value under `key`.
    ///
    /// # Errors
    /// There is none.
    pub fn required(&mut self, key: i64) -> Result<Value, ShapeError> {
        self.need(&Value::int(key))
    }

    /// The value under `key`, if there is one.
    pub fn optional(&mut self, key: i64) -> Option<Value> {
        self.take(&Value::int(key))
    }

    /// The value under the text key `key`.
    ///
    /// # Errors
    /// There is none.
    pub fn required_text_key(&mut self, key: &str) -> Result<Value, ShapeError> {
        self.need(&Value::text(key))
    }

    /// The value under the text key `key`, if there is one.
    pub fn optional_text_key(&mut self, key: &str) -> Option<Value> {
        self.take(&Value::text(key))
    }

    /// The byte string under `key`.
    ///
    /// # Errors
    /// Absent, or not a byte string.
    pub fn bytes(&mut self, key: i64) -> Result<Vec<u8>, ShapeError> {
        match self.required(key)? {
            Value::Bytes(b) => Ok(b),
            other => self.wrong(key, "byte string", &other),
        }
    }

    /// The byte string of exactly `N` bytes under `key`.
    ///
    /// # Errors
    /// Absent, not a byte string, or of another length.
    pub fn fixed<const N: usize>(&mut self, key: i64) -> Result<[u8; N], ShapeError> {
        let value = self.required(key)?;
        match value.as_bytes().and_then(|b| <[u8; N]>::try_from(b).ok()) {
            Some(fixed) => Ok(fixed),
            None => self.wrong(key, format!("{N} bytes"), &value),
        }
    }

    /// The byte string of exactly `N` bytes, or nothing, under `key`.
    ///
    /// # Errors
    /// Not a byte string, or of another length.
    pub fn optional_fixed<const N: usize>(&mut self, key: i64) -> Result<Option<[u8; N]>, ShapeError> {
        let Some(value) = self.optional(key) else {
            return Ok(None);
        };
        match value.as_bytes().and_then(|b| <[u8; N]>::try_from(b).ok()) {
            Some(fixed) => Ok(Some(fixed)),
            None => self.wrong(key, format!("{N} bytes"), &value),
        }
    }

    /// The non-negative integer under `key`.
    ///
    /// # Errors
    /// Absent, or not one.
    pub fn u64(&mut self, key: i64) -> Result<u64, ShapeError> {
        let value = self.required(key)?;
        value
            .as_u64()
            .map_or_else(|| self.wrong(key, "non-negative integer", &value), Ok)
    }

    /// The integer under `key`.
    ///
    /// # Errors
    /// Absent, not an integer, or outside 64 bits with sign.
    pub fn i64(&mut self, key: i64) -> Result<i64, ShapeError> {
        let value = self.required(key)?;
        value
            .as_i64()
            .map_or_else(|| self.wrong(key, "integer of 64 bits", &value), Ok)
    }

    /// The boolean under `key`.
    ///
    /// # Errors
    /// Absent, or not one.
    pub fn bool(&mut self, key: i64) -> Result<bool, ShapeError> {
        let value = self.required(key)?;
        value
            .as_bool()
            .map_or_else(|| self.wrong(key, "true or false", &value), Ok)
    }

    /// The text under `key`, of at most `max_len` bytes.
    ///
    /// # Errors
    /// Absent, not text, or longer.
    pub fn text(&mut self, key: i64, max_len: usize) -> Result<String, ShapeError> {
        match self.required(key)? {
            Value::Text(t) if t.len() <= max_len => Ok(t),
            other => self.wrong(key, format!("text of at most {max_len} bytes"), &other),
        }
    }

    /// The items of the array under `key`.
    ///
    /// # Errors
    /// Absent, or not an array.
    pub fn array(&mut self, key: i64) -> Result<Vec<Value>, ShapeError> {
        match self.required(key)? {
            Value::Array(items) => Ok(items),
            other => self.wrong(key, "array", &other),
        }
    }

    /// Starts reading the map under `key`, with a context of its own.
    ///
    /// # Errors
    /// Absent, or not a map.
    pub fn map(&mut self, key: i64, context: &'static str) -> Result<MapReader, ShapeError> {
        MapReader::new(self.required(key)?, context)
    }

    /// Takes all entries that are left, for maps that allow extensions.
    pub fn rest(self) -> Vec<(Value, Value)> {
        self.entries
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// A key is left that nobody asked for.
    pub fn finish(self) -> Result<(), ShapeError> {
        match self.entries.first() {
            None => Ok(()),
            Some((key, value)) => Err(ShapeError::member(self.context, name(key), "no such key", value.kind())),
        }
    }
}
