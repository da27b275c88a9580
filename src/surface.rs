//! What every command has, and what none may have: the whole command line is walked (design.md 4, rule 9, and 6).

use std::collections::BTreeSet;

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use crate::Cli;

/// Commands whose standard output is another program's, or that are run by a container runtime.
const WITHOUT_JSON: [&str; 3] = ["exec", "oci-hook", "oci-hook keep"];

/// Words that no command, option or value may have in its name: each would be a way around a check (rule 9).
const NEVER: [&str; 14] = [
    "insecure",
    "skip",
    "no-verify",
    "no-check",
    "noverify",
    "unverified",
    "allow-all",
    "allow-any",
    "trust-any",
    "trust-all",
    "accept-any",
    "unsafe",
    "dangerous",
    "disable",
];

/// Every command that does something, with its whole name (`policy node add`) and those above it.
fn leaves() -> Vec<(String, Vec<Command>)> {
    fn walk(command: &Command, above: &mut Vec<Command>, found: &mut Vec<(String, Vec<Command>)>) {
        above.push(command.clone());
        let below: Vec<&Command> = command.get_subcommands().filter(|of| of.get_name() != "help").collect();
        if below.is_empty() || !command.is_subcommand_required_set() {
            let words: Vec<&str> = above.iter().skip(1).map(Command::get_name).collect();
            found.push((words.join(" "), above.clone()));
        }
        for command in below {
            walk(command, above, found);
        }
        above.pop();
    }
    let mut whole = Cli::command();
    whole.build();
    let mut found = Vec::new();
    walk(&whole, &mut Vec::new(), &mut found);
    found
}

fn help(command: &Command) -> String {
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    // An example that goes over two lines is one all the same.
    after.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
    assert!(leaves().len() > 85, "{} commands are seen only", leaves().len());
}

#[test]
fn every_command_has_json_for_machines() {
    let without: Vec<String> = leaves()
        .into_iter()
        .filter(|(_, path)| {
            let json = |arg: &Arg| arg.get_long() == Some("json") && matches!(arg.get_action(), ArgAction::SetTrue);
            !path.last().is_some_and(|command| command.get_arguments().any(json))
        })
        .map(|(name, _)| name)
        .filter(|name| !WITHOUT_JSON.contains(&name.as_str()))
        .collect();
    assert_eq!(without, Vec::<String>::new(), "without --json");
}

/// Who reads it by machine knows from the help what it holds: after "One JSON object", its members.
#[test]
fn every_help_names_the_members_of_the_json() {
    let without: Vec<String> = leaves()
        .into_iter()
        .filter(|(name, path)| {
            let json = |arg: &&Arg| arg.get_long() == Some("json");
            let json = path.last().and_then(|command| command.get_arguments().find(json));
            let help = json
                .and_then(Arg::get_help)
                .map(ToString::to_string)
                .unwrap_or_default();
            let members = help
                .strip_prefix("One JSON object")
                .and_then(|rest| rest.split_once(": "));
            !WITHOUT_JSON.contains(&name.as_str()) && members.is_none()
        })
        .map(|(name, _)| name)
        .collect();
    assert_eq!(without, Vec::<String>::new(), "--json without the names of its members");
}

#[test]
fn every_command_has_an_example_of_itself_in_its_help() {
    let without: Vec<String> = leaves()
        .into_iter()
        .filter(|(name, path)| {
            let example = format!("touchstone {name}");
            !path
                .iter()
                .rev()
                .take(2)
                .any(|command| help(command).contains(&example))
        })
        .map(|(name, _)| name)
        // Nobody types it: the hook starts it.
        .filter(|name| name != "oci-hook" && name != "oci-hook keep")
        .collect();
    assert_eq!(without, Vec::<String>::new(), "without an example");
}

/// Rule 9: there is no switch that makes the program believe more than its signed policy says.
#[test]
fn no_command_has_an_insecure_switch() {
    let mut names = BTreeSet::new();
    for (_, path) in leaves() {
        for command in &path {
            names.insert(command.get_name().to_owned());
            names.extend(command.get_all_aliases().map(str::to_owned));
            for arg in command.get_arguments() {
                names.insert(arg.get_id().to_string());
                names.extend(arg.get_long().map(str::to_owned));
                names.extend(arg.get_all_aliases().into_iter().flatten().map(str::to_owned));
                for value in arg.get_possible_values() {
                    names.extend(value.get_name_and_aliases().map(str::to_owned));
                }
            }
        }
    }
    assert!(
        names.contains("revoke") && names.contains("luks-uuid") && names.contains("stub"),
        "{names:?}"
    );
    let found: Vec<&String> = names.iter().filter(|name| is_insecure(name)).collect();
    assert_eq!(found, Vec::<&String>::new(), "a switch around a check");
}

fn is_insecure(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    NEVER.iter().any(|word| name.contains(word))
}

#[test]
fn each_insecure_name_is_known_as_one() {
    for name in [
        "--insecure",
        "skip-verify",
        "skip_tls",
        "no_verify",
        "allow-all",
        "trust-any-root",
        "Disable-Checks",
    ] {
        assert!(is_insecure(name), "{name}");
    }
    for name in ["json", "at", "reason", "declared-bodies", "once"] {
        assert!(!is_insecure(name), "{name}");
    }
}
