//! The text of a JSON object's members, byte for byte: signatures are over text, and a value that was read and written
//! again is another text.

use serde::de::IgnoredAny;
use serde_json::Deserializer;

/// The members of a JSON object with the text of their values, in the order of the text. None where it is no object, or
/// something follows it.
pub(super) fn members(text: &str) -> Option<Vec<(String, &str)>> {
    let mut rest = space(text).strip_prefix('{')?;
    let mut members = Vec::new();
    if let Some(after) = space(rest).strip_prefix('}') {
        return space(after).is_empty().then_some(members);
    }
    loop {
        let (name, after) = value(space(rest))?;
        let name: String = serde_json::from_str(name).ok()?;
        let (text, after) = value(space(space(after).strip_prefix(':')?))?;
        members.push((name, text));
        let after = space(after);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return space(after.strip_prefix('}')?).is_empty().then_some(members),
        }
    }
}

/// The same text without the spaces between its parts; those in strings stay.
pub(super) fn compact(text: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let kept = text.chars().filter(|character| {
        let keep = in_string || !SPACE.contains(character);
        match character {
            '"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = in_string && !escaped && *character == '\\';
        keep
    });
    kept.collect()
}

/// RFC 8259, section 2.
const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

fn space(text: &str) -> &str {
    text.trim_start_matches(SPACE)
}

/// The JSON value that the text begins with, and what is after it.
fn value(text: &str) -> Option<(&str, &str)> {
    let mut values = Deserializer::from_str(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    text.split_at_checked(values.byte_offset())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_text_of_a_member_is_what_stands_there() {
        let text = " { \"a\" :[1, 2 ] ,\"b\\u0062\":{\"c\": \"}\\\"\"}, \"d\": 1.50,\"e\":null,\"a\":\"x\" } \n";
        let found = members(text).unwrap();
        let named: Vec<(&str, &str)> = found.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let wanted = [
            ("a", "[1, 2 ]"),
            ("bb", "{\"c\": \"}\\\"\"}"),
            ("d", "1.50"),
            ("e", "null"),
            ("a", "\"x\""),
        ];
        assert_eq!(named, wanted);
        assert_eq!(members("{ }"), Some(Vec::new()));
        for wrong in [
            "",
            "[]",
            "1",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1}x",
            "{\"a\":1 2}",
            "{a:1}",
            "{1:1}",
            "{,}",
            "{\"a\":1]",
            "{}{}",
        ] {
            assert_eq!(members(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn spaces_go_but_those_in_strings() {
        for (text, wanted) in [
            ("{ \"a b\" : [ 1 ,\n\t2 ] }", "{\"a b\":[1,2]}"),
            ("{\"a\": \" \\\" \\\\\" , \"b\": 1}", "{\"a\":\" \\\" \\\\\",\"b\":1}"),
            ("{\"a\":1}", "{\"a\":1}"),
        ] {
            assert_eq!(compact(text), wanted);
        }
    }

    proptest! {
        #[test]
        fn hostile_text_does_not_panic(text in any::<String>(), braces in "[{}\\[\\]\",: a1\\\\]{0,60}") {
            let _ = (members(&text), compact(&text));
            let _ = (members(&braces), compact(&braces));
        }

        #[test]
        fn values_are_the_same_in_any_layout(value in "[ -~]{0,20}", number in any::<i64>()) {
            let object = serde_json::json!({ "a": [value, { "b": number }], "c": value });
            let pretty = serde_json::to_string_pretty(&object).unwrap();
            prop_assert_eq!(compact(&pretty), object.to_string());
            let found = members(&pretty).unwrap();
            prop_assert_eq!(compact(found[0].1), object["a"].to_string());
        }
    }
}
