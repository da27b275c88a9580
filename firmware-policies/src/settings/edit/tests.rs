//! Settings changed by key.

use super::*;
use crate::testing::TestRepo;

fn set(text: &str, assignments: &[&str]) -> Result<String, PolicyCode> {
    let assignments: Result<Vec<_>, _> = assignments.iter().map(|a| Assignment::parse(a)).collect();
    let edited = assignments.and_then(|assignments| edit(text.as_bytes(), &assignments));
    let text = edited.map_err(|e| e.code())?.0;
    Settings::parse(text.as_bytes()).map_err(|e| e.code())?;
    Ok(text)
}

fn nearest_to(key: &str) -> String {
    Assignment::unset(key).unwrap_err().problems()[0].expected.clone()
}

#[test]
fn every_key_is_one_of_the_file_and_the_other_way_round() {
    let mut text = Settings::default_file("eu-1");
    // Keys without a default are there as comments.
    for key in [
        "publish_period_ms",
        "floors",
        "products",
        "allowed_chips",
        "id_keys",
        "author_keys",
        "min_driver",
        "min_vbios",
        "first_use",
        "roles",
        "zones",
        "uri",
    ] {
        text = text.replace(&format!("# {key} ="), &format!("{key} ="));
    }
    let document: DocumentMut = text.parse().unwrap();
    let mut keys = Vec::new();
    for (name, item) in document.iter() {
        match item.as_table() {
            Some(table) => keys.extend(table.iter().map(|(key, _)| format!("{name}.{key}"))),
            None => keys.push(name.to_owned()),
        }
    }
    for key in &keys {
        assert!(KEYS.contains(&key.as_str()), "{key} cannot be set");
    }
    for known in KEYS {
        // A register bank, a product line: a key of a table that the file writes in one line.
        let table = known.rsplit_once('.').map(|(table, _)| table);
        let is_key = |name: &str| keys.iter().any(|key| key == name);
        assert!(is_key(known) || table.is_some_and(is_key), "{known} is no key");
    }
}

#[test]
fn one_line_changes_and_the_rest_stays() {
    let before = Settings::default_file("eu-1");
    for (assignment, from, to) in [
        (
            "tpm.event_log=registers-suffice",
            "event_log = \"required\"",
            "event_log = \"registers-suffice\"",
        ),
        (
            "tpm.event_log=\"registers-suffice\"",
            "event_log = \"required\"",
            "event_log = \"registers-suffice\"",
        ),
        ("ima.mode=required", "mode = \"by-reference\"", "mode = \"required\""),
        (
            "timers.attestation_retry_ms=4000",
            "attestation_retry_ms = 5000 ",
            "attestation_retry_ms = 4000 ",
        ),
        (" generation = 2 ", "generation = 1", "generation = 2"),
        ("ima.exclude=[\"/run/*\"]", "exclude = []", "exclude = [\"/run/*\"]"),
        (
            "tpm.session_key_registers.sha256=[0, 7]",
            "{ sha256 = [0, 2, 4, 7, 8, 9, 14] }",
            "{ sha256 = [0, 7] }",
        ),
    ] {
        assert_eq!(before.matches(from).count(), 1, "{from}");
        assert_eq!(
            set(&before, &[assignment]),
            Ok(before.replace(from, to)),
            "{assignment}"
        );
    }
}

#[test]
fn several_settings_that_only_hold_together_are_set_together() {
    let before = Settings::default_file("eu-1");
    assert_eq!(
        set(&before, &["timers.heartbeat_ms=2000"]),
        Err(PolicyCode::TimerWindowShort)
    );
    assert!(
        set(
            &before,
            &["timers.heartbeat_ms=2000", "timers.freshness_window_ms=12000"]
        )
        .is_ok()
    );
    let moved = [
        "tpm.required_registers={ sha384 = [0, 7] }",
        "tpm.session_key_registers={ sha384 = [0] }",
    ];
    let text = set(&before, &moved).unwrap();
    assert!(text.contains("required_registers = { sha384 = [0, 7] }"), "{text}");
}

#[test]
fn a_file_from_before_a_section_gets_it() {
    let before = Settings::default_file("eu-1");
    let (start, rest) = before.split_once("[ima]").unwrap();
    let before = format!("{start}[grants]{}", rest.split_once("[grants]").unwrap().1);
    let after = set(&before, &["ima.mode=off"]).unwrap();
    let settings = Settings::parse(after.as_bytes()).unwrap();
    assert_eq!(settings.ima.mode, super::super::ImaMode::Off);
    assert!(before.lines().all(|line| after.contains(line)), "{after}");
}

