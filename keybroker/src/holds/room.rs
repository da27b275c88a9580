//! For how many holds there is room, by who makes them: nobody can use up what another one needs.
//!
//! A detector is outside and may be in the wrong hands, so each has few, and all together leave what commands need. What
//! signed policy suspends after a failure is never refused: it names no more than the zones and regions that there are, and
//! each of them once at a time.

use super::{Hold, Maker, Over};

/// Most holds that stand by command at once over nodes and workloads, and as many over zones and the domain.
pub const MAX_HOLDS: usize = 1_024;

/// Most holds of one detector that stand at once.
pub const MAX_HOLDS_OF_A_DETECTOR: usize = 64;

/// Most holds of all detectors that stand at once.
pub const MAX_HOLDS_OF_DETECTORS: usize = 512;

/// Whether `by` may make another hold over `over`, beside these.
///
/// # Errors
/// Why not, as a sentence.
pub(super) fn for_another<'a>(
    holds: impl IntoIterator<Item = &'a Hold>,
    by: &Maker,
    over: &Over,
) -> Result<(), String> {
    let of_detectors = |hold: &Hold| matches!(hold.by, Maker::Detector(_));
    let of_nodes = |over: &Over| matches!(over, Over::Nodes(_));
    let (mut own, mut alike) = (0, 0);
    for hold in holds.into_iter().filter(|hold| hold.lifted.is_none()) {
        own += usize::from(hold.by == *by);
        alike += usize::from(match by {
            Maker::Failure => false,
            Maker::Detector(_) => of_detectors(hold),
            Maker::Command => hold.by == Maker::Command && of_nodes(&hold.over) == of_nodes(over),
        });
    }
    match by {
        Maker::Detector(name) if own >= MAX_HOLDS_OF_A_DETECTOR => Err(format!(
            "{own} quarantines that {name} reported stand, the limit is {MAX_HOLDS_OF_A_DETECTOR}"
        )),
        Maker::Detector(_) if alike >= MAX_HOLDS_OF_DETECTORS => Err(format!(
            "{alike} quarantines that detectors reported stand, the limit is {MAX_HOLDS_OF_DETECTORS}"
        )),
        Maker::Command if alike >= MAX_HOLDS => Err(format!(
            "{alike} {} by command stand, the limit is {MAX_HOLDS}",
            if of_nodes(over) { "containments" } else { "quarantines" }
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use touchstone_policies::Extent;

    use super::*;

    fn made(count: usize, by: &Maker, over: &Over, lifted: Option<i64>) -> Vec<Hold> {
        let hold = Hold {
            number: 1,
            over: over.clone(),
            why: "test".into(),
            set: [0; 32],
            since: 100,
            lifted,
            exact: true,
            by: by.clone(),
        };
        vec![hold; count]
    }

    #[test]
    fn nobody_uses_up_the_room_of_another() {
        let detector = |name: &str| Maker::Detector(name.into());
        let (subject, cluster) = (Over::Subject("a@n".into()), Over::Nodes(Extent::Cluster));
        let (one, all) = (MAX_HOLDS_OF_A_DETECTOR, MAX_HOLDS_OF_DETECTORS);
        let full = |lifted| made(one, &detector("d"), &subject, lifted);
        let every = (0..all / one).flat_map(|n| made(one, &detector(&n.to_string()), &subject, None));
        let every: Vec<Hold> = every.collect();
        let commanded = |over| made(MAX_HOLDS, &Maker::Command, over, None);
        for (row, holds, by, over, expected) in [
            (
                "a detector that has used up its own",
                full(None),
                detector("d"),
                &subject,
                false,
            ),
            (
                "what was lifted does not count",
                full(Some(1)),
                detector("d"),
                &subject,
                true,
            ),
            ("another detector", full(None), detector("e"), &subject, true),
            ("all detectors together", every.clone(), detector("e"), &subject, false),
            (
                "a command beside all detectors",
                every.clone(),
                Maker::Command,
                &subject,
                true,
            ),
            (
                "a containment beside them",
                every.clone(),
                Maker::Command,
                &cluster,
                true,
            ),
            ("a failure beside them", every, Maker::Failure, &cluster, true),
            (
                "one command too many",
                commanded(&subject),
                Maker::Command,
                &subject,
                false,
            ),
            (
                "a containment beside quarantines",
                commanded(&subject),
                Maker::Command,
                &cluster,
                true,
            ),
            (
                "a quarantine beside containments",
                commanded(&cluster),
                Maker::Command,
                &subject,
                true,
            ),
            (
                "one containment too many",
                commanded(&cluster),
                Maker::Command,
                &cluster,
                false,
            ),
            (
                "a detector beside commands",
                commanded(&subject),
                detector("d"),
                &subject,
                true,
            ),
            (
                "a failure beside any number",
                commanded(&cluster),
                Maker::Failure,
                &cluster,
                true,
            ),
        ] {
            assert_eq!(for_another(&holds, &by, over).is_ok(), expected, "{row}");
        }
    }
}
