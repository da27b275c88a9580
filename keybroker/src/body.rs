//! Reads request bodies: of the right type, bounded in size and time, never a byte more.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::problem::{Refusal, RefusalCode};

/// The type of every message of the protocol.
pub const CBOR: &str = "application/cbor";

/// Of a body that is too large, this much is read and thrown away, so that the refusal arrives.
pub const MAX_DISCARDED_BYTES: usize = 32 * 1024 * 1024;

/// Bounds on one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Most bytes.
    pub bytes: usize,
    /// Most milliseconds until the last byte.
    pub ms: u64,
}

/// The body of a CBOR request.
///
/// # Errors
/// A [`Refusal`] that says which bound was passed, before the rest of the body is read.
pub async fn read_cbor(request: Request, limits: BodyLimits) -> Result<Bytes, Refusal> {
    content_type(request.headers())?;
    read_any(request, limits).await
}

/// The body of a request whose type says nothing: of formats that others have written down.
///
/// # Errors
/// As [`read_cbor`].
pub async fn read_any(request: Request, limits: BodyLimits) -> Result<Bytes, Refusal> {
    let announced = match announced(request.headers())? {
        Some(found) if found > limits.bytes => Err(too_large(limits.bytes)),
        _ => Ok(()),
    };
    let mut body = request.into_body();
    let (within, ms) = (Duration::from_millis(limits.ms), limits.ms);
    let read = match announced {
        Ok(()) => timeout(within, collect(&mut body, limits.bytes))
            .await
            .unwrap_or_else(|_| {
                let detail = format!("the body took longer than {ms} ms");
                Err(Refusal::new(RefusalCode::BodyTooSlow, detail))
            }),
        Err(refusal) => Err(refusal),
    };
    if matches!(&read, Err(refusal) if refusal.code == RefusalCode::BodyTooLarge) {
        // A connection closed on bytes that nobody read is reset, and the refusal lost on its way: the sender would see
        // a broken connection and try for ever. So a body that is only somewhat too large is read, and let go.
        let _ = timeout(within, discard(&mut body, MAX_DISCARDED_BYTES)).await;
    }
    read
}

fn content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut all = headers.get_all(header::CONTENT_TYPE).iter();
    match (all.next().map(|value| value.to_str()), all.next()) {
        (Some(Ok(found)), None) if found.eq_ignore_ascii_case(CBOR) => Ok(()),
        _ => Err(Refusal::new(
            RefusalCode::ContentType,
            format!("expected one Content-Type, {CBOR}"),
        )),
    }
}

/// The length that the head announces, where it does.
///
/// # Errors
/// A length that is no number: nobody knows then where the body ends.
pub fn announced(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    let found = length.to_str().ok().and_then(|text| text.parse::<usize>().ok());
    found.map(Some).ok_or_else(|| too_large(usize::MAX))
}

async fn collect(body: &mut Body, limit: usize) -> Result<Bytes, Refusal> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| Refusal::new(RefusalCode::BodyUnreadable, "the body broke off before its end"))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Reads on, until the end or `limit` bytes, and keeps nothing.
async fn discard(body: &mut Body, limit: usize) {
    let mut left = limit;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn too_large(limit: usize) -> Refusal {
    Refusal::new(RefusalCode::BodyTooLarge, format!("the limit is {limit} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BodyLimits = BodyLimits { bytes: 8, ms: 10_000 };

    fn request(content_type: &str, body: impl Into<Body>) -> Request {
        Request::post("/")
            .header(header::CONTENT_TYPE, content_type)
            .body(body.into())
            .unwrap()
    }

    async fn code(request: Request, limits: BodyLimits) -> Option<RefusalCode> {
        read_cbor(request, limits).await.err().map(|refusal| refusal.code)
    }

    #[tokio::test]
    async fn bodies_within_bounds_are_read_whole() {
        assert_eq!(read_cbor(request(CBOR, "12345678"), LIMITS).await.unwrap(), "12345678");
        assert_eq!(read_cbor(request("Application/CBOR", ""), LIMITS).await.unwrap(), "");
    }

    #[tokio::test]
    async fn what_is_out_of_bounds_is_refused() {
        let untyped = Request::post("/").body(Body::from("1")).unwrap();
        let mut twice = request(CBOR, "1");
        twice.headers_mut().append(header::CONTENT_TYPE, CBOR.parse().unwrap());
        let mut lying = request(CBOR, "1");
        lying.headers_mut().insert(header::CONTENT_LENGTH, "9".parse().unwrap());
        let chunks = futures_util::stream::iter((0..9).map(|_| Ok::<_, std::io::Error>("x")));
        let broken = futures_util::stream::iter([Ok("x"), Err(std::io::Error::other("gone"))]);
        for (name, request, expected) in [
            ("too large", request(CBOR, "123456789"), RefusalCode::BodyTooLarge),
            ("announced too large", lying, RefusalCode::BodyTooLarge),
            (
                "too large in chunks",
                request(CBOR, Body::from_stream(chunks)),
                RefusalCode::BodyTooLarge,
            ),
            (
                "broken off",
                request(CBOR, Body::from_stream(broken)),
                RefusalCode::BodyUnreadable,
            ),
            ("no type", untyped, RefusalCode::ContentType),
            ("two types", twice, RefusalCode::ContentType),
            (
                "another type",
                request("application/json", "1"),
                RefusalCode::ContentType,
            ),
            (
                "a parameter",
                request("application/cbor; a=b", "1"),
                RefusalCode::ContentType,
            ),
        ] {
            assert_eq!(code(request, LIMITS).await, Some(expected), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_refused() {
        let never = request(
            CBOR,
            Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>()),
        );
        assert_eq!(code(never, LIMITS).await, Some(RefusalCode::BodyTooSlow));
    }
}
