//! Following one domain's trust state: under the keys of its repository, into the views of its root.

use std::sync::Arc;

use touchstone_client::follow::{Follower, Source, Views};

use super::peer::{Held, Peer};

/// Who follows a domain, under what, and where the views go. `W` is what it is followed by: keys, and whom to ask.
#[derive(Debug)]
pub(crate) struct Following<W> {
    pub(crate) follower: Option<Follower>,
    wanted: Option<W>,
    views: Option<Views>,
}

impl<W> Default for Following<W> {
    fn default() -> Self {
        Self {
            follower: None,
            wanted: None,
            views: None,
        }
    }
}

impl<W: PartialEq> Following<W> {
    /// Goes on as `wanted`, into the views that the domain's state is read from now. Where both are what they were, nothing
    /// happens; `source` is asked otherwise, and gives none where there is nobody to follow.
    pub fn look(
        &mut self,
        peer: &Peer,
        held: &Held,
        wanted: W,
        source: impl FnOnce(&Held) -> Result<Option<Source>, String>,
    ) {
        let views = peer.views();
        // Keys of another root are there a moment before its views are: whoever was bound in between puts them where nobody
        // looks, so where they go is compared each time.
        if self.views.as_ref().is_none_or(|bound| !Arc::ptr_eq(bound, &views)) {
            *self = Self {
                views: Some(Arc::clone(&views)),
                ..Self::default()
            };
        }
        if self.wanted.as_ref() == Some(&wanted) {
            return;
        }
        match source(held) {
            Ok(Some(source)) => match &self.follower {
                Some(follower) => follower.change(source),
                None => self.follower = Some(Follower::start_into(source, views)),
            },
            Ok(None) => self.follower = None,
            Err(error) => tracing::warn!(domain = peer.name(), error, "another domain cannot be followed"),
        }
        self.wanted = Some(wanted);
    }
}
