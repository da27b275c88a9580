//! What a broker has found a peer to differ in, kept in the store until the peer agrees: neither silence nor a restart ends a
//! difference. Row `differs/<replica>`: CBOR [[[code, expected, found] …], null or [whether this broker was behind, the
//! version that was behind]].

use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_store::{Key, KeyError, Store};

use super::DriftCode;
use super::compare::{Difference, Lag};
use crate::restore::RestoreError;
use crate::rows;

const LIMITS: Limits = Limits {
    max_bytes: 64 << 10,
    max_depth: 5,
    max_items: 64,
};
/// Longest word of a difference that is kept, in characters.
const MAX_WORDS: usize = 512;

/// The row about this peer.
///
/// # Errors
/// [`KeyError`]: the name is too long for one.
pub(super) fn key(replica: &str) -> Result<Key, KeyError> {
    rows::DIFFERS.key(replica.as_bytes())
}

/// What the row holds.
pub(super) fn encode(differences: &[Difference], lag: &Lag) -> Vec<u8> {
    let words = |text: &str| Value::text(text.chars().take(MAX_WORDS).collect::<String>());
    let differences = differences.iter().map(|difference| {
        Value::array([
            Value::text(difference.code.as_str()),
            words(&difference.expected),
            words(&difference.found),
        ])
    });
    let lag = lag.behind().map_or(Value::Null, |(own, at)| {
        Value::array([Value::Bool(own), Value::Unsigned(at)])
    });
    cbor::encode(&Value::array([Value::array(differences), lag]))
}

/// What is kept about this peer: nothing, or at least one difference. A row that cannot be read is one.
///
/// # Errors
/// [`RestoreError`]: the store.
pub(super) fn read(store: &dyn Store, replica: &str) -> Result<(Vec<Difference>, Lag), RestoreError> {
    let Some(row) = store.get(&key(replica)?)? else {
        return Ok((Vec::new(), Lag::default()));
    };
    Ok(decode(&row.value).unwrap_or_else(|| {
        let unreadable = Difference {
            code: DriftCode::Policy,
            expected: "a row that this release reads".into(),
            found: "another one, of a difference found before this start".into(),
        };
        (vec![unreadable], Lag::default())
    }))
}

fn decode(bytes: &[u8]) -> Option<(Vec<Difference>, Lag)> {
    let value = cbor::decode(bytes, LIMITS).ok()?;
    let [differences, lag] = value.as_array()? else {
        return None;
    };
    let differences = differences.as_array()?.iter().map(|difference| {
        let [code, expected, found] = difference.as_array()? else {
            return None;
        };
        Some(Difference {
            code: DriftCode::parse(code.as_text()?)?,
            expected: expected.as_text()?.to_owned(),
            found: found.as_text()?.to_owned(),
        })
    });
    let differences: Vec<_> = differences.collect::<Option<_>>()?;
    let lag = match lag {
        Value::Null => Lag::default(),
        lag => {
            let [own, at] = lag.as_array()? else { return None };
            Lag::long_behind(own.as_bool()?, at.as_u64()?)
        }
    };
    (!differences.is_empty()).then_some((differences, lag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_what_cannot_be_read_is_a_difference() {
        let found: Vec<_> = DriftCode::ALL
            .iter()
            .map(|code| Difference {
                code: *code,
                expected: "a".into(),
                found: "b".into(),
            })
            .collect();
        let lag = Lag::long_behind(true, 7);
        for lag in [Lag::default(), lag] {
            assert_eq!(decode(&encode(&found, &lag)), Some((found.clone(), lag)));
        }
        let whole = encode(&found, &lag);
        for cut in 0..whole.len() {
            assert_eq!(decode(&whole[..cut]), None);
        }
        assert_eq!(
            decode(&encode(&[], &lag)),
            None,
            "an empty row says nothing that is true"
        );
    }
}