#[test]
fn what_cannot_be_set_is_refused() {
    use PolicyCode::*;
    let before = Settings::default_file("eu-1");
    let rows: &[(&[&str], PolicyCode)] = &[
        (&["tpm.event_log"], SettingValue),
        (&["tpm.event_log="], SettingValue),
        (&["tpm.event_log=not required"], SettingValue),
        (&["tpm.event_log=required # always"], SettingValue),
        (&["tpm.event_log=\"required\"\nallow_all = true"], SettingValue),
        (&["tpm.event_log=optional"], SettingsUnreadable),
        (&["tpm.event_log=true"], SettingsUnreadable),
        (&["tpm.eventlog=required"], SettingUnknown),
        (&["tpm={}"], SettingUnknown),
        (&["=1"], SettingUnknown),
        (&["generation=2", "generation=3"], SettingValue),
        (
            &[
                "tpm.required_registers={sha256=[0]}",
                "tpm.required_registers.sha256=[0]",
            ],
            SettingValue,
        ),
        (&["grants.scopes=[]"], SettingsEmptyList),
        (&["tpm.required_registers.sha384=[]"], SettingsEmptyList),
        (&["ima.exclude=[\"/**\"]"], PathRule),
        (&[], SettingValue),
    ];
    for (assignments, code) in rows {
        assert_eq!(set(&before, assignments), Err(*code), "{assignments:?}");
    }
}

#[test]
fn the_nearest_key_is_named() {
    for (key, nearest) in [
        ("tpm.eventlog", "tpm.event_log"),
        ("event_log", "tpm.event_log"),
        ("ima.exclud", "ima.exclude"),
        ("mode", "ima.mode"),
        ("timers.heartbeat", "timers.heartbeat_ms"),
        ("genration", "generation"),
    ] {
        assert_eq!(nearest_to(key), format!("{nearest}, the nearest known key"), "{key}");
    }
    assert!(!nearest_to(&"é".repeat(100_000)).is_empty());
}

#[test]
fn what_is_set_is_staged_over_what_is_published_and_nothing_else_is_touched() {
    let test = TestRepo::published();
    let published = std::fs::read_dir(test.repo.join("staged")).map_or(0, Iterator::count);
    let refused = settings_set(&test.repo, &[Assignment::parse("grants.scopes=[]").unwrap()]).unwrap_err();
    assert_eq!(refused.code(), PolicyCode::SettingsEmptyList);
    assert_eq!(
        std::fs::read_dir(test.repo.join("staged")).map_or(0, Iterator::count),
        published
    );
    let changed = settings_set(
        &test.repo,
        &[Assignment::parse("tpm.event_log=registers-suffice").unwrap()],
    )
    .unwrap();
    assert_eq!(
        changed.changes,
        [SettingChange {
            key: "tpm.event_log".into(),
            before: Some("\"required\"".into()),
            after: Some("\"registers-suffice\"".into()),
        }]
    );
    assert_eq!(
        (changed.staged.as_deref(), changed.notes.len()),
        (Some("settings.toml"), 1)
    );
    // The next one adds to what is staged.
    settings_set(&test.repo, &[Assignment::parse("ima.mode=required").unwrap()]).unwrap();
    let text = std::fs::read_to_string(test.staged("settings.toml")).unwrap();
    assert!(text.contains("registers-suffice") && text.contains("mode = \"required\""));
    let again = settings_set(&test.repo, &[Assignment::parse("ima.mode=required").unwrap()]).unwrap();
    assert_eq!(again.staged, None, "it was so already");
}

#[test]
fn a_key_with_a_default_can_be_taken_out_and_one_without_cannot() {
    let before = Settings::default_file("eu-1");
    let (text, changes) = edit(before.as_bytes(), &[Assignment::unset("ima.violations").unwrap()]).unwrap();
    assert!(Settings::parse(text.as_bytes()).is_ok());
    assert_eq!(
        (changes[0].before.as_deref(), &changes[0].after),
        (Some("\"refuse\""), &None)
    );
    let (text, _) = edit(before.as_bytes(), &[Assignment::unset("tpm.event_log").unwrap()]).unwrap();
    assert_eq!(
        Settings::parse(text.as_bytes()).unwrap_err().code(),
        PolicyCode::SettingsUnreadable
    );
}
