//! Timers and scopes.

use super::*;

fn timers_said() -> impl Strategy<Value = RegionTimers> {
    let time = || {
        of(prop_oneof![
            1..200_000u64,
            Just(0),
            Just(u64::MAX),
            Just(30_000),
            Just(60_000)
        ])
    };
    (time(), time(), time(), time()).prop_map(|(interval, deadline, grace, life)| RegionTimers {
        attestation_interval_ms: interval,
        attestation_deadline_ms: deadline,
        attestation_grace_ms: grace,
        authorization_life_ms: life,
    })
}

const SCOPES: &[&str] = &["execute:a", "execute:b", "release:a", "administer:a"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn timers_only_shorten(said in timers_said()) {
        let whole = Timers {
            attestation_grace_ms: 60_000,
            ..Timers::default()
        };
        let mut problems = Vec::new();
        let settings = RegionSettings { timers: said.clone(), ..RegionSettings::default() };
        let region = settings.timers(&whole, &mut Rules::new("f", &mut problems));
        prop_assert!(region.attestation_interval_ms <= whole.attestation_interval_ms);
        prop_assert!(region.attestation_deadline_ms <= whole.attestation_deadline_ms);
        prop_assert!(region.authorization_life_ms <= whole.authorization_life_ms);
        prop_assert!(region.attestation_grace_ms <= whole.attestation_grace_ms);
        let others = Timers {
            attestation_interval_ms: whole.attestation_interval_ms,
            attestation_deadline_ms: whole.attestation_deadline_ms,
            attestation_grace_ms: whole.attestation_grace_ms,
            authorization_life_ms: whole.authorization_life_ms,
            ..region.clone()
        };
        prop_assert_eq!(others, whole);
        prop_assert!(!problems.is_empty() || region.problems("f").is_empty());
        for (said, kept) in [
            (said.attestation_interval_ms, region.attestation_interval_ms),
            (said.attestation_deadline_ms, region.attestation_deadline_ms),
            (said.authorization_life_ms, region.authorization_life_ms),
            (said.attestation_grace_ms, region.attestation_grace_ms),
        ] {
            prop_assert!(!problems.is_empty() || said.is_none_or(|said| said == kept), "said, and without effect");
        }
    }

    #[test]
    fn scopes_are_some_of_the_wholes(whole in some(SCOPES), said in of(words(SCOPES))) {
        let whole: Vec<Scope> = whole.into_iter().filter_map(Scope::parse).collect();
        let mut problems = Vec::new();
        let settings = RegionSettings { grants: RegionGrants { scopes: said.clone() }, ..RegionSettings::default() };
        let region = settings.scopes(&whole, &mut Rules::new("f", &mut problems));
        prop_assert!(region.iter().all(|scope| whole.contains(scope)));
        if let Some(said) = said {
            prop_assert!(region.iter().all(|scope| said.contains(&scope.to_string())));
            let more = said.iter().any(|text| !whole.iter().any(|scope| scope.to_string() == *text));
            prop_assert_eq!(!problems.is_empty(), more || said.is_empty());
        }
    }
}
