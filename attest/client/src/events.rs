//! The trust-state stream: server-sent events whose data is one base64url frame each.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::ClientError;
use crate::connection::{Connection, MAX_ANSWER};

/// Frames as they arrive. Ends with an error when the broker closes the stream: whoever follows must resynchronise.
pub struct EventStream {
    // Held so that the connection lives as long as the stream.
    _connection: Connection,
    body: Incoming,
    buffer: Vec<u8>,
    /// How far no event ends in it: an endless one is not looked through again with every piece of it.
    seen: usize,
}

impl EventStream {
    pub(crate) fn new(connection: Connection, body: Incoming) -> Self {
        Self {
            _connection: connection,
            body,
            buffer: Vec::new(),
            seen: 0,
        }
    }

    /// The next frame (the bytes of a `TrustFrame`).
    ///
    /// # Errors
    /// [`ClientError::Answer`] when the stream ended, is malformed or sends an event over the size limit.
    pub async fn next(&mut self) -> Result<Vec<u8>, ClientError> {
        loop {
            if let Some(frame) = take_event(&mut self.buffer, &mut self.seen)? {
                return Ok(frame);
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err(malformed(format!("an event over {MAX_ANSWER} bytes")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(malformed(error.to_string())),
                None => return Err(malformed("the end of the stream".into())),
            }
        }
    }
}

fn malformed(found: String) -> ClientError {
    ClientError::Answer {
        path: "/v1/trust-state/stream",
        expected: "frame events, one after another",
        found,
    }
}

/// Takes one whole event off the front of `buffer`, if there is one with data; comments (keep-alives) are passed over. None
/// ends in the first `seen` bytes.
fn take_event(buffer: &mut Vec<u8>, seen: &mut usize) -> Result<Option<Vec<u8>>, ClientError> {
    while let Some(end) = end_of_event(buffer, *seen) {
        let event: Vec<u8> = buffer.drain(..end).collect();
        *seen = 0;
        let text = std::str::from_utf8(&event).map_err(|_| malformed("bytes that are not UTF-8".into()))?;
        let data: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .map(str::trim)
            .collect();
        if !data.is_empty() {
            let frame = URL_SAFE_NO_PAD
                .decode(data.concat())
                .map_err(|error| malformed(error.to_string()))?;
            return Ok(Some(frame));
        }
    }
    *seen = buffer.len();
    Ok(None)
}

/// Where the first event ends: behind an empty line, whose first byte may have been the last that was seen.
fn end_of_event(buffer: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(1);
    let mut pairs = buffer.get(from..)?.windows(2);
    pairs.position(|pair| pair == b"\n\n").map(|at| from + at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_whole(mut buffer: Vec<u8>) -> Result<Option<Vec<u8>>, ClientError> {
        take_event(&mut buffer, &mut 0)
    }

    #[test]
    fn events_are_taken_whole_and_in_order() {
        let mut buffer = b": keep-alive\n\nevent: frame\ndata: AQI\n\nevent: frame\ndata: Aw\n\nevent: fr".to_vec();
        let mut seen = 0;
        assert_eq!(take_event(&mut buffer, &mut seen), Ok(Some(vec![1, 2])));
        assert_eq!(take_event(&mut buffer, &mut seen), Ok(Some(vec![3])));
        assert_eq!(take_event(&mut buffer, &mut seen), Ok(None));
        assert_eq!((buffer.as_slice(), seen), (&b"event: fr"[..], 9));
    }

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let sent = b": keep-alive\n\nevent: frame\ndata: AQI\n\n\n\ndata: Aw\n\n".as_slice();
        for first in 0..sent.len() {
            for second in first..sent.len() {
                let (mut buffer, mut seen, mut frames) = (Vec::new(), 0, Vec::new());
                for piece in [&sent[..first], &sent[first..second], &sent[second..]] {
                    buffer.extend_from_slice(piece);
                    while let Some(frame) = take_event(&mut buffer, &mut seen).expect("events") {
                        frames.push(frame);
                    }
                }
                assert_eq!(frames, [vec![1, 2], vec![3]], "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn malformed_data_ends_the_stream() {
        assert!(take_whole(b"data: !!!\n\n".to_vec()).is_err());
        assert!(take_whole(b"data: \xff\n\n".to_vec()).is_err());
    }
}
