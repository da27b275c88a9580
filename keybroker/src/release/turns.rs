//! Whose turn it is. Every release, and every use that is reported, is counted in the tree of its node, so of many that are
//! decided at once on one tree only one can be committed: the others are decided again, one after the other, and not all at
//! once again and again.

use tokio::sync::{Mutex, MutexGuard};
use touchstone_authorization::StatusIndex;

use crate::trust::number;

/// Trees that share a turn wait for each other, which costs time and decides nothing.
const TURNS: u64 = 64;

/// The turns of all trees.
#[derive(Debug)]
pub struct Turns([Mutex<()>; TURNS as usize]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }
}

impl Turns {
    /// Waits for the turn of the tree below this entry of a node; it lasts until what is given back is dropped.
    pub async fn of(&self, root: &StatusIndex) -> Option<MutexGuard<'_, ()>> {
        let place = usize::try_from(number(root) % TURNS).ok()?;
        Some(self.0.get(place)?.lock().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::place;

    #[tokio::test]
    async fn one_tree_has_one_turn_and_another_tree_does_not_wait_for_it() {
        let turns = Turns::default();
        let [one, other] = [1, 2].map(|n| place(n, 1).unwrap());
        let held = turns.of(&one).await;
        assert!(held.is_some());
        assert!(turns.of(&other).await.is_some());
        let mut waiting = Box::pin(turns.of(&one));
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("two have the turn of one tree"),
            () = std::future::ready(()) => {}
        }
        drop(held);
        assert!(waiting.await.is_some());
    }
}
