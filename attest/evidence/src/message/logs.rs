//! How much of a log is meant: `[[label, bytes] …]`, in a challenge what the broker has seen, in a submission where the
//! record begins.

use std::collections::BTreeMap;

use touchstone_cose::cbor::{ShapeError, Value};

use crate::label::Label;

/// Lengths or offsets of logs in bytes, by label. None is 0: a log that is not named is meant from its beginning.
pub type LogBytes = BTreeMap<Label, u64>;

const EXPECTED: &str = "[[label of a log, bytes, more than 0] …], each once, ordered";

pub(super) fn value(logs: &LogBytes) -> Value {
    let named = logs.iter().filter(|(_, bytes)| **bytes > 0);
    Value::array(named.map(|(label, bytes)| Value::array([Value::text(label.as_str()), Value::Unsigned(*bytes)])))
}

pub(super) fn read(value: &Value, context: &'static str, key: &'static str) -> Result<LogBytes, ShapeError> {
    let refuse = |found: &Value| ShapeError::member(context, key, EXPECTED, found.kind());
    let mut logs = LogBytes::new();
    for entry in value.as_array().ok_or_else(|| refuse(value))? {
        let Some([label, bytes]) = entry.as_array() else {
            return Err(refuse(entry));
        };
        let label = label.as_text().and_then(Label::parse).filter(|label| label.is_log());
        let bytes = bytes.as_u64().filter(|bytes| *bytes > 0);
        let (Some(label), Some(bytes)) = (label, bytes) else {
            return Err(refuse(entry));
        };
        if logs.last_key_value().is_some_and(|(last, _)| *last >= label) {
            return Err(refuse(entry));
        }
        logs.insert(label, bytes);
    }
    Ok(logs)
}
