//! Everybody who was let in, to be looked at again with every new trust state. What there is room for is shared out: a
//! holder of off-line rights makes as many chains as it likes, and must not shut the others out by them.

use std::collections::BTreeMap;

use touchstone_authorization::{Admitted, Refusal, RefusalCode, Scope, StatusIndex};

/// How many admitted authorizations a guard keeps an eye on; one more is not let in.
pub const MAX_ADMITTED: usize = 4096;
/// How many of them may stand and fall with the same entry of a trust state: as many as policy lets stand below one
/// holder unless it says otherwise (`max_children`).
pub const MAX_ADMITTED_OF_ENTRY: usize = 64;

/// By what it is looked at again: the entry it stands and falls with, the domain of that where it is another one; the
/// authorization; what a foreign one was let in for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    entry: (Option<String>, StatusIndex),
    digest: [u8; 32],
    scope: Option<Scope>,
}

/// Those who were let in.
#[derive(Debug, Default)]
pub(super) struct AdmittedSet {
    all: BTreeMap<Key, Admitted>,
}

impl AdmittedSet {
    /// Keeps an eye on this one; what has run out makes room where there is none. Who is in stays in.
    ///
    /// # Errors
    /// [`RefusalCode::EnforcerFull`]
    pub fn enter(&mut self, admitted: &Admitted, now_ms: u64) -> Result<(), Refusal> {
        let chain = &admitted.allowed.chain;
        let key = Key {
            entry: (admitted.authority.clone(), chain.status()),
            digest: *chain.digest(),
            scope: admitted.authority.is_some().then(|| admitted.allowed.scope.clone()),
        };
        if full(&self.all, &key).is_err() {
            self.all.retain(|_, held| held.allowed.chain.expires() > now_ms / 1000);
        }
        full(&self.all, &key)?;
        self.all.insert(key, admitted.clone());
        Ok(())
    }

    /// Lets go of those of whom this does not hold.
    pub fn retain(&mut self, mut holds: impl FnMut(&Admitted) -> bool) {
        self.all.retain(|_, held| holds(held));
    }
}

/// Whether there is room for this one.
fn full<T>(all: &BTreeMap<Key, T>, key: &Key) -> Result<(), Refusal> {
    if all.contains_key(key) {
        return Ok(());
    }
    let first = Key {
        digest: [0; 32],
        scope: None,
        ..key.clone()
    };
    let of_entry = all.range(first..).take_while(|(held, _)| held.entry == key.entry);
    if of_entry.count() >= MAX_ADMITTED_OF_ENTRY {
        let expected = format!("{MAX_ADMITTED_OF_ENTRY} below one authorization");
        return Err(Refusal::new(RefusalCode::EnforcerFull, expected, "one more"));
    }
    if all.len() >= MAX_ADMITTED {
        return Err(Refusal::new(RefusalCode::EnforcerFull, MAX_ADMITTED, "one more"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(authority: Option<&str>, index: usize, chain: usize) -> Key {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&chain.to_be_bytes());
        let entry = StatusIndex {
            list: 1,
            generation: 1,
            index: u32::try_from(index).unwrap(),
        };
        Key {
            entry: (authority.map(str::to_owned), entry),
            digest,
            scope: None,
        }
    }

    #[test]
    fn who_is_in_stays_in_and_who_has_its_share_gets_no_more() {
        const HOLDERS: usize = MAX_ADMITTED / MAX_ADMITTED_OF_ENTRY;
        let mut all = BTreeMap::new();
        let mut enter = |key: Key| full(&all, &key).map(|()| all.insert(key, ())).is_ok();
        for chain in 0..MAX_ADMITTED_OF_ENTRY {
            assert!(enter(key(None, 5, chain)));
        }
        for (name, key, expected) in [
            ("one more chain of the same entry", key(None, 5, 1_000), false),
            ("one before all others", key(None, 5, 0), true),
            ("one that is in", key(None, 5, 7), true),
            ("the entry after it", key(None, 6, 0), true),
            ("the entry before it", key(None, 4, 0), true),
            ("the same entry of another domain", key(Some("b.example"), 5, 0), true),
        ] {
            assert_eq!(enter(key), expected, "{name}");
        }
        for index in 100..100 + HOLDERS {
            for chain in 0..MAX_ADMITTED_OF_ENTRY {
                enter(key(None, index, chain));
            }
        }
        assert!(!enter(key(None, 1, 0)), "full");
        assert!(enter(key(None, 5, 7)), "one that is in, of a full guard");
        assert_eq!(all.len(), MAX_ADMITTED);
    }
}
