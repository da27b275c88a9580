//! JSON as two readers cannot read it differently: no key twice in one object, and no deeper than [`MAX_DEPTH`].

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// How deep values may nest. A runtime's configuration needs eight.
pub const MAX_DEPTH: usize = 32;

/// Reads one value and nothing after it.
///
/// # Errors
/// In words.
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }
        .deserialize(&mut reader)
        .map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("nests deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let below = self.deeper()?;
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let below = self.deeper()?;
        let mut all = Map::new();
        // Runtimes written in Go take keys in any case (Go, `encoding/json`): two that differ in it alone are one key.
        let mut seen = BTreeSet::new();
        while let Some(key) = members.next_key::<String>()? {
            if !seen.insert(key.to_lowercase()) {
                return Err(A::Error::custom(format_args!("the key {key:?} twice")));
            }
            let value = members.next_value_seed(below)?;
            all.insert(key, value);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_others_read() {
        let text = r#"{"a":[1,-2,3.5,null,true,"x\u0041"],"b":{"a":{}}}"#;
        assert_eq!(
            parse(text.as_bytes()).unwrap(),
            serde_json::from_str::<Value>(text).unwrap()
        );
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(deep(MAX_DEPTH).as_bytes()).is_ok());
        let (deep, deeper) = (deep(MAX_DEPTH + 1), "[".repeat(1 << 20));
        for (attack, text) in [
            ("a key twice", r#"{"a":1,"a":2}"#),
            ("a key twice, inside", r#"[{"b":{"a":1,"a":1}}]"#),
            ("a key twice, escaped", r#"{"a":1,"\u0061":2}"#),
            ("a key twice, in another case", r#"{"annotations":{},"Annotations":{}}"#),
            ("more after it", "{} {}"),
            ("nothing", ""),
            ("cut", r#"{"a":"#),
            ("too deep", deep.as_str()),
            ("endlessly deep", deeper.as_str()),
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{attack}");
        }
    }
}
