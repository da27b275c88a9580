//! How deep a text may be before it is parsed. Cedar's parser, validator and evaluator follow a condition by recursion, and
//! a condition of a few kilobytes exhausts a thread's stack, which ends the process: whoever may sign a policy could stop
//! every broker with it.

/// Deepest nesting of brackets.
pub const MAX_NESTING: usize = 24;
/// Most operators in one policy: each may be one step deeper.
pub const MAX_OPERATORS: usize = 256;

/// Words that count as operators.
const WORDS: [&str; 7] = ["if", "then", "else", "in", "has", "like", "is"];

/// What is too deep in a text of Cedar policies; nothing where it is not.
pub(super) fn deep_policies(text: &str) -> Option<String> {
    too_deep(text, false)
}

/// What is too deep in a schema, whose types nest in angle brackets too.
pub(super) fn deep_schema(text: &str) -> Option<String> {
    too_deep(text, true)
}

fn too_deep(text: &str, schema: bool) -> Option<String> {
    let (mut nesting, mut operators) = (0usize, 0usize);
    let mut rest = text.char_indices().peekable();
    while let Some((start, c)) = rest.next() {
        match c {
            '"' => {
                while let Some((_, c)) = rest.next() {
                    match c {
                        '"' => break,
                        '\\' => drop(rest.next()),
                        _ => (),
                    }
                }
            }
            '/' if rest.next_if(|(_, c)| *c == '/').is_some() => {
                while rest.next_if(|(_, c)| *c != '\n' && *c != '\r').is_some() {}
            }
            '<' if schema => nesting += 1,
            '>' if schema => nesting = nesting.saturating_sub(1),
            '(' | '[' | '{' => nesting += 1,
            ')' | ']' | '}' => nesting = nesting.saturating_sub(1),
            ';' if nesting == 0 => operators = 0,
            c if c.is_ascii_alphabetic() || c == '_' => {
                let mut end = start + 1;
                while let Some((place, _)) = rest.next_if(|(_, c)| c.is_ascii_alphanumeric() || *c == '_') {
                    end = place + 1;
                }
                let word = text.get(start..end).unwrap_or_default();
                operators += usize::from(WORDS.contains(&word));
            }
            '.' | '&' | '|' | '+' | '-' | '*' | '!' | '<' | '>' | '=' => {
                while rest
                    .next_if(|(_, next)| *next == c && matches!(c, '&' | '|' | '='))
                    .is_some()
                {}
                operators += 1;
            }
            _ => (),
        }
        if nesting > MAX_NESTING {
            return Some(format!("brackets nested deeper than {MAX_NESTING}"));
        }
        if operators > MAX_OPERATORS && !schema {
            return Some(format!("a policy of more than {MAX_OPERATORS} operators"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(condition: &str) -> String {
        format!("permit (principal, action, resource) when {{ {condition} }};\n")
    }

    #[test]
    fn what_would_exhaust_a_stack_is_too_deep() {
        let n = MAX_OPERATORS + 1;
        for (what, condition) in [
            ("parentheses", format!("{}true{}", "(".repeat(n), ")".repeat(n))),
            ("sets", format!("{}1{}", "[".repeat(n), "]".repeat(n))),
            ("records", format!("{}1{}", "{\"a\": ".repeat(n), "}".repeat(n))),
            ("and", vec!["true"; n + 1].join(" && ")),
            ("and, closely", vec!["true"; n + 1].join("&&")),
            ("or", vec!["true"; n + 1].join(" || ")),
            ("sums", vec!["1"; n + 1].join("+")),
            ("if", format!("{}true", "if true then true else ".repeat(n))),
            ("attributes", format!("context{}", ".a".repeat(n))),
            (
                "calls",
                format!("{}true{}", "[true].contains(".repeat(n), ")".repeat(n)),
            ),
            ("negations", format!("{}true", "!".repeat(n))),
            ("behind a string", format!("\"\\\"\" == \"\" || {}", "!".repeat(n))),
            ("behind a comment", format!("// \"\n {}", "!".repeat(n))),
        ] {
            assert!(deep_policies(&policy(&condition)).is_some(), "{what}");
        }
    }

    #[test]
    fn what_stands_in_strings_comments_and_other_policies_does_not_count() {
        let n = MAX_OPERATORS + 1;
        for text in [
            policy(&format!("\"{}\" == \"\"", "(".repeat(n))),
            policy(&format!("\"\\\"{}\" == \"\"", "!".repeat(n))),
            policy(&format!("// {}\n true", "(".repeat(n))),
            policy("context.now > 1 && context.now < 2").repeat(n),
            policy(&format!("[{}].contains(context.status)", vec!["\"a\""; n].join(", "))),
        ] {
            assert_eq!(deep_policies(&text), None);
        }
    }

    #[test]
    fn types_of_a_schema_do_not_nest_for_ever() {
        let n = MAX_NESTING + 1;
        let sets = format!("type A = {}Long{};", "Set<".repeat(n), ">".repeat(n));
        let records = format!("type A = {}Long{};", "{ a: ".repeat(n), "}".repeat(n));
        for text in [sets, records] {
            assert!(deep_schema(&text).is_some());
        }
        assert_eq!(deep_schema(&"type A = Set<String>;".repeat(MAX_OPERATORS)), None);
    }
}
