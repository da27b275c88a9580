//! Frames of another domain's trust state for our enforcers, made once for each head and not for each who asks.
//!
//! To make one may compress megabytes. So the whole one, and the first [`MAX_DELTAS`] changes that somebody needs, are
//! kept for as long as their head is the newest; who holds anything else is given the whole one. A heartbeat is its head.

use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::watch;
use touchstone_authorization::{ListHead, TrustFrame, TrustView};

use super::peer::frame_between;

/// Most changes, from different epochs, that are kept for a head.
pub const MAX_DELTAS: usize = 4;

/// A frame, and the event of a stream that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relayed {
    /// The frame.
    pub frame: Bytes,
    /// The event.
    pub event: Bytes,
}

impl Relayed {
    fn of(frame: &TrustFrame) -> Self {
        let frame = Bytes::from(frame.encode());
        let event = format!("event: frame\ndata: {}\n\n", URL_SAFE_NO_PAD.encode(&frame));
        Self {
            frame,
            event: event.into(),
        }
    }
}

#[derive(Debug, Default)]
struct Made {
    /// The head they lead to.
    head: Vec<u8>,
    whole: Option<Relayed>,
    beat: Option<Relayed>,
    /// By the epoch and the lists they begin at.
    deltas: Vec<((u64, Vec<ListHead>), Relayed)>,
}

/// What was made for the newest head.
#[derive(Debug, Default)]
pub struct Relay(tokio::sync::Mutex<Made>);

impl Relay {
    /// The frame that takes somebody who holds `sent` to `view`.
    pub async fn frame(&self, sent: Option<&Arc<TrustView>>, view: &Arc<TrustView>) -> Relayed {
        let sent = sent.filter(|sent| sent.head().generation == view.head().generation);
        let mut made = self.0.lock().await;
        if made.head != view.head_bytes() {
            *made = Made {
                head: view.head_bytes().to_vec(),
                ..Made::default()
            };
        }
        if let Some(sent) = sent.filter(|sent| sent.head().epoch == view.head().epoch) {
            let beat = || Relayed::of(&frame_between(Some(sent), view));
            return made.beat.get_or_insert_with(beat).clone();
        }
        let from = sent.map(|sent| ((sent.head().epoch, sent.head().lists.clone()), Arc::clone(sent)));
        if let Some((begin, sent)) = from {
            if let Some((_, delta)) = made.deltas.iter().find(|(from, _)| *from == begin) {
                return delta.clone();
            }
            if made.deltas.len() < MAX_DELTAS {
                let delta = make(Some(sent), Arc::clone(view)).await;
                made.deltas.push((begin, delta.clone()));
                return delta;
            }
        }
        if let Some(whole) = &made.whole {
            return whole.clone();
        }
        let whole = make(None, Arc::clone(view)).await;
        made.whole = Some(whole.clone());
        whole
    }
}

/// One who follows views as a stream of events. Who is slow gets the way from what it holds to what is newest.
pub(crate) struct Subscription {
    pub relay: Arc<Relay>,
    pub views: watch::Receiver<Option<Arc<TrustView>>>,
    /// True ends it.
    pub stop: watch::Receiver<bool>,
}

impl Subscription {
    /// The events, the whole state first. `place` is what it takes up, given back when it ends.
    pub fn events<P: Send + 'static>(self, place: P) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
        stream::unfold((self, None, place), |(mut following, mut sent, place)| async move {
            let event = following.next(&mut sent).await?;
            Some((Ok(event), (following, sent, place)))
        })
    }

    async fn next(&mut self, sent: &mut Option<Arc<TrustView>>) -> Option<Bytes> {
        loop {
            let view = self.views.borrow_and_update().clone();
            let is_news =
                |view: &Arc<TrustView>| sent.as_ref().is_none_or(|sent| sent.head_bytes() != view.head_bytes());
            if let Some(view) = view.filter(is_news) {
                let relayed = self.relay.frame(sent.as_ref(), &view).await;
                *sent = Some(view);
                return Some(relayed.event);
            }
            tokio::select! {
                _ = self.stop.wait_for(|stop| *stop) => return None,
                changed = self.views.changed() => changed.ok()?,
            }
        }
    }
}

/// Compresses where it holds nobody up.
async fn make(sent: Option<Arc<TrustView>>, view: Arc<TrustView>) -> Relayed {
    let (from, to) = (sent.clone(), Arc::clone(&view));
    let made = tokio::task::spawn_blocking(move || Relayed::of(&frame_between(from.as_deref(), &to)));
    match made.await {
        Ok(made) => made,
        // The runtime is ending.
        Err(_) => Relayed::of(&frame_between(sent.as_deref(), &view)),
    }
}
