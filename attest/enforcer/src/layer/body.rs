//! Bodies: of a request, read whole so that its digest can be held against the proof, or flowing, and then ended when the
//! right it rests on ends, as an answer's is.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::{BodyExt as _, Limited};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::reason::{AccessCode, Denied};
use crate::guard::{Hold, Standing};

/// What an HTTP library says when something went wrong.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Reads a body of at most `limit` bytes; gives it and its SHA-256.
pub(crate) async fn read<B>(body: B, limit: usize) -> Result<(Bytes, [u8; 32]), Denied>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX) > limit {
        return Err(Denied::access(
            AccessCode::BodyTooLarge,
            format!("more than {limit} bytes"),
        ));
    }
    match Limited::new(body, limit).collect().await {
        Ok(body) => {
            let bytes = body.to_bytes();
            let digest = Sha256::digest(&bytes).into();
            Ok((bytes, digest))
        }
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Denied::access(
            AccessCode::BodyTooLarge,
            format!("more than {limit} bytes"),
        )),
        Err(_) => Err(Denied::access(AccessCode::BodyUnreadable, "the connection broke")),
    }
}

/// A request's body or an answer was cut off because the right it rested on ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the authorization does not hold any more: {0}")]
pub struct CutOff(pub String);

/// Completes when the holder must stop.
type Stopped = Pin<Box<dyn Future<Output = String> + Send>>;

/// The right that a request rests on, in its extensions: for a service that goes on with it where no body is cut off, as in a
/// connection it has upgraded. Whoever keeps it keeps a place at the guard.
#[derive(Debug, Clone)]
pub struct Until(pub(super) Arc<Hold>);

impl Until {
    /// Completes when what rests on the right must stop: it was withdrawn or suspended, ran out, or nobody has said for too
    /// long that it stands. Gives every reason in words.
    pub async fn ended(&self) -> String {
        stopped(self.0.standing()).await
    }
}

/// A body that ends, with an error, when its holder must stop.
struct Held {
    body: Body,
    stopped: Stopped,
    why: Option<String>,
    /// Its place at the guard, given back when neither request nor answer flows any more.
    _hold: Arc<Hold>,
}

/// Lets `body` flow for as long as `hold` stands.
pub(super) fn while_held(body: Body, hold: Arc<Hold>) -> Body {
    Body::new(Held {
        body,
        stopped: Box::pin(stopped(hold.standing())),
        why: None,
        _hold: hold,
    })
}

async fn stopped(mut standing: watch::Receiver<Standing>) -> String {
    match standing
        .wait_for(|standing| !matches!(standing, Standing::Allowed { .. }))
        .await
    {
        Ok(standing) => {
            let reasons: Vec<String> = standing.reasons().iter().map(ToString::to_string).collect();
            reasons.join("; ")
        }
        Err(_) => "the guard has stopped".into(),
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        if self.why.is_none()
            && let Poll::Ready(why) = self.stopped.as_mut().poll(cx)
        {
            self.why = Some(why);
        }
        // Whoever reads on after the error is told again, never that the body was whole.
        if let Some(why) = self.why.clone() {
            return Poll::Ready(Some(Err(axum::Error::new(CutOff(why)))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
